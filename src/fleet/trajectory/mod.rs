//! Reads recorded agent runs: tau-bench, InterCode or plain chat-format JSON, by their shape.
//!
//! It does not invent anything: what a file does not say (times, latencies) is added by `emit`.

mod chat;
mod intercode;
mod tau_bench;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use super::{Run, price};

/// Reads every run of the files and folders given; folders are searched for `.json` and `.jsonl`.
///
/// # Errors
/// A path that does not exist, a file that is not JSON or whose shape is none of the three: the
/// message names the file. A folder without runs is an error too.
pub fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Run>> {
    let mut files = Vec::new();
    for path in paths {
        collect(path, &mut files)?;
    }
    // Folders list their files in no order; the seed draws by position.
    files.sort();
    // A file that is named and also found in a folder is read once.
    files.dedup();
    let mut runs = Vec::new();
    for file in &files {
        runs.extend(read_file(file).with_context(|| format!("cannot read agent runs from {}", file.display()))?);
    }
    if runs.is_empty() {
        bail!(
            "no agent runs found in {paths:?}: expected .json or .jsonl files of tau-bench, InterCode or chat format"
        );
    }
    Ok(runs)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot open {}", path.display()))?;
    if !metadata.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let child = entry?.path();
        let is_runs = child.extension().is_some_and(|e| e == "json" || e == "jsonl");
        if child.is_dir() || is_runs {
            collect(&child, files)?;
        }
    }
    Ok(())
}

fn read_file(file: &Path) -> anyhow::Result<Vec<Run>> {
    let text = std::fs::read_to_string(file)?;
    let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let is_lines = file.extension().is_some_and(|e| e == "jsonl");
    let value = if is_lines {
        // As the list that the other form is, so that `parse` knows one shape for both.
        let lines = text.lines().filter(|l| !l.trim().is_empty());
        Value::Array(lines.map(serde_json::from_str).collect::<Result<_, _>>()?)
    } else {
        serde_json::from_str(&text)?
    };
    parse(&value, &stem)
}

/// The runs in one document; `stem` is the file's name without extension.
fn parse(value: &Value, stem: &str) -> anyhow::Result<Vec<Run>> {
    match value {
        // By shape and not by name: files of all three are called as their makers like.
        Value::Array(items) if items.first().is_some_and(|i| i["traj"].is_array()) => Ok(tau_bench::parse(items, stem)),
        Value::Object(items) if items.values().next().is_some_and(|i| i["turn_history"].is_object()) => {
            Ok(intercode::parse(items, stem))
        }
        Value::Array(items) if items.first().is_some_and(|i| i["messages"].is_array()) => {
            Ok(items.iter().enumerate().map(|(n, i)| chat::run(&i["messages"], &i["model"], stem, n)).collect())
        }
        Value::Array(items) if items.first().is_some_and(|i| i["role"].is_string()) => {
            Ok(vec![chat::run(value, &Value::Null, stem, 0)])
        }
        Value::Object(item) if item.get("messages").is_some_and(Value::is_array) => {
            Ok(vec![chat::run(&item["messages"], item.get("model").unwrap_or(&Value::Null), stem, 0)])
        }
        Value::Array(items) if items.is_empty() => Ok(Vec::new()),
        _ => bail!(
            "not a known shape: expected a list with `traj` (tau-bench), an object of `turn_history` (InterCode), or \
             `messages` / a list of {{role, content}} (chat format)"
        ),
    }
}

/// A run without steps, its model guessed from `name`.
fn empty_run(agent_id: String, dataset: &str, task_id: String, name: &str) -> Run {
    let known = price::find(name);
    Run {
        agent_id,
        tenant_id: "acme".to_owned(),
        provider: known.map_or("unknown", |m| m.provider).to_owned(),
        model: known.map_or("unknown", |m| m.name).to_owned(),
        dataset: dataset.to_owned(),
        task_id,
        steps: Vec::new(),
        reward: None,
    }
}

/// Text of a message's content: a string, or the text parts of a list.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|p| p["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
