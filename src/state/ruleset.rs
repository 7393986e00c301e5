//! The table in the syntax of `nft(8)`: read by `nft -f` it makes the same as an apply, marks included.

use std::collections::BTreeMap;
use std::fmt;

use super::firewall::{Concat, Element, TABLE};
use super::{Entry, Key, Object, State};

/// The longest comment that `nft` takes, in bytes (`NFTNL_UDATA_COMMENT_MAXLEN`). A longer mark is left out.
const COMMENT_MAX: usize = 128;

/// The firewall of a state; nothing where it has none.
#[derive(Clone, Copy, Debug)]
pub struct Ruleset<'a>(pub &'a State);

impl fmt::Display for Ruleset<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(table) = self.0.get(&Key::Table) else { return Ok(()) };
        let mut elements: BTreeMap<&str, Vec<(&Concat, &Entry)>> = BTreeMap::new();
        for (key, entry) in self.0 {
            if let Key::Element { set, key } = key {
                elements.entry(set).or_default().push((key, entry));
            }
        }
        writeln!(f, "table inet {TABLE} {{")?;
        comment(f, table)?;
        for (key, entry) in self.0 {
            match (key, &entry.object) {
                (Key::Set { name }, Object::Set(set)) => {
                    let kind = if set.data.is_some() { "map" } else { "set" };
                    write!(f, "\n\t{kind} {name} {{\n\t\ttype {set}\n")?;
                    comment(f, entry)?;
                    list(f, elements.get(&**name).map(Vec::as_slice).unwrap_or_default())?;
                    f.write_str("\t}\n")?;
                }
                (Key::Chain { name }, Object::Chain(chain)) => {
                    write!(f, "\n\tchain {name} {{\n")?;
                    comment(f, entry)?;
                    if let Some(base) = &chain.base {
                        writeln!(f, "\t\t{base}")?;
                    }
                    chain.rules.iter().try_for_each(|rule| writeln!(f, "\t\t{rule}"))?;
                    f.write_str("\t}\n")?;
                }
                _ => {}
            }
        }
        f.write_str("}\n")
    }
}

/// An object's mark, as a comment.
fn mark(entry: &Entry) -> Option<String> {
    let mark = format!("netrec {}", entry.owner()?);
    (mark.len() <= COMMENT_MAX).then_some(mark)
}

fn comment(f: &mut fmt::Formatter<'_>, entry: &Entry) -> fmt::Result {
    mark(entry).map_or(Ok(()), |mark| writeln!(f, "\t\tcomment \"{mark}\""))
}

fn list(f: &mut fmt::Formatter<'_>, elements: &[(&Concat, &Entry)]) -> fmt::Result {
    if elements.is_empty() {
        return Ok(());
    }
    f.write_str("\t\telements = {\n")?;
    for (key, entry) in elements {
        write!(f, "\t\t\t{key}")?;
        if let Some(mark) = mark(entry) {
            write!(f, " comment \"{mark}\"")?;
        }
        if let Object::Element(Element { data: Some(data) }) = &entry.object {
            write!(f, " : {data}")?;
        }
        f.write_str(",\n")?;
    }
    f.write_str("\t\t}\n")
}
