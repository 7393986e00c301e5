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

/// What `show --ruleset` prints is, read by `nft`, what an apply makes.
#[test]
fn the_table_that_is_shown_is_the_one_that_is_made() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/firewall.md")).expect("the page");
    let toml = block(&page, "toml").1;
    lab::in_lab(|lab| {
        lab.host.apply(toml);
        let list = || in_order(&lab.host.run(["nft", "list", "table", "inet", "netrec"]));
        let made = list();
        let shown = lab.host.try_netrec(toml, &["show", "--ruleset"]);
        assert_eq!((shown.status, shown.stderr.as_str()), (0, ""));
        lab.host.sh("nft delete table inet netrec");
        let file = lab.host.write("table.nft", &shown.stdout);
        lab.host.run(["nft", "-f", &file]);
        assert_eq!(lab::difference(&made, &list()), "");
        // To the marks, netrec takes it for its own. Of a map with ranges nft asks in words of its own, which are put right.
        assert_eq!(lab.host.plan(toml).actions(), ["update chain ports"]);
        lab.host.apply(toml);
        assert_eq!(list(), made);
        assert_eq!(lab.host.try_netrec("", &["show", "--ruleset"]).stdout, "");
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

/// A line's words, with `N` for the time that something took.
fn words(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_time = |n: usize| words.get(n + 1).is_some_and(|unit| matches!(*unit, "ms" | "s.")) && words[n] != "in";
    let shown: Vec<&str> = (0..words.len()).map(|n| if is_time(n) { "N" } else { words[n] }).collect();
    shown.join(" ")
}

/// Whether a command said what a page shows, in which `…` stands for any number of lines.
fn is_shown(shown: &[String], said: &[String]) -> bool {
    match shown.split_first() {
        None => said.is_empty(),
        Some((line, rest)) if line == "…" => (0..=said.len()).any(|skipped| is_shown(rest, &said[skipped..])),
        Some((line, rest)) => said.split_first().is_some_and(|(first, others)| first == line && is_shown(rest, others)),
    }
}

/// The tutorial's commands, in order, as somebody would type them; they say what the page shows.
#[test]
fn the_commands_of_the_tutorial() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tutorial.md")).expect("the page");
    let folder = Path::new(lab::NETREC).parent().expect("a folder").display();
    lab::in_lab(|lab| {
        let before = lab::Snapshot::of(&lab.host);
        let host = lab.host.run(["uname", "-n"]);
        let mut blocks = page.split("\n```").skip(1).step_by(2).peekable();
        let mut tried = 0;
        while let Some(block) = blocks.next() {
            let (kind, commands) = block.split_once('\n').expect("a block");
            assert_eq!(kind, "sh", "{block}: a command, and then what it says");
            let shown = blocks.next_if(|next| next.starts_with("text\n")).expect("what it says");
            let script =
                format!("exec 2>&1\nmkdir -p /run/lab/tutorial\ncd /run/lab/tutorial\nPATH={folder}:$PATH\n{commands}");
            let said = lab.host.try_run(["sh", "-euc", &script]);
            assert_eq!(said.status, 0, "{commands}\n{}{}", said.stdout, said.stderr);
            let shown: Vec<String> = shown.lines().skip(1).map(|l| words(&l.replace("HOST", host.trim()))).collect();
            let said: Vec<String> = said.stdout.lines().map(words).collect();
            assert!(is_shown(&shown, &said), "{commands}\nshown:\n{}\nsaid:\n{}", shown.join("\n"), said.join("\n"));
            tried += 1;
        }
        assert_eq!(tried, page.matches("```sh\n").count());
        assert!(tried > 8, "{tried}");
        drop(lab.host.settle());
        lab.host.set_sysctl("net/ipv4/ip_forward", "0");
        assert_eq!(before.diff(&lab::Snapshot::of(&lab.host)), "", "something is left");
    });
}

/// README's commands, in order: blocks for a shell, and commands within sentences. Nothing is replaced but `cargo run
/// --release --`, by the program that was built for the tests, which would else be built once more; and
/// who is asked says yes.
#[test]
fn the_commands_of_the_readme() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("README");
    let examples = root.join("examples");
    let folder = Path::new(lab::NETREC).parent().expect("a folder").display();
    let blocks = readme.split("\n```").enumerate().flat_map(|(place, part)| {
        if place % 2 == 1 {
            return part.strip_prefix("sh\n").map(str::to_owned).into_iter().collect::<Vec<_>>();
        }
        let words =
            part.split('`').skip(1).step_by(2).map(|words| words.split_whitespace().collect::<Vec<_>>().join(" "));
        words.filter(|words| words.starts_with("netrec -c ") || words == "netrec destroy").collect()
    });
    let commands: Vec<String> = blocks.collect();
    let shown: Vec<&str> = commands.iter().map(String::as_str).collect();
    let wanted = [
        "cargo run --release -- rehearse examples/quickstart.toml",
        "netrec -c examples/quickstart.toml plan",
        "netrec -c examples/quickstart.toml apply",
        "netrec destroy",
        "netrec -c examples/web-shop.toml graph --format svg",
    ];
    assert_eq!(shown, wanted);
    lab::in_lab(|lab| {
        let before = lab::Snapshot::of(&lab.host);
        lab.host.sh(&format!("mkdir -p /run/lab/readme && cp -r {} /run/lab/readme", examples.display()));
        for command in &commands {
            let asks = command.ends_with("apply") || command.ends_with("destroy");
            let typed = command.replace("cargo run --release --", "netrec") + if asks { " -y" } else { "" };
            let script = format!("cd /run/lab/readme\nPATH={folder}:$PATH\n{typed}");
            let said = lab.host.try_run(["sh", "-euc", &script]);
            assert_eq!(said.status, 0, "{command}\n{}{}", said.stdout, said.stderr);
            assert_ne!(said.stdout, "", "{command} says nothing");
        }
        drop(lab.host.settle());
        lab.host.set_sysctl("net/ipv4/ip_forward", "0");
        lab.host.set_sysctl("net/ipv6/conf/all/forwarding", "0");
        assert_eq!(before.diff(&lab::Snapshot::of(&lab.host)), "", "something is left");
    });
}
