//! One link: HTTP/2 and gRPC on top of a byte stream, the negotiation, the MAC of each hop,
//! keepalive, and the outbound buffer (spec 01 sections 1, 5).
//!
//! A link is fed the bytes of a socket (or of a TLS session, which slides in between) and says
//! what they mean: it came up, a frame arrived, it is over. It does not dial, retry or route.

pub mod key;
mod negotiation;
mod outbound;

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::clock::Now;
use crate::entropy::Entropy;
use crate::grpc;
use crate::http2;
use crate::limits;
use crate::wire::{Frame, FrameError, FrameKind, LinkConnectionType, Message, Parsed};
use key::{KeyExchange, LinkKey};
pub use negotiation::{Identity, NegotiationError};
pub use outbound::Origin;
use outbound::Taken;

/// What a link needs to know before it starts.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Who we are in the negotiation.
    pub identity: Identity,
    /// Refuse links without a key and unsigned messages.
    pub require_header_mac: bool,
    /// How long the negotiation may take.
    pub negotiation_timeout: Duration,
    /// Send a PING after this time without a byte from the peer; zero: never.
    pub ping_after: Duration,
    /// A PING that is not answered in this time ends the link.
    pub ping_timeout: Duration,
    /// How old the link may become; `None`: any age.
    pub age: Option<Age>,
    /// A peer that takes nothing for this long, while data waits, is stuck.
    pub stuck_timeout: Duration,
}

/// How old a link may become (spec 01 section 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// The peer is told then, with GOAWAY, to make a new one.
    pub limit: Duration,
    /// And has so much more time for it, before this one is ended.
    pub grace: Duration,
}

/// What a dialled link needs beyond that.
#[derive(Clone, Debug)]
pub struct DialConfig {
    /// Names the link across reconnects.
    pub link_id: String,
    /// What we want to be for the acceptor.
    pub connection_type: LinkConnectionType,
    /// `:scheme`.
    pub scheme: String,
    /// `:authority`.
    pub authority: String,
    /// Further headers of the request.
    pub headers: Vec<(String, String)>,
    /// How long the head of the response may take.
    pub response_timeout: Duration,
}

/// What a link says.
#[derive(Debug)]
pub enum Event {
    /// The negotiation is done; frames may flow.
    Up {
        /// What the other side is to be treated as.
        connection_type: LinkConnectionType,
        /// The other side's node.
        node_id: String,
    },
    /// A frame whose MAC was right. Not yet validated. Its bytes may be in what
    /// [`Link::handle_bytes`] was given: it must be looked at with that very slice, before more is
    /// given.
    Frame {
        /// Where it is.
        body: grpc::Body,
        /// What it means.
        parsed: Parsed,
    },
    /// Bytes of this origin have left the outbound buffer.
    Taken(Origin, usize),
    /// The node that we dialled will end the connection before long. The link goes on until then,
    /// but another should take its place.
    Leaving,
    /// The link is over. What is still in the outbound buffer should be flushed, then the byte
    /// stream closed.
    Closed(CloseReason),
}

/// Why a link is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// In words, for people.
    pub text: String,
    /// Whether dialling again may help: not after a refusal by policy or authentication.
    pub retry: bool,
    /// The other side does not believe who we are.
    pub is_authentication: bool,
}

impl CloseReason {
    /// A reason after which dialling again may help.
    pub fn retry(text: impl Into<String>) -> CloseReason {
        CloseReason { text: text.into(), retry: true, is_authentication: false }
    }

