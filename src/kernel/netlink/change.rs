//! Changes of existing devices: from two descriptions of an end of a link to the messages between them.

use std::net::IpAddr;

use nix::libc;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, InfoPortKind, LinkAttribute, LinkInfo, LinkMessage,
};

use super::super::transport::{Refusal, Request};
use super::link::{
    Builder, IFLA_INET_CONF, IPV4_DEVCONF_PROMOTE_SECONDARIES, Mark, created_mtu, group_of, ipvlan, macvlan, stp_state,
    tunnel,
};
use crate::state::{
    BridgePort, Device, IPV6_MIN_MTU, InterfaceName, IpvlanMode, Link, LinkKind, MacvlanMode, Owner, Peer,
};

/// One end of a link, in one namespace, as far as it can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub name: InterfaceName,
    pub device: Device,
    pub group: u32,
    pub alias: Option<String>,
    pub master: Option<InterfaceName>,
    /// The defaults where it is no port.
    pub port: BridgePort,
    pub stp: bool,
    /// None but of a VXLAN device.
    pub tunnel: Option<Tunnel>,
    /// None but of a device on another one that has modes.
    pub mode: Option<Mode>,
}

/// How a device is on another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Macvlan(MacvlanMode),
    Ipvlan(IpvlanMode),
}

impl Mode {
    fn of(link: &Link) -> Option<Self> {
        match link.kind {
            LinkKind::Macvlan { mode, .. } => Some(Self::Macvlan(mode)),
            LinkKind::Ipvlan { mode, .. } => Some(Self::Ipvlan(mode)),
            _ => None,
        }
    }

    fn attribute(self) -> LinkAttribute {
        let (kind, data) = match self {
            Self::Macvlan(mode) => (InfoKind::MacVlan, macvlan(mode)),
            Self::Ipvlan(mode) => (InfoKind::IpVlan, ipvlan(mode)),
        };
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])
    }
}

/// A VXLAN device as far as it can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    local: IpAddr,
    underlay: Option<InterfaceName>,
    learning: bool,
}

impl Tunnel {
    fn of(link: &Link) -> Option<Self> {
        match link.kind {
            LinkKind::Vxlan { local, underlay, learning, .. } => Some(Self { local, underlay, learning }),
            _ => None,
        }
    }
}

impl End {
    /// The end that the link is keyed by; in a container it says whose it is, with the inode of the namespace netrec runs in.
    pub(crate) fn near(name: InterfaceName, link: &Link, owner: Option<&Owner>, inode: Option<u64>) -> Self {
        Self {
            name,
            device: link.device.clone(),
            group: group_of(link),
            alias: owner.map(|owner| Mark { source: link.source(), ..Mark::new(owner.clone(), inode) }.text()),
            master: link.master,
            port: link.port.unwrap_or_default(),
            stp: matches!(link.kind, LinkKind::Bridge { stp: true }),
            tunnel: Tunnel::of(link),
            mode: Mode::of(link),
        }
    }

    /// The end in a container, with the inode of the namespace netrec runs in.
    pub(crate) fn far(peer: &Peer, link: &Link, owner: Option<&Owner>, inode: u64) -> Self {
        Self {
            name: peer.name,
            device: peer.device.clone(),
            group: group_of(link),
            alias: owner.map(|owner| Mark::new(owner.clone(), Some(inode)).text()),
            master: None,
            port: BridgePort::default(),
            stp: false,
            tunnel: None,
            mode: None,
        }
    }

    /// What the creating message of a link leaves behind.
    #[must_use]
    pub(crate) fn as_created(&self, link: &Link) -> Self {
        let mtu = created_mtu(link).unwrap_or(self.device.mtu);
        let bare = Device {
            up: false,
            link_local: true,
            promote_secondaries: false,
            no_arp: link.is_born_without_arp(),
            mtu,
            ..self.device.clone()
        };
        // A plugin's device is there already, and is told its mark as it is moved.
        let alias = self.alias.clone().filter(|_| link.source().is_some());
        Self { device: bare, alias, port: BridgePort::default(), ..self.clone() }
    }
}

