//! A plugin that does all that one must not: each time there is one clear error, what it was told is taken back, and the
//! other networks are made.

use serde_json::{Value, json};

use crate::lab::{self, Lab};
use crate::scripted::{Reply, Scripted};

const FILE: &str = r#"
[networks.wide]
driver = "remote"
plugin = "hostile"
subnet = "10.50.0.0/24"

[networks.front]
subnet = "10.20.0.0/24"

[containers.web]
networks.front = {}
networks.wide = { mac = "02:00:00:00:00:10" }
"#;

/// One method answered in one way: what is said of it, and what is told in all, with what had to be taken back.
type Row = (&'static str, Reply, String, &'static [&'static str]);

fn each_is_one_clear_error(lab: &Lab, table: Vec<Row>) {
    for (evil, reply, error, told) in table {
        lab.host.sh("ip link add dev0 type veth peer name dev1; ip link add bridge0 type bridge
                         ip link add port0 type veth peer name port1; ip link set port0 master bridge0
                         ip tuntap add tun0 mode tun
                         ip link add uplink6 type veth peer name port6; ip link set uplink6 up
                         ip -6 route add default dev uplink6 metric 4096");
        let what = format!("{evil}: {reply:?}");
        let method = if evil.contains('.') { evil.to_owned() } else { format!("NetworkDriver.{evil}") };
        let plugin = Scripted::start(lab, "hostile", &[(&method, reply)]);
        let file = lab.host.write("netrec.toml", FILE);
        let output = lab.host.netrec_with_env(&[("NETREC_PLUGIN_MS", "1000")], &["-c", &file, "apply", "-y"]);
        let expected = format!("error: {error}\nall else is done; `netrec apply` tries again\n");
        assert_eq!((output.status, output.stderr), (1, expected), "{what}");
        assert_eq!(plugin.changes(), told, "{what}");
        lab.expect("web ping 10.20.0.1 -> answer");
        assert_eq!(lab.container("web").sh("ip -br link | wc -l").trim(), "2", "{what}");
        lab.host.destroy(FILE);
        assert_eq!(lab.host.sh("ls /run/netrec/remote 2>/dev/null || true"), "", "{what}");
        lab.host.sh("ip link del dev0; ip link del port0; ip link del bridge0; ip link del tun0; ip link del uplink6");
    }
}

const OF_NETWORK: &[&str] = &["CreateNetwork", "DeleteNetwork"];
const CREATED: &[&str] = &["CreateNetwork", "CreateEndpoint", "DeleteEndpoint"];
const JOINED: &[&str] = &["CreateNetwork", "CreateEndpoint", "Join", "Leave", "DeleteEndpoint"];

fn network(what: &str) -> String {
    format!("make network wide: plugin `hostile`: {what}")
}

fn endpoint(what: &str) -> String {
    format!("make endpoint web on wide: plugin `hostile`: {what}")
}

#[test]
fn evil_answers_about_a_network() {
    lab::in_lab(|lab| {
        each_is_one_clear_error(
            lab,
            vec![
                ("Plugin.Activate", Reply::Hang, network("Plugin.Activate: no answer within 2 s"), &[]),
                (
                    "Plugin.Activate",
                    Reply::Json(json!({ "Implements": ["VolumeDriver"] })),
                    "make network wide: plugin `hostile` is no NetworkDriver: it implements VolumeDriver".to_owned(),
                    &[],
                ),
                (
                    "Plugin.Activate",
                    Reply::Status(200, "<html>"),
                    network("Plugin.Activate: its answer is no JSON: expected value at line 1 column 1"),
                    &[],
                ),
                (
                    "GetCapabilities",
                    Reply::Json(json!({ "Scope": "galaxy" })),
                    network("NetworkDriver.GetCapabilities: its scope is `galaxy`: neither local nor global"),
                    &[],
                ),
                (
                    "CreateNetwork",
                    Reply::Half,
                    network("NetworkDriver.CreateNetwork: it closed the connection in the middle of its answer"),
                    OF_NETWORK,
                ),
                (
                    "CreateNetwork",
                    Reply::Status(500, ""),
                    network("NetworkDriver.CreateNetwork: it answered 500"),
                    OF_NETWORK,
                ),
                (
                    "CreateNetwork",
                    Reply::Long(100 << 20),
                    network("NetworkDriver.CreateNetwork: its answer is longer than 1048576 bytes"),
                    OF_NETWORK,
                ),
                (
                    "CreateNetwork",
                    Reply::Hang,
                    network("NetworkDriver.CreateNetwork: no answer within 1 s"),
                    OF_NETWORK,
                ),
                (
                    "CreateNetwork",
                    Reply::Json(json!({ "Err": "no\u{1b}[2J such" })),
                    network("NetworkDriver.CreateNetwork: no\\u{1b}[2J such"),
                    OF_NETWORK,
                ),
            ],
        );
    });
}

#[test]
fn evil_answers_about_an_endpoint() {
    let interface = |value: Value| Reply::Json(json!({ "Interface": value }));
    lab::in_lab(|lab| {
        each_is_one_clear_error(
            lab,
            vec![
                (
                    "CreateEndpoint",
                    Reply::Hang,
                    endpoint("NetworkDriver.CreateEndpoint: no answer within 1 s"),
                    CREATED,
                ),
                (
                    "CreateEndpoint",
                    Reply::Half,
                    endpoint("NetworkDriver.CreateEndpoint: it closed the connection in the middle of its answer"),
                    CREATED,
                ),
                (
                    "CreateEndpoint",
                    Reply::Status(500, "out of \"order\"\nline 2"),
                    endpoint("NetworkDriver.CreateEndpoint: it answered 500: out of \"order\""),
                    CREATED,
                ),
                (
                    "CreateEndpoint",
                    Reply::Status(200, "{\"Interface\": [}"),
                    endpoint("NetworkDriver.CreateEndpoint: its answer is no JSON: expected value at line 1 column 16"),
                    CREATED,
                ),
                (
                    "CreateEndpoint",
                    Reply::Long(100 << 20),
                    endpoint("NetworkDriver.CreateEndpoint: its answer is longer than 1048576 bytes"),
                    CREATED,
                ),
                (
                    "CreateEndpoint",
                    interface(json!({ "Address": "10.50.0.77/24" })),
                    endpoint("CreateEndpoint: it changes the address from 10.50.0.190/24 to 10.50.0.77/24"),
                    CREATED,
                ),
                (
                    "CreateEndpoint",
                    interface(json!({ "AddressIPv6": "fd99::7/64" })),
                    endpoint("CreateEndpoint: the address fd99::7/64 is outside of the network's subnets"),
                    CREATED,
                ),
                (
                    "CreateEndpoint",
                    interface(json!({ "MacAddress": "no" })),
                    endpoint("NetworkDriver.CreateEndpoint: `no` is no MAC address"),
                    CREATED,
                ),
                (
                    "CreateEndpoint",
                    interface(json!({ "MacAddress": "02:00:00:00:00:99" })),
                    endpoint("CreateEndpoint: it changes the MAC address from 02:00:00:00:00:10 to 02:00:00:00:00:99"),
                    CREATED,
                ),
                (
                    "CreateEndpoint",
                    interface(json!({ "MacAddress": "01:00:5e:00:00:01" })),
                    endpoint("NetworkDriver.CreateEndpoint: `01:00:5e:00:00:01` is no MAC address"),
                    CREATED,
                ),
                (
                    "CreateEndpoint",
                    interface(json!({ "Address": "10.50.0.190" })),
                    endpoint("NetworkDriver.CreateEndpoint: `10.50.0.190` is no address of that family with a prefix"),
                    CREATED,
                ),
            ],
        );
    });
}

#[test]
fn evil_answers_about_a_device() {
    let device = |name: &str| Reply::Json(json!({ "InterfaceName": { "SrcName": name, "DstPrefix": "eth" } }));
    lab::in_lab(|lab| {
        each_is_one_clear_error(
            lab,
            vec![
                (
                    "Join",
                    device("port0"),
                    endpoint("Join: it names the device `port0`, which is a port of another device"),
                    JOINED,
                ),
                (
                    "Join",
                    device("nothing"),
                    endpoint("Join: it names the device `nothing`, which this host does not have"),
                    JOINED,
                ),
                ("Join", device("lo"), endpoint("Join: it names the device `lo`, which is netrec's own"), JOINED),
                ("Join", device("bridge0"), endpoint("Join: it names the device `bridge0`, which is a bridge"), JOINED),
                (
                    "Join",
                    device("uplink"),
                    endpoint("Join: it names the device `uplink`, by which this host reaches the world"),
                    JOINED,
                ),
                (
                    "Join",
                    device("uplink6"),
                    endpoint("Join: it names the device `uplink6`, by which this host reaches the world"),
                    JOINED,
                ),
                (
                    "Join",
                    device("tun0"),
                    endpoint("Join: it names the device `tun0`, which has no Ethernet address"),
                    JOINED,
                ),
                (
                    "Join",
                    device("../../etc/passwd"),
                    endpoint("NetworkDriver.Join: `../../etc/passwd` is no device"),
                    JOINED,
                ),
            ],
        );
    });
}

#[test]
fn evil_answers_to_joining() {
    let with = |key: &str, value: Value| {
        let mut answer = json!({ "InterfaceName": { "SrcName": "dev0", "DstPrefix": "eth" } });
        answer[key] = value;
        Reply::Json(answer)
    };
    lab::in_lab(|lab| {
        each_is_one_clear_error(
            lab,
            vec![
                ("Join", Reply::Hang, endpoint("NetworkDriver.Join: no answer within 1 s"), JOINED),
                (
                    "Join",
                    Reply::Half,
                    endpoint("NetworkDriver.Join: it closed the connection in the middle of its answer"),
                    JOINED,
                ),
                ("Join", Reply::Status(500, "oops"), endpoint("NetworkDriver.Join: it answered 500: oops"), JOINED),
                (
                    "Join",
                    Reply::Status(200, "[1, 2]"),
                    endpoint("NetworkDriver.Join: its answer is no JSON object"),
                    JOINED,
                ),
                (
                    "Join",
                    Reply::Long(100 << 20),
                    endpoint("NetworkDriver.Join: its answer is longer than 1048576 bytes"),
                    JOINED,
                ),
                (
                    "Join",
                    with("InterfaceName", json!("dev0")),
                    endpoint(
                        "NetworkDriver.Join: its answer is of another form: invalid type: string \"dev0\", expected an object",
                    ),
                    JOINED,
                ),
                (
                    "Join",
                    with("GatewayIPv6", json!("10.50.0.1")),
                    endpoint("NetworkDriver.Join: `10.50.0.1` is no gateway of that family"),
                    JOINED,
                ),
                ("Join", with("Gateway", json!("x")), endpoint("NetworkDriver.Join: `x` is no gateway"), JOINED),
                (
                    "Join",
                    with("StaticRoutes", json!([{ "Destination": "x", "RouteType": 1 }])),
                    endpoint("NetworkDriver.Join: `x` is no destination of a route"),
                    JOINED,
                ),
                (
                    "Join",
                    with("StaticRoutes", json!([{ "Destination": "10.9.0.0/16", "RouteType": 7 }])),
                    endpoint("NetworkDriver.Join: 7 is no type of a route"),
                    JOINED,
                ),
                (
                    "Join",
                    with(
                        "StaticRoutes",
                        json!([{ "Destination": "10.9.0.0/16", "RouteType": 0, "NextHop": "fd50::1" }]),
                    ),
                    endpoint("NetworkDriver.Join: the route to 10.9.0.0/16 leads to another family"),
                    JOINED,
                ),
                ("Join", Reply::Status(404, ""), endpoint("NetworkDriver.Join: it does not know this call"), JOINED),
                ("Join", Reply::Json(json!({})), endpoint("NetworkDriver.Join: it names no device"), JOINED),
            ],
        );
    });
}

/// One that answers nothing any more is not asked for ever; what it was told of goes once it answers again.
#[test]
fn one_that_hangs_for_good_is_given_up() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        {
            let _plugin = Scripted::start(lab, "hostile", &[("NetworkDriver.Join", Reply::Hang)]);
            let file = lab.host.write("netrec.toml", &FILE.replace("driver", "mtu = 1400\ndriver"));
            let env = [("NETREC_PLUGIN_MS", "300")];
            assert_eq!(lab.host.netrec_with_env(&env, &["-c", &file, "apply", "-y"]).status, 1);
        }
        let plugin = Scripted::start(lab, "hostile", &[]);
        lab.host.apply(FILE);
        assert_eq!(plugin.changes(), ["CreateEndpoint", "Join"]);
        assert!(lab.container("web").sh("ip -o link show dev eth1").contains("02:00:00:00:00:10"));
        lab.host.destroy(FILE);
        assert!(lab.host.sh("ip -o link show dev dev0").contains("dev0"), "it is given back");
    });
}

