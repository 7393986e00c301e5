//! Rules as instructions, compiled as `nft` compiles their text, and back.
//!
//! Reading guesses an expression from the instructions and takes it only if it compiles to exactly these: what
//! [`compile`] writes is the one definition of what an expression means.

use std::net::IpAddr;

use super::data::{self, Bound, Unfit};
use super::insn::{Insn, NETWORK_HEADER, Register, Source, TRANSPORT_HEADER, Target, bits};
use crate::state::firewall::{DataType, Datum, Expr, Family, Field, Rule};

/// What a field is loaded from. The numbers are `enum nft_meta_keys`, `enum nft_ct_keys`, and offsets in the headers of
/// RFC 791, RFC 8200, RFC 9293 and RFC 768.
fn source(field: Field) -> Source {
    match field {
        Field::Iifname => Source::Meta(6),
        Field::Oifname => Source::Meta(7),
        Field::NfProto => Source::Meta(15),
        Field::L4Proto => Source::Meta(16),
        Field::IpSaddr => Source::Payload { base: NETWORK_HEADER, offset: 12, len: 4 },
        Field::IpDaddr => Source::Payload { base: NETWORK_HEADER, offset: 16, len: 4 },
        Field::Ip6Saddr => Source::Payload { base: NETWORK_HEADER, offset: 8, len: 16 },
        Field::Ip6Daddr => Source::Payload { base: NETWORK_HEADER, offset: 24, len: 16 },
        Field::ThDport => Source::Payload { base: TRANSPORT_HEADER, offset: 2, len: 2 },
        Field::TcpFlags => Source::Payload { base: TRANSPORT_HEADER, offset: 13, len: 1 },
        Field::CtState => Source::Ct(0),
        Field::CtStatus => Source::Ct(2),
        Field::CtOriginalIpDaddr => Source::CtOriginal(20),
        Field::CtOriginalIp6Daddr => Source::CtOriginal(22),
        Field::CtOriginalProtoDst => Source::CtOriginal(12),
        Field::FibDaddrType => Source::FibDaddrType,
    }
}

const FIELDS: [Field; 16] = [
    Field::Iifname,
    Field::Oifname,
    Field::NfProto,
    Field::L4Proto,
    Field::IpSaddr,
    Field::IpDaddr,
    Field::Ip6Saddr,
    Field::Ip6Daddr,
    Field::ThDport,
    Field::TcpFlags,
    Field::CtState,
    Field::CtStatus,
    Field::CtOriginalIpDaddr,
    Field::CtOriginalIp6Daddr,
    Field::CtOriginalProtoDst,
    Field::FibDaddrType,
];

/// The field that a load is of. A prefix of whole bytes loads only these, so a shorter load counts too.
fn field(loaded: Source) -> Option<Field> {
    FIELDS.into_iter().find(|field| match (source(*field), loaded) {
        (Source::Payload { base, offset, len }, Source::Payload { base: b, offset: o, len: l }) => {
            base == b && offset == o && l <= len
        }
        (known, loaded) => known == loaded,
    })
}

/// How many 32-bit registers a field takes.
fn registers(field: Field) -> Register {
    match field {
        Field::Iifname | Field::Oifname | Field::Ip6Saddr | Field::Ip6Daddr | Field::CtOriginalIp6Daddr => 4,
        _ => 1,
    }
}

/// The type of a field's values; none where they are bits.
fn data_type(field: Field) -> Option<DataType> {
    match field {
        Field::Iifname | Field::Oifname => Some(DataType::Ifname),
        Field::L4Proto => Some(DataType::InetProto),
        Field::IpSaddr | Field::IpDaddr | Field::CtOriginalIpDaddr => Some(DataType::Ipv4Addr),
        Field::Ip6Saddr | Field::Ip6Daddr | Field::CtOriginalIp6Daddr => Some(DataType::Ipv6Addr),
        Field::ThDport | Field::CtOriginalProtoDst => Some(DataType::InetService),
        Field::NfProto | Field::TcpFlags | Field::CtState | Field::CtStatus | Field::FibDaddrType => None,
    }
}

