//! `netrec watch --metrics`: what somebody who asks is told, to the letter.

#![allow(clippy::expect_used, clippy::panic)] // helpers of tests are tests, too

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::lab::{self, Lab, until};
use crate::watch::{FRONT, Watching, forwarding};

const AT: &str = "127.0.0.1:9464";

/// What is answered to a request.
fn answer(mut stream: impl Read + Write, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).expect("somebody listens");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text}"));
    (head.to_owned(), body.to_owned())
}

fn ask(lab: &Lab, request: &str) -> (String, String) {
    answer(lab.host.enter(|| TcpStream::connect(AT)).expect("somebody listens"), request)
}

/// The page, which is valid to the letter.
fn scrape(lab: &Lab) -> String {
    let (head, body) = ask(lab, "GET /metrics HTTP/1.1\r\nHost: netrec\r\nAccept: */*\r\n\r\n");
    let wanted = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close",
        body.len()
    );
    assert_eq!(head, wanted);
    series(&body);
    body
}

/// The series of a page in the text format 0.0.4, each line of which must be as the format and the naming rules have it:
/// first `HELP`, then `TYPE`, then the samples of one name together, each with other labels; counters end with `_total`,
/// and nothing else does.
fn series(page: &str) -> BTreeMap<String, String> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let (mut all, mut names) = (BTreeMap::new(), BTreeSet::new());
    let (mut current, mut typed) = ("", false);
    assert!(page.ends_with('\n'), "{page}");
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a name and a text");
            assert!(is_name(name) && name.starts_with("netrec_") && help.len() > 10, "{line}");
            assert!(names.insert(name), "{name} comes twice");
            (current, typed) = (name, false);
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, of) = of.split_once(' ').expect("a name and a type");
            assert!(name == current && !typed, "{line}");
            assert_eq!(of, if name.ends_with("_total") { "counter" } else { "gauge" });
            typed = true;
        } else {
            let (labelled, value) = line.rsplit_once(' ').expect("a sample");
            assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
            let (name, labels) = match labelled.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').expect("a brace")),
                None => (labelled, ""),
            };
            assert!(name == current && typed, "{line}");
            // None of what netrec says of itself needs an escape.
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (name, value) = label.split_once("=\"").expect("a label");
                let value = value.strip_suffix('"').expect("a quote");
                assert!(is_name(name) && !value.contains(['"', '\\']), "{line}");
            }
            assert_eq!(all.insert(labelled.to_owned(), value.to_owned()), None, "{line}");
        }
    }
    all
}

/// The value of one series.
fn value(lab: &Lab, name: &str) -> String {
    let page = scrape(lab);
    series(&page).remove(name).unwrap_or_else(|| panic!("no {name} in:\n{page}"))
}

#[test]
fn the_page_says_what_was_done_and_who_is_connected() {
    lab::in_lab(|lab| {
        forwarding(lab);
        let begun = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let file = lab.host.write("net/front.toml", FRONT);
        let watching = Watching::start(lab, &["-c", &file, "--metrics", AT]);
        watching.says_some_time(&format!("INFO applied {file}: "));
        let web = lab.container("web");
        let _listener = web.listen_tcp("web", "0.0.0.0:80");
        let connection = lab.world.connect("192.0.2.1:8080").expect("the published port");

        // How often there was nothing to do is a matter of how the kernel's news comes in.
        let page = scrape(lab);
        let mut unknown = BTreeMap::new();
        let lines: Vec<&str> = page
            .lines()
            .map(|line| match line.rsplit_once(' ') {
                Some((
                    name @ ("netrec_reconciles_total{result=\"unchanged\"}" | "netrec_last_success_timestamp_seconds"),
                    value,
                )) => {
                    unknown.insert(name, value.parse::<f64>().expect("a number"));
                    name
                }
                _ => line,
            })
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!((begun..=now).contains(&unknown["netrec_last_success_timestamp_seconds"]), "{unknown:?}");
        let wanted = include_str!("metrics.txt").replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert_eq!(lines.join("\n") + "\n", wanted, "\n{page}");

        drop(connection);
        // One that closes is tracked for a while.
        lab.host.sh("conntrack -D -p tcp --orig-port-dst 8080 2>/dev/null || true");
        let port = "netrec_port_connections{container=\"web\",address=\"*\",port=\"8080\",protocol=\"tcp\",container_port=\"80\"}";
        assert_eq!(value(lab, port), "0");

        lab.host.sh("ip -n web route del default");
        watching.says_some_time("INFO repaired route default in web");
        until("the repair is counted", || value(lab, "netrec_drift_repaired_total{kind=\"route\"}") == "1");
        assert_eq!(value(lab, "netrec_reconciles_total{result=\"changed\"}"), "2");

        lab.host.write("net/front.toml", "[networks.front]\n");
        watching.says_some_time("the last good file stays in force");
        assert_eq!(value(lab, "netrec_file_unusable"), "1");

        // A foreign device has the name of the second network's bridge.
        lab.host.sh("ip link add nr-back type ifb");
        lab.host.write("net/front.toml", &format!("{FRONT}[networks.back]\nsubnet = '10.21.0.0/24'\n"));
        watching.says_some_time("tried again in 1 s");
        let failures = || value(lab, "netrec_consecutive_failures").parse::<u64>().expect("a number");
        until("it fails again", || failures() > 1);
        assert_eq!(value(lab, "netrec_file_unusable"), "0");
        let pause: u64 = value(lab, "netrec_retry_seconds").parse().expect("a number");
        assert!(pause >= 2 && pause.is_power_of_two(), "{pause}");
        lab.host.sh("ip link del nr-back");
        watching.signal(Signal::SIGHUP);
        watching.says_some_time(&format!("INFO applied {file}: "));
        until("it goes well again", || failures() == 0);
        assert_eq!(value(lab, "netrec_retry_seconds"), "0");
        watching.stop();
    });
}

