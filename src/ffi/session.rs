//! Sessions.

use std::ffi::{c_char, c_void, CString};
use std::time::Duration;

use super::app::slim_app;
use super::message::slim_message;
use super::op::slim_op;
use super::participants::slim_participants;
use super::status::{guard, guard_number, slim_status};
use super::{
    c_string, check_fields_size, direction, free, give, handle, optional_string, pairs, place,
};
use super::{sized, slim_pair, string, timeout, CPairs, Handle, Process};
use crate::api::{Kind, Mls, PublishOptions, Retry, Session, SessionOptions};
use crate::error::{Error, Result};

/// What a session is for.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum slim_session_kind {
    /// With one app: the instance that a destination with an ID names, or any one instance, which
    /// is then kept.
    SLIM_SESSION_POINT_TO_POINT = 1,
    /// With everyone who was invited; the destination is the group's name. The creator is its
    /// moderator: it invites and removes.
    SLIM_SESSION_GROUP = 2,
}

/// A conversation: with one app, or with the members of a group.
pub struct slim_session {
    session: Session,
    source: CString,
    destination: CString,
    metadata: CPairs,
    process: Process,
}

impl Handle for slim_session {
    fn process(&self) -> &Process {
        &self.process
    }
}

impl slim_session {
    pub(super) fn new(session: Session) -> slim_session {
        let fields = session.fields();
        slim_session {
            source: c_string(&fields.source.to_string()),
            destination: c_string(&fields.destination.to_string()),
            metadata: CPairs::new(&fields.metadata),
            session,
            process: Process::this(),
        }
    }
}

/// How to open a session. Start from SLIM_SESSION_OPTIONS_INIT; a field of 0 means its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct slim_session_options {
    /// sizeof(slim_session_options), as the caller was compiled.
    pub size: u32,
    /// A slim_session_kind. Default: point to point.
    pub kind: i32,
    /// 0: reliable (acknowledged, in order, sent again); 1: best effort.
    pub delivery: i32,
    /// 0: unicast, one instance for the whole session; 1: anycast, any instance for each message,
    /// found anew each time. What they answer comes out of one inbox.
    pub addressing: i32,
    /// 0: both ways; 1: this side only publishes; 2: it only receives; 3: neither.
    pub direction: i32,
    /// 1: events come out of slim_session_receive(), too. Default: 0, no.
    pub events: i32,
    /// 1: encrypted end to end with MLS: nodes on the way see who talks to whom, but not what.
    /// Default: 0, no.
    pub mls: i32,
    /// How often an unacknowledged message is sent again; -1 for never. Default: 10.
    pub max_retries: i32,
    /// Milliseconds between two tries, 1 to 3600000. Default: 1000.
    pub retry_interval_ms: u32,
    /// With MLS: percent of received messages whose header is checked against a signed copy;
    /// -1 for none. Default: 100.
    pub mls_header_check: i32,
    /// Key-value pairs that the peers see with the session.
    pub metadata: *const slim_pair,
    /// Number of pairs.
    pub metadata_len: usize,
}

/// What is known about a session. The strings are valid until the session is freed.
#[repr(C)]
pub struct slim_session_fields {
    /// sizeof(slim_session_fields), as the caller was compiled; set it before the call.
    pub size: u32,
    /// The session's number.
    pub id: u32,
    /// A slim_session_kind.
    pub kind: i32,
    /// 1 if this side opened the session.
    pub initiator: i32,
    /// This side's full name.
    pub source: *const c_char,
    /// The peer's or the group's name.
    pub destination: *const c_char,
    /// The pairs that the session was opened with; NULL if there are none.
    pub metadata: *const slim_pair,
    /// Number of pairs.
    pub metadata_len: usize,
    /// 1 if the session is encrypted end to end with MLS.
    pub mls: i32,
    /// With MLS: percent of received messages whose header is checked; -1 for none.
    pub mls_header_check: i32,
    /// With MLS: how often the keys have changed; 0 while nobody has joined, -1 before anybody was
    /// invited. Without MLS, and with anycast (each instance has keys of its own), -1.
    pub epoch: i64,
}

