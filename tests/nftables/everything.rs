//! Everything that the vocabulary can say, as netrec and as `nft` write it.

use super::*;

/// Everything that the vocabulary can say.
fn everything() -> Vec<(Key, Entry)> {
    use DataType::{Ifname, InetProto, InetService, Ipv4Addr, Ipv6Addr, ServiceRange};
    vec![
        table(),
        set("exact4", &[Ipv4Addr, InetProto, InetService], values(&[Ipv4Addr, InetService])),
        set("any4", &[InetProto, InetService], values(&[Ipv4Addr, InetService])),
        set("any6", &[InetProto, InetService], values(&[Ipv6Addr, InetService])),
        set("bridges", &[Ifname], None),
        set("hosts4", &[Ipv4Addr], None),
        set("hosts6", &[Ipv6Addr, InetService], None),
        set("nets6", &[Ipv6Addr], None),
        set("protos", &[InetProto], None),
        set("tunnel-port", &[InetService], None),
        set("services", &[InetService], values(&[Ipv4Addr])),
        set("pairs", &[Ifname, Ifname], None),
        set("from", &[Ifname], Some(SetData::Verdict)),
        set("guard", &[Ifname, Ipv4Addr], Some(SetData::Verdict)),
        set("range4", &[InetProto, ServiceRange], values(&[Ipv4Addr])),
        set("open6", &[Ipv6Addr, InetProto, ServiceRange], Some(SetData::Verdict)),
        chain("pre", base(ChainKind::Nat, Hook::Prerouting, -100), rules_of_pre()),
        chain("out", base(ChainKind::Nat, Hook::Output, -100), vec![]),
        chain("post", base(ChainKind::Nat, Hook::Postrouting, 100), rules_of_post()),
        chain("in", base(ChainKind::Filter, Hook::Input, 0), vec![]),
        chain("forward", base(ChainKind::Filter, Hook::Forward, -10), rules_of_forward()),
        chain("mangle", base(ChainKind::Filter, Hook::Forward, PRIORITY_MANGLE), rules_of_mangle()),
        chain("raw", base(ChainKind::Filter, Hook::Prerouting, -300), rules_of_raw()),
        chain("sub", None, vec![vec![Expr::Verdict(Verdict::Return)]]),
        chain("side", None, vec![]),
        element(
            "exact4",
            vec![ip4("192.0.2.7"), TCP, port(8080)],
            to(vec![ip4("10.1.0.2"), port(80)]),
            "containers.web",
        ),
        element("any4", vec![UDP, port(53)], to(vec![ip4("10.1.0.3"), port(5353)]), "containers.dns.ports[0]"),
        element("any6", vec![TCP, port(80)], to(vec![ip6("fd00::2"), port(8000)]), "containers.web.ports[1]"),
        element("bridges", vec![ifname("nr-front")], None, "networks.front"),
        element("hosts4", vec![ip4("10.0.0.1")], None, "networks.front"),
        element("hosts6", vec![ip6("fd00::1"), port(443)], None, "networks.front"),
        element("nets6", vec![ip6("fd00::1")], None, "networks.front"),
        element("tunnel-port", vec![port(4789)], None, "networks.front"),
        element("protos", vec![Datum::InetProto(132)], None, "networks.front"),
        element("services", vec![port(22)], to(vec![ip4("10.0.0.9")]), "networks.front"),
        element("pairs", vec![ifname("a"), ifname("nr-123456789012")], None, "networks.front"),
        verdict("from", vec![ifname("br0")], Verdict::Jump(name("sub"))),
        verdict("from", vec![ifname("br1")], Verdict::Goto(name("side"))),
        verdict("from", vec![ifname("br2")], Verdict::Accept),
        verdict("from", vec![ifname("br3")], Verdict::Drop),
        verdict("from", vec![ifname("br4")], Verdict::Return),
        element("range4", vec![TCP, Datum::ServiceRange(30000, 30999)], to(vec![ip4("10.1.0.2")]), "containers.web"),
        element("range4", vec![UDP, Datum::ServiceRange(1, 65535)], to(vec![ip4("10.1.0.3")]), "containers.web"),
        verdict("open6", vec![ip6("fd00::2"), TCP, Datum::ServiceRange(80, 81)], Verdict::Accept),
        verdict("guard", vec![ifname("br0"), ip4("10.0.0.1")], Verdict::Accept),
    ]
}

