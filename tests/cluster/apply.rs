//! What a single command does about a cluster.

use std::collections::BTreeSet;

use crate::bed::{Bed, in_bed, routes};
use crate::lab::assert_same;

#[test]
fn hosts_that_come_at_once_get_pieces_and_reach_each_other() {
    in_bed(5, |bed| {
        bed.apply_on_all();
        // What all agree on was written by the first, from its file.
        let config = bed.etcd.ctl(&["get", "--print-value-only", "/coreos.com/network/config"]);
        let agreed = r#"{"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan","VNI":1,"Port":8472}}"#
            .to_owned()
            + "\n";
        assert_eq!(config, agreed);
        let members = bed.etcd.members();
        assert_eq!(members.len(), 5, "{members:?}");
        assert!(!members.contains_key("10.5.0.0-24"), "flannel leaves out the first");
        let addresses: BTreeSet<&str> = members.values().map(|value| value.split('"').nth(3).unwrap()).collect();
        assert_eq!(
            addresses,
            (1..=5).map(|n| format!("192.0.2.{n}")).collect::<Vec<_>>().iter().map(|s| &s[..]).collect()
        );
        // Who came early does not know of who came late until it looks again.
        bed.apply_on_all();
        bed.all_pairs();
        assert_eq!(bed.etcd.members(), members, "nothing was written anew");
        for host in &bed.hosts {
            assert_eq!(host.plan(&Bed::file(&format!("{}1", host.name()))).actions(), [""; 0]);
            assert_eq!(routes(host).len(), 4);
        }
        // One whose lease is gone: exactly what led to it goes.
        let key = bed.etcd.key_of("192.0.2.5");
        bed.etcd.ctl(&["del", &format!("/coreos.com/network/subnets/{key}")]);
        let (piece, router) = (key.replace('-', "/"), key.replace(".0-24", ".1"));
        let mac = members[&key].split("VtepMAC\":\"").nth(1).unwrap().split('"').next().unwrap();
        let gone = [
            "delete element peer4 { 192.0.2.5 }".to_owned(),
            format!("delete fdb {mac} dev vx-wide"),
            format!("delete neighbour {router} dev vx-wide"),
            format!("delete route {piece}"),
        ];
        assert_same("what goes", &gone, &bed.hosts[0].plan(&Bed::file("a1")).actions());
    });
}
