//! gRPC on one HTTP/2 stream: length-prefixed messages, heads and statuses (spec 01 section 1).

use std::fmt;
use std::ops::Range;

use crate::limits;

/// The one method there is.
pub const PATH: &str = "/dataplane.proto.v1.DataPlaneService/OpenChannel";

const PREFIX: usize = 5;

/// What is wrong with a message: the link must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The compression flag has this value instead of 0.
    Compressed(u8),
    /// The message would have so many bytes.
    TooLong(u32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Compressed(flag) => write!(f, "a compressed message (flag {flag})"),
            Error::TooLong(len) => {
                write!(f, "a message of {len} bytes, {} allowed", limits::MAX_RECEIVED_MESSAGE)
            }
        }
    }
}

impl std::error::Error for Error {}

/// Where the bytes of a message are.
#[derive(Clone, Debug)]
pub enum Body {
    /// Whole, within what was fed.
    Fed(Range<usize>),
    /// It came in pieces, which were put together behind its prefix.
    Gathered(Vec<u8>),
}

impl Body {
    /// The message. `fed` is what was fed when it was found.
    pub fn of<'a>(&'a self, fed: &'a [u8]) -> &'a [u8] {
        match self {
            Body::Fed(range) => {
                debug_assert!(range.end <= fed.len(), "{range:?} of {} bytes", fed.len());
                fed.get(range.clone()).unwrap_or_default()
            }
            Body::Gathered(bytes) => bytes.get(PREFIX..).unwrap_or_default(),
        }
    }

    /// The same, when what was fed is part of something larger that begins `by` bytes before.
    pub fn shifted(self, by: usize) -> Body {
        match self {
            Body::Fed(range) => Body::Fed(range.start + by..range.end + by),
            gathered => gathered,
        }
    }
}

/// Splits a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Vec<u8>,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Calls `each` for every message that is complete now.
    pub fn feed(&mut self, bytes: &[u8], each: &mut dyn FnMut(Body)) -> Result<(), Error> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            if self.partial.is_empty() {
                if let Some(len) = message_len(rest)? {
                    if len <= rest.len() - PREFIX {
                        each(Body::Fed(at + PREFIX..at + PREFIX + len));
                        at += PREFIX + len;
                        continue;
                    }
                }
            }
            let wanted = match message_len(&self.partial)? {
                Some(len) => PREFIX + len,
                None => PREFIX,
            };
            let take = (wanted - self.partial.len()).min(rest.len());
            let len = self.partial.len();
            if self.partial.capacity() < len + take {
                // Twice what is there, but never more than the message needs.
                self.partial.reserve_exact((len * 2).max(len + take).min(wanted) - len);
            }
            self.partial.extend_from_slice(&rest[..take]);
            at += take;
            if let Some(len) = message_len(&self.partial)? {
                if self.partial.len() == PREFIX + len {
                    each(Body::Gathered(std::mem::take(&mut self.partial)));
                }
            }
        }
        Ok(())
    }

    /// Bytes held of an unfinished message.
    pub fn partial(&self) -> usize {
        self.partial.len()
    }
}

/// The length in a prefix, once it is complete.
fn message_len(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let [flag, a, b, c, d, ..] = *bytes else {
        return Ok(None);
    };
    if flag != 0 {
        return Err(Error::Compressed(flag));
    }
    let len = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(len) {
        Ok(size) if size <= limits::MAX_RECEIVED_MESSAGE => Ok(Some(size)),
        _ => Err(Error::TooLong(len)),
    }
}

/// Leaves room for the prefix of a message that is then appended.
pub fn begin_message(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; PREFIX]);
    out.len()
}

/// The message is complete: its length goes into the prefix.
pub fn end_message(out: &mut [u8], mark: usize) {
    let len = (out.len() - mark) as u32;
    out[mark - 4..mark].copy_from_slice(&len.to_be_bytes());
}

