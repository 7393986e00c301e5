//! The keys of the file, of every table: what each may hold, what it is for, and what holds without it. The one list for
//! the parser, which refuses all others, for the JSON Schema of `netrec schema`, and for docs/keys.md.

use super::driver::Named;
use super::hosts::ID_MAX;
use super::netns::PID_MAX;
use super::networks::{MTU_MAX, MTU_MIN};
use super::overlay::VNI_MAX;
use super::parent;
use super::types::{Mode, Protocol, Topology};

/// A table of the file.
#[derive(Debug)]
pub(super) struct Section {
    /// Its name among the definitions of the schema.
    pub(super) name: &'static str,
    /// Completes "the keys of".
    pub(super) whose: &'static str,
    /// What it is, for somebody who writes a file.
    pub(super) about: &'static str,
    pub(super) keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// What it is for, for somebody who writes a file.
    pub(super) about: &'static str,
    /// What holds without it, as JSON; none where that is nothing, or not the same everywhere.
    pub(super) default: Option<&'static str>,
    pub(super) need: Need,
    /// The drivers whose networks have it; none of them is all.
    pub(super) of: &'static [Named],
}

/// Whether a table can do without a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need {
    Optional,
    Required,
    /// Only where another key is this.
    Unless(&'static str, &'static str),
}

