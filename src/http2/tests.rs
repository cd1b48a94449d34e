use super::*;
use crate::entropy::{Entropy, SeededEntropy};

const HEAD: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "h:1"), (":path", "/p")];
const OK: [(&str, &str); 1] = [(":status", "200")];

/// A client and a server whose bytes travel in pieces of random size.
struct Pair {
    client: Connection,
    server: Connection,
    entropy: SeededEntropy,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let (client, server) = (Connection::client(&HEAD), Connection::server());
        Pair { client, server, entropy: SeededEntropy::new(seed) }
    }

    /// A pair whose stream is open.
    fn open(seed: u64) -> Pair {
        let mut pair = Pair::new(seed);
        let (_, at_server) = pair.exchange(true);
        assert!(matches!(&at_server[0].0, Event::RequestHead(head) if head.len() == 4));
        pair.server.respond(&OK, false);
        let (at_client, _) = pair.exchange(true);
        assert!(matches!(at_client[0].0, Event::ResponseHead(_)));
        pair
    }

    /// Moves bytes both ways until nothing moves; events with the data that they name.
    fn exchange(&mut self, consume: bool) -> (Vec<(Event, Vec<u8>)>, Vec<(Event, Vec<u8>)>) {
        let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
        loop {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            self.client.write_output(&mut up, 1 << 20).unwrap();
            self.server.write_output(&mut down, 1 << 20).unwrap();
            if up.is_empty() && down.is_empty() {
                return (at_client, at_server);
            }
            let Pair { client, server, entropy } = self;
            deliver(server, &up, entropy, consume, &mut at_server).unwrap();
            deliver(client, &down, entropy, consume, &mut at_client).unwrap();
        }
    }
}

fn deliver(
    to: &mut Connection,
    mut bytes: &[u8],
    entropy: &mut SeededEntropy,
    consume: bool,
    seen: &mut Vec<(Event, Vec<u8>)>,
) -> Result<(), Error> {
    while !bytes.is_empty() {
        let most = if entropy.next_u32() % 4 == 0 { 3 } else { limits::HTTP2_FEED };
        let len = (entropy.next_u32() as usize % most + 1).min(bytes.len());
        let (chunk, rest) = bytes.split_at(len);
        let mut events = Vec::new();
        let result = to.receive(chunk, &mut events);
        for event in events {
            let data = match &event {
                Event::Data(range) => chunk[range.clone()].to_vec(),
                _ => Vec::new(),
            };
            if consume && !data.is_empty() {
                to.consume(data.len());
            }
            seen.push((event, data));
        }
        result?;
        bytes = rest;
    }
    Ok(())
}

fn payload(events: &[(Event, Vec<u8>)]) -> Vec<u8> {
    events.iter().flat_map(|(_, data)| data.clone()).collect()
}

#[test]
fn data_goes_both_ways_and_large_messages_pass() {
    for seed in 0..5 {
        let mut pair = Pair::open(seed);
        let big: Vec<u8> = (0..4 << 20).map(|i: u32| (i * 7 % 251) as u8).collect();
        pair.client.send_buffer().extend_from_slice(&big);
        pair.server.send_buffer().extend_from_slice(b"hello");
        let (at_client, at_server) = pair.exchange(true);
        assert_eq!(payload(&at_client), b"hello");
        assert!(payload(&at_server) == big);
        assert_eq!((pair.client.queued(), pair.client.taken()), (0, big.len() as u64));
    }
}

#[test]
fn a_reader_that_does_not_consume_stops_the_writer_but_not_the_pings() {
    let mut pair = Pair::open(1);
    let much = vec![1; 3 * limits::STREAM_WINDOW as usize];
    pair.client.send_buffer().extend_from_slice(&much);
    let (_, at_server) = pair.exchange(false);
    assert_eq!(payload(&at_server).len(), limits::STREAM_WINDOW as usize);
    pair.client.ping(*b"12345678");
    let (at_client, _) = pair.exchange(false);
    assert!(at_client.iter().any(|(event, _)| *event == Event::PingAck));
    pair.server.consume(limits::STREAM_WINDOW as usize);
    let (_, at_server) = pair.exchange(false);
    assert_eq!(payload(&at_server).len(), limits::STREAM_WINDOW as usize);
}

#[test]
fn many_small_messages_share_frames_and_one_goes_at_once() {
    let mut pair = Pair::open(1);
    for _ in 0..1000 {
        pair.client.send_buffer().extend_from_slice(&[0; 100]);
    }
    let mut out = Vec::new();
    pair.client.write_output(&mut out, 1 << 20).unwrap();
    assert_eq!(out.len() - 100_000, 9 * 7, "heads of seven frames");
    let mut pair = Pair::open(2);
    pair.client.send_buffer().extend_from_slice(b"x");
    let mut out = Vec::new();
    pair.client.write_output(&mut out, 1 << 20).unwrap();
    assert_eq!(out.len(), 10);
}

