//! The life of networks and containers, in the order in which libnetwork calls.

use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::lab::{self, Snapshot};
use crate::plugin::Plugin;
use crate::{IPAM, SHOP};

const WIDE: &str = "a633f1f655715cca";
const WEB: &str = "6339ab1c3569dd1f";

/// Every call with its body, what of it the containers have, and nothing at all the second time.
#[test]
fn networks_and_containers_come_and_go() {
    lab::in_lab(|lab| {
        let before = Snapshot::of_machine(&lab.host);
        let plugin = Plugin::start(lab, "example", &[]);
        let plan = lab.host.try_netrec(SHOP, &["plan"]);
        let endpoint = "+   endpoint web on wide: netns web, addresses 10.50.0.10/24, fd50::10/64, mac 02:00:00:00:00:10, \
                        external, device (known after apply), mtu (known after apply), gateways (known after apply), routes \
                        (known after apply)";
        assert!(plan.stdout.lines().any(|line| line == endpoint), "{}", plan.stdout);
        let network = "+   network wide: plugin example, subnet 10.50.0.0/24, fd50::/64, gateway 10.50.0.1, fd50::1, options.mtu \
                       1400, options.routes 10.99.0.0/16 via 10.50.0.9";
        assert!(plan.stdout.lines().any(|line| line == network), "{}", plan.stdout);
        assert!(plugin.changes().is_empty(), "a plan only asks");

        lab.host.apply(SHOP);
        let calls = plugin.calls();
        let methods: Vec<&str> = calls.iter().map(|call| call.method.as_str()).collect();
        assert_eq!(
            methods,
            [
                "Plugin.Activate",
                "NetworkDriver.GetCapabilities",
                "NetworkDriver.CreateNetwork",
                "NetworkDriver.CreateEndpoint",
                "NetworkDriver.Join",
                "NetworkDriver.ProgramExternalConnectivity",
                "NetworkDriver.EndpointOperInfo",
                "NetworkDriver.CreateEndpoint",
                "NetworkDriver.Join",
                "NetworkDriver.ProgramExternalConnectivity",
                "NetworkDriver.EndpointOperInfo",
                "NetworkDriver.EndpointOperInfo",
                "NetworkDriver.EndpointOperInfo",
            ]
        );
        let network = calls[2].body["NetworkID"].as_str().unwrap().to_owned();
        assert!(network.len() == 64 && network.starts_with(WIDE), "{network}");
        let data =
            |subnet: &str, gateway: &str| json!([{"AddressSpace": "LocalDefault", "Pool": subnet, "Gateway": gateway}]);
        let created = json!({
            "NetworkID": network,
            "IPv4Data": data("10.50.0.0/24", "10.50.0.1/24"),
            "IPv6Data": data("fd50::/64", "fd50::1/64"),
            "Options": {
                "com.docker.network.enable_ipv4": true,
                "com.docker.network.enable_ipv6": true,
                "com.docker.network.generic": { "mtu": "1400", "routes": "10.99.0.0/16 via 10.50.0.9" },
            },
        });
        assert_eq!(calls[2].body, created);
        // In the order of the containers' names, `db` first.
        let web = calls[7].body["EndpointID"].as_str().unwrap().to_owned();
        assert!(web.len() == 64 && web.starts_with(WEB), "{web}");
        let created = json!({
            "NetworkID": network,
            "EndpointID": web,
            "Interface": { "Address": "10.50.0.10/24", "AddressIPv6": "fd50::10/64", "MacAddress": "02:00:00:00:00:10" },
            "Options": { "com.docker.network.endpoint.macaddress": "AgAAAAAQ" },
        });
        assert_eq!(calls[7].body, created);
        let joined = json!({ "NetworkID": network, "EndpointID": web, "SandboxKey": "/run/netns/web", "Options": {} });
        assert_eq!(calls[8].body, joined);

        let web = lab.container("web");
        let link = web.sh("ip -o link show dev lan");
        assert!(link.contains("mtu 1400") && link.contains("02:00:00:00:00:10"), "{link}");
        assert!(
            link.contains("netrec containers.web.networks.wide @") && link.contains(" from pc-6339ab1c3569"),
            "{link}"
        );
        assert_eq!(web.sh("ip route show default").trim(), "default via 10.50.0.1 dev lan proto 78");
        assert_eq!(web.sh("ip route show 10.99.0.0/16").trim(), "10.99.0.0/16 via 10.50.0.9 dev lan proto 78");
        assert!(web.sh("ip -6 route show default").starts_with("default via fd50::1 dev lan proto 78"));
        lab.expect("web ping 10.50.0.11 -> answer\nweb ping fd50::11 -> answer\nweb ping 10.50.0.1 -> answer");

        assert!(lab.host.apply(SHOP).actions().is_empty());
        let methods: Vec<String> = plugin.calls().into_iter().map(|call| call.method).collect();
        let info = "NetworkDriver.EndpointOperInfo";
        assert_eq!(methods, ["Plugin.Activate", info, info]);

        lab.host.destroy(SHOP);
        let expected = [
            "RevokeExternalConnectivity",
            "Leave",
            "DeleteEndpoint",
            "RevokeExternalConnectivity",
            "Leave",
            "DeleteEndpoint",
            "DeleteNetwork",
        ];
        assert_eq!(plugin.changes(), expected.map(|method| format!("NetworkDriver.{method}")));
        drop(plugin);
        assert_eq!(lab.host.sh("ls /run/netrec/remote"), "");
        assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "");
    });
}

