//! Queueing disciplines, and the filter that sends what comes in by a device through another one.
//!
//! A root one of netrec's is told by its handle. The hook for what comes in has a handle that the kernel gives (`ffff:`), and
//! is netrec's where netrec's filter is, which is told by its preference, or where nothing hangs on it and the device is there
//! that such a filter would send to. The crate has no types for `tbf`; its options are
//! `struct tc_tbf_qopt` (`linux/pkt_sched.h`).

use nix::libc;
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcHeader, TcMessage, TcMirror, TcOption, TcU32Key,
    TcU32Selector, TcU32SelectorFlags,
};

use super::super::transport::{DumpError, Refusal, Request, Socket};
use super::{Attributes, text_of, u32_at};
use crate::state::{Hook, Qdisc, Rate};

// linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// `struct tcmsg`.
const HEADER: usize = 20;
/// `struct tc_u32_sel` without its keys, each of 16 bytes.
const SELECTOR: usize = 16;
/// `ETH_P_ALL` (`linux/if_ether.h`).
const ETH_P_ALL: u16 = 3;
/// The unit of a bucket's size, in nanoseconds (`PSCHED_SHIFT`).
const TICK_NS: u64 = 64;

/// The major number of the handle of netrec's root disciplines: `nr`.
const HANDLE: u16 = 0x6e72;
/// That of one which is there for a moment only, in place of the one before and until the one after.
const HANDLE_BETWEEN: u16 = 0x6e73;
/// The preference of netrec's filter; after those of most others, which then see packets as before.
const PREFERENCE: u16 = 20050;

/// A queueing discipline as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawQdisc {
    /// The index of its device.
    pub index: u32,
    pub hook: Hook,
    /// What it is; whether a hook has netrec's filter is told elsewhere.
    pub qdisc: Qdisc,
    /// Whether it is netrec's by its handle.
    pub marked: bool,
}

/// All that are not the kernel's own choice, of all devices of a namespace.
pub(crate) fn dump(socket: &mut Socket) -> Result<Vec<RawQdisc>, DumpError> {
    socket.dump(&RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()), parse)
}

/// One on a device itself, and not below another. The kernel's default has no handle.
pub(super) fn parse(body: &[u8]) -> Option<RawQdisc> {
    let (index, handle, parent) = (u32_at(body, 4)?, u32_at(body, 8)?, TcHandle::from(u32_at(body, 12)?));
    let handle = Some(TcHandle::from(handle)).filter(|handle| *handle != TcHandle::UNSPEC)?;
    let attributes = || Attributes::new(body.get(HEADER..).unwrap_or_default());
    let kind = attributes().value(TCA_KIND).and_then(text_of)?;
    let other = || Qdisc::Other { name: kind.to_owned() };
    let (hook, marked, qdisc) = match (parent, kind) {
        (TcHandle::ROOT, "tbf") if handle.major == HANDLE => {
            let tbf = attributes().value(TCA_OPTIONS).and_then(parse_bucket);
            (Hook::Root, true, tbf.unwrap_or_else(other))
        }
        (TcHandle::ROOT, _) => (Hook::Root, matches!(handle.major, HANDLE | HANDLE_BETWEEN), other()),
        (TcHandle::CLSACT, "clsact") => (Hook::Ingress, false, Qdisc::Clsact { redirect: None }),
        (TcHandle::INGRESS, _) => (Hook::Ingress, false, other()),
        _ => return None,
    };
    Some(RawQdisc { index, hook, qdisc, marked })
}

/// Two `struct tc_ratespec` of 12 bytes, the first with the rate in bytes per second at 8; the limit, the bucket and a size.
fn parse_bucket(options: &[u8]) -> Option<Qdisc> {
    let options = || Attributes::new(options);
    let parameters = options().value(TCA_TBF_PARMS)?;
    let large = options().value(TCA_TBF_RATE64).and_then(|v| Some(u64::from_ne_bytes(v.try_into().ok()?)));
    let bytes = large.or_else(|| u32_at(parameters, 8).map(u64::from))?;
    let ticks = u64::from(u32_at(parameters, 28)?);
    Some(Qdisc::Tbf {
        rate: Rate::from_bits(bytes.saturating_mul(8)),
        // To the nearest: a tick is less than a microsecond, so that each has one that it comes back from.
        burst_us: u32::try_from((ticks * TICK_NS + 500) / 1000).unwrap_or(u32::MAX),
        limit: u32_at(parameters, 24)?,
    })
}

