//! Every bound of the library, by name. Sizes are in bytes, times are durations; each is tested at
//! the limit and one past it where it is enforced.

use std::time::Duration;

/// Largest gRPC message accepted from a link (spec 01 section 1.2): one byte more closes the link.
pub const MAX_RECEIVED_MESSAGE: usize = 4 * 1024 * 1024;
/// Largest encoded message that we send; above it a publish is refused locally, and a node drops a
/// message that would not fit the next hop (DESIGN decision 17).
pub const MAX_SENT_MESSAGE: usize = 4 * 1024 * 1024 - 64 * 1024;
/// HTTP/2 stream window that we announce (and, for servers, the connection window).
pub const STREAM_WINDOW: u32 = 1024 * 1024;
/// HTTP/2 connection window that we announce.
pub const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Largest HTTP/2 header list accepted, counted as RFC 9113 section 6.5.2 does.
pub const MAX_HEADER_LIST: usize = 16 * 1024;
/// HTTP/2 is fed at most this much at a time, and drained after each.
pub const HTTP2_FEED: usize = 16 * 1024;
/// How long a link may take to negotiate (spec 01 section 5.1).
pub const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(5);
/// An accepted connection that sends no request for this long is closed.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A dialled connection that gets no response head for this long is closed and dialled again.
pub const RESPONSE_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of frames made ready for one socket at a time; the rest waits in the stream's queue,
/// where it can still share frames.
pub const SOCKET_BUFFER: usize = 256 * 1024;
