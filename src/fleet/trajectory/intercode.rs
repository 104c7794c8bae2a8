//! InterCode logs: an object of tasks with `turn_history` lists of actions and observations.
//!
//! An action is one model answer and one tool call; `valid_action` false is a failed call.

use serde_json::{Map, Value};

use super::empty_run;
use crate::fleet::{Run, Step};

/// The runs of one file; the agent is the environment with the model that the file name mentions.
pub(super) fn parse(items: &Map<String, Value>, stem: &str) -> Vec<Run> {
    items.values().map(|item| run(item, stem)).collect()
}

fn run(item: &Value, stem: &str) -> Run {
    let environment = item["environment"].as_str().unwrap_or("intercode").trim_start_matches("ic_");
    let mut run = empty_run(String::new(), "intercode", item["task_id"].to_string(), stem);
    run.agent_id = format!("{environment}-{}", run.model);
    run.reward = item["summary"]["max_reward"].as_f64();
    run.steps = steps(item, environment);
    run
}

fn steps(item: &Value, environment: &str) -> Vec<Step> {
    let history = &item["turn_history"];
    let actions = history["actions"].as_array().map_or(&[][..], Vec::as_slice);
    let mut input = item["query"].as_str().unwrap_or_default().to_owned();
    let mut steps = Vec::with_capacity(2 * actions.len() + 1);
    for (turn, action) in actions.iter().enumerate() {
        let action = plain(action);
        let result = plain(&history["observations"][turn]);
        let arguments = serde_json::json!({ "command": action }).to_string();
        let failed = history["valid_action"][turn].as_bool() == Some(false);
        steps.push(Step::Model {
            // What the environment answered is what the model sees next.
            input: std::mem::replace(&mut input, result.clone()),
            output: action,
            calls_tools: true,
        });
        steps.push(Step::Tool { name: environment.to_owned(), arguments, result, failed });
    }
    // InterCode logs name no answer; the last observation stands for it.
    if let Some(Step::Tool { result, .. }) = steps.last() {
        steps.push(Step::Output { text: result.clone() });
    }
    steps
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
