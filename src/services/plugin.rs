//! Docker's network plugins, as their client: the calls of libnetwork's remote driver and of its remote IPAM driver.
//!
//! Every call is a POST with a JSON object, has a time limit, and is answered by a JSON object of bounded size. A call that
//! nobody can have taken is tried again for a short while, since plugins are restarted; no other is, since nobody knows what
//! a second one would do.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::discovery;
use super::http::{Answer, Client, NoAnswer};
use crate::state::{Endpoint, InterfaceName, Mac, PluginPort, PluginRoute, PluginSubnet, clean};

/// The media type of the protocol's version 1.2.
const ACCEPT: &str = "application/vnd.docker.plugins.v1.2+json";
/// How long a call that changes something may take. A plugin that asks a cluster takes seconds.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a question may take.
const LIMIT_TO_ASK: Duration = Duration::from_secs(2);
/// The longest answer that is read, in bytes. One to `Join` with a thousand routes has a tenth of it.
const LONGEST: u64 = 1 << 20;
/// The pauses before a call that nobody took is tried again, in milliseconds: three seconds in all.
const PAUSES: [u64; 5] = [100, 200, 400, 800, 1500];
/// How often a plugin may let time run out before nothing more is asked of it: what it was told of is still taken back.
const PATIENCE: u8 = 2;

/// A plugin that is there.
pub struct Plugin {
    name: String,
    client: Client,
    /// What it says that it implements.
    implements: Vec<String>,
    /// How often it let time run out.
    late: Cell<u8>,
    /// Whether nobody took a call, however often it was tried.
    away: Cell<bool>,
    /// Whether calls are tried again that nobody took.
    patient: Cell<bool>,
    /// What it says of itself as one that gives addresses, once it was asked.
    ipam: Cell<Option<IpamNeeds>>,
}

/// A call did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The plugin is not there: it was told nothing.
    Away(String),
    /// It may have been told, and nobody knows what it did.
    Unsure(String),
    /// It refused.
    Refused(String),
    /// It has no such call.
    Missing(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Away(text) | Self::Unsure(text) | Self::Refused(text) | Self::Missing(text)) = self;
        f.write_str(text)
    }
}

/// The result of a call.
pub type Called<T> = Result<T, Fault>;

/// What a network driver says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether its networks are known to all hosts, so that it is asked to allocate them first.
    pub global: bool,
    /// Whether its networks reach other hosts, so that it is told of those.
    pub reaches_hosts: bool,
    /// Whether it wants to be asked which families have gateways.
    pub checks_gateways: bool,
}

/// What an IPAM driver says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct IpamNeeds {
    /// Whether it wants to know the Ethernet address that an address is for.
    #[serde(default, rename = "RequiresMACAddress")]
    pub mac: bool,
    /// Whether it remembers nothing over its end, and is to be told again what it gave.
    #[serde(default, rename = "RequiresRequestReplay")]
    pub replay: bool,
}

/// Whom an address is for.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    /// The router of the network.
    Gateway,
    /// Nobody: it is kept free.
    Nobody,
    /// A container, by its name, and by its Ethernet address where the plugin wants to know that.
    Container(&'a str, Option<Mac>),
}

/// A network, as a driver is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Its id.
    pub id: &'a str,
    /// The driver's options.
    pub options: &'a BTreeMap<String, String>,
    /// Its subnets, with the gateways that there are.
    pub subnets: &'a [PluginSubnet],
    /// The address space that those are of.
    pub space: &'a str,
}

/// An interface: addresses of each family, and an Ethernet address, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// One of a family at most.
    pub addresses: Vec<IpNetwork>,
    /// The Ethernet address.
    pub mac: Option<Mac>,
}

/// What `Join` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The device in the host.
    pub device: InterfaceName,
    /// The routers, one of a family at most.
    pub gateways: Vec<IpAddr>,
    /// Other routes.
    pub routes: Vec<PluginRoute>,
}

