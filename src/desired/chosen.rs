//! Names, Ethernet addresses and IP addresses that the file leaves to netrec. All are functions of the file alone, so
//! that every host and every boot comes to the same ones.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ipnetwork::IpNetwork;

use crate::config::{Attachment, Config, Host, Invalid, Network, Place, Problem, Share};
use crate::state::{InterfaceName, Mac, ObjectName, hash};

/// What was chosen for a whole file, in the order of its networks and of its containers' attachments.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// For each network.
    pub networks: Vec<ChosenNetwork>,
    /// For each container, for each of its attachments.
    pub containers: Vec<Vec<ChosenAttachment>>,
}

/// A network's device.
#[derive(Clone, Debug)]
pub struct ChosenNetwork {
    /// The bridge's name, where the driver has one.
    pub bridge: InterfaceName,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its tunnels: one for all families, or where a cluster's members are known so one for each.
    pub tunnels: Vec<ChosenTunnel>,
    /// Of an overlay network, what each host of the file has of it; else nothing.
    pub hosts: Vec<ChosenHost>,
}

/// A VXLAN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChosenTunnel {
    /// Its name.
    pub device: InterfaceName,
    /// The one family that it carries, by the same family (whether that is IPv6); none where it carries all, by the first of
    /// its ends' addresses.
    pub ipv6: Option<bool>,
}

impl ChosenTunnel {
    /// Whether it carries a family.
    pub fn carries(self, ipv6: bool) -> bool {
        self.ipv6.is_none_or(|own| own == ipv6)
    }

    /// Where it ends at a host.
    pub fn end(self, host: &Host) -> Option<IpAddr> {
        self.ipv6.map_or_else(|| host.vtep(), |ipv6| host.address(ipv6))
    }
}

/// The VXLAN devices of a network. In flannel's format members say where they are reached for each family by itself.
fn tunnels(config: &Config, index: usize, network: &Network) -> Vec<ChosenTunnel> {
    if network.overlay().and_then(|overlay| overlay.vni).is_none() {
        return Vec::new();
    }
    let by_family = config.cluster.as_ref().is_some_and(|cluster| cluster.network == index) && network.has_family(true);
    let tunnel = |prefix, ipv6| ChosenTunnel { device: device_name(prefix, network), ipv6 };
    if by_family { vec![tunnel("vx-", Some(false)), tunnel("v6-", Some(true))] } else { vec![tunnel("vx-", None)] }
}

/// What a host has of an overlay network.
#[derive(Clone, Debug)]
pub struct ChosenHost {
    /// The Ethernet address of its bridge.
    pub bridge_mac: Mac,
    /// The Ethernet addresses of its VXLAN devices, in the order of the tunnels.
    pub vxlan_macs: Vec<Mac>,
    /// Where all hosts share a subnet, and so the gateway's address: an address of its own in each, by which remote
    /// containers answer it.
    pub addresses: Vec<IpNetwork>,
}

/// An attachment's device and addresses.
#[derive(Clone, Debug)]
pub struct ChosenAttachment {
    /// The name of the veth's end in the host, where the driver has such.
    pub host_end: InterfaceName,
    /// The Ethernet address of its end in the container.
    pub mac: Mac,
    /// The Ethernet address of its end in the host.
    pub host_mac: Mac,
    /// The device that what the container sends waits at, where that is limited.
    pub shaper: Option<ChosenShaper>,
    /// The addresses with the prefix lengths of their subnets, those of the file first.
    pub addresses: Vec<ChosenAddress>,
}

/// A device that limits what comes in by another one.
#[derive(Clone, Copy, Debug)]
pub struct ChosenShaper {
    /// Its name.
    pub name: InterfaceName,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// An address of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChosenAddress {
    /// Address and prefix length.
    pub ip: IpNetwork,
    /// Whether it was chosen rather than written in the file.
    pub automatic: bool,
}

impl Chosen {
    /// A host's part, for its part of the file.
    #[must_use]
    pub fn on_host(&self, config: &Config, host: usize) -> Self {
        let network = |network: &ChosenNetwork| {
            let mac = network.hosts.get(host).map_or(network.mac, |own| own.bridge_mac);
            ChosenNetwork { mac, ..network.clone() }
        };
        let containers = config.containers.iter().zip(&self.containers).filter(|(container, _)| container.is_on(host));
        Self {
            networks: self.networks.iter().map(network).collect(),
            containers: containers.map(|(_, chosen)| chosen.clone()).collect(),
        }
    }

