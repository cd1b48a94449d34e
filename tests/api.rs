//! The blocking Rust API over real sockets: what works, and what every mistake is answered with.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use slim::api::{
    App, Event, Item, Kind, Message, Node, PublishOptions, Retry, Session, SessionOptions,
};
use slim::config::{ClientConfig, NodeConfig, ServerConfig};
use slim::error::Error;
use slim::limits;
use slim::node::Stats;

const SECRET: &str = "a secret of at least 32 characters";
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// A node that listens.
fn server() -> (Node, ClientConfig) {
    let node = Node::new(&NodeConfig::default()).unwrap();
    let port = node.listen(&ServerConfig::parse("127.0.0.1:0").unwrap()).unwrap();
    (node, client(&format!("http://127.0.0.1:{port}")))
}

fn client(endpoint: &str) -> ClientConfig {
    ClientConfig::parse(endpoint).unwrap()
}

/// An app with a node of its own, connected.
fn peer(name: &str, to: &ClientConfig) -> (Node, App) {
    let node = Node::new(&NodeConfig::default()).unwrap();
    let app = node.app_with_secret(name, SECRET).unwrap();
    app.connect(to, PATIENCE).unwrap();
    (node, app)
}

fn quick() -> SessionOptions {
    let retry = Retry { interval: Duration::from_millis(100), max_retries: 4 };
    SessionOptions { reliable: Some(retry), events: true, ..SessionOptions::default() }
}

fn message(session: &Session) -> Message {
    loop {
        if let Item::Message(message) = session.receive(PATIENCE).unwrap() {
            return *message;
        }
    }
}

fn event(session: &Session) -> Event {
    loop {
        if let Item::Event(event) = session.receive(PATIENCE).unwrap() {
            return event;
        }
    }
}

#[test]
fn a_conversation() {
    let (_server, endpoint) = server();
    let (_a, alice) = peer("org/ns/alice", &endpoint);
    let (_b, bob) = peer("org/ns/bob", &endpoint);
    let metadata: BTreeMap<_, _> = [("topic".to_owned(), "weather".to_owned())].into();
    let options = SessionOptions { metadata: metadata.clone(), ..quick() };
    let ours = alice.open(&options, "org/ns/bob", PATIENCE).unwrap();
    let theirs = bob.accept(true, PATIENCE).unwrap();
    assert_eq!(theirs.fields().metadata, metadata);
    assert_eq!(theirs.fields().destination, *alice.name());
    assert!(ours.fields().initiator && !theirs.fields().initiator);

    let publish = PublishOptions { payload_type: "text/plain".into(), metadata: metadata.clone() };
    ours.publish_start(b"hello", &publish).unwrap().wait(PATIENCE).unwrap();
    let got = message(&theirs);
    assert_eq!((&got.payload[..], got.payload_type.as_str()), (&b"hello"[..], "text/plain"));
    assert_eq!((got.metadata.clone(), got.source.clone()), (metadata, alice.name().clone()));
    theirs.publish_to(&got, b"", &PublishOptions::default(), PATIENCE).unwrap();
    theirs.flush(PATIENCE).unwrap();
    let reply = message(&ours);
    assert_eq!((reply.payload.len(), reply.payload_type.as_str()), (0, "msg"));

    ours.close(PATIENCE).unwrap();
    assert_eq!(event(&theirs), Event::Closed("closed by the moderator".into()));
    let error = theirs.receive(PATIENCE).unwrap_err();
    assert!(error.to_string().contains("session closed"), "{error}");
    let error = ours.publish(b"x", &PublishOptions::default(), PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Closed(_)), "{error}");
    let error = ours.close(PATIENCE).unwrap_err();
    assert!(error.to_string().contains("session already closed"), "{error}");
}

#[test]
fn names_that_are_resolved_and_ipv6() {
    let node = Node::new(&NodeConfig::default()).unwrap();
    let port = node.listen(&ServerConfig::parse("127.0.0.1:0").unwrap()).unwrap();
    let (_a, _app) = peer("org/ns/a", &client(&format!("http://localhost:{port}")));
    match node.listen(&ServerConfig::parse("[::1]:0").unwrap()) {
        Ok(port) => drop(peer("org/ns/b", &client(&format!("http://[::1]:{port}")))),
        Err(error) => eprintln!("skipped: this machine has no IPv6 ({error})"),
    }
}

