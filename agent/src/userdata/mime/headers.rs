//! Headers of a MIME part: folded lines, encoded words (RFC 2047), parameters and their long forms (RFC 2231).

use super::text;

/// The headers of a document or of a part, in order.
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Reads the headers up to the empty line after them; what follows it is the body.
    ///
    /// # Errors
    /// That a line continues nothing.
    pub fn read(document: &[u8]) -> Result<(Self, &[u8]), String> {
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut rest = document;
        let mut can_continue = false;
        while !rest.is_empty() {
            let end = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1);
            let (line, after) = rest.split_at(end);
            rest = after;
            let line = text::of_header(line.trim_ascii_end());
            if line.is_empty() {
                break;
            }
            match headers.last_mut().filter(|_| can_continue && line.starts_with([' ', '\t'])) {
                Some((_, value)) => {
                    value.push(' ');
                    value.push_str(line.trim_start());
                }
                None if line.starts_with(' ') => {
                    return Err(format!("the line `{}` continues no header", line.trim()));
                }
                None => {
                    can_continue = line.contains(':');
                    let (name, value) = line.split_once(':').unwrap_or((&line, ""));
                    headers.push((name.to_owned(), value.trim().to_owned()));
                }
            }
        }
        for (_, value) in &mut headers {
            if value.contains("=?") {
                *value = without_encoded_words(value);
            }
        }
        Ok((Headers(headers), rest))
    }

    /// The first header of this name, whatever its case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Puts what they say in the place of encoded words, `=?utf-8?Q?b=C3=A9?=`. White space between two of them
/// is there for the line breaks alone.
fn without_encoded_words(value: &str) -> String {
    let mut said = String::new();
    let mut rest = value;
    let mut after_word = false;
    while let Some(at) = rest.find("=?") {
        let (before, word) = rest.split_at(at);
        let decoded = encoded_word(word);
        if decoded.is_none() || !after_word || !before.trim().is_empty() {
            said.push_str(before);
        }
        after_word = decoded.is_some();
        let (text, after) = decoded.unwrap_or_else(|| ("=?".to_owned(), &word[2..]));
        said.push_str(&text);
        rest = after;
    }
    said + rest
}

/// What the encoded word at the beginning says, and what follows it.
fn encoded_word(text: &str) -> Option<(String, &str)> {
    let (charset, rest) = text.strip_prefix("=?")?.split_once('?')?;
    let (coding, rest) = rest.split_once('?')?;
    let (word, rest) = rest.split_once("?=")?;
    let bytes = match coding {
        "B" | "b" => text::base64(word.as_bytes()).ok()?,
        "Q" | "q" => text::unescaped(word.replace('_', " ").as_bytes(), b'='),
        _ => return None,
    };
    Some((text::decode(charset, bytes).ok()?, rest))
}

/// A header with parameters: `text/plain; charset="utf-8"`.
pub struct Value {
    /// What stands before the parameters, in lower case.
    pub word: String,
    parameters: Vec<(String, String)>,
}

impl Value {
    /// Reads the text of a header.
    pub fn parse(text: &str) -> Self {
        let mut pieces = pieces(text).into_iter();
        let word = pieces.next().unwrap_or_default().trim().to_ascii_lowercase();
        let parameter = |piece: &str| {
            let (name, value) = piece.split_once('=')?;
            Some((name.trim().to_ascii_lowercase(), unquoted(value.trim())))
        };
        Value { word, parameters: pieces.filter_map(parameter).collect() }
    }

    /// A parameter, in whichever form it is given. Of several the last one counts.
    pub fn get(&self, name: &str) -> Option<String> {
        self.plain(name).map(str::to_owned).or_else(|| self.long(name))
    }

