//! Addresses written into a file's text, in which every byte stays that need not change: comments, order, line ends, and how
//! it is written. What is to be written is found by the places of what is there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use toml_edit::{Array, Document, Item, Key, Table, TableLike, Value};

/// Addresses of a container on a network that its file is to give, beside those that it gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses<'a> {
    /// The container.
    pub container: &'a str,
    /// The network.
    pub network: &'a str,
    /// In the order in which they are to stand behind the others.
    pub add: Vec<IpAddr>,
}

/// The text with these addresses. Lists of networks become tables where they have to. None where the text has no such place, or has it
/// in a way that cannot be followed.
pub fn with_addresses(text: &str, all: &[Addresses<'_>]) -> Option<String> {
    let mark = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK } else { "" };
    let text = text.strip_prefix(mark)?;
    let document = Document::parse(text).ok()?;
    let all_containers = document.as_table().get("containers")?;
    let containers = all_containers.as_table_like()?;
    let mut by_container: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    for Addresses { container, network, add } in all {
        by_container.entry(container).or_default().insert(network, listed(add));
    }
    let mut edits = Edits { text, list: Vec::new() };
    for (container, networks) in by_container {
        let container = containers.get(container)?;
        let inline = is_inline(all_containers) || is_inline(container);
        let (key, item) = container.as_table_like()?.get_key_value("networks")?;
        if let Some(list) = item.as_array() {
            edits.list_to_table(list, key, inline, &networks)?;
            continue;
        }
        let inline = inline || is_inline(item);
        for (network, addresses) in networks {
            let (key, attachment) = item.as_table_like()?.get_key_value(network)?;
            match attachment.as_table_like()?.get("address") {
                Some(given) => edits.extend(given.as_value()?, &addresses)?,
                None => edits.insert(attachment, key, inline, &addresses)?,
            }
        }
    }
    Some(format!("{mark}{}", edits.done()))
}

const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Addresses as they stand in a list.
fn listed(addresses: &[IpAddr]) -> String {
    addresses.iter().map(|ip| format!("\"{ip}\"")).collect::<Vec<_>>().join(", ")
}

/// The value of an attachment's `address`: one address as a text, several as a list.
fn value_of(addresses: &str) -> String {
    if addresses.contains(',') { format!("[{addresses}]") } else { addresses.to_owned() }
}

/// Whether something stands within braces.
fn is_inline(item: &Item) -> bool {
    item.as_inline_table().is_some_and(|table| !table.is_dotted())
}

/// A key as it can stand alone.
fn bare(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.chars().all(plain) { name.to_owned() } else { format!("\"{name}\"") }
}

/// Pieces of a text and what takes their places.
struct Edits<'a> {
    text: &'a str,
    list: Vec<(Range<usize>, String)>,
}

impl<'a> Edits<'a> {
    fn done(mut self) -> String {
        self.list.sort_by_key(|(range, _)| range.start);
        let (mut new, mut at) = (String::new(), 0);
        for (range, piece) in self.list {
            new += self.text.get(at..range.start).unwrap_or_default();
            new += &piece;
            at = range.end;
        }
        new + self.text.get(at..).unwrap_or_default()
    }

    fn put(&mut self, at: usize, piece: String) {
        self.list.push((at..at, piece));
    }

    /// Where the line of a place begins.
    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    /// Where the line of a place ends, before what ends it, and that; the text's way to end lines where it is the last.
    fn line_end(&self, at: usize) -> (usize, &'a str) {
        let rest = &self.text[at..];
        match rest.find('\n') {
            Some(newline) if rest[..newline].ends_with('\r') => (at + newline - 1, "\r\n"),
            Some(newline) => (at + newline, "\n"),
            None => (self.text.len(), if self.text.contains("\r\n") { "\r\n" } else { "\n" }),
        }
    }

