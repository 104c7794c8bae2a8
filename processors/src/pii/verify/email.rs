//! E-mail addresses, around an `@`. Length limits of RFC 5321 section 4.5.3.1; no quoted local parts.

use super::{byte, run_end, run_start_after};
use crate::pii::work::Text;

const LOCAL_BYTES_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 255;

/// The address whose `@` stands at `at`, as (start, end).
pub(crate) fn verify(text: &Text<'_>, at: usize) -> Option<(usize, usize)> {
    let local = |b: u8| b.is_ascii_alphanumeric() || b >= 0x80 || b"._%+-'!#$&*/=?^`{|}~".contains(&b);
    let floor = at.saturating_sub(LOCAL_BYTES_MAX + 1);
    let mut start = run_start_after(text, at, floor, local);
    // Further looks are at these same few bytes, and at a domain's, which hold no other `@`.
    // Punctuation at the front belongs to the sentence around, and `key=` or `/` to what is before.
    if let Some(cut) = text[start..at].iter().rposition(|b| b"=/?&{}|'`!#$*^~".contains(b)) {
        start += cut + 1;
    }
    start += text[start..at].iter().take_while(|b| b"._%+-".contains(b)).count();
    let in_local = &text[start..at];
    if in_local.is_empty() || in_local.len() > LOCAL_BYTES_MAX || in_local.ends_with(b".") {
        return None;
    }
    let end = domain_end(text, at + 1)?;
    // `git@host:path` is where code lies, not whom to write to.
    let is_remote = in_local == b"git" && byte(text, end) == b':';
    (!is_remote).then_some((start, end))
}

/// End of the domain from `at` on: at least two labels, the last of letters.
fn domain_end(text: &Text<'_>, at: usize) -> Option<usize> {
    let label = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b >= 0x80;
    let (mut next, mut end, mut labels) = (at, None, 0);
    while next - at <= DOMAIN_BYTES_MAX {
        let label_end = run_end(text, next, label);
        let bytes = &text[next..label_end];
        if bytes.is_empty() || bytes[0] == b'-' {
            break;
        }
        labels += 1;
        // `lodash@4.17.21` is a version: no top-level domain has digits alone.
        let is_top = bytes.len() >= 2 && bytes.iter().all(|b| b.is_ascii_alphabetic() || *b >= 0x80);
        if labels >= 2 && (is_top || bytes.starts_with(b"xn--")) {
            end = Some(label_end);
        }
        if byte(text, label_end) != b'.' {
            break;
        }
        next = label_end + 1;
    }
    end
}
