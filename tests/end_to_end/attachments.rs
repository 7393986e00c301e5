//! The settings of a container's attachments: which gives the default route, routes, parameters of the interface, and
//! limits of traffic. Each comes, changes, is damaged and mended, and goes, and packets do what it says.

use crate::changes::veth;
use crate::lab::{self, Lab, Snapshot, assert_same};

/// The device that limits what a container sends.
fn shaper(network: &str, container: &str) -> String {
    veth(network, container).replacen("ve-", "if-", 1)
}

pub(crate) fn named(text: &str) -> String {
    text.replace("VE-WEB", &veth("front", "web"))
        .replace("IF-WEB", &shaper("front", "web"))
        .replace("VE-API", &veth("front", "api"))
}

fn lines(text: &str) -> Vec<String> {
    named(text).lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

/// Two networks, and a container on both whose attachments have these settings.
fn two(front: &str, back: &str) -> String {
    format!(
        "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n[networks.back]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\n\
         [containers.web]\nports = ['8080:80']\n\
         networks.front = {{ address = ['10.20.0.10', 'fd20::10']{front} }}\n\
         networks.back = {{ address = ['10.21.0.10', 'fd21::10']{back} }}\n"
    )
}

/// Plans a file, whose actions must be these, and applies it; after that there is nothing to do.
pub(crate) fn becomes(lab: &Lab, what: &str, file: &str, actions: &str) {
    assert_same(what, &lines(actions), &lab.host.plan(file).actions());
    lab.host.apply(file);
    assert_same::<String, _>(&format!("{what}: after apply"), &[], &lab.host.plan(file).actions());
}

/// Damage by hand, the plan that mends it, and that it does.
pub(crate) fn mends(lab: &Lab, file: &str, damage: &str, actions: &str) {
    lab.host.sh(&named(damage));
    becomes(lab, damage, file, actions);
}

#[test]
fn the_highest_priority_gives_the_default_routes() {
    lab::in_lab(|lab| {
        // The first of equals.
        lab.host.apply(&two("", ""));
        let _web = lab.container("web").listen_tcp("web", "[::]:80");
        let _world = lab.world.listen_tcp("world", "[::]:99");
        let way = |gateway: u8| {
            let web = lab.container("web");
            let via = web.run(["ip", "route", "get", "192.0.2.9"]) + &web.run(["ip", "route", "get", "2001:db8::9"]);
            assert!(via.contains(&format!("via 10.{gateway}.0.1 ")), "{via}");
            assert!(via.contains(&format!("via fd{gateway}::1 ")), "{via}");
            // Packets go there and come back; the published port follows.
            lab.expect(
                "web tcp 192.0.2.9:99 -> world sees 192.0.2.1
                web tcp [2001:db8::9]:99 -> world sees 2001:db8::1
                world tcp 192.0.2.1:8080 -> web sees 192.0.2.9
                world tcp [2001:db8::1]:8080 -> web sees 2001:db8::9",
            );
        };
        way(20);
        lab.host.apply(&two("", ", priority = 1"));
        way(21);
        let moved = lab.host.plan(&two(", priority = 2", ", priority = 1")).actions();
        for route in ["update route default in web", "update route default (ipv6) in web"] {
            assert!(moved.iter().any(|action| action == route), "{moved:?}");
        }
        lab.host.apply(&two(", priority = 2", ", priority = 1"));
        way(20);
        // Less than none.
        lab.host.apply(&two(", priority = -1", ""));
        way(21);
        lab.host.apply(&two(", priority = -1", ", priority = -1"));
        way(20);
        assert_eq!(lab.host.plan(&two("", "")).actions(), [""; 0]);
    });
}

/// Each family goes by the highest of those that lead out by it.
#[test]
fn each_family_has_the_best_of_its_own_ways_out() {
    lab::in_lab(|lab| {
        lab.host.apply(
            "[networks.four]\nsubnet = '10.20.0.0/24'\n[networks.six]\nsubnet = 'fd20::/64'\n\
             [networks.closed]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\ninternal = true\n\
             [containers.web]\nnetworks = { four = {}, six = { priority = 5 }, closed = { priority = 9 } }\n",
        );
        let web = lab.container("web");
        assert!(web.run(["ip", "route", "show", "default"]).contains("via 10.20.0.1 dev eth0"));
        assert!(web.run(["ip", "-6", "route", "show", "default"]).contains("via fd20::1 dev eth1"));
    });
}

/// `web` — `router` — `far`; the two networks are internal, so that nothing but the router joins them.
fn routed(routes: &str) -> String {
    format!(
        "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\ninternal = true\n\
         [networks.back]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\ninternal = true\n\
         [containers.web]\nnetworks.front = {{ address = ['10.20.0.10', 'fd20::10'], routes = [{routes}] }}\n\
         [containers.router]\nsysctl = {{ 'net.ipv4.ip_forward' = 1, 'net.ipv6.conf.all.forwarding' = 1 }}\n\
         networks.front = {{ address = ['10.20.0.254', 'fd20::fe'], mac = '02:00:00:00:00:fe' }}\n\
         networks.back = {{ address = ['10.21.0.254', 'fd21::fe'] }}\n\
         [containers.far.networks.back]\naddress = ['10.21.0.10', 'fd21::10']\n\
         routes = [{{ to = '10.20.0.0/24', via = '10.21.0.254' }}, {{ to = 'fd20::/64', via = 'fd21::fe' }}]\n"
    )
}

const BY_ROUTER: &str = "{ to = '10.21.0.0/24', via = '10.20.0.254' }, { to = 'fd21::/64', via = 'fd20::fe' }";

#[test]
fn routes_lead_by_a_router_and_into_blackholes() {
    lab::in_lab(|lab| {
        lab.host.apply(&routed(""));
        let _far = lab.container("far").listen_tcp("far", "[::]:80");
        let tries = |outcome: [&str; 2]| {
            lab.expect(&format!("web tcp 10.21.0.10:80 -> {}\nweb tcp [fd21::10]:80 -> {}", outcome[0], outcome[1]));
        };
        let sees = ["far sees 10.20.0.10", "far sees fd20::10"];
        let lost = ["unreachable (Invalid argument)"; 2];
        tries(["unreachable (Network is unreachable)"; 2]);
        let web = "route 10.21.0.0/24 in web\nOP route fd21::/64 in web";
        let op = |op: &str| format!("{op} {}", web.replace("OP", op));
        becomes(lab, "two routes", &routed(BY_ROUTER), &op("create"));
        tries(sees);
        // By the router's link-local address.
        let link_local = BY_ROUTER.replace("fd20::fe", "fe80::ff:fe00:fe");
        becomes(lab, "link-local", &routed(&link_local), "update route fd21::/64 in web");
        tries(sees);
        // A narrower one that loses what is sent there, and wider ones that do not matter.
        let hole =
            "{ to = '10.21.0.10/32', type = 'blackhole' }, { to = 'fd21::10/128', type = 'blackhole', metric = 7 }";
        let with_hole = routed(&format!("{BY_ROUTER}, {hole}"));
        becomes(
            lab,
            "blackholes",
            &with_hole,
            "update route fd21::/64 in web\ncreate route 10.21.0.10/32 in web\ncreate route fd21::10/128 metric 7 in web",
        );
        tries(lost);
        let shown = lab.container("web").run(["ip", "route"]) + &lab.container("web").run(["ip", "-6", "route"]);
        assert!(shown.contains("blackhole 10.21.0.10 proto 78"), "{shown}");
        assert!(shown.contains("blackhole fd21::10 dev lo proto 78 metric 7"), "{shown}");
        // From one to the other and back, with one key.
        let hole = "{ to = '10.21.0.0/24', type = 'blackhole' }, { to = 'fd21::/64', type = 'blackhole' }";
        becomes(
            lab,
            "from a router to a blackhole",
            &routed(hole),
            &format!("{}\ndelete route 10.21.0.10/32 in web\ndelete route fd21::10/128 metric 7 in web", op("update")),
        );
        tries(lost);
        becomes(lab, "from a blackhole to a router", &routed(BY_ROUTER), &op("update"));
        tries(sees);
        becomes(lab, "none", &routed(""), &op("delete"));
        tries(["unreachable (Network is unreachable)"; 2]);
    });
}

#[test]
fn damaged_routes_are_mended() {
    lab::in_lab(|lab| {
        let hole = "{ to = '10.9.0.0/16', type = 'blackhole' }, { to = 'fd09::/48', type = 'blackhole', metric = 7 }";
        let file = routed(&format!("{BY_ROUTER}, {hole}"));
        lab.host.apply(&file);
        drop(lab.host.settle());
        let before = Snapshot::of_machine(&lab.host);
        for (damage, actions) in [
            ("ip -n web route del blackhole 10.9.0.0/16", "create route 10.9.0.0/16 in web"),
            ("ip -n web -6 route del blackhole fd09::/48", "create route fd09::/48 metric 7 in web"),
            ("ip -n web route replace 10.9.0.0/16 via 10.20.0.1 proto 78", "update route 10.9.0.0/16 in web"),
            (
                "ip -n web -6 route replace fd09::/48 via fd20::1 metric 7 proto 78",
                "update route fd09::/48 metric 7 in web",
            ),
            ("ip -n web route replace blackhole 10.21.0.0/24 proto 78", "update route 10.21.0.0/24 in web"),
            ("ip -n web route replace unreachable 10.9.0.0/16 proto 78", "update route 10.9.0.0/16 in web"),
            ("ip -n web -6 route replace blackhole fd21::/64 metric 1024 proto 78", "update route fd21::/64 in web"),
            ("ip -n web route add blackhole 10.8.0.0/16 proto 78", "delete route 10.8.0.0/16 in web"),
            (
                "ip -n web link set eth0 down; ip -n web link set eth0 up",
                "create route 10.21.0.0/24 in web\ncreate route fd21::/64 in web\ncreate address fd20::10/64 dev eth0 in web",
            ),
        ] {
            mends(lab, &file, damage, actions);
            drop(lab.host.settle());
            assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "", "{damage}");
        }
        // Somebody else's is in the way, blackhole or not; one that does the same is left alone.
        lab.host.sh("ip -n web route replace blackhole 10.21.0.0/24 proto static");
        let refused = lab.host.try_netrec(&file, &["plan"]);
        assert_eq!(refused.status, 1);
        assert!(
            refused.stderr.contains("route 10.21.0.0/24 in web exists and is not netrec's (protocol static)"),
            "{}",
            refused.stderr
        );
        lab.host.sh("ip -n web route del blackhole 10.21.0.0/24; ip -n web route replace blackhole 10.9.0.0/16");
        becomes(lab, "a foreign blackhole that serves", &file, "create route 10.21.0.0/24 in web");
    });
}

