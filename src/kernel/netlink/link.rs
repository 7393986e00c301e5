//! Devices: bridges, the two ends of veth pairs, VXLAN devices, and what is on another device: VLANs, macvlans, ipvlans.
//! How existing ones change is in `change`.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVeth, InfoVlan, InfoVxlan, IpVlanMode,
    LinkAttribute, LinkExtentMask, MacVlanMode,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::super::transport::{DumpError, Refusal, Request, Socket};
use super::{Attributes, ip_of, text_of, u32_at};
use crate::state::{
    BridgePort, Device, GROUP, GROUP_LEAVING, InterfaceName, IpvlanMode, Link, LinkKind, Mac, MacvlanMode, Owner,
    Standing,
};

// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_QDISC: u16 = 6;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_NEIGH_SUPPRESS: u16 = 32;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRPORT_LOCKED: u16 = 39;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_VEPA: u32 = 2;
const MACVLAN_MODE_BRIDGE: u32 = 4;
const MACVLAN_MODE_PASSTHRU: u32 = 8;
const MACVLAN_MODE_SOURCE: u32 = 16;
const IFLA_IPVLAN_MODE: u16 = 1;
const IPVLAN_MODE_L3: u16 = 1;
const IPVLAN_MODE_L3S: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// Parameters of a device that its listing tells along, below `net/`, and where: their family's, and the place among the
/// 32-bit numbers of that (`linux/ip.h`, whose first is number 1, and `linux/ipv6.h`).
const TOLD: [(&str, u16, usize); 6] = [
    ("ipv4/forwarding", AF_INET, 0),
    ("ipv4/route_localnet", AF_INET, 25),
    ("ipv4/rp_filter", AF_INET, 7),
    ("ipv6/accept_dad", AF_INET6, 27),
    ("ipv6/accept_ra", AF_INET6, 3),
    ("ipv6/forwarding", AF_INET6, 0),
];
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// IPv4's part of `IFLA_AF_SPEC`: the parameters of a device (`linux/if_link.h`).
pub(crate) const IFLA_INET_CONF: u16 = 1;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// `ETH_DATA_LEN` (`linux/if_ether.h`).
const ETH_DATA_LEN: u32 = 1500;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const IFF_NOARP: u32 = 0x80;

/// Why something with netrec's mark is not this netrec's.
pub(crate) const ANOTHER_HOST: &str = "made by netrec for another host";

/// A device as the kernel describes it.
#[derive(Clone, Debug)]
pub(crate) struct RawLink {
    pub index: u32,
    pub name: InterfaceName,
    pub group: u32,
    /// What its alias says, where netrec wrote it.
    pub mark: Option<Mark>,
    pub device: Device,
    pub loopback: bool,
    pub kind: RawKind,
    /// Its parameters, as in `TOLD`; none of a family that the device is without.
    parameters: [Option<i32>; TOLD.len()],
    /// The index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Its settings as a bridge's port.
    pub port: Option<BridgePort>,
    /// Whether what it sends goes through a token bucket filter.
    pub shaped: bool,
    /// The index of a veth's other end, or of the device that this one is on, in the namespace of that.
    pub peer: Option<u32>,
    /// The number that this namespace gave to that one; none when it is this one.
    pub peer_nsid: Option<u32>,
}

/// The kinds that are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RawKind {
    Bridge {
        stp: bool,
    },
    Veth,
    Vxlan {
        vni: u32,
        udp_port: u16,
        /// Unspecified where there is none.
        local: IpAddr,
        /// The index of the device that it runs over.
        underlay: Option<u32>,
        learning: bool,
    },
    Macvlan(MacvlanMode),
    Ipvlan(IpvlanMode),
    Vlan(u16),
    Ifb,
    Other(String),
}

impl RawKind {
    /// The kernel's name for it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Bridge { .. } => "bridge",
            Self::Veth => "veth",
            Self::Vxlan { .. } => "vxlan",
            Self::Macvlan(_) => "macvlan",
            Self::Ipvlan(_) => "ipvlan",
            Self::Vlan(_) => "vlan",
            Self::Ifb => "ifb",
            Self::Other(name) => name,
        }
    }
}

