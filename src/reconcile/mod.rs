//! Bringing the kernel to what the file wants: read, plan, apply, verify, and on failure back to what there was.

mod apply;
mod books;
mod cluster;
mod confirmed;
mod entrances;
mod files;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guard;
mod input;
mod lock;
mod machine;
#[cfg(feature = "fault-injection")]
mod mutate;
mod pin;
pub mod rehearse;
mod remote;
mod saved;
mod sources;
mod stale;
mod status;
mod table;
mod trust;
pub mod watch;

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::thread;

pub use apply::{ApplyError, Progress, Undo, apply, unwatched};
pub use books::{Books, Kept};
pub use cluster::Told;
pub use confirmed::{applied, keep_confirmed};
pub use guard::{GuardError, Guarded, Journal, Place, Ruling, Stage};
pub use input::{InputError, read_sources, read_trusted};
pub use lock::{Lock, LockError};
pub use machine::Machine;
pub use pin::{Pin, PinError, Pinned, pin};
pub use saved::{Origin, Saved, SavedError};
pub use sources::enter;
pub use stale::Stale;
pub use status::{AttachmentStatus, ContainerStatus, Hindrance, NetworkStatus, PortStatus, Standing, Status, status};
pub use trust::Doubt;

use crate::config::{Config, Container, Invalid, Sources, closest};
use crate::desired::{Desired, DesiredError, Refusal, bridge_name, desired, of_another_kind};
use crate::kernel::{Backend, ReadError};
use crate::plan::{Conflict, Diff, LeftOut, Part, Plan, diff, meets_others, moved_addresses, published, surroundings};
use crate::state::clean;
use crate::state::{
    Asked, Entry, Facts, Key, Kind, Link, LinkKind, Object, Owner, Places, Scope, State, Warning, facts,
};

/// What is wanted, what there is, and the way from one to the other.
#[derive(Debug, Default)]
pub struct Prepared {
    /// What is wanted; nothing to destroy all.
    pub desired: State,
    /// What there is.
    pub live: State,
    /// What the reader of live state looks at.
    pub scope: Scope,
    /// The way.
    pub plan: Plan,
    /// The texts that it was made of; none to destroy all.
    pub file: Sources,
    /// What it depends on beside the file.
    pub facts: Facts,
    /// What other programs are told once it has been carried out.
    pub told: Option<Told>,
    /// What to plan once more, where containers are on plugins' networks.
    pub again: Option<Again>,
}

impl Prepared {
    /// Tells other programs of what has been carried out, where the file wants that.
    ///
    /// # Errors
    /// That it could not be done, in a sentence.
    pub fn tell_others(&self) -> Result<(), String> {
        self.told.as_ref().map_or(Ok(()), Told::write)
    }
}

/// What a plan is made of.
#[derive(Clone, Debug)]
pub struct Again {
    config: Config,
    host: Option<String>,
    targets: Vec<Owner>,
    /// Whether plugins say what else is wanted when the plan has been carried out.
    unanswered: bool,
}

impl Again {
    fn of(config: &Config, host: Option<&str>, targets: &[Owner], state: &State, unanswered: bool) -> Option<Self> {
        let on_plugins = state.iter().any(|(key, _)| key.kind() == Kind::Endpoint);
        let (host, targets) = (host.map(str::to_owned), targets.to_vec());
        on_plugins.then(|| Self { config: config.clone(), host, targets, unanswered })
    }

    fn prepare(&self, backend: &mut dyn Backend) -> Result<Prepared, PrepareError> {
        prepare_part(backend, &self.config, self.host.as_deref(), &self.targets)
    }
}

/// There is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The file is not valid.
    #[error("{0}")]
    Invalid(Box<Invalid>),
    /// The file does not fit this host.
    #[error("{0}")]
    Host(String),
    /// The kernel could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
}