#[test]
fn a_node_of_one_process_carries_several_apps_and_connections() {
    let (_s1, first) = server();
    let (_s2, second) = server();
    let node = Node::new(&NodeConfig::default()).unwrap();
    let near = node.app_with_secret("org/ns/near", SECRET).unwrap();
    let (one, two) =
        (near.connect(&first, PATIENCE).unwrap(), near.connect(&second, PATIENCE).unwrap());
    assert_ne!(one, two);
    let (_f, far) = peer("org/ns/far", &second);
    // Two connections: without a route nobody knows which one is meant.
    let error = near.open(&quick(), "org/ns/far", PATIENCE).unwrap_err();
    assert!(error.to_string().contains("no matching found"), "{error}");
    near.set_route("org/ns/far", two).unwrap();
    let ours = near.open(&quick(), "org/ns/far", PATIENCE).unwrap();
    let theirs = far.accept(true, PATIENCE).unwrap();
    ours.publish(b"over the second", &PublishOptions::default(), PATIENCE).unwrap();
    assert_eq!(&message(&theirs).payload[..], b"over the second");
}

#[test]
fn a_killed_peer_is_undelivered_and_offline() {
    let (_server, endpoint) = server();
    let (_a, alice) = peer("org/ns/alice", &endpoint);
    let (node, bob) = peer("org/ns/bob", &endpoint);
    let ours = alice.open(&quick(), "org/ns/bob", PATIENCE).unwrap();
    let theirs = bob.accept(false, PATIENCE).unwrap();
    // As good as dead: nothing is read or written any more, and nobody takes leave.
    let _kept = (theirs, bob);
    node.stop();
    node.wait(PATIENCE).unwrap();
    // A stopped node says goodbye; what matters here is that the end is bounded and named.
    let begun = Instant::now();
    let result = ours
        .publish_start(b"anybody?", &PublishOptions::default())
        .and_then(|op| op.wait(PATIENCE));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(matches!(result, Err(Error::Undelivered(_) | Error::Closed(_))), "{result:?}");
}

#[test]
fn an_invitation_whose_time_runs_out_has_come_to_its_end_or_is_taken_back() {
    let (_server, endpoint) = server();
    let (node, moderator) = peer("org/ns/moderator", &endpoint);
    let (_a, _far) = peer("org/ns/far", &endpoint);
    let options = SessionOptions { kind: Kind::Group, ..quick() };
    let group = moderator.open(&options, "org/ns/group", PATIENCE).unwrap();
    // A member in the same process joins in the very turn in which it is invited.
    let near = node.app_with_secret("org/ns/near", SECRET).unwrap();
    let (mut came, mut taken_back) = (0, 0);
    for n in 0..100 {
        for name in ["org/ns/near", "org/ns/far"] {
            let result = group.invite(name, Some(Duration::from_micros(30 * n)));
            let members = group.participants(PATIENCE).unwrap();
            let is_in = members.iter().any(|member| member.name.service() == name);
            assert_eq!(result.is_ok(), is_in, "{name} after {} us: {result:?}", 30 * n);
            match result {
                Ok(()) => came += 1,
                Err(Error::Timeout(text)) if text.contains(name) => taken_back += 1,
                Err(error) => panic!("{error}"),
            }
            if is_in {
                group.remove(name, PATIENCE).unwrap();
            }
        }
    }
    eprintln!("{came} came, {taken_back} were taken back");
    drop(near);
}

#[test]
fn malformed_names_are_named() {
    let node = Node::new(&NodeConfig::default()).unwrap();
    for name in ["", "a/b", "a//c", "a/b/c/d/e", "a/b/c/nonsense"] {
        let error = node.app_with_secret(name, SECRET).unwrap_err();
        assert!(matches!(error, Error::InvalidName(_)), "{error}");
        let fault = name.strip_prefix("a/b/c/").filter(|id| !id.contains('/')).unwrap_or(name);
        assert!(error.to_string().contains(fault), "{error}");
    }
    let long = format!("a/b/{}", "c".repeat(limits::NAME_LEN - 4));
    assert!(node.app_with_secret(&long, SECRET).is_ok());
    let error = node.app_with_secret(&format!("{long}c"), SECRET).unwrap_err();
    assert!(error.to_string().contains(&limits::NAME_LEN.to_string()), "{error}");
    let app = node.app_with_secret("a/b/c", SECRET).unwrap();
    let error = app.open(&quick(), "not a name", PATIENCE).unwrap_err();
    assert!(error.to_string().contains("not a name"), "{error}");
}

