//! HTTP/2 on nghttp2: one connection with one stream, as bytes in, events and bytes out.
//!
//! No sockets and no timers. nghttp2's callbacks only record what happened; everything is decided
//! after `nghttp2_session_mem_recv2` has returned. Payload is not copied on the way in (events
//! name ranges of the input) and copied once on the way out, from the stream's queue behind the
//! head of its DATA frame.
//!
//! nghttp2 is stricter than the published node in what it takes as a request: `:authority` (or
//! `host`) must be there, and `te` may only say `trailers`. Its limits on floods (resets,
//! "glitches", unanswered SETTINGS and PING) are part of the defence; they are counted with a
//! clock of its own. A second stream on a connection is refused (DESIGN decision 27).

mod callbacks;

use std::fmt;
use std::ops::Range;
use std::ptr;

use libnghttp2_sys as ng;

use crate::limits;
use callbacks::State;

/// What was found in received bytes, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Server: the request, pseudo headers included.
    RequestHead(Vec<(String, String)>),
    /// Client: the response, pseudo headers included.
    ResponseHead(Vec<(String, String)>),
    /// A second header block, which ends the stream.
    Trailers(Vec<(String, String)>),
    /// Payload of the stream: a range of the bytes given to [`Connection::receive`].
    Data(Range<usize>),
    /// The peer sends no more.
    EndOfStream,
    /// The stream is over, with this error code.
    Reset(u32),
    /// The peer will end the connection some time; the stream goes on (spec 01 section 1.3).
    GoAway {
        /// The last stream that it has looked at.
        last_stream: i32,
        /// Why.
        code: u32,
    },
    /// Our PING was answered.
    PingAck,
}

/// The connection cannot go on. What is still to be written may tell the peer why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The peer broke the protocol, or one of the limits on floods.
    Protocol(String),
    /// The peer's header block is over the limit, in bytes as RFC 9113 counts them.
    HeaderList(usize),
    /// The peer keeps opening streams that are refused.
    RefusedStreams,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Protocol(text) => f.write_str(text),
            Error::RefusedStreams => {
                write!(f, "more than {} streams had to be refused", limits::REFUSED_STREAMS)
            }
            Error::HeaderList(len) => {
                write!(f, "a header list of {len} bytes, {} allowed", limits::MAX_HEADER_LIST)
            }
        }
    }
}

impl std::error::Error for Error {}

/// One HTTP/2 connection.
pub struct Connection {
    session: *mut ng::nghttp2_session,
    /// Boxed: nghttp2 holds a pointer to it.
    state: Box<State>,
    refused: usize,
}

// SAFETY: a session has no ties to the thread that made it, and is only used through `&mut self`.
unsafe impl Send for Connection {}

const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

impl Connection {
    /// The side that opens the stream. Preface, settings and request are ready to be written.
    pub fn client<K: AsRef<str>, V: AsRef<str>>(head: &[(K, V)]) -> Connection {
        let mut connection = Connection::new(true);
        connection.settings(&[
            (ng::NGHTTP2_SETTINGS_ENABLE_PUSH, 0),
            (ng::NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, limits::STREAM_WINDOW),
            (ng::NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 16_384),
            (ng::NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits::MAX_HEADER_LIST as u32),
        ]);
        let head = fields(head);
        let provider = callbacks::provider();
        // SAFETY: the fields and the provider live until the call returns; nghttp2 copies them.
        let stream = unsafe {
            ng::nghttp2_submit_request2(
                connection.session,
                ptr::null(),
                head.as_ptr(),
                head.len(),
                &provider,
                ptr::null_mut(),
            )
        };
        connection.state.stream = stream.max(0);
        connection
    }

    /// The side that is dialled. Its settings are ready to be written.
    pub fn server() -> Connection {
        let mut connection = Connection::new(false);
        connection.settings(&[
            (ng::NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 16),
            (ng::NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, limits::STREAM_WINDOW),
            (ng::NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 16_384),
            (ng::NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits::MAX_HEADER_LIST as u32),
        ]);
        connection
    }

    fn new(client: bool) -> Connection {
        let mut state = Box::<State>::default();
        let session = callbacks::new_session(client, &mut state);
        Connection { session, state, refused: 0 }
    }

    fn settings(&mut self, entries: &[(ng::nghttp2_settings_id, u32)]) {
        let entries: Vec<_> = entries
            .iter()
            .map(|(id, value)| ng::nghttp2_settings_entry {
                settings_id: *id as i32,
                value: *value,
            })
            .collect();
        // SAFETY: the session is alive, and the entries are copied.
        unsafe {
            ng::nghttp2_submit_settings(self.session, 0, entries.as_ptr(), entries.len());
            ng::nghttp2_session_set_local_window_size(
                self.session,
                0,
                0,
                limits::CONNECTION_WINDOW as i32,
            );
        }
    }

    /// Takes bytes that arrived, at most [`limits::HTTP2_FEED`] at a time, and appends what they
    /// mean to `events`.
    pub fn receive(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        self.state.begin_input(bytes);
        // SAFETY: nghttp2 reads `bytes` during the call only; its callbacks get `self.state`,
        // which nobody else uses meanwhile.
        let read =
            unsafe { ng::nghttp2_session_mem_recv2(self.session, bytes.as_ptr(), bytes.len()) };
        let found = self.state.end_input();
        events.extend(found.events);
        // SAFETY: the session is alive. Errors mean that the stream is gone: nothing to give back.
        unsafe {
            ng::nghttp2_session_consume_connection(self.session, found.data_len);
            self.refused += found.refused.len();
            for stream in found.refused {
                ng::nghttp2_submit_rst_stream(self.session, 0, stream, REFUSED_STREAM);
            }
        }
        if self.refused > limits::REFUSED_STREAMS {
            self.goaway(ENHANCE_YOUR_CALM);
            return Err(Error::RefusedStreams);
        }
        if let Some(len) = found.oversized {
            self.goaway(ENHANCE_YOUR_CALM);
            return Err(Error::HeaderList(len));
        }
        match usize::try_from(read) {
            Ok(read) if read == bytes.len() => Ok(()),
            Ok(_) => Err(Error::Protocol("the connection was terminated".to_owned())),
            Err(_) => Err(Error::Protocol(callbacks::error_text(read))),
        }
    }

