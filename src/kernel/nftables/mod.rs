//! The firewall table `inet netrec`, read and written over nfnetlink: no program, one transaction, ten thousand
//! elements in some twenty milliseconds.
//!
//! ```text
//! state::firewall ──► rule ──► insn ──► write ──► nfnetlink
//! state::firewall ◄── rule ◄── insn ◄── read  ◄── nfnetlink
//!                  data: values, types, marks      ruleset: transactions, generations
//!                  trace: which rule dropped it   others: foreign tables
//! ```
//!
//! Every transaction names the generation of the ruleset that was read, and the kernel refuses it (`ERESTART`) when
//! anybody has changed any table of the namespace since.

mod data;
mod insn;
mod losses;
mod others;
mod read;
mod rule;
mod ruleset;
mod trace;
mod write;

use std::collections::BTreeMap;
use std::time::Duration;

use nix::libc;

use super::fault::Writes;
use super::nfnetlink::socket::{Socket, Trouble, in_words};
use super::nfnetlink::wire::Fault;
use super::{ReadError, StepError};
use crate::state::firewall::TABLE;
use crate::state::{Entry, ForeignTable, Key, Step, Traffic};
use losses::Losses;
use ruleset::Listener;
pub(super) use ruleset::generations;
pub use trace::{Dropped, Flow, Trace};
use write::{Batch, Work, replaces};

/// How often a table that changes while it is read is read anew.
const ATTEMPTS: u32 = 20;
/// How much longer to wait before each further attempt; 190 milliseconds in all.
const PATIENCE: Duration = Duration::from_millis(1);

/// The firewall of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Firewall {
    socket: Socket,
    /// Only to name a culprit; none where it could not be had.
    listener: Option<Listener>,
    /// The generation that the next transaction needs.
    generation: u32,
    /// What was read last, and the generation that it was read at: it is the same while that is.
    last: Option<(u32, Vec<(Key, Entry)>)>,
}

impl Firewall {
    /// Opens a socket in the network namespace of the calling thread; it stays there whatever thread uses it.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN` over the namespace, or without nftables in the kernel.
    pub fn open() -> Result<Self, ReadError> {
        let opened = |trouble: &Trouble| {
            ReadError::Other(match trouble.errno() {
                libc::EPERM => "reading the firewall needs root (CAP_NET_ADMIN)".into(),
                // nfnetlink knows no such subsystem, or there is no nfnetlink.
                libc::EINVAL | libc::EPROTONOSUPPORT => "this kernel has no nf_tables (CONFIG_NF_TABLES)".into(),
                _ => format!("cannot talk to the kernel's firewall: {trouble}"),
            })
        };
        let mut socket = Socket::open().map_err(|error| opened(&error.into()))?;
        let generation = ruleset::current(&mut socket).map_err(|trouble| opened(&trouble))?;
        Ok(Self { socket, listener: Listener::open().ok(), generation, last: None })
    }

    /// Reads the table: itself, its sets, its chains with their rules, its elements. Nothing where there is no table.
    /// All of it is netrec's, for the table's name is; `owners` is empty where a mark is missing.
    ///
    /// # Errors
    /// When the kernel refuses, or when the ruleset does not hold still for as long as a read takes.
    pub fn read(&mut self) -> Result<Vec<(Key, Entry)>, ReadError> {
        if let Some(listener) = &mut self.listener {
            listener.last(); // what was before is of no interest
        }
        if let Some((generation, entries)) = &self.last
            && ruleset::current(&mut self.socket).is_ok_and(|now| now == *generation)
        {
            self.generation = *generation;
            return Ok(entries.clone());
        }
        let (generation, mut entries) = self.read_at()?;
        // The kernel lists elements in no order; of what is kept it is made once.
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.generation = generation;
        self.last = Some((generation, entries.clone()));
        Ok(entries)
    }

