//! The life of a container on a plugin's network: addresses, the endpoint, joining, the way out, and all that backwards.

use std::iter::once;
use std::rc::Rc;

use ipnetwork::IpNetwork;

use super::network::with_what_is_left;
use super::records::{self, EndpointRecord, NetworkRecord, Record, Stage, What};
use super::{Work, gone, says};
use crate::services;
use crate::services::plugin::{Called, Fault, Interface, Joined, Plugin};
use crate::state::{Answer, Endpoint, Health, Key, Lead, Mac, Netns, Owner};

/// An endpoint that is being made or removed, with its record.
pub(super) struct Draft {
    pub(super) record: Record,
    pub(super) endpoint: EndpointRecord,
    plugin: Rc<Plugin>,
    /// The ids of the network and of the endpoint.
    network: String,
    id: String,
}

impl Draft {
    fn new(record: Record, endpoint: EndpointRecord, plugin: Rc<Plugin>) -> Self {
        let network = records::id(&Key::Network { network: endpoint.network.clone() });
        let id = records::id(&record.key());
        Self { record, endpoint, plugin, network, id }
    }
}

impl Work<'_> {
    pub(super) fn make_endpoint(&mut self, key: &Key, wanted: &Endpoint, owners: Vec<Owner>) -> Called<()> {
        let Key::Endpoint { network, container } = key else { return Ok(()) };
        let network_key = Key::Network { network: network.clone() };
        let made = self.network_record(&network_key)?.filter(|(_, network)| network.created == Stage::Done);
        let Some((_, made)) = made else { return Err(Fault::Away("its network is not there".to_owned())) };
        // One that a death left, and that no plan has seen.
        if self.record(key)?.is_some() {
            self.remove_endpoint(key, Health::Half)?;
        }
        let plugin = self.plugin(&made.asked.plugin)?;
        let endpoint = EndpointRecord {
            network: network.clone(),
            container: container.clone(),
            plugin: made.asked.plugin.clone(),
            ipam: made.asked.ipam.clone(),
            asked: Endpoint { answer: None, health: Health::Whole, ..wanted.clone() },
            leases: Vec::new(),
            created: Stage::Not,
            joined: Stage::Not,
            external: Stage::Not,
            known: false,
            answer: None,
        };
        let record = Record::new(self.host(), owners, What::Endpoint(endpoint.clone()));
        let mut draft = Draft::new(record, endpoint, plugin);
        self.keep_endpoint(&mut draft)?;
        let Err(fault) = self.create_endpoint(&made, &mut draft) else {
            return Ok(());
        };
        let refused = draft.endpoint.created == Stage::Begun && matches!(fault, Fault::Refused(_));
        let back = self.take_back_endpoint(&mut draft, Health::Half);
        if refused && back.is_ok() {
            self.doubt(&network_key)?;
        }
        Err(with_what_is_left(fault, back))
    }

    /// A plugin that refuses the only container of a network may have forgotten that: the next run makes it anew.
    fn doubt(&mut self, network: &Key) -> Called<()> {
        let all = self.all_records()?;
        let mut others = all.iter().filter(|record| matches!(record.what, What::Endpoint(_)));
        if others.any(|record| record.key().plugin_network() == network.plugin_network()) {
            return Ok(());
        }
        let Some((mut record, mut made)) = self.network_record(network)? else { return Ok(()) };
        made.created = Stage::Begun;
        record.what = What::Network(made);
        self.save(&record)
    }

    pub(super) fn keep_endpoint(&mut self, draft: &mut Draft) -> Called<()> {
        draft.record.what = What::Endpoint(draft.endpoint.clone());
        self.save(&draft.record)
    }

    fn create_endpoint(&mut self, made: &NetworkRecord, draft: &mut Draft) -> Called<()> {
        let asked = draft.endpoint.asked.clone();
        let plugin = draft.plugin.clone();
        let mut given = Interface { addresses: asked.addresses.clone(), mac: asked.mac };
        if let Some(ipam) = &made.asked.ipam {
            let ipam = self.plugin(ipam)?;
            if ipam.ipam_needs().mac {
                let Key::Endpoint { network, container } = draft.record.key() else { return Ok(()) };
                given.mac.get_or_insert_with(|| Mac::hashed(&format!("{network}/{container}")));
            }
            given.addresses = self.lease(draft, given.mac)?;
        }
        draft.endpoint.created = Stage::Begun;
        self.keep_endpoint(draft)?;
        let chosen = self.call(|| plugin.create_endpoint(&draft.network, &draft.id, &given, &asked.ports))?;
        let given =
            with_chosen(made, given, &chosen).map_err(|why| says(&draft.endpoint.plugin, "CreateEndpoint", &why))?;
        draft.endpoint.created = Stage::Done;
        draft.endpoint.joined = Stage::Begun;
        self.keep_endpoint(draft)?;
        let sandbox = sandbox(&asked.netns);
        let joined = self.call(|| plugin.join(&draft.network, &draft.id, &sandbox, &asked.ports))?;
        draft.endpoint.joined = Stage::Done;
        let answer = self
            .answer(&draft.endpoint.network, joined, given)
            .map_err(|why| says(&draft.endpoint.plugin, "Join", &why))?;
        if asked.external {
            draft.endpoint.external = Stage::Begun;
            self.keep_endpoint(draft)?;
            self.call(|| plugin.program_external_connectivity(&draft.network, &draft.id, &asked))?;
            draft.endpoint.external = Stage::Done;
        }
        draft.endpoint.known = plugin.endpoint_is_known(&draft.network, &draft.id).is_ok();
        self.remote.known.insert(draft.id.clone(), true);
        draft.endpoint.answer = Some(answer);
        self.keep_endpoint(draft)
    }

    /// What the plugin says that it made, if that can be so.
    fn answer(&mut self, network: &str, joined: Joined, given: Interface) -> Result<Answer, String> {
        let Joined { device, gateways, routes } = joined;
        let found = self.linux.host_device(device).map_err(|error| error.to_string())?;
        let found = found.ok_or_else(|| format!("it names the device `{device}`, which this host does not have"))?;
        if found.ours {
            return Err(format!("it names the device `{device}`, which is netrec's own"));
        }
        let all = self.all_records().map_err(|error| error.to_string())?;
        if let Some(other) = who_has(&all, |_, answer| answer.device == device) {
            return Err(format!("it names the device `{device}`, which is that of {other}"));
        }
        if found.bridge {
            return Err(format!("it names the device `{device}`, which is a bridge"));
        }
        if found.port {
            return Err(format!("it names the device `{device}`, which is a port of another device"));
        }
        if found.uplink {
            return Err(format!("it names the device `{device}`, by which this host reaches the world"));
        }
        if found.mac == Mac::default() {
            return Err(format!("it names the device `{device}`, which has no Ethernet address"));
        }
        let mac = given.mac.unwrap_or(found.mac);
        let same = |on: &str, answer: &Answer| on == network && answer.mac == mac;
        if let Some(other) = who_has(&all, same).filter(|_| !found.shares_mac) {
            return Err(format!("the device `{device}` has the MAC address {mac}, which is that of {other}"));
        }
        Ok(Answer { device, mac, mtu: found.mtu, no_arp: found.no_arp, addresses: given.addresses, gateways, routes })
    }

    /// Changes what can change in place: whether the container's way out is by it.
    pub(super) fn change_endpoint(&mut self, key: &Key, wanted: &Endpoint) -> Called<()> {
        let Some(mut draft) = self.endpoint_draft(key)? else { return Ok(()) };
        let elsewhere = wanted.external && wanted.ipv6_elsewhere != draft.endpoint.asked.ipv6_elsewhere;
        if elsewhere || wanted.external != (draft.endpoint.external == Stage::Done) {
            draft.endpoint.external = Stage::Begun;
            self.keep_endpoint(&mut draft)?;
            let plugin = draft.plugin.clone();
            if wanted.external {
                self.call(|| plugin.program_external_connectivity(&draft.network, &draft.id, wanted))?;
                draft.endpoint.external = Stage::Done;
            } else {
                self.call(|| plugin.revoke_external_connectivity(&draft.network, &draft.id))?;
                draft.endpoint.external = Stage::Not;
            }
        }
        draft.endpoint.asked.external = wanted.external;
        draft.endpoint.asked.ipv6_elsewhere = wanted.ipv6_elsewhere;
        self.keep_endpoint(&mut draft)
    }

    fn endpoint_draft(&mut self, key: &Key) -> Called<Option<Draft>> {
        let Some(record) = self.record(key)? else { return Ok(None) };
        let What::Endpoint(endpoint) = record.what.clone() else { return Ok(None) };
        let plugin = self.plugin(&endpoint.plugin)?;
        Ok(Some(Draft::new(record, endpoint, plugin)))
    }

    pub(super) fn remove_endpoint(&mut self, key: &Key, health: Health) -> Called<()> {
        let Some(mut draft) = self.endpoint_draft(key)? else { return Ok(()) };
        self.remote.known.remove(&draft.id);
        self.take_back_endpoint(&mut draft, health)
    }

    /// Takes back, call by call, what was done for a container.
    fn take_back_endpoint(&mut self, draft: &mut Draft, health: Health) -> Called<()> {
        let ill = !health.is_whole();
        let (plugin, network, id) = (draft.plugin.clone(), draft.network.clone(), draft.id.clone());
        draft.endpoint.answer = None;
        if draft.endpoint.external != Stage::Not {
            draft.endpoint.external = Stage::Begun;
            self.keep_endpoint(draft)?;
            self.undo(draft, ill, || plugin.revoke_external_connectivity(&network, &id))?;
            draft.endpoint.external = Stage::Not;
        }
        if draft.endpoint.joined != Stage::Not {
            let unsure = std::mem::replace(&mut draft.endpoint.joined, Stage::Begun) == Stage::Begun;
            self.keep_endpoint(draft)?;
            self.undo(draft, ill || unsure, || plugin.leave(&network, &id))?;
            draft.endpoint.joined = Stage::Not;
        }
        if draft.endpoint.created != Stage::Not {
            let unsure = std::mem::replace(&mut draft.endpoint.created, Stage::Begun) == Stage::Begun;
            self.keep_endpoint(draft)?;
            self.undo(draft, ill || unsure, || plugin.delete_endpoint(&network, &id))?;
            draft.endpoint.created = Stage::Not;
        }
        self.give_back(draft)?;
        self.forget(&draft.record.key())
    }

    /// Takes one call back. Where a plugin refuses that, it is asked whether it knows the endpoint at all.
    fn undo(&mut self, draft: &Draft, tolerant: bool, call: impl FnOnce() -> Called<()>) -> Called<()> {
        let called = gone(self.call(call), tolerant);
        if !matches!(called, Err(Fault::Refused(_))) {
            return called;
        }
        let known = draft.plugin.endpoint_is_known(&draft.network, &draft.id);
        gone(called, matches!(known, Err(Fault::Refused(_))))
    }
}

