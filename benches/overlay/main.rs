//! What an overlay network carries beside one made by hand with `ip` and `bridge`, and what a file of a thousand hosts
//! costs each of them.
//!
//! Contenders take turns within each round, in network and mount namespaces of their own. What is shown are medians, of the
//! times and of the rounds' ratios: on a busy machine times swing, ratios less.
//!
//! ```text
//! cargo bench --bench overlay                                # as root
//! cargo bench --bench overlay -- --only path --rounds 31     # packets only
//! cargo bench --bench overlay -- --only scale --rounds 3     # the thousand hosts only
//! ```

// A program of its own that ends at the first thing that goes wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod lab;
mod path;
mod scale;
#[path = "../shared/mod.rs"]
mod shared;
#[path = "../shared/traffic.rs"]
#[allow(dead_code)] // connections are set up elsewhere
mod traffic;
#[path = "../apply/wire.rs"]
#[allow(dead_code)] // here no namespace is named by a descriptor, and no firewall is read
mod wire;

use std::collections::BTreeMap;

use shared::median;

/// Set where this program runs again inside of namespaces: what it does there.
const ROLE: &str = "NETREC_BENCH_ROLE";

/// Values by name, in the order of the rounds.
#[derive(Default)]
struct Values(BTreeMap<String, Vec<f64>>);

impl Values {
    /// Runs this program again in a role, and takes what it prints: a name and a value a line.
    fn add(&mut self, role: &str) {
        for (what, value) in lab::again(role) {
            self.0.entry(what).or_default().push(value);
        }
    }

    fn median(&self, what: &str) -> f64 {
        median(self.0[what].clone())
    }

    /// The median of the rounds' ratios.
    fn ratio(&self, what: &str, to: &str) -> f64 {
        shared::ratio(&self.0[what], &self.0[to])
    }
}

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        lab::enter();
        match role.split(' ').collect::<Vec<_>>()[..] {
            ["path", rounds, to_firewall] => path::play(rounds.parse().unwrap(), to_firewall),
            ["scale", hosts] => scale::play(hosts.parse().unwrap()),
            _ => panic!("no such role: {role}"),
        }
        return;
    }
    let (mut rounds, mut only) = (None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => rounds = words.next().and_then(|n| n.parse().ok()),
            "--only" => only = words.next(),
            "--bench" => {} // cargo says so
            other => panic!("unknown argument {other}"),
        }
    }
    assert!(nix::unistd::geteuid().is_root(), "only root can make namespaces");
    let wants = |part: &str| only.as_deref().is_none_or(|only| only == part);
    if wants("path") {
        path::report(rounds.unwrap_or(11));
    }
    if wants("scale") {
        scale::report(rounds.unwrap_or(5));
    }
}
