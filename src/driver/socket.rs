//! One TCP socket of the loop.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

use mio::net::TcpStream;

/// How far a socket has come.
pub(super) enum State {
    /// Being connected, until then; these addresses may be tried after this one.
    Connecting { deadline: Option<Instant>, others: VecDeque<SocketAddr> },
    /// Bytes flow.
    Open,
    /// The core has forgotten it: these bytes go out, then it is closed, at the latest then.
    Closing { bytes: Vec<u8>, deadline: Instant },
}

/// One TCP socket.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    pub(super) state: State,
    pub(super) writable: bool,
    /// The kernel has said that the peer sends no more.
    pub(super) hangup: bool,
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
    pub(super) fn new(stream: TcpStream, state: State) -> Socket {
        // Small messages must not wait for the acknowledgement of earlier ones.
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!("TCP_NODELAY: {error}");
        }
        Socket { stream, state, writable: false, hangup: false }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Progress {
        loop {
            return match self.stream.read(buffer) {
                Ok(0) => Progress::Ended("the peer closed the connection".to_owned()),
                Ok(len) => {
                    acknowledge_at_once(&self.stream);
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

    /// Writes what is left and half-closes. `true`: the socket is done with.
    pub(super) fn wind_up(&mut self) -> bool {
        loop {
            let State::Closing { bytes, .. } = &self.state else { return false };
            if bytes.is_empty() {
                break;
            }
            let bytes = bytes.clone();
            match self.write(&bytes) {
                Progress::Bytes(len) => {
                    if let State::Closing { bytes, .. } = &mut self.state {
                        bytes.drain(..len);
                    }
                }
                Progress::Blocked => return self.hangup,
                Progress::Ended(_) => return true,
            }
        }
        // The peer gets everything, and its own end is waited for, or the kernel might throw away
        // what we just wrote.
        if self.hangup || self.stream.shutdown(Shutdown::Write).is_err() {
            return true;
        }
        let mut nowhere = [0; 4096];
        loop {
            match self.read(&mut nowhere) {
                Progress::Bytes(_) => {}
                Progress::Blocked => return false,
                Progress::Ended(_) => return true,
            }
        }
    }

    /// When the loop must look at the socket again, whatever happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Connecting { deadline, .. } => *deadline,
            State::Open => None,
            State::Closing { deadline, .. } => Some(*deadline),
        }
    }
}

/// Has the kernel acknowledge what was read without delay: published peers leave Nagle's algorithm
/// on, and their next small message would wait 40 ms for it. The option must be set again after
/// each read.
#[cfg(target_os = "linux")]
fn acknowledge_at_once(stream: &TcpStream) {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, the value has the size that is given.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

#[cfg(not(target_os = "linux"))]
fn acknowledge_at_once(_: &TcpStream) {}
