//! The messages that few plugins want, with their bodies: networks that all hosts have, hosts that come and go, gateways that are
//! not needed, options; and plugins that lack what they need not have.

use serde_json::{Value, json};

use crate::lab;
use crate::scripted::{Reply, Scripted};

/// A network of a plugin, before what else a file has.
const WIDE: &str = "[networks.wide]\ndriver = 'remote'\nplugin = 'scripted'\nsubnet = '10.50.0.0/24'\n";

/// Two hosts, a network of scope `global` with addresses of the plugin's, and one container.
const GLOBAL: &str = r#"
[hosts.a]
id = 1
address = "192.0.2.1"

[hosts.b]
id = 2
address = "192.0.2.2"

[networks.wide]
driver = "remote"
plugin = "scripted"
ipam = "scripted"
subnet = "10.50.0.0/24"
reserve = ["10.50.0.7", "10.50.0.8"]
options = { color = "blue" }

[containers.web]
host = "a"
networks = ["wide"]
"#;

/// A pool that comes with a gateway, so that nobody need ask for one.
fn with_gateway() -> Reply {
    let data = json!({ "com.docker.network.gateway": "10.50.0.254/24" });
    Reply::Json(json!({ "PoolID": "pool", "Pool": "10.50.0.0/24", "Data": data }))
}

/// Every call and its body but for the ids, which are the network's and the endpoint's.
fn told(plugin: &Scripted) -> Vec<(String, Value)> {
    let plain = |mut body: Value| {
        for (id, name) in [("NetworkID", "N"), ("EndpointID", "E")] {
            if let Some(id) = body.get_mut(id) {
                assert_eq!(id.as_str().unwrap().len(), 64);
                *id = json!(name);
            }
        }
        body
    };
    plugin.calls().into_iter().map(|call| (call.method, plain(call.body))).collect()
}

fn expected(calls: &[(&str, Value)]) -> Vec<(String, Value)> {
    calls.iter().map(|(method, body)| ((*method).to_owned(), body.clone())).collect()
}

#[test]
fn networks_of_all_hosts_are_allocated_and_hosts_are_told_of() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let replies = [
            ("NetworkDriver.GetCapabilities", Reply::Json(json!({ "Scope": "global", "GwAllocChecker": true }))),
            ("NetworkDriver.GwAllocCheck", Reply::Json(json!({ "SkipIPv4": true }))),
            ("NetworkDriver.AllocateNetwork", Reply::Json(json!({ "Options": { "vni": "7" } }))),
            ("IpamDriver.GetCapabilities", Reply::Json(json!({ "RequiresMACAddress": true }))),
            ("IpamDriver.RequestAddress", Reply::Json(json!({ "Address": "10.50.0.7/24" }))),
        ];
        // One answer for all addresses: there is one to be kept free, and none for a container.
        let file = GLOBAL.replace(", \"10.50.0.8\"", "").replace("[containers.web]", "[containers.none]");
        let file = file.replace("host = \"a\"\nnetworks = [\"wide\"]", "");
        let plugin = Scripted::start(lab, "scripted", &replies);
        let apply = |file: &str| {
            let path = lab.host.write("netrec.toml", file);
            lab.host.netrec(&["-c", &path, "--host", "a", "apply", "-y"]);
        };
        apply(&file);
        let options = |generic: Value| json!({ "com.docker.network.enable_ipv4": true, "com.docker.network.enable_ipv6": false, "com.docker.network.generic": generic });
        let data = json!([{ "AddressSpace": "everywhere", "Pool": "10.50.0.0/24", "AuxAddresses": { "reserve0": "10.50.0.7/24" } }]);
        let node = |address: &str, is_self: bool| json!({ "DiscoveryType": 1, "DiscoveryData": { "Address": address, "BindAddress": address, "Self": is_self } });
        let calls = expected(&[
            ("Plugin.Activate", Value::Null),
            ("NetworkDriver.GetCapabilities", Value::Null),
            ("IpamDriver.GetDefaultAddressSpaces", Value::Null),
            ("NetworkDriver.GwAllocCheck", json!({ "Options": options(json!({ "color": "blue" })) })),
            ("IpamDriver.GetCapabilities", Value::Null),
            ("IpamDriver.GetDefaultAddressSpaces", Value::Null),
            (
                "IpamDriver.RequestPool",
                json!({ "AddressSpace": "everywhere", "Pool": "10.50.0.0/24", "SubPool": "", "Options": {}, "V6": false }),
            ),
            ("IpamDriver.RequestAddress", json!({ "PoolID": "pool", "Address": "10.50.0.7", "Options": {} })),
            (
                "NetworkDriver.AllocateNetwork",
                json!({ "NetworkID": "N", "Options": { "color": "blue" }, "IPv4Data": data, "IPv6Data": [] }),
            ),
            ("NetworkDriver.DiscoverNew", node("192.0.2.1", true)),
            ("NetworkDriver.DiscoverNew", node("192.0.2.2", false)),
            (
                "NetworkDriver.CreateNetwork",
                json!({ "NetworkID": "N", "Options": options(json!({ "color": "blue", "vni": "7" })), "IPv4Data": data, "IPv6Data": [] }),
            ),
        ]);
        assert_eq!(told(&plugin), calls);
        apply(&file);
        assert_eq!(told(&plugin), []);
        // A host comes, and one goes.
        apply(
            &file.replace("[hosts.b]\nid = 2\naddress = \"192.0.2.2\"", "[hosts.c]\nid = 3\naddress = \"192.0.2.3\""),
        );
        let calls = expected(&[
            ("Plugin.Activate", Value::Null),
            ("NetworkDriver.GetCapabilities", Value::Null),
            ("NetworkDriver.DiscoverNew", node("192.0.2.3", false)),
            ("NetworkDriver.DiscoverDelete", node("192.0.2.2", false)),
        ]);
        assert_eq!(told(&plugin), calls);
        lab.host.destroy(&file);
        let calls = expected(&[
            ("Plugin.Activate", Value::Null),
            ("IpamDriver.ReleaseAddress", json!({ "PoolID": "pool", "Address": "10.50.0.7" })),
            ("IpamDriver.ReleasePool", json!({ "PoolID": "pool" })),
            ("NetworkDriver.DeleteNetwork", json!({ "NetworkID": "N" })),
            ("NetworkDriver.FreeNetwork", json!({ "NetworkID": "N" })),
            ("NetworkDriver.DiscoverDelete", node("192.0.2.1", true)),
            ("NetworkDriver.DiscoverDelete", node("192.0.2.3", false)),
        ]);
        assert_eq!(told(&plugin), calls);
    });
}