    /// A reason after which it will not.
    pub fn last(text: impl Into<String>) -> CloseReason {
        CloseReason { text: text.into(), retry: false, is_authentication: false }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How far a link has come. Each state has what is valid in it.
#[derive(Debug)]
enum State {
    /// Acceptor: the request has not arrived.
    AwaitRequest { until: Instant },
    /// Dialler: the response head has not arrived; nothing may be sent before it.
    AwaitResponse { until: Instant, exchange: KeyExchange },
    /// Dialler: the request is out, the reply has not arrived.
    AwaitReply { until: Instant, exchange: KeyExchange },
    /// Acceptor: the negotiation request has not arrived.
    AwaitNegotiation { until: Instant },
    /// Frames flow.
    Up,
    /// Over.
    Closed,
}

/// One link.
pub struct Link {
    config: LinkConfig,
    /// `None` for an accepted link.
    dial: Option<DialConfig>,
    http2: http2::Connection,
    decoder: grpc::Decoder,
    state: State,
    key: Option<LinkKey>,
    signs: bool,
    events: VecDeque<Event>,
    origins: Taken,
    out: Vec<u8>,
    out_head: usize,
    /// Where the last DATA frame in `out` ends.
    data_end: usize,
    heard: Instant,
    ping_sent: Option<Instant>,
    born: Instant,
    /// The peer was told that the link is old.
    told_age: bool,
    /// And has ended it, as it was asked to.
    handed_over: bool,
    /// Replaced by another: nothing more is sent, and it ends then at the latest.
    retired: Option<Instant>,
    /// Nothing is sent yet: the link whose place it takes has not ended.
    holds_back: bool,
    /// Over, but the HTTP/2 connection is still served: the peer may have something to read.
    lingers: bool,
    /// Bytes of the stream whose window is not given back yet.
    unconsumed: usize,
    /// Bytes of messages in transit that their targets have not taken yet.
    held: usize,
    /// When the peer last took something, or there was nothing to take.
    progress: Instant,
    is_stuck: bool,
    connection_type: LinkConnectionType,
    /// The peer is of this library, too.
    ours: bool,
    scratch: Vec<http2::Event>,
}

impl Link {
    /// A link that we open: its request is ready to be written.
    pub fn dial(config: LinkConfig, dial: DialConfig, now: Now, entropy: &mut dyn Entropy) -> Link {
        let exchange = KeyExchange::new(entropy);
        let agent = format!("libslim/{}", crate::VERSION);
        let head = grpc::request_head(&dial.scheme, &dial.authority, &agent, &dial.headers);
        let http2 = http2::Connection::client(&borrowed(&head));
        let until = now.mono + dial.response_timeout;
        let state = State::AwaitResponse { until, exchange };
        Link::new(config, Some(dial), http2, state, now)
    }

    /// A link that somebody opens to us.
    pub fn accept(config: LinkConfig, now: Now) -> Link {
        let until = now.mono + limits::REQUEST_TIMEOUT;
        Link::new(config, None, http2::Connection::server(), State::AwaitRequest { until }, now)
    }

    fn new(
        config: LinkConfig,
        dial: Option<DialConfig>,
        http2: http2::Connection,
        state: State,
        now: Now,
    ) -> Link {
        Link {
            config,
            dial,
            http2,
            decoder: grpc::Decoder::new(),
            state,
            key: None,
            signs: true,
            events: VecDeque::new(),
            origins: Taken::default(),
            out: Vec::new(),
            out_head: 0,
            data_end: 0,
            heard: now.mono,
            ping_sent: None,
            born: now.mono,
            told_age: false,
            handed_over: false,
            retired: None,
            holds_back: false,
            lingers: false,
            unconsumed: 0,
            held: 0,
            progress: now.mono,
            is_stuck: false,
            connection_type: LinkConnectionType::Edge,
            ours: false,
            scratch: Vec::new(),
        }
    }

    /// Whether frames flow.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether it is over in good order, so that its byte stream should stay for a moment: the peer
    /// is to see the end of the stream before the end of the connection.
    pub fn lingers(&self) -> bool {
        self.lingers
    }

    /// Whether the peer has ended it because it was told that it is old: another link takes its
    /// place.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over
    }

    /// Takes bytes that arrived, at most [`limits::HTTP2_FEED`] at once.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Now, entropy: &mut dyn Entropy) {
        self.heard = now.mono;
        self.ping_sent = None;
        if self.is_closed() && !self.lingers {
            return;
        }
        let mut found = std::mem::take(&mut self.scratch);
        let result = self.http2.receive(bytes, &mut found);
        for event in found.drain(..) {
            self.handle_http2(event, bytes, now, entropy);
        }
        self.scratch = found;
        if let Err(error) = result {
            self.lingers = false;
            self.over(CloseReason::retry(format!("HTTP/2 error: {error}")));
        }
    }

