//! The bridge driver: a bridge per network with the gateway's addresses.

use ipnetwork::IpNetwork;

use super::{Build, ChosenNetwork};
use crate::config::Network;
use crate::state::{Address, Device, Facts, Key, Link, LinkKind, Netns, Object};

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
        let link = Link {
            kind: LinkKind::Bridge { stp: false },
            device: Device {
                mac: names.mac,
                mtu: mtu(network, self.facts),
                up: true,
                link_local: network.has_family(true),
                promote_secondaries: true,
                no_arp: false,
            },
            master: None,
            port: None,
            leaving: false,
        };
        self.want(Key::Link { netns: Netns::HOST, name: names.bridge }, Object::Link(link), &network.owner);
        if network.has_family(true) {
            // The host asks for containers' neighbours from the bridge's link-local address, which duplicate address
            // detection would keep back for a second; its Ethernet address is netrec's own.
            let path = format!("net/ipv6/conf/{}/accept_dad", names.bridge);
            self.want_sysctl(&Netns::HOST, path, "0", &network.owner);
        }
        for subnet in &network.subnets {
            let Some(ip) = subnet.gateway.and_then(|g| IpNetwork::new(g, subnet.net.prefix()).ok()) else { continue };
            let key = Key::Address { netns: Netns::HOST, link: names.bridge, ip };
            self.want(key, Object::Address(Address { permanent: true, no_prefix_route: false }), &network.owner);
        }
    }
}

/// The MTU of a network's devices, in bytes: the file's, else that of the way out.
pub(super) fn mtu(network: &Network, facts: &Facts) -> u32 {
    network.mtu.or(facts.uplink.as_ref().map(|u| u.mtu)).unwrap_or(MTU_DEFAULT)
}