/// A pool of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The IPAM driver's name for it.
    pub id: String,
    /// The subnet.
    pub subnet: IpNetwork,
    /// The gateway, where it comes along.
    pub gateway: Option<IpAddr>,
}

/// The folders in which something happens when a plugin is started, by its name.
pub fn folders(name: &str) -> Vec<PathBuf> {
    discovery::folders(name)
}

impl Plugin {
    /// Looks for a plugin and shakes hands with it. Where that is done patiently, one that is being restarted is waited for.
    pub fn open(name: &str, patiently: bool) -> Called<Self> {
        let client = discovery::find(name).map_err(Fault::Away)?;
        let mut plugin = Self {
            name: name.to_owned(),
            client,
            implements: Vec::new(),
            late: Cell::new(0),
            away: Cell::new(false),
            patient: Cell::new(patiently),
            ipam: Cell::new(None),
        };
        let Activated { implements } = plugin.call("Plugin.Activate", None, LIMIT_TO_ASK)?;
        plugin.implements = implements;
        plugin.patient.set(true);
        Ok(plugin)
    }

    fn is_a(&self, what: &str) -> Called<()> {
        if self.implements.iter().any(|implemented| implemented == what) {
            return Ok(());
        }
        let all: Vec<String> = self.implements.iter().map(|implemented| clean(implemented)).collect();
        Err(Fault::Refused(format!("plugin `{}` is no {what}: it implements {}", self.name, listed(&all))))
    }

    /// What the network driver says of itself; the question whether it is one.
    pub fn network_driver(&self) -> Called<Capabilities> {
        const METHOD: &str = "NetworkDriver.GetCapabilities";
        self.is_a("NetworkDriver")?;
        let said: Capable = self.call(METHOD, None, LIMIT_TO_ASK)?;
        let scope = |text: &str| match text {
            "global" => Ok(true),
            "local" => Ok(false),
            other => Err(self.nonsense(METHOD, &format!("its scope is `{}`: neither local nor global", clean(other)))),
        };
        let global = scope(&said.scope)?;
        let reaches_hosts = if said.connectivity_scope.is_empty() { global } else { scope(&said.connectivity_scope)? };
        Ok(Capabilities { global, reaches_hosts, checks_gateways: said.gw_alloc_checker })
    }

    /// Of which families, IPv4 and IPv6, the network is to have no gateway.
    pub fn check_gateways(&self, told: &Told<'_>) -> Called<[bool; 2]> {
        let said: Skipped =
            self.call("NetworkDriver.GwAllocCheck", Some(json!({ "Options": told.all_options() })), LIMIT_TO_ASK)?;
        Ok([said.skip_ipv4, said.skip_ipv6])
    }

    /// Allocates a network for all hosts. Yields options for `CreateNetwork`.
    pub fn allocate_network(&self, told: &Told<'_>) -> Called<BTreeMap<String, String>> {
        let mut body = told.data();
        body["Options"] = json!(told.options);
        let Allocated { options } = self.change("NetworkDriver.AllocateNetwork", body)?;
        Ok(options)
    }

    /// Gives up what was allocated.
    pub fn free_network(&self, id: &str) -> Called<()> {
        self.done("NetworkDriver.FreeNetwork", json!({ "NetworkID": id }))
    }

    /// Makes a network.
    pub fn create_network(&self, told: &Told<'_>) -> Called<()> {
        let mut body = told.data();
        body["Options"] = told.all_options();
        self.done("NetworkDriver.CreateNetwork", body)
    }

    /// Removes a network.
    pub fn delete_network(&self, id: &str) -> Called<()> {
        self.done("NetworkDriver.DeleteNetwork", json!({ "NetworkID": id }))
    }