#[test]
fn c06_short_secrets_are_refused() {
    let node = Node::new(&NodeConfig::default()).unwrap();
    let error = node.app_with_secret("a/b/c", "short").unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Auth(_)), "{text}");
    assert!(text.contains("hmac key is too short") && text.contains("5 bytes"), "{text}");
    assert!(!text.contains("\"short\""));
}

#[test]
fn unknown_configuration_keys_are_named() {
    let error = ClientConfig::parse(r#"{"endpoint": "http://h:1", "tsl": {}}"#).unwrap_err();
    assert_eq!(error.to_string(), r#"unknown key "tsl", did you mean "tls"?"#);
}

#[test]
fn payloads_over_the_limit_are_refused_and_at_the_limit_they_arrive() {
    let (_server, endpoint) = server();
    let (_a, alice) = peer("org/ns/alice", &endpoint);
    let (_b, bob) = peer("org/ns/bob", &endpoint);
    let ours = alice.open(&SessionOptions::default(), "org/ns/bob", PATIENCE).unwrap();
    let theirs = bob.accept(false, PATIENCE).unwrap();
    let limit = limits::MAX_SENT_MESSAGE - limits::MESSAGE_OVERHEAD;
    let payload = vec![7; limit + 1];
    let error = ours.publish(&payload, &PublishOptions::default(), PATIENCE).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::TooLarge { .. }), "{text}");
    assert!(text.contains(&limit.to_string()) && text.contains(&(limit + 1).to_string()), "{text}");
    ours.publish(&payload[1..], &PublishOptions::default(), PATIENCE).unwrap();
    ours.flush(PATIENCE).unwrap();
    assert_eq!(message(&theirs).payload.len(), limit);
}

#[test]
fn reserved_metadata_is_refused() {
    let (_server, endpoint) = server();
    let (_a, alice) = peer("org/ns/alice", &endpoint);
    let (_b, _bob) = peer("org/ns/bob", &endpoint);
    let ours = alice.open(&quick(), "org/ns/bob", PATIENCE).unwrap();
    let metadata = [("slim-peer-subject".to_owned(), "me".to_owned())].into();
    let options = PublishOptions { metadata, ..PublishOptions::default() };
    let error = ours.publish(b"", &options, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("slim-peer-subject"), "{error}");
}

#[test]
fn an_unreachable_endpoint_is_bounded_by_the_callers_time() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let node = Node::new(&NodeConfig::default()).unwrap();
    let endpoint = format!("http://127.0.0.1:{port}");
    let begun = Instant::now();
    let error = node.connect(&client(&endpoint), Some(Duration::from_millis(300))).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3));
    let text = error.to_string();
    assert!(matches!(error, Error::Connect(_)), "{text}");
    assert!(text.contains(&endpoint) && text.contains("refused"), "{text}");

    let json = r#"{"endpoint": "http://no-such-host.invalid:1",
        "backoff": {"type": "fixed_interval", "max_attempts": 0}}"#;
    let error = node.connect(&client(json), PATIENCE).unwrap_err();
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
}

#[test]
fn a_server_that_speaks_something_else_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let node = Node::new(&NodeConfig::default()).unwrap();
    let error = node.connect(&client(&endpoint), Some(Duration::from_millis(700))).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&endpoint), "{text}");
    drop(node);
    server.join().unwrap();
}

#[test]
fn nonsense_harms_neither_the_node_nor_other_links() {
    let (_server, endpoint) = server();
    let address = format!("127.0.0.1:{}", endpoint.endpoint.port);
    let (_a, alice) = peer("org/ns/alice", &endpoint);
    let (_b, bob) = peer("org/ns/bob", &endpoint);
    let ours = alice.open(&quick(), "org/ns/bob", PATIENCE).unwrap();
    let theirs = bob.accept(false, PATIENCE).unwrap();
    for nonsense in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        &[0xff; 5000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00",
    ] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(PATIENCE).unwrap();
        stream.write_all(nonsense).unwrap();
        // The node ends it; what it says before is its own affair.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    for n in 0..10 {
        ours.publish(n.to_string().as_bytes(), &PublishOptions::default(), PATIENCE).unwrap();
        assert_eq!(message(&theirs).payload, n.to_string().into_bytes());
    }
}

#[test]
fn what_is_not_there_yet_says_so() {
    for text in ["https://h:1", r#"{"endpoint": "http://h:1", "auth": {"type": "basic"}}"#] {
        let error = Error::from(ClientConfig::parse(text).unwrap_err());
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    }
}

