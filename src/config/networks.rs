//! `[networks.NAME]`: one network at a time.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::driver::{self, Keys, Named};
use super::file::owner;
use super::overlay::{self, OverlayDraft};
use super::parent;
use super::reader::{Item, Placed, Problems, named, parsed, tick};
use super::remote;
use super::report::Problem;
use super::types::{Driver, Mode, Network, Parent, Place, Remote, Subnet};
use super::{keys, values};
use crate::state::{IPV6_MIN_MTU, InterfaceName, IpvlanMode, MacvlanMode, ObjectName};

/// The least MTU of IPv4 (RFC 791; the kernel's `ETH_MIN_MTU`), of IPv6 (RFC 8200), and the most of a bridge.
pub(super) const MTU_MIN: i64 = 68;
pub(super) const MTU_MAX: i64 = 65535;

/// A network as far as it could be read, with the places that checks need.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: ObjectName,
    pub(super) place: Place,
    pub(super) subnets: Vec<DraftSubnet>,
    /// Whether every subnet could be read, so that an address in none of them is wrong for sure.
    pub(super) whole: bool,
    pub(super) bridge: Option<Placed<InterfaceName>>,
    reserve: Vec<IpAddr>,
    mtu: Option<u32>,
    pub(super) modes: [Mode; 2],
    icc: bool,
    snat: Vec<Placed<IpAddr>>,
    pub(super) trusted: Vec<Placed<InterfaceName>>,
    pub(super) adopt: bool,
    pub(super) driver: DraftDriver,
}

/// What only networks of one driver have.
#[derive(Debug)]
pub(super) enum DraftDriver {
    Bridge,
    Overlay(OverlayDraft),
    Macvlan(Placed<Parent>, MacvlanMode),
    Ipvlan(Placed<Parent>, Placed<IpvlanMode>),
    /// Without its part where there is no plugin to speak of.
    Remote(Option<Remote>),
    Host,
    Null,
}

/// A subnet with its places.
#[derive(Debug)]
pub(super) struct DraftSubnet {
    pub(super) net: IpNetwork,
    pub(super) place: Place,
    pub(super) gateway: Option<IpAddr>,
    /// Where the gateway is given; none where it is the first address.
    pub(super) gateway_place: Option<Place>,
    range: Option<Placed<IpNetwork>>,
}

impl Draft {
    /// The network, once nothing is wrong.
    pub(super) fn finish(self) -> Network {
        let subnet = |s: DraftSubnet| Subnet {
            net: s.net,
            gateway: s.gateway,
            says_gateway: s.gateway_place.is_some() || s.gateway.is_none(),
            range: s.range.map_or(s.net, |range| range.value),
            whole: s.net,
        };
        Network {
            owner: owner(&["networks", self.name.as_str()]),
            name: self.name,
            place: self.place,
            subnets: self.subnets.into_iter().map(subnet).collect(),
            reserve: self.reserve,
            bridge: self.bridge.map(|b| b.value),
            mtu: self.mtu,
            modes: self.modes,
            icc: self.icc,
            snat: self.snat.into_iter().map(|snat| snat.value).collect(),
            trusted: self.trusted.into_iter().map(|name| name.value).collect(),
            adopt: self.adopt,
            driver: match self.driver {
                DraftDriver::Bridge => Driver::Bridge,
                DraftDriver::Overlay(overlay) => Driver::Overlay(overlay.finish()),
                DraftDriver::Macvlan(parent, mode) => Driver::Macvlan(parent.value, mode),
                DraftDriver::Ipvlan(parent, mode) => Driver::Ipvlan(parent.value, mode.value),
                DraftDriver::Remote(remote) => remote.map_or(Driver::Null, Driver::Remote),
                DraftDriver::Host => Driver::Host,
                DraftDriver::Null => Driver::Null,
            },
        }
    }

    /// What an overlay network has more.
    pub(super) fn overlay(&self) -> Option<&OverlayDraft> {
        match &self.driver {
            DraftDriver::Overlay(overlay) => Some(overlay),
            _ => None,
        }
    }