#[test]
fn streams_end_with_trailers_without_and_by_reset() {
    let mut pair = Pair::open(1);
    pair.server.send_buffer().extend_from_slice(b"last words");
    pair.server.finish(Some(&[("grpc-status", "0")]));
    let (at_client, _) = pair.exchange(true);
    assert_eq!(payload(&at_client), b"last words");
    let trailers = Event::Trailers(vec![("grpc-status".into(), "0".into())]);
    let events: Vec<_> = at_client.into_iter().map(|(event, _)| event).collect();
    let end = events.iter().position(|e| *e == trailers).unwrap();
    assert_eq!(events[end + 1], Event::EndOfStream);

    let mut pair = Pair::open(2);
    pair.client.finish(None);
    let (_, at_server) = pair.exchange(true);
    assert_eq!(at_server[0].0, Event::EndOfStream);

    let mut pair = Pair::open(3);
    pair.client.reset(8);
    pair.client.goaway(0);
    let (_, at_server) = pair.exchange(true);
    assert_eq!(at_server[0].0, Event::Reset(8));
    assert!(matches!(at_server[1].0, Event::GoAway { code: 0, .. }));
}

#[test]
fn goaway_of_the_server_does_not_end_the_stream() {
    let mut pair = Pair::open(1);
    pair.server.goaway(0);
    pair.exchange(true);
    pair.server.send_buffer().extend_from_slice(b"still here");
    pair.client.send_buffer().extend_from_slice(b"me too");
    let (at_client, at_server) = pair.exchange(true);
    assert_eq!(
        (payload(&at_client), payload(&at_server)),
        (b"still here".to_vec(), b"me too".to_vec())
    );
}

/// The head of a frame, by hand.
fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(body);
    out
}

/// A server that a hand-written client has said hello to.
fn server(extra: &[u8]) -> (Connection, Vec<(Event, Vec<u8>)>, Result<(), Error>) {
    let mut server = Connection::server();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(extra);
    let mut seen = Vec::new();
    let result = deliver(&mut server, &bytes, &mut SeededEntropy::new(1), true, &mut seen);
    (server, seen, result)
}

/// `:method POST, :scheme http, :path /, :authority h` without Huffman or table.
const BLOCK: &[u8] = b"\x83\x86\x84\x01\x01h";

#[test]
fn a_second_stream_is_refused_and_the_first_lives() {
    let mut bytes = frame(1, 4, 1, BLOCK);
    bytes.extend(frame(1, 4, 3, BLOCK));
    bytes.extend(frame(1, 4, 5, BLOCK));
    bytes.extend(frame(0, 0, 1, b"data"));
    let (mut server, seen, result) = server(&bytes);
    assert_eq!(result, Ok(()));
    assert_eq!((seen.len(), payload(&seen)), (2, b"data".to_vec()));
    let mut out = Vec::new();
    server.write_output(&mut out, 1 << 20).unwrap();
    for stream in [3u32, 5] {
        let reset = frame(3, 0, stream, &REFUSED_STREAM.to_be_bytes());
        assert!(out.windows(reset.len()).any(|w| w == reset), "stream {stream}");
    }
}

#[test]
fn continuation_padding_priority_and_unknown_frames_are_understood() {
    let mut bytes = frame(1, 0, 1, &BLOCK[..2]);
    bytes.extend(frame(9, 4, 1, &BLOCK[2..]));
    bytes.extend(frame(2, 0, 1, &[0, 0, 0, 0, 9]));
    bytes.extend(frame(0xee, 0, 1, b"?"));
    bytes.extend(frame(0, 8, 1, b"\x03abc\0\0\0"));
    let (_, seen, result) = server(&bytes);
    assert_eq!(result, Ok(()));
    assert_eq!((seen.len(), payload(&seen)), (2, b"abc".to_vec()));
}

#[test]
fn nonsense_ends_the_connection() {
    for bytes in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0xff; 64], &[0; 64]] {
        let mut server = Connection::server();
        assert!(server.receive(bytes, &mut Vec::new()).is_err());
    }
}

#[test]
fn header_lists_are_bounded() {
    let field = |len: usize| {
        let mut block = BLOCK.to_vec();
        block.extend(b"\x00\x01a");
        // An HPACK integer with a 7-bit prefix.
        let mut rest = len - 127;
        block.push(127);
        while rest > 127 {
            block.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        block.push(rest as u8);
        block.extend(vec![b'x'; len]);
        block
    };
    let fixed = 4 * 32 + ":method:scheme:path:authority".len() + "POSThttp/h".len() + 33;
    let most = limits::MAX_HEADER_LIST - fixed;
    for (len, good) in [(most, true), (most + 1, false)] {
        let block = field(len);
        let (first, rest) = block.split_at(16_000);
        let mut bytes = frame(1, 0, 1, first);
        bytes.extend(frame(9, 4, 1, rest));
        let (_, _, result) = server(&bytes);
        assert_eq!(result.is_ok(), good, "{result:?}");
    }
}

#[test]
fn floods_are_answered_by_an_end() {
    let ping = frame(6, 0, 0, &[0; 8]).repeat(2000);
    let (_, _, result) = server(&ping);
    assert!(result.is_err(), "2000 pings without reading the answers");
    let mut resets = frame(1, 4, 1, BLOCK);
    for stream in (3..2000).step_by(2) {
        resets.extend(frame(1, 4, stream, BLOCK));
        resets.extend(frame(3, 0, stream, &[0; 4]));
    }
    let (_, _, result) = server(&resets);
    assert_eq!(result, Err(Error::RefusedStreams), "1000 streams opened and reset");
}