#[test]
fn handles_may_go_in_any_order_and_waits_end() {
    let (_server, endpoint) = server();
    let (a, alice) = peer("org/ns/alice", &endpoint);
    let (b, bob) = peer("org/ns/bob", &endpoint);
    let ours = alice.open(&quick(), "org/ns/bob", PATIENCE).unwrap();
    let theirs = bob.accept(false, PATIENCE).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| (theirs.receive(None), bob.accept(false, None)));
        drop(b);
        let (message, session) = waiting.join().unwrap();
        assert!(matches!(message, Err(Error::Closed(_))), "{message:?}");
        assert!(matches!(session, Err(Error::Closed(_))), "{session:?}");
    });
    let error = theirs.publish(b"", &PublishOptions::default(), PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Closed(_)), "{error}");
    drop(a);
    drop(alice);
    drop(ours);
}

#[test]
fn subscriptions_and_listeners_that_are_wrong_are_named() {
    let (server, endpoint) = server();
    let error = server
        .listen(&ServerConfig::parse(&format!("127.0.0.1:{}", endpoint.endpoint.port)).unwrap())
        .unwrap_err();
    assert!(matches!(error, Error::Exists(_)), "{error}");
    let (node, app) = peer("org/ns/a", &endpoint);
    let connection = app.connect(&endpoint, PATIENCE).unwrap();
    node.disconnect(connection).unwrap();
    let error = app.subscribe("org/ns/b", connection, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("connection not found"), "{error}");
    let error = node.disconnect(connection).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    let connection = app.connect(&endpoint, PATIENCE).unwrap();
    app.subscribe("org/ns/alias", connection, PATIENCE).unwrap();
    app.unsubscribe("org/ns/alias", connection, PATIENCE).unwrap();
    let error = app.unsubscribe("org/ns/alias", connection, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("org/ns/alias"), "{error}");
}

#[test]
fn c36_a_receive_says_that_its_time_is_over() {
    let (_server, endpoint) = server();
    let (_a, alice) = peer("org/ns/alice", &endpoint);
    let (_b, _bob) = peer("org/ns/bob", &endpoint);
    let ours = alice.open(&quick(), "org/ns/bob", PATIENCE).unwrap();
    for time in [Duration::ZERO, Duration::from_millis(20)] {
        let error = ours.receive(Some(time)).unwrap_err();
        assert!(matches!(error, Error::Timeout(_)), "{error}");
        assert!(error.to_string().contains("receive timeout waiting for message"), "{error}");
    }
}

