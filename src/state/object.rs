//! One thing in the kernel: its identity ([`Key`]) and its attributes ([`Object`]). Desired and live state are both made
//! of these; whatever netrec can want, it can read back.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::{IpNetwork, Ipv4Network};
use serde::{Deserialize, Serialize};

use super::facts;
use super::firewall::{Chain, Concat, Element, Set, Table};
use super::names::{InterfaceName, Mac, Netns};
use super::rate::Rate;
use super::remote::{Endpoint, PluginNetwork};

/// `IFLA_GROUP` of netrec's links and of `lo` in its namespaces.
pub const GROUP: u32 = 20050;
/// `IFLA_GROUP` of netrec's links on their way out; the next run removes what a crash left of them.
pub const GROUP_LEAVING: u32 = 20051;
/// `rtm_protocol` of netrec's routes, `IFA_PROTO` of its addresses and `NDA_PROTOCOL` of its neighbours.
pub const PROTOCOL: u8 = 78;

/// The kinds of objects, in the order in which they are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A network namespace.
    Netns,
    /// A network device; a veth pair is one link with two ends.
    Link,
    /// An address on a device.
    Address,
    /// A route.
    Route,
    /// A permanent neighbour.
    Neighbour,
    /// A permanent entry of a forwarding database.
    Fdb,
    /// A kernel parameter under `/proc/sys/net`.
    Sysctl,
    /// A queueing discipline of a device.
    Qdisc,
    /// The firewall table.
    Table,
    /// A set or map of it.
    Set,
    /// A chain of it, with its rules.
    Chain,
    /// An element of a set or map of it.
    Element,
    /// A network of a plugin's.
    Network,
    /// A container on such a network.
    Endpoint,
}

