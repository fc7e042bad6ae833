//! `kiln-agent seal`.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use kiln_schema::gate::Verdict;

use super::USAGE;
use super::print::{Format, complain, say, say_json};
use crate::seal::{self, Finding, Options, Report};
use crate::system::System;

/// Findings that a person is shown.
const SHOWN: usize = 20;

/// Arguments of `seal`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Exit codes:
  0  sealed, and nothing was found
  1  something could not be sealed, or must not be in an image and is left
 64  the command line cannot be understood")]
pub struct Args {
    /// After sealing, look for what is left
    #[arg(long)]
    verify: bool,
    /// Only look; change nothing
    #[arg(long, conflicts_with = "verify")]
    verify_only: bool,
    /// Only look, at an instance of the image: what it made for itself is told as digests, anything else is a finding
    #[arg(long, conflicts_with_all = ["verify", "verify_only"])]
    booted: bool,
    /// Entries of the checklist to pass over; the report names them
    #[arg(long, value_name = "ID", num_args = 1..)]
    skip: Vec<String>,
    /// Files or folders that may hold what looks like a secret (`*` stands for part of a name); the report names them
    #[arg(long, value_name = "PATH", num_args = 1..)]
    permit: Vec<String>,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Takes out of the machine what must not be in its image.
pub fn run(system: &System, args: &Args) -> ExitCode {
    if let Err(sentence) = seal::check_skips(&args.skip) {
        complain(&sentence);
        return ExitCode::from(USAGE);
    }
    let options = Options {
        seal: !args.verify_only,
        verify: args.verify || args.verify_only,
        skip: args.skip.clone(),
        permit: args.permit.clone(),
    };
    if args.booted {
        return booted(system, &options, args.format);
    }
    let report = seal::run(system, &options);
    match args.format {
        Format::Text => say(&text(&report)),
        Format::Json => say_json(&report),
    }
    if report.verdict == Verdict::Passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn booted(system: &System, options: &Options, format: Format) -> ExitCode {
    let evidence = seal::evidence(system, options);
    match format {
        Format::Text => {
            let own = evidence.identity.iter().map(|(path, digest)| format!("own      {path} {digest}\n"));
            say(&(own.collect::<String>() + &found(&evidence.findings)));
        }
        Format::Json => say_json(&evidence),
    }
    if evidence.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for sealed in report.sealed.iter().filter(|sealed| sealed.changed > 0) {
        text.push_str(&format!("sealed   {:<20} {} changed or removed\n", sealed.id, sealed.changed));
    }
    for skipped in &report.skipped {
        text.push_str(&format!("skipped  {:<20} although {}\n", skipped.id, skipped.why));
    }
    for pattern in &report.permitted {
        text.push_str(&format!("permit   {pattern}\n"));
    }
    if let Some(freed) = &report.freed {
        text.push_str(&format!("freed    {freed}\n"));
    }
    text.push_str(&found(&report.findings));
    text.push_str(match (report.findings.len(), report.verified) {
        (0, true) => "nothing is left that must not be in an image\n",
        (0, false) => "sealed; run it with --verify-only to look for what is left\n",
        _ => "the machine must not become an image\n",
    });
    text
}

fn found(findings: &[Finding]) -> String {
    let shown = findings.iter().take(SHOWN);
    let mut text: String =
        shown.map(|finding| format!("found    {:<20} {}\n", finding.rule, finding.message)).collect();
    if findings.len() > SHOWN {
        text.push_str(&format!("found    {} more; --format json tells all\n", findings.len() - SHOWN));
    }
    text
}
