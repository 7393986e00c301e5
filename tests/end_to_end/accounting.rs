//! `accounting`: the packets and bytes of published ports, as the containers themselves count them.

#![allow(clippy::expect_used)] // helpers of tests are tests, too

use std::collections::BTreeMap;

use serde_json::Value;

use crate::lab::{self, Lab, Space, until};
use crate::watch::Watching;

const FILE: &str = r#"
[settings]
accounting = true

[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[networks.open]
subnet = ["10.22.0.0/24", "fd22::/64"]
mode = "routed"

[containers.web]
networks.front = { address = ["10.20.0.10", "fd20::10"] }
ports = ["8080:80", "192.0.2.1:8081:81", "8053-8055:8053-8055/udp", "8153-8154:53-54/udp"]

[containers.api]
networks.open = { address = ["10.22.0.10", "fd22::10"] }
ports = ["7000:7000", "7001-7003:7001-7003/udp"]
"#;

/// Has a container count, by its own ports.
fn count_in(space: &Space, ports: &[u16]) {
    let mut text = "add table inet witness\n\
                    add chain inet witness in { type filter hook input priority 0; }\n\
                    add chain inet witness out { type filter hook output priority 0; }\n"
        .to_owned();
    for port in ports {
        text += &format!(
            "add counter inet witness c{port}\n\
             add rule inet witness in meta l4proto {{ tcp, udp }} th dport {port} counter name c{port}\n\
             add rule inet witness out meta l4proto {{ tcp, udp }} th sport {port} counter name c{port}\n"
        );
    }
    space.sh(&format!("nft -f - <<'E'\n{text}E"));
}

/// What a container has counted: packets and bytes by port.
fn counted_in(space: &Space) -> BTreeMap<u16, (u64, u64)> {
    let text = space.run(["nft", "-j", "list", "counters", "table", "inet", "witness"]);
    let all: Value = serde_json::from_str(&text).expect("a document");
    let counters = all["nftables"].as_array().into_iter().flatten().filter_map(|object| object.get("counter"));
    let number = |counter: &Value, key: &str| counter[key].as_u64().expect("a number");
    counters
        .map(|counter| {
            let port = counter["name"].as_str().and_then(|name| name[1..].parse().ok()).expect("a port");
            (port, (number(counter, "packets"), number(counter, "bytes")))
        })
        .collect()
}

/// What netrec has counted: packets and bytes by the file's order of ports, none where it does not count.
fn counted(lab: &Lab, file: &str) -> Vec<(String, Option<(u64, u64)>)> {
    let output = lab.host.netrec(&["-c", file, "status", "--json"]);
    assert_eq!((output.status, output.stderr.as_str()), (0, ""));
    let status: Value = serde_json::from_str(&output.stdout).expect("a document");
    let of = |port: &Value| {
        let figures = port["packets"].as_u64().zip(port["bytes"].as_u64());
        (port["host"].as_str().expect("a port").to_owned(), figures)
    };
    status["ports"].as_array().into_iter().flatten().map(of).collect()
}

#[test]
fn packets_and_bytes_are_those_that_the_containers_see() {
    lab::in_lab(|lab| {
        let file = lab.host.write("net/shop.toml", FILE);
        assert!(counted(lab, &file).iter().all(|(_, figures)| *figures == Some((0, 0))), "nothing is there yet");
        lab.host.apply(FILE);
        lab.world.sh("ip route replace 10.22.0.0/24 via 192.0.2.1; ip route replace fd22::/64 via 2001:db8::1");
        let (web, api) = (lab.container("web"), lab.container("api"));
        let (of_web, of_api) = ([80, 81, 8053, 8054, 8055, 53, 54], [7000, 7001, 7002, 7003, 7999]);
        count_in(&web, &of_web);
        count_in(&api, &of_api);
        let _tcp = (
            web.listen_tcp("web", "[::]:80"),
            web.listen_tcp("web", "[::]:81"),
            api.listen_tcp("api", "[::]:7000"),
            api.listen_tcp("api", "[::]:7999"),
        );
        let _udp: Vec<_> = [&of_web[2..], &of_api[1..4]]
            .into_iter()
            .zip([&web, &api])
            .flat_map(|(ports, space)| ports.iter().map(|port| space.listen_udp("udp", &format!("[::]:{port}"))))
            .collect();
        assert!(counted(lab, &file).iter().all(|(_, figures)| *figures == Some((0, 0))));

        for (space, target) in [
            (&*lab.world, "192.0.2.1:8080"),
            (&*lab.world, "[2001:db8::1]:8080"),
            (&*lab.world, "192.0.2.1:8081"),
            (&*lab.host, "127.0.0.1:8080"),
            (&*lab.host, "192.0.2.1:8081"),
            (&*lab.host, "[2001:db8::1]:8080"),
            // By the host and back.
            (&web, "192.0.2.1:8080"),
            (&api, "[2001:db8::1]:8080"),
            (&*lab.world, "10.22.0.10:7000"),
            (&*lab.world, "[fd22::10]:7000"),
            // Of nobody's ports.
            (&*lab.host, "10.20.0.10:80"),
            (&*lab.host, "10.22.0.10:7999"),
        ] {
            let mut connection = space.connect(target).expect(target);
            assert_eq!(connection.echo(&"x".repeat(3000)).map(|echo| echo.len()), Ok(3000));
        }
        for target in
            ["192.0.2.1:8053", "[2001:db8::1]:8055", "192.0.2.1:8153", "[2001:db8::1]:8154", "10.22.0.10:7002"]
        {
            assert!(lab.world.udp(target).is_ok(), "{target}");
        }
        // What went past all published ports.
        let aside = counted_in(&api)[&7999];
        assert!(aside.0 > 4 && aside.1 > 6000, "{aside:?}");
        let sum = |all: &BTreeMap<u16, (u64, u64)>, ports: &[u16]| {
            let figures = ports.iter().map(|port| all[port]);
            figures.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        };
        // The connection to the container itself is the last to its port.
        let direct = || {
            let before = counted_in(&web)[&80];
            lab.host.connect("10.20.0.10:80").expect("the container").echo("x").expect("an echo");
            before
        };
        let wanted = || {
            let (web, api) = (counted_in(&web), counted_in(&api));
            [
                ("8081", sum(&web, &[81])),
                ("8053-8055", sum(&web, &[8053, 8054, 8055])),
                ("8153-8154", sum(&web, &[53, 54])),
                ("7000", sum(&api, &[7000])),
                ("7001-7003", sum(&api, &[7001, 7002, 7003])),
            ]
        };
        let found = || counted(lab, &file);
        let figures = |host: &str| {
            let all = found();
            all.iter().find(|(name, _)| name == host).and_then(|(_, figures)| *figures).expect("figures")
        };
        until("all packets have come", || wanted().iter().all(|(host, wanted)| figures(host) == *wanted));
        // Those that went to the container itself are none of the port's.
        let all = figures("8080");
        let by_all = direct();
        assert!(all.0 > 0 && all.0 < by_all.0 && all.1 < by_all.1, "{all:?} of {by_all:?}");
        assert_eq!(figures("8080"), all);

        // What has been counted stays, whatever else changes, in the kernel or in the file.
        let before = found();
        lab.host.sh("nft delete element inet netrec port4-any '{ tcp . 8080 }'; ip link set nr-front mtu 1400");
        let more = FILE.replace("\"8080:80\",", "\"8079:79\", \"8080:80\",")
            + "\n[networks.back]\nsubnet = \"10.23.0.0/24\"\n";
        lab.host.write("net/shop.toml", &more);
        let watching = Watching::start(lab, &["-c", &file]);
        watching.says_some_time(&format!("INFO applied {file}: "));
        watching.stop();
        let after: Vec<_> = found().into_iter().filter(|(host, _)| host != "8079").collect();
        assert_eq!(after, before);
        let plan = lab.host.netrec(&["-c", &file, "plan"]).stdout;
        assert!(plan.starts_with("No changes."), "{plan}");
        let text = lab.host.netrec(&["-c", &file, "status"]).stdout;
        let head = text.lines().find(|line| line.starts_with("PORT")).unwrap_or_default();
        assert_eq!(
            head.split_whitespace().collect::<Vec<_>>(),
            ["PORT", "CONTAINER", "ADDRESSES", "CONNECTIONS", "PACKETS", "BYTES", "STATE"]
        );

        // Off, it is not counted any more, and nothing of it is left.
        lab.host.write("net/shop.toml", &more.replace("accounting = true", "accounting = false"));
        assert_eq!(lab.host.netrec(&["-c", &file, "apply", "-y"]).status, 0);
        assert!(found().iter().all(|(_, figures)| figures.is_none()));
        assert_eq!(lab.host.sh("nft list table inet netrec | grep -c count- || true"), "0\n");
    });
}
