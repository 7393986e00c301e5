//! Overlay networks: containers of several hosts on one network, from one file.

#![allow(clippy::unwrap_used)] // what commands and netrec itself say

mod cluster;
mod drift;
mod features;
mod moves;
mod reach;
mod strangers;
mod targets;
mod transitions;

use self::cluster::{containers, hosts, in_cluster};

/// A network over all hosts, in a topology.
fn wide(topology: &str) -> String {
    let vni = if topology == "direct" { "" } else { "vni = 4100\n" };
    format!(
        "[networks.wide]\ndriver = \"overlay\"\ntopology = \"{topology}\"\n{vni}subnet = [\"10.30.0.0/16\", \"fd30::/48\"]\n"
    )
}

/// Hosts with containers on network `wide`.
fn file(topology: &str, count: usize, each: usize) -> String {
    format!("{}{}{}", hosts(count, false), wide(topology), containers(count, each).0)
}
