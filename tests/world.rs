//! Sessions in virtual time, over whole networks of node cores.

#[path = "world/mod.rs"]
mod world;

use std::time::Duration;

use slim::error::Error;
use slim::limits;
use slim::node::Value;
use slim::session::{Event, Retry, SessionConfig};
use world::World;

const SECOND: Duration = Duration::from_secs(1);

/// Alice (process 1) and Bob (process 2) at a node (process 0), a session open between them.
struct Two {
    world: World,
    node: usize,
    alice: (usize, slim::session::SessionKey),
    bob: (usize, slim::session::SessionKey),
}

fn two(seed: u64, config: SessionConfig) -> Two {
    let mut world = World::new(seed);
    let node = world.process("node");
    let (a, b) = (world.process("alice"), world.process("bob"));
    let alice = world.app(a, "org/ns/alice");
    let bob = world.app(b, "org/ns/bob");
    world.attach(a, alice, node);
    world.attach(b, bob, node);
    let (ours, theirs) = world.open((a, alice), b, "org/ns/bob", config);
    Two { world, node, alice: (a, ours), bob: (b, theirs) }
}

fn reliable(interval_ms: u64, max_retries: u32) -> SessionConfig {
    let interval = Duration::from_millis(interval_ms);
    SessionConfig { reliable: Some(Retry { interval, max_retries }), ..Default::default() }
}

fn best_effort() -> SessionConfig {
    SessionConfig { reliable: None, ..Default::default() }
}

/// What looks for payloads on the links finds them: those of a session that is not encrypted.
#[test]
#[should_panic(expected = "in clear on")]
fn what_is_in_clear_on_a_link_is_found() {
    let Two { mut world, alice, .. } = two(1, reliable(500, 3));
    world.secret = Some("for nobody's eyes");
    world.publish(alice.0, alice.1, "this is for nobody's eyes");
    world.run(SECOND);
}

/// After everything is closed, nothing may be left.
fn assert_nothing_left(mut world: World) {
    for at in 0..world.processes.len() {
        let now = world.now;
        world.processes[at].node.shut_down(now);
    }
    world.run(Duration::from_secs(10));
    for process in &world.processes {
        assert!(process.node.is_idle(), "{} still holds something", process.name);
    }
}

#[test]
fn messages_both_ways_and_close_from_the_opener() {
    for seed in 0..20 {
        let Two { mut world, alice, bob, .. } = two(seed, reliable(500, 3));
        for n in 1..=50 {
            world.publish(alice.0, alice.1, &format!("a{n}"));
            world.publish(bob.0, bob.1, &format!("b{n}"));
        }
        world.run(SECOND);
        let expected = |who: &str| (1..=50).map(|n| format!("{who}{n}")).collect::<Vec<_>>();
        assert_eq!(world.messages(bob.0, bob.1), expected("a"));
        assert_eq!(world.messages(alice.0, alice.1), expected("b"));
        let op = world.close(alice.0, alice.1);
        assert_eq!(world.finish(alice.0, op), Ok(Value::Nothing));
        assert!(world.processes[bob.0].ended.contains_key(&bob.1));
        let last = world.events(bob.0, bob.1).last();
        assert_eq!(last, Some(&Event::Closed("closed by the moderator".to_owned())));
        assert_nothing_left(world);
    }
}

#[test]
fn close_from_the_invited_side() {
    let Two { mut world, alice, bob, .. } = two(1, reliable(500, 3));
    let op = world.close(bob.0, bob.1);
    assert_eq!(world.finish(bob.0, op), Ok(Value::Nothing));
    let reason = &world.processes[alice.0].ended[&alice.1];
    assert!(reason.starts_with("participant disconnected: org/ns/bob/"), "{reason}");
    assert!(matches!(world.events(alice.0, alice.1)[0], Event::PeerLeft(_)));
    let publish = world.publish(alice.0, alice.1, "too late");
    assert!(matches!(world.finish(alice.0, publish), Err(Error::Closed(_))));
    assert_nothing_left(world);
}

#[test]
fn best_effort_needs_no_acks_and_gives_its_credit_back() {
    let Two { mut world, alice, bob, .. } = two(1, best_effort());
    for n in 0..10 {
        let op = world.publish(alice.0, alice.1, &n.to_string());
        assert_eq!(world.finish(alice.0, op), Ok(Value::Nothing));
    }
    world.run(SECOND);
    assert_eq!(world.messages(bob.0, bob.1).len(), 10);
    assert_eq!(world.processes[alice.0].credit[&alice.1], (10, 10));
    assert_nothing_left(world);
}

