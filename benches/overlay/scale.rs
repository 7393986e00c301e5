//! A file of many hosts with twenty containers each on one switched network, on one of the hosts: what netrec takes, and
//! what it takes to enter all that into the neighbour table and the two forwarding databases, by messages made beforehand
//! and by `bridge -batch` and `ip -batch`.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use netrec::config::{Source, Sources};
use netrec::desired::desired;
use netrec::kernel::{Backend, Linux};
use netrec::state::{Asked, InterfaceName, Key, Mac, Object, PROTOCOL, State};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteProtocol, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Values, lab, wire};

const SIZES: [u32; 3] = [250, 500, 1000];
const EACH: u32 = 20;
const FILE: &str = "/run/bench.toml";
const MOVED: &str = "/run/moved.toml";

/// Hosts `h0` and so on, of which this is the first.
fn file(hosts: u32) -> String {
    let mut text = String::new();
    for host in 0..hosts {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + host);
        let _ = writeln!(text, "[hosts.h{host}]\nid = {}\naddress = \"{address}\"", host + 1);
    }
    text.push_str("[networks.wide]\ndriver = \"overlay\"\nsubnet = \"10.30.0.0/16\"\nvni = 4100\n");
    for host in 0..hosts {
        for container in 0..EACH {
            let _ = writeln!(text, "[containers.h{host}-{container}]\nhost = \"h{host}\"\nnetworks = [\"wide\"]");
        }
    }
    text
}

fn netrec(command: &str, file: &str) -> f64 {
    let args: &[&str] = match command {
        "validate" => &["validate", "-c", file],
        "plan" => &["plan", "-c", file, "--host", "h0"],
        "apply" => &["apply", "-y", "-c", file, "--host", "h0"],
        _ => &["destroy", "-y"],
    };
    lab::timed(|| drop(lab::netrec(args)))
}

/// Whoever made the entries, netrec must find nothing to change.
fn check() {
    let text = lab::netrec(&["plan", "-c", FILE, "--host", "h0"]);
    assert!(text.starts_with("No changes."), "{}", &text[..text.len().min(4000)]);
}

/// Prints the milliseconds of everything, and the number of entries.
pub(crate) fn play(hosts: u32) {
    lab::sh(
        "ip link add eth0 type veth peer name eth1; ip link set eth0 up; ip link set eth1 up
             ip addr add 198.18.0.1/15 dev eth0",
    );
    let text = file(hosts);
    fs::write(FILE, &text).unwrap();
    let moved = "host = \"h1\"\nnetworks.wide = { address = \"10.30.250.250\" }";
    fs::write(MOVED, text.replacen("host = \"h1\"\nnetworks = [\"wide\"]", moved, 1)).unwrap();
    // The first finds cold caches.
    netrec("validate", FILE);
    let say = |what: &str, time: f64| lab::say(&format!("{hosts} {what}"), time);
    say("validate", netrec("validate", FILE));
    say("first plan", netrec("plan", FILE));
    say("apply", netrec("apply", FILE));
    let entries = Entries::of(&text);
    say("entries", f64::from(entries.count));
    for _ in 0..3 {
        say("plan", netrec("plan", FILE));
        say("bare dumps", lab::timed(|| entries.dump()));
    }
    say("change plan", netrec("plan", MOVED));
    say("change", netrec("apply", MOVED));
    netrec("apply", FILE);
    entries.remove();
    say("bare messages", lab::timed(|| entries.add()));
    check();
    entries.remove();
    let batch = "bridge -batch /run/bench.fdb; ip -batch /run/bench.neighbours";
    say("batch", lab::timed(|| lab::sh(batch)));
    check();
    say("destroy", netrec("destroy", FILE));
}

/// All that leads to other hosts, ready to be entered.
struct Entries {
    count: u32,
    add: Vec<Vec<u8>>,
    remove: Vec<Vec<u8>>,
    dumps: [Vec<u8>; 2],
}

