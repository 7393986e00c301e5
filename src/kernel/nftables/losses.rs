//! What of a table netrec cannot write whole. Only a rebuild or an undo comes across any, for what netrec wants it can
//! write.
//!
//! A foreign object (one without a mark) that is not to be had whole is not made at all: a chain with the policy `drop`
//! and without the rules that accept would cut the host off. netrec's own chains and sets are made as far as they go,
//! for others refer to them.

use std::collections::BTreeSet;

use super::data;
use crate::state::firewall::{
    BaseChain, Chain, DataType, Element, ElementData, Expr, Policy, Rule, Set, SetData, Verdict,
};
use crate::state::{Entry, Key, Object};

/// What some entries lose when they are written.
#[derive(Debug, Default)]
pub(super) struct Losses<'a> {
    sets: BTreeSet<&'a str>,
    chains: BTreeSet<&'a str>,
    elements: BTreeSet<&'a Key>,
    /// Sets that are made without some of their elements.
    partial: BTreeSet<&'a str>,
}

impl<'a> Losses<'a> {
    /// What is lost when these entries are written; what refers to something lost is lost with it.
    pub(super) fn of(entries: &[(&'a Key, &'a Entry)]) -> Self {
        let mut losses = Self::default();
        loop {
            let before = losses.count();
            for (key, entry) in entries {
                losses.look(key, entry);
            }
            if losses.count() == before {
                return losses;
            }
        }
    }

    fn count(&self) -> usize {
        self.sets.len() + self.chains.len() + self.elements.len() + self.partial.len()
    }

    fn look(&mut self, key: &'a Key, entry: &'a Entry) {
        let foreign = entry.owners.is_empty();
        match (key, &entry.object) {
            (Key::Set { name }, Object::Set(set)) => {
                if data::key_alone(&set.key) != set.key {
                    self.partial.insert(name);
                }
                if !writable(set) || foreign && self.partial.contains(&**name) {
                    self.sets.insert(name);
                }
            }
            (Key::Chain { name }, Object::Chain(chain)) => {
                let partial = |rule: &Rule| rule.0.iter().filter_map(set_of).any(|set| self.partial.contains(set));
                if foreign && (!self.whole(chain) || chain.rules.iter().any(partial)) {
                    self.chains.insert(name);
                }
            }
            (Key::Element { set, .. }, Object::Element(element))
                if self.sets.contains(&**set) || !self.writes(element) =>
            {
                self.elements.insert(key);
                self.partial.insert(set);
            }
            _ => {}
        }
    }

    /// Whether an object is not made, or not changed, at all.
    pub(super) fn has(&self, key: &Key) -> bool {
        match key {
            Key::Set { name } => self.sets.contains(&**name),
            Key::Chain { name } => self.chains.contains(&**name),
            Key::Element { .. } => self.elements.contains(key),
            _ => false,
        }
    }

    /// Whether all of a chain's rules are written.
    pub(super) fn whole(&self, chain: &Chain) -> bool {
        chain.rules.iter().all(|rule| self.keeps(rule))
    }

    /// A chain's hook as it is written: a chain that lacks rules drops nothing by its policy.
    pub(super) fn base(&self, chain: &Chain, base: BaseChain) -> BaseChain {
        if self.whole(chain) { base } else { BaseChain { policy: Policy::Accept, ..base } }
    }

    /// Whether a rule is written.
    pub(super) fn keeps(&self, rule: &Rule) -> bool {
        rule.0.iter().all(|expr| match expr {
            Expr::Unknown(_) => false,
            Expr::Verdict(verdict) => self.leads_somewhere(verdict),
            other => set_of(other).is_none_or(|set| !self.sets.contains(set)),
        })
    }

    fn writes(&self, element: &Element) -> bool {
        match &element.data {
            None => true,
            Some(ElementData::Verdict(verdict)) => self.leads_somewhere(verdict),
            // Read from an element that has more to it than can be said.
            Some(ElementData::Values(values)) => !values.0.is_empty(),
        }
    }

    fn leads_somewhere(&self, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Jump(chain) | Verdict::Goto(chain) => !self.chains.contains(&**chain),
            Verdict::Accept | Verdict::Drop | Verdict::Return => true,
        }
    }
}

/// The set that an expression asks.
fn set_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::InSet { set: name, .. } | Expr::Vmap { map: name, .. } | Expr::DnatMap { map: name, .. } => Some(name),
        _ => None,
    }
}

fn writable(set: &Set) -> bool {
    let fits = |types: &[DataType]| data::layout(types).is_ok();
    fits(data::key_alone(&set.key))
        && match &set.data {
            Some(SetData::Values(types)) => fits(types),
            _ => true,
        }
}