impl Kind {
    /// The word for it in plans and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Netns => "netns",
            Self::Link => "link",
            Self::Address => "address",
            Self::Route => "route",
            Self::Neighbour => "neighbour",
            Self::Fdb => "fdb",
            Self::Sysctl => "sysctl",
            Self::Qdisc => "qdisc",
            Self::Table => "table",
            Self::Set => "set",
            Self::Chain => "chain",
            Self::Element => "element",
            Self::Network => "network",
            Self::Endpoint => "endpoint",
        }
    }

    /// Whether the kernel stores an owner's name with objects of this kind.
    pub fn is_marked(self) -> bool {
        matches!(self, Self::Netns | Self::Link | Self::Table | Self::Set | Self::Chain | Self::Element)
    }

    /// Whether it is part of the firewall table, and so changed in its one transaction.
    pub fn is_firewall(self) -> bool {
        matches!(self, Self::Table | Self::Set | Self::Chain | Self::Element)
    }

    /// Whether it is a plugin's, and so not the kernel's.
    pub fn is_of_plugin(self) -> bool {
        matches!(self, Self::Network | Self::Endpoint)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What makes an object this one and not another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Key {
    /// A network namespace.
    Netns {
        /// Its name or path.
        netns: Netns,
    },
    /// A device. A veth pair is keyed by the end that lives in the host; what has one end only, by that.
    Link {
        /// Where it is.
        netns: Netns,
        /// Its name.
        name: InterfaceName,
    },
    /// An address. `link` is the device's name in `netns`; a veth's container end has no link key of its own.
    Address {
        /// Where it is.
        netns: Netns,
        /// The device that has it.
        link: InterfaceName,
        /// Address and prefix length (host bits kept).
        ip: IpNetwork,
        /// The other end's address, where the subnet is that one's (`IFA_ADDRESS` beside `IFA_LOCAL`). A device may have the same
        /// IPv4 address several times with different ones.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<IpAddr>,
    },
    /// A route.
    Route {
        /// Where it is.
        netns: Netns,
        /// `rtm_table`; 254 is main.
        table: u32,
        /// The destination.
        to: IpNetwork,
        /// Its priority; IPv6's 0 is stored by the kernel as 1024, and so here.
        metric: u32,
    },
    /// A permanent neighbour, on a link of netrec's in the host. There every one is netrec's.
    Neighbour {
        /// Where it is.
        netns: Netns,
        /// The device it is behind.
        link: InterfaceName,
        /// Its address.
        ip: IpAddr,
    },
    /// A permanent entry of the forwarding database of a link of netrec's in the host, where every one is netrec's but
    /// those that the kernel makes.
    ///
    /// A VXLAN device has a database of its own (`bridge fdb … self`): behind which VTEP a MAC address is. Another is the
    /// bridge's (`bridge fdb … master`): by which of its ports. A MAC address is in each at most once; so the two are told
    /// apart by the device that has the database, and the port is the entry's attribute, which can change in place.
    Fdb {
        /// Where it is.
        netns: Netns,
        /// The device that has the database: a VXLAN device or a bridge.
        link: InterfaceName,
        /// The address that frames are for.
        mac: Mac,
    },
    /// A kernel parameter.
    Sysctl {
        /// Where it is.
        netns: Netns,
        /// The path below `/proc/sys`, with slashes (a device's name may hold a dot): `net/ipv4/ip_forward`.
        path: Arc<str>,
    },
    /// A queueing discipline of a link of netrec's, in any namespace.
    Qdisc {
        /// Where it is.
        netns: Netns,
        /// The device.
        link: InterfaceName,
        /// What it is for.
        hook: Hook,
    },
    /// The firewall table.
    Table,
    /// A set or map of it.
    Set {
        /// Its name.
        name: Arc<str>,
    },
    /// A chain of it.
    Chain {
        /// Its name.
        name: Arc<str>,
    },
    /// An element of a set or map of it.
    Element {
        /// The set's name.
        set: Arc<str>,
        /// The element's key.
        key: Concat,
    },
    /// A network of a plugin's.
    Network {
        /// Its name in the file.
        network: Arc<str>,
    },
    /// A container on a network of a plugin's.
    Endpoint {
        /// The network's name in the file.
        network: Arc<str>,
        /// The container's.
        container: Arc<str>,
    },
}

impl Key {
    /// An address in the subnet that its prefix length says.
    pub fn address(netns: Netns, link: InterfaceName, ip: IpNetwork) -> Self {
        Self::Address { netns, link, ip, peer: None }
    }

    /// A route of the main table with the metric that the kernel gives a family's routes.
    pub fn route(netns: Netns, to: IpNetwork) -> Self {
        Self::Route { netns, table: RT_TABLE_MAIN, to, metric: usual_metric(to) }
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Netns { .. } => Kind::Netns,
            Self::Link { .. } => Kind::Link,
            Self::Address { .. } => Kind::Address,
            Self::Route { .. } => Kind::Route,
            Self::Neighbour { .. } => Kind::Neighbour,
            Self::Fdb { .. } => Kind::Fdb,
            Self::Sysctl { .. } => Kind::Sysctl,
            Self::Qdisc { .. } => Kind::Qdisc,
            Self::Table => Kind::Table,
            Self::Set { .. } => Kind::Set,
            Self::Chain { .. } => Kind::Chain,
            Self::Element { .. } => Kind::Element,
            Self::Network { .. } => Kind::Network,
            Self::Endpoint { .. } => Kind::Endpoint,
        }
    }

    /// The network of a plugin's that it is, or is on.
    pub fn plugin_network(&self) -> Option<&Arc<str>> {
        match self {
            Self::Network { network } | Self::Endpoint { network, .. } => Some(network),
            _ => None,
        }
    }

    /// The subnet of an IPv4 address on a device, of whose addresses there the kernel sends from the first.
    pub fn ipv4_subnet(&self) -> Option<(&Netns, InterfaceName, Ipv4Network)> {
        match self {
            Self::Address { netns, link, ip: IpNetwork::V4(ip), peer } => {
                let of = if let Some(IpAddr::V4(peer)) = peer { *peer } else { ip.ip() };
                let subnet = Ipv4Network::new(of, ip.prefix()).ok()?;
                Some((netns, *link, Ipv4Network::new(subnet.network(), ip.prefix()).ok()?))
            }
            _ => None,
        }
    }

    /// The namespace it is in. A namespace is in the host, and so are the firewall and what plugins know of.
    pub fn netns(&self) -> &Netns {
        match self {
            Self::Link { netns, .. }
            | Self::Address { netns, .. }
            | Self::Route { netns, .. }
            | Self::Neighbour { netns, .. }
            | Self::Fdb { netns, .. }
            | Self::Qdisc { netns, .. }
            | Self::Sysctl { netns, .. } => netns,
            _ => &Netns::HOST,
        }
    }

    /// The name of an object among those of its kind and namespace.
    pub fn name(&self) -> String {
        match self {
            Self::Netns { netns } => netns.to_string(),
            Self::Link { name, .. } => name.to_string(),
            Self::Address { link, ip, peer: Some(peer), .. } => format!("{ip} peer {peer} dev {link}"),
            Self::Address { link, ip, .. } => format!("{ip} dev {link}"),
            Self::Route { table, to, metric, .. } => {
                let mut text = if to.prefix() == 0 {
                    match to {
                        IpNetwork::V4(_) => "default".to_owned(),
                        IpNetwork::V6(_) => "default (ipv6)".to_owned(),
                    }
                } else {
                    to.to_string()
                };
                if *metric != usual_metric(*to) {
                    text += &format!(" metric {metric}");
                }
                if *table != RT_TABLE_MAIN {
                    text += &format!(" table {table}");
                }
                text
            }
            Self::Neighbour { link, ip, .. } => format!("{ip} dev {link}"),
            Self::Fdb { link, mac, .. } => format!("{mac} dev {link}"),
            Self::Sysctl { path, .. } => path.to_string(),
            Self::Qdisc { link, hook, .. } => format!("{hook} dev {link}"),
            Self::Table => format!("inet {}", super::firewall::TABLE),
            Self::Set { name } | Self::Chain { name } => name.to_string(),
            Self::Element { set, key } => format!("{set} {{ {key} }}"),
            Self::Network { network } => network.to_string(),
            Self::Endpoint { network, container } => format!("{container} on {network}"),
        }
    }
}

