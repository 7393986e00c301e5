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
use crate::state::{Away, Cluster, Facts, Key, Membership, Netns, Object, State, Warning};

/// What a host does about its cluster.
#[derive(Default)]
pub(super) enum Part {
    /// It looks, and changes nothing.
    #[default]
    Looks,
    /// It becomes a member where it is none.
    Joins,
    /// It is one for as long as this lives: `tell` is called when something has changed.
    Follows(Tell, Turn, Option<Follower>, Option<Kept>),
}

/// What a follower keeps for when nobody tells.
pub(super) struct Kept {
    path: PathBuf,
    cluster: Arc<Cluster>,
    members: Arc<Membership>,
    /// Whether the file has it. With thousands of members that is a piece of work, and the kernel comes first.
    written: bool,
}

impl Kept {
    fn write(&mut self) {
        if !self.written {
            remember(&self.path, &self.cluster, &self.members);
            self.written = true;
        }
    }
}

/// What is remembered between two runs, in a file that a boot empties.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Remembered {
    /// Which cluster it is of.
    of: String,
    members: Membership,
    /// The file that other programs are told in.
    #[serde(default)]
    told: Option<PathBuf>,
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
        let memory = || Memory {
            held: remembered(&path, cluster).map(|(known, _)| known.members.own),
            before: cluster.subnet_env.as_deref().and_then(pieces_in).into_iter().collect(),
        };
        let found = match self {
            Self::Looks => look(cluster, &memory()).map(Arc::new),
            Self::Joins => join(cluster, &memory()).map(Arc::new),
            Self::Follows(tell, turn, follower, _) => {
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
                    self.keep(path, cluster, &members);
                }
                Ok(members)
            }
            Err(Trouble::Unknown(why)) => {
                let Some((Remembered { members, .. }, since)) = remembered(&path, cluster) else {
                    return Err(ReadError::Other(format!(
                        "{why}; nothing is known of the cluster's hosts from before"
                    )));
                };
                Ok(Arc::new(Membership { away: Some(Away { since, why }), ..members }))
            }
            Err(Trouble::None(why)) => Err(ReadError::Other(why)),
        }
    }

    /// Keeps what is known for when nobody tells: at once where it says something else of this host, else when there is time.
    fn keep(&mut self, path: PathBuf, cluster: &Arc<Cluster>, members: &Arc<Membership>) {
        let kept = match self {
            Self::Looks => return,
            Self::Joins => return remember(&path, cluster, members),
            Self::Follows(.., kept) => kept,
        };
        let same = |kept: &&mut Kept| kept.path == path && Arc::ptr_eq(&kept.cluster, cluster);
        match kept.as_mut().filter(same) {
            // It is as true as before, and newer.
            Some(kept) if Arc::ptr_eq(&kept.members, members) => kept.written &= touched(&path),
            Some(kept) if kept.members.own == members.own => {
                kept.members = members.clone();
                kept.written = false;
            }
            _ => {
                let (cluster, members) = (cluster.clone(), members.clone());
                kept.insert(Kept { path, cluster, members, written: false }).write();
            }
        }
    }

    /// The round is over, and there is time.
    pub(super) fn rest(&mut self) {
        if let Self::Follows(.., Some(kept)) = self {
            kept.write();
        }
    }

    /// The file is of no cluster any more.
    pub(super) fn leave(&mut self) {
        if let Self::Follows(_, _, follower, kept) = self {
            (*follower, *kept) = (None, None);
        }
    }

    /// What is to be said of the cluster, each once.
    pub(super) fn news(&self) -> Vec<Warning> {
        match self {
            Self::Follows(_, _, Some(follower), _) => follower.news(),
            _ => Vec::new(),
        }
    }
}

/// Keeps what is known for when nobody tells. That it cannot be kept is no matter now.
fn remember(path: &Path, cluster: &Cluster, members: &Membership) {
    let members = Membership { notes: BTreeSet::new(), ..members.clone() };
    let now = Remembered { of: name_of(cluster), members, told: cluster.subnet_env.clone() };
    if remembered(path, cluster).is_some_and(|(before, _)| before == now) && touched(path) {
        return;
    }
    let _ = serde_json::to_vec(&now).map_err(io::Error::from).and_then(|bytes| files::keep(path, &bytes));
}

