//! The check `tests`: every test file ran to its end, tested something, and nothing failed.

use std::time::{Duration, Instant};

use kiln_schema::gate::{Check, TestFile, Tests};

use super::status::spelled;
use super::tap::{self, Output};
use super::{failed, passed};
use crate::system::{Command, Finished, RunError, System};

/// The check's name.
pub const NAME: &str = "tests";

/// Names of failed tests that fit into one sentence.
const NAMED: usize = 5;
/// What `Command::capture` keeps of an output; one of this size may have lost its beginning.
const CAPTURED: usize = 1024 * 1024;

/// What came of all test files together.
pub struct Tested {
    /// The verdict.
    pub check: Check,
    /// The counts of all files.
    pub counts: Tests,
    /// Each file.
    pub files: Vec<TestFile>,
    /// All that the files printed.
    pub printed: Vec<u8>,
}

/// Runs every test file and judges them together. `tell` gets each file before it runs.
pub fn run_all(system: &System, paths: &[String], timeout: Duration, tell: &mut dyn FnMut(&str)) -> Tested {
    let mut counts = Tests::default();
    let mut printed = Vec::new();
    let mut files = Vec::new();
    for found in paths.iter().flat_map(|path| test_files(system, path)) {
        let (path, cause) = match found {
            Ok(file) => (file, None),
            Err((path, cause)) => (path, Some(cause)),
        };
        let mut file = TestFile { path, cause, ..TestFile::default() };
        if file.cause.is_none() {
            tell(&file.path);
            printed.extend(format!("# {}\n", file.path).into_bytes());
            let started = Instant::now();
            let (output, cause) = run(system, &file.path, timeout, &mut printed);
            file.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            counts.planned += output.counts.planned;
            counts.passed += output.counts.passed;
            counts.failed += output.counts.failed;
            counts.skipped += output.counts.skipped;
            (file.tests, file.cause) = (output.tests, cause);
        }
        files.push(file);
    }
    Tested { check: verdict(&files, &counts), counts, files, printed }
}

fn verdict(files: &[TestFile], counts: &Tests) -> Check {
    let mut causes = files.iter().filter_map(|file| Some(format!("{}: {}", file.path, file.cause.as_ref()?)));
    match (causes.next(), causes.count()) {
        (Some(first), 0) => failed(NAME, first),
        (Some(first), more) => failed(NAME, format!("{first}; and {more} more test files failed")),
        (None, _) if counts.passed > 0 => {
            let skipped = if counts.skipped > 0 { format!(", {} skipped", counts.skipped) } else { String::new() };
            passed(NAME, format!("{} tests passed{skipped}, in {} files", counts.passed, files.len()))
        }
        (None, _) if counts.skipped > 0 => {
            failed(NAME, format!("all {} tests were skipped, which proves nothing", counts.skipped))
        }
        (None, _) => failed(NAME, "no test ran at all, which proves nothing"),
    }
}

/// The test files that a path names: itself, or what is in the folder. A folder may hold helpers and
/// data as well, so there only `*.bats` and executables count.
fn test_files(system: &System, path: &str) -> Vec<Result<String, (String, String)>> {
    let no = |cause: String| vec![Err((path.to_owned(), cause))];
    let metadata = match system.metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return no("there is no such test file on the instance".to_owned());
        }
        Err(error) => return no(error.to_string()),
    };
    if !metadata.is_dir() {
        return match kind(system, path) {
            Some(_) => vec![Ok(path.to_owned())],
            None => no("neither a .bats file nor executable, so it cannot be run".to_owned()),
        };
    }
    match system.list(path) {
        Ok(names) => {
            let inside = names.iter().map(|name| format!("{}/{name}", path.trim_end_matches('/')));
            let files: Vec<_> = inside.filter(|file| kind(system, file).is_some()).map(Ok).collect();
            if files.is_empty() { no("there are no test files in this folder".to_owned()) } else { files }
        }
        Err(error) => no(error.to_string()),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bats,
    Program,
}

fn kind(system: &System, path: &str) -> Option<Kind> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = system.metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    if path.ends_with(".bats") {
        return Some(Kind::Bats);
    }
    (metadata.permissions().mode() & 0o111 != 0).then_some(Kind::Program)
}

