//! The life of a plugin's network: pools and gateways, allocation for all hosts, creation, and all that backwards.

use std::net::IpAddr;

use super::records::{self, NetworkRecord, PoolRecord, Record, Stage, What};
use super::{Work, gone};
use crate::services::plugin::{Called, Capabilities, Fault, Plugin, Told};
use crate::state::{Health, Key, Owner, PluginNetwork, PluginSubnet};

/// The address space of addresses that netrec chooses, of this host's networks or of all hosts'. What Docker's own is called.
fn own_space(global: bool) -> &'static str {
    if global { "GlobalDefault" } else { "LocalDefault" }
}

impl Work<'_> {
    pub(super) fn make_network(&mut self, key: &Key, wanted: &PluginNetwork, owners: Vec<Owner>) -> Called<()> {
        // Both have to be there before anything is told.
        let plugin = self.plugin(&wanted.plugin)?;
        let can = plugin.network_driver()?;
        if let Some(ipam) = &wanted.ipam {
            self.plugin(ipam)?.address_space(can.global)?;
        }
        // One that a death left, and that no plan has seen.
        if self.record(key)?.is_some() {
            self.remove_network(key, Health::Half)?;
        }
        let record = NetworkRecord {
            network: key.plugin_network().cloned().unwrap_or_default(),
            asked: wanted.clone(),
            pools: Vec::new(),
            space: String::new(),
            hosts: Vec::new(),
            allocated: Stage::Not,
            created: Stage::Not,
        };
        let mut draft =
            Draft { record: Record::new(self.host(), owners, What::Network(record.clone())), network: record };
        self.keep(&mut draft)?;
        let Err(fault) = self.create_network(&plugin, can, &mut draft) else { return Ok(()) };
        let back = self.take_back_network(&mut draft, Health::Half);
        Err(with_what_is_left(fault, back))
    }

    pub(super) fn keep(&mut self, draft: &mut Draft) -> Called<()> {
        draft.record.what = What::Network(draft.network.clone());
        self.save(&draft.record)
    }

    fn create_network(&mut self, plugin: &Plugin, can: Capabilities, draft: &mut Draft) -> Called<()> {
        let id = records::id(&draft.record.key());
        let mut asked = draft.network.asked.clone();
        let space = own_space(can.global);
        if can.checks_gateways {
            let told = Told { id: &id, options: &asked.options, subnets: &asked.subnets, space };
            let without = plugin.check_gateways(&told)?;
            let skips = |subnet: &&mut PluginSubnet| without[usize::from(subnet.subnet.is_ipv6())];
            for subnet in asked.subnets.iter_mut().filter(skips).filter(|subnet| !subnet.says_gateway) {
                (subnet.gateway, subnet.says_gateway) = (None, true);
            }
        }
        space.clone_into(&mut draft.network.space);
        if asked.ipam.is_some() {
            self.reserve(draft, &mut asked, can.global)?;
        }
        let space = draft.network.space.clone();
        let told = Told { id: &id, options: &asked.options, subnets: &asked.subnets, space: &space };
        let mut options = asked.options.clone();
        if can.global {
            draft.network.allocated = Stage::Begun;
            self.keep(draft)?;
            match self.call(|| plugin.allocate_network(&told)) {
                Ok(more) => {
                    options.extend(more);
                    draft.network.allocated = Stage::Done;
                }
                Err(Fault::Missing(_)) => draft.network.allocated = Stage::Not,
                Err(fault) => return Err(fault),
            }
        }
        if can.reaches_hosts {
            self.tell_hosts(plugin, draft)?;
        }
        draft.network.created = Stage::Begun;
        self.keep(draft)?;
        self.call(|| plugin.create_network(&Told { options: &options, ..told }))?;
        draft.network.created = Stage::Done;
        self.keep(draft)
    }

    /// Tells a plugin of the hosts that it does not know of, and that others are no more.
    fn tell_hosts(&mut self, plugin: &Plugin, draft: &mut Draft) -> Called<()> {
        let wanted = draft.network.asked.hosts.clone();
        for (index, host) in wanted.iter().enumerate() {
            if draft.network.hosts.contains(host) {
                continue;
            }
            draft.network.hosts.push(*host);
            self.keep(draft)?;
            // Though another network's creation has told it: it may have been restarted since.
            self.call(|| plugin.discover(*host, index == 0, true))?;
        }
        for host in draft.network.hosts.clone().into_iter().filter(|host| !wanted.contains(host)) {
            self.untell(plugin, draft, host)?;
        }
        Ok(())
    }

    fn untell(&mut self, plugin: &Plugin, draft: &mut Draft, host: IpAddr) -> Called<()> {
        if !self.is_told(draft, host)? {
            let is_self = draft.network.asked.hosts.first() == Some(&host);
            gone(self.call(|| plugin.discover(host, is_self, false)), true)?;
        }
        draft.network.hosts.retain(|told| *told != host);
        self.keep(draft)
    }

    /// Whether another network of the plugin's has told it of a host.
    fn is_told(&self, draft: &Draft, host: IpAddr) -> Called<bool> {
        let all = self.all_records()?;
        let own = draft.record.key();
        Ok(all.iter().filter(|record| record.key() != own).any(|record| match &record.what {
            What::Network(other) => other.asked.plugin == draft.network.asked.plugin && other.hosts.contains(&host),
            What::Endpoint(_) => false,
        }))
    }

    /// Changes what can change in place: the hosts.
    pub(super) fn change_network(&mut self, key: &Key, wanted: &PluginNetwork) -> Called<()> {
        let Some((record, network)) = self.network_record(key)? else { return Ok(()) };
        let mut draft = Draft { record, network };
        draft.network.asked.hosts.clone_from(&wanted.hosts);
        let plugin = self.plugin(&wanted.plugin)?;
        if plugin.network_driver()?.reaches_hosts {
            self.tell_hosts(&plugin, &mut draft)?;
        }
        self.keep(&mut draft)
    }

    pub(super) fn remove_network(&mut self, key: &Key, health: Health) -> Called<()> {
        let Some((record, network)) = self.network_record(key)? else { return Ok(()) };
        self.take_back_network(&mut Draft { record, network }, health)
    }

    /// Takes back, call by call, what was done for a network.
    fn take_back_network(&mut self, draft: &mut Draft, health: Health) -> Called<()> {
        let key = draft.record.key();
        let id = records::id(&key);
        let nothing = |draft: &Draft| {
            let network = &draft.network;
            network.created == Stage::Not && network.allocated == Stage::Not && network.hosts.is_empty()
        };
        // In libnetwork's order.
        self.release(draft)?;
        if !nothing(draft) {
            let plugin = self.plugin(&draft.network.asked.plugin)?;
            if draft.network.created != Stage::Not {
                let tolerant = !health.is_whole() || draft.network.created == Stage::Begun;
                draft.network.created = Stage::Begun;
                self.keep(draft)?;
                gone(self.call(|| plugin.delete_network(&id)), tolerant)?;
                draft.network.created = Stage::Not;
                self.keep(draft)?;
            }
            if draft.network.allocated != Stage::Not {
                let tolerant = !health.is_whole() || draft.network.allocated == Stage::Begun;
                draft.network.allocated = Stage::Begun;
                self.keep(draft)?;
                gone(self.call(|| plugin.free_network(&id)), tolerant)?;
                draft.network.allocated = Stage::Not;
                self.keep(draft)?;
            }
            for host in draft.network.hosts.clone() {
                self.untell(&plugin, draft, host)?;
            }
        }
        self.forget(&key)
    }
}

/// A network that is being made or removed, with its record.
pub(super) struct Draft {
    pub(super) record: Record,
    pub(super) network: NetworkRecord,
}

impl Draft {
    /// Changes the last of the pools.
    pub(super) fn pool(&mut self, change: impl FnOnce(&mut PoolRecord)) {
        if let Some(last) = self.network.pools.last_mut() {
            change(last);
        }
    }
}

/// An error, with what could not be taken back.
pub(super) fn with_what_is_left(fault: Fault, back: Called<()>) -> Fault {
    match back {
        Ok(()) => fault,
        Err(left) => Fault::Unsure(format!(
            "{fault}; what was done could not all be taken back, the next run tries again: {left}"
        )),
    }
}
