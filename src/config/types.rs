//! The checked file: what is here is valid, with every default that the file alone decides filled in.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::render::Painter;
use super::report::Sources;
use super::values;
use crate::state::{self, InterfaceName, IpvlanMode, Mac, MacvlanMode, Membership, Netns, ObjectName, Owner, Rate};

/// Where something stands: a source by its number, and bytes in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into [`Sources`].
    pub source: usize,
    /// Bytes of the source's text.
    pub span: Range<usize>,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The texts it came from, for messages.
    pub sources: Sources,
    /// `[settings]`.
    pub settings: Settings,
    /// `[hosts.*]`, in file order; empty in a file of one host.
    pub hosts: Vec<Host>,
    /// `[cluster]`: hosts that the file does not name.
    pub cluster: Option<Cluster>,
    /// `[networks.*]`, in file order.
    pub networks: Vec<Network>,
    /// `[containers.*]`, in file order.
    pub containers: Vec<Container>,
    /// `expect`: what must be reached and what must not, in file order.
    pub expect: Vec<Expect>,
    /// The sections the file has (`settings`, `hosts`, `networks`, `containers`), each where it first stands.
    pub sections: Vec<(Owner, Place)>,
}

impl Config {
    /// A host's part of the file: its own containers, and of networks in pieces its piece. Lines of `expect` speak of the
    /// whole, and are left out.
    #[must_use]
    pub fn on_host(&self, host: usize) -> Self {
        let networks = |host| self.networks.iter().map(|network| network.on_host(host)).collect();
        Self {
            sources: self.sources.clone(),
            settings: self.settings.clone(),
            hosts: self.hosts.clone(),
            cluster: self.cluster.clone(),
            networks: self.hosts.get(host).map_or_else(Vec::new, networks),
            containers: self.containers.iter().filter(|container| container.is_on(host)).cloned().collect(),
            expect: Vec::new(),
            sections: self.sections.clone(),
        }
    }

    /// The host (by index) that has this name. Of a cluster's members it is the first, whatever it is called.
    pub fn here(&self, name: &str) -> Option<usize> {
        if self.cluster.is_some() {
            return (!self.hosts.is_empty()).then_some(0);
        }
        self.hosts.iter().position(|host| host.name.as_str() == name)
    }

    /// The file with a cluster's members as its hosts, this one first; as it is where it is of no cluster.
    pub fn with_members(&self, members: Option<&Membership>) -> Cow<'_, Self> {
        let Some((cluster, members)) = self.cluster.as_ref().zip(members) else { return Cow::Borrowed(self) };
        let hosts = std::iter::once(&members.own).chain(&members.peers).filter_map(|member| {
            let name = member.address(false)?.to_string();
            Some(Host {
                owner: Owner::new(format!("cluster.\"{name}\"")),
                name: name.parse().ok()?,
                place: cluster.place.clone(),
                share: Share::Leased(member.pieces.clone(), member.macs),
                addresses: member.addresses.clone(),
            })
        });
        let mut config = Self { hosts: hosts.collect(), ..self.clone() };
        // What the file has is this host's.
        config.containers.iter_mut().for_each(|container| container.host = Some(0));
        Cow::Owned(config)
    }

    /// The network of an attachment.
    pub fn network(&self, attachment: &Attachment) -> &Network {
        &self.networks[attachment.network]
    }

    /// What owners build on beside what is above them, as pairs of one and what it needs: attachments on their container
    /// and network, ports on the attachments that they lead to and those that answer, other hosts on the networks that
    /// they share.
    pub fn needs(&self) -> Vec<(&Owner, &Owner)> {
        let mut needs = Vec::new();
        for container in &self.containers {
            for attachment in &container.attachments {
                needs.push((&attachment.owner, &container.owner));
                needs.push((&attachment.owner, &self.network(attachment).owner));
            }
            for port in &container.ports {
                let on = port.targets.iter().chain(&container.default_routes).chain([&port.plugin]).flatten();
                needs.extend(on.map(|index| (&port.owner, &container.attachments[*index].owner)));
            }
        }
        let shared = || self.networks.iter().filter(|network| network.overlay().is_some());
        needs.extend(self.cluster.iter().map(|cluster| (&cluster.owner, &self.networks[cluster.network].owner)));
        needs.extend(self.hosts.iter().flat_map(|host| shared().map(|network| (&host.owner, &network.owner))));
        needs
    }

    /// `netrec.toml:14` for every owner that stands in the file: the sections, networks, containers, attachments and
    /// ports. In the order of the file.
    pub fn places(&self) -> Vec<(Owner, String)> {
        let painter = Painter::new(&self.sources);
        let hosts = self.hosts.iter().map(|h| (&h.owner, &h.place));
        let networks = self.networks.iter().map(|n| (&n.owner, &n.place));
        let containers = self.containers.iter().flat_map(|c| {
            let attachments = c.attachments.iter().map(|a| (&a.owner, &a.place));
            let ports = c.ports.iter().map(|p| (&p.owner, &p.place));
            std::iter::once((&c.owner, &c.place)).chain(attachments).chain(ports)
        });
        let sections = self.sections.iter().map(|(owner, place)| (owner, place));
        let mut all: Vec<_> = sections.chain(hosts).chain(networks).chain(containers).collect();
        all.sort_by_key(|(_, place)| (place.source, place.span.start));
        all.into_iter().map(|(owner, place)| (owner.clone(), painter.file_and_line(place))).collect()
    }
}

