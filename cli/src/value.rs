//! Values as people write them: `30s`, `1h30m`, `4MiB`, `5k/s`, `key=value`; and the same written back for tables.

use crate::clock;
use prost_types::Timestamp;
use std::time::Duration;

const CENTURY: Duration = Duration::from_secs(36_525 * 86_400);

/// Reads `500ms`, `30s`, `1h30m`, `7d`. A number without a unit is refused, because nobody agrees on which it is.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time; write a number and a unit, such as 500ms, 30s, 5m, 1h30m or 7d");
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match rest[..unit].trim() {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        // A hundred years are more than anybody means, and far from every overflow on the way to the wire.
        let part = Duration::try_from_secs_f64(number * seconds).ok().filter(|part| *part <= CENTURY).ok_or_else(wrong)?;
        total += part;
        rest = &rest[unit..];
    }
    Ok(total)
}

/// Reads `100`, `4KiB`, `1MiB`, `2GB`: powers of 1024 with an `i`, of 1000 without, bytes when there is no unit.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size; write a number of bytes or a unit, such as 512, 4KiB, 1MiB or 2GB");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let factor: f64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" | "ki" => 1024.0,
        "kb" => 1e3,
        "m" | "mib" | "mi" => 1024.0 * 1024.0,
        "mb" => 1e6,
        "g" | "gib" | "gi" => 1024.0 * 1024.0 * 1024.0,
        "gb" => 1e9,
        "t" | "tib" | "ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "tb" => 1e12,
        _ => return Err(wrong()),
    };
    let bytes = number * factor;
    if bytes > 9e18 { Err(wrong()) } else { Ok(bytes as u64) }
}

/// Messages in a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub per_second: f64,
}

/// Reads `5000`, `5k/s`, `300/m`, `10/h`: a second when no time is given.
pub fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("`{text}` is not a rate; write messages a second, such as 500/s or 20k/s, or 300/m");
    let (number, seconds) = match text.trim().split_once('/') {
        None => (text.trim(), 1.0),
        Some((number, "s" | "sec")) => (number, 1.0),
        Some((number, "m" | "min")) => (number, 60.0),
        Some((number, "h")) => (number, 3_600.0),
        Some(_) => return Err(wrong()),
    };
    let (digits, factor) = match number.trim().strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1e3),
        None => (number.trim().trim_end_matches(['m', 'M']), if number.trim().ends_with(['m', 'M']) { 1e6 } else { 1.0 }),
    };
    let per_second = digits.parse::<f64>().map_err(|_| wrong())? * factor / seconds;
    if per_second.is_finite() && per_second > 0.0 { Ok(Rate { per_second }) } else { Err(wrong()) }
}

/// A point in time as people say it: when, or how long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    At(Timestamp),
    Ago(Duration),
}

impl Moment {
    /// What the wall clock showed then.
    pub fn on_the_wall(&self) -> Timestamp {
        match *self {
            Moment::At(time) => time,
            Moment::Ago(age) => {
                let now = clock::wall();
                Timestamp { seconds: now.seconds.saturating_sub_unsigned(age.as_secs()), nanos: now.nanos }
            }
        }
    }
}

/// Reads `2h` as two hours ago, and `2026-08-01`, `2026-08-01T12:00:00Z` and `2026-08-01T12:00:00.250Z` in UTC.
pub fn moment(text: &str) -> Result<Moment, String> {
    let wrong = || format!("`{text}` is no time; write an age such as 2h, or a time such as 2026-08-01T12:00:00Z");
    duration(text).map(Moment::Ago).ok().or_else(|| utc(text).map(Moment::At)).ok_or_else(wrong)
}

fn utc(text: &str) -> Option<Timestamp> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = time.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let fraction: f64 = format!("0.{fraction}").parse().ok()?;
    let sound = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !sound || !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..60).contains(&second) {
        return None;
    }
    // The reverse of what `show_time` does, with the same shifted calendar.
    let (year, month_from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let year_of_era = year.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = year.div_euclid(400) * 146_097 + day_of_era - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    let time = Timestamp { seconds, nanos: (fraction * 1e9) as i32 };
    // A day that its month doesn't have comes out as another one.
    show_time(seconds, 0).starts_with(date).then_some(time)
}

/// A place in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub queue: u32,
    pub offset: u64,
}

/// Reads `3:17`.
pub fn place(text: &str) -> Result<Place, String> {
    let place = text.split_once(':').and_then(|(queue, offset)| Some(Place { queue: queue.parse().ok()?, offset: offset.parse().ok()? }));
    place.ok_or_else(|| format!("`{text}` is no place; write the queue and the offset, such as 3:17"))
}

