//! Documents as programs: what they name exists, what they link to is there, and they use plain words.
//!
//! Each check is a function from text to complaints, and is shown a broken text to prove that it can fail. Whether
//! a sentence is true is for reviewers; what a document says of settings and metrics is checked in `deploy`.

mod commands;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use regex::Regex;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Names of files that git tracks or would track, and that are there.
fn tracked() -> Vec<String> {
    let listed =
        Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root()).output().expect("git");
    let names = String::from_utf8(listed.stdout).expect("utf-8 names");
    names.lines().filter(|name| root().join(name).is_file()).map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Markdown file: path and text.
fn documents() -> Vec<(String, String)> {
    let names = tracked().into_iter().filter(|name| name.ends_with(".md"));
    let files: Vec<(String, String)> = names.map(|name| (name.clone(), read(&name))).collect();
    assert!(files.len() > 30, "only {} documents found", files.len());
    files
}

/// The text without fenced and indented code; what is left out keeps its line.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let kept = text.lines().map(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        if is_code || is_fence || line.starts_with("    ") { "" } else { line }
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// What stands between single backticks.
fn spans(prose: &str) -> impl Iterator<Item = &str> {
    static SPAN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"`([^`\n]+)`").expect("pattern"));
    SPAN.captures_iter(prose).map(|found| found.get(1).map_or("", |span| span.as_str()))
}

/// The section under `## title`, up to the next of its level.
fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let head = format!("\n## {title}\n");
    let (_, rest) = text.split_once(&head).unwrap_or_else(|| panic!("no section {title:?}"));
    rest.split("\n## ").next().unwrap_or_default()
}

/// Names of files that readers make themselves, that a command writes, or that stand for any file of their kind.
const NOT_OURS: [&str; 6] =
    ["custody.toml", "pii.key", "api-keys.json", "my-values.yaml", "NNNN-title-in-lower-case.md", "x/tests.rs"];

/// A code span as a path of this repository, if that is what it must be.
fn as_path(span: &str) -> Option<&str> {
    static PATH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^[A-Za-z0-9_.][A-Za-z0-9_./-]*$").expect("pattern"));
    static FILE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^[^/].*\.(rs|md|toml|sh|yaml|yml|json|avsc|py|csv|txt|lua|proto)$").expect("pattern")
    });
    static FOLDERS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        let first = |name: &String| name.split_once('/').map(|(folder, _)| folder.to_owned());
        tracked().iter().filter_map(first).collect()
    });
    let is_below = span.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(folder));
    (PATH.is_match(span) && (is_below || FILE.is_match(span)) && !NOT_OURS.contains(&span)).then_some(span)
}

/// Where a path of a document may begin: at the root, or beside the document.
fn resolve(document: &str, path: &str) -> Option<PathBuf> {
    let beside = Path::new(document).parent().unwrap_or(Path::new(""));
    [root().join(path), root().join(beside).join(path)].into_iter().find(|path| path.exists())
}

/// The plan's own section names what is still to come.
const PLAN: &str = "Where the coming parts will live";

fn missing_paths(document: &str, text: &str) -> Vec<String> {
    let text = prose(text);
    let planned =
        if text.contains(&format!("\n## {PLAN}\n")) { section(&text, PLAN).to_owned() } else { String::new() };
    let text = text.replace(&planned, "");
    let paths = spans(&text).filter_map(as_path);
    paths.filter(|path| resolve(document, path).is_none()).map(|path| format!("no file {path}")).collect()
}

/// `Name` (`path`) and `Name` in `path`: the file, or a file of the folder, holds the name.
fn misplaced_names(document: &str, text: &str) -> Vec<String> {
    static PLACED: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"`([A-Za-z_][A-Za-z0-9_]*)` (?:\(|in )`([^`\n]+)`").expect("pattern"));
    let text = prose(text);
    let placed = PLACED.captures_iter(&text).map(|found| {
        let (_, [name, path]) = found.extract();
        (name, path)
    });
    let placed = placed.filter_map(|(name, path)| Some((name, resolve(document, as_path(path)?)?)));
    placed
        .filter(|(name, path)| !holds(path, name))
        .map(|(name, path)| format!("{name} is not in {}", path.display()))
        .collect()
}

fn holds(path: &Path, name: &str) -> bool {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("folder");
        return entries.flatten().any(|entry| holds(&entry.path(), name));
    }
    let word = Regex::new(&format!(r"\b{name}\b")).expect("pattern");
    std::fs::read_to_string(path).is_ok_and(|text| word.is_match(&text))
}

