//! The members of a cluster: what a file says of where they are known, and who they are.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::names::{Mac, ObjectName};

/// A cluster that hosts come to and leave: where its members are known, and what is to be known of this host there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// etcd's endpoints: `http://HOST:PORT` or `https://HOST:PORT`, at least one.
    pub etcd: Vec<String>,
    /// What comes before all its keys: begins with a slash and does not end with one.
    pub prefix: String,
    /// The file with certificates of authorities (PEM); none for those of the web.
    pub ca: Option<PathBuf>,
    /// The files with this host's certificate and its key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The user's name, and the file that holds the password: an absolute path, or the name of a credential of systemd's.
    pub user: Option<(String, PathBuf)>,
    /// Where peers reach this host; none of a family that is found by the routes.
    pub public: Vec<IpAddr>,
    /// The pieces that are to be this host's; none of a family where any will do.
    pub pieces: Vec<IpNetwork>,
    /// The file that tells others of the host's piece.
    pub subnet_env: Option<PathBuf>,
    /// The network whose pieces the members have.
    pub network: ClusterNetwork,
}

/// The network that a cluster's members share, as far as all of them have to agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNetwork {
    /// Its name in this host's file.
    pub name: ObjectName,
    /// Its subnets of IPv4, which there always is, and IPv6.
    pub subnets: [Option<IpNetwork>; 2],
    /// The prefix lengths of a member's piece of them.
    pub lengths: [u8; 2],
    /// How packets get from one member to another.
    pub backend: ClusterBackend,
}

/// How packets get from one member of a cluster to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterBackend {
    /// By VXLAN, a tunnel for each family.
    Vxlan {
        /// The VXLAN network identifier.
        vni: u32,
        /// The UDP port.
        port: u16,
    },
    /// By routes over a link that all share.
    HostGw,
}

impl ClusterBackend {
    /// Its name in etcd.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan { .. } => "vxlan",
            Self::HostGw => "host-gw",
        }
    }
}

impl Cluster {
    /// The key below which the members' keys are.
    pub fn subnets_key(&self) -> String {
        format!("{}/subnets/", self.prefix)
    }

    /// The key of what all members agree on.
    pub fn config_key(&self) -> String {
        format!("{}/config", self.prefix)
    }

    /// Whether the network has subnets of a family.
    pub fn has_family(&self, ipv6: bool) -> bool {
        self.network.subnets[usize::from(ipv6)].is_some()
    }
}

/// A member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where its peers reach it: an address of IPv4 first, then perhaps one of IPv6.
    pub addresses: Vec<IpAddr>,
    /// Its piece of the network, of each family at most one.
    pub pieces: Vec<IpNetwork>,
    /// The Ethernet addresses of its ends of the tunnels over IPv4 and over IPv6.
    #[serde(default)]
    pub macs: [Option<Mac>; 2],
}

impl Member {
    /// Where it is reached by a family.
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ip| ip.is_ipv6() == ipv6)
    }

    /// Its piece of a family.
    pub fn piece(&self, ipv6: bool) -> Option<IpNetwork> {
        self.pieces.iter().copied().find(|piece| piece.is_ipv6() == ipv6)
    }
}

impl fmt::Display for Member {
    /// As in `10.5.72.0/24 at 192.0.2.1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |words: Vec<String>| words.join(" ");
        write!(
            f,
            "{} at {}",
            words(self.pieces.iter().map(ToString::to_string).collect()),
            words(self.addresses.iter().map(ToString::to_string).collect())
        )
    }
}

/// Who is known to be a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// This host.
    pub own: Member,
    /// Whether this host holds its piece; else it is the one that it would take.
    pub held: bool,
    /// The others, in the order of their addresses.
    pub peers: Vec<Member>,
    /// Whether nobody can be asked, and this is what was known before: since when, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<Away>,
    /// What else is to be said, each a sentence.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub notes: BTreeSet<Note>,
}

/// Nobody can be asked who is a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// When it was known last, in seconds since 1970.
    pub since: u64,
    /// Why nobody can be asked.
    pub why: String,
}

/// Something about a cluster that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Note {
    /// An entry of somebody's that is not used: which, and why.
    Ignored(String),
    /// What all members agree on is not written yet.
    Unconfigured(String),
    /// A piece was this host's, and is somebody else's now: all in a sentence.
    Lost(String),
}

impl Note {
    /// A word for it, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Ignored(_) => "cluster-entry",
            Self::Unconfigured(_) => "cluster-config",
            Self::Lost(_) => "lease-lost",
        }
    }

    /// The sentence.
    pub fn text(&self) -> &str {
        match self {
            Self::Ignored(text) | Self::Unconfigured(text) | Self::Lost(text) => text,
        }
    }
}
