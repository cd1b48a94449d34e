//! The glue to nghttp2, and with it all `unsafe` of the HTTP/2 layer.
//!
//! [`Session`] owns one nghttp2 session and the [`Record`] that its callbacks write. Callbacks only
//! record what they see, so that every decision is made in `http2/mod.rs`, after nghttp2 returned.
//! The one exception is refusing a further stream, which nghttp2 wants to hear inside the callback.
//!
//! A panic must not cross into C (it would abort the process): callbacks neither index, nor unwrap,
//! nor do arithmetic that can overflow.

use std::alloc::Layout;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr::{self, NonNull};

use libnghttp2_sys as ffi;

use super::queue::Queue;
use super::{Event, Headers};
use crate::limits;

/// Bytes in front of each frame's payload.
const FRAME_HEADER: usize = 9;
const END_STREAM: u8 = ffi::NGHTTP2_FLAG_END_STREAM as u8;
const ACK: u8 = ffi::NGHTTP2_FLAG_ACK as u8;
const DATA: u8 = ffi::NGHTTP2_DATA as u8;
const HEADERS: u8 = ffi::NGHTTP2_HEADERS as u8;
const PRIORITY: u8 = ffi::NGHTTP2_PRIORITY as u8;
const RST_STREAM: u8 = ffi::NGHTTP2_RST_STREAM as u8;
const PING: u8 = ffi::NGHTTP2_PING as u8;
const GOAWAY: u8 = ffi::NGHTTP2_GOAWAY as u8;
const CONTINUATION: u8 = ffi::NGHTTP2_CONTINUATION as u8;

/// Which side of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Opens the stream.
    Client,
    /// Takes the first stream that the peer opens.
    Server,
}

/// Whether and how our side of the stream is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It goes on.
    Open,
    /// With END_STREAM on the last DATA frame.
    Data,
    /// With trailers, which follow the last DATA frame.
    Trailers,
}

/// What the callbacks see and what they need.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) role: Role,
    /// Our stream; 0 while the client has not opened one.
    pub(super) stream: i32,
    /// Found by `receive` since the events were last fetched.
    pub(super) events: Vec<Event>,
    /// Bytes of DATA since the connection window was last given back.
    pub(super) received: usize,
    pub(super) queue: Queue,
    pub(super) ending: Ending,
    /// nghttp2 has asked for DATA, got none and will not ask again by itself.
    pub(super) deferred: bool,
    /// Our stream is closed in both directions, or reset.
    pub(super) over: bool,
    /// We have reset our stream: nothing of it is of interest any more.
    pub(super) abandoned: bool,
    /// A header list was longer than [`limits::MAX_HEADER_LIST`].
    pub(super) oversized: bool,
    /// A header list of ours could not be sent.
    pub(super) unsendable: bool,
    /// CONTINUATION frames of the header block that is being received, and the most of any.
    continuations: usize,
    pub(super) most_continuations: usize,
    /// Further streams that the peer tried to open.
    pub(super) refused: u32,
    /// The peer has ended its side of our stream.
    ended: bool,
    /// We have ended ours: END_STREAM was sent.
    pub(super) finished: bool,
    /// A violation that nghttp2 lets pass: error code and what it was.
    pub(super) violation: Option<(u32, &'static str)>,
    /// A GOAWAY that nghttp2 sent on its own: code and reason.
    pub(super) failed: Option<(u32, String)>,
    /// GOAWAY frames that we asked for and that are not yet sent.
    pub(super) goaways: u32,
    /// The PING that waits for its answer.
    pub(super) ping: Option<[u8; 8]>,
    /// The header list that is being received, and its size.
    head: Headers,
    head_size: usize,
    head_seen: bool,
    /// Where the bytes that are being received are.
    input: usize,
    input_len: usize,
    /// Where frames go, how many bytes of them are wanted, and whether DATA is held back.
    out: Vec<u8>,
    limit: usize,
    hold_data: bool,
}

