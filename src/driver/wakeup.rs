//! Wakes the loop: a pipe whose write end any thread, and a signal handler, may write to.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::fork::Descriptor;

// Where this thread has its `errno`.
#[cfg(not(any(target_vendor = "apple", target_os = "freebsd")))]
use libc::__errno_location as errno;
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
use libc::__error as errno;

/// The token of the pipe.
pub(super) const WAKER: Token = Token(0);

pub(super) struct Wakeup {
    _descriptors: [Descriptor; 2],
    reader: PipeReader,
    writer: PipeWriter,
}

impl Wakeup {
    pub(super) fn new(registry: &Registry) -> io::Result<Wakeup> {
        let (reader, writer) = io::pipe()?;
        for descriptor in [reader.as_raw_fd(), writer.as_raw_fd()] {
            // SAFETY: both are open, and the flags are numbers.
            let done = unsafe {
                let flags = libc::fcntl(descriptor, libc::F_GETFL);
                libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_NONBLOCK)
            };
            if done < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        registry.register(&mut SourceFd(&reader.as_raw_fd()), WAKER, Interest::READABLE)?;
        let descriptors = [Descriptor::new(&reader), Descriptor::new(&writer)];
        Ok(Wakeup { _descriptors: descriptors, reader, writer })
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
        while matches!((&self.reader).read(&mut bytes), Ok(len) if len == bytes.len()) {}
    }
}
