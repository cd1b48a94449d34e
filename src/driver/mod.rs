//! The world outside the core: one thread per node, its sockets, and the queues to the threads of
//! the program.
//!
//! The loop waits (for sockets, calls, or the core's next timer), feeds the core, carries out what
//! it wants, and writes each link's bytes once a turn. All signals are blocked in its thread.

mod command;
mod event_loop;
mod fork;
mod inbox;
mod readiness;
mod resolve;
mod socket;
mod wakeup;

pub(crate) use command::{
    check_size, Answer, AppShared, Command, Completion, Counted, OpSlot, Reply, SessionShared,
};
pub(crate) use event_loop::{NodeHandle, Shared};
pub(crate) use fork::generation;
pub use inbox::Timeout;
pub(crate) use inbox::{deadline_after, may_wait, Inbox};
