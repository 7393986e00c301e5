//! Why a packet was dropped: the kernel tells of each rule that a marked packet comes by (`nft monitor trace`).
//!
//! The mark is set by a rule in a table of its own, before all other chains. The table belongs to its socket
//! (`NFT_TABLE_F_OWNER`), so that the kernel removes it with the socket, and with the process if that is killed.
//!
//! The kernel makes a packet's number of, among others, the device that it came by last (`nft_trace_init()`). With
//! `br_netfilter` a packet of a container passes the prerouting hook while it is bridged, by the bridge's port, and the
//! others when the bridge has handed it up, by the bridge: it gets a second number on its way. So the packets of a flow
//! are told a second time, by connection tracking, where routing has been done.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, PipeReader, PipeWriter};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::insn::{Insn, put_nftrace, put_original};
use super::read::{GETRULE, NEWRULE, parse_rule};
use super::rule::compile;
use super::ruleset::{self, INET, nft};
use super::write::{NEWCHAIN, NEWTABLE, put_hook};
use crate::kernel::StepError;
use crate::kernel::nfnetlink::socket::{Socket, Trouble};
use crate::kernel::nfnetlink::wire::{APPEND, CREATE, Message, Slots, Writer};
use crate::kernel::probe::{Space, Transport};
use crate::state::firewall::{BaseChain, ChainKind, Datum, Expr, Field, Hook, Policy, Rule, Verdict};

/// `NFNLGRP_NFTRACE`.
const GROUP: u32 = 9;
/// `NFT_MSG_TRACE`.
const TRACE: u16 = 17;
/// `NFT_TABLE_F_OWNER`, of Linux 5.12.
const TABLE_OWNER: u32 = 2;
/// Before connection tracking and the chains before that: `NF_IP_PRI_RAW` is -300. Before defragmentation
/// (`NF_IP_PRI_CONNTRACK_DEFRAG`, -400) packets need not have ports.
const PRIORITY: i32 = -350;

/// The last of all chains.
const LAST: i32 = i32::MAX;

/// The chain of the own table that has a rule for each flow, by what its packets are when they come.
const FLOWS: &str = "flows";
/// The one that has a rule for each, by what connection tracking knows them to have been then.
const TRACKED: &str = "tracked";
/// The last chain on the way out, and the last on the way in: who gets to their ends has passed all others.
const SENT: &str = "sent";
const TAKEN: &str = "taken";

/// The base chains of the own table: name, hook, priority, and the chain that they lead to.
const BASE_CHAINS: [(&str, Hook, i32, Option<&str>); 6] = [
    ("in", Hook::Prerouting, PRIORITY, Some(FLOWS)),
    ("out", Hook::Output, PRIORITY, Some(FLOWS)),
    ("forwarded", Hook::Forward, PRIORITY, Some(TRACKED)),
    ("local", Hook::Input, PRIORITY, Some(TRACKED)),
    (SENT, Hook::Postrouting, LAST, None),
    (TAKEN, Hook::Input, LAST, None),
];
/// Flows per transaction: some 80 KB, which is within what `net.core.wmem_max` commonly allows without root.
const BATCH: usize = 50;

/// What packets to watch, by what they are when they get to the namespace: those of a published port have its address
/// and port, not those that they are translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where they come from; none for anywhere.
    pub from: Option<IpAddr>,
    /// Where they go.
    pub to: IpAddr,
    /// The protocol and the port that they go to; none for all that is ICMP.
    pub port: Option<(Transport, u16)>,
}

/// Watches what becomes of packets in one namespace, on their way in and out, until dropped.
///
/// It adds a table of its own, `inet netrec-trace-PID-NUMBER`, and takes it away. Both change the generation of the
/// ruleset, so that a plan that was read before cannot be carried out any more.
#[derive(Debug)]
pub struct Trace {
    /// What the table belongs to.
    rules: Socket,
    ear: Arc<Mutex<Ear>>,
    /// When this is dropped, the thread ends.
    stop: Option<PipeWriter>,
    /// Empties the socket all the time: without root it has little room for messages (`net.core.rmem_max`).
    thread: Option<JoinHandle<()>>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the kernel has told.
#[derive(Debug)]
struct Ear {
    socket: Socket,
    table: String,
    /// The rule of each flow in each chain that has them.
    handles: [Vec<Handle>; 2],
    /// Packets, each with a flow that it is of. Others may be traced by others.
    marked: BTreeSet<(u32, usize)>,
    /// Packets that have passed all chains, each with the hook that it left netfilter by.
    passed: Vec<(u32, Hook)>,
    /// Packets, each with what it was dropped by.
    drops: Vec<(u32, Told)>,
}

/// By what a packet was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The table with its family: `inet netrec`.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's place in the chain, counted from 1; none where it was the chain's policy, or where the rule has gone.
    pub rule: Option<usize>,
    /// The rule as `nft` would print it, as far as netrec knows its parts; `policy drop`.
    pub text: String,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, chain, rule, text } = self;
        write!(f, "dropped in table {table}, chain {chain}")?;
        match rule {
            Some(rule) => write!(f, ", by rule {rule}: {text}"),
            None => write!(f, ": {text}"),
        }
    }
}

