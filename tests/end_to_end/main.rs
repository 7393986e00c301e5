//! netrec against a real kernel, with real packets: what the file says is what the network does.

#![allow(
    clippy::expect_used,    // helpers of tests are tests too
    clippy::too_many_lines, // tables
)]

#[path = "../lab/mod.rs"]
mod lab;

mod accounting;
mod attachments;
mod changes;
mod commands;
mod confirm;
mod conflicts;
mod documents;
mod drift;
mod drivers;
mod flows;
mod hosts;
mod idempotence;
mod metrics;
mod obstacles;
mod others;
mod overlay;
mod peers;
mod plans;
mod ports;
mod reload;
mod removal;
mod safety;
mod shaping;
#[cfg(feature = "fault-injection")]
mod signals;
mod sources;
mod status;
mod surroundings;
mod targets;
mod traffic;
mod watch;

/// Two networks of both families, three containers with addresses of their own choice, and ports of most kinds.
const SHOP: &str = r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[networks.back]
subnet = ["10.21.0.0/24", "fd21::/64"]

[containers.web]
networks.front = { address = ["10.20.0.10", "fd20::10"] }
ports = ["8080:80", "8053:53/udp", "8036:36/sctp"]

[containers.api]
networks.front = { address = ["10.20.0.11", "fd20::11"] }
ports = ["127.0.0.1:8082:82"]

[containers.db]
networks.back = { address = ["10.21.0.10", "fd21::10"] }
ports = ["5432:5432"]
"#;
