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
            Color::Auto => terminal && !is_dumb() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
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

    /// What a line takes, where results go to a terminal that knows its width, or where `COLUMNS` says it.
    pub(super) fn columns(&self) -> Option<usize> {
        let of_terminal = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
        let given = || std::env::var("COLUMNS").ok()?.parse().ok();
        of_terminal.filter(|columns| *columns > 0).or_else(given).filter(|columns| *columns > 0)
    }

    /// Tables whose last column is a state.
    pub(super) fn status(&self, text: &str) {
        if self.color { self.result(&with_states(text)) } else { self.result(text) }
    }

    /// Whether nothing is to be said but errors.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
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
        if self.quiet || self.start.elapsed() < PROGRESS_AFTER || !io::stderr().is_terminal() || is_dumb() {
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

/// Whether the terminal, if there is one, knows neither colours nor how to go back on a line.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|name| name == "dumb")
}

/// Tables with coloured states: what is as it should be, what is waited for, and all else. Heads are bold, and warnings as in a plan.
fn with_states(text: &str) -> String {
    const STATE: &str = "STATE";
    let mut painted = String::with_capacity(text.len() * 2);
    // The column, in characters, that states begin in.
    let mut column: Option<usize> = None;
    let mut code = "31";
    let mut warns = false;
    for line in text.lines() {
        let at = line.strip_suffix(STATE).map(|before| before.chars().count());
        let split = column.and_then(|column| line.char_indices().nth(column)).map(|(at, _)| line.split_at(at));
        // What of a row goes on below is no state, where it has no gap before the column.
        let split = split.filter(|(before, _)| before.ends_with("  "));
        // A warning goes on until the first empty line.
        warns = line.starts_with('!') || warns && !line.is_empty();
        match (at, split) {
            _ if warns => painted += &format!("\x1b[1;33m{line}\x1b[0m\n"),
            (Some(at), _) => {
                column = Some(at);
                painted += &format!("\x1b[1m{line}\x1b[0m\n");
            }
            (None, Some((before, state))) => {
                code = match state {
                    // It goes on below.
                    _ if line.starts_with(' ') => code,
                    "ok" => "32",
                    _ if state.starts_with("waiting") => "33",
                    _ => "31",
                };
                painted += &format!("{before}\x1b[{code}m{state}\x1b[0m\n");
            }
            (None, None) => {
                column = column.filter(|_| !line.is_empty());
                painted.extend([line, "\n"]);
            }
        }
    }
    painted
}

#[cfg(test)]
mod tests {
    use super::with_states;

    #[test]
    fn states_are_coloured() {
        let text = "a: 1 object differs from b
! a warning
  that goes on

NETWORK  STATE
front    ok
back     1 missing of 6

CONTAINER  ADDRESSES  STATE
web        10.0.0.2   waiting: it is not there
           fd00::2
db         10.0.0.3   refused: it is
                      another's
  addresses: 10.0.0.3 fd00::3

No longer in b: containers.db
";
        let painted = "a: 1 object differs from b
\x1b[1;33m! a warning\x1b[0m
\x1b[1;33m  that goes on\x1b[0m

\x1b[1mNETWORK  STATE\x1b[0m
front    \x1b[32mok\x1b[0m
back     \x1b[31m1 missing of 6\x1b[0m

\x1b[1mCONTAINER  ADDRESSES  STATE\x1b[0m
web        10.0.0.2   \x1b[33mwaiting: it is not there\x1b[0m
           fd00::2
db         10.0.0.3   \x1b[31mrefused: it is\x1b[0m
                      \x1b[31manother's\x1b[0m
  addresses: 10.0.0.3 fd00::3

No longer in b: containers.db
";
        assert_eq!(with_states(text), painted);
    }
}
