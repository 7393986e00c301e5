//! The syntax of a line of `expect`: `FROM -> TO[:PORT[/PROTOCOL]]` or `FROM -/> …`. What its names mean is in `expect`.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use super::reader::{Fault, tick};
use super::types::Protocol;
use super::{ports, values};

const FORM: &str = "a line is written `FROM -> TO` or `FROM -/> TO`, such as `web -> db:5432` or `world -/> db`";
const FORM_TO: &str =
    "what stands after the arrow is written `TO`, `TO:PORT` or `TO:PORT/PROTOCOL`, such as `db:53/udp`";

/// A line, parted at its arrow.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) from: Part<'a>,
    /// `->`, and not `-/>`.
    pub(super) reach: bool,
    pub(super) to: Part<'a>,
}

/// A part of a line, without the white space around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) text: &'a str,
    /// The byte of the line at which it begins.
    start: usize,
}

/// What stands after the arrow.
#[derive(Debug)]
pub(super) struct To<'a> {
    /// The name, or the address without its brackets.
    pub(super) name: Part<'a>,
    /// The address, where the name is one.
    pub(super) address: Option<IpAddr>,
    /// None for a ping.
    pub(super) port: Option<(u16, Protocol)>,
}

impl<'a> Part<'a> {
    /// A part of this part, by its bytes.
    fn part(&self, bytes: Range<usize>) -> Self {
        let whole = &self.text[bytes.clone()];
        let start = self.start + bytes.start + (whole.len() - whole.trim_start().len());
        Part { text: whole.trim(), start }
    }

    /// Its bytes in the line.
    pub(super) fn bytes(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }

    /// A fault of this part's text as one of the line.
    pub(super) fn wrong(&self, fault: Fault) -> Fault {
        let part = match &fault.part {
            Some(part) => self.start + part.start..self.start + part.end,
            None => self.bytes(),
        };
        fault.part(part)
    }

    /// The part, if it is one word; `side` is `before` or `after`.
    pub(super) fn word(self, side: &str) -> Result<Self, Fault> {
        if self.text.is_empty() {
            return Err(self.wrong(Fault::new(format!("nothing stands {side} the arrow")).help(FORM)));
        }
        if let Ok((second, _)) = arrow(self.text) {
            return Err(self.wrong(Fault::new("a line has one arrow").label("the second").part(second)));
        }
        if self.text.contains(char::is_whitespace) {
            return Err(self.wrong(Fault::new(format!("more than one word stands {side} the arrow")).help(FORM)));
        }
        Ok(self)
    }
}

/// Parts a line at its arrow.
pub(super) fn parse(text: &str) -> Result<Line<'_>, Fault> {
    let whole = Part { text, start: 0 };
    if text.trim().is_empty() {
        return Err(Fault::new("a line of `expect` is empty").help(FORM));
    }
    let (bytes, reach) = arrow(text)?;
    Ok(Line { from: whole.part(0..bytes.start), reach, to: whole.part(bytes.end..text.len()) })
}

/// The bytes of the arrow, and whether it is `->`. Names may hold `-`, but nothing else that arrows are drawn with.
fn arrow(text: &str) -> Result<(Range<usize>, bool), Fault> {
    let Some(head) = text.find(['>', '<', '=', '~', '→']) else {
        return Err(Fault::new(format!("{} has no arrow", tick(text.trim()))).help(FORM));
    };
    let drawn = |c: char| "-=~<>/!|→".contains(c);
    let start = text[..head].trim_end_matches(drawn).len();
    let end = text.len() - text[head..].trim_start_matches(drawn).len();
    match &text[start..end] {
        "->" => Ok((start..end, true)),
        "-/>" => Ok((start..end, false)),
        other => {
            let fault = Fault::new(format!("{} is not an arrow", tick(other))).part(start..end);
            Err(fault.label("`->` where it must answer, `-/>` where it must not"))
        }
    }
}

/// Parses what stands after the arrow.
pub(super) fn to(whole: Part<'_>) -> Result<To<'_>, Fault> {
    let text = whole.text;
    let slash = text.find('/');
    let front = slash.map_or(text, |i| &text[..i]);
    let protocol = slash.map(|i| i + 1..text.len());
    if front.parse::<IpAddr>().is_ok()
        && let Some(range) = &protocol
        && text[range.clone()].starts_with(|c: char| c.is_ascii_digit())
    {
        values::address(text).map_err(|fault| whole.wrong(fault))?;
    }
    let (name, port) = split(front).map_err(|fault| whole.wrong(fault))?;
    let name = whole.part(name);
    if name.text.is_empty() {
        let fault = Fault::new(format!("{} names nobody", tick(text)));
        return Err(whole.wrong(fault.label("a container, `host`, `world` or an address must come first")));
    }
    let port = port_of(text, port, protocol).map_err(|fault| whole.wrong(fault))?;
    Ok(To { name, address: name.text.parse().ok(), port })
}

/// The name or address, and the port, as bytes of a text without a protocol.
fn split(text: &str) -> Result<(Range<usize>, Option<Range<usize>>), Fault> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some(close) = rest.find(']').map(|i| i + 1) else {
            return Err(Fault::new(format!("{} has no `]` after its address", tick(text))));
        };
        let (inner, after) = (&text[1..close], &text[close + 1..]);
        if after.is_empty() {
            values::address(text)?;
        }
        if inner.parse::<Ipv4Addr>().is_ok() {
            return Err(Fault::new("only an IPv6 address has brackets").label(format!("write `{inner}{after}`")));
        }
        values::address(inner).map_err(|fault| fault.part(1..close))?;
        if !after.starts_with(':') {
            let fault = Fault::new(format!("only a port can stand after the brackets, not {}", tick(after)));
            return Err(fault.part(close + 1..text.len()));
        }
        return Ok((1..close, Some(close + 2..text.len())));
    }
    let Some(colon) = text.rfind(':') else { return Ok((0..text.len(), None)) };
    if text.parse::<IpAddr>().is_ok() {
        return Ok((0..text.len(), None));
    }
    let name = &text[..colon];
    if name.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6()) {
        let fault = Fault::new("an IPv6 address needs brackets before a port");
        return Err(fault.label(format!("write `[{name}]{}`", &text[colon..])));
    }
    if name.contains(':') {
        if text.contains('%') {
            values::address(text)?;
        }
        return Err(Fault::new(format!("{} has too many colons", tick(text))).help(FORM_TO));
    }
    Ok((0..colon, Some(colon + 1..text.len())))
}

/// The port and the protocol, each given by its bytes.
fn port_of(
    text: &str,
    port: Option<Range<usize>>,
    protocol: Option<Range<usize>>,
) -> Result<Option<(u16, Protocol)>, Fault> {
    let Some(port) = port else {
        return match protocol {
            None => Ok(None),
            Some(range) => {
                let fault = Fault::new("a ping has no protocol").part(range.start - 1..range.end);
                Err(fault.label("a line without a port is a ping").help(FORM_TO))
            }
        };
    };
    if port.is_empty() {
        return Err(
            Fault::new(format!("{} names no port", tick(text))).help("without a port and its colon it is a ping")
        );
    }
    let number = ports::number(&text[port.clone()]).map_err(|fault| fault.part(port))?;
    let protocol = match protocol {
        Some(range) => ports::protocol(&text[range.clone()]).map_err(|fault| fault.part(range))?,
        None => Protocol::Tcp,
    };
    Ok(Some((number, protocol)))
}