/// What the kernel does not take of a plugin's answers is taken back by itself, and all else is done.
#[test]
fn what_the_kernel_refuses_fails_alone() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let before = lab.host.sh("ip -o link show dev dev0");
        let answer = json!({ "InterfaceName": { "SrcName": "dev0", "DstPrefix": "eth" }, "Gateway": "10.50.0.255" });
        let plugin = Scripted::start(lab, "hostile", &[("NetworkDriver.Join", Reply::Json(answer))]);
        let file = FILE.replace(
            "networks.front = {}\nnetworks.wide = { mac = \"02:00:00:00:00:10\" }",
            "networks.wide = { priority = 1 }\n",
        ) + "networks.front = {}\n[containers.api]\nnetworks = [\"front\"]\n";
        for round in 0..2 {
            let output = lab.host.try_netrec(&file, &["apply", "-y"]);
            let expected = "error: endpoint web on wide: what its plugin answered cannot be: create route default in web: \
                            Invalid argument (kernel: Nexthop has invalid gateway)\nall else is done; `netrec apply` tries again\n";
            assert_eq!((output.status, output.stderr.as_str()), (1, expected));
            let network = if round == 0 { &["CreateNetwork"][..] } else { &[] };
            let endpoint = [
                "CreateEndpoint",
                "Join",
                "ProgramExternalConnectivity",
                "RevokeExternalConnectivity",
                "Leave",
                "DeleteEndpoint",
            ];
            assert_eq!(plugin.changes(), [network, &endpoint].concat());
            lab.expect("api ping 10.20.0.1 -> answer\nweb ping 10.20.0.1 -> answer");
            assert_eq!(lab.container("web").sh("ip -br link | wc -l").trim(), "2");
            assert_eq!(lab.host.sh("ip -o link show dev dev0"), before);
        }
        // It has come to its senses.
        let _plugin = Scripted::start(lab, "hostile", &[]);
        lab.host.apply(&file);
        assert!(lab.host.apply(&file).actions().is_empty());
        assert!(lab.container("web").sh("ip route show default").starts_with("default via 10.50.0.1 dev eth0"));
    });
}