fn rules_of_pre() -> Vec<Vec<Expr>> {
    let dnat = |family, fields: &[Field], map: &str| Expr::DnatMap {
        family,
        fields: fields.to_vec(),
        map: name(map),
        keep_port: false,
    };
    vec![
        vec![dnat(Family::Ipv4, &[Field::IpDaddr, Field::L4Proto, Field::ThDport], "exact4")],
        vec![
            is(Field::FibDaddrType, Datum::FibType(RTN_LOCAL)),
            dnat(Family::Ipv4, &[Field::L4Proto, Field::ThDport], "any4"),
        ],
        vec![dnat(Family::Ipv6, &[Field::L4Proto, Field::ThDport], "any6")],
        vec![Expr::DnatMap {
            family: Family::Ipv4,
            fields: vec![Field::L4Proto, Field::ThDport],
            map: name("range4"),
            keep_port: true,
        }],
    ]
}

fn rules_of_post() -> Vec<Vec<Expr>> {
    vec![
        vec![
            is(Field::IpSaddr, Datum::Ipv4Net("10.20.0.0".parse().unwrap(), 16)),
            Expr::AnyBit { field: Field::CtStatus, bits: CT_STATUS_DNAT },
            Expr::Masquerade,
        ],
        vec![is_not(Field::Oifname, ifname("nr-front")), Expr::Masquerade],
        vec![is(Field::NfProto, Datum::NfProto(Family::Ipv6)), Expr::Masquerade],
        vec![is(Field::Oifname, ifname("eth0")), Expr::Snat("192.0.2.7".parse().unwrap())],
        vec![Expr::Snat("2001:db8::7".parse().unwrap())],
    ]
}

fn rules_of_forward() -> Vec<Vec<Expr>> {
    let net4 = |text: &str, prefix| Datum::Ipv4Net(text.parse().unwrap(), prefix);
    let net6 = |text: &str, prefix| Datum::Ipv6Net(text.parse().unwrap(), prefix);
    vec![
        vec![Expr::AnyBit { field: Field::CtState, bits: CT_ESTABLISHED_RELATED }, ACCEPT],
        vec![Expr::AnyBit { field: Field::CtState, bits: 1 }, DROP],
        vec![is_not(Field::NfProto, Datum::NfProto(Family::Ipv4)), DROP],
        vec![Expr::Vmap { fields: vec![Field::Ip6Daddr, Field::L4Proto, Field::ThDport], map: name("open6") }],
        vec![Expr::Vmap { fields: vec![Field::Iifname], map: name("from") }],
        vec![Expr::Vmap { fields: vec![Field::Iifname, Field::IpSaddr], map: name("guard") }],
        vec![
            Expr::InSet { fields: vec![Field::Iifname, Field::Oifname], negate: true, set: name("pairs") },
            Expr::Verdict(Verdict::Jump(name("sub"))),
        ],
        vec![is(Field::L4Proto, TCP), is(Field::ThDport, port(80)), ACCEPT],
        vec![is(Field::L4Proto, UDP), is(Field::IpDaddr, ip4("10.0.0.2")), is_not(Field::ThDport, port(53)), DROP],
        vec![is(Field::L4Proto, Datum::InetProto(1)), ACCEPT],
        vec![is(Field::L4Proto, Datum::InetProto(58)), ACCEPT],
        vec![is_not(Field::L4Proto, Datum::InetProto(132)), Expr::Verdict(Verdict::Return)],
        vec![is(Field::ThDport, port(81)), ACCEPT],
        vec![is(Field::IpSaddr, net4("10.0.0.0", 8)), is(Field::IpDaddr, net4("10.128.0.0", 9)), ACCEPT],
        vec![is_not(Field::IpDaddr, net4("10.20.30.0", 24)), ACCEPT],
        vec![is(Field::IpDaddr, net4("10.20.30.40", 30)), ACCEPT],
        vec![is(Field::IpDaddr, net4("0.0.0.0", 0)), ACCEPT],
        vec![is(Field::IpDaddr, net4("10.0.0.5", 32)), ACCEPT],
        vec![is(Field::Ip6Saddr, net6("fd00::", 64)), is(Field::Ip6Daddr, net6("fd00::", 61)), ACCEPT],
        vec![is_not(Field::Ip6Saddr, net6("fd00::", 127)), ACCEPT],
        vec![is(Field::Ip6Saddr, ip6("fd00::1")), is_not(Field::Ip6Daddr, ip6("::1")), ACCEPT],
        vec![is(Field::Iifname, ifname("nr-front")), is(Field::Oifname, ifname("nr-123456789012")), ACCEPT],
        vec![Expr::InSet { fields: vec![Field::IpSaddr], negate: false, set: name("hosts4") }, ACCEPT],
        vec![Expr::InSet { fields: vec![Field::IpSaddr], negate: true, set: name("hosts4") }, DROP],
        vec![Expr::InSet { fields: vec![Field::Ip6Daddr, Field::ThDport], negate: false, set: name("hosts6") }, ACCEPT],
        vec![
            is(Field::L4Proto, TCP),
            Expr::InSet { fields: vec![Field::Ip6Daddr, Field::ThDport], negate: false, set: name("hosts6") },
            DROP,
        ],
        vec![is(Field::L4Proto, TCP), is(Field::Iifname, ifname("lo")), ACCEPT],
        vec![
            is(Field::L4Proto, Datum::InetProto(132)),
            is(Field::ThDport, port(9)),
            Expr::Verdict(Verdict::Goto(name("side"))),
        ],
    ]
}

