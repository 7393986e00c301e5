//! `netrec status`: what there is, line by line.

use serde_json::{Value, json};

use crate::SHOP;
use crate::lab::{self, Lab};

fn status(lab: &Lab, file: &str, args: &[&str]) -> String {
    let output = lab.host.netrec(&[&["-c", file, "status"], args].concat());
    assert_eq!((output.status, output.stderr.as_str()), (0, ""));
    output.stdout
}

fn document(lab: &Lab, file: &str) -> Value {
    serde_json::from_str(&status(lab, file, &["--json"])).expect("one JSON document")
}

/// A table's rows without its head, each with its cells parted by one bar.
fn rows(text: &str, head: &str) -> Vec<String> {
    let table = text.split("\n\n").find(|part| part.starts_with(head)).unwrap_or_default();
    let cells = |line: &str| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect::<Vec<_>>().join(" | ");
    table.trim_end().lines().skip(1).map(cells).collect()
}

#[test]
fn what_is_there_and_what_is_not_is_told_line_by_line() {
    lab::in_lab(|lab| {
        let file = lab.host.write("shop.toml", SHOP);
        let before = status(lab, &file, &[]);
        assert!(before.contains(&format!("from {file}; `netrec plan` shows what and why.\n")), "{before}");
        assert_eq!(
            rows(&before, "NETWORK"),
            [
                "front | bridge | nr-front | 10.20.0.0/24 fd20::/64 | 2 | absent",
                "back | bridge | nr-back | 10.21.0.0/24 fd21::/64 | 1 | absent"
            ]
        );
        lab.host.apply(SHOP);
        let text = status(lab, &file, &[]);
        let host = lab.host.run(["uname", "-n"]);
        assert_eq!(text.lines().next(), Some(format!("{} matches {file}.", host.trim()).as_str()));
        let containers = [
            "web | web | front | eth0 | 10.20.0.10/24 fd20::10/64 | ok",
            "api | api | front | eth0 | 10.20.0.11/24 fd20::11/64 | ok",
            "db | db | back | eth0 | 10.21.0.10/24 fd21::10/64 | ok",
        ];
        assert_eq!(rows(&text, "CONTAINER"), containers);
        let idle = [
            "*:8080/tcp | web:80 | 10.20.0.10 fd20::10 | 0 | ok",
            "*:8053/udp | web:53 | 10.20.0.10 fd20::10 | 0 | ok",
            "*:8036/sctp | web:36 | 10.20.0.10 fd20::10 | 0 | ok",
            "127.0.0.1:8082/tcp | api:82 | 10.20.0.11 | 0 | ok",
            "*:5432/tcp | db:5432 | 10.21.0.10 fd21::10 | 0 | ok",
        ];
        assert_eq!(rows(&text, "PORT"), idle);
        assert_eq!(status(lab, &file, &[]), text, "to ask changes nothing");

        // A connection by each way in, and one that is none of a port's.
        let (web, api) = (lab.container("web"), lab.container("api"));
        let _listeners =
            (web.listen_tcp("web", "[::]:80"), web.listen_udp("web", "[::]:53"), api.listen_tcp("api", "[::]:82"));
        let _flows = (
            lab.world.connect("192.0.2.1:8080").expect("the published port"),
            lab.world.connect("[2001:db8::1]:8080").expect("the published port"),
            lab.host.connect("127.0.0.1:8082").expect("the published port"),
            lab.host.connect("10.20.0.11:82").expect("the container itself"),
        );
        let flow = lab.world.udp_flow("192.0.2.1:8053").expect("a flow");
        assert_eq!(flow.ask().map(|answer| answer.name).as_deref(), Ok("web"));
        let counts: Vec<usize> = rows(&status(lab, &file, &[]), "PORT").iter().map(|row| count(row)).collect();
        // The host's own connection to the container goes by no published port.
        assert_eq!(counts, [2, 1, 0, 1, 0]);

        // Drift is told where it is.
        web.run(["ip", "route", "del", "default"]);
        lab.host.run(["ip", "link", "set", "nr-back", "mtu", "1400"]);
        let text = status(lab, &file, &[]);
        assert_eq!(rows(&text, "CONTAINER")[1..], containers[1..]);
        let document = document(lab, &file);
        assert_eq!(
            (&document["matches"], &document["summary"]),
            (&json!(false), &json!({"create": 1, "update": 1, "replace": 0, "delete": 0}))
        );
        let state =
            |value: &Value| ["missing", "different", "surplus"].map(|part| value["state"][part].as_u64().unwrap_or(99));
        assert_eq!(state(&document["containers"][0]["networks"][0]), [1, 0, 0]);
        assert_eq!(state(&document["containers"][0]), [1, 0, 0]);
        assert_eq!(state(&document["containers"][1]), [0, 0, 0]);
        assert_eq!(
            ["front", "back"].map(|name| document["networks"]
                .as_array()
                .and_then(|all| all.iter().find(|n| n["name"] == name))
                .map(state)),
            [Some([0, 0, 0]), Some([0, 1, 0])]
        );
        assert_eq!(document["ports"][0]["connections"], 2);
        assert_eq!(document["left"], json!([]));
    });
}

/// The connections of a port's row.
fn count(row: &str) -> usize {
    row.split(" | ").nth(3).and_then(|cell| cell.parse().ok()).expect("a number")
}

#[test]
fn what_the_file_no_longer_names_and_what_waits_is_told_too() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        let (rest, db) = SHOP.split_once("[containers.db]").expect("two parts");
        assert!(db.contains("5432"));
        let file = lab.host.write("shop.toml", rest);
        let document = document(lab, &file);
        assert_eq!(document["left"], json!(["containers.db"]));
        assert_eq!(document["waits"], Value::Null);
        let output = lab.host.netrec(&["-c", &file, "apply", "-y", "--confirm", "10m"]);
        assert_eq!(output.status, 0, "{}", output.stderr);
        let text = status(lab, &file, &[]);
        let waits = text.lines().nth(1).expect("a second line");
        assert!(waits.starts_with(&format!("! {file} was applied and waits to be confirmed, ")), "{waits}");
        assert_eq!(lab.host.netrec(&["rollback"]).status, 0);
        assert_eq!(
            status(lab, &file, &[]).lines().nth(1),
            Some(format!("! {file} was not confirmed, and was taken back").as_str())
        );
    });
}
