//! One fuzzer for each target: cargo-fuzz builds this file under the name of each.
#![no_main]

mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let name = env!("CARGO_BIN_NAME");
    match targets::TARGETS.iter().find(|(target, _)| *target == name) {
        Some((_, target)) => target(data),
        None => panic!("no target {name}"),
    }
});
