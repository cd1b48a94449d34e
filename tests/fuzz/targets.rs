//! What a fuzzer calls with whatever it thinks of, and `tests/fuzz.rs` with the inputs that were
//! found before: one function for each kind of input. They panic when a promise is broken.

#[path = "view.rs"]
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use prost::Message as _;
use slim::clock::Now;
use slim::config::{
    Backoff, ClientConfig, IdentityConfig, NodeConfig, NodeFile, ServerConfig, Substitutes,
};
use slim::entropy::{Entropy, SeededEntropy};
use slim::grpc;
use slim::http2;
use slim::identity::{
    verify_control, verify_signature, Binding, Claims, Error as IdentityError, Provider,
    SharedSecretVerifier, Verifier,
};
use slim::limits;
use slim::link::key::LinkKey;
use slim::link::{DialConfig, Event, Identity, Link, LinkConfig};
use slim::name::{Name, NameId};
use slim::node::{AcceptOptions, Node, NodeOptions, Output, TransportId};
use slim::router::Gateway;
use slim::session::{AppId, OpId, Payload, Retry, SessionConfig, SessionKey};
use slim::wire::{self, Frame, FrameError, FrameKind, LinkConnectionType, Message};

/// What an input goes into.
pub type Target = fn(&[u8]);

/// Every target and its name.
pub const TARGETS: [(&str, Target); 8] = [
    ("http2", http2),
    ("grpc", grpc),
    ("message", message),
    ("view", view),
    ("node", node),
    ("name", name),
    ("token", token),
    ("config", config),
];

/// The secret of [`token`] and [`message`].
const SECRET: &str = "a secret that no recorded token knows";
/// The time of [`token`], in seconds.
pub const UNIX_SECS: u64 = 1_760_000_100;
/// The app of [`node`].
pub const APP: &str = "org/ns/bob";

const LINK_ID: &str = "8e8d9a33-b32f-49a2-9e9b-b1273f1992bb";

fn now() -> Now {
    Now { mono: Instant::now(), unix: Duration::from_secs(UNIX_SECS) }
}

/// A link is fed the bytes, in one piece and in many: it says the same, ends once, and whatever
/// waits in it stays bounded. The first byte says which side it is and how strict, the second where
/// the bytes are cut.
fn http2(data: &[u8]) {
    let Some((&[flags, cuts], bytes)) = data.split_first_chunk::<2>() else { return };
    let whole = heard(flags, &mut std::iter::once(bytes));
    let mut random = SeededEntropy::new(u64::from(cuts));
    let mut rest = bytes;
    let mut pieces = std::iter::from_fn(|| {
        let len = rest.len().min(1 + random.next_u32() as usize % 40);
        let (piece, after) = rest.split_at(len);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    });
    let in_pieces = heard(flags, &mut pieces);
    assert_eq!(whole, in_pieces, "it matters where the bytes are cut");
}

/// What a link says to these bytes, up to its end.
fn heard(flags: u8, pieces: &mut dyn Iterator<Item = &[u8]>) -> Vec<String> {
    let (now, mut entropy) = (now(), SeededEntropy::new(7));
    let config = LinkConfig {
        identity: identity(),
        require_header_mac: flags & 2 != 0,
        negotiation_timeout: Duration::from_secs(5),
        ping_after: Duration::from_secs(60),
        ping_timeout: Duration::from_secs(10),
        age: Some(slim::link::Age {
            limit: Duration::from_secs(300),
            grace: Duration::from_secs(60),
        }),
        stuck_timeout: limits::STUCK_RECEIVER_TIMEOUT,
    };
    let mut link = match flags & 1 {
        0 => Link::accept(config, now),
        _ => Link::dial(config, dial(), now, &mut entropy),
    };
    // What a dialler has to say goes out before anything is answered.
    let len = link.output().len();
    link.wrote(len, now);
    let mut said = Vec::new();
    for piece in pieces {
        link.handle_bytes(piece, now, &mut entropy);
        listen(&mut link, piece, &mut said);
        // Half of what is ready is written: the rest waits.
        let len = link.output().len();
        assert!(len <= limits::SOCKET_BUFFER + limits::HTTP2_FEED, "{len} bytes made ready");
        link.wrote(len / 2, now);
    }
    listen(&mut link, &[], &mut said);
    while let Some(at) = link.poll_timeout() {
        link.handle_timeout(Now { mono: at, ..now });
        listen(&mut link, &[], &mut said);
        assert!(said.len() < 100_000, "time alone goes on for ever");
    }
    link.handle_disconnect("the end");
    listen(&mut link, &[], &mut said);
    let ends = said.iter().filter(|line| line.starts_with("closed")).count();
    assert_eq!(ends, 1, "{said:?}");
    assert!(said.last().is_some_and(|line| line.starts_with("closed")), "{said:?}");
    let _ = link.rest();
    said
}

