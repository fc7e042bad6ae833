//! What is wrong with a document: where, what, and what to write instead.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much a [`Diagnostic`] weighs. Only an error changes the state of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing was lost.
    Warning,
    /// A part of the document could not be used; the state is `failed`.
    Error,
}

/// Most characters of a line that a terminal is shown.
const EXCERPT: usize = 100;

/// One finding in one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Whether the finding fails the boot.
    pub severity: Severity,
    /// The document, as a person would name it: `user-data part 2`, `/etc/kiln/agent.yaml`.
    pub source: String,
    /// Line in the document, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Column in the line in characters, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// The key, as `users[1].uid`; empty at the root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What was probably meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
    /// The line itself. It may hold a password, so it is never serialised: it is for the terminal
    /// of the person who holds the document, not for the world-readable status.
    #[serde(skip)]
    pub excerpt: Option<String>,
}

impl Diagnostic {
    /// A finding about a whole document.
    pub fn new(severity: Severity, source: impl Into<String>, message: impl Into<String>) -> Self {
        Diagnostic {
            severity,
            source: source.into(),
            line: None,
            column: None,
            path: String::new(),
            message: message.into(),
            suggestion: None,
            excerpt: None,
        }
    }

    /// An error about a whole document.
    pub fn error(source: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, source, message)
    }

    /// A warning about a whole document.
    pub fn warning(source: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, source, message)
    }

    /// The finding as a terminal shows it: the sentence, then the line with a caret under the spot.
    ///
    /// Of a long line the part around the spot is shown. What a terminal would obey is shown as U+FFFD.
    pub fn render(&self) -> String {
        let mut text = self.to_string();
        if let (Some(excerpt), Some(line)) = (&self.excerpt, self.line) {
            let spot = self.column.unwrap_or(1).saturating_sub(1);
            // A few characters before the spot are enough to find it.
            let first = if spot < EXCERPT - 20 { 0 } else { spot - 20 };
            let visible = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
            let mut shown: String = excerpt.chars().skip(first).take(EXCERPT).map(visible).collect();
            if excerpt.chars().nth(first + EXCERPT).is_some() {
                shown.push('…');
            }
            let cut = if first > 0 { "…" } else { "" };
            let gutter = line.to_string();
            text.push_str(&format!("\n {gutter} | {cut}{shown}"));
            if self.column.is_some() {
                // Tabs stay tabs, so that the caret stands under its character.
                let lead = excerpt.chars().chain(std::iter::repeat(' ')).skip(first).take(spot - first);
                let lead: String = lead.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                let cut = if first > 0 { " " } else { "" };
                text.push_str(&format!("\n {} | {cut}{lead}^", " ".repeat(gutter.len())));
            }
        }
        text
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{}", self.source)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        write!(f, ": {severity}: ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean `{suggestion}`?")?;
        }
        Ok(())
    }
}

/// The candidate that `word` was probably meant to be, if one is near enough to be worth saying.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let word = word.replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caret_stands_under_the_spot() {
        let mut finding = Diagnostic::error("user-data", "unknown key");
        finding.line = Some(7);
        finding.column = Some(3);
        finding.path = "pupet".into();
        finding.suggestion = Some("puppet".into());
        finding.excerpt = Some("  pupet: {}".into());
        assert_eq!(
            finding.render(),
            "user-data:7:3: error: pupet: unknown key; did you mean `puppet`?\n 7 |   pupet: {}\n   |   ^"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_spot_and_cannot_speak_to_the_terminal() {
        let mut finding = Diagnostic::error("user-data", "wrong");
        finding.line = Some(1);
        finding.column = Some(301);
        finding.excerpt = Some(format!("{}!{}", "a".repeat(300), "b".repeat(300)));
        let rendered = finding.render();
        let lines: Vec<&str> = rendered.lines().collect();
        assert_eq!(lines[1], format!(" 1 | …{}!{}…", "a".repeat(20), "b".repeat(79)));
        assert_eq!(lines[2], format!("   | {}^", " ".repeat(21)));
        finding.column = Some(7);
        finding.excerpt = Some("é\u{1b}[2J: x".to_owned());
        assert!(finding.render().ends_with("\n 1 | é\u{fffd}[2J: x\n   |       ^"), "{}", finding.render());
    }

    #[test]
    fn the_excerpt_never_reaches_a_file() {
        let mut finding = Diagnostic::error("user-data", "unknown key");
        finding.excerpt = Some("password: hunter2".into());
        assert!(!serde_json::to_string(&finding).unwrap().contains("hunter2"));
    }

    #[test]
    fn a_suggestion_is_near_or_absent() {
        let keys = ["puppet", "phone_home", "write_files"];
        assert_eq!(nearest("pupet", keys).as_deref(), Some("puppet"));
        assert_eq!(nearest("write-file", keys).as_deref(), Some("write_files"));
        assert_eq!(nearest("zebra", keys), None);
    }
}
