//! Netfilter's netlink, on which nftables and connection tracking are spoken: the wire format and the socket.

pub(super) mod socket;
pub(super) mod wire;
