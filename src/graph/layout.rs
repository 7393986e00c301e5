//! Where the boxes of a drawing are. Each kind has its column, and lines only lead from one column to the next, so that none is ever
//! behind a box. Hosts are below each other; what is on none is in its column where no host is.

use super::drawing::Drawing;
use super::order::{self, CONTAINERS, Columns, DOORS, Ends, NETWORKS, mean, to_float};

/// Between boxes of one column, and between columns, in pixels.
const BETWEEN_BOXES: f64 = 28.0;
const BETWEEN_COLUMNS: f64 = 52.0;
/// What is more between columns where the frame of a host ends there.
const FRAME: f64 = 26.0;
/// Between frames, and between a frame and a box that is not in it.
const BETWEEN_HOSTS: f64 = 14.0;
/// Around the boxes of a host, and above them for its name.
pub(super) const HOST_PAD: f64 = 14.0;
pub(super) const HOST_TITLE: f64 = 32.0;
/// How often boxes of a host are moved to the height of those that they have lines to.
const ROUNDS: usize = 4;
/// How much a box without lines matters for where its neighbours are; each line is one.
const LONE: f64 = 0.01;
/// No bounds, from the top and the bottom.
const ANYWHERE: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

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
    /// Where each line begins and ends.
    pub(super) lines: Vec<[Point; 2]>,
}

/// Lays out boxes of these sizes (width, height); those of a column are of one width.
pub(super) fn layout(drawing: &Drawing, sizes: &[(f64, f64)]) -> Layout {
    let ends = Ends::of(drawing);
    let columns = order::columns(drawing, &ends);
    let heights = sizes.iter().map(|(_, height)| *height).collect();
    let places = Places { drawing, ends: &ends, columns: &columns, heights, middles: vec![0.0; sizes.len()] };
    let middles = places.found();
    let lefts = lefts(drawing, &columns, sizes);
    let area = |index: usize| {
        let (width, height) = sizes[index];
        Area { left: lefts[index], top: middles[index] - height / 2.0, width, height }
    };
    let blocks: Vec<Area> = (0..sizes.len()).map(area).collect();
    let lines = lines(drawing, &blocks);
    Layout { blocks, lines }
}

/// Where boxes begin from the left: one column after the other.
fn lefts(drawing: &Drawing, columns: &Columns, sizes: &[(f64, f64)]) -> Vec<f64> {
    let mut lefts = vec![0.0; sizes.len()];
    let on = |host: usize, column: &[usize]| column.iter().any(|index| drawing.blocks[*index].host == Some(host));
    let drawn: Vec<&Vec<usize>> = columns.iter().filter(|column| !column.is_empty()).collect();
    let mut left = 0.0;
    for (place, column) in drawn.iter().enumerate() {
        for index in *column {
            lefts[*index] = left;
        }
        let width = column.iter().map(|index| sizes[*index].0).fold(0.0, f64::max);
        let ends_here = |host: usize| drawn.get(place + 1).is_some_and(|next| on(host, column) != on(host, next));
        let frame = if (0..drawing.hosts.len()).any(ends_here) { FRAME } else { 0.0 };
        left += width + BETWEEN_COLUMNS + frame;
    }
    lefts
}

/// How high boxes are; their middles are found.
struct Places<'a> {
    drawing: &'a Drawing,
    ends: &'a Ends,
    columns: &'a Columns,
    heights: Vec<f64>,
    middles: Vec<f64>,
}