/// What a plugin need not have is not missed, and an IPAM plugin that wants Ethernet addresses is told them.
#[test]
fn what_a_plugin_does_not_implement_is_not_missed() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let not_there = || Reply::Status(404, "404 page not found");
        let replies = [
            ("NetworkDriver.GetCapabilities", Reply::Json(json!({ "Scope": "global", "ConnectivityScope": "global" }))),
            ("NetworkDriver.AllocateNetwork", not_there()),
            ("NetworkDriver.FreeNetwork", not_there()),
            ("NetworkDriver.DiscoverNew", not_there()),
            ("NetworkDriver.DiscoverDelete", not_there()),
            ("NetworkDriver.EndpointOperInfo", not_there()),
            ("NetworkDriver.ProgramExternalConnectivity", not_there()),
            ("NetworkDriver.RevokeExternalConnectivity", not_there()),
            ("NetworkDriver.CreateEndpoint", Reply::Json(json!({ "Interface": null }))),
            ("IpamDriver.GetCapabilities", not_there()),
            ("IpamDriver.RequestPool", with_gateway()),
        ];
        let plugin = Scripted::start(lab, "scripted", &replies);
        let file = GLOBAL.replace("reserve = [\"10.50.0.7\", \"10.50.0.8\"]\n", "");
        let path = lab.host.write("netrec.toml", &file);
        let apply = || lab.host.netrec(&["-c", &path, "--host", "a", "apply", "-y"]);
        apply();
        let expected = [
            "RequestPool",
            "AllocateNetwork",
            "DiscoverNew",
            "DiscoverNew",
            "CreateNetwork",
            "RequestAddress",
            "CreateEndpoint",
            "Join",
            "ProgramExternalConnectivity",
        ];
        assert_eq!(plugin.changes(), expected);
        assert_eq!(lab.container("web").sh("ip -o -4 addr show dev eth0 | awk '{print $4}'"), "10.50.0.200/24\n");
        apply();
        assert_eq!(plugin.changes(), [""; 0]);
        lab.host.destroy(&file);
        let expected = [
            "RevokeExternalConnectivity",
            "Leave",
            "DeleteEndpoint",
            "ReleaseAddress",
            "ReleasePool",
            "DeleteNetwork",
            "DiscoverDelete",
            "DiscoverDelete",
        ];
        assert_eq!(plugin.changes(), expected);
        assert_eq!(lab.host.sh("ls /run/netrec/remote"), "");
    });
}

