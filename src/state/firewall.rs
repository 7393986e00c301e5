//! The firewall's vocabulary: the chains, rules, sets and elements of the one table `inet netrec`.
//!
//! Rules are short lists of typed expressions, each of which compiles to a fixed run of nftables instructions and back
//! (`kernel/nftables`). `Display` is the syntax of `nft(8)`, so a plan shows what `nft list table inet netrec` would.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::names::InterfaceName;

/// The one table, of family `inet`.
pub const TABLE: &str = "netrec";

/// Text between elements of a list in braces, or after a colon, as `nft` prints it.
fn join(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display], separator: &str) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

/// The table itself: its mark (the table's comment), and what netrec never wants of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Table {
    /// Whether its chains are switched off (flag `dormant`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dormant: bool,
    /// What is in it beside chains, sets and elements, by nft's words and sorted: `counter hits`, `flowtable fast`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<String>,
}

/// What a set's key or a map's value consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataType {
    /// `ipv4_addr`, 4 bytes.
    Ipv4Addr,
    /// `ipv6_addr`, 16 bytes.
    Ipv6Addr,
    /// `inet_proto`, 1 byte: a layer-4 protocol number.
    InetProto,
    /// `inet_service`, 2 bytes: a port number.
    InetService,
    /// Several port numbers in a row: an `inet_service` in a set with `flags interval`. Only beside other parts.
    ServiceRange,
    /// `ifname`, 16 bytes: a device name.
    Ifname,
    /// A type that netrec does not use, by nft's number. Two that are none stand at the end of a live set's key to say
    /// that there is more to the set than can be said here: 0 for elements that are unlike any of netrec's, 1 for flags,
    /// a time limit, a size and the like.
    Other(u32),
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::InetProto => "inet_proto",
            Self::InetService | Self::ServiceRange => "inet_service",
            Self::Ifname => "ifname",
            Self::Other(number) => return write!(f, "unknown({number})"),
        })
    }
}

/// One value: a part of an element's key or data, or the right side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datum {
    /// An IPv4 address.
    Ipv4Addr(Ipv4Addr),
    /// An IPv6 address.
    Ipv6Addr(Ipv6Addr),
    /// A layer-4 protocol number (`IPPROTO_TCP`).
    InetProto(u8),
    /// A port, in host byte order.
    InetService(u16),
    /// The ports from one to another, both included; only in keys.
    ServiceRange(u16, u16),
    /// A device name.
    Ifname(InterfaceName),
    /// An address type of the routing table (`RTN_LOCAL`), as `fib … type` yields it.
    FibType(u32),
    /// The addresses of an IPv4 prefix; only in comparisons.
    Ipv4Net(Ipv4Addr, u8),
    /// The addresses of an IPv6 prefix; only in comparisons.
    Ipv6Net(Ipv6Addr, u8),
    /// A family of packets.
    NfProto(Family),
}

/// `RTN_LOCAL`: an address of this host.
pub const RTN_LOCAL: u32 = 2;

impl fmt::Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4Addr(a) | Self::Ipv4Net(a, 32) => a.fmt(f),
            Self::Ipv6Addr(a) | Self::Ipv6Net(a, 128) => a.fmt(f),
            Self::InetProto(1) => f.write_str("icmp"),
            Self::InetProto(6) => f.write_str("tcp"),
            Self::InetProto(17) => f.write_str("udp"),
            Self::InetProto(58) => f.write_str("ipv6-icmp"),
            Self::InetProto(132) => f.write_str("sctp"),
            Self::InetProto(n) => n.fmt(f),
            Self::InetService(port) => port.fmt(f),
            Self::ServiceRange(first, last) => write!(f, "{first}-{last}"),
            Self::Ifname(name) => write!(f, "\"{name}\""),
            Self::FibType(RTN_LOCAL) => f.write_str("local"),
            Self::FibType(n) => n.fmt(f),
            Self::Ipv4Net(a, n) => write!(f, "{a}/{n}"),
            Self::Ipv6Net(a, n) => write!(f, "{a}/{n}"),
            Self::NfProto(Family::Ipv4) => f.write_str("ipv4"),
            Self::NfProto(Family::Ipv6) => f.write_str("ipv6"),
        }
    }
}

/// Several values joined: `tcp . 8080`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Concat(pub Vec<Datum>);

