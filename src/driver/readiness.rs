//! The descriptors that programs watch: readable while a queue has something to give.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use super::fork::{self, Ours};

/// A descriptor that is readable while at least one of a few queues wants it to be. It is made when
/// somebody first asks for it. There is never more than one byte in its pipe, and neither end
/// blocks, whatever the program does with its own.
pub(crate) struct Readiness {
    /// The queues, a bit for each, that have something to give.
    wanted: AtomicU8,
    /// Whether there is a pipe to keep up to date.
    used: AtomicBool,
    pipe: Mutex<Option<Pipe>>,
}

struct Pipe {
    reader: Ours<PipeReader>,
    writer: Ours<PipeWriter>,
    raised: bool,
}

impl Readiness {
    pub(crate) fn new() -> Readiness {
        Readiness { wanted: AtomicU8::new(0), used: AtomicBool::new(false), pipe: Mutex::new(None) }
    }

    /// The queue with this bit has something to give, or has nothing. Called under the queue's
    /// lock, so that the last call tells the truth.
    pub(crate) fn set(&self, queue: u8, wanted: bool) {
        // Whoever makes the pipe says so before it looks at the bits, and this is the other way
        // round: one of the two sees the other.
        match wanted {
            true => self.wanted.fetch_or(queue, Ordering::SeqCst),
            false => self.wanted.fetch_and(!queue, Ordering::SeqCst),
        };
        if self.used.load(Ordering::SeqCst) {
            if let Some(pipe) = &mut *self.pipe.lock().unwrap_or_else(PoisonError::into_inner) {
                pipe.update(&self.wanted);
            }
        }
    }

    /// The descriptor. It is owned by this, and lives as long.
    pub(crate) fn descriptor(&self) -> io::Result<RawFd> {
        let mut place = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipe) = &*place {
            return Ok(pipe.reader.as_raw_fd());
        }
        let (reader, writer) = fork::pipe()?;
        let mut pipe = Pipe { reader, writer, raised: false };
        let descriptor = pipe.reader.as_raw_fd();
        self.used.store(true, Ordering::SeqCst);
        pipe.update(&self.wanted);
        *place = Some(pipe);
        Ok(descriptor)
    }
}

impl Pipe {
    fn update(&mut self, wanted: &AtomicU8) {
        let wanted = wanted.load(Ordering::SeqCst) != 0;
        let done = match (wanted, self.raised) {
            (true, false) => self.writer.write(&[1]),
            (false, true) => self.reader.read(&mut [0]),
            _ => return,
        };
        // A program that takes the byte, which is not its own, has lowered it already. If it has
        // closed the descriptor it is past help, and a line in the log would be written with locks
        // held.
        if !done.is_err_and(|error| error.kind() != ErrorKind::WouldBlock) {
            self.raised = wanted;
        }
    }
}
