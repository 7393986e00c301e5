//! The drivers: their names, and the part of a network's table that each reads.

use super::keys::NETWORK;
use super::reader::{Item, Problems, Table, tick};
use super::report::Problem;

/// The drivers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Bridge,
    Overlay,
    Macvlan,
    Ipvlan,
    Remote,
    Host,
    Null,
}

impl Named {
    pub(super) const ALL: [Self; 7] =
        [Self::Bridge, Self::Overlay, Self::Macvlan, Self::Ipvlan, Self::Remote, Self::Host, Self::Null];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Overlay => "overlay",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Remote => "remote",
            Self::Host => "host",
            Self::Null => "null",
        }
    }

    /// Whether its networks have a key.
    fn has(self, key: &str) -> bool {
        NETWORK.key(key).is_some_and(|key| key.is_of(self))
    }
}

/// Reads `driver`; none where it is none that there is.
pub(super) fn read(table: Table, problems: &mut Problems) -> Option<Named> {
    let Some(item) = table.get("driver") else { return Some(Named::Bridge) };
    let text = item.string("the name of a driver", problems)?;
    if let Some(driver) = Named::ALL.into_iter().find(|driver| driver.as_str() == text) {
        return Some(driver);
    }
    let problem = Problem::new(item.place(), format!("unknown driver {}", tick(text)));
    let problem = match problems.suggest(text, Named::ALL.into_iter().map(Named::as_str)) {
        Some(name) => problem.with_label(format!("did you mean `{name}`?")),
        None => problem.with_help("the driver is `bridge`, which is the default"),
    };
    problems.push(problem);
    None
}

/// The part of a network's table that its driver reads.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    table: Table<'a>,
    driver: Named,
}

impl<'a> Keys<'a> {
    /// The value of a key of the driver's. One that is another's counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<Item<'a>> {
        self.table.get(key).filter(|_| self.driver.has(key))
    }
}

/// Complains of keys that no network has, and of those that networks of other drivers have. Yields the rest, and the keys
/// that were meant by wrong ones.
pub(super) fn keys<'a>(table: Table<'a>, driver: Named, problems: &mut Problems) -> (Keys<'a>, Vec<&'static str>) {
    let meant = table.check_keys(&NETWORK, problems);
    for item in table.items() {
        let key = item.key();
        if NETWORK.key(key).is_none() || driver.has(key) {
            continue;
        }
        let owners = Named::ALL.into_iter().filter(|other| other.has(key)).map(Named::as_str);
        let owners: Vec<&str> = owners.collect();
        let problem = Problem::new(item.key_place(), format!("{} is of {} networks", tick(key), listed(&owners)));
        problems.push(problem.with_label(format!("this one's driver is `{}`", driver.as_str())));
    }
    (Keys { table, driver }, meant)
}

/// `bridge, macvlan and ipvlan`
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [front @ .., last] => format!("{} and {last}", front.join(", ")),
    }
}