/// What the kernel tells of a packet.
#[derive(Debug)]
struct Told {
    family: u8,
    table: String,
    chain: String,
    /// None for the policy.
    rule: Option<Handle>,
    dropped: bool,
}

/// `NFTA_RULE_HANDLE`, in network byte order.
type Handle = [u8; 8];

impl Trace {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the namespace cannot be entered, without `CAP_NET_ADMIN` over it, or before Linux 5.12.
    pub fn open(space: &Space, flows: &[Flow]) -> Result<Self, StepError> {
        let opened = space.within(|| Self::open_here(flows)).unwrap_or_else(|error| Err(error.into()));
        opened.map_err(|trouble| StepError {
            errno: trouble.errno(),
            message: format!("trace dropped packets: {trouble}"),
        })
    }

    fn open_here(flows: &[Flow]) -> Result<Self, Trouble> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let table = format!("netrec-trace-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut rules = Socket::open()?;
        add_table(&mut rules, &table)?;
        for flows in flows.chunks(BATCH) {
            add_flows(&mut rules, &table, flows)?;
        }
        let mut handles = [Vec::new(), Vec::new()];
        for (handles, name) in handles.iter_mut().zip([FLOWS, TRACKED]) {
            *handles = chain(&mut rules, INET, [&table, name])?.into_iter().map(|(handle, _)| handle).collect();
        }
        let socket = Socket::open()?;
        socket.join(GROUP)?;
        let told = socket.descriptor()?;
        let ear = Arc::new(Mutex::new(Ear {
            socket,
            table,
            handles,
            marked: BTreeSet::new(),
            passed: Vec::new(),
            drops: Vec::new(),
        }));
        let (stopped, stop) = io::pipe()?;
        let hears = ear.clone();
        let thread = thread::Builder::new().spawn(move || keep_listening(&hears, &told, &stopped))?;
        Ok(Self { rules, ear, stop: Some(stop), thread: Some(thread) })
    }

    /// Whether a packet of a flow, by its place in the list, has come by so far.
    pub fn seen(&mut self, flow: usize) -> bool {
        listen(&self.ear).marked.iter().any(|(_, of)| *of == flow)
    }

    /// The hook by which a packet of a flow has left netfilter so far, past all its chains: [`Hook::Postrouting`] when it
    /// was sent on its way, [`Hook::Input`] when the namespace itself took it in. None for one that was
    /// [`seen`](Self::seen) when it was dropped, be it for want of a route.
    pub fn passed(&mut self, flow: usize) -> Option<Hook> {
        let ear = listen(&self.ear);
        ear.passed.iter().find(|(id, _)| ear.marked.contains(&(*id, flow))).map(|(_, hook)| *hook)
    }

    /// By what the first packet of a flow that was dropped so far was dropped. None when netfilter has dropped none: a
    /// packet that was [`seen`](Self::seen) then got lost otherwise, for want of a route or a neighbour, or in another
    /// namespace. Says nothing of answers.
    pub fn verdict(&mut self, flow: usize) -> Option<Dropped> {
        let ear = listen(&self.ear);
        let (_, told) = ear.drops.iter().find(|(id, _)| ear.marked.contains(&(*id, flow)))?;
        let (rule, text) = match told.rule {
            None => (None, "policy drop".to_owned()),
            Some(handle) => match chain(&mut self.rules, told.family, [&told.table, &told.chain]) {
                Ok(rules) => match (1..).zip(rules).find(|(_, (other, _))| *other == handle) {
                    Some((place, (_, rule))) => (Some(place), rule.to_string()),
                    None => (None, "a rule that has gone since".to_owned()),
                },
                Err(trouble) => (None, format!("a rule that cannot be read ({trouble})")),
            },
        };
        let table = format!("{} {}", family_name(told.family), told.table);
        Some(Dropped { table, chain: told.chain.clone(), rule, text })
    }
}