    /// Chooses for a whole file. What cannot be chosen (a full range, two devices of one name) is a problem of the file.
    pub fn new(config: &Config) -> Result<Self, Invalid> {
        let mut problems = Vec::new();
        let mut names = Names::of("the host".to_owned());
        let every = 0..config.hosts.len().max(1);
        let mut networks: Vec<ChosenNetwork> = config
            .networks
            .iter()
            .enumerate()
            .map(|(index, network)| {
                let bridge = bridge_name(network);
                let tunnels = tunnels(config, index, network);
                if network.has_bridge() {
                    names.take(every.clone(), bridge, Whose::Bridge(&network.name), &network.place, &mut problems);
                }
                let hosts = config.hosts.iter().filter(|_| network.overlay().is_some()).map(|host| ChosenHost {
                    bridge_mac: Mac::hashed(&format!("{}/{}@bridge", host.name, network.name)),
                    vxlan_macs: tunnels.iter().map(|tunnel| vxlan_mac(host, network, *tunnel)).collect(),
                    addresses: Vec::new(),
                });
                let hosts = hosts.collect();
                for tunnel in &tunnels {
                    names.take(
                        every.clone(),
                        tunnel.device,
                        Whose::Vxlan(&network.name),
                        &network.place,
                        &mut problems,
                    );
                }
                ChosenNetwork { bridge, mac: Mac::hashed(network.name.as_str()), tunnels, hosts }
            })
            .collect();
        let mut addresses = choose_addresses(config, &mut networks, &mut problems);
        let mut containers = Vec::with_capacity(config.containers.len());
        for (c, container) in config.containers.iter().enumerate() {
            let mut attachments = Vec::with_capacity(container.attachments.len());
            let mut inside = Names::of(format!("container `{}`", container.name));
            for attachment in &container.attachments {
                let whose = Whose::Interface(&config.network(attachment).name);
                inside.take(0..1, attachment.interface, whose, &attachment.place, &mut problems);
            }
            for (a, attachment) in container.attachments.iter().enumerate() {
                let network = &config.networks[attachment.network].name;
                let id = format!("{network}/{}", container.name);
                let host_end = InterfaceName::hashed("ve-", &container.name, hash(&id));
                if config.networks[attachment.network].has_bridge() {
                    let (hosts, whose) = (container.hosts(config), Whose::End(&container.name, network));
                    names.take(hosts, host_end, whose, &attachment.place, &mut problems);
                }
                // Of what comes in at the point where traffic is limited: the host's end of a veth, or the device inside.
                let bridged = config.networks[attachment.network].has_bridge();
                let comes_in = if bridged { attachment.egress } else { attachment.ingress };
                let shaper = comes_in.map(|_| ChosenShaper {
                    name: InterfaceName::hashed("if-", &container.name, hash(&id)),
                    mac: Mac::hashed(&format!("{id}@shaper")),
                });
                if let Some(ChosenShaper { name, .. }) = shaper {
                    if bridged {
                        let whose = Whose::Shaper(&container.name, network);
                        names.take(container.hosts(config), name, whose, &attachment.place, &mut problems);
                    } else {
                        inside.take(0..1, name, Whose::InnerShaper(network), &attachment.place, &mut problems);
                    }
                }
                attachments.push(ChosenAttachment {
                    host_end,
                    shaper,
                    mac: attachment.mac.unwrap_or_else(|| Mac::hashed(&id)),
                    host_mac: host_mac(&config.networks[attachment.network], &id),
                    addresses: addresses.remove(&(c, a)).unwrap_or_default(),
                });
            }
            containers.push(attachments);
        }
        let chosen = Self { networks, containers };
        chosen.macs(config, &mut problems);
        chosen.routers(config, &mut problems);
        if problems.is_empty() { Ok(chosen) } else { Err(Invalid::new(config.sources.clone(), problems)) }
    }
}