impl Record {
    fn new(role: Role) -> Record {
        Record {
            role,
            stream: 0,
            events: Vec::new(),
            received: 0,
            queue: Queue::default(),
            ending: Ending::Open,
            deferred: false,
            over: false,
            abandoned: false,
            oversized: false,
            unsendable: false,
            continuations: 0,
            most_continuations: 0,
            refused: 0,
            ended: false,
            finished: false,
            violation: None,
            failed: None,
            goaways: 0,
            ping: None,
            head: Vec::new(),
            head_size: 0,
            head_seen: false,
            input: 0,
            input_len: 0,
            out: Vec::new(),
            limit: 0,
            hold_data: false,
        }
    }

    /// Whether there is something to ask nghttp2 to send as DATA.
    pub(super) fn has_data(&self) -> bool {
        !self.queue.is_empty() || self.ending == Ending::Data
    }

    /// What nghttp2 takes for a late frame of a stream that it has forgotten, though it cannot be
    /// one, and PRIORITY, which it does not look at (RFC 9113 sections 5.1, 5.1.1, 6.3).
    fn check(&mut self, kind: u8, stream: i32) {
        let server = self.role == Role::Server;
        let violation = match kind {
            PRIORITY if stream == 0 => (ffi::NGHTTP2_PROTOCOL_ERROR, "PRIORITY of stream 0"),
            HEADERS if server && stream == self.stream && self.ended && self.over => {
                (ffi::NGHTTP2_STREAM_CLOSED, "HEADERS after the end of the stream")
            }
            HEADERS if server && stream > 0 && stream < self.stream => {
                (ffi::NGHTTP2_PROTOCOL_ERROR, "a new stream below an earlier one")
            }
            _ => return,
        };
        self.violation.get_or_insert(violation);
    }

    fn is_ours(&self, stream: i32) -> bool {
        stream == self.stream && !self.abandoned
    }

    fn on_headers(&mut self, end_stream: bool) {
        let head = std::mem::take(&mut self.head);
        let informational = self.role == Role::Client
            && head.iter().any(|(name, value)| name == ":status" && value.starts_with('1'));
        if informational {
            return;
        }
        self.events.push(match (self.head_seen, self.role) {
            (true, _) => Event::Trailers(head),
            (false, Role::Client) => Event::ResponseHead(head),
            (false, Role::Server) => Event::RequestHead(head),
        });
        self.head_seen = true;
        if end_stream {
            self.on_end();
        }
    }

    fn on_end(&mut self) {
        self.ended = true;
        self.events.push(Event::EndOfStream);
    }

    fn on_reset(&mut self, code: u32) {
        if !self.over {
            self.over = true;
            self.queue.clear();
            self.events.push(Event::Reset(code));
        }
    }
}

/// An nghttp2 session with its record.
pub(super) struct Session {
    raw: NonNull<ffi::nghttp2_session>,
    record: NonNull<Record>,
    /// nghttp2 reported an error after which a session may only be deleted.
    broken: bool,
}

// SAFETY: a session is a plain heap object without thread affinity, and `raw` and `record` are
// owned by this value alone: whoever has it is the only one to reach them.
unsafe impl Send for Session {}

impl Session {
    /// A session that has nothing to send yet.
    pub(super) fn new(role: Role) -> Session {
        let record = NonNull::from(Box::leak(Box::new(Record::new(role))));
        let mut raw = ptr::null_mut();
        let mut callbacks = ptr::null_mut();
        let mut option = ptr::null_mut();
        // SAFETY: the out pointers are valid; callbacks and options are copied by the session, so
        // that they may be deleted at once; the record lives until `drop`, after the session.
        unsafe {
            or_out_of_memory(ffi::nghttp2_session_callbacks_new(&mut callbacks));
            or_out_of_memory(ffi::nghttp2_option_new(&mut option));
            set_callbacks(callbacks);
            set_options(option);
            let user_data = record.as_ptr().cast();
            or_out_of_memory(match role {
                Role::Client => {
                    ffi::nghttp2_session_client_new2(&mut raw, callbacks, user_data, option)
                }
                Role::Server => {
                    ffi::nghttp2_session_server_new2(&mut raw, callbacks, user_data, option)
                }
            });
            ffi::nghttp2_session_callbacks_del(callbacks);
            ffi::nghttp2_option_del(option);
        }
        let Some(raw) = NonNull::new(raw) else { out_of_memory() };
        Session { raw, record, broken: false }
    }

