//! Connections in memory: against each other, and against frames made by hand.

use super::*;
use crate::entropy::{Entropy, SeededEntropy};
use crate::grpc;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const REQUEST: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "127.0.0.1:46357"),
    (":path", grpc::PATH),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("user-agent", "libslim/0"),
];
const RESPONSE: &[(&str, &str)] = &[(":status", "200"), ("content-type", "application/grpc")];
const STATUS: &[(&str, &str)] = &[("grpc-status", "0")];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 32;

/// A connection with what it has received.
struct Side {
    connection: Connection,
    /// Everything but data.
    events: Vec<Event>,
    data: Vec<u8>,
    consumes: bool,
}

impl Side {
    fn new(connection: Connection) -> Side {
        Side { connection, events: Vec::new(), data: Vec::new(), consumes: true }
    }

    fn try_receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for chunk in bytes.chunks(limits::HTTP2_FEED) {
            let mut found = Vec::new();
            let result = self.connection.receive(chunk, &mut found);
            for event in found {
                let Event::Data(range) = event else {
                    self.events.push(event);
                    continue;
                };
                self.data.extend_from_slice(&chunk[range.clone()]);
                if self.consumes {
                    self.connection.consume(range.len());
                }
            }
            result?;
        }
        Ok(())
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.try_receive(bytes).unwrap();
    }

    fn output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.connection.write_output(&mut out, usize::MAX).unwrap();
        out
    }

    fn frames(&mut self) -> Vec<Frame> {
        parse(&self.output())
    }

    fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

/// A client and a server with a byte stream between them.
struct Pair {
    client: Side,
    server: Side,
    entropy: SeededEntropy,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let entropy = SeededEntropy::new(seed);
        let client = Side::new(Connection::client(REQUEST));
        Pair { client, server: Side::new(Connection::server()), entropy }
    }

    /// With the heads exchanged.
    fn open(seed: u64) -> Pair {
        let mut pair = Pair::new(seed);
        pair.exchange();
        assert_eq!(pair.server.events(), [Event::RequestHead(own(REQUEST))]);
        pair.server.connection.respond(RESPONSE, false);
        pair.exchange();
        assert_eq!(pair.client.events(), [Event::ResponseHead(own(RESPONSE))]);
        pair
    }

    /// Until nobody has anything to say. The stream is cut at random places.
    fn exchange(&mut self) {
        for _ in 0..10_000 {
            let mut quiet = true;
            for to_server in [true, false] {
                let (from, to) = match to_server {
                    true => (&mut self.client, &mut self.server),
                    false => (&mut self.server, &mut self.client),
                };
                let bytes = from.output();
                quiet &= bytes.is_empty();
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let most = if self.entropy.next_u32().is_multiple_of(2) { 40 } else { 20_000 };
                    let len = (self.entropy.next_u32() as usize % most + 1).min(rest.len());
                    to.receive(&rest[..len]);
                    rest = &rest[len..];
                }
            }
            if quiet {
                assert!(!self.client.connection.wants_write());
                assert!(!self.server.connection.wants_write());
                return;
            }
        }
        panic!("they never stop");
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn parse(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        let (kind, flags, payload) = (bytes[3], bytes[4], bytes[9..9 + len].to_vec());
        frames.push(Frame { kind, flags, stream, payload });
        bytes = &bytes[9 + len..];
    }
    frames
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn kinds(frames: &[Frame]) -> Vec<u8> {
    frames.iter().map(|f| f.kind).collect()
}

fn own(head: &[(&str, &str)]) -> Headers {
    head.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
}

/// HPACK: literals that are not indexed, without Huffman.
fn block(head: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in head {
        bytes.push(0);
        for text in [name, value] {
            let mut len = text.len();
            if len < 127 {
                bytes.push(len as u8);
            } else {
                bytes.push(127);
                len -= 127;
                while len >= 128 {
                    bytes.push((len % 128) as u8 | 128);
                    len /= 128;
                }
                bytes.push(len as u8);
            }
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn request_frame(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(REQUEST))
}

fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, ACK, 0, &[])].concat()
}

/// A server whose client is made by hand.
fn raw_server() -> Side {
    let mut server = Side::new(Connection::server());
    server.output();
    server.receive(&opening());
    server
}

/// The same, with its stream open in both directions.
fn open_server() -> Side {
    let mut server = raw_server();
    server.receive(&request_frame(1));
    assert_eq!(server.events(), [Event::RequestHead(own(REQUEST))]);
    server.connection.respond(RESPONSE, false);
    server.output();
    server
}