/// Subnets, gateways and addresses are the IPAM plugin's to give, but for those that the file says.
#[test]
fn addresses_are_given_by_a_plugin() {
    lab::in_lab(|lab| {
        let plugin = Plugin::start(lab, "example", &[]);
        let plan = lab.host.try_netrec(IPAM, &["plan"]).stdout;
        assert!(plan.contains("endpoint db on wide: netns db, addresses (known after apply), mac"), "{plan}");
        lab.host.apply(IPAM);
        let calls = plugin.calls();
        let given: Vec<String> = calls
            .iter()
            .filter(|call| call.method.starts_with("IpamDriver.Request"))
            .map(|call| {
                format!("{} {} {}", call.method, call.body["Pool"].as_str().unwrap_or("-"), call.body["Address"])
            })
            .collect();
        assert_eq!(
            given,
            [
                "IpamDriver.RequestPool 10.50.0.0/24 null",
                "IpamDriver.RequestAddress - \"\"",
                "IpamDriver.RequestPool fd50::/64 null",
                "IpamDriver.RequestAddress - \"\"",
                // `web`, since it says which one it wants
                "IpamDriver.RequestAddress - \"10.50.0.9\"",
                "IpamDriver.RequestAddress - \"\"",
                // `db`
                "IpamDriver.RequestAddress - \"\"",
                "IpamDriver.RequestAddress - \"\"",
            ]
        );
        let pool = calls.iter().find(|call| call.method == "IpamDriver.RequestPool").unwrap();
        let expected = json!({
            "AddressSpace": "example", "Pool": "10.50.0.0/24", "SubPool": "10.50.0.128/25", "Options": {}, "V6": false,
        });
        assert_eq!(pool.body, expected);
        let addresses = |name: &str| lab.container(name).sh("ip -o addr show scope global | awk '{print $4}'");
        assert_eq!(addresses("web"), "10.50.0.9/24\nfd50::2/64\n");
        assert_eq!(addresses("db"), "10.50.0.128/24\nfd50::3/64\n");
        let status = lab.host.try_netrec(IPAM, &["status", "--json"]).stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let db = status["containers"].as_array().unwrap().iter().find(|container| container["name"] == "db").unwrap();
        assert_eq!(db["networks"][0]["addresses"], json!(["10.50.0.128/24", "fd50::3/64"]), "{status}");
        lab.expect("web ping 10.50.0.128 -> answer");
        assert!(lab.host.apply(IPAM).actions().is_empty());
        assert_eq!(plugin.changes(), Vec::<String>::new());

        // One goes, and the others stay.
        let without = IPAM.split("[containers.db]").next().unwrap();
        lab.host.apply(without);
        let removed = plugin.changes();
        assert_eq!(
            removed,
            [
                "NetworkDriver.RevokeExternalConnectivity",
                "NetworkDriver.Leave",
                "NetworkDriver.DeleteEndpoint",
                "IpamDriver.ReleaseAddress",
                "IpamDriver.ReleaseAddress",
            ]
        );
        lab.host.destroy(without);
        let removed = plugin.changes();
        assert_eq!(
            removed[5..],
            [
                "IpamDriver.ReleaseAddress",
                "IpamDriver.ReleasePool",
                "IpamDriver.ReleaseAddress",
                "IpamDriver.ReleasePool",
                "NetworkDriver.DeleteNetwork",
            ]
        );
    });
}

