//! HTTP/2 for a link: one connection that carries one stream (spec 01 sections 1.1 to 1.4), on
//! nghttp2 (spec 06 section 3).
//!
//! Bytes of the peer go into [`Connection::receive`] and come out as [`Event`]s; what is to be sent
//! is queued and comes out of [`Connection::write_output`]. Nothing here reads sockets, splits gRPC
//! messages, negotiates or decides what an event means for a link, and nothing is called back.
//!
//! # What nghttp2 decides
//!
//! Where it is stricter than the published node, its verdict stands. Each of these ends the
//! connection with GOAWAY(PROTOCOL_ERROR), while the published node serves the request:
//!
//! * a request without `:authority` and without `host`;
//! * `te` with another value than `trailers`;
//! * `connection`, `keep-alive`, `proxy-connection`, `transfer-encoding` or `upgrade` headers;
//! * a `content-length` that is not what arrives, and two of them;
//! * upper-case header names, characters that do not belong into a pseudo header.
//!
//! Other headers with characters that are not allowed are dropped, the request is served.
//!
//! # Limits
//!
//! Header lists end at [`limits::MAX_HEADER_LIST`]. nghttp2's own limits on floods are set, not
//! left to its defaults: acknowledgements that wait, entries of SETTINGS, CONTINUATION frames,
//! stream resets, and glitches (PRIORITY, empty DATA, frames for closed streams). The last two are
//! rates, measured by nghttp2 with a clock of its own: the one clock in the core that is not
//! injected.
//!
//! # Order of what is sent
//!
//! Control frames overtake queued data. GOAWAY is one of them: it may stand in front of the DATA or
//! the trailers that were queued before it, and does not end the stream. The one of
//! [`Connection::goaway_at_end`] waits for both.

mod queue;
mod session;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use libnghttp2_sys as ffi;

use crate::limits;
use session::{Ending, Role, Session};

/// Names and values. What is not UTF-8 is replaced.
type Headers = Vec<(String, String)>;

/// What [`Connection::receive`] found, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Server: the header list of the stream's request, pseudo headers included.
    RequestHead(Vec<(String, String)>),
    /// Client: the header list of the final response (1xx responses are left out).
    ResponseHead(Vec<(String, String)>),
    /// The header list that ends the peer's side of the stream.
    Trailers(Vec<(String, String)>),
    /// Payload of DATA without padding, as offsets into the bytes that were given to this call.
    Data(Range<usize>),
    /// The peer's side of the stream has ended.
    EndOfStream,
    /// The stream was ended with this error code: by RST_STREAM of the peer, because its GOAWAY
    /// left it out, or by nghttp2. What was queued is dropped.
    Reset(u32),
    /// The peer takes no further streams. This is not the end of ours (spec 01 section 1.3).
    GoAway {
        /// The last stream that the peer takes.
        last_stream: i32,
        /// The error code; 0 is NO_ERROR.
        code: u32,
    },
    /// The answer to the latest [`Connection::ping`].
    PingAck,
}

/// The connection is dead. What [`Connection::write_output`] still gives, a GOAWAY perhaps, should
/// be sent before the byte stream is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The peer does not speak HTTP/2, or violated it in this way.
    Protocol(String),
    /// The peer sent a header list above [`limits::MAX_HEADER_LIST`].
    HeaderListTooLong,
    /// The peer sent more of something than is taken from it: of what.
    Flood(String),
    /// A header list of ours is longer than HTTP/2 can send.
    HeadersNotSent,
    /// nghttp2 failed, for lack of memory for example.
    Internal(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Protocol(what) => write!(f, "protocol error: {what}"),
            Error::HeaderListTooLong => {
                write!(f, "the peer sent more than {} bytes of headers", limits::MAX_HEADER_LIST)
            }
            Error::Flood(what) => write!(f, "the peer sent too much: {what}"),
            Error::HeadersNotSent => f.write_str("our headers are too long to be sent"),
            Error::Internal(what) => write!(f, "nghttp2 failed: {what}"),
        }
    }
}

impl std::error::Error for Error {}

