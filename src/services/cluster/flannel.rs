//! flannel's format in etcd: the network's configuration, the members' keys, and what they say of themselves. Reading is
//! total: whatever a key or a value holds, it is a member or a sentence.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::state::{Cluster, ClusterBackend, ClusterNetwork, Mac, Member, clean};

/// The longest value that is looked at, in bytes. A member's has two hundred.
const LONGEST: usize = 64 << 10;
/// VXLAN's port where the configuration gives none: the kernel's own, which is older than IANA's.
const PORT: u64 = 8472;

/// A value as far as it is looked at: one that is longer is as long as is needed to know that.
pub(super) fn cut(mut value: Vec<u8>) -> Vec<u8> {
    value.truncate(LONGEST + 1);
    value.shrink_to_fit();
    value
}

/// What stands for a value that nobody has read, since it is too long.
pub(super) fn too_long() -> Vec<u8> {
    vec![0; LONGEST + 1]
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    /// Cut where it is too long for a member's.
    pub(super) value: Vec<u8>,
    /// The revision at which the key came to be.
    pub(super) created: i64,
    /// The revision at which it was last written.
    pub(super) modified: i64,
    /// The lease that it ends with; 0 for none.
    pub(super) lease: i64,
}

/// The pieces that there are of a subnet: their first addresses, as numbers, are from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) ipv6: bool,
    pub(super) length: u8,
    pub(super) first: u128,
    pub(super) last: u128,
}

impl Pool {
    /// How many addresses a piece has.
    pub(super) fn step(self) -> u128 {
        1 << (if self.ipv6 { 128 } else { 32 } - u32::from(self.length))
    }

    /// How many pieces there are.
    pub(super) fn count(self) -> u128 {
        (self.last - self.first) / self.step() + 1
    }

    /// The piece that begins at an address.
    pub(super) fn piece(self, first: u128) -> Option<IpNetwork> {
        IpNetwork::new(address(first, self.ipv6), self.length).ok()
    }

    /// Whether a piece is one of these.
    pub(super) fn has(self, piece: IpNetwork) -> bool {
        let at = number(piece.network());
        piece.is_ipv6() == self.ipv6 && piece.prefix() == self.length && (self.first..=self.last).contains(&at)
    }
}

