//! The picture as an SVG image that needs nothing else: no font, no script, no style sheet. Texts are of one width, so that the size
//! of each is known, and held to it where the reader's font has another.

use std::fmt::Write as _;

use super::drawing::{Block, Drawing, Kind, Sort, Words};
use super::layout::{Area, HOST_PAD, HOST_TITLE, Layout, Point, layout};

const FONT: &str = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
/// The size of a title's and of a line's letters in pixels, and how much of that one takes.
const TITLE: f64 = 13.0;
const LINE: f64 = 11.0;
const WIDTH_OF_LETTER: f64 = 0.602;
/// How far the lines of a box are from each other, and the text from its border.
const TITLE_HEIGHT: f64 = 18.0;
const LINE_HEIGHT: f64 = 15.0;
const PAD_X: f64 = 12.0;
const PAD_Y: f64 = 8.0;
/// What is between a host's name and its addresses.
const PARTED: &str = ", ";
/// Around all.
const MARGIN: f64 = 20.0;

/// Colours of what is no box, on a light ground and on a dark one.
struct Ground {
    below: &'static str,
    host: &'static str,
    border: &'static str,
    text: &'static str,
    note: &'static str,
    line: &'static str,
}

const GROUNDS: [Ground; 2] = [
    Ground { below: "#ffffff", host: "#f1f5f9", border: "#94a3b8", text: "#0f172a", note: "#475569", line: "#64748b" },
    Ground { below: "#0d1117", host: "#151b23", border: "#57606a", text: "#f0f6fc", note: "#b1bac4", line: "#8b949e" },
];

pub(super) fn image(drawing: &Drawing) -> String {
    let mut sizes: Vec<(f64, f64)> = drawing.blocks.iter().map(size).collect();
    // All of a column are as wide, so that lines leave and end in the gaps between columns.
    let column = |block: &Block| block.kind.column();
    for place in Kind::ALL.map(Kind::column) {
        let of_column = || drawing.blocks.iter().enumerate().filter(|(_, block)| column(block) == place);
        // Hosts have containers, if nothing else, above which there has to be room for their names.
        let names = drawing.hosts.iter().filter(|_| place == Kind::Container.column()).map(|host| name_of(host));
        let least = names.map(|name| width(name, TITLE)).fold(0.0, f64::max).ceil();
        let widest = of_column().map(|(index, _)| sizes[index].0).fold(least, f64::max);
        of_column().for_each(|(index, _)| sizes[index].0 = widest);
    }
    let placed = layout(drawing, &sizes);
    let inside = |host: usize| {
        let blocks = drawing.blocks.iter().zip(&placed.blocks);
        blocks.filter(move |(block, _)| block.host == Some(host)).map(|(block, area)| (block.kind, *area))
    };
    let hosts: Vec<(Area, Words)> =
        drawing.hosts.iter().enumerate().filter_map(|(host, caption)| frame(inside(host), caption)).collect();
    let all = || placed.blocks.iter().chain(hosts.iter().map(|(area, _)| area));
    let left = all().map(|a| a.left).fold(f64::INFINITY, f64::min);
    let top = all().map(|a| a.top).fold(f64::INFINITY, f64::min);
    let right = all().map(Area::right).fold(f64::NEG_INFINITY, f64::max);
    let bottom = all().map(Area::bottom).fold(f64::NEG_INFINITY, f64::max);
    let whole = if left.is_finite() && top.is_finite() {
        Area {
            left: left - MARGIN,
            top: top - MARGIN,
            width: right - left + 2.0 * MARGIN,
            height: bottom - top + 2.0 * MARGIN,
        }
    } else {
        Area { left: 0.0, top: 0.0, width: 2.0 * MARGIN, height: 2.0 * MARGIN }
    };
    draw(drawing, &placed, &hosts, whole)
}

/// The size of a box: that of its texts, and some air.
fn size(block: &Block) -> (f64, f64) {
    let lines = block.lines.iter().chain(&block.notes);
    let title = block.title.as_ref().map_or(0.0, |title| width(&title.shown, TITLE));
    let longest = lines.clone().map(|line| width(&line.shown, LINE)).fold(title, f64::max);
    let title = if block.title.is_some() { TITLE_HEIGHT } else { 0.0 };
    let count = f64::from(u32::try_from(lines.count()).unwrap_or(u32::MAX));
    ((longest + 2.0 * PAD_X).ceil(), title + count * LINE_HEIGHT + 2.0 * PAD_Y)
}

