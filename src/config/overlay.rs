//! What an overlay network has beside a bridge's keys.

use ipnetwork::IpNetwork;

use super::driver::Keys;
use super::networks::{Draft, interface_name};
use super::reader::{Item, Placed, Problems, parsed, tick};
use super::report::Problem;
use super::types::{Overlay, Topology};
use super::{keys, values};
use crate::state::InterfaceName;

/// The largest VXLAN network identifier, of 24 bits (RFC 7348).
pub(super) const VNI_MAX: i64 = 0xff_ffff;
/// IANA's port of VXLAN.
const PORT: u16 = 4789;
/// The usual piece of a host, of IPv4 and IPv6.
const HOST_PREFIX: [u8; 2] = [24, 64];

/// What could be read, with the places that checks need.
#[derive(Debug)]
pub(super) struct OverlayDraft {
    pub(super) topology: Topology,
    pub(super) vni: Option<Placed<u32>>,
    pub(super) port: u16,
    pub(super) host_prefix: [u8; 2],
    pub(super) underlay: Option<Placed<InterfaceName>>,
    mss_clamp: bool,
}

impl OverlayDraft {
    /// The piece of a subnet that is a host's; none where the subnet has fewer pieces.
    pub(super) fn piece(&self, subnet: IpNetwork, id: u32) -> Option<IpNetwork> {
        if self.topology.has_pieces() {
            values::piece(subnet, self.host_prefix[usize::from(subnet.is_ipv6())], id)
        } else {
            Some(subnet)
        }
    }

    /// Whether packets go to other hosts through a tunnel.
    pub(super) fn has_tunnel(&self) -> bool {
        self.topology != Topology::Direct
    }

    /// Whether the tunnel is a port of the bridge.
    pub(super) fn is_bridged(&self) -> bool {
        self.topology == Topology::Switched
    }

    /// The part, once nothing is wrong.
    pub(super) fn finish(self) -> Overlay {
        Overlay {
            topology: self.topology,
            vni: self.vni.map(|vni| vni.value),
            port: self.port,
            host_prefix: self.host_prefix,
            underlay: self.underlay.map(|underlay| underlay.value),
            mss_clamp: self.mss_clamp,
        }
    }
}

/// Reads the keys of an overlay network, whose subnets have been read.
pub(super) fn read(draft: &Draft, table: Keys, meant: &[&str], problems: &mut Problems) -> OverlayDraft {
    let topology = table.get("topology").and_then(|item| read_topology(&item, problems)).unwrap_or(Topology::Switched);
    let (vni, port) = read_tunnel(draft, table, topology, meant, problems);
    let host_prefix = read_host_prefix(draft, table, topology, problems);
    if topology.has_pieces() {
        pieces(draft, table, topology, host_prefix, problems);
    }
    let underlay = table.get("underlay").and_then(|item| {
        let text = item.string("the name of a device", problems)?;
        parsed(interface_name(text), &item, problems).map(|name| item.placed(name))
    });
    let mss_clamp = table.get("mss_clamp").and_then(|item| item.boolean(problems)).unwrap_or(true);
    OverlayDraft { topology, vni, port, host_prefix, underlay, mss_clamp }
}

fn read_topology(item: &Item, problems: &mut Problems) -> Option<Topology> {
    const EXPECTED: &str = "`\"switched\"`, `\"routed\"` or `\"direct\"`";
    let known = [Topology::Switched, Topology::Routed, Topology::Direct];
    let text = item.string(EXPECTED, problems)?;
    if let Some(topology) = known.into_iter().find(|topology| topology.as_str() == text) {
        return Some(topology);
    }
    let problem = Problem::new(item.place(), format!("unknown topology {}", tick(text)));
    let problem = match problems.suggest(text, known.map(Topology::as_str)) {
        Some(meant) => problem.with_label(format!("did you mean `{meant}`?")),
        None => problem.with_help(format!("a topology is {EXPECTED}")),
    };
    problems.push(problem);
    None
}

