//! `sysctl = { … }`: kernel parameters by name, in any spelling that sysctl(8) or TOML offers.
//!
//! `"net.ipv4.conf.eth0.rp_filter"` and `"net/ipv4/conf/eth0.100/rp_filter"` are names as sysctl(8) has them: the first
//! of `.` and `/` in a name separates, the other one stands for a dot. `net.ipv4.ip_forward` without quotes is to TOML a
//! table in a table, whose keys are then the parts of the path as they are.

use std::collections::HashMap;

use toml::de::DeValue;

use super::reader::{Fault, Item, Placed, Problems, parsed, shorten, tick};
use super::report::Problem;
use super::types::{Attachment, Place};
use crate::state::facts::IPV4_FORWARDING;

/// Parameters as (path below `/proc/sys`, value), in file order, with the places of their keys.
pub(super) type Sysctls = Vec<Placed<(String, String)>>;

/// Reads a table of parameters.
pub(super) fn read(item: &Item, problems: &mut Problems) -> Sysctls {
    read_all(item, false, "write `sysctl = { \"net.ipv4.ip_forward\" = 1 }`", problems)
}

/// Reads a table of parameters of an interface, with [`Attachment::INTERFACE`] for its name.
pub(super) fn read_for_interface(item: &Item, problems: &mut Problems) -> Sysctls {
    read_all(item, true, "write `sysctl = { \"net.ipv4.conf.IFNAME.rp_filter\" = 2 }`", problems)
}

fn read_all(item: &Item, of_interface: bool, help: &str, problems: &mut Problems) -> Sysctls {
    let mut reader = Reader { sysctls: Vec::new(), seen: HashMap::new(), of_interface, problems };
    if let Some(table) = item.table(help, reader.problems) {
        for item in table.items() {
            reader.top(&item);
        }
    }
    reader.sysctls
}

struct Reader<'p> {
    sysctls: Sysctls,
    /// By what the kernel calls it, where it was first and how it was called there.
    seen: HashMap<String, (Place, String)>,
    /// Whether each is to be one of the interface.
    of_interface: bool,
    problems: &'p mut Problems,
}

impl Reader<'_> {
    /// A key of the table itself: a whole name, or the first part of nested ones.
    fn top(&mut self, item: &Item) {
        if item.as_table().is_some() && !item.key().contains(['.', '/']) {
            self.nested(&[item.key()], item);
        } else {
            let parts = split(item.key());
            self.parameter(item.key(), &parts, item);
        }
    }

    /// A table in the table: its keys are parts of the path. As deep as the parser lets tables be.
    fn nested(&mut self, path: &[&str], item: &Item) {
        let Some(table) = item.as_table() else {
            let parts: Vec<_> = path.iter().map(|p| (*p).to_owned()).collect();
            self.parameter(&path.join("."), &parts, item);
            return;
        };
        for item in table.items() {
            let mut path = path.to_vec();
            path.push(item.key());
            self.nested(&path, &item);
        }
    }

    /// A parameter by its name as written and the parts of its path.
    fn parameter(&mut self, name: &str, parts: &[String], item: &Item) {
        match checked(name, parts).and_then(|path| self.placed(name, parts, path)) {
            Ok(path) => self.value(name, path, item),
            Err((message, help)) => {
                self.problems.push(Problem::new(item.key_place(), message).with_help(help));
            }
        }
    }

    /// The path of a parameter that may stand where it does.
    fn placed(&self, name: &str, parts: &[String], path: String) -> Result<String, (String, &'static str)> {
        let name = tick(name);
        match (self.of_interface, parts.iter().filter(|part| *part == Attachment::INTERFACE).count()) {
            (true, 0) => Err((
                format!("{name} is not a parameter of the interface"),
                "name it `IFNAME`, as in `net.ipv4.conf.IFNAME.rp_filter`; the others belong to `sysctl` of the container",
            )),
            (true, 2..) => Err((format!("{name} names the interface more than once"), "`IFNAME` stands for it once")),
            (false, 1..) => Err((
                format!("{name} is a parameter of an interface"),
                "`IFNAME` has a meaning in `sysctl` of an attachment only: `networks.NET = { sysctl = { … } }`",
            )),
            _ => Ok(path),
        }
    }

    fn value(&mut self, name: &str, written: String, item: &Item) {
        let path = one_name(&written).to_owned();
        if let Some((first, other)) = self.seen.get(&path) {
            let problem = Problem::new(item.key_place(), format!("{} is set twice", tick(name)))
                .with_label("the second")
                .with_other(first.clone(), "the first");
            self.problems.push(if written == *other {
                problem
            } else {
                problem.with_help("`net.ipv4.ip_forward` and `net.ipv4.conf.all.forwarding` are one parameter")
            });
            return;
        }
        self.seen.insert(path.clone(), (item.key_place(), written));
        let value = match item.value() {
            DeValue::String(text) => parsed(text_value(&path, text), item, self.problems),
            DeValue::Boolean(on) => Some(u8::from(*on).to_string()),
            DeValue::Integer(_) => {
                item.integer("a number of 64 bits", i64::MIN..=i64::MAX, self.problems).map(|n| n.to_string())
            }
            _ => {
                item.wrong_type("a string, an integer or a boolean", self.problems);
                None
            }
        };
        self.sysctls.extend(value.map(|value| Placed { value: (path, value), place: item.key_place() }));
    }
}

