//! What else is on the host: other programs' firewalls and processes at published ports are named, never touched, and the
//! commands that the plan gives do what they are for.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::lab::{self, Lab, Listener, Plan};

const FILE: &str = r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[containers.web]
networks.front = { address = ["10.20.0.10", "fd20::10"] }
ports = ["8080:80"]

[containers.api]
networks.front = { address = ["10.20.0.11", "fd20::11"] }
"#;

const DOCKER: &str = "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER
    iptables -N DOCKER; iptables -A FORWARD -o docker0 -j DOCKER
    iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    iptables -A FORWARD -i docker0 -j ACCEPT; iptables -A INPUT -i docker0 -j ACCEPT";

/// Like firewalld's: a policy of accept, and a rule at the end that refuses what no zone has let through.
const FIREWALLD: &str = "nft -f - <<'E'
table inet firewalld {
    chain zones {
        iifname \"uplink\" goto zone_public
        goto zone_public
    }
    chain zone_public {
        icmp type echo-request accept
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname \"lo\" accept
        ct state { invalid } drop
        jump zones
        reject with icmpx admin-prohibited
    }
}
E";

/// What a plan says under these codes.
fn said(plan: &Plan, codes: &[&str]) -> Vec<String> {
    let warnings = plan.json["warnings"].as_array().expect("warnings");
    let of_code = warnings.iter().filter(|w| codes.iter().any(|code| w["code"] == *code));
    of_code.map(|w| w["message"].as_str().expect("a message").to_owned()).collect()
}

fn drops(lab: &Lab, file: &str) -> Vec<String> {
    said(&lab.host.plan(file), &["foreign-drop", "not-checked"])
}

/// Runs the command that each warning ends with.
fn follow(lab: &Lab, warnings: &[String]) {
    for warning in warnings {
        let (_, command) = warning.split_once("; to let it through: ").expect("a command");
        lab.host.sh(command);
    }
}

/// Whether frames that are bridged pass the firewall's hooks as well.
fn set_bridge_nf(lab: &Lab, value: &str) {
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        lab.host.set_sysctl(&format!("net/bridge/{name}"), value);
    }
}

/// Servers in the container and in the world.
fn servers(lab: &Lab) -> Vec<Listener> {
    let tcp = |space: &str, port: u16| lab.space(space).listen_tcp(space, &format!("[::]:{port}"));
    vec![tcp("web", 80), tcp("host", 7000), tcp("world", 443)]
}

#[test]
fn what_docker_drops_is_let_through_by_the_command_that_the_plan_gives() {
    lab::in_lab(|lab| {
        set_bridge_nf(lab, "0");
        lab.host.sh(DOCKER);
        lab.host.sh(&DOCKER.replace("iptables", "ip6tables"));
        lab.host.apply(FILE);
        let _servers = servers(lab);
        lab.expect(
            "
            world tcp 192.0.2.1:8080     -> blocked
            world tcp [2001:db8::1]:8080 -> blocked
            web   tcp 192.0.2.9:443      -> blocked
            ",
        );
        let ruleset = lab.host.run(["nft", "list", "ruleset"]);
        let plan = lab.host.plan(FILE);
        assert_eq!((plan.actions(), &plan.json["changed"]), (vec![], &false.into()));
        let output = lab.host.try_netrec(FILE, &["plan", "--detailed-exitcode"]);
        assert_eq!(output.status, 0, "warnings are no changes");
        assert!(output.stdout.ends_with("\nNo changes. host matches /run/lab/netrec.toml.\n"), "{}", output.stdout);
        assert_eq!(lab.host.apply(FILE).json["writes"], 0);
        assert_eq!(lab.host.run(["nft", "list", "ruleset"]), ruleset, "nothing foreign is touched");
        let own = lab.host.run(["nft", "list", "table", "inet", "netrec"]);
        assert!(!own.contains("policy drop"), "hooks are shared: {own}");
        let warnings = drops(lab, FILE);
        assert_eq!(
            warnings,
            [
                "chain FORWARD of table ip filter (Docker, hook forward, policy drop) drops traffic out of nr-front and \
                 published ports into nr-front; to let it through: iptables -I DOCKER-USER -i nr-front -j ACCEPT && \
                 iptables -I DOCKER-USER -o nr-front -j ACCEPT",
                "chain FORWARD of table ip6 filter (Docker, hook forward, policy drop) drops traffic out of nr-front and \
                 published ports into nr-front; to let it through: ip6tables -I DOCKER-USER -i nr-front -j ACCEPT && \
                 ip6tables -I DOCKER-USER -o nr-front -j ACCEPT",
            ]
        );
        follow(lab, &warnings);
        lab.expect(
            "
            world tcp 192.0.2.1:8080     -> web sees 192.0.2.9
            world tcp [2001:db8::1]:8080 -> web sees 2001:db8::9
            web   tcp 192.0.2.9:443      -> world sees 192.0.2.1
            world tcp 10.20.0.10:80      -> blocked # netrec's own rules hold all the same
            ",
        );
        assert_eq!(drops(lab, FILE), [""; 0], "the rules that were added are seen");
    });
}

