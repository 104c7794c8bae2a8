//! JSON to (path, decoded string): every value is scanned as what its path says it is, and every
//! finding is mapped back to bytes of the document as it was written.
//!
//! Lenient: it accepts a superset of RFC 8259 and never changes a byte itself. JSON inside strings
//! and inside free text is followed too. What is nested too deeply is one finding as a whole.

use schemas::limits::JSON_DEPTH_MAX;

use super::kind::{Grade, Kind, Span};
use super::path::{self, Class};
use super::session::Known;
use super::text;

/// Most levels of JSON inside JSON strings that are followed; each doubles the escapes.
const STRING_LEVELS_MAX: u8 = 5;
/// Most places of one text where JSON is tried in vain.
const ATTEMPTS_MAX: usize = 16;

/// The scan of one content.
pub(super) struct Walk<'a, 'o> {
    pub(super) known: Option<Known<'a>>,
    pub(super) spans: &'o mut Vec<Span>,
    /// Buffers of decoded strings, kept for the next one.
    pub(super) spare: Vec<Decoded>,
}

/// A string without its escapes, and where each byte of it stood.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    text: String,
    /// Offset in the scanned content per byte, and of the end.
    places: Vec<u32>,
}

/// A text on some level of strings in strings.
#[derive(Clone, Copy)]
struct Level<'t> {
    text: &'t str,
    /// Offset in the scanned content per byte; `None`: the text is a piece of it from `base` on.
    places: Option<&'t [u32]>,
    base: usize,
    depth: u8,
}

impl<'t> Level<'t> {
    fn place(&self, at: usize) -> usize {
        self.places.map_or(self.base + at, |places| places[at] as usize)
    }

    /// The bytes `start..end` as a level of their own; `deeper` for the inside of a string.
    fn piece(&self, start: usize, end: usize, deeper: bool) -> Level<'t> {
        Level {
            text: &self.text[start..end],
            places: self.places.map(|places| &places[start..=end]),
            base: self.base + start,
            depth: self.depth + u8::from(deeper),
        }
    }
}

/// What the path says about a value.
#[derive(Clone, Copy, Default)]
struct Context {
    class: Class,
    /// Whether the object around describes a person.
    role: bool,
    nesting: usize,
}

impl Walk<'_, '_> {
    /// Scans a content of which `is_json` is known or not.
    pub(super) fn content(&mut self, text: &str, is_json: bool) {
        let level = Level { text, places: None, base: 0, depth: 0 };
        if (is_json || looks_like_json(text)) && self.document(level, Context::default()) {
            return;
        }
        self.mixed(level);
    }

    /// A level that is one JSON value and nothing else; whether it was. Leaves no spans if not.
    fn document(&mut self, level: Level<'_>, context: Context) -> bool {
        let before = self.spans.len();
        let end = self.value(level, skip_space(level.text, 0), context);
        let whole = end.is_some_and(|end| skip_space(level.text, end) == level.text.len());
        if !whole {
            self.spans.truncate(before);
        }
        whole
    }

    /// Free text with JSON in it.
    fn mixed(&mut self, level: Level<'_>) {
        let bytes = level.text.as_bytes();
        let (mut plain, mut at, mut attempts) = (0, 0, 0);
        while let Some(found) = memchr::memchr2(b'{', b'[', &bytes[at..]).map(|n| at + n) {
            at = found + 1;
            if attempts == ATTEMPTS_MAX || !opens_json(bytes, found) {
                if attempts == ATTEMPTS_MAX {
                    break;
                }
                continue;
            }
            let before = self.spans.len();
            match self.value(level, found, Context::default()) {
                Some(end) => {
                    let walked = self.spans.split_off(before);
                    self.plain(level.piece(plain, found, false));
                    self.spans.extend(walked);
                    (plain, at) = (end, end);
                }
                None => {
                    self.spans.truncate(before);
                    attempts += 1;
                }
            }
        }
        self.plain(level.piece(plain, bytes.len(), false));
    }

    /// Free text, its findings mapped to the content.
    fn plain(&mut self, level: Level<'_>) {
        let before = self.spans.len();
        text::scan(level.text, self.known, self.spans);
        for span in &mut self.spans[before..] {
            (span.start, span.end) = (level.place(span.start), level.place(span.end));
            span.depth = level.depth;
        }
    }

