//! The Test Anything Protocol, versions 12 to 14, as far as a gate needs it: text to counts, pure.
//!
//! The gate trusts no output that could come from a file that stopped half-way or never tested
//! anything. So a plan must be there, once, and every test that it announces must give one result.

use std::collections::HashSet;

use kiln_schema::gate::{CheckOutcome, Test, Tests};

/// What a test file's output amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// How many tests ended how.
    pub counts: Tests,
    /// Every test that gave a result, in that order.
    pub tests: Vec<Test>,
    /// The file as a whole was skipped, for this reason (`1..0 # SKIP …`).
    pub skipped_whole: Option<String>,
    /// What is wrong with the output itself; with any of these the counts prove nothing.
    pub problems: Vec<String>,
}

impl Output {
    /// The tests that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Test> {
        self.tests.iter().filter(|test| test.outcome == CheckOutcome::Failed)
    }
}

/// Lines of explanation kept for one failed test.
const MAX_SAID: usize = 20;
/// Most tests that one file may announce.
const MAX_TESTS: u32 = 1_000_000;

/// Reads the output of a test file.
///
/// Lines that the protocol does not know are passed over, as it demands; results inside an indented
/// subtest count through the result of their parent.
pub fn parse(text: &str) -> Output {
    let mut reading = Reading::default();
    // How far a YAML block is indented, inside one.
    let mut block = None;
    for line in text.lines().map(str::trim_end) {
        // An indented YAML block explains the result before it.
        if let Some(indent) = block {
            match line.trim_start() {
                "..." => block = None,
                _ => reading.explain(line.get(indent..).unwrap_or_default()),
            }
            continue;
        }
        if line.trim_start() == "---" && line.starts_with(' ') {
            block = Some(line.len() - "---".len());
            continue;
        }
        if let Some(reason) = line.strip_prefix("Bail out!") {
            let reason = reason.trim();
            let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            reading.output.problems.push(format!("it bailed out{because}"));
            break;
        }
        reading.line(line);
    }
    reading.end()
}

#[derive(Default)]
struct Reading {
    output: Output,
    plan: Option<u32>,
    seen: HashSet<u32>,
    last: u32,
    /// Comments that follow explain this failed test.
    explains: bool,
}

impl Reading {
    fn line(&mut self, line: &str) {
        if let Some(version) = line.strip_prefix("TAP version ") {
            if !matches!(version.trim(), "12" | "13" | "14") {
                self.problem(format!("TAP version {} is not known; 12 to 14 are", version.trim()));
            }
        } else if let Some(result) = word(line, "not ok") {
            self.result(result, false);
        } else if let Some(result) = word(line, "ok") {
            self.result(result, true);
        } else if let Some(comment) = line.strip_prefix('#') {
            self.explain(comment.trim());
        } else if let Some((first, rest)) = line.split_once("..")
            && !first.is_empty()
            && first.bytes().all(|b| b.is_ascii_digit())
        {
            self.plan(first, rest);
        }
    }

    /// Takes a line for what the last test says of its failure, if it failed.
    fn explain(&mut self, line: &str) {
        if let (true, Some(failed)) = (self.explains, self.output.tests.last_mut())
            && failed.said.len() < MAX_SAID
        {
            failed.said.push(line.to_owned());
        }
    }

    fn plan(&mut self, first: &str, rest: &str) {
        let (number, directive) = split_directive(rest);
        let Ok(count) = number.trim().parse::<u32>() else {
            return self.problem(format!("the plan `{first}..{}` is not a number of tests", number.trim()));
        };
        if self.plan.is_some() {
            return self.problem("it has two plans".to_owned());
        }
        if first != "1" || count > MAX_TESTS {
            return self.problem(format!("the plan `{first}..{count}` is not 1..N"));
        }
        self.plan = Some(count);
        if let (0, Some(Directive::Skip(reason))) = (count, directive) {
            self.output.skipped_whole = Some(reason);
        }
    }

