//! Network namespaces: entering them, the sockets that live in them, making and removing named ones.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
use super::transport::{Refusal, Request, Socket};
use crate::state::{GROUP, InterfaceName, Netns, OTHER_KIND};

/// Where names of namespaces are files, as iproute2 has it.
pub(super) const RUN_NETNS: &str = "/run/netns";
/// The namespace of the calling thread; `/proc/self` would be the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";
// linux/net_namespace.h
const NETNSA_NSID: u16 = 1;
/// `NETNSA_NSID_NOT_ASSIGNED`.
const NO_NUMBER: u32 = u32::MAX;
/// Descriptors left for other uses than cached sockets.
const SPARE_DESCRIPTORS: usize = 64;

/// A namespace's device and inode number, by which two names of one are told.
pub(super) type Id = (u64, u64);

/// The file of a namespace that has a name or path.
pub fn path(netns: &Netns) -> PathBuf {
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

    /// The number that no other namespace gets until the machine starts anew, and the inode number, which the next may get
    /// once this one is gone. The kernel tells it in the namespace's file handle since Linux 6.18 (`struct nsfs_file_handle`
    /// in linux/nsfs.h); none where it does not.
    #[allow(unsafe_code)]
    pub(super) fn lasting(&self) -> Option<(u64, u64)> {
        /// `FILEID_NSFS` of linux/exportfs.h.
        const NSFS: i32 = 0xf1;
        #[repr(C)]
        struct FileHandle {
            bytes: u32,
            kind: i32,
            id: u64,
            namespace: u32,
            inode: u32,
        }
        let bytes = u32::try_from(size_of::<FileHandle>() - 8).ok()?;
        let mut handle = FileHandle { bytes, kind: 0, id: 0, namespace: 0, inode: 0 };
        let mut mount = 0;
        // SAFETY: a handle with as much room as it says, which lies where `file_handle` has its last field.
        let done = unsafe {
            let (fd, at) = (self.file.as_raw_fd(), (&raw mut handle).cast());
            libc::name_to_handle_at(fd, c"".as_ptr(), at, &raw mut mount, libc::AT_EMPTY_PATH)
        };
        (done == 0 && handle.kind == NSFS).then_some((handle.id, handle.inode.into()))
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

/// What sentences call a namespace.
pub(super) fn whose(netns: &Netns) -> String {
    match netns.source() {
        Some(source) => format!("the namespace of {source}"),
        None if netns.is_host() => "the host's namespace".to_owned(),
        None => format!("namespace {netns}"),
    }
}

/// The identity of the namespace whose file that is.
pub(super) fn id_of(metadata: &fs::Metadata) -> Id {
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
    /// Namespaces that somebody else made and that have neither name nor path of their own, each opened once: what they
    /// were made for may have gone meanwhile, and its process number have passed on to another.
    held: HashMap<Netns, Arc<Handle>>,
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
            held: HashMap::new(),
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
        Ok(self.visit(&*self.handle(netns)?, work)?)
    }

    /// Moves the calling thread into a namespace, for good; false where there is none.
    pub(super) fn enter(&self, netns: &Netns) -> Result<bool, Refusal> {
        if netns.is_host() {
            return Ok(true);
        }
        let Some(handle) = self.find(netns)? else { return Ok(false) };
        handle.enter().map_err(not_entered)?;
        Ok(true)
    }

    /// Keeps a namespace open under a name, until that is given up by [`Self::release`].
    pub(super) fn hold(&mut self, netns: Netns, handle: Handle) {
        self.held.insert(netns, Arc::new(handle));
    }

    /// Gives up the held namespaces of which that is said.
    pub(super) fn release(&mut self, which: impl Fn(&Netns) -> bool) {
        let Self { held, sockets, .. } = self;
        held.retain(|netns, _| {
            let stays = !which(netns);
            if !stays {
                sockets.remove(netns);
            }
            stays
        });
    }

    /// Opens a namespace, or takes it as it is held open; none where there is no such.
    pub(super) fn find(&self, netns: &Netns) -> io::Result<Option<Arc<Handle>>> {
        match self.held.get(netns) {
            Some(held) => Ok(Some(held.clone())),
            None if netns.source().is_some() => Ok(None),
            None => Ok(Handle::open(&path(netns))?.map(Arc::new)),
        }
    }

    fn handle(&self, netns: &Netns) -> Result<Arc<Handle>, Refusal> {
        self.find(netns)?.ok_or_else(|| Refusal::new(libc::ENOENT, format!("{} is not there", whose(netns))))
    }

    /// A namespace's descriptor, for a message that names it; none for the host's.
    pub(super) fn descriptor(&self, netns: &Netns) -> Result<Option<OwnedFd>, Refusal> {
        if netns.is_host() {
            return Ok(None);
        }
        let file = match Arc::try_unwrap(self.handle(netns)?) {
            Ok(handle) => handle.file,
            Err(held) => held.file.try_clone()?,
        };
        Ok(Some(file.into()))
    }

    /// The host's namespace's descriptor, for a message that comes from another one.
    pub(super) fn host_descriptor(&self) -> Result<OwnedFd, Refusal> {
        Ok(self.home.file.try_clone()?.into())
    }

    /// A socket in a namespace, made at its first use.
    pub(super) fn socket(&mut self, netns: &Netns) -> Result<&mut Socket, Refusal> {
        if netns.is_host() {
            return Ok(&mut self.host);
        }
        if !self.sockets.contains_key(netns) {
            let handle = self.handle(netns)?;
            let socket = self.visit(&handle, Socket::open)??;
            self.keep(netns, handle.id, socket);
        }
        self.sockets.get_mut(netns).map(|(_, socket)| socket).ok_or_else(|| Refusal::new(libc::ENOENT, "no socket"))
    }

    /// Hands over a socket in a namespace other than the host's, for [`Self::keep`] to be given back.
    pub(super) fn lend(&mut self, netns: &Netns) -> Result<(Id, Socket), Refusal> {
        self.socket(netns)?;
        self.sockets.remove(netns).ok_or_else(|| Refusal::new(libc::EIO, "no socket"))
    }

    /// Hands over the socket in use in a namespace, if that is still the one of this name.
    pub(super) fn take_socket(&mut self, netns: &Netns, id: Id) -> Option<Socket> {
        self.sockets.remove(netns).filter(|(inside, _)| *inside == id).map(|(_, socket)| socket)
    }

    /// The number that the host gave to a namespace, as a veth's `IFLA_LINK_NETNSID` has it; [`NO_NUMBER`] where it gave
    /// none, as it does when the first veth leads there, or where there is no such namespace any more.
    pub(super) fn nsid(&mut self, netns: &Netns) -> Result<u32, Refusal> {
        let Some(handle) = self.find(netns)? else { return Ok(NO_NUMBER) };
        self.host.get(RouteNetlinkMessage::GetNsId(asked(&handle)), answered)
    }

    /// The same for one that is open, none where there is none; where `may_get` says so, it gets one then.
    pub(super) fn number(&mut self, handle: &Handle, may_get: bool) -> Result<Option<u32>, Refusal> {
        let mut number = self.host.get(RouteNetlinkMessage::GetNsId(asked(handle)), answered)?;
        if number == NO_NUMBER && may_get {
            let mut message = asked(handle);
            // Any that is free.
            message.attributes.push(NsidAttribute::Id(-1));
            let request = Request { message: RouteNetlinkMessage::NewNsId(message), flags: 0 };
            match self.host.batch(vec![request], &mut Writes::default()).pop() {
                // Somebody else was quicker.
                Some(Err(refusal)) if refusal.errno != libc::EEXIST => return Err(refusal),
                _ => number = self.host.get(RouteNetlinkMessage::GetNsId(asked(handle)), answered)?,
            }
        }
        Ok(Some(number).filter(|number| *number != NO_NUMBER))
    }

    /// The number of the host's own namespace, which has seldom one.
    pub(super) fn own_number(&mut self) -> Result<Option<u32>, Refusal> {
        let number = self.host.get(RouteNetlinkMessage::GetNsId(asked(&self.home)), answered)?;
        Ok(Some(number).filter(|number| *number != NO_NUMBER))
    }

    /// The number that a namespace gave to the host, as `IFLA_LINK_NETNSID` of what is on the host's devices has it;
    /// [`NO_NUMBER`] where it gave none.
    pub(super) fn nsid_of_host(&mut self, netns: &Netns) -> Result<u32, Refusal> {
        let message = asked(&self.home);
        self.socket(netns)?.get(RouteNetlinkMessage::GetNsId(message), answered)
    }

    /// Keeps a socket in a namespace for the next who asks.
    pub(super) fn keep(&mut self, netns: &Netns, id: Id, socket: Socket) {
        if self.sockets.len() + self.held.len() >= self.limit {
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

/// The question for the number of a namespace.
fn asked(handle: &Handle) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(handle.file.as_raw_fd().cast_unsigned()));
    message
}

/// The answer: a `struct rtgenmsg`, padded to 4 bytes, and attributes.
fn answered(body: &[u8]) -> Option<u32> {
    u32_at(Attributes::new(body.get(4..)?).value(NETNSA_NSID)?, 0)
}

/// Counts a write, which may be the one that a test makes fail.
fn counted(writes: &mut Writes) -> Result<(), Refusal> {
    writes.admit().map_err(Refusal::plain)
}

/// Whether it is a name under `/run/netns`.
pub(super) fn is_name(netns: &Netns) -> bool {
    let plain = |label: &str| !label.contains('/') && !matches!(label, "" | "." | "..");
    netns.label().is_some_and(plain) && netns.source().is_none()
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
    Err(Refusal::new(
        libc::EEXIST,
        format!("{} is somebody else's: remove it, or name the container otherwise", path.display()),
    ))
}

/// The namespaces under `/run/netns`, in order.
pub(super) fn names() -> io::Result<Vec<Netns>> {
    let entries = match fs::read_dir(RUN_NETNS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Some(name) = entry?.file_name().to_str() {
            let netns = Netns::new(name);
            // One that looks like a source goes by its path.
            let looks = netns.source().is_some();
            names.push(if looks { Netns::new(format!("{RUN_NETNS}/{name}")) } else { netns });
        }
    }
    names.sort();
    Ok(names)
}

/// The namespaces of all mounts and processes, each once, with a path to it; and the paths of those that may not be seen.
#[derive(Debug, Default)]
pub(super) struct Everywhere {
    pub found: Vec<(Id, PathBuf)>,
    pub unseen: Vec<PathBuf>,
}

/// Looks for namespaces of mounts and processes: a line of `mountinfo` and a `stat` for each. Unseen is also what can be
/// reached by no path.
pub(super) fn everywhere() -> Everywhere {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let mut found: HashMap<Id, PathBuf> = HashMap::new();
    let mut covered = Vec::new();
    for (id, path) in mounts.lines().filter_map(mounted_namespace) {
        // Something else may be mounted over it.
        if fs::metadata(&path).is_ok_and(|metadata| id_of(&metadata) == id) {
            found.entry(id).or_insert(path);
        } else {
            covered.push((id, path));
        }
    }
    let mut unseen = Vec::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.filter(|e| e.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit)) {
        let path = process.path().join("ns/net");
        match fs::metadata(&path) {
            Ok(metadata) => drop(found.entry(id_of(&metadata)).or_insert(path)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => unseen.push(path),
            // It has ended.
            Err(_) => {}
        }
    }
    unseen.extend(covered.into_iter().filter(|(id, _)| !found.contains_key(id)).map(|(_, path)| path));
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort();
    Everywhere { found, unseen }
}

/// A line of `mountinfo` (see `proc_pid_mountinfo(5)`) about a network namespace: the third field is the device's number
/// `MAJOR:MINOR`, the fourth `net:[INODE]`, the fifth the path, with a backslash and three octal digits for white space and
/// backslashes.
fn mounted_namespace(line: &str) -> Option<(Id, PathBuf)> {
    let mut fields = line.split(' ').skip(2);
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.strip_prefix("net:[")?.strip_suffix(']')?;
    let id = (libc::makedev(major.parse().ok()?, minor.parse().ok()?), inode.parse().ok()?);
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
    Some((id, OsString::from_vec(path).into()))
}

/// Whether all namespaces of the system are this process's to enter, as far as its user goes: not in a user namespace of its
/// own (user_namespaces(7)).
pub(super) fn may_enter_all() -> bool {
    let whole = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
    nix::unistd::geteuid().is_root() && fs::read_to_string("/proc/self/uid_map").is_ok_and(whole)
}

/// Raises the number of open files to what the system allows, and says how many that is.
pub(super) fn raise_descriptor_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let reached = if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    usize::try_from(reached).unwrap_or(usize::MAX)
}