/// The anchor that GitHub gives a heading.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let text = prose(text);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slugs = headings.map(|line| slug(line.trim_start_matches('#')));
    slugs
        .map(|slug| {
            let times = seen.entry(slug.clone()).or_default();
            *times += 1;
            if *times == 1 { slug } else { format!("{slug}-{}", *times - 1) }
        })
        .collect()
}

fn broken_links(document: &str, text: &str) -> Vec<String> {
    static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\]\(([^)\s]+)\)").expect("pattern"));
    let (own, text) = (text, prose(text));
    let targets = LINK.captures_iter(&text).map(|found| found.get(1).map_or("", |target| target.as_str()).to_owned());
    let inside = targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    let is_broken = |target: &String| {
        let (path, anchor) = target.split_once('#').unwrap_or((target.as_str(), ""));
        let beside = root().join(document).parent().expect("a folder").join(path);
        let linked = if path.is_empty() { Some(own.to_owned()) } else { std::fs::read_to_string(&beside).ok() };
        match (linked, anchor) {
            (None, "") => !beside.exists(),
            (None, _) => true,
            (Some(_), "") => false,
            (Some(text), anchor) => !anchors(&text).contains(anchor),
        }
    };
    inside.filter(is_broken).map(|target| format!("no {target}")).collect()
}

fn complaints(check: fn(&str, &str) -> Vec<String>) -> Vec<String> {
    // The changelog names what there was.
    let documents = documents().into_iter().filter(|(name, _)| name != "CHANGELOG.md");
    documents
        .flat_map(|(name, text)| check(&name, &text).into_iter().map(move |what| format!("{name}: {what}")))
        .collect()
}

#[track_caller]
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn every_path_that_a_document_names_exists() {
    none(&complaints(missing_paths));
    let named: usize = documents().iter().map(|(_, text)| spans(&prose(text)).filter_map(as_path).count()).sum();
    assert!(named > 150, "only {named} paths were looked for");
}

#[test]
fn every_name_is_in_the_file_beside_it() {
    none(&complaints(misplaced_names));
}

#[test]
fn every_link_and_anchor_resolves() {
    none(&complaints(broken_links));
}

#[test]
fn every_check_of_documents_can_fail() {
    assert_eq!(missing_paths("README.md", "see `src/nowhere.rs`").len(), 1);
    assert_eq!(missing_paths("docs/alerts.md", "`intake.md` and `nowhere.md`").len(), 1);
    assert_eq!(misplaced_names("README.md", "`Nobody` (`src/main.rs`)").len(), 1);
    assert_eq!(
        broken_links("README.md", "[a](nowhere.md) [b](STYLE.md#nothing) [c](#none) [d](STYLE.md#names)").len(),
        3
    );
    assert_eq!(slug(" What is the same, and what is not"), "what-is-the-same-and-what-is-not");
}

#[test]
fn what_is_still_to_come_is_not_there() {
    let plan = prose(&read("ARCHITECTURE.md"));
    let rows = section(&plan, PLAN).lines().filter(|line| line.starts_with("| ")).skip(1);
    let folders: Vec<&str> = rows.filter_map(|row| spans(row).next()).collect();
    assert!(!folders.is_empty(), "no row is read: take this test out with the section {PLAN:?}");
    for folder in folders {
        assert!(!root().join(folder).exists(), "{folder} is there: move its row to the code map of ARCHITECTURE.md");
    }
}

/// Rows of the journey: its types and its files.
fn journey() -> Vec<(String, Vec<String>, Vec<String>)> {
    let text = read("ARCHITECTURE.md");
    let rows = section(&text, "One event's journey").lines().filter(|line| line.starts_with("| ")).skip(1);
    let list = |cell: &str| spans(cell).map(str::to_owned).collect();
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|row| (row[1].to_owned(), list(row[3]), list(row[4]))).collect()
}

#[test]
fn every_type_of_the_journey_is_declared_in_a_file_of_its_row() {
    let rows = journey();
    assert!(rows.len() > 8, "only {} rows are read", rows.len());
    for (step, types, files) in rows {
        assert!(!types.is_empty() && !files.is_empty(), "{step} names no type or no file");
        let sources: Vec<String> = files.iter().map(|file| read(file)).collect();
        for name in types {
            let declared = Regex::new(&format!(r"\b(struct|enum|trait|type) {name}\b")).expect("pattern");
            assert!(sources.iter().any(|source| declared.is_match(source)), "{step}: no {name} in {files:?}");
        }
    }
}

