//! The life of a plugin's network: pools and gateways, allocation for all hosts, creation, and all that backwards.

use std::net::IpAddr;

use super::records::{self, NetworkRecord, PoolRecord, Record, Stage, What};
use super::{Work, gone};
use crate::services::plugin::{Called, Capabilities, Fault, Plugin, Told};
use crate::state::{Health, Key, Owner, PluginNetwork};

/// The address space of addresses that netrec chooses.
const SPACE: &str = "LocalDefault";

impl Work<'_> {
    pub(super) fn make_network(&mut self, key: &Key, wanted: &PluginNetwork, owners: Vec<Owner>) -> Called<()> {
        // Both have to be there before anything is told.
        let plugin = self.plugin(&wanted.plugin)?;
        let can = plugin.network_driver()?;
        if let Some(ipam) = &wanted.ipam {
            self.plugin(ipam)?.address_space()?;
        }
        // One that a death left, and that no plan has seen.
        if self.record(key)?.is_some() {
            self.remove_network(key, Health::Half)?;
        }
        let record = NetworkRecord {
            network: key.plugin_network().cloned().unwrap_or_default(),
            asked: wanted.clone(),
            pools: Vec::new(),
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

    fn keep(&mut self, draft: &mut Draft) -> Called<()> {
        draft.record.what = What::Network(draft.network.clone());
        self.save(&draft.record)
    }

    fn create_network(&mut self, plugin: &Plugin, can: Capabilities, draft: &mut Draft) -> Called<()> {
        let id = records::id(&draft.record.key());
        let mut asked = draft.network.asked.clone();
        if can.checks_gateways {
            let told = Told { id: &id, options: &asked.options, subnets: &asked.subnets, space: SPACE };
            let without = plugin.check_gateways(&told)?;
            for subnet in asked.subnets.iter_mut().filter(|subnet| without[usize::from(subnet.subnet.is_ipv6())]) {
                subnet.gateway = None;
            }
        }
        let space = match &asked.ipam {
            Some(ipam) => {
                let ipam = self.plugin(ipam)?;
                self.reserve(&ipam, draft, &mut asked)?
            }
            None => SPACE.to_owned(),
        };
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

    /// Reserves the subnets and their gateways. Yields the address space.
    fn reserve(&mut self, ipam: &Plugin, draft: &mut Draft, asked: &mut PluginNetwork) -> Called<String> {
        let space = ipam.address_space()?;
        for subnet in &mut asked.subnets {
            draft.network.pools.push(PoolRecord { subnet: subnet.subnet, id: None, gateway: None });
            self.keep(draft)?;
            let pool = self.call(|| ipam.request_pool(&space, subnet))?;
            draft.pool(|last| last.id = Some(pool.id.clone()));
            draft.record.what = What::Network(draft.network.clone());
            Self::save_answer(&draft.record)?;
            if pool.subnet != subnet.subnet {
                return Err(Fault::Unsure(format!(
                    "the plugin gives the pool {} instead of {}",
                    pool.subnet, subnet.subnet
                )));
            }
            if let Some(gateway) = pool.gateway {
                subnet.gateway = Some(gateway);
            } else if let Some(gateway) = subnet.gateway {
                draft.pool(|last| last.gateway = Some(gateway));
                self.keep(draft)?;
                let given = self.call(|| ipam.request_address(&pool.id, Some(gateway), None))?;
                if given.ip() != gateway {
                    draft.pool(|last| last.gateway = Some(given.ip()));
                    let text = format!("the plugin gives the gateway {} instead of {gateway}", given.ip());
                    return Err(Fault::Unsure(text));
                }
            }
        }
        Ok(space)
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
            if !self.is_told(draft, *host)? {
                self.call(|| plugin.discover(*host, index == 0, true))?;
            }
        }
        for host in draft.network.hosts.clone().into_iter().filter(|host| !wanted.contains(host)) {
            self.untell(plugin, draft, host)?;
        }
        Ok(())
    }

    fn untell(&mut self, plugin: &Plugin, draft: &mut Draft, host: IpAddr) -> Called<()> {
        if !self.is_told(draft, host)? {
            let is_self = draft.network.asked.hosts.first() == Some(&host);
            self.call(|| plugin.discover(host, is_self, false))?;
        }
        draft.network.hosts.retain(|told| *told != host);
        self.keep(draft)
    }

    /// Whether another network of the plugin's has told it of a host.
    fn is_told(&self, draft: &Draft, host: IpAddr) -> Called<bool> {
        let all = records::all(self.host()).map_err(|error| Fault::Away(error.to_string()))?;
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
                gone(self.call(|| plugin.free_network(&id)), true)?;
                draft.network.allocated = Stage::Not;
                self.keep(draft)?;
            }
            for host in draft.network.hosts.clone() {
                gone(self.untell(&plugin, draft, host), true)?;
            }
        }
        self.forget(&key)
    }

    /// Gives back gateways and pools.
    fn release(&mut self, draft: &mut Draft) -> Called<()> {
        let Some(ipam) = draft.network.asked.ipam.clone().filter(|_| !draft.network.pools.is_empty()) else {
            return Ok(());
        };
        let ipam = self.plugin(&ipam)?;
        while let Some(PoolRecord { id, gateway, .. }) = draft.network.pools.first().cloned() {
            if let Some(id) = id {
                if let Some(gateway) = gateway {
                    gone(self.call(|| ipam.release_address(&id, gateway)), true)?;
                    draft.network.pools[0].gateway = None;
                    self.keep(draft)?;
                }
                gone(self.call(|| ipam.release_pool(&id)), true)?;
            }
            draft.network.pools.remove(0);
            self.keep(draft)?;
        }
        Ok(())
    }
}

/// A network that is being made or removed, with its record.
struct Draft {
    record: Record,
    network: NetworkRecord,
}

impl Draft {
    /// Changes the last of the pools.
    fn pool(&mut self, change: impl FnOnce(&mut PoolRecord)) {
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
