//! How the program ends when nobody reads it, or when it is told to.
//!
//! SIGINT and SIGTERM end a node in order: it says goodbye, writes what is queued, and gives up
//! after a time. A second signal ends the program at once. What is written never panics.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use slim::api::Node;
use slim::error::{Error, Result};

/// Writes a line to standard error. Nobody can be told that it is gone.
macro_rules! note {
    ($($arguments:tt)*) => {{
        let line = format!("{}\n", format_args!($($arguments)*));
        let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), line.as_bytes());
    }};
}
pub(crate) use note;

/// Writes a line to standard output.
pub fn print(line: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(line)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// The same, for those who cannot go on without.
pub fn say(line: &str) -> Result<()> {
    print(line.as_bytes()).map_err(output_failed)
}

/// Standard output cannot be written to.
pub fn output_failed(error: std::io::Error) -> Error {
    Error::Io(format!("standard output: {error}"))
}

/// The signals that end the program, which only [`Signals::end`] sees from now on.
pub struct Signals(libc::sigset_t);

impl Signals {
    /// To be called before a thread is started: each inherits what is blocked.
    pub fn block() -> Signals {
        // SAFETY: the set is initialised by sigemptyset before it is used.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGINT);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            Signals(set)
        }
    }

    /// From now on the first signal ends the node within `limit`, and then the program with this
    /// status (1 if there was something left); the second ends the program at once.
    pub fn end(self, node: &Arc<Node>, limit: Duration, status: i32) -> Result<Told> {
        let told = Told(Arc::new(AtomicBool::new(false)));
        let (flag, node) = (Arc::clone(&told.0), Arc::downgrade(node));
        std::thread::Builder::new()
            .name("slim-signals".to_owned())
            .spawn(move || self.serve(&flag, node, limit, status))
            .map_err(|error| Error::Io(error.to_string()))?;
        Ok(told)
    }

    fn serve(&self, told: &AtomicBool, node: Weak<Node>, limit: Duration, status: i32) {
        if self.wait().is_err() {
            return;
        }
        // Without a node the program is about to end by itself.
        let Some(node) = node.upgrade() else { return };
        told.store(true, Ordering::SeqCst);
        note!("stopping, within {limit:?}");
        std::thread::spawn(move || match node.drain(limit) {
            Ok(()) => std::process::exit(status),
            Err(error) => {
                note!("slim: {error}");
                std::process::exit(1);
            }
        });
        if self.wait().is_ok() {
            note!("slim: ended at once by a second signal");
            std::process::exit(1);
        }
    }

    fn wait(&self) -> Result<()> {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the call.
        match unsafe { libc::sigwait(&self.0, &mut signal) } {
            0 => Ok(()),
            code => Err(Error::Io(std::io::Error::from_raw_os_error(code).to_string())),
        }
    }
}

/// Whether a signal has come.
pub struct Told(Arc<AtomicBool>);

impl Told {
    /// What the program has come to; after a signal it is for the signal's thread to end it.
    pub fn or<T>(&self, result: Result<T>) -> Result<T> {
        while self.0.load(Ordering::SeqCst) {
            std::thread::park();
        }
        result
    }
}
