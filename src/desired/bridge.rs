//! The bridge driver: a bridge per network with the gateway's addresses.

use ipnetwork::IpNetwork;

use super::{Build, ChosenNetwork};
use crate::config::{Mode, Network};
use crate::state::{Address, Device, Facts, InterfaceName, Key, Link, LinkKind, Netns, Object};

/// Ethernet's MTU, for hosts without a default route.
const MTU_DEFAULT: u32 = 1500;

impl Build<'_> {
    /// The devices and addresses of every network.
    pub(super) fn bridges(&mut self) {
        let (config, chosen) = (self.config, self.chosen);
        for (network, names) in config.networks.iter().zip(&chosen.networks) {
            self.bridge(network, names);
        }
    }

    fn bridge(&mut self, network: &Network, names: &ChosenNetwork) {
        if network.adopt {
            self.adopted(network, names.bridge);
        } else {
            self.made(network, names);
        }
        for subnet in &network.subnets {
            let Some(ip) = subnet.gateway.and_then(|g| IpNetwork::new(g, subnet.net.prefix()).ok()) else { continue };
            let key = Key::Address { netns: Netns::HOST, link: names.bridge, ip };
            self.want(key, Object::Address(Address::lasting()), &network.owner);
        }
    }

    /// A bridge that somebody else made is used as it is.
    fn adopted(&mut self, network: &Network, bridge: InterfaceName) {
        let why = match self.facts.devices.get(&bridge) {
            None => {
                "which this host does not have: create it first, leave out `adopt` to have netrec make it, or take the network out"
            }
            Some(device) if device.ours => "which netrec made itself: leave out `adopt`",
            Some(device) if !device.bridge => "which is no bridge",
            Some(_) => return,
        };
        let line = self.config.sources.line(&network.place);
        self.refusals.push(format!("network `{}` ({line}) is to use the bridge `{bridge}`, {why}", network.name));
    }

    /// A bridge of netrec's own.
    fn made(&mut self, network: &Network, names: &ChosenNetwork) {
        // An isolated family has no address here, not even a link-local one.
        let ipv6 = network.mode(true).is_some_and(|mode| mode != Mode::Isolated);
        let link = Link {
            kind: LinkKind::Bridge { stp: false },
            device: Device {
                mac: names.mac,
                mtu: mtu(network, names.bridge, self.facts),
                up: true,
                link_local: ipv6,
                promote_secondaries: true,
                no_arp: false,
            },
            master: None,
            port: None,
            leaving: false,
        };
        self.want(Key::Link { netns: Netns::HOST, name: names.bridge }, Object::Link(link), &network.owner);
        let parameter = |family: &str, name: &str| format!("net/{family}/conf/{}/{name}", names.bridge);
        for (ipv6, family) in [(false, "ipv4"), (true, "ipv6")] {
            if network.passes(ipv6) {
                // The host-wide switch sets it for devices that are there; new ones get `conf/default`.
                self.want_sysctl(&Netns::HOST, parameter(family, "forwarding"), "1", &network.owner);
            }
        }
        if self.facts.has_ipv6() {
            // Else a container could make itself the host's IPv6 router (CVE-2020-13401 was that).
            self.want_sysctl(&Netns::HOST, parameter("ipv6", "accept_ra"), "0", &network.owner);
        }
        if ipv6 {
            // The host asks for containers' neighbours from the bridge's link-local address, which duplicate address
            // detection would keep back for a second; its Ethernet address is netrec's own.
            self.want_sysctl(&Netns::HOST, parameter("ipv6", "accept_dad"), "0", &network.owner);
        }
    }
}

/// The MTU of a network's devices, in bytes: the file's, else that of a bridge that is there already, else that of the
/// way out.
pub(super) fn mtu(network: &Network, bridge: InterfaceName, facts: &Facts) -> u32 {
    let adopted = facts.devices.get(&bridge).filter(|_| network.adopt);
    let found = adopted.map(|device| device.mtu).or(facts.uplink.as_ref().map(|uplink| uplink.mtu));
    network.mtu.or(found).unwrap_or(MTU_DEFAULT)
}
