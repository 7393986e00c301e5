//! What a file may hold that says it is a saved plan: for tests with such as nobody saved.

use super::{Origin, Saved};
use crate::config::{Source, Sources, parse};
use crate::desired::desired;
use crate::plan::{Plan, diff};
use crate::state::{Facts, State};

/// A plan for an empty host, and what it was made from.
#[derive(Debug)]
pub struct Example {
    sources: Sources,
    plan: Plan,
}

impl Example {
    /// The plan of a configuration. Nothing of one that is wrong.
    pub fn new(text: &str) -> Option<Self> {
        let sources = Sources(vec![Source { name: "<stdin>".into(), text: text.into() }]);
        let config = parse(sources.clone()).ok()?;
        let wanted = desired(&config, &Facts::default(), None).ok()?.state;
        let plan = Plan { actions: diff(&wanted, &State::default()).actions, ..Plan::default() };
        Some(Self { sources, plan })
    }

    /// It as it is saved.
    pub fn saved(&self) -> Option<Vec<u8>> {
        let origin = Origin { config: &["-".into()], sources: Some(&self.sources), host: None, targets: &[] };
        serde_json::to_vec(&Saved::new(&origin, &self.plan).ok()?).ok()
    }

    /// Reads a saved plan, and compares it with this one. Yields what a person is told, which is nothing where they are the
    /// same.
    ///
    /// # Errors
    /// Why it is no saved plan.
    pub fn compared(&self, saved: &[u8]) -> Result<String, String> {
        let saved = Saved::parse(saved, "plan").map_err(|error| error.to_string())?;
        let stale = saved.check(Some(&self.sources), Ok(&self.plan)).err();
        Ok(stale.map_or_else(String::new, |stale| stale.to_string()))
    }
}
