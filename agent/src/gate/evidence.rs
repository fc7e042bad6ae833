//! What the gate brings home beside its report. The builder's user reads it, so every file is
//! world-readable; the sources hold no secrets: the status and the agent's own lines never do, and
//! puppet's summary is counts.

use std::io;
use std::time::Duration;

use kiln_schema::gate::files;
use kiln_schema::paths;
use kiln_schema::status::Status;

use super::puppet;
use crate::system::{Command, FileOptions, System};

/// Lines of the journal that are kept, from its end.
const JOURNAL_LINES: &str = "5000";
/// Reading the journal takes a second; a broken journal must not hold up the gate.
const JOURNAL_TIME: Duration = Duration::from_secs(30);
/// Most bytes that are copied of a file.
const LIMIT: u64 = 4 * 1024 * 1024;

/// Copies the status, the agent's journal and puppet's summary into the report's folder. What is not
/// there to copy is left out: the checks have told why it is not.
///
/// # Errors
/// When the folder cannot be written.
pub fn collect(system: &System, folder: &str, status: Option<&Status>) -> io::Result<()> {
    if let Ok(bytes) = system.read_limited(paths::STATUS, LIMIT) {
        keep(system, folder, files::STATUS, &bytes)?;
    }
    if let Some(bytes) = puppet::summary_file(status).and_then(|path| system.read_limited(path, LIMIT).ok()) {
        keep(system, folder, files::PUPPET_SUMMARY, &bytes)?;
    }
    keep(system, folder, files::JOURNAL, &journal(system))
}

/// Writes one file of the report.
///
/// # Errors
/// When the folder cannot be written.
pub fn keep(system: &System, folder: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    system.write(format!("{folder}/{name}"), bytes, FileOptions::mode(0o644))
}

/// The journal of the agent's units at this boot, or why there is none.
fn journal(system: &System) -> Vec<u8> {
    let command = Command::new("journalctl", JOURNAL_TIME)
        .args(["--boot", "--no-pager", "--quiet", "--output=short-iso-precise", "--lines", JOURNAL_LINES])
        .args(["--unit", "kiln-*"])
        .capture();
    match system.run(&command) {
        Ok(finished) if finished.success() => finished.stdout,
        Ok(finished) => {
            format!("no journal: journalctl {}: {}\n", finished.ending(), finished.last_lines(1).join("")).into_bytes()
        }
        Err(error) => format!("no journal: {error}\n").into_bytes(),
    }
}