/// One side of one HTTP/2 connection with its one stream.
pub struct Connection {
    session: Session,
    /// Control frames that are ready; they go before anything that nghttp2 still has.
    control: Vec<u8>,
    /// Queued by [`Connection::finish`] until the queue has drained.
    trailers: Option<Headers>,
    /// The GOAWAY that follows the end of our side of the stream.
    farewell: Option<u32>,
    /// Our side of the stream has its head: data and trailers may follow.
    open: bool,
    /// Data waits, see [`Connection::hold_back`].
    holds_back: bool,
    error: Option<Error>,
}

impl Connection {
    /// A client with its stream opened: preface, SETTINGS, WINDOW_UPDATE and HEADERS are ready, so
    /// that the first [`Connection::write_output`] gives all of them (spec 01 section 1.3).
    ///
    /// `head` is sent as it is, pseudo headers first; names are sent in lower case.
    pub fn client(head: &[(&str, &str)]) -> Connection {
        let mut connection = Connection::new(Role::Client);
        connection.session.submit_request(head);
        connection.open = true;
        connection
    }

    /// A server that waits for the stream. SETTINGS and WINDOW_UPDATE are ready at once, before
    /// anything of the client has arrived (spec 01 section 1.3).
    pub fn server() -> Connection {
        let mut connection = Connection::new(Role::Server);
        connection.make_control_ready();
        connection
    }

    fn new(role: Role) -> Connection {
        let mut session = Session::new(role);
        let first = match role {
            Role::Client => (ffi::NGHTTP2_SETTINGS_ENABLE_PUSH, 0),
            Role::Server => {
                (ffi::NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits::CONCURRENT_STREAMS)
            }
        };
        session.submit_settings(&[
            first,
            (ffi::NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, limits::STREAM_WINDOW),
            (ffi::NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 16_384),
            (ffi::NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits::MAX_HEADER_LIST as u32),
        ]);
        session.set_connection_window(limits::CONNECTION_WINDOW);
        Connection {
            session,
            control: Vec::new(),
            trailers: None,
            farewell: None,
            open: false,
            holds_back: false,
            error: None,
        }
    }

    /// Takes bytes of the peer, at most [`limits::HTTP2_FEED`] at a time, and appends what is in
    /// them to `events`. All bytes are consumed; [`Event::Data`] points into them.
    ///
    /// The connection's window is given back here for every byte of DATA, padding included. The
    /// stream's is given back by [`Connection::consume`], except padding.
    ///
    /// # Errors
    ///
    /// When the connection is dead, now and in every later call. What was found before the cause
    /// is in `events`.
    pub fn receive(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        debug_assert!(bytes.len() <= limits::HTTP2_FEED, "fed more than events are bounded for");
        match self.session.feed(bytes) {
            Ok(()) => self.after_feeding(),
            Err(code) => self.give_up(code),
        }
        let found = &mut self.session.record_mut().events;
        events.append(found);
        found.shrink_to(limits::KEPT_EVENTS);
        self.error.clone().map_or(Ok(()), Err)
    }

    /// Server: the response's head. With `end_stream` it is all of the response, otherwise data
    /// follows. Without a request it does nothing.
    pub fn respond(&mut self, head: &[(&str, &str)], end_stream: bool) {
        let record = self.session.record();
        if record.role == Role::Server && record.stream != 0 && !record.over && !self.open {
            self.session.submit_response(head, end_stream);
            self.open = true;
            if end_stream {
                self.session.record_mut().queue.clear();
            } else {
                self.send_trailers_if_due();
            }
        }
    }

    /// Appends `bytes` to the stream's data. The caller bounds the queue, see
    /// [`Connection::queued`].
    pub fn send(&mut self, bytes: &[u8]) {
        self.send_buffer().extend_from_slice(bytes);
    }

    /// The same queue, to encode into: append only, what is in front is not the caller's. Taking
    /// back what was just appended is allowed.
    pub fn send_buffer(&mut self) -> &mut Vec<u8> {
        self.session.record_mut().queue.buffer()
    }

    /// Whether queued data waits, whatever the windows say. Control frames go on.
    pub fn hold_back(&mut self, data: bool) {
        self.holds_back = data;
    }

    /// Bytes of data that are not yet in a DATA frame.
    pub fn queued(&self) -> usize {
        self.session.record().queue.len()
    }

    /// Bytes of data that were ever put into DATA frames. Dropped data does not count.
    pub fn taken(&self) -> u64 {
        self.session.record().queue.taken()
    }

