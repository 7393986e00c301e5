//! The one list of what a snapshot leaves out, each with the reason. No test strips anything else.

use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourState;
use serde_json::Value;

/// Attributes that say nothing about how the network is set up, by section (empty: every one) and name, which may have
/// that of the object around it before it.
pub(super) const ATTRIBUTES: &[(&str, &str, &str)] = &[
    ("", "ifindex", "a number the kernel gives in the order of creation"),
    ("", "link_index", "the same, of the other end"),
    ("", "link_netnsid", "a number the kernel gives when two namespaces first meet"),
    ("link", "gc_timer", "a running timer"),
    ("link", "hello_timer", "a running timer"),
    ("link", "tcn_timer", "a running timer"),
    ("link", "topology_change_timer", "a running timer"),
    ("link", "forward_delay_timer", "a running timer"),
    ("link", "hold_timer", "a running timer"),
    ("link", "message_age_timer", "a running timer"),
    ("link", "info_slave_data.no", "a number the bridge gives in the order in which ports join"),
    ("link", "info_slave_data.id", "the same, with the priority before it"),
    ("link", "info_slave_data.designated_port", "the same"),
    ("address", "tentative", "for the second that duplicate address detection takes"),
    ("address", "valid_life_time", "runs down, on addresses that are not permanent"),
    ("address", "preferred_life_time", "runs down, on addresses that are not permanent"),
    ("route", "expires", "a running timer"),
    ("neighbour", "lladdr_used", "a time"),
    ("neighbour", "used", "a time"),
    ("neighbour", "probes", "a counter"),
    ("neighbour", "refcnt", "a counter"),
    ("nft", "handle", "a number the kernel gives in the order of creation"),
    ("nft", "packets", "a counter"),
    ("nft", "bytes", "a counter"),
];

/// Kernel parameters that are measurements, by their path below `/proc/sys`.
pub(super) const SYSCTLS: &[(&str, &str)] = &[
    ("net/netfilter/nf_conntrack_count", "a counter"),
    ("net/unix/max_dgram_qlen", "not about IP, and another namespace's default on some kernels"),
];

/// Whole objects that come and go with traffic, by section.
pub(super) fn is_passing(section: &str, object: &Value) -> Option<&'static str> {
    let has_state = |wanted: &[&str]| {
        let states = object["state"].as_array().into_iter().flatten().chain(Some(&object["state"]));
        states.filter_map(Value::as_str).any(|s| wanted.iter().any(|w| s.eq_ignore_ascii_case(w)))
    };
    let multicast = || {
        let to = object["dst"].as_str().and_then(|a| a.parse::<IpAddr>().ok());
        to.is_some_and(|a| a.is_multicast())
    };
    let has_flag = |flag: &str| object["flags"].as_array().is_some_and(|f| f.iter().any(|f| f == flag));
    match section {
        "neighbour" if has_state(&["NOARP"]) && multicast() => Some("made on the first packet to the group"),
        "neighbour" if !has_state(&["PERMANENT", "NOARP"]) => {
            Some("found by ARP or NDP; its NUD state changes by itself")
        }
        "fdb" if !has_state(&["permanent", "static"]) && !has_flag("extern_learn") => Some("learned from a frame"),
        "route" if object["type"] == "anycast" => Some("a router's; not made where the carrier came after the address"),
        "route" if has_flag("cached") => Some("learned from an ICMP message"),
        _ => None,
    }
}

/// Notifications of what the kernel does by itself, long after what it was set up with.
pub(super) fn is_passing_event(message: &RouteNetlinkMessage) -> Option<&'static str> {
    match message {
        RouteNetlinkMessage::NewNeighbour(m) | RouteNetlinkMessage::DelNeighbour(m)
            if !matches!(m.header.state, NeighbourState::Permanent | NeighbourState::Noarp) =>
        {
            Some("found by ARP or NDP; its NUD state changes by itself")
        }
        _ => None,
    }
}
