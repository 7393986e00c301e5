//! A part of a file of several hosts: each kind of owner can be made alone, also what is there for other hosts.

use std::collections::BTreeSet;

use super::{file, in_cluster};
use crate::lab::Machine;

/// Applies a part of the file twice, and returns for whom the first time changed something.
fn apply(host: &Machine, file: &str, target: &str) -> Vec<String> {
    let args = ["apply", "-y", "--json", "--target", target];
    let run = || {
        let output = host.try_netrec(file, &args);
        assert_eq!(output.status, 0, "{target}: {}{}", output.stderr, output.stdout);
        serde_json::from_str::<serde_json::Value>(&output.stdout).unwrap()
    };
    let (first, second) = (run(), run());
    assert_eq!((&second["changed"], &second["left_out"]), (&false.into(), &first["left_out"]), "{target}");
    let owners: BTreeSet<&str> =
        first["actions"].as_array().unwrap().iter().map(|action| action["owner"].as_str().unwrap()).collect();
    owners.into_iter().map(str::to_owned).collect()
}

#[test]
fn hosts_and_containers_of_other_hosts_bring_the_network_along() {
    in_cluster(2, |cluster| {
        let host = &cluster.hosts[0];
        for topology in ["switched", "routed", "direct"] {
            let file = file(topology, 2, 1);
            for (target, made) in [
                ("networks.wide", "netrec networks.wide"),
                ("hosts.a", "netrec networks.wide"),
                ("hosts.b", "hosts.b netrec networks.wide"),
                ("hosts", "hosts.b netrec networks.wide"),
                ("containers.a1", "containers.a1 containers.a1.networks.wide netrec networks.wide"),
                ("containers.b1", "containers.b1.networks.wide netrec networks.wide"),
            ] {
                let made = match (topology, target) {
                    // In pieces, nothing is there for single containers of other hosts.
                    ("routed" | "direct", "containers.b1") => "netrec networks.wide",
                    _ => made,
                };
                assert_eq!(apply(host, &file, target).join(" "), made, "{topology}");
                host.destroy(&file);
            }
            // Piece by piece it becomes the whole.
            for target in ["containers.a1", "hosts.b", "containers.b1"] {
                apply(host, &file, target);
            }
            assert_eq!(host.plan(&file).actions(), [""; 0], "{topology}");
            host.destroy(&file);
        }
    });
}
