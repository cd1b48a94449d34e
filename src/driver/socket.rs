//! One TCP socket of the loop.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::fork::Ours;
use crate::node::TransportId;

/// What the core wants to be connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) transport: TransportId,
    /// For all addresses together.
    pub(super) deadline: Option<Instant>,
    /// Silence after which TCP is to ask whether the peer lives.
    pub(super) keepalive: Option<Duration>,
    /// Attempts that failed before.
    pub(super) failures: u64,
}

/// How far a socket has come.
pub(super) enum State {
    /// Being connected, this address at most until then; these may be tried after it.
    Connecting { until: Option<Instant>, attempt: Attempt, others: VecDeque<SocketAddr> },
    /// Bytes flow.
    Open,
    /// The core has forgotten it: these bytes go out, then it is closed, at the latest then.
    Closing { bytes: Vec<u8>, deadline: Instant },
}

/// One TCP socket.
pub(super) struct Socket {
    pub(super) stream: Ours<TcpStream>,
    pub(super) state: State,
    pub(super) writable: bool,
    /// The kernel has said that the peer sends no more.
    pub(super) hangup: bool,
    /// The loop will read it by itself.
    pub(super) to_read: bool,
    /// Bytes that were ever read.
    #[cfg(test)]
    pub(super) bytes_read: u64,
}

/// How far a closing socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WoundUp {
    /// It can be closed.
    Done,
    /// The kernel will say when there is more to do.
    Waiting,
    /// The peer still sends; others get their turn first.
    OutOfBudget,
}

/// What came of reading or writing.
pub(super) enum Progress {
    /// So many bytes.
    Bytes(usize),
    /// Nothing more now.
    Blocked,
    /// The stream has ended, for a reason in words.
    Ended(String),
}

