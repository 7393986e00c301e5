//! Containers: their namespaces, and for each network a device with addresses and routes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::shaping::{Limits, Point};
use super::{Build, Chosen, ChosenAttachment, Whole};
use crate::config::{Attachment, Config, Container, ContainerNetns, Driver, Mode, Network, Port};
use crate::state::{
    Address, BridgePort, Device, InterfaceName, Key, Link, LinkKind, Netns, NetnsObject, Object, Owner, Peer,
    RT_TABLE_MAIN, Route, WAY_METRIC, facts,
};

/// The switches that have the firewall look at bridged packets, for IPv4 and IPv6.
const BRIDGE_NF: [(bool, &str); 2] = [(false, facts::BRIDGE_NF_IPV4), (true, facts::BRIDGE_NF_IPV6)];

/// A container with what was chosen for its attachments.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    config: &'a Config,
    pub(super) container: &'a Container,
    chosen: &'a [ChosenAttachment],
}

impl<'a> Member<'a> {
    /// The attachment (by index) that gives the default route of a family, and the router: the gateway of the subnet that
    /// the container's first address of the family is in, or none where the device is the router.
    fn default_route(&self, ipv6: bool) -> Option<(usize, Option<IpAddr>)> {
        let index = self.container.default_routes[usize::from(ipv6)]?;
        let network = self.network(index);
        if network.routes_by_device() {
            return Some((index, None));
        }
        // In a rehearsal one that the kernel has not is as good as none.
        if !network.has_interfaces() {
            return None;
        }
        let gateway = self.chosen[index].addresses.iter().filter(|a| a.ip.is_ipv6() == ipv6).find_map(|a| {
            let subnet = network.subnets.iter().find(|s| s.net.contains(a.ip.ip()))?;
            subnet.gateway
        });
        Some((index, Some(gateway?)))
    }

    /// Whether an attachment has an address of a family.
    pub(super) fn has_family(&self, index: usize, ipv6: bool) -> bool {
        self.chosen[index].addresses.iter().any(|a| a.ip.is_ipv6() == ipv6)
    }

    /// An attachment with what was chosen for it.
    pub(super) fn attachment(&self, index: usize) -> (&'a Attachment, &'a ChosenAttachment) {
        (&self.container.attachments[index], &self.chosen[index])
    }

    /// The network of an attachment.
    pub(super) fn network(&self, index: usize) -> &'a Network {
        self.config.network(&self.container.attachments[index])
    }

    /// The attachment (by index), its network and the address that a published port leads to in a family.
    pub(super) fn port_target(&self, port: &Port, ipv6: bool) -> Option<(usize, &'a Network, IpAddr)> {
        let index = port.targets[usize::from(ipv6)]?;
        let address = self.chosen[index].addresses.iter().map(|a| a.ip.ip()).find(|ip| ip.is_ipv6() == ipv6)?;
        Some((index, self.network(index), address))
    }
}

/// The containers of a file, or of a part of it, with what was chosen for them.
fn members<'a>(config: &'a Config, chosen: &'a Chosen) -> impl Iterator<Item = Member<'a>> {
    config.containers.iter().zip(&chosen.containers).map(move |(container, chosen)| Member {
        config,
        container,
        chosen,
    })
}

impl<'a> Whole<'a> {
    /// Every container of another host.
    pub(super) fn elsewhere(self) -> impl Iterator<Item = Member<'a>> {
        members(self.config, self.chosen).filter(move |member| !member.container.is_on(self.here))
    }
}

impl<'a> Build<'a> {
    /// Every container with what was chosen for it.
    pub(super) fn members(&self) -> impl Iterator<Item = Member<'a>> + use<'a> {
        members(self.config, self.chosen)
    }

    /// The objects of every container, the firewall's left out.
    pub(super) fn containers(&mut self) {
        for member in self.members().filter(|member| !member.container.shares_host()) {
            let container = member.container;
            if let ContainerNetns::Named(netns) = &container.netns {
                let object = Object::Netns(NetnsObject { lo_up: true, lo_bare: false, unbound: false });
                self.want(Key::Netns { netns: netns.clone() }, object, &container.owner);
            }
            for index in 0..container.attachments.len() {
                self.attachment(member, index);
            }
            for ipv6 in [false, true] {
                self.default_route(member, ipv6);
            }
            self.plugins_routes(member);
            self.loose_paths(member);
            for (path, value) in &container.sysctls {
                self.want_sysctl(container.netns.netns(), path.as_str(), value, &container.owner);
            }
        }
    }

