//! Operations that go on behind the program's back.

use super::status::{guard, slim_status};
use super::{free, handle, timeout, Handle, Process};
use crate::api::Op;

/// Something that was started and has not been waited for.
pub struct slim_op {
    op: Op,
    process: Process,
}

impl Handle for slim_op {
    fn process(&self) -> &Process {
        &self.process
    }
}

impl slim_op {
    pub(super) fn new(op: Op) -> slim_op {
        slim_op { op, process: Process::this() }
    }
}

/// Waits until the operation has ended and returns how, at most `timeout_ms`.
///
/// It may be called again, and by several threads: each gets the same answer.
/// Errors: TIMEOUT (it goes on), and those of the call that started it.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_op_wait(op: *mut slim_op, timeout_ms: i32) -> slim_status {
    // SAFETY: promised by the caller.
    guard(|| unsafe { handle(op, "op")? }.op.wait(timeout(timeout_ms)?))
}

/// Asks that `tag` be put on the app's list when the operation ends: see slim_app_next_done(). At
/// once if it has ended already.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_op_notify(op: *mut slim_op, tag: u64) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        unsafe { handle(op, "op")? }.op.notify(tag);
        Ok(())
    })
}

/// Frees the handle. The operation itself goes on. NULL is allowed.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_op_free(op: *mut slim_op) {
    // SAFETY: promised by the caller.
    unsafe { free(op) };
}