impl Concat {
    /// Whether a part is a range.
    pub fn has_range(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Datum::ServiceRange(..)))
    }
}

impl fmt::Display for Concat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, &self.0, " . ")
    }
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// The types of the key's parts.
    pub key: Vec<DataType>,
    /// What a map maps to; none for a plain set.
    pub data: Option<SetData>,
    /// Whether each element counts the packets that it was found for, and their bytes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counted: bool,
}

/// What a map's elements hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetData {
    /// A verdict.
    Verdict,
    /// Joined values of these types.
    Values(Vec<DataType>),
}

impl Set {
    /// Whether its keys may be ranges.
    pub fn is_interval(&self) -> bool {
        self.key.contains(&DataType::ServiceRange)
    }
}

impl fmt::Display for Set {
    /// As after `type` in nft's syntax.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, &self.key, " . ")?;
        match &self.data {
            None => {}
            Some(SetData::Verdict) => f.write_str(" : verdict")?,
            Some(SetData::Values(types)) => {
                f.write_str(" : ")?;
                join(f, types, " . ")?;
            }
        }
        if self.is_interval() {
            f.write_str("; flags interval")?;
        }
        if self.counted { f.write_str("; counter") } else { Ok(()) }
    }
}

/// An element: nothing in a set, a value or a verdict in a map. Its key is part of its identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Element {
    /// What the key maps to.
    pub data: Option<ElementData>,
}

/// What an element of a map holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElementData {
    /// A verdict.
    Verdict(Verdict),
    /// Joined values.
    Values(Concat),
}

impl fmt::Display for ElementData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(v) => v.fmt(f),
            Self::Values(v) => v.fmt(f),
        }
    }
}

/// A chain with its rules, which change together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Where the kernel calls it; none for a chain that is only jumped to.
    pub base: Option<BaseChain>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// `NF_IP_PRI_RAW`: before connection tracking.
pub const PRIORITY_RAW: i32 = -300;
/// `NF_IP_PRI_MANGLE`: where packets are changed in other ways than by translation.
pub const PRIORITY_MANGLE: i32 = -150;
/// `NF_IP_PRI_NAT_DST`: the kernel calls all chains here that rewrite destinations, whatever their own priority.
pub const PRIORITY_DSTNAT: i32 = -100;
/// `NF_IP_PRI_FILTER`
pub const PRIORITY_FILTER: i32 = 0;
/// `NF_IP_PRI_NAT_SRC`: the same for sources.
pub const PRIORITY_SRCNAT: i32 = 100;

/// The hook of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseChain {
    /// What its rules may do.
    pub kind: ChainKind,
    /// When it is called.
    pub hook: Hook,
    /// Its place among the chains of the hook; lower is earlier.
    pub priority: i32,
    /// What happens to a packet at its end. netrec always wants `accept`: it shares the hook with others.
    pub policy: Policy,
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainKind {
    /// Accept or drop.
    Filter,
    /// Translate addresses; sees the first packet of a flow only.
    Nat,
}

/// A hook of the inet family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// `NF_INET_PRE_ROUTING`, 0.
    Prerouting,
    /// `NF_INET_LOCAL_IN`, 1.
    Input,
    /// `NF_INET_FORWARD`, 2.
    Forward,
    /// `NF_INET_LOCAL_OUT`, 3.
    Output,
    /// `NF_INET_POST_ROUTING`, 4.
    Postrouting,
}

/// The policy of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Let it pass.
    Accept,
    /// Drop it.
    Drop,
}

impl fmt::Display for BaseChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        let hook = match self.hook {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        };
        let policy = match self.policy {
            Policy::Accept => "accept",
            Policy::Drop => "drop",
        };
        write!(f, "type {kind} hook {hook} priority {}; policy {policy};", self.priority)
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rule(pub Vec<Expr>);

impl fmt::Display for Rule {
    /// As `nft` prints it: after `meta l4proto tcp` a port is a `tcp dport`, and the question itself goes unsaid.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut asked = None;
        let mut said: Vec<Option<Shown<'_>>> = Vec::with_capacity(self.0.len());
        for (i, expr) in self.0.iter().enumerate() {
            let mut transport = None;
            match expr {
                Expr::Match { field: Field::L4Proto, negate: false, value: Datum::InetProto(protocol) } => {
                    asked = Some((i, *protocol));
                }
                _ if expr.fields().iter().any(|field| matches!(field, Field::ThDport | Field::TcpFlags)) => {
                    if let Some((question, protocol @ (6 | 17 | 132))) = asked {
                        said[question] = None;
                        transport = Some(protocol);
                    }
                }
                _ => {}
            }
            said.push(Some(Shown { expr, transport }));
        }
        join(f, &said.into_iter().flatten().collect::<Vec<_>>(), " ")
    }
}

