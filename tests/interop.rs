//! Our programs and the published implementation (the wheel) as live peers, in every place of a
//! session: node, receiver, sender.

#[path = "interop/support.rs"]
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use slim::api::{Event, Item, Mls, PublishOptions, Retry, SessionOptions};
use slim::error::Error;
use slim::identity::Provider as _;
use slim::name::app_id;
use support::Who::{Ours, Wheel};
use support::{
    app, c_program, identity, listening_port, next_message, script, slim, wheel,
    wheel_names_senders, Node, Process, Turn, Who, PATIENCE, SECRET,
};

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Reliable,
    BestEffort,
    Encrypted,
}
use Mode::{BestEffort, Encrypted, Reliable};

/// Starts a receiver that answers, and waits until it is subscribed.
fn receiver(who: Who, node: &Node, binding: &str) -> Process {
    let mut command = match who {
        Ours => slim(),
        Wheel => wheel("echo"),
    };
    if who == Ours {
        command.arg("receive").args(["--shared-secret", SECRET]);
    } else {
        command.args(["--seconds", "100"]);
    }
    command
        .args(["--local", "org/ns/bob", "--slim", &node.endpoint(), "--reply"])
        .env("SLIM_IDENTITY_BINDING", binding);
    let process = Process::start("receiver", &mut command);
    process.wait_for("ready", |line| line.contains("ready"));
    process
}

fn sender(who: Who, node: &Node, mode: Mode, binding: &str, message: &str, size: &str) -> Process {
    let mut command = match who {
        Ours => slim(),
        Wheel => wheel("send"),
    };
    match (who, mode) {
        (Ours, Encrypted) => command.args(["send", "--iterations", "3", "--enable-mls"]),
        (Ours, Reliable) => command.args(["send", "--iterations", "3"]),
        (Ours, BestEffort) => command.args(["send", "--iterations", "3", "--best-effort"]),
        (Wheel, Reliable) => command.args(["--wait-ack", "--reply"]),
        (Wheel, BestEffort) => command.args(["--reply", "--retries", "0"]),
        (Wheel, Encrypted) => command.args(["--reply", "--mls"]),
    };
    if who == Ours {
        command.args(["--shared-secret", SECRET, "--metadata", "n=0", "--payload-type"]);
        command.args(["text/plain", "--session-metadata", "who=ours"]);
    }
    command
        .args(["--local", "org/ns/alice", "--remote", "org/ns/bob", "--slim", &node.endpoint()])
        .args(["--message", message, "--size", size])
        .env("SLIM_IDENTITY_BINDING", binding);
    Process::start("sender", &mut command)
}

/// Three messages with metadata, each answered; then the session is closed.
fn point_to_point(node: Who, at: Who, from: Who, mode: Mode, binding: &str) {
    let _turn = Turn::take();
    let node = Node::start(node, binding);
    let receiver = receiver(at, &node, binding);
    let mut sender = sender(from, &node, mode, binding, "hello", "0");
    sender.expect_success();
    let answer = match at {
        Ours => "hello from org/ns/bob",
        Wheel => "hello from upstream",
    };
    assert_eq!(sender.count(answer), 3, "{}", sender.output());
    let closed = |line: &str| line.contains("session-end") || line.contains("session closed");
    receiver.wait_for("end of the session", closed);
    // Standard error may be ahead of standard output.
    match at {
        Ours => {
            receiver.wait_for_count("hello", 3);
            assert_eq!(receiver.count("hello"), 3, "{}", receiver.output());
            let who = if from == Ours { "ours" } else { "upstream" };
            assert_eq!(receiver.count(&format!("{{\"who\":\"{who}\"}}")), 1);
        }
        Wheel => {
            assert_eq!(receiver.count("\"n\": \"0\""), if from == Ours { 3 } else { 1 });
            assert_eq!(receiver.count("\"payload_type\": \"text/plain\""), 3);
            knows_its_peer(&receiver, "message", "org/ns/alice", mode, 3);
        }
    }
    if from == Wheel {
        knows_its_peer(&sender, "reply", "org/ns/bob", mode, 3);
    }
}

