//! Something that was started and may be waited for.

use std::sync::Arc;

use super::Timeout;
use crate::driver::{AppShared, OpSlot};
use crate::error::Result;

/// An operation that goes on behind the program's back. Dropping it cancels nothing.
#[derive(Clone)]
pub struct Op {
    slot: Arc<OpSlot>,
    app: Arc<AppShared>,
    what: &'static str,
}

impl Op {
    pub(super) fn new(slot: Arc<OpSlot>, app: &Arc<AppShared>, what: &'static str) -> Op {
        Op { slot, app: Arc::clone(app), what }
    }

    /// Waits until the operation has ended, and says how. It may be asked again, and by several
    /// threads: each gets the same answer. [`Error::Timeout`](crate::error::Error::Timeout): it
    /// goes on.
    pub fn wait(&self, timeout: Timeout) -> Result<()> {
        self.slot.wait(timeout, self.what).map(drop)
    }

    /// Puts `tag` on the app's list of ended operations when this one has ended; at once if it has
    /// already. See [`App::next_done`](super::App::next_done).
    pub fn notify(&self, tag: u64) {
        self.slot.notify(&self.app, tag);
    }
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Op ({})", self.what)
    }
}
