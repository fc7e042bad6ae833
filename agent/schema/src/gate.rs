//! The gate's report, schema 1: what `kiln-agent gate` found on an instance and wrote for the builder.
//!
//! A builder may read what an older or newer agent wrote. So changes are additive, a reader ignores
//! fields it does not know, and a verdict or outcome it does not know counts as failed.

use serde::{Deserialize, Deserializer, Serialize};

/// The number of the format described here.
pub const SCHEMA: u32 = 1;

/// The files of a report folder. Only [`REPORT`](files::REPORT) is always there; the others are
/// copies of what the instance had.
pub mod files {
    /// The [`Report`](super::Report) itself.
    pub const REPORT: &str = "gate.json";
    /// The agent's status at the end of the wait.
    pub const STATUS: &str = "status.json";
    /// The agent's journal of this boot.
    pub const JOURNAL: &str = "journal.txt";
    /// What the test files printed, in the Test Anything Protocol.
    pub const TESTS: &str = "tests.tap";
    /// The checks and tests once more, as CI systems read them. The builder makes it of the report.
    pub const JUNIT: &str = "junit.xml";
    /// Puppet's summary of its last run.
    pub const PUPPET_SUMMARY: &str = "last_run_summary.yaml";
}

/// Whether an image may be made of this instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every check passed or had a reason to be skipped.
    Passed,
    /// At least one check failed.
    Failed,
}

impl<'de> Deserialize<'de> for Verdict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(if word == "passed" { Verdict::Passed } else { Verdict::Failed })
    }
}

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckOutcome {
    /// It found nothing wrong.
    Passed,
    /// It found something wrong; the message says what.
    Failed,
    /// It had nothing to look at; the message says why.
    Skipped,
}

impl CheckOutcome {
    /// The word in the report.
    pub fn name(self) -> &'static str {
        match self {
            CheckOutcome::Passed => "passed",
            CheckOutcome::Failed => "failed",
            CheckOutcome::Skipped => "skipped",
        }
    }
}

impl<'de> Deserialize<'de> for CheckOutcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(match word.as_str() {
            "passed" => CheckOutcome::Passed,
            "skipped" => CheckOutcome::Skipped,
            _ => CheckOutcome::Failed,
        })
    }
}

/// One check of the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at: `status`, `puppet`, `tests`.
    pub name: String,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// One sentence: what was seen.
    pub message: String,
}

/// How many tests there were. `planned` is what the test files announced, so a file that stops
/// half-way shows as fewer results than planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tests {
    /// Tests announced by the plans of all test files.
    pub planned: u32,
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that were skipped.
    pub skipped: u32,
}

impl Tests {
    /// Tests that gave a result of any kind.
    pub fn seen(&self) -> u32 {
        self.passed + self.failed + self.skipped
    }
}

/// One test of a test file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// Its number in the file.
    pub number: u32,
    /// Its description; may be empty.
    pub name: String,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// What it said about its failure, or why it was skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<String>,
}

impl Test {
    /// The line that tells a person most: what was expected and found, else the first that names no place.
    pub fn gist(&self) -> Option<&str> {
        let said = || self.said.iter().map(|line| line.trim());
        let message = said().find_map(|line| line.strip_prefix("message:"));
        let message = message.map(|text| unquoted(text.trim()));
        let expected = || said().find(|line| line.starts_with("expected "));
        // Bats begins with the place, in brackets that may go over several lines.
        let mut in_place = false;
        let first = || {
            said().find(|line| {
                let place = in_place || line.starts_with('(');
                in_place = place && !line.ends_with(')');
                !place
            })
        };
        message.or_else(expected).or_else(first)
    }
}

/// A scalar of YAML without its quotes.
fn unquoted(text: &str) -> &str {
    let inside = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inside('"').or_else(|| inside('\'')).unwrap_or(text)
}

/// What came of one test file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestFile {
    /// The file, as it lay on the instance.
    pub path: String,
    /// How long it ran.
    pub duration_ms: u64,
    /// Why the file as a whole proves nothing or failed; none when it passed.
    pub cause: Option<String>,
    /// Its tests, in the order of their results.
    pub tests: Vec<Test>,
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Whether an image may be made.
    pub verdict: Verdict,
    /// The one sentence that names why not; `None` when it passed.
    pub cause: Option<String>,
    /// Every check, in the order they ran.
    pub checks: Vec<Check>,
    /// The test counts; all zero when no tests were asked for.
    #[serde(default)]
    pub tests: Tests,
    /// The test files, in the order they ran. An older agent tells the counts alone.
    #[serde(default)]
    pub files: Vec<TestFile>,
}

impl Report {
    /// The report that these checks amount to: the first failed check is the cause.
    pub fn new(checks: Vec<Check>, tests: Tests, files: Vec<TestFile>) -> Self {
        let cause = checks.iter().find(|c| c.outcome == CheckOutcome::Failed).map(|c| c.message.clone());
        let verdict = if cause.is_some() { Verdict::Failed } else { Verdict::Passed };
        Report { schema: SCHEMA, verdict, cause, checks, tests, files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../fixtures/gate-1.json");

    #[test]
    fn the_golden_file_of_schema_1_reads_and_writes_back_the_same() {
        let report: Report = serde_json::from_str(GOLDEN).unwrap();
        assert_eq!(serde_json::to_string_pretty(&report).unwrap().trim(), GOLDEN.trim());
        assert_eq!(Report::new(report.checks.clone(), report.tests, report.files.clone()), report);
    }

    #[test]
    fn what_a_reader_does_not_know_counts_as_failed() {
        let report: Report = serde_json::from_str(
            r#"{"schema":2,"verdict":"splendid","cause":null,"new":1,"checks":[{"name":"a","outcome":"odd","message":""}]}"#,
        )
        .unwrap();
        assert_eq!(report.verdict, Verdict::Failed);
        assert_eq!(report.checks[0].outcome, CheckOutcome::Failed);
        assert_eq!((report.tests.seen(), report.files.len()), (0, 0));
    }

    #[test]
    fn a_skipped_check_fails_nothing() {
        let check = |outcome| Check { name: "puppet".into(), outcome, message: "no puppet section".into() };
        assert_eq!(Report::new(vec![check(CheckOutcome::Skipped)], Tests::default(), vec![]).verdict, Verdict::Passed);
        let failed =
            Report::new(vec![check(CheckOutcome::Skipped), check(CheckOutcome::Failed)], Tests::default(), vec![]);
        assert_eq!((failed.verdict, failed.cause.as_deref()), (Verdict::Failed, Some("no puppet section")));
    }

    #[test]
    fn the_gist_of_a_test_is_what_was_expected() {
        for (said, gist) in [
            (
                &["(in test file a.bats, line 2)", "`port_listens 80' failed", "expected a, found b"][..],
                "expected a, found b",
            ),
            (&["(in test file a.bats, line 2)", "`false' failed"], "`false' failed"),
            (
                &["(from function `f' in file kiln.bash, line 9,", "in test file a.bats, line 2)", "`f' failed", "out"],
                "`f' failed",
            ),
            (&["severity: fail", "  message: 'no \"x\"'"], "no \"x\""),
        ] {
            let said = said.iter().map(|line| (*line).to_owned()).collect();
            let test = Test { number: 1, name: String::new(), outcome: CheckOutcome::Failed, said };
            assert_eq!(test.gist(), Some(gist));
        }
    }
}
