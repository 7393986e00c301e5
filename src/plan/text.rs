//! The plan as text, for people: grouped by owner, one line for what is plain, more for what is not.

use std::collections::BTreeMap;
use std::fmt::Write;

use similar::{ChangeTag, TextDiff};

use super::view::flat;
use super::{Action, LeftOut, Op, Plan};
use crate::state::firewall::Chain;
use crate::state::{Entry, InterfaceName, Link, LinkKind, Object, Owner};

/// How many owners a line names.
const NAMED: usize = 40;

impl Plan {
    /// The plan as text; ends with a line feed.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for warning in &self.warnings {
            let _ = writeln!(out, "!   {}: {}", warning.code, warning.message);
        }
        if self.is_empty() {
            let _ = match self.left_out.changes {
                0 => writeln!(out, "No changes. {} matches {}.", self.host, self.file),
                _ => writeln!(out, "No changes for {}.", named(&self.targets)),
            };
            self.left_out(&mut out);
            return out;
        }
        if !self.warnings.is_empty() {
            out.push('\n');
        }
        let groups = self.groups();
        for (owner, actions) in &groups {
            let _ = match self.places.line(owner) {
                Some(line) => writeln!(out, "# {owner} ({line})"),
                None => writeln!(out, "# {owner}"),
            };
            for action in actions {
                self.action(&mut out, action);
            }
            out.push('\n');
        }
        self.tally(&mut out, groups.iter().map(|(owner, _)| owner));
        self.left_out(&mut out);
        out
    }

    fn left_out(&self, out: &mut String) {
        let LeftOut { changes, owners } = &self.left_out;
        let _ = match changes {
            0 => Ok(()),
            1 => writeln!(out, "Left out: 1 change for {}.", named(owners)),
            n => writeln!(out, "Left out: {n} changes for {}.", named(owners)),
        };
    }

    /// The actions by owner: netrec's own first, then in file order, then those whose owner is gone.
    fn groups(&self) -> Vec<(Owner, Vec<&Action>)> {
        let netrec = Owner::netrec();
        let mut groups: BTreeMap<(usize, Owner), Vec<&Action>> = BTreeMap::new();
        for action in &self.actions {
            let owner = action.owner();
            let rank = if owner == netrec { 0 } else { self.places.rank(&owner).map_or(usize::MAX, |r| r + 1) };
            groups.entry((rank, owner)).or_default().push(action);
        }
        groups.into_iter().map(|((_, owner), actions)| (owner, actions)).collect()
    }

    /// Why an object goes or is made anew.
    pub(super) fn reason(&self, action: &Action) -> Option<String> {
        if action.op != Op::Delete || action.reason.is_some() {
            return action.reason.clone();
        }
        let Some(owner) = action.owners().first() else {
            return Some(format!("nothing in {} asks for it", self.file));
        };
        if let Some(line) = self.places.line(owner) {
            return Some(format!("{owner} ({line}) does not ask for it"));
        }
        if *owner == Owner::netrec() {
            return Some(format!("{} does not ask for it", self.file));
        }
        let nearest = owner.ancestors().find_map(|o| Some((self.places.line(&o)?.to_owned(), o)));
        Some(match nearest {
            Some((line, near)) => format!("{owner} is no longer in the file; {near} is, at {line}"),
            None => format!("{owner} is no longer in {}", self.file),
        })
    }

    fn action(&self, out: &mut String, action: &Action) {
        let symbol = match action.op {
            Op::Create => "+  ",
            Op::Update => "~  ",
            Op::Delete => "-  ",
            Op::Replace => "-/+",
        };
        let _ = write!(out, "{symbol} {}", action.key);
        match (action.before.as_ref(), action.after.as_ref()) {
            (Some(Entry { object: Object::Chain(before), .. }), Some(Entry { object: Object::Chain(after), .. })) => {
                out.push('\n');
                rules(out, before, after, !action.replace.is_empty());
            }
            (None, Some(Entry { object: Object::Chain(after), .. })) => {
                out.push('\n');
                rules(out, &Chain { base: None, rules: Vec::new() }, after, false);
            }
            (None, after) => {
                summary(out, &flat(after));
                out.push('\n');
            }
            (Some(before), Some(after)) => {
                out.push('\n');
                changes(out, action, before, after);
            }
            (Some(_), None) => out.push('\n'),
        }
        if let Some(reason) = self.reason(action) {
            let _ = writeln!(out, "      # {reason}");
        }
    }

    fn tally<'a>(&self, out: &mut String, owners: impl Iterator<Item = &'a Owner>) {
        let s = self.summary();
        let _ = writeln!(
            out,
            "Plan: {} to create, {} to change, {} to replace, {} to remove.",
            s.create, s.update, s.replace, s.delete
        );
        let _ = writeln!(out, "For: {}", named(owners));
    }
}