/// Runs one file. The sentence says why it did not pass; the results go as far as they came.
fn run(system: &System, file: &str, timeout: Duration, printed: &mut Vec<u8>) -> (Output, Option<String>) {
    let command = match kind(system, file) {
        Some(Kind::Bats) => Command::new("bats", timeout).args(["--tap", file]),
        _ => Command::new(file, timeout),
    };
    let nothing = |cause: &str| (Output::default(), Some(cause.to_owned()));
    match system.run(&command.capture()) {
        Ok(finished) => {
            keep(printed, &finished);
            judge(&finished)
        }
        Err(RunError::Missing(program)) if program == "bats" => {
            nothing("bats is not installed on the instance: install it in the image (apt-get install bats)")
        }
        // The kernel says "not found" of a script whose interpreter lacks.
        Err(RunError::Missing(_)) => nothing("its interpreter is not installed"),
        Err(RunError::Timeout(_, after, finished)) => {
            keep(printed, &finished);
            let output = tap::parse(&String::from_utf8_lossy(&finished.stdout));
            let (after, seen) = (spelled(after), output.counts.seen());
            (output, Some(format!("did not end within {after} and was killed after {seen} results")))
        }
        Err(error) => nothing(&error.to_string()),
    }
}

fn keep(printed: &mut Vec<u8>, finished: &Finished) {
    printed.extend_from_slice(&finished.stdout);
    if !finished.stdout.is_empty() && !finished.stdout.ends_with(b"\n") {
        printed.push(b'\n');
    }
    for line in String::from_utf8_lossy(&finished.stderr).lines() {
        printed.extend(format!("# stderr: {line}\n").into_bytes());
    }
}

fn judge(finished: &Finished) -> (Output, Option<String>) {
    let mut output = tap::parse(&String::from_utf8_lossy(&finished.stdout));
    if finished.stdout.len() >= CAPTURED {
        output.problems.insert(0, format!("it printed more than {} KiB", CAPTURED / 1024));
    }
    let stderr = String::from_utf8_lossy(&finished.stderr);
    let said = stderr.lines().rev().find(|line| !line.trim().is_empty());
    let said = said.map_or_else(String::new, |line| format!(" ({})", line.trim()));
    let cause = if output.counts.failed > 0 {
        failures(&output)
    } else if let Some(problem) = output.problems.first() {
        format!("{problem}{said}")
    } else if !finished.success() {
        format!("it {} although no test failed{said}", finished.ending())
    } else if output.counts.planned == 0 && output.skipped_whole.is_none() {
        "there is no test in it".to_owned()
    } else {
        return (output, None);
    };
    (output, Some(cause))
}

