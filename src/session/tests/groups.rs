//! Groups: several apps whose messages are handed over one by one; any may be lost, doubled or held.

use super::*;
use crate::name::EncodedName;
use crate::wire::{GroupUpdateOp, GroupUpdatePayload};
use std::collections::BTreeSet;

/// How often a message is to be delivered: from whom, to whom.
type Copies = Box<dyn FnMut(usize, usize, &Message) -> usize>;

const MODERATOR: usize = 0;

/// Apps at one node.
pub(super) struct Crowd {
    pub(super) apps: Vec<App>,
    pub(super) names: Vec<Name>,
    pub(super) seen: Vec<Seen>,
    sessions: Vec<Option<SessionKey>>,
    pub(super) done: BTreeMap<OpId, (Duration, Result<(), Error>)>,
    wire: VecDeque<(usize, Message)>,
    /// Every message that was sent: from whom.
    pub(super) sent: Vec<(usize, Message)>,
    subscribed: BTreeSet<(EncodedName, usize)>,
    /// Subscriptions are not acknowledged for now: these wait.
    held: Option<Vec<(usize, SessionKey, ConnectionId, u32)>>,
    pub(super) copies: Copies,
    entropy: SeededEntropy,
    /// Messages to one of several go to each in turn.
    turn: usize,
    start: Now,
    pub(super) now: Now,
    ops: u64,
}

