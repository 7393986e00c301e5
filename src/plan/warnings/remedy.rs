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
            let rule = |option: &str, device: &str| format!("{tool} -I {chain} {option} {} -j ACCEPT", quoted(device));
            each_way(forward, &several(devices, "+"), rule, "-i", "-o")
        }
        _ => {
            let of = format!("{} {} {}", table.family, quoted(&table.name), quoted(&chain.name));
            let rule = |what: &str, device: &str| {
                format!("nft insert rule {of} {what} {} accept", quoted(&format!("\"{device}\"")))
            };
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
        None => devices.iter().map(ToString::to_string).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The program and the command for the first chain of a table with these chains.
    fn help(table: &str, chains: &[&str], hook: Hook, devices: &[&str]) -> (Option<String>, String) {
        let (family, name) = table.split_once(' ').unwrap();
        let family = match family {
            "ip" => TableFamily::Ip,
            "ip6" => TableFamily::Ip6,
            "inet" => TableFamily::Inet,
            _ => TableFamily::Bridge,
        };
        let chain = |name: &&str| ForeignChain { name: (*name).to_owned(), base: None, rules: Vec::new() };
        let chains = chains.iter().map(chain).collect();
        let table = ForeignTable { family, name: name.to_owned(), chains, rules_known: false };
        let devices: Vec<InterfaceName> = devices.iter().map(|device| device.parse().unwrap()).collect();
        let program = Program::of(&table, hook);
        let command = command(program, &table, &table.chains[0], hook, &devices);
        (program.map(|program| program.to_string()), command)
    }

    #[test]
    fn each_program_has_its_command() {
        const TWO: [&str; 2] = ["nr-a", "nr-b"];
        let (forward, input) = (Hook::Forward, Hook::Input);
        for (table, chains, hook, devices, program, command) in [
            (
                "ip filter",
                &["FORWARD", "DOCKER-USER", "ufw-before-forward"][..],
                forward,
                &TWO[..1],
                Some("Docker"),
                "iptables -I DOCKER-USER -i nr-a -j ACCEPT && iptables -I DOCKER-USER -o nr-a -j ACCEPT",
            ),
            (
                "ip6 filter",
                &["FORWARD", "DOCKER"],
                forward,
                &TWO,
                Some("Docker"),
                "ip6tables -I FORWARD -i nr-+ -j ACCEPT && ip6tables -I FORWARD -o nr-+ -j ACCEPT",
            ),
            (
                "ip filter",
                &["INPUT", "DOCKER", "ufw-user-input"],
                input,
                &TWO[..1],
                Some("ufw"),
                "ufw allow in on nr-a",
            ),
            (
                "ip6 filter",
                &["FORWARD", "ufw6-user-forward"],
                forward,
                &TWO,
                Some("ufw"),
                "for i in nr-a nr-b; do ufw route allow in on $i && ufw route allow out on $i; done",
            ),
            (
                "ip filter",
                &["FORWARD", "LIBVIRT_FWI"],
                forward,
                &["nr-a", "lan"],
                Some("libvirt"),
                "iptables -I FORWARD -i nr-a -j ACCEPT && iptables -I FORWARD -o nr-a -j ACCEPT && \
                 iptables -I FORWARD -i lan -j ACCEPT && iptables -I FORWARD -o lan -j ACCEPT",
            ),
            (
                "ip libvirt_network",
                &["forward"],
                forward,
                &TWO,
                Some("libvirt"),
                "nft insert rule ip libvirt_network forward iifname '\"nr-*\"' accept && \
                 nft insert rule ip libvirt_network forward oifname '\"nr-*\"' accept",
            ),
            (
                "ip docker-bridges",
                &["filter-FORWARD"],
                forward,
                &TWO[..1],
                Some("Docker"),
                "nft insert rule ip docker-bridges filter-FORWARD iifname '\"nr-a\"' accept && \
                 nft insert rule ip docker-bridges filter-FORWARD oifname '\"nr-a\"' accept",
            ),
            (
                "inet firewalld",
                &["filter_INPUT"],
                input,
                &TWO,
                Some("firewalld"),
                "firewall-cmd --permanent --zone=trusted --add-interface=nr-a --add-interface=nr-b && \
                 firewall-cmd --reload",
            ),
            ("ip filter", &["INPUT"], input, &TWO[..1], Some("iptables"), "iptables -I INPUT -i nr-a -j ACCEPT"),
            (
                "inet filter",
                &["input"],
                input,
                &["it's;"],
                None,
                "nft insert rule inet filter input iifname '\"it'\\''s;\"' accept",
            ),
            (
                "bridge filter",
                &["FORWARD"],
                forward,
                &["ve-a1", "ve-b2"],
                None,
                "nft insert rule bridge filter FORWARD iifname '\"ve-*\"' accept",
            ),
        ] {
            let (found, text) = help(table, chains, hook, devices);
            assert_eq!((found.as_deref(), text.as_str()), (program, command), "{table} {chains:?}");
        }
    }
}