    pub(super) fn record(&self) -> &Record {
        // SAFETY: the record is valid until `drop`; callbacks write it only during calls that take
        // `&mut self`.
        unsafe { self.record.as_ref() }
    }

    pub(super) fn record_mut(&mut self) -> &mut Record {
        // SAFETY: as above, and `&mut self` excludes every other reference.
        unsafe { self.record.as_mut() }
    }

    /// Calls nghttp2, unless the session is broken, and notes when that happens.
    fn call(&mut self, f: impl FnOnce(*mut ffi::nghttp2_session) -> c_int) -> c_int {
        if self.broken {
            return ffi::NGHTTP2_ERR_INVALID_STATE;
        }
        let code = f(self.raw.as_ptr());
        self.broken |= is_fatal(code);
        code
    }

    pub(super) fn submit_settings(&mut self, settings: &[(ffi::nghttp2_settings_id, u32)]) {
        let entries: Vec<_> = settings
            .iter()
            .map(|&(id, value)| ffi::nghttp2_settings_entry { settings_id: id as i32, value })
            .collect();
        // SAFETY: the session is live; the entries are copied before the call returns.
        self.call(|raw| unsafe {
            ffi::nghttp2_submit_settings(raw, 0, entries.as_ptr(), entries.len())
        });
    }

    /// Announces how much of all streams may be under way.
    pub(super) fn set_connection_window(&mut self, window: u32) {
        let window = i32::try_from(window).unwrap_or(i32::MAX);
        // SAFETY: the session is live.
        self.call(|raw| unsafe { ffi::nghttp2_session_set_local_window_size(raw, 0, 0, window) });
    }

    /// Opens our stream.
    pub(super) fn submit_request(&mut self, head: &[(&str, &str)]) {
        let fields = fields(head);
        let data = data_provider();
        // SAFETY: the session is live; fields and provider are copied before the call returns, and
        // the provider points to nothing.
        let stream = self.call(|raw| unsafe {
            ffi::nghttp2_submit_request2(
                raw,
                ptr::null(),
                fields.as_ptr(),
                fields.len(),
                &data,
                ptr::null_mut(),
            )
        });
        self.record_mut().stream = stream.max(0);
    }

    /// The response's head; DATA follows unless `end_stream`.
    pub(super) fn submit_response(&mut self, head: &[(&str, &str)], end_stream: bool) {
        let fields = fields(head);
        let data = data_provider();
        let data: *const _ = if end_stream { ptr::null() } else { &data };
        let stream = self.record().stream;
        // SAFETY: as for the request; without a provider the pointer is null, which is allowed.
        self.call(|raw| unsafe {
            ffi::nghttp2_submit_response2(raw, stream, fields.as_ptr(), fields.len(), data)
        });
    }

    pub(super) fn submit_trailers(&mut self, trailers: &[(&str, &str)]) {
        let fields = fields(trailers);
        let stream = self.record().stream;
        // SAFETY: the session is live; the fields are copied before the call returns.
        self.call(|raw| unsafe {
            ffi::nghttp2_submit_trailer(raw, stream, fields.as_ptr(), fields.len())
        });
    }

    pub(super) fn submit_reset(&mut self, code: u32) {
        let stream = self.record().stream;
        // SAFETY: the session is live.
        self.call(|raw| unsafe { ffi::nghttp2_submit_rst_stream(raw, 0, stream, code) });
    }