/// `[settings]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Turn IP forwarding on when a network needs it.
    pub forwarding: bool,
    /// What to do about a subnet that overlaps what the host has.
    pub overlap: Overlap,
    /// How long to wait for another netrec on this host.
    pub lock_timeout: Duration,
    /// Count the packets and bytes of published ports.
    pub accounting: bool,
}

/// `settings.overlap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// It is an error.
    Refuse,
    /// It is a warning.
    Warn,
}

/// `[hosts.NAME]`.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: ObjectName,
    /// `hosts.NAME`.
    pub owner: Owner,
    /// Its name: in its table's header, where it has one.
    pub place: Place,
    /// Which piece of a network in pieces is its own.
    pub share: Share,
    /// Where the other hosts reach it, one of a family at most, as the file lists them: tunnels end at the first.
    pub addresses: Vec<IpAddr>,
}

/// What a host has of networks in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// In each the piece of this number, 1 to 16777215.
    Number(u32),
    /// In the cluster's what it has leased: its pieces, and the Ethernet addresses of its ends of the tunnels over IPv4 and
    /// over IPv6, where it has said such.
    Leased(Vec<IpNetwork>, [Option<Mac>; 2]),
}

impl Host {
    /// Where tunnels end (VTEP).
    pub fn vtep(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }

    /// Where it is reached by a family.
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ip| ip.is_ipv6() == ipv6)
    }
}

/// `[cluster]`.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// `cluster`.
    pub owner: Owner,
    /// Its name: in its table's header, where it has one.
    pub place: Place,
    /// The network (index into [`Config::networks`]) that its members share.
    pub network: usize,
    /// Where they are known.
    pub known: Arc<state::Cluster>,
}

/// What an overlay network has beside a bridge's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// How its containers' packets get to another host.
    pub topology: Topology,
    /// The VXLAN network identifier, 1 to 16777215; none without a tunnel.
    pub vni: Option<u32>,
    /// The tunnel's UDP port.
    pub port: u16,
    /// The prefix lengths of a host's piece, of IPv4 and IPv6.
    pub host_prefix: [u8; 2],
    /// The device that the tunnel or the routes run over, where the file gives one.
    pub underlay: Option<InterfaceName>,
    /// Whether TCP's segments are kept small enough for the tunnel.
    pub mss_clamp: bool,
}

/// `topology`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One subnet over all hosts, bridged through the tunnel.
    Switched,
    /// A piece of the subnet for each host, routed through the tunnel.
    Routed,
    /// A piece of the subnet for each host, by plain routes over a shared link.
    Direct,
}

impl Topology {
    /// Whether each host has a piece of the subnet.
    pub fn has_pieces(self) -> bool {
        self != Self::Switched
    }

    /// Its name in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Switched => "switched",
            Self::Routed => "routed",
            Self::Direct => "direct",
        }
    }
}

