//! Which device an address is behind, as far as a state tells.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::state::{InterfaceName, Key, Link, LinkKind, Netns, Object, Route, State};

/// What is known of the device that a packet comes by or leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// None: what the host sends came by no device, and what it takes leaves by none.
    None,
    /// This one.
    Named(InterfaceName),
    /// One that is neither netrec's nor the loopback device.
    World,
    /// Any at all.
    Unknown,
}

/// Where the addresses of a state are.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Containers' addresses, and the bridges that their devices are ports of.
    containers: HashMap<IpAddr, InterfaceName>,
    /// The subnets of the host's addresses on netrec's devices, and those that netrec's routes lead to.
    subnets: HashMap<IpNetwork, InterfaceName>,
    /// The lengths of their prefixes, the longest first.
    prefixes: Vec<u8>,
    /// The host's own addresses on netrec's devices.
    own: HashSet<IpAddr>,
    /// The devices that packets of the world do not come by: netrec's, the bridges they are ports of, and `lo`.
    devices: HashSet<InterfaceName>,
}

impl Places {
    pub(super) fn of(state: &State) -> Self {
        let mut places = Self { devices: HashSet::from([InterfaceName::LO]), ..Self::default() };
        let mut ends: HashMap<(&Netns, InterfaceName), InterfaceName> = HashMap::new();
        // Links come before addresses.
        for (key, entry) in state.iter().filter(|(_, entry)| entry.standing.is_ours()) {
            match (key, &entry.object) {
                (Key::Link { netns, name }, Object::Link(Link { kind, master, .. })) if netns.is_host() => {
                    places.devices.insert(*name);
                    places.devices.extend(master);
                    if let (LinkKind::Veth { peer }, Some(master)) = (kind, master) {
                        ends.insert((&peer.netns, peer.name), *master);
                    }
                }
                (Key::Address { netns, link, ip, .. }, _) if netns.is_host() => {
                    places.devices.insert(*link);
                    places.own.insert(ip.ip());
                    places.subnets.extend(subnet(ip.ip(), ip.prefix()).map(|net| (net, *link)));
                }
                (Key::Route { netns, to, .. }, Object::Route(Route { dev: Some(dev), .. })) if netns.is_host() => {
                    // Containers on another host.
                    places.subnets.insert(*to, *dev);
                }
                (Key::Address { netns, link, ip, .. }, _) => {
                    places.containers.extend(ends.get(&(netns, *link)).map(|bridge| (ip.ip(), *bridge)));
                }
                _ => {}
            }
        }
        let prefixes: BTreeSet<u8> = places.subnets.keys().map(IpNetwork::prefix).collect();
        places.prefixes = prefixes.into_iter().rev().collect();
        places
    }

    /// Whether it is an address of the host's on one of netrec's devices.
    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        self.own.contains(&ip)
    }

    /// Whether this is one of the devices that packets of the world do not come by.
    pub(super) fn is_known(&self, device: InterfaceName) -> bool {
        self.devices.contains(&device)
    }

    /// The device that another machine's or a container's address is behind.
    pub(super) fn device(&self, ip: IpAddr) -> Device {
        if is_ambiguous(ip) {
            return Device::Unknown;
        }
        let by_subnet = || {
            let nets = self.prefixes.iter().filter_map(|prefix| subnet(ip, *prefix));
            nets.into_iter().find_map(|net| self.subnets.get(&net))
        };
        self.containers.get(&ip).or_else(by_subnet).map_or(Device::World, |bridge| Device::Named(*bridge))
    }
}

/// The subnet of an address; none where the prefix is too long for its family.
fn subnet(ip: IpAddr, prefix: u8) -> Option<IpNetwork> {
    let net = IpNetwork::new(ip, prefix).ok()?;
    IpNetwork::new(net.network(), prefix).ok()
}

/// Whether an address can be behind several devices at once.
fn is_ambiguous(ip: IpAddr) -> bool {
    ip.is_unspecified()
        || is_for_many(ip)
        || match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
}

/// Whether several machines take what is sent to it, this one perhaps among them.
pub(super) fn is_for_many(ip: IpAddr) -> bool {
    ip.is_multicast() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}
