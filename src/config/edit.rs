//! Addresses written into a file's text, in which all else stays as it is: comments, order, and how it is written.

use std::net::IpAddr;

use toml_edit::{Array, Decor, DocumentMut, InlineTable, Item, Key, RawString, Table, TableLike, Value};

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
    let plain = text.strip_prefix(mark)?;
    let mut document: DocumentMut = plain.parse().ok()?;
    let containers = document.get_mut("containers")?.as_table_like_mut()?;
    for addresses in all {
        add(containers, addresses)?;
    }
    let mut written = document.to_string();
    // The writer ends every line in the same way, whether it had been so or not.
    let breaks = plain.matches('\n').count();
    if breaks > 0 && plain.matches("\r\n").count() == breaks {
        written = written.replace("\r\n", "\n").replace('\n', "\r\n");
    }
    if !plain.ends_with('\n') {
        written.truncate(written.trim_end_matches(['\r', '\n']).len());
    }
    Some(format!("{mark}{written}"))
}

const BYTE_ORDER_MARK: &str = "\u{feff}";

fn add(containers: &mut dyn TableLike, addresses: &Addresses<'_>) -> Option<()> {
    let container = containers.get_mut(addresses.container)?;
    let inline = container.is_inline_table();
    let container = container.as_table_like_mut()?;
    if container.get("networks")?.is_array() {
        list_to_table(container, inline)?;
    }
    let networks = container.get_mut("networks")?.as_table_like_mut()?;
    let attachment = networks.get_mut(addresses.network)?;
    match attachment.as_table_like_mut()?.get_mut("address") {
        Some(given) => extend(given.as_value_mut()?, &addresses.add),
        None => insert(attachment, value_of(&addresses.add)?),
    }
}

/// `networks = ["front", "back"]` as `networks.front = {}` and `networks.back = {}`; within braces as `networks = { front = {} }`.
fn list_to_table(container: &mut dyn TableLike, inline: bool) -> Option<()> {
    let key = container.key("networks")?.leaf_decor().clone();
    let list = container.get("networks")?.as_array()?;
    if inline {
        // Within braces there is no line to put a comment on.
        if list.to_string().contains('#') {
            return None;
        }
        let mut table = InlineTable::new();
        for element in list {
            table.insert(element.as_str()?, InlineTable::new().into());
        }
        container.insert("networks", Item::Value(table.into()));
        return Some(());
    }
    let lines = lines(list, &key)?;
    let mut table = Table::new();
    table.set_dotted(true);
    for line in lines {
        let mut key = Key::new(line.network);
        key.leaf_decor_mut().set_prefix(line.above);
        let value = Value::from(InlineTable::new()).decorated(" ", line.behind);
        table.insert_formatted(&key, Item::Value(value));
    }
    container.insert("networks", Item::Table(table));
    Some(())
}

/// A network of a list, when it has a line of its own, with the comments beside it.
struct Line {
    network: String,
    above: String,
    behind: String,
}

/// A line for each element of a list. Comments stay beside what they are about; `key` is what stands around the list's.
fn lines(list: &Array, key: &Decor) -> Option<Vec<Line>> {
    let text = |raw: Option<&RawString>| raw.and_then(RawString::as_str).unwrap_or_default().to_owned();
    let mut lines: Vec<Line> = Vec::new();
    let mut above = text(key.prefix());
    for element in list {
        above += &comments(&text(element.decor().prefix()), lines.last_mut());
        lines.push(Line {
            network: element.as_str()?.to_owned(),
            above: std::mem::take(&mut above),
            behind: String::new(),
        });
        above += &comments(&text(element.decor().suffix()), lines.last_mut());
    }
    above += &comments(&text(Some(list.trailing())), lines.last_mut());
    let end = text(list.decor().suffix());
    let bottom = lines.last_mut()?;
    bottom.above += &above;
    if bottom.behind.is_empty() {
        bottom.behind = end;
    } else {
        bottom.above += &comments(&end, None);
    }
    Some(lines)
}

/// The comments of a gap between elements, a line each. What stands on the line of the element before is put behind that one.
fn comments(gap: &str, before: Option<&mut Line>) -> String {
    let (same_line, below) = gap.split_once('\n').unwrap_or((gap, ""));
    let rest = match before {
        Some(line) if same_line.contains('#') => {
            line.behind = format!(" {}", same_line.trim());
            below
        }
        _ => gap,
    };
    let comments = rest.lines().map(str::trim).filter(|line| line.starts_with('#'));
    comments.flat_map(|comment| [comment, "\n"]).collect()
}

/// One address as a text, several as a list.
fn value_of(addresses: &[IpAddr]) -> Option<Value> {
    match addresses {
        [] => None,
        [one] => Some(one.to_string().into()),
        several => Some(several.iter().map(ToString::to_string).collect::<Array>().into()),
    }
}

/// More addresses behind those that are given.
fn extend(given: &mut Value, more: &[IpAddr]) -> Option<()> {
    if let Some(one) = given.as_str() {
        let all: Array = std::iter::once(one.to_owned()).chain(more.iter().map(ToString::to_string)).collect();
        let decor = given.decor().clone();
        *given = all.into();
        *given.decor_mut() = decor;
        return Some(());
    }
    let all = given.as_array_mut()?;
    // As the last one stands: on a line of its own, or behind the others. What stands behind that one stays there.
    let text = |raw: Option<&RawString>| raw.and_then(RawString::as_str).unwrap_or_default().to_owned();
    let behind = all.iter_mut().last()?.decor_mut();
    let (gap, suffix) = (text(behind.prefix()), text(behind.suffix()));
    behind.set_suffix("");
    let rest = suffix + &text(Some(all.trailing()));
    let lines = gap.contains('\n').then(|| rest.split_once('\n')).flatten();
    let Some((same_line, below)) = lines else {
        all.set_trailing(rest);
        for address in more {
            all.push_formatted(Value::from(address.to_string()).decorated(" ", ""));
        }
        return Some(());
    };
    let indent = gap.lines().last().unwrap_or_default();
    let mut before = same_line.to_owned();
    for address in more {
        let prefix = format!("{}\n{indent}", std::mem::take(&mut before));
        all.push_formatted(Value::from(address.to_string()).decorated(prefix, ""));
    }
    all.set_trailing(format!("\n{below}"));
    all.set_trailing_comma(true);
    Some(())
}

/// Gives an attachment an address.
fn insert(attachment: &mut Item, address: Value) -> Option<()> {
    if let Some(table) = attachment.as_inline_table_mut() {
        let space = table.trailing().as_str().is_some_and(|trailing| trailing.trim().is_empty());
        if table.is_empty() && space {
            table.set_trailing("");
        }
        // What stands before the closing brace moves along.
        let last = table.iter_mut().last().map(|(_, value)| value);
        let behind = last.map(|last| {
            let behind = last.decor().suffix().cloned();
            last.decor_mut().set_suffix("");
            behind
        });
        let value = table.entry("address").or_insert(address);
        if let Some(Some(behind)) = behind {
            value.decor_mut().set_suffix(behind);
            value.decor_mut().set_prefix(" ");
        }
        return Some(());
    }
    attachment.as_table_like_mut()?.insert("address", Item::Value(address));
    Some(())
}
