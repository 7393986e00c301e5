//! The firewall's reader and writer against the kernel, with `nft` as the independent witness. Every test has a network
//! namespace of its own; without root, in a user namespace of its own too.

// Clippy does not take the helpers of tests for tests.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::unnecessary_wraps, clippy::format_push_string)]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use netrec::kernel::fault::Writes;
use netrec::kernel::nftables::Firewall;
use netrec::state::firewall::{
    BaseChain, CT_ESTABLISHED_RELATED, CT_STATUS_DNAT, Chain, ChainKind, Concat, DataType, Datum, Element, ElementData,
    Expr, Family, Field, Hook, Policy, RTN_LOCAL, Rule, Set, SetData, Table, Verdict,
};
use netrec::state::{Entry, Key, Object, Owner, Standing, State, Step};
use nix::libc;
use nix::sched::{CloneFlags, unshare};

const INSIDE: &str = "NETREC_TEST_INSIDE";

/// Runs a test in a network namespace of its own. Without root the test's own binary is run again by `unshare -Urn`, for
/// a process with threads cannot enter a user namespace.
fn isolated(name: &str, test: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        test();
    } else if nix::unistd::geteuid().is_root() {
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    } else {
        again(name, &["-Urn"], (INSIDE, "1"));
    }
}

/// Runs a test again, in namespaces that `unshare` makes and with one more variable in its environment.
fn again(name: &str, namespaces: &[&str], variable: (&str, &str)) {
    let mut again = Command::new("unshare");
    again.args(namespaces).arg("--").arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    let output = again.env(INSIDE, "1").env(variable.0, variable.1).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

macro_rules! isolated {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)*) => {
        $(
            $(#[$attribute])*
            #[test]
            fn $name() {
                fn inside() $body
                isolated(stringify!($name), inside);
            }
        )*
    };
}