impl RawLink {
    /// Whether it carries netrec's group.
    pub(crate) fn is_marked(&self) -> bool {
        matches!(self.group, GROUP | GROUP_LEAVING) && !self.loopback
    }

    /// The value of one of its parameters, such as `ipv6` and `accept_ra`; none where the listing does not tell.
    pub(crate) fn parameter(&self, family: &str, name: &str) -> Option<i32> {
        let path = (family, name);
        let at = TOLD.iter().position(|(told, ..)| told.split_once('/') == Some(path))?;
        self.parameters.get(at).copied().flatten()
    }

    /// Takes what is told of a family's parameters.
    fn tell(&mut self, family: u16, numbers: &[u8]) {
        for ((_, of, at), slot) in TOLD.iter().zip(&mut self.parameters) {
            if *of == family {
                *slot = u32_at(numbers, 4 * at).map(u32::cast_signed);
            }
        }
    }

    /// Whose a device is for the netrec that runs in the namespace of that inode number. A container's end of a link of
    /// another netrec's is none of ours even where our host is that container.
    pub(crate) fn standing(&self, inode: u64) -> Standing {
        if !self.is_marked() {
            return Standing::Foreign(format!("group {}", self.group));
        }
        match self.mark.as_ref().and_then(|mark| mark.inode) {
            Some(other) if other != inode => Standing::Foreign(ANOTHER_HOST.into()),
            _ => Standing::Ours,
        }
    }
}

/// The mark in an alias: `netrec OWNER`, and in a container `netrec OWNER @INODE`, where INODE is that of the namespace
/// netrec ran in. Without the number a netrec inside of a container would take the container's devices for its own. A plugin's
/// device has ` from NAME` behind it, its name in the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub owner: Owner,
    pub inode: Option<u64>,
    /// Of a plugin's device, its name in the host.
    pub source: Option<InterfaceName>,
}

impl Mark {
    /// Reads an alias; none when netrec did not write it.
    pub(crate) fn parse(alias: &str) -> Option<Self> {
        let rest = alias.strip_prefix("netrec ")?;
        let Some((owner, rest)) = rest.split_once(" @") else { return Some(Self::new(Owner::new(rest), None)) };
        let (inode, source) = match rest.split_once(" from ") {
            Some((inode, source)) => (inode, Some(source.parse().ok()?)),
            None => (rest, None),
        };
        Some(Self { source, ..Self::new(Owner::new(owner), Some(inode.parse().ok()?)) })
    }

    /// The mark of a device that is no plugin's.
    pub(crate) fn new(owner: Owner, inode: Option<u64>) -> Self {
        Self { owner, inode, source: None }
    }

    /// The alias.
    pub(crate) fn text(&self) -> String {
        let inode = self.inode.map(|inode| format!(" @{inode}")).unwrap_or_default();
        let source = self.source.map(|source| format!(" from {source}")).unwrap_or_default();
        format!("netrec {}{inode}{source}", self.owner)
    }
}