    /// Whether the host has a bridge for it.
    pub(super) fn has_bridge(&self) -> bool {
        matches!(self.driver, DraftDriver::Bridge | DraftDriver::Overlay(_))
    }

    /// Whether a plugin makes it.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.driver, DraftDriver::Remote(_))
    }

    /// Whether it is the host's own stack.
    pub(super) fn is_host(&self) -> bool {
        matches!(self.driver, DraftDriver::Host)
    }

    /// Whether its containers have interfaces.
    pub(super) fn has_interfaces(&self) -> bool {
        !matches!(self.driver, DraftDriver::Host | DraftDriver::Null)
    }

    /// The device of the host's that its containers are on, and the kind of devices that they have there.
    pub(super) fn parent(&self) -> Option<(&Placed<Parent>, &'static str)> {
        match &self.driver {
            DraftDriver::Macvlan(parent, _) => Some((parent, "macvlan")),
            DraftDriver::Ipvlan(parent, _) => Some((parent, "ipvlan")),
            _ => None,
        }
    }

    /// Whether its containers have the Ethernet address of that device.
    pub(super) fn shares_mac(&self) -> bool {
        matches!(self.driver, DraftDriver::Ipvlan(..)) || self.is_passthru()
    }

    /// Whether one container has the whole of that device.
    pub(super) fn is_passthru(&self) -> bool {
        matches!(self.driver, DraftDriver::Macvlan(_, MacvlanMode::Passthru))
    }

    /// What all ipvlans on its device have in common.
    pub(super) fn ipvlan_mode(&self) -> Option<IpvlanMode> {
        if let DraftDriver::Ipvlan(_, mode) = &self.driver { Some(mode.value) } else { None }
    }

    /// The word for its driver.
    pub(super) fn driver_name(&self) -> &'static str {
        match &self.driver {
            DraftDriver::Bridge => "bridge",
            DraftDriver::Overlay(_) => "overlay",
            DraftDriver::Macvlan(..) => "macvlan",
            DraftDriver::Ipvlan(..) => "ipvlan",
            DraftDriver::Remote(_) => "remote",
            DraftDriver::Host => "host",
            DraftDriver::Null => "null",
        }
    }

    /// The mode of a family, where a subnet is of it and the host has a bridge for it.
    pub(super) fn mode(&self, ipv6: bool) -> Option<Mode> {
        (self.has_bridge() && self.subnets.iter().any(|s| s.net.is_ipv6() == ipv6))
            .then_some(self.modes[usize::from(ipv6)])
    }

    /// Whether a family has a way out of the network: by a gateway, or by the device itself.
    pub(super) fn has_way_out(&self, ipv6: bool) -> bool {
        let by_device = matches!(&self.driver, DraftDriver::Ipvlan(_, mode) if !mode.value.has_link());
        let way = |s: &DraftSubnet| s.net.is_ipv6() == ipv6 && (s.gateway.is_some() || by_device);
        self.modes[usize::from(ipv6)].passes() && self.subnets.iter().any(way)
    }

    /// The subnet an address is in.
    pub(super) fn subnet_of(&self, address: IpAddr) -> Option<&DraftSubnet> {
        self.subnets.iter().find(|s| s.net.contains(address))
    }

    /// The same, or the complaint that there is none; `what` is the address in words.
    fn home(&mut self, address: IpAddr, what: &str, item: &Item, problems: &mut Problems) -> Option<&mut DraftSubnet> {
        let index = self.subnets.iter().position(|s| s.net.contains(address));
        if index.is_none() && self.whole {
            problems.push(self.stranger(address, item.place(), what));
        }
        index.and_then(|i| self.subnets.get_mut(i))
    }

    /// The complaint about something that is in no subnet.
    pub(super) fn stranger(&self, address: IpAddr, place: Place, what: &str) -> Problem {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let problem = Problem::new(place, format!("{what} is in no subnet of network `{}`", self.name));
        let mut subnets = self.subnets.iter().filter(|s| s.net.is_ipv4() == address.is_ipv4()).peekable();
        if subnets.peek().is_none() {
            return problem.with_label(format!("the network has no {family} subnet"));
        }
        // More than a few would hide the message.
        subnets.take(4).fold(problem, |problem, s| problem.with_other(s.place.clone(), "a subnet"))
    }

    fn has_ipv6(&self) -> Option<&DraftSubnet> {
        self.subnets.iter().find(|s| s.net.is_ipv6())
    }
}

