//! `netrec status`: what there is, line by line.

use serde_json::{Value, json};

use crate::SHOP;
use crate::lab::{self, Lab, NETREC};

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

/// The device that a network is on is gone, a namespace is none, a foreign device has a name: each is told at its row, beside
/// the rest.
#[test]
fn what_waits_and_what_cannot_be_made_is_told_at_its_row() {
    lab::in_lab(|lab| {
        let file = "[networks.front]\nsubnet = '10.20.0.0/24'\n\
             [networks.lan]\ndriver = 'macvlan'\nparent = 'spare'\nsubnet = '10.40.0.0/24'\n\
             [networks.own]\ndriver = 'host'\n[networks.none]\ndriver = 'null'\n\
             [containers.a]\nnetworks = ['front', 'lan']\nports = ['8080:80']\n\
             [containers.b]\npid = 4000000\nnetworks = ['front']\nports = ['8081:80']\n\
             [containers.c]\nnetns = '/run/netns/theirs'\nnetworks.front = { address = '10.20.0.3' }\n\
             [containers.d]\nnetworks = ['own']\n[containers.e]\nnetworks = ['none']\n\
             [containers.f]\nnetworks = ['front']\n";
        lab.host.link(&lab.world, "spare", "w1");
        lab.host.sh("ip netns add theirs");
        lab.host.apply(file);
        let path = lab.host.write("netrec.toml", file);
        let a = rows(&status(lab, &path, &[]), "CONTAINER");
        let cell = |row: usize, column: usize| a[row].split(" | ").nth(column).unwrap_or_default().to_owned();
        let (front, lan, b, f) = (cell(0, 4), cell(1, 4), cell(2, 4), cell(6, 4));
        assert_eq!(
            a,
            [
                format!("a | a | front | eth0 | {front} | ok"),
                format!("a | a | lan | eth1 | {lan} | ok"),
                format!("b | pid:4000000 | front | eth0 | {b} | waiting"),
                "c | /run/netns/theirs | front | eth0 | 10.20.0.3/24 | ok".to_owned(),
                "d | host | own | - | - | ok".to_owned(),
                "e | e | none | - | - | ok".to_owned(),
                format!("f | f | front | eth0 | {f} | ok"),
            ]
        );
        assert_eq!(
            document(lab, &path)["containers"][1]["networks"][0]["hindered"],
            json!({ "waiting": "which does not run" })
        );

        // Its container is a file now, the device is gone, and somebody made a device where one has to be.
        lab.host.sh("ip link del spare; ip netns del theirs; touch /run/netns/theirs; ip -n f link del eth0");
        lab.host.sh("ip -n f link add eth0 type bridge");
        let text = status(lab, &path, &[]);
        let name = lab.host.run(["uname", "-n"]);
        assert_eq!(text.lines().next(), Some(&*format!("{} cannot be made as {path} wants it.", name.trim())));
        let missing = format!(
            "network `lan` ({path}:3) is to be on `spare`, which this host does not have: create it first, or take the \
             network out"
        );
        let gone = format!(
            "container `c` ({path}:18) is to live in /run/netns/theirs, where there is no network namespace: start what makes \
             it first"
        );
        let taken = "link eth0 in f exists and is not netrec's (group 0)";
        assert_eq!(
            rows(&text, "NETWORK"),
            [
                "front | bridge | nr-front | 10.20.0.0/24 | 4 | ok".to_owned(),
                format!("lan | macvlan | spare | 10.40.0.0/24 | 1 | refused: {missing}"),
                "own | host | - | 1 | ok".to_owned(),
                "none | null | - | 1 | ok".to_owned(),
            ]
        );
        assert_eq!(
            rows(&text, "CONTAINER"),
            [
                format!("a | a | front | eth0 | {front} | ok"),
                format!("a | a | lan | eth1 | {lan} | refused: see network `lan`"),
                format!("b | pid:4000000 | front | eth0 | {b} | waiting"),
                format!("c | /run/netns/theirs | front | eth0 | 10.20.0.3/24 | refused: {gone}"),
                "d | host | own | - | - | ok".to_owned(),
                "e | e | none | - | - | ok".to_owned(),
                format!("f | f | front | eth0 | {f} | refused: {taken}"),
            ]
        );
        assert_eq!(
            rows(&text, "PORT").iter().map(|row| row.rsplit(" | ").next()).collect::<Vec<_>>(),
            [Some("ok"), Some("waiting")]
        );
        let document = document(lab, &path);
        assert_eq!((&document["matches"], &document["refusals"]), (&json!(false), &json!([gone, missing, taken])));
        assert_eq!(document["networks"][1]["hindered"], json!({ "refused": missing }));
        // A path that is a namespace of another sort, or somebody's file.
        lab.host.sh("mount --bind /proc/self/ns/uts /run/netns/theirs");
        let text = status(lab, &path, &[]);
        let row = rows(&text, "CONTAINER").into_iter().find(|row| row.starts_with("c |")).unwrap_or_default();
        assert!(row.contains("| refused: container `c` ") && row.contains("/run/netns/theirs, which "), "{row}");
        lab.host.sh("umount /run/netns/theirs");
    });
}

