//! Numbers: groups of digits that may be a card, an SSN, an IPv4 address, a telephone number or a
//! document number.
//!
//! A card needs issuer range, length and Luhn (ISO/IEC 7812-1); an SSN the rules of the Social
//! Security Administration (no area 000, 666 or 9xx, no group 00, no serial 0000); a telephone
//! number a shape or a cue. What has none of these is no finding.

use super::{byte, byte_before, is_word, run_end, run_end_before};
use crate::pii::cue::{self, Context};
use crate::pii::kind::{Grade, Kind, Span};
use crate::pii::work::Text;

/// Most groups that are looked at together.
const GROUPS_MAX: usize = 8;

/// A run of digits.
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    start: usize,
    end: usize,
    /// First byte of what separates it from the group before; 0 for the first.
    join: u8,
}

/// Groups of digits with separators between them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Groups {
    groups: [Group; GROUPS_MAX],
    count: usize,
}

impl Groups {
    /// The groups from the digit at `at` on; `None` where the number is part of something else.
    pub(crate) fn read(text: &Text<'_>, at: usize) -> Option<Self> {
        if is_part_of_other(text, at) {
            return None;
        }
        let mut found = Self { groups: [Group::default(); GROUPS_MAX], count: 0 };
        let (mut next, mut join) = (at, 0);
        while found.count < GROUPS_MAX {
            let end = run_end(text, next, |b| b.is_ascii_digit());
            found.groups[found.count] = Group { start: next, end, join };
            found.count += 1;
            let Some((after, first)) = separator(text, end) else { break };
            (next, join) = (after, first);
        }
        let last = found.groups[found.count - 1];
        let tail = byte(text, last.end);
        let starts_word = tail.is_ascii_alphabetic() || tail == b'_' || tail >= 0x80;
        // A digit run that a letter ends is an id; the groups before it may still be a number.
        if starts_word && !is_extension(text, last.end) {
            found.count -= 1;
        }
        (found.count > 0).then_some(found)
    }

    fn as_slice(&self) -> &[Group] {
        &self.groups[..self.count]
    }

    fn lengths(&self) -> ([usize; GROUPS_MAX], usize) {
        let mut lengths = [0; GROUPS_MAX];
        for (length, group) in lengths.iter_mut().zip(self.as_slice()) {
            *length = group.end - group.start;
        }
        (lengths, self.count)
    }

    /// End of the first group.
    pub(crate) fn first_end(&self) -> usize {
        self.groups[0].end
    }

    /// The first `count` groups.
    fn first(mut self, count: usize) -> Self {
        self.count = count;
        self
    }

    fn total(&self) -> usize {
        self.as_slice().iter().map(|g| g.end - g.start).sum()
    }

    fn end(&self) -> usize {
        self.groups[self.count - 1].end
    }

    /// All separators are `join`, one byte each.
    fn joined_by(&self, join: u8) -> bool {
        self.as_slice().windows(2).all(|pair| pair[1].join == join && pair[1].start == pair[0].end + 1)
    }

    /// The digits as numbers, with their count; at most 20.
    fn digits(&self, text: &Text<'_>) -> ([u8; 20], usize) {
        let (mut digits, mut count) = ([0; 20], 0);
        for b in self.as_slice().iter().flat_map(|g| &text[g.start..g.end]).take(20) {
            digits[count] = b - b'0';
            count += 1;
        }
        (digits, count)
    }
}

/// Whether the digit at `at` continues an identifier, a price or a decimal.
fn is_part_of_other(text: &Text<'_>, at: usize) -> bool {
    let (left, left2) = (byte_before(text, at), byte_before(text, at.saturating_sub(1)));
    match left {
        b'_' | b'$' | b'#' | b'%' => true,
        b'-' | b'.' | b'/' | b',' => is_word(left2),
        b':' => left2.is_ascii_digit() || is_token(text, at),
        0x80.. => text[..at].ends_with("€".as_bytes()) || text[..at].ends_with("£".as_bytes()),
        _ => false,
    }
}

/// Whether `at` is behind `[KIND:`: a token of ours.
fn is_token(text: &Text<'_>, at: usize) -> bool {
    let end = run_end_before(text, at, at + 13, |b| b.is_ascii_hexdigit());
    byte(text, end) == b']' && end - at == 12
}

