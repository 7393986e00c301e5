//! Every bad file under `tests/bad` has exactly the message beside it: `NAME.toml`, or a folder `NAME` of several files,
//! with `NAME.txt`. The name says what is wrong. `UPDATE_EXPECT=1` writes the texts anew; read them before committing.

#![allow(clippy::unwrap_used, clippy::format_push_string, clippy::case_sensitive_file_extension_comparisons)] // a test may

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use netrec::config::{self, Source, Sources};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad")
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn source(path: &Path, name: &str) -> Source {
    Source { name: name.to_owned(), text: fs::read_to_string(path).unwrap() }
}

/// The texts of a case; none where the entry is not one.
fn sources(entry: &str) -> Option<Sources> {
    let path = folder().join(entry);
    if path.is_dir() {
        let files = names(&path);
        assert!(files.iter().all(|f| f.ends_with(".toml")), "tests/bad/{entry} has files that are not used");
        return Some(Sources(files.iter().map(|f| source(&path.join(f), f)).collect()));
    }
    entry.ends_with(".toml").then(|| Sources(vec![source(&path, "netrec.toml")]))
}

#[test]
fn every_bad_file_has_its_message() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let entries = names(&folder());
    let mut unused: BTreeSet<_> = entries.iter().filter(|e| e.ends_with(".txt")).cloned().collect();
    let mut failures = String::new();
    let mut cases = 0;
    for entry in &entries {
        let Some(sources) = sources(entry) else {
            assert!(entry.ends_with(".txt"), "tests/bad/{entry} is not used");
            continue;
        };
        cases += 1;
        let text = format!("{}.txt", entry.trim_end_matches(".toml"));
        unused.remove(&text);
        let said = match config::parse(sources) {
            Ok(_) => "no error\n".to_owned(),
            Err(invalid) => format!("{invalid}\n"),
        };
        let path = folder().join(&text);
        if update {
            fs::write(&path, &said).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_else(|_| "there is no such text\n".to_owned());
        if said != expected || said == "no error\n" {
            failures += &format!("== {text}\n-- expected\n{expected}-- said\n{said}\n");
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert!(unused.is_empty(), "texts without a file: {unused:?}");
    assert!(cases >= 60, "only {cases} cases were found");
}