/// All devices of a namespace, by their indices.
pub(crate) fn dump(socket: &mut Socket) -> Result<Vec<RawLink>, DumpError> {
    let request = LinkMessageBuilder::<LinkUnspec>::new()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    let mut links = socket.dump(&RouteNetlinkMessage::GetLink(request), parse)?;
    // As the kernel lists them since 6.9; before, they come by a hash of their names.
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// The device of an index among those of a namespace.
pub(crate) fn by_index(links: &[RawLink], index: u32) -> Option<&RawLink> {
    links.binary_search_by_key(&index, |link| link.index).ok().and_then(|at| links.get(at))
}

/// One device.
pub(crate) fn get(socket: &mut Socket, index: u32) -> Result<RawLink, Refusal> {
    let request = LinkMessageBuilder::<LinkUnspec>::new()
        .index(index)
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    socket.get(RouteNetlinkMessage::GetLink(request), parse)
}

/// One device, by its name.
pub(crate) fn get_by_name(socket: &mut Socket, name: InterfaceName) -> Result<RawLink, Refusal> {
    let request = LinkMessageBuilder::<LinkUnspec>::new()
        .name(name.as_str())
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    socket.get(RouteNetlinkMessage::GetLink(request), parse)
}

/// The index of a device. (The ioctl for it has modprobe run for a device that is not there.)
pub(crate) fn index(socket: &mut Socket, name: InterfaceName) -> Result<u32, Refusal> {
    let request = LinkMessageBuilder::<LinkUnspec>::new()
        .name(name.as_str())
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    socket.get(RouteNetlinkMessage::GetLink(request), |body| u32_at(body, 4))
}

/// `struct ifinfomsg` and its attributes. A device whose name netrec cannot hold is skipped.
pub(crate) fn parse(body: &[u8]) -> Option<RawLink> {
    let flags = u32_at(body, 8)?;
    let mut name = None;
    let mut link = RawLink {
        index: u32_at(body, 4)?,
        name: InterfaceName::UNKNOWN,
        group: 0,
        mark: None,
        device: Device {
            mac: Mac([0; 6]),
            mtu: 0,
            up: flags & IFF_UP != 0,
            link_local: false,
            promote_secondaries: false,
            no_arp: flags & IFF_NOARP != 0,
        },
        loopback: flags & IFF_LOOPBACK != 0,
        kind: RawKind::Other("device".to_owned()),
        parameters: [None; TOLD.len()],
        master: None,
        port: None,
        shaped: false,
        peer: None,
        peer_nsid: None,
    };
    for (kind, value) in Attributes::new(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => name = text_of(value)?.parse().ok(),
            IFLA_GROUP => link.group = u32_at(value, 0)?,
            IFLA_IFALIAS => link.mark = text_of(value).and_then(Mark::parse),
            IFLA_ADDRESS => link.device.mac = Mac(value.try_into().unwrap_or_default()),
            IFLA_MTU => link.device.mtu = u32_at(value, 0)?,
            IFLA_QDISC => link.shaped = text_of(value) == Some("tbf"),
            IFLA_MASTER => link.master = u32_at(value, 0),
            IFLA_LINK => link.peer = u32_at(value, 0),
            IFLA_LINK_NETNSID => link.peer_nsid = u32_at(value, 0),
            IFLA_LINKINFO => parse_info(&mut link, value),
            IFLA_AF_SPEC => parse_families(&mut link, value),
            _ => {}
        }
    }
    link.name = name?;
    Some(link)
}

fn parse_info(link: &mut RawLink, info: &[u8]) {
    let mut kind = None;
    let mut data: &[u8] = &[];
    let mut port_kind = None;
    let mut port = None;
    for (attribute, value) in Attributes::new(info) {
        match attribute {
            IFLA_INFO_KIND => kind = text_of(value),
            IFLA_INFO_DATA => data = value,
            IFLA_INFO_SLAVE_KIND => port_kind = text_of(value),
            IFLA_INFO_SLAVE_DATA => port = Some(value),
            _ => {}
        }
    }
    link.kind = match kind {
        Some("bridge") => {
            let stp = Attributes::new(data).value(IFLA_BR_STP_STATE).and_then(|v| u32_at(v, 0)).unwrap_or(0) != 0;
            RawKind::Bridge { stp }
        }
        Some("veth") => RawKind::Veth,
        Some("vxlan") => parse_vxlan(data),
        Some("macvlan") => RawKind::Macvlan(parse_macvlan(data)),
        Some("ipvlan") => RawKind::Ipvlan(parse_ipvlan(data)),
        Some("vlan") => RawKind::Vlan(Attributes::new(data).value(IFLA_VLAN_ID).and_then(u16_of).unwrap_or(0)),
        Some("ifb") => RawKind::Ifb,
        Some(other) => RawKind::Other(other.to_owned()),
        None => RawKind::Other("device".to_owned()),
    };
    if port_kind == Some("bridge") {
        link.port = Some(parse_port(port.unwrap_or_default()));
    }
}

