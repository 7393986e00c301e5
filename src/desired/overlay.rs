//! The overlay driver: a bridge network whose containers live on several hosts. Every host knows from the file where all
//! others are, so nobody is asked and nothing is flooded.
//!
//! | topology | for each other host | for each container there |
//! |---|---|---|
//! | switched | its bridge is known as a container is | MAC → VTEP in the tunnel's database, MAC → tunnel in the bridge's, a neighbour for each address |
//! | routed | a route to its piece, a neighbour for its router, MAC → VTEP | nothing |
//! | direct | a route to its piece by the host's own address | nothing |

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Build, ChosenNetwork, ChosenTunnel, Whole};
use crate::config::{Host, Network, Overlay, Subnet, Topology};
use crate::state::{
    Address, BridgePort, Device, Fdb, IPV6_MIN_MTU, InterfaceName, Key, Link, LinkKind, Mac, Neighbour, Netns, Object,
    Owner, Route,
};

/// What VXLAN puts before a packet: Ethernet, VXLAN, UDP and the outer IP header (RFC 7348).
const OVERHEAD: [u32; 2] = [50, 70];

/// One that is reached through a switched network's tunnel: a container on another host, or that host itself.
struct Station<'a> {
    owner: &'a Owner,
    mac: Mac,
    addresses: Vec<IpAddr>,
    vtep: IpAddr,
}

impl<'a> Whole<'a> {
    /// The host that this is.
    fn own(&self) -> Option<&'a Host> {
        self.config.hosts.get(self.here)
    }

    /// The other hosts, with their indices.
    pub(super) fn others(self) -> impl Iterator<Item = (usize, &'a Host)> {
        self.config.hosts.iter().enumerate().filter(move |(index, _)| *index != self.here)
    }

    /// All that is reached through the tunnels of switched networks, by network.
    fn stations(self) -> Vec<Vec<Station<'a>>> {
        let (config, chosen) = (self.config, self.chosen);
        let mut all: Vec<Vec<Station>> = Vec::new();
        for (network, chosen) in config.networks.iter().zip(&chosen.networks) {
            let hosts = self.others().filter(|_| network.is_switched()).filter_map(|(index, host)| {
                let own = chosen.hosts.get(index)?;
                let addresses = own.addresses.iter().map(IpNetwork::ip).collect();
                Some(Station { owner: &host.owner, mac: own.bridge_mac, addresses, vtep: host.vtep()? })
            });
            all.push(hosts.collect());
        }
        for (container, chosen) in config.containers.iter().zip(&chosen.containers) {
            let host = container.host.filter(|host| *host != self.here);
            let Some(vtep) = host.and_then(|host| config.hosts[host].vtep()) else { continue };
            for (attachment, chosen) in container.attachments.iter().zip(chosen) {
                if config.network(attachment).is_switched() {
                    let addresses = chosen.addresses.iter().map(|a| a.ip.ip()).collect();
                    let station = Station { owner: &attachment.owner, mac: chosen.mac, addresses, vtep };
                    all[attachment.network].push(station);
                }
            }
        }
        all
    }
}

/// The addresses at which a host is reached for these networks.
fn ends(host: &Host, networks: &[(&Network, &Overlay, &[ChosenTunnel])]) -> BTreeSet<IpAddr> {
    let of = |(network, overlay, tunnels): &(&Network, &Overlay, &[ChosenTunnel])| match overlay.topology {
        Topology::Direct => {
            [false, true].into_iter().filter(|ipv6| network.has_family(*ipv6)).map(|ipv6| host.address(ipv6)).collect()
        }
        Topology::Switched | Topology::Routed => tunnels.iter().map(|tunnel| tunnel.end(host)).collect::<Vec<_>>(),
    };
    networks.iter().flat_map(of).flatten().collect()
}