/// What a text takes. Of letters that are not of the alphabet the widest are assumed.
fn width(text: &str, size: f64) -> f64 {
    let narrow = |c: char| c.is_ascii() || "→…".contains(c);
    let columns = text.chars().map(|c| if narrow(c) { 1.0 } else { 2.0 }).sum::<f64>();
    columns * size * WIDTH_OF_LETTER
}

/// The frame around a host's boxes, and as much above them of its name and its addresses as there is room for: not beyond its
/// containers, where lines of others pass.
fn frame(inside: impl Iterator<Item = (Kind, Area)> + Clone, caption: &str) -> Option<(Area, Words)> {
    let area = inside.clone().map(|(_, area)| area).reduce(|a, b| {
        let (left, top) = (a.left.min(b.left), a.top.min(b.top));
        Area { left, top, width: a.right().max(b.right()) - left, height: a.bottom().max(b.bottom()) - top }
    })?;
    let containers = inside.filter(|(kind, _)| *kind == Kind::Container).map(|(_, area)| area.right());
    let caption = fitted(caption, containers.fold(area.left, f64::max) - area.left);
    let (width, height) = (area.width + 2.0 * HOST_PAD, area.height + HOST_PAD + HOST_TITLE);
    Some((Area { left: area.left - HOST_PAD, top: area.top - HOST_TITLE, width, height }, caption))
}

/// A host's name, without the addresses behind it.
fn name_of(caption: &str) -> &str {
    caption.split(PARTED).next().unwrap_or(caption)
}

/// Of a host's name and addresses what fits, and the name at least.
fn fitted(caption: &str, room: f64) -> Words {
    if width(caption, TITLE) <= room {
        return Words { shown: caption.to_owned(), whole: None };
    }
    let ends = caption.match_indices(PARTED).map(|(end, _)| format!("{}{PARTED}…", &caption[..end]));
    let shown = ends.filter(|shown| width(shown, TITLE) <= room).last().unwrap_or_else(|| name_of(caption).to_owned());
    Words { shown, whole: Some(caption.to_owned()) }
}

fn draw(drawing: &Drawing, placed: &Layout, hosts: &[(Area, Words)], whole: Area) -> String {
    let mut out = String::new();
    let [light, _] = &GROUNDS;
    let (width, height) = (whole.width.ceil(), whole.height.ceil());
    let origin = (whole.left, whole.top);
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"{FONT}\" role=\"img\">"
    );
    let _ = writeln!(out, "<title>{}</title>", escaped(&drawing.title));
    out += "<desc>From the left to the right: who asks, published ports, containers, their networks, and the way out. An arrow is a \
            connection that is let through; a line is a container on a network, thick where it leaves for the world by it.</desc>\n";
    out += &style();
    let _ = writeln!(
        out,
        "<defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         orient=\"auto\" markerUnits=\"userSpaceOnUse\"><path class=\"head\" d=\"M0 0L8 4L0 8z\" fill=\"{}\"/></marker></defs>",
        light.line
    );
    let _ = writeln!(out, "<rect class=\"ground\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>", light.below);
    for (area, _) in hosts {
        let _ = writeln!(
            out,
            "<rect class=\"host\" {} rx=\"10\" fill=\"{}\" stroke=\"{}\"/>",
            rectangle(area, origin),
            light.host,
            light.border
        );
    }
    for (line, ends) in drawing.lines.iter().zip(&placed.lines) {
        let looks = match line.sort {
            Sort::Flow => "stroke-width=\"1.4\" marker-end=\"url(#head)\"",
            Sort::Joined => "stroke-width=\"1.2\"",
            Sort::WayOut => "stroke-width=\"2.6\"",
        };
        let _ = writeln!(
            out,
            "<path class=\"line\" d=\"{}\" fill=\"none\" stroke=\"{}\" {looks}/>",
            curve(*ends, origin),
            light.line
        );
    }
    for (area, caption) in hosts {
        let at = (area.left - origin.0 + HOST_PAD, area.top - origin.1 + HOST_PAD + TITLE_HEIGHT / 2.0 - 2.0);
        text(&mut out, caption, at, Weight::Title);
    }
    for (block, area) in drawing.blocks.iter().zip(&placed.blocks) {
        self::block(&mut out, block, area, origin);
    }
    out + "</svg>\n"
}