/// A client whose server is made by hand, with the response's head received.
fn open_client() -> Side {
    let mut client = Side::new(Connection::client(REQUEST));
    client.output();
    client.receive(&[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat());
    client.receive(&frame(HEADERS, END_HEADERS, 1, &block(RESPONSE)));
    assert_eq!(client.events(), [Event::ResponseHead(own(RESPONSE))]);
    client.output();
    client
}

fn settings(frame: &Frame) -> Vec<(u16, u32)> {
    let entry = |e: &[u8]| {
        let id = u16::from_be_bytes(e[..2].try_into().unwrap());
        (id, u32::from_be_bytes(e[2..].try_into().unwrap()))
    };
    frame.payload.chunks(6).map(entry).collect()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn a_connection_can_move_to_another_thread() {
    fn check<T: Send>() {}
    check::<Connection>();
}

#[test]
fn the_client_opens_as_the_published_one_does() {
    let mut client = Side::new(Connection::client(REQUEST));
    assert!(client.connection.wants_write());
    let bytes = client.output();
    let frames = parse(bytes.strip_prefix(PREFACE).unwrap());
    assert_eq!(kinds(&frames), [SETTINGS, WINDOW_UPDATE, HEADERS]);
    assert_eq!(
        settings(&frames[0]),
        [(2, 0), (4, limits::STREAM_WINDOW), (5, 16_384), (6, 16_384)]
    );
    let more = limits::CONNECTION_WINDOW - 65_535;
    assert_eq!((frames[1].stream, &frames[1].payload[..]), (0, &more.to_be_bytes()[..]));
    assert_eq!((frames[2].stream, frames[2].flags), (1, END_HEADERS));
    assert!(!client.connection.wants_write());
    let mut server = Side::new(Connection::server());
    server.receive(&bytes);
    assert_eq!(server.events(), [Event::RequestHead(own(REQUEST))]);
}

#[test]
fn the_server_speaks_first_and_answers_at_once() {
    let mut server = Side::new(Connection::server());
    let frames = server.frames();
    assert_eq!(kinds(&frames), [SETTINGS, WINDOW_UPDATE]);
    assert_eq!(
        settings(&frames[0]),
        [(3, limits::CONCURRENT_STREAMS), (4, limits::STREAM_WINDOW), (5, 16_384), (6, 16_384)]
    );
    server.connection.respond(RESPONSE, false);
    assert!(!server.connection.wants_write(), "there is no request to respond to");
    server.receive(&[opening(), request_frame(1)].concat());
    server.connection.respond(RESPONSE, false);
    let frames = server.frames();
    assert_eq!(kinds(&frames), [SETTINGS, HEADERS]);
    assert_eq!(frames[1].flags, END_HEADERS);
}

#[test]
fn the_published_client_and_node_are_understood() {
    // Spec 01 section 9.
    let client = "000018040000000000 000200000000 000400200000 000500004000 000600004000 \
        000004080000000000 004f0001 0000570104000000018386418b089d5c0b8170dc104010ff04a36241a475d0\
        3a8abd761d275fb857be348f5d03a8bb8b677310ac6aacb55e9c75545a3f4082497f864d833505b11f5f8b1d75\
        d0620d263d4c4d65647a8949ea311802e169773f";
    let mut server = Side::new(Connection::server());
    server.receive(PREFACE);
    server.receive(&unhex(client));
    let [Event::RequestHead(head)] = &server.events[..] else { panic!("{:?}", server.events) };
    let mut expected = own(REQUEST);
    expected[2].1 = "127.0.0.1:21011".to_owned();
    expected[6].1 = "tonic/0.14.6".to_owned();
    assert_eq!(*head, expected);

    // vectors/http2/hpack.json: a response and trailers that share the dynamic table.
    let mut client = Side::new(Connection::client(REQUEST));
    client.output();
    client.receive(&frame(SETTINGS, 0, 0, &[]));
    let head = "885f8b1d75d0620d263d4c4d65646196dc34fd2820a9a4fdd41004e2820dc139702d298b46ff";
    client.receive(&frame(HEADERS, END_HEADERS, 1, &unhex(head)));
    let trailers = unhex("40889acac8b21234da8f8107");
    client.receive(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers));
    let date = ("date", "Sat, 21 Nov 2026 21:26:14 GMT");
    assert_eq!(
        client.events(),
        [
            Event::ResponseHead(own(&[RESPONSE, &[date]].concat())),
            Event::Trailers(own(STATUS)),
            Event::EndOfStream,
        ]
    );
}

#[test]
fn our_header_blocks_do_not_depend_on_each_other() {
    let mut pair = Pair::open(1);
    pair.server.connection.finish(Some(&[("grpc-status", "0"), ("x-name", "value")]));
    let frames = pair.server.frames();
    // Literal without indexing, 0x0_, never 0x4_: the peer's table stays empty.
    assert_eq!(frames[0].payload[0] & 0xf0, 0);
    let inflated = block(&[("grpc-status", "0"), ("x-name", "value")]);
    assert!(frames[0].payload.len() <= inflated.len());
}

#[test]
fn data_goes_both_ways_in_any_pieces() {
    for seed in 0..20 {
        let mut pair = Pair::open(seed);
        let (up, down) = (pattern(70_000 + seed as usize), pattern(50_000));
        for (sent, side) in [(&up, &mut pair.client), (&down, &mut pair.server)] {
            for piece in sent.chunks(777) {
                side.connection.send(piece);
            }
            assert_eq!(side.connection.queued(), sent.len());
        }
        pair.exchange();
        assert_eq!(pair.server.data, up);
        assert_eq!(pair.client.data, down);
        assert_eq!(pair.client.connection.taken(), up.len() as u64);
        assert_eq!(pair.client.connection.queued(), 0);
        assert_eq!((pair.client.events(), pair.server.events()), (vec![], vec![]));
    }
}

#[test]
fn the_longest_message_passes_when_it_is_consumed() {
    let mut pair = Pair::open(7);
    let message = pattern(limits::MAX_RECEIVED_MESSAGE);
    let buffer = pair.client.connection.send_buffer();
    let mark = grpc::begin_message(buffer);
    buffer.extend_from_slice(&message);
    grpc::end_message(buffer, mark);
    pair.exchange();
    let mut found = Vec::new();
    let data = &pair.server.data;
    let each = &mut |body: grpc::Body| found.push(body.of(data) == message);
    grpc::Decoder::new().feed(data, each).unwrap();
    assert_eq!(found, [true]);
}

#[test]
fn a_peer_that_does_not_consume_stalls_the_sender_and_nothing_else() {
    let window = limits::STREAM_WINDOW as usize;
    let mut pair = Pair::open(3);
    pair.server.consumes = false;
    pair.client.connection.send(&pattern(3 * window));
    pair.exchange();
    assert_eq!(pair.server.data.len(), window);
    assert_eq!(pair.client.connection.queued(), 2 * window);
    assert!(!pair.client.connection.wants_write());

    pair.client.connection.ping(*b"question");
    pair.server.connection.send(b"the other way");
    pair.exchange();
    assert_eq!(pair.client.events(), [Event::PingAck]);
    assert_eq!(pair.client.data, b"the other way");

    pair.server.connection.consume(window);
    pair.exchange();
    assert_eq!(pair.server.data.len(), 2 * window);
    pair.server.connection.consume(window);
    pair.exchange();
    assert_eq!(pair.server.data, pattern(3 * window));
    assert_eq!(pair.client.connection.taken(), 3 * window as u64);
}

#[test]
fn trailers_need_no_window() {
    let window = limits::STREAM_WINDOW as usize;
    let mut pair = Pair::open(4);
    pair.client.consumes = false;
    pair.server.connection.send(&pattern(window));
    pair.exchange();
    assert_eq!(pair.client.data.len(), window);
    pair.server.connection.finish(Some(STATUS));
    pair.exchange();
    assert_eq!(pair.client.events(), [Event::Trailers(own(STATUS)), Event::EndOfStream]);
}

#[test]
fn small_messages_share_frames() {
    let mut pair = Pair::open(5);
    for n in 0..1000_u32 {
        pair.client.connection.send(&n.to_be_bytes());
        pair.client.connection.send(&[0; 36]);
    }
    let frames = pair.client.frames();
    assert_eq!(kinds(&frames), [DATA; 3]);
    let lengths: Vec<_> = frames.iter().map(|f| f.payload.len()).collect();
    assert_eq!(lengths, [16_384, 16_384, 40_000 - 2 * 16_384]);
    pair.client.connection.send(b"alone");
    assert!(pair.client.connection.wants_write());
    assert_eq!(pair.client.output(), frame(DATA, 0, 1, b"alone"));
    assert_eq!(pair.client.output(), b"");
    assert!(!pair.client.connection.wants_write());
}

#[test]
fn output_stops_at_the_limit() {
    let mut pair = Pair::open(6);
    pair.client.connection.send(&pattern(100_000));
    let mut out = vec![9; 10];
    pair.client.connection.write_output(&mut out, 10).unwrap();
    assert_eq!(out, [9; 10]);
    pair.client.connection.write_output(&mut out, 20_000).unwrap();
    assert_eq!(out.len(), 10 + 2 * (9 + 16_384));
    assert_eq!(pair.client.connection.taken(), 2 * 16_384);
    assert!(pair.client.connection.wants_write());
    let rest = pair.client.output();
    let sent = [&out[10..], &rest].concat();
    pair.server.receive(&sent);
    assert_eq!(pair.server.data, pattern(100_000));
}

#[test]
fn what_was_just_appended_may_be_taken_back() {
    let mut pair = Pair::open(8);
    pair.client.connection.send(&pattern(30_000));
    pair.client.connection.write_output(&mut Vec::new(), 1).unwrap();
    let buffer = pair.client.connection.send_buffer();
    let before = buffer.len();
    buffer.extend_from_slice(b"a mistake");
    buffer.truncate(before);
    assert_eq!(pair.client.connection.queued(), 30_000 - 16_384);
}

#[test]
fn both_sides_end_in_order() {
    let mut pair = Pair::open(9);
    pair.client.connection.send(&pattern(100_000));
    pair.client.connection.finish(None);
    pair.exchange();
    assert_eq!(pair.server.data, pattern(100_000));
    assert_eq!(pair.server.events(), [Event::EndOfStream]);
    pair.server.connection.send(b"last words");
    pair.server.connection.finish(Some(STATUS));
    assert!(!pair.server.connection.is_closed());
    pair.exchange();
    assert_eq!(pair.client.data, b"last words");
    assert_eq!(pair.client.events(), [Event::Trailers(own(STATUS)), Event::EndOfStream]);
    assert!(pair.client.connection.is_closed());
    assert!(pair.server.connection.is_closed());
}

#[test]
fn the_end_rides_on_the_last_data_or_comes_alone() {
    let mut pair = Pair::open(10);
    pair.client.connection.send(b"last");
    pair.client.connection.finish(None);
    assert_eq!(pair.client.output(), frame(DATA, END_STREAM, 1, b"last"));
    let mut pair = Pair::open(10);
    pair.client.connection.finish(None);
    assert!(pair.client.connection.wants_write());
    assert_eq!(pair.client.output(), frame(DATA, END_STREAM, 1, b""));
    pair.client.connection.finish(Some(STATUS));
    assert_eq!(pair.client.output(), b"");
}

#[test]
fn a_response_may_be_trailers_only() {
    let mut pair = Pair::new(11);
    pair.exchange();
    let refusal = &[(":status", "200"), ("grpc-status", "12")];
    pair.server.connection.respond(refusal, true);
    pair.exchange();
    assert_eq!(pair.client.events(), [Event::ResponseHead(own(refusal)), Event::EndOfStream]);
}

#[test]
fn what_is_finished_before_the_response_follows_it() {
    let mut pair = Pair::new(12);
    pair.exchange();
    pair.server.connection.send(b"early");
    pair.server.connection.finish(Some(STATUS));
    assert!(!pair.server.connection.wants_write());
    pair.server.connection.respond(RESPONSE, false);
    pair.exchange();
    assert_eq!(pair.client.data, b"early");
    let expected =
        [Event::ResponseHead(own(RESPONSE)), Event::Trailers(own(STATUS)), Event::EndOfStream];
    assert_eq!(pair.client.events(), expected);
}

#[test]
fn informational_responses_are_left_out() {
    let mut client = Side::new(Connection::client(REQUEST));
    client.output();
    client.receive(&frame(SETTINGS, 0, 0, &[]));
    client.receive(&frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "103"), ("link", "x")])));
    assert_eq!(client.events(), []);
    client.receive(&frame(HEADERS, END_HEADERS, 1, &block(RESPONSE)));
    assert_eq!(client.events(), [Event::ResponseHead(own(RESPONSE))]);
}

