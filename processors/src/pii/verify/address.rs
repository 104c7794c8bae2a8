//! Street addresses in free text: a number, capitalised words and a word for a kind of street, with
//! the unit, town, state and ZIP code that follow; or a word that ends like a street, and a number.
//!
//! It knows no towns: a place name alone is no finding.

use super::name::is_capital;
use super::{byte, byte_before, is_word, run_end};
use crate::pii::cue;
use crate::pii::work::Text;

const STREETS: &[&str] = &[
    "alley",
    "aly",
    "ave",
    "avenue",
    "blvd",
    "boulevard",
    "circle",
    "cir",
    "close",
    "court",
    "crescent",
    "ct",
    "drive",
    "dr",
    "expressway",
    "freeway",
    "grove",
    "gardens",
    "heights",
    "highway",
    "hwy",
    "lane",
    "ln",
    "loop",
    "mews",
    "parkway",
    "pkwy",
    "pike",
    "place",
    "plaza",
    "pl",
    "point",
    "ridge",
    "rd",
    "road",
    "row",
    "rue",
    "square",
    "sq",
    "st",
    "street",
    "terrace",
    "ter",
    "trail",
    "trl",
    "turnpike",
    "walk",
    "way",
];

/// Ends of one-word street names: German, Dutch, Swedish, Norwegian, Danish, Finnish.
const STREET_ENDS: &[&str] = &[
    "strasse", "straße", "str.", "straat", "gatan", "gata", "gate", "vägen", "veien", "vej", "katu", "allee", "weg",
    "laan", "platz", "gasse", "gade", "tie",
];

const UNITS: &[&str] = &["suite", "apt", "apt.", "apartment", "unit", "floor", "ste", "ste.", "room", "#"];

/// US states and territories, USPS Publication 28.
const STATES: &[u8] =
    b"ALAKAZARCACOCTDEDCFLGAGUHIIDILINIAKSKYLAMEMDMAMIMNMSMOMTNENVNHNJNMNYNCNDOHOKORPAPRRISCSDTNTXUTVTVAVIWAWVWIWY";

/// The address that starts with the house number at `at`, as its end.
pub(crate) fn after_number(text: &Text<'_>, at: usize) -> Option<usize> {
    let digits_end = run_end(text, at, |b| b.is_ascii_digit());
    // House numbers have six digits at most; what follows a word, a path or a price is none.
    if digits_end - at > 6 || is_word(byte_before(text, at)) || b"-./:$#".contains(&byte_before(text, at)) {
        return None;
    }
    let mut next = digits_end + usize::from(byte(text, digits_end).is_ascii_alphabetic());
    if byte(text, next) != b' ' {
        return None;
    }
    let mut street_end = None;
    // Five words hold `Martin Luther King Junior Boulevard`.
    for _ in 0..5 {
        if byte(text, next) != b' ' {
            break;
        }
        let start = next + 1;
        let word_end = run_end(text, start, |b| is_word(b) || b == b'\'' || b == b'.' || b == b'-');
        let word = &text[start..word_end];
        let is_ordinal =
            word.first().is_some_and(u8::is_ascii_digit) && word.last().is_some_and(u8::is_ascii_lowercase);
        if !is_capital(word) && !is_ordinal {
            break;
        }
        // The last word for a street counts, so that `1 Park Place Drive` is not cut in two.
        if start > digits_end + 1 && in_list(word, STREETS) {
            street_end = Some(if word.ends_with(b".") && !is_abbreviation(word) { word_end - 1 } else { word_end });
        }
        next = word_end;
    }
    street_end.map(|end| after_street(text, end))
}

fn is_abbreviation(word: &[u8]) -> bool {
    word.len() <= 5
}

/// The address that starts with a one-word street name at `at`, as its end.
pub(crate) fn street_word(text: &Text<'_>, at: usize, word_end: usize) -> Option<usize> {
    // `Hauptstr. 5`: the abbreviation keeps its full stop.
    let dot = usize::from(byte(text, word_end) == b'.');
    if byte(text, word_end + dot) != b' ' || !byte(text, word_end + dot + 1).is_ascii_digit() {
        return None;
    }
    // Bytes and not a string: checking a long word for UTF-8 at each of its hyphens would be quadratic.
    let word = &text[at..word_end + dot];
    let ends = STREET_ENDS.iter().any(|end| word.len() > end.len() + 2 && word.ends_with(end.as_bytes()));
    let number = word_end + dot + 1;
    let number_end = run_end(text, number.min(text.len()), |b| b.is_ascii_digit());
    let digits = number_end.saturating_sub(number);
    let fits = ends && (1..=4).contains(&digits);
    let end =
        number_end + usize::from(byte(text, number_end).is_ascii_alphabetic() && !is_word(byte(text, number_end + 1)));
    (fits && !is_word(byte(text, end))).then(|| after_street(text, end))
}

/// End of unit, town, state and ZIP code behind a street.
fn after_street(text: &Text<'_>, street_end: usize) -> usize {
    let unit = unit_end(text, street_end).unwrap_or(street_end);
    town_end(text, unit).unwrap_or(unit)
}

/// `, Suite 217`, ` Apt. 864`.
fn unit_end(text: &Text<'_>, at: usize) -> Option<usize> {
    let start = run_end(text, at, |b| b == b',' || b == b' ');
    let word_end = run_end(text, start, |b| b.is_ascii_alphabetic() || b == b'.' || b == b'#');
    // A comma and a space at most: farther on it is another clause.
    if start == at || start - at > 2 || !in_list(&text[start..word_end], UNITS) {
        return None;
    }
    let number = word_end + usize::from(byte(text, word_end) == b' ');
    let end = run_end(text, number, |b| b.is_ascii_alphanumeric() || b == b'-');
    (end > number).then_some(end)
}

/// `, Austin, TX 78750`, also over a line break; only as a whole.
fn town_end(text: &Text<'_>, at: usize) -> Option<usize> {
    let mut next = run_end(text, at, |b| b == b',' || b == b' ' || b == b'\n');
    // As above, and a line break: letters are written so.
    if next == at || next - at > 3 {
        return None;
    }
    for _ in 0..4 {
        let word_end = run_end(text, next, |b| is_word(b) || b == b'.' || b == b'\'');
        if !is_capital(&text[next..word_end]) {
            return None;
        }
        next = run_end(text, word_end, |b| b == b',' || b == b' ');
        if byte(text, next).is_ascii_digit() {
            let zip_end = run_end(text, next, |b| b.is_ascii_digit() || b == b'-');
            return (is_state_before(text, next) && zip_end - next >= 5)
                .then(|| zip_end - usize::from(text[zip_end - 1] == b'-'));
        }
    }
    None
}

/// Whether a US state's two letters and a space stand before `at`.
pub(crate) fn is_state_before(text: &[u8], at: usize) -> bool {
    let Some(code) = at.checked_sub(3).and_then(|start| text.get(start..at)) else { return false };
    // Two letters are words as well (`IN`, `OR`): capitals, a space and a ZIP code behind make them a state.
    let state = STATES.chunks_exact(2).any(|state| state == &code[..2]);
    state && code[2] == b' ' && !is_word(byte_before(text, at - 3)) && cue::word(&code[..2]) == 0
}

fn in_list(word: &[u8], list: &[&str]) -> bool {
    let bare = word.strip_suffix(b".").unwrap_or(word);
    list.iter().any(|entry| bare.eq_ignore_ascii_case(entry.as_bytes()) || word.eq_ignore_ascii_case(entry.as_bytes()))
}