    fn attachment(&mut self, member: Member<'_>, index: usize) {
        let (attachment, chosen) = (&member.container.attachments[index], &member.chosen[index]);
        let network = &self.config.networks[attachment.network];
        let netns = member.container.netns.netns();
        let mut addresses: Vec<IpNetwork> = chosen.addresses.iter().map(|address| address.ip).collect();
        match &network.driver {
            Driver::Bridge | Driver::Overlay(_) => self.pair(member, index),
            Driver::Macvlan(..) | Driver::Ipvlan(..) => {
                if !self.on_parent(member, index) {
                    return;
                }
            }
            Driver::Remote(_) => match self.on_plugins(member, index) {
                Some(given) => addresses = given,
                None => return,
            },
            Driver::Host | Driver::Null => return,
        }
        let mut first = BTreeSet::new();
        for ip in addresses {
            let key = Key::address(netns.clone(), attachment.interface, ip);
            if chosen.addresses.iter().any(|address| address.automatic && address.ip == ip) {
                self.out.chosen.insert(key.clone());
            }
            let secondary = key.ipv4_subnet().is_some_and(|(_, _, subnet)| !first.insert(subnet));
            self.want(key, Object::Address(Address { secondary, ..Address::lasting() }), &attachment.owner);
        }
        self.ways_to_pieces(network, &attachment.owner, (netns, attachment.interface), chosen);
        let accept_ra = format!("net/ipv6/conf/{}/accept_ra", attachment.interface);
        // The file's own word counts.
        let is_said = attachment.parameters().any(|(path, _)| path == accept_ra)
            || member.container.sysctls.iter().any(|(path, _)| *path == accept_ra);
        if self.device_has_ipv6(network) && !is_said {
            // Else any container of the network could make itself the IPv6 router of the others, on a network without
            // IPv6 too.
            self.want_sysctl(netns, accept_ra, "0", &attachment.owner);
        }
        for (path, value) in attachment.parameters() {
            self.want_sysctl(netns, path, value, &attachment.owner);
        }
        for route in &attachment.routes {
            let key = Key::Route { netns: netns.clone(), table: RT_TABLE_MAIN, to: route.to, metric: route.metric };
            let route = match route.via {
                Some(via) => Route::new(attachment.interface, Some(via)),
                None => Route::blackhole(),
            };
            self.want(key, Object::Route(route), &attachment.owner);
        }
    }

    /// A veth pair: one end on the network's bridge, the other in the container.
    fn pair(&mut self, member: Member<'_>, index: usize) {
        let (attachment, chosen) = (&member.container.attachments[index], &member.chosen[index]);
        let network = &self.config.networks[attachment.network];
        let netns = member.container.netns.netns();
        let ipv6 = member.has_family(index, true);
        let mtu = self.mtu(network);
        let peer = Peer {
            netns: netns.clone(),
            name: attachment.interface,
            device: Device {
                mac: chosen.mac,
                mtu,
                up: true,
                link_local: ipv6,
                promote_secondaries: true,
                no_arp: false,
            },
        };
        let link = Link {
            kind: LinkKind::Veth { peer },
            // A port's own link-local address would only make noise on the bridge.
            device: Device {
                mac: chosen.host_mac,
                mtu,
                up: true,
                link_local: false,
                promote_secondaries: true,
                no_arp: false,
            },
            master: Some(self.chosen.networks[attachment.network].bridge),
            port: Some(BridgePort {
                hairpin: self.needs_hairpin(member, index),
                isolated: self.isolates(network),
                ..BridgePort::default()
            }),
            leaving: false,
        };
        self.want(Key::Link { netns: Netns::HOST, name: chosen.host_end }, Object::Link(link), &attachment.owner);
        // What the host's end sends gets to the container.
        let point = Point { netns: &Netns::HOST, link: chosen.host_end, mtu };
        let limits = Limits { out: attachment.ingress, into: attachment.egress };
        self.shape(point, limits, chosen.shaper, &attachment.owner);
    }

