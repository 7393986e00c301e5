//! What else there is on a host that a desired state meets: other programs' firewalls, and sockets at published ports.
//! Read only; netrec never writes to any of it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::firewall::{Hook, Policy};

/// What was found beside what is netrec's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Surroundings {
    /// Tables of other programs with a base chain on the hooks `forward` or `input`.
    pub tables: Vec<ForeignTable>,
    /// Sockets of the host that published ports shadow.
    pub listeners: Vec<Listener>,
    /// What could not be found out, each a sentence.
    pub notes: Vec<String>,
}

/// A table of another program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignTable {
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub name: String,
    /// Its chains, in the kernel's order.
    pub chains: Vec<ForeignChain>,
    /// Whether the chains' rules are known.
    #[serde(default)]
    pub rules_known: bool,
}

/// The families of tables that packets of netrec's networks pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFamily {
    /// `NFPROTO_IPV4`
    Ip,
    /// `NFPROTO_IPV6`
    Ip6,
    /// `NFPROTO_INET`: both.
    Inet,
    /// `NFPROTO_BRIDGE`: frames that a bridge hands on.
    Bridge,
}

impl TableFamily {
    /// Whether packets of an IP family pass its tables.
    pub fn has(self, ipv6: bool) -> bool {
        match self {
            Self::Ip => !ipv6,
            Self::Ip6 => ipv6,
            Self::Inet => true,
            Self::Bridge => false,
        }
    }
}

impl fmt::Display for TableFamily {
    /// As in `nft list table ip filter`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        })
    }
}

/// A chain of another program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignChain {
    /// Its name.
    pub name: String,
    /// Its hook and policy, where it is a base chain on `forward` or `input`.
    #[serde(default)]
    pub base: Option<(Hook, Policy)>,
    /// Its rules, where the table's are known.
    #[serde(default)]
    pub rules: Vec<ForeignRule>,
}

/// A rule of another program, as far as it decides on whole networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignRule {
    /// Its handle.
    pub handle: u32,
    /// All of these have to hold.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// What happens then.
    #[serde(default)]
    pub verdict: ForeignVerdict,
}

/// A condition of a foreign rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The packet came by one of these devices (`*` at the end for any ending), or by none of them.
    Incoming(OneOf),
    /// The packet leaves by one of these devices, or by none of them.
    Outgoing(OneOf),
    /// The flow is in one of these states of connection tracking, or in none of them.
    State(OneOf),
    /// The flow has one of these status bits of connection tracking, or none of them.
    Status(OneOf),
    /// The packet is of IPv6, or not.
    Ipv6(bool),
    /// Something that netrec does not look into.
    Other,
}

/// Some words, of which one is to be met, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneOf {
    /// The words.
    pub words: Vec<String>,
    /// Whether none is to be met.
    #[serde(default)]
    pub negate: bool,
}

impl fmt::Display for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.negate { "!= " } else { "" };
        match &self.words[..] {
            [one] => write!(f, "{not}{one}"),
            many => write!(f, "{not}{{ {} }}", many.join(", ")),
        }
    }
}

impl fmt::Display for Condition {
    /// In the syntax of `nft(8)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incoming(names) => write!(f, "iifname {names}"),
            Self::Outgoing(names) => write!(f, "oifname {names}"),
            Self::State(states) => write!(f, "ct state {states}"),
            Self::Status(bits) => write!(f, "ct status {bits}"),
            Self::Ipv6(true) => f.write_str("meta nfproto ipv6"),
            Self::Ipv6(false) => f.write_str("meta nfproto ipv4"),
            Self::Other => f.write_str("..."),
        }
    }
}

/// What a foreign rule does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForeignVerdict {
    /// Nothing that ends the packet's way through the chain, or something that netrec does not know.
    #[default]
    None,
    /// The chain's hook lets it pass.
    Accept,
    /// It is dropped.
    Drop,
    /// It is refused, in the words of the rule: `reject with icmpx admin-prohibited`.
    Reject(String),
    /// Another chain is asked, then the next rule.
    Jump(String),
    /// Another chain is asked instead of what follows.
    Goto(String),
    /// Back to the rule that asked this chain.
    Return,
}

impl fmt::Display for ForeignRule {
    /// In the syntax of `nft(8)`; `...` for what netrec does not know.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.conditions {
            write!(f, "{condition} ")?;
        }
        match &self.verdict {
            ForeignVerdict::None => f.write_str("..."),
            ForeignVerdict::Accept => f.write_str("accept"),
            ForeignVerdict::Drop => f.write_str("drop"),
            ForeignVerdict::Reject(words) => f.write_str(words),
            ForeignVerdict::Jump(chain) => write!(f, "jump {chain}"),
            ForeignVerdict::Goto(chain) => write!(f, "goto {chain}"),
            ForeignVerdict::Return => f.write_str("return"),
        }
    }
}

/// The addresses of the host by which a port is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// Every IPv4 address.
    AnyIpv4,
    /// Every IPv6 address but `::1` and link-local ones.
    AnyIpv6,
    /// This one, whatever is said of every address.
    One(IpAddr),
}

