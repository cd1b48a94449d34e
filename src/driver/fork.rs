//! `fork()`: a child has no thread of ours and must not touch what its parent still uses (DESIGN
//! decision 30). It closes its copies of our descriptors, and every handle made before answers that
//! it is of no use there.

use std::cell::RefCell;
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
    _log: Option<logging::Held>,
}

thread_local! {
    /// Of the thread that forks, from one of its handlers to the other.
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

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
    HELD.set(Some(Held { open, _log: log }));
}

extern "C" fn parent() {
    HELD.take();
}

extern "C" fn child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    if let Some(mut held) = HELD.take() {
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
