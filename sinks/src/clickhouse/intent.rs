//! The loader's intent: which range it is about to insert, written down in the log beside the
//! committed position before the first row leaves.
//!
//! A restart repeats exactly that range under exactly that token, so that the table drops what it
//! has already. It performs no I/O; the root owns the log.

use std::ops::Range;

use schemas::id::Sha256;

use crate::publication::Publication;

/// Layout version of the metadata text.
const VERSION: &str = "i1";

/// A range that is about to be inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// First offset.
    pub offset_first: u64,
    /// Offset after the last one.
    pub offset_next: u64,
    /// [`Publication::token`]; table and month are added per insert.
    pub token: String,
    /// [`Publication::row_digest`].
    pub row_digest: Sha256,
}

/// Offset metadata that is not an intent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("offset metadata {text:?} is not an intent of this loader: another program commits in its group")]
pub struct IntentError {
    /// The metadata.
    pub text: String,
}

impl Intent {
    /// The intent to insert `publication`.
    pub fn of(publication: &Publication) -> Self {
        Self {
            offset_first: publication.offset_first,
            offset_next: publication.offset_next,
            token: publication.token(),
            row_digest: publication.row_digest,
        }
    }
}

/// `i1;first=..;next=..;token=..;digest=..`, below Kafka's 4 096 bytes of offset metadata.
pub fn encode_intent(intent: &Intent) -> String {
    let Intent { offset_first, offset_next, token, row_digest } = intent;
    format!("{VERSION};first={offset_first};next={offset_next};token={token};digest={row_digest}")
}

/// Reads offset metadata; empty text is no intent.
///
/// # Errors
/// The text is neither empty nor an intent: a configuration error, the group is not ours alone.
pub fn parse_intent(text: &str) -> Result<Option<Intent>, IntentError> {
    if text.is_empty() {
        return Ok(None);
    }
    parse_fields(text).map(Some).ok_or_else(|| IntentError { text: text.to_owned() })
}

fn parse_fields(text: &str) -> Option<Intent> {
    let mut parts = text.split(';');
    let is_ours = parts.next()? == VERSION;
    let offset_first = parts.next()?.strip_prefix("first=")?.parse().ok()?;
    let offset_next = parts.next()?.strip_prefix("next=")?.parse().ok()?;
    let token = parts.next()?.strip_prefix("token=")?.to_owned();
    let row_digest = Sha256::from_hex(parts.next()?.strip_prefix("digest=")?)?;
    let is_whole = is_ours && parts.next().is_none() && offset_first < offset_next;
    is_whole.then_some(Intent { offset_first, offset_next, token, row_digest })
}

/// What the loader does with a partition that it was just given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadDecision {
    /// Nothing is pending: read from here.
    Start {
        /// Offset.
        at: u64,
    },
    /// Read exactly the intent's range, insert it under its token, commit its end, go on from there.
    Repeat(Intent),
    /// Do not load.
    Stop(LoadStop),
}

/// Why a partition cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadStop {
    /// See [`IntentError`].
    #[error(transparent)]
    Foreign(#[from] IntentError),
    /// The intent does not start at the committed position.
    #[error("the intent starts at {intent_first} but the group committed {committed_next}; check who commits there")]
    Torn {
        /// Intent's first offset.
        intent_first: u64,
        /// Committed position.
        committed_next: u64,
    },
    /// The log has forgotten records that the table may not hold.
    #[error(
        "the log starts at {log_first} but {needed} is needed: retention passed the loader; load [{needed}, {log_first}) from the archive"
    )]
    Forgotten {
        /// First offset that the log holds.
        log_first: u64,
        /// Offset to go on from.
        needed: u64,
    },
}

/// Decides from the committed position (`None`: never committed) and what the log holds.
pub fn decide(committed: Option<(u64, &str)>, log: &Range<u64>) -> LoadDecision {
    let Some((next, metadata)) = committed else { return LoadDecision::Start { at: log.start } };
    let intent = match parse_intent(metadata) {
        Ok(intent) => intent,
        Err(error) => return LoadDecision::Stop(error.into()),
    };
    match intent {
        _ if next < log.start => LoadDecision::Stop(LoadStop::Forgotten { log_first: log.start, needed: next }),
        None => LoadDecision::Start { at: next },
        Some(intent) if intent.offset_first != next => {
            LoadDecision::Stop(LoadStop::Torn { intent_first: intent.offset_first, committed_next: next })
        }
        Some(intent) => LoadDecision::Repeat(intent),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn intent() -> Intent {
        let token = "custody.clean.v1:3:100-200".to_owned();
        Intent { offset_first: 100, offset_next: 200, token, row_digest: Sha256([0xab; 32]) }
    }

    #[test]
    fn the_metadata_text_is_stable() {
        let digest = "ab".repeat(32);
        let text = format!("i1;first=100;next=200;token=custody.clean.v1:3:100-200;digest={digest}");
        assert_eq!(encode_intent(&intent()), text);
        assert_eq!(parse_intent(&text), Ok(Some(intent())));
        assert_eq!(parse_intent(""), Ok(None));
    }

    #[test]
    fn anything_else_is_refused() {
        let whole = encode_intent(&intent());
        for text in [
            "i2;first=1;next=2;token=t;digest=00",
            &whole[..whole.len() - 1],
            &format!("{whole};more=1"),
            &whole.replace("next=200", "next=100"),
            &whole.replace("first=100", "first=-1"),
            "something else",
            ";",
        ] {
            assert_eq!(parse_intent(text), Err(IntentError { text: text.to_owned() }));
        }
    }

    /// Answers PostHog#31900: records that the log deleted before they were read are a stop, not a gap.
    #[test]
    fn an_assignment_goes_on_from_the_committed_state() {
        let text = encode_intent(&intent());
        let check = |committed, log: Range<u64>, expected| assert_eq!(decide(committed, &log), expected);
        let forgotten = LoadDecision::Stop(LoadStop::Forgotten { log_first: 150, needed: 100 });
        check(None, 7..9, LoadDecision::Start { at: 7 });
        check(Some((100, "")), 0..300, LoadDecision::Start { at: 100 });
        check(Some((100, &text)), 0..300, LoadDecision::Repeat(intent()));
        check(Some((100, "")), 150..300, forgotten.clone());
        check(Some((100, &text)), 150..300, forgotten);
        let torn = LoadStop::Torn { intent_first: 100, committed_next: 120 };
        check(Some((120, &text)), 0..300, LoadDecision::Stop(torn));
        let foreign = LoadStop::Foreign(IntentError { text: "x".to_owned() });
        check(Some((100, "x")), 0..300, LoadDecision::Stop(foreign));
    }

    proptest! {
        #[test]
        fn parsing_is_total_and_inverts_encoding(text in ".{0,200}", first: u32, rows in 1u64..1_000_000) {
            let _ = parse_intent(&text);
            let first = u64::from(first);
            let intent = Intent { offset_first: first, offset_next: first + rows, ..intent() };
            prop_assert_eq!(parse_intent(&encode_intent(&intent)), Ok(Some(intent)));
        }
    }
}
