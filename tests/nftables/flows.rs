//! Many flows, and a change that leaves few of them behind.

use std::cell::Cell;
use std::net::UdpSocket;
use std::time::Instant;

use super::*;
use netrec::kernel::{Backend, Linux};
use netrec::plan::flows::Change;

/// The host's own packets look published ports up.
fn published(ports: impl Iterator<Item = u16>) -> Vec<(Key, Entry)> {
    use DataType::{InetProto, InetService, Ipv4Addr};
    let dnat = Expr::DnatMap {
        family: Family::Ipv4,
        fields: vec![Field::L4Proto, Field::ThDport],
        map: name("any4"),
        keep_port: false,
    };
    let local = is(Field::FibDaddrType, Datum::FibType(RTN_LOCAL));
    let mut all = vec![
        table(),
        set("any4", &[InetProto, InetService], values(&[Ipv4Addr, InetService])),
        chain("ports", None, vec![vec![dnat]]),
        chain(
            "out",
            base(ChainKind::Nat, Hook::Output, -100),
            vec![vec![local, Expr::Verdict(Verdict::Jump(name("ports")))]],
        ),
    ];
    let to = || to(vec![ip4("10.1.0.2"), port(80)]);
    all.extend(ports.map(|p| element("any4", vec![UDP, port(p)], to(), "containers.web")));
    all
}

isolated! {
    fn of_fifty_thousand_flows_those_end_that_a_change_leaves_behind() {
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let before = published(60_000..61_000);
        run(&mut Firewall::open().unwrap(), &create(&before));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for port in 1..=50_000_u16 {
            // Nobody listens, which the next datagram is told.
            assert!((0..5).any(|_| client.send_to(b"x", ("127.0.0.1", port)).is_ok()), "{port}");
        }
        let (before, after) = (state(&before), state(&published((60_000..61_000).chain(2_000..2_100))));
        let begin = Instant::now();
        let change = Change::between(&before, &after).unwrap();
        let prepared = begin.elapsed();
        let mut kernel = Linux::open().unwrap();
        let judged = Cell::new(0);
        let begin = Instant::now();
        let ended = kernel.forget(&|flow, local| {
            judged.set(judged.get() + 1);
            change.leaves(flow, local)
        });
        println!("{} flows judged in {:?}, after {prepared:?}", judged.get(), begin.elapsed());
        assert_eq!((ended, judged.get() >= 49_000), (Ok(100), true));
        assert_eq!(kernel.forget(&|flow, local| change.leaves(flow, local)), Ok(0));
    }
}
