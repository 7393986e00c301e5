//! Namespaces that somebody else made: opened once, or found by what netrec made in them.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use nix::errno::Errno;

use super::netlink::link::{self, RawLink};
use super::netns::{self, Everywhere, Handle, Id, Namespaces};
use super::transport::Socket;
use crate::state::{Lead, Netns, Owner, SearchedFor, Whereabouts};

/// Opens the namespaces that are searched for, and keeps them open until the next search. Where nobody tells, it is the one
/// that holds a device of the container's.
pub(super) fn find(namespaces: &mut Namespaces, wanted: &[SearchedFor]) -> BTreeMap<Netns, Whereabouts> {
    namespaces.release(|netns| netns.source().is_some());
    let mut found = BTreeMap::new();
    let mut untold = Vec::new();
    for SearchedFor { netns, owner, lead } in wanted {
        let whereabouts = match lead {
            Lead::At(path) => open(namespaces, netns, path),
            Lead::Absent(why) => Whereabouts::Absent(why.clone()),
            Lead::Refused(why) => Whereabouts::Refused(why.clone()),
            Lead::Unknown(why) => {
                untold.push((netns, owner));
                Whereabouts::Unknown(why.clone())
            }
        };
        found.insert(netns.clone(), whereabouts);
    }
    if !untold.is_empty() {
        by_marks(namespaces, &untold, &mut found);
    }
    found
}

fn open(namespaces: &mut Namespaces, netns: &Netns, path: &str) -> Whereabouts {
    match Handle::open(Path::new(path)) {
        Ok(Some(handle)) => {
            let id = handle.id;
            namespaces.hold(netns.clone(), handle);
            Whereabouts::Here(id)
        }
        Ok(None) => Whereabouts::Absent(format!("for which there is no network namespace at {path}")),
        Err(error) => Whereabouts::Refused(format!("whose network namespace {path} cannot be opened: {error}")),
    }
}

/// Looks into all namespaces for devices of the containers whose engines do not tell. A device's mark names its owner.
fn by_marks(namespaces: &mut Namespaces, untold: &[(&Netns, &Owner)], found: &mut BTreeMap<Netns, Whereabouts>) {
    let inode = namespaces.host_id().1;
    for_each_other(namespaces, &mut HashSet::new(), &mut netns::everywhere(), |namespaces, handle, _, socket| {
        let Ok(links) = link::dump(socket) else { return };
        let is_of = |link: &RawLink, owner: &Owner| {
            let marked = |mark: &link::Mark| mark.inode == Some(inode) && mark.owner.is_within(owner);
            link.is_marked() && link.mark.as_ref().is_some_and(marked)
        };
        let whose = untold.iter().find(|(_, owner)| links.iter().any(|link| is_of(link, owner)));
        if let Some((netns, _)) = whose
            && let Some(Whereabouts::Unknown(why)) = found.get(*netns)
        {
            let believed = Whereabouts::Believed(handle.id, why.clone());
            found.insert((*netns).clone(), believed);
            namespaces.hold((*netns).clone(), handle);
        }
    });
}

/// Looks, by a socket, into the namespaces of mounts and processes that are none of those seen, nor the host's own. What
/// cannot be entered is put to what cannot be seen.
pub(super) fn for_each_other(
    namespaces: &mut Namespaces,
    seen: &mut HashSet<Id>,
    everywhere: &mut Everywhere,
    mut look: impl FnMut(&mut Namespaces, Handle, &Path, &mut Socket),
) {
    seen.insert(namespaces.host_id());
    for (id, path) in &everywhere.found {
        if !seen.insert(*id) {
            continue;
        }
        // None where what held it has ended.
        let opened = Handle::open(path).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
        let socket = match opened {
            Ok(None) => continue,
            Ok(Some(handle)) => namespaces.visit(&handle, Socket::open).map(|socket| (handle, socket)),
            Err(errno) => Err(errno),
        };
        match socket {
            Ok((handle, Ok(mut socket))) => look(namespaces, handle, path, &mut socket),
            Ok((_, Err(_))) | Err(_) => everywhere.unseen.push(path.clone()),
        }
    }
}
