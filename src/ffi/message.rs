//! Messages and events.

use std::ffi::{c_char, c_void, CString};
use std::ptr;

use super::status::{guard, slim_status};
use super::{c_string, check_fields_size, free, handle, slim_pair, CPairs, Handle, Process};
use crate::api::{Event, Item, Message};
use crate::error::{Error, Result};

/// What slim_session_receive() gave. Other kinds than 0 only come from sessions that asked for
/// events; later releases may add some.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum slim_message_kind {
    /// A message.
    SLIM_MESSAGE = 0,
    /// The peer named by `source` does not answer any more.
    SLIM_EVENT_PEER_OFFLINE = 1,
    /// It is back.
    SLIM_EVENT_PEER_ONLINE = 2,
    /// It has left.
    SLIM_EVENT_PEER_LEFT = 3,
    /// The link of the session is gone. One that this side dialled is made again, unless it was
    /// disconnected, refused, or has no attempts left.
    SLIM_EVENT_CONNECTION_LOST = 4,
    /// It is back.
    SLIM_EVENT_CONNECTION_BACK = 5,
    /// A message of the peer named by `source` cannot be had any more.
    SLIM_EVENT_MESSAGE_LOST = 6,
    /// The session is over; the data is the reason, as text.
    SLIM_EVENT_SESSION_CLOSED = 7,
    /// This side does not follow an encrypted session any more; the data says why and what to do,
    /// as text.
    SLIM_EVENT_ENCRYPTION_LOST = 8,
}

/// A received message.
pub struct slim_message {
    item: Item,
    kind: slim_message_kind,
    source: CString,
    destination: CString,
    payload_type: CString,
    identity: CString,
    metadata: CPairs,
    process: Process,
}

impl Handle for slim_message {
    fn process(&self) -> &Process {
        &self.process
    }
}

/// What came with a message. The pointers are valid until the message is freed.
#[repr(C)]
pub struct slim_message_fields {
    /// sizeof(slim_message_fields), as the caller was compiled; set it before the call.
    pub size: u32,
    /// A slim_message_kind.
    pub kind: i32,
    /// 1 if the message was sent to this member of a group alone with slim_session_publish_to(); 0
    /// in other sessions.
    pub is_reply: i32,
    /// The payload; NULL if it is empty.
    pub data: *const c_void,
    /// Length of the payload in bytes.
    pub data_len: usize,
    /// Full name of the sender.
    pub source: *const c_char,
    /// Name that it was sent to.
    pub destination: *const c_char,
    /// What the sender says that the payload is.
    pub payload_type: *const c_char,
    /// The sender's identity, proved by its keys in a session with MLS; else "".
    pub identity: *const c_char,
    /// The connection that it came over.
    pub connection: u64,
    /// Pairs that travelled with the message; NULL if there are none.
    pub metadata: *const slim_pair,
    /// Number of pairs.
    pub metadata_len: usize,
}

impl slim_message {
    pub(super) fn new(item: Item) -> slim_message {
        use slim_message_kind::*;
        let none = Default::default();
        let (kind, source, message) = match &item {
            Item::Message(message) => (SLIM_MESSAGE, message.source.to_string(), Some(message)),
            Item::Event(event) => match event {
                Event::PeerOffline(name) => (SLIM_EVENT_PEER_OFFLINE, name.to_string(), None),
                Event::PeerOnline(name) => (SLIM_EVENT_PEER_ONLINE, name.to_string(), None),
                Event::PeerLeft(name) => (SLIM_EVENT_PEER_LEFT, name.to_string(), None),
                Event::ConnectionLost(_) => (SLIM_EVENT_CONNECTION_LOST, String::new(), None),
                Event::ConnectionBack(_) => (SLIM_EVENT_CONNECTION_BACK, String::new(), None),
                Event::MessageLost { source, .. } => {
                    (SLIM_EVENT_MESSAGE_LOST, source.to_string(), None)
                }
                Event::EncryptionLost(_) => (SLIM_EVENT_ENCRYPTION_LOST, String::new(), None),
                Event::Closed(_) => (SLIM_EVENT_SESSION_CLOSED, String::new(), None),
            },
        };
        let text = |part: fn(&Message) -> String| {
            message.map_or_else(CString::default, |message| c_string(&part(message)))
        };
        slim_message {
            kind,
            source: c_string(&source),
            destination: text(|message| message.destination.to_string()),
            payload_type: text(|message| message.payload_type.clone()),
            identity: text(|message| message.identity.clone()),
            metadata: CPairs::new(message.map_or(&none, |message| &message.metadata)),
            item,
            process: Process::this(),
        }
    }