impl Overlay {
    /// The piece of a subnet that is a host's; none where the subnet has fewer pieces.
    pub fn piece(&self, subnet: IpNetwork, id: u32) -> Option<IpNetwork> {
        if !self.topology.has_pieces() {
            return Some(subnet);
        }
        values::piece(subnet, self.host_prefix[usize::from(subnet.is_ipv6())], id)
    }
}

/// `[networks.NAME]`.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its name.
    pub name: ObjectName,
    /// `networks.NAME`.
    pub owner: Owner,
    /// Its name: in its table's header, where it has one.
    pub place: Place,
    /// In file order; at least one where containers have interfaces.
    pub subnets: Vec<Subnet>,
    /// Addresses never given automatically, each within a subnet.
    pub reserve: Vec<IpAddr>,
    /// The bridge's name, where the file gives one.
    pub bridge: Option<InterfaceName>,
    /// In bytes, where the file gives one.
    pub mtu: Option<u32>,
    /// How IPv4 and how IPv6 passes between the network and what is outside of it, where the host has a bridge for it.
    pub modes: [Mode; 2],
    /// Whether its containers may talk to each other.
    pub icc: bool,
    /// Source addresses of what leaves it, instead of those of the device it leaves by; one of a family at most.
    pub snat: Vec<IpAddr>,
    /// Devices of the host from which its containers may be reached directly.
    pub trusted: Vec<InterfaceName>,
    /// Whether the bridge is somebody else's, which is used as it is.
    pub adopt: bool,
    /// What makes it, with what only that has.
    pub driver: Driver,
}

/// What makes a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A bridge of the host, which routes.
    Bridge,
    /// Bridges of several hosts, with tunnels or routes between them.
    Overlay(Overlay),
    /// A device of the host's, on which each container has an Ethernet address of its own.
    Macvlan(Parent, MacvlanMode),
    /// A device of the host's, whose Ethernet address the containers share.
    Ipvlan(Parent, IpvlanMode),
    /// A plugin of Docker's.
    Remote(Remote),
    /// The host's own stack.
    Host,
    /// Nothing: a namespace with `lo` alone.
    Null,
}

impl Driver {
    /// Its name in the file.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Overlay(_) => "overlay",
            Self::Macvlan(..) => "macvlan",
            Self::Ipvlan(..) => "ipvlan",
            Self::Remote(_) => "remote",
            Self::Host => "host",
            Self::Null => "null",
        }
    }
}

/// What a plugin's network has beside subnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The plugin's name, or its socket's path.
    pub plugin: String,
    /// The plugin that gives addresses; none where netrec does.
    pub ipam: Option<String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
}

/// The device that a macvlan or ipvlan network is on: one of the host's, or a VLAN of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parent {
    /// The device as the file has it: `eth0`, or `eth0.10` for a VLAN.
    pub name: InterfaceName,
    /// Of a VLAN, the device below, and its id, 1 to 4094.
    pub vlan: Option<(InterfaceName, u16)>,
}

impl Network {
    /// The network as a host has it: where each has a piece of its subnets, with its piece, whose first address is the
    /// gateway.
    #[must_use]
    pub fn on_host(&self, host: &Host) -> Self {
        let Some(overlay) = self.overlay().filter(|overlay| overlay.topology.has_pieces()) else {
            return self.clone();
        };
        let piece = |subnet: &Subnet| {
            let net = match &host.share {
                Share::Number(id) => overlay.piece(subnet.whole, *id)?,
                Share::Leased(pieces, _) => *pieces.iter().find(|piece| values::within(piece, &subnet.whole))?,
            };
            let gateway = subnet.gateway.map(|_| values::next(net.network()));
            Some(Subnet { net, gateway, says_gateway: false, range: net, whole: subnet.whole })
        };
        Self { subnets: self.subnets.iter().filter_map(piece).collect(), ..self.clone() }
    }

    /// What the overlay driver has more.
    pub fn overlay(&self) -> Option<&Overlay> {
        match &self.driver {
            Driver::Overlay(overlay) => Some(overlay),
            _ => None,
        }
    }

    /// The same, to change it.
    pub(crate) fn overlay_mut(&mut self) -> Option<&mut Overlay> {
        match &mut self.driver {
            Driver::Overlay(overlay) => Some(overlay),
            _ => None,
        }
    }

