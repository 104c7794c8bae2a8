//! The scan of free text: anchors of the mask pass, each handed to the verifiers that may stand there.
//!
//! Nothing is allocated but the list of findings. It knows no JSON. Linear: an anchor that stands in a
//! run which was walked for an earlier one does not walk it again.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::cue;
use super::kind::{Grade, Kind, Span};
use super::mask::{self, BLOCK, Masks};
use super::session::Known;
use super::token::normalised;
use super::verify::{
    address, byte, byte_before, date, email, iban, is_word, name, net, number, run_end, run_start, secret,
};
use super::work::{Text, Work};

/// Shortest text that can hold anything.
const TEXT_BYTES_MIN: usize = 3;
/// Longest phrase that is looked up among those that a session revealed, bytes.
const PHRASE_BYTES_MAX: usize = 256;
/// What looking a value up costs beside its own bytes: two blocks of SHA-256.
const LOOKUP_STEPS: usize = 128;

/// Adds to `spans` what is found in `text`; spans may overlap and are in no order.
///
/// Stops where `work` is spent: what was found until then is not all, and the text is to be given up.
pub(super) fn scan(text: &str, known: Option<Known<'_>>, work: &Work, spans: &mut Vec<Span>) {
    if text.len() < TEXT_BYTES_MIN {
        return;
    }
    let text = Text::new(text.as_bytes(), work);
    let mut scan =
        Scan { text: &text, known, spans, number_next: 0, name_next: 0, url_next: 0, long_next: 0, username_next: 0 };
    scan.blocks();
    scan.private_keys();
}

struct Scan<'a> {
    text: &'a Text<'a>,
    known: Option<Known<'a>>,
    spans: &'a mut Vec<Span>,
    /// Anchors before these places belong to findings already made.
    number_next: usize,
    name_next: usize,
    url_next: usize,
    long_next: usize,
    username_next: usize,
}

