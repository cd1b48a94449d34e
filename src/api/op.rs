//! Something that was started and may be waited for.

use std::sync::Arc;

use super::Timeout;
use crate::driver::OpSlot;
use crate::error::Result;

/// An operation that goes on behind the program's back. Dropping it cancels nothing.
#[derive(Clone)]
pub struct Op {
    pub(super) slot: Arc<OpSlot>,
    pub(super) what: &'static str,
}

impl Op {
    /// Waits until the operation has ended, and says how. It may be asked again, and by several
    /// threads: each gets the same answer. [`Error::Timeout`](crate::error::Error::Timeout): it
    /// goes on.
    pub fn wait(&self, timeout: Timeout) -> Result<()> {
        self.slot.wait(timeout, self.what).map(drop)
    }
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Op ({})", self.what)
    }
}
