//! Words near a number that say what it is.
//!
//! A small closed vocabulary, looked up only for candidates that survived their shape check. It
//! knows nothing of sentences.

use super::work::Text;

/// A set of cues, one bit each.
pub(super) type Cues = u32;

pub(super) const PHONE: Cues = 1;
pub(super) const CARD: Cues = 1 << 1;
pub(super) const SSN: Cues = 1 << 2;
pub(super) const BIRTH: Cues = 1 << 3;
pub(super) const PASSPORT: Cues = 1 << 4;
pub(super) const DRIVER: Cues = 1 << 5;
pub(super) const LICENCE: Cues = 1 << 6;
pub(super) const ZIP: Cues = 1 << 7;
pub(super) const VERSION: Cues = 1 << 8;
pub(super) const SECRET: Cues = 1 << 9;
pub(super) const USER: Cues = 1 << 10;
pub(super) const ACCOUNT: Cues = 1 << 11;
/// Numbers of things, not of people.
pub(super) const THING: Cues = 1 << 12;

/// How far back a cue may stand, bytes.
const BEFORE_BYTES: usize = 48;
/// How far behind a cue may stand, bytes.
const AFTER_BYTES: usize = 14;
/// Longest word of the vocabulary, bytes.
const WORD_BYTES_MAX: usize = 12;

/// What the words around a place say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Context {
    /// Every cue in the window.
    pub(super) all: Cues,
    /// Those of the cue word that stands nearest.
    pub(super) nearest: Cues,
}

impl Context {
    /// Whether any cue of `cues` is in the window.
    pub(super) fn has(self, cues: Cues) -> bool {
        self.all & cues != 0
    }
}

/// Cues in the 48 bytes before `at`.
pub(super) fn before(text: &Text<'_>, at: usize) -> Context {
    let first = at.saturating_sub(BEFORE_BYTES);
    text.work.charge(at - first);
    // Backwards, so that the first word with a cue is the nearest: in `card or phone: 555…` the phone decides.
    let (mut context, mut end) = (Context::default(), at);
    while end > first {
        // Whatever stands between words counts as one separator: `SSN: #` must not hide its cue.
        if !text[end - 1].is_ascii_alphabetic() {
            end -= 1;
            continue;
        }
        let mut start = end;
        while start > first && text[start - 1].is_ascii_alphabetic() {
            start -= 1;
        }
        let cues = word(&text[start..end]);
        context.all |= cues;
        if context.nearest == 0 {
            context.nearest = cues;
        }
        end = start;
    }
    context
}

/// Cues in the 14 bytes from `at` on, up to the end of the line.
pub(super) fn after(text: &Text<'_>, at: usize) -> Cues {
    let window = &text[at..text.len().min(at + AFTER_BYTES)];
    text.work.charge(window.len());
    // Only behind a number on its own line: the next line of a form names the next field.
    let line = window.split(|b| *b == b'\n').next().unwrap_or_default();
    line.split(|b| !b.is_ascii_alphabetic()).fold(0, |cues, w| cues | word(w))
}

/// Cues of one word, in any case.
pub(super) fn word(word: &[u8]) -> Cues {
    let mut lower = [0; WORD_BYTES_MAX];
    // Longer than the longest entry: most words of prose end here, before they are compared with 90 others.
    let Some(lower) = lower.get_mut(..word.len()) else { return 0 };
    for (to, from) in lower.iter_mut().zip(word) {
        *to = from.to_ascii_lowercase();
    }
    match &*lower {
        b"phone" | b"phones" | b"telephone" | b"tel" | b"mobile" | b"cell" | b"cellphone" | b"fax" | b"call"
        | b"calling" | b"dial" | b"reach" | b"answering" | b"contact" | b"desk" | b"office" | b"whatsapp" | b"sms"
        | b"handy" | b"telefon" | b"hotline" | b"callback" => PHONE,
        b"card" | b"cards" | b"credit" | b"debit" | b"visa" | b"mastercard" | b"amex" | b"maestro" | b"discover"
        | b"cc" | b"pan" | b"creditcard" | b"diners" | b"jcb" => CARD,
        b"ssn" | b"social" | b"itin" | b"taxpayer" => SSN,
        b"birth" | b"born" | b"dob" | b"birthday" | b"birthdate" | b"geboren" => BIRTH,
        b"passport" | b"passports" => PASSPORT,
        b"driver" | b"drivers" | b"driving" => DRIVER,
        b"license" | b"licence" => LICENCE,
        b"zip" | b"zipcode" | b"postal" | b"postcode" => ZIP,
        b"version" | b"ver" | b"release" | b"build" | b"upgrade" | b"v" => VERSION,
        b"key" | b"apikey" | b"token" | b"secret" | b"passwd" | b"password" | b"pwd" | b"bearer" | b"auth"
        | b"credential" | b"credentials" | b"passphrase" | b"passcode" | b"keys" | b"tokens" => SECRET,
        b"user" | b"username" | b"userid" | b"login" => USER,
        b"account" | b"acct" | b"bank" | b"iban" | b"routing" => ACCOUNT,
        b"order" | b"invoice" | b"ticket" | b"reservation" | b"tracking" | b"case" | b"sku" | b"flight" | b"isbn"
        | b"certificate" | b"transaction" | b"payment" | b"booking" | b"batch" | b"serial" | b"sha" | b"md"
        | b"commit" | b"request" | b"timestamp" | b"epoch" | b"bytes" | b"port" | b"line" => THING,
        _ => 0,
    }
}
