//! Links over a long time: their age, their loss, and what is subscribed over them, in virtual time
//! and over real sockets (spec 01 sections 1.3, 1.5, 5 to 7).

#[path = "hostile/peer.rs"]
#[allow(dead_code)]
mod peer;
#[path = "world/mod.rs"]
mod world;

use std::time::{Duration, Instant};

use slim::api;
use slim::config::{ClientConfig, NodeConfig, ServerConfig};
use slim::link::Age;
use slim::name::Name;
use slim::node::Value;
use slim::router::ConnectionId;
use slim::session::{Event, SessionConfig, SessionKey};
use slim::wire::{LinkNegotiationPayload, LinkType, MessageType};
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
        ("", slim::limits::RESPONSE_HEAD_TIMEOUT),
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
    let ages = r#"{"max_connection_age": "300ms", "max_connection_age_grace": "400ms"}"#;
    let (_server, endpoint) = server(ages);
    let app = |name: &str| {
        let node = api::Node::new(&NodeConfig::default()).unwrap();
        let app = node.app_with_secret(name, SECRET).unwrap();
        app.connect(&endpoint, PATIENCE).unwrap();
        (node, app)
    };
    let (_a, alice) = app("org/ns/alice");
    let (_b, bob) = app("org/ns/bob");
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
    let begun = Instant::now();
    let mut peer = peer::Peer::negotiated(endpoint.endpoint.port);
    peer.subscribe(&peer::name("old", 1));
    assert_eq!(peer.answer(), "grpc-status 0, closed");
    let lasted = begun.elapsed();
    assert!(lasted >= Duration::from_millis(700), "{lasted:?}");
}
