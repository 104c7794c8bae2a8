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
mod mask;
mod path;
mod policy;
mod redact;
mod session;
mod stage;
mod text;
mod token;
mod verify;

#[cfg(test)]
mod tests;

pub use kind::{Grade, Kind, Span};
pub use policy::{Action, Policy, PolicyError, PolicySet};
pub use redact::{Redacted, redact, value_of};
pub use session::{Known, PiiState};
pub use stage::{Pii, PiiConfig};
pub use token::{TenantKeys, TokenKeys, canonical};

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
/// finding as a whole.
pub fn scan(text: &str, media_type: &str, context: &ScanContext<'_>) -> Vec<Span> {
    let mut spans = Vec::new();
    if u32::try_from(text.len()).is_err() {
        spans.push(Span::new(0, text.len(), Kind::Unscanned, Grade::Certain));
        return spans;
    }
    let is_json = media_type.split(';').next().is_some_and(|kind| kind.trim().ends_with("json"));
    json::Walk { known: context.known, spans: &mut spans, spare: Vec::new() }.content(text, is_json);
    kind::make_disjoint(&mut spans);
    spans
}
