//! The sending half of a session's data: numbers, acknowledgements, retransmission (spec 03
//! section 9).
//!
//! It decides what is sent to whom and how each publish ends; it knows members only as names.

use std::collections::VecDeque;
use std::time::Instant;

use super::{OpId, Payload, Retry};
use crate::limits;
use crate::name::Name;

/// Sequence numbers on the wire wrap here.
const MODULUS: u64 = 0x8000_0000;

/// How a publish ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everybody acknowledged; best effort: it was sent.
    Delivered,
    /// These did not acknowledge in time. Empty: nobody was there to send it to.
    Undelivered(Vec<Name>),
}

/// What a sender says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Send this; `to`: to this member alone, else to the session's destination.
    Transmit { message_id: u32, payload: Payload, to: Option<Name> },
    /// A publish has ended.
    Finished { op: Option<OpId>, outcome: Outcome },
    /// There is room for so many more messages and bytes.
    Credit { messages: usize, bytes: usize },
    /// This member has not acknowledged a message in all the tries.
    Silent { name: Name, since: Instant },
}

/// The sending half of a session.
#[derive(Debug)]
pub(super) struct Sender {
    retry: Option<Retry>,
    /// Number of the next message; on the wire modulo 2^31.
    next: u64,
    /// Number of the first message in `window`.
    base: u64,
    /// Messages from the oldest unfinished one on; `None` where one is finished.
    window: VecDeque<Option<InFlight>>,
    /// The last messages, the newest is `next - 1`.
    sent: VecDeque<Payload>,
    /// When a message is due, oldest first: the interval is the same for all.
    timers: VecDeque<(Instant, u64)>,
    /// Published while nobody was there.
    kept: VecDeque<Kept>,
}

#[derive(Debug)]
struct InFlight {
    missing: Vec<Name>,
    /// Went offline before they acknowledged.
    silent: Vec<Name>,
    tries_left: u32,
    sent: Instant,
    due: Instant,
    op: Option<OpId>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    payload: Payload,
    op: Option<OpId>,
    expires: Instant,
}

impl Sender {
    /// A sender that numbers from 1; `retry` makes it a reliable one.
    pub(super) fn new(retry: Option<Retry>) -> Sender {
        Sender {
            retry,
            next: 1,
            base: 1,
            window: VecDeque::new(),
            sent: VecDeque::new(),
            timers: VecDeque::new(),
            kept: VecDeque::new(),
        }
    }

    /// Takes a message to publish. `receivers` are those who should acknowledge it; while there
    /// are none, it is kept.
    pub(super) fn publish(
        &mut self,
        payload: Payload,
        op: Option<OpId>,
        receivers: &[Name],
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        if receivers.is_empty() {
            let expires = now + self.retry.unwrap_or_default().total();
            self.kept.push_back(Kept { payload, op, expires });
        } else {
            self.transmit(payload, op, receivers, now, out);
        }
    }

    /// Somebody is there: sends what was kept.
    pub(super) fn flush_kept(&mut self, receivers: &[Name], now: Instant, out: &mut Vec<Output>) {
        if receivers.is_empty() {
            return;
        }
        for kept in std::mem::take(&mut self.kept) {
            self.transmit(kept.payload, kept.op, receivers, now, out);
        }
    }

    fn transmit(
        &mut self,
        payload: Payload,
        op: Option<OpId>,
        receivers: &[Name],
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let number = self.next;
        self.next += 1;
        let message_id = (number % MODULUS) as u32;
        match self.retry {
            Some(retry) => {
                if self.sent.len() == limits::SENDER_WINDOW {
                    self.sent.pop_front();
                }
                self.sent.push_back(payload.clone());
                let due = now + retry.interval;
                self.window.push_back(Some(InFlight {
                    missing: receivers.to_vec(),
                    silent: Vec::new(),
                    tries_left: retry.max_retries,
                    sent: now,
                    due,
                    op,
                    bytes: payload.len(),
                }));
                self.timers.push_back((due, number));
            }
            None => {
                self.base = self.next;
                out.push(Output::Finished { op, outcome: Outcome::Delivered });
            }
        }
        out.push(Output::Transmit { message_id, payload, to: None });
    }

    /// A member acknowledged a message.
    pub(super) fn acked(&mut self, message_id: u32, from: &Name, out: &mut Vec<Output>) {
        let number = self.number(message_id);
        let Some(message) = self.in_flight(number) else {
            return;
        };
        message.missing.retain(|name| name != from);
        message.silent.retain(|name| name != from);
        self.finish_if_done(number, out);
    }

    /// A member asks for a message again. `None`: it is no longer there.
    ///
    /// The published implementation counts the request as an acknowledgement. Here the message
    /// stays unacknowledged, or a lost answer would make a publish "delivered" that never was.
    pub(super) fn requested(&mut self, message_id: u32, now: Instant) -> Option<Payload> {
        let number = self.number(message_id);
        let newest_first = usize::try_from(self.next.checked_sub(number + 1)?).ok()?;
        let at = self.sent.len().checked_sub(newest_first + 1)?;
        let payload = self.sent.get(at)?.clone();
        if let (Some(retry), Some(message)) = (self.retry, self.in_flight(number)) {
            message.due = now + retry.interval;
            let due = message.due;
            self.timers.push_back((due, number));
        }
        Some(payload)
    }

