//! Published ports as ways in: who came by one, and how much went through it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

use super::PrepareError;
use crate::config::{Config, Container, Mode, Port, PortAddress, PortRange};
use crate::desired::{Chosen, ChosenAttachment};
use crate::kernel::{Backend, ReadError};
use crate::state::{Flow, Key, Membership, Object, Owner, State, Traffic};

/// A published port of a container that lives on this host.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    pub(super) port: Port,
    pub(super) container: String,
    /// Where it leads.
    pub(super) to: Vec<IpAddr>,
    /// The elements that count its packets; none where nothing does.
    counters: Vec<Key>,
    /// The families of which it opens the container's own address, rather than the host's.
    opened: [bool; 2],
}

/// How a published port is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// Tracked connections by it, now.
    pub(super) connections: u64,
    /// What went through it so far, both ways; none where that is not counted.
    pub(super) traffic: Option<Traffic>,
}

/// A host's part of a file, with what is chosen for it; all of a file without hosts.
pub(super) struct Part<'a> {
    pub(super) config: Cow<'a, Config>,
    pub(super) chosen: Chosen,
}

impl<'a> Part<'a> {
    /// That of the host with this name, among these members where it is of a cluster.
    pub(super) fn of(config: &'a Config, members: Option<&Membership>, host: &str) -> Result<Self, PrepareError> {
        let config = config.with_members(members);
        let chosen = Chosen::new(&config).map_err(|invalid| PrepareError::Invalid(Box::new(invalid)))?;
        let Some(here) = config.here(host) else {
            return Ok(Self { config, chosen });
        };
        let chosen = chosen.on_host(&config, here);
        Ok(Self { config: Cow::Owned(config.on_host(here)), chosen })
    }
}

/// All of those that a host's part of a file publishes, in its order: container by container.
pub(super) fn entrances(part: &Part<'_>, desired: &State) -> Vec<Entrance> {
    let config = &part.config;
    let mut counters: HashMap<Owner, Vec<Key>> = HashMap::new();
    for (key, entry) in desired {
        let Key::Element { set, .. } = key else { continue };
        let set = desired.get(&Key::Set { name: set.clone() }).map(|entry| &entry.object);
        if matches!(set, Some(Object::Set(set)) if set.counted) {
            for owner in &entry.owners {
                counters.entry(owner.clone()).or_default().push(key.clone());
            }
        }
    }
    let mut entrance = |container: &Container, chosen: &[ChosenAttachment], port: &Port| {
        let address = |ipv6: bool| {
            let addresses = &chosen[port.targets[usize::from(ipv6)]?].addresses;
            addresses.iter().map(|address| address.ip.ip()).find(|ip| ip.is_ipv6() == ipv6)
        };
        let opened = |ipv6: bool| {
            let index = port.targets[usize::from(ipv6)];
            let network = index.map(|index| config.network(&container.attachments[index]));
            network.is_some_and(|network| network.mode(ipv6) == Some(Mode::Routed))
        };
        Entrance {
            port: port.clone(),
            container: container.name.to_string(),
            counters: counters.remove(&port.owner).unwrap_or_default(),
            to: [false, true].into_iter().filter_map(address).collect(),
            opened: [false, true].map(opened),
        }
    };
    let containers = config.containers.iter().zip(&part.chosen.containers);
    let ports = containers.flat_map(|(c, chosen)| c.ports.iter().map(move |port| (c, chosen, port)));
    ports.map(|(container, chosen, port)| entrance(container, chosen, port)).collect()
}

/// What each has counted, of what all have; none of those that nobody counts.
fn traffic(entrances: &[Entrance], all: Vec<(Key, Traffic)>) -> Vec<Option<Traffic>> {
    let all: HashMap<Key, Traffic> = all.into_iter().collect();
    let of = |entrance: &Entrance| {
        // What is missing is not there, and has counted nothing.
        let found = entrance.counters.iter().filter_map(|key| all.get(key));
        let sum = |sum: Traffic, one: &Traffic| Traffic {
            packets: sum.packets.saturating_add(one.packets),
            bytes: sum.bytes.saturating_add(one.bytes),
        };
        (!entrance.counters.is_empty()).then(|| found.fold(Traffic::default(), sum))
    };
    entrances.iter().map(of).collect()
}

/// What there is to be known of some: connections, packets and bytes.
pub(super) fn use_of(backend: &mut dyn Backend, entrances: &[Entrance]) -> Result<Vec<Use>, ReadError> {
    if entrances.is_empty() {
        return Ok(Vec::new());
    }
    let connections = connections(entrances, &backend.flows()?);
    let counted = entrances.iter().any(|entrance| !entrance.counters.is_empty());
    let traffic = traffic(entrances, if counted { backend.traffic()? } else { Vec::new() });
    Ok(connections.into_iter().zip(traffic).map(|(connections, traffic)| Use { connections, traffic }).collect())
}

/// How many of these flows came by each.
fn connections(entrances: &[Entrance], flows: &[Flow]) -> Vec<u64> {
    let mut by_container: HashMap<(u8, IpAddr), Vec<usize>> = HashMap::new();
    for (index, Entrance { port, to, .. }) in entrances.iter().enumerate() {
        for ip in to {
            by_container.entry((port.protocol.number(), *ip)).or_default().push(index);
        }
    }
    let mut counts = vec![0; entrances.len()];
    for flow in flows {
        for &index in by_container.get(&(flow.protocol, flow.answers.ip)).into_iter().flatten() {
            counts[index] += u64::from(entrances[index].has(flow));
        }
    }
    counts
}

impl Entrance {
    /// The host's address that the file names; none for all.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self.port.address {
            PortAddress::One(ip) => Some(ip),
            PortAddress::AnyIpv4 => Some(IpAddr::from([0; 4])),
            PortAddress::AnyIpv6 => Some(IpAddr::from([0; 16])),
            PortAddress::Any => None,
        }
    }

    /// Whether a flow of its protocol to its container came by it: where a family is opened by the container's own address,
    /// else by the host's.
    fn has(&self, flow: &Flow) -> bool {
        let port = &self.port;
        let within = |number: Option<u16>, range: PortRange| number.is_some_and(|number| range.contains(number));
        if self.opened[usize::from(flow.answers.ip.is_ipv6())] {
            return within(flow.answers.port, port.container);
        }
        let at = match port.address {
            PortAddress::One(ip) => flow.to.ip == ip,
            _ => port.has_family(flow.to.ip.is_ipv6()),
        };
        flow.is_rewritten() && at && flow.to.port.and_then(|host| port.container_port(host)) == flow.answers.port
    }
}
