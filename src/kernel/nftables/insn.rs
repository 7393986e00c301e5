//! The instructions of nftables that netrec writes, each with its attributes, there and back.
//!
//! What comes back is read strictly: an attribute or a value that netrec would not write makes it [`Insn::Other`], so
//! that two equal instructions do the same.

use std::sync::Arc;

use super::data::register_u32;
use crate::kernel::nfnetlink::wire::{self, Attribute, Attributes, Slots, Writer};
use crate::state::Traffic;
use crate::state::firewall::{Family, Verdict};

/// A 32-bit register, counted from the first data register (`NFT_REG32_00`).
pub(super) type Register = u8;

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Insn {
    /// Puts something of the packet into registers.
    Load { source: Source, to: Register },
    /// Ends the rule unless the registers (do not) hold the data.
    Compare { register: Register, differ: bool, data: Vec<u8> },
    /// Clears all other bits of the registers.
    Mask { register: Register, mask: Vec<u8> },
    /// Ends the rule unless the registers are (not) in a set.
    Lookup { register: Register, set: Arc<str>, invert: bool },
    /// Fetches from a map, or ends the rule.
    Fetch { register: Register, map: Arc<str>, to: Target },
    /// Puts data into registers.
    Immediate { to: Register, data: Vec<u8> },
    /// Rewrites the destination; without a port its address alone.
    Dnat { family: Family, address: Register, port: Option<Register> },
    /// Rewrites the source's address.
    Snat { family: Family, address: Register },
    /// Rewrites the source.
    Masquerade,
    /// Turns the 16 bits of a register into network byte order.
    ToNetworkOrder { register: Register },
    /// Writes a register's 16 bits into a TCP header as the maximum segment size, unless that is lower already.
    WriteMss { register: Register },
    /// Decides.
    Verdict(Verdict),
    /// Anything else, by its name.
    Other(String),
}

/// What can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// `enum nft_meta_keys`.
    Meta(u32),
    /// `enum nft_ct_keys`.
    Ct(u32),
    /// Those of them that differ by direction, of the original one.
    CtOriginal(u32),
    /// The type of the destination address in the routing table.
    FibDaddrType,
    /// The segment size that the packet's way holds, in host byte order.
    RtTcpMss,
    /// Bytes of a header (`enum nft_payload_bases`).
    Payload { base: u32, offset: u32, len: u32 },
}

/// Where a map's value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The verdict register (`NFT_REG_VERDICT`).
    Verdict,
    /// Data registers from here on.
    Register(Register),
}

/// `NFT_REG32_00`. The first of each four has an older name too, `NFT_REG_1` to `NFT_REG_4`, and the kernel dumps those.
const REG32_00: u32 = 8;

fn put_register(w: &mut Writer, kind: u16, register: Register) {
    w.put_u32(kind, REG32_00 + u32::from(register));
}

fn register(number: u32) -> Option<Register> {
    let slot = match number {
        1..=4 => (number - 1) * 4,
        REG32_00..=23 => number - REG32_00,
        _ => return None,
    };
    u8::try_from(slot).ok()
}

/// `NFTA_DATA_VALUE`.
const DATA_VALUE: u16 = 1;
/// `NFTA_DATA_VERDICT`.
const DATA_VERDICT: u16 = 2;
/// `NFTA_VERDICT_CODE`.
const VERDICT_CODE: u16 = 1;
/// `NFTA_VERDICT_CHAIN`.
const VERDICT_CHAIN: u16 = 2;

/// Bytes as `NFTA_DATA_VALUE` within an attribute.
pub(super) fn put_value(w: &mut Writer, kind: u16, value: &[u8]) {
    w.nest(kind, |w| w.put(DATA_VALUE, value));
}

/// A verdict as `NFTA_DATA_VERDICT` within an attribute.
pub(super) fn put_verdict(w: &mut Writer, kind: u16, verdict: &Verdict) {
    // NF_DROP, NF_ACCEPT; NFT_JUMP, NFT_GOTO, NFT_RETURN.
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3i32, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    w.nest(kind, |w| {
        w.nest(DATA_VERDICT, |w| {
            w.put_u32(VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                w.put_str(VERDICT_CHAIN, chain);
            }
        });
    });
}

