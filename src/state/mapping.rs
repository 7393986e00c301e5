//! Published ports as connection tracking sees them, and which flows a change of them leaves behind.
//!
//! The kernel asks the port maps once, at a flow's first packet; what they say later does not concern the flow. A flow is
//! stale when its first packet would go elsewhere now, and the change is what makes the difference.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `IPPROTO_UDP`
const UDP: u8 = 17;

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

/// A published port, with where it led before a change and where it leads after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The layer-4 protocol's number.
    pub protocol: u8,
    /// The host's addresses.
    pub at: At,
    /// The host's port.
    pub port: u16,
    /// The container's address and port before; none where the mapping comes.
    pub before: Option<SocketAddr>,
    /// The container's address and port after; none where the mapping goes.
    pub after: Option<SocketAddr>,
}

impl Mapping {
    /// Whether it comes, goes or leads elsewhere.
    pub fn changes(&self) -> bool {
        self.before != self.after
    }
}

/// What of a tracked flow tells whether it is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The layer-4 protocol's number.
    pub protocol: u8,
    /// Where its first packet was sent to (the original direction's destination).
    pub to: SocketAddr,
    /// Who answers (the reply direction's source): the container where the destination was rewritten, else `to`.
    pub answers: SocketAddr,
    /// Whether an answer was seen (`IPS_SEEN_REPLY`).
    pub answered: bool,
}

/// Mappings by what a flow asks for.
#[derive(Clone, Debug, Default)]
pub struct Mappings(HashMap<(u8, u16, At), Targets>);

/// Where a published port leads before and after.
type Targets = (Option<SocketAddr>, Option<SocketAddr>);

impl Mappings {
    /// Of a port that changes for one address, the mappings for all addresses of the family are needed: one address's
    /// mapping takes precedence over every address's, and hands over to it when it goes.
    pub fn new(mappings: &[Mapping]) -> Self {
        Self(mappings.iter().map(|m| ((m.protocol, m.port, m.at), (m.before, m.after))).collect())
    }

    /// Whether a flow is left behind by the change. `local` says whether an address is the host's own; it is asked only
    /// where that matters.
    ///
    /// Of the flows that were rewritten, those are stale that followed a mapping which leads elsewhere now: flows in
    /// transit to the same port of another machine, flows straight to the container, and what another program rewrote
    /// live on. Of those that were not, UDP's to the host itself are stale when a mapping has come. A TCP or SCTP
    /// connection that something on the host has answered would break without need, and is left to end by itself.
    pub fn leave(&self, flow: &Flow, local: impl FnOnce(IpAddr) -> bool) -> bool {
        let (before, after) = self.targets(flow);
        if before == after {
            return false;
        }
        if flow.answers != flow.to {
            return before == Some(flow.answers);
        }
        after.is_some() && (flow.protocol == UDP || !flow.answered) && local(flow.to.ip())
    }