#[test]
fn reset_drops_the_queue() {
    let mut pair = Pair::open(13);
    pair.client.connection.send(&pattern(5_000));
    pair.client.connection.reset(8);
    pair.client.connection.goaway(0);
    assert_eq!(pair.client.connection.queued(), 0);
    assert_eq!(pair.client.connection.taken(), 0);
    let bytes = pair.client.output();
    // The order of the published client (spec 01 section 1.4).
    assert_eq!(kinds(&parse(&bytes)), [RST_STREAM, GOAWAY]);
    assert_eq!(parse(&bytes)[0].payload, 8_u32.to_be_bytes());
    pair.server.connection.send(&pattern(5_000));
    pair.server.receive(&bytes);
    let goaway = Event::GoAway { last_stream: 0, code: 0 };
    assert_eq!(pair.server.events(), [Event::Reset(8), goaway]);
    assert_eq!(pair.server.connection.queued(), 0);
    pair.exchange();
    assert!(pair.client.connection.is_closed());
    assert!(pair.server.connection.is_closed());
    assert_eq!((pair.client.events(), pair.client.data.len()), (vec![], 0));
    // Nothing of this makes sense any more, nothing of it does anything.
    pair.server.connection.send(b"too late");
    pair.server.connection.respond(RESPONSE, false);
    pair.server.connection.finish(Some(STATUS));
    pair.server.connection.reset(1);
    pair.server.connection.consume(10);
    assert_eq!(pair.server.output(), b"");
    assert_eq!(pair.server.connection.queued(), 0);
}

