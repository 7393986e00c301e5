//! Messages about the file: what, where, and what to do, with the source line and a caret.

use std::fmt;

use super::types::Place;

/// One text of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name in messages: the path as given, or `<stdin>`.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// The texts of a configuration, in the order in which they are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

    /// `netrec.toml:14`: the file and the line (from 1) where a place begins.
    pub fn line(&self, place: &Place) -> String {
        let Some(source) = self.0.get(place.source) else { return String::new() };
        let before = source.text.get(..place.span.start).unwrap_or(&source.text);
        format!("{}:{}", source.name, before.matches('\n').count() + 1)
    }
}

/// One thing wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where it is wrong, and a few words for the caret.
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
    pub fn new(message: impl Into<String>, place: Place, label: impl Into<String>) -> Self {
        Self { message: message.into(), place, label: label.into(), others: Vec::new(), help: None }
    }

    /// With another place that matters.
    #[must_use]
    pub fn with_other(mut self, place: Place, label: impl Into<String>) -> Self {
        self.others.push((place, label.into()));
        self
    }

    /// With what to do.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A configuration that is not valid: all that is wrong with it, in the order of the text.
#[derive(Clone, Debug)]
pub struct Invalid {
    /// The texts.
    pub sources: Sources,
    /// What is wrong; at least one.
    pub problems: Vec<Problem>,
}

impl Invalid {
    /// All problems of some texts.
    pub fn new(sources: Sources, problems: Vec<Problem>) -> Self {
        Self { sources, problems }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Invalid {}
