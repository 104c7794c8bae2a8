//! Where the tokens of JSON end, and what its escapes stand for. Each function looks at the token alone.
//!
//! It knows no values: which tokens may follow each other is `json`'s to say.

/// Whether the bracket at `at` is followed by what may stand first in an object or array.
pub(super) fn opens_json(bytes: &[u8], at: usize) -> bool {
    let rest = &bytes[at + 1..];
    let next = rest.iter().find(|b| !b.is_ascii_whitespace());
    match bytes[at] {
        b'{' => matches!(next, Some(b'"' | b'}')),
        // What may stand first in an array by RFC 8259; `[Mia]` and `[x]` are prose and Markdown.
        _ => matches!(next, Some(b'"' | b'{' | b'[' | b']' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n')),
    }
}

/// First index from `at` on that is no space of JSON.
pub(super) fn skip_space(text: &str, at: usize) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    at + rest.iter().take_while(|b| b" \n\r\t".contains(b)).count()
}

/// After the number at `at`, and what letters and signs follow it.
pub(super) fn number_end(text: &str, at: usize) -> usize {
    at + text[at..].bytes().take_while(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)).count()
}

/// After the closing quote of the string that opens at `at`; `None` too where an escape is broken, as
/// such a string could not be decoded later.
pub(super) fn string_end(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut next = at + 1;
    loop {
        next += memchr::memchr2(b'"', b'\\', bytes.get(next..)?)?;
        if bytes[next] == b'"' {
            return Some(next + 1);
        }
        let (_, length) = escape(&text[next..])?;
        next += length;
    }
}

/// As [`string_end`], whatever the escapes stand for.
fn quoted_end(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut next = at + 1;
    loop {
        next += memchr::memchr2(b'"', b'\\', bytes.get(next..)?)?;
        if bytes[next] == b'"' {
            return Some(next + 1);
        }
        next += 2;
    }
}

/// After the bracket that closes the one at `at`; strings are skipped. Not recursive.
pub(super) fn balanced_end(text: &str, at: usize) -> Option<usize> {
    let (mut next, mut open) = (at, 0_usize);
    while let Some(b) = text.as_bytes().get(next) {
        match b {
            b'"' => {
                next = quoted_end(text, next)?;
                continue;
            }
            b'{' | b'[' => open += 1,
            b'}' | b']' => open -= 1,
            _ => {}
        }
        next += 1;
        // Whether braces pair with braces is not asked: all of it is one finding, the longer the safer.
        if open == 0 {
            return Some(next);
        }
    }
    None
}

/// The character that the escape at the start of `text` stands for, and the escape's length. A lone
/// surrogate stands for U+FFFD.
pub(super) fn escape(text: &str) -> Option<(char, usize)> {
    let c = match text.as_bytes().get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(text),
        _ => return None,
    };
    Some((c, 2))
}

fn unicode(text: &str) -> Option<(char, usize)> {
    let unit = |at: usize| u32::from_str_radix(text.get(at..at + 4)?, 16).ok();
    let first = unit(2)?;
    // UTF-16 halves count only as a pair; one by itself is no character, and no reason to give the string up.
    let second = text.get(6..8).filter(|mark| *mark == "\\u").and_then(|_| unit(8));
    match (first, second) {
        (0xd800..0xdc00, Some(low @ 0xdc00..0xe000)) => {
            let code = 0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00);
            Some((char::from_u32(code).unwrap_or('\u{fffd}'), 12))
        }
        _ => Some((char::from_u32(first).unwrap_or('\u{fffd}'), 6)),
    }
}