/// The wheel has it proved by keys who sent it each of so many messages, and without MLS it has not.
/// (3.3.1 never says it.)
fn knows_its_peer(wheel: &Process, event: &str, peer: &str, mode: Mode, count: usize) {
    for said in said(wheel, event, count) {
        match (mode, said["metadata"]["slim-peer-subject"].as_str()) {
            (Encrypted, Some(subject)) => {
                assert!(subject.starts_with(&format!("{peer}_")), "{said}");
                assert_eq!(said["source_id"], app_id(subject).to_string(), "{said}");
            }
            (mode, subject) => {
                assert!(mode != Encrypted || !wheel_names_senders(), "{said}");
                assert!(subject.is_none(), "{said}");
            }
        }
    }
}

/// What a wheel says of the first so many events of a kind.
fn said(wheel: &Process, event: &str, count: usize) -> Vec<serde_json::Value> {
    wheel.wait_for_count(&format!("{{\"event\": \"{event}\""), count);
    let lines = wheel.lines();
    let said = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
    said.filter(|said: &serde_json::Value| said["event"] == event).take(count).collect()
}

/// The cells, one test each, under the default binding and under `enforce`.
macro_rules! cells {
    ($($name:ident: $node:ident, $at:ident, $from:ident, $mode:ident;)*) => {
        mod default_binding {
            use super::*;
            $(#[test] fn $name() { point_to_point($node, $at, $from, $mode, ""); })*
        }
        mod enforced_binding {
            use super::*;
            $(#[test] fn $name() { point_to_point($node, $at, $from, $mode, "enforce"); })*
        }
    };
}

cells! {
    //                                    node   receiver sender
    node_ours_wheel_to_wheel_reliable:    Ours,  Wheel, Wheel, Reliable;
    node_ours_wheel_to_wheel_best_effort: Ours,  Wheel, Wheel, BestEffort;
    node_ours_wheel_to_wheel_mls:         Ours,  Wheel, Wheel, Encrypted;
    node_ours_ours_to_wheel_mls:          Ours,  Wheel, Ours,  Encrypted;
    node_ours_wheel_to_ours_mls:          Ours,  Ours,  Wheel, Encrypted;
    node_ours_ours_to_ours_mls:           Ours,  Ours,  Ours,  Encrypted;
    node_wheel_ours_to_wheel_mls:         Wheel, Wheel, Ours,  Encrypted;
    node_wheel_wheel_to_ours_mls:         Wheel, Ours,  Wheel, Encrypted;
    node_ours_ours_to_wheel_reliable:     Ours,  Wheel, Ours,  Reliable;
    node_ours_ours_to_wheel_best_effort:  Ours,  Wheel, Ours,  BestEffort;
    node_ours_wheel_to_ours_reliable:     Ours,  Ours,  Wheel, Reliable;
    node_ours_wheel_to_ours_best_effort:  Ours,  Ours,  Wheel, BestEffort;
    node_ours_ours_to_ours_reliable:      Ours,  Ours,  Ours,  Reliable;
    node_ours_ours_to_ours_best_effort:   Ours,  Ours,  Ours,  BestEffort;
    node_wheel_ours_to_wheel_reliable:    Wheel, Wheel, Ours,  Reliable;
    node_wheel_ours_to_wheel_best_effort: Wheel, Wheel, Ours,  BestEffort;
    node_wheel_wheel_to_ours_reliable:    Wheel, Ours,  Wheel, Reliable;
    node_wheel_wheel_to_ours_best_effort: Wheel, Ours,  Wheel, BestEffort;
    node_wheel_ours_to_ours_reliable:     Wheel, Ours,  Ours,  Reliable;
    node_wheel_ours_to_ours_best_effort:  Wheel, Ours,  Ours,  BestEffort;
}

/// Ours in this process and a wheel: each names the other by its subject, which the keys prove.
fn both_know_the_subject(node: Who, initiator: Who, mode: Mode) {
    let _turn = Turn::take();
    let node = Node::start(node, "enforce");
    let name = if initiator == Ours { "org/ns/alice" } else { "org/ns/bob" };
    let identity = identity(name);
    let subject = identity.subject().to_owned();
    let (_here, ours) = app(name, &node, Box::new(identity));
    let (wheel, event, session);
    match initiator {
        Ours => {
            wheel = receiver(Wheel, &node, "enforce");
            event = "message";
            let mls = (mode == Encrypted).then(Mls::default);
            let options = SessionOptions { mls, ..SessionOptions::default() };
            session = ours.open(&options, "org/ns/bob", Some(PATIENCE)).unwrap();
        }
        Wheel => {
            wheel = sender(Wheel, &node, mode, "enforce", "hello", "0");
            event = "reply";
            session = ours.accept(false, Some(PATIENCE)).unwrap();
        }
    }
    let hello = (initiator == Wheel).then(|| next_message(&session));
    let op = session.publish_start(b"well", &PublishOptions::default()).unwrap();
    op.wait(Some(PATIENCE)).unwrap();
    let got = hello.unwrap_or_else(|| next_message(&session));
    let (theirs, of_ours) = (&said(&wheel, "ready", 1)[0], &said(&wheel, event, 1)[0]);
    assert_eq!(got.source.id().to_string(), theirs["id"]);
    assert_eq!(of_ours["source_id"], ours.name().id().to_string());
    if mode == Encrypted {
        assert_eq!(of_ours["metadata"]["slim-peer-subject"], subject);
        assert_eq!(app_id(&got.identity), got.source.id(), "{}", got.identity);
    } else {
        assert!(of_ours["metadata"].get("slim-peer-subject").is_none(), "{of_ours}");
        assert_eq!(got.identity, "");
    }
}

#[test]
fn spec05_3_each_side_is_told_the_subject_of_the_other() {
    for (node, initiator) in [(Ours, Ours), (Ours, Wheel), (Wheel, Ours), (Wheel, Wheel)] {
        both_know_the_subject(node, initiator, Encrypted);
    }
    both_know_the_subject(Ours, Ours, Reliable);
    both_know_the_subject(Ours, Wheel, Reliable);
}

/// One payload that is empty, or large, both ways.
fn payload(node: Who, at: Who, from: Who, message: &str, size: usize) {
    let _turn = Turn::take();
    let node = Node::start(node, "");
    let receiver = receiver(at, &node, "");
    let mut sender = sender(from, &node, Reliable, "", message, &size.to_string());
    sender.expect_success();
    if at == Wheel {
        assert_eq!(receiver.count(&format!("\"size\": {size},")), 3, "{}", receiver.output());
    }
    let suffix = if at == Wheel { " from upstream" } else { " from org/ns/bob" };
    match from {
        Wheel => {
            let size = format!("\"size\": {},", size + suffix.len());
            assert_eq!(sender.count(&size), 3, "{}", sender.output());
        }
        Ours => {
            let line = sender.wait_for("reply", |line| line.ends_with(suffix));
            assert_eq!(line.len(), size + suffix.len());
        }
    }
}

#[test]
fn empty_payload_both_ways() {
    payload(Ours, Wheel, Ours, "", 0);
    payload(Ours, Ours, Wheel, "", 0);
    payload(Wheel, Ours, Ours, "", 0);
}

#[test]
fn payload_of_1_mib_both_ways() {
    payload(Ours, Wheel, Ours, "big", 1 << 20);
    payload(Ours, Ours, Wheel, "big", 1 << 20);
    payload(Wheel, Ours, Ours, "big", 1 << 20);
}

/// A moderator and two participants of the published implementation; our node only routes.
fn group(mls: bool) {
    let _turn = Turn::take();
    let node = Node::start(Ours, "");
    let common = |command: &mut Command, local: &str| {
        command.args(["--local", local, "--slim", &node.endpoint(), "--seconds", "30"]);
        if mls {
            command.arg("--mls");
        }
    };
    let participants: Vec<Process> = ["org/ns/p1", "org/ns/p2"]
        .iter()
        .map(|name| {
            let mut command = wheel("participant");
            common(&mut command, name);
            command.arg("--reply");
            let process = Process::start(name, &mut command);
            process.wait_for("ready", |line| line.contains("ready"));
            process
        })
        .collect();
    let mut command = wheel("moderator");
    common(&mut command, "org/ns/mod");
    command.args(["--remote", "org/ns/room", "--invite", "org/ns/p1", "--invite", "org/ns/p2"]);
    command.args(["--count", "2", "--expect", "4", "--remove", "org/ns/p2"]);
    let mut moderator = Process::start("moderator", &mut command);
    moderator.expect_success();
    assert_eq!(moderator.count("\"published\""), 2, "{}", moderator.output());
    assert_eq!(moderator.count("reply hello"), 4, "{}", moderator.output());
    assert_eq!(moderator.count("\"removed\""), 1, "{}", moderator.output());
    participants[0].wait_for("the last message", |line| line.contains("after removal"));
    assert_eq!(participants[1].count("after removal"), 0);
}

#[test]
fn group_of_wheels_through_our_node() {
    group(false);
}

#[test]
fn group_of_wheels_with_mls_through_our_node() {
    group(true);
}

/// The node goes and comes back while two of ours talk.
fn node_restarts(who: Who) {
    let _turn = Turn::take();
    let mut node = Node::start(who, "");
    let receiver = receiver(Ours, &node, "");
    let mut command = slim();
    command.args(["send", "--local", "org/ns/alice", "--remote", "org/ns/bob"]);
    command.args(["--shared-secret", SECRET, "--slim", &node.endpoint()]);
    command.args(["--iterations", "2000", "--interval-ms", "200", "--retries", "100"]);
    let mut sender = Process::start("sender", &mut command);
    sender.wait_for("reply", |line| line.contains("hello from"));
    node.process.kill();
    node = Node::on_port(node.who, "", node.port);
    sender.expect_success();
    assert_eq!(sender.count("hello from"), 2000);
    assert!(sender.count("event ConnectionBack") > 0, "it was over before the node was");
    let back = |line: &str| line.contains("event ConnectionBack");
    receiver.wait_for("news of the connection", back);
    drop(node);
}

#[test]
fn c18_sessions_survive_a_restart_of_our_node() {
    node_restarts(Ours);
}

#[test]
fn c18_sessions_survive_a_restart_of_the_wheels_node() {
    node_restarts(Wheel);
}

/// The peer that builds every byte by hand.
/// Links that grow old: the published app stays until the end and dials again, ours goes over in time.
#[test]
fn spec01_21_old_links_end_and_the_conversation_goes_on() {
    let _turn = Turn::take();
    let file = std::env::temp_dir().join(format!("slim-old-links-{}.yaml", std::process::id()));
    let ages = "{max_connection_age: 500ms, max_connection_age_grace: 500ms}";
    let server = format!("{{endpoint: 127.0.0.1:0, tls: {{insecure: true}}, keepalive: {ages}}}");
    let text = format!("services: {{slim/0: {{dataplane: {{servers: [{server}]}}}}}}");
    std::fs::write(&file, text).unwrap();
    let process = Process::start("node", slim().arg("--config").arg(&file));
    let port = listening_port(&process);
    let node = Node { process, who: Ours, port };
    let _receiver = receiver(Wheel, &node, "");
    let mut command = slim();
    command.args(["send", "--local", "org/ns/alice", "--remote", "org/ns/bob"]);
    command.args(["--shared-secret", SECRET, "--slim", &node.endpoint()]);
    command.args(["--iterations", "4000", "--interval-ms", "100", "--retries", "100"]);
    let mut sender = Process::start("sender", &mut command);
    sender.expect_success();
    assert_eq!(sender.count("hello from"), 4000);
    // A second for each link of the receiver, and several of the conversation.
    let ends = node.process.count("greatest age");
    assert!(ends >= 2, "{ends} links of the receiver ended");
    std::fs::remove_file(file).unwrap();
}

fn by_hand(role: &str, node: &Node, extra: &[&str]) -> Process {
    let mut command = script("wire_peer.py");
    command.arg(role).args(["--port", &node.port.to_string()]).args(extra);
    Process::start("wire peer", &mut command)
}

#[test]
fn hand_written_peer_in_both_roles() {
    let _turn = Turn::take();
    let node = Node::start(Ours, "enforce");
    let receiver = receiver(Ours, &node, "enforce");
    let mut peer = by_hand("send", &node, &["--remote", "org/ns/bob", "--reply"]);
    peer.expect_success();
    assert_eq!(peer.count("reply: hello"), 3, "{}", peer.output());
    receiver.wait_for("metadata", |line| line.contains("{\"who\":\"wire\"}"));
    drop(receiver);
    let peer = by_hand("receive", &node, &["--local", "org/ns/bob", "--reply"]);
    peer.wait_for("ready", |line| line == "ready");
    let mut sender = sender(Ours, &node, Reliable, "enforce", "hello", "0");
    sender.expect_success();
    assert_eq!(sender.count("hello from wire"), 3, "{}", sender.output());
    peer.wait_for("end", |line| line == "closed");
}

#[test]
fn c20_a_peer_that_answers_twice_breaks_nothing() {
    let _turn = Turn::take();
    let node = Node::start(Ours, "");
    // DISCOVERY_REPLY, JOIN_REPLY, GROUP_ACK, MSG_ACK
    for repeated in ["6", "8", "15", "2"] {
        let extra = ["--local", "org/ns/bob", "--reply", "--repeat", repeated];
        let peer = by_hand("receive", &node, &extra);
        peer.wait_for("ready", |line| line == "ready");
        let mut sender = sender(Ours, &node, Reliable, "", "hello", "0");
        sender.expect_success();
        assert_eq!(sender.count("hello from wire"), 3, "{repeated}: {}", sender.output());
    }
}

/// A peer that proves neither what it says nor who it is, at a node that asks for MACs.
fn forged(node: Who) {
    let _turn = Turn::take();
    let node = Node::start(node, "");
    let receiver = receiver(Ours, &node, "");
    let (link, identity) = ("no answer to the subscription", "nobody answered");
    let refused =
        [("mac", link), ("no-mac", link), ("header-sig", identity), ("payload-sig", identity)];
    let peers = refused.map(|(bad, refused)| {
        (bad, refused, by_hand("send", &node, &["--remote", "org/ns/bob", "--bad", bad]))
    });
    for (bad, refused, mut peer) in peers {
        assert_ne!(peer.wait(), 0, "{bad}");
        assert_eq!(peer.count(refused), 1, "{bad}: {}", peer.output());
    }
    assert_eq!(receiver.count("hello"), 0);
    // The same peer, when all is right, and another.
    by_hand("send", &node, &["--remote", "org/ns/bob", "--reply"]).expect_success();
    let mut sender = sender(Ours, &node, Reliable, "", "fine", "0");
    sender.expect_success();
    assert_eq!(sender.count("fine from org/ns/bob"), 3);
}

#[test]
fn forged_macs_and_signatures_get_nowhere() {
    forged(Ours);
}

#[test]
fn spec01_10_spec02_24_the_wheels_node_is_strict() {
    forged(Wheel);
}

#[test]
fn another_secret_gets_no_answer_and_the_error_says_so() {
    let _turn = Turn::take();
    let node = Node::start(Ours, "");
    for who in [Ours, Wheel] {
        let _receiver = receiver(who, &node, "");
        let mut command = slim();
        command.args(["send", "--local", "org/ns/alice", "--remote", "org/ns/bob"]);
        command.args(["--slim", &node.endpoint(), "--interval-ms", "100", "--retries", "3"]);
        command.args(["--shared-secret", "quite another secret of 32 or more bytes"]);
        let mut sender = Process::start("sender", &mut command);
        assert_eq!(sender.wait(), 1);
        let text = sender.output();
        assert!(text.contains("nobody valid answered for org/ns/bob"), "{text}");
        assert!(text.contains("or another secret"), "{text}");
    }
}

/// The C programs `server` and `point_to_point`: in each of the three places they, or the published
/// implementation; with --sticky, which is reliable, best effort, or with --enable-mls.
fn c_programs(node: Who, at: Who, from: Who, mode: Mode) {
    let _turn = Turn::take();
    let node = match node {
        Wheel => Node::start(Wheel, ""),
        Ours => {
            let mut server = c_program("server");
            let process = Process::start("server", server.args(["--slim", "127.0.0.1:0"]));
            let line = process.wait_for("port", |line| line.contains("listening on port "));
            let port = line.rsplit(' ').next().unwrap().parse().unwrap();
            Node { process, who: Ours, port }
        }
    };
    let point_to_point = |local: &str| {
        let mut command = c_program("point_to_point");
        command.args(["--local", local, "--shared-secret", SECRET, "--slim", &node.endpoint()]);
        command
    };
    let mut receiver = match at {
        Wheel => receiver(Wheel, &node, ""),
        Ours => {
            let process = Process::start("receiver", &mut point_to_point("org/ns/bob"));
            process.wait_for("start", |line| line.contains("waiting for new session"));
            process
        }
    };
    let mut sender = match from {
        Wheel => sender(Wheel, &node, mode, "", "hello", "0"),
        Ours => {
            let mut command = point_to_point("org/ns/alice");
            command.args(["--remote", "org/ns/bob", "--message", "hello", "--iterations", "2"]);
            command.args(match mode {
                Reliable => Some("--sticky"),
                BestEffort => None,
                Encrypted => Some("--enable-mls"),
            });
            Process::start("sender", &mut command)
        }
    };
    sender.expect_success();
    let count = if from == Ours { 2 } else { 3 };
    let answer = if at == Wheel { "hello from upstream" } else { "hello from " };
    assert_eq!(sender.count(answer), count, "{}", sender.output());
    assert_eq!(sender.count("received error"), 0, "{}", sender.output());
    match at {
        Wheel => {
            receiver.wait_for("end of the session", |line| line.contains("session-end"));
            assert_eq!(receiver.count("\"payload\": \"hello\""), count, "{}", receiver.output());
            knows_its_peer(&receiver, "message", "org/ns/alice", mode, count);
        }
        Ours => {
            receiver.wait_for_count("replies: hello from", count);
            receiver.signal("-INT");
            receiver.expect_success();
            // Without --sticky each message may go to another instance, in a session of its own.
            let sessions = if from == Ours && mode == BestEffort { count } else { 1 };
            let got = receiver.count("received a new session:");
            assert_eq!(got, sessions, "{}", receiver.output());
            let hello = |line: &&str| line.ends_with("): hello");
            assert_eq!(receiver.output().lines().filter(hello).count(), count);
            assert_eq!(receiver.count("! Error"), 0, "{}", receiver.output());
        }
    }
    if from == Wheel {
        knows_its_peer(&sender, "reply", "org/ns/bob", mode, count);
    }
}

macro_rules! c_cells {
    ($($name:ident: $node:ident, $at:ident, $from:ident;)*) => {
        mod c_programs_reliable {
            use super::*;
            $(#[test] fn $name() { c_programs($node, $at, $from, Reliable); })*
        }
        mod c_programs_best_effort {
            use super::*;
            $(#[test] fn $name() { c_programs($node, $at, $from, BestEffort); })*
        }
        mod c_programs_encrypted {
            use super::*;
            $(#[test] fn $name() { c_programs($node, $at, $from, Encrypted); })*
        }
    };
}

c_cells! {
    //                            node   receiver sender
    node_c_receiver_c_sender_c:         Ours,  Ours,  Ours;
    node_c_receiver_c_sender_wheel:     Ours,  Ours,  Wheel;
    node_c_receiver_wheel_sender_c:     Ours,  Wheel, Ours;
    node_c_receiver_wheel_sender_wheel: Ours,  Wheel, Wheel;
    node_wheel_receiver_c_sender_c:     Wheel, Ours,  Ours;
    node_wheel_receiver_c_sender_wheel: Wheel, Ours,  Wheel;
    node_wheel_receiver_wheel_sender_c: Wheel, Wheel, Ours;
}

/// The example of the README, with each of its three parts replaced by the published implementation.
fn hello_example(node: Who, at: Who, from: Who) {
    let _turn = Turn::take();
    let node = Node::start(node, "");
    let endpoint = node.endpoint();
    let mut at_process = match at {
        Wheel => receiver(Wheel, &node, ""),
        Ours => {
            let mut command = c_program("hello");
            command.args(["receive", &endpoint, "org/ns/bob"]).env("SLIM_SHARED_SECRET", SECRET);
            let process = Process::start("hello receive", &mut command);
            process.wait_for("name", |line| line.contains("waiting as org/ns/bob/"));
            process
        }
    };
    let mut command = match from {
        Ours => c_program("hello"),
        Wheel => wheel("send"),
    };
    match from {
        Ours => command.args(["send", &endpoint, "org/ns/alice", "org/ns/bob"]),
        Wheel => command.args(["--count", "1", "--reply", "--local", "org/ns/alice"]).args([
            "--remote",
            "org/ns/bob",
            "--slim",
            &endpoint,
        ]),
    };
    let mut from_process = Process::start("hello send", command.env("SLIM_SHARED_SECRET", SECRET));
    from_process.expect_success();
    let answer = if at == Ours { "hello yourself" } else { "hello from upstream" };
    assert_eq!(from_process.count(answer), 1, "{}", from_process.output());
    assert_eq!(at_process.count("hello"), 1, "{}", at_process.output());
    if at == Ours {
        at_process.expect_success();
    }
}

#[test]
fn hello_with_each_part_replaced() {
    for (node, at, from) in
        [(Ours, Ours, Ours), (Wheel, Ours, Ours), (Ours, Wheel, Ours), (Ours, Ours, Wheel)]
    {
        hello_example(node, at, from);
    }
}

#[test]
fn sigterm_and_sigint_end_the_node_cleanly() {
    for signal in ["-TERM", "-INT"] {
        let mut node = Node::start(Ours, "");
        let receiver = receiver(Ours, &node, "");
        node.process.signal(signal);
        node.process.expect_success();
        drop(receiver);
    }
}

/// The peer dies in the middle of a session: the publish ends in time and names it, and the
/// application is told.
fn peer_killed(node: Who, at: Who) {
    let _turn = Turn::take();
    let node = Node::start(node, "");
    let mut peer = receiver(at, &node, "");
    let wait = Some(PATIENCE);
    let (_here, app) = app("org/ns/alice", &node, Box::new(identity("org/ns/alice")));
    let retry = Retry { interval: Duration::from_millis(200), max_retries: 4 };
    let options = SessionOptions { reliable: Some(retry), events: true, ..Default::default() };
    let session = app.open(&options, "org/ns/bob", wait).unwrap();
    let publish = |text: &[u8]| session.publish_start(text, &PublishOptions::default());
    publish(b"hello").unwrap().wait(wait).unwrap();
    peer.kill();
    let begun = Instant::now();
    let error = publish(b"anybody?").unwrap().wait(wait).unwrap_err();
    let took = begun.elapsed();
    assert!(matches!(&error, Error::Undelivered(text) if text.contains("org/ns/bob/")), "{error}");
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    loop {
        if let Item::Event(Event::PeerOffline(name)) = session.receive(wait).unwrap() {
            assert_eq!(name.service(), "org/ns/bob");
            return;
        }
    }
}

#[test]
fn a_killed_peer_is_undelivered_and_offline() {
    for (node, at) in [(Ours, Ours), (Ours, Wheel), (Wheel, Ours), (Wheel, Wheel)] {
        peer_killed(node, at);
    }
}