/// What hangs on the hook of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filters {
    /// Nothing at all.
    None,
    /// Others' only.
    Others,
    /// netrec's, which sends all packets to the device of this index; 0 where it has lost its device or does something else.
    Ours(u32),
}

/// What hangs on the hook (`clsact`) of a device, in both directions.
pub(crate) fn filters(socket: &mut Socket, index: u32) -> Result<Filters, DumpError> {
    let mut request = TcMessage::default();
    request.header.index = index.cast_signed();
    let mut found = Filters::None;
    for parent in [incoming(), outgoing()] {
        request.header.parent = parent;
        let listed =
            socket.dump(&RouteNetlinkMessage::GetTrafficFilter(request.clone()), |body| Some(parse_filter(body)))?;
        if let Some(to) = listed.iter().filter_map(|to| *to).max() {
            return Ok(Filters::Ours(to));
        }
        if !listed.is_empty() {
            found = Filters::Others;
        }
    }
    Ok(found)
}

/// Of netrec's filter, where it sends all packets to; 0 where it does not, or where this part of it is about its table.
pub(super) fn parse_filter(body: &[u8]) -> Option<u32> {
    // The preference in the upper half, the protocol in the lower.
    if u32_at(body, 16)? >> 16 != u32::from(PREFERENCE) {
        return None;
    }
    let attributes = Attributes::new(body.get(HEADER..)?);
    Some(attributes.value(TCA_OPTIONS).and_then(parse_redirect).unwrap_or(0))
}

fn parse_redirect(options: &[u8]) -> Option<u32> {
    let options = || Attributes::new(options);
    // A key is a mask and a value: with no bit in the mask it matches everything.
    let keys = options().value(TCA_U32_SEL)?.get(SELECTOR..)?;
    if keys.chunks(SELECTOR).any(|key| u32_at(key, 0) != Some(0)) {
        return None;
    }
    let mut actions = Attributes::new(options().value(TCA_U32_ACT)?);
    let (_, action) = actions.next()?;
    if actions.next().is_some() || Attributes::new(action).value(TCA_ACT_KIND).and_then(text_of) != Some("mirred") {
        return None;
    }
    // `struct tc_mirred`: index, capabilities, action, two counts, what is done, and the device.
    let parameters = Attributes::new(Attributes::new(action).value(TCA_ACT_OPTIONS)?).value(TCA_MIRRED_PARMS)?;
    let redirects = (u32_at(parameters, 8)?, u32_at(parameters, 20)?) == (TC_ACT_STOLEN, TCA_EGRESS_REDIR);
    u32_at(parameters, 24).filter(|_| redirects)
}

/// How a discipline takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Where there is none but the kernel's default.
    New,
    /// By a change of the one that is there, of the same kind; what waits in it stays.
    Change,
    /// In the place of the one that is there, for a moment: without what waits in that.
    Between,
}

/// Whether a change of one into the other could bring all traffic to a halt: a packet that waits already and is larger than
/// the bucket becomes would wait for ever (`tbf_dequeue`). New ones are cut up before they wait.
pub(crate) fn shrinks(before: &Qdisc, after: &Qdisc) -> bool {
    let bytes = |qdisc: &Qdisc| match qdisc {
        Qdisc::Tbf { rate, burst_us, .. } => rate.bytes().saturating_mul(u64::from(*burst_us)),
        _ => 0,
    };
    bytes(after) < bytes(before)
}

