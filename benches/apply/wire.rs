//! Netlink as bytes: messages made beforehand, sent many at a time, their acknowledgements counted.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket as RawSocket, protocols::NETLINK_ROUTE};

/// Messages per send, as in netrec.
const BATCH: usize = 128;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NETFILTER: isize = 12;

/// Stands in a message for a descriptor that is not open yet.
pub(crate) const DESCRIPTOR: i32 = 0x7ead_beef;

/// A message that asks for an acknowledgement.
pub(crate) fn change(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    serialized(message, flags | NLM_F_REQUEST | NLM_F_ACK)
}

/// A request for a table.
pub(crate) fn dump(message: RouteNetlinkMessage) -> Vec<u8> {
    serialized(message, NLM_F_REQUEST | NLM_F_DUMP)
}

fn serialized(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut bytes);
    bytes
}

/// A request for a table of nftables: `enum nf_tables_msg_types`, and the attributes.
pub(crate) fn nftables_dump(kind: u8, attributes: &[(u16, &str)]) -> Vec<u8> {
    const NFPROTO_INET: u8 = 1;
    // `struct nlmsghdr` with the subsystem nftables (10), then `struct nfgenmsg`.
    let mut bytes = vec![0, 0, 0, 0, kind, 10];
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([NFPROTO_INET, 0, 0, 0]);
    for (kind, text) in attributes {
        bytes.extend(u16::try_from(4 + text.len() + 1).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(text.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

/// Puts an open descriptor into a message.
pub(crate) fn with_descriptor(message: &[u8], descriptor: &OwnedFd) -> Vec<u8> {
    let mut message = message.to_vec();
    let at = message.windows(4).position(|bytes| bytes == DESCRIPTOR.to_ne_bytes()).unwrap();
    message[at..at + 4].copy_from_slice(&descriptor.as_raw_fd().to_ne_bytes());
    message
}

/// A socket in the namespace of the thread that opens it.
pub(crate) struct Socket(RawSocket, Vec<u8>);

impl Socket {
    pub(crate) fn open() -> Self {
        Self(RawSocket::new(NETLINK_ROUTE).unwrap(), Vec::with_capacity(64 << 10))
    }

    pub(crate) fn netfilter() -> Self {
        Self(RawSocket::new(NETFILTER).unwrap(), Vec::with_capacity(64 << 10))
    }

    /// Sends messages; all must succeed.
    pub(crate) fn send<M: AsRef<[u8]>>(&mut self, messages: &[M]) {
        for batch in messages.chunks(BATCH) {
            let bytes: Vec<u8> = batch.iter().flat_map(AsRef::as_ref).copied().collect();
            self.0.send(&bytes, 0).unwrap();
            let mut waiting = batch.len();
            while waiting > 0 {
                self.receive(|kind, code| {
                    assert!(kind == NLMSG_ERROR && code == 0, "{}", std::io::Error::from_raw_os_error(-code));
                    waiting -= 1;
                });
            }
        }
    }

    /// Asks for a table and receives it.
    pub(crate) fn dump(&mut self, message: &[u8]) {
        self.0.send(message, 0).unwrap();
        let mut done = false;
        while !done {
            self.receive(|kind, code| {
                assert!(kind != NLMSG_ERROR, "{}", std::io::Error::from_raw_os_error(-code));
                done |= kind == NLMSG_DONE;
            });
        }
    }

    /// Hands over the type and the first number of every message of a datagram.
    fn receive(&mut self, mut each: impl FnMut(u16, i32)) {
        let Self(socket, buffer) = self;
        buffer.clear();
        let length = socket.recv(buffer, libc::MSG_TRUNC).unwrap();
        assert_eq!(length, buffer.len());
        let mut rest = buffer.as_slice();
        while let Some(head) = rest.get(..20) {
            let number = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
            each(u16::from_ne_bytes([head[4], head[5]]), number(16).cast_signed());
            rest = rest.get(number(0).next_multiple_of(4) as usize..).unwrap_or_default();
        }
    }
}