/// An address as a number; the families share one arithmetic.
pub(super) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn address(number: u128, ipv6: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(bits) if !ipv6 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

/// The pieces of IPv4 and of IPv6.
pub(super) type Pools = [Option<Pool>; 2];

/// What a network's configuration is where nobody has written one yet.
pub(super) fn configuration(cluster: &Cluster) -> String {
    let ClusterNetwork { subnets: [v4, v6], lengths, backend, .. } = &cluster.network;
    let mut text = json!({ "Network": v4, "SubnetLen": lengths[0] });
    if let Some(v6) = v6 {
        (text["EnableIPv6"], text["IPv6Network"], text["IPv6SubnetLen"]) = (json!(true), json!(v6), json!(lengths[1]));
    }
    text["Backend"] = match backend {
        ClusterBackend::Vxlan { vni, port } => json!({ "Type": "vxlan", "VNI": vni, "Port": port }),
        ClusterBackend::HostGw => json!({ "Type": "host-gw" }),
    };
    text.to_string()
}

/// Reads a network's configuration, which has to agree with the file's. Yields the pieces that may be leased.
///
/// # Errors
/// What is wrong with it, or where the two differ: a sentence.
pub(super) fn read_configuration(value: &[u8], cluster: &Cluster) -> Result<Pools, String> {
    let key = cluster.config_key();
    let network = &cluster.network;
    let said = Said::read(value).map_err(|why| format!("`{key}` in etcd is no configuration of flannel's: {why}"))?;
    let differs = |name: &str, says: &dyn std::fmt::Display, has: &dyn std::fmt::Display| {
        format!(
            "`{key}` in etcd has {name} {says}, and network `{}` of the file {has}: they have to agree",
            network.name
        )
    };
    let word = |subnet: Option<IpNetwork>| subnet.map_or_else(|| "none".to_owned(), |subnet| subnet.to_string());
    let mut pools = [None; 2];
    for ipv6 in [false, true] {
        let names = if ipv6 { ["IPv6Network", "IPv6SubnetLen"] } else { ["Network", "SubnetLen"] };
        let says = if said.enabled(ipv6) { said.network(names[0])? } else { None };
        let has = network.subnets[usize::from(ipv6)];
        if says != has {
            return Err(differs(&format!("`{}`", names[0]), &word(says), &word(has)));
        }
        let Some(whole) = says else { continue };
        let default = match (ipv6, whole.prefix()) {
            (false, ..=22) => 24,
            (true, ..=62) => 64,
            (_, prefix) => prefix + 2,
        };
        let length = said.length(names[1])?.unwrap_or(default);
        let own = network.lengths[usize::from(ipv6)];
        if length != own {
            return Err(differs(&format!("`{}`", names[1]), &length, &format!("pieces of /{own}")));
        }
        pools[usize::from(ipv6)] = Some(said.pool(whole, length)?);
    }
    let backend = said.backend()?;
    let agree = match (&backend, network.backend) {
        (Backend::Vxlan { vni, port }, ClusterBackend::Vxlan { vni: own, port: other }) => {
            (*vni, *port) == (u64::from(own), u64::from(other))
        }
        (Backend::HostGw, ClusterBackend::HostGw) => true,
        _ => false,
    };
    if !agree {
        let has = match network.backend {
            ClusterBackend::Vxlan { vni, port } => {
                format!("`topology = \"routed\"`, `vni = {vni}` and `port = {port}`")
            }
            ClusterBackend::HostGw => "`topology = \"direct\"`".to_owned(),
        };
        return Err(differs("the backend", &backend, &has));
    }
    Ok(pools)
}

/// A configuration, as far as it is an object.
struct Said(Map<String, Value>);

enum Backend {
    Vxlan { vni: u64, port: u64 },
    HostGw,
    Other(String),
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vxlan { vni, port } => write!(f, "vxlan with VNI {vni} and port {port}"),
            Self::HostGw => f.write_str("host-gw"),
            Self::Other(name) => write!(f, "`{}`", clean(name)),
        }
    }
}

impl Said {
    fn read(value: &[u8]) -> Result<Self, String> {
        match json_of(value)? {
            Value::Object(map) => Ok(Self(map)),
            _ => Err("it is no object".to_owned()),
        }
    }

