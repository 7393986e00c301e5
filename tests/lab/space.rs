//! Machines and network namespaces, and how to run something in them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// What a command left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit status, or 128 and the signal that killed it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Something like a computer: a network, mount, pid and UTS namespace, with `/run`, `/var/lib` and `/proc` of its own.
#[derive(Clone, Debug)]
pub struct Machine {
    space: Space,
}

/// A network namespace of a machine: the machine's own, or that of a container on it.
#[derive(Clone, Debug)]
pub struct Space {
    name: String,
    net: Arc<OwnedFd>,
    around: Arc<Around>,
}

/// The namespaces that all of a machine's network namespaces share, and the process that holds them.
#[derive(Debug)]
struct Around {
    mnt: OwnedFd,
    pid: OwnedFd,
    uts: OwnedFd,
    holder: u32,
    child: Mutex<Child>,
}

impl Drop for Around {
    fn drop(&mut self) {
        // It is the pid namespace's init: whatever still runs in there dies with it.
        if let Ok(child) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Deref for Machine {
    type Target = Space;
    fn deref(&self) -> &Space {
        &self.space
    }
}

impl Machine {
    /// A fresh machine of this host name with nothing but `lo`, which is up.
    pub fn new(name: &str) -> Self {
        let child = thread::scope(|s| s.spawn(|| hold(name)).join().unwrap_or_else(|e| resume_unwind(e)))
            .unwrap_or_else(|e| panic!("cannot make the machine `{name}`: {e}"));
        let holder = child.id();
        let open = |what: &str| OwnedFd::from(File::open(format!("/proc/{holder}/ns/{what}")).expect("its namespace"));
        let net = Arc::new(open("net"));
        let (mnt, pid, uts) = (open("mnt"), open("pid"), open("uts"));
        let around = Arc::new(Around { mnt, pid, uts, holder, child: Mutex::new(child) });
        let machine = Self { space: Space { name: name.to_owned(), net, around } };
        machine.run(["ip", "link", "set", "lo", "up"]);
        machine
    }

    /// The pid, as the sandbox sees it, of the process that keeps the machine alive.
    pub fn holder(&self) -> u32 {
        self.around.holder
    }

    /// A path of the machine as the sandbox sees it. Absolute symbolic links in it would lead out of the machine.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        Path::new(&format!("/proc/{}/root", self.holder())).join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Writes a file into `/run/lab` or a folder of it, and returns its path as commands on the machine see it.
    pub fn write(&self, file: &str, text: &str) -> String {
        let path = format!("/run/lab/{file}");
        if let Some(folder) = self.path(&path).parent() {
            fs::create_dir_all(folder).expect("its folder");
        }
        fs::write(self.path(&path), text).expect("a file on the machine");
        // Whatever the umask is.
        fs::set_permissions(self.path(&path), fs::Permissions::from_mode(0o644)).expect("its mode");
        path
    }

    /// The names under `/run/netns`, sorted.
    pub fn netns_names(&self) -> Vec<String> {
        let Ok(dir) = fs::read_dir(self.path("/run/netns")) else { return Vec::new() };
        let mut names: Vec<_> = dir.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The namespace `/run/netns/NAME`, which must exist.
    pub fn named(&self, name: &str) -> Space {
        self.at(&format!("/run/netns/{name}"), name)
    }

    /// The namespace a path leads to.
    pub fn at(&self, path: &str, name: &str) -> Space {
        let net = File::open(self.path(path)).unwrap_or_else(|e| panic!("no namespace {path}: {e}"));
        Space { name: name.to_owned(), net: Arc::new(net.into()), around: self.around.clone() }
    }
}

/// In a thread of its own: leaves all namespaces and starts the process that holds the new ones.
fn hold(name: &str) -> io::Result<Child> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)?;
    // SAFETY: the bytes of `name` are valid for its length.
    if unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for dir in ["/run", "/var/lib"] {
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    }
    fs::create_dir("/run/lab")?;
    unshare(CloneFlags::CLONE_NEWPID)?;
    let mut command = Command::new("sleep");
    command.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: system calls only; `mount` copies its paths to the stack.
    unsafe {
        command.pre_exec(|| {
            // As init it inherits orphans; so they do not stay zombies.
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)?;
            Ok(())
        });
    }
    command.spawn()
}

impl Space {
    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network namespace, to compare or to hand on.
    pub fn net(&self) -> BorrowedFd<'_> {
        self.net.as_fd()
    }

    /// Calls a function in a thread that is in this network namespace. Sockets made there stay in it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let work = || {
            setns(&*self.net, CloneFlags::CLONE_NEWNET).expect("entering a network namespace");
            work()
        };
        thread::scope(|s| s.spawn(work).join().unwrap_or_else(|e| resume_unwind(e)))
    }

    /// Starts a command here, in all of the machine's namespaces.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let around = &*self.around;
        let enter = [
            (around.uts.as_raw_fd(), CloneFlags::CLONE_NEWUTS),
            (self.net.as_raw_fd(), CloneFlags::CLONE_NEWNET),
            (around.mnt.as_raw_fd(), CloneFlags::CLONE_NEWNS),
        ];
        // SAFETY: system calls only, on descriptors that are open until `spawn` returns.
        unsafe {
            command.pre_exec(move || {
                for (fd, kind) in enter {
                    setns(BorrowedFd::borrow_raw(fd), kind)?;
                }
                Ok(())
            });
        }
        // A pid namespace is entered by children only, and the choice is the thread's.
        let start = || {
            setns(&around.pid, CloneFlags::CLONE_NEWPID)?;
            command.spawn()
        };
        thread::scope(|s| s.spawn(start).join().unwrap_or_else(|e| resume_unwind(e)))
    }

    /// Runs a command to its end.
    pub fn output(&self, command: &mut Command) -> Output {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.get_program().to_string_lossy().into_owned();
        let child = self.spawn(command).unwrap_or_else(|e| panic!("cannot run {program} on {}: {e}", self.name));
        let output = child.wait_with_output().expect("the command's output");
        Output {
            status: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command that may fail.
    pub fn try_run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Output {
        let mut words = command.into_iter();
        let program = words.next().expect("a program");
        self.output(Command::new(program).args(words))
    }

    /// Runs a command that must succeed, and returns its standard output.
    pub fn run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> String {
        let words: Vec<_> = command.into_iter().map(|w| w.as_ref().to_owned()).collect();
        let output = self.try_run(&words);
        let shown = words.join(OsStr::new(" "));
        assert!(
            output.status == 0,
            "`{}` on {} ended with {}\n{}{}",
            shown.to_string_lossy(),
            self.name,
            output.status,
            output.stdout,
            output.stderr
        );
        output.stdout
    }

    /// Runs a line of words that must succeed: `space.sh("ip link set eth0 down")`. Shell syntax works too.
    pub fn sh(&self, line: &str) -> String {
        self.run(["sh", "-euc", line])
    }

    /// Reads a kernel parameter by its path below `/proc/sys`.
    pub fn sysctl(&self, path: &str) -> String {
        let path = format!("/proc/sys/{path}");
        self.enter(|| fs::read_to_string(&path)).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
    }

    /// Sets a kernel parameter by its path below `/proc/sys`, and reads it back.
    pub fn set_sysctl(&self, path: &str, value: &str) {
        let file = format!("/proc/sys/{path}");
        self.enter(|| fs::write(&file, value)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(self.sysctl(path), value, "{path}");
    }
}
