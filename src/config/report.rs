//! Messages about the file: what is wrong, where, and what to do. How they look is in `render`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::render::Painter;
use super::types::Place;

/// One text of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in messages: the path as given, or `<stdin>`.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// The texts of a configuration, in the order in which they are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sources(pub Vec<Source>);

impl Sources {
    /// The name of the only text, or of the first and how many more there are: `netrec.toml and 2 more`.
    pub fn names(&self) -> String {
        match self.0.as_slice() {
            [] => "nothing".to_owned(),
            [one] => one.name.clone(),
            [first, more @ ..] => format!("{} and {} more", first.name, more.len()),
        }
    }

    /// Whether they say the same, wherever they were read.
    pub fn has_texts_of(&self, other: &Self) -> bool {
        self.0.iter().map(|source| &source.text).eq(other.0.iter().map(|source| &source.text))
    }

    /// `netrec.toml:14`: the file and the line (from 1) where a place begins.
    ///
    /// Counts lines from the top each time; [`Config::places`](super::Config::places) has them all at once.
    pub fn line(&self, place: &Place) -> String {
        let Some(source) = self.0.get(place.source) else { return String::new() };
        let end = place.span.start.min(source.text.len());
        let line = source.text.as_bytes()[..end].split(|b| *b == b'\n').count();
        format!("{}:{line}", source.name)
    }

    /// One problem with its source lines, headed by `severity` (`error`, `warning`); no newline at the end.
    pub fn render(&self, severity: &str, problem: &Problem) -> String {
        Painter::new(self).problem(severity, problem)
    }
}

/// One thing wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where it is wrong.
    pub place: Place,
    /// A few words beside the caret; may be empty.
    pub label: String,
    /// Other places that matter (the other side of a clash), with their words.
    pub others: Vec<(Place, String)>,
    /// What to do, where that is not plain from the message.
    pub help: Option<String>,
}

impl Problem {
    /// A problem at a place.
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { message: message.into(), place, label: String::new(), others: Vec::new(), help: None }
    }

    /// With words beside the caret.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// With another place that matters; call it once for each.
    #[must_use]
    pub fn with_other(mut self, place: Place, label: impl Into<String>) -> Self {
        self.others.push((place, label.into()));
        self
    }

    /// With what to do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// How many problems are kept; what is wrong beyond that is not even counted.
pub(super) const KEPT: usize = 10_000;

/// How many problems are shown.
const SHOWN: usize = 100;

/// A configuration that is not valid: all that is wrong with it, in the order of the text.
#[derive(Clone, Debug)]
pub struct Invalid {
    /// The texts.
    pub sources: Sources,
    /// What is wrong; at least one.
    pub problems: Vec<Problem>,
}

impl Invalid {
    /// Puts the problems in the order of the text.
    pub fn new(sources: Sources, mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| {
            let key = |p: &Problem| (p.place.source, p.place.span.start, p.place.span.end);
            key(a).cmp(&key(b))
        });
        Self { sources, problems }
    }

    /// `netrec.toml: 3 errors`, or `3 errors: 2 in a.toml, 1 in b.toml`.
    fn count(&self) -> String {
        let mut counts = vec![0_usize; self.sources.0.len()];
        for problem in &self.problems {
            if let Some(count) = counts.get_mut(problem.place.source) {
                *count += 1;
            }
        }
        let total = match self.problems.len() {
            1 => "1 error".to_owned(),
            n if n >= KEPT => format!("{n} errors or more"),
            n => format!("{n} errors"),
        };
        let files: Vec<_> = self.sources.0.iter().zip(&counts).filter(|(_, n)| **n > 0).collect();
        match files.as_slice() {
            [] => total,
            [(source, _)] => format!("{}: {total}", source.name),
            several => {
                let list: Vec<_> = several.iter().map(|(source, n)| format!("{n} in {}", source.name)).collect();
                format!("{total}: {}", list.join(", "))
            }
        }
    }
}

impl fmt::Display for Invalid {
    /// Each problem with its source lines, then how many there are; no newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let painter = Painter::new(&self.sources);
        for problem in self.problems.iter().take(SHOWN) {
            writeln!(f, "{}\n", painter.problem("error", problem))?;
        }
        if self.problems.len() > SHOWN {
            writeln!(f, "... and {} more\n", self.problems.len() - SHOWN)?;
        }
        f.write_str(&crate::state::clean(&self.count()))
    }
}

impl std::error::Error for Invalid {}