/// In a namespace of somebody else's, which does not go along.
#[test]
fn no_route_is_left_in_a_namespace_of_somebody_elses() {
    lab::in_lab(|lab| {
        lab.host.sh("ip netns add theirs; ip -n theirs link set lo up");
        let file = |container: &str| format!("[networks.front]\nsubnet = '10.20.0.0/24'\n{container}");
        let with = file(
            "[containers.web]\nnetns = '/run/netns/theirs'\n\
             networks.front = { address = '10.20.0.10', routes = [{ to = '10.9.0.0/16', type = 'blackhole' }] }\n",
        );
        let routes = || lab.container("theirs").run(["ip", "route"]);
        let gone = |what: &str, done: lab::Done| {
            let actions = done.actions();
            let route = "delete route 10.9.0.0/16 in theirs";
            assert!(actions.iter().any(|action| action == route), "{what}: {actions:?}");
            assert_eq!(routes(), "", "{what}");
        };
        lab.host.apply(&with);
        assert!(routes().contains("blackhole 10.9.0.0/16"));
        let planned = lab.host.plan(&file(""));
        let route = planned.json["actions"].as_array().into_iter().flatten().find(|action| action["kind"] == "route");
        assert_eq!(route.map(|route| &route["owner"]), Some(&"containers.web.networks.front".into()));
        gone("taken out of the file", lab.host.apply(&file("")));
        assert_eq!(lab.host.plan(&file("")).actions(), [""; 0]);
        lab.host.apply(&with);
        gone("destroyed", lab.host.destroy(&with));
    });
}

