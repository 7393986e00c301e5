//! The members as they come and go: a thread that is a member for as long as it lives, and keeps what it knows true.
//!
//! ```text
//!  list ─► join ─► tell ─► watch from that revision ─► change ─► tell
//!   ▲                              │ ended, compacted, silent
//!   └────────── pause ◄────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::etcd::{Change, Etcd};
use super::flannel::Entry;
use super::{Joined, Memory, Trouble, below, sentences};
use crate::services::Tell;
use crate::state::{Away, Cluster, Membership};

/// The first and the longest pause before etcd is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often etcd is asked whether it is there, where nothing else is to be asked.
const PROBE: Duration = Duration::from_mins(1);
/// After so long without a word on the stream it is taken for dead: etcd says every ten minutes that there is nothing new.
const SILENCE: Duration = Duration::from_mins(15);
/// How long the first answer is waited for.
const FIRST: Duration = Duration::from_secs(10);

/// A cluster that is followed until this is dropped.
pub struct Follower {
    cluster: Arc<Cluster>,
    shared: Arc<Shared>,
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Who is a member, once it has been known; with `away` where nobody tells any more.
    pub members: Option<Arc<Membership>>,
    /// Why nothing is known, or why this host is no member.
    pub trouble: Option<Trouble>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    view: View,
    news: Vec<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole whenever the lock is let go.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Begins to follow; `memory` is what this host knows of itself from before, and `tell` is called at each change.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(cluster: Arc<Cluster>, memory: Memory, tell: Tell) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread =
            Thread { cluster: cluster.clone(), memory, shared: Arc::downgrade(&shared), tell, said: BTreeSet::new() };
        thread::Builder::new().name("cluster".into()).spawn(move || thread.run())?;
        Ok(Self { cluster, shared })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What is known now; the first answer is waited for.
    pub fn view(&self) -> View {
        let unknown = |state: &mut State| state.view.members.is_none() && state.view.trouble.is_none();
        let waited = self.shared.changed.wait_timeout_while(self.shared.state(), FIRST, unknown);
        waited.unwrap_or_else(PoisonError::into_inner).0.view.clone()
    }

    /// What is to be said, each a sentence and once.
    pub fn news(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state().news)
    }
}

/// How a stretch of following ended.
enum Ended {
    /// Nobody listens any more.
    Over,
    /// etcd is to be asked anew, for this reason; whether it may be away.
    Lost(String, bool),
}

struct Thread {
    cluster: Arc<Cluster>,
    memory: Memory,
    shared: Weak<Shared>,
    tell: Tell,
    /// What was said of entries.
    said: BTreeSet<String>,
}

/// What comes by the stream.
enum Word {
    Changes(Vec<Change>),
    End(String),
}

impl Thread {
    fn run(mut self) {
        let (first, longest) = PAUSES;
        let mut pause = first;
        loop {
            let begun = Instant::now();
            match self.follow() {
                Ended::Over => return,
                Ended::Lost(why, away) => {
                    if away && self.lost(why).is_none() {
                        return;
                    }
                }
            }
            // One that ends each stream at once is not to be asked all the time.
            pause = if begun.elapsed() > longest { first } else { pause };
            thread::sleep(pause);
            pause = (pause * 2).min(longest);
        }
    }

    /// Joins, and follows for as long as that goes well.
    fn follow(&mut self) -> Ended {
        let etcd = match Etcd::new(&self.cluster) {
            Ok(etcd) => etcd,
            Err(why) => return Ended::Lost(why, true),
        };
        let mut joined = match self.join(&etcd) {
            Ok(joined) => joined,
            Err(ended) => return ended,
        };
        let Some(words) = self.listen(joined.seen.revision) else {
            return Ended::Lost("there can be no more threads".to_owned(), true);
        };
        let (mut heard, mut renewed) = (Instant::now(), Instant::now());
        loop {
            // A lease is renewed when a third of its life is over.
            let every = joined.lifetime.map_or(PROBE, |lifetime| (lifetime / 3).min(PROBE));
            let left = every.saturating_sub(renewed.elapsed());
            // Also where there is always something new.
            let word = if left.is_zero() { Err(RecvTimeoutError::Timeout) } else { words.recv_timeout(left) };
            match word {
                Ok(Word::Changes(changes)) => {
                    heard = Instant::now();
                    let mut changes = changes;
                    // What has come meanwhile is one change with it.
                    let mut end = None;
                    for word in words.try_iter() {
                        match word {
                            Word::Changes(more) => changes.extend(more),
                            Word::End(why) => end = Some(why),
                        }
                    }
                    match self.changed(&etcd, joined, changes) {
                        Ok(now) => joined = now,
                        Err(ended) => return ended,
                    }
                    if let Some(why) = end {
                        return Ended::Lost(why, false);
                    }
                }
                // That it is away shows when it is asked.
                Ok(Word::End(why)) => return Ended::Lost(why, false),
                Err(RecvTimeoutError::Disconnected) => {
                    return Ended::Lost("the stream's thread ended".to_owned(), false);
                }
                Err(RecvTimeoutError::Timeout) => {
                    renewed = Instant::now();
                    if self.shared.strong_count() == 0 {
                        return Ended::Over;
                    }
                    if heard.elapsed() > SILENCE {
                        return Ended::Lost("etcd's stream is silent".to_owned(), false);
                    }
                    match self.renew(&etcd, &joined.entry) {
                        Ok(true) => {}
                        Ok(false) => match self.join(&etcd) {
                            Ok(now) => joined = now,
                            Err(ended) => return ended,
                        },
                        Err(why) => return Ended::Lost(why, true),
                    }
                }
            }
        }
    }