impl From<DesiredError> for PrepareError {
    fn from(error: DesiredError) -> Self {
        match error {
            DesiredError::Invalid(invalid) => Self::Invalid(Box::new(invalid)),
            host @ DesiredError::Host(_) => Self::Host(host.to_string()),
        }
    }
}

/// Reads the kernel and plans the way to what the file wants. `host` is the name that plans show, else the system's.
pub fn prepare(backend: &mut dyn Backend, config: &Config, host: Option<&str>) -> Result<Prepared, PrepareError> {
    prepare_part(backend, config, host, &[])
}

/// The same for what belongs to some owners alone, and what that needs; without any for all.
pub fn prepare_part(
    backend: &mut dyn Backend,
    config: &Config,
    host: Option<&str>,
    targets: &[Owner],
) -> Result<Prepared, PrepareError> {
    let (facts, Desired { state, warnings, chosen, refusals, unanswered }) = wanted(backend, config, host)?;
    if targets.is_empty() {
        fits(&refusals)?;
    }
    #[cfg(feature = "fault-injection")]
    let state = mutate::mutated(state);
    let (live, scope) = read(backend, &state).map_err(|error| placed(error, config))?;
    let (state, warnings, left_out) = if targets.is_empty() {
        (state, warnings, LeftOut::default())
    } else {
        part(config, Desired { state, warnings, refusals, ..Desired::default() }, &live, targets)?
    };
    let what = Wanted { state, warnings, chosen, targets, left_out };
    let (mut prepared, conflicts) = planned(backend, config, host, facts, what, (live, scope));
    if conflicts.is_empty() {
        prepared.again = Again::of(config, host, targets, &prepared.desired, unanswered);
        Ok(prepared)
    } else {
        Err(PrepareError::Host(in_the_way(&conflicts, &prepared.desired, config)))
    }
}

/// The same after a round that came from the same file: for what others changed since, without the warnings that the first one
/// had. What is wanted is what was, unless the facts are others.
pub fn prepare_again(
    backend: &mut dyn Backend,
    config: &Config,
    host: Option<&str>,
    last: Prepared,
) -> Result<Prepared, PrepareError> {
    let mut facts = depends_on(backend, config, host)?;
    facts.surroundings = last.facts.surroundings.clone();
    let (state, again, read) = if facts == last.facts {
        let read = read(backend, &last.desired);
        (last.desired, last.again, read)
    } else {
        // Other facts mostly want something else of the same devices: beside that, what there is is read.
        let supposed = Scope::of(&last.desired);
        let before = last.desired;
        let look = || {
            let live = backend.live(&supposed);
            drop(before);
            live
        };
        let (wanted, live) = beside(|| desired(config, &facts, host), look);
        let Desired { state, refusals, unanswered, .. } = wanted?;
        fits(&refusals)?;
        let read = if Scope::of(&state) == supposed {
            live.and_then(|live| with_going(backend, &state, live, supposed))
        } else {
            read(backend, &state)
        };
        let again = Again::of(config, host, &[], &state, unanswered);
        (state, again, read)
    };
    let (live, scope) = read.map_err(|error| placed(error, config))?;
    let Diff { actions, conflicts } = diff(&state, &live);
    if !conflicts.is_empty() {
        return Err(PrepareError::Host(in_the_way(&conflicts, &state, config)));
    }
    let plan = Plan {
        host: host_name(&facts, host),
        namespaces: sources::touched(backend, &actions, &facts),
        actions,
        file: config.sources.names(),
        ..Plan::default()
    };
    let told = Told::of(config, &facts, &state);
    Ok(Prepared { desired: state, live, scope, plan, file: last.file, facts, told, again })
}

/// What a file's desired state depends on beside the file, but for its surroundings.
fn depends_on(backend: &mut dyn Backend, config: &Config, host: Option<&str>) -> Result<Facts, PrepareError> {
    let mut facts = backend.facts(&asked(config))?;
    facts.sources = sources::of_config(backend, config, host.unwrap_or(&facts.host));
    facts.remote = backend.endpoints()?;
    Ok(facts)
}

