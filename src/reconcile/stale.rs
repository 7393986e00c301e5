//! What is said of a saved plan that is no longer what would be planned: which texts and which objects changed.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use crate::config::Source;
use crate::state::Netns;
use crate::state::clean;

/// How many lines of a text, and how many objects, are shown as changed.
const SHOWN: usize = 20;
/// How many attributes of an object are shown as changed, and how much of each, in characters.
const ATTRIBUTES_SHOWN: usize = 3;
const VALUE_SHOWN: usize = 60;
/// How long two texts are compared before the rest of them counts as changed.
const PATIENCE: Duration = Duration::from_secs(1);

/// A saved plan is no longer what would be planned.
#[derive(Debug, thiserror::Error)]
#[error("the plan is out of date, nothing was done: look at a new one (`netrec plan`)\n{}", .0.trim_end())]
pub struct Stale(pub(super) String);

/// Says which texts changed, and in which lines.
pub(super) fn texts(then: &[Source], now: &[Source]) -> String {
    let mut news = String::new();
    for source in then.iter().filter(|source| !now.iter().any(|other| other.name == source.name)) {
        let _ = writeln!(news, "{} is gone", clean(&source.name));
    }
    for source in now {
        let name = clean(&source.name);
        match then.iter().find(|other| other.name == source.name) {
            None => drop(writeln!(news, "{name} is new")),
            Some(other) if other.text != source.text => {
                let _ = writeln!(news, "{name} changed:");
                lines(&mut news, &other.text, &source.text);
            }
            Some(_) => {}
        }
    }
    let names = |sources: &[Source]| sources.iter().map(|source| source.name.clone()).collect::<Vec<_>>();
    if news.is_empty() && names(then) != names(now) {
        let _ = writeln!(news, "the files come in another order");
    }
    news
}

fn lines(news: &mut String, then: &str, now: &str) {
    let mut config = TextDiff::configure();
    let difference = config.timeout(PATIENCE).diff_lines(then, now);
    let mut changes = difference.iter_all_changes().filter(|change| change.tag() != ChangeTag::Equal);
    for change in changes.by_ref().take(SHOWN) {
        let sign = if change.tag() == ChangeTag::Delete { '-' } else { '+' };
        let _ = writeln!(news, "  {sign} {}", clean(change.value().trim_end()));
    }
    more(news, changes.count(), "line", "lines");
}

fn more(news: &mut String, count: usize, one: &str, many: &str) {
    let _ = match count {
        0 => Ok(()),
        1 => writeln!(news, "  and 1 more {one}"),
        n => writeln!(news, "  and {n} more {many}"),
    };
}

/// Says which namespaces of others are no longer those that they were: what they were made for has been started anew, or is
/// another process of the same number. Those that nothing is to be done in any more are of no interest.
pub(super) fn namespaces(then: &[(Netns, (u64, u64))], now: &BTreeMap<Netns, (u64, u64)>) -> String {
    let mut news = String::new();
    for (netns, _) in then.iter().filter(|(netns, id)| now.get(netns).is_some_and(|now| now != id)) {
        let _ = match netns.source() {
            Some(source) => writeln!(news, "{source} has another network namespace now"),
            None => writeln!(news, "{} is another network namespace now", clean(&netns.to_string())),
        };
    }
    news
}

/// Says which objects have another action now.
pub(super) fn objects(then: &[Value], now: &[Value]) -> String {
    fn by_object(actions: &[Value]) -> BTreeMap<String, &Value> {
        actions.iter().map(|action| (object(action), action)).collect()
    }
    let mut news = String::new();
    if then == now {
        return news;
    }
    let (old, new) = (by_object(then), by_object(now));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let differs = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    let mut differs = differs.map(|name| (name, Change(old.get(name).copied(), new.get(name).copied())));
    let _ = writeln!(news, "the plan then and now:");
    for (name, change) in differs.by_ref().take(SHOWN) {
        let _ = writeln!(news, "  {}: {change}", clean(name));
    }
    more(&mut news, differs.count(), "object", "objects");
    if new.is_empty() {
        let _ = writeln!(news, "there is nothing left to do");
    }
    news
}

/// An action's object as plans name it: `link nr-front`, `address 10.20.0.2/24 dev eth0 in web`.
fn object(action: &Value) -> String {
    let text = |name| action[name].as_str().unwrap_or("?");
    let netns = action["netns"].as_str().map_or_else(String::new, |netns| format!(" in {netns}"));
    format!("{} {}{netns}", text("kind"), text("name"))
}

/// What is done to an object, then and now.
struct Change<'a>(Option<&'a Value>, Option<&'a Value>);

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (then, now) = (verb(self.0), verb(self.1));
        if then != now {
            return write!(f, "{then}, now {now}");
        }
        let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
        for (action, leaves) in [(self.0, &mut old), (self.1, &mut new)] {
            if let Some(action) = action {
                leaf(action, "", leaves);
            }
        }
        let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
        paths.sort();
        paths.dedup();
        let differs = paths.into_iter().filter(|path| old.get(*path) != new.get(*path));
        let none = "(none)".to_owned();
        let word = |path: &String| {
            let of = |leaves: &BTreeMap<String, String>| short(leaves.get(path).unwrap_or(&none));
            format!("{path} {} -> {}", of(&old), of(&new))
        };
        let words: Vec<String> = differs.map(word).collect();
        let (shown, rest) = words.split_at(words.len().min(ATTRIBUTES_SHOWN));
        write!(f, "{then} with {}", shown.join(", "))?;
        if rest.is_empty() { Ok(()) } else { write!(f, " and {} more", rest.len()) }
    }
}

fn verb(action: Option<&Value>) -> &'static str {
    let Some(action) = action else { return "nothing" };
    let op: Vec<&str> = action["op"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match op[..] {
        ["create"] => "create",
        ["update"] => "change",
        ["delete", "create"] => "replace",
        ["delete"] => "remove",
        _ => "?",
    }
}

/// The values of an action, by their paths.
fn leaf(value: &Value, path: &str, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaf(value, &path, leaves);
            }
        }
        Value::String(text) => drop(leaves.insert(path.to_owned(), text.clone())),
        other => drop(leaves.insert(path.to_owned(), other.to_string())),
    }
}

fn short(text: &str) -> String {
    let mut shown: String = clean(text).chars().take(VALUE_SHOWN).collect();
    if text.chars().nth(VALUE_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