#[test]
fn parameters_of_an_interface_go_by_its_name() {
    lab::in_lab(|lab| {
        let file = |settings: &str| two("", settings);
        let value = |path: &str| lab.container("web").sysctl(path);
        lab.host.apply(&file(""));
        becomes(
            lab,
            "two parameters",
            &file(
                ", sysctl = { 'net.ipv4.conf.IFNAME.log_martians' = true, 'net.ipv4.neigh.IFNAME.base_reachable_time_ms' = 7000 }",
            ),
            "update sysctl net/ipv4/conf/eth1/log_martians in web
            update sysctl net/ipv4/neigh/eth1/base_reachable_time_ms in web",
        );
        assert_eq!(value("net/ipv4/conf/eth1/log_martians"), "1");
        assert_eq!(value("net/ipv4/conf/eth0/log_martians"), "0");
        assert_eq!(value("net/ipv4/neigh/eth1/base_reachable_time_ms"), "7000");
        // With a name of its own, even one with a dot; the values go along.
        let named = ", interface = 'lan.7', sysctl = { 'net/ipv4/conf/IFNAME/log_martians' = 1, \
             'net/ipv4/neigh/IFNAME/base_reachable_time_ms' = 7000 }";
        becomes(lab, "another name", &file(named), &format!("update link {}", veth("back", "web")));
        assert_eq!(value("net/ipv4/conf/lan.7/log_martians"), "1");
        let changed = file(&named.replace("7000", "8000"));
        becomes(lab, "changed", &changed, "update sysctl net/ipv4/neigh/lan.7/base_reachable_time_ms in web");
        mends(
            lab,
            &changed,
            "ip netns exec web sysctl -qw net/ipv4/conf/lan.7/log_martians=0",
            "update sysctl net/ipv4/conf/lan.7/log_martians in web",
        );
        // What nobody wants any more stays as it is.
        becomes(lab, "none", &file(", interface = 'lan.7'"), "");
        assert_eq!(value("net/ipv4/conf/lan.7/log_martians"), "1");
        // netrec sets `accept_ra` where the file does not.
        let ours = file(", interface = 'lan.7', sysctl = { 'net.ipv6.conf.IFNAME.accept_ra' = 2 }");
        becomes(lab, "accept_ra", &ours, "update sysctl net/ipv6/conf/lan.7/accept_ra in web");
        becomes(lab, "without", &file(", interface = 'lan.7'"), "update sysctl net/ipv6/conf/lan.7/accept_ra in web");
        assert_eq!(value("net/ipv6/conf/lan.7/accept_ra"), "0");
        // Two that say it in two ways are refused.
        let twice = file(", sysctl = { 'net.ipv4.conf.IFNAME.rp_filter' = 2 }")
            + "sysctl = { 'net.ipv4.conf.eth1.rp_filter' = 1 }\n";
        let refused = lab.host.try_netrec(&twice, &["plan"]);
        assert_eq!(
            refused.stderr,
            "error: sysctl net/ipv4/conf/eth1/rp_filter in web is to be 2 for containers.web.networks.back, and 1 for \
             containers.web: it can be one only\n"
        );
    });
}

