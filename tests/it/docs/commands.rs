//! Commands that documents show: every `custody` command and option exists, and so does every test and bench target.

use std::sync::LazyLock;

use clap::CommandFactory as _;
use custody::cli::Cli;
use regex::Regex;

use super::{documents, none, prose, read, spans, tracked};

/// Lines of code blocks, and code spans.
fn code(text: &str) -> Vec<String> {
    let without = prose(text);
    let lines = text.lines().zip(without.lines()).filter(|(line, kept)| line != kept).map(|(line, _)| line);
    lines.chain(spans(&without)).map(str::to_owned).collect()
}

/// What is wrong with the `custody` commands of a line of code.
fn faults_of_commands(line: &str) -> Vec<String> {
    static CALL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?:^|[\s`(])custody((?: +[^\s|&;#>`)]+)+)").expect("pattern"));
    if line.contains("helm ") {
        return Vec::new();
    }
    let calls = CALL.captures_iter(line).map(|found| found.get(1).map_or("", |words| words.as_str()));
    calls.filter_map(fault_of_a_call).collect()
}

fn fault_of_a_call(words: &str) -> Option<String> {
    let mut at = Cli::command();
    // Options that are good for every command.
    at.build();
    let mut is_path = true;
    for word in words.split_whitespace() {
        if let Some(option) = word.strip_prefix("--") {
            is_path = false;
            let name = option.split('=').next().unwrap_or_default();
            let is_known =
                ["help", "version"].contains(&name) || at.get_arguments().any(|a| a.get_long() == Some(name));
            if !is_known && !name.is_empty() {
                return Some(format!("custody{words}: no option --{name}"));
            }
        } else if is_path && at.has_subcommands() {
            match at.find_subcommand(word).cloned() {
                Some(next) => at = next,
                None => return Some(format!("custody{words}: no command {word}")),
            }
        }
    }
    None
}

/// What is wrong with the cargo commands of a line of code: test and bench targets.
fn faults_of_targets(line: &str) -> Vec<String> {
    static TARGET: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"--(test|bench) ([a-z_0-9]+)").expect("pattern"));
    if !line.contains("cargo ") {
        return Vec::new();
    }
    let files = tracked();
    let manifests: Vec<String> =
        files.iter().filter(|name| name.ends_with("Cargo.toml")).map(|name| read(name)).collect();
    let exists = |kind: &str, name: &str| {
        let declared = format!("[[{kind}]]\nname = \"{name}\"\n");
        let folder = if kind == "test" { "tests" } else { "benches" };
        let found = format!("{folder}/{name}.rs");
        manifests.iter().any(|text| text.contains(&declared)) || files.iter().any(|file| file.ends_with(&found))
    };
    let targets = TARGET.captures_iter(line).map(|found| {
        let (_, [kind, name]) = found.extract();
        (kind, name)
    });
    targets.filter(|(kind, name)| !exists(kind, name)).map(|(kind, name)| format!("no {kind} {name}")).collect()
}

#[test]
fn every_command_that_a_document_shows_exists() {
    let mut complaints = Vec::new();
    let mut calls = 0;
    for (name, text) in documents() {
        for line in code(&text) {
            calls += usize::from(line.contains("custody "));
            let faults = faults_of_commands(&line).into_iter().chain(faults_of_targets(&line));
            complaints.extend(faults.map(|fault| format!("{name}: {fault}")));
        }
    }
    none(&complaints);
    assert!(calls > 40, "only {calls} commands were looked at");
}

#[test]
fn a_command_can_be_wrong() {
    let check = |line, faults| assert_eq!(faults_of_commands(line).len(), faults, "{line}");
    check("custody topics migrate --partitions 8 --execute; custody fly", 1);
    check("custody verify custody-data --gently", 1);
    check("custody topics nothing", 1);
    check("(custody status)", 0);
    assert_eq!(faults_of_targets("cargo test --test it tidy"), Vec::<String>::new());
    assert_eq!(faults_of_targets("cargo bench --bench nothing").len(), 1);
}

#[test]
fn every_golden_test_names_the_command_that_rewrites_its_files() {
    let guide = read("CONTRIBUTING.md");
    let reads_it = |text: &str| text.contains(concat!("var_os(\"UP", "DATE\")"));
    let names = tracked().into_iter().filter(|name| name.ends_with(".rs"));
    let golden: Vec<(String, String)> =
        names.map(|name| (name.clone(), read(&name))).filter(|(_, text)| reads_it(text)).collect();
    assert!(golden.len() >= 5, "only {} golden tests found", golden.len());
    static COMMAND: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"UPDATE=1 cargo test [a-z -]+[a-z]").expect("pattern"));
    for (name, text) in golden {
        let commands: Vec<&str> = COMMAND.find_iter(&text).map(|found| found.as_str()).collect();
        assert!(!commands.is_empty(), "{name}: no failure names its UPDATE=1 command");
        let is_listed = commands
            .iter()
            .any(|command| guide.split('`').any(|code| command.starts_with(code) && code.starts_with("UPDATE")));
        assert!(is_listed, "CONTRIBUTING.md lists none of {commands:?} of {name}");
    }
}
