//! Every scanner looks at a text a bounded number of times per byte: counted, never timed.

use proptest::prelude::*;
use schemas::testing::adversarial::{PIECES, repeated, texts, unclosed};
use schemas::time::TimestampMicros;

use super::super::injection;
use super::super::session::{Known, PiiState};
use super::super::token::{TenantKeys, TokenKeys};
use super::super::*;
use super::*;

/// Looks per byte that a scan takes without a bound: no text that is known comes near to being given up.
const STEPS_PER_BYTE: u64 = STEPS_PER_BYTE_MAX / 2;
/// As above in a session that has revealed a name of three words: each capital is looked up three times,
/// and a look-up counts 128 looks.
const KNOWN_STEPS_PER_BYTE: u64 = STEPS_PER_BYTE_MAX * 7 / 8;
/// Looks per byte that the search for orders to an agent may take: 22 stems, and eight words from each.
const ORDER_STEPS_PER_BYTE: u64 = 48;

const MIB: usize = 1 << 20;

fn keys() -> TenantKeys {
    TokenKeys::new([7; 32]).tenant("acme")
}

/// A session that has revealed a name of three words, so that every capital is looked up.
fn revealed(keys: &TenantKeys) -> PiiState {
    let mut state = PiiState::default();
    let values = [(keys.remembered("mia li okonkwo"), Kind::Person, 3)];
    state.remember(&bytes::Bytes::from_static(b"s"), TimestampMicros(0), &values, 0);
    state
}

#[track_caller]
fn check(name: &str, text: &str, context: &ScanContext<'_>) {
    let bytes = text.len() as u64;
    let per_byte = if context.known.is_some() { KNOWN_STEPS_PER_BYTE } else { STEPS_PER_BYTE };
    // What is no JSON is scanned as text under either name: at a megabyte one is enough.
    for media_type in ["application/json", "text/plain"].iter().take(if text.len() < MIB / 2 { 2 } else { 1 }) {
        let steps = steps(text, media_type, context);
        assert!(steps <= per_byte * bytes + STEPS_MIN, "{name} as {media_type}: {steps} looks at {bytes} bytes");
    }
    let work = Work::unbounded();
    injection::rules(text, &work);
    let orders = work.steps();
    assert!(orders <= ORDER_STEPS_PER_BYTE * bytes, "{name}: {orders} looks for orders at {bytes} bytes");
}

/// A piece per scanner, for texts of a size at which all of them would take minutes unoptimised.
const LARGE: &[&str] = &[
    "[",
    "{\"a\":\"{",
    "\\\"",
    "\"a\":1,",
    "a://",
    "a_1",
    "key=",
    "pass=",
    "A-",
    "A A ",
    "1--",
    "1 ",
    "1.",
    "A1-",
    "GB29 ",
    "a@a.",
    "a:",
    "00:",
    "SG.aaaaaaaaaaaaaaaaaaaa.",
    "aaaaaaaaaaaaaaaa/",
    "eyJaaaaaaaaaaaaa.",
    "-----BEGIN PRIVATE KEY-----",
    "1 Aa St ",
    "April ",
    "gnore ",
    "ystem prompt ",
    " to http",
];

/// Both with and without a session that has revealed something.
fn check_all(bytes: usize) {
    let keys = keys();
    let state = revealed(&keys);
    let known = state.session(b"s").and_then(|session| Known::new(&keys, session));
    for (name, text) in &texts(bytes) {
        check(name, text, &ScanContext { known });
        check(name, text, &ScanContext::default());
    }
}

#[test]
fn a_kibibyte_takes_few_looks() {
    check_all(1 << 10);
}

#[test]
fn thirty_two_kibibytes_take_no_more_per_byte() {
    check_all(32 << 10);
}

