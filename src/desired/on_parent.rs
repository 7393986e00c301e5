//! The macvlan and ipvlan drivers: containers' devices on a device of the host's, and the VLANs below them. The host has no
//! part in such a network: no bridge, no gateway's address, no rules.

use std::net::IpAddr;

use super::Build;
use super::container::Member;
use super::shaping::{Limits, Point};
use crate::config::{Driver, Network, Parent};
use crate::state::facts::HostDevice;
use crate::state::{Device, IPV6_MIN_MTU, InterfaceName, Key, Link, LinkKind, Mac, Netns, Object};

impl Build<'_> {
    /// The devices that containers are to be on: there already, or VLANs to be made.
    pub(super) fn parents(&mut self) {
        for (index, network) in self.config.networks.iter().enumerate() {
            let Some(parent) = network.parent() else { continue };
            // Without a container of this host's nothing is made, and this host need not have the device.
            let mut containers = self.config.containers.iter();
            if !containers.any(|container| container.attachments.iter().any(|a| a.network == index)) {
                continue;
            }
            if let Err(why) = self.usable(network, parent) {
                let line = self.config.sources.line(&network.place);
                let text = format!("network `{}` ({line}) is to be on `{}`, {why}", network.name, parent.name);
                self.refuse([&network.owner], text);
            } else if let Some((below, vid)) = self.vlan_to_make(parent) {
                self.vlan(network, parent.name, below, vid);
            } else if self.facts.devices.get(&parent.name).is_some_and(|device| !device.up) {
                let name = parent.name;
                let text = format!(
                    "{} is on `{name}`, which is down: nothing passes until `ip link set {name} up`",
                    network.owner
                );
                self.warn("device-down", text, Some(&network.owner));
            }
        }
    }

    /// Why containers cannot be on a device.
    fn usable(&self, network: &Network, parent: Parent) -> Result<(), String> {
        let devices = &self.facts.devices;
        if let Some(device) = devices.get(&parent.name).filter(|device| !device.ours) {
            if let Some((below, vid)) = parent.vlan
                && device.vlan != Some((below, vid))
            {
                return Err(format!(
                    "which is there and is not VLAN {vid} of `{below}`: give that device another name, or take the network out"
                ));
            }
            fits(network, device)?;
            return Ok(());
        }
        let Some((below, vid)) = parent.vlan else {
            return Err(match devices.get(&parent.name) {
                Some(_) => "which netrec made itself: name a device that leads outside".into(),
                None => "which this host does not have: create it first, or take the network out".into(),
            });
        };
        match devices.get(&below) {
            None => {
                Err(format!("but this host has no `{below}` for VLAN {vid}: create it first, or take the network out"))
            }
            Some(device) if device.ours => {
                Err(format!("but `{below}` is netrec's own: name a device that leads outside"))
            }
            Some(device) if !device.up => {
                Err(format!("but `{below}` is down: bring it up with `ip link set {below} up`"))
            }
            Some(device) => larger(network, device.mtu),
        }
    }

    /// The device below and the id of a VLAN that is netrec's, where it is one: one that somebody else made is used as it is.
    fn vlan_to_make(&self, parent: Parent) -> Option<(InterfaceName, u16)> {
        parent.vlan.filter(|_| self.facts.devices.get(&parent.name).is_none_or(|device| device.ours))
    }

    /// What is known of the device that containers are on; of a VLAN to be made, what it has from the one below.
    pub(super) fn device_below(&self, parent: Parent) -> Option<&HostDevice> {
        let name = self.vlan_to_make(parent).map_or(parent.name, |(below, _)| below);
        self.facts.devices.get(&name)
    }

    /// A VLAN of netrec's own: a way through the host, which itself has nothing on it.
    fn vlan(&mut self, network: &Network, name: InterfaceName, parent: InterfaceName, vid: u16) {
        let Some((mac, mtu)) = self.facts.devices.get(&parent).map(|device| (device.mac, device.mtu)) else { return };
        let device = device(mac, mtu, false, false);
        let link = Link { kind: LinkKind::Vlan { parent, vid }, device, master: None, port: None, leaving: false };
        self.want(Key::Link { netns: Netns::HOST, name }, Object::Link(link), &network.owner);
        if self.facts.has_ipv6() && mtu >= IPV6_MIN_MTU {
            // Else a router on that VLAN would give the host an address there.
            self.want_sysctl(&Netns::HOST, format!("net/ipv6/conf/{name}/accept_ra"), "0", &network.owner);
        }
    }

    /// A container's device on the network's; says whether there can be one.
    pub(super) fn on_parent(&mut self, member: Member<'_>, index: usize) -> bool {
        let ((attachment, chosen), network) = (member.attachment(index), member.network(index));
        self.leave_the_host_its_addresses(member, index);
        let Some(below) = network.parent().and_then(|parent| self.device_below(parent)) else { return false };
        let (kind, has_link) = match network.driver {
            Driver::Macvlan(parent, mode) => (LinkKind::Macvlan { parent: parent.name, mode }, true),
            Driver::Ipvlan(parent, mode) => (LinkKind::Ipvlan { parent: parent.name, mode }, mode.has_link()),
            _ => return false,
        };
        let (below_mac, shared) = (below.mac, network.shares_mac());
        if !shared && chosen.mac == below_mac {
            self.refuse_mac_below(member, index);
        }
        let mac = if shared { below_mac } else { chosen.mac };
        let device = device(mac, self.mtu(network), member.has_family(index, true), !has_link);
        let link = Link { kind, device, master: None, port: None, leaving: false };
        let key = Key::Link { netns: member.container.netns.netns().clone(), name: attachment.interface };
        self.want(key, Object::Link(link), &attachment.owner);
        // What it sends comes from the container.
        let netns = member.container.netns.netns();
        let point = Point { netns, link: attachment.interface, mtu: self.mtu(network) };
        let limits = Limits { out: attachment.egress, into: attachment.ingress };
        self.shape(point, limits, chosen.shaper, &attachment.owner);
        true
    }
}

