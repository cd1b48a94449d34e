//! Two apps that hand each other their messages, one by one: any of them may be lost, doubled,
//! forged or late.

mod answers;
mod anycast;
mod bounds;
mod checklist;
mod clock;
mod defects;
mod encryption;
mod groups;

use super::app::{App, Output};
use super::*;
use crate::entropy::SeededEntropy;
use crate::identity::test_identity::{TestIdentity, TestVerifier};
use crate::identity::{Binding, Provider, SharedSecret, SharedSecretVerifier, Verifier};
use crate::wire::{Message, MessageType, SessionMessageType as T, SessionType};
use std::collections::VecDeque;
use std::time::Duration;

const T: Duration = Duration::from_millis(500);

fn config(reliable: bool) -> SessionConfig {
    let retry = Retry { interval: T, max_retries: 3 };
    SessionConfig { reliable: reliable.then_some(retry), ..SessionConfig::default() }
}

fn kind(message: &Message) -> T {
    match &message.message_type {
        Some(MessageType::Publish(publish)) => publish.session.unwrap().session_message_type(),
        other => panic!("{other:?}"),
    }
}

fn message_id(message: &Message) -> u32 {
    match &message.message_type {
        Some(MessageType::Publish(publish)) => publish.session.unwrap().message_id,
        other => panic!("{other:?}"),
    }
}

/// An identity that can be in an encrypted session.
fn real_identity(name: &str, seed: u64) -> (Box<dyn Provider>, Box<dyn Verifier>) {
    const SECRET: &str = "a secret of at least 32 characters";
    let provider = SharedSecret::new(name, SECRET, &mut SeededEntropy::new(seed)).unwrap();
    (Box::new(provider), Box::new(SharedSecretVerifier::new(SECRET).unwrap()))
}

/// What an encrypted session sends is an MLSMessage with a PrivateMessage.
fn check_sealed(message: &Message) {
    let Some(MessageType::Publish(publish)) = &message.message_type else { panic!() };
    let content = publish.msg.as_ref().and_then(|msg| msg.content_type.as_ref());
    if let (T::Msg | T::RtxReply, Some(ContentType::AppPayload(payload))) = (kind(message), content)
    {
        assert_eq!(payload.blob[..4], [0, 1, 0, 2], "in clear: {message:?}");
    }
}

/// What one side's application has seen.
#[derive(Default)]
struct Seen {
    messages: Vec<String>,
    received: Vec<ReceivedMessage>,
    events: Vec<Event>,
    accepted: Vec<SessionKey>,
    ended: Vec<String>,
    credit: (usize, usize),
    /// How often the keys have changed, as was last said.
    epoch: Option<u64>,
}

/// How often a message of this side is to be delivered.
type Copies = Box<dyn FnMut(usize, &Message) -> usize>;

struct Pair {
    apps: [App; 2],
    names: [Name; 2],
    seen: [Seen; 2],
    done: BTreeMap<OpId, (Duration, Result<(), Error>)>,
    wire: VecDeque<(usize, Message)>,
    /// Every message that was sent: from whom.
    sent: Vec<(usize, Message)>,
    /// Over which connection each of them was to go, and whether it comes again by itself.
    routes: Vec<(Option<ConnectionId>, bool)>,
    /// So many seconds is the clock of each ahead.
    ahead: [i64; 2],
    /// Whether it sends what versions before 3.4 send: payloads that are not signed.
    old: [bool; 2],
    copies: Copies,
    /// The sessions are encrypted.
    mls: Option<Mls>,
    entropy: SeededEntropy,
    start: Now,
    now: Now,
    ops: u64,
}

impl Pair {
    /// Two whose sessions are encrypted.
    fn sealed() -> Pair {
        let mut pair =
            Pair::with_identities(Binding::Enforce, |name| real_identity(name, name.len() as u64));
        pair.mls = Some(Mls::default());
        pair
    }

    fn new() -> Pair {
        Pair::with_binding(Binding::Enforce)
    }