/// One expression of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    /// Go on if the field equals (or, negated, does not equal) the value.
    Match {
        /// The left side.
        field: Field,
        /// `!=` instead of `==`.
        negate: bool,
        /// The right side.
        value: Datum,
    },
    /// Go on if any of these bits of the field is set (`ct state established,related`).
    AnyBit {
        /// The left side; one that holds flags.
        field: Field,
        /// The bits, in the kernel's numbering.
        bits: u32,
    },
    /// Go on if the joined fields are (or are not) in a set.
    InSet {
        /// The parts of the key.
        fields: Vec<Field>,
        /// `!=` instead of `==`.
        negate: bool,
        /// The set's name.
        set: Arc<str>,
    },
    /// Do what a verdict map says; go on if it says nothing.
    Vmap {
        /// The parts of the key.
        fields: Vec<Field>,
        /// The map's name.
        map: Arc<str>,
    },
    /// Rewrite the destination to the address and port a map says, or to the address alone; go on if it says nothing.
    DnatMap {
        /// The family of the new address: also the family the packet must have.
        family: Family,
        /// The parts of the key.
        fields: Vec<Field>,
        /// The map's name; its data are an address and a port.
        map: Arc<str>,
        /// Whether the port stays, and the map's data are an address alone.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep_port: bool,
    },
    /// Rewrite the source to the address of the device the packet leaves by.
    Masquerade,
    /// Rewrite the source to this address, in packets of its family; others go on.
    Snat(IpAddr),
    /// Lower the segment size that a connection's first packets announce to what the packet's way holds, or the way back
    /// where that holds less (its MTU less both headers), and go on. A size that is lower already stays, and so does a
    /// packet without the option. Only where a way is known: in chains of the hooks `forward`, `output` and `postrouting`.
    ClampMss,
    /// Accept, drop, jump or return.
    Verdict(Verdict),
    /// A run of instructions that netrec does not write; somebody else put it into netrec's table.
    Unknown(String),
}

impl Expr {
    /// What it looks at.
    pub fn fields(&self) -> &[Field] {
        match self {
            Self::Match { field, .. } | Self::AnyBit { field, .. } => std::slice::from_ref(field),
            Self::InSet { fields, .. } | Self::Vmap { fields, .. } | Self::DnatMap { fields, .. } => fields,
            Self::Masquerade | Self::Snat(_) | Self::ClampMss | Self::Verdict(_) | Self::Unknown(_) => &[],
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown { expr: self, transport: None }.fmt(f)
    }
}

/// An expression in a rule that has asked for this transport protocol before, if it has.
struct Shown<'a> {
    expr: &'a Expr,
    transport: Option<u8>,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negate: &bool| if *negate { "!= " } else { "" };
        let fields =
            self.expr.fields().iter().map(|field| field.as_str(self.transport)).collect::<Vec<_>>().join(" . ");
        match self.expr {
            Expr::Match { negate, value, .. } => write!(f, "{fields} {}{value}", not(negate)),
            Expr::AnyBit { field, bits } => {
                write!(f, "{fields} ")?;
                let names: Vec<&str> =
                    field.bit_names().iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
                if names.is_empty() { write!(f, "{bits:#x}") } else { join(f, &names, ",") }
            }
            Expr::InSet { negate, set, .. } => write!(f, "{fields} {}@{set}", not(negate)),
            Expr::Vmap { map, .. } => write!(f, "{fields} vmap @{map}"),
            Expr::DnatMap { family, map, .. } => write!(f, "dnat {family} to {fields} map @{map}"),
            Expr::Masquerade => f.write_str("masquerade"),
            Expr::Snat(address) => write!(f, "snat {} to {address}", Family::of(*address)),
            Expr::ClampMss => f.write_str("tcp option maxseg size set rt mtu"),
            Expr::Verdict(v) => v.fmt(f),
            Expr::Unknown(text) => write!(f, "# not netrec's: {text}"),
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::Ipv6 } else { Self::Ipv4 }
    }
}