fn listen(link: &mut Link, fed: &[u8], said: &mut Vec<String>) {
    while let Some(event) = link.poll_output() {
        said.push(match event {
            Event::Up { connection_type, node_id } => format!("up {connection_type:?} {node_id:?}"),
            Event::Frame { body, parsed } => {
                let bytes = body.of(fed);
                format!("frame {bytes:?} {:?}", parsed.on(bytes).into_message())
            }
            Event::Closed(reason) => format!("closed {reason:?}"),
            // When they are taken depends on when they are written.
            Event::Taken(..) => continue,
            Event::Leaving => "leaving".to_owned(),
        });
    }
}

fn identity() -> Identity {
    Identity {
        version: "3.4.6".to_owned(),
        node_id: "fuzzed".to_owned(),
        deployment_name: String::new(),
    }
}

fn dial() -> DialConfig {
    DialConfig {
        link_id: LINK_ID.to_owned(),
        connection_type: LinkConnectionType::Edge,
        scheme: "http".to_owned(),
        authority: "h:1".to_owned(),
        headers: Vec::new(),
        response_timeout: limits::RESPONSE_HEAD_TIMEOUT,
    }
}

/// The messages of a stream are the same wherever it is cut, they are what the stream says, and no
/// more is held than was announced and came. The texts of statuses survive their encoding.
fn grpc(data: &[u8]) {
    let Some((&cuts, bytes)) = data.split_first() else { return };
    let (whole, whole_error) = messages(&mut std::iter::once(bytes));
    let mut random = SeededEntropy::new(u64::from(cuts));
    let mut rest = bytes;
    let (pieces, error) = messages(&mut std::iter::from_fn(|| {
        let len = rest.len().min(1 + random.next_u32() as usize % 9);
        let (piece, after) = rest.split_at(len);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    }));
    assert_eq!((&whole, whole_error), (&pieces, error));
    let mut again = Vec::new();
    for message in &whole {
        let mark = grpc::begin_message(&mut again);
        again.extend_from_slice(message);
        grpc::end_message(&mut again, mark);
    }
    assert!(bytes.starts_with(&again), "the messages are not those of the stream");

    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = grpc::decode_message(text);
        for (name, value) in grpc::status_trailers(13, text) {
            assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)), "{value:?} in a header");
            if name == "grpc-message" {
                assert_eq!(grpc::decode_message(&value), text);
            }
        }
    }
}

fn messages(pieces: &mut dyn Iterator<Item = &[u8]>) -> (Vec<Vec<u8>>, Option<grpc::Error>) {
    let (mut decoder, mut found, mut came) = (grpc::Decoder::new(), Vec::new(), 0);
    for piece in pieces {
        came += piece.len();
        let mut each = |body: grpc::Body| found.push(body.of(piece).to_vec());
        if let Err(error) = decoder.feed(piece, &mut each) {
            return (found, Some(error));
        }
        assert!(decoder.partial() <= came, "more is held than came");
    }
    (found, None)
}