    fn with_binding(binding: Binding) -> Pair {
        Pair::with_identities(binding, |name| {
            (Box::new(TestIdentity(format!("{name}_x"))), Box::new(TestVerifier))
        })
    }

    fn with_identities(
        binding: Binding,
        mut identity: impl FnMut(&str) -> (Box<dyn Provider>, Box<dyn Verifier>),
    ) -> Pair {
        let start = Now { mono: Instant::now(), unix: Duration::from_secs(1_800_000_000) };
        let mut app = |at: u64, name: &str| {
            let (provider, verifier) = identity(name);
            let parsed = Name::parse(name).unwrap();
            let mut app = App::new(
                AppId(at),
                &parsed,
                &crate::protocol_version(),
                provider,
                verifier,
                binding,
            );
            app.set_virtual_time();
            app
        };
        let apps = [app(0, "o/n/alice"), app(1, "o/n/bob")];
        let names = [apps[0].name().clone(), apps[1].name().clone()];
        Pair {
            apps,
            names,
            seen: Default::default(),
            done: BTreeMap::new(),
            wire: VecDeque::new(),
            sent: Vec::new(),
            routes: Vec::new(),
            ahead: [0; 2],
            old: [false; 2],
            copies: Box::new(|_, _| 1),
            mls: None,
            entropy: SeededEntropy::new(1),
            start,
            now: start,
            ops: 0,
        }
    }

    fn op(&mut self) -> OpId {
        self.ops += 1;
        OpId(self.ops)
    }

    /// The time as one side sees it.
    fn now(&self, at: usize) -> Now {
        let unix = self.now.unix.as_secs().saturating_add_signed(self.ahead[at]);
        Now { unix: Duration::from_secs(unix), ..self.now }
    }