/// The only attribute there is, if it is of this type.
fn sole(mut attributes: Attributes<'_>, kind: u16) -> Option<Attribute<'_>> {
    attributes.next().filter(|first| first.kind == kind && attributes.next().is_none())
}

/// The bytes within an attribute made by [`put_value`].
pub(super) fn value(within: Attributes<'_>) -> Option<&[u8]> {
    Some(sole(within, DATA_VALUE)?.value)
}

/// The verdict within an attribute made by [`put_verdict`]. The anonymous chains of nft's `jump { … }` are none of
/// netrec's; their names begin with two underscores.
pub(super) fn verdict(within: Attributes<'_>) -> Option<Verdict> {
    let (mut code, mut chain) = (None, None);
    for attribute in sole(within, DATA_VERDICT)?.nested() {
        match attribute.kind {
            VERDICT_CODE => code = attribute.u32(),
            VERDICT_CHAIN => chain = attribute.text().filter(|name| !name.starts_with("__")),
            _ => return None,
        }
    }
    Some(match code?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain?.into()),
        -4 => Verdict::Goto(chain?.into()),
        -5 => Verdict::Return,
        _ => return None,
    })
}

/// The name of counters.
const COUNTER: &str = "counter";
/// `NFTA_EXPR_NAME`.
const EXPR_NAME: u16 = 1;
/// `NFTA_EXPR_DATA`.
const EXPR_DATA: u16 = 2;

/// `NFT_LOOKUP_F_INV`.
const LOOKUP_INVERT: u32 = 1;
/// `NFT_NAT_SNAT`.
const NAT_SNAT: u32 = 0;
/// `NFT_NAT_DNAT`.
const NAT_DNAT: u32 = 1;
/// `NF_NAT_RANGE_MAP_IPS`: the kernel sets it by itself when there is an address, and dumps it.
const NAT_MAP_ADDRESS: u32 = 1;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the same of a port.
const NAT_MAP_PORT: u32 = 2;
/// `NFTA_FIB_F_DADDR`.
const FIB_DADDR: u32 = 1 << 1;
/// `NFT_FIB_RESULT_ADDRTYPE`.
const FIB_ADDRTYPE: u32 = 3;

/// `IP_CT_DIR_ORIGINAL`.
const CT_ORIGINAL: u8 = 0;
/// `NFT_RT_TCPMSS`.
const RT_TCPMSS: u32 = 3;
/// `NFT_BYTEORDER_HTON`.
const BYTEORDER_HTON: u32 = 1;
/// `NFT_EXTHDR_OP_TCPOPT`.
const EXTHDR_TCPOPT: u32 = 1;
/// `TCPOPT_MSS` of RFC 9293: a byte each of kind and length, then ...
const TCPOPT_MSS: u8 = 2;
/// ... at this offset as many bytes of the size.
const MSS_LEN: u32 = 2;

/// `enum nft_payload_bases`: the network header.
pub(super) const NETWORK_HEADER: u32 = 1;
/// `enum nft_payload_bases`: the transport header.
pub(super) const TRANSPORT_HEADER: u32 = 2;

fn family_number(family: Family) -> u8 {
    // NFPROTO_IPV4, NFPROTO_IPV6.
    match family {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    }
}

fn family(number: u32) -> Option<Family> {
    match number {
        2 => Some(Family::Ipv4),
        10 => Some(Family::Ipv6),
        _ => None,
    }
}

/// A counter that has counted nothing, within an attribute: what each element of a set begins with.
pub(super) fn put_counter(w: &mut Writer, kind: u16) {
    w.nest(kind, |w| {
        w.put_str(EXPR_NAME, COUNTER);
        w.nest(EXPR_DATA, |_| {});
    });
}

/// What a counter within an attribute has counted; none where there is something else.
pub(super) fn counter(within: Attributes<'_>) -> Option<Traffic> {
    let all = Slots::new(within);
    let data = all.nested(EXPR_DATA).filter(|_| all.text(EXPR_NAME) == Some(COUNTER))?;
    // NFTA_COUNTER_BYTES, _PACKETS, _PAD.
    let number = |kind| Some(u64::from_be_bytes(data.value(kind)?.try_into().ok()?));
    data.only(&[1, 2, 3]).then_some(())?;
    Some(Traffic { bytes: number(1)?, packets: number(2)? })
}

/// An element of `NFTA_RULE_EXPRESSIONS` of this name.
fn put_expression(w: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    const LIST_ELEM: u16 = 1;
    w.nest(LIST_ELEM, |w| {
        w.put_str(EXPR_NAME, name);
        w.nest(EXPR_DATA, data);
    });
}