    fn plain(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// `name*=utf-8''%41`, or in pieces `name*0*=utf-8''%41; name*1=b`.
    fn long(&self, name: &str) -> Option<String> {
        let piece = |key: String| {
            let encoded = self.plain(&(key.clone() + "*")).map(|piece| (piece, true));
            encoded.or_else(|| self.plain(&key).map(|piece| (piece, false)))
        };
        let whole = self.plain(&format!("{name}*")).map(|piece| (piece, true));
        let pieces: Vec<(&str, bool)> = match whole {
            Some(whole) => vec![whole],
            None => (0..).map_while(|number| piece(format!("{name}*{number}"))).collect(),
        };
        let (mut charset, mut bytes) = ("utf-8", Vec::new());
        for (index, (mut piece, is_encoded)) in pieces.iter().copied().enumerate() {
            if let (0, true, Some((named, rest))) = (index, is_encoded, piece.split_once('\'')) {
                charset = named;
                piece = rest.split_once('\'').map_or(rest, |(_language, rest)| rest);
            }
            match is_encoded {
                true => bytes.extend(text::unescaped(piece.as_bytes(), b'%')),
                false => bytes.extend(piece.as_bytes()),
            }
        }
        if pieces.is_empty() { None } else { text::decode(charset, bytes).ok() }
    }
}

/// A header's text, split at the semicolons that are in no quotes.
fn pieces(text: &str) -> Vec<&str> {
    let (mut pieces, mut begin) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => {
                pieces.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&text[begin..]);
    pieces
}

/// A parameter's value without its quotes and their backslashes.
fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').map(|value| value.strip_suffix('"').unwrap_or(value)) else {
        return value.to_owned();
    };
    let mut text = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_lines_are_one_and_the_body_follows_the_empty_line() {
        let (headers, body) =
            Headers::read(b"A: one\r\n two\r\n\tthree\r\nempty:\r\nalone\r\na: x\r\n\r\n b\r\n").unwrap();
        assert_eq!(headers.get("a"), Some("one two three"));
        assert_eq!((headers.get("EMPTY"), headers.get("alone"), headers.get("b")), (Some(""), Some(""), None));
        assert_eq!(body, b" b\r\n");
        for continues_nothing in [" A: x\n\n", "alone\n x\n"] {
            assert!(Headers::read(continues_nothing.as_bytes()).is_err(), "{continues_nothing}");
        }
        assert_eq!(Headers::read(b"a: caf\xe9").unwrap().0.get("a"), Some("café"));
    }

    #[test]
    fn encoded_words_say_what_they_mean() {
        for (text, said) in [
            ("=?utf-8?B?YmxldQ==?=", "bleu"),
            ("a =?ISO-8859-1?q?d=E9j=E0_vu?= b", "a déjà vu b"),
            ("=?utf-8?q?one?= =?utf-8?q?two?= three", "onetwo three"),
            ("=?utf-8?x?one?= =?", "=?utf-8?x?one?= =?"),
            ("=?utf-8?b?!?=", "=?utf-8?b?!?="),
        ] {
            assert_eq!(without_encoded_words(text), said);
        }
    }

    #[test]
    fn a_parameter_is_read_in_every_form() {
        for (text, file_name) in [
            ("attachment; filename=a.sh", Some("a.sh")),
            ("attachment; FileName = \"a; \\\"b\\\".sh\" ; x", Some("a; \"b\".sh")),
            ("attachment; filename*=utf-8'en'%C3%A9.sh", Some("é.sh")),
            ("attachment; filename*=iso-8859-1''%E9.sh; filename=plain", Some("plain")),
            ("attachment; filename*1=b; filename*0=\"a\"; filename*3=d", Some("ab")),
            ("attachment; filename*0*=utf-8''%C3; filename*1*=%A9; filename*2=.sh", Some("é.sh")),
            ("attachment; filename*=%zz", Some("%zz")),
            ("attachment; name=a", None),
            ("", None),
        ] {
            assert_eq!(Value::parse(text).get("filename").as_deref(), file_name, "{text}");
        }
        assert_eq!(Value::parse(" Text/Plain ;x=y").word, "text/plain");
    }
}
