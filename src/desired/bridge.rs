//! The bridge driver: a bridge per network with the gateway's addresses.

use ipnetwork::IpNetwork;

use super::{Build, ChosenNetwork, bridge_name};
use crate::config::{Mode, Network};
use crate::state::{Address, Device, IPV6_MIN_MTU, InterfaceName, Key, Link, LinkKind, Netns, Object};

/// Ethernet's MTU, for hosts without a default route.
const MTU_DEFAULT: u32 = 1500;

impl Build<'_> {
    /// The devices and addresses of every network.
    pub(super) fn bridges(&mut self) {
        let (config, chosen) = (self.config, self.chosen);
        for (network, names) in config.networks.iter().zip(&chosen.networks).filter(|(network, _)| network.has_bridge())
        {
            self.bridge(network, names);
        }
    }

    fn bridge(&mut self, network: &Network, names: &ChosenNetwork) {
        if network.adopt {
            self.adopted(network, names.bridge);
        } else {
            self.made(network, names);
        }
        let own = self.whole.and_then(|whole| names.hosts.get(whole.here));
        let mut address = |ip, object| {
            let key = Key::address(Netns::HOST, names.bridge, ip);
            self.want(key, Object::Address(object), &network.owner);
        };
        if network.is_switched() {
            // The gateway's address is on every host. What a host sends is answered to one that is its own.
            let gateways = network.subnets.iter().filter_map(|subnet| subnet.gateway);
            gateways.for_each(|ip| address(ip.into(), Address { deprecated: true, ..Address::lasting() }));
            own.into_iter().flat_map(|own| &own.addresses).for_each(|ip| address(*ip, Address::lasting()));
            return;
        }
        for subnet in &network.subnets {
            if let Some(ip) = subnet.gateway.and_then(|g| IpNetwork::new(g, subnet.net.prefix()).ok()) {
                address(ip, Address::lasting());
            }
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
        let text = format!("network `{}` ({line}) is to use the bridge `{bridge}`, {why}", network.name);
        self.refuse([&network.owner], text);
    }

    /// Whether the kernel has IPv6 on a network's devices, and so its parameters.
    pub(super) fn device_has_ipv6(&self, network: &Network) -> bool {
        self.facts.has_ipv6() && self.mtu(network) >= IPV6_MIN_MTU
    }

    /// The MTU of a network's devices, in bytes: the file's, else that of a bridge that is there already or of the device
    /// that they are on, else that of the way to other hosts, else that of the way out.
    pub(super) fn mtu(&self, network: &Network) -> u32 {
        let adopted = self.facts.devices.get(&bridge_name(network)).filter(|_| network.adopt);
        let found = adopted.map(|device| device.mtu).or(self.facts.uplink.as_ref().map(|uplink| uplink.mtu));
        let found = found.unwrap_or(MTU_DEFAULT);
        let found = network.parent().and_then(|parent| Some(self.device_below(parent)?.mtu)).unwrap_or(found);
        let fits = || network.overlay().map(|overlay| self.overlay_mtu(overlay, found));
        network.mtu.or_else(fits).unwrap_or(found)
    }

    /// A bridge of netrec's own.
    fn made(&mut self, network: &Network, names: &ChosenNetwork) {
        // An isolated family has no address here, not even a link-local one.
        let ipv6 = network.mode(true).is_some_and(|mode| mode != Mode::Isolated);
        let link = Link {
            kind: LinkKind::Bridge { stp: false },
            device: Device {
                mac: names.mac,
                mtu: self.mtu(network),
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
            if network.is_routed_by_host(ipv6) {
                // The host-wide switch sets it for devices that are there; new ones get `conf/default`.
                self.want_sysctl(&Netns::HOST, parameter(family, "forwarding"), "1", &network.owner);
            }
        }
        if self.device_has_ipv6(network) {
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