    /// The table and the generation it was read at.
    fn read_at(&mut self) -> Result<(u32, Vec<(Key, Entry)>), ReadError> {
        let failed = |trouble: Trouble| ReadError::Other(format!("cannot read table inet {TABLE}: {trouble}"));
        for attempt in 0..ATTEMPTS {
            std::thread::sleep(PATIENCE * attempt);
            let generation = ruleset::current(&mut self.socket).map_err(failed)?;
            match read::dump(&mut self.socket) {
                Ok(entries) if ruleset::current(&mut self.socket).map_err(failed)? == generation => {
                    return Ok((generation, entries));
                }
                Ok(_) | Err(Trouble::Changed) => {}
                Err(trouble) => return Err(failed(trouble)),
            }
        }
        Err(failed(Trouble::Changed))
    }

    /// What the elements of sets that count have counted, each by itself; nothing where there is no table.
    ///
    /// # Errors
    /// When the kernel refuses, or when the sets do not hold still for as long as a read takes.
    pub fn traffic(&mut self) -> Result<Vec<(Key, Traffic)>, ReadError> {
        let failed =
            |trouble: Trouble| ReadError::Other(format!("read what was counted in table inet {TABLE}: {trouble}"));
        for attempt in 0..ATTEMPTS {
            std::thread::sleep(PATIENCE * attempt);
            match read::traffic(&mut self.socket) {
                Err(Trouble::Changed) => {}
                outcome => return outcome.map_err(failed),
            }
        }
        Err(failed(Trouble::Changed))
    }

    /// The tables that are not netrec's and have a base chain on the hooks `forward` or `input`, without their rules.
    ///
    /// # Errors
    /// When the kernel refuses, or when its tables do not hold still for as long as a read takes.
    pub fn others(&mut self) -> Result<Vec<ForeignTable>, ReadError> {
        let failed = |trouble: Trouble| ReadError::Other(format!("other firewalls could not be read: {trouble}"));
        for attempt in 0..ATTEMPTS {
            std::thread::sleep(PATIENCE * attempt);
            match others::dump(&mut self.socket) {
                Err(Trouble::Changed) => {}
                outcome => return outcome.map_err(failed),
            }
        }
        Err(failed(Trouble::Changed))
    }

    /// Carries out firewall steps in one transaction: all of them or none. Every message that changes something counts
    /// as a write; when one of them is to fail, nothing is sent.
    ///
    /// What the kernel cannot change in place (a set's types, a base chain's hook, a mark of a table, chain or set) has
    /// the whole table made anew, still in one transaction. Foreign objects that cannot be written whole are then left
    /// out and foreign rules in netrec's chains too. To delete what is no longer there is a success.
    ///
    /// # Errors
    /// With the number `ERESTART` when anybody changed the ruleset since the last [`read`](Self::read) or own success;
    /// with the kernel's number when it refuses a part, which the message names; with 0 when a step makes no sense.
    pub fn run(&mut self, steps: &[Step], writes: &mut Writes) -> Result<(), StepError> {
        match self.attempt(steps, writes) {
            // Perhaps from a deletion: a table made anew lacks what could not be written.
            Err(error) if error.errno == libc::ENOENT => match self.left_to_do(steps)? {
                Some(steps) => self.attempt(&steps, writes),
                None => Err(error),
            },
            outcome => outcome,
        }
    }

    fn attempt(&mut self, steps: &[Step], writes: &mut Writes) -> Result<(), StepError> {
        let all;
        let work = if steps.iter().any(replaces) {
            all = self.after(steps)?;
            Work::rebuild(&all)
        } else {
            Work::steps(steps)
        };
        let batch = work
            .batch(self.socket.sequence(0), self.generation)
            .map_err(|(part, why)| StepError { errno: 0, message: format!("{part}: {why}") })?;
        if batch.messages() == 0 {
            return Ok(());
        }
        for sequence in (batch.first()..).take(batch.messages()) {
            writes.admit().map_err(|errno| refused(&batch, sequence, &Fault::new(errno)))?;
        }
        self.send(&batch)
    }