/// What can be decoded means the same after encoding it again, has the length that it says, and a
/// MAC put on it is accepted. Nobody's signature is on it.
fn message(data: &[u8]) {
    let Ok(mut frame) = Frame::decode(data) else { return };
    let message = frame.clone().into_message().expect("a decoded message");
    let bytes = message.encode_to_vec();
    assert_eq!(bytes.len(), message.encoded_len());
    let again = Frame::decode(&bytes).expect("our own encoding");
    assert_eq!(again.kind(), frame.kind());
    assert_eq!(again.clone().into_message().as_ref(), Ok(&message));

    let valid = frame.validate();
    assert_eq!(again.validate(), valid);
    let _ = (frame.negotiation(), frame.subscription_ack(), frame.subscription_id());
    let has_header = match frame.kind() {
        FrameKind::Publish | FrameKind::Subscribe | FrameKind::Unsubscribe => valid.is_ok(),
        _ => false,
    };
    if has_header {
        assert!(frame.destination().is_some());
        let _ = (frame.fanout(), frame.count_hop());
    }
    let key = LinkKey::new([7; 32], LINK_ID);
    let mut out = Vec::new();
    frame.encode(Some(5), Some(&key), usize::MAX, &mut out).expect("no limit");
    let (mut exact, len) = (Vec::new(), out.len());
    frame.encode(Some(5), Some(&key), len, &mut exact).expect("at the limit");
    assert_eq!(exact, out);
    if let Some(limit) = len.checked_sub(1) {
        let refused = frame.encode(Some(5), Some(&key), limit, &mut exact);
        assert_eq!(refused, Err(FrameError::TooLong { len, limit }));
        assert_eq!(exact.len(), len, "a refused frame left bytes behind");
    }
    let sent = Frame::decode(&out).expect("our own encoding");
    if has_header {
        assert_eq!(sent.verify(&key), Ok(()));
        assert!(sent.verify(&LinkKey::new([8; 32], LINK_ID)).is_err());
    }
    let mut verifier = SharedSecretVerifier::new(SECRET).expect("a long secret");
    assert!(verify_control(&message, &mut verifier, now()).is_err(), "forged: {message:?}");
}

/// The first message of a side, without a key.
pub fn negotiation(is_reply: bool) -> Vec<u8> {
    let negotiation = wire::LinkNegotiationPayload {
        link_id: LINK_ID.to_owned(),
        slim_version: "3.4.6".to_owned(),
        is_reply,
        ..Default::default()
    };
    let link = wire::Link { link_type: Some(wire::LinkType::LinkNegotiation(negotiation)) };
    let message_type = Some(wire::MessageType::Link(link));
    Message { message_type, ..Message::default() }.encode_to_vec()
}

/// What the header view takes means what the decoder says.
fn view(data: &[u8]) {
    view::check(data);
}

/// Believes everybody and every signature, so that a fuzzer reaches what is behind.
struct Believer;

impl Provider for Believer {
    fn subject(&self) -> &str {
        "fuzzed"
    }

    fn public_key(&self) -> &[u8] {
        b"fuzzed"
    }

    fn token(&mut self, _: Now, _: &mut dyn Entropy) -> Result<Arc<str>, IdentityError> {
        Ok("fuzzed".into())
    }

    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, IdentityError> {
        Ok(vec![1])
    }
}

impl Verifier for Believer {
    fn verify(&mut self, token: &str, _: Now) -> Result<Claims, IdentityError> {
        Ok(Claims {
            subject: token.to_owned(),
            issuer: None,
            public_key: Vec::new(),
            expires: Duration::MAX,
        })
    }

    fn verify_signature(&self, _: &Claims, _: &[u8], _: &[u8]) -> Result<(), IdentityError> {
        Ok(())
    }
}

/// The full name of the app of [`node`].
pub fn app_name() -> Name {
    Fuzzed::new().1
}

/// A node with one app and one link to a peer.
struct Fuzzed {
    node: Node,
    app: AppId,
    link: TransportId,
    peer: http2::Connection,
    sessions: Vec<SessionKey>,
    now: Now,
    ops: u64,
}

impl Fuzzed {
    fn new() -> (Fuzzed, Name) {
        let options = NodeOptions {
            identity: identity(),
            gateway: Gateway::Auto,
            binding: Binding::Off,
            stuck_receiver_timeout: limits::STUCK_RECEIVER_TIMEOUT,
            virtual_time: true,
        };
        let mut node = Node::new(options, Box::new(SeededEntropy::new(3)));
        let name = Name::parse(APP).expect("a name");
        let (app, name) = node.add_app(&name, Box::new(Believer), Box::new(Believer));
        let accept = AcceptOptions {
            require_header_mac: false,
            negotiation_timeout: Duration::from_secs(5),
            ping_after: Duration::ZERO,
            ping_timeout: Duration::from_secs(10),
            age: None,
        };
        let now = now();
        let link = node.accept(accept, now);
        let head = grpc::request_head("http", "h:1", "fuzzer", &[]);
        let head: Vec<(&str, &str)> = head.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let peer = http2::Connection::client(&head);
        let mut fuzzed = Fuzzed { node, app, link, peer, sessions: Vec::new(), now, ops: 0 };
        fuzzed.message(&negotiation(false));
        assert_eq!(fuzzed.node.stats().up, 1, "the link is up");
        (fuzzed, name)
    }

