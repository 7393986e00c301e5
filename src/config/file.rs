//! The file as a whole: its sections, over all sources, and `[settings]`.

use std::collections::HashMap;
use std::time::Duration;

use super::reader::{Document, Item, Problems, Table, named, parsed, tick};
use super::report::{Problem, Sources};
use super::types::{Cluster, Container, Expect, Host, Network, Overlap, Place, Settings};
use super::{checks, cluster, containers, expect, hosts, keys, networks, syntax, values};
use crate::state::{ObjectName, Owner};

/// A configuration without its texts.
pub(super) struct Parts {
    pub(super) settings: Settings,
    pub(super) hosts: Vec<Host>,
    pub(super) cluster: Option<Cluster>,
    pub(super) networks: Vec<Network>,
    pub(super) containers: Vec<Container>,
    pub(super) expect: Vec<Expect>,
    pub(super) sections: Vec<(Owner, Place)>,
}

/// Reads and checks all sources.
pub(super) fn read(sources: &Sources) -> Result<Parts, Vec<Problem>> {
    let mut problems = Problems::default();
    let documents: Vec<_> =
        sources.0.iter().enumerate().map(|(i, source)| syntax::parse(i, source, &mut problems)).collect();
    if !problems.is_empty() {
        return Err(problems.into_vec());
    }
    for document in &documents {
        document.table().check_keys(&keys::FILE, &mut problems);
    }
    let settings = settings(&documents, &mut problems);
    let hosts = hosts(&documents, &mut problems);
    let networks = networks(&documents, &mut problems);
    let cluster = cluster::read(&documents, &hosts, &networks, &mut problems);
    let containers = containers(&documents, &hosts, &networks, &mut problems);
    let expect = expect::read(&documents, &hosts, &networks, &containers, &mut problems);
    checks::all(&hosts.drafts, cluster.as_ref(), &networks.drafts, &containers.drafts, &mut problems);
    if !problems.is_empty() {
        return Err(problems.into_vec());
    }
    let networks: Vec<Network> = networks.drafts.into_iter().map(networks::Draft::finish).collect();
    Ok(Parts {
        settings,
        hosts: hosts.drafts.into_iter().map(hosts::Draft::finish).collect(),
        cluster: cluster.and_then(|cluster| cluster.finish(&networks)),
        networks,
        containers: containers.drafts.into_iter().map(containers::Draft::finish).collect(),
        expect,
        sections: sections(&documents),
    })
}

/// Where each section first stands.
fn sections(documents: &[Document]) -> Vec<(Owner, Place)> {
    let first = |section| {
        let item = documents.iter().find_map(|document| document.table().get(section))?;
        Some((Owner::new(section), item.key_place()))
    };
    // All keys of a file but this one are tables.
    keys::FILE.names().filter(|key| *key != "expect").filter_map(first).collect()
}

/// `[settings]`, which one source at most has.
fn settings(documents: &[Document], problems: &mut Problems) -> Settings {
    let mut settings = Settings {
        forwarding: true,
        overlap: Overlap::Refuse,
        lock_timeout: Duration::from_secs(10),
        accounting: false,
    };
    let mut first: Option<Place> = None;
    for item in documents.iter().filter_map(|document| document.table().get("settings")) {
        if let Some(first) = &first {
            problems.push(twice(&item, "settings", first));
            continue;
        }
        first = Some(item.key_place());
        if let Some(table) = item.table("write `[settings]`", problems) {
            read_settings(&mut settings, table, problems);
        }
    }
    settings
}

fn read_settings(settings: &mut Settings, table: Table, problems: &mut Problems) {
    table.check_keys(&keys::SETTINGS, problems);
    if let Some(value) = table.get("forwarding").and_then(|item| item.boolean(problems)) {
        settings.forwarding = value;
    }
    if let Some(value) = table.get("accounting").and_then(|item| item.boolean(problems)) {
        settings.accounting = value;
    }
    if let Some(item) = table.get("overlap") {
        match item.as_str() {
            Some("refuse") => settings.overlap = Overlap::Refuse,
            Some("warn") => settings.overlap = Overlap::Warn,
            Some(other) => {
                let message = format!("`overlap` must be `\"refuse\"` or `\"warn\"`, not {}", tick(other));
                problems.push(Problem::new(item.place(), message));
            }
            None => item.wrong_type("`\"refuse\"` or `\"warn\"`", problems),
        }
    }
    if let Some(item) = table.get("lock_timeout")
        && let Some(text) = item.string("a duration such as `\"10s\"`", problems)
        && let Some(duration) = parsed(values::duration(text), &item, problems)
    {
        settings.lock_timeout = duration;
    }
}