    /// Makes an endpoint. Yields what the driver chose of what was not given.
    pub fn create_endpoint(
        &self,
        network: &str,
        id: &str,
        given: &Interface,
        ports: &[PluginPort],
    ) -> Called<Interface> {
        const METHOD: &str = "NetworkDriver.CreateEndpoint";
        let mut body = ids(network, id);
        let address = |ipv6| given.addresses.iter().find(|ip| ip.is_ipv6() == ipv6).map(ToString::to_string);
        body["Interface"] = json!({
            "Address": address(false).unwrap_or_default(),
            "AddressIPv6": address(true).unwrap_or_default(),
            "MacAddress": given.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        });
        let mut options = labels(ports);
        if let Some(mac) = given.mac {
            options.insert("com.docker.network.endpoint.macaddress".into(), json!(BASE64.encode(mac.0)));
        }
        body["Options"] = options.into();
        let created = self.change(METHOD, body)?;
        self.chosen(METHOD, created)
    }

    fn chosen(&self, method: &str, said: Created) -> Called<Interface> {
        let said = said.interface.unwrap_or_default();
        let mut chosen = Interface::default();
        for (text, ipv6) in [(&said.address, false), (&said.address_ipv6, true)] {
            if text.is_empty() {
                continue;
            }
            let ip: IpNetwork = self.parsed(method, text, "address")?;
            if ip.is_ipv6() != ipv6 || !text.contains('/') {
                return Err(
                    self.nonsense(method, &format!("`{}` is no address of that family with a prefix", clean(text)))
                );
            }
            chosen.addresses.push(ip);
        }
        if !said.mac_address.is_empty() {
            chosen.mac = Some(self.parsed(method, &said.mac_address, "MAC address")?);
        }
        Ok(chosen)
    }

    /// Asks whether the driver knows an endpoint, for as long as a question may take. Only what it says itself is a refusal: a
    /// server that failed has not said that it does not.
    pub fn endpoint_is_known(&self, network: &str, id: &str) -> Called<()> {
        const METHOD: &str = "NetworkDriver.EndpointOperInfo";
        let answer = self.answer(METHOD, Some(ids(network, id)), LIMIT_TO_ASK)?;
        let failed = answer.status >= 500 && complaint(&answer.body).is_none();
        self.read::<Value>(METHOD, &answer).map(drop).map_err(|fault| match fault {
            Fault::Refused(text) if failed => Fault::Unsure(text),
            fault => fault,
        })
    }

    /// Removes an endpoint.
    pub fn delete_endpoint(&self, network: &str, id: &str) -> Called<()> {
        self.done("NetworkDriver.DeleteEndpoint", ids(network, id))
    }

    /// Puts an endpoint into a container, by the path of its namespace.
    pub fn join(&self, network: &str, id: &str, sandbox: &str, ports: &[PluginPort]) -> Called<Joined> {
        const METHOD: &str = "NetworkDriver.Join";
        let mut body = ids(network, id);
        (body["SandboxKey"], body["Options"]) = (json!(sandbox), labels(ports).into());
        let answered = self.change(METHOD, body)?;
        self.joined(METHOD, answered)
    }

    fn joined(&self, method: &str, said: Answered) -> Called<Joined> {
        let device = said.interface_name.map(|name| name.src_name).filter(|name| !name.is_empty());
        let device = device.ok_or_else(|| self.nonsense(method, "it names no device"))?;
        let device = self.parsed(method, &device, "device")?;
        let mut gateways = Vec::new();
        for (text, ipv6) in [(&said.gateway, false), (&said.gateway_ipv6, true)] {
            if text.is_empty() {
                continue;
            }
            let ip: IpAddr = self.parsed(method, text, "gateway")?;
            if ip.is_ipv6() != ipv6 {
                return Err(self.nonsense(method, &format!("`{ip}` is no gateway of that family")));
            }
            gateways.push(ip);
        }
        let routes = said.static_routes.unwrap_or_default();
        let routes = routes.iter().map(|route| self.route(method, route)).collect::<Called<_>>()?;
        Ok(Joined { device, gateways, routes })
    }

