//! Statuses, the text of the last error, and the wall that no panic passes.

use std::cell::RefCell;
use std::ffi::{c_char, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};

use super::c_string;
use crate::error::{Error, Result};

/// Result of almost every call: SLIM_OK, or a negative code.
///
/// The numbers never change and are never reused; later releases may add codes, so a switch needs
/// a default.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// One is for what is not there yet; its number is taken.
#[allow(dead_code)]
pub enum slim_status {
    /// The call did what it says.
    SLIM_OK = 0,
    /// A pointer is NULL, a string is not UTF-8, a number is out of range, a struct size is wrong.
    SLIM_ERR_INVALID_ARGUMENT = -1,
    /// A name is not "org/namespace/service" or "org/namespace/service/ID".
    SLIM_ERR_INVALID_NAME = -2,
    /// A JSON text does not parse, or a key or value in it is not accepted.
    SLIM_ERR_INVALID_CONFIG = -3,
    /// The time given to the call ran out; with a time of 0, nothing was ready.
    SLIM_ERR_TIMEOUT = -4,
    /// The handle, its session or its node has been closed, by this side or by the peer.
    SLIM_ERR_CLOSED = -5,
    /// No such connection, subscription, route or participant.
    SLIM_ERR_NOT_FOUND = -6,
    /// The participant, subscription or listener is there already.
    SLIM_ERR_EXISTS = -7,
    /// Not possible for this kind of session, in its present state, for a non-moderator, or in a log
    /// callback.
    SLIM_ERR_NOT_ALLOWED = -8,
    /// A payload, a name or a metadata entry is over its limit.
    SLIM_ERR_TOO_LARGE = -9,
    /// A queue or table is at its limit.
    SLIM_ERR_LIMIT = -10,
    /// The endpoint could not be resolved, or could not be connected to.
    SLIM_ERR_CONNECT = -11,
    /// The TLS handshake failed, or a certificate or key could not be used. Not in this version.
    SLIM_ERR_TLS = -12,
    /// An identity or token was rejected, here or by the node.
    SLIM_ERR_AUTH = -13,
    /// The peer sent something that the protocol does not allow.
    SLIM_ERR_PROTOCOL = -14,
    /// An MLS group could not be set up or changed, or this side is not in it any more.
    SLIM_ERR_MLS = -15,
    /// Nobody valid answered for a name: no such app, or one with another secret.
    SLIM_ERR_NO_ROUTE = -16,
    /// The message was not acknowledged in all its tries. It may have arrived all the same.
    SLIM_ERR_UNDELIVERED = -18,
    /// The operating system refused something; slim_last_error() has its words.
    SLIM_ERR_IO = -19,
    /// This version does not do that.
    SLIM_ERR_UNSUPPORTED = -20,
    /// The handle was made before fork() and is used in the child.
    SLIM_ERR_FORKED = -21,
    /// A bug in libslim was caught. The node involved is dead: free its handles.
    SLIM_ERR_INTERNAL = -22,
}

use slim_status::*;

impl From<&Error> for slim_status {
    fn from(error: &Error) -> slim_status {
        match error {
            Error::InvalidArgument(_) => SLIM_ERR_INVALID_ARGUMENT,
            Error::InvalidName(_) => SLIM_ERR_INVALID_NAME,
            Error::InvalidConfig(_) => SLIM_ERR_INVALID_CONFIG,
            Error::Timeout(_) => SLIM_ERR_TIMEOUT,
            Error::Closed(_) => SLIM_ERR_CLOSED,
            Error::NotFound(_) => SLIM_ERR_NOT_FOUND,
            Error::Exists(_) => SLIM_ERR_EXISTS,
            Error::NotAllowed(_) => SLIM_ERR_NOT_ALLOWED,
            Error::TooLarge { .. } => SLIM_ERR_TOO_LARGE,
            Error::Limit(_) => SLIM_ERR_LIMIT,
            Error::Connect(_) => SLIM_ERR_CONNECT,
            Error::Auth(_) => SLIM_ERR_AUTH,
            Error::Protocol(_) => SLIM_ERR_PROTOCOL,
            Error::Mls(_) => SLIM_ERR_MLS,
            Error::NoRoute(_) => SLIM_ERR_NO_ROUTE,
            Error::Undelivered(_) => SLIM_ERR_UNDELIVERED,
            Error::Io(_) => SLIM_ERR_IO,
            Error::Unsupported(_) => SLIM_ERR_UNSUPPORTED,
            Error::Forked => SLIM_ERR_FORKED,
            Error::Internal(_) => SLIM_ERR_INTERNAL,
        }
    }
}

/// Name of a status, for example "SLIM_ERR_TIMEOUT". The string is static; never NULL.
#[no_mangle]
pub extern "C" fn slim_status_name(status: i32) -> *const c_char {
    let name = match status {
        0 => c"SLIM_OK",
        -1 => c"SLIM_ERR_INVALID_ARGUMENT",
        -2 => c"SLIM_ERR_INVALID_NAME",
        -3 => c"SLIM_ERR_INVALID_CONFIG",
        -4 => c"SLIM_ERR_TIMEOUT",
        -5 => c"SLIM_ERR_CLOSED",
        -6 => c"SLIM_ERR_NOT_FOUND",
        -7 => c"SLIM_ERR_EXISTS",
        -8 => c"SLIM_ERR_NOT_ALLOWED",
        -9 => c"SLIM_ERR_TOO_LARGE",
        -10 => c"SLIM_ERR_LIMIT",
        -11 => c"SLIM_ERR_CONNECT",
        -12 => c"SLIM_ERR_TLS",
        -13 => c"SLIM_ERR_AUTH",
        -14 => c"SLIM_ERR_PROTOCOL",
        -15 => c"SLIM_ERR_MLS",
        -16 => c"SLIM_ERR_NO_ROUTE",
        -18 => c"SLIM_ERR_UNDELIVERED",
        -19 => c"SLIM_ERR_IO",
        -20 => c"SLIM_ERR_UNSUPPORTED",
        -21 => c"SLIM_ERR_FORKED",
        -22 => c"SLIM_ERR_INTERNAL",
        _ => c"SLIM_ERR_UNKNOWN",
    };
    name.as_ptr()
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::new(CString::default());
}

/// What went wrong in the last call on this thread that returned an error.
///
/// One line of UTF-8 without a final newline; "" when nothing has failed yet. Never NULL. The
/// string stays valid until the next slim call on this thread. Calls that succeed leave it as it
/// was, so look at it only after an error.
#[no_mangle]
pub extern "C" fn slim_last_error() -> *const c_char {
    // A thread that ends, or a process that exits, has none any more.
    LAST_ERROR.try_with(|text| text.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// Runs one call: its error becomes a status and the thread's text, its panic an internal error.
pub(super) fn guard(call: impl FnOnce() -> Result<()>) -> slim_status {
    match run(call) {
        Ok(()) => SLIM_OK,
        Err(status) => status,
    }
}

/// The same for a call that gives a number which is never negative.
pub(super) fn guard_number(call: impl FnOnce() -> Result<i32>) -> i32 {
    run(call).unwrap_or_else(|status| status as i32)
}

fn run<T>(call: impl FnOnce() -> Result<T>) -> std::result::Result<T, slim_status> {
    let result = catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(Error::Internal("a bug in libslim was caught".to_owned())));
    result.map_err(|error| {
        let text = error.to_string().replace('\n', " ");
        let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = c_string(&text));
        slim_status::from(&error)
    })
}

/// Runs a call that cannot say that it failed.
pub(super) fn guard_quiet<T>(otherwise: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(otherwise)
}