    /// Server: answers the request; with `end_stream` that is all.
    pub fn respond<K: AsRef<str>, V: AsRef<str>>(&mut self, head: &[(K, V)], end_stream: bool) {
        let head = fields(head);
        let provider = callbacks::provider();
        let provider = if end_stream { ptr::null() } else { ptr::from_ref(&provider) };
        // SAFETY: the session is alive; fields and provider are copied.
        unsafe {
            ng::nghttp2_submit_response2(
                self.session,
                self.state.stream,
                head.as_ptr(),
                head.len(),
                provider,
            );
        }
    }

    /// The stream's outbound bytes: append to them, do nothing else.
    pub fn send_buffer(&mut self) -> &mut Vec<u8> {
        self.state.queue.compact();
        &mut self.state.queue.bytes
    }

    /// Outbound bytes that are not yet part of a DATA frame.
    pub fn queued(&self) -> usize {
        self.state.queue.len()
    }

    /// Outbound bytes that ever became part of DATA frames.
    pub fn taken(&self) -> u64 {
        self.state.queue.taken
    }

    /// Ends our side of the stream after what is queued, with trailers or without.
    pub fn finish(&mut self, trailers: Option<&[(&str, &str)]>) {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        self.state.finish = Some(trailers.map(|list| list.iter().map(own).collect()));
    }

    /// Ends the stream at once; what is queued is dropped.
    pub fn reset(&mut self, code: u32) {
        self.state.queue.clear();
        // SAFETY: the session is alive.
        unsafe {
            ng::nghttp2_submit_rst_stream(self.session, 0, self.state.stream, code);
        }
    }

    /// Announces the end of the connection.
    pub fn goaway(&mut self, code: u32) {
        // SAFETY: the session is alive; there is no debug data.
        unsafe {
            let last = ng::nghttp2_session_get_last_proc_stream_id(self.session);
            ng::nghttp2_submit_goaway(self.session, 0, last, code, ptr::null(), 0);
        }
    }

    /// Asks whether the peer is alive.
    pub fn ping(&mut self, payload: [u8; 8]) {
        // SAFETY: the session is alive; the payload is copied.
        unsafe {
            ng::nghttp2_submit_ping(self.session, 0, payload.as_ptr());
        }
    }

    /// Lets the peer send so many more bytes on the stream. The connection's own window is given
    /// back as bytes arrive.
    pub fn consume(&mut self, stream_bytes: usize) {
        // SAFETY: the session is alive; a stream that is gone is an error that changes nothing.
        unsafe {
            ng::nghttp2_session_consume_stream(self.session, self.state.stream, stream_bytes);
        }
    }

    /// Whether the connection has ended itself: a limit on floods was passed, and GOAWAY is out.
    pub fn is_over(&self) -> bool {
        // SAFETY: the session is alive.
        unsafe { ng::nghttp2_session_want_read(self.session) == 0 }
    }

    /// Appends what may be sent to `out`, until nothing is left or `out` has `limit` bytes.
    pub fn write_output(&mut self, out: &mut Vec<u8>, limit: usize) -> Result<(), Error> {
        if self.state.deferred && (self.state.queue.len() > 0 || self.state.finish.is_some()) {
            self.state.deferred = false;
            // SAFETY: the session is alive; a stream without deferred data is left alone.
            unsafe {
                ng::nghttp2_session_resume_data(self.session, self.state.stream);
            }
        }
        std::mem::swap(&mut self.state.out, out);
        let result = self.write_frames(limit);
        std::mem::swap(&mut self.state.out, out);
        self.state.queue.shrink();
        result
    }

    fn write_frames(&mut self, limit: usize) -> Result<(), Error> {
        while self.state.out.len() < limit {
            let before = self.state.out.len();
            let mut data = ptr::null();
            // SAFETY: the session is alive. The bytes that it names are valid until the next call
            // on it. DATA frames are appended by its callback and give 0 here.
            let len = unsafe { ng::nghttp2_session_mem_send2(self.session, &mut data) };
            match usize::try_from(len) {
                Ok(0) if self.state.out.len() == before => break,
                Ok(0) => {}
                Ok(len) => {
                    // SAFETY: see above.
                    let bytes = unsafe { std::slice::from_raw_parts(data, len) };
                    self.state.out.extend_from_slice(bytes);
                }
                Err(_) => return Err(Error::Protocol(callbacks::error_text(len))),
            }
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed nowhere else.
        unsafe { ng::nghttp2_session_del(self.session) }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("queued", &self.queued()).finish_non_exhaustive()
    }
}

/// Header fields as nghttp2 takes them. It only reads them, though its type says `mut`.
fn fields<K: AsRef<str>, V: AsRef<str>>(head: &[(K, V)]) -> Vec<ng::nghttp2_nv> {
    let field = |(name, value): &(K, V)| {
        let (name, value) = (name.as_ref(), value.as_ref());
        ng::nghttp2_nv {
            name: name.as_ptr().cast_mut(),
            value: value.as_ptr().cast_mut(),
            namelen: name.len(),
            valuelen: value.len(),
            flags: 0,
        }
    };
    head.iter().map(field).collect()
}

#[cfg(test)]
mod tests;
