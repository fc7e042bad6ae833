//! The encodings of a MIME part: base64, quoted-printable, and the character sets that user-data comes in.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

/// Bits that the last digit has too many say nothing.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// Windows-1252 from 0x80 to 0x9f, where it is not ISO-8859-1. What claims to be the latter is read as the
/// former, as it is by every browser: nobody means control characters.
const WINDOWS: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', //
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Opens base64 that may be broken into lines.
///
/// # Errors
/// What in it is no base64.
pub fn base64(text: &[u8]) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    LENIENT.decode(digits).map_err(|error| error.to_string().trim_end_matches('.').to_owned())
}

/// Opens quoted-printable. An escape that is none stands for itself.
pub fn quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|b| *b == b'\n') {
        // White space at the end of a line was added on the way.
        let content = line.trim_ascii_end();
        match content.strip_suffix(b"=") {
            Some(continued) => decoded.extend(unescaped(continued, b'=')),
            None => {
                decoded.extend(unescaped(content, b'='));
                decoded.extend(match line {
                    [.., b'\r', b'\n'] => &b"\r\n"[..],
                    [.., b'\n'] => b"\n",
                    _ => b"",
                });
            }
        }
    }
    decoded
}

/// Puts bytes in the place of escapes of two hexadecimal digits, such as `=C3` or `%C3`.
pub fn unescaped(text: &[u8], escape: u8) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let byte = match after {
            [high, low, ..] if *first == escape => digit(high).zip(digit(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded
}

/// The text of a header: UTF-8, or from the time before it.
pub fn of_header(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| windows(bytes), str::to_owned)
}

/// Bytes of a character set as text.
///
/// # Errors
/// That the character set is not one that is read here.
pub fn decode(charset: &str, bytes: Vec<u8>) -> Result<String, String> {
    let wide = |unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks(2).map(|pair| pair.try_into().map_or(0xfffd, unit));
        let text: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_owned)
    };
    Ok(match charset.trim().to_ascii_lowercase().as_str() {
        "utf-8" | "utf8" | "us-ascii" | "ascii" | "" => String::from_utf8_lossy(&bytes).into_owned(),
        "iso-8859-1" | "iso8859-1" | "iso_8859-1" | "latin1" | "latin-1" | "l1" | "windows-1252" | "cp1252" => {
            windows(&bytes)
        }
        "iso-8859-15" | "iso8859-15" | "latin9" | "latin-9" => bytes.iter().copied().map(with_euro).collect(),
        "utf-16be" => wide(u16::from_be_bytes),
        "utf-16" if bytes.starts_with(&[0xfe, 0xff]) => wide(u16::from_be_bytes),
        "utf-16" | "utf-16le" => wide(u16::from_le_bytes),
        // Nearly every character set has those of ASCII in common.
        _ if bytes.is_ascii() => String::from_utf8_lossy(&bytes).into_owned(),
        other => {
            return Err(format!(
                "its character set `{other}` is none of UTF-8, UTF-16, ISO-8859-1, ISO-8859-15 and Windows-1252; \
                 write it in UTF-8"
            ));
        }
    })
}

fn windows(bytes: &[u8]) -> String {
    let read = |byte: &u8| match byte {
        0x80..=0x9f => WINDOWS[usize::from(byte - 0x80)],
        _ => char::from(*byte),
    };
    bytes.iter().map(read).collect()
}

/// ISO-8859-15: Latin with the euro.
fn with_euro(byte: u8) -> char {
    match byte {
        0xa4 => '€',
        0xa6 => 'Š',
        0xa8 => 'š',
        0xb4 => 'Ž',
        0xb8 => 'ž',
        0xbc => 'Œ',
        0xbd => 'œ',
        0xbe => 'Ÿ',
        _ => char::from(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_printable_is_opened_and_what_is_none_of_it_stays() {
        for (text, decoded) in [
            ("a=3Db=\r\nc \r\nd", "a=bc\r\nd"),
            ("=e2=82=AC\n", "€\n"),
            ("50=% =zz =4", "50=% =zz =4"),
            ("soft= \nend=", "softend"),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8(quoted_printable(text.as_bytes())).unwrap(), decoded, "{text:?}");
        }
    }

    #[test]
    fn base64_is_opened_or_refused() {
        assert_eq!(base64(b"YW\r\nI=\n"), Ok(b"ab".to_vec()));
        assert_eq!(base64(b"YWJ="), Ok(b"ab".to_vec()));
        for broken in ["!!!", "YQ", "YW!="] {
            assert!(base64(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn the_character_sets_of_user_data_are_read_and_others_told() {
        for (charset, bytes, text) in [
            ("UTF-8", &b"\xc3\xa9"[..], "é"),
            ("ISO-8859-1", b"\xe9\x80", "é€"),
            ("latin-9", b"\xa4\xe9", "€é"),
            ("windows-1252", b"\x93a\x94", "“a”"),
            ("utf-16", b"\xfe\xff\0a", "a"),
            ("utf-16", b"\xff\xfea\0\xe9\0", "aé"),
            ("utf-16be", b"\0a\xd8\0x", "a\u{fffd}\u{fffd}"),
            ("koi8-r", b"ascii", "ascii"),
        ] {
            assert_eq!(decode(charset, bytes.to_vec()).as_deref(), Ok(text), "{charset}");
        }
        let refused = decode("Shift_JIS", b"\x93\xfa".to_vec()).unwrap_err();
        assert!(refused.contains("`shift_jis`") && refused.ends_with("write it in UTF-8"), "{refused}");
    }
}
