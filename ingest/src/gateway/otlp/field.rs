//! What attributes can fill: fields of events, the form that a value must have, and the kinds they belong to.
//!
//! It names no attribute; `table.rs` does.

use super::kind::OtlpKind;

/// How a value must look to fill a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Any scalar that is not empty.
    Text,
    /// A whole number from 0.
    Count,
    /// A whole number.
    Int,
    /// A finite number.
    Number,
    /// A finite number from 0.
    Amount,
    /// An array, or a scalar as its only element.
    List,
    /// Anything that is not empty.
    Content,
}

/// Which kinds a field belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// The header of any event.
    Header,
    /// Facts of any kind that are read and stay in `ext`.
    Fact,
    Model,
    Tool,
    Agent,
    Data,
    Evaluation,
    Decision,
    Delegation,
    Threat,
}

impl Group {
    const fn is_of(self, kind: OtlpKind) -> bool {
        match self {
            Self::Header | Self::Fact => true,
            Self::Model => matches!(kind, OtlpKind::Model),
            Self::Tool => matches!(kind, OtlpKind::Tool),
            Self::Agent => matches!(kind, OtlpKind::Agent),
            Self::Data => matches!(kind, OtlpKind::Data),
            Self::Evaluation => matches!(kind, OtlpKind::Evaluation),
            Self::Decision => matches!(kind, OtlpKind::ToolDecision),
            Self::Delegation => matches!(kind, OtlpKind::Delegation),
            Self::Threat => matches!(kind, OtlpKind::Threat),
        }
    }
}

/// Defines the targets: variant, group, form, whether the attribute stays in `ext`, and the path.
macro_rules! fields {
    ($($variant:ident $group:ident $form:ident $stays:literal $path:literal;)*) => {
        /// What an attribute fills.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "the path says it")]
        pub enum Field { $($variant),* }

        impl Field {
            pub(super) const COUNT: usize = [$(Field::$variant),*].len();

            /// Event type and field, e.g. `model.call.request_model`; a header field starts with `h.`.
            pub const fn path(self) -> &'static str {
                match self { $(Self::$variant => $path),* }
            }

            pub(super) const fn form(self) -> Form {
                match self { $(Self::$variant => Form::$form),* }
            }

            /// Whether the attribute stays in `ext` although it was read.
            pub const fn stays(self) -> bool {
                match self { $(Self::$variant => $stays),* }
            }

            const fn group(self) -> Group {
                match self { $(Self::$variant => Group::$group),* }
            }

            pub(super) const fn is_of(self, kind: OtlpKind) -> bool {
                self.group().is_of(kind)
            }
        }
    };
}

fields! {
    Session Header Text true "h.session_id";
    AgentId Header Text false "h.agent_id";
    AgentVersion Header Text false "h.agent_version";
    UserId Header Text true "h.principal.id";
    ErrorType Fact Text false "*.error_type, *.status";
    StatusCode Fact Text true "*.status, rate_limit.throttled";
    Success Fact Text true "*.status";
    RetryAfter Fact List true "rate_limit.retry_after_ms";
    DurationMs Fact Amount true "*.latency_ms";
    Provider Model Text false "model.call.provider";
    Region Model Text false "model.call.provider_region";
    Operation Model Text false "model.call.operation";
    RequestModel Model Text false "model.call.request_model";
    ResponseModel Model Text false "model.call.response_model";
    Fingerprint Model Text false "model.call.system_fingerprint";
    ResponseId Model Text false "model.call.response_id";
    CallId Model Text false "model.call.call_id";
    Temperature Model Number false "model.call.temperature";
    TopP Model Number false "model.call.top_p";
    Seed Model Int false "model.call.seed";
    MaxTokens Model Count false "model.call.max_tokens";
    PromptName Model Text false "model.call.prompt_name";
    PromptVersion Model Text false "model.call.prompt_version";
    Invocation Model Content true "model.call.request_model, .temperature, .top_p, .seed, .max_tokens";
    SystemInstructions Model Content true "model.call.prompt_sha256";
    ToolDefinitions Model Content true "model.call.tool_defs_sha256";
    ModelInput Model Content false "model.call.input";
    ModelOutput Model Content false "model.call.output";
    Reasoning Model Content false "model.call.reasoning";
    FinishReasons Model List false "model.call.finish_reasons";
    InputTokens Model Count false "model.call.input_tokens";
    OutputTokens Model Count false "model.call.output_tokens";
    CacheReadTokens Model Count false "model.call.cache_read_tokens";
    CacheWriteTokens Model Count false "model.call.cache_write_tokens";
    ReasoningTokens Model Count false "model.call.reasoning_tokens";
    CostMicros Model Count false "model.call.cost_micros";
    CostUsd Model Amount true "model.call.cost_micros";
    TtftSeconds Model Amount true "model.call.ttft_ms";
    TtftMs Model Amount true "model.call.ttft_ms";
    Attempt Model Count false "model.call.attempt";
    ToolCallId Tool Text false "tool.call.*.tool_call_id";
    ToolName Tool Text false "tool.call.*.tool_name";
    ToolType Tool Text false "tool.call.attempted.tool_type";
    ToolServer Tool Text false "tool.call.*.server";
    ToolArguments Tool Content false "tool.call.attempted.arguments";
    ToolResult Tool Content false "tool.call.completed.result";
    ToolBytesOut Tool Count false "tool.call.completed.bytes_out";
    ToolDecided Tool Text true "policy.decision.effect, approval.decided.decision";
    AgentOutput Agent Content false "output.produced.content";
    DataOperation Data Text true "data.accessed.op";
    DataSource Data Text false "data.accessed.source_id";
    DataNamespace Data Text false "data.accessed.memory_namespace";
    DataRows Data Count false "data.accessed.rows";
    DataQuery Data Content false "data.accessed.query";
    DataRecord Data Text false "data.accessed.document_refs";
    DataDocuments Data Content true "data.accessed.document_refs";
    Metric Evaluation Text false "evaluation.result.metric";
    Score Evaluation Number false "evaluation.result.value";
    Label Evaluation Text true "evaluation.result.k, evaluation.result.n";
    Judge Evaluation Text false "evaluation.result.judge";
    EvaluationRun Evaluation Text false "evaluation.result.run_id";
    DecisionCall Decision Text false "policy.decision.subject_id";
    Decision Decision Text true "policy.decision.effect, approval.decided.decision";
    DecisionSource Decision Text true "policy.decision.reason_code, approval.decided.channel";
    ToAgent Delegation Text false "delegation.to_agent";
    TaskId Delegation Text false "delegation.task_id";
    TaskState Delegation Text true "delegation.state";
    ThreatRule Threat Text false "detection.raised.kind";
    ThreatRuleset Threat Text false "detection.raised.ruleset";
    ThreatSeverity Threat Text true "detection.raised.severity";
    ThreatAction Threat Text true "detection.raised.action";
    ThreatIncident Threat Text false "detection.raised.incident_id";
}
