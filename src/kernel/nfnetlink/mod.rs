//! Netfilter's netlink, on which nftables and connection tracking are spoken: the wire format and the socket. Socket
//! diagnostics use both, with another header.

pub(super) mod socket;
pub(super) mod wire;
