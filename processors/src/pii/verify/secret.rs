//! Secrets: keys by their prefix, private key blocks, and values that stand next to a word for a
//! secret and are random enough.
//!
//! Prefixes as the providers document them. It never calls a provider to try a key.

use super::{byte, byte_before, is_word, run_end, run_start_after};
use crate::pii::cue;
use crate::pii::work::{KeyEnd, Marks, Run, Text, Work};

/// A provider's prefix, and how many characters of [A-Za-z0-9_-] follow it at least.
const PREFIXES: &[(&[u8], usize)] = &[
    (b"AKIA", 16),
    (b"ASIA", 16),
    (b"AIza", 35),
    (b"ghp_", 36),
    (b"gho_", 36),
    (b"ghu_", 36),
    (b"ghs_", 36),
    (b"ghr_", 36),
    (b"github_pat_", 22),
    (b"glpat-", 20),
    (b"glptt-", 40),
    (b"GR1348941", 20),
    (b"npm_", 36),
    (b"xoxa-", 10),
    (b"xoxb-", 10),
    (b"xoxp-", 10),
    (b"xoxr-", 10),
    (b"xoxs-", 10),
    (b"xoxe-", 10),
    (b"sk-", 20),
    (b"sk_live_", 16),
    (b"sk_test_", 16),
    (b"rk_live_", 16),
    (b"pk_live_", 16),
    (b"whsec_", 24),
    (b"hvs.", 24),
    (b"hvb.", 24),
    (b"ABSK", 100),
    (b"dop_v1_", 40),
    (b"shpat_", 32),
    (b"pypi-", 40),
    (b"hf_", 30),
    (b"dapi", 32),
    (b"sntrys_", 40),
    (b"SG.", 40),
    (b"glsa_", 32),
    (b"ya29.", 30),
    (b"lin_api_", 32),
    (b"rdme_", 60),
    (b"pnu_", 36),
    (b"secret_", 40),
    (b"ntn_", 40),
    (b"cst_", 52),
];

/// Words that documentation uses where a secret would stand.
const PLACEHOLDERS: &[&[u8]] =
    &[b"example", b"xxxx", b"your", b"redacted", b"placeholder", b"****", b"<", b"${", b"{{"];

fn is_run(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'-' || b == b'_'
}

/// Whether `b` may stand in a base64 or URL-safe token.
fn is_value(b: u8) -> bool {
    is_run(b) || b"./+=~".contains(&b)
}

/// The key of a known provider that starts at `at`, as its end.
pub(crate) fn prefixed(text: &Text<'_>, at: usize) -> Option<usize> {
    let rest = &text[at..];
    if rest.starts_with(b"eyJ") {
        return jwt(text, at);
    }
    let (prefix, least) = PREFIXES.iter().find(|(prefix, _)| rest.starts_with(prefix))?;
    let first = at + prefix.len();
    let end = if prefix.ends_with(b".") {
        // Full stops join what would else be keys of their own: `SG.….SG.….` is one run.
        let dotted = |b| is_run(b) || b == b'.';
        text.run(&text.dotted, first, b"", || run_end(text, first, dotted)).next
    } else {
        run_end(text, first, is_run)
    };
    let body = &text[first..end];
    let fixed = matches!(*prefix, b"AKIA" | b"ASIA");
    let fits = if fixed {
        body.len() == *least && body.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    } else {
        body.len() >= *least
    };
    // Real Slack tokens hold team and bot numbers; documentation shows words.
    let fits = fits && (!prefix.starts_with(b"xox") || body.iter().filter(|b| b.is_ascii_digit()).count() >= 6);
    // Sixteen characters hold at most 4 bits each; real keys stay above 2.5, `XXXX…` is at 0.
    (fits && is_random(text.work, body, 2.5) && !is_placeholder(text.work, body)).then_some(end)
}

/// A JSON Web Token (RFC 7519): three parts, the first a base64url JSON object.
fn jwt(text: &Text<'_>, at: usize) -> Option<usize> {
    let head = run_end(text, at, is_run);
    // Shorter than any JOSE header in base64: `{"alg":"x"}` has 15 characters.
    if head - at < 12 || byte(text, head) != b'.' || !text[head + 1..].starts_with(b"ey") {
        return None;
    }
    let payload = run_end(text, head + 1, is_run);
    let end = if byte(text, payload) == b'.' { run_end(text, payload + 1, is_run) } else { payload };
    (payload - head >= 12).then_some(end)
}