/// The kernel shows a value as it likes; the file may say it otherwise.
#[test]
fn parameters_are_what_the_kernel_makes_of_them() {
    lab::in_lab(|lab| {
        let file = "[containers.web.sysctl]\n'net.ipv4.conf.all.forwarding' = 1\n'net.ipv4.ping_group_range' = '0x10 0X20'\n\
                    'net.ipv4.ip_local_reserved_ports' = '9000-9003,80 9004,7,8'\n";
        lab.host.apply(file);
        let value = |path: &str| lab.container("web").sysctl(path);
        assert_eq!(value("net/ipv4/ip_forward"), "1");
        assert_eq!(value("net/ipv4/ping_group_range"), "16\t32");
        assert_eq!(value("net/ipv4/ip_local_reserved_ports"), "7-8,80,9000-9004");
        assert_eq!(lab.host.plan(file).actions(), [""; 0]);
        // A folder is no parameter.
        let folder = lab.host.try_netrec(
            &file.replace("ip_local_reserved_ports' = '9000-9003,80 9004,7,8'", "conf' = 7"),
            &["apply", "-y"],
        );
        assert_eq!(
            (folder.status, folder.stderr.lines().next()),
            (
                4,
                Some(
                    "error: create sysctl net/ipv4/conf in web: /proc/sys/net/ipv4/conf: wanted 7, found nothing: Is a directory"
                )
            )
        );
    });
}

