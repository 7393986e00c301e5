//! Segment sizes of real connections through a router whose way to the server holds less than both ends think.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use nix::sched::setns;
use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};

use super::packets::ip;
use super::*;

/// The segment sizes that client and server came to.
fn sizes(spaces: &[File; 3], to: &str) -> (u32, u32) {
    let enter = |space: usize| setns(&spaces[space], CloneFlags::CLONE_NEWNET).unwrap();
    enter(2);
    let server = TcpListener::bind(SocketAddr::new(to.parse().unwrap(), 80)).unwrap();
    enter(1);
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let (accepted, _) = server.accept().unwrap();
    enter(0);
    (getsockopt(&client, TcpMaxSeg).unwrap(), getsockopt(&accepted, TcpMaxSeg).unwrap())
}

isolated! {
    fn segments_are_made_to_fit_the_way() {
        let here = || File::open("/proc/thread-self/ns/net").unwrap();
        let spaces = [(), (), ()].map(|()| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            here()
        });
        for (machine, mtu) in [(1, 1500), (2, 1400)] {
            setns(&spaces[0], CloneFlags::CLONE_NEWNET).unwrap();
            let far = format!("/proc/{}/fd/{}", std::process::id(), spaces[machine].as_raw_fd());
            ip(&format!("link add n{machine} mtu {mtu} type veth peer name e0 mtu 1500 netns {far}"));
            ip(&format!("link set n{machine} up"));
            ip(&format!("addr add 10.{machine}.0.1/24 dev n{machine}"));
            ip(&format!("addr add fd0{machine}::1/64 dev n{machine} nodad"));
            setns(&spaces[machine], CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set e0 up");
            ip(&format!("addr add 10.{machine}.0.2/24 dev e0"));
            ip(&format!("addr add fd0{machine}::2/64 dev e0 nodad"));
            ip(&format!("route add default via 10.{machine}.0.1"));
            ip(&format!("route add default via fd0{machine}::1"));
            // A time stamp in each segment would take 12 bytes of it.
            fs::write("/proc/sys/net/ipv4/tcp_timestamps", "0").unwrap();
        }
        setns(&spaces[0], CloneFlags::CLONE_NEWNET).unwrap();
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
        }
        assert_eq!(sizes(&spaces, "10.2.0.2"), (1460, 1460));
        assert_eq!(sizes(&spaces, "fd02::2"), (1440, 1440));

        let syn = || vec![is(Field::L4Proto, TCP), Expr::AnyBit { field: Field::TcpFlags, bits: TCP_SYN }];
        let towards = [vec![is(Field::Oifname, ifname("n2"))], syn(), vec![Expr::ClampMss]].concat();
        let both = [syn(), vec![Expr::ClampMss]].concat();
        let mangle = |rule| chain("mangle", base(ChainKind::Filter, Hook::Forward, PRIORITY_MANGLE), vec![rule]);
        let (before, after) = (mangle(towards), mangle(both));
        let mut firewall = Firewall::open().unwrap();
        run(&mut firewall, &create(&[table(), before.clone()]));
        // The answer leaves by the other device.
        assert_eq!(sizes(&spaces, "10.2.0.2"), (1460, 1360));
        assert_eq!(sizes(&spaces, "fd02::2"), (1440, 1340));
        run(&mut firewall, &[change(&before, after.1)]);
        // The way back is looked at too: the client's side holds 1500.
        assert_eq!(sizes(&spaces, "10.2.0.2"), (1360, 1360));
        assert_eq!(sizes(&spaces, "fd02::2"), (1340, 1340));
    }
}