/// A PEM private key (RFC 7468) around `PRIVATE KEY-----` at `at`; without its end, all that follows.
pub(crate) fn private_key(text: &Text<'_>, at: usize) -> Option<(usize, usize)> {
    let begin = memchr::memmem::rfind(&text[at.saturating_sub(40)..at], b"-----BEGIN ")? + at.saturating_sub(40);
    text.work.charge(at.min(40));
    let body = at + b"PRIVATE KEY-----".len().min(text.len() - at);
    Some((begin, private_key_end(text, body).unwrap_or(text.len())))
}

/// Behind the first end line from `body` on.
fn private_key_end(text: &Text<'_>, body: usize) -> Option<usize> {
    // Calls come in the order of the text. A search that found nothing finds nothing from further on, and
    // one that found an end line behind `body` finds the same: else a megabyte of begin lines without
    // an end is searched to its end from each of 38,000.
    let known = text.key_end.get().filter(|known| known.line.is_none_or(|line| body <= line));
    if let Some(known) = known {
        return known.next;
    }
    let line = memchr::memmem::find(&text[body..], b"-----END ").map(|n| body + n);
    let next = line.and_then(|line| memchr::memmem::find(&text[line + 9..], b"-----").map(|n| line + 9 + n + 5));
    text.work.charge(next.unwrap_or(text.len()) - body);
    text.key_end.set(Some(KeyEnd { line, next }));
    next
}

/// The value behind the `=` or `:` at `at` when the word before names a secret.
pub(crate) fn assigned(text: &Text<'_>, at: usize) -> Option<(usize, usize)> {
    let mut name_end = at;
    // `"password" : ` and `password = `: up to three signs between a name and its own.
    while name_end > 0 && b" \"'".contains(&text[name_end - 1]) && at - name_end < 3 {
        name_end -= 1;
    }
    let name_start = run_start_after(text, name_end, name_end.saturating_sub(48), is_run);
    let need = secret_name(&text[name_start..name_end])?;
    let mut start = at + 1;
    while b" =>\"'`".contains(&byte(text, start)) && start < text.len() && start - at < 6 {
        start += 1;
    }
    // The scheme is no part of the token: without it both spellings have one token.
    if text[start..].len() > 7 && text[start..start + 7].eq_ignore_ascii_case(b"bearer ") {
        start += 7;
    }
    let (end, fits) = match need {
        Need::Password => password(text, start)?,
        Need::Key => {
            let run = value_run(text, start);
            (run.trimmed, marks_of(text, start, run).make_key(text, start, run.trimmed))
        }
    };
    (fits && !is_placeholder(text.work, &text[start..end])).then_some((start, end))
}

/// The password at `start`: its end, and whether it looks like one.
fn password(text: &Text<'_>, start: usize) -> Option<(usize, bool)> {
    let quoted = b"\"'`".contains(&byte_before(text, start));
    let end = if quoted {
        // A quoted value ends before the next quote, so that no byte belongs to two of them.
        let end = run_end(text, start, |b| !b"\"'`\n".contains(&b));
        end - text[start..end].iter().rev().take_while(|b| TRIMMED.contains(b)).count()
    } else {
        let class = |b: u8| b > b' ' && b != 0x7f && !b"\"'`,;&<>()[]{}|".contains(&b);
        text.run(&text.passwords, start, TRIMMED, || run_end(text, start, class)).trimmed
    };
    let value = &text[start..end];
    let is_call = b"([{".contains(&byte(text, end));
    // The length first: what is longer is not looked at.
    if !(4..=128).contains(&value.len()) {
        return None;
    }
    text.work.charge(value.len());
    Some((end, is_password(value) && !is_call))
}

/// Punctuation at the end of a value that belongs to the sentence around it.
const TRIMMED: &[u8] = b".,;!?";

/// The run of value bytes that `at` stands in.
fn value_run(text: &Text<'_>, at: usize) -> Run {
    text.run(&text.values, at, TRIMMED, || run_end(text, at, is_value))
}

/// The marks of that run, made once for all that stand in it.
fn marks_of(text: &Text<'_>, at: usize, run: Run) -> Marks {
    let known = text.marks.get();
    if known.next == run.next && known.first <= at {
        return known;
    }
    let marks = Marks::of(text, at, run);
    text.work.charge(run.next - at);
    text.marks.set(marks);
    marks
}

impl Marks {
    fn of(text: &[u8], first: usize, run: Run) -> Self {
        let mut marks = Self { first, next: run.next, ..Self::default() };
        let mut joins = 0;
        for (at, b) in text[first..run.trimmed].iter().enumerate().rev() {
            let next = first + at + 1;
            let slot = match b {
                b'0'..=b'9' => &mut marks.digit,
                b'a'..=b'z' => &mut marks.lower,
                b'A'..=b'Z' => &mut marks.upper,
                b'.' | b'/' => {
                    joins += 1;
                    // More than four make a path or a dotted name.
                    if joins != 5 {
                        continue;
                    }
                    &mut marks.named
                }
                _ => continue,
            };
            *slot = (*slot).max(next);
        }
        marks
    }