/// When a message goes out: each stage for all links before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Links that may be the masters of others.
    Create,
    /// Links with a master.
    CreatePort,
    /// Down, where they are to be down.
    Down,
    /// Names.
    Rename,
    /// The link-local address of an Ethernet address that is to come.
    Own,
    /// All that one message can change.
    Set,
    /// The MTU, where it cannot be set along: a VXLAN device takes none together with what is its own, and of a new device
    /// below it keeps what fits.
    Mtu,
    /// Port settings, where they cannot be set along: in one message with a new master they would be given to the old
    /// one.
    Port,
    /// Whether there is a link-local address, where it cannot be set along: a device without IPv6 refuses the whole
    /// message. In one message with "up" the kernel does that first, and the address is there.
    LinkLocal,
    /// Up.
    Up,
    /// What must be gone before the rest comes.
    Clear,
    /// What is not about links.
    Rest,
    /// Filters, on what is there by then.
    Filters,
    /// What was another way for a while only: also where something was refused meanwhile.
    Restore,
}

/// Which bridge a link becomes a port of.
#[derive(Clone, Copy)]
enum NewMaster {
    AsBefore,
    Nobody,
    Bridge(InterfaceName),
}

/// One message about an existing link.
pub(crate) struct Change {
    pub stage: Stage,
    /// Its name when the message goes out.
    pub name: InterfaceName,
    message: LinkMessage,
    /// The master it gets (or loses), to be given as an index.
    master: NewMaster,
    /// What a VXLAN device becomes, whose device below is to be given as an index too.
    tunnel: Option<Tunnel>,
    /// Whether the message carries a new name, so that the link must be given by its index.
    renames: bool,
    /// Error numbers that mean the wanted state is there already.
    pub accept: &'static [i32],
}

impl Change {
    fn new(stage: Stage, name: InterfaceName, message: Builder) -> Self {
        let message = message.build();
        Self { stage, name, message, master: NewMaster::AsBefore, tunnel: None, renames: false, accept: &[] }
    }

    /// A change of one attribute.
    fn with(stage: Stage, name: InterfaceName, attribute: LinkAttribute) -> Self {
        Self::new(stage, name, Builder::default().append_extra_attribute(attribute))
    }

    /// The message; `index` looks up a device of the namespace.
    pub(crate) fn request(
        &self,
        mut index: impl FnMut(InterfaceName) -> Result<u32, Refusal>,
    ) -> Result<Request, Refusal> {
        let mut message = self.message.clone();
        if self.renames {
            message.header.index = index(self.name)?;
        } else {
            message.attributes.push(LinkAttribute::IfName(self.name.as_str().to_owned()));
        }
        let master = match self.master {
            NewMaster::AsBefore => None,
            NewMaster::Nobody => Some(0),
            NewMaster::Bridge(master) => Some(index(master)?),
        };
        message.attributes.extend(master.map(LinkAttribute::Controller));
        if let Some(Tunnel { local, underlay, learning }) = self.tunnel {
            let underlay = underlay.map(&mut index).transpose()?;
            let data = InfoData::Vxlan(tunnel(local, underlay, learning));
            message
                .attributes
                .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(data)]));
        }
        Ok(Request { message: RouteNetlinkMessage::NewLink(message), flags: 0 })
    }
}

/// What the running kernel can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    /// Renames devices that are up (since Linux 6.2). Otherwise a device goes down for it, which costs it its IPv6
    /// addresses and routes.
    pub live_rename: bool,
    /// Has IPv6.
    pub ipv6: bool,
}

/// Whether the kernel makes IPv6's part of a device, since its MTU is large enough at last.
pub(crate) fn gets_ipv6(before: &End, after: &End) -> bool {
    before.device.mtu < IPV6_MIN_MTU && after.device.mtu >= IPV6_MIN_MTU
}

