//! The reference of the file, a document, from the list of keys that the parser has: docs/keys.md.

use super::driver::Named;
use super::keys::{FILE, Key, Need, Section, Shape};

/// All tables and their keys, in Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Every key of the file\n\nMade of the parser's own list by `make generate`. [The file](file.md) says more of what they do.\n",
    );
    let mut sections = vec![&FILE];
    let mut next = 0;
    while let Some(section) = sections.get(next).copied() {
        text += &table(section);
        for inner in section.keys.iter().flat_map(|key| tables(&key.shape)) {
            if !sections.iter().any(|known| known.name == inner.name) {
                sections.push(inner);
            }
        }
        next += 1;
    }
    text
}

/// A table of the file.
fn table(section: &Section) -> String {
    let mut text =
        format!("\n## {}\n\n{}\n\n| key | value | without it | |\n|---|---|---|---|\n", title(section), section.about);
    for key in section.keys {
        let drivers: Vec<&str> =
            Named::ALL.into_iter().filter(|driver| key.is_of(*driver)).map(Named::as_str).collect();
        let of = if key.of.is_empty() { String::new() } else { format!(" Of {} only.", quoted(&drivers, " and ")) };
        let cells = [format!("`{}`", key.name), shape(&key.shape), without(key), format!("{}{of}", key.about)];
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text += &format!("| {} |\n", cells.join(" | ")).replace("|  |", "| |");
    }
    text
}

/// The heading of a table, and what links to it.
fn title(section: &Section) -> String {
    section.name.replace('_', " ")
}

fn link(section: &Section) -> String {
    format!("#{}", title(section).to_lowercase().replace(' ', "-"))
}

/// What holds without a key.
fn without(key: &Key) -> String {
    match (key.need, key.default) {
        (Need::Required, _) => "it is required".to_owned(),
        (Need::Unless(other, word), _) => format!("it is required, unless `{other}` is `\"{word}\"`"),
        (Need::Optional, Some(default)) => format!("`{default}`"),
        (Need::Optional, None) => String::new(),
    }
}

/// What a key may hold, in words.
fn shape(what: &Shape) -> String {
    match what {
        Shape::Text => "a text".to_owned(),
        Shape::Form(pattern) => format!("a text of the form `{pattern}`"),
        Shape::Word(words) => {
            let words: Vec<String> = words().iter().map(|word| format!("\"{word}\"")).collect();
            quoted(&words, " or ")
        }
        Shape::Flag => "`true` or `false`".to_owned(),
        Shape::Off => "`false`".to_owned(),
        Shape::Number(least, most) => format!("a number from {least} to {most}"),
        Shape::List(inner) => format!("a list, each {}", shape(inner)),
        Shape::OneOrMore(inner) => format!("{}, or a list of such", shape(inner)),
        Shape::AnyNumber(inner) => format!("{}, or a list of such, which may be empty", shape(inner)),
        Shape::Either(shapes) => shapes.iter().map(shape).collect::<Vec<_>>().join(", or "),
        Shape::Table(section) => format!("[a table]({})", link(section)),
        Shape::ByName(section) => format!("[tables]({}) by name", link(section)),
        Shape::Texts => "texts by name".to_owned(),
        Shape::Parameters => "texts, numbers, `true` or `false`, by the parameter's name".to_owned(),
    }
}

/// The tables within what a key may hold.
fn tables(what: &Shape) -> Vec<&'static Section> {
    match what {
        Shape::Table(section) | Shape::ByName(section) => vec![section],
        Shape::List(inner) | Shape::OneOrMore(inner) | Shape::AnyNumber(inner) => tables(inner),
        Shape::Either(shapes) => shapes.iter().flat_map(tables).collect(),
        _ => Vec::new(),
    }
}

/// `a`, `b` and `c`
fn quoted<T: AsRef<str>>(words: &[T], last: &str) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{}`", word.as_ref())).collect();
    match &words[..] {
        [first @ .., end] if !first.is_empty() => format!("{}{last}{end}", first.join(", ")),
        words => words.concat(),
    }
}
