//! Signals while a plan is carried out. Before it begins SIGINT and SIGTERM end the process, which has written nothing;
//! then the first lets the batch under way end and has what was done taken back, and the second ends at once with a word on
//! what is left. SIGHUP is no reason to stop: a terminal that goes away often does because of what is changed.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::named;
use super::output::Output;
use crate::plan::FORMAT_VERSION;
use crate::reconcile::Books;

/// How far the work is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Before,
    Work,
    After,
}

/// Listens to signals from its making to the end of the process.
pub(super) struct Interrupts(Arc<Shared>);

struct Shared {
    /// Held while a signal is answered, so that no work begins in a process that is about to end.
    stage: Mutex<Stage>,
    stop: AtomicBool,
    books: Books,
}

/// The thread that answers.
struct Listener {
    shared: Arc<Shared>,
    output: Output,
    json: bool,
}

impl Interrupts {
    /// Begins to listen. With `json` standard output gets a document even when the process ends early.
    pub(super) fn listen(output: &Output, json: bool) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            stage: Mutex::new(Stage::Before),
            stop: AtomicBool::new(false),
            books: Books::default(),
        });
        // A shell without job control starts what is to go on in the background with SIGINT ignored.
        let ignored = ignored();
        let heeded = |signal: i32| ignored & (1 << (signal - 1)) == 0;
        if heeded(SIGHUP) {
            // Caught and not ignored, which programs that this one starts would inherit.
            signal_hook::flag::register(SIGHUP, Arc::default())?;
        }
        let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().filter(|signal| heeded(*signal)))?;
        let listener = Listener { shared: Arc::clone(&shared), output: output.another(), json };
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || signals.forever().for_each(|signal| listener.answer(signal)))?;
        Ok(Self(shared))
    }

    /// The work begins: from here on something may be left of it.
    pub(super) fn begin(&self) {
        *self.0.stage() = Stage::Work;
    }

    /// The work has ended, one way or the other.
    pub(super) fn end(&self) {
        *self.0.stage() = Stage::After;
    }

    /// Whether the work is to go on.
    pub(super) fn go_on(&self) -> ControlFlow<()> {
        if self.0.stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Where the work is written down.
    pub(super) fn books(&self) -> &Books {
        &self.0.books
    }
}

/// The signals that the process was started with ignored, as `SigIgn` of proc_pid_status(5) has them: bit 0 is signal 1.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    fn answer(&self, signal: i32) {
        let stage = self.shared.stage();
        // As a shell has it for a process that a signal ended.
        let by_signal = 128 + signal;
        match *stage {
            Stage::Before => self.exit(by_signal, "interrupted: nothing was changed"),
            Stage::After => self.exit(by_signal, "interrupted when the work had ended"),
            Stage::Work if self.shared.stop.swap(true, Ordering::SeqCst) => self.exit(1, &self.left()),
            Stage::Work => self.output.note(
                &"interrupted: the batch under way ends, then what was done is taken back; once more ends at once and leaves \
                  it as it is",
            ),
        }
    }

    fn exit(&self, status: i32, text: &str) {
        if self.json {
            self.output.json(&json!({ "format_version": FORMAT_VERSION, "error": text, "exit_status": status }));
        }
        self.output.error_text(text);
        std::process::exit(status)
    }

    /// What is left of work that ends here.
    fn left(&self) -> String {
        let (touched, under_way) = self.shared.books.standing();
        let names = named(touched.iter());
        let differ = match touched.len() {
            0 => "no object of the plan differs from before".to_owned(),
            1 => format!("1 object of the plan differs from before: {names}"),
            n => format!("{n} objects of the plan differ from before: {names}"),
        };
        let mut text = format!("interrupted again, and ended at once: {differ}");
        if under_way > 0 {
            let steps = if under_way == 1 { "1 step".to_owned() } else { format!("{under_way} steps") };
            text += &format!("\n{steps} more may have been done, or not");
        }
        text + "\n`netrec apply` brings the host to the file, `netrec destroy` removes all that is netrec's"
    }
}