#[test]
fn what_was_under_way_to_a_reset_stream_is_ignored() {
    let mut server = open_server();
    server.connection.reset(8);
    server.receive(&frame(DATA, 0, 1, b"under way"));
    server.output();
    server.receive(&frame(DATA, END_STREAM, 1, b"still under way"));
    assert_eq!((server.events(), server.data.len()), (vec![], 0));
}

#[test]
fn reset_with_no_error_after_the_end_is_reported_after_it() {
    let mut client = open_client();
    let end = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(STATUS));
    client.receive(&[end, frame(RST_STREAM, 0, 1, &[0; 4])].concat());
    let expected = [Event::Trailers(own(STATUS)), Event::EndOfStream, Event::Reset(0)];
    assert_eq!(client.events(), expected);
    assert!(client.connection.is_closed());
}

#[test]
fn goaway_does_not_end_the_stream() {
    let mut client = open_client();
    let goaway = |last: u32| frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat());
    // The published node after max_connection_age (spec 01 section 1.3).
    client.receive(&[goaway(i32::MAX as u32), frame(PING, 0, 0, b"goaway--")].concat());
    client.receive(&goaway(1));
    client.receive(&frame(DATA, 0, 1, b"still here"));
    client.connection.send(b"me too");
    let frames = client.frames();
    assert_eq!(kinds(&frames), [PING, DATA]);
    assert_eq!((frames[0].flags, &frames[0].payload[..]), (ACK, &b"goaway--"[..]));
    assert_eq!(client.data, b"still here");
    let last_streams = [i32::MAX, 1].map(|last_stream| Event::GoAway { last_stream, code: 0 });
    assert_eq!(client.events(), last_streams);
    assert!(!client.connection.is_closed());

    let mut pair = Pair::open(14);
    pair.server.connection.goaway(0);
    pair.client.connection.goaway(0);
    pair.client.connection.send(b"up");
    pair.server.connection.send(b"down");
    pair.exchange();
    assert_eq!((&pair.server.data[..], &pair.client.data[..]), (&b"up"[..], &b"down"[..]));
    pair.server.receive(&request_frame(3));
    assert_eq!(pair.client.events(), [Event::GoAway { last_stream: 1, code: 0 }]);
}

#[test]
fn a_goaway_that_leaves_our_stream_out_ends_it() {
    let mut client = open_client();
    client.receive(&frame(GOAWAY, 0, 0, &[0; 8]));
    let goaway = Event::GoAway { last_stream: 0, code: 0 };
    assert_eq!(client.events(), [goaway, Event::Reset(7)]);
}

#[test]
fn only_our_own_ping_counts_as_answered() {
    let mut client = open_client();
    client.receive(&frame(PING, ACK, 0, b"unasked."));
    client.connection.ping(*b"question");
    assert_eq!(client.output(), frame(PING, 0, 0, b"question"));
    client.receive(&frame(PING, ACK, 0, b"another."));
    assert_eq!(client.events(), []);
    client.receive(&frame(PING, ACK, 0, b"question"));
    client.receive(&frame(PING, ACK, 0, b"question"));
    assert_eq!(client.events(), [Event::PingAck]);
}

#[test]
fn further_streams_are_refused_and_the_first_is_unharmed() {
    let mut server = open_server();
    // Indexed in the dynamic table by a refused stream, used by the first one's trailers.
    let indexed = [block(REQUEST), unhex("40"), b"\x06x-name\x05value".to_vec()].concat();
    let mut bytes = frame(HEADERS, END_HEADERS, 3, &indexed);
    for stream in [5, 7, 9] {
        bytes.extend(request_frame(stream));
        bytes.extend(frame(DATA, 0, stream, b"not for us"));
    }
    bytes.extend(frame(DATA, 0, 1, b"for us"));
    server.receive(&bytes);
    server.connection.send(b"answer");
    let frames = server.frames();
    assert_eq!(kinds(&frames), [RST_STREAM, RST_STREAM, RST_STREAM, RST_STREAM, DATA]);
    for (frame, stream) in frames.iter().zip([3, 5, 7, 9]) {
        assert_eq!((frame.stream, &frame.payload[..]), (stream, &[0, 0, 0, 7][..]));
    }
    assert_eq!((server.events(), &server.data[..]), (vec![], &b"for us"[..]));

    server.receive(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xbe]));
    let trailers = Event::Trailers(own(&[("x-name", "value")]));
    assert_eq!(server.events(), [trailers, Event::EndOfStream]);
    server.connection.finish(Some(STATUS));
    server.output();
    server.receive(&request_frame(11));
    assert_eq!(server.events(), [], "after the first stream has closed");
    assert_eq!(server.output(), frame(RST_STREAM, 0, 11, &[0, 0, 0, 7]));
}

