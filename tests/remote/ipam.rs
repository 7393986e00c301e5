//! Plugins that give addresses: those that forget, that give what is another's, and that lie.

use serde_json::json;

use crate::IPAM;
use crate::lab::{self, Lab};
use crate::plugin::Plugin;
use crate::scripted::{Reply, Scripted};

fn address(lab: &Lab, container: &str) -> String {
    lab.container(container).sh("ip -o -4 addr show scope global | awk '{print $4}'").trim().to_owned()
}

/// A file of IPv4 alone whose driver is one plugin, and whose addresses are another's.
fn two_plugins() -> String {
    let file = IPAM.replace(", \"fd50::/64\"", "").replace("ipam = \"example\"", "ipam = \"addresses\"");
    file.replace("{ address = \"10.50.0.9\" }", "{}")
}

/// One that was restarted and remembers nothing is told again what it gave, before it gives more.
#[test]
fn a_plugin_that_forgets_what_it_gave_is_told_again() {
    lab::in_lab(|lab| {
        let _driver = Plugin::start(lab, "example", &["--state", "/run/lab/memory"]);
        let plugin = Plugin::start(lab, "addresses", &[]);
        let file = two_plugins();
        lab.host.apply(file.split("[containers.db]").next().unwrap());
        assert_eq!(address(lab, "web"), "10.50.0.128/24");
        plugin.end();
        let plugin = Plugin::start(lab, "addresses", &[]);
        plugin.calls();
        lab.host.apply(&file);
        let asked: Vec<String> = plugin
            .calls()
            .into_iter()
            .filter(|call| call.method.starts_with("IpamDriver.R"))
            .map(|call| format!("{} {}{}", call.method, call.body["Pool"].as_str().unwrap_or(""), call.body["Address"]))
            .collect();
        let expected = [
            "IpamDriver.RequestPool 10.50.0.0/24null",
            "IpamDriver.RequestAddress \"10.50.0.1\"",
            "IpamDriver.RequestAddress \"10.50.0.128\"",
            "IpamDriver.RequestAddress \"\"",
        ];
        assert_eq!(asked, expected);
        assert_eq!((address(lab, "web"), address(lab, "db")), ("10.50.0.128/24".into(), "10.50.0.129/24".into()));
        lab.expect("web ping 10.50.0.129 -> answer");
        assert!(lab.host.apply(&file).actions().is_empty());
        assert_eq!(plugin.changes(), [""; 0]);
    });
}

/// An address that a plugin refuses, since another container has it, stays that one's.
#[test]
fn what_is_refused_is_not_given_back() {
    lab::in_lab(|lab| {
        let plugin = Plugin::start(lab, "example", &["--state", "/run/lab/memory"]);
        let file = two_plugins().replace("addresses", "example");
        lab.host.apply(&file);
        assert_eq!(address(lab, "db"), "10.50.0.128/24");
        plugin.calls();
        let both = format!("{file}\n[containers.late]\nnetworks.wide = {{ address = \"10.50.0.128\" }}\n");
        let output = lab.host.try_netrec(&both, &["apply", "-y"]);
        let expected = "error: make endpoint late on wide: plugin `example`: IpamDriver.RequestAddress: 10.50.0.128 is \
                        taken\nall else is done; `netrec apply` tries again\n";
        assert_eq!((output.status, output.stderr.as_str()), (1, expected));
        assert_eq!(plugin.changes(), ["IpamDriver.RequestAddress"]);
        assert!(lab.host.apply(&file).actions().len() <= 1, "only the namespace goes");
        lab.expect("web ping 10.50.0.128 -> answer");
    });
}

const FILE: &str = r#"
[networks.wide]
driver = "remote"
plugin = "hostile"
ipam = "hostile"
subnet = "10.50.0.0/24"
gateway = false

[networks.front]
subnet = "10.20.0.0/24"

[containers.api]
networks = ["front"]

[containers.web]
networks = ["wide"]
"#;

