//! What a desired state sends through the host's hooks: a few flows that stand for all of a network's.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use super::ports;
use crate::state::firewall::Hook;
use crate::state::{Entry, Facts, InterfaceName, Key, Link, LinkKind, Netns, Object, Owner, State, TableFamily, facts};

/// A new flow of a network's that passes a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) way: Way,
    pub(super) bridge: InterfaceName,
    pub(super) owner: Owner,
    /// Devices that a rule has to name to let it pass.
    pub(super) devices: Vec<InterfaceName>,
    /// The device that it comes by, where that is known.
    pub(super) incoming: Option<InterfaceName>,
    /// The device that it leaves by, where that is known.
    pub(super) outgoing: Option<InterfaceName>,
    /// Whether its destination was rewritten.
    pub(super) dnat: bool,
    /// Its family; none of frames that are bridged.
    pub(super) ipv6: Option<bool>,
}

/// Where a flow leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Out,
    In,
    Within,
    ToHost,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Out => "traffic out of",
            Self::In => "published ports into",
            Self::Within => "traffic within",
            Self::ToHost => "traffic to this host from",
        })
    }
}

/// What one network sends in one family.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// The bridge has an address.
    gateway: bool,
    /// A container's default route leads to it.
    world: bool,
    /// A published port leads into it.
    published: bool,
    /// How many addresses of containers are on it.
    members: usize,
}

#[derive(Debug)]
struct Network {
    bridge: InterfaceName,
    owner: Owner,
    /// The host's ends of containers' devices.
    ports: Vec<InterfaceName>,
    /// By family, IPv4 first.
    uses: [Use; 2],
}

/// The networks of a desired state.
#[derive(Debug)]
pub(super) struct Traffic {
    networks: Vec<Network>,
    uplink: Option<InterfaceName>,
    /// Whether bridged packets pass the firewall's hooks, by family.
    bridge_nf: [bool; 2],
}

/// The bridge that a link joins, and the namespace and name of its other end, where it is a container's on a network.
pub(super) fn member(entry: &Entry) -> Option<(InterfaceName, &Netns, InterfaceName)> {
    match &entry.object {
        Object::Link(Link { kind: LinkKind::Veth { peer }, master: Some(bridge), .. }) => {
            Some((*bridge, &peer.netns, peer.name))
        }
        _ => None,
    }
}

impl Traffic {
    pub(super) fn of(desired: &State, facts: &Facts) -> Self {
        let mut networks = Vec::new();
        let mut by_bridge = HashMap::new();
        for (key, entry) in desired {
            let (Key::Link { netns: Netns::HOST, name }, Object::Link(link)) = (key, &entry.object) else { continue };
            if matches!(link.kind, LinkKind::Bridge { .. }) {
                by_bridge.insert(*name, networks.len());
                let owner = entry.owner().cloned().unwrap_or_else(Owner::netrec);
                networks.push(Network { bridge: *name, owner, ports: Vec::new(), uses: Default::default() });
            }
        }
        let mut ends: HashMap<(&Netns, InterfaceName), usize> = HashMap::new();
        for (key, entry) in desired {
            let (Key::Link { name, .. }, Some((bridge, netns, end))) = (key, member(entry)) else { continue };
            if let Some(&network) = by_bridge.get(&bridge) {
                networks[network].ports.push(*name);
                ends.insert((netns, end), network);
            }
        }
        let mut addresses: HashMap<IpAddr, usize> = HashMap::new();
        for (key, entry) in desired {
            match (key, &entry.object) {
                (Key::Address { netns: Netns::HOST, link, ip, .. }, _) => {
                    if let Some(&network) = by_bridge.get(link) {
                        networks[network].uses[usize::from(ip.is_ipv6())].gateway = true;
                    }
                }
                (Key::Address { netns, link, ip, .. }, _) => {
                    if let Some(&network) = ends.get(&(netns, *link)) {
                        networks[network].uses[usize::from(ip.is_ipv6())].members += 1;
                        addresses.insert(ip.ip(), network);
                    }
                }
                (Key::Route { netns, to, .. }, Object::Route(route)) if to.prefix() == 0 => {
                    if let Some(&network) = route.dev.and_then(|dev| ends.get(&(netns, dev))) {
                        networks[network].uses[usize::from(to.is_ipv6())].world = true;
                    }
                }
                _ => {}
            }
        }
        for (_, target, _) in ports(desired) {
            if let Some(&network) = addresses.get(&target) {
                networks[network].uses[usize::from(target.is_ipv6())].published = true;
            }
        }
        let bridge_nf = [facts::BRIDGE_NF_IPV4, facts::BRIDGE_NF_IPV6].map(|path| facts.sysctl_on(path));
        Self { networks, uplink: facts.uplink.as_ref().map(|uplink| uplink.name), bridge_nf }
    }

    /// The flows that pass a hook of a table's family.
    pub(super) fn flows(&self, family: TableFamily, hook: Hook) -> Vec<Flow> {
        let mut flows = Vec::new();
        for network in &self.networks {
            if family == TableFamily::Bridge {
                flows.extend(network.frames(hook));
                continue;
            }
            for ipv6 in [false, true].into_iter().filter(|ipv6| family.has(*ipv6)) {
                self.packets(&mut flows, network, hook, ipv6);
            }
        }
        flows
    }

    fn packets(&self, flows: &mut Vec<Flow>, network: &Network, hook: Hook, ipv6: bool) {
        let of = &network.uses[usize::from(ipv6)];
        let (bridge, uplink) = (Some(network.bridge), self.uplink);
        let mut flow = |way, incoming, outgoing| {
            flows.push(Flow {
                way,
                bridge: network.bridge,
                owner: network.owner.clone(),
                devices: vec![network.bridge],
                incoming,
                outgoing,
                dnat: way == Way::In,
                ipv6: Some(ipv6),
            });
        };
        if hook == Hook::Input {
            if of.gateway && of.members > 0 {
                flow(Way::ToHost, bridge, None);
            }
            return;
        }
        if of.world {
            flow(Way::Out, bridge, uplink);
        }
        if of.published {
            flow(Way::In, uplink, bridge);
        }
        if self.bridge_nf[usize::from(ipv6)] && of.members > 1 {
            flow(Way::Within, bridge, bridge);
        }
    }
}

impl Network {
    /// The frames that pass a hook of the bridge's own; the devices there are the bridge's ports.
    fn frames(&self, hook: Hook) -> Option<Flow> {
        let way = if hook == Hook::Input { Way::ToHost } else { Way::Within };
        let outgoing = if way == Way::Within { Some(*self.ports.get(1)?) } else { None };
        Some(Flow {
            way,
            bridge: self.bridge,
            owner: self.owner.clone(),
            devices: self.ports.clone(),
            incoming: Some(*self.ports.first()?),
            outgoing,
            dnat: false,
            ipv6: None,
        })
    }
}
