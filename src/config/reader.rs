//! Typed access to the tables of a file: every value knows its place, and what is wrong is collected, not returned.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::Section;
use super::report::{KEPT, Problem, Source};
use super::types::Place;

/// What is wrong so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    /// How many comparisons of names were made for suggestions.
    compared: usize,
}

/// The most comparisons of names made for suggestions: a file of nothing but unknown names must not take minutes.
const COMPARISONS: usize = 100_000;

impl Problems {
    /// Takes one more problem, unless it is known, or there are far too many already.
    pub(super) fn push(&mut self, problem: Problem) {
        if self.list.len() < KEPT && !self.list.contains(&problem) {
            self.list.push(problem);
        }
    }

    pub(super) fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        problems.into_iter().for_each(|problem| self.push(problem));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn into_vec(self) -> Vec<Problem> {
        self.list
    }

    /// The known name that was most likely meant.
    pub(super) fn suggest<'n>(&mut self, wrong: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
        let left = COMPARISONS.saturating_sub(self.compared);
        closest(wrong, known.into_iter().take(left).inspect(|_| self.compared += 1))
    }
}

/// Of some names the one that was most likely meant.
pub(crate) fn closest<'n>(wrong: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let length = wrong.chars().count();
    if length > 64 {
        return None;
    }
    let allowed = (length / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for name in known {
        let distance = strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase());
        if distance <= allowed && distance < length && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, name));
        }
    }
    best.map(|(_, name)| name)
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A file that is being read.
#[derive(Debug)]
pub(super) struct Document<'a> {
    /// Its index among the sources.
    pub(super) index: usize,
    /// Its text.
    pub(super) source: &'a Source,
    /// What it says.
    pub(super) root: Spanned<DeTable<'a>>,
}

impl Document<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place { source: self.index, span }
    }

    /// The table of the whole file.
    pub(super) fn table(&self) -> Table<'_> {
        Table { document: self, map: self.root.get_ref() }
    }
}

/// A table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    document: &'a Document<'a>,
    map: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<Item<'a>> {
        let (key, value) = self.map.get_key_value(key)?;
        Some(Item { document: self.document, key, value, role: Role::Value })
    }

    /// All keys with their values, in file order.
    pub(super) fn items(&self) -> impl Iterator<Item = Item<'a>> + use<'a> {
        let document = self.document;
        self.map.iter().map(move |(key, value)| Item { document, key, value, role: Role::Value })
    }

    /// Complains of keys that are none of the section's. Returns the keys that were meant by wrong ones: they are not missing.
    pub(super) fn check_keys(&self, section: &Section, problems: &mut Problems) -> Vec<&'static str> {
        let mut meant = Vec::new();
        for item in self.items() {
            let key = item.key();
            if section.key(key).is_some() {
                continue;
            }
            let problem = Problem::new(item.key_place(), format!("unknown key {}", tick(key)));
            // What stands after a table's header belongs to the table, which is easily forgotten.
            if key == "expect" {
                problems.push(problem.with_help("`expect` stands at the top of the file, before its first table"));
                continue;
            }
            let problem = match problems.suggest(key, section.names()) {
                Some(name) => {
                    meant.push(name);
                    problem.with_label(format!("did you mean `{name}`?"))
                }
                None => problem.with_help(format!(
                    "the keys of {} are {}",
                    section.whose,
                    list(&section.names().collect::<Vec<_>>())
                )),
            };
            problems.push(problem);
        }
        meant
    }
}

/// What a value is to its key.
#[derive(Clone, Copy, Debug)]
enum Role {
    Value,
    /// It could also be a list of such.
    OneOrMore,
    Element,
}

/// A value with its key; an element of a list goes by the key of the list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    document: &'a Document<'a>,
    key: &'a Spanned<std::borrow::Cow<'a, str>>,
    value: &'a Spanned<DeValue<'a>>,
    role: Role,
}

