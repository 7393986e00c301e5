//! Namespaces that others made: asked for, opened, and remembered by what they are and not by their names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::{PrepareError, placed};
use crate::config::{Config, ContainerNetns, closest};
use crate::kernel::{Backend, Linux};
use crate::plan::Action;
use crate::services;
use crate::state::clean;
use crate::state::{
    Asked, Entry, Facts, Key, Link, LinkKind, Netns, Object, Owner, SearchedFor, SourceKind, State, Warning,
    Whereabouts,
};

/// Searches for the namespaces of a file's containers on a host (by its name, where the file has several) that others made.
pub(super) fn of_config(backend: &mut dyn Backend, config: &Config, host: &str) -> BTreeMap<Netns, Whereabouts> {
    let here = config.here(host);
    let containers = config.containers.iter().filter(|c| c.netns.netns().source().is_some());
    let containers = containers.filter(|c| here.is_none_or(|here| c.is_on(here)));
    search(backend, containers.map(|c| (c.netns.netns().clone(), c.owner.clone())).collect())
}

/// Moves the calling thread into the namespace of one of a file's containers, for good. `host` is the name of this host in
/// the file, else the system's.
pub fn enter(mut kernel: Linux, config: &Config, host: Option<&str>, name: &str) -> Result<(), PrepareError> {
    let Some(container) = config.containers.iter().find(|container| container.name.as_str() == name) else {
        let hint = closest(name, config.containers.iter().map(|container| container.name.as_str()));
        let hint = hint.map_or_else(String::new, |near| format!(": did you mean `{near}`?"));
        return Err(PrepareError::Host(format!("the file has no container `{}`{hint}", clean(name))));
    };
    let facts = kernel.facts(&Asked::default())?;
    let here = host.unwrap_or(&facts.host);
    if let Some(other) = container.host.map(|host| &config.hosts[host].name).filter(|other| other.as_str() != here) {
        return Err(PrepareError::Host(format!("container `{name}` lives on host `{other}`, and this is `{here}`")));
    }
    let netns = container.netns.netns();
    if let Some(source) = netns.source() {
        let found = search(&mut kernel, vec![(netns.clone(), container.owner.clone())]);
        if let Some(Whereabouts::Absent(why) | Whereabouts::Unknown(why) | Whereabouts::Refused(why)) = found.get(netns)
        {
            return Err(PrepareError::Host(format!("container `{name}` lives in {source}, {why}")));
        }
    }
    if kernel.enter(netns).map_err(|error| placed(error, config))? {
        return Ok(());
    }
    let hint = if matches!(container.netns, ContainerNetns::Named(_)) { ": `netrec apply` makes it" } else { "" };
    Err(PrepareError::Host(format!("container `{name}` lives in namespace {netns}, which is not there{hint}")))
}

/// Searches for those that the state of before a change has objects in. Takes out of it what is in one that is no longer there.
pub(super) fn of_state(backend: &mut dyn Backend, state: &mut State) {
    let mut wanted: BTreeMap<Netns, Owner> = BTreeMap::new();
    for (key, entry) in &*state {
        for netns in places(key, Some(entry)).filter(|netns| netns.source().is_some()) {
            wanted.entry(netns.clone()).or_insert_with(|| entry.owner().cloned().unwrap_or_else(Owner::netrec));
        }
    }
    let found = search(backend, wanted.into_iter().collect());
    let gone = |netns: &Netns| found.get(netns).is_some_and(|found| found.id().is_none());
    if found.keys().any(gone) {
        let stays = |(key, entry): &(Key, Entry)| !places(key, Some(entry)).any(gone);
        *state = std::mem::take(state).into_iter().filter(stays).collect();
    }
}

fn search(backend: &mut dyn Backend, wanted: Vec<(Netns, Owner)>) -> BTreeMap<Netns, Whereabouts> {
    let mut leads = services::leads(wanted.iter().map(|(netns, _)| netns));
    let searched_for = |(netns, owner): (Netns, Owner)| Some(SearchedFor { lead: leads.remove(&netns)?, netns, owner });
    let searched_for: Vec<SearchedFor> = wanted.into_iter().filter_map(searched_for).collect();
    backend.search(&searched_for)
}

/// The namespaces that an object is in, or is.
pub(super) fn places<'a>(key: &'a Key, entry: Option<&'a Entry>) -> impl Iterator<Item = &'a Netns> {
    let near = if let Key::Netns { netns } = key { netns } else { key.netns() };
    let far = entry.and_then(|entry| match &entry.object {
        Object::Link(Link { kind: LinkKind::Veth { peer }, .. }) => Some(&peer.netns),
        Object::Endpoint(endpoint) => Some(&endpoint.netns),
        _ => None,
    });
    std::iter::once(near).chain(far)
}

/// The namespaces that something is done in.
pub(super) fn all_places(actions: &[Action]) -> impl Iterator<Item = &Netns> {
    let entries = actions.iter().flat_map(|a| [(&a.key, a.before.as_ref()), (&a.key, a.after.as_ref())]);
    entries.flat_map(|(key, entry)| places(key, entry))
}

/// The namespaces of others that actions touch, by what tells each from those that come after it; else by device and inode
/// number.
pub(super) fn touched(backend: &dyn Backend, actions: &[Action], facts: &Facts) -> BTreeMap<Netns, (u64, u64)> {
    let foreign: BTreeSet<&Netns> =
        all_places(actions).filter(|netns| netns.label().is_some_and(|label| label.contains(['/', ':']))).collect();
    let known = |netns: &Netns| backend.lasting(netns).or(facts.identity(netns));
    foreign.into_iter().filter_map(|netns| Some((netns.clone(), known(netns)?))).collect()
}

/// The warning about namespaces that could not be looked into.
pub(super) fn unseen(paths: &[PathBuf]) -> Option<Warning> {
    let first = paths.first()?.display();
    let which = match paths.len() {
        1 => first.to_string(),
        n => format!("{first} and {} more", n - 1),
    };
    let message = format!("netrec may not look into {which}: what it may have made there earlier stays");
    Some(Warning { code: "unseen", message, owner: None })
}

/// The command `ip` in a namespace, as one types it.
pub(super) fn ip_in(netns: &Netns) -> String {
    if let Some(source) = netns.source() {
        let name = source.name;
        let pid = match source.kind {
            SourceKind::Docker => format!("$(docker inspect -f '{{{{.State.Pid}}}}' {name})"),
            SourceKind::Podman => format!("$(podman inspect -f '{{{{.State.Pid}}}}' {name})"),
            SourceKind::Pid => name.to_owned(),
            SourceKind::Machine => format!("$(machinectl show -p Leader --value {name})"),
            SourceKind::Unit => format!("$(systemctl show -p MainPID --value {name})"),
        };
        return format!("nsenter -t {pid} -n ip");
    }
    match netns.label() {
        None => "ip".to_owned(),
        Some(path) if path.starts_with('/') => format!("nsenter --net={path} ip"),
        Some(name) => format!("ip -n {name}"),
    }
}