    /// What a name says, whatever its case: Go reads JSON so. `null` says nothing.
    fn get<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
        map.iter()
            .rev()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .filter(|v| !v.is_null())
    }

    fn wrong(name: &str, value: &Value, what: &str) -> String {
        let mut text = clean(&value.to_string());
        if let Some((end, _)) = text.char_indices().nth(60) {
            text = format!("{}…", &text[..end]);
        }
        format!("the configuration in etcd has `{name}` {text}, which is no {what}")
    }

    fn enabled(&self, ipv6: bool) -> bool {
        let name = if ipv6 { "EnableIPv6" } else { "EnableIPv4" };
        Self::get(&self.0, name).and_then(Value::as_bool).unwrap_or(!ipv6)
    }

    fn network(&self, name: &str) -> Result<Option<IpNetwork>, String> {
        let Some(value) = Self::get(&self.0, name) else { return Ok(None) };
        let read = value.as_str().filter(|text| text.contains('/')).and_then(|text| text.parse::<IpNetwork>().ok());
        let read = read.filter(|net| net.is_ipv6() == name.starts_with("IPv6"));
        let read = read.and_then(|net| IpNetwork::new(net.network(), net.prefix()).ok());
        read.map(Some).ok_or_else(|| Self::wrong(name, value, "subnet"))
    }

    fn length(&self, name: &str) -> Result<Option<u8>, String> {
        let Some(value) = Self::get(&self.0, name) else { return Ok(None) };
        let read = value.as_u64().and_then(|length| u8::try_from(length).ok()).filter(|length| *length <= 128);
        // As flannel has it, 0 says nothing.
        read.map(|length| Some(length).filter(|length| *length > 0)).ok_or_else(|| Self::wrong(name, value, "length"))
    }

    /// The pieces of a subnet: all but the first, or from `SubnetMin` to `SubnetMax`.
    fn pool(&self, whole: IpNetwork, length: u8) -> Result<Pool, String> {
        let ipv6 = whole.is_ipv6();
        if length < whole.prefix() {
            return Err(format!("the configuration in etcd cuts {whole} into pieces of /{length}, which are larger"));
        }
        let (start, end) = (number(whole.network()), number(whole.broadcast()));
        let mut pool = Pool { ipv6, length, first: start, last: start };
        pool.last = end - (pool.step() - 1);
        pool.first = (start + pool.step()).min(pool.last);
        let names = if ipv6 { ["IPv6SubnetMin", "IPv6SubnetMax"] } else { ["SubnetMin", "SubnetMax"] };
        for (name, bound) in names.into_iter().zip([&mut pool.first, &mut pool.last]) {
            let Some(value) = Self::get(&self.0, name) else { continue };
            let read = value.as_str().and_then(|text| text.parse::<IpAddr>().ok()).filter(|ip| whole.contains(*ip));
            let read = read.map(number).filter(|at| at.trailing_zeros() >= u32::from(width(ipv6) - length));
            *bound =
                read.ok_or_else(|| Self::wrong(name, value, &format!("first address of a /{length} of {whole}")))?;
        }
        if pool.first > pool.last {
            return Err(format!("the configuration in etcd has `{}` after `{}`", names[0], names[1]));
        }
        Ok(pool)
    }

    fn backend(&self) -> Result<Backend, String> {
        let empty = Map::new();
        let map = match Self::get(&self.0, "Backend") {
            None => &empty,
            Some(Value::Object(map)) => map,
            Some(other) => return Err(Self::wrong("Backend", other, "object")),
        };
        let number = |name: &str, default: u64| match Self::get(map, name) {
            None => Ok(default),
            Some(value) => value.as_u64().ok_or_else(|| Self::wrong(name, value, "number")),
        };
        // Without any it is flannel's oldest.
        match Self::get(map, "Type").map_or(Some("udp"), Value::as_str) {
            Some("vxlan") => {
                // Its hosts would send packets outside of the tunnel, which nobody lets in here.
                if Self::get(map, "DirectRouting") == Some(&Value::Bool(true)) {
                    let text = "the configuration in etcd has `DirectRouting`, by which hosts of one link leave the tunnel out, and \
                                netrec's do not: take it away there, or use the backend `host-gw` (`topology = \"direct\"`) where \
                                all are on one link";
                    return Err(text.to_owned());
                }
                let port = Some(number("Port", PORT)?).filter(|port| *port > 0).unwrap_or(PORT);
                Ok(Backend::Vxlan { vni: number("VNI", 1)?, port })
            }
            Some("host-gw") => Ok(Backend::HostGw),
            other => Ok(Backend::Other(other.unwrap_or("?").to_owned())),
        }
    }
}

fn width(ipv6: bool) -> u8 {
    if ipv6 { 128 } else { 32 }
}

/// A value as JSON, within reason.
fn json_of(value: &[u8]) -> Result<Value, String> {
    if value.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    serde_json::from_slice(value).map_err(|error| format!("it is no JSON ({error})"))
}

/// A member's key, of its pieces: IPv4's, then perhaps one of IPv6.
pub(super) fn key(cluster: &Cluster, pieces: &[IpNetwork]) -> Vec<u8> {
    let part = |piece: &IpNetwork| format!("{}-{}", piece.network(), piece.prefix());
    let parts: Vec<String> = pieces.iter().map(part).collect();
    format!("{}{}", cluster.subnets_key(), parts.join("&")).into_bytes()
}

