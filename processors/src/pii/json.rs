//! JSON to (path, decoded string): every value is scanned as what its path says it is, and every
//! finding is mapped back to bytes of the document as it was written.
//!
//! Lenient: it accepts a superset of RFC 8259 and never changes a byte itself. JSON inside strings
//! and inside free text is followed too. What is nested too deeply is one finding as a whole. Linear in
//! the text, however often JSON in it breaks off.

use schemas::limits::JSON_DEPTH_MAX;

use super::kind::{Grade, Kind, Span};
use super::lexis::{balanced_end, escape, number_end, opens_json, skip_space, string_end};
use super::path::{self, Class};
use super::session::Known;
use super::text;
use super::work::Work;

/// Most levels of JSON inside JSON strings that are followed; each doubles the escapes.
const STRING_LEVELS_MAX: u8 = 5;
/// Most places of one text where JSON is tried in vain.
const ATTEMPTS_MAX: usize = 16;
/// Fewer digits without quotes are no number that free text would make a finding of.
const NUMBER_BYTES_MIN: usize = 12;

/// The scan of one content.
///
/// Every level of strings in strings takes two passes. The first reads the structure alone and notes
/// keys and values; only what is a whole value is looked into by the second. A scan that looks into
/// strings before it knows that their object closes does so again from each bracket inside: 17 times
/// per level, 17⁶ times for 238 bytes.
pub(super) struct Walk<'a, 'o> {
    known: Option<Known<'a>>,
    work: &'o Work,
    spans: &'o mut Vec<Span>,
    /// What the first pass has noted, level upon level.
    parts: Vec<Part>,
    /// Brackets that are open in the first pass; after a failure, those that were.
    open: Vec<Bracket>,
    /// Buffers of decoded strings, kept for the next one.
    spare: Vec<Decoded>,
}

/// A key or a value that the first pass has noted. 16 bytes, since a text may hold one for every four.
#[derive(Clone, Copy)]
struct Part {
    start: u32,
    end: u32,
    what: What,
    class: Class,
    role: bool,
    nesting: u8,
}

#[derive(Clone, Copy)]
enum What {
    /// The inside of a key.
    Key,
    /// The inside of a string value.
    Text,
    /// A number.
    Number,
    /// A value nested too deeply.
    Deep,
}

/// An object or array that is open.
#[derive(Clone, Copy)]
struct Bracket {
    at: usize,
    is_object: bool,
    /// Context of its members; an object sets the class of each by its key.
    inner: Context,
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
    /// At most one more than [`JSON_DEPTH_MAX`].
    nesting: u8,
}

impl<'a, 'o> Walk<'a, 'o> {
    pub(super) fn new(known: Option<Known<'a>>, work: &'o Work, spans: &'o mut Vec<Span>) -> Self {
        Self { known, work, spans, parts: Vec::new(), open: Vec::new(), spare: Vec::new() }
    }

    /// Scans a content of which `is_json` is known or not.
    pub(super) fn content(&mut self, text: &str, is_json: bool) {
        let level = Level { text, places: None, base: 0, depth: 0 };
        // What only claims to be JSON is scanned as text: a wrong media type must not hide anything.
        if (is_json || looks_like_json(text)) && self.document(level, Context::default()) {
            return;
        }
        self.mixed(level);
    }

    /// A level that is one JSON value and nothing else; whether it was. Leaves no spans if not.
    fn document(&mut self, level: Level<'_>, context: Context) -> bool {
        let first = self.parts.len();
        let end = self.outline(level.text, skip_space(level.text, 0), context);
        // `{} mia@b.io` begins as a document and is none: what follows the value is text.
        let whole = end.is_some_and(|end| skip_space(level.text, end) == level.text.len());
        if whole {
            self.look_into(level, first);
        }
        self.parts.truncate(first);
        whole
    }

