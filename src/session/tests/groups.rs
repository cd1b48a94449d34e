//! Groups: several apps whose messages are handed over one by one; any may be lost, doubled or held.

use super::*;
use crate::name::EncodedName;
use crate::wire::{GroupUpdateOp, GroupUpdatePayload, JoinRequestPayload};
use std::collections::BTreeSet;

/// How often a message is to be delivered: from whom, to whom.
pub(super) type Copies = Box<dyn FnMut(usize, usize, &Message) -> usize>;

pub(super) const MODERATOR: usize = 0;

/// Apps at one node.
pub(super) struct Crowd {
    pub(super) apps: Vec<App>,
    pub(super) names: Vec<Name>,
    pub(super) seen: Vec<Seen>,
    pub(super) sessions: Vec<Option<SessionKey>>,
    pub(super) done: BTreeMap<OpId, (Duration, Result<(), Error>)>,
    wire: VecDeque<(usize, Message)>,
    /// Every message that was sent: from whom.
    pub(super) sent: Vec<(usize, Message)>,
    /// Which way these went.
    routes: Vec<Route>,
    /// What each was given, messages and events, in order.
    news: Vec<(usize, String)>,
    /// Connections that channels were subscribed over.
    joined: Vec<(usize, ConnectionId)>,
    subscribed: BTreeSet<(EncodedName, usize)>,
    /// Subscriptions are not acknowledged for now: these wait.
    held: Option<Vec<(usize, SessionKey, ConnectionId, u32)>>,
    pub(super) copies: Copies,
    entropy: SeededEntropy,
    /// Other names that they subscribed.
    aliases: Vec<(Name, usize)>,
    /// Messages to one of several go to each in turn.
    turn: usize,
    /// Its groups are encrypted.
    pub(super) mls: Option<Mls>,
    /// So many seconds is the clock of each ahead.
    pub(super) ahead: Vec<i64>,
    start: Now,
    pub(super) now: Now,
    ops: u64,
}

impl Crowd {
    pub(super) fn new(names: &[&str]) -> Crowd {
        Crowd::with_binding(names, Binding::Enforce)
    }

    fn with_binding(names: &[&str], binding: Binding) -> Crowd {
        Crowd::with_identities(names, &crate::protocol_version(), binding, |name, at| {
            (Box::new(TestIdentity(format!("{name}_{at}"))), Box::new(TestVerifier))
        })
    }

    /// Apps whose groups are encrypted.
    pub(super) fn sealed(names: &[&str]) -> Crowd {
        Crowd::sealed_by(names, &crate::protocol_version())
    }

    /// The same, whose moderator is of this version.
    pub(super) fn sealed_by(names: &[&str], version: &str) -> Crowd {
        Crowd::sealed_with(names, version, Binding::Enforce)
    }

    /// The same, who check so whether names belong to identities.
    pub(super) fn sealed_with(names: &[&str], version: &str, binding: Binding) -> Crowd {
        let identity = |name: &str, at: usize| real_identity(name, at as u64);
        let mut crowd = Crowd::with_identities(names, version, binding, identity);
        crowd.mls = Some(Mls::default());
        crowd
    }

