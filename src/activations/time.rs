//! Points in time, as the wire writes them: RFC 3339 in UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const DAY_MS: u64 = 86_400_000;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// What the system's clock says; 1970 where it is set before that.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Seconds later.
    #[must_use]
    pub fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1000)))
    }
}

fn days_in_year(year: u64) -> u64 {
    if days_in_month(year, 2) == 29 { 366 } else { 365 }
}

/// Gregorian calendar; `month` from 1.
fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 400 years of the calendar repeat: what is left takes few steps, however large the number.
        const CYCLE: u64 = 146_097;
        let (mut day, ms) = (self.0 / DAY_MS, self.0 % DAY_MS);
        let mut year = 1970 + 400 * (day / CYCLE);
        day %= CYCLE;
        while day >= days_in_year(year) {
            day -= days_in_year(year);
            year += 1;
        }
        let mut month = 1;
        while day >= days_in_month(year, month) {
            day -= days_in_month(year, month);
            month += 1;
        }
        let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{:02}T{h:02}:{m:02}:{s:02}.{:03}Z", day + 1, ms % 1000)
    }
}

impl FromStr for Timestamp {
    type Err = ();

    /// Reads what [`Display`](fmt::Display) writes; no other form.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits: Vec<u64> = text
            .split(|c: char| !c.is_ascii_digit())
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().map_err(drop))
            .collect::<Result<_, ()>>()?;
        let [year, month, day, h, m, s, ms] = digits[..] else { return Err(()) };
        let sane = (1970..=9999).contains(&year) && (1..=12).contains(&month) && day >= 1;
        if !sane || day > days_in_month(year, month) {
            return Err(());
        }
        let before = (1970..year).map(days_in_year).sum::<u64>();
        let in_year = (1..month).map(|month| days_in_month(year, month)).sum::<u64>();
        let found = Self((before + in_year + day - 1) * DAY_MS + ((h * 60 + m) * 60 + s) * 1000 + ms);
        if found.to_string() == text { Ok(found) } else { Err(()) }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| de::Error::custom("not a time as 2026-01-31T12:00:00.000Z"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_by_the_calendar_and_read_back() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
        ] {
            assert_eq!(Timestamp(ms).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp(ms)));
        }
        for bad in ["", "2025-02-29T00:00:00.000Z", "2025-01-01T25:00:00.000Z", "2025-01-01 00:00:00.000Z"] {
            assert_eq!(bad.parse::<Timestamp>(), Err(()), "{bad}");
        }
    }
}
