//! Personal data and secrets: found, replaced by keyed tokens, counted. Raw events in, clean events out.
//!
//! The scanner is our own: one mask pass marks places, hand-written verifiers look at them, field
//! names and nearby words decide what shape alone cannot. Names and other values that a session
//! revealed are found again in its later text. It fails closed, and it holds no keys of its own.
//!
//! [`scan`] and [`redact`] are the scanner by itself, [`Pii`] the stage around it.

mod cue;
mod injection;
mod json;
mod kind;
mod lexis;
mod mask;
mod path;
mod policy;
mod redact;
mod session;
mod stage;
mod text;
mod token;
mod verify;
mod work;

#[cfg(test)]
mod tests;

pub use kind::{Grade, Kind, Span};
pub use policy::{Action, Policy, PolicyError, PolicySet};
pub use redact::{Redacted, redact, value_of};
pub use session::{Known, PiiState};
pub use stage::{Pii, PiiConfig};
pub use token::{TenantKeys, TokenKeys, canonical};
pub use work::STEPS_PER_BYTE_MAX;

use work::Work;

/// What a scan knows beside the text.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScanContext<'a> {
    /// What the session revealed so far.
    pub known: Option<Known<'a>>,
}

/// Finds personal data and secrets in `text`: disjoint spans in order.
///
/// `media_type` `application/json` and text that is JSON are walked by field; text that claims to be
/// JSON and is not is scanned as text. Total: any text gives spans. A text of 4 GiB or more is one
/// finding as a whole, and so is one that takes more than [`STEPS_PER_BYTE_MAX`] looks per byte.
pub fn scan(text: &str, media_type: &str, context: &ScanContext<'_>) -> Vec<Span> {
    let work = Work::new();
    work.allow(text.len());
    scan_within(text, media_type, context, &work)
}

/// How often a scan looks at a byte of `text`, without a bound: for tests that hold scanners to be
/// linear.
pub fn steps(text: &str, media_type: &str, context: &ScanContext<'_>) -> u64 {
    let work = Work::unbounded();
    scan_within(text, media_type, context, &work);
    work.steps()
}

/// As [`scan`], within what is left of `work`.
fn scan_within(text: &str, media_type: &str, context: &ScanContext<'_>, work: &Work) -> Vec<Span> {
    let is_json = media_type.split(';').next().is_some_and(|kind| kind.trim().ends_with("json"));
    // Offsets are kept in 32 bits.
    if u32::try_from(text.len()).is_err() {
        return vec![unscanned(text, is_json)];
    }
    let mut spans = Vec::new();
    let mut walk = json::Walk::new(context.known, work, &mut spans);
    walk.content(text, is_json);
    // A sort takes n log n comparisons; half of its input is in order, as texts are scanned forward.
    work.charge(spans.len() * 8);
    // What was found until then says nothing of the rest: all of it goes, so that nothing passes in clear.
    if work.is_spent() {
        return vec![unscanned(text, is_json)];
    }
    kind::make_disjoint(&mut spans);
    spans
}

/// All of a text as one finding. Where JSON is expected, its token is a JSON string.
fn unscanned(text: &str, is_json: bool) -> Span {
    Span { bare: is_json || json::looks_like_json(text), ..Span::new(0, text.len(), Kind::Unscanned, Grade::Certain) }
}
