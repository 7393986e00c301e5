//! All there is to see of a namespace's network, as text that can be compared.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use serde_json::Value;

use super::space::{Machine, Space};
use super::{difference, volatile};

/// The lines of a snapshot's sections, and the commands they come from.
const COMMANDS: &[(&str, &[&str])] = &[
    ("link", &["ip", "-j", "-d", "link"]),
    ("address", &["ip", "-j", "addr"]),
    ("route", &["ip", "-4", "-j", "route", "show", "table", "all"]),
    ("route", &["ip", "-6", "-j", "route", "show", "table", "all"]),
    ("neighbour", &["ip", "-j", "neigh", "show", "nud", "all"]),
    ("rule", &["ip", "-4", "-j", "rule"]),
    ("rule", &["ip", "-6", "-j", "rule"]),
    ("fdb", &["bridge", "-j", "fdb"]),
    ("qdisc", &["tc", "-j", "qdisc"]),
    ("nft", &["nft", "-j", "list", "ruleset"]),
];

/// A namespace at one moment: one object per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    text: String,
}

impl Snapshot {
    /// Of one network namespace.
    pub fn of(space: &Space) -> Self {
        let mut lines = Vec::new();
        for (section, command) in COMMANDS {
            let text = space.run(*command);
            let json: Value = match text.trim() {
                "" => Value::Array(Vec::new()),
                some => serde_json::from_str(some).unwrap_or_else(|e| panic!("{}: {e}: {some}", command.join(" "))),
            };
            let mut some = objects(section, json);
            // The order of a hook's chains and of a chain's rules means something, that of all else does not.
            some.sort_by_cached_key(|object| rank(section, object));
            lines.extend(some.into_iter().map(|o| format!("{section} {o}")));
        }
        lines.extend(space.enter(|| sysctls(Path::new("/proc/sys/net"))));
        Self { text: lines.join("\n") + "\n" }
    }

    /// Of a machine: its namespace, every named one, and their names.
    pub fn of_machine(machine: &Machine) -> Self {
        let mut snapshot = Self::of(machine);
        for name in machine.netns_names() {
            let _ = writeln!(snapshot.text, "namespace {name}");
            for line in Self::of(&machine.named(&name)).text.lines() {
                let _ = writeln!(snapshot.text, "in {name}: {line}");
            }
        }
        snapshot
    }

    /// Of what is not netrec's in a machine's own namespace: all but devices in netrec's groups and what is on them, its routes
    /// and its table.
    pub fn of_others(machine: &Machine) -> Self {
        let links: Value = serde_json::from_str(&machine.run(["ip", "-j", "link"])).expect("links");
        let ours = |link: &&Value| ["20050", "20051"].iter().any(|group| link["group"] == **group);
        let names = links.as_array().into_iter().flatten().filter(ours).filter_map(|link| link["ifname"].as_str());
        let names: BTreeSet<&str> = names.collect();
        let others = |line: &&str| {
            let (section, rest) = line.split_once(' ').expect("a section");
            let Ok(value) = serde_json::from_str::<Value>(rest) else {
                // sysctl net/ipv4/conf/nr-front/forwarding = 1
                return !rest.split('/').any(|part| names.contains(part));
            };
            let is_ours = |name: &str| value[name].as_str().is_some_and(|name| names.contains(name));
            let table = value.as_object().into_iter().flatten().next();
            match section {
                "nft" => !table.is_some_and(|(kind, object)| {
                    object["family"] == "inet" && object[if kind == "table" { "name" } else { "table" }] == "netrec"
                }),
                _ => !is_ours("ifname") && !is_ours("dev") && value["protocol"] != "78",
            }
        };
        let all = Self::of(machine);
        Self { text: all.text.lines().filter(others).flat_map(|line| [line, "\n"]).collect() }
    }

    /// What differs in the other, in lines with `-` and `+`; empty when they are equal.
    pub fn diff(&self, other: &Self) -> String {
        difference(&self.text, &other.text)
    }

    /// Its lines: `SECTION JSON` and `sysctl PATH = VALUE`.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Space {
    /// The nftables tables that are not netrec's, byte for byte, but for counters and what else changes with traffic.
    pub fn foreign_ruleset(&self) -> String {
        let mut ours = false;
        let text = self.run(["nft", "-s", "list", "ruleset"]);
        let foreign = text.split_inclusive('\n').filter(|line| {
            ours |= line.starts_with("table inet netrec {");
            let keep = !ours;
            ours &= *line != "}\n";
            keep
        });
        foreign.collect()
    }
}

fn objects(section: &str, json: Value) -> Vec<String> {
    let list = match json {
        Value::Object(mut top) if section == "nft" => top.remove("nftables").unwrap_or_default(),
        other => other,
    };
    let Value::Array(list) = list else { panic!("{section}: not a list: {list}") };
    list.into_iter()
        .filter(|o| volatile::is_passing(section, o).is_none())
        .map(|o| normalised(section, "", o).to_string())
        .collect()
}

/// What an object is sorted by; those of one rank keep their order.
fn rank(section: &str, object: &str) -> (u8, String) {
    let value: Value = if section == "nft" { serde_json::from_str(object).unwrap() } else { Value::Null };
    match (&value["chain"], &value["rule"]) {
        (chain, _) if chain.get("hook").is_some() => (1, String::new()),
        (_, rule) if rule.is_object() => (2, format!("{} {} {}", rule["family"], rule["table"], rule["chain"])),
        _ => (0, object.to_owned()),
    }
}

/// Without volatile attributes; the elements of a set, which is a hash table, sorted.
fn normalised(section: &str, around: &str, value: Value) -> Value {
    let volatile = |name: &str| {
        let full = format!("{around}.{name}");
        volatile::ATTRIBUTES.iter().any(|(s, n, _)| (*n == name || *n == full) && (s.is_empty() || *s == section))
    };
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(name, _)| !volatile(name))
            .map(|(name, value)| {
                let mut value = normalised(section, &name, value);
                if let ("elem" | "addr_info", Value::Array(list)) = (name.as_str(), &mut value) {
                    list.sort_by_key(ToString::to_string);
                }
                (name, value)
            })
            .collect(),
        Value::Array(list) => list.into_iter().map(|v| normalised(section, around, v)).collect(),
        other => other,
    }
}

/// All readable parameters below a directory, as the calling thread's namespace has them. Each is opened from its directory:
/// every part of a path below `/proc/sys` is searched for among those of all namespaces.
fn sysctls(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let Ok(opened) = File::open(dir) else { return lines };
    let mut entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
    entries.sort_by_cached_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            lines.extend(sysctls(&path));
            continue;
        }
        let file = openat(&opened, &*entry.file_name(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        let mut value = String::new();
        if file.is_ok_and(|file| File::from(file).read_to_string(&mut value).is_ok()) {
            let name = path.strip_prefix("/proc/sys").unwrap_or(&path).display().to_string();
            if !volatile::SYSCTLS.iter().any(|(n, _)| *n == name) {
                lines.push(format!("sysctl {name} = {}", value.trim_end().replace('\n', " ")));
            }
        }
    }
    lines
}