    /// A member went offline: its acknowledgements will not come.
    pub(super) fn offline(&mut self, name: &Name, out: &mut Vec<Output>) {
        for number in self.base..self.base + self.window.len() as u64 {
            let Some(message) = self.in_flight(number) else {
                continue;
            };
            let before = message.missing.len();
            message.missing.retain(|missing| missing != name);
            if message.missing.len() < before {
                message.silent.push(name.clone());
                self.finish_if_done(number, out);
            }
        }
    }

    /// Whether something is not finished.
    pub(super) fn is_busy(&self) -> bool {
        !self.window.is_empty() || !self.kept.is_empty()
    }

    /// Gives up everything that is not finished: the session ends.
    pub(super) fn abandon(&mut self) -> Vec<OpId> {
        self.timers.clear();
        self.sent.clear();
        let flying = std::mem::take(&mut self.window).into_iter().flatten().map(|m| m.op);
        let kept = std::mem::take(&mut self.kept).into_iter().map(|kept| kept.op);
        flying.chain(kept).flatten().collect()
    }

    /// When [`Sender::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.front().map(|(due, _)| *due);
        let kept = self.kept.front().map(|kept| kept.expires);
        timer.into_iter().chain(kept).min()
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Output>) {
        while self.timers.front().is_some_and(|(due, _)| *due <= now) {
            let Some((due, number)) = self.timers.pop_front() else {
                break;
            };
            // A timer whose message is finished, or was set again, means nothing.
            if self.in_flight(number).is_some_and(|message| message.due == due) {
                self.message_due(number, now, out);
            }
        }
        while self.kept.front().is_some_and(|kept| kept.expires <= now) {
            let Some(Kept { payload, op, .. }) = self.kept.pop_front() else {
                break;
            };
            out.push(Output::Finished { op, outcome: Outcome::Undelivered(Vec::new()) });
            out.push(Output::Credit { messages: 1, bytes: payload.len() });
        }
    }

    fn message_due(&mut self, number: u64, now: Instant, out: &mut Vec<Output>) {
        let message_id = (number % MODULUS) as u32;
        let age = usize::try_from(self.next - number).unwrap_or(usize::MAX);
        let payload = self.sent.len().checked_sub(age).and_then(|at| self.sent.get(at)).cloned();
        let retry = self.retry.unwrap_or_default();
        let Some(message) = self.in_flight(number) else {
            return;
        };
        let (true, Some(payload)) = (message.tries_left > 0, payload) else {
            let missing = std::mem::take(&mut message.missing);
            message.silent.extend(missing.iter().cloned());
            let since = message.sent;
            self.finish_if_done(number, out);
            return out.extend(missing.into_iter().map(|name| Output::Silent { name, since }));
        };
        message.tries_left -= 1;
        message.due = now + retry.interval;
        for name in &message.missing {
            let to = Some(name.clone());
            out.push(Output::Transmit { message_id, payload: payload.clone(), to });
        }
        let due = message.due;
        self.timers.push_back((due, number));
    }

    fn finish_if_done(&mut self, number: u64, out: &mut Vec<Output>) {
        let Some(at) = self.position(number) else {
            return;
        };
        let Some(slot) = self.window.get_mut(at) else {
            return;
        };
        if !slot.as_ref().is_some_and(|message| message.missing.is_empty()) {
            return;
        }
        let Some(InFlight { silent, op, bytes, .. }) = slot.take() else {
            return;
        };
        let outcome = match silent.is_empty() {
            true => Outcome::Delivered,
            false => Outcome::Undelivered(silent),
        };
        out.push(Output::Finished { op, outcome });
        // Room is measured from the oldest unfinished message: the receiver keeps no more than
        // this many after a gap.
        let mut messages = 0;
        while self.window.front().is_some_and(Option::is_none) {
            self.window.pop_front();
            self.base += 1;
            messages += 1;
        }
        out.push(Output::Credit { messages, bytes });
    }

    /// The number whose wire form is `message_id`, counted from the oldest unfinished one; or from
    /// before it, for messages that are only kept for being asked for.
    fn number(&self, message_id: u32) -> u64 {
        let oldest = self.next - self.sent.len() as u64;
        let ahead = u64::from(message_id).wrapping_sub(oldest) % MODULUS;
        oldest + ahead
    }

    fn position(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.base)?).ok()
    }

    fn in_flight(&mut self, number: u64) -> Option<&mut InFlight> {
        let at = self.position(number)?;
        self.window.get_mut(at)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const RETRY: Retry = Retry { interval: Duration::from_secs(1), max_retries: 2 };

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn ids(out: &[Output]) -> Vec<u32> {
        out.iter()
            .filter_map(|o| match o {
                Output::Transmit { message_id, .. } => Some(*message_id),
                _ => None,
            })
            .collect()
    }

    fn outcomes(out: &[Output]) -> Vec<(u64, bool)> {
        out.iter()
            .filter_map(|o| match o {
                Output::Finished { op, outcome } => {
                    Some((op.map_or(0, |op| op.0), *outcome == Outcome::Delivered))
                }
                _ => None,
            })
            .collect()
    }

    fn credit(out: &[Output]) -> usize {
        out.iter()
            .map(|o| match o {
                Output::Credit { messages, .. } => *messages,
                _ => 0,
            })
            .sum()
    }

    #[test]
    fn acked_publish_ends_and_room_comes_back_in_order() {
        let (mut sender, bob, now) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        let mut out = Vec::new();
        for op in 1..=3 {
            let bob = [bob.clone()];
            sender.publish(Payload::default(), Some(OpId(op)), &bob, now, &mut out);
        }
        assert_eq!(ids(&out), [1, 2, 3]);
        out.clear();
        sender.acked(2, &bob, &mut out);
        sender.acked(3, &bob, &mut out);
        assert_eq!((outcomes(&out), credit(&out)), (vec![(2, true), (3, true)], 0));
        sender.acked(1, &bob, &mut out);
        assert_eq!(credit(&out), 3);
        assert!(!sender.is_busy());
    }

    #[test]
    fn unanswered_publish_is_repeated_then_undelivered() {
        let (mut sender, bob, start) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        let mut out = Vec::new();
        let to = [bob.clone()];
        sender.publish(Payload::default(), Some(OpId(7)), &to, start, &mut out);
        for second in 1..=2 {
            out.clear();
            sender.handle_timeout(start + Duration::from_secs(second), &mut out);
            assert_eq!(ids(&out), [1]);
        }
        out.clear();
        assert_eq!(sender.poll_timeout(), Some(start + Duration::from_secs(3)));
        sender.handle_timeout(start + Duration::from_secs(3), &mut out);
        let lost = Outcome::Undelivered(vec![bob.clone()]);
        assert!(out.contains(&Output::Finished { op: Some(OpId(7)), outcome: lost }));
        assert!(out.contains(&Output::Silent { name: bob.clone(), since: start }));
        let kept = sender.requested(1, start + Duration::from_secs(4));
        assert!(kept.is_some(), "still there for being asked for");
    }

    #[test]
    fn kept_until_somebody_is_there_or_given_up() {
        let (mut sender, bob, start) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        let mut out = Vec::new();
        sender.publish(Payload::default(), Some(OpId(1)), &[], start, &mut out);
        sender.handle_timeout(start + Duration::from_millis(2999), &mut out);
        assert!(out.is_empty());
        sender.flush_kept(&[bob], start + Duration::from_millis(2999), &mut out);
        assert_eq!(ids(&out), [1]);
        sender.publish(Payload::default(), Some(OpId(2)), &[], start, &mut out);
        out.clear();
        sender.handle_timeout(start + Duration::from_secs(3), &mut out);
        assert_eq!((outcomes(&out), credit(&out)), (vec![(2, false)], 1));
    }

    #[test]
    fn number_0_follows_the_largest() {
        let (mut sender, bob, now) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        sender.next = MODULUS - 1;
        sender.base = sender.next;
        let mut out = Vec::new();
        for op in 1..=3 {
            let to = [bob.clone()];
            sender.publish(Payload::default(), Some(OpId(op)), &to, now, &mut out);
        }
        assert_eq!(ids(&out), [0x7fff_ffff, 0, 1]);
        out.clear();
        for id in [0x7fff_ffff, 0, 1] {
            sender.acked(id, &bob, &mut out);
        }
        assert_eq!((outcomes(&out).len(), credit(&out)), (3, 3));
    }

    #[test]
    fn an_old_message_is_not_there_any_more() {
        let (mut sender, bob, now) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        let mut out = Vec::new();
        for _ in 0..=limits::SENDER_WINDOW {
            sender.publish(Payload::default(), None, std::slice::from_ref(&bob), now, &mut out);
            sender.acked((sender.next - 1) as u32, &bob, &mut out);
        }
        assert!(sender.requested(1, now).is_none());
        assert!(sender.requested(2, now).is_some());
        assert!(sender.requested(limits::SENDER_WINDOW as u32 + 2, now).is_none(), "not yet sent");
    }

    #[test]
    fn whoever_goes_offline_is_named() {
        let (mut sender, bob, now) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        let mut out = Vec::new();
        sender.publish(
            Payload::default(),
            Some(OpId(1)),
            std::slice::from_ref(&bob),
            now,
            &mut out,
        );
        out.clear();
        sender.offline(&bob, &mut out);
        let outcome = Outcome::Undelivered(vec![bob]);
        assert_eq!(out[0], Output::Finished { op: Some(OpId(1)), outcome });
    }
}
