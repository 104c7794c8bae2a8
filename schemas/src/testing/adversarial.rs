//! Texts that make a scanner or a parser look at a byte again and again, if anything does.
//!
//! A superlinear loop begins at many places of a text and runs far from each: repeated pieces give
//! both. Texts that nest, that break off, and that hold themselves in strings do the same to parsers.
//! They are of any size, so that a test compares counts and never times.

/// Pieces to repeat: what some scanner or parser begins at, and what it runs over.
pub const PIECES: &[&str] = &[
    "[",
    "]",
    "{",
    "{\"a\":",
    "[{\"a\":",
    "[[],",
    "{\"a\":1}",
    "{\"a\":[1,2,",
    "{}",
    "[1,",
    "[true,",
    "\"",
    "\"\",",
    "\\",
    "\\\"",
    "\\u0061",
    "[\"",
    "{\"a\":\"",
    "{\"a\":\"{",
    "\"a\":1,",
    "{\"name\":",
    "{ ",
    "[ ",
    " ",
    "\n",
    ",",
    "a",
    "A",
    "1",
    "-",
    "--",
    "_",
    ".",
    "..",
    "/",
    "//",
    "://",
    ":",
    "::",
    "@",
    "=",
    "+",
    "'",
    "(",
    "#",
    "?",
    "a://",
    "a://a:",
    "a://?",
    "a://a:b@",
    "a_1",
    "a_1_",
    "A_1 ",
    "1_",
    "key=",
    "1key=",
    "aK1key=",
    "key=your",
    "key:",
    "key: ",
    "key=\"",
    "password=",
    "pass=",
    "pass=a1,",
    "pass=\"",
    "Bearer ",
    "token:bearer ",
    "A-",
    "A'",
    "A-A ",
    "Mia-",
    "A A ",
    "Aa Bb ",
    "Mia ",
    "Mia de ",
    "Mia Li ",
    "Dear ",
    "Dear A-",
    "Mr. ",
    "name is A",
    "Aaaastreet 1 ",
    "Aa-",
    "1-",
    "1--",
    "1 ",
    "1.",
    "1/",
    "1:",
    "1,",
    "1, ",
    "(1",
    "12345 ",
    "123 ",
    "1 1-",
    "$1",
    "\u{20ac}1",
    "1'",
    "1 A ",
    "1 1a ",
    "1 Aa St ",
    "1 Main Street, ",
    "1st of ",
    "1 April ",
    "1 April 1990 ",
    "April ",
    "April 1, ",
    "born 1990-04-05 ",
    "1990-",
    "A1-",
    "A1 ",
    "A12",
    "GB29",
    "GB29 ",
    "GB29 AAAA AAAA ",
    "a.",
    "a.a",
    "a@",
    "a@a.",
    "a@b.io ",
    "a@-",
    ".a@",
    "a:",
    "aa:",
    "a:a:",
    "00:",
    "00:00:00:00:00:00 ",
    "::1",
    "1::",
    "f::",
    "SG.",
    "SG.aaaaaaaaaaaaaaaaaaaa.",
    "aaaaaaaaaaaaaaaa.",
    "aaaaaaaaaaaaaaaa/",
    "aaaaaaaaaaaaaaaa+",
    "aaaaaaaaaaaaaaaA1=",
    "eyJaaaaaaaaaaaaa.",
    "eyJaaaaaaaaaaaaa.ey",
    "AKIA",
    "AKIAAAAAAAAAAAAAAAAA ",
    "xoxb-",
    "xoxb-aaaaaaaaaaaaaaaa-",
    "ghp_",
    "-----",
    "-----BEGIN ",
    "PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY----- -----END ",
    "-----END ",
    "4242424242424242 ",
    "card 4242424242424242",
    "4242 ",
    "4242-",
    "219-09-9999 ",
    "219-",
    "SSN ",
    "+1 555 ",
    "555-123-4567 ",
    "call 1",
    "passport A1",
    "driver license ",
    "zip 1",
    "TX 7",
    "10.0.0.7 ",
    "10.",
    "gnore ",
    "gnore previous ",
    "gnore ! ",
    "ystem prompt ",
    "reveal ystem prompt",
    " to http",
    "send keys to http",
    "[INST",
    "do anything now ",
    "é",
    "É",
    "Éé ",
    "\u{feff}",
    "\u{10ffff}",
    "\0",
];

