//! The floor: the messages that make, read or remove the state and nothing else. No file, no reading back, no
//! difference, no verification; every message is made before the clock starts, but for the firewall's one transaction,
//! which netrec's own writer makes (a millisecond).
//!
//! Messages are those that netrec sends, in its order: nothing comes up before its rules stand.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use netrec::kernel::fault::Writes;
use netrec::kernel::nftables::Firewall;
use netrec::state::firewall::TABLE;
use netrec::state::{Device, GROUP, InterfaceName, Key, Link, LinkKind, Netns, Object, PROTOCOL, State, Step};
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol,
};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::wire::{self, DESCRIPTOR, Socket};

const RUN_NETNS: &str = "/run/netns";
const OWN: &str = "/proc/thread-self/ns/net";
/// Namespaces for which one `/proc` is used, as in netrec.
const SEARCHED: usize = 64;

type Builder = LinkMessageBuilder<LinkUnspec>;
type Messages = Vec<Vec<u8>>;

/// A namespace with the messages of each stage.
#[derive(Default)]
struct Space {
    path: PathBuf,
    lo: Messages,
    before_up: Messages,
    /// By their paths in a `/proc`.
    sysctls: Vec<(PathBuf, String)>,
    up: Messages,
}

/// All that makes a state, ready to be sent.
pub(crate) struct Recipe {
    spaces: Vec<Space>,
    bridges: Messages,
    /// Each with the place of its container in `spaces`.
    pairs: Vec<(usize, Vec<u8>)>,
    before_up: Messages,
    addresses: Messages,
    sysctls: Vec<(PathBuf, String)>,
    firewall: Vec<Step>,
    group: Vec<u8>,
}

