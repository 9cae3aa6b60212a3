//! Wall-clock time as text, for people; nothing is decided by it.

use serde::Serializer;
use std::time::{SystemTime, UNIX_EPOCH};

/// `at` in UTC as RFC 3339 writes it, with milliseconds: `2026-02-28T23:59:59.001Z`.
pub fn utc(at: SystemTime) -> String {
    // A clock before 1970 is a clock that was never set.
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// `at` in UTC as PgBouncer's console writes it: `2026-02-28 23:59:59 UTC`.
pub fn console(at: SystemTime) -> String {
    let text = utc(at);
    format!("{} {} UTC", &text[..10], &text[11..19])
}

/// Days since 1970-01-01 as a date of the Gregorian calendar: counted in eras of 400 years that
/// begin on the first of March, so that the leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    const ERA: u64 = 146_097;
    let days = days + DAYS_TO_1970;
    let (era, day_of_era) = (days / ERA, days % ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

pub(super) fn as_text<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&utc(*at))
}

pub(super) fn as_optional_text<S: Serializer>(
    at: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => as_text(at, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_in_utc() {
        #[track_caller]
        fn check(ms: u64, expected: &str) {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_millis(ms)), expected);
        }
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(951_868_799_999, "2000-02-29T23:59:59.999Z");
        check(951_868_800_000, "2000-03-01T00:00:00.000Z");
        check(1_767_225_599_007, "2025-12-31T23:59:59.007Z");
        check(4_107_542_400_000, "2100-03-01T00:00:00.000Z");
        assert_eq!(utc(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
    }
}
