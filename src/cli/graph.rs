//! `netrec graph`: the picture of a file.

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;

use super::{Done, Error, Output};
use crate::graph::Picture;
use crate::reconcile::PrepareError;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to draw it as
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Write it into a file
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What a picture is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A tree, for the terminal.
    Text,
    /// A flowchart, for wikis that draw Mermaid.
    Mermaid,
    /// A graph, for Graphviz.
    Dot,
    /// An image, for all the others.
    Svg,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let picture = Picture::of(&args.load()?).map_err(PrepareError::from)?;
    let text = match command.format {
        Format::Text => picture.to_text(),
        Format::Mermaid => picture.to_mermaid(),
        Format::Dot => picture.to_dot(),
        Format::Svg => picture.to_svg(),
    };
    match &command.out {
        Some(file) => std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?,
        None => output.result(&text),
    }
    Ok(Done::Ok)
}
