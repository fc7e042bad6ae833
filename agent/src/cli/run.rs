//! `kiln-agent run`: one piece of work outside a boot, for the unit that needs it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args as ClapArgs, ValueEnum};

use crate::handlers::route53;
use crate::net::route53::Record;
use crate::system::System;

/// The unit that calls it is ended after 45 s, and a sentence must be said before.
const RELEASE: Duration = Duration::from_secs(40);

/// Arguments of `run`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The work
    #[arg(value_enum)]
    work: Work,
}

/// Work outside a boot.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Work {
    /// Take the names that this instance registered in Route53 out again, as kiln-route53.service does
    /// when the machine stops
    Route53Release,
}

/// Does the work. Exit 0, or 1 with a sentence.
pub fn run(system: &System, args: &Args) -> ExitCode {
    match args.work {
        Work::Route53Release => release(system),
    }
}

fn release(system: &System) -> ExitCode {
    match route53::release(system, Instant::now() + RELEASE) {
        Ok(None) => println!("no name is registered in Route53"),
        Ok(Some(removed)) => {
            let names = |records: &[Record]| {
                let name = |record: &Record| format!("{} {}", record.name.trim_end_matches('.'), record.kind);
                records.iter().map(name).collect::<Vec<_>>().join(", ")
            };
            if !removed.removed.is_empty() {
                println!("removed from Route53: {}", names(&removed.removed));
            }
            if !removed.left.is_empty() {
                println!("left in Route53, as they point to another instance by now: {}", names(&removed.left));
            }
            if removed.removed.is_empty() && removed.left.is_empty() {
                println!("the names of this instance were gone from Route53 already");
            }
        }
        Err(failure) => {
            eprintln!("the names of this instance stay in Route53: {}", failure.message);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