/// The request that opens a link, in the published client's order.
pub fn request_head(
    scheme: &str,
    authority: &str,
    user_agent: &str,
    extra: &[(String, String)],
) -> Vec<(String, String)> {
    let mut head: Vec<(String, String)> = [
        (":method", "POST"),
        (":scheme", scheme),
        (":authority", authority),
        (":path", PATH),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut agent = user_agent.to_owned();
    for (name, value) in extra {
        let name = name.to_ascii_lowercase();
        if name == "user-agent" {
            agent = format!("{value} {user_agent}");
        } else if let Some(field) = head.iter_mut().find(|(known, _)| *known == name) {
            field.1.clone_from(value);
        } else {
            head.push((name, value.clone()));
        }
    }
    head.push(("user-agent".to_owned(), agent));
    head
}

/// The answer to it.
pub fn response_head() -> [(&'static str, &'static str); 2] {
    [(":status", "200"), ("content-type", "application/grpc")]
}

/// Whether a request asks for a link. Only the path matters; `Err` is the whole answer to give.
pub fn check_request(head: &[(String, String)]) -> Result<(), Vec<(String, String)>> {
    let field =
        |name: &str| head.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let mut answer: Vec<(String, String)> =
        response_head().map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    if field(":path") != Some(PATH) {
        answer.extend(status_trailers(12, ""));
        return Err(answer);
    }
    match field("grpc-encoding") {
        None | Some("identity") => Ok(()),
        Some(other) => {
            answer.push(("grpc-accept-encoding".to_owned(), "identity".to_owned()));
            let text = format!("Content is compressed with `{other}` which isn't supported");
            answer.extend(status_trailers(12, &text));
            Err(answer)
        }
    }
}

/// The fields that end a stream.
pub fn status_trailers(code: u32, message: &str) -> Vec<(String, String)> {
    let mut trailers = vec![("grpc-status".to_owned(), code.to_string())];
    if !message.is_empty() {
        trailers.push(("grpc-message".to_owned(), encode_message(message)));
    }
    trailers
}

/// Percent-encodes what may not stand in a header.
fn encode_message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | b' ' | b'`' | 0..=0x1f | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

/// Reads a percent-encoded `grpc-message`.
pub fn decode_message(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        let hex = match (first, rest) {
            (b'%', [a, b, ..]) => char::from(*a).to_digit(16).zip(char::from(*b).to_digit(16)),
            _ => None,
        };
        match hex {
            Some((a, b)) => {
                out.push((a * 16 + b) as u8);
                bytes = &rest[2..];
            }
            None => {
                out.push(*first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let mut found = Vec::new();
        decoder.feed(bytes, &mut |body| found.push(body.of(bytes).to_vec()))?;
        Ok(found)
    }

    fn stream(parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            let mark = begin_message(&mut out);
            out.extend_from_slice(part);
            end_message(&mut out, mark);
        }
        out
    }

    #[test]
    fn messages_are_found_wherever_the_bytes_are_split() {
        let parts: [&[u8]; 4] = [b"one", b"", b"three three", b"4"];
        let bytes = stream(&parts);
        for a in 0..=bytes.len() {
            for b in a..=bytes.len() {
                let mut decoder = Decoder::new();
                let mut found = messages(&mut decoder, &bytes[..a]).unwrap();
                found.extend(messages(&mut decoder, &bytes[a..b]).unwrap());
                found.extend(messages(&mut decoder, &bytes[b..]).unwrap());
                assert_eq!(found, parts);
                assert_eq!(decoder.partial(), 0);
            }
        }
    }

    #[test]
    fn limits_and_flags() {
        let longest = vec![7; limits::MAX_RECEIVED_MESSAGE];
        assert_eq!(messages(&mut Decoder::new(), &stream(&[&longest])).unwrap(), [longest]);
        let len = limits::MAX_RECEIVED_MESSAGE as u32 + 1;
        let [a, b, c, d] = len.to_be_bytes();
        let error = messages(&mut Decoder::new(), &[0, a, b, c, d]).unwrap_err();
        assert_eq!(error, Error::TooLong(len));
        let mut decoder = Decoder::new();
        assert_eq!(messages(&mut decoder, &[1]), Ok(vec![]));
        assert_eq!(messages(&mut decoder, &[0; 4]), Err(Error::Compressed(1)));
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        let [a, b, c, d] = (limits::MAX_RECEIVED_MESSAGE as u32).to_be_bytes();
        let mut decoder = Decoder::new();
        assert_eq!(messages(&mut decoder, &[0, a, b, c, d, 1, 2]), Ok(vec![]));
        assert_eq!(decoder.partial(), PREFIX + 2);
        assert!(decoder.partial.capacity() < 100);
    }

    #[test]
    fn an_unfinished_message_takes_no_more_than_its_length() {
        let len = limits::MAX_RECEIVED_MESSAGE;
        let [a, b, c, d] = (len as u32).to_be_bytes();
        let mut decoder = Decoder::new();
        assert_eq!(messages(&mut decoder, &[0, a, b, c, d]), Ok(vec![]));
        let (mut most, mut moves) = (0, 0);
        for _ in 0..len / 1024 - 1 {
            let before = decoder.partial.capacity();
            assert_eq!(messages(&mut decoder, &[7; 1024]), Ok(vec![]));
            moves += usize::from(decoder.partial.capacity() != before);
            most = most.max(decoder.partial.capacity());
        }
        assert!(most <= PREFIX + len && moves < 20, "{most} bytes, moved {moves} times");
    }

    #[test]
    fn whole_messages_are_borrowed() {
        let bytes = stream(&[b"one", b"two"]);
        let mut borrowed = 0;
        let mut each = |body| borrowed += usize::from(matches!(body, Body::Fed(_)));
        Decoder::new().feed(&bytes, &mut each).unwrap();
        assert_eq!(borrowed, 2);
    }

    #[test]
    fn the_request_has_the_published_order() {
        let extra = [("X-Name", "a"), ("user-agent", "mine"), ("authorization", "b")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let head = request_head("http", "h:1", "agent/1", &extra);
        let head: Vec<_> = head.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let expected = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "h:1"),
            (":path", PATH),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("x-name", "a"),
            ("authorization", "b"),
            ("user-agent", "mine agent/1"),
        ];
        assert_eq!(head, expected);
    }

    #[test]
    fn compression_is_refused_in_the_published_words() {
        let head = [(":path", PATH), ("grpc-encoding", "gzip")];
        let head = head.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let answer = check_request(&head).unwrap_err();
        let answer: Vec<_> = answer.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        // vectors/transport/17_node_behaviour_matrix.txt
        let text = "Content%20is%20compressed%20with%20%60gzip%60%20which%20isn't%20supported";
        let expected = [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-accept-encoding", "identity"),
            ("grpc-status", "12"),
            ("grpc-message", text),
        ];
        assert_eq!(answer, expected);
    }

    #[test]
    fn statuses_read_back() {
        let text = "peers are not supported: 100% `sure`, äh";
        let trailers = status_trailers(7, text);
        assert_eq!(trailers[0].1, "7");
        assert!(trailers[1].1.is_ascii() && !trailers[1].1.contains(' '));
        assert_eq!(decode_message(&trailers[1].1), text);
        assert_eq!(decode_message("100%"), "100%");
    }

    #[test]
    fn only_the_path_and_the_encoding_matter_in_a_request() {
        let mut head = request_head("http", "h:1", "agent", &[("TE".into(), "x".into())]);
        assert_eq!(head[4], ("te".to_owned(), "x".to_owned()));
        head.retain(|(name, _)| name == ":path");
        assert_eq!(check_request(&head), Ok(()));
        head.push(("grpc-encoding".to_owned(), "gzip".to_owned()));
        let answer = check_request(&head).unwrap_err();
        assert!(answer.iter().any(|(n, v)| n == "grpc-status" && v == "12"));
        assert!(check_request(&[(":path".to_owned(), "/x".to_owned())]).is_err());
    }
}