    fn message(&mut self, bytes: &[u8]) {
        let out = self.peer.send_buffer();
        let mark = grpc::begin_message(out);
        out.extend_from_slice(bytes);
        grpc::end_message(out, mark);
        self.exchange();
    }

    /// Moves bytes both ways until nothing moves, and does what the node wants.
    fn exchange(&mut self) {
        for _ in 0..10_000 {
            let mut bytes = Vec::new();
            let _ = self.peer.write_output(&mut bytes, 1 << 20);
            self.node.handle_bytes(self.link, &bytes, self.now);
            let mut answer = Vec::new();
            while let Some(dirty) = self.node.next_dirty() {
                answer.extend_from_slice(self.node.output(dirty));
                let len = self.node.output(dirty).len();
                self.node.wrote(dirty, len, self.now);
            }
            let mut found = Vec::new();
            for chunk in answer.chunks(limits::HTTP2_FEED) {
                let _ = self.peer.receive(chunk, &mut found);
            }
            for event in found {
                if let http2::Event::Data(range) = event {
                    self.peer.consume(range.len());
                }
            }
            while let Some(output) = self.node.poll_output() {
                match output {
                    Output::NewSession(key, _) => self.sessions.push(key),
                    Output::Ended(key, _) => self.sessions.retain(|known| *known != key),
                    _ => {}
                }
            }
            if bytes.is_empty() && answer.is_empty() {
                return;
            }
        }
        panic!("the two talk for ever");
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now.mono + time;
        for _ in 0..100_000 {
            match self.node.poll_timeout().filter(|at| *at <= until) {
                Some(at) => {
                    self.now = self.now.after(at.saturating_duration_since(self.now.mono));
                    self.node.handle_timeout(self.now);
                    self.exchange();
                }
                None => {
                    self.now = self.now.after(until.saturating_duration_since(self.now.mono));
                    return;
                }
            }
        }
        panic!("time stands still");
    }

    fn act(&mut self, what: u8) {
        self.ops += 1;
        let op = OpId(self.ops);
        let chosen = self.sessions.get(usize::from(what) / 4 % self.sessions.len().max(1)).copied();
        match (what % 4, chosen) {
            (0, Some(session)) => {
                let payload = Payload::new("answer", "", Default::default());
                self.node.publish(session, payload, Some(op), self.now);
            }
            (1, Some(session)) => self.node.close_session(session, Some(op), self.now),
            (2, Some(session)) => self.node.set_inbox_full(session, what & 4 != 0, self.now),
            _ => {
                let retry = Retry { interval: Duration::from_millis(500), max_retries: 3 };
                let reliable = (what & 4 != 0).then_some(retry);
                let config = SessionConfig { reliable, ..SessionConfig::default() };
                let to = Name::parse("org/ns/alice").expect("a name");
                if let Ok((key, _)) = self.node.open_session(self.app, config, &to, op, self.now) {
                    self.sessions.push(key);
                }
            }
        }
        self.exchange();
    }
}

/// A node with an app that believes every signature gets messages over a link, time, and calls.
/// Nothing goes on for ever, and in the end nothing is left. A byte below 128 says which message
/// follows: two bytes of length, and so many bytes; the others are time and calls.
fn node(data: &[u8]) {
    let (mut fuzzed, _) = Fuzzed::new();
    let mut rest = data;
    while let Some((&what, after)) = rest.split_first() {
        rest = after;
        match what {
            0..=127 => {
                let Some((len, after)) = rest.split_first_chunk::<2>() else { break };
                let (bytes, after) =
                    after.split_at(after.len().min(u16::from_le_bytes(*len).into()));
                rest = after;
                fuzzed.message(bytes);
            }
            128..=191 => fuzzed.wait(Duration::from_millis(u64::from(what - 127) * 250)),
            192..=255 => fuzzed.act(what - 192),
        }
    }
    fuzzed.node.shut_down(fuzzed.now);
    fuzzed.exchange();
    fuzzed.node.handle_disconnected(fuzzed.link, "the end", fuzzed.now);
    fuzzed.wait(Duration::from_secs(120));
    assert!(fuzzed.node.is_idle(), "{:?}", fuzzed.node.stats());
}

