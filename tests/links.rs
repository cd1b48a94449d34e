//! Links over a long time: their age, their loss, and what is subscribed over them, in virtual time
//! and over real sockets (spec 01 sections 1.3, 1.5, 5 to 7).

#[path = "hostile/peer.rs"]
#[allow(dead_code)]
mod peer;
#[path = "world/mod.rs"]
mod world;

use std::time::{Duration, Instant};

use prost::Message as _;
use slim::api;
use slim::config::{ClientConfig, NodeConfig, ServerConfig};
use slim::error::Error;
use slim::limits;
use slim::link::Age;
use slim::name::{Name, NameId};
use slim::node::Value;
use slim::router::ConnectionId;
use slim::session::{AppId, Event, Retry, SessionConfig, SessionKey};
use slim::wire::{
    LinkNegotiationPayload, LinkType, Message, MessageType, SlimHeader, SubscriptionAck,
    Unsubscribe,
};
use world::{World, SECRET};

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// The requests of the negotiations on a link, in their order.
fn negotiations(world: &World, link: &str) -> Vec<LinkNegotiationPayload> {
    let on_link = world.trace.iter().filter(|(name, _)| name == link);
    on_link
        .filter_map(|(_, message)| match &message.message_type {
            Some(MessageType::Link(link)) => match &link.link_type {
                Some(LinkType::LinkNegotiation(payload)) => Some(payload.clone()),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// Alice and Bob at a node whose links grow no older than this, a best-effort session between them.
struct Aging {
    world: World,
    node: usize,
    alice: (usize, SessionKey),
    bob: (usize, SessionKey),
}

fn aging(seed: u64, limit: Duration, grace: Duration) -> Aging {
    let mut world = World::new(seed).with_trace();
    world.accept.age = Some(Age { limit, grace });
    let node = world.process("node");
    let (a, b) = (world.process("alice"), world.process("bob"));
    let (alice, bob) = (world.app(a, "org/ns/alice"), world.app(b, "org/ns/bob"));
    world.attach(a, alice, node);
    world.attach(b, bob, node);
    let best_effort = SessionConfig { reliable: None, ..SessionConfig::default() };
    let (ours, theirs) = world.open((a, alice), b, "org/ns/bob", best_effort);
    Aging { world, node, alice: (a, ours), bob: (b, theirs) }
}

fn is_loss(event: &Event) -> bool {
    matches!(event, Event::ConnectionLost(_))
}

#[test]
fn an_old_link_is_replaced_before_it_ends_and_nothing_is_lost() {
    for seed in 0..10 {
        // Carol lives in the node itself.
        let Aging { mut world, node, alice, bob } = aging(seed, 2 * SECOND, SECOND);
        let _carol = world.app(node, "org/ns/carol");
        let dave = world.app(alice.0, "org/ns/dave");
        let reliable = SessionConfig::default();
        world.subscribe(alice.0, dave, ConnectionId(1));
        let (to_carol, carols) =
            world.open((alice.0, dave), node, "org/ns/carol", reliable.clone());
        let (to_carol, carols) = ((alice.0, to_carol), (node, carols));
        let best_effort = SessionConfig { reliable: None, ..reliable };
        let (loose, at_carol) = world.open((alice.0, dave), node, "org/ns/carol", best_effort);
        let mut ops = Vec::new();
        for n in 0..2000 {
            ops.push((to_carol.0, world.publish(to_carol.0, to_carol.1, &n.to_string())));
            ops.push((carols.0, world.publish(carols.0, carols.1, &n.to_string())));
            world.publish(alice.0, loose, &n.to_string());
            world.publish(bob.0, bob.1, &n.to_string());
            world.run(Duration::from_millis(10));
        }
        for (at, op) in ops {
            assert_eq!(world.finish(at, op), Ok(Value::Nothing), "seed {seed}");
        }
        let expected: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
        for (at, session) in [to_carol, carols, (node, at_carol)] {
            assert_eq!(world.messages(at, session), expected, "seed {seed}");
            assert!(!world.events(at, session).iter().any(is_loss), "nobody was without a link");
        }
        // Best effort to somebody whose link is replaced: in order, and nearly all.
        let got: Vec<usize> =
            world.messages(alice.0, alice.1).iter().map(|text| text.parse().unwrap()).collect();
        assert!(got.is_sorted() && got.len() > 1950, "{} of 2000", got.len());
        // The same link by its id, each time with another key.
        let made = negotiations(&world, "alice->node");
        assert!((10..=12).contains(&made.len()), "{} links in 21 seconds", made.len());
        for pair in made.windows(2) {
            assert_eq!(pair[0].link_id, pair[1].link_id);
            assert_ne!(pair[0].link_ecdh_public_key, pair[1].link_ecdh_public_key);
        }
        // What was replaced is gone.
        let stats = world.processes[node].node.stats();
        assert!((2..=4).contains(&stats.connections) && stats.names <= 4, "{stats:?}");
    }
}

#[test]
fn whoever_is_looked_for_while_its_link_is_replaced_is_found() {
    let Aging { mut world, node, .. } = aging(3, 2 * SECOND, SECOND);
    let carol = world.app(node, "org/ns/carol");
    let names = move |world: &World| world.processes[node].node.stats().names;
    let all = names(&world);
    assert!(world.run_until(3 * SECOND, |world| names(world) < all), "a link is replaced");
    let opened = ["org/ns/alice", "org/ns/bob", "org/ns/nobody"].map(|name| {
        let begun = world.now.mono;
        (begun, world.open_start(node, carol, name, SessionConfig::default()).1)
    });
    let results = opened.map(|(_, op)| world.finish(node, op));
    assert!(matches!(&results, [Ok(_), Ok(_), Err(Error::NoRoute(_))]), "{results:?}");
    // As soon as that cannot be the reason, it is said at once that nobody is there.
    let begun = opened[2].0;
    assert!(world.now.mono >= begun + limits::HANDOVER);
    // With the next try, that is.
    assert!(world.now.mono < begun + limits::HANDOVER + limits::RETRY_INTERVAL + SECOND / 2);
    let before = world.now.mono;
    let (_, op) = world.open_start(node, carol, "org/ns/nobody", SessionConfig::default());
    assert!(matches!(world.finish(node, op), Err(Error::NoRoute(_))));
    assert!(world.now.mono < before + SECOND / 10);
}

#[test]
fn nothing_overtakes_what_is_still_on_the_old_link() {
    let Aging { mut world, alice, bob, .. } = aging(1, 2 * SECOND, 30 * SECOND);
    let two = |world: &World| world.processes[alice.0].node.stats().transports == 2;
    // Alice's way to the node takes its time from now on; the other way does not.
    world.silence(Some(0));
    for text in ["1", "2"] {
        world.publish(alice.0, alice.1, text);
    }
    assert!(world.run_until(5 * SECOND, two), "replaced");
    world.run(SECOND);
    world.publish(alice.0, alice.1, "3");
    world.run(SECOND);
    assert!(world.messages(bob.0, bob.1).is_empty() && two(&world));
    world.silence(None);
    world.run(SECOND);
    assert_eq!(world.messages(bob.0, bob.1), ["1", "2", "3"]);
}

#[test]
fn an_old_link_that_cannot_be_replaced_lasts_to_the_end_of_its_grace() {
    let Aging { mut world, node, alice, bob } = aging(1, 5 * SECOND, 5 * SECOND);
    let published = |world: &mut World, text: &str| {
        world.publish(alice.0, alice.1, text);
        world.run(SECOND / 10);
        world.messages(bob.0, bob.1).last().is_some_and(|last| last == text)
    };
    world.processes[node].name = "moved".to_owned();
    // Links are refused, and tried again and again; the old ones are as good as before.
    world.run(9 * SECOND);
    assert!(published(&mut world, "still"));
    assert!(!world.events(alice.0, alice.1).iter().any(is_loss));
    world.run(SECOND);
    assert!(world.events(alice.0, alice.1).iter().any(is_loss));
    assert!(!published(&mut world, "lost"));
    world.processes[node].name = "node".to_owned();
    world.run(3 * SECOND);
    assert!(published(&mut world, "back"));
}

#[test]
fn a_link_that_breaks_while_its_successor_is_made_waits_for_that_one() {
    let Aging { mut world, node, alice, bob } = aging(1, 5 * SECOND, 5 * SECOND);
    world.delay = Duration::from_millis(100);
    let before = world.time();
    let made = |world: &World| negotiations(world, "alice->node").len();
    assert_eq!(made(&world), 1);
    // The request of the successor is on its way; its link is not up.
    assert!(
        world.run_until(10 * SECOND, |world| world.processes[alice.0].node.stats().transports == 2)
    );
    assert!(world.time() - before > 4 * SECOND);
    world.break_link(0);
    assert_eq!(world.processes[alice.0].node.stats().transports, 1);
    world.run(SECOND);
    assert_eq!(made(&world), 2, "one successor, no third link");
    world.publish(alice.0, alice.1, "over the successor");
    world.run(SECOND);
    assert_eq!(world.messages(bob.0, bob.1), ["over the successor"]);
    assert_eq!(world.processes[node].node.stats().names, 2);
}

#[test]
fn a_disconnect_while_a_link_is_replaced_leaves_nothing() {
    for moment in 0..12 {
        let Aging { mut world, node, alice, .. } = aging(1, 5 * SECOND, 5 * SECOND);
        world.delay = Duration::from_millis(100);
        let replacing = |world: &World| world.processes[alice.0].node.stats().transports == 2;
        assert!(world.run_until(10 * SECOND, replacing));
        world.run(Duration::from_millis(100) * moment);
        let now = world.now;
        world.processes[alice.0].node.disconnect(ConnectionId(1), now).unwrap();
        world.run(3 * SECOND);
        let stats = world.processes[alice.0].node.stats();
        assert_eq!((stats.connections, stats.transports, stats.subscriptions), (0, 0, 0));
        // Bob is there, if not just now.
        let alone = |world: &World| {
            let stats = world.processes[node].node.stats();
            (stats.connections, stats.names) == (1, 1)
        };
        assert!(world.run_until(2 * SECOND, alone), "{:?}", world.processes[node].node.stats());
    }
}

#[test]
fn what_an_acceptor_subscribed_is_forgotten_with_its_link_and_routes_are_not() {
    let mut world = World::new(1);
    let (far, near) = (world.process("far"), world.process("near"));
    let (bob, _alice) = (world.app(far, "org/ns/bob"), world.app(near, "org/ns/alice"));
    let connection = world.connect(near, far);
    let name = Name::parse("org/ns/bob").unwrap().with_id(world.name(far, bob).id());
    let names = |world: &World| world.processes[near].node.stats().names;
    assert_eq!(names(&world), 1);
    // The far node's numbers: bob, then the links in their order.
    let subscribe = |world: &mut World, link: u64| {
        let (op, now) = (world.op(), world.now);
        world.processes[far].node.subscribe(bob, &name, ConnectionId(link), op, now).unwrap();
        assert_eq!(world.finish(far, op), Ok(Value::Nothing));
    };
    subscribe(&mut world, 1);
    assert_eq!(names(&world), 2);
    world.cut(near);
    assert_eq!(names(&world), 1, "forgotten at the loss, not at the return");
    world.run(3 * SECOND);
    assert_eq!(names(&world), 1, "and not there after it");

    // A route of our own stays, through a loss and through what the other side takes back.
    world.processes[near].node.set_route(&name, connection).unwrap();
    subscribe(&mut world, 2);
    world.cut(near);
    world.run(3 * SECOND);
    assert_eq!(names(&world), 2);
    subscribe(&mut world, 3);
    let (op, now) = (world.op(), world.now);
    world.processes[far].node.unsubscribe(bob, &name, ConnectionId(3), op, now).unwrap();
    assert_eq!(world.finish(far, op), Ok(Value::Nothing));
    assert_eq!(names(&world), 2);
    // And taking it back does not take what the other side has subscribed.
    subscribe(&mut world, 3);
    world.processes[near].node.remove_route(&name, connection).unwrap();
    assert_eq!(names(&world), 2);
    let error = world.processes[near].node.remove_route(&name, connection).unwrap_err();
    assert!(error.to_string().contains("no such route"), "{error}");
    world.cut(near);
    assert_eq!(names(&world), 1);
}

#[test]
fn a_request_timeout_bounds_the_wait_for_the_response() {
    for (json, limit) in [
        (r#", "request_timeout": "3s""#, 3 * SECOND),
        (r#", "request_timeout": "30s""#, 30 * SECOND),
        ("", limits::RESPONSE_HEAD_TIMEOUT),
    ] {
        let mut world = World::new(1);
        let (node, a) = (world.process("node"), world.process("alice"));
        world.processes[node].paused = true;
        let once = r#", "backoff": {"type": "fixed_interval", "max_attempts": 0}"#;
        let op = world.dial_start(a, node, &format!("{json}{once}"), None);
        let error = world.finish(a, op).unwrap_err().to_string();
        assert!(error.contains("no response head"), "{error}");
        assert_eq!(world.ended_at(a, op), limit);
    }
}

/// Alice at one node and Bob at another, which reach each other over one link between nodes.
struct Far {
    world: World,
    nodes: [usize; 2],
    alice: (usize, SessionKey),
    bob: (usize, SessionKey),
}

fn far(reliable: Option<Retry>) -> Far {
    let mut world = World::new(1);
    let nodes = [world.process("west"), world.process("east")];
    let (a, b) = (world.process("alice"), world.process("bob"));
    let (alice, bob) = (world.app(a, "org/ns/alice"), world.app(b, "org/ns/bob"));
    chain(&mut world, &nodes, (a, alice), (b, bob));
    let config = SessionConfig { reliable, ..SessionConfig::default() };
    let (ours, theirs) = world.open((a, alice), b, "org/ns/bob", config);
    Far { world, nodes, alice: (a, ours), bob: (b, theirs) }
}

/// Joins nodes in a row by links between nodes, an app at each end, with routes both ways.
fn chain(world: &mut World, nodes: &[usize], first: (usize, AppId), last: (usize, AppId)) {
    let [to_first, to_last] = [first, last].map(|(process, app)| world.name(process, app));
    for pair in nodes.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let op = world.dial_start(from, to, r#", "connection_type": "remote""#, None);
        let Ok(Value::Connection(onward)) = world.finish(from, op) else { panic!("not joined") };
        world.run(SECOND / 10);
        // Each node dials one and accepts one; the first number is that of what came first.
        let back = ConnectionId(0);
        world.processes[from].node.set_route(&to_last, onward).unwrap();
        world.processes[to].node.set_route(&to_first, back).unwrap();
    }
    world.attach(first.0, first.1, nodes[0]);
    world.attach(last.0, last.1, nodes[nodes.len() - 1]);
}

#[test]
fn spec02_14_a_message_makes_as_many_hops_as_it_may() {
    // Each node takes one off, and so does the app's own; one must be left.
    let most = limits::TTL as usize - 2;
    for (count, arrives) in [(most, true), (most + 1, false)] {
        let mut world = World::new(1);
        let nodes: Vec<usize> = (0..count).map(|n| world.process(&format!("node{n}"))).collect();
        let (a, b) = (world.process("alice"), world.process("bob"));
        let (alice, bob) = (world.app(a, "org/ns/alice"), world.app(b, "org/ns/bob"));
        chain(&mut world, &nodes, (a, alice), (b, bob));
        let (_, op) = world.open_start(a, alice, "org/ns/bob", SessionConfig::default());
        assert_eq!(world.finish(a, op).is_ok(), arrives, "over {count} nodes");
        // What is dropped is dropped at the end of the way.
        let dropped = world.processes[b].node.stats().dropped;
        assert_eq!(dropped == 0, arrives, "{dropped}");
    }
}

/// Floods both ways at once, and checks that everything arrives.
fn flood(world: &mut World, alice: (usize, SessionKey), bob: (usize, SessionKey)) {
    world.capacity = 16 * 1024;
    let text = "y".repeat(8_000);
    let mut ops = Vec::new();
    for _ in 0..limits::SENDER_WINDOW {
        for (at, session) in [alice, bob] {
            ops.push((at, world.publish(at, session, &text)));
        }
    }
    for (at, op) in ops {
        assert_eq!(world.finish(at, op), Ok(Value::Nothing));
    }
    for (at, session) in [alice, bob] {
        assert_eq!(world.messages(at, session).len(), limits::SENDER_WINDOW);
    }
}

const PATIENT: Retry = Retry { interval: Duration::from_secs(2), max_retries: 100 };

#[test]
fn two_apps_that_flood_each_other_reliably_do_not_lock_up() {
    let mut world = World::new(1);
    let node = world.process("node");
    let (a, b) = (world.process("alice"), world.process("bob"));
    let (alice, bob) = (world.app(a, "org/ns/alice"), world.app(b, "org/ns/bob"));
    world.attach(a, alice, node);
    world.attach(b, bob, node);
    let config = SessionConfig { reliable: Some(PATIENT), ..SessionConfig::default() };
    let (ours, theirs) = world.open((a, alice), b, "org/ns/bob", config);
    flood(&mut world, (a, ours), (b, theirs));
}

#[test]
fn nor_do_they_through_two_nodes() {
    let Far { mut world, alice, bob, .. } = far(Some(PATIENT));
    flood(&mut world, alice, bob);
}

#[test]
fn a_link_between_nodes_that_takes_nothing_stays_and_what_is_in_transit_is_dropped() {
    let Far { mut world, nodes: [west, east], alice, bob } = far(None);
    world.hold("west->east", true);
    let text = "x".repeat(1000);
    for n in 0..5000 {
        world.publish(alice.0, alice.1, &format!("{n} {text}"));
    }
    // The windows are full; whoever sends waits.
    world.run(limits::STUCK_RECEIVER_TIMEOUT - SECOND);
    let waits = |world: &World| world.processes[alice.0].node.stats().backlog;
    let dropped = |world: &World| world.processes[west].node.stats().dropped;
    assert!(waits(&world) > 1_000_000 && dropped(&world) == 0, "{}", waits(&world));
    world.run(2 * SECOND);
    assert!(waits(&world) == 0 && dropped(&world) > 1000, "{}", dropped(&world));
    let stats = world.processes[west].node.stats();
    assert_eq!((stats.connections, stats.up), (2, 2), "it is not cut");
    // It moves again: what waited for it arrives, in order, then what is new.
    world.hold("west->east", false);
    world.run(SECOND);
    let before = dropped(&world);
    world.publish(alice.0, alice.1, "5000 after");
    world.run(SECOND);
    let got = world.messages(bob.0, bob.1);
    let number = |text: &String| text.split(' ').next().unwrap().parse::<usize>().unwrap();
    assert!(got.is_sorted_by_key(number) && got.last().is_some_and(|text| text == "5000 after"));
    assert_eq!(dropped(&world), before);
    // Heartbeats were dropped, too.
    let beats = limits::STUCK_RECEIVER_TIMEOUT.as_secs() / limits::HEARTBEAT.as_secs() + 1;
    let all = got.len() as u64 + before;
    assert!((5001..=5001 + beats).contains(&all), "each arrived or was counted: {all}");
    assert_eq!(world.processes[east].node.stats().dropped, 0);
}

#[test]
fn what_waits_for_a_link_whose_senders_come_back_again_and_again_is_bounded() {
    let Far { mut world, nodes: [west, _], alice, .. } = far(None);
    world.hold("west->east", true);
    let text = "x".repeat(100_000);
    let window = limits::STREAM_WINDOW as usize;
    let bound = limits::TRANSIT_BACKLOG + text.len() + 2000;
    // On each new link another window's worth comes before it has to wait.
    for round in 0..limits::TRANSIT_BACKLOG / window + 8 {
        for _ in 0..window / text.len() + 1 {
            world.publish(alice.0, alice.1, &text);
        }
        world.run(SECOND / 2);
        let stats = world.processes[west].node.stats();
        assert!(stats.backlog <= bound, "round {round}: {stats:?}");
        world.cut(alice.0);
        world.run(SECOND / 2);
    }
    let stats = world.processes[west].node.stats();
    assert!(stats.backlog > limits::TRANSIT_BACKLOG && stats.dropped > 0, "{stats:?}");
}

#[test]
fn spec01_16_a_link_that_lasted_is_dialled_again_at_once_and_a_short_one_after_a_pause() {
    let moment = Duration::from_millis(1);
    for (lasted, pause) in
        [(limits::STABLE_LINK, Duration::ZERO), (limits::STABLE_LINK - moment, 2 * SECOND)]
    {
        let mut world = World::new(1).with_trace();
        let (node, a) = (world.process("node"), world.process("alice"));
        let alice = world.app(a, "org/ns/alice");
        let connection = world.connect(a, node);
        world.run(lasted);
        world.cut(a);
        let start = world.time();
        let up = |world: &World| world.processes[a].node.stats().up == 1;
        assert!(!up(&world) && world.run_until(10 * SECOND, up));
        let took = world.time() - start;
        assert!(took >= pause && took < pause + SECOND / 10, "{took:?} after {lasted:?}");
        // The same link by its id, with a new key.
        let made = negotiations(&world, "alice->node");
        assert_eq!((made.len(), &made[0].link_id), (2, &made[1].link_id));
        assert_ne!(made[0].link_ecdh_public_key, made[1].link_ecdh_public_key);
        world.subscribe(a, alice, connection);
    }
}

/// The end of a stream as a node writes it, without any answer before it if `alone`.
fn trailers(status: &str, alone: bool) -> Vec<u8> {
    const END_STREAM: u8 = 1;
    let head = [(":status", "200"), ("content-type", "application/grpc")];
    let end = [("grpc-status", status), ("grpc-message", "not%20you")];
    let fields = head.iter().filter(|_| alone).chain(&end);
    let block: Vec<u8> = fields.flat_map(|(name, value)| peer::field(name, value)).collect();
    peer::frame(peer::HEADERS, peer::END_HEADERS | END_STREAM, 1, &block)
}

#[test]
fn spec01_18_only_a_node_that_forbids_it_is_not_dialled_again() {
    for (end, again) in [
        (trailers("7", false), false),
        (trailers("0", false), true),
        (trailers("13", false), true),
        (peer::frame(peer::RST_STREAM, 0, 1, &[0, 0, 0, 8]), true),
    ] {
        let mut world = World::new(1).with_trace();
        let node = world.process("node");
        let (a, b) = (world.process("alice"), world.process("bob"));
        let (alice, bob) = (world.app(a, "org/ns/alice"), world.app(b, "org/ns/bob"));
        let connection = world.attach(a, alice, node);
        world.attach(b, bob, node);
        let (ours, _) = world.open((a, alice), b, "org/ns/bob", SessionConfig::default());
        world.run(SECOND);
        world.inject("node->alice", &end);
        world.run(10 * SECOND);
        let made = negotiations(&world, "alice->node").len();
        assert_eq!(made, 1 + usize::from(again), "{end:?}");
        let told: &[Event] = match again {
            true => &[Event::ConnectionLost(connection), Event::ConnectionBack(connection)],
            false => &[Event::ConnectionLost(connection)],
        };
        assert_eq!(world.events(a, ours), told, "{end:?}");
        let stats = world.processes[a].node.stats();
        let (count, names) = (usize::from(again), 1 + usize::from(again));
        assert_eq!((stats.connections, stats.up, stats.subscriptions), (count, count, count));
        assert_eq!(world.processes[node].node.stats().names, names, "{end:?}");
        let now = world.now;
        let known = world.processes[a].node.disconnect(connection, now).is_ok();
        assert_eq!(known, again, "{end:?}");
    }
}

#[test]
fn spec01_18_a_node_that_forbids_it_instead_of_an_answer_is_dialled_once() {
    for (status, again) in [("7", false), ("13", true)] {
        let mut world = World::new(1).with_trace();
        let (node, a) = (world.process("node"), world.process("alice"));
        let op = world.connect_start(a, node, Some(5 * SECOND));
        // The node has had no time to answer yet.
        world.processes[node].paused = true;
        world.inject("node->alice", &trailers(status, true));
        let error = world.finish(a, op).unwrap_err();
        assert!(matches!(error, Error::Connect(_)), "{error}");
        assert!(error.to_string().contains("not you"), "{error}");
        let at_once = world.ended_at(a, op) < SECOND;
        assert_eq!(at_once, !again, "{status}");
        let stats = world.processes[a].node.stats();
        assert_eq!((stats.connections, stats.transports), (0, 0));
        world.processes[node].paused = false;
        world.run(10 * SECOND);
        assert!(world.processes[a].node.is_idle());
    }
}

#[test]
fn spec01_21_a_dialler_asks_whether_its_node_lives_as_its_configuration_wants() {
    for keepalive in [r#", "keepalive": {"http2_keepalive": "1s", "timeout": "2s"}"#, ""] {
        let asks = !keepalive.is_empty();
        let mut world = World::new(1);
        let (node, a) = (world.process("node"), world.process("alice"));
        let alice = world.app(a, "org/ns/alice");
        let op = world.dial_start(a, node, keepalive, None);
        assert_eq!(world.finish(a, op), Ok(Value::Connection(ConnectionId(1))));
        let up = |world: &World| world.processes[a].node.stats().up == 1;
        // A node that answers is left alone, however long nothing is said.
        assert!(!world.run_until(60 * SECOND, |world| !up(world)));
        // One that does not is dead after its time, and is dialled again.
        world.subscribe(a, alice, ConnectionId(1));
        let heard = world.time();
        world.processes[node].paused = true;
        let lost = world.run_until(60 * SECOND, |world| !up(world));
        assert_eq!(lost, asks, "{keepalive}");
        if asks {
            assert_eq!(world.time() - heard, 3 * SECOND);
        }
        world.processes[node].paused = false;
        assert!(world.run_until(5 * SECOND, up));
    }
}

#[test]
fn spec01_17_refused_connections_are_tried_as_often_as_configured() {
    for (backoff, expected) in [
        (r#"{"type": "fixed_interval", "interval": "2s", "max_attempts": 3}"#, 6000),
        (r#"{"type": "exponential", "base": 10, "max_delay": "1h", "max_attempts": 3}"#, 1110),
        (r#"{"type": "fixed_interval", "interval": "2s", "max_attempts": 0}"#, 0),
    ] {
        let mut world = World::new(1);
        let (node, a) = (world.process("node"), world.process("alice"));
        world.processes[node].up = false;
        let op = world.dial_start(a, node, &format!(r#", "backoff": {backoff}"#), None);
        assert!(world.finish(a, op).is_err());
        assert_eq!(world.ended_at(a, op), Duration::from_millis(expected), "{backoff}");
    }
    // By default for ever.
    let mut world = World::new(1);
    let (node, a) = (world.process("node"), world.process("alice"));
    world.processes[node].up = false;
    let op = world.connect_start(a, node, None);
    world.run(3601 * SECOND);
    world.processes[node].up = true;
    assert!(matches!(world.finish(a, op), Ok(Value::Connection(_))));
    assert!(world.time() < 3604 * SECOND);
}

/// The requests of one kind on a link: number, identity and ttl of each, with its bytes.
fn subscriptions(world: &World, link: &str) -> Vec<(u64, Message)> {
    let on_link = world.trace.iter().filter(|(name, _)| name == link);
    on_link
        .filter_map(|(_, message)| match &message.message_type {
            Some(MessageType::Subscribe(s)) => Some((s.subscription_id, message.clone())),
            Some(MessageType::Unsubscribe(s)) => Some((s.subscription_id, message.clone())),
            _ => None,
        })
        .collect()
}

#[test]
fn spec01_15_an_unacknowledged_subscription_is_sent_again_three_times() {
    let mut world = World::new(1).with_trace().with_real_identities();
    let (node, a) = (world.process("node"), world.process("alice"));
    let alice = world.app(a, "org/ns/alice");
    let connection = world.attach(a, alice, node);
    // The minute for which a token is used ends between two tries.
    world.run(53 * SECOND);
    world.processes[node].paused = true;
    let (name, op, now) = (Name::parse("org/ns/alias").unwrap(), world.op(), world.now);
    let start = world.time();
    world.processes[a].node.subscribe(alice, &name, connection, op, now).unwrap();
    let sent = |world: &World| subscriptions(world, "alice->node").split_off(1);
    let mut times = Vec::new();
    let mut seen = 0;
    for tenth in 0..250 {
        let sent = sent(&world).len();
        if sent > seen {
            times.push(tenth / 10);
            seen = sent;
        }
        world.run(SECOND / 10);
    }
    let retry = limits::SUBSCRIPTION_RETRY.as_secs();
    assert_eq!(
        times,
        (0..=u64::from(limits::SUBSCRIPTION_RETRIES)).map(|n| n * retry).collect::<Vec<_>>()
    );
    let sent = sent(&world);
    assert_ne!(sent[0].0, 0);
    let bytes: Vec<Vec<u8>> = sent.iter().map(|(_, message)| message.encode_to_vec()).collect();
    assert!(bytes.iter().all(|again| *again == bytes[0]), "{sent:?}");
    assert_eq!(world.ended_at(a, op) - start, limits::SUBSCRIPTION_WAIT);
    let error = world.finish(a, op).unwrap_err();
    assert!(matches!(error, Error::Timeout(_)), "{error}");
}

#[test]
fn spec01_15_a_subscription_is_given_up_when_the_last_try_was_not_acknowledged() {
    let mut world = World::new(1);
    let (node, a) = (world.process("node"), world.process("alice"));
    let alice = world.app(a, "org/ns/alice");
    let connection = world.connect(a, node);
    world.processes[node].paused = true;
    let (name, op, now) = (world.name(a, alice), world.op(), world.now);
    world.processes[a].node.subscribe(alice, &name, connection, op, now).unwrap();
    let waits = |world: &World| world.processes[a].node.stats().unacknowledged == 1;
    let millisecond = Duration::from_millis(1);
    world.run(limits::SUBSCRIPTION_RETRY * (limits::SUBSCRIPTION_RETRIES + 1) - millisecond);
    assert!(waits(&world), "until 20 s have passed");
    world.run(millisecond);
    assert!(!waits(&world));
    // Nothing more is sent, and the link is none the worse.
    world.processes[node].paused = false;
    world.run(SECOND);
    world.subscribe(a, alice, connection);
}

#[test]
fn spec02_23_what_is_replayed_has_a_fresh_number_and_can_be_taken_back() {
    let mut world = World::new(1).with_trace();
    let (node, a) = (world.process("node"), world.process("alice"));
    let alice = world.app(a, "org/ns/alice");
    let connection = world.attach(a, alice, node);
    let alias = Name::parse("org/ns/alias").unwrap();
    let op = world.op();
    let now = world.now;
    world.processes[a].node.subscribe(alice, &alias, connection, op, now).unwrap();
    assert_eq!(world.finish(a, op), Ok(Value::Nothing));
    // Asked for, and not answered when the link is lost: asked for again with the others.
    world.hold("node->alice", true);
    let third = Name::parse("org/ns/third").unwrap();
    let (waiting, now) = (world.op(), world.now);
    world.processes[a].node.subscribe(alice, &third, connection, waiting, now).unwrap();
    world.run(SECOND);
    world.cut(a);
    world.run(SECOND);
    assert_eq!(world.finish(a, waiting), Ok(Value::Nothing));
    let mut numbers: Vec<u64> =
        subscriptions(&world, "alice->node").into_iter().map(|(id, _)| id).collect();
    assert_eq!(numbers.len(), 6);
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.len() == 6 && numbers[0] != 0, "each its own: {numbers:?}");
    let stats = |world: &World, at: usize| {
        let stats = world.processes[at].node.stats();
        (stats.names, stats.subscriptions, stats.unacknowledged)
    };
    assert_eq!(stats(&world, node), (3, 0, 0));
    for name in [&alias, &third] {
        let (op, now) = (world.op(), world.now);
        world.processes[a].node.unsubscribe(alice, name, connection, op, now).unwrap();
        assert_eq!(world.finish(a, op), Ok(Value::Nothing));
    }
    assert_eq!((stats(&world, node), stats(&world, a)), ((1, 0, 0), (1, 1, 0)));
}

#[test]
fn spec01_19_a_node_forgets_a_client_with_its_link() {
    let mut world = World::new(1);
    let (node, a) = (world.process("node"), world.process("alice"));
    let alice = world.app(a, "org/ns/alice");
    let connection = world.attach(a, alice, node);
    assert_eq!(world.processes[node].node.stats().names, 1);
    let now = world.now;
    world.processes[a].node.disconnect(connection, now).unwrap();
    world.run(3 * Duration::from_millis(1));
    let stats = world.processes[node].node.stats();
    assert_eq!((stats.names, stats.connections), (0, 0), "no grace");
}

#[test]
fn an_app_that_goes_gives_its_names_up_and_the_link_stays() {
    let mut world = World::new(1);
    let (node, a) = (world.process("node"), world.process("alice"));
    let (alice, _other) = (world.app(a, "org/ns/alice"), world.app(a, "org/ns/other"));
    world.attach(a, alice, node);
    let now = world.now;
    world.processes[a].node.remove_app(alice, now);
    world.run(SECOND / 10);
    let (ours, theirs) = (world.processes[a].node.stats(), world.processes[node].node.stats());
    assert_eq!((ours.up, ours.subscriptions, theirs.up, theirs.names), (1, 0, 1, 0));
}

/// A node that listens, and how it is reached.
fn server(keepalive: &str) -> (api::Node, ClientConfig) {
    let json = format!(
        r#"{{"endpoint": "127.0.0.1:0", "tls": {{"insecure": true}}, "keepalive": {keepalive}}}"#
    );
    let node = api::Node::new(&NodeConfig::default()).unwrap();
    let port = node.listen(&ServerConfig::parse(&json).unwrap()).unwrap();
    (node, ClientConfig::parse(&format!("http://127.0.0.1:{port}")).unwrap())
}

#[test]
fn old_links_over_real_sockets() {
    // A grace that a busy machine does not use up.
    let ages = r#"{"max_connection_age": "300ms", "max_connection_age_grace": "30s"}"#;
    let (_server, endpoint) = server(ages);
    let (_a, alice) = app("org/ns/alice", &endpoint);
    let (_b, bob) = app("org/ns/bob", &endpoint);
    let options = api::SessionOptions { events: true, ..api::SessionOptions::default() };
    let ours = alice.open(&options, "org/ns/bob", PATIENCE).unwrap();
    let theirs = bob.accept(true, PATIENCE).unwrap();
    // Two seconds: six links or more for each of the two.
    for n in 0..100 {
        let text = n.to_string();
        ours.publish(text.as_bytes(), &api::PublishOptions::default(), PATIENCE).unwrap();
        match theirs.receive(PATIENCE).unwrap() {
            api::Item::Message(message) => assert_eq!(message.payload, text.as_bytes()),
            api::Item::Event(event) => panic!("{event:?} after {n} messages"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }

    // A client that does not care is told, and then ended in good order.
    let ages = r#"{"max_connection_age": "300ms", "max_connection_age_grace": "400ms"}"#;
    let (_server, endpoint) = server(ages);
    let begun = Instant::now();
    let mut peer = peer::Peer::negotiated(endpoint.endpoint.port);
    peer.subscribe(&peer::name("old", 1));
    assert_eq!(peer.answer(), "grpc-status 0, closed");
    let lasted = begun.elapsed();
    assert!(lasted >= Duration::from_millis(700), "{lasted:?}");
}

/// An app with a node of its own, connected.
fn app(name: &str, to: &ClientConfig) -> (api::Node, api::App) {
    let node = api::Node::new(&NodeConfig::default()).unwrap();
    let app = node.app_with_secret(name, SECRET).unwrap();
    app.connect(to, PATIENCE).unwrap();
    (node, app)
}

#[test]
fn floods_over_real_sockets_and_two_nodes() {
    let (west, to_west) = server("{}");
    let (east, to_east) = server("{}");
    let (_a, alice) = app("org/ns/alice", &to_west);
    let (_b, bob) = app("org/ns/bob", &to_east);
    // One link between the nodes for each direction; whose turn it is at a node makes a route there.
    for (node, to, name) in [(&west, &to_east, bob.name()), (&east, &to_west, alice.name())] {
        let json =
            format!(r#"{{"endpoint": "{}", "connection_type": "remote"}}"#, to.endpoint.text);
        let link = node.connect(&ClientConfig::parse(&json).unwrap(), PATIENCE).unwrap();
        let router = node.app_with_secret("org/ns/router", SECRET).unwrap();
        router.set_route(&name.to_string(), link).unwrap();
    }
    let retry = api::Retry { interval: Duration::from_secs(5), max_retries: 20 };
    let options = api::SessionOptions { reliable: Some(retry), ..Default::default() };
    let ours = alice.open(&options, "org/ns/bob", PATIENCE).unwrap();
    let theirs = bob.accept(false, PATIENCE).unwrap();
    let payload = vec![7; 64 * 1024];
    let count = 3 * limits::SESSION_BYTES / payload.len();
    std::thread::scope(|scope| {
        for session in [&ours, &theirs] {
            scope.spawn(|| {
                for _ in 0..count {
                    session.publish(&payload, &Default::default(), PATIENCE).unwrap();
                }
                session.flush(PATIENCE).unwrap();
            });
            scope.spawn(|| {
                for _ in 0..count {
                    let item = session.receive(PATIENCE).unwrap();
                    assert!(matches!(item, api::Item::Message(_)), "{item:?}");
                }
            });
        }
    });
}

#[test]
fn a_link_that_never_reads_is_cut_and_nobody_else_notices() {
    let config = NodeConfig::from_json(r#"{"stuck_receiver_timeout": "1s"}"#).unwrap();
    let node = api::Node::new(&config).unwrap();
    let port = node.listen(&ServerConfig::parse("127.0.0.1:0").unwrap()).unwrap();
    let endpoint = ClientConfig::parse(&format!("http://127.0.0.1:{port}")).unwrap();
    let (_a, alice) = app("org/ns/alice", &endpoint);
    let (_b, bob) = app("org/ns/bob", &endpoint);
    let options = api::SessionOptions { events: true, ..Default::default() };
    let ours = alice.open(&options, "org/ns/bob", PATIENCE).unwrap();
    let theirs = bob.accept(true, PATIENCE).unwrap();
    let talk = |text: &str| {
        ours.publish(text.as_bytes(), &Default::default(), PATIENCE).unwrap();
        match theirs.receive(PATIENCE).unwrap() {
            api::Item::Message(message) => assert_eq!(message.payload, text.as_bytes()),
            api::Item::Event(event) => panic!("{event:?}"),
        }
    };

    let mut deaf = peer::Peer::negotiated(port);
    let name = peer::name("deaf", 1);
    deaf.subscribe(&name);
    let mut sender = peer::Peer::negotiated(port);
    let begun = Instant::now();
    // Until the windows are full.
    while sender.offer(peer::publish(&name, 100_000), Duration::from_millis(200)) {
        talk("meanwhile");
    }
    talk("while it waits");
    // The sender is granted more when the deaf one is gone: it waits for that here.
    sender.drain();
    let waited = begun.elapsed();
    assert!(waited >= SECOND, "{waited:?}");
    talk("after it");
    sender.subscribe(&peer::name("sender", 1));
    assert!(deaf.answer().ends_with("closed"));
}

#[test]
fn decision_17_a_message_that_the_next_hop_would_not_take_is_dropped_and_no_link() {
    let (node, endpoint) = server("{}");
    let mut receiver = peer::Peer::negotiated(endpoint.endpoint.port);
    let far = peer::name("far", 1);
    receiver.subscribe(&far);
    let mut sender = peer::Peer::negotiated(endpoint.endpoint.port);
    // The number of the connection that it came over is what a node adds.
    let (most, added) = (limits::MAX_RECEIVED_MESSAGE, 2);
    let of_len = |len: usize| {
        let message = peer::publish(&far, len - 1000);
        let missing = len - sender.signed(message).encoded_len();
        sender.signed(peer::publish(&far, len - 1000 + missing))
    };
    let (fits, too_long) = (of_len(most - added), of_len(most - added + 1));
    // In the usual shape, then with the metadata first, which a node has to decode.
    for dropped in [1, 2] {
        for (message, arrives) in [(&fits, true), (&too_long, false), (&fits, true)] {
            let mut bytes = message.encode_to_vec();
            assert_eq!(bytes.len(), most - added + usize::from(!arrives));
            if dropped == 2 {
                let metadata = Message { message_type: None, ..message.clone() };
                bytes.rotate_right(metadata.encoded_len());
            }
            sender.send_bytes(&[&peer::prefix(bytes.len() as u32), &bytes[..]].concat());
            let arrived = if arrives { vec![receiver.message()] } else { Vec::new() };
            assert!(answers(&mut sender, &[]).is_empty(), "it is not told");
            assert!(answers(&mut receiver, &[]).is_empty(), "nothing else");
            for got in arrived {
                assert_eq!((got.encoded_len(), &got.metadata), (most, &message.metadata));
            }
        }
        let (stats, _) = node.stats().unwrap();
        assert_eq!((stats.dropped, stats.up, stats.held), (dropped, 2, 0));
    }
}

/// Sends this, and gives what came until the node has answered what was sent after it.
fn answers(peer: &mut peer::Peer, messages: &[Message]) -> Vec<Message> {
    const FENCE: u64 = u64::MAX;
    let fence = peer::subscribe(&peer::name("fence", 1), FENCE);
    for message in messages.iter().chain([&fence]) {
        peer.send_signed(message.clone());
    }
    let mut found = Vec::new();
    loop {
        let message = peer.message();
        match &message.message_type {
            Some(MessageType::SubscriptionAck(ack)) if ack.subscription_id == FENCE => {
                return found;
            }
            _ => found.push(message),
        }
    }
}

/// The acknowledgements among them: number, and the error if there is one.
fn acks(messages: Vec<Message>) -> Vec<(u64, String)> {
    let ack = |message: Message| match message.message_type {
        Some(MessageType::SubscriptionAck(ack)) => {
            assert_eq!(ack.success, ack.error.is_empty());
            (ack.subscription_id, ack.error)
        }
        other => panic!("{other:?}"),
    };
    messages.into_iter().map(ack).collect()
}

fn unsubscribe(to: &Name, subscription_id: u64) -> Message {
    let header = Some(peer::header_of(&mut peer::subscribe(to, 0)).clone());
    let unsubscribe = Unsubscribe { header, subscription_id };
    Message { message_type: Some(MessageType::Unsubscribe(unsubscribe)), ..Message::default() }
}

fn with(mut message: Message, change: impl FnOnce(&mut SlimHeader)) -> Message {
    change(peer::header_of(&mut message));
    message
}

#[test]
fn spec01_14_spec02_19_20_subscriptions_are_answered_as_the_published_node_does() {
    use peer::{name, subscribe};
    let (_server, endpoint) = server("{}");
    let port = endpoint.endpoint.port;
    let mut peer = peer::Peer::negotiated(port);
    let (one, two, other) = (name("s", 1), name("s", 2), name("t", 1));
    let mut ask = |messages: &[Message]| acks(answers(&mut peer, messages));
    let ok = |number: u64| (number, String::new());
    assert_eq!(ask(&[subscribe(&one, 1001)]), [ok(1001)]);
    assert_eq!(ask(&[subscribe(&one, 1001)]), [ok(1001)], "again");
    assert_eq!(ask(&[subscribe(&one, 1002)]), [ok(1002)], "under another number");
    // No number, or too many hops: no answer.
    let old = |ttl| with(subscribe(&other, 5), |header| header.ttl = ttl);
    assert_eq!(ask(&[subscribe(&one, 0), old(1), old(0)]), []);
    let refused = ask(&[
        unsubscribe(&other, 6),
        unsubscribe(&two, 7),
        unsubscribe(&Name::new(["org", "hostile", "s"], NameId::NULL), 8),
        unsubscribe(&one, 9),
        unsubscribe(&other, 0),
    ]);
    let expected = [
        (6, "subscription not found".to_owned()),
        (7, "id not found: 00000000-0000-0000-0000-000000000002".to_owned()),
        (8, "id not found: NULL_COMPONENT".to_owned()),
        (9, "subscription id not found: 9".to_owned()),
    ];
    assert_eq!(refused, expected);
    // Each number counts, until the last is taken back.
    let mut sender = peer::Peer::negotiated(port);
    let reaches = |peer: &mut peer::Peer, sender: &mut peer::Peer| {
        answers(sender, &[peer::publish(&one, 10)]);
        !answers(peer, &[]).is_empty()
    };
    let numbers = [unsubscribe(&one, 1001), unsubscribe(&one, 1002)];
    assert!(reaches(&mut peer, &mut sender));
    for message in &numbers {
        assert!(reaches(&mut peer, &mut sender));
        assert_eq!(acks(answers(&mut peer, std::slice::from_ref(message))).len(), 1);
    }
    assert!(reaches(&mut peer, &mut sender), "number 0 is left");
    answers(&mut peer, &[unsubscribe(&one, 0)]);
    assert!(!reaches(&mut peer, &mut sender));
    // And with the link everything goes.
    peer.subscribe(&one);
    drop(peer);
    let mut again = peer::Peer::negotiated(port);
    assert!(!reaches(&mut again, &mut sender));
}

#[test]
fn spec02_21_where_a_message_goes_is_not_for_its_sender_to_say() {
    let (_server, endpoint) = server("{}");
    let port = endpoint.endpoint.port;
    let mut victim = peer::Peer::negotiated(port);
    victim.subscribe(&peer::name("victim", 1));
    let mut thief = peer::Peer::negotiated(port);
    // The victim's connection has number 0, the thief's 1.
    let secret = peer::name("secret", 1);
    for connection in [0, 1] {
        let forced = |header: &mut SlimHeader| header.forward_to = Some(connection);
        answers(&mut thief, &[with(peer::publish(&secret, 10), forced)]);
        let behalf = |header: &mut SlimHeader| header.recv_from = Some(connection);
        answers(&mut thief, &[with(peer::subscribe(&secret, 7), behalf)]);
        answers(&mut thief, &[with(peer::subscribe(&secret, 7), forced)]);
    }
    assert!(answers(&mut victim, &[]).is_empty());
    // It has subscribed for itself, nothing else. What is not for links goes over none.
    let local = |header: &mut SlimHeader| {
        (header.recv_from, header.forward_to) = (Some(1), Some(0));
    };
    answers(&mut victim, &[with(peer::publish(&secret, 10), local)]);
    let relayed = answers(&mut thief, &[]);
    let [Message { message_type: Some(MessageType::Publish(publish)), .. }] = &relayed[..] else {
        panic!("{relayed:?}");
    };
    let header = publish.header.as_ref().unwrap();
    assert_eq!((header.recv_from, header.forward_to), (None, None));
}

#[test]
fn spec02_12_18_a_message_to_all_reaches_those_who_are_there() {
    let (_server, endpoint) = server("{}");
    let port = endpoint.endpoint.port;
    let group = peer::name("group", 1);
    let mut members: Vec<peer::Peer> = (0..3).map(|_| peer::Peer::negotiated(port)).collect();
    members.iter_mut().for_each(|member| member.subscribe(&group));
    let mut sender = peer::Peer::negotiated(port);
    // One is gone without a word, one does not read; the third gets everything.
    drop(members.remove(0));
    let mut reads = members.remove(0);
    let fanouts = [0, 2, 256, 1 << 31];
    for fanout in fanouts {
        let message = with(peer::publish(&group, 10), |header| header.fanout = fanout);
        answers(&mut sender, &[message]);
    }
    assert_eq!(answers(&mut reads, &[]).len(), fanouts.len());
    assert_eq!(answers(&mut members[0], &[]).len(), fanouts.len(), "and so does who was slow");
    // One of them, whoever: each in its turn.
    for _ in 0..10 {
        answers(&mut sender, &[peer::publish(&group, 10)]);
    }
    assert_eq!(answers(&mut reads, &[]).len(), 5);
}

#[test]
fn spec01_27_what_means_nothing_harms_nothing() {
    let (_server, endpoint) = server("{}");
    let mut peer = peer::Peer::negotiated(endpoint.endpoint.port);
    let ack = SubscriptionAck { subscription_id: 77, success: true, ..Default::default() };
    let exchange = slim::link::key::KeyExchange::from_private([7; 32]).unwrap();
    for message in [
        Message::default(),
        Message { message_type: Some(MessageType::Link(Default::default())), ..Default::default() },
        peer::negotiation("again", &exchange),
        Message { message_type: Some(MessageType::SubscriptionAck(ack)), ..Default::default() },
    ] {
        peer.send(&message);
    }
    // A field that nobody knows.
    let name = peer::name("future", 1);
    let unknown = [0x98, 0x06, 0x07];
    let mut bytes = peer.signed(peer::subscribe(&name, 5)).encode_to_vec();
    bytes.extend_from_slice(&unknown);
    let prefixed = [&[0][..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat();
    peer.send_bytes(&prefixed);
    assert_eq!(acks(answers(&mut peer, &[])), [(5, String::new())]);
}