impl Scan<'_> {
    fn blocks(&mut self) {
        let (mut previous, mut block) = (Masks::default(), mask::classify(self.text, 0));
        for index in 0..self.text.len().div_ceil(BLOCK) {
            let next = mask::classify(self.text, index + 1);
            let anchors = mask::anchors(&previous, &block, &next);
            let base = index * BLOCK;
            self.text.work.charge(BLOCK);
            // URLs and addresses first: what they cover needs no look at its numbers and words.
            self.each(anchors.punct, base, Self::punct);
            self.each(anchors.long, base, Self::long);
            // In one go, since a finding hides the numbers inside it from the anchors that follow.
            self.each(anchors.number, base, |scan, at| match anchors.dense >> (at - base) & 1 {
                1 => scan.number(at),
                _ => scan.small_number(at),
            });
            self.each(anchors.id, base, Self::id);
            self.each(anchors.capital, base, Self::capital);
            (previous, block) = (block, next);
        }
    }

    fn each(&mut self, mut bits: u64, base: usize, look: impl Fn(&mut Self, usize)) {
        // Before each look, since one may cost as much as the text is long.
        while bits != 0 && !self.text.work.is_spent() {
            look(self, base + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }

    fn found(&mut self, start: usize, end: usize, kind: Kind, grade: Grade) {
        self.spans.push(Span::new(start, end, kind, grade));
    }

    /// `@`: e-mail. `:`: URL, IPv6, MAC, assigned secret. `=`: assigned secret.
    fn punct(&mut self, at: usize) {
        match self.text[at] {
            // `user:password@host` is a credential, and its end looks like an e-mail address.
            b'@' if at >= self.url_next => {
                if let Some((start, end)) = email::verify(self.text, at) {
                    self.found(start, end, Kind::Email, Grade::Certain);
                }
            }
            b':' if byte(self.text, at + 1) == b'/' => self.url(at),
            b':' => {
                self.colon(at);
                self.assigned(at);
            }
            b'=' => self.assigned(at),
            _ => {}
        }
    }

    fn url(&mut self, at: usize) {
        let Some(url) = net::url(self.text, at) else { return };
        self.found(url.start, url.end, Kind::Url, Grade::Certain);
        if let Some((start, end)) = url.userinfo {
            self.found(start, end, Kind::UrlCredentials, Grade::Certain);
            // Past the `@` itself.
            self.url_next = end + 1;
        }
    }

    fn colon(&mut self, at: usize) {
        if !byte(self.text, at + 1).is_ascii_hexdigit() && byte(self.text, at + 1) != b':' {
            return;
        }
        let mac_start = at.wrapping_sub(2);
        // A MAC address before an IPv6 one: its pairs are hexadecimal groups too.
        if let Some(end) = (at >= 2).then(|| net::mac(self.text, mac_start)).flatten() {
            self.found(mac_start, end, Kind::Mac, Grade::Certain);
        } else if let Some((start, end)) = net::ipv6(self.text, at) {
            self.found(start, end, Kind::Ip, Grade::Certain);
        }
    }

    fn assigned(&mut self, at: usize) {
        // The names of secrets end with one of these letters: most colons and equals signs go here.
        let before = byte_before(self.text, at) | 0x20;
        if !b"dytnhrse \"'".contains(&before) && before != b'"' | 0x20 && before != b'\'' | 0x20 {
            return;
        }
        if let Some((start, end)) = secret::assigned(self.text, at) {
            self.found(start, end, Kind::Secret, Grade::Likely);
        }
    }

    fn long(&mut self, at: usize) {
        // Inside a key that was found: its parts are keys of nothing.
        if at < self.long_next {
            return;
        }
        // Some prefixes end with a full stop, which is no part of a run: they start a word earlier.
        let dotted = byte_before(self.text, at) == b'.';
        let start = if dotted { run_start(self.text, at - 1, |b| b.is_ascii_alphanumeric()) } else { at };
        if let Some(end) = secret::prefixed(self.text, start) {
            self.found(start, end, Kind::Secret, Grade::Certain);
            self.long_next = end;
        } else if let Some(end) = net::mac(self.text, at) {
            self.found(at, end, Kind::Mac, Grade::Certain);
        } else if let Some(end) = secret::near_cue(self.text, at) {
            self.found(at, end, Kind::Secret, Grade::Likely);
            self.long_next = end;
        }
    }

    fn private_keys(&mut self) {
        static MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"PRIVATE KEY-----"));
        if self.text.len() < b"-----BEGIN PRIVATE KEY-----".len() {
            return;
        }
        self.text.work.charge(self.text.len());
        for at in MARK.find_iter(self.text) {
            if let Some((start, end)) = secret::private_key(self.text, at) {
                self.found(start, end, Kind::Secret, Grade::Certain);
            }
        }
    }

    /// A number of few digits: a house number, the end of an account name, or a date.
    fn small_number(&mut self, at: usize) {
        if at < self.number_next {
            return;
        }
        // An underscore binds tighter than anything: the number ends a name of an account.
        if byte_before(self.text, at) == b'_' {
            return self.username(at);
        }
        if self.date(at) {
            return;
        }
        if let Some(end) = address::after_number(self.text, at) {
            self.found(at, end, Kind::Address, Grade::Likely);
            self.number_next = end;
            self.name_next = end;
        } else if self.text[at..].len() >= 3
            && self.text[at..at + 3].iter().all(u8::is_ascii_digit)
            && cue::before(self.text, at).nearest & cue::ZIP != 0
        {
            self.number(at);
        }
    }

    fn number(&mut self, at: usize) {
        if at < self.number_next {
            return;
        }
        if byte_before(self.text, at) == b'_' {
            return self.username(at);
        }
        if self.date(at) {
            return;
        }
        if let Some(end) = address::after_number(self.text, at) {
            self.found(at, end, Kind::Address, Grade::Likely);
            (self.number_next, self.name_next) = (end, end);
            return;
        }
        let Some(groups) = number::Groups::read(self.text, at) else { return };
        let before = cue::before(self.text, at);
        let found = self.verify_number(at, &groups, before).or_else(|| self.known_number(at, groups.first_end()));
        if let Some(span) = found {
            self.number_next = span.end;
            self.spans.push(span);
        }
    }

    fn verify_number(&self, at: usize, groups: &number::Groups, before: cue::Context) -> Option<Span> {
        let text = self.text;
        let graded = |kind| move |(end, grade)| Span::new(at, end, kind, grade);
        // In the order of certainty: four octets and a checksum before shapes, shapes before cues.
        number::ipv4(text, groups, before)
            .map(|end| Span::new(at, end, Kind::Ip, Grade::Certain))
            .or_else(|| number::card(text, groups, before).map(graded(Kind::CreditCard)))
            .or_else(|| number::ssn(text, groups, before).map(graded(Kind::Ssn)))
            .or_else(|| number::document(text, at))
            .or_else(|| number::zip(text, groups, before).map(graded(Kind::Zip)))
            .or_else(|| number::phone(text, groups, before))
    }

    /// A number that the session knows.
    fn known_number(&self, at: usize, end: usize) -> Option<Span> {
        let known = self.known.filter(|_| end - at >= 5)?;
        let value = std::str::from_utf8(&self.text[at..end]).ok()?;
        self.lookup(known, value).map(|kind| Span::new(at, end, kind, Grade::Likely))
    }

    fn lookup(&self, known: Known<'_>, value: &str) -> Option<Kind> {
        self.text.work.charge(LOOKUP_STEPS + value.len());
        known.lookup(value)
    }

    /// A date at `at`: reported when it is of birth, skipped when not. Whether it is one.
    fn date(&mut self, at: usize) -> bool {
        let Some((end, date)) = date::numeric(self.text, at) else { return false };
        // `T` begins the time of RFC 3339; a full stop or a hyphen before makes it part of a longer number.
        if is_word(byte(self.text, end)) && byte(self.text, end) != b'T' || b"-./".contains(&byte_before(self.text, at))
        {
            return false;
        }
        self.number_next = end;
        self.dated(at, end, date);
        true
    }

    fn dated(&mut self, at: usize, end: usize, date: date::Date) {
        let of_birth = cue::before(self.text, at).has(cue::BIRTH)
            || self.known.is_some_and(|known| self.lookup(known, &date::compact(date)) == Some(Kind::DateOfBirth));
        if of_birth {
            self.found(at, end, Kind::DateOfBirth, Grade::Likely);
        }
    }

    /// `mia_li_3668`, whose last part starts at `at`: known to the session, after `user id`, or begun
    /// by a given name.
    fn username(&mut self, at: usize) {
        // `a_1_2_3…` is one word with an anchor at each digit, all of which ask the same of it.
        if at < self.username_next {
            return;
        }
        let start = run_start(self.text, at, is_word);
        let end = run_end(self.text, at, is_word);
        self.username_next = end;
        let Ok(value) = std::str::from_utf8(&self.text[start..end]) else { return };
        // Longer runs and those that begin with a digit are ids, paths and constants.
        if value.len() > 64 || !value.as_bytes()[0].is_ascii_alphabetic() {
            return;
        }
        self.text.work.charge(value.len());
        let known = self.known.and_then(|known| self.lookup(known, &normalised(value)));
        let words = value.split('_').filter(|part| part.len() >= 2 && part.bytes().all(|b| b.is_ascii_alphabetic()));
        // A part that is a cue word says that this names a thing: `credit_card_4421486`.
        let names = words.clone().count() >= 2 && words.into_iter().all(|word| cue::word(word.as_bytes()) == 0);
        let cued = names && cue::before(self.text, start).nearest & cue::USER != 0;
        let named = names && value.split('_').next().is_some_and(|first| name::is_given(first.as_bytes()));
        if known.is_some() || cued || named {
            self.found(start, end, Kind::Username, Grade::Likely);
        }
    }

    /// A word of letters with an early digit: IBAN or document number.
    fn id(&mut self, at: usize) {
        if let Some(end) = iban::verify(self.text, at) {
            self.found(at, end, Kind::Iban, Grade::Certain);
            self.number_next = self.number_next.max(end);
        } else if let Some(span) = number::document(self.text, at) {
            self.spans.push(span);
        }
    }

    /// A capitalised word: known to the session, a name, a date or a street.
    fn capital(&mut self, at: usize) {
        if at < self.name_next {
            return;
        }
        let end = name::word_end(self.text, at);
        // Before names: `April 5, 1990` begins with a given name.
        if let Some((date_end, date)) = date::month_first(self.text, at) {
            self.dated(at, date_end, date);
            return;
        }
        if let Some(known_end) = self.known_words(at, end) {
            self.name_next = known_end;
        }
        if let Some((name_end, grade)) = name::verify(self.text, at, end) {
            self.found(at, name_end, Kind::Person, grade);
            self.name_next = self.name_next.max(name_end);
        } else if let Some(street_end) = address::street_word(self.text, at, end) {
            self.found(at, street_end, Kind::Address, Grade::Likely);
            (self.name_next, self.number_next) = (street_end, self.number_next.max(street_end));
        }
    }

    /// The longest run of up to three words from `at` on that the session knows, as its end.
    fn known_words(&mut self, at: usize, first_end: usize) -> Option<usize> {
        let known = self.known?;
        let (mut end, mut best) = (first_end, None);
        for _ in 0..known.words_max() {
            // Nobody is called that; and `A-A-A-…` would be hashed to its end from each of its capitals.
            if end - at > PHRASE_BYTES_MAX {
                break;
            }
            let words = std::str::from_utf8(&self.text[at..end]).ok()?;
            // No form of one letter is remembered, and tables of flags are full of them.
            let kind = if words.len() < 2 { None } else { self.lookup(known, &normalised(words)) };
            best = kind.map(|kind| (end, kind)).or(best);
            let next = end + 1;
            // Phrases are looked up word by capitalised word; the remembered ones are names and towns.
            if byte(self.text, end) != b' ' || !byte(self.text, next).is_ascii_uppercase() {
                break;
            }
            end = name::word_end(self.text, next);
        }
        let (mut end, kind) = best?;
        // A name goes on as long as the session knows its words.
        while kind == Kind::Person && byte(self.text, end) == b' ' && byte(self.text, end + 1).is_ascii_uppercase() {
            let stop = name::word_end(self.text, end + 1);
            let word = std::str::from_utf8(&self.text[end + 1..stop]).ok()?;
            if word.len() > PHRASE_BYTES_MAX || self.lookup(known, &normalised(word)) != Some(Kind::Person) {
                break;
            }
            end = stop;
        }
        self.found(at, end, kind, Grade::Likely);
        Some(end)
    }
}
