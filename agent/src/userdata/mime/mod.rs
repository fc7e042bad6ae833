//! MIME documents. The splitting is done here and not by a mail library, so that one bad part does not
//! take the others with it.

mod headers;
mod text;

use headers::{Headers, Value};

/// A part of a MIME document, decoded.
pub struct Part {
    /// In lower case, without parameters.
    pub mime_type: String,
    /// From Content-Disposition.
    pub file_name: Option<String>,
    /// From Merge-Type or X-Merge-Type.
    pub merge: Option<String>,
    /// From Launch-Index: it is for the machine of this number alone.
    pub launch_index: Option<String>,
    /// The bytes. Of a part that holds parts: with its headers.
    pub body: Vec<u8>,
}

/// What is wrong with a document as a whole.
pub struct Problem {
    /// One sentence.
    pub message: String,
    /// Nothing was lost.
    pub is_warning: bool,
}

/// How far into a document the headers may reach.
const HEAD: usize = 4096;

/// Whether this is a MIME document: it begins with a header, and has one of MIME.
pub fn is_mime(text: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&text[..text.len().min(HEAD)]).to_ascii_lowercase();
    let first = head.lines().next().unwrap_or_default();
    let is_header = |line: &str| {
        line.split_once(':')
            .is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    };
    let names = |line: &str| line.starts_with("mime-version:") || line.starts_with("content-type:");
    // Tools such as mail clients begin with an envelope line.
    (is_header(first) || first.starts_with("from ")) && head.lines().any(names)
}

/// Splits a document into its parts; a part that cannot be decoded is a sentence in its place.
pub fn split(text: &[u8]) -> (Vec<Result<Part, String>>, Option<Problem>) {
    let problem = |message: &str, is_warning| Some(Problem { message: message.to_owned(), is_warning });
    let (headers, body) = match headers(text) {
        Ok(split) => split,
        Err(why) => return (Vec::new(), problem(&why, false)),
    };
    let content_type = content_type(&headers);
    if !content_type.word.starts_with("multipart/") {
        return (vec![decode(&headers, &content_type, body, text)], None);
    }
    let Some(boundary) = content_type.get("boundary").filter(|b| !b.is_empty()) else {
        return (
            Vec::new(),
            problem("the multipart header names no boundary, so the parts cannot be told apart", false),
        );
    };
    let (pieces, closed) = pieces(body, boundary.as_bytes());
    let parts: Vec<_> = pieces.into_iter().map(one).collect();
    let problem = match (parts.is_empty(), closed) {
        (true, _) => problem("the MIME document has no parts", false),
        (_, false) => problem("the MIME document has no closing boundary; its end may be cut off", true),
        _ => None,
    };
    (parts, problem)
}

fn one(piece: &[u8]) -> Result<Part, String> {
    let (headers, body) = headers(piece)?;
    decode(&headers, &content_type(&headers), body, piece)
}

fn headers(document: &[u8]) -> Result<(Headers, &[u8]), String> {
    Headers::read(document).map_err(|why| format!("the headers cannot be read: {why}"))
}

fn content_type(headers: &Headers) -> Value {
    Value::parse(headers.get("Content-Type").unwrap_or("text/plain"))
}

fn decode(headers: &Headers, kind: &Value, body: &[u8], whole: &[u8]) -> Result<Part, String> {
    let mime_type = kind.word.clone();
    let file_name = headers.get("Content-Disposition").and_then(|text| Value::parse(text).get("filename"));
    let merge = ["Merge-Type", "X-Merge-Type"].into_iter().find_map(|name| headers.get(name)).map(str::to_owned);
    let launch_index = headers.get("Launch-Index").map(str::to_owned);
    if mime_type.starts_with("multipart/") {
        return Ok(Part { mime_type, file_name, merge, launch_index, body: whole.to_vec() });
    }
    let encoding = headers.get("Content-Transfer-Encoding").unwrap_or_default().to_ascii_lowercase();
    let refused = |why| format!("the part is not what its encoding says ({encoding}): {why}");
    let bytes = match encoding.as_str() {
        "base64" => text::base64(body).map_err(refused)?,
        "quoted-printable" => text::quoted_printable(body),
        "7bit" | "8bit" | "binary" | "" => body.to_vec(),
        _ => return Err(format!("the Content-Transfer-Encoding `{encoding}` is not one of MIME")),
    };
    let charset = kind.get("charset").unwrap_or_default().to_ascii_lowercase();
    // What is in UTF-8 stays as it is: what is none of it is told where the part is read.
    let is_foreign = encoding != "binary" && !["utf-8", "utf8", "us-ascii", "ascii", ""].contains(&charset.as_str());
    let body = if is_foreign { text::decode(&charset, bytes)?.into_bytes() } else { bytes };
    Ok(Part { mime_type, file_name, merge, launch_index, body })
}

/// The bytes between the boundaries, not many more than may be used, and whether the last one was closed.
fn pieces<'a>(body: &'a [u8], boundary: &[u8]) -> (Vec<&'a [u8]>, bool) {
    let mut pieces = Vec::new();
    let mut start = None;
    let mut position = 0;
    for line in body.split_inclusive(|b| *b == b'\n') {
        let begin = position;
        position += line.len();
        let Some(rest) = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary)) else { continue };
        let (rest, closing) = match rest.strip_prefix(b"--") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        // A longer word is the boundary of an inner document.
        if !rest.trim_ascii().is_empty() {
            continue;
        }
        if let Some(start) = start.replace(position) {
            pieces.push(without_line_end(&body[start..begin]));
        }
        if closing || pieces.len() > super::MAX_PARTS {
            return (pieces, true);
        }
    }
    pieces.extend(start.map(|start| &body[start..]));
    (pieces, false)
}

/// The line end before a boundary belongs to the boundary.
fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}