impl<'a> Build<'a> {
    /// What overlay networks have beside their bridges.
    pub(super) fn overlays(&mut self) {
        let Some(whole) = self.whole else { return };
        let mut overlays = Vec::new();
        let networks = self.config.networks.iter().zip(&self.chosen.networks);
        for ((network, names), stations) in networks.zip(whole.stations()) {
            let Some(overlay) = network.overlay() else { continue };
            overlays.push((network, overlay, &names.tunnels[..]));
            for (index, tunnel) in names.tunnels.iter().enumerate() {
                self.tunnel((network, overlay, names), (index, *tunnel), whole);
            }
            // What is of the subnet and on no host would else leave by the default route.
            for subnet in network.subnets.iter().filter(|subnet| subnet.whole != subnet.net) {
                let key = Key::route(Netns::HOST, subnet.whole);
                self.want(key, Object::Route(Route::unreachable()), &network.owner);
            }
            match overlay.topology {
                Topology::Switched => self.stations(names, stations),
                Topology::Routed => self.routed(network, names, whole),
                Topology::Direct => self.direct(network, overlay, whole),
            }
        }
        self.underlay(&overlays, whole);
    }

    /// The VXLAN device.
    fn tunnel(
        &mut self,
        (network, overlay, names): (&Network, &Overlay, &ChosenNetwork),
        (index, tunnel): (usize, ChosenTunnel),
        whole: Whole<'_>,
    ) {
        let (Some(vni), Some(local)) = (overlay.vni, whole.own().and_then(|own| tunnel.end(own))) else { return };
        let own = names.hosts.get(whole.here).and_then(|own| own.vxlan_macs.get(index));
        let Some(mac) = own.copied() else { return };
        let switched = overlay.topology == Topology::Switched;
        // What the bridge does not know is not behind the tunnel, and what it knows it answers for.
        let port = BridgePort {
            no_learning: true,
            no_flood: true,
            no_mcast_flood: true,
            no_bcast_flood: true,
            neigh_suppress: true,
            ..BridgePort::default()
        };
        let link = Link {
            kind: LinkKind::Vxlan { vni, udp_port: overlay.port, local, underlay: overlay.underlay, learning: false },
            device: Device {
                mac,
                mtu: self.mtu(network),
                up: true,
                link_local: false,
                promote_secondaries: true,
                no_arp: false,
            },
            master: switched.then_some(names.bridge),
            port: switched.then_some(port),
            leaving: false,
        };
        self.want(Key::Link { netns: Netns::HOST, name: tunnel.device }, Object::Link(link), &network.owner);
    }

    /// Everyone behind a switched network's tunnel.
    fn stations(&mut self, names: &ChosenNetwork, stations: Vec<Station<'_>>) {
        let Some(vxlan) = names.tunnels.first().map(|tunnel| tunnel.device) else { return };
        for Station { owner, mac, addresses, vtep } in stations {
            let fdb = |link| Key::Fdb { netns: Netns::HOST, link, mac };
            self.want(fdb(vxlan), Object::Fdb(Fdb::behind(vtep)), owner);
            self.want(fdb(names.bridge), Object::Fdb(Fdb::by(vxlan)), owner);
            for ip in addresses {
                self.neighbour(names.bridge, ip, mac, owner);
            }
        }
    }

    /// The other hosts' pieces, through the tunnel. The device has the gateway's addresses too: what the host itself sends
    /// into the tunnel comes from there.
    fn routed(&mut self, network: &Network, names: &ChosenNetwork, whole: Whole<'_>) {
        for (index, tunnel) in names.tunnels.iter().enumerate() {
            self.routed_by(network, names, (index, *tunnel), whole);
        }
    }

