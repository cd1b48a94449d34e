//! What encrypted groups leave behind in a process: no thread, and nothing that would hang a forked
//! child. One test, since others beside it would start threads of their own. And their figures.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use slim::api::{App, Mls, Node, PublishOptions, SessionOptions};
use slim::clock::Now;
use slim::config::{ClientConfig, NodeConfig, ServerConfig};
use slim::entropy::SystemEntropy;
use slim::identity::{Provider, SharedSecret, SharedSecretVerifier};
use slim::mls::{Candidate, Context, Group};

const SECRET: &str = "a secret of at least 32 characters";

/// One app.
struct Peer {
    provider: SharedSecret,
    verifier: SharedSecretVerifier,
    entropy: SystemEntropy,
}

impl Peer {
    fn new(name: &str) -> Peer {
        let mut entropy = SystemEntropy;
        let provider = SharedSecret::new(name, SECRET, &mut entropy).unwrap();
        Peer { provider, verifier: SharedSecretVerifier::new(SECRET).unwrap(), entropy }
    }

    fn cx(&mut self) -> Context<'_> {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Context {
            now: Now { mono: Instant::now(), unix },
            virtual_time: false,
            entropy: &mut self.entropy,
            provider: &mut self.provider,
            verifier: &mut self.verifier,
        }
    }

    fn subject(&self) -> String {
        self.provider.subject().to_owned()
    }
}

/// A moderator and so many members, of whom the first few follow.
fn group_of(size: usize, following: usize) -> Vec<(Peer, Group)> {
    let mut moderator = Peer::new("moderator");
    let from = moderator.subject();
    let group = Group::create(&mut moderator.cx()).unwrap();
    let mut members = vec![(moderator, group)];
    for number in 1..size {
        let mut peer = Peer::new(&format!("member{number}"));
        let candidate = Candidate::new(&mut peer.cx()).unwrap();
        let (moderator, group) = &mut members[0];
        let added = group.add(candidate.key_package(), &mut moderator.cx()).unwrap();
        for (peer, group) in &mut members[1..] {
            group.process(&added.commit, &from, &mut peer.cx()).unwrap();
        }
        if number <= following {
            let group = candidate.join(&added.welcome.unwrap(), &from, &mut peer.cx()).unwrap();
            members.push((peer, group));
        }
    }
    members
}

