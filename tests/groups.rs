//! Groups over real sockets: many members, and what they cost. `SLIM_SOAK=1`, on a quiet machine and
//! with a release build, holds the figures to their bars: a publish to all to three round trips to one
//! and 20 us for each member. An invitation may take twice what the second one took and the signatures of
//! the other members together, since more has to be done than that, and two cores are not always both busy.

use std::time::{Duration, Instant};

use slim::api::{
    App, Event, Item, Kind, Message, Node, PublishOptions, Retry, Session, SessionOptions,
};
use slim::config::{ClientConfig, NodeConfig, ServerConfig};
use slim::entropy::SystemEntropy;
use slim::error::Error;
use slim::identity::{verify_signature, SigningKey};

const SECRET: &str = "a secret of at least 32 characters";
const PATIENCE: Option<Duration> = Some(Duration::from_secs(40));

fn soak() -> bool {
    std::env::var_os("SLIM_SOAK").is_some()
}

/// A node that listens.
fn server() -> (Node, ClientConfig) {
    let node = Node::new(&NodeConfig::default()).unwrap();
    let port = node.listen(&ServerConfig::parse("127.0.0.1:0").unwrap()).unwrap();
    (node, ClientConfig::parse(&format!("http://127.0.0.1:{port}")).unwrap())
}

/// An app with a node of its own, connected.
fn peer(name: &str, to: &ClientConfig) -> (Node, App) {
    let node = Node::new(&NodeConfig::default()).unwrap();
    let app = node.app_with_secret(name, SECRET).unwrap();
    app.connect(to, PATIENCE).unwrap();
    (node, app)
}

fn group() -> SessionOptions {
    SessionOptions { kind: Kind::Group, events: true, ..SessionOptions::default() }
}

fn message(session: &Session) -> Message {
    loop {
        if let Item::Message(message) = session.receive(PATIENCE).unwrap() {
            return *message;
        }
    }
}

fn publish(session: &Session, text: &[u8]) -> Result<(), Error> {
    session.publish_start(text, &PublishOptions::default())?.wait(PATIENCE)
}

/// The middle one.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// How long a reliable publish takes until everybody has acknowledged it, in the middle of many.
fn round_trip(session: &Session, count: usize) -> Duration {
    let once = |_| {
        let begun = Instant::now();
        publish(session, b"ping").unwrap();
        begun.elapsed()
    };
    median((0..count).map(once).collect())
}

/// What all threads of this process have worked.
fn processor_time() -> Duration {
    let mut used = std::mem::MaybeUninit::uninit();
    // SAFETY: the call fills what it is given, or fails.
    let used = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, used.as_mut_ptr()), 0);
        used.assume_init()
    };
    [used.ru_utime, used.ru_stime]
        .iter()
        .map(|t| Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64))
        .sum()
}

/// What one more member costs the others in signatures: two made, four checked. Measured while another
/// thread does the same: two cores that share their arithmetic do less each than one alone.
fn signatures() -> Duration {
    let measure = || {
        let key = SigningKey::generate(&mut SystemEntropy);
        let text = [7; 500];
        let signature = key.sign(&text).unwrap();
        let once = |_| {
            let begun = Instant::now();
            for _ in 0..2 {
                key.sign(&text).unwrap();
            }
            for _ in 0..4 {
                verify_signature(key.public_key(), &text, &signature).unwrap();
            }
            begun.elapsed()
        };
        median((0..200).map(once).collect())
    };
    std::thread::scope(|scope| {
        let beside = scope.spawn(measure);
        measure().max(beside.join().unwrap())
    })
}

