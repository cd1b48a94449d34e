//! The sending half of a session's data: numbers, acknowledgements, retransmission (spec 03
//! section 9).
//!
//! It decides what is sent to whom and how each publish ends; it knows members only as names.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::{OpId, Payload, Retry};
use crate::limits;
use crate::name::Name;

/// Sequence numbers on the wire wrap here.
const MODULUS: u64 = 0x8000_0000;
/// The bit that tells the numbers of messages to one member alone from those of the sequence.
pub(super) const DIRECT: u32 = 0x8000_0000;
/// They come after all others here.
const FIRST_DIRECT: u64 = 1 << 63;

/// How a publish ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everybody acknowledged; best effort: it was sent.
    Delivered,
    /// These did not acknowledge in time. Empty: nobody was there to send it to.
    Undelivered(Vec<Name>),
}

/// Whom a message is for, in the order of their names, and whether they can be reached now: then they
/// should acknowledge it.
#[derive(Clone, Debug, Default)]
pub(super) struct Audience(pub(super) Vec<(Name, bool)>);

impl Audience {
    /// Nobody can be reached.
    fn is_absent(&self) -> bool {
        !self.0.iter().any(|(_, online)| *online)
    }
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
    /// Number of the oldest unfinished message.
    base: u64,
    /// What somebody may still ask for, by number: not everybody has acknowledged it.
    sent: BTreeMap<u64, Sent>,
    /// Payload bytes of those of them that are finished.
    undelivered: usize,
    /// When a message is due, oldest first: the interval is the same for all.
    timers: VecDeque<(Instant, u64)>,
    /// Published while nobody was there.
    kept: VecDeque<Kept>,
}

#[derive(Debug)]
struct Sent {
    payload: Payload,
    receivers: Receivers,
    tries_left: u32,
    sent: Instant,
    due: Instant,
    op: Option<OpId>,
    /// Its publish has ended: not everybody acknowledged in time.
    finished: bool,
}

/// Whom a message is for, in the order of their names, and what is known of each.
#[derive(Debug)]
struct Receivers {
    all: Vec<(Name, Standing)>,
    /// So many are to acknowledge it still.
    missing: usize,
    /// So many may ask for it.
    lacking: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Is to acknowledge it.
    Missing,
    /// Went offline before it did.
    Silent,
    /// Was offline when it was sent. Nobody waits for it, but it may ask.
    Absent,
    /// Has acknowledged it, or does not count any more.
    Done,
}

impl Receivers {
    fn new(Audience(audience): Audience) -> Receivers {
        let missing = audience.iter().filter(|(_, online)| *online).count();
        let lacking = audience.len();
        let standing = |online| if online { Standing::Missing } else { Standing::Absent };
        let all = audience.into_iter().map(|(name, online)| (name, standing(online))).collect();
        Receivers { all, missing, lacking }
    }

    fn position(&self, name: &Name) -> Option<usize> {
        self.all.binary_search_by(|(known, _)| known.cmp(name)).ok()
    }

    /// `None`: it is not for this member.
    fn get(&self, name: &Name) -> Option<Standing> {
        Some(self.all[self.position(name)?].1)
    }

    /// What it was before.
    fn set(&mut self, name: &Name, to: Standing) -> Option<Standing> {
        let at = self.position(name)?;
        let before = std::mem::replace(&mut self.all[at].1, to);
        let count = |standing: Standing| {
            (usize::from(standing == Standing::Missing), usize::from(standing != Standing::Done))
        };
        let ((missing, lacking), (now_missing, now_lacking)) = (count(before), count(to));
        self.missing = self.missing - missing + now_missing;
        self.lacking = self.lacking - lacking + now_lacking;
        Some(before)
    }

