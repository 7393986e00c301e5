//! Queueing disciplines as state: netrec's on its own links, and those of others that are in the way. In the host they are
//! looked for wherever netrec has a link; in a container where there are to be some, or where its devices tell of them.

use std::collections::HashMap;

use super::ReadError;
use super::live::dump_error;
use super::netlink::link::{self, RawKind, RawLink};
use super::netlink::qdisc::{self, Filters, RawQdisc};
use super::transport::Socket;
use crate::state::{Entry, InterfaceName, Key, Netns, Object, Owner, Qdisc, Scope, Standing};

/// Whether there may be some in a namespace with these devices. `inode` is the inode number of the host's.
pub(super) fn is_of_interest(netns: &Netns, links: &[RawLink], inode: u64, scope: &Scope) -> bool {
    let ours = |link: &&RawLink| is_ours(netns, link, inode);
    let tells = |link: &RawLink| netns.is_host() || link.kind == RawKind::Ifb || link.shaped;
    links.iter().filter(ours).any(tells) || scope.shaped.iter().any(|(wanted, _)| wanted == netns)
}

/// Whether a link is netrec's. In a namespace that is not the host's, one that does not say of which host it is belongs to a
/// netrec in there.
fn is_ours(netns: &Netns, link: &RawLink, inode: u64) -> bool {
    let says = netns.is_host() || link.mark.as_ref().is_some_and(|mark| mark.inode == Some(inode));
    link.is_marked() && says && link.standing(inode).is_ours()
}

/// Lists those of a namespace by a socket in it, each with what hangs on it.
pub(super) fn read(socket: &mut Socket, netns: &Netns) -> Result<Vec<(RawQdisc, Filters)>, ReadError> {
    let listed = qdisc::dump(socket).map_err(|e| dump_error("queueing disciplines", netns, e))?;
    let with_filters = |raw: RawQdisc| {
        let filters = match raw.qdisc {
            Qdisc::Clsact { .. } => qdisc::filters(socket, raw.index).map_err(|e| dump_error("filters", netns, e))?,
            _ => Filters::None,
        };
        Ok((raw, filters))
    };
    listed.into_iter().map(with_filters).collect()
}

/// Those of a namespace with the devices `links` that are of interest.
pub(super) fn entries(
    listed: &[(RawQdisc, Filters)],
    netns: &Netns,
    links: &[RawLink],
    inode: u64,
    scope: &Scope,
) -> Vec<(Key, Entry)> {
    let mut entries = Vec::new();
    // A crash leaves a device without a name to which a named one redirects what comes in.
    let mut led_to: HashMap<InterfaceName, Owner> = HashMap::new();
    for (raw, filters) in listed {
        let of_interest = |link: &&RawLink| is_ours(netns, link, inode);
        let Some(link) = link::by_index(links, raw.index).filter(of_interest) else { continue };
        let (mut found, mut marked) = (raw.qdisc.clone(), raw.marked);
        if let Qdisc::Clsact { redirect } = &mut found {
            if let Filters::Ours(to) = filters {
                *redirect = link::by_index(links, *to).map(|link| link.name);
            }
            // A crash or a refusal leaves the hook without its filter, beside the device that was to take what comes in.
            let beside = |other: &&RawLink| {
                let owner = |link: &RawLink| link.mark.as_ref().map(|mark| mark.owner.clone());
                other.kind == RawKind::Ifb && is_ours(netns, other, inode) && owner(other) == owner(link)
            };
            marked = match filters {
                Filters::Ours(_) => true,
                Filters::Others => false,
                Filters::None => links.iter().any(|link| beside(&link)),
            };
            if let (Some(to), Some(mark)) = (*redirect, &link.mark) {
                led_to.insert(to, mark.owner.clone());
            }
        }
        if !marked && !scope.shaped.contains(&(netns.clone(), link.name)) {
            continue;
        }
        let key = Key::Qdisc { netns: netns.clone(), link: link.name, hook: raw.hook };
        let owners = link.mark.iter().map(|mark| mark.owner.clone()).collect();
        entries.push((key, Entry { object: Object::Qdisc(found), owners, standing: Standing::Ours }));
    }
    for (key, entry) in &mut entries {
        if let Key::Qdisc { link, .. } = key
            && entry.owners.iter().all(|owner| *owner == Owner::netrec())
            && let Some(owner) = led_to.get(link)
        {
            entry.owners = vec![owner.clone()];
        }
    }
    entries
}
