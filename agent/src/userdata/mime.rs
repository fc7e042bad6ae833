//! MIME documents. The splitting is done here and not by a mail library, so that one bad part does not
//! take the others with it.

use mailparse::body::Body;
use mailparse::{MailHeader, MailHeaderMap, ParsedContentType, parse_content_disposition, parse_content_type};

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
    if !content_type.mimetype.starts_with("multipart/") {
        return (vec![decode(&headers, &content_type, body, text)], None);
    }
    let Some(boundary) = content_type.params.get("boundary").filter(|b| !b.is_empty()) else {
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

fn headers(text: &[u8]) -> Result<(Vec<MailHeader<'_>>, &[u8]), String> {
    let (headers, end) =
        mailparse::parse_headers(text).map_err(|error| format!("the headers cannot be read: {error}"))?;
    Ok((headers, text.get(end..).unwrap_or_default()))
}

fn content_type(headers: &[MailHeader<'_>]) -> ParsedContentType {
    let mut parsed = parse_content_type(headers.get_first_value("Content-Type").as_deref().unwrap_or("text/plain"));
    parsed.mimetype = parsed.mimetype.trim().to_ascii_lowercase();
    parsed
}

fn decode(headers: &[MailHeader<'_>], kind: &ParsedContentType, body: &[u8], whole: &[u8]) -> Result<Part, String> {
    let mime_type = kind.mimetype.clone();
    let disposition = headers.get_first_value("Content-Disposition").map(|text| parse_content_disposition(&text));
    let file_name = disposition.and_then(|d| d.params.get("filename").cloned());
    let merge = ["Merge-Type", "X-Merge-Type"].into_iter().find_map(|name| headers.get_first_value(name));
    let launch_index = headers.get_first_value("Launch-Index");
    if mime_type.starts_with("multipart/") {
        return Ok(Part { mime_type, file_name, merge, launch_index, body: whole.to_vec() });
    }
    let encoding = headers.get_first_value("Content-Transfer-Encoding").map(|e| e.trim().to_ascii_lowercase());
    let known = ["7bit", "8bit", "binary", "base64", "quoted-printable", ""];
    if let Some(encoding) = encoding.as_deref().filter(|encoding| !known.contains(encoding)) {
        return Err(format!("the Content-Transfer-Encoding `{encoding}` is not one of MIME"));
    }
    let charset = kind.charset.to_ascii_lowercase();
    let converted = !["utf-8", "utf8", "us-ascii", "ascii", ""].contains(&charset.as_str());
    let decoded = match Body::new(body, kind, &encoding) {
        Body::Base64(body) | Body::QuotedPrintable(body) if converted => {
            body.get_decoded_as_string().map(String::into_bytes)
        }
        Body::Base64(body) | Body::QuotedPrintable(body) => body.get_decoded(),
        Body::SevenBit(body) | Body::EightBit(body) if converted => body.get_as_string().map(String::into_bytes),
        Body::SevenBit(body) | Body::EightBit(body) => Ok(body.get_raw().to_vec()),
        Body::Binary(body) => Ok(body.get_raw().to_vec()),
    };
    let encoding = encoding.unwrap_or_default();
    let body = decoded.map_err(|error| format!("the part is not what its encoding says ({encoding}): {error}"))?;
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
