//! Hand-written verifiers: each looks at one place of a text and says what stands there.
//!
//! Anchored and without backtracking; they allocate nothing. Where to look is decided elsewhere.

pub(super) mod address;
pub(super) mod date;
pub(super) mod email;
pub(super) mod iban;
pub(super) mod name;
pub(super) mod net;
pub(super) mod number;
pub(super) mod secret;

#[cfg(test)]
mod tests;

/// The byte at `at`, 0 behind either end.
pub(super) fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(0)
}

/// The byte before `at`, 0 at the start.
pub(super) fn byte_before(text: &[u8], at: usize) -> u8 {
    at.checked_sub(1).map_or(0, |at| byte(text, at))
}

/// Whether `b` continues a word: letter, digit, underscore or part of a multi-byte character.
pub(super) fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

/// First index from `at` on whose byte `class` refuses.
pub(super) fn run_end(text: &[u8], at: usize, class: impl Fn(u8) -> bool) -> usize {
    text[at..].iter().position(|b| !class(*b)).map_or(text.len(), |n| at + n)
}

/// First index of the run that ends before `at`.
pub(super) fn run_start(text: &[u8], at: usize, class: impl Fn(u8) -> bool) -> usize {
    text[..at].iter().rposition(|b| !class(*b)).map_or(0, |n| n + 1)
}
