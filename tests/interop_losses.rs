//! Somebody on the link between a wheel and our node loses a message, or doubles it: each of the
//! handshake, of the data and of the end in its turn, whoever opened the session. It all comes to its
//! end as if nothing had been, but for what a wheel does not answer twice.

#[path = "interop/proxy.rs"]
mod proxy;
#[path = "interop/support.rs"]
mod support;
#[path = "world/tap.rs"]
#[allow(dead_code)]
mod tap;

use std::thread;
use std::time::Duration;

use proxy::Way::{FromWheel, ToWheel};
use proxy::{Fault, Proxy, Way};
use slim::api::{Event, Kind, Mls, Retry, Session, SessionOptions};
use slim::error::Error;
use slim::wire::SessionMessageType::{self as Type, *};
use support::Who::Ours;
use support::{app, identity, is_over, next_message, say, sees, wheel, Node, Process, PATIENCE};

const WAIT: Option<Duration> = Some(PATIENCE);
/// Milliseconds between two tries, and how often. A discovery that is repeated sooner than after
/// 250 ms is not answered, so a slow machine has 480 ms until defect 3 shows.
const RETRY: (u32, u32) = (240, 7);

fn options(kind: Kind, mls: bool) -> SessionOptions {
    let interval = Duration::from_millis(RETRY.0.into());
    let retry = Retry { interval, max_retries: RETRY.1 };
    let mls = mls.then(Mls::default);
    SessionOptions { kind, reliable: Some(retry), mls, ..SessionOptions::default() }
}

/// A node, and a wheel on a link to it, with somebody on the way.
fn start(role: &str, mls: bool, arguments: &[&str]) -> (Node, Proxy, Process) {
    let node = Node::start(Ours, "enforce");
    let proxy = Proxy::start(node.port);
    let mut command = wheel(role);
    command.args(["--local", "org/ns/wheel", "--slim", &proxy.endpoint(), "--seconds", "300"]);
    command.args(["--interval-ms", &RETRY.0.to_string(), "--retries", &RETRY.1.to_string()]);
    command.args(arguments).args(mls.then_some("--mls"));
    command.env("SLIM_IDENTITY_BINDING", "enforce");
    let wheel = Process::start_listening("wheel", &mut command);
    wheel.wait_for("ready", |line| line.contains("ready"));
    (node, proxy, wheel)
}

/// Each of the first so many messages of each kind is lost, and doubled.
fn faults(kinds: &[(Way, Type, usize)]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (way, kind, count) in kinds.iter().copied() {
        for nth in 1..=count {
            faults.extend([0, 2].map(|copies| Fault { way, kind, nth, copies }));
        }
    }
    faults
}

/// Without MLS a published moderator does not survive a second DISCOVERY_REPLY (defect 3), nor a
/// second LEAVE_REPLY (defect 2), which it also gets when its own request is doubled.
fn survivable(fault: &Fault, mls: bool) -> bool {
    let deadly = [(ToWheel, DiscoveryReply), (ToWheel, LeaveReply), (FromWheel, LeaveRequest)];
    mls || fault.copies == 0 || !deadly.contains(&(fault.way, fault.kind))
}

fn hears(session: &Session, text: &str) {
    assert_eq!(String::from_utf8_lossy(&next_message(session).payload), text);
}

fn waits_for(wheel: &Process, before: usize, part: &str) {
    wheel.wait_after(before, part, |lines| {
        lines.iter().any(|line| line.contains(part)).then_some(())
    });
}

/// How an end that its peer has to confirm went: without that only where it could not.
fn check_end(result: Result<(), Error>, unconfirmed: bool, fault: &Fault) {
    assert_eq!(matches!(result, Err(Error::Undelivered(_))), unconfirmed, "{fault:?}");
    assert!(result.is_ok() || unconfirmed, "{fault:?}: {result:?}");
}

/// The wheel in a group heard Ann and Bob, once each and in this order.
fn heard_both(wheel: &Process, before: usize, fault: &Fault) {
    let said = wheel.wait_after(before, "two messages", |lines| {
        let said: Vec<String> = lines.iter().filter(|line| line.contains(" > ")).cloned().collect();
        (said.len() >= 2).then_some(said)
    });
    assert_eq!(said, ["org/ns/ann > from ann", "org/ns/bob > from bob"], "{fault:?}");
}