#[test]
fn streams_are_refused_before_the_client_knows_our_limit() {
    let mut server = Side::new(Connection::server());
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for n in 0..40 {
        bytes.extend(request_frame(2 * n + 1));
    }
    server.receive(&bytes);
    assert_eq!(server.events(), [Event::RequestHead(own(REQUEST))]);
    let frames = server.frames();
    let refused: Vec<_> = frames.iter().filter(|f| f.kind == RST_STREAM).collect();
    assert_eq!(refused.len(), 39);
    assert!(refused.iter().all(|f| f.payload == [0, 0, 0, 7]));
}

#[test]
fn refusing_has_an_end() {
    for acknowledged in [true, false] {
        let mut server = open_server();
        if !acknowledged {
            server = Side::new(Connection::server());
            server.receive(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &request_frame(1)].concat());
        }
        let mut result = Ok(());
        let mut tries = 0;
        while result.is_ok() && tries < 10_000 {
            tries += 1;
            result = server.try_receive(&request_frame(2 * tries + 1));
        }
        assert!(matches!(result, Err(Error::Flood(_))), "{result:?}");
        assert_eq!(tries, limits::REFUSED_STREAMS + 1);
        let goaway = server.frames().pop().unwrap();
        assert_eq!((goaway.kind, &goaway.payload[4..8]), (GOAWAY, &[0, 0, 0, 11][..]));
        assert!(server.connection.is_closed());
    }
}

#[test]
fn header_blocks_may_come_in_pieces_padded_and_with_priority() {
    let head = block(REQUEST);
    let (a, rest) = head.split_at(10);
    let (b, c) = rest.split_at(50);
    let mut first = vec![3, 0, 0, 0, 0, 16];
    first.extend_from_slice(a);
    first.extend_from_slice(&[0; 3]);
    let bytes = [
        opening(),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 5]),
        frame(0xfa, 0xff, 1, b"a frame type that nobody knows"),
        frame(HEADERS, PADDED | WITH_PRIORITY, 1, &first),
        frame(CONTINUATION, 0, 1, b),
        frame(CONTINUATION, END_HEADERS, 1, c),
        frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 5]),
        frame(0xfb, 0, 0, b""),
        frame(SETTINGS, 0, 0, &[0xfe, 0x03, 0, 0, 0, 1]),
        frame(DATA, PADDED, 1, b"\x04padded....\0\0\0\0"),
        frame(DATA, PADDED, 1, b"\x00none"),
        frame(DATA, PADDED, 1, b"\x03\0\0\0"),
        frame(DATA, PADDED | END_STREAM, 1, b"\x01last\0"),
    ]
    .concat();
    for step in [1, 2, 7, 64, bytes.len()] {
        let mut server = Side::new(Connection::server());
        for part in bytes.chunks(step) {
            server.receive(part);
        }
        assert_eq!(server.events(), [Event::RequestHead(own(REQUEST)), Event::EndOfStream]);
        assert_eq!(server.data, b"padded....nonelast");
    }
}

#[test]
fn padding_is_given_back_without_being_consumed() {
    let mut server = open_server();
    server.consumes = false;
    let padded = frame(DATA, PADDED, 1, &[&[255], &[7; 2][..], &[0; 255]].concat());
    for _ in 0..5_000 {
        server.receive(&padded);
        let frames = server.frames();
        assert!(frames.iter().all(|f| f.kind == WINDOW_UPDATE), "{frames:?}");
    }
    assert_eq!(server.data.len(), 10_000);
}

#[test]
fn the_connection_window_is_given_back_even_if_the_stream_is_not() {
    let mut server = open_server();
    server.consumes = false;
    let half = limits::STREAM_WINDOW as usize / 16_384;
    for _ in 0..half {
        server.receive(&frame(DATA, 0, 1, &[1; 16_384]));
    }
    assert_eq!(server.output(), b"", "a quarter of the connection window is not worth a frame");
    server.connection.consume(limits::STREAM_WINDOW as usize);
    for _ in 0..half {
        server.receive(&frame(DATA, 0, 1, &[1; 16_384]));
    }
    let frames = server.frames();
    let mut updates: Vec<_> = frames.iter().map(|f| (f.kind, f.stream)).collect();
    updates.sort_unstable();
    assert_eq!(updates, [(WINDOW_UPDATE, 0), (WINDOW_UPDATE, 1)]);
}

#[test]
fn more_than_the_window_is_an_error() {
    let mut server = open_server();
    server.consumes = false;
    let frames = limits::STREAM_WINDOW as usize / 16_384;
    for _ in 0..frames {
        server.receive(&frame(DATA, 0, 1, &[1; 16_384]));
    }
    let result = server.try_receive(&frame(DATA, 0, 1, &[1]));
    assert_eq!(result, Err(Error::Protocol("FLOW_CONTROL_ERROR".to_owned())));
}

#[test]
fn windows_of_the_peer_may_shrink_and_grow() {
    let mut client = open_client();
    client.connection.send(&pattern(200_000));
    let sent: usize = client.frames().iter().map(|f| f.payload.len()).sum();
    assert_eq!(sent, 65_535);
    let initial = |size: u32| {
        let entry = [&[0, 4][..], &size.to_be_bytes()].concat();
        frame(SETTINGS, 0, 0, &entry)
    };
    let update = |stream: u32, more: u32| frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
    client.receive(&[initial(1_000), update(0, 1_000_000)].concat());
    assert_eq!(kinds(&client.frames()), [SETTINGS], "the stream's window is below zero");
    client.receive(&update(1, 64_535));
    assert_eq!(client.output(), b"", "and now at zero");
    client.receive(&initial(1_001));
    let frames = client.frames();
    assert_eq!(kinds(&frames), [SETTINGS, DATA]);
    assert_eq!(frames[1].payload.len(), 1);
    client.receive(&update(1, 1_000_000));
    let sent: usize = client.frames().iter().map(|f| f.payload.len()).sum();
    assert_eq!(sent, 200_000 - 65_535 - 1);
}

