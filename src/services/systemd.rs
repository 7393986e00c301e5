//! systemd's units and machines, by the programs that come with it: what they print for programs is stable, and it saves a
//! client of D-Bus.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::file_of;
use super::program::output;
use crate::state::Lead;

/// How long a program may take. It takes some ten milliseconds.
const LIMIT: Duration = Duration::from_secs(5);
/// Where machines are registered on the bus (org.freedesktop.machine1(5)).
const MACHINES: [&str; 2] = ["org.freedesktop.machine1", "/org/freedesktop/machine1"];

/// Where the main processes of services are, in the order of their names: one question for all.
pub(super) fn units(names: &[&str]) -> Vec<Lead> {
    let properties = "--property=LoadState,ActiveState,MainPID,NetworkNamespacePath";
    let args = [&["show", "--no-pager", properties, "--"], names].concat();
    let unknown = |why: String| vec![Lead::Unknown(format!("systemd cannot be asked ({why})")); names.len()];
    let text = match output("systemctl", &args, LIMIT) {
        Ok(text) => text,
        Err(why) => return unknown(why),
    };
    // A paragraph for each, in their order.
    let units: Vec<BTreeMap<&str, &str>> = text
        .split("\n\n")
        .map(|paragraph| paragraph.lines().filter_map(|line| line.split_once('=')).collect())
        .collect();
    if units.len() != names.len() {
        return unknown(format!("systemctl told of {} units instead of {}", units.len(), names.len()));
    }
    names.iter().zip(units).map(|(name, unit)| unit_lead(name, &unit)).collect()
}

fn unit_lead(name: &str, unit: &BTreeMap<&str, &str>) -> Lead {
    let property = |name: &str| unit.get(name).copied().unwrap_or_default();
    match property("LoadState") {
        "loaded" => {}
        "not-found" => return Lead::Absent("which does not exist".to_owned()),
        "" => return Lead::Unknown("systemd cannot be asked (systemctl told nothing of it)".to_owned()),
        state => return Lead::Absent(format!("which is {state} (systemctl status {name})")),
    }
    // It is there whether the unit runs or not.
    match property("NetworkNamespacePath") {
        "" => {}
        path => return Lead::At(path.to_owned()),
    }
    match property("MainPID") {
        "" | "0" if property("ActiveState") == "active" => {
            Lead::Absent("which has no main process that systemd knows of".to_owned())
        }
        "" | "0" => Lead::Absent(format!("which does not run (systemctl start {name})")),
        pid => file_of(pid),
    }
}

/// Where the leaders of machines are, in the order of their names.
pub(super) fn machines(names: &[&str]) -> Vec<Lead> {
    let unknown = |why: String| Lead::Unknown(format!("systemd-machined cannot be asked ({why})"));
    let [service, path] = MACHINES;
    let listed = call(&["call", service, path, &format!("{service}.Manager"), "ListMachines"]);
    let listed = match listed {
        Ok(listed) => listed,
        Err(why) => return vec![unknown(why); names.len()],
    };
    // One argument, a list of machines: name, class, service, path.
    let all = listed["data"][0].as_array().map_or(&[][..], Vec::as_slice);
    let path_of = |name: &str| all.iter().find(|machine| machine[0] == name)?[3].as_str();
    let lead = |name: &&str| {
        let Some(path) = path_of(name) else {
            return Lead::Absent(format!("which does not run (machinectl start {name})"));
        };
        let leader = call(&["get-property", service, path, &format!("{service}.Machine"), "Leader"]);
        match leader.map(|leader| leader["data"].as_u64()) {
            Ok(Some(pid)) => file_of(pid),
            Ok(None) => unknown("busctl told of no leader".to_owned()),
            Err(why) => unknown(why),
        }
    };
    names.iter().map(lead).collect()
}

/// What is answered on the system's bus.
fn call(args: &[&str]) -> Result<Value, String> {
    let text = output("busctl", &[&["--system", "--json=short"], args].concat(), LIMIT)?;
    serde_json::from_str(&text).map_err(|_| "busctl printed what makes no sense".to_owned())
}