impl Recipe {
    pub(crate) fn of(desired: &State) -> Self {
        let inode = fs::metadata(OWN).unwrap().ino();
        let mut bridges = BTreeMap::new();
        let mut index: BTreeMap<Netns, usize> = BTreeMap::new();
        let mut recipe = Self {
            spaces: Vec::new(),
            bridges: Vec::new(),
            pairs: Vec::new(),
            before_up: Vec::new(),
            addresses: Vec::new(),
            sysctls: Vec::new(),
            firewall: Vec::new(),
            group: wire::change(RouteNetlinkMessage::DelLink(Builder::default().link_group(GROUP).build()), 0),
        };
        let (mut settings, mut ups) = (Vec::new(), Vec::new());
        for (key, entry) in desired {
            let mark = format!("netrec {}", entry.owner().unwrap());
            let mark_inside = format!("{mark} @{inode}");
            match (key, &entry.object) {
                (Key::Netns { netns }, _) => {
                    index.insert(netns.clone(), recipe.spaces.len());
                    let path = Path::new(RUN_NETNS).join(netns.label().unwrap());
                    let lo = Builder::default().name("lo").link_group(GROUP).alias(mark_inside).up();
                    recipe.spaces.push(Space { path, lo: vec![set(lo)], ..Space::default() });
                }
                (Key::Link { name, .. }, Object::Link(link)) => {
                    if let LinkKind::Veth { peer } = &link.kind {
                        let space = index[&peer.netns];
                        let inside = &mut recipe.spaces[space];
                        let message = parameters(named(peer.name).alias(mark_inside), &peer.device);
                        inside.before_up.push(set(message));
                        inside.up.push(set(named(peer.name).up()));
                        recipe.pairs.push((space, create(*name, link, &bridges)));
                    } else {
                        // In a new namespace `lo` is 1.
                        bridges.insert(*name, u32::try_from(bridges.len()).unwrap() + 2);
                        recipe.bridges.push(create(*name, link, &bridges));
                    }
                    let message = parameters(named(*name).alias(mark), &link.device);
                    settings.push(set(if link.port.is_some_and(|port| port.hairpin) {
                        hairpin(message)
                    } else {
                        message
                    }));
                    ups.push(set(named(*name).up()));
                }
                (Key::Address { netns, link, ip, .. }, _) => {
                    let mut message = AddressMessage::default();
                    message.header.family = family(*ip);
                    message.header.prefix_len = ip.prefix();
                    message.header.index = bridges.get(link).copied().unwrap_or(2);
                    message.attributes = vec![
                        AddressAttribute::Local(ip.ip()),
                        AddressAttribute::Address(ip.ip()),
                        AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)),
                    ];
                    if ip.is_ipv6() {
                        message.header.flags = AddressHeaderFlags::Nodad;
                        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
                    }
                    let message = wire::change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL);
                    match index.get(netns) {
                        Some(space) => recipe.spaces[*space].before_up.push(message),
                        None => recipe.addresses.push(message),
                    }
                }
                (Key::Route { netns, table, to, .. }, Object::Route(route)) => {
                    assert!(to.prefix() == 0, "only default routes are known here");
                    let mut message = RouteMessage::default();
                    message.header.address_family = family(*to);
                    message.header.protocol = RouteProtocol::from(PROTOCOL);
                    message.header.kind = RouteType::Unicast;
                    message.header.scope = RouteScope::Universe;
                    message.attributes = vec![
                        RouteAttribute::Table(*table),
                        RouteAttribute::Oif(2),
                        RouteAttribute::Gateway(route.via.unwrap().into()),
                    ];
                    let message = wire::change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL);
                    recipe.spaces[index[netns]].up.push(message);
                }
                (Key::Sysctl { netns, path }, Object::Sysctl(sysctl)) => {
                    let list = match index.get(netns) {
                        Some(space) => &mut recipe.spaces[*space].sysctls,
                        None => &mut recipe.sysctls,
                    };
                    list.push((Path::new("sys").join(&**path), sysctl.value.clone()));
                }
                _ => recipe.firewall.push(Step::new(key.clone(), None, Some(entry.clone()))),
            }
        }
        recipe.before_up.extend(settings.into_iter().chain(ups));
        recipe
    }

    pub(crate) fn apply(&self) {
        let home = File::open(OWN).unwrap();
        let mut host = Socket::open();
        DirBuilder::new().mode(0o755).create(RUN_NETNS).unwrap();
        mount(Some(RUN_NETNS), RUN_NETNS, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        mount(None::<&str>, RUN_NETNS, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        let mut sockets: Vec<Socket> = self
            .spaces
            .iter()
            .map(|space| {
                OpenOptions::new().write(true).create_new(true).mode(0o444).open(&space.path).unwrap();
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                let mut socket = Socket::open();
                socket.send(&space.lo);
                mount(Some(OWN), &space.path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
                setns(&home, CloneFlags::CLONE_NEWNET).unwrap();
                socket
            })
            .collect();
        host.send(&self.bridges);
        for pairs in self.pairs.chunks(128) {
            let open = |(space, _): &(usize, Vec<u8>)| File::open(&self.spaces[*space].path).unwrap().into();
            let descriptors: Vec<_> = pairs.iter().map(open).collect();
            let messages: Messages =
                pairs.iter().zip(&descriptors).map(|((_, m), fd)| wire::with_descriptor(m, fd)).collect();
            host.send(&messages);
        }
        host.send(&self.before_up);
        let system: OwnedFd = File::open("/proc").unwrap().into();
        for (spaces, sockets) in self.spaces.chunks(SEARCHED).zip(sockets.chunks_mut(SEARCHED)) {
            let proc = proc();
            for (space, socket) in spaces.iter().zip(sockets) {
                socket.send(&space.before_up);
                if !space.sysctls.is_empty() {
                    setns(File::open(&space.path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                    write(&proc, &space.sysctls);
                    setns(&home, CloneFlags::CLONE_NEWNET).unwrap();
                }
            }
        }
        host.send(&self.addresses);
        Firewall::open().unwrap().run(&self.firewall, &mut Writes::new()).unwrap();
        write(&system, &self.sysctls);
        for (space, socket) in self.spaces.iter().zip(&mut sockets) {
            socket.send(&space.up);
        }
    }

    pub(crate) fn destroy(&self) {
        Socket::open().send(&[&self.group]);
        for space in &self.spaces {
            umount2(&space.path, MntFlags::MNT_DETACH).unwrap();
            fs::remove_file(&space.path).unwrap();
        }
        let table = self.firewall.iter().find(|step| step.key == Key::Table).unwrap().clone();
        let gone = Step::new(Key::Table, table.after, None);
        Firewall::open().unwrap().run(&[gone], &mut Writes::new()).unwrap();
    }
}

/// A `/proc` for a few namespaces, as netrec has it: in the system's the kernel would search among all of them.
fn proc() -> OwnedFd {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_create(&context).unwrap();
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}

fn write(proc: &OwnedFd, sysctls: &[(PathBuf, String)]) {
    for (path, value) in sysctls {
        let mut file: File = openat(proc, path, OFlag::O_WRONLY, Mode::empty()).unwrap().into();
        file.write_all(value.as_bytes()).unwrap();
    }
}

fn family(net: IpNetwork) -> AddressFamily {
    if net.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn named(name: InterfaceName) -> Builder {
    Builder::default().name(name.as_str())
}

fn set(message: Builder) -> Vec<u8> {
    wire::change(RouteNetlinkMessage::NewLink(message.build()), 0)
}

fn hairpin(message: Builder) -> Builder {
    let data = InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]);
    message.set_port_kind(InfoPortKind::Bridge).set_port_data(data)
}

/// The parameters of both families: `promote_secondaries`, and no link-local address where there is to be none.
fn parameters(message: Builder, device: &Device) -> Builder {
    const IFLA_INET_CONF: u16 = 1;
    const PROMOTE_SECONDARIES: u16 = 20;
    let mut families = Vec::new();
    if device.promote_secondaries {
        let parameter = [8u16.to_ne_bytes(), PROMOTE_SECONDARIES.to_ne_bytes()].concat();
        let parameter = [parameter, 1u32.to_ne_bytes().to_vec()].concat();
        families.push(AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF, parameter))]));
    }
    if !device.link_local {
        families.push(AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]));
    }
    message.append_extra_attribute(LinkAttribute::AfSpecUnspec(families))
}

