//! A suspicion about one metric of one window, before it is decided whether it is an alert.

/// Why a candidate is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ground {
    /// A declared rule: always an alert.
    Rule,
    /// A rule whose alert `features` has sent already.
    Announced,
    /// A tail probability, to be compared with those of the other series.
    Tail(f64),
}

/// A suspicion.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub(super) class: String,
    pub(super) metric: String,
    pub(super) ground: Ground,
    /// Whether it is large enough, in absolute terms and relative to its baseline, to start an alert.
    pub(super) starts: bool,
    /// Whether it is large enough to keep one going.
    pub(super) holds: bool,
    /// Windows that the evidence spans, this one included.
    pub(super) span: i64,
    /// Trials and hits of the span, and of this window.
    pub(super) spanned: [f64; 2],
    pub(super) window: [f64; 2],
    pub(super) observed: Option<f64>,
    pub(super) expected: Option<f64>,
    pub(super) severity: &'static str,
    /// Facts for the sentence.
    pub(super) detail: String,
    pub(super) contributing: Vec<String>,
}

impl Candidate {
    /// A rule that this window breaks.
    pub(super) fn rule(class: &str, metric: String, severity: &'static str, detail: String) -> Self {
        Self {
            class: class.to_owned(),
            metric,
            ground: Ground::Rule,
            // A rule needs no evidence beyond itself: it starts an alert, holds it, and spans its own window.
            starts: true,
            holds: true,
            span: 1,
            spanned: [0.0; 2],
            window: [0.0; 2],
            observed: None,
            expected: None,
            severity,
            detail,
            contributing: Vec::new(),
        }
    }

    pub(super) fn is_worth_keeping(&self) -> bool {
        // What only holds is kept as well: it continues an alert that is open, with less evidence than opens one, so
        // that an alert near the limit does not flap.
        self.starts || self.holds
    }
}