impl Entries {
    /// Those of a file that has been applied; writes the batches too.
    fn of(text: &str) -> Self {
        let state = desired_state(text);
        let index = |name: InterfaceName| nix::net::if_::if_nametoindex(name.as_str()).unwrap();
        let (mut databases, mut neighbours) = (String::new(), String::new());
        let dumps = dumps(index("nr-wide".parse().unwrap()));
        let mut entries = Self { count: 0, add: Vec::new(), remove: Vec::new(), dumps };
        for (key, entry) in &state {
            let mut add = match (key, &entry.object) {
                (Key::Neighbour { link, ip, .. }, Object::Neighbour(neighbour)) => {
                    let _ = writeln!(neighbours, "neigh add {ip} lladdr {} dev {link} nud permanent", neighbour.mac);
                    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
                    let mut message = message(family, index(*link), NeighbourState::Permanent, Some(neighbour.mac));
                    message.attributes.push(destination(*ip));
                    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
                    message
                }
                (Key::Fdb { link, mac, .. }, Object::Fdb(fdb)) => {
                    let kept = NeighbourFlags::Controller | NeighbourFlags::Sticky;
                    let (device, state, flags, words) = match (fdb.dst, fdb.port) {
                        (Some(dst), _) => {
                            (*link, NeighbourState::Permanent, NeighbourFlags::Own, format!("dst {dst} self permanent"))
                        }
                        (None, Some(port)) => (port, NeighbourState::Noarp, kept, "master static sticky".to_owned()),
                        _ => panic!("{key}"),
                    };
                    let _ = writeln!(databases, "fdb add {mac} dev {device} {words}");
                    let mut message = message(AddressFamily::Bridge, index(device), state, Some(*mac));
                    message.header.flags = flags;
                    message.attributes.extend(fdb.dst.map(destination));
                    message
                }
                _ => continue,
            };
            entries.count += 1;
            let new = RouteNetlinkMessage::NewNeighbour(add.clone());
            entries.add.push(wire::change(new, NLM_F_CREATE | NLM_F_EXCL));
            // Of one destination, without saying which.
            let is_fdb = add.header.family == AddressFamily::Bridge;
            add.attributes.retain(|a| match a {
                NeighbourAttribute::Destination(_) => !is_fdb,
                NeighbourAttribute::LinkLayerAddress(_) => is_fdb,
                _ => false,
            });
            entries.remove.push(wire::change(RouteNetlinkMessage::DelNeighbour(add), 0));
        }
        fs::write("/run/bench.fdb", databases).unwrap();
        fs::write("/run/bench.neighbours", neighbours).unwrap();
        entries
    }

    fn add(&self) {
        wire::Socket::open().send(&self.add);
    }

    fn remove(&self) {
        wire::Socket::open().send(&self.remove);
    }

    fn dump(&self) {
        let mut socket = wire::Socket::open();
        for dump in &self.dumps {
            socket.dump(dump);
        }
    }
}

fn desired_state(text: &str) -> State {
    let config = netrec::config::parse(Sources(vec![Source { name: FILE.into(), text: text.to_owned() }])).unwrap();
    let facts = Linux::open().unwrap().facts(&Asked::default()).unwrap();
    desired(&config, &facts, Some("h0")).unwrap().state
}

/// The neighbours of a bridge, and the databases of it and of its ports.
fn dumps(bridge: u32) -> [Vec<u8>; 2] {
    let mut neighbours = NeighbourMessage::default();
    neighbours.attributes.push(NeighbourAttribute::IfIndex(bridge));
    let mut databases = NeighbourMessage::default();
    databases.header.family = AddressFamily::Bridge;
    databases.attributes.push(NeighbourAttribute::Controller(bridge));
    [neighbours, databases].map(|message| wire::dump(RouteNetlinkMessage::GetNeighbour(message)))
}

fn message(family: AddressFamily, index: u32, state: NeighbourState, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = state;
    message.header.kind = RouteType::Unspec;
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}

fn destination(ip: IpAddr) -> NeighbourAttribute {
    NeighbourAttribute::Destination(match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    })
}

pub(crate) fn report(rounds: usize) {
    let mut values = Values::default();
    let mut sizes = SIZES;
    for round in 1..=rounds {
        for hosts in sizes {
            eprintln!("round {round} of {rounds}, {hosts} hosts");
            values.add(&format!("scale {hosts}"));
        }
        sizes.rotate_left(1);
    }
    let entries = SIZES.map(|hosts| values.median(&format!("{hosts} entries")));
    println!("a file of many hosts with {EACH} containers each, {rounds} rounds; milliseconds");
    let titles = SIZES.map(|hosts| format!("{hosts:>8} hosts")).join("");
    println!("{:<24}{titles} {:>22}", "", "per entry, most/least");
    println!("{:<24}{}", "entries", entries.map(|count| format!("{count:>14.0}")).join(""));
    let rows = [
        "validate",
        "first plan",
        "apply",
        "bare messages",
        "batch",
        "plan",
        "bare dumps",
        "change plan",
        "change",
        "destroy",
    ];
    for what in rows {
        let times = SIZES.map(|hosts| values.median(&format!("{hosts} {what}")));
        let shown = times.map(|time| format!("{time:>14.1}")).join("");
        let growth = (times[2] / entries[2]) / (times[0] / entries[0]);
        println!("{what:<24}{shown} {growth:>22.2}");
    }
    println!();
    let last = SIZES[2];
    for (what, to) in [("apply", "bare messages"), ("batch", "apply"), ("plan", "bare dumps")] {
        let ratio = values.ratio(&format!("{last} {what}"), &format!("{last} {to}"));
        println!("{what} takes {ratio:.2} times as long as {to} ({last} hosts)");
    }
}
