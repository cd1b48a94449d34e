//! Who takes part in a session.

use std::ffi::{c_char, CString};
use std::ptr;

use super::{c_string, free, Handle, Process};
use crate::api::Participant;

/// The members of a session at one moment.
pub struct slim_participants {
    list: Vec<(CString, bool)>,
    process: Process,
}

impl Handle for slim_participants {
    fn process(&self) -> &Process {
        &self.process
    }
}

impl slim_participants {
    pub(super) fn new(list: &[Participant]) -> slim_participants {
        let each = |one: &Participant| (c_string(&one.name.to_string()), one.online);
        slim_participants { list: list.iter().map(each).collect(), process: Process::this() }
    }
}

/// Number of participants in the list; 0 for NULL.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_participants_count(participants: *const slim_participants) -> usize {
    // SAFETY: promised by the caller.
    unsafe { participants.as_ref() }.map_or(0, |participants| participants.list.len())
}

/// Full name of one participant, valid until the list is freed; NULL if there is no such index.
/// `online`, unless NULL, receives 1 if it can be reached, 0 if it is known to be away.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_participants_at(
    participants: *const slim_participants,
    index: usize,
    online: *mut i32,
) -> *const c_char {
    // SAFETY: promised by the caller.
    let participants = unsafe { participants.as_ref() };
    let Some((name, is_online)) = participants.and_then(|list| list.list.get(index)) else {
        return ptr::null();
    };
    if !online.is_null() {
        // SAFETY: promised by the caller.
        unsafe { online.write(i32::from(*is_online)) };
    }
    name.as_ptr()
}

/// Frees the list. NULL is allowed.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_participants_free(participants: *mut slim_participants) {
    // SAFETY: promised by the caller.
    unsafe { free(participants) };
}