    fn route(&self, method: &str, said: &StaticRoute) -> Called<PluginRoute> {
        let to: IpNetwork = self.parsed(method, &said.destination, "destination of a route")?;
        let to = IpNetwork::new(to.network(), to.prefix()).unwrap_or(to);
        let via = match said.route_type {
            0 => Some(self.parsed::<IpAddr>(method, &said.next_hop, "next hop of a route")?),
            1 => None,
            other => return Err(self.nonsense(method, &format!("{other} is no type of a route"))),
        };
        if via.is_some_and(|via| via.is_ipv6() != to.is_ipv6()) {
            return Err(self.nonsense(method, &format!("the route to {to} leads to another family")));
        }
        Ok(PluginRoute { to, via })
    }

    /// Takes an endpoint out of its container.
    pub fn leave(&self, network: &str, id: &str) -> Called<()> {
        self.done("NetworkDriver.Leave", ids(network, id))
    }

    /// Says that a container's way out is by an endpoint. A driver need not care.
    pub fn program_external_connectivity(&self, network: &str, id: &str, asked: &Endpoint) -> Called<()> {
        let mut options = labels(&asked.ports);
        if asked.ipv6_elsewhere {
            options.insert("com.docker.network.driver.private.no_proxy_6to4".into(), true.into());
        }
        let mut body = ids(network, id);
        body["Options"] = options.into();
        optional(self.done("NetworkDriver.ProgramExternalConnectivity", body))
    }

    /// Says that it is not any more.
    pub fn revoke_external_connectivity(&self, network: &str, id: &str) -> Called<()> {
        optional(self.done("NetworkDriver.RevokeExternalConnectivity", ids(network, id)))
    }

    /// Tells of a host, or that it is none any more.
    pub fn discover(&self, host: IpAddr, is_self: bool, there: bool) -> Called<()> {
        const NODE: u8 = 1;
        let data = json!({ "Address": host, "BindAddress": host, "Self": is_self });
        let method = if there { "NetworkDriver.DiscoverNew" } else { "NetworkDriver.DiscoverDelete" };
        optional(self.done(method, json!({ "DiscoveryType": NODE, "DiscoveryData": data })))
    }

    /// The address space of this host's networks or of all hosts'; the question whether the plugin gives addresses.
    pub fn address_space(&self, global: bool) -> Called<String> {
        self.is_a("IpamDriver")?;
        let said: Spaces = self.call("IpamDriver.GetDefaultAddressSpaces", None, LIMIT_TO_ASK)?;
        Ok(if global { said.global_default_address_space } else { said.local_default_address_space })
    }

    /// What the IPAM driver says of itself. One that does not say so needs nothing.
    pub fn ipam_needs(&self) -> IpamNeeds {
        if let Some(needs) = self.ipam.get() {
            return needs;
        }
        let needs = self.call("IpamDriver.GetCapabilities", None, LIMIT_TO_ASK).unwrap_or_default();
        self.ipam.set(Some(needs));
        needs
    }

    /// Reserves a subnet.
    pub fn request_pool(&self, space: &str, subnet: &PluginSubnet) -> Called<Pool> {
        const METHOD: &str = "IpamDriver.RequestPool";
        let range = subnet.range.map(|range| range.to_string()).unwrap_or_default();
        let body = json!({
            "AddressSpace": space, "Pool": subnet.subnet, "SubPool": range, "Options": {}, "V6": subnet.subnet.is_ipv6(),
        });
        let given = self.change(METHOD, body)?;
        self.pool(METHOD, given)
    }

    fn pool(&self, method: &str, said: PoolGiven) -> Called<Pool> {
        let gateway = said.data.get("com.docker.network.gateway").filter(|text| !text.is_empty());
        let gateway = gateway.map(|text| self.parsed::<IpNetwork>(method, text, "gateway")).transpose()?;
        if said.pool_id.is_empty() {
            return Err(self.nonsense(method, "it gives no id of a pool"));
        }
        let id = said.pool_id;
        Ok(Pool { id, subnet: self.parsed(method, &said.pool, "pool")?, gateway: gateway.map(|ip| ip.ip()) })
    }

    /// Gives a subnet back.
    pub fn release_pool(&self, pool: &str) -> Called<()> {
        self.done("IpamDriver.ReleasePool", json!({ "PoolID": pool }))
    }

