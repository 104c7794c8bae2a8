//! Every fault that another pipeline is known to fail has a test here that names it: `tests/live/README.md`
//! lists them, and this checks that the list is true.
//!
//! It does not run them.

use std::path::Path;

/// Fewest rows of the table: items 1 to 8, 10 and 14 of the ranking that it follows.
const FAULTS: [&str; 10] = ["1", "2", "3", "4", "5", "6", "7", "8", "10", "14"];

/// Rows of the table: fault, peer's issues, file and function.
fn rows(text: &str) -> Vec<[String; 4]> {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().replace('`', "")).collect::<Vec<_>>();
    let table =
        text.lines().map(cells).filter(|cells| cells.len() == 6 && cells[1].starts_with(|c: char| c.is_ascii_digit()));
    table.map(|cells| [cells[1].clone(), cells[2].clone(), cells[3].clone(), cells[4].clone()]).collect()
}

/// The lines of documentation and attributes right above a function.
fn above(source: &str, function: &str) -> Option<String> {
    let start = ["(", "<"].iter().find_map(|end| source.find(&format!("fn {function}{end}")))?;
    let line = source[..start].rfind('\n')?;
    let is_above = |line: &&str| ["///", "#["].iter().any(|begins| line.trim_start().starts_with(begins));
    Some(source[..line].lines().rev().take_while(is_above).collect::<Vec<_>>().join("\n"))
}

#[test]
fn every_known_fault_of_a_peer_has_a_test_that_names_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let rows = rows(&read("tests/live/README.md"));
    for [number, issues, file, function] in &rows {
        let doc = above(&read(file), function).unwrap_or_else(|| panic!("{file} has no {function}"));
        for issue in issues.split(", ") {
            assert!(
                doc.contains(issue),
                "fault {number}: {function} in {file} does not say that it answers {issue}: {doc}"
            );
        }
    }
    for fault in FAULTS {
        assert!(rows.iter().any(|[number, ..]| number == fault), "fault {fault} has no test");
    }
}
