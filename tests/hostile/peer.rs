//! A peer that is driven by hand over a real socket: frames of any kind, messages of any kind, and
//! what the node answered.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use prost::Message as _;
use slim::entropy::{Entropy, SystemEntropy};
use slim::link::key::{KeyExchange, LinkKey};
use slim::name::{Name, NameId};
use slim::wire::{
    Link, LinkNegotiationPayload, LinkType, Message, MessageType, Publish, SessionHeader,
    SlimHeader, Subscribe, SubscriptionAck,
};
use slim::{grpc, http2};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_HEADERS: u8 = 4;

/// One HTTP/2 frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A field as HPACK writes it without any compression.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        match text.len() {
            len @ 0..=126 => out.push(len as u8),
            mut len => {
                out.push(127);
                len -= 127;
                while len >= 128 {
                    out.push(len as u8 | 128);
                    len >>= 7;
                }
                out.push(len as u8);
            }
        }
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// The header block of a request for a link.
pub fn request_block() -> Vec<u8> {
    let head = grpc::request_head("http", "node", "hostile", &[]);
    head.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// The prefix of a gRPC message of so many bytes.
pub fn prefix(len: u32) -> Vec<u8> {
    [&[0], &len.to_be_bytes()[..]].concat()
}

pub struct Peer {
    stream: TcpStream,
    http2: http2::Connection,
    decoder: grpc::Decoder,
    messages: Vec<Message>,
    /// Everything but data.
    events: Vec<http2::Event>,
    key: Option<LinkKey>,
    /// All that was ever read.
    received: Vec<u8>,
}

impl Peer {
    /// Connected; nothing is sent.
    pub fn silent(port: u16) -> Peer {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = grpc::request_head("http", "node", "hostile", &[]);
        let head: Vec<_> = head.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        Peer {
            stream,
            http2: http2::Connection::client(&head),
            decoder: grpc::Decoder::new(),
            messages: Vec::new(),
            events: Vec::new(),
            key: None,
            received: Vec::new(),
        }
    }

    /// The request is out and its answer is there.
    pub fn requested(port: u16) -> Peer {
        let mut peer = Peer::silent(port);
        peer.flush();
        while peer.events.is_empty() {
            assert!(peer.read(), "no response head");
        }
        assert!(matches!(peer.events[..], [http2::Event::ResponseHead(_)]), "{:?}", peer.events);
        peer.flush();
        peer
    }

    /// A link.
    pub fn negotiated(port: u16) -> Peer {
        let mut peer = Peer::requested(port);
        let mut entropy = SystemEntropy;
        let exchange = KeyExchange::new(&mut entropy);
        let id = entropy.uuid_v4();
        peer.send(&negotiation(&id, &exchange));
        let reply = peer.message();
        let Some(MessageType::Link(Link { link_type: Some(LinkType::LinkNegotiation(reply)) })) =
            reply.message_type
        else {
            panic!("no negotiation");
        };
        peer.key = Some(exchange.agree(&reply.link_ecdh_public_key, &id).unwrap());
        peer
    }

    /// Sends a message with the right MAC.
    pub fn send_signed(&mut self, message: Message) {
        let message = self.signed(message);
        self.send(&message);
    }

    pub fn signed(&self, mut message: Message) -> Message {
        let header = header_of(&mut message);
        header.header_mac = Some(self.key.as_ref().unwrap().mac(&*header).to_vec());
        message
    }

    pub fn send(&mut self, message: &Message) {
        let buffer = self.http2.send_buffer();
        let mark = grpc::begin_message(buffer);
        message.encode(buffer).unwrap();
        grpc::end_message(buffer, mark);
        self.flush();
    }

    fn flush(&mut self) {
        let mut out = Vec::new();
        self.http2.write_output(&mut out, 1 << 24).unwrap();
        self.stream.write_all(&out).unwrap();
    }

    /// Sends these bytes, or as many as the node takes. `false`: it did not take all.
    pub fn raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends bytes as data, as the node grants them.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.http2.send_buffer().extend_from_slice(bytes);
        self.flush();
        while self.http2.queued() > 0 {
            assert!(self.read(), "the node grants nothing");
            self.flush();
        }
    }

    /// Sends a signed message if it goes without waiting for so long. `false`: the node grants
    /// nothing.
    pub fn offer(&mut self, message: Message, patience: Duration) -> bool {
        self.send_signed(message);
        self.stream.set_read_timeout(Some(patience)).unwrap();
        while self.http2.queued() > 0 {
            if !self.read() {
                return false;
            }
            self.flush();
        }
        true
    }

    /// Reads once. `false`: the connection is over, or nothing came in time.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let len = loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(len) => break len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        };
        let chunk = &buffer[..len];
        self.received.extend_from_slice(chunk);
        let mut events = Vec::new();
        // Answers to attacks are attacks on this side: what was found before counts.
        let _ = self.http2.receive(chunk, &mut events);
        for event in events {
            let http2::Event::Data(range) = event else {
                self.events.push(event);
                continue;
            };
            self.http2.consume(range.len());
            let messages = &mut self.messages;
            let data = &chunk[range];
            let each =
                &mut |body: grpc::Body| messages.push(Message::decode(body.of(data)).unwrap());
            self.decoder.feed(data, each).unwrap();
        }
        true
    }

    pub fn message(&mut self) -> Message {
        while self.messages.is_empty() {
            assert!(self.read(), "no message: {:?}", self.events);
            self.flush();
        }
        self.messages.remove(0)
    }

    /// Subscribes a name and waits for the answer: the link lives, and nothing before was answered.
    pub fn subscribe(&mut self, name: &Name) {
        self.send_signed(subscribe(name, 77));
        let ack = SubscriptionAck { subscription_id: 77, success: true, error: String::new() };
        assert_eq!(self.message().message_type, Some(MessageType::SubscriptionAck(ack)));
    }

    /// Sends a PING and waits for its answer.
    pub fn ping(&mut self) {
        self.http2.ping(*b"are you?");
        self.flush();
        while !self.events.contains(&http2::Event::PingAck) {
            assert!(self.read(), "no answer to a PING");
        }
    }

    /// Sends what still waits, as the node grants it.
    pub fn drain(&mut self) {
        self.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        self.send_bytes(&[]);
    }

    /// Reads until the end; says in words what came.
    pub fn answer(mut self) -> String {
        while self.read() {}
        let mut said = Vec::new();
        for event in &self.events {
            if let http2::Event::ResponseHead(head) | http2::Event::Trailers(head) = event {
                let status = head.iter().find(|(name, _)| name == "grpc-status");
                said.extend(status.map(|(_, code)| format!("grpc-status {code}")));
            }
        }
        // Frame by frame: what answers an attack may itself be wrong for the innocent stack here.
        // Of several GOAWAY the last says why: nghttp2's own INTERNAL_ERROR may stand before it.
        let mut goaway = None;
        let mut rest = &self.received[..];
        while let [a, b, c, kind, _, _, _, _, _, ..] = *rest {
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some(payload) = rest.get(9..9 + len) else { break };
            // Code 0 follows the end of every link.
            if kind == GOAWAY && payload[7] != 0 {
                goaway = Some(format!("GOAWAY {}", payload[7]));
            }
            rest = &rest[9 + len..];
        }
        said.extend(goaway);
        self.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let ended = match self.stream.read(&mut [0]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        said.push(if ended { "closed" } else { "open" }.to_owned());
        said.join(", ")
    }
}