impl Build<'_> {
    /// Refuses an address that the host has on the very device: it would be cut off, as its neighbours would find the container.
    fn leave_the_host_its_addresses(&mut self, member: Member<'_>, index: usize) {
        let ((attachment, chosen), network) = (member.attachment(index), member.network(index));
        let Some(parent) = network.parent() else { return };
        let is_given = |ip: IpAddr| chosen.addresses.iter().any(|address| address.ip.ip() == ip);
        let mut of_host = self.facts.addresses.iter().filter(|own| own.link == parent.name).map(|own| own.ip.ip());
        let Some(ip) = of_host.find(|ip| is_given(*ip)) else { return };
        let (container, line) = (member.container, self.config.sources.line(&member.container.place));
        let text = format!(
            "container `{}` ({line}) is to have the address {ip} on network `{}`, which this host has on `{}`: `reserve` it \
             in the network, or give the container another",
            container.name, network.name, parent.name
        );
        self.refuse([&attachment.owner], text);
    }

    /// Refuses the Ethernet address of the very device that a container's is to be on: the kernel would.
    fn refuse_mac_below(&mut self, member: Member<'_>, index: usize) {
        let ((attachment, chosen), network) = (member.attachment(index), member.network(index));
        let Some(parent) = network.parent() else { return };
        let (container, line) = (member.container, self.config.sources.line(&member.container.place));
        let text = format!(
            "container `{}` ({line}) is to have the Ethernet address {} on network `{}`, which is that of `{}` itself: give it \
             another `mac`, or none",
            container.name, chosen.mac, network.name, parent.name
        );
        self.refuse([&attachment.owner], text);
    }
}

/// Why a network cannot be on a device that is there.
fn fits(network: &Network, device: &HostDevice) -> Result<(), String> {
    if let Some(bridge) = device.port_of {
        return Err(format!(
            "which is a port of `{bridge}`, and so hands all its frames to that: name `{bridge}` instead"
        ));
    }
    larger(network, device.mtu)
}

/// Why the MTU of a network does not fit a device.
fn larger(network: &Network, most: u32) -> Result<(), String> {
    match network.mtu {
        Some(mtu) if mtu > most => Err(format!("whose MTU is {most}: the network's cannot be {mtu}")),
        _ => Ok(()),
    }
}

fn device(mac: Mac, mtu: u32, link_local: bool, no_arp: bool) -> Device {
    Device { mac, mtu, up: true, link_local, promote_secondaries: true, no_arp }
}