/// The pieces that a key is of.
///
/// # Errors
/// Why it is of none.
pub(super) fn read_key(key: &[u8], cluster: &Cluster) -> Result<Vec<IpNetwork>, String> {
    let text = std::str::from_utf8(key).ok().and_then(|text| text.strip_prefix(&cluster.subnets_key()));
    let part = |part: &str, ipv6: bool| -> Option<IpNetwork> {
        let (ip, length) = part.rsplit_once('-')?;
        let digits = (1..=3).contains(&length.len()) && length.bytes().all(|b| b.is_ascii_digit());
        let length = if digits { length.parse::<u8>().ok()? } else { return None };
        let net: IpNetwork = if ipv6 {
            Ipv6Network::new(ip.parse().ok()?, length).ok()?.into()
        } else {
            Ipv4Network::new(ip.parse().ok()?, length).ok()?.into()
        };
        (net.network() == net.ip()).then_some(net)
    };
    let read = text.and_then(|text| match text.split_once('&') {
        None => Some(vec![part(text, false)?]),
        Some((v4, v6)) => Some(vec![part(v4, false)?, part(v6, true)?]),
    });
    read.ok_or_else(|| "its key names no subnet".to_owned())
}

/// What a member says of itself, in flannel's order.
pub(super) fn value(member: &Member, backend: ClusterBackend) -> String {
    let quoted = |ip: Option<IpAddr>| ip.map_or_else(|| "null".to_owned(), |ip| format!("\"{ip}\""));
    let v4 = member.address(false).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let mut text = format!(r#"{{"PublicIP":"{v4}","PublicIPv6":{}"#, quoted(member.address(true)));
    text += &format!(r#","BackendType":"{}""#, backend.as_str());
    if let ClusterBackend::Vxlan { vni, .. } = backend {
        for (name, mac) in ["BackendData", "BackendV6Data"].into_iter().zip(member.macs) {
            if let Some(mac) = mac {
                text += &format!(r#","{name}":{{"VNI":{vni},"VtepMAC":"{mac}"}}"#);
            }
        }
    }
    text + "}"
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attributes {
    #[serde(rename = "PublicIP")]
    public_ip: String,
    #[serde(rename = "PublicIPv6", default)]
    public_ipv6: Option<String>,
    #[serde(default)]
    backend_type: String,
    #[serde(default)]
    backend_data: Value,
    #[serde(default)]
    backend_v6_data: Value,
}

/// Whose an entry is: where it says that it is reached. None where that cannot be read.
pub(super) fn whose(value: &[u8]) -> Option<Ipv4Addr> {
    let attributes: Attributes = serde_json::from_value(json_of(value).ok()?).ok()?;
    attributes.public_ip.parse().ok()
}

/// What a member with these pieces says of itself.
///
/// # Errors
/// Why it is no peer: a few words.
pub(super) fn read_value(value: &[u8], pieces: &[IpNetwork], network: &ClusterNetwork) -> Result<Member, String> {
    let Attributes { public_ip, public_ipv6, backend_type, backend_data, backend_v6_data } =
        serde_json::from_value(json_of(value)?).map_err(|error| format!("its value is not flannel's ({error})"))?;
    let unfit = |what: &str, text: &str| format!("its `{what}` is `{}`, where no host can be reached", shortened(text));
    let v4: Ipv4Addr = public_ip.parse().map_err(|_| unfit("PublicIP", &public_ip))?;
    let mut addresses = vec![IpAddr::V4(v4)];
    if let Some(text) = public_ipv6.filter(|text| !text.is_empty()) {
        let v6: Ipv6Addr = text.parse().map_err(|_| unfit("PublicIPv6", &text))?;
        addresses.push(v6.into());
    }
    for address in &addresses {
        let inside = network.subnets.iter().flatten().any(|subnet| subnet.contains(*address));
        if inside || !is_reachable(*address) {
            let name = if address.is_ipv6() { "PublicIPv6" } else { "PublicIP" };
            return Err(unfit(name, &address.to_string()));
        }
    }
    if backend_type != network.backend.as_str() {
        let name = if backend_type.is_empty() { "none".to_owned() } else { format!("`{}`", shortened(&backend_type)) };
        return Err(format!("its backend is {name}, and this network's `{}`", network.backend.as_str()));
    }
    let mut macs = [None; 2];
    if matches!(network.backend, ClusterBackend::Vxlan { .. }) {
        for (ipv6, data) in [(false, backend_data), (true, backend_v6_data)] {
            let Some(piece) = pieces.iter().find(|piece| piece.is_ipv6() == ipv6) else { continue };
            let text = data.get("VtepMAC").and_then(Value::as_str).unwrap_or_default();
            let mac = text.parse::<Mac>();
            macs[usize::from(ipv6)] =
                Some(mac.map_err(|_| format!("the `VtepMAC` for {piece} is `{}`", shortened(text)))?);
        }
    }
    // What it has of a family it is reached by that family for.
    if let Some(piece) = pieces.iter().find(|piece| !addresses.iter().any(|ip| ip.is_ipv6() == piece.is_ipv6())) {
        return Err(format!("it does not say where {piece} is reached"));
    }
    Ok(Member { addresses, pieces: pieces.to_vec(), macs })
}

/// Whether a host of another one's can be reached there.
fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let is_special = ip.is_loopback() || ip.is_multicast() || ip.is_link_local();
            !is_special && !matches!(ip.octets()[0], 0 | 240..)
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || ip.is_unicast_link_local())
                && ip.to_ipv4_mapped().is_none()
        }
    }
}