/// What a key may hold.
#[derive(Debug)]
pub(super) enum Shape {
    /// A text, which has a form of its own.
    Text,
    /// A text of this form, a regular expression.
    Form(&'static str),
    /// One of these words.
    Word(fn() -> Vec<&'static str>),
    Flag,
    /// `false` alone.
    Off,
    /// A whole number from one to the other.
    Number(i64, i64),
    List(&'static Shape),
    /// One value or a list of at least one.
    OneOrMore(&'static Shape),
    /// One value or a list, which may be empty.
    AnyNumber(&'static Shape),
    Either(&'static [Shape]),
    Table(&'static Section),
    /// A table of such tables by name.
    ByName(&'static Section),
    /// Texts by names of somebody else's.
    Texts,
    /// Kernel parameters by name, a dot of which may be a table in a table.
    Parameters,
}

impl Section {
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.keys.iter().map(|key| key.name)
    }

    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

impl Key {
    const fn new(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self { name, shape, about, default: None, need: Need::Optional, of: &[] }
    }

    const fn default(self, json: &'static str) -> Self {
        Self { default: Some(json), ..self }
    }

    const fn need(self, need: Need) -> Self {
        Self { need, ..self }
    }

    const fn of(self, drivers: &'static [Named]) -> Self {
        Self { of: drivers, ..self }
    }

    /// Whether networks of a driver have it.
    pub(super) fn is_of(&self, driver: Named) -> bool {
        self.of.is_empty() || self.of.contains(&driver)
    }
}

use Shape::{
    AnyNumber, ByName, Either, Flag, Form, List, Number, Off, OneOrMore, Parameters, Table, Text, Texts, Word,
};

const TEXTS: Shape = OneOrMore(&Text);
const DURATION: Shape = Form("^[0-9]+(ms|s|m|h)$");
const RATE: Shape = Form("^[0-9]+(kbit|mbit|gbit)$");
const PORT_NUMBER: Shape = Number(1, 65535);

/// The whole file.
pub(super) const FILE: Section = Section {
    name: "file",
    whose: "a file",
    about: "Networks, containers and published ports of a host, for netrec.",
    keys: &[
        Key::new(
            "expect",
            AnyNumber(&Text),
            "What the file is for, in lines that `netrec rehearse` tries: `FROM -> TO[:PORT[/PROTOCOL]]` must answer, \
             `FROM -/> …` must not. FROM: a container, `host`, `host.NAME` or `world`; TO: one of those, or an address.",
        ),
        Key::new("settings", Table(&SETTINGS), "What holds for the whole file."),
        Key::new(
            "hosts",
            ByName(&HOST),
            "The hosts of a file of several: each takes its part, by its host name or `--host`. Without it there is one.",
        ),
        Key::new(
            "cluster",
            Table(&CLUSTER),
            "Instead of `hosts`: where the hosts of an overlay network are known that come and go.",
        ),
        Key::new("networks", ByName(&NETWORK), "What containers attach to, by name."),
        Key::new("containers", ByName(&CONTAINER), "Network namespaces, by name."),
    ],
};

pub(super) const SETTINGS: Section = Section {
    name: "settings",
    whose: "`settings`",
    about: "What holds for the whole file.",
    keys: &[
        Key::new(
            "forwarding",
            Flag,
            "Turn IP forwarding on when a network needs it, with a warning. `false`: never; a plan that needs it fails with \
             the command to run.",
        )
        .default("true"),
        Key::new(
            "overlap",
            Word(|| vec!["refuse", "warn"]),
            "A subnet that overlaps an address or a route that the host has: `refuse` or `warn`.",
        )
        .default("\"refuse\""),
        Key::new("lock_timeout", DURATION, "How long to wait for another netrec on this host.").default("\"10s\""),
        Key::new("accounting", Flag, "Count packets and bytes of published ports, at the cost of a look-up more for each.")
            .default("false"),
    ],
};

pub(super) const HOST: Section = Section {
    name: "host",
    whose: "a host",
    about: "One of the hosts that the file is for.",
    keys: &[
        Key::new(
            "id",
            Number(1, ID_MAX),
            "A number of its own: of its piece of an overlay network whose hosts have pieces.",
        )
        .need(Need::Required),
        Key::new("address", TEXTS, "Where its peers reach it, one address of a family at most.").need(Need::Required),
    ],
};

pub(super) const CLUSTER: Section = Section {
    name: "cluster",
    whose: "`cluster`",
    about: "Hosts that come and go, known from etcd in flannel's format.",
    keys: &[
        Key::new("etcd", TEXTS, "etcd's endpoints, such as `http://192.0.2.1:2379`.").need(Need::Required),
        Key::new("prefix", Text, "What comes before all its keys.").default("\"/coreos.com/network\""),
        Key::new("ca", Text, "A file with the certificates of authorities (PEM) that etcd's is compared with."),
        Key::new("cert", Text, "A file with this host's certificate (PEM), for an etcd that asks for one."),
        Key::new("key", Text, "The file with its key (PEM)."),
        Key::new("user", Text, "The name of a user of etcd's."),
        Key::new(
            "password_file",
            Text,
            "The file that holds the password: an absolute path, or the name of a credential of systemd's.",
        ),
        Key::new("network", Text, "The overlay network. Without it the only one of the file."),
        Key::new(
            "public_address",
            TEXTS,
            "Where the other hosts reach this one, one address of a family at most. Without it by the default route.",
        ),
        Key::new(
            "subnet",
            TEXTS,
            "This host's piece of the network, one of a family at most. Without it one is leased.",
        ),
        Key::new(
            "subnet_env",
            Either(&[Off, Text]),
            "The file that tells other programs of the piece, as flannel's does, or `false` for none.",
        )
        .default("\"/run/flannel/subnet.env\""),
    ],
};

const WITH_SUBNETS: &[Named] = &[Named::Bridge, Named::Overlay, Named::Macvlan, Named::Ipvlan, Named::Remote];
const REMOTE: &[Named] = &[Named::Remote];
const WITH_BRIDGE: &[Named] = &[Named::Bridge, Named::Overlay];
const BRIDGE: &[Named] = &[Named::Bridge];
const OVERLAY: &[Named] = &[Named::Overlay];
const ON_PARENT: &[Named] = &[Named::Macvlan, Named::Ipvlan];

const MODE: Shape = Word(|| vec![Mode::Nat.as_str(), Mode::Routed.as_str(), Mode::Isolated.as_str()]);

/// An overlay's networks have neither `adopt` nor `icc`: its bridge is netrec's own, and its containers are all peers.
pub(super) const NETWORK: Section = Section {
    name: "network",
    whose: "a network",
    about: "What containers attach to.",
    keys: &[
        Key::new(
            "driver",
            Word(|| Named::ALL.map(Named::as_str).to_vec()),
            "What makes it: a `bridge`, an `overlay` over several hosts, a `macvlan` or `ipvlan` on a device, a plugin of \
             Docker's (`remote`), the host's own stack (`host`), or nothing (`null`).",
        )
        .default("\"bridge\""),
        Key::new("subnet", TEXTS, "Any number of IPv4 and IPv6 networks, without host bits.")
            .need(Need::Required)
            .of(WITH_SUBNETS),
        Key::new(
            "gateway",
            Either(&[Off, TEXTS]),
            "Addresses of the containers' router, the bridge's own, or `false` for none. Without it the first address of each \
             subnet.",
        )
        .of(WITH_SUBNETS),
        Key::new("range", TEXTS, "Part of a subnet that automatic addresses come from. Without it the whole subnet.")
            .of(WITH_SUBNETS),
        Key::new("reserve", AnyNumber(&Text), "Addresses that are never given automatically.").of(WITH_SUBNETS),
        Key::new("bridge", Text, "The name of the bridge device. Without it `nr-NAME`, shortened to 15 bytes.")
            .of(WITH_BRIDGE),
        Key::new(
            "adopt",
            Flag,
            "Use a bridge of that name that somebody else made: add to it, and never change or delete what others put there.",
        )
        .default("false")
        .of(BRIDGE),
        Key::new(
            "mtu",
            Number(MTU_MIN, MTU_MAX),
            "In bytes. Without it that of an adopted bridge, of the parent, or of the default route's device; of an overlay the \
             underlay's less what the tunnel takes.",
        )
        .of(WITH_SUBNETS),
        Key::new(
            "mode",
            Either(&[MODE, Table(&MODES)]),
            "`nat`: out with an address of the host's, in by ports published there; `routed`: addresses as they are, published \
             ports only; `isolated`: nothing out or in, and no address of the host's. Or for each family its own.",
        )
        .default("\"nat\"")
        .of(WITH_BRIDGE),
        Key::new(
            "internal",
            Flag,
            "Nothing gets in or out: the network's containers talk to each other, and to the host by the gateway's address.",
        )
        .default("false")
        .of(WITH_BRIDGE),
        Key::new("icc", Flag, "Whether the network's containers may talk to each other.").default("true").of(BRIDGE),
        Key::new(
            "snat",
            TEXTS,
            "Source addresses of what leaves the network, one of a family at most. Without it an address of the device by which \
             it leaves.",
        )
        .of(WITH_BRIDGE),
        Key::new(
            "trusted",
            AnyNumber(&Text),
            "Devices of the host from which containers may be reached directly.",
        )
        .of(WITH_BRIDGE),
        Key::new(
            "topology",
            Word(|| [Topology::Switched, Topology::Routed, Topology::Direct].map(Topology::as_str).to_vec()),
            "`switched`: one subnet over all hosts, bridged; `routed`: a piece for each host, through a tunnel; `direct`: the \
             same by plain routes over a link that all share.",
        )
        .default("\"switched\"")
        .of(OVERLAY),
        Key::new("vni", Number(1, VNI_MAX), "The VXLAN network identifier.")
            .need(Need::Unless("topology", Topology::Direct.as_str()))
            .of(OVERLAY),
        Key::new("port", PORT_NUMBER, "The tunnel's UDP port.").default("4789").of(OVERLAY),
        Key::new(
            "host_prefix",
            Either(&[Number(1, 126), Table(&HOST_PREFIX)]),
            "The length of a host's piece of the subnet, 24 and 64 without it. Host `id` has the piece of that number.",
        )
        .of(OVERLAY),
        Key::new(
            "underlay",
            Text,
            "The device that the tunnel or the routes run over. Without it that of the routes to the other hosts.",
        )
        .of(OVERLAY),
        Key::new("mss_clamp", Flag, "Keep TCP's segments as small as the tunnel takes.").default("true").of(OVERLAY),
        Key::new("parent", Text, "The device that the containers are on, or `device.VID` for a VLAN of it.")
            .need(Need::Required)
            .of(ON_PARENT),
        Key::new(
            "type",
            Word(parent::types),
            "How they are on it: `bridge` (macvlan's default), `private`, `vepa`, `passthru`; `l2` (ipvlan's), `l3`, `l3s`.",
        )
        .of(ON_PARENT),
        Key::new("plugin", Text, "The plugin's name, as Docker finds it, or the path of its socket.")
            .need(Need::Required)
            .of(REMOTE),
        Key::new("options", Texts, "The plugin's own options.").default("{}").of(REMOTE),
        Key::new("ipam", Text, "The plugin that gives subnets and addresses. Without it netrec chooses them.").of(REMOTE),
    ],
};

pub(super) const MODES: Section = Section {
    name: "modes",
    whose: "`mode`",
    about: "The mode of each family.",
    keys: &[
        Key::new("ipv4", MODE, "Of IPv4.").default("\"nat\""),
        Key::new("ipv6", MODE, "Of IPv6.").default("\"nat\""),
    ],
};

pub(super) const HOST_PREFIX: Section = Section {
    name: "host_prefix",
    whose: "`host_prefix`",
    about: "The length of a host's piece, of each family.",
    keys: &[
        Key::new("ipv4", Number(1, 30), "Of IPv4.").default("24"),
        Key::new("ipv6", Number(1, 126), "Of IPv6.").default("64"),
    ],
};

pub(super) const CONTAINER: Section = Section {
    name: "container",
    whose: "a container",
    about: "A network namespace with a name; what runs inside is not netrec's business.",
    keys: &[
        Key::new("host", Text, "Which of the file's hosts it lives on. Without it on every one."),
        Key::new(
            "netns",
            Text,
            "A name under `/run/netns`, made by netrec and then removed by it, or an absolute path, which must exist. Without it \
             the container's name.",
        ),
        Key::new("docker", Text, "Instead of `netns`: a container of Docker's, started with `--network none`."),
        Key::new("podman", Text, "Instead of `netns`: a container of Podman's, started with `--network none`."),
        Key::new("pid", Number(1, PID_MAX), "Instead of `netns`: a process with a network namespace of its own."),
        Key::new("machine", Text, "Instead of `netns`: a machine of systemd-nspawn's."),
        Key::new("unit", Text, "Instead of `netns`: a service of systemd's with `PrivateNetwork=yes`."),
        Key::new(
            "networks",
            Either(&[List(&Text), ByName(&ATTACHMENT)]),
            "A list of names, or a table `networks.NET = { … }`. Their order gives eth0, eth1, …",
        ),
        Key::new(
            "ports",
            List(&Either(&[Text, Table(&PORT)])),
            "Published ports: `[ADDRESS:]HOST[-LAST]:CONTAINER[-LAST][/tcp|udp|sctp]`, or tables.",
        ),
        Key::new("sysctl", Parameters, "`net.*` parameters inside of the namespace."),
    ],
};

pub(super) const ATTACHMENT: Section = Section {
    name: "attachment",
    whose: "an attachment",
    about: "A container's interface on a network.",
    keys: &[
        Key::new("address", TEXTS, "Addresses within the network's subnets. Without it one of each family is chosen."),
        Key::new("mac", Text, "The interface's Ethernet address. Without it one is chosen."),
        Key::new("interface", Text, "Its name inside, at most 15 bytes. Without it the first free `ethN`."),
        Key::new(
            "priority",
            Number(i32::MIN as i64, i32::MAX as i64),
            "Of the attachments with a way out the one with the highest gives the default route of a family.",
        )
        .default("0"),
        Key::new("routes", List(&Table(&ROUTE)), "More routes of the container's."),
        Key::new(
            "ingress",
            RATE,
            "The most that gets to the container from the network: `500kbit`, `10mbit`, `1gbit` a second.",
        ),
        Key::new("egress", RATE, "The most that the container sends to the network, in the same words."),
        Key::new("sysctl", Parameters, "`net.*` parameters of the interface, with `IFNAME` for its name."),
    ],
};

pub(super) const ROUTE: Section = Section {
    name: "route",
    whose: "a route",
    about: "A route by another router, or to nowhere.",
    keys: &[
        Key::new("to", Text, "Where it leads, such as `10.9.0.0/16`.").need(Need::Required),
        Key::new("via", Text, "The router, an address of the network.").need(Need::Unless("type", "blackhole")),
        Key::new("metric", Number(0, u32::MAX as i64), "Of routes to one place the lowest is used.").default("0"),
        Key::new("type", Word(|| vec!["blackhole"]), "`blackhole` loses what is sent there."),
    ],
};

pub(super) const PORT: Section = Section {
    name: "port",
    whose: "a port",
    about: "A published port.",
    keys: &[
        Key::new("host", Either(&[PORT_NUMBER, Text]), "The host's port, or a range such as `8000-8009`.")
            .need(Need::Required),
        Key::new("container", Either(&[PORT_NUMBER, Text]), "The container's port, or a range of the same length.")
            .need(Need::Required),
        Key::new(
            "address",
            TEXTS,
            "Addresses of the host's. Without it every local address; `0.0.0.0`: IPv4 only; `::`: IPv6 only; `127.0.0.1`: this \
             machine only.",
        ),
        Key::new(
            "protocol",
            Word(|| [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(Protocol::as_str).to_vec()),
            "What is spoken there.",
        )
        .default("\"tcp\""),
        Key::new(
            "network",
            Text,
            "Which of the container's networks it leads to. Without it the one with the default route.",
        ),
        Key::new("allow", TEXTS, "Networks or addresses: the only sources that may use the port. Without it all may."),
    ],
};