/// What tells one VXLAN device from another.
fn parse_vxlan(data: &[u8]) -> RawKind {
    let (mut vni, mut udp_port, mut underlay, mut learning) = (0, 0, None, false);
    let mut local: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    for (attribute, value) in Attributes::new(data) {
        match attribute {
            IFLA_VXLAN_ID => vni = u32_at(value, 0).unwrap_or(0),
            IFLA_VXLAN_LINK => underlay = u32_at(value, 0).filter(|index| *index != 0),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => local = ip_of(value).unwrap_or(local),
            IFLA_VXLAN_LEARNING => learning = value.first().is_some_and(|v| *v != 0),
            // In network byte order.
            IFLA_VXLAN_PORT => udp_port = value.try_into().map_or(0, u16::from_be_bytes),
            _ => {}
        }
    }
    RawKind::Vxlan { vni, udp_port, local, underlay, learning }
}

fn parse_macvlan(data: &[u8]) -> MacvlanMode {
    match Attributes::new(data).value(IFLA_MACVLAN_MODE).and_then(|mode| u32_at(mode, 0)) {
        Some(MACVLAN_MODE_VEPA) => MacvlanMode::Vepa,
        Some(MACVLAN_MODE_BRIDGE) => MacvlanMode::Bridge,
        Some(MACVLAN_MODE_PASSTHRU) => MacvlanMode::Passthru,
        Some(MACVLAN_MODE_SOURCE) => MacvlanMode::Source,
        _ => MacvlanMode::Private,
    }
}

fn parse_ipvlan(data: &[u8]) -> IpvlanMode {
    match Attributes::new(data).value(IFLA_IPVLAN_MODE).and_then(u16_of) {
        Some(IPVLAN_MODE_L3) => IpvlanMode::L3,
        Some(IPVLAN_MODE_L3S) => IpvlanMode::L3s,
        _ => IpvlanMode::L2,
    }
}

fn u16_of(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_ne_bytes)
}

/// A port's switches, a byte each. One that the kernel does not know is as it is by default.
fn parse_port(data: &[u8]) -> BridgePort {
    let mut port = BridgePort::default();
    for (attribute, value) in Attributes::new(data) {
        let on = value.first().is_some_and(|v| *v != 0);
        match attribute {
            IFLA_BRPORT_MODE => port.hairpin = on,
            IFLA_BRPORT_NEIGH_SUPPRESS => port.neigh_suppress = on,
            IFLA_BRPORT_ISOLATED => port.isolated = on,
            IFLA_BRPORT_LOCKED => port.locked = on,
            IFLA_BRPORT_LEARNING => port.no_learning = !on,
            IFLA_BRPORT_UNICAST_FLOOD => port.no_flood = !on,
            IFLA_BRPORT_MCAST_FLOOD => port.no_mcast_flood = !on,
            IFLA_BRPORT_BCAST_FLOOD => port.no_bcast_flood = !on,
            _ => {}
        }
    }
    port
}

/// The number of `promote_secondaries` among IPv4's parameters of a device (`linux/ip.h`).
pub(crate) const IPV4_DEVCONF_PROMOTE_SECONDARIES: u16 = 20;

/// What `IFLA_AF_SPEC` says of each family. The kernel lists all parameters, 32 bits each: IPv4's from number 1, IPv6's
/// from number 0. Any mode but none makes a link-local address; where IPv6 is absent or off (no part of its own, or an
/// MTU below 1280) there is none either.
fn parse_families(link: &mut RawLink, families: &[u8]) {
    for (family, attributes) in Attributes::new(families) {
        for (kind, value) in Attributes::new(attributes) {
            match (family, kind) {
                (AF_INET, IFLA_INET_CONF) => {
                    link.tell(family, value);
                    let at = 4 * (usize::from(IPV4_DEVCONF_PROMOTE_SECONDARIES) - 1);
                    link.device.promote_secondaries = u32_at(value, at).unwrap_or(0) != 0;
                }
                (AF_INET6, IFLA_INET6_CONF) => link.tell(family, value),
                (AF_INET6, IFLA_INET6_ADDR_GEN_MODE) => {
                    link.device.link_local = value.first().is_some_and(|mode| *mode != IN6_ADDR_GEN_MODE_NONE);
                }
                _ => {}
            }
        }
    }
}