/// On lines of sixty characters nothing is beyond them, be it a terminal's or those that the environment names.
#[test]
fn on_a_narrow_terminal_the_rest_goes_on_below() {
    lab::in_lab(|lab| {
        lab.host.sh(
            "nft 'add table inet other; add chain inet other f { type filter hook forward priority 0; policy drop; }'",
        );
        let toml = "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
             [containers.web]\nnetworks = ['front']\nports = ['8080:80', '127.0.0.1:9000-9009:9000-9009/udp']\n\
             [containers.b]\npid = 4000000\nnetworks = ['front']\nports = ['8081:80']\n";
        let file = lab.host.write("shop.toml", toml);
        assert_eq!(lab.host.netrec(&["-c", &file, "--host", "alpha", "apply", "-y"]).status, 0);
        let shown = "\
alpha matches /run/lab/shop.toml.
! containers.b waits for process 4000000, which does not run
! chain f of table inet other (hook forward, policy drop)
  drops traffic out of nr-front and published ports into
  nr-front; to let it through: nft insert rule inet other f
  iifname '\"nr-front\"' accept && nft insert rule inet other
  f oifname '\"nr-front\"' accept

NETWORK  DRIVER  DEVICE    SUBNETS       CONTAINERS  STATE
front    bridge  nr-front  10.20.0.0/24  2           ok
                           fd20::/64

CONTAINER  NETNS        NETWORK  INTERFACE  STATE
web        web          front    eth0       ok
  addresses: 10.20.0.222/24 fd20::ed3a:5e9:a764:c522/64
b          pid:4000000  front    eth0       waiting
  addresses: 10.20.0.20/24 fd20::2aa7:872a:aa1e:1236/64

PORT                     CONTAINER      CONNECTIONS  STATE
*:8080/tcp               web:80         0            ok
  addresses: 10.20.0.222 fd20::ed3a:5e9:a764:c522
127.0.0.1:9000-9009/udp  web:9000-9009  0            ok
  addresses: 10.20.0.222
*:8081/tcp               b:80           0            waiting
  addresses: 10.20.0.20 fd20::2aa7:872a:aa1e:1236
";
        let args = ["-c", &file, "--host", "alpha", "status"];
        let piped = |columns| lab.host.netrec_with_env(&[("COLUMNS", columns)], &args).stdout;
        assert_eq!(piped("60"), shown);
        for none in ["", "0", "x"] {
            assert_eq!(piped(none), status(lab, &file, &["--host", "alpha"]));
        }
        let line = format!("stty cols 60; NO_COLOR=1 COLUMNS=20 {NETREC} -c {file} --host alpha status");
        assert_eq!(lab.host.run(["script", "-qec", &line, "/dev/null"]).replace("\r\n", "\n"), shown);
    });
}