impl Ear {
    /// Takes in what the kernel has told since.
    fn listen(&mut self) {
        let Self { socket, table, handles, marked, passed, drops } = self;
        socket.heard(|message| {
            // What lacks a part of it is none of the messages wanted.
            let Some((id, told)) = parse(message) else { return };
            if told.table == *table {
                let place = |handles: &Vec<Handle>| handles.iter().position(|handle| told.rule == Some(*handle));
                marked.extend(handles.iter().find_map(place).map(|flow| (id, flow)));
                let end = BASE_CHAINS.iter().find(|(name, _, priority, _)| *name == told.chain && *priority == LAST);
                passed.extend(end.map(|(_, hook, ..)| (id, *hook)));
            } else if told.dropped {
                drops.push((id, told));
            }
        });
    }
}

/// What the kernel has told so far.
fn listen(ear: &Mutex<Ear>) -> MutexGuard<'_, Ear> {
    let mut ear = ear.lock().unwrap_or_else(PoisonError::into_inner);
    ear.listen();
    ear
}

/// Listens until the other end of the pipe is closed.
fn keep_listening(ear: &Mutex<Ear>, told: &OwnedFd, stopped: &PipeReader) {
    let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut polled = [wanted(stopped.as_fd()), wanted(told.as_fd())];
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) if polled[0].any() == Some(false) => drop(listen(ear)),
            Err(Errno::EINTR) => {}
            _ => return,
        }
    }
}

/// Whether a message tells of a packet.
#[cfg(feature = "fuzzing")]
pub(super) fn is_trace(message: Message<'_>) -> bool {
    parse(message).is_some()
}

/// A packet's number, and what the kernel tells of it.
fn parse(message: Message<'_>) -> Option<(u32, Told)> {
    const POLICY: u32 = 1; // NFT_TRACETYPE_POLICY
    const RULE: u32 = 3; // NFT_TRACETYPE_RULE
    const VERDICT_MASK: u32 = 0xff; // NF_VERDICT_MASK: what is above it is a queue's number or the like
    const DROP: u32 = 0; // NF_DROP
    if message.kind != nft(TRACE) {
        return None;
    }
    // NFTA_TRACE_TABLE, _CHAIN, _RULE_HANDLE, _TYPE, _VERDICT, _ID, _POLICY.
    let all = Slots::new(message.attributes());
    let (verdict, rule) = match all.u32(4)? {
        // NFTA_VERDICT_CODE; those of nf_tables itself (NFT_JUMP and so on) are negative. The end of a chain is told as a
        // rule without a handle.
        RULE => (all.nested(5)?.u32(1)?, Some(all.value(3)?.try_into().ok()?)),
        POLICY => (all.u32(16)?, None),
        _ => return None,
    };
    let told = Told {
        family: *message.payload.first()?, // of `struct nfgenmsg`
        table: all.text(1)?.to_owned(),
        chain: all.text(2)?.to_owned(),
        rule,
        dropped: verdict.cast_signed() >= 0 && verdict & VERDICT_MASK == DROP,
    };
    Some((all.u32(6)?, told))
}

/// Makes the table and its chains.
fn add_table(socket: &mut Socket, table: &str) -> Result<(), Trouble> {
    let plain = [FLOWS, TRACKED].map(|chain| (chain, None));
    let base = BASE_CHAINS.map(|(chain, hook, priority, _)| (chain, Some((hook, priority))));
    let mut batch = Batch::new(socket);
    batch.message(NEWTABLE, CREATE, |w| {
        w.put_str(1, table); // NFTA_TABLE_NAME
        w.put_u32(2, TABLE_OWNER); // NFTA_TABLE_FLAGS
    });
    for (chain, hook) in plain.into_iter().chain(base) {
        batch.message(NEWCHAIN, CREATE, |w| {
            w.put_str(1, table); // NFTA_CHAIN_TABLE
            w.put_str(3, chain); // NFTA_CHAIN_NAME
            if let Some((hook, priority)) = hook {
                let base = BaseChain { kind: ChainKind::Filter, hook, priority, policy: Policy::Accept };
                put_hook(w, base);
            }
        });
    }
    for (chain, _, _, to) in BASE_CHAINS {
        if let Some(to) = to {
            batch.rule([table, chain], &[Insn::Verdict(Verdict::Jump(to.into()))], |_| {});
        }
    }
    batch.send()
}

fn add_flows(socket: &mut Socket, table: &str, flows: &[Flow]) -> Result<(), Trouble> {
    let mut batch = Batch::new(socket);
    for flow in flows {
        let insns = compile(&packets(flow)).map_err(|_| Errno::EINVAL).map_err(io::Error::from)?;
        batch.rule([table, FLOWS], &insns, put_nftrace);
        let protocol = compile(&Rule(vec![is_protocol(flow)])).map_err(|_| Errno::EINVAL).map_err(io::Error::from)?;
        batch.rule([table, TRACKED], &protocol, |w| put_tracked(w, flow));
    }
    batch.send()
}