/// Reads `key=value`; the value may hold further `=`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not a pair; write it as key=value")),
    }
}

/// `1h30m`, `2.5s`, `12ms`, `250µs`: at most two units.
pub fn show_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let pair = |big: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    match seconds {
        0 if time.as_micros() == 0 => "0s".to_owned(),
        0 if time.as_micros() < 1_000 => format!("{}µs", time.as_micros()),
        0 => format!("{}ms", trim(time.as_secs_f64() * 1e3)),
        1..60 => format!("{}s", trim(time.as_secs_f64())),
        60..3_600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// `512 B`, `1.5 KiB`, `4 MiB`.
pub fn show_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{} {unit}", trim(value));
        }
        value /= 1024.0;
    }
    format!("{} TiB", trim(value))
}

/// One digit after the point for small values, none for large or whole ones.
pub fn trim(value: f64) -> String {
    if value >= 100.0 || (value * 10.0).round() % 10.0 == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// A time of the wall clock as RFC 3339 in UTC, with milliseconds.
pub fn show_time(seconds: i64, nanos: i32) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01 in the proleptic Gregorian calendar: a year that begins in March has its leap day at the end.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", nanos / 1_000_000)
}

/// The same for a wire timestamp.
pub fn show_timestamp(time: &prost_types::Timestamp) -> String {
    show_time(time.seconds, time.nanos)
}

/// Readings and writings side by side.
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_have_units() {
        let check = |text: &str, ms: u64| assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        check("500ms", 500);
        check("30s", 30_000);
        check("1.5s", 1_500);
        check("1h30m", 5_400_000);
        check("7d", 604_800_000);
        check(" 2m 5s ", 125_000);
        for wrong in ["", "5", "s", "5x", "5s5", "-5s", "1e300d", "99999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_may_have_units() {
        let check = |text: &str, bytes: u64| assert_eq!(size(text), Ok(bytes), "{text}");
        check("512", 512);
        check("4KiB", 4096);
        check("4k", 4096);
        check("1.5 MiB", 1_572_864);
        check("2GB", 2_000_000_000);
        for wrong in ["", "KiB", "4xB", "-1", "1e9"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_are_per_second_unless_said_otherwise() {
        let check = |text: &str, per_second: f64| assert_eq!(rate(text), Ok(Rate { per_second }), "{text}");
        check("5000", 5_000.0);
        check("5k/s", 5_000.0);
        check("0.5/s", 0.5);
        check("300/m", 5.0);
        check("1M", 1_000_000.0);
        for wrong in ["", "0", "-5/s", "5/d", "x/s", "inf"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pairs_split_at_the_first_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("=b").is_err() && pair("ab").is_err());
    }

    #[test]
    fn values_are_written_as_they_are_read() {
        for text in ["0s", "250µs", "12ms", "2.5s", "30s", "1m30s", "1h30m", "3h", "7d", "1d12h"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (4 << 20, "4 MiB"), (3 << 40, "3 TiB")] {
            assert_eq!(show_size(bytes), text);
        }
    }

    #[test]
    fn moments_are_times_or_ages() {
        let check = |text: &str, seconds: i64, nanos: i32| assert_eq!(moment(text), Ok(Moment::At(Timestamp { seconds, nanos })), "{text}");
        check("1970-01-01", 0, 0);
        check("2000-02-29T00:00:00Z", 951_782_400, 0);
        check("2026-07-31T23:59:59.25Z", 1_785_542_399, 250_000_000);
        check("2100-03-01T00:00:00Z", 4_107_542_400, 0);
        assert_eq!(moment("90m"), Ok(Moment::Ago(Duration::from_secs(5_400))));
        for wrong in ["", "now", "2026-02-29", "2026-13-01", "2026-01-01T24:00:00Z", "2026-01-01T12:00:00", "1969-12-31", "12:00"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn places_are_queue_and_offset() {
        assert_eq!(place("3:17"), Ok(Place { queue: 3, offset: 17 }));
        for wrong in ["", "3", "3:", ":17", "-1:2", "3:17:1", "4294967296:1"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(show_time(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(show_time(951_782_400, 999_999_999), "2000-02-29T00:00:00.999Z");
        assert_eq!(show_time(1_785_542_399, 5_000_000), "2026-07-31T23:59:59.005Z");
        assert_eq!(show_time(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
        assert_eq!(show_time(-1, 0), "1969-12-31T23:59:59.000Z");
    }
}
