//! What reaches what: asked of the rules that each host of a file would have, packet by packet. There is no second statement of
//! what they say.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::Audience;
use crate::config::{Config, Port, PortAddress};
use crate::desired::{DesiredError, desired};
use crate::plan::flows::{Fate, Ruleset};
use crate::state::facts::{Uplink, Way};
use crate::state::{End, Facts, Flow, InterfaceName, Key, Member, Membership, State, facts};

/// `IPPROTO_ICMP`, `IPPROTO_TCP` and `IPPROTO_ICMPV6`
const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
/// `discard` (RFC 863): a port that nobody publishes is as good as any for what is not about ports.
const DISCARD: u16 = 9;
/// The MTU of a device that nothing is known of, in bytes.
const MTU: u32 = 1500;

/// What each host of a file would have, on a machine of which nothing is known.
pub(super) fn states(config: &Config) -> Result<Vec<State>, DesiredError> {
    let facts = facts(config);
    let of = |host: Option<&str>| desired(config, &facts, host).map(|desired| desired.state);
    if config.hosts.is_empty() {
        return Ok(vec![of(None)?]);
    }
    config.hosts.iter().map(|host| of(Some(host.name.as_str()))).collect()
}

/// What a member of a cluster may be, of which the file says no more than that there are such: with the first piece of each subnet.
pub(super) fn member(config: &Config) -> Option<Membership> {
    let network = &config.networks[config.cluster.as_ref()?.network];
    let overlay = network.overlay()?;
    let pieces = network.subnets.iter().filter_map(|subnet| overlay.piece(subnet.whole, 1)).collect();
    let addresses = [false, true].map(|ipv6| outsiders(config, ipv6)[1]).into();
    let own = Member { addresses, pieces, macs: [None; 2] };
    Some(Membership { own, held: true, peers: Vec::new(), away: None, notes: BTreeSet::new() })
}

/// A machine with both families, on one link with its peers.
fn facts(config: &Config) -> Facts {
    let uplink: Option<InterfaceName> = "eth0".parse().ok();
    let peers = config.hosts.iter().flat_map(|host| &host.addresses);
    Facts {
        uplink: uplink.map(|name| Uplink { name, mtu: MTU }),
        sysctls: [facts::IPV4_FORWARDING, facts::IPV6_FORWARDING].map(|path| (path.into(), "1".to_owned())).into(),
        ways: peers.filter_map(|ip| Some((*ip, Way { dev: uplink?, mtu: MTU, via: None }))).collect(),
        ..Facts::default()
    }
}

/// The rules of all hosts, to be asked.
pub(super) struct Reach<'a> {
    hosts: Vec<Side<'a>>,
    /// An address of the world's, by family.
    world: [IpAddr; 2],
}

/// One host.
struct Side<'a> {
    rules: Ruleset<'a>,
    /// Its addresses.
    own: HashSet<IpAddr>,
    /// The one that it is asked at, by family.
    at: [IpAddr; 2],
}

impl<'a> Reach<'a> {
    pub(super) fn of(config: &Config, states: &'a [State]) -> Self {
        let [ipv4, ipv6] = [outsiders(config, false), outsiders(config, true)];
        let ports = || config.containers.iter().flat_map(|container| &container.ports);
        let named = ports().filter_map(|port| match port.address {
            PortAddress::One(ip) => Some(ip),
            _ => None,
        });
        let named: HashSet<IpAddr> = named.chain([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]).collect();
        let side = |(index, state): (usize, &'a State)| {
            let host = config.hosts.get(index);
            let at = [false, true]
                .map(|v6| host.and_then(|host| host.address(v6)).unwrap_or(if v6 { ipv6[1] } else { ipv4[1] }));
            let bridges = state.iter().filter_map(|(key, _)| match key {
                Key::Address { netns, ip, .. } if netns.is_host() => Some(ip.ip()),
                _ => None,
            });
            let own = bridges.chain(at).chain(named.iter().copied()).collect();
            Side { rules: Ruleset::of(state), own, at }
        };
        Self { hosts: states.iter().enumerate().map(side).collect(), world: [ipv4[0], ipv6[0]] }
    }

    /// What becomes of the first packet of a flow that passes a host.
    fn ask(&self, host: usize, protocol: u8, from: IpAddr, to: End) -> Fate {
        let flow = Flow { protocol, from, to, answers: to, answered: false, related: false };
        self.hosts
            .get(host)
            .map_or_else(Fate::default, |side| side.rules.first_packet(&flow, &|ip| side.own.contains(&ip)))
    }

