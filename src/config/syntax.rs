//! A text to a tree of tables, with all its syntax errors at once.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::reader::{Document, Problems, tick};
use super::report::{Problem, Source};
use super::types::Place;

/// How many times per file the first of two equal keys is looked for, each of which parses a part of the file again.
const LOOK_BACKS: usize = 8;

/// Parses one source.
pub(super) fn parse<'a>(index: usize, source: &'a Source, problems: &mut Problems) -> Document<'a> {
    let (root, mut errors) = DeTable::parse_recoverable(&source.text);
    let mut look_backs = LOOK_BACKS;
    let end = source.text.len();
    let span = |error: &Error| error.span().unwrap_or(end..end);
    errors.sort_by_key(|error| span(error).start);
    let mut good_from = 0;
    for error in &errors {
        let span = span(error);
        // After the first error of a line the parser often only guesses; what was never closed is worth saying, though.
        if span.start >= good_from || error.message().starts_with("unclosed") {
            problems.push(problem(index, &source.text, root.get_ref(), error, &span, &mut look_backs));
        }
        if span.end >= good_from {
            let rest = source.text.get(span.end..).unwrap_or_default();
            good_from = rest.find('\n').map_or(end, |i| span.end + i + 1);
        }
    }
    Document { index, source, root }
}

fn problem(
    index: usize,
    text: &str,
    root: &DeTable,
    error: &Error,
    span: &Range<usize>,
    look_backs: &mut usize,
) -> Problem {
    let place = |span| Place { source: index, span };
    let span = span.clone();
    if error.message() == "duplicate key" {
        let key = text.get(span.clone()).unwrap_or_default();
        let problem = Problem::new(place(span.clone()), format!("{} is defined twice", tick(key)));
        let first = look_backs.checked_sub(1).and_then(|left| {
            *look_backs = left;
            first_in_braces(root, text, &span).or_else(|| first_definition(text, &span))
        });
        return match first {
            Some(first) => problem.with_label("defined again here").with_other(place(first), "first defined here"),
            None => problem,
        };
    }
    let text = text.get(span.clone()).unwrap_or_default();
    let (message, expected) = error.message().split_once(", expected ").unwrap_or((error.message(), "nothing"));
    let problem = Problem::new(place(span), plain(message, expected, text));
    match (message, expected) {
        ("invalid float" | "invalid integer", _) => {
            problem.with_help("text, such as an address or a subnet, is written in quotes")
        }
        (_, "nothing") | ("invalid basic string" | "string values must be quoted", _) => problem,
        _ => problem.with_label(format!("expected {expected}")),
    }
}

/// The parser's message in the words of somebody who writes a file.
fn plain(message: &str, expected: &str, text: &str) -> String {
    let plain = match (message, expected) {
        ("string values must be quoted", _) if text.is_empty() => "the value is missing",
        ("string values must be quoted", _) => "a text must be in quotes",
        ("invalid basic string", "`\"`") | ("invalid literal string", "`'`") => {
            "the string has no closing quote on its line"
        }
        ("invalid basic string", e) if e.contains("visible characters") => "a string cannot contain this character",
        ("invalid float" | "invalid integer", _) => "this is not a number",
        ("cannot recurse further; max recursion depth met" | "recursion limit", _) => "the nesting is too deep",
        _ => message,
    };
    plain.replace("array", "list")
}

/// Where a key in braces was defined before, in the same braces.
fn first_in_braces(table: &DeTable, text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    for value in table.values() {
        let DeValue::Table(inner) = value.get_ref() else { continue };
        if let Some(first) = first_in_braces(inner, text, span) {
            return Some(first);
        }
        let braces = value.span();
        if text.get(braces.start..)?.starts_with('{') && braces.contains(&span.start) {
            let (key, _) = inner.get_key_value(text.get(span.clone())?)?;
            return (key.span().start < span.start).then(|| key.span());
        }
    }
    None
}

/// Where the key at `span` was defined before: the parser says only where it is defined again.
///
/// What stands before its line is parsed alone, and the path on its line followed from the last `[table]` there.
fn first_definition(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let start = text.get(..span.start)?.rfind('\n').map_or(0, |i| i + 1);
    let end = text.get(span.end..)?.find('\n').map_or(text.len(), |i| span.end + i);
    let line = text.get(start..end)?;
    let (line_tree, _) = DeTable::parse_recoverable(line);
    let path = path_to(line_tree.get_ref(), span.start - start)?;
    let (before, _) = DeTable::parse_recoverable(&text[..start]);
    let mut table = before.get_ref();
    if !line.trim_start().starts_with('[') {
        table = last_table(table, text).map_or(table, |(_, last)| last);
    }
    let (last, parents) = path.split_last()?;
    for key in parents {
        table = table.get(key.as_str())?.get_ref().as_table()?;
    }
    table.get_key_value(last.as_str()).map(|(key, _)| key.span())
}

/// The keys down to the one that begins at a byte.
fn path_to(table: &DeTable, start: usize) -> Option<Vec<String>> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref().to_string();
        if key.span().start == start {
            return Some(vec![name]);
        }
        let mut path = path_to(value.get_ref().as_table()?, start)?;
        path.insert(0, name);
        Some(path)
    })
}

/// The table of the last `[header]`, with where that begins.
fn last_table<'a>(table: &'a DeTable<'a>, text: &str) -> Option<(usize, &'a DeTable<'a>)> {
    let inner = |value: &'a Spanned<DeValue<'a>>| {
        let inner = match value.get_ref() {
            DeValue::Table(inner) => inner,
            DeValue::Array(tables) => tables.last()?.get_ref().as_table()?,
            _ => return None,
        };
        let start = value.span().start;
        let headed = text[start..].starts_with('[').then_some((start, inner));
        headed.into_iter().chain(last_table(inner, text)).max_by_key(|(start, _)| *start)
    };
    table.values().filter_map(inner).max_by_key(|(start, _)| *start)
}