/// The two places of a device that queueing disciplines are for, in the words of tc(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// What leaves by the device.
    Root,
    /// What comes in by it.
    Ingress,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Ingress => "ingress",
        })
    }
}

/// The kernel's default metric of routes: of IPv6 `IP6_RT_PRIO_USER`.
pub fn usual_metric(to: IpNetwork) -> u32 {
    if to.is_ipv4() { 0 } else { 1024 }
}

/// The metric of the routes that the kernel makes along with IPv6 addresses (`IP6_RT_PRIO_ADDRCONF`); IPv4's is 0.
pub const IP6_RT_PRIO_ADDRCONF: u32 = 256;

/// The metric of containers' routes to other hosts' pieces: none that a route of the kernel's has.
pub const WAY_METRIC: u32 = 1024;

/// `RT_TABLE_MAIN`.
pub const RT_TABLE_MAIN: u32 = 254;

impl fmt::Display for Key {
    /// `address 10.20.0.1/24 dev nr-front`, followed by ` in web` where it is not the host's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())?;
        if !self.netns().is_host() {
            write!(f, " in {}", self.netns())?;
        }
        Ok(())
    }
}

/// The attributes of an object; which one is given by its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Object {
    /// A network namespace.
    Netns(NetnsObject),
    /// A device.
    Link(Link),
    /// An address.
    Address(Address),
    /// A route.
    Route(Route),
    /// A neighbour.
    Neighbour(Neighbour),
    /// An entry of a forwarding database.
    Fdb(Fdb),
    /// A kernel parameter.
    Sysctl(Sysctl),
    /// A queueing discipline.
    Qdisc(Qdisc),
    /// The firewall table.
    Table(Table),
    /// A set or map.
    Set(Set),
    /// A chain.
    Chain(Chain),
    /// An element.
    Element(Element),
    /// A network of a plugin's.
    Network(PluginNetwork),
    /// A container on such a network.
    Endpoint(Endpoint),
}

/// A named namespace that netrec made: a bind mount under `/run/netns`, with the group on its `lo`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsObject {
    /// Whether its `lo` is up.
    pub lo_up: bool,
    /// Whether its `lo` has lost 127.0.0.1, which the kernel gives it when it goes up for the first time. (::1 is lost and comes
    /// back with each time.)
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lo_bare: bool,
    /// Whether a crash left only the empty file for its name, with no namespace behind it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unbound: bool,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What it is.
    #[serde(flatten)]
    pub kind: LinkKind,
    /// The settings that every device has; of a veth pair, those of the host's end.
    #[serde(flatten)]
    pub device: Device,
    /// The bridge it is a port of.
    pub master: Option<InterfaceName>,
    /// Its settings as a bridge's port; there is one exactly when there is a bridge as master.
    pub port: Option<BridgePort>,
    /// Whether it is in [`GROUP_LEAVING`] instead of [`GROUP`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

