//! How a problem looks: the source lines with a gutter of line numbers, carets under the place, dashes under the others.
//!
//! Text of the file is hostile until shown: control and direction characters are escaped, long lines are cut, and
//! columns follow what a terminal makes of tabs, combining and wide characters.

use std::fmt::Write as _;

use super::report::{Problem, Sources};
use super::types::Place;
use crate::state::{clean, push_visible};

/// The most characters of a source line that are shown.
const LINE: usize = 120;
/// How many of them come before the place, in a line that is cut on the left.
const BEFORE: usize = 40;

/// Draws problems; knows where lines begin.
pub(super) struct Painter<'a> {
    sources: &'a Sources,
    /// By source: the byte at which each line begins.
    starts: Vec<Vec<usize>>,
}

/// A place to underline.
struct Mark<'a> {
    source: usize,
    /// From 0.
    line: usize,
    /// Bytes of the source's text, within the line.
    start: usize,
    end: usize,
    /// Underlined with `^`, others with `-`.
    primary: bool,
    label: &'a str,
}

impl<'a> Painter<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        let starts = |text: &str| {
            let breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
            std::iter::once(0).chain(breaks).collect()
        };
        Self { sources, starts: sources.0.iter().map(|s| starts(&s.text)).collect() }
    }

    /// `netrec.toml:14`.
    pub(super) fn file_and_line(&self, place: &Place) -> String {
        let name = self.sources.0.get(place.source).map_or("?", |s| &s.name);
        format!("{name}:{}", self.line_of(place.source, place.span.start) + 1)
    }

    /// The whole picture, without a newline at the end.
    pub(super) fn problem(&self, severity: &str, problem: &Problem) -> String {
        let primary = self.mark(&problem.place, true, &problem.label);
        let source = primary.source;
        let mut marks = vec![primary];
        marks.extend(problem.others.iter().map(|(place, label)| self.mark(place, false, label)));
        let digits = marks.iter().map(|m| (m.line + 1).to_string().len()).max().unwrap_or(1);
        let mut art = Art { text: String::new(), digits };

        let _ = write!(art.text, "{severity}: {}", clean(&problem.message));
        art.arrow("-->", &self.location(&marks[0]));
        marks.sort_by_key(|m| (m.source != source, m.source, m.line, m.start, !m.primary));
        for file in marks.chunk_by(|a, b| a.source == b.source) {
            if file[0].source != source {
                art.row("", "");
                art.arrow(":::", &self.location(&file[0]));
            }
            self.file(&mut art, file);
        }
        if let Some(help) = &problem.help {
            art.row("", "");
            let _ = write!(art.text, "\n{:digits$}  = help: {}", "", clean(help));
        }
        art.text
    }

    /// `netrec.toml:3:1`, the column in characters from 1.
    fn location(&self, mark: &Mark) -> String {
        let Some(source) = self.sources.0.get(mark.source) else { return "?".to_owned() };
        let (start, _) = self.bounds(mark.source, mark.line);
        let column = source.text.get(start..mark.start).unwrap_or_default().chars().count() + 1;
        format!("{}:{}:{column}", clean(&source.name), mark.line + 1)
    }

    /// The marked lines of one file.
    fn file(&self, art: &mut Art, marks: &[Mark]) {
        art.row("", "");
        let mut last: Option<usize> = None;
        for same in marks.chunk_by(|a, b| a.line == b.line) {
            let line = same[0].line;
            match last.map(|l| line - l) {
                Some(2) => self.whole_line(art, same[0].source, line - 1),
                Some(3..) => art.text.push_str("\n ..."),
                _ => {}
            }
            self.line(art, same);
            last = Some(line);
        }
    }

    /// A line between two marked ones.
    fn whole_line(&self, art: &mut Art, source: usize, line: usize) {
        let (start, end) = self.bounds(source, line);
        let window = Window::new(self.text(source), start, end, start);
        art.row(&(line + 1).to_string(), &window.text);
    }

    /// One line with its marks, a row for each; a line too long to show is shown anew for each mark.
    fn line(&self, art: &mut Art, marks: &[Mark]) {
        let mut shown: Option<Window> = None;
        for mark in marks {
            let window = match shown.take() {
                Some(window) if !window.cut => window,
                _ => {
                    let (start, end) = self.bounds(mark.source, mark.line);
                    let window = Window::new(self.text(mark.source), start, end, mark.start);
                    art.row(&(mark.line + 1).to_string(), &window.text);
                    window
                }
            };
            let (left, width) = window.columns(self.text(mark.source), mark.start, mark.end);
            let pen = if mark.primary { "^" } else { "-" };
            art.row("", &format!("{:left$}{} {}", "", pen.repeat(width), clean(mark.label)));
            shown = Some(window);
        }
    }

    /// Where a place is, brought within the text and to the first of its lines.
    fn mark<'l>(&self, place: &Place, primary: bool, label: &'l str) -> Mark<'l> {
        let text = self.text(place.source);
        let line = self.line_of(place.source, place.span.start);
        let (first, last) = self.bounds(place.source, line);
        let start = text.floor_char_boundary(place.span.start.clamp(first, last));
        let end = text.floor_char_boundary(place.span.end.clamp(start, last));
        Mark { source: place.source, line, start, end, primary, label }
    }

    fn text(&self, source: usize) -> &'a str {
        self.sources.0.get(source).map_or("", |s| &s.text)
    }

    /// The line of a byte, from 0.
    fn line_of(&self, source: usize, byte: usize) -> usize {
        let starts = self.starts.get(source).map_or(&[0][..], Vec::as_slice);
        starts.partition_point(|start| *start <= byte).saturating_sub(1)
    }

    /// The bytes of a line, without its end and without a byte order mark.
    fn bounds(&self, source: usize, line: usize) -> (usize, usize) {
        let text = self.text(source);
        let starts = self.starts.get(source).map_or(&[0][..], Vec::as_slice);
        let mut start = starts.get(line).copied().unwrap_or(text.len());
        let end = starts.get(line + 1).map_or(text.len(), |next| next - 1);
        if start == 0 && text.starts_with('\u{feff}') {
            start = '\u{feff}'.len_utf8();
        }
        let end = if text[..end].ends_with('\r') { end - 1 } else { end };
        (start, end.max(start))
    }
}