/// How netrec decides a parameter of a device that the file may therefore not set.
pub(super) fn decided(family: &str, parameter: &str, value: &str) -> Option<Decided> {
    match (family, parameter) {
        ("ipv6", "mtu") => Some(Decided::Always("the `mtu` of the network decides it")),
        ("ipv6", "addr_gen_mode") => {
            Some(Decided::Always("there is a link-local address where the network has a `subnet` of IPv6"))
        }
        ("ipv6", "stable_secret") => Some(Decided::Never(
            "the kernel does not tell it before it is set; link-local addresses follow from an interface's `mac`",
        )),
        ("ipv4", "promote_secondaries") => {
            Some(Decided::Always("it is on, so that an address that goes takes no others along"))
        }
        ("ipv6", "disable_ipv6") if value.parse() != Ok(0) => Some(Decided::WithIpv6),
        _ => None,
    }
}

/// How netrec decides a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Decided {
    /// It is nobody's: why.
    Never(&'static str),
    /// What does it instead.
    Always(&'static str),
    /// By whether the network has IPv6.
    WithIpv6,
}

/// The parts of a name as sysctl(8) writes it.
fn split(name: &str) -> Vec<String> {
    let (separator, dot) = match name.find(['.', '/']) {
        Some(i) if name[i..].starts_with('/') => ('/', '.'),
        _ => ('.', '/'),
    };
    name.split(separator).map(|part| part.replace(dot, ".")).collect()
}

/// The path of good parts, or what is wrong with them and what to do.
fn checked(name: &str, parts: &[String]) -> Result<String, (String, &'static str)> {
    let name = tick(name);
    let wrong = |why: &str| {
        let message = format!("{name} is not the name of a kernel parameter: {why}");
        Err((message, "a name is written like `net.ipv4.ip_forward`"))
    };
    if parts.iter().any(String::is_empty) {
        return wrong("a part of it is empty");
    }
    if parts.iter().any(|p| p == "." || p == "..") {
        return wrong("a part of it is `.` or `..`");
    }
    if parts.iter().any(|p| p.contains('/')) {
        return wrong("a part of it contains `/`");
    }
    if parts.iter().any(|p| p.contains(|c: char| c.is_whitespace() || c.is_control())) {
        return wrong("it contains white space or a control character");
    }
    if parts.first().is_none_or(|first| first != "net") {
        let message = format!("{name} is not a parameter of a network namespace");
        return Err((message, "only `net.*` belongs to a namespace; others are the whole machine's"));
    }
    if parts.len() < 2 {
        return wrong("it is a directory");
    }
    if parts.ends_with(&["route".to_owned(), "flush".to_owned()]) {
        let message = format!("{name} is an order, and no parameter that could be read back");
        return Err((message, "flush routes by hand: `ip route flush cache`"));
    }
    Ok(parts.join("/"))
}

/// The name of a parameter that has another one.
fn one_name(path: &str) -> &str {
    if path == "net/ipv4/conf/all/forwarding" { IPV4_FORWARDING } else { path }
}

/// A value as the kernel shows it: white space is one space between words, numbers are decimal, and lists of ports are
/// in order (`proc_get_long`, `proc_do_large_bitmap`).
fn text_value(path: &str, text: &str) -> Result<String, Fault> {
    if text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        return Err(Fault::new(format!("`{}` contains a control character", shorten(text))));
    }
    if path == "net/ipv4/ip_local_reserved_ports" {
        return ports(text);
    }
    let decimal = |word: &str| {
        let hexadecimal = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
        hexadecimal.and_then(|digits| u64::from_str_radix(digits, 16).ok()).map(|number| number.to_string())
    };
    let words = text.split_whitespace().map(|word| decimal(word).unwrap_or_else(|| word.to_owned()));
    Ok(words.collect::<Vec<_>>().join(" "))
}

/// Ports and ranges of them as the kernel lists them: in order, and as few ranges as there can be.
fn ports(text: &str) -> Result<String, Fault> {
    let mut ranges = Vec::new();
    for word in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()) {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) if first <= last => ranges.push((first, last)),
            _ => {
                let message = format!("`{}` is no port and no range of ports", shorten(word));
                return Err(Fault::new(message).help("write ports as in `8080,9000-9009`"));
            }
        }
    }
    ranges.sort_unstable();
    let mut few: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match few.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => few.push((first, last)),
        }
    }
    let shown = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    Ok(few.into_iter().map(shown).collect::<Vec<_>>().join(","))
}
