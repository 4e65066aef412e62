//! Durations and sizes as they are written in the config: whole numbers, each with its unit. Pure.

use std::fmt;
use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// Reads `10s`, `250ms` or `1h30m`: larger units first, each at most once.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut units = DURATION_UNITS.iter();
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let letters = after.find(|c: char| !c.is_ascii_alphabetic());
        let (unit, after) = after.split_at(letters.unwrap_or(after.len()));
        let (_, millis) = units.by_ref().find(|(known, _)| *known == unit)?;
        total = total.checked_add(Duration::from_millis(number.checked_mul(*millis)?))?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// Reads `8MiB` or `512kB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = leading_number(text)?;
    let (_, bytes) = SIZE_UNITS.iter().find(|(known, _)| *known == unit)?;
    number.checked_mul(*bytes)
}

/// Shows a duration as the config would write it.
pub struct ShownDuration(pub Duration);

/// Shows a size as the config would write it.
pub struct ShownSize(pub u64);

impl fmt::Display for ShownDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in DURATION_UNITS {
            let count = millis / u128::from(size);
            millis %= u128::from(size);
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for ShownSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = [
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ];
        let whole = binary
            .into_iter()
            .find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        match whole {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}B", self.0),
        }
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_is_whole_numbers_with_units_the_larger_first() {
        let cases = [
            ("10s", Some(10_000)),
            ("250ms", Some(250)),
            ("1h30m", Some(5_400_000)),
            ("2m5s10ms", Some(125_010)),
            ("0s", Some(0)),
            ("90m", Some(5_400_000)),
            ("", None),
            ("10", None),
            ("s", None),
            ("1.5h", None),
            ("-1s", None),
            ("1m1h", None),
            ("1s1s", None),
            ("10 s", None),
            ("1:30", None),
            ("1d", None),
            ("99999999999999999999h", None),
            ("18446744073709551615h", None),
        ];
        for (text, millis) in cases {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_size_is_a_whole_number_with_its_unit() {
        let cases = [
            ("0B", Some(0)),
            ("8MiB", Some(8 << 20)),
            ("64KiB", Some(64 << 10)),
            ("4GiB", Some(4 << 30)),
            ("512kB", Some(512_000)),
            ("8", None),
            ("8mb", None),
            ("MiB", None),
            ("1.5GiB", None),
            ("99999999999TiB", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in any::<u32>(), bytes in any::<u64>()) {
            let duration = Duration::from_millis(millis.into());
            prop_assert_eq!(parse_duration(&ShownDuration(duration).to_string()), Some(duration));
            prop_assert_eq!(parse_size(&ShownSize(bytes).to_string()), Some(bytes));
        }
    }
}