/// The same, and what the file wants there.
fn wanted(backend: &mut dyn Backend, config: &Config, host: Option<&str>) -> Result<(Facts, Desired), PrepareError> {
    let facts = depends_on(backend, config, host)?;
    let desired = desired(config, &facts, host)?;
    Ok((facts, desired))
}

/// What is to be planned, and what is to be said with it.
struct Wanted<'a> {
    state: State,
    warnings: Vec<Warning>,
    /// Keys of addresses that netrec chose.
    chosen: BTreeSet<Key>,
    targets: &'a [Owner],
    left_out: LeftOut,
}

/// The way from what there is to what is wanted, and what is in it.
fn planned(
    backend: &mut dyn Backend,
    config: &Config,
    host: Option<&str>,
    mut facts: Facts,
    Wanted { state, warnings, chosen, targets, left_out }: Wanted<'_>,
    (live, scope): (State, Scope),
) -> (Prepared, Vec<Conflict>) {
    let Diff { actions, conflicts } = diff(&state, &live);
    let lease = config.cluster.as_ref().map(|cluster| &cluster.known.network);
    let lease = lease.zip(facts.members.as_deref().map(|members| &members.own));
    let mut warnings: Vec<Warning> =
        once_each(warnings).into_iter().chain(moved_addresses(&actions, &chosen, lease)).collect();
    if conflicts.is_empty() && meets_others(&state) {
        facts.surroundings = backend.surroundings(&facts, &published(&state));
        warnings.extend(surroundings(&facts, &state));
    }
    warnings.extend(sources::unseen(backend.unseen()));
    // Only what is to be done has a place to be shown.
    let places = if actions.is_empty() { Places::default() } else { config.places().into_iter().collect() };
    let plan = Plan {
        host: host_name(&facts, host),
        namespaces: sources::touched(backend, &actions, &facts),
        actions,
        warnings,
        places,
        file: config.sources.names(),
        targets: targets.to_vec(),
        left_out,
    };
    let told = Told::of(config, &facts, &state);
    let file = config.sources.clone();
    (Prepared { desired: state, live, scope, plan, file, facts, told, again: None }, conflicts)
}

/// An error of reading, with the place in the file that it is about.
fn placed(error: ReadError, config: &Config) -> PrepareError {
    match &error {
        ReadError::OtherKind(netns) => of_another_kind(config, netns).map(|refusal| PrepareError::Host(refusal.text)),
        _ => None,
    }
    .unwrap_or(PrepareError::Read(error))
}

/// Whether nothing keeps the file from this host.
fn fits(refusals: &[Refusal]) -> Result<(), PrepareError> {
    let texts: Vec<&str> = refusals.iter().map(|refusal| refusal.text.as_str()).collect();
    if texts.is_empty() { Ok(()) } else { Err(PrepareError::Host(texts.join("\n"))) }
}

/// Warnings, without those that say for another owner what has been said: what concerns the whole host is once enough.
fn once_each(mut warnings: Vec<Warning>) -> Vec<Warning> {
    let mut seen = BTreeSet::new();
    warnings.retain(|warning| seen.insert((warning.code, warning.message.clone())));
    warnings
}

/// The part of a desired state that belongs to the targets, with its warnings, and what is left out, in the file's order.
fn part(
    config: &Config,
    desired: Desired,
    live: &State,
    targets: &[Owner],
) -> Result<(State, Vec<Warning>, LeftOut), PrepareError> {
    let places: Places = config.places().into_iter().collect();
    let Desired { state, mut warnings, mut refusals, .. } = desired;
    known(&places, &state, live, targets)?;
    let part = Part::of(&state, live, &config.needs(), targets);
    refusals.retain(|refusal| refusal.owners.iter().any(|owner| part.covers(owner)));
    fits(&refusals)?;
    warnings.retain(|warning| warning.owner.as_ref().is_none_or(|owner| part.covers(owner)));
    let Part { state, left_out: mut owners, left_out_changes: changes, .. } = part;
    owners.sort_by_key(|owner| places.rank(owner).unwrap_or(usize::MAX));
    Ok((state, warnings, LeftOut { changes, owners }))
}

