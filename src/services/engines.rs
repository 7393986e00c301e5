//! Docker and Podman, by the API that both have: what is there is asked of the engine's socket, container by container, over
//! a few connections at once. Docker's list of all containers does not tell their processes.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::file_of;
use super::http::{Answer, Client};
use crate::state::clean;
use crate::state::{Lead, SourceKind};

/// How long an engine may take to answer a question. It takes some milliseconds; a busy one can take a second.
pub(super) const LIMIT: Duration = Duration::from_secs(5);
/// Questions at once: an engine answers a few faster than one by one, and not faster for more.
const AT_ONCE: usize = 4;

/// Where an engine listens, and what it is called.
pub(super) struct Engine {
    name: &'static str,
    command: &'static str,
    pub(super) socket: PathBuf,
}

impl Engine {
    /// Where the environment or else the engine's own default says; why it cannot be asked there.
    pub(super) fn find(kind: SourceKind) -> Result<Self, String> {
        let (name, command, variable, default) = match kind {
            SourceKind::Podman => ("Podman", "podman", "CONTAINER_HOST", "/run/podman/podman.sock"),
            _ => ("Docker", "docker", "DOCKER_HOST", "/var/run/docker.sock"),
        };
        let socket = match std::env::var(variable) {
            Ok(host) if !host.is_empty() => match host.strip_prefix("unix://") {
                Some(path) => path.into(),
                None => {
                    return Err(format!(
                        "{variable} is `{host}`, and only containers of this host (unix://PATH) can be had"
                    ));
                }
            },
            _ => default.into(),
        };
        Ok(Self { name, command, socket })
    }

    /// The sentence for that it does not answer.
    fn unasked(&self, why: &str) -> String {
        format!("{} cannot be asked at {} ({why})", self.name, self.socket.display())
    }

    /// Where a container is, by the answer about it.
    fn lead(&self, name: &str, answer: &Answer) -> Lead {
        let Self { name: engine, command, .. } = self;
        match answer.status {
            200 => {}
            // Whatever else may listen there can say 404 too, but not in an engine's words.
            404 if complaint(answer).is_some() => {
                let help = format!("{command} run -d --network none --name {name} IMAGE");
                return Lead::Absent(format!("which does not exist ({help})"));
            }
            status => {
                let said = complaint(answer).map(|said| format!(": {said}")).unwrap_or_default();
                return Lead::Unknown(self.unasked(&format!("it answered {status}{said}")));
            }
        }
        let Ok(Inspected { state, host_config }) = serde_json::from_slice(&answer.body) else {
            return Lead::Unknown(self.unasked("its answer makes no sense"));
        };
        if !state.running || state.pid == 0 {
            return Lead::Absent(format!("which does not run ({command} start {name})"));
        }
        match host_config.network_mode.as_str() {
            "none" => file_of(state.pid),
            mode => Lead::Refused(format!(
                "which has network `{}` of {engine}'s own: start it with `--network none`, since one alone can set up a \
                 namespace",
                clean(mode)
            )),
        }
    }
}

/// What an engine says of a container (`GET /containers/NAME/json`, Docker Engine API 1.24 and later).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: State,
    host_config: HostConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    /// 0 where there is none.
    pid: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    network_mode: String,
}

/// What an engine says instead.
#[derive(Deserialize)]
struct Complaint {
    message: String,
}

fn complaint(answer: &Answer) -> Option<String> {
    let Complaint { message } = serde_json::from_slice(&answer.body).ok()?;
    Some(clean(message.lines().next()?))
}

/// Where containers are, in the order of their names. Once the engine does not answer it is not asked any more.
pub(super) fn ask(kind: SourceKind, names: &[&str]) -> Vec<Lead> {
    let engine = match Engine::find(kind) {
        Ok(engine) => engine,
        Err(why) => return vec![Lead::Unknown(why); names.len()],
    };
    let client = Client::unix(&engine.socket, "localhost");
    let next = AtomicUsize::new(0);
    let silent: OnceLock<String> = OnceLock::new();
    let work = || {
        let mut found = Vec::new();
        while silent.get().is_none() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(name) = names.get(index) else { break };
            match client.get(&format!("/containers/{name}/json"), LIMIT) {
                Ok(answer) => found.push((index, engine.lead(name, &answer))),
                Err(no_answer) => drop(silent.set(engine.unasked(&no_answer.why))),
            }
        }
        found
    };
    let found: Vec<(usize, Lead)> = thread::scope(|scope| {
        let asking: Vec<_> = (0..AT_ONCE.min(names.len())).map(|_| scope.spawn(work)).collect();
        asking.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    });
    let why = silent.get().cloned().unwrap_or_else(|| engine.unasked("a thread ended too early"));
    let mut leads = vec![Lead::Unknown(why); names.len()];
    for (index, lead) in found {
        leads[index] = lead;
    }
    leads
}
