//! Plugins of Docker's as netrec's remote driver: the example plugin with real packets, call by call, and one that does all
//! that a plugin must not.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests are tests too

#[path = "../lab/mod.rs"]
mod lab;

mod hostile;
mod ipam;
mod life;
mod messages;
mod plugin;
mod scripted;
mod troubles;
mod watch;

/// Both families, and a route of the plugin's.
const SHOP: &str = r#"
[networks.wide]
driver = "remote"
plugin = "example"
subnet = ["10.50.0.0/24", "fd50::/64"]
options = { mtu = "1400", routes = "10.99.0.0/16 via 10.50.0.9" }

[containers.web]
networks.wide = { address = ["10.50.0.10", "fd50::10"], mac = "02:00:00:00:00:10", interface = "lan" }

[containers.db]
networks.wide = { address = ["10.50.0.11", "fd50::11"] }
"#;

/// Addresses of an IPAM plugin's choice, but for one.
const IPAM: &str = r#"
[networks.wide]
driver = "remote"
plugin = "example"
ipam = "example"
subnet = ["10.50.0.0/24", "fd50::/64"]
range = "10.50.0.128/25"

[containers.web]
networks.wide = { address = "10.50.0.9" }

[containers.db]
networks = ["wide"]
"#;
