//! A laboratory of network namespaces for tests that want real packets: a `host` for netrec to work on, a `world` beside
//! it, and containers. It works as root and without (then in a user namespace), many at a time, and nothing of it outlives
//! the test, however that ends.
//!
//! ```ignore
//! #[test]
//! fn a_published_port_answers() {
//!     lab::in_lab(|lab| {
//!         lab.host.apply(FILE);
//!         let _web = lab.container("web").listen_tcp("web", "0.0.0.0:80");
//!         lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
//!     });
//! }
//! ```
//!
//! The body of a test runs in a *sandbox*: the test binary calls itself anew with only that test, as init of a pid
//! namespace, in its own mount, network and (without root) user namespace. There it is root, every thread may enter
//! every namespace, and its death is the death of all that it started.
#![allow(
    dead_code,                  // every test binary uses its own part of the lab
    unused_imports,
    unsafe_code,                // setns after fork, raw sockets
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::must_use_candidate,
    clippy::missing_panics_doc,
    clippy::wildcard_imports,
)]

pub mod documents;
mod events;
mod expect;
pub mod kernel;
mod netrec;
mod probe;
mod router;
mod sandbox;
mod sctp;
mod snapshot;
mod space;
mod volatile;

use std::fmt::Write as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

pub use events::{Events, ruleset_generation};
pub use expect::expect;
pub use netrec::{Done, NETREC, Paused, Plan};
pub use probe::{Answer, Conn, Listener, NoAnswer, Reply, UdpFlow};
pub use sandbox::{run_test, sandbox};
pub use snapshot::Snapshot;
pub use space::{Machine, Output, Space};

/// A host and the world, joined by a veth pair, with addresses of both families; the host's default routes lead there.
///
/// The world routes `10.0.0.0/8` and `fd00::/8` to the host, so that a packet which does not arrive was stopped by a rule and
/// not for want of a route.
#[derive(Debug)]
pub struct Lab {
    /// The machine that netrec works on: `uplink` with `192.0.2.1`, `192.0.2.2`, `2001:db8::1` and `2001:db8::2`.
    pub host: Machine,
    /// What is outside of it: `w0` with `192.0.2.9` and `2001:db8::9`.
    pub world: Machine,
}

impl Lab {
    /// The host and its namespaces as they are when the kernel has come to rest.
    pub fn at_rest(&self) -> Snapshot {
        drop(self.host.settle());
        Snapshot::of_machine(&self.host)
    }

    /// A host and a world, joined. Only in a [`sandbox`].
    pub fn new() -> Self {
        let host = Machine::new("host");
        let world = Machine::new("world");
        host.link(&world, "uplink", "w0");
        // The kernel prefers IPv4's first address as a source, and IPv6's last.
        for net in ["192.0.2.1/24", "192.0.2.2/24", "2001:db8::2/64", "2001:db8::1/64"] {
            host.add_address("uplink", net);
        }
        for net in ["192.0.2.9/24", "2001:db8::9/64"] {
            world.add_address("w0", net);
        }
        host.run(["ip", "route", "add", "default", "via", "192.0.2.9"]);
        host.run(["ip", "-6", "route", "add", "default", "via", "2001:db8::9"]);
        world.run(["ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.1"]);
        world.run(["ip", "-6", "route", "add", "fd00::/8", "via", "2001:db8::1"]);
        Self { host, world }
    }

    /// The namespace `/run/netns/NAME` of the host.
    pub fn container(&self, name: &str) -> Space {
        self.host.named(name)
    }

    /// A namespace by the name that expectations use: `world`, `host`, or a container.
    pub fn space(&self, name: &str) -> Space {
        match name {
            "host" => (*self.host).clone(),
            "world" => (*self.world).clone(),
            container => self.container(container),
        }
    }
}

/// Runs a test's body in a sandbox with one lab. To be called from the test function itself.
pub fn in_lab<F: FnOnce(&Lab)>(body: F) {
    // The name of the test is taken from the type of its closure, so hand on that type.
    sandbox::run_test(std::any::type_name::<F>(), || body(&Lab::new()));
}

impl Machine {
    /// Joins two machines by a veth pair that is up at both ends.
    pub fn link(&self, other: &Machine, here: &str, there: &str) {
        // An `ip` of the sandbox's own pid namespace, since `netns PID` is looked up there.
        let (pid, far) = (self.holder().to_string(), other.holder().to_string());
        let add = ["link", "add", here, "netns", &pid, "type", "veth", "peer", "name", there, "netns", &far];
        let made = Command::new("ip").args(add).output().expect("ip (iproute2) is needed for the lab");
        assert!(made.status.success(), "ip {}: {}", add.join(" "), String::from_utf8_lossy(&made.stderr));
        for (machine, link) in [(self, here), (other, there)] {
            // Nobody else can have their link-local addresses, so they need not wait for that to be found out.
            machine.set_sysctl(&format!("net/ipv6/conf/{link}/accept_dad"), "0");
            // Nor is there a router to be looked for every few seconds.
            machine.set_sysctl(&format!("net/ipv6/conf/{link}/router_solicitations"), "0");
            machine.run(["ip", "link", "set", link, "up"]);
        }
    }

    /// Gives a device an address that can be used at once.
    pub fn add_address(&self, link: &str, net: &str) {
        let mut command = vec!["ip", "addr", "add", net, "dev", link];
        if net.contains(':') {
            command.push("nodad");
        }
        self.run(command);
    }
}

/// Waits until something is so, and fails when it is not so within half a minute. For what the kernel does not tell of.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(30), "not within half a minute: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Asserts that two lists hold the same lines, in whatever order.
pub fn assert_same<A: ToString, B: ToString>(what: &str, wanted: &[A], got: &[B]) {
    fn sorted<T: ToString>(list: &[T]) -> String {
        let mut lines: Vec<String> = list.iter().map(|l| l.to_string() + "\n").collect();
        lines.sort();
        lines.concat()
    }
    let wrong = difference(&sorted(wanted), &sorted(got));
    assert!(wrong.is_empty(), "{what}: expected (-) and got (+):\n{wrong}");
}

/// Compares two texts; the lines that differ, marked `-` and `+`. Empty when there are none.
pub fn difference(before: &str, after: &str) -> String {
    let mut text = String::new();
    for change in similar::TextDiff::from_lines(before, after).iter_all_changes() {
        let sign = match change.tag() {
            similar::ChangeTag::Equal => continue,
            similar::ChangeTag::Delete => '-',
            similar::ChangeTag::Insert => '+',
        };
        let _ = writeln!(text, "{sign} {}", change.value().trim_end());
    }
    text
}
