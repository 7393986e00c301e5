//! Networks of plugins and containers on them: what the plugins were told is read, and steps become calls, in the order in
//! which libnetwork makes them.
//!
//! A step that fails takes back what it had done, call by call. What cannot be taken back stays written down, and is taken
//! back first by the next one.

mod endpoint;
mod ipam;
mod network;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use records::{EndpointRecord, NetworkRecord, Record, Stage, What};

use crate::kernel::{Linux, ReadError, StepError};
use crate::services::plugin::{Called, Fault, Plugin};
use crate::state::{Endpoint, Entry, Health, Key, Object, PluginNetwork, Standing, State, Step};

/// How long plugins are asked in one reading whether they remember.
const LONGEST_ASKING: Duration = Duration::from_secs(5);

/// The plugins of a host.
#[derive(Debug, Default)]
pub(super) struct Remote {
    plugins: BTreeMap<String, Opened>,
    /// Of the endpoints that were asked for by their ids, whether the plugin knows them.
    known: BTreeMap<String, bool>,
    /// How long all these questions have taken.
    asking: Duration,
    /// The IPAM plugins that know what they gave, or were told again.
    replayed: BTreeSet<String>,
}

/// A plugin that was looked for.
#[derive(Debug)]
struct Opened {
    plugin: Called<Rc<Plugin>>,
    /// Whether it was waited for.
    patiently: bool,
}

impl Remote {
    /// Reads all that plugins were told, and asks them whether they remember.
    pub(super) fn read_anew(&mut self, linux: &mut Linux) -> Result<State, ReadError> {
        self.known.clear();
        self.asking = Duration::ZERO;
        self.read(linux)
    }

    /// The same, without asking again.
    pub(super) fn read(&mut self, linux: &mut Linux) -> Result<State, ReadError> {
        let records = records::all(linux.host_id().1).map_err(|error| unread(&error))?;
        let mut state = State::new();
        for record in &records {
            let (key, object) = (record.key(), self.object(record, linux)?);
            state.insert(key, Entry { object, owners: record.owners.clone(), standing: Standing::Ours });
        }
        Ok(with_ill_networks(state, &records))
    }

    fn object(&mut self, record: &Record, linux: &mut Linux) -> Result<Object, ReadError> {
        Ok(match &record.what {
            What::Network(network) => {
                let health = if network.created == Stage::Done { Health::Whole } else { Health::Half };
                Object::Network(PluginNetwork { health, ..network.asked.clone() })
            }
            What::Endpoint(endpoint) => {
                let health = self.health(&record.key(), endpoint, linux)?;
                let external = endpoint.external == Stage::Done;
                Object::Endpoint(Endpoint {
                    health,
                    external,
                    answer: endpoint.answer.clone(),
                    ..endpoint.asked.clone()
                })
            }
        })
    }

    fn health(&mut self, key: &Key, endpoint: &EndpointRecord, linux: &mut Linux) -> Result<Health, ReadError> {
        let stages = [endpoint.created, endpoint.joined];
        let Some(answer) = endpoint.answer.as_ref().filter(|_| stages == [Stage::Done; 2]) else {
            return Ok(Health::Half);
        };
        if endpoint.external == Stage::Begun {
            return Ok(Health::Half);
        }
        if endpoint.known && !self.is_known(key, &endpoint.plugin) {
            return Ok(Health::Forgotten);
        }
        let there = linux.holds_plugins_device(&endpoint.asked.netns, answer.device)?;
        Ok(if there { Health::Whole } else { Health::Lost })
    }

    /// Whether a plugin knows an endpoint. One that does not answer, or has no such call, is believed to; and so are all when
    /// the answers have taken too long, since nobody waits for a plan for as long as a slow plugin takes to answer for each
    /// of its containers.
    fn is_known(&mut self, key: &Key, plugin: &str) -> bool {
        let Key::Endpoint { network, .. } = key else { return true };
        let id = records::id(key);
        if let Some(known) = self.known.get(&id) {
            return *known;
        }
        if self.asking >= LONGEST_ASKING {
            return true;
        }
        let network = records::id(&Key::Network { network: network.clone() });
        let begun = Instant::now();
        let asked = self.plugin(plugin, false).and_then(|plugin| plugin.endpoint_is_known(&network, &id));
        self.asking += begun.elapsed();
        let known = !matches!(asked, Err(Fault::Refused(_)));
        self.known.insert(id, known);
        known
    }

    /// A plugin, which may be waited for a little. What came of looking for it counts for all that follows.
    fn plugin(&mut self, name: &str, patiently: bool) -> Called<Rc<Plugin>> {
        let again =
            self.plugins.get(name).is_none_or(|opened| opened.plugin.is_err() && patiently && !opened.patiently);
        if again {
            let plugin = Plugin::open(name, patiently).map(Rc::new);
            self.plugins.insert(name.to_owned(), Opened { plugin, patiently });
        }
        match self.plugins.get(name) {
            Some(opened) => opened.plugin.clone(),
            None => Err(Fault::Away(format!("there is no plugin `{name}`"))),
        }
    }

    /// Carries out a step.
    pub(super) fn run(&mut self, step: &Step, linux: &mut Linux) -> Result<(), StepError> {
        let doing = match (&step.before, &step.after) {
            (None, _) => "make",
            (Some(_), Some(_)) => "change",
            (Some(_), None) => "remove",
        };
        let mut work = Work { remote: self, linux };
        let done = work.step(step);
        done.map_err(|fault| StepError { errno: 0, message: format!("{doing} {}: {fault}", step.key) })
    }
}

