//! The mapping as data: which attribute of which dialect fills which field of which event.
//!
//! Rows are in order of preference: where several attributes of one span want the same field, the
//! first row wins and the others stay in `ext`. What has no row stays in `ext` as well. A change of
//! meaning here is a new version of [`super::MAPPING`]; `docs/otlp.md` is checked against this file.

pub use super::field::Field;
pub use super::kind::OtlpKind;

/// Who defined an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// OpenTelemetry GenAI conventions from 1.37 on, and its own repository since May 2026.
    GenAi,
    /// OpenTelemetry GenAI conventions up to 1.36. Their values also stay in `ext`, unless they are content.
    GenAiOld,
    /// OpenInference.
    OpenInference,
    /// OpenLLMetry (Traceloop).
    OpenLlmetry,
    /// Vercel AI SDK.
    VercelAi,
    /// Model Context Protocol.
    Mcp,
    /// Agent2Agent protocol.
    A2a,
    /// General OpenTelemetry conventions.
    Otel,
    /// Log records of Claude Code.
    ClaudeCode,
    /// Log records of Codex.
    Codex,
    /// Log records of Gemini CLI.
    GeminiCli,
}

impl Dialect {
    /// Name in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GenAi => "OpenTelemetry GenAI 1.37+",
            Self::GenAiOld => "OpenTelemetry GenAI up to 1.36",
            Self::OpenInference => "OpenInference",
            Self::OpenLlmetry => "OpenLLMetry",
            Self::VercelAi => "Vercel AI SDK",
            Self::Mcp => "MCP",
            Self::A2a => "A2A",
            Self::Otel => "OpenTelemetry",
            Self::ClaudeCode => "Claude Code logs",
            Self::Codex => "Codex logs",
            Self::GeminiCli => "Gemini CLI logs",
        }
    }

    /// Whether attributes of this dialect have names like `model` that mean something only in the
    /// vendor's own log records.
    pub(super) const fn is_vendor(self) -> bool {
        matches!(self, Self::ClaudeCode | Self::Codex | Self::GeminiCli)
    }
}

/// One line of the mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Who defined the attribute.
    pub dialect: Dialect,
    /// Attribute name; for a row of [`INDEXED`] what comes before the index.
    pub attribute: &'static str,
    /// What it fills.
    pub field: Field,
}

const fn row(dialect: Dialect, attribute: &'static str, field: Field) -> Row {
    Row { dialect, attribute, field }
}

use Dialect::{A2a, ClaudeCode, Codex, GeminiCli, GenAi, GenAiOld, Mcp, OpenInference, OpenLlmetry, Otel, VercelAi};