impl Chosen {
    /// Two on one network with one Ethernet address, given or chosen.
    fn macs(&self, config: &Config, problems: &mut Vec<Problem>) {
        let bridges = config.networks.iter().zip(&self.networks).enumerate().filter(|(_, (n, _))| n.is_switched());
        let bridges = bridges.flat_map(|(network, (_, chosen))| {
            let hosts = config.hosts.iter().zip(&chosen.hosts);
            hosts.map(move |(host, own)| (network, own.bridge_mac, OnNetwork::Host(&host.name), &host.place))
        });
        let containers = config.containers.iter().zip(&self.containers).flat_map(|(container, chosen)| {
            let attachments = container.attachments.iter().zip(chosen);
            let whose = OnNetwork::Container(&container.name);
            attachments.map(move |(attachment, own)| (attachment.network, own.mac, whose, &attachment.place))
        });
        let mut taken: HashMap<(OneLink, Mac), (OnNetwork<'_>, &Place)> = HashMap::new();
        for (network, mac, whose, place) in bridges.chain(containers) {
            let own = &config.networks[network];
            if !own.has_interfaces() || own.shares_mac() {
                continue;
            }
            let link = own.parent().map_or(OneLink::Network(network), |parent| OneLink::Parent(parent.name));
            let Some((other, first)) = taken.insert((link, mac), (whose, place)) else { continue };
            let name = &config.networks[network].name;
            let message = format!("the MAC address `{mac}` is on network `{name}` twice: {other} and {whose}");
            let problem = Problem::new(place.clone(), message).with_label("the second");
            let problem = problem.with_other(first.clone(), "the first");
            problems.push(problem.with_help("give one of them another `mac`"));
        }
    }
}

impl Chosen {
    /// Routes of containers by their own addresses, which the kernel has for no routers.
    fn routers(&self, config: &Config, problems: &mut Vec<Problem>) {
        let containers = config.containers.iter().zip(&self.containers);
        for (container, attachment, own) in containers
            .flat_map(|(container, own)| container.attachments.iter().zip(own).map(move |(a, o)| (container, a, o)))
        {
            let is_own = |via: IpAddr| own.addresses.iter().any(|address| address.ip.ip() == via);
            for (route, via) in attachment.routes.iter().filter_map(|route| Some((route, route.via?))) {
                if is_own(via) {
                    let message = format!("the router `{via}` is container `{}` itself", container.name);
                    let problem = Problem::new(route.place.clone(), message);
                    problems.push(problem.with_help("name the address of another one on the network"));
                }
            }
        }
    }
}

/// Where no two have one Ethernet address.
#[derive(PartialEq, Eq, Hash)]
enum OneLink {
    Network(usize),
    /// Whatever is on one device of the host's.
    Parent(InterfaceName),
}

/// Who has an Ethernet address on a network.
#[derive(Clone, Copy)]
enum OnNetwork<'a> {
    /// The bridge of a host.
    Host(&'a ObjectName),
    /// A container.
    Container(&'a ObjectName),
}

impl fmt::Display for OnNetwork<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(f, "the bridge of host `{name}`"),
            Self::Container(name) => write!(f, "container `{name}`"),
        }
    }
}

/// The bridge of a network: the file's, else `nr-NAME`.
pub fn bridge_name(network: &Network) -> InterfaceName {
    network.bridge.unwrap_or_else(|| device_name("nr-", network))
}

/// The Ethernet address of a host's end of a tunnel: as it says itself, else by its name.
fn vxlan_mac(host: &Host, network: &Network, tunnel: ChosenTunnel) -> Mac {
    let said = match &host.share {
        Share::Leased(_, macs) => macs[usize::from(tunnel.ipv6 == Some(true))],
        Share::Number(_) => None,
    };
    said.unwrap_or_else(|| Mac::hashed(&format!("{}/{}", host.name, network.name)))
}

/// A device named after its network, or where that is too long after the start of it and a hash.
fn device_name(prefix: &str, network: &Network) -> InterfaceName {
    let name = &network.name;
    format!("{prefix}{name}").parse().unwrap_or_else(|_| InterfaceName::hashed(prefix, name, hash(name.as_str())))
}

/// The address of a container's end in the host. A bridge has its lowest port's unless it was given one, and a bridge of
/// somebody else's must not change its own: there it is high, as other programs have it.
fn host_mac(network: &Network, id: &str) -> Mac {
    let mut mac = Mac::hashed(&format!("{id}@host"));
    if network.adopt {
        mac.0[0] = 0xfe;
    }
    mac
}

/// The device names that are taken on each host, or in a container, each with its first user.
struct Names<'a> {
    /// Whose devices they are, in words.
    of: String,
    taken: HashMap<(usize, InterfaceName), (Whose<'a>, &'a Place)>,
}