    /// Reserves an address: a certain one, or one that the driver chooses.
    pub fn request_address(&self, pool: &str, address: Option<IpAddr>, whose: Whose<'_>) -> Called<IpNetwork> {
        const METHOD: &str = "IpamDriver.RequestAddress";
        let mut options = Map::new();
        match whose {
            Whose::Gateway => drop(options.insert("RequestAddressType".into(), json!("com.docker.network.gateway"))),
            Whose::Nobody => {}
            Whose::Container(name, mac) => {
                options.insert("com.docker.network.endpoint.name".into(), json!(name));
                if let Some(mac) = mac {
                    options.insert("com.docker.network.endpoint.macaddress".into(), json!(mac.to_string()));
                }
            }
        }
        let wanted = address.map(|ip| ip.to_string()).unwrap_or_default();
        let said: AddressGiven =
            self.change(METHOD, json!({ "PoolID": pool, "Address": wanted, "Options": options }))?;
        if said.address.is_empty() {
            return Err(self.nonsense(METHOD, "it gives no address"));
        }
        self.parsed(METHOD, &said.address, "address")
    }

    /// Gives an address back.
    pub fn release_address(&self, pool: &str, address: IpAddr) -> Called<()> {
        self.done("IpamDriver.ReleaseAddress", json!({ "PoolID": pool, "Address": address }))
    }

    fn done(&self, method: &str, body: Value) -> Called<()> {
        self.change::<Value>(method, body).map(drop)
    }

    /// Makes a call that changes something.
    fn change<T: DeserializeOwned>(&self, method: &str, body: Value) -> Called<T> {
        self.call(method, Some(body), limit())
    }

    fn call<T: DeserializeOwned>(&self, method: &str, body: Option<Value>, limit: Duration) -> Called<T> {
        self.read(method, &self.answer(method, body, limit)?)
    }

    fn answer(&self, method: &str, body: Option<Value>, limit: Duration) -> Called<Answer> {
        if self.late.get() >= PATIENCE {
            let text = format!("plugin `{}`: {method}: it was not asked, as it did not answer before", self.name);
            return Err(Fault::Away(text));
        }
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        self.send(method, &body, limit).map_err(|NoAnswer { sent, why, .. }| {
            let text = format!("plugin `{}`: {method}: {why}", self.name);
            if sent { Fault::Unsure(text) } else { Fault::Away(text) }
        })
    }

    fn send(&self, method: &str, body: &[u8], limit: Duration) -> Result<Answer, NoAnswer> {
        let path = format!("/{method}");
        let mut pauses = PAUSES.into_iter();
        loop {
            let no_answer = match self.client.post(&path, &[("Accept", ACCEPT)], body, LONGEST, limit) {
                Ok(answer) => {
                    self.away.set(false);
                    return Ok(answer);
                }
                Err(no_answer) => no_answer,
            };
            if no_answer.late {
                self.late.set(self.late.get() + 1);
            }
            let pause = pauses.next().filter(|_| !no_answer.sent && self.patient.get() && !self.away.get());
            let Some(pause) = pause else {
                self.away.set(!no_answer.sent);
                return Err(no_answer);
            };
            thread::sleep(Duration::from_millis(pause));
        }
    }

    /// Reads an answer: an error says so by its status or in its body.
    fn read<T: DeserializeOwned>(&self, method: &str, answer: &Answer) -> Called<T> {
        let said = complaint(&answer.body);
        let words = |text: &str| format!("plugin `{}`: {method}: {text}", self.name);
        match (answer.status, said) {
            (404, None) => Err(Fault::Missing(words("it does not know this call"))),
            (404, Some(text)) => Err(Fault::Missing(words(&format!("it does not know this call: {}", clean(&text))))),
            (200, None) => {
                // An empty body is what some answer instead of an empty object.
                let body = if answer.body.trim_ascii().is_empty() { b"{}" } else { &answer.body[..] };
                let value: Value = serde_json::from_slice(body)
                    .map_err(|error| self.nonsense(method, &format!("its answer is no JSON: {error}")))?;
                if !value.is_object() {
                    return Err(self.nonsense(method, "its answer is no JSON object"));
                }
                serde_json::from_value(value)
                    .map_err(|error| self.nonsense(method, &format!("its answer is of another form: {error}")))
            }
            (_, Some(text)) => Err(Fault::Refused(words(&clean(&text)))),
            (status, None) => {
                let text = String::from_utf8_lossy(&answer.body);
                let text = clean(text.trim().lines().next().unwrap_or_default());
                let text = if text.is_empty() { String::new() } else { format!(": {text}") };
                let text = words(&format!("it answered {status}{text}"));
                // A server that stands before one which is not there yet does not know either what that did.
                Err(if (502..=504).contains(&status) { Fault::Unsure(text) } else { Fault::Refused(text) })
            }
        }
    }

