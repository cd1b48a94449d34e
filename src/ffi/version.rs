//! Which library this is.

use std::ffi::c_char;

/// Version of the library that is loaded, for example "0.1.0".
///
/// The string is static. Compare with SLIM_VERSION to find a program that was compiled against
/// another release than the one it runs with.
#[no_mangle]
pub extern "C" fn slim_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Version of the loaded library as a number, laid out like SLIM_VERSION_NUMBER.
#[no_mangle]
pub extern "C" fn slim_version_number() -> u32 {
    const NUMBER: u32 = part(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | part(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | part(env!("CARGO_PKG_VERSION_PATCH"));
    NUMBER
}

/// Not a number up to 255: the library is not built.
const fn part(text: &str) -> u32 {
    let mut number = 0;
    let digits = text.as_bytes();
    let mut at = 0;
    while at < digits.len() {
        number = number * 10 + (digits[at] - b'0') as u32;
        at += 1;
    }
    assert!(number <= 255);
    number
}

/// What the library was built from, for bug reports: "libslim/0.1.0 slim-protocol/3.4.6 ...".
///
/// The string is static. Its format is for people, not for programs.
#[no_mangle]
pub extern "C" fn slim_build_info() -> *const c_char {
    concat!(
        "libslim/",
        env!("CARGO_PKG_VERSION"),
        " slim-protocol/3.4.6 ",
        env!("SLIM_TARGET"),
        " ",
        env!("SLIM_PROFILE"),
        "\0"
    )
    .as_ptr()
    .cast()
}