/// What a device of the host or of a container is.
#[derive(Clone, Copy)]
enum Whose<'a> {
    /// A network's bridge.
    Bridge(&'a ObjectName),
    /// A network's VXLAN device.
    Vxlan(&'a ObjectName),
    /// The host's end of a container on a network.
    End(&'a ObjectName, &'a ObjectName),
    /// The device that limits what a container sends to a network.
    Shaper(&'a ObjectName, &'a ObjectName),
    /// A container's own, on a network.
    Interface(&'a ObjectName),
    /// The device in a container that limits what it gets from a network.
    InnerShaper(&'a ObjectName),
}

impl fmt::Display for Whose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge(network) => write!(f, "the bridge of network `{network}`"),
            Self::Vxlan(network) => write!(f, "the VXLAN device of network `{network}`"),
            Self::End(container, network) => write!(f, "the host's end of `{container}` on network `{network}`"),
            Self::Shaper(container, network) => {
                write!(f, "the device that limits what `{container}` sends to network `{network}`")
            }
            Self::Interface(network) => write!(f, "the interface on network `{network}`"),
            Self::InnerShaper(network) => write!(f, "the device that limits what comes from network `{network}`"),
        }
    }
}

impl<'a> Names<'a> {
    fn of(of: String) -> Self {
        Self { of, taken: HashMap::new() }
    }

    fn take(
        &mut self,
        hosts: Range<usize>,
        name: InterfaceName,
        whose: Whose<'a>,
        place: &'a Place,
        problems: &mut Vec<Problem>,
    ) {
        let taken = hosts.map(|host| match self.taken.entry((host, name)) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(free) => {
                free.insert((whose, place));
                None
            }
        });
        if let Some((first, first_place)) = taken.fold(None, Option::or) {
            problems.push(
                Problem::new(
                    place.clone(),
                    format!("two devices of {} would be called `{name}`: {first} and {whose}", self.of),
                )
                .with_label("the second")
                .with_other(first_place.clone(), "the first")
                .with_help("rename one of them"),
            );
        }
    }
}

/// An address as a number; the families share one arithmetic.
fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn address(number: u128, ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::from(number).into()
    } else {
        #[allow(clippy::cast_possible_truncation)] // made from 32 bits
        Ipv4Addr::from(number as u32).into()
    }
}

/// The part of a range that automatic addresses are counted in: IPv4 without network and broadcast address (prefix at
/// most 30), IPv6 without the all-zeros address (the subnet-router anycast address of RFC 4291, 2.6.1).
struct Pool {
    first: u128,
    count: u128,
    subnet: IpNetwork,
}

impl Pool {
    fn new(subnet: IpNetwork, range: IpNetwork) -> Self {
        let base = number(range.network());
        let bits = if range.is_ipv6() { 128 } else { 32 } - u32::from(range.prefix());
        // 2^128 does not fit: saturating loses one address of ::/0, which is no subnet.
        let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        let (first, count) = match range {
            IpNetwork::V4(_) if range.prefix() <= 30 => (base + 1, size - 2),
            IpNetwork::V6(_) if size > 1 => (base + 1, size - 1),
            _ => (base, size),
        };
        Self { first, count, subnet }
    }
}

/// The addresses of every attachment, by (container, attachment).
fn choose_addresses(
    config: &Config,
    chosen: &mut [ChosenNetwork],
    problems: &mut Vec<Problem>,
) -> BTreeMap<(usize, usize), Vec<ChosenAddress>> {
    let mut result = BTreeMap::new();
    // By network: its attachments, in byte order of their containers' names.
    let mut users: Vec<Vec<(usize, usize)>> = vec![Vec::new(); config.networks.len()];
    for (c, container) in config.containers.iter().enumerate() {
        for (a, attachment) in container.attachments.iter().enumerate() {
            users[attachment.network].push((c, a));
        }
    }
    for ((network, mut users), chosen) in config.networks.iter().zip(users).zip(chosen) {
        users.sort_by(|x, y| config.containers[x.0].name.cmp(&config.containers[y.0].name));
        if network.overlay().is_some_and(|overlay| overlay.topology.has_pieces()) {
            let mut of_hosts: Vec<Vec<(usize, usize)>> = vec![Vec::new(); config.hosts.len()];
            for user in users {
                for own in of_hosts.get_mut(config.containers[user.0].hosts(config)).into_iter().flatten() {
                    own.push(user);
                }
            }
            for (host, own) in config.hosts.iter().zip(of_hosts) {
                in_one_pool(config, &network.on_host(host), &own, &mut result, problems);
            }
            continue;
        }
        let (mut taken, free) = in_one_pool(config, network, &users, &mut result, problems);
        let mut hosts: Vec<_> = config.hosts.iter().zip(&mut chosen.hosts).collect();
        hosts.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        for (host, chosen) in hosts {
            for free in free.iter().filter(|free| has_gateway(network, free.ipv6)) {
                match free.take(hash(&format!("{}/@{}", network.name, host.name)), &mut taken) {
                    Some(ip) => chosen.addresses.push(ip),
                    None => problems.push(full_for_host(network, free.ipv6, host)),
                }
            }
        }
    }
    result
}

