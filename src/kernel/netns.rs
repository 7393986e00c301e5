//! Network namespaces: entering them, the sockets that live in them, making and removing named ones.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};

use super::fault::Writes;
use super::netlink::link::{self, Mark};
use super::netlink::{Attributes, u32_at};
use super::transport::{Refusal, Socket};
use crate::state::{GROUP, InterfaceName, Netns};

/// Where names of namespaces are files, as iproute2 has it.
pub(super) const RUN_NETNS: &str = "/run/netns";
/// The namespace of the calling thread; `/proc/self` would be the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";
// linux/net_namespace.h
const NETNSA_NSID: u16 = 1;
/// Descriptors left for other uses than cached sockets.
const SPARE_DESCRIPTORS: usize = 64;

/// A namespace's device and inode number, by which two names of one are told.
pub(super) type Id = (u64, u64);

/// The file of a namespace.
pub(super) fn path(netns: &Netns) -> PathBuf {
    match netns.label() {
        None => OWN.into(),
        Some(label) if label.starts_with('/') => label.into(),
        Some(name) => Path::new(RUN_NETNS).join(name),
    }
}

/// A namespace that is held open.
#[derive(Debug)]
pub(super) struct Handle {
    file: File,
    pub id: Id,
}

impl Handle {
    /// Opens a namespace; none where there is no file or it is not a namespace's, such as the empty one that a crash
    /// left before the mount.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = match opened {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENXIO)) => {
                return Ok(None);
            }
            opened => opened?,
        };
        if fstatfs(&file)?.filesystem_type() != NSFS_MAGIC {
            return Ok(None);
        }
        let id = id_of(&file.metadata()?);
        Ok(Some(Self { file, id }))
    }

    /// Opens the namespace of the calling thread.
    pub(super) fn own() -> io::Result<Option<Self>> {
        Self::open(Path::new(OWN))
    }

    /// Moves the calling thread into it for good: for a thread that ends there.
    pub(super) fn enter(&self) -> Result<(), Errno> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
    }
}

/// What is said of a namespace that is not entered. A mount namespace or the like lies on the same file system, and differs
/// in that it is not a network's to enter (EINVAL).
pub(super) fn not_entered(errno: Errno) -> Refusal {
    match errno {
        Errno::EINVAL => Refusal::new(libc::EINVAL, OTHER_KIND),
        errno => errno.into(),
    }
}

/// The words for it.
pub(super) const OTHER_KIND: &str = "it is a namespace of another kind, not of a network";

fn handle(netns: &Netns) -> Result<Handle, Refusal> {
    let opened = Handle::open(&path(netns))?;
    opened.ok_or_else(|| Refusal::new(libc::ENOENT, format!("there is no namespace {netns}")))
}

fn id_of(metadata: &fs::Metadata) -> Id {
    (metadata.dev(), metadata.ino())
}

/// Brings the thread back into its namespace when dropped.
struct Visit<'a>(&'a Handle);

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        // A thread left in a container would go on to write the host's networks there.
        if self.0.enter().is_err() {
            std::process::abort();
        }
    }
}

/// The namespaces in use, each with a socket in it.
pub(super) struct Namespaces {
    home: Handle,
    host: Socket,
    // Each keeps its namespace alive, so they are given up when the work is done.
    sockets: HashMap<Netns, (Id, Socket)>,
    /// What is known of devices' indices, until links are renamed or removed.
    indices: HashMap<(Netns, InterfaceName), u32>,
    limit: usize,
    run_netns_ready: bool,
}

impl Namespaces {
    /// Opens the namespace that the thread is in.
    pub(super) fn open() -> Result<Self, Refusal> {
        let home = Handle::own()?.ok_or_else(|| Refusal::new(libc::ENOENT, "/proc is not mounted"))?;
        Ok(Self {
            home,
            host: Socket::open()?,
            sockets: HashMap::new(),
            indices: HashMap::new(),
            limit: raise_descriptor_limit().saturating_sub(SPARE_DESCRIPTORS),
            run_netns_ready: false,
        })
    }

    /// The host's namespace.
    pub(super) fn host_id(&self) -> Id {
        self.home.id
    }

    /// The socket of the host's namespace.
    pub(super) fn host(&mut self) -> &mut Socket {
        &mut self.host
    }

    /// Gives up what is known of devices and the sockets of other namespaces; an open one would keep a namespace alive
    /// after its removal.
    pub(super) fn forget(&mut self) {
        self.sockets.clear();
        self.forget_indices();
    }

    /// Gives up what is known of devices' indices. To be called when a device may have got another name or gone.
    pub(super) fn forget_indices(&mut self) {
        self.indices.clear();
    }

    /// Runs something inside a namespace, on this thread. A netlink socket stays where it was made, and `/proc/sys/net`
    /// shows the thread's namespace.
    pub(super) fn visit<T>(&self, handle: &Handle, work: impl FnOnce() -> T) -> Result<T, Errno> {
        handle.enter()?;
        let _home = Visit(&self.home);
        Ok(work())
    }