    /// As [`is_key`], for the value `start..end` that ends with the run.
    fn make_key(self, text: &Text<'_>, start: usize, end: usize) -> bool {
        let mixed = self.digit > start && self.lower.max(self.upper) > start;
        let value = &text[start..end];
        value.len() >= 16 && mixed && self.named <= start && !is_uuid(value) && is_random(text.work, value, 3.0)
    }
}

#[derive(Clone, Copy)]
enum Need {
    Password,
    Key,
}

/// What the name of a value asks for: `db_password`, `API-KEY`, `clientSecret`.
fn secret_name(name: &[u8]) -> Option<Need> {
    let ends = |tail: &[u8]| name.len() >= tail.len() && name[name.len() - tail.len()..].eq_ignore_ascii_case(tail);
    let passwords: [&[u8]; 6] = [b"password", b"passwd", b"passphrase", b"pwd", b"passcode", b"pass"];
    let keys: [&[u8]; 8] =
        [b"key", b"token", b"secret", b"auth", b"credential", b"credentials", b"bearer", b"authorization"];
    if passwords.iter().any(|tail| ends(tail)) {
        return Some(Need::Password);
    }
    keys.iter().any(|tail| ends(tail)).then_some(Need::Key)
}

/// A password, not prose or code: two classes of characters, of which a capital at the front, dots
/// and underscores are none; or digits alone.
fn is_password(value: &[u8]) -> bool {
    // Two of four classes: dictionary words and identifiers of code have one.
    let classes = [
        value.iter().any(u8::is_ascii_lowercase),
        value.iter().skip(1).any(u8::is_ascii_uppercase),
        value.iter().any(u8::is_ascii_digit),
        value.iter().any(|b| b.is_ascii_punctuation() && !b"._-:/".contains(b)),
    ];
    classes.iter().filter(|c| **c).count() >= 2 && !value.contains(&b' ') || value.iter().all(|b| b.is_ascii_digit())
}

/// Whether `value` is long, mixed and random enough for a key, and is no path or UUID.
pub(crate) fn is_key(value: &[u8]) -> bool {
    let mixed = value.iter().any(u8::is_ascii_digit) && value.iter().any(u8::is_ascii_alphabetic);
    // Paths and dotted names are no keys.
    // Base64 has a slash for every 64 characters on average; paths have many more.
    let named = value.iter().filter(|b| b"./".contains(b)).count() > 4;
    value.len() >= 16
        && mixed
        && !named
        && !is_uuid(value)
        && value.iter().all(|b| is_value(*b))
        && is_random(&Work::unbounded(), value, 3.0)
}

/// The long run at `at` when a word for a secret stands close before it, as its end.
pub(crate) fn near_cue(text: &Text<'_>, at: usize) -> Option<usize> {
    let run = value_run(text, at);
    let value = &text[at..run.next];
    if value.len() < 20 {
        return None;
    }
    let marks = marks_of(text, at, run);
    let mixed = marks.digit > at && marks.lower > at && marks.upper > at;
    if !mixed || is_uuid(value) || !is_random(text.work, value, 3.5) || is_placeholder(text.work, value) {
        return None;
    }
    let before = cue::before(text, at);
    // `Authorization: Basic` has no word for a secret in it and is one.
    let basic = text[..at].len() >= 6 && text[at - 6..at].eq_ignore_ascii_case(b"basic ");
    (basic || before.nearest & cue::SECRET != 0 && !is_word(byte_before(text, at))).then_some(run.next)
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_uuid(value: &[u8]) -> bool {
    value.len() == 36
        && value.iter().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => *b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

fn is_placeholder(work: &Work, value: &[u8]) -> bool {
    let mut lower = [0_u8; 64];
    work.charge(value.len().min(64));
    let shown = &value[..value.len().min(64)];
    for (to, from) in lower.iter_mut().zip(shown) {
        *to = from.to_ascii_lowercase();
    }
    PLACEHOLDERS.iter().any(|p| memchr::memmem::find(&lower[..shown.len()], p).is_some())
}

/// Whether the Shannon entropy of the first 256 bytes is at least `bits` a byte.
fn is_random(work: &Work, value: &[u8], bits: f64) -> bool {
    let value = &value[..value.len().min(256)];
    work.charge(value.len());
    let mut counts = [0_u16; 256];
    value.iter().for_each(|b| counts[usize::from(*b)] += 1);
    let length = value.len() as f64;
    let share = |count: &u16| f64::from(*count) / length;
    let entropy: f64 = counts.iter().filter(|c| **c > 0).map(share).map(|p| -p * p.log2()).sum();
    entropy >= bits
}