/// Says that what a file tells is true at this moment, where it is there.
fn touched(path: &Path) -> bool {
    let kept = std::fs::File::options().write(true).open(path);
    kept.and_then(|kept| kept.set_modified(SystemTime::now())).is_ok()
}

/// What was known of a cluster before, and when it was true, in seconds since 1970.
fn remembered(path: &Path, cluster: &Cluster) -> Option<(Remembered, u64)> {
    let bytes = files::read(path).ok()??;
    let known: Remembered = serde_json::from_slice(&bytes).ok()?;
    let at = path.metadata().and_then(|found| found.modified()).ok()?;
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    (known.of == name_of(cluster)).then_some((known, since))
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

/// What other programs are told of the host's piece, in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Which it is.
    Piece {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// That there is none any more.
    Nothing {
        /// The file in which it is remembered what they were told.
        memory: PathBuf,
    },
}

impl Told {
    /// What is told once what is wanted is there: as flannel has it. None where there is nothing to tell.
    pub(super) fn of(config: &Config, facts: &Facts, desired: &State) -> Option<Self> {
        let Some(cluster) = &config.cluster else { return Self::nothing(facts) };
        let (path, own) = (cluster.known.subnet_env.clone()?, &facts.members.as_deref()?.own);
        let network = &config.networks[cluster.network];
        let bridge = Key::Link { netns: Netns::HOST, name: bridge_name(network) };
        let Object::Link(link) = &desired.get(&bridge)?.object else { return None };
        let mut text = String::new();
        for (ipv6, family) in [(false, ""), (true, "IPV6_")] {
            let whole = cluster.known.network.subnets[usize::from(ipv6)];
            let (Some(whole), Some(piece)) = (whole, own.piece(ipv6)) else { continue };
            let addresses = desired.iter().filter_map(|(key, _)| match key {
                Key::Address { netns, link, ip, .. } if netns.is_host() && *link == bridge_name(network) => Some(*ip),
                _ => None,
            });
            // The bridge's own, which is the containers' gateway.
            let gateway = addresses.into_iter().find(|ip| piece.contains(ip.ip())).unwrap_or(piece);
            let _ = writeln!(text, "FLANNEL_{family}NETWORK={whole}\nFLANNEL_{family}SUBNET={gateway}");
        }
        let masquerade = network.mode(false) == Some(Mode::Nat);
        let _ = writeln!(text, "FLANNEL_MTU={}\nFLANNEL_IPMASQ={masquerade}", link.device.mtu);
        Some(Self::Piece { path, text })
    }

    /// What is told once nothing is wanted of a cluster that this host has been a member of.
    pub(super) fn nothing(facts: &Facts) -> Option<Self> {
        let memory = files::run_file("cluster", facts.host_namespace.1);
        memory.exists().then_some(Self::Nothing { memory })
    }

    /// Tells it, where it is not told already.
    ///
    /// # Errors
    /// That it cannot be written, in a sentence.
    pub(super) fn write(&self) -> Result<(), String> {
        let (path, text) = match self {
            Self::Piece { path, text } => (path, text),
            Self::Nothing { memory } => return forget(memory),
        };
        if std::fs::read_to_string(path).is_ok_and(|there| there == *text) {
            return Ok(());
        }
        files::tell(path, text.as_bytes()).map_err(|error| format!("{} could not be written: {error}", path.display()))
    }
}

/// Removes what is remembered of a cluster, and the file that tells of the piece that this host had, if it still does.
fn forget(memory: &Path) -> Result<(), String> {
    let failed = |path: &Path, error: io::Error| format!("{} could not be removed: {error}", path.display());
    let bytes = files::read(memory).map_err(|error| failed(memory, error))?.unwrap_or_default();
    if let Ok(Remembered { members, told: Some(told), .. }) = serde_json::from_slice(&bytes)
        && pieces_in(&told).is_some_and(|pieces| pieces == members.own.pieces)
    {
        files::remove(&told).map_err(|error| failed(&told, error))?;
    }
    files::remove(memory).map_err(|error| failed(memory, error))
}
