//! What a rehearsal does without, and has something of its own instead: namespaces and devices that others make, and
//! networks that this kernel has not.

use std::path::{Path, PathBuf};

use super::world::{NAMES, World, uplink};
use crate::config::{Config, Container, ContainerNetns, Driver, Node, Parent};
use crate::services::cluster;
use crate::state::{InterfaceName, Netns, ObjectName};

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
            if container.netns.is_of_others() {
                let first = Path::new(NAMES).join(stand_in(container, machine.host.as_ref()));
                names.push((first, machine.path_of(container)));
            }
        }
    }
    names
}

/// The file as it is rehearsed: namespaces that others would have made are the world's. Names those it did this to.
pub(super) fn with_stand_ins(config: &Config) -> (Config, Vec<String>) {
    let (mut config, mut stood_in) = alone(config);
    for container in &mut config.containers {
        if container.netns.is_of_others() {
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
    // What begins in a container with the host's stack begins on the host.
    for index in 0..config.expect.len() {
        if let Node::Container(container) = config.expect[index].from
            && config.containers[container].shares_host()
        {
            config.expect[index].from = Node::Host(config.containers[container].hosts(&config).start);
        }
    }
    for network in &mut config.networks {
        if let Driver::Macvlan(parent, _) | Driver::Ipvlan(parent, _) = &mut network.driver {
            let what = match parent.vlan {
                Some((below, vid)) => format!("VLAN {vid} of `{below}`"),
                None => format!("device `{}`", parent.name),
            };
            stood_in.push(format!(
                "{what} that network `{}` is on, with the world and all hosts on its link",
                network.name
            ));
            *parent = Parent { name: device(parent.name), vlan: None };
        }
        if std::mem::take(&mut network.adopt) {
            stood_in.push(format!("the bridge that network `{}` adopts", network.name));
        }
        for device in &mut network.trusted {
            stood_in.push(format!("device `{device}` that network `{}` trusts", network.name));
            *device = uplink();
        }
        network.trusted.dedup();
        let name = network.name.clone();
        if let Some(device) = network.overlay_mut().and_then(|overlay| overlay.underlay.as_mut()) {
            stood_in.push(format!("device `{device}` that network `{name}` runs over"));
            *device = uplink();
        }
    }
    (config, stood_in)
}

/// A file of a cluster without the cluster: this host is its only member.
fn alone(config: &Config) -> (Config, Vec<String>) {
    let cluster = config.cluster.as_ref().map(|cluster| &*cluster.known);
    let Some(members) = cluster.and_then(|known| cluster::alone(known).ok()) else {
        return (config.clone(), Vec::new());
    };
    let mut config = config.with_members(Some(&members)).into_owned();
    config.cluster = None;
    (config, vec!["the cluster's etcd, with this host as the only member".to_owned()])
}

/// The name of the device that stands in for a network's: its own, unless the machine's uplink is called so.
fn device(name: InterfaceName) -> InterfaceName {
    if name == uplink() { "uplink~".parse().unwrap_or(name) } else { name }
}

/// A network that cannot be rehearsed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lacking {
    /// Its index.
    pub network: usize,
    /// Its driver.
    pub driver: &'static str,
    /// Why it cannot.
    pub why: &'static str,
}

/// Takes networks out of the file that are plugins', and where the kernel has none ipvlan networks. Their containers stay,
/// without.
pub(super) fn without_lacking(config: &mut Config, has_ipvlan: bool) -> Vec<Lacking> {
    let mut lacking = Vec::new();
    for (network, found) in config.networks.iter_mut().enumerate() {
        let why = match found.driver {
            Driver::Ipvlan(..) if !has_ipvlan => "this kernel has no ipvlan",
            Driver::Remote(_) => "a plugin serves this machine's own networks only",
            _ => continue,
        };
        lacking.push(Lacking { network, driver: found.driver.as_str(), why });
        found.driver = Driver::Null;
    }
    lacking
}

/// The parameters that a file sets in its containers and of their interfaces, by what such a device is called that there is
/// everywhere.
pub(super) fn parameters(config: &Config) -> Vec<(String, String)> {
    let general = |(path, value): &(String, String)| {
        let mut parts: Vec<&str> = path.split('/').collect();
        if let [_, _, "conf" | "neigh", device, ..] = &mut parts[..]
            && *device != "all"
        {
            *device = "default";
        }
        (parts.join("/"), value.clone())
    };
    let containers = config.containers.iter();
    let all = containers.flat_map(|c| c.sysctls.iter().chain(c.attachments.iter().flat_map(|a| &a.sysctls)));
    all.map(general).collect()
}

/// Takes parameters, by their places in [`parameters`], out of the file. Names them.
pub(super) fn without_parameters(config: &mut Config, which: &[bool]) -> Vec<String> {
    let mut taken_out = Vec::new();
    let mut which = which.iter();
    let mut take = |sysctls: &mut Vec<(String, String)>, whose: String| {
        sysctls.retain(|(path, value)| {
            let out = which.next() == Some(&true);
            if out {
                taken_out.push(format!("sysctl {path}={value} of {whose}"));
            }
            !out
        });
    };
    let names: Vec<ObjectName> = config.networks.iter().map(|network| network.name.clone()).collect();
    for container in &mut config.containers {
        let name = &container.name;
        take(&mut container.sysctls, format!("container `{name}`"));
        for attachment in &mut container.attachments {
            let network = &names[attachment.network];
            take(&mut attachment.sysctls, format!("container `{name}` on network `{network}`"));
        }
    }
    taken_out
}