#[test]
fn who_asks_otherwise_is_told_how_and_who_says_nothing_keeps_nobody_waiting() {
    lab::in_lab(|lab| {
        forwarding(lab);
        let file = lab.host.write("net/front.toml", FRONT);
        let taken = lab.host.netrec(&["-c", &file, "watch", "--metrics", "9464"]);
        assert_eq!(taken.status, 64, "{}", taken.stderr);
        assert!(taken.stderr.contains("an address and a port, such as 127.0.0.1:9464 or [::1]:9464, or unix:/PATH"));

        // Whose the port is, is none's before the host has that address.
        let watching = Watching::start(lab, &["-c", &file, "--metrics", AT]);
        watching.says_some_time(&format!("INFO applied {file}: "));
        let taken = lab.host.netrec(&["-c", &file, "watch", "--metrics", AT]);
        let wanted = format!(
            "error: listen at {AT} for who asks for metrics: Address already in use (os error 98): another process listens \
             there\n"
        );
        assert_eq!((taken.status, taken.stderr), (1, wanted));

        let silent: Vec<TcpStream> =
            (0..5).map(|_| lab.host.enter(|| TcpStream::connect(AT)).expect("somebody listens")).collect();
        let page = scrape(lab);
        let (head, body) = ask(lab, "HEAD /metrics HTTP/1.0\r\n\r\n");
        assert_eq!(body, "");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
        for (request, status, words) in [
            ("GET / HTTP/1.1\r\n\r\n", "404 Not Found", "what there is: /metrics\n"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed", "GET and HEAD alone\n"),
            ("nonsense\r\n\r\n", "400 Bad Request", "no HTTP\n"),
        ] {
            let (head, body) = ask(lab, request);
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
            assert_eq!(body, words);
        }
        drop(silent);
        watching.stop();

        // An address that comes later, and a socket that a process left which died.
        let watching = Watching::start(lab, &["-c", &file, "--metrics", "198.51.100.1:9464"]);
        until("it is up", || lab.host.try_run(["sh", "-c", "ss -ltn | grep -q 198.51.100.1:9464"]).status == 0);
        lab.host.sh("ip address add 198.51.100.1/32 dev lo");
        assert_eq!(lab.host.http_get("198.51.100.1:9464", "/metrics").expect("an answer").0, 200);
        drop(watching);
        let socket = "/run/lab/new/metrics";
        let ask =
            || lab.host.enter(|| UnixStream::connect(lab.host.path("run/lab/new/metrics"))).expect("somebody listens");
        for _ in 0..2 {
            let watching = Watching::start(lab, &["-c", &file, "--metrics", &format!("unix:{socket}")]);
            until("it is up", || {
                lab.host.try_run(["sh", "-c", &format!("ss -lxH src {socket} | grep -q .")]).status == 0
            });
            let (_, there) = answer(ask(), "GET /metrics HTTP/1.1\r\n\r\n");
            assert_eq!(series(&there).keys().next(), series(&page).keys().next());
            assert_eq!(lab.host.sh(&format!("stat -c %F {socket}")), "socket\n");
            // Killed.
            drop(watching);
        }
    });
}

#[test]
fn nothing_wakes_it_while_nobody_asks() {
    lab::in_lab(|lab| {
        forwarding(lab);
        let file = lab.host.write("net/front.toml", FRONT);
        let watching = Watching::start(lab, &["-c", &file, "--metrics", AT]);
        watching.says_some_time(&format!("INFO applied {file}: "));
        scrape(lab);
        // What its own changes set off in the kernel goes on for a while.
        until("it sleeps for two seconds", || {
            let before = watching.switches();
            thread::sleep(Duration::from_secs(2));
            watching.switches() == before
        });
        watching.stop();
    });
}