/// A text of somebody's for a message.
pub(super) fn shortened(text: &str) -> String {
    const LONG: usize = 60;
    let text = clean(text);
    match text.char_indices().nth(LONG) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn cluster(v4: &str, v6: Option<&str>, backend: ClusterBackend) -> Cluster {
        let network = ClusterNetwork {
            name: "wide".parse().unwrap(),
            subnets: [Some(net(v4)), v6.map(net)],
            lengths: [24, 64],
            backend,
        };
        Cluster {
            etcd: Vec::new(),
            prefix: "/coreos.com/network".into(),
            ca: None,
            identity: None,
            user: None,
            public: Vec::new(),
            pieces: Vec::new(),
            subnet_env: None,
            network,
        }
    }

    const VXLAN: ClusterBackend = ClusterBackend::Vxlan { vni: 1, port: 8472 };

    fn ranges(text: &str, cluster: &Cluster) -> Vec<String> {
        let pools = read_configuration(text.as_bytes(), cluster).unwrap();
        let ends = |pool: Pool| format!("{} to {}", pool.piece(pool.first).unwrap(), pool.piece(pool.last).unwrap());
        pools.into_iter().flatten().map(ends).collect()
    }

    #[test]
    fn keys_and_values_are_flannels_byte_by_byte() {
        let both = cluster("10.5.0.0/16", Some("fc00::/48"), VXLAN);
        let (v4, v6) = (net("10.5.72.0/24"), net("fc00:0:0:1::/64"));
        assert_eq!(key(&both, &[v4]), b"/coreos.com/network/subnets/10.5.72.0-24");
        assert_eq!(key(&both, &[v4, v6]), b"/coreos.com/network/subnets/10.5.72.0-24&fc00:0:0:1::-64");
        let mac = |text: &str| Some(text.parse::<Mac>().unwrap());
        let mut member = Member {
            addresses: vec!["192.168.64.3".parse().unwrap()],
            pieces: vec![v4],
            macs: [mac("c6:d2:32:6f:8f:44"), None],
        };
        let vxlan = r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#;
        assert_eq!(value(&member, VXLAN), vxlan);
        assert_eq!(read_value(vxlan.as_bytes(), &member.pieces, &both.network), Ok(member.clone()));
        member.addresses.push("2001:db8::3".parse().unwrap());
        member.pieces.push(v6);
        member.macs[1] = mac("c6:d2:32:6f:8f:45");
        let text = r#"{"PublicIP":"192.168.64.3","PublicIPv6":"2001:db8::3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:45"}}"#;
        assert_eq!(value(&member, VXLAN), text);
        assert_eq!(read_value(text.as_bytes(), &member.pieces, &both.network), Ok(member.clone()));
        member.addresses.pop();
        let host_gw = r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"host-gw"}"#;
        assert_eq!(value(&member, ClusterBackend::HostGw), host_gw);
    }

    #[test]
    fn what_is_read_of_a_key_is_what_it_is_of() {
        let cluster = cluster("10.5.0.0/16", Some("fc00::/48"), VXLAN);
        let read = |rest: &str| read_key(format!("/coreos.com/network/subnets/{rest}").as_bytes(), &cluster).ok();
        assert_eq!(read("10.5.72.0-24"), Some(vec![net("10.5.72.0/24")]));
        assert_eq!(read("10.5.72.0-24&fc00:0:0:1::-64"), Some(vec![net("10.5.72.0/24"), net("fc00:0:0:1::/64")]));
        for wrong in [
            "",
            "-",
            "10.5.72.0",
            "10.5.72.0-",
            "10.5.72.0-33",
            "10.5.72.0-+24",
            "10.5.72.0-024x",
            "10.5.72.1-24",
            "010.5.72.0-24",
            "10.5.72-24",
            "10.5.72.0-24&",
            "10.5.72.0-24&fc00::1-64",
            "10.5.72.0-24&fc00::-129",
            "fc00::-64",
            "&fc00::-64",
            "10.5.72.0-24/x",
            "10.5.72.0-24\n",
            "10.5.72.0-24&10.5.73.0-24",
            "10.5.72.0-9999999999",
            "\u{202e}",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        for wrong in [&b"/coreos.com/network/subnets"[..], b"", b"\xff", b"10.5.72.0-24", b"/x/subnets/10.5.72.0-24"] {
            assert_eq!(read_key(wrong, &cluster), Err("its key names no subnet".to_owned()));
        }
    }

    #[test]
    fn the_configuration_says_which_pieces_there_are() {
        let v4 = cluster("10.5.0.0/16", None, VXLAN);
        let own = configuration(&v4);
        assert_eq!(own, r#"{"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan","VNI":1,"Port":8472}}"#);
        assert_eq!(ranges(&own, &v4), ["10.5.1.0/24 to 10.5.255.0/24"]);
        // As somebody would write it: flannel's defaults, and any case of letters.
        let short = r#"{ "network": "10.5.0.0/16", "EnableIPv6": false, "IPv6Network": "fc00::/48", "Backend": { "TYPE": "vxlan" } }"#;
        assert_eq!(ranges(short, &v4), ["10.5.1.0/24 to 10.5.255.0/24"]);
        let some =
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.10.0","SubnetMax":"10.5.20.0","Backend":{"Type":"vxlan"}}"#;
        assert_eq!(ranges(some, &v4), ["10.5.10.0/24 to 10.5.20.0/24"]);
        let both = cluster("10.5.0.0/16", Some("fc00::/48"), ClusterBackend::HostGw);
        let own = configuration(&both);
        let text = r#"{"Network":"10.5.0.0/16","SubnetLen":24,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":64,"Backend":{"Type":"host-gw"}}"#;
        assert_eq!(own, text);
        assert_eq!(ranges(&own, &both), ["10.5.1.0/24 to 10.5.255.0/24", "fc00:0:0:1::/64 to fc00:0:0:ffff::/64"]);
    }

    #[test]
    fn a_configuration_that_does_not_agree_is_one_sentence() {
        let cluster = cluster("10.5.0.0/16", None, VXLAN);
        for (text, said) in [
            (
                "",
                "`/coreos.com/network/config` in etcd is no configuration of flannel's: it is no JSON (EOF while parsing a value at line 1 column 0)",
            ),
            ("[]", "`/coreos.com/network/config` in etcd is no configuration of flannel's: it is no object"),
            (
                "{}",
                "`/coreos.com/network/config` in etcd has `Network` none, and network `wide` of the file 10.5.0.0/16: they have to agree",
            ),
            (
                r#"{"Network":"10.5.0.0/17"}"#,
                "`/coreos.com/network/config` in etcd has `Network` 10.5.0.0/17, and network `wide` of the file 10.5.0.0/16: they have to agree",
            ),
            (r#"{"Network":"10.5.0.0"}"#, "the configuration in etcd has `Network` \"10.5.0.0\", which is no subnet"),
            (
                r#"{"Network":"10.5.0.0/16","SubnetLen":26}"#,
                "`/coreos.com/network/config` in etcd has `SubnetLen` 26, and network `wide` of the file pieces of /24: they have to agree",
            ),
            (
                r#"{"Network":"10.5.0.0/16","SubnetLen":"24"}"#,
                "the configuration in etcd has `SubnetLen` \"24\", which is no length",
            ),
            (
                r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.7"}"#,
                "the configuration in etcd has `SubnetMin` \"10.5.1.7\", which is no first address of a /24 of 10.5.0.0/16",
            ),
            (
                r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}"#,
                "the configuration in etcd has `SubnetMin` after `SubnetMax`",
            ),
            (
                r#"{"Network":"10.5.0.0/16"}"#,
                "`/coreos.com/network/config` in etcd has the backend `udp`, and network `wide` of the file `topology = \"routed\"`, `vni = 1` and `port = 8472`: they have to agree",
            ),
            (
                r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":2}}"#,
                "`/coreos.com/network/config` in etcd has the backend vxlan with VNI 2 and port 8472, and network `wide` of the file `topology = \"routed\"`, `vni = 1` and `port = 8472`: they have to agree",
            ),
            (
                r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","Port":-1}}"#,
                "the configuration in etcd has `Port` -1, which is no number",
            ),
            (
                r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","directRouting":true}}"#,
                "the configuration in etcd has `DirectRouting`, by which hosts of one link leave the tunnel out, and netrec's do not: take it away there, or use the backend `host-gw` (`topology = \"direct\"`) where all are on one link",
            ),
            (
                r#"{"Network":"10.5.0.0/16","Backend":7}"#,
                "the configuration in etcd has `Backend` 7, which is no object",
            ),
            (
                r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}"#,
                "`/coreos.com/network/config` in etcd has `IPv6Network` fc00::/48, and network `wide` of the file none: they have to agree",
            ),
        ] {
            assert_eq!(read_configuration(text.as_bytes(), &cluster).unwrap_err(), said, "{text}");
        }
    }

    /// Whatever is read, there is an answer, and what is a member has what a member has.
    #[test]
    fn nothing_that_is_read_is_the_end() {
        let cluster = cluster("10.5.0.0/16", Some("fc00::/48"), VXLAN);
        let good = [
            configuration(&cluster),
            r#"{"PublicIP":"192.168.64.3","PublicIPv6":"2001:db8::3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:45"}}"#.to_owned(),
            "/coreos.com/network/subnets/10.5.72.0-24&fc00:0:0:1::-64".to_owned(),
        ];
        let pieces = [net("10.5.72.0/24"), net("fc00:0:0:1::/64")];
        let mut seed = 1_u64;
        let mut random = |end: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % end as u64).unwrap()
        };
        for _ in 0..60_000 {
            let mut text = good[random(3)].clone().into_bytes();
            for _ in 0..=random(4) {
                let at = random(text.len());
                match random(3) {
                    0 => text[at] = u8::try_from(random(256)).unwrap(),
                    1 => drop(text.remove(at)),
                    _ => text.insert(at, b"0129-/:\"{}[],.&\0\xff"[random(17)]),
                }
                if text.is_empty() {
                    break;
                }
            }
            let _ = read_configuration(&text, &cluster);
            if let Ok(pieces) = read_key(&text, &cluster) {
                assert!(pieces.iter().all(|piece| piece.network() == piece.ip()));
            }
            if let Ok(member) = read_value(&text, &pieces, &cluster.network) {
                assert!(member.macs.iter().all(|mac| mac.is_some_and(|mac| !mac.is_for_many())));
                assert!(member.addresses.iter().all(|ip| is_reachable(*ip)));
            }
        }
    }
}
