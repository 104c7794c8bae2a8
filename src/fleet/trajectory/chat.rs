//! OpenAI chat format: a list of messages with roles, tool calls paired with their results by id.
//!
//! It knows no reward; `tau_bench` adds that.

use serde_json::Value;

use super::{empty_run, text_of};
use crate::fleet::{Run, Step};

/// One run from its messages.
pub(super) fn run(messages: &Value, model: &Value, stem: &str, index: usize) -> Run {
    let name = model.as_str().unwrap_or(stem);
    let mut run = empty_run(stem.to_owned(), "chat", index.to_string(), name);
    if let Some(name) = model.as_str() {
        run.model = name.to_owned();
    }
    run.steps = steps(messages.as_array().map_or(&[], Vec::as_slice));
    run
}

/// The steps in a list of messages. System messages belong to the prompt, not to the run.
pub(super) fn steps(messages: &[Value]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut input = String::new();
    for (index, message) in messages.iter().enumerate() {
        let text = text_of(&message["content"]);
        match message["role"].as_str() {
            // Gathered until the model speaks: several tool results are one input.
            Some("user" | "tool") => append(&mut input, &text),
            Some("assistant") => {
                let calls = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
                steps.push(Step::Model {
                    input: std::mem::take(&mut input),
                    output: if calls.is_empty() { text.clone() } else { model_output(&text, calls) },
                    calls_tools: !calls.is_empty(),
                });
                steps.extend(calls.iter().map(|call| tool_step(call, &messages[index + 1..])));
                // Text beside tool calls is thinking aloud; only an answer without calls leaves the agent.
                if calls.is_empty() && !text.is_empty() {
                    steps.push(Step::Output { text });
                }
            }
            _ => {}
        }
    }
    steps
}

fn append(input: &mut String, text: &str) {
    if !input.is_empty() {
        input.push('\n');
    }
    input.push_str(text);
}

fn model_output(text: &str, calls: &[Value]) -> String {
    let calls = Value::Array(calls.iter().map(|c| c["function"].clone()).collect()).to_string();
    if text.is_empty() { calls } else { format!("{text}\n{calls}") }
}

/// The call with its result: the next tool message with its id, or a failure where there is none.
fn tool_step(call: &Value, later: &[Value]) -> Step {
    // Searched behind the call only: an answer comes after its question.
    let answer = later.iter().find(|m| m["role"] == "tool" && m["tool_call_id"] == call["id"]);
    let result = answer.map(|m| text_of(&m["content"])).unwrap_or_default();
    Step::Tool {
        name: call["function"]["name"].as_str().unwrap_or("unnamed").to_owned(),
        arguments: call["function"]["arguments"].as_str().unwrap_or_default().to_owned(),
        failed: answer.is_none() || result.starts_with("Error"),
        result,
    }
}