pub fn negotiation(id: &str, exchange: &KeyExchange) -> Message {
    let payload = LinkNegotiationPayload {
        link_id: id.to_owned(),
        slim_version: "3.4.6".to_owned(),
        is_reply: false,
        link_ecdh_public_key: exchange.public_key().to_vec(),
        connection_type: 2,
        node_id: "hostile".to_owned(),
        deployment_name: String::new(),
        link_kem_payload: None,
    };
    let link = Link { link_type: Some(LinkType::LinkNegotiation(payload)) };
    Message { message_type: Some(MessageType::Link(link)), ..Message::default() }
}

pub fn name(service: &str, id: u64) -> Name {
    Name::new(["org", "hostile", service], NameId(u128::from(id)))
}

fn header(to: &Name) -> SlimHeader {
    SlimHeader {
        source: Some(name("source", 1).to_wire()),
        destination: Some(to.to_wire()),
        fanout: 1,
        version: "3.4.6".to_owned(),
        ttl: 8,
        ..SlimHeader::default()
    }
}

pub fn subscribe(to: &Name, subscription_id: u64) -> Message {
    let subscribe = Subscribe { header: Some(header(to)), subscription_id };
    Message { message_type: Some(MessageType::Subscribe(subscribe)), ..Message::default() }
}

/// A message with so many bytes of metadata.
pub fn publish(to: &Name, len: usize) -> Message {
    let session =
        Some(SessionHeader { session_type: 1, session_message_type: 1, ..Default::default() });
    let publish = Publish { header: Some(header(to)), session, msg: None };
    Message {
        message_type: Some(MessageType::Publish(publish)),
        metadata: [("fill".to_owned(), "x".repeat(len))].into(),
    }
}

pub fn header_of(message: &mut Message) -> &mut SlimHeader {
    match &mut message.message_type {
        Some(MessageType::Publish(m)) => m.header.as_mut().unwrap(),
        Some(MessageType::Subscribe(m)) => m.header.as_mut().unwrap(),
        Some(MessageType::Unsubscribe(m)) => m.header.as_mut().unwrap(),
        _ => panic!("no header"),
    }
}

/// The message with a bit of its MAC turned over.
pub fn flipped(mut message: Message) -> Message {
    header_of(&mut message).header_mac.as_mut().unwrap()[0] ^= 1;
    message
}

/// The message as it stands in a DATA frame.
pub fn in_data(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mark = grpc::begin_message(&mut bytes);
    message.encode(&mut bytes).unwrap();
    grpc::end_message(&mut bytes, mark);
    frame(DATA, 0, 1, &bytes)
}