    fn with<R>(&mut self, at: usize, act: impl FnOnce(&mut App, &mut Context<'_>) -> R) -> R {
        let mut cx = Context { now: self.now(at), entropy: &mut self.entropy };
        let result = act(&mut self.apps[at], &mut cx);
        self.settle();
        result
    }

    fn settle(&mut self) {
        loop {
            for at in 0..2 {
                while let Some(output) = self.apps[at].poll_output() {
                    self.on_output(at, output);
                }
            }
            let Some((to, message)) = self.wire.pop_front() else { return };
            let mut cx = Context { now: self.now(to), entropy: &mut self.entropy };
            self.apps[to].handle_message(message, ConnectionId(9), &mut cx);
        }
    }

    fn on_output(&mut self, at: usize, output: Output) {
        let now = self.now(at);
        let seen = &mut self.seen[at];
        match output {
            Output::Send { mut message, about, route } => {
                let mut cx = Context { now, entropy: &mut self.entropy };
                self.apps[at].finish(&mut message, &about, &mut cx).unwrap();
                if self.mls.is_some() {
                    check_sealed(&message);
                }
                if self.old[at] {
                    message.metadata.remove(crate::identity::PAYLOAD_SIGNATURE_KEY);
                }
                let over = match route {
                    Route::Over(connection) => Some(connection),
                    Route::Any | Route::Towards(_) | Route::Channel(_) => None,
                };
                self.routes.push((over, about.comes_again));
                for _ in 0..(self.copies)(at, &message) {
                    self.wire.push_back((1 - at, (*message).clone()));
                }
                self.sent.push((at, *message));
            }
            Output::Done(op, result) => {
                let time = self.now.mono - self.start.mono;
                assert!(self.done.insert(op, (time, result)).is_none(), "{op:?} ended twice");
            }
            Output::NewSession(key, _) => seen.accepted.push(key),
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
            Output::Ended(_, reason) => seen.ended.push(reason),
            Output::Join { .. } | Output::Leave { .. } => panic!("a pair is no group"),
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now.mono + time;
        loop {
            let next = self.apps.iter().filter_map(App::poll_timeout).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.after(next.saturating_duration_since(self.now.mono));
            for at in 0..2 {
                self.with(at, |app, cx| app.handle_timeout(cx));
            }
        }
        self.now = self.now.after(end.saturating_duration_since(self.now.mono));
    }

    /// Alice opens a session to Bob, and time goes on until it is open.
    fn open(&mut self, reliable: bool) -> (SessionKey, SessionKey) {
        let (op, to) = (self.op(), Name::parse("o/n/bob").unwrap());
        let config = SessionConfig { mls: self.mls, ..config(reliable) };
        let ours = self.with(0, |app, cx| app.open(config, &to, op, cx)).unwrap();
        self.with(0, |app, _| app.set_events(ours, true));
        self.run(5 * T);
        assert_eq!(self.done[&op].1, Ok(()));
        let theirs = *self.seen[1].accepted.last().expect("accepted");
        self.with(1, |app, _| app.set_events(theirs, true));
        (ours, theirs)
    }

    fn publish(&mut self, at: usize, session: SessionKey, text: &str) -> OpId {
        let op = self.op();
        let payload = Payload::new(text.as_bytes().to_vec(), "", BTreeMap::new());
        self.with(at, |app, cx| app.publish(session, payload, Some(op), cx));
        op
    }

    fn close(&mut self, at: usize, session: SessionKey) -> OpId {
        let op = self.op();
        self.with(at, |app, cx| app.close(session, Some(op), cx));
        op
    }

    fn count(&self, from: usize, wanted: T) -> usize {
        self.sent.iter().filter(|(at, message)| *at == from && kind(message) == wanted).count()
    }
}

/// The first message of a kind is treated in this way, the others pass.
fn first(wanted: T, copies: usize) -> Copies {
    let mut seen = false;
    // Without a gap nobody asks for anything.
    let mut gap = matches!(wanted, T::RtxRequest | T::RtxReply);
    Box::new(move |_, message| {
        if kind(message) == T::Msg && message_id(message) == 3 && std::mem::take(&mut gap) {
            return 0;
        }
        if kind(message) != wanted || std::mem::replace(&mut seen, true) {
            return 1;
        }
        copies
    })
}

const ALL: [T; 13] = [
    T::DiscoveryRequest,
    T::DiscoveryReply,
    T::JoinRequest,
    T::JoinReply,
    T::GroupWelcome,
    T::GroupAck,
    T::Msg,
    T::MsgAck,
    T::RtxRequest,
    T::RtxReply,
    T::GroupClose,
    T::LeaveRequest,
    T::LeaveReply,
];

/// A whole conversation, closed by this side.
fn conversation(copies: Copies, closer: usize, what: &str) -> Pair {
    conversation_of(Pair::new(), copies, closer, what)
}

/// Gives what is left of it, with all that was sent.
fn conversation_of(mut pair: Pair, copies: Copies, closer: usize, what: &str) -> Pair {
    pair.copies = copies;
    let sessions = pair.open(true);
    let sessions = [sessions.0, sessions.1];
    let mut ops = Vec::new();
    for n in 0..5 {
        ops.push(pair.publish(0, sessions[0], &format!("a{n}")));
        ops.push(pair.publish(1, sessions[1], &format!("b{n}")));
    }
    pair.run(6 * T);
    for op in ops {
        assert_eq!(pair.done[&op].1, Ok(()), "{what}");
    }
    assert_eq!(pair.seen[1].messages, ["a0", "a1", "a2", "a3", "a4"], "{what}");
    assert_eq!(pair.seen[0].messages, ["b0", "b1", "b2", "b3", "b4"], "{what}");
    assert_eq!((pair.seen[0].credit, pair.seen[1].credit), ((5, 10), (5, 10)), "{what}");
    let op = pair.close(closer, sessions[closer]);
    pair.run(5 * T);
    assert_eq!(pair.done[&op].1, Ok(()), "{what}");
    assert_eq!((pair.seen[0].ended.len(), pair.seen[1].ended.len()), (1, 1), "{what}");
    assert!(pair.apps.iter().all(App::is_idle), "{what}");
    pair
}

/// Conversations in which something befalls a message of each kind. Of each there is one.
fn each_kind(conversation: impl Fn(T, usize) -> Pair) {
    for wanted in ALL {
        let pairs = [0, 1].map(|closer| conversation(wanted, closer));
        let sent = |pair: &Pair| pair.count(0, wanted) + pair.count(1, wanted);
        assert!(pairs.iter().map(sent).sum::<usize>() > 0, "no {wanted:?}");
    }
}

#[test]
fn the_loss_of_any_one_message_is_repaired() {
    each_kind(|lost, closer| {
        conversation(first(lost, 0), closer, &format!("{lost:?} lost, closed by {closer}"))
    });
}

#[test]
fn a_doubled_message_of_any_kind_breaks_nothing() {
    each_kind(|doubled, closer| {
        conversation(first(doubled, 2), closer, &format!("{doubled:?} twice, closed by {closer}"))
    });
    conversation(Box::new(|_, _| 2), 0, "everything twice");
}

#[test]
fn every_third_message_lost_still_delivers_all_in_order() {
    for phase in 0..3 {
        let mut pair = Pair::new();
        let (ours, _) = pair.open(true);
        let mut n = phase;
        pair.copies = Box::new(move |_, message| {
            n += 1;
            usize::from(kind(message).is_control() || n % 3 != 0)
        });
        let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let ops: Vec<OpId> = texts.iter().map(|text| pair.publish(0, ours, text)).collect();
        pair.run(10 * T);
        assert_eq!(pair.seen[1].messages, texts);
        // A publish may be given up when it was unlucky, but never be called delivered wrongly.
        for op in ops {
            assert!(matches!(pair.done[&op].1, Ok(()) | Err(Error::Undelivered(_))));
        }
    }
}

#[test]
fn a_gap_is_asked_for_at_once_and_delivered_in_order() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.copies = Box::new({
        let mut lost = false;
        move |_, message| {
            let second = kind(message) == T::Msg && message_id(message) == 2;
            usize::from(!second || std::mem::replace(&mut lost, true))
        }
    });
    for n in 1..=4 {
        pair.publish(0, ours, &n.to_string());
    }
    assert_eq!(pair.seen[1].messages, ["1", "2", "3", "4"], "no time has passed");
    assert_eq!((pair.count(1, T::RtxRequest), pair.count(0, T::RtxReply)), (1, 1));
}

#[test]
fn numbers_count_from_1_and_acks_repeat_them() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    for n in 1..=3 {
        pair.publish(0, ours, &n.to_string());
    }
    let ids = |from: usize, wanted: T| -> Vec<u32> {
        let these = pair.sent.iter().filter(|(at, m)| *at == from && kind(m) == wanted);
        these.map(|(_, message)| message_id(message)).collect()
    };
    assert_eq!((ids(0, T::Msg), ids(1, T::MsgAck)), (vec![1, 2, 3], vec![1, 2, 3]));
    let discovery = ids(0, T::DiscoveryRequest);
    assert_eq!(ids(1, T::DiscoveryReply), discovery, "a reply has the request's number");
    assert_eq!(ids(1, T::JoinReply), ids(0, T::JoinRequest));
    assert_eq!(ids(1, T::GroupAck), ids(0, T::GroupWelcome));
}