/// The same where netrec died before it came to that: what the plugin answered is known when the next one begins.
#[test]
#[cfg(feature = "fault-injection")]
fn what_the_kernel_refuses_fails_alone_after_a_death() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let answer = json!({ "InterfaceName": { "SrcName": "dev0", "DstPrefix": "eth" }, "Gateway": "10.50.0.255" });
        let plugin = Scripted::start(lab, "hostile", &[("NetworkDriver.Join", Reply::Json(answer))]);
        let file = FILE.replace("networks.front = {}\n", "") + "[containers.api]\nnetworks = [\"front\"]\n";
        let path = lab.host.write("netrec.toml", &file);
        let apply = ["-c", &path, "apply", "-y"];
        let is_joined = || {
            let told = lab.host.sh("cat /run/netrec/remote/* 2>/dev/null || true");
            told.contains("\"device\": \"dev0\"")
        };
        // The first write after that the answer was written down.
        for n in 1.. {
            let env = [("NETREC_SINGLE", "1"), ("NETREC_FAULT", &*format!("die:{n}"))];
            assert_eq!(lab.host.netrec_with_env(&env, &apply).status, 128 + 9, "{n}");
            if is_joined() {
                break;
            }
            lab.host.destroy(&file);
        }
        plugin.calls();
        let output = lab.host.try_netrec(&file, &["apply", "-y"]);
        let begin = "error: endpoint web on wide: what its plugin answered cannot be: create route default in web: ";
        assert!(output.status == 1 && output.stderr.starts_with(begin), "{} {}", output.status, output.stderr);
        lab.expect("api ping 10.20.0.1 -> answer");
        assert!(!is_joined());
    });
}

