//! The two streams: results on standard output, everything else on standard error. A closed pipe or a full disk loses
//! the words, never the work.

// The streams are the process's own, but who may write to them is this object's business.
#![allow(clippy::unused_self)]

use std::cell::Cell;
use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::{Color, Error};

/// Work shorter than this shows no progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Output {
    when: Color,
    color: bool,
    error_color: bool,
    quiet: bool,
    verbose: u8,
    start: Instant,
    bar: Cell<bool>,
    lost: Cell<Option<io::ErrorKind>>,
}

impl Output {
    pub(super) fn new(color: Color, quiet: bool, verbose: u8) -> Self {
        let wanted = |terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        Self {
            when: color,
            color: wanted(io::stdout().is_terminal()),
            error_color: wanted(io::stderr().is_terminal()),
            quiet,
            verbose,
            start: Instant::now(),
            bar: Cell::new(false),
            lost: Cell::new(None),
        }
    }

    /// The same for another thread.
    pub(super) fn another(&self) -> Self {
        Self::new(self.when, self.quiet, self.verbose)
    }

    /// The result, as it is. Where it cannot be written, that is remembered; the work goes on.
    pub(super) fn result(&self, text: &str) {
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            self.lost.set(Some(error.kind()));
        }
    }

    /// Why a result could not be written, if one could not. A reader that has read enough is no failure.
    pub(super) fn lost(&self) -> Option<io::ErrorKind> {
        self.lost.get().filter(|kind| *kind != io::ErrorKind::BrokenPipe)
    }

    /// One JSON document.
    pub(super) fn json(&self, value: &serde_json::Value) {
        self.result(&format!("{value:#}\n"));
    }

    /// A plan's text, coloured by the symbol that its lines begin with.
    pub(super) fn plan(&self, text: &str) {
        if !self.color {
            return self.result(text);
        }
        let mut painted = String::with_capacity(text.len() + text.len() / 4);
        for line in text.split_inclusive('\n') {
            let code = match line.trim_start().as_bytes() {
                [b'-', b'/', ..] => "35",
                [b'+', ..] => "32",
                [b'-', ..] => "31",
                [b'~', ..] => "33",
                [b'!', ..] => "1;33",
                [b'#', ..] if line.starts_with('#') => "1",
                [b'#', ..] => "2",
                _ => "",
            };
            let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
            if code.is_empty() {
                painted += line;
            } else {
                painted += &format!("\x1b[{code}m{body}\x1b[0m{end}");
            }
        }
        self.result(&painted);
    }

    /// A word on the way, for people.
    pub(super) fn note(&self, text: &dyn Display) {
        if !self.quiet {
            self.clear();
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A word for those who asked for more.
    pub(super) fn detail(&self, text: &dyn Display) {
        if self.verbose > 0 {
            self.note(text);
        }
    }

    /// An error. What the configuration's checks say comes with its own heads.
    pub(super) fn error(&self, error: &Error) {
        self.clear();
        self.error_text(&error.to_string());
    }

    /// The same of one that has its words already.
    pub(super) fn error_text(&self, text: &str) {
        let text = if text.starts_with("error: ") { text.to_owned() } else { format!("error: {text}") };
        let text = if self.error_color { text.replace("error: ", "\x1b[1;31merror\x1b[0m: ") } else { text };
        let _ = writeln!(io::stderr(), "{}", text.trim_end());
    }

    /// Progress, on a terminal and when it takes a while.
    pub(super) fn progress(&self, done: usize, total: usize) {
        const WIDTH: usize = 30;
        if self.quiet || self.start.elapsed() < PROGRESS_AFTER || !io::stderr().is_terminal() {
            return;
        }
        let full = done * WIDTH / total.max(1);
        let _ = write!(io::stderr(), "\r[{:<WIDTH$}] {done} of {total}", "#".repeat(full));
        self.bar.set(true);
    }

    fn clear(&self) {
        if self.bar.replace(false) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    /// Whether a person can be asked.
    pub(super) fn interactive(&self) -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Asks; only `yes` is a yes.
    pub(super) fn confirm(&self, question: &str) -> bool {
        self.result(&format!("{question} Only `yes` goes on: "));
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).is_ok() && answer.trim() == "yes"
    }
}
