//! `[hosts.NAME]`: one host at a time.

use std::net::IpAddr;

use super::file::owner;
use super::reader::{Item, Placed, Problems, parsed};
use super::report::Problem;
use super::types::{Host, Place, Share};
use super::{keys, values};
use crate::state::ObjectName;

/// The largest number of a host; of pieces a subnet seldom has more.
pub(super) const ID_MAX: i64 = 0xff_ffff;

/// A host with the places that checks need.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: ObjectName,
    pub(super) place: Place,
    pub(super) id: Placed<u32>,
    /// At least one, and one of a family at most.
    pub(super) addresses: Vec<Placed<IpAddr>>,
}

impl Draft {
    /// The host, once nothing is wrong.
    pub(super) fn finish(self) -> Host {
        Host {
            owner: owner(&["hosts", self.name.as_str()]),
            name: self.name,
            place: self.place,
            share: Share::Number(self.id.value),
            addresses: self.addresses.into_iter().map(|address| address.value).collect(),
        }
    }
}

/// Reads a host; none where its number or address is missing or wrong.
pub(super) fn read(name: ObjectName, item: &Item, problems: &mut Problems) -> Option<Draft> {
    let table = item.table(&format!("write `[hosts.{name}]`"), problems)?;
    let meant = table.check_keys(&keys::HOST, problems);
    let place = item.key_place();
    let mut missing = |key: &str, help: &str| {
        if !meant.contains(&key) {
            let problem = Problem::new(place.clone(), format!("host `{name}` has no `{key}`"));
            problems.push(problem.with_help(help));
        }
    };
    let (id, address) = (table.get("id"), table.get("address"));
    if id.is_none() {
        missing("id", "each host has a number of its own, such as `id = 1`");
    }
    if address.is_none() {
        missing("address", "it is where the other hosts reach it, such as `address = \"192.0.2.1\"`");
    }
    let id = id.and_then(|item| {
        let id = item.integer(&format!("a number from 1 to {ID_MAX}"), 1..=ID_MAX, problems)?;
        Some(item.placed(u32::try_from(id).ok()?))
    });
    let addresses = address.map(|item| read_addresses(&item, problems)).filter(|addresses| !addresses.is_empty());
    Some(Draft { name, place, id: id?, addresses: addresses? })
}

/// Reads `address`: one of a family at most.
fn read_addresses(item: &Item, problems: &mut Problems) -> Vec<Placed<IpAddr>> {
    let mut addresses: Vec<Placed<IpAddr>> = Vec::new();
    for item in item.one_or_more("at least one is needed", problems) {
        let Some(address) = read_address(&item, problems) else { continue };
        if let Some(first) = addresses.iter().find(|first| first.value.is_ipv6() == address.value.is_ipv6()) {
            let family = if address.value.is_ipv6() { "IPv6" } else { "IPv4" };
            let problem = Problem::new(address.place, format!("a host has one {family} address that its peers know"));
            problems.push(problem.with_label("the second").with_other(first.place.clone(), "the first"));
        } else {
            addresses.push(address);
        }
    }
    addresses
}

/// Reads where others reach a host.
pub(super) fn read_address(item: &Item, problems: &mut Problems) -> Option<Placed<IpAddr>> {
    let text = item.string("an address", problems)?;
    let address = parsed(values::address(text), item, problems)?;
    if let Some(why) = values::not_unicast(&address.into()) {
        let message = format!("`{address}` cannot be a host's address");
        problems.push(Problem::new(item.place(), message).with_label(why));
        return None;
    }
    Some(item.placed(address))
}
