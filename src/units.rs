//! Sizes and durations as people write them: `4KiB`, `1GiB`, `90s`, `1h`.

use std::time::Duration;

/// Why a size or duration was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: expected {expected}")]
pub struct UnitError {
    what: &'static str,
    text: String,
    expected: &'static str,
}

const SIZE_UNITS: [(&str, u64); 6] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)];

const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Parses a size in bytes: a whole number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB`, or none for
/// bytes. Upper and lower case are the same.
///
/// # Errors
/// [`UnitError`] for anything else, and for sizes of 2^64 bytes and more.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    parse(text, &SIZE_UNITS).ok_or_else(|| UnitError {
        what: "size",
        text: text.to_owned(),
        expected: "a whole number with B, KiB, MiB, GiB or TiB, for example 64KiB",
    })
}

/// Parses a duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// [`UnitError`] for anything else.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse(text, &TIME_UNITS).map(Duration::from_millis).ok_or_else(|| UnitError {
        what: "duration",
        text: text.to_owned(),
        expected: "a whole number with ms, s, m, h or d, for example 90s",
    })
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, scale) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// Writes a size exactly, in the largest unit that divides it, as it is typed: `8MiB`, `4097B`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let (number, unit) = exactly(bytes);
    format!("{number}{unit}")
}

/// Writes a size exactly, in the largest unit that divides it, for reading: `8 MiB`, `4097 B`.
#[must_use]
pub fn exact(bytes: u64) -> String {
    let (number, unit) = exactly(bytes);
    format!("{number} {unit}")
}

fn exactly(bytes: u64) -> (u64, &'static str) {
    let fits = |&&(_, scale): &&(&str, u64)| bytes >= scale && bytes.is_multiple_of(scale);
    match SIZE_UNITS.iter().find(fits) {
        Some((unit, scale)) => (bytes / scale, unit),
        None => (bytes, "B"),
    }
}

/// Writes a size for reading, in three to four digits: `1.00 GiB`, `17.3 MiB`, `512 B`.
#[must_use]
pub fn about(bytes: u64) -> String {
    let Some((unit, scale)) = SIZE_UNITS.iter().find(|&&(_, scale)| bytes >= scale) else {
        return "0 B".to_owned();
    };
    if *scale == 1 {
        return format!("{bytes} B");
    }
    let value = bytes as f64 / *scale as f64;
    match value {
        ..10.0 => format!("{value:.2} {unit}"),
        ..100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_with_every_unit_and_nothing_else() {
        assert_eq!(parse_size("4KiB"), Ok(4096));
        assert_eq!(parse_size("1 gib"), Ok(1 << 30));
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("7B"), Ok(7));
        for bad in ["", "KiB", "4KB", "4.5MiB", "-1", "99999999999TiB", "1GiBx"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(parse_duration("5").is_err());
    }

    #[test]
    fn exact_sizes_parse_back() {
        for bytes in [0, 1, 512, 4096, 4097, 1 << 20, 3 << 30, u64::MAX] {
            assert_eq!(parse_size(&size(bytes)), Ok(bytes));
            assert_eq!(parse_size(&exact(bytes)), Ok(bytes));
        }
        assert_eq!([size(8 << 20), exact(8 << 20), exact(4097)], ["8MiB", "8 MiB", "4097 B"]);
        assert_eq!(about(0), "0 B");
        assert_eq!(about(1 << 30), "1.00 GiB");
        assert_eq!(about(1536), "1.50 KiB");
    }
}
