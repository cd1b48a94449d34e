//! The C interface (`include/slim.h`): thin functions on the blocking Rust API.
//!
//! Pointers are checked, arguments copied, panics stopped here. The order of these modules is the
//! order of the header.

#![allow(non_camel_case_types)]

mod version;

mod status;

mod log;

mod node;

mod app;

mod session;

mod participants;

mod message;

mod op;

use std::collections::BTreeMap;
use std::ffi::{c_char, CStr, CString};
use std::mem::ManuallyDrop;
use std::time::Duration;

use crate::api::Direction;
use crate::error::{Error, Result};
use crate::limits;
use crate::session::check_metadata_len;

/// One entry of metadata. Both strings are UTF-8 and NUL-terminated.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct slim_pair {
    /// What it is called.
    pub key: *const c_char,
    /// What it says.
    pub value: *const c_char,
}

/// Reads a string argument.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that is valid during the call.
unsafe fn string<'a>(text: *const c_char, what: &str) -> Result<&'a str> {
    // SAFETY: promised by the caller.
    unsafe { optional_string(text, what)? }
        .ok_or_else(|| Error::InvalidArgument(format!("{what} is NULL")))
}

/// Reads a string argument that may be NULL.
///
/// # Safety
/// As for [`string`].
unsafe fn optional_string<'a>(text: *const c_char, what: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: promised by the caller.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_str().map_err(|_| {
        Error::InvalidArgument(format!("{what} {:?} is not UTF-8", text.to_string_lossy()))
    })?;
    Ok(Some(text))
}

/// The process that a handle was made in. In a child of fork() it is of no use.
struct Process(u32);

impl Process {
    fn this() -> Process {
        Process(crate::driver::generation())
    }

    fn is_this(&self) -> bool {
        self.0 == crate::driver::generation()
    }
}

/// What stands behind an opaque pointer.
trait Handle {
    /// Where it was made.
    fn process(&self) -> &Process;
}

/// Reads a handle argument.
///
/// # Safety
/// `handle` is NULL, or came from this library and is not yet freed.
unsafe fn handle<'a, T: Handle>(handle: *const T, what: &str) -> Result<&'a T> {
    // SAFETY: promised by the caller.
    let handle = unsafe { handle.as_ref() }
        .ok_or_else(|| Error::InvalidArgument(format!("{what} is NULL")))?;
    match handle.process().is_this() {
        true => Ok(handle),
        false => Err(Error::Forked),
    }
}

/// Gives a new handle out.
///
/// # Safety
/// `place` may be written to.
unsafe fn give<T: Handle>(place: *mut *mut T, handle: T) {
    // SAFETY: promised by the caller.
    unsafe { place.write(Box::into_raw(Box::new(handle))) };
}

/// Frees a handle. In a child of fork() nothing but its memory is freed: what it shares with the
/// parent's threads may have been in use at that moment.
///
/// # Safety
/// `handle` is NULL, or came from [`give`] and is freed once.
unsafe fn free<T: Handle>(handle: *mut T) {
    if handle.is_null() {
        return;
    }
    status::guard_quiet((), || {
        // SAFETY: promised by the caller.
        let handle = unsafe { Box::from_raw(handle) };
        if !handle.process().is_this() {
            // SAFETY: ManuallyDrop has the layout of what it holds.
            drop(unsafe { Box::<ManuallyDrop<T>>::from_raw(Box::into_raw(handle).cast()) });
        }
    });
}

/// Checks the place for a result before anything is done.
fn place<T>(place: *mut T, what: &str) -> Result<*mut T> {
    match place.is_null() {
        true => Err(Error::InvalidArgument(format!("{what} is NULL"))),
        false => Ok(place),
    }
}

/// Reads a time argument: milliseconds, or -1 for no limit.
fn timeout(timeout_ms: i32) -> Result<Option<Duration>> {
    match u64::try_from(timeout_ms) {
        Ok(ms) => Ok(Some(Duration::from_millis(ms))),
        Err(_) if timeout_ms == -1 => Ok(None),
        Err(_) => Err(Error::InvalidArgument(format!(
            "timeout_ms is {timeout_ms}: 0 or more, or SLIM_WAIT_FOREVER (-1), is expected"
        ))),
    }
}