fn block(out: &mut String, block: &Block, area: &Area, origin: Point) {
    let [light, _] = block.kind.colours();
    let round = if block.kind == Kind::World { area.height / 2.0 } else { 6.0 };
    let _ = writeln!(
        out,
        "<rect class=\"{}\" {} rx=\"{}\" fill=\"{}\" stroke=\"{}\" stroke-width=\"1.4\"/>",
        block.kind.name(),
        rectangle(area, origin),
        number(round),
        light.fill,
        light.stroke
    );
    let left = area.left - origin.0 + PAD_X;
    let mut top = area.top - origin.1 + PAD_Y;
    if let Some(title) = &block.title {
        text(out, title, (left, top + TITLE), Weight::Title);
        top += TITLE_HEIGHT;
    }
    let lines = block.lines.iter().map(|line| (line, Weight::Line));
    for (line, weight) in lines.chain(block.notes.iter().map(|note| (note, Weight::Note))) {
        text(out, line, (left, top + LINE), weight);
        top += LINE_HEIGHT;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    Title,
    Line,
    Note,
}

/// A text, from a point on its base line on; all of it is shown to who points at it, where it is cut.
fn text(out: &mut String, Words { shown, whole }: &Words, (x, y): Point, weight: Weight) {
    let [light, _] = &GROUNDS;
    let whole = whole.as_ref().map_or_else(String::new, |whole| format!("<title>{}</title>", escaped(whole)));
    let (class, size, colour, more) = match weight {
        Weight::Title => ("text", TITLE, light.text, " font-weight=\"700\""),
        Weight::Line => ("text", LINE, light.text, ""),
        Weight::Note => ("note", LINE, light.note, ""),
    };
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{}\" y=\"{}\" font-size=\"{size}\" fill=\"{colour}\"{more} textLength=\"{}\" \
         lengthAdjust=\"spacingAndGlyphs\">{whole}{}</text>",
        number(x),
        number(y),
        number(width(shown, size)),
        escaped(shown)
    );
}

/// What is another colour on a dark ground.
fn style() -> String {
    let [_, dark] = &GROUNDS;
    let mut out = String::from("<style>@media (prefers-color-scheme: dark) {\n");
    let _ = writeln!(out, ".ground {{ fill: {} }}", dark.below);
    let _ = writeln!(out, ".host {{ fill: {}; stroke: {} }}", dark.host, dark.border);
    let _ = writeln!(out, ".line {{ stroke: {0} }} .head {{ fill: {0} }}", dark.line);
    let _ = writeln!(out, ".text {{ fill: {} }} .note {{ fill: {} }}", dark.text, dark.note);
    for kind in Kind::ALL {
        let [_, dark] = kind.colours();
        let _ = writeln!(out, ".{} {{ fill: {}; stroke: {} }}", kind.name(), dark.fill, dark.stroke);
    }
    out + "}</style>\n"
}

fn rectangle(area: &Area, origin: Point) -> String {
    format!(
        "x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"",
        number(area.left - origin.0),
        number(area.top - origin.1),
        number(area.width),
        number(area.height)
    )
}

/// A smooth line, level at both ends.
fn curve([from, to]: [Point; 2], origin: Point) -> String {
    let at = |x: f64, y: f64| format!("{} {}", number(x - origin.0), number(y - origin.1));
    let half = f64::midpoint(from.0, to.0);
    let [start, leaves, comes, end] = [(from.0, from.1), (half, from.1), (half, to.1), to].map(|(x, y)| at(x, y));
    format!("M{start}C{leaves} {comes} {end}")
}

/// A tenth of a pixel is enough, and the same on every machine.
fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").map(ToOwned::to_owned).unwrap_or(text);
    if text == "-0" { "0".to_owned() } else { text }
}

/// A text of XML's: without what means something there, and without what may not be there at all.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}