#[test]
fn a_larger_frame_size_of_the_peer_is_not_used() {
    let mut client = open_client();
    client.receive(&frame(SETTINGS, 0, 0, &[0, 5, 0, 0x40, 0, 0]));
    client.connection.send(&pattern(40_000));
    let frames = client.frames();
    assert!(frames.iter().all(|f| f.payload.len() <= 16_384));
}

#[test]
fn what_is_not_http2_is_refused() {
    let http1 = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    for garbage in [&http1[..], b"\0\0\0\0\0\0\0\0\0", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        for step in [1, garbage.len()] {
            let mut server = Side::new(Connection::server());
            let result = garbage.chunks(step).try_for_each(|part| server.try_receive(part));
            let Err(Error::Protocol(_)) = result else { panic!("{result:?}") };
            assert_eq!(server.try_receive(b"more"), result);
            // As the published node: our settings, and the end.
            assert_eq!(kinds(&server.frames())[..2], [SETTINGS, WINDOW_UPDATE]);
            assert!(server.connection.is_closed());
        }
    }
}

#[test]
fn a_server_that_does_not_speak_http2_is_noticed_at_once() {
    for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &frame(PING, 0, 0, &[0; 8])] {
        let mut client = Side::new(Connection::client(REQUEST));
        client.output();
        let result = client.try_receive(garbage);
        let Err(Error::Protocol(text)) = result else { panic!("{result:?}") };
        assert_eq!(text, "PROTOCOL_ERROR (SETTINGS expected)");
        let frames = client.frames();
        assert_eq!(kinds(&frames), [GOAWAY]);
        assert_eq!(frames[0].payload[4..8], [0, 0, 0, 1]);
        assert!(client.connection.is_closed());
    }
}

#[test]
fn violations_end_the_connection_with_the_right_code() {
    let cases: [(&[u8], u8); 7] = [
        (&frame(DATA, 0, 0, b"x"), 1),
        (&frame(SETTINGS, 0, 0, &[0; 5]), 6),
        (&frame(WINDOW_UPDATE, 0, 0, &[0; 4]), 1),
        (&frame(PING, 0, 0, &[0; 7]), 6),
        (&frame(HEADERS, 0, 1, b""), 1),
        (&[0, 0x40, 1, DATA, 0, 0, 0, 0, 1], 6),
        (&frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]), 3),
    ];
    for (bytes, code) in cases {
        let mut server = open_server();
        let result = server.try_receive(&[bytes, &frame(PING, 0, 0, &[0; 8])].concat());
        assert!(matches!(result, Err(Error::Protocol(_))), "{bytes:?} {result:?}");
        let goaway = server.frames().pop().unwrap();
        assert_eq!((goaway.kind, goaway.payload[7]), (GOAWAY, code), "{bytes:?}");
    }
}

#[test]
fn a_goaway_at_the_end_follows_everything() {
    for trailers in [Some(STATUS), None] {
        let mut server = open_server();
        server.connection.send(&pattern(100_000));
        server.connection.finish(trailers);
        server.connection.goaway_at_end(0);
        let first = server.frames();
        assert!(kinds(&first).iter().all(|kind| *kind == DATA), "the window is smaller than that");
        let more = 100_000_u32.to_be_bytes();
        server.receive(
            &[frame(WINDOW_UPDATE, 0, 0, &more), frame(WINDOW_UPDATE, 0, 1, &more)].concat(),
        );
        let rest = server.frames();
        let (last, before) = rest.split_last().unwrap();
        assert_eq!(last.kind, GOAWAY);
        assert!(!kinds(before).contains(&GOAWAY) && before.last().unwrap().flags & END_STREAM != 0);
        assert!(server.frames().is_empty(), "once");
    }
}

/// What nghttp2 lets pass, since it might be under way since before the stream ended.
#[test]
fn what_cannot_be_a_late_frame_ends_the_connection() {
    let ended = || {
        let mut server = raw_server();
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 5, &block(REQUEST));
        server.receive(&head);
        server.connection.respond(RESPONSE, true);
        server.output();
        server
    };
    let late = frame(HEADERS, END_HEADERS | END_STREAM, 5, &block(STATUS));
    let cases = [(late, 5), (request_frame(3), 1), (frame(PRIORITY, 0, 0, &[0; 5]), 1)];
    for (bytes, code) in cases {
        let mut server = ended();
        let result = server.try_receive(&bytes);
        assert!(matches!(result, Err(Error::Protocol(_))), "{bytes:?} {result:?}");
        let goaway = server.frames().pop().unwrap();
        assert_eq!((goaway.kind, goaway.payload[7]), (GOAWAY, code), "{bytes:?}");
    }
    // Trailers that were under way when we reset the stream, and PRIORITY of it, are no violation.
    let mut server = open_server();
    server.connection.reset(8);
    server.output();
    server.receive(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(STATUS)));
    server.receive(&frame(PRIORITY, 0, 1, &[0; 5]));
}

#[test]
fn bad_header_compression_is_refused() {
    // vectors/http2/hpack.json, `must_refuse`.
    for bad in ["3fe1ffffff0f", "82862b", "ff", "c0", "80", "0081ff81ff", "1fffffffffffffffffff7f"]
    {
        let mut server = raw_server();
        let result = server.try_receive(&frame(HEADERS, END_HEADERS, 1, &unhex(bad)));
        let Err(Error::Protocol(text)) = result else { panic!("{bad} {result:?}") };
        assert!(text.starts_with("COMPRESSION_ERROR"), "{bad} {text}");
    }
}