    /// Free text with JSON in it.
    fn mixed(&mut self, level: Level<'_>) {
        let bytes = level.text.as_bytes();
        self.work.charge(bytes.len());
        let (mut plain, mut at, mut attempts) = (0, 0, 0);
        // Brackets that an attempt left open: from each of them, JSON breaks off at the same place.
        let mut broken: Vec<usize> = Vec::new();
        // Brackets inside the strings of a failed attempt are tried too: the quotes around them may be prose.
        while let Some(found) = memchr::memchr2(b'{', b'[', &bytes[at..]).map(|n| at + n) {
            at = found + 1;
            if attempts == ATTEMPTS_MAX || self.work.is_spent() {
                break;
            }
            // No attempt is spent on code and on citations: `fn f() {`, `[a]`.
            if !opens_json(bytes, found) {
                continue;
            }
            let first = self.parts.len();
            let end = if broken.contains(&found) { None } else { self.attempt(level.text, found, &mut broken) };
            match end {
                // A replaced number brings its own quotes, which have 2ⁿ backslashes on level n: at level
                // 14, which fits into an event, each would be 32 KiB.
                Some(_) if level.depth > STRING_LEVELS_MAX => {
                    self.parts.truncate(first);
                    return self.whole(level, 0, level.text.len(), Kind::Unscanned);
                }
                Some(end) => {
                    // The text in front first, so that findings are nearly in order when they are sorted.
                    self.plain(level.piece(plain, found, false));
                    self.look_into(level, first);
                    (plain, at) = (end, end);
                }
                None => attempts += 1,
            }
            self.parts.truncate(first);
        }
        self.plain(level.piece(plain, bytes.len(), false));
    }

    /// The first pass from the bracket at `at` on; where it breaks off, the brackets left open go to `broken`.
    fn attempt(&mut self, text: &str, at: usize, broken: &mut Vec<usize>) -> Option<usize> {
        let end = self.outline(text, at, Context::default());
        if end.is_none() {
            broken.extend(self.open.iter().map(|bracket| bracket.at));
        }
        end
    }

    /// Free text, its findings mapped to the content.
    fn plain(&mut self, level: Level<'_>) {
        let before = self.spans.len();
        text::scan(level.text, self.known, self.work, self.spans);
        for span in &mut self.spans[before..] {
            (span.start, span.end) = (level.place(span.start), level.place(span.end));
            span.depth = level.depth;
        }
    }

    /// The first pass over the value at `at`, as its end; `None` where there is none. Notes what is to be
    /// looked into. Not recursive: the brackets that are open are a list.
    fn outline(&mut self, text: &str, at: usize, context: Context) -> Option<usize> {
        self.open.clear();
        let (mut next, mut context) = (at, context);
        loop {
            let Some(end) = self.value(text, &mut next, &mut context)? else { continue };
            match self.close(text, end, &mut context)? {
                Closed::Goes(member) => next = member,
                Closed::Whole(end) => return Some(end),
            }
        }
    }

    fn skip_space(&self, text: &str, at: usize) -> usize {
        let next = skip_space(text, at);
        self.work.charge(next - at + 1);
        next
    }

    fn string_end(&self, text: &str, at: usize) -> Option<usize> {
        let end = string_end(text, at);
        self.work.charge(end.unwrap_or(text.len()) - at);
        end
    }

    /// The value at `at`: its end, or `Some(None)` where it opens and `at` is moved to its first member.
    fn value(&mut self, text: &str, at: &mut usize, context: &mut Context) -> Option<Option<usize>> {
        let start = *at;
        match text.as_bytes().get(start)? {
            b'{' | b'[' if usize::from(context.nesting) >= JSON_DEPTH_MAX => {
                let end = balanced_end(text, start);
                // Brackets that close nothing are looked at up to the end of the text.
                self.work.charge(end.unwrap_or(text.len()) - start);
                let end = end?;
                self.note(What::Deep, start, end, *context);
                Some(Some(end))
            }
            bracket @ (b'{' | b'[') => self.opened(text, *bracket == b'{', at, context),
            b'"' => {
                let end = self.string_end(text, start)?;
                // Less than three bytes are no finding but by a name.
                if end - start - 2 >= 3 || context.class != Class::Plain {
                    self.note(What::Text, start + 1, end - 1, *context);
                }
                Some(Some(end))
            }
            b'-' | b'0'..=b'9' => {
                let end = number_end(text, start);
                self.work.charge(end - start);
                if end - start >= NUMBER_BYTES_MIN || context.class != Class::Plain {
                    self.note(What::Number, start, end, *context);
                }
                Some(Some(end))
            }
            // Literals hold nothing; they are checked because what follows them must be JSON as well.
            b't' => text[start..].starts_with("true").then_some(Some(start + 4)),
            b'f' => text[start..].starts_with("false").then_some(Some(start + 5)),
            b'n' => text[start..].starts_with("null").then_some(Some(start + 4)),
            _ => None,
        }
    }