/// `2 of 5 tests failed: "it runs" (`false' failed), "it answers"`.
fn failures(output: &Output) -> String {
    let names = output.failed().take(NAMED).map(|test| {
        let name = if test.name.is_empty() { format!("test {}", test.number) } else { format!("\"{}\"", test.name) };
        test.gist().map_or(name.clone(), |line| format!("{name} ({line})"))
    });
    let mut text = names.collect::<Vec<_>>().join(", ");
    let failed = output.counts.failed as usize;
    if failed > NAMED {
        text.push_str(&format!(" and {} more", failed - NAMED));
    }
    let total = output.counts.planned.max(output.counts.seen());
    let also = output.problems.first().map_or_else(String::new, |problem| format!("; {problem}"));
    format!("{failed} of {total} tests failed: {text}{also}")
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::system::FileOptions;
    use kiln_schema::gate::CheckOutcome;

    /// Runs files on this machine; each is a name, its text and its mode.
    fn judged(files: &[(&str, &str, u32)]) -> (CheckOutcome, String, Tests, String) {
        let folder = tempfile::tempdir().unwrap();
        let system = System::new("/");
        let mut paths = Vec::new();
        for (name, text, mode) in files {
            let path = folder.path().join(name).display().to_string();
            crate::testing::executable(&system, &path, text);
            system.set_mode(&path, *mode).unwrap();
            paths.push(path);
        }
        let Tested { check, counts, files, printed } = run_all(&system, &paths, Duration::from_secs(60), &mut |_| {});
        assert_eq!((files.len(), files.iter().map(|f| f.tests.len()).sum()), (paths.len(), counts.seen() as usize));
        let message = check.message.replace(&format!("{}/", folder.path().display()), "");
        (check.outcome, message, counts, String::from_utf8(printed).unwrap())
    }

    fn has_bats() -> bool {
        let found = System::new("/").run(&Command::new("bats", Duration::from_secs(20)).arg("--version"));
        let found = found.is_ok_and(|finished| finished.success());
        if !found {
            crate::testing::skip("bats is not installed");
        }
        found
    }

    #[test]
    fn bats_files_are_judged_by_their_tests() {
        if !has_bats() {
            return;
        }
        let good = ("good.bats", "@test \"it runs\" { true; }\n@test \"later\" { skip \"no network\"; }\n", 0o644);
        let (outcome, message, counts, printed) = judged(&[good]);
        assert_eq!((outcome, message.as_str()), (CheckOutcome::Passed, "1 tests passed, 1 skipped, in 1 files"));
        assert_eq!(counts, Tests { planned: 2, passed: 1, failed: 0, skipped: 1 });
        assert!(printed.contains("ok 1 it runs"), "{printed}");
        for (text, expected) in [
            (
                "@test \"it runs\" { false; }\n",
                "a.bats: 1 of 1 tests failed: \"it runs\" (`@test \"it runs\" { false; }' failed)",
            ),
            ("", "a.bats: there is no test in it"),
            ("# only a comment\n", "a.bats: there is no test in it"),
            ("@test \"a\" { skip; }\n@test \"b\" { skip; }\n", "all 2 tests were skipped, which proves nothing"),
            (
                "setup_file() { false; }\n@test \"a\" { true; }\n@test \"b\" { true; }\n",
                "tests failed: \"setup_file failed\"",
            ),
            ("@test \"a\" { kill -9 $PPID; }\n", "a.bats: "),
            ("@test \"a\" {\n", "a.bats: "),
        ] {
            let (outcome, message, _, _) = judged(&[("a.bats", text, 0o644)]);
            assert_eq!(outcome, CheckOutcome::Failed, "{text}: {message}");
            assert!(message.contains(expected), "{text}: {message}");
        }
        // An empty file beside a good one still fails: its tests are missing.
        assert_eq!(judged(&[good, ("empty.bats", "", 0o644)]).0, CheckOutcome::Failed);
    }

    #[test]
    fn a_program_is_judged_by_what_it_prints_and_how_it_ends() {
        let sh = |body: &str| format!("#!/bin/sh\n{body}\n");
        assert_eq!(judged(&[("t", &sh("echo 1..1; echo ok 1"), 0o755)]).0, CheckOutcome::Passed);
        let whole = sh("echo '1..0 # SKIP not here'");
        let both = judged(&[("t", &whole, 0o755), ("u", &sh("echo 1..1; echo ok 1"), 0o755)]);
        assert_eq!(both.0, CheckOutcome::Passed);
        for (body, mode, expected) in [
            (sh("echo 1..2; echo ok 1; echo not ok 2 - port"), 0o755, "t: 1 of 2 tests failed: \"port\""),
            (
                sh("echo 1..1; echo not ok 1 - port; echo '  ---'; echo '  message: closed'; echo '  ...'"),
                0o755,
                "\"port\" (closed)",
            ),
            (sh("echo all is well"), 0o755, "t: its output is not TAP"),
            (sh("echo oops >&2; exit 3"), 0o755, "t: its output is not TAP: there is no plan and no result (oops)"),
            (sh("echo 1..1; echo ok 1; exit 3"), 0o755, "t: it exited 3 although no test failed"),
            (sh("echo 1..2; echo ok 1; kill -9 $$"), 0o755, "t: 2 tests were planned and 1 gave a result"),
            (sh("echo 1..0"), 0o755, "t: there is no test in it"),
            (whole.clone(), 0o755, "no test ran at all"),
            (sh("echo 1..1; echo ok 1"), 0o644, "t: neither a .bats file nor executable"),
            ("#!/no/such/interpreter\n".to_owned(), 0o755, "t: its interpreter is not installed"),
            (sh("echo 1..1; echo ok 1; yes '# filler' | head -c 2000000"), 0o755, "more than 1024 KiB"),
        ] {
            let (outcome, message, _, _) = judged(&[("t", &body, mode)]);
            assert_eq!(outcome, CheckOutcome::Failed, "{body}: {message}");
            assert!(message.contains(expected), "{body}: {message}");
        }
    }

    #[test]
    fn a_test_that_hangs_is_ended_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t").display().to_string();
        let system = System::new("/");
        crate::testing::executable(&system, &path, "#!/bin/sh\necho 1..2\necho ok 1\nexec sleep 60\n");
        let Tested { check, counts, .. } = run_all(&system, &[path], Duration::from_millis(300), &mut |_| {});
        assert!(
            check.message.ends_with("did not end within 300ms and was killed after 1 results"),
            "{}",
            check.message
        );
        assert_eq!(counts.passed, 1);
    }

    #[test]
    fn a_missing_path_and_an_empty_folder_fail() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().display().to_string();
        let system = System::new("/");
        let message =
            |path: &str| run_all(&system, &[path.to_owned()], Duration::from_secs(5), &mut |_| {}).check.message;
        assert!(message("/no/such/test.bats").contains("there is no such test file on the instance"));
        system.write(format!("{empty}/README"), "text", FileOptions::default()).unwrap();
        assert!(message(&empty).ends_with("there are no test files in this folder"));
    }

    #[test]
    fn a_missing_bats_says_how_to_get_it() {
        // A tree has no bats: the command runs under chroot there.
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write("/t/a.bats", "", FileOptions::default()).unwrap();
        let check = run_all(&system, &["/t".to_owned()], Duration::from_secs(5), &mut |_| {}).check;
        assert!(check.message.contains("apt-get install bats"), "{}", check.message);
    }
}
