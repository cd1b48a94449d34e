//! What nghttp2 calls: each function records what happened and returns. Nothing in here may panic:
//! a panic in an `extern "C"` function would end the process.

use std::ffi::{c_int, c_void, CStr};
use std::ptr;

use libnghttp2_sys as ng;

use super::Event;
use crate::limits;

/// What one call of `receive` found.
pub(super) struct Found {
    pub(super) events: Vec<Event>,
    pub(super) refused: Vec<i32>,
    pub(super) data_len: usize,
    pub(super) oversized: Option<usize>,
}

/// Everything that the callbacks write to.
#[derive(Default)]
pub(super) struct State {
    /// Our stream; 0 before there is one.
    pub(super) stream: i32,
    pub(super) queue: Queue,
    /// Frames on their way out.
    pub(super) out: Vec<u8>,
    /// nghttp2 has asked for data when there was none.
    pub(super) deferred: bool,
    /// The stream ends after the queue, perhaps with trailers.
    pub(super) finish: Option<Option<Vec<(String, String)>>>,
    /// Address of the input that is being read; 0 between calls.
    input: usize,
    events: Vec<Event>,
    refused: Vec<i32>,
    data_len: usize,
    headers: Vec<(String, String)>,
    headers_len: usize,
    oversized: Option<usize>,
}

impl State {
    pub(super) fn begin_input(&mut self, bytes: &[u8]) {
        self.input = bytes.as_ptr() as usize;
    }

    pub(super) fn end_input(&mut self) -> Found {
        self.input = 0;
        Found {
            events: std::mem::take(&mut self.events),
            refused: std::mem::take(&mut self.refused),
            data_len: std::mem::take(&mut self.data_len),
            oversized: self.oversized,
        }
    }

    fn head_complete(&mut self, category: ng::nghttp2_headers_category, end: bool) {
        let head = std::mem::take(&mut self.headers);
        self.headers_len = 0;
        let informational =
            head.first().is_some_and(|(name, value)| name == ":status" && value.starts_with('1'));
        if informational {
            return;
        }
        self.events.push(match category {
            ng::NGHTTP2_HCAT_REQUEST => Event::RequestHead(head),
            ng::NGHTTP2_HCAT_HEADERS if end => Event::Trailers(head),
            _ => Event::ResponseHead(head),
        });
    }
}

/// Outbound bytes of the stream.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) bytes: Vec<u8>,
    head: usize,
    pub(super) taken: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.head)
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.head = 0;
    }

    /// Forgets bytes that have been taken, once they are the larger part.
    pub(super) fn compact(&mut self) {
        if self.head > self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }

    /// Gives memory back after a large message.
    pub(super) fn shrink(&mut self) {
        if self.len() == 0 {
            self.clear();
            if self.bytes.capacity() > limits::SOCKET_BUFFER {
                self.bytes = Vec::new();
            }
        }
    }

    fn take(&mut self, len: usize, out: &mut Vec<u8>) {
        let end = self.head.saturating_add(len).min(self.bytes.len());
        out.extend_from_slice(self.bytes.get(self.head..end).unwrap_or(&[]));
        self.taken += end.saturating_sub(self.head) as u64;
        self.head = end;
    }
}

/// How nghttp2 gets the stream's data.
pub(super) fn provider() -> ng::nghttp2_data_provider2 {
    ng::nghttp2_data_provider2 {
        source: ng::nghttp2_data_source { ptr: ptr::null_mut() },
        read_callback: Some(read_data),
    }
}

