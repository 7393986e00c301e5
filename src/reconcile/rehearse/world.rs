//! The world of a rehearsal: machines in namespaces on one underlay. It is a desired state like any other, applied by the
//! same code as the file's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

use super::stand_ins::stand_in;
use crate::config::{Config, Container, ContainerNetns, Host, Network, PortAddress, Target};
use crate::desired::Chosen;
use crate::state::{
    Address, BridgePort, Device, InterfaceName, Key, Link, LinkKind, Mac, Netns, NetnsObject, Object, ObjectName,
    Owner, Peer, Route, State, Sysctl,
};

/// Where the world's namespaces have their names.
pub(super) const NAMES: &str = "/run/netns";
/// Where the hosts of a file that has several have folders of names, each its own, which are [`NAMES`] to them.
const FOLDERS: &str = "/run/hosts";

/// Underlay networks: addresses for benchmarks (RFC 2544) and for documentation (RFC 3849), the first that the file does
/// not use.
const IPV4_UNDERLAYS: [&str; 4] = ["198.18.0.0/24", "198.19.255.0/24", "203.0.113.0/24", "192.0.2.0/24"];
const IPV6_UNDERLAYS: [&str; 4] = ["2001:db8:ffff:1::/64", "2001:db8:fffe:1::/64", "2001:db8:1::/64", "fd00:ffff::/64"];
/// The place in them of the machine outside; hosts have those before it.
const OUTSIDE: u32 = 254;
/// The shortest prefixes that a link of hosts may have, of IPv4 and IPv6.
const SHORTEST: [u8; 2] = [8, 32];

const UPLINK: &str = "uplink";
const UNDERLAY: &str = "underlay";
const MTU: u32 = 1500;

/// A machine on the underlay: a host, or the one outside.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// What the file calls it; a host that it does not name, and the one outside, have no name.
    pub host: Option<ObjectName>,
    /// What lines and listeners call it: `host`, `host.a`, `world`.
    pub name: String,
    /// Its address on the underlay, of IPv4 and of IPv6, with the link's prefix length.
    pub on_link: [IpNetwork; 2],
    /// Other addresses that the file takes it to have.
    more: Vec<IpAddr>,
}

/// A machine's device on the underlay.
pub(super) fn uplink() -> InterfaceName {
    Builder::name(UPLINK)
}

impl Machine {
    fn new(host: Option<ObjectName>, name: String, on_link: [IpNetwork; 2]) -> Self {
        Self { host, name, on_link, more: Vec::new() }
    }

    /// The path of its namespace. No container can be called so: a name begins with a letter or a digit.
    pub(super) fn path(&self) -> PathBuf {
        Path::new(NAMES).join(self.netns())
    }

    fn netns(&self) -> String {
        format!("~{}", self.name)
    }

    /// The folder that is [`NAMES`] to it, where that is not the world's own.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        self.host.as_ref().map(|name| Path::new(FOLDERS).join(name.as_str()))
    }

    /// The path of one of its containers' namespaces.
    pub(super) fn path_of(&self, container: &Container) -> PathBuf {
        let folder = self.folder().unwrap_or_else(|| NAMES.into());
        match &container.netns {
            ContainerNetns::Named(netns) => folder.join(netns.to_string()),
            ContainerNetns::Path(_) | ContainerNetns::Source(_) => folder.join(stand_in(container, None)),
            ContainerNetns::Host => self.path(),
        }
    }

    /// What sentences call it.
    pub(super) fn called(&self) -> String {
        if self.host.is_some() { self.name.clone() } else { format!("the {}", self.name) }
    }

    /// The addresses on the underlay, of IPv4 and IPv6.
    pub(super) fn addresses(&self) -> [IpAddr; 2] {
        self.on_link.map(|ip| ip.ip())
    }

    pub(super) fn has(&self, ip: IpAddr) -> bool {
        self.addresses().contains(&ip) || self.more.contains(&ip)
    }

    /// Whether the file takes it to have another address of a family.
    pub(super) fn has_more(&self, ipv6: bool) -> bool {
        self.more.iter().any(|ip| ip.is_ipv6() == ipv6)
    }

    /// Whether an address is of the network of the underlay that its own is of.
    pub(super) fn shares_net(&self, ip: IpAddr) -> bool {
        self.on_link[usize::from(ip.is_ipv6())].contains(ip)
    }
}