    fn passes(&self, host: usize, protocol: u8, from: IpAddr, to: End) -> bool {
        self.ask(host, protocol, from, to).ways.iter().any(|way| !way.dropped)
    }

    /// Whether a container leaves a host for the world.
    pub(super) fn leaves(&self, host: usize, from: IpAddr) -> bool {
        let to = End { ip: self.world[usize::from(from.is_ipv6())], port: Some(DISCARD) };
        self.passes(host, TCP, from, to)
    }

    /// Whether the world gets an answer to a ping of a container's own address, wherever in the world it asks from.
    pub(super) fn pinged(&self, host: usize, to: IpAddr) -> bool {
        let protocol = if to.is_ipv6() { ICMPV6 } else { ICMP };
        let fate = self.ask(host, protocol, self.world[usize::from(to.is_ipv6())], End { ip: to, port: None });
        !fate.ways.is_empty() && fate.ways.iter().all(|way| !way.dropped)
    }

    /// Whether a container reaches another one of its network, where packets between them pass the host.
    pub(super) fn meets(&self, host: usize, from: IpAddr, to: IpAddr) -> bool {
        self.passes(host, TCP, from, End { ip: to, port: Some(DISCARD) })
    }

    /// Who may use a published port that leads to an address of a container's: by an address of the host's, or where nothing
    /// is translated by the container's own.
    pub(super) fn audience(&self, host: usize, port: &Port, container: IpAddr, translated: bool) -> Audience {
        let family = usize::from(container.is_ipv6());
        let Some(at) = self.hosts.get(host).map(|side| side.at[family]) else { return Audience::Nobody };
        let target = End { ip: container, port: Some(port.container.first) };
        let to = match port.address {
            _ if !translated => target,
            PortAddress::One(ip) => End { ip, port: Some(port.host.first) },
            _ => End { ip: at, port: Some(port.host.first) },
        };
        let reaches = |from: IpAddr| {
            let fate = self.ask(host, port.protocol.number(), from, to);
            let arrives = |end: Option<End>| if translated { end == Some(target) } else { end.is_none() };
            fate.ways.iter().any(|way| !way.dropped && arrives(way.translated))
        };
        let listed = || port.allow.iter().filter(|net| net.is_ipv6() == container.is_ipv6());
        if reaches(self.world[family]) {
            Audience::World
        } else if listed().any(|net| reaches(net.network())) {
            Audience::Listed(listed().copied().collect())
        } else if reaches(if to.ip.is_loopback() { to.ip } else { at }) {
            Audience::Host
        } else {
            Audience::Nobody
        }
    }
}

/// Two addresses that nothing in the file is about, a machine of the world's and one that a host may have: of blocks for
/// documentation (RFC 5737, RFC 3849, RFC 9637).
fn outsiders(config: &Config, ipv6: bool) -> [IpAddr; 2] {
    let blocks: Vec<IpAddr> = if ipv6 {
        [[0x2001, 0xdb8], [0x3fff, 0xfff]].map(|[a, b]| Ipv6Addr::new(a, b, 0xffff, 0, 0, 0, 0, 0).into()).into()
    } else {
        [[203, 0, 113], [198, 51, 100], [192, 0, 2]].map(|[a, b, c]| Ipv4Addr::new(a, b, c, 0).into()).into()
    };
    let at = |block: &IpAddr, last: u8| -> IpAddr {
        match block {
            IpAddr::V4(ip) => (*ip | Ipv4Addr::new(0, 0, 0, last)).into(),
            IpAddr::V6(ip) => (*ip | Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, last.into())).into(),
        }
    };
    let subnets = config.networks.iter().flat_map(|network| &network.subnets).map(|subnet| subnet.whole);
    let ports = || config.containers.iter().flat_map(|container| &container.ports);
    let allowed = ports().flat_map(|port| port.allow.iter().copied());
    let single = config.hosts.iter().flat_map(|host| host.addresses.iter().copied());
    let single = single.chain(ports().filter_map(|port| match port.address {
        PortAddress::One(ip) => Some(ip),
        _ => None,
    }));
    let named: Vec<IpNetwork> =
        subnets.chain(allowed).chain(single.map(IpNetwork::from)).filter(|net| net.prefix() > 0).collect();
    let all = blocks.iter().flat_map(|block| (1..=254).map(move |last| at(block, last)));
    let mut free = all.filter(|ip| !named.iter().any(|net| net.contains(*ip)));
    let fallback = blocks.first().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |block| at(block, 1));
    [free.next().unwrap_or(fallback), free.next().unwrap_or(fallback)]
}
