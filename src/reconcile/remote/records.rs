//! What plugins were told, in files: one for each of their networks and containers. A file is written before the first call
//! that changes anything and after each, and removed after the last, so that no death forgets one.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::super::files;
use crate::state::{Answer, Endpoint, Key, Owner, PluginNetwork};

/// The format of the files.
const FORMAT: u32 = 1;

/// What one file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    /// The inode number of the host's network namespace.
    host: u64,
    /// For whom it is.
    pub owners: Vec<Owner>,
    /// What it is about.
    #[serde(flatten)]
    pub what: What,
}

/// What a file is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum What {
    Network(NetworkRecord),
    Endpoint(EndpointRecord),
}

/// A network of a plugin's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    pub network: Arc<str>,
    /// What is wanted of it.
    pub asked: PluginNetwork,
    /// The pools of its subnets, where a plugin gives addresses.
    pub pools: Vec<PoolRecord>,
    /// The address space that those are of.
    #[serde(default)]
    pub space: String,
    /// The hosts that the plugin was told of.
    pub hosts: Vec<IpAddr>,
    pub allocated: Stage,
    pub created: Stage,
}

/// A pool of addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PoolRecord {
    pub subnet: IpNetwork,
    /// None while there is no answer.
    pub id: Option<String>,
    /// The gateway's address, where that was reserved.
    pub gateway: Option<IpAddr>,
    /// Others that were, so that no container gets them.
    #[serde(default)]
    pub reserve: Vec<IpAddr>,
    /// Whether an address of it may be reserved that nobody knows, since time ran out before the answer came.
    #[serde(default)]
    pub unsure: bool,
}

/// A container on a plugin's network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EndpointRecord {
    pub network: Arc<str>,
    pub container: Arc<str>,
    /// The network's plugins.
    pub plugin: String,
    pub ipam: Option<String>,
    /// What is wanted of it.
    pub asked: Endpoint,
    pub leases: Vec<Lease>,
    pub created: Stage,
    pub joined: Stage,
    pub external: Stage,
    /// Whether the plugin said that it knew it when it was made. One that never says so is not asked.
    #[serde(default)]
    pub known: bool,
    /// What came of it, once it is whole.
    pub answer: Option<Answer>,
}

/// An address of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub pool: String,
    /// None while there is no answer.
    pub address: Option<IpAddr>,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// It was not made, or has been taken back.
    #[default]
    Not,
    /// It was to be made; nobody knows whether it was.
    Begun,
    /// It was answered.
    Done,
}

impl Record {
    pub(super) fn new(host: u64, owners: Vec<Owner>, what: What) -> Self {
        Self { format: FORMAT, host, owners, what }
    }

    pub(super) fn key(&self) -> Key {
        match &self.what {
            What::Network(network) => Key::Network { network: network.network.clone() },
            What::Endpoint(endpoint) => {
                Key::Endpoint { network: endpoint.network.clone(), container: endpoint.container.clone() }
            }
        }
    }
}

/// Where what plugins were told of something is written.
pub(super) fn path(key: &Key) -> PathBuf {
    PathBuf::from(files::RUN).join("remote").join(id(key))
}

/// The id by which a plugin knows something: 64 hex digits made of the names alone.
pub(super) fn id(key: &Key) -> String {
    let name = match key {
        Key::Endpoint { network, container } => format!("{network}/{container}"),
        key => key.name(),
    };
    let part = |number: u8| match number {
        0 => crate::state::hash(&name),
        number => crate::state::hash(&format!("{number}/{name}")),
    };
    let [a, b, c, d] = [0, 1, 2, 3].map(part);
    format!("{a:016x}{b:016x}{c:016x}{d:016x}")
}

/// All of a host's.
pub(super) fn all(host: u64) -> io::Result<Vec<Record>> {
    let folder = PathBuf::from(files::RUN).join("remote");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // One that begins with a dot is being written.
        let is_record = path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."));
        if let Some(record) = read(&path).transpose().filter(|_| is_record) {
            records.push(record?);
        }
    }
    records.retain(|record| record.host == host);
    Ok(records)
}

/// The one about something; an error where it is another host's.
pub(super) fn of(key: &Key, host: u64) -> io::Result<Option<Record>> {
    match read(&path(key))? {
        Some(record) if record.host != host => {
            let text =
                format!("{} is of another network namespace of this machine: choose another name", path(key).display());
            Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
        }
        record => Ok(record),
    }
}

fn read(path: &Path) -> io::Result<Option<Record>> {
    let Some(bytes) = files::read(path)? else { return Ok(None) };
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| {
        let text = format!("{} is not what netrec wrote there ({error}): remove it", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    if record.format != FORMAT {
        let text = format!("{} is of another version of netrec's", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Some(record))
}

pub(super) fn save(record: &Record) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(record)?;
    files::keep(&path(&record.key()), &bytes)
}

pub(super) fn remove(key: &Key) -> io::Result<()> {
    files::remove(&path(key))
}