impl At {
    /// Every address of a family.
    pub fn any(ipv6: bool) -> Self {
        if ipv6 { Self::AnyIpv6 } else { Self::AnyIpv4 }
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(self) -> bool {
        match self {
            Self::AnyIpv4 => false,
            Self::AnyIpv6 => true,
            Self::One(ip) => ip.is_ipv6(),
        }
    }
}

/// Ports of the host that lead to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// The layer-4 protocol's number.
    pub protocol: u8,
    /// The host's addresses.
    pub at: At,
    /// The first port.
    pub first: u16,
    /// The last port, which may be the first.
    pub last: u16,
}

/// A socket of the host's that takes what is sent to a port: TCP's and SCTP's that listen, UDP's that are bound and not
/// connected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// The layer-4 protocol's number.
    pub protocol: u8,
    /// Its address; unspecified for every address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether an IPv6 socket takes no IPv4.
    #[serde(default)]
    pub only_ipv6: bool,
    /// Who has it open, where that can be seen.
    #[serde(default)]
    pub process: Option<Process>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    /// The name that the kernel has for it (`/proc/PID/comm`).
    pub name: String,
    /// Its number.
    pub pid: u32,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

impl Listener {
    /// Whether some of what is sent to the socket would go to the container instead.
    pub fn is_shadowed_by(&self, published: &Published) -> bool {
        if self.protocol != published.protocol || !(published.first..=published.last).contains(&self.port) {
            return false;
        }
        match (self.address.to_canonical(), published.at) {
            (IpAddr::V4(address), At::AnyIpv4) => !address.is_multicast(),
            (IpAddr::V6(address), At::AnyIpv4) => address.is_unspecified() && !self.only_ipv6,
            // These two are left out of every address.
            (IpAddr::V6(address), At::AnyIpv6) => {
                address != Ipv6Addr::LOCALHOST && !address.is_unicast_link_local() && !address.is_multicast()
            }
            (IpAddr::V4(_), At::AnyIpv6) => false,
            (address, At::One(one)) if address == one => true,
            (IpAddr::V4(address), At::One(one)) => address.is_unspecified() && one.is_ipv4(),
            (IpAddr::V6(address), At::One(one)) => address.is_unspecified() && (one.is_ipv6() || !self.only_ipv6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;

    /// Of these mappings of port 8080, those that shadow a socket of the address at that port.
    fn shadows(address: &str, only_ipv6: bool) -> Vec<&'static str> {
        let address = address.parse().unwrap();
        let listener = Listener { protocol: TCP, address, port: 8080, only_ipv6, process: None };
        let one = |text: &str| At::One(text.parse().unwrap());
        let all = [
            ("any4", At::AnyIpv4),
            ("any6", At::AnyIpv6),
            ("192.0.2.1", one("192.0.2.1")),
            ("127.0.0.1", one("127.0.0.1")),
            ("2001:db8::1", one("2001:db8::1")),
        ];
        let published = |at| Published { protocol: TCP, at, first: 8080, last: 8080 };
        all.into_iter().filter(|(_, at)| listener.is_shadowed_by(&published(*at))).map(|(name, _)| name).collect()
    }

    #[test]
    fn a_socket_is_shadowed_by_mappings_whose_addresses_it_has() {
        assert_eq!(shadows("0.0.0.0", false), ["any4", "192.0.2.1", "127.0.0.1"]);
        assert_eq!(shadows("192.0.2.1", false), ["any4", "192.0.2.1"]);
        assert_eq!(shadows("192.0.2.2", false), ["any4"]);
        assert_eq!(shadows("127.0.0.1", false), ["any4", "127.0.0.1"]);
        assert_eq!(shadows("::", false), ["any4", "any6", "192.0.2.1", "127.0.0.1", "2001:db8::1"]);
        assert_eq!(shadows("::", true), ["any6", "2001:db8::1"]);
        assert_eq!(shadows("2001:db8::1", true), ["any6", "2001:db8::1"]);
        assert_eq!(shadows("2001:db8::2", false), ["any6"]);
        assert_eq!(shadows("::ffff:192.0.2.1", false), ["any4", "192.0.2.1"]);
        // A mapping of every address covers neither.
        assert_eq!(shadows("::1", false), [""; 0]);
        assert_eq!(shadows("fe80::1", false), [""; 0]);
    }

    #[test]
    fn a_socket_is_shadowed_by_its_protocol_and_port_only() {
        let listener = |protocol, port| Listener {
            protocol,
            address: Ipv6Addr::UNSPECIFIED.into(),
            port,
            only_ipv6: false,
            process: None,
        };
        let range = Published { protocol: TCP, at: At::AnyIpv4, first: 8000, last: 8009 };
        let tried = [(TCP, 7999), (TCP, 8000), (TCP, 8009), (TCP, 8010), (17, 8000)];
        let hit: Vec<_> = tried.into_iter().filter(|(p, port)| listener(*p, *port).is_shadowed_by(&range)).collect();
        assert_eq!(hit, [(TCP, 8000), (TCP, 8009)]);
    }
}