impl fmt::Display for Family {
    /// As in `dnat ip to`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
        })
    }
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The name of the device the packet came by.
    Iifname,
    /// The name of the device the packet leaves by.
    Oifname,
    /// The packet's family.
    NfProto,
    /// The layer-4 protocol.
    L4Proto,
    /// IPv4 source.
    IpSaddr,
    /// IPv4 destination.
    IpDaddr,
    /// IPv6 source.
    Ip6Saddr,
    /// IPv6 destination.
    Ip6Daddr,
    /// Destination port of tcp, udp and sctp: bytes 2 and 3 of the transport header.
    ThDport,
    /// The flags of a TCP header, as bits. Only after a match of [`Field::L4Proto`] with tcp: in other packets the byte is
    /// something else.
    TcpFlags,
    /// Connection tracking state, as bits.
    CtState,
    /// Connection tracking status, as bits.
    CtStatus,
    /// Where the flow's first packet was sent to, before all translation: an IPv4 address.
    CtOriginalIpDaddr,
    /// The same: an IPv6 address.
    CtOriginalIp6Daddr,
    /// The same: the port.
    CtOriginalProtoDst,
    /// What the destination is to the routing table.
    FibDaddrType,
}

/// Bits of [`Field::CtState`]: `NF_CT_STATE_BIT()` of established and related.
pub const CT_ESTABLISHED_RELATED: u32 = 2 | 4;
/// Bit of [`Field::CtStatus`]: `IPS_DST_NAT`.
pub const CT_STATUS_DNAT: u32 = 1 << 5;
/// Bit of [`Field::TcpFlags`] (RFC 9293): the packet opens a connection, or answers one that does.
pub const TCP_SYN: u32 = 1 << 1;

impl Field {
    /// The family a packet must have for this field to exist. What is of connection tracking the kernel asks itself.
    pub fn family(self) -> Option<Family> {
        match self {
            Self::IpSaddr | Self::IpDaddr => Some(Family::Ipv4),
            Self::Ip6Saddr | Self::Ip6Daddr => Some(Family::Ipv6),
            _ => None,
        }
    }

    /// nft's name for it where the transport protocol is known or not.
    fn as_str(self, transport: Option<u8>) -> &'static str {
        match self {
            Self::Iifname => "iifname",
            Self::Oifname => "oifname",
            Self::NfProto => "meta nfproto",
            Self::L4Proto => "meta l4proto",
            Self::IpSaddr => "ip saddr",
            Self::IpDaddr => "ip daddr",
            Self::Ip6Saddr => "ip6 saddr",
            Self::Ip6Daddr => "ip6 daddr",
            Self::ThDport => match transport {
                Some(6) => "tcp dport",
                Some(17) => "udp dport",
                Some(132) => "sctp dport",
                _ => "th dport",
            },
            Self::TcpFlags => "tcp flags",
            Self::CtState => "ct state",
            Self::CtStatus => "ct status",
            Self::CtOriginalIpDaddr => "ct original ip daddr",
            Self::CtOriginalIp6Daddr => "ct original ip6 daddr",
            Self::CtOriginalProtoDst => "ct original proto-dst",
            Self::FibDaddrType => "fib daddr type",
        }
    }

    fn bit_names(self) -> &'static [(u32, &'static str)] {
        match self {
            // In nft's order.
            Self::CtState => &[(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")],
            Self::CtStatus => &[
                (1, "expected"),
                (1 << 1, "seen-reply"),
                (1 << 2, "assured"),
                (1 << 3, "confirmed"),
                (1 << 4, "snat"),
                (1 << 5, "dnat"),
                (1 << 9, "dying"),
            ],
            Self::TcpFlags => &[
                (1, "fin"),
                (TCP_SYN, "syn"),
                (1 << 2, "rst"),
                (1 << 3, "psh"),
                (1 << 4, "ack"),
                (1 << 5, "urg"),
                (1 << 6, "ecn"),
                (1 << 7, "cwr"),
            ],
            _ => &[],
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str(None))
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It passes this base chain.
    Accept,
    /// It is dropped.
    Drop,
    /// Back to the calling chain.
    Return,
    /// On through another chain, and back.
    Jump(Arc<str>),
    /// On through another chain, and not back.
    Goto(Arc<str>),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}