/// The work of one step.
struct Work<'a> {
    remote: &'a mut Remote,
    linux: &'a mut Linux,
}

impl Work<'_> {
    fn step(&mut self, step: &Step) -> Called<()> {
        let owners = |entry: &Entry| entry.owners.clone();
        match (&step.before, &step.after) {
            (before, Some(after @ Entry { object: Object::Network(wanted), .. })) => match before {
                None => self.make_network(&step.key, wanted, owners(after)),
                Some(_) => self.change_network(&step.key, wanted),
            },
            (before, Some(after @ Entry { object: Object::Endpoint(wanted), .. })) => match before {
                None => self.make_endpoint(&step.key, wanted, owners(after)),
                Some(_) => self.change_endpoint(&step.key, wanted),
            },
            (Some(Entry { object: Object::Network(found), .. }), None) => self.remove_network(&step.key, found.health),
            (Some(Entry { object: Object::Endpoint(found), .. }), None) => {
                self.remove_endpoint(&step.key, found.health)
            }
            _ => Ok(()),
        }
    }

    fn host(&self) -> u64 {
        self.linux.host_id().1
    }

    fn plugin(&mut self, name: &str) -> Called<Rc<Plugin>> {
        self.remote.plugin(name, true)
    }

    /// Makes a call, as one of the writes.
    fn call<T>(&mut self, call: impl FnOnce() -> Called<T>) -> Called<T> {
        self.admit()?;
        call()
    }

    fn admit(&mut self) -> Called<()> {
        let refused = |errno| Fault::Away(io::Error::from_raw_os_error(errno).to_string());
        self.linux.admit().map_err(refused)
    }

    fn save(&mut self, record: &Record) -> Called<()> {
        self.admit()?;
        records::save(record).map_err(|error| unwritten(&record.key(), &error))
    }

    fn forget(&mut self, key: &Key) -> Called<()> {
        self.admit()?;
        records::remove(key).map_err(|error| unwritten(key, &error))
    }

    /// The record of a network or an endpoint that is there.
    fn record(&self, key: &Key) -> Called<Option<Record>> {
        records::of(key, self.host()).map_err(|error| Fault::Away(error.to_string()))
    }

    fn all_records(&self) -> Called<Vec<Record>> {
        records::all(self.host()).map_err(|error| Fault::Away(error.to_string()))
    }

    fn network_record(&self, key: &Key) -> Called<Option<(Record, NetworkRecord)>> {
        Ok(match self.record(key)? {
            Some(record @ Record { what: What::Network(_), .. }) => {
                let What::Network(network) = record.what.clone() else { return Ok(None) };
                Some((record, network))
            }
            _ => None,
        })
    }
}

/// Whether something that is taken back can be taken for gone: a plugin that refuses to remove what it has never known, or
/// has forgotten.
fn gone(called: Called<()>, tolerant: bool) -> Called<()> {
    match called {
        Err(Fault::Refused(_) | Fault::Missing(_)) if tolerant => Ok(()),
        called => called,
    }
}

/// Where a plugin has forgotten a container, it has forgotten the network. And an address that nobody knows is given back with
/// the whole subnet: at once where netrec died while it asked for it, else when nobody uses the network.
fn with_ill_networks(mut state: State, records: &[Record]) -> State {
    let mut ill: BTreeMap<Arc<str>, Health> = BTreeMap::new();
    for record in records {
        match &record.what {
            What::Network(network) if network.pools.iter().any(|pool| pool.unsure) => {
                let uses = |(key, entry): (&Key, &Entry)| {
                    let whole = matches!(&entry.object, Object::Endpoint(endpoint) if endpoint.health.is_whole());
                    whole && key.plugin_network() == Some(&network.network)
                };
                if !state.iter().any(uses) {
                    ill.insert(network.network.clone(), Health::Half);
                }
            }
            What::Endpoint(endpoint) if endpoint.leases.iter().any(|lease| lease.address.is_none()) => {
                ill.insert(endpoint.network.clone(), Health::Half);
            }
            _ => {}
        }
    }
    let forgotten = |entry: &Entry| matches!(&entry.object, Object::Endpoint(e) if e.health == Health::Forgotten);
    let networks = state.iter().filter(|(_, entry)| forgotten(entry)).filter_map(|(key, _)| key.plugin_network());
    ill.extend(networks.cloned().map(|network| (network, Health::Forgotten)));
    for (network, health) in ill {
        let key = Key::Network { network };
        if let Some(mut entry) = state.remove(&key) {
            if let Object::Network(network) = &mut entry.object {
                network.health = health;
            }
            state.insert(key, entry);
        }
    }
    state
}

/// An answer that cannot be.
fn says(plugin: &str, method: &str, why: &str) -> Fault {
    Fault::Unsure(format!("plugin `{plugin}`: {method}: {why}"))
}

fn unread(error: &io::Error) -> ReadError {
    let what = "what plugins were told".to_owned();
    match error.kind() {
        io::ErrorKind::PermissionDenied => ReadError::Permission { what, reason: error.to_string() },
        _ => ReadError::Other(format!("read {what}: {error}")),
    }
}

fn unwritten(key: &Key, error: &io::Error) -> Fault {
    Fault::Away(format!("{} cannot be written: {error}", records::path(key).display()))
}
