//! What `docker/` says, held against the code: series, tables, columns, settings, groups and topics that
//! dashboards, rules, Compose and the chart name exist; images and ports stand in one place.
//!
//! Nothing is started. Whether Docker, Helm and Prometheus understand the files is `docker/lint.sh`'s to
//! say, and whether ClickHouse answers the queries a live suite's.

#[path = "deploy/compose.rs"]
mod compose;
#[path = "deploy/queries.rs"]
mod queries;
#[path = "deploy/settings.rs"]
mod settings;

use std::path::{Path, PathBuf};

use serde_yaml_ng::Value;

fn docker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(docker().join(name)).unwrap_or_else(|error| panic!("docker/{name}: {error}"))
}

/// A YAML or JSON file, merge keys applied.
fn parsed(name: &str) -> Value {
    let mut value: Value =
        serde_yaml_ng::from_str(&read(name)).unwrap_or_else(|error| panic!("docker/{name}: {error}"));
    // A merged mapping may bring a merge key of its own.
    while has_merge_key(&value) {
        value.apply_merge().unwrap_or_else(|error| panic!("docker/{name}: {error}"));
    }
    value
}

fn has_merge_key(value: &Value) -> bool {
    match value {
        Value::Mapping(fields) => {
            fields.iter().any(|(name, value)| name.as_str() == Some("<<") || has_merge_key(value))
        }
        Value::Sequence(items) => items.iter().any(has_merge_key),
        _ => false,
    }
}

/// Files below `docker/`, from there, sorted.
fn files() -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![docker()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("folder") {
            let path = entry.expect("entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    found.push(path.strip_prefix(docker()).expect("below").to_string_lossy().into_owned());
                }
            }
        }
    }
    found.sort();
    assert!(found.len() > 20, "only {} files", found.len());
    found
}

/// Every text under that key, at any depth.
fn texts(value: &Value, key: &str) -> Vec<String> {
    match value {
        Value::Mapping(fields) => fields
            .iter()
            .flat_map(|(name, value)| match value.as_str() {
                Some(text) if name.as_str() == Some(key) => vec![text.to_owned()],
                _ => texts(value, key),
            })
            .collect(),
        Value::Sequence(items) => items.iter().flat_map(|item| texts(item, key)).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn every_yaml_and_json_file_can_be_read() {
    let is_data = |name: &&String| {
        let is_template = name.starts_with("helm/custody/templates/");
        !is_template && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
    };
    let names = files();
    let data: Vec<_> = names.iter().filter(is_data).collect();
    assert!(data.len() > 10, "only {data:?}");
    for name in data {
        parsed(name);
    }
}