    /// Announces that no further stream is taken; ours goes on.
    pub(super) fn submit_goaway(&mut self, code: u32) {
        // SAFETY: the session is live; no opaque data is given.
        let rc = self.call(|raw| unsafe {
            let last = ffi::nghttp2_session_get_last_proc_stream_id(raw);
            ffi::nghttp2_submit_goaway(raw, 0, last, code, ptr::null(), 0)
        });
        if rc == 0 && self.record().failed.is_none() {
            let record = self.record_mut();
            record.goaways = record.goaways.saturating_add(1);
        }
    }

    /// Ends the connection: GOAWAY is the last frame, what arrives is ignored.
    pub(super) fn terminate(&mut self, code: u32) {
        // SAFETY: the session is live.
        self.call(|raw| unsafe { ffi::nghttp2_session_terminate_session(raw, code) });
    }

    pub(super) fn submit_ping(&mut self, payload: [u8; 8]) {
        // SAFETY: the session is live; nghttp2 copies exactly eight bytes.
        self.call(|raw| unsafe { ffi::nghttp2_submit_ping(raw, 0, payload.as_ptr()) });
    }

    /// Gives back connection window for the DATA recorded since the last time.
    pub(super) fn consume_connection(&mut self) {
        let bytes = std::mem::take(&mut self.record_mut().received);
        // SAFETY: the session is live.
        self.call(|raw| unsafe { ffi::nghttp2_session_consume_connection(raw, bytes) });
    }

    /// Gives back `bytes` of our stream's window.
    pub(super) fn consume_stream(&mut self, bytes: usize) {
        let stream = self.record().stream;
        // SAFETY: the session is live; a stream that is gone is ignored.
        self.call(|raw| unsafe { ffi::nghttp2_session_consume_stream(raw, stream, bytes) });
    }

    /// Makes nghttp2 ask for DATA again, if there is some and it has given up asking.
    pub(super) fn resume(&mut self) {
        let record = self.record_mut();
        if record.deferred && record.has_data() {
            record.deferred = false;
            let stream = record.stream;
            // SAFETY: the session is live; a stream that is gone is reported, not touched.
            self.call(|raw| unsafe { ffi::nghttp2_session_resume_data(raw, stream) });
        }
    }

