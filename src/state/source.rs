//! Namespaces that others make for what runs in them: containers of an engine, processes, machines, units. They come and go
//! with that, and each time it is another namespace.

use std::fmt;

use super::names::{Netns, Owner};

/// Who makes a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// Docker's engine, for a container.
    Docker,
    /// Podman, for a container.
    Podman,
    /// A process, by its number.
    Pid,
    /// systemd-nspawn, for a machine.
    Machine,
    /// systemd, for a unit.
    Unit,
}

impl SourceKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Docker, Self::Podman, Self::Pid, Self::Machine, Self::Unit];

    /// The key of the file that names one, which is also the beginning of its name in plans.
    pub fn key(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Pid => "pid",
            Self::Machine => "machine",
            Self::Unit => "unit",
        }
    }

    /// What makes something of its kind have a network namespace of its own.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Docker | Self::Podman => "start it with `--network none`",
            Self::Pid => "name a process in a network namespace of its own",
            Self::Machine => "start it with `--private-network`",
            Self::Unit => "set `PrivateNetwork=yes` in the unit",
        }
    }
}

/// Something that has a namespace of its own, which somebody else made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source<'a> {
    /// Who made it.
    pub kind: SourceKind,
    /// What it is called there: a container's name or id, a process's number, a machine's or a unit's name.
    pub name: &'a str,
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match self.kind {
            SourceKind::Docker => write!(f, "container `{name}` of Docker"),
            SourceKind::Podman => write!(f, "container `{name}` of Podman"),
            SourceKind::Pid => write!(f, "process {name}"),
            SourceKind::Machine => write!(f, "machine `{name}`"),
            SourceKind::Unit => write!(f, "unit `{name}`"),
        }
    }
}

impl Netns {
    /// The namespace of something that somebody else made: `docker:web`, `pid:4711`, `unit:web.service`. No name under
    /// `/run/netns` that netrec makes has a colon in it, and no path begins so.
    pub fn of(source: Source<'_>) -> Self {
        Self::new(format!("{}:{}", source.kind.key(), source.name))
    }

    /// What it is the namespace of, where it is called so.
    pub fn source(&self) -> Option<Source<'_>> {
        let (key, name) = self.label()?.split_once(':')?;
        let kind = SourceKind::ALL.into_iter().find(|kind| kind.key() == key)?;
        Some(Source { kind, name })
    }
}

/// What is known of somebody else's namespace before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// The path of the namespace's file.
    At(String),
    /// There is none now. The end of a sentence about it, and the command that brings it about, where there is one.
    Absent(String),
    /// Who knows cannot be asked: why, a sentence.
    Unknown(String),
    /// It is not to be used: why and what to do, the end of a sentence.
    Refused(String),
}

/// What is said of a mount namespace or the like where one of a network is to be.
pub const OTHER_KIND: &str = "it is a namespace of another kind, not of a network";

/// Somebody else's namespace, to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchedFor {
    /// What it is called.
    pub netns: Netns,
    /// The container that is to live in it.
    pub owner: Owner,
    /// What is known of it.
    pub lead: Lead,
}

/// What came of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// It is there, and held open until the next search: its device and inode number.
    Here((u64, u64)),
    /// It is taken for the one in which the container's interfaces are, since who knows cannot be asked: why, a sentence.
    Believed((u64, u64), String),
    /// There is none to be used now: the end of a sentence about it.
    Absent(String),
    /// Who knows cannot be asked, and no interface of the container's is anywhere: why, a sentence.
    Unknown(String),
    /// It is not to be used: why and what to do, the end of a sentence.
    Refused(String),
}

impl Whereabouts {
    /// The device and inode number of a namespace that is used.
    pub fn id(&self) -> Option<(u64, u64)> {
        match self {
            Self::Here(id) | Self::Believed(id, _) => Some(*id),
            Self::Absent(_) | Self::Unknown(_) | Self::Refused(_) => None,
        }
    }

    /// Whether what needs it has to wait.
    pub fn is_waited_for(&self) -> bool {
        matches!(self, Self::Absent(_) | Self::Unknown(_))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_name_tells_its_source() {
        let unit = Source { kind: SourceKind::Unit, name: "a:b@c.service" };
        let netns = Netns::of(unit);
        assert_eq!(netns.to_string(), "unit:a:b@c.service");
        assert_eq!(netns.source(), Some(unit));
        for other in ["web", "/run/netns/docker:web", "dockers:web", "?"] {
            assert_eq!(Netns::new(other).source(), None, "{other}");
        }
        assert_eq!(Netns::HOST.source(), None);
    }
}