#[test]
fn where_nghttp2_is_stricter_than_the_published_node() {
    let with = |more: &[(&'static str, &'static str)]| [REQUEST, more].concat();
    let without = |name: &str| -> Vec<(&str, &str)> {
        REQUEST.iter().copied().filter(|(n, _)| *n != name).collect()
    };
    let refused = [
        without(":authority"),
        [without("te"), vec![("te", "gzip")]].concat(),
        with(&[("connection", "close")]),
        with(&[("Upper", "case")]),
    ];
    for head in refused {
        let mut server = raw_server();
        let result = server.try_receive(&frame(HEADERS, END_HEADERS, 1, &block(&head)));
        let Err(Error::Protocol(text)) = result else { panic!("{head:?} {result:?}") };
        assert_eq!(text, "PROTOCOL_ERROR");
        assert_eq!(server.events(), []);
    }
    let mut get = REQUEST.to_vec();
    get[0].1 = "GET";
    let served = [
        get,
        without("te"),
        without("content-type"),
        without("user-agent"),
        [without(":authority"), vec![("host", "a")]].concat(),
    ];
    for head in served {
        let mut server = raw_server();
        server.receive(&frame(HEADERS, END_HEADERS, 1, &block(&head)));
        assert_eq!(server.events(), [Event::RequestHead(own(&head))]);
    }
    let mut server = raw_server();
    let head = with(&[("bad", "a\u{1}b"), ("good", "c")]);
    server.receive(&frame(HEADERS, END_HEADERS, 1, &block(&head)));
    assert_eq!(server.events(), [Event::RequestHead(own(&with(&[("good", "c")])))]);
}

#[test]
fn header_values_that_are_not_text_are_replaced() {
    let mut server = raw_server();
    let mut head = block(REQUEST);
    head.extend_from_slice(b"\0\x05x-bin\x02\xff\xfe");
    server.receive(&frame(HEADERS, END_HEADERS, 1, &head));
    let [Event::RequestHead(head)] = &server.events[..] else { panic!("{:?}", server.events) };
    assert_eq!(head[7], ("x-bin".to_owned(), "\u{fffd}\u{fffd}".to_owned()));
}

#[test]
fn header_lists_end_at_their_limit() {
    let used: usize = REQUEST.iter().map(|(n, v)| n.len() + v.len() + 32).sum();
    let room = limits::MAX_HEADER_LIST - used - "x".len() - 32;
    for (len, fits) in [(room, true), (room + 1, false)] {
        let long = "v".repeat(len);
        let head = [REQUEST, &[("x", &long)]].concat();
        let head = block(&head);
        let (first, rest) = head.split_at(16_000);
        let bytes =
            [frame(HEADERS, 0, 1, first), frame(CONTINUATION, END_HEADERS, 1, rest)].concat();
        let mut server = raw_server();
        let result = server.try_receive(&bytes);
        if fits {
            assert_eq!(result, Ok(()));
            assert_eq!(server.events.len(), 1);
            continue;
        }
        assert_eq!(result, Err(Error::HeaderListTooLong));
        assert_eq!(server.events(), []);
        let goaway = server.frames().pop().unwrap();
        assert_eq!((goaway.kind, goaway.payload[7]), (GOAWAY, 11));

        let mut server = open_server();
        let refused = frame(CONTINUATION, END_HEADERS, 3, rest);
        server.receive(&[frame(HEADERS, 0, 3, first), refused].concat());
        server.receive(&frame(DATA, 0, 1, b"unharmed"));
        assert_eq!(server.data, b"unharmed");
    }
}

#[test]
fn a_compressed_bomb_is_refused() {
    let mut server = raw_server();
    // One entry of 3,000 bytes, then 12,000 references to it.
    let mut head = block(REQUEST);
    head.push(0x40);
    head.extend_from_slice(&block(&[("bomb", &"b".repeat(3_000))])[1..]);
    head.resize(16_000, 0xbe);
    let result = server.try_receive(&frame(HEADERS, END_HEADERS, 1, &head));
    assert_eq!(result, Err(Error::HeaderListTooLong));
}

#[test]
fn floods_end_the_connection() {
    let ping = frame(PING, 0, 0, &[0; 8]);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let empty = frame(DATA, 0, 1, &[]);
    let priority = frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 5]);
    let reset = frame(RST_STREAM, 0, 3, &[0; 4]);
    for bytes in [ping, settings, empty, priority, reset] {
        let mut server = open_server();
        server.receive(&request_frame(3));
        let result = server.try_receive(&bytes.repeat(5_000));
        assert!(matches!(result, Err(Error::Flood(_))), "{result:?}");
        assert!(server.connection.control.len() < 2 * limits::READY_CONTROL);
        let goaway = server.frames().pop().unwrap();
        assert_eq!((goaway.kind, goaway.payload[7]), (GOAWAY, 11));
        assert!(server.connection.is_closed());
    }
}

/// How many of a frame are taken before the connection ends, and how many bytes of answers were
/// ready then.
fn most(server: &mut Side, bytes: &[u8]) -> (usize, usize, Error) {
    for taken in 0..100_000 {
        let ready = server.connection.control.len();
        if let Err(error) = server.try_receive(bytes) {
            return (taken, ready, error);
        }
    }
    panic!("no end");
}

#[test]
fn acknowledgements_that_nobody_takes_end_at_their_limit() {
    for (bytes, answer) in [(frame(PING, 0, 0, &[0; 8]), 17), (frame(SETTINGS, 0, 0, &[]), 9)] {
        let mut server = open_server();
        let (taken, ready, error) = most(&mut server, &bytes);
        assert!(matches!(error, Error::Flood(_)), "{error}");
        // What is ready to be written does not wait in nghttp2.
        assert!((limits::READY_CONTROL..limits::READY_CONTROL + answer).contains(&ready));
        assert_eq!(taken, ready / answer + limits::OUTBOUND_ACKS);
    }
}