/// What may stand between groups: up to three of ` -./()`, not two the same; the first non-space one names it.
fn separator(text: &Text<'_>, at: usize) -> Option<(usize, u8)> {
    let mut next = at;
    let mut join = 0;
    while b" -./()".contains(&byte(text, next)) && next < text.len() && next - at < 3 {
        let b = byte(text, next);
        // `--` and two spaces separate columns and clauses, not groups.
        if b == byte_before(text, next) {
            return None;
        }
        // `) ` and ` - ` are named by the sign, not by the space around it.
        if join == 0 || join == b' ' {
            join = b;
        }
        next += 1;
    }
    (next > at && byte(text, next).is_ascii_digit()).then_some((next, join))
}

/// An extension behind a telephone number: `x818`, ` ext. 12`.
fn is_extension(text: &Text<'_>, at: usize) -> bool {
    byte(text, at) == b'x' && byte(text, at + 1).is_ascii_digit()
}

/// The IPv4 address that the groups start with, as its end; never a version number.
pub(crate) fn ipv4(text: &Text<'_>, groups: &Groups, before: Context) -> Option<usize> {
    if groups.count < 4 || groups.groups.get(4).is_some_and(|g| groups.count > 4 && g.join == b'.') {
        return None;
    }
    let four = groups.first(4);
    let octet = |g: &Group| {
        let run = &text[g.start..g.end];
        let number = run.iter().take(4).fold(0_u32, |n, b| n * 10 + u32::from(b - b'0'));
        run.len() <= 3 && number <= 255 && (run.len() == 1 || run[0] != b'0')
    };
    let end = four.end();
    let tail = byte(text, end);
    let of_nobody = text[four.groups[0].start..].starts_with(b"127.") || text[four.groups[0].start..end] == *b"0.0.0.0";
    let goes_on = is_word(tail) || tail == b'.' && byte(text, end + 1).is_ascii_digit();
    // No leading zeros: `01.02.03.04` is a date or a version.
    let fits = four.joined_by(b'.') && four.as_slice().iter().all(octet);
    (fits && !goes_on && !of_nobody && !before.has(cue::VERSION)).then_some(end)
}

/// The SSN that the groups start with: 3-2-4 with hyphens, or anything with a cue.
pub(crate) fn ssn(text: &Text<'_>, groups: &Groups, before: Context) -> Option<(usize, Grade)> {
    let cued = before.has(cue::SSN);
    let (lengths, count) = groups.lengths();
    let used = match &lengths[..count] {
        [3, 2, 4, ..] => 3,
        [9, ..] if cued => 1,
        _ => return None,
    };
    let number = groups.first(used);
    let by_hyphen = number.joined_by(b'-');
    let by_space = number.joined_by(b' ') && cued;
    let goes_on = count > used && groups.groups[used].join == b'-';
    let (d, _) = number.digits(text);
    let area = u16::from(d[0]) * 100 + u16::from(d[1]) * 10 + u16::from(d[2]);
    // As the administration issues them; 9xx are taxpayers' numbers, which a cue must name.
    let issued = area != 0 && area != 666 && area < 900 && (d[3], d[4]) != (0, 0) && d[5..9] != [0; 4];
    let grade = if cued { Grade::Certain } else { Grade::Likely };
    (issued && !goes_on && (by_hyphen || by_space)).then_some((number.end(), grade))
}

/// The card number that the groups start with.
pub(crate) fn card(text: &Text<'_>, groups: &Groups, before: Context) -> Option<(usize, Grade)> {
    // The longest shape first: of nineteen digits, the first sixteen pass Luhn's check one time in ten.
    let used = (1..=groups.count.min(5)).rev().find(|used| {
        let number = groups.first(*used);
        (12..=19).contains(&number.total()) && has_card_shape(&number)
    })?;
    let number = groups.first(used);
    let (digits, count) = number.digits(text);
    let digits = &digits[..count];
    let cued = before.has(cue::CARD) || cue::after(text, number.end()) & cue::CARD != 0;
    let grade = match issuer(digits) {
        Some(Issuer::Strong) => Grade::Certain,
        Some(Issuer::Weak) if cued => Grade::Likely,
        // Test generators and private-label cards use other ranges: the nearest cue must say card.
        None if before.nearest & cue::CARD != 0 => Grade::Likely,
        _ => return None,
    };
    // One order number in ten passes Luhn's check; the word before it says which it is.
    let named_thing = !cued && before.nearest & cue::THING != 0;
    (luhn(digits) && !named_thing).then_some((number.end(), grade))
}