#[test]
fn a_mebibyte_takes_no_more_per_byte() {
    for piece in LARGE {
        check(piece, &repeated(piece, MIB), &ScanContext::default());
    }
    for levels in 1..=6 {
        let text = unclosed((MIB / 16) >> levels, levels);
        check(&format!("{levels} levels"), &text, &ScanContext::default());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Pieces that alternate, and one kind in front of another.
    #[test]
    fn pieces_in_any_mixture_take_few_looks(
        runs in prop::collection::vec((0..PIECES.len(), 1_usize..40), 1..5),
        tail in 0..PIECES.len(),
        kibibytes in prop_oneof![4 => Just(1_usize), 1 => Just(32)],
        as_member in any::<bool>(),
    ) {
        let bytes = kibibytes << 10;
        let unit: String = runs.iter().map(|(piece, times)| PIECES[*piece].repeat(*times)).collect();
        let mut text = repeated(&unit, bytes / 2) + &repeated(PIECES[tail], bytes / 2);
        if as_member {
            text = serde_json::json!({ "name": text }).to_string();
        }
        let keys = keys();
        let state = revealed(&keys);
        let known = state.session(b"s").and_then(|session| Known::new(&keys, session));
        check(&format!("{unit:?} and {:?}", PIECES[tail]), &text, &ScanContext { known });
    }
}

/// What took 4.9 s and more than 28 s: three levels of strings in strings that break off.
#[test]
fn json_that_breaks_off_on_every_level_is_read_once_per_level() {
    for (width, levels) in [(17, 1), (17, 2), (4, 4), (2, 5), (17, 5), (40, 3)] {
        let text = unclosed(width, levels);
        let steps = steps(&text, "application/json", &ScanContext::default());
        assert!(steps <= 32 * text.len() as u64, "{steps} looks at {} bytes", text.len());
    }
}

#[test]
fn a_text_that_takes_more_than_it_may_is_one_finding_and_nothing_of_it_passes() {
    let policy = Policy::default();
    let texts = ["mia@b.io and more", "[\"mia@b.io\"]", "{\"a\":\"mia@b.io\",\"b\":"];
    for (text, media_type) in texts.iter().flat_map(|text| [(text, "text/plain"), (text, "application/json")]) {
        let work = Work::new();
        work.spend();
        let spans = scan_within(text, media_type, &ScanContext::default(), &work);
        assert!(
            matches!(spans[..], [span] if span.kind == Kind::Unscanned && span.start == 0 && span.end == text.len())
        );
        let clean = redact(text, &spans, &policy, &keys()).text;
        assert!(!clean.contains("mia"), "{clean}");
        if media_type == "application/json" {
            let value: String = serde_json::from_str(&clean).expect("what claims to be JSON is JSON");
            assert!(value.starts_with("[UNSCANNED:"), "{value}");
        }
    }
}

#[test]
fn what_may_be_looked_at_grows_with_the_text_and_does_not_start_over() {
    let work = Work::new();
    let left = |work: &Work| work.left.get();
    work.allow(10);
    assert_eq!(left(&work), STEPS_MIN + 10 * STEPS_PER_BYTE_MAX);
    work.charge(usize::MAX);
    assert!(work.is_spent());
    work.allow(1);
    assert_eq!(left(&work), STEPS_PER_BYTE_MAX);
}

/// A policy that keeps all but one kind keeps no text that may hold that kind.
#[test]
fn what_was_not_scanned_is_kept_only_where_everything_is() {
    let of = |actions: &[(Kind, Action)], default_action| {
        let actions = actions.iter().copied().collect();
        Policy { actions, default_action, ..Policy::default() }.action(Kind::Unscanned, Grade::Certain)
    };
    assert_eq!(of(&[], Action::Keep), Action::Keep);
    assert_eq!(of(&[(Kind::Email, Action::Redact)], Action::Keep), Action::Redact);
    assert_eq!(of(&[(Kind::Url, Action::Drop)], Action::Tokenise), Action::Tokenise);
    assert_eq!(of(&[(Kind::Unscanned, Action::Keep), (Kind::Email, Action::Redact)], Action::Keep), Action::Keep);
}