/// The message that makes a link with all that can be said in one: down, without alias and port settings, which the
/// kernel ignores here without a word, and with its default of a link-local address, as any other mode is refused here
/// (`EAFNOSUPPORT`).
pub(crate) fn create(name: InterfaceName, link: &Link, related: &Related) -> Result<Request, Refusal> {
    let describe = |message: Builder, name, device: &Device| {
        let mtu = created_mtu(link).unwrap_or(device.mtu);
        describe(message, name, device.mac, mtu, group_of(link))
    };
    let (kind, data) = match &link.kind {
        LinkKind::Bridge { stp } => (InfoKind::Bridge, InfoData::Bridge(vec![InfoBridge::StpState(stp_state(*stp))])),
        LinkKind::Veth { peer } => {
            let mut far = describe(Builder::default(), peer.name, &peer.device);
            if let Some(fd) = &related.peer_netns {
                far = far.setns_by_fd(fd.as_raw_fd());
            }
            (InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(far.build())))
        }
        LinkKind::Vxlan { vni, udp_port, local, learning, .. } => {
            let mut data = vec![InfoVxlan::Id(*vni), InfoVxlan::Port(*udp_port)];
            data.extend(tunnel(*local, related.underlay, *learning));
            (InfoKind::Vxlan, InfoData::Vxlan(data))
        }
        LinkKind::Macvlan { mode, .. } => (InfoKind::MacVlan, macvlan(*mode)),
        LinkKind::Ipvlan { mode, .. } => (InfoKind::IpVlan, ipvlan(*mode)),
        LinkKind::Vlan { vid, .. } => (InfoKind::Vlan, InfoData::Vlan(vec![InfoVlan::Id(*vid)])),
        LinkKind::Ifb => {
            return Ok(request(describe(Builder::new_with_info_kind(InfoKind::Ifb), name, &link.device), NEW));
        }
        LinkKind::Plugin { source } => {
            return Err(Refusal::new(libc::EOPNOTSUPP, format!("{source} is a plugin's to make")));
        }
        LinkKind::Other { name } => {
            return Err(Refusal::new(libc::EOPNOTSUPP, format!("netrec makes no devices of kind {name}")));
        }
    };
    let builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind).set_info_data(data);
    let mut message = describe(builder, name, &link.device);
    if let Some(master) = related.master {
        message = message.controller(master);
    }
    if let Some(parent) = related.parent {
        message = message.append_extra_attribute(LinkAttribute::Link(parent));
    }
    if let Some(fd) = &related.netns {
        message = message.setns_by_fd(fd.as_raw_fd());
    }
    Ok(request(message, NEW))
}

/// A message that a kernel with ipvlans refuses as well, but for another reason: there is none on `lo` (index 1).
pub(crate) fn ask_for_ipvlan() -> Result<Request, Refusal> {
    let device = Device {
        mac: Mac([2; 6]),
        mtu: ETH_DATA_LEN,
        up: false,
        link_local: true,
        promote_secondaries: false,
        no_arp: false,
    };
    let kind = LinkKind::Ipvlan { parent: InterfaceName::LO, mode: IpvlanMode::L2 };
    let link = Link { kind, device, master: None, port: None, leaving: false };
    create(InterfaceName::UNKNOWN, &link, &Related { parent: Some(1), ..Related::default() })
}

/// The flags of a creating message.
const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// What a creating message names beside the link itself.
#[derive(Debug, Default)]
pub(crate) struct Related {
    /// The index of the bridge that it becomes a port of.
    pub master: Option<u32>,
    /// The index of the device that a VXLAN device runs over.
    pub underlay: Option<u32>,
    /// The index of the device that it is on.
    pub parent: Option<u32>,
    /// The namespace of a veth's other end.
    pub peer_netns: Option<OwnedFd>,
    /// The namespace of the link itself, where that is not the one that the message goes to.
    pub netns: Option<OwnedFd>,
}