/// The picture as it grows.
struct Art {
    text: String,
    /// The width of the line numbers.
    digits: usize,
}

impl Art {
    fn arrow(&mut self, arrow: &str, location: &str) {
        let _ = write!(self.text, "\n{:1$} {arrow} {location}", "", self.digits);
    }

    fn row(&mut self, number: &str, content: &str) {
        let row = format!(" {number:>0$} | {content}", self.digits);
        let _ = write!(self.text, "\n{}", row.trim_end());
    }
}

/// The part of a line that is shown.
struct Window {
    /// What to print.
    text: String,
    /// The columns it begins with that are not of the line.
    indent: usize,
    /// The bytes of the source it shows.
    from: usize,
    to: usize,
    /// Whether it leaves something out.
    cut: bool,
}

impl Window {
    fn new(text: &str, start: usize, end: usize, focus: usize) -> Self {
        let forward = |from: usize, n: usize| text[from..end].char_indices().nth(n).map_or(end, |(i, _)| from + i);
        let mut from = start;
        if forward(start, LINE) < end && forward(start, LINE - BEFORE) < focus {
            from = text[start..focus].char_indices().rev().nth(BEFORE - 1).map_or(start, |(i, _)| start + i);
        }
        let to = forward(from, LINE);
        let mut shown = String::new();
        if from > start {
            shown.push('…');
        }
        text[from..to].chars().for_each(|c| push_visible(&mut shown, c));
        if to < end {
            shown.push('…');
        }
        Self { text: shown, indent: usize::from(from > start), from, to, cut: from > start || to < end }
    }

    /// The column and the width of bytes of the source.
    fn columns(&self, text: &str, start: usize, end: usize) -> (usize, usize) {
        let start = start.clamp(self.from, self.to);
        let end = end.clamp(start, self.to);
        let width = |part: &str| {
            let mut shown = String::new();
            part.chars().for_each(|c| push_visible(&mut shown, c));
            shown.chars().map(columns_of).sum::<usize>()
        };
        (self.indent + width(&text[self.from..start]), width(&text[start..end]).max(1))
    }
}

/// How many columns of a terminal a character takes (the common ranges of Unicode's `EastAsianWidth` and of combining
/// marks).
fn columns_of(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}'
        | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{fe20}'..='\u{fe2f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}'
        | '\u{1f680}'..='\u{1f6ff}'
        | '\u{1f900}'..='\u{1f9ff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}