    /// Hands `bytes` to nghttp2, which records what is in them. Fails with nghttp2's error when
    /// that is the end of the session.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), c_int> {
        let record = self.record_mut();
        record.input = bytes.as_ptr().addr();
        record.input_len = bytes.len();
        let mut read = 0;
        // SAFETY: the session is live and `bytes` valid for the call; no reference to the record
        // is live while the callbacks use it.
        let code = self.call(|raw| unsafe {
            read = ffi::nghttp2_session_mem_recv2(raw, bytes.as_ptr(), bytes.len());
            c_int::try_from(read.min(0)).unwrap_or(ffi::NGHTTP2_ERR_CALLBACK_FAILURE)
        });
        self.record_mut().input_len = 0;
        self.broken |= code != 0;
        match code {
            0 => Ok(()),
            code => Err(code),
        }
    }

    /// Appends frames to `out` until there is none left or `out` has `limit` bytes; with
    /// `hold_data` all but DATA. Fails with nghttp2's error when that is the end of the session.
    pub(super) fn drain(
        &mut self,
        out: &mut Vec<u8>,
        limit: usize,
        hold_data: bool,
    ) -> Result<(), c_int> {
        if self.broken {
            return Ok(());
        }
        let record = self.record_mut();
        record.limit = limit;
        record.hold_data = hold_data;
        std::mem::swap(&mut record.out, out);
        let mut result = Ok(());
        while self.record().out.len() < limit {
            let mut data = ptr::null();
            let mut len = 0;
            // SAFETY: the session is live, `data` a valid place; no reference to the record is
            // live while the callbacks use it.
            let code = self.call(|raw| unsafe {
                len = ffi::nghttp2_session_mem_send2(raw, &mut data);
                c_int::try_from(len.min(0)).unwrap_or(ffi::NGHTTP2_ERR_CALLBACK_FAILURE)
            });
            if code != 0 {
                self.broken = true;
                result = Err(code);
                break;
            }
            // DATA went past here, see `send_data`: nothing returned means nothing left.
            let Some(len) = usize::try_from(len).ok().filter(|len| *len > 0) else {
                break;
            };
            // SAFETY: nghttp2 returned `len` bytes at `data`, valid until its next call.
            let frame = unsafe { bytes(data, len) };
            self.record_mut().out.extend_from_slice(frame);
        }
        std::mem::swap(&mut self.record_mut().out, out);
        result
    }

    /// Whether nghttp2 has frames to send that it may send now.
    pub(super) fn wants_write(&self) -> bool {
        // SAFETY: the session is live; the call only looks.
        !self.broken && unsafe { ffi::nghttp2_session_want_write(self.raw.as_ptr()) != 0 }
    }

    /// Whether the connection can still bring anything.
    pub(super) fn wants_read(&self) -> bool {
        // SAFETY: the session is live; the call only looks.
        !self.broken && unsafe { ffi::nghttp2_session_want_read(self.raw.as_ptr()) != 0 }
    }

    /// Whether both windows of the peer have room for DATA of our stream.
    pub(super) fn has_window(&self) -> bool {
        let (raw, stream) = (self.raw.as_ptr(), self.record().stream);
        // SAFETY: the session is live; the calls only look, a stream that is gone gives -1.
        !self.broken
            && unsafe {
                ffi::nghttp2_session_get_remote_window_size(raw) > 0
                    && ffi::nghttp2_session_get_stream_remote_window_size(raw, stream) > 0
            }
    }

    /// Frames that wait to be sent, without DATA.
    pub(super) fn waiting_frames(&self) -> usize {
        if self.broken {
            return 0;
        }
        // SAFETY: the session is live; the call only looks.
        unsafe { ffi::nghttp2_session_get_outbound_queue_size(self.raw.as_ptr()) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: both were made in `new` and are not used after this; the session goes first,
        // since it holds a pointer to the record.
        unsafe {
            ffi::nghttp2_session_del(self.raw.as_ptr());
            drop(Box::from_raw(self.record.as_ptr()));
        }
    }
}

/// nghttp2's words for one of its own errors.
pub(super) fn error_text(code: c_int) -> String {
    // SAFETY: any code is allowed; the text is static.
    unsafe { static_text(ffi::nghttp2_strerror(code)) }
}

/// The name of an HTTP/2 error code, such as `PROTOCOL_ERROR`.
pub(super) fn code_name(code: u32) -> String {
    // SAFETY: any code is allowed; the text is static.
    unsafe { static_text(ffi::nghttp2_http2_strerror(code)) }
}

/// # Safety
///
/// `text` is a valid C string.
unsafe fn static_text(text: *const c_char) -> String {
    // SAFETY: as promised by the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn is_fatal(code: c_int) -> bool {
    // SAFETY: a function of a number.
    unsafe { ffi::nghttp2_is_fatal(code) != 0 }
}

/// As everywhere in Rust: without memory there is no going on.
fn out_of_memory() -> ! {
    std::alloc::handle_alloc_error(Layout::new::<Record>())
}

fn or_out_of_memory(code: c_int) {
    if code != 0 {
        out_of_memory();
    }
}

fn fields(head: &[(&str, &str)]) -> Vec<ffi::nghttp2_nv> {
    let field = |&(name, value): &(&str, &str)| ffi::nghttp2_nv {
        name: name.as_ptr().cast_mut(),
        value: value.as_ptr().cast_mut(),
        namelen: name.len(),
        valuelen: value.len(),
        flags: 0,
    };
    head.iter().map(field).collect()
}

fn data_provider() -> ffi::nghttp2_data_provider2 {
    ffi::nghttp2_data_provider2 {
        source: ffi::nghttp2_data_source { ptr: ptr::null_mut() },
        read_callback: Some(read_data),
    }
}