/// What makes a macvlan the kind of one that it is.
pub(super) fn macvlan(mode: MacvlanMode) -> InfoData {
    let mode = match mode {
        MacvlanMode::Private => MacVlanMode::Private,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
        MacvlanMode::Source => MacVlanMode::Source,
    };
    InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)])
}

/// The same of an ipvlan.
pub(super) fn ipvlan(mode: IpvlanMode) -> InfoData {
    let mode = match mode {
        IpvlanMode::L2 => IpVlanMode::L2,
        IpvlanMode::L3 => IpVlanMode::L3,
        IpvlanMode::L3s => IpVlanMode::L3S,
    };
    InfoData::IpVlan(vec![InfoIpVlan::Mode(mode)])
}

/// What the kernel can change of a VXLAN device. A device below can be given or changed, but not taken away: a 0 in its
/// place is no error and changes nothing.
pub(super) fn tunnel(local: IpAddr, underlay: Option<u32>, learning: bool) -> Vec<InfoVxlan> {
    let local = match local {
        IpAddr::V4(v4) => InfoVxlan::Local(v4),
        IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    };
    [local, InfoVxlan::Learning(learning)].into_iter().chain(underlay.map(InfoVxlan::Link)).collect()
}

pub(super) type Builder = LinkMessageBuilder<LinkUnspec>;

pub(super) fn request(message: Builder, flags: u16) -> Request {
    Request { message: RouteNetlinkMessage::NewLink(message.build()), flags }
}

pub(super) fn group_of(link: &Link) -> u32 {
    if link.leaving { GROUP_LEAVING } else { GROUP }
}

pub(super) fn stp_state(on: bool) -> BridgeStpState {
    if on { BridgeStpState::KernelStp } else { BridgeStpState::Disabled }
}

/// What a creating message says of a device. One queue each way: with the default, one per processor, the kernel waits
/// for an RCU grace period per veth pair, which is a third of the time it takes to make one.
fn describe(message: Builder, name: InterfaceName, mac: Mac, mtu: u32, group: u32) -> Builder {
    message
        .name(name.as_str())
        .address(mac.0.to_vec())
        .mtu(mtu)
        .link_group(group)
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
}

/// The MTU that a link has after its creation whatever the message says. A bridge takes its ports' smallest MTU as they
/// come and go, and 1500 when it has none, until somebody has changed the MTU of the finished device; the one in the
/// creating message does not count as such.
pub(super) fn created_mtu(link: &Link) -> Option<u32> {
    matches!(link.kind, LinkKind::Bridge { .. }).then_some(ETH_DATA_LEN)
}

/// Takes a plugin's device into a container, with its name there and its mark: in one message, so that a crash leaves none
/// without. An Ethernet address is set where it is another one, since some devices take none.
pub(crate) fn take_in(found: &RawLink, name: InterfaceName, link: &Link, alias: &str, netns: &OwnedFd) -> Request {
    let message = Builder::default().index(found.index).setns_by_fd(netns.as_raw_fd()).name(name.as_str());
    let mut message = message.link_group(group_of(link)).alias(alias).mtu(link.device.mtu);
    if found.device.mac != link.device.mac {
        message = message.address(link.device.mac.0.to_vec());
    }
    request(message, 0)
}

/// Gives a plugin's device back to the host: nobody's, and down, as all are that come from another namespace.
pub(crate) fn give_back(index: u32, source: InterfaceName, host: &OwnedFd) -> Request {
    let message = Builder::default().index(index).setns_by_fd(host.as_raw_fd()).name(source.as_str());
    request(message.link_group(0).alias(""), 0)
}

/// Puts a link among those that leave.
pub(crate) fn doom(name: InterfaceName) -> Request {
    request(Builder::default().name(name.as_str()).link_group(GROUP_LEAVING), 0)
}