    /// The value at `at`, as its end; `None` where there is none.
    fn value(&mut self, level: Level<'_>, at: usize, context: Context) -> Option<usize> {
        match level.text.as_bytes().get(at)? {
            b'{' | b'[' if context.nesting >= JSON_DEPTH_MAX => self.too_deep(level, at),
            b'{' => self.object(level, at, context),
            b'[' => self.array(level, at, context),
            b'"' => {
                let end = string_end(level.text, at)?;
                self.with_decoded(level.piece(at + 1, end - 1, true), |walk, inner| walk.string(inner, context))?;
                Some(end)
            }
            b'-' | b'0'..=b'9' => Some(self.number(level, at, context)),
            b't' => level.text[at..].starts_with("true").then_some(at + 4),
            b'f' => level.text[at..].starts_with("false").then_some(at + 5),
            b'n' => level.text[at..].starts_with("null").then_some(at + 4),
            _ => None,
        }
    }

    fn object(&mut self, level: Level<'_>, at: usize, context: Context) -> Option<usize> {
        let bytes = level.text.as_bytes();
        let role = context.class == Class::Role || context.role && context.class != Class::Plain;
        let mut next = skip_space(level.text, at + 1);
        if bytes.get(next) == Some(&b'}') {
            return Some(next + 1);
        }
        loop {
            let key_end = (bytes.get(next) == Some(&b'"')).then(|| string_end(level.text, next)).flatten()?;
            let class = self.key(level, next, key_end)?;
            let colon = skip_space(level.text, key_end);
            if bytes.get(colon) != Some(&b':') {
                return None;
            }
            let inner = Context { class, role, nesting: context.nesting + 1 };
            let end = self.value(level, skip_space(level.text, colon + 1), inner)?;
            next = skip_space(level.text, end);
            match bytes.get(next)? {
                b',' => next = skip_space(level.text, next + 1),
                b'}' => return Some(next + 1),
                _ => return None,
            }
        }
    }

    /// Class of the key between quotes `at..end`; findings inside the key are reported.
    fn key(&mut self, level: Level<'_>, at: usize, end: usize) -> Option<Class> {
        let inside = level.piece(at + 1, end - 1, true);
        if inside.text.bytes().any(|b| b.is_ascii_digit() || b"@ \\".contains(&b)) {
            self.with_decoded(inside, Self::plain)?;
        }
        Some(path::classify(inside.text))
    }

    fn array(&mut self, level: Level<'_>, at: usize, context: Context) -> Option<usize> {
        let bytes = level.text.as_bytes();
        let mut next = skip_space(level.text, at + 1);
        if bytes.get(next) == Some(&b']') {
            return Some(next + 1);
        }
        let inner = Context { nesting: context.nesting + 1, ..context };
        loop {
            let end = self.value(level, next, inner)?;
            next = skip_space(level.text, end);
            match bytes.get(next)? {
                b',' => next = skip_space(level.text, next + 1),
                b']' => return Some(next + 1),
                _ => return None,
            }
        }
    }

    /// Hands the inside of a string to `look`, without its escapes; `None` for a broken escape.
    fn with_decoded(&mut self, inside: Level<'_>, look: impl FnOnce(&mut Self, Level<'_>)) -> Option<()> {
        if memchr::memchr(b'\\', inside.text.as_bytes()).is_none() {
            look(self, inside);
            return Some(());
        }
        let mut decoded = self.spare.pop().unwrap_or_default();
        let ok = decode(inside, &mut decoded);
        if ok {
            let (text, places) = (decoded.text.as_str(), Some(decoded.places.as_slice()));
            look(self, Level { text, places, base: 0, depth: inside.depth });
        }
        self.spare.push(decoded);
        ok.then_some(())
    }

    /// A decoded string value.
    fn string(&mut self, level: Level<'_>, context: Context) {
        if let Some(kind) = path::kind_of(context.class, context.role, level.text) {
            let start = level.text.len() - level.text.trim_start().len();
            let end = level.text.trim_end().len();
            self.whole(level, start, end, kind);
        } else if !looks_like_json(level.text) {
            self.mixed(level);
        } else if level.depth > STRING_LEVELS_MAX || context.nesting >= JSON_DEPTH_MAX {
            self.whole(level, 0, level.text.len(), Kind::Unscanned);
        } else if !self.document(level, Context { nesting: context.nesting + 1, ..context }) {
            self.mixed(level);
        }
    }

    /// The bytes `start..end` of a level as one certain finding.
    fn whole(&mut self, level: Level<'_>, start: usize, end: usize, kind: Kind) {
        let span = Span::new(level.place(start), level.place(end), kind, Grade::Certain);
        self.spans.push(Span { depth: level.depth, ..span });
    }

    /// A number without quotes, as its end.
    fn number(&mut self, level: Level<'_>, at: usize, context: Context) -> usize {
        let digits = level.text[at..].bytes().take_while(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)).count();
        let number = &level.text[at..at + digits];
        let by_path = match context.class {
            Class::Value(Kind::Secret | Kind::Person | Kind::Username | Kind::Address) => None,
            class => path::kind_of(class, context.role, number),
        };
        let before = self.spans.len();
        match by_path {
            Some(kind) => self.spans.push(Span::new(0, digits, kind, Grade::Certain)),
            None if digits >= 12 => text::scan(number, self.known, self.spans),
            None => {}
        }
        self.spans.truncate(before + 1);
        for span in &mut self.spans[before..] {
            (span.start, span.end) = (level.place(at), level.place(at + digits));
            (span.bare, span.depth) = (true, level.depth);
        }
        at + digits
    }

    /// A value nested deeper than is followed: one finding over all of it.
    fn too_deep(&mut self, level: Level<'_>, at: usize) -> Option<usize> {
        let end = balanced_end(level.text, at)?;
        let (start, stop) = (level.place(at), level.place(end));
        let span = Span::new(start, stop, Kind::Unscanned, Grade::Certain);
        self.spans.push(Span { bare: true, depth: level.depth, ..span });
        Some(end)
    }
}

