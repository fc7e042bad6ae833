//! `kiln graph`.

use std::path::Path;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::{finish, print};
use crate::images::{self, graph};

/// Arguments of `graph`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The form of the graph.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
    /// A tree for a terminal
    #[default]
    Text,
    /// A picture
    Svg,
    /// One JSON object a line, parents first
    Json,
}

/// Prints the graph of kiln.yaml. Exit 0, or 1 when the file cannot be used.
pub fn run(file: &Path, args: Args) -> ExitCode {
    finish(images::load(file).map_err(Into::into).map(|file| {
        let graph = graph::Graph::of(&file);
        print(&match args.format {
            Format::Text => graph::text(&graph),
            Format::Svg => graph::svg(&graph),
            Format::Json => graph::json(&graph),
        });
    }))
}