    fn parsed<T: std::str::FromStr>(&self, method: &str, text: &str, what: &str) -> Called<T> {
        text.parse().map_err(|_| self.nonsense(method, &format!("`{}` is no {what}", clean(text))))
    }

    fn nonsense(&self, method: &str, text: &str) -> Fault {
        Fault::Unsure(format!("plugin `{}`: {method}: {text}", self.name))
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("name", &self.name).field("implements", &self.implements).finish_non_exhaustive()
    }
}

impl Told<'_> {
    /// The network's id and subnets.
    fn data(&self) -> Value {
        let of_family = |ipv6: bool| -> Vec<Value> {
            let subnets = self.subnets.iter().filter(|subnet| subnet.subnet.is_ipv6() == ipv6);
            subnets.map(|subnet| self.subnet(subnet)).collect()
        };
        json!({ "NetworkID": self.id, "IPv4Data": of_family(false), "IPv6Data": of_family(true) })
    }

    fn subnet(&self, subnet: &PluginSubnet) -> Value {
        let mut data = json!({ "AddressSpace": self.space, "Pool": subnet.subnet });
        let with_prefix = |ip: IpAddr| format!("{ip}/{}", subnet.subnet.prefix());
        if let Some(gateway) = subnet.gateway {
            data["Gateway"] = json!(with_prefix(gateway));
        }
        if !subnet.reserve.is_empty() {
            // Docker's have names, by which few plugins know one from another.
            let named = |(n, ip): (usize, &IpAddr)| (format!("reserve{n}"), json!(with_prefix(*ip)));
            data["AuxAddresses"] = subnet.reserve.iter().enumerate().map(named).collect::<Map<_, _>>().into();
        }
        data
    }

    /// The options, as `CreateNetwork` has them: netrec's beside the driver's.
    fn all_options(&self) -> Value {
        let has = |ipv6: bool| self.subnets.iter().any(|subnet| subnet.subnet.is_ipv6() == ipv6);
        json!({
            "com.docker.network.enable_ipv4": has(false),
            "com.docker.network.enable_ipv6": has(true),
            "com.docker.network.generic": self.options,
        })
    }
}

#[cfg(feature = "fuzzing")]
impl Plugin {
    /// One that is nowhere.
    pub(super) fn nobody() -> Self {
        let client = Client::unix(std::path::Path::new("/"), "nobody");
        let (late, away, patient) = (Cell::new(0), Cell::new(true), Cell::new(false));
        let ipam = Cell::new(None);
        Self { name: "nobody".to_owned(), client, implements: Vec::new(), late, away, patient, ipam }
    }

    /// Reads an answer as one to each call.
    pub(super) fn readings(&self, status: u16, body: &[u8]) -> (usize, Vec<String>) {
        let answer = Answer { status, body: body.to_vec() };
        let method = "Any.Call";
        let all = [
            self.read::<Activated>(method, &answer).map(drop),
            self.read::<Capable>(method, &answer).map(drop),
            self.read::<Allocated>(method, &answer).map(drop),
            self.read(method, &answer).and_then(|said| self.chosen(method, said)).map(drop),
            self.read(method, &answer).and_then(|said| self.joined(method, said)).map(drop),
            self.read(method, &answer).and_then(|said| self.pool(method, said)).map(drop),
            self.read::<AddressGiven>(method, &answer).map(drop),
        ];
        let faults: Vec<String> = all.iter().filter_map(|read| Some(read.as_ref().err()?.to_string())).collect();
        (all.len() - faults.len(), faults)
    }
}

