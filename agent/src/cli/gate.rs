//! `kiln-agent gate`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use kiln_schema::duration;
use kiln_schema::gate::{Report, Verdict};

use super::print::{Format, complain, say, say_json};
use crate::gate;
use crate::system::System;

/// Exit code when something failed.
const FAILED: u8 = 1;

/// Arguments of `gate`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Exit codes:
  0  passed: an image may be made of this instance
  1  failed, or the report cannot be written
 64  the command line cannot be understood")]
pub struct Args {
    /// How long to wait for the agent, and then for each test file, such as 90s, 20m or 1h30m
    #[arg(long, value_name = "TIME", default_value = "20m", value_parser = duration::parse)]
    timeout: Duration,
    /// Test files (.bats, or executables that print TAP) and folders of them, beside `kiln.tests` of the user-data
    #[arg(long, value_name = "PATH", num_args = 1..)]
    tests: Vec<String>,
    /// The folder that gets the report and what it rests on; everyone can read it
    #[arg(long, value_name = "DIR")]
    report: String,
    /// How to print the verdict
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Lets the final stage begin, waits for the agent, and judges the instance.
pub fn run(system: &System, args: &Args) -> ExitCode {
    let report = args.report.trim_end_matches('/');
    let report = if report.is_empty() { "/" } else { report }.to_owned();
    let options = gate::Options { timeout: args.timeout, tests: args.tests.clone(), report };
    match gate::run(system, &options, &complain) {
        Ok(report) => {
            match args.format {
                Format::Text => say(&text(&report)),
                Format::Json => say_json(&report),
            }
            if report.verdict == Verdict::Passed { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
        }
        Err(error) => {
            let root = if error.kind() == std::io::ErrorKind::PermissionDenied { "; run it as root" } else { "" };
            complain(&format!("the gate cannot tell what it finds: {error}{root}"));
            ExitCode::from(FAILED)
        }
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        text.push_str(&format!("{:<7}  {:<6}  {}\n", check.outcome.name(), check.name, check.message));
    }
    match &report.cause {
        None => text.push_str("the gate passed\n"),
        Some(cause) => text.push_str(&format!("the gate failed: {cause}\n")),
    }
    text
}
