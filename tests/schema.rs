//! The schemas say what netrec takes and prints: the file's has the parser's keys and types, neither more nor less, and takes
//! every good file; that of the documents is checked wherever a test gets one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::format_push_string,
    clippy::case_sensitive_file_extension_comparisons
)] // a test may

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "lab/documents.rs"]
mod documents;

use jsonschema::Validator;
use netrec::config::{self, Source, Sources};
use serde_json::{Map, Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn validator() -> Validator {
    jsonschema::draft7::new(&config::schema()).expect("a schema")
}

/// What a text says, as JSON; none where it is no TOML.
fn read(text: &str) -> Option<Value> {
    toml::from_str::<Value>(text).ok()
}

/// All `*.toml` below some folders.
fn files(folders: &[&str]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// What is wrong with a text, by the parser.
fn said(text: &str) -> String {
    let source = Source { name: "netrec.toml".to_owned(), text: text.to_owned() };
    config::parse(Sources(vec![source])).err().map(|invalid| invalid.to_string()).unwrap_or_default()
}

#[test]
fn every_good_file_matches() {
    let validator = validator();
    let (mut tried, mut wrong) = (0, String::new());
    for path in files(&["examples", "tests/golden"]) {
        let text = fs::read_to_string(&path).unwrap();
        if said(&text).is_empty() {
            tried += 1;
            let value = read(&text).unwrap();
            for error in validator.iter_errors(&value) {
                wrong += &format!("{}: {error} at {}\n", path.display(), error.instance_path());
            }
        }
    }
    assert_eq!(wrong, "");
    assert!(tried > 35, "{tried}");
}

/// What the parser says of a file whose keys or types are wrong. The rest is wrong by what it means.
const OF_SHAPE: [&str; 5] =
    ["error: unknown key ", " is not supported yet\n", ", not a ", ", not an ", " is an empty list\n"];

#[test]
fn every_file_of_the_wrong_shape_is_refused() {
    let validator = validator();
    let (mut tried, mut wrong) = (0, Vec::new());
    for path in files(&["tests/bad"]) {
        let Ok(expected) = fs::read_to_string(path.with_extension("txt")) else { continue };
        let Some(value) = read(&fs::read_to_string(&path).unwrap()) else { continue };
        if expected
            .lines()
            .any(|line| OF_SHAPE.iter().any(|shape| format!("{line}\n").contains(shape) && line.starts_with("error: ")))
        {
            tried += 1;
            if validator.is_valid(&value) {
                wrong.push(path.file_name().unwrap().to_owned());
            }
        }
    }
    assert_eq!(wrong, Vec::<std::ffi::OsString>::new());
    assert!(tried > 30, "{tried}");
}

/// A table of the file: where it stands in a file that is right, and in the schema.
struct Place {
    /// What stands before its keys, and after them.
    around: [&'static str; 2],
    /// Keys that it has there.
    has: &'static str,
    schema: &'static str,
    /// The networks' driver, where the keys are those of one.
    driver: Option<&'static str>,
}

const SHOP: &str = "[networks.n]\nsubnet = \"10.1.0.0/24\"\n";

const PLACES: [Place; 14] = [
    Place { around: ["", "\n"], has: "", schema: "", driver: None },
    Place { around: ["settings = {", "}\n"], has: "", schema: "settings", driver: None },
    Place { around: ["hosts.a = {", "}\n"], has: "id = 1, address = \"192.0.2.1\"", schema: "host", driver: None },
    Place {
        around: ["networks.n = {", "}\n"],
        has: "subnet = \"10.1.0.0/24\"",
        schema: "network",
        driver: Some("bridge"),
    },
    Place {
        around: ["hosts.a = { id = 1, address = \"192.0.2.1\" }\nnetworks.n = { driver = \"overlay\", ", "}\n"],
        has: "subnet = \"10.1.0.0/24\", vni = 1",
        schema: "network",
        driver: Some("overlay"),
    },
    Place {
        around: ["networks.n = { driver = \"macvlan\", ", "}\n"],
        has: "subnet = \"10.1.0.0/24\", parent = \"eth9\"",
        schema: "network",
        driver: Some("macvlan"),
    },
    Place {
        around: ["networks.n = { driver = \"ipvlan\", ", "}\n"],
        has: "subnet = \"10.1.0.0/24\", parent = \"eth9\"",
        schema: "network",
        driver: Some("ipvlan"),
    },
    Place { around: ["networks.n = { driver = \"host\", ", "}\n"], has: "", schema: "network", driver: Some("host") },
    Place {
        around: ["networks.n = { subnet = [\"10.1.0.0/24\", \"fd01::/64\"], mode = {", "} }\n"],
        has: "",
        schema: "modes",
        driver: None,
    },
    Place {
        around: [
            "hosts.a = { id = 1, address = \"192.0.2.1\" }\nnetworks.n = { driver = \"overlay\", topology = \"routed\", \
             subnet = \"10.1.0.0/16\", vni = 1, host_prefix = {",
            "} }\n",
        ],
        has: "",
        schema: "host_prefix",
        driver: None,
    },
    Place { around: ["containers.c = {", "}\n"], has: "", schema: "container", driver: None },
    Place { around: ["containers.c = { networks.n = {", "} }\n"], has: "", schema: "attachment", driver: None },
    Place {
        around: ["containers.c = { networks.n = { routes = [{", "}] } }\n"],
        has: "to = \"10.9.0.0/16\", via = \"10.1.0.9\"",
        schema: "route",
        driver: None,
    },
    Place {
        around: ["containers.c = { networks = [\"n\"], ports = [{", "}] }\n"],
        has: "host = 1, container = 2",
        schema: "port",
        driver: None,
    },
];

impl Place {
    /// A file with these keys there, one of which may take the place of one that it has.
    fn file(&self, more: &str) -> String {
        let name = more.split_once('=').map_or("", |(name, _)| name.trim());
        let has = self.has.split(", ").filter(|pair| !pair.is_empty() && !pair.starts_with(&format!("{name} =")));
        let pairs: Vec<&str> = has.chain(Some(more).filter(|more| !more.is_empty())).collect();
        let separator = if self.schema.is_empty() { "\n" } else { ", " };
        let network = if self.around[0].contains("networks.n = {") && !self.around[0].starts_with("containers") {
            ""
        } else {
            SHOP
        };
        format!("{}{}{}{network}", self.around[0], pairs.join(separator), self.around[1])
    }

    /// Its keys by the schema.
    fn properties(&self, schema: &Value) -> Map<String, Value> {
        let table = if self.schema.is_empty() { schema } else { &schema["definitions"][self.schema] };
        table["properties"].as_object().expect("properties").clone()
    }
}

#[test]
fn the_keys_are_those_of_the_parser() {
    let (schema, validator) = (config::schema(), validator());
    for place in &PLACES {
        let good = place.file("");
        assert_eq!(said(&good), "", "{good}");
        assert!(validator.is_valid(&read(&good).unwrap()), "{good}");
        let bad = place.file("abcdefghijkl = 1");
        assert!(!validator.is_valid(&read(&bad).unwrap()), "{bad}");
        let told = said(&bad);
        let (_, keys) = told.split_once(" are `").expect("the keys");
        let keys = keys.lines().next().unwrap_or_default();
        let keys: BTreeSet<&str> = keys.split('`').filter(|word| !matches!(*word, ", " | " and " | "")).collect();
        let properties = place.properties(&schema);
        assert_eq!(keys, properties.keys().map(String::as_str).collect(), "{}", place.schema);
    }
}

/// A value of each type that TOML has, and the schema's word for it.
const VALUES: [(&str, &str); 6] =
    [("\"x\"", "string"), ("1", "integer"), ("true", "boolean"), ("1.5", "number"), ("[]", "array"), ("{}", "object")];

/// Whether a value may be of a type, by the schema.
fn takes(schema: &Value, part: &Value, kind: &str) -> bool {
    if let Some(reference) = part["$ref"].as_str() {
        let target = schema.pointer(reference.trim_start_matches('#')).expect("a definition");
        return takes(schema, target, kind);
    }
    if let Some(all) = part["allOf"].as_array().filter(|_| part.get("type").is_none()) {
        return all.iter().all(|part| takes(schema, part, kind));
    }
    if let Some(any) = part["anyOf"].as_array() {
        return any.iter().any(|part| takes(schema, part, kind));
    }
    match &part["type"] {
        Value::String(one) => one == kind,
        Value::Array(several) => several.contains(&json!(kind)),
        _ if part["const"].is_boolean() => kind == "boolean",
        _ => part["enum"].is_array() && kind == "string",
    }
}

#[test]
fn the_types_are_those_of_the_parser() {
    let schema = config::schema();
    let validator = validator();
    let (mut tried, mut wrong) = (0, String::new());
    for place in &PLACES {
        for (key, part) in place.properties(&schema) {
            if place.driver.is_some() && key == "driver" || place.schema.is_empty() && key == "networks" {
                continue;
            }
            for (text, kind) in VALUES {
                let file = place.file(&format!("{key} = {text}"));
                let told = said(&file);
                if told.contains(" networks\n") && told.contains(&format!("error: `{key}` is of ")) {
                    assert!(!validator.is_valid(&read(&file).unwrap()), "{file}");
                    continue;
                }
                // That comes first, whatever it holds.
                if told.contains("`host_prefix` is for the topologies") {
                    continue;
                }
                tried += 1;
                let own = format!("`{key}` must be ");
                let refused = told.lines().any(|line| {
                    line.starts_with("error: ")
                        && line.contains(&own)
                        && (line.contains(", not a ") || line.contains(", not an "))
                });
                if refused == takes(&schema, &part, kind) {
                    wrong += &format!("{file}refused: {refused}\n{told}\n");
                }
            }
        }
    }
    assert_eq!(wrong, "");
    assert!(tried > 300, "{tried}");
}

#[test]
fn every_word_is_one_of_the_parsers() {
    let schema = config::schema();
    for place in &PLACES {
        for (key, part) in place.properties(&schema) {
            let shapes = part["anyOf"].as_array().cloned().unwrap_or_else(|| vec![part.clone()]);
            let words = shapes.iter().find_map(|shape| shape["enum"].as_array().cloned()).unwrap_or_default();
            for word in words {
                let told = said(&place.file(&format!("{key} = {word}")));
                let known = !told.contains("error: unknown ") && !told.contains(" must be ");
                // The two drivers have words of their own.
                assert!(known || key == "type", "{key} = {word}: {told}");
            }
        }
    }
}

#[test]
fn every_key_is_in_the_docs() {
    let schema = config::schema();
    let read = |name: &str| fs::read_to_string(root().join("docs").join(name)).unwrap();
    let docs = read("file.md") + &read("drivers.md") + &read("containers.md");
    let keys = PLACES.iter().flat_map(|place| place.properties(&schema)).map(|(key, _)| key);
    let missing: BTreeSet<String> = keys
        .filter(|key| ["`", "[", "{ ", ", "].iter().all(|before| !docs.contains(&format!("{before}{key}"))))
        .collect();
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn every_golden_plan_is_a_document() {
    let mut tried = 0;
    for entry in fs::read_dir(root().join("tests/golden")).unwrap() {
        if let Ok(text) = fs::read_to_string(entry.unwrap().path().join("plan.json")) {
            documents::check(&text, false);
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}