/// What tunnels need.
fn rules_of_mangle() -> Vec<Vec<Expr>> {
    let flags = |bits| Expr::AnyBit { field: Field::TcpFlags, bits };
    let in_set = |field, set| Expr::InSet { fields: vec![field], negate: false, set: name(set) };
    let not_in_set = |field, set| Expr::InSet { fields: vec![field], negate: true, set: name(set) };
    let udp = || is(Field::L4Proto, UDP);
    vec![
        vec![is(Field::L4Proto, TCP), flags(TCP_SYN), Expr::ClampMss],
        vec![in_set(Field::Oifname, "bridges"), is(Field::L4Proto, TCP), flags(TCP_SYN), Expr::ClampMss],
        vec![not_in_set(Field::Iifname, "bridges"), is(Field::L4Proto, TCP), flags(0x7f), Expr::ClampMss, ACCEPT],
        vec![Expr::ClampMss],
        vec![in_set(Field::Iifname, "bridges"), ACCEPT],
        vec![not_in_set(Field::Oifname, "bridges"), DROP],
        vec![udp(), in_set(Field::ThDport, "tunnel-port"), ACCEPT],
        vec![udp(), not_in_set(Field::ThDport, "tunnel-port"), DROP],
        vec![in_set(Field::ThDport, "tunnel-port"), ACCEPT],
        vec![in_set(Field::IpSaddr, "hosts4"), udp(), in_set(Field::ThDport, "tunnel-port"), ACCEPT],
        vec![not_in_set(Field::IpSaddr, "hosts4"), udp(), in_set(Field::ThDport, "tunnel-port"), DROP],
        vec![in_set(Field::Ip6Saddr, "nets6"), udp(), in_set(Field::ThDport, "tunnel-port"), ACCEPT],
        vec![
            in_set(Field::Iifname, "bridges"),
            not_in_set(Field::Ip6Saddr, "nets6"),
            udp(),
            in_set(Field::ThDport, "tunnel-port"),
            DROP,
        ],
    ]
}

fn rules_of_raw() -> Vec<Vec<Expr>> {
    vec![
        vec![Expr::InSet { fields: vec![Field::L4Proto], negate: false, set: name("protos") }, DROP],
        vec![is_not(Field::FibDaddrType, Datum::FibType(RTN_LOCAL)), Expr::Verdict(Verdict::Return)],
        vec![Expr::AnyBit { field: Field::CtStatus, bits: 2 | 4 }, ACCEPT],
    ]
}

