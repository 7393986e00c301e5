//! What macvlan and ipvlan networks have: the device that they are on, and how.

use super::driver::{Keys, Named};
use super::networks::{Draft, DraftDriver};
use super::reader::{Fault, Item, Placed, Problems, named, parsed, tick};
use super::report::Problem;
use super::types::Parent;
use crate::state::{InterfaceName, IpvlanMode, MacvlanMode};

/// The largest VLAN id (IEEE 802.1Q: 12 bits, of which the last is reserved, as is 0).
const VID_MAX: u16 = 4094;

/// Reads `parent` and `type`; none where there is no parent to speak of.
pub(super) fn read(
    draft: &Draft,
    table: Keys,
    driver: Named,
    meant: &[&str],
    problems: &mut Problems,
) -> Option<DraftDriver> {
    let parent = read_parent(draft, table, meant, problems);
    let of_macvlan = driver == Named::Macvlan;
    let item = table.get("type");
    // Both are looked at, so that what is wrong with either is said.
    let (macvlan, ipvlan) = if of_macvlan {
        (
            item.map_or(Some(MacvlanMode::Bridge), |item| {
                read_type(&item, MacvlanMode::ALL, MacvlanMode::as_str, problems)
            }),
            None,
        )
    } else {
        (
            None,
            item.map_or(Some(IpvlanMode::L2), |item| read_type(&item, IpvlanMode::ALL, IpvlanMode::as_str, problems)),
        )
    };
    let parent = parent?;
    if of_macvlan {
        return Some(DraftDriver::Macvlan(parent, macvlan?));
    }
    let place = item.map_or_else(|| draft.place.clone(), |item| item.place());
    Some(DraftDriver::Ipvlan(parent, Placed { value: ipvlan?, place }))
}

fn read_parent(draft: &Draft, table: Keys, meant: &[&str], problems: &mut Problems) -> Option<Placed<Parent>> {
    let Some(item) = table.get("parent") else {
        if !meant.contains(&"parent") {
            let message = format!("network `{}` has no `parent`", draft.name);
            let help = "name the device of the host that its containers are to be on: `parent = \"eth0\"`, or \
                        `parent = \"eth0.10\"` for VLAN 10 of it";
            problems.push(Problem::new(draft.place.clone(), message).with_help(help));
        }
        return None;
    };
    let text = item.string("the name of a device", problems)?;
    parsed(parent(text), &item, problems).map(|parent| item.placed(parent))
}

/// Parses `eth0` or `eth0.10`.
fn parent(text: &str) -> Result<Parent, Fault> {
    let name: InterfaceName = named(text)?;
    if name == InterfaceName::LO {
        return Err(Fault::new("`lo` leads nowhere, so that nothing can be on it").label("name a device with a link"));
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let Some((below, digits)) = text.rsplit_once('.').filter(|(_, digits)| is_number(digits)) else {
        return Ok(Parent { name, vlan: None });
    };
    let at = below.len() + 1..text.len();
    let vid = digits.parse().ok().filter(|vid| (1..=VID_MAX).contains(vid) && !digits.starts_with('0'));
    let Some(vid) = vid else {
        let fault = Fault::new(format!("{} is no VLAN of {}", tick(text), tick(below)));
        return Err(fault.label(format!("a VLAN is a number from 1 to {VID_MAX}")).part(at));
    };
    let below: InterfaceName = named(below)?;
    if below == InterfaceName::LO {
        return Err(Fault::new("`lo` has no VLANs").label("name a device with a link"));
    }
    Ok(Parent { name, vlan: Some((below, vid)) })
}

/// The words for how containers are on their device, of either driver.
pub(super) fn types() -> Vec<&'static str> {
    let macvlan = MacvlanMode::ALL.into_iter().map(MacvlanMode::as_str);
    macvlan.chain(IpvlanMode::ALL.into_iter().map(IpvlanMode::as_str)).collect()
}

fn read_type<T: Copy, const N: usize>(
    item: &Item,
    known: [T; N],
    word: fn(T) -> &'static str,
    problems: &mut Problems,
) -> Option<T> {
    let words: Vec<String> = known.into_iter().map(|one| format!("`\"{}\"`", word(one))).collect();
    let (last, front) = words.split_last()?;
    let expected = format!("{} or {last}", front.join(", "));
    let text = item.string(&expected, problems)?;
    if let Some(found) = known.into_iter().find(|one| word(*one) == text) {
        return Some(found);
    }
    let problem = Problem::new(item.place(), format!("unknown type {}", tick(text)));
    let problem = match problems.suggest(text, known.map(word)) {
        Some(meant) => problem.with_label(format!("did you mean `{meant}`?")),
        None => problem.with_help(format!("a type is {expected}")),
    };
    problems.push(problem);
    None
}

/// Where the device itself is the way out, there is no router to name.
pub(super) fn no_gateway(draft: &mut Draft, table: Keys, problems: &mut Problems) {
    let DraftDriver::Ipvlan(_, mode) = &draft.driver else { return };
    if mode.value.has_link() {
        return;
    }
    draft.subnets.iter_mut().for_each(|subnet| subnet.gateway = None);
    if let Some(item) = table.get("gateway").filter(|item| item.as_bool() != Some(false)) {
        let message = format!("an ipvlan network of type `{}` has no gateway", mode.value.as_str());
        let problem = Problem::new(item.key_place(), message);
        problems.push(problem.with_label("all packets go to the device, and are routed there"));
    }
}