/// Chooses for those that share the ranges of a network. Yields what is taken, and where the rest is.
fn in_one_pool(
    config: &Config,
    network: &Network,
    users: &[(usize, usize)],
    result: &mut BTreeMap<(usize, usize), Vec<ChosenAddress>>,
    problems: &mut Vec<Problem>,
) -> (HashSet<IpAddr>, [Free; 2]) {
    let attachment = |(c, a): (usize, usize)| -> &Attachment { &config.containers[c].attachments[a] };
    let mut taken: HashSet<IpAddr> = network.subnets.iter().filter_map(|s| s.gateway).collect();
    taken.extend(&network.reserve);
    for s in &network.subnets {
        // A range may hold the subnet's own network and broadcast address.
        taken.insert(s.net.network());
        if s.net.is_ipv4() && s.net.prefix() <= 30 {
            taken.insert(s.net.broadcast());
        }
    }
    for &user in users {
        let fixed = &attachment(user).addresses;
        taken.extend(fixed);
        result.insert(user, fixed.iter().filter_map(|ip| in_subnet(network, *ip)).collect::<Vec<_>>());
    }
    let pools = |ipv6| {
        let subnets = network.subnets.iter().filter(|s| s.net.is_ipv6() == ipv6);
        Free::new(subnets.map(|s| Pool::new(s.net, s.range)).collect(), ipv6)
    };
    let all = [false, true].map(pools);
    for free in &all {
        let ipv6 = free.ipv6;
        for &user in users {
            let others_choice = free.total == 0 || network.has_ipam();
            if others_choice || attachment(user).addresses.iter().any(|ip| ip.is_ipv6() == ipv6) {
                continue;
            }
            let id = format!("{}/{}", network.name, config.containers[user.0].name);
            match free.take(hash(&id), &mut taken) {
                Some(ip) => result.entry(user).or_default().push(ChosenAddress { ip, automatic: true }),
                None => problems.push(full(network, ipv6, attachment(user))),
            }
        }
    }
    (taken, all)
}

/// Whether a host has addresses of a family on a network.
fn has_gateway(network: &Network, ipv6: bool) -> bool {
    network.subnets.iter().any(|s| s.net.is_ipv6() == ipv6 && s.gateway.is_some())
}

/// An address of the file with the prefix length of its subnet.
fn in_subnet(network: &Network, ip: IpAddr) -> Option<ChosenAddress> {
    let subnet = network.subnets.iter().find(|s| s.net.contains(ip))?;
    let ip = IpNetwork::new(ip, subnet.net.prefix()).ok()?;
    Some(ChosenAddress { ip, automatic: false })
}

fn full(network: &Network, ipv6: bool, attachment: &Attachment) -> Problem {
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    Problem::new(
        attachment.place.clone(),
        format!("network `{}` has no {family} address left for this container", network.name),
    )
    .with_label("needs an address")
    .with_other(network.place.clone(), "the network")
    .with_help("make its `subnet` or `range` larger, or `reserve` fewer addresses")
}

fn full_for_host(network: &Network, ipv6: bool, host: &Host) -> Problem {
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    let message = format!("network `{}` has no {family} address left for this host", network.name);
    Problem::new(host.place.clone(), message)
        .with_label("needs an address of its own")
        .with_other(network.place.clone(), "the network")
        .with_help("make its `subnet` or `range` larger, or `reserve` fewer addresses")
}

/// The pools of one network and family, joined in file order.
struct Free {
    pools: Vec<Pool>,
    total: u128,
    ipv6: bool,
}

impl Free {
    fn new(pools: Vec<Pool>, ipv6: bool) -> Self {
        let total = pools.iter().fold(0u128, |n, p| n.saturating_add(p.count));
        Self { pools, total, ipv6 }
    }

    /// The first free address at or above the hash's place, wrapping around.
    fn take(&self, hash: u64, taken: &mut HashSet<IpAddr>) -> Option<IpNetwork> {
        let start = u128::from(hash) % self.total;
        (0..self.total)
            .filter_map(|step| {
                // Both are below the total, and the sum of two such may not fit in 128 bits.
                let left = self.total - start;
                self.at(if step < left { start + step } else { step - left })
            })
            .find(|ip| taken.insert(ip.ip()))
    }

    fn at(&self, mut offset: u128) -> Option<IpNetwork> {
        for pool in &self.pools {
            if offset < pool.count {
                return IpNetwork::new(address(pool.first + offset, self.ipv6), pool.subnet.prefix()).ok();
            }
            offset -= pool.count;
        }
        None
    }
}