/// Removes all that leave, in one message: one by one each would wait for several RCU grace periods, 20 ms in all.
pub(crate) fn delete_doomed() -> Request {
    let message = Builder::default().link_group(GROUP_LEAVING).build();
    Request { message: RouteNetlinkMessage::DelLink(message), flags: 0 }
}

/// Makes a device nobody's: of the usual group and without an alias.
pub(crate) fn disown(name: InterfaceName) -> Request {
    request(Builder::default().name(name.as_str()).link_group(0).alias(""), 0)
}

/// Marks the `lo` of a namespace, and changes its state where one is given.
pub(crate) fn mark_lo(group: u32, mark: &Mark, up: Option<bool>) -> Request {
    let mut message = Builder::default().name("lo").link_group(group).alias(mark.text());
    match up {
        Some(true) => message = message.up(),
        Some(false) => message = message.down(),
        None => {}
    }
    request(message, 0)
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::NetlinkSerializable;

    use super::*;

    #[test]
    fn marks_are_read_as_they_are_written() {
        for (owner, inode) in [("networks.front", None), ("containers.web.ports[0]", Some(4_026_531_833))] {
            let mark = Mark::new(Owner::new(owner), inode);
            assert_eq!(Mark::parse(&mark.text()), Some(mark));
        }
        let owner = Owner::new("containers.web.networks.wide");
        let mark = Mark { source: "veth0".parse().ok(), ..Mark::new(owner, Some(77)) };
        assert_eq!(mark.text(), "netrec containers.web.networks.wide @77 from veth0");
        assert_eq!(Mark::parse(&mark.text()), Some(mark));
        assert_eq!(Mark::parse("uplink to netrec web"), None);
        assert_eq!(Mark::parse("netrec web @here"), None);
    }

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    /// The body of the message that makes a link on the device of index 7.
    fn created(kind: LinkKind) -> Vec<u8> {
        let device =
            Device { mac: Mac(MAC), mtu: 1400, up: false, link_local: true, promote_secondaries: false, no_arp: false };
        let link = Link { kind, device, master: None, port: None, leaving: false };
        let name = "eth0".parse().unwrap();
        let message = create(name, &link, &Related { parent: Some(7), ..Related::default() }).unwrap().message;
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        body
    }

    fn value(body: &[u8], attribute: u16) -> Vec<u8> {
        Attributes::new(&body[16..]).value(attribute).unwrap().to_vec()
    }

    /// An attribute as the kernel lays it out.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `IFLA_LINKINFO` of a kind with one attribute in its data.
    fn info(kind: &str, of_kind: u16, value: &[u8]) -> Vec<u8> {
        let name = attribute(IFLA_INFO_KIND, &[kind.as_bytes(), &[0]].concat());
        [name, attribute(IFLA_INFO_DATA, &attribute(of_kind, value))].concat()
    }

    /// This kernel has neither ipvlans nor VLANs, so that their messages are compared with what `linux/if_link.h` says and
    /// not tried: whether a kernel takes them, and what it makes of them, is not shown here.
    #[test]
    fn what_is_on_a_device_is_asked_for_in_one_message() {
        let parent: InterfaceName = "uplink".parse().unwrap();
        let macvlan = |mode| LinkKind::Macvlan { parent, mode };
        let ipvlan = |mode| LinkKind::Ipvlan { parent, mode };
        let all = [
            (macvlan(MacvlanMode::Private), "macvlan", 1, 1_u32.to_ne_bytes().to_vec()),
            (macvlan(MacvlanMode::Vepa), "macvlan", 1, 2_u32.to_ne_bytes().to_vec()),
            (macvlan(MacvlanMode::Bridge), "macvlan", 1, 4_u32.to_ne_bytes().to_vec()),
            (macvlan(MacvlanMode::Passthru), "macvlan", 1, 8_u32.to_ne_bytes().to_vec()),
            (macvlan(MacvlanMode::Source), "macvlan", 1, 16_u32.to_ne_bytes().to_vec()),
            (ipvlan(IpvlanMode::L2), "ipvlan", 1, 0_u16.to_ne_bytes().to_vec()),
            (ipvlan(IpvlanMode::L3), "ipvlan", 1, 1_u16.to_ne_bytes().to_vec()),
            (ipvlan(IpvlanMode::L3s), "ipvlan", 1, 2_u16.to_ne_bytes().to_vec()),
            (LinkKind::Vlan { parent, vid: 4094 }, "vlan", 1, 4094_u16.to_ne_bytes().to_vec()),
        ];
        for (kind, name, of_kind, data) in all {
            let body = created(kind.clone());
            assert_eq!(value(&body, IFLA_LINK), 7_u32.to_ne_bytes(), "{kind:?}");
            assert_eq!(value(&body, IFLA_ADDRESS), MAC, "{kind:?}");
            assert_eq!(value(&body, IFLA_MTU), 1400_u32.to_ne_bytes(), "{kind:?}");
            assert_eq!(value(&body, IFLA_GROUP), GROUP.to_ne_bytes(), "{kind:?}");
            assert_eq!(value(&body, IFLA_LINKINFO), info(name, of_kind, &data), "{kind:?}");
            // And is read back as what it was.
            let raw = parse(&body).unwrap();
            let read = match raw.kind {
                RawKind::Macvlan(mode) => macvlan(mode),
                RawKind::Ipvlan(mode) => ipvlan(mode),
                RawKind::Vlan(vid) => LinkKind::Vlan { parent, vid },
                other => panic!("{other:?}"),
            };
            assert_eq!((read, raw.peer), (kind, Some(7)));
        }
    }

    /// The kernel tells more than was asked for: an ipvlan's flags, a VLAN's protocol, and where the device below is.
    #[test]
    fn what_the_kernel_tells_of_ipvlans_and_vlans_is_read() {
        let reply = |info: Vec<u8>| {
            let mut body = vec![0; 16];
            body[4..8].copy_from_slice(&9_u32.to_ne_bytes());
            body.extend(attribute(IFLA_IFNAME, b"eth0\0"));
            body.extend(attribute(IFLA_GROUP, &GROUP.to_ne_bytes()));
            body.extend(attribute(IFLA_LINK, &7_u32.to_ne_bytes()));
            body.extend(attribute(IFLA_LINK_NETNSID, &3_u32.to_ne_bytes()));
            body.extend(attribute(IFLA_IFALIAS, b"netrec containers.web.networks.lan @77\0"));
            body.extend(attribute(IFLA_LINKINFO, &info));
            parse(&body).unwrap()
        };
        let with = |kind: &str, data: &[Vec<u8>]| {
            let name = attribute(IFLA_INFO_KIND, &[kind.as_bytes(), &[0]].concat());
            reply([name, attribute(IFLA_INFO_DATA, &data.concat())].concat())
        };
        let ipvlan = with("ipvlan", &[attribute(1, &2_u16.to_ne_bytes()), attribute(2, &0_u16.to_ne_bytes())]);
        assert_eq!(ipvlan.kind, RawKind::Ipvlan(IpvlanMode::L3s));
        assert_eq!((ipvlan.peer, ipvlan.peer_nsid), (Some(7), Some(3)));
        assert_eq!(ipvlan.standing(77), Standing::Ours);
        assert_eq!(ipvlan.standing(78), Standing::Foreign(ANOTHER_HOST.into()));
        // Protocol 802.1Q in network byte order, the id, and flags with their mask.
        let data = [
            attribute(5, &0x8100_u16.to_be_bytes()),
            attribute(1, &10_u16.to_ne_bytes()),
            attribute(2, &[1, 0, 0, 0, 255, 0, 0, 0]),
        ];
        assert_eq!(with("vlan", &data).kind, RawKind::Vlan(10));
        let data = [attribute(1, &8_u32.to_ne_bytes()), attribute(2, &1_u16.to_ne_bytes())];
        assert_eq!(with("macvlan", &data).kind, RawKind::Macvlan(MacvlanMode::Passthru));
    }
}
