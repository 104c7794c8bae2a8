//! Persons' names in free text: after a title or a phrase that introduces a name, or where a given
//! name is followed by another capitalised word.
//!
//! The list of given names is small and ours; names that are also common words or places are left
//! out of it and are found by cue, field name or because the session has named them.

use std::sync::OnceLock;

use super::{byte, byte_before, is_word, run_end};
use crate::pii::kind::Grade;
use crate::pii::work::Text;

/// Longest word of any list, bytes.
const WORD_BYTES_MAX: usize = 16;

const GIVEN: &str = include_str!("given_names.txt");

/// Capitalised words that are no part of a name.
const STOP: &str = "a all also am an and any are as at be but by can could customer dear did do does everyone flight for \
    friday friend friends from good great guest has have he hello hey hi how however i if in is it its january february \
    march april may june july august september october november december let madam me monday my new no not of on one or \
    our please saturday she sir so some sorry sunday support sure team thank thanks that the their there these they this \
    those thursday to tuesday us user we wednesday welcome what when where which who why will with would yes you your \
    reservation order account passenger member street avenue road address phone email date name note id card visa gold \
    silver regular economy business hr valued candidate recruiter manager hiring committee editor colleague colleagues \
    mr mrs ms dr prof miss mx";

const TITLES: &str = "mr mrs ms miss mx dr prof professor herr frau mme monsieur señor señora sra";

const PARTICLES: &[&str] = &[
    "de", "da", "del", "della", "di", "dos", "du", "van", "von", "der", "den", "la", "le", "bin", "ibn", "al", "el",
    "ter",
];

/// Phrases before a name that leave no doubt.
const STRONG: &[&str] = &["name is ", "name's ", "dear "];

/// Phrases before a name of several words, or a known one.
const MEDIUM: &[&str] =
    &["name: ", "named ", "attn: ", "signed, ", "passenger: ", "name:\n", "contact: ", "sincerely,\n"];

/// Phrases before a name that also stand before other words: a known given name must follow.
const WEAK: &[&str] = &[
    "i'm ",
    "i am ",
    "this is ",
    "hi ",
    "hello ",
    "hey ",
    "thanks, ",
    "thanks ",
    "thank you, ",
    "regards,\n",
    "regards, ",
    "user ",
    "customer ",
    "for ",
    "passenger ",
    "by ",
];

/// What a word is by itself, as bits.
pub(crate) type WordClass = u8;

pub(crate) const IS_GIVEN: WordClass = 1;
pub(crate) const IS_STOP: WordClass = 2;
pub(crate) const IS_TITLE: WordClass = 4;

/// Words in lower case with their classes: open addressing over FNV-1a, so that a lookup neither
/// allocates nor depends on a random seed.
struct Lexicon {
    slots: Vec<(&'static str, WordClass)>,
}

impl Lexicon {
    fn new() -> Self {
        let lists = [(GIVEN, IS_GIVEN), (STOP, IS_STOP), (TITLES, IS_TITLE)];
        let words = || lists.iter().flat_map(|(words, class)| words.split_whitespace().map(|word| (word, *class)));
        // At most a quarter full, so that a look-up rarely compares more than one word.
        let mut lexicon = Self { slots: vec![("", 0); (words().count() * 4).next_power_of_two()] };
        for (word, class) in words() {
            debug_assert!(word.len() <= WORD_BYTES_MAX, "{word} is never looked up: raise WORD_BYTES_MAX");
            let slot = lexicon.slot(word.as_bytes());
            lexicon.slots[slot] = (word, lexicon.slots[slot].1 | class);
        }
        lexicon
    }

    /// Where `word` is, or would be.
    fn slot(&self, word: &[u8]) -> usize {
        let last = self.slots.len() - 1;
        let mut slot = fnv(word) as usize & last;
        while !self.slots[slot].0.is_empty() && !self.slots[slot].0.as_bytes().eq_ignore_ascii_case(word) {
            slot = (slot + 1) & last;
        }
        slot
    }
}

/// FNV-1a over the lower-case bytes, folded.
fn fnv(word: &[u8]) -> u64 {
    let hash =
        word.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b | 0x20)).wrapping_mul(0x100_0000_01b3));
    hash ^ hash >> 29
}

/// Classes of a word in any case.
pub(crate) fn classes(word: &[u8]) -> WordClass {
    // Hashing all of a word that no list has would be quadratic where it is asked for at each hyphen.
    if word.len() > WORD_BYTES_MAX {
        return 0;
    }
    static LEXICON: OnceLock<Lexicon> = OnceLock::new();
    let lexicon = LEXICON.get_or_init(Lexicon::new);
    lexicon.slots[lexicon.slot(word)].1
}

/// Whether `word` is a given name that is no common word.
pub(crate) fn is_given(word: &[u8]) -> bool {
    classes(word) & IS_GIVEN != 0
}

/// Whether `word` is a common word that names nobody by itself.
pub(crate) fn is_stop(word: &[u8]) -> bool {
    classes(word) & IS_STOP != 0
}

