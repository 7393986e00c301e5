//! In which column a box of a drawing is, and in what order: that in which few lines cross.

use std::cmp::Ordering;

use super::drawing::{Drawing, Kind};

/// The column behind those of the kinds, for the world that containers leave for.
const LAST: usize = 4;
/// How often containers and networks are put in the order of each other; then it changes little or not at all.
const ROUNDS: usize = 12;

pub(super) const DOORS: usize = Kind::Door.column();
pub(super) const CONTAINERS: usize = Kind::Container.column();
pub(super) const NETWORKS: usize = Kind::Network.column();

/// The boxes of each column from the top, those of a host together and the hosts in their order. Lines are between neighbours.
pub(super) type Columns = [Vec<usize>; LAST + 1];

/// The boxes that lines lead to each box from, and to which they lead from it.
pub(super) struct Ends {
    pub(super) before: Vec<Vec<usize>>,
    pub(super) behind: Vec<Vec<usize>>,
}

impl Ends {
    pub(super) fn of(drawing: &Drawing) -> Self {
        let mut before = vec![Vec::new(); drawing.blocks.len()];
        let mut behind = before.clone();
        for line in &drawing.lines {
            before[line.to].push(line.from);
            behind[line.from].push(line.to);
        }
        Self { before, behind }
    }
}

/// Where a box is among those of its column: by its host's place, then by its own, then by the file.
type Key = (f64, Option<usize>, f64, usize);

pub(super) fn columns(drawing: &Drawing, ends: &Ends) -> Columns {
    let mut columns = Columns::default();
    for (index, block) in drawing.blocks.iter().enumerate() {
        let answers = block.kind == Kind::World && !ends.before[index].is_empty();
        columns[if answers { LAST } else { block.kind.column() }].push(index);
    }
    let host = |index: usize| drawing.blocks[index].host;
    let by_behind = |index: usize, ranks: &[f64]| {
        (0.0, host(index), mean(&ends.behind[index], ranks).unwrap_or(f64::INFINITY), index)
    };
    let mut ranks = vec![0.0; drawing.blocks.len()];
    let mut by_host: Vec<Vec<usize>> = vec![Vec::new(); drawing.hosts.len()];
    for container in &columns[CONTAINERS] {
        by_host[host(*container).unwrap_or(0)].push(*container);
    }
    sort(&mut columns[CONTAINERS], &mut ranks, |index, _| (0.0, host(index), 0.0, index));
    let mut best: Option<(usize, Columns)> = None;
    for _ in 0..ROUNDS {
        sort(&mut columns[NETWORKS], &mut ranks, |index, ranks| {
            let own = mean(&ends.before[index], ranks).unwrap_or(f64::INFINITY);
            let together = host(index).and_then(|host| mean(&by_host[host], ranks));
            (together.unwrap_or(own), host(index), own, index)
        });
        let crossings = crossings(drawing, &columns, &ranks);
        if best.as_ref().is_none_or(|(least, _)| crossings < *least) {
            best = Some((crossings, columns.clone()));
        }
        sort(&mut columns[CONTAINERS], &mut ranks, by_behind);
    }
    let mut columns = best.map_or(columns, |(_, best)| best);
    rank(&columns[CONTAINERS], &mut ranks);
    sort(&mut columns[DOORS], &mut ranks, by_behind);
    columns
}

fn sort(column: &mut [usize], ranks: &mut [f64], key: impl Fn(usize, &[f64]) -> Key) {
    let mut keyed: Vec<Key> = column.iter().map(|index| key(*index, ranks)).collect();
    keyed.sort_by(compare);
    column.iter_mut().zip(keyed).for_each(|(place, key)| *place = key.3);
    rank(column, ranks);
}

fn compare(a: &Key, b: &Key) -> Ordering {
    let own = a.2.total_cmp(&b.2).then(a.3.cmp(&b.3));
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(own)
}

fn rank(column: &[usize], ranks: &mut [f64]) {
    for (rank, index) in column.iter().enumerate() {
        ranks[*index] = to_float(rank);
    }
}

/// How many pairs of lines from containers to networks cross.
fn crossings(drawing: &Drawing, columns: &Columns, ranks: &[f64]) -> usize {
    let mut places = vec![None; ranks.len()];
    columns[NETWORKS].iter().enumerate().for_each(|(place, network)| places[*network] = Some(place));
    let ends = drawing.lines.iter().filter_map(|line| Some((ranks[line.from], places[line.to]?)));
    let mut ends: Vec<(f64, usize)> = ends.collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut ended = vec![0; columns[NETWORKS].len()];
    let mut crossings = 0;
    for (_, place) in ends {
        crossings += ended[place + 1..].iter().sum::<usize>();
        ended[place] += 1;
    }
    crossings
}

/// The mean of what some boxes have; none of no boxes.
pub(super) fn mean(boxes: &[usize], of: &[f64]) -> Option<f64> {
    (!boxes.is_empty()).then(|| boxes.iter().map(|index| of[*index]).sum::<f64>() / to_float(boxes.len()))
}

pub(super) fn to_float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