/// One device for two containers is one too few.
#[test]
fn a_device_is_given_once() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let _plugin = Scripted::start(lab, "hostile", &[]);
        let file = format!("{FILE}\n[containers.db]\nnetworks = [\"wide\"]\n");
        let output = lab.host.try_netrec(&file, &["apply", "-y"]);
        let expected = "error: make endpoint web on wide: plugin `hostile`: Join: it names the device `dev0`, which is that of \
                        endpoint db on wide\nall else is done; `netrec apply` tries again\n";
        assert_eq!((output.status, output.stderr.as_str()), (1, expected));
        assert!(lab.container("db").sh("ip -o link show dev eth0").contains(" from dev0"));
        lab.expect("web ping 10.20.0.1 -> answer");
    });
}

/// So is one Ethernet address.
#[test]
fn an_ethernet_address_is_given_once() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 address 02:00:00:00:00:10 type veth peer name dev1");
        let _plugin = Scripted::start(lab, "hostile", &[]);
        lab.host.apply(FILE);
        lab.host.sh("ip link add dev2 address 02:00:00:00:00:10 type veth peer name dev3");
        let answer = json!({ "InterfaceName": { "SrcName": "dev2", "DstPrefix": "eth" } });
        let _plugin = Scripted::start(lab, "hostile", &[("NetworkDriver.Join", Reply::Json(answer))]);
        let file = format!("{FILE}\n[containers.api]\nnetworks = [\"wide\"]\n");
        let output = lab.host.try_netrec(&file, &["apply", "-y"]);
        let expected = "error: make endpoint api on wide: plugin `hostile`: Join: the device `dev2` has the MAC address \
                        02:00:00:00:00:10, which is that of endpoint web on wide\n\
                        all else is done; `netrec apply` tries again\n";
        assert_eq!((output.status, output.stderr.as_str()), (1, expected));
    });
}

