//! Other programs' tables: their chains, hooks and policies, by one dump of all chains of the namespace.

use super::ruleset::{inet, nft};
use crate::kernel::nfnetlink::socket::{Socket, Trouble};
use crate::kernel::nfnetlink::wire::{Message, Slots, Writer};
use crate::state::firewall::{Hook, Policy, TABLE};
use crate::state::{ForeignChain, ForeignTable, TableFamily};

// `enum nf_tables_msg_types`.
const GETTABLE: u16 = 1;
const GETCHAIN: u16 = 4;

/// `NFPROTO_UNSPEC`: chains of every family.
const EVERY_FAMILY: u8 = 0;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`.
const TABLE_NAME: u16 = 1;

/// The number of a family (`NFPROTO_*`).
fn number(family: TableFamily) -> u8 {
    match family {
        TableFamily::Inet => inet(0).1,
        TableFamily::Ip => 2,
        TableFamily::Bridge => 7,
        TableFamily::Ip6 => 10,
    }
}

fn family(number: u8) -> Option<TableFamily> {
    use TableFamily::{Bridge, Inet, Ip, Ip6};
    [Inet, Ip, Bridge, Ip6].into_iter().find(|family| self::number(*family) == number)
}

/// The tables that are not netrec's and have a base chain on `forward` or `input`.
pub(super) fn dump(socket: &mut Socket) -> Result<Vec<ForeignTable>, Trouble> {
    let mut tables: Vec<ForeignTable> = Vec::new();
    socket.dump(
        (nft(GETCHAIN), EVERY_FAMILY),
        |_| {},
        |message| {
            let Some((family, table, chain)) = parse(message) else { return };
            // The kernel lists table by table.
            match tables.last_mut().filter(|last| last.family == family && last.name == table) {
                Some(last) => last.chains.push(chain),
                None => tables.push(ForeignTable { family, name: table, chains: vec![chain], rules_known: false }),
            }
        },
    )?;
    tables.retain(|table| table.chains.iter().any(|chain| chain.base.is_some()));
    let mut awake = Vec::new();
    for table in tables {
        if !sleeps(socket, &table)? {
            awake.push(table);
        }
    }
    Ok(awake)
}

/// Whether a message tells of a chain of another table's.
#[cfg(feature = "fuzzing")]
pub(super) fn is_chain(message: Message<'_>) -> bool {
    parse(message).is_some()
}

fn parse(message: Message<'_>) -> Option<(TableFamily, String, ForeignChain)> {
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const HOOK_NUMBER: u16 = 1;
    const DROP: u32 = 0; // NF_DROP
    let family = family(*message.payload.first()?)?;
    let all = Slots::new(message.attributes());
    let table = all.text(TABLE_NAME)?;
    if family == TableFamily::Inet && table == TABLE {
        return None;
    }
    // `NF_INET_*`, and the same numbers of bridges (`NF_BR_*`).
    let hook = match all.nested(HOOK).and_then(|hook| hook.u32(HOOK_NUMBER)) {
        Some(1) => Some(Hook::Input),
        Some(2) => Some(Hook::Forward),
        _ => None,
    };
    let policy = if all.u32(POLICY) == Some(DROP) { Policy::Drop } else { Policy::Accept };
    let chain =
        ForeignChain { name: all.text(NAME)?.to_owned(), base: hook.map(|hook| (hook, policy)), rules: Vec::new() };
    Some((family, table.to_owned(), chain))
}

/// Whether a table's chains are not called (`NFT_TABLE_F_DORMANT`), or the table is gone by now.
fn sleeps(socket: &mut Socket, table: &ForeignTable) -> Result<bool, Trouble> {
    const FLAGS: u16 = 2;
    const DORMANT: u32 = 1;
    let name = |w: &mut Writer| w.put_str(TABLE_NAME, &table.name);
    let flags = socket.request((nft(GETTABLE), number(table.family)), name, |attributes| {
        Some(Slots::new(attributes).u32(FLAGS).unwrap_or(0))
    });
    match flags {
        Err(Trouble::Refused(fault)) if fault.errno == nix::libc::ENOENT => Ok(true),
        flags => Ok(flags? & DORMANT != 0),
    }
}
