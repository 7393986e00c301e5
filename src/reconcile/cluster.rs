//! The members of a cluster as part of a host: asked for once, or followed; remembered for when nobody tells; and told on to
//! other programs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::files;
use crate::config::{Config, Mode};
use crate::desired::bridge_name;
use crate::kernel::ReadError;
use crate::services::Tell;
use crate::services::cluster::{Follower, Memory, Trouble, Turn, View, join, look};
use crate::state::{Away, Cluster, Key, Membership, Netns, Object, State, Warning};

/// What a host does about its cluster.
#[derive(Default)]
pub(super) enum Part {
    /// It looks, and changes nothing.
    #[default]
    Looks,
    /// It becomes a member where it is none.
    Joins,
    /// It is one for as long as this lives: `tell` is called when something has changed.
    Follows(Tell, Turn, Option<Follower>),
}

/// What is remembered between two runs, in a file that a boot empties.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Remembered {
    /// Which cluster it is of.
    of: String,
    members: Membership,
}

/// What tells a cluster from others.
fn name_of(cluster: &Cluster) -> String {
    let subnets: Vec<String> = cluster.network.subnets.iter().flatten().map(ToString::to_string).collect();
    format!(
        "{} {} /{:?} {}",
        cluster.prefix,
        subnets.join(" "),
        cluster.network.lengths,
        cluster.network.backend.as_str()
    )
}

impl Part {
    /// Who is a member of a cluster, for a host with this namespace.
    pub(super) fn members(&mut self, cluster: &Arc<Cluster>, host_inode: u64) -> Result<Arc<Membership>, ReadError> {
        let path = files::run_file("cluster", host_inode);
        let remembered = remembered(&path, cluster);
        let memory = || Memory {
            held: remembered.as_ref().map(|(members, _)| members.own.clone()),
            before: cluster.subnet_env.as_deref().and_then(pieces_in).into_iter().collect(),
        };
        let found = match self {
            Self::Looks => look(cluster, &memory()).map(Arc::new),
            Self::Joins => join(cluster, &memory()).map(Arc::new),
            Self::Follows(tell, turn, follower) => {
                if follower.as_ref().is_none_or(|follower| follower.cluster() != &**cluster) {
                    let started = Follower::start(cluster.clone(), memory(), tell.clone(), turn.clone());
                    *follower = Some(started.map_err(|error| ReadError::Other(format!("start a thread: {error}")))?);
                }
                match follower.as_ref().map(Follower::view).unwrap_or_default() {
                    View { trouble: Some(trouble), .. } => Err(trouble),
                    View { members: Some(members), .. } => Ok(members),
                    View { .. } => Err(Trouble::Unknown("etcd has not answered yet".to_owned())),
                }
            }
        };
        match found {
            Ok(members) => {
                if members.held && members.away.is_none() {
                    remember(&path, cluster, &members, remembered.as_ref().map(|(members, _)| members));
                }
                Ok(members)
            }
            Err(Trouble::Unknown(why)) => {
                let Some((members, since)) = remembered else {
                    return Err(ReadError::Other(format!(
                        "{why}; nothing is known of the cluster's hosts from before"
                    )));
                };
                Ok(Arc::new(Membership { away: Some(Away { since, why }), ..members }))
            }
            Err(Trouble::None(why)) => Err(ReadError::Other(why)),
        }
    }

    /// The file is of no cluster any more.
    pub(super) fn leave(&mut self) {
        if let Self::Follows(_, _, follower) = self {
            *follower = None;
        }
    }

    /// What is to be said of the cluster, each once.
    pub(super) fn news(&self) -> Vec<Warning> {
        match self {
            Self::Follows(_, _, Some(follower)) => follower.news(),
            _ => Vec::new(),
        }
    }
}

/// Keeps what is known for when nobody tells. That it cannot be kept is no matter now.
fn remember(path: &Path, cluster: &Cluster, members: &Membership, before: Option<&Membership>) {
    let members = Membership { notes: BTreeSet::new(), ..members.clone() };
    if before == Some(&members) {
        // It is as true as before, and newer.
        let kept = std::fs::File::options().write(true).open(path);
        let _ = kept.and_then(|kept| kept.set_modified(SystemTime::now()));
        return;
    }
    let kept = Remembered { of: name_of(cluster), members };
    let _ = serde_json::to_vec(&kept).map_err(io::Error::from).and_then(|bytes| files::keep(path, &bytes));
}

/// What was known of a cluster before, and when it was true, in seconds since 1970.
fn remembered(path: &Path, cluster: &Cluster) -> Option<(Membership, u64)> {
    let bytes = files::read(path).ok()??;
    let Remembered { of, members } = serde_json::from_slice(&bytes).ok()?;
    let at = path.metadata().and_then(|found| found.modified()).ok()?;
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    (of == name_of(cluster)).then_some((members, since))
}

/// The pieces that a file `subnet.env` tells of: the gateways' networks.
fn pieces_in(path: &Path) -> Option<Vec<IpNetwork>> {
    let text = std::fs::read_to_string(path).ok()?;
    let piece = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        let net: IpNetwork = value.trim().parse().ok()?;
        IpNetwork::new(net.network(), net.prefix()).ok()
    };
    let pieces: Vec<IpNetwork> = ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"].into_iter().filter_map(piece).collect();
    (!pieces.is_empty()).then_some(pieces)
}

/// A file that tells other programs of the host's piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    path: PathBuf,
    text: String,
}

impl Told {
    /// What is told once what is wanted is there: as flannel has it. Nothing where the file wants none.
    pub(super) fn of(config: &Config, members: Option<&Membership>, desired: &State) -> Option<Self> {
        let cluster = config.cluster.as_ref()?;
        let (path, own) = (cluster.known.subnet_env.clone()?, &members?.own);
        let network = &config.networks[cluster.network];
        let bridge = Key::Link { netns: Netns::HOST, name: bridge_name(network) };
        let Object::Link(link) = &desired.get(&bridge)?.object else { return None };
        let mut text = String::new();
        for (ipv6, family) in [(false, ""), (true, "IPV6_")] {
            let whole = cluster.known.network.subnets[usize::from(ipv6)];
            let (Some(whole), Some(piece)) = (whole, own.piece(ipv6)) else { continue };
            let addresses = desired.iter().filter_map(|(key, _)| match key {
                Key::Address { netns, link, ip } if netns.is_host() && *link == bridge_name(network) => Some(*ip),
                _ => None,
            });
            // The bridge's own, which is the containers' gateway.
            let gateway = addresses.into_iter().find(|ip| piece.contains(ip.ip())).unwrap_or(piece);
            let _ = writeln!(text, "FLANNEL_{family}NETWORK={whole}\nFLANNEL_{family}SUBNET={gateway}");
        }
        let masquerade = network.mode(false) == Some(Mode::Nat);
        let _ = writeln!(text, "FLANNEL_MTU={}\nFLANNEL_IPMASQ={masquerade}", link.device.mtu);
        Some(Self { path, text })
    }

    /// Writes it, where it is not there already.
    ///
    /// # Errors
    /// That it cannot be written, in a sentence.
    pub(super) fn write(&self) -> Result<(), String> {
        let Self { path, text } = self;
        if std::fs::read_to_string(path).is_ok_and(|there| there == *text) {
            return Ok(());
        }
        files::tell(path, text.as_bytes()).map_err(|error| format!("{} could not be written: {error}", path.display()))
    }
}