#[test]
fn two_apps_of_one_node_need_no_server() {
    let mut world = World::new(1);
    let process = world.process("alone");
    let (alice, _bob) = (world.app(process, "org/ns/alice"), world.app(process, "org/ns/bob"));
    let (a, b) = world.open((process, alice), process, "org/ns/bob", reliable(500, 3));
    world.publish(process, a, "hello");
    world.publish(process, b, "hello yourself");
    world.run(SECOND);
    assert_eq!(world.messages(process, b), ["hello"]);
    assert_eq!(world.messages(process, a), ["hello yourself"]);
    let op = world.close(process, a);
    assert_eq!(world.finish(process, op), Ok(Value::Nothing));
    assert_nothing_left(world);
}

#[test]
fn nobody_answers_and_the_error_says_so_in_time() {
    let mut world = World::new(1);
    let (node, a) = (world.process("node"), world.process("alice"));
    let alice = world.app(a, "org/ns/alice");
    world.attach(a, alice, node);
    let before = world.time();
    let (_, op) = world.open_start(a, alice, "org/ns/nobody", reliable(500, 3));
    let text = world.finish(a, op).unwrap_err().to_string();
    assert!(text.contains("nobody valid answered for org/ns/nobody"), "{text}");
    assert!(text.contains("failed to add participant to session"), "{text}");
    assert_eq!(world.ended_at(a, op) - before, 4 * Duration::from_millis(500));
    assert_nothing_left(world);
}

#[test]
fn without_any_connection_it_fails_at_once() {
    let mut world = World::new(1);
    let a = world.process("alice");
    let alice = world.app(a, "org/ns/alice");
    let (_, op) = world.open_start(a, alice, "org/ns/bob", reliable(500, 3));
    let before = world.time();
    let text = world.finish(a, op).unwrap_err().to_string();
    assert!(text.contains("no route to org/ns/bob"), "{text}");
    assert!(text.contains("no matching found for ["), "{text}");
    assert_eq!(world.ended_at(a, op), before);
    assert_nothing_left(world);
}

#[test]
fn another_secret_is_never_answered() {
    let mut world = World::new(1).with_real_identities();
    let node = world.process("node");
    let (a, b) = (world.process("alice"), world.process("bob"));
    let alice = world.app(a, "org/ns/alice");
    let bob = world.app_with_secret(b, "org/ns/bob", "quite another secret of 32 or more bytes");
    world.attach(a, alice, node);
    world.attach(b, bob, node);
    let (_, op) = world.open_start(a, alice, "org/ns/bob", reliable(100, 2));
    let error = world.finish(a, op).unwrap_err();
    assert!(matches!(error, Error::NoRoute(_)), "{error}");
    assert!(error.to_string().contains("or another secret"), "{error}");
    assert_nothing_left(world);
}

#[test]
fn an_app_with_itself_is_refused() {
    let mut world = World::new(1);
    let a = world.process("alice");
    let alice = world.app(a, "org/ns/alice");
    let (name, op, now) = (world.name(a, alice), world.op(), world.now);
    let result = world.processes[a].node.open_session(alice, Default::default(), &name, op, now);
    let error = result.unwrap_err().to_string();
    assert!(error.contains(&name.to_string()), "{error}");
}

#[test]
fn two_instances_of_one_service_can_talk() {
    let mut world = World::new(1);
    let node = world.process("node");
    let (a, b) = (world.process("first"), world.process("second"));
    let (first, second) = (world.app(a, "org/ns/svc"), world.app(b, "org/ns/svc"));
    world.attach(a, first, node);
    world.attach(b, second, node);
    let (ours, theirs) = world.open((a, first), b, "org/ns/svc", reliable(500, 3));
    world.publish(a, ours, "hello");
    world.run(SECOND);
    assert_eq!(world.messages(b, theirs), ["hello"]);
}

