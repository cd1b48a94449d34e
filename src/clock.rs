//! The two times that the core works with. Both come in from outside (the driver or a test), so
//! whole networks can run in virtual time.

use std::time::{Duration, Instant};

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time: timers, deadlines, liveness.
    pub mono: Instant,
    /// Time since the UNIX epoch: the times inside tokens. May jump.
    pub unix: Duration,
}

impl Now {
    /// The same moment moved forward by `by` on both clocks.
    pub fn after(self, by: Duration) -> Now {
        Now {
            mono: self.mono + by,
            unix: self.unix + by,
        }
    }

    /// Whole seconds since the UNIX epoch.
    pub fn unix_secs(self) -> u64 {
        self.unix.as_secs()
    }
}
