//! Containers: their namespaces, and for each network a veth pair with addresses and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::bridge::mtu;
use super::{Build, ChosenAttachment};
use crate::config::{Config, Container, ContainerNetns, Port, PortAddress};
use crate::state::{
    Address, BridgePort, Device, Key, Link, LinkKind, Netns, NetnsObject, Object, PROTOCOL, Peer, RT_TABLE_MAIN, Route,
    facts,
};

/// The kernel's default metric of an IPv6 route (`IP6_RT_PRIO_USER`); IPv4's is 0.
const IPV6_METRIC: u32 = 1024;

/// A container with what was chosen for its attachments.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    config: &'a Config,
    pub(super) container: &'a Container,
    chosen: &'a [ChosenAttachment],
}

impl<'a> Member<'a> {
    /// The attachment (by index) that gives the default route of a family, and the router: the first whose network has a
    /// router in a subnet that the container has an address in.
    fn default_route(&self, ipv6: bool) -> Option<(usize, IpAddr)> {
        self.chosen.iter().enumerate().find_map(|(index, chosen)| {
            let network = &self.config.networks[self.container.attachments[index].network];
            chosen.addresses.iter().find_map(|a| {
                let subnet = network.subnets.iter().find(|s| s.net.contains(a.ip.ip()))?;
                Some((index, subnet.gateway.filter(|g| g.is_ipv6() == ipv6)?))
            })
        })
    }

    /// The attachment (by index) and the address that published ports of a family lead to: where the default route is,
    /// or without one the first network that has the family.
    pub(super) fn port_target(&self, ipv6: bool) -> Option<(usize, IpAddr)> {
        let default = self.default_route(ipv6).map(|(index, _)| index);
        self.chosen.iter().enumerate().find_map(|(index, chosen)| {
            let address = chosen.addresses.iter().map(|a| a.ip.ip()).find(|ip| ip.is_ipv6() == ipv6)?;
            default.is_none_or(|d| d == index).then_some((index, address))
        })
    }
}

impl<'a> Build<'a> {
    /// Every container with what was chosen for it.
    pub(super) fn members(&self) -> impl Iterator<Item = Member<'a>> + use<'a> {
        let (config, chosen) = (self.config, self.chosen);
        config.containers.iter().zip(&chosen.containers).map(move |(container, chosen)| Member {
            config,
            container,
            chosen,
        })
    }

    /// The objects of every container, the firewall's left out.
    pub(super) fn containers(&mut self) {
        for member in self.members() {
            let container = member.container;
            if let ContainerNetns::Named(netns) = &container.netns {
                let object = Object::Netns(NetnsObject { lo_up: true, unbound: false });
                self.want(Key::Netns { netns: netns.clone() }, object, &container.owner);
            }
            for index in 0..container.attachments.len() {
                self.attachment(member, index);
            }
            for ipv6 in [false, true] {
                self.default_route(member, ipv6);
            }
            for (path, value) in &container.sysctls {
                self.want_sysctl(container.netns.netns(), path.as_str(), value, &container.owner);
            }
        }
    }

    fn attachment(&mut self, member: Member<'_>, index: usize) {
        let (attachment, chosen) = (&member.container.attachments[index], &member.chosen[index]);
        let network = &self.config.networks[attachment.network];
        let netns = member.container.netns.netns();
        let ipv6 = chosen.addresses.iter().any(|a| a.ip.is_ipv6());
        let mtu = mtu(network, self.facts);
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
            port: Some(BridgePort { hairpin: self.needs_hairpin(member, index), ..BridgePort::default() }),
            leaving: false,
        };
        self.want(Key::Link { netns: Netns::HOST, name: chosen.host_end }, Object::Link(link), &attachment.owner);
        for address in &chosen.addresses {
            let key = Key::Address { netns: netns.clone(), link: attachment.interface, ip: address.ip };
            if address.automatic {
                self.out.chosen.insert(key.clone());
            }
            self.want(key, Object::Address(Address { permanent: true, no_prefix_route: false }), &attachment.owner);
        }
        if self.facts.has_ipv6() {
            // Else any container of the network could make itself the IPv6 router of the others, on a network without
            // IPv6 too.
            let path = format!("net/ipv6/conf/{}/accept_ra", attachment.interface);
            self.want_sysctl(netns, path, "0", &attachment.owner);
        }
    }

    /// With br_netfilter a flow that a container sends to its own published port is translated while it is bridged, and
    /// has to leave by the port it came from. Elsewhere the flag would only echo broadcasts.
    fn needs_hairpin(&self, member: Member<'_>, index: usize) -> bool {
        [(false, facts::BRIDGE_NF_IPV4), (true, facts::BRIDGE_NF_IPV6)].into_iter().any(|(ipv6, switch)| {
            self.facts.sysctl_on(switch)
                && member.container.ports.iter().any(|port| port_has_family(port, ipv6))
                && member.port_target(ipv6).is_some_and(|(target, _)| target == index)
        })
    }

    fn default_route(&mut self, member: Member<'_>, ipv6: bool) {
        let Some((index, via)) = member.default_route(ipv6) else { return };
        let attachment = &member.container.attachments[index];
        let Ok(to) = IpNetwork::new(if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }, 0)
        else {
            return;
        };
        let metric = if ipv6 { IPV6_METRIC } else { 0 };
        let netns = member.container.netns.netns().clone();
        let key = Key::Route { netns, table: RT_TABLE_MAIN, to, metric };
        let route = Route { via: Some(via), dev: Some(attachment.interface), protocol: PROTOCOL };
        self.want(key, Object::Route(route), &attachment.owner);
    }
}

/// Whether a published port concerns a family.
pub(super) fn port_has_family(port: &Port, ipv6: bool) -> bool {
    match port.address {
        PortAddress::Any => true,
        PortAddress::AnyIpv4 => !ipv6,
        PortAddress::AnyIpv6 => ipv6,
        PortAddress::One(ip) => ip.is_ipv6() == ipv6,
    }
}
