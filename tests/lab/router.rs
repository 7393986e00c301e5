//! Router advertisements (RFC 4861, 4.2), by which a machine becomes the router of others.

use std::mem;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, socket};

use super::space::Space;

/// Type 134, code 0, checksum by the kernel; hop limit 64, no flags, a lifetime of 1800 s; no timers, no options.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];

impl Space {
    /// Advertises this machine as a router to all nodes on a device, from `fe80::bad`.
    pub fn advertise_router(&self, device: &str) {
        self.try_run(["ip", "addr", "add", "fe80::bad/64", "dev", device, "nodad"]);
        self.enter(|| {
            let index = nix::net::if_::if_nametoindex(device).unwrap();
            let raw = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6).unwrap();
            // Others are dropped: it must not have been forwarded.
            let hops: libc::c_int = 255;
            let set = unsafe {
                libc::setsockopt(
                    raw.as_raw_fd(),
                    libc::IPPROTO_IPV6,
                    libc::IPV6_MULTICAST_HOPS,
                    (&raw const hops).cast(),
                    u32::try_from(mem::size_of_val(&hops)).unwrap(),
                )
            };
            assert_eq!(set, 0);
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let to = SockaddrIn6::from(std::net::SocketAddrV6::new(all_nodes, 0, 0, index));
            sendto(raw.as_raw_fd(), &ADVERTISEMENT, &to, MsgFlags::empty()).unwrap();
        });
    }
}
