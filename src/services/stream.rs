//! What engines tell by themselves: that a container started, ended or got another name (`GET /events`, Docker Engine API 1.24
//! and later, which Podman has too). Each engine that is listened to has a thread that waits for its words and does nothing
//! else. An engine that is not there, or goes away, is tried again after a pause.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::engines::{Engine, LIMIT};
use super::http::Client;
use crate::state::{Netns, Source, SourceKind};

/// The first and the longest pause before an engine is tried again. A restart of one takes some seconds.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_mins(1));
/// Events of containers alone. Docker passes on no others than these three; Podman has other names for them in requests than
/// in answers.
const DOCKERS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22start%22%2C%22die%22%2C%22rename%22%5D%7D";
const PODMANS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%7D";

/// Told when something may be different now.
pub type Tell = Arc<dyn Fn() + Send + Sync>;

/// The engines that are listened to.
pub struct Streams {
    tell: Tell,
    engines: BTreeMap<SourceKind, Arc<Wanted>>,
}

/// The containers, by name or id, of which something is to be known.
#[derive(Debug, Default)]
struct Wanted {
    names: Mutex<BTreeSet<String>>,
    changed: Condvar,
}

impl Wanted {
    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A set is whole whenever the lock is let go.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there are any.
    fn wait(&self) {
        let some = self.changed.wait_while(self.names(), |names| names.is_empty());
        drop(some.unwrap_or_else(PoisonError::into_inner));
    }

    fn matters(&self, event: &Event) -> bool {
        let Actor { id, attributes } = &event.actor;
        let old = attributes.old_name.trim_start_matches('/');
        let is = |name: &String| *name == attributes.name || name == old || id.starts_with(name.as_str());
        matches!(event.action.as_str(), "start" | "die" | "died" | "rename") && self.names().iter().any(is)
    }
}

impl Streams {
    /// Listens to none yet.
    pub fn new(tell: Tell) -> Self {
        Self { tell, engines: BTreeMap::new() }
    }

    /// Listens for these containers of engines, and for no others any more; those among the given that no engine has are left
    /// out. What happened before an engine was first heard is told as one change.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn follow<'a>(&mut self, wanted: impl Iterator<Item = &'a Netns>) -> std::io::Result<()> {
        let mut by_kind: BTreeMap<SourceKind, BTreeSet<String>> = BTreeMap::new();
        for Source { kind, name } in wanted.filter_map(Netns::source) {
            if matches!(kind, SourceKind::Docker | SourceKind::Podman) {
                by_kind.entry(kind).or_default().insert(name.to_owned());
            }
        }
        for (kind, engine) in &self.engines {
            *engine.names() = by_kind.remove(kind).unwrap_or_default();
            engine.changed.notify_all();
        }
        for (kind, names) in by_kind {
            let wanted = Arc::new(Wanted { names: Mutex::new(names), changed: Condvar::new() });
            let (tell, heard) = (self.tell.clone(), wanted.clone());
            let name = if kind == SourceKind::Podman { "podman" } else { "docker" };
            thread::Builder::new().name(name.into()).spawn(move || listen(kind, &heard, &tell))?;
            self.engines.insert(kind, wanted);
        }
        Ok(())
    }
}

fn listen(kind: SourceKind, wanted: &Wanted, tell: &Tell) {
    let (first, longest) = PAUSES;
    let mut pause = first;
    loop {
        wanted.wait();
        let begun = Instant::now();
        // That there is none, or that it has gone, shows in the answers to questions.
        let _ = hear(kind, wanted, tell);
        // One that ends each connection at once is not to be asked all the time.
        pause = if begun.elapsed() > longest { first } else { pause };
        thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

/// Hears an engine until it says no more.
fn hear(kind: SourceKind, wanted: &Wanted, tell: &Tell) -> Result<(), String> {
    let engine = Engine::find(kind)?;
    let path = if kind == SourceKind::Podman { PODMANS } else { DOCKERS };
    let words = BufReader::new(Client::unix(&engine.socket, "localhost").stream(path, LIMIT)?);
    // What happened until now was not heard.
    tell();
    for event in serde_json::Deserializer::from_reader(words).into_iter::<Event>() {
        if wanted.matters(&event.map_err(|error| error.to_string())?) {
            tell();
        }
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    action: String,
    actor: Actor,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    attributes: Attributes,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Attributes {
    name: String,
    /// With a slash before it, as Docker has it.
    old_name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_containers_that_matter_are_told_apart() {
        let wanted = Wanted::default();
        wanted.names().extend(["web".to_owned(), "0123456789ab".to_owned()]);
        for (text, matters) in [
            (
                r#"{"Type":"container","Action":"start","Actor":{"ID":"ff","Attributes":{"name":"web","image":"x"}}}"#,
                true,
            ),
            (
                r#"{"status":"die","Action":"die","Actor":{"ID":"0123456789abcdef","Attributes":{"name":"db"}},"time":1}"#,
                true,
            ),
            (r#"{"Action":"died","Actor":{"ID":"ff","Attributes":{"name":"web","containerExitCode":"0"}}}"#, true),
            (r#"{"Action":"rename","Actor":{"ID":"ff","Attributes":{"name":"new","oldName":"/web"}}}"#, true),
            (r#"{"Action":"start","Actor":{"ID":"ff","Attributes":{"name":"db"}}}"#, false),
            (r#"{"Action":"exec_start: sh","Actor":{"ID":"ff","Attributes":{"name":"web"}}}"#, false),
            (r#"{"Action":"start","Actor":{"ID":"0123"}}"#, false),
        ] {
            let event: Event = serde_json::from_str(text).expect("an event");
            assert_eq!(wanted.matters(&event), matters, "{text}");
        }
    }

    #[test]
    fn what_is_asked_for_is_what_it_says() {
        let decoded =
            |path: &str| path.replace("%7B", "{").replace("%7D", "}").replace("%22", "\"").replace("%3A", ":");
        let decoded = |path| decoded(path).replace("%5B", "[").replace("%5D", "]").replace("%2C", ",");
        let all = r#"/events?filters={"type":["container"],"event":["start","die","rename"]}"#;
        assert_eq!(decoded(DOCKERS), all);
        assert_eq!(decoded(PODMANS), r#"/events?filters={"type":["container"]}"#);
    }
}