#[test]
fn retransmissions_go_every_interval_and_end_in_time() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    let begun = pair.now.mono - pair.start.mono;
    pair.copies = Box::new(|at, _| usize::from(at == 1));
    let op = pair.publish(0, ours, "into the void");
    pair.run(10 * T);
    let (ended, result) = &pair.done[&op];
    assert!(matches!(result, Err(Error::Undelivered(text)) if text.contains("o/n/bob/")));
    assert_eq!(*ended - begun, 4 * T);
    assert_eq!(pair.count(0, T::Msg), 4);
    assert!(matches!(pair.seen[0].events[..], [Event::PeerOffline(_)]));
}

#[test]
fn best_effort_sends_no_acks_and_asks_for_nothing() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(false);
    pair.copies = first(T::Msg, 0);
    for n in 1..=3 {
        let op = pair.publish(0, ours, &n.to_string());
        assert_eq!(pair.done[&op].1, Ok(()));
    }
    pair.run(5 * T);
    assert_eq!(pair.seen[1].messages, ["2", "3"]);
    assert_eq!((pair.count(1, T::MsgAck), pair.count(1, T::RtxRequest)), (0, 0));
}

#[test]
fn a_repeated_discovery_is_answered_only_while_the_answer_may_be_lost() {
    let mut pair = Pair::new();
    pair.copies = Box::new(|at, _| usize::from(at == 0)); // Bob's answers are lost
    let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
    pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
    let request = pair.sent[0].1.clone();
    assert_eq!(pair.count(1, T::DiscoveryReply), 1);
    let repeat = |pair: &mut Pair| {
        let request = request.clone();
        pair.with(1, |app, cx| app.handle_message(request, ConnectionId(9), cx));
    };
    repeat(&mut pair);
    assert_eq!(pair.count(1, T::DiscoveryReply), 1, "at once: no");
    pair.now = pair.now.after(Duration::from_millis(250));
    repeat(&mut pair);
    assert_eq!(pair.count(1, T::DiscoveryReply), 2, "after a while: yes");
    pair.copies = Box::new(|_, _| 1);
    pair.run(2 * T);
    assert_eq!(pair.done[&op].1, Ok(()));
    let before = pair.count(1, T::DiscoveryReply);
    pair.now = pair.now.after(Duration::from_secs(1));
    repeat(&mut pair);
    assert_eq!(pair.count(1, T::DiscoveryReply), before, "after the join: never");
}

