//! Networks that a plugin of Docker's makes, and containers on them: what the plugin is asked for, and what it said.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::names::{InterfaceName, Mac, Netns};

/// A network of a plugin's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginNetwork {
    /// The plugin's name, or its socket's path.
    pub plugin: String,
    /// The plugin that gives addresses; none where netrec does.
    pub ipam: Option<String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// The subnets.
    pub subnets: Vec<PluginSubnet>,
    /// Where the hosts of the file are reached, this one first; none in a file of one host.
    pub hosts: Vec<IpAddr>,
    /// How much of it there is.
    #[serde(default, skip_serializing_if = "Health::is_whole")]
    pub health: Health,
}

/// A subnet of a plugin's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginSubnet {
    /// All of it.
    pub subnet: IpNetwork,
    /// The part that addresses are given from, where it is not all.
    pub range: Option<IpNetwork>,
    /// The router that the plugin is told of; none where there is to be none, or where the IPAM plugin chooses it.
    pub gateway: Option<IpAddr>,
    /// Whether the file says so: else plugins may choose another, or none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub says_gateway: bool,
    /// Addresses that no container gets but by the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserve: Vec<IpAddr>,
}

/// A container on a network of a plugin's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container's namespace.
    pub netns: Netns,
    /// The addresses that it is to have, as far as the plugin does not choose them.
    pub addresses: Vec<IpNetwork>,
    /// The Ethernet address that it is to have, where the plugin does not choose it.
    pub mac: Option<Mac>,
    /// Whether the container's way out is by it.
    pub external: bool,
    /// Whether that is so for IPv4 alone, and its way out by IPv6 is by another network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv6_elsewhere: bool,
    /// The ports of the host that are to lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PluginPort>,
    /// How much of it there is.
    #[serde(default, skip_serializing_if = "Health::is_whole")]
    pub health: Health,
    /// What came of it; none while it has not been asked for.
    pub answer: Option<Answer>,
}

impl Endpoint {
    /// Whether another is asked for in the same way. What can change in place does not count.
    pub fn is_asked_as(&self, other: &Self) -> bool {
        (&self.netns, &self.addresses, self.mac, &self.ports)
            == (&other.netns, &other.addresses, other.mac, &other.ports)
    }
}

impl PluginNetwork {
    /// Whether another is asked for in the same way. What can change in place does not count.
    pub fn is_asked_as(&self, other: &Self) -> bool {
        (&self.plugin, &self.ipam, &self.options, &self.subnets)
            == (&other.plugin, &other.ipam, &other.options, &other.subnets)
    }
}

/// What a plugin answered, and what its device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The device that it made, by the name that it has in the host.
    pub device: InterfaceName,
    /// The Ethernet address.
    pub mac: Mac,
    /// The device's MTU in bytes.
    pub mtu: u32,
    /// Whether the device asks for no neighbours.
    pub no_arp: bool,
    /// The addresses, one of a family at most.
    pub addresses: Vec<IpNetwork>,
    /// The routers of the default routes, one of a family at most.
    pub gateways: Vec<IpAddr>,
    /// Other routes.
    pub routes: Vec<PluginRoute>,
}

/// A route that a plugin asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRoute {
    /// The destination.
    pub to: IpNetwork,
    /// The router; none for what is on the device's link.
    pub via: Option<IpAddr>,
}

/// Published ports in a row that a plugin is told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginPort {
    /// The number of the protocol in the IP header.
    pub protocol: u8,
    /// The host's address; none for all.
    pub address: Option<IpAddr>,
    /// The host's first port and the container's.
    pub first: (u16, u16),
    /// How many there are.
    pub count: u16,
}

impl fmt::Display for PluginPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(v6)) => write!(f, "[{v6}]:")?,
            Some(v4) => write!(f, "{v4}:")?,
            None => {}
        }
        let range = |first: u16| match self.count {
            1 => first.to_string(),
            count => format!("{first}-{}", first + (count - 1)),
        };
        let protocol = match self.protocol {
            6 => "tcp",
            17 => "udp",
            _ => "sctp",
        };
        write!(f, "{}:{}/{protocol}", range(self.first.0), range(self.first.1))
    }
}

/// How much there is of what a plugin was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All of it.
    #[default]
    Whole,
    /// Some of the calls were made, or may have been.
    Half,
    /// The plugin does not know of it any more.
    Forgotten,
    /// The plugin's device is nowhere.
    Lost,
}

impl Health {
    /// Whether nothing is missing.
    pub fn is_whole(&self) -> bool {
        *self == Self::Whole
    }

    /// The end of the sentence that it is made anew since…
    pub fn why(self) -> &'static str {
        match self {
            Self::Whole => "it is whole",
            Self::Half => "it was left half-made",
            Self::Forgotten => "the plugin has forgotten it",
            Self::Lost => "its device is gone",
        }
    }
}