/// How to publish a message. Start from SLIM_PUBLISH_OPTIONS_INIT; 0 and NULL mean the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct slim_publish_options {
    /// sizeof(slim_publish_options), as the caller was compiled.
    pub size: u32,
    /// What the payload is, for example "application/json". Default: "msg".
    pub payload_type: *const c_char,
    /// Key-value pairs that travel with the message: at most 256, each text at most 64 KiB. Keys
    /// that begin with "slim-", and PUBLISH_TO, LEAVING_SESSION, LEAVE_REPLY_SENT, DELETE_GROUP,
    /// traceparent, tracestate and baggage belong to the protocol: they are refused, and not given
    /// out.
    pub metadata: *const slim_pair,
    /// Number of pairs.
    pub metadata_len: usize,
}

/// Opens a session to `destination` and waits until the peer has joined. A group is there at once,
/// with nobody else in it; with anycast nobody is looked for before the first message.
///
/// `options` may be NULL for a reliable point-to-point session.
/// Errors: INVALID_ARGUMENT, INVALID_NAME, NO_ROUTE, MLS (the peer cannot do it, or its keys are
/// refused), UNSUPPORTED, TIMEOUT (the attempt is given up), LIMIT, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_open(
    app: *mut slim_app,
    options: *const slim_session_options,
    destination: *const c_char,
    timeout_ms: i32,
    session: *mut *mut slim_session,
) -> slim_status {
    guard(|| {
        let place = place(session, "session")?;
        // SAFETY: promised by the caller.
        let (app, destination, options) = unsafe {
            (handle(app, "app")?, string(destination, "destination")?, read_options(options)?)
        };
        let session = app.app.open(&options, destination, timeout(timeout_ms)?)?;
        // SAFETY: checked not to be NULL.
        unsafe { give(place, slim_session::new(session)) };
        Ok(())
    })
}

/// Opens a session without waiting: `op` ends when slim_session_open() would have returned. What is
/// published before is kept until the peer has joined.
/// Errors: INVALID_ARGUMENT, INVALID_NAME, UNSUPPORTED, LIMIT, CLOSED; the others come with the
/// operation.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_open_start(
    app: *mut slim_app,
    options: *const slim_session_options,
    destination: *const c_char,
    session: *mut *mut slim_session,
    op: *mut *mut slim_op,
) -> slim_status {
    guard(|| {
        let (place, op_place) = (place(session, "session")?, place(op, "op")?);
        // SAFETY: promised by the caller.
        let (app, destination, options) = unsafe {
            (handle(app, "app")?, string(destination, "destination")?, read_options(options)?)
        };
        let (session, op) = app.app.open_start(&options, destination)?;
        // SAFETY: checked not to be NULL.
        unsafe {
            give(place, slim_session::new(session));
            give(op_place, slim_op::new(op));
        }
        Ok(())
    })
}

unsafe fn read_options(options: *const slim_session_options) -> Result<SessionOptions> {
    // SAFETY: promised by the caller.
    let Some(options) = (unsafe { sized(options, "options")? }) else {
        return Ok(SessionOptions::default());
    };
    let bad = |what: &str, value: i32| {
        Err(Error::InvalidArgument(format!("options.{what} is {value}, which means nothing")))
    };
    let kind = match options.kind {
        0 | 1 => Kind::PointToPoint,
        2 => Kind::Group,
        other => return bad("kind", other),
    };
    let anycast = match options.addressing {
        0 => false,
        1 => true,
        other => return bad("addressing", other),
    };
    let direction = direction(options.direction, "options.direction")?;
    let header_check = match options.mls_header_check {
        -1 => 0,
        0 => Mls::default().header_check,
        other => match u32::try_from(other) {
            Ok(percent @ 0..=100) => percent,
            _ => return bad("mls_header_check", other),
        },
    };
    let mls = match options.mls {
        0 => None,
        1 => Some(Mls { header_check }),
        other => return bad("mls", other),
    };
    let defaults = Retry::default();
    let retry = Retry {
        interval: match options.retry_interval_ms {
            0 => defaults.interval,
            ms => Duration::from_millis(u64::from(ms)),
        },
        max_retries: match options.max_retries {
            0 => defaults.max_retries,
            -1 => 0,
            other => match u32::try_from(other) {
                Ok(retries) => retries,
                Err(_) => return bad("max_retries", other),
            },
        },
    };
    let reliable = match options.delivery {
        0 => Some(retry),
        1 => None,
        other => return bad("delivery", other),
    };
    let events = match options.events {
        0 => false,
        1 => true,
        other => return bad("events", other),
    };
    // SAFETY: promised by the caller.
    let metadata = unsafe { pairs(options.metadata, options.metadata_len)? };
    Ok(SessionOptions { kind, reliable, anycast, direction, mls, metadata, events })
}

