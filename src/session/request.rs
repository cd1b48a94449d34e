//! Control messages that wait for an answer: sent again every T, R times, then given up (spec 03
//! sections 4 and 16).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Outgoing, Retry};
use crate::name::Name;
use crate::wire::SessionMessageType;

/// Unanswered control messages of one session, by message id.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: BTreeMap<u32, Request>,
}

#[derive(Debug)]
struct Request {
    message: Outgoing,
    /// Whose answers are missing; empty: any one answer is enough.
    missing: BTreeSet<Name>,
    retry: Retry,
    tries_left: u32,
    due: Instant,
}

/// What an answer did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing waits for it.
    Unexpected,
    /// Others have still to answer.
    Partial,
    /// That was the last one.
    Complete,
}

/// What became due.
#[derive(Debug)]
pub(super) enum Due {
    /// Send this again; these have not answered.
    Again { message: Outgoing, missing: Vec<Name> },
    /// Nobody answered in time; these did not.
    GivenUp { message_id: u32, silent: BTreeSet<Name> },
}

impl Requests {
    /// Waits for answers to a message that is being sent now.
    pub(super) fn open(
        &mut self,
        message: Outgoing,
        missing: impl IntoIterator<Item = Name>,
        retry: Retry,
        now: Instant,
    ) {
        let request = Request {
            missing: missing.into_iter().collect(),
            retry,
            tries_left: retry.max_retries,
            due: now + retry.interval,
            message,
        };
        self.open.insert(request.message.message_id, request);
    }

    /// Somebody answered with a message of this kind.
    pub(super) fn answer(
        &mut self,
        message_id: u32,
        kind: SessionMessageType,
        from: &Name,
    ) -> Answer {
        let open = self.open.get_mut(&message_id);
        let Some(request) = open.filter(|request| kind == answer_to(request.message.kind)) else {
            return Answer::Unexpected;
        };
        let any = request.missing.is_empty();
        if !any && !request.missing.remove(from) {
            return Answer::Unexpected;
        }
        if !request.missing.is_empty() {
            return Answer::Partial;
        }
        self.open.remove(&message_id);
        Answer::Complete
    }

    /// Stops waiting.
    pub(super) fn cancel(&mut self, message_id: u32) {
        self.open.remove(&message_id);
    }

    /// Stops waiting for anything.
    pub(super) fn cancel_all(&mut self) {
        self.open.clear();
    }

    /// Somebody has gone: what waited for that answer alone is complete; those numbers are returned.
    pub(super) fn without(&mut self, name: &Name) -> Vec<u32> {
        let mut complete = Vec::new();
        for (id, request) in &mut self.open {
            if request.missing.remove(name) && request.missing.is_empty() {
                complete.push(*id);
            }
        }
        complete.iter().for_each(|id| self.cancel(*id));
        complete
    }

    /// When something becomes due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.open.values().map(|request| request.due).min()
    }

    /// The next thing that is due.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<Due> {
        let (&message_id, request) = self.open.iter_mut().find(|(_, r)| r.due <= now)?;
        if request.tries_left > 0 {
            request.tries_left -= 1;
            request.due = now + request.retry.interval;
            let missing = request.missing.iter().cloned().collect();
            return Some(Due::Again { message: request.message.clone(), missing });
        }
        let request = self.open.remove(&message_id)?;
        Some(Due::GivenUp { message_id, silent: request.missing })
    }
}

/// Which kind of message answers one of this kind.
fn answer_to(request: SessionMessageType) -> SessionMessageType {
    use SessionMessageType as T;
    match request {
        T::DiscoveryRequest => T::DiscoveryReply,
        T::JoinRequest => T::JoinReply,
        T::LeaveRequest => T::LeaveReply,
        T::RejoinRequest => T::RejoinReply,
        _ => T::GroupAck,
    }
}
