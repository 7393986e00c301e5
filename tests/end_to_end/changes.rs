//! Every key of the file, changed on a live host: the plan names exactly the objects that follow from it, one apply makes
//! it so, and a connection to a container that is not concerned lives on.

use crate::lab::{self, assert_same};

/// `db` and `back` are those that are not concerned.
const FILE: &str = r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[networks.back]
subnet = "10.21.0.0/24"

[containers.web]
networks.front = { address = ["10.20.0.10", "fd20::10"] }
ports = ["8080:80"]
sysctl = { "net.ipv4.ip_default_ttl" = 60 }

[containers.auto]
networks = ["front"]

[containers.db]
networks.back = { address = "10.21.0.10" }
ports = ["5432:5432"]
"#;

/// FNV-1a, 64 bits, as the README states that names and addresses are made with.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The host's end of a container's veth pair.
pub(crate) fn veth(network: &str, container: &str) -> String {
    let short = &container[..container.len().min(6)];
    format!("ve-{short}{:06x}", fnv(&format!("{network}/{container}")) & 0xff_ffff)
}

/// The address that `auto` gets in 10.20.0.0/24: counted in the 254 usable ones, and then the next that is free.
fn auto_address(taken: &[u64]) -> u64 {
    let start = fnv("front/auto") % 254;
    (0..254).map(|step| (start + step) % 254 + 1).find(|n| !taken.contains(n)).expect("a free one")
}

struct Change {
    what: &'static str,
    /// Texts of the file, and what stands in their place.
    edits: Vec<(&'static str, String)>,
    actions: Vec<String>,
}

fn change(what: &'static str, edits: &[(&'static str, &str)], actions: &str) -> Change {
    let veths =
        [("VE-WEB", veth("front", "web")), ("VE-AUTO", veth("front", "auto")), ("VE-BACK", veth("back", "web"))];
    let lines = actions.lines().map(str::trim).filter(|l| !l.is_empty());
    let named = lines.map(|l| veths.iter().fold(l.to_owned(), |l, (name, veth)| l.replace(name, veth)));
    Change { what, edits: edits.iter().map(|(a, b)| (*a, (*b).to_owned())).collect(), actions: named.collect() }
}

