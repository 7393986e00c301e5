//! The difference between what is wanted and what there is, as actions in order, and its renderings. Pure.

mod addresses;
mod announcements;
mod diff;
pub mod flows;
mod json;
mod part;
mod phases;
mod text;
mod view;
mod warnings;

pub use announcements::announcements;
pub use diff::{Diff, diff, moved_addresses};
pub use json::FORMAT_VERSION;
pub use part::Part;
pub use phases::{Phase, phases};
pub use warnings::{meets_others, published, surroundings};

use std::collections::BTreeMap;

use crate::state::{Entry, Key, Netns, Owner, Places, Warning};

/// What is to be done to make live state the desired one.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The host's name.
    pub host: String,
    /// The changes, in the order of their keys.
    pub actions: Vec<Action>,
    /// The namespaces of others that the changes are in, by numbers that tell each from those that come after it.
    pub namespaces: BTreeMap<Netns, (u64, u64)>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
    /// Where owners stand in the file.
    pub places: Places,
    /// The name of the file, for messages.
    pub file: String,
    /// The owners that it is for; none where it is for all.
    pub targets: Vec<Owner>,
    /// What is left out because it is for others.
    pub left_out: LeftOut,
}

/// What a partial plan leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many changes.
    pub changes: usize,
    /// For whom, each once.
    pub owners: Vec<Owner>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// How many actions there are of each sort.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for action in &self.actions {
            *match action.op {
                Op::Create => &mut summary.create,
                Op::Update => &mut summary.update,
                Op::Replace => &mut summary.replace,
                Op::Delete => &mut summary.delete,
            } += 1;
        }
        summary
    }
}

/// The tally of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Objects to create.
    pub create: usize,
    /// Objects to change in place.
    pub update: usize,
    /// Objects to delete and create anew.
    pub replace: usize,
    /// Objects to delete.
    pub delete: usize,
}

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// It comes to be.
    Create,
    /// It changes in place.
    Update,
    /// It is deleted and created anew, since something about it cannot change in place.
    Replace,
    /// It goes.
    Delete,
}

/// One change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What happens.
    pub op: Op,
    /// To which object.
    pub key: Key,
    /// What it is now; none when it is to be created.
    pub before: Option<Entry>,
    /// What it will be; none when it is to be deleted.
    pub after: Option<Entry>,
    /// The paths of the attributes that cannot change in place.
    pub replace: Vec<&'static str>,
    /// Why, where that is not plain: for every deletion and replacement.
    pub reason: Option<String>,
    /// Whether it happens by itself when another object goes (an address with its link, an element with its set).
    pub implied: bool,
    /// Whether it goes before things are made, and not last, since it is in their way or takes them along.
    pub early: bool,
    /// Whether it is to be seen at the end only, when another object is gone (which address is the first of its subnet).
    pub waits: bool,
}

impl Action {
    /// The owners: the wanted ones, or of an object that goes the one its mark names.
    pub fn owners(&self) -> &[Owner] {
        self.after.as_ref().or(self.before.as_ref()).map_or(&[], |e| &e.owners)
    }

    /// The first owner; `netrec` where no mark tells.
    pub fn owner(&self) -> Owner {
        self.owners().first().cloned().unwrap_or_else(Owner::netrec)
    }
}

/// A foreign object stands where one of netrec's is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The object.
    pub key: Key,
    /// What tells that it is foreign.
    pub why: String,
    /// Who wants the place.
    pub owner: Owner,
}
