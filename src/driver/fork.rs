//! `fork()`: a child has no thread of ours and must not touch what its parent still uses (DESIGN
//! decision 30). It closes its copies of our descriptors, and every handle made before answers that
//! it is of no use there.

use std::cell::UnsafeCell;
use std::collections::BTreeSet;
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

/// Has the handlers called; once is enough.
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
    let log = logging::hold();
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Says that a descriptor is ours, as long as it lives. It must go before what it names.
pub(crate) struct Descriptor {
    descriptor: RawFd,
    generation: u32,
}

impl Descriptor {
    pub(crate) fn new(of: &impl AsRawFd) -> Descriptor {
        let descriptor = of.as_raw_fd();
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(descriptor);
        Descriptor { descriptor, generation: generation() }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.generation == generation() {
            OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.descriptor);
        }
    }
}
