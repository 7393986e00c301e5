//! The table as it is: dumped messages collected into entries.
//!
//! Where the kernel holds something that the vocabulary cannot say, the entry is made to differ from anything that
//! netrec could want, so that it is put right or removed:
//!
//! - a rule's foreign instructions are an [`Expr::Unknown`];
//! - a set's foreign features, types and elements are a [`DataType::Other`] in its key;
//! - an element that has more than key, value and mark holds an empty list of values;
//! - what else there is in the table, such as counters and flow tables, is named by the table;
//! - a chain of another type or hook has no mark.

use std::sync::Arc;

use super::data::{self, COMMENT, SET_COMMENT};
use super::insn::{Insn, counter, value, verdict};
use super::rule::decompile;
use super::ruleset::{inet, nft};
use crate::kernel::nfnetlink::socket::{Socket, Trouble};
use crate::kernel::nfnetlink::wire::{Attributes, Message, Slots, Writer};
use crate::state::firewall::{
    BaseChain, Chain, ChainKind, Concat, DataType, Element, ElementData, Expr, Hook, Policy, Rule, Set, SetData, TABLE,
    Table,
};
use crate::state::{Entry, Key, Object, Owner, Standing, Traffic};

// `enum nf_tables_msg_types`.
const GETTABLE: u16 = 1;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
pub(super) const NEWRULE: u16 = 6;
pub(super) const GETRULE: u16 = 7;
const NEWSET: u16 = 9;
const GETSET: u16 = 10;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const NEWOBJ: u16 = 18;
const GETOBJ: u16 = 19;
const NEWFLOWTABLE: u16 = 22;
const GETFLOWTABLE: u16 = 23;

/// The table's name in all messages but the table's own: `NFTA_CHAIN_TABLE`, `NFTA_SET_TABLE` and so on.
const TABLE_NAME: u16 = 1;

/// `NFT_TABLE_F_DORMANT`: the table's chains are not called.
pub(super) const DORMANT: u32 = 1;
/// The data type number of verdicts (`NFT_DATA_VERDICT`).
pub(super) const VERDICT: u32 = 0xffff_ff00;
/// `NFT_SET_ANONYMOUS`.
const SET_ANONYMOUS: u32 = 1;
/// `NFT_SET_INTERVAL | NFT_SET_CONCAT`: ranges of joined values.
pub(super) const SET_INTERVAL: u32 = 4 | 0x80;
/// `NFT_SET_MAP`.
pub(super) const SET_MAP: u32 = 8;

/// Dumps the table, or nothing where there is none.
pub(super) fn dump(socket: &mut Socket) -> Result<Vec<(Key, Entry)>, Trouble> {
    let mut found = Found::default();
    let table = |w: &mut Writer| w.put_str(TABLE_NAME, TABLE);
    match socket.request(inet(GETTABLE), table, |attributes| found.table(&Slots::new(attributes))) {
        Err(Trouble::Refused(fault)) if fault.errno == nix::libc::ENOENT => return Ok(Vec::new()),
        other => other?,
    }
    for kind in [GETSET, GETCHAIN, GETRULE, GETOBJ, GETFLOWTABLE] {
        socket.dump(inet(kind), table, |message| found.message(message)).map_err(vanished)?;
    }
    for set in 0..found.sets.len() {
        found.dump_elements(socket, set)?;
    }
    Ok(found.entries())
}

/// What the elements of sets that count have counted.
pub(super) fn traffic(socket: &mut Socket) -> Result<Vec<(Key, Traffic)>, Trouble> {
    let mut found = Found::default();
    let table = |w: &mut Writer| w.put_str(TABLE_NAME, TABLE);
    match socket.dump(inet(GETSET), table, |message| found.message(message)) {
        Err(Trouble::Refused(fault)) if fault.errno == nix::libc::ENOENT => return Ok(Vec::new()),
        other => other?,
    }
    for set in (0..found.sets.len()).filter(|set| found.sets[*set].set.counted).collect::<Vec<_>>() {
        found.dump_elements(socket, set)?;
    }
    Ok(found.traffic)
}

/// How many entries messages in a row make, the first of them telling of the table.
#[cfg(feature = "fuzzing")]
pub(super) fn entries<'a>(messages: impl Iterator<Item = Message<'a>>) -> usize {
    let mut found = Found::default();
    for (index, message) in messages.enumerate() {
        if index == 0 {
            let _ = found.table(&Slots::new(message.attributes()));
        }
        found.message(message);
    }
    found.entries().len()
}