/// What can change in place does, and what cannot is made anew with all that is on it.
#[test]
fn changes_are_few() {
    lab::in_lab(|lab| {
        let plugin = Plugin::start(lab, "example", &[]);
        lab.host.apply(SHOP);
        plugin.calls();
        // Another name inside is nothing to the plugin.
        let renamed = SHOP.replace("interface = \"lan\"", "interface = \"wan\"");
        lab.host.apply(&renamed);
        assert_eq!(plugin.changes(), Vec::<String>::new());
        lab.expect("web ping 10.50.0.11 -> answer");
        // The way out is by another network.
        let other = renamed
            .replace("interface = \"wan\" }", "interface = \"wan\" }\nnetworks.front = { priority = 1 }")
            + "[networks.front]\nsubnet = [\"10.20.0.0/24\", \"fd20::/64\"]\n";
        let done = lab.host.apply(&other).actions();
        assert!(done.contains(&"update endpoint web on wide".to_owned()), "{done:?}");
        assert_eq!(plugin.changes(), ["NetworkDriver.RevokeExternalConnectivity"]);
        assert!(lab.container("web").sh("ip route show default").starts_with("default via 10.20.0.1"));
        assert!(lab.host.apply(&other).actions().is_empty());
        // Other options.
        let options = other.replace("1400", "1300");
        let done = lab.host.apply(&options).actions();
        for action in ["replace network wide", "replace endpoint web on wide", "replace endpoint db on wide"] {
            assert!(done.contains(&action.to_owned()), "{done:?}");
        }
        let expected = [
            "RevokeExternalConnectivity",
            "Leave",
            "DeleteEndpoint",
            "Leave",
            "DeleteEndpoint",
            "DeleteNetwork",
            "CreateNetwork",
            "CreateEndpoint",
            "Join",
            "ProgramExternalConnectivity",
            "CreateEndpoint",
            "Join",
        ];
        assert_eq!(plugin.changes(), expected.map(|method| format!("NetworkDriver.{method}")));
        assert!(lab.container("web").sh("ip link show dev wan").contains("mtu 1300"));
        lab.expect("web ping fd50::11 -> answer");
        assert!(lab.host.apply(&options).actions().is_empty());
    });
}

