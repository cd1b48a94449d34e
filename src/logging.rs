//! Where log lines go: our sink behind the `log` facade, which mio, nghttp2's users and all our
//! modules write to.
//!
//! Nothing is logged until [`set`] is called or `SLIM_LOG` names a filter (in the syntax of
//! RUST_LOG). A logger that the program installed before stays in charge. Secrets, tokens and
//! payloads are never logged. Equal warnings and errors are written once in
//! [`limits::REPEATED_WARNING`]; the others are counted, and the count is written with the next line
//! after that time, or by `log::logger().flush()`. Control characters, which peers may send, are
//! escaped: a line is one line.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::limits;

/// Receives a line: its level, the module it comes from, and its text.
pub type Callback = Box<dyn Fn(Level, &str, &str) + Send + Sync>;

/// Where lines go.
pub enum Sink {
    /// To standard error.
    StandardError,
    /// To a function. It may be called from any thread, also from several at once; what it logs
    /// itself is dropped. Calls that would have to wait fail in it with
    /// [`Error::NotAllowed`](crate::error::Error::NotAllowed): they might wait for the thread that
    /// they are made on.
    Callback(Callback),
}

/// Sets the sink of the whole process and how much it gets. When the call returns, the sink that
/// was set before is no longer used; but by the caller, if it is called from inside that sink.
pub fn set(level: LevelFilter, sink: Sink) {
    let filter = env_filter::Builder::new().filter_level(level).build();
    let mut active = ACTIVE.write().unwrap_or_else(PoisonError::into_inner);
    install();
    let before = active.replace(Arc::new(Active::new(filter, sink)));
    log::set_max_level(level);
    drop(active);
    if let Some(before) = before {
        // The sink that sets another cannot wait for itself. Two that do so do not wait for each
        // other: whoever is inside a sink waits for that one or for a newer one, and for its own
        // only whoever replaced it.
        let own = usize::from(before.has_this_thread());
        while before.running.load(Ordering::SeqCst) > own {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Follows `SLIM_LOG` if it is set and nothing else was said; the first call counts.
pub fn init_from_env() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Acquire) {
        return;
    }
    let text = std::env::var("SLIM_LOG").ok().filter(|text| !text.is_empty());
    let filter = text.map(|text| env_filter::Builder::new().parse(&text).build());
    // Nobody forks while this is locked, so that no child finds it half done.
    let mut active = ACTIVE.write().unwrap_or_else(PoisonError::into_inner);
    if DONE.swap(true, Ordering::AcqRel) || active.is_some() {
        return;
    }
    if let Some(filter) = filter {
        install();
        let level = filter.filter();
        *active = Some(Arc::new(Active::new(filter, Sink::StandardError)));
        log::set_max_level(level);
    }
}

/// Follows `SLIM_LOG` if it is set; else this much goes to standard error, unless something else
/// was said before.
pub fn init_from_env_or(level: LevelFilter) {
    init_from_env();
    if ACTIVE.read().is_ok_and(|active| active.is_none()) {
        set(level, Sink::StandardError);
    }
}

struct Active {
    filter: env_filter::Filter,
    sink: Sink,
    repeats: Mutex<Repeats>,
    /// Threads that are inside.
    running: AtomicUsize,
}

impl Active {
    fn new(filter: env_filter::Filter, sink: Sink) -> Active {
        Active { filter, sink, repeats: Mutex::default(), running: AtomicUsize::new(0) }
    }
}

static ACTIVE: RwLock<Option<Arc<Active>>> = RwLock::new(None);

thread_local! {
    /// The sink that this thread is inside, or is about to be (NULL): what it logs there would go in
    /// circles.
    static INSIDE: Cell<Option<*const Active>> = const { Cell::new(None) };
}

/// Whether this thread is inside a sink. It must not wait there: what it waits for may have to be
/// done by this very thread.
pub(crate) fn is_inside() -> bool {
    INSIDE.try_with(Cell::get).is_ok_and(|sink| sink.is_some())
}

/// As long as this is there, no sink is set and none is taken up. Those that are running go on.
pub(crate) struct Held(RwLockWriteGuard<'static, Option<Arc<Active>>>);

/// For the time of a fork.
pub(crate) fn hold() -> Held {
    Held(ACTIVE.write().unwrap_or_else(PoisonError::into_inner))
}

impl Held {
    /// In the child no other thread is inside a sink.
    pub(crate) fn start_anew(&self) {
        if let Some(active) = &*self.0 {
            active.running.store(usize::from(active.has_this_thread()), Ordering::SeqCst);
        }
    }
}

struct Logger;

fn install() {
    // An error means that the program has a logger of its own.
    let _ = log::set_logger(&Logger);
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        ACTIVE
            .read()
            .is_ok_and(|active| active.as_ref().is_some_and(|a| a.filter.enabled(metadata)))
    }

    fn log(&self, record: &Record<'_>) {
        inside(|active| {
            if active.filter.matches(record) {
                active.log(record, Instant::now());
            }
        });
    }

    fn flush(&self) {
        inside(|active| active.flush(Instant::now()));
    }
}

/// Does something with the sink, which no lock is held for: it may wait for whoever forks or sets
/// another.
fn inside(act: impl FnOnce(&Active)) {
    struct Leave(Option<Arc<Active>>);

    impl Drop for Leave {
        fn drop(&mut self) {
            if let Some(active) = &self.0 {
                active.running.fetch_sub(1, Ordering::SeqCst);
            }
            INSIDE.set(None);
        }
    }

    // A thread that ends has no flag any more, and nothing to say.
    let outside = INSIDE.try_with(|inside| match inside.get() {
        None => inside.replace(Some(std::ptr::null())).is_none(),
        Some(_) => false,
    });
    if !outside.unwrap_or(false) {
        return;
    }
    let mut leave = Leave(None);
    if let Ok(active) = ACTIVE.read() {
        leave.0 =
            active.as_ref().inspect(|a| _ = a.running.fetch_add(1, Ordering::SeqCst)).cloned();
    }
    if let Some(active) = &leave.0 {
        INSIDE.set(Some(Arc::as_ptr(active)));
        act(active);
    }
}

impl Active {
    /// Whether this thread is inside this sink.
    fn has_this_thread(&self) -> bool {
        INSIDE.try_with(Cell::get).is_ok_and(|sink| sink == Some(std::ptr::from_ref(self)))
    }

    fn log(&self, record: &Record<'_>, now: Instant) {
        let text = one_line(record.args().to_string());
        // Never waited for: a child of fork() may have been left with it locked.
        let (counts, admitted) = match self.repeats.try_lock() {
            Ok(mut repeats) => {
                let counts = repeats.due(now);
                let limited = record.level() <= Level::Warn;
                (counts, !limited || repeats.admit(record.level(), record.target(), &text, now))
            }
            Err(_) => (Vec::new(), true),
        };
        self.write_counts(&counts, now);
        if admitted {
            self.write(record.level(), record.target(), &text);
        }
    }

    fn flush(&self, now: Instant) {
        let counts = self.repeats.lock().map_or(Vec::new(), |mut known| known.all());
        self.write_counts(&counts, now);
    }

    fn write_counts(&self, counts: &[Repeat], now: Instant) {
        for Repeat { level, target, text, since, more } in counts {
            let secs = now.saturating_duration_since(*since).as_secs().max(1);
            self.write(*level, target, &format!("{text} ({more} more in the last {secs} s)"));
        }
    }

    fn write(&self, level: Level, target: &str, text: &str) {
        match &self.sink {
            Sink::Callback(callback) => callback(level, target, text),
            Sink::StandardError => {
                let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let line = format!("{} {level:5} {target}: {text}\n", timestamp(time));
                // Nobody can be told that standard error is gone.
                let _ = StandardError.write_all(line.as_bytes());
            }
        }
    }
}

/// Standard error without the lock of the standard library, which a child of fork() may have been
/// left with.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the bytes are valid for the time of the call.
        let len = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
        usize::try_from(len).map_err(|_| io::Error::last_os_error())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Warnings and errors that were written lately, the oldest first: each once in a while, however
/// often there is a cause.
#[derive(Default)]
struct Repeats(VecDeque<Repeat>);

#[derive(Debug)]
struct Repeat {
    level: Level,
    target: String,
    text: String,
    /// When it was written.
    since: Instant,
    /// Left out since then.
    more: u64,
}

impl Repeats {
    /// Forgets the lines whose time is over; gives out those that were left out meanwhile.
    fn due(&mut self, now: Instant) -> Vec<Repeat> {
        let over =
            |known: &Repeat| now.saturating_duration_since(known.since) >= limits::REPEATED_WARNING;
        let mut counts = Vec::new();
        while self.0.front().is_some_and(over) {
            counts.extend(self.0.pop_front().filter(|known| known.more > 0));
        }
        counts
    }

    /// Forgets all lines; gives out those that were left out.
    fn all(&mut self) -> Vec<Repeat> {
        self.0.drain(..).filter(|known| known.more > 0).collect()
    }

    /// Whether a line is to be written. When too many different ones are remembered, it is, and is
    /// not remembered.
    fn admit(&mut self, level: Level, target: &str, text: &str, now: Instant) -> bool {
        let same = |known: &&mut Repeat| known.text == text && known.target == target;
        if let Some(known) = self.0.iter_mut().find(same) {
            known.more += 1;
            return false;
        }
        if self.0.len() < limits::REMEMBERED_WARNINGS {
            let (target, text) = (target.to_owned(), text.to_owned());
            self.0.push_back(Repeat { level, target, text, since: now, more: 0 });
        }
        true
    }
}

/// The text with its control characters escaped.
fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

/// A time as `2026-11-25T14:05:55.123Z`.
fn timestamp(since_epoch: std::time::Duration) -> String {
    let secs = since_epoch.as_secs();
    let (days, secs) = (secs / 86_400, secs % 86_400);
    // Days to year, month and day, counting years from March (H. Hinnant's days_from_civil).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (secs / 3600, secs / 60 % 60, secs % 60);
    let millis = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::time::Duration;

    /// Held by whoever sets the sink of the process: tests run side by side.
    fn alone() -> MutexGuard<'static, ()> {
        static SINK: Mutex<()> = Mutex::new(());
        SINK.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The warnings that are written meanwhile, those of other tests as well.
    pub(crate) fn warnings(act: impl FnOnce()) -> Vec<String> {
        let _alone = alone();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&lines);
        let sink = move |_, _: &str, text: &str| into.lock().unwrap().push(text.to_owned());
        set(LevelFilter::Warn, Sink::Callback(Box::new(sink)));
        act();
        set(LevelFilter::Off, Sink::StandardError);
        let lines = lines.lock().unwrap().clone();
        lines
    }

    #[test]
    fn times_are_printed_as_people_write_them() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_764_079_555, "2025-11-25T14:05:55.000Z"),
        ] {
            assert_eq!(timestamp(Duration::from_secs(secs)), text);
        }
    }

    /// An active logger with injected time, and what it has written.
    fn logger() -> (Active, Arc<Mutex<Vec<String>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&lines);
        let write = move |_, target: &str, text: &str| {
            into.lock().unwrap().push(format!("{target}: {text}"));
        };
        let filter = env_filter::Builder::new().filter_level(LevelFilter::Info).build();
        (Active::new(filter, Sink::Callback(Box::new(write))), lines)
    }

    fn say(active: &Active, level: Level, text: &str, now: Instant) {
        let record = |args| Record::builder().level(level).target("t").args(args).build();
        active.log(&record(format_args!("{text}")), now);
    }

    #[test]
    fn a_burst_of_equal_warnings_is_one_line_and_a_count() {
        let ((active, lines), start) = (logger(), Instant::now());
        let written = || std::mem::take(&mut *lines.lock().unwrap());
        for _ in 0..1000 {
            say(&active, Level::Warn, "full", start);
        }
        say(&active, Level::Error, "other", start);
        assert_eq!(written(), ["t: full", "t: other"], "others are not held back");
        let end = start + limits::REPEATED_WARNING;
        say(&active, Level::Warn, "full", end - Duration::from_millis(1));
        assert_eq!(written(), [""; 0]);
        // The next line, whatever it is, brings the count.
        say(&active, Level::Info, "all is well", end);
        assert_eq!(written(), ["t: full (1000 more in the last 10 s)", "t: all is well"]);
        // It is forgotten, then: the next one is written at once.
        say(&active, Level::Warn, "full", end);
        say(&active, Level::Warn, "full", end);
        assert_eq!(written(), ["t: full"]);
        // What is not a warning is never held back.
        say(&active, Level::Info, "same", end);
        say(&active, Level::Info, "same", end);
        assert_eq!(written(), ["t: same", "t: same"]);
        active.flush(end + Duration::from_secs(3));
        assert_eq!(written(), ["t: full (1 more in the last 3 s)"]);
        active.flush(end + Duration::from_secs(3));
        assert_eq!(written(), [""; 0]);
    }

    #[test]
    fn the_memory_of_warnings_is_bounded() {
        let ((active, lines), start) = (logger(), Instant::now());
        for n in 0..limits::REMEMBERED_WARNINGS + 1 {
            say(&active, Level::Warn, &n.to_string(), start);
            say(&active, Level::Warn, &n.to_string(), start);
        }
        // One past the limit is not remembered, so it is not held back.
        assert_eq!(lines.lock().unwrap().len(), limits::REMEMBERED_WARNINGS + 2);
        assert_eq!(active.repeats.lock().unwrap().0.len(), limits::REMEMBERED_WARNINGS);
    }

    #[test]
    fn a_peer_cannot_write_lines_of_its_own() {
        let ((active, lines), start) = (logger(), Instant::now());
        say(&active, Level::Info, "peer said \"x\n2026 ERROR forged\u{1b}[2J\"", start);
        let lines = lines.lock().unwrap();
        assert_eq!(lines[..], [r#"t: peer said "x\n2026 ERROR forged\u{1b}[2J""#]);
    }

    #[test]
    fn lines_reach_the_callback_that_was_set_last() {
        let _alone = alone();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&lines);
        set(LevelFilter::Warn, Sink::Callback(Box::new(|_, _, _| panic!("replaced"))));
        set(
            LevelFilter::Warn,
            Sink::Callback(Box::new(move |level, target, text| {
                log::error!("in circles");
                into.lock().unwrap().push(format!("{level} {target} {text}"));
            })),
        );
        log::warn!(target: "logging-test", "heard");
        log::warn!(target: "logging-test", "heard");
        log::info!(target: "logging-test", "not heard");
        set(LevelFilter::Off, Sink::StandardError);
        log::error!(target: "logging-test", "too late");
        let lines = lines.lock().unwrap();
        let ours: Vec<_> = lines.iter().filter(|line| line.contains("logging-test")).collect();
        assert_eq!(ours, ["WARN logging-test heard"]);
    }
}