#[test]
fn defect_10_two_instances_of_one_service_are_two_peers() {
    let mut world = World::new(1);
    let node = world.process("node");
    let (a, b, c) = (world.process("first"), world.process("second"), world.process("client"));
    let (first, second) = (world.app(a, "org/ns/svc"), world.app(b, "org/ns/svc"));
    let client = world.app(c, "org/ns/client");
    for (process, app) in [(a, first), (b, second), (c, client)] {
        world.attach(process, app, node);
    }
    // Each is reached under its full name, and only it.
    for (at, app) in [(a, first), (b, second)] {
        let full = world.name(at, app).to_string();
        let (ours, theirs) = world.open((c, client), at, &full, reliable(500, 3));
        world.publish(c, ours, &full);
        world.run(SECOND);
        assert_eq!(world.messages(at, theirs), [full]);
    }
    assert_eq!([a, b].map(|at| world.processes[at].node.stats().sessions), [1, 1]);
    // 03 checklist 19: under the bare name, one of them.
    let (_, op) = world.open_start(c, client, "org/ns/svc", reliable(500, 3));
    assert_eq!(world.finish(c, op), Ok(Value::Nothing));
    world.run(SECOND);
    let sessions = [a, b].map(|at| world.processes[at].node.stats().sessions);
    assert!(matches!(sessions, [2, 1] | [1, 2]), "{sessions:?}");
}

#[test]
fn c24_what_is_published_before_the_peer_has_joined_arrives_first_and_in_order() {
    for config in [reliable(500, 3), best_effort()] {
        let mut world = World::new(1);
        let node = world.process("node");
        let (a, b) = (world.process("alice"), world.process("bob"));
        let (alice, bob) = (world.app(a, "org/ns/alice"), world.app(b, "org/ns/bob"));
        world.attach(a, alice, node);
        world.attach(b, bob, node);
        let (ours, _) = world.open_start(a, alice, "org/ns/bob", config);
        let ops: Vec<_> = (1..=10).map(|n| world.publish(a, ours, &n.to_string())).collect();
        for op in ops {
            assert_eq!(world.finish(a, op), Ok(Value::Nothing));
        }
        world.run(SECOND / 10);
        let (theirs, _) = world.processes[b].accepted.pop_front().unwrap();
        let expected: Vec<String> = (1..=10).map(|n| n.to_string()).collect();
        assert_eq!(world.messages(b, theirs), expected);
    }
}

#[test]
fn idle_sessions_stay_alive_and_a_killed_peer_is_noticed() {
    let Two { mut world, alice, bob, .. } = two(1, reliable(500, 3));
    world.run(300 * SECOND);
    assert!(world.events(alice.0, alice.1).is_empty(), "heartbeats kept it alive");
    assert!(world.events(bob.0, bob.1).is_empty());
    world.kill(bob.0);
    world.run(31 * SECOND);
    assert!(matches!(world.events(alice.0, alice.1), [Event::PeerOffline(_)]));
    // Nobody is there: kept, then given up after (R+1)*T.
    let before = world.time();
    let op = world.publish(alice.0, alice.1, "anybody?");
    let error = world.finish(alice.0, op).unwrap_err();
    assert!(matches!(error, Error::Undelivered(_)), "{error}");
    assert_eq!(world.ended_at(alice.0, op) - before, 2 * SECOND);
    let close = world.close(alice.0, alice.1);
    assert!(matches!(world.finish(alice.0, close), Err(Error::Undelivered(_))));
    assert_nothing_left(world);
}

#[test]
fn a_publish_to_a_killed_peer_is_undelivered_and_names_it() {
    let Two { mut world, alice, bob, .. } = two(1, reliable(500, 3));
    world.kill(bob.0);
    let before = world.time();
    let op = world.publish(alice.0, alice.1, "are you there?");
    let error = world.finish(alice.0, op).unwrap_err();
    assert!(matches!(&error, Error::Undelivered(text) if text.contains("org/ns/bob/")), "{error}");
    assert_eq!(world.ended_at(alice.0, op) - before, 2 * SECOND);
    assert!(matches!(world.events(alice.0, alice.1), [Event::PeerOffline(_)]));
}

#[test]
fn a_cut_link_is_made_again_and_nothing_is_lost() {
    for seed in 0..20 {
        let Two { mut world, node, alice, bob } = two(seed, reliable(500, 5));
        let mut ops = Vec::new();
        for n in 0..60 {
            ops.push(world.publish(alice.0, alice.1, &n.to_string()));
            world.run(Duration::from_millis(40));
            match n {
                10 => world.cut(alice.0),
                25 => world.cut(bob.0),
                40 => world.cut(node),
                _ => {}
            }
        }
        for op in ops {
            assert_eq!(world.finish(alice.0, op), Ok(Value::Nothing), "seed {seed}");
        }
        world.run(2 * SECOND);
        let expected: Vec<String> = (0..60).map(|n| n.to_string()).collect();
        assert_eq!(world.messages(bob.0, bob.1), expected, "seed {seed}");
        let back = |e: &Event| matches!(e, Event::ConnectionBack(_));
        assert_eq!(world.events(alice.0, alice.1).iter().filter(|e| back(e)).count(), 2);
        assert_nothing_left(world);
    }
}

