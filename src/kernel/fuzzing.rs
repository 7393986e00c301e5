//! What reads the kernel's answers, by itself: for tests with bytes that no kernel sends.

use super::nfnetlink::wire::messages;
use super::{conntrack, netlink, nftables, sockets};

/// Reads the body of a route message as each of those that are read. Yields whether it is any.
pub fn rtnetlink(body: &[u8]) -> bool {
    netlink::is_any(body)
}

/// Reads a datagram of netfilter messages as all that are read: of tables, flows and sockets. Yields how many things it
/// tells of.
pub fn netfilter(datagram: &[u8]) -> usize {
    let flows = messages(datagram).filter(|message| conntrack::is_flow(*message)).count();
    let sockets = messages(datagram).filter(|message| sockets::is_listener(*message)).count();
    nftables::things(datagram) + flows + sockets
}
