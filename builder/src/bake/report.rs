//! The report that comes home, and what it says.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_schema::gate::{self, CheckOutcome, Report, Verdict};
use kiln_schema::yaml;

use super::{Error, Request, proof, record};
use crate::gate::junit;
use crate::packer::scrub::Scrubber;
use crate::packer::template::files as names;
use crate::regions::Outcome;
use crate::system::files;
use crate::system::tools::Tool;

/// The folder in the report that packer works in. It is there as long as packer is, for its owner alone.
pub const WORK: &str = "work";

/// The folder in it where what came home lies until there is no secret in it.
const HOME: &str = "home";

/// What became of the image in each region of the target.
const REGIONS: &str = "regions.json";

/// The folder of a bake's report.
pub fn folder(request: &Request, image: &str, timestamp: &str) -> PathBuf {
    let default = || PathBuf::from(format!("kiln-reports/{image}-{timestamp}"));
    request.report.clone().unwrap_or_else(default)
}

/// The folder for packer in that of the report. It is emptied and in the end taken away, so it must be kiln's own.
///
/// # Errors
/// When somebody else's lies there.
pub fn work(folder: &Path) -> Result<PathBuf, Error> {
    let work = folder.join(WORK);
    let holds_anything = fs::read_dir(&work).is_ok_and(|mut entries| entries.next().is_some());
    // The template is the first that kiln puts there.
    if holds_anything && !work.join(names::TEMPLATE).is_file() {
        let why = "is not of a bake, and kiln would take it away: name another folder with --report";
        return Err(Error::Refused(format!("{} {why}", work.display())));
    }
    Ok(work)
}

/// Takes away what an earlier run left in the folder: it must not stand for one that brings nothing home.
///
/// # Errors
/// When something there cannot be removed.
pub fn clear(folder: &Path) -> Result<(), Error> {
    use gate::files::{JOURNAL, JUNIT, PUPPET_SUMMARY, REPORT, STATUS, TESTS};
    let of_the_gate = [REPORT, JUNIT, TESTS, STATUS, JOURNAL, PUPPET_SUMMARY];
    let of_the_bake = [record::REPORT, record::SBOM, record::PACKAGES, record::OS_RELEASE, REGIONS];
    let of_the_proof = [proof::REPORT, proof::LOG];
    for name in of_the_gate.into_iter().chain(of_the_bake).chain(of_the_proof) {
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

/// Where [`unpack`] is to put what may hold secrets: nobody but the owner looks into it.
pub fn home(work: &Path) -> PathBuf {
    work.join(HOME)
}

/// Takes secrets out of what came home, which was written by the image's own programs, and out of what packer
/// has printed; what came home is in the report then. Nothing else that lies in that folder is touched: it may
/// be the one that kiln.yaml lies in.
///
/// # Errors
/// When a file cannot be read or written.
pub fn deliver(work: &Path, folder: &Path, scrubber: &Scrubber) -> Result<(), Error> {
    let at = |error| Error::file("cannot take secrets out of the report", error);
    let change = |content: &[u8]| scrubber.clean_bytes(content);
    let home = home(work);
    // Of a bake that was killed early there is nothing.
    if home.is_dir() {
        files::rewrite_all(&home, &change).map_err(at)?;
        files::move_all(&home, folder).map_err(|error| Error::file(folder.display(), error))?;
    }
    // The inputs of packer beside its output go with the folder that they lie in.
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

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare folders")]
mod tests {
    use super::*;

    /// A folder for packer, with an archive that came home.
    fn work_in(folder: &Path) -> PathBuf {
        let work = folder.join(WORK);
        let report = work.join("packed");
        fs::create_dir_all(report.join("more")).unwrap();
        fs::write(report.join(gate::files::JOURNAL), "a hunter2hunter2 b").unwrap();
        fs::write(report.join("more/new"), "hunter2hunter2").unwrap();
        let tar = Tool::new("tar").arg("-czf").arg(work.join(names::REPORT)).arg("-C").arg(&report).arg(".");
        assert!(tar.capture().unwrap().status.success());
        work
    }

    fn scrubber() -> Scrubber {
        Scrubber::of_environment([("DB_PASSWORD".to_owned(), "hunter2hunter2".to_owned())])
    }

    #[test]
    fn what_came_home_has_no_secret_and_what_lay_there_before_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("kiln.yaml");
        fs::write(&own, "password: hunter2hunter2").unwrap();
        fs::create_dir(folder.path().join("more")).unwrap();
        fs::write(folder.path().join("more/own"), "hunter2hunter2").unwrap();
        let work = work_in(folder.path());
        // Twice, as after a kill in between.
        for _ in 0..2 {
            assert!(unpack("golden", &work, &home(&work)).unwrap());
            deliver(&work, folder.path(), &scrubber()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read(gate::files::JOURNAL).as_str(), read("more/new").as_str()), ("a <secret> b", "<secret>"));
        assert_eq!(
            (read("kiln.yaml").as_str(), read("more/own").as_str()),
            ("password: hunter2hunter2", "hunter2hunter2")
        );
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_taken_for_packers() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join(WORK);
        assert_eq!(work(folder.path()).unwrap(), at);
        fs::create_dir(&at).unwrap();
        assert_eq!(work(folder.path()).unwrap(), at);
        fs::write(at.join("thesis"), "").unwrap();
        assert!(work(folder.path()).unwrap_err().to_string().contains("name another folder"));
        fs::write(at.join(names::TEMPLATE), "").unwrap();
        assert_eq!(work(folder.path()).unwrap(), at);
    }

    #[test]
    fn nothing_of_an_earlier_run_stands_for_this_one() {
        let folder = tempfile::tempdir().unwrap();
        for name in [gate::files::REPORT, proof::REPORT, record::REPORT, record::SBOM, "packages.tsv", REGIONS] {
            fs::write(folder.path().join(name), "{}").unwrap();
        }
        fs::write(folder.path().join("kiln.yaml"), "").unwrap();
        clear(folder.path()).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["kiln.yaml"]);
    }
}