#[test]
fn a_parameter_of_one_interface_has_the_last_word() {
    lab::in_lab(|lab| {
        let file = |all: u8, one: u8| {
            format!(
                "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n[containers.web]\n\
                 sysctl = {{ 'net.ipv4.ip_forward' = {all}, 'net.ipv6.conf.all.forwarding' = {all} }}\n\
                 [containers.web.networks.front]\n\
                 sysctl = {{ 'net.ipv4.conf.IFNAME.forwarding' = {one}, 'net.ipv6.conf.IFNAME.forwarding' = {one} }}\n"
            )
        };
        for (all, one) in [(0, 1), (1, 0), (0, 1)] {
            lab.host.apply(&file(all, one));
            let web = lab.container("web");
            let found = ["net/ipv4/ip_forward", "net/ipv4/conf/eth0/forwarding", "net/ipv6/conf/eth0/forwarding"];
            assert_eq!(found.map(|path| web.sysctl(path)), [all, one, one].map(|value| value.to_string()));
            assert_eq!(lab.host.plan(&file(all, one)).actions(), [""; 0]);
        }
        // Its own is right already, until that of all is mended.
        let wanted = file(1, 0);
        lab.host.apply(&wanted);
        lab.host.sh("ip netns exec web sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
        assert_same(
            "a parameter of all devices was changed",
            &[
                "update sysctl net/ipv4/ip_forward in web",
                "replace sysctl net/ipv4/conf/eth0/forwarding in web",
                "update sysctl net/ipv6/conf/all/forwarding in web",
                "replace sysctl net/ipv6/conf/eth0/forwarding in web",
            ],
            &lab.host.plan(&wanted).actions(),
        );
        lab.host.apply(&wanted);
        assert_eq!(lab.host.plan(&wanted).actions(), [""; 0]);
        assert_eq!(lab.container("web").sysctl("net/ipv4/conf/eth0/forwarding"), "0");
    });
}

/// Somebody turned IPv6 off for all devices to come, as Docker does in containers without a network of its own, or later on.
#[test]
fn ipv6_is_on_where_a_network_has_it() {
    lab::in_lab(|lab| {
        let off = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1";
        lab.host.sh(&format!(
            "ip netns add theirs; ip netns exec theirs {off}; {off}; \
                              sysctl -qw net.ipv6.conf.uplink.disable_ipv6=0"
        ));
        let file = "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
                    [networks.four]\nsubnet = '10.21.0.0/24'\n\
                    [networks.lan]\ndriver = 'macvlan'\nparent = 'uplink'\nsubnet = ['10.40.0.0/24', 'fd40::/64']\n\
                    [containers.web]\nnetns = '/run/netns/theirs'\nnetworks = ['front', 'four', 'lan']\n";
        lab.host.apply(file);
        assert_eq!(lab.host.plan(file).actions(), [""; 0]);
        let web = lab.container("theirs");
        let is_off = |name: &str| web.sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"));
        // It is nobody's business on a network without.
        assert_eq!(["eth0", "eth1", "eth2"].map(is_off), ["0", "1", "0"]);
        lab.host
            .sh("ip netns exec theirs sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1 net.ipv6.conf.eth2.disable_ipv6=1
            sysctl -qw net.ipv6.conf.nr-front.disable_ipv6=1");
        lab.host.apply(file);
        assert_eq!(lab.host.plan(file).actions(), [""; 0]);
        assert_eq!(["eth0", "eth1", "eth2"].map(is_off), ["0", "1", "0"]);
        assert_eq!(lab.host.sysctl("net/ipv6/conf/nr-front/disable_ipv6"), "0");
        lab.host.destroy(file);
    });
}

#[test]
fn a_container_is_no_router_to_itself() {
    lab::in_lab(|lab| {
        let file = "[networks.front]\nsubnet = '10.20.0.0/24'\n[containers.web.networks.front]\naddress = '10.20.0.5'\n\
             routes = [{ to = '10.9.0.0/16', via = '10.20.0.5' }]\n";
        let refused = lab.host.try_netrec(file, &["validate"]);
        assert_eq!(refused.status, 3);
        let said = "error: the router `10.20.0.5` is container `web` itself\n  --> netrec.toml:5:11\n";
        assert!(refused.stderr.contains(&said.replace("netrec.toml", "/run/lab/netrec.toml")), "{}", refused.stderr);
    });
}

#[test]
fn an_interface_is_not_called_as_what_limits_it() {
    lab::in_lab(|lab| {
        let file = format!(
            "[networks.lan]\ndriver = 'macvlan'\nparent = 'uplink'\nsubnet = '10.40.0.0/24'\n\
             [containers.web]\nnetworks.lan = {{ interface = '{}', ingress = '10mbit' }}\n",
            shaper("lan", "web")
        );
        let refused = lab.host.try_netrec(&file, &["validate"]);
        assert_eq!(refused.status, 3);
        let said = format!(
            "error: two devices of container `web` would be called `{}`: the interface on network `lan` and the device that \
             limits what comes from network `lan`\n  --> /run/lab/netrec.toml:6:",
            shaper("lan", "web")
        );
        assert!(refused.stderr.starts_with(&said), "{}", refused.stderr);
        // Foreign devices of such names, and commands that take them away.
        let file = file.replace(&format!("interface = '{}', ", shaper("lan", "web")), "");
        lab.host.sh("ip netns add web");
        let file = file.replace("[containers.web]", "[containers.web]\nnetns = '/run/netns/web'");
        for (name, own) in [("eth0", "another `interface` on the network"), (&*shaper("lan", "web"), "another name")] {
            lab.host.run(["ip", "-n", "web", "link", "add", name, "type", "bridge"]);
            let refused = lab.host.try_netrec(&file, &["plan"]);
            let ip = "nsenter --net=/run/netns/web ip link";
            assert_eq!(
                refused.stderr,
                format!(
                    "error: link {name} in /run/netns/web exists and is not netrec's (group 0), but \
                     containers.web.networks.lan (/run/lab/netrec.toml:7) wants to make it\n  rename: give the container \
                     {own}, or that device another name, `{ip} set {name} name NAME`; adopt: devices in a container cannot \
                     be; remove: `{ip} del {name}`\n"
                )
            );
            lab.host.sh(&format!("{ip} set {name} name other && {ip} del other"));
        }
        lab.host.apply(&file);
        // On a bridge it is in the host.
        let file = file.replace("driver = 'macvlan'\nparent = 'uplink'\n", "").replace("ingress", "egress");
        let name = shaper("lan", "web");
        lab.host.run(["ip", "link", "add", &name, "type", "bridge"]);
        let refused = lab.host.try_netrec(&file, &["plan"]);
        assert_eq!(
            refused.stderr,
            format!(
                "error: link {name} exists and is not netrec's (group 0), but containers.web.networks.lan \
                 (/run/lab/netrec.toml:5) wants to make it\n  rename: give the container another name, or that device another \
                 name, `ip link set {name} name NAME`; adopt: what limits traffic cannot be; remove: `ip link del {name}`\n"
            )
        );
    });
}

/// Of the Ethernet address that an interface had nothing is left, and it is as one that had the new one from the first.
#[test]
fn the_link_local_address_follows_the_mac() {
    lab::in_lab(|lab| {
        let file = |mac: &str| {
            format!(
                "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n[networks.back]\nsubnet = '10.21.0.0/24'\n\
                 [containers.web]\nnetworks.front = {{ address = ['10.20.0.10', 'fd20::10'], mac = '02:00:00:00:00:{mac}' }}\n\
                 networks.back = {{ mac = '02:00:00:00:01:{mac}' }}\n\
                 [containers.db]\nnetworks.front = {{ address = ['10.20.0.11', 'fd20::11'] }}\n"
            )
        };
        let addresses = || {
            let settled = || !lab.container("web").sh("ip -6 addr show tentative").contains("fe80");
            lab::until("nobody objects", settled);
            lab.container("web").sh("ip -d -6 addr show | sed s/@if[0-9]*//; ip -6 route; ip -6 route show table local")
        };
        lab.host.apply(&file("02"));
        let fresh = addresses();
        assert!(fresh.contains("inet6 fe80::ff:fe00:2/64 scope link"), "{fresh}");
        lab.host.destroy(&file("02"));
        lab.host.apply(&file("01"));
        let (web, db) = (lab.container("web"), lab.container("db"));
        let _listener = web.listen_tcp("web", "[::]:80");
        let mut flows = ["10.20.0.10:80", "[fd20::10]:80"].map(|at| db.connect(at).expect("a connection"));
        lab.host.apply(&file("02"));
        assert_eq!(addresses(), fresh);
        for flow in &mut flows {
            assert_eq!(flow.echo("still there").as_deref(), Ok("still there"));
        }
        assert_eq!(lab.host.plan(&file("02")).actions(), [""; 0]);
    });
}

#[test]
#[cfg(feature = "fault-injection")]
fn no_link_local_address_is_left_by_a_death() {
    lab::in_lab(|lab| {
        let file = |mac: u8| {
            format!(
                "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
                 [containers.web.networks.front]\nmac = '02:00:00:00:00:{mac:02}'\n"
            )
        };
        lab.host.apply(&file(1));
        let n = lab.host.apply(&file(2)).json["writes"].as_u64().expect("writes");
        let after = lab.host.write("after.toml", &file(2));
        assert!(n >= 3, "{n} writes");
        for at in 1..=n {
            lab.host.apply(&file(1));
            let fault = format!("die:{at}");
            let died = lab.host.netrec_with_env(&[("NETREC_FAULT", &fault)], &["-c", &after, "apply", "-y"]);
            assert_eq!(died.status, 137, "write {at} of {n}: {}", died.stderr);
            lab.host.apply(&file(2));
            let addresses = lab.container("web").run(["ip", "-6", "-brief", "address", "show", "dev", "eth0"]);
            let link_local: Vec<&str> = addresses.split_whitespace().filter(|word| word.starts_with("fe80")).collect();
            assert_eq!(link_local, ["fe80::ff:fe00:2/64"], "write {at} of {n}");
        }
    });
}

/// A container with these addresses, and one that answers.
fn addressed(list: &str) -> String {
    format!(
        "[networks.front]\nsubnet = '10.20.0.0/24'\n[networks.back]\nsubnet = '10.21.0.0/24'\n\
         [containers.web]\nnetworks.front = {{ address = [{list}] }}\n\
         networks.back = {{ address = ['10.21.0.9', '10.21.0.5'] }}\n"
    )
}

#[test]
fn a_container_speaks_from_the_first_address_of_a_subnet() {
    lab::in_lab(|lab| {
        let _host = lab.host.listen_tcp("host", "[::]:99");
        let speaks = |front: &str| {
            lab.expect(&format!(
                "web tcp 10.20.0.1:99 -> host sees {front}\nweb tcp 10.21.0.1:99 -> host sees 10.21.0.9"
            ));
            let way = lab.container("web").run(["ip", "route", "get", "192.0.2.9"]);
            assert!(way.contains(&format!("via 10.20.0.1 dev eth0 src {front} ")), "{way}");
        };
        let of = |list: &[u8]| {
            let list: Vec<String> = list.iter().map(|last| format!("'10.20.0.{last}'")).collect();
            addressed(&list.join(", "))
        };
        lab.host.apply(&of(&[30, 10, 20]));
        assert_eq!(lab.host.plan(&of(&[30, 10, 20])).actions(), [""; 0]);
        speaks("10.20.0.30");
        // The order of the others is none.
        becomes(lab, "the others", &of(&[30, 20, 10]), "");
        let becomes_first = |list: &[u8], actions: &str, first: &str| {
            becomes(lab, &format!("{list:?}"), &of(list), actions);
            speaks(first);
        };
        becomes_first(
            &[10, 20, 30],
            "update address 10.20.0.10/24 dev eth0 in web
            replace address 10.20.0.20/24 dev eth0 in web
            replace address 10.20.0.30/24 dev eth0 in web",
            "10.20.0.10",
        );
        // One that is new, with and without those before it; and the first goes.
        becomes_first(
            &[40, 10],
            "create address 10.20.0.40/24 dev eth0 in web
            replace address 10.20.0.10/24 dev eth0 in web
            delete address 10.20.0.20/24 dev eth0 in web
            delete address 10.20.0.30/24 dev eth0 in web",
            "10.20.0.40",
        );
        becomes_first(
            &[10],
            "update address 10.20.0.10/24 dev eth0 in web
            delete address 10.20.0.40/24 dev eth0 in web",
            "10.20.0.10",
        );
        becomes_first(
            &[50],
            "create address 10.20.0.50/24 dev eth0 in web
            delete address 10.20.0.10/24 dev eth0 in web",
            "10.20.0.50",
        );
        becomes_first(&[50, 10], "create address 10.20.0.10/24 dev eth0 in web", "10.20.0.50");
        // By hand: another order, another first, and one less.
        let damages = [
            (
                "ip addr del 10.20.0.50/24 dev eth0; ip addr add 10.20.0.50/24 dev eth0",
                "update address 10.20.0.50/24 dev eth0 in web
                replace address 10.20.0.10/24 dev eth0 in web",
            ),
            (
                "ip addr flush dev eth0; for n in 60 10 50; do ip addr add 10.20.0.$n/24 dev eth0; done;
                 ip route add default via 10.20.0.1 proto 78",
                "update address 10.20.0.50/24 dev eth0 in web
                replace address 10.20.0.10/24 dev eth0 in web
                delete address 10.20.0.60/24 dev eth0 in web",
            ),
            (
                "ip addr del 10.20.0.50/24 dev eth0",
                "create address 10.20.0.50/24 dev eth0 in web
                replace address 10.20.0.10/24 dev eth0 in web",
            ),
        ];
        for (damage, actions) in damages {
            lab.container("web").sh(damage);
            becomes_first(&[50, 10], actions, "10.20.0.50");
        }
    });
}

/// Addresses that are changed by hand in what cannot change in place: with which scope, and with which other end.
#[test]
fn addresses_with_another_scope_or_another_end_are_put_back() {
    lab::in_lab(|lab| {
        let file = "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd00:20::/64']\n\
             [containers.web.networks.front]\naddress = ['10.20.0.50', '10.20.0.10', 'fd00:20::50']\n\
             [containers.db.networks.front]\naddress = '10.20.0.60'\n";
        lab.host.apply(file);
        let before = lab.at_rest();
        let _host = lab.host.listen_tcp("host", "[::]:99");
        let web = lab.container("web");
        let db = lab.container("db");
        let mended = |what: &str, actions: &str| {
            // And what was there comes back where it is taken back.
            let odd = lab.at_rest();
            let path = lab.host.write("same.toml", file);
            assert_eq!(lab.host.netrec(&["-c", &path, "apply", "-y", "--confirm", "1h"]).status, 0, "{what}");
            let back = lab.host.netrec(&["rollback"]);
            assert_eq!(back.status, 0, "{what}: {}", back.stderr);
            assert_eq!(odd.diff(&lab.at_rest()), "", "{what}: taken back");
            becomes(lab, what, file, actions);
            assert_eq!(before.diff(&lab.at_rest()), "", "{what}");
            lab.expect(
                "web tcp 10.20.0.1:99 -> host sees 10.20.0.50\nweb tcp [fd00:20::1]:99 -> host sees fd00:20::50",
            );
            lab.expect("db tcp 10.20.0.1:99 -> host sees 10.20.0.60");
        };
        db.sh("ip -4 addr flush dev eth0; ip addr add 10.20.0.60/24 dev eth0 scope link");
        mended(
            "the only address of a device, with another scope",
            "replace address 10.20.0.60/24 dev eth0 in db
            create route default in db",
        );
        db.sh("ip addr add 10.99.0.1/24 dev eth0; ip addr del 10.20.0.60/24 dev eth0
             ip addr add 10.20.0.60/24 dev eth0 scope link; ip addr del 10.99.0.1/24 dev eth0");
        mended(
            "the same, with the route that goes along",
            "replace address 10.20.0.60/24 dev eth0 in db
            replace route default in db",
        );
        web.sh("ip -4 addr flush dev eth0; for n in 50 10; do ip addr add 10.20.0.$n/24 dev eth0 scope link; done");
        mended(
            "all of a subnet, with another scope",
            "replace address 10.20.0.10/24 dev eth0 in web
            replace address 10.20.0.50/24 dev eth0 in web
            create route default in web",
        );
        web.sh("ip -4 addr flush dev eth0; for n in 70 10; do ip addr add 10.20.0.$n/24 dev eth0 scope host; done");
        mended(
            "one that nobody wants, and another scope",
            "replace address 10.20.0.10/24 dev eth0 in web
            create address 10.20.0.50/24 dev eth0 in web
            delete address 10.20.0.70/24 dev eth0 in web
            create route default in web",
        );
        web.sh("ip -4 addr flush dev eth0; ip addr add 10.20.0.50/24 peer 10.20.0.10/24 dev eth0");
        mended(
            "another end in the subnet",
            "create address 10.20.0.10/24 dev eth0 in web
            create address 10.20.0.50/24 dev eth0 in web
            delete address 10.20.0.50/24 peer 10.20.0.10 dev eth0 in web
            create route default in web",
        );
        web.sh("ip addr add 10.20.0.50/24 peer 10.99.0.1/24 dev eth0");
        mended("one more with another end", "delete address 10.20.0.50/24 peer 10.99.0.1 dev eth0 in web");
        web.sh("ip addr del fd00:20::50/64 dev eth0; ip addr add fd00:20::50 peer fd00:20::51/64 dev eth0 nodad");
        mended(
            "another end by IPv6",
            "create address fd00:20::50/64 dev eth0 in web
            delete address fd00:20::50/64 peer fd00:20::51 dev eth0 in web",
        );
        lab.host.sh("b=$(ip -br link show type bridge | cut -d' ' -f1); ip addr del 10.20.0.1/24 dev $b
             ip addr add 10.20.0.1/24 dev $b scope link");
        mended("a gateway, with another scope", "replace address 10.20.0.1/24 dev nr-front");
        web.sh("ip addr del 127.0.0.1/8 dev lo");
        mended("the loopback address", "update netns web");
    });
}