/// Owners in a line that does not grow without bounds.
fn named<'a>(owners: impl IntoIterator<Item = &'a Owner>) -> String {
    let owners: Vec<&str> = owners.into_iter().map(Owner::as_str).collect();
    let (named, more) = owners.split_at(owners.len().min(NAMED));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    named.join(", ") + &more
}

impl Action {
    /// What is amiss while this is still to be done, in a line: `link nr-front: mtu is 1500 instead of 1400`.
    pub fn shortfall(&self) -> String {
        let key = &self.key;
        match (&self.before, &self.after) {
            (None, _) => format!("{key} is missing"),
            (_, None) => format!("{key} is still there"),
            (Some(Entry { object: Object::Chain(_), .. }), _) => format!("{key} has other rules than it should"),
            (before, after) => {
                let end = |entry: &Option<Entry>| match entry.as_ref().map(|e| &e.object) {
                    Some(Object::Link(Link { kind: LinkKind::Veth { peer }, .. })) => {
                        Some((peer.netns.clone(), peer.name))
                    }
                    _ => None,
                };
                if let (Some((_, InterfaceName::UNKNOWN)), Some((netns, _))) = (end(before), end(after)) {
                    return format!("{key}: its end in {netns} is nowhere to be found");
                }
                let old: BTreeMap<String, String> = flat(before.as_ref()).into_iter().collect();
                let differs = flat(after.as_ref()).into_iter().filter(|(path, value)| old.get(path) != Some(value));
                let words: Vec<String> = differs
                    .map(|(path, value)| {
                        let found = old.get(&path).map_or("(none)", String::as_str);
                        format!("{path} is {found} instead of {value}")
                    })
                    .collect();
                if words.is_empty() {
                    format!("{key} is not as it should be")
                } else {
                    format!("{key}: {}", words.join(", "))
                }
            }
        }
    }
}

/// The attributes of a new object on its own line: values by name, and of switches the names of those that are on.
fn summary(out: &mut String, attributes: &[(String, String)]) {
    let mut separator = ": ";
    for (path, value) in attributes.iter().filter(|(_, value)| value != "false") {
        let _ = match value.as_str() {
            "true" => write!(out, "{separator}{path}"),
            value => write!(out, "{separator}{path} {value}"),
        };
        separator = ", ";
    }
}

/// The attributes that change, one a line, and how many do not.
fn changes(out: &mut String, action: &Action, before: &Entry, after: &Entry) {
    let old: BTreeMap<String, String> = flat(Some(before)).into_iter().collect();
    let new = flat(Some(after));
    let mut unchanged = 0;
    let mut line = |path: &str, old: Option<&str>, new: Option<&str>| {
        let forces = if action.replace.contains(&path) { "  # forces replacement" } else { "" };
        let (old, new) = (old.unwrap_or("(none)"), new.unwrap_or("(none)"));
        let _ = writeln!(out, "      {path}: {old} -> {new}{forces}");
    };
    for (path, value) in &new {
        match old.get(path) {
            Some(old) if old == value => unchanged += 1,
            old => line(path, old.map(String::as_str), Some(value)),
        }
    }
    for (path, value) in old.iter().filter(|(path, _)| !new.iter().any(|(p, _)| p == *path)) {
        line(path, Some(value), None);
    }
    let mark = |e: &Entry| e.owner().map(|o| o.stem().to_owned());
    if action.key.kind().is_marked() && mark(before) != mark(after) {
        line("owner", before.owner().map(Owner::as_str), after.owner().map(Owner::as_str));
    }
    if unchanged > 0 {
        let _ = writeln!(out, "      ({unchanged} unchanged)");
    }
}

/// A chain's hook and rules as a line diff; its hook may be what cannot change in place.
fn rules(out: &mut String, before: &Chain, after: &Chain, forces: bool) {
    let hook = after.base.map(|base| base.to_string());
    let (before, after) = (lines(before), lines(after));
    let (before, after): (Vec<&str>, Vec<&str>) =
        (before.iter().map(String::as_str).collect(), after.iter().map(String::as_str).collect());
    for change in TextDiff::from_slices(&before, &after).iter_all_changes() {
        let sign = match change.tag() {
            ChangeTag::Equal => ' ',
            ChangeTag::Insert => '+',
            ChangeTag::Delete => '-',
        };
        let mark = if forces && sign == '+' && hook.as_deref() == Some(change.value()) {
            "  # forces replacement"
        } else {
            ""
        };
        let _ = writeln!(out, "    {sign} {}{mark}", change.value());
    }
}

fn lines(chain: &Chain) -> Vec<String> {
    let base = chain.base.iter().map(ToString::to_string);
    base.chain(chain.rules.iter().map(ToString::to_string)).collect()
}
