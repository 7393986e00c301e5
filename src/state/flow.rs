//! Flows as connection tracking knows them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    /// Its address.
    pub ip: IpAddr,
    /// Its port; none where the protocol has no ports.
    pub port: Option<u16>,
}

impl From<SocketAddr> for End {
    fn from(socket: SocketAddr) -> Self {
        Self { ip: socket.ip(), port: Some(socket.port()) }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// What of a tracked flow tells whether rules that changed would still have it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The layer-4 protocol's number.
    pub protocol: u8,
    /// Who sent its first packet (the original direction's source).
    pub from: IpAddr,
    /// Where its first packet was sent to (the original direction's destination).
    pub to: End,
    /// Who answers (the reply direction's source): the container where the destination was rewritten, else `to`.
    pub answers: End,
    /// Whether an answer was seen (`IPS_SEEN_REPLY`).
    pub answered: bool,
    /// Whether another flow announced it (`IPS_EXPECTED`), so that its first packet was no new one but a related one.
    pub related: bool,
}

impl Flow {
    /// Whether its destination was rewritten, by whomever.
    pub fn is_rewritten(&self) -> bool {
        self.answers != self.to
    }
}

/// What a counter has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets, in both directions.
    pub packets: u64,
    /// Their bytes from the IP header on.
    pub bytes: u64,
}

/// Whether a flow is to end. The second argument says whether an address is the host's own, now.
pub type Stale<'a> = &'a dyn Fn(&Flow, &dyn Fn(IpAddr) -> bool) -> bool;