/// One that refuses to say what it knows, whatever that is, is not believed to have forgotten.
#[test]
fn one_that_never_knows_is_not_asked() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let refuses = Reply::Json(json!({ "Err": "not implemented" }));
        let plugin = Scripted::start(lab, "hostile", &[("NetworkDriver.EndpointOperInfo", refuses)]);
        lab.host.apply(FILE);
        assert_eq!(plugin.changes(), ["CreateNetwork", "CreateEndpoint", "Join"]);
        assert!(lab.host.apply(FILE).actions().is_empty());
        assert_eq!(plugin.calls(), []);
    });
}

/// What it does not take back is an error once each, and names what is left; one that refuses is believed then.
#[test]
fn what_it_will_not_take_back_is_named() {
    lab::in_lab(|lab| {
        for (method, reply, error, then) in [
            (
                "Leave",
                Reply::Json(json!({ "Err": "no" })),
                "remove endpoint web on wide: plugin `hostile`: NetworkDriver.Leave: no\nremove network wide: a container on it is still there",
                0,
            ),
            (
                "DeleteEndpoint",
                Reply::Status(500, "no"),
                "remove endpoint web on wide: plugin `hostile`: NetworkDriver.DeleteEndpoint: it answered 500: no\nremove network wide: a container on it is still there",
                0,
            ),
            (
                "DeleteEndpoint",
                Reply::Hang,
                "remove endpoint web on wide: plugin `hostile`: NetworkDriver.DeleteEndpoint: no answer within 1 s\nremove network wide: a container on it is still there",
                1,
            ),
            (
                "DeleteNetwork",
                Reply::Json(json!({ "Err": "no" })),
                "remove network wide: plugin `hostile`: NetworkDriver.DeleteNetwork: no",
                0,
            ),
            (
                "DeleteNetwork",
                Reply::Half,
                "remove network wide: plugin `hostile`: NetworkDriver.DeleteNetwork: it closed the connection in the middle of its answer",
                1,
            ),
        ] {
            lab.host.sh("ip link add dev0 type veth peer name dev1");
            let what = format!("{method}: {reply:?}");
            let _plugin = Scripted::start(lab, "hostile", &[(&format!("NetworkDriver.{method}"), reply)]);
            lab.host.apply(FILE);
            let path = lab.host.write("netrec.toml", FILE);
            let destroy = || lab.host.netrec_with_env(&[("NETREC_PLUGIN_MS", "1000")], &["-c", &path, "destroy", "-y"]);
            let output = destroy();
            let expected = format!("error: {error}\nall else is done; `netrec apply` tries again\n");
            assert_eq!((output.status, output.stderr), (1, expected), "{what}");
            assert_eq!(lab.host.netns_names(), Vec::<String>::new(), "{what}");
            assert_eq!(destroy().status, then, "{what}");
            let _plugin = Scripted::start(lab, "hostile", &[]);
            lab.host.destroy(FILE);
            assert_eq!(lab.host.sh("ls /run/netrec/remote; ip link del dev0"), "", "{what}");
        }
    });
}

