//! The world of a rehearsal: machines in namespaces on one underlay. It is a desired state like any other, applied by the
//! same code as the file's.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::config::{Config, ContainerNetns, PortAddress};
use crate::state::{
    Address, BridgePort, Device, InterfaceName, Key, Link, LinkKind, Mac, Netns, NetnsObject, Object, Owner, Peer,
    RT_TABLE_MAIN, Route, State,
};

/// No container can be called so: a name begins with a letter or a digit.
pub(super) const HOST: &str = "~host";
/// The machine outside.
pub(super) const WORLD: &str = "~world";

/// Underlay networks: addresses for benchmarks (RFC 2544) and for documentation (RFC 3849), the first that the file does
/// not use.
const IPV4_UNDERLAYS: [&str; 4] = ["198.18.0.0/24", "198.19.255.0/24", "203.0.113.0/24", "192.0.2.0/24"];
const IPV6_UNDERLAYS: [&str; 4] = ["2001:db8:ffff:1::/64", "2001:db8:fffe:1::/64", "2001:db8:1::/64", "fd00:ffff::/64"];

const MTU: u32 = 1500;
const IPV6_METRIC: u32 = 1024;

/// Who is where.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// The host's addresses on the underlay, IPv4 and IPv6.
    pub host: [IpAddr; 2],
    /// The outside's.
    pub outside: [IpAddr; 2],
    /// The state that makes it.
    pub state: State,
}

impl World {
    /// The world of a file. `addresses` are those outside of the file's networks that lines ask for; the world has them.
    pub(super) fn new(config: &Config, addresses: &[IpAddr]) -> Option<Self> {
        let nets = [free(config, &IPV4_UNDERLAYS)?, free(config, &IPV6_UNDERLAYS)?];
        let nth = |net: IpNetwork, n: u8| -> IpAddr {
            match net.network() {
                IpAddr::V4(a) => IpAddr::from((u32::from(a) + u32::from(n)).to_be_bytes()),
                IpAddr::V6(a) => IpAddr::from((u128::from(a) + u128::from(n)).to_be_bytes()),
            }
        };
        let host = nets.map(|net| nth(net, 1));
        let outside = nets.map(|net| nth(net, 254));
        let mut builder = Builder { state: State::new(), owner: Owner::new("rehearsal") };
        builder.bridge();
        builder.machine(HOST, 1);
        builder.machine(WORLD, 2);
        for (i, net) in nets.into_iter().enumerate() {
            builder.address(HOST, host[i], net.prefix());
            builder.address(WORLD, outside[i], net.prefix());
            builder.route(HOST, any(net.is_ipv6()), outside[i]);
        }
        let mut reached_by_host: Vec<IpNetwork> =
            config.networks.iter().flat_map(|n| &n.subnets).map(|s| s.net).collect();
        for port in config.containers.iter().flat_map(|c| &c.ports) {
            // A host address that a port names and this host would not have.
            if let PortAddress::One(ip) = port.address
                && !ip.is_loopback()
            {
                builder.address(HOST, ip, full(ip));
                reached_by_host.extend(IpNetwork::new(ip, full(ip)).ok());
            }
        }
        // Source addresses that what leaves a network is to have.
        for ip in config.networks.iter().flat_map(|n| &n.snat) {
            builder.address(HOST, *ip, full(*ip));
            reached_by_host.extend(IpNetwork::new(*ip, full(*ip)).ok());
        }
        for net in reached_by_host {
            builder.route(WORLD, net, host[usize::from(net.is_ipv6())]);
        }
        for ip in addresses {
            builder.address(WORLD, *ip, full(*ip));
        }
        Some(Self { host, outside, state: builder.state })
    }
}

fn full(ip: IpAddr) -> u8 {
    if ip.is_ipv6() { 128 } else { 32 }
}

fn any(ipv6: bool) -> IpNetwork {
    let zero: IpAddr = if ipv6 { [0u8; 16].into() } else { [0u8; 4].into() };
    IpNetwork::new(zero, 0).unwrap_or_else(|_| zero.into())
}

