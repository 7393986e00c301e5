//! One value of a configuration by itself: for tests with texts that nobody writes.

use super::{Config, Invalid, Source, Sources, parse};

/// Reads a configuration whose one port is this text.
///
/// # Errors
/// What is wrong with it, where the text is what is wrong.
pub fn port(text: &str) -> Result<Config, Invalid> {
    let text = literal(text);
    with(&format!("[containers.web]\nnetworks = [\"front\"]\nports = [{text}]\n"))
}

/// Reads a configuration whose one expectation is this text.
///
/// # Errors
/// What is wrong with it, where the text is what is wrong.
pub fn expect(text: &str) -> Result<Config, Invalid> {
    let text = literal(text);
    parse(Sources(vec![
        Source { name: "expect.toml".into(), text: format!("expect = [{text}]\n") },
        Source {
            name: "netrec.toml".into(),
            text: file("[containers.web]\nnetworks = [\"front\"]\nports = [\"8080:80\"]\n"),
        },
    ]))
}

fn with(lines: &str) -> Result<Config, Invalid> {
    parse(Sources(vec![Source { name: "netrec.toml".into(), text: file(lines) }]))
}

fn file(lines: &str) -> String {
    format!("[networks.front]\nsubnet = [\"10.20.0.0/24\", \"fd20::/64\"]\n\n{lines}")
}

/// A text as TOML writes it. What it need not write otherwise stays as it is, so that places are found behind both.
fn literal(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            char if char.is_control() => out += &format!("\\u{:04x}", u32::from(char)),
            char => out.push(char),
        }
    }
    out + "\""
}