    /// The same by name; the host's is the one the thread is in.
    pub(super) fn within<T>(&self, netns: &Netns, work: impl FnOnce() -> T) -> Result<T, Refusal> {
        if netns.is_host() {
            return Ok(work());
        }
        Ok(self.visit(&handle(netns)?, work)?)
    }

    /// A namespace's descriptor, for a message that names it; none for the host's.
    pub(super) fn descriptor(netns: &Netns) -> Result<Option<OwnedFd>, Refusal> {
        if netns.is_host() { Ok(None) } else { Ok(Some(handle(netns)?.file.into())) }
    }

    /// A socket in a namespace, made at its first use.
    pub(super) fn socket(&mut self, netns: &Netns) -> Result<&mut Socket, Refusal> {
        if netns.is_host() {
            return Ok(&mut self.host);
        }
        if !self.sockets.contains_key(netns) {
            let handle = handle(netns)?;
            let socket = self.visit(&handle, Socket::open)??;
            self.keep(netns, handle.id, socket);
        }
        self.sockets.get_mut(netns).map(|(_, socket)| socket).ok_or_else(|| Refusal::new(libc::ENOENT, "no socket"))
    }

    /// Hands over the socket in use in a namespace, if that is still the one of this name.
    pub(super) fn take_socket(&mut self, netns: &Netns, id: Id) -> Option<Socket> {
        self.sockets.remove(netns).filter(|(inside, _)| *inside == id).map(|(_, socket)| socket)
    }