/// What a packet is known to be by an expression's turn.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    family: Option<Family>,
    tcp: bool,
}

/// The instructions of a rule.
pub(super) fn compile(rule: &Rule) -> Result<Vec<Insn>, Unfit> {
    let mut insns = Vec::new();
    let mut known = Known::default();
    for expr in &rule.0 {
        compile_expr(expr, &mut known, &mut insns).map_err(|why| format!("`{expr}` is no rule of nftables: {why}"))?;
    }
    Ok(insns)
}

/// Appends the instructions of one expression.
fn compile_expr(expr: &Expr, known: &mut Known, out: &mut Vec<Insn>) -> Result<(), Unfit> {
    for family in expr.fields().iter().filter_map(|field| field.family()) {
        match known.family {
            None => out.extend(Insn::guard(family)),
            Some(other) if other != family => return Err("no packet is both IPv4 and IPv6".into()),
            Some(_) => {}
        }
        known.family = Some(family);
    }
    if expr.fields().contains(&Field::TcpFlags) && !known.tcp {
        return Err("not every packet has TCP's flags".into());
    }
    match expr {
        Expr::Match { field, negate, value } => {
            compile_match(*field, *negate, value, out)?;
            known.tcp |= *field == Field::L4Proto && !negate && *value == Datum::InetProto(6);
        }
        Expr::AnyBit { field, bits } => {
            let mask = match field {
                Field::CtState | Field::CtStatus => bits.to_ne_bytes().to_vec(),
                Field::TcpFlags => vec![u8::try_from(*bits).map_err(|_| "there are eight flags")?],
                _ => return Err("it holds no bits".into()),
            };
            load(&[*field], out)?;
            let none = vec![0; mask.len()];
            out.push(Insn::Mask { register: 0, mask });
            out.push(Insn::Compare { register: 0, differ: true, data: none });
        }
        Expr::InSet { fields, negate, set } => {
            load(fields, out)?;
            out.push(Insn::Lookup { register: 0, set: set.clone(), invert: *negate });
        }
        Expr::Vmap { fields, map } => {
            load(fields, out)?;
            out.push(Insn::Fetch { register: 0, map: map.clone(), to: Target::Verdict });
        }
        Expr::DnatMap { family, fields, map, keep_port } => {
            load(fields, out)?;
            out.push(Insn::Fetch { register: 0, map: map.clone(), to: Target::Register(0) });
            let port = match family {
                _ if *keep_port => None,
                Family::Ipv4 => Some(1),
                Family::Ipv6 => Some(4),
            };
            out.push(Insn::Dnat { family: *family, address: 0, port });
        }
        Expr::Snat(address) => {
            let data = match address {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            };
            out.push(Insn::Immediate { to: 0, data });
            out.push(Insn::Snat { family: Family::of(*address), address: 0 });
        }
        Expr::Masquerade => out.push(Insn::Masquerade),
        Expr::ClampMss => out.extend([
            Insn::Load { source: Source::RtTcpMss, to: 0 },
            Insn::ToNetworkOrder { register: 0 },
            Insn::WriteMss { register: 0 },
        ]),
        Expr::Verdict(verdict) => out.push(Insn::Verdict(verdict.clone())),
        Expr::Unknown(_) => return Err("netrec does not know it".into()),
    }
    Ok(())
}

/// Loads fields into consecutive registers.
fn load(fields: &[Field], out: &mut Vec<Insn>) -> Result<(), Unfit> {
    const REGISTERS: Register = 16;
    let mut to = 0;
    for field in fields {
        if to + registers(*field) > REGISTERS {
            return Err("it does not fit into the registers".into());
        }
        out.push(Insn::Load { source: source(*field), to });
        to += registers(*field);
    }
    if fields.is_empty() { Err("it looks at nothing".into()) } else { Ok(()) }
}

