//! What is removed leaves nothing, and what is not netrec's stays.

use std::process::Command;

use crate::SHOP;
use crate::lab::{self, Lab};

/// One thing of every sort that netrec makes too, of somebody else's making, close to netrec's.
const FOREIGN: &str = "
    ip link add br-x type bridge
    ip addr add 10.99.0.1/24 dev br-x
    ip link set br-x up
    ip netns add other
    ip -n other link set lo up
    ip link add x0 master br-x type veth peer name x1 netns other
    ip link set x0 up
    ip -n other link set x1 up
    ip -n other addr add 10.99.0.2/24 dev x1
    ip -n other route add default via 10.99.0.1
    ip addr add 192.0.2.77/32 dev lo
    ip route add 10.98.0.0/16 via 192.0.2.9
    ip route add blackhole 10.97.0.0/16 table 100
    ip rule add pref 100 from 10.98.0.0/16 table 100
    ip -6 rule add pref 100 from fd98::/16 table 100
    ip neigh add 10.99.0.3 lladdr 02:00:00:00:99:03 dev br-x
    bridge fdb add 02:00:00:00:99:03 dev x0 master static
    nft -f - <<N
    table inet other {
        set some { type ipv4_addr; elements = { 10.99.0.2, 10.99.0.3 } }
        chain post {
            type nat hook postrouting priority srcnat
            ip saddr @some oifname uplink counter masquerade
        }
    }
    table ip filter {
        chain INPUT {
            type filter hook input priority 0
            counter
        }
    }
N
";

fn forwarding_on(lab: &Lab) {
    lab.host.set_sysctl("net/ipv4/ip_forward", "1");
    lab.host.set_sysctl("net/ipv6/conf/all/forwarding", "1");
}

#[test]
fn destroy_leaves_the_host_as_it_was() {
    lab::in_lab(|lab| {
        lab.host.sh(FOREIGN);
        forwarding_on(lab);
        let before = lab.at_rest();
        lab.host.apply(SHOP);
        drop(lab.host.settle());
        let _web = lab.container("web").listen_tcp("web", "[::]:80");
        lab.expect(
            "world tcp 192.0.2.1:8080 -> web sees 192.0.2.9\nworld tcp [2001:db8::1]:8080 -> web sees 2001:db8::9",
        );
        lab.host.destroy(SHOP);
        assert_eq!(before.diff(&lab.at_rest()), "");
        assert_eq!(lab.host.destroy(SHOP).json["writes"], 0);
    });
}

#[test]
fn an_empty_file_leaves_the_host_as_it_was() {
    lab::in_lab(|lab| {
        lab.host.sh(FOREIGN);
        forwarding_on(lab);
        let before = lab.at_rest();
        lab.host.apply(SHOP);
        lab.host.apply("");
        assert_eq!(before.diff(&lab.at_rest()), "");
    });
}

#[test]
fn destroy_works_when_the_file_names_other_things() {
    lab::in_lab(|lab| {
        forwarding_on(lab);
        let before = lab.at_rest();
        lab.host.apply(SHOP);
        lab.host.destroy("[networks.somethingelse]\nsubnet = '10.77.0.0/24'\n");
        assert_eq!(before.diff(&lab.at_rest()), "");
    });
}

/// What is removed from the file is gone as if it had never been there: the host looks as one that got the smaller file
/// at once.
#[test]
fn a_removed_container_port_or_network_leaves_nothing() {
    const FRONT: &str = "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n";
    const BACK: &str = "[networks.back]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\n";
    // So that its bridge has a port in either case; one that never had has no link-local address.
    const DB: &str = "[containers.db]\nnetworks = ['back']\n";
    const WEB: &str = "[containers.web]\nnetworks = ['front']\n";
    let more: [(&str, String); 5] = [
        ("a port", format!("{FRONT}{WEB}ports = ['8080:80', '127.0.0.1:8082:82', '8053:53/udp']\n")),
        ("a container", format!("{FRONT}{WEB}[containers.api]\nnetworks = ['front']\nports = ['8090:80']\n")),
        ("a network", format!("{FRONT}{BACK}{WEB}")),
        ("an attachment", format!("{FRONT}{BACK}[containers.web]\nnetworks = ['front', 'back']\n{DB}")),
        ("all of it", format!("{FRONT}{BACK}{WEB}{DB}ports = ['5432:5432']\n")),
    ];
    lab::in_lab(|lab| {
        let less = format!("{FRONT}{WEB}");
        let less_of =
            |what: &str| if what == "an attachment" { format!("{FRONT}{BACK}{WEB}{DB}") } else { less.clone() };
        for (what, more) in &more {
            let less = less_of(what);
            lab.host.apply(&less);
            let before = lab.at_rest();
            lab.host.apply(more);
            lab.host.apply(&less);
            assert_eq!(before.diff(&lab.at_rest()), "", "{what}");
        }
    });
}