fn has_card_shape(number: &Groups) -> bool {
    let (lengths, count) = number.lengths();
    let shape = matches!(&lengths[..count], [_] | [4, 4, 4, 1..=4] | [4, 4, 4, 4, 1..=3] | [4, 6, 4 | 5] | [6, 6..=13]);
    shape && (number.joined_by(b' ') || number.joined_by(b'-'))
}

#[derive(Debug, PartialEq, Eq)]
enum Issuer {
    Strong,
    /// A range that many other numbers fall into: needs a cue.
    Weak,
}

/// Issuer ranges and lengths after ISO/IEC 7812 as the schemes publish them.
fn issuer(d: &[u8]) -> Option<Issuer> {
    let prefix = |n: usize| d[..n].iter().fold(0_u32, |p, digit| p * 10 + u32::from(*digit));
    let (two, three, four) = (prefix(2), prefix(3), prefix(4));
    let strong = match d.len() {
        14 => matches!(three, 300..=305) || matches!(two, 36 | 38 | 39),
        15 => matches!(two, 34 | 37) || matches!(four, 2131 | 1800),
        16 => {
            d[0] == 4
                || matches!(two, 51..=55 | 65 | 81)
                || matches!(four, 2221..=2720 | 3528..=3589 | 6011)
                || matches!(three, 644..=649 | 622 | 624..=626 | 628)
        }
        19 => d[0] == 4,
        _ => false,
    };
    let weak = match d.len() {
        13 => d[0] == 4,
        12..=19 => matches!(two, 50 | 56..=69) || matches!(four, 2200..=2204) || matches!(three, 309),
        _ => false,
    };
    match (strong, weak) {
        (true, _) => Some(Issuer::Strong),
        (_, true) => Some(Issuer::Weak),
        _ => None,
    }
}

/// Luhn's sum (ISO/IEC 7812-1 annex B); a number of equal digits does not count.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| match i % 2 {
            0 => u32::from(*d),
            _ => u32::from(*d) * 2 - if *d > 4 { 9 } else { 0 },
        })
        .sum();
    sum.is_multiple_of(10) && digits.iter().any(|d| *d != digits[0])
}

/// The telephone number that the groups start with, as its span.
pub(crate) fn phone(text: &Text<'_>, groups: &Groups, before: Context) -> Option<Span> {
    let at = groups.groups[0].start;
    let plus = byte_before(text, at) == b'+';
    let paren = byte_before(text, at) == b'(';
    let start = if plus || paren { at - 1 } else { at };
    let plus = plus || (paren && byte_before(text, at - 1) == b'+');
    let used = phone_groups(groups, plus)?;
    let number = groups.first(used);
    let tail = cue::after(text, number.end());
    let cued = before.nearest & cue::PHONE != 0 || (tail & cue::PHONE != 0 && before.nearest & cue::THING == 0);
    let grade = phone_grade(text, &number, plus, paren, cued)?;
    // What the nearest word calls something else is no telephone, unless a plus sign says so.
    if before.nearest & (cue::THING | cue::CARD | cue::SSN | cue::ACCOUNT) != 0 && !plus && !cued {
        return None;
    }
    let start = if plus && byte_before(text, start) == b'+' { start - 1 } else { start };
    let start = if paren && byte(text, number.groups[0].end) != b')' { at } else { start };
    Some(Span::new(start, extension_end(text, number.end()), Kind::Phone, grade))
}

/// How many of the groups belong to the number: as many as E.164 has room for, and none that a
/// complete North American number is followed by.
fn phone_groups(groups: &Groups, plus: bool) -> Option<usize> {
    let (lengths, count) = groups.lengths();
    match &lengths[..count] {
        [3, 3, 4, ..] if !plus => return Some(3),
        [1..=3, 3, 3, 4, ..] => return Some(4),
        _ => {}
    }
    // E.164 allows 15 with the country code.
    let digits_max = if plus { 15 } else { 14 };
    (1..=count).rev().find(|used| (7..=digits_max).contains(&groups.first(*used).total()))
}

