//! The command line in a document, made of what it says of itself.

use clap::{Arg, Command, CommandFactory};

/// All commands and options, in Markdown: docs/cli.md.
pub fn reference() -> String {
    let mut program = super::Args::command();
    program.build();
    let mut text = String::from("# The command line\n\nMade of the program's own words by `make generate`.\n\n");
    text += &format!("```text\n{}\n```\n\n{}\n", plain(&program.render_usage().to_string()), said(&program));
    let (global, _): (Vec<&Arg>, Vec<&Arg>) = program.get_arguments().partition(|arg| arg.is_global_set());
    text += &format!("\nBefore or after each command:\n\n{}", list(global.into_iter()));
    text += &format!("\n{}\n", super::EXIT_STATUS);
    for command in program.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        text += &section(command.clone());
    }
    text
}

fn section(mut command: Command) -> String {
    let usage = plain(&command.render_usage().to_string());
    let own = command.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_id() != "help");
    let own = list(own);
    let own = if own.is_empty() { own } else { format!("\n{own}") };
    format!("\n## `{}`\n\n```text\n{usage}\n```\n\n{}\n{own}", command.get_name(), said(&command))
}

/// `Usage: netrec plan [OPTIONS]` without its first word.
fn plain(usage: &str) -> String {
    usage.trim_start_matches("Usage: ").to_owned()
}

/// What a command does, as a sentence.
fn said(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    if about.ends_with('.') { about } else { about + "." }
}

/// The arguments, one a line.
fn list<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let arguments = arguments.filter(|arg| !arg.is_hide_set());
    arguments.flat_map(|arg| ["- ".to_owned(), names(arg), ": ".to_owned(), help(arg), "\n".to_owned()]).collect()
}

/// `-c`, `--config PATH`
fn names(arg: &Arg) -> String {
    let value = if arg.get_action().takes_values() {
        arg.get_value_names().map(|names| names.join(" ")).unwrap_or_default()
    } else {
        String::new()
    };
    let words = [arg.get_short().map(|short| format!("-{short}")), arg.get_long().map(|long| format!("--{long}"))];
    let mut words: Vec<String> = words.into_iter().flatten().collect();
    if words.is_empty() {
        words.push(value);
    } else if let Some(last) = words.last_mut().filter(|_| !value.is_empty()) {
        *last += &format!(" {value}");
    }
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// What it is for, and the words that it takes.
fn help(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let words: Vec<String> = arg.get_possible_values().iter().map(|word| format!("`{}`", word.get_name())).collect();
    let takes = arg.get_action().takes_values() && !words.is_empty();
    if takes { format!("{help} ({})", words.join(", ")) } else { help }
}