#[test]
fn a_repeated_join_is_answered_until_the_welcome() {
    let mut pair = Pair::new();
    pair.open(true);
    let join = |(_, message): &&(usize, Message)| kind(message) == T::JoinRequest;
    let request = pair.sent.iter().find(join).unwrap().1.clone();
    let before = pair.count(1, T::JoinReply);
    pair.with(1, |app, cx| app.handle_message(request, ConnectionId(9), cx));
    assert_eq!(pair.count(1, T::JoinReply), before);
}

#[test]
fn an_invitation_that_no_welcome_follows_is_forgotten() {
    let mut pair = Pair::new();
    pair.copies = Box::new(|_, message| usize::from(kind(message) != T::GroupWelcome));
    let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
    pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
    pair.run(30 * T);
    let text = pair.done[&op].1.clone().unwrap_err().to_string();
    assert!(text.contains("no answer to the welcome"), "{text}");
    assert!(pair.apps.iter().all(App::is_idle));
    assert!(pair.seen[1].accepted.is_empty());
}

/// Changes a message of ours in a way that a forger could, and sees whether it is answered.
fn forged(change: impl Fn(&mut Message) + 'static, of: T) -> bool {
    let mut pair = Pair::new();
    let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
    pair.copies = Box::new(|_, _| 0);
    pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
    pair.copies = Box::new(|_, _| 1);
    if of != T::DiscoveryRequest {
        pair.run(2 * T);
    }
    let before = pair.sent.len();
    let mut message = pair.sent.iter().find(|(_, message)| kind(message) == of).unwrap().1.clone();
    if let Some(MessageType::Publish(publish)) = &mut message.message_type {
        // Another session, so that it is not taken for a repetition.
        publish.session.as_mut().unwrap().session_id ^= 1;
    }
    sign_as(&mut message, "o/n/alice_x");
    change(&mut message);
    pair.with(1, |app, cx| app.handle_message(message, ConnectionId(9), cx));
    pair.sent.len() > before
}

fn sign_as(message: &mut Message, subject: &str) {
    let identity = TestIdentity(subject.to_owned());
    message.metadata.remove(crate::identity::PAYLOAD_SIGNATURE_KEY);
    crate::identity::sign_control(message, &identity).unwrap();
}