fn phone_grade(text: &Text<'_>, number: &Groups, plus: bool, paren: bool, cued: bool) -> Option<Grade> {
    let (lengths, count) = number.lengths();
    let (lengths, total) = (&lengths[..count], number.total());
    let first = &text[number.groups[0].start..number.groups[0].end];
    let only_spaces = number.as_slice()[1..].iter().all(|g| g.join == b' ');
    let in_paren = paren && byte(text, number.groups[0].end) == b')';
    // A plus sign is enough: nothing else is written so with eight digits and no zero in front.
    if plus {
        return (total >= 8 && first[0] != b'0').then_some(Grade::Certain);
    }
    let shape = match lengths {
        [3, 3, 4] => !only_spaces || first[0] == b'0' || in_paren,
        [1, 3, 3, 4] => first == b"1",
        [2..=4, ..] if in_paren => (8..=12).contains(&total),
        [2..=5, rest @ ..] if first[0] == b'0' && !first.starts_with(b"00") => {
            !rest.is_empty() && rest.iter().all(|n| *n >= 2) && (9..=11).contains(&total)
        }
        [..] if first.starts_with(b"00") => {
            count >= 3 && (10..=15).contains(&total) && lengths[1..].iter().all(|n| *n >= 2)
        }
        _ => false,
    };
    let joined_by = |join| count > 1 && number.joined_by(join);
    let shape = shape && !joined_by(b'/');
    match (shape, cued) {
        (true, true) => Some(Grade::Certain),
        (false, true) if lengths.iter().skip(1).all(|n| *n >= 2) && !joined_by(b'.') => Some(Grade::Likely),
        (true, false) => Some(Grade::Likely),
        _ => None,
    }
}

/// End of the number with its extension, if there is one.
fn extension_end(text: &Text<'_>, end: usize) -> usize {
    let tail = &text[end..text.len().min(end + 6)];
    let marks: [&[u8]; 6] = [b" ext. ", b" ext.", b" ext ", b" x", b"x", b"#"];
    let mark = marks.iter().find(|mark| tail.starts_with(mark)).map_or(0, |mark| mark.len());
    let digits_end = run_end(text, end + mark, |b| b.is_ascii_digit());
    let digits = digits_end - end - mark;
    if mark > 0 && (1..=6).contains(&digits) && !is_word(byte(text, digits_end)) { digits_end } else { end }
}

/// The document number at `at` (letters and digits, maybe hyphens) that a cue before it names.
pub(crate) fn document(text: &Text<'_>, at: usize) -> Option<Span> {
    // One byte more than a document number has: `1--1--1…` is one run, and an anchor at each digit.
    let end = run_end_before(text, at, at + 21, |b| b.is_ascii_alphanumeric() || b == b'-');
    let word = &text[at..end];
    let digits = word.iter().filter(|b| b.is_ascii_digit()).count();
    if !(6..=20).contains(&word.len()) || digits < 5 || is_word(byte_before(text, at)) || is_word(byte(text, end)) {
        return None;
    }
    let before = cue::before(text, at);
    let kind = match before {
        b if b.has(cue::PASSPORT) => Kind::Passport,
        b if b.has(cue::LICENCE) && b.has(cue::DRIVER) => Kind::DrivingLicence,
        _ => return None,
    };
    Some(Span::new(at, end, kind, Grade::Likely))
}

/// A postal code of five digits (and four more) after a US state, or one that a cue names.
pub(crate) fn zip(text: &Text<'_>, groups: &Groups, before: Context) -> Option<(usize, Grade)> {
    let (lengths, count) = groups.lengths();
    let used = match &lengths[..count] {
        [5, 4, ..] if groups.groups[1].join == b'-' => 2,
        _ => 1,
    };
    let start = groups.groups[0].start;
    let number = groups.first(used);
    // Five digits and a hyphen with other than four behind are something else's number.
    let is_us = lengths[0] == 5 && (used == 2 || count == 1 || groups.groups[1].join != b'-');
    if is_us && super::address::is_state_before(text, start) {
        return Some((number.end(), Grade::Likely));
    }
    let cued = before.nearest & cue::ZIP != 0 && (3..=9).contains(&groups.total());
    cued.then(|| (groups.end(), Grade::Likely))
}
