//! What stands on the C interface: the example programs in C, Python and Go, alone and with each
//! other, the packages' own tests, and the programs of the README. All use the library that was
//! built with this test.
#![cfg(target_os = "linux")]

#[path = "interop/support.rs"]
mod support;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use support::{node, root, slim, wheel, Process, SECRET};

/// A directory with the library as a linker, a loader and pkg-config look for it.
fn library() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        // Cargo puts it beside the test programs; what lies one level higher may be older.
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bindings");
        std::fs::create_dir_all(&dir).unwrap();
        let built = built("libslim.so");
        for name in ["libslim.so", "libslim.so.0"] {
            let _ = std::fs::remove_file(dir.join(name));
            std::os::unix::fs::symlink(&built, dir.join(name)).unwrap();
        }
        let package = std::fs::read_to_string(root().join("include/slim.pc.in")).unwrap();
        let package = package
            .replace("@prefix@", &dir.display().to_string())
            .replace("@libdir@", "${prefix}")
            .replace("@includedir@", &root().join("include").display().to_string())
            .replace("@version@", env!("CARGO_PKG_VERSION"));
        std::fs::write(dir.join("slim.pc"), package).unwrap();
        dir
    })
}

fn built(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().with_file_name(name)
}

/// A command that finds the library, and nothing that the caller's environment says to it.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        name.starts_with("SLIM_") || name.starts_with("MAKE") || name == "MFLAGS"
    }) {
        command.env_remove(name);
    }
    command
        .env("PKG_CONFIG_PATH", library())
        .env("LD_LIBRARY_PATH", library())
        .env("PYTHONPATH", root().join("ffi-examples/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1");
    command
}

/// Runs a command that must succeed.
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&text));
}

fn go_is_there() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let found = Command::new("go").arg("version").output().is_ok_and(|o| o.status.success());
        if !found {
            eprintln!("no Go here: what needs it is left out");
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI has Go");
        }
        found
    })
}

/// One of the languages that the examples are written in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Language {
    C,
    /// C under valgrind, where that is there, with `SLIM_SOAK=1` (`make soak`).
    CheckedC,
    Python,
    Go,
}

use Language::{CheckedC, Go, Python, C};

fn languages() -> Vec<Language> {
    [C, Python, Go].into_iter().filter(|l| *l != Go || go_is_there()).collect()
}

