//! Probes: real packets between network namespaces, to find out what reaches what.
//!
//! A [`Listener`] answers with its name and the address it was asked from, [`connect`] and [`ping`] ask and say what came
//! of it. There are no helper programs, no children and nothing in the file system: all of it is sockets and threads,
//! and ends with the process. A socket belongs to the namespace of the thread that made it and stays there, so that only
//! its making needs a thread inside the namespace.

mod ask;
mod listen;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

pub use ask::{STRANGER, connect, ping, source};
pub use listen::Listener;

use super::netns::Handle;

/// A network namespace to send from and listen in.
#[derive(Debug)]
pub struct Space {
    handle: Handle,
}

impl Space {
    /// The namespace that a path leads to, such as `/run/netns/web` or `/proc/7/ns/net`.
    ///
    /// # Errors
    /// When the file is not there, may not be opened, or is not a namespace's.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_handle(Handle::open(path)?)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// Without `/proc`.
    pub fn current() -> io::Result<Self> {
        Self::from_handle(Handle::own()?)
    }

    fn from_handle(handle: Option<Handle>) -> io::Result<Self> {
        let handle = handle.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such namespace"))?;
        Ok(Self { handle })
    }

    /// Runs work on a thread of its own inside the namespace, and waits for it.
    ///
    /// # Errors
    /// When no thread can be had, or the namespace may not be entered (`EPERM` without `CAP_SYS_ADMIN` over it); the
    /// work was not begun then.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = || {
                self.handle.enter()?;
                Ok(work())
            };
            let thread = thread::Builder::new().spawn_scoped(scope, inside)?;
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

/// What a probe goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, which many kernels lack: see [`supported`](Self::supported).
    Sctp,
}

impl Transport {
    /// Its number in the IP header (`IPPROTO_TCP`).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Whether the kernel has sockets of it, loaded as a module or not yet.
    pub fn supported(self) -> bool {
        !matches!(self.socket(false), Err(Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT))
    }

    /// A non-blocking socket in the namespace of the calling thread. SCTP is used like TCP (one-to-one style, RFC 6458,
    /// section 4).
    fn socket(self, ipv6: bool) -> Result<OwnedFd, Errno> {
        let (kind, protocol) = match self {
            Self::Tcp => (SockType::Stream, SockProtocol::Tcp),
            Self::Udp => (SockType::Datagram, SockProtocol::Udp),
            Self::Sctp => (SockType::Stream, SockProtocol::Sctp),
        };
        open_socket(ipv6, kind, protocol)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

fn open_socket(ipv6: bool, kind: SockType, protocol: SockProtocol) -> Result<OwnedFd, Errno> {
    let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, protocol)
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody answered.
    Answered {
        /// The listener's name; [`STRANGER`] for what is none of netrec's; of a ping the address that answered.
        by: String,
        /// The address that the answerer saw as the asker's, after all translation on the way. A ping and a stranger do
        /// not tell: then it is the address that was sent from.
        seen_from: IpAddr,
    },
    /// A reset, or "port unreachable": nobody listens there, or a rule rejected it that way.
    Refused,
    /// There is no way, in the kernel's words: of the own namespace or, by ICMP, of one on the way.
    Unreachable(String),
    /// Nothing came back in time, or the own namespace's firewall did not let it out.
    Silent,
    /// It could not be tried, and why: the kernel lacks the protocol, the namespace cannot be entered, there are too
    /// many open files.
    NotTried(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { by, seen_from } => write!(f, "answered by {by}, asked from {seen_from}"),
            Self::Refused => f.write_str("refused"),
            Self::Unreachable(why) => write!(f, "unreachable ({why})"),
            Self::Silent => f.write_str("no answer"),
            Self::NotTried(why) => write!(f, "not tried ({why})"),
        }
    }
}

/// What a listener says: the asker's address, a space, its own name, a line feed.
fn banner(name: &str, asker: IpAddr) -> String {
    format!("{asker} {name}\n")
}

/// Who said it, and what address he saw; none where it is not a whole banner.
fn parse_banner(said: &[u8]) -> Option<(String, IpAddr)> {
    let line = str::from_utf8(said).ok()?.strip_suffix('\n')?;
    let (asker, name) = line.split_once(' ')?;
    Some((name.to_owned(), asker.parse().ok()?))
}
