//! The nfnetlink socket: requests, dumps, batches, the ruleset's generation, and who changed it last.

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::Socket as NetlinkSocket;

use super::wire::{ACK, Attributes, DONE, DUMP, DUMP_INTR, ERROR, Fault, INET, Message, Slots, Writer, messages};

/// `NETLINK_NETFILTER`.
const NETFILTER: isize = 12;
/// `NFNL_SUBSYS_NFTABLES`, the high byte of its messages' types.
const SUBSYSTEM: u16 = 10;
/// Dumps come in datagrams of at most 32 KB (`netlink_recvmsg()`).
const DATAGRAM: usize = 1 << 16;
/// Room for the answers to a batch of which every message is wrong.
const RECEIVE_BUFFER: usize = 8 << 20;
/// What the socket is given beyond the batch it sends, for the kernel's own use.
const SEND_SLACK: usize = 1 << 16;

/// A message type of nftables (`enum nf_tables_msg_types`).
pub(super) const fn nft(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// `NFT_MSG_NEWGEN`.
const NEWGEN: u16 = 15;
/// `NFT_MSG_GETGEN`.
const GETGEN: u16 = 16;

/// What can go wrong in talking to the kernel.
#[derive(Debug)]
pub(super) enum Trouble {
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
    pub(super) fn errno(&self) -> i32 {
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
pub(super) fn in_words(fault: &Fault) -> String {
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
pub(super) struct Socket {
    netlink: NetlinkSocket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let mut netlink = NetlinkSocket::new(NETFILTER)?;
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
    pub(super) fn sequence(&mut self, count: u32) -> u32 {
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

    /// One request, one answer.
    pub(super) fn request<T>(
        &mut self,
        kind: u16,
        fill: impl FnOnce(&mut Writer),
        read: impl FnOnce(Attributes<'_>) -> Option<T>,
    ) -> Result<T, Trouble> {
        let sequence = self.sequence(1);
        let mut w = Writer::default();
        w.message(nft(kind), 0, sequence, (INET, 0), fill);
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
    pub(super) fn dump(
        &mut self,
        kind: u16,
        fill: impl FnOnce(&mut Writer),
        mut take: impl FnMut(Message<'_>),
    ) -> Result<(), Trouble> {
        let sequence = self.sequence(1);
        let mut w = Writer::default();
        w.message(nft(kind), DUMP, sequence, (INET, 0), fill);
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

    /// The number of the ruleset's generation: every transaction on the namespace's tables, whosever, is one more.
    pub(super) fn generation(&mut self) -> Result<u32, Trouble> {
        self.request(GETGEN, |_| {}, |attributes| Some(generation(attributes)?.id))
    }

    /// Sends a batch whose messages have sequence numbers from `first` on and whose last but one asks for an
    /// acknowledgement, and returns the first refusal with its sequence number.
    ///
    /// The kernel carries a batch out within `send()`, so that all answers are there when it returns.
    pub(super) fn batch(&mut self, bytes: &[u8]) -> Result<Option<(u32, Fault)>, Trouble> {
        let room = bytes.len() + SEND_SLACK;
        if setsockopt(&self.netlink, sockopt::SndBufForce, &room).is_err() {
            let _ = setsockopt(&self.netlink, sockopt::SndBuf, &room);
        }
        self.netlink.send(bytes, 0).map_err(|error| match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Trouble::TooLong(bytes.len()),
            _ => error.into(),
        })?;
        let mut acknowledged = false;
        let mut refused = None;
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
                let fault = Fault::parse(message).ok_or(Trouble::Garbled)?;
                if fault.errno == 0 {
                    acknowledged = true;
                } else {
                    refused.get_or_insert((message.sequence, fault));
                }
            }
        }
        match (refused, lost) {
            (Some(refused), _) => Ok(Some(refused)),
            (None, Some(error)) => Err(error.into()),
            (None, None) if acknowledged => Ok(None),
            (None, None) => Err(Trouble::Garbled),
        }
    }

    fn drain(&mut self) {
        while self.receive(libc::MSG_DONTWAIT).is_ok() {}
    }
}

/// `NFNL_MSG_BATCH_BEGIN`, with the generation that the transaction needs (`NFNL_BATCH_GENID`).
pub(super) fn begin(w: &mut Writer, sequence: u32, generation: u32) {
    const BATCH_BEGIN: u16 = 0x10;
    const BATCH_GENID: u16 = 1;
    w.message(BATCH_BEGIN, 0, sequence, (0, SUBSYSTEM), |w| w.put_u32(BATCH_GENID, generation));
}

/// `NFNL_MSG_BATCH_END`; `last` is where the message before it starts, which is the one acknowledged.
pub(super) fn end(w: &mut Writer, sequence: u32, last: usize) {
    const BATCH_END: u16 = 0x11;
    w.add_flag(last, ACK);
    w.message(BATCH_END, 0, sequence, (0, SUBSYSTEM), |_| {});
}

/// A generation, and who made it.
struct Generation {
    id: u32,
    by: Option<String>,
}

fn generation(attributes: Attributes<'_>) -> Option<Generation> {
    const ID: u16 = 1;
    const PROC_PID: u16 = 2;
    const PROC_NAME: u16 = 3;
    let all = Slots::new(attributes);
    let by = all.text(PROC_NAME).zip(all.u32(PROC_PID)).map(|(name, pid)| format!("{name} (process {pid})"));
    Some(Generation { id: all.u32(ID)?, by })
}

/// Hears who changes the ruleset.
///
/// `NFT_MSG_GETGEN` has a process id and a name too, but they are the asker's (`nf_tables_fill_gen_info()` takes
/// `current`); only the notification of a change names who made it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
}

impl Listener {
    /// `NFNLGRP_NFTABLES`.
    const GROUP: u32 = 7;

    pub(super) fn open() -> io::Result<Self> {
        let listener = Self { socket: Socket::open()? };
        keep_only(&listener.socket.netlink, nft(NEWGEN))?;
        listener.resume()?;
        Ok(listener)
    }

    /// Stops listening: while nobody does, the kernel need not write notifications.
    pub(super) fn pause(&self) -> io::Result<()> {
        self.socket.netlink.drop_membership(Self::GROUP)
    }

    pub(super) fn resume(&self) -> io::Result<()> {
        self.socket.netlink.add_membership(Self::GROUP)
    }

    /// Who changed the ruleset last since this was asked for the last time; none when nobody did or too many.
    pub(super) fn last(&mut self) -> Option<String> {
        let mut last = None;
        loop {
            match self.socket.receive(libc::MSG_DONTWAIT) {
                Ok(bytes) => {
                    for message in messages(bytes) {
                        last = generation(message.attributes()).and_then(|generation| generation.by);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return last,
                Err(_) => {
                    self.socket.drain();
                    return None;
                }
            }
        }
    }
}

/// Has the kernel drop all datagrams but those whose first message is of this type, so that a transaction of thousands
/// of elements does not fill the receive buffer with notifications of each.
fn keep_only(socket: &NetlinkSocket, kind: u16) -> io::Result<()> {
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
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