#[test]
fn the_app_of_a_node_that_was_dialled_is_told_of_the_loss_and_the_return() {
    let mut world = World::new(5);
    let (server, a) = (world.process("server"), world.process("alice"));
    let (bob, alice) = (world.app(server, "org/ns/bob"), world.app(a, "org/ns/alice"));
    world.attach(a, alice, server);
    let (ours, theirs) = world.open((a, alice), server, "org/ns/bob", reliable(500, 3));
    world.cut(a);
    let lost = |events: &[Event]| matches!(events, [Event::ConnectionLost(_)]);
    assert!(lost(world.events(server, theirs)) && lost(world.events(a, ours)));
    world.run(SECOND);
    let op = world.publish(a, ours, "here again");
    assert_eq!(world.finish(a, op), Ok(Value::Nothing));
    for (process, session) in [(server, theirs), (a, ours)] {
        let events = world.events(process, session);
        assert!(matches!(events[1..], [Event::ConnectionBack(_)]), "{events:?}");
    }
    let op = world.publish(server, theirs, "welcome");
    assert_eq!(world.finish(server, op), Ok(Value::Nothing));
    let _ = bob;
}

#[test]
fn c18_a_node_that_restarts_is_found_again() {
    let Two { mut world, node, alice, bob } = two(3, reliable(500, 30));
    world.kill(node);
    let op = world.publish(alice.0, alice.1, "into the dark");
    world.run(5 * SECOND);
    world.restart(node);
    assert_eq!(world.finish(alice.0, op), Ok(Value::Nothing));
    assert_eq!(world.messages(bob.0, bob.1), ["into the dark"]);
    world.publish(bob.0, bob.1, "and back");
    world.run(SECOND);
    assert_eq!(world.messages(alice.0, alice.1), ["and back"]);
}

#[test]
fn spec02_36_a_node_that_was_shut_down_is_found_again_within_the_backoff_and_a_second() {
    for down in [1, 700, 1_999, 2_000, 5_300] {
        let Two { mut world, node, alice, bob } = two(3, reliable(500, 30));
        world.run(SECOND);
        let now = world.now;
        world.processes[node].node.shut_down(now);
        // Its listener is closed first.
        world.processes[node].up = false;
        world.run(Duration::from_millis(10));
        assert!(world.processes[node].node.is_idle(), "its links have ended");
        for (at, session) in [alice, bob] {
            assert!(matches!(world.events(at, session), [Event::ConnectionLost(_)]), "{down} ms");
        }
        let op = world.publish(alice.0, alice.1, "meanwhile");
        world.run(Duration::from_millis(down));
        world.restart(node);
        let both = |world: &World| world.processes[node].node.stats().up == 2;
        assert!(world.run_until(3 * SECOND, both), "after {down} ms");
        assert_eq!(world.finish(alice.0, op), Ok(Value::Nothing), "after {down} ms");
        assert_eq!(world.messages(bob.0, bob.1), ["meanwhile"]);
        assert_nothing_left(world);
    }
}

#[test]
fn offline_and_online_again_delivers_once_and_in_order() {
    // Defect 8 of the published implementation: what was delivered before comes again.
    let Two { mut world, node, alice, bob } = two(3, reliable(500, 3));
    world.publish(alice.0, alice.1, "before");
    world.run(SECOND);
    world.kill(node);
    world.run(40 * SECOND);
    assert!(world.events(alice.0, alice.1).iter().any(|e| matches!(e, Event::PeerOffline(_))));
    world.restart(node);
    world.run(15 * SECOND);
    assert!(world.events(alice.0, alice.1).iter().any(|e| matches!(e, Event::PeerOnline(_))));
    let op = world.publish(alice.0, alice.1, "after");
    assert_eq!(world.finish(alice.0, op), Ok(Value::Nothing));
    assert_eq!(world.messages(bob.0, bob.1), ["before", "after"]);
}