    /// As [`Walk::value`], at a bracket.
    fn opened(&mut self, text: &str, is_object: bool, at: &mut usize, context: &mut Context) -> Option<Option<usize>> {
        let bytes = text.as_bytes();
        // A person's `address` object still describes the person; an object under a key that says nothing does not.
        let describes = context.class == Class::Role || context.role && context.class != Class::Plain;
        let role = if is_object { describes } else { context.role };
        // An array hands its own class on: `"emails": [..]` names each of its items.
        let inner = Context { role, nesting: context.nesting + 1, ..*context };
        self.open.push(Bracket { at: *at, is_object, inner });
        let next = self.skip_space(text, *at + 1);
        if bytes.get(next) == Some(if is_object { &b'}' } else { &b']' }) {
            self.open.pop();
            return Some(Some(next + 1));
        }
        *at = self.member(text, next, is_object, inner, context)?;
        Some(None)
    }

    /// Where the value of the member at `next` begins; `context` becomes its context.
    fn member(
        &mut self,
        text: &str,
        next: usize,
        is_object: bool,
        inner: Context,
        context: &mut Context,
    ) -> Option<usize> {
        *context = inner;
        if !is_object {
            return Some(next);
        }
        let bytes = text.as_bytes();
        let key_end = (bytes.get(next) == Some(&b'"')).then(|| self.string_end(text, next)).flatten()?;
        let key = &text[next + 1..key_end - 1];
        self.work.charge(key.len());
        // Only keys that could hold a value are scanned as text, as in a map from address to count; names of fields
        // are most of all keys.
        if key.bytes().any(|b| b.is_ascii_digit() || b"@ \\".contains(&b)) {
            self.note(What::Key, next + 1, key_end - 1, inner);
        }
        context.class = path::classify(key);
        let colon = self.skip_space(text, key_end);
        (bytes.get(colon) == Some(&b':')).then(|| self.skip_space(text, colon + 1))
    }

    /// Closes what ends behind the value that ended at `end`.
    fn close(&mut self, text: &str, mut end: usize, context: &mut Context) -> Option<Closed> {
        while let Some(bracket) = self.open.last().copied() {
            let next = self.skip_space(text, end);
            match text.as_bytes().get(next)? {
                b',' => {
                    let next = self.skip_space(text, next + 1);
                    return self.member(text, next, bracket.is_object, bracket.inner, context).map(Closed::Goes);
                }
                // Brackets of the wrong kind end the attempt: as far as anybody can say, this is no JSON.
                b'}' if bracket.is_object => {}
                b']' if !bracket.is_object => {}
                _ => return None,
            }
            self.open.pop();
            end = next + 1;
        }
        Some(Closed::Whole(end))
    }

    fn note(&mut self, what: What, start: usize, end: usize, context: Context) {
        let Context { class, role, nesting } = context;
        self.parts.push(Part { start: start as u32, end: end as u32, what, class, role, nesting });
    }

    /// The second pass: looks into the parts from `first` on.
    fn look_into(&mut self, level: Level<'_>, first: usize) {
        // Strings that hold JSON note parts of their own behind these, and take them back.
        for index in first..self.parts.len() {
            if self.work.is_spent() {
                return;
            }
            let Part { start, end, what, class, role, nesting } = self.parts[index];
            let (start, end) = (start as usize, end as usize);
            let context = Context { class, role, nesting };
            match what {
                What::Key => self.with_decoded(level.piece(start, end, true), Self::plain),
                What::Text => {
                    self.with_decoded(level.piece(start, end, true), |walk, inner| walk.string(inner, context))
                }
                What::Number => self.number(level, start, end, context),
                What::Deep => {
                    let span = Span::new(level.place(start), level.place(end), Kind::Unscanned, Grade::Certain);
                    self.spans.push(Span { bare: true, depth: level.depth, ..span });
                }
            }
        }
    }