#[test]
fn a_plain_nftables_firewall_is_named_on_both_hooks() {
    lab::in_lab(|lab| {
        set_bridge_nf(lab, "0");
        lab.host.sh("nft -f - <<'E'
            table inet fw {
                chain outward { type filter hook forward priority 0; policy drop; ct state established,related accept; }
                chain inward {
                    type filter hook input priority 0; policy drop;
                    ct state established,related accept
                    meta l4proto ipv6-icmp accept
                }
            }
            table inet asleep { flags dormant; chain outward { type filter hook forward priority 0; policy drop; }; }
            table inet elsewhere { chain out { type filter hook output priority 0; policy accept; }; }\nE");
        lab.host.apply(FILE);
        let _servers = servers(lab);
        lab.expect("world tcp 192.0.2.1:8080 -> blocked\nweb tcp 10.20.0.1:7000 -> blocked");
        let warnings = drops(lab, FILE);
        assert_eq!(
            warnings,
            [
                "chain outward of table inet fw (hook forward, policy drop) drops traffic out of nr-front and published ports \
                 into nr-front; to let it through: nft insert rule inet fw outward iifname '\"nr-front\"' accept && nft insert \
                 rule inet fw outward oifname '\"nr-front\"' accept",
                "chain inward of table inet fw (hook input, policy drop) drops traffic to this host from nr-front; to let it \
                 through: nft insert rule inet fw inward iifname '\"nr-front\"' accept",
            ]
        );
        follow(lab, &warnings);
        lab.expect(
            "
            world tcp 192.0.2.1:8080 -> web sees 192.0.2.9
            web   tcp 192.0.2.9:443  -> world sees 192.0.2.1
            web   tcp 10.20.0.1:7000 -> host sees 10.20.0.10
            ",
        );
        assert_eq!(drops(lab, FILE), [""; 0]);
    });
}

#[test]
fn many_networks_need_one_command() {
    lab::in_lab(|lab| {
        set_bridge_nf(lab, "0");
        lab.host.sh("iptables -P FORWARD DROP");
        let two = format!("{FILE}\n[networks.back]\nsubnet = '10.21.0.0/24'\n[containers.db]\nnetworks = ['back']\n");
        let warnings = drops(lab, &two);
        assert_eq!(
            warnings,
            ["chain FORWARD of table ip filter (iptables, hook forward, policy drop) drops traffic out of nr-back, \
              nr-front and published ports into nr-front; to let it through: iptables -I FORWARD -i nr-+ -j ACCEPT && \
              iptables -I FORWARD -o nr-+ -j ACCEPT"]
        );
        follow(lab, &warnings);
        assert_eq!(drops(lab, &two), [""; 0]);
        lab.host.apply(&two);
        let _servers = servers(lab);
        lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9\ndb tcp 192.0.2.9:443 -> world sees 192.0.2.1");
    });
}

#[test]
fn a_rule_that_stands_in_the_way_is_named() {
    lab::in_lab(|lab| {
        set_bridge_nf(lab, "0");
        lab.host.sh(FIREWALLD);
        lab.host.apply(FILE);
        let _servers = servers(lab);
        lab.expect(
            "
            world tcp 192.0.2.1:8080 -> web sees 192.0.2.9
            web   tcp 192.0.2.9:443  -> unreachable (No route to host)
            web   ping 192.0.2.9     -> answer
            ",
        );
        let listing = lab.host.run(["nft", "-a", "list", "chain", "inet", "firewalld", "filter_FORWARD"]);
        let line = listing.lines().find(|line| line.contains("reject")).expect("the rule");
        let handle = line.split_whitespace().last().expect("its handle");
        let wanted = |what: &str| {
            format!(
                "chain filter_FORWARD of table inet firewalld (firewalld, hook forward) rejects {what} by `reject with \
                 icmpx admin-prohibited` (handle {handle} of chain filter_FORWARD); to let it through: firewall-cmd \
                 --permanent --zone=trusted --add-interface=nr-front && firewall-cmd --reload"
            )
        };
        assert_eq!(drops(lab, FILE), [wanted("traffic out of nr-front")]);
        set_bridge_nf(lab, "1");
        lab.expect("api tcp 10.20.0.10:80 -> unreachable (No route to host)");
        assert_eq!(drops(lab, FILE), [wanted("traffic out of nr-front and traffic within nr-front")]);
        // What that command makes of the rules.
        lab.host.sh("nft 'add chain inet firewalld zone_trusted; add rule inet firewalld zone_trusted accept
            insert rule inet firewalld zones iifname \"nr-front\" goto zone_trusted'");
        lab.expect("web tcp 192.0.2.9:443 -> world sees 192.0.2.1");
        assert_eq!(drops(lab, FILE), [""; 0]);
    });
}

#[test]
fn frames_that_a_bridges_own_hooks_drop_are_named() {
    lab::in_lab(|lab| {
        set_bridge_nf(lab, "0");
        lab.host
            .sh("nft 'add table bridge b; add chain bridge b f { type filter hook forward priority 0; policy drop; }'");
        lab.host.apply(FILE);
        let _servers = servers(lab);
        lab.expect("api tcp 10.20.0.10:80 -> blocked\nworld tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
        let warnings = drops(lab, FILE);
        assert_eq!(
            warnings,
            [
                "chain f of table bridge b (hook forward, policy drop) drops traffic within nr-front; to let it through: nft \
              insert rule bridge b f iifname '\"ve-*\"' accept"
            ]
        );
        follow(lab, &warnings);
        lab.expect("api tcp 10.20.0.10:80 -> web sees 10.20.0.11");
        assert_eq!(drops(lab, FILE), [""; 0]);
    });
}

/// A folder on the host with an `nft` that is this script.
fn nft_that(lab: &Lab, script: &str) -> String {
    lab.host.sh(&format!("mkdir -p /run/bin; printf '#!/bin/sh\\n{script}\\n' >/run/bin/nft; chmod +x /run/bin/nft"));
    "/run/bin:/usr/bin:/bin".to_owned()
}

fn drops_with_path(lab: &Lab, path: &str) -> Vec<String> {
    let file = lab.host.write("netrec.toml", FILE);
    let output = lab.host.netrec_with_env(&[("PATH", path)], &["-c", &file, "plan", "--json"]);
    assert_eq!(output.status, 0, "{}", output.stderr);
    let json = serde_json::from_str(&output.stdout).expect("one JSON document");
    said(&Plan { json }, &["foreign-drop", "not-checked"])
}

#[test]
fn without_nft_policies_are_known_and_rules_are_not() {
    lab::in_lab(|lab| {
        set_bridge_nf(lab, "0");
        lab.host.sh(FIREWALLD);
        assert_eq!(drops_with_path(lab, "/nowhere"), [""; 0]);
        lab.host.sh("iptables -P FORWARD DROP; iptables -A FORWARD -j ACCEPT");
        let policy = "chain FORWARD of table ip filter (iptables, hook forward, policy drop) drops traffic out of nr-front \
                      and published ports into nr-front; to let it through: iptables -I FORWARD -i nr-front -j ACCEPT && \
                      iptables -I FORWARD -o nr-front -j ACCEPT";
        assert_eq!(drops_with_path(lab, "/nowhere"), [policy]);
        for (script, why) in [
            ("exec sleep 600", "nft took too long"),
            ("exit 1", "nft listed nothing"),
            ("echo {", "nft'\\''s listing makes no sense"),
            ("echo {}", "nft'\\''s listing makes no sense"),
        ] {
            let why = why.replace("'\\''", "'");
            let unread =
                |table: &str| format!("the rules of table {table} could not be read ({why}), only its policies");
            let path = nft_that(lab, script);
            let wanted = [policy.to_owned(), unread("inet firewalld"), unread("ip filter")];
            assert_eq!(drops_with_path(lab, &path), wanted, "{script}");
        }
    });
}

#[test]
fn nothing_is_run_on_a_host_without_other_firewalls() {
    lab::in_lab(|lab| {
        set_bridge_nf(lab, "0");
        lab.host.apply(FILE);
        lab.host.sh("nft 'add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }'");
        let path = nft_that(lab, "echo run >>/run/lab/ran");
        assert_eq!(drops_with_path(lab, &path), [""; 0]);
        assert_eq!(lab.host.sh("ls /run/lab"), "netrec.toml\n");
        // Nor where nothing of the file's passes the hooks.
        lab.host.sh("iptables -P FORWARD DROP");
        assert_eq!(drops(lab, "[networks.front]\nsubnet = '10.20.0.0/24'\n"), [""; 0]);
        let alone =
            "[networks.front]\nsubnet = '10.20.0.0/24'\ngateway = false\n[containers.web]\nnetworks = ['front']\n";
        assert_eq!(drops(lab, alone), [""; 0]);
    });
}

/// A process of the host's own that holds sockets, by the name `shopd`.
struct Server(Child, u32);

impl Server {
    fn start(lab: &Lab, sockets: &str) -> Self {
        let script = format!(
            "import os, socket, sys\n\
             open('/proc/self/comm', 'w').write('shopd')\n\
             def tcp(family, address, port, only=0):\n\
             \x20   s = socket.socket(family, socket.SOCK_STREAM)\n\
             \x20   if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)\n\
             \x20   s.bind((address, port)); s.listen(); return s\n\
             def udp(address, port, to=None):\n\
             \x20   s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((address, port))\n\
             \x20   if to: s.connect(to)\n\
             \x20   return s\n\
             v4, v6 = socket.AF_INET, socket.AF_INET6\n\
             held = [{sockets}]\n\
             print(os.getpid(), flush=True)\n\
             sys.stdin.read()\n"
        );
        let mut command = Command::new("python3");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = lab.host.spawn(&mut command).expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let pid = line.trim().parse().expect("a process number");
        Self(child, pid)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn processes_at_published_ports_are_named() {
    const PORTS: &str = r#"
        "8080:80", "192.0.2.1:8081:81", "8053:53/udp", "0.0.0.0:8083:83", "[::]:8084:84", "127.0.0.1:8085:85",
    "#;
    lab::in_lab(|lab| {
        set_bridge_nf(lab, "0");
        let file = FILE.replace("\"8080:80\"", PORTS);
        let in_use = || said(&lab.host.plan(&file), &["port-in-use", "not-checked"]);
        assert_eq!(in_use(), [""; 0]);
        let sockets =
            "tcp(v4, '0.0.0.0', 8080), tcp(v4, '192.0.2.1', 8081), tcp(v6, '::', 8083), tcp(v6, '::', 8084, 1),
            udp('192.0.2.2', 8053), tcp(v4, '0.0.0.0', 8085),
            tcp(v6, '::1', 8080), tcp(v4, '192.0.2.2', 8081), tcp(v4, '127.0.0.1', 8053), tcp(v4, '0.0.0.0', 8084),
            udp('192.0.2.1', 8053, ('192.0.2.9', 9)), tcp(v4, '0.0.0.0', 8082), udp('0.0.0.0', 8080),
";
        let server = Server::start(lab, sockets);
        let line = |what: &str, port: usize| {
            let pid = server.1;
            format!(
                "{what} is in use by shopd (process {pid}), and containers.web.ports[{port}] publishes it: new flows go to \
                 the container"
            )
        };
        let wanted = [
            line("0.0.0.0:8080/tcp", 0),
            line("0.0.0.0:8085/tcp", 5),
            line("192.0.2.1:8081/tcp", 1),
            line("[::]:8083/tcp", 3),
            line("[::]:8084/tcp", 4),
            line("192.0.2.2:8053/udp", 2),
        ];
        assert_eq!(in_use(), wanted);
        // It stays so when the ports are published, and is no change.
        lab.host.apply(&file);
        let plan = lab.host.plan(&file);
        assert_eq!((said(&plan, &["port-in-use"]), &plan.json["changed"]), (wanted.to_vec(), &false.into()));
        assert_eq!(plan.json["warnings"][0]["owner"], "containers.web.ports[0]");
        drop(server);
        assert_eq!(in_use(), [""; 0]);
        // One that netrec cannot look into, since it is none of the host's processes.
        let _probe = lab.host.listen_tcp("host", "192.0.2.1:8080");
        assert_eq!(
            in_use(),
            [
                "192.0.2.1:8080/tcp is in use by an unknown process, and containers.web.ports[0] publishes it: new flows go \
              to the container"
            ]
        );
    });
}