fn under_valgrind(program: PathBuf) -> Command {
    let found = || Command::new("valgrind").arg("--version").output().is_ok();
    if std::env::var_os("SLIM_SOAK").is_none() || !found() {
        return command(program);
    }
    let mut valgrind = command("valgrind");
    valgrind.args(["-q", "--error-exitcode=99", "--leak-check=full"]);
    valgrind.args(["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]);
    valgrind.arg(program);
    valgrind
}

/// The example program of this name.
fn example(language: Language, name: &str) -> Command {
    static C_PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    static GO_PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    let directory = |name: &str| {
        let out = library().join(name);
        std::fs::create_dir_all(&out).unwrap();
        out
    };
    match language {
        CheckedC => under_valgrind(example(C, name).get_program().into()),
        C => command(
            C_PROGRAMS
                .get_or_init(|| {
                    let out = directory("c");
                    let mut make = command("make");
                    make.args(["-s", "-B", "-C"]).arg(root().join("ffi-examples/c"));
                    make.arg(format!("OUT={}", out.display()));
                    run(make.arg("CFLAGS=-O1 -Wall -Wextra -Wpedantic -Wconversion -Werror"));
                    out
                })
                .join(name),
        ),
        Python => {
            let mut python = command("python3");
            python.arg(root().join("ffi-examples/python").join(name).with_extension("py"));
            python
        }
        Go => command(
            GO_PROGRAMS
                .get_or_init(|| {
                    let out = directory("go");
                    let mut go = command("go");
                    go.current_dir(root().join("ffi-examples/go"));
                    run(go.arg("build").arg("-o").arg(&out).arg("./cmd/..."));
                    out
                })
                .join(name),
        ),
    }
}

fn point_to_point(language: Language, local: &str, port: u16) -> Command {
    program(language, "point_to_point", local, port)
}

fn program(language: Language, name: &str, local: &str, port: u16) -> Command {
    let mut command = example(language, name);
    command
        .args(["--local", local, "--shared-secret", SECRET])
        .args(["--slim", &format!("http://127.0.0.1:{port}")]);
    command
}

/// A receiver that waits for sessions.
fn receiver(language: Language, local: &str, port: u16) -> Process {
    let process = Process::start(local, &mut point_to_point(language, local, port));
    process.wait_for("start", |line| line.contains("waiting for new session"));
    process
}

/// The ID in a line "ESC [1m ESC [96m ID, 45 columns wide, ESC [0m text".
fn id(line: &str) -> &str {
    line.strip_prefix("\x1b[1m\x1b[96m").expect("bold cyan").split([' ', '\x1b']).next().unwrap()
}

/// Lines as 07 sections 1.2 and 1.3 print them, IDs replaced. Labels begin with a capital letter,
/// texts have the ID as it is (07 pitfall 9).
fn masked(output: &str, ids: &[(&str, &str)], session: &str) -> Vec<String> {
    let mut text = output.to_owned();
    for (id, name) in ids {
        let label = id[..1].to_uppercase() + &id[1..];
        text = text.replace(id, name).replace(&label, name);
    }
    text.replace(session, "SESSION").lines().map(str::to_owned).collect()
}

fn labelled(name: &str, text: &str) -> String {
    // An ID has 36 characters, which leaves 9 columns.
    format!("\x1b[1m\x1b[96m{name}{}\x1b[0m{text}", " ".repeat(9))
}

fn says_what_the_document_says(language: Language) {
    let mut server = example(language, "server");
    let mut server = Process::start("server", server.args(["--slim", "127.0.0.1:0"]));
    let port = {
        let line = server.wait_for("port", |line| line.contains("listening on port "));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let mut alice = receiver(language, "org/p2p/alice", port);
    let mut bob = point_to_point(language, "org/p2p/bob", port);
    // The last --slim counts; JSON is as good as a URL.
    let json = format!(r#"{{"endpoint": "http://127.0.0.1:{port}", "tls": {{"insecure": true}}}}"#);
    bob.args(["--remote", "org/p2p/alice", "--message", "hey there", "--sticky", "--slim", &json]);
    let mut bob = Process::start("bob", &mut bob);
    bob.expect_success();
    alice.signal("-INT");
    alice.expect_success();
    server.signal("-INT");
    server.expect_success();
    assert_eq!(
        server.output().lines().filter(|l| !l.starts_with("! ")).collect::<Vec<_>>(),
        ["", "Shutting down..."]
    );

    let (alice, bob) = (alice.output(), bob.output());
    let session = {
        let line = alice.lines().find(|line| line.contains("received a new session:"));
        line.unwrap().rsplit("\x1b[0m").next().unwrap()
    };
    let (alice_id, bob_id) = (id(&alice).to_lowercase(), id(&bob).to_lowercase());
    let ids = [(&alice_id[..], "ALICE"), (&bob_id[..], "BOB")];
    let connected = format!("Connected to http://127.0.0.1:{port}");
    let received = "received (from session SESSION): hey there from ALICE";
    let expected = [
        "Created app",
        &connected,
        "Sent message hey there - 1/2:",
        received,
        "Sent message hey there - 2/2:",
        received,
    ];
    assert_eq!(masked(&bob, &ids, session), expected.map(|text| labelled("BOB", text)));

    let waiting = labelled("ALICE", "waiting for new session to be established");
    let exchange = [
        labelled("ALICE", "received (from session SESSION): hey there"),
        labelled("ALICE", "replies: hey there from ALICE"),
    ];
    let mut expected = vec![
        labelled("ALICE", "Created app"),
        labelled("ALICE", &connected),
        waiting.clone(),
        "\x1b[1m\x1b[96mALICE received a new session:\x1b[0mSESSION".to_owned(),
    ];
    expected.extend(exchange.iter().cloned().chain(exchange.iter().cloned()));
    expected.push("Client interrupted by user.".to_owned());
    let mut lines = masked(&alice, &ids, session);
    // It waits again while the session is served: the second such line may stand anywhere.
    let second = lines.iter().rposition(|line| *line == waiting).unwrap();
    lines.remove(second);
    assert_eq!(lines, expected);
}

#[test]
fn seed_p1_to_p16_in_c() {
    says_what_the_document_says(CheckedC);
}

#[test]
fn seed_p1_to_p16_in_python() {
    says_what_the_document_says(Python);
}

#[test]
fn seed_p1_to_p16_in_go() {
    if go_is_there() {
        says_what_the_document_says(Go);
    }
}

#[test]
fn every_language_talks_to_every_other() {
    let (_node, port) = node(&mut slim());
    let languages = languages();
    let receivers: Vec<Process> = languages
        .iter()
        .map(|language| receiver(*language, &format!("org/all/to-{language:?}"), port))
        .collect();
    let mut senders = Vec::new();
    for from in &languages {
        for to in &languages {
            let name = format!("org/all/{from:?}-to-{to:?}");
            let mut command = point_to_point(*from, &name, port);
            // Anycast as well as reliable.
            command.args(["--message", "x", "--iterations", "1"]);
            command.arg("--remote").arg(format!("org/all/to-{to:?}"));
            if from != to {
                command.arg("--sticky");
            }
            senders.push(Process::start(&name, &mut command));
        }
    }
    for sender in &mut senders {
        sender.expect_success();
        assert_eq!(sender.count(": x from "), 1, "{}", sender.output());
    }
    for receiver in &receivers {
        receiver.expect_count("replies: x from", languages.len());
    }
}

/// And to the published package, which talks to each of them.
#[test]
fn every_language_talks_to_every_other_with_mls() {
    let (_node, port) = node(&mut slim());
    let endpoint = format!("http://127.0.0.1:{port}");
    let theirs = |role: &str, local: &str| {
        let mut command = wheel(role);
        command.args(["--local", local, "--slim", &endpoint, "--seconds", "100", "--reply"]);
        command
    };
    let receivers: Vec<Process> = languages()
        .into_iter()
        .map(|language| receiver(language, &format!("org/mls/to-{language:?}"), port))
        .collect();
    let their_receiver = Process::start("theirs", &mut theirs("echo", "org/mls/to-theirs"));
    their_receiver.wait_for("ready", |line| line.contains("\"ready\""));
    let mut senders = Vec::new();
    for from in languages() {
        let to = languages().into_iter().map(|to| format!("{to:?}"));
        for to in to.chain(["theirs".to_owned()]) {
            let name = format!("org/mls/{from:?}-to-{to}");
            let mut command = point_to_point(from, &name, port);
            command.args(["--message", "x", "--iterations", "1", "--enable-mls"]);
            command.arg("--remote").arg(format!("org/mls/to-{to}"));
            senders.push(Process::start(&name, &mut command));
        }
    }
    let their_senders = languages().into_iter().map(|to| {
        // A service of the published package has no capital letters in its name.
        let name = format!("org/mls/theirs-to-{to:?}").to_lowercase();
        let mut command = theirs("send", &name);
        command.args(["--message", "x", "--count", "1", "--mls"]);
        command.arg("--remote").arg(format!("org/mls/to-{to:?}"));
        Process::start(&name, &mut command)
    });
    let mut their_senders: Vec<Process> = their_senders.collect();
    for sender in &mut senders {
        sender.expect_success();
        assert_eq!(sender.count(": x from "), 1, "{}", sender.output());
    }
    for (sender, to) in their_senders.iter_mut().zip(languages()) {
        sender.expect_success();
        let subject = format!("\"slim-peer-subject\": \"org/mls/to-{to:?}_");
        assert_eq!(sender.count("\"payload\": \"x from "), 1, "{}", sender.output());
        assert_eq!(sender.count(&subject), 1, "{}", sender.output());
    }
    for receiver in &receivers {
        receiver.expect_count("replies: x from", languages().len() + 1);
    }
    for from in languages() {
        let subject = format!("\"slim-peer-subject\": \"org/mls/{from:?}-to-theirs_");
        their_receiver.expect_count(&subject, 1);
    }
}

/// Seed P7: two receivers of one name.
#[test]
fn without_sticky_any_instance_gets_a_message_and_with_it_one() {
    let (_node, port) = node(&mut slim());
    let receivers = [C, Python].map(|language| {
        let process = receiver(language, "org/any/alice", port);
        let line = process.wait_for("its ID", |line| line.contains("waiting for new session"));
        (process, id(&line).to_lowercase())
    });
    let mut answers = [0, 0];
    for sticky in [false, true] {
        let senders = languages().into_iter().map(|language| {
            let name = format!("org/any/{language:?}-{sticky}");
            let mut command = point_to_point(language, &name, port);
            command.args(["--remote", "org/any/alice", "--message", "x", "--iterations", "4"]);
            if sticky {
                command.arg("--sticky");
            }
            Process::start(&name, &mut command)
        });
        let mut senders: Vec<Process> = senders.collect();
        for sender in &mut senders {
            sender.expect_success();
            let output = sender.output();
            let lines = output.lines().filter_map(|line| line.split_once(": x from "));
            let from = lines.map(|(_, from)| receivers.iter().position(|(_, id)| id == from));
            let from: Vec<usize> = from.map(|at| at.expect("a receiver's ID")).collect();
            assert_eq!(from.len(), 4, "{output}");
            let first = from.iter().filter(|at| **at == 0).count();
            assert!(!sticky || first % 4 == 0, "{output}");
            answers = [answers[0] + first, answers[1] + 4 - first];
        }
        // One after the other, in turn.
        assert!(sticky || answers.iter().all(|count| *count >= senders.len()), "{answers:?}");
        for ((receiver, _), count) in receivers.iter().zip(answers) {
            receiver.expect_count("replies:", count);
        }
    }
}

fn multicast(language: Language, local: &str, port: u16) -> Command {
    program(language, "multicast", local, port)
}

/// A member that waits to be invited.
fn invited(language: Language, local: &str, port: u16) -> Process {
    let process = Process::start_listening(local, &mut multicast(language, local, port));
    process.wait_for("start", |line| line.contains("-> Waiting for session..."));
    process
}

/// The moderator of a group with these members, who have joined.
fn inviting(mut command: Command, group: &str, members: &[&str]) -> Process {
    command.args(["--remote", group]);
    for member in members {
        command.args(["--invites", member]);
    }
    let process = Process::start_listening("moderator", &mut command);
    process.wait_for_count("has joined", members.len());
    process
}

/// Waits until a member has heard a text so many times; and not more often.
fn has_heard(process: &Process, text: &str, times: usize) {
    let line = |line: &&String| {
        line.contains("-> Received message from") && line.ends_with(&format!(": {text}"))
    };
    let count = process.wait_after(0, &format!("{text:?} heard {times} times"), |lines| {
        let count = lines.iter().filter(line).count();
        (count >= times).then_some(count)
    });
    assert_eq!(count, times, "{text}: {}", process.output());
}

fn have_heard<const N: usize>(members: [&Process; N], text: &str) {
    members.iter().for_each(|member| has_heard(member, text, 1));
}

/// What a member printed behind its first lines: IDs and the session's number replaced, without the
/// call's and the status's name, which Python and Go add to the text of an error.
fn said(process: &Process, local: &str) -> Vec<String> {
    let label = format!("\x1b[1m\x1b[96mO{:<44}\x1b[0m", &local[1..]);
    let hide = |word: &str| match word.trim_end_matches(':').rsplit_once('/') {
        Some((name, id)) if id.len() == 36 => format!("{name}/ID"),
        _ if word.trim_end_matches(':').parse::<u32>().is_ok() => "SESSION:".to_owned(),
        _ => word.to_owned(),
    };
    let shown = |word: &&str| !word.starts_with("slim_") && !word.starts_with("(SLIM_");
    let lines = process.lines().into_iter().skip(2);
    lines
        .map(|line| {
            let text = line.strip_prefix(&label).map(|text| format!("LOCAL {text}"));
            let text = text.unwrap_or(line);
            text.split(' ').filter(shown).map(hide).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

fn says_what_the_document_says_of_groups(language: Language) {
    let (_node, port) = node(&mut slim());
    let names = ["org/mc/client-1", "org/mc/client-2", "org/mc/client-3"];
    let [mut one, mut two, mut three] = names.map(|name| invited(language, name, port));
    let command = multicast(language, "org/mc/moderator", port);
    let mut moderator = inviting(command, "org/mc/chat", &names[..2]);
    moderator.tell("hello all");
    have_heard([&one, &two], "hello all");
    one.tell("hello moderator");
    have_heard([&moderator, &two], "hello moderator");
    one.tell("invite org/mc/client-3");
    one.wait_for("refusal", |line| line.contains("only initiator can modify participants"));
    moderator.tell("invite org/mc/client-3");
    moderator.wait_for_count("has joined", 3);
    moderator.tell("  ");
    moderator.tell("remove the rest");
    have_heard([&one, &two, &three], "remove the rest");
    moderator.tell("remove org/mc/client-2");
    moderator.wait_for("removal", |line| line.contains("was removed"));
    two.expect_success();
    three.tell("QUIT");
    three.expect_success();
    moderator.wait_for("leaving", |line| line.contains("has left"));
    moderator.tell("exit");
    moderator.expect_success();
    one.expect_success();

    let heard = |text: &str| format!("LOCAL -> Received message from SESSION: {text}");
    let ended = |why: &str| format!("LOCAL -> Error receiving message: session closed: {why}");
    let (waiting, all) = ("LOCAL -> Waiting for session...".to_owned(), heard("hello all"));
    let rest = heard("remove the rest");
    let wanted = [
        "LOCAL Creating new multicast sessions...",
        "org/mc/moderator -> add org/mc/client-1 to the group",
        "org/mc/moderator -> add org/mc/client-2 to the group",
        "LOCAL -> org/mc/client-1 has joined",
        "LOCAL -> org/mc/client-2 has joined",
        &heard("hello moderator"),
        "LOCAL -> org/mc/client-3 has joined",
        "LOCAL -> org/mc/client-2 was removed",
        "LOCAL -> org/mc/client-3/ID has left",
    ];
    let mut found = said(&moderator, "org/mc/moderator");
    // The first may join before the second is invited.
    found[1..5].sort_by_key(|line| line.starts_with("LOCAL"));
    assert_eq!(found, wanted);
    let refused = "LOCAL -> Error inviting org/mc/client-3: only initiator can modify \
                   participants: cannot invite org/mc/client-3";
    let wanted = [
        &waiting,
        &all,
        refused,
        &rest,
        "LOCAL -> org/mc/client-2/ID has left",
        "LOCAL -> org/mc/client-3/ID has left",
        &ended("closed by the moderator"),
    ];
    assert_eq!(said(&one, names[0]), wanted);
    let from_one = heard("hello moderator");
    let wanted = [&waiting, &all, &from_one, &rest, &ended("removed by the moderator")];
    assert_eq!(said(&two, names[1]), wanted.map(String::as_str));
    let left = "LOCAL -> org/mc/client-2/ID has left".to_owned();
    assert_eq!(said(&three, names[2]), [&waiting, &rest, &left].map(String::as_str));
}

#[test]
fn seed_m1_to_m9_in_c() {
    says_what_the_document_says_of_groups(CheckedC);
}

#[test]
fn seed_m1_to_m9_in_python() {
    says_what_the_document_says_of_groups(Python);
}

#[test]
fn seed_m1_to_m9_in_go() {
    if go_is_there() {
        says_what_the_document_says_of_groups(Go);
    }
}

#[test]
fn a_group_program_at_a_terminal_has_a_prompt() {
    let (_node, port) = node(&mut slim());
    for language in languages() {
        let (local, member) = (format!("org/tty/{language:?}"), format!("org/tty/to-{language:?}"));
        let mut client = invited(language, &member, port);
        let program = multicast(language, &local, port);
        let mut terminal = command("python3");
        terminal
            .args(["-c", "import os, pty, sys; sys.exit(os.WEXITSTATUS(pty.spawn(sys.argv[1:])))"]);
        terminal.arg(program.get_program()).args(program.get_args());
        let mut moderator = inviting(terminal, "org/tty/chat", &[&member]);
        moderator.tell("hello");
        has_heard(&client, "hello", 1);
        // Ctrl-C leaves, too.
        client.signal("-INT");
        client.expect_success();
        assert!(client.output().ends_with("Client interrupted by user."), "{}", client.output());
        // With its last member the group ends.
        moderator.expect_success();
        assert!(moderator.count("\x1b[1mmessage>\x1b[0m ") >= 2, "{}", moderator.output());
    }
}

/// A group without input stays until it is told to end; a variable names several to invite.
#[test]
fn a_group_program_goes_on_without_input() {
    for language in languages() {
        let (_node, port) = node(&mut slim());
        let clients = ["org/quiet/a", "org/quiet/b"].map(|name| {
            let process = Process::start(name, &mut multicast(language, name, port));
            process.wait_for("start", |line| line.contains("-> Waiting for session..."));
            process
        });
        let mut command = multicast(language, "org/quiet/mod", port);
        command.env("SLIM_REMOTE", "org/quiet/chat").env("SLIM_INVITES", "org/quiet/a org/quiet/b");
        let mut moderator = Process::start("moderator", &mut command);
        moderator.wait_for_count("has joined", 2);
        moderator.signal("-TERM");
        moderator.expect_success();
        for mut client in clients {
            client.expect_success();
            let end = client.output();
            assert!(end.contains("session closed: closed by the moderator"), "{language:?}: {end}");
        }
    }
}

#[test]
fn one_group_of_all_languages() {
    group_of_all_languages(false);
}

#[test]
fn one_group_of_all_languages_with_mls() {
    group_of_all_languages(true);
}

fn group_of_all_languages(mls: bool) {
    let (_node, port) = node(&mut slim());
    for moderating in languages() {
        let of = |language: Language| format!("org/{moderating:?}/{language:?}");
        let mut all: Vec<Process> =
            languages().into_iter().map(|member| invited(member, &of(member), port)).collect();
        let names: Vec<String> = languages().into_iter().map(of).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut command = multicast(moderating, &format!("org/{moderating:?}/moderator"), port);
        command.args(mls.then_some("--enable-mls"));
        all.push(inviting(command, &format!("org/{moderating:?}/chat"), &names));
        for speaker in 0..all.len() {
            let text = format!("from {speaker} of {moderating:?}");
            all[speaker].tell(&text);
            for (at, member) in all.iter().enumerate() {
                has_heard(member, &text, usize::from(at != speaker));
            }
        }
        all.last_mut().unwrap().tell("quit");
        all.iter_mut().for_each(Process::expect_success);
    }
}

#[test]
fn c_moderates_the_published_package() {
    moderates_the_published_package(CheckedC, false);
}

#[test]
fn every_language_moderates_the_published_package_with_mls() {
    for language in languages() {
        moderates_the_published_package(language, true);
    }
}

fn moderates_the_published_package(language: Language, mls: bool) {
    let (_node, port) = node(&mut slim());
    let endpoint = format!("http://127.0.0.1:{port}");
    let mut theirs = wheel("participant");
    theirs.args(["--local", "org/mix/theirs", "--slim", &endpoint, "--reply", "--count", "1"]);
    let mut theirs = Process::start("theirs", &mut theirs);
    theirs.wait_for("ready", |line| line.contains("\"ready\""));
    let mut ours = invited(C, "org/mix/ours", port);
    let mut command = multicast(language, "org/mix/moderator", port);
    command.args(mls.then_some("--enable-mls"));
    let mut moderator = inviting(command, "org/mix/chat", &["org/mix/theirs", "org/mix/ours"]);
    moderator.tell("hello");
    has_heard(&ours, "hello", 1);
    have_heard([&moderator, &ours], "reply hello");
    ours.tell("from ours");
    has_heard(&moderator, "from ours", 1);
    theirs.wait_for("our member's message", |line| line.contains("from ours"));
    moderator.tell("remove org/mix/ours");
    ours.expect_success();
    moderator.tell("exit");
    moderator.expect_success();
    theirs.expect_success();
    assert_eq!(theirs.count("\"message\""), 2, "{}", theirs.output());
    assert_eq!(theirs.count(&format!("\"mls\": {mls}")), 1, "{}", theirs.output());
}

#[test]
fn c_is_invited_by_the_published_package() {
    is_invited_by_the_published_package(CheckedC, false);
}

#[test]
fn every_language_is_invited_by_the_published_package_with_mls() {
    for language in languages() {
        is_invited_by_the_published_package(language, true);
    }
}

fn is_invited_by_the_published_package(language: Language, mls: bool) {
    let (_node, port) = node(&mut slim());
    let endpoint = format!("http://127.0.0.1:{port}");
    let [mut first, mut second] =
        ["org/mixed/first", "org/mixed/second"].map(|name| invited(language, name, port));
    let mut theirs = wheel("moderator");
    theirs.args(["--local", "org/mixed/moderator", "--slim", &endpoint]);
    theirs.args(["--remote", "org/mixed/chat", "--count", "2", "--expect", "1"]);
    theirs.args(["--invite", "org/mixed/first", "--invite", "org/mixed/second"]);
    theirs.args(["--remove", "org/mixed/second"]).args(mls.then_some("--mls"));
    let mut theirs = Process::start("theirs", &mut theirs);
    have_heard([&first, &second], "hello 1");
    first.tell("from first");
    has_heard(&second, "from first", 1);
    let line = theirs.wait_for("our member's message", |line| line.contains("from first"));
    assert_eq!(line.contains("\"slim-peer-subject\": \"org/mixed/first_"), mls, "{line}");
    second.expect_success();
    assert_eq!(second.count("session closed: removed by the moderator"), 1, "{}", second.output());
    has_heard(&first, "after removal", 1);
    theirs.expect_success();
    first.expect_success();
    assert_eq!(first.count("session closed: closed by the moderator"), 1, "{}", first.output());
    assert_eq!(second.count("after removal"), 0, "{}", second.output());
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let (_node, port) = node(&mut slim());
    let url = format!("http://127.0.0.1:{port}");
    let all = ["--local", "org/ns/x", "--slim", &url, "--shared-secret", SECRET];
    let with = |more: &[&'static str]| all.iter().copied().chain(more.iter().copied()).collect();
    let cases: Vec<(Vec<&str>, i32, &str)> = vec![
        (vec![], 2, "! Error: Missing option '--local'."),
        (vec!["--local"], 2, "! Error: "),
        (with(&["--unknown"]), 2, "! Error: "),
        (with(&["stray"]), 2, "! Error: "),
        (with(&["--slim", "{x"]), 2, "! Error: Invalid value for '--slim': {x is not valid JSON"),
        (with(&["--slim", "{\"endpont\": 1}"]), 2, "did you mean \"endpoint\"?"),
        (
            with(&["--iterations", "x"]),
            2,
            "! Error: Invalid value for '--iterations': 'x' is not a valid integer.",
        ),
        (with(&["--enable-opentelemetry"]), 2, "! Error: --enable-opentelemetry is not in this"),
        (with(&["--jwt", "x"]), 2, "! Error: --jwt is not in this version of libslim."),
        (with(&["--bundle", "x"]), 2, "! Error: --bundle is not in this version of libslim."),
        (with(&["--audience", "x"]), 2, "! Error: --audience is not in this version of libslim."),
        (
            with(&["--message", "x"]),
            1,
            "! Error: Remote ID must be provided when message is specified.",
        ),
        (
            with(&["--local", "two/parts"]),
            1,
            "Error: IDs must be in the format organization/namespace/app-or-stream.",
        ),
        (with(&["--shared-secret", "short"]), 1, "at least 32 are needed"),
        (
            vec!["--local", "org/ns/x"],
            1,
            "! Error: Either JWT or bundle must be provided, or a shared secret.",
        ),
    ];
    for language in languages() {
        for (arguments, status, text) in &cases {
            let mut command = example(language, "point_to_point");
            let mut process = Process::start("p2p", command.args(arguments));
            let (found, output) = (process.wait(), process.output());
            let what = format!("{language:?} {arguments:?}: {found}\n{output}");
            assert!(found == *status && output.contains(text), "{what}");
            assert_eq!(output.contains("Created app"), output.contains("\x1b[0m"), "{what}");
            // A node that cannot be is refused before anything is done; Python and Go leave the keys
            // to the library.
            let early = text.contains("'--slim'") || language == C && text.contains("did you mean");
            assert!(!early || !output.contains("Created app"), "{what}");
        }
        // The group's program has the same options.
        for (arguments, status, text) in &cases {
            if text.contains("Remote ID") {
                continue;
            }
            let mut command = example(language, "multicast");
            let mut process = Process::start("multicast", command.args(arguments));
            let (found, output) = (process.wait(), process.output());
            assert!(
                found == *status && output.contains(text),
                "{language:?} {arguments:?}: {output}"
            );
        }
        // H10: every option is a variable, too.
        let mut command = example(language, "point_to_point");
        command.env("SLIM_LOCAL", "org/ns/x").env("SLIM_ENABLE_OPENTELEMETRY", "true");
        let mut process = Process::start("p2p", &mut command);
        assert_eq!(process.wait(), 2);
        assert!(process.output().contains("--enable-opentelemetry is not"), "{}", process.output());
    }
}

#[test]
fn ctrl_c_ends_a_connect_to_a_silent_node() {
    for language in languages() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let mut process = Process::start("p2p", &mut point_to_point(language, "org/ns/x", port));
        let _link = silent.accept().unwrap();
        let begun = Instant::now();
        process.signal("-INT");
        process.expect_success();
        let output = process.output();
        assert!(output.ends_with("Client interrupted by user."), "{language:?}: {output}");
        // The time for connecting is 30 s.
        assert!(begun.elapsed() < Duration::from_secs(15), "{language:?}");
    }
}

#[test]
fn an_event_loop_serves_two_sessions_at_once() {
    let (_node, port) = node(&mut slim());
    let mut command = example(CheckedC, "eventloop");
    command.args(["--local", "org/loop/alice", "--shared-secret", SECRET]);
    let url = format!("http://127.0.0.1:{port}");
    let mut server = Process::start("eventloop", command.args(["--slim", &url]));
    server.wait_for("start", |line| line.contains("Connected to"));
    let send = |name: &str| {
        let mut command = point_to_point(CheckedC, name, port);
        command.args(["--remote", "org/loop/alice", "--message", "x", "--sticky"]);
        Process::start(name, command.args(["--iterations", "3"]))
    };
    let mut senders = [send("org/loop/b"), send("org/loop/c")];
    // Both are open at one time.
    server.wait_for("second session", |line| line.contains("session 2 of"));
    for sender in &mut senders {
        sender.expect_success();
        assert_eq!(sender.count("received (from session"), 3, "{}", sender.output());
    }
    server.signal("-INT");
    server.expect_success();
    assert_eq!(server.count("! Error"), 0, "{}", server.output());
}

#[test]
fn python_package_in_a_bare_venv() {
    let venv = library().join("venv");
    let python = venv.join("bin/python");
    let fresh = |program: &Path| {
        let mut command = command(program);
        command.env_remove("PYTHONPATH").env_remove("LD_LIBRARY_PATH");
        command
    };
    run(fresh(Path::new("python3")).args(["-m", "venv", "--clear"]).arg(&venv));
    let mut pip = fresh(&python);
    pip.args(["-m", "pip", "install", "--no-index", "--disable-pip-version-check"]);
    // The wheel takes the library along.
    run(pip.arg(root().join("ffi-examples/python")).env("LIBSLIM", library().join("libslim.so")));
    let tests = root().join("ffi-examples/python/tests");
    run(fresh(&python).args(["-m", "unittest", "discover"]).current_dir(&tests));
    // LIBSLIM names another one, and what cannot be loaded is said.
    let mut import = fresh(&python);
    let output = import.args(["-c", "import libslim"]).env("LIBSLIM", "/nowhere.so").output();
    let text = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(text.contains("/nowhere.so") && text.contains("LIBSLIM=PATH"), "{text}");
}

#[test]
fn go_package() {
    if !go_is_there() {
        return;
    }
    let go = |arguments: &[&str]| {
        run(command("go").args(arguments).current_dir(root().join("ffi-examples/go")));
    };
    go(&["vet", "./..."]);
    // `debug` collects within each call: what is freed too early is found.
    go(&["test", "-race", "-tags", "debug", "-count=1", "./..."]);
    let format = Command::new("gofmt").arg("-l").arg(root().join("ffi-examples/go")).output();
    assert_eq!(String::from_utf8_lossy(&format.unwrap().stdout), "");
}

/// The block of the README in this language, made to talk to this port.
fn block(language: &str, port: u16) -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    let mut blocks = readme.split(&fence).skip(1);
    let text = blocks.next().unwrap().split("```\n").next().unwrap();
    assert!(blocks.next().is_none(), "two blocks of {language}");
    assert!(text.contains("127.0.0.1:46357"));
    text.replace("127.0.0.1:46357", &format!("127.0.0.1:{port}"))
}

/// The README's program says hello and prints the answer, and fails where there is none.
fn readme(language: &str, source: &str, build: impl FnOnce(&Path, &Path) -> Command) {
    let (_node, port) = node(&mut slim());
    let mut alice = slim();
    alice.args(["receive", "--local", "org/demo/alice", "--reply", "--count", "1"]);
    alice.args(["--shared-secret", "a secret that all apps share, 32 bytes or more"]);
    alice.args(["--slim", &format!("http://127.0.0.1:{port}")]);
    let mut alice = Process::start("alice", &mut alice);
    alice.wait_for("ready", |line| line.contains("ready"));
    let dir = library().join(format!("readme-{language}"));
    std::fs::create_dir_all(&dir).unwrap();
    let source = dir.join(source);
    std::fs::write(&source, block(language, port)).unwrap();
    let mut program = build(&source, &dir.join("hello"));
    let mut bob = Process::start("bob", &mut program);
    bob.expect_success();
    assert_eq!(bob.output(), "hello from org/demo/alice");
    alice.expect_success();
    // Nobody is there any more: it fails, and says why.
    let mut bob = Process::start("bob", &mut program);
    assert_ne!(bob.wait(), 0, "{}", bob.output());
    assert!(bob.output().contains("org/demo/alice"), "{}", bob.output());
}

#[test]
fn readme_c() {
    readme("c", "hello.c", |source, program| {
        let mut shell = command("sh");
        shell.arg("-c").arg(concat!(
            r#"cc -Wall -Wextra -Werror "$0" $(pkg-config --cflags --libs slim) -o "$1" "#,
            "-Wl,-rpath,$(pkg-config --variable=libdir slim)"
        ));
        run(shell.arg(source).arg(program));
        let mut program = command(program);
        program.env_remove("LD_LIBRARY_PATH");
        program
    });
}

#[test]
fn readme_python() {
    readme("python", "hello.py", |source, _| {
        let mut python = command("python3");
        python.arg(source);
        python
    });
}

#[test]
fn readme_group() {
    let (_node, port) = node(&mut slim());
    let mut members = ["alice", "bob"].map(|name| {
        let mut member = slim();
        member.args(["group", "--local", &format!("org/demo/{name}"), "--reply"]);
        member.args(["--shared-secret", "a secret that all apps share, 32 bytes or more"]);
        member.args(["--slim", &format!("http://127.0.0.1:{port}")]);
        let member = Process::start(name, &mut member);
        member.wait_for("ready", |line| line.contains("ready"));
        member
    });
    let mut carol = command("python3");
    let mut carol = Process::start("carol", carol.arg("-c").arg(block("py", port)));
    carol.expect_success();
    let mut heard = carol.lines();
    heard.sort();
    assert_eq!(heard, ["alice", "bob"].map(|name| format!("hello, both from org/demo/{name}")));
    members.iter_mut().for_each(Process::expect_success);
}

#[test]
fn readme_go() {
    if !go_is_there() {
        return;
    }
    readme("go", "hello.go", |source, program| {
        let mut go = command("go");
        go.current_dir(root().join("ffi-examples/go")).arg("build").arg("-o");
        run(go.arg(program).arg(source));
        command(program)
    });
}

#[test]
fn readme_rust() {
    readme("rust", "hello.rs", |source, program| {
        let mut rustc = command("rustc");
        rustc.args(["--edition", "2021", "-o"]).arg(program).arg(source);
        rustc.arg("--extern").arg(format!("slim={}", built("libslim.rlib").display()));
        run(rustc.arg("-L").arg(format!("dependency={}", built("").display())));
        command(program)
    });
}
