//! When a round is due: what comes in a burst is answered once, what fails is tried again later and later, and what somebody
//! undoes each time is not done without end. Times are handed in, so that all of it can be tried without waiting.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::state::Key;

/// A file is read once nothing has happened to it for so long: editors write in several steps.
pub(super) const FILE_QUIET: Duration = Duration::from_millis(100);
/// And at the latest so long after the first thing that happened.
const FILE_LIMIT: Duration = Duration::from_secs(1);
/// The kernel is read once it has been quiet for so long: what others change comes in bursts.
const KERNEL_QUIET: Duration = Duration::from_millis(3);
/// And at the latest so long after the first change.
const KERNEL_LIMIT: Duration = Duration::from_millis(30);
/// Rounds may take as much time as this more than there was between them; then as long a rest follows as they took beyond that.
/// A change is answered at once, and a host whose tables are large and change all the time keeps no processor busy: in the long
/// run half of one.
const BUSY: Duration = Duration::from_secs(2);
/// What is not told is looked for so often.
pub(super) const FULL_READ: Duration = Duration::from_mins(10);
/// The first and the longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// An object that had to be repaired so often within so long is being fought over.
const FIGHT: (usize, Duration) = (10, Duration::from_secs(30));
/// After so long without a repair the pauses begin short again.
const FORGIVEN: Duration = Duration::from_mins(10);

/// A time span that begins with the first event and ends when nothing more comes, or at its limit.
#[derive(Clone, Copy, Debug)]
struct Burst {
    first: Instant,
    last: Instant,
}

impl Burst {
    fn note(burst: &mut Option<Self>, now: Instant) {
        burst.get_or_insert(Self { first: now, last: now }).last = now;
    }

    fn ends(self, quiet: Duration, limit: Duration) -> Instant {
        (self.last + quiet).min(self.first + limit)
    }
}

/// Pauses that double.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    next: Option<Duration>,
}

impl Pause {
    fn take(&mut self) -> Duration {
        let (first, longest) = PAUSES;
        let pause = self.next.unwrap_or(first);
        self.next = Some((pause * 2).min(longest));
        pause
    }
}

/// What a round is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The files are to be read again.
    pub(super) file: bool,
    /// The kernel is to be read whether the files are others or not.
    pub(super) kernel: bool,
    /// Somebody asks for it, whatever has happened to the files.
    pub(super) asked: bool,
    /// All of the kernel is to be read, whatever was told: from time to time, after a failure, and when somebody asks.
    pub(super) full: bool,
}

/// Says when the next round is due.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Since when somebody waits for a round.
    asked: Option<Instant>,
    file: Option<Burst>,
    kernel: Option<Burst>,
    retry: Option<Instant>,
    full: Instant,
    pause: Pause,
    /// Until then the kernel's changes are not answered: for the sake of somebody who undoes it or of a failure, or of others who
    /// need the processor.
    calm: Option<Instant>,
    rest: Option<Instant>,
    /// How much longer rounds took than there was between them, and when the last one ended.
    busy: Duration,
    ended: Instant,
    fight: Pause,
    repairs: HashMap<Key, Vec<Instant>>,
}