#[test]
fn frames_that_nobody_takes_end_at_their_limit() {
    let mut server = open_server();
    let ping = frame(PING, 0, 0, &[0; 8]);
    server.receive(&ping.repeat(limits::READY_CONTROL.div_ceil(17) + limits::OUTBOUND_ACKS));
    // Refusals, as many as nghttp2 lets wait, then frames of our own.
    for stream in 1..=limits::CONCURRENT_STREAMS {
        server.receive(&request_frame(2 * stream + 1));
    }
    while server.connection.session.waiting_frames() < limits::WAITING_FRAMES {
        server.connection.ping([0; 8]);
    }
    server.receive(&frame(DATA, 0, 1, b"x"));
    server.connection.ping([0; 8]);
    let error = server.try_receive(&frame(DATA, 0, 1, b"x")).unwrap_err();
    assert_eq!(error, Error::Flood("frames that need an answer".to_owned()));
}

#[test]
fn rates_of_suspicious_frames_have_a_burst() {
    let empty = frame(DATA, 0, 1, &[]);
    let reset = frame(RST_STREAM, 0, 3, &[0; 4]);
    for (bytes, rate) in [(empty, limits::GLITCHES), (reset, limits::STREAM_RESETS)] {
        let mut server = open_server();
        server.receive(&request_frame(3));
        let (taken, _, error) = most(&mut server, &bytes);
        assert!(matches!(error, Error::Flood(_)), "{error}");
        // nghttp2's clock counts seconds, and one may pass meanwhile.
        let most = rate.burst + 2 * rate.per_second;
        assert!((rate.burst..=most).contains(&(taken as u64)), "{taken} of {rate:?}");
    }
}

#[test]
fn settings_have_no_more_entries_than_their_limit() {
    let entry = [0, 5, 0, 0, 0x40, 0];
    for (entries, fits) in [(limits::SETTINGS_ENTRIES, true), (limits::SETTINGS_ENTRIES + 1, false)]
    {
        let mut server = open_server();
        let result = server.try_receive(&frame(SETTINGS, 0, 0, &entry.repeat(entries)));
        assert_eq!(result.is_ok(), fits, "{entries}: {result:?}");
    }
}

#[test]
fn continuation_floods_end_the_connection() {
    for (pieces, fits) in [(limits::CONTINUATIONS, true), (limits::CONTINUATIONS + 1, false)] {
        let mut server = raw_server();
        let mut bytes = frame(HEADERS, 0, 1, &block(REQUEST));
        for n in 1..=pieces {
            let last = if n == pieces { END_HEADERS } else { 0 };
            bytes.extend(frame(CONTINUATION, last, 1, &[]));
        }
        let result = server.try_receive(&bytes);
        assert_eq!(result.is_ok(), fits, "{result:?}");
        if !fits {
            assert!(matches!(result, Err(Error::Flood(_))), "{result:?}");
            let goaway = server.frames().pop().unwrap();
            assert_eq!((goaway.kind, goaway.payload[7]), (GOAWAY, 11));
            assert!(server.connection.is_closed());
        }
    }
}

#[test]
fn an_error_that_ends_nghttp2_itself_still_says_goodbye() {
    let mut server = raw_server();
    server.receive(&frame(HEADERS, 0, 1, &block(REQUEST)));
    // Within one call, so that nghttp2's own limit is the first to notice.
    let result = server.try_receive(&frame(CONTINUATION, 0, 1, &[]).repeat(500));
    assert!(matches!(result, Err(Error::Flood(_))), "{result:?}");
    let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 11]);
    assert!(server.output().ends_with(&goaway));
    assert_eq!(server.output(), b"");
    assert!(server.connection.is_closed());
    server.connection.ping([0; 8]);
    server.connection.send(b"to nobody");
    assert_eq!(server.output(), b"");
}

#[test]
fn pings_are_answered_as_long_as_we_write() {
    let mut server = open_server();
    for _ in 0..5_000 {
        server.receive(&frame(PING, 0, 0, b"question"));
        assert_eq!(server.output(), frame(PING, ACK, 0, b"question"));
    }
    assert!(server.connection.control.capacity() <= limits::KEPT_CONTROL);
}

#[test]
fn headers_that_cannot_be_sent_are_reported() {
    let long = "v".repeat(70_000);
    let mut connection = Connection::client(&[REQUEST, &[("x", &long)]].concat());
    let mut out = Vec::new();
    let result = connection.write_output(&mut out, usize::MAX);
    assert_eq!(result, Err(Error::HeadersNotSent));
    assert!(out.starts_with(PREFACE));
    assert_eq!(connection.receive(b"", &mut Vec::new()), Err(Error::HeadersNotSent));
    assert!(connection.is_closed());
}

#[test]
fn random_damage_is_survived() {
    for seed in 0..300 {
        let mut entropy = SeededEntropy::new(seed);
        let mut client = Side::new(Connection::client(REQUEST));
        client.connection.send(&pattern(2_000));
        client.connection.finish(None);
        let mut bytes = client.output();
        for _ in 0..=entropy.next_u32() % 8 {
            let place = entropy.next_u32() as usize % bytes.len();
            bytes[place] = entropy.next_u32() as u8;
        }
        let mut server = Side::new(Connection::server());
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let len = (entropy.next_u32() as usize % 40 + 1).min(rest.len());
            let alive = server.try_receive(&rest[..len]).is_ok();
            rest = &rest[len..];
            server.connection.respond(RESPONSE, false);
            server.connection.send(b"answer");
            let mut out = Vec::new();
            let _ = server.connection.write_output(&mut out, 10_000);
            assert!(out.len() < 20_000);
            if !alive {
                assert!(server.connection.is_closed());
                break;
            }
        }
    }
}

#[test]
fn a_burst_of_tiny_frames_leaves_no_memory_behind() {
    let mut server = open_server();
    server.receive(&frame(DATA, 0, 1, b"x").repeat(1_600));
    assert_eq!(server.data.len(), 1_600);
    assert!(server.connection.session.record().events.capacity() <= limits::KEPT_EVENTS);
}
