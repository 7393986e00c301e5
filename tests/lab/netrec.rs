//! The binary under test.

use std::process::Command;

use serde_json::Value;

use super::space::{Machine, Output};

/// The binary's path, to spawn it.
pub const NETREC: &str = env!("CARGO_BIN_EXE_netrec");

/// A plan, or what came of it, as netrec's JSON tells it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The whole document.
    pub json: Value,
}

/// What `apply` and `destroy` say that they did.
pub type Done = Plan;

impl Plan {
    /// Its actions: `create link nr-front`, `update address 10.20.0.2/24 dev eth0 in web`, `replace …`, `delete …`.
    pub fn actions(&self) -> Vec<String> {
        let actions = self.json["actions"].as_array().expect("actions");
        actions
            .iter()
            .map(|a| {
                let op: Vec<&str> = a["op"].as_array().expect("op").iter().filter_map(Value::as_str).collect();
                let op = if op == ["delete", "create"] { "replace".to_owned() } else { op.join("+") };
                let text = |what: &str| a[what].as_str().unwrap_or_else(|| panic!("no {what} in {a}")).to_owned();
                let netns = a["netns"].as_str().map_or_else(String::new, |n| format!(" in {n}"));
                format!("{op} {} {}{netns}", text("kind"), text("name"))
            })
            .collect()
    }

    /// The codes of its warnings.
    pub fn warnings(&self) -> Vec<String> {
        let warnings = self.json["warnings"].as_array().expect("warnings");
        warnings.iter().map(|w| w["code"].as_str().expect("code").to_owned()).collect()
    }
}

impl Machine {
    /// Runs netrec.
    pub fn netrec(&self, args: &[&str]) -> Output {
        self.netrec_with_env(&[], args)
    }

    /// Runs netrec with more in its environment, such as a fault.
    pub fn netrec_with_env(&self, env: &[(&str, &str)], args: &[&str]) -> Output {
        self.output(Command::new(NETREC).args(args).envs(env.iter().copied()))
    }

    /// Writes the file and plans; netrec must succeed.
    pub fn plan(&self, toml: &str) -> Plan {
        self.json(toml, &["plan", "--json"])
    }

    /// Writes the file and applies it; netrec must succeed.
    pub fn apply(&self, toml: &str) -> Done {
        self.json(toml, &["apply", "-y", "--json"])
    }

    /// Writes the file and removes all that is netrec's; netrec must succeed.
    pub fn destroy(&self, toml: &str) -> Done {
        self.json(toml, &["destroy", "-y", "--json"])
    }

    /// Writes the file and runs netrec on it, as it may be.
    pub fn try_netrec(&self, toml: &str, args: &[&str]) -> Output {
        let file = self.write("netrec.toml", toml);
        self.netrec(&[&["-c", &file], args].concat())
    }

    fn json(&self, toml: &str, args: &[&str]) -> Plan {
        let output = self.try_netrec(toml, args);
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        assert_eq!(output.status, 0, "netrec {}:\n{said}", args.join(" "));
        let json = serde_json::from_str(&output.stdout);
        Plan { json: json.unwrap_or_else(|e| panic!("netrec {}: {e}:\n{}", args.join(" "), output.stdout)) }
    }
}