    fn routed_by(
        &mut self,
        network: &Network,
        names: &ChosenNetwork,
        (number, tunnel): (usize, ChosenTunnel),
        whole: Whole<'_>,
    ) {
        let vxlan = tunnel.device;
        let carried = |subnet: &&Subnet| tunnel.carries(subnet.net.is_ipv6());
        for gateway in network.subnets.iter().filter(carried).filter_map(|subnet| subnet.gateway) {
            let key = Key::address(Netns::HOST, vxlan, gateway.into());
            self.want(key, Object::Address(Address::lasting()), &network.owner);
        }
        let parameter = |family: &str, name: &str| format!("net/{family}/conf/{vxlan}/{name}");
        let has = |ipv6: bool| network.has_family(ipv6) && tunnel.carries(ipv6);
        for family in [(false, "ipv4"), (true, "ipv6")].into_iter().filter(|(v6, _)| has(*v6)) {
            self.want_sysctl(&Netns::HOST, parameter(family.1, "forwarding"), "1", &network.owner);
        }
        if self.device_has_ipv6(network) {
            self.want_sysctl(&Netns::HOST, parameter("ipv6", "accept_ra"), "0", &network.owner);
        }
        for (index, host) in whole.others() {
            let mac = names.hosts.get(index).and_then(|chosen| chosen.vxlan_macs.get(number));
            let (Some(vtep), Some(mac)) = (tunnel.end(host), mac.copied()) else { continue };
            let pieces = network.on_host(host).subnets;
            // Of a family that it has nothing of nothing leads to it.
            if !pieces.iter().any(|piece| tunnel.carries(piece.net.is_ipv6())) {
                continue;
            }
            let key = Key::Fdb { netns: Netns::HOST, link: vxlan, mac };
            self.want(key, Object::Fdb(Fdb::behind(vtep)), &host.owner);
            for subnet in pieces.into_iter().filter(|piece| tunnel.carries(piece.net.is_ipv6())) {
                // IPv6's routers may have a link-local address, which is by this device for sure: of another one the kernel
                // looks up by which it is, and refuses the route where that is not this one.
                let router = if subnet.net.is_ipv6() { Some(mac.link_local().into()) } else { subnet.gateway };
                let Some(router) = router else { continue };
                self.neighbour(vxlan, router, mac, &host.owner);
                let route = Route { onlink: router.is_ipv4(), ..Route::new(vxlan, Some(router)) };
                self.route_to(&subnet, route, &host.owner);
            }
        }
    }

    /// The other hosts' pieces, by the hosts' own addresses on a link that all share.
    fn direct(&mut self, network: &Network, overlay: &Overlay, whole: Whole<'_>) {
        for (_, host) in whole.others() {
            for subnet in network.on_host(host).subnets {
                let ipv6 = subnet.net.is_ipv6();
                let Some(via) = host.address(ipv6) else { continue };
                // That there is no way is said once, of all.
                let Some(way) = self.facts.ways.get(&via) else { continue };
                if let Some(router) = way.via {
                    // Who is a member is not the file's to say, and others are served all the same.
                    if self.config.cluster.is_some() {
                        let text = format!(
                            "{} is on no link of this host: {via} is reached by {router}, and network `{}` is `direct`",
                            host.owner, network.name
                        );
                        self.warn("peer-unreachable", text, Some(&host.owner));
                        continue;
                    }
                    let line = self.config.sources.line(&network.place);
                    let text = format!(
                        "network `{}` ({line}) is `direct`, but host `{}` is on no link of this host: {via} is reached by \
                         {router}; use the topology `routed`, which goes through a tunnel",
                        network.name, host.name
                    );
                    self.refuse([&network.owner, &host.owner], text);
                    continue;
                }
                let src = network.subnets.iter().filter_map(|own| own.gateway).find(|own| own.is_ipv6() == ipv6);
                let dev = overlay.underlay.unwrap_or(way.dev);
                self.route_to(&subnet, Route { src, ..Route::new(dev, Some(via)) }, &host.owner);
            }
        }
    }

    fn route_to(&mut self, subnet: &Subnet, route: Route, owner: &Owner) {
        self.want(Key::route(Netns::HOST, subnet.net), Object::Route(route), owner);
    }

    fn neighbour(&mut self, link: InterfaceName, ip: IpAddr, mac: Mac, owner: &Owner) {
        let key = Key::Neighbour { netns: Netns::HOST, link, ip };
        self.want(key, Object::Neighbour(Neighbour { mac }), owner);
    }