fn compile_match(field: Field, negate: bool, value: &Datum, out: &mut Vec<Insn>) -> Result<(), Unfit> {
    let compare = |data| Insn::Compare { register: 0, differ: negate, data };
    let mut bytes = Vec::new();
    let prefix = match (data_type(field), value) {
        (Some(DataType::Ipv4Addr), Datum::Ipv4Net(address, prefix)) => {
            bytes.extend_from_slice(&address.octets());
            Some(*prefix)
        }
        (Some(DataType::Ipv6Addr), Datum::Ipv6Net(address, prefix)) => {
            bytes.extend_from_slice(&address.octets());
            Some(*prefix)
        }
        (Some(DataType::Ipv4Addr), Datum::Ipv4Addr(_))
        | (Some(DataType::Ipv6Addr), Datum::Ipv6Addr(_))
        | (Some(DataType::InetProto), Datum::InetProto(_))
        | (Some(DataType::InetService), Datum::InetService(_))
        | (Some(DataType::Ifname), Datum::Ifname(_)) => None,
        (None, Datum::FibType(_)) if field == Field::FibDaddrType => None,
        (None, Datum::NfProto(_)) if field == Field::NfProto => None,
        _ => return Err("the value is not of the field's type".into()),
    };
    let Some(prefix) = prefix else {
        data::put_datum(&mut bytes, value, Bound::First)?;
        load(&[field], out)?;
        out.push(compare(bytes));
        return Ok(());
    };
    let mask = mask(prefix, bytes.len())?;
    bytes.iter_mut().zip(&mask).for_each(|(byte, mask)| *byte &= mask);
    let whole = usize::from(prefix / 8);
    if prefix % 8 == 0 && (1..bytes.len()).contains(&whole) {
        // A prefix of whole bytes: load only these.
        bytes.truncate(whole);
        if let Source::Payload { base, offset, .. } = source(field) {
            let len = u32::from(prefix / 8);
            out.push(Insn::Load { source: Source::Payload { base, offset, len }, to: 0 });
        }
    } else {
        load(&[field], out)?;
        out.push(Insn::Mask { register: 0, mask });
    }
    out.push(compare(bytes));
    Ok(())
}

/// The mask of a prefix of an address of `len` bytes.
fn mask(prefix: u8, len: usize) -> Result<Vec<u8>, Unfit> {
    if usize::from(prefix) > 8 * len {
        return Err("the prefix is longer than the address".into());
    }
    let ones = |byte: usize| u32::from(prefix).saturating_sub(8 * u32::try_from(byte).unwrap_or(u32::MAX)).min(8);
    Ok((0..len).map(|byte| !0xff_u8.checked_shr(ones(byte)).unwrap_or(0)).collect())
}

/// The rule of these instructions. Runs that netrec does not write become [`Expr::Unknown`].
pub(super) fn decompile(insns: &[Insn]) -> Rule {
    let mut exprs = Vec::new();
    let mut unknown = Vec::new();
    let mut known = Known::default();
    let mut rest = insns;
    while let [first, after @ ..] = rest {
        if let Some((expr, taken, then_known)) = expression(rest, known) {
            flush(&mut unknown, &mut exprs);
            exprs.push(expr);
            known = then_known;
            rest = &rest[taken..];
        } else {
            unknown.push(first.name());
            rest = after;
        }
    }
    flush(&mut unknown, &mut exprs);
    Rule(exprs)
}

fn flush(unknown: &mut Vec<&str>, exprs: &mut Vec<Expr>) {
    if !unknown.is_empty() {
        exprs.push(Expr::Unknown(unknown.join(" ")));
        unknown.clear();
    }
}