/// What was there a moment ago is not: somebody changed it.
fn vanished(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Refused(fault) if fault.errno == nix::libc::ENOENT => Trouble::Changed,
        other => other,
    }
}

/// What the messages so far have said.
#[derive(Debug, Default)]
struct Found {
    table: Option<FoundTable>,
    sets: Vec<FoundSet>,
    chains: Vec<FoundChain>,
    elements: Vec<(Key, Entry)>,
    /// What elements have counted.
    traffic: Vec<(Key, Traffic)>,
    /// The keys of the set whose elements are being read, one after the other.
    keys: Vec<u8>,
}

#[derive(Debug)]
struct FoundTable {
    owner: Option<Owner>,
    table: Table,
}

#[derive(Debug)]
struct FoundSet {
    name: Arc<str>,
    set: Set,
    key_len: usize,
    owner: Option<Owner>,
    /// Whether it is of a kind that netrec does not make; its elements, which may be just as strange, go with it.
    foreign: bool,
    /// Whether it has an element whose key cannot be said.
    more: bool,
}

#[derive(Debug)]
struct FoundChain {
    name: Arc<str>,
    chain: Chain,
    owner: Option<Owner>,
}

impl Found {
    /// Dumps the elements of a set, by its place in the list.
    fn dump_elements(&mut self, socket: &mut Socket, set: usize) -> Result<(), Trouble> {
        let name = self.sets[set].name.clone();
        self.keys.clear();
        let fill = |w: &mut Writer| {
            w.put_str(TABLE_NAME, TABLE);
            w.put_str(2, &name); // NFTA_SET_ELEM_LIST_SET
        };
        socket.dump(inet(GETSETELEM), fill, |message| self.message(message)).map_err(vanished)?;
        if self.repeats(self.sets[set].key_len) { Err(Trouble::Changed) } else { Ok(()) }
    }

    fn message(&mut self, message: Message<'_>) {
        const SET: u16 = nft(NEWSET);
        const CHAIN: u16 = nft(NEWCHAIN);
        const RULE: u16 = nft(NEWRULE);
        const ELEMENTS: u16 = nft(NEWSETELEM);
        const OBJECT: u16 = nft(NEWOBJ);
        const FLOWTABLE: u16 = nft(NEWFLOWTABLE);
        let all = Slots::new(message.attributes());
        if all.text(TABLE_NAME) != Some(TABLE) {
            return;
        }
        // What lacks its name or the like is no message of the kernel's.
        let _ = match message.kind {
            SET => self.set(&all),
            CHAIN => self.chain(&all),
            RULE => self.rule(&all),
            ELEMENTS => self.element_list(&all),
            OBJECT => self.foreign(object_type(all.u32(3)), &all), // NFTA_OBJ_TYPE
            FLOWTABLE => self.foreign("flowtable", &all),
            _ => None,
        };
    }

    fn table(&mut self, all: &Slots<'_>) -> Option<()> {
        // NFTA_TABLE_NAME, _FLAGS, _USERDATA.
        all.get(1)?;
        let owner = all.value(6).and_then(|userdata| data::owner(userdata, COMMENT));
        let flags = all.u32(2).unwrap_or(0);
        let others = flags & !DORMANT;
        let foreign = if others == 0 { Vec::new() } else { vec![format!("flags {others:#x}")] };
        self.table = Some(FoundTable { owner, table: Table { dormant: flags & DORMANT != 0, foreign } });
        Some(())
    }

    /// An object of a sort that netrec does not make.
    fn foreign(&mut self, sort: &str, all: &Slots<'_>) -> Option<()> {
        // NFTA_OBJ_NAME, NFTA_FLOWTABLE_NAME.
        let name = all.text(2)?;
        self.table.as_mut()?.table.foreign.push(format!("{sort} {name}"));
        Some(())
    }