/// Whether every target is somebody: in the file, or by a mark in the kernel.
fn known(places: &Places, desired: &State, live: &State, targets: &[Owner]) -> Result<(), PrepareError> {
    let marks = live.iter().filter(|(_, entry)| entry.standing.is_ours());
    let marks = desired.iter().chain(marks).flat_map(|(_, entry)| &entry.owners);
    let mut owners: BTreeSet<&str> = places.owners().chain(marks).map(Owner::as_str).collect();
    let above: Vec<Owner> =
        owners.iter().flat_map(|owner| Owner::new(*owner).ancestors().collect::<Vec<_>>()).collect();
    owners.extend(above.iter().map(Owner::as_str));
    let Some(unknown) = targets.iter().find(|target| !owners.contains(target.as_str())) else { return Ok(()) };
    let hint = closest(unknown.as_str(), owners).map_or_else(
        || "write it as plans do, such as `containers.web`".to_owned(),
        |near| format!("did you mean `{near}`?"),
    );
    Err(PrepareError::Host(format!(
        "`--target {}` is nobody that the file or this host has: {hint}",
        clean(unknown.as_str())
    )))
}

/// What a file's desired state depends on: the bridges that it adopts, the devices that it trusts or that tunnels or
/// containers are on, the other hosts of overlay networks, and the namespaces whose identity matters. Once one is somebody
/// else's, any two may be the same.
pub fn asked(config: &Config) -> Asked {
    let any_path = config.containers.iter().any(|c| c.netns.is_of_others());
    let own = |c: &&Container| any_path && !c.shares_host() && c.netns.netns().source().is_none();
    let containers = config.containers.iter().filter(own);
    let any_overlay = config.networks.iter().any(|n| n.overlay().is_some());
    let hosts = config.hosts.iter().filter(|_| any_overlay);
    Asked {
        namespaces: containers.map(|c| c.netns.netns().clone()).collect(),
        devices: config
            .networks
            .iter()
            .flat_map(|n| {
                let underlay = n.overlay().and_then(|overlay| overlay.underlay);
                let parent = n
                    .parent()
                    .into_iter()
                    .flat_map(|parent| std::iter::once(parent.name).chain(parent.vlan.map(|(below, _)| below)));
                let bridge = n.adopt.then(|| bridge_name(n));
                bridge.into_iter().chain(n.trusted.iter().copied()).chain(underlay).chain(parent)
            })
            .collect(),
        peers: hosts.flat_map(|host| host.addresses.iter().copied()).collect(),
        cluster: config.cluster.as_ref().map(|cluster| cluster.known.clone()),
    }
}

/// Does some work in a thread beside one's own, or after it where there can be no thread.
fn beside<T: Send, U>(work: impl Fn() -> T + Sync, own: impl FnOnce() -> U) -> (T, U) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, &work);
        let own = own();
        let done = match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => work(),
        };
        (done, own)
    })
}

/// Reads what there is, as far as it matters to what is wanted or would have to be brought back.
fn read(backend: &mut dyn Backend, desired: &State) -> Result<(State, Scope), ReadError> {
    let scope = Scope::of(desired);
    let live = backend.live(&scope)?;
    with_going(backend, desired, live, scope)
}

/// What was read by the scope of what is wanted, and what else matters to what goes.
fn with_going(
    backend: &mut dyn Backend,
    desired: &State,
    live: State,
    scope: Scope,
) -> Result<(State, Scope), ReadError> {
    let going = Scope::of_going(&live, desired);
    if going.is_empty() {
        return Ok((live, scope));
    }
    let scope = scope.and(going);
    // Nothing has been done meanwhile.
    Ok((backend.read_back(&scope, &BTreeSet::new())?, scope))
}