    /// The message, if it is not an event.
    pub(super) fn message(&self) -> Result<&Message> {
        match &self.item {
            Item::Message(message) => Ok(message),
            Item::Event(event) => {
                Err(Error::InvalidArgument(format!("message is an event ({event:?})")))
            }
        }
    }

    fn data(&self) -> &[u8] {
        match &self.item {
            Item::Message(message) => &message.payload,
            Item::Event(Event::Closed(reason) | Event::EncryptionLost(reason)) => reason.as_bytes(),
            Item::Event(_) => &[],
        }
    }

    fn data_pointer(&self) -> *const c_void {
        match self.data() {
            [] => ptr::null(),
            data => data.as_ptr().cast(),
        }
    }
}

/// The payload, valid until the message is freed; `len`, unless NULL, receives its length. NULL if
/// it is empty.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_message_data(
    message: *const slim_message,
    len: *mut usize,
) -> *const c_void {
    // SAFETY: promised by the caller.
    let message = unsafe { message.as_ref() }.filter(|message| message.process.is_this());
    if !len.is_null() {
        // SAFETY: promised by the caller.
        unsafe { len.write(message.map_or(0, |message| message.data().len())) };
    }
    message.map_or(ptr::null(), slim_message::data_pointer)
}

/// Fills `fields` with everything that came with the message.
/// Errors: INVALID_ARGUMENT.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_message_view(
    message: *const slim_message,
    fields: *mut slim_message_fields,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let message = unsafe {
            check_fields_size(fields, "fields")?;
            handle(message, "message")?
        };
        let known = message.message().ok();
        // SAFETY: checked to be large enough; its size stays as the caller set it.
        unsafe {
            let size = (*fields).size;
            fields.write(slim_message_fields {
                size,
                kind: message.kind as i32,
                is_reply: known.map_or(0, |message| i32::from(message.is_reply)),
                data: message.data_pointer(),
                data_len: message.data().len(),
                source: message.source.as_ptr(),
                destination: message.destination.as_ptr(),
                payload_type: message.payload_type.as_ptr(),
                identity: message.identity.as_ptr(),
                connection: known.map_or(0, |message| message.connection.0),
                metadata: message.metadata.pointer(),
                metadata_len: message.metadata.pairs.len(),
            });
        }
        Ok(())
    })
}

/// Frees a message. NULL is allowed.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_message_free(message: *mut slim_message) {
    // SAFETY: promised by the caller.
    unsafe { free(message) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_with_a_reason_says_it() {
        for (event, kind) in [
            (Event::EncryptionLost("no keys".to_owned()), 8),
            (
                Event::Closed("no keys".to_owned()),
                slim_message_kind::SLIM_EVENT_SESSION_CLOSED as i32,
            ),
        ] {
            let message = slim_message::new(Item::Event(event));
            let mut fields = std::mem::MaybeUninit::<slim_message_fields>::zeroed();
            // SAFETY: both pointers are to what the function takes; all zeroes are a struct of
            // numbers and null pointers.
            let fields = unsafe {
                (*fields.as_mut_ptr()).size = size_of::<slim_message_fields>() as u32;
                assert_eq!(slim_message_view(&message, fields.as_mut_ptr()), slim_status::SLIM_OK);
                fields.assume_init()
            };
            assert_eq!((fields.kind, fields.is_reply, fields.connection), (kind, 0, 0));
            // SAFETY: they point into `message`, which is still there.
            let (data, source) = unsafe {
                let data = std::slice::from_raw_parts(fields.data.cast::<u8>(), fields.data_len);
                (data, std::ffi::CStr::from_ptr(fields.source))
            };
            assert_eq!((data, source), (&b"no keys"[..], c""));
        }
    }
}