impl Link {
    /// What the kernel lets no two devices share, whatever their names.
    pub fn claim(&self) -> Option<Claim> {
        match self.kind {
            LinkKind::Vxlan { vni, udp_port, local, .. } => {
                Some(Claim::Tunnel { vni, udp_port, ipv4: local.is_ipv4() })
            }
            LinkKind::Vlan { parent, vid } => Some(Claim::Vlan { parent, vid }),
            LinkKind::Macvlan { parent, mode: MacvlanMode::Passthru } => Some(Claim::Whole { parent }),
            LinkKind::Macvlan { parent, .. } => Some(Claim::Mac { parent, mac: self.device.mac }),
            _ => None,
        }
    }

    /// Whether it has `IFF_NOARP` when it comes to be: an ipvlan without a link, and what a plugin made so.
    pub fn is_born_without_arp(&self) -> bool {
        match self.kind {
            LinkKind::Ipvlan { mode, .. } => !mode.has_link(),
            LinkKind::Plugin { .. } => self.device.no_arp,
            _ => false,
        }
    }

    /// Of a plugin's device, its name in the host.
    pub fn source(&self) -> Option<InterfaceName> {
        if let LinkKind::Plugin { source } = self.kind { Some(source) } else { None }
    }

    /// The device of the host's that it is made on, and goes with.
    pub fn parent(&self) -> Option<InterfaceName> {
        match self.kind {
            LinkKind::Vlan { parent, .. } | LinkKind::Macvlan { parent, .. } | LinkKind::Ipvlan { parent, .. } => {
                Some(parent)
            }
            _ => None,
        }
    }
}

/// Something of which the kernel gives out each but once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim {
    /// A VXLAN tunnel.
    Tunnel {
        /// Its id.
        vni: u32,
        /// Its UDP port.
        udp_port: u16,
        /// Whether it runs over IPv4.
        ipv4: bool,
    },
    /// A VLAN of a device.
    Vlan {
        /// The device.
        parent: InterfaceName,
        /// The VLAN's id.
        vid: u16,
    },
    /// An Ethernet address among the macvlans on a device.
    Mac {
        /// The device.
        parent: InterfaceName,
        /// The address.
        mac: Mac,
    },
    /// A device that is handed on as a whole (`passthru`).
    Whole {
        /// The device.
        parent: InterfaceName,
    },
}

/// Settings that every device has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether the kernel gives it an IPv6 link-local address when it comes up (`IN6_ADDR_GEN_MODE_EUI64`) or not
    /// (`_NONE`). Without it there is no DAD, MLD and RS chatter, which a bridge floods to all its ports.
    pub link_local: bool,
    /// Whether the other IPv4 addresses of a subnet outlive its first (`promote_secondaries`), so that one can take the
    /// place of another without a moment with none.
    pub promote_secondaries: bool,
    /// Whether it asks for no neighbours and answers nobody who asks for it (`IFF_NOARP`).
    #[serde(default)]
    pub no_arp: bool,
}

/// The kinds of devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum LinkKind {
    /// A bridge.
    Bridge {
        /// Whether it speaks the spanning tree protocol.
        stp: bool,
    },
    /// A veth pair, seen from the host's end.
    Veth {
        /// The other end.
        peer: Peer,
    },
    /// One end of a VXLAN tunnel with many others (RFC 7348).
    Vxlan {
        /// The network's id, 1 to 16777215.
        vni: u32,
        /// The UDP port that it listens at and sends to.
        udp_port: u16,
        /// The address that it sends from; unspecified where the kernel chooses.
        local: IpAddr,
        /// The device that the tunnel runs over, where it does not follow the routes. When that goes, the kernel removes
        /// the tunnel too.
        #[serde(default)]
        underlay: Option<InterfaceName>,
        /// Whether it remembers which VTEP a MAC address was seen behind.
        #[serde(default)]
        learning: bool,
    },
    /// A device of the host's under another Ethernet address, mostly in a container.
    Macvlan {
        /// The host's device; one that cannot be seen from here is called `?`.
        parent: InterfaceName,
        /// How it and others on the device see each other.
        mode: MacvlanMode,
    },
    /// A device of the host's under the same Ethernet address and other IP addresses, mostly in a container.
    Ipvlan {
        /// The host's device; one that cannot be seen from here is called `?`.
        parent: InterfaceName,
        /// What it has of the link. The kernel keeps one for all that are on the device.
        mode: IpvlanMode,
    },
    /// A VLAN of a device (IEEE 802.1Q).
    Vlan {
        /// The device.
        parent: InterfaceName,
        /// The VLAN's id, 1 to 4094.
        vid: u16,
    },
    /// A device that hands back what it is sent, so that what comes in by another one can be queued (`ifb`).
    Ifb,
    /// A device of any kind that a plugin made, in a container. It is moved there from the host, and given back.
    Plugin {
        /// Its name in the host.
        source: InterfaceName,
    },
    /// Anything else; netrec never wants one, but may find one in the way.
    Other {
        /// The kernel's name for the kind, or `device` where it has none.
        name: String,
    },
}