    /// Hands the inside of a string to `look`, without its escapes, which the first pass has checked.
    fn with_decoded(&mut self, inside: Level<'_>, look: impl FnOnce(&mut Self, Level<'_>)) {
        self.work.charge(inside.text.len());
        if memchr::memchr(b'\\', inside.text.as_bytes()).is_none() {
            return look(self, inside);
        }
        // Kept for the next one: an allocation per escaped string would be two of them.
        let mut decoded = self.spare.pop().unwrap_or_default();
        if decode(inside, &mut decoded) {
            let (text, places) = (decoded.text.as_str(), Some(decoded.places.as_slice()));
            look(self, Level { text, places, base: 0, depth: inside.depth });
        }
        self.spare.push(decoded);
    }

    /// A decoded string value.
    fn string(&mut self, level: Level<'_>, context: Context) {
        // Names of fields promise kinds that are checked in a few passes over the value.
        self.work.charge(if context.class == Class::Plain { 0 } else { 4 * level.text.len() });
        if let Some(kind) = path::kind_of(context.class, context.role, level.text) {
            // Space around a value is no part of it: `" Mia "` and `"Mia"` share a token.
            let start = level.text.len() - level.text.trim_start().len();
            let end = level.text.trim_end().len();
            self.whole(level, start, end, kind);
        } else if !looks_like_json(level.text) {
            self.mixed(level);
        } else if level.depth > STRING_LEVELS_MAX || usize::from(context.nesting) >= JSON_DEPTH_MAX {
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

    /// The number without quotes at `start..end`.
    fn number(&mut self, level: Level<'_>, start: usize, end: usize, context: Context) {
        let number = &level.text[start..end];
        self.work.charge(4 * number.len());
        // A number is nobody's name or password, whatever its key says: `"user": 3`.
        let by_path = match context.class {
            Class::Value(Kind::Secret | Kind::Person | Kind::Username | Kind::Address) => None,
            class => path::kind_of(class, context.role, number),
        };
        let before = self.spans.len();
        match by_path {
            Some(kind) => self.spans.push(Span::new(0, number.len(), kind, Grade::Certain)),
            None if number.len() >= NUMBER_BYTES_MIN => text::scan(number, self.known, self.work, self.spans),
            None => {}
        }
        // One replacement for the whole number: two tokens side by side would be no JSON.
        self.spans.truncate(before + 1);
        for span in &mut self.spans[before..] {
            (span.start, span.end) = (level.place(start), level.place(end));
            // The replacement brings quotes, since a token is no number.
            (span.bare, span.depth) = (true, level.depth);
        }
    }
}

/// What follows a value.
enum Closed {
    /// A further member, whose value begins there.
    Goes(usize),
    /// Nothing: the outermost value ended there.
    Whole(usize),
}

/// Whether `text` begins as an object or array does.
pub(super) fn looks_like_json(text: &str) -> bool {
    let bytes = text.as_bytes();
    let first = skip_space(text, 0);
    matches!(bytes.get(first), Some(b'{' | b'[')) && opens_json(bytes, first)
}

/// The string `level` without escapes; `false` for a broken escape.
fn decode(level: Level<'_>, out: &mut Decoded) -> bool {
    out.text.clear();
    out.places.clear();
    let mut next = 0;
    while next < level.text.len() {
        let plain = memchr::memchr(b'\\', &level.text.as_bytes()[next..]).unwrap_or(level.text.len() - next);
        out.text.push_str(&level.text[next..next + plain]);
        // A place per byte costs 4 bytes each and answers in one step; a list of escapes would be searched per finding.
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
    // One place more than bytes: findings are half open and may end with the text.
    out.places.push(level.place(level.text.len()) as u32);
    true
}

/// The string without one level of escapes; as it is where an escape is broken.
pub(super) fn unescape(text: &str) -> String {
    let mut decoded = Decoded::default();
    match decode(Level { text, places: None, base: 0, depth: 0 }, &mut decoded) {
        true => decoded.text,
        false => text.to_owned(),
    }
}