/// What runs in a container does not keep it: its processes stay behind without a network.
#[test]
fn a_removed_container_that_still_runs_leaves_nothing() {
    lab::in_lab(|lab| {
        forwarding_on(lab);
        let before = lab.at_rest();
        lab.host.apply(SHOP);
        let web = lab.container("web");
        let mut inside = web.spawn(Command::new("sleep").arg("600")).expect("a process");
        lab.host.destroy(SHOP);
        assert_eq!(before.diff(&lab.at_rest()), "");
        assert_eq!(web.run(["ip", "-o", "link"]).lines().count(), 1, "only lo is left");
        assert_eq!(lab.host.plan("").actions(), [""; 0], "the namespace without a name is nothing to do");
        lab.host.apply(SHOP);
        assert_eq!(lab.host.plan(SHOP).actions(), [""; 0]);
        inside.kill().expect("its end");
        inside.wait().expect("its end");
    });
}

#[test]
fn forwarding_that_was_turned_on_stays_on_and_is_mentioned() {
    lab::in_lab(|lab| {
        let before = lab.at_rest();
        let warned = lab.host.apply(SHOP).warnings();
        assert!(warned.iter().any(|w| w == "forwarding-enabled"), "{warned:?}");
        let destroyed = lab.host.try_netrec(SHOP, &["destroy", "-y"]);
        assert_eq!(destroyed.status, 0, "{}", destroyed.stderr);
        let said = destroyed.stdout + &destroyed.stderr;
        assert!(said.contains("net/ipv4/ip_forward") && said.contains("net/ipv6/conf/all/forwarding"), "{said}");
        // Both are on, and nothing is left but what hangs on them: a router answers to anycast addresses, for example.
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            assert_eq!(lab.host.sysctl(path), "1", "{path}");
            lab.host.set_sysctl(path, "0");
        }
        assert_eq!(before.diff(&lab.at_rest()), "");
    });
}

/// A removal that failed half-way leaves links in the group of those that go. The next link that goes takes all of the group
/// along, those too that the file wants again.
#[test]
fn links_on_their_way_out_that_are_wanted_again_stay() {
    lab::in_lab(|lab| {
        let file = |vni: u32| {
            format!(
                "[hosts.host]\nid = 1\naddress = '192.0.2.1'\n[hosts.far]\nid = 2\naddress = '192.0.2.9'\n\
                 [networks.wide]\ndriver = 'overlay'\nvni = {vni}\nsubnet = '10.30.0.0/24'\n\
                 [networks.front]\nsubnet = '10.20.0.0/24'\n\
                 [containers.web]\nhost = 'host'\nnetworks.front = {{ address = '10.20.0.10' }}\nnetworks.wide = {{}}\nports = ['8080:80']\n"
            )
        };
        let (before, after) = (file(4100), file(4101));
        lab.host.apply(&before);
        let _listener = lab.container("web").listen_tcp("web", "0.0.0.0:80");
        let mut connection = lab.world.connect("192.0.2.1:8080").expect("a connection");
        let links = "ip -o link show group 20050 | cut -d: -f2 | cut -d@ -f1 | grep -v vx-wide";
        lab.host.sh(&format!("for link in $({links}); do ip link set $link group 20051; done"));
        let done = lab.host.apply(&after).actions();
        assert!(done.contains(&"replace link vx-wide".to_owned()), "{done:?}");
        assert_eq!(lab.host.plan(&after).actions(), [""; 0]);
        assert_eq!(connection.echo("still there").as_deref(), Ok("still there"));
        assert_eq!(lab.host.run(["ip", "link", "show", "group", "20051"]), "");
    });
}