fn header(message: &mut Message) -> &mut crate::wire::SlimHeader {
    match &mut message.message_type {
        Some(MessageType::Publish(publish)) => publish.header.as_mut().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn forged_requests_get_no_answer() {
    for of in [T::DiscoveryRequest, T::JoinRequest] {
        assert!(forged(|_| {}, of), "{of:?} as it should be");
        assert!(!forged(|m| header(m).e2e_header_sig = None, of), "{of:?} not signed");
        assert!(!forged(|m| header(m).e2e_header_sig = Some(vec![1; 16]), of), "{of:?} wrong");
        assert!(!forged(|m| header(m).identity = "nonsense".into(), of), "{of:?} token");
        let tamper = |m: &mut Message| {
            m.metadata.insert("x".to_owned(), "y".to_owned());
        };
        assert!(!forged(tamper, of), "{of:?} metadata");
        let unsigned = |m: &mut Message| {
            m.metadata.remove(crate::identity::PAYLOAD_SIGNATURE_KEY);
        };
        assert!(!forged(unsigned, of), "{of:?} payload not signed, enforced");
        let stranger = |m: &mut Message| {
            header(m).identity = "test:o/n/mallory_x:1800000000".to_owned();
            sign_as(m, "o/n/mallory_x");
        };
        assert!(!forged(stranger, of), "{of:?} from a name that is not the signer's");
        let elsewhere = |m: &mut Message| {
            header(m).destination = Some(Name::parse("o/n/carol").unwrap().to_wire());
            sign_as(m, "o/n/alice_x");
        };
        assert!(!forged(elsewhere, of), "{of:?} to another name");
    }
}

/// A session with somebody whose payloads are not signed, and the warnings about that.
fn with_a_peer_of_old(binding: Binding, name: &str) -> (Result<(), Error>, Vec<String>) {
    let mut result = Ok(());
    let mut lines = crate::logging::tests::warnings(|| {
        let mut pair = Pair::with_binding(binding);
        pair.old = [true, false];
        let identity = TestIdentity(format!("{name}_x"));
        let parsed = Name::parse(name).unwrap();
        let verifier = Box::new(TestVerifier);
        pair.apps[0] = App::new(AppId(0), &parsed, "3.3.1", Box::new(identity), verifier, binding);
        let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
        let ours = pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
        pair.run(10 * T);
        result = pair.done[&op].1.clone();
        if result.is_ok() {
            let publish = pair.publish(0, ours, "hello");
            pair.run(Duration::from_secs(60));
            let close = pair.close(0, ours);
            assert_eq!((&pair.done[&publish].1, &pair.done[&close].1), (&Ok(()), &Ok(())));
            assert_eq!(pair.seen[1].messages, ["hello"]);
            assert!(pair.seen[1].events.is_empty());
        }
    });
    lines.retain(|line| line.contains(name));
    (result, lines)
}

#[test]
fn spec04_8_an_unsigned_payload_is_refused_only_when_enforced_and_warned_about_once() {
    // Versions before 3.4 never sign it (DESIGN decision 9).
    let (result, lines) = with_a_peer_of_old(Binding::Off, "o/n/old-off");
    assert_eq!((result, lines), (Ok(()), vec![]));
    for (binding, name) in [(Binding::Warn, "o/n/old-warn"), (Binding::Default, "o/n/old-unset")] {
        let (result, lines) = with_a_peer_of_old(binding, name);
        assert_eq!(result, Ok(()), "{binding:?}");
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.contains("the payload is not signed"), "{line}");
    }
    let (result, lines) = with_a_peer_of_old(Binding::Enforce, "o/n/old-enforce");
    assert!(matches!(result, Err(Error::NoRoute(_))));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.contains("was dropped") && line.contains("not signed"), "{line}");
}

