//! Personal data and secrets that the demo plants, so that it can prove they are gone afterwards.
//!
//! Values are made up from the seed but well formed: cards pass Luhn, IBANs pass mod 97. Only the
//! first copy of the fleet carries them, which keeps the list of values small.

use super::Start;

/// One planted value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Planted {
    /// What it is, e.g. `EMAIL`.
    pub kind: &'static str,
    /// The value as it stands in the text.
    pub value: String,
}

const INPUTS_PER_PLANT: u64 = 20;

/// `input`, or now and then `input` with a sentence that holds a planted value, and that value.
pub fn into_input(input: &str, start: &Start, rng: &mut fastrand::Rng) -> (String, Option<Planted>) {
    // Drawn in any case: whether a value is planted must not shift what the session draws next.
    let draw = rng.u64(..);
    if start.copy > 0 || !draw.is_multiple_of(INPUTS_PER_PLANT) {
        return (input.to_owned(), None);
    }
    let (sentence, planted) = sentence(draw);
    (format!("{input}\n{sentence}"), Some(planted))
}

/// The planted sentence of a draw and the values in it.
pub fn sentence(draw: u64) -> (String, Planted) {
    // A generator of its own, for the same reason: values need different numbers of digits.
    let mut rng = fastrand::Rng::with_seed(draw);
    let digits =
        |rng: &mut fastrand::Rng, n: usize| -> String { (0..n).map(|_| char::from(b'0' + rng.u8(..10))).collect() };
    // The quotient, because every draw that comes here is a multiple of 20.
    match draw / INPUTS_PER_PLANT % 6 {
        0 => {
            say("EMAIL", "Please write to ", format!("casey.{}@example.org", digits(&mut rng, 6)), " when it is done.")
        }
        1 => say("PHONE", "You can call me at ", format!("+1 212-555-0{}", digits(&mut rng, 3)), " after noon."),
        2 => say("CREDIT_CARD", "My card number is ", card(&format!("4{}", digits(&mut rng, 14))), "."),
        3 => say("IBAN", "Refund it to IBAN ", iban("DE", &digits(&mut rng, 18)), " please."),
        4 => {
            let ssn = format!("{}-{}-{}", 1 + rng.u32(101..665), 10 + rng.u32(..89), 1_000 + rng.u32(..8_999));
            say("SSN", "My social security number is ", ssn, ".")
        }
        _ => {
            let key: String =
                (0..16).map(|_| char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[rng.usize(..32)])).collect();
            say("SECRET", "Use the key ", format!("AKIA{key}"), " for the bucket.")
        }
    }
}

fn say(kind: &'static str, before: &str, value: String, after: &str) -> (String, Planted) {
    (format!("{before}{value}{after}"), Planted { kind, value })
}

/// Appends the Luhn check digit (ISO/IEC 7812-1).
fn card(digits: &str) -> String {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let value = u32::from(digit - b'0') * if place % 2 == 0 { 2 } else { 1 };
            value / 10 + value % 10
        })
        .sum();
    format!("{digits}{}", (10 - sum % 10) % 10)
}

/// Puts country and check digits before an account number (ISO 13616, ISO/IEC 7064 mod 97-10).
fn iban(country: &str, account: &str) -> String {
    let number = |text: &str| -> u32 {
        text.bytes().fold(0, |rest, byte| match byte {
            b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
            _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
        })
    };
    format!("{country}{:02}{account}", 98 - number(&format!("{account}{country}00")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_digits_match_published_examples() {
        assert_eq!(card("411111111111111"), "4111111111111111", "the card networks' test number");
        assert_eq!(iban("DE", "370400440532013000"), "DE89370400440532013000", "the IBAN registry's example");
    }

    #[test]
    fn a_sentence_holds_its_value() {
        for draw in 0..600 {
            let (text, planted) = sentence(draw);
            assert!(text.contains(&planted.value), "{planted:?}");
        }
    }
}
