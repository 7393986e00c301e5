//! Namespaces that others made: they must be there, be no other container's, and not be the host's own. What comes and goes
//! by itself is waited for.

use std::collections::HashMap;

use super::{Build, Refusal};
use crate::config::{Config, Container, ContainerNetns};
use crate::state::{Facts, Netns, OTHER_KIND, Source, Warning, Whereabouts};

/// What is to be said of a container whose namespace is not there, or may not be the one.
pub(super) fn warning(container: &Container, facts: &Facts) -> Option<Warning> {
    let netns = container.netns.netns();
    let (owner, source) = (&container.owner, netns.source()?);
    let message = match facts.sources.get(netns)? {
        Whereabouts::Here(_) | Whereabouts::Refused(_) => return None,
        Whereabouts::Absent(why) => format!("{owner} waits for {source}, {why}"),
        Whereabouts::Unknown(why) => format!("{owner} waits for {source}: {why}"),
        Whereabouts::Believed(_, why) => {
            format!("{owner} is taken to live in the namespace where its interfaces are: {why}")
        }
    };
    Some(Warning { code: "waiting", message, owner: Some(owner.clone()) })
}

/// The refusal of a namespace that is one of another kind, where a container is to live in it.
pub fn of_another_kind(config: &Config, netns: &Netns) -> Option<Refusal> {
    let container = config.containers.iter().find(|container| container.netns.netns() == netns)?;
    let text = format!("{}, which cannot be used: {OTHER_KIND}", home(config, container));
    Some(Refusal { owners: vec![container.owner.clone()], text })
}

/// The beginning of a sentence about where a container is to live.
fn home(config: &Config, container: &Container) -> String {
    let netns = container.netns.netns();
    let line = config.sources.line(&container.place);
    let place = netns.source().map_or_else(|| netns.to_string(), |source| source.to_string());
    format!("container `{}` ({line}) is to live in {place}", container.name)
}

impl Build<'_> {
    /// Refuses namespaces that cannot be a container's.
    pub(super) fn namespaces(&mut self) {
        let mut taken: HashMap<(u64, u64), &Container> = HashMap::new();
        for container in self.config.containers.iter().filter(|container| !container.shares_host()) {
            let netns = container.netns.netns();
            let source = netns.source();
            // Made only where it is needed: to count lines takes the whole text each time.
            let whose = || home(self.config, container);
            if let Some(Whereabouts::Refused(why)) = self.facts.sources.get(netns) {
                let refusal = format!("{}, {why}", whose());
                self.refuse([&container.owner], refusal);
                continue;
            }
            let is_path = matches!(container.netns, ContainerNetns::Path(_));
            let refusal = match (self.facts.identity(netns), self.facts.namespaces.get(netns)) {
                (Some(id), _) if id == self.facts.host_namespace => match source {
                    Some(Source { kind, .. }) => {
                        format!("{}, which is in this host's own network namespace: {}", whose(), kind.remedy())
                    }
                    None => format!("{}, which is this host's own network namespace: name one of its own", whose()),
                },
                (Some(id), _) => match taken.insert(id, container) {
                    Some(other) => format!("{}, which is the namespace of container `{}` too", whose(), other.name),
                    None => continue,
                },
                (None, Some(Ok(None))) if is_path => {
                    format!("{}, where there is no network namespace: start what makes it first", whose())
                }
                (None, Some(Err(error))) if is_path => format!("{}, which {error}", whose()),
                _ => continue,
            };
            self.refuse([&container.owner], refusal);
        }
    }
}
