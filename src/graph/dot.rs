//! A graph for Graphviz.

use std::fmt::Write as _;

use super::drawing::{Block, Drawing, Kind, Sort};

pub(super) fn digraph(drawing: &Drawing) -> String {
    let mut out = format!("digraph \"{}\" {{\n", escaped(&drawing.title));
    out += "  graph [rankdir=LR, fontname=\"monospace\", fontsize=12, style=\"rounded\", color=\"#94a3b8\"]\n";
    out += "  node [shape=box, style=\"rounded,filled\", fontname=\"monospace\", fontsize=11, fontcolor=\"#0f172a\"]\n";
    out += "  edge [color=\"#475569\"]\n";
    let inside = |host: Option<usize>| drawing.blocks.iter().enumerate().filter(move |(_, block)| block.host == host);
    inside(None).for_each(|(index, block)| node(&mut out, "  ", index, block));
    for (host, caption) in drawing.hosts.iter().enumerate() {
        let _ = writeln!(out, "  subgraph cluster_{host} {{\n    label=\"{}\"", escaped(caption));
        inside(Some(host)).for_each(|(index, block)| node(&mut out, "    ", index, block));
        out += "  }\n";
    }
    for line in &drawing.lines {
        let looks = match line.sort {
            Sort::Flow => "",
            Sort::Joined => " [dir=none]",
            Sort::WayOut => " [dir=none, penwidth=2]",
        };
        let _ = writeln!(out, "  n{} -> n{}{looks}", line.from, line.to);
    }
    out + "}\n"
}

fn node(out: &mut String, indent: &str, index: usize, block: &Block) {
    let [light, _] = block.kind.colours();
    let title = block.title.iter().map(|title| escaped(&title.shown) + "\\n");
    let more = block.lines.iter().chain(&block.notes).map(|line| escaped(&line.shown) + "\\l");
    let label: String = title.chain(more).collect();
    let looks = if block.kind == Kind::World { ", shape=ellipse, style=filled" } else { "" };
    let (fill, stroke) = (light.fill, light.stroke);
    let _ = writeln!(out, "{indent}n{index} [label=\"{label}\", fillcolor=\"{fill}\", color=\"{stroke}\"{looks}]");
}

/// A text between quotes: `\` begins what Graphviz replaces, and `&` what it takes for an entity of HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped += "\\\\",
            '"' => escaped += "\\\"",
            '&' => escaped += "&amp;",
            _ => escaped.push(c),
        }
    }
    escaped
}