fn described(message: Builder, name: InterfaceName, device: &Device) -> Builder {
    message
        .name(name.as_str())
        .address(device.mac.0.to_vec())
        .mtu(device.mtu)
        .link_group(GROUP)
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
}

fn create(name: InterfaceName, link: &Link, bridges: &BTreeMap<InterfaceName, u32>) -> Vec<u8> {
    let (kind, data) = match &link.kind {
        LinkKind::Bridge { .. } => (
            InfoKind::Bridge,
            InfoData::Bridge(vec![InfoBridge::StpState(rtnetlink::packet_route::link::BridgeStpState::Disabled)]),
        ),
        LinkKind::Veth { peer } => {
            let far = described(Builder::default(), peer.name, &peer.device).setns_by_fd(DESCRIPTOR);
            (InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(far.build())))
        }
        _ => unreachable!("the file has bridge networks alone"),
    };
    let builder = Builder::new_with_info_kind(kind).set_info_data(data);
    let mut message = described(builder, name, &link.device);
    if let Some(master) = link.master {
        message = message.controller(bridges[&master]);
    }
    wire::change(RouteNetlinkMessage::NewLink(message.build()), NLM_F_CREATE | NLM_F_EXCL)
}

/// All that reads a state, ready to be sent.
pub(crate) struct Reading {
    spaces: Vec<PathBuf>,
    /// The host's; those of devices come with the devices.
    sysctls: Vec<PathBuf>,
    links: Vec<u8>,
    addresses: Vec<u8>,
    routes: Vec<u8>,
    host_routes: Vec<u8>,
    firewall: Messages,
}

impl Reading {
    pub(crate) fn of(desired: &State) -> Self {
        // NFT_MSG_GETSET, _GETCHAIN, _GETRULE, and _GETSETELEM of each set.
        let mut firewall: Messages = [10, 4, 7].map(|kind| wire::nftables_dump(kind, &[(1, TABLE)])).into();
        let (mut spaces, mut sysctls) = (Vec::new(), Vec::new());
        for (key, _) in desired {
            match key {
                Key::Netns { netns } => spaces.push(Path::new(RUN_NETNS).join(netns.label().unwrap())),
                Key::Sysctl { netns, path } if netns.is_host() && !path.contains("/conf/") => {
                    sysctls.push(Path::new("/proc/sys").join(&**path));
                }
                Key::Set { name } => firewall.push(wire::nftables_dump(13, &[(1, TABLE), (2, name)])),
                _ => {}
            }
        }
        let links =
            Builder::default().append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])).build();
        let mut host_routes = RouteMessage::default();
        host_routes.header.kind = RouteType::Unicast;
        let routes = host_routes.clone();
        host_routes.header.protocol = RouteProtocol::from(PROTOCOL);
        Self {
            spaces,
            sysctls,
            links: wire::dump(RouteNetlinkMessage::GetLink(links)),
            addresses: wire::dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())),
            routes: wire::dump(RouteNetlinkMessage::GetRoute(routes)),
            host_routes: wire::dump(RouteNetlinkMessage::GetRoute(host_routes)),
            firewall,
        }
    }

    pub(crate) fn run(&self) {
        let home = File::open(OWN).unwrap();
        let mut host = Socket::open();
        for message in [&self.links, &self.addresses, &self.host_routes] {
            host.dump(message);
        }
        for path in &self.sysctls {
            fs::read(path).unwrap();
        }
        for space in &self.spaces {
            let file = File::open(space).unwrap();
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            let mut socket = Socket::open();
            setns(&home, CloneFlags::CLONE_NEWNET).unwrap();
            for message in [&self.links, &self.addresses, &self.routes] {
                socket.dump(message);
            }
        }
        let mut netfilter = Socket::netfilter();
        for message in &self.firewall {
            netfilter.dump(message);
        }
    }
}