/// # Safety
///
/// `callbacks` is a live object.
unsafe fn set_callbacks(callbacks: *mut ffi::nghttp2_session_callbacks) {
    // SAFETY: as promised by the caller; the functions have the types that nghttp2 asks for.
    unsafe {
        ffi::nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, Some(on_begin_frame));
        ffi::nghttp2_session_callbacks_set_on_begin_headers_callback(
            callbacks,
            Some(on_begin_headers),
        );
        ffi::nghttp2_session_callbacks_set_on_header_callback(callbacks, Some(on_header));
        ffi::nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, Some(on_frame_recv));
        ffi::nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(
            callbacks,
            Some(on_invalid_frame_recv),
        );
        ffi::nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
            callbacks,
            Some(on_data_chunk_recv),
        );
        ffi::nghttp2_session_callbacks_set_on_stream_close_callback(
            callbacks,
            Some(on_stream_close),
        );
        ffi::nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, Some(on_frame_send));
        ffi::nghttp2_session_callbacks_set_on_frame_not_send_callback(
            callbacks,
            Some(on_frame_not_send),
        );
        ffi::nghttp2_session_callbacks_set_send_data_callback(callbacks, Some(send_data));
    }
}

/// # Safety
///
/// `option` is a live object.
unsafe fn set_options(option: *mut ffi::nghttp2_option) {
    let (resets, glitches) = (limits::STREAM_RESETS, limits::GLITCHES);
    // SAFETY: as promised by the caller.
    unsafe {
        ffi::nghttp2_option_set_no_auto_window_update(option, 1);
        // Our header blocks depend on nothing that was sent before.
        ffi::nghttp2_option_set_max_deflate_dynamic_table_size(option, 0);
        ffi::nghttp2_option_set_max_reserved_remote_streams(option, 0);
        ffi::nghttp2_option_set_max_outbound_ack(option, limits::OUTBOUND_ACKS);
        ffi::nghttp2_option_set_max_settings(option, limits::SETTINGS_ENTRIES);
        // nghttp2 counts one whenever it is fed inside the nine bytes of a frame header, so that
        // its limit alone would depend on how TCP cuts the stream. The frames are counted here.
        ffi::nghttp2_option_set_max_continuations(option, limits::CONTINUATIONS * FRAME_HEADER);
        ffi::nghttp2_option_set_stream_reset_rate_limit(option, resets.burst, resets.per_second);
        ffi::nghttp2_option_set_glitch_rate_limit(option, glitches.burst, glitches.per_second);
    }
}

/// The record behind a callback's `user_data`.
///
/// # Safety
///
/// Only inside a callback, which nghttp2 gives the pointer of [`Session::new`] while the session
/// lives and while [`Session`] holds no reference to the record; once per callback.
unsafe fn record<'a>(user_data: *mut c_void) -> &'a mut Record {
    // SAFETY: as promised by the caller.
    unsafe { &mut *user_data.cast::<Record>() }
}

/// # Safety
///
/// `len` bytes at `data` are valid and unchanged for as long as the result is used; when `len` is
/// 0, `data` may be anything.
unsafe fn bytes<'a>(data: *const u8, len: usize) -> &'a [u8] {
    if len == 0 || data.is_null() {
        return &[];
    }
    // SAFETY: as promised by the caller.
    unsafe { std::slice::from_raw_parts(data, len) }
}

unsafe extern "C" fn on_begin_frame(
    _session: *mut ffi::nghttp2_session,
    header: *const ffi::nghttp2_frame_hd,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes a valid frame header.
    let (record, kind, stream) =
        unsafe { (record(user_data), (*header).type_, (*header).stream_id) };
    record.check(kind, stream);
    record.continuations = match kind {
        CONTINUATION => record.continuations.saturating_add(1),
        _ => 0,
    };
    record.most_continuations = record.most_continuations.max(record.continuations);
    0
}