/// Routes that cannot be are left out, whatever a plugin asks for, and said to be.
#[test]
fn routes_that_cannot_be_are_left_out() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1; ip link set dev1 up");
        let route =
            |to: &str, via: &str| json!({ "Destination": to, "RouteType": u8::from(via.is_empty()), "NextHop": via });
        let answer = json!({
            "InterfaceName": { "SrcName": "dev0", "DstPrefix": "eth" },
            "Gateway": "10.50.0.190",
            "StaticRoutes": [
                route("10.50.0.0/24", ""),
                route("10.90.0.0/16", "10.50.0.190"),
                route("10.91.0.0/16", "224.0.0.1"),
                route("10.92.0.0/16", "10.50.0.7"),
                route("10.92.0.0/16", "10.50.0.8"),
                route("10.93.0.0/16", "198.51.100.1"),
                route("10.94.0.0/16", "10.50.0.9"),
            ],
        });
        let _plugin = Scripted::start(lab, "hostile", &[("NetworkDriver.Join", Reply::Json(answer))]);
        let route = "{ to = \"10.94.0.0/16\", via = \"10.50.0.3\" }";
        let file = FILE
            .replace("networks.front = {}\n", "")
            .replace("mac = \"02:00:00:00:00:10\"", &format!("routes = [{route}]"));
        lab.host.apply(&file);
        let plan = lab.host.plan(&file);
        assert!(plan.actions().is_empty(), "{:?}", plan.actions());
        assert_eq!(plan.warnings(), ["plugin-route"; 6]);
        let routes = lab.container("web").sh("ip route show proto 78");
        let expected = "10.92.0.0/16 via 10.50.0.7 dev eth0 \n10.93.0.0/16 via 198.51.100.1 dev eth0 onlink \n\
                        10.94.0.0/16 via 10.50.0.3 dev eth0 \n";
        assert_eq!(routes, expected);
    });
}

/// A route to a subnet that the container is in by another network would be in the way of the kernel's own.
#[test]
fn a_route_to_another_network_of_the_containers_is_left_out() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let answer = json!({
            "InterfaceName": { "SrcName": "dev0", "DstPrefix": "eth" },
            "StaticRoutes": [{ "Destination": "10.20.0.0/24", "RouteType": 1, "NextHop": "" }],
        });
        let _plugin = Scripted::start(lab, "hostile", &[("NetworkDriver.Join", Reply::Json(answer))]);
        lab.host.apply(FILE);
        let plan = lab.host.plan(FILE);
        assert_eq!((plan.actions().len(), plan.warnings()), (0, vec!["plugin-route".to_owned()]));
        lab.expect("web ping 10.20.0.1 -> answer");
    });
}

/// Only a plugin that says so has forgotten: a server that fails has said nothing.
#[test]
fn a_plugin_that_fails_has_forgotten_nothing() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let _plugin = Scripted::start(lab, "hostile", &[]);
        lab.host.apply(FILE);
        for (reply, actions) in [(Reply::Status(500, "panic"), false), (Reply::Json(json!({ "Err": "unknown" })), true)]
        {
            let what = format!("{reply:?}");
            let _plugin = Scripted::start(lab, "hostile", &[("NetworkDriver.EndpointOperInfo", reply)]);
            assert_eq!(!lab.host.plan(FILE).actions().is_empty(), actions, "{what}");
        }
    });
}