/// The mapping. Preferred rows of a field come first.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    // Session, agent and user of any event.
    row(GenAi, "gen_ai.conversation.id", Field::Session),
    row(Otel, "session.id", Field::Session),
    row(Codex, "conversation.id", Field::Session),
    row(OpenLlmetry, "traceloop.association.properties.session_id", Field::Session),
    row(VercelAi, "ai.telemetry.metadata.sessionId", Field::Session),
    row(GenAi, "gen_ai.agent.id", Field::AgentId),
    row(GenAi, "gen_ai.agent.name", Field::AgentId),
    row(OpenInference, "agent.name", Field::AgentId),
    row(GenAi, "gen_ai.agent.version", Field::AgentVersion),
    row(ClaudeCode, "app.version", Field::AgentVersion),
    row(Codex, "app.version", Field::AgentVersion),
    row(Otel, "user.id", Field::UserId),
    row(Otel, "enduser.id", Field::UserId),
    row(OpenLlmetry, "traceloop.association.properties.user_id", Field::UserId),
    row(ClaudeCode, "user.account_uuid", Field::UserId),
    row(Codex, "user.account_id", Field::UserId),
    row(GeminiCli, "installation.id", Field::UserId),
    // Outcome of any kind.
    row(Otel, "error.type", Field::ErrorType),
    row(GeminiCli, "error_type", Field::ErrorType),
    row(ClaudeCode, "error_type", Field::ErrorType),
    row(Otel, "exception.type", Field::ErrorType),
    row(Otel, "http.response.status_code", Field::StatusCode),
    row(Otel, "http.status_code", Field::StatusCode),
    row(ClaudeCode, "status_code", Field::StatusCode),
    row(GeminiCli, "status_code", Field::StatusCode),
    row(ClaudeCode, "success", Field::Success),
    row(Codex, "success", Field::Success),
    row(GeminiCli, "success", Field::Success),
    row(Otel, "http.response.header.retry-after", Field::RetryAfter),
    row(ClaudeCode, "duration_ms", Field::DurationMs),
    row(Codex, "duration_ms", Field::DurationMs),
    row(GeminiCli, "duration_ms", Field::DurationMs),
    // Model calls.
    row(GenAi, "gen_ai.provider.name", Field::Provider),
    row(GenAiOld, "gen_ai.system", Field::Provider),
    row(OpenInference, "llm.provider", Field::Provider),
    row(OpenInference, "llm.system", Field::Provider),
    row(VercelAi, "ai.model.provider", Field::Provider),
    row(Otel, "cloud.region", Field::Region),
    row(GenAi, "gen_ai.operation.name", Field::Operation),
    row(OpenLlmetry, "llm.request.type", Field::Operation),
    row(GenAi, "gen_ai.request.model", Field::RequestModel),
    row(OpenInference, "llm.request.model_name", Field::RequestModel),
    row(OpenInference, "llm.model_name", Field::RequestModel),
    row(OpenInference, "embedding.model_name", Field::RequestModel),
    row(OpenInference, "reranker.model_name", Field::RequestModel),
    row(VercelAi, "ai.model.id", Field::RequestModel),
    row(ClaudeCode, "model", Field::RequestModel),
    row(Codex, "model", Field::RequestModel),
    row(GeminiCli, "model", Field::RequestModel),
    row(GenAi, "gen_ai.response.model", Field::ResponseModel),
    row(OpenInference, "llm.response.model_name", Field::ResponseModel),
    row(VercelAi, "ai.response.model", Field::ResponseModel),
    row(GenAi, "openai.response.system_fingerprint", Field::Fingerprint),
    row(GenAiOld, "gen_ai.openai.response.system_fingerprint", Field::Fingerprint),
    row(OpenLlmetry, "gen_ai.openai.system_fingerprint", Field::Fingerprint),
    row(GenAi, "gen_ai.response.id", Field::ResponseId),
    row(VercelAi, "ai.response.id", Field::ResponseId),
    row(ClaudeCode, "request_id", Field::CallId),
    row(GenAi, "gen_ai.request.temperature", Field::Temperature),
    row(VercelAi, "ai.settings.temperature", Field::Temperature),
    row(GenAi, "gen_ai.request.top_p", Field::TopP),
    row(GenAi, "gen_ai.request.seed", Field::Seed),
    row(GenAiOld, "gen_ai.openai.request.seed", Field::Seed),
    row(GenAi, "gen_ai.request.max_tokens", Field::MaxTokens),
    row(OpenInference, "llm.invocation_parameters", Field::Invocation),
    row(OpenInference, "embedding.invocation_parameters", Field::Invocation),
    row(GenAi, "gen_ai.prompt.name", Field::PromptName),
    row(OpenLlmetry, "traceloop.prompt.key", Field::PromptName),
    row(OpenLlmetry, "traceloop.prompt.version", Field::PromptVersion),
    row(OpenInference, "llm.prompt_template.version", Field::PromptVersion),
    row(GenAi, "gen_ai.system_instructions", Field::SystemInstructions),
    row(GenAi, "gen_ai.tool.definitions", Field::ToolDefinitions),
    row(GenAi, "gen_ai.input.messages", Field::ModelInput),
    row(GenAiOld, "gen_ai.prompt", Field::ModelInput),
    row(VercelAi, "ai.prompt.messages", Field::ModelInput),
    row(OpenInference, "input.value", Field::ModelInput),
    row(OpenInference, "reranker.query", Field::ModelInput),
    row(GenAi, "gen_ai.output.messages", Field::ModelOutput),
    row(GenAiOld, "gen_ai.completion", Field::ModelOutput),
    row(VercelAi, "ai.response.text", Field::ModelOutput),
    row(OpenInference, "output.value", Field::ModelOutput),
    row(GeminiCli, "response_text", Field::ModelOutput),
    row(OpenLlmetry, "gen_ai.completion.0.reasoning", Field::Reasoning),
    row(VercelAi, "ai.response.reasoning", Field::Reasoning),
    row(GenAi, "gen_ai.response.finish_reasons", Field::FinishReasons),
    row(OpenInference, "llm.finish_reason", Field::FinishReasons),
    row(OpenLlmetry, "llm.response.finish_reason", Field::FinishReasons),
    row(VercelAi, "ai.response.finishReason", Field::FinishReasons),
    row(GeminiCli, "finish_reasons", Field::FinishReasons),
    row(ClaudeCode, "stop_reason", Field::FinishReasons),
    row(GenAi, "gen_ai.usage.input_tokens", Field::InputTokens),
    row(GenAiOld, "gen_ai.usage.prompt_tokens", Field::InputTokens),
    row(OpenInference, "llm.token_count.prompt", Field::InputTokens),
    row(OpenLlmetry, "llm.usage.prompt_tokens", Field::InputTokens),
    row(ClaudeCode, "input_tokens", Field::InputTokens),
    row(Codex, "input_token_count", Field::InputTokens),
    row(GeminiCli, "input_token_count", Field::InputTokens),
    row(GenAi, "gen_ai.usage.output_tokens", Field::OutputTokens),
    row(GenAiOld, "gen_ai.usage.completion_tokens", Field::OutputTokens),
    row(OpenInference, "llm.token_count.completion", Field::OutputTokens),
    row(OpenLlmetry, "llm.usage.completion_tokens", Field::OutputTokens),
    row(ClaudeCode, "output_tokens", Field::OutputTokens),
    row(Codex, "output_token_count", Field::OutputTokens),
    row(GeminiCli, "output_token_count", Field::OutputTokens),
    row(GenAi, "gen_ai.usage.cache_read.input_tokens", Field::CacheReadTokens),
    row(OpenLlmetry, "gen_ai.usage.cache_read_input_tokens", Field::CacheReadTokens),
    row(OpenInference, "llm.token_count.prompt_details.cache_read", Field::CacheReadTokens),
    row(ClaudeCode, "cache_read_tokens", Field::CacheReadTokens),
    row(Codex, "cached_token_count", Field::CacheReadTokens),
    row(GeminiCli, "cached_content_token_count", Field::CacheReadTokens),
    row(GenAi, "gen_ai.usage.cache_creation.input_tokens", Field::CacheWriteTokens),
    row(OpenLlmetry, "gen_ai.usage.cache_creation_input_tokens", Field::CacheWriteTokens),
    row(OpenInference, "llm.token_count.prompt_details.cache_write", Field::CacheWriteTokens),
    row(ClaudeCode, "cache_creation_tokens", Field::CacheWriteTokens),
    row(GenAi, "gen_ai.usage.reasoning.output_tokens", Field::ReasoningTokens),
    row(OpenLlmetry, "gen_ai.usage.reasoning_tokens", Field::ReasoningTokens),
    row(OpenInference, "llm.token_count.completion_details.reasoning", Field::ReasoningTokens),
    row(Codex, "reasoning_token_count", Field::ReasoningTokens),
    row(GeminiCli, "thoughts_token_count", Field::ReasoningTokens),
    row(ClaudeCode, "cost_usd_micros", Field::CostMicros),
    row(GenAi, "gen_ai.usage.cost", Field::CostUsd),
    row(OpenInference, "llm.cost.total", Field::CostUsd),
    row(ClaudeCode, "cost_usd", Field::CostUsd),
    row(GenAi, "gen_ai.response.time_to_first_chunk", Field::TtftSeconds),
    row(VercelAi, "ai.response.msToFirstChunk", Field::TtftMs),
    row(ClaudeCode, "ttft_ms", Field::TtftMs),
    row(ClaudeCode, "attempt", Field::Attempt),
    row(Codex, "attempt", Field::Attempt),
    // Tools.
    row(GenAi, "gen_ai.tool.call.id", Field::ToolCallId),
    row(OpenInference, "tool_call.id", Field::ToolCallId),
    row(OpenInference, "tool.id", Field::ToolCallId),
    row(VercelAi, "ai.toolCall.id", Field::ToolCallId),
    row(Mcp, "jsonrpc.request.id", Field::ToolCallId),
    row(ClaudeCode, "tool_use_id", Field::ToolCallId),
    row(Codex, "call_id", Field::ToolCallId),
    row(GenAi, "gen_ai.tool.name", Field::ToolName),
    row(OpenInference, "tool.name", Field::ToolName),
    row(OpenInference, "tool_call.function.name", Field::ToolName),
    row(VercelAi, "ai.toolCall.name", Field::ToolName),
    row(OpenLlmetry, "traceloop.entity.name", Field::ToolName),
    row(ClaudeCode, "tool_name", Field::ToolName),
    row(Codex, "tool_name", Field::ToolName),
    row(GeminiCli, "function_name", Field::ToolName),
    row(GenAi, "gen_ai.tool.type", Field::ToolType),
    row(GeminiCli, "tool_type", Field::ToolType),
    row(Otel, "server.address", Field::ToolServer),
    row(ClaudeCode, "mcp_server_name", Field::ToolServer),
    row(Codex, "mcp_server", Field::ToolServer),
    row(GeminiCli, "mcp_server_name", Field::ToolServer),
    row(GenAi, "gen_ai.tool.call.arguments", Field::ToolArguments),
    row(OpenInference, "tool_call.function.arguments", Field::ToolArguments),
    row(OpenInference, "input.value", Field::ToolArguments),
    row(OpenInference, "tool.parameters", Field::ToolArguments),
    row(OpenLlmetry, "traceloop.entity.input", Field::ToolArguments),
    row(OpenLlmetry, "mcp.request.argument", Field::ToolArguments),
    row(VercelAi, "ai.toolCall.args", Field::ToolArguments),
    row(VercelAi, "ai.toolCall.input", Field::ToolArguments),
    row(ClaudeCode, "tool_input", Field::ToolArguments),
    row(ClaudeCode, "tool_parameters", Field::ToolArguments),
    row(Codex, "arguments", Field::ToolArguments),
    row(GeminiCli, "function_args", Field::ToolArguments),
    row(GenAi, "gen_ai.tool.call.result", Field::ToolResult),
    row(OpenInference, "output.value", Field::ToolResult),
    row(OpenLlmetry, "traceloop.entity.output", Field::ToolResult),
    row(OpenLlmetry, "mcp.response.value", Field::ToolResult),
    row(VercelAi, "ai.toolCall.result", Field::ToolResult),
    row(VercelAi, "ai.toolCall.output", Field::ToolResult),
    row(Codex, "output", Field::ToolResult),
    row(ClaudeCode, "tool_result_size_bytes", Field::ToolBytesOut),
    row(GeminiCli, "content_length", Field::ToolBytesOut),
    row(ClaudeCode, "decision_type", Field::ToolDecided),
    row(GeminiCli, "decision", Field::ToolDecided),
    // What an agent answers.
    row(GenAi, "gen_ai.output.messages", Field::AgentOutput),
    row(OpenInference, "output.value", Field::AgentOutput),
    row(OpenLlmetry, "traceloop.entity.output", Field::AgentOutput),
    row(VercelAi, "ai.response.text", Field::AgentOutput),
    // Retrieval and memory.
    row(GenAi, "gen_ai.operation.name", Field::DataOperation),
    row(GenAi, "gen_ai.data_source.id", Field::DataSource),
    row(Mcp, "mcp.resource.uri", Field::DataSource),
    row(GenAi, "gen_ai.memory.store.id", Field::DataNamespace),
    row(GenAi, "gen_ai.memory.record.count", Field::DataRows),
    row(GenAi, "gen_ai.retrieval.query.text", Field::DataQuery),
    row(GenAi, "gen_ai.memory.query.text", Field::DataQuery),
    row(OpenInference, "input.value", Field::DataQuery),
    row(GenAi, "gen_ai.memory.record.id", Field::DataRecord),
    row(GenAi, "gen_ai.retrieval.documents", Field::DataDocuments),
    row(GenAi, "gen_ai.memory.records", Field::DataDocuments),
    // Evaluations.
    row(GenAi, "gen_ai.evaluation.name", Field::Metric),
    row(OpenInference, "evaluation.name", Field::Metric),
    row(OpenInference, "annotation.name", Field::Metric),
    row(GenAi, "gen_ai.evaluation.score.value", Field::Score),
    row(OpenInference, "evaluation.score", Field::Score),
    row(OpenInference, "annotation.score", Field::Score),
    row(GenAi, "gen_ai.evaluation.score.label", Field::Label),
    row(OpenInference, "evaluation.label", Field::Label),
    row(OpenInference, "annotation.label", Field::Label),
    row(OpenInference, "evaluation.annotator_kind", Field::Judge),
    row(OpenInference, "annotation.annotator_kind", Field::Judge),
    row(OpenInference, "evaluation.identifier", Field::EvaluationRun),
    row(OpenInference, "annotation.identifier", Field::EvaluationRun),
    // Decisions about tools.
    row(ClaudeCode, "tool_use_id", Field::DecisionCall),
    row(Codex, "call_id", Field::DecisionCall),
    row(ClaudeCode, "decision", Field::Decision),
    row(Codex, "decision", Field::Decision),
    row(ClaudeCode, "source", Field::DecisionSource),
    row(Codex, "source", Field::DecisionSource),
    // Hand-off to other agents.
    row(A2a, "a2a.agent.name", Field::ToAgent),
    row(Otel, "server.address", Field::ToAgent),
    row(A2a, "a2a.task.id", Field::TaskId),
    row(A2a, "a2a.task.state", Field::TaskState),
    // Detections; the names are a proposal that is not merged upstream.
    row(GenAi, "agent.threat.detection.rule_id", Field::ThreatRule),
    row(GenAi, "agent.threat.detection.ruleset", Field::ThreatRuleset),
    row(GenAi, "agent.threat.detection.severity", Field::ThreatSeverity),
    row(GenAi, "agent.threat.detection.action", Field::ThreatAction),
    row(GenAi, "agent.threat.detection.correlation_id", Field::ThreatIncident),
];

