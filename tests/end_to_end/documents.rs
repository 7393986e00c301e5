//! What the documents show is what netrec makes. `UPDATE_EXPECT=1` writes it anew; read it before committing.

use std::fs;
use std::path::Path;

use crate::lab;

/// The text of the first block of a kind, and where it is.
fn block<'a>(text: &'a str, kind: &str) -> (std::ops::Range<usize>, &'a str) {
    let open = format!("```{kind}\n");
    let start = text.find(&open).expect("a block of this kind") + open.len();
    let end = start + text[start..].find("```").expect("the end of the block");
    (start..end, &text[start..end])
}

/// Elements in order, one a line; the kernel lists them in any.
fn in_order(listing: &str) -> String {
    let mut out = String::new();
    let mut rest = listing;
    while let Some(at) = rest.find("elements = { ") {
        let (before, after) = rest.split_at(at + "elements = { ".len());
        let (list, tail) = after.split_once(" }").expect("the end of the elements");
        let mut elements: Vec<&str> = list.split(',').map(str::trim).collect();
        elements.sort_unstable();
        out += before;
        out += &elements.join(",\n\t\t\t     ");
        out += " }";
        rest = tail;
    }
    (out + rest).replace('\t', "    ")
}

#[test]
fn the_table_of_the_firewalls_page() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/firewall.md");
    let page = fs::read_to_string(&path).expect("the page");
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    lab::in_lab(|lab| {
        lab.host.apply(block(&page, "toml").1);
        let listing = in_order(&lab.host.run(["nft", "list", "table", "inet", "netrec"]));
        let (place, shown) = block(&page, "nft");
        if update {
            let mut page = page.clone();
            page.replace_range(place, &listing);
            fs::write(&path, page).expect("the page");
        } else {
            assert_eq!(lab::difference(shown, &listing), "", "docs/firewall.md shows another table");
        }
    });
}

/// Every test that the page of other engines' cases names is there.
#[test]
fn the_tests_that_the_page_of_peers_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/peers.md")).expect("the page");
    let tests = root.join("tests");
    let function = |module: &str, name: &str| {
        let files = [format!("end_to_end/{module}.rs"), format!("{module}.rs"), format!("{module}/main.rs")];
        let text = files.iter().find_map(|file| fs::read_to_string(tests.join(file)).ok()).unwrap_or_default();
        text.contains(&format!("#[test]\nfn {name}() {{"))
    };
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let (mut named, mut lost) = (0, Vec::new());
    for word in page.split('`').skip(1).step_by(2) {
        let found = match (word.split_once("::"), word.split_once('/')) {
            (Some((module, name)), _) if !module.is_empty() && is_name(module) && is_name(name) => {
                function(module, name)
            }
            (_, Some(("bad", case))) if case != "NAME" => tests.join(format!("bad/{case}.txt")).exists(),
            (_, Some(("golden", case))) if case != "NAME" => tests.join(word).is_dir(),
            _ => continue,
        };
        named += 1;
        if !found {
            lost.push(word);
        }
    }
    assert_eq!(lost, [""; 0], "of {named}");
    assert!(named > 100, "{named}");
}