/// How long a call that changes something may take; tests that wait for it do not wait for so long.
fn limit() -> Duration {
    #[cfg(feature = "fault-injection")]
    if let Some(limit) = std::env::var("NETREC_PLUGIN_MS").ok().and_then(|text| text.parse().ok()) {
        return Duration::from_millis(limit);
    }
    LIMIT
}

fn optional(called: Called<()>) -> Called<()> {
    if matches!(called, Err(Fault::Missing(_))) { Ok(()) } else { called }
}

fn ids(network: &str, endpoint: &str) -> Value {
    json!({ "NetworkID": network, "EndpointID": endpoint })
}

/// What a plugin is told of published ports, each by itself.
fn labels(ports: &[PluginPort]) -> Map<String, Value> {
    let mut labels = Map::new();
    if ports.is_empty() {
        return labels;
    }
    let each = ports.iter().flat_map(|port| (0..port.count).map(move |n| (port, port.first.0 + n, port.first.1 + n)));
    let (mapped, exposed): (Vec<_>, Vec<_>) = each
        .map(|(PluginPort { protocol, address, .. }, host, container)| {
            let address = address.map(|ip| ip.to_string()).unwrap_or_default();
            let mapping = json!({
                "Proto": protocol, "IP": "", "Port": container, "HostIP": address, "HostPort": host, "HostPortEnd": host,
            });
            (mapping, json!({ "Proto": protocol, "Port": container }))
        })
        .unzip();
    labels.insert("com.docker.network.portmap".into(), mapped.into());
    labels.insert("com.docker.network.endpoint.exposedports".into(), exposed.into());
    labels
}

fn listed(words: &[String]) -> String {
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Activated {
    #[serde(default)]
    implements: Vec<String>,
}

/// What any answer may hold: `Err` of a network driver, `Error` of an IPAM driver. What is no text is an error, too.
fn complaint(body: &[u8]) -> Option<String> {
    let said: Value = serde_json::from_slice(body).ok()?;
    ["Err", "Error"].into_iter().find_map(|key| match said.get(key)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        other => Some(other.to_string()),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Capable {
    #[serde(default)]
    scope: String,
    #[serde(default)]
    connectivity_scope: String,
    #[serde(default)]
    gw_alloc_checker: bool,
}

#[derive(Deserialize)]
struct Skipped {
    #[serde(default, rename = "SkipIPv4")]
    skip_ipv4: bool,
    #[serde(default, rename = "SkipIPv6")]
    skip_ipv6: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Allocated {
    #[serde(default, deserialize_with = "or_null")]
    options: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    #[serde(default)]
    interface: Option<Chosen>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, expecting = "an object")]
struct Chosen {
    address: String,
    #[serde(rename = "AddressIPv6")]
    address_ipv6: String,
    mac_address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answered {
    #[serde(default)]
    interface_name: Option<Names>,
    #[serde(default)]
    gateway: String,
    #[serde(default, rename = "GatewayIPv6")]
    gateway_ipv6: String,
    #[serde(default)]
    static_routes: Option<Vec<StaticRoute>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "an object")]
struct Names {
    #[serde(default)]
    src_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "an object")]
struct StaticRoute {
    destination: String,
    #[serde(default)]
    route_type: i64,
    #[serde(default)]
    next_hop: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spaces {
    #[serde(default)]
    local_default_address_space: String,
    #[serde(default)]
    global_default_address_space: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PoolGiven {
    #[serde(default, rename = "PoolID")]
    pool_id: String,
    #[serde(default)]
    pool: String,
    #[serde(default, deserialize_with = "or_null")]
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AddressGiven {
    #[serde(default)]
    address: String,
}

/// Go writes an empty map as `null`.
fn or_null<'de, D: serde::Deserializer<'de>>(d: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}
