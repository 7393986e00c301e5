//! What a desired state depends on beside the file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::names::{InterfaceName, Mac, Netns};
use super::{Cluster, Membership, State, Surroundings, Whereabouts};

/// Facts about the host, read once before the desired state is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The host's name.
    pub host: String,
    /// The device of the default route (IPv4's first, else IPv6's), in the main table.
    pub uplink: Option<Uplink>,
    /// Addresses of the host that are not netrec's, loopback and link-local ones left out.
    pub addresses: Vec<HostAddress>,
    /// Routes of all the host's tables but the local one that are neither netrec's nor by netrec's links: unicast ones, and
    /// those that refuse (blackhole, unreachable, prohibit). Default routes and link-local and multicast ones are left out.
    pub routes: Vec<HostRoute>,
    /// The host's kernel parameters that somebody may decide on, by path below `/proc/sys`, as far as they exist:
    /// `net/ipv4/ip_forward`, `net/ipv6/conf/all/forwarding`, `net/bridge/bridge-nf-call-iptables`,
    /// `net/bridge/bridge-nf-call-ip6tables`.
    pub sysctls: BTreeMap<Arc<str>, String>,
    /// Devices whose IPv6 default route comes from router advertisements while `accept_ra` is 1, so that turning
    /// forwarding on would take it away.
    pub ra_uplinks: Vec<InterfaceName>,
    /// The devices that were asked for by name, as far as there are such.
    pub devices: BTreeMap<InterfaceName, HostDevice>,
    /// How packets of the host's go to the addresses that were asked for. Those without a route, with one that refuses, or
    /// with one for many (broadcast, multicast) are not in it, nor are the host's own.
    pub ways: BTreeMap<IpAddr, Way>,
    /// The device and inode number of the host's network namespace.
    pub host_namespace: (u64, u64),
    /// The same of the namespaces that containers are to live in, as far as they were asked for: none where there is no
    /// namespace, what is wrong with it where it cannot be one.
    #[serde(skip)]
    pub namespaces: BTreeMap<Netns, Result<Option<(u64, u64)>, String>>,
    /// What came of the search for namespaces that others make for what runs in them.
    #[serde(skip)]
    pub sources: BTreeMap<Netns, Whereabouts>,
    /// What plugins were asked for, and answered.
    pub remote: State,
    /// Who is a member of the file's cluster.
    pub members: Option<Arc<Membership>>,
    /// What else is there that the desired state meets; read when that is known.
    pub surroundings: Surroundings,
}

impl Facts {
    /// Whether a parameter of the host exists and is neither 0 nor empty.
    pub fn sysctl_on(&self, path: &str) -> bool {
        self.sysctls.get(path).is_some_and(|v| v != "0" && !v.is_empty())
    }

    /// The device and inode number of a namespace that others made, as far as it was asked for and is there.
    pub fn identity(&self, netns: &Netns) -> Option<(u64, u64)> {
        match self.sources.get(netns) {
            Some(found) => found.id(),
            None => self.namespaces.get(netns)?.as_ref().ok().copied().flatten(),
        }
    }

    /// Whether the kernel has IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.sysctls.contains_key(IPV6_FORWARDING)
    }
}

/// The path of IPv4's forwarding switch.
pub const IPV4_FORWARDING: &str = "net/ipv4/ip_forward";
/// The path of IPv6's forwarding switch.
pub const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";
/// The path of br_netfilter's switch for IPv4: bridged packets pass the firewall.
pub const BRIDGE_NF_IPV4: &str = "net/bridge/bridge-nf-call-iptables";
/// The same for IPv6.
pub const BRIDGE_NF_IPV6: &str = "net/bridge/bridge-nf-call-ip6tables";

/// What facts are to tell of beside the host as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The namespaces of containers whose identity matters.
    pub namespaces: Vec<Netns>,
    /// Devices of the host.
    pub devices: Vec<InterfaceName>,
    /// Addresses of other hosts.
    pub peers: Vec<IpAddr>,
    /// The cluster whose members are other hosts, too.
    pub cluster: Option<Arc<Cluster>>,
}

/// How the kernel routes to an address, whatever of it came about by rules and tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The device that packets leave by.
    pub dev: InterfaceName,
    /// That device's MTU in bytes.
    pub mtu: u32,
    /// The router; none for an address on the device's link. It may be of the other family.
    pub via: Option<IpAddr>,
}

/// A device of the host's that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDevice {
    /// Whether it is a bridge.
    pub bridge: bool,
    /// Whether netrec made it.
    pub ours: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its Ethernet address.
    #[serde(default)]
    pub mac: Mac,
    /// Whether it is administratively up.
    #[serde(default = "yes")]
    pub up: bool,
    /// The bridge it is a port of.
    #[serde(default)]
    pub port_of: Option<InterfaceName>,
    /// Of a VLAN, the device below and the id.
    #[serde(default)]
    pub vlan: Option<(InterfaceName, u16)>,
}

fn yes() -> bool {
    true
}

/// The device towards the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Its name.
    pub name: InterfaceName,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// An address of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAddress {
    /// The device that has it.
    pub link: InterfaceName,
    /// Address and prefix length.
    pub ip: IpNetwork,
}

/// A route of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRoute {
    /// Its destination.
    pub to: IpNetwork,
    /// Its device, where it has one.
    pub dev: Option<InterfaceName>,
}