#[test]
fn connecting_is_bounded_by_the_callers_time_and_says_why() {
    let mut world = World::new(1);
    let (node, a) = (world.process("node"), world.process("alice"));
    world.processes[node].up = false;
    let op = world.connect_start(a, node, Some(5 * SECOND));
    let error = world.finish(a, op).unwrap_err();
    assert_eq!(world.ended_at(a, op), 5 * SECOND);
    let text = error.to_string();
    assert!(matches!(error, Error::Connect(_)), "{text}");
    assert!(text.contains("http://node:1") && text.contains("refused"), "{text}");
    // With more time, it is there when the node is.
    let op = world.connect_start(a, node, Some(60 * SECOND));
    world.run(9 * SECOND);
    world.processes[node].up = true;
    assert!(matches!(world.finish(a, op), Ok(Value::Connection(_))));
    assert_nothing_left(world);
}

#[test]
fn a_window_of_unacknowledged_messages_gives_its_room_back() {
    let Two { mut world, alice, bob, .. } = two(1, reliable(500, 3));
    for n in 0..limits::SENDER_WINDOW {
        world.publish(alice.0, alice.1, &n.to_string());
    }
    world.run(SECOND);
    assert_eq!(world.messages(bob.0, bob.1).len(), limits::SENDER_WINDOW);
    assert_eq!(world.processes[alice.0].credit[&alice.1].0, limits::SENDER_WINDOW);
    assert_nothing_left(world);
}

#[test]
fn c15_closing_one_session_leaves_the_others_of_the_same_peer() {
    let mut world = World::new(1);
    let node = world.process("node");
    let (a, b) = (world.process("alice"), world.process("bob"));
    let (alice, bob) = (world.app(a, "org/ns/alice"), world.app(b, "org/ns/bob"));
    world.attach(a, alice, node);
    world.attach(b, bob, node);
    let (s1, _) = world.open((a, alice), b, "org/ns/bob", reliable(500, 3));
    let (s2, t2) = world.open((a, alice), b, "org/ns/bob", reliable(500, 3));
    let op = world.close(a, s1);
    assert_eq!(world.finish(a, op), Ok(Value::Nothing));
    let op = world.publish(a, s2, "still here");
    assert_eq!(world.finish(a, op), Ok(Value::Nothing));
    assert_eq!(world.messages(b, t2), ["still here"]);
    let op = world.close(b, t2);
    assert_eq!(world.finish(b, op), Ok(Value::Nothing));
    assert_nothing_left(world);
}

#[test]
fn c31_connect_and_disconnect_a_hundred_times() {
    let mut world = World::new(1);
    let (node, a) = (world.process("node"), world.process("alice"));
    let alice = world.app(a, "org/ns/alice");
    for _ in 0..100 {
        let connection = world.attach(a, alice, node);
        let now = world.now;
        world.processes[a].node.disconnect(connection, now).unwrap();
        world.run(SECOND);
        assert!(world.processes[node].node.is_idle());
    }
    assert_nothing_left(world);
}

/// Alice floods Bob, who does not read. Carol and Dave talk meanwhile.
struct Flood {
    two: Two,
    carol: (usize, slim::session::SessionKey),
    dave: (usize, slim::session::SessionKey),
}

fn flood(seed: u64, messages: usize) -> Flood {
    let mut two = two(seed, best_effort());
    let world = &mut two.world;
    let (c, d) = (world.process("carol"), world.process("dave"));
    let (carol, dave) = (world.app(c, "org/ns/carol"), world.app(d, "org/ns/dave"));
    world.attach(c, carol, two.node);
    world.attach(d, dave, two.node);
    let (ours, theirs) = world.open((c, carol), d, "org/ns/dave", reliable(500, 3));
    world.stall(two.bob.0, true);
    let text = "x".repeat(1000);
    for n in 0..messages {
        world.publish(two.alice.0, two.alice.1, &format!("{n} {text}"));
        if n % 100 == 0 {
            world.run(Duration::from_millis(2));
        }
    }
    world.run(SECOND);
    Flood { two, carol: (c, ours), dave: (d, theirs) }
}

