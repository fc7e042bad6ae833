//! Quoted text whose further lines stand further left than the grammar wants them.
//!
//! Readers in Python take it, and people write it: a script in quotes, its lines at the margin. The parser does
//! not, and a document must not be lost for it. Blanks at the beginning of such a line are no part of the text,
//! so some more of them change nothing.

use crate::diagnostic::Diagnostic;

/// The parser's words for it.
const REFUSAL: &str = "invalid indentation in quoted scalar";
/// More of such texts in a document are not looked for: each costs a reading.
pub(super) const MAX: usize = 100;

/// The text with the further lines of one quoted scalar moved right, if that is what the parser refused.
pub(super) fn moved(text: &str, refused: &Diagnostic) -> Option<String> {
    let (line, column) = (refused.line?, refused.column?);
    if !refused.message.contains(REFUSAL) {
        return None;
    }
    let before: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let (within, quote) = text[before..].char_indices().nth(column - 1)?;
    if !matches!(quote, '\'' | '"') {
        return None;
    }
    let start = before + within + 1;
    let mut moved = text[..start].to_owned();
    let mut rest = text[start..].char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        moved.push(c);
        let after = &text[start + at + c.len_utf8()..];
        match c {
            '\\' if quote == '"' => {
                moved.extend(rest.next_if(|(_, escaped)| *escaped != '\n').map(|(_, escaped)| escaped))
            }
            // A quote twice is one of the text.
            '\'' if quote == '\'' && after.starts_with('\'') => moved.extend(rest.next().map(|(_, second)| second)),
            // Such a line ends the document wherever it stands.
            '\n' if after.starts_with("---") || after.starts_with("...") => return None,
            '\n' if !after.starts_with(['\n', '\r']) => moved.push_str(&" ".repeat(column)),
            _ if c == quote => return Some(moved + after),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::parse;

    #[test]
    fn further_lines_of_quoted_text_may_stand_at_the_margin() {
        for (text, expected) in [
            ("l:\n- a: '#!/bin/sh\necho it''s'\n  b: 1\n", json!({"l": [{"a": "#!/bin/sh echo it's", "b": 1}]})),
            ("l:\n- a: \"x\\\"\n\n y\\\nz\"\n  b: 'c\nd'\n", json!({"l": [{"a": "x\"\nyz", "b": "c d"}]})),
            ("l:\r\n  - 'é\r\nf'\r\n", json!({"l": ["é f"]})),
        ] {
            assert_eq!(parse("doc", text).unwrap().0.to_json(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_has_no_end_or_ends_the_document_is_still_an_error_at_its_place() {
        for text in ["a:\n- 'x\ny\n", "a:\n- b: 'x\n--- y'\n", "a:\n- b: \"x\ny\\\"\n"] {
            let finding = parse("doc", text).unwrap_err();
            assert!(finding.message.starts_with("not valid YAML"), "{finding}");
        }
        let finding = parse("doc", "a:\n- b: 'x\ny'\n- c: 'z\n").unwrap_err();
        assert!(finding.line.is_some_and(|line| line >= 4), "{finding}");
    }
}
