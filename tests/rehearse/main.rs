//! `netrec rehearse`: what it says of right and of wrong files, as an ordinary user.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests too

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// `nobody`
const NOBODY: u32 = 65534;

/// A copy of the program that anybody may run: the folder of the build may be closed to others.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("netrec-rehearse-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let copy = folder.join("netrec");
        fs::copy(env!("CARGO_BIN_EXE_netrec"), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    })
}

/// Rehearses a text, never as root.
fn rehearse(toml: &str, env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program());
    command.args(["-c", "-", "rehearse", "--json"]).envs(env.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), toml.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The rows that failed.
fn failures(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let json: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let rows = json["rows"].as_array().unwrap();
    let failed: Vec<String> = rows
        .iter()
        .filter(|row| row["verdict"] == "failed")
        .map(|row| row["what"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(json["ok"], failed.is_empty());
    assert_eq!(output.status.code(), Some(i32::from(!failed.is_empty())));
    failed
}

#[test]
fn every_example_is_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut tried = 0;
    for file in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if file.extension().is_some_and(|e| e == "toml") {
            let start = Instant::now();
            let text = fs::read_to_string(&file).unwrap();
            assert_eq!(failures(&rehearse(&text, &[])), [""; 0], "{}", file.display());
            assert!(text.contains("expect"), "{} expects nothing", file.display());
            // Three seconds on an idle machine; the limit here only tells a hang.
            assert!(start.elapsed() < Duration::from_mins(1), "{}: {:?}", file.display(), start.elapsed());
            tried += 1;
        }
    }
    assert!(tried >= 3, "only {tried} examples");
}

/// A right file; every wrong one is made from it by one change.
const RIGHT: &str = r#"
expect = [
  "world -> host:8080",
  "world -> host:5353/udp",
  "world -/> host:9000",
  "host -> host:9000",
  "world -/> web:81",
  "world -/> web",
  "web -> db:5432",
  "web -> db",
  "cache -/> db:5432",
  "cache -> host:8080",
  "web -> host:8080",
  "db -> world:443",
  "host -> cache:6379",
]

