//! What a rehearsal prints: the table, each plan with `-v`, the document with `--json`.

use serde_json::{Value, json};

use super::{Ordinary, rows, uncounted};

const SMALL: &str = r#"
expect = ["host -> a", "world -> a:80"]

[networks.n]
subnet = "10.9.0.0/24"

[containers.a]
networks.n = { address = "10.9.0.2" }
"#;

const TRACED: &str = "no answer from 10.9.0.2
to 10.9.0.2: dropped in table inet netrec, chain forward-to.n, by rule 3: drop";

/// What is known to be a time, as one.
fn without_times(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once(" ms  ") {
        Some((head, rest)) => {
            let word = head.trim_end_matches(|c: char| c.is_ascii_digit());
            format!("{} TIME  {rest}\n", word.trim_end())
        }
        None => format!("{line}\n"),
    });
    lines.collect()
}

#[test]
fn as_a_table() {
    let output = Ordinary::new().rehearse(SMALL, &[], &[]);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(
        without_times(&uncounted(&String::from_utf8(output.stdout).unwrap())),
        "\
ok TIME  make the world
ok TIME  apply  (N changes)
ok TIME  plan again  (no changes)
ok TIME  listen  (1 service)
ok TIME  host -> a
FAIL TIME  world -> a:80  (no answer from 10.9.0.2
                      to 10.9.0.2: dropped in table inet netrec, chain forward-to.n, by rule 3: drop)
ok TIME  ask again, with a trace
ok TIME  destroy  (N changes)
ok TIME  look for what is left  (nothing is left)
8 ok, 1 failed, 0 not tried
"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn as_a_document() {
    let output = Ordinary::new().rehearse(SMALL, &[], &["--json"]);
    let mut document: Value = serde_json::from_slice(&output.stdout).unwrap();
    for row in document["rows"].as_array_mut().unwrap() {
        assert!(row["ms"].as_u64().is_some(), "{row}");
        row["ms"] = Value::Null;
        row["note"] = uncounted(row["note"].as_str().unwrap()).into();
    }
    let row =
        |what: &str, verdict: &str, note: &str| json!({ "what": what, "verdict": verdict, "ms": null, "note": note });
    let wanted = json!({
        "format_version": "1.1",
        "ok": false,
        "rows": [
            row("make the world", "ok", ""),
            row("apply", "ok", "N changes"),
            row("plan again", "ok", "no changes"),
            row("listen", "ok", "1 service"),
            row("host -> a", "ok", ""),
            row("world -> a:80", "failed", TRACED),
            row("ask again, with a trace", "ok", ""),
            row("destroy", "ok", "N changes"),
            row("look for what is left", "ok", "nothing is left"),
        ],
    });
    // As text, since the order of the keys is part of it.
    assert_eq!(format!("{document:#}"), format!("{wanted:#}"));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn with_each_plan() {
    let ordinary = Ordinary::new();
    let output = ordinary.rehearse(SMALL, &[], &["--json", "-v"]);
    let rows = rows(&output);
    let count = |what: &str| {
        let row = rows.iter().find(|row| row["what"] == what).unwrap();
        row["note"].as_str().unwrap().strip_suffix(" changes").unwrap().parse::<usize>().unwrap()
    };
    let (made, removed) = (count("apply"), count("destroy"));
    let said = String::from_utf8(output.stderr).unwrap();
    let lines = |sign: &str| said.lines().filter(|line| line.starts_with(sign)).count();
    let (created, changed) = (lines("+   "), lines("~   "));
    assert_eq!((created + changed, lines("-   ")), (made, removed), "{said}");
    let tallies: Vec<&str> = said.lines().filter(|line| line.starts_with("Plan: ")).collect();
    assert_eq!(
        tallies,
        [
            format!("Plan: {created} to create, {changed} to change, 0 to replace, 0 to remove."),
            format!("Plan: 0 to create, 0 to change, 0 to replace, {removed} to remove.")
        ]
    );
}