    /// Ends our side of the stream once the queue has drained: with trailers, or with END_STREAM
    /// on the last DATA frame (an empty one if there is no data left; even that needs a window,
    /// unlike trailers). Only the first call counts; nothing may be queued after it.
    pub fn finish(&mut self, trailers: Option<&[(&str, &str)]>) {
        let record = self.session.record_mut();
        if record.ending != Ending::Open {
            return;
        }
        record.ending = match trailers {
            None => Ending::Data,
            Some(_) => Ending::Trailers,
        };
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        self.trailers = trailers.map(|trailers| trailers.iter().map(owned).collect());
        self.send_trailers_if_due();
    }

    /// Ends the stream in both directions with RST_STREAM and drops what is queued. No event of
    /// the stream follows.
    pub fn reset(&mut self, code: u32) {
        if !self.session.record().over {
            self.session.submit_reset(code);
        }
        let record = self.session.record_mut();
        record.abandoned = true;
        record.queue.clear();
        self.trailers = None;
    }

    /// Announces with GOAWAY that no further streams are taken. Ours goes on.
    pub fn goaway(&mut self, code: u32) {
        self.session.submit_goaway(code);
    }

    /// The same, once our side of the stream has ended: nothing of it follows the GOAWAY, which some
    /// stacks (python-h2) take for the end of everything.
    pub fn goaway_at_end(&mut self, code: u32) {
        self.farewell = Some(code);
    }

    /// Sends a PING. Its answer is [`Event::PingAck`]; an earlier one is waited for no longer.
    pub fn ping(&mut self, payload: [u8; 8]) {
        self.session.record_mut().ping = Some(payload);
        self.session.submit_ping(payload);
    }

    /// Gives back window of the stream for so many bytes of [`Event::Data`].
    pub fn consume(&mut self, stream_bytes: usize) {
        self.session.consume_stream(stream_bytes);
    }

