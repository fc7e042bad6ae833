//! The report that comes home, and what it says.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_schema::gate::{self, CheckOutcome, Report, Verdict};
use kiln_schema::yaml;

use super::{Error, Request};
use crate::gate::junit;
use crate::packer::scrub::Scrubber;
use crate::packer::template::files as names;
use crate::regions::Outcome;
use crate::system::files;
use crate::system::tools::Tool;

/// The folder in the report that packer works in. It is there as long as packer is, for its owner alone.
pub const WORK: &str = "work";

/// What became of the image in each region of the target.
const REGIONS: &str = "regions.json";

/// The folder of a bake's report.
pub fn folder(request: &Request, image: &str, timestamp: &str) -> PathBuf {
    let default = || PathBuf::from(format!("kiln-reports/{image}-{timestamp}"));
    request.report.clone().unwrap_or_else(default)
}

/// Takes away what an earlier run left in the folder: it must not stand for one that brings nothing home.
///
/// # Errors
/// When something there cannot be removed.
pub fn clear(folder: &Path) -> Result<(), Error> {
    use gate::files::{JOURNAL, JUNIT, PUPPET_SUMMARY, REPORT, STATUS, TESTS};
    for name in [REPORT, JUNIT, TESTS, STATUS, JOURNAL, PUPPET_SUMMARY] {
        let file = folder.join(name);
        files::remove_file(&file).map_err(|error| Error::file(file.display(), error))?;
    }
    Ok(())
}

/// Unpacks what was fetched from the instance, and adds what CI systems read. Answers whether there was anything.
///
/// # Errors
/// When what was fetched cannot be unpacked.
pub fn unpack(image: &str, work: &Path, folder: &Path) -> Result<bool, Error> {
    let archive = work.join(names::REPORT);
    if !archive.is_file() {
        return Ok(false);
    }
    files::make_dir(folder).map_err(|error| Error::file(folder.display(), error))?;
    let tar = Tool::new("tar").args(["--no-same-owner", "--no-same-permissions", "-xzf"]).arg(archive);
    let answer = tar.arg("-C").arg(folder).capture().map_err(|error| Error::file("cannot run tar", error))?;
    if answer.status.success() {
        if let Some(report) = read(folder) {
            let file = folder.join(gate::files::JUNIT);
            let text = junit::xml(image, &report);
            files::write(&file, text.as_bytes(), 0o644).map_err(|error| Error::file(file.display(), error))?;
        }
        return Ok(true);
    }
    let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
    Err(Error::file(folder.display(), std::io::Error::other(said)))
}

/// Writes what became of the image in each region. Where there is one region alone there is nothing to say.
///
/// # Errors
/// When it cannot be written.
pub fn regions(folder: &Path, outcomes: &[Outcome]) -> Result<(), Error> {
    if outcomes.is_empty() {
        return Ok(());
    }
    let all: Vec<_> = outcomes.iter().map(Outcome::json).collect();
    let path = folder.join(REGIONS);
    let text = serde_json::to_string_pretty(&all).unwrap_or_default() + "\n";
    files::write(&path, text.as_bytes(), 0o644).map_err(|error| Error::file(path.display(), error))
}

/// Takes secrets out of every file of the report, and out of what packer has printed: what comes home was
/// written by the image's own programs.
///
/// # Errors
/// When a file cannot be read or written.
pub fn scrub(work: &Path, folder: &Path, scrubber: &Scrubber) -> Result<(), Error> {
    let at = |error| Error::file("cannot take secrets out of the report", error);
    let change = |content: &[u8]| scrubber.clean_bytes(content);
    // Of a bake that was killed early, and whose folder somebody has taken away, there is nothing.
    if !folder.is_dir() {
        return Ok(());
    }
    // The inputs of packer beside its output go with the folder that they lie in.
    files::rewrite_all(folder, Some(work), &change).map_err(at)?;
    let output = work.join(names::OUTPUT);
    match fs::read(&output).ok().and_then(|content| change(&content)) {
        Some(content) => files::write(&output, &content, 0o600).map_err(at),
        None => Ok(()),
    }
}

/// The secrets in what the agent is told, from the folder of a bake that was killed.
pub fn and_secrets_of(work: &Path, scrubber: Scrubber) -> Scrubber {
    let documents = [names::USER_DATA, "payload/90-bake.yaml"];
    let texts = documents.iter().filter_map(|name| fs::read_to_string(work.join(name)).ok());
    let nodes = texts.filter_map(|text| Some(yaml::parse("user-data", &text).ok()?.0));
    nodes.fold(scrubber, |scrubber, node| scrubber.and_user_data(Some(&node)))
}

/// What the gate found; none if no report came home.
pub fn read(folder: &Path) -> Option<Report> {
    serde_json::from_slice(&fs::read(folder.join(gate::files::REPORT)).ok()?).ok()
}

/// Every failed test with all that was expected and found, where the one sentence cannot hold them.
pub fn failed_tests(report: &Report) -> Vec<String> {
    let failed = report.files.iter().flat_map(|file| &file.tests).filter(|test| test.outcome == CheckOutcome::Failed);
    let lines: Vec<_> = failed.map(|test| format!("{}: {}", test.name, test.gist().unwrap_or("no reason"))).collect();
    if lines.len() > 1 { lines } else { Vec::new() }
}

/// Why the gate let nothing out.
pub fn cause(report: &Report) -> Option<String> {
    let without_reason = || "the gate failed without a reason in its report".to_owned();
    (report.verdict == Verdict::Failed).then(|| report.cause.clone().unwrap_or_else(without_reason))
}
