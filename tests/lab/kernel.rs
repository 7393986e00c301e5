//! What the kernel at hand can do, so that a test can say what it could not try.

use std::process::Command;

use super::Machine;
use super::probe::has_socket;

/// Whether the kernel has it: `sctp` (sockets), or a kind of device such as `vxlan`, `ipvlan`, `dummy`. In a sandbox.
pub fn has(feature: &str) -> bool {
    match feature {
        "sctp" => has_socket(132),
        "macvlan" | "ipvlan" => try_link(feature, &["link", "lo"]) || try_upper(feature),
        kind => try_link(kind, &[]),
    }
}

/// Says that a part of a test was not tried, and why.
pub fn not_tried(what: &str, why: &str) {
    println!("not tried: {what}: {why}");
}

fn try_link(kind: &str, more: &[&str]) -> bool {
    let machine = Machine::new("try");
    let extra: &[&str] = match kind {
        "vxlan" => &["id", "1", "dstport", "4789"],
        "vrf" => &["table", "10"],
        _ => &[],
    };
    let mut command = Command::new("ip");
    command.args(["link", "add", "try"]).args(more).args(["type", kind]).args(extra);
    machine.output(&mut command).status == 0
}

/// Kinds that stand on another device, which must be an Ethernet one.
fn try_upper(kind: &str) -> bool {
    let machine = Machine::new("try");
    machine.run(["ip", "link", "add", "under", "type", "bridge"]);
    machine.try_run(["ip", "link", "add", "try", "link", "under", "type", kind]).status == 0
}

/// Why a test that needs the machine's root and these programs cannot be tried here; none where it can.
pub fn obstacle(programs: &[&str]) -> Option<String> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !nix::unistd::geteuid().is_root() || map.split_whitespace().ne(["0", "0", "4294967295"]) {
        return Some("it takes root".into());
    }
    program_missing(programs)
}

/// Which of these programs are missing.
pub fn program_missing(programs: &[&str]) -> Option<String> {
    let found = |name: &str| Command::new("sh").args(["-c", &format!("command -v {name}")]).output();
    let lacks = |name: &&&str| !found(name).is_ok_and(|output| output.status.success());
    let missing: Vec<&str> = programs.iter().filter(lacks).copied().collect();
    (!missing.is_empty()).then(|| format!("{} missing (tests/setup.sh installs it)", missing.join(", ")))
}
