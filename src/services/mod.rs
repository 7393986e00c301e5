//! What is asked of others, by sockets and programs, each time within a time limit: container engines, systemd, Docker's
//! network plugins; and what others may ask of netrec.

pub mod cluster;
mod discovery;
mod engines;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod pem;
pub mod plugin;
mod program;
mod server;
mod stream;
mod systemd;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

pub use server::{Listen, Page, Server};
pub use stream::{Streams, Tell};

use crate::state::{Lead, Netns, Source, SourceKind};

/// Asks where namespaces are that others made; those among the given that have another name are left out. All engines are
/// asked at once, each for all of its containers.
pub fn leads<'a>(wanted: impl Iterator<Item = &'a Netns>) -> BTreeMap<Netns, Lead> {
    let mut by_kind: BTreeMap<SourceKind, Vec<&str>> = BTreeMap::new();
    for Source { kind, name } in wanted.filter_map(Netns::source) {
        let names = by_kind.entry(kind).or_default();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    thread::scope(|scope| {
        let asking: Vec<_> = by_kind
            .into_iter()
            .map(|(kind, names)| {
                let asked = names.clone();
                (kind, names, scope.spawn(move || ask(kind, &asked)))
            })
            .collect();
        let answers = asking.into_iter().flat_map(|(kind, names, thread)| {
            let broken = || vec![Lead::Unknown("its thread ended too early".to_owned()); names.len()];
            let leads = thread.join().unwrap_or_else(|_| broken());
            names.into_iter().map(move |name| Netns::of(Source { kind, name })).zip(leads)
        });
        answers.collect()
    })
}

/// The answers, in the order of the names.
fn ask(kind: SourceKind, names: &[&str]) -> Vec<Lead> {
    match kind {
        SourceKind::Docker | SourceKind::Podman => engines::ask(kind, names),
        SourceKind::Pid => names.iter().map(|number| process(number)).collect(),
        SourceKind::Machine => systemd::machines(names),
        SourceKind::Unit => systemd::units(names),
    }
}

/// The namespace's file of a process.
fn file_of(pid: impl std::fmt::Display) -> Lead {
    Lead::At(format!("/proc/{pid}/ns/net"))
}

fn process(number: &str) -> Lead {
    if Path::new("/proc").join(number).exists() {
        file_of(number)
    } else {
        Lead::Absent("which does not run".to_owned())
    }
}