/// Attributes with an index in their name, `prefix.N` or `prefix.N.rest`: gathered in order of N into
/// one JSON array of objects. They win over rows of [`ROWS`] but those of [`Dialect::GenAi`].
#[rustfmt::skip]
pub const INDEXED: &[Row] = &[
    row(OpenLlmetry, "gen_ai.prompt.", Field::ModelInput),
    row(OpenLlmetry, "gen_ai.completion.", Field::ModelOutput),
    row(OpenInference, "llm.input_messages.", Field::ModelInput),
    row(OpenInference, "llm.output_messages.", Field::ModelOutput),
    row(OpenInference, "llm.prompts.", Field::ModelInput),
    row(OpenInference, "llm.choices.", Field::ModelOutput),
    row(OpenInference, "embedding.embeddings.", Field::ModelInput),
    row(OpenInference, "llm.tools.", Field::ToolDefinitions),
    row(OpenLlmetry, "llm.request.functions.", Field::ToolDefinitions),
    row(OpenInference, "retrieval.documents.", Field::DataDocuments),
];

/// What a span with this attribute and value stands for; the first match decides.
#[rustfmt::skip]
pub const SPANS: &[(Dialect, &str, &str, OtlpKind)] = &[
    (OpenInference, "openinference.span.kind", "LLM", OtlpKind::Model),
    (OpenInference, "openinference.span.kind", "EMBEDDING", OtlpKind::Model),
    (OpenInference, "openinference.span.kind", "RERANKER", OtlpKind::Model),
    (OpenInference, "openinference.span.kind", "TOOL", OtlpKind::Tool),
    (OpenInference, "openinference.span.kind", "AGENT", OtlpKind::Agent),
    (OpenInference, "openinference.span.kind", "CHAIN", OtlpKind::Step),
    (OpenInference, "openinference.span.kind", "PROMPT", OtlpKind::Step),
    (OpenInference, "openinference.span.kind", "RETRIEVER", OtlpKind::Data),
    (OpenInference, "openinference.span.kind", "EVALUATOR", OtlpKind::Evaluation),
    (OpenInference, "openinference.span.kind", "GUARDRAIL", OtlpKind::Guardrail),
    (GenAi, "gen_ai.operation.name", "chat", OtlpKind::Model),
    (GenAi, "gen_ai.operation.name", "text_completion", OtlpKind::Model),
    (GenAi, "gen_ai.operation.name", "generate_content", OtlpKind::Model),
    (GenAi, "gen_ai.operation.name", "embeddings", OtlpKind::Model),
    (GenAi, "gen_ai.operation.name", "execute_tool", OtlpKind::Tool),
    (GenAi, "gen_ai.operation.name", "invoke_agent", OtlpKind::Agent),
    (GenAi, "gen_ai.operation.name", "invoke_workflow", OtlpKind::Agent),
    (GenAi, "gen_ai.operation.name", "plan", OtlpKind::Step),
    (GenAi, "gen_ai.operation.name", "retrieval", OtlpKind::Data),
    (GenAi, "gen_ai.operation.name", "search_memory", OtlpKind::Data),
    (GenAi, "gen_ai.operation.name", "create_memory", OtlpKind::Data),
    (GenAi, "gen_ai.operation.name", "update_memory", OtlpKind::Data),
    (GenAi, "gen_ai.operation.name", "upsert_memory", OtlpKind::Data),
    (GenAi, "gen_ai.operation.name", "delete_memory", OtlpKind::Data),
    (GenAi, "gen_ai.operation.name", "create_memory_store", OtlpKind::Data),
    (GenAi, "gen_ai.operation.name", "delete_memory_store", OtlpKind::Data),
    (OpenLlmetry, "traceloop.span.kind", "workflow", OtlpKind::Agent),
    (OpenLlmetry, "traceloop.span.kind", "agent", OtlpKind::Agent),
    (OpenLlmetry, "traceloop.span.kind", "task", OtlpKind::Step),
    (OpenLlmetry, "traceloop.span.kind", "tool", OtlpKind::Tool),
    (OpenLlmetry, "llm.request.type", "chat", OtlpKind::Model),
    (OpenLlmetry, "llm.request.type", "completion", OtlpKind::Model),
    (OpenLlmetry, "llm.request.type", "embedding", OtlpKind::Model),
    (OpenLlmetry, "llm.request.type", "rerank", OtlpKind::Model),
    (VercelAi, "ai.operationId", "ai.generateText.doGenerate", OtlpKind::Model),
    (VercelAi, "ai.operationId", "ai.streamText.doStream", OtlpKind::Model),
    (VercelAi, "ai.operationId", "ai.generateObject.doGenerate", OtlpKind::Model),
    (VercelAi, "ai.operationId", "ai.streamObject.doStream", OtlpKind::Model),
    (VercelAi, "ai.operationId", "ai.embed.doEmbed", OtlpKind::Model),
    (VercelAi, "ai.operationId", "ai.embedMany.doEmbed", OtlpKind::Model),
    (VercelAi, "ai.operationId", "ai.toolCall", OtlpKind::Tool),
    (VercelAi, "ai.operationId", "ai.generateText", OtlpKind::Step),
    (VercelAi, "ai.operationId", "ai.streamText", OtlpKind::Step),
    (VercelAi, "ai.operationId", "ai.generateObject", OtlpKind::Step),
    (VercelAi, "ai.operationId", "ai.streamObject", OtlpKind::Step),
    (VercelAi, "ai.operationId", "ai.embed", OtlpKind::Step),
    (VercelAi, "ai.operationId", "ai.embedMany", OtlpKind::Step),
    (Mcp, "mcp.method.name", "tools/call", OtlpKind::Tool),
    (Mcp, "mcp.method.name", "resources/read", OtlpKind::Data),
];