#[test]
fn every_invariant_names_a_check_that_exists() {
    let text = read("ARCHITECTURE.md");
    let tidy = read("tests/it/tidy.rs");
    let paragraphs: Vec<&str> = section(&text, "Invariants").split("\n\n").filter(|p| p.starts_with("**I")).collect();
    assert_eq!(paragraphs.len(), 11);
    for (number, paragraph) in (1..).zip(paragraphs) {
        assert!(paragraph.starts_with(&format!("**I{number}** ")), "I{number} is not in its place");
        let (_, check) = paragraph.split_once("\nChecked by ").unwrap_or_else(|| panic!("I{number} names no check"));
        let paths: Vec<&str> = spans(check).filter_map(as_path).collect();
        assert!(paths.iter().any(|path| root().join(path).is_file()), "I{number} names no file that checks it");
        if paths.contains(&"tests/it/tidy.rs") {
            let rule = tidy.contains(&format!("\"I{number}: ")) || tidy.contains(&format!("fn i{number}_"));
            assert!(rule, "tests/it/tidy.rs has no rule for I{number}");
        }
    }
}

const SECTIONS: [&str; 5] = ["Context", "Decision", "Consequence", "Measurement", "Status"];

/// What is wrong with the decision that has this number.
fn faults_of_a_decision(number: usize, name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !name.starts_with(&format!("{number:04}-")) || !text.starts_with(&format!("# {number:04}. ")) {
        faults.push(format!("is not decision {number:04}, by its name and its title"));
    }
    let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    if headings != SECTIONS {
        faults.push(format!("has the sections {headings:?}, not {SECTIONS:?}"));
        return faults;
    }
    let empty = SECTIONS.into_iter().filter(|title| section(text, title).trim().is_empty());
    faults.extend(empty.map(|title| format!("says nothing under {title}")));
    let measured = section(text, "Measurement").trim();
    if measured != "None." && !measured.contains(|c: char| c.is_ascii_digit()) {
        faults.push("has no figure under Measurement, nor \"None.\"".to_owned());
    }
    let status = Regex::new(r"^(Accepted|Replaced|Withdrawn) \d{4}-\d{2}-\d{2}\b").expect("pattern");
    if !status.is_match(section(text, "Status").trim()) {
        faults.push("has no Accepted, Replaced or Withdrawn with a date under Status".to_owned());
    }
    faults
}

#[test]
fn decisions_have_all_sections_and_consecutive_numbers() {
    let folder = "docs/decisions/";
    let mut names: Vec<String> =
        tracked().into_iter().filter_map(|name| name.strip_prefix(folder).map(str::to_owned)).collect();
    names.retain(|name| name != "README.md");
    names.sort();
    assert!(names.len() >= 28, "a decision is never deleted");
    let mut faults = Vec::new();
    let mut index = Vec::new();
    for (number, name) in (1..).zip(&names) {
        let text = read(&format!("{folder}{name}"));
        faults.extend(faults_of_a_decision(number, name, &text).into_iter().map(|fault| format!("{name} {fault}")));
        let title = text.lines().next().and_then(|line| line.get(8..)).unwrap_or_default().to_owned();
        index.push(format!("- [{number:04}]({name}) {title}"));
    }
    none(&faults);
    let listed: Vec<String> =
        read("docs/decisions/README.md").lines().filter(|line| line.starts_with("- [")).map(str::to_owned).collect();
    assert_eq!(listed, index, "docs/decisions/README.md lists every decision with its title, newest last");
}

#[test]
fn a_decision_can_be_at_fault() {
    let good = "# 0003. T\n\n## Context\n\na\n\n## Decision\n\nb\n\n## Consequence\n\nc\n\n## Measurement\n\nNone.\n\n\
                ## Status\n\nAccepted 2026-11-20.\n";
    assert_eq!(faults_of_a_decision(3, "0003-t.md", good), Vec::<String>::new());
    for (number, broken) in [
        (4, good.to_owned()),
        (3, good.replace("## Measurement\n\nNone.\n\n", "")),
        (3, good.replace("\n\nc\n", "\n\n")),
        (3, good.replace("None.", "fast")),
        (3, good.replace("2026-11-20", "soon")),
    ] {
        assert_eq!(faults_of_a_decision(number, "0003-t.md", &broken).len(), 1, "{broken}");
    }
}
