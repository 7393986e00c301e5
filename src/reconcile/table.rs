//! Tables and paragraphs for people, on lines as long as they may be: what does not fit beside the rest goes below it.

/// Between columns.
const GAP: &str = "  ";

/// What goes on below begins so.
const INDENT: &str = "  ";

/// The least that a last column in several lines is given, in characters.
const NARROWEST: usize = 24;

/// Columns whose cells are lists, parted by spaces.
const LISTS: [&str; 2] = ["SUBNETS", "ADDRESSES"];

/// Columns in the order in which they leave a table that is too wide. The first and the last one of a table stay.
const LEAVING: [&str; 12] = [
    "SUBNETS",
    "ADDRESSES",
    "BYTES",
    "PACKETS",
    "NETNS",
    "DRIVER",
    "INTERFACE",
    "DEVICE",
    "CONTAINERS",
    "CONNECTIONS",
    "CONTAINER",
    "NETWORK",
];

/// Which columns stand beside each other, and how.
#[derive(Clone, Default)]
struct Shape {
    beside: Vec<usize>,
    /// Those that have a line of their own below each row.
    below: Vec<usize>,
    /// Whether what a cell lists is one below the other.
    stacked: bool,
    /// What the last column takes, where its cells go on below.
    last: Option<usize>,
}

/// Columns as wide as their widest cell; nothing without rows. Where a line takes less, lists are set one below the other and the
/// last column in several lines; where that is not enough, columns leave for a line below each row, with their names.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    columns: Option<usize>,
) -> String {
    let table = Table { head, rows: rows.collect() };
    if table.rows.is_empty() {
        return String::new();
    }
    let shape = table.shape(columns.unwrap_or(usize::MAX));
    table.in_shape(&shape, columns)
}

struct Table<'a, const N: usize> {
    head: [&'a str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<'_, N> {
    /// The first shape that fits, or the narrowest one.
    fn shape(&self, columns: usize) -> Shape {
        let mut shape = Shape { beside: (0..N).collect(), ..Shape::default() };
        if self.taken(&shape, None) <= columns {
            return shape;
        }
        shape.stacked = true;
        let mut leaving = LEAVING.iter();
        while self.taken(&shape, Some(NARROWEST)) > columns {
            let Some(name) = leaving.next() else { break };
            let inner = |place: &usize| (1..N - 1).contains(place) && self.head[*place] == *name;
            shape.below.extend(shape.beside.iter().copied().find(inner));
            shape.beside.retain(|place| !inner(place));
        }
        let others = self.taken(&shape, Some(0));
        shape.last = Some(columns.saturating_sub(others).max(NARROWEST));
        shape.below.sort_unstable();
        shape
    }

    /// What a line takes, with no more than this for the last column.
    fn taken(&self, shape: &Shape, last: Option<usize>) -> usize {
        let mut widths = self.widths(shape);
        if let (Some(most), Some(width)) = (last, widths.last_mut()) {
            *width = (*width).min(most);
        }
        widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1)
    }

    fn widths(&self, shape: &Shape) -> Vec<usize> {
        let width = |place: &usize| {
            let cells = self.rows.iter().flat_map(|row| self.cell(row, *place, shape));
            cells.map(|line| length(&line)).fold(length(self.head[*place]), usize::max)
        };
        shape.beside.iter().map(width).collect()
    }

    /// The lines of a cell.
    fn cell(&self, row: &[String; N], place: usize, shape: &Shape) -> Vec<String> {
        let cell = &row[place];
        match shape.last {
            _ if shape.stacked && LISTS.contains(&self.head[place]) => cell.split(' ').map(str::to_owned).collect(),
            Some(width) if place == N - 1 => wrapped(cell, width, ""),
            _ => vec![cell.clone()],
        }
    }

    fn in_shape(&self, shape: &Shape, columns: Option<usize>) -> String {
        let widths = self.widths(shape);
        let line = |cells: &[&str]| {
            let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned() + "\n"
        };
        let head: Vec<&str> = shape.beside.iter().map(|place| self.head[*place]).collect();
        let mut text = format!("\n{}", line(&head));
        for row in &self.rows {
            let cells: Vec<Vec<String>> = shape.beside.iter().map(|place| self.cell(row, *place, shape)).collect();
            for height in 0..cells.iter().map(Vec::len).max().unwrap_or_default() {
                let cells: Vec<&str> = cells.iter().map(|cell| cell.get(height).map_or("", String::as_str)).collect();
                text += &line(&cells);
            }
            for place in shape.below.iter().filter(|place| !["", "-"].contains(&row[**place].as_str())) {
                let below = format!("{INDENT}{}: {}", self.head[*place].to_lowercase(), row[*place]);
                text += &paragraph(&below, columns);
            }
        }
        text
    }
}