    /// Where the flow's first packet would have gone before, and would go now, as the rules of the port maps say.
    fn targets(&self, flow: &Flow) -> Targets {
        let to = flow.to.ip();
        let look_up = |at| self.0.get(&(flow.protocol, flow.to.port(), at)).copied().unwrap_or_default();
        let any = match to {
            IpAddr::V6(ip) if ip == Ipv6Addr::LOCALHOST || ip.is_unicast_link_local() => (None, None),
            _ => look_up(At::any(to.is_ipv6())),
        };
        let one = look_up(At::One(to));
        (one.0.or(any.0), one.1.or(any.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;
    const HOST: &str = "192.0.2.1:8080";
    const OTHER_HOST: &str = "192.0.2.2:8080";
    const TRANSIT: &str = "198.51.100.7:8080";
    const WEB: &str = "10.20.0.10:80";
    const API: &str = "10.20.0.11:80";

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn mapping(at: At, before: Option<&str>, after: Option<&str>) -> [Mapping; 2] {
        [TCP, UDP].map(|protocol| Mapping {
            protocol,
            at,
            port: 8080,
            before: before.map(socket),
            after: after.map(socket),
        })
    }

    fn flow(protocol: u8, to: &str, answers: &str) -> Flow {
        Flow { protocol, to: socket(to), answers: socket(answers), answered: true }
    }

    /// The stale ones among flows of either protocol, all of them answered.
    fn stale(mappings: &[[Mapping; 2]], flows: &[(&str, &str)]) -> Vec<String> {
        let mappings = Mappings::new(&mappings.concat());
        let host = ["192.0.2.1", "192.0.2.2", "127.0.0.1", "2001:db8::1", "::1", "fe80::1"];
        let local = |ip: IpAddr| host.contains(&ip.to_string().as_str());
        let mut left = Vec::new();
        for (name, protocol) in [("tcp", TCP), ("udp", UDP)] {
            for (to, answers) in flows {
                if mappings.leave(&flow(protocol, to, answers), local) {
                    left.push(format!("{name} {to} -> {answers}"));
                }
            }
        }
        left
    }

    const FLOWS: [(&str, &str); 8] = [
        (HOST, HOST),
        (HOST, WEB),
        (HOST, API),
        (OTHER_HOST, WEB),
        (TRANSIT, TRANSIT),
        (TRANSIT, WEB),          // rewritten by somebody
        ("192.0.2.1:8081", WEB), // another mapping to the same port
        (WEB, WEB),
    ];

    #[test]
    fn a_mapping_that_comes_leaves_what_udp_clients_sent_before() {
        let comes = [mapping(At::AnyIpv4, None, Some(WEB))];
        assert_eq!(stale(&comes, &FLOWS), ["udp 192.0.2.1:8080 -> 192.0.2.1:8080"]);
        let comes = [mapping(At::One(socket(HOST).ip()), None, Some(WEB))];
        assert_eq!(stale(&comes, &[(HOST, HOST), (OTHER_HOST, OTHER_HOST)]), ["udp 192.0.2.1:8080 -> 192.0.2.1:8080"]);
        let comes = [mapping(At::One(socket(TRANSIT).ip()), None, Some(WEB))];
        assert_eq!(stale(&comes, &FLOWS), [""; 0], "an address that is not the host's, yet");
    }

    #[test]
    fn a_mapping_that_comes_leaves_what_nobody_answered() {
        let mappings = Mappings::new(&mapping(At::AnyIpv4, None, Some(WEB)));
        let unanswered = Flow { answered: false, ..flow(TCP, HOST, HOST) };
        assert!(mappings.leave(&unanswered, |_| true));
        assert!(!mappings.leave(&unanswered, |_| false));
    }

    #[test]
    fn a_mapping_that_goes_or_moves_leaves_the_flows_that_followed_it() {
        let wanted = ["tcp 192.0.2.1:8080 -> 10.20.0.10:80", "tcp 192.0.2.2:8080 -> 10.20.0.10:80"];
        let of_tcp = |all: Vec<String>| all.into_iter().filter(|f| f.starts_with("tcp")).collect::<Vec<_>>();
        // What leaves an address that is no longer the host's has followed it too.
        let wanted: Vec<_> = wanted.into_iter().chain(["tcp 198.51.100.7:8080 -> 10.20.0.10:80"]).collect();
        for after in [None, Some(API)] {
            assert_eq!(of_tcp(stale(&[mapping(At::AnyIpv4, Some(WEB), after)], &FLOWS)), wanted);
        }
        let one = [mapping(At::One(socket(HOST).ip()), Some(WEB), None)];
        assert_eq!(of_tcp(stale(&one, &FLOWS)), wanted[..1]);
        let direct = [mapping(At::AnyIpv4, Some("10.20.0.10:8080"), None)];
        assert_eq!(stale(&direct, &[("10.20.0.10:8080", "10.20.0.10:8080")]), [""; 0], "straight to the container");
    }

    #[test]
    fn one_address_comes_before_every_address() {
        let one = |before, after| mapping(At::One(socket(HOST).ip()), before, after);
        let any = |before, after| mapping(At::AnyIpv4, before, after);
        let flows = [(HOST, WEB), (HOST, API), (OTHER_HOST, WEB)];
        let both = |flow: &str| ["tcp", "udp"].map(|p| format!("{p} {flow}"));
        let takes_over = [any(Some(WEB), Some(WEB)), one(None, Some(API))];
        assert_eq!(stale(&takes_over, &flows), both("192.0.2.1:8080 -> 10.20.0.10:80"));
        let hands_over = [any(Some(WEB), Some(WEB)), one(Some(API), None)];
        assert_eq!(stale(&hands_over, &flows), both("192.0.2.1:8080 -> 10.20.0.11:80"));
        let same_target = [any(Some(WEB), None), one(Some(WEB), Some(WEB))];
        assert_eq!(stale(&same_target, &flows), both("192.0.2.2:8080 -> 10.20.0.10:80"));
    }

    #[test]
    fn loopback_is_mapped_in_ipv4_only() {
        let comes = [mapping(At::AnyIpv4, None, Some(WEB)), mapping(At::AnyIpv6, None, Some("[fd20::10]:80"))];
        let flows = ["127.0.0.1:8080", "[2001:db8::1]:8080", "[::1]:8080", "[fe80::1]:8080"].map(|a| (a, a));
        let wanted = ["udp 127.0.0.1:8080 -> 127.0.0.1:8080", "udp [2001:db8::1]:8080 -> [2001:db8::1]:8080"];
        assert_eq!(stale(&comes, &flows), wanted);
    }
}