/// `meta nftrace set 1`: what is told of a packet's way from here on. It is in none of the table's own rules, and so not
/// an [`Insn`].
pub(super) fn put_nftrace(w: &mut Writer) {
    const META_NFTRACE: u32 = 12;
    // NFTA_IMMEDIATE_DREG, _DATA.
    put_expression(w, "immediate", |w| {
        put_register(w, 1, 0);
        put_value(w, 2, &[1]);
    });
    // NFTA_META_KEY, _SREG.
    put_expression(w, "meta", |w| {
        w.put_u32(2, META_NFTRACE);
        put_register(w, 3, 0);
    });
}

/// `ct original …` compared with a value: what a packet was when it came, before all translation.
pub(super) fn put_original(w: &mut Writer, key: u32, value: &[u8]) {
    Insn::Load { source: Source::CtOriginal(key), to: 0 }.put(w);
    Insn::Compare { register: 0, differ: false, data: value.to_vec() }.put(w);
}

impl Insn {
    /// `meta load nfproto`, compared with a family: what must precede a field that only this family has.
    pub(super) fn guard(of: Family) -> [Self; 2] {
        const META_NFPROTO: u32 = 15;
        [
            Self::Load { source: Source::Meta(META_NFPROTO), to: 0 },
            Self::Compare { register: 0, differ: false, data: vec![family_number(of)] },
        ]
    }

