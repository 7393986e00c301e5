//! What a rehearsal does without, and has something of its own instead: namespaces and devices that others make.

use std::path::{Path, PathBuf};

use super::world::{NAMES, World, uplink};
use crate::config::{Config, Container, ContainerNetns};
use crate::state::{Netns, ObjectName};

/// The name of the namespace that stands in for one that the file takes from elsewhere; to the world it has the host's name
/// in it. No machine and no other container is called so.
pub(super) fn stand_in(container: &Container, host: Option<&ObjectName>) -> String {
    format!("{}~{}", container.name, host.map_or("", ObjectName::as_str))
}

/// The namespaces that stand in for others', each under its name in the world and in its host's folder, where that has
/// one.
pub(super) fn second_names(config: &Config, world: &World) -> Vec<(PathBuf, PathBuf)> {
    let mut names = Vec::new();
    for (host, machine) in world.hosts.iter().enumerate().filter(|(_, machine)| machine.host.is_some()) {
        for container in config.containers.iter().filter(|c| c.is_on(host)) {
            if !container.netns.is_made() {
                let first = Path::new(NAMES).join(stand_in(container, machine.host.as_ref()));
                names.push((first, machine.path_of(container)));
            }
        }
    }
    names
}

/// The file as it is rehearsed: namespaces that others would have made are the world's. Names those it did this to.
pub(super) fn with_stand_ins(config: &Config) -> (Config, Vec<String>) {
    let mut config = config.clone();
    let mut stood_in = Vec::new();
    for container in &mut config.containers {
        if !container.netns.is_made() {
            let netns = container.netns.netns();
            stood_in.push(match netns.source() {
                // Its own name alone would not tell whose place it takes.
                Some(source) => format!("{source} for container `{}`", container.name),
                None => format!("namespace {netns} of container `{}`", container.name),
            });
            let path = Path::new(NAMES).join(stand_in(container, None));
            container.netns = ContainerNetns::Path(Netns::new(path.to_string_lossy()));
        }
    }
    for network in &mut config.networks {
        if std::mem::take(&mut network.adopt) {
            stood_in.push(format!("the bridge that network `{}` adopts", network.name));
        }
        for device in &mut network.trusted {
            stood_in.push(format!("device `{device}` that network `{}` trusts", network.name));
            *device = uplink();
        }
        network.trusted.dedup();
        if let Some(device) = network.overlay.as_mut().and_then(|overlay| overlay.underlay.as_mut()) {
            stood_in.push(format!("device `{device}` that network `{}` runs over", network.name));
            *device = uplink();
        }
    }
    (config, stood_in)
}

/// The parameters that a file sets in its containers.
pub(super) fn parameters(config: &Config) -> Vec<(String, String)> {
    config.containers.iter().flat_map(|container| &container.sysctls).cloned().collect()
}

/// Takes parameters, by their places in [`parameters`], out of the file. Names them.
pub(super) fn without_parameters(config: &mut Config, which: &[bool]) -> Vec<String> {
    let mut taken_out = Vec::new();
    let mut which = which.iter();
    for container in &mut config.containers {
        let name = &container.name;
        container.sysctls.retain(|(path, value)| {
            let out = which.next() == Some(&true);
            if out {
                taken_out.push(format!("sysctl {path}={value} of container `{name}`"));
            }
            !out
        });
    }
    taken_out
}
