//! A flowchart for Mermaid, as wikis and forges draw it.

use std::fmt::Write as _;

use super::drawing::{Block, Drawing, Kind, Sort};

pub(super) fn flowchart(drawing: &Drawing) -> String {
    let mut out = String::from("flowchart LR\n");
    let inside = |host: Option<usize>| drawing.blocks.iter().enumerate().filter(move |(_, block)| block.host == host);
    inside(None).for_each(|(index, block)| node(&mut out, "  ", index, block));
    for (host, caption) in drawing.hosts.iter().enumerate().filter(|(host, _)| inside(Some(*host)).next().is_some()) {
        let _ = writeln!(out, "  subgraph h{host}[\"{}\"]", escaped(caption));
        inside(Some(host)).for_each(|(index, block)| node(&mut out, "    ", index, block));
        out += "  end\n";
    }
    for line in &drawing.lines {
        let pen = match line.sort {
            Sort::Flow => "-->",
            Sort::Joined => "---",
            Sort::WayOut => "===",
        };
        let _ = writeln!(out, "  n{} {pen} n{}", line.from, line.to);
    }
    for kind in Kind::ALL {
        let [light, _] = kind.colours();
        let of_kind = drawing.blocks.iter().enumerate().filter(|(_, block)| block.kind == kind);
        let nodes: Vec<String> = of_kind.map(|(index, _)| format!("n{index}")).collect();
        if !nodes.is_empty() {
            let (name, text) = (kind.name(), "#0f172a");
            let _ = writeln!(out, "  classDef {name} fill:{},stroke:{},color:{text}", light.fill, light.stroke);
            let _ = writeln!(out, "  class {} {name}", nodes.join(","));
        }
    }
    out
}

fn node(out: &mut String, indent: &str, index: usize, block: &Block) {
    let title = block.title.iter().map(|title| format!("<b>{}</b>", escaped(&title.shown)));
    let lines = block.lines.iter().map(|line| escaped(&line.shown));
    let notes = block.notes.iter().map(|note| format!("<i>{}</i>", escaped(&note.shown)));
    let text = title.chain(lines).chain(notes).collect::<Vec<_>>().join("<br/>");
    let (open, close) = match block.kind {
        Kind::World => ("([", "])"),
        Kind::Network | Kind::Closed => ("(", ")"),
        Kind::Door | Kind::Narrow | Kind::Container => ("[", "]"),
    };
    let _ = writeln!(out, "{indent}n{index}{open}\"{text}\"{close}");
}

/// A text between quotes. Everything that means something to Mermaid, to Markdown or to HTML is a number in Mermaid's own way.
fn escaped(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || " .,:/()[]-→…".contains(c);
    let one = |c: char| if plain(c) { c.to_string() } else { format!("#{};", u32::from(c)) };
    text.chars().map(one).collect()
}