/// Reads the kernel and plans the removal of all that is netrec's.
pub fn prepare_destroy(backend: &mut dyn Backend, host: Option<&str>) -> Result<Prepared, PrepareError> {
    let facts = backend.facts(&Asked::default())?;
    let state = State::new();
    let (live, scope) = read(backend, &state)?;
    let mut actions = diff(&state, &live).actions;
    for action in &mut actions {
        action.reason = Some("destroy".into());
    }
    let mut warnings: Vec<Warning> = sources::unseen(backend.unseen()).into_iter().collect();
    if !actions.is_empty() {
        let on: Vec<&str> =
            [facts::IPV4_FORWARDING, facts::IPV6_FORWARDING].into_iter().filter(|path| facts.sysctl_on(path)).collect();
        if !on.is_empty() {
            warnings.push(Warning {
                code: "sysctl-stays",
                message: format!("parameters of the whole host stay as they are: {}", on.join(" = 1, ") + " = 1"),
                owner: None,
            });
        }
    }
    let plan = Plan {
        host: host_name(&facts, host),
        actions,
        warnings,
        file: "a host without netrec".into(),
        ..Plan::default()
    };
    let told = Told::nothing(&facts);
    Ok(Prepared { desired: state, live, scope, plan, facts, told, ..Prepared::default() })
}

fn host_name(facts: &Facts, given: Option<&str>) -> String {
    given.unwrap_or(&facts.host).to_owned()
}

/// The sentence about foreign objects in the way of wanted ones, and the ways out.
fn in_the_way(conflicts: &[Conflict], state: &State, config: &Config) -> String {
    let places: Places = config.places().into_iter().collect();
    let texts = conflicts.iter().map(|conflict| {
        let line = places.line(&conflict.owner).map(|l| format!(" ({l})")).unwrap_or_default();
        let ways_out = ways_out(&conflict.key, state.get(&conflict.key));
        format!("{}, but {}{line} wants to make it\n  {ways_out}", there(conflict), conflict.owner)
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// What is in the way.
fn there(Conflict { key, why, .. }: &Conflict) -> String {
    format!("{key} exists and is not netrec's ({why})")
}

fn ways_out(key: &Key, wanted: Option<&Entry>) -> String {
    let ip = sources::ip_in(key.netns());
    let shapes = matches!(wanted.map(|e| &e.object), Some(Object::Link(Link { kind: LinkKind::Ifb, .. })));
    match key {
        Key::Link { netns, name } if !netns.is_host() || shapes => {
            let own = if shapes { "another name" } else { "another `interface` on the network" };
            let such = if netns.is_host() { "what limits traffic" } else { "devices in a container" };
            format!(
                "rename: give the container {own}, or that device another name, `{ip} link set {name} name NAME`; adopt: \
                 {such} cannot be; remove: `{ip} link del {name}`"
            )
        }
        Key::Link { name, .. } => format!(
            "rename: give the network another `bridge`, or the container another name; adopt: `adopt = true` uses an \
             existing bridge; remove: `{ip} link del {name}`"
        ),
        Key::Netns { netns } => format!(
            "rename: give the container another `netns`; adopt: `netns = \"/run/netns/{netns}\"` uses it as it is; \
             remove: `ip netns del {netns}`"
        ),
        Key::Address { link, ip: address, peer, .. } => {
            let peer = peer.map_or_else(String::new, |peer| format!(" peer {peer}/{}", address.prefix()));
            let address = if peer.is_empty() { address.to_string() } else { address.ip().to_string() };
            format!(
                "rename: choose another address; adopt: make it equal to what the file wants; remove: `{ip} addr del \
                 {address}{peer} dev {link}`"
            )
        }
        Key::Route { to, metric, .. } => format!(
            "rename: choose another route; adopt: make it equal to what the file wants; remove: `{ip} route del {to} \
             metric {metric}`"
        ),
        _ => "remove it".to_owned(),
    }
}
