//! No text makes the parser panic: good and bad files with bytes changed, removed, doubled and mixed, always the same
//! ones.

#![allow(clippy::unwrap_used, clippy::format_push_string)] // a test may

use std::fs;
use std::path::Path;

use netrec::config::{self, Source, Sources};

const INPUTS: usize = 20_000;

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (bound.max(1) as u64)).unwrap()
    }
}

/// All small files below a folder.
fn collect(folder: &Path, texts: &mut Vec<Vec<u8>>) {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, texts);
        } else if path.extension().is_some_and(|e| e == "toml") {
            let text = fs::read(&path).unwrap();
            if text.len() < 1500 {
                texts.push(text);
            }
        }
    }
}

const GOOD: &str = r#"
expect = ["world -> host:8080", "web -> [fd20::5]:80/udp", "web -/> 10.9.0.1", "host->web"]
[settings]
lock_timeout = "5s"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]
gateway = ["10.20.0.254"]
range = "10.20.0.128/25"
reserve = ["10.20.0.9"]
mtu = 1400
bridge = "br0"
[containers.web]
networks.front = { address = ["10.20.0.5", "fd20::5"], mac = "02:00:00:00:00:01", interface = "wan" }
ports = ["8080:80", "[fd00::1]:80:80/udp", { host = 1, container = "2", address = ["127.0.0.1"], protocol = "sctp" }]
sysctl = { "net.ipv4.ip_forward" = 1, net.core.somaxconn = "1" }
netns = "/run/netns/é"
"#;

/// Pieces that mean something to the parser or to the painter.
const PIECES: [&str; 27] = [
    "\"",
    "'''",
    "\"\"\"",
    "[",
    "]",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "#",
    "\\u0000",
    "é",
    "東",
    "\u{202e}",
    "\u{feff}",
    "/128",
    ":",
    "99999999999999999999",
    "[[x]]\n",
    "->",
    "-/>",
    "/",
];

fn mutate(random: &mut Random, texts: &[Vec<u8>]) -> String {
    let mut text = texts[random.below(texts.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(text.len() + 1);
        let end = (at + random.below(12)).min(text.len());
        match random.below(5) {
            0 => drop(text.drain(at..end)),
            1 => {
                let piece = PIECES[random.below(PIECES.len())];
                text.splice(at..at, piece.bytes());
            }
            2 => {
                if let Some(byte) = text.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            3 => {
                let piece = text[at..end].to_vec();
                let to = random.below(text.len());
                text.splice(to..to, piece);
            }
            _ => {
                let other = &texts[random.below(texts.len())];
                let from = random.below(other.len());
                text.truncate(at);
                text.extend(&other[from..]);
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn no_text_makes_the_parser_panic() {
    let mut texts = vec![GOOD.as_bytes().to_vec()];
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad"), &mut texts);
    // Good ones often enough to get behind the parser.
    texts.extend(std::iter::repeat_n(GOOD.as_bytes().to_vec(), texts.len() / 2));
    let mut random = Random(0x6e65_7472_6563);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..INPUTS {
        let sources: Vec<_> = (0..=random.below(5) / 4)
            .map(|i| Source { name: format!("{i}.toml"), text: mutate(&mut random, &texts) })
            .collect();
        match config::parse(Sources(sources)) {
            Ok(config) => {
                config.places();
                good += 1;
            }
            Err(invalid) => {
                let message = invalid.to_string();
                assert!(!invalid.problems.is_empty() && message.starts_with("error: "), "{message}");
                bad += 1;
            }
        }
    }
    assert!(good > 100 && bad > 1000, "{good} good and {bad} bad files are too few to prove anything");
}