/// Runs `nft` on a script; its output.
fn nft(script: &str) -> String {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = nft.spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn listing() -> String {
    nft("list table inet netrec")
}

fn owner(path: &str) -> Owner {
    Owner::new(path)
}

fn table() -> (Key, Entry) {
    (Key::Table, Entry::new(Object::Table(Table {}), Owner::netrec()))
}

fn set(name: &str, key: &[DataType], data: Option<SetData>) -> (Key, Entry) {
    (Key::Set { name: name.into() }, Entry::new(Object::Set(Set { key: key.to_vec(), data }), Owner::netrec()))
}

fn values(types: &[DataType]) -> Option<SetData> {
    Some(SetData::Values(types.to_vec()))
}

fn chain(name: &str, base: Option<BaseChain>, rules: Vec<Vec<Expr>>) -> (Key, Entry) {
    let chain = Chain { base, rules: rules.into_iter().map(Rule).collect() };
    (Key::Chain { name: name.into() }, Entry::new(Object::Chain(chain), owner("networks.front")))
}

fn element(set: &str, key: Vec<Datum>, data: Option<ElementData>, path: &str) -> (Key, Entry) {
    let key = Key::Element { set: set.into(), key: Concat(key) };
    (key, Entry::new(Object::Element(Element { data }), owner(path)))
}

fn to(values: Vec<Datum>) -> Option<ElementData> {
    Some(ElementData::Values(Concat(values)))
}

fn ip4(text: &str) -> Datum {
    Datum::Ipv4Addr(text.parse().unwrap())
}

fn ip6(text: &str) -> Datum {
    Datum::Ipv6Addr(text.parse().unwrap())
}

fn ifname(text: &str) -> Datum {
    Datum::Ifname(text.parse().unwrap())
}

fn is(field: Field, value: Datum) -> Expr {
    Expr::Match { field, negate: false, value }
}

fn is_not(field: Field, value: Datum) -> Expr {
    Expr::Match { field, negate: true, value }
}

fn name(text: &str) -> Arc<str> {
    text.into()
}

fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<BaseChain> {
    Some(BaseChain { kind, hook, priority, policy: Policy::Accept })
}

const TCP: Datum = Datum::InetProto(6);
const UDP: Datum = Datum::InetProto(17);
const ACCEPT: Expr = Expr::Verdict(Verdict::Accept);
const DROP: Expr = Expr::Verdict(Verdict::Drop);

fn port(port: u16) -> Datum {
    Datum::InetService(port)
}

fn create(entries: &[(Key, Entry)]) -> Vec<Step> {
    entries.iter().map(|(key, entry)| Step::new(key.clone(), None, Some(entry.clone()))).collect()
}

fn delete(entries: &[(Key, Entry)]) -> Vec<Step> {
    entries.iter().map(|(key, entry)| Step::new(key.clone(), Some(entry.clone()), None)).collect()
}

fn change((key, before): &(Key, Entry), after: Entry) -> Step {
    Step::new(key.clone(), Some(before.clone()), Some(after))
}

fn inverse(steps: &[Step]) -> Vec<Step> {
    steps.iter().map(|s| Step::new(s.key.clone(), s.after.clone(), s.before.clone())).collect()
}

fn run(firewall: &mut Firewall, steps: &[Step]) {
    firewall.run(steps, &mut Writes::new()).unwrap();
}

fn read(firewall: &mut Firewall) -> State {
    let entries = firewall.read().unwrap();
    let count = entries.len();
    let state = State::from_iter(entries);
    assert_eq!(state.len(), count, "no key twice");
    state
}

fn state(entries: &[(Key, Entry)]) -> State {
    entries.iter().cloned().collect()
}

/// Everything that the vocabulary can say.
fn everything() -> Vec<(Key, Entry)> {
    use DataType::{Ifname, InetProto, InetService, Ipv4Addr, Ipv6Addr};
    vec![
        table(),
        set("exact4", &[Ipv4Addr, InetProto, InetService], values(&[Ipv4Addr, InetService])),
        set("any4", &[InetProto, InetService], values(&[Ipv4Addr, InetService])),
        set("any6", &[InetProto, InetService], values(&[Ipv6Addr, InetService])),
        set("bridges", &[Ifname], None),
        set("hosts4", &[Ipv4Addr], None),
        set("hosts6", &[Ipv6Addr, InetService], None),
        set("protos", &[InetProto], None),
        set("services", &[InetService], values(&[Ipv4Addr])),
        set("pairs", &[Ifname, Ifname], None),
        set("from", &[Ifname], Some(SetData::Verdict)),
        set("guard", &[Ifname, Ipv4Addr], Some(SetData::Verdict)),
        chain("pre", base(ChainKind::Nat, Hook::Prerouting, -100), rules_of_pre()),
        chain("out", base(ChainKind::Nat, Hook::Output, -100), vec![]),
        chain("post", base(ChainKind::Nat, Hook::Postrouting, 100), rules_of_post()),
        chain("in", base(ChainKind::Filter, Hook::Input, 0), vec![]),
        chain("forward", base(ChainKind::Filter, Hook::Forward, -10), rules_of_forward()),
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
        element("protos", vec![Datum::InetProto(132)], None, "networks.front"),
        element("services", vec![port(22)], to(vec![ip4("10.0.0.9")]), "networks.front"),
        element("pairs", vec![ifname("a"), ifname("nr-123456789012")], None, "networks.front"),
        verdict("from", vec![ifname("br0")], Verdict::Jump(name("sub"))),
        verdict("from", vec![ifname("br1")], Verdict::Goto(name("side"))),
        verdict("from", vec![ifname("br2")], Verdict::Accept),
        verdict("from", vec![ifname("br3")], Verdict::Drop),
        verdict("from", vec![ifname("br4")], Verdict::Return),
        verdict("guard", vec![ifname("br0"), ip4("10.0.0.1")], Verdict::Accept),
    ]
}

fn verdict(set: &str, key: Vec<Datum>, verdict: Verdict) -> (Key, Entry) {
    element(set, key, Some(ElementData::Verdict(verdict)), "networks.front")
}

fn rules_of_pre() -> Vec<Vec<Expr>> {
    let dnat = |family, fields: &[Field], map: &str| Expr::DnatMap { family, fields: fields.to_vec(), map: name(map) };
    vec![
        vec![dnat(Family::Ipv4, &[Field::IpDaddr, Field::L4Proto, Field::ThDport], "exact4")],
        vec![
            is(Field::FibDaddrType, Datum::FibType(RTN_LOCAL)),
            dnat(Family::Ipv4, &[Field::L4Proto, Field::ThDport], "any4"),
        ],
        vec![dnat(Family::Ipv6, &[Field::L4Proto, Field::ThDport], "any6")],
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
    ]
}

fn rules_of_forward() -> Vec<Vec<Expr>> {
    let net4 = |text: &str, prefix| Datum::Ipv4Net(text.parse().unwrap(), prefix);
    let net6 = |text: &str, prefix| Datum::Ipv6Net(text.parse().unwrap(), prefix);
    vec![
        vec![Expr::AnyBit { field: Field::CtState, bits: CT_ESTABLISHED_RELATED }, ACCEPT],
        vec![Expr::AnyBit { field: Field::CtState, bits: 1 }, DROP],
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

	set protos {
		type inet_proto
		comment "netrec netrec"
		elements = { sctp comment "netrec networks.front" }
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

	chain pre {
		comment "netrec networks.front"
		type nat hook prerouting priority dstnat; policy accept;
		dnat ip to ip daddr . meta l4proto . th dport map @exact4
		fib daddr type local dnat ip to meta l4proto . th dport map @any4
		dnat ip6 to meta l4proto . th dport map @any6
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
                    let kind = if set.data.is_some() { "map" } else { "set" };
                    assert!(EVERYTHING.contains(&format!("\t{kind} {} {{\n\t\ttype {set}\n", key.name())), "{key}: {set}");
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
        for (key, wanted) in &all {
            assert_eq!(live.get(key), Some(wanted), "{key}");
        }
    }
}

/// The kernel lists the elements of a hash table in no order.
fn sorted_elements(listing: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut elements: Vec<String> = Vec::new();
    for line in listing.lines() {
        let text = line.trim_start();
        let text = text.strip_prefix("elements = {").unwrap_or(text).trim_start();
        if line.contains("elements = {") || line.starts_with("\t\t\t") {
            elements.push(text.trim_end_matches([' ', '}', ',']).to_owned());
        } else {
            elements.sort();
            lines.append(&mut elements);
            lines.push(line.to_owned());
        }
    }
    lines.join("\n")
}

/// As many elements as one transaction may have: the one of a user namespace's root has to fit into a buffer that the
/// host's settings limit.
fn most(elements: u16) -> u16 {
    let inside = std::env::var_os(INSIDE).is_some();
    if inside { elements.min(3_000) } else { elements }
}

/// A small firewall: a map of ports and the chain that uses it.
fn small() -> Vec<(Key, Entry)> {
    use DataType::{InetProto, InetService, Ipv4Addr};
    let dnat = Expr::DnatMap { family: Family::Ipv4, fields: vec![Field::L4Proto, Field::ThDport], map: name("any4") };
    vec![
        table(),
        set("any4", &[InetProto, InetService], values(&[Ipv4Addr, InetService])),
        set("from", &[DataType::Ifname], Some(SetData::Verdict)),
        chain(
            "forward",
            base(ChainKind::Filter, Hook::Forward, 0),
            vec![vec![Expr::Vmap { fields: vec![Field::Iifname], map: name("from") }]],
        ),
        chain("pre", base(ChainKind::Nat, Hook::Prerouting, -100), vec![vec![dnat]]),
        chain("sub", None, vec![vec![DROP]]),
        element("any4", vec![TCP, port(8080)], to(vec![ip4("10.1.0.2"), port(80)]), "containers.web.ports[0]"),
        element("any4", vec![TCP, port(8081)], to(vec![ip4("10.1.0.2"), port(81)]), "containers.web.ports[1]"),
        verdict("from", vec![ifname("br0")], Verdict::Jump(name("sub"))),
    ]
}

fn find<'a>(entries: &'a [(Key, Entry)], wanted: &str) -> &'a (Key, Entry) {
    entries.iter().find(|(key, _)| key.to_string() == wanted).unwrap()
}

fn put(entries: &mut [(Key, Entry)], wanted: &str, entry: &Entry) {
    entries.iter_mut().find(|(key, _)| key.to_string() == wanted).unwrap().1 = entry.clone();
}

isolated! {
    fn without_a_table_there_is_nothing() {
        let mut firewall = Firewall::open().unwrap();
        assert_eq!(firewall.read().unwrap(), []);
        nft("add table inet other; add chain inet other c; add table ip netrec; add chain ip netrec c");
        assert_eq!(firewall.read().unwrap(), []);
        let mut writes = Writes::new();
        firewall.run(&[], &mut writes).unwrap();
        assert_eq!(writes.count(), 0);
    }

    fn changes_in_place_and_back() {
        let mut firewall = Firewall::open().unwrap();
        let before = small();
        run(&mut firewall, &create(&before));

        let mut after = before.clone();
        let accept = vec![is(Field::L4Proto, TCP), ACCEPT];
        let closed = BaseChain { policy: Policy::Drop, ..base(ChainKind::Filter, Hook::Forward, 0).unwrap() };
        put(&mut after, "chain forward", &chain("", Some(closed), vec![accept.clone(), vec![DROP]]).1);
        put(&mut after, "chain sub", &chain("", None, vec![accept]).1);
        let web = "element any4 { tcp . 8080 }";
        put(&mut after, web, &element("", vec![], to(vec![ip4("10.1.0.9"), port(80)]), "containers.web.ports[0]").1);
        let mark = "element any4 { tcp . 8081 }";
        put(&mut after, mark, &element("", vec![], to(vec![ip4("10.1.0.2"), port(81)]), "containers.db.ports[0]").1);
        let names = ["chain forward", "chain sub", web, mark];
        let steps: Vec<Step> =
            names.iter().map(|name| change(find(&before, name), find(&after, name).1.clone())).collect();

        let mut writes = Writes::new();
        firewall.run(&steps, &mut writes).unwrap();
        // The policy, two flushes, one deletion and one addition of elements, three rules.
        assert_eq!(writes.count(), 8);
        assert_eq!(read(&mut firewall), state(&after));
        let text = listing();
        assert!(text.contains("hook forward priority filter; policy drop;\n\t\tmeta l4proto tcp accept\n\t\tdrop\n\t}"), "{text}");
        assert!(text.contains("tcp . 8080 comment \"netrec containers.web.ports[0]\" : 10.1.0.9 . 80"), "{text}");
        assert!(text.contains("tcp . 8081 comment \"netrec containers.db.ports[0]\" : 10.1.0.2 . 81"), "{text}");

        run(&mut firewall, &inverse(&steps));
        assert_eq!(read(&mut firewall), state(&before));
    }

    fn deletions_in_any_order_with_what_refers_to_them() {
        let mut firewall = Firewall::open().unwrap();
        let all = small();
        run(&mut firewall, &create(&all));
        // All but the table: a map with elements that jump to a chain that goes, rules that use a map that goes.
        run(&mut firewall, &delete(&all[1..]));
        assert_eq!(listing(), "table inet netrec {\n\tcomment \"netrec netrec\"\n}\n");
        assert_eq!(read(&mut firewall), state(&all[..1]));
        run(&mut firewall, &create(&all[1..]));
        assert_eq!(read(&mut firewall), state(&all));

        // An element and the chain it jumps to go, the map stays.
        let gone = [find(&all, "chain sub").clone(), find(&all, "element from { \"br0\" }").clone()];
        run(&mut firewall, &delete(&gone));
        run(&mut firewall, &inverse(&delete(&gone)));
        assert_eq!(read(&mut firewall), state(&all));

        // The table, with and without the rest.
        let mut writes = Writes::new();
        firewall.run(&delete(&all), &mut writes).unwrap();
        assert_eq!((writes.count(), nft("list ruleset")), (1, String::new()));
        run(&mut firewall, &create(&all));
        run(&mut firewall, &delete(&all[..1]));
        assert_eq!((firewall.read().unwrap(), nft("list ruleset")), (vec![], String::new()));
    }

    fn what_cannot_change_in_place_is_made_anew() {
        let mut firewall = Firewall::open().unwrap();
        let before = small();
        run(&mut firewall, &create(&before));

        // Another key, whose element comes as a step; its rule too. The other map, used by a chain that stays as it is,
        // gets another mark. A base chain gets another hook.
        let mut after = before.clone();
        let dnat = Expr::DnatMap { family: Family::Ipv4, fields: vec![Field::ThDport], map: name("any4") };
        let key = [DataType::InetService];
        let types = values(&[DataType::Ipv4Addr, DataType::InetService]);
        put(&mut after, "set any4", &set("", &key, types).1);
        put(&mut after, "chain pre", &chain("", base(ChainKind::Nat, Hook::Output, -90), vec![vec![dnat]]).1);
        let mut marked = find(&before, "set from").1.clone();
        marked.owners = vec![owner("networks.back")];
        put(&mut after, "set from", &marked);
        let names = ["set any4", "set from", "chain pre"];
        let mut steps: Vec<Step> =
            names.iter().map(|name| change(find(&before, name), find(&after, name).1.clone())).collect();
        let web = element("any4", vec![port(8080)], to(vec![ip4("10.1.0.2"), port(80)]), "containers.web.ports[0]");
        let old: Vec<_> = after.extract_if(.., |(key, _)| key.to_string().starts_with("element any4")).collect();
        steps.extend(delete(&old));
        steps.extend(create(std::slice::from_ref(&web)));
        after.push(web);

        run(&mut firewall, &steps);
        assert_eq!(read(&mut firewall), state(&after));
        run(&mut firewall, &inverse(&steps));
        assert_eq!(read(&mut firewall), state(&before));
    }

    fn a_change_by_somebody_else_stops_it() {
        let mut firewall = Firewall::open().unwrap();
        run(&mut firewall, &create(&small()));
        let before = read(&mut firewall);
        let accept = chain("sub", None, vec![vec![ACCEPT]]).1;
        let in_place = [change(find(&small(), "chain sub"), accept.clone())];
        let rebuild = [change(find(&small(), "chain sub"), Entry { owners: vec![owner("networks.x")], ..accept })];

        for steps in [&in_place, &rebuild] {
            nft("add table inet other");
            let text = nft("list ruleset");
            let error = firewall.run(steps, &mut Writes::new()).unwrap_err();
            let (head, tail) = error.message.split_once(" (process ").unwrap();
            assert_eq!(error.errno, libc::ERESTART);
            assert_eq!(head, "the firewall was changed meanwhile by nft");
            assert_eq!(tail.split_once("); ").unwrap().1, "nothing was done");
            assert_eq!(nft("list ruleset"), text);
            assert_eq!(read(&mut firewall), before);
            nft("delete table inet other");
            firewall.read().unwrap();
        }

        // A change before the read is none; one of our own is none either.
        run(&mut firewall, &in_place);
        run(&mut firewall, &inverse(&in_place));
        assert_eq!(read(&mut firewall), before);

        // Ten thousand elements do not drown the name of who added them.
        let elements: Vec<String> = (0..10_000).map(|i| format!("{}.{}", 10 + i / 250, i % 250)).collect();
        nft(&format!("add table ip t; add set ip t s {{ type ipv4_addr; }}; add element ip t s {{ 10.0.{} }}", elements.join(", 10.0.")));
        let error = firewall.run(&in_place, &mut Writes::new()).unwrap_err();
        assert!(error.message.starts_with("the firewall was changed meanwhile by nft (process "), "{error}");
    }

    fn a_failing_step_leaves_nothing_and_is_named() {
        let mut firewall = Firewall::open().unwrap();
        let all = small();
        run(&mut firewall, &create(&all));
        let before = listing();

        // The second of three elements is there already.
        let new = |port_number| element("any4", vec![UDP, port(port_number)], to(vec![ip4("10.1.0.4"), port(53)]), "containers.dns");
        let steps = create(&[new(1), find(&all, "element any4 { tcp . 8081 }").clone(), new(2)]);
        let error = firewall.run(&steps, &mut Writes::new()).unwrap_err();
        assert_eq!((error.errno, error.message.as_str()), (libc::EEXIST, "create element any4 { tcp . 8081 }: File exists (EEXIST)"));

        // A rule whose map is not there, between two chains that are well.
        let lost = vec![vec![Expr::Vmap { fields: vec![Field::Iifname], map: name("lost") }]];
        let steps = create(&[chain("a", None, vec![]), chain("b", None, lost), chain("c", None, vec![vec![DROP]])]);
        let error = firewall.run(&steps, &mut Writes::new()).unwrap_err();
        assert_eq!((error.errno, error.message.as_str()), (libc::ENOENT, "create chain b: No such file or directory (ENOENT)"));

        // A chain that is still jumped to.
        let error = firewall.run(&delete(&[find(&all, "chain sub").clone()]), &mut Writes::new()).unwrap_err();
        assert_eq!((error.errno, error.message.as_str()), (libc::EBUSY, "delete chain sub: Device or resource busy (EBUSY)"));

        // A loop, which the kernel finds at the end only.
        let around = vec![vec![Expr::Verdict(Verdict::Jump(name("sub")))]];
        let steps = [change(find(&all, "chain sub"), chain("", None, around).1)];
        let error = firewall.run(&steps, &mut Writes::new()).unwrap_err();
        assert_eq!((error.errno, error.message.as_str()), (libc::EMLINK, "update chain sub: Too many links (EMLINK)"));

        // What makes no sense is not even sent.
        let nonsense = vec![vec![is(Field::IpSaddr, ip6("::1")), DROP]];
        let error = firewall.run(&create(&[chain("d", None, nonsense)]), &mut Writes::new()).unwrap_err();
        let message = "create chain d: `ip saddr ::1` is no rule of nftables: the value is not of the field's type";
        assert_eq!((error.errno, error.message.as_str()), (0, message));

        assert_eq!(listing(), before);
        assert_eq!(read(&mut firewall), state(&all));
    }

    fn what_others_put_into_the_table_is_seen_and_removed() {
        let mut firewall = Firewall::open().unwrap();
        let all = small();
        run(&mut firewall, &create(&all));
        let pure = listing();
        nft("add rule inet netrec sub counter accept
            insert rule inet netrec sub tcp dport { 22, 23 } accept
            add rule inet netrec forward drop comment \"mine\"
            add rule inet netrec forward meta nfproto ipv4 iifname \"br*\" ip saddr 10.0.0.1 limit rate 1/second accept
            add chain inet netrec theirs
            add rule inet netrec theirs jump { accept; }
            add chain inet netrec route { type route hook output priority 0; }
            add set inet netrec plain { type ipv4_addr; }
            add set inet netrec ranges { type ipv4_addr; flags interval; }
            add element inet netrec ranges { 10.0.0.0/8 }
            add set inet netrec times { type ipv4_addr; timeout 1h; }
            add set inet netrec marks { type mark; }
            add element inet netrec marks { 1 }
            add element inet netrec plain { 10.0.0.1 }
            add element inet netrec any4 { udp . 1 : 10.0.0.1 . 2 }
            add element inet netrec from { \"odd:name\" : accept }
            add counter inet netrec pkts");
        let live = read(&mut firewall);
        let chain_text = |name: &str| match &live.get(&Key::Chain { name: name.into() }).unwrap().object {
            Object::Chain(chain) => chain.rules.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            _ => String::new(),
        };
        let set_text = |name: &str| match &live.get(&Key::Set { name: name.into() }).unwrap().object {
            Object::Set(set) => set.to_string(),
            _ => String::new(),
        };
        assert_eq!(chain_text("sub"), "meta l4proto tcp # not netrec's: payload lookup accept; drop; # not netrec's: counter accept");
        assert_eq!(
            chain_text("forward"),
            "iifname vmap @from; drop # not netrec's: comment; \
             # not netrec's: meta cmp meta cmp payload cmp limit accept"
        );
        assert_eq!(chain_text("theirs"), "# not netrec's: immediate");
        assert_eq!(chain_text("route"), "# not netrec's: type route hook 3 priority 0");
        assert_eq!(set_text("plain"), "ipv4_addr");
        assert_eq!(set_text("ranges"), "ipv4_addr . unknown(1)");
        assert_eq!(set_text("times"), "ipv4_addr . unknown(1)");
        assert_eq!(set_text("marks"), "unknown(19) . unknown(1)");
        assert_eq!(set_text("from"), "ifname . unknown(0) : verdict");
        let table = live.get(&Key::Table).unwrap();
        assert_eq!(table.owners, [], "a table with more in it has no mark");

        // What a plan would do: whatever differs is changed, whatever is not wanted goes.
        let wanted = state(&all);
        let mut steps = Vec::new();
        for (key, entry) in &live {
            if wanted.get(key) != Some(entry) {
                steps.push(Step::new(key.clone(), Some(entry.clone()), wanted.get(key).cloned()));
            }
        }
        let names: Vec<String> = steps.iter().map(|step| step.key.to_string()).collect();
        assert_eq!(names, [
            "table inet netrec", "set from", "set marks", "set plain", "set ranges", "set times", "chain forward",
            "chain route", "chain sub", "chain theirs", "element any4 { udp . 1 }", "element plain { 10.0.0.1 }",
        ]);
        run(&mut firewall, &steps);
        assert_eq!(read(&mut firewall), wanted);
        assert_eq!(sorted_elements(&listing()), sorted_elements(&pure));

        // As far as it can, undoing puts back what was there.
        run(&mut firewall, &inverse(&steps));
        let text = listing();
        assert!(text.contains("chain sub {\n\t\tcomment \"netrec networks.front\"\n\t\tdrop\n\t}"), "{text}");
        assert!(text.contains("chain theirs {\n\t}") && !text.contains("ranges"), "{text}");
        assert!(text.contains("udp . 1 : 10.0.0.1 . 2"), "{text}");
    }

    fn foreign_chains_and_sets_go_without_a_rebuild() {
        let mut firewall = Firewall::open().unwrap();
        let all = small();
        run(&mut firewall, &create(&all));
        nft("add chain inet netrec theirs
            add rule inet netrec theirs tcp dport { 22, 23 } counter accept
            add set inet netrec ranges { type ipv4_addr; flags interval; }
            add element inet netrec ranges { 10.0.0.0/8 }
            add rule inet netrec theirs ip saddr @ranges drop
            add rule inet netrec sub jump { ip saddr @ranges drop; }
            add element inet netrec any4 { udp . 1 : 10.0.0.1 . 2 }");
        let live = read(&mut firewall);
        let wanted = state(&all);
        let steps: Vec<Step> = live
            .iter()
            .filter(|(key, entry)| wanted.get(key) != Some(entry))
            .map(|(key, entry)| Step::new(key.clone(), Some(entry.clone()), wanted.get(key).cloned()))
            .collect();
        let names: Vec<String> = steps.iter().map(|step| step.key.to_string()).collect();
        assert_eq!(names, ["set ranges", "chain sub", "chain theirs", "element any4 { udp . 1 }"]);
        let mut writes = Writes::new();
        firewall.run(&steps, &mut writes).unwrap();
        assert_eq!(writes.count(), 6);
        assert_eq!(read(&mut firewall), wanted);
    }

    fn a_table_that_somebody_else_made_is_ours() {
        nft("add table inet netrec { comment \"hello\"; flags dormant; }; add chain inet netrec sub { comment \"hello\"; }");
        let mut firewall = Firewall::open().unwrap();
        let live = read(&mut firewall);
        let unmarked = |object| Entry { object, owners: vec![], standing: Standing::default() };
        assert_eq!(live, state(&[
            (Key::Table, unmarked(Object::Table(Table {}))),
            (Key::Chain { name: "sub".into() }, unmarked(Object::Chain(Chain { base: None, rules: vec![] }))),
        ]));
        run(&mut firewall, &[Step::new(Key::Table, live.get(&Key::Table).cloned(), Some(table().1))]);
        assert_eq!(listing(), "table inet netrec {\n\tcomment \"netrec netrec\"\n\tchain sub {\n\t}\n}\n");
    }

    fn twenty_thousand_elements_in_one_transaction() {
        let mut firewall = Firewall::open().unwrap();
        let mut all = small();
        for i in 0..most(20_000) {
            let to = to(vec![Datum::Ipv4Addr(std::net::Ipv4Addr::from(0x0a01_0000 + u32::from(i))), port(i)]);
            all.push(element("any4", vec![UDP, port(i)], to, &format!("containers.web{i}.ports[0]")));
        }
        let steps = create(&all);
        let mut writes = Writes::new();
        let begin = std::time::Instant::now();
        firewall.run(&steps, &mut writes).unwrap();
        let written = begin.elapsed();
        assert!(writes.count() < 60, "{} messages", writes.count());
        let begin = std::time::Instant::now();
        let entries = firewall.read().unwrap();
        println!("{} elements: written in {written:?}, read in {:?}", all.len(), begin.elapsed());
        assert_eq!(entries.len(), all.len());
        assert_eq!(State::from_iter(entries), state(&all));

        // The mark of every other one, all in one transaction, and all away.
        let updates: Vec<Step> = all.iter().skip(9).step_by(2).map(|entry| {
            change(entry, Entry { owners: vec![owner("containers.other")], ..entry.1.clone() })
        }).collect();
        run(&mut firewall, &updates);
        run(&mut firewall, &inverse(&updates));
        assert_eq!(read(&mut firewall), state(&all));
        run(&mut firewall, &delete(&all[9..]));
        assert_eq!(read(&mut firewall), state(&small()));
    }

    // The kernel goes on enlarging its hash tables after a big transaction, and a dump then yields elements twice and
    // others not at all.
    fn a_set_that_has_just_grown_is_read_whole() {
        let mut firewall = Firewall::open().unwrap();
        for round in 0..60u16 {
            let mut all = small();
            for i in 0..most(500 + round * 180) {
                let to = to(vec![Datum::Ipv4Addr(std::net::Ipv4Addr::from(0x0a01_0000 + u32::from(i))), port(i)]);
                all.push(element("any4", vec![UDP, port(i)], to, "containers.web"));
            }
            run(&mut firewall, &create(&all));
            assert_eq!(read(&mut firewall).len(), all.len());
            run(&mut firewall, &delete(&all[..1]));
        }
    }

    #[cfg(feature = "fault-injection")]
    fn a_write_that_fails_keeps_the_others_from_happening() {
        if std::env::var_os("NETREC_FAULT").is_some() {
            let mut firewall = Firewall::open().unwrap();
            let error = firewall.run(&create(&small()), &mut Writes::new()).unwrap_err();
            let message = "create chain forward: No buffer space available (ENOBUFS)";
            assert_eq!((error.errno, error.message.as_str()), (libc::ENOBUFS, message));
            assert_eq!(nft("list ruleset"), "");
            return;
        }
        again("a_write_that_fails_keeps_the_others_from_happening", &["-Urn"], ("NETREC_FAULT", "fail:4:ENOBUFS"));
    }

    fn without_the_capability_it_says_so() {
        // A user namespace has no say over the network namespace it was made in. Only a process without threads can
        // enter one, so `unshare` does it; inside, the network namespace is the one of this test.
        if std::env::var_os("NETREC_TEST_POWERLESS").is_some() {
            let error = Firewall::open().unwrap_err();
            assert_eq!(error.to_string(), "reading the firewall needs root (CAP_NET_ADMIN)");
            return;
        }
        again("without_the_capability_it_says_so", &["-U"], ("NETREC_TEST_POWERLESS", "1"));
    }
}