    fn result(&mut self, rest: &str, ok: bool) {
        let rest = rest.trim_start();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        // `ok 3rd try` has no number: the description begins with a digit.
        let numbered = digits > 0 && rest[digits..].chars().next().is_none_or(char::is_whitespace);
        let (number, rest) = if numbered { rest.split_at(digits) } else { ("", rest) };
        let number = if numbered { number.parse().unwrap_or(u32::MAX) } else { self.last.saturating_add(1) };
        self.last = number;
        self.explains = false;
        if !self.seen.insert(number) {
            return self.problem(format!("test {number} has two results"));
        }
        let (name, directive) = split_directive(rest);
        let name = name.trim().trim_start_matches("- ").trim();
        let counts = &mut self.output.counts;
        let (outcome, count, said) = match (ok, directive) {
            (true, Some(Directive::Skip(reason))) => (CheckOutcome::Skipped, &mut counts.skipped, Some(reason)),
            (false, Some(Directive::Todo)) => (CheckOutcome::Skipped, &mut counts.skipped, Some("to do".to_owned())),
            (true, _) => (CheckOutcome::Passed, &mut counts.passed, None),
            (false, _) => (CheckOutcome::Failed, &mut counts.failed, None),
        };
        *count += 1;
        self.explains = outcome == CheckOutcome::Failed;
        let said = said.filter(|reason| !reason.is_empty()).into_iter().collect();
        self.output.tests.push(Test { number, name: name.to_owned(), outcome, said });
    }

    fn problem(&mut self, problem: String) {
        if !self.output.problems.contains(&problem) {
            self.output.problems.push(problem);
        }
    }

    fn end(mut self) -> Output {
        let seen = self.output.counts.seen();
        match self.plan {
            None if seen == 0 => self.problem("its output is not TAP: there is no plan and no result".to_owned()),
            None => self.problem("it has no plan, so nobody knows whether all tests ran".to_owned()),
            Some(planned) => {
                self.output.counts.planned = planned;
                let beyond = self.seen.iter().filter(|number| **number == 0 || **number > planned).min();
                if seen != planned {
                    self.problem(format!("{planned} tests were planned and {seen} gave a result"));
                } else if let Some(number) = beyond {
                    self.problem(format!("test {number} is not in the plan 1..{planned}"));
                }
            }
        }
        self.output
    }
}

/// What follows `word`, if the line begins with it as a whole word.
fn word<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(word)?;
    rest.chars().next().is_none_or(char::is_whitespace).then_some(rest)
}

enum Directive {
    Skip(String),
    Todo,
}