    /// What makes it, where that is a plugin.
    pub fn remote(&self) -> Option<&Remote> {
        match &self.driver {
            Driver::Remote(remote) => Some(remote),
            _ => None,
        }
    }

    /// Whether a plugin gives its containers their addresses.
    pub fn has_ipam(&self) -> bool {
        self.remote().is_some_and(|remote| remote.ipam.is_some())
    }

    /// Whether the host has a bridge for it, and so is its containers' router, where they have one.
    pub fn has_bridge(&self) -> bool {
        matches!(self.driver, Driver::Bridge | Driver::Overlay(_))
    }

    /// The device of the host's that its containers are on.
    pub fn parent(&self) -> Option<Parent> {
        match self.driver {
            Driver::Macvlan(parent, _) | Driver::Ipvlan(parent, _) => Some(parent),
            _ => None,
        }
    }

    /// Whether its containers have interfaces.
    pub fn has_interfaces(&self) -> bool {
        !matches!(self.driver, Driver::Host | Driver::Null)
    }

    /// Whether its containers have the Ethernet address of the device that they are on.
    pub fn shares_mac(&self) -> bool {
        matches!(self.driver, Driver::Ipvlan(..) | Driver::Macvlan(_, MacvlanMode::Passthru))
    }

    /// Whether its containers reach what is outside without a router: the host's device is one for them.
    pub fn routes_by_device(&self) -> bool {
        matches!(self.driver, Driver::Ipvlan(_, mode) if !mode.has_link())
    }

    /// Whether any subnet is of this family.
    pub fn has_family(&self, ipv6: bool) -> bool {
        self.subnets.iter().any(|s| s.net.is_ipv6() == ipv6)
    }

    /// The mode of a family; none where the network has no subnet of it, or where the host has no part in it.
    pub fn mode(&self, ipv6: bool) -> Option<Mode> {
        (self.has_family(ipv6) && self.has_bridge()).then_some(self.modes[usize::from(ipv6)])
    }

    /// Whether packets of a family pass between the network and what is outside of it.
    pub fn passes(&self, ipv6: bool) -> bool {
        self.mode(ipv6).is_some_and(Mode::passes)
    }

    /// Whether the host routes packets of a family: in and out, or from its piece to others'.
    pub fn is_routed_by_host(&self, ipv6: bool) -> bool {
        self.passes(ipv6) || self.has_family(ipv6) && self.has_pieces()
    }

    /// Whether each host has a piece of its subnets.
    pub fn has_pieces(&self) -> bool {
        self.overlay().is_some_and(|overlay| overlay.topology.has_pieces())
    }

    /// Whether it is bridged between hosts.
    pub fn is_switched(&self) -> bool {
        self.overlay().is_some_and(|overlay| !overlay.topology.has_pieces())
    }

    /// Whether nothing gets in or out, by any family.
    pub fn is_internal(&self) -> bool {
        self.modes == [Mode::Internal; 2]
    }

    /// The source address of what leaves it, where that is not the device's.
    pub fn snat_of(&self, ipv6: bool) -> Option<IpAddr> {
        self.snat.iter().copied().find(|ip| ip.is_ipv6() == ipv6)
    }
}

/// How a network and what is outside of it talk to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By addresses of the host: containers' sources are rewritten on the way out, published ports lead in.
    Nat,
    /// By containers' own addresses.
    Routed,
    /// Not at all, and the host has no address on the network.
    Isolated,
    /// Not at all, but for the host itself, by the gateway's address (`internal = true`).
    Internal,
}

impl Mode {
    /// Whether anything passes.
    pub fn passes(self) -> bool {
        matches!(self, Self::Nat | Self::Routed)
    }

    /// Its name in the file, where it is `mode`'s.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Routed => "routed",
            Self::Isolated => "isolated",
            Self::Internal => "internal",
        }
    }
}

/// One subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its addresses; no host bits are set.
    pub net: IpNetwork,
    /// The bridge's address in it, and the containers' router where anything passes; without a bridge that of a router
    /// outside. None where `gateway = false`, or where the family is isolated.
    pub gateway: Option<IpAddr>,
    /// Whether the file says which the gateway is, or that there is none.
    pub says_gateway: bool,
    /// The part that automatic addresses come from: within `net`, or `net` itself.
    pub range: IpNetwork,
    /// The subnet as the file has it: `net` itself, or in a host's part of the file what `net` is a piece of.
    pub whole: IpNetwork,
}