impl Throttle {
    /// With a round due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            asked: Some(now),
            file: None,
            kernel: None,
            retry: None,
            full: now + FULL_READ,
            pause: Pause::default(),
            calm: None,
            rest: None,
            busy: Duration::ZERO,
            ended: now,
            fight: Pause::default(),
            repairs: HashMap::new(),
        }
    }

    /// Something happened to the files.
    pub(super) fn file(&mut self, now: Instant) {
        Burst::note(&mut self.file, now);
    }

    /// Something happened in the kernel.
    pub(super) fn kernel(&mut self, now: Instant) {
        Burst::note(&mut self.kernel, now);
    }

    /// Somebody asks for a round.
    pub(super) fn at_once(&mut self, now: Instant) {
        (self.asked, self.calm, self.pause) = (Some(now), None, Pause::default());
    }

    /// What was asked for has to wait until the files are quiet.
    pub(super) fn later(&mut self, now: Instant) {
        self.asked = Some(now + FILE_QUIET);
    }

    /// When the next round is due, if nothing more happens.
    pub(super) fn next(&self) -> Instant {
        self.file_due().map_or(self.kernel_due(), |file| file.min(self.kernel_due()))
    }

    fn file_due(&self) -> Option<Instant> {
        let burst = self.file.map(|burst| burst.ends(FILE_QUIET, FILE_LIMIT));
        [self.asked, burst].into_iter().flatten().min()
    }

    fn kernel_due(&self) -> Instant {
        let kernel = self.kernel.map(|burst| {
            let due = burst.ends(KERNEL_QUIET, KERNEL_LIMIT);
            [self.calm, self.rest].into_iter().flatten().fold(due, Instant::max)
        });
        [kernel, self.asked, self.retry].into_iter().flatten().fold(self.full, Instant::min)
    }

    /// What is due now, if anything is; then it is taken for done.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        if self.next() > now {
            return None;
        }
        let due = Due {
            file: self.file_due().is_some_and(|at| at <= now),
            kernel: self.kernel_due() <= now,
            asked: self.asked.is_some_and(|at| at <= now),
            full: [Some(self.full), self.asked, self.retry].into_iter().flatten().any(|at| at <= now),
        };
        if due.file {
            self.file = None;
        }
        if due.asked {
            self.asked = None;
        }
        if due.kernel {
            (self.kernel, self.retry) = (None, None);
        }
        if due.full {
            self.full = now + FULL_READ;
        }
        Some(due)
    }

    /// A round ended that worked for so long.
    pub(super) fn took(&mut self, time: Duration, now: Instant) {
        let between = now.duration_since(self.ended).saturating_sub(time);
        // A round that took long is answered by no longer a rest than itself.
        self.busy = (self.busy.saturating_sub(between) + time).min(BUSY + time);
        self.ended = now;
        self.rest = self.busy.checked_sub(BUSY).map(|beyond| now + beyond);
    }

    /// A round failed: it is tried again, later each time. Says when.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let pause = self.pause.take();
        self.retry = Some(now + pause);
        // What the failed round did and took back was heard, and would begin it anew.
        self.calm = self.retry;
        pause
    }

    /// A round went well.
    pub(super) fn went_well(&mut self) {
        self.pause = Pause::default();
        self.calm = None;
    }

    /// A round put these objects right that the file had not changed. Says of which somebody undoes that each time, and how
    /// long the kernel's changes are not answered for that.
    pub(super) fn repaired<'a>(
        &mut self,
        keys: impl IntoIterator<Item = &'a Key>,
        now: Instant,
    ) -> Option<(Vec<Key>, Duration)> {
        let (often, within) = FIGHT;
        self.repairs.retain(|_, times| {
            times.retain(|at| now.duration_since(*at) < FORGIVEN);
            !times.is_empty()
        });
        if self.repairs.is_empty() {
            self.fight = Pause::default();
        }
        let mut fought = Vec::new();
        for key in keys {
            let times = self.repairs.entry(key.clone()).or_default();
            times.push(now);
            if times.iter().filter(|at| now.duration_since(**at) < within).count() >= often {
                fought.push(key.clone());
            }
        }
        if fought.is_empty() {
            return None;
        }
        let pause = self.fight.take();
        self.calm = Some(now + pause);
        Some((fought, pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rested() -> (Throttle, Instant) {
        let now = Instant::now();
        let mut throttle = Throttle::new(now);
        assert_eq!(
            throttle.due(now),
            Some(Due { file: true, kernel: true, asked: true, full: true }),
            "the first round is due at once"
        );
        (throttle, now)
    }

    #[test]
    fn a_burst_is_answered_once() {
        let (mut throttle, now) = rested();
        assert_eq!(throttle.next(), now + FULL_READ);
        // Twenty saves within 100 ms.
        for save in 0..20 {
            throttle.file(now + save * 5 * MS);
        }
        assert_eq!(throttle.due(now + 194 * MS), None);
        assert_eq!(throttle.due(now + 195 * MS), Some(Due { file: true, kernel: false, asked: false, full: false }));
        assert_eq!(throttle.due(now + 300 * MS), None);
        // One that never ends.
        for save in 0..1000 {
            throttle.file(now + save * 5 * MS);
        }
        assert_eq!(throttle.next(), now + FILE_LIMIT);
        throttle.kernel(now);
        throttle.kernel(now + 2 * MS);
        assert_eq!(throttle.due(now + 4 * MS), None);
        assert_eq!(throttle.due(now + 5 * MS), Some(Due { file: false, kernel: true, asked: false, full: false }));
        for change in 0..1000 {
            throttle.kernel(now + change * MS);
        }
        assert_eq!(throttle.next(), now + KERNEL_LIMIT);
        // What is not told.
        let (mut throttle, now) = rested();
        assert_eq!(throttle.due(now + FULL_READ), Some(Due { file: false, kernel: true, asked: false, full: true }));
    }

    #[test]
    fn rounds_without_end_are_followed_by_rests() {
        let (mut throttle, mut now) = rested();
        // How long it was quiet, how long a round took then, and when the next is due.
        let rounds = [
            (0, 1500, KERNEL_QUIET),
            (0, 400, KERNEL_QUIET),
            (0, 300, 200 * MS),
            (200, 300, 300 * MS),
            (300, 10, 10 * MS),
            (500, 300, KERNEL_QUIET),
            (10_000, 2000, KERNEL_QUIET),
            (0, 1, KERNEL_QUIET),
            (0, 99, 99 * MS),
        ];
        for (quiet, time, rest) in rounds {
            now += (quiet + time) * MS;
            throttle.took(time * MS, now);
            throttle.kernel(now);
            assert_eq!(throttle.next(), now + rest, "after {quiet} and {time}");
            assert!(throttle.due(now + rest).is_some());
        }
        // Of the kernel's changes only; and rounds that somebody asks for one after the other leave no debt.
        for _ in 0..10 {
            throttle.took(1000 * MS, now);
            throttle.at_once(now);
            assert_eq!(throttle.next(), now);
            throttle.due(now);
        }
        throttle.took(10 * MS, now);
        throttle.kernel(now);
        assert_eq!(throttle.next(), now + 10 * MS);
        throttle.due(now + 10 * MS);
        // In the long run it is half of the time.
        let begin = now;
        let mut worked = Duration::ZERO;
        while worked < Duration::from_mins(1) {
            throttle.kernel(now);
            now = throttle.next() + 50 * MS;
            throttle.due(now);
            throttle.took(50 * MS, now);
            worked += 50 * MS;
        }
        let all = now - begin;
        assert!(all >= worked * 19 / 10 && all <= worked * 21 / 10, "{worked:?} of {all:?}");
    }

    #[test]
    fn what_is_asked_for_while_a_file_is_written_waits_for_its_end() {
        let (mut throttle, now) = rested();
        throttle.at_once(now);
        assert_eq!(throttle.due(now), Some(Due { file: true, kernel: true, asked: true, full: true }));
        throttle.later(now);
        throttle.kernel(now);
        assert_eq!(throttle.due(now + 3 * MS), Some(Due { file: false, kernel: true, asked: false, full: false }));
        assert_eq!(throttle.due(now + 99 * MS), None);
        assert_eq!(throttle.due(now + FILE_QUIET), Some(Due { file: true, kernel: true, asked: true, full: true }));
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later() {
        let (mut throttle, mut now) = rested();
        let mut pauses = Vec::new();
        for _ in 0..11 {
            let pause = throttle.failed(now);
            // Its own changes do not begin it anew.
            throttle.kernel(now + MS);
            assert_eq!(throttle.next(), now + pause);
            now += pause;
            assert_eq!(throttle.due(now), Some(Due { file: false, kernel: true, asked: false, full: true }));
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        // Another file is another matter.
        throttle.failed(now);
        throttle.file(now);
        assert_eq!(throttle.due(now + FILE_QUIET), Some(Due { file: true, kernel: false, asked: false, full: false }));
        throttle.went_well();
        assert_eq!(throttle.failed(now).as_secs(), 1);
    }

    #[test]
    fn what_somebody_undoes_each_time_is_not_done_without_end() {
        let (mut throttle, mut now) = rested();
        let key = Key::Table;
        let (mut rounds, mut full) = (0, 0);
        let end = now + Duration::from_hours(1);
        let mut told = Vec::new();
        while now < end {
            throttle.kernel(now);
            now = throttle.next();
            full += usize::from(throttle.full <= now);
            let full = throttle.full <= now;
            assert_eq!(throttle.due(now), Some(Due { file: false, kernel: true, asked: false, full }));
            rounds += 1;
            if let Some((keys, pause)) = throttle.repaired([&key], now) {
                assert_eq!(keys, [Key::Table]);
                told.push(pause.as_secs());
            }
        }
        assert_eq!(told[..4], [1, 2, 4, 8]);
        assert!(rounds < 200, "{rounds} rounds in an hour");
        // Others' changes do not put off the reading of all.
        assert_eq!(full, 6);
        // Ten minutes of peace.
        now += FORGIVEN;
        assert_eq!(throttle.repaired([&key], now), None);
        assert_eq!(throttle.fight.next, None);
    }
}