/// What connection tracking must know of a flow's packets, beside the protocol.
fn put_tracked(w: &mut Writer, flow: &Flow) {
    // NFT_CT_SRC_IP and _DST_IP, _SRC_IP6 and _DST_IP6, _PROTO_DST.
    let [from, to] = if flow.to.is_ipv6() { [21, 22] } else { [19, 20] };
    let mut address = |key, ip| match ip {
        IpAddr::V4(ip) => put_original(w, key, &ip.octets()),
        IpAddr::V6(ip) => put_original(w, key, &ip.octets()),
    };
    address(to, flow.to);
    if let Some(ip) = flow.from {
        address(from, ip);
    }
    if let Some((_, port)) = flow.port {
        put_original(w, 12, &port.to_be_bytes());
    }
}

/// A transaction, whatever the ruleset's generation: it concerns only what is new.
struct Batch<'a> {
    socket: &'a mut Socket,
    w: Writer,
    /// Where the last message starts.
    last: usize,
}

impl<'a> Batch<'a> {
    fn new(socket: &'a mut Socket) -> Self {
        let mut w = Writer::default();
        ruleset::begin(&mut w, socket.sequence(1), 0);
        Self { socket, w, last: 0 }
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer)) {
        self.last = self.w.len();
        self.w.message(nft(kind), flags, self.socket.sequence(1), (INET, 0), fill);
    }

    fn rule(&mut self, [table, chain]: [&str; 2], insns: &[Insn], more: impl FnOnce(&mut Writer)) {
        self.message(NEWRULE, APPEND, |w| {
            w.put_str(1, table); // NFTA_RULE_TABLE
            w.put_str(2, chain); // NFTA_RULE_CHAIN
            // NFTA_RULE_EXPRESSIONS
            w.nest(4, |w| {
                for insn in insns {
                    insn.put(w);
                }
                more(w);
            });
        });
    }

    fn send(mut self) -> Result<(), Trouble> {
        ruleset::end(&mut self.w, self.socket.sequence(1), self.last);
        match self.socket.batch(self.w.bytes())? {
            None => Ok(()),
            Some((_, fault)) => Err(Trouble::Refused(fault)),
        }
    }
}

/// The rules of a chain, in order.
fn chain(socket: &mut Socket, family: u8, [table, chain]: [&str; 2]) -> Result<Vec<(Handle, Rule)>, Trouble> {
    let mut rules = Vec::new();
    let fill = |w: &mut Writer| {
        w.put_str(1, table); // NFTA_RULE_TABLE
        w.put_str(2, chain); // NFTA_RULE_CHAIN
    };
    socket.dump((nft(GETRULE), family), fill, |message| {
        let all = Slots::new(message.attributes());
        let handle = all.value(3).and_then(|handle| handle.try_into().ok()); // NFTA_RULE_HANDLE
        // A kernel may leave the filter out of account.
        if message.kind == nft(NEWRULE) && all.text(1) == Some(table) && all.text(2) == Some(chain) {
            rules.extend(handle.map(|handle| (handle, parse_rule(&all))));
        }
    })?;
    Ok(rules)
}

/// nft's name for a family (`NFPROTO_IPV4` and so on).
fn family_name(family: u8) -> &'static str {
    match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}

fn packets(flow: &Flow) -> Rule {
    let address = |v4, v6, ip: IpAddr| match ip {
        IpAddr::V4(ip) => equals(v4, Datum::Ipv4Addr(ip)),
        IpAddr::V6(ip) => equals(v6, Datum::Ipv6Addr(ip)),
    };
    let mut exprs = vec![address(Field::IpDaddr, Field::Ip6Daddr, flow.to)];
    exprs.extend(flow.from.map(|from| address(Field::IpSaddr, Field::Ip6Saddr, from)));
    exprs.push(is_protocol(flow));
    exprs.extend(flow.port.map(|(_, port)| equals(Field::ThDport, Datum::InetService(port))));
    Rule(exprs)
}

fn is_protocol(flow: &Flow) -> Expr {
    // IPPROTO_ICMPV6, IPPROTO_ICMP.
    let icmp = if flow.to.is_ipv6() { 58 } else { 1 };
    let protocol = flow.port.map_or(icmp, |(transport, _)| transport.number());
    equals(Field::L4Proto, Datum::InetProto(protocol))
}

fn equals(field: Field, value: Datum) -> Expr {
    Expr::Match { field, negate: false, value }
}