/// Who is where.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// The hosts, as the file has them; without a name the one of a file that has none.
    pub hosts: Vec<Machine>,
    /// The machine outside.
    pub outside: Machine,
    /// The devices that networks are on, which each host has one of.
    parents: Vec<InterfaceName>,
    /// The state that makes it.
    pub state: State,
}

impl World {
    /// The world of a file. None where it leaves no network or too few addresses for an underlay.
    pub(super) fn new(config: &Config, chosen: &Chosen) -> Option<Self> {
        let nets = [free(config, &IPV4_UNDERLAYS)?, free(config, &IPV6_UNDERLAYS)?];
        let outside = Machine::new(
            None,
            "world".to_owned(),
            [nth(nets[0], OUTSIDE, nets[0].prefix())?, nth(nets[1], OUTSIDE, nets[1].prefix())?],
        );
        let parents: BTreeSet<_> =
            config.networks.iter().filter_map(Network::parent).map(|parent| parent.name).collect();
        let parents = parents.into_iter().collect();
        let mut world = Self { hosts: machines(config, nets)?, outside, parents, state: State::new() };
        let mut builder = Builder { state: State::new(), owner: Owner::new("rehearsal") };
        builder.bridge(UNDERLAY);
        world.give_addresses(config);
        for (number, machine) in (1..).zip(world.machines()) {
            builder.machine(machine, number);
            builder.neighbours(machine, world.machines());
        }
        for host in &world.hosts {
            for gateway in world.outside.addresses() {
                builder.route(host, any(gateway.is_ipv6()), gateway);
            }
        }
        for (net, host) in world.reached_by(config, chosen) {
            let host = world.hosts.get(host)?;
            builder.route(&world.outside, net, host.addresses()[usize::from(net.is_ipv6())]);
        }
        builder.stand_ins(config, &world.hosts);
        let machines: Vec<&Machine> = world.machines().collect();
        for (number, device) in (1..).zip(&world.parents) {
            builder.segment(config, *device, number, &machines);
        }
        Some(Self { state: builder.state, ..world })
    }

    /// The devices that each host has.
    pub(super) fn devices(&self) -> impl Iterator<Item = InterfaceName> {
        std::iter::once(uplink()).chain(self.parents.iter().copied())
    }

    fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.hosts.iter().chain([&self.outside])
    }

    /// Gives machines the addresses that the file takes them to have: those of ports, sources that what leaves a network is
    /// to have, and what lines ask for and nobody else has. An address is on one host: of a container that is on all, and
    /// of a network, on the first.
    fn give_addresses(&mut self, config: &Config) {
        let ports = config.containers.iter().flat_map(|c| c.ports.iter().map(|port| (c.hosts(config).start, port)));
        let ports = ports.filter_map(|(host, port)| match port.address {
            PortAddress::One(ip) if !ip.is_loopback() => Some((host, ip)),
            _ => None,
        });
        let networks = config.networks.iter().enumerate();
        let sources = networks.flat_map(|(index, n)| n.snat.iter().map(move |ip| (router(config, index), *ip)));
        for (host, ip) in ports.chain(sources) {
            if !self.machines().any(|machine| machine.has(ip)) {
                self.hosts[host].more.push(ip);
            }
        }
        let inside = |ip: IpAddr| config.networks.iter().flat_map(|n| &n.subnets).any(|s| s.net.contains(ip));
        let asked: BTreeSet<IpAddr> = config
            .expect
            .iter()
            .filter_map(|line| match line.to {
                Target::Address(ip) if !inside(ip) && !ip.is_loopback() => Some(ip),
                _ => None,
            })
            .filter(|ip| !self.machines().any(|machine| machine.has(*ip)))
            .collect();
        self.outside.more.extend(asked);
    }

    /// What the world reaches by which host: networks, and of those that several hosts have whatever is on another one.
    fn reached_by(&self, config: &Config, chosen: &Chosen) -> Vec<(IpNetwork, usize)> {
        let mut all = Vec::new();
        let bridged = config.networks.iter().enumerate().filter(|(_, network)| network.has_bridge());
        for (index, network) in bridged {
            if network.overlay().is_some_and(|overlay| overlay.topology.has_pieces()) {
                for (host, piece) in config.hosts.iter().map(|host| network.on_host(host)).enumerate() {
                    all.extend(piece.subnets.iter().map(|subnet| (subnet.net, host)));
                }
                continue;
            }
            let first = router(config, index);
            all.extend(network.subnets.iter().map(|subnet| (subnet.net, first)));
            let containers = config.containers.iter().zip(&chosen.containers).flat_map(|(container, chosen)| {
                let on_it = container.attachments.iter().zip(chosen).filter(|(a, _)| a.network == index);
                on_it.flat_map(|(_, a)| &a.addresses).map(|a| (a.ip.ip(), container.hosts(config).start))
            });
            let hosts = chosen.networks[index].hosts.iter().enumerate();
            let hosts = hosts.flat_map(|(host, own)| own.addresses.iter().map(move |ip| (ip.ip(), host)));
            all.extend(containers.chain(hosts).filter(|(_, host)| *host != first).map(|(ip, host)| (single(ip), host)));
        }
        for (host, machine) in self.hosts.iter().enumerate() {
            all.extend(machine.more.iter().map(|ip| (single(*ip), host)));
        }
        all
    }
}

/// The host by which the world reaches a network that each of them has: the first that has one of its containers.
pub(super) fn router(config: &Config, network: usize) -> usize {
    let users = config.containers.iter().filter(|c| c.attachments.iter().any(|a| a.network == network));
    users.map(|container| container.hosts(config).start).min().unwrap_or(0)
}

/// The hosts of a file, or the one that it does not name, with an address of each family: the file's, or one of an
/// underlay network's.
fn machines(config: &Config, nets: [IpNetwork; 2]) -> Option<Vec<Machine>> {
    let link = [false, true].map(|ipv6| link_prefix(config, ipv6));
    let on_link = |host: Option<&Host>, ipv6: bool, number: u32| {
        let family = usize::from(ipv6);
        match host.and_then(|host| host.address(ipv6)) {
            Some(ip) => IpNetwork::new(ip, link[family]).ok(),
            None if number < OUTSIDE => nth(nets[family], number, nets[family].prefix()),
            None => None,
        }
    };
    let machine = |host: Option<&Host>, number: u32| {
        let name = host.map_or_else(|| "host".to_owned(), |host| format!("host.{}", host.name));
        let on_link = [on_link(host, false, number)?, on_link(host, true, number)?];
        Some(Machine::new(host.map(|host| host.name.clone()), name, on_link))
    };
    if config.hosts.is_empty() {
        return Some(vec![machine(None, 1)?]);
    }
    (1..).zip(&config.hosts).map(|(number, host)| machine(Some(host), number)).collect()
}

/// The prefix length of the link that the hosts' addresses of a family are on: the longest in which all are, and are
/// neither its first nor its last. Where a network of the file would be within, each is alone.
fn link_prefix(config: &Config, ipv6: bool) -> u8 {
    let addresses: Vec<IpAddr> = config.hosts.iter().filter_map(|host| host.address(ipv6)).collect();
    let subnets: Vec<IpNetwork> = config.networks.iter().flat_map(|n| &n.subnets).map(|s| s.net).collect();
    let bits = if ipv6 { 128 } else { 32 };
    let holds_all = |prefix: &u8| {
        let nets = || addresses.iter().filter_map(|ip| IpNetwork::new(*ip, *prefix).ok());
        nets().all(|net| {
            nets().all(|other| other.network() == net.network())
                && ![net.network(), net.broadcast()].contains(&net.ip())
        })
    };
    let prefix = (SHORTEST[usize::from(ipv6)]..bits - 1).rev().find(holds_all);
    let net = prefix.and_then(|prefix| IpNetwork::new(*addresses.first()?, prefix).ok());
    net.filter(|net| !subnets.iter().any(|subnet| overlap(*net, *subnet))).map_or(bits, |net| net.prefix())
}

