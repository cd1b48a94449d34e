//! The two times that the core works with. Both come in from outside (the driver or a test), so
//! whole networks can run in virtual time.

use std::collections::{BTreeMap, BTreeSet};
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
        Now { mono: self.mono + by, unix: self.unix + by }
    }

    /// Whole seconds since the UNIX epoch.
    pub fn unix_secs(self) -> u64 {
        self.unix.as_secs()
    }
}

/// When each of many things wants to be woken; one time for each.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    order: BTreeSet<(Instant, K)>,
    times: BTreeMap<K, Instant>,
}

impl<K> Default for Timers<K> {
    fn default() -> Timers<K> {
        Timers { order: BTreeSet::new(), times: BTreeMap::new() }
    }
}

impl<K: Copy + Ord> Timers<K> {
    /// Sets or clears the time of one thing.
    pub(crate) fn set(&mut self, key: K, at: Option<Instant>) {
        if self.times.get(&key) == at.as_ref() {
            return;
        }
        if let Some(old) = match at {
            Some(at) => self.times.insert(key, at),
            None => self.times.remove(&key),
        } {
            self.order.remove(&(old, key));
        }
        self.order.extend(at.map(|at| (at, key)));
    }

    /// Whether one thing wants to be woken.
    pub(crate) fn is_set(&self, key: K) -> bool {
        self.times.contains_key(&key)
    }

    /// The earliest time.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes one thing out whose time has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.set(key, None);
        Some(key)
    }

    /// Whether nothing wants to be woken.
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}