/// Reads a network; none where nothing can be said about it but that it is there.
pub(super) fn read(name: ObjectName, item: &Item, problems: &mut Problems) -> Option<Draft> {
    let table = item.table(&format!("write `[networks.{name}]`"), problems)?;
    let driver = driver::read(table, problems)?;
    let (table, meant) = driver::keys(table, driver, problems);
    let place = item.key_place();
    let mut draft = Draft {
        name,
        place,
        subnets: Vec::new(),
        whole: true,
        bridge: None,
        reserve: Vec::new(),
        mtu: None,
        modes: [Mode::Nat; 2],
        icc: true,
        snat: Vec::new(),
        trusted: Vec::new(),
        adopt: false,
        driver: DraftDriver::Bridge,
    };
    match driver {
        Named::Host => draft.driver = DraftDriver::Host,
        Named::Null => draft.driver = DraftDriver::Null,
        Named::Macvlan | Named::Ipvlan => draft.driver = parent::read(&draft, table, driver, &meant, problems)?,
        Named::Remote => draft.driver = DraftDriver::Remote(None),
        Named::Bridge | Named::Overlay => {}
    }
    if !draft.has_interfaces() {
        return Some(draft);
    }
    read_subnets(&mut draft, table, meant.contains(&"subnet"), problems);
    if draft.parent().is_some() {
        parent::no_gateway(&mut draft, table, problems);
    }
    read_modes(&mut draft, table, problems);
    if let Some(item) = table.get("gateway") {
        read_gateways(&mut draft, &item, problems);
    }
    if let Some(item) = table.get("range") {
        read_ranges(&mut draft, &item, problems);
    }
    if let Some(item) = table.get("reserve") {
        read_reserve(&mut draft, &item, problems);
    }
    if let Some(item) = table.get("mtu") {
        read_mtu(&mut draft, &item, problems);
    }
    draft.bridge = table.get("bridge").and_then(|item| read_bridge(&item, problems));
    let mut flag = |key, default| table.get(key).and_then(|item| item.boolean(problems)).unwrap_or(default);
    draft.icc = flag("icc", true);
    draft.adopt = flag("adopt", false);
    if draft.adopt
        && let Some(mode) = [false, true].into_iter().filter_map(|ipv6| draft.mode(ipv6)).find(|mode| !mode.passes())
        && let Some(item) = table.get("adopt")
    {
        let message = format!("the bridge of a network that is {} cannot be somebody else's", mode.as_str());
        let problem = Problem::new(item.key_place(), message);
        problems.push(problem.with_label("the host itself may be reached by it, and would be cut off"));
    }
    if driver == Named::Remote {
        draft.driver = DraftDriver::Remote(remote::read(&draft, table, &meant, problems));
    }
    if driver == Named::Overlay {
        draft.driver = DraftDriver::Overlay(overlay::read(&draft, table, &meant, problems));
    }
    if let Some(item) = table.get("snat") {
        read_snat(&mut draft, &item, problems);
    }
    if let Some(item) = table.get("trusted") {
        read_trusted(&mut draft, &item, problems);
    }
    Some(draft)
}

/// Reads `subnet`; `misspelt` is whether an unknown key was probably meant to be it.
fn read_subnets(draft: &mut Draft, table: Keys, misspelt: bool, problems: &mut Problems) {
    const HELP: &str = "netrec never invents a subnet: choose one that nothing else uses, such as \
                        `subnet = \"10.20.0.0/24\"`";
    let Some(item) = table.get("subnet") else {
        draft.whole = false;
        if !misspelt {
            let message = format!("network `{}` has no subnet", draft.name);
            problems.push(Problem::new(draft.place.clone(), message).with_label("`subnet` is missing").with_help(HELP));
        }
        return;
    };
    let items = item.one_or_more("at least one is needed", problems);
    draft.whole = !items.is_empty();
    for item in items {
        match read_subnet(&item, problems) {
            Some(net) => draft.subnets.push(DraftSubnet {
                net,
                place: item.place(),
                gateway: Some(values::next(net.network())),
                gateway_place: None,
                range: None,
            }),
            None => draft.whole = false,
        }
    }
}