#[test]
fn an_ipam_plugin_that_wants_to_knows_the_ethernet_address() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let replies = [
            ("IpamDriver.GetCapabilities", Reply::Json(json!({ "RequiresMACAddress": true }))),
            ("IpamDriver.RequestPool", with_gateway()),
            ("NetworkDriver.CreateEndpoint", Reply::Json(json!({ "Interface": {} }))),
        ];
        let plugin = Scripted::start(lab, "scripted", &replies);
        let file = GLOBAL.split("[networks.wide]").nth(1).unwrap().replace("host = \"a\"\n", "");
        let file = format!("[networks.wide]{}", file.replace("reserve = [\"10.50.0.7\", \"10.50.0.8\"]\n", ""));
        lab.host.apply(&file);
        let calls = told(&plugin);
        let body = |method: &str| &calls.iter().find(|(called, _)| called == method).unwrap().1;
        let given = json!({
            "PoolID": "pool",
            "Address": "",
            "Options": {
                "com.docker.network.endpoint.name": "web",
                "com.docker.network.endpoint.macaddress": "02:1c:35:69:dd:1f",
            },
        });
        assert_eq!(*body("IpamDriver.RequestAddress"), given);
        let interface = json!({ "Address": "10.50.0.200/24", "AddressIPv6": "", "MacAddress": "02:1c:35:69:dd:1f" });
        assert_eq!(body("NetworkDriver.CreateEndpoint")["Interface"], interface);
        let data = json!([{ "AddressSpace": "here", "Pool": "10.50.0.0/24", "Gateway": "10.50.0.254/24" }]);
        assert_eq!(body("NetworkDriver.CreateNetwork")["IPv4Data"], data);
        assert!(lab.container("web").sh("ip -o link show dev eth0").contains("02:1c:35:69:dd:1f"));
    });
}

/// A plugin is told of published ports at each call that has options; what comes of it is its own. netrec's table has none.
#[test]
fn published_ports_are_told_of() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let plugin = Scripted::start(lab, "scripted", &[]);
        let file = &format!(
            "{WIDE}[containers.web]\nnetworks = ['wide']\nports = ['8080:80', '127.0.0.1:9000-9001:9000-9001/udp']\n"
        );
        let plan = lab.host.try_netrec(file, &["plan"]).stdout;
        assert!(plan.contains(", external, ports 8080:80/tcp, 127.0.0.1:9000-9001:9000-9001/udp, "), "{plan}");
        lab.host.apply(file);
        let mapping = |proto: u8, address: &str, host: u16, port: u16| json!({ "Proto": proto, "IP": "", "Port": port, "HostIP": address, "HostPort": host, "HostPortEnd": host });
        let exposed = |proto: u8, port: u16| json!({ "Proto": proto, "Port": port });
        let options = json!({
            "com.docker.network.portmap": [
                mapping(6, "", 8080, 80), mapping(17, "127.0.0.1", 9000, 9000), mapping(17, "127.0.0.1", 9001, 9001),
            ],
            "com.docker.network.endpoint.exposedports": [exposed(6, 80), exposed(17, 9000), exposed(17, 9001)],
        });
        let calls = told(&plugin);
        for method in ["CreateEndpoint", "Join", "ProgramExternalConnectivity"] {
            let method = format!("NetworkDriver.{method}");
            let call = calls.iter().find(|(called, _)| *called == method).unwrap();
            assert_eq!(call.1["Options"], options, "{method}");
        }
        assert!(!lab.host.sh("nft list ruleset").contains("8080"));
        assert!(lab.host.apply(file).actions().is_empty());
        // Others are told of with an endpoint that is made anew.
        let done = lab.host.apply(&file.replace("8080", "8081")).actions();
        assert!(done.contains(&"replace endpoint web on wide".to_owned()), "{done:?}");
        assert!(lab.host.apply(&file.replace("8080", "8081")).actions().is_empty());
    });
}

/// Where the way out by IPv6 is by another network, the plugin is told so, and told again when that changes.
#[test]
fn a_way_out_by_ipv4_alone_is_said_to_be() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let plugin = Scripted::start(lab, "scripted", &[]);
        let file = &format!(
            "{WIDE}[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n[containers.web]\nnetworks = ['wide', 'front']\n"
        );
        let told_of_ways = || -> Vec<(String, Value)> {
            let ways = told(&plugin).into_iter().filter(|(method, _)| method.contains("ExternalConnectivity"));
            ways.map(|(method, body)| (method, body["Options"].clone())).collect()
        };
        let program = |options: Value| vec![("NetworkDriver.ProgramExternalConnectivity".to_owned(), options)];
        lab.host.apply(file);
        let alone = json!({ "com.docker.network.driver.private.no_proxy_6to4": true });
        assert_eq!(told_of_ways(), program(alone));
        assert!(lab.host.apply(file).actions().is_empty());
        let without = file.replace("['10.20.0.0/24', 'fd20::/64']", "'10.20.0.0/24'");
        lab.host.apply(&without);
        assert_eq!(told_of_ways(), program(json!({})));
        assert!(lab.host.apply(&without).actions().is_empty());
    });
}
