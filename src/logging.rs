//! Where log lines go: our sink behind the `log` facade, which mio, nghttp2's users and all our
//! modules write to.
//!
//! Nothing is logged until [`set`] is called or `SLIM_LOG` names a filter (in the syntax of
//! RUST_LOG). A logger that the program installed before stays in charge. Secrets, tokens and
//! payloads are never logged.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::{Mutex, OnceLock, RwLock};
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
    /// itself is dropped.
    Callback(Callback),
}

/// Sets the sink of the whole process and how much it gets. When the call returns, the sink that
/// was set before is no longer used.
pub fn set(level: LevelFilter, sink: Sink) {
    install();
    let filter = env_filter::Builder::new().filter_level(level).build();
    if let Ok(mut active) = ACTIVE.write() {
        *active = Some(Active { filter, sink });
    }
    log::set_max_level(level);
}

/// Follows `SLIM_LOG` if it is set and nothing else was said; the first call counts.
pub fn init_from_env() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let Ok(text) = std::env::var("SLIM_LOG") else { return };
        install();
        let filter = env_filter::Builder::new().parse(&text).build();
        let level = filter.filter();
        if let Ok(mut active) = ACTIVE.write() {
            if active.is_none() {
                *active = Some(Active { filter, sink: Sink::StandardError });
                log::set_max_level(level);
            }
        }
    });
}

struct Active {
    filter: env_filter::Filter,
    sink: Sink,
}

static ACTIVE: RwLock<Option<Active>> = RwLock::new(None);

thread_local! {
    /// This thread is inside a sink: what it logs there would go in circles.
    static BUSY: Cell<bool> = const { Cell::new(false) };
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
        if BUSY.replace(true) {
            return;
        }
        if let Ok(active) = ACTIVE.read() {
            if let Some(Active { filter, sink }) = &*active {
                if filter.matches(record) {
                    write(sink, record);
                }
            }
        }
        BUSY.set(false);
    }

    fn flush(&self) {}
}

/// Warnings and errors that were written lately: each once in a while, whatever causes them.
struct Repeats(VecDeque<Repeat>);

struct Repeat {
    text: String,
    written: Instant,
    /// Left out since then.
    more: u64,
}

static REPEATS: Mutex<Repeats> = Mutex::new(Repeats(VecDeque::new()));

impl Repeats {
    /// Whether a line is written, and how many equal ones were left out before it.
    fn admit(&mut self, text: &str, now: Instant) -> Option<u64> {
        let known = self.0.iter_mut().find(|repeat| repeat.text == text);
        if let Some(repeat) = known {
            if now.saturating_duration_since(repeat.written) < limits::REPEATED_WARNING {
                repeat.more += 1;
                return None;
            }
            repeat.written = now;
            return Some(std::mem::take(&mut repeat.more));
        }
        if self.0.len() == limits::REMEMBERED_WARNINGS {
            self.0.pop_front();
        }
        self.0.push_back(Repeat { text: text.to_owned(), written: now, more: 0 });
        Some(0)
    }
}

fn write(sink: &Sink, record: &Record<'_>) {
    let mut text = record.args().to_string();
    if record.level() <= Level::Warn {
        let more = REPEATS.lock().map_or(Some(0), |mut known| known.admit(&text, Instant::now()));
        match more {
            None => return,
            Some(0) => {}
            Some(more) => text.push_str(&format!(" (and {more} times more before)")),
        }
    }
    match sink {
        Sink::Callback(callback) => callback(record.level(), record.target(), &text),
        Sink::StandardError => {
            let time = timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
            let line = format!("{time} {:5} {}: {text}\n", record.level(), record.target());
            // Nobody can be told that standard error is gone.
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }
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
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

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

    #[test]
    fn a_burst_of_equal_warnings_is_one_line() {
        let (mut repeats, start) = (Repeats(VecDeque::new()), Instant::now());
        assert_eq!(repeats.admit("a", start), Some(0));
        for _ in 0..1000 {
            assert_eq!(repeats.admit("a", start), None);
        }
        assert_eq!(repeats.admit("b", start), Some(0), "others are not held back");
        let just_before = limits::REPEATED_WARNING - Duration::from_millis(1);
        assert_eq!(repeats.admit("a", start + just_before), None);
        assert_eq!(repeats.admit("a", start + limits::REPEATED_WARNING), Some(1001));
        assert_eq!(repeats.admit("a", start + 2 * limits::REPEATED_WARNING), Some(0));
        for n in 0..10 * limits::REMEMBERED_WARNINGS {
            assert_eq!(repeats.admit(&n.to_string(), start), Some(0));
        }
        assert_eq!(repeats.0.len(), limits::REMEMBERED_WARNINGS);
    }

    #[test]
    fn lines_reach_the_callback_that_was_set_last() {
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
        log::info!(target: "logging-test", "not heard");
        set(LevelFilter::Off, Sink::StandardError);
        log::error!(target: "logging-test", "too late");
        let lines = lines.lock().unwrap();
        let ours: Vec<_> = lines.iter().filter(|line| line.contains("logging-test")).collect();
        assert_eq!(ours, ["WARN logging-test heard"]);
    }
}
