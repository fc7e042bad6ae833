//! The gate's report as JUnit XML, the form in which CI systems show tests.
//!
//! The checks of the gate are one suite, and each test file is one. A file that proves nothing has an error
//! of its own, so that no reader counts it as good.

use kiln_schema::gate::{Check, CheckOutcome, Report, TestFile};

/// The document. `image` is the first word of every class, by which CI tells images apart.
pub fn xml(image: &str, report: &Report) -> String {
    let mut suites = String::new();
    let mut all = Counts::default();
    // That of the tests would tell what the files tell, unless no file by itself is at fault.
    let told = report.files.iter().any(|file| file.cause.is_some());
    let checks = report.checks.iter().filter(|check| {
        check.name != "tests" || report.files.is_empty() || check.outcome == CheckOutcome::Failed && !told
    });
    let mut gate = Suite::default();
    checks.for_each(|check| gate.check(image, check));
    suites.push_str(&gate.close("gate", 0, &mut all));
    for file in &report.files {
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        let mut suite = Suite::default();
        suite.file(image, name, file);
        suites.push_str(&suite.close(name, file.duration_ms, &mut all));
    }
    let time = seconds(report.files.iter().map(|file| file.duration_ms).sum());
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\" {} time=\"{time}\">\n{suites}</testsuites>\n",
        escaped(image),
        all.attributes(),
    )
}

#[derive(Clone, Copy, Default)]
struct Counts {
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
}

impl Counts {
    fn attributes(&self) -> String {
        let Counts { tests, failures, errors, skipped } = self;
        format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\"")
    }
}

#[derive(Default)]
struct Suite {
    cases: String,
    counts: Counts,
}

impl Suite {
    fn check(&mut self, image: &str, check: &Check) {
        let message = Some(check.message.as_str());
        self.case(&format!("{image}.gate"), &check.name, check.outcome, message, "");
    }

    fn file(&mut self, image: &str, name: &str, file: &TestFile) {
        let class = format!("{image}.{name}");
        for test in &file.tests {
            let numbered = format!("test {}", test.number);
            let name = if test.name.is_empty() { &numbered } else { &test.name };
            self.case(&class, name, test.outcome, test.gist(), &test.said.join("\n"));
        }
        // What is wrong with the file and with no test of it.
        if let Some(cause) = file.cause.as_ref().filter(|_| self.counts.failures == 0) {
            self.counts.tests += 1;
            self.counts.errors += 1;
            let error = format!("<error message=\"{}\"/>", escaped(cause));
            self.cases.push_str(&format!("    {}{error}</testcase>\n", opening(&class, "the file as a whole")));
        }
    }

    fn case(&mut self, class: &str, name: &str, outcome: CheckOutcome, message: Option<&str>, said: &str) {
        self.counts.tests += 1;
        let message = message.map(|message| format!(" message=\"{}\"", escaped(message))).unwrap_or_default();
        let inner = match outcome {
            CheckOutcome::Passed => String::new(),
            CheckOutcome::Skipped => {
                self.counts.skipped += 1;
                format!("<skipped{message}/>")
            }
            CheckOutcome::Failed => {
                self.counts.failures += 1;
                format!("<failure{message}>{}</failure>", escaped(said))
            }
        };
        self.cases.push_str(&format!("    {}{inner}</testcase>\n", opening(class, name)));
    }

    fn close(self, name: &str, duration_ms: u64, all: &mut Counts) -> String {
        all.tests += self.counts.tests;
        all.failures += self.counts.failures;
        all.errors += self.counts.errors;
        all.skipped += self.counts.skipped;
        let (name, time) = (escaped(name), seconds(duration_ms));
        let counts = self.counts.attributes();
        format!("  <testsuite name=\"{name}\" {counts} time=\"{time}\">\n{}  </testsuite>\n", self.cases)
    }
}

fn opening(class: &str, name: &str) -> String {
    format!("<testcase classname=\"{}\" name=\"{}\">", escaped(class), escaped(name))
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

/// Text for an attribute or an element. What XML cannot hold in any form is replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            '\r' => out.push_str("&#13;"),
            '\0'..'\u{20}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use kiln_schema::gate::{Test, Tests};

    use super::*;
    use crate::system::tools::{Tool, present};

    fn report() -> Report {
        let check = |name: &str, outcome, message: &str| Check { name: name.into(), outcome, message: message.into() };
        let test = |number, name: &str, outcome, said: &[&str]| Test {
            number,
            name: name.into(),
            outcome,
            said: said.iter().map(|line| (*line).to_owned()).collect(),
        };
        let file = |path: &str, cause: Option<&str>, tests| TestFile {
            path: path.into(),
            duration_ms: 1234,
            cause: cause.map(str::to_owned),
            tests,
        };
        Report::new(
            vec![
                check("status", CheckOutcome::Passed, "done"),
                check("puppet", CheckOutcome::Skipped, "no \"puppet\""),
                check("tests", CheckOutcome::Failed, "1 of 3 tests failed"),
            ],
            Tests::default(),
            vec![
                file(
                    "/tmp/kiln/tests/app.bats",
                    Some("1 of 3 tests failed"),
                    vec![
                        test(1, "a < b & c", CheckOutcome::Passed, &[]),
                        test(2, "", CheckOutcome::Failed, &["(in test file)", "expected \"x\", found <\u{1b}[0m]]>"]),
                        test(3, "later", CheckOutcome::Skipped, &["no disk"]),
                    ],
                ),
                file("/tmp/kiln/tests/empty.bats", Some("there is no test in it"), vec![]),
            ],
        )
    }

    #[test]
    fn every_check_and_test_is_a_case() {
        insta::assert_snapshot!(xml("my<app>", &report()));
    }

    #[test]
    fn a_reader_of_xml_takes_it() {
        if !present("python3") {
            eprintln!("python3 is not installed: no reader of XML has seen the document");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        crate::system::files::write(file.path(), xml("app", &report()).as_bytes(), 0o600).unwrap();
        let script = "import sys, xml.etree.ElementTree as E; r = E.parse(sys.argv[1]).getroot(); \
                      print(r.get('tests'), r.get('failures'), r.get('errors'), r.get('skipped'), \
                      len(r.findall('.//testcase')), r.find('.//failure').get('message'))";
        let ran = Tool::new("python3").args(["-c", script]).arg(file.path()).capture().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
        assert_eq!(said, "6 1 1 2 6 expected \"x\", found <\u{fffd}[0m]]>", "{}", String::from_utf8_lossy(&ran.stderr));
    }

    #[test]
    fn of_an_older_agent_the_checks_alone_are_told() {
        let report = Report { files: vec![], ..report() };
        assert!(xml("app", &report).contains("name=\"tests\"><failure message=\"1 of 3 tests failed\">"));
    }

    #[test]
    fn a_gate_that_failed_has_a_failure_though_every_test_was_skipped() {
        let mut report = report();
        report.checks[2].message = "all 1 tests were skipped, which proves nothing".into();
        report.files.truncate(1);
        report.files[0].cause = None;
        report.files[0].tests.retain(|test| test.outcome == CheckOutcome::Skipped);
        assert!(xml("app", &report).contains("<failure message=\"all 1 tests were skipped, which proves nothing\">"));
    }
}