#[test]
fn c22_an_app_that_does_not_receive_is_bounded_and_gets_everything_later() {
    let (_server, endpoint) = server();
    let (_a, alice) = peer("org/ns/alice", &endpoint);
    let (_b, bob) = peer("org/ns/bob", &endpoint);
    let retry = Retry { interval: Duration::from_millis(100), max_retries: 1000 };
    let options = SessionOptions { reliable: Some(retry), ..SessionOptions::default() };
    let ours = alice.open(&options, "org/ns/bob", PATIENCE).unwrap();
    let theirs = bob.accept(false, PATIENCE).unwrap();
    // More than an inbox and a window hold: the publisher has to wait.
    let payload = vec![1; 64 * 1024];
    let total = 2 * limits::INBOX_BYTES / payload.len();
    let mut sent = 0;
    let options = PublishOptions::default();
    while ours.publish(&payload, &options, Some(Duration::from_millis(300))).is_ok() {
        sent += 1;
        assert!(sent < total, "the publisher never had to wait");
    }
    let kept = (limits::INBOX_BYTES + limits::SESSION_BYTES) / payload.len();
    assert!(sent <= kept + 2, "{sent} messages, {kept} fit");
    for _ in 0..sent {
        assert_eq!(message(&theirs).payload.len(), payload.len());
    }
    ours.flush(PATIENCE).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn an_idle_node_is_small() {
    let mut node = std::process::Command::new(env!("CARGO_BIN_EXE_slim"))
        .args(["node", "--listen", "127.0.0.1:0"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 40];
    let _ = node.stderr.as_mut().unwrap().read(&mut line).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
    node.kill().unwrap();
    node.wait().unwrap();
    let resident = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    let kib: u64 = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib <= 8 * 1024, "an idle node has {kib} KiB");
}

/// What a node holds, without what is counted since the beginning.
fn held(node: &Node) -> Stats {
    Stats { dropped: 0, unreadable: 0, lost: 0, ..node.stats().unwrap().0 }
}

/// These hold what they held, sooner or later.
fn hold_again(nodes: &[&Node], before: &[Stats]) {
    let until = Instant::now() + PATIENCE.unwrap();
    loop {
        let found: Vec<Stats> = nodes.iter().map(|node| held(node)).collect();
        if found == before {
            return;
        }
        assert!(Instant::now() < until, "{found:?}, before {before:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Publishes so many numbers as fast as there is room; what became of each, and how long it took.
fn burst(session: &Session, count: usize) -> Vec<(Result<(), Error>, Duration)> {
    let mut waiting = std::collections::VecDeque::new();
    let mut ended = Vec::new();
    let mut end = |(begun, op): (Instant, slim::api::Op)| {
        let result = op.wait(Some(Duration::from_secs(60)));
        ended.push((result, begun.elapsed()));
    };
    for n in 0..count {
        let text = n.to_string();
        let op = loop {
            match session.publish_start(text.as_bytes(), &PublishOptions::default()) {
                Ok(op) => break op,
                // There is room again when the first has ended.
                Err(Error::Limit(_)) => end(waiting.pop_front().expect("room for one")),
                Err(error) => panic!("{error}"),
            }
        };
        waiting.push_back((Instant::now(), op));
    }
    waiting.into_iter().for_each(&mut end);
    ended
}

/// A burst to any instance of a service: each message arrives once, at one of two receivers. Where
/// nobody is any more, all are undelivered in time. Nothing is left at any node, each time.
#[test]
fn a_burst_to_any_instance_arrives_once_or_is_undelivered_and_leaves_nothing() {
    const COUNT: usize = 1000;
    let anycast = |interval, max_retries| SessionOptions {
        anycast: true,
        reliable: Some(Retry { interval, max_retries }),
        ..SessionOptions::default()
    };
    let (server, endpoint) = server();
    let (node, client) = peer("org/ns/client", &endpoint);
    let alone = [&server, &node].map(held);
    let receivers = [(); 2].map(|()| peer("org/ns/service", &endpoint));
    let [(first, _), (second, _)] = &receivers;
    let nodes = [&server, &node, first, second];
    let before = nodes.map(held);

    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        for (at, (_, app)) in receivers.iter().enumerate() {
            let tell = tell.clone();
            scope.spawn(move || {
                let number = |message: Message| -> usize {
                    String::from_utf8(message.payload.to_vec()).unwrap().parse().unwrap()
                };
                let mut sessions = Vec::new();
                while let Ok(session) = app.accept(false, PATIENCE) {
                    tell.send((at, number(message(&session)))).unwrap();
                    sessions.push(session);
                }
                // Whatever came after the first message of a session.
                for session in sessions {
                    while let Ok(Item::Message(message)) = session.receive(Some(Duration::ZERO)) {
                        tell.send((at, number(*message))).unwrap();
                    }
                }
            });
        }
        let session = client.open(&anycast(Duration::from_secs(1), 60), "org/ns/service", PATIENCE);
        let session = session.unwrap();
        let begun = Instant::now();
        let ended = burst(&session, COUNT);
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        let failed = ended.iter().find(|(result, _)| result.is_err());
        assert!(failed.is_none(), "{failed:?}");
        session.close(PATIENCE).unwrap();
        hold_again(&nodes, &before);
        first.stop();
        second.stop();
    });
    drop(tell);
    let mut got: Vec<(usize, usize)> = told.iter().collect();
    for at in [0, 1] {
        let its = got.iter().filter(|(receiver, _)| *receiver == at).count();
        assert!(its >= COUNT / 4, "receiver {at} got {its}");
    }
    got.sort_by_key(|(_, number)| *number);
    let numbers: Vec<usize> = got.into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>(), "each once");

    drop(receivers);
    hold_again(&[&server, &node], &alone);
    let options = anycast(Duration::from_millis(50), 3);
    let whole = options.reliable.unwrap().total();
    let session = client.open(&options, "org/ns/service", PATIENCE).unwrap();
    for (n, (result, took)) in burst(&session, COUNT).into_iter().enumerate() {
        let undelivered =
            matches!(&result, Err(Error::Undelivered(text)) if text.contains("org/ns/service"));
        assert!(undelivered, "{n}: {result:?}");
        assert!(took < whole + Duration::from_secs(10), "{n} took {took:?}");
    }
    session.close(PATIENCE).unwrap();
    hold_again(&[&server, &node], &alone);
}
