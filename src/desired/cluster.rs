//! What is to be said of a cluster, and what of the file does not fit this host's piece.

use ipnetwork::IpNetwork;

use super::Build;
use crate::config::{Attachment, Cluster, Container, Network, unusable};
use crate::state::{Away, Membership, Note};

/// How many entries of others that are not used are named.
const NAMED: usize = 8;

impl Build<'_> {
    /// Warns of what is not as it should be with the members, and refuses addresses of other hosts' pieces.
    pub(super) fn cluster(&mut self) {
        let (config, facts) = (self.config, self.facts);
        let Some((cluster, members)) = config.cluster.as_ref().zip(facts.members.as_deref()) else { return };
        let Some(network) = config.networks.get(cluster.network) else { return };
        self.standing(cluster, network, members);
        let attachments =
            config.containers.iter().flat_map(|c| c.attachments.iter().map(move |attachment| (c, attachment)));
        for (container, attachment) in attachments.filter(|(_, attachment)| attachment.network == cluster.network) {
            self.in_its_piece(container, attachment, network);
        }
    }

    fn standing(&mut self, cluster: &Cluster, network: &Network, members: &Membership) {
        let owner = Some(&cluster.owner);
        if let Some(Away { since, why }) = &members.away {
            let text =
                format!("{why}: the hosts of network `{}` are those that were known at {}", network.name, utc(*since));
            self.warn("cluster-away", text, owner);
        }
        if !members.held {
            let pieces: Vec<String> = members.own.pieces.iter().map(ToString::to_string).collect();
            let text =
                format!("this host has no piece of network `{}` yet: apply leases {}", network.name, pieces.join(" "));
            self.warn("lease", text, owner);
        }
        let (ignored, others): (Vec<&Note>, Vec<&Note>) =
            members.notes.iter().partition(|note| matches!(note, Note::Ignored(_)));
        for note in others.into_iter().chain(ignored.iter().take(NAMED).copied()) {
            self.warn(note.code(), note.text().to_owned(), owner);
        }
        if let Some(more) = ignored.len().checked_sub(NAMED).filter(|more| *more > 0) {
            self.warn("cluster-entry", format!("{more} more entries in etcd are not used"), owner);
        }
    }

    /// A container's address is of this host's piece, and nobody else's there.
    fn in_its_piece(&mut self, container: &Container, attachment: &Attachment, network: &Network) {
        for address in &attachment.addresses {
            let piece = network.subnets.iter().find(|subnet| subnet.net.is_ipv6() == address.is_ipv6());
            let Some(piece) = piece else { continue };
            let net: IpNetwork = piece.net;
            let why = if !net.contains(*address) {
                "not in it"
            } else if Some(*address) == piece.gateway {
                "its gateway"
            } else if let Some(why) = unusable(*address, &net) {
                why
            } else {
                continue;
            };
            let text = format!(
                "container `{}` is to have the address {address} ({}), but this host's piece of network `{}` is {net}, and it is {why}: \
                 leave `address` out, or say with `subnet` in [cluster] which piece is this host's",
                container.name,
                self.config.sources.line(&attachment.place),
                network.name
            );
            self.refuse([&attachment.owner], text);
        }
    }
}

/// A time in seconds since 1970, as `2026-11-29 00:10:05 UTC`. Days to dates by eras of 400 years that begin in March.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let from_march = days + 719_468;
    let (era, day) = (from_march / 146_097, from_march % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn seconds_are_a_date_and_a_time() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_824_000, "2026-11-28 00:00:00 UTC"),
            (4_102_444_799, "2099-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
