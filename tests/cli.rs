//! The `slim` program as its users see it: files, signals, exit codes, what it logs.

#[path = "interop/support.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use support::{listening_port, node, slim, Process};

const SECRET: &str = "MARKER-SECRET-of-at-least-32-bytes!!";

/// A file that is gone with the test.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, text: &str) -> Temporary {
        let path = std::env::temp_dir().join(format!("libslim-{}-{name}", std::process::id()));
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        Temporary(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn app(command: &str, name: &str, port: u16, more: &[&str]) -> Process {
    let endpoint = format!("http://127.0.0.1:{port}");
    let common = [command, "--local", name, "--shared-secret", SECRET, "--slim", &endpoint];
    Process::start(name, slim().args(common).args(more))
}

fn receiver(name: &str, port: u16, more: &[&str]) -> Process {
    let process = app("receive", name, port, more);
    process.wait_for("ready", |line| line.contains("ready"));
    process
}

const FILE: &str = "
tracing: {log_level: warn}
runtime: {drain_timeout: 5s}
services:
  slim/0:
    node_id: ${env:NODE_ID}
    dataplane:
      servers: [{endpoint: '127.0.0.1:0', tls: {insecure: true}}]
";

#[test]
fn spec02_34_a_node_from_a_file_carries_messages_and_ends_in_order() {
    let address = Temporary::new("address", "127.0.0.1:0");
    let from_file = format!("'${{file:{}}}'", address.0.display());
    let file = Temporary::new("node.yaml", &FILE.replace("'127.0.0.1:0'", &from_file));
    let path = file.0.to_str().unwrap();
    for arguments in [&["--config", path][..], &["-c", path], &["node", "--config", path]] {
        let mut node = Process::start("node", slim().args(arguments).env("NODE_ID", "of-a-test"));
        let port = listening_port(&node);
        let mut bob = receiver("org/ns/bob", port, &["--count", "1", "--reply"]);
        let mut alice = app("send", "org/ns/alice", port, &["--remote", "org/ns/bob"]);
        alice.expect_success();
        bob.expect_success();
        node.signal("-TERM");
        node.expect_success();
    }
    // By the environment, and with a client: two nodes, and an app at each.
    let mut first = Process::start("first", slim().env("CONFIG", path).env("NODE_ID", "first"));
    let port = listening_port(&first);
    let clients = format!(
        "{FILE}      clients: [{{endpoint: 'http://127.0.0.1:{port}', connection_type: remote}}]\n"
    );
    let file = Temporary::new("second.yaml", &clients);
    let mut second = Process::start(
        "second",
        slim().args(["--config", file.0.to_str().unwrap()]).env("NODE_ID", "second"),
    );
    second.wait_for("connected", |line| line.contains("connected to http://127.0.0.1:"));
    for node in [&mut second, &mut first] {
        node.signal("-INT");
        node.expect_success();
    }
}

#[test]
fn a_file_that_is_wrong_is_refused_with_its_place() {
    for (from, to, part) in [
        ("log_level", "log_leve", "\"tracing.log_leve\", did you mean \"log_level\"?"),
        ("${env:NODE_ID}", "${env:NOT_SET_ANYWHERE}", "environment variable not found"),
        ("'127.0.0.1:0'", "'${file:/no/such/file}'", "servers[0].endpoint"),
        ("'127.0.0.1:0'", "'${file:/no/such/file}'", "No such file"),
        ("'127.0.0.1:0'", "'${file:/dev/zero}'", "it is larger than"),
        ("'127.0.0.1:0'", "'${vault:x}'", "only env and file are known"),
        ("insecure", "insecur", "dataplane.servers[0].tls.insecur"),
    ] {
        let file = Temporary::new(&format!("bad-{}.yaml", part.len()), &FILE.replace(from, to));
        let mut node = Process::start(
            "node",
            slim().args(["--config", file.0.to_str().unwrap()]).env("NODE_ID", "n"),
        );
        assert_eq!(node.wait(), 1);
        let output = node.output();
        assert!(
            output.contains("failed to load configuration") && output.contains(part),
            "{output}"
        );
    }
}

#[test]
fn a_node_that_cannot_connect_ends_when_it_is_told_to() {
    let port = support::free_port();
    let text = format!(
        "services: {{slim/0: {{dataplane: {{servers: [{{endpoint: '127.0.0.1:0', tls: {{insecure: \
         true}}}}], clients: [{{endpoint: 'http://127.0.0.1:{port}'}}]}}}}}}"
    );
    let file = Temporary::new("alone.yaml", &text);
    let mut node = Process::start("node", slim().args(["--config", file.0.to_str().unwrap()]));
    listening_port(&node);
    node.signal("-TERM");
    node.expect_success();
}

#[test]
fn decision_31_exit_codes() {
    // Wrong use: 2, with what is wrong.
    for (arguments, part) in [
        (&[][..], "a command or --config FILE is needed"),
        (&["fly"], "fly"),
        (&["node", "--listen"], "--listen"),
        (&["node", "--config", "x", "--listen", "127.0.0.1:0"], "cannot be used with"),
        (&["send", "--local", "org/ns/a"], "--remote"),
        (&["receive", "--local", "o/n/a", "--shared-secret", SECRET, "--count", "x"], "--count"),
        (&["ping", "--local", "o/n/a", "--shared-secret", SECRET], "<NAME>"),
        (
            &["group", "--local", "o/n/a", "--shared-secret", SECRET, "--remote", "o/n/g"],
            "--invites",
        ),
        (&["bench"], "slim bench <COMMAND>"),
        (&["bench", "sub", "--size", "-1"], "-1"),
        (&["bench", "pub", "--reply"], "--reply"),
        (&["bench", "channel"], "slim bench channel <COMMAND>"),
        (&["node", "--version"], "--version"),
    ] {
        let mut process = Process::start("slim", slim().args(arguments).env("CONFIG", ""));
        assert_eq!(process.wait(), 2, "{arguments:?}");
        assert!(process.output().contains(part), "{}", process.output());
    }
    // Failed: 1.
    for (arguments, part) in [
        (&["node", "--listen", "nowhere"][..], "nowhere"),
        (&["--config", "/no/such/file"], "/no/such/file"),
        (&["--config", "/dev/zero"], "larger than"),
        (
            &["send", "--local", "o/n", "--remote", "o/n/b", "--shared-secret", SECRET],
            "organization/namespace/service",
        ),
        (&["send", "--local", "o/n/a", "--remote", "o/n/b", "--shared-secret", "short"], "32"),
        (&["receive", "--local", "o/n/a", "--shared-secret", SECRET, "--slim", "x:0"], "x:0"),
        (&["ping", "--local", "o/n/a", "--shared-secret", SECRET, "--slim", "{", "o/n/b"], "JSON"),
        (&["bench", "sub", "--server", "ftp://x"], "ftp://x"),
        (&["bench", "pub", "--server", "h:x"], "h:x"),
    ] {
        let mut process = Process::start("slim", slim().args(arguments));
        assert_eq!(process.wait(), 1, "{arguments:?} {}", process.output());
        assert!(process.output().contains(part), "{part}: {}", process.output());
    }
    for option in ["--version", "-v", "-V"] {
        let mut version = Process::start("slim", slim().arg(option).env("CONFIG", ""));
        version.expect_success();
        let expected = [
            format!("Version:\t{}", env!("CARGO_PKG_VERSION")),
            format!("Protocol:\t{}", slim::protocol_version()),
        ];
        assert_eq!(version.lines(), expected, "{option}");
    }
}

#[test]
fn ping_says_how_long_each_time_took_and_fails_when_nobody_is_there() {
    let (_node, port) = node(&mut slim());
    let _bob = receiver("org/ns/bob", port, &[]);
    let mut ping = app("ping", "org/ns/alice", port, &["org/ns/bob", "--count", "3"]);
    ping.expect_success();
    let lines = ping.lines();
    let printed: Vec<&String> = lines.iter().filter(|line| !line.starts_with("! ")).collect();
    let times: Vec<f64> = printed
        .iter()
        .filter_map(|line| line.strip_prefix("org/ns/bob: session open in ")?.strip_suffix(" ms"))
        .map(|time| time.parse().unwrap())
        .collect();
    assert_eq!((printed.len(), times.len()), (3, 3), "{lines:?}");
    assert!(times.iter().all(|time| *time > 0.0), "{times:?}");
    let nobody = ["org/ns/nobody", "--count", "3", "--timeout-ms", "300"];
    let mut ping = app("ping", "org/ns/alice", port, &nobody);
    assert_eq!(ping.wait(), 1, "{}", ping.output());
    assert_eq!(ping.count("session open in"), 0, "{}", ping.output());
    assert_eq!(ping.count("! slim: "), 1, "{}", ping.output());
}

#[test]
fn several_listeners_count_and_no_reply() {
    let arguments = ["node", "--listen", "127.0.0.1:0", "--listen", "[::1]:0"];
    let mut node = Process::start("node", slim().args(arguments));
    node.wait_for("second listener", |line| line.contains("listening on [::1]"));
    let first = listening_port(&node);
    let line = node.wait_for("listener", |line| line.contains("[::1]"));
    let second = line.rsplit(':').next().unwrap().to_owned();
    let mut bob = receiver("org/ns/bob", first, &["--count", "3"]);
    let endpoint = format!("http://[::1]:{second}");
    let mut alice = Process::start(
        "alice",
        slim()
            .args(["send", "--local", "org/ns/alice", "--shared-secret", SECRET])
            .args(["--slim", &endpoint, "--remote", "org/ns/bob", "--count", "3", "--no-reply"])
            .args(["--message", "over v6"]),
    );
    alice.expect_success();
    bob.expect_success();
    assert_eq!(bob.count("over v6"), 3, "{}", bob.output());
    node.signal("-TERM");
    node.expect_success();
}

/// Two receivers of one name: with `--anycast` both get some of the messages, else one gets all.
#[test]
fn twenty_messages_reach_any_instance_or_always_the_same() {
    let (_node, port) = node(&mut slim());
    let mut receivers = [(); 2].map(|()| receiver("org/any/bob", port, &["--reply"]));
    for (text, more) in [("in turn", &["--anycast"][..]), ("all to you", &[])] {
        let arguments = ["--remote", "org/any/bob", "--iterations", "20", "--message", text];
        let mut alice = app("send", "org/any/alice", port, &[&arguments[..], more].concat());
        alice.expect_success();
        let answers = alice.count(&format!("{text} from org/any/bob"));
        assert_eq!((answers, alice.count("! delivered")), (20, 20), "{}", alice.output());
    }
    for receiver in &mut receivers {
        receiver.signal("-TERM");
        receiver.expect_success();
    }
    for (text, shares) in [("in turn", [10, 10]), ("all to you", [0, 20])] {
        let mut counts = receivers.each_ref().map(|receiver| receiver.count(text));
        counts.sort_unstable();
        assert_eq!(counts, shares, "{text}");
    }
}

fn member(name: &str, port: u16, more: &[&str]) -> Process {
    let endpoint = format!("http://127.0.0.1:{port}");
    let common = ["group", "--local", name, "--shared-secret", SECRET, "--slim", &endpoint];
    let process = Process::start_listening(name, slim().args(common).args(more));
    process.wait_for("ready", |line| line.starts_with("! ready "));
    process
}

/// Waits for this line.
fn prints(process: &Process, wanted: &str) {
    process.wait_for(wanted, |line| line == wanted);
}

#[test]
fn a_group_on_the_command_line() {
    let (_node, port) = node(&mut slim());
    let mut ann = member("org/g/ann", port, &["--reply"]);
    let mut bob = member("org/g/bob", port, &[]);
    let mut cid = member("org/g/cid", port, &[]);
    let mut dan = member("org/g/dan", port, &["--count", "1"]);
    let invites = ["--invites", "org/g/ann", "--invites", "org/g/bob"];
    let more = [&["--remote", "org/g/chat", "--message", "welcome"], &invites[..]].concat();
    let mut moderator = member("org/g/moderator", port, &more);
    moderator.wait_for("group", |line| line.ends_with(" in org/g/chat, moderator: true"));
    prints(&moderator, "! invited org/g/bob");
    ann.wait_for("group", |line| line.ends_with(" in org/g/chat, moderator: false"));
    for one in [&ann, &bob] {
        prints(one, "org/g/moderator > welcome");
    }
    prints(&moderator, "! delivered");
    // The answer goes to one alone.
    prints(&moderator, "org/g/ann > welcome from org/g/ann");
    bob.tell("  good morning  ");
    prints(&moderator, "org/g/bob >   good morning  ");
    prints(&ann, "org/g/bob >   good morning  ");
    prints(&bob, "org/g/ann >   good morning   from org/g/ann");
    assert_eq!(bob.count("welcome from"), 0, "{}", bob.output());

    // Away and back.
    bob.tell("suspend");
    prints(&bob, "! suspended");
    moderator.wait_for("event", |line| line.starts_with("! event PeerOffline"));
    moderator.tell("participants");
    for (name, state) in [("moderator", "online"), ("ann", "online"), ("bob", "offline")] {
        let begin = format!("! org/g/{name}/");
        let wanted = |line: &str| line.starts_with(&begin) && line.ends_with(state);
        moderator.wait_for(name, wanted);
    }
    bob.tell("x");
    prints(&bob, "! the session is suspended");
    bob.tell("rejoin");
    prints(&bob, "! back");
    moderator.wait_for("event", |line| line.starts_with("! event PeerOnline"));

    // Who comes and goes.
    bob.tell("invite org/g/cid");
    bob.wait_for("refusal", |line| line.contains("only initiator can modify participants"));
    moderator.tell("invite org/g/cid");
    prints(&moderator, "! invited org/g/cid");
    moderator.tell("invite org/g/dan");
    prints(&moderator, "! invited org/g/dan");
    moderator.tell("invite org/g/cid");
    moderator.wait_for("refusal", |line| line.contains("already in group: org/g/cid"));
    bob.tell("to all");
    dan.expect_success();
    prints(&cid, "org/g/bob > to all");
    prints(&dan, "org/g/bob > to all");
    moderator.wait_for("leaving", |line| line.starts_with("! event PeerLeft"));
    moderator.tell("remove org/g/cid");
    prints(&moderator, "! removed org/g/cid");
    cid.expect_success();
    assert_eq!(cid.count("removed by the moderator"), 1, "{}", cid.output());
    bob.tell("exit");
    bob.expect_success();
    moderator.wait_for_count("! event PeerLeft", 2);
    moderator.tell("quit");
    moderator.expect_success();
    ann.expect_success();
    assert_eq!(ann.count("closed by the moderator"), 1, "{}", ann.output());
}

#[test]
fn invitations_that_fail_are_said_and_signals_leave() {
    let (_node, port) = node(&mut slim());
    let mut ann = member("org/h/ann", port, &[]);
    let group = ["--remote", "org/h/chat", "--invites", "org/h/nobody", "--invites", "org/h/ann"];
    let quick = ["--interval-ms", "100", "--retries", "1"];
    let quick = [&group[..], &quick].concat();
    let mut moderator = member("org/h/moderator", port, &quick);
    prints(&moderator, "! invited org/h/ann");
    assert_eq!(moderator.count("! org/h/nobody was not invited: "), 1, "{}", moderator.output());
    moderator.tell("exit");
    assert_eq!(moderator.wait(), 1, "{}", moderator.output());
    ann.expect_success();

    let mut bob = member("org/h/bob", port, &[]);
    let group = ["--remote", "org/h/chat", "--invites", "org/h/bob"];
    let mut moderator = member("org/h/moderator", port, &[&group[..], &["--best-effort"]].concat());
    prints(&moderator, "! invited org/h/bob");
    bob.tell("best effort");
    prints(&moderator, "org/h/bob > best effort");
    bob.signal("-INT");
    bob.expect_success();
    // With its last member the group ends.
    moderator.expect_success();
}

/// Runs a publisher with its subscribers to their end; gives what each printed.
fn bench(
    port: u16,
    prefix: &str,
    channel: &[&str],
    sub: &[&str],
    publisher: &[&str],
) -> [String; 2] {
    let server = format!("http://127.0.0.1:{port}");
    let run = |role: &str, flags: &[&str]| {
        let mut command = slim();
        command.arg("bench").args(channel).args([role, "--server", &server, "--prefix", prefix]);
        Process::start(role, command.args(["-n", "300", "--size", "100"]).args(flags))
    };
    let mut sub = run("sub", sub);
    sub.wait_for_count("! ready", 3);
    let mut publisher = run("pub", publisher);
    publisher.expect_success();
    sub.expect_success();
    [&sub, &publisher].map(|process| process.output())
}

/// Each message reaches one of three subscribers, or all of them in a group.
#[test]
fn benches_count_at_the_subscribers() {
    let (_node, port) = node(&mut slim());
    for (number, (sub, more)) in [
        (&[][..], &[][..]),
        (&[], &["--reliable"]),
        (&["--reply"], &["--request"]),
        (&["--reply"], &["--reliable", "--request"]),
    ]
    .into_iter()
    .enumerate()
    {
        for (channel, each, in_all) in [(&[][..], 100, 300), (&["channel"], 300, 900)] {
            let prefix = format!("bench/{number}-{in_all}");
            let three = ["--count", "3", "--start-index", "5"];
            let (sub, more) = ([&three[..], sub].concat(), [&three[..], more].concat());
            let [sub, publisher] = bench(port, &prefix, channel, &sub, &more);
            let role = if channel.is_empty() { "sub" } else { "channel-sub" };
            for index in 5..8 {
                let begin = format!("{prefix}/{role}-{index}: ");
                let end = format!(" msgs/sec ({each} msgs)");
                let found = sub.lines().filter(|l| l.starts_with(&begin) && l.ends_with(&end));
                assert_eq!(found.count(), 1, "{sub}");
            }
            assert!(sub.contains(&format!(" KiB/sec ({in_all} msgs)")), "{sub}");
            let latency = more.contains(&"--request");
            assert_eq!(publisher.contains("\nLatency: min "), latency, "{publisher}");
        }
    }
}

/// How a text may look in a log that is careless with bytes: as it is, as hexadecimal digits, as the
/// list that `{:?}` makes of bytes, as base64, wherever it begins.
fn forms(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let mut forms = vec![text.to_owned(), hex.to_uppercase(), hex, list.join(", ")];
    for before in 0..3 {
        let encoded = STANDARD.encode([&b"   "[..before], bytes].concat());
        let whole = encoded.len() / 4 * 4 - 4;
        forms.push(encoded[4.min(before * 4)..whole].to_owned());
    }
    forms
}

#[test]
fn no_secret_token_or_payload_in_any_log() {
    let (mut node, port) = node(slim().env("SLIM_LOG", "trace"));
    let other = "MARKER-OTHER-SECRET-of-32-bytes-or-more";
    let headers = format!(
        r#"{{"endpoint": "http://127.0.0.1:{port}", "headers": {{"authorization": "MARKER-HEADER"}}}}"#
    );
    let start = |command: &str, local: &str, secret: &str, more: &[&str]| {
        let common = [command, "--local", local, "--shared-secret", secret, "--slim", &headers];
        let mut slim = slim();
        Process::start(local, slim.args(common).args(more).env("SLIM_LOG", "trace"))
    };
    let mut bob = start("receive", "org/ns/bob", SECRET, &["--count", "2", "--reply"]);
    bob.wait_for("ready", |line| line.contains("ready"));
    let to_bob = ["--remote", "org/ns/bob", "--retries", "2", "--interval-ms", "100"];
    let pair = ["--metadata", "key=MARKER-METADATA", "--message", "MARKER-PAYLOAD"];
    let with_pair = [&to_bob[..], &pair].concat();
    // Another secret, nobody there, and what is no message at all.
    let mut eve = start("send", "org/ns/eve", other, &with_pair);
    assert_eq!(eve.wait(), 1, "{}", eve.output());
    let to_nobody = [&["--remote", "org/ns/nobody"], &with_pair[2..]].concat();
    let mut lost = start("send", "org/ns/lost", SECRET, &to_nobody);
    assert_eq!(lost.wait(), 1, "{}", lost.output());
    let head = slim::grpc::request_head("http", "h:1", "MARKER-AGENT", &[]);
    let head: Vec<(&str, &str)> = head.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    for garbage in [&b"GET /MARKER-PAYLOAD HTTP/1.1\r\n\r\n"[..], b"MARKER-PAYLOAD"] {
        let mut client = slim::http2::Connection::client(&head);
        let mut bytes = Vec::new();
        if garbage.starts_with(b"GET") {
            bytes.extend_from_slice(garbage);
        } else {
            let buffer = client.send_buffer();
            let mark = slim::grpc::begin_message(buffer);
            buffer.extend_from_slice(garbage);
            slim::grpc::end_message(buffer, mark);
            client.write_output(&mut bytes, 1 << 20).unwrap();
        }
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
        socket.write_all(&bytes).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    }
    let mut reliable = start("send", "org/ns/alice", SECRET, &with_pair);
    reliable.expect_success();
    let best_effort = [&with_pair[..], &["--best-effort", "--size", "100000"]].concat();
    let mut best_effort = start("send", "org/ns/carol", SECRET, &best_effort);
    best_effort.expect_success();
    bob.expect_success();
    node.signal("-TERM");
    node.expect_success();
    // Claims, of which every token has a part, begin like this.
    let claims = &STANDARD.encode("{\"pubkey\":\"")[..16];
    let texts = [SECRET, other, "MARKER-HEADER", "MARKER-METADATA", "MARKER-PAYLOAD", claims];
    let mut secrets: Vec<String> = texts.into_iter().flat_map(forms).collect();
    // A subject may be logged, but not bytes in which one is.
    for subject in ["bob", "eve", "lost", "alice", "carol"] {
        secrets.extend(forms(&format!("org/ns/{subject}_")).into_iter().skip(1));
    }
    for process in [&node, &bob, &eve, &lost, &reliable, &best_effort] {
        let output = process.output();
        let logged: Vec<&str> = output.lines().filter(|line| line.starts_with("! 2")).collect();
        assert!(logged.len() > 3, "nothing was logged: {output}");
        for line in logged {
            let secret = secrets.iter().find(|secret| line.contains(*secret));
            assert_eq!(secret, None, "{line}");
            // A token is a subject that ends in _ and 8 characters, the time, and more, with colons.
            let token = line.split('_').skip(1).any(|rest| {
                let mut parts = rest.split(':');
                parts.next().is_some_and(|suffix| suffix.len() == 8)
                    && parts.next().is_some_and(|time| time.parse::<u64>().is_ok())
            });
            assert!(!token, "{line}");
        }
    }
    assert!(node.count(" WARN ") > 0, "no error was provoked: {}", node.output());
}

/// Voluntary switches of all threads of a process: how often it was woken.
fn wakeups(process: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let switches = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    tasks.map(|task| switches(task.unwrap())).sum()
}

#[test]
fn an_idle_node_sleeps() {
    let (process, _) = node(&mut slim());
    let seconds = std::env::var("SLIM_IDLE_SECONDS").map_or(2, |text| text.parse().unwrap());
    // It says that it listens before it first sleeps.
    std::thread::sleep(Duration::from_millis(200));
    let before = wakeups(process.id());
    std::thread::sleep(Duration::from_secs(seconds));
    assert_eq!(wakeups(process.id()), before, "woken without a link");
}

/// One of ours that was sent `size` bytes twice by a best-effort session, none of which `peer` reads:
/// the node has more than its window for it.
fn fill(port: u16, peer: &mut Process, size: usize) -> (slim::api::Node, slim::api::Session) {
    use slim::api::{Node, PublishOptions, SessionOptions};
    use slim::config::{ClientConfig, NodeConfig};
    let wait = Some(support::PATIENCE);
    let ours = Node::new(&NodeConfig::default()).unwrap();
    let app = ours.app_with_secret("org/ns/alice", SECRET).unwrap();
    let endpoint = format!("http://127.0.0.1:{port}");
    app.connect(&ClientConfig::parse(&endpoint).unwrap(), wait).unwrap();
    let options = SessionOptions { reliable: None, ..Default::default() };
    let to_peer = app.open(&options, "org/ns/bob", wait).unwrap();
    let to_carol = app.open(&SessionOptions::default(), "org/ns/carol", wait).unwrap();
    peer.signal("-STOP");
    for _ in 0..2 {
        to_peer.publish(&vec![7; size], &PublishOptions::default(), wait).unwrap();
    }
    // What comes behind it has arrived: so has it.
    let behind = to_carol.publish_start(b"behind", &PublishOptions::default()).unwrap();
    behind.wait(wait).unwrap();
    (ours, to_peer)
}

#[test]
fn draining_ends_in_time_or_at_once_by_a_second_signal() {
    for (timeout, again) in [("400ms", false), ("1h", true)] {
        let name = format!("drain-{timeout}.yaml");
        let file = Temporary::new(&name, &FILE.replace("5s", timeout));
        let mut command = slim();
        command.args(["--config", file.0.to_str().unwrap()]).env("NODE_ID", "n");
        let mut node = Process::start("node", &mut command);
        let port = listening_port(&node);
        let mut bob = receiver("org/ns/bob", port, &[]);
        let _carol = receiver("org/ns/carol", port, &[]);
        let _alice = fill(port, &mut bob, 700_000);
        node.signal("-TERM");
        node.wait_for("first signal", |line| line.contains("stopping, within"));
        let stopping = Instant::now();
        if again {
            node.signal("-INT");
        }
        assert_eq!(node.wait(), 1, "{}", node.output());
        // The default would be 10 s.
        assert!(stopping.elapsed() < Duration::from_secs(6), "{:?}", stopping.elapsed());
        let said =
            if again { "ended at once by a second signal" } else { "peers that did not take all" };
        assert_eq!(node.count(said), 1, "{}", node.output());
    }
}

/// Who finds the end of the connection together with that of the stream may not look at the latter.
#[test]
fn a_node_that_stops_lets_its_peers_hang_up_first() {
    let (mut node, port) = node(&mut slim());
    let head = slim::grpc::request_head("http", "h:1", "test", &[]);
    let head: Vec<(&str, &str)> = head.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let mut client = slim::http2::Connection::client(&head);
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut until = |wanted: fn(&slim::http2::Event) -> bool| loop {
        let (mut bytes, mut found, mut buffer) = (Vec::new(), Vec::new(), [0; 4096]);
        client.write_output(&mut bytes, 1 << 20).unwrap();
        socket.write_all(&bytes).unwrap();
        let len = socket.read(&mut buffer).unwrap();
        assert!(len > 0, "the node hung up first");
        client.receive(&buffer[..len], &mut found).unwrap();
        if found.iter().any(wanted) {
            return;
        }
    };
    until(|event| matches!(event, slim::http2::Event::ResponseHead(_)));
    node.signal("-TERM");
    until(|event| matches!(event, slim::http2::Event::Trailers(_)));
    // The listener was closed first: who dials again is refused, and goes on trying.
    let error = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // Nothing more comes but perhaps the rest of the goodbye, no end above all.
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    while let Ok(len) = socket.read(&mut [0; 4096]) {
        assert!(len > 0, "the node hung up first");
    }
    drop(socket);
    node.expect_success();
}

#[test]
fn a_signal_ends_every_app_in_order() {
    let (_node, port) = node(&mut slim());
    let server = format!("http://127.0.0.1:{port}");
    // A receiver without a count is done, and its peer hears of it.
    let mut bob = receiver("org/ns/bob", port, &[]);
    let mut alice = app("send", "org/ns/alice", port, &["--remote", "org/ns/bob"]);
    bob.wait_for("message", |line| line == "hello");
    bob.signal("-TERM");
    bob.expect_success();
    assert_eq!(alice.wait(), 1);
    assert_eq!(alice.count("session closed"), 1, "{}", alice.output());
    // The others were not done.
    let _carol = receiver("org/ns/carol", port, &[]);
    let to_carol = ["--remote", "org/ns/carol"];
    for (mut process, ready) in [
        (receiver("org/ns/dave", port, &["--count", "1"]), "ready"),
        (app("send", "org/ns/erin", port, &to_carol), "established"),
        (
            app("ping", "org/ns/frank", port, &["org/ns/carol", "--count", "1000000"]),
            "session open",
        ),
        (
            Process::start(
                "bench sub",
                slim().args(["bench", "sub", "--server", &server, "--prefix", "a/b"]),
            ),
            "ready",
        ),
        (
            Process::start(
                "bench pub",
                slim().args(["bench", "pub", "--server", &server, "--prefix", "c/d"]),
            ),
            "ready",
        ),
    ] {
        process.wait_for(ready, |line| line.contains(ready));
        process.signal("-INT");
        assert_eq!(process.wait(), 1, "{}", process.output());
        assert_eq!(process.count("stopping, within"), 1, "{}", process.output());
        assert_eq!(process.count("panicked"), 0, "{}", process.output());
    }
}

/// Starts a program whose standard output or error is closed after its first line.
fn until_first_line(command: &mut Command, output: bool) -> (Child, String) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = match output {
        true => command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(),
        false => command.stderr(Stdio::piped()).spawn().unwrap(),
    };
    let (mut line, read): (_, &mut dyn Read) = match output {
        true => (String::new(), child.stdout.as_mut().unwrap()),
        false => (String::new(), child.stderr.as_mut().unwrap()),
    };
    BufReader::with_capacity(1, read).read_line(&mut line).unwrap();
    (child.stdout, child.stderr) = if output { (None, child.stderr) } else { (None, None) };
    (child, line)
}

