//! What an `expect` line means: which addresses are asked from where, who must answer, and what listens for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::world::World;
use crate::config::{Config, Expect, Mode, Node, Port, PortAddress, Protocol, Target};
use crate::desired::Chosen;

/// One try of a line: an address that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// Which address.
    pub to: IpAddr,
    /// Who has to answer; none where anybody may (a ping is answered by whoever has the address).
    pub by: Option<String>,
    /// The source address that whoever answers has to see; none where it does not matter.
    pub seen_from: Option<IpAddr>,
}

/// What is open where, by the name of the machine or container.
pub(super) type Listeners = BTreeMap<Seat, BTreeSet<(Protocol, u16)>>;

/// A place that packets are sent from or listened for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seat {
    Host,
    World,
    /// By index into the file's containers.
    Container(usize),
}

pub(super) fn seat(node: Node) -> Seat {
    match node {
        Node::Host => Seat::Host,
        Node::World => Seat::World,
        Node::Container(index) => Seat::Container(index),
    }
}

/// Reads the lines of a file.
pub(super) struct Reader<'a> {
    pub config: &'a Config,
    pub chosen: &'a Chosen,
    pub world: &'a World,
}

impl Reader<'_> {
    /// Everything that must listen: what lines ask for, and the containers behind published ports.
    pub(super) fn listeners(&self) -> Listeners {
        let mut all = Listeners::new();
        let mut open = |seat, service| {
            all.entry(seat).or_default().insert(service);
        };
        for (index, container) in self.config.containers.iter().enumerate() {
            for port in &container.ports {
                // Of a range the ends tell enough, and what the lines ask for.
                for number in [port.container.first, port.container.last] {
                    open(Seat::Container(index), (port.protocol, number));
                }
            }
        }
        for line in &self.config.expect {
            let Some((port, protocol)) = line.port else { continue };
            match line.to {
                // `host:PORT` is a published port: nothing of the host may answer in its stead. A service of the host's own
                // is asked for by an address.
                Target::Node(Node::Host) => {
                    for (index, mapping) in self.mappings(port, protocol) {
                        if let Some(port) = mapping.container_port(port) {
                            open(Seat::Container(index), (protocol, port));
                        }
                    }
                }
                Target::Address(ip) if ip.is_loopback() && self.mappings(port, protocol).next().is_some() => {}
                Target::Node(node) => open(seat(node), (protocol, port)),
                Target::Address(ip) => open(seat(self.whose(ip)), (protocol, port)),
            }
        }
        all
    }

    /// The tries of a line. It holds if all are answered, or for `-/>` if none is.
    pub(super) fn attempts(&self, line: &Expect) -> Vec<Attempt> {
        let mut list = match line.to {
            Target::Address(ip) => vec![self.attempt(ip, self.answers_at(ip, line), line)],
            Target::Node(Node::World) => self.machine(self.world.outside, "world", line),
            Target::Node(Node::Container(index)) => self.container(index, line),
            Target::Node(Node::Host) => self.host(line),
        };
        // What cannot be sent proves nothing about what may pass.
        list.retain(|attempt| self.has_family(line.from, attempt.to.is_ipv6()));
        list.dedup();
        list
    }

    /// Who has an address: a container, the host, or else the world.
    fn whose(&self, ip: IpAddr) -> Node {
        let has = |index: &usize| {
            self.chosen.containers[*index].iter().flat_map(|a| &a.addresses).any(|address| address.ip.ip() == ip)
        };
        let gateway = || self.config.networks.iter().flat_map(|n| &n.subnets).any(|s| s.gateway == Some(ip));
        match (0..self.config.containers.len()).find(has) {
            Some(index) => Node::Container(index),
            None if ip.is_loopback() || self.world.host.contains(&ip) || gateway() => Node::Host,
            None => Node::World,
        }
    }

    /// Who has to answer at an address that a line names.
    fn answers_at(&self, ip: IpAddr, line: &Expect) -> Option<String> {
        let (port, protocol) = line.port?;
        let name = |index: usize| self.config.containers[index].name.to_string();
        Some(match self.whose(ip) {
            Node::Container(index) => name(index),
            Node::Host => self.mappings(port, protocol).next().map_or("host".to_owned(), |(index, _)| name(index)),
            Node::World => "world".to_owned(),
        })
    }

    fn attempt(&self, to: IpAddr, by: Option<String>, line: &Expect) -> Attempt {
        let family = usize::from(to.is_ipv6());
        let seen_from = match (line.from, by.as_deref()) {
            (_, None) => None,
            // The world's source address always reaches the container.
            (Node::World, Some(_)) => Some(self.world.outside[family]),
            (Node::Container(index), Some("world")) => self.seen_outside(index, family),
            _ => None,
        };
        Attempt { to, by, seen_from }
    }

    /// The source address of a container's packets in the world: the host's, where it is rewritten and nothing else said.
    fn seen_outside(&self, index: usize, family: usize) -> Option<IpAddr> {
        let container = &self.config.containers[index];
        let attachment = container.default_routes[family]?;
        let network = self.config.network(&container.attachments[attachment]);
        if network.modes[family] == Mode::Nat {
            return network.snat_of(family == 1).or(Some(self.world.host[family]));
        }
        let own = &self.chosen.containers[index][attachment].addresses;
        own.iter().map(|address| address.ip.ip()).find(|ip| usize::from(ip.is_ipv6()) == family)
    }

    fn machine(&self, addresses: [IpAddr; 2], name: &str, line: &Expect) -> Vec<Attempt> {
        let by = line.port.map(|_| name.to_owned());
        addresses.into_iter().map(|ip| self.attempt(ip, by.clone(), line)).collect()
    }

    /// A container's own addresses: those on networks that both are on, where there are any and they are to be reached.
    fn container(&self, index: usize, line: &Expect) -> Vec<Attempt> {
        let container = &self.config.containers[index];
        let networks_of = |node: Node| -> BTreeSet<usize> {
            match node {
                Node::Container(i) => self.config.containers[i].attachments.iter().map(|a| a.network).collect(),
                _ => BTreeSet::new(),
            }
        };
        let from = networks_of(line.from);
        let shares = line.reach && container.attachments.iter().any(|a| from.contains(&a.network));
        let by = line.port.map(|_| container.name.to_string());
        container
            .attachments
            .iter()
            .zip(&self.chosen.containers[index])
            .filter(|(attachment, _)| !shares || from.contains(&attachment.network))
            .flat_map(|(_, chosen)| &chosen.addresses)
            .map(|address| self.attempt(address.ip.ip(), by.clone(), line))
            .collect()
    }

    /// The host: what is published there. A port that no mapping has is asked for all the same, and refused.
    fn host(&self, line: &Expect) -> Vec<Attempt> {
        let mappings: Vec<(usize, &Port)> =
            line.port.map(|(port, protocol)| self.mappings(port, protocol).collect()).unwrap_or_default();
        if mappings.is_empty() {
            return self.machine(self.world.host, "host", line);
        }
        let mut list = Vec::new();
        for (index, port) in mappings {
            let by = Some(self.config.containers[index].name.to_string());
            for to in self.published_at(index, port, line.from) {
                list.push(self.attempt(to, by.clone(), line));
            }
        }
        list
    }

    /// The addresses at which a mapping is asked for from somewhere: of the families that its container has.
    fn published_at(&self, index: usize, port: &Port, from: Node) -> Vec<IpAddr> {
        let [ipv4, ipv6] = self.world.host;
        let own = from == Node::Host;
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let mut addresses = match port.address {
            PortAddress::One(ip) if ip.is_loopback() && !own => vec![ipv4],
            PortAddress::One(ip) => vec![ip],
            PortAddress::AnyIpv6 => vec![ipv6],
            PortAddress::Any | PortAddress::AnyIpv4 => vec![ipv4],
        };
        if own && matches!(port.address, PortAddress::Any | PortAddress::AnyIpv4) {
            addresses.push(loopback);
        }
        if port.address == PortAddress::Any {
            addresses.push(ipv6);
        }
        addresses.retain(|ip| self.translated(index, port, ip.is_ipv6()));
        addresses
    }

    /// Whether a published port takes a port of the host's addresses of a family.
    fn translated(&self, index: usize, port: &Port, ipv6: bool) -> bool {
        port.targets[usize::from(ipv6)].is_some_and(|attachment| {
            let container = &self.config.containers[index];
            self.config.network(&container.attachments[attachment]).mode(ipv6) == Some(Mode::Nat)
        })
    }

    /// The published ports of a host port, with their containers.
    fn mappings(&self, port: u16, protocol: Protocol) -> impl Iterator<Item = (usize, &Port)> {
        let containers = self.config.containers.iter().enumerate();
        containers
            .flat_map(|(index, container)| container.ports.iter().map(move |port| (index, port)))
            .filter(move |(_, p)| p.host.contains(port) && p.protocol == protocol)
            .filter(|(index, p)| self.translated(*index, p, false) || self.translated(*index, p, true))
    }

    fn has_family(&self, node: Node, ipv6: bool) -> bool {
        match node {
            Node::Host | Node::World => true,
            Node::Container(index) => {
                self.chosen.containers[index].iter().flat_map(|a| &a.addresses).any(|a| a.ip.is_ipv6() == ipv6)
            }
        }
    }

    /// Addresses outside of the file that lines ask for: the world has to have them.
    pub(super) fn asked_for(config: &Config) -> Vec<IpAddr> {
        let inside = |ip: IpAddr| config.networks.iter().flat_map(|n| &n.subnets).any(|s| s.net.contains(ip));
        let asked = config.expect.iter().filter_map(|line| match line.to {
            Target::Address(ip) if !inside(ip) && !ip.is_loopback() => Some(ip),
            _ => None,
        });
        asked.collect::<BTreeSet<_>>().into_iter().collect()
    }
}
