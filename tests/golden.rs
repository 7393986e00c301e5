//! Plans as they print: `tests/golden/CASE/` holds a file, the facts of a host and its live state, and the plan that
//! must come of them, as text, as JSON, and as steps in their order. The folder's name is the specification.
//! `UPDATE_EXPECT=1` writes what comes out instead of comparing it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write;
use std::fs;
use std::path::Path;

use netrec::config::{Source, Sources, parse};
use netrec::graph::Picture;
use netrec::kernel::{Backend, ReadError, StepError};
use netrec::plan::{Plan, phases};
use netrec::reconcile::{prepare_destroy, prepare_part};
use netrec::state::{Asked, Facts, Owner, Scope, Stale, State, Step};

/// A host that stands still.
struct Still {
    facts: Facts,
    live: State,
}

impl Backend for Still {
    fn facts(&mut self, _: &Asked) -> Result<Facts, ReadError> {
        Ok(self.facts.clone())
    }

    fn endpoints(&mut self) -> Result<State, ReadError> {
        Ok(self.live.clone().into_iter().filter(|(key, _)| key.kind().is_of_plugin()).collect())
    }

    fn live(&mut self, _: &Scope) -> Result<State, ReadError> {
        Ok(self.live.clone())
    }

    fn run(&mut self, _: &[Step]) -> Vec<Result<(), StepError>> {
        panic!("a plan writes nothing")
    }

    fn forget(&mut self, _: Stale<'_>) -> Result<u64, StepError> {
        panic!("a plan writes nothing")
    }

    fn writes(&self) -> u64 {
        0
    }
}

fn steps(plan: &Plan) -> String {
    let mut text = String::new();
    for (phase, steps) in phases(&plan.actions) {
        writeln!(text, "{phase:?}").unwrap();
        for step in steps {
            let verb = match (&step.before, &step.after) {
                (None, _) => "create",
                (_, None) => "delete",
                _ => "change",
            };
            writeln!(text, "  {verb} {}", step.key).unwrap();
        }
    }
    text
}

fn check(file: &Path, found: &str, failures: &mut Vec<String>) {
    let expected = fs::read_to_string(file).unwrap_or_default();
    if expected == found {
        return;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(file, found).unwrap();
        return;
    }
    let diff = similar::TextDiff::from_lines(expected.as_str(), found);
    failures.push(format!("{}\n{}", file.display(), diff.unified_diff()));
}

/// Pictures of some examples, in all formats: `tests/pictures/EXAMPLE.*`.
#[test]
fn pictures_are_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut failures = Vec::new();
    for example in ["web-shop", "home-server", "ipv6-routed", "macvlan", "overlay-routed", "podman"] {
        let name = format!("{example}.toml");
        let text = fs::read_to_string(root.join("examples").join(&name)).unwrap();
        let config = parse(Sources(vec![Source { name, text }])).unwrap();
        let picture = Picture::of(&config).unwrap();
        let formats = [
            ("txt", picture.to_text()),
            ("mmd", picture.to_mermaid()),
            ("dot", picture.to_dot()),
            ("svg", picture.to_svg()),
        ];
        for (extension, found) in formats {
            check(&root.join(format!("tests/pictures/{example}.{extension}")), &found, &mut failures);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn plans_are_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    let mut failures = Vec::new();
    for case in &cases {
        let read = |name: &str| fs::read_to_string(case.join(name)).ok();
        let json = |name: &str| read(name).unwrap_or_else(|| panic!("{}/{name}", case.display()));
        let mut host = Still {
            facts: serde_json::from_str(&json("facts.json")).unwrap(),
            live: serde_json::from_str(&json("live.json")).unwrap(),
        };
        // Without a file the plan is that of `destroy`.
        let prepared = match read("config.toml") {
            Some(text) => {
                let source = Source { name: "netrec.toml".into(), text };
                let config = parse(Sources(vec![source])).unwrap_or_else(|e| panic!("{e}"));
                // What it is for, a line each, where not for all.
                let targets = read("targets").unwrap_or_default();
                let targets: Vec<Owner> = targets.lines().map(Owner::new).collect();
                prepare_part(&mut host, &config, None, &targets)
            }
            None => prepare_destroy(&mut host, None),
        };
        let (text, document, order) = match prepared {
            Ok(p) => (p.plan.to_text(), format!("{:#}\n", p.plan.to_json()), steps(&p.plan)),
            Err(error) => (format!("error: {error}\n"), String::new(), String::new()),
        };
        check(&case.join("plan.txt"), &text, &mut failures);
        check(&case.join("plan.json"), &document, &mut failures);
        check(&case.join("steps.txt"), &order, &mut failures);
    }
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let shown = fs::read_to_string(folder.join("the-plan-of-the-readme/plan.txt")).unwrap();
    assert!(readme.contains(shown.trim_end()), "README shows another plan than netrec:\n{shown}");
    assert!(cases.len() >= 14, "cases are missing: {}", cases.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