fn calls_a_wheel(mls: bool) {
    let (node, proxy, wheel) = start("echo", mls, &["--reply"]);
    let (_here, ann) = app("org/ns/ann", &node, Box::new(identity("org/ns/ann")));
    for fault in faults(&[
        (ToWheel, DiscoveryRequest, 1),
        (FromWheel, DiscoveryReply, 1),
        (ToWheel, JoinRequest, 1),
        (FromWheel, JoinReply, 1),
        (ToWheel, GroupWelcome, 1),
        (FromWheel, GroupAck, 2),
        (ToWheel, Msg, 2),
        (FromWheel, MsgAck, 2),
        (FromWheel, Msg, 2),
        (ToWheel, MsgAck, 2),
        (ToWheel, GroupClose, 1),
    ]) {
        let before = wheel.len();
        proxy.inject(fault);
        let session = ann.open(&options(Kind::PointToPoint, mls), "org/ns/wheel", WAIT);
        if fault.loses(JoinReply, 1) || mls && fault.loses(GroupAck, 1) {
            // It takes who asks again for a replay (defect 6).
            assert!(matches!(session, Err(Error::NoRoute(_))), "{fault:?}: it opened");
            proxy.expect_fault();
            continue;
        }
        let session = session.unwrap();
        for text in ["one", "two"] {
            say(&session, text).unwrap();
            hears(&session, &format!("{text} from upstream"));
        }
        // It has left, and knows nothing of the session any more.
        check_end(session.close(WAIT), fault.loses(GroupAck, 2), &fault);
        waits_for(&wheel, before, "session-end");
        let said = wheel.lines()[before..].join("\n");
        assert_eq!(said.matches("\"message\"").count(), 2, "{fault:?}: {said}");
        proxy.expect_fault();
    }
}

fn is_called_by_a_wheel(mls: bool) {
    let arguments = ["--remote", "org/ns/bob", "--lines", "--count", "2", "--wait-ack", "--reply"];
    let (node, proxy, mut wheel) = start("send", mls, &arguments);
    let (_here, bob) = app("org/ns/bob", &node, Box::new(identity("org/ns/bob")));
    let faults = faults(&[
        (FromWheel, DiscoveryRequest, 1),
        (ToWheel, DiscoveryReply, 1),
        (FromWheel, JoinRequest, 1),
        (ToWheel, JoinReply, 1),
        (FromWheel, GroupWelcome, 1),
        (ToWheel, GroupAck, 2),
        (FromWheel, Msg, 2),
        (ToWheel, MsgAck, 2),
        (ToWheel, Msg, 2),
        // Whose second is not waited for: the session may be over before it is repeated.
        (FromWheel, MsgAck, 1),
        (FromWheel, GroupClose, 1),
    ]);
    for fault in faults.into_iter().filter(|fault| survivable(fault, mls)) {
        let before = wheel.len();
        proxy.inject(fault);
        wheel.tell("");
        let session = bob.accept(true, WAIT).unwrap();
        for text in ["one", "two"] {
            hears(&session, "hello");
            say(&session, text).unwrap();
        }
        is_over(&session);
        waits_for(&wheel, before, "\"closed\"");
        let said = wheel.lines()[before..].join("\n");
        assert_eq!(said.matches("\"reply\"").count(), 2, "{fault:?}: {said}");
        proxy.expect_fault();
    }
}

