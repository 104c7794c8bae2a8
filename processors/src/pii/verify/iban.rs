//! IBANs in either case, with or without spaces: length by country and ISO 7064 mod 97-10.
//!
//! Lengths after the SWIFT IBAN registry, release 99.

use super::{byte, byte_before, is_word};
use crate::pii::work::Text;

const LENGTHS: &[(&[u8; 2], u8)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

/// The IBAN that starts at `at`, as its end.
pub(crate) fn verify(text: &Text<'_>, at: usize) -> Option<usize> {
    let country = [byte(text, at).to_ascii_uppercase(), byte(text, at + 1).to_ascii_uppercase()];
    if !byte(text, at + 2).is_ascii_digit() || !byte(text, at + 3).is_ascii_digit() || is_word(byte_before(text, at)) {
        return None;
    }
    // The table is in order of the codes; its length decides, so that no prefix of a longer number passes.
    let index = LENGTHS.binary_search_by(|(code, _)| code.cmp(&&country)).ok()?;
    let length = usize::from(LENGTHS[index].1);
    let (mut digits, mut count, mut end) = ([0_u8; 34], 0, at);
    text.work.charge(2 * length);
    while count < length {
        match byte(text, end) {
            b if b.is_ascii_alphanumeric() => {
                digits[count] = b.to_ascii_uppercase();
                count += 1;
            }
            // Printed in groups of four; a separator must stand between two characters of the number.
            b' ' | b'-' if count >= 4 && byte(text, end + 1).is_ascii_alphanumeric() => {}
            _ => return None,
        }
        end += 1;
    }
    (!is_word(byte(text, end)) && mod_97(&digits[..length]) == 1).then_some(end)
}

/// ISO 7064 mod 97-10 with the first four characters moved to the end; letters count A = 10 … Z = 35.
fn mod_97(iban: &[u8]) -> u32 {
    let moved = iban[4..].iter().chain(&iban[..4]);
    // Digit by digit: 34 characters with letters as two digits would need 226 bits.
    moved.fold(0, |rest, b| match b.is_ascii_digit() {
        true => (rest * 10 + u32::from(b - b'0')) % 97,
        false => (rest * 100 + u32::from(b - b'A') + 10) % 97,
    })
}