/// What a span with any value of this attribute stands for, where no row of [`SPANS`] matches.
/// An attribute of [`SPANS`] with another value, or any other one that starts with `gen_ai.`, makes
/// the span an [`OtlpKind::Extension`].
#[rustfmt::skip]
pub const SPANS_WITH: &[(Dialect, &str, OtlpKind)] = &[
    (A2a, "a2a.method.name", OtlpKind::Delegation),
    (GenAi, "agent.threat.detection.rule_id", OtlpKind::Threat),
    (GenAi, "gen_ai.evaluation.name", OtlpKind::Evaluation),
];

/// As [`SPANS_WITH`], only where the span has none of the attributes of [`SPANS`].
#[rustfmt::skip]
pub const SPANS_HINTED: &[(Dialect, &str, OtlpKind)] = &[
    (GenAi, "gen_ai.tool.name", OtlpKind::Tool),
    (GenAi, "gen_ai.request.model", OtlpKind::Model),
    (GenAiOld, "gen_ai.system", OtlpKind::Model),
    (OpenInference, "llm.model_name", OtlpKind::Model),
];

/// What a log record of this name stands for. Other records whose name starts with one of
/// [`LOG_PREFIXES`] are kept as events of their own type.
#[rustfmt::skip]
pub const LOGS: &[(Dialect, &str, OtlpKind)] = &[
    (ClaudeCode, "claude_code.api_request", OtlpKind::Model),
    (ClaudeCode, "claude_code.api_error", OtlpKind::Model),
    (ClaudeCode, "claude_code.tool_result", OtlpKind::Tool),
    (ClaudeCode, "claude_code.tool_decision", OtlpKind::ToolDecision),
    (Codex, "codex.api_request", OtlpKind::Model),
    (Codex, "codex.sse_event", OtlpKind::Model),
    (Codex, "codex.tool_result", OtlpKind::Tool),
    (Codex, "codex.tool_decision", OtlpKind::ToolDecision),
    (GeminiCli, "gemini_cli.api_response", OtlpKind::Model),
    (GeminiCli, "gemini_cli.api_error", OtlpKind::Model),
    (GeminiCli, "gemini_cli.tool_call", OtlpKind::Tool),
    (GenAi, "gen_ai.evaluation.result", OtlpKind::Evaluation),
    (GenAi, "gen_ai.client.operation.exception", OtlpKind::Model),
    (GenAi, "gen_ai.client.inference.operation.details", OtlpKind::Model),
];

/// How names of log records about agents start.
pub const LOG_PREFIXES: &[(Dialect, &str)] =
    &[(ClaudeCode, "claude_code."), (Codex, "codex."), (GeminiCli, "gemini_cli."), (GenAi, "gen_ai.")];

/// What a value of `gen_ai.operation.name` says about [`Field::DataOperation`]; others read.
pub const DATA_OPERATIONS: &[(&str, &str)] = &[
    ("retrieval", "search"),
    ("search_memory", "search"),
    ("create_memory", "write"),
    ("update_memory", "write"),
    ("upsert_memory", "write"),
    ("create_memory_store", "write"),
    ("delete_memory", "delete"),
    ("delete_memory_store", "delete"),
];