    /// Where each host has a piece of the subnet, the others' are behind the gateway, whatever the default route is.
    fn ways_to_pieces(
        &mut self,
        network: &Network,
        owner: &Owner,
        (netns, interface): (&Netns, InterfaceName),
        chosen: &ChosenAttachment,
    ) {
        for subnet in network.subnets.iter().filter(|subnet| subnet.whole != subnet.net) {
            let is_on = chosen.addresses.iter().any(|address| subnet.net.contains(address.ip.ip()));
            if let Some(gateway) = subnet.gateway.filter(|_| is_on) {
                // Of a metric that no route of the kernel's has: one to the whole subnet may still be there.
                let (netns, to) = (netns.clone(), subnet.whole);
                let key = Key::Route { netns, table: RT_TABLE_MAIN, to, metric: WAY_METRIC };
                self.want(key, Object::Route(Route::new(interface, Some(gateway))), owner);
            }
        }
    }

    /// With br_netfilter a flow that a container sends to its own published port is translated while it is bridged, and
    /// has to leave by the port it came from. Elsewhere the flag would only echo broadcasts.
    fn needs_hairpin(&self, member: Member<'_>, index: usize) -> bool {
        BRIDGE_NF.into_iter().any(|(ipv6, switch)| {
            let mut ports = member.container.ports.iter();
            self.facts.sysctl_on(switch)
                && ports.any(|port| port.targets[usize::from(ipv6)] == Some(index))
                && member.network(index).mode(ipv6) == Some(Mode::Nat)
        })
    }

    /// Whether the bridge itself keeps its ports apart. Where br_netfilter has the firewall look at bridged packets, that
    /// does it, since the kernel would then also take what goes to a neighbour's published port for bridged.
    fn isolates(&self, network: &Network) -> bool {
        // A container may give itself addresses of a family that the network has not.
        let off = |(ipv6, switch): (bool, &str)| (!ipv6 || self.facts.has_ipv6()) && !self.facts.sysctl_on(switch);
        !network.icc && BRIDGE_NF.into_iter().any(off)
    }

    /// What comes to a published port by another network than the default route's is answered by the latter. Where the
    /// kernel drops what arrives by another way than its answer would go (`rp_filter` 1), that takes a looser check (2).
    fn loose_paths(&mut self, member: Member<'_>) {
        let Some(default) = member.container.default_routes[0] else { return };
        for port in &member.container.ports {
            let Some(target) = port.targets[0].filter(|target| *target != default) else { continue };
            let attachment = &member.container.attachments[target];
            let path = format!("net/ipv4/conf/{}/rp_filter", attachment.interface);
            let said = attachment.parameters().find(|(said, _)| *said == path).map(|(_, value)| value.to_owned());
            let said = said.or_else(|| {
                let mut sysctls = member.container.sysctls.iter();
                sysctls.find(|(said, _)| *said == path).map(|(_, value)| value.clone())
            });
            // None at all is loose too.
            if said.as_deref() != Some("0") {
                self.want_sysctl(member.container.netns.netns(), path, "2", &port.owner);
            }
            if !member.network(default).adopt {
                let bridge = self.chosen.networks[member.container.attachments[default].network].bridge;
                self.want_sysctl(&Netns::HOST, format!("net/ipv4/conf/{bridge}/rp_filter"), "2", &port.owner);
            }
        }
    }

    fn default_route(&mut self, member: Member<'_>, ipv6: bool) {
        let Ok(to) = IpNetwork::new(if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }, 0)
        else {
            return;
        };
        let remote = |index: &usize| member.network(*index).remote().is_some();
        if let Some(index) = member.container.default_routes[usize::from(ipv6)].filter(remote) {
            return self.plugins_default_route(member, index, to);
        }
        let Some((index, via)) = member.default_route(ipv6) else { return };
        let attachment = &member.container.attachments[index];
        let key = Key::route(member.container.netns.netns().clone(), to);
        self.want(key, Object::Route(Route::new(attachment.interface, via)), &attachment.owner);
    }
}