    fn set(&mut self, all: &Slots<'_>) -> Option<()> {
        // NFTA_SET_NAME, _FLAGS, _KEY_TYPE, _KEY_LEN, _DATA_TYPE, _DATA_LEN, _USERDATA.
        let flags = all.u32(3).unwrap_or(0);
        if flags & SET_ANONYMOUS != 0 {
            return Some(()); // it comes and goes with the rule that it belongs to
        }
        let key_len = all.u32(5)?;
        let mut key = data::types(all.u32(4)?, key_len);
        let interval = flags & SET_INTERVAL == SET_INTERVAL;
        if interval {
            key = data::ranges(key);
        }
        let usual = SET_MAP | if interval { SET_INTERVAL } else { 0 };
        let data = match (flags & SET_MAP != 0, all.u32(6).unwrap_or(0)) {
            (false, _) => None,
            (true, VERDICT) => Some(SetData::Verdict),
            (true, id) => Some(SetData::Values(data::types(id, all.u32(7).unwrap_or(0)))),
        };
        // NFTA_SET_EXPR
        let counted = all.get(17).is_some_and(|expr| counter(expr.nested()).is_some());
        // NFTA_SET_TIMEOUT, _GC_INTERVAL, _OBJ_TYPE, _EXPRESSIONS; _POLICY, NFT_SET_POL_PERFORMANCE being 0;
        // NFTA_SET_DESC_SIZE in _DESC.
        let foreign = flags & !usual != 0
            || [11, 12, 15, 18].iter().any(|kind| all.has(*kind))
            || all.has(17) && !counted
            || all.u32(8).unwrap_or(0) != 0
            || all.nested(9).is_some_and(|desc| desc.has(1))
            || key.iter().any(|part| matches!(part, DataType::Other(_)));
        self.sets.push(FoundSet {
            name: all.text(2)?.into(),
            set: Set { key, data, counted },
            key_len: key_len as usize,
            owner: all.value(13).and_then(|userdata| data::owner(userdata, SET_COMMENT)),
            foreign,
            more: false,
        });
        Some(())
    }

    fn chain(&mut self, all: &Slots<'_>) -> Option<()> {
        // NFT_CHAIN_HW_OFFLOAD and NFT_CHAIN_BINDING of `enum nft_chain_flags`.
        const OFFLOAD: u32 = 2;
        const BINDING: u32 = 4;
        // NFTA_CHAIN_NAME, _HOOK, _POLICY, _TYPE, _FLAGS, _USERDATA.
        let flags = all.u32(10).unwrap_or(0);
        if flags & BINDING != 0 {
            return Some(()); // it comes and goes with the rule that it belongs to
        }
        let mut found = FoundChain {
            name: all.text(3)?.into(),
            chain: Chain { base: None, rules: Vec::new() },
            owner: all.value(12).and_then(|userdata| data::owner(userdata, COMMENT)),
        };
        if let Some(hook) = all.nested(4) {
            let kind = all.text(7).unwrap_or("?");
            found.chain.base = base_chain(kind, &hook, all.u32(5)).filter(|_| flags & OFFLOAD == 0);
            if found.chain.base.is_none() {
                let number = |kind| hook.u32(kind).unwrap_or(0).cast_signed();
                let text = format!("type {kind} hook {} priority {}", number(1), number(2));
                found.chain.rules.push(Rule(vec![Expr::Unknown(text)]));
                found.owner = None;
            }
        }
        self.chains.push(found);
        Some(())
    }

    fn rule(&mut self, all: &Slots<'_>) -> Option<()> {
        // NFTA_RULE_CHAIN. The rules of a chain come together, in their order.
        let name = all.text(2)?;
        let mut chains = self.chains.iter_mut();
        let chain = chains.rfind(|chain| &*chain.name == name)?;
        chain.chain.rules.push(parse_rule(all));
        Some(())
    }

    fn element_list(&mut self, all: &Slots<'_>) -> Option<()> {
        // NFTA_SET_ELEM_LIST_SET, _ELEMENTS.
        let name = all.text(2)?;
        let set = self.sets.iter_mut().find(|set| &*set.name == name && !set.foreign)?;
        for element in all.get(3)?.nested() {
            match parse_element(set, element.nested(), &mut self.keys) {
                Some((key, entry, traffic)) => {
                    self.traffic.extend(traffic.map(|traffic| (key.clone(), traffic)));
                    self.elements.push((key, entry));
                }
                None => set.more = true,
            }
        }
        Some(())
    }

