//! Calendar dates in the common spellings, so that a date of birth is found and no other date is
//! taken for a telephone number.
//!
//! Whether a date is a date of birth is decided by its cue or path.

use super::{byte, run_end};
use crate::pii::work::{Text, Work};

/// A date as (year, month, day).
pub(crate) type Date = (u16, u8, u8);

const MONTHS: [&[u8; 3]; 12] =
    [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];

/// The date that starts with a digit at `at`: `1990-04-05`, `4/5/1990`, `05.04.1990`, `5 April 1990`.
pub(crate) fn numeric(text: &Text<'_>, at: usize) -> Option<(usize, Date)> {
    let (first_end, first) = digits(text, at)?;
    let join = byte(text, first_end);
    if join == b' ' || join == b't' || join == b's' || join == b'r' || join == b'n' {
        return day_first(text, at, first_end, first);
    }
    if !b"-/.".contains(&join) {
        return None;
    }
    let (second_end, second) = digits(text, first_end + 1)?;
    if byte(text, second_end) != join {
        return None;
    }
    let (end, third) = digits(text, second_end + 1)?;
    let lengths = (first_end - at, second_end - first_end - 1, end - second_end - 1);
    let date = match lengths {
        (4, 1..=2, 1..=2) => valid(first, second, third),
        // Both orders of day and month are in use; the first that is a date wins.
        (1..=2, 1..=2, 4) => valid(third, first, second).or_else(|| valid(third, second, first)),
        (1..=2, 1..=2, 2) if join != b'.' => {
            let year = if third > 30 { 1900 + third } else { 2000 + third };
            valid(year, first, second).or_else(|| valid(year, second, first))
        }
        _ => None,
    };
    date.map(|date| (end, date))
}

/// `5 April 1990`, `5th of April 1990`.
fn day_first(text: &Text<'_>, at: usize, digits_end: usize, day: u16) -> Option<(usize, Date)> {
    if digits_end - at > 2 {
        return None;
    }
    let mut next = run_end(text, digits_end, |b| b.is_ascii_lowercase());
    next = run_end(text, next, |b| b == b' ');
    // `5th of April`.
    if text[next..].starts_with(b"of ") {
        next += 3;
    }
    let (month_end, month) = month(text, next)?;
    let (end, year) = year_after(text, month_end)?;
    valid(year, month, day).map(|date| (end, date))
}

/// The date that starts with a month's name at `at`: `April 5, 1990`, `Apr 5th 1990`.
pub(crate) fn month_first(text: &Text<'_>, at: usize) -> Option<(usize, Date)> {
    // Most capitalised words end the search here, before anything is compared.
    if !b"JFMASOND".contains(&byte(text, at)) {
        return None;
    }
    let (month_end, month) = month(text, at)?;
    let (day_end, day) = digits(text, run_end(text, month_end, |b| b == b' '))?;
    let suffix_end = run_end(text, day_end, |b| b.is_ascii_lowercase());
    let (end, year) = year_after(text, suffix_end)?;
    valid(year, month, day).map(|date| (end, date))
}

/// A month's name or its abbreviation, with the end of it.
fn month(text: &Text<'_>, at: usize) -> Option<(usize, u16)> {
    let end = run_end(text, at, |b| b.is_ascii_alphabetic());
    let word = &text[at..end];
    if !(3..=9).contains(&word.len()) {
        return None;
    }
    let number = MONTHS.iter().position(|m| word[..3].eq_ignore_ascii_case(*m))?;
    // By length alone: `Marchs` and `Mayor` begin as months and are none.
    let full = [7, 8, 5, 5, 3, 4, 4, 6, 9, 7, 8, 8][number];
    let end = if byte(text, end) == b'.' && word.len() <= 4 { end + 1 } else { end };
    (word.len() <= 4 || word.len() == full).then_some((end, number as u16 + 1))
}

/// A year of four digits after `, ` or a space.
fn year_after(text: &Text<'_>, at: usize) -> Option<(usize, u16)> {
    let next = run_end(text, at, |b| b == b' ' || b == b',');
    let (end, year) = digits(text, next)?;
    (next > at && next - at <= 2 && end - next == 4).then_some((end, year))
}

/// A run of one to four digits that no digit follows, with its end.
fn digits(text: &Text<'_>, at: usize) -> Option<(usize, u16)> {
    let end = run_end(text, at.min(text.len()), |b| b.is_ascii_digit());
    let run = text.get(at..end)?;
    // Capped before it is cut to 16 bits: a long run of digits must not wrap to a year.
    let number = run.iter().fold(0_u32, |n, b| (n * 10 + u32::from(b - b'0')).min(99_999));
    (1..=4).contains(&run.len()).then_some((end, number as u16))
}

fn valid(year: u16, month: u16, day: u16) -> Option<Date> {
    // Gregorian, as birth dates of living persons are.
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 => 28 + u16::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    ((1850..=2100).contains(&year) && (1..=days).contains(&day)).then_some((year, month as u8, day as u8))
}

/// A whole text that is one date, as yyyymmdd.
pub(crate) fn canonical(value: &str) -> Option<String> {
    // One value, looked at once: there is nothing to bound.
    let work = Work::unbounded();
    let text = Text::new(value.trim().as_bytes(), &work);
    let found = match text.first()? {
        b if b.is_ascii_digit() => numeric(&text, 0),
        _ => month_first(&text, 0),
    };
    let (_, date) = found?;
    Some(compact(date))
}

/// A date as yyyymmdd.
pub(crate) fn compact((year, month, day): Date) -> String {
    format!("{year:04}{month:02}{day:02}")
}