/// All operations, those with a path through the tree among them.
fn live() {
    let mut members = group_of(5, 4);
    let from = members[0].0.subject();
    let last = members[4].0.subject();
    let (moderator, group) = &mut members[0];
    let mut commits = vec![
        group.refresh(&mut moderator.cx()).unwrap(),
        group.remove(&last, &mut moderator.cx()).unwrap(),
    ];
    // And one of the members gets new keys.
    let (mut behind, _) = members.remove(3);
    let candidate = Candidate::new(&mut behind.cx()).unwrap();
    let (moderator, group) = &mut members[0];
    let swap = group.swap(candidate.key_package(), &mut moderator.cx()).unwrap();
    let message = group.seal(b"text", Vec::new(), &mut moderator.cx()).unwrap();
    let welcome = swap.welcome.as_ref().unwrap();
    let mut joined = candidate.join(welcome, &from, &mut behind.cx()).unwrap();
    assert_eq!(joined.open(&message, &mut behind.cx()).unwrap().plaintext, b"text");
    commits.push(swap);
    for (peer, group) in &mut members[1..3] {
        for commit in &commits {
            group.process(&commit.commit, &from, &mut peer.cx()).unwrap();
        }
        assert_eq!(group.open(&message, &mut peer.cx()).unwrap().plaintext, b"text");
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Runs in a forked child, which must end well, and soon.
fn in_child(act: impl FnOnce()) {
    // SAFETY: the child ends with `_exit`; what it does before is what is tested.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        // SAFETY: nothing runs after it.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    while unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == 0 {
        if Instant::now() > deadline {
            // SAFETY: it is our child, not waited for yet.
            unsafe { libc::kill(child, libc::SIGKILL) };
            panic!("the child hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(status, 0, "the child failed");
}

/// A thread is gone from the list a little after it is joined.
fn check_threads(expected: usize) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while threads() != expected {
        assert!(Instant::now() < deadline, "{} threads, not {expected}", threads());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn spec05_20_no_thread_is_left_and_a_forked_child_may_go_on() {
    let before = threads();
    // Before this thread ever used MLS, and after; on the forked thread and on a new one.
    for _ in 0..2 {
        in_child(|| {
            live();
            assert_eq!(threads(), 1);
            std::thread::spawn(live).join().unwrap();
            check_threads(1);
        });
        live();
        assert_eq!(threads(), before);
    }
    // Several nodes of one process, each with its thread.
    let nodes = [(); 3].map(|()| std::thread::spawn(live));
    nodes.into_iter().for_each(|node| node.join().unwrap());
    let mut members = group_of(3, 2);
    in_child(move || {
        // A group that was there already goes on, too.
        let from = members[0].0.subject();
        let (moderator, group) = &mut members[0];
        let commit = group.refresh(&mut moderator.cx()).unwrap().commit;
        for (peer, group) in &mut members[1..] {
            group.process(&commit, &from, &mut peer.cx()).unwrap();
        }
    });
    check_threads(before);
}

/// How long each of the calls took, in the middle, in milliseconds.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn of<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = act();
        self.0.push(start.elapsed());
        result
    }

    fn median(mut self) -> f64 {
        self.0.sort();
        self.0[self.0.len() / 2].as_secs_f64() * 1e3
    }
}

/// `cargo test --release --test mls -- --ignored --nocapture`; the table of spec 05 section 10.
#[test]
#[ignore = "a measurement"]
fn figures() {
    println!("   n     seal     open      add   p.add   remove   p.rem     join");
    for size in [2, 10, 100, 500] {
        let mut members = group_of(size, 1);
        let (mut peer, mut group) = members.pop().unwrap();
        let (mut moderator, mut lead) = members.pop().unwrap();
        let from = moderator.subject();
        let [mut seal, mut open, mut add, mut p_add, mut remove, mut p_remove, mut join] =
            [(); 7].map(|()| Times::default());
        for _ in 0..1000 {
            let aad = vec![8; 400];
            let sealed = seal.of(|| lead.seal(&[7; 1024], aad, &mut moderator.cx()).unwrap());
            open.of(|| group.open(&sealed, &mut peer.cx()).unwrap());
        }
        for round in 0..if size > 100 { 11 } else { 51 } {
            let mut late = Peer::new(&format!("late{round}"));
            let candidate = Candidate::new(&mut late.cx()).unwrap();
            let key_package = candidate.key_package();
            let added = add.of(|| lead.add(key_package, &mut moderator.cx()).unwrap());
            p_add.of(|| group.process(&added.commit, &from, &mut peer.cx()).unwrap());
            let welcome = added.welcome.unwrap();
            join.of(|| candidate.join(&welcome, &from, &mut late.cx()).unwrap());
            let removed = remove.of(|| lead.remove(&late.subject(), &mut moderator.cx()).unwrap());
            p_remove.of(|| group.process(&removed.commit, &from, &mut peer.cx()).unwrap());
        }
        let add = add.median();
        println!(
            "{size:4} {:8.3} {:8.3} {add:8.2} {:7.2} {:8.2} {:7.2} {:8.2}",
            seal.median(),
            open.median(),
            p_add.median(),
            remove.median(),
            p_remove.median(),
            join.median()
        );
        assert!(size > 100 || add <= 2.0, "adding to a group of {size} takes {add:.2} ms");
    }
}

/// Messages of 1 KiB, each acknowledged before the next: in clear and encrypted in turns, over one node.
/// Encryption may cost what sealing and opening costs, and a fifth of it all.
#[test]
#[ignore = "a measurement"]
fn a_reliable_publish_costs_its_crypto() {
    let patience = Some(Duration::from_secs(20));
    let server = Node::new(&NodeConfig::default()).unwrap();
    let port = server.listen(&ServerConfig::parse("127.0.0.1:0").unwrap()).unwrap();
    let endpoint = ClientConfig::parse(&format!("http://127.0.0.1:{port}")).unwrap();
    let peer = |name: &str| -> (Node, App) {
        let node = Node::new(&NodeConfig::default()).unwrap();
        let app = node.app_with_secret(name, SECRET).unwrap();
        app.connect(&endpoint, patience).unwrap();
        (node, app)
    };
    let ((_a, alice), (_b, bob)) = (peer("org/ns/alice"), peer("org/ns/bob"));
    let sessions = [None, Some(Mls::default())].map(|mls| {
        let options = SessionOptions { mls, ..SessionOptions::default() };
        let ours = alice.open(&options, "org/ns/bob", patience).unwrap();
        (ours, bob.accept(false, patience).unwrap())
    });
    let mut times = [Times::default(), Times::default()];
    for round in 0..2200 {
        for ((ours, theirs), times) in sessions.iter().zip(&mut times) {
            let begun = Instant::now();
            let op = ours.publish_start(&[7; 1024], &PublishOptions::default()).unwrap();
            op.wait(patience).unwrap();
            if round >= 200 {
                times.0.push(begun.elapsed());
            }
            theirs.receive(patience).unwrap();
        }
    }
    let mut members = group_of(2, 1);
    let (mut peer, mut group) = members.pop().unwrap();
    let (mut moderator, mut lead) = members.pop().unwrap();
    // How much of it is OpenMLS's is measured beside the code of `slim::mls`.
    let [mut seal, mut open] = [(); 2].map(|()| Times::default());
    for _ in 0..1000 {
        let sealed = seal.of(|| lead.seal(&[7; 1024], vec![8; 400], &mut moderator.cx()).unwrap());
        open.of(|| group.open(&sealed, &mut peer.cx()).unwrap());
    }
    let [plain, sealed] = times.map(Times::median);
    let crypto = seal.median() + open.median();
    let bar = (plain + crypto) * 1.2;
    println!("in clear {plain:.3} ms, crypto {crypto:.3}, encrypted {sealed:.3}; bar {bar:.3}");
    assert!(sealed <= bar);
}