    fn send(&mut self, batch: &Batch<'_>) -> Result<(), StepError> {
        self.socket.sequence(u32::try_from(batch.messages() + 2).unwrap_or(u32::MAX));
        if let Some(listener) = &self.listener {
            let _ = listener.pause();
        }
        let outcome = self.socket.batch(batch.bytes());
        if let Ok(None) = outcome {
            self.move_on();
        }
        if let Some(listener) = &self.listener {
            let _ = listener.resume();
        }
        match outcome {
            Ok(None) => Ok(()),
            Ok(Some((_, fault))) if fault.errno == libc::ERESTART => Err(self.overtaken()),
            Ok(Some((sequence, fault))) => Err(refused(batch, sequence, &fault)),
            Err(trouble) => {
                Err(StepError { errno: trouble.errno(), message: format!("change table inet {TABLE}: {trouble}") })
            }
        }
    }

    /// After a success: the next transaction needs the generation that this one made. If it is another one by now,
    /// somebody came in between, and the next transaction has to fail.
    fn move_on(&mut self) {
        let ours = self.generation.wrapping_add(1).max(1); // nf_tables_commit() leaves 0 out
        let same = self.generation;
        self.generation = match ruleset::current(&mut self.socket) {
            Ok(now) if now == same => same, // nothing to do was in it
            _ => ours,
        };
    }

    fn overtaken(&mut self) -> StepError {
        let who = self.listener.as_mut().and_then(Listener::last).unwrap_or_else(|| "another program".into());
        let message = format!("the firewall was changed meanwhile by {who}; nothing was done");
        StepError { errno: libc::ERESTART, message }
    }

    /// The steps without deletions of what is not there; none where there are no such.
    fn left_to_do(&mut self, steps: &[Step]) -> Result<Option<Vec<Step>>, StepError> {
        let live = self.unchanged()?;
        let left: Vec<Step> =
            steps.iter().filter(|step| step.after.is_some() || live.contains_key(&step.key)).cloned().collect();
        Ok(Some(left).filter(|left| left.len() < steps.len()))
    }

    /// The table as it is with these steps applied. What is there stays where its successor cannot be written whole.
    fn after(&mut self, steps: &[Step]) -> Result<BTreeMap<Key, Entry>, StepError> {
        let mut all = self.unchanged()?;
        let mut replaced = BTreeMap::new();
        for step in steps {
            match &step.after {
                Some(after) => {
                    if let Some(old) = all.insert(step.key.clone(), after.clone()) {
                        replaced.insert(&step.key, old);
                    }
                }
                None => drop(all.remove(&step.key)),
            }
        }
        let losses = Losses::of(&all.iter().collect::<Vec<_>>());
        replaced.retain(|key, _| losses.has(key));
        all.extend(replaced.into_iter().map(|(key, old)| (key.clone(), old)));
        Ok(all)
    }

    /// The table as it was when it was read.
    fn unchanged(&mut self) -> Result<BTreeMap<Key, Entry>, StepError> {
        let (generation, entries) =
            self.read_at().map_err(|error| StepError { errno: 0, message: error.to_string() })?;
        if generation != self.generation {
            return Err(self.overtaken());
        }
        Ok(entries.into_iter().collect())
    }
}

/// What the kernel refused, and its words.
fn refused(batch: &Batch<'_>, sequence: u32, fault: &Fault) -> StepError {
    let words = in_words(fault);
    let message = match batch.part(sequence, fault.offset) {
        Some(part) => format!("{part}: {words}"),
        None => format!("change table inet {TABLE}: {words}"),
    };
    StepError { errno: fault.errno, message }
}

/// How many things a datagram tells of: of netrec's table, of others', and of packets that are traced.
#[cfg(feature = "fuzzing")]
pub(super) fn things(datagram: &[u8]) -> usize {
    let messages = || super::nfnetlink::wire::messages(datagram);
    let others = messages().filter(|message| others::is_chain(*message)).count();
    let traces = messages().filter(|message| trace::is_trace(*message)).count();
    read::entries(messages()) + others + traces
}