    /// What the host lacks for its overlay networks.
    fn underlay(&mut self, networks: &[(&'a Network, &'a Overlay, &'a [ChosenTunnel])], whole: Whole<'a>) {
        let Some(own) = whole.own().filter(|_| !networks.is_empty()) else { return };
        for address in ends(own, networks) {
            if !self.is_own(address) {
                let text = format!("{} is this host, but {address} is no address of it", own.owner);
                self.warn("address-missing", text, Some(&own.owner));
            }
        }
        let others = whole.others().flat_map(|(_, host)| ends(host, networks).into_iter().map(move |ip| (host, ip)));
        let mut lost = others.filter(|(_, address)| !self.facts.ways.contains_key(address));
        if let Some((host, address)) = lost.next() {
            let more = lost.count();
            let more = if more == 0 { String::new() } else { format!(", nor to {more} more") };
            let text = format!("this host has no route to {} at {address}{more}", host.owner);
            self.warn("peer-unreachable", text, Some(&host.owner));
        }
        for (network, overlay, _) in networks {
            self.underlay_of(network, overlay);
        }
    }

    /// The device that a network is to run over is there, and its packets fit.
    fn underlay_of(&mut self, network: &Network, overlay: &Overlay) {
        if let Some(device) = overlay.underlay.filter(|device| !self.facts.devices.contains_key(device)) {
            let text = format!(
                "network `{}` ({}) runs over `{device}`, which is no device of this host: bring it up first, or leave out \
                 `underlay` to follow the routes",
                network.name,
                self.config.sources.line(&network.place)
            );
            self.refuse([&network.owner], text);
        }
        let mtu = self.mtu(network);
        if network.has_family(true) && mtu < IPV6_MIN_MTU {
            let text = format!(
                "network `{}` ({}) would have an MTU of {mtu}, and IPv6 needs {IPV6_MIN_MTU}: the devices between the hosts are \
                 too narrow for it",
                network.name,
                self.config.sources.line(&network.place)
            );
            self.refuse([&network.owner], text);
        }
        if let (Some(given), Some(fits)) = (network.mtu, self.fits(overlay))
            && given > fits
        {
            let text = format!("{} has an MTU of {given}, of which {fits} fit between the hosts", network.owner);
            self.warn("mtu-too-large", text, Some(&network.owner));
        }
    }

    /// The largest packet between containers that gets to every other host whole, in bytes; none where no host is reached.
    fn fits(&self, overlay: &Overlay) -> Option<u32> {
        let underlay = match overlay.underlay {
            Some(device) => self.facts.devices.get(&device)?.mtu,
            None => self.facts.ways.values().map(|way| way.mtu).min()?,
        };
        underlay.checked_sub(self.overhead(overlay))
    }

    /// What the way to other hosts takes of a packet, in bytes.
    fn overhead(&self, overlay: &Overlay) -> u32 {
        let Some(own) = self.whole.and_then(|whole| whole.own()).filter(|_| overlay.vni.is_some()) else { return 0 };
        let networks = self.config.networks.iter().zip(&self.chosen.networks);
        let tunnels =
            networks.filter(|(network, _)| network.overlay() == Some(overlay)).flat_map(|(_, names)| &names.tunnels);
        let ends = tunnels.filter_map(|tunnel| tunnel.end(own));
        ends.map(|end| OVERHEAD[usize::from(end.is_ipv6())]).max().unwrap_or(0)
    }

    /// The MTU of an overlay network's devices where the file gives none: what fits, else what would by a device of that
    /// MTU.
    pub(super) fn overlay_mtu(&self, overlay: &Overlay, otherwise: u32) -> u32 {
        self.fits(overlay).unwrap_or_else(|| otherwise.saturating_sub(self.overhead(overlay)))
    }

    /// The devices by which the other hosts of a `direct` network are reached, and with which of its subnets behind them.
    pub(super) fn shared_links(&self, network: &Network) -> Vec<(InterfaceName, IpNetwork)> {
        let Some((overlay, whole)) = network.overlay().zip(self.whole) else { return Vec::new() };
        if overlay.topology != Topology::Direct {
            return Vec::new();
        }
        let mut links = BTreeSet::new();
        for subnet in &network.subnets {
            let addresses = whole.others().filter_map(|(_, host)| host.address(subnet.net.is_ipv6()));
            let ways = addresses.filter_map(|address| self.facts.ways.get(&address));
            links.extend(ways.map(|way| (overlay.underlay.unwrap_or(way.dev), subnet.whole)));
        }
        links.into_iter().collect()
    }
}
