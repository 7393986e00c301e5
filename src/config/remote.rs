//! What a network of a plugin's has beside subnets: the plugin, who gives addresses, and options.

use std::collections::BTreeMap;

use super::driver::Keys;
use super::networks::Draft;
use super::reader::{Fault, Item, Problems, named, parsed, tick};
use super::report::Problem;
use super::types::Remote;
use crate::state::ObjectName;

/// Reads `plugin`, `ipam` and `options`; none where there is no plugin to speak of.
pub(super) fn read(draft: &Draft, table: Keys, meant: &[&str], problems: &mut Problems) -> Option<Remote> {
    let mut plugin = |key| {
        let item = table.get(key)?;
        let text = item.string("the name of a plugin", problems)?;
        parsed(name(text), &item, problems)
    };
    let (driver, ipam) = (plugin("plugin"), plugin("ipam"));
    if table.get("plugin").is_none() && !meant.contains(&"plugin") {
        let message = format!("network `{}` has no `plugin`", draft.name);
        let help = "name the plugin that makes it: `plugin = \"example\"` listens at /run/docker/plugins/example.sock";
        problems.push(Problem::new(draft.place.clone(), message).with_help(help));
    }
    let options = table.get("options").map(|item| read_options(&item, problems)).unwrap_or_default();
    one_of_a_family(draft, problems);
    Some(Remote { plugin: driver?, ipam, options })
}

/// Parses a plugin's name, or the path of its socket.
fn name(text: &str) -> Result<String, Fault> {
    let is_path = text.starts_with('/') && !text.split('/').any(|part| part == "..");
    if is_path {
        return Ok(text.to_owned());
    }
    named::<ObjectName>(text).map(|name| name.to_string()).map_err(|fault| {
        fault.help(
            "a plugin goes by the name of its socket in /run/docker/plugins without `.sock`, or by a socket's path",
        )
    })
}

fn read_options(item: &Item, problems: &mut Problems) -> BTreeMap<String, String> {
    let Some(table) = item.table("write `options = { mtu = \"1400\" }`", problems) else { return BTreeMap::new() };
    let option = |item: Item| {
        let text = item.string("a string, as all options of plugins are", problems)?;
        Some((item.key().to_owned(), text.to_owned()))
    };
    table.items().filter_map(option).collect()
}

/// A plugin's endpoint has one address of a family, so that a second subnet of it would have none.
fn one_of_a_family(draft: &Draft, problems: &mut Problems) {
    for (ipv6, family) in [(false, "IPv4"), (true, "IPv6")] {
        let mut subnets = draft.subnets.iter().filter(|subnet| subnet.net.is_ipv6() == ipv6);
        let Some(first) = subnets.next() else { continue };
        for second in subnets {
            let message = format!("network {} has two {family} subnets", tick(draft.name.as_str()));
            let problem = Problem::new(second.place.clone(), message).with_other(first.place.clone(), "the first");
            problems.push(problem.with_label("a plugin gives a container one address of a family"));
        }
    }
}
