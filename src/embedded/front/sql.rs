//! As much of ClickHouse's lexer as is needed to know, before a statement runs, whether data follows it, which format
//! it names, and that it is one statement only.
//!
//! Does not check syntax: whatever is unclear goes to the engine unchanged and the engine complains.

/// How a statement is to be run. Ranges are byte offsets into the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Statement {
    /// Nothing but blanks and comments.
    Empty,
    /// Begins with something that no statement begins with. The engine ignores some of these in silence, and takes
    /// `??` for a question to a language model elsewhere.
    Garbled,
    /// `INSERT … FORMAT x data` or `INSERT … VALUES data`.
    InsertData {
        /// Length of the text before `FORMAT` or `VALUES`.
        head_bytes: usize,
        /// Name of the format of the data.
        format: String,
        /// Where the data begins.
        data_start: usize,
    },
    /// Anything else.
    Query {
        /// Format named at its end, if any.
        format: Option<String>,
        /// A SELECT whose blocks may be formatted one by one.
        streamable: bool,
        /// Only reads (or sets settings), going by its first word.
        reads: bool,
    },
    /// More than one statement, which ClickHouse's HTTP interface refuses.
    Several,
}

/// Words after which the answer has parts that belong to no single block (totals, extremes, brackets), so that
/// formatting block by block would repeat or misplace them.
const NOT_BY_BLOCK: [&[u8]; 3] = [b"TOTALS", b"EXTREMES", b"OUTPUT_FORMAT_JSON_ARRAY_OF_ROWS"];
const READS: [&[u8]; 9] = [b"SELECT", b"WITH", b"FROM", b"SHOW", b"DESCRIBE", b"DESC", b"EXPLAIN", b"EXISTS", b"SET"];
const SELECTS: [&[u8]; 3] = [b"SELECT", b"WITH", b"FROM"];

/// Reads the text of one request.
pub(crate) fn parse(sql: &[u8]) -> Statement {
    let mut tokens = Tokens::new(sql).filter(|token| token.kind != Kind::Open);
    let Some(first) = tokens.next() else { return Statement::Empty };
    if first.kind != Kind::Word {
        return Statement::Garbled;
    }
    if first.is(sql, b"INSERT")
        && let Some(found) = insert_data(sql)
    {
        return found;
    }
    query(sql, first)
}

/// As [`parse`], but takes the data of an INSERT for a part of the statement.
pub(crate) fn parse_as_query(sql: &[u8]) -> Statement {
    Tokens::new(sql).next().map_or(Statement::Empty, |first| query(sql, first))
}

/// `INSERT` with data: the first `VALUES`, or `FORMAT` and a name, that is not a table's name, unless a SELECT or a
/// file comes first.
fn insert_data(sql: &[u8]) -> Option<Statement> {
    let mut names_table = false;
    let mut format_end = None;
    for token in Tokens::new(sql) {
        if let Some(head_bytes) = format_end.take()
            && token.kind == Kind::Word
        {
            let format = String::from_utf8_lossy(token.text(sql)).into_owned();
            let data_start = token.end + line_end(sql.get(token.end..).unwrap_or_default());
            return Some(Statement::InsertData { head_bytes, format, data_start });
        }
        let plain = token.kind == Kind::Word && token.depth == 0 && !names_table;
        names_table = ["INTO", "TABLE"].iter().any(|word| token.is(sql, word.as_bytes())) || token.text(sql) == b".";
        match () {
            () if !plain => {}
            () if ["SELECT", "WITH", "INFILE"].iter().any(|word| token.is(sql, word.as_bytes())) => return None,
            () if token.is(sql, b"VALUES") => {
                let format = "Values".to_owned();
                return Some(Statement::InsertData { head_bytes: token.start, format, data_start: token.end });
            }
            () if token.is(sql, b"FORMAT") => format_end = Some(token.start),
            () => {}
        }
    }
    None
}

/// Blanks and one line end after the format's name do not belong to the data.
fn line_end(rest: &[u8]) -> usize {
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\x0c')).count();
    match rest.get(blanks..).unwrap_or_default() {
        [b'\r', b'\n', ..] => blanks + 2,
        [b'\n', ..] => blanks + 1,
        _ => blanks,
    }
}

fn query(sql: &[u8], first: Token) -> Statement {
    let (mut ended, mut by_block, mut clause) = (false, true, FormatClause::default());
    for token in Tokens::new(sql) {
        if token.kind == Kind::Semicolon {
            ended = true;
            continue;
        }
        if ended {
            return Statement::Several;
        }
        clause.see(sql, token);
        by_block &= !NOT_BY_BLOCK.iter().any(|word| token.is(sql, word));
    }
    let starts_with = |words: &[&[u8]]| words.iter().any(|word| first.is(sql, word));
    let streamable = by_block && starts_with(&SELECTS);
    Statement::Query { format: clause.format, streamable, reads: starts_with(&READS) }
}