#[test]
fn a_reader_that_stops_bounds_the_nodes_memory_and_disturbs_nobody_else() {
    let Flood { two, carol, dave } = flood(1, 10_000);
    let Two { mut world, node, alice, bob } = two;
    // Ten megabytes were sent; the node keeps no more than a window of them.
    let kept = world.processes[node].node.stats().backlog;
    let window = limits::STREAM_WINDOW as usize;
    assert!(kept > window / 2 && kept < 2 * window, "{kept}");
    assert!(
        world.processes[alice.0].node.stats().backlog > 6_000_000,
        "the rest waits at its source"
    );
    let before = world.time();
    for n in 0..20 {
        let op = world.publish(carol.0, carol.1, &n.to_string());
        assert_eq!(world.finish(carol.0, op), Ok(Value::Nothing));
    }
    assert_eq!(world.messages(dave.0, dave.1).len(), 20);
    assert!(world.time() - before < SECOND, "not slowed down");
    // Bob reads again: everything arrives, in order.
    world.stall(bob.0, false);
    world.run(20 * SECOND);
    let got = world.messages(bob.0, bob.1);
    assert_eq!(got.len(), 10_000);
    assert!(got.iter().enumerate().all(|(n, text)| text.starts_with(&format!("{n} "))));
    assert_eq!(world.processes[node].node.stats().backlog, 0);
    assert_eq!(world.processes[alice.0].credit[&alice.1].0, 10_000);
}

#[test]
fn spec02_36_a_node_that_stops_sends_what_is_queued_before_the_end() {
    let Flood { two, .. } = flood(1, 3_000);
    let Two { mut world, node, alice, bob } = two;
    let kept = world.processes[node].node.stats().backlog;
    assert!(kept > limits::SOCKET_BUFFER, "{kept} bytes would go anyway");
    // What has left alice has arrived at the node: a second has passed.
    let taken = world.processes[alice.0].credit[&alice.1].0;
    let now = world.now;
    world.processes[node].node.shut_down(now);
    world.run(SECOND);
    assert!(!world.processes[node].node.is_idle(), "bob has not taken it yet");
    world.stall(bob.0, false);
    world.run(SECOND);
    let got = world.messages(bob.0, bob.1);
    assert_eq!(got.len(), taken);
    assert!(got.iter().enumerate().all(|(n, text)| text.starts_with(&format!("{n} "))));
    assert!(world.processes[node].node.is_idle());
}

#[test]
fn an_app_that_ends_sends_what_it_has_published_before() {
    let Two { mut world, alice, bob, .. } = two(1, best_effort());
    let text = "z".repeat(1000);
    for n in 0..3_000 {
        world.publish(alice.0, alice.1, &format!("{n} {text}"));
    }
    let now = world.now;
    world.processes[alice.0].node.shut_down(now);
    world.run(10 * SECOND);
    assert_eq!(world.messages(bob.0, bob.1).len(), 3_000);
    assert_nothing_left(world);
}

#[test]
fn an_app_that_takes_nothing_for_a_minute_is_cut() {
    let Flood { two, .. } = flood(1, 3_000);
    let Two { mut world, node, alice, bob } = two;
    world.run(50 * SECOND);
    assert!(world.processes[node].node.stats().backlog > 0);
    world.run(12 * SECOND);
    assert_eq!(
        world.processes[node].node.stats().backlog,
        0,
        "its link is gone, and what waited for it"
    );
    // The others get their windows back.
    world.stall(bob.0, false);
    world.run(SECOND);
    assert_eq!(world.processes[alice.0].node.stats().backlog, 0);
}

#[test]
fn two_apps_that_flood_each_other_do_not_lock_up() {
    let Two { mut world, alice, bob, .. } = two(1, best_effort());
    let text = "y".repeat(20_000);
    for _ in 0..500 {
        world.publish(alice.0, alice.1, &text);
        world.publish(bob.0, bob.1, &text);
    }
    assert!(world.run_until(60 * SECOND, |world| {
        world.messages(bob.0, bob.1).len() == 500 && world.messages(alice.0, alice.1).len() == 500
    }));
    assert_nothing_left(world);
}

#[test]
fn a_full_inbox_takes_nothing_and_loses_nothing() {
    let Two { mut world, alice, bob, .. } = two(1, reliable(500, 10));
    let now = world.now;
    world.processes[bob.0].node.set_inbox_full(bob.1, true, now);
    let ops: Vec<_> = (0..5).map(|n| world.publish(alice.0, alice.1, &n.to_string())).collect();
    world.run(2 * SECOND);
    assert!(world.messages(bob.0, bob.1).is_empty());
    let now = world.now;
    world.processes[bob.0].node.set_inbox_full(bob.1, false, now);
    for op in ops {
        assert_eq!(world.finish(alice.0, op), Ok(Value::Nothing));
    }
    assert_eq!(world.messages(bob.0, bob.1), ["0", "1", "2", "3", "4"]);
}

