//! What a part is: by its first line, or by its MIME type.

use super::When;

/// A kind of part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// YAML.
    CloudConfig,
    /// A list of parts in YAML.
    Archive,
    /// Changes of the configuration so far, as RFC 6902 has them.
    Patch,
    /// A text with variables, and what it is once they are filled in, its own first line says.
    Template,
    /// A program to run, and when.
    Script(When),
    /// Addresses of more documents; whether each is asked for once in the life of the instance.
    Include {
        /// What was fetched is kept.
        once: bool,
    },
    /// What cloud-init knows and this agent does not run: its name, and what to do instead.
    Unsupported(&'static str, &'static str),
}

const PART_HANDLER: Kind =
    Kind::Unsupported("a `#part-handler`, which is Python code for cloud-init,", "write an external handler");

/// First lines, in lower case; of two that fit the earlier one counts.
const FIRST_LINES: &[(&str, Kind)] = &[
    ("#cloud-config-archive", Kind::Archive),
    ("#cloud-config-jsonp", Kind::Patch),
    ("#cloud-config", Kind::CloudConfig),
    ("#cloud-boothook", Kind::Script(When::Hook)),
    ("#include-once", Kind::Include { once: true }),
    ("#include", Kind::Include { once: false }),
    ("#part-handler", PART_HANDLER),
    ("## template:", Kind::Template),
    ("#!", Kind::Script(When::Last)),
];

/// What a MIME type says of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// Nothing: the first line decides.
    Sniff,
    /// More parts.
    Container,
    /// A script, unless the first line says something else.
    Script,
    /// This kind, whatever the first line is.
    Kind(Kind),
    /// No type of user-data.
    Unknown,
}

const MIME_TYPES: &[(&str, Declared)] = &[
    ("text/cloud-config", Declared::Kind(Kind::CloudConfig)),
    ("text/x-shellscript", Declared::Script),
    ("text/plain", Declared::Sniff),
    ("text/x-not-multipart", Declared::Sniff),
    // Packed documents; what is in them decides.
    ("application/gzip", Declared::Sniff),
    ("application/x-gzip", Declared::Sniff),
    ("application/gzip-compressed", Declared::Sniff),
    ("application/gzipped", Declared::Sniff),
    ("application/x-gunzip", Declared::Sniff),
    ("application/x-gzip-compressed", Declared::Sniff),
    ("application/x-compress", Declared::Sniff),
    ("application/x-compressed", Declared::Sniff),
    ("gzip/document", Declared::Sniff),
    ("application/octet-stream", Declared::Sniff),
    ("message/rfc822", Declared::Sniff),
    ("text/cloud-config-archive", Declared::Kind(Kind::Archive)),
    ("text/cloud-config-jsonp", Declared::Kind(Kind::Patch)),
    ("text/cloud-boothook", Declared::Kind(Kind::Script(When::Hook))),
    ("text/x-include-url", Declared::Kind(Kind::Include { once: false })),
    ("text/x-include-once-url", Declared::Kind(Kind::Include { once: true })),
    ("text/part-handler", Declared::Kind(PART_HANDLER)),
    ("text/jinja2", Declared::Kind(Kind::Template)),
    ("text/x-shellscript-per-boot", Declared::Kind(Kind::Script(When::EveryBoot))),
    ("text/x-shellscript-per-instance", Declared::Kind(Kind::Script(When::OnceAnInstance))),
    ("text/x-shellscript-per-once", Declared::Kind(Kind::Script(When::OnceADisk))),
];

/// What a MIME type, in lower case, says.
pub fn of_mime_type(mime_type: &str) -> Declared {
    if mime_type.starts_with("multipart/") {
        return Declared::Container;
    }
    MIME_TYPES.iter().find(|(name, _)| *name == mime_type).map_or(Declared::Unknown, |(_, declared)| *declared)
}

/// What the first line says. Only its beginning counts, in any case: `#Cloud-Config # v2` is one.
pub fn of_first_line(text: &[u8]) -> Option<Kind> {
    let head = &text[..text.len().min(64)];
    let fits = |first: &str| head.get(..first.len()).is_some_and(|head| head.eq_ignore_ascii_case(first.as_bytes()));
    FIRST_LINES.iter().find(|(first, _)| fits(first)).map(|(_, kind)| *kind)
}

/// The text without a byte order mark and without blank lines before the first line.
pub fn without_lead(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.trim_ascii_start()
}

/// A boothook without its header: what follows may have a `#!` line of its own.
pub fn without_hook_header(body: &[u8]) -> &[u8] {
    if of_first_line(body) != Some(Kind::Script(When::Hook)) {
        return body;
    }
    let end = body.iter().position(|b| *b == b'\n').map_or(body.len(), |at| at + 1);
    body[end..].trim_ascii_start()
}

/// Lines that end as Unix ends them: the kernel takes the CR of `#!/bin/sh\r` into the interpreter's name.
/// A script whose first line ends so already stays as it is, as a CR within it is meant.
pub fn with_unix_lines(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    if !first.ends_with(b"\r") {
        return bytes.to_vec();
    }
    let before_lf = |index: usize| bytes.get(index + 1) == Some(&b'\n');
    bytes.iter().enumerate().filter(|(index, b)| **b != b'\r' || !before_lf(*index)).map(|(_, b)| *b).collect()
}

/// The bytes as text.
///
/// # Errors
/// The line, and what the bytes are instead.
pub fn text(bytes: &[u8]) -> Result<&str, (Option<usize>, String)> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err((None, "the text is UTF-16; save it as UTF-8".to_owned()));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        (Some(line), "the text is not UTF-8; save it as UTF-8".to_owned())
    })
}
