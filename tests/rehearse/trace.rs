//! For a line that is not answered the table names the rule, or says how far the packet came.

use std::collections::BTreeMap;

use super::{rehearse, rows};

const NETWORKS: &str = r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[networks.back]
subnet = ["10.21.0.0/24", "fd21::/64"]
"#;

/// What is said of each line, less that nothing came from there.
fn notes(toml: &str, env: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    let of = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    let failed = rows(&rehearse(toml, env)).into_iter().filter(|row| row["verdict"] == "failed");
    let lines = |note: String| note.lines().filter(|l| !l.starts_with("no answer")).map(str::to_owned).collect();
    failed.map(|row| (of(&row, "what"), lines(of(&row, "note")))).collect()
}

/// With `br_netfilter`, as without, a packet of a container's is followed from the bridge to the rule that drops it; there
/// are hundreds at once.
#[test]
fn the_rule_is_named_for_each_of_hundreds_of_lines() {
    const EACH: usize = 8;
    let (mut expect, mut containers) = (String::new(), String::new());
    let mut wanted = BTreeMap::new();
    let dropped = |to: &str, chain: &str, rule: &str| {
        format!("to {to}: dropped in table inet netrec, chain {chain}, by rule {rule}")
    };
    let mut line = |text: String, told: Vec<String>| {
        expect += &format!("  \"{text}\",\n");
        wanted.insert(text, told);
    };
    let addresses = |i: usize| [format!("10.21.0.{}", 10 + i), format!("fd21::{}", 10 + i)];
    for i in 0..EACH {
        let both = addresses(i).map(|to| dropped(&to, "forward-to.back", "3: drop"));
        for from in 0..EACH {
            line(format!("a{from} -> b{i}:80"), both.to_vec());
            line(format!("a{from} -> b{i}:53/udp"), both.to_vec());
        }
        line(format!("a{i} -> b{i}"), both.to_vec());
        line(format!("world -> b{i}:80"), both.to_vec());
        line(format!("world -> b{i}"), both.to_vec());
        let gateway = dropped("10.21.0.1", "input", "4: ip daddr @gateway4 drop");
        line(format!("world -> 10.21.0.1:{}", 7000 + i), vec![gateway]);
        let [v4, v6] = addresses(i);
        containers += &format!("[containers.a{i}]\nnetworks = [\"front\"]\n");
        containers += &format!("[containers.b{i}]\nnetworks.back = {{ address = [\"{v4}\", \"{v6}\"] }}\n");
    }
    let toml = format!("expect = [\n{expect}]\n{NETWORKS}\n{containers}");
    assert_eq!(notes(&toml, &[]), wanted);
}

/// What comes to one container by two ways is told apart, and how far a packet came that no rule dropped.
#[cfg(feature = "fault-injection")]
#[test]
fn each_is_told_what_became_of_its_own() {
    let toml = format!(
        "expect = [\"world -> host:8080\", \"world -> web:80\", \"host -> web:80\", \"db -> world:443\"]\n{NETWORKS}
        [containers.web]
        networks.front = {{ address = [\"10.20.0.10\", \"fd20::10\"] }}
        ports = [\"0.0.0.0:8080:80\"]
        [containers.db]
        networks.back = {{ address = [\"10.21.0.10\", \"fd21::10\"] }}"
    );
    let told = |gone: &str| {
        let notes = notes(&toml, &[("NETREC_MUTATE", gone)]);
        notes.into_iter().map(|(line, told)| format!("{line} | {}", told.join(" | "))).collect::<Vec<_>>()
    };
    let dropped = |rule: u8| {
        let by =
            |to: &str| format!("to {to}: dropped in table inet netrec, chain forward-to.front, by rule {rule}: drop");
        format!("world -> web:80 | {} | {}", by("10.20.0.10"), by("fd20::10"))
    };
    assert_eq!(
        told("route default in web"),
        ["world -> host:8080 | to 198.18.0.1: the host sent it on, and no answer came".to_owned(), dropped(3)]
    );
    let none = "db -> world:443 | 198.18.0.254: Network is unreachable | to 198.18.0.254: it never came to the host";
    assert_eq!(told("route default in db"), [none.to_owned(), dropped(3)]);
    let published = "to 198.18.0.1: dropped in table inet netrec, chain forward-to.front, by rule 2: drop";
    assert_eq!(told("chain forward-to.front 2"), [format!("world -> host:8080 | {published}"), dropped(2)]);
}
