//! The members as they come and go: a thread that is a member for as long as it lives, and keeps what it knows true.
//!
//! ```text
//!  list ─► join ─► tell ─► watch from that revision ─► change ─► tell
//!   ▲                              │ ended, compacted, silent
//!   └────────── pause ◄────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::etcd::{Change, Current, Etcd};
use super::flannel::Entry;
use super::{Joined, Memory, Trouble, addresses, below, local};
use crate::services::Tell;
use crate::state::{Away, Cluster, Member, Membership, Note, Owner, Warning};

/// The first and the longest pause before etcd is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often etcd is asked whether it is there, where nothing else is to be asked.
const PROBE: Duration = Duration::from_mins(1);
/// After so long without a word on the stream it is taken for dead: etcd says every ten minutes that there is nothing new.
const SILENCE: Duration = Duration::from_mins(15);
/// How long the first answer is waited for.
const FIRST: Duration = Duration::from_secs(10);

/// Whose turn it is: of several followers that share it one at a time is a member, and the next one waits until the one before
/// has done its last.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<Mutex<()>>);

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
    news: Vec<Warning>,
    /// Whether nobody listens any more.
    over: bool,
    /// Where the thread hears of it, while it waits for etcd's word.
    ears: Option<Sender<Word>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole whenever the lock is let go.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.state().over
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.over = true;
        if let Some(ears) = &state.ears {
            // One that is deaf looks before it does anything.
            let _ = ears.send(Word::Over);
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Follower {
    /// Begins to follow once it is its turn; `memory` is what this host knows of itself from before, and `tell` is called at each
    /// change.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(cluster: Arc<Cluster>, memory: Memory, tell: Tell, turn: Turn) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (current, said) = (Current::default(), BTreeSet::new());
        let thread = Thread { cluster: cluster.clone(), memory, shared: shared.clone(), tell, current, said };
        thread::Builder::new().name("cluster".into()).spawn(move || thread.run(&turn))?;
        Ok(Self { cluster, shared })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What is known now; the first answer is waited for. Whoever asks has heard of something: this host's address may be
    /// another one, and that is looked after.
    pub fn view(&self) -> View {
        if let Some(ears) = &self.shared.state().ears {
            // One that is deaf looks when it joins again.
            let _ = ears.send(Word::Look);
        }
        let unknown = |state: &mut State| state.view.members.is_none() && state.view.trouble.is_none();
        let waited = self.shared.changed.wait_timeout_while(self.shared.state(), FIRST, unknown);
        waited.unwrap_or_else(PoisonError::into_inner).0.view.clone()
    }

    /// What is to be said, each once.
    pub fn news(&self) -> Vec<Warning> {
        std::mem::take(&mut self.shared.state().news)
    }
}

fn news(code: &'static str, message: String) -> Warning {
    Warning { code, message, owner: Some(Owner::new("cluster")) }
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
    shared: Arc<Shared>,
    tell: Tell,
    /// The endpoint that answered last.
    current: Current,
    /// What was said of entries.
    said: BTreeSet<Note>,
}

/// What comes by the stream.
enum Word {
    Changes(Vec<Change>),
    End(String),
    /// Something of this host may be another than before.
    Look,
    /// Nobody listens any more.
    Over,
}

impl Thread {
    fn run(mut self, turn: &Turn) {
        // What one did who died half-way is found in etcd.
        let _turn = turn.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, longest) = PAUSES;
        let mut pause = first;
        while !self.shared.is_over() {
            let begun = Instant::now();
            match self.follow() {
                Ended::Over => return,
                Ended::Lost(why, true) => self.lost(why),
                Ended::Lost(_, false) => {}
            }
            // One that ends each stream at once is not to be asked all the time.
            pause = if begun.elapsed() > longest { first } else { pause };
            drop(self.shared.changed.wait_timeout_while(self.shared.state(), pause, |state| !state.over));
            pause = (pause * 2).min(longest);
        }
    }

    /// Joins, and follows for as long as that goes well.
    fn follow(&mut self) -> Ended {
        let etcd = match Etcd::new(&self.cluster, self.current.clone()) {
            Ok(etcd) => etcd,
            Err(why) => return Ended::Lost(why, true),
        };
        let mut joined = match self.join(&etcd) {
            Ok(joined) => joined,
            Err(ended) => return ended,
        };
        let words = match self.listen(joined.seen.revision) {
            Ok(words) => words,
            Err(error) => return Ended::Lost(format!("start a thread: {error}"), true),
        };
        let (mut heard, mut renewed) = (Instant::now(), Instant::now());
        // A stream from an address that is not there any more is one on which nothing comes, and no end either.
        let moved = || Ended::Lost("this host's addresses are others now".to_owned(), false);
        loop {
            // A lease is renewed when a third of its life is over.
            let every = joined.lifetime.map_or(PROBE, |lifetime| (lifetime / 3).min(PROBE));
            let left = every.saturating_sub(renewed.elapsed());
            // Also where there is always something new.
            let word = if left.is_zero() { Err(RecvTimeoutError::Timeout) } else { words.recv_timeout(left) };
            match word {
                Ok(first) => {
                    let (mut changes, mut end, mut look) = (Vec::new(), None, false);
                    // What has come meanwhile is one change with it.
                    for word in std::iter::once(first).chain(words.try_iter()) {
                        match word {
                            Word::Changes(more) => {
                                heard = Instant::now();
                                changes.extend(more);
                            }
                            Word::End(why) => end = Some(why),
                            Word::Look => look = true,
                            Word::Over => return Ended::Over,
                        }
                    }
                    if !changes.is_empty() {
                        match self.changed(&etcd, joined, changes) {
                            Ok(now) => joined = now,
                            Err(ended) => return ended,
                        }
                    }
                    if look && addresses(&self.cluster).is_ok_and(|now| now != joined.own.addresses) {
                        return moved();
                    }
                    // That it is away shows when it is asked.
                    if let Some(why) = end {
                        return Ended::Lost(why, false);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Ended::Lost("the stream's thread ended".to_owned(), false);
                }
                Err(RecvTimeoutError::Timeout) => {
                    renewed = Instant::now();
                    if heard.elapsed() > SILENCE {
                        return Ended::Lost("etcd's stream is silent".to_owned(), false);
                    }
                    match self.renew(&etcd, &joined.entry) {
                        Ok(true) if local() == joined.seen.local => {}
                        Ok(true) => return moved(),
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
        match Joined::new(etcd, &self.cluster, &self.memory, &|| !self.shared.is_over()) {
            _ if self.shared.is_over() => Err(Ended::Over),
            Ok(joined) => {
                let members = joined.membership(&self.cluster);
                let was = self.memory.held.replace(joined.own.clone());
                self.tell_of_move(was.as_ref(), &joined.own);
                self.publish(members);
                Ok(joined)
            }
            Err(Trouble::Unknown(why)) => Err(Ended::Lost(why, true)),
            Err(none @ Trouble::None(_)) => {
                self.shared.state().view.trouble = Some(none.clone());
                self.shared.changed.notify_all();
                (self.tell)();
                let (Trouble::None(why) | Trouble::Unknown(why)) = none;
                Err(Ended::Lost(why, false))
            }
        }
    }

    /// Says that the other hosts reach this one elsewhere now.
    fn tell_of_move(&self, was: Option<&Member>, now: &Member) {
        let words = |member: &Member| member.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        if let Some(was) = was.filter(|was| was.addresses != now.addresses) {
            let text = format!("other hosts reach this one at {} now, and not at {} any more", words(now), words(was));
            self.shared.state().news.push(news("cluster-address", text));
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
        self.publish(joined.seen.membership(&self.cluster, joined.own.clone(), true));
        Ok(joined)
    }

    /// Makes it known, and says what is new about it.
    fn publish(&mut self, members: Membership) {
        let mut state = self.shared.state();
        let was_away = state.view.members.as_ref().is_some_and(|members| members.away.is_some());
        if was_away || matches!(state.view.trouble, Some(Trouble::Unknown(_))) {
            state.news.push(news("cluster-back", "etcd answers again".to_owned()));
        }
        let new = members.notes.difference(&self.said);
        state.news.extend(new.map(|note| news(note.code(), note.text().to_owned())));
        self.said.clone_from(&members.notes);
        state.view = View { members: Some(Arc::new(members)), trouble: None };
        drop(state);
        self.shared.changed.notify_all();
        (self.tell)();
    }

    /// Makes it known that nobody tells any more: what was known stays.
    fn lost(&self, why: String) {
        let mut state = self.shared.state();
        let was_away =
            state.view.members.as_ref().map_or(state.view.trouble.is_some(), |members| members.away.is_some());
        if was_away {
            return;
        }
        match &state.view.members {
            Some(members) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let text = format!("{why}; the peers that are known stay in force");
                let away = Some(Away { since, why });
                state.view.members = Some(Arc::new(Membership { away, ..(**members).clone() }));
                state.news.push(news("cluster-away", text));
            }
            None => state.view.trouble = Some(Trouble::Unknown(why)),
        }
        drop(state);
        self.shared.changed.notify_all();
        (self.tell)();
    }

    /// Listens on a thread of its own to what happens after a revision.
    fn listen(&self, revision: i64) -> std::io::Result<Receiver<Word>> {
        let (sender, words) = channel();
        let mut state = self.shared.state();
        if state.over {
            // Whoever said so had nobody to tell.
            let _ = sender.send(Word::Over);
        }
        state.ears = Some(sender.clone());
        drop(state);
        let (cluster, current) = (self.cluster.clone(), self.current.clone());
        let listening = move || {
            let begun = Etcd::new(&cluster, current)
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
        thread::Builder::new().name("etcd".into()).spawn(listening)?;
        Ok(words)
    }
}
