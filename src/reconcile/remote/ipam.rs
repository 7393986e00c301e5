//! Subnets and addresses that an IPAM plugin gives.
//!
//! What it is asked for is written down before, and what it gave after. No call asks a plugin what it has given; so an answer that
//! nobody heard is made up for: a subnet is asked for again, and an address goes back with the whole of its subnet.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::records::{Lease, NetworkRecord, PoolRecord, Record, Stage, What};
use super::{Work, endpoint, gone, network, says};
use crate::services::plugin::{Called, Fault, Plugin, Pool, Whose};
use crate::state::{Key, Mac, PluginNetwork, PluginSubnet};

impl Work<'_> {
    /// Reserves the subnets, the gateways, and what is to stay free. The network has the plugin's choice of them then.
    pub(super) fn reserve(
        &mut self,
        draft: &mut network::Draft,
        asked: &mut PluginNetwork,
        global: bool,
    ) -> Called<()> {
        let name = asked.ipam.clone().unwrap_or_default();
        self.replay(&name)?;
        let ipam = self.plugin(&name)?;
        draft.network.space = ipam.address_space(global)?;
        for subnet in &mut asked.subnets {
            let record =
                PoolRecord { subnet: subnet.subnet, id: None, gateway: None, reserve: Vec::new(), unsure: false };
            draft.network.pools.push(record);
            self.keep(draft)?;
            let pool = self.call(|| ipam.request_pool(&draft.network.space, subnet));
            if given_nothing(&pool) {
                draft.network.pools.pop();
            }
            let pool = pool?;
            draft.pool(|last| last.id = Some(pool.id.clone()));
            self.keep(draft)?;
            if pool.subnet != subnet.subnet {
                let why = format!("it gives the pool {} instead of {}", pool.subnet, subnet.subnet);
                return Err(says(&name, "RequestPool", &why));
            }
            self.reserve_gateway(draft, (&name, &ipam), &pool, subnet)?;
            for ip in &subnet.reserve {
                draft.pool(|last| last.reserve.push(*ip));
                self.keep(draft)?;
                let given = self.call(|| ipam.request_address(&pool.id, Some(*ip), Whose::Nobody));
                if given_nothing(&given) {
                    draft.pool(|last| last.reserve.retain(|reserved| reserved != ip));
                }
                let given = given?.ip();
                if given != *ip {
                    draft.pool(|last| last.reserve.push(given));
                    return Err(another(&name, given, *ip));
                }
            }
        }
        Ok(())
    }

    /// The gateway is the file's, else the one that comes with the pool, else one that the plugin chooses.
    fn reserve_gateway(
        &mut self,
        draft: &mut network::Draft,
        (name, ipam): (&str, &Plugin),
        pool: &Pool,
        subnet: &mut PluginSubnet,
    ) -> Called<()> {
        let outside = |ip: IpAddr| format!("the gateway {ip} is outside of the subnet {}", pool.subnet);
        if subnet.says_gateway && subnet.gateway.is_none() {
            return Ok(());
        }
        if let Some(gateway) = pool.gateway.filter(|_| !subnet.says_gateway) {
            subnet.gateway = Some(gateway);
            let fits = subnet.subnet.contains(gateway);
            return if fits { Ok(()) } else { Err(says(name, "RequestPool", &outside(gateway))) };
        }
        draft.pool(|last| last.gateway = subnet.gateway);
        self.keep(draft)?;
        let given = self.call(|| ipam.request_address(&pool.id, subnet.gateway, Whose::Gateway));
        if given_nothing(&given) {
            draft.pool(|last| last.gateway = None);
        }
        let given = given?.ip();
        draft.pool(|last| last.gateway = Some(given));
        self.keep(draft)?;
        match subnet.gateway {
            Some(wanted) if wanted != given => return Err(another(name, given, wanted)),
            _ if !subnet.subnet.contains(given) => return Err(says(name, "RequestAddress", &outside(given))),
            _ => subnet.gateway = Some(given),
        }
        Ok(())
    }

    /// Gives back gateways, what was to stay free, and pools.
    pub(super) fn release(&mut self, draft: &mut network::Draft) -> Called<()> {
        let Some(ipam) = draft.network.asked.ipam.clone().filter(|_| !draft.network.pools.is_empty()) else {
            return Ok(());
        };
        let ipam = self.plugin(&ipam)?;
        while let Some(pool) = draft.network.pools.first().cloned() {
            let id = match &pool.id {
                Some(id) => Some(id.clone()),
                None => self.ask_again(&ipam, draft, &pool)?,
            };
            if let Some(id) = id {
                for ip in pool.gateway.into_iter().chain(pool.reserve) {
                    gone(self.call(|| ipam.release_address(&id, ip)), true)?;
                    let first = &mut draft.network.pools[0];
                    first.gateway = first.gateway.filter(|gateway| *gateway != ip);
                    first.reserve.retain(|reserved| *reserved != ip);
                    self.keep(draft)?;
                }
                gone(self.call(|| ipam.release_pool(&id)), true)?;
            }
            draft.network.pools.remove(0);
            self.keep(draft)?;
        }
        Ok(())
    }

    /// Asks once more for the first of the pools, the answer to which nobody heard. A plugin that refuses has given none, or
    /// does not say which.
    fn ask_again(&mut self, ipam: &Plugin, draft: &mut network::Draft, pool: &PoolRecord) -> Called<Option<String>> {
        let subnet = draft.network.asked.subnets.iter().find(|subnet| subnet.subnet == pool.subnet);
        let Some(subnet) = subnet.cloned() else { return Ok(None) };
        let given = self.call(|| ipam.request_pool(&draft.network.space, &subnet));
        if let Err(Fault::Refused(_) | Fault::Missing(_)) = given {
            return Ok(None);
        }
        let id = given?.id;
        draft.network.pools[0].id = Some(id.clone());
        self.keep(draft)?;
        Ok(Some(id))
    }

    /// Has the IPAM plugin give a container an address of each subnet.
    pub(super) fn lease(&mut self, draft: &mut endpoint::Draft, mac: Option<Mac>) -> Called<Vec<IpNetwork>> {
        let name = draft.endpoint.ipam.clone().unwrap_or_default();
        self.replay(&name)?;
        let ipam = self.plugin(&name)?;
        let key = Key::Network { network: draft.endpoint.network.clone() };
        let pools = self.network_record(&key)?.map(|(_, made)| made.pools).unwrap_or_default();
        let container = draft.endpoint.container.clone();
        let whose = Whose::Container(&container, mac.filter(|_| ipam.ipam_needs().mac));
        let mut leased = Vec::new();
        for pool in &pools {
            let Some(id) = &pool.id else { continue };
            let wanted = draft.endpoint.asked.addresses.iter().map(IpNetwork::ip).find(|ip| pool.subnet.contains(*ip));
            // A wanted one is known before it is answered.
            draft.endpoint.leases.push(Lease { pool: id.clone(), address: wanted });
            self.keep_endpoint(draft)?;
            let given = self.call(|| ipam.request_address(id, wanted, whose));
            let others = given.as_ref().ok().map(|given| self.holder(draft, given.ip())).transpose()?.flatten();
            if given_nothing(&given) || others.is_some() {
                draft.endpoint.leases.pop();
            }
            let given = given?.ip();
            if let Some(other) = others {
                return Err(says(&name, "RequestAddress", &format!("it gives {given}, which {other} has")));
            }
            if let Some(last) = draft.endpoint.leases.last_mut() {
                last.address = Some(given);
            }
            self.keep_endpoint(draft)?;
            if let Some(wanted) = wanted.filter(|wanted| *wanted != given) {
                return Err(another(&name, given, wanted));
            }
            if !pool.subnet.contains(given) {
                let why = format!("{given} is outside of the subnet {}", pool.subnet);
                return Err(says(&name, "RequestAddress", &why));
            }
            if is_no_hosts(pool.subnet, given) {
                let why = format!("it gives {given}, which is no host's in the subnet {}", pool.subnet);
                return Err(says(&name, "RequestAddress", &why));
            }
            leased.extend(IpNetwork::new(given, pool.subnet.prefix()));
        }
        Ok(leased)
    }

    /// Gives a container's addresses back. One that may have been given and that nobody knows goes with its subnet.
    pub(super) fn give_back(&mut self, draft: &mut endpoint::Draft) -> Called<()> {
        let Some(ipam) = draft.endpoint.ipam.clone().filter(|_| !draft.endpoint.leases.is_empty()) else {
            return Ok(());
        };
        self.keep_endpoint(draft)?;
        let ipam = self.plugin(&ipam)?;
        while let Some(Lease { pool, address }) = draft.endpoint.leases.first().cloned() {
            match address {
                None => self.doubt_pool(draft, &pool)?,
                // One that was asked for, and may be another's.
                Some(address) if self.holder(draft, address)?.is_some() => {}
                Some(address) => gone(self.call(|| ipam.release_address(&pool, address)), true)?,
            }
            draft.endpoint.leases.remove(0);
            self.keep_endpoint(draft)?;
        }
        Ok(())
    }

    fn doubt_pool(&mut self, draft: &endpoint::Draft, id: &str) -> Called<()> {
        let key = Key::Network { network: draft.endpoint.network.clone() };
        let Some((mut record, mut network)) = self.network_record(&key)? else { return Ok(()) };
        for pool in network.pools.iter_mut().filter(|pool| pool.id.as_deref() == Some(id)) {
            pool.unsure = true;
        }
        record.what = What::Network(network);
        self.save(&record)
    }

    /// Who else on the network has an address: another container, or the network itself, as its gateway or to keep it free.
    fn holder(&self, draft: &endpoint::Draft, ip: IpAddr) -> Called<Option<Key>> {
        let own = draft.record.key();
        let has = |record: &&Record| match &record.what {
            What::Endpoint(endpoint) => endpoint.leases.iter().any(|lease| lease.address == Some(ip)),
            What::Network(network) => {
                network.pools.iter().any(|pool| pool.gateway == Some(ip) || pool.reserve.contains(&ip))
            }
        };
        let others = self.all_records()?.into_iter().filter(|record| {
            let key = record.key();
            key != own && key.plugin_network() == own.plugin_network()
        });
        let others: Vec<Record> = others.collect();
        Ok(others.iter().find(has).map(Record::key))
    }

    /// Tells an IPAM plugin that wants it so what it gave, before more is asked of it: it may have been restarted since. What
    /// it refuses of that it remembers.
    fn replay(&mut self, name: &str) -> Called<()> {
        if !self.remote.replayed.insert(name.to_owned()) {
            return Ok(());
        }
        let ipam = self.plugin(name)?;
        if !ipam.ipam_needs().replay {
            return Ok(());
        }
        let mut all = self.all_records()?;
        let networks: Vec<NetworkRecord> = all
            .iter()
            .filter_map(|record| match &record.what {
                What::Network(network) if network.created == Stage::Done => Some(network.clone()),
                _ => None,
            })
            .filter(|network| network.asked.ipam.as_deref() == Some(name))
            .collect();
        for network in &networks {
            for (pool, old) in network.pools.iter().filter_map(|pool| Some((pool, pool.id.as_deref()?))) {
                let subnet = network.asked.subnets.iter().find(|subnet| subnet.subnet == pool.subnet);
                let Some(subnet) = subnet else { continue };
                let again = self.call(|| ipam.request_pool(&network.space, subnet));
                let id = remembered(again)?.map_or_else(|| old.to_owned(), |pool| pool.id);
                if let Some(ip) = pool.gateway {
                    remembered(self.call(|| ipam.request_address(&id, Some(ip), Whose::Gateway)))?;
                }
                for ip in &pool.reserve {
                    remembered(self.call(|| ipam.request_address(&id, Some(*ip), Whose::Nobody)))?;
                }
                for record in &mut all {
                    self.replay_record(&ipam, record, (&network.network, old, &id))?;
                }
            }
        }
        Ok(())
    }

    /// The same for a record of a network's: its addresses are asked for, and the pool has its new id.
    fn replay_record(
        &mut self,
        ipam: &Plugin,
        record: &mut Record,
        (network, old, new): (&str, &str, &str),
    ) -> Called<()> {
        let before = record.clone();
        match &mut record.what {
            What::Network(of) if &*of.network == network => {
                let renamed = of.pools.iter_mut().filter(|pool| pool.id.as_deref() == Some(old));
                renamed.for_each(|pool| pool.id = Some(new.to_owned()));
            }
            What::Endpoint(of) if &*of.network == network => {
                let mac = of.answer.as_ref().map(|answer| answer.mac).filter(|_| ipam.ipam_needs().mac);
                for lease in of.leases.iter_mut().filter(|lease| lease.pool == old) {
                    let whose = Whose::Container(&of.container, mac);
                    if let Some(ip) = lease.address {
                        remembered(self.call(|| ipam.request_address(new, Some(ip), whose)))?;
                    }
                    new.clone_into(&mut lease.pool);
                }
            }
            _ => {}
        }
        if old == new || *record == before { Ok(()) } else { self.save(record) }
    }
}

/// Whether a plugin says that it gave nothing, or was told nothing.
fn given_nothing<T>(called: &Called<T>) -> bool {
    matches!(called, Err(Fault::Refused(_) | Fault::Missing(_) | Fault::Away(_)))
}

/// What a plugin gave that was told again; none where it refuses, since it remembers.
fn remembered<T>(called: Called<T>) -> Called<Option<T>> {
    match called {
        Err(Fault::Refused(_)) => Ok(None),
        called => called.map(Some),
    }
}

/// Whether an address is that of the subnet itself, or its broadcast address (RFC 1122; where there are more than two, RFC
/// 3021).
fn is_no_hosts(subnet: IpNetwork, ip: IpAddr) -> bool {
    subnet.is_ipv4() && subnet.prefix() < 31 && (ip == subnet.network() || ip == subnet.broadcast())
}

fn another(plugin: &str, given: IpAddr, wanted: IpAddr) -> Fault {
    says(plugin, "RequestAddress", &format!("it gives {given} instead of {wanted}, which was asked for"))
}
