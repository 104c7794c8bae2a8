//! Time as a number. There is no `now()` here: time is an input (invariant I1).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Microseconds since 1970-01-01 00:00 UTC. Text formats may also give it as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct TimestampMicros(pub i64);

impl TimestampMicros {
    /// From milliseconds since the epoch, saturating.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// Milliseconds since the epoch, rounded down.
    pub const fn ms(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Start of the window of `width_ms` that holds this time; `div_euclid` keeps times before 1970 right.
    pub const fn floor_to_ms(self, width_ms: i64) -> Self {
        let width = width_ms * 1_000;
        Self(self.0.div_euclid(width) * width)
    }

    /// This time moved by `ms`, saturating.
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000)))
    }

    /// UTC calendar date and hour: (year, month, day, hour). Civil-from-days after Howard Hinnant,
    /// "chrono-Compatible Low-Level Date Algorithms".
    pub const fn utc_hour(self) -> (i64, u8, u8, u8) {
        // Euclidean division throughout: times before 1970 round down like all others.
        let hours = self.0.div_euclid(3_600_000_000);
        // Days since 0000-03-01: years that begin in March have the leap day at their end.
        let z = hours.div_euclid(24) + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + (month <= 2) as i64;
        (year, month as u8, (doy - (153 * mp + 2) / 5 + 1) as u8, hours.rem_euclid(24) as u8)
    }

    /// Day of the week, 0 = Monday.
    pub const fn weekday(self) -> u8 {
        // 1970-01-01 was a Thursday.
        (self.0.div_euclid(86_400_000_000) + 3).rem_euclid(7) as u8
    }

    /// Reads a date and time of RFC 3339, e.g. `2026-01-31T09:30:00.25+01:00`; digits beyond
    /// microseconds are dropped, a leap second is the first of the next minute. `None` for any other
    /// text, a time without a zone among them. Days-from-civil after Howard Hinnant, as
    /// [`TimestampMicros::utc_hour`].
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let (year, rest) = digits(text.as_bytes(), 4)?;
        let (month, rest) = digits(after(rest, b"-")?, 2)?;
        let (day, rest) = digits(after(rest, b"-")?, 2)?;
        let (hour, rest) = digits(after(rest, b"Tt ")?, 2)?;
        let (minute, rest) = digits(after(rest, b":")?, 2)?;
        let (second, rest) = digits(after(rest, b":")?, 2)?;
        let (micros, rest) = fraction(rest)?;
        let in_range = (1..=12).contains(&month) && day >= 1 && day <= days_of(year, month);
        // 60 is a leap second.
        if !in_range || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let year = year - i64::from(month <= 2);
        let (era, yoe) = (year.div_euclid(400), year.rem_euclid(400));
        let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
        let minutes = (days * 24 + hour) * 60 + minute - zone_minutes(rest)?;
        Some(Self((minutes * 60 + second) * 1_000_000 + micros))
    }
}

const fn days_of(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// A number of exactly `count` decimal digits, and what follows it.
fn digits(text: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (number, rest) = text.split_at_checked(count)?;
    // `parse` would also take a sign.
    let all = number.iter().all(u8::is_ascii_digit);
    all.then(|| (number.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')), rest))
}

/// What follows one of these characters.
fn after<'a>(text: &'a [u8], one_of: &[u8]) -> Option<&'a [u8]> {
    text.split_first().filter(|(first, _)| one_of.contains(first)).map(|(_, rest)| rest)
}

/// Microseconds of an optional decimal fraction of a second, and what follows it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(rest) = after(text, b".") else { return Some((0, text)) };
    let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, rest) = rest.split_at(count);
    let micros = (0..6).fold(0, |value, place| value * 10 + number.get(place).map_or(0, |d| i64::from(d - b'0')));
    // A point without digits is no fraction.
    (count > 0).then_some((micros, rest))
}

