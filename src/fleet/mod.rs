//! The input of `custody demo`: a fleet of agents, from real runs or of our own making.
//!
//! [`Run`] is one agent run without times or ids; `emit` gives it both. Nothing here talks to a log.

pub mod emit;
pub mod faults;
pub mod malformed;
pub mod plant;
pub mod price;
pub mod stream;
pub mod synth;
pub mod trajectory;

use schemas::time::TimestampMicros;

/// One agent run as its source describes it: what was said and called, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Agent, e.g. `gpt-4o-airline`.
    pub agent_id: String,
    /// Tenant that the agent works for.
    pub tenant_id: String,
    /// `gen_ai.provider.name`.
    pub provider: String,
    /// `gen_ai.request.model`.
    pub model: String,
    /// Where the run comes from, e.g. `tau-bench`.
    pub dataset: String,
    /// Task that was set.
    pub task_id: String,
    /// What happened.
    pub steps: Vec<Step>,
    /// Reward from 0 to 1, where the source gives one; 1 is success.
    pub reward: Option<f64>,
}

/// One thing that happened in a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A model request and its answer.
    Model {
        /// What it added to the conversation.
        input: String,
        /// What the model answered.
        output: String,
        /// Whether the answer asks for tools.
        calls_tools: bool,
    },
    /// A tool call.
    Tool {
        /// `gen_ai.tool.name`.
        name: String,
        /// Arguments, usually JSON.
        arguments: String,
        /// Result.
        result: String,
        /// Whether the tool refused or failed.
        failed: bool,
    },
    /// Something that left the agent.
    Output {
        /// Its text.
        text: String,
    },
}

/// Who runs a session, and when it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Agent id; copies of the fleet have ids of their own.
    pub agent_id: String,
    /// Which copy of the fleet, 0-based.
    pub copy: usize,
    /// Which of the agent's writers, 0-based.
    pub instance: usize,
    /// Start.
    pub at: TimestampMicros,
    /// Seed of everything drawn for the session.
    pub seed: u64,
}

/// Rough token count: four characters to a token, the rule of thumb of OpenAI's tokenizer guide.
pub fn tokens_of(text: &str) -> i64 {
    i64::try_from(text.chars().count().div_ceil(4)).unwrap_or(i64::MAX)
}