    fn with(&self, standing: Standing) -> Vec<Name> {
        let found = self.all.iter().filter(|(_, known)| *known == standing);
        found.map(|(name, _)| name.clone()).collect()
    }
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
            sent: BTreeMap::new(),
            undelivered: 0,
            timers: VecDeque::new(),
            kept: VecDeque::new(),
        }
    }

    /// Takes a message to publish. While nobody is there it is kept.
    pub(super) fn publish(
        &mut self,
        payload: Payload,
        op: Option<OpId>,
        audience: Audience,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        if audience.is_absent() {
            let expires = now + self.retry.unwrap_or_default().total();
            self.kept.push_back(Kept { payload, op, expires });
        } else {
            self.transmit(payload, op, audience, now, out);
        }
    }

    /// Somebody is there: sends what was kept.
    pub(super) fn flush_kept(&mut self, audience: &Audience, now: Instant, out: &mut Vec<Output>) {
        if audience.is_absent() {
            return;
        }
        for kept in std::mem::take(&mut self.kept) {
            self.transmit(kept.payload, kept.op, audience.clone(), now, out);
        }
    }

    /// Takes a message to one member of a group, under a number outside of the sequence.
    pub(super) fn publish_to(
        &mut self,
        id: u32,
        member: &Name,
        payload: Payload,
        op: Option<OpId>,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let (to, number) = (Some(member.clone()), FIRST_DIRECT | u64::from(id));
        match self.retry {
            Some(retry) => {
                let audience = Audience(vec![(member.clone(), true)]);
                self.keep(number, payload.clone(), op, audience, retry, now);
            }
            None => out.push(Output::Finished { op, outcome: Outcome::Delivered }),
        }
        out.push(Output::Transmit { message_id: id, payload, to });
    }

    fn keep(
        &mut self,
        number: u64,
        payload: Payload,
        op: Option<OpId>,
        audience: Audience,
        retry: Retry,
        now: Instant,
    ) {
        let due = now + retry.interval;
        let sent = Sent {
            payload,
            receivers: Receivers::new(audience),
            tries_left: retry.max_retries,
            sent: now,
            due,
            op,
            finished: false,
        };
        self.sent.insert(number, sent);
        self.timers.push_back((due, number));
    }

    fn transmit(
        &mut self,
        payload: Payload,
        op: Option<OpId>,
        audience: Audience,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let number = self.next;
        self.next += 1;
        let message_id = wire_number(number);
        match self.retry {
            Some(retry) => {
                self.keep(number, payload.clone(), op, audience, retry, now);
                self.push_out(out);
            }
            None => {
                self.base = self.next;
                out.push(Output::Finished { op, outcome: Outcome::Delivered });
            }
        }
        out.push(Output::Transmit { message_id, payload, to: None });
    }

    /// Forgets what is so old that no receiver keeps what comes after it.
    fn push_out(&mut self, out: &mut Vec<Output>) {
        while let Some((&number, sent)) = self.sent.first_key_value() {
            if number >= FIRST_DIRECT || number + limits::SENDER_WINDOW as u64 >= self.next {
                return;
            }
            if !sent.finished {
                self.give_up(number, out);
            }
            self.forget(number);
        }
    }

    /// A member acknowledged a message.
    pub(super) fn acked(&mut self, message_id: u32, from: &Name, out: &mut Vec<Output>) {
        let number = self.number(message_id);
        let Some(sent) = self.sent.get_mut(&number) else {
            return;
        };
        sent.receivers.set(from, Standing::Done);
        self.finish_if_done(number, out);
        self.forget_if_had(number);
    }

    /// Nobody asks any more for what everybody has.
    fn forget_if_had(&mut self, number: u64) {
        let had = |sent: &Sent| sent.finished && sent.receivers.lacking == 0;
        if self.sent.get(&number).is_some_and(had) {
            self.forget(number);
        }
    }

    /// A member asks for a message again. `None`: it is no longer there, was not for this member, or
    /// was acknowledged by it.
    ///
    /// The published implementation counts the request as an acknowledgement. Here the message
    /// stays unacknowledged, or a lost answer would make a publish "delivered" that never was. Nor
    /// does it put off the end: whoever only asks would never let a publish end.
    pub(super) fn requested(&self, message_id: u32, by: &Name) -> Option<Payload> {
        let sent = self.sent.get(&self.number(message_id))?;
        let lacking = sent.receivers.get(by).is_some_and(|standing| standing != Standing::Done);
        lacking.then(|| sent.payload.clone())
    }

    /// Whether a number has been used, as far as is known.
    pub(super) fn has_sent(&self, message_id: u32) -> bool {
        let number = self.number(message_id);
        self.sent.contains_key(&number) || (1..FIRST_DIRECT).contains(&number)
    }

    /// A member went offline: its acknowledgements will not come.
    pub(super) fn offline(&mut self, name: &Name, out: &mut Vec<Output>) {
        for number in self.sent.keys().copied().collect::<Vec<_>>() {
            let Some(sent) = self.sent.get_mut(&number) else { continue };
            if sent.receivers.get(name) == Some(Standing::Missing) {
                sent.receivers.set(name, Standing::Silent);
                self.finish_if_done(number, out);
            }
        }
    }

    /// A member is gone for good: it does not count any more.
    pub(super) fn left(&mut self, name: &Name, out: &mut Vec<Output>) {
        for number in self.sent.keys().copied().collect::<Vec<_>>() {
            let Some(sent) = self.sent.get_mut(&number) else { continue };
            if sent.receivers.set(name, Standing::Done) == Some(Standing::Missing) {
                self.finish_if_done(number, out);
            }
            self.forget_if_had(number);
        }
    }

    /// Whether something is not finished.
    pub(super) fn is_busy(&self) -> bool {
        let direct = self.sent.range(FIRST_DIRECT..).any(|(_, sent)| !sent.finished);
        self.base != self.next || !self.kept.is_empty() || direct
    }

    /// Gives up everything that is not finished: the session ends.
    pub(super) fn abandon(&mut self) -> Vec<OpId> {
        self.timers.clear();
        self.base = self.next;
        self.undelivered = 0;
        let sent = std::mem::take(&mut self.sent).into_values();
        let flying = sent.filter(|sent| !sent.finished).map(|sent| sent.op);
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
            if self.is_due(due, number) {
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

    /// A timer whose message is finished means nothing.
    fn is_due(&self, due: Instant, number: u64) -> bool {
        self.sent.get(&number).is_some_and(|sent| !sent.finished && sent.due == due)
    }

    fn message_due(&mut self, number: u64, now: Instant, out: &mut Vec<Output>) {
        let message_id = wire_number(number);
        let retry = self.retry.unwrap_or_default();
        let Some(sent) = self.sent.get_mut(&number) else {
            return;
        };
        if sent.tries_left == 0 {
            let since = sent.sent;
            let missing = self.give_up(number, out);
            return out.extend(missing.into_iter().map(|name| Output::Silent { name, since }));
        }
        sent.tries_left -= 1;
        sent.due = now + retry.interval;
        for name in sent.receivers.with(Standing::Missing) {
            out.push(Output::Transmit {
                message_id,
                payload: sent.payload.clone(),
                to: Some(name),
            });
        }
        self.timers.push_back((sent.due, number));
    }

    /// Ends a publish that was not acknowledged by everybody, and says by whom not.
    fn give_up(&mut self, number: u64, out: &mut Vec<Output>) -> Vec<Name> {
        let Some(sent) = self.sent.get_mut(&number) else {
            return Vec::new();
        };
        let missing = sent.receivers.with(Standing::Missing);
        for name in &missing {
            sent.receivers.set(name, Standing::Silent);
        }
        self.finish_if_done(number, out);
        missing
    }

    fn finish_if_done(&mut self, number: u64, out: &mut Vec<Output>) {
        let Some(sent) = self.sent.get_mut(&number) else {
            return;
        };
        if sent.finished || sent.receivers.missing > 0 {
            return;
        }
        sent.finished = true;
        let (op, bytes) = (sent.op.take(), sent.payload.len());
        let silent = sent.receivers.with(Standing::Silent);
        let outcome = match silent.is_empty() {
            true => Outcome::Delivered,
            false => Outcome::Undelivered(silent),
        };
        self.undelivered += bytes;
        out.push(Output::Finished { op, outcome });
        if number >= FIRST_DIRECT {
            // Nobody asks for it.
            self.forget(number);
            return out.push(Output::Credit { messages: 1, bytes });
        }
        // Room is measured from the oldest unfinished message: the receiver keeps no more than
        // this many after a gap.
        let unfinished = self.sent.range(self.base..self.next).find(|(_, sent)| !sent.finished);
        let base = unfinished.map_or(self.next, |(number, _)| *number);
        let messages = usize::try_from(base - self.base).unwrap_or(usize::MAX);
        self.base = base;
        out.push(Output::Credit { messages, bytes });
        while self.timers.front().is_some_and(|(due, number)| !self.is_due(*due, *number)) {
            self.timers.pop_front();
        }
        while self.undelivered > limits::UNDELIVERED_BYTES {
            let oldest = self.sent.iter().find(|(_, sent)| sent.finished);
            let Some(oldest) = oldest.map(|(number, _)| *number) else { break };
            self.forget(oldest);
        }
    }

    /// Nobody can ask for a finished message any more.
    fn forget(&mut self, number: u64) {
        if let Some(sent) = self.sent.remove(&number) {
            self.undelivered -= sent.payload.len();
        }
    }

    /// The latest number whose wire form is `message_id`.
    fn number(&self, message_id: u32) -> u64 {
        if message_id & DIRECT != 0 {
            return FIRST_DIRECT | u64::from(message_id);
        }
        let back = self.next.wrapping_sub(1).wrapping_sub(u64::from(message_id)) % MODULUS;
        (self.next - 1).saturating_sub(back)
    }
}

/// A number as messages carry it.
fn wire_number(number: u64) -> u32 {
    match number < FIRST_DIRECT {
        true => (number % MODULUS) as u32,
        false => number as u32,
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

    fn those(names: &[Name]) -> Audience {
        Audience(names.iter().map(|name| (name.clone(), true)).collect())
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

    /// Bob asks for a message.
    fn asked(sender: &Sender, id: u32) -> bool {
        sender.requested(id, &name("o/n/b")).is_some()
    }

    #[test]
    fn acked_publish_ends_and_room_comes_back_in_order() {
        let (mut sender, bob, now) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        let mut out = Vec::new();
        for op in 1..=3 {
            let bob = [bob.clone()];
            sender.publish(Payload::default(), Some(OpId(op)), those(&bob), now, &mut out);
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
        sender.publish(Payload::default(), Some(OpId(7)), those(&to), start, &mut out);
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
        assert!(asked(&sender, 1), "still there for being asked for");
        sender.acked(1, &bob, &mut out);
        assert!(!asked(&sender, 1), "it has arrived after all");
    }

    #[test]
    fn kept_until_somebody_is_there_or_given_up() {
        let (mut sender, bob, start) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        let mut out = Vec::new();
        sender.publish(Payload::default(), Some(OpId(1)), Audience::default(), start, &mut out);
        sender.handle_timeout(start + Duration::from_millis(2999), &mut out);
        assert!(out.is_empty());
        sender.flush_kept(&those(&[bob]), start + Duration::from_millis(2999), &mut out);
        assert_eq!(ids(&out), [1]);
        sender.publish(Payload::default(), Some(OpId(2)), Audience::default(), start, &mut out);
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
            sender.publish(Payload::default(), Some(OpId(op)), those(&to), now, &mut out);
        }
        assert_eq!(ids(&out), [0x7fff_ffff, 0, 1]);
        out.clear();
        for id in [0x7fff_ffff, 0, 1] {
            sender.acked(id, &bob, &mut out);
        }
        assert_eq!((outcomes(&out).len(), credit(&out)), (3, 3));
    }

    #[test]
    fn what_everybody_acknowledged_is_not_kept_and_has_no_timer() {
        let (mut sender, bob, now) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        let mut out = Vec::new();
        for _ in 0..3 {
            sender.publish(
                Payload::default(),
                None,
                those(std::slice::from_ref(&bob)),
                now,
                &mut out,
            );
        }
        for id in [2, 1, 3] {
            assert!(asked(&sender, id));
            sender.acked(id, &bob, &mut out);
            assert!(!asked(&sender, id), "{id}");
        }
        assert!(sender.sent.is_empty() && sender.timers.is_empty());
        assert_eq!((sender.poll_timeout(), sender.undelivered), (None, 0));
    }

    /// Sends a message of so many bytes to somebody who then goes away.
    fn undelivered(sender: &mut Sender, bytes: usize) {
        let (bob, mut out) = (name("o/n/b"), Vec::new());
        let payload = Payload::new(vec![0; bytes], "", Default::default());
        sender.publish(payload, None, those(std::slice::from_ref(&bob)), Instant::now(), &mut out);
        sender.offline(&bob, &mut out);
    }

    #[test]
    fn undelivered_messages_are_kept_up_to_a_number_and_to_bytes() {
        let mut sender = Sender::new(Some(RETRY));
        for _ in 0..limits::SENDER_WINDOW {
            undelivered(&mut sender, 1);
        }
        assert!(asked(&sender, 1));
        undelivered(&mut sender, 1);
        assert!(!asked(&sender, 1) && asked(&sender, 2));

        let mut sender = Sender::new(Some(RETRY));
        undelivered(&mut sender, 1);
        undelivered(&mut sender, limits::UNDELIVERED_BYTES - 1);
        assert!(asked(&sender, 1), "at the limit");
        undelivered(&mut sender, 1);
        assert!(!asked(&sender, 1) && asked(&sender, 2), "one past it");
        undelivered(&mut sender, limits::UNDELIVERED_BYTES + 1);
        assert!(sender.sent.is_empty() && sender.undelivered == 0, "too large alone");
        assert!(!asked(&sender, 77), "not yet sent");
    }

    #[test]
    fn a_message_that_is_pushed_out_is_undelivered_and_gives_its_room_back() {
        let (mut sender, bob, now) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        let mut out = Vec::new();
        for op in 1..=limits::SENDER_WINDOW as u64 + 1 {
            let to = those(std::slice::from_ref(&bob));
            sender.publish(Payload::default(), Some(OpId(op)), to, now, &mut out);
            let pushed = op > limits::SENDER_WINDOW as u64;
            assert_eq!(outcomes(&out), if pushed { vec![(1, false)] } else { vec![] });
        }
        assert_eq!((credit(&out), sender.undelivered), (1, 0));
        assert!(!asked(&sender, 1) && asked(&sender, 2));
    }

    #[test]
    fn being_asked_again_and_again_does_not_put_off_the_end() {
        let (mut sender, bob, start) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        let mut out = Vec::new();
        sender.publish(Payload::default(), Some(OpId(1)), those(&[bob]), start, &mut out);
        for tenth in 1..=30 {
            assert!(outcomes(&out).is_empty(), "{tenth}");
            assert!(asked(&sender, 1) && sender.timers.len() == 1);
            sender.handle_timeout(start + Duration::from_millis(100 * tenth), &mut out);
        }
        assert_eq!(outcomes(&out), [(1, false)]);
    }

    #[test]
    fn each_of_many_counts_for_itself() {
        let mut names: Vec<Name> = (0..32).map(|n| name(&format!("o/n/app{n}"))).collect();
        names.sort();
        let (mut sender, now, mut out) = (Sender::new(Some(RETRY)), Instant::now(), Vec::new());
        let mut audience = those(&names);
        audience.0[7].1 = false;
        sender.publish(Payload::default(), Some(OpId(1)), audience, now, &mut out);
        out.clear();
        // Half acknowledge it, one of them twice; strangers do not count, nor does who was not there.
        for name in names[16..].iter().chain([&names[20], &names[7], &name("o/n/stranger")]) {
            sender.acked(1, name, &mut out);
            assert!(sender.requested(1, name).is_none() && out.is_empty());
        }
        sender.left(&names[0], &mut out);
        sender.offline(&names[1], &mut out);
        for name in &names[2..15] {
            sender.acked(1, name, &mut out);
        }
        assert!(out.is_empty());
        sender.acked(1, &names[15], &mut out);
        let outcome = Outcome::Undelivered(vec![names[1].clone()]);
        assert_eq!(out[0], Output::Finished { op: Some(OpId(1)), outcome });
        // Only one may ask for it still.
        let asks =
            |sender: &Sender| names.iter().filter(|n| sender.requested(1, n).is_some()).count();
        assert_eq!(asks(&sender), 1);
        sender.acked(1, &names[1], &mut out);
        assert!(sender.sent.is_empty(), "and then nobody");
    }

    #[test]
    fn whoever_goes_offline_is_named() {
        let (mut sender, bob, now) = (Sender::new(Some(RETRY)), name("o/n/b"), Instant::now());
        let mut out = Vec::new();
        sender.publish(
            Payload::default(),
            Some(OpId(1)),
            those(std::slice::from_ref(&bob)),
            now,
            &mut out,
        );
        out.clear();
        sender.offline(&bob, &mut out);
        let outcome = Outcome::Undelivered(vec![bob]);
        assert_eq!(out[0], Output::Finished { op: Some(OpId(1)), outcome });
    }
}