/// The exit status, and what was said on standard error.
fn end_of(mut child: Child) -> (Option<i32>, String) {
    let deadline = Instant::now() + support::PATIENCE;
    while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Nothing, unless it does not end: then it has no exit status.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn programs_whose_output_nobody_reads_end_in_order() {
    let (mut node, port) = node(&mut slim());
    let endpoint = format!("http://127.0.0.1:{port}");
    let common = ["--shared-secret", SECRET, "--slim", &endpoint];
    // More than there is time for.
    let many = "1000000";
    for (count, status) in [(&[][..], 0), (&["--count", many], 1)] {
        // Like `slim receive | head -1`.
        let mut command = slim();
        command.args(["receive", "--local", "org/ns/bob"]).args(common).args(count);
        let reading = std::thread::spawn(move || until_first_line(&mut command, true));
        let more =
            ["--remote", "org/ns/bob", "--count", many, "--no-reply", "--interval-ms", "200"];
        let mut alice = app("send", "org/ns/alice", port, &more);
        let (bob, line) = reading.join().unwrap();
        assert_eq!(line, "hello\n");
        let (code, text) = end_of(bob);
        assert_eq!((code, text.contains("panicked")), (Some(status), false), "{text}");
        assert_eq!(text.contains("standard output: Broken pipe"), status == 1, "{text}");
        alice.wait();
    }
    let mut command = slim();
    let _carol = receiver("org/ns/carol", port, &[]);
    command.args(["ping", "--local", "org/ns/dave", "org/ns/carol", "--count", many]).args(common);
    let (code, text) = end_of(until_first_line(&mut command, true).0);
    assert_eq!((code, text.contains("panicked")), (Some(1), false), "{text}");
    node.signal("-TERM");
    node.expect_success();
    // And a node that says that it stops, to nobody.
    let mut command = slim();
    command.args(["node", "--listen", "127.0.0.1:0"]);
    let (child, line) = until_first_line(&mut command, false);
    assert!(line.contains("listening on"), "{line}");
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    assert_eq!(end_of(child).0, Some(0));
}

#[test]
fn slim_log_wins_over_the_file_unless_it_is_empty() {
    let file = Temporary::new("log.yaml", &FILE.replace("log_level: warn", "log_level: debug"));
    for (filter, logged) in [(None, true), (Some(""), true), (Some("off"), false)] {
        let mut command = slim();
        command.args(["--config", file.0.to_str().unwrap()]).env("NODE_ID", "n");
        command.env_remove("SLIM_LOG").envs(filter.map(|text| ("SLIM_LOG", text)));
        let mut node = Process::start("node", &mut command);
        let port = listening_port(&node);
        let mut bob = receiver("org/ns/bob", port, &[]);
        bob.signal("-TERM");
        bob.expect_success();
        node.signal("-TERM");
        node.expect_success();
        assert_eq!(node.count(" INFO ") > 0, logged, "{filter:?}: {}", node.output());
    }
}
