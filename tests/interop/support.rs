//! Processes for the live tests: started with piped output, watched line by line, killed when they
//! are dropped.

#![allow(dead_code)] // each test uses its part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub const SECRET: &str = "peer-shared-secret-0123456789-abcdefghij";
/// Generous: two cores are shared by everything that runs at once.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A running program.
pub struct Process {
    child: Child,
    name: String,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        let lines = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let out = child.stdout.take().expect("piped");
        let err = child.stderr.take().expect("piped");
        watch("", out, &lines);
        watch("! ", err, &lines);
        Process { child, name: name.to_owned(), lines }
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
