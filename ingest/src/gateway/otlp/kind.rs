//! What a span or log record can stand for.
//!
//! It names no attribute and no span; `table.rs` does.

/// What a span or log record stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OtlpKind {
    /// `model.call`; `rate_limit` as well where the provider throttled.
    Model,
    /// `tool.call.attempted` and `tool.call.completed`.
    Tool,
    /// `session.started` and `session.ended`, or `delegation`, or `output.produced`.
    Agent,
    /// `step.planned`.
    Step,
    /// `data.accessed`.
    Data,
    /// `evaluation.result`.
    Evaluation,
    /// `policy.decision`.
    Guardrail,
    /// `detection.raised`.
    Threat,
    /// `policy.decision`, and `approval.decided` where a person answered.
    ToolDecision,
    /// `delegation`.
    Delegation,
    /// An event of the span's own type: it is about an agent, and has no type of ours.
    Extension,
    /// Nothing about an agent: counted and left out, or kept as `otel.span`, `otel.log`.
    Other,
}

impl OtlpKind {
    /// Event types, as in documents.
    pub const fn events(self) -> &'static str {
        match self {
            Self::Model => "`model.call`; also `rate_limit` after a 429",
            Self::Tool => "`tool.call.attempted` (synthesised, at the start) and `tool.call.completed`",
            Self::Agent => "`session.started` and `session.ended`, `delegation` or `output.produced`",
            Self::Step => "`step.planned`",
            Self::Data => "`data.accessed`",
            Self::Evaluation => "`evaluation.result`",
            Self::Guardrail => "`policy.decision`",
            Self::Threat => "`detection.raised`",
            Self::ToolDecision => "`policy.decision`; also `approval.decided` where a person answered",
            Self::Delegation => "`delegation`",
            Self::Extension => "an event of its own type (`gen_ai.*`, or the record's name)",
            Self::Other => "none, or `otel.span` / `otel.log`",
        }
    }
}
