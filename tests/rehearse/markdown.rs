//! What the documents show is what the program takes: every block of TOML in them is rehearsed. One that is a part of a file
//! is marked `toml,fragment`, and completed by the quick start's tables.

use std::fs;
use std::path::{Path, PathBuf};

use super::{QUICKSTART, failures, rehearse};

#[derive(Debug)]
struct Block {
    place: String,
    whole: bool,
    text: String,
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn blocks(document: &Path) -> Vec<Block> {
    let text = fs::read_to_string(document).unwrap();
    let mut found: Vec<Block> = Vec::new();
    let mut within: Option<Option<Block>> = None; // a block of another language is none
    for (number, line) in (1..).zip(text.lines()) {
        let fence = line.trim_start().strip_prefix("```");
        within = match (within, fence) {
            (None, None) => None,
            (None, Some(info)) => {
                let place = format!("{}:{number}", document.display());
                assert!(!info.starts_with("toml") || matches!(info, "toml" | "toml,fragment"), "{place}: {info}");
                let block = Block { place, whole: info == "toml", text: String::new() };
                Some(info.starts_with("toml").then_some(block))
            }
            (Some(block), Some(_)) => {
                found.extend(block);
                None
            }
            (Some(block), None) => Some(block.map(|block| Block { text: block.text + line + "\n", ..block })),
        };
    }
    assert!(within.is_none(), "{}: a block that does not end", document.display());
    found
}

/// A part of a file with the quick start around it: a key that both have is the part's.
fn completed(part: &str) -> String {
    let mut whole: toml::Table = toml::from_str(QUICKSTART).unwrap();
    let part: toml::Table = toml::from_str(part).unwrap();
    for (key, value) in part {
        match (whole.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => old.extend(new),
            (_, value) => {
                whole.insert(key, value);
            }
        }
    }
    toml::to_string(&whole).unwrap()
}

#[test]
fn every_block_holds_what_it_says() {
    let blocks: Vec<Block> = documents().iter().flat_map(|document| blocks(document)).collect();
    assert!(blocks.iter().any(|block| block.whole) && blocks.iter().any(|block| !block.whole), "{blocks:#?}");
    for Block { place, whole, text } in blocks {
        let file = if whole { text } else { completed(&text) };
        let output = rehearse(&file, &[]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{place}:\n{file}");
        assert_eq!(failures(&output), [""; 0], "{place}:\n{file}");
    }
}

#[test]
fn the_readme_shows_the_quick_start() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let shown: Vec<String> = blocks(&readme).into_iter().map(|block| block.text).collect();
    assert_eq!(shown, [QUICKSTART]);
}