/// `[containers.NAME]`.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its name.
    pub name: ObjectName,
    /// `containers.NAME`.
    pub owner: Owner,
    /// Its name: in its table's header, where it has one.
    pub place: Place,
    /// The host it lives on (index into [`Config::hosts`]); none where that is every host that reads the file.
    pub host: Option<usize>,
    /// Its namespace.
    pub netns: ContainerNetns,
    /// Its networks, in file order.
    pub attachments: Vec<Attachment>,
    /// Its published ports, in file order.
    pub ports: Vec<Port>,
    /// The attachments (by index) that give the default route of IPv4 and of IPv6: of those whose network has a way out, the
    /// first of the highest priority.
    pub default_routes: [Option<usize>; 2],
    /// `net.*` parameters set inside, as (path below `/proc/sys` with slashes, value), in file order.
    pub sysctls: Vec<(String, String)>,
}

impl Container {
    /// The hosts (by index) that it is on: its own, or every one of the file's; the one there is where it names none.
    pub fn hosts(&self, config: &Config) -> Range<usize> {
        of_hosts(self.host, config.hosts.len())
    }

    /// Whether it has the host's own stack.
    pub fn shares_host(&self) -> bool {
        self.netns == ContainerNetns::Host
    }

    /// Whether it lives on a host (an index into [`Config::hosts`]).
    pub fn is_on(&self, host: usize) -> bool {
        self.host.is_none_or(|own| own == host)
    }
}

/// The hosts that something is on, of as many: its own, else every one.
pub(super) fn of_hosts(own: Option<usize>, count: usize) -> Range<usize> {
    own.map_or(0..count.max(1), |own| own..own + 1)
}

/// `containers.NAME.netns`, or one of the keys that stand for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerNetns {
    /// A name under `/run/netns`: netrec makes it when it is absent, and then removes it too.
    Named(Netns),
    /// An absolute path, which must exist.
    Path(Netns),
    /// The host's own.
    Host,
    /// What somebody else made it for (`docker`, `podman`, `pid`, `machine`, `unit`): it comes and goes with that.
    Source(Netns),
}

impl ContainerNetns {
    /// The namespace as state names it.
    pub fn netns(&self) -> &Netns {
        match self {
            Self::Named(n) | Self::Path(n) | Self::Source(n) => n,
            Self::Host => &Netns::HOST,
        }
    }

    /// Whether others make it, and netrec only uses it.
    pub fn is_of_others(&self) -> bool {
        matches!(self, Self::Path(_) | Self::Source(_))
    }
}

/// One container on one network.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Index into [`Config::networks`].
    pub network: usize,
    /// `containers.NAME.networks.NET`, however the file spells it.
    pub owner: Owner,
    /// Where the network is named.
    pub place: Place,
    /// The addresses the file gives, each within a subnet of the network.
    pub addresses: Vec<IpAddr>,
    /// The Ethernet address, where the file gives one.
    pub mac: Option<Mac>,
    /// The name of the interface inside: the one given, or the first free `ethN`.
    pub interface: InterfaceName,
    /// Of a container's attachments the one with the highest gives the default routes.
    pub priority: i32,
    /// Routes of the container by this attachment, in file order.
    pub routes: Vec<ContainerRoute>,
    /// The most that gets to the container, where the file limits it.
    pub ingress: Option<Rate>,
    /// The most that the container sends, where the file limits it.
    pub egress: Option<Rate>,
    /// Parameters of the interface, as (path below `/proc/sys` with slashes, value), in file order; a part of each path is
    /// [`Attachment::INTERFACE`] in place of the interface's name.
    pub sysctls: Vec<(String, String)>,
}

impl Attachment {
    /// What stands for the name of the interface in parameters.
    pub const INTERFACE: &'static str = "IFNAME";

    /// The parameters of the interface, as (path below `/proc/sys` with slashes, value).
    pub fn parameters(&self) -> impl Iterator<Item = (String, &str)> {
        self.sysctls.iter().map(|(general, value)| {
            let part = |part| if part == Self::INTERFACE { self.interface.as_str() } else { part };
            (general.split('/').map(part).collect::<Vec<_>>().join("/"), value.as_str())
        })
    }
}