fn read_subnet(item: &Item, problems: &mut Problems) -> Option<IpNetwork> {
    let text = item.string("a subnet such as `\"10.20.0.0/24\"`", problems)?;
    let net = parsed(values::cidr(text), item, problems)?;
    let (net, fault) = values::without_host_bits(net);
    if let Some(reason) = values::not_unicast(&net) {
        let message = format!("`{net}` cannot be a container subnet");
        problems.push(Problem::new(item.place(), message).with_label(reason));
        return None;
    }
    let longest = if net.is_ipv4() { 30 } else { 126 };
    if net.prefix() > longest {
        let message = format!("`{net}` is too small: it has no room for a gateway and a container");
        problems.push(Problem::new(item.place(), message).with_label(format!("the smallest is a `/{longest}`")));
        return None;
    }
    // The right value is plain, so that the rest can be checked against it.
    problems.extend(fault.map(|fault| fault.at(item)));
    Some(net)
}

/// Reads `internal` and `mode`, which is one for both families or a table.
fn read_modes(draft: &mut Draft, table: Keys, problems: &mut Problems) {
    let internal = table.get("internal").filter(|item| item.boolean(problems) == Some(true));
    if internal.is_some() {
        draft.modes = [Mode::Internal; 2];
    }
    let Some(item) = table.get("mode") else { return };
    if let Some(internal) = internal {
        problems.push(
            Problem::new(item.key_place(), "an internal network has no `mode`")
                .with_label("nothing gets in or out by any")
                .with_other(internal.key_place(), "it is internal"),
        );
    } else if let Some(table) = item.as_table() {
        table.check_keys(&keys::MODES, problems);
        for (ipv6, key, family) in [(false, "ipv4", "IPv4"), (true, "ipv6", "IPv6")] {
            let Some(item) = table.get(key) else { continue };
            if draft.whole && draft.mode(ipv6).is_none() {
                let message = format!("network `{}` has no {family} subnet", draft.name);
                problems.push(Problem::new(item.key_place(), message).with_label("so this says nothing"));
            } else if let Some(mode) = read_mode(&item, problems) {
                draft.modes[usize::from(ipv6)] = mode;
            }
        }
    } else if let Some(mode) = read_mode(&item, problems) {
        draft.modes = [mode; 2];
    }
    let isolated = |s: &DraftSubnet, draft: &[Mode; 2]| draft[usize::from(s.net.is_ipv6())] == Mode::Isolated;
    let modes = draft.modes;
    draft.subnets.iter_mut().filter(|s| isolated(s, &modes)).for_each(|s| s.gateway = None);
}

fn read_mode(item: &Item, problems: &mut Problems) -> Option<Mode> {
    const EXPECTED: &str = "`\"nat\"`, `\"routed\"` or `\"isolated\"`";
    let known = [Mode::Nat, Mode::Routed, Mode::Isolated];
    let Some(text) = item.as_str() else {
        let problem = item.type_problem(EXPECTED);
        problems.push(problem.with_help("for each family its own: `mode = { ipv4 = \"nat\", ipv6 = \"routed\" }`"));
        return None;
    };
    if let Some(mode) = known.into_iter().find(|mode| mode.as_str() == text) {
        return Some(mode);
    }
    let problem = Problem::new(item.place(), format!("unknown mode {}", tick(text)));
    let problem = match problems.suggest(text, known.map(Mode::as_str)) {
        _ if text == "internal" => problem.with_help("write `internal = true`"),
        Some(meant) => problem.with_label(format!("did you mean `{meant}`?")),
        None => problem.with_help(format!("a mode is {EXPECTED}")),
    };
    problems.push(problem);
    None
}