const EVERYTHING: &str = r#"table inet netrec {
	comment "netrec netrec"
	map exact4 {
		type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
		comment "netrec netrec"
		elements = { 192.0.2.7 . tcp . 8080 comment "netrec containers.web" : 10.1.0.2 . 80 }
	}

	map any4 {
		type inet_proto . inet_service : ipv4_addr . inet_service
		comment "netrec netrec"
		elements = { udp . 53 comment "netrec containers.dns.ports[0]" : 10.1.0.3 . 5353 }
	}

	map any6 {
		type inet_proto . inet_service : ipv6_addr . inet_service
		comment "netrec netrec"
		elements = { tcp . 80 comment "netrec containers.web.ports[1]" : fd00::2 . 8000 }
	}

	set bridges {
		type ifname
		comment "netrec netrec"
		elements = { "nr-front" comment "netrec networks.front" }
	}

	set hosts4 {
		type ipv4_addr
		comment "netrec netrec"
		elements = { 10.0.0.1 comment "netrec networks.front" }
	}

	set hosts6 {
		type ipv6_addr . inet_service
		comment "netrec netrec"
		elements = { fd00::1 . 443 comment "netrec networks.front" }
	}

	set nets6 {
		type ipv6_addr
		comment "netrec netrec"
		elements = { fd00::1 comment "netrec networks.front" }
	}

	set protos {
		type inet_proto
		comment "netrec netrec"
		elements = { sctp comment "netrec networks.front" }
	}

	set tunnel-port {
		type inet_service
		comment "netrec netrec"
		elements = { 4789 comment "netrec networks.front" }
	}

	map services {
		type inet_service : ipv4_addr
		comment "netrec netrec"
		elements = { 22 comment "netrec networks.front" : 10.0.0.9 }
	}

	set pairs {
		type ifname . ifname
		comment "netrec netrec"
		elements = { "a" . "nr-123456789012" comment "netrec networks.front" }
	}

	map from {
		type ifname : verdict
		comment "netrec netrec"
		elements = { "br0" comment "netrec networks.front" : jump sub,
			     "br1" comment "netrec networks.front" : goto side,
			     "br2" comment "netrec networks.front" : accept,
			     "br3" comment "netrec networks.front" : drop,
			     "br4" comment "netrec networks.front" : return }
	}

	map guard {
		type ifname . ipv4_addr : verdict
		comment "netrec netrec"
		elements = { "br0" . 10.0.0.1 comment "netrec networks.front" : accept }
	}

	map range4 {
		type inet_proto . inet_service : ipv4_addr
		flags interval
		comment "netrec netrec"
		elements = { tcp . 30000-30999 comment "netrec containers.web" : 10.1.0.2,
			     udp . 1-65535 comment "netrec containers.web" : 10.1.0.3 }
	}

	map open6 {
		type ipv6_addr . inet_proto . inet_service : verdict
		flags interval
		comment "netrec netrec"
		elements = { fd00::2 . tcp . 80-81 comment "netrec networks.front" : accept }
	}

	chain pre {
		comment "netrec networks.front"
		type nat hook prerouting priority dstnat; policy accept;
		dnat ip to ip daddr . meta l4proto . th dport map @exact4
		fib daddr type local dnat ip to meta l4proto . th dport map @any4
		dnat ip6 to meta l4proto . th dport map @any6
		dnat ip to meta l4proto . th dport map @range4
	}

	chain out {
		comment "netrec networks.front"
		type nat hook output priority -100; policy accept;
	}

	chain post {
		comment "netrec networks.front"
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.20.0.0/16 ct status dnat masquerade
		oifname != "nr-front" masquerade
		meta nfproto ipv6 masquerade
		oifname "eth0" snat ip to 192.0.2.7
		snat ip6 to 2001:db8::7
	}

	chain in {
		comment "netrec networks.front"
		type filter hook input priority filter; policy accept;
	}

	chain forward {
		comment "netrec networks.front"
		type filter hook forward priority filter - 10; policy accept;
		ct state established,related accept
		ct state invalid drop
		meta nfproto != ipv4 drop
		ip6 daddr . meta l4proto . th dport vmap @open6
		iifname vmap @from
		iifname . ip saddr vmap @guard
		iifname . oifname != @pairs jump sub
		tcp dport 80 accept
		ip daddr 10.0.0.2 udp dport != 53 drop
		meta l4proto icmp accept
		meta l4proto ipv6-icmp accept
		meta l4proto != sctp return
		th dport 81 accept
		ip saddr 10.0.0.0/8 ip daddr 10.128.0.0/9 accept
		ip daddr != 10.20.30.0/24 accept
		ip daddr 10.20.30.40/30 accept
		ip daddr 0.0.0.0/0 accept
		ip daddr 10.0.0.5 accept
		ip6 saddr fd00::/64 ip6 daddr fd00::/61 accept
		ip6 saddr != fd00::/127 accept
		ip6 saddr fd00::1 ip6 daddr != ::1 accept
		iifname "nr-front" oifname "nr-123456789012" accept
		ip saddr @hosts4 accept
		ip saddr != @hosts4 drop
		ip6 daddr . th dport @hosts6 accept
		ip6 daddr . tcp dport @hosts6 drop
		meta l4proto tcp iifname "lo" accept
		sctp dport 9 goto side
	}

	chain mangle {
		comment "netrec networks.front"
		type filter hook forward priority mangle; policy accept;
		tcp flags syn tcp option maxseg size set rt mtu
		oifname @bridges tcp flags syn tcp option maxseg size set rt mtu
		iifname != @bridges tcp flags fin,syn,rst,psh,ack,urg,ecn tcp option maxseg size set rt mtu accept
		tcp option maxseg size set rt mtu
		iifname @bridges accept
		oifname != @bridges drop
		udp dport @tunnel-port accept
		udp dport != @tunnel-port drop
		th dport @tunnel-port accept
		ip saddr @hosts4 udp dport @tunnel-port accept
		ip saddr != @hosts4 udp dport @tunnel-port drop
		ip6 saddr @nets6 udp dport @tunnel-port accept
		iifname @bridges ip6 saddr != @nets6 udp dport @tunnel-port drop
	}

	chain raw {
		comment "netrec networks.front"
		type filter hook prerouting priority raw; policy accept;
		meta l4proto @protos drop
		fib daddr type != local return
		ct status seen-reply,assured accept
	}

	chain sub {
		comment "netrec networks.front"
		return
	}

	chain side {
		comment "netrec networks.front"
	}
}
"#;