/// Fills `fields` with what is known about the session.
/// Errors: INVALID_ARGUMENT.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_session_view(
    session: *const slim_session,
    fields: *mut slim_session_fields,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let session = unsafe {
            check_fields_size(fields, "fields")?;
            handle(session, "session")?
        };
        let known = session.session.fields();
        let kind = match known.kind {
            Kind::PointToPoint => slim_session_kind::SLIM_SESSION_POINT_TO_POINT,
            Kind::Group => slim_session_kind::SLIM_SESSION_GROUP,
        };
        // SAFETY: checked to be large enough; its size stays as the caller set it.
        unsafe {
            let size = (*fields).size;
            fields.write(slim_session_fields {
                size,
                id: known.id,
                kind: kind as i32,
                initiator: i32::from(known.initiator),
                source: session.source.as_ptr(),
                destination: session.destination.as_ptr(),
                metadata: session.metadata.pointer(),
                metadata_len: session.metadata.pairs.len(),
                mls: i32::from(known.mls.is_some()),
                mls_header_check: known.mls.map_or(0, |mls| match mls.header_check {
                    0 => -1,
                    percent => i32::try_from(percent).unwrap_or(100),
                }),
                epoch: known.epoch.map_or(-1, |epoch| i64::try_from(epoch).unwrap_or(i64::MAX)),
            });
        }
        Ok(())
    })
}

/// Hands a message to the session. Returns when it is in the send queue, not when it has arrived:
/// see slim_session_flush().
///
/// The payload is copied. While the queue is full the call waits, at most `timeout_ms`. `options`
/// may be NULL.
/// Errors: INVALID_ARGUMENT, TOO_LARGE, TIMEOUT, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_publish(
    session: *mut slim_session,
    data: *const c_void,
    len: usize,
    options: *const slim_publish_options,
    timeout_ms: i32,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (session, data, options) =
            unsafe { (handle(session, "session")?, bytes(data, len)?, read_publish(options)?) };
        session.session.publish(data, &options, timeout(timeout_ms)?)
    })
}

/// Publishes to the sender of `message` only: a reply. Otherwise as slim_session_publish().
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_publish_to(
    session: *mut slim_session,
    message: *const slim_message,
    data: *const c_void,
    len: usize,
    options: *const slim_publish_options,
    timeout_ms: i32,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (session, message, data, options) = unsafe {
            (
                handle(session, "session")?,
                handle(message, "message")?,
                bytes(data, len)?,
                read_publish(options)?,
            )
        };
        let message = message.message()?;
        session.session.publish_to(message, data, &options, timeout(timeout_ms)?)
    })
}

/// Publishes without waiting: `op` ends when every receiver that could be reached when it was sent
/// has acknowledged the message; best effort, as soon as it is sent, which says nothing of arrival.
///
/// `message` is NULL, or the message to reply to.
/// Errors: TOO_LARGE, LIMIT (also: the queue is full), CLOSED. With the operation come UNDELIVERED,
/// NOT_ALLOWED (this side is suspended, or only receives, or who is to be answered only publishes),
/// MLS (this side is not in the encrypted group any more) and NOT_FOUND (who is to be answered has
/// left).
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_publish_start(
    session: *mut slim_session,
    message: *const slim_message,
    data: *const c_void,
    len: usize,
    options: *const slim_publish_options,
    op: *mut *mut slim_op,
) -> slim_status {
    guard(|| {
        let place = place(op, "op")?;
        // SAFETY: promised by the caller.
        let (session, data, options) =
            unsafe { (handle(session, "session")?, bytes(data, len)?, read_publish(options)?) };
        let op = if message.is_null() {
            session.session.publish_start(data, &options)?
        } else {
            // SAFETY: promised by the caller.
            let message = unsafe { handle(message, "message")? }.message()?;
            session.session.publish_to_start(message, data, &options)?
        };
        // SAFETY: checked not to be NULL.
        unsafe { give(place, slim_op::new(op)) };
        Ok(())
    })
}

unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Result<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() || isize::try_from(len).is_err() {
        return Err(Error::InvalidArgument(format!("data is NULL or too long, len is {len}")));
    }
    // SAFETY: promised by the caller.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

unsafe fn read_publish(options: *const slim_publish_options) -> Result<PublishOptions> {
    // SAFETY: promised by the caller.
    unsafe {
        let Some(options) = sized(options, "options")? else {
            return Ok(PublishOptions::default());
        };
        let payload_type = optional_string(options.payload_type, "options.payload_type")?;
        Ok(PublishOptions {
            payload_type: payload_type.unwrap_or("").to_owned(),
            metadata: pairs(options.metadata, options.metadata_len)?,
        })
    }
}

/// Waits until all that this session published before the call is acknowledged or given up; best
/// effort, until it is sent.
/// Errors: UNDELIVERED, NOT_ALLOWED, MLS and NOT_FOUND as with slim_session_publish_start() (the
/// first that there was since the last flush), TIMEOUT, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_flush(
    session: *mut slim_session,
    timeout_ms: i32,
) -> slim_status {
    // SAFETY: promised by the caller.
    guard(|| unsafe { handle(session, "session")? }.session.flush(timeout(timeout_ms)?))
}

/// Waits for the next message of this session, or event if those were asked for. Free it with
/// slim_message_free().
///
/// Messages that arrived before the session was closed are still given out; then the answer is
/// CLOSED.
/// Errors: TIMEOUT, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_receive(
    session: *mut slim_session,
    timeout_ms: i32,
    message: *mut *mut slim_message,
) -> slim_status {
    guard(|| {
        let place = place(message, "message")?;
        // SAFETY: promised by the caller.
        let session = unsafe { handle(session, "session")? };
        let item = session.session.receive(timeout(timeout_ms)?)?;
        // SAFETY: checked not to be NULL.
        unsafe { give(place, slim_message::new(item)) };
        Ok(())
    })
}

/// Whether events come out of slim_session_receive(), too: 1 yes, 0 no. For sessions that were
/// accepted; slim_session_options says it for those that are opened.
/// Errors: INVALID_ARGUMENT, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_session_set_events(
    session: *mut slim_session,
    events: i32,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let session = unsafe { handle(session, "session")? };
        match events {
            0 | 1 => session.session.set_events(events == 1),
            other => {
                let text = format!("events is {other}: 0 or 1 is expected");
                Err(Error::InvalidArgument(text))
            }
        }
    })
}

/// A descriptor that is readable while slim_session_receive() has something to give, or the
/// session is closed; a negative status on failure. The rules of slim_app_fd() apply.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_session_fd(session: *mut slim_session) -> i32 {
    // SAFETY: promised by the caller.
    guard_number(|| unsafe { handle(session, "session")? }.session.descriptor())
}

/// Invites an app into the group and waits until it has joined and the other members know. `name`
/// may have an ID; without one, any instance of that name is invited.
/// Errors: INVALID_NAME, INVALID_ARGUMENT (this app itself), EXISTS (it is in the group),
/// NOT_ALLOWED (no group, this side is not its moderator, or it is suspended), NO_ROUTE (nobody
/// valid answered), MLS (it cannot do MLS, or its keys are refused), LIMIT (the group has as many
/// members, or as many changes that wait, as it may have), TIMEOUT (the invitation is taken back),
/// CLOSED; for the first one also those of slim_app_subscribe(), of the group's channels.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_invite(
    session: *mut slim_session,
    name: *const c_char,
    timeout_ms: i32,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (session, name) = unsafe { (handle(session, "session")?, string(name, "name")?) };
        session.session.invite(name, timeout(timeout_ms)?)
    })
}

/// Invites without waiting: `op` ends when slim_session_invite() would have returned. Invitations
/// and removals are carried out one after another.
/// Errors: INVALID_NAME, NOT_ALLOWED, CLOSED; the others come from `op`.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_invite_start(
    session: *mut slim_session,
    name: *const c_char,
    op: *mut *mut slim_op,
) -> slim_status {
    guard(|| {
        let place = place(op, "op")?;
        // SAFETY: promised by the caller.
        let (session, name) = unsafe { (handle(session, "session")?, string(name, "name")?) };
        let op = session.session.invite_start(name)?;
        // SAFETY: checked not to be NULL.
        unsafe { give(place, slim_op::new(op)) };
        Ok(())
    })
}