/// The expression that these instructions begin with, how many of them it is, and what is known after it.
fn expression(insns: &[Insn], known: Known) -> Option<(Expr, usize, Known)> {
    let fits = |expr: Expr| {
        let (mut known, mut compiled) = (known, Vec::new());
        compile_expr(&expr, &mut known, &mut compiled).ok()?;
        insns.starts_with(&compiled).then_some((expr, compiled.len(), known))
    };
    let mut rest = insns;
    for family in [Family::Ipv4, Family::Ipv6] {
        rest = rest.strip_prefix(&Insn::guard(family)).unwrap_or(rest);
    }
    // What may be the guard of an address is a question of its own before anything else.
    guess(rest).and_then(fits).or_else(|| guess(insns).and_then(fits))
}

fn guess(mut insns: &[Insn]) -> Option<Expr> {
    if let [Insn::Load { source: Source::RtTcpMss, .. }, ..] = insns {
        return Some(Expr::ClampMss);
    }
    let mut fields = Vec::new();
    while let [Insn::Load { source, .. }, rest @ ..] = insns {
        fields.push(field(*source)?);
        insns = rest;
    }
    Some(match (fields.as_slice(), insns) {
        ([], [Insn::Masquerade, ..]) => Expr::Masquerade,
        ([], [Insn::Immediate { data, .. }, Insn::Snat { family, .. }, ..]) => Expr::Snat(match family {
            Family::Ipv4 => <[u8; 4]>::try_from(data.as_slice()).ok()?.into(),
            Family::Ipv6 => <[u8; 16]>::try_from(data.as_slice()).ok()?.into(),
        }),
        ([], [Insn::Verdict(verdict), ..]) => Expr::Verdict(verdict.clone()),
        (&[field], [Insn::Compare { differ, data, .. }, ..]) => {
            Expr::Match { field, negate: *differ, value: value(field, data)? }
        }
        (&[field], [Insn::Mask { mask, .. }, Insn::Compare { differ, data, .. }, ..]) => {
            if data_type(field).is_none() {
                Expr::AnyBit { field, bits: bits(mask)? }
            } else {
                let prefix = mask.iter().map(|byte| byte.leading_ones()).sum::<u32>();
                Expr::Match { field, negate: *differ, value: network(field, data, prefix)? }
            }
        }
        (_, [Insn::Lookup { set, invert, .. }, ..]) => Expr::InSet { fields, negate: *invert, set: set.clone() },
        (_, [Insn::Fetch { map, to: Target::Verdict, .. }, ..]) => Expr::Vmap { fields, map: map.clone() },
        (_, [Insn::Fetch { map, .. }, Insn::Dnat { family, port, .. }, ..]) => {
            Expr::DnatMap { family: *family, fields, map: map.clone(), keep_port: port.is_none() }
        }
        _ => return None,
    })
}

/// The right side of a comparison of all of a field, or of its first bytes.
fn value(field: Field, data: &[u8]) -> Option<Datum> {
    match data_type(field) {
        None if field == Field::NfProto => match data {
            [2] => Some(Datum::NfProto(Family::Ipv4)),
            [10] => Some(Datum::NfProto(Family::Ipv6)),
            _ => None,
        },
        None => data::register_u32(data).map(Datum::FibType),
        Some(of) => data::datum(of, data).or_else(|| network(field, data, u32::try_from(8 * data.len()).ok()?)),
    }
}

fn network(field: Field, data: &[u8], prefix: u32) -> Option<Datum> {
    let prefix = u8::try_from(prefix).ok()?;
    let mut bytes = [0; 16];
    bytes.get_mut(..data.len())?.copy_from_slice(data);
    match data_type(field)? {
        DataType::Ipv4Addr => Some(Datum::Ipv4Net((*bytes.first_chunk::<4>()?).into(), prefix)),
        DataType::Ipv6Addr => Some(Datum::Ipv6Net(bytes.into(), prefix)),
        _ => None,
    }
}