    /// Appends frames to `out` until there is nothing left that may be sent, or `out` has `limit`
    /// bytes. The last frame, and control frames made ready before, may exceed the limit.
    ///
    /// All data that waits shares DATA frames of up to 16,384 bytes, as far as the windows allow.
    ///
    /// # Errors
    ///
    /// When the connection turns out to be dead here; `out` has what should still be sent.
    pub fn write_output(&mut self, out: &mut Vec<u8>, limit: usize) -> Result<(), Error> {
        if out.len() >= limit {
            return Ok(());
        }
        out.append(&mut self.control);
        self.control.shrink_to(limits::KEPT_CONTROL);
        let dead = self.error.is_some();
        loop {
            self.session.resume();
            if let Err(code) = self.session.drain(out, limit, self.holds_back) {
                self.give_up(code);
            }
            let more = self.send_trailers_if_due() | self.say_farewell_if_due();
            if !more || out.len() >= limit {
                break;
            }
        }
        let record = self.session.record_mut();
        match record.over || record.abandoned {
            true => record.queue.clear(),
            false => record.queue.tidy(),
        }
        self.note_failure();
        match &self.error {
            Some(error) if !dead => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Whether [`Connection::write_output`] would give something: control frames, or data that the
    /// peer's windows have room for.
    pub fn wants_write(&self) -> bool {
        let record = self.session.record();
        let data =
            !self.holds_back && record.deferred && record.has_data() && self.session.has_window();
        !self.control.is_empty() || data || self.session.wants_write()
    }

    /// Whether there is nothing more to read or to write: the connection is dead, or the stream is
    /// over, and everything was given out.
    pub fn is_closed(&self) -> bool {
        let over = self.error.is_some() || self.session.record().over;
        !self.wants_write() && (over || !self.session.wants_read())
    }

    /// Whether our side has ended, as [`Connection::finish`] or an error will have it, and all of it
    /// was given out: what was queued, the end of the stream, the GOAWAY behind it.
    pub fn is_drained(&self) -> bool {
        let record = self.session.record();
        let over = record.over || record.abandoned || self.error.is_some();
        (over || record.finished && self.farewell.is_none()) && !self.wants_write()
    }

    /// Trailers go when no data is left before them.
    fn send_trailers_if_due(&mut self) -> bool {
        if !self.open || !self.session.record().queue.is_empty() {
            return false;
        }
        let Some(trailers) = self.trailers.take() else {
            return false;
        };
        let trailers: Vec<_> = trailers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        self.session.submit_trailers(&trailers);
        true
    }

    fn say_farewell_if_due(&mut self) -> bool {
        if !self.session.record().finished {
            return false;
        }
        let Some(code) = self.farewell.take() else { return false };
        self.goaway(code);
        true
    }

    /// Gives back the connection's window, makes control frames ready (so that what nghttp2 has
    /// decided shows) and checks the limits that it does not.
    fn after_feeding(&mut self) {
        self.session.consume_connection();
        let record = self.session.record();
        if let Some((code, what)) = record.violation {
            self.end_with(code, Error::Protocol(what.to_owned()));
        }
        let record = self.session.record();
        let excess = if record.oversized {
            Some(Error::HeaderListTooLong)
        } else if record.refused > limits::REFUSED_STREAMS {
            Some(Error::Flood("streams besides the first".to_owned()))
        } else if record.most_continuations > limits::CONTINUATIONS {
            Some(Error::Flood("CONTINUATION frames".to_owned()))
        } else {
            None
        };
        self.end_if(excess);
        self.make_control_ready();
        self.note_failure();
        let flood = self.session.waiting_frames() > limits::WAITING_FRAMES;
        self.end_if(flood.then(|| Error::Flood("frames that need an answer".to_owned())));
    }

    fn make_control_ready(&mut self) {
        if let Err(code) = self.session.drain(&mut self.control, limits::READY_CONTROL, true) {
            self.give_up(code);
        }
    }

    fn end_if(&mut self, error: Option<Error>) {
        if let Some(error) = error {
            self.end_with(ffi::NGHTTP2_ENHANCE_YOUR_CALM, error);
        }
    }

    fn end_with(&mut self, code: u32, error: Error) {
        if self.error.is_none() {
            self.session.terminate(code);
            self.error = Some(error);
        }
    }

    /// Whether nghttp2 has ended the connection, or could not send what it was given.
    fn note_failure(&mut self) {
        if self.error.is_some() {
            return;
        }
        let record = self.session.record();
        if let Some((code, reason)) = &record.failed {
            let name = session::code_name(*code);
            match (*code, reason.as_str()) {
                (ffi::NGHTTP2_ENHANCE_YOUR_CALM, _) => {
                    self.error = Some(Error::Flood("suspicious frames".to_owned()));
                }
                // Too many RST_STREAM: the one case in which nghttp2 would read on.
                (ffi::NGHTTP2_INTERNAL_ERROR, "") => {
                    self.end_if(Some(Error::Flood("stream resets".to_owned())));
                }
                (_, "") => self.error = Some(Error::Protocol(name)),
                (_, reason) => self.error = Some(Error::Protocol(format!("{name} ({reason})"))),
            }
        } else if record.unsendable {
            self.error = Some(Error::HeadersNotSent);
        }
    }

    /// nghttp2 gives nothing more, not even a GOAWAY: that one is written here.
    fn give_up(&mut self, code: i32) {
        let text = session::error_text(code);
        let (error, goaway) = match code {
            ffi::NGHTTP2_ERR_BAD_CLIENT_MAGIC => {
                (Error::Protocol("this is not HTTP/2: no client preface".to_owned()), None)
            }
            ffi::NGHTTP2_ERR_FLOODED | ffi::NGHTTP2_ERR_TOO_MANY_CONTINUATIONS => {
                (Error::Flood(text), Some(ffi::NGHTTP2_ENHANCE_YOUR_CALM))
            }
            _ => (Error::Internal(text), Some(ffi::NGHTTP2_INTERNAL_ERROR)),
        };
        if let Some(code) = goaway {
            let last_stream = self.session.record().stream;
            self.control.extend_from_slice(&[0, 0, 8, ffi::NGHTTP2_GOAWAY as u8, 0, 0, 0, 0, 0]);
            self.control.extend_from_slice(&last_stream.to_be_bytes());
            self.control.extend_from_slice(&code.to_be_bytes());
        }
        self.error.get_or_insert(error);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("stream", &self.session.record().stream)
            .field("queued", &self.queued())
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}
