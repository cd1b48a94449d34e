//! A queue from the loop to waiting threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long a call may wait; `None`: without limit.
pub type Timeout = Option<Duration>;

/// When a wait that begins now ends. A time that the clock cannot hold is no limit.
pub(crate) fn deadline_after(timeout: Timeout) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// A queue that can be closed. What was pushed before is still given out then.
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    queue: VecDeque<T>,
    closed: Option<Error>,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Inbox<T> {
        let state = State { queue: VecDeque::new(), closed: None };
        Inbox { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(crate) fn push(&self, item: T) {
        self.lock().queue.push_back(item);
        self.changed.notify_one();
    }

    /// How many items wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().queue.len()
    }

    /// Ends every wait, once the queue is empty, with this error.
    pub(crate) fn close(&self, error: Error) {
        self.lock().closed.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Takes the next item; `what` says what is waited for.
    pub(crate) fn pop(&self, timeout: Timeout, what: &str) -> Result<T> {
        let deadline = deadline_after(timeout);
        let mut state = self.lock();
        loop {
            if let Some(item) = state.queue.pop_front() {
                return Ok(item);
            }
            if let Some(error) = &state.closed {
                return Err(error.clone());
            }
            state = match wait(&self.changed, state, deadline) {
                Some(state) => state,
                None => return Err(Error::Timeout(what.to_owned())),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a change. `None`: the time is over.
pub(crate) fn wait<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> Option<MutexGuard<'a, T>> {
    match deadline {
        Some(deadline) => {
            let left = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())?;
            let waited = changed.wait_timeout(guard, left);
            Some(waited.unwrap_or_else(PoisonError::into_inner).0)
        }
        None => Some(changed.wait(guard).unwrap_or_else(PoisonError::into_inner)),
    }
}