impl Places<'_> {
    fn found(mut self) -> Vec<f64> {
        let columns = self.columns;
        let mut end = 0.0;
        for host in 0..self.drawing.hosts.len() {
            self.fill(host);
            let (top, bottom) = self.frame(host);
            self.lower(host..=host, end - top);
            end += bottom - top + BETWEEN_HOSTS;
        }
        let between = self.between();
        for (boxes, above, below) in &between {
            let room = self.room(*above, *below);
            let needed = boxes.iter().map(|index| self.heights[*index] + BETWEEN_BOXES).sum::<f64>() - BETWEEN_BOXES;
            if let Some(below) = below.filter(|_| above.is_some() && room.1 - room.0 < needed) {
                self.lower(below..=self.drawing.hosts.len(), needed - (room.1 - room.0));
            }
        }
        for (boxes, above, below) in between {
            let room = self.room(above, below);
            self.settle(&boxes, |places, index| places.ends.before[index].clone(), room);
        }
        for world in [columns.first(), columns.last()].into_iter().flatten() {
            self.settle(world, Self::others, ANYWHERE);
        }
        self.middles
    }

    fn is_on(&self, index: usize, host: usize) -> bool {
        self.drawing.blocks[index].host == Some(host)
    }

    /// Places the boxes of a host, as if there were no others: containers beside both their ports and networks, and those beside them.
    fn fill(&mut self, host: usize) {
        let own = |column: usize| -> Vec<usize> {
            self.columns[column].iter().copied().filter(|index| self.is_on(*index, host)).collect()
        };
        let columns = [CONTAINERS, DOORS, NETWORKS].map(own);
        let others = |places: &Self, index: usize| {
            let mut others = places.others(index);
            others.retain(|other| places.is_on(*other, host));
            others
        };
        for column in std::iter::repeat_n(&columns, ROUNDS).flatten() {
            self.settle(column, others, ANYWHERE);
        }
    }

    /// The boxes that a box has lines from or to.
    fn others(&self, index: usize) -> Vec<usize> {
        [&self.ends.before[index][..], &self.ends.behind[index]].concat()
    }

    /// From where to where the frame of a host goes, from the top.
    fn frame(&self, host: usize) -> (f64, f64) {
        let own = (0..self.middles.len()).filter(|index| self.is_on(*index, host));
        let sides = own.map(|index| (self.middles[index], self.heights[index] / 2.0));
        let sides = sides.map(|(middle, half)| (middle - half - HOST_TITLE, middle + half + HOST_PAD));
        sides.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or_default()
    }

    /// Moves all that is on some hosts.
    fn lower(&mut self, hosts: std::ops::RangeInclusive<usize>, by: f64) {
        for (middle, block) in self.middles.iter_mut().zip(&self.drawing.blocks) {
            if block.host.is_some_and(|host| hosts.contains(&host)) {
                *middle += by;
            }
        }
    }

    /// The networks on no host that are in one room, and the hosts above and below it.
    fn between(&self) -> Vec<(Vec<usize>, Option<usize>, Option<usize>)> {
        let mut rooms = vec![(Vec::new(), None, None)];
        for index in &self.columns[NETWORKS] {
            let Some((boxes, above, below)) = rooms.last_mut() else { continue };
            match self.drawing.blocks[*index].host {
                None => boxes.push(*index),
                Some(host) if *above == Some(host) => {}
                Some(host) => {
                    *below = Some(host);
                    rooms.push((Vec::new(), Some(host), None));
                }
            }
        }
        rooms.retain(|(boxes, ..)| !boxes.is_empty());
        rooms
    }

    fn room(&self, above: Option<usize>, below: Option<usize>) -> (f64, f64) {
        let top = above.map_or(f64::NEG_INFINITY, |host| self.frame(host).1 + BETWEEN_HOSTS);
        (top, below.map_or(f64::INFINITY, |host| self.frame(host).0 - BETWEEN_HOSTS))
    }

    /// Places boxes of one column, in their order and within a room, as near to those that they have lines to as there is space for
    /// all: least squares (the pooling of adjacent violators).
    fn settle(&mut self, boxes: &[usize], others: impl Fn(&Self, usize) -> Vec<usize>, (top, bottom): (f64, f64)) {
        /// Boxes that touch: where the first box of the column would be for their sake, how much they matter, and how many they are.
        struct Pool(f64, f64, usize);
        let mut pools: Vec<Pool> = Vec::new();
        let mut offsets: Vec<f64> = Vec::new();
        let mut offset = 0.0;
        for (place, index) in boxes.iter().enumerate() {
            let half = self.heights[*index] / 2.0;
            offset += if place > 0 { half } else { 0.0 };
            offsets.push(offset);
            let others = others(self, *index);
            let kept = pools.last().map_or(self.middles[*index], |pool| pool.0 + offset);
            let wanted = mean(&others, &self.middles);
            let weight = if wanted.is_some() { to_float(others.len()) } else { LONE };
            let mut pool = Pool(wanted.unwrap_or(kept) - offset, weight, 1);
            while let Some(Pool(at, weight, count)) = pools.pop_if(|before| before.0 >= pool.0) {
                let sum = weight + pool.1;
                pool = Pool((at * weight + pool.0 * pool.1) / sum, sum, count + pool.2);
            }
            pools.push(pool);
            offset += half + BETWEEN_BOXES;
        }
        let half = |index: Option<&usize>| index.map_or(0.0, |index| self.heights[*index] / 2.0);
        let least = top + half(boxes.first());
        let most = bottom - half(boxes.last()) - offsets.last().copied().unwrap_or_default();
        let ats = pools.iter().flat_map(|pool| std::iter::repeat_n(pool.0, pool.2));
        for ((index, at), offset) in boxes.iter().zip(ats).zip(offsets) {
            self.middles[*index] = at.min(most).max(least) + offset;
        }
    }
}

/// Each line from the right side of its first box to the left side of its last one, spread over the sides in the order of the other
/// ends.
fn lines(drawing: &Drawing, blocks: &[Area]) -> Vec<[Point; 2]> {
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
    at
}
