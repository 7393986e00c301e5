//! Where the boxes of a drawing are. The layers, the order within them and the ways of the lines are the layout library's.

use dugong::graphlib::{Graph, GraphOptions};
use dugong::{EdgeLabel, GraphLabel, NodeLabel, RankDir};

use super::drawing::{Drawing, Kind, Sort};

/// Between boxes of one layer, between lines, and between layers, in pixels.
const BETWEEN_BOXES: f64 = 28.0;
const BETWEEN_LINES: f64 = 14.0;
const BETWEEN_LAYERS: f64 = 52.0;
/// The weights of what is not drawn, of who asks whom, and of what belongs together, for which a short way matters more. All are whole
/// numbers: the library adds and compares them, and goes on for ever where a sum is rounded.
const TIE: f64 = 1.0;
const FLOW: f64 = 100.0;
const JOINED: f64 = 200.0;

/// Why there is no layout.
#[derive(Debug, thiserror::Error)]
#[error("the picture cannot be laid out: {0}")]
pub struct LayoutError(String);

/// A point, in pixels from the left and from the top.
pub(super) type Point = (f64, f64);

/// A rectangle, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    pub(super) fn right(&self) -> f64 {
        self.left + self.width
    }

    fn middle(&self) -> f64 {
        self.top + self.height / 2.0
    }

    pub(super) fn bottom(&self) -> f64 {
        self.top + self.height
    }
}

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) blocks: Vec<Area>,
    /// The points that each line passes.
    pub(super) lines: Vec<Vec<Point>>,
}

/// Lays out boxes of these sizes (width, height).
pub(super) fn layout(drawing: &Drawing, sizes: &[(f64, f64)]) -> Result<Layout, LayoutError> {
    let mut graph: Graph<NodeLabel, EdgeLabel, GraphLabel> =
        Graph::new(GraphOptions { multigraph: true, compound: true, directed: true });
    graph.set_graph(GraphLabel {
        rankdir: RankDir::LR,
        nodesep: BETWEEN_BOXES,
        edgesep: BETWEEN_LINES,
        ranksep: BETWEEN_LAYERS,
        ..GraphLabel::default()
    });
    for (index, (width, height)) in sizes.iter().enumerate() {
        graph.set_node(block(index), NodeLabel { width: *width, height: *height, ..NodeLabel::default() });
    }
    for (index, host) in drawing.blocks.iter().enumerate().filter_map(|(index, block)| Some((index, block.host?))) {
        graph.ensure_node(self::host(host));
        graph.set_parent(block(index), self::host(host));
    }
    for (index, line) in drawing.lines.iter().enumerate() {
        let weight = if line.sort == Sort::Flow { FLOW } else { JOINED };
        let label = EdgeLabel { weight, minlen: 1, ..EdgeLabel::default() };
        graph.set_edge_named(block(line.from), block(line.to), Some(index.to_string()), Some(label));
    }
    for (index, (from, to)) in ties(drawing).into_iter().enumerate() {
        let label = EdgeLabel { weight: TIE, minlen: 1, ..EdgeLabel::default() };
        graph.set_edge_named(block(from), block(to), Some(format!("tie{index}")), Some(label));
    }
    dugong::layout(&mut graph).map_err(|error| LayoutError(error.to_string()))?;
    let area = |id: &str| {
        let node = graph.node(id)?;
        let (x, y) = node.x.zip(node.y)?;
        let (width, height) = (node.width, node.height);
        Some(Area { left: x - width / 2.0, top: y - height / 2.0, width, height })
    };
    let missing = || LayoutError("a box has no place".to_owned());
    let blocks = (0..sizes.len()).map(|index| area(&block(index)).ok_or_else(missing)).collect::<Result<_, _>>()?;
    let blocks: Vec<Area> = blocks;
    let bends = drawing.lines.iter().enumerate().map(|(index, line)| {
        let edge = graph.edge(&block(line.from), &block(line.to), Some(&index.to_string()));
        edge.into_iter().flat_map(|edge| &edge.points).map(|point| (point.x, point.y)).collect()
    });
    let lines = ways(drawing, &blocks, bends.collect());
    Ok(Layout { blocks, lines })
}

/// What keeps boxes without lines in their column: an invisible line from a container to a network.
fn ties(drawing: &Drawing) -> Vec<(usize, usize)> {
    let of = |column: usize| {
        let all = drawing.blocks.iter().enumerate();
        all.filter(move |(_, block)| block.kind.column() == column).map(|(index, _)| index)
    };
    let (containers, networks) = (Kind::Container.column(), Kind::Network.column());
    let mut lined: Vec<bool> = vec![false; drawing.blocks.len()];
    for line in &drawing.lines {
        lined[line.from] = true;
        lined[line.to] = true;
    }
    let lone = |index: &usize| !lined[*index];
    let mut ties: Vec<(usize, usize)> = Vec::new();
    if let Some(network) = of(networks).next() {
        ties.extend(of(containers).filter(lone).map(|container| (container, network)));
    }
    if let Some(container) = of(containers).next() {
        ties.extend(of(networks).filter(lone).map(|network| (container, network)));
    }
    ties.sort_unstable();
    ties.dedup();
    ties
}

/// The points that each line passes: from the right side of its first box to the left side of its last one, spread over the sides
/// in the order of the other ends, and straight through the columns between.
fn ways(drawing: &Drawing, blocks: &[Area], bends: Vec<Vec<Point>>) -> Vec<Vec<Point>> {
    let mut starts: Vec<Vec<usize>> = vec![Vec::new(); blocks.len()];
    let mut ends = starts.clone();
    for (index, line) in drawing.lines.iter().enumerate() {
        starts[line.from].push(index);
        ends[line.to].push(index);
    }
    let mut at = vec![[(0.0, 0.0); 2]; drawing.lines.len()];
    for (side, all) in [&mut starts, &mut ends].into_iter().enumerate() {
        for (area, lines) in blocks.iter().zip(all) {
            let other = |line: &usize| {
                let line = drawing.lines[*line];
                blocks[if side == 0 { line.to } else { line.from }].middle()
            };
            lines.sort_by(|a, b| other(a).total_cmp(&other(b)));
            let step = area.height / to_float(lines.len() + 1);
            let x = if side == 0 { area.right() } else { area.left };
            for (place, line) in lines.iter().enumerate() {
                at[*line][side] = (x, area.top + step * to_float(place + 1));
            }
        }
    }
    let through = |bends: Vec<Point>, [from, to]: [Point; 2]| {
        let mut points = vec![from];
        for (x, y) in bends.into_iter().filter(|(x, _)| *x > from.0 && *x < to.0) {
            // Between columns there is nothing to keep clear of.
            let column = || blocks.iter().filter(|area| area.left < x && x < area.right());
            if column().next().is_some() {
                points.push((column().map(|area| area.left).fold(x, f64::min), y));
                points.push((column().map(Area::right).fold(x, f64::max), y));
            }
        }
        points.push(to);
        points.dedup();
        points
    };
    bends.into_iter().zip(at).map(|(bends, at)| through(bends, at)).collect()
}

fn to_float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn block(index: usize) -> String {
    format!("b{index}")
}

fn host(index: usize) -> String {
    format!("h{index}")
}