/// Sets a discipline on a device.
pub(crate) fn set(index: u32, qdisc: &Qdisc, way: Way) -> Result<Request, Refusal> {
    let (hook, kind, options) = match qdisc {
        Qdisc::Tbf { rate, burst_us, limit } => (Hook::Root, "tbf", Some(bucket(*rate, *burst_us, *limit))),
        Qdisc::Clsact { .. } => (Hook::Ingress, "clsact", None),
        Qdisc::Other { name } => {
            return Err(Refusal::new(libc::EOPNOTSUPP, format!("netrec makes no queueing disciplines of kind {name}")));
        }
    };
    let mut message = at(index, hook);
    if hook == Hook::Root {
        let major = if way == Way::Between { HANDLE_BETWEEN } else { HANDLE };
        message.header.handle = TcHandle { major, minor: 0 };
    }
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message.attributes.extend(options.map(TcAttribute::Options));
    let flags = NLM_F_CREATE | if way == Way::New { NLM_F_EXCL } else { NLM_F_REPLACE };
    Ok(Request { message: RouteNetlinkMessage::NewQueueDiscipline(message), flags })
}

/// Removes a discipline, with its filters.
pub(crate) fn delete(index: u32, hook: Hook) -> Request {
    Request { message: RouteNetlinkMessage::DelQueueDiscipline(at(index, hook)), flags: 0 }
}

fn bucket(rate: Rate, burst_us: u32, limit: u32) -> Vec<TcOption> {
    let small = u32::try_from(rate.bytes()).unwrap_or(u32::MAX);
    let ticks = u64::from(burst_us) * 1000 / TICK_NS;
    let mut parameters = Vec::with_capacity(36);
    // Without a link layer the kernel would want a table of times for packets of all sizes (`TCA_TBF_RTAB`).
    parameters.extend([0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0]);
    parameters.extend(small.to_ne_bytes());
    parameters.extend([0; 12]); // no second bucket
    parameters.extend(limit.to_ne_bytes());
    parameters.extend(u32::try_from(ticks).unwrap_or(u32::MAX).to_ne_bytes());
    parameters.extend([0; 4]);
    let mut options = vec![TcOption::Other(DefaultNla::new(TCA_TBF_PARMS, parameters))];
    // More than the 32 bits of `tc_ratespec` hold. The kernel takes a smaller one for no value at all.
    if rate.bytes() > u64::from(u32::MAX) {
        options.push(TcOption::Other(DefaultNla::new(TCA_TBF_RATE64, rate.bytes().to_ne_bytes().to_vec())));
    }
    options
}

/// Sends all that comes in by a device to another one, whose index is `to`. There must be no filter of netrec's yet.
pub(crate) fn add_redirect(index: u32, to: u32) -> Request {
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    (mirror.generic, mirror.ifindex) = (generic, to); // out of it, by default
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let mut message = filter(index);
    message.attributes = vec![
        // `matchall` would say it with less, and fewer kernels have it.
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(selector)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ];
    Request { message: RouteNetlinkMessage::NewTrafficFilter(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// Removes netrec's filter.
pub(crate) fn delete_redirect(index: u32) -> Request {
    Request { message: RouteNetlinkMessage::DelTrafficFilter(filter(index)), flags: 0 }
}

fn filter(index: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index.cast_signed();
    message.header.parent = incoming();
    message.header.info = u32::from(PREFERENCE) << 16 | u32::from(ETH_P_ALL.to_be());
    message
}

/// Where filters for what comes in hang.
fn incoming() -> TcHandle {
    TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS }
}

/// Where those for what goes out hang, on the same hook.
fn outgoing() -> TcHandle {
    TcHandle { major: u16::MAX, minor: TcHandle::MIN_EGRESS }
}

fn at(index: u32, hook: Hook) -> TcMessage {
    let (parent, handle) = match hook {
        Hook::Root => (TcHandle::ROOT, TcHandle::UNSPEC),
        Hook::Ingress => (TcHandle::CLSACT, TcHandle { major: u16::MAX, minor: 0 }),
    };
    let mut message = TcMessage::default();
    message.header = TcHeader { index: index.cast_signed(), handle, parent, ..TcHeader::default() };
    message
}
