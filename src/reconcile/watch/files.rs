//! The configuration's files: their folders are watched, since a file that is replaced is another one afterwards, and what
//! is read again is compared with what was read before, since a folder has other files, too. And the folders of plugins'
//! sockets, which are made anew when a plugin is started.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Trigger;
use crate::reconcile::files::RUN;
use crate::reconcile::guard::JOURNAL;
use crate::reconcile::input;
use crate::services::plugin;

/// Watches the folders of files.
pub(super) struct Files {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
}

impl Files {
    /// Watches nothing yet; tells of what happens to what is watched later.
    pub(super) fn new(triggers: Sender<Trigger>) -> notify::Result<Self> {
        Self::telling(triggers, Trigger::File, matters)
    }

    /// The same for plugins' sockets.
    pub(super) fn of_plugins(triggers: Sender<Trigger>) -> notify::Result<Self> {
        let comes =
            |event: &notify::Event| matches!(event.kind, EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_)));
        Self::telling(triggers, Trigger::Engine, comes)
    }

    fn telling(
        triggers: Sender<Trigger>,
        trigger: Trigger,
        matters: impl Fn(&notify::Event) -> bool + Send + 'static,
    ) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !matters(&event)) {
                return;
            }
            let _ = triggers.send(trigger);
        })?;
        Ok(Self { watcher, watched: BTreeSet::new() })
    }

    /// Watches the folders of these files, and of what waits to be confirmed, and no others. Folders come and go with what they hold: it is called after each
    /// reading.
    pub(super) fn follow(&mut self, paths: &[PathBuf]) -> notify::Result<()> {
        let mut wanted = BTreeSet::from([existing(Path::new(RUN))]);
        for path in input::places(paths) {
            wanted.extend(folders(&path));
        }
        self.follow_folders(wanted)
    }

    /// Watches the folders of these plugins' sockets, and no others.
    pub(super) fn follow_plugins<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> notify::Result<()> {
        self.follow_folders(names.flat_map(plugin::folders).map(|folder| existing(&folder)).collect())
    }

    fn follow_folders(&mut self, wanted: BTreeSet<PathBuf>) -> notify::Result<()> {
        for gone in self.watched.difference(&wanted) {
            // It may be gone in truth.
            let _ = self.watcher.unwatch(gone);
        }
        let mut failed = None;
        for new in &wanted {
            // Again, too: it may be another folder of the same name.
            if let Err(error) = self.watcher.watch(new, RecursiveMode::NonRecursive) {
                failed.get_or_insert(error);
            }
        }
        self.watched = wanted;
        failed.map_or(Ok(()), Err)
    }
}

/// Whether a file was written within so short a time that it may not be whole yet.
pub(super) fn are_fresh(paths: &[PathBuf], quiet: Duration) -> bool {
    let written = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
    // One of the future says nothing.
    let is_fresh = |path: &Path| written(path).and_then(|at| at.elapsed().ok()).is_some_and(|age| age < quiet);
    input::places(paths).iter().any(|path| match input::folder(path) {
        Ok(files) => files.iter().any(|file| is_fresh(file)),
        Err(_) => is_fresh(path),
    })
}

/// Whether an event may be about a file. To read one is an event, too, and so is every lock that is taken.
fn matters(event: &notify::Event) -> bool {
    let is_lock = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.starts_with(RUN) && !name.starts_with(JOURNAL)
    };
    !matches!(event.kind, EventKind::Access(_)) && (event.paths.is_empty() || !event.paths.iter().all(is_lock))
}

/// The folders in which something happens when a file or a folder of files changes: its own, itself where it is a folder, and
/// those of what it is a symbolic link to.
fn folders(path: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut path = path.to_path_buf();
    // As many links as the kernel follows (`MAXSYMLINKS`).
    for _ in 0..40 {
        folders.push(existing(path.parent().unwrap_or(Path::new("/"))));
        if path.is_dir() {
            folders.push(path.clone());
        }
        // Folders on the way may be links, too.
        if let Some(real) = path.parent().and_then(|folder| folder.canonicalize().ok()) {
            folders.push(real);
        }
        let Ok(target) = path.read_link() else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
        // Of `..data/netrec.toml`, where `..data` is the link that is replaced.
        folders.extend(path.parent().and_then(Path::parent).map(existing));
    }
    folders
}

/// A folder, or the nearest above it that is there.
fn existing(folder: &Path) -> PathBuf {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    folder.ancestors().find(|above| above.is_dir()).unwrap_or(Path::new("/")).to_path_buf()
}