/// Reads `snat`: addresses, one of a family at most, of families that are rewritten.
fn read_snat(draft: &mut Draft, item: &Item, problems: &mut Problems) {
    for item in item.one_or_more("leave it out to masquerade", problems) {
        let Some(text) = item.string("an address", problems) else { continue };
        let Some(address) = parsed(values::address(text), &item, problems) else { continue };
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        let first = draft.snat.iter().find(|snat| snat.value.is_ipv6() == address.is_ipv6());
        if let Some(why) = values::not_unicast(&address.into()) {
            let message = format!("`{address}` cannot be a source address");
            problems.push(Problem::new(item.place(), message).with_label(why));
        } else if let Some(first) = first {
            problems.push(
                Problem::new(item.place(), format!("`snat` has two {family} addresses"))
                    .with_label("the second")
                    .with_other(first.place.clone(), "the first"),
            );
        } else if draft.whole && draft.mode(address.is_ipv6()).is_none() {
            let message = format!("network `{}` has no {family} subnet", draft.name);
            problems.push(Problem::new(item.place(), message).with_label("so this says nothing"));
        } else if let Some(subnet) = draft.subnet_of(address).filter(|subnet| subnet.gateway != Some(address)) {
            let message = format!("`snat` address `{address}` is of the network itself");
            problems.push(Problem::new(item.place(), message).with_other(subnet.place.clone(), "the subnet"));
        } else if !matches!(draft.mode(address.is_ipv6()), Some(Mode::Nat) | None) {
            let mode = draft.modes[usize::from(address.is_ipv6())].as_str();
            let message = format!("`snat` is for networks whose mode is `nat`, not `{mode}`");
            problems.push(Problem::new(item.place(), message));
        } else {
            draft.snat.push(item.placed(address));
        }
    }
}

/// Reads `trusted`: devices of the host.
fn read_trusted(draft: &mut Draft, item: &Item, problems: &mut Problems) {
    if item.as_list().is_some_and(|mut list| list.next().is_none()) {
        return;
    }
    if draft.whole && ![false, true].into_iter().filter_map(|ipv6| draft.mode(ipv6)).any(Mode::passes) {
        let message = format!("network `{}` lets nothing in, from no device", draft.name);
        problems.push(Problem::new(item.key_place(), message).with_label("so nothing can be trusted"));
        return;
    }
    for item in item.one_or_more("", problems) {
        let Some(text) = item.string("the name of a device", problems) else { continue };
        let Some(name) = parsed(named::<InterfaceName>(text), &item, problems) else { continue };
        if name == InterfaceName::LO {
            let problem = Problem::new(item.place(), "`lo` is no way in from outside");
            problems.push(problem.with_label("the host itself reaches containers anyway"));
        } else if draft.trusted.iter().any(|first| first.value == name) {
            problems.push(Problem::new(item.place(), format!("device `{name}` is listed twice")));
        } else {
            draft.trusted.push(item.placed(name));
        }
    }
}

fn read_gateways(draft: &mut Draft, item: &Item, problems: &mut Problems) {
    match item.as_bool() {
        Some(false) => draft.subnets.iter_mut().for_each(|s| s.gateway = None),
        Some(true) => {
            problems.push(
                Problem::new(item.place(), "`gateway` must be an address, a list of addresses or `false`, not `true`")
                    .with_help("without `gateway`, it is the first address of each subnet"),
            );
        }
        None => {
            for item in item.one_or_more("write `false` for none", problems) {
                if let Some(text) = item.string("an address", problems)
                    && let Some(address) = parsed(values::address(text), &item, problems)
                {
                    read_gateway(draft, address, &item, problems);
                }
            }
        }
    }
}

