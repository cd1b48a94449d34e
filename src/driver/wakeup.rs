//! Wakes the loop: a pipe whose write end any thread, and a signal handler, may write to.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::fork::{self, Ours};

// Where this thread has its `errno`.
#[cfg(not(any(target_vendor = "apple", target_os = "freebsd")))]
use libc::__errno_location as errno;
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
use libc::__error as errno;

/// The token of the pipe.
pub(super) const WAKER: Token = Token(0);

pub(super) struct Wakeup {
    reader: Ours<PipeReader>,
    writer: Ours<PipeWriter>,
}

impl Wakeup {
    pub(super) fn new(registry: &Registry) -> io::Result<Wakeup> {
        let (reader, writer) = fork::pipe()?;
        registry.register(&mut SourceFd(&reader.as_raw_fd()), WAKER, Interest::READABLE)?;
        Ok(Wakeup { reader, writer })
    }

    /// Wakes the loop. One system call; `errno` stays as it was, since this may run in a signal
    /// handler. A full pipe has woken it already.
    pub(super) fn wake(&self) {
        // SAFETY: a byte is written to a pipe that is open as long as this; `errno` belongs to the
        // thread.
        unsafe {
            let errno = errno();
            let before = *errno;
            libc::write(self.writer.as_raw_fd(), [1_u8].as_ptr().cast(), 1);
            *errno = before;
        }
    }

    /// Takes the bytes out, so that the kernel tells of the next one.
    pub(super) fn drain(&self) {
        let mut bytes = [0; 64];
        while matches!((&*self.reader).read(&mut bytes), Ok(len) if len == bytes.len()) {}
    }
}
