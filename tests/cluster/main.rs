//! Hosts that come and go, known from etcd: Debian's own etcd on a machine beside the hosts, and real packets between them.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests are tests too

#[path = "../lab/mod.rs"]
mod lab;

#[allow(dead_code)] // the tests of overlay networks have more of it
#[path = "../end_to_end/overlay/cluster.rs"]
mod hosts;

mod apply;
mod bed;
mod flannel;
mod follow;
mod lease;
mod many;
mod troubles;