/// Whether a word starts with a capital letter.
pub(crate) fn is_capital(word: &[u8]) -> bool {
    match word.first() {
        Some(b) if *b < 0x80 => b.is_ascii_uppercase(),
        // The first character alone: words may be as long as the text.
        Some(b) => {
            let bytes = 2 + usize::from(*b >= 0xe0) + usize::from(*b >= 0xf0);
            let first = word.get(..bytes).and_then(|first| std::str::from_utf8(first).ok());
            first.and_then(|first| first.chars().next()).is_some_and(char::is_uppercase)
        }
        None => false,
    }
}

/// End of the word at `at`: letters, with apostrophes and hyphens inside.
pub(crate) fn word_end(text: &Text<'_>, at: usize) -> usize {
    let letter = |b: u8| b.is_ascii_alphabetic() || b >= 0x80;
    // `A-A-A-…` is one word, and an anchor at each of its capitals.
    let walk = || {
        let mut end = run_end(text, at, letter);
        while (byte(text, end) == b'\'' || byte(text, end) == b'-') && byte(text, end + 1).is_ascii_uppercase() {
            end = run_end(text, end + 1, letter);
        }
        end
    };
    text.run(&text.names, at, b"", walk).next
}

/// The name that starts with the capitalised word at `at`, as its end.
pub(crate) fn verify(text: &Text<'_>, at: usize, first_end: usize) -> Option<(usize, Grade)> {
    let first = &text[at..first_end];
    let tail = byte(text, first_end);
    let class = classes(first);
    // `Mia_3` and `Mia3` are accounts and ids.
    if tail == b'_' || tail.is_ascii_digit() || class & (IS_STOP | IS_TITLE) != 0 || is_word(byte_before(text, at)) {
        return None;
    }
    let (cue, given) = (cue_before(text, at), class & IS_GIVEN != 0);
    if cue.is_none() && !given {
        return None;
    }
    let (end, words) = extent(text, at, first_end);
    let grade = match (cue, given, words) {
        (Some(Cue::Strong), _, _) => Grade::Likely,
        (Some(_), true, _) | (Some(Cue::Medium), _, 2..) => Grade::Likely,
        (_, true, 2..) => Grade::Likely,
        (_, true, _) if first.len() >= 4 || cue.is_some() => Grade::Possible,
        _ => return None,
    };
    Some((end, grade))
}

/// End of a name of up to four words that starts with the word `at..first_end`, and its words.
fn extent(text: &Text<'_>, at: usize, first_end: usize) -> (usize, usize) {
    let (mut end, mut words) = (first_end, 1);
    let is_initial = first_end - at == 1;
    // `J. Smith`: the full stop of an initial does not end the name.
    let mut next = end + usize::from(is_initial && byte(text, end) == b'.');
    while words < 4 && byte(text, next) == b' ' {
        let start = next + 1;
        let stop = word_end(text, start);
        let word = &text[start..stop];
        // Particles count as no word and end no name: `van` alone is a car.
        if PARTICLES.iter().any(|p| p.as_bytes() == word) {
            next = stop;
            continue;
        }
        if !is_capital(word) || is_stop(word) || byte(text, stop) == b'_' || byte(text, stop).is_ascii_digit() {
            break;
        }
        words += 1;
        end = stop;
        let initial = word.len() == 1 && byte(text, stop) == b'.';
        next = stop + usize::from(initial);
    }
    (end, words)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cue {
    Strong,
    Medium,
    Weak,
}

/// What the phrase before `at` says.
fn cue_before(text: &Text<'_>, at: usize) -> Option<Cue> {
    let space = byte_before(text, at);
    // The letter before the space: every phrase and title ends with one of these.
    let last = byte_before(text, at.saturating_sub(1)) | 0x20;
    if !(space == b' ' || space == b'\n') || !b"sreimoydxfulau,:.\xb1".contains(&last) {
        return None;
    }
    // 14 bytes hold the longest phrase and its space.
    let window = &text[at.saturating_sub(14)..at];
    text.work.charge(window.len());
    let mut lower = [0_u8; 14];
    let lower = &mut lower[..window.len()];
    for (to, from) in lower.iter_mut().zip(window) {
        *to = from.to_ascii_lowercase();
    }
    let lower = &*lower;
    let ends = |phrase: &&str| {
        let phrase = phrase.as_bytes();
        phrase[phrase.len() - 2] | 0x20 == last && lower.ends_with(phrase) && {
            let starts = lower.len() - phrase.len();
            // A whole word: `Delhi Amelia` greets nobody.
            starts == 0 || !is_word(lower[starts - 1])
        }
    };
    let listed = |phrases: &[&str]| phrases.iter().any(ends);
    match () {
        () if listed(STRONG) || after_title(window) => Some(Cue::Strong),
        () if listed(MEDIUM) => Some(Cue::Medium),
        () if listed(WEAK) => Some(Cue::Weak),
        () => None,
    }
}

/// Whether a title, capitalised and maybe with a full stop, stands at the end of the window.
fn after_title(window: &[u8]) -> bool {
    let Some(window) = window.strip_suffix(b" ") else { return false };
    let window = window.strip_suffix(b".").unwrap_or(window);
    let start = window.iter().rposition(|b| !is_word(*b)).map_or(0, |n| n + 1);
    let word = &window[start..];
    is_capital(word) && classes(word) & IS_TITLE != 0
}
