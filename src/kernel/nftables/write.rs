//! Steps as one batch of messages, in an order that the kernel accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::data::{self, Bound, COMMENT, Unfit};
use super::insn::{put_counter, put_value, put_verdict};
use super::losses::Losses;
use super::read::{DORMANT, SET_INTERVAL, SET_MAP, VERDICT};
use super::rule::compile;
use super::ruleset::{self, INET, nft};
use crate::kernel::nfnetlink::wire::{APPEND, CREATE, Writer};
use crate::state::firewall::{
    BaseChain, Chain, ChainKind, Concat, DataType, Element, ElementData, Hook, Policy, Rule, Set, SetData, TABLE, Table,
};
use crate::state::{Entry, Key, Object, Owner, Step};

// `enum nf_tables_msg_types`.
pub(super) const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
pub(super) const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

/// The longest list of elements in one message: an attribute's length has 16 bits, and one more element must fit.
const LIST_MAX: usize = 60_000;

/// What a part of the batch does, for error messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) verb: &'static str,
    pub(super) key: &'a Key,
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.key)
    }
}

/// A part that cannot be put into the kernel's terms.
pub(super) type Refused<'a> = (Part<'a>, Unfit);

/// The steps sorted by what is done, each list in the order of the steps.
#[derive(Debug, Default)]
pub(super) struct Work<'a> {
    table_gone: Option<&'a Key>,
    table: Option<(&'a Key, &'a Table, Option<&'a Owner>)>,
    sets: Vec<(&'a Key, &'a Set, Option<&'a Owner>)>,
    /// With `true` it is there already, and only its policy may be new.
    chains: Vec<(&'a Key, &'a Chain, Option<&'a Owner>, bool)>,
    flushed: Vec<(&'static str, &'a Key)>,
    elements_gone: Vec<&'a Key>,
    sets_gone: Vec<&'a Key>,
    chains_gone: Vec<&'a Key>,
    elements: Vec<(&'static str, &'a Key, &'a Element, Option<&'a Owner>)>,
    rules: Vec<(&'static str, &'a Key, &'a [Rule])>,
    losses: Losses<'a>,
}

/// Whether a step changes what the kernel cannot change in place: a mark of a table, chain or set, a set's types, a
/// base chain's type, hook or priority; or what others put into the table, or its flag. A mark that differs in a list index only stays as it is.
pub(super) fn replaces(step: &Step) -> bool {
    let (Some(before), Some(after)) = (&step.before, &step.after) else { return false };
    let marks_differ = before.owner().map(Owner::stem) != after.owner().map(Owner::stem);
    let hook = |chain: &Chain| chain.base.map(|base| (base.kind, base.hook, base.priority));
    match (&before.object, &after.object) {
        (Object::Table(old), Object::Table(new)) => marks_differ || old != new,
        (Object::Set(old), Object::Set(new)) => marks_differ || old != new,
        (Object::Chain(old), Object::Chain(new)) => marks_differ || hook(old) != hook(new),
        _ => false,
    }
}

impl<'a> Work<'a> {
    /// What the steps do, none of which [`replaces`].
    pub(super) fn steps(steps: &'a [Step]) -> Self {
        let afters: Vec<_> = steps.iter().filter_map(|step| Some((&step.key, step.after.as_ref()?))).collect();
        let mut work = Self { losses: Losses::of(&afters), ..Self::default() };
        for step in steps {
            match (&step.before, &step.after) {
                (None, Some(after)) => work.create(&step.key, after),
                (Some(before), None) => work.delete(&step.key, before),
                (Some(before), Some(after)) => work.update(&step.key, before, after),
                (None, None) => {}
            }
        }
        let gone: BTreeSet<&str> = work.sets_gone.iter().filter_map(|key| set_of(key)).collect();
        work.elements_gone.retain(|key| set_of(key).is_none_or(|set| !gone.contains(set)));
        work
    }

    /// The whole table anew, without what cannot be written whole. Elements of sets that are not to be are left out too.
    pub(super) fn rebuild(all: &'a BTreeMap<Key, Entry>) -> Self {
        let losses = Losses::of(&all.iter().collect::<Vec<_>>());
        let mut work = Self { table_gone: Some(&Key::Table), losses, ..Self::default() };
        if !all.contains_key(&Key::Table) {
            return work;
        }
        for (key, entry) in all {
            work.create(key, entry);
        }
        let sets: BTreeSet<&str> = work.sets.iter().filter_map(|(key, ..)| set_of(key)).collect();
        work.elements.retain(|(_, key, ..)| set_of(key).is_some_and(|set| sets.contains(set)));
        work
    }

    fn create(&mut self, key: &'a Key, after: &'a Entry) {
        if self.losses.has(key) {
            return;
        }
        let owner = after.owner();
        match &after.object {
            Object::Table(table) => self.table = Some((key, table, owner)),
            Object::Set(set) => self.sets.push((key, set, owner)),
            Object::Chain(chain) => {
                self.chains.push((key, chain, owner, false));
                self.rules.push(("create", key, &chain.rules));
            }
            Object::Element(element) => self.elements.push(("create", key, element, owner)),
            _ => {}
        }
    }

    fn delete(&mut self, key: &'a Key, before: &'a Entry) {
        match &before.object {
            Object::Table(_) => self.table_gone = Some(key),
            Object::Set(_) => self.sets_gone.push(key),
            Object::Chain(_) => {
                // Its rules go first: they may hold another chain that goes too.
                self.flushed.push(("delete", key));
                self.chains_gone.push(key);
            }
            Object::Element(_) => self.elements_gone.push(key),
            _ => {}
        }
    }

    fn update(&mut self, key: &'a Key, before: &'a Entry, after: &'a Entry) {
        if self.losses.has(key) {
            return; // better what is there than a part of what was
        }
        match (&before.object, &after.object) {
            (Object::Chain(old), Object::Chain(new)) => {
                if old.base != new.base || !self.losses.whole(new) {
                    self.chains.push((key, new, None, true));
                }
                if old.rules != new.rules {
                    self.flushed.push(("update", key));
                    self.rules.push(("update", key, &new.rules));
                }
            }
            (Object::Element(old), Object::Element(new)) if old != new || before.owner() != after.owner() => {
                self.elements_gone.push(key);
                self.elements.push(("update", key, new, after.owner()));
            }
            _ => {}
        }
    }

    /// The messages: first what is new and holds nothing yet, then out with what goes (rules and elements before the
    /// sets and chains that they hold), then in with the elements and rules that refer to what is new.
    pub(super) fn batch(mut self, first: u32, generation: u32) -> Result<Batch<'a>, Refused<'a>> {
        let mut batch = Batch { first, sequence: first, ..Batch::default() };
        ruleset::begin(&mut batch.w, first, generation);
        if let Some(key) = self.table_gone {
            batch.message("delete", key, DELTABLE, 0, |w| w.put_str(1, TABLE)); // NFTA_TABLE_NAME
            if self.table.is_none() {
                self = Self::default(); // all the rest goes with it
            }
        }
        if let Some((key, table, owner)) = self.table {
            batch.table(key, table, owner)?;
        }
        for (id, (key, set, owner)) in (1..).zip(self.sets) {
            batch.set(id, key, set, owner)?;
        }
        for (key, chain, owner, there) in self.chains {
            let base = chain.base.map(|base| self.losses.base(chain, base));
            batch.chain(key, base, owner, there)?;
        }
        for (verb, key) in self.flushed {
            batch.message(verb, key, DELRULE, 0, |w| put_names(w, 2, key)); // NFTA_RULE_CHAIN
        }
        batch.elements(DELSETELEM, self.elements_gone.into_iter().map(|key| ("delete", key, None, None)).collect())?;
        for key in self.sets_gone {
            batch.message("delete", key, DELSET, 0, |w| put_names(w, 2, key)); // NFTA_SET_NAME
        }
        for key in self.chains_gone {
            batch.message("delete", key, DELCHAIN, 0, |w| put_names(w, 3, key)); // NFTA_CHAIN_NAME
        }
        let elements = self.elements.into_iter();
        batch.elements(
            NEWSETELEM,
            elements.map(|(verb, key, element, owner)| (verb, key, Some(element), owner)).collect(),
        )?;
        for (verb, key, rules) in self.rules {
            for rule in rules.iter().filter(|rule| self.losses.keeps(rule)) {
                batch.rule(verb, key, rule)?;
            }
        }
        if let Some(last) = batch.starts.last().copied() {
            ruleset::end(&mut batch.w, batch.sequence.wrapping_add(1), last);
        }
        Ok(batch)
    }
}

/// The set that a set's or an element's key names.
fn set_of(key: &Key) -> Option<&str> {
    match key {
        Key::Set { name } => Some(name),
        Key::Element { set, .. } => Some(set),
        _ => None,
    }
}

/// The table's name and that of a set or chain.
fn put_names(w: &mut Writer, kind: u16, key: &Key) {
    w.put_str(1, TABLE); // NFTA_CHAIN_TABLE, NFTA_SET_TABLE and so on
    if let Key::Set { name } | Key::Chain { name } | Key::Element { set: name, .. } = key {
        w.put_str(kind, name);
    }
}

/// A batch, and which part of it is what.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    w: Writer,
    /// The sequence number of the batch's beginning.
    first: u32,
    /// The sequence number of the last message so far.
    sequence: u32,
    /// Where each message starts.
    starts: Vec<usize>,
    /// What begins where: messages, and elements within them.
    parts: Parts<'a>,
}

type Parts<'a> = Vec<(usize, Part<'a>)>;

impl<'a> Batch<'a> {
    pub(super) fn bytes(&self) -> &[u8] {
        self.w.bytes()
    }

    /// How many messages there are that change something.
    pub(super) fn messages(&self) -> usize {
        self.starts.len()
    }

    /// The sequence number of the first message that changes something.
    pub(super) fn first(&self) -> u32 {
        self.first.wrapping_add(1)
    }

    /// What a message is about, narrowed down to the element that starts before this offset in it; none for the batch
    /// as a whole.
    pub(super) fn part(&self, sequence: u32, offset: usize) -> Option<Part<'a>> {
        let message = usize::try_from(sequence.wrapping_sub(self.first())).ok()?;
        let at = self.starts.get(message)?.saturating_add(offset);
        let part = self.parts.partition_point(|(start, _)| *start <= at).checked_sub(1)?;
        Some(self.parts[part].1)
    }

    fn message(&mut self, verb: &'static str, key: &'a Key, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer)) {
        self.message_of_parts(verb, key, kind, flags, |w, _| fill(w));
    }

    /// A message whose parts are added to the list by whoever fills it.
    fn message_of_parts(
        &mut self,
        verb: &'static str,
        key: &'a Key,
        kind: u16,
        flags: u16,
        fill: impl FnOnce(&mut Writer, &mut Parts<'a>),
    ) {
        self.sequence = self.sequence.wrapping_add(1);
        self.starts.push(self.w.len());
        self.parts.push((self.w.len(), Part { verb, key }));
        let parts = &mut self.parts;
        self.w.message(nft(kind), flags, self.sequence, (INET, 0), |w| fill(w, parts));
    }

    fn table(&mut self, key: &'a Key, table: &Table, owner: Option<&Owner>) -> Result<(), Refused<'a>> {
        let mut mark = Vec::new();
        data::put_mark(&mut mark, COMMENT, owner).map_err(|why| (Part { verb: "create", key }, why))?;
        self.message("create", key, NEWTABLE, CREATE, |w| {
            w.put_str(1, TABLE); // NFTA_TABLE_NAME
            if table.dormant {
                w.put_u32(2, DORMANT); // NFTA_TABLE_FLAGS
            }
            put_userdata(w, 6, &mark);
        });
        Ok(())
    }

    fn set(&mut self, id: u32, key: &'a Key, set: &Set, owner: Option<&Owner>) -> Result<(), Refused<'a>> {
        let refused = |why| (Part { verb: "create", key }, why);
        let (key_type, key_len) = data::layout(data::key_alone(&set.key)).map_err(refused)?;
        let data = match &set.data {
            None => None,
            Some(SetData::Verdict) => Some((VERDICT, 0)),
            Some(SetData::Values(types)) => Some(data::layout(types).map_err(refused)?),
        };
        let mut userdata = Vec::new();
        data::put_set_mark(&mut userdata, set, owner).map_err(refused)?;
        self.message("create", key, NEWSET, CREATE, |w| {
            put_names(w, 2, key); // NFTA_SET_NAME
            let interval = if set.is_interval() { SET_INTERVAL } else { 0 };
            w.put_u32(3, interval | if data.is_some() { SET_MAP } else { 0 }); // NFTA_SET_FLAGS
            w.put_u32(4, key_type); // NFTA_SET_KEY_TYPE
            w.put_u32(5, key_len); // NFTA_SET_KEY_LEN
            if let Some((data_type, data_len)) = data {
                w.put_u32(6, data_type); // NFTA_SET_DATA_TYPE
                w.put_u32(7, data_len); // NFTA_SET_DATA_LEN
            }
            if set.is_interval() {
                put_lengths(w, &set.key);
            }
            w.put_u32(10, id); // NFTA_SET_ID
            put_userdata(w, 13, &userdata); // NFTA_SET_USERDATA
            if set.counted {
                put_counter(w, 17); // NFTA_SET_EXPR: each element has one like it
            }
        });
        Ok(())
    }

    fn chain(
        &mut self,
        key: &'a Key,
        base: Option<BaseChain>,
        owner: Option<&Owner>,
        there: bool,
    ) -> Result<(), Refused<'a>> {
        let (verb, flags) = if there { ("update", 0) } else { ("create", CREATE) };
        let mut mark = Vec::new();
        data::put_mark(&mut mark, COMMENT, owner).map_err(|why| (Part { verb, key }, why))?;
        self.message(verb, key, NEWCHAIN, flags, |w| {
            put_names(w, 3, key); // NFTA_CHAIN_NAME
            if let Some(base) = base {
                if !there {
                    put_hook(w, base);
                }
                // NFTA_CHAIN_POLICY: NF_DROP, NF_ACCEPT.
                w.put_u32(5, u32::from(base.policy == Policy::Accept));
            }
            put_userdata(w, 12, &mark); // NFTA_CHAIN_USERDATA
        });
        Ok(())
    }

    fn rule(&mut self, verb: &'static str, key: &'a Key, rule: &Rule) -> Result<(), Refused<'a>> {
        let insns = compile(rule).map_err(|why| (Part { verb, key }, why))?;
        self.message(verb, key, NEWRULE, APPEND, |w| {
            put_names(w, 2, key); // NFTA_RULE_CHAIN
            w.nest(4, |w| insns.iter().for_each(|insn| insn.put(w))); // NFTA_RULE_EXPRESSIONS
        });
        Ok(())
    }

    /// Elements to add (with what they hold) or to delete, as many in a message as go.
    fn elements(&mut self, kind: u16, mut elements: Vec<Listed<'a>>) -> Result<(), Refused<'a>> {
        elements.sort_by_key(|(_, key, ..)| set_of(key)); // stable: the order of the steps within a set
        let flags = if kind == NEWSETELEM { CREATE } else { 0 };
        let mut scratch = Vec::new();
        for of_set in elements.chunk_by(|(_, a, ..), (_, b, ..)| set_of(a) == set_of(b)) {
            let mut rest = of_set.iter().peekable();
            while let Some(&&(verb, key, ..)) = rest.peek() {
                let mut outcome = Ok(());
                self.message_of_parts(verb, key, kind, flags, |w, parts| {
                    put_names(w, 2, key); // NFTA_SET_ELEM_LIST_SET
                    let start = w.len();
                    // NFTA_SET_ELEM_LIST_ELEMENTS
                    w.nest(3, |w| {
                        while w.len() - start < LIST_MAX && outcome.is_ok() {
                            let Some(element) = rest.next() else { break };
                            parts.push((w.len(), Part { verb: element.0, key: element.1 }));
                            outcome = put_element(w, &mut scratch, element);
                        }
                    });
                });
                outcome?;
            }
        }
        Ok(())
    }
}

/// Verb, key, what it holds, mark; the last two only of what is added.
type Listed<'a> = (&'static str, &'a Key, Option<&'a Element>, Option<&'a Owner>);

fn put_element<'a>(w: &mut Writer, scratch: &mut Vec<u8>, element: &Listed<'a>) -> Result<(), Refused<'a>> {
    const LIST_ELEM: u16 = 1;
    let (verb, key, element, owner) = *element;
    let Key::Element { key: values, .. } = key else { return Ok(()) };
    let mut outcome = Ok(());
    w.nest(LIST_ELEM, |w| {
        outcome = put_content(w, scratch, values, element.and_then(|element| element.data.as_ref()), owner);
    });
    outcome.map_err(|why| (Part { verb, key }, why))
}