/// Removes a participant from the group and waits until it and the other members know. `name` may
/// have an ID; without one it must fit one participant alone.
/// Errors: INVALID_NAME, NOT_FOUND (nobody of that name is in the group), INVALID_ARGUMENT (several
/// are, or it is this app itself), NOT_ALLOWED (as slim_session_invite()), UNDELIVERED (it is out,
/// but did not confirm it), MLS (the keys could not be changed), LIMIT (too many changes wait),
/// TIMEOUT (removing goes on), CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_remove(
    session: *mut slim_session,
    name: *const c_char,
    timeout_ms: i32,
) -> slim_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (session, name) = unsafe { (handle(session, "session")?, string(name, "name")?) };
        session.session.remove(name, timeout(timeout_ms)?)
    })
}

/// Removes without waiting: `op` ends when slim_session_remove() would have returned.
/// Errors: INVALID_NAME, NOT_ALLOWED, CLOSED; the others come from `op`.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_remove_start(
    session: *mut slim_session,
    name: *const c_char,
    op: *mut *mut slim_op,
) -> slim_status {
    guard(|| {
        let place = place(op, "op")?;
        // SAFETY: promised by the caller.
        let (session, name) = unsafe { (handle(session, "session")?, string(name, "name")?) };
        let op = session.session.remove_start(name)?;
        // SAFETY: checked not to be NULL.
        unsafe { give(place, slim_op::new(op)) };
        Ok(())
    })
}

/// Goes away from the group for a while and waits until the other members know: they see this side
/// offline. What is published meanwhile is not received, unless it is still on its way when this
/// side comes back. What is published then is refused: slim_session_publish() queues it and says OK,
/// slim_session_flush() or the operation says NOT_ALLOWED. This side stays a member.
/// Errors: NOT_ALLOWED (no group, suspended already, or something is being changed), TIMEOUT (it
/// goes on), CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_suspend(
    session: *mut slim_session,
    timeout_ms: i32,
) -> slim_status {
    // SAFETY: promised by the caller.
    guard(|| unsafe { handle(session, "session")? }.session.suspend(timeout(timeout_ms)?))
}

/// Comes back after slim_session_suspend(), and waits until the other members know.
/// Errors: NOT_ALLOWED (no group, not suspended, or something is being changed), MLS (this side is
/// back, but the keys of the group have changed, and its moderator gives it no new ones), TIMEOUT
/// (it goes on), CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_rejoin(
    session: *mut slim_session,
    timeout_ms: i32,
) -> slim_status {
    // SAFETY: promised by the caller.
    guard(|| unsafe { handle(session, "session")? }.session.rejoin(timeout(timeout_ms)?))
}

/// Gives out who takes part, this side first. Free the list with slim_participants_free().
/// Errors: TIMEOUT, CLOSED.
///
/// # Safety
/// As the header says.
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn slim_session_participants(
    session: *mut slim_session,
    timeout_ms: i32,
    participants: *mut *mut slim_participants,
) -> slim_status {
    guard(|| {
        let place = place(participants, "participants")?;
        // SAFETY: promised by the caller.
        let session = unsafe { handle(session, "session")? };
        let found = session.session.participants(timeout(timeout_ms)?)?;
        // SAFETY: checked not to be NULL.
        unsafe { give(place, slim_participants::new(&found)) };
        Ok(())
    })
}

/// Ends the session and waits until the peer knows. What was published before is waited for first.
/// A group ends for all when its moderator does this; another member leaves it.
///
/// Calls that wait on the session in other threads return CLOSED. The handle still has to be
/// freed.
/// Errors: TIMEOUT (closing goes on), UNDELIVERED (closed, but the peer did not confirm it),
/// CLOSED (it was closed already).
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_session_close(
    session: *mut slim_session,
    timeout_ms: i32,
) -> slim_status {
    // SAFETY: promised by the caller.
    guard(|| unsafe { handle(session, "session")? }.session.close(timeout(timeout_ms)?))
}

/// Frees the handle; an open session is closed without waiting for the peers. NULL is allowed.
///
/// # Safety
/// As the header says.
#[no_mangle]
pub unsafe extern "C" fn slim_session_free(session: *mut slim_session) {
    // SAFETY: promised by the caller.
    unsafe { free(session) };
}