fn looks_like_json(text: &str) -> bool {
    let bytes = text.as_bytes();
    let first = skip_space(text, 0);
    matches!(bytes.get(first), Some(b'{' | b'[')) && opens_json(bytes, first)
}

/// Whether the bracket at `at` is followed by what may stand first in an object or array.
fn opens_json(bytes: &[u8], at: usize) -> bool {
    let rest = &bytes[at + 1..];
    let next = rest.iter().find(|b| !b.is_ascii_whitespace());
    match bytes[at] {
        b'{' => matches!(next, Some(b'"' | b'}')),
        _ => matches!(next, Some(b'"' | b'{' | b'[' | b']' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n')),
    }
}

fn skip_space(text: &str, at: usize) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    at + rest.iter().take_while(|b| b" \n\r\t".contains(b)).count()
}

/// After the closing quote of the string that opens at `at`.
fn string_end(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut next = at + 1;
    loop {
        next += memchr::memchr2(b'"', b'\\', bytes.get(next..)?)?;
        match bytes[next] {
            b'"' => return Some(next + 1),
            _ => next += 2,
        }
    }
}

/// After the bracket that closes the one at `at`; strings are skipped. Not recursive.
fn balanced_end(text: &str, at: usize) -> Option<usize> {
    let (mut next, mut open) = (at, 0_usize);
    while let Some(b) = text.as_bytes().get(next) {
        match b {
            b'"' => {
                next = string_end(text, next)?;
                continue;
            }
            b'{' | b'[' => open += 1,
            b'}' | b']' => open -= 1,
            _ => {}
        }
        next += 1;
        if open == 0 {
            return Some(next);
        }
    }
    None
}

/// The string `level` without escapes; `false` for a broken escape.
fn decode(level: Level<'_>, out: &mut Decoded) -> bool {
    out.text.clear();
    out.places.clear();
    let mut next = 0;
    while next < level.text.len() {
        let plain = memchr::memchr(b'\\', &level.text.as_bytes()[next..]).unwrap_or(level.text.len() - next);
        out.text.push_str(&level.text[next..next + plain]);
        out.places.extend((next..next + plain).map(|at| level.place(at) as u32));
        next += plain;
        if next == level.text.len() {
            break;
        }
        let Some((c, length)) = escape(&level.text[next..]) else { return false };
        out.text.push(c);
        out.places.extend(std::iter::repeat_n(level.place(next) as u32, c.len_utf8()));
        next += length;
    }
    out.places.push(level.place(level.text.len()) as u32);
    true
}

/// The character that the escape at the start of `text` stands for, and the escape's length. A lone
/// surrogate stands for U+FFFD.
fn escape(text: &str) -> Option<(char, usize)> {
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
    let second = text.get(6..8).filter(|mark| *mark == "\\u").and_then(|_| unit(8));
    match (first, second) {
        (0xd800..0xdc00, Some(low @ 0xdc00..0xe000)) => {
            let code = 0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00);
            Some((char::from_u32(code).unwrap_or('\u{fffd}'), 12))
        }
        _ => Some((char::from_u32(first).unwrap_or('\u{fffd}'), 6)),
    }
}

/// The string without one level of escapes; as it is where an escape is broken.
pub(super) fn unescape(text: &str) -> String {
    let mut decoded = Decoded::default();
    match decode(Level { text, places: None, base: 0, depth: 0 }, &mut decoded) {
        true => decoded.text,
        false => text.to_owned(),
    }
}