isolated! {
    fn nft_lists_what_was_written_and_reading_gives_it_back() {
        let mut firewall = Firewall::open().unwrap();
        run(&mut firewall, &create(&everything()));
        assert_eq!(sorted_elements(&listing()), sorted_elements(EVERYTHING));
        let live = read(&mut firewall);
        for (key, wanted) in &everything() {
            assert_eq!(live.get(key), Some(wanted), "{key}");
        }
        assert_eq!(live.len(), everything().len());

        // Rules, sets and verdicts read as nft writes them.
        for (key, entry) in &everything() {
            match &entry.object {
                Object::Chain(chain) => {
                    for rule in &chain.rules {
                        assert!(EVERYTHING.contains(&format!("\n\t\t{rule}\n")), "{key}: {rule}");
                    }
                }
                Object::Set(set) => {
                    let text = set.to_string().replace("; ", "\n\t\t");
                    let kind = if set.data.is_some() { "map" } else { "set" };
                    assert!(EVERYTHING.contains(&format!("\t{kind} {} {{\n\t\ttype {text}\n", key.name())), "{key}: {set}");
                }
                _ => {}
            }
        }
    }
}

isolated! {
    fn nft_compiles_the_same_instructions() {
        let mut firewall = Firewall::open().unwrap();
        let mut all = everything();
        run(&mut firewall, &create(&all));
        let mut script = String::new();
        for (key, entry) in &mut all {
            let Object::Chain(chain) = &mut entry.object else { continue };
            script += &format!("flush chain inet netrec {}\n", key.name());
            for rule in &mut chain.rules {
                for expr in &mut rule.0 {
                    // To nft a prefix of full length is an address.
                    if let Expr::Match { value, .. } = expr
                        && let Datum::Ipv4Net(address, 32) = *value
                    {
                        *value = Datum::Ipv4Addr(address);
                    }
                }
                let text: Vec<String> = rule.0.iter().map(ToString::to_string).collect();
                script += &format!("add rule inet netrec {} {}\n", key.name(), text.join(" "));
            }
        }
        nft(&script);
        let live = read(&mut firewall);
        for (key, wanted) in &mut all {
            if let Object::Chain(chain) = &mut wanted.object {
                for rule in &mut chain.rules {
                    // Of a key with ranges nft turns the protocol's single byte around, which changes nothing.
                    let ipv6 = is(Field::NfProto, Datum::NfProto(Family::Ipv6));
                    let (guard, loads) = match &rule.0[..] {
                        [Expr::DnatMap { map, .. }] if &**map == "range4" => (None, "meta byteorder payload lookup nat"),
                        [Expr::Vmap { map, .. }] if &**map == "open6" => {
                            (Some(ipv6), "payload meta byteorder payload lookup")
                        }
                        _ => continue,
                    };
                    rule.0 = guard.into_iter().chain([Expr::Unknown(loads.into())]).collect();
                }
            }
            assert_eq!(live.get(key), Some(&*wanted), "{key}");
        }
    }
}