/// `IFLA_MACVLAN_MODE` (`linux/if_link.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// Those on one device do not see each other.
    Private,
    /// All frames go out; the switch outside sends back what is for another one.
    Vepa,
    /// Frames between two on one device go directly.
    Bridge,
    /// It is alone on the device, and has its Ethernet address.
    Passthru,
    /// It takes frames from some Ethernet addresses only; netrec never wants it.
    Source,
}

impl MacvlanMode {
    /// Those that a file may have.
    pub const ALL: [Self; 4] = [Self::Bridge, Self::Private, Self::Vepa, Self::Passthru];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Bridge => "bridge",
            Self::Passthru => "passthru",
            Self::Source => "source",
        }
    }
}

/// `IFLA_IPVLAN_MODE` (`linux/if_link.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// It has the link: broadcasts and neighbours.
    L2,
    /// The host's device routes for it, past the host's connection tracking and firewall: it asks for no neighbours.
    L3,
    /// The same, through them.
    L3s,
}

impl IpvlanMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::L2, Self::L3, Self::L3s];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        }
    }

    /// Whether there is a link with neighbours.
    pub fn has_link(self) -> bool {
        self == Self::L2
    }
}

/// The far end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The namespace it is in; one that could not be entered is called `?`.
    pub netns: Netns,
    /// Its name there.
    pub name: InterfaceName,
    /// Its settings.
    #[serde(flatten)]
    pub device: Device,
}

/// Settings of a bridge's port. The kernel gives a new port those of [`Default`]: all of them off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgePort {
    /// Send frames back out of the port they came by (`IFLA_BRPORT_MODE`).
    pub hairpin: bool,
    /// Pass frames to and from the ports that are not isolated only (`IFLA_BRPORT_ISOLATED`).
    #[serde(default)]
    pub isolated: bool,
    /// Take only frames whose sender is known to be behind the port (`IFLA_BRPORT_LOCKED`).
    #[serde(default)]
    pub locked: bool,
    /// Do not remember who is behind the port (`IFLA_BRPORT_LEARNING` off).
    #[serde(default)]
    pub no_learning: bool,
    /// Do not send frames out whose receiver is unknown (`IFLA_BRPORT_UNICAST_FLOOD` off).
    #[serde(default)]
    pub no_flood: bool,
    /// Do not send multicasts out that nobody asked for (`IFLA_BRPORT_MCAST_FLOOD` off).
    #[serde(default)]
    pub no_mcast_flood: bool,
    /// Do not send broadcasts out (`IFLA_BRPORT_BCAST_FLOOD` off).
    #[serde(default)]
    pub no_bcast_flood: bool,
    /// Answer for neighbours that the bridge knows instead of sending the question out (`IFLA_BRPORT_NEIGH_SUPPRESS`).
    #[serde(default)]
    pub neigh_suppress: bool,
}