/// Finds the FORMAT clause: the word, a name, then nothing but settings. Otherwise the word was a column's name.
#[derive(Default)]
struct FormatClause {
    format: Option<String>,
    keyword_before: bool,
    settings_seen: bool,
}

impl FormatClause {
    fn see(&mut self, sql: &[u8], token: Token) {
        if token.kind != Kind::Word || token.depth > 0 {
            self.keyword_before = false;
            return;
        }
        if std::mem::take(&mut self.keyword_before) {
            self.format = Some(String::from_utf8_lossy(token.text(sql)).into_owned());
            return;
        }
        self.keyword_before = token.is(sql, b"FORMAT");
        self.settings_seen |= token.is(sql, b"SETTINGS");
        if !self.settings_seen {
            self.format = None;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Semicolon,
    Open,
    Close,
    Other,
}

/// One token with the depth of brackets around it.
#[derive(Debug, Clone, Copy)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
    depth: usize,
}

impl Token {
    fn text<'s>(&self, sql: &'s [u8]) -> &'s [u8] {
        sql.get(self.start..self.end).unwrap_or_default()
    }

    fn is(&self, sql: &[u8], word: &[u8]) -> bool {
        self.kind == Kind::Word && self.text(sql).eq_ignore_ascii_case(word)
    }
}

/// Tokens without blanks and comments. Total: whatever the bytes, it ends after at most one token per byte.
struct Tokens<'s> {
    sql: &'s [u8],
    at: usize,
    depth: usize,
}

impl<'s> Tokens<'s> {
    fn new(sql: &'s [u8]) -> Self {
        Self { sql, at: 0, depth: 0 }
    }

    fn rest(&self) -> &'s [u8] {
        self.sql.get(self.at..).unwrap_or_default()
    }

    fn skip_blanks_and_comments(&mut self) {
        loop {
            let rest = self.rest();
            self.at += match rest {
                [byte, ..] if byte.is_ascii_whitespace() || *byte == 0x0b => 1,
                [b'-', b'-', ..] | [b'#', b' ' | b'!', ..] => until(rest, b"\n", 0),
                [b'/', b'*', ..] => until(rest, b"*/", 2),
                _ => return,
            };
        }
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blanks_and_comments();
        let rest = self.rest();
        let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let (kind, length) = match rest {
            [] => return None,
            [quote @ (b'\'' | b'"' | b'`'), ..] => (Kind::Quoted, quoted(rest, *quote)),
            [b'$', ..] => heredoc(rest).map_or((Kind::Other, 1), |length| (Kind::Quoted, length)),
            [b';', ..] => (Kind::Semicolon, 1),
            [b'(' | b'[' | b'{', ..] => (Kind::Open, 1),
            [b')' | b']' | b'}', ..] => (Kind::Close, 1),
            [byte, ..] if byte.is_ascii_digit() => (Kind::Other, rest.iter().take_while(|b| word(b)).count()),
            [byte, ..] if word(byte) => (Kind::Word, rest.iter().take_while(|b| word(b)).count()),
            _ => (Kind::Other, 1),
        };
        if kind == Kind::Close {
            self.depth = self.depth.saturating_sub(1);
        }
        let token = Token { kind, start: self.at, end: self.at + length, depth: self.depth };
        self.depth += usize::from(kind == Kind::Open);
        self.at = token.end;
        Some(token)
    }
}

/// Length up to and with `end`, searched from `from`; everything if it never comes.
fn until(text: &[u8], end: &[u8], from: usize) -> usize {
    let tail = text.get(from..).unwrap_or_default();
    let found = tail.windows(end.len()).position(|window| window == end);
    found.map_or(text.len(), |position| from + position + end.len())
}

/// Length of a quoted text: backslash escapes, and a doubled quote is two texts side by side.
fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'\\' => at += 2,
            byte if *byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Length of `$tag$ … $tag$`, if it is one.
fn heredoc(text: &[u8]) -> Option<usize> {
    let tag_bytes = text.iter().skip(1).take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count() + 2;
    let tag = text.get(..tag_bytes).filter(|tag| tag.ends_with(b"$"))?;
    let closed = text.get(tag_bytes..)?.windows(tag_bytes).any(|window| window == tag);
    closed.then(|| until(text, tag, tag_bytes))
}

#[cfg(test)]
#[path = "sql/tests.rs"]
mod tests;