fn put_content(
    w: &mut Writer,
    scratch: &mut Vec<u8>,
    key: &Concat,
    data: Option<&ElementData>,
    owner: Option<&Owner>,
) -> Result<(), Unfit> {
    put_values(w, scratch, 1, key, Bound::First)?; // NFTA_SET_ELEM_KEY
    if key.has_range() {
        put_values(w, scratch, 10, key, Bound::Last)?; // NFTA_SET_ELEM_KEY_END
    }
    match data {
        None => {}
        Some(ElementData::Verdict(verdict)) => put_verdict(w, 2, verdict), // NFTA_SET_ELEM_DATA
        Some(ElementData::Values(values)) => put_values(w, scratch, 2, values, Bound::First)?,
    }
    scratch.clear();
    data::put_mark(scratch, COMMENT, owner)?;
    put_userdata(w, 6, scratch); // NFTA_SET_ELEM_USERDATA
    Ok(())
}

fn put_values(w: &mut Writer, scratch: &mut Vec<u8>, kind: u16, values: &Concat, bound: Bound) -> Result<(), Unfit> {
    scratch.clear();
    data::put_concat(scratch, values, bound)?;
    put_value(w, kind, scratch);
    Ok(())
}

/// `NFTA_SET_DESC` with the length of each part of the key, which the kernel wants to know of ranges of joined values.
fn put_lengths(w: &mut Writer, key: &[DataType]) {
    const LIST_ELEM: u16 = 1;
    // NFTA_SET_DESC, NFTA_SET_DESC_CONCAT, NFTA_SET_FIELD_LEN.
    w.nest(9, |w| {
        w.nest(2, |w| data::widths(key).for_each(|width| w.nest(LIST_ELEM, |w| w.put_u32(1, width))));
    });
}

fn put_userdata(w: &mut Writer, kind: u16, userdata: &[u8]) {
    if !userdata.is_empty() {
        w.put(kind, userdata);
    }
}

pub(super) fn put_hook(w: &mut Writer, base: BaseChain) {
    // NFTA_CHAIN_TYPE.
    w.put_str(
        7,
        match base.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        },
    );
    let hook = match base.hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    };
    // NFTA_CHAIN_HOOK: NFTA_HOOK_HOOKNUM, _PRIORITY.
    w.nest(4, |w| {
        w.put_u32(1, hook);
        w.put_u32(2, base.priority.cast_unsigned());
    });
}
