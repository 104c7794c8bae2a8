//! Declared operating hours: "08-18", "mon-fri 08-18", "22-06"; UTC, end exclusive.
//!
//! Text that says something else declares nothing: the inventory's validation is not done here.

use schemas::time::TimestampMicros;

/// Whether `at` is outside of `declared`; `false` for an empty or unreadable declaration.
pub(super) fn is_outside(declared: &str, at: TimestampMicros) -> bool {
    let Some((days, hours)) = parse(declared) else { return false };
    let (_, _, _, hour) = at.utc_hour();
    let in_span = |[first, next]: [u8; 2], value: u8| {
        if first <= next {
            (first..next).contains(&value)
        } else {
            // Over midnight, or over the weekend: "22-06", "fri-mon".
            value >= first || value < next
        }
    };
    !(in_span(days, at.weekday()) && in_span(hours, hour))
}

/// Half-open spans of days (0 = Monday) and hours.
fn parse(text: &str) -> Option<([u8; 2], [u8; 2])> {
    let lower = text.trim().to_ascii_lowercase();
    let (days, hours) = lower.rsplit_once(' ').unwrap_or(("mon-sun", &lower));
    let (first_day, last_day) = days.trim().split_once('-').unwrap_or((days.trim(), days.trim()));
    let (first_hour, next_hour) = hours.split_once('-')?;
    let hour = |text: &str| text.trim_end_matches(":00").parse::<u8>().ok().filter(|hour| *hour <= 24);
    Some(([day(first_day)?, (day(last_day)? + 1)], [hour(first_hour)?, hour(next_hour)?]))
}

fn day(name: &str) -> Option<u8> {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    DAYS.iter().position(|day| *day == name).and_then(|index| u8::try_from(index).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_days_are_half_open_and_may_wrap() {
        // 1970-01-01 was a Thursday.
        let check = |declared, day: i64, hour: i64, outside| {
            let at = TimestampMicros::from_ms((day * 24 + hour) * 3_600_000);
            assert_eq!(is_outside(declared, at), outside, "{declared} on day {day} at {hour}");
        };
        check("08-18", 0, 8, false);
        check("08-18", 0, 17, false);
        check("08-18", 0, 18, true);
        check("mon-fri 08-18", 1, 12, false);
        check("mon-fri 08-18", 2, 12, true);
        check("sat 00-24", 2, 23, false);
        check("22-06", 0, 23, false);
        check("22-06", 0, 6, true);
        check("fri-mon 08:00-18:00", 3, 9, false);
        check("fri-mon 08-18", 5, 9, true);
        check("", 0, 3, false);
        check("always", 0, 3, false);
    }
}
