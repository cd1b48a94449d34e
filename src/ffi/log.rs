//! The log, and the one callback of the interface.

use std::ffi::{c_char, c_void};

use log::{Level, LevelFilter};

use super::c_string;
use super::status::{guard, slim_status};
use crate::error::Error;
use crate::logging::{self, Sink};

/// How much is logged: each level includes the ones before it.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(dead_code)] // C passes the numbers
pub enum slim_log_level {
    /// Nothing.
    SLIM_LOG_OFF = 0,
    /// What failed for good.
    SLIM_LOG_ERROR = 1,
    /// What somebody should look at.
    SLIM_LOG_WARN = 2,
    /// Connections that come and go.
    SLIM_LOG_INFO = 3,
    /// What happens to single messages that are dropped.
    SLIM_LOG_DEBUG = 4,
    /// Everything.
    SLIM_LOG_TRACE = 5,
}

/// Receives one log line. `target` and `message` are NUL-terminated and valid during the call.
///
/// It is called from any thread, the library's own included, also from several at once. It must
/// not block: calls that would have to wait return SLIM_ERR_NOT_ALLOWED in it, and what they log is
/// dropped. A child that it forks must not return from it.
///
/// Secrets, tokens and payloads are never logged.
pub type slim_log_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        level: i32,
        target: *const c_char,
        message: *const c_char,
    ),
>;

/// The program's pointer, which it gets back.
struct User(*mut c_void);

// SAFETY: nobody here looks at it; the header says that the callback is called from any thread.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

/// Sets who receives the log of the whole process, and up to which slim_log_level.
///
/// NULL for `callback` writes to standard error. Until the first call nothing is logged, unless
/// the environment variable SLIM_LOG names a level. When the call returns, the callback that was
/// set before is no longer running, in any thread; made from inside that callback, the call waits
/// for its runs in other threads only.
/// Errors: INVALID_ARGUMENT.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_log_set(
    level: i32,
    callback: slim_log_fn,
    user: *mut c_void,
) -> slim_status {
    guard(|| {
        let level = match level {
            0 => LevelFilter::Off,
            1 => LevelFilter::Error,
            2 => LevelFilter::Warn,
            3 => LevelFilter::Info,
            4 => LevelFilter::Debug,
            5 => LevelFilter::Trace,
            other => {
                let text = format!("level is {other}: 0 (off) to 5 (trace) is expected");
                return Err(Error::InvalidArgument(text));
            }
        };
        let user = User(user);
        let sink = match callback {
            None => Sink::StandardError,
            Some(callback) => Sink::Callback(Box::new(move |level, target, text| {
                let user = &user;
                let (target, text) = (c_string(target), c_string(text));
                let level = match level {
                    Level::Error => 1,
                    Level::Warn => 2,
                    Level::Info => 3,
                    Level::Debug => 4,
                    Level::Trace => 5,
                };
                // SAFETY: the program promised a function of this kind.
                unsafe { callback(user.0, level, target.as_ptr(), text.as_ptr()) };
            })),
        };
        logging::set(level, sink);
        Ok(())
    })
}