    /// What stands on a line before a key: indentation, and the other parts of a dotted one.
    fn before(&self, key: &Key) -> Option<&'a str> {
        let start = key.span()?.start;
        Some(&self.text[self.line_start(start)..start])
    }

    /// `networks = ["front", "back"]` as `networks.front = {}` and `networks.back = {}`; within braces as
    /// `networks = { front = {} }`, on as many lines as before where there are comments, which TOML 1.1 allows. Comments stay beside
    /// what they are about.
    fn list_to_table(
        &mut self,
        list: &Array,
        key: &Key,
        inline: bool,
        addresses: &BTreeMap<&str, String>,
    ) -> Option<()> {
        let (place, key_place) = (list.span()?, key.span()?);
        let value = |network: &str| match addresses.get(network) {
            Some(addresses) => format!("{{ address = {} }}", value_of(addresses)),
            None => "{}".to_owned(),
        };
        if inline {
            let of = |network: &Value| Some(format!("{} = {}", bare(network.as_str()?), value(network.as_str()?)));
            if self.text[place.clone()].contains('#') {
                for network in list {
                    self.list.push((network.span()?, of(network)?));
                }
                self.list.push((place.start..place.start + 1, "{".to_owned()));
                self.list.push((place.end - 1..place.end, "}".to_owned()));
                return Some(());
            }
            let networks: Vec<String> = list.iter().map(of).collect::<Option<_>>()?;
            self.list.push((place, format!("{{ {} }}", networks.join(", "))));
            return Some(());
        }
        let (before, key) = (self.before(key)?, &self.text[key_place.clone()]);
        let indent = &before[..before.len() - before.trim_start().len()];
        let (line_end, eol) = self.line_end(place.end);
        let mut new = String::new();
        let mut at = place.start + 1;
        for (n, element) in list.iter().enumerate() {
            let span = element.span()?;
            let gap = self.gap(at..span.start);
            match gap.same_line {
                Some(comment) if n == 0 => new += &format!("{indent}{}{eol}", comment.trim_start()),
                comment if n > 0 => new += &format!("{}{}", comment.unwrap_or_default(), gap.eol.unwrap_or(eol)),
                _ => {}
            }
            let network = element.as_str()?;
            new += &format!("{}{before}{key}.{} = {}", gap.below, bare(network), value(network));
            at = span.end;
        }
        let gap = self.gap(at..place.end - 1);
        new += gap.same_line.unwrap_or_default();
        if !gap.below.is_empty() {
            new += &format!("{eol}{}", gap.below.trim_end_matches(['\r', '\n']));
        }
        // What stands behind the list gets a line of its own where something is behind the last element already.
        let tail = self.text[place.end..line_end].trim();
        let is_behind = gap.same_line.is_none() && gap.below.is_empty();
        if !is_behind && !tail.is_empty() {
            new += &format!("{eol}{indent}{tail}");
        }
        let end = if is_behind { place.end } else { line_end };
        self.list.push((key_place.start - before.len()..end, new));
        Some(())
    }

    /// The comments between two elements of a list.
    fn gap(&self, range: Range<usize>) -> Gap<'a> {
        let mut lines = self.text[range].split_inclusive('\n');
        let first = lines.next().unwrap_or_default();
        let ended = first.ends_with('\n');
        let eol = ended.then(|| if first.ends_with("\r\n") { "\r\n" } else { "\n" });
        let comment = first.find('#').map(|hash| {
            // Without the comma, which stands before it.
            let space = first[..hash].rfind(|c: char| !c.is_whitespace()).map_or(0, |last| last + 1);
            first[space..].trim_end_matches(['\r', '\n'])
        });
        let comments = lines.filter_map(|line| {
            let (code, _) = line.split_once('#')?;
            Some(if code.contains(',') { line.replacen(',', "", 1) } else { line.to_owned() })
        });
        let below = comments.collect();
        Gap { same_line: comment, eol, below }
    }

    /// More addresses behind those that are given.
    fn extend(&mut self, given: &Value, more: &str) -> Option<()> {
        let place = given.span()?;
        let Some(array) = given.as_array() else {
            self.put(place.start, "[".to_owned());
            self.put(place.end, format!(", {more}]"));
            return Some(());
        };
        // As the last one stands: on a line of its own, or behind the others.
        let last = array.iter().last()?.span()?;
        let before = &self.text[place.start..last.start];
        let rest = &self.text[last.end..place.end - 1];
        let line = before.rfind('\n').map(|newline| &before[newline + 1..]).filter(|line| line.trim().is_empty());
        let Some(indent) = line.filter(|_| rest.contains('\n')) else {
            self.put(last.end, format!(", {more}"));
            return Some(());
        };
        let has_comma = |line: &str| line.split('#').next().is_some_and(|code| code.contains(','));
        let (same_line, below) = rest.split_once('\n').unwrap_or((rest, ""));
        if !has_comma(same_line) {
            self.put(last.end, ",".to_owned());
        }
        let (end, eol) = self.line_end(last.end);
        let lines: Vec<String> = more.split(", ").map(|address| format!("{eol}{indent}{address}")).collect();
        // One that stands further below ends the last of them.
        let comma = if below.lines().any(has_comma) { "" } else { "," };
        self.put(end, lines.join(",") + comma);
        Some(())
    }

    /// Gives an attachment an address.
    fn insert(&mut self, attachment: &Item, key: &Key, inline: bool, addresses: &str) -> Option<()> {
        let address = format!("address = {}", value_of(addresses));
        if is_inline(attachment) {
            let place = attachment.span()?;
            let inner = &self.text[place.start + 1..place.end - 1];
            match last_value(attachment.as_table_like()?) {
                Some(end) => self.put(end, format!(", {address}")),
                None if inner.trim().is_empty() => self.list.push((place, format!("{{ {address} }}"))),
                None => self.put(place.start + 1, format!(" {address}")),
            }
            return Some(());
        }
        let table = attachment.as_table_like()?;
        if table.is_dotted() {
            let (name, _) = table.iter().next()?;
            let own = table.get_key_value(name)?.0.span()?.start;
            if inline {
                // As it is called behind the brace or the comma.
                let before = self.text[..own].rfind(['{', ','])? + 1;
                let piece = format!(", {}{address}", self.text[before..own].trim_start());
                self.put(last_value(table)?, piece);
                return Some(());
            }
            let before = &self.text[self.line_start(own)..own];
            let (end, eol) = self.line_end(last_statement(table)?.0);
            self.put(end, format!("{eol}{before}{address}"));
            return Some(());
        }
        let head = self.line_end(key.span()?.end);
        let indent = |at: usize| {
            let line = &self.text[self.line_start(at)..];
            line[..line.len() - line.trim_start_matches([' ', '\t']).len()].to_owned()
        };
        if attachment.as_table().is_some_and(Table::is_implicit) {
            // Only what is below it has a head.
            let start = self.line_start(key.span()?.start);
            let line = &self.text[start..key.span()?.end];
            let name = line.trim_start().trim_start_matches('[');
            let (eol, space) = (head.1, indent(start));
            self.put(start, format!("{space}[{name}]{eol}{space}{address}{eol}{eol}"));
            return Some(());
        }
        let ((end, eol), space) = match last_statement(table) {
            Some((end, last)) => (self.line_end(end), indent(last.span()?.start)),
            None => (head, indent(key.span()?.start)),
        };
        self.put(end, format!("{eol}{space}{address}"));
        Some(())
    }
}

/// What stands between two elements of a list.
struct Gap<'a> {
    /// The comment on the line of the first, with the space before it.
    same_line: Option<&'a str>,
    /// What ends that line.
    eol: Option<&'static str>,
    /// The lines below it that have comments, with their ends.
    below: String,
}

/// Where the last value of a table within braces ends.
fn last_value(table: &dyn TableLike) -> Option<usize> {
    let ends = table.iter().filter_map(|(_, item)| match item.as_table_like().filter(|table| table.is_dotted()) {
        Some(dotted) => last_value(dotted),
        None => item.span().map(|span| span.end),
    });
    ends.max()
}

/// Where the last statement of a table ends, and its key; without what has a head of its own.
fn last_statement(table: &dyn TableLike) -> Option<(usize, &Key)> {
    let statements = table.iter().filter_map(|(name, item)| {
        let (key, _) = table.get_key_value(name)?;
        match item {
            Item::Value(value) if value.as_inline_table().is_none_or(|table| !table.is_dotted()) => {
                Some((value.span()?.end, key))
            }
            Item::Value(_) | Item::Table(_) => last_statement(item.as_table_like().filter(|table| table.is_dotted())?),
            _ => None,
        }
    });
    statements.max_by_key(|(end, _)| *end)
}