    /// The kernel's name for it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Load { source: Source::Meta(_), .. } => "meta",
            Self::Load { source: Source::Ct(_) | Source::CtOriginal(_), .. } => "ct",
            Self::Load { source: Source::FibDaddrType, .. } => "fib",
            Self::Load { source: Source::RtTcpMss, .. } => "rt",
            Self::Load { source: Source::Payload { .. }, .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Mask { .. } => "bitwise",
            Self::Lookup { .. } | Self::Fetch { .. } => "lookup",
            Self::Dnat { .. } | Self::Snat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::ToNetworkOrder { .. } => "byteorder",
            Self::WriteMss { .. } => "exthdr",
            Self::Verdict(_) | Self::Immediate { .. } => "immediate",
            Self::Other(name) => name,
        }
    }

    /// Writes it as one element of `NFTA_RULE_EXPRESSIONS`.
    pub(super) fn put(&self, w: &mut Writer) {
        put_expression(w, self.name(), |w| self.put_data(w));
    }

    fn put_data(&self, w: &mut Writer) {
        match self {
            // NFTA_META_DREG, _KEY; NFTA_CT_DREG, _KEY.
            Self::Load { source: Source::Meta(key) | Source::Ct(key), to } => {
                w.put_u32(2, *key);
                put_register(w, 1, *to);
            }
            // The same, and NFTA_CT_DIRECTION.
            Self::Load { source: Source::CtOriginal(key), to } => {
                w.put_u32(2, *key);
                put_register(w, 1, *to);
                w.put(3, &[CT_ORIGINAL]);
            }
            // NFTA_FIB_DREG, _RESULT, _FLAGS.
            Self::Load { source: Source::FibDaddrType, to } => {
                put_register(w, 1, *to);
                w.put_u32(2, FIB_ADDRTYPE);
                w.put_u32(3, FIB_DADDR);
            }
            // NFTA_RT_DREG, _KEY.
            Self::Load { source: Source::RtTcpMss, to } => {
                put_register(w, 1, *to);
                w.put_u32(2, RT_TCPMSS);
            }
            // NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN.
            Self::Load { source: Source::Payload { base, offset, len }, to } => {
                put_register(w, 1, *to);
                w.put_u32(2, *base);
                w.put_u32(3, *offset);
                w.put_u32(4, *len);
            }
            // NFTA_CMP_SREG, _OP (NFT_CMP_EQ, NFT_CMP_NEQ), _DATA.
            Self::Compare { register, differ, data } => {
                put_register(w, 1, *register);
                w.put_u32(2, u32::from(*differ));
                put_value(w, 3, data);
            }
            // NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR.
            Self::Mask { register, mask } => {
                put_register(w, 1, *register);
                put_register(w, 2, *register);
                w.put_u32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                put_value(w, 4, mask);
                put_value(w, 5, &vec![0; mask.len()]);
            }
            // NFTA_LOOKUP_SET, _SREG, _DREG, _FLAGS.
            Self::Lookup { register, set, invert } => {
                w.put_str(1, set);
                put_register(w, 2, *register);
                if *invert {
                    w.put_u32(5, LOOKUP_INVERT);
                }
            }
            Self::Fetch { register, map, to } => {
                w.put_str(1, map);
                put_register(w, 2, *register);
                match to {
                    Target::Verdict => w.put_u32(3, 0), // NFT_REG_VERDICT
                    Target::Register(to) => put_register(w, 3, *to),
                }
            }
            // NFTA_NAT_TYPE, _FAMILY, _REG_ADDR_MIN, _REG_PROTO_MIN.
            Self::Dnat { family, address, port } => {
                w.put_u32(1, NAT_DNAT);
                w.put_u32(2, family_number(*family).into());
                put_register(w, 3, *address);
                if let Some(port) = port {
                    put_register(w, 5, *port);
                }
            }
            Self::Snat { family, address } => {
                w.put_u32(1, NAT_SNAT);
                w.put_u32(2, family_number(*family).into());
                put_register(w, 3, *address);
            }
            Self::Immediate { to, data } => {
                put_register(w, 1, *to);
                put_value(w, 2, data);
            }
            // NFTA_BYTEORDER_SREG, _DREG, _OP, _LEN, _SIZE.
            Self::ToNetworkOrder { register } => {
                put_register(w, 1, *register);
                put_register(w, 2, *register);
                w.put_u32(3, BYTEORDER_HTON);
                w.put_u32(4, MSS_LEN);
                w.put_u32(5, MSS_LEN);
            }
            // NFTA_EXTHDR_TYPE, _OFFSET, _LEN, _OP, _SREG.
            Self::WriteMss { register } => {
                w.put(2, &[TCPOPT_MSS]);
                w.put_u32(3, MSS_LEN);
                w.put_u32(4, MSS_LEN);
                w.put_u32(6, EXTHDR_TCPOPT);
                put_register(w, 7, *register);
            }
            // NFTA_IMMEDIATE_DREG, _DATA.
            Self::Verdict(verdict) => {
                w.put_u32(1, 0); // NFT_REG_VERDICT
                put_verdict(w, 2, verdict);
            }
            Self::Masquerade | Self::Other(_) => {}
        }
    }

    /// Reads one element of `NFTA_RULE_EXPRESSIONS`.
    pub(super) fn parse(attributes: Attributes<'_>) -> Self {
        let all = Slots::new(attributes);
        let name = all.text(EXPR_NAME).unwrap_or("?");
        let data = all.nested(EXPR_DATA).unwrap_or(Slots::new(wire::attributes(&[])));
        Self::parse_data(name, &data).unwrap_or_else(|| Self::Other(name.to_owned()))
    }

    fn parse_data(name: &str, data: &Slots<'_>) -> Option<Self> {
        let at = |kind| register(data.u32(kind)?);
        let only = |kinds: &[u16]| data.only(kinds).then_some(());
        Some(match name {
            "ct" if data.has(3) => {
                only(&[1, 2, 3])?;
                (data.value(3)? == [CT_ORIGINAL]).then_some(())?;
                Self::Load { source: Source::CtOriginal(data.u32(2)?), to: at(1)? }
            }
            "meta" | "ct" => {
                only(&[1, 2])?;
                let key = data.u32(2)?;
                let source = if name == "ct" { Source::Ct(key) } else { Source::Meta(key) };
                Self::Load { source, to: at(1)? }
            }
            "fib" => {
                only(&[1, 2, 3])?;
                (data.u32(2)? == FIB_ADDRTYPE && data.u32(3)? == FIB_DADDR).then_some(())?;
                Self::Load { source: Source::FibDaddrType, to: at(1)? }
            }
            "rt" => {
                only(&[1, 2])?;
                (data.u32(2)? == RT_TCPMSS).then_some(())?;
                Self::Load { source: Source::RtTcpMss, to: at(1)? }
            }
            "payload" => {
                only(&[1, 2, 3, 4])?;
                let source = Source::Payload { base: data.u32(2)?, offset: data.u32(3)?, len: data.u32(4)? };
                Self::Load { source, to: at(1)? }
            }
            "cmp" => {
                only(&[1, 2, 3])?;
                let differ = match data.u32(2)? {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                Self::Compare { register: at(1)?, differ, data: value(data.get(3)?.nested())?.to_vec() }
            }
            "bitwise" => Self::parse_mask(data)?,
            "lookup" => Self::parse_lookup(data)?,
            "nat" => Self::parse_nat(data)?,
            "masq" => {
                only(&[])?;
                Self::Masquerade
            }
            "byteorder" => {
                only(&[1, 2, 3, 4, 5])?;
                let sizes = [data.u32(4)?, data.u32(5)?] == [MSS_LEN; 2];
                (sizes && data.u32(1) == data.u32(2) && data.u32(3)? == BYTEORDER_HTON).then_some(())?;
                Self::ToNetworkOrder { register: at(1)? }
            }
            "exthdr" => {
                // 5: NFTA_EXTHDR_FLAGS, which the kernel dumps.
                only(&[2, 3, 4, 5, 6, 7])?;
                let place = data.value(2)? == [TCPOPT_MSS] && [data.u32(3)?, data.u32(4)?] == [MSS_LEN; 2];
                (place && data.u32(5).unwrap_or(0) == 0 && data.u32(6)? == EXTHDR_TCPOPT).then_some(())?;
                Self::WriteMss { register: at(7)? }
            }
            "immediate" => {
                only(&[1, 2])?;
                match data.u32(1)? {
                    0 => Self::Verdict(verdict(data.get(2)?.nested())?),
                    _ => Self::Immediate { to: at(1)?, data: value(data.get(2)?.nested())?.to_vec() },
                }
            }
            _ => return None,
        })
    }

    fn parse_mask(data: &Slots<'_>) -> Option<Self> {
        // 6: NFTA_BITWISE_OP, NFT_BITWISE_MASK_XOR being 0.
        let mask = value(data.get(4)?.nested())?;
        let plain = data.only(&[1, 2, 3, 4, 5, 6])
            && data.u32(1) == data.u32(2)
            && data.u32(3)? as usize == mask.len()
            && value(data.get(5)?.nested())?.iter().all(|b| *b == 0)
            && data.u32(6).unwrap_or(0) == 0;
        plain.then_some(Self::Mask { register: register(data.u32(1)?)?, mask: mask.to_vec() })
    }

    fn parse_lookup(data: &Slots<'_>) -> Option<Self> {
        // 4: NFTA_LOOKUP_SET_ID, which only goes to the kernel.
        data.only(&[1, 2, 3, 5]).then_some(())?;
        // The anonymous sets of nft's `{ … }` are none of netrec's.
        let set: Arc<str> = data.text(1).filter(|name| !name.starts_with("__"))?.into();
        let from = register(data.u32(2)?)?;
        Some(match (data.u32(3), data.u32(5).unwrap_or(0)) {
            (None, flags @ (0 | LOOKUP_INVERT)) => Self::Lookup { register: from, set, invert: flags == LOOKUP_INVERT },
            (Some(0), 0) => Self::Fetch { register: from, map: set, to: Target::Verdict },
            (Some(to), 0) => Self::Fetch { register: from, map: set, to: Target::Register(register(to)?) },
            _ => return None,
        })
    }

    fn parse_nat(data: &Slots<'_>) -> Option<Self> {
        // 4 and 6: NFTA_NAT_REG_ADDR_MAX and _PROTO_MAX, which the kernel fills in; 7: NFTA_NAT_FLAGS.
        let same = |min, max| !data.has(max) || data.u32(min) == data.u32(max);
        let port = data.u32(5);
        let implied = NAT_MAP_ADDRESS | if port.is_some() { NAT_MAP_PORT } else { 0 };
        let plain =
            data.only(&[1, 2, 3, 4, 5, 6, 7]) && same(3, 4) && same(5, 6) && data.u32(7).unwrap_or(implied) == implied;
        plain.then_some(())?;
        let (family, address) = (family(data.u32(2)?)?, register(data.u32(3)?)?);
        match (data.u32(1)?, port) {
            (NAT_DNAT, None) => Some(Self::Dnat { family, address, port: None }),
            (NAT_DNAT, Some(port)) => Some(Self::Dnat { family, address, port: Some(register(port)?) }),
            (NAT_SNAT, None) => Some(Self::Snat { family, address }),
            _ => None,
        }
    }
}

/// The bits of a [`Insn::Mask`] as a number: those of one byte, or of four in host byte order.
pub(super) fn bits(mask: &[u8]) -> Option<u32> {
    if let [byte] = mask { Some(u32::from(*byte)) } else { register_u32(mask) }
}