/// The first container on a network whose answer is such a one.
fn who_has(all: &[Record], is_such: impl Fn(&str, &Answer) -> bool) -> Option<Key> {
    let has = |record: &&Record| match &record.what {
        What::Endpoint(endpoint) => endpoint.answer.as_ref().is_some_and(|answer| is_such(&endpoint.network, answer)),
        What::Network(_) => false,
    };
    all.iter().find(has).map(Record::key)
}

/// The path of a container's namespace.
fn sandbox(netns: &Netns) -> String {
    match services::leads(once(netns)).remove(netns) {
        Some(Lead::At(path)) => path,
        _ => crate::kernel::namespace_path(netns).display().to_string(),
    }
}

/// The interface that was asked for, with what the plugin chose of it.
fn with_chosen(made: &NetworkRecord, given: Interface, chosen: &Interface) -> Result<Interface, String> {
    let mut interface = given;
    for ip in &chosen.addresses {
        match interface.addresses.iter().find(|given| given.is_ipv6() == ip.is_ipv6()) {
            Some(given) if given == ip => {}
            Some(given) => return Err(format!("it changes the address from {given} to {ip}")),
            None if !made.asked.subnets.iter().any(|subnet| is_in(subnet.subnet, *ip)) => {
                return Err(format!("the address {ip} is outside of the network's subnets"));
            }
            None => interface.addresses.push(*ip),
        }
    }
    match (interface.mac, chosen.mac) {
        (Some(given), Some(chosen)) if given != chosen => {
            Err(format!("it changes the MAC address from {given} to {chosen}"))
        }
        (given, chosen) => Ok(Interface { mac: given.or(chosen), ..interface }),
    }
}

/// Whether an address is one of a subnet, and its own subnet a part of that.
fn is_in(subnet: IpNetwork, ip: IpNetwork) -> bool {
    subnet.contains(ip.ip()) && ip.prefix() >= subnet.prefix()
}
