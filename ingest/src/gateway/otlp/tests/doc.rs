//! `docs/otlp.md` says what the table says. `UPDATE=1` rewrites the generated parts.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::gateway::otlp::MAPPING;
use crate::gateway::otlp::source::RESOURCE_ROWS;
use crate::gateway::otlp::table::{
    DATA_OPERATIONS, Field, INDEXED, LOGS, OtlpKind, ROWS, Row, SPANS, SPANS_HINTED, SPANS_WITH,
};

/// Generated parts: name of the marker, and text.
fn parts() -> Vec<(&'static str, String)> {
    vec![
        ("version", format!("Version: `{MAPPING}`.\n")),
        ("spans", spans()),
        ("logs", logs()),
        ("attributes", attributes()),
    ]
}

fn table(head: &str, rows: impl IntoIterator<Item = String>) -> String {
    let columns = head.matches('|').count() - 1;
    let mut text = format!("{head}\n|{}\n", "---|".repeat(columns));
    rows.into_iter().for_each(|row| text.push_str(&row));
    text
}

fn spans() -> String {
    let told = SPANS.iter().map(|(dialect, name, value, kind)| (*dialect, format!("`{name}` = `{value}`"), *kind));
    let with = SPANS_WITH.iter().map(|(dialect, name, kind)| (*dialect, format!("`{name}`, any value"), *kind));
    let hinted =
        SPANS_HINTED.iter().map(|(dialect, name, kind)| (*dialect, format!("`{name}`, and none of the above"), *kind));
    let row = |(dialect, what, kind): (_, String, OtlpKind)| {
        let dialect: crate::gateway::otlp::table::Dialect = dialect;
        format!("| {} | {what} | {} |\n", dialect.name(), kind.events())
    };
    table("| dialect | span with | events |", told.chain(with).chain(hinted).map(row))
}

fn logs() -> String {
    let row = |(dialect, name, kind): &(crate::gateway::otlp::table::Dialect, &str, OtlpKind)| {
        format!("| {} | `{name}` | {} |\n", dialect.name(), kind.events())
    };
    table("| dialect | record | events |", LOGS.iter().map(row))
}

fn attributes() -> String {
    let line = |Row { dialect, attribute, field }: &Row, indexed: &str| {
        let stays = if field.stays() { "yes" } else { "" };
        format!("| {} | `{attribute}{indexed}` | `{}` | {stays} |\n", dialect.name(), field.path())
    };
    let resource = RESOURCE_ROWS.iter().map(|(name, path)| format!("| resource | `{name}` | `{path}` | yes |\n"));
    let rows = ROWS.iter().map(|row| line(row, "")).chain(INDEXED.iter().map(|row| line(row, "N.*")));
    table("| dialect | attribute | field | also in `ext` |", resource.chain(rows))
}

#[test]
fn the_document_says_what_the_table_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/otlp.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut expected = text.clone();
    for (name, part) in parts() {
        let (begin, end) = (format!("<!-- {name}: generated -->\n"), format!("<!-- {name}: end -->"));
        let first = expected.find(&begin).unwrap_or_else(|| panic!("{begin:?} is not in docs/otlp.md")) + begin.len();
        let next = first + expected[first..].find(&end).unwrap_or_else(|| panic!("{end:?} is not in docs/otlp.md"));
        expected.replace_range(first..next, &part);
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    let remedy = "UPDATE=1 cargo test -p ingest --all-features --lib otlp rewrites it";
    assert!(written == expected, "docs/otlp.md differs from the table: {remedy}");
}

#[test]
fn no_row_is_there_twice_and_every_field_has_one() {
    let mut seen = BTreeSet::new();
    let mut text = String::new();
    for Row { dialect, attribute, field } in ROWS {
        if !seen.insert((*dialect, *attribute, *field)) {
            writeln!(text, "{attribute} fills {} twice", field.path()).unwrap();
        }
    }
    assert_eq!(text, "");
    let filled: BTreeSet<Field> = ROWS.iter().map(|row| row.field).collect();
    assert_eq!(filled.len(), Field::COUNT, "a field without an attribute");
    let operations: BTreeSet<&str> = DATA_OPERATIONS.iter().map(|(name, _)| *name).collect();
    let of_data = SPANS.iter().filter(|(_, name, _, kind)| *name == "gen_ai.operation.name" && *kind == OtlpKind::Data);
    assert_eq!(of_data.map(|(_, _, value, _)| *value).collect::<BTreeSet<_>>(), operations);
}