isolated! {
    /// With the questions that nft asks by itself where the text does not say them.
    fn nft_compiles_the_text_of_a_rule_to_the_same_instructions() {
        let mut firewall = Firewall::open().unwrap();
        run(&mut firewall, &create(&everything()));
        let mangle = chain("mangle", base(ChainKind::Filter, Hook::Forward, PRIORITY_MANGLE), rules_of_mangle());
        let mut script = String::from("flush chain inet netrec mangle\n");
        for rule in rules_of_mangle() {
            script += &format!("add rule inet netrec mangle {}\n", Rule(rule));
        }
        nft(&script);
        assert_eq!(read(&mut firewall).get(&mangle.0), Some(&mangle.1));
    }
}

isolated! {
    /// What is near to lowering the segment size, or to asking for TCP's flags, is told apart from it.
    fn what_is_nearly_a_rule_is_not_taken_for_it() {
        let mut firewall = Firewall::open().unwrap();
        run(&mut firewall, &create(&small()));
        nft("table inet netrec { chain sub {
            tcp option maxseg size set 1400
            tcp option maxseg size 1400
            tcp flags & (syn | rst) == syn
            udp length 8 @th,104,8 & 2 != 0
            meta l4proto != tcp @th,104,8 & 2 != 0
        }
        }");
        let live = read(&mut firewall);
        let Some(Object::Chain(chain)) = live.get(&Key::Chain { name: name("sub") }).map(|e| &e.object) else { panic!() };
        let rules: Vec<String> = chain.rules.iter().map(ToString::to_string).collect();
        assert_eq!(rules, [
            "drop",
            "# not netrec's: immediate exthdr",
            "# not netrec's: exthdr cmp",
            "meta l4proto tcp # not netrec's: payload bitwise cmp",
            "meta l4proto udp # not netrec's: payload cmp payload bitwise cmp",
            "meta l4proto != tcp # not netrec's: payload bitwise cmp",
        ]);
        // And none that is written.
        let alone = vec![Expr::AnyBit { field: Field::TcpFlags, bits: TCP_SYN }];
        let error = firewall.run(&create(&[chain_alone(alone)]), &mut Writes::new()).unwrap_err();
        assert_eq!(
            error.message,
            "create chain alone: `tcp flags syn` is no rule of nftables: not every packet has TCP's flags"
        );
    }
}

fn chain_alone(rule: Vec<Expr>) -> (Key, Entry) {
    chain("alone", None, vec![rule])
}
