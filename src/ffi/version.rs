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
