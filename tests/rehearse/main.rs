//! `netrec rehearse`: what it says of right and of wrong files, as an ordinary user.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests too

#[path = "../lab/mod.rs"]
mod lab;

mod drivers;
mod ends;
mod hosts;
mod markdown;
mod result;
mod stand_ins;
mod trace;
mod user_namespaces;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// `nobody`
const NOBODY: u32 = 65534;

/// The quick start of the README, which has a line that takes its time to hold.
const QUICKSTART: &str = include_str!("../../examples/quickstart.toml");

/// A folder of its own that goes with the test, however that ends.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    /// An empty one that anybody may use.
    fn new() -> Self {
        // Not named by the process, whose number in a sandbox others have too.
        let path = nix::unistd::mkdtemp(&std::env::temp_dir().join("netrec-rehearse-XXXXXX")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Somebody who is not root, and the program where he may run it.
#[derive(Debug)]
struct Ordinary {
    program: PathBuf,
    /// Of the copy, where the folder of the build is closed to others.
    _folder: Option<Folder>,
}

impl Ordinary {
    fn new() -> Self {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_netrec"));
        let mut this = Self { program: built, _folder: None };
        let tried = this.command().arg("--version").stdout(Stdio::null()).status();
        if !tried.is_ok_and(|status| status.success()) {
            let folder = Folder::new();
            let copy = folder.0.join("netrec");
            fs::copy(&this.program, &copy).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
            this = Self { program: copy, _folder: Some(folder) };
        }
        this
    }

    /// The program, to be run by him.
    fn command(&self) -> Command {
        Self::runs(Command::new(&self.program))
    }

    /// Has him run something. In a user namespace that knows nobody but root it is root there, who is nobody outside.
    fn runs(mut command: Command) -> Command {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap();
        let numbers: Vec<u32> = map.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let known = numbers.chunks(3).any(|range| (range[0]..range[0].saturating_add(range[2])).contains(&NOBODY));
        if nix::unistd::geteuid().is_root() && known {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir("/");
        command
    }

    /// Rehearses a text.
    fn rehearse(&self, toml: &str, env: &[(&str, &str)], args: &[&str]) -> Output {
        let mut command = self.command();
        command.args(["-c", "-", "rehearse"]).args(args).envs(env.iter().copied());
        let output = answer(command, toml);
        if args.contains(&"--json") && !output.stdout.is_empty() {
            lab::documents::check(&String::from_utf8_lossy(&output.stdout), false);
        }
        output
    }
}

/// Runs a command with a text as its input.
fn answer(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let written = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    // One that ends without having read all says why.
    assert!(written.is_ok() || !output.status.success(), "{written:?}");
    output
}

/// Rehearses a text, never as root.
fn rehearse(toml: &str, env: &[(&str, &str)]) -> Output {
    Ordinary::new().rehearse(toml, env, &["--json"])
}

/// The result's rows.
fn rows(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    let json: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    json["rows"].as_array().unwrap().clone()
}

/// A text in which the changes of a plan are not counted: some depend on the machine (`br_netfilter`).
fn uncounted(text: &str) -> String {
    let mut out = String::new();
    for piece in text.split_inclusive(" changes") {
        let head = piece.strip_suffix(" changes").map(|head| head.trim_end_matches(|c: char| c.is_ascii_digit()));
        match head {
            Some(head) if head.len() + " changes".len() < piece.len() => out += &format!("{head}N changes"),
            _ => out += piece,
        }
    }
    out
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

/// How long something takes; done again where that is too long, since others may have the processors meanwhile.
fn fastest(limit: Duration, mut work: impl FnMut()) -> Duration {
    let mut took = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        work();
        took = took.min(start.elapsed());
        if took < limit {
            break;
        }
    }
    took
}

#[test]
fn every_example_is_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut tried = 0;
    for file in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if file.extension().is_some_and(|e| e == "toml") {
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.contains("expect"), "{} expects nothing", file.display());
            let took = fastest(Duration::from_secs(3), || {
                assert_eq!(failures(&rehearse(&text, &[])), [""; 0], "{}", file.display());
            });
            assert!(took < Duration::from_secs(3), "{}: {took:?}", file.display());
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
    fail_exactly(RIGHT, WRONG);
}

/// The same for an example with networks of every mode.
const WRONG_POLICIES: &[(&str, &str, &[&str])] = &[
    ("icc    = false", "icc    = true", &["red -/> blue:80", "red -/> blue"]),
    ("mode   = \"routed\"", "mode   = \"nat\"", &["world -> [fd41::10]:443", "world -> fd41::10"]),
    ("443:443", "80:443", &[]),
    ("443:443", "443:22", &["world -> [fd41::10]:443", "world -/> [fd41::10]:22"]),
    ("internal = true", "internal = false", &["ledger -/> world:443", "ledger -/> host:8081"]),
    ("internal = true", "mode = \"routed\"", &["ledger -/> world:443", "ledger -/> host:8081"]),
    ("internal = true", "mode = \"isolated\"", &["ledger -> 10.42.0.1", "host -> vault:8200"]),
    ("mode   = \"isolated\"", "internal = true", &["host -/> left:7000"]),
    ("mode   = \"isolated\"", "icc = true", &["host -/> left:7000", "left -/> world:443"]),
    ("allow = [\"192.0.2.0/24\"]", "allow = [\"0.0.0.0/0\"]", &["world -/> host:9000"]),
    ("30000-30009:30000-30009", "30000-30008:30000-30008", &["world -> host:30009/udp"]),
    ("30000-30009:30000-30009", "30000-30010:30000-30010", &["world -/> host:30010/udp"]),
    ("30000-30009:30000-30009", "30001-30009:30001-30009", &["world -> host:30000/udp"]),
    ("subnet = \"10.40.0.0/24\"", "subnet = \"10.40.0.0/24\"\ntrusted = [\"uplink\"]", &[]),
];

#[test]
fn in_wrong_policies_exactly_the_right_lines_fail() {
    fail_exactly(include_str!("../../examples/policies.toml"), WRONG_POLICIES);
}

fn fail_exactly(right: &str, changes: &[(&str, &str, &[&str])]) {
    let mut wrong = Vec::new();
    for (from, to, lines) in changes {
        assert!(right.contains(from), "{from}");
        let found = failures(&rehearse(&right.replacen(from, to, 1), &[]));
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
    // Root, if that is who runs the tests, has no user namespace around it.
    let mut command = Command::new(env!("CARGO_BIN_EXE_netrec"));
    command.args(["-c", "-", "rehearse", "--json"]);
    assert_eq!(failures(&answer(command, RIGHT)), [""; 0]);
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
    let took = fastest(Duration::from_secs(10), || assert_eq!(failures(&rehearse(&file, &[])), [""; 0]));
    assert!(took < Duration::from_secs(10), "{took:?}");
}
