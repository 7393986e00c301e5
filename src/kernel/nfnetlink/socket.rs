//! The nfnetlink socket: requests, dumps, batches, notifications.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::Socket as NetlinkSocket;

use super::wire::{Attributes, DONE, DUMP, DUMP_INTR, ERROR, Fault, Message, Writer, messages};

/// `NETLINK_NETFILTER`.
const NETFILTER: isize = 12;
/// Dumps come in datagrams of at most 32 KB (`netlink_recvmsg()`).
const DATAGRAM: usize = 1 << 16;
/// Room for the answers to a batch of which every message is wrong.
const RECEIVE_BUFFER: usize = 8 << 20;
/// What the socket is given beyond the batch it sends, for the kernel's own use.
const SEND_SLACK: usize = 1 << 16;

/// What can go wrong in talking to the kernel.
#[derive(Debug)]
pub(in crate::kernel) enum Trouble {
    /// The socket itself.
    Io(io::Error),
    /// The kernel's answer to a request.
    Refused(Fault),
    /// What was being dumped changed meanwhile.
    Changed,
    /// A batch of so many bytes does not fit into the send buffer.
    TooLong(usize),
    /// An answer that makes no sense.
    Garbled,
}

impl Trouble {
    pub(in crate::kernel) fn errno(&self) -> i32 {
        match self {
            Self::Io(error) => error.raw_os_error().unwrap_or(0),
            Self::Refused(fault) => fault.errno,
            Self::TooLong(_) => libc::EMSGSIZE,
            Self::Changed | Self::Garbled => 0,
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Refused(fault) => f.write_str(&in_words(fault)),
            Self::Changed => f.write_str("it kept changing while it was read"),
            Self::TooLong(len) => write!(
                f,
                "one transaction of {len} bytes, which without root is more than net.core.wmem_max allows (EMSGSIZE)"
            ),
            Self::Garbled => f.write_str("the kernel's answer makes no sense"),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The kernel's words, where it has any, and the name of the error.
pub(in crate::kernel) fn in_words(fault: &Fault) -> String {
    let errno = Errno::from_raw(fault.errno);
    match &fault.text {
        Some(text) => format!("{text} ({errno:?})"),
        None => format!("{} ({errno:?})", errno.desc()),
    }
}

fn refusal(message: Message<'_>) -> Trouble {
    Fault::parse(message).map_or(Trouble::Garbled, Trouble::Refused)
}

/// One socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(in crate::kernel) struct Socket {
    netlink: NetlinkSocket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Socket {
    pub(in crate::kernel) fn open() -> io::Result<Self> {
        Self::open_for(NETFILTER)
    }

    /// A socket of another netlink family.
    pub(in crate::kernel) fn open_for(family: isize) -> io::Result<Self> {
        let mut netlink = NetlinkSocket::new(family)?;
        netlink.bind_auto()?;
        netlink.set_ext_ack(true)?;
        netlink.set_cap_ack(true)?;
        // Beyond the limits of `net.core` only root of the whole host may go, not that of a user namespace.
        if setsockopt(&netlink, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = setsockopt(&netlink, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
        Ok(Self { netlink, buffer: Vec::with_capacity(DATAGRAM), sequence: 0 })
    }

    /// Sequence numbers for so many messages: the first of them.
    pub(in crate::kernel) fn sequence(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    fn receive(&mut self, flags: libc::c_int) -> io::Result<&[u8]> {
        self.buffer.clear();
        self.buffer.reserve(DATAGRAM);
        // With MSG_TRUNC the length is that of the datagram, also where it does not fit.
        let len = self.netlink.recv(&mut self.buffer, libc::MSG_TRUNC | flags)?;
        if len > self.buffer.len() { Err(Errno::EMSGSIZE.into()) } else { Ok(&self.buffer) }
    }

    /// One request of this type for this family, one answer.
    pub(in crate::kernel) fn request<T>(
        &mut self,
        (kind, family): (u16, u8),
        fill: impl FnOnce(&mut Writer),
        read: impl FnOnce(Attributes<'_>) -> Option<T>,
    ) -> Result<T, Trouble> {
        let sequence = self.sequence(1);
        let mut w = Writer::default();
        w.message(kind, 0, sequence, (family, 0), fill);
        self.netlink.send(w.bytes(), 0)?;
        loop {
            let bytes = self.receive(0)?;
            if let Some(message) = messages(bytes).find(|message| message.sequence == sequence) {
                if message.kind == ERROR {
                    return Err(refusal(message));
                }
                return read(message.attributes()).ok_or(Trouble::Garbled);
            }
        }
    }

    /// All messages of a dump, each given to `take` as it comes.
    pub(in crate::kernel) fn dump(
        &mut self,
        (kind, family): (u16, u8),
        fill: impl FnOnce(&mut Writer),
        take: impl FnMut(Message<'_>),
    ) -> Result<(), Trouble> {
        self.dump_of(kind, &[family, 0, 0, 0], fill, take)
    }

    /// The same for a message with another header.
    pub(in crate::kernel) fn dump_of(
        &mut self,
        kind: u16,
        header: &[u8],
        fill: impl FnOnce(&mut Writer),
        mut take: impl FnMut(Message<'_>),
    ) -> Result<(), Trouble> {
        let sequence = self.sequence(1);
        let mut w = Writer::default();
        w.message_of(kind, DUMP, sequence, header, fill);
        self.netlink.send(w.bytes(), 0)?;
        let mut changed = false;
        loop {
            let bytes = self.receive(0)?;
            for message in messages(bytes).filter(|message| message.sequence == sequence) {
                changed |= message.flags & DUMP_INTR != 0;
                match message.kind {
                    ERROR => return Err(refusal(message)),
                    // It carries an error number too.
                    DONE => {
                        return match Fault::parse(message) {
                            Some(fault) if fault.errno != 0 => Err(Trouble::Refused(fault)),
                            _ if changed => Err(Trouble::Changed),
                            _ => Ok(()),
                        };
                    }
                    _ => take(message),
                }
            }
        }
    }

    /// Sends messages and hands every answer, with the sequence number of its message, to `take`: refusals, and an
    /// acknowledgement (number 0) where one was asked for.
    ///
    /// The kernel carries the messages out within `send()`, so that all answers are there when it returns.
    pub(in crate::kernel) fn exchange(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(u32, Fault),
    ) -> Result<(), Trouble> {
        let room = bytes.len() + SEND_SLACK;
        if setsockopt(&self.netlink, sockopt::SndBufForce, &room).is_err() {
            let _ = setsockopt(&self.netlink, sockopt::SndBuf, &room);
        }
        self.netlink.send(bytes, 0).map_err(|error| match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Trouble::TooLong(bytes.len()),
            _ => error.into(),
        })?;
        let mut lost = None;
        loop {
            let bytes = match self.receive(libc::MSG_DONTWAIT) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // More answers than there is room for; the first ones are there.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    lost = Some(error);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for message in messages(bytes).filter(|message| message.kind == ERROR) {
                take(message.sequence, Fault::parse(message).ok_or(Trouble::Garbled)?);
            }
        }
        lost.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Sends a batch whose last message but one asks for an acknowledgement, and returns the first refusal with its
    /// sequence number.
    pub(in crate::kernel) fn batch(&mut self, bytes: &[u8]) -> Result<Option<(u32, Fault)>, Trouble> {
        let mut acknowledged = false;
        let mut refused = None;
        let outcome = self.exchange(bytes, |sequence, fault| {
            if fault.errno == 0 {
                acknowledged = true;
            } else {
                refused.get_or_insert((sequence, fault));
            }
        });
        match refused {
            Some(refused) => Ok(Some(refused)),
            None => match outcome {
                Ok(()) if !acknowledged => Err(Trouble::Garbled),
                outcome => outcome.map(|()| None),
            },
        }
    }

    /// Hears the notifications of a group.
    pub(in crate::kernel) fn join(&self, group: u32) -> io::Result<()> {
        self.netlink.add_membership(group)
    }

    /// Hears them no longer.
    pub(in crate::kernel) fn leave(&self, group: u32) -> io::Result<()> {
        self.netlink.drop_membership(group)
    }

    /// A descriptor of its own, to wait for notifications while the socket is in use.
    pub(in crate::kernel) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.netlink.as_fd().try_clone_to_owned()
    }

    /// The notifications that have come: each is given to `take`. False when some were lost.
    pub(in crate::kernel) fn heard(&mut self, mut take: impl FnMut(Message<'_>)) -> bool {
        let mut all = true;
        loop {
            match self.receive(libc::MSG_DONTWAIT) {
                Ok(bytes) => messages(bytes).for_each(&mut take),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return all,
                // Those that there was room for come next.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => all = false,
                Err(_) => return false,
            }
        }
    }

    /// Has the kernel drop all datagrams but those whose first message is of this type, so that a transaction of thousands
    /// of elements does not fill the receive buffer with notifications of each.
    pub(in crate::kernel) fn keep_only(&self, kind: u16) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
        const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
        const RETURN: u16 = 0x06; // BPF_RET | BPF_K
        let op = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
        // A filter loads in network order what netlink has in host order.
        let kind = u32::from(kind.to_be());
        let mut code =
            [op(LOAD_HALF, 4, 0, 0), op(JUMP_EQUAL, kind, 0, 1), op(RETURN, u32::MAX, 0, 0), op(RETURN, 0, 0, 0)];
        let program = libc::sock_fprog { len: 4, filter: code.as_mut_ptr() };
        #[allow(unsafe_code, clippy::cast_possible_truncation)]
        // SAFETY: the option's value is a `struct sock_fprog` of that size, which points to as many instructions as it says;
        // the kernel copies both before it returns.
        let result = unsafe {
            libc::setsockopt(
                self.netlink.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        };
        Errno::result(result).map(drop).map_err(io::Error::from)
    }
}