    /// Whether this host's entry lives on; the question, too, whether etcd is there.
    fn renew(&self, etcd: &Etcd, own: &Entry) -> Result<bool, String> {
        let failed = |fault: super::Fault| fault.text();
        if own.lease == 0 {
            return etcd.probe(&below(&self.cluster)).map(|()| true).map_err(failed);
        }
        Ok(etcd.keep_alive(own.lease).map_err(failed)?.is_some())
    }

    /// Becomes a member, or stays one.
    fn join(&mut self, etcd: &Etcd) -> Result<Joined, Ended> {
        match Joined::new(etcd, &self.cluster, &self.memory) {
            Ok(joined) => {
                let members = joined.membership(&self.cluster, &self.memory);
                self.memory.held = Some(joined.own.clone());
                self.publish(members)?;
                Ok(joined)
            }
            Err(Trouble::Unknown(why)) => Err(Ended::Lost(why, true)),
            Err(none @ Trouble::None(_)) => {
                let Some(shared) = self.shared.upgrade() else { return Err(Ended::Over) };
                shared.state().view.trouble = Some(none.clone());
                shared.changed.notify_all();
                (self.tell)();
                let (Trouble::None(why) | Trouble::Unknown(why)) = none;
                Err(Ended::Lost(why, false))
            }
        }
    }

    /// Takes in what has happened.
    fn changed(&mut self, etcd: &Etcd, mut joined: Joined, changes: Vec<Change>) -> Result<Joined, Ended> {
        let (config, subnets) = (self.cluster.config_key(), self.cluster.subnets_key());
        let mut own_changed = false;
        let mut entries: BTreeMap<Vec<u8>, Entry> =
            std::mem::take(&mut joined.seen.entries).into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        for change in changes {
            let key = match &change {
                Change::Put(entry) => &entry.key,
                Change::Gone(key) => key,
            };
            if key == config.as_bytes() {
                own_changed = true;
                continue;
            }
            if !key.starts_with(subnets.as_bytes()) {
                continue;
            }
            if *key == joined.entry.key {
                // One's own word comes back, too.
                own_changed |= !matches!(&change, Change::Put(entry) if entry.modified <= joined.entry.modified);
            }
            match change {
                Change::Put(entry) => drop(entries.insert(entry.key.clone(), entry)),
                Change::Gone(key) => drop(entries.remove(&key)),
            }
        }
        joined.seen.entries = entries.into_values().collect();
        if own_changed {
            return self.join(etcd);
        }
        self.publish(joined.seen.membership(&self.cluster, joined.own.clone(), true))?;
        Ok(joined)
    }

    /// Makes it known, and says what is new about it.
    fn publish(&mut self, members: Membership) -> Result<(), Ended> {
        let Some(shared) = self.shared.upgrade() else { return Err(Ended::Over) };
        let mut state = shared.state();
        let was_away = state.view.members.as_ref().is_some_and(|members| members.away.is_some());
        if was_away || matches!(state.view.trouble, Some(Trouble::Unknown(_))) {
            state.news.push("etcd answers again".to_owned());
        }
        let said = sentences(&members.notes);
        state.news.extend(said.difference(&self.said).cloned());
        self.said = said;
        state.view = View { members: Some(Arc::new(members)), trouble: None };
        drop(state);
        shared.changed.notify_all();
        (self.tell)();
        Ok(())
    }

    /// Makes it known that nobody tells any more: what was known stays. None where nobody listens either.
    fn lost(&mut self, why: String) -> Option<()> {
        let shared = self.shared.upgrade()?;
        let mut state = shared.state();
        let was_away =
            state.view.members.as_ref().map_or(state.view.trouble.is_some(), |members| members.away.is_some());
        if was_away {
            return Some(());
        }
        match &state.view.members {
            Some(members) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let text = format!("{why}; the peers that are known stay in force");
                let away = Some(Away { since, why });
                state.view.members = Some(Arc::new(Membership { away, ..(**members).clone() }));
                state.news.push(text);
            }
            None => state.view.trouble = Some(Trouble::Unknown(why)),
        }
        drop(state);
        shared.changed.notify_all();
        (self.tell)();
        Some(())
    }

    /// Listens on a thread of its own to what happens after a revision.
    fn listen(&self, revision: i64) -> Option<Receiver<Word>> {
        let (sender, words) = channel();
        let cluster = self.cluster.clone();
        let listening = move || {
            let begun = Etcd::new(&cluster)
                .and_then(|etcd| etcd.watch(&below(&cluster), revision + 1).map_err(super::Fault::text));
            let mut changes = match begun {
                Ok(changes) => changes,
                Err(why) => return drop(sender.send(Word::End(why))),
            };
            loop {
                let word = match changes.next() {
                    Ok((changes, _)) => Word::Changes(changes),
                    Err(why) => Word::End(why),
                };
                let is_end = matches!(word, Word::End(_));
                if sender.send(word).is_err() || is_end {
                    return;
                }
            }
        };
        thread::Builder::new().name("etcd".into()).spawn(listening).ok()?;
        Some(words)
    }
}
