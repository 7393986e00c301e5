//! Other firewalls come, go and are loaded anew on the same host: netrec puts back what of its own is gone and nothing else,
//! leaves theirs byte for byte as it is, and flows that are there live on.

use crate::lab::{self, Conn, Lab, Listener, Space, assert_same};
use crate::ports::listen;

const FILE: &str = r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[containers.web]
networks.front = { address = ["10.20.0.10", "fd20::10"] }
ports = ["8080:80", "127.0.0.1:8082:82", "9000-9009:9000-9009"]
"#;

/// A firewall as firewalld and its like load it: the whole table in one transaction, on the hooks that netrec uses too.
const FIREWALL: &str = "
table inet wall {
    set open {
        type inet_service
        elements = { 22, 7000 }
    }
    chain input {
        type filter hook input priority 10; policy accept;
        ct state established,related accept
        iifname \"uplink\" tcp dport @open accept
        iifname \"uplink\" tcp dport 7001 reject
    }
    chain forward {
        type filter hook forward priority 10; policy accept;
        ct state established,related counter accept
        ct status dnat accept
    }
    chain prerouting {
        type nat hook prerouting priority dstnat + 10; policy accept;
        tcp dport 7002 redirect to :7000
    }
    chain postrouting {
        type nat hook postrouting priority srcnat + 10; policy accept;
        oifname \"uplink\" ip saddr 10.99.0.0/16 masquerade
    }
}
";

fn load(host: &Space, before: &str) {
    host.sh(&format!("nft -f - <<'N'\n{before}\n{FIREWALL}\nN"));
}

/// Connections through a published port and out of a container, in both families, and those who answer them.
struct Flows {
    connections: Vec<Conn>,
    _listeners: Vec<Listener>,
}

impl Flows {
    fn start(lab: &Lab) -> Self {
        let web = lab.container("web");
        let mut listeners = listen(&web, &[80], &[]);
        listeners.extend(listen(&lab.world, &[443], &[]));
        let connect = |space: &Space, to: &str| space.connect(to).expect("a connection");
        let connections = vec![
            connect(&lab.world, "192.0.2.1:8080"),
            connect(&lab.world, "[2001:db8::1]:8080"),
            connect(&web, "192.0.2.9:443"),
            connect(&web, "[2001:db8::9]:443"),
        ];
        Self { connections, _listeners: listeners }
    }

    fn live_on(&mut self, after: &str) {
        for connection in &mut self.connections {
            assert_eq!(connection.echo(after).as_deref(), Ok(after), "{:?} after {after}", connection.answer);
        }
    }
}

/// New flows work as the file says, and so does the other firewall.
fn all_works(lab: &Lab) {
    lab.expect(
        "
        world tcp 192.0.2.1:8080        -> web sees 192.0.2.9
        world tcp [2001:db8::1]:8080    -> web sees 2001:db8::9
        world tcp 10.20.0.10:80         -> blocked
        world tcp [fd20::10]:80         -> blocked
        web   tcp 192.0.2.9:443         -> world sees 192.0.2.1
        web   tcp [2001:db8::9]:443     -> world sees 2001:db8::1
        ",
    );
}

#[test]
fn a_flushed_ruleset_comes_back_whole_and_flows_live_on() {
    lab::in_lab(|lab| {
        let first = lab.host.apply(FILE).actions();
        let firewall = |action: &&String| {
            ["create table ", "create set ", "create chain ", "create element "].iter().any(|a| action.starts_with(a))
        };
        let wanted: Vec<_> = first.iter().filter(firewall).collect();
        assert_eq!(wanted[0], "create table inet netrec");
        drop(lab.host.settle());
        let mut flows = Flows::start(lab);
        // With nothing but netrec's table; and as a distribution's nftables.service loads its own, which goes with it.
        for (how, theirs) in [("flush ruleset", ""), ("flush ruleset and load", FIREWALL)] {
            lab.host.sh(&format!("nft -f - <<'N'\nflush ruleset\n{theirs}\nN"));
            let foreign = lab.host.foreign_ruleset();
            assert_eq!(foreign.contains("table inet wall"), !theirs.is_empty());
            assert_same(how, &wanted, &lab.host.plan(FILE).actions());
            assert_same(how, &wanted, &lab.host.apply(FILE).actions());
            flows.live_on(how);
            all_works(lab);
            assert_eq!(lab::difference(&foreign, &lab.host.foreign_ruleset()), "", "{how}");
            assert_eq!(lab.host.apply(FILE).json["writes"], 0, "{how}");
        }
    });
}