    /// Whether a key has come twice. The kernel dumps a hash table in parts, finding its place again by counting, so
    /// that one which grows meanwhile, as it does on its own for a while after a big transaction, yields some elements
    /// twice and others not at all; and does not say so, since no transaction is involved.
    fn repeats(&self, key_len: usize) -> bool {
        let mut keys: Vec<&[u8]> = self.keys.chunks_exact(key_len.max(1)).collect();
        keys.sort_unstable();
        keys.windows(2).any(|pair| pair[0] == pair[1])
    }

    fn entries(self) -> Vec<(Key, Entry)> {
        let Some(FoundTable { owner, mut table }) = self.table else { return Vec::new() };
        table.foreign.sort_unstable(); // the kernel lists the youngest first, or in no order
        let mut entries = Vec::with_capacity(1 + self.sets.len() + self.chains.len() + self.elements.len());
        entries.push((Key::Table, entry(Object::Table(table), owner)));
        for FoundSet { name, mut set, owner, foreign, more, .. } in self.sets {
            if foreign {
                set.key.push(DataType::Other(1));
            } else if more {
                set.key.push(DataType::Other(0));
            }
            entries.push((Key::Set { name }, entry(Object::Set(set), owner)));
        }
        for FoundChain { name, chain, owner } in self.chains {
            entries.push((Key::Chain { name }, entry(Object::Chain(chain), owner)));
        }
        entries.extend(self.elements);
        entries
    }
}

/// nft's word for a sort of object (`NFT_OBJECT_COUNTER` and so on).
fn object_type(number: Option<u32>) -> &'static str {
    match number {
        Some(1) => "counter",
        Some(2) => "quota",
        Some(3) => "ct helper",
        Some(4) => "limit",
        Some(5) => "connlimit",
        Some(6) => "tunnel",
        Some(7) => "ct timeout",
        Some(8) => "secmark",
        Some(9) => "ct expectation",
        Some(10) => "synproxy",
        _ => "object",
    }
}

/// The rule that a message holds.
pub(super) fn parse_rule(all: &Slots<'_>) -> Rule {
    // NFTA_RULE_EXPRESSIONS, _USERDATA.
    let insns: Vec<Insn> =
        all.get(4).into_iter().flat_map(|list| list.nested().map(|insn| Insn::parse(insn.nested()))).collect();
    let mut rule = decompile(&insns);
    if all.has(7) {
        rule.0.push(Expr::Unknown("comment".into()));
    }
    rule
}

fn entry(object: Object, owner: Option<Owner>) -> Entry {
    Entry { object, owners: owner.into_iter().collect(), standing: Standing::Ours }
}

fn base_chain(kind: &str, hook: &Slots<'_>, policy: Option<u32>) -> Option<BaseChain> {
    Some(BaseChain {
        kind: match kind {
            "filter" => ChainKind::Filter,
            "nat" => ChainKind::Nat,
            _ => return None,
        },
        // NFTA_HOOK_HOOKNUM, _PRIORITY, and no _DEV or the like.
        hook: match hook.u32(1).filter(|_| hook.only(&[1, 2]))? {
            0 => Hook::Prerouting,
            1 => Hook::Input,
            2 => Hook::Forward,
            3 => Hook::Output,
            4 => Hook::Postrouting,
            _ => return None,
        },
        priority: hook.u32(2)?.cast_signed(),
        policy: match policy? {
            0 => Policy::Drop,
            1 => Policy::Accept,
            _ => return None,
        },
    })
}

/// One element, and what it has counted where it counts; none where its key cannot be said. Its key is appended to `keys`.
fn parse_element(
    set: &FoundSet,
    attributes: Attributes<'_>,
    keys: &mut Vec<u8>,
) -> Option<(Key, Entry, Option<Traffic>)> {
    let (mut key, mut last) = (None, None);
    let (mut data, mut traffic) = (None, None);
    let mut owner = None;
    let mut plain = true;
    for attribute in attributes {
        match attribute.kind {
            1 => key = value(attribute.nested()), // NFTA_SET_ELEM_KEY
            // NFTA_SET_ELEM_DATA
            2 => {
                data = match &set.set.data {
                    None => None,
                    Some(SetData::Verdict) => verdict(attribute.nested()).map(ElementData::Verdict),
                    Some(SetData::Values(types)) => {
                        value(attribute.nested()).and_then(|value| data::concat(types, value)).map(ElementData::Values)
                    }
                };
                plain &= data.is_some();
            }
            3 => plain &= attribute.u32() == Some(0), // NFTA_SET_ELEM_FLAGS
            // NFTA_SET_ELEM_EXPR: what it has counted is no part of what it is.
            7 if set.set.counted => {
                traffic = counter(attribute.nested());
                plain &= traffic.is_some();
            }
            6 => owner = data::owner(attribute.value, COMMENT), // NFTA_SET_ELEM_USERDATA
            10 if set.set.is_interval() => last = value(attribute.nested()), // NFTA_SET_ELEM_KEY_END
            8 => {}                                             // NFTA_SET_ELEM_PAD
            _ => plain = false,
        }
    }
    let key = key?;
    if key.len() == set.key_len {
        keys.extend_from_slice(key);
    }
    let values = match last {
        Some(last) => data::concat_ranges(&set.set.key, key, last)?,
        None => data::concat(&set.set.key, key)?,
    };
    let key = Key::Element { set: set.name.clone(), key: values };
    if !plain {
        data = Some(ElementData::Values(Concat(Vec::new())));
    }
    Some((key, entry(Object::Element(Element { data }), owner), traffic))
}

