//! Recorded traces of the published implementation, compared message by message with what our
//! cores put on the same links (DESIGN decision 32). Deviations are listed beside each.

#[path = "world/mod.rs"]
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use slim::node::Value;
use slim::session::{Retry, SessionConfig, SessionKey};
use slim::wire::Message;
use world::{tap::masked, World};

const LINKS: [&str; 4] = ["alice->node", "node->alice", "bob->node", "node->bob"];

/// A recorded trace: what went over each link, masked.
fn recorded(name: &str) -> BTreeMap<String, Vec<String>> {
    let path = format!("{}/tests/vectors/session/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let mut links = BTreeMap::<String, Vec<String>>::new();
    for line in std::fs::read_to_string(&path).expect(&path).lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let hex = entry["hex"].as_str().unwrap();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let message = Message::decode(&bytes[..]).unwrap();
        links.entry(entry["link"].as_str().unwrap().to_owned()).or_default().push(masked(&message));
    }
    links
}

/// Alice, Bob and the node, as in the recordings.
struct Play {
    world: World,
    alice: (usize, slim::session::AppId),
    bob: (usize, slim::session::AppId),
}

impl Play {
    fn new() -> Play {
        let mut world = World::new(7).with_real_identities().with_trace();
        let node = world.process("node");
        let (a, b) = (world.process("alice"), world.process("bob"));
        let alice = world.app(a, "org/ns/alice");
        let bob = world.app(b, "org/ns/bob");
        world.attach(a, alice, node);
        world.attach(b, bob, node);
        Play { world, alice: (a, alice), bob: (b, bob) }
    }

    fn open(&mut self, reliable: bool, pairs: &[(&str, &str)]) -> (SessionKey, SessionKey) {
        let config = config(reliable, pairs);
        self.world.open(self.alice, self.bob.0, "org/ns/bob", config)
    }

    fn delivered(&mut self, process: usize, op: slim::session::OpId) {
        assert_eq!(self.world.finish(process, op), Ok(Value::Nothing));
        self.world.run(Duration::from_millis(50));
    }

    fn links(&self) -> BTreeMap<String, Vec<String>> {
        let mut links = BTreeMap::<String, Vec<String>>::new();
        for (link, message) in &self.world.trace {
            links.entry(link.clone()).or_default().push(masked(message));
        }
        links
    }
}

fn config(reliable: bool, pairs: &[(&str, &str)]) -> SessionConfig {
    let retry = Retry { interval: Duration::from_millis(500), max_retries: 3 };
    SessionConfig {
        reliable: reliable.then_some(retry),
        metadata: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..SessionConfig::default()
    }
}

fn compare(name: &str, play: &Play, deviate: impl Fn(&str, &mut Vec<String>)) {
    let (mut recorded, ours) = (recorded(name), play.links());
    for link in LINKS {
        let expected = recorded.get_mut(link).expect(link);
        deviate(link, expected);
        let ours = &ours[link];
        for (at, (ours, theirs)) in ours.iter().zip(expected.iter()).enumerate() {
            assert_eq!(ours, theirs, "{name}, {link}, message {at}");
        }
        assert_eq!(ours.len(), expected.len(), "{name}, {link}: {ours:#?} {expected:#?}");
    }
}

/// Defect 14: the published GROUP_CLOSE goes to the name without id; ours to the peer.
fn close_to_the_peer(lines: &mut [String]) {
    for line in lines.iter_mut().filter(|line| line.starts_with("GroupClose")) {
        *line = line.replace("to=any", "to=full");
    }
}

#[test]
fn trace_01_p2p_reliable() {
    let mut play = Play::new();
    let (ours, theirs) = play.open(true, &[("k", "v")]);
    let (a, b) = (play.alice.0, play.bob.0);
    let op = play.world.publish(a, ours, "hello");
    play.delivered(a, op);
    let op = play.world.publish_with(b, theirs, "world", "text/plain", &[("mk", "mv")]);
    play.delivered(b, op);
    let op = play.world.publish_with(a, ours, "reply", "", &[("x", "y")]);
    play.delivered(a, op);
    let op = play.world.close(a, ours);
    play.delivered(a, op);
    compare("01-p2p-reliable", &play, |_, lines| close_to_the_peer(lines));
}

#[test]
fn trace_02_p2p_unreliable_closed_by_the_responder() {
    let mut play = Play::new();
    let (ours, theirs) = play.open(false, &[("k", "v")]);
    let (a, b) = (play.alice.0, play.bob.0);
    let op = play.world.publish(a, ours, "hello");
    play.delivered(a, op);
    let op = play.world.publish_with(b, theirs, "world", "text/plain", &[("mk", "mv")]);
    play.delivered(b, op);
    let op = play.world.publish_with(a, ours, "reply", "", &[("x", "y")]);
    play.delivered(a, op);
    let op = play.world.close(b, theirs);
    play.delivered(b, op);
    compare("02-p2p-unreliable", &play, |_, _| {});
}

#[test]
fn trace_10_only_the_handshake_is_on_the_wire() {
    // Soft close, rejoin, invite and remove are not there yet: nothing to refuse, nothing sent.
    let mut play = Play::new();
    play.open(true, &[]);
    play.world.run(Duration::from_secs(1));
    compare("10-p2p-soft-close-errors", &play, |_, _| {});
}

#[test]
fn trace_13_published_before_the_session_is_established() {
    let mut play = Play::new();
    let (a, alice) = play.alice;
    let (ours, _) = play.world.open_start(a, alice, "org/ns/bob", config(true, &[]));
    let early = ["early1", "early2"].map(|text| play.world.publish(a, ours, text));
    for op in early {
        play.delivered(a, op);
    }
    // Defect 5: the published sender discards the first transmission, repeats in disorder after T,
    // and has one message asked for. Ours sends both, in order, after the GROUP_ACK.
    compare("13-p2p-publish-before-established", &play, |link, lines| {
        let data = ["Msg ", "MsgAck ", "RtxRequest ", "RtxReply "];
        let is_data = |line: &String| data.iter().any(|kind| line.starts_with(kind));
        let (mut kept, rest): (Vec<_>, Vec<_>) = lines.drain(..).partition(|line| !is_data(line));
        let wanted = if ["alice->node", "node->bob"].contains(&link) { "Msg " } else { "MsgAck " };
        let mut wanted: Vec<_> = rest.into_iter().filter(|l| l.starts_with(wanted)).collect();
        wanted.sort();
        kept.extend(wanted);
        *lines = kept;
    });
}

#[test]
fn trace_14_published_before_established_best_effort() {
    let mut play = Play::new();
    let (a, alice) = play.alice;
    let (ours, op) = play.world.open_start(a, alice, "org/ns/bob", config(false, &[]));
    for text in ["early1", "early2"] {
        play.world.publish(a, ours, text);
    }
    play.delivered(a, op);
    let op = play.world.publish(a, ours, "late");
    play.delivered(a, op);
    play.world.run(Duration::from_secs(10));
    // Defect 5: the published sender never sends the early messages. Ours does; alice's heartbeat
    // is left out, as she has spoken, in both.
    compare("14-p2p-publish-before-established-unreliable", &play, |link, lines| {
        if ["alice->node", "node->bob"].contains(&link) {
            let late = lines.iter().position(|line| line.contains("late")).unwrap();
            for (id, text) in [(2, "early2"), (1, "early1")] {
                let line = lines[late + 2 - id].clone();
                let line = line.replace("id=3", &format!("id={id}")).replace("late", text);
                lines.insert(late, line);
            }
        }
    });
}
