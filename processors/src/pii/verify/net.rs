//! IPv6 and MAC addresses around a colon, MAC addresses with hyphens, URLs and credentials in them.
//!
//! IPv6 text is checked by the standard library (RFC 4291). Loopback and unspecified addresses are
//! of nobody and not reported.

use std::net::Ipv6Addr;

use super::{byte, byte_before, is_word, run_end, run_end_before, run_start};
use crate::pii::work::Text;

/// Longest IPv6 text: eight groups, or six and an IPv4 address.
const V6_BYTES_MAX: usize = 45;

/// The IPv6 address around the colon at `at`, when that is its first colon.
pub(crate) fn ipv6(text: &Text<'_>, at: usize) -> Option<(usize, usize)> {
    let hex = |b: u8| b.is_ascii_hexdigit();
    let start = run_start(text, at, hex);
    // A group has four digits; anything joined to its left makes this a later colon of the same candidate.
    if at - start > 4 || is_word(byte_before(text, start)) || b":.".contains(&byte_before(text, start)) {
        return None;
    }
    let mut end = run_end(text, at, |b| hex(b) || b == b':' || b == b'.');
    while end > at && (b".".contains(&text[end - 1]) || text[..end].ends_with(b":") && !text[..end].ends_with(b"::")) {
        end -= 1;
    }
    let candidate = &text[start..end];
    if candidate.len() > V6_BYTES_MAX || is_word(byte(text, end)) || memchr::memchr_iter(b':', candidate).count() < 2 {
        return None;
    }
    let address: Ipv6Addr = std::str::from_utf8(candidate).ok()?.parse().ok()?;
    // `a::b` and `dead::beef` are paths of code.
    let has_digit = candidate.iter().any(u8::is_ascii_digit);
    (has_digit && !address.is_loopback() && !address.is_unspecified()).then_some((start, end))
}

/// The MAC address that starts at `at`: six pairs joined by `:` or `-`.
pub(crate) fn mac(text: &Text<'_>, at: usize) -> Option<usize> {
    let candidate = text.get(at..at + 17)?;
    let join = candidate[2];
    let pairs = candidate.iter().enumerate().all(|(i, b)| match i % 3 {
        2 => *b == join,
        _ => b.is_ascii_hexdigit(),
    });
    let free = !is_word(byte_before(text, at)) && !is_word(byte(text, at + 17));
    let alone = byte_before(text, at) != join && byte(text, at + 17) != join;
    // All zeros and all ones are placeholders and broadcasts: of nobody.
    let empty =
        candidate.iter().all(|b| *b == join || *b == b'0') || candidate.iter().all(|b| *b == join || *b | 0x20 == b'f');
    (pairs && free && alone && !empty && (join == b':' || join == b'-')).then_some(at + 17)
}

/// A URL and what is secret in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// `user:password` of the authority.
    pub(crate) userinfo: Option<(usize, usize)>,
}

/// The URL whose `://` starts at `at`.
pub(crate) fn url(text: &Text<'_>, at: usize) -> Option<Url> {
    if !text[at..].starts_with(b"://") {
        return None;
    }
    let start = run_start(text, at, |b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let authority = at + 3;
    let plain = |b: u8| b > b' ' && b != 0x7f && !b"\"'<>`\\^{}|".contains(&b);
    // URLs may stand inside a URL, as deep as the text is long: all of them end here.
    let end = text.run(&text.urls, authority, b".,;:!?)]*", || run_end(text, authority, plain)).trimmed;
    if start == at || !text[start].is_ascii_alphabetic() || end == authority {
        return None;
    }
    let authority_end = run_end_before(text, authority, end, |b| !b"/?#".contains(&b));
    // The last `@`: a password may hold one.
    let userinfo = memchr::memrchr(b'@', &text[authority..authority_end]).map(|n| (authority, authority + n));
    let userinfo = userinfo.filter(|(first, next)| text[*first..*next].contains(&b':'));
    Some(Url { start, end, userinfo })
}