/// An address on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Whether it stays until removed (`IFA_F_PERMANENT`).
    pub permanent: bool,
    /// Whether the route to its subnet is missing that the kernel makes along with it (protocol `kernel`, main table), as
    /// with `IFA_F_NOPREFIXROUTE`. Never so of a host's address alone, of one that is secondary to another
    /// (`IFA_F_SECONDARY`), and while its device is down.
    #[serde(default)]
    pub no_prefix_route: bool,
    /// Whether it is never chosen as a source while there is another: a preferred lifetime of 0 (`IFA_F_DEPRECATED`, RFC
    /// 4862). IPv4 keeps the flag and looks at it nowhere.
    #[serde(default)]
    pub deprecated: bool,
    /// Whether its device has an earlier IPv4 address of the same subnet (`IFA_F_SECONDARY`), which is what packets are
    /// sent from; the kernel goes by the order in which they were added. Said of netrec's own devices alone.
    #[serde(default)]
    pub secondary: bool,
    /// Its scope (`ifa_scope`), where it is another than `universe` (0): where it may be a source address. Of IPv6 the
    /// address itself says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Address {
    /// One that stays until removed, with the route to its subnet.
    pub fn lasting() -> Self {
        Self { permanent: true, no_prefix_route: false, deprecated: false, secondary: false, scope: None }
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The router.
    pub via: Option<IpAddr>,
    /// The device.
    pub dev: Option<InterfaceName>,
    /// Who made it (`rtm_protocol`); 78 is netrec.
    pub protocol: u8,
    /// Whether the router is taken to be on the device, whatever the addresses say (`RTNH_F_ONLINK`).
    #[serde(default)]
    pub onlink: bool,
    /// The source address of what the host itself sends there (`RTA_PREFSRC`), where it is not the kernel's choice.
    #[serde(default)]
    pub src: Option<IpAddr>,
    /// Its scope (`rtm_scope`), where it is another than the usual one: `link` (253) without a router, else `universe` (0).
    /// IPv6 has no scopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
    /// What becomes of packets (`rtm_type`).
    #[serde(rename = "type", default, skip_serializing_if = "RouteType::is_unicast")]
    pub kind: RouteType,
}

/// What a route does with packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteType {
    /// Sends them on (`RTN_UNICAST`).
    #[default]
    Unicast,
    /// Loses them (`RTN_BLACKHOLE`).
    Blackhole,
    /// Tells the sender that there is no way (`RTN_UNREACHABLE`).
    Unreachable,
    /// Tells the sender that it is forbidden (`RTN_PROHIBIT`).
    Prohibit,
}

impl RouteType {
    /// Whether packets are sent on.
    pub fn is_unicast(&self) -> bool {
        *self == Self::Unicast
    }
}

impl Route {
    /// A route of netrec's by a device, with a router or without.
    pub fn new(dev: InterfaceName, via: Option<IpAddr>) -> Self {
        Self {
            via,
            dev: Some(dev),
            protocol: PROTOCOL,
            onlink: false,
            src: None,
            scope: None,
            kind: RouteType::Unicast,
        }
    }

    /// A route of netrec's that leads nowhere.
    pub fn unreachable() -> Self {
        Self::without_device(RouteType::Unreachable)
    }

    /// A route of netrec's that loses what is sent there, without a word.
    pub fn blackhole() -> Self {
        Self::without_device(RouteType::Blackhole)
    }

    fn without_device(kind: RouteType) -> Self {
        Self { via: None, dev: None, protocol: PROTOCOL, onlink: false, src: None, scope: None, kind }
    }
}

/// A permanent neighbour: nobody is asked for its MAC address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its MAC address.
    pub mac: Mac,
}

/// A permanent entry of a forwarding database. One of a VXLAN device has a `dst`, one of a bridge a `port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fdb {
    /// The VTEP that frames are sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpAddr>,
    /// The port of the bridge by which frames leave; the bridge itself for frames that end there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<InterfaceName>,
    /// Whether it stays on its port (`NTF_STICKY`): a bridge moves any other, static ones too, to the port by which a frame
    /// from its address comes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sticky: bool,
    /// What else there is to it, in the words of `bridge fdb`: `local`, `dst 192.0.2.3`, `vni 7`. An entry of netrec's has
    /// nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<String>,
}

impl Fdb {
    /// The entry of a VXLAN device: behind which VTEP an address is.
    pub fn behind(dst: IpAddr) -> Self {
        Self { dst: Some(dst), ..Self::default() }
    }

    /// The entry of a bridge: by which port an address is reached, whoever else claims to be it.
    pub fn by(port: InterfaceName) -> Self {
        Self { port: Some(port), sticky: true, ..Self::default() }
    }
}

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// Its value, without surrounding white space, with runs of white space within as one space.
    pub value: String,
}

/// A queueing discipline, with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Qdisc {
    /// A token bucket filter (`tc-tbf(8)`) with netrec's handle.
    Tbf {
        /// How much passes in the long run; with headers, from Ethernet's on.
        rate: Rate,
        /// How long a full bucket lasts at the rate, in microseconds: what may pass at once, and the largest packet.
        burst_us: u32,
        /// How much may wait, in bytes, the bucket's content included.
        limit: u32,
    },
    /// The hook for what comes in (`tc-clsact`), with netrec's filter.
    Clsact {
        /// The device that all packets are redirected to; none where there is no such filter.
        redirect: Option<InterfaceName>,
    },
    /// Somebody else's, where one of netrec's is to be.
    Other {
        /// The kernel's name for the kind.
        name: String,
    },
}

