//! tau-bench result files: a list of `{task_id, reward, traj, trial}` with chat-format trajectories.

use serde_json::Value;

use super::{chat, empty_run};
use crate::fleet::Run;

/// The runs of one file; the agent is named after the file.
pub(super) fn parse(items: &[Value], stem: &str) -> Vec<Run> {
    items.iter().map(|item| run(item, stem)).collect()
}

fn run(item: &Value, stem: &str) -> Run {
    let task = format!("{}/{}", item["task_id"], item["trial"]);
    let mut run = empty_run(stem.to_owned(), "tau-bench", task, stem);
    run.steps = chat::steps(item["traj"].as_array().map_or(&[], Vec::as_slice));
    run.reward = item["reward"].as_f64();
    run
}