#[test]
fn rules_that_were_flushed_come_back_and_flows_live_on() {
    lab::in_lab(|lab| {
        let first = lab.host.apply(FILE).actions();
        drop(lab.host.settle());
        let mut flows = Flows::start(lab);
        // The table, its chains and its elements stay; all rules go.
        lab.host.run(["nft", "flush", "table", "inet", "netrec"]);
        let chains = first.iter().filter_map(|a| a.strip_prefix("create chain "));
        let wanted: Vec<_> = chains.map(|name| format!("update chain {name}")).collect();
        assert_same("nft flush table", &wanted, &lab.host.plan(FILE).actions());
        lab.host.apply(FILE);
        flows.live_on("nft flush table");
        all_works(lab);
        // The elements go, the rules stay: no new flow finds its way until they are back.
        let of_ports = |a: &&String| a.starts_with("create element port");
        let wanted: Vec<_> = first.iter().filter(of_ports).collect();
        for map in ["port4", "port4-any", "port6-any", "port4-any-range", "port6-any-range"] {
            lab.host.run(["nft", "flush", "map", "inet", "netrec", map]);
        }
        assert_same("nft flush map", &wanted, &lab.host.plan(FILE).actions());
        lab.host.apply(FILE);
        flows.live_on("nft flush map");
        all_works(lab);
    });
}

/// `iptables -F` and its like empty the tables of iptables, whichever program made them, and not netrec's.
#[test]
fn flushed_iptables_are_no_business_of_netrecs() {
    lab::in_lab(|lab| {
        let rules = "iptables-nft -w -A INPUT -p tcp --dport 23 -j DROP
            iptables-nft -w -t nat -A PREROUTING -p tcp --dport 7002 -j REDIRECT --to-ports 7000
            ip6tables-nft -w -A FORWARD -p tcp --dport 25 -j REJECT";
        lab.host.sh(rules);
        let foreign = lab.host.foreign_ruleset();
        lab.host.apply(FILE);
        assert_eq!(lab::difference(&foreign, &lab.host.foreign_ruleset()), "", "after apply");
        drop(lab.host.settle());
        let mut flows = Flows::start(lab);
        for program in ["iptables-nft", "ip6tables-nft"] {
            for table in ["filter", "nat"] {
                lab.host.sh(&format!("{program} -w -t {table} -F; {program} -w -t {table} -X"));
            }
        }
        let flushed = lab.host.foreign_ruleset();
        assert!(!flushed.contains("dport"), "{flushed}");
        assert_eq!(lab.host.plan(FILE).actions(), [""; 0]);
        assert_eq!(lab.host.apply(FILE).json["writes"], 0);
        flows.live_on("iptables -F");
        all_works(lab);
        // As `iptables-restore` does it: all tables anew in one go.
        let saved = lab.host.sh("iptables-nft-save");
        let file = lab.host.write("rules", &saved);
        lab.host.sh(&format!("iptables-nft-restore <{file}"));
        let restored = lab.host.foreign_ruleset();
        assert_eq!(lab.host.apply(FILE).json["writes"], 0);
        flows.live_on("iptables-restore");
        assert_eq!(lab::difference(&restored, &lab.host.foreign_ruleset()), "");
    });
}

/// A reload of firewalld: its table is deleted and added again, in one transaction.
#[test]
fn a_firewall_that_loads_its_table_anew_and_netrec_do_not_touch_each_other() {
    lab::in_lab(|lab| {
        load(&lab.host, "");
        let foreign = lab.host.foreign_ruleset();
        lab.host.apply(FILE);
        assert_eq!(lab::difference(&foreign, &lab.host.foreign_ruleset()), "", "after apply");
        drop(lab.host.settle());
        let mut flows = Flows::start(lab);
        let _host = lab.host.listen_tcp("host", "[::]:7000");
        for _ in 0..3 {
            load(&lab.host, "delete table inet wall");
            assert_eq!(lab.host.plan(FILE).actions(), [""; 0]);
            assert_eq!(lab.host.apply(FILE).json["writes"], 0);
            flows.live_on("a reload");
        }
        all_works(lab);
        lab.expect(
            "
            world tcp 192.0.2.1:7000        -> host sees 192.0.2.9
            world tcp 192.0.2.1:7001        -> refused
            world tcp 192.0.2.1:7002        -> host sees 192.0.2.9   # by the other firewall's redirection
            ",
        );
        // A change, and the end.
        let more = FILE.replace("\"8080:80\"", "\"8080:80\", \"8085:85\"");
        let wanted = ["create element port4-any { tcp . 8085 }", "create element port6-any { tcp . 8085 }"];
        assert_same("one port more", &wanted, &lab.host.apply(&more).actions());
        flows.live_on("one port more");
        lab.host.destroy(FILE);
        assert!(!lab.host.run(["nft", "list", "tables"]).contains("netrec"));
        assert_eq!(lab::difference(&foreign, &lab.host.foreign_ruleset()), "", "after destroy");
    });
}
