//! What is made of the program's own words is in the repository as it is made. `make generate` writes it anew.

#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use netrec::config::{Source, Sources};

#[track_caller]
fn same(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == text, "{file} is not what the code makes: `make generate`, and read the difference");
}

#[test]
fn the_command_line() {
    same("docs/cli.md", &netrec::cli::reference());
}

#[test]
fn the_schema_of_the_file() {
    same("schema/netrec.schema.json", &format!("{:#}\n", netrec::config::schema()));
}

#[test]
fn the_reference_of_the_file() {
    same("docs/keys.md", &netrec::config::reference());
}

#[test]
fn the_pictures_of_examples() {
    for example in ["web-shop", "overlay-routed"] {
        let name = format!("{example}.toml");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(&name);
        let config =
            netrec::config::parse(Sources(vec![Source { name, text: fs::read_to_string(path).unwrap() }])).unwrap();
        let picture = netrec::graph::Picture::of(&config).unwrap();
        same(&format!("docs/pictures/{example}.svg"), &picture.to_svg());
    }
}

/// The role installs the project's own units.
#[test]
fn the_units_of_the_role() {
    for unit in ["netrec.service", "netrec-watch.service"] {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit);
        same(&format!("ansible/roles/netrec/files/{unit}"), &fs::read_to_string(own).unwrap());
    }
}

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");

/// What a command prints, which must succeed and say nothing else.
fn says(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{program} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_schema_is_printed() {
    let schema: serde_json::Value = serde_json::from_str(&says(NETREC, &["schema"])).unwrap();
    assert_eq!(schema, netrec::config::schema());
}

#[test]
fn bash_completes() {
    let complete = |words: &str, at: usize| {
        let script = format!(
            "source <({NETREC} completions bash)\nCOMP_WORDS=({words}) COMP_CWORD={at}\n\
             _netrec netrec \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\necho \"${{COMPREPLY[*]}}\""
        );
        says("bash", &["-c", &script]).trim().to_owned()
    };
    assert_eq!(complete("netrec va", 1), "validate");
    assert_eq!(complete("netrec plan --de", 2), "--detailed-exitcode --destroy");
    assert_eq!(complete("netrec --color al", 2), "always");
    assert_eq!(complete("netrec gu", 1), "", "what is not for people is not completed");
}

#[test]
fn other_shells_take_what_completes() {
    for (shell, check) in [("zsh", "-n"), ("fish", "--no-execute")] {
        let script = std::env::temp_dir().join(format!("netrec-completions-{shell}-{}", std::process::id()));
        fs::write(&script, says(NETREC, &["completions", shell])).unwrap();
        match Command::new(shell).arg(check).arg(&script).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr)),
            Err(_) => println!("not tried: the completions of {shell}: {shell} missing"),
        }
        fs::remove_file(&script).unwrap();
    }
}

#[test]
fn every_command_has_a_page_that_man_reads() {
    let folder = std::env::temp_dir().join(format!("netrec-man-{}", std::process::id()));
    says(NETREC, &["man", &folder.display().to_string()]);
    let pages: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let names: BTreeSet<_> = pages.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    let reference = netrec::cli::reference();
    let commands = reference.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`'));
    let wanted: BTreeSet<_> = commands.map(|name| format!("netrec-{name}.1")).chain(["netrec.1".into()]).collect();
    assert_eq!(names, wanted.iter().map(String::as_str).collect());
    for page in &pages {
        let page = page.display().to_string();
        let read = Command::new("groff").args(["-man", "-ww", "-Tutf8", "-z", &page]).output();
        match read {
            Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{page}"),
            Err(_) => println!("not tried: {page}: groff missing"),
        }
    }
    assert_eq!(says(NETREC, &["man"]), fs::read_to_string(folder.join("netrec.1")).unwrap());
    fs::remove_dir_all(&folder).unwrap();
}