fn read_gateway(draft: &mut Draft, address: IpAddr, item: &Item, problems: &mut Problems) {
    let isolated = draft.modes[usize::from(address.is_ipv6())] == Mode::Isolated;
    let Some(subnet) = draft.home(address, &format!("gateway `{address}`"), item, problems) else { return };
    if let Some(why) = values::unusable(address, &subnet.net) {
        problems.push(
            Problem::new(item.place(), format!("gateway `{address}` is {why} of `{}`", subnet.net))
                .with_other(subnet.place.clone(), "the subnet"),
        );
    } else if isolated {
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        let message = format!("the host has no address on an isolated network, so that {family} has no gateway");
        problems.push(Problem::new(item.place(), message));
    } else if let Some(first) = &subnet.gateway_place {
        problems.push(
            Problem::new(item.place(), format!("subnet `{}` has two gateways", subnet.net))
                .with_label("the second")
                .with_other(first.clone(), "the first"),
        );
    } else {
        subnet.gateway = Some(address);
        subnet.gateway_place = Some(item.place());
    }
}

fn read_ranges(draft: &mut Draft, item: &Item, problems: &mut Problems) {
    for item in item.one_or_more("leave it out for the whole subnet", problems) {
        let Some(text) = item.string("a range such as `\"10.20.0.128/25\"`", problems) else {
            continue;
        };
        let Some(range) = parsed(values::cidr(text), &item, problems) else { continue };
        let (range, fault) = values::without_host_bits(range);
        problems.extend(fault.map(|fault| fault.at(&item)));
        read_range(draft, range, &item, problems);
    }
}

fn read_range(draft: &mut Draft, range: IpNetwork, item: &Item, problems: &mut Problems) {
    let Some(subnet) = draft.home(range.network(), &format!("range `{range}`"), item, problems) else { return };
    if !values::within(&range, &subnet.net) {
        problems.push(
            Problem::new(item.place(), format!("range `{range}` is larger than its subnet `{}`", subnet.net))
                .with_other(subnet.place.clone(), "the subnet"),
        );
    } else if let Some(first) = &subnet.range {
        problems.push(
            Problem::new(item.place(), format!("subnet `{}` has two ranges", subnet.net))
                .with_label("the second")
                .with_other(first.place.clone(), "the first"),
        );
    } else {
        subnet.range = Some(item.placed(range));
    }
}

fn read_reserve(draft: &mut Draft, item: &Item, problems: &mut Problems) {
    // An empty list reserves nothing, as no list does.
    if item.as_list().is_some_and(|mut list| list.next().is_none()) {
        return;
    }
    for item in item.one_or_more("", problems) {
        if let Some(text) = item.string("an address", problems)
            && let Some(address) = parsed(values::address(text), &item, problems)
            && draft.home(address, &format!("reserved address `{address}`"), &item, problems).is_some()
        {
            draft.reserve.push(address);
        }
    }
}

fn read_mtu(draft: &mut Draft, item: &Item, problems: &mut Problems) {
    let expected = format!("a number of bytes from {MTU_MIN} to {MTU_MAX}");
    let Some(mtu) = item.integer(&expected, MTU_MIN..=MTU_MAX, problems) else { return };
    draft.mtu = u32::try_from(mtu).ok();
    if let Some(subnet) = draft.has_ipv6()
        && draft.mtu.is_some_and(|mtu| mtu < IPV6_MIN_MTU)
    {
        problems.push(
            Problem::new(item.place(), format!("IPv6 needs an MTU of at least {IPV6_MIN_MTU}"))
                .with_other(subnet.place.clone(), "an IPv6 subnet"),
        );
    }
}

fn read_bridge(item: &Item, problems: &mut Problems) -> Option<Placed<InterfaceName>> {
    let text = item.string("the name of a device", problems)?;
    let name = parsed(interface_name(text), item, problems)?;
    Some(item.placed(name))
}

/// Parses the name of a device that netrec makes.
pub(super) fn interface_name(text: &str) -> Result<InterfaceName, super::reader::Fault> {
    match text {
        "lo" => Err("`lo` is the loopback device, which every namespace has already".to_owned().into()),
        // In plans, and so in states that are kept.
        "?" => Err("`?` stands for a device that cannot be seen: choose another name".to_owned().into()),
        _ => named(text),
    }
}