/// The messages that make one end of a link into another, in order.
pub(crate) fn changes(before: &End, after: &End, can: Abilities) -> Vec<Change> {
    let mut list = Vec::new();
    let renames = before.name != after.name;
    let interrupt = renames && !can.live_rename && before.device.up && after.device.up;
    if (before.device.up && !after.device.up) || interrupt {
        list.push(Change::new(Stage::Down, before.name, Builder::default().down()));
    }
    if renames {
        let rename = Builder::default().name(after.name.as_str());
        list.push(Change { renames: true, ..Change::new(Stage::Rename, before.name, rename) });
    }
    let mut set = settings(before, after);
    if before.device.mtu != after.device.mtu {
        let change = Change::with(Stage::Mtu, after.name, LinkAttribute::Mtu(after.device.mtu));
        add(&mut list, &mut set, change, before.tunnel == after.tunnel);
    }
    // A port of another bridge starts with the defaults.
    let port = if before.master == after.master { before.port } else { BridgePort::default() };
    let switches = if after.master.is_some() { switches(port, after.port) } else { Vec::new() };
    if !switches.is_empty() {
        let info =
            vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(InfoPortData::BridgePort(switches))];
        // Of two parts about what a device is the kernel reads one.
        let together = before.master == after.master && before.stp == after.stp && before.tunnel == after.tunnel;
        add(&mut list, &mut set, Change::with(Stage::Port, after.name, LinkAttribute::LinkInfo(info)), together);
    }
    // With the MTU comes the kernel's own mode.
    let has_one = before.device.link_local || gets_ipv6(before, after);
    if has_one != after.device.link_local {
        let mode = if after.device.link_local { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
        let spec = vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])];
        let change = Change::with(Stage::LinkLocal, after.name, LinkAttribute::AfSpecUnspec(spec));
        // A device without IPv6 has no link-local address whatever its mode; such a message changes nothing at all.
        let accept: &[i32] = if after.device.link_local { &[] } else { &[libc::EAFNOSUPPORT] };
        let together = can.ipv6 && before.device.mtu.min(after.device.mtu) >= IPV6_MIN_MTU;
        add(&mut list, &mut set, Change { accept, ..change }, together);
    }
    list.extend(set);
    if (!before.device.up && after.device.up) || interrupt {
        list.push(Change::new(Stage::Up, after.name, Builder::default().up()));
    }
    list.sort_by_key(|change| change.stage);
    list
}

/// Adds a change that may go out `together` with the settings, which saves a message.
fn add(list: &mut Vec<Change>, set: &mut Option<Change>, change: Change, together: bool) {
    let Some(set) = set.as_mut().filter(|_| together) else { return list.push(change) };
    let attributes = &mut set.message.attributes;
    for attribute in change.message.attributes {
        let there = attributes.iter_mut().find_map(|there| match there {
            LinkAttribute::AfSpecUnspec(parts) => Some(parts),
            _ => None,
        });
        match (there, attribute) {
            // Of two the kernel reads one.
            (Some(there), LinkAttribute::AfSpecUnspec(parts)) => there.extend(parts),
            (_, attribute) => attributes.push(attribute),
        }
    }
}

/// The switches of a port that are to be turned, to one side or the other.
fn switches(before: BridgePort, after: BridgePort) -> Vec<InfoBridgePort> {
    let all = [
        (before.hairpin != after.hairpin, InfoBridgePort::HairpinMode(after.hairpin)),
        (before.isolated != after.isolated, InfoBridgePort::Isolated(after.isolated)),
        (before.locked != after.locked, InfoBridgePort::Locked(after.locked)),
        (before.no_learning != after.no_learning, InfoBridgePort::Learning(!after.no_learning)),
        (before.no_flood != after.no_flood, InfoBridgePort::UnicastFlood(!after.no_flood)),
        (before.no_mcast_flood != after.no_mcast_flood, InfoBridgePort::MulticastFlood(!after.no_mcast_flood)),
        (before.no_bcast_flood != after.no_bcast_flood, InfoBridgePort::BroadcastFlood(!after.no_bcast_flood)),
        (before.neigh_suppress != after.neigh_suppress, InfoBridgePort::NeighSupress(after.neigh_suppress)),
    ];
    all.into_iter().filter(|(differs, _)| *differs).map(|(_, switch)| switch).collect()
}

/// `promote_secondaries`, as `IFLA_AF_SPEC` carries it: the parameter's number and its value.
fn promotion(on: bool) -> LinkAttribute {
    let mut parameter = Vec::with_capacity(8);
    parameter.extend_from_slice(&8u16.to_ne_bytes()); // nla_len
    parameter.extend_from_slice(&IPV4_DEVCONF_PROMOTE_SECONDARIES.to_ne_bytes());
    parameter.extend_from_slice(&u32::from(on).to_ne_bytes());
    let inet = vec![AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF, parameter))];
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(inet)])
}