/// The hosts of all sources.
pub(super) struct Hosts {
    pub(super) drafts: Vec<hosts::Draft>,
    /// By name: the index of its draft; none where it cannot be read, which is reported already.
    pub(super) by_name: HashMap<String, Option<usize>>,
}

fn hosts(documents: &[Document], problems: &mut Problems) -> Hosts {
    let mut hosts = Hosts { drafts: Vec::new(), by_name: HashMap::new() };
    each_named(documents, "hosts", problems, |name, item, problems| {
        let read = name.and_then(|name| hosts::read(name, &item, problems));
        hosts.by_name.insert(item.key().to_owned(), read.is_some().then_some(hosts.drafts.len()));
        hosts.drafts.extend(read);
    });
    hosts
}

/// The networks of all sources.
pub(super) struct Networks {
    pub(super) drafts: Vec<networks::Draft>,
    /// By name: the index of its draft; none where it cannot be read, which is reported already.
    pub(super) by_name: HashMap<String, Option<usize>>,
}

fn networks(documents: &[Document], problems: &mut Problems) -> Networks {
    let mut networks = Networks { drafts: Vec::new(), by_name: HashMap::new() };
    each_named(documents, "networks", problems, |name, item, problems| {
        let read = name.and_then(|name| networks::read(name, &item, problems));
        networks.by_name.insert(item.key().to_owned(), read.is_some().then_some(networks.drafts.len()));
        networks.drafts.extend(read);
    });
    networks
}

/// The containers of all sources.
pub(super) struct Containers {
    pub(super) drafts: Vec<containers::Draft>,
    /// By name: the index of its draft; none where it cannot be read, which is reported already.
    pub(super) by_name: HashMap<String, Option<usize>>,
}

fn containers(documents: &[Document], hosts: &Hosts, networks: &Networks, problems: &mut Problems) -> Containers {
    let mut containers = Containers { drafts: Vec::new(), by_name: HashMap::new() };
    each_named(documents, "containers", problems, |name, item, problems| {
        let read = name.and_then(|name| containers::read(name, &item, hosts, networks, problems));
        containers.by_name.insert(item.key().to_owned(), read.is_some().then_some(containers.drafts.len()));
        containers.drafts.extend(read);
    });
    containers
}

/// Calls `read` for each entry of a section, in the order of the sources; an entry that two sources have is an error.
/// A name that is none is passed on as none.
fn each_named<'a>(
    documents: &'a [Document],
    section: &str,
    problems: &mut Problems,
    mut read: impl FnMut(Option<ObjectName>, Item<'a>, &mut Problems),
) {
    let mut seen: HashMap<&str, Place> = HashMap::new();
    for whole in documents.iter().filter_map(|document| document.table().get(section)) {
        let Some(table) = whole.table(&format!("write `[{section}.NAME]`"), problems) else { continue };
        for item in table.items() {
            if let Some(first) = seen.get(item.key()) {
                problems.push(twice(&item, &format!("{section}.{}", item.key()), first));
                continue;
            }
            seen.insert(item.key(), item.key_place());
            let name = named::<ObjectName>(item.key()).map_err(|fault| {
                problems.push(Problem::new(item.key_place(), fault.message));
            });
            read(name.ok(), item, problems);
        }
    }
}

/// A table that two sources have.
pub(super) fn twice(again: &Item, path: &str, first: &Place) -> Problem {
    Problem::new(again.key_place(), format!("{} is defined in two files", tick(path)))
        .with_label("defined again here")
        .with_other(first.clone(), "first defined here")
}

/// The owner of something by its path, whose parts with dots are quoted as TOML has them: `containers."a.b"`.
pub(super) fn owner(path: &[&str]) -> Owner {
    let mut text = String::new();
    for part in path {
        let quote = if part.contains('.') { "\"" } else { "" };
        let dot = if text.is_empty() { "" } else { "." };
        text.extend([dot, quote, part, quote]);
    }
    Owner::new(text)
}