/// An address by its number in a network.
fn nth(net: IpNetwork, n: u32, prefix: u8) -> Option<IpNetwork> {
    let ip: IpAddr = match net.network() {
        IpAddr::V4(a) => (u32::from(a) + n).to_be_bytes().into(),
        IpAddr::V6(a) => (u128::from(a) + u128::from(n)).to_be_bytes().into(),
    };
    IpNetwork::new(ip, prefix).ok()
}

fn single(ip: IpAddr) -> IpNetwork {
    ip.into()
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

fn any(ipv6: bool) -> IpNetwork {
    let zero: IpAddr = if ipv6 { [0u8; 16].into() } else { [0u8; 4].into() };
    IpNetwork::new(zero, 0).unwrap_or_else(|_| zero.into())
}

/// The first of some networks that overlaps none of the file's, nor an address of a host that it names.
fn free(config: &Config, candidates: &[&str]) -> Option<IpNetwork> {
    let subnets = config.networks.iter().flat_map(|n| &n.subnets).map(|s| s.net);
    let ports = config.containers.iter().flat_map(|c| &c.ports).filter_map(|p| match p.address {
        PortAddress::One(ip) => Some(ip),
        _ => None,
    });
    let hosts = config.hosts.iter().flat_map(|host| host.addresses.iter().copied());
    let used: Vec<IpNetwork> = subnets.chain(ports.chain(hosts).map(single)).collect();
    let parsed = candidates.iter().filter_map(|text| text.parse().ok());
    parsed.into_iter().find(|net: &IpNetwork| !used.iter().any(|used| overlap(*used, *net)))
}

struct Builder {
    state: State,
    owner: Owner,
}

impl Builder {
    fn want(&mut self, key: Key, object: Object) {
        self.state.want(key, object, &self.owner.clone());
    }

    fn name(text: &str) -> InterfaceName {
        text.parse().unwrap_or(InterfaceName::LO)
    }

    /// A device of a machine by its number; `end` tells its ends apart.
    fn device(end: u8, number: u16, link_local: bool) -> Device {
        let [high, low] = number.to_be_bytes();
        Device {
            mac: Mac([2, 0, 0, end, high, low]),
            mtu: MTU,
            up: true,
            link_local,
            promote_secondaries: true,
            no_arp: false,
        }
    }

    fn bridge(&mut self, name: &str) {
        let link = Link {
            kind: LinkKind::Bridge { stp: false },
            device: Self::device(0, 0, false),
            master: None,
            port: None,
            leaving: false,
        };
        self.want(Key::Link { netns: Netns::HOST, name: Self::name(name) }, Object::Link(link));
    }

    fn namespace(&mut self, name: String) {
        let object = Object::Netns(NetnsObject { lo_up: true, lo_bare: false, unbound: false });
        self.want(Key::Netns { netns: Netns::new(name) }, object);
    }

    /// A namespace with an uplink to the underlay, and its addresses.
    fn machine(&mut self, machine: &Machine, number: u16) {
        self.namespace(machine.netns());
        self.plug(machine, uplink(), (UNDERLAY, &format!("to{number}")), [1, 2], number);
        for ip in machine.on_link.into_iter().chain(machine.more.iter().map(|ip| single(*ip))) {
            self.address(machine, uplink(), ip);
        }
    }

    fn address(&mut self, machine: &Machine, link: InterfaceName, ip: IpNetwork) {
        let key = Key::address(Netns::new(machine.netns()), link, ip);
        self.want(key, Object::Address(Address::lasting()));
    }

    /// Joins a machine to a link by a device of a name; the bridge that is the link has a port of its own name for it. The
    /// numbers tell the two ends' Ethernet addresses apart.
    fn plug(
        &mut self,
        machine: &Machine,
        name: InterfaceName,
        (bridge, port): (&str, &str),
        ends: [u8; 2],
        number: u16,
    ) {
        let peer = Peer { netns: Netns::new(machine.netns()), name, device: Self::device(ends[0], number, true) };
        let link = Link {
            kind: LinkKind::Veth { peer },
            device: Self::device(ends[1], number, false),
            master: Some(Self::name(bridge)),
            port: Some(BridgePort::default()),
            leaving: false,
        };
        self.want(Key::Link { netns: Netns::HOST, name: Self::name(port) }, Object::Link(link));
        // Else the kernel looks for others with its link-local address for a second or two, and hands nothing on meanwhile.
        let dad =
            Key::Sysctl { netns: Netns::new(machine.netns()), path: format!("net/ipv6/conf/{name}/accept_dad").into() };
        self.want(dad, Object::Sysctl(Sysctl { value: "0".to_owned() }));
    }

    /// A link that a device of every host's is on, and of the machine outside: which is the router of the networks there,
    /// and where they name none has a route to them all the same.
    fn segment(&mut self, config: &Config, device: InterfaceName, number: u16, machines: &[&Machine]) {
        let bridge = format!("segment{number}");
        self.bridge(&bridge);
        let Some((outside, hosts)) = machines.split_last() else { return };
        let name = Self::name(&bridge);
        for (place, machine) in (1_u16..).zip(machines) {
            let inner = if place as usize > hosts.len() { name } else { device };
            let place = number.wrapping_mul(1024).wrapping_add(place);
            self.plug(machine, inner, (&bridge, &format!("s{place}")), [3, 4], place);
        }
        let on_it = config.networks.iter().filter(|network| network.parent().is_some_and(|p| p.name == device));
        for subnet in on_it.flat_map(|network| &network.subnets) {
            match subnet.gateway.and_then(|ip| IpNetwork::new(ip, subnet.net.prefix()).ok()) {
                Some(ip) => self.address(outside, name, ip),
                None => self
                    .want(Key::route(Netns::new(outside.netns()), subnet.net), Object::Route(Route::new(name, None))),
            }
        }
    }

    /// All machines are on one link: routes to those whose addresses do not tell.
    fn neighbours<'a>(&mut self, machine: &Machine, all: impl Iterator<Item = &'a Machine>) {
        for ip in all.flat_map(Machine::addresses).filter(|ip| !machine.shares_net(*ip)) {
            self.want_route(machine, single(ip), None);
        }
    }

    fn route(&mut self, machine: &Machine, to: IpNetwork, via: IpAddr) {
        self.want_route(machine, to, Some(via));
    }

    fn want_route(&mut self, machine: &Machine, to: IpNetwork, via: Option<IpAddr>) {
        let route = Route {
            onlink: via.is_some_and(|via| !machine.shares_net(via)),
            // Of several addresses the one on the underlay, whatever the kernel would prefer.
            src: Some(machine.addresses()[usize::from(to.is_ipv6())]),
            ..Route::new(uplink(), via)
        };
        let key = Key::route(Netns::new(machine.netns()), to);
        // Of two ways to one address the first holds.
        if self.state.get(&key).is_none() {
            self.want(key, Object::Route(route));
        }
    }

    /// The namespaces that stand in for others'.
    fn stand_ins(&mut self, config: &Config, hosts: &[Machine]) {
        for (host, machine) in hosts.iter().enumerate() {
            for container in config.containers.iter().filter(|c| c.is_on(host)) {
                if container.netns.is_of_others() {
                    self.namespace(stand_in(container, machine.host.as_ref()));
                }
            }
        }
    }
}
