//! Hand-written verifiers: each looks at one place of a text and says what stands there.
//!
//! Anchored and without backtracking; they allocate nothing. Where to look is decided elsewhere. Every
//! loop over bytes is one of the four below, which count, or counts by itself.

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

use super::work::Text;

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
pub(super) fn run_end(text: &Text<'_>, at: usize, class: impl Fn(u8) -> bool) -> usize {
    run_end_before(text, at, text.len(), class)
}

/// As [`run_end`], but `stop` at the latest: for a value that is refused when it is longer.
pub(super) fn run_end_before(text: &Text<'_>, at: usize, stop: usize, class: impl Fn(u8) -> bool) -> usize {
    let stop = stop.min(text.len());
    let end = text[at..stop].iter().position(|b| !class(*b)).map_or(stop, |n| at + n);
    text.work.charge(end - at + 1);
    end
}

/// First index of the run that ends before `at`.
pub(super) fn run_start(text: &Text<'_>, at: usize, class: impl Fn(u8) -> bool) -> usize {
    run_start_after(text, at, 0, class)
}

/// As [`run_start`], but `floor` at the earliest.
pub(super) fn run_start_after(text: &Text<'_>, at: usize, floor: usize, class: impl Fn(u8) -> bool) -> usize {
    let start = text[floor..at].iter().rposition(|b| !class(*b)).map_or(floor, |n| floor + n + 1);
    text.work.charge(at - start + 1);
    start
}
