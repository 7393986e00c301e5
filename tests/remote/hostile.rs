//! A plugin that does all that one must not: each time there is one clear error, what it was told is taken back, and the
//! other networks are made.

use serde_json::{Value, json};

use crate::lab;
use crate::scripted::{Reply, Scripted};

const FILE: &str = r#"
[networks.wide]
driver = "remote"
plugin = "hostile"
subnet = "10.50.0.0/24"

[networks.front]
subnet = "10.20.0.0/24"

[containers.web]
networks = ["front", "wide"]
"#;

/// One method answered in one way: what is said of it, and what had to be taken back.
#[test]
fn each_evil_answer_is_one_clear_error() {
    lab::in_lab(|lab| {
        let endpoint = |what: &str| format!("make endpoint web on wide: plugin `hostile`: {what}");
        let network = |what: &str| format!("make network wide: plugin `hostile`: {what}");
        let of_network = &["CreateNetwork", "DeleteNetwork"][..];
        let created = &["CreateNetwork", "CreateEndpoint", "DeleteEndpoint"][..];
        let joined = &["CreateNetwork", "CreateEndpoint", "Join", "Leave", "DeleteEndpoint"][..];
        let interface = |value: Value| Reply::Json(json!({ "Interface": value }));
        let device = |name: &str| Reply::Json(json!({ "InterfaceName": { "SrcName": name, "DstPrefix": "eth" } }));
        let table: Vec<(&'static str, Reply, String, &[&str])> = vec![
            ("CreateNetwork", Reply::Hang, network("NetworkDriver.CreateNetwork: no answer within 1 s"), of_network),
            (
                "CreateNetwork",
                Reply::Json(json!({ "Err": "no\u{1b}[2J such" })),
                network("NetworkDriver.CreateNetwork: no\\u{1b}[2J such"),
                of_network,
            ),
            ("CreateEndpoint", Reply::Hang, endpoint("NetworkDriver.CreateEndpoint: no answer within 1 s"), created),
            (
                "CreateEndpoint",
                Reply::Half,
                endpoint("NetworkDriver.CreateEndpoint: it closed the connection in the middle of its answer"),
                created,
            ),
            (
                "CreateEndpoint",
                Reply::Status(500, "out of \"order\"\nline 2"),
                endpoint("NetworkDriver.CreateEndpoint: it answered 500: out of \"order\""),
                created,
            ),
            (
                "CreateEndpoint",
                Reply::Status(200, "{\"Interface\": [}"),
                endpoint("NetworkDriver.CreateEndpoint: its answer is no JSON: expected value at line 1 column 16"),
                created,
            ),
            (
                "CreateEndpoint",
                Reply::Long(100 << 20),
                endpoint("NetworkDriver.CreateEndpoint: its answer is longer than 1048576 bytes"),
                created,
            ),
            (
                "CreateEndpoint",
                interface(json!({ "Address": "10.50.0.77/24" })),
                endpoint("CreateEndpoint: it changes the address from 10.50.0.190/24 to 10.50.0.77/24"),
                created,
            ),
            (
                "CreateEndpoint",
                interface(json!({ "AddressIPv6": "fd99::7/64" })),
                endpoint("CreateEndpoint: the address fd99::7/64 is outside of the network's subnets"),
                created,
            ),
            (
                "CreateEndpoint",
                interface(json!({ "MacAddress": "no" })),
                endpoint("NetworkDriver.CreateEndpoint: `no` is no MAC address"),
                created,
            ),
            ("Join", Reply::Hang, endpoint("NetworkDriver.Join: no answer within 1 s"), joined),
            ("Join", Reply::Status(404, ""), endpoint("NetworkDriver.Join: it does not know this call"), joined),
            ("Join", Reply::Json(json!({})), endpoint("NetworkDriver.Join: it names no device"), joined),
            (
                "Join",
                device("nothing"),
                endpoint("Join: it names the device `nothing`, which this host does not have"),
                joined,
            ),
            ("Join", device("lo"), endpoint("Join: it names the device `lo`, which is netrec's own"), joined),
            ("Join", device("bridge0"), endpoint("Join: it names the device `bridge0`, which is a bridge"), joined),
            (
                "Join",
                device("uplink"),
                endpoint("Join: it names the device `uplink`, by which this host reaches the world"),
                joined,
            ),
            (
                "Join",
                device("../../etc/passwd"),
                endpoint("NetworkDriver.Join: `../../etc/passwd` is no device"),
                joined,
            ),
        ];
        for (evil, reply, error, told) in table {
            lab.host.sh("ip link add dev0 type veth peer name dev1; ip link add bridge0 type bridge");
            let what = format!("{evil}: {reply:?}");
            let plugin = Scripted::start(lab, "hostile", &[(&format!("NetworkDriver.{evil}"), reply)]);
            let file = lab.host.write("netrec.toml", FILE);
            let output = lab.host.netrec_with_env(&[("NETREC_PLUGIN_MS", "1000")], &["-c", &file, "apply", "-y"]);
            let expected = format!("error: {error}\nall else is done; `netrec apply` tries again\n");
            assert_eq!((output.status, output.stderr), (1, expected), "{what}");
            assert_eq!(plugin.changes(), told, "{what}");
            lab.expect("web ping 10.20.0.1 -> answer");
            assert_eq!(lab.container("web").sh("ip -br link | wc -l").trim(), "2", "{what}");
            lab.host.destroy(FILE);
            assert_eq!(lab.host.sh("ls /run/netrec/remote"), "", "{what}");
            lab.host.sh("ip link del dev0; ip link del bridge0");
        }
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
        assert!(lab.container("web").sh("ip -o link show dev eth1").contains("02:00:00:00:00:07"));
        lab.host.destroy(FILE);
        assert!(lab.host.sh("ip -o link show dev dev0").contains("dev0"), "it is given back");
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
        let file =
            FILE.replace("networks = [\"front\", \"wide\"]", &format!("networks.wide = {{ routes = [{route}] }}"));
        lab.host.apply(&file);
        let plan = lab.host.plan(&file);
        assert!(plan.actions().is_empty(), "{:?}", plan.actions());
        assert_eq!(plan.warnings(), ["plugin-route"; 5]);
        let routes = lab.container("web").sh("ip route show proto 78");
        let expected = "10.92.0.0/16 via 10.50.0.7 dev eth0 \n10.93.0.0/16 via 198.51.100.1 dev eth0 onlink \n\
                        10.94.0.0/16 via 10.50.0.3 dev eth0 \n";
        assert_eq!(routes, expected);
    });
}