[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[networks.back]
subnet = "10.21.0.0/24"

[containers.web]
networks = ["front", "back"]
ports    = ["8080:80", "5353:53/udp", "127.0.0.1:9000:90"]

[containers.db]
networks.back = { address = "10.21.0.10" }

[containers.cache]
networks = ["front"]
"#;

/// A change, and the lines that fail for it.
const WRONG: &[(&str, &str, &[&str])] = &[
    (r#""8080:80", "#, "", &["world -> host:8080", "cache -> host:8080", "web -> host:8080"]),
    (r#""8080:80""#, r#""8081:80""#, &["world -> host:8080", "cache -> host:8080", "web -> host:8080"]),
    ("5353:53/udp\"", "5353:53/tcp\"", &["world -> host:5353/udp"]),
    ("5353:53/udp\"", "5354:53/udp\"", &["world -> host:5353/udp"]),
    ("127.0.0.1:9000:90", "9000:90", &["world -/> host:9000"]),
    ("127.0.0.1:9000:90", "0.0.0.0:9000:90", &["world -/> host:9000"]),
    (r#"["front", "back"]"#, r#"["front"]"#, &["web -> db:5432", "web -> db"]),
    (r#"networks = ["front"]"#, r#"networks = ["front", "back"]"#, &["cache -/> db:5432"]),
    ("networks.back = { address", "networks.front = {}\nnetworks.back = { address", &["cache -/> db:5432"]),
    ("world -/> web:81", "world -> web:81", &["world -> web:81"]),
    ("world -/> web\"", "world -> web\"", &["world -> web"]),
    ("db -> world:443", "db -/> world:443", &["db -/> world:443"]),
    ("host -> cache:6379", "host -/> cache:6379", &["host -/> cache:6379"]),
    ("subnet = \"10.21.0.0/24\"", "subnet = \"10.21.0.0/24\"\ngateway = false", &["db -> world:443"]),
    ("host -> host:9000", "host -> host:9000/udp", &["host -> host:9000/udp"]),
    ("world -> host:8080", "world -/> host:8080", &["world -/> host:8080"]),
    ("8080:80", "0.0.0.0:8080:80", &[]),
];

#[test]
fn in_wrong_files_exactly_the_right_lines_fail() {
    assert_eq!(failures(&rehearse(RIGHT, &[])), [""; 0]);
    let mut wrong = Vec::new();
    for (from, to, lines) in WRONG {
        assert!(RIGHT.contains(from), "{from}");
        let found = failures(&rehearse(&RIGHT.replacen(from, to, 1), &[]));
        if found != *lines {
            wrong.push(format!("{from} as {to}: {found:?}, not {lines:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_of_the_machine_is_touched() {
    let look = || {
        let of = |program: &str, args: &[&str]| Command::new(program).args(args).output().map(|o| o.stdout).unwrap();
        (of("ip", &["-o", "link"]), of("ip", &["-o", "route"]), fs::read_dir("/run/netns").map(Iterator::count).ok())
    };
    let before = look();
    assert_eq!(failures(&rehearse(RIGHT, &[])), [""; 0]);
    assert_eq!(look(), before);
}

/// What goes from the desired state, and lines that must fail for it.
#[cfg(feature = "fault-injection")]
const BROKEN: &[(&str, &[&str])] = &[
    ("element port4-any { tcp . 8080 }", &["world -> host:8080", "cache -> host:8080", "web -> host:8080"]),
    ("element port6-any { udp . 5353 }", &["world -> host:5353/udp"]),
    ("element port4 { 127.0.0.1 . tcp . 9000 }", &["host -> host:9000"]),
    ("chain forward-to.front 2", &["world -> host:8080", "world -> host:5353/udp"]),
    ("chain forward-to.front 3", &["world -/> web:81", "world -/> web"]),
    ("chain forward-to.back 3", &["cache -/> db:5432"]),
    ("route default in web", &["world -> host:8080", "world -> host:5353/udp"]),
    ("route default in db", &["db -> world:443"]),
    ("element forward-to { \"nr-back\" }", &["cache -/> db:5432"]),
    ("chain prerouting 1", &["world -> host:8080", "world -> host:5353/udp"]),
    ("chain output 1", &["host -> host:9000"]),
    ("address 10.21.0.10/24 dev eth0 in db", &["web -> db:5432", "web -> db"]),
    ("chain nat-to.front 1", &["host -> host:9000"]),
    ("chain postrouting 2", &["db -> world:443"]),
];

#[cfg(feature = "fault-injection")]
#[test]
fn a_broken_desired_state_is_noticed() {
    let mut wrong = Vec::new();
    for (gone, lines) in BROKEN {
        let found = failures(&rehearse(RIGHT, &[("NETREC_MUTATE", gone)]));
        if lines.iter().any(|line| !found.iter().any(|f| f == line)) && !found.iter().any(|f| f == "apply") {
            wrong.push(format!("without {gone}: {found:?}, not {lines:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn fifty_containers_and_a_hundred_lines_take_no_longer_than_a_few() {
    let mut file = String::from("expect = [\n");
    for c in 0..50 {
        file += &format!("\"world -> host:{}\", \"world -/> c{c}:81\",\n", 8000 + c);
    }
    file += "]\n[networks.n]\nsubnet = \"10.40.0.0/24\"\n";
    for c in 0..50 {
        file += &format!("[containers.c{c}]\nnetworks = [\"n\"]\nports = [\"{}:80\"]\n", 8000 + c);
    }
    let start = Instant::now();
    assert_eq!(failures(&rehearse(&file, &[])), [""; 0]);
    // Ten seconds on an idle machine; the limit here only tells a line after the other (fifty silences) from all at once.
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}