/// A parameter's path before the name of its device, that name, and the path behind it: the device's folder is below `conf`
/// or `neigh`.
fn around_device(path: &str) -> Option<(&str, &str, &str)> {
    let at = ["/conf/", "/neigh/"].into_iter().find_map(|folder| Some(path.find(folder)? + folder.len()))?;
    let (before, rest) = path.split_at(at);
    let (device, behind) = rest.split_once('/')?;
    Some((before, device, behind))
}

/// The device that a parameter belongs to: `eth0` of `net/ipv6/conf/eth0/accept_ra`.
pub fn device_of(path: &str) -> Option<InterfaceName> {
    around_device(path)?.1.parse().ok()
}

/// The parameter of every device that is set by this path, as family and name: `ipv4` and `forwarding` of
/// `net/ipv4/ip_forward`, `ipv6` and `accept_ra` of `net/ipv6/conf/all/accept_ra`.
pub fn of_all_devices(path: &str) -> Option<(&str, &str)> {
    match path {
        facts::IPV4_FORWARDING => Some(("ipv4", "forwarding")),
        _ => path.strip_prefix("net/")?.split_once("/conf/all/"),
    }
}

/// The path of a device's parameter once the device has another name.
pub fn of_renamed(path: &str, name: InterfaceName) -> Option<String> {
    around_device(path).map(|(before, _, behind)| format!("{before}{name}/{behind}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Entry, Owner, State};

    #[test]
    fn tunnels_and_what_reaches_others_are_named_and_written_as_json() {
        let (Ok(vx), Ok(bridge), Ok(vtep)) = ("vx-wide".parse(), "nr-wide".parse(), "2001:db8::2".parse()) else {
            unreachable!("names and an address")
        };
        let (netns, mac) = (Netns::HOST, Mac([2, 0, 0, 0, 0, 5]));
        let device = Device { mac, mtu: 1430, up: true, link_local: false, promote_secondaries: true, no_arp: false };
        let kind = LinkKind::Vxlan { vni: 4100, udp_port: 4789, local: vtep, underlay: Some(vx), learning: false };
        let port = Some(BridgePort { neigh_suppress: true, ..BridgePort::default() });
        let link = Link { kind, device, master: Some(bridge), port, leaving: false };
        let many = Fdb { extra: vec!["dst 2001:db8::3".into()], ..Fdb::behind(vtep) };
        let all = [
            (Key::Link { netns: netns.clone(), name: vx }, Object::Link(link)),
            (Key::Neighbour { netns: netns.clone(), link: bridge, ip: vtep }, Object::Neighbour(Neighbour { mac })),
            (Key::Fdb { netns: netns.clone(), link: bridge, mac }, Object::Fdb(Fdb::by(vx))),
            (Key::Fdb { netns: netns.clone(), link: vx, mac: Mac([0; 6]) }, Object::Fdb(many)),
            (Key::Fdb { netns, link: vx, mac }, Object::Fdb(Fdb::behind(vtep))),
        ];
        let names: Vec<String> = all.iter().map(|(key, _)| key.to_string()).collect();
        assert_eq!(
            names,
            [
                "link vx-wide",
                "neighbour 2001:db8::2 dev nr-wide",
                "fdb 02:00:00:00:00:05 dev nr-wide",
                "fdb 00:00:00:00:00:00 dev vx-wide",
                "fdb 02:00:00:00:00:05 dev vx-wide",
            ]
        );
        let entry = |object| Entry::new(object, Owner::new("networks.wide"));
        let state: State = all.into_iter().map(|(key, object)| (key, entry(object))).collect();
        let json = serde_json::to_value(&state).unwrap_or_default();
        assert_eq!(json[0]["object"]["link"]["port"]["neigh_suppress"], true);
        assert_eq!(json[0]["object"]["link"]["udp_port"], 4789);
        assert_eq!(json[1]["key"]["kind"], "neighbour");
        assert_eq!(json[2]["object"]["fdb"]["port"], "vx-wide");
        let read = serde_json::from_value::<State>(json);
        assert_eq!(read.ok(), Some(state));
    }
}
