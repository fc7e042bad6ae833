//! What the commands print, and the documents that they are given.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

/// Most bytes of a document that are read; user-data of every cloud is far smaller.
const LIMIT: u64 = 16 * 1024 * 1024;

/// For whom a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person
    Text,
    /// For a program
    Json,
}

/// Prints to standard output. A reader that has gone (`| head`) is no error.
pub fn say(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Prints a sentence to standard error.
pub fn complain(sentence: &str) {
    let _ = writeln!(io::stderr(), "kiln-agent: {sentence}");
}

/// Prints a value as JSON.
pub fn say_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => say(&(text + "\n")),
        Err(error) => complain(&format!("the answer cannot be written as JSON: {error}")),
    }
}

/// Lays rows out in columns, two blanks apart; the last column is as long as it likes.
pub fn columns(rows: &[Vec<String>], indent: &str) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(index) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(indent);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Breaks text at its blanks, for a terminal and for a page: before the first line stands `first`, before
/// the others `rest`. Nothing for no words.
pub fn wrap(text: &str, first: &str, rest: &str) -> String {
    const WIDTH: usize = 100;
    let mut all = String::new();
    let mut line = first.to_owned();
    let mut begun = false;
    for word in text.split_whitespace() {
        if begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
            all.push_str(&line);
            all.push('\n');
            line.replace_range(.., rest);
            begun = false;
        }
        if begun {
            line.push(' ');
        }
        line.push_str(word);
        begun = true;
    }
    if begun {
        all.push_str(&line);
        all.push('\n');
    }
    all
}

/// Words for a number of things: `no errors`, `1 error`, `2 errors`.
pub fn count(number: usize, thing: &str) -> String {
    match number {
        0 => format!("no {thing}s"),
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}

/// A document that a person names on the command line: its name in messages, and its bytes.
///
/// `-` is standard input. The path is the person's own: `--root` does not move it.
///
/// # Errors
/// A sentence for the person.
pub fn document(path: &Path) -> Result<(String, Vec<u8>), String> {
    if path == Path::new("-") {
        return Ok(("standard input".to_owned(), limited(io::stdin(), "standard input")?));
    }
    let name = path.display().to_string();
    if path.is_dir() {
        return Err(format!("{name}: this is a folder; name a file of user-data"));
    }
    let file = File::open(path).map_err(|error| format!("{name}: cannot be read: {}", reason(&error)))?;
    let bytes = limited(file, &name)?;
    Ok((name, bytes))
}

fn limited(reader: impl Read, name: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = reader.take(LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("{name}: cannot be read: {}", reason(&error)))?;
    if bytes.len() as u64 > LIMIT {
        return Err(format!("{name}: larger than {} MiB, which no cloud takes as user-data", LIMIT >> 20));
    }
    Ok(bytes)
}

/// The system's reason as a person reads it, without its number.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "there is no such file".to_owned(),
        io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied; run it as root".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_leave_no_blanks_at_the_end() {
        let rows = [vec!["é".to_owned(), "b".to_owned(), String::new()], vec!["long".to_owned(), String::new()]];
        assert_eq!(columns(&rows, "  "), "  é     b\n  long\n");
    }

    #[test]
    fn many_words_are_broken_at_the_width_of_a_terminal() {
        let words: Vec<String> = (0..40).map(|n| format!("key_number_{n}")).collect();
        let text = wrap(&words.join(" \n"), "- ", "  ");
        assert!(text.lines().all(|line| line.len() <= 100 && !line.ends_with(' ')), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("- key_number_0 ")).count(), 1);
        assert_eq!(text.lines().filter(|line| line.starts_with("  key")).count(), text.lines().count() - 1);
        assert_eq!(text.split_whitespace().count(), 41);
        assert_eq!(wrap(&"x".repeat(200), "", ""), "x".repeat(200) + "\n");
        assert_eq!(wrap(" \n", "- ", ""), "");
    }

    #[test]
    fn an_endless_document_is_refused() {
        assert!(limited(io::repeat(b'a'), "x").unwrap_err().contains("larger than 16 MiB"));
    }
}