#[test]
fn many_members_cost_no_more_than_they_must() {
    let members = if soak() { 32 } else { 12 };
    let messages = if soak() { 1000 } else { 200 };
    let (_server, endpoint) = server();
    let (_node, moderator) = peer("org/ns/moderator", &endpoint);
    let peers: Vec<(Node, App)> =
        (0..members).map(|n| peer(&format!("org/ns/member{n}"), &endpoint)).collect();

    let pair = moderator.open(&SessionOptions::default(), "org/ns/member0", PATIENCE).unwrap();
    let other = peers[0].1.accept(false, PATIENCE).unwrap();
    let (direct, pings) = (round_trip(&pair, 300), 300);
    (0..pings).for_each(|_| drop(message(&other)));
    pair.close(PATIENCE).unwrap();

    let session = moderator.open(&group(), "org/ns/group", PATIENCE).unwrap();
    let mut invited = Vec::new();
    let mut worked = Vec::new();
    let mut sessions = Vec::new();
    for (n, (_, app)) in peers.iter().enumerate() {
        let (begun, used) = (Instant::now(), processor_time());
        session.invite(&format!("org/ns/member{n}"), PATIENCE).unwrap();
        invited.push(begun.elapsed());
        worked.push(processor_time() - used);
        sessions.push(app.accept(true, PATIENCE).unwrap());
    }
    assert_eq!(session.participants(PATIENCE).unwrap().len(), members + 1);

    for n in 0..messages {
        session.publish(format!("{n}").as_bytes(), &PublishOptions::default(), PATIENCE).unwrap();
    }
    session.flush(PATIENCE).unwrap();
    for (at, member) in sessions.iter().enumerate() {
        for n in 0..messages {
            assert_eq!(message(member).payload, n.to_string(), "member {at}");
        }
    }
    let everybody = round_trip(&session, 300);
    (0..300).for_each(|_| sessions.iter().for_each(|member| drop(message(member))));

    // The last ones are invited as fast as the first, but for the signatures of those in between.
    let signatures = signatures();
    let last = median(invited[members - 3..].to_vec());
    let early = median(invited[1..4].to_vec());
    let work = |at: usize| median(worked[at - 2..(at + 3).min(members)].to_vec());
    let (first, half, second) = (work(2), work(members / 2), work(members - 2));
    let bar = 3 * direct + members as u32 * Duration::from_micros(20);
    // With all on two cores, and nothing but signatures.
    let ideal = early + (members as u32 - 2) * signatures / 2;
    println!(
        "{members} members: round trip to one {direct:?}, to all {everybody:?} (bar {bar:?}); \
         invitations {early:?} at first, {last:?} at last (with nothing but signatures {ideal:?}); \
         signatures of a member {signatures:?}; of both cores together an invitation takes \
         {first:?} at first, {second:?} at last"
    );
    if soak() {
        assert!(everybody <= bar, "{everybody:?} to all, {direct:?} to one: more than {bar:?}");
        // The members of the second half cost no more than those of the first: nothing is quadratic.
        assert!(
            second.saturating_sub(half) <= half.saturating_sub(first) * 3 / 2,
            "{first:?}, {half:?}, {second:?}"
        );
        let bar = ideal * 2;
        assert!(last <= bar, "the last invitation took {last:?}, the first {early:?}: {bar:?}");
    }

    // The members talk, too, and one may answer another alone.
    publish(&sessions[1], b"hello").unwrap();
    let heard = message(&sessions[2]);
    assert_eq!(
        (&heard.payload[..], heard.source.service()),
        (&b"hello"[..], "org/ns/member1".into())
    );
    sessions[2].publish_to(&heard, b"hi", &PublishOptions::default(), PATIENCE).unwrap();
    sessions[2].flush(PATIENCE).unwrap();
    let answer = message(&sessions[1]);
    assert!(answer.is_reply && answer.payload == "hi");

    // Half of them are dropped, which leaves the group in order: the others are told of the end in time.
    let mut peers = peers;
    for _ in 0..members / 2 {
        let (node, app) = peers.pop().unwrap();
        drop(sessions.pop());
        drop((app, node));
    }
    session.close(PATIENCE).unwrap();
    for member in &sessions {
        loop {
            match member.receive(PATIENCE) {
                Ok(Item::Event(Event::Closed(_))) => break,
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn an_invitation_that_nobody_answers_is_taken_back_in_time() {
    let (_server, endpoint) = server();
    let (_node, moderator) = peer("org/ns/moderator", &endpoint);
    let retry = Retry { interval: Duration::from_millis(50), max_retries: 3 };
    let options = SessionOptions { reliable: Some(retry), ..group() };
    let session = moderator.open(&options, "org/ns/group", PATIENCE).unwrap();
    let begun = Instant::now();
    let error = session.invite("org/ns/nobody", Some(Duration::from_millis(60))).unwrap_err();
    assert!(matches!(&error, Error::Timeout(text) if text.contains("org/ns/nobody")), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let error = session.invite("org/ns/nobody", PATIENCE).unwrap_err();
    assert!(matches!(&error, Error::NoRoute(text) if text.contains("org/ns/nobody")), "{error}");
    // Nobody is there to tell.
    session.close(PATIENCE).unwrap();
    let error = session.invite("org/ns/nobody", PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Closed(_)), "{error}");
}

#[test]
fn apps_of_one_process_and_of_others_are_in_one_group() {
    let (server, endpoint) = server();
    // The moderator and a member live in the process of the node itself.
    let moderator = server.app_with_secret("org/ns/moderator", SECRET).unwrap();
    let inside = server.app_with_secret("org/ns/inside", SECRET).unwrap();
    let (node, outside) = peer("org/ns/outside", &endpoint);
    // Two more share a process and a connection.
    let beside = node.app_with_secret("org/ns/beside", SECRET).unwrap();
    let connection = outside.connect(&endpoint, PATIENCE);
    let connection = match connection {
        Ok(connection) => connection,
        Err(_) => node.stats().unwrap().1[0].id,
    };
    beside.subscribe("org/ns/beside", connection, PATIENCE).unwrap();
    let session = moderator.open(&group(), "org/ns/group", PATIENCE).unwrap();
    let mut members = Vec::new();
    for (name, app) in [("inside", &inside), ("outside", &outside), ("beside", &beside)] {
        session.invite(&format!("org/ns/{name}"), PATIENCE).unwrap();
        members.push(app.accept(false, PATIENCE).unwrap());
    }
    members.push(session);
    for from in 0..members.len() {
        publish(&members[from], format!("from {from}").as_bytes()).unwrap();
        for (to, member) in members.iter().enumerate().filter(|(to, _)| *to != from) {
            assert_eq!(message(member).payload, format!("from {from}"), "to {to}");
        }
    }
    members[3].close(PATIENCE).unwrap();
    let stats = server.stats().unwrap().0;
    assert_eq!((stats.sessions, stats.subscriptions), (0, 0));
}