fn changes() -> Vec<Change> {
    let auto = auto_address(&[1, 10]);
    let next = auto_address(&[1, 10, auto]);
    let web = "{ address = [\"10.20.0.10\", \"fd20::10\"] }";
    let web_with = |more: &str| web.replace(" }", &format!(", {more} }}"));
    vec![
        change(
            "subnet",
            &[("10.20.0.", "10.22.0.")],
            &format!(
                "create address 10.22.0.1/24 dev nr-front
                delete address 10.20.0.1/24 dev nr-front
                create address 10.22.0.10/24 dev eth0 in web
                delete address 10.20.0.10/24 dev eth0 in web
                create address 10.22.0.{auto}/24 dev eth0 in auto
                delete address 10.20.0.{auto}/24 dev eth0 in auto
                update route default in web
                update route default in auto
                update chain nat-to.front
                create element gateway4 {{ 10.22.0.1 }}
                delete element gateway4 {{ 10.20.0.1 }}
                update element port4-any {{ tcp . 8080 }}"
            ),
        ),
        change(
            "gateway",
            &[("[networks.back]", "gateway = ['10.20.0.254', 'fd20::1']\n[networks.back]")],
            "create address 10.20.0.254/24 dev nr-front
            delete address 10.20.0.1/24 dev nr-front
            update route default in web
            update route default in auto
            create element gateway4 { 10.20.0.254 }
            delete element gateway4 { 10.20.0.1 }",
        ),
        change(
            "no gateway",
            &[("[networks.back]", "gateway = false\n[networks.back]")],
            "delete address 10.20.0.1/24 dev nr-front
            delete address fd20::1/64 dev nr-front
            delete route default in web
            delete route default (ipv6) in web
            delete route default in auto
            delete route default (ipv6) in auto
            delete element gateway4 { 10.20.0.1 }
            delete element gateway6 { fd20::1 }",
        ),
        change(
            "range",
            &[("[networks.back]", "range = '10.20.0.128/32'\n[networks.back]")],
            &format!(
                "create address 10.20.0.128/24 dev eth0 in auto
                delete address 10.20.0.{auto}/24 dev eth0 in auto"
            ),
        ),
        change(
            "reserve",
            &[("[networks.back]", &format!("reserve = '10.20.0.{auto}'\n[networks.back]"))],
            &format!(
                "create address 10.20.0.{next}/24 dev eth0 in auto
                delete address 10.20.0.{auto}/24 dev eth0 in auto"
            ),
        ),
        change(
            "bridge",
            &[("[networks.back]", "bridge = 'br-shop'\n[networks.back]")],
            "create link br-shop
            delete link nr-front
            create address 10.20.0.1/24 dev br-shop
            delete address 10.20.0.1/24 dev nr-front
            create address fd20::1/64 dev br-shop
            delete address fd20::1/64 dev nr-front
            update link VE-WEB
            update link VE-AUTO
            create sysctl net/ipv4/conf/br-shop/forwarding
            create sysctl net/ipv4/conf/br-shop/route_localnet
            create sysctl net/ipv6/conf/br-shop/accept_dad
            create sysctl net/ipv6/conf/br-shop/accept_ra
            create sysctl net/ipv6/conf/br-shop/forwarding
            update chain forward-to.front
            update chain nat-from.front
            create element forward-to { \"br-shop\" }
            delete element forward-to { \"nr-front\" }
            create element input-from { \"br-shop\" }
            delete element input-from { \"nr-front\" }
            create element nat-from { \"br-shop\" }
            delete element nat-from { \"nr-front\" }
            create element nat-to { \"br-shop\" }
            delete element nat-to { \"nr-front\" }",
        ),
        change(
            "mtu",
            &[("[networks.back]", "mtu = 1400\n[networks.back]")],
            "update link nr-front
            update link VE-WEB
            update link VE-AUTO",
        ),
        change(
            "netns",
            &[("[containers.auto]", "netns = 'shop'\n[containers.auto]")],
            "create netns shop
            delete netns web
            replace link VE-WEB
            create address 10.20.0.10/24 dev eth0 in shop
            create address fd20::10/64 dev eth0 in shop
            create route default in shop
            create route default (ipv6) in shop
            create sysctl net/ipv4/ip_default_ttl in shop
            create sysctl net/ipv6/conf/eth0/accept_ra in shop
            delete address 10.20.0.10/24 dev eth0 in web
            delete address fd20::10/64 dev eth0 in web
            delete route default in web
            delete route default (ipv6) in web",
        ),
        change(
            "networks",
            &[(
                "[containers.web]",
                "[containers.web]\nnetworks.back = { address = '10.21.0.20', interface = 'back0' }",
            )],
            // `back` stands first now, and gives the default route of IPv4; IPv6 stays with `front`, where no port of
            // 127.0.0.1 leads any more.
            "create link VE-BACK
            create address 10.21.0.20/24 dev back0 in web
            create sysctl net/ipv6/conf/back0/accept_ra in web
            update route default in web
            update sysctl net/ipv4/conf/nr-front/route_localnet
            update chain nat-to.front
            update element port4-any { tcp . 8080 }",
        ),
        change(
            "ports: the host's port",
            &[("8080:80", "8081:80")],
            "create element port4-any { tcp . 8081 }
            create element port6-any { tcp . 8081 }
            delete element port4-any { tcp . 8080 }
            delete element port6-any { tcp . 8080 }",
        ),
        change(
            "ports: the container's port",
            &[("8080:80", "8080:81")],
            "update element port4-any { tcp . 8080 }
            update element port6-any { tcp . 8080 }",
        ),
        change(
            "ports: the protocol",
            &[("8080:80", "8080:80/udp")],
            "create element port4-any { udp . 8080 }
            create element port6-any { udp . 8080 }
            delete element port4-any { tcp . 8080 }
            delete element port6-any { tcp . 8080 }",
        ),
        change(
            "ports: the address",
            &[("8080:80", "127.0.0.1:8080:80")],
            "create element port4 { 127.0.0.1 . tcp . 8080 }
            delete element port4-any { tcp . 8080 }
            delete element port6-any { tcp . 8080 }",
        ),
        change(
            "ports: one more",
            &[("\"8080:80\"", "\"[::]:8053:53/udp\", \"8080:80\"")],
            "create element port6-any { udp . 8053 }",
        ),
        change("sysctl", &[("= 60", "= 61")], "update sysctl net/ipv4/ip_default_ttl in web"),
        change(
            "address",
            &[("10.20.0.10", "10.20.0.20")],
            "create address 10.20.0.20/24 dev eth0 in web
            delete address 10.20.0.10/24 dev eth0 in web
            update element port4-any { tcp . 8080 }",
        ),
        change("mac", &[(web, &web_with("mac = '02:00:00:00:00:01'"))], "update link VE-WEB"),
        change(
            "interface",
            &[(web, &web_with("interface = 'lan0'"))],
            "update link VE-WEB", // which takes its parameters along
        ),
    ]
}

#[test]
fn every_key_changes_in_one_apply_and_disturbs_nobody() {
    lab::in_lab(|lab| {
        lab.host.apply(FILE);
        let _db = lab.container("db").listen_tcp("db", "0.0.0.0:5432");
        let mut conn = lab.world.connect("192.0.2.1:5432").expect("a connection");
        let mut wrong = Vec::new();
        for Change { what, edits, actions } in changes() {
            let file = edits.iter().fold(FILE.to_owned(), |file, (from, to)| {
                assert!(file.contains(from), "{what}: `{from}` is not in the file");
                file.replace(from, to)
            });
            let tried = std::panic::catch_unwind(|| {
                assert_same(what, &actions, &lab.host.plan(&file).actions());
                lab.host.apply(&file);
                assert_same::<String, _>(&format!("{what}: after apply"), &[], &lab.host.plan(&file).actions());
            });
            wrong.extend(tried.err().map(|_| what));
            assert_eq!(conn.echo(what).as_deref(), Ok(what));
            lab.host.apply(FILE);
            assert_same::<String, _>(&format!("{what}: and back"), &[], &lab.host.plan(FILE).actions());
            assert_eq!(conn.echo("back").as_deref(), Ok("back"), "{what}");
        }
        assert_same("changes that went wrong", &[""; 0], &wrong);
    });
}

/// Two containers change places in every respect that can be in another's way.
#[test]
fn names_and_addresses_can_be_exchanged() {
    lab::in_lab(|lab| {
        let file = |a: [&str; 2], b: [&str; 2]| {
            format!(
                "[networks.front]\nsubnet = '10.20.0.0/24'\n[networks.back]\nsubnet = '10.21.0.0/24'\n\
                 [containers.web]\nnetworks.front = {{ address = '10.20.0.{}', interface = '{}' }}\n\
                 networks.back = {{ address = '10.21.0.{}', interface = '{}' }}\n\
                 [containers.api]\nnetworks.front = {{ address = '10.20.0.{}' }}\n",
                a[0], a[1], b[0], b[1], b[0]
            )
        };
        let (one, two) = (file(["10", "eth0"], ["11", "eth1"]), file(["11", "eth1"], ["10", "eth0"]));
        for file in [&one, &two, &one] {
            lab.host.apply(file);
            assert_same::<String, _>("after apply", &[], &lab.host.plan(file).actions());
            let _web = lab.container("web").listen_tcp("web", "0.0.0.0:80");
            let front = if file == &one { 10 } else { 11 };
            lab.expect(&format!("api tcp 10.20.0.{front}:80 -> web sees 10.20.0.{}", 21 - front));
        }
    });
}