/// One method answered in one way, and what the container says of its attachment: what is said of it, and what is told in all.
type Row = (&'static str, Reply, &'static str, String, &'static str);

fn each_is_one_clear_error(lab: &Lab, table: Vec<Row>) {
    lab.host.sh("ip link add dev0 type veth peer name dev1");
    for (method, reply, attachment, error, told) in table {
        let what = format!("{method}: {reply:?}");
        let plugin = Scripted::start(lab, "hostile", &[(&format!("IpamDriver.{method}"), reply)]);
        let file = FILE.replace("networks = [\"wide\"]", &format!("networks.wide = {attachment}"));
        let path = lab.host.write("netrec.toml", &file);
        let output = lab.host.netrec_with_env(&[("NETREC_PLUGIN_MS", "1000")], &["-c", &path, "apply", "-y"]);
        let expected = format!("error: {error}\nall else is done; `netrec apply` tries again\n");
        assert_eq!((output.status, output.stderr), (1, expected), "{what}");
        assert_eq!(plugin.changes().join(" "), told, "{what}");
        lab.expect("api ping 10.20.0.1 -> answer");
        // One that has come to its senses takes all back.
        let _plugin = Scripted::start(lab, "hostile", &[]);
        lab.host.destroy(&file);
        assert_eq!(lab.host.sh("ls /run/netrec/remote"), "", "{what}");
    }
}

fn address_given(text: &str) -> Reply {
    Reply::Json(json!({ "Address": text }))
}

#[test]
fn evil_answers_about_pools() {
    let network = |what: &str| format!("make network wide: plugin `hostile`: {what}");
    let pool = |id: &str, pool: &str| Reply::Json(json!({ "PoolID": id, "Pool": pool }));
    lab::in_lab(|lab| {
        each_is_one_clear_error(
            lab,
            vec![
                (
                    "RequestPool",
                    Reply::Json(json!({ "Error": "no more" })),
                    "{}",
                    network("IpamDriver.RequestPool: no more"),
                    "RequestPool",
                ),
                (
                    "RequestPool",
                    Reply::Status(500, "oops"),
                    "{}",
                    network("IpamDriver.RequestPool: it answered 500: oops"),
                    "RequestPool",
                ),
                (
                    "RequestPool",
                    pool("pool", "10.51.0.0/24"),
                    "{}",
                    network("RequestPool: it gives the pool 10.51.0.0/24 instead of 10.50.0.0/24"),
                    "RequestPool ReleasePool",
                ),
                (
                    // Whatever it has reserved then, it does not say: it is asked again.
                    "RequestPool",
                    pool("", "10.50.0.0/24"),
                    "{}",
                    network(
                        "IpamDriver.RequestPool: it gives no id of a pool; what was done could not all be taken back, the next run \
                     tries again: plugin `hostile`: IpamDriver.RequestPool: it gives no id of a pool",
                    ),
                    "RequestPool RequestPool",
                ),
            ],
        );
    });
}

#[test]
fn evil_answers_about_addresses() {
    let endpoint = |what: &str| format!("make endpoint web on wide: plugin `hostile`: {what}");
    let of_address = "RequestPool CreateNetwork RequestAddress ReleaseAddress";
    let static_one = "{ address = \"10.50.0.9\" }";
    lab::in_lab(|lab| {
        each_is_one_clear_error(
            lab,
            vec![
                (
                    "RequestAddress",
                    Reply::Json(json!({ "Error": "no address left" })),
                    "{}",
                    endpoint("IpamDriver.RequestAddress: no address left"),
                    "RequestPool CreateNetwork RequestAddress",
                ),
                (
                    "RequestAddress",
                    address_given("192.0.2.9/24"),
                    "{}",
                    endpoint("RequestAddress: 192.0.2.9 is outside of the subnet 10.50.0.0/24"),
                    of_address,
                ),
                (
                    "RequestAddress",
                    address_given("10.50.0.255/24"),
                    "{}",
                    endpoint("RequestAddress: it gives 10.50.0.255, which is no host's in the subnet 10.50.0.0/24"),
                    of_address,
                ),
                (
                    "RequestAddress",
                    address_given("10.50.0.10/24"),
                    static_one,
                    endpoint("RequestAddress: it gives 10.50.0.10 instead of 10.50.0.9, which was asked for"),
                    of_address,
                ),
                (
                    "RequestAddress",
                    address_given(""),
                    "{}",
                    endpoint("IpamDriver.RequestAddress: it gives no address"),
                    "RequestPool CreateNetwork RequestAddress",
                ),
                (
                    "RequestAddress",
                    address_given("nonsense"),
                    "{}",
                    endpoint("IpamDriver.RequestAddress: `nonsense` is no address"),
                    "RequestPool CreateNetwork RequestAddress",
                ),
                (
                    "RequestAddress",
                    Reply::Hang,
                    static_one,
                    endpoint("IpamDriver.RequestAddress: no answer within 1 s"),
                    of_address,
                ),
                (
                    "RequestAddress",
                    Reply::Half,
                    static_one,
                    endpoint("IpamDriver.RequestAddress: it closed the connection in the middle of its answer"),
                    of_address,
                ),
            ],
        );
    });
}

/// The same address for two containers is one too many.
#[test]
fn an_address_is_given_once() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        let plugin = Scripted::start(lab, "hostile", &[]);
        let file = format!("{FILE}\n[containers.db]\nnetworks = [\"wide\"]\n");
        let output = lab.host.try_netrec(&file, &["apply", "-y"]);
        let expected = "error: make endpoint web on wide: plugin `hostile`: RequestAddress: it gives 10.50.0.200, which \
                        endpoint db on wide has\nall else is done; `netrec apply` tries again\n";
        assert_eq!((output.status, output.stderr.as_str()), (1, expected));
        let expected = ["RequestPool", "CreateNetwork", "RequestAddress", "CreateEndpoint", "Join", "RequestAddress"];
        assert_eq!(plugin.changes(), expected);
        assert_eq!(address(lab, "db"), "10.50.0.200/24");
    });
}

/// An answer that came too late is made up for: the address goes back with its subnet, as soon as nobody is on the network.
#[test]
fn an_address_that_nobody_knows_goes_back_with_its_subnet() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add dev0 type veth peer name dev1");
        {
            let _plugin = Scripted::start(lab, "hostile", &[("IpamDriver.RequestAddress", Reply::Hang)]);
            let path = lab.host.write("netrec.toml", FILE);
            let output = lab.host.netrec_with_env(&[("NETREC_PLUGIN_MS", "300")], &["-c", &path, "apply", "-y"]);
            assert_eq!(output.status, 1, "{}", output.stderr);
        }
        let plugin = Scripted::start(lab, "hostile", &[]);
        let plan = lab.host.try_netrec(FILE, &["plan"]).stdout;
        assert!(plan.contains("-/+ network wide") && plan.contains("# it was left half-made"), "{plan}");
        lab.host.apply(FILE);
        let expected = [
            "ReleasePool",
            "DeleteNetwork",
            "RequestPool",
            "CreateNetwork",
            "RequestAddress",
            "CreateEndpoint",
            "Join",
        ];
        assert_eq!(plugin.changes(), expected);
        assert!(lab.host.apply(FILE).actions().is_empty());
    });
}
