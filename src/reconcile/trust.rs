//! Who may write what decides over the host's network: sshd's StrictModes, for the file of a command that writes.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// Write permission of the group and of others.
const GROUP: u32 = 0o020;
const OTHERS: u32 = 0o002;
/// In a folder with this bit only a file's owner may put another in its place.
const STICKY: u32 = 0o1000;

/// Somebody else may write a file, or put another one in its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Doubt {
    path: PathBuf,
    folder: bool,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Mode(u32),
    Owner(u32),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let what = if self.folder { "the folder " } else { "" };
        match self.why {
            Why::Mode(mode) => {
                let who = match (mode & GROUP != 0, mode & OTHERS != 0) {
                    (true, true) => "its group and others",
                    (true, false) => "its group",
                    _ => "others",
                };
                write!(f, "{what}{path} can be written by {who} (mode {mode:o}): `chmod go-w {path}`")
            }
            Why::Owner(user) => write!(
                f,
                "{what}{path} belongs to user {user}, who is neither root nor the one who runs netrec: `chown root {path}`"
            ),
        }
    }
}

/// The users whose files are as good as one's own.
struct Trusted {
    users: BTreeSet<u32>,
}

impl Trusted {
    fn new() -> Self {
        let own = geteuid();
        let mut users = BTreeSet::from([0, own.as_raw()]);
        // Who got to be root by sudo(8) runs netrec as much as root does.
        if own.is_root() {
            users.extend(std::env::var("SUDO_UID").ok().and_then(|user| user.parse::<u32>().ok()));
        }
        users.extend(nobody());
        Self { users }
    }

    fn doubt(&self, path: &Path, metadata: &Metadata) -> Option<Doubt> {
        let (mode, user) = (metadata.mode() & 0o7777, metadata.uid());
        let safe = mode & (GROUP | OTHERS) == 0 || metadata.is_dir() && mode & STICKY != 0;
        let why = match (self.users.contains(&user), safe) {
            (false, _) => Why::Owner(user),
            (true, false) => Why::Mode(mode),
            (true, true) => return None,
        };
        Some(Doubt { path: path.to_owned(), folder: metadata.is_dir(), why })
    }
}

/// The number that stands for all users who have none in this user namespace, root of the machine among them; none where
/// all have one. Who is in such a namespace has no rights over the machine that could be got at.
fn nobody() -> Option<u32> {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let all = map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"];
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?;
    if all { None } else { overflow.trim().parse().ok() }
}

/// What there is to be said against an open file and the folders that it is in. Links are followed: it is about the file
/// that was opened, and about the folder with the name that it was opened by.
pub(super) fn doubts(file: &File, path: &Path) -> io::Result<BTreeSet<Doubt>> {
    let trusted = Trusted::new();
    let mut doubts = BTreeSet::new();
    // A descriptor that was handed over (/dev/fd/63) need not have a path.
    let Ok(real) = path.canonicalize() else {
        doubts.extend(trusted.doubt(path, &file.metadata()?));
        return Ok(doubts);
    };
    doubts.extend(trusted.doubt(&real, &file.metadata()?));
    let named_in = std::path::absolute(path)?.parent().map(Path::canonicalize).transpose()?;
    for start in [real.parent(), named_in.as_deref()].into_iter().flatten() {
        for folder in start.ancestors() {
            doubts.extend(trusted.doubt(folder, &fs::metadata(folder)?));
        }
    }
    Ok(doubts)
}
