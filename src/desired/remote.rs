//! The remote driver: networks that a plugin of Docker's makes. netrec asks for them, and moves the device that it gets into
//! the container.
//!
//! What the plugin chose is known from the live state alone: until there is some, the device and all that hangs on it are
//! not wanted yet, and a second plan comes after the first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::Build;
use super::container::Member;
use super::shaping::{Limits, Point};
use crate::config::{Network, Port, PortAddress, Subnet};
use crate::state::{
    Answer, Device, Endpoint, Entry, Health, InterfaceName, Key, Link, LinkKind, Netns, Object, Owner, PluginNetwork,
    PluginPort, PluginRoute, PluginSubnet, Route,
};

impl Build<'_> {
    /// The networks of plugins.
    pub(super) fn remotes(&mut self) {
        for network in &self.config.networks {
            let Some(wanted) = self.plugin_network(network) else { continue };
            self.want(network_key(network), Object::Network(wanted), &network.owner);
        }
    }

    fn plugin_network(&self, network: &Network) -> Option<PluginNetwork> {
        let remote = network.remote()?;
        let subnet = |subnet: &Subnet| PluginSubnet {
            subnet: subnet.net,
            range: Some(subnet.range).filter(|range| *range != subnet.net),
            // Who gives addresses chooses the gateway's too.
            gateway: subnet.gateway.filter(|_| subnet.says_gateway || remote.ipam.is_none()),
            says_gateway: subnet.says_gateway,
            reserve: network.reserve.iter().copied().filter(|ip| subnet.net.contains(*ip)).collect(),
        };
        let here = self.whole.map(|whole| whole.here);
        let (own, others): (Vec<_>, Vec<_>) =
            self.config.hosts.iter().enumerate().partition(|(index, _)| Some(*index) == here);
        Some(PluginNetwork {
            plugin: remote.plugin.clone(),
            ipam: remote.ipam.clone(),
            options: remote.options.clone(),
            subnets: network.subnets.iter().map(subnet).collect(),
            hosts: own.into_iter().chain(others).filter_map(|(_, host)| host.vtep()).collect(),
            health: Health::Whole,
        })
    }

    /// A container on a plugin's network. Yields its addresses, once they are known.
    pub(super) fn on_plugins(&mut self, member: Member<'_>, index: usize) -> Option<Vec<IpNetwork>> {
        let (attachment, _) = member.attachment(index);
        let wanted = Self::endpoint(member, index);
        let answer = self.answer(member, index);
        let key = endpoint_key(member, index);
        self.want(key, Object::Endpoint(Endpoint { answer: answer.clone(), ..wanted }), &attachment.owner);
        let Some(answer) = answer else {
            self.out.unanswered = true;
            return None;
        };
        self.plugins_device(member, index, &answer);
        Some(answer.addresses)
    }

    /// What a plugin is asked for.
    fn endpoint(member: Member<'_>, index: usize) -> Endpoint {
        let (attachment, chosen) = member.attachment(index);
        Endpoint {
            netns: member.container.netns.netns().clone(),
            addresses: chosen.addresses.iter().map(|address| address.ip).collect(),
            mac: attachment.mac,
            external: member.container.default_routes.contains(&Some(index)),
            ipv6_elsewhere: matches!(member.container.default_routes, [Some(v4), Some(v6)] if v4 == index && v6 != index),
            ports: member.container.ports.iter().filter(|port| port.plugin == Some(index)).map(plugin_port).collect(),
            health: Health::Whole,
            answer: None,
        }
    }

    /// What it answered to just that.
    pub(super) fn answer(&self, member: Member<'_>, index: usize) -> Option<Answer> {
        let (network, found) = (member.network(index), &self.facts.remote);
        let asked = self.plugin_network(network)?;
        let Some(Entry { object: Object::Network(made), .. }) = found.get(&network_key(network)) else { return None };
        let Some(Entry { object: Object::Endpoint(there), .. }) = found.get(&endpoint_key(member, index)) else {
            return None;
        };
        let same = made.is_asked_as(&asked) && made.health.is_whole();
        let same = same && there.is_asked_as(&Self::endpoint(member, index)) && there.health.is_whole();
        there.answer.clone().filter(|_| same)
    }

    /// The device that a plugin made, in the container.
    fn plugins_device(&mut self, member: Member<'_>, index: usize, answer: &Answer) {
        let ((attachment, chosen), network) = (member.attachment(index), member.network(index));
        let netns = member.container.netns.netns();
        let mtu = network.mtu.unwrap_or(answer.mtu);
        let device = Device {
            mac: answer.mac,
            mtu,
            up: true,
            link_local: answer.addresses.iter().any(IpNetwork::is_ipv6),
            promote_secondaries: true,
            no_arp: answer.no_arp,
        };
        let kind = LinkKind::Plugin { source: answer.device };
        let link = Link { kind, device, master: None, port: None, leaving: false };
        let key = Key::Link { netns: netns.clone(), name: attachment.interface };
        self.want(key, Object::Link(link), &attachment.owner);
        // What it sends comes from the container.
        let point = Point { netns, link: attachment.interface, mtu };
        let limits = Limits { out: attachment.egress, into: attachment.ingress };
        self.shape(point, limits, chosen.shaper, &attachment.owner);
    }

    /// The routes that plugins ask for in a container, after all others: those that cannot be beside them are left out.
    pub(super) fn plugins_routes(&mut self, member: Member<'_>) {
        for index in 0..member.container.attachments.len() {
            let Some(answer) = self.answer(member, index) else { continue };
            let (attachment, _) = member.attachment(index);
            let addresses: Vec<IpNetwork> = self.addresses_of(member).collect();
            for PluginRoute { to, via } in answer.routes.iter().filter(|route| route.to.prefix() > 0) {
                let key = Key::route(member.container.netns.netns().clone(), *to);
                let object = Object::Route(route(attachment.interface, *via, &answer));
                let why = if via.is_some_and(|via| !is_router(via, &answer)) {
                    "it leads to no router"
                } else if addresses.iter().any(|ip| (ip.network(), ip.prefix()) == (to.network(), to.prefix())) {
                    "the container is in that subnet"
                } else if self.out.state.get(&key).is_some_and(|there| there.object != object) {
                    "there is another one to it"
                } else {
                    self.want(key, object, &attachment.owner);
                    continue;
                };
                let text = format!("the plugin's route to {to} for {} is left out: {why}", attachment.owner);
                self.warn("plugin-route", text, Some(&attachment.owner));
            }
        }
    }

    /// All addresses of a container, those that plugins gave among them.
    fn addresses_of<'a>(&'a self, member: Member<'a>) -> impl Iterator<Item = IpNetwork> + 'a {
        (0..member.container.attachments.len()).flat_map(move |index| {
            let (_, chosen) = member.attachment(index);
            let given = self.answer(member, index).map(|answer| answer.addresses).unwrap_or_default();
            chosen.addresses.iter().map(|address| address.ip).chain(given)
        })
    }

    /// The default route of a container by a plugin's network, where the plugin has one.
    pub(super) fn plugins_default_route(&mut self, member: Member<'_>, index: usize, to: IpNetwork) {
        let Some(answer) = self.answer(member, index) else { return };
        let gateway = answer.gateways.iter().copied().find(|gateway| gateway.is_ipv6() == to.is_ipv6());
        if let Some(gateway) = gateway.filter(|gateway| !is_router(*gateway, &answer)) {
            let owner = &member.attachment(index).0.owner;
            let text = format!("the plugin's gateway {gateway} for {owner} is left out: it is no router");
            self.warn("plugin-route", text, Some(owner));
        }
        let gateway = gateway.filter(|gateway| is_router(*gateway, &answer));
        let other = answer.routes.iter().find(|route| route.to == to).map(|route| route.via);
        let other = other.filter(|via| via.is_none_or(|via| is_router(via, &answer)));
        let Some(via) = gateway.map(Some).or(other) else { return };
        let (attachment, _) = member.attachment(index);
        let (netns, owner): (&Netns, &Owner) = (member.container.netns.netns(), &attachment.owner);
        let route = route(attachment.interface, via, &answer);
        self.want(Key::route(netns.clone(), to), Object::Route(route), owner);
    }
}