/// Reads `vni` and `port`, which a topology without a tunnel does not have.
fn read_tunnel(
    draft: &Draft,
    table: Keys,
    topology: Topology,
    meant: &[&str],
    problems: &mut Problems,
) -> (Option<Placed<u32>>, u16) {
    if topology == Topology::Direct {
        for item in ["vni", "port", "mss_clamp"].into_iter().filter_map(|key| table.get(key)) {
            let message = format!("{} is of a tunnel, which `direct` does without", tick(item.key()));
            problems.push(Problem::new(item.key_place(), message));
        }
        return (None, PORT);
    }
    let item = table.get("vni");
    if item.is_none() && !meant.contains(&"vni") {
        let problem = Problem::new(draft.place.clone(), format!("network `{}` has no `vni`", draft.name));
        let help = format!("choose a VXLAN network identifier that nothing else uses, 1 to {VNI_MAX}");
        problems.push(problem.with_help(help));
    }
    let vni = item.and_then(|item| {
        let vni = item.integer(&format!("a number from 1 to {VNI_MAX}"), 1..=VNI_MAX, problems)?;
        Some(item.placed(u32::try_from(vni).ok()?))
    });
    let port = table.get("port").and_then(|item| item.integer("a port number from 1 to 65535", 1..=65535, problems));
    (vni, port.and_then(|port| u16::try_from(port).ok()).unwrap_or(PORT))
}

/// Reads `host_prefix`: a number where the network has one family, or a table.
fn read_host_prefix(draft: &Draft, table: Keys, topology: Topology, problems: &mut Problems) -> [u8; 2] {
    let mut lengths = HOST_PREFIX;
    let Some(item) = table.get("host_prefix") else { return lengths };
    if !topology.has_pieces() {
        let message =
            "`host_prefix` is for the topologies `routed` and `direct`, where each host has a piece of its own";
        problems.push(Problem::new(item.key_place(), message));
        return lengths;
    }
    let most = |ipv6: bool| if ipv6 { 126 } else { 30 };
    let mut take = |ipv6: bool, item: &Item, problems: &mut Problems| {
        let expected = format!("a prefix length from 1 to {}", most(ipv6));
        if let Some(length) = item.integer(&expected, 1..=most(ipv6), problems) {
            lengths[usize::from(ipv6)] = u8::try_from(length).unwrap_or(u8::MAX);
        }
    };
    if let Some(table) = item.as_table() {
        table.check_keys(&keys::HOST_PREFIX, problems);
        for (ipv6, key) in [(false, "ipv4"), (true, "ipv6")] {
            if let Some(item) = table.get(key) {
                take(ipv6, &item, problems);
            }
        }
        return lengths;
    }
    match [false, true].map(|ipv6| draft.mode(ipv6).is_some()) {
        [true, true] => {
            let problem = Problem::new(item.place(), "the network has two families, so this says too little");
            problems.push(problem.with_help("write `host_prefix = { ipv4 = 24, ipv6 = 64 }`"));
        }
        [_, ipv6] => take(ipv6, &item, problems),
    }
    lengths
}

/// Each family has one subnet, which is cut into pieces; what each piece's addresses are is not the file's to say.
fn pieces(draft: &Draft, table: Keys, topology: Topology, lengths: [u8; 2], problems: &mut Problems) {
    let why = format!("where the topology is `{}`, each host has a piece of the subnet", topology.as_str());
    for item in ["gateway", "range"].into_iter().filter_map(|key| table.get(key)) {
        if item.as_bool() != Some(false) {
            let problem = Problem::new(item.key_place(), format!("{} cannot be given here", tick(item.key())));
            problems.push(problem.with_label(why.clone()));
        }
    }
    for ipv6 in [false, true] {
        let mut subnets = draft.subnets.iter().filter(|s| s.net.is_ipv6() == ipv6);
        let Some(first) = subnets.next() else { continue };
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        for second in subnets {
            let problem =
                Problem::new(second.place.clone(), format!("network `{}` has two {family} subnets", draft.name));
            problems.push(problem.with_label(why.clone()).with_other(first.place.clone(), "the first"));
        }
        let length = lengths[usize::from(ipv6)];
        if length < first.net.prefix() {
            let message = format!("`{}` is smaller than the piece of a host, a /{length}", first.net);
            let problem = Problem::new(first.place.clone(), message);
            problems.push(problem.with_help("make the subnet larger, or the pieces smaller with `host_prefix`"));
        }
    }
}