/// Reads metadata.
///
/// # Safety
/// `pairs` points to `len` pairs of valid strings, or `len` is 0.
unsafe fn pairs(pairs: *const slim_pair, len: usize) -> Result<BTreeMap<String, String>> {
    if len == 0 {
        return Ok(BTreeMap::new());
    }
    if pairs.is_null() {
        let text = format!("metadata is NULL, but metadata_len is {len}");
        return Err(Error::InvalidArgument(text));
    }
    check_metadata_len(len)?;
    // SAFETY: promised by the caller.
    let pairs = unsafe { std::slice::from_raw_parts(pairs, len) };
    let mut map = BTreeMap::new();
    for pair in pairs {
        // SAFETY: promised by the caller.
        let (key, value) = unsafe {
            (string(pair.key, "a metadata key")?, string(pair.value, "a metadata value")?)
        };
        if map.insert(key.to_owned(), value.to_owned()).is_some() {
            let text = format!("the metadata key {key:?} is there twice");
            return Err(Error::InvalidArgument(text));
        }
    }
    Ok(map)
}

/// Reads a struct whose first field is its size, as the caller was compiled (rule A8 of the
/// interface): a newer caller's extra fields must be zero.
///
/// # Safety
/// `from` is NULL, or points to a struct that begins with a `u32` which says how long it is.
unsafe fn sized<T: Copy>(from: *const T, what: &str) -> Result<Option<T>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: promised by the caller.
    let size = unsafe { from.cast::<u32>().read() } as usize;
    let known = size_of::<T>();
    if !(known..=limits::OPTIONS_SIZE).contains(&size) {
        let most = limits::OPTIONS_SIZE;
        let text = format!("{what}.size is {size}, {known} to {most} is expected");
        return Err(Error::InvalidArgument(text));
    }
    // SAFETY: the struct is as long as it says.
    let extra = unsafe { std::slice::from_raw_parts(from.cast::<u8>().add(known), size - known) };
    if extra.iter().any(|byte| *byte != 0) {
        let text = format!("{what} has fields that this version does not know");
        return Err(Error::Unsupported(text));
    }
    // SAFETY: checked to be long enough.
    Ok(Some(unsafe { from.read() }))
}

/// Which way data goes, as a number.
fn direction(value: i32, what: &str) -> Result<Direction> {
    match value {
        0 => Ok(Direction::Both),
        1 => Ok(Direction::SendOnly),
        2 => Ok(Direction::ReceiveOnly),
        3 => Ok(Direction::Neither),
        other => Err(Error::InvalidArgument(format!("{what} is {other}, which means nothing"))),
    }
}

/// Checks the size in a struct that is to be filled.
///
/// # Safety
/// As for [`sized`].
unsafe fn check_fields_size<T>(fields: *mut T, what: &str) -> Result<()> {
    place(fields, what)?;
    // SAFETY: promised by the caller.
    let size = unsafe { fields.cast::<u32>().read() } as usize;
    match size >= size_of::<T>() {
        true => Ok(()),
        false => Err(Error::InvalidArgument(format!(
            "{what}->size is {size}, at least {} is expected",
            size_of::<T>()
        ))),
    }
}

/// A string for C. Names and the like may come from the network: a NUL in them ends the string.
fn c_string(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

/// Metadata for C, with the strings that it points to.
struct CPairs {
    _strings: Vec<(CString, CString)>,
    pairs: Vec<slim_pair>,
}

impl CPairs {
    fn new(map: &BTreeMap<String, String>) -> CPairs {
        let strings: Vec<_> =
            map.iter().map(|(key, value)| (c_string(key), c_string(value))).collect();
        let pair = |(key, value): &(CString, CString)| slim_pair {
            key: key.as_ptr(),
            value: value.as_ptr(),
        };
        let pairs = strings.iter().map(pair).collect();
        CPairs { _strings: strings, pairs }
    }

    /// NULL if there are none.
    fn pointer(&self) -> *const slim_pair {
        match &self.pairs[..] {
            [] => std::ptr::null(),
            pairs => pairs.as_ptr(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_is_read_up_to_a_limit_and_no_further() {
        let mut memory = vec![0_u64; limits::OPTIONS_SIZE / 8 + 1];
        for (size, good) in [(4, true), (8, true), (limits::OPTIONS_SIZE, true)]
            .into_iter()
            .chain([(3, false), (limits::OPTIONS_SIZE + 1, false), (u32::MAX as usize, false)])
        {
            memory[0] = size as u64;
            // SAFETY: the memory is as long as the limit, and longer sizes are refused.
            let read = unsafe { sized(memory.as_ptr().cast::<u32>(), "options") };
            match read {
                Ok(read) => assert!(good && read == Some(size as u32), "{size}"),
                Err(error) => {
                    assert!(!good && error.to_string().contains(&size.to_string()), "{error}");
                }
            }
        }
    }
}