fn plugin_port(port: &Port) -> PluginPort {
    PluginPort {
        protocol: port.protocol.number(),
        address: match port.address {
            PortAddress::Any => None,
            PortAddress::AnyIpv4 => Some(Ipv4Addr::UNSPECIFIED.into()),
            PortAddress::AnyIpv6 => Some(Ipv6Addr::UNSPECIFIED.into()),
            PortAddress::One(ip) => Some(ip),
        },
        first: (port.host.first, port.container.first),
        count: port.host.last - port.host.first + 1,
    }
}

/// A route by a plugin's device. A router that is in none of the container's subnets is taken to be on the link.
fn route(interface: InterfaceName, via: Option<IpAddr>, answer: &Answer) -> Route {
    let is_near = |via: IpAddr| answer.addresses.iter().any(|address| address.contains(via));
    let link_local = |via: IpAddr| matches!(via, IpAddr::V6(v6) if v6.is_unicast_link_local());
    Route { onlink: via.is_some_and(|via| !is_near(via) && !link_local(via)), ..Route::new(interface, via) }
}

/// Whether the kernel takes an address for a router: one host's, and not the container's own.
fn is_router(via: IpAddr, answer: &Answer) -> bool {
    let nobody = match via {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    let own = answer.addresses.iter().any(|address| address.ip() == via);
    !(nobody || own || via.is_multicast() || via.is_loopback() || via.is_unspecified())
}

fn network_key(network: &Network) -> Key {
    Key::Network { network: name(network.name.as_str()) }
}

fn endpoint_key(member: Member<'_>, index: usize) -> Key {
    Key::Endpoint {
        network: name(member.network(index).name.as_str()),
        container: name(member.container.name.as_str()),
    }
}

fn name(text: &str) -> Arc<str> {
    text.into()
}