#[test]
fn a_program_that_ends_has_told_its_peer() {
    let Two { mut world, alice, bob, .. } = two(1, best_effort());
    // At once, before anything has left: the last message, the goodbye.
    let now = world.now;
    let node = &mut world.processes[alice.0].node;
    let payload = slim::session::Payload::new(b"the last".to_vec(), "", Default::default());
    node.publish(alice.1, payload, None, now);
    node.shut_down(now);
    world.run(SECOND);
    assert_eq!(world.messages(bob.0, bob.1), ["the last"]);
    assert!(world.processes[bob.0].ended.contains_key(&bob.1));
}

#[test]
fn a_connection_that_is_being_made_takes_nobodys_messages() {
    let mut world = World::new(1);
    let (node, a, b) = (world.process("node"), world.process("alice"), world.process("bob"));
    let away = world.process("away");
    world.processes[away].up = false;
    let (alice, bob) = (world.app(a, "org/ns/alice"), world.app(b, "org/ns/bob"));
    world.attach(a, alice, node);
    world.attach(b, bob, node);
    world.connect_start(a, away, None);
    world.open((a, alice), b, "org/ns/bob", reliable(500, 3));
}

#[test]
fn a_link_that_ends_as_soon_as_it_is_up_is_not_dialled_without_pause() {
    let mut world = World::new(1);
    let (node, a) = (world.process("node"), world.process("alice"));
    world.connect(a, node);
    let mut dialled = 0;
    for _ in 0..1000 {
        world.cut(a);
        world.run(Duration::from_millis(10));
        dialled += usize::from(world.processes[a].node.stats().up == 1);
    }
    assert!(dialled < 20, "{dialled} links in ten seconds");
}

#[test]
fn what_comes_again_does_not_pile_up() {
    let Two { mut world, node, alice, bob } = two(1, reliable(500, 10));
    world.stall(node, true);
    let text = "z".repeat(16_000);
    for _ in 0..limits::SENDER_WINDOW {
        world.publish(alice.0, alice.1, &text);
    }
    let first = world.processes[alice.0].node.stats().backlog;
    world.run(4 * SECOND);
    let later = world.processes[alice.0].node.stats().backlog;
    // As many as fit, and no more.
    let most = first + limits::REPEAT_BACKLOG;
    assert!((most - 64 * 1024..=most + 64 * 1024).contains(&later), "{first} {later}");
    world.stall(node, false);
    world.run(5 * SECOND);
    assert_eq!(world.messages(bob.0, bob.1).len(), limits::SENDER_WINDOW);
}

#[test]
fn spec02_22_a_subscription_that_nobody_acknowledges_is_asked_for_again_and_again() {
    let mut world = World::new(1);
    let (node, a) = (world.process("node"), world.process("alice"));
    let alice = world.app(a, "org/ns/alice");
    let connection = world.connect(a, node);
    world.stall(node, true);
    let name = slim::name::Name::parse("org/ns/alice").unwrap();
    let ask = |world: &mut World| {
        let (op, now) = (world.op(), world.now);
        world.processes[a].node.subscribe(alice, &name, connection, op, now).unwrap();
        world.settle();
        op
    };
    let before = world.time();
    // Asked twice: neither is answered before its time, as there is no acknowledgement.
    let first = ask(&mut world);
    world.run(SECOND);
    let second = ask(&mut world);
    for op in [first, second] {
        assert!(matches!(world.finish(a, op), Err(Error::Timeout(_))), "{op:?}");
    }
    assert_eq!(world.ended_at(a, second) - before, limits::SUBSCRIPTION_WAIT + SECOND);
    // After the last try, asking begins anew.
    world.run(limits::SUBSCRIPTION_RETRY * (limits::SUBSCRIPTION_RETRIES + 1));
    let third = ask(&mut world);
    world.stall(node, false);
    assert_eq!(world.finish(a, third), Ok(Value::Nothing));
    // And now the answer is known.
    let fourth = ask(&mut world);
    assert_eq!(world.finish(a, fourth), Ok(Value::Nothing));
    assert_eq!(world.processes[node].node.stats().names, 1);
    assert_nothing_left(world);
}
