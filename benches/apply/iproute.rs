//! The same state by `ip -batch` and `nft -f`, as a competent administrator would script it: one process for all of the
//! host, one for each container.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use netrec::state::{Device, GROUP, Key, LinkKind, Netns, Object, PROTOCOL, State};

use super::shared::run;

const FOLDER: &str = "/run/script";

/// The files of the script.
pub(crate) struct Script;

impl Script {
    /// Writes the files; the firewall's is what `nft` lists now.
    pub(crate) fn write(desired: &State) -> Self {
        let inode = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let (mut names, mut host, mut sysctls) = (String::new(), String::new(), String::new());
        let (mut inside, mut inside_sysctls): (BTreeMap<&Netns, String>, BTreeMap<&Netns, String>) = Default::default();
        for (key, entry) in desired {
            let mark = format!("netrec {}", entry.owner().unwrap());
            match (key, &entry.object) {
                (Key::Netns { netns }, _) => {
                    let _ = writeln!(names, "netns add {netns}");
                    let lo = format!("link set dev lo group {GROUP} alias \"{mark} @{inode}\" up\n");
                    *inside.entry(netns).or_default() += &lo;
                }
                (Key::Link { name, .. }, Object::Link(link)) => {
                    let described = |d: &Device| {
                        format!("address {} mtu {} numtxqueues 1 numrxqueues 1 group {GROUP}", d.mac, d.mtu)
                    };
                    let _ = write!(host, "link add name {name} {}", described(&link.device));
                    if let Some(master) = link.master {
                        let _ = write!(host, " master {master}");
                    }
                    if let LinkKind::Veth { peer } = &link.kind {
                        let Device { mac, mtu, .. } = &peer.device;
                        let _ = writeln!(
                            host,
                            " type veth peer name {} netns {} address {mac} mtu {mtu} numtxqueues 1 numrxqueues 1",
                            peer.name, peer.netns
                        );
                        let text = inside.entry(&peer.netns).or_default();
                        let _ = writeln!(
                            text,
                            "link set dev {} group {GROUP} alias \"{mark} @{inode}\" addrgenmode none",
                            peer.name
                        );
                        let _ = writeln!(text, "link set dev {} up", peer.name);
                    } else {
                        host += " type bridge\n";
                    }
                    let mode = if link.device.link_local { "eui64" } else { "none" };
                    let _ = writeln!(host, "link set dev {name} alias \"{mark}\" addrgenmode {mode}");
                    if link.port.is_some_and(|port| port.hairpin) {
                        let _ = writeln!(host, "link set dev {name} type bridge_slave hairpin on");
                    }
                    let _ = writeln!(host, "link set dev {name} up");
                }
                (Key::Address { netns, link, ip, .. }, _) => {
                    let line = format!("addr add {ip} dev {link}\n");
                    *(if netns.is_host() { &mut host } else { inside.entry(netns).or_default() }) += &line;
                }
                (Key::Route { netns, to, .. }, Object::Route(route)) => {
                    let line = format!("route add {to} via {} proto {PROTOCOL}\n", route.via.unwrap());
                    *inside.entry(netns).or_default() += &line;
                }
                (Key::Sysctl { netns, path }, Object::Sysctl(sysctl)) => {
                    let text = if netns.is_host() { &mut sysctls } else { inside_sysctls.entry(netns).or_default() };
                    let _ = writeln!(text, "echo {} > /proc/sys/{path}", sysctl.value);
                }
                _ => {}
            }
        }
        for folder in ["inside", "batches"] {
            fs::create_dir_all(format!("{FOLDER}/{folder}")).unwrap();
        }
        for (file, text) in [("names", names), ("host", host), ("sysctls", sysctls)] {
            fs::write(format!("{FOLDER}/{file}"), text).unwrap();
        }
        for (netns, text) in inside {
            fs::write(format!("{FOLDER}/batches/{netns}"), text).unwrap();
            let sysctls = inside_sysctls.remove(netns).unwrap_or_default();
            fs::write(format!("{FOLDER}/inside/{netns}"), format!("ip -batch batches/{netns}\n{sysctls}")).unwrap();
        }
        run(Command::new("sh").args(["-ec", &format!("nft list table inet netrec > {FOLDER}/firewall")]));
        Self
    }

    #[allow(clippy::unused_self)] // there is nothing to run before it is written
    pub(crate) fn run(&self) {
        run(Command::new("sh").current_dir(FOLDER).args([
            "-ec",
            "ip -batch names
             ip -batch host
             nft -f firewall
             . ./sysctls
             for file in inside/*; do nsenter --net=/run/netns/${file##*/} sh -e $file; done",
        ]));
    }
}
