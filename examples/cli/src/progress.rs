//! A line on the terminal that says how far a long command is. Nothing is written when the standard error is a file.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use narthex::fs::Env;

/// How often the line is drawn anew, at most.
const EVERY: Duration = Duration::from_millis(100);
/// Cells of the bar.
const WIDTH: u64 = 24;

/// The line. It goes away when this is dropped.
#[derive(Debug)]
pub(crate) struct Bar {
    env: Env,
    total: u64,
    done: AtomicU64,
    begun: Duration,
    drawn: Mutex<Drawn>,
    terminal: bool,
}

#[derive(Debug, Default)]
struct Drawn {
    at: Option<Duration>,
    subject: String,
}

impl Bar {
    /// A line for `total` bytes.
    pub(crate) fn new(env: &Env, total: u64) -> Self {
        let terminal = io::stderr().is_terminal();
        let begun = env.clock.monotonic();
        Self { env: env.clone(), total, done: AtomicU64::new(0), begun, drawn: Mutex::default(), terminal }
    }

    /// Says what is worked on now.
    pub(crate) fn subject(&self, subject: impl ToString) {
        if self.terminal {
            let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
            drawn.subject = subject.to_string();
            drawn.at = None;
            drop(drawn);
            self.add(0);
        }
    }

    /// `bytes` more are done.
    pub(crate) fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if !self.terminal {
            return;
        }
        let now = self.env.clock.monotonic();
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.at.is_none_or(|at| now >= at + EVERY) {
            drawn.at = Some(now);
            let line = line(done, self.total, now.saturating_sub(self.begun), &drawn.subject);
            // Who has no terminal any more does not want to hear of it.
            let _ = write!(io::stderr(), "\r{line}\x1b[K");
        }
    }

    /// Bytes that are done.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Takes the line away, so that other text can be written.
    pub(crate) fn clear(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(done: u64, total: u64, passed: Duration, subject: &str) -> String {
    let done = done.min(total);
    let filled = (done * WIDTH).checked_div(total).unwrap_or(WIDTH);
    let bar: String = (0..WIDTH).map(|cell| if cell < filled { '#' } else { '.' }).collect();
    let seconds = passed.as_secs();
    format!("[{bar}] {} of {}, {}:{:02}  {subject}", size(done), size(total), seconds / 60, seconds % 60)
}

/// A size for people: `1.4 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut scaled = bytes as f64;
    let mut name = None;
    for unit in units {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        name = Some(unit);
    }
    match name {
        None => format!("{bytes} B"),
        Some(unit) => format!("{scaled:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_is_done_of_how_much() {
        let text = line(1 << 20, 4 << 20, Duration::from_secs(65), "index");
        assert_eq!(text, "[######..................] 1.0 MiB of 4.0 MiB, 1:05  index");
        assert!(line(0, 0, Duration::ZERO, "").starts_with(&format!("[{}]", "#".repeat(24))), "nothing to do is done");
    }

    #[test]
    fn sizes_are_given_in_the_unit_that_they_fit() {
        assert_eq!([0, 1023, 1024, 1_500_000, 3 << 40].map(size), ["0 B", "1023 B", "1.0 KiB", "1.4 MiB", "3.0 TiB"]);
    }
}