/// Cuts a `# SKIP reason` or `# TODO reason` off a line. `\#` is no directive.
fn split_directive(text: &str) -> (&str, Option<Directive>) {
    for (at, _) in text.match_indices('#') {
        let before = &text[..at];
        if before.ends_with('\\') || !(before.is_empty() || before.ends_with(char::is_whitespace)) {
            continue;
        }
        let comment = text[at + 1..].trim_start();
        let lower = comment.to_ascii_lowercase();
        if lower.starts_with("skip") {
            let reason = comment.split_once(char::is_whitespace).map_or("", |(_, reason)| reason.trim());
            return (before, Some(Directive::Skip(reason.to_owned())));
        }
        if word(&lower, "todo").is_some() {
            return (before, Some(Directive::Todo));
        }
    }
    (text, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planned, passed, failed, skipped.
    fn counts(text: &str) -> (u32, u32, u32, u32) {
        let output = parse(text);
        assert_eq!(output.problems, Vec::<String>::new(), "{text}");
        (output.counts.planned, output.counts.passed, output.counts.failed, output.counts.skipped)
    }

    #[test]
    fn good_output_is_counted() {
        for (text, expected) in [
            ("1..1\nok 1 a\n", (1, 1, 0, 0)),
            ("ok 1\nok 2\n1..2\n", (2, 2, 0, 0)),
            ("TAP version 13\n1..2\nok 1 - a\nnot ok 2 - b\n  ---\n  ok: no\n  ok 3\n  ...\n", (2, 1, 1, 0)),
            (
                "TAP version 14\n1..1\n    ok 1 - sub\n    not ok 2 - sub # TODO\n    1..2\nok 1 - parent\n",
                (1, 1, 0, 0),
            ),
            ("1..3\r\nok 1 a # skip no puppet\r\nok 2 b # SKIP\r\nok 3 c\r\n", (3, 1, 0, 2)),
            ("1..2\nok 2 b\nok 1 a\n", (2, 2, 0, 0)),
            ("1..2\nok\nnot ok\n", (2, 1, 1, 0)),
            ("1..2\nnot ok 1 later # TODO fix\nok 2 bonus # todo\n", (2, 1, 0, 1)),
            ("starting\n1..1\nokay, here it comes\nok 1\nnotok\ndone\n", (1, 1, 0, 0)),
            ("1..1\nok 1 handles \\# skip in a name\n", (1, 1, 0, 0)),
            ("1..1\nok 1 issue#skip\n", (1, 1, 0, 0)),
            ("1..1\nnot ok 1 a # skip\n", (1, 0, 1, 0)),
            ("1..2\nok 1st thing\nok 2nd thing\n", (2, 2, 0, 0)),
            ("1..0 # SKIP not on this platform\n", (0, 0, 0, 0)),
            ("1..0\n", (0, 0, 0, 0)),
            ("pragma +strict\n1..1\nok 1 - caf\u{e9}\n", (1, 1, 0, 0)),
        ] {
            assert_eq!(counts(text), expected, "{text}");
        }
    }

    #[test]
    fn output_that_proves_nothing_has_a_problem() {
        for (text, problem) in [
            ("", "its output is not TAP"),
            ("hello\nworld\n", "its output is not TAP"),
            ("<html>404</html>", "its output is not TAP"),
            ("ok 1\nok 2\n", "no plan"),
            ("1..3\nok 1\nok 2\n", "3 tests were planned and 2 gave a result"),
            ("1..1\nok 1\nok 2\n", "1 tests were planned and 2 gave a result"),
            ("1..2\nok 1\nok 1\n", "test 1 has two results"),
            ("1..2\nok 1\nok 3\n", "test 3 is not in the plan 1..2"),
            ("1..1\nok 0\n", "test 0 is not in the plan"),
            ("1..1\nok 1\n1..1\n", "two plans"),
            ("2..3\nok 2\nok 3\n", "not 1..N"),
            ("1..-1\n", "not a number of tests"),
            ("1..99999999999\n", "not a number of tests"),
            ("1..2000000\n", "not 1..N"),
            ("1..2\nok 1\nBail out! no database\nok 2\n", "it bailed out: no database"),
            ("Bail out!", "it bailed out"),
            ("TAP version 99\n1..1\nok 1\n", "TAP version 99 is not known"),
            ("1..1\nok 99999999999999\n", "not in the plan"),
            ("1..2\nok 1 a\n  ---\n  never closed\nok 2 b\n", "2 tests were planned and 1 gave a result"),
        ] {
            let problems = parse(text).problems.join("; ");
            assert!(problems.contains(problem), "{text}: {problems}");
        }
    }

    #[test]
    fn a_failed_test_keeps_its_name_and_what_it_said() {
        let text = "1..2\nnot ok 1 it runs\n# (in test file a.bats, line 2)\n#   `false' failed\nok 2 b\n# unrelated\n";
        let output = parse(text);
        let failed: Vec<_> = output.failed().collect();
        assert_eq!((failed.len(), output.tests.len()), (1, 2));
        assert_eq!((failed[0].number, failed[0].name.as_str()), (1, "it runs"));
        assert_eq!(failed[0].said, ["(in test file a.bats, line 2)", "`false' failed"]);
    }

    #[test]
    fn the_yaml_block_of_a_failed_test_is_its_detail() {
        let text = "TAP version 13\n1..3\nnot ok 1 port\n  ---\n  message: 'nothing listens'\n  found:\n    - 22\n  ...\n\
                    ok 2 b # SKIP no disk\n  ---\n  message: fine\n  ...\nok 3 c\n";
        let tests = parse(text).tests;
        assert_eq!(tests[0].said, ["message: 'nothing listens'", "found:", "  - 22"]);
        assert_eq!(tests[0].gist(), Some("nothing listens"));
        assert_eq!((&tests[1].said[..], tests[2].said.len()), (&["no disk".to_owned()][..], 0));
    }

    #[test]
    fn a_file_skipped_as_a_whole_gives_its_reason() {
        assert_eq!(parse("1..0 # SKIP no puppet here\n").skipped_whole.as_deref(), Some("no puppet here"));
        assert_eq!(parse("1..0 # Skipped\n").skipped_whole.as_deref(), Some(""));
        assert_eq!(parse("1..0\n").skipped_whole, None);
    }
}
