//! Times and sizes as operators write them in configuration and settings, read and written: `1h30m`, `64MiB`.

use std::time::Duration;

const TIMES: [(&str, u64); 5] = [("d", 24 * 3600 * 1000), ("h", 3600 * 1000), ("m", 60 * 1000), ("s", 1000), ("ms", 1)];

/// `3d`, `12h`, `30m`, `10s`, `500ms`, and sums of them: `1h30m`.
pub fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time like `3d`, `12h`, `30m`, `10s` or `500ms`");
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, after) = leading_number(rest).ok_or_else(wrong)?;
        let unit = after.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default();
        let name = if unit.trim() == "min" { "m" } else { unit.trim() };
        let (_, unit_ms) = TIMES.iter().find(|(known, _)| *known == name).ok_or_else(wrong)?;
        let millis = number.checked_mul(*unit_ms).ok_or_else(wrong)?;
        total = total.checked_add(Duration::from_millis(millis)).ok_or_else(wrong)?;
        rest = &after[unit.len()..];
    }
    Ok(total)
}

/// A time in milliseconds as `time` reads it, without loss.
pub fn show_time(ms: u64) -> String {
    let mut text = String::new();
    let mut rest = ms;
    for (name, unit_ms) in TIMES {
        if rest >= unit_ms {
            text += &format!("{}{name}", rest / unit_ms);
            rest %= unit_ms;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `10GiB`, `500MB`, `4096`; `None` for `unlimited`.
pub fn size(text: &str) -> Result<Option<u64>, String> {
    let wrong = || format!("`{text}` is not a size like `10GiB`, `500MB`, `4096` or `unlimited`");
    if text == "unlimited" {
        return Ok(None);
    }
    let (number, unit) = leading_number(text.trim()).ok_or_else(wrong)?;
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "TB" => 1000 * 1000 * 1000 * 1000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).map(Some).ok_or_else(wrong)
}

/// A size as `size` reads it, without loss.
pub fn show_size(bytes: u64) -> String {
    let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(time(text).ok(), expected.map(Duration::from_millis), "`{text}`");
        check("3d", Some(3 * 24 * 3600 * 1000));
        check("1h30m", Some(5_400_000));
        check("500ms", Some(500));
        check("5min", Some(300_000));
        check("10", None);
        check("", None);
        check("ten s", None);
        check("99999999999999999999d", None);
        check("18446744073709551615d", None);
        check("10ü", None);
    }

    #[test]
    fn sizes_have_units_or_are_bytes() {
        let check = |text: &str, expected: Option<Option<u64>>| assert_eq!(size(text).ok(), expected, "`{text}`");
        check("unlimited", Some(None));
        check("4096", Some(Some(4096)));
        check("10 GiB", Some(Some(10 << 30)));
        check("5MB", Some(Some(5_000_000)));
        check("5 parsecs", None);
        check("99999999TiB", None);
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for ms in [0, 1, 999, 1_000, 61_001, 86_400_000, 3_456_000_000, u64::from(u32::MAX)] {
            assert_eq!(time(&show_time(ms)), Ok(Duration::from_millis(ms)), "{}", show_time(ms));
        }
        for bytes in [0, 1, 1_024, 1_536, 5_000_000, 64 << 20, 3 << 40] {
            assert_eq!(size(&show_size(bytes)), Ok(Some(bytes)), "{}", show_size(bytes));
        }
        assert_eq!((show_time(5_400_000), show_size(64 << 20)), ("1h30m".to_owned(), "64MiB".to_owned()));
    }
}
