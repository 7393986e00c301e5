//! Whose a foreign firewall usually is, and the command that lets netrec's traffic through it.

use std::fmt;

use crate::state::firewall::Hook;
use crate::state::{ForeignChain, ForeignTable, InterfaceName, TableFamily};

/// A program that makes firewall tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Docker,
    Firewalld,
    Iptables,
    Libvirt,
    Ufw,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "Docker",
            Self::Firewalld => "firewalld",
            Self::Iptables => "iptables",
            Self::Libvirt => "libvirt",
            Self::Ufw => "ufw",
        })
    }
}

impl Program {
    /// Who usually makes such a table. Several programs share those of iptables; the one is named whose business the hook
    /// is, and whose rules come first.
    pub(super) fn of(table: &ForeignTable, hook: Hook) -> Option<Self> {
        let has = |start: &str| table.chains.iter().any(|chain| chain.name.starts_with(start));
        let forward = hook == Hook::Forward;
        match table.name.as_str() {
            "firewalld" | "firewalld_policy_drop" => Some(Self::Firewalld),
            "docker-bridges" => Some(Self::Docker),
            "libvirt_network" => Some(Self::Libvirt),
            _ if forward && has("DOCKER") => Some(Self::Docker),
            _ if has("ufw-") || has("ufw6-") => Some(Self::Ufw),
            _ if has("LIBVIRT_") => Some(Self::Libvirt),
            "filter" if iptables(table).is_some() => Some(Self::Iptables),
            _ => None,
        }
    }
}

/// The program for a table that iptables-nft has made.
fn iptables(table: &ForeignTable) -> Option<&'static str> {
    let made = table.name == "filter" && table.chains.iter().any(|c| ["FORWARD", "INPUT"].contains(&c.name.as_str()));
    match table.family {
        TableFamily::Ip if made => Some("iptables"),
        TableFamily::Ip6 if made => Some("ip6tables"),
        _ => None,
    }
}

/// A command for a shell that lets flows by these devices through.
pub(super) fn command(
    program: Option<Program>,
    table: &ForeignTable,
    chain: &ForeignChain,
    hook: Hook,
    devices: &[InterfaceName],
) -> String {
    let forward = hook == Hook::Forward;
    let plain: Vec<String> = devices.iter().map(|device| quoted(device.as_str())).collect();
    match program {
        Some(Program::Ufw) if forward => {
            for_each(&plain, |d| format!("ufw route allow in on {d} && ufw route allow out on {d}"))
        }
        Some(Program::Ufw) => for_each(&plain, |d| format!("ufw allow in on {d}")),
        Some(Program::Firewalld) => {
            let all: Vec<String> = plain.iter().map(|device| format!("--add-interface={device}")).collect();
            format!("firewall-cmd --permanent --zone=trusted {} && firewall-cmd --reload", all.join(" "))
        }
        Some(Program::Docker | Program::Libvirt | Program::Iptables) if let Some(tool) = iptables(table) => {
            let user = "DOCKER-USER";
            let has_user = forward && table.chains.iter().any(|chain| chain.name == user);
            let chain = if has_user { user } else { chain.name.as_str() };
            let rule = |option: &str, device: &str| format!("{tool} -I {chain} {option} {device} -j ACCEPT");
            each_way(forward, &several(devices, "+"), rule, "-i", "-o")
        }
        _ => {
            let of = format!("{} {} {}", table.family, quoted(&table.name), quoted(&chain.name));
            let rule = |what: &str, device: &str| format!("nft insert rule {of} {what} '\"{device}\"' accept");
            // Of a bridge's own hooks every frame comes by a port of a container's.
            let both = forward && table.family != TableFamily::Bridge;
            each_way(both, &several(devices, "*"), rule, "iifname", "oifname")
        }
    }
}

/// The devices' names, or one pattern for those that netrec has named by a rule, so that the next one needs no command.
fn several(devices: &[InterfaceName], ending: &str) -> Vec<String> {
    let all = |start: &str| devices.len() > 1 && devices.iter().all(|device| device.as_str().starts_with(start));
    match ["nr-", "ve-"].into_iter().find(|start| all(start)) {
        Some(start) => vec![format!("{start}{ending}")],
        None => devices.iter().map(|device| quoted(device.as_str())).collect(),
    }
}

/// A rule for each device, by which it comes and, where that counts, by which it leaves.
fn each_way(
    both: bool,
    devices: &[String],
    rule: impl Fn(&str, &str) -> String,
    incoming: &str,
    outgoing: &str,
) -> String {
    let ways: &[&str] = if both { &[incoming, outgoing] } else { &[incoming] };
    let rules: Vec<String> =
        devices.iter().flat_map(|device| ways.iter().map(|way| rule(way, device)).collect::<Vec<_>>()).collect();
    rules.join(" && ")
}

/// One command, or a loop.
fn for_each(devices: &[String], command: impl Fn(&str) -> String) -> String {
    match devices {
        [one] => command(one),
        many => format!("for i in {}; do {}; done", many.join(" "), command("$i")),
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+@".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}