    fn with_identities(
        names: &[&str],
        moderator: &str,
        binding: Binding,
        identity: impl Fn(&str, usize) -> (Box<dyn Provider>, Box<dyn Verifier>),
    ) -> Crowd {
        let start = Now { mono: Instant::now(), unix: Duration::from_secs(1_800_000_000) };
        let mut apps = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let (provider, verifier) = identity(name, at);
            let parsed = Name::parse(name).unwrap();
            let id = AppId(at as u64);
            let ours = crate::protocol_version();
            let version = if at == MODERATOR { moderator } else { &ours };
            let mut app = App::new(id, &parsed, version, provider, verifier, binding);
            app.set_virtual_time();
            apps.push(app);
        }
        Crowd {
            names: apps.iter().map(|app| app.name().clone()).collect(),
            seen: apps.iter().map(|_| Seen::default()).collect(),
            sessions: apps.iter().map(|_| None).collect(),
            apps,
            done: BTreeMap::new(),
            wire: VecDeque::new(),
            sent: Vec::new(),
            routes: Vec::new(),
            news: Vec::new(),
            joined: Vec::new(),
            subscribed: BTreeSet::new(),
            held: None,
            copies: Box::new(|_, _, _| 1),
            entropy: SeededEntropy::new(1),
            aliases: Vec::new(),
            turn: 0,
            mls: None,
            ahead: vec![0; names.len()],
            start,
            now: start,
            ops: 0,
        }
    }

    /// Four, of whom the first makes a group.
    fn four(reliable: bool) -> Crowd {
        Crowd::four_with_binding(reliable, Binding::Enforce)
    }

    fn four_with_binding(reliable: bool, binding: Binding) -> Crowd {
        let names = ["o/n/ann", "o/n/bob", "o/n/cid", "o/n/dan"];
        let mut crowd = Crowd::with_binding(&names, binding);
        crowd.open(reliable);
        crowd
    }

    /// Four who are all in the group.
    fn together(reliable: bool) -> Crowd {
        Crowd::together_with_binding(reliable, Binding::Enforce)
    }

    fn together_with_binding(reliable: bool, binding: Binding) -> Crowd {
        let mut crowd = Crowd::four_with_binding(reliable, binding);
        for at in 1..4 {
            assert_eq!(crowd.invite(at), Ok(()), "{at}");
        }
        crowd
    }

    pub(super) fn open(&mut self, reliable: bool) {
        let config = SessionConfig { kind: Kind::Group, mls: self.mls, ..config(reliable) };
        let (op, group) = (self.op(), Name::parse("o/n/group").unwrap());
        let key = self.with(MODERATOR, |app, cx| app.open(config, &group, op, cx)).unwrap();
        assert_eq!(self.done[&op].1, Ok(()));
        self.sessions[MODERATOR] = Some(key);
        self.with(MODERATOR, |app, _| app.set_events(key, true));
    }

    /// The time as one of them sees it.
    fn now(&self, at: usize) -> Now {
        let unix = self.now.unix.as_secs().saturating_add_signed(self.ahead[at]);
        Now { unix: Duration::from_secs(unix), ..self.now }
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
        let mut cx = Context { now: self.now(at), entropy: &mut self.entropy };
        let result = act(&mut self.apps[at], &mut cx);
        self.settle();
        result
    }

    pub(super) fn act(
        &mut self,
        at: usize,
        op: OpId,
        act: impl FnOnce(&mut Session, &mut Context<'_>),
    ) {
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
            let mut cx = Context { now: self.now(to), entropy: &mut self.entropy };
            self.apps[to].handle_message(message, ConnectionId(9), &mut cx);
        }
    }

    pub(super) fn on_output(&mut self, at: usize, output: Output) {
        match &output {
            Output::Item(_, Item::Message(message)) => {
                self.news.push((at, String::from_utf8_lossy(&message.payload).into_owned()));
            }
            Output::Item(_, Item::Event(event)) => self.news.push((at, format!("{event:?}"))),
            _ => {}
        }
        let now = self.now(at);
        let seen = &mut self.seen[at];
        match output {
            Output::Send { mut message, about, route } => {
                self.routes.push(route);
                let mut cx = Context { now, entropy: &mut self.entropy };
                self.apps[at].finish(&mut message, &about, &mut cx).unwrap();
                if self.mls.is_some() {
                    check_sealed(&message);
                }
                if let (Some(session), Some(bytes)) = (about.session, about.credit) {
                    self.apps[at].handle_taken(session, bytes, &mut cx);
                }
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
            Output::Epoch(_, epoch) => seen.epoch = epoch,
            Output::Credit { messages, bytes, .. } => {
                seen.credit.0 += messages;
                seen.credit.1 += bytes;
            }
            Output::Ended(_, reason) => {
                seen.ended.push(reason);
                self.sessions[at] = None;
            }
            Output::Join { session, channels, connection, ticket } => {
                self.joined.push((at, connection));
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

    pub(super) fn confirm(
        &mut self,
        at: usize,
        key: SessionKey,
        connection: ConnectionId,
        ticket: u32,
    ) {
        let mut cx = Context { now: self.now(at), entropy: &mut self.entropy };
        self.apps[at].handle_channel(key, connection, ticket, Ok(()), &mut cx);
    }

    /// Whom a node would give this.
    pub(super) fn receivers(&mut self, from: usize, message: &Message) -> Vec<usize> {
        let (to, fanout) = (destination(message), fanout(message));
        let wanted = |at: &usize| {
            let aliases = self.aliases.iter().filter(|(_, of)| of == at).map(|(name, _)| name);
            let mut names = aliases.chain([&self.names[*at]]);
            let named = names.any(|name| {
                let exact = to.id() == name.id() || to.id().is_null();
                exact && to.components() == name.components()
            });
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

    pub(super) fn invite_start(&mut self, at: usize) -> OpId {
        let op = self.op();
        let name = Name::parse(&self.names[at].service()).unwrap();
        self.act(MODERATOR, op, |session, cx| session.invite(name, Some(op), cx));
        op
    }

    pub(super) fn invite(&mut self, at: usize) -> Result<(), Error> {
        let op = self.invite_start(at);
        let result = self.result(op);
        if let (Ok(()), Some(key)) = (&result, self.sessions[at]) {
            self.with(at, |app, _| app.set_events(key, true));
        }
        result
    }

    pub(super) fn remove_start(&mut self, name: &Name) -> OpId {
        let (op, name) = (self.op(), name.clone());
        self.act(MODERATOR, op, |session, cx| session.remove(name, Some(op), cx));
        op
    }

    pub(super) fn remove(&mut self, at: usize) -> Result<(), Error> {
        let op = self.remove_start(&Name::parse(&self.names[at].service()).unwrap());
        self.result(op)
    }

    pub(super) fn publish(&mut self, at: usize, text: &str) -> OpId {
        let (op, key) = (self.op(), self.sessions[at].expect("a session"));
        let payload = Payload::new(text.as_bytes().to_vec(), "", BTreeMap::new());
        self.with(at, |app, cx| app.publish(key, payload, Some(op), cx));
        op
    }

    pub(super) fn publish_to(&mut self, at: usize, to: usize, text: &str) -> OpId {
        let (op, key) = (self.op(), self.sessions[at].expect("a session"));
        let payload = Payload::new(text.as_bytes().to_vec(), "", BTreeMap::new());
        let to = self.names[to].clone();
        self.with(at, |app, cx| app.publish_to(key, &to, payload, Some(op), cx));
        op
    }

    pub(super) fn close_start(&mut self, at: usize) -> OpId {
        let (op, key) = (self.op(), self.sessions[at].expect("a session"));
        self.with(at, |app, cx| app.close(key, Some(op), cx));
        op
    }

    pub(super) fn close(&mut self, at: usize) -> Result<(), Error> {
        let op = self.close_start(at);
        self.result(op)
    }

    /// Goes away, or comes back.
    pub(super) fn set_away(&mut self, at: usize, away: bool) -> Result<(), Error> {
        let op = self.op();
        self.act(at, op, |session, cx| session.set_presence(away, Some(op), cx));
        self.result(op)
    }

    pub(super) fn count(&self, from: usize, wanted: T) -> usize {
        self.sent.iter().filter(|(at, message)| *at == from && kind(message) == wanted).count()
    }

    /// Who takes part, as somebody sees it: others, and whether they are online.
    pub(super) fn others(&self, at: usize) -> Vec<(usize, bool)> {
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
    pub(super) fn agree(&self, members: &[usize], what: &str) {
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
    pub(super) fn talk(&mut self, members: &[usize], what: &str) {
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

    pub(super) fn all_idle(&self, what: &str) {
        assert!(self.apps.iter().all(App::is_idle), "{what}: something is left");
        assert!(self.subscribed.is_empty(), "{what}: {:?}", self.subscribed);
    }
}

pub(super) fn destination(message: &Message) -> Name {
    match &message.message_type {
        Some(MessageType::Publish(publish)) => {
            let header = publish.header.as_ref().unwrap();
            Name::from_wire(header.destination.as_ref().unwrap()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn fanout(message: &Message) -> u32 {
    match &message.message_type {
        Some(MessageType::Publish(publish)) => publish.header.as_ref().unwrap().fanout,
        other => panic!("{other:?}"),
    }
}

pub(super) fn update(message: &Message) -> GroupUpdatePayload {
    let Some(MessageType::Publish(publish)) = &message.message_type else { panic!() };
    match publish.msg.as_ref().unwrap().content_type.as_ref().unwrap() {
        ContentType::CommandPayload(CommandPayload {
            command_payload_type: Some(CommandPayloadType::GroupUpdate(update)),
        }) => update.clone(),
        other => panic!("{other:?}"),
    }
}

/// The life of a group: it grows, everybody talks, it shrinks, it ends.
fn life(copies: Copies, reliable: bool, what: &str) -> Crowd {
    life_of(Crowd::four(reliable), copies, reliable, what)
}

/// Gives what is left of it, with all that was sent.
pub(super) fn life_of(mut crowd: Crowd, copies: Copies, reliable: bool, what: &str) -> Crowd {
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
        let ops = ["one", "two", "three"].map(|text| crowd.publish(3, text));
        for op in ops {
            assert_eq!(crowd.result(op), Ok(()), "{what}");
        }
        for at in 0..3 {
            assert!(crowd.seen[at].messages.ends_with(&["one", "two", "three"].map(String::from)));
        }
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
    crowd
}

/// The n-th message of a kind (counted at each of its receivers) is treated in this way, the others
/// pass.
pub(super) fn nth(wanted: T, n: usize, copies: usize) -> Copies {
    let mut seen = 0;
    // Without a gap nobody asks for anything.
    let asks = matches!(wanted, T::RtxRequest | T::RtxReply);
    let mut lost = BTreeSet::new();
    Box::new(move |from, to, message| {
        if asks && from == 3 && kind(message) == T::Msg && message_id(message) == 3 {
            return usize::from(!lost.insert(to));
        }
        seen += usize::from(kind(message) == wanted);
        let this = kind(message) == wanted && seen == n;
        if this {
            copies
        } else {
            1
        }
    })
}

pub(super) const ALL: [T; 16] = [
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
            let crowd = life(nth(lost, n, 0), true, &format!("{lost:?} number {n} lost"));
            assert!(n > 1 || crowd.sent.iter().any(|(_, m)| kind(m) == lost), "no {lost:?}");
        }
    }
}

#[test]
fn spec03_17_a_doubled_message_of_any_kind_breaks_nothing() {
    for doubled in ALL {
        for n in 1..=9 {
            let crowd = life(nth(doubled, n, 2), true, &format!("{doubled:?} number {n} twice"));
            assert!(n > 1 || crowd.sent.iter().any(|(_, m)| kind(m) == doubled), "no {doubled:?}");
        }
    }
    life(Box::new(|_, _, _| 2), true, "everything twice");
}

#[test]
fn who_could_not_be_reached_is_given_what_it_missed() {
    let mut crowd = Crowd::together(true);
    crowd.talk(&[0, 1, 2, 3], "before");
    crowd.copies = Box::new(|from, to, _| usize::from(from != 3 && to != 3));
    crowd.run(70 * T);
    assert_eq!(crowd.others(0), [(1, true), (2, true), (3, false)]);
    for text in ["one", "two"] {
        let op = crowd.publish(0, text);
        assert_eq!(crowd.result(op), Ok(()), "nobody waits for who is offline");
    }
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(25 * T);
    assert_eq!(crowd.others(0), [(1, true), (2, true), (3, true)]);
    let op = crowd.publish(0, "three");
    assert_eq!(crowd.result(op), Ok(()));
    crowd.run(T);
    assert!(crowd.seen[3].messages.ends_with(&["one", "two", "three"].map(str::to_owned)));
    assert_eq!(crowd.count(0, T::RtxReply), 2);
    // Who leaves does not ask.
    crowd.copies = Box::new(|from, to, _| usize::from(from != 3 && to != 3));
    crowd.run(70 * T);
    let op = crowd.publish(0, "four");
    assert_eq!(crowd.result(op), Ok(()));
    assert!(matches!(crowd.remove(3), Err(Error::Undelivered(_))));
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(25 * T);
    crowd.agree(&[0, 1, 2], "without it");
}

fn names_of(crowd: &Crowd, at: usize) -> Vec<String> {
    let key = crowd.sessions[at].expect("a session");
    let found = crowd.apps[at].participants(key).expect("a session");
    found.iter().map(|(name, _)| name.service()).collect()
}

#[test]
fn spec03_07_a_group_begins_silent_and_the_first_invitation_subscribes_before_it_asks() {
    let mut crowd = Crowd::four(true);
    assert!(crowd.sent.is_empty() && crowd.subscribed.is_empty());
    crowd.held = Some(Vec::new());
    let op = crowd.invite_start(1);
    assert_eq!(crowd.subscribed.len(), 2, "both channels, at the moderator");
    assert_eq!(crowd.count(MODERATOR, T::JoinRequest), 0, "not acknowledged yet");
    for (at, key, connection, ticket) in crowd.held.replace(Vec::new()).unwrap() {
        crowd.confirm(at, key, connection, ticket);
        crowd.settle();
    }
    assert_eq!(crowd.count(MODERATOR, T::GroupWelcome), 1);
    assert_eq!(crowd.count(1, T::GroupAck), 0, "the member has no acknowledgement yet");
    for (at, key, connection, ticket) in crowd.held.take().unwrap() {
        crowd.confirm(at, key, connection, ticket);
        crowd.settle();
    }
    assert_eq!((crowd.count(1, T::GroupAck), crowd.result(op)), (1, Ok(())));
}

#[test]
fn spec03_08_a_second_invitation_is_news_for_the_first_and_ends_with_both_answers() {
    let mut crowd = Crowd::four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    assert_eq!(crowd.count(MODERATOR, T::GroupUpdate), 0, "nobody had to know");
    crowd.copies =
        Box::new(|from, _, message| usize::from(from != 1 || kind(message) != T::GroupAck));
    let op = crowd.invite_start(2);
    let (_, news) = crowd.sent.iter().find(|(_, m)| kind(m) == T::GroupUpdate).unwrap();
    assert_eq!((fanout(news), update(news).op), (limits::FANOUT_ALL, GroupUpdateOp::Add as i32));
    assert_eq!(update(news).participants.len(), 3);
    assert_eq!(crowd.count(2, T::GroupAck), 1, "the newcomer is in");
    assert!(!crowd.done.contains_key(&op), "but the other does not know, it seems");
    crowd.copies = Box::new(|_, _, _| 1);
    assert_eq!(crowd.result(op), Ok(()));
    assert_eq!(names_of(&crowd, 1), ["o/n/ann", "o/n/cid"]);
}

#[test]
fn spec03_09_invitations_at_once_are_carried_out_in_order() {
    let mut crowd = Crowd::four(true);
    crowd.copies = Box::new(|_, _, _| 0);
    let ops = [1, 2, 3].map(|at| crowd.invite_start(at));
    assert_eq!(crowd.count(MODERATOR, T::DiscoveryRequest), 1, "one at a time");
    crowd.copies = Box::new(|_, _, _| 1);
    for op in ops {
        assert_eq!(crowd.result(op), Ok(()));
    }
    let asked = crowd.sent.iter().filter(|(_, m)| kind(m) == T::JoinRequest);
    let asked: Vec<String> = asked.map(|(_, m)| destination(m).service()).collect();
    assert_eq!(asked, ["o/n/bob", "o/n/cid", "o/n/dan"]);
    crowd.agree(&[0, 1, 2, 3], "invited at once");
}

#[test]
fn spec03_10_what_cannot_be_has_a_reason() {
    let mut crowd = Crowd::four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    let refused = |result: Result<(), Error>, words: &str| {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    };
    refused(crowd.invite(1), "participant already in group: o/n/bob");
    refused(crowd.remove(2), "participant not found in group: o/n/cid");
    refused(crowd.invite(MODERATOR), "o/n/ann");
    let op = crowd.op();
    let name = crowd.names[2].clone();
    crowd.act(1, op, |session, cx| session.invite(name, Some(op), cx));
    refused(crowd.result(op), "only initiator can modify participants: cannot invite o/n/cid");

    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    for what in ["invite", "remove", "suspend", "rejoin"] {
        let (op, name) = (pair.op(), Name::parse("o/n/carol").unwrap());
        pair.with(0, |app, cx| {
            app.act(ours, Some(op), |session| match what {
                "invite" => session.invite(name, Some(op), cx),
                "remove" => session.remove(name, Some(op), cx),
                _ => session.set_presence(what == "suspend", Some(op), cx),
            });
        });
        refused(pair.done[&op].1.clone(), &format!("cannot {what}"));
        refused(pair.done[&op].1.clone(), "point-to-point session");
    }
}

#[test]
fn spec03_11_a_removal_is_news_first_where_others_are() {
    let mut crowd = Crowd::together(true);
    assert_eq!(crowd.remove(3), Ok(()));
    let removals = |crowd: &Crowd| {
        let news = crowd.sent.iter().filter(|(_, m)| kind(m) == T::GroupUpdate);
        news.filter(|(_, m)| update(m).op == GroupUpdateOp::Remove as i32).count()
    };
    assert_eq!((removals(&crowd), crowd.count(3, T::LeaveReply)), (1, 1));
    assert_eq!(crowd.seen[3].ended, ["removed by the moderator"]);
    crowd.agree(&[0, 1, 2], "removed");
    assert_eq!(crowd.remove(2), Ok(()));
    assert_eq!((removals(&crowd), crowd.remove(1)), (2, Ok(())), "with two: only they know");
    assert_eq!(removals(&crowd), 2);
    crowd.agree(&[0], "alone");
    assert_eq!(crowd.invite(2), Ok(()), "again");
    crowd.talk(&[0, 2], "again");
}

#[test]
fn spec03_12_who_leaves_gives_up_the_channels_and_everybody_learns_it() {
    let mut crowd = Crowd::together(true);
    let before = crowd.sent.len();
    assert_eq!(crowd.close(2), Ok(()));
    let (_, leave) = crowd.sent[before..].iter().find(|(at, _)| *at == 2).unwrap();
    assert_eq!(
        (kind(leave), leave.metadata.get("LEAVING_SESSION").map(String::as_str)),
        (T::LeaveRequest, Some("TRUE"))
    );
    let left = Event::PeerLeft(crowd.names[2].clone());
    for at in [0, 1, 3] {
        assert!(crowd.seen[at].events.contains(&left), "{at}");
    }
    crowd.agree(&[0, 1, 3], "left");
    assert!(crowd.subscribed.iter().all(|(_, at)| *at != 2));
}

#[test]
fn spec03_13_the_session_ends_with_the_last_that_leaves_but_not_with_the_last_that_is_removed() {
    let mut crowd = Crowd::four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    assert_eq!(crowd.close(1), Ok(()));
    assert!(crowd.seen[0].ended[0].contains("participant disconnected: o/n/bob"));
    crowd.all_idle("nobody is left");

    let mut crowd = Crowd::four(true);
    assert_eq!((crowd.invite(1), crowd.remove(1)), (Ok(()), Ok(())));
    crowd.agree(&[0], "the moderator stays");

    // Somebody else is on the way.
    let mut crowd = Crowd::four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    crowd.copies = Box::new(|_, _, message| usize::from(kind(message) != T::DiscoveryReply));
    let op = crowd.invite_start(2);
    assert_eq!(crowd.close(1), Ok(()));
    crowd.copies = Box::new(|_, _, _| 1);
    assert_eq!(crowd.result(op), Ok(()));
    crowd.agree(&[0, 2], "one came, one left");
}

#[test]
fn spec03_14_everybody_confirms_the_end() {
    let mut crowd = Crowd::together(true);
    assert_eq!(crowd.close(MODERATOR), Ok(()));
    let (_, close) = crowd.sent.iter().find(|(_, m)| kind(m) == T::GroupClose).unwrap();
    assert_eq!(fanout(close), limits::FANOUT_ALL);
    for at in 1..4 {
        assert_eq!(crowd.seen[at].ended, ["closed by the moderator"]);
    }
    crowd.all_idle("closed");
}

#[test]
fn spec03_15_where_nobody_answers_the_invitation_fails_in_time_and_the_group_goes_on() {
    let mut crowd = Crowd::together(true);
    let begun = crowd.now.mono - crowd.start.mono;
    let op = crowd.op();
    let nobody = Name::parse("o/n/nobody").unwrap();
    crowd.act(MODERATOR, op, |session, cx| session.invite(nobody, Some(op), cx));
    crowd.talk(&[0, 1, 2, 3], "meanwhile");
    let result = crowd.result(op);
    assert_eq!(crowd.done[&op].0 - begun, 4 * T);
    let Err(Error::NoRoute(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("failed to add participant to session"), "{text}");
    assert!(text.contains("o/n/nobody") && text.contains("discovery request"), "{text}");
    crowd.agree(&[0, 1, 2, 3], "afterwards");
}

#[test]
fn spec03_18_who_was_invited_under_another_name_has_that_name_in_the_group() {
    let mut crowd = Crowd::four(true);
    let alias = Name::parse("o/n/robert").unwrap();
    crowd.aliases.push((alias.with_id(crowd.names[1].id()), 1));
    crowd.apps[1].add_alias(&alias);
    assert_eq!(crowd.invite(2), Ok(()));
    let op = crowd.op();
    let name = alias.clone();
    crowd.act(MODERATOR, op, |session, cx| session.invite(name, Some(op), cx));
    assert_eq!(crowd.result(op), Ok(()));
    assert_eq!(names_of(&crowd, 2), ["o/n/ann", "o/n/robert"]);
    let op = crowd.publish(1, "hello");
    assert_eq!(crowd.result(op), Ok(()));
    crowd.run(2 * limits::HEARTBEAT);
    for (_, mut message) in crowd.sent.iter().filter(|(at, _)| *at == 1).cloned() {
        let source = header(&mut message).source.as_ref().and_then(Name::from_wire).unwrap();
        assert_eq!(source, alias.with_id(crowd.names[1].id()), "{:?}", kind(&message));
    }
    let op = crowd.remove_start(&alias);
    assert_eq!(crowd.result(op), Ok(()));
    assert_eq!(crowd.seen[1].ended, ["removed by the moderator"]);
}

#[test]
fn spec03_20_messages_to_one_member_stand_outside_of_the_sequence() {
    let mut crowd = Crowd::together(true);
    for to in [2, 3] {
        let before = crowd.sent.len();
        let op = crowd.publish_to(1, to, "for you");
        assert_eq!(crowd.result(op), Ok(()));
        let of = |from: usize, wanted: T| {
            let mut sent = crowd.sent[before..].iter();
            sent.find(|(at, m)| *at == from && kind(m) == wanted).unwrap().1.clone()
        };
        let (message, ack) = (of(1, T::Msg), of(to, T::MsgAck));
        assert!(message_id(&message) >= 0x8000_0000 && message_id(&message) < u32::MAX);
        assert_eq!((destination(&message), fanout(&message)), (crowd.names[to].clone(), 1));
        assert_eq!(message_id(&ack), message_id(&message));
        for message in [message, ack] {
            assert_eq!(message.metadata["PUBLISH_TO"], "TRUE");
        }
        let received = crowd.seen[to].received.last().unwrap();
        assert!(received.is_reply && received.metadata.is_empty());
    }
    assert_eq!(crowd.seen[0].messages.len(), 0, "nobody else");
    crowd.publish(1, "for all");
    let (_, message) = crowd.sent.iter().rev().find(|(_, m)| kind(m) == T::Msg).unwrap();
    assert_eq!((message_id(message), fanout(message)), (1, limits::FANOUT_ALL));
}

#[test]
fn a_message_to_one_member_is_repeated_and_given_out_once() {
    let mut crowd = Crowd::together(true);
    crowd.copies = nth(T::MsgAck, 1, 0);
    let op = crowd.publish_to(1, 2, "for you");
    assert_eq!(crowd.result(op), Ok(()));
    assert_eq!((crowd.count(1, T::Msg), crowd.seen[2].messages.len()), (2, 1));
    crowd.copies = Box::new(|_, _, _| 0);
    let op = crowd.publish_to(1, 2, "lost");
    let result = crowd.result(op);
    assert!(matches!(result, Err(Error::Undelivered(text)) if text.contains("o/n/cid")));
    crowd.copies = Box::new(|_, _, _| 1);
    let op = crowd.publish_to(1, 0, "x");
    assert_eq!((crowd.result(op), crowd.seen[1].credit), (Ok(()), (3, 12)));
    let stranger = Name::new(["o", "n", "stranger"], crate::name::NameId(5));
    let (op, key) = (crowd.op(), crowd.sessions[1].unwrap());
    crowd.with(1, |app, cx| app.publish_to(key, &stranger, Payload::default(), Some(op), cx));
    assert!(matches!(crowd.result(op), Err(Error::NotFound(text)) if text.contains("stranger")));
    assert_eq!(crowd.seen[1].credit.0, 4);
}

#[test]
fn spec03_22_a_lost_message_is_repeated_to_whoever_misses_it() {
    let mut crowd = Crowd::together(true);
    crowd.copies = Box::new(|_, to, message| usize::from(kind(message) != T::Msg || to != 2));
    let op = crowd.publish(1, "hello");
    assert_eq!(crowd.count(1, T::Msg), 1);
    crowd.run(T);
    let (_, again) = crowd.sent.iter().rev().find(|(_, m)| kind(m) == T::Msg).unwrap();
    assert_eq!((destination(again), message_id(again)), (crowd.names[2].clone(), 1));
    assert_eq!(fanout(again), limits::FANOUT_ALL, "as the published one");
    crowd.copies = Box::new(|_, _, _| 1);
    assert_eq!(crowd.result(op), Ok(()));
    assert_eq!(crowd.seen[2].messages, ["hello"]);
}

#[test]
fn spec03_26_a_stream_begins_with_what_comes_first_but_for_those_who_came_later() {
    let mut crowd = Crowd::four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    for n in 1..=3 {
        crowd.publish(1, &n.to_string());
    }
    assert_eq!(crowd.invite(2), Ok(()));
    crowd.publish(1, "4");
    assert_eq!(crowd.seen[2].messages, ["4"], "nothing is asked for that was before");
    assert_eq!(crowd.count(2, T::RtxRequest), 0);
    // Defect 7: what a newcomer sends first is not lost.
    crowd.copies = nth(T::Msg, 1, 0);
    crowd.publish(2, "first");
    crowd.publish(2, "second");
    for at in [0, 1] {
        let got: Vec<&String> = crowd.seen[at].messages.iter().filter(|m| m.len() > 1).collect();
        assert_eq!(got, ["first", "second"], "{at}");
    }
}

#[test]
fn spec03_27_best_effort_is_not_acknowledged_in_a_group() {
    let mut crowd = Crowd::together(false);
    crowd.copies = nth(T::Msg, 1, 0);
    for n in 1..=3 {
        let op = crowd.publish(1, &n.to_string());
        assert_eq!(crowd.done[&op].1, Ok(()));
    }
    let got: usize = crowd.seen.iter().map(|seen| seen.messages.len()).sum();
    assert_eq!(got, 8, "one is lost at one of three");
    let said = |wanted| (0..4).map(|at| crowd.count(at, wanted)).sum::<usize>();
    assert_eq!((said(T::MsgAck), said(T::RtxRequest)), (0, 0));
}

#[test]
fn spec03_28_a_publish_ends_with_the_last_ack_or_names_who_is_missing() {
    let mut crowd = Crowd::together(true);
    let begun = crowd.now.mono - crowd.start.mono;
    crowd.copies =
        Box::new(|from, _, message| usize::from(kind(message) != T::MsgAck || from != 3));
    let op = crowd.publish(1, "hello");
    assert!(!crowd.done.contains_key(&op));
    let result = crowd.result(op);
    let Err(Error::Undelivered(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("o/n/dan") && !text.contains("o/n/cid"), "{text}");
    assert_eq!(crowd.done[&op].0 - begun, 4 * T);
    assert!(crowd.seen[1].events.contains(&Event::PeerOffline(crowd.names[3].clone())));
}

#[test]
fn spec03_29_nobody_waits_for_who_takes_no_data() {
    let mut crowd = Crowd::four(true);
    crowd.apps[1].set_direction(Direction::SendOnly);
    crowd.apps[2].set_direction(Direction::ReceiveOnly);
    crowd.apps[3].set_direction(Direction::Neither);
    for at in 1..4 {
        assert_eq!(crowd.invite(at), Ok(()));
    }
    let op = crowd.publish(0, "hello");
    assert_eq!(crowd.done[&op].1, Ok(()), "acknowledged by the only one who takes it");
    let got: Vec<usize> = crowd.seen.iter().map(|seen| seen.messages.len()).collect();
    assert_eq!(got, [0, 0, 1, 0]);
    let acks: Vec<usize> = (0..4).map(|at| crowd.count(at, T::MsgAck)).collect();
    assert_eq!(acks, [0, 0, 1, 0]);
    let op = crowd.publish(1, "from one who only sends");
    assert_eq!((crowd.result(op), crowd.seen[0].messages.len()), (Ok(()), 1));
    for at in [2, 3] {
        let op = crowd.publish(at, "no");
        let text = crowd.result(op).unwrap_err().to_string();
        assert!(text.contains("session sender is shutdown"), "{text}");
        assert_eq!(crowd.seen[at].credit.0, 1);
    }
}

#[test]
fn spec03_33_heartbeats_go_to_everybody_at_once_and_a_message_to_one_is_none() {
    let mut crowd = Crowd::together(true);
    crowd.run(limits::HEARTBEAT);
    let before: Vec<usize> = (0..4).map(|at| crowd.count(at, T::Heartbeat)).collect();
    crowd.run(limits::HEARTBEAT);
    for (at, before) in before.into_iter().enumerate() {
        assert_eq!(crowd.count(at, T::Heartbeat), before + 1, "{at}");
    }
    let (_, beat) = crowd.sent.iter().rev().find(|(_, m)| kind(m) == T::Heartbeat).unwrap();
    assert_eq!(fanout(beat), limits::FANOUT_ALL);
    let key = crowd.sessions[0].unwrap();
    let channels = Session::channels(&crowd.apps[0].sessions.values().next().unwrap().session);
    assert_eq!(destination(beat), channels.unwrap()[1], "{key}");
    // Defect 9: a message to one member does not put the others' minds at rest.
    let before = crowd.count(1, T::Heartbeat);
    for _ in 0..8 {
        crowd.publish_to(1, 2, "psst");
        crowd.run(limits::HEARTBEAT / 4);
    }
    assert_eq!(crowd.count(1, T::Heartbeat), before + 2);
    let before = crowd.count(1, T::Heartbeat);
    for _ in 0..8 {
        crowd.publish(1, "hello");
        crowd.run(limits::HEARTBEAT / 4);
    }
    assert_eq!(crowd.count(1, T::Heartbeat), before, "data is a sign of life");
}

/// Nothing comes from or goes to this one.
fn without(whom: usize) -> Copies {
    Box::new(move |from, to, _| usize::from(from != whom && to != whom))
}

#[test]
fn spec03_34_who_is_silent_goes_offline_and_comes_back() {
    let mut crowd = Crowd::together(true);
    crowd.copies = without(3);
    crowd.run(Duration::from_secs(31));
    for at in 0..3 {
        assert!(crowd.others(at).contains(&(3, false)), "{at}");
    }
    let op = crowd.publish(1, "who is there hears it");
    assert_eq!(crowd.result(op), Ok(()));
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(Duration::from_secs(21));
    crowd.agree(&[0, 1, 2, 3], "back");
    crowd.talk(&[0, 1, 2, 3], "back");
}

#[test]
fn who_could_not_be_reached_learns_what_changed_meanwhile() {
    let mut crowd = Crowd::four(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    crowd.copies = without(2);
    crowd.run(Duration::from_secs(31));
    // It misses that one comes and that one goes.
    assert_eq!((crowd.invite(3), crowd.remove(1)), (Ok(()), Ok(())));
    assert_eq!(crowd.others(2).iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1]);
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(Duration::from_secs(21));
    crowd.agree(&[0, 2, 3], "back");
    crowd.talk(&[0, 2, 3], "back");
}

#[test]
fn an_update_that_is_not_confirmed_is_told_again_when_the_member_is_back() {
    let mut crowd = Crowd::four(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    crowd.copies = without(2);
    // Nobody knows yet that it cannot be reached.
    assert_eq!(crowd.invite(3), Ok(()));
    assert!(crowd.others(0).contains(&(2, false)));
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(Duration::from_secs(21));
    crowd.agree(&[0, 1, 2, 3], "back");
}

#[test]
fn who_was_removed_unreachably_is_told_when_it_is_heard_of() {
    let mut crowd = Crowd::together(true);
    crowd.copies = without(3);
    let result = crowd.remove(3);
    assert!(matches!(result, Err(Error::Undelivered(text)) if text.contains("o/n/dan")));
    assert!(crowd.sessions[3].is_some(), "it does not know");
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(Duration::from_secs(11));
    crowd.agree(&[0, 1, 2], "told");
    assert_eq!(crowd.invite(3), Ok(()), "and may come again");

    // Invited by its full name before it was heard of, it begins anew.
    crowd.copies = without(3);
    assert!(crowd.remove(3).is_err());
    crowd.copies = Box::new(|_, _, _| 1);
    let (op, name) = (crowd.op(), crowd.names[3].clone());
    crowd.act(MODERATOR, op, |session, cx| session.invite(name, Some(op), cx));
    assert_eq!(crowd.result(op), Ok(()));
    crowd.talk(&[0, 1, 2, 3], "anew");
}

#[test]
fn an_invitation_given_up_at_the_join_is_told_to_leave() {
    let mut crowd = Crowd::four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    // The invitation arrives; its answers do not.
    crowd.copies = Box::new(|_, _, message| usize::from(kind(message) != T::JoinReply));
    let result = crowd.invite(2);
    assert!(matches!(result, Err(Error::NoRoute(_))), "{result:?}");
    assert_eq!((crowd.count(2, T::LeaveReply), crowd.apps[2].sessions()), (1, 0), "told");
    crowd.copies = all();
    assert_eq!(crowd.invite(2), Ok(()), "again");

    // It does not even hear that. Whoever has a session does not answer another discovery.
    assert_eq!(crowd.remove(2), Ok(()));
    crowd.copies = Box::new(|_, _, message| {
        let lost = [T::JoinReply, T::LeaveRequest].contains(&kind(message));
        usize::from(!lost)
    });
    let op = crowd.invite_start(2);
    let key = crowd.sessions[MODERATOR].unwrap();
    crowd.with(MODERATOR, |app, cx| app.act(key, None, |session| session.cancel(op, cx)));
    assert_eq!(crowd.apps[2].sessions(), 1, "it waits for its welcome");
    crowd.copies = all();
    let begun = crowd.now.mono;
    assert_eq!((crowd.invite(2), crowd.now.mono - begun), (Ok(()), Duration::ZERO), "at once");
    crowd.talk(&[0, 1, 2], "in the end");
}

#[test]
fn whoever_was_removed_unreachably_learns_of_the_end_of_the_group() {
    for last in [true, false] {
        let mut crowd = Crowd::together(true);
        if last {
            assert_eq!((crowd.remove(1), crowd.remove(2)), (Ok(()), Ok(())));
        }
        crowd.copies = without(3);
        assert!(crowd.remove(3).is_err(), "it cannot confirm it");
        // It is there again, but its place on the channel is not.
        crowd.copies = all();
        crowd.subscribed.retain(|(_, at)| *at != 3);
        assert_eq!(crowd.close(MODERATOR), Ok(()));
        assert_eq!(crowd.seen[3].ended, ["closed by the moderator"], "last: {last}");
    }
    // Somebody who is just being removed, likewise.
    let mut crowd = Crowd::four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    crowd.copies = Box::new(|_, _, message| usize::from(kind(message) != T::LeaveRequest));
    let op = crowd.remove_start(&crowd.names[1].clone());
    assert_eq!(crowd.close(MODERATOR), Ok(()));
    assert!(matches!(crowd.done[&op].1, Err(Error::Closed(_))));
    assert_eq!(crowd.seen[1].ended, ["closed by the moderator"]);
    crowd.run(Duration::from_secs(60));
    crowd.all_idle("the end");
}

#[test]
fn what_is_kept_for_the_unreachable_is_bounded() {
    let mut crowd = Crowd::together(true);
    let key = crowd.sessions[MODERATOR].unwrap();
    let count = limits::MISSED_UPDATES + 1;
    let missed = crowd.with(MODERATOR, |app, cx| {
        let session = &mut app.sessions.get_mut(&app.by_number[&key.number]).unwrap().session;
        session.miss_for_tests(count, cx)
    });
    assert_eq!(missed, limits::MISSED_UPDATES);
    let unconfirmed = crowd.with(MODERATOR, |app, _| {
        let session = &mut app.sessions.get_mut(&app.by_number[&key.number]).unwrap().session;
        session.forget_for_tests(limits::UNCONFIRMED_REMOVALS + 1)
    });
    assert_eq!(unconfirmed, limits::UNCONFIRMED_REMOVALS);
}

#[test]
fn spec03_35_a_member_that_is_away_gets_nothing_and_is_waited_for_by_nobody() {
    let mut crowd = Crowd::together(true);
    assert_eq!(crowd.set_away(2, true), Ok(()));
    for at in [0, 1, 3] {
        assert!(crowd.others(at).contains(&(2, false)), "{at}");
    }
    let op = crowd.publish(1, "meanwhile");
    assert_eq!(crowd.done[&op].1, Ok(()));
    let op = crowd.publish(2, "no");
    assert!(matches!(crowd.result(op), Err(Error::NotAllowed(text)) if text.contains("suspended")));
    let beats = crowd.count(2, T::Heartbeat);
    crowd.run(Duration::from_secs(60));
    assert_eq!(crowd.count(2, T::Heartbeat), beats, "and says nothing");
    assert!(crowd.others(0).contains(&(2, false)));
    assert!(crowd.invite(2).is_err(), "it is in the group");
    assert_eq!(crowd.set_away(2, false), Ok(()));
    crowd.agree(&[0, 1, 2, 3], "back");
    crowd.talk(&[0, 1, 2, 3], "back");
    assert_eq!(crowd.seen[2].messages.iter().filter(|m| *m == "meanwhile").count(), 0);
    let again = crowd.set_away(2, false);
    assert!(matches!(again, Err(Error::NotAllowed(_))));
}

#[test]
fn changes_reach_a_member_that_is_away() {
    let mut crowd = Crowd::four(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    assert_eq!(crowd.set_away(2, true), Ok(()));
    assert_eq!((crowd.invite(3), crowd.remove(1)), (Ok(()), Ok(())));
    assert_eq!(crowd.set_away(2, false), Ok(()));
    crowd.run(25 * T);
    crowd.agree(&[0, 2, 3], "back");
    assert_eq!(crowd.set_away(3, true), Ok(()));
    assert_eq!(crowd.close(MODERATOR), Ok(()), "it confirms the end");
    crowd.all_idle("closed");
}

#[test]
fn spec03_41_closing_ends_every_call() {
    for stage in [T::DiscoveryReply, T::JoinReply, T::GroupAck] {
        let mut crowd = Crowd::together(true);
        assert_eq!(crowd.remove(3), Ok(()));
        crowd.copies = Box::new(move |_, _, message| usize::from(kind(message) != stage));
        let ops = [crowd.invite_start(3), crowd.remove_start(&crowd.names[1].clone())];
        let publish = crowd.publish(0, "last words");
        let close = crowd.close_start(MODERATOR);
        crowd.copies = Box::new(|_, _, _| 1);
        crowd.run(30 * T);
        for op in ops {
            assert!(matches!(crowd.done[&op].1, Err(Error::Closed(_))), "{stage:?}");
        }
        assert_eq!((&crowd.done[&publish].1, &crowd.done[&close].1), (&Ok(()), &Ok(())));
        crowd.run(Duration::from_secs(60));
        crowd.all_idle("closed");
    }
}

#[test]
fn closing_is_bounded_where_half_of_fifty_are_dead() {
    let names: Vec<String> = (0..51).map(|n| format!("o/n/app{n}")).collect();
    let mut crowd = Crowd::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    crowd.open(true);
    for at in 1..51 {
        assert_eq!(crowd.invite(at), Ok(()));
    }
    crowd.copies = Box::new(|from, to, _| usize::from(from % 2 == 0 && to % 2 == 0));
    let begun = crowd.now.mono;
    // The dead never acknowledge this one.
    let publish = crowd.publish(MODERATOR, "last words");
    assert!(!crowd.done.contains_key(&publish), "it is pending");
    let result = crowd.close(MODERATOR);
    let Err(Error::Undelivered(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("o/n/app49") && !text.contains("o/n/app48/"), "{text}");
    let Err(Error::Undelivered(text)) = &crowd.done[&publish].1 else {
        panic!("{:?}", crowd.done[&publish])
    };
    assert!(text.contains("o/n/app49") && !text.contains("o/n/app48/"), "{text}");
    // The tries of the message, and then those of the close.
    assert!(crowd.now.mono - begun <= (4 + 4 + 1) * T);
    assert!(crowd.apps[0].is_idle());
    assert!((2..51).step_by(2).all(|at| crowd.sessions[at].is_none()));
}

#[test]
fn an_invitation_is_taken_back_at_every_stage() {
    for stage in [T::DiscoveryReply, T::JoinReply, T::GroupAck] {
        let mut crowd = Crowd::four(true);
        assert_eq!(crowd.invite(1), Ok(()));
        crowd.copies = Box::new(move |_, _, message| usize::from(kind(message) != stage));
        let op = crowd.invite_start(2);
        let waiting = crowd.invite_start(3);
        for op in [waiting, op] {
            let key = crowd.sessions[MODERATOR].unwrap();
            crowd.with(MODERATOR, |app, cx| app.act(key, None, |session| session.cancel(op, cx)));
            let result = &crowd.done.get(&op).expect("an answer").1;
            assert!(matches!(result, Err(Error::Timeout(_))), "{stage:?}: {result:?}");
        }
        crowd.copies = Box::new(|_, _, _| 1);
        crowd.run(Duration::from_secs(30));
        crowd.agree(&[0, 1], &format!("{stage:?}"));
        assert_eq!(crowd.invite(2), Ok(()), "{stage:?}");
        crowd.talk(&[0, 1, 2], "afterwards");
    }
}

#[test]
fn a_removal_that_nobody_waits_for_goes_on_and_is_answered() {
    let mut crowd = Crowd::together(true);
    crowd.copies = Box::new(|_, _, message| usize::from(kind(message) != T::GroupAck));
    let ops = [3, 2].map(|at| crowd.remove_start(&crowd.names[at].clone()));
    let key = crowd.sessions[MODERATOR].unwrap();
    for op in ops {
        crowd.with(MODERATOR, |app, cx| app.act(key, None, |session| session.cancel(op, cx)));
        assert!(!crowd.done.contains_key(&op));
    }
    crowd.copies = all();
    for op in ops {
        assert_eq!(crowd.result(op), Ok(()));
    }
    crowd.agree(&[0, 1], "removed");
}

/// A group whose moderator waits for an answer to its first invitation, and so many removals of nobody.
fn waiting(removals: usize) -> (Crowd, OpId, Vec<OpId>) {
    let mut crowd = Crowd::four(true);
    crowd.copies = Box::new(|_, _, _| 0);
    let first = crowd.invite_start(1);
    let nobody = Name::parse("o/n/nobody").unwrap();
    let waiting = (0..removals).map(|_| crowd.remove_start(&nobody)).collect();
    (crowd, first, waiting)
}

#[test]
fn so_many_changes_of_a_group_wait_and_no_more() {
    let (mut crowd, first, waiting) = waiting(limits::WAITING_CHANGES);
    assert!(waiting.iter().all(|op| !crowd.done.contains_key(op)), "at the limit");
    for op in [crowd.invite_start(2), crowd.remove_start(&crowd.names[3].clone())] {
        let result = crowd.done.get(&op).expect("an answer").1.clone();
        let Err(Error::Limit(text)) = result else { panic!("{result:?}") };
        assert!(text.contains(&limits::WAITING_CHANGES.to_string()), "{text}");
    }
    crowd.copies = all();
    assert_eq!(crowd.result(first), Ok(()));
    for op in waiting {
        assert!(matches!(crowd.done[&op].1, Err(Error::NotFound(_))), "at once, one by one");
    }
    assert_eq!(crowd.invite(2), Ok(()), "there is room again");
}

#[test]
fn tasks_that_fail_at_once_take_no_stack() {
    // A test has 2 MiB, which so many frames of one another would take in a debug build.
    let small = std::thread::Builder::new().stack_size(512 * 1024);
    let thread = small.spawn(|| {
        let (mut crowd, first, _) = waiting(limits::WAITING_CHANGES);
        crowd.copies = all();
        assert_eq!(crowd.result(first), Ok(()));
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn two_instances_of_one_service_are_two_members() {
    let mut crowd = Crowd::new(&["o/n/ann", "o/n/bob", "o/n/bob"]);
    crowd.open(true);
    for at in [1, 2] {
        let (op, name) = (crowd.op(), crowd.names[at].clone());
        crowd.act(MODERATOR, op, |session, cx| session.invite(name, Some(op), cx));
        assert_eq!(crowd.result(op), Ok(()));
    }
    crowd.talk(&[0, 1, 2], "three");
    let result = crowd.remove(1);
    let Err(Error::InvalidArgument(text)) = result else { panic!("{result:?}") };
    assert!(crowd.names[1..].iter().all(|name| text.contains(&name.to_string())), "{text}");
    let op = crowd.remove_start(&crowd.names[1].clone());
    assert_eq!(crowd.result(op), Ok(()));
    crowd.agree(&[0, 2], "one of two");
}

#[test]
fn strangers_and_members_cannot_change_who_takes_part() {
    // With the binding off, nobody looks at who it is that says so.
    for binding in [Binding::Warn, Binding::Default, Binding::Enforce] {
        let mut crowd = Crowd::together_with_binding(true, binding);
        // A member says what only the moderator may say: it is signed, and from the wrong one.
        let template = crowd.sent.iter().find(|(at, m)| *at == 0 && kind(m) == T::GroupUpdate);
        let mut message = template.unwrap().1.clone();
        header(&mut message).source = Some(crowd.names[1].to_wire());
        header(&mut message).identity = "test:o/n/bob_1:1800000000".to_owned();
        for wanted in [T::GroupUpdate, T::GroupClose, T::GroupWelcome, T::LeaveRequest] {
            if let Some(MessageType::Publish(publish)) = &mut message.message_type {
                publish.session.as_mut().unwrap().session_message_type = wanted as i32;
            }
            sign_as(&mut message, "o/n/bob_1");
            let before = crowd.sent.len();
            let forged = message.clone();
            crowd.with(2, |app, cx| app.handle_message(forged, ConnectionId(9), cx));
            assert_eq!(crowd.sent.len(), before, "{binding:?}: {wanted:?} was answered");
        }
        crowd.agree(&[0, 1, 2, 3], "nothing changed");
    }
}

/// The invitation that a member took, under a fresh number: from the moderator (a published one may be
/// confused so), from another member, and from somebody else who knows the session's number.
#[test]
fn defect_15_an_invitation_to_a_group_that_one_is_in_changes_nothing() {
    for binding in [Binding::Off, Binding::Warn, Binding::Default, Binding::Enforce] {
        let mut crowd = Crowd::together_with_binding(true, binding);
        let mallory = Name::parse("o/n/mallory").unwrap();
        let mallory = mallory.with_id(crate::name::app_id("o/n/mallory_x"));
        let (ann, bob, cid) = (&crowd.names[0], &crowd.names[1], &crowd.names[2]);
        let senders = [(ann, "o/n/ann_0"), (bob, "o/n/bob_1"), (&mallory, "o/n/mallory_x")];
        let to_cid = |(at, m): &&(usize, Message)| {
            *at == 0 && kind(m) == T::JoinRequest && destination(m) == *cid
        };
        let join = crowd.sent.iter().find(to_cid).expect("an invitation").1.clone();
        let forge = |(n, (from, subject)): (usize, (&Name, &str))| {
            let mut message = join.clone();
            header(&mut message).source = Some(from.to_wire());
            header(&mut message).identity = format!("test:{subject}:1800000000");
            let Some(MessageType::Publish(publish)) = &mut message.message_type else { panic!() };
            publish.session.as_mut().unwrap().message_id = 4242 + n as u32;
            sign_as(&mut message, subject);
            (subject.to_owned(), message)
        };
        let forged: Vec<_> = senders.into_iter().enumerate().map(forge).collect();
        for (subject, message) in forged {
            let before = crowd.sent.len();
            crowd.with(2, |app, cx| app.handle_message(message, ConnectionId(9), cx));
            assert_eq!(crowd.sent.len(), before, "{binding:?}: {subject} was answered");
        }
        assert_eq!(crowd.seen[2].accepted.len(), 1, "{binding:?}");
        crowd.agree(&[0, 1, 2, 3], "nothing changed");
        crowd.talk(&[0, 1, 2, 3], &format!("{binding:?}"));
    }
}

#[test]
fn data_leads_no_message_to_another_connection() {
    let mut crowd = Crowd::together(true);
    // An acknowledgement is not signed: anybody can send one in a member's name.
    let op = crowd.publish(0, "hello");
    assert_eq!(crowd.result(op), Ok(()));
    let ack = |(at, m): &&(usize, Message)| *at == 1 && kind(m) == T::MsgAck;
    let forged = crowd.sent.iter().find(ack).unwrap().1.clone();
    crowd.with(0, |app, cx| app.handle_message(forged, ConnectionId(66), cx));
    let op = crowd.publish_to(0, 1, "for you alone");
    assert_eq!(crowd.result(op), Ok(()));
    assert!(!crowd.routes.contains(&Route::Over(ConnectionId(66))));
    assert_eq!(crowd.seen[1].messages.last().unwrap(), "for you alone");
}

#[test]
fn a_session_with_one_peer_has_no_news_of_members() {
    let crowd = Crowd::together(true);
    let news = |(at, m): &&(usize, Message)| *at == 0 && kind(m) == T::GroupUpdate;
    let mut update = crowd.sent.iter().find(news).unwrap().1.clone();
    let mut pair = Pair::new();
    let (_, theirs) = pair.open(true);
    let join = pair.sent.iter().find(|(_, m)| kind(m) == T::JoinRequest).unwrap().1.clone();
    let (Some(MessageType::Publish(ours)), Some(MessageType::Publish(publish))) =
        (&join.message_type, &mut update.message_type)
    else {
        panic!()
    };
    publish.header = ours.header.clone();
    let mut session = ours.session.unwrap();
    session.session_message_type = T::GroupUpdate as i32;
    session.message_id = 4711;
    publish.session = Some(session);
    sign_as(&mut update, "o/n/alice_x");
    pair.with(1, |app, cx| app.handle_message(update, ConnectionId(9), cx));
    assert_eq!(pair.apps[1].participants(theirs).unwrap().len(), 1);
}

#[test]
fn what_was_published_before_a_suspension_is_still_acknowledged() {
    let mut crowd = Crowd::together(true);
    crowd.copies = Box::new(|_, to, m| usize::from(to != 2 || kind(m) != T::MsgAck));
    let op = crowd.publish(2, "last words");
    assert_eq!(crowd.set_away(2, true), Ok(()));
    crowd.copies = Box::new(|_, _, _| 1);
    assert_eq!(crowd.result(op), Ok(()));
}

#[test]
fn whoever_is_going_away_gives_no_sign_of_life() {
    let mut crowd = Crowd::together(true);
    crowd.copies = Box::new(|from, _, m| usize::from(from != 3 || kind(m) != T::GroupAck));
    let (op, beats) = (crowd.op(), crowd.count(2, T::Heartbeat));
    crowd.run(limits::HEARTBEAT - T);
    crowd.act(2, op, |session, cx| session.set_presence(true, Some(op), cx));
    assert!(!crowd.done.contains_key(&op), "one has not answered");
    let name = crowd.names[1].clone();
    let invite = crowd.op();
    crowd.act(2, invite, |session, cx| session.invite(name, Some(invite), cx));
    assert!(crowd.done[&invite].1.is_err());
    assert_eq!(crowd.result(op), Ok(()));
    crowd.run(3 * limits::HEARTBEAT);
    assert!(crowd.count(2, T::Heartbeat) <= beats + 1, "none after it began to go");
    assert!(crowd.others(0).contains(&(2, false)));
}

#[test]
fn nothing_is_sent_to_one_who_takes_nothing() {
    let mut crowd = Crowd::four(true);
    crowd.apps[1].set_direction(Direction::SendOnly);
    assert_eq!(crowd.invite(1), Ok(()));
    let op = crowd.publish_to(0, 1, "thanks");
    assert!(matches!(crowd.result(op), Err(Error::NotAllowed(text)) if text.contains("o/n/bob")));
    assert_eq!(crowd.seen[0].credit.0, 1);
}

#[test]
fn channels_of_another_identity_are_refused() {
    let mut crowd = Crowd::four(true);
    crowd.copies = Box::new(|_, _, message| usize::from(kind(message) != T::JoinRequest));
    crowd.invite_start(1);
    let (_, join) = crowd.sent.iter().find(|(_, m)| kind(m) == T::JoinRequest).unwrap().clone();
    let change = |act: &dyn Fn(&mut JoinRequestPayload)| {
        let mut message = join.clone();
        let Some(MessageType::Publish(publish)) = &mut message.message_type else { panic!() };
        let content = publish.msg.as_mut().unwrap().content_type.as_mut().unwrap();
        let ContentType::CommandPayload(CommandPayload {
            command_payload_type: Some(CommandPayloadType::JoinRequest(request)),
        }) = content
        else {
            panic!()
        };
        act(request);
        sign_as(&mut message, "o/n/ann_0");
        message
    };
    let other =
        |id: u128| Name::parse("o/n/group").unwrap().with_id(crate::name::NameId(id)).to_wire();
    let bad: [&dyn Fn(&mut JoinRequestPayload); 5] = [
        &|request| request.channel = None,
        &|request| request.control = None,
        &|request| request.channel = Some(other(7)),
        &|request| request.control = request.channel.clone(),
        &|request| {
            request.control = Some(Name::new(["o", "n", "else"], crate::name::NameId(7)).to_wire())
        },
    ];
    for act in bad {
        let message = change(act);
        crowd.with(1, |app, cx| app.handle_message(message, ConnectionId(9), cx));
        assert_eq!(crowd.count(1, T::JoinReply), 0);
    }
    let good = change(&|_| {});
    crowd.with(1, |app, cx| app.handle_message(good, ConnectionId(9), cx));
    assert_eq!(crowd.count(1, T::JoinReply), 1);
}

#[test]
fn two_sessions_of_one_group_name_share_the_channels() {
    let mut crowd = Crowd::four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    let first = crowd.sessions.clone();
    crowd.open(true);
    assert_eq!(crowd.invite(1), Ok(()));
    let second = crowd.sessions.clone();
    crowd.talk(&[0, 1], "second");
    crowd.sessions = first;
    crowd.talk(&[0, 1], "first");
    assert_eq!(crowd.seen[1].messages.len(), 2, "each in its session");
    drop(second);
}

#[test]
fn who_comes_back_gets_what_was_kept_for_it_at_once() {
    for reliable in [true, false] {
        let mut crowd = Crowd::four(reliable);
        assert_eq!(crowd.invite(1), Ok(()));
        assert_eq!(crowd.set_away(1, true), Ok(()));
        crowd.publish(MODERATOR, "kept");
        crowd.run(T);
        assert_eq!(crowd.set_away(1, false), Ok(()));
        assert_eq!(crowd.seen[1].messages, ["kept"], "reliable: {reliable}");
        assert_eq!(crowd.count(MODERATOR, T::Msg), 1);
    }
}

fn all() -> Copies {
    Box::new(|_, _, _| 1)
}

#[test]
fn whoever_was_not_heard_yet_is_not_sought_where_others_are() {
    let mut crowd = Crowd::four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    assert_eq!(crowd.invite(2), Ok(()));
    let sent = crowd.sent.iter().zip(&crowd.routes);
    let found = sent.filter(|((_, m), _)| kind(m) == T::DiscoveryRequest).map(|(_, route)| route);
    let found: Vec<&Route> = found.collect();
    assert_eq!(found, [&Route::Any, &Route::Towards(ConnectionId(9))]);
}

#[test]
fn a_group_is_joined_over_another_connection_when_its_own_is_gone() {
    let mut crowd = Crowd::together(true);
    let count = crowd.joined.len();
    // Another connection that comes and goes is no matter.
    crowd.with(1, |app, _| app.handle_other_connection(ConnectionId(10)));
    crowd.with(1, |app, _| app.handle_gone(ConnectionId(10)));
    assert_eq!(crowd.joined.len(), count);
    crowd.with(1, |app, _| app.handle_gone(ConnectionId(9)));
    crowd.with(1, |app, _| app.handle_other_connection(ConnectionId(11)));
    crowd.with(1, |app, _| app.handle_other_connection(ConnectionId(12)));
    assert_eq!(crowd.joined[count..], [(1, ConnectionId(11))]);
}

#[test]
fn a_group_is_entered_over_the_connection_that_the_welcome_came_over() {
    for refused in [false, true] {
        let mut crowd = Crowd::four(true);
        assert_eq!(crowd.invite(1), Ok(()));
        crowd.held = Some(Vec::new());
        let op = crowd.invite_start(2);
        let before = crowd.held.replace(Vec::new()).unwrap();
        assert_eq!(before.len(), 2, "both channels over one connection");
        // A member is heard over another connection: the channels are subscribed there as well.
        let of_bob = |(at, m): &&(usize, Message)| *at == 1 && kind(m) == T::GroupAck;
        let message = crowd.sent.iter().find(of_bob).unwrap().1.clone();
        crowd.with(2, |app, cx| app.handle_message(message, ConnectionId(10), cx));
        let other = crowd.held.replace(Vec::new()).unwrap();
        assert!(other.iter().all(|(at, _, over, _)| (*at, *over) == (2, ConnectionId(10))));
        assert_eq!(other.len(), 2);
        for (at, key, connection, ticket) in other {
            let result = if refused { Err(Error::closed("link")) } else { Ok(()) };
            crowd.with(at, |app, cx| app.handle_channel(key, connection, ticket, result, cx));
        }
        assert_eq!(crowd.count(2, T::GroupAck), 0, "its own is not there yet");
        assert!(crowd.seen[2].ended.is_empty(), "and may come");
        crowd.held = None;
        for (at, key, connection, ticket) in before {
            crowd.with(at, |app, cx| app.handle_channel(key, connection, ticket, Ok(()), cx));
        }
        assert_eq!(crowd.result(op), Ok(()));
    }
}

#[test]
fn a_message_that_was_not_taken_is_no_repetition_when_it_comes_again() {
    let mut crowd = Crowd::four(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    // One does not hear that another comes, and so does not know who says that it goes away.
    crowd.copies = Box::new(|_, to, m| usize::from(to != 2 || kind(m) != T::GroupUpdate));
    crowd.invite_start(3);
    let op = crowd.op();
    crowd.act(3, op, |session, cx| session.set_presence(true, Some(op), cx));
    assert!(!crowd.done.contains_key(&op), "one has not answered");
    crowd.copies = all();
    assert_eq!(crowd.result(op), Ok(()));
    for at in [0, 1, 2] {
        assert!(crowd.others(at).contains(&(3, false)), "{at}");
    }

    // The same with news that come before the own welcome is confirmed.
    let mut crowd = Crowd::together(true);
    let news = |(at, m): &&(usize, Message)| *at == 0 && kind(m) == T::GroupUpdate;
    let news = crowd.sent.iter().rfind(news).unwrap().1.clone();
    assert_eq!((crowd.remove(2), crowd.remove(3)), (Ok(()), Ok(())));
    crowd.held = Some(Vec::new());
    let op = crowd.invite_start(2);
    for confirmed in [0, 1, 1] {
        let news = news.clone();
        let before = crowd.count(2, T::GroupAck);
        crowd.with(2, |app, cx| app.handle_message(news, ConnectionId(9), cx));
        assert_eq!(crowd.count(2, T::GroupAck) - before, confirmed);
        for (at, key, connection, ticket) in crowd.held.take().unwrap_or_default() {
            crowd.confirm(at, key, connection, ticket);
            crowd.settle();
        }
    }
    assert_eq!(crowd.result(op), Ok(()));
    let known: Vec<usize> = crowd.others(2).iter().map(|(at, _)| *at).collect();
    assert_eq!(known, [0, 1, 3], "it is followed, once");
}

#[test]
fn a_goodbye_that_comes_late_does_not_take_out_who_has_come_again() {
    let mut crowd = Crowd::together(true);
    assert_eq!(crowd.close(3), Ok(()));
    let (_, goodbye) =
        crowd.sent.iter().rfind(|(at, m)| *at == 3 && kind(m) == T::LeaveRequest).unwrap();
    let goodbye = goodbye.clone();
    assert_eq!(crowd.invite(3), Ok(()));
    let before = crowd.count(0, T::LeaveReply);
    crowd.with(0, |app, cx| app.handle_message(goodbye, ConnectionId(9), cx));
    assert_eq!(crowd.count(0, T::LeaveReply), before + 1, "it is answered");
    crowd.run(5 * T);
    crowd.agree(&[0, 1, 2, 3], "it is in");
}

#[test]
fn best_effort_over_two_paths_is_given_out_once() {
    let mut crowd = Crowd::together(false);
    crowd.copies = Box::new(|_, _, message| if kind(message) == T::Msg { 2 } else { 1 });
    for text in ["1", "2", "3"] {
        crowd.publish(1, text);
    }
    crowd.publish_to(1, 2, "for you");
    assert_eq!(crowd.seen[2].messages, ["1", "2", "3", "for you"]);
    assert_eq!(crowd.seen[3].messages, ["1", "2", "3"]);
    // Whoever comes again begins anew.
    crowd.copies = all();
    assert_eq!((crowd.remove(1), crowd.invite(1)), (Ok(()), Ok(())));
    crowd.publish(1, "again");
    assert_eq!(crowd.seen[3].messages.last().unwrap(), "again");

    let mut pair = Pair::new();
    let (ours, _) = pair.open(false);
    pair.copies = Box::new(|_, message| if kind(message) == T::Msg { 2 } else { 1 });
    pair.publish(0, ours, "once");
    assert_eq!(pair.seen[1].messages, ["once"]);
}

#[test]
fn a_close_goes_on_when_the_last_that_was_waited_for_is_gone() {
    for leaves in [true, false] {
        let mut crowd = Crowd::together(true);
        crowd.copies = Box::new(|from, _, m| usize::from(from != 2 || kind(m) != T::MsgAck));
        let publish = crowd.publish(MODERATOR, "last words");
        let close = crowd.close_start(MODERATOR);
        assert!(!crowd.done.contains_key(&publish) && !crowd.done.contains_key(&close));
        let begun = crowd.now.mono - crowd.start.mono;
        if leaves {
            crowd.close_start(2);
        } else {
            let op = crowd.op();
            crowd.act(2, op, |session, cx| session.set_presence(true, Some(op), cx));
        }
        assert_eq!(crowd.done[&publish].1.is_ok(), leaves);
        let (ended, result) = crowd.done.get(&close).expect("no timer has to come first");
        assert_eq!((ended, result), (&begun, &Ok(())));
    }
}

/// A copy of a control message of the moderator, changed, under a number of its own.
fn changed(message: &Message, id: u32, act: impl FnOnce(&mut CommandPayloadType)) -> Message {
    let mut message = message.clone();
    let Some(MessageType::Publish(publish)) = &mut message.message_type else { panic!() };
    publish.session.as_mut().unwrap().message_id = id;
    let content = publish.msg.as_mut().unwrap().content_type.as_mut().unwrap();
    let ContentType::CommandPayload(CommandPayload { command_payload_type: Some(payload) }) =
        content
    else {
        panic!()
    };
    act(payload);
    sign_as(&mut message, "o/n/ann_0");
    message
}

fn silent(n: usize) -> crate::wire::Participant {
    let name = Name::new(["o", "n", "silent"], crate::name::NameId(n as u128));
    roster::describe(&name, Direction::Both, true)
}

#[test]
fn a_group_has_so_many_members_and_no_more() {
    let most = limits::MEMBERS;
    // As its moderator sees it.
    let mut crowd = Crowd::four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    let key = crowd.sessions[MODERATOR].unwrap();
    crowd.with(MODERATOR, |app, _| {
        let session = &mut app.sessions.get_mut(&app.by_number[&key.number]).unwrap().session;
        session.fill_for_tests(most - 2);
    });
    assert_eq!(crowd.invite(2), Ok(()), "at the limit");
    let result = crowd.invite(3);
    let Err(Error::Limit(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("o/n/dan") && text.contains(&most.to_string()), "{text}");

    // As the news of a moderator say it.
    let mut crowd = Crowd::together(true);
    let news = |(at, m): &&(usize, Message)| *at == 0 && kind(m) == T::GroupUpdate;
    let news = crowd.sent.iter().find(news).unwrap().1.clone();
    let tell = |crowd: &mut Crowd, n: usize| {
        let news = changed(&news, 5000 + n as u32, |payload| {
            let CommandPayloadType::GroupUpdate(update) = payload else { panic!() };
            update.participant = Some(silent(n));
        });
        let before = crowd.count(1, T::GroupAck);
        crowd.with(1, |app, cx| app.handle_message(news, ConnectionId(9), cx));
        (crowd.count(1, T::GroupAck) - before, crowd.seen[1].accepted.len())
    };
    for n in 3..most {
        assert_eq!(tell(&mut crowd, n).0, 1, "{n}");
    }
    assert_eq!(tell(&mut crowd, most).0, 0, "one more is not confirmed");
    let key = crowd.sessions[1].unwrap();
    assert_eq!(crowd.apps[1].participants(key).unwrap().len(), most);
    assert_eq!(tell(&mut crowd, most).0, 0, "nor when it is told again");

    // As a welcome says it.
    for (others, enters) in [(most, true), (most + 1, false)] {
        let mut crowd = Crowd::four(true);
        crowd.copies = Box::new(|_, _, message| usize::from(kind(message) != T::GroupWelcome));
        crowd.invite_start(1);
        let welcome = |(_, m): &&(usize, Message)| kind(m) == T::GroupWelcome;
        let welcome = crowd.sent.iter().find(welcome).unwrap().1.clone();
        let welcome = changed(&welcome, 5000, |payload| {
            let CommandPayloadType::GroupWelcome(welcome) = payload else { panic!() };
            // The moderator and the newcomer are there.
            welcome.participants.extend((1..others).map(silent));
            assert_eq!(welcome.participants.len(), others + 1);
        });
        crowd.with(1, |app, cx| app.handle_message(welcome, ConnectionId(9), cx));
        assert_eq!(crowd.seen[1].accepted.len(), usize::from(enters), "{others}");
    }
}

#[test]
fn what_waits_behind_the_gaps_of_all_senders_is_bounded() {
    let senders = limits::GAP_BYTES / limits::RECEIVER_BYTES + 1;
    let names: Vec<String> = (0..=senders).map(|n| format!("o/n/app{n}")).collect();
    let mut crowd = Crowd::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    crowd.open(true);
    for at in 1..=senders {
        assert_eq!(crowd.invite(at), Ok(()));
    }
    // The first message of each is lost for the moderator; its second takes all the room there is.
    crowd.copies = Box::new(|_, to, m| {
        let first = [T::Msg, T::RtxReply].contains(&kind(m)) && message_id(m) == 1;
        usize::from(to != 0 || !first)
    });
    for at in 1..=senders {
        crowd.publish(at, "first");
        let key = crowd.sessions[at].unwrap();
        // The text "msg" says what it is.
        let payload = Payload::new(vec![0; limits::RECEIVER_BYTES - 3], "", BTreeMap::new());
        let before = crowd.count(MODERATOR, T::MsgAck);
        crowd.with(at, |app, cx| app.publish(key, payload, None, cx));
        let taken = crowd.count(MODERATOR, T::MsgAck) - before;
        assert_eq!(taken, usize::from(at < senders), "{at} of {senders}");
    }
    crowd.copies = all();
    crowd.run(3 * T);
    let got = crowd.seen[MODERATOR].received.len();
    assert_eq!(got, 2 * senders, "what found no room comes again");
}

#[test]
fn only_who_should_have_a_message_may_ask_for_it() {
    let mut crowd = Crowd::four(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    crowd.copies = Box::new(|_, to, m| usize::from(to != 2 || kind(m) != T::Msg));
    crowd.publish(MODERATOR, "before it came");
    crowd.publish_to(MODERATOR, 2, "for one alone");
    crowd.copies = Box::new(|_, _, m| usize::from(kind(m) != T::Msg));
    crowd.invite_start(3);
    let sent = crowd.sent.iter().filter(|(at, m)| *at == 0 && kind(m) == T::Msg);
    let mut ids: Vec<u32> = sent.map(|(_, m)| message_id(m)).collect();
    ids.dedup();
    assert_eq!((ids.len(), ids[0]), (2, 1));
    let ask = |crowd: &mut Crowd, by: usize, id: u32| {
        let ack = |(_, m): &&(usize, Message)| kind(m) == T::MsgAck;
        let mut request = crowd.sent.iter().find(ack).unwrap().1.clone();
        header(&mut request).source = Some(crowd.names[by].to_wire());
        if let Some(MessageType::Publish(publish)) = &mut request.message_type {
            let session = publish.session.as_mut().unwrap();
            session.session_message_type = T::RtxRequest as i32;
            session.message_id = id;
        }
        crowd.with(MODERATOR, |app, cx| app.handle_message(request, ConnectionId(9), cx));
        let (_, answer) = crowd.sent.iter().rfind(|(_, m)| kind(m) == T::RtxReply).unwrap();
        text(answer)
    };
    assert_eq!(ask(&mut crowd, 2, ids[0]), "before it came");
    assert_eq!(ask(&mut crowd, 2, ids[1]), "for one alone");
    for by in [1, 3] {
        for id in &ids {
            assert_eq!(ask(&mut crowd, by, *id), "", "{by} asks for {id}");
        }
    }
}

#[test]
fn a_moderator_that_is_away_tells_what_was_missed() {
    let mut crowd = Crowd::four(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    crowd.copies = without(1);
    crowd.run(70 * T);
    assert_eq!(crowd.invite(3), Ok(()));
    assert_eq!(crowd.set_away(MODERATOR, true), Ok(()));
    assert!(!crowd.others(1).contains(&(3, true)));
    crowd.copies = all();
    crowd.run(3 * limits::HEARTBEAT);
    assert!(crowd.others(1).contains(&(3, true)), "{:?}", crowd.others(1));
    let op = crowd.publish(3, "to those who are here");
    assert_eq!(crowd.result(op), Ok(()));
    assert_eq!(crowd.seen[1].messages, ["to those who are here"]);
}

#[test]
fn whoever_is_invited_again_is_not_sent_away() {
    let mut crowd = Crowd::together(true);
    crowd.copies = without(3);
    assert!(crowd.remove(3).is_err(), "it cannot confirm it");
    crowd.copies = all();
    let (op, name) = (crowd.op(), crowd.names[3].clone());
    crowd.act(MODERATOR, op, |session, cx| session.invite(name, Some(op), cx));
    assert_eq!(crowd.result(op), Ok(()));
    crowd.run(25 * T);
    crowd.agree(&[0, 1, 2, 3], "again");
    crowd.talk(&[0, 1, 2, 3], "again");
}

#[test]
fn what_was_missed_does_not_undo_what_came_later() {
    let mut crowd = Crowd::together(true);
    // One does not hear that another leaves, is taken for gone, and is back when that one is, too.
    crowd.copies = without(3);
    assert_eq!(crowd.remove(2), Ok(()));
    assert_eq!(crowd.others(MODERATOR), [(1, true), (3, false)]);
    crowd.copies = all();
    let op = crowd.invite_start(2);
    assert_eq!(crowd.result(op), Ok(()));
    crowd.run(25 * T);
    crowd.agree(&[0, 1, 2, 3], "back");
    crowd.talk(&[0, 1, 2, 3], "back");
    // The same the other way round: one comes unheard, and has gone when it would be told.
    assert_eq!(crowd.remove(2), Ok(()));
    crowd.run(25 * T);
    crowd.copies = without(3);
    assert_eq!(crowd.invite(2), Ok(()));
    crowd.copies = all();
    assert_eq!(crowd.remove(2), Ok(()));
    crowd.run(25 * T);
    crowd.agree(&[0, 1, 3], "gone");
}

#[test]
fn what_was_missed_does_not_undo_what_was_told_before_it_was_caught_up() {
    let mut crowd = Crowd::together(true);
    crowd.copies = without(3);
    assert_eq!(crowd.remove(2), Ok(()));
    // While that one is invited again, whoever missed its removal is heard of: it is told of the
    // return first.
    crowd.copies = Box::new(|_, _, m| usize::from(kind(m) != T::DiscoveryReply));
    let op = crowd.invite_start(2);
    crowd.publish(3, "here");
    assert_eq!(crowd.others(MODERATOR), [(1, true), (3, true)]);
    crowd.copies = all();
    assert_eq!(crowd.result(op), Ok(()));
    crowd.run(5 * T);
    crowd.agree(&[0, 1, 2, 3], "back");
}

#[test]
fn a_welcome_that_comes_again_brings_nobody_back() {
    let mut crowd = Crowd::together(true);
    let welcome = |(_, m): &&(usize, Message)| kind(m) == T::GroupWelcome;
    let welcome = crowd.sent.iter().rfind(welcome).unwrap().1.clone();
    assert_eq!(destination(&welcome), crowd.names[3]);
    assert_eq!(crowd.remove(2), Ok(()));
    let before = crowd.count(3, T::GroupAck);
    crowd.with(3, |app, cx| app.handle_message(welcome, ConnectionId(9), cx));
    assert_eq!(crowd.count(3, T::GroupAck), before + 1, "it is confirmed again");
    crowd.agree(&[0, 1, 3], "and means nothing");
}

#[test]
fn whoever_is_being_removed_and_leaves_by_itself_is_not_waited_for() {
    let mut crowd = Crowd::together(true);
    crowd.copies =
        Box::new(|from, _, m| usize::from(from != MODERATOR || kind(m) != T::LeaveRequest));
    let op = crowd.remove_start(&crowd.names[3].clone());
    assert!(!crowd.done.contains_key(&op));
    crowd.close_start(3);
    assert_eq!(crowd.done.get(&op).map(|(_, result)| result), Some(&Ok(())));
}

#[test]
fn nothing_is_given_out_of_who_is_not_in_the_group() {
    for reliable in [true, false] {
        let mut crowd = Crowd::together(reliable);
        crowd.publish(3, "of a member");
        let of_dan = |(at, m): &&(usize, Message)| *at == 3 && kind(m) == T::Msg;
        let message = crowd.sent.iter().find(of_dan).unwrap().1.clone();
        assert_eq!(crowd.remove(3), Ok(()));
        let before = crowd.sent.len();
        for id in [1, 2, 3] {
            let mut message = message.clone();
            if let Some(MessageType::Publish(publish)) = &mut message.message_type {
                publish.session.as_mut().unwrap().message_id = id;
            }
            crowd.with(1, |app, cx| app.handle_message(message, ConnectionId(9), cx));
        }
        assert_eq!(crowd.seen[1].messages, ["of a member"], "reliable: {reliable}");
        assert_eq!(crowd.sent.len(), before, "nor acknowledged");
    }
}

#[test]
fn whoever_leaves_while_it_is_let_in_has_not_confirmed_its_welcome() {
    let mut crowd = Crowd::four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    crowd.held = Some(Vec::new());
    let op = crowd.invite_start(2);
    crowd.with(2, |app, cx| app.shut_down(cx));
    let result = crowd.result(op);
    assert!(matches!(result, Err(Error::NoRoute(_))), "{result:?}");
    crowd.held = None;
    crowd.run(25 * T);
    assert_eq!(crowd.others(MODERATOR), [(1, true)]);
    assert_eq!(crowd.others(1), [(0, true)]);
}

#[test]
fn the_end_of_a_group_is_confirmed_though_the_first_answer_is_lost() {
    let mut crowd = Crowd::together(true);
    crowd.copies = nth(T::GroupAck, 1, 0);
    assert_eq!(crowd.close(MODERATOR), Ok(()));
    crowd.run(25 * T);
    crowd.all_idle("the end");
}

#[test]
fn a_close_that_the_end_of_the_app_cuts_short_does_not_succeed() {
    let mut crowd = Crowd::together(true);
    crowd.copies = Box::new(|_, _, _| 0);
    let op = crowd.close_start(MODERATOR);
    crowd.with(MODERATOR, |app, cx| app.shut_down(cx));
    let result = crowd.result(op);
    assert!(matches!(result, Err(Error::Undelivered(_))), "{result:?}");
}

#[test]
fn nothing_is_said_after_the_end() {
    // Closing takes until the others would be missed, too.
    let mut crowd = Crowd::together(false);
    crowd.copies = without(1);
    crowd.run(38 * T);
    let op = crowd.close_start(1);
    assert!(crowd.result(op).is_err());
    let last = crowd.seen[1].events.last();
    assert!(matches!(last, Some(Event::Closed(_))), "{last:?}");
}

#[test]
fn what_was_acknowledged_is_given_out_before_the_news_that_its_sender_left() {
    let mut crowd = Crowd::together(true);
    crowd.copies = Box::new(|from, to, message| {
        let lost = from == 1 && to == MODERATOR && [T::Msg, T::RtxReply].contains(&kind(message));
        usize::from(!lost || !text(message).starts_with("first"))
    });
    crowd.publish(1, "first");
    crowd.publish(1, "second");
    crowd.with(1, |app, cx| app.shut_down(cx));
    let news: Vec<&String> =
        crowd.news.iter().filter(|(at, _)| *at == MODERATOR).map(|(_, news)| news).collect();
    let at = |what: &str| news.iter().position(|n| n.starts_with(what)).expect(what);
    assert!(at("second") < at("PeerLeft"), "{news:?}");
}

fn text(message: &Message) -> String {
    let Some(MessageType::Publish(publish)) = &message.message_type else { panic!() };
    match publish.msg.as_ref().and_then(|msg| msg.content_type.as_ref()) {
        Some(ContentType::AppPayload(payload)) => String::from_utf8_lossy(&payload.blob).into(),
        _ => String::new(),
    }
}
