//! Text that tries to give an agent orders: a short list of patterns with few false alarms.
//!
//! Each rule needs a rare word and its company; it does not try to understand.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use memchr::memmem;

use super::work::Work;

/// A rule that matched; its name is stable.
pub(super) type Rule = &'static str;

const EARLIER: &[&str] =
    &["previous", "prior", "above", "earlier", "preceding", "foregoing", "all", "any", "your", "these", "system"];
const ORDERS: &[&str] = &[
    "instructions",
    "instruction",
    "prompt",
    "prompts",
    "rules",
    "directions",
    "guidelines",
    "directives",
    "programming",
];
const TELL: &[&str] = &["reveal", "print", "show", "repeat", "output", "leak", "display", "tell", "dump", "give"];
const SEND: &[&str] = &["send", "post", "upload", "forward", "transmit", "email", "curl", "exfiltrate", "leak"];
const SECRETS: &[&str] = &[
    "secrets",
    "credentials",
    "passwords",
    "password",
    "tokens",
    "keys",
    "environment",
    "env",
    "history",
    "conversation",
];

/// Stems: each of a rule, without the letter that may be a capital.
const IGNORE: &[&str] = &["gnore ", "isregard ", "orget ", "verride ", "GNORE ", "ISREGARD "];
const OWN: &[&str] = &["ystem prompt", "our instructions", "nitial instructions", "YSTEM PROMPT"];
const MARKUP: &[&str] = &["<|im_start|>", "<|system|>", "[INST]", "<<SYS>>", "<|start_header_id|>"];
const JAILBREAK: &[&str] = &["eveloper mode enabled", "o anything now", "ou are now DAN", "ailbreak mode"];
const OUTSIDE: &[&str] = &[" to http", " to ftp"];
const EXFILTRATE: &str = "xfiltrate ";

/// Any stem: nearly every text has none, and one search says so. A search per stem took an eighth of the
/// stage's time.
static STEM: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let stems = [IGNORE, OWN, MARKUP, JAILBREAK, OUTSIDE, &[EXFILTRATE]].concat();
    // Leftmost, as only such a search looks at many bytes at a time.
    #[allow(clippy::expect_used, reason = "constant patterns, each a few bytes")]
    AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(stems).expect("I4: the stems are constants")
});

/// Words looked at on either side of a rare word.
const WORDS_AROUND: usize = 8;

/// The rules that `text` matches, each once, in a fixed order.
///
/// Linear without a bound: each stem looks at eight words or 80 bytes around it, and no two stems begin
/// at one word. `work` only counts, since a text of which this is given up would hide its orders.
pub(super) fn rules(text: &str, work: &Work) -> Vec<Rule> {
    work.charge(text.len());
    // One pass for all 22 stems; only what has one is looked at rule by rule.
    if !STEM.is_match(text) {
        return Vec::new();
    }
    let bytes = &Counted { bytes: text.as_bytes(), work };
    let mut found = Vec::new();
    if IGNORE.iter().any(|stem| matches(bytes, stem, |at| follows(bytes, at, &[EARLIER, ORDERS]))) {
        found.push("ignore_instructions");
    }
    if OWN.iter().any(|stem| matches(bytes, stem, |at| precedes(bytes, at, TELL))) {
        found.push("reveal_instructions");
    }
    if MARKUP.iter().any(|stem| matches(bytes, stem, |_| true)) {
        found.push("chat_markup");
    }
    if JAILBREAK.iter().any(|stem| matches(bytes, stem, |_| true)) {
        found.push("jailbreak");
    }
    // Sending alone is what agents do all day, and so is naming a key: it takes both before an address.
    let carries = |at| precedes(bytes, at, SEND) && precedes(bytes, at, SECRETS);
    if OUTSIDE.iter().any(|stem| matches(bytes, stem, carries)) || matches(bytes, EXFILTRATE, |_| true) {
        found.push("exfiltration");
    }
    found
}

/// A text, and what looking at it costs.
struct Counted<'a> {
    bytes: &'a [u8],
    work: &'a Work,
}

/// Whether `stem` stands somewhere where `confirm` agrees; it is given the place of the stem.
fn matches(text: &Counted<'_>, stem: &str, confirm: impl Fn(usize) -> bool) -> bool {
    text.work.charge(text.bytes.len());
    memmem::find_iter(text.bytes, stem.as_bytes()).any(confirm)
}

/// Whether words of the lists follow `at` in this order.
fn follows(text: &Counted<'_>, at: usize, lists: &[&[&str]]) -> bool {
    // The first word is the rest of the stem's own.
    let words = words(&text.bytes[at..], text.work).skip(1).take(WORDS_AROUND);
    // In this order: `ignore previous instructions` is one, `instructions to ignore previous results` none.
    let mut lists = lists.iter();
    let mut wanted = lists.next();
    for word in words {
        if wanted.is_some_and(|list| in_list(word, list)) {
            wanted = lists.next();
        }
    }
    wanted.is_none()
}

/// Whether a word of the list stands before `at`, in the same sentence.
fn precedes(text: &Counted<'_>, at: usize, list: &[&str]) -> bool {
    // 80 bytes hold the verb of a sentence; farther back, it is another one's.
    let before = &text.bytes[at.saturating_sub(80)..at];
    text.work.charge(before.len());
    let sentence = before.rsplit(|b| b".!?\n".contains(b)).next().unwrap_or_default();
    words(sentence, text.work).any(|word| in_list(word, list))
}

fn words<'t>(text: &'t [u8], work: &'t Work) -> impl Iterator<Item = &'t [u8]> {
    let pieces = text.split(|b| !b.is_ascii_alphanumeric());
    pieces.inspect(|piece| work.charge(piece.len() + 1)).filter(|word| !word.is_empty())
}

fn in_list(word: &[u8], list: &[&str]) -> bool {
    list.iter().any(|entry| word.eq_ignore_ascii_case(entry.as_bytes()))
}