impl Socket {
    pub(super) fn new(stream: Ours<TcpStream>, state: State) -> Socket {
        // Small messages must not wait for the acknowledgement of earlier ones.
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!("TCP_NODELAY: {error}");
        }
        Socket {
            stream,
            state,
            writable: false,
            hangup: false,
            to_read: false,
            #[cfg(test)]
            bytes_read: 0,
        }
    }

    /// Has TCP ask whether the peer lives after so much silence.
    pub(super) fn keep_alive(&self, silence: Duration) {
        let secs = silence.as_secs().clamp(1, MAX_KEEPALIVE_SECS) as libc::c_int;
        set_option(&self.stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        set_option(&self.stream, libc::IPPROTO_TCP, KEEPALIVE_TIME, secs);
    }

    /// Has the kernel acknowledge what was read, if it has not yet: published peers leave Nagle's
    /// algorithm on, and their next small message would wait 40 ms for it. The option must be set
    /// again after each read.
    pub(super) fn acknowledge_at_once(&self) {
        #[cfg(target_os = "linux")]
        set_option(&self.stream, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1);
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Progress {
        loop {
            return match self.stream.read(buffer) {
                Ok(0) => Progress::Ended("the peer closed the connection".to_owned()),
                Ok(len) => {
                    #[cfg(test)]
                    {
                        self.bytes_read += len as u64;
                    }
                    Progress::Bytes(len)
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Progress::Blocked,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Progress::Ended(error.to_string()),
            };
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Progress {
        loop {
            return match self.stream.write(bytes) {
                Ok(len) => Progress::Bytes(len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    Progress::Blocked
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Progress::Ended(error.to_string()),
            };
        }
    }

    /// Writes what is left, half-closes, and waits for the peer's end; what the peer still sends is
    /// read into `nowhere`, once.
    pub(super) fn wind_up(&mut self, nowhere: &mut [u8]) -> WoundUp {
        loop {
            let State::Closing { bytes, .. } = &mut self.state else { return WoundUp::Done };
            if bytes.is_empty() {
                break;
            }
            let mut left = std::mem::take(bytes);
            let progress = self.write(&left);
            if let Progress::Bytes(len) = progress {
                left.drain(..len);
            }
            if let State::Closing { bytes, .. } = &mut self.state {
                *bytes = left;
            }
            match progress {
                Progress::Bytes(_) => {}
                Progress::Blocked if !self.hangup => return WoundUp::Waiting,
                Progress::Blocked | Progress::Ended(_) => return WoundUp::Done,
            }
        }
        // The peer gets everything, and its own end is waited for, or the kernel might throw away
        // what we just wrote.
        if self.hangup || self.stream.shutdown(Shutdown::Write).is_err() {
            return WoundUp::Done;
        }
        match self.read(nowhere) {
            Progress::Bytes(_) => WoundUp::OutOfBudget,
            Progress::Blocked => WoundUp::Waiting,
            Progress::Ended(_) => WoundUp::Done,
        }
    }

    /// Whether the peer has not been sent everything yet.
    pub(super) fn has_unwritten(&self) -> bool {
        match &self.state {
            State::Connecting { .. } => false,
            State::Open => true,
            State::Closing { bytes, .. } => !bytes.is_empty(),
        }
    }

    /// When the loop must look at the socket again, whatever happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Connecting { until, .. } => *until,
            State::Open => None,
            State::Closing { deadline, .. } => Some(*deadline),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.stream.shut_down();
    }
}

/// The option with the time before TCP's first probe, and the longest that Linux takes.
#[cfg(not(target_vendor = "apple"))]
const KEEPALIVE_TIME: libc::c_int = libc::TCP_KEEPIDLE;
#[cfg(target_vendor = "apple")]
const KEEPALIVE_TIME: libc::c_int = libc::TCP_KEEPALIVE;
const MAX_KEEPALIVE_SECS: u64 = 32_767;

/// Sets an option of a socket; one that the system does not know changes nothing.
fn set_option(stream: &TcpStream, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
    // SAFETY: the descriptor is open, the value has the size that is given.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    /// An option of a socket, as the kernel has it.
    pub(crate) fn option(socket: &Socket, level: libc::c_int, name: libc::c_int) -> libc::c_int {
        let (mut value, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as u32);
        let at = (&raw mut value).cast();
        // SAFETY: the descriptor is open, the value has the size that is given.
        let rc = unsafe { libc::getsockopt(socket.stream.as_raw_fd(), level, name, at, &mut len) };
        assert_eq!(rc, 0);
        value
    }

    #[test]
    fn tcp_itself_asks_whether_the_peer_lives_if_it_is_told_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for (silence, expected) in [(45_000, 45), (999, 1), (u64::MAX, 32_767)] {
            let address = listener.local_addr().unwrap();
            let stream = Ours::open(|| TcpStream::connect(address)).unwrap();
            let socket = Socket::new(stream, State::Open);
            assert_eq!(option(&socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 0);
            socket.keep_alive(Duration::from_millis(silence));
            assert_ne!(option(&socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 0);
            assert_eq!(option(&socket, libc::IPPROTO_TCP, KEEPALIVE_TIME), expected);
        }
    }

    /// A closing socket whose peer sends and sends, and never reads, is given up in shares.
    #[test]
    fn a_peer_that_goes_on_sending_gets_its_share_of_a_closing_socket_and_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        // Blocking, so that the socket never says that there is nothing more.
        let deadline = Instant::now() + Duration::from_secs(60);
        let state = State::Closing { bytes: b"the end".to_vec(), deadline };
        let ours = Ours::open(|| Ok(TcpStream::from_std(ours))).unwrap();
        let mut socket = Socket::new(ours, state);
        peer.write_all(&[7; 250]).unwrap();
        let mut buffer = [0; 100];
        for read in [100, 200, 250] {
            assert_eq!(socket.wind_up(&mut buffer), WoundUp::OutOfBudget);
            assert_eq!(socket.bytes_read, read);
        }
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"the end");
        drop(peer);
        assert_eq!(socket.wind_up(&mut buffer), WoundUp::Done);
    }
}