/// Minutes east of UTC.
fn zone_minutes(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text {
        b"Z" | b"z" => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, rest) = digits(rest, 2)?;
    let (minutes, rest) = digits(after(rest, b":")?, 2)?;
    (rest.is_empty() && hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

impl<'de> Deserialize<'de> for TimestampMicros {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = TimestampMicros;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time: RFC 3339 with a zone, or whole microseconds since 1970")
            }
            fn visit_i64<E: de::Error>(self, micros: i64) -> Result<TimestampMicros, E> {
                Ok(TimestampMicros(micros))
            }
            fn visit_u64<E: de::Error>(self, micros: u64) -> Result<TimestampMicros, E> {
                let out_of_range = |_| E::invalid_value(de::Unexpected::Unsigned(micros), &self);
                i64::try_from(micros).map(TimestampMicros).map_err(out_of_range)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TimestampMicros, E> {
                let other = || E::invalid_value(de::Unexpected::Other("text"), &self);
                TimestampMicros::from_rfc3339(text).ok_or_else(other)
            }
        }
        // Only text formats can say themselves what comes next; in Avro the type is that of the schema.
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Visitor)
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3339_is_read_to_the_microsecond() {
        let check =
            |text: &str, micros: i64| assert_eq!(TimestampMicros::from_rfc3339(text), Some(TimestampMicros(micros)));
        check("1970-01-01T00:00:00Z", 0);
        check("1985-04-12T23:20:50.52Z", 482_196_050_520_000);
        check("1996-12-19T16:39:57-08:00", 851_042_397_000_000);
        check("1990-12-31T23:59:60Z", 662_688_000_000_000);
        check("1937-01-01T12:00:27.87+00:20", -1_041_337_172_130_000);
        check("2000-02-29t00:00:00z", 951_782_400_000_000);
        check("2026-01-01 00:00:00.123456789+00:00", 1_767_225_600_123_456);
        check("0000-01-01T00:00:00Z", -62_167_219_200_000_000);
        check("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999);
    }

    #[test]
    fn other_text_is_no_time() {
        let texts = [
            "",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00Z",
            "26-01-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:61Z",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00Z ",
            "+026-01-01T00:00:00Z",
            "2026-01-01T00:00:00é",
            "2026-01-01T00:00:00-",
        ];
        texts.iter().for_each(|text| assert_eq!(TimestampMicros::from_rfc3339(text), None, "{text}"));
    }

    proptest::proptest! {
        #[test]
        fn every_hour_is_read_as_it_is_written(hour in -17_000_000i64..70_000_000, offset in -1_439i64..1_440) {
            let time = TimestampMicros(hour * 3_600_000_000);
            let (year, month, day, hour) = TimestampMicros(time.0).utc_hour();
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:00:00Z");
            proptest::prop_assert_eq!(TimestampMicros::from_rfc3339(&text), Some(time));
            let sign = if offset < 0 { '-' } else { '+' };
            let zone = format!("{sign}{:02}:{:02}", offset.abs() / 60, offset.abs() % 60);
            let there = TimestampMicros(time.0 - offset * 60_000_000);
            proptest::prop_assert_eq!(TimestampMicros::from_rfc3339(&text.replace('Z', &zone)), Some(there));
        }

        #[test]
        fn any_text_is_a_time_or_none(text in "[0-9TtZz:.+\\- é]{0,40}") {
            let _ = TimestampMicros::from_rfc3339(&text);
        }
    }

    #[test]
    fn json_gives_a_time_as_number_or_text() {
        let read = |json: &str| serde_json::from_str::<TimestampMicros>(json).ok();
        assert_eq!(read("-5"), Some(TimestampMicros(-5)));
        assert_eq!(read("5"), Some(TimestampMicros(5)));
        assert_eq!(read("\"1970-01-01T00:00:01Z\""), Some(TimestampMicros(1_000_000)));
        assert_eq!(read("9223372036854775808"), None);
        assert_eq!(read("1.5"), None);
        assert_eq!(read("null"), None);
    }
}
