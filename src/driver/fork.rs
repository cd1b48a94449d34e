//! `fork()`: a child has no thread of ours and must not touch what its parent still uses (DESIGN
//! decision 30). Every handle made before answers that it is of no use there.
//!
//! What is promised:
//! - A child of `fork()` has no descriptor of ours. They are opened and closed under a lock that
//!   `fork()` takes ([`Opening`], [`Ours`]), so that each is in the list of those that the child
//!   closes, whatever other threads do meanwhile. It closes them, and no more: `shutdown` or a
//!   message would end the connection of its parent.
//! - What starts another program (`vfork`, `posix_spawn`, a bare `clone` and `exec`) passes nothing
//!   on: all descriptors are close-on-exec from their first moment.
//! - A connection or listener that this process ends, it ends for its peers, even where such a
//!   process, or one that was copied without the C library's knowledge, still has a copy: it is
//!   shut down before it is closed.
//!
//! The C library's own, while it looks up a name, and files while they are read are not in the
//! list: a copy of those harms nobody.

use std::cell::UnsafeCell;
use std::collections::BTreeSet;
use std::io::{self, PipeReader, PipeWriter};
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use crate::logging;

/// Counts the forks between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// The descriptors of all nodes of this process.
static OPEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// What is locked while the process is copied, so that the copy is whole.
struct Held {
    open: MutexGuard<'static, BTreeSet<RawFd>>,
    log: logging::Held,
}

/// Between the handlers of one fork. It is no thread-local: those of a thread that exits are gone.
struct Slot(UnsafeCell<Option<Held>>);

// SAFETY: it is only looked at by a thread that has just locked what goes into it, or still has it
// locked.
unsafe impl Sync for Slot {}

static HELD: Slot = Slot(UnsafeCell::new(None));

/// Which process this is: handles remember it.
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Has the handlers called when the library is loaded. Later would be too late for a child that was
/// made by another thread in the midst of it: it would wait for the end of the `Once` for ever, and
/// in it the first node would begin.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[used]
#[link_section = ".init_array"]
static WHEN_LOADED: extern "C" fn() = {
    extern "C" fn when_loaded() {
        install();
    }
    when_loaded
};

/// Has the handlers called, where that was not done when the library was loaded.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handlers are functions without arguments that stay where they are, since the
        // library is never unloaded.
        let failed = unsafe { libc::pthread_atfork(Some(before), Some(parent), Some(child)) };
        if failed != 0 {
            log::error!("pthread_atfork failed ({failed}): do not fork");
        }
    });
}

extern "C" fn before() {
    let open = lock();
    // Behind the other: nobody who has the log's lock waits for that one.
    let log = logging::hold();
    // SAFETY: `open` is locked, see `Slot`.
    unsafe { *HELD.0.get() = Some(Held { open, log }) };
}

extern "C" fn parent() {
    // SAFETY: what is in it is locked by this thread.
    drop(unsafe { (*HELD.0.get()).take() });
}

extern "C" fn child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    // SAFETY: this is the only thread.
    if let Some(mut held) = unsafe { (*HELD.0.get()).take() } {
        held.log.start_anew();
        for descriptor in std::mem::take(&mut *held.open) {
            // SAFETY: it is one of ours, and nobody in this process uses it any more.
            unsafe { libc::close(descriptor) };
        }
    }
}

fn lock() -> MutexGuard<'static, BTreeSet<RawFd>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As long as this is there, nobody forks: for the time between the system call that opens a
/// descriptor and [`Opening::own`]. Nothing that waits and nothing that logs may be done meanwhile.
pub(crate) struct Opening(MutexGuard<'static, BTreeSet<RawFd>>);

impl Opening {
    pub(crate) fn begin() -> Opening {
        Opening(lock())
    }

    /// Says that this, which was just opened, is ours.
    pub(crate) fn own<T: AsRawFd>(&mut self, opened: T) -> Ours<T> {
        let descriptor = opened.as_raw_fd();
        self.0.insert(descriptor);
        Ours { opened: ManuallyDrop::new(opened), descriptor, generation: generation() }
    }
}

/// Something with a descriptor that no child of `fork()` keeps. In a child, dropping it does
/// nothing: the descriptor is closed there, and its number may be somebody else's.
pub(crate) struct Ours<T> {
    opened: ManuallyDrop<T>,
    descriptor: RawFd,
    generation: u32,
}

impl<T: AsRawFd> Ours<T> {
    /// Opens something; see [`Opening`].
    pub(crate) fn open(open: impl FnOnce() -> io::Result<T>) -> io::Result<Ours<T>> {
        let mut opening = Opening::begin();
        open().map(|opened| opening.own(opened))
    }
}

impl<T> Ours<T> {
    /// Ends a connection, or a listener, for the peers, whoever has a copy of the descriptor.
    pub(crate) fn shut_down(&self) {
        if self.generation == generation() {
            // SAFETY: the descriptor is open. What is no socket, or not connected, stays as it is.
            unsafe { libc::shutdown(self.descriptor, libc::SHUT_RDWR) };
        }
    }
}

impl<T> Deref for Ours<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.opened
    }
}

impl<T> DerefMut for Ours<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.opened
    }
}

impl<T> Drop for Ours<T> {
    fn drop(&mut self) {
        if self.generation == generation() {
            let mut open = lock();
            open.remove(&self.descriptor);
            // SAFETY: it is not looked at again.
            unsafe { ManuallyDrop::drop(&mut self.opened) };
        }
    }
}

/// A pipe of which neither end ever waits.
pub(crate) fn pipe() -> io::Result<(Ours<PipeReader>, Ours<PipeWriter>)> {
    let mut opening = Opening::begin();
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
    Ok((opening.own(reader), opening.own(writer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_what_a_parent_opened_closes_nothing_in_its_child() {
        install();
        let (reader, writer) = pipe().unwrap();
        let number = reader.as_raw_fd();
        // SAFETY: the child looks at two descriptors, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // The number is free, and somebody else's then.
            // SAFETY: as above.
            let taken = unsafe { libc::fcntl(2, libc::F_DUPFD, number) };
            drop((reader, writer));
            // SAFETY: as above.
            unsafe {
                let open = libc::fcntl(number, libc::F_GETFD) >= 0;
                libc::_exit(if taken == number && open { 0 } else { 1 });
            }
        }
        let mut status = -1;
        // SAFETY: the status is a number.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, 0);
    }
}
