//! Where a container's namespace is: `netns`, or one of the keys that stand for it. One of them at most.

use super::reader::{Fault, Item, Placed, Problems, Table, named, parsed, tick};
use super::report::Problem;
use super::types::ContainerNetns;
use crate::state::{Netns, ObjectName, Source, SourceKind};

/// The longest path in bytes (`PATH_MAX` less its NUL).
const PATH_MAX: usize = 4095;
/// The longest name of a container that is taken; Docker and Podman set no limit of their own.
const ENGINE_NAME_MAX: usize = 255;
/// The longest name of a unit in bytes (`UNIT_NAME_MAX` less its NUL, systemd).
const UNIT_NAME_MAX: usize = 255;
/// The longest name of a machine in bytes (`HOST_NAME_MAX`).
const MACHINE_NAME_MAX: usize = 64;
/// The highest number that the kernel gives to a process (`PID_MAX_LIMIT`, 64 bits).
pub(super) const PID_MAX: i64 = 1 << 22;
/// What the names of units end with (systemd.unit(5)); only services have a main process.
const UNIT_TYPES: [&str; 11] =
    ["service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope"];

/// Reads where the namespace is; none where nothing says, or nothing that can be read.
pub(super) fn read(table: &Table, problems: &mut Problems) -> Option<Placed<ContainerNetns>> {
    let keys = ["netns"].into_iter().chain(SourceKind::ALL.map(SourceKind::key));
    let mut given: Vec<Item> = keys.filter_map(|key| table.get(key)).collect();
    given.sort_by_key(|item| item.key_place().span.start);
    if let [first, second, ..] = given[..] {
        let message =
            format!("a container has one namespace, but {} and {} name two", tick(first.key()), tick(second.key()));
        let problem = Problem::new(second.key_place(), message).with_label("the second");
        problems.push(problem.with_other(first.key_place(), "the first"));
    }
    let read = given.into_iter().map(|item| {
        let value = match SourceKind::ALL.into_iter().find(|kind| kind.key() == item.key()) {
            Some(kind) => source(kind, &item, problems),
            None => item.string("a name or an absolute path", problems).and_then(|t| parsed(netns(t), &item, problems)),
        };
        Some(item.placed(value?))
    });
    // All of them, to say what is wrong with any.
    read.collect::<Vec<_>>().into_iter().next().flatten()
}

/// Reads the value of a key that names what somebody else made a namespace for.
fn source(kind: SourceKind, item: &Item, problems: &mut Problems) -> Option<ContainerNetns> {
    let name = match kind {
        SourceKind::Pid => {
            let number = item.integer("the number of a process, 1 to 4194304", 1..=PID_MAX, problems)?;
            number.to_string()
        }
        SourceKind::Docker | SourceKind::Podman => {
            let text = item.string("the name or id of a container", problems)?;
            parsed(engine_name(text), item, problems)?
        }
        SourceKind::Machine => parsed(machine(item.string("the name of a machine", problems)?), item, problems)?,
        SourceKind::Unit => parsed(unit(item.string("the name of a unit", problems)?), item, problems)?,
    };
    Some(ContainerNetns::Source(Netns::of(Source { kind, name: &name })))
}

/// The name or id of a container, as engines take them.
fn engine_name(text: &str) -> Result<String, Fault> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && text.chars().all(good) && text.len() <= ENGINE_NAME_MAX {
        return Ok(text.to_owned());
    }
    let fault = Fault::new(format!("{} is not the name or id of a container", tick(text)));
    Err(match text.strip_prefix('/') {
        Some(rest) if !rest.is_empty() && rest.chars().all(good) => fault.label(format!("did you mean `{rest}`?")),
        _ => fault.help("letters, digits, `_`, `.` and `-`, a letter or digit first, 255 at most"),
    })
}

/// The name of a machine (machine-name rules of systemd-nspawn(1): those of a host's).
fn machine(text: &str) -> Result<String, Fault> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let label =
        |part: &str| !part.is_empty() && part.chars().all(good) && !part.starts_with('-') && !part.ends_with('-');
    if text.split('.').all(label) && text.len() <= MACHINE_NAME_MAX {
        return Ok(text.to_owned());
    }
    let fault = Fault::new(format!("{} is not the name of a machine", tick(text)));
    Err(fault
        .help("it is a host's name: letters, digits, `-` and `.`, 64 at most; `machinectl list` shows those that run"))
}

/// The name of a service with its ending.
fn unit(text: &str) -> Result<String, Fault> {
    let wrong = |why: &str| Err(Fault::new(format!("{} is not the name of a service", tick(text))).label(why));
    let ending = text.rsplit_once('.').map(|(_, ending)| ending).filter(|ending| UNIT_TYPES.contains(ending));
    let (name, whole) = match ending {
        Some("service") => (text.trim_end_matches(".service"), text.to_owned()),
        Some(other) => return wrong(&format!("units that are a {other} have no main process")),
        None => (text, format!("{text}.service")),
    };
    if name.is_empty() {
        return wrong("it is empty");
    }
    if let Some(c) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !":-_.\\@".contains(*c)) {
        return wrong(&format!("a unit's name cannot contain {c:?}"));
    }
    if name.starts_with('-') {
        return wrong("it would be taken for an option");
    }
    if name.ends_with('@') {
        return wrong("it is a template: name one of its instances");
    }
    if whole.len() > UNIT_NAME_MAX {
        return wrong("a unit's name has at most 255 bytes");
    }
    Ok(whole)
}

/// Parses the name or path of a namespace.
fn netns(text: &str) -> Result<ContainerNetns, Fault> {
    if !text.contains('/') && !text.starts_with('~') {
        let name = named::<ObjectName>(text)
            .map_err(|fault| fault.help("`netns` is a name under `/run/netns`, or an absolute path"))?;
        return Ok(ContainerNetns::Named(Netns::new(name.as_str())));
    }
    let wrong = |why: &str| Err(Fault::new(format!("{} is not the path of a namespace", tick(text))).label(why));
    if text.starts_with('~') {
        return wrong("`~` has no meaning here: write the whole path");
    }
    if !text.starts_with('/') {
        return wrong("a path must be absolute");
    }
    if text.split('/').any(|part| part == "..") {
        return wrong("a path cannot contain `..`");
    }
    if text.contains(char::is_control) {
        return wrong("a path cannot contain control characters");
    }
    if text.len() > PATH_MAX {
        return wrong("a path has at most 4095 bytes");
    }
    if text.ends_with('/') {
        return wrong("it is a directory");
    }
    Ok(ContainerNetns::Path(Netns::new(text)))
}