impl Crowd {
    pub(super) fn new(names: &[&str]) -> Crowd {
        let start = Now { mono: Instant::now(), unix: Duration::from_secs(1_800_000_000) };
        let mut apps = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let identity = Box::new(TestIdentity(format!("{name}_{at}")));
            let parsed = Name::parse(name).unwrap();
            let verifier = Box::new(TestVerifier);
            let id = AppId(at as u64);
            apps.push(App::new(id, &parsed, "3.4.6", identity, verifier, Binding::Enforce));
        }
        Crowd {
            names: apps.iter().map(|app| app.name().clone()).collect(),
            seen: apps.iter().map(|_| Seen::default()).collect(),
            sessions: apps.iter().map(|_| None).collect(),
            apps,
            done: BTreeMap::new(),
            wire: VecDeque::new(),
            sent: Vec::new(),
            subscribed: BTreeSet::new(),
            held: None,
            copies: Box::new(|_, _, _| 1),
            entropy: SeededEntropy::new(1),
            turn: 0,
            start,
            now: start,
            ops: 0,
        }
    }

    /// Four, of whom the first makes a group.
    fn four(reliable: bool) -> Crowd {
        let mut crowd = Crowd::new(&["o/n/ann", "o/n/bob", "o/n/cid", "o/n/dan"]);
        crowd.open(reliable);
        crowd
    }

    /// Four who are all in the group.
    fn together(reliable: bool) -> Crowd {
        let mut crowd = Crowd::four(reliable);
        for at in 1..4 {
            assert_eq!(crowd.invite(at), Ok(()), "{at}");
        }
        crowd
    }

    fn open(&mut self, reliable: bool) {
        let config = SessionConfig { kind: Kind::Group, ..config(reliable) };
        let (op, group) = (self.op(), Name::parse("o/n/group").unwrap());
        let key = self.with(MODERATOR, |app, cx| app.open(config, &group, op, cx)).unwrap();
        assert_eq!(self.done[&op].1, Ok(()));
        self.sessions[MODERATOR] = Some(key);
        self.with(MODERATOR, |app, _| app.set_events(key, true));
    }

    pub(super) fn op(&mut self) -> OpId {
        self.ops += 1;
        OpId(self.ops)
    }

    pub(super) fn with<R>(
        &mut self,
        at: usize,
        act: impl FnOnce(&mut App, &mut Context<'_>) -> R,
    ) -> R {
        let mut cx = Context { now: self.now, entropy: &mut self.entropy };
        let result = act(&mut self.apps[at], &mut cx);
        self.settle();
        result
    }

    fn act(&mut self, at: usize, op: OpId, act: impl FnOnce(&mut Session, &mut Context<'_>)) {
        let key = self.sessions[at].expect("a session");
        self.with(at, |app, cx| app.act(key, Some(op), |session| act(session, cx)));
    }

    pub(super) fn settle(&mut self) {
        loop {
            for at in 0..self.apps.len() {
                while let Some(output) = self.apps[at].poll_output() {
                    self.on_output(at, output);
                }
            }
            let Some((to, message)) = self.wire.pop_front() else { return };
            let mut cx = Context { now: self.now, entropy: &mut self.entropy };
            self.apps[to].handle_message(message, ConnectionId(9), &mut cx);
        }
    }

    fn on_output(&mut self, at: usize, output: Output) {
        let seen = &mut self.seen[at];
        match output {
            Output::Send { mut message, .. } => {
                let mut cx = Context { now: self.now, entropy: &mut self.entropy };
                self.apps[at].finish(&mut message, &mut cx).unwrap();
                for to in self.receivers(at, &message) {
                    for _ in 0..(self.copies)(at, to, &message) {
                        self.wire.push_back((to, (*message).clone()));
                    }
                }
                self.sent.push((at, *message));
            }
            Output::Done(op, result) => {
                let time = self.now.mono - self.start.mono;
                assert!(self.done.insert(op, (time, result)).is_none(), "{op:?} ended twice");
            }
            Output::NewSession(key, _) => {
                seen.accepted.push(key);
                self.sessions[at] = Some(key);
            }
            Output::Item(_, Item::Message(message)) => {
                seen.messages.push(String::from_utf8_lossy(&message.payload).into_owned());
                seen.received.push(*message);
            }
            Output::Item(_, Item::Event(event)) => seen.events.push(event),
            Output::Credit { messages, bytes, .. } => {
                seen.credit.0 += messages;
                seen.credit.1 += bytes;
            }
            Output::Ended(_, reason) => {
                seen.ended.push(reason);
                self.sessions[at] = None;
            }
            Output::Join { session, channels, connection, ticket } => {
                for channel in channels {
                    self.subscribed.insert((channel.encoded(), at));
                    match &mut self.held {
                        Some(held) => held.push((at, session, connection, ticket)),
                        None => self.confirm(at, session, connection, ticket),
                    }
                }
            }
            Output::Leave { channels, .. } => {
                for channel in channels {
                    self.subscribed.remove(&(channel.encoded(), at));
                }
            }
        }
    }

    fn confirm(&mut self, at: usize, key: SessionKey, connection: ConnectionId, ticket: u32) {
        let mut cx = Context { now: self.now, entropy: &mut self.entropy };
        self.apps[at].handle_channel(key, connection, ticket, Ok(()), &mut cx);
    }

    /// Whom a node would give this.
    fn receivers(&mut self, from: usize, message: &Message) -> Vec<usize> {
        let (to, fanout) = (destination(message), fanout(message));
        let wanted = |at: &usize| {
            let name = &self.names[*at];
            let exact = to.id() == name.id() || to.id().is_null();
            let named = exact && to.components() == name.components();
            *at != from && (named || self.subscribed.contains(&(to.encoded(), *at)))
        };
        let all: Vec<usize> = (0..self.apps.len()).filter(wanted).collect();
        if fanout == 1 && all.len() > 1 {
            self.turn += 1;
            return vec![all[self.turn % all.len()]];
        }
        all
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now.mono + time;
        loop {
            let next = self.apps.iter().filter_map(App::poll_timeout).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.after(next.saturating_duration_since(self.now.mono));
            for at in 0..self.apps.len() {
                self.with(at, |app, cx| app.handle_timeout(cx));
            }
        }
        self.now = self.now.after(end.saturating_duration_since(self.now.mono));
    }

    /// Waits for the end of a call.
    pub(super) fn result(&mut self, op: OpId) -> Result<(), Error> {
        for _ in 0..200 {
            if let Some((_, result)) = self.done.get(&op) {
                return result.clone();
            }
            self.run(T);
        }
        panic!("{op:?} never ended");
    }

    fn invite_start(&mut self, at: usize) -> OpId {
        let op = self.op();
        let name = Name::parse(&self.names[at].service()).unwrap();
        self.act(MODERATOR, op, |session, cx| session.invite(name, Some(op), cx));
        op
    }

    fn invite(&mut self, at: usize) -> Result<(), Error> {
        let op = self.invite_start(at);
        let result = self.result(op);
        if let (Ok(()), Some(key)) = (&result, self.sessions[at]) {
            self.with(at, |app, _| app.set_events(key, true));
        }
        result
    }

    fn remove_start(&mut self, name: &Name) -> OpId {
        let (op, name) = (self.op(), name.clone());
        self.act(MODERATOR, op, |session, cx| session.remove(name, Some(op), cx));
        op
    }

    fn remove(&mut self, at: usize) -> Result<(), Error> {
        let op = self.remove_start(&Name::parse(&self.names[at].service()).unwrap());
        self.result(op)
    }

    fn publish(&mut self, at: usize, text: &str) -> OpId {
        let (op, key) = (self.op(), self.sessions[at].expect("a session"));
        let payload = Payload::new(text.as_bytes().to_vec(), "", BTreeMap::new());
        self.with(at, |app, cx| app.publish(key, payload, Some(op), cx));
        op
    }

    fn publish_to(&mut self, at: usize, to: usize, text: &str) -> OpId {
        let (op, key) = (self.op(), self.sessions[at].expect("a session"));
        let payload = Payload::new(text.as_bytes().to_vec(), "", BTreeMap::new());
        let to = self.names[to].clone();
        self.with(at, |app, cx| app.publish_to(key, &to, payload, Some(op), cx));
        op
    }

    fn close_start(&mut self, at: usize) -> OpId {
        let (op, key) = (self.op(), self.sessions[at].expect("a session"));
        self.with(at, |app, cx| app.close(key, Some(op), cx));
        op
    }

    fn close(&mut self, at: usize) -> Result<(), Error> {
        let op = self.close_start(at);
        self.result(op)
    }

    /// Goes away, or comes back.
    fn set_away(&mut self, at: usize, away: bool) -> Result<(), Error> {
        let op = self.op();
        self.act(at, op, |session, cx| session.set_presence(away, Some(op), cx));
        self.result(op)
    }

    fn count(&self, from: usize, wanted: T) -> usize {
        self.sent.iter().filter(|(at, message)| *at == from && kind(message) == wanted).count()
    }

    /// Who takes part, as somebody sees it: others, and whether they are online.
    fn others(&self, at: usize) -> Vec<(usize, bool)> {
        let key = self.sessions[at].expect("a session");
        let found = self.apps[at].participants(key).expect("a session");
        let mut found: Vec<(usize, bool)> = found
            .iter()
            .map(|(name, online)| (self.names.iter().position(|n| n == name).unwrap(), *online))
            .collect();
        found.sort();
        found
    }

    /// Those in the group agree about who is in it.
    fn agree(&self, members: &[usize], what: &str) {
        for at in members {
            let others: Vec<(usize, bool)> =
                members.iter().filter(|other| *other != at).map(|other| (*other, true)).collect();
            assert_eq!(self.others(*at), others, "{what}: as {at} sees it");
        }
        for (at, session) in self.sessions.iter().enumerate() {
            assert_eq!(session.is_some(), members.contains(&at), "{what}: {at}");
        }
    }

    /// Everybody publishes, and everybody else gets it.
    fn talk(&mut self, members: &[usize], what: &str) {
        for from in members {
            let text = format!("{what} from {from}");
            let op = self.publish(*from, &text);
            let result = self.result(op);
            assert_eq!(result, Ok(()), "{text}");
            for to in members.iter().filter(|to| *to != from) {
                let got = self.seen[*to].messages.iter().filter(|m| **m == text).count();
                assert_eq!(got, 1, "{text}, to {to}");
            }
        }
    }

    fn all_idle(&self, what: &str) {
        assert!(self.apps.iter().all(App::is_idle), "{what}: something is left");
        assert!(self.subscribed.is_empty(), "{what}: {:?}", self.subscribed);
    }
}

fn destination(message: &Message) -> Name {
    match &message.message_type {
        Some(MessageType::Publish(publish)) => {
            let header = publish.header.as_ref().unwrap();
            Name::from_wire(header.destination.as_ref().unwrap()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn fanout(message: &Message) -> u32 {
    match &message.message_type {
        Some(MessageType::Publish(publish)) => publish.header.as_ref().unwrap().fanout,
        other => panic!("{other:?}"),
    }
}

fn update(message: &Message) -> GroupUpdatePayload {
    let Some(MessageType::Publish(publish)) = &message.message_type else { panic!() };
    match publish.msg.as_ref().unwrap().content_type.as_ref().unwrap() {
        ContentType::CommandPayload(CommandPayload {
            command_payload_type: Some(CommandPayloadType::GroupUpdate(update)),
        }) => update.clone(),
        other => panic!("{other:?}"),
    }
}

/// The life of a group: it grows, everybody talks, it shrinks, it ends.
fn life(copies: Copies, reliable: bool, what: &str) {
    let mut crowd = Crowd::four(reliable);
    crowd.copies = copies;
    assert_eq!(crowd.invite(1), Ok(()), "{what}");
    assert_eq!(crowd.invite(2), Ok(()), "{what}");
    crowd.run(4 * T);
    if reliable {
        crowd.talk(&[0, 1, 2], what);
    }
    assert_eq!(crowd.invite(3), Ok(()), "{what}");
    crowd.run(25 * T);
    crowd.agree(&[0, 1, 2, 3], what);
    if reliable {
        let op = crowd.publish_to(3, 1, "psst");
        assert_eq!(crowd.result(op), Ok(()), "{what}");
        assert_eq!(crowd.seen[1].messages.last().unwrap(), "psst");
        crowd.talk(&[0, 1, 2, 3], &format!("{what}, four"));
    }
    assert_eq!(crowd.set_away(1, true), Ok(()), "{what}");
    assert_eq!(crowd.set_away(1, false), Ok(()), "{what}");
    crowd.run(25 * T);
    crowd.agree(&[0, 1, 2, 3], what);
    assert_eq!(crowd.remove(2), Ok(()), "{what}");
    crowd.run(5 * T);
    crowd.agree(&[0, 1, 3], what);
    assert_eq!(crowd.close(3), Ok(()), "{what}");
    crowd.run(25 * T);
    crowd.agree(&[0, 1], what);
    assert_eq!(crowd.invite(2), Ok(()), "{what}: again");
    crowd.run(25 * T);
    if reliable {
        crowd.talk(&[0, 1, 2], &format!("{what}, again"));
    }
    assert_eq!(crowd.close(MODERATOR), Ok(()), "{what}");
    crowd.run(25 * T);
    crowd.agree(&[], what);
    crowd.all_idle(what);
}

/// The n-th message of a kind (counted at each of its receivers) is treated in this way, the others
/// pass.
fn nth(wanted: T, n: usize, copies: usize) -> Copies {
    let mut seen = 0;
    Box::new(move |_, _, message| {
        seen += usize::from(kind(message) == wanted);
        let this = kind(message) == wanted && seen == n;
        if this {
            copies
        } else {
            1
        }
    })
}

const ALL: [T; 16] = [
    T::DiscoveryRequest,
    T::DiscoveryReply,
    T::JoinRequest,
    T::JoinReply,
    T::GroupUpdate,
    T::GroupWelcome,
    T::GroupAck,
    T::Msg,
    T::MsgAck,
    T::RtxRequest,
    T::RtxReply,
    T::GroupClose,
    T::LeaveRequest,
    T::LeaveReply,
    T::UpdateParticipantState,
    T::Heartbeat,
];

#[test]
fn the_life_of_a_group() {
    life(Box::new(|_, _, _| 1), true, "reliable");
    life(Box::new(|_, _, _| 1), false, "best effort");
}

#[test]
fn spec03_16_the_loss_of_any_one_message_is_repaired() {
    for lost in ALL {
        for n in 1..=9 {
            life(nth(lost, n, 0), true, &format!("{lost:?} number {n} lost"));
        }
    }
}

#[test]
fn spec03_17_a_doubled_message_of_any_kind_breaks_nothing() {
    for doubled in ALL {
        for n in 1..=9 {
            life(nth(doubled, n, 2), true, &format!("{doubled:?} number {n} twice"));
        }
    }
    life(Box::new(|_, _, _| 2), true, "everything twice");
}