unsafe extern "C" fn on_begin_headers(
    session: *mut ffi::nghttp2_session,
    frame: *const ffi::nghttp2_frame,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes a valid frame, whose every variant begins with its header.
    let (record, stream) = unsafe { (record(user_data), (*frame).hd.stream_id) };
    record.head.clear();
    record.head_size = 0;
    if record.role == Role::Server && record.stream == 0 {
        record.stream = stream;
    }
    if stream == record.stream {
        return 0;
    }
    record.refused = record.refused.saturating_add(1);
    // SAFETY: the session is live, and this may be called inside a callback. Returning the error
    // makes nghttp2 decode the rest of the header block and drop it.
    unsafe { ffi::nghttp2_submit_rst_stream(session, 0, stream, ffi::NGHTTP2_REFUSED_STREAM) };
    ffi::NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
}

unsafe extern "C" fn on_header(
    _session: *mut ffi::nghttp2_session,
    frame: *const ffi::nghttp2_frame,
    name: *const u8,
    name_len: usize,
    value: *const u8,
    value_len: usize,
    _flags: u8,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes a valid frame and a name and value of these lengths.
    let (record, stream, name, value) = unsafe {
        let stream = (*frame).hd.stream_id;
        (record(user_data), stream, bytes(name, name_len), bytes(value, value_len))
    };
    if stream != record.stream {
        return 0;
    }
    let size = name_len.saturating_add(value_len).saturating_add(32);
    record.head_size = record.head_size.saturating_add(size);
    if record.head_size > limits::MAX_HEADER_LIST {
        record.oversized = true;
        return ffi::NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    record.head.push((text(name), text(value)));
    0
}

unsafe extern "C" fn on_frame_recv(
    _session: *mut ffi::nghttp2_session,
    frame: *const ffi::nghttp2_frame,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes a valid frame, whose every variant begins with its header.
    let (record, header) = unsafe { (record(user_data), (*frame).hd) };
    let ours = record.is_ours(header.stream_id);
    let end_stream = header.flags & END_STREAM != 0;
    match header.type_ {
        HEADERS if ours => record.on_headers(end_stream),
        DATA if ours && end_stream => record.on_end(),
        // SAFETY: the header says which variant it is.
        RST_STREAM if ours => record.on_reset(unsafe { (*frame).rst_stream.error_code }),
        PING if header.flags & ACK != 0 => {
            // SAFETY: the header says which variant it is.
            let payload = unsafe { (*frame).ping.opaque_data };
            if record.ping == Some(payload) {
                record.ping = None;
                record.events.push(Event::PingAck);
            }
        }
        GOAWAY => {
            // SAFETY: the header says which variant it is.
            let goaway = unsafe { (*frame).goaway };
            let (last_stream, code) = (goaway.last_stream_id, goaway.error_code);
            record.events.push(Event::GoAway { last_stream, code });
        }
        _ => {}
    }
    0
}

unsafe extern "C" fn on_invalid_frame_recv(
    _session: *mut ffi::nghttp2_session,
    _frame: *const ffi::nghttp2_frame,
    code: c_int,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: inside a callback.
    let record = unsafe { record(user_data) };
    // nghttp2 refuses streams by itself until the peer has acknowledged our limit.
    if code == ffi::NGHTTP2_ERR_REFUSED_STREAM {
        record.refused = record.refused.saturating_add(1);
    }
    0
}

unsafe extern "C" fn on_data_chunk_recv(
    _session: *mut ffi::nghttp2_session,
    _flags: u8,
    stream: i32,
    data: *const u8,
    len: usize,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: inside a callback.
    let record = unsafe { record(user_data) };
    record.received = record.received.saturating_add(len);
    let range = data.addr().checked_sub(record.input).and_then(|start| {
        let end = start.checked_add(len)?;
        (end <= record.input_len).then_some(start..end)
    });
    match range {
        Some(range) if record.is_ours(stream) => record.events.push(Event::Data(range)),
        _ => {}
    }
    0
}

unsafe extern "C" fn on_stream_close(
    _session: *mut ffi::nghttp2_session,
    stream: i32,
    code: u32,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: inside a callback.
    let record = unsafe { record(user_data) };
    if stream == record.stream {
        if code != ffi::NGHTTP2_NO_ERROR && !record.abandoned {
            record.on_reset(code);
        }
        record.over = true;
        record.queue.clear();
    }
    0
}

unsafe extern "C" fn on_frame_send(
    _session: *mut ffi::nghttp2_session,
    frame: *const ffi::nghttp2_frame,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes a valid frame, whose every variant begins with its header.
    let (record, header) = unsafe { (record(user_data), (*frame).hd) };
    if header.type_ != GOAWAY {
        let ends = matches!(header.type_, DATA | HEADERS) && header.flags & END_STREAM != 0;
        record.finished |= ends && header.stream_id == record.stream;
        return 0;
    }
    if let Some(left) = record.goaways.checked_sub(1) {
        record.goaways = left;
        return 0;
    }
    // SAFETY: the header says which variant it is; its opaque data is of this length.
    let (code, reason) = unsafe {
        let goaway = (*frame).goaway;
        (goaway.error_code, bytes(goaway.opaque_data, goaway.opaque_data_len))
    };
    record.failed = Some((code, String::from_utf8_lossy(reason).into_owned()));
    0
}

unsafe extern "C" fn on_frame_not_send(
    _session: *mut ffi::nghttp2_session,
    frame: *const ffi::nghttp2_frame,
    code: c_int,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes a valid frame, whose every variant begins with its header.
    let (record, header) = unsafe { (record(user_data), (*frame).hd) };
    let too_long = matches!(code, ffi::NGHTTP2_ERR_FRAME_SIZE_ERROR | ffi::NGHTTP2_ERR_HEADER_COMP);
    record.unsendable |= header.type_ == HEADERS && too_long;
    0
}

/// How many bytes the next DATA frame is to have. They are moved in [`send_data`].
unsafe extern "C" fn read_data(
    _session: *mut ffi::nghttp2_session,
    _stream: i32,
    _buffer: *mut u8,
    room: usize,
    flags: *mut u32,
    _source: *mut ffi::nghttp2_data_source,
    user_data: *mut c_void,
) -> ffi::nghttp2_ssize {
    // SAFETY: inside a callback.
    let record = unsafe { record(user_data) };
    if !record.has_data() {
        record.deferred = true;
        return ffi::NGHTTP2_ERR_DEFERRED as ffi::nghttp2_ssize;
    }
    if record.hold_data {
        return ffi::NGHTTP2_ERR_PAUSE as ffi::nghttp2_ssize;
    }
    let len = record.queue.len().min(room);
    let mut set = ffi::NGHTTP2_DATA_FLAG_NO_COPY;
    if len == record.queue.len() && record.ending == Ending::Data {
        set |= ffi::NGHTTP2_DATA_FLAG_EOF;
    }
    // SAFETY: nghttp2 passes a valid place for the flags.
    unsafe { *flags |= set };
    ffi::nghttp2_ssize::try_from(len).unwrap_or(0)
}

/// Writes one DATA frame: its header as nghttp2 made it, then the bytes from the queue.
unsafe extern "C" fn send_data(
    _session: *mut ffi::nghttp2_session,
    _frame: *mut ffi::nghttp2_frame,
    header: *const u8,
    len: usize,
    _source: *mut ffi::nghttp2_data_source,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: inside a callback; nghttp2 passes a packed frame header. It adds no padding, since
    // there is no callback that chooses some.
    let (record, header) = unsafe { (record(user_data), bytes(header, FRAME_HEADER)) };
    record.out.extend_from_slice(header);
    if !record.queue.move_into(len, &mut record.out) {
        return ffi::NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    match record.out.len() >= record.limit {
        true => ffi::NGHTTP2_ERR_PAUSE,
        false => 0,
    }
}