/// Has a device promote its secondary addresses, or not.
pub(crate) fn promote(index: u32, on: bool) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![promotion(on)];
    Request { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// The message for all that always fits into one.
fn settings(before: &End, after: &End) -> Option<Change> {
    let mut attributes = Vec::new();
    if before.alias != after.alias {
        // An empty one removes it.
        attributes.push(LinkAttribute::IfAlias(after.alias.clone().unwrap_or_default()));
    }
    if before.group != after.group {
        attributes.push(LinkAttribute::Group(after.group));
    }
    if before.device.mac != after.device.mac {
        attributes.push(LinkAttribute::Address(after.device.mac.0.to_vec()));
    }
    if before.device.promote_secondaries != after.device.promote_secondaries {
        attributes.push(promotion(after.device.promote_secondaries));
    }
    if before.stp != after.stp {
        let data = InfoData::Bridge(vec![InfoBridge::StpState(stp_state(after.stp))]);
        attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)]));
    }
    if let Some(mode) = after.mode.filter(|_| before.mode != after.mode) {
        attributes.push(mode.attribute());
    }
    let master = match after.master {
        same if same == before.master => NewMaster::AsBefore,
        None => NewMaster::Nobody,
        Some(master) => NewMaster::Bridge(master),
    };
    let flags = before.device.no_arp != after.device.no_arp;
    let tunnel = after.tunnel.filter(|tunnel| before.tunnel != Some(*tunnel));
    if attributes.is_empty() && !flags && tunnel.is_none() && matches!(master, NewMaster::AsBefore) {
        return None;
    }
    let message = if flags { Builder::default().arp(!after.device.no_arp) } else { Builder::default() };
    let mut change = Change { master, tunnel, ..Change::new(Stage::Set, after.name, message) };
    change.message.attributes = attributes;
    Some(change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{GROUP, Mac};

    #[test]
    fn an_old_kernel_renames_a_device_that_is_down() {
        let device = Device {
            mac: Mac([2; 6]),
            mtu: 1500,
            up: true,
            link_local: true,
            promote_secondaries: true,
            no_arp: false,
        };
        let (name, new) = ("a".parse().unwrap(), "b".parse().unwrap());
        let before = End {
            name,
            device,
            group: GROUP,
            alias: None,
            master: None,
            port: BridgePort::default(),
            stp: false,
            tunnel: None,
            mode: None,
        };
        let after = End { name: new, ..before.clone() };
        let sequence = |live_rename| -> Vec<(Stage, InterfaceName)> {
            changes(&before, &after, Abilities { live_rename, ipv6: true }).iter().map(|c| (c.stage, c.name)).collect()
        };
        assert_eq!(sequence(true), [(Stage::Rename, name)]);
        assert_eq!(sequence(false), [(Stage::Down, name), (Stage::Rename, name), (Stage::Up, new)]);
    }

    /// Only in messages: this kernel has no ipvlan. A mode of its own takes no other message, and the flag that the kernel sets
    /// along with it goes the same way.
    #[test]
    fn a_mode_changes_in_place() {
        let link = |kind, no_arp| {
            let device =
                Device { mac: Mac([2; 6]), mtu: 1500, up: true, link_local: true, promote_secondaries: true, no_arp };
            Link { kind, device, master: None, port: None, leaving: false }
        };
        let parent = "uplink".parse().unwrap();
        let end = |link: &Link| End::near("eth0".parse().unwrap(), link, None, Some(7));
        let sent = |before: &Link, after: &Link| {
            let all = changes(&end(before), &end(after), Abilities { live_rename: true, ipv6: true });
            assert_eq!(all.iter().map(|change| change.stage).collect::<Vec<_>>(), [Stage::Set]);
            all[0].message.attributes.clone()
        };
        let macvlan = |mode| link(LinkKind::Macvlan { parent, mode }, false);
        let ipvlan = |mode: IpvlanMode| link(LinkKind::Ipvlan { parent, mode }, !mode.has_link());
        assert_eq!(
            sent(&macvlan(MacvlanMode::Bridge), &macvlan(MacvlanMode::Vepa)),
            [Mode::Macvlan(MacvlanMode::Vepa).attribute()]
        );
        assert_eq!(sent(&ipvlan(IpvlanMode::L2), &ipvlan(IpvlanMode::L3)), [Mode::Ipvlan(IpvlanMode::L3).attribute()]);
        assert!(
            changes(
                &end(&ipvlan(IpvlanMode::L3)),
                &end(&ipvlan(IpvlanMode::L3)),
                Abilities { live_rename: true, ipv6: true }
            )
            .is_empty()
        );
    }
}
