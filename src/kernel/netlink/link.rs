//! Devices: bridges, the two ends of veth pairs, and VXLAN devices. How existing ones change is in `change`.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkExtentMask,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::super::transport::{DumpError, Refusal, Request, Socket};
use super::{Attributes, ip_of, text_of, u32_at};
use crate::state::{BridgePort, Device, GROUP, GROUP_LEAVING, InterfaceName, Link, LinkKind, Mac, Owner, Standing};

// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
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
    /// The index of a veth's other end, in that end's namespace.
    pub peer: Option<u32>,
    /// The number that this namespace gave to the other end's; none when it is this one.
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
    Other(String),
}

impl RawKind {
    /// The kernel's word for it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Bridge { .. } => "bridge",
            Self::Veth => "veth",
            Self::Vxlan { .. } => "vxlan",
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
/// netrec ran in. Without the number a netrec inside of a container would take the container's devices for its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub owner: Owner,
    pub inode: Option<u64>,
}

impl Mark {
    /// Reads an alias; none when netrec did not write it.
    pub(crate) fn parse(alias: &str) -> Option<Self> {
        let rest = alias.strip_prefix("netrec ")?;
        match rest.split_once(" @") {
            Some((owner, inode)) => Some(Self { owner: Owner::new(owner), inode: Some(inode.parse().ok()?) }),
            None => Some(Self { owner: Owner::new(rest), inode: None }),
        }
    }

    /// The alias.
    pub(crate) fn text(&self) -> String {
        match self.inode {
            Some(inode) => format!("netrec {} @{inode}", self.owner),
            None => format!("netrec {}", self.owner),
        }
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
pub(super) fn parse(body: &[u8]) -> Option<RawLink> {
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
        LinkKind::Other { name } => {
            return Err(Refusal::new(libc::EOPNOTSUPP, format!("netrec makes no devices of kind {name}")));
        }
    };
    let builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind).set_info_data(data);
    let mut message = describe(builder, name, &link.device);
    if let Some(master) = related.master {
        message = message.controller(master);
    }
    Ok(request(message, NLM_F_CREATE | NLM_F_EXCL))
}

/// What a creating message names beside the link itself.
#[derive(Debug, Default)]
pub(crate) struct Related {
    /// The index of the bridge that it becomes a port of.
    pub master: Option<u32>,
    /// The index of the device that a VXLAN device runs over.
    pub underlay: Option<u32>,
    /// The namespace of a veth's other end.
    pub peer_netns: Option<OwnedFd>,
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
    use super::*;

    #[test]
    fn marks_are_read_as_they_are_written() {
        for (owner, inode) in [("networks.front", None), ("containers.web.ports[0]", Some(4_026_531_833))] {
            let mark = Mark { owner: Owner::new(owner), inode };
            assert_eq!(Mark::parse(&mark.text()), Some(mark));
        }
        assert_eq!(Mark::parse("uplink to netrec web"), None);
        assert_eq!(Mark::parse("netrec web @here"), None);
    }
}