    /// The number that the host gave to a namespace, as a veth's `IFLA_LINK_NETNSID` has it; `u32::MAX` where it gave
    /// none, as it does when the first veth leads there, or where there is no such namespace any more.
    pub(super) fn nsid(&mut self, netns: &Netns) -> Result<u32, Refusal> {
        let Some(handle) = Handle::open(&path(netns))? else { return Ok(u32::MAX) };
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(handle.file.as_raw_fd().cast_unsigned()));
        // The answer is a `struct rtgenmsg`, padded to 4 bytes, and attributes.
        self.host.get(RouteNetlinkMessage::GetNsId(message), |body| {
            u32_at(Attributes::new(body.get(4..)?).value(NETNSA_NSID)?, 0)
        })
    }

    /// The number that a namespace gave to the host, as `IFLA_LINK_NETNSID` of what is on the host's devices has it;
    /// `u32::MAX` where it gave none.
    pub(super) fn nsid_of_host(&mut self, netns: &Netns) -> Result<u32, Refusal> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(self.home.file.as_raw_fd().cast_unsigned()));
        self.socket(netns)?.get(RouteNetlinkMessage::GetNsId(message), |body| {
            u32_at(Attributes::new(body.get(4..)?).value(NETNSA_NSID)?, 0)
        })
    }

    fn keep(&mut self, netns: &Netns, id: Id, socket: Socket) {
        if self.sockets.len() >= self.limit {
            self.sockets.clear();
        }
        self.sockets.insert(netns.clone(), (id, socket));
    }

    /// A device's index.
    pub(super) fn index(&mut self, netns: &Netns, name: InterfaceName) -> Result<u32, Refusal> {
        let key = (netns.clone(), name);
        if let Some(known) = self.indices.get(&key) {
            return Ok(*known);
        }
        let index = link::index(self.socket(netns)?, name).map_err(|refusal| match refusal.errno {
            libc::ENODEV => Refusal::new(libc::ENODEV, format!("there is no device {name} in {netns}")),
            _ => refusal,
        })?;
        self.indices.insert(key, index);
        Ok(index)
    }

    /// Makes a named namespace with the mark on its `lo`, and the mark before the name, so that a crash leaves no
    /// namespace without one.
    pub(super) fn create(
        &mut self,
        netns: &Netns,
        mark: &Mark,
        lo_up: bool,
        writes: &mut Writes,
    ) -> Result<(), Refusal> {
        let path = named(netns)?;
        self.prepare_run_netns(writes)?;
        let made = claim(&path, writes)?;
        let outcome = self.fill(&path, mark, lo_up, writes);
        match outcome {
            Ok((id, socket)) => {
                self.keep(netns, id, socket);
                Ok(())
            }
            Err(refusal) => {
                if made {
                    let _ = fs::remove_file(&path);
                }
                Err(refusal)
            }
        }
    }

    fn fill(&self, path: &Path, mark: &Mark, lo_up: bool, writes: &mut Writes) -> Result<(Id, Socket), Refusal> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let _home = Visit(&self.home);
        let id = id_of(&fs::metadata(OWN)?);
        let mut socket = Socket::open()?;
        let request = link::mark_lo(GROUP, mark, lo_up.then_some(true));
        socket.batch(vec![request], writes).into_iter().collect::<Result<(), _>>()?;
        counted(writes)?;
        mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok((id, socket))
    }

    /// Removes a name; the namespace goes with its last process and last open file. What is gone already is no failure.
    pub(super) fn delete(&mut self, netns: &Netns, writes: &mut Writes) -> Result<(), Refusal> {
        let path = named(netns)?;
        self.sockets.remove(netns);
        self.forget_indices();
        counted(writes)?;
        match umount2(&path, MntFlags::MNT_DETACH) {
            // EINVAL: it is no mount point.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        counted(writes)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Makes `/run/netns` a mount of its own that is shared between mount namespaces, as `ip netns add` does: a
    /// namespace removed in one then goes in the others too, which would otherwise keep it alive.
    fn prepare_run_netns(&mut self, writes: &mut Writes) -> Result<(), Refusal> {
        if self.run_netns_ready {
            return Ok(());
        }
        if !Path::new(RUN_NETNS).is_dir() {
            counted(writes)?;
            fs::DirBuilder::new().recursive(true).mode(0o755).create(RUN_NETNS)?;
        }
        let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
        counted(writes)?;
        match mount(None::<&str>, RUN_NETNS, None::<&str>, shared, None::<&str>) {
            // EINVAL: it is no mount point yet.
            Err(Errno::EINVAL) => {
                counted(writes)?;
                mount(Some(RUN_NETNS), RUN_NETNS, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
                counted(writes)?;
                mount(None::<&str>, RUN_NETNS, None::<&str>, shared, None::<&str>)?;
            }
            outcome => outcome?,
        }
        self.run_netns_ready = true;
        Ok(())
    }
}

/// Counts a write, which may be the one that a test makes fail.
fn counted(writes: &mut Writes) -> Result<(), Refusal> {
    writes.admit().map_err(Refusal::plain)
}

/// Whether it is a name under `/run/netns`.
pub(super) fn is_name(netns: &Netns) -> bool {
    netns.label().is_some_and(|label| !label.contains('/') && !matches!(label, "" | "." | ".."))
}

/// The file of a namespace that netrec may make or remove.
fn named(netns: &Netns) -> Result<PathBuf, Refusal> {
    if is_name(netns) {
        return Ok(path(netns));
    }
    Err(Refusal::new(libc::EINVAL, format!("only namespaces under {RUN_NETNS} are netrec's to make or remove")))
}

/// The mode of the file under a name. The sticky bit, which has no meaning on files, tells those that netrec made from
/// others' should a crash leave one without its mount: iproute2 makes its own with mode 0.
const FILE_MODE: u32 = 0o1444;

/// Whether a name has only an empty file of netrec's and no namespace.
pub(super) fn left_by_crash(netns: &Netns) -> bool {
    let metadata = named(netns).ok().and_then(|path| fs::symlink_metadata(path).ok());
    metadata.is_some_and(|m| m.is_file() && m.len() == 0 && m.mode() & 0o1000 != 0)
}

/// Makes the file for a name, or takes the empty one that a crash left; says whether it was made.
fn claim(path: &Path, writes: &mut Writes) -> Result<bool, Refusal> {
    counted(writes)?;
    match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path) {
        Ok(_) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    if Handle::open(path)?.is_some() {
        return Err(Refusal::new(libc::EEXIST, "a namespace of that name is there already"));
    }
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_file() && metadata.len() == 0 {
        return Ok(false);
    }
    Err(Refusal::new(libc::EEXIST, format!("{} is a file of somebody else's", path.display())))
}

/// The namespaces under `/run/netns`, by name.
pub(super) fn names() -> io::Result<Vec<Netns>> {
    let entries = match fs::read_dir(RUN_NETNS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Some(name) = entry?.file_name().to_str() {
            names.push(Netns::new(name));
        }
    }
    names.sort();
    Ok(names)
}

/// The namespaces of all mounts and processes, as far as they may be seen, each once, with a path to it.
pub(super) fn everywhere() -> Vec<(Id, PathBuf)> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let mounted = mounts.lines().filter_map(mounted_namespace);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|e| e.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit));
    let mut found: HashMap<Id, PathBuf> = HashMap::new();
    for path in mounted.chain(processes.map(|e| e.path().join("ns/net"))) {
        if let Ok(metadata) = fs::metadata(&path) {
            found.entry(id_of(&metadata)).or_insert(path);
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort();
    found
}

/// The mount point in a line of `mountinfo` (see `proc_pid_mountinfo(5)`) about a network namespace: its fourth field is
/// `net:[INODE]`, its fifth the path, with a backslash and three octal digits for white space and backslashes.
fn mounted_namespace(line: &str) -> Option<PathBuf> {
    let mut fields = line.split(' ').skip(3);
    if !fields.next()?.starts_with("net:[") {
        return None;
    }
    let (mut path, mut rest) = (Vec::new(), fields.next()?.as_bytes());
    while let Some((first, others)) = rest.split_first() {
        match others.get(..3).and_then(|code| u8::from_str_radix(str::from_utf8(code).ok()?, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                path.push(byte);
                rest = &others[3..];
            }
            _ => {
                path.push(*first);
                rest = others;
            }
        }
    }
    Some(OsString::from_vec(path).into())
}

/// Raises the number of open files to what the system allows, and says how many that is.
pub(super) fn raise_descriptor_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let reached = if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    usize::try_from(reached).unwrap_or(usize::MAX)
}