/// The first of some networks that overlaps none of the file's, nor a host address that it names.
fn free(config: &Config, candidates: &[&str]) -> Option<IpNetwork> {
    let subnets = config.networks.iter().flat_map(|n| &n.subnets).map(|s| s.net);
    let ports = config.containers.iter().flat_map(|c| &c.ports).filter_map(|p| match p.address {
        PortAddress::One(ip) => Some(IpNetwork::from(ip)),
        _ => None,
    });
    let used: Vec<IpNetwork> = subnets.chain(ports).collect();
    candidates.iter().filter_map(|text| text.parse().ok()).find(|net: &IpNetwork| {
        !used.iter().any(|u| u.is_ipv4() == net.is_ipv4() && (u.contains(net.network()) || net.contains(u.network())))
    })
}

/// The namespace that stands in for one that the file takes from elsewhere.
pub(super) fn stand_in(container: &str) -> Netns {
    Netns::new(format!("~{container}"))
}

/// The file as it is rehearsed: namespaces that others would have made are the world's. Names those it did this to.
pub(super) fn with_stand_ins(config: &Config) -> (Config, Vec<String>) {
    let mut config = config.clone();
    let mut stood_in = Vec::new();
    for container in &mut config.containers {
        if let ContainerNetns::Path(path) = &container.netns {
            stood_in.push(format!("namespace {path} of container `{}`", container.name));
            let path = format!("/run/netns/{}", stand_in(container.name.as_str()));
            container.netns = ContainerNetns::Path(Netns::new(path));
        }
    }
    for network in &mut config.networks {
        if std::mem::take(&mut network.adopt) {
            stood_in.push(format!("the bridge that network `{}` adopts", network.name));
        }
        for device in &mut network.trusted {
            stood_in.push(format!("device `{device}` that network `{}` trusts", network.name));
            *device = Builder::name("uplink");
        }
        network.trusted.dedup();
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

    fn device(mac: u8, link_local: bool) -> Device {
        Device {
            mac: Mac([2, 0, 0, 0, 0xff, mac]),
            mtu: MTU,
            up: true,
            link_local,
            promote_secondaries: true,
            no_arp: false,
        }
    }

    fn bridge(&mut self) {
        let link = Link {
            kind: LinkKind::Bridge { stp: false },
            device: Self::device(0, false),
            master: None,
            port: None,
            leaving: false,
        };
        self.want(Key::Link { netns: Netns::HOST, name: Self::name("underlay") }, Object::Link(link));
    }

    /// A namespace with an uplink to the underlay.
    fn machine(&mut self, name: &str, number: u8) {
        let netns = Netns::new(name);
        let object = Object::Netns(NetnsObject { lo_up: true, unbound: false });
        self.want(Key::Netns { netns: netns.clone() }, object);
        let peer = Peer { netns, name: Self::name("uplink"), device: Self::device(number, true) };
        let link = Link {
            kind: LinkKind::Veth { peer },
            device: Self::device(100 + number, false),
            master: Some(Self::name("underlay")),
            port: Some(BridgePort::default()),
            leaving: false,
        };
        self.want(Key::Link { netns: Netns::HOST, name: Self::name(&format!("to{name}")) }, Object::Link(link));
    }

    fn address(&mut self, machine: &str, ip: IpAddr, prefix: u8) {
        let Ok(ip) = IpNetwork::new(ip, prefix) else { return };
        let key = Key::Address { netns: Netns::new(machine), link: Self::name("uplink"), ip };
        self.want(key, Object::Address(Address::lasting()));
    }

    fn route(&mut self, machine: &str, to: IpNetwork, via: IpAddr) {
        let metric = if to.is_ipv6() { IPV6_METRIC } else { 0 };
        let key = Key::Route { netns: Netns::new(machine), table: RT_TABLE_MAIN, to, metric };
        let route = Route::new(Self::name("uplink"), Some(via));
        self.want(key, Object::Route(route));
    }
}

/// Adds the namespaces that stand in for others'.
pub(super) fn add_stand_ins(world: &mut World, config: &Config) {
    for container in &config.containers {
        if let ContainerNetns::Path(_) = &container.netns {
            let netns = stand_in(container.name.as_str());
            let object = Object::Netns(NetnsObject { lo_up: true, unbound: false });
            world.state.want(Key::Netns { netns }, object, &Owner::new("rehearsal"));
        }
    }
}
