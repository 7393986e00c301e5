//! Which flows a change leaves behind: what the rules of before and of after do with their first packets.
//!
//! The kernel asks the rules at a flow's first packet; what they say later does not concern the flow. So it is asked
//! here what they would say now, of the rules themselves ([`Ruleset`]) and of where the addresses are.

mod places;
mod ruleset;
mod sets;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use super::Action;
use crate::state::{End, Flow, InterfaceName, Key, Link, Object, Route, State};
pub use ruleset::{Fate, Local, Ruleset, Way};

/// `IPPROTO_UDP`
const UDP: u8 = 17;

/// A change of the rules, or of where addresses are.
#[derive(Debug)]
pub struct Change<'a> {
    before: Ruleset<'a>,
    after: Ruleset<'a>,
}

impl<'a> Change<'a> {
    /// The change from one state to another; none where it concerns no flow.
    pub fn between(before: &'a State, after: &'a State) -> Option<Self> {
        let concerns = !concerned(before).eq(concerned(after));
        concerns.then(|| Self { before: Ruleset::of(before), after: Ruleset::of(after) })
    }

    /// Whether a flow is left behind: whether its first packet would go elsewhere now, or would be dropped now and was
    /// not before. `local` says whether an address is the host's own after the change.
    ///
    /// Of the flows that were rewritten, those go elsewhere that followed a mapping which leads elsewhere now: flows in
    /// transit to the same port of another machine, flows straight to the container, and what another program rewrote
    /// live on. Of those that were not, UDP's are stale when a mapping has come. A TCP or SCTP connection that something
    /// on the host has answered would break without need, and is left to end by itself.
    pub fn leaves(&self, flow: &Flow, local: &dyn Fn(IpAddr) -> bool) -> bool {
        let now = self.after.first_packet(flow, &|ip| self.after.places.is_own(ip) || local(ip));
        let was = || {
            // The dump of after says nothing of an address that has come or gone with the change.
            let came = |ip| self.after.places.is_own(ip);
            self.before.first_packet(flow, &|ip| self.before.places.is_own(ip) || local(ip) && !came(ip))
        };
        let moved = if flow.is_rewritten() {
            !now.unclear && !now.may_lead_to(flow.answers) && was().may_lead_to(flow.answers)
        } else {
            (flow.protocol == UDP || !flow.answered) && !now.may_stay() && targets(&now) != targets(&was())
        };
        moved || now.is_dropped() && !was().is_dropped()
    }
}

/// Where a packet may be sent instead of where it was sent to.
fn targets(fate: &Fate) -> Vec<Option<End>> {
    let mut targets: Vec<_> = fate.ways.iter().map(|way| way.translated).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// What of a state decides on the ways of packets: the rules, the addresses, and the bridges that containers are behind. Of
/// addresses that they are there is enough, and of rules it does not matter whose they are.
fn concerned(state: &State) -> impl Iterator<Item = (&Key, Option<&Object>, Option<InterfaceName>)> {
    let ours = state.iter().filter(|(_, entry)| entry.standing.is_ours());
    ours.filter_map(|(key, entry)| decides(key, &entry.object).map(|(object, device)| (key, object, device)))
}

/// What of an object decides on the ways of packets, if anything does.
fn decides<'a>(key: &Key, object: &'a Object) -> Option<(Option<&'a Object>, Option<InterfaceName>)> {
    match (key, object) {
        (Key::Address { .. }, _) => Some((None, None)),
        (Key::Route { netns, .. }, Object::Route(Route { dev, .. })) if netns.is_host() => Some((None, *dev)),
        (Key::Link { .. }, Object::Link(Link { master: Some(master), .. })) => Some((None, Some(*master))),
        (key, object) if key.kind().is_firewall() => Some((Some(object), None)),
        _ => None,
    }
}

/// Whether actions may leave flows behind.
pub fn concern(actions: &[Action]) -> bool {
    let mut entries =
        actions.iter().flat_map(|action| [&action.before, &action.after].map(|entry| (&action.key, entry)));
    entries.any(|(key, entry)| entry.as_ref().is_some_and(|entry| decides(key, &entry.object).is_some()))
}
