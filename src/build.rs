//! What the library says of itself, and the link arguments of `libslim.so`: its SONAME (the number of the ABI, not of the version), no
//! unloading (the library has threads and thread-locals), and no lazy binding.

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    for (name, of) in [("SLIM_TARGET", "TARGET"), ("SLIM_PROFILE", "PROFILE")] {
        println!("cargo::rustc-env={name}={}", std::env::var(of).unwrap_or_default());
    }
    let target_os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target_os == "linux" || target_os == "freebsd" {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libslim.so.0");
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete,-z,now");
    }
}
