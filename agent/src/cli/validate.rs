//! `kiln-agent validate`: what is wrong with user-data, before anything runs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use kiln_schema::diagnostic::{Diagnostic, Severity};
use serde::Serialize;

use super::NO_INPUT;
use super::print::{Format, complain, count, document, say, say_json};
use crate::cloud_init::settings;
use crate::config::{AgentKeys, Config};
use crate::handlers::external;
use crate::system::System;
use crate::userdata::{self, Surroundings};

/// Arguments of `validate`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Exit codes:
  0  valid; warnings do not count
  1  something in it is an error
 64  the command line cannot be understood
 66  the file cannot be read")]
pub struct Args {
    /// User-data of any format that a boot takes; - is standard input
    file: PathBuf,
    /// Count unknown keys as errors, as `kiln: {strict: true}` does
    #[arg(long)]
    strict: bool,
    /// Print `text` for a person, or `json`, all findings, for a program
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    format: Format,
}

/// The answer to a program.
#[derive(Serialize)]
struct Verdict<'a> {
    valid: bool,
    errors: usize,
    warnings: usize,
    findings: &'a [Diagnostic],
}

/// Reads user-data as a boot does and prints what is wrong with it. Nothing is run, nobody is asked.
pub fn run(system: &System, args: &Args) -> ExitCode {
    let (name, bytes) = match document(&args.file) {
        Ok(document) => document,
        Err(sentence) => {
            complain(&sentence);
            return ExitCode::from(NO_INPUT);
        }
    };
    let mut findings = findings(&name, &bytes, args.strict, &external::names(system), &Surroundings::default());
    // What it would be laid over on this machine.
    findings.extend(settings::read(system).left_out);
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let warnings = findings.len() - errors;
    match args.format {
        Format::Json => say_json(&Verdict { valid: errors == 0, errors, warnings, findings: &findings }),
        Format::Text => {
            for finding in &findings {
                say(&(finding.render() + "\n\n"));
            }
            let verdict = if errors == 0 { "valid" } else { "not valid" };
            say(&format!("{name}: {verdict}, {}, {}\n", count(errors, "error"), count(warnings, "warning")));
        }
    }
    if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All that is wrong with user-data, in the order of the document. Every finding has a place. Without
/// surroundings nothing is known of an instance, and nobody is asked for what it includes.
pub fn findings(
    name: &str,
    bytes: &[u8],
    strict: bool,
    external: &[String],
    surroundings: &Surroundings<'_>,
) -> Vec<Diagnostic> {
    let data = userdata::parse(name, bytes, surroundings);
    let agent = AgentKeys::default();
    let mut config =
        Config { root: data.config, agent, scripts: data.scripts, diagnostics: data.diagnostics, left_out: Vec::new() };
    config.check(external);
    let mut findings = std::mem::take(&mut config.diagnostics);
    findings.extend(config.check_handlers());
    config.agent.kiln.strict |= strict;
    config.apply_strictness(&mut findings);
    for finding in findings.iter_mut().filter(|finding| finding.line.is_none()) {
        place_at_start(finding, bytes);
    }
    // Parts keep their order; a sort by name would put part 10 before part 2.
    let mut sources: Vec<String> = Vec::new();
    for finding in &findings {
        if !sources.contains(&finding.source) {
            sources.push(finding.source.clone());
        }
    }
    findings.sort_by_key(|finding| {
        (sources.iter().position(|source| *source == finding.source), finding.line, finding.column)
    });
    findings
}

/// A finding about a whole document stands at its first line.
fn place_at_start(finding: &mut Diagnostic, bytes: &[u8]) {
    finding.line = Some(1);
    finding.column = Some(1);
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // Compressed bytes are nothing to look at.
    if let Ok(line) = std::str::from_utf8(first)
        && !line.trim().is_empty()
    {
        finding.excerpt = Some(line.trim_end().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(bytes: &[u8], strict: bool, external: &[String]) -> Vec<Diagnostic> {
        findings("file", bytes, strict, external, &Surroundings::default())
    }

    fn told(text: &str, strict: bool) -> Vec<String> {
        of_file(text.as_bytes(), strict, &[]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_document_has_no_findings() {
        assert_eq!(told("#cloud-config\nhostname: web\n", true), Vec::<String>::new());
        assert_eq!(told("#!/bin/sh\necho\n", true), Vec::<String>::new());
        assert_eq!(told("", true), Vec::<String>::new());
    }

    #[test]
    fn an_unknown_key_is_an_error_only_where_strictness_is_asked_for() {
        let unknown = "#cloud-config\nhostnam: web\n";
        assert_eq!(told(unknown, false), ["file:2:1: warning: hostnam: unknown key; did you mean `hostname`?"]);
        assert_eq!(told(unknown, true), ["file:2:1: error: hostnam: unknown key; did you mean `hostname`?"]);
        let own = "#cloud-config\nkiln: {strict: yes}\nhostnam: web\n";
        assert_eq!(told(own, false), ["file:3:1: error: hostnam: unknown key; did you mean `hostname`?"]);
    }

    #[test]
    fn findings_of_different_readers_stand_in_the_order_of_the_document() {
        let text = "#cloud-config\nhostname: [a]\nzebra: 1\npreserve_hostname: perhaps\n";
        let lines: Vec<_> = of_file(text.as_bytes(), false, &[]).iter().map(|f| f.line).collect();
        assert_eq!(lines[..2], [Some(2), Some(3)]);
    }

    #[test]
    fn an_error_about_the_whole_document_stands_at_its_first_line() {
        let finding = &of_file(b"hello\nworld\n", false, &[])[0];
        assert_eq!((finding.line, finding.column, finding.excerpt.as_deref()), (Some(1), Some(1), Some("hello")));
        let finding = &of_file(b"\xff\xfe\0\0", false, &[])[0];
        assert_eq!((finding.line, finding.excerpt.as_deref()), (Some(1), None));
    }

    #[test]
    fn nobody_is_asked_and_a_template_is_read_for_its_form() {
        for text in [
            "#include\nhttp://192.0.2.1/\n/no/such/file\n",
            "## template: jinja\n#cloud-config\nhostname: {{ v1.region }}\n",
        ] {
            assert_eq!(told(text, true), Vec::<String>::new(), "{text}");
        }
        assert_eq!(
            told("## template: jinja\n#cloud-config\nhostnam: web\n", false),
            ["file (filled in):3:1: warning: hostnam: unknown key; did you mean `hostname`?"]
        );
    }

    #[test]
    fn an_external_handler_owns_its_key() {
        assert!(of_file(b"#cloud-config\nnagios: {}\n", true, &["nagios".to_owned()]).is_empty());
    }
}