fn invites_a_wheel(mls: bool) {
    let (node, proxy, mut wheel) = start("member", mls, &[]);
    let (_a, ann) = app("org/ns/ann", &node, Box::new(identity("org/ns/ann")));
    let (_b, bob) = app("org/ns/bob", &node, Box::new(identity("org/ns/bob")));
    for fault in faults(&[
        (ToWheel, DiscoveryRequest, 1),
        (FromWheel, DiscoveryReply, 1),
        (ToWheel, JoinRequest, 1),
        (FromWheel, JoinReply, 1),
        (ToWheel, GroupWelcome, 1),
        (ToWheel, GroupUpdate, 2),
        (FromWheel, GroupAck, 4),
        (ToWheel, Msg, 2),
        (FromWheel, MsgAck, 2),
        (FromWheel, Msg, 1),
        (ToWheel, MsgAck, 2),
        (ToWheel, LeaveRequest, 1),
        (FromWheel, LeaveReply, 1),
        (ToWheel, GroupClose, 1),
    ]) {
        let before = wheel.len();
        proxy.inject(fault);
        let room = ann.open(&options(Kind::Group, mls), "org/ns/room", WAIT).unwrap();
        let invited = room.invite("org/ns/wheel", WAIT);
        if fault.loses(JoinReply, 1) || mls && fault.loses(GroupAck, 1) {
            // Defect 6, as above; the last one has joined and is told that it is not there.
            assert!(matches!(invited, Err(Error::NoRoute(_))), "{fault:?}: {invited:?}");
            proxy.expect_fault();
            room.close(WAIT).unwrap();
            if fault.kind == GroupAck {
                waits_for(&wheel, before, "session over");
            }
            continue;
        }
        invited.unwrap();
        room.invite("org/ns/bob", WAIT).unwrap();
        let theirs = bob.accept(true, WAIT).unwrap();
        say(&room, "from ann").unwrap();
        hears(&theirs, "from ann");
        say(&theirs, "from bob").unwrap();
        hears(&room, "from bob");
        wheel.tell("from wheel");
        hears(&room, "from wheel");
        hears(&theirs, "from wheel");
        waits_for(&wheel, before, "! delivered");
        room.remove("org/ns/bob", WAIT).unwrap();
        is_over(&theirs);
        let leaves = [LeaveRequest, LeaveReply].contains(&fault.kind);
        let end = if leaves { room.remove("org/ns/wheel", WAIT) } else { room.close(WAIT) };
        // It has left, as above.
        check_end(end, fault.loses(GroupAck, 4) || fault.loses(LeaveReply, 1), &fault);
        waits_for(&wheel, before, "session over");
        heard_both(&wheel, before, &fault);
        proxy.expect_fault();
    }
}

fn is_invited_by_a_wheel(mls: bool) {
    let (node, proxy, mut wheel) = start("member", mls, &["--remote", "org/ns/room"]);
    let (_a, ann) = app("org/ns/ann", &node, Box::new(identity("org/ns/ann")));
    let (_b, bob) = app("org/ns/bob", &node, Box::new(identity("org/ns/bob")));
    let faults = faults(&[
        (FromWheel, DiscoveryRequest, 2),
        (ToWheel, DiscoveryReply, 2),
        (FromWheel, JoinRequest, 2),
        (ToWheel, JoinReply, 2),
        (FromWheel, GroupWelcome, 2),
        (FromWheel, GroupUpdate, 2),
        (ToWheel, GroupAck, 4),
        (FromWheel, Msg, 1),
        (ToWheel, MsgAck, 2),
        (ToWheel, Msg, 2),
        (FromWheel, MsgAck, 2),
        (ToWheel, LeaveRequest, 1),
        (FromWheel, LeaveReply, 1),
        (FromWheel, LeaveRequest, 1),
        (ToWheel, LeaveReply, 1),
    ]);
    for fault in faults.into_iter().filter(|fault| survivable(fault, mls)) {
        let before = wheel.len();
        proxy.inject(fault);
        wheel.tell("invite org/ns/ann");
        let ours = ann.accept(true, WAIT).unwrap();
        waits_for(&wheel, before, "! invited org/ns/ann");
        wheel.tell("invite org/ns/bob");
        let theirs = bob.accept(true, WAIT).unwrap();
        waits_for(&wheel, before, "! invited org/ns/bob");
        wheel.tell("from wheel");
        hears(&ours, "from wheel");
        hears(&theirs, "from wheel");
        waits_for(&wheel, before, "! delivered");
        say(&ours, "from ann").unwrap();
        hears(&theirs, "from ann");
        say(&theirs, "from bob").unwrap();
        hears(&ours, "from bob");
        // It does not know any more who asks again.
        check_end(theirs.close(WAIT), fault.loses(LeaveReply, 1), &fault);
        sees(&ours, |event| matches!(event, Event::PeerLeft(_)));
        wheel.tell("remove org/ns/ann");
        is_over(&ours);
        waits_for(&wheel, before, "! removed org/ns/ann");
        heard_both(&wheel, before, &fault);
        proxy.expect_fault();
    }
}

/// With MLS and without, at once: most of the time they wait for what is repeated.
fn both(test: fn(bool)) {
    thread::scope(|scope| {
        let encrypted = scope.spawn(|| test(true));
        test(false);
        assert!(encrypted.join().is_ok(), "with MLS: above");
    });
}

#[test]
fn spec03_16_17_in_a_session_to_a_wheel() {
    both(calls_a_wheel);
}

#[test]
fn spec03_16_17_in_a_session_of_a_wheel() {
    both(is_called_by_a_wheel);
}

#[test]
fn spec03_16_17_in_a_group_with_a_wheel() {
    both(invites_a_wheel);
}

#[test]
fn spec03_16_17_in_a_group_of_a_wheel() {
    both(is_invited_by_a_wheel);
}
