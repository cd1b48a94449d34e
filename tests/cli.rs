//! The `slim` program as its users see it: files, signals, exit codes, what it logs.

#[path = "interop/support.rs"]
mod support;

use std::io::Write as _;
use std::path::PathBuf;

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
    let file = Temporary::new("node.yaml", FILE);
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
        ("insecure", "insecur", "dataplane.servers[0].tls.insecur"),
    ] {
        let file = Temporary::new(&format!("bad-{}.yaml", from.len()), &FILE.replace(from, to));
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
    ] {
        let mut process = Process::start("slim", slim().args(arguments).env_remove("CONFIG"));
        assert_eq!(process.wait(), 2, "{arguments:?}");
        assert!(process.output().contains(part), "{}", process.output());
    }
    // Failed: 1.
    for (arguments, part) in [
        (&["node", "--listen", "nowhere"][..], "nowhere"),
        (&["--config", "/no/such/file"], "/no/such/file"),
        (
            &["send", "--local", "o/n", "--remote", "o/n/b", "--shared-secret", SECRET],
            "organization/namespace/service",
        ),
        (&["send", "--local", "o/n/a", "--remote", "o/n/b", "--shared-secret", "short"], "32"),
    ] {
        let mut process = Process::start("slim", slim().args(arguments));
        assert_eq!(process.wait(), 1, "{arguments:?} {}", process.output());
        assert!(process.output().contains(part), "{part}: {}", process.output());
    }
    let mut version = Process::start("slim", slim().arg("--version"));
    version.expect_success();
    assert!(version.output().contains(&format!("Version:\t{}", env!("CARGO_PKG_VERSION"))));
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

#[test]
fn no_secret_token_or_payload_in_any_log() {
    let (mut node, port) = node(slim().env("SLIM_LOG", "trace"));
    let endpoint = format!("http://127.0.0.1:{port}");
    let start = |command: &str, local: &str, more: &[&str]| {
        let common = [command, "--local", local, "--shared-secret", SECRET, "--slim", &endpoint];
        let mut slim = slim();
        Process::start(local, slim.args(common).args(more).env("SLIM_LOG", "trace"))
    };
    let mut bob = start("receive", "org/ns/bob", &["--count", "1", "--reply"]);
    bob.wait_for("ready", |line| line.contains("ready"));
    let pair = ["--metadata", "key=MARKER-METADATA", "--message", "MARKER-PAYLOAD"];
    let mut alice =
        start("send", "org/ns/alice", &[&["--remote", "org/ns/bob"][..], &pair].concat());
    alice.expect_success();
    bob.expect_success();
    node.signal("-TERM");
    node.expect_success();
    for process in [&node, &bob, &alice] {
        let output = process.output();
        let logged: Vec<&str> = output.lines().filter(|line| line.starts_with("! 2")).collect();
        assert!(logged.len() > 3, "nothing was logged: {output}");
        for line in logged {
            // A token is a subject that ends in _ and 8 characters, the time, and more, with colons.
            let token = line.split('_').skip(1).any(|rest| {
                let mut parts = rest.split(':');
                parts.next().is_some_and(|suffix| suffix.len() == 8)
                    && parts.next().is_some_and(|time| time.parse::<u64>().is_ok())
            });
            assert!(!line.contains("MARKER") && !token, "{line}");
        }
    }
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
    std::thread::sleep(std::time::Duration::from_millis(200));
    let before = wakeups(process.id());
    std::thread::sleep(std::time::Duration::from_secs(seconds));
    assert_eq!(wakeups(process.id()), before, "woken without a link");
}
