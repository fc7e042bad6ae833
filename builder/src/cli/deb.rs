//! `kiln deb`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use crate::deb::{self, Options};

/// Arguments of `deb`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The checkout to build from; without it, the one that this folder is in
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    /// The folder that gets the .deb files
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Build this package alone
    #[arg(long, value_name = "PACKAGE")]
    only: Option<String>,
}

/// Builds the packages. Exit 0, or 1 when there is none.
pub fn run(args: &Args) -> ExitCode {
    match build(args) {
        Ok(packages) => {
            for package in packages {
                println!("{}  {} bytes  sha256:{}", package.path.display(), package.bytes, package.sha256);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("kiln: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build(args: &Args) -> Result<Vec<deb::Package>, deb::Error> {
    let folder = args.source.clone().unwrap_or_else(|| PathBuf::from("."));
    let folder = std::path::absolute(&folder).map_err(|_| deb::Error::NoSource(folder))?;
    let options = Options { checkout: deb::checkout(&folder)?, out: args.out.clone(), only: args.only.clone() };
    deb::build(&options, &mut |line| eprintln!("kiln: {line}"))
}
