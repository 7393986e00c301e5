//! What belongs to the ruleset as a whole: its messages' types, transactions, its generation, and who changed it last.

use std::io;

use crate::kernel::nfnetlink::socket::{Socket, Trouble};
use crate::kernel::nfnetlink::wire::{ACK, Attributes, Slots, Writer};

/// `NFNL_SUBSYS_NFTABLES`, the high byte of its messages' types.
const SUBSYSTEM: u16 = 10;

/// `NFPROTO_INET`.
pub(super) const INET: u8 = 1;

/// A message type of nftables (`enum nf_tables_msg_types`).
pub(super) const fn nft(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// The same with the family that all messages are for.
pub(super) const fn inet(message: u16) -> (u16, u8) {
    (nft(message), INET)
}

/// `NFT_MSG_NEWGEN`.
const NEWGEN: u16 = 15;
/// `NFT_MSG_GETGEN`.
const GETGEN: u16 = 16;

/// The number of the ruleset's generation: every transaction on the namespace's tables, whosever, is one more.
pub(super) fn current(socket: &mut Socket) -> Result<u32, Trouble> {
    socket.request(inet(GETGEN), |_| {}, |attributes| Some(generation(attributes)?.id))
}

/// `NFNL_MSG_BATCH_BEGIN`, with the generation that the transaction needs (`NFNL_BATCH_GENID`), or 0 for any
/// (`nf_tables_valid_genid()`).
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

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;

/// A socket that is told of each new generation, and not of what each is made of.
pub(in crate::kernel) fn generations() -> io::Result<Socket> {
    let socket = Socket::open()?;
    socket.keep_only(nft(NEWGEN))?;
    socket.join(GROUP)?;
    Ok(socket)
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
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: generations()? })
    }

    /// Stops listening: while nobody does, the kernel need not write notifications.
    pub(super) fn pause(&self) -> io::Result<()> {
        self.socket.leave(GROUP)
    }

    pub(super) fn resume(&self) -> io::Result<()> {
        self.socket.join(GROUP)
    }

    /// Who changed the ruleset last since this was asked for the last time; none when nobody did or too many.
    pub(super) fn last(&mut self) -> Option<String> {
        let mut last = None;
        let all = self.socket.heard(|message| last = generation(message.attributes()).and_then(|made| made.by));
        last.filter(|_| all)
    }
}