impl<'a> Item<'a> {
    pub(super) fn key(&self) -> &'a str {
        self.key.get_ref()
    }

    pub(super) fn key_place(&self) -> Place {
        self.document.place(self.key.span())
    }

    /// Where the value stands; a table that is not written as `{ … }` stands where its name does.
    pub(super) fn place(&self) -> Place {
        let span = self.value.span();
        let inline = self.document.source.text.get(span.clone()).is_some_and(|t| t.starts_with('{'));
        match self.value.get_ref() {
            DeValue::Table(_) if !inline => self.key_place(),
            _ => self.document.place(span),
        }
    }

    /// The place of a part of a string, by its bytes; the whole string where it is written with escapes.
    pub(super) fn part(&self, part: &Range<usize>) -> Place {
        let span = self.value.span();
        let verbatim = self.document.source.text.get(span.start + 1..span.end.saturating_sub(1));
        match self.value.get_ref() {
            DeValue::String(text) if verbatim == Some(text) => {
                self.document.place(span.start + 1 + part.start..span.start + 1 + part.end)
            }
            _ => self.document.place(span),
        }
    }

    /// The value with its place.
    pub(super) fn placed<T>(&self, value: T) -> Placed<T> {
        Placed { value, place: self.place() }
    }

    pub(super) fn as_str(&self) -> Option<&'a str> {
        self.value.get_ref().as_str()
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        self.value.get_ref().as_bool()
    }

    pub(super) fn value(&self) -> &'a DeValue<'a> {
        self.value.get_ref()
    }

    pub(super) fn as_table(&self) -> Option<Table<'a>> {
        self.value.get_ref().as_table().map(|map| Table { document: self.document, map })
    }

    /// The elements of a list.
    pub(super) fn as_list(&self) -> Option<impl Iterator<Item = Item<'a>> + use<'a>> {
        let Self { document, key, value, .. } = *self;
        let elements = value.get_ref().as_array()?;
        Some(elements.iter().map(move |value| Item { document, key, value, role: Role::Element }))
    }

    /// A string; `expected` says for the message what it must be, with its article.
    pub(super) fn string(&self, expected: &str, problems: &mut Problems) -> Option<&'a str> {
        let text = self.as_str();
        if text.is_none() {
            self.wrong_type(expected, problems);
        }
        text
    }

    pub(super) fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        let value = self.as_bool();
        if value.is_none() {
            self.wrong_type("`true` or `false`", problems);
        }
        value
    }

    pub(super) fn table(&self, help: &str, problems: &mut Problems) -> Option<Table<'a>> {
        let table = self.as_table();
        if table.is_none() {
            problems.push(self.type_problem("a table").with_help(help));
        }
        table
    }

    /// An integer within bounds; `expected` says which, with its article.
    pub(super) fn integer(&self, expected: &str, bounds: RangeInclusive<i64>, problems: &mut Problems) -> Option<i64> {
        let DeValue::Integer(written) = self.value.get_ref() else {
            self.wrong_type(expected, problems);
            return None;
        };
        let value = i64::from_str_radix(written.as_str(), written.radix()).ok().filter(|n| bounds.contains(n));
        if value.is_none() {
            problems.push(Problem::new(self.place(), format!("`{}` must be {expected}", self.key())));
        }
        value
    }

    /// One value or a list of them, as a list. `instead` says what to do instead of giving an empty one.
    pub(super) fn one_or_more(&self, instead: &str, problems: &mut Problems) -> Vec<Item<'a>> {
        let Some(list) = self.as_list() else { return vec![Item { role: Role::OneOrMore, ..*self }] };
        let list: Vec<_> = list.collect();
        if list.is_empty() {
            let problem = Problem::new(self.place(), format!("`{}` is an empty list", self.key()));
            problems.push(problem.with_label(instead));
        }
        list
    }

    pub(super) fn wrong_type(&self, expected: &str, problems: &mut Problems) {
        problems.push(self.type_problem(expected));
    }

    pub(super) fn type_problem(&self, expected: &str) -> Problem {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let key = tick(self.key());
        let message = match self.role {
            Role::Value => format!("{key} must be {expected}, not {found}"),
            Role::OneOrMore => format!("{key} must be {expected} or a list of them, not {found}"),
            Role::Element => format!("an element of {key} must be {expected}, not {found}"),
        };
        Problem::new(self.place(), message)
    }
}

/// Why a text is not the value it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) label: String,
    pub(super) help: Option<String>,
    /// The bytes of the text that are wrong; the whole text where there is none.
    pub(super) part: Option<Range<usize>>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), label: String::new(), help: None, part: None }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn part(mut self, part: Range<usize>) -> Self {
        self.part = Some(part);
        self
    }

    /// The problem it is at a string of the file.
    pub(super) fn at(self, item: &Item) -> Problem {
        let place = self.part.as_ref().map_or_else(|| item.place(), |part| item.part(part));
        Problem { message: self.message, place, label: self.label, others: Vec::new(), help: self.help }
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

/// Parses a text; a fault becomes a problem at its place.
pub(super) fn parsed<T, E: Into<Fault>>(result: Result<T, E>, item: &Item, problems: &mut Problems) -> Option<T> {
    result.map_err(|fault| problems.push(fault.into().at(item))).ok()
}

/// Parses a name by its type's own rules, whose message quotes the text: a long one is shortened there.
pub(super) fn named<T: std::str::FromStr<Err = String>>(text: &str) -> Result<T, Fault> {
    if text.is_empty() {
        return text.parse().map_err(|message: String| Fault::new(message.replace("``", "`\"\"`")));
    }
    let short = shorten(text);
    text.parse()
        .map_err(|message: String| Fault::new(if short == text { message } else { message.replace(text, &short) }))
}

/// The most characters of a text of the file within a message.
const QUOTED: usize = 70;

/// A text of the file, cut when it is long.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A text of the file between back quotes.
pub(super) fn tick(text: &str) -> String {
    if text.is_empty() { "`\"\"`".to_owned() } else { format!("`{}`", shorten(text)) }
}

/// `a`, `b` and `c`, each between back quotes.
pub(super) fn list<T: fmt::Display>(items: &[T]) -> String {
    match items {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|i| format!("`{i}`")).collect();
            format!("{} and `{last}`", first.join(", "))
        }
    }
}

/// Which ones there are, for somebody who named another; `what` is a word such as `network`. `none` if the file has not
/// even one that cannot be read.
pub(super) fn known_ones<'n>(what: &str, names: impl Iterator<Item = &'n str>, none: bool) -> String {
    const LISTED: usize = 6;
    let names: Vec<_> = names.take(LISTED + 1).collect();
    match names.as_slice() {
        [] if none => format!("no {what}s are defined"),
        [] => format!("no other {what} is defined"),
        [one] => format!("the only {what} is `{one}`"),
        names if names.len() > LISTED => format!("define it in a table under `{what}s`"),
        names => format!("the {what}s are {}", list(names)),
    }
}