/// A session whose callbacks write to `state`.
pub(super) fn new_session(client: bool, state: &mut State) -> *mut ng::nghttp2_session {
    let mut session = ptr::null_mut();
    let user_data = ptr::from_mut(state).cast::<c_void>();
    // SAFETY: plain construction; options and callbacks are copied into the session before they
    // are freed. The only failure is lack of memory, which is checked below.
    unsafe {
        let (mut callbacks, mut option) = (ptr::null_mut(), ptr::null_mut());
        let made = ng::nghttp2_session_callbacks_new(&mut callbacks) == 0
            && ng::nghttp2_option_new(&mut option) == 0;
        assert!(made, "out of memory");
        ng::nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, Some(begin_headers));
        ng::nghttp2_session_callbacks_set_on_header_callback(callbacks, Some(header));
        ng::nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, Some(frame_recv));
        ng::nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, Some(data_chunk));
        ng::nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, Some(stream_close));
        ng::nghttp2_session_callbacks_set_send_data_callback(callbacks, Some(send_data));
        ng::nghttp2_option_set_no_auto_window_update(option, 1);
        ng::nghttp2_option_set_no_closed_streams(option, 1);
        ng::nghttp2_option_set_max_deflate_dynamic_table_size(option, 0);
        ng::nghttp2_option_set_max_outbound_ack(option, 1000);
        ng::nghttp2_option_set_max_settings(option, 32);
        ng::nghttp2_option_set_max_continuations(option, 8);
        ng::nghttp2_option_set_stream_reset_rate_limit(option, 100, 10);
        ng::nghttp2_option_set_glitch_rate_limit(option, 1000, 33);
        let new =
            if client { ng::nghttp2_session_client_new2 } else { ng::nghttp2_session_server_new2 };
        let made = new(&mut session, callbacks, user_data, option) == 0;
        ng::nghttp2_session_callbacks_del(callbacks);
        ng::nghttp2_option_del(option);
        assert!(made, "out of memory");
    }
    session
}

/// nghttp2's words for one of its errors.
pub(super) fn error_text(code: isize) -> String {
    // SAFETY: the function takes any number and returns a static string.
    let text = unsafe { CStr::from_ptr(ng::nghttp2_strerror(code as c_int)) };
    text.to_string_lossy().into_owned()
}

/// The state behind a callback.
///
/// # Safety
/// `user_data` is the pointer that `new_session` was given; it is alive as long as the session, and
/// the one `&mut Connection` that called nghttp2 is the only way to it.
unsafe fn state<'a>(user_data: *mut c_void) -> &'a mut State {
    // SAFETY: see above.
    unsafe { &mut *user_data.cast::<State>() }
}

unsafe extern "C" fn begin_headers(
    _: *mut ng::nghttp2_session,
    frame: *const ng::nghttp2_frame,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes a valid frame, and our state.
    let (state, hd) = unsafe { (state(user_data), (*frame).hd) };
    if state.stream == 0 {
        state.stream = hd.stream_id;
    }
    if hd.stream_id == state.stream {
        state.headers.clear();
        state.headers_len = 0;
    } else {
        state.refused.push(hd.stream_id);
    }
    0
}

unsafe extern "C" fn header(
    _: *mut ng::nghttp2_session,
    frame: *const ng::nghttp2_frame,
    name: *const u8,
    name_len: usize,
    value: *const u8,
    value_len: usize,
    _: u8,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes a valid frame, valid ranges, and our state.
    let (state, hd, name, value) = unsafe {
        (
            state(user_data),
            (*frame).hd,
            std::slice::from_raw_parts(name, name_len),
            std::slice::from_raw_parts(value, value_len),
        )
    };
    if hd.stream_id != state.stream {
        return 0;
    }
    state.headers_len = state.headers_len.saturating_add(name_len + value_len + 32);
    if state.headers_len > limits::MAX_HEADER_LIST {
        state.oversized = Some(state.headers_len);
        return 0;
    }
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    state.headers.push((text(name), text(value)));
    0
}

