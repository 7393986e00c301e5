//! What an `expect` line means: which addresses are asked from where, who must answer, and what listens for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::world::{Machine, World, router};
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

/// What is open where.
pub(super) type Listeners = BTreeMap<Seat, BTreeSet<(Protocol, u16)>>;

/// A place that packets are sent from or listened for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seat {
    /// By index into the world's hosts.
    Host(usize),
    World,
    /// By index into the file's containers, and the world's hosts: without a host of its own it is on each.
    Container(usize, usize),
}

impl Seat {
    /// The host that it is or is on.
    fn host(self) -> Option<usize> {
        match self {
            Self::Host(host) | Self::Container(_, host) => Some(host),
            Self::World => None,
        }
    }
}

/// Reads the lines of a file.
pub(super) struct Reader<'a> {
    pub config: &'a Config,
    pub chosen: &'a Chosen,
    pub world: &'a World,
}

impl Reader<'_> {
    /// Where somebody is whom a line names.
    pub(super) fn seat(&self, node: Node) -> Seat {
        match node {
            Node::Host(host) => Seat::Host(host),
            Node::World => Seat::World,
            Node::Container(index) => {
                let host = self.config.containers[index].hosts(self.config).start;
                if self.shares_host(index) { Seat::Host(host) } else { Seat::Container(index, host) }
            }
        }
    }

    fn shares_host(&self, container: usize) -> bool {
        self.config.containers[container].shares_host()
    }

    /// Every place, hosts first.
    pub(super) fn seats(&self) -> Vec<Seat> {
        let hosts = (0..self.world.hosts.len()).map(Seat::Host);
        let containers =
            self.config.containers.iter().enumerate().filter(|(_, c)| !c.shares_host()).flat_map(
                |(index, container)| container.hosts(self.config).map(move |host| Seat::Container(index, host)),
            );
        hosts.chain([Seat::World]).chain(containers).collect()
    }

    /// What a place is called, and calls itself when it answers.
    pub(super) fn name(&self, seat: Seat) -> String {
        match seat {
            Seat::Host(host) => self.machine(host).name.clone(),
            Seat::World => self.world.outside.name.clone(),
            Seat::Container(index, host) => {
                let container = &self.config.containers[index];
                if container.hosts(self.config).len() > 1 {
                    format!("{} on {}", container.name, self.machine(host).name)
                } else {
                    container.name.to_string()
                }
            }
        }
    }

    fn machine(&self, host: usize) -> &Machine {
        &self.world.hosts[host]
    }

    /// Everything that must listen: what lines ask for, and the containers behind published ports.
    pub(super) fn listeners(&self) -> Listeners {
        let mut all = Listeners::new();
        let mut open = |seat, service| {
            all.entry(seat).or_default().insert(service);
        };
        for (index, container) in self.config.containers.iter().enumerate() {
            for port in &container.ports {
                // Of a range the ends tell enough, and what the lines ask for.
                for (number, host) in [port.container.first, port.container.last]
                    .into_iter()
                    .flat_map(|number| container.hosts(self.config).map(move |host| (number, host)))
                {
                    open(Seat::Container(index, host), (port.protocol, number));
                }
            }
        }
        for line in &self.config.expect {
            let Some((port, protocol)) = line.port else { continue };
            match line.to {
                // `host:PORT` is a published port: nothing of the host may answer in its stead. A service of the host's own
                // is asked for by an address.
                Target::Node(Node::Host(host)) => {
                    for (index, mapping) in self.mappings(host, port, protocol) {
                        if let Some(port) = mapping.container_port(port) {
                            open(Seat::Container(index, host), (protocol, port));
                        }
                    }
                }
                Target::Node(node) => open(self.seat(node), (protocol, port)),
                Target::Address(ip) => match self.whose(ip, line.from) {
                    Seat::Host(host) if ip.is_loopback() && self.mappings(host, port, protocol).next().is_some() => {}
                    seat => open(seat, (protocol, port)),
                },
            }
        }
        all
    }

    /// The tries of a line. It holds if all are answered, or for `-/>` if none is.
    pub(super) fn attempts(&self, line: &Expect) -> Vec<Attempt> {
        let mut list = match line.to {
            Target::Address(ip) => vec![self.attempt(ip, self.answers_at(ip, line), line)],
            Target::Node(Node::World) => self.by_machine(&self.world.outside, Seat::World, line),
            // Services of the host's, by its own addresses.
            Target::Node(node @ Node::Container(index)) if self.shares_host(index) => {
                let seat = self.seat(node);
                seat.host().map_or_else(Vec::new, |host| self.by_machine(self.machine(host), seat, line))
            }
            Target::Node(Node::Container(index)) => self.container(index, line),
            Target::Node(Node::Host(host)) => self.host(host, line),
        };
        // What cannot be sent proves nothing about what may pass.
        list.retain(|attempt| self.has_family(line.from, attempt.to.is_ipv6()));
        list.dedup();
        list
    }

    /// Who has an address to somebody who asks: a container, a host, or else the world. Where each host has it, it is that
    /// of one's own, and to the world that of the host by which its route leads.
    fn whose(&self, ip: IpAddr, from: Node) -> Seat {
        let near = self.seat(from).host();
        let has = |index: &usize| {
            self.chosen.containers[*index].iter().flat_map(|a| &a.addresses).any(|address| address.ip.ip() == ip)
        };
        if let Some(index) = (0..self.config.containers.len()).find(has) {
            let hosts = self.config.containers[index].hosts(self.config);
            let host = near.filter(|near| hosts.contains(near)).unwrap_or(hosts.start);
            return Seat::Container(index, host);
        }
        if ip.is_loopback() {
            return near.map_or(Seat::World, Seat::Host);
        }
        let of_machine = || self.world.hosts.iter().position(|machine| machine.has(ip));
        let of_network = || (0..self.config.networks.len()).find_map(|network| self.host_on(network, ip, near));
        of_machine().or_else(of_network).map_or(Seat::World, Seat::Host)
    }

    /// The host that has an address on a network: one that is its own there, or the gateway's.
    fn host_on(&self, index: usize, ip: IpAddr, near: Option<usize>) -> Option<usize> {
        let network = &self.config.networks[index];
        if network.overlay().is_some_and(|overlay| overlay.topology.has_pieces()) {
            let is_gateway = |host| network.on_host(host).subnets.iter().any(|s| s.gateway == Some(ip));
            return self.config.hosts.iter().position(is_gateway);
        }
        let gateway = network.subnets.iter().any(|s| s.gateway == Some(ip));
        if gateway && network.has_bridge() {
            return Some(near.unwrap_or_else(|| router(self.config, index)));
        }
        self.chosen.networks[index].hosts.iter().position(|host| host.addresses.iter().any(|own| own.ip() == ip))
    }

    /// Who has to answer at an address that a line names.
    fn answers_at(&self, ip: IpAddr, line: &Expect) -> Option<Seat> {
        let (port, protocol) = line.port?;
        Some(match self.whose(ip, line.from) {
            Seat::Host(host) => match self.mappings(host, port, protocol).next() {
                Some((index, _)) => Seat::Container(index, host),
                None => Seat::Host(host),
            },
            seat => seat,
        })
    }

    fn attempt(&self, to: IpAddr, by: Option<Seat>, line: &Expect) -> Attempt {
        let seen_from = by.and_then(|by| self.seen_from(line.from, to, by));
        Attempt { to, by: by.map(|by| self.name(by)), seen_from }
    }

    /// The source address that one who answers sees, where it is known.
    fn seen_from(&self, from: Node, to: IpAddr, by: Seat) -> Option<IpAddr> {
        let family = usize::from(to.is_ipv6());
        match from {
            // On a link that it shares with the container it has another one.
            Node::World if self.is_outside(to) => None,
            // The world's source address always reaches the container.
            Node::World => Some(self.world.outside.addresses()[family]),
            Node::Container(index) => match self.on_common_network(index, to) {
                Some(network) => self.only_address(index, network, to.is_ipv6()),
                None if by == Seat::World || self.by_underlay(from, to) => self.seen_outside(index, family),
                None => None,
            },
            Node::Host(host) if self.by_underlay(from, to) => self.leaves_by(host, to.is_ipv6()),
            Node::Host(_) => None,
        }
    }

    /// Whether an address is of a network that the hosts have no bridge for.
    fn is_outside(&self, ip: IpAddr) -> bool {
        let mut networks = self.config.networks.iter().filter(|network| !network.has_bridge());
        networks.any(|network| network.subnets.iter().any(|subnet| subnet.net.contains(ip)))
    }

    /// Whether an address is another host's on the underlay.
    fn by_underlay(&self, from: Node, to: IpAddr) -> bool {
        let near = self.seat(from).host();
        self.world.hosts.iter().enumerate().any(|(host, machine)| near != Some(host) && machine.has(to))
    }

    /// The source address that packets reach the host of an address with, when they come from another one. `source` is the
    /// one that they begin with.
    pub(super) fn source_at_host(&self, from: Node, to: IpAddr, source: Option<IpAddr>) -> Option<IpAddr> {
        match from {
            Node::Container(index) if self.on_common_network(index, to).is_none() => {
                self.seen_outside(index, usize::from(to.is_ipv6()))
            }
            _ => source,
        }
    }

    /// The hosts that packets to an address pass, in their order.
    pub(super) fn way(&self, from: Node, to: IpAddr) -> Vec<usize> {
        let mut hosts: Vec<usize> =
            [self.seat(from).host(), self.whose(to, from).host()].into_iter().flatten().collect();
        hosts.dedup();
        hosts
    }

    /// The network that a container has in common with the one whose address it is.
    fn on_common_network(&self, index: usize, to: IpAddr) -> Option<usize> {
        let Seat::Container(other, _) = self.whose(to, Node::Container(index)) else { return None };
        let common = self.common(Node::Container(index), other);
        let attachments = self.config.containers[other].attachments.iter().zip(&self.chosen.containers[other]);
        let mut having = attachments.filter(|(_, chosen)| chosen.addresses.iter().any(|a| a.ip.ip() == to));
        having.next().map(|(attachment, _)| attachment.network).filter(|network| common.contains(network))
    }

    /// A container's address of a family on a network, where it has one only.
    fn only_address(&self, index: usize, network: usize, ipv6: bool) -> Option<IpAddr> {
        let attachments = self.config.containers[index].attachments.iter().zip(&self.chosen.containers[index]);
        let on_it = attachments.filter(|(attachment, _)| attachment.network == network);
        let mut all =
            on_it.flat_map(|(_, chosen)| &chosen.addresses).map(|a| a.ip.ip()).filter(|ip| ip.is_ipv6() == ipv6);
        all.next().filter(|_| all.next().is_none())
    }

    /// The source address of a container's packets in the world: the host's, where it is rewritten and nothing else said.
    fn seen_outside(&self, index: usize, family: usize) -> Option<IpAddr> {
        let container = &self.config.containers[index];
        let attachment = container.default_routes[family]?;
        let network = self.config.network(&container.attachments[attachment]);
        if network.mode(family == 1) == Some(Mode::Nat) {
            let host = container.hosts(self.config).start;
            return network.snat_of(family == 1).or_else(|| self.leaves_by(host, family == 1));
        }
        let own = &self.chosen.containers[index][attachment].addresses;
        own.iter().map(|address| address.ip.ip()).find(|ip| usize::from(ip.is_ipv6()) == family)
    }

    /// The address by which a host's packets leave, where the kernel has no choice of several.
    fn leaves_by(&self, host: usize, ipv6: bool) -> Option<IpAddr> {
        let machine = self.machine(host);
        let outside = self.world.outside.addresses()[usize::from(ipv6)];
        (machine.shares_net(outside) || !machine.has_more(ipv6)).then(|| machine.addresses()[usize::from(ipv6)])
    }

    fn by_machine(&self, machine: &Machine, seat: Seat, line: &Expect) -> Vec<Attempt> {
        let by = line.port.map(|_| seat);
        machine.addresses().into_iter().map(|ip| self.attempt(ip, by, line)).collect()
    }

    /// The networks of a container by which somebody else reaches it without leaving them: those that both are on, and that
    /// span hosts where the two are on different ones.
    fn common(&self, from: Node, index: usize) -> BTreeSet<usize> {
        let container = &self.config.containers[index];
        let overlay = |network: usize| self.config.networks[network].overlay().is_some();
        let spans = |network: usize| overlay(network) || self.config.networks[network].parent().is_some();
        let near = |host: Option<usize>| host.is_some_and(|host| container.is_on(host));
        let is_common = |network: &usize| match from {
            Node::World => false,
            Node::Host(host) => !container.is_on(host) && overlay(*network),
            Node::Container(other) => {
                self.config.containers[other].attachments.iter().any(|a| a.network == *network)
                    && (spans(*network) || near(self.seat(from).host()))
            }
        };
        container.attachments.iter().map(|a| a.network).filter(is_common).collect()
    }

    /// A container's own addresses: those on networks that both have in common, where there are any and they are to be
    /// reached.
    fn container(&self, index: usize, line: &Expect) -> Vec<Attempt> {
        let container = &self.config.containers[index];
        let common = if line.reach { self.common(line.from, index) } else { BTreeSet::new() };
        let by = line.port.map(|_| self.seat(Node::Container(index)));
        container
            .attachments
            .iter()
            .zip(&self.chosen.containers[index])
            .filter(|(attachment, _)| common.is_empty() || common.contains(&attachment.network))
            .flat_map(|(_, chosen)| &chosen.addresses)
            .map(|address| self.attempt(address.ip.ip(), by, line))
            .collect()
    }

    /// A host: what is published there. A port that no mapping has is asked for all the same, and refused.
    fn host(&self, host: usize, line: &Expect) -> Vec<Attempt> {
        let mappings: Vec<(usize, &Port)> =
            line.port.map(|(port, protocol)| self.mappings(host, port, protocol).collect()).unwrap_or_default();
        if mappings.is_empty() {
            return self.by_machine(self.machine(host), Seat::Host(host), line);
        }
        let mut list = Vec::new();
        for (index, port) in mappings {
            let by = Some(Seat::Container(index, host));
            for to in self.published_at(index, port, host, line.from) {
                list.push(self.attempt(to, by, line));
            }
        }
        list
    }

    /// The addresses at which a mapping of a host is asked for from somewhere: of the families that its container has.
    fn published_at(&self, index: usize, port: &Port, host: usize, from: Node) -> Vec<IpAddr> {
        let [ipv4, ipv6] = self.machine(host).addresses();
        let own = from == Node::Host(host);
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

    /// The published ports of a host's port, with their containers.
    fn mappings(&self, host: usize, port: u16, protocol: Protocol) -> impl Iterator<Item = (usize, &Port)> {
        let containers = self.config.containers.iter().enumerate().filter(move |(_, c)| c.is_on(host));
        containers
            .flat_map(|(index, container)| container.ports.iter().map(move |port| (index, port)))
            .filter(move |(_, p)| p.host.contains(port) && p.protocol == protocol)
            .filter(|(index, p)| self.translated(*index, p, false) || self.translated(*index, p, true))
    }

    fn has_family(&self, node: Node, ipv6: bool) -> bool {
        match node {
            Node::Host(_) | Node::World => true,
            Node::Container(index) => {
                self.chosen.containers[index].iter().flat_map(|a| &a.addresses).any(|a| a.ip.is_ipv6() == ipv6)
            }
        }
    }
}
