//! Containers of one document: gzip and base64.

use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;

/// Whether the bytes begin as gzip does.
pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Unpacks gzip into at most `limit` bytes.
///
/// # Errors
/// A sentence: broken, cut off, or too large.
pub fn gunzip(bytes: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    let mut decoder = MultiGzDecoder::new(bytes).take(limit as u64 + 1);
    if let Err(error) = decoder.read_to_end(&mut unpacked) {
        let how = if error.kind() == std::io::ErrorKind::UnexpectedEof { "cut off" } else { "broken" };
        return Err(format!("the gzip data is {how}; pack the document again"));
    }
    if unpacked.len() > limit {
        let room = match limit / 1024 / 1024 {
            0 => format!("{} KiB", limit / 1024),
            mebibytes => format!("{mebibytes} MiB"),
        };
        return Err(format!(
            "the gzip data unpacks to more than the {room} that are left for it; nothing of it is read"
        ));
    }
    Ok(unpacked)
}

/// What a document of nothing but base64 holds. Lines may be broken; anything else in it is not base64.
pub fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let compact: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let bytes = STANDARD.decode(compact).ok()?;
    // A word such as `test` decodes too. What it decodes to must be something.
    let lead = super::kinds::without_lead(&bytes);
    let known = super::kinds::of_first_line(lead).is_some() || is_gzip(&bytes) || super::mime::is_mime(lead);
    known.then_some(bytes)
}