unsafe extern "C" fn frame_recv(
    _: *mut ng::nghttp2_session,
    frame: *const ng::nghttp2_frame,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes a valid frame, and our state.
    let (state, hd) = unsafe { (state(user_data), (*frame).hd) };
    let ours = hd.stream_id == state.stream && state.stream != 0;
    let end = hd.flags & ng::NGHTTP2_FLAG_END_STREAM as u8 != 0;
    match ng::nghttp2_frame_type::from(hd.type_) {
        ng::NGHTTP2_HEADERS if ours => {
            // SAFETY: the type says which member of the union is valid.
            let category = unsafe { (*frame).headers.cat };
            state.head_complete(category, end);
            if end {
                state.events.push(Event::EndOfStream);
            }
        }
        ng::NGHTTP2_DATA if ours && end => state.events.push(Event::EndOfStream),
        ng::NGHTTP2_PING if hd.flags & ng::NGHTTP2_FLAG_ACK as u8 != 0 => {
            state.events.push(Event::PingAck);
        }
        ng::NGHTTP2_GOAWAY => {
            // SAFETY: the type says which member of the union is valid.
            let (last_stream, code) =
                unsafe { ((*frame).goaway.last_stream_id, (*frame).goaway.error_code) };
            state.events.push(Event::GoAway { last_stream, code });
        }
        _ => {}
    }
    0
}

unsafe extern "C" fn data_chunk(
    _: *mut ng::nghttp2_session,
    _: u8,
    stream_id: i32,
    data: *const u8,
    len: usize,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes our state.
    let state = unsafe { state(user_data) };
    state.data_len = state.data_len.saturating_add(len);
    if stream_id == state.stream {
        let start = (data as usize).saturating_sub(state.input);
        state.events.push(Event::Data(start..start.saturating_add(len)));
    }
    0
}

unsafe extern "C" fn stream_close(
    _: *mut ng::nghttp2_session,
    stream_id: i32,
    code: u32,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes our state.
    let state = unsafe { state(user_data) };
    // A stream that we closed ourselves, while writing, is no news.
    if stream_id == state.stream && state.input != 0 {
        state.events.push(Event::Reset(code));
    }
    0
}

unsafe extern "C" fn read_data(
    session: *mut ng::nghttp2_session,
    stream_id: i32,
    _: *mut u8,
    length: usize,
    flags: *mut u32,
    _: *mut ng::nghttp2_data_source,
    user_data: *mut c_void,
) -> isize {
    // SAFETY: nghttp2 passes our state and a valid place for the flags.
    let (state, flags) = unsafe { (state(user_data), &mut *flags) };
    let len = state.queue.len().min(length);
    if len > 0 {
        *flags |= ng::NGHTTP2_DATA_FLAG_NO_COPY as u32;
        return len as isize;
    }
    match &state.finish {
        None => {
            state.deferred = true;
            ng::NGHTTP2_ERR_DEFERRED as isize
        }
        Some(None) => {
            *flags |= ng::NGHTTP2_DATA_FLAG_EOF as u32;
            0
        }
        Some(Some(trailers)) => {
            *flags |= (ng::NGHTTP2_DATA_FLAG_EOF | ng::NGHTTP2_DATA_FLAG_NO_END_STREAM) as u32;
            let trailers = super::fields(trailers);
            // SAFETY: may be called here (so its manual); the fields are copied.
            unsafe {
                ng::nghttp2_submit_trailer(session, stream_id, trailers.as_ptr(), trailers.len());
            }
            0
        }
    }
}

unsafe extern "C" fn send_data(
    _: *mut ng::nghttp2_session,
    _: *mut ng::nghttp2_frame,
    frame_head: *const u8,
    length: usize,
    _: *mut ng::nghttp2_data_source,
    user_data: *mut c_void,
) -> c_int {
    // SAFETY: nghttp2 passes our state and the nine bytes of a frame's head.
    let (state, head) = unsafe { (state(user_data), std::slice::from_raw_parts(frame_head, 9)) };
    state.out.extend_from_slice(head);
    let State { queue, out, .. } = state;
    queue.take(length, out);
    0
}