/// What a plugin is found by beside its socket: a file with an address, or one with certificates for TLS too.
#[test]
fn plugins_are_found_by_files() {
    if let Some(why) = lab::kernel::program_missing(&["openssl"]) {
        return lab::kernel::not_tried("a plugin by TLS", &why);
    }
    lab::in_lab(|lab| {
        let _plugin = Plugin::start(lab, "example", &[]);
        let host = &lab.host;
        host.sh("mkdir -p /run/etc /run/etc.work && mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work \
                 /etc && mkdir -p /etc/docker/plugins/inner");
        // The same plugin behind TCP and TLS.
        host.sh("cd /run/lab && openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=CA 2>/dev/null
                 openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=plugin 2>/dev/null
                 echo subjectAltName=IP:127.0.0.1 >names
                 openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out cert.pem -days 2 \
                 2>/dev/null
                 openssl req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.pem -days 2 -subj /CN=CA 2>/dev/null");
        let proxy = host.write("proxy.py", PROXY);
        let _proxies: Vec<_> = ["7001", "7002"]
            .into_iter()
            .map(|port| {
                let mut command = Command::new("python3");
                command.args([&proxy, port]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                Ends(host.spawn(&mut command).unwrap())
            })
            .collect();
        lab::until("both listen", || host.sh("ss -Hltn 'sport >= 7001'").lines().count() == 2);
        let write = |name: &str, text: &str| host.sh(&format!("printf '%s' '{text}' > /etc/docker/plugins/{name}"));
        write("plain.spec", "tcp://127.0.0.1:7001\n");
        write(
            "inner/inner.json",
            "{\"Addr\": \"https://127.0.0.1:7002\", \"TLSConfig\": {\"CAFile\": \"/run/lab/ca.pem\"}}",
        );
        write(
            "strange.json",
            "{\"Addr\": \"https://127.0.0.1:7002\", \"TLSConfig\": {\"CAFile\": \"/run/lab/other.pem\"}}",
        );
        for (name, cert) in [("pair", "cert"), ("mixed", "other"), ("garbage", "garbage")] {
            let own = format!("\"CertFile\": \"/run/lab/{cert}.pem\", \"KeyFile\": \"/run/lab/key.pem\"");
            let tls = format!("\"CAFile\": \"/run/lab/ca.pem\", {own}");
            write(
                &format!("{name}.json"),
                &format!("{{\"Addr\": \"https://127.0.0.1:7002\", \"TLSConfig\": {{{tls}}}}}"),
            );
        }
        host.sh(
            "cd /run/lab && (echo -----BEGIN CERTIFICATE-----; echo AAAA; echo -----END CERTIFICATE-----) >garbage.pem
                 mkfifo /etc/docker/plugins/pipe.spec",
        );
        write(
            "elsewhere.json",
            "{\"Addr\": \"https://localhost:7002\", \"TLSConfig\": {\"CAFile\": \"/run/lab/ca.pem\"}}",
        );
        write("wrong.spec", "127.0.0.1:7001");
        for name in ["plain", "inner", "pair", "/run/docker/plugins/example.sock"] {
            let file = SHOP.replace("\"example\"", &format!("\"{name}\""));
            host.apply(&file);
            assert!(host.apply(&file).actions().is_empty(), "{name}");
            lab.expect("web ping 10.50.0.11 -> answer");
            host.destroy(&file);
        }
        let fails = |name: &str| {
            let file = SHOP.replace("\"example\"", &format!("\"{name}\""));
            let output = host.try_netrec(&file, &["apply", "-y"]);
            host.destroy(&file);
            assert_eq!(output.status, 1, "{}", output.stderr);
            output.stderr.lines().next().unwrap_or_default().to_owned()
        };
        let wrong = "error: make network wide: /etc/docker/plugins/wrong.spec holds the address `127.0.0.1:7001`: write \
                     unix:///PATH, tcp://HOST:PORT, http://… or https://…";
        assert_eq!(fails("wrong"), wrong);
        assert_eq!(fails("pipe"), "error: make network wide: /etc/docker/plugins/pipe.spec is no file");
        for (name, cert) in [("mixed", "other"), ("garbage", "garbage")] {
            let (said, begins) = (
                fails(name),
                format!(
                    "error: make network wide: the key of /run/lab/key.pem is none that goes with the certificate of \
                     /run/lab/{cert}.pem: "
                ),
            );
            assert!(said.starts_with(&begins), "{said}");
        }
        for name in ["strange", "elsewhere"] {
            let said = fails(name);
            let begins =
                format!("error: make network wide: plugin `{name}`: Plugin.Activate: invalid peer certificate");
            assert!(said.starts_with(&begins), "{said}");
        }
    });
}

/// A process, until dropped: a machine does not end before its last one has been waited for.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Hands on what comes by TCP, on port 7002 by TLS, to the plugin's socket.
const PROXY: &str = r#"
import socket, socketserver, ssl, sys, threading
def pump(a, b):
    while data := a.recv(65536):
        b.sendall(data)
    b.shutdown(socket.SHUT_WR)
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        out = socket.socket(socket.AF_UNIX)
        out.connect("/run/docker/plugins/example.sock")
        request = self.request
        if sys.argv[1] == "7002":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain("/run/lab/cert.pem", "/run/lab/key.pem")
            request = context.wrap_socket(request, server_side=True)
        data = b""
        while b"\r\n\r\n" not in data:
            data += request.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
        while len(body) < sum(length):
            body += request.recv(65536)
        out.sendall(head + b"\r\n\r\n" + body)
        while data := out.recv(65536):
            request.sendall(data)
        if sys.argv[1] == "7002":
            request.unwrap()
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;
