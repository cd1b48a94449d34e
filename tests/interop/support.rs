//! Processes for the live tests: started with piped output, watched line by line, killed when they
//! are dropped.

#![allow(dead_code)] // each test uses its part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use slim::api::{self, App, ConnectionId, Event, Item, Message, PublishOptions, Session};
use slim::config::{ClientConfig, NodeConfig};
use slim::entropy::SystemEntropy;
use slim::error::Error;
use slim::identity::{Provider, SharedSecret, SharedSecretVerifier, Verifier};

pub const SECRET: &str = "peer-shared-secret-0123456789-abcdefghij";
/// Generous: two cores are shared by everything that runs at once.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A running program.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    name: String,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Process {
        Process::start_with(Stdio::null(), name, command)
    }

    /// One that is told what to do, with [`Process::tell`].
    pub fn start_listening(name: &str, command: &mut Command) -> Process {
        Process::start_with(Stdio::piped(), name, command)
    }

    fn start_with(stdin: Stdio, name: &str, command: &mut Command) -> Process {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        let lines = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let out = child.stdout.take().expect("piped");
        let err = child.stderr.take().expect("piped");
        watch("", out, &lines);
        watch("! ", err, &lines);
        let stdin = child.stdin.take();
        Process { child, stdin, name: name.to_owned(), lines }
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("a program that listens");
        if let Err(error) = writeln!(stdin, "{line}") {
            panic!("{}: {line}: {error}", self.name);
        }
    }

    /// Number of lines up to now.
    pub fn len(&self) -> usize {
        self.lines.0.lock().unwrap().len()
    }

    /// Waits for something in the lines after the first `from`.
    pub fn wait_after<T>(
        &self,
        from: usize,
        what: &str,
        found: impl Fn(&[String]) -> Option<T>,
    ) -> T {
        self.wait_in(what, |lines| found(&lines[from..]))
    }

    /// Waits for a line (those of standard error begin with "! ") for which `found` is true.
    pub fn wait_for(&self, what: &str, found: impl Fn(&str) -> bool) -> String {
        self.wait_in(what, |lines| lines.iter().find(|line| found(line)).cloned())
    }

    /// Waits until so many lines contain `part`.
    pub fn wait_for_count(&self, part: &str, count: usize) {
        self.wait_in(&format!("{count} lines with {part:?}"), |lines| {
            (lines.iter().filter(|line| line.contains(part)).count() >= count).then_some(())
        });
    }

    /// Waits until so many lines contain `part`, and sees that no more do.
    pub fn expect_count(&self, part: &str, count: usize) {
        self.wait_for_count(part, count);
        assert_eq!(self.count(part), count, "{part:?}: {}", self.output());
    }

    fn wait_in<T>(&self, what: &str, found: impl Fn(&[String]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let (lines, changed) = &*self.lines;
        let mut lines = lines.lock().unwrap();
        loop {
            if let Some(found) = found(&lines) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text = lines.join("\n");
                drop(lines);
                panic!("{}: no {what} in\n{text}", self.name);
            }
            lines = changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Waits until the program has ended, and gives its exit status.
    pub fn wait(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // Its last lines may still be on their way.
                while Arc::strong_count(&self.lines) > 1 && Instant::now() < deadline {
                    std::thread::yield_now();
                }
                return status.code().unwrap_or(-1);
            }
            if Instant::now() > deadline {
                panic!("{} does not end:\n{}", self.name, self.output());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn expect_success(&mut self) {
        let status = self.wait();
        assert_eq!(status, 0, "{}:\n{}", self.name, self.output());
    }

    pub fn output(&self) -> String {
        let lines = self.lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.join("\n")
    }

    /// All lines up to now.
    pub fn lines(&self) -> Vec<String> {
        self.lines.0.lock().unwrap().clone()
    }

    /// Lines that contain `part`.
    pub fn count(&self, part: &str) -> usize {
        self.lines.0.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal like "-TERM".
    pub fn signal(&mut self, signal: &str) {
        let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let text = format!("--- {}\n{}\n", self.name, self.output());
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}

fn watch(
    mark: &'static str,
    from: impl Read + Send + 'static,
    lines: &Arc<(Mutex<Vec<String>>, Condvar)>,
) {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
            let text = String::from_utf8_lossy(&line);
            lines.0.lock().unwrap().push(format!("{mark}{}", text.trim_end_matches('\n')));
            lines.1.notify_all();
            line.clear();
        }
    });
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Python with the published package.
fn python() -> PathBuf {
    let default = root().join("target/venv/bin/python");
    let python = std::env::var_os("SLIM_TEST_PYTHON").map_or(default, PathBuf::from);
    assert!(python.exists(), "the live peer is not installed: run `make test`");
    python
}

/// Whether the published package says who proved by its keys to have sent a message. 3.3.1 does not.
pub fn wheel_names_senders() -> bool {
    static VERSION: OnceLock<String> = OnceLock::new();
    let version = VERSION.get_or_init(|| {
        let text = "import importlib.metadata as m; print(m.version('slim-bindings'))";
        let output = Command::new(python()).args(["-c", text]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    });
    assert!(version.starts_with("3.3."), "{version:?}");
    version != "3.3.1"
}

pub fn slim() -> Command {
    Command::new(env!("CARGO_BIN_EXE_slim"))
}

/// Starts our node and waits until it listens; gives its port.
pub fn node(command: &mut Command) -> (Process, u16) {
    command.args(["node", "--listen", "127.0.0.1:0"]);
    let process = Process::start("node", command);
    let port = listening_port(&process);
    (process, port)
}

/// What our node says it listens on.
pub fn listening_port(process: &Process) -> u16 {
    let line = process.wait_for("listener", |line| line.contains("listening on"));
    line.rsplit(':').next().unwrap().parse().unwrap()
}

/// Whose program stands in a place.
#[derive(Clone, Copy, PartialEq)]
pub enum Who {
    Ours,
    Wheel,
}
pub struct Node {
    pub process: Process,
    pub who: Who,
    pub port: u16,
}

impl Node {
    pub fn start(who: Who, binding: &str) -> Node {
        match who {
            Who::Ours => Node::on_port(who, binding, 0),
            Who::Wheel => Node::on_port(who, binding, free_port()),
        }
    }

    pub fn on_port(who: Who, binding: &str, port: u16) -> Node {
        let listen = format!("127.0.0.1:{port}");
        let mut command = match who {
            Who::Ours => slim(),
            Who::Wheel => wheel("node"),
        };
        if who == Who::Ours {
            command.arg("node");
        } else {
            command.args(["--seconds", "300"]);
        }
        command.args(["--listen", &listen]).env("SLIM_IDENTITY_BINDING", binding);
        let process = Process::start("node", &mut command);
        let port = match who {
            Who::Ours => listening_port(&process),
            Who::Wheel => {
                process.wait_for("ready", |line| line.contains("ready"));
                port
            }
        };
        Node { process, who, port }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

pub fn identity(name: &str) -> SharedSecret {
    SharedSecret::new(name, SECRET, &mut SystemEntropy).unwrap()
}

/// An app in this process, at this node.
pub fn app(name: &str, node: &Node, identity: Box<dyn Provider>) -> (api::Node, App) {
    let (here, app, _) = connected_app(name, node, identity);
    (here, app)
}

pub fn connected_app(
    name: &str,
    node: &Node,
    identity: Box<dyn Provider>,
) -> (api::Node, App, ConnectionId) {
    connected_app_with(name, node, identity, Box::new(verifier()))
}

pub fn verifier() -> SharedSecretVerifier {
    SharedSecretVerifier::new(SECRET).unwrap()
}

pub fn connected_app_with(
    name: &str,
    node: &Node,
    identity: Box<dyn Provider>,
    verifier: Box<dyn Verifier>,
) -> (api::Node, App, ConnectionId) {
    let here = api::Node::new(&NodeConfig::default()).unwrap();
    let app = here.app_with_identity(name, identity, verifier).unwrap();
    let client = ClientConfig::parse(&node.endpoint()).unwrap();
    let connection = app.connect(&client, Some(PATIENCE)).unwrap();
    (here, app, connection)
}

/// Says it to all others, who have to confirm it.
pub fn say(session: &Session, text: &str) -> Result<(), Error> {
    let op = session.publish_start(text.as_bytes(), &PublishOptions::default())?;
    op.wait(Some(PATIENCE))
}

/// Waits for a message.
pub fn heard(session: &Session, text: &str) {
    let mut events = Vec::new();
    loop {
        match session.receive(Some(PATIENCE)) {
            Ok(Item::Message(message)) if message.payload == text.as_bytes() => return,
            Ok(Item::Message(_)) => {}
            Ok(Item::Event(event)) => events.push(event),
            Err(error) => panic!("no {text:?}: {error}, after {events:?}"),
        }
    }
}

/// The next message, whatever happened before it.
pub fn next_message(session: &Session) -> Message {
    loop {
        if let Item::Message(message) = session.receive(Some(PATIENCE)).unwrap() {
            return *message;
        }
    }
}

/// Waits for an event. Nothing is said before it.
pub fn sees(session: &Session, what: fn(&Event) -> bool) {
    loop {
        match session.receive(Some(PATIENCE)) {
            Ok(Item::Event(event)) if what(&event) => return,
            Ok(Item::Event(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub fn is_over(session: &Session) {
    sees(session, |event| matches!(event, Event::Closed(_)));
}

/// An example program in C, which `make test` builds.
pub fn c_program(name: &str) -> Command {
    let path = root().join("target/examples-c").join(name);
    assert!(path.exists(), "the C programs are not built: run `make test`");
    Command::new(path)
}

pub fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(root().join("tests/interop").join(name)).env("PYTHONUNBUFFERED", "1");
    command
}

pub fn wheel(role: &str) -> Command {
    let mut command = script("upstream_peer.py");
    command.arg(role);
    command
}

/// A port that is free now. Only for the published node, which cannot tell what it got.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// At most so many cells at once: the published package is heavy, and two cores are shared.
pub struct Turn;

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(3), Condvar::new());

impl Turn {
    pub fn take() -> Turn {
        let mut free = TURNS.0.lock().unwrap();
        while *free == 0 {
            free = TURNS.1.wait(free).unwrap();
        }
        *free -= 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS.0.lock().unwrap() += 1;
        TURNS.1.notify_one();
    }
}