#[test]
fn strangers_cannot_touch_a_session() {
    let mut pair = Pair::new();
    let (_, _) = pair.open(true);
    let id = match &pair.sent[0].1.message_type {
        Some(MessageType::Publish(publish)) => publish.session.unwrap().session_id,
        other => panic!("{other:?}"),
    };
    let identity = TestIdentity("o/n/mallory_x".to_owned());
    let parsed = Name::parse("o/n/mallory").unwrap();
    let mallory = App::new(
        AppId(2),
        &parsed,
        "3.4.6",
        Box::new(identity),
        Box::new(TestVerifier),
        Binding::Enforce,
    );
    let from = mallory.name().to_wire();
    let to = pair.names[1].to_wire();
    for kind in [T::GroupClose, T::LeaveRequest, T::GroupWelcome, T::JoinRequest, T::Msg] {
        let template = pair.sent.iter().find(|(_, m)| super::tests::kind(m) == T::GroupWelcome);
        let mut message = template.unwrap().1.clone();
        if let Some(MessageType::Publish(publish)) = &mut message.message_type {
            let session = publish.session.as_mut().unwrap();
            session.session_message_type = kind as i32;
            session.session_id = id;
            session.session_type = SessionType::PointToPoint as i32;
        }
        header(&mut message).source = Some(from.clone());
        header(&mut message).destination = Some(to.clone());
        header(&mut message).identity = "test:o/n/mallory_x:1800000000".to_owned();
        sign_as(&mut message, "o/n/mallory_x");
        let before = pair.sent.len();
        pair.with(1, |app, cx| app.handle_message(message, ConnectionId(9), cx));
        assert_eq!(pair.sent.len(), before, "{kind:?} was answered");
    }
    assert!(pair.seen[1].ended.is_empty() && pair.seen[1].messages.is_empty());
}

#[test]
fn a_welcome_to_two_brings_no_third_party() {
    let mut pair = Pair::new();
    let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
    pair.copies = Box::new(|_, message| usize::from(kind(message) != T::GroupWelcome));
    pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
    let (_, mut welcome) =
        pair.sent.iter().find(|(_, m)| kind(m) == T::GroupWelcome).unwrap().clone();
    if let Some(MessageType::Publish(publish)) = &mut welcome.message_type {
        let Some(ContentType::CommandPayload(CommandPayload {
            command_payload_type: Some(CommandPayloadType::GroupWelcome(payload)),
        })) = &mut publish.msg.as_mut().unwrap().content_type
        else {
            panic!("a welcome")
        };
        // Its name sorts before the moderator's: data went to the first.
        for n in 0..20 {
            let name = Name::new(["o", "n", "carol"], crate::name::NameId(n)).to_wire();
            let mut member = payload.participants[0].clone();
            member.name = Some(name);
            payload.participants.push(member);
        }
    }
    sign_as(&mut welcome, "o/n/alice_x");
    pair.copies = Box::new(|_, _| 1);
    pair.with(1, |app, cx| app.handle_message(welcome, ConnectionId(9), cx));
    let theirs = pair.seen[1].accepted[0];
    let publish = pair.publish(1, theirs, "for alice alone");
    pair.run(Duration::from_secs(25));
    assert_eq!(pair.done[&publish].1, Ok(()));
    let alice = pair.names[0].clone();
    for (_, message) in pair.sent.iter_mut().filter(|(from, _)| *from == 1) {
        let to = header(message).destination.as_ref().and_then(Name::from_wire);
        assert_eq!(to.as_ref(), Some(&alice), "{:?}", kind(message));
    }
}

