//! What a spelling means: the whole tolerance for YAML 1.1 is in this file.
//!
//! Rules, each of which the table of PyYAML readings in the tests holds to:
//! - a boolean is `yes`, `no`, `on`, `off`, `true`, `false` in lower, Title or UPPER case, also quoted;
//! - a number is decimal, `0x`, `0b`, `0o` or a leading zero for octal, with `_` between digits;
//!   `12:30` is never a number, because the base-60 reading has set wrong passwords and user ids;
//! - text is the spelling: `1.10`, `0644`, `no` and `2012-09-01` stay what was written;
//! - a file mode is read from the spelling as octal, with or without quotes and leading zeros.

use base64::Engine as _;
use serde_json::Value as Json;

use super::node::Scalar;

/// The standard tags that a document may write.
pub(super) const TAGS: &[&str] =
    &["str", "int", "float", "bool", "null", "binary", "timestamp", "seq", "map", "set", "omap", "pairs"];

/// `~`, `null` or nothing.
pub fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// The boolean that the word spells.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// The whole number that the text spells.
pub fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x', ..] => (16, &digits[2..]),
        [b'0', b'b', ..] => (2, &digits[2..]),
        [b'0', b'o', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    let begins_well = |c: char| c.is_digit(radix) || (radix == 8 && c == '_');
    if !digits.starts_with(begins_well) {
        return None;
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    let value = i128::from_str_radix(&digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

/// The number with a fraction that the text spells. As in YAML 1.1 an exponent needs a dot and a sign.
pub fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    match unsigned {
        ".inf" | ".Inf" | ".INF" => return Some(sign * f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |c: char| c.is_ascii_digit() || c == '_';
    let well_formed = mantissa.matches('.').count() == 1
        && mantissa.chars().all(|c| digits(c) || c == '.')
        && mantissa.contains(|c: char| c.is_ascii_digit())
        && !mantissa.starts_with('_')
        && exponent
            .is_none_or(|e| e.starts_with(['-', '+']) && e.len() > 1 && e[1..].chars().all(|c| c.is_ascii_digit()));
    well_formed.then(|| text.replace('_', "").parse().ok()).flatten()
}

/// A file mode, from the spelling, as octal: `0644`, `644`, `0o644`. At most `7777`.
pub fn mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777)
}

/// The text of a scalar; `!!binary` is decoded where it is text.
pub fn text(scalar: &Scalar) -> String {
    match scalar.tag.as_deref() {
        Some("binary") => decode_binary(&scalar.text)
            .map_or_else(|| scalar.text.clone(), |bytes| String::from_utf8_lossy(&bytes).into_owned()),
        _ => scalar.text.clone(),
    }
}

/// The bytes of base64, as readers in Python take it: characters of another alphabet are left out, and
/// what follows the padding is no more read. None where nothing of it is base64, or it is cut off.
pub fn decode_binary(text: &str) -> Option<Vec<u8>> {
    use base64::alphabet::STANDARD;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::RequireNone),
    );
    let mut digits: Vec<u8> = Vec::with_capacity(text.len());
    let mut padding = 0;
    for byte in text.bytes() {
        match byte {
            b'=' => {
                padding += 1;
                if digits.len() % 4 >= 2 && digits.len() % 4 + padding >= 4 {
                    return LENIENT.decode(&digits).ok();
                }
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => {
                digits.push(byte);
                padding = 0;
            }
            _ => {}
        }
    }
    let whole = digits.len().is_multiple_of(4) && (!digits.is_empty() || text.trim().is_empty());
    whole.then(|| LENIENT.decode(&digits).ok()).flatten()
}

/// Whether a standard tag fits what it stands before.
pub(super) fn check_tag(scalar: &Scalar) -> Result<(), String> {
    let fits = match scalar.tag.as_deref() {
        Some("int") => integer(&scalar.text).is_some(),
        Some("float") => scalar.text.parse::<f64>().is_ok() || float(&scalar.text).is_some(),
        Some("bool") => boolean(&scalar.text).is_some(),
        Some("null") => is_null(&scalar.text),
        Some("binary") => decode_binary(&scalar.text).is_some(),
        // `=` plain means "the default value" to YAML 1.1, which no document wants.
        None if scalar.plain && scalar.text == "=" => return Err("a bare `=`; quote it".to_owned()),
        _ => true,
    };
    if fits {
        Ok(())
    } else {
        Err(format!("this is not what its tag `!!{}` says", scalar.tag.as_deref().unwrap_or("")))
    }
}

/// What an untyped reader makes of a scalar, for values whose type is the user's own.
pub fn untyped(scalar: &Scalar) -> Json {
    let text = text(scalar);
    let number = |value: f64| serde_json::Number::from_f64(value).map_or(Json::Null, Json::Number);
    let whole =
        |value: i128| i64::try_from(value).map(Json::from).or_else(|_| u64::try_from(value).map(Json::from)).ok();
    match scalar.tag.as_deref() {
        Some("int") => return integer(&text).and_then(whole).unwrap_or(Json::String(text)),
        Some("float") => {
            return text.parse().ok().or_else(|| float(&text)).map_or(Json::Null, number);
        }
        Some("bool") => return boolean(&text).map_or(Json::String(text), Json::Bool),
        Some("null") => return Json::Null,
        Some(_) => return Json::String(text),
        None if !scalar.plain => return Json::String(text),
        None => {}
    }
    if is_null(&text) {
        return Json::Null;
    }
    if let Some(truth) = boolean(&text) {
        return Json::Bool(truth);
    }
    // `0o644` is text to a YAML 1.1 reader, though a typed field takes it.
    if !text.starts_with("0o")
        && let Some(value) = integer(&text).and_then(whole)
    {
        return value;
    }
    match float(&text) {
        Some(value) if value.is_finite() => number(value),
        _ => Json::String(text),
    }
}