/// What the kernel (6.18, little-endian) answered to one read of a table with everything that netrec writes and some
/// things that it does not.
#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use crate::kernel::nfnetlink::wire::{Fault, messages};
    use crate::state::Kind;

    const DUMP: &[u8] = include_bytes!("../../../tests/data/nftables.dump");

    fn collect(found: &mut Found, bytes: &[u8]) {
        for message in messages(bytes) {
            // NFT_MSG_NEWTABLE is read by itself.
            if message.kind == nft(0) {
                found.table(&Slots::new(message.attributes()));
            } else {
                found.message(message);
            }
        }
    }

    #[test]
    fn the_recorded_dump_holds_everything() {
        let mut found = Found::default();
        collect(&mut found, DUMP);
        let entries = found.entries();
        let count = |kind| entries.iter().filter(|(key, _)| key.kind() == kind).count();
        assert_eq!([Kind::Table, Kind::Set, Kind::Chain, Kind::Element].map(count), [1, 13, 10, 16]);
        let foreign: Vec<String> =
            entries.iter().filter(|(_, entry)| entry.owners.is_empty()).map(|(key, _)| key.to_string()).collect();
        let expected = ["set ranges", "set marks", "chain theirs", "chain route", "element hosts4 { 10.0.0.2 }"];
        assert_eq!(foreign, expected);
    }

    #[test]
    fn the_table_names_what_netrec_does_not_make() {
        let mut w = Writer::default();
        w.message(nft(0), 0, 1, (1, 0), |w| {
            w.put_str(1, TABLE);
            w.put_u32(2, DORMANT | 2);
        });
        for (kind, name, sort) in [(NEWOBJ, "b", 8), (NEWFLOWTABLE, "a", 0), (NEWOBJ, "c", 99)] {
            w.message(nft(kind), 0, 1, (1, 0), |w| {
                w.put_str(TABLE_NAME, TABLE);
                w.put_str(2, name);
                w.put_u32(3, sort);
            });
        }
        let mut found = Found::default();
        collect(&mut found, w.bytes());
        let foreign = ["flags 0x2", "flowtable a", "object c", "secmark b"].map(str::to_owned).to_vec();
        let table = Object::Table(Table { dormant: true, foreign });
        assert_eq!(found.entries(), [(Key::Table, entry(table, None))]);
    }

    #[test]
    fn no_damage_makes_the_reader_panic() {
        // Where each message starts, and where the last one ends.
        let mut starts = vec![0];
        for message in messages(DUMP) {
            starts.push(starts[starts.len() - 1] + 16 + message.payload.len().next_multiple_of(4));
        }
        assert_eq!(starts.last(), Some(&DUMP.len()));

        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed >> 33).unwrap() % below
        };
        let mut found = Found::default();
        for round in 0..200_000 {
            if round % 1000 == 0 {
                found.repeats(round % 16);
                std::mem::take(&mut found).entries();
                collect(&mut found, DUMP);
            }
            let which = random(starts.len() - 1);
            let mut bytes = DUMP[starts[which]..starts[which + 1]].to_vec();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                bytes[at] = [random(256), random(4), 255][random(3)].to_le_bytes()[0];
            }
            bytes.truncate(bytes.len() - random(2) * random(bytes.len()));
            collect(&mut found, &bytes);
            messages(&bytes).for_each(|message| drop(Fault::parse(message)));
        }
    }
}