#[test]
fn closing_waits_for_what_is_unacknowledged_and_is_bounded() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    let mut lost = 2;
    pair.copies = Box::new(move |_, message| {
        if kind(message) == T::Msg && lost > 0 {
            lost -= 1;
            return 0;
        }
        1
    });
    let publish = pair.publish(0, ours, "important");
    let close = pair.close(0, ours);
    assert!(!pair.done.contains_key(&close));
    pair.run(4 * T);
    assert_eq!((&pair.done[&publish].1, &pair.done[&close].1), (&Ok(()), &Ok(())));
    assert_eq!(pair.seen[1].messages, ["important"]);

    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.copies = Box::new(|_, _| 0);
    let publish = pair.publish(0, ours, "important");
    let close = pair.close(0, ours);
    pair.run(10 * T);
    assert!(matches!(pair.done[&publish].1, Err(Error::Undelivered(_))));
    assert!(matches!(pair.done[&close].1, Err(Error::Undelivered(_))));
    assert!(pair.apps[0].is_idle());
}

#[test]
fn closing_towards_a_dead_peer_is_repeated_and_ends_unconfirmed_in_time() {
    for (closer, goodbye) in [(0, T::GroupClose), (1, T::LeaveRequest)] {
        let mut pair = Pair::new();
        let sessions = pair.open(true);
        pair.copies = Box::new(|_, _| 0);
        pair.run(Duration::from_secs(40));
        assert!(matches!(pair.seen[closer].events[..], [Event::PeerOffline(_)]));
        let begun = pair.now.mono - pair.start.mono;
        let close = pair.close(closer, [sessions.0, sessions.1][closer]);
        pair.run(10 * T);
        let (ended, result) = &pair.done[&close];
        let peer = pair.names[1 - closer].to_string();
        assert!(matches!(result, Err(Error::Undelivered(text)) if text.contains(&peer)));
        assert_eq!((*ended - begun, pair.count(closer, goodbye)), (4 * T, 4), "{goodbye:?}");
        assert!(pair.apps[closer].is_idle());
    }
}

#[test]
fn a_peer_that_was_wrongly_thought_gone_confirms_the_close() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.copies = Box::new(|_, message| usize::from(kind(message) != T::MsgAck));
    pair.publish(0, ours, "not acknowledged");
    pair.run(5 * T);
    assert!(matches!(pair.seen[0].events[..], [Event::PeerOffline(_)]));
    let close = pair.close(0, ours);
    assert_eq!((&pair.done[&close].1, pair.count(0, T::GroupClose)), (&Ok(()), 1));
}

#[test]
fn closing_during_the_handshake_answers_everything() {
    for stage in [T::DiscoveryReply, T::JoinReply, T::GroupAck] {
        let mut pair = Pair::new();
        pair.copies = Box::new(move |_, message| usize::from(kind(message) != stage));
        let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
        let ours = pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
        let publish = pair.publish(0, ours, "early");
        let close = pair.close(0, ours);
        pair.run(60 * T);
        assert!(matches!(pair.done[&op].1, Err(Error::Closed(_))), "{stage:?}");
        assert!(pair.done[&publish].1.is_err(), "{stage:?}");
        assert!(pair.done.contains_key(&close), "{stage:?}");
        assert!(pair.apps[0].is_idle(), "{stage:?}");
    }
}

#[test]
fn both_sides_close_at_once() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(true);
    let a = pair.op();
    let b = pair.op();
    let mut cx = Context { now: pair.now, entropy: &mut pair.entropy };
    pair.apps[0].close(ours, Some(a), &mut cx);
    pair.apps[1].close(theirs, Some(b), &mut cx);
    pair.settle();
    pair.run(20 * T);
    assert_eq!((&pair.done[&a].1, &pair.done[&b].1), (&Ok(()), &Ok(())));
    assert!(pair.apps.iter().all(App::is_idle));
}

#[test]
fn heartbeats_go_every_ten_seconds_unless_something_else_was_said() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.run(Duration::from_secs(100));
    // The opener has spoken in its first ten seconds: it has invited.
    assert_eq!((pair.count(0, T::Heartbeat), pair.count(1, T::Heartbeat)), (9, 10));
    let before = pair.count(0, T::Heartbeat);
    for n in 0..20 {
        pair.publish(0, ours, &n.to_string());
        pair.run(Duration::from_secs(5));
    }
    assert_eq!(pair.count(0, T::Heartbeat), before, "data is a sign of life");
}