/// A route of a container's that the file gives.
#[derive(Clone, Debug)]
pub struct ContainerRoute {
    /// The whole of it.
    pub place: Place,
    /// Where it leads; no host bits are set.
    pub to: IpNetwork,
    /// The router, of the same family; none where packets are lost (`type = "blackhole"`).
    pub via: Option<IpAddr>,
    /// Its metric as the kernel keeps it: of IPv6 never 0.
    pub metric: u32,
}

/// One published port.
#[derive(Clone, Debug)]
pub struct Port {
    /// `containers.NAME.ports[N]`.
    pub owner: Owner,
    /// Its line.
    pub place: Place,
    /// Its place in the container's list.
    pub index: usize,
    /// Which addresses of the host.
    pub address: PortAddress,
    /// The host's ports.
    pub host: PortRange,
    /// The container's ports, as many.
    pub container: PortRange,
    /// The protocol.
    pub protocol: Protocol,
    /// The attachments (by index) whose addresses it leads to, for IPv4 and IPv6; none of a family that it does not
    /// concern.
    pub targets: [Option<usize>; 2],
    /// The attachment whose plugin is told of it, where it leads to none by the host.
    pub plugin: Option<usize>,
    /// Who may use it; everybody where the list is empty.
    pub allow: Vec<IpNetwork>,
}

/// Port numbers in a row, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last; not before the first.
    pub last: u16,
}

impl PortRange {
    /// A single port.
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// All of them, in order.
    pub fn ports(self) -> std::ops::RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Whether a port is among them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// The ports that are of both.
    pub fn overlap(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        (both.first <= both.last).then_some(both)
    }

    /// Whether there is but one.
    pub fn is_one(self) -> bool {
        self.first == self.last
    }
}

impl fmt::Display for PortRange {
    /// As the file has it: `8080`, `8000-8009`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_one() { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl Port {
    /// The container's port that a port of the host's leads to.
    pub fn container_port(&self, host: u16) -> Option<u16> {
        self.host.contains(host).then(|| self.container.first + (host - self.host.first))
    }

    /// Whether it says of an address family which host addresses it concerns.
    pub fn has_family(&self, ipv6: bool) -> bool {
        self.address.has_family(ipv6)
    }
}

impl PortAddress {
    /// Whether it is, or may be, of a family.
    pub fn has_family(self, ipv6: bool) -> bool {
        match self {
            Self::Any => true,
            Self::AnyIpv4 => !ipv6,
            Self::AnyIpv6 => ipv6,
            Self::One(ip) => ip.is_ipv6() == ipv6,
        }
    }
}

/// The host addresses of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortAddress {
    /// Every local address, of both families as far as the container has them.
    Any,
    /// Every local IPv4 address (`0.0.0.0`).
    AnyIpv4,
    /// Every local IPv6 address (`::`).
    AnyIpv6,
    /// This one.
    One(IpAddr),
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `IPPROTO_TCP`
    Tcp,
    /// `IPPROTO_UDP`
    Udp,
    /// `IPPROTO_SCTP`
    Sctp,
}

impl Protocol {
    /// Its number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Its name in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A line of `expect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Its string.
    pub place: Place,
    /// The line as it is written, but with exactly one space on each side of the arrow and none elsewhere.
    pub text: String,
    /// Who asks.
    pub from: Node,
    /// Who is asked.
    pub to: Target,
    /// The port (1 to 65535) and protocol to try; a ping (ICMP or ICMPv6 echo) where there is none.
    pub port: Option<(u16, Protocol)>,
    /// Whether it must answer (`->`) or must not (`-/>`).
    pub reach: bool,
}

/// One of those that `expect` speaks of by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A container: index into [`Config::containers`].
    Container(usize),
    /// A host: index into [`Config::hosts`]. A file without has one all the same, whose index is 0.
    Host(usize),
    /// The world: a machine outside of the hosts.
    World,
}

/// Whom a line of `expect` leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Somebody, by any address that serves.
    Node(Node),
    /// Whoever answers at this address. A loopback one is a host's own, since only hosts have lines to one.
    Address(IpAddr),
}