/// A text with its newline; what of its lines does not fit goes on below, further in.
pub(super) fn paragraph(text: &str, columns: Option<usize>) -> String {
    let mut paragraph = String::with_capacity(text.len() + 1);
    for line in text.split('\n') {
        let body = line.trim_start_matches(' ');
        let (indent, body) = line.split_at(line.len() - body.len());
        let width = columns.map_or(usize::MAX, |columns| columns.saturating_sub(indent.len()));
        paragraph.extend(wrapped(body, width, INDENT).iter().flat_map(|line| [indent, line, "\n"]));
    }
    paragraph
}

/// A text in lines of so many characters, broken between words; all but the first begin with `hang`.
fn wrapped(text: &str, width: usize, hang: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if length(line) + 1 + length(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("{hang}{word}")),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINERS: [&str; 6] = ["CONTAINER", "NETNS", "NETWORK", "INTERFACE", "ADDRESSES", "STATE"];

    /// The table of containers on so many columns, and that nothing is beyond them.
    fn containers(columns: usize) -> String {
        let rows = [
            ["web", "web", "front", "eth0", "10.20.0.222/24 fd20::ed3a:5e9:a764:c522/64", "ok"],
            ["web", "web", "back", "eth1", "10.21.0.46/24", "1 missing of 6"],
            ["cache", "docker:cache", "back", "-", "-", "waiting"],
        ];
        let text = table(CONTAINERS, rows.into_iter().map(|row| row.map(str::to_owned)), Some(columns));
        assert!(text.lines().all(|line| length(line) <= columns), "{columns}: {text}");
        text
    }

    #[test]
    fn columns_leave_a_narrow_table_one_after_the_other() {
        let wide = "
CONTAINER  NETNS         NETWORK  INTERFACE  ADDRESSES                                   STATE
web        web           front    eth0       10.20.0.222/24 fd20::ed3a:5e9:a764:c522/64  ok
web        web           back     eth1       10.21.0.46/24                               1 missing of 6
cache      docker:cache  back     -          -                                           waiting
";
        assert_eq!(containers(103), wide);
        let stacked = "
CONTAINER  NETNS         NETWORK  INTERFACE  ADDRESSES                    STATE
web        web           front    eth0       10.20.0.222/24               ok
                                             fd20::ed3a:5e9:a764:c522/64
web        web           back     eth1       10.21.0.46/24                1 missing of 6
cache      docker:cache  back     -          -                            waiting
";
        assert_eq!([102, 88].map(containers), [stacked; 2]);
        let addresses_below = "
CONTAINER  NETNS         NETWORK  INTERFACE  STATE
web        web           front    eth0       ok
  addresses: 10.20.0.222/24 fd20::ed3a:5e9:a764:c522/64
web        web           back     eth1       1 missing of 6
  addresses: 10.21.0.46/24
cache      docker:cache  back     -          waiting
";
        assert_eq!([87, 59].map(containers), [addresses_below; 2]);
        let netns_below = "
CONTAINER  NETWORK  INTERFACE  STATE
web        front    eth0       ok
  netns: web
  addresses: 10.20.0.222/24
    fd20::ed3a:5e9:a764:c522/64
web        back     eth1       1 missing of 6
  netns: web
  addresses: 10.21.0.46/24
cache      back     -          waiting
  netns: docker:cache
";
        assert_eq!([54, 45].map(containers), [netns_below; 2]);
    }

    #[test]
    fn numbers_of_ports_leave_after_their_addresses() {
        let head = ["PORT", "CONTAINER", "ADDRESSES", "CONNECTIONS", "PACKETS", "BYTES", "STATE"];
        let port = ["[2001:db8::1]:8080/tcp", "web:80", "fd20::ed3a:5e9:a764:c522", "12", "47110", "2814749767", "ok"];
        let shown = |columns| table(head, [port.map(str::to_owned)].into_iter(), Some(columns));
        let addresses_below = "
PORT                    CONTAINER  CONNECTIONS  PACKETS  BYTES       STATE
[2001:db8::1]:8080/tcp  web:80     12           47110    2814749767  ok
  addresses: fd20::ed3a:5e9:a764:c522
";
        assert_eq!(shown(80), addresses_below);
        let bytes_below = "
PORT                    CONTAINER  CONNECTIONS  STATE
[2001:db8::1]:8080/tcp  web:80     12           ok
  addresses: fd20::ed3a:5e9:a764:c522
  packets: 47110
  bytes: 2814749767
";
        assert_eq!(shown(60), bytes_below);
    }

    #[test]
    fn a_narrow_table_sets_addresses_one_below_the_other() {
        let rows = || {
            [["web", "10.20.0.10/24 fd20::10/64", "ok"], ["db", "10.20.0.9/24", "1 missing of 6"]]
                .into_iter()
                .map(|row| row.map(str::to_owned))
        };
        let shown = |columns| table(["CONTAINER", "ADDRESSES", "STATE"], rows(), columns);
        let wide = "
CONTAINER  ADDRESSES                  STATE
web        10.20.0.10/24 fd20::10/64  ok
db         10.20.0.9/24               1 missing of 6
";
        let narrow = "
CONTAINER  ADDRESSES      STATE
web        10.20.0.10/24  ok
           fd20::10/64
db         10.20.0.9/24   1 missing of 6
";
        let narrowest = "
CONTAINER  STATE
web        ok
  addresses:
    10.20.0.10/24
    fd20::10/64
db         1 missing of 6
  addresses:
    10.20.0.9/24
";
        assert_eq!(shown(None), wide);
        assert_eq!(shown(Some(52)), wide, "it just fits");
        assert_eq!(shown(Some(51)), narrow);
        assert_eq!(shown(Some(40)), narrow, "it just fits");
        assert_eq!(shown(Some(10)), narrowest, "what cannot be made narrower is shown all the same");
    }

    #[test]
    fn a_long_reason_goes_on_below() {
        let why = "refused: container `web` (netrec.toml:3) is to live in /run/x, where there is no network namespace";
        let rows = [["web", "10.20.0.10/24 fd20::10/64", why], ["db", "10.20.0.9/24", "ok"]];
        let rows = rows.into_iter().map(|row| row.map(str::to_owned));
        let shown = "
CONTAINER  ADDRESSES      STATE
web        10.20.0.10/24  refused: container `web` (netrec.toml:3)
           fd20::10/64    is to live in /run/x, where there is no
                          network namespace
db         10.20.0.9/24   ok
";
        assert_eq!(table(["CONTAINER", "ADDRESSES", "STATE"], rows, Some(66)), shown);
        assert!(shown.lines().all(|line| length(line) <= 66));
    }

    #[test]
    fn a_paragraph_goes_on_further_in() {
        let text = "! one two three\n  four five six\nseven";
        assert_eq!(paragraph(text, None), "! one two three\n  four five six\nseven\n");
        assert_eq!(paragraph(text, Some(15)), "! one two three\n  four five six\nseven\n", "it just fits");
        assert_eq!(paragraph(text, Some(11)), "! one two\n  three\n  four five\n    six\nseven\n");
        assert_eq!(paragraph("! incomprehensible", Some(4)), "!\n  incomprehensible\n", "a word is never broken");
    }
}