    /// The byte stream has ended or failed.
    pub fn handle_disconnect(&mut self, cause: &str) {
        let text = match self.state {
            State::Up => cause.to_owned(),
            _ => format!("{cause} during negotiation"),
        };
        self.over(CloseReason::retry(text));
    }

    /// When [`Link::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let other = [self.stuck_at(), self.age_at(), self.retired];
        other.into_iter().flatten().chain(self.state_until()).min()
    }

    /// When the state has lasted too long, or a PING is due or its answer.
    fn state_until(&self) -> Option<Instant> {
        match &self.state {
            State::AwaitRequest { until }
            | State::AwaitResponse { until, .. }
            | State::AwaitReply { until, .. }
            | State::AwaitNegotiation { until } => Some(*until),
            State::Up if self.config.ping_after.is_zero() => None,
            State::Up => Some(match self.ping_sent {
                Some(sent) => sent + self.config.ping_timeout,
                None => self.heard + self.config.ping_after,
            }),
            State::Closed => None,
        }
    }

    /// When the peer is told that the link is old, then when it ends.
    fn age_at(&self) -> Option<Instant> {
        let age = self.config.age.filter(|_| self.is_up())?;
        let told = self.born + age.limit;
        Some(if self.told_age { told + age.grace } else { told })
    }

    /// When the peer counts as stuck; `None` while no data waits for it, or if it already does. A
    /// node that we dialled as a leaf never does: it holds our window back for those who are slow
    /// behind it, and whether it lives is found by PINGs.
    fn stuck_at(&self) -> Option<Instant> {
        let applies = self.dial.is_none() || self.connection_type != LinkConnectionType::Edge;
        let waits = self.is_up() && !self.is_stuck && self.data_waits();
        (applies && waits).then(|| self.progress + self.config.stuck_timeout)
    }

    /// Whether DATA waits for the peer; control frames do not count.
    fn data_waits(&self) -> bool {
        !self.holds_back && self.http2.queued() > 0 || self.out_head < self.data_end
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        if due(self.stuck_at()) {
            return self.on_stuck();
        }
        if due(self.age_at()) {
            return self.on_age();
        }
        if due(self.retired) {
            return self.cancel("replaced by another link");
        }
        if !due(self.state_until()) {
            return;
        }
        match (&self.state, self.ping_sent) {
            (State::AwaitRequest { .. }, _) => {
                self.over(CloseReason::retry("no request arrived in time"));
            }
            (State::AwaitResponse { .. }, _) => self.cancel("no response head arrived in time"),
            (State::AwaitReply { .. }, _) => {
                self.cancel("timed out waiting for the link negotiation");
            }
            (State::AwaitNegotiation { .. }, _) => {
                self.refuse(0, "", "timed out waiting for the link negotiation");
            }
            (State::Up, None) => {
                self.ping_sent = Some(now.mono);
                self.http2.ping(*b"libslim.");
            }
            (State::Up, Some(_)) => {
                self.http2.goaway(0);
                self.over(CloseReason::retry("no answer to a ping: the peer is dead"));
            }
            (State::Closed, _) => {}
        }
    }

    /// The peer has taken nothing for too long. A leaf is cut; a link between nodes stays, and what
    /// is in transit to it is dropped until it moves again.
    fn on_stuck(&mut self) {
        if self.connection_type == LinkConnectionType::Edge {
            self.http2.goaway(0);
            let time = self.config.stuck_timeout;
            return self.over(CloseReason::retry(format!("the peer took nothing for {time:?}")));
        }
        log::warn!("a node takes nothing: messages for it are dropped");
        self.is_stuck = true;
        // Those who sent what waits here are not held up any longer; it may still get there.
        let events = &mut self.events;
        self.origins.forgive(|origin, bytes| events.push_back(Event::Taken(origin, bytes)));
    }

    /// An old link is announced to end, then ended.
    fn on_age(&mut self) {
        if std::mem::replace(&mut self.told_age, true) {
            return self.close("the link has reached its greatest age");
        }
        self.http2.goaway(0);
    }

    /// Another link has taken the place of this one: what is queued goes out, then our side of the
    /// stream ends. What the peer still sends is taken until it ends its own.
    pub fn retire(&mut self, now: Now) {
        if self.is_up() && self.retired.is_none() {
            self.retired = Some(now.mono + limits::RETIRED_LINK);
            self.http2.finish(None);
        }
    }

    /// Whether frames wait until the link whose place this one takes has ended.
    pub fn hold_back(&mut self, frames: bool, now: Now) {
        self.holds_back = frames;
        self.http2.hold_back(frames);
        self.progress = now.mono;
    }

    /// Bytes of a message in transit: their window is given back when their target took them.
    pub fn hold(&mut self, len: usize) {
        self.held += len;
    }

    /// A target took them.
    pub fn release(&mut self, len: usize) {
        self.held = self.held.saturating_sub(len);
        self.grant();
    }

    /// Bytes that the peer may not replace by new ones yet.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Gives back the window of everything that is not held.
    fn grant(&mut self) {
        let free = self.unconsumed.saturating_sub(self.held);
        if free > 0 {
            self.unconsumed -= free;
            self.http2.consume(free);
        }
    }

    /// What has happened since.
    pub fn poll_output(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            // One read may bring thousands.
            self.events.shrink_to(limits::KEPT_EVENTS);
        }
        self.events.pop_front()
    }

    /// Sends a frame. `incoming` is the connection that it came over, `limit` the longest message
    /// that the other side takes.
    pub fn send(
        &mut self,
        frame: &mut Frame<'_>,
        incoming: Option<u64>,
        origin: Origin,
        limit: usize,
        now: Now,
    ) -> Result<(), FrameError> {
        if !self.is_up() || self.retired.is_some() {
            return Err(FrameError::Invalid("the link is not up"));
        }
        if self.is_stuck && matches!(origin, Origin::Transit(_) | Origin::Fanout(_)) {
            return Err(FrameError::Invalid("the next node takes nothing"));
        }
        self.begin_waiting(now);
        let key = if self.signs { self.key.as_ref() } else { None };
        let buffer = self.http2.send_buffer();
        let before = buffer.len();
        let mark = grpc::begin_message(buffer);
        if let Err(error) = frame.encode(incoming, key, limit, buffer) {
            buffer.truncate(before);
            return Err(error);
        }
        grpc::end_message(buffer, mark);
        let len = buffer.len() - before;
        self.origins.push(origin, len);
        Ok(())
    }

    /// Something is about to wait: it has waited since now, unless something else did before.
    fn begin_waiting(&mut self, now: Now) {
        if !self.data_waits() {
            self.progress = now.mono;
        }
    }

    /// Sends a message that carries no header: negotiation or ack.
    fn send_message(&mut self, message: Message) {
        let mut frame = Frame::new(Box::new(message));
        let buffer = self.http2.send_buffer();
        let before = buffer.len();
        let mark = grpc::begin_message(buffer);
        // Neither kind can be too long.
        let _ = frame.encode(None, None, usize::MAX, buffer);
        grpc::end_message(buffer, mark);
        let len = buffer.len() - before;
        self.origins.push(Origin::Own, len);
    }

    /// Acknowledges a subscription. A peer that asks for more than it reads gets no more than
    /// [`limits::WAITING_ACKS`].
    pub fn send_ack(&mut self, ack: crate::wire::SubscriptionAck, now: Now) {
        self.begin_waiting(now);
        if self.origins.own() >= limits::WAITING_ACKS {
            log::debug!("an acknowledgement was dropped: too many wait");
        } else if self.is_up() && self.retired.is_none() {
            let message_type = Some(crate::wire::MessageType::SubscriptionAck(ack));
            self.send_message(Message { message_type, ..Message::default() });
        }
    }

    /// Of these, bytes of what comes again by itself.
    pub fn repeats(&self) -> usize {
        self.origins.repeats()
    }

    /// Bytes that wait for the peer: in the stream's queue and in the socket's buffer.
    pub fn backlog(&self) -> usize {
        self.http2.queued() + self.out.len() - self.out_head
    }

    /// Whether the peer writes what it has at once. Published ones leave Nagle's algorithm on: they wait
    /// for the acknowledgement of what they wrote before.
    pub fn peer_writes_at_once(&self) -> bool {
        self.ours
    }

    /// Moves what may be sent into the socket's buffer and gives that out. Take what was written
    /// off with [`Link::wrote`].
    pub fn output(&mut self) -> &[u8] {
        if self.out_head == self.out.len() || self.out_head >= limits::SOCKET_BUFFER {
            self.out.drain(..self.out_head);
            self.data_end = self.data_end.saturating_sub(self.out_head);
            self.out_head = 0;
        }
        self.fill_output(self.out_head + limits::SOCKET_BUFFER);
        &self.out[self.out_head..]
    }

    /// What is left to be written when nothing more will be sent: all that the peer's windows take.
    pub fn rest(&mut self) -> &[u8] {
        self.fill_output(usize::MAX);
        &self.out[self.out_head..]
    }

    fn fill_output(&mut self, limit: usize) {
        if self.out.len() < limit {
            let before = self.http2.taken();
            if let Err(error) = self.http2.write_output(&mut self.out, limit) {
                self.over(CloseReason::retry(format!("HTTP/2 error: {error}")));
            }
            if self.http2.taken() != before {
                self.data_end = self.out.len();
            }
            let events = &mut self.events;
            self.origins.taken(self.http2.taken(), |origin, bytes| {
                events.push_back(Event::Taken(origin, bytes));
            });
        }
    }

    /// The first `len` bytes of [`Link::output`] have been written.
    pub fn wrote(&mut self, len: usize, now: Now) {
        if len > 0 && self.out_head < self.data_end {
            self.progress = now.mono;
            self.is_stuck = false;
        }
        self.out_head = (self.out_head + len).min(self.out.len());
        if self.out_head == self.out.len() {
            self.out_head = 0;
            self.data_end = 0;
            if self.out.capacity() > limits::SOCKET_BUFFER {
                self.out = Vec::new();
            } else {
                self.out.clear();
            }
        }
    }

    /// Ends the link from this side.
    pub fn close(&mut self, text: &str) {
        match self.dial {
            Some(_) => self.cancel(text),
            None => self.refuse(0, "", text),
        }
    }

    /// The same, but what is queued goes out first, and a dialled link ends its stream behind it: a
    /// reset, as of the published client, would allow the other side to throw away what it has not
    /// read yet.
    pub fn drain(&mut self, text: &str) {
        if self.is_closed() {
            return;
        }
        if self.dial.is_some() && self.is_up() {
            self.lingers = true;
            return self.end_stream(CloseReason::retry(text));
        }
        self.close(text);
    }

    /// Whether this side opened it.
    pub fn is_dialled(&self) -> bool {
        self.dial.is_some()
    }

    /// Whether everything was written, the end of the stream included.
    pub fn is_drained(&self) -> bool {
        self.out_head == self.out.len() && self.http2.is_drained()
    }

    fn handle_http2(
        &mut self,
        event: http2::Event,
        bytes: &[u8],
        now: Now,
        entropy: &mut dyn Entropy,
    ) {
        if self.is_closed() {
            return;
        }
        match event {
            http2::Event::RequestHead(head) => self.on_request(&head, now),
            http2::Event::ResponseHead(head) => self.on_response(&head, now),
            http2::Event::Data(range) => {
                let at = range.start;
                if let Some(data) = bytes.get(range) {
                    self.unconsumed += data.len();
                    self.on_data(data, at, entropy);
                    self.grant();
                }
            }
            http2::Event::Trailers(trailers) => self.on_trailers(&trailers),
            http2::Event::EndOfStream => match self.dial {
                // Half-close is the end of a link (spec 01 section 1.4).
                None => {
                    self.handed_over = self.told_age;
                    self.refuse(0, "", "the peer closed the link");
                }
                Some(_) => self.cancel("the peer closed the link"),
            },
            http2::Event::Reset(code) => {
                self.http2.goaway(0);
                self.over(CloseReason::retry(format!("stream reset by the peer (code {code})")));
            }
            http2::Event::GoAway { .. } if matches!(self.state, State::AwaitRequest { .. }) => {
                self.over(CloseReason::retry("the client left before it asked for anything"));
            }
            http2::Event::GoAway { code, .. } => {
                // The stream is none the worse for it (spec 01 section 1.3).
                if code == 0 && self.dial.is_some() && self.is_up() {
                    self.events.push_back(Event::Leaving);
                }
                log::debug!("the peer announced the end of the connection (code {code})");
            }
            http2::Event::PingAck => {}
        }
    }

    fn on_request(&mut self, head: &[(String, String)], now: Now) {
        match grpc::check_request(head) {
            Ok(()) => {
                self.http2.respond(&grpc::response_head(), false);
                let until = now.mono + self.config.negotiation_timeout;
                self.state = State::AwaitNegotiation { until };
            }
            Err(answer) => {
                self.http2.respond(&borrowed(&answer), true);
                self.lingers = true;
                self.over(CloseReason::last("not a request for a SLIM link"));
            }
        }
    }

    fn on_response(&mut self, head: &[(String, String)], now: Now) {
        let status = field(head, ":status").unwrap_or("");
        match status {
            "200" if field(head, "grpc-status").is_some() => self.on_trailers(head),
            "200" => self.start_negotiation(now),
            "401" | "403" => {
                let text = format!("authentication refused by the server (HTTP status {status})");
                self.over(CloseReason { is_authentication: true, ..CloseReason::last(text) });
            }
            other => {
                let text = format!("HTTP status {other} instead of a SLIM link");
                self.over(CloseReason::retry(text));
            }
        }
    }

    fn on_trailers(&mut self, trailers: &[(String, String)]) {
        let code = field(trailers, "grpc-status").unwrap_or("missing");
        let message = grpc::decode_message(field(trailers, "grpc-message").unwrap_or(""));
        let reason = match (code, message.as_str()) {
            ("0", _) => CloseReason::retry(self.while_in_state("the node closed the link")),
            // PERMISSION_DENIED, UNAUTHENTICATED, UNIMPLEMENTED: asking again gives the same.
            ("7" | "16" | "12", _) => {
                let text = format!("refused by the node: {message} (gRPC status {code})");
                CloseReason { is_authentication: code == "16", ..CloseReason::last(text) }
            }
            (_, "") => CloseReason::retry(format!("gRPC status {code}")),
            (_, text) => CloseReason::retry(format!("gRPC status {code}: {text}")),
        };
        self.end_stream(reason);
    }

    /// A node that ends a link while negotiating gives no reason (spec 01 pitfall 7).
    fn while_in_state(&self, text: &str) -> String {
        match self.state {
            State::Up => text.to_owned(),
            _ => format!(
                "{text} during negotiation (another wire version, strict header MAC, PQC or \
                 authentication may be the reason)"
            ),
        }
    }

    /// Bytes of the stream; `at` is their place in what was given to [`Link::handle_bytes`].
    fn on_data(&mut self, data: &[u8], at: usize, entropy: &mut dyn Entropy) {
        let mut decoder = std::mem::take(&mut self.decoder);
        let result = decoder.feed(data, &mut |body| {
            if !self.is_closed() {
                self.on_message(body, data, at, entropy);
            }
        });
        self.decoder = decoder;
        if let Err(error) = result {
            if !self.is_closed() {
                self.protocol_error(&error.to_string());
            }
        }
    }

    fn on_message(&mut self, body: grpc::Body, data: &[u8], at: usize, entropy: &mut dyn Entropy) {
        let frame = match Frame::decode(body.of(data)) {
            Ok(frame) => frame,
            Err(error) => return self.protocol_error(&error.to_string()),
        };
        match self.state {
            State::Up => {
                if self.admits(&frame) {
                    let parsed = frame.into_parsed();
                    self.events.push_back(Event::Frame { body: body.shifted(at), parsed });
                }
            }
            State::AwaitNegotiation { .. } => self.on_negotiation_request(&frame, entropy),
            State::AwaitReply { .. } => self.on_negotiation_reply(&frame),
            State::AwaitRequest { .. } | State::AwaitResponse { .. } | State::Closed => {
                self.protocol_error("data before the heads were exchanged");
            }
        }
    }

    /// The table of spec 01 section 5.5.
    fn admits(&self, frame: &Frame<'_>) -> bool {
        let publish = match frame.kind() {
            FrameKind::Publish => true,
            FrameKind::Subscribe | FrameKind::Unsubscribe => false,
            FrameKind::SubscriptionAck => return true,
            FrameKind::Link => {
                log::debug!("a second negotiation was ignored");
                return false;
            }
            FrameKind::Empty => {
                log::debug!("an empty message was ignored");
                return false;
            }
        };
        if !self.signs {
            return true;
        }
        let strict = self.config.require_header_mac;
        let verdict = match &self.key {
            Some(key) if publish || strict || frame.has_mac() => {
                frame.verify(key).map_err(|e| e.to_string())
            }
            Some(_) => Ok(()),
            None if strict => Err("the link has no key".to_owned()),
            None if publish && frame.has_mac() => Err("a MAC, but the link has no key".to_owned()),
            None => Ok(()),
        };
        if let Err(why) = &verdict {
            log::warn!("a message was dropped: header MAC {why}");
        }
        verdict.is_ok()
    }

    /// Something that the peer must never send: the link is closed as the published node does.
    fn protocol_error(&mut self, text: &str) {
        log::warn!("closing a link: {text}");
        match self.dial {
            Some(_) => self.cancel(text),
            None => self.refuse(0, "", text),
        }
    }

    /// Acceptor: ends the stream with a status, and the link.
    fn refuse(&mut self, status: u32, message: &str, text: &str) {
        if matches!(self.state, State::AwaitRequest { .. }) {
            return self.over(CloseReason::retry(text));
        }
        let trailers = grpc::status_trailers(status, message);
        self.http2.finish(Some(&borrowed(&trailers)));
        // One connection is one link: a client that keeps connections must not use this one again.
        self.http2.goaway_at_end(0);
        self.lingers = true;
        self.over(match status {
            0 => CloseReason::retry(text),
            _ => CloseReason::last(text),
        });
    }

    /// Dialler: RST_STREAM(CANCEL) and GOAWAY, as the published client does.
    fn cancel(&mut self, text: &str) {
        const CANCEL: u32 = 8;
        // What was sent before the end goes first, as far as the peer takes it.
        self.http2.hold_back(false);
        self.fill_output(usize::MAX);
        self.http2.reset(CANCEL);
        self.http2.goaway(0);
        self.over(CloseReason::retry(text));
    }

    /// Dialler: the node has ended the stream; so do we.
    fn end_stream(&mut self, reason: CloseReason) {
        self.http2.finish(None);
        self.http2.goaway_at_end(0);
        self.over(reason);
    }

    fn over(&mut self, reason: CloseReason) {
        if !self.is_closed() {
            self.state = State::Closed;
            self.retired = None;
            self.http2.hold_back(false);
            let events = &mut self.events;
            self.origins.drop_all(|origin, bytes| events.push_back(Event::Taken(origin, bytes)));
            self.events.push_back(Event::Closed(reason));
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("state", &self.state).finish_non_exhaustive()
    }
}

fn borrowed(head: &[(String, String)]) -> Vec<(&str, &str)> {
    head.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn field<'a>(head: &'a [(String, String)], name: &str) -> Option<&'a str> {
    head.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests;
