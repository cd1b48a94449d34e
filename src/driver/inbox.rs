//! A queue from the loop to waiting threads.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::readiness::Readiness;
use crate::error::{Error, Result};
use crate::logging;

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
    /// The descriptor that programs may watch, and this queue's bit in it.
    readiness: (Arc<Readiness>, u8),
}

struct State<T> {
    queue: VecDeque<T>,
    closed: Option<Error>,
}

impl<T> Inbox<T> {
    /// An empty queue with a bit of its own among those that share a descriptor.
    pub(crate) fn new(readiness: &Arc<Readiness>, bit: u8) -> Inbox<T> {
        let state = State { queue: VecDeque::new(), closed: None };
        let readiness = (Arc::clone(readiness), bit);
        Inbox { state: Mutex::new(state), changed: Condvar::new(), readiness }
    }

    pub(crate) fn push(&self, item: T) {
        let mut state = self.lock();
        state.queue.push_back(item);
        self.show(&state);
        drop(state);
        self.changed.notify_one();
    }

    /// A descriptor that is readable while [`Inbox::pop`] has something to give, or an error.
    pub(crate) fn descriptor(&self) -> Result<RawFd> {
        let text = |error| Error::Io(format!("making a descriptor to wait for: {error}"));
        self.readiness.0.descriptor().map_err(text)
    }

    fn show(&self, state: &State<T>) {
        let (readiness, bit) = &self.readiness;
        readiness.set(*bit, !state.queue.is_empty() || state.closed.is_some());
    }

    /// How many items wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().queue.len()
    }

    /// Ends every wait, once the queue is empty, with this error.
    pub(crate) fn close(&self, error: Error) {
        let mut state = self.lock();
        state.closed.get_or_insert(error);
        self.show(&state);
        drop(state);
        self.changed.notify_all();
    }

    /// Takes the next item; `what` says what is waited for.
    pub(crate) fn pop(&self, timeout: Timeout, what: &str) -> Result<T> {
        let deadline = deadline_after(timeout);
        let mut state = self.lock();
        loop {
            if let Some(item) = state.queue.pop_front() {
                if state.queue.is_empty() {
                    self.show(&state);
                }
                return Ok(item);
            }
            if let Some(error) = &state.closed {
                return Err(error.clone());
            }
            state = wait(&self.changed, state, deadline, what)?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a change; `what` says for what. It is an error when the time is over, and inside a log
/// callback.
pub(crate) fn wait<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
    what: &str,
) -> Result<MutexGuard<'a, T>> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    may_wait(left, what)?;
    match left {
        Some(Duration::ZERO) => Err(Error::Timeout(what.to_owned())),
        Some(left) => {
            let waited = changed.wait_timeout(guard, left);
            Ok(waited.unwrap_or_else(PoisonError::into_inner).0)
        }
        None => Ok(changed.wait(guard).unwrap_or_else(PoisonError::into_inner)),
    }
}

/// Whether this thread may wait so long: not inside a log callback, where it may be the thread that
/// it would wait for.
pub(crate) fn may_wait(timeout: Timeout, what: &str) -> Result<()> {
    match timeout != Some(Duration::ZERO) && logging::is_inside() {
        true => Err(Error::NotAllowed(format!("{what}: a log callback must not wait"))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::{Entropy, SeededEntropy};

    fn readable(descriptor: RawFd) -> bool {
        let mut asked = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, as said.
        unsafe { libc::poll(&mut asked, 1, 0) == 1 }
    }

    fn pending(descriptor: RawFd) -> i32 {
        let mut len = 0;
        // SAFETY: FIONREAD stores a number.
        unsafe { libc::ioctl(descriptor, libc::FIONREAD, &mut len) };
        len
    }

    /// Checklist of 08, item 11.
    #[test]
    fn the_descriptor_tells_the_truth_after_each_of_10_000_steps() {
        let mut random = SeededEntropy::new(1);
        for round in 0..20 {
            let readiness = Arc::new(Readiness::new());
            let queues: [Inbox<u32>; 2] = [Inbox::new(&readiness, 1), Inbox::new(&readiness, 2)];
            let (mut held, mut closed) = ([0, 0], [false, false]);
            let mut descriptor = None;
            for step in 0..500 {
                let which = random.next_u32() as usize % 2;
                match random.next_u32() % 100 {
                    0..45 => {
                        queues[which].push(step);
                        held[which] += 1;
                    }
                    45..98 => {
                        let taken = queues[which].pop(Some(Duration::ZERO), "something").is_ok();
                        assert_eq!(taken, held[which] > 0);
                        held[which] -= u32::from(taken);
                    }
                    98 => descriptor = Some(queues[which].descriptor().unwrap()),
                    _ if step > 400 => {
                        queues[which].close(Error::closed("queue"));
                        closed[which] = true;
                    }
                    _ => {}
                }
                if let Some(descriptor) = descriptor {
                    let wanted = held != [0, 0] || closed != [false, false];
                    assert_eq!(readable(descriptor), wanted, "round {round}, step {step}");
                    assert_eq!(pending(descriptor), i32::from(wanted));
                }
            }
        }
    }

    #[test]
    fn several_takers_and_a_giver_leave_the_descriptor_right() {
        let readiness = Arc::new(Readiness::new());
        let queue: Inbox<u32> = Inbox::new(&readiness, 1);
        const ITEMS: u32 = 10_000;
        let taken = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let descriptor = queue.descriptor().unwrap();
                        let mut taken = 0;
                        loop {
                            match queue.pop(Some(Duration::ZERO), "something") {
                                Ok(_) => taken += 1,
                                Err(Error::Timeout(_)) => {
                                    let mut asked = libc::pollfd {
                                        fd: descriptor,
                                        events: libc::POLLIN,
                                        revents: 0,
                                    };
                                    // SAFETY: one structure, as said.
                                    let found = unsafe { libc::poll(&mut asked, 1, 20_000) };
                                    assert_eq!(found, 1, "a wake-up was lost");
                                }
                                Err(_) => return taken,
                            }
                        }
                    })
                })
                .collect();
            for item in 0..ITEMS {
                queue.push(item);
            }
            queue.close(Error::closed("queue"));
            takers.into_iter().map(|taker| taker.join().unwrap()).sum::<u32>()
        });
        assert_eq!(taken, ITEMS);
        assert_eq!(pending(queue.descriptor().unwrap()), 1);
    }
}