/// `piece` again and again, cut to at most `bytes`.
pub fn repeated(piece: &str, bytes: usize) -> String {
    let mut text = piece.repeat(bytes / piece.len().max(1) + 1);
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// JSON that breaks off after `width` nested members, the last of which is a string that holds the same
/// again, `levels` deep: 238 bytes of it once took 17⁶ walks.
pub fn unclosed(width: usize, levels: usize) -> String {
    let inner = if levels == 0 { "1".to_owned() } else { quoted(&unclosed(width, levels - 1)) };
    format!("{}{inner}", "{\"a\":".repeat(width))
}

/// `text` as a JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Texts of about `bytes` bytes, each with a name.
pub fn texts(bytes: usize) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> =
        PIECES.iter().map(|piece| (format!("{piece:?} repeated"), repeated(piece, bytes))).collect();
    let mut add = |name: &str, text: String| all.push((name.to_owned(), text));
    let half = bytes / 2;
    add("arrays that close", format!("{}{}", "[".repeat(half), "]".repeat(half)));
    add("objects that close", format!("{}1{}", "{\"a\":".repeat(bytes / 6), "}".repeat(bytes / 6)));
    add("brackets that close wrongly", format!("{}{}", "[{\"a\":".repeat(bytes / 8), "]}".repeat(bytes / 8)));
    add("many keys", format!("{{{}\"z\":1}}", (0..bytes / 12).map(|n| format!("\"k{n:06}\":1,")).collect::<String>()));
    add("one key", format!("{{{}\"z\":1}}", "\"k\":1,".repeat(bytes / 6)));
    add("many strings", format!("[{}\"\"]", "\"abc\",".repeat(bytes / 6)));
    add("many names", format!("[{}1]", "{\"name\":\"Mia Li\"},".repeat(bytes / 18)));
    add("many zips", format!("{{\"zip\":[{}1]}}", "123,".repeat(bytes / 4)));
    add("a string that does not end", format!("{{\"a\":\"{}", "x".repeat(bytes)));
    add("escapes", quoted(&"\"\\\u{1}".repeat(bytes / 10)));
    add("an open bracket in front of space", format!("[{}", " ".repeat(bytes)));
    add("one word behind a name", format!("Mia {}", "A-".repeat(half)));
    add("full stops behind URLs", format!("{}{}", "a://".repeat(bytes / 8), ".".repeat(half)));
    add("a word of hyphens and a number", format!("{} 1", "A-".repeat(half)));
    add("a value for every sign", format!("{}{}", "key=".repeat(bytes / 8), "aB3".repeat(bytes / 6)));
    for key in ["name", "token", "phone", "password", "x"] {
        for piece in ["A ", "1 ", "a.", "{\\\"a\\\":", "["] {
            add(&format!("{piece:?} under {key}"), format!("{{\"{key}\":\"{}\"}}", repeated_whole(piece, bytes)));
        }
        add(&format!("digits under {key}"), format!("{{\"{key}\":{}}}", "1".repeat(bytes)));
    }
    // What breaks off on each level of strings in strings, and strings in strings that do not.
    for levels in 1..=16_u32 {
        // A quote on level n has 2ⁿ - 1 backslashes.
        let width = (bytes / 8) >> levels;
        if width == 0 {
            break;
        }
        for width in [1, 17, width].into_iter().filter(|w| *w <= width) {
            add(&format!("{width} members and a string, {levels} levels"), unclosed(width, levels as usize));
        }
        let mut text = "mia@b.io [1, 2] ".repeat(bytes / 32);
        for _ in 0..levels {
            text = format!("x {{\"a\":{}}}", quoted(&text));
        }
        if text.len() <= 2 * bytes {
            add(&format!("text, {levels} levels"), text);
        }
    }
    all
}

/// As [`repeated`], cut between two pieces.
fn repeated_whole(piece: &str, bytes: usize) -> String {
    piece.repeat(bytes / piece.len())
}