/// What a name is printed as is read as the same name; a name of the wire keeps its parts.
fn name(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(name) = Name::parse(text) {
            let printed = name.to_string();
            let again = Name::parse(&printed).expect("what was printed");
            assert_eq!((&again, again.strings()), (&name, name.strings()), "{text:?}");
            let wire = Name::from_wire(&name.to_wire()).expect("a whole name");
            assert_eq!((&wire, wire.strings()), (&name, name.strings()));
        }
        if let Ok(id) = NameId::parse(text) {
            assert_eq!(NameId::parse(&id.to_string()), Ok(id));
            assert_eq!(NameId::parse(&id.uuid_text()), Ok(id));
            assert_eq!(NameId::from_wire(&id.to_wire()), id);
        }
    }
    if let Ok(Some(name)) = wire::Name::decode(data).map(|name| Name::from_wire(&name)) {
        let _ = (name.to_string(), name.encoded().to_string(), name.id().is_reserved());
        let again = Name::from_wire(&name.to_wire()).expect("a whole name");
        assert_eq!((&again, again.strings()), (&name, name.strings()));
        assert_eq!(name.with_id(NameId::NULL).components(), name.components());
    }
}

/// No text is a token that we would take. With the right MAC (the first byte is odd), it is taken
/// or refused, but the same way every time. Signatures of nobody are refused.
fn token(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    if kind & 2 != 0 {
        let (key, signature) = bytes.split_at(bytes.len().min(65));
        assert!(verify_signature(key, b"a message", signature).is_err(), "forged");
        return;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut verifier = SharedSecretVerifier::new(SECRET).expect("a long secret");
    if kind & 1 == 0 {
        assert!(verifier.verify(text, now()).is_err(), "forged: {text:?}");
        return;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let mac = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
    let token = format!("{text}:{mac}");
    let first = verifier.verify(&token, now());
    let second = verifier.verify(&token, now());
    match (first, second) {
        (Ok(first), Ok(second)) => {
            assert_eq!(first, second);
            assert!(text.starts_with(&format!("{}:", first.subject)));
            let later = Now { unix: first.expires + Duration::from_secs(1), ..now() };
            assert!(verifier.verify(&token, later).is_err(), "valid after its end");
        }
        (Err(first), Err(second)) => assert_eq!(first.to_string(), second.to_string()),
        (first, second) => panic!("{first:?}, then {second:?}"),
    }
}

/// Half of the variables and files are there.
struct Half;

impl Substitutes for Half {
    fn variable(&mut self, name: &str) -> Result<String, String> {
        match name.len() % 2 {
            0 => Ok("127.0.0.1:0".to_owned()),
            _ => Err("not set".to_owned()),
        }
    }

    fn file(&mut self, path: &str) -> Result<String, String> {
        self.variable(path)
    }
}

/// A configuration is taken or refused with one line of text; what was taken means something. The
/// first byte says what the rest is.
fn config(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let error = match kind % 5 {
        0 => ClientConfig::parse(text).map(|config| {
            let again = ClientConfig::parse(&config.endpoint.authority()).expect("its authority");
            let (one, other) = (&config.endpoint, &again.endpoint);
            assert_eq!((&one.host, one.port), (&other.host, other.port));
            pauses(&config.backoff);
        }),
        1 => ServerConfig::parse(text).map(|config| {
            let again = ServerConfig::parse(&config.endpoint).expect("its endpoint");
            assert_eq!(again.address, config.address);
        }),
        2 => NodeConfig::from_json(text).map(drop),
        3 => IdentityConfig::from_json(text).map(drop),
        _ => NodeFile::parse(text, &mut Half).map(|file| {
            assert!(!file.servers.is_empty() || !file.clients.is_empty());
            file.clients.iter().for_each(|client| pauses(&client.backoff));
        }),
    };
    if let Err(error) = error {
        let text = error.to_string();
        assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
    }
}

fn pauses(backoff: &Backoff) {
    for failures in [1, 2, 100, u64::MAX] {
        for random in [0, 1, u32::MAX] {
            let _ = backoff.delay(failures, random);
        }
    }
}
