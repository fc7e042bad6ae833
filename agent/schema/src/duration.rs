//! Spans of time as people write them: `90s`, `20m`, `1h30m`, `500ms`.

use std::time::Duration;

/// The units, largest first, in milliseconds.
const UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// The span that the text spells: whole numbers, each with its unit, larger units first.
///
/// # Errors
/// A sentence that says how to write it. A number without a unit is one of the errors: minutes to one
/// reader are seconds to another.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = |why: &str| Err(format!("{why}; write a duration as 90s, 20m, 1h30m or 500ms"));
    let mut rest = text.trim();
    if rest.is_empty() {
        return wrong("nothing is there");
    }
    let mut total: u64 = 0;
    let mut allowed = UNITS;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        if number.is_empty() {
            return wrong("a number is missing");
        }
        if unit.is_empty() && after.is_empty() {
            return wrong(&format!("`{number}` has no unit"));
        }
        let Some(position) = allowed.iter().position(|(name, _)| *name == unit) else {
            let known = UNITS.iter().any(|(name, _)| *name == unit);
            return wrong(if known { "a unit stands twice or after a smaller one" } else { "this is not a unit" });
        };
        let scale = allowed[position].1;
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
        match part.and_then(|part| total.checked_add(part)) {
            Some(sum) => total = sum,
            None => return wrong("the number is too large"),
        }
        allowed = &allowed[position + 1..];
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// A span as a person reads it: `840ms`, `1.83s`, `2m 5s`, `1h 30m`, `20m`; for reports, not for [`parse`].
pub fn show(span: Duration) -> String {
    let seconds = span.as_secs();
    let with = |large: u64, unit: &str, small: u64, below: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit} {small}{below}"),
    };
    match (seconds, span.subsec_millis() / 10) {
        (0, _) => format!("{}ms", span.as_millis()),
        (1..60, 0) => format!("{seconds}s"),
        (1..60, hundredths) => format!("{seconds}.{hundredths:02}s"),
        (60..3600, _) => with(seconds / 60, "m", seconds % 60, "s"),
        _ => with(seconds / 3600, "h", seconds % 3600 / 60, "m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, milliseconds) in [
            ("90s", 90_000),
            ("20m", 1_200_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1m500ms", 60_500),
            ("1d", 86_400_000),
            ("0s", 0),
            (" 5s ", 5000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_span_is_told_how_to_be_one() {
        for (text, why) in [
            ("", "nothing is there"),
            ("20", "`20` has no unit"),
            ("1h30", "`30` has no unit"),
            ("m", "a number is missing"),
            ("20 m", "this is not a unit"),
            ("-5s", "a number is missing"),
            ("1.5h", "this is not a unit"),
            ("20min", "this is not a unit"),
            ("5s5s", "a unit stands twice or after a smaller one"),
            ("5s1h", "a unit stands twice or after a smaller one"),
            ("99999999999999999999s", "the number is too large"),
            ("18446744073709551615d", "the number is too large"),
            ("9é", "this is not a unit"),
        ] {
            assert_eq!(parse(text), Err(format!("{why}; write a duration as 90s, 20m, 1h30m or 500ms")), "{text:?}");
        }
    }

    #[test]
    fn spans_are_shown_with_two_figures_that_matter() {
        for (milliseconds, text) in [
            (0, "0ms"),
            (1000, "1s"),
            (1_200_000, "20m"),
            (840, "840ms"),
            (1834, "1.83s"),
            (59_999, "59.99s"),
            (125_000, "2m 5s"),
            (5_400_000, "1h 30m"),
        ] {
            assert_eq!(show(Duration::from_millis(milliseconds)), text);
        }
    }
}
