//! The table "roles, stages, groups and topics" of ARCHITECTURE.md is that of the code.
//!
//! `UPDATE=1 cargo test --test it pipeline_table` writes it anew.

use std::fmt::Write as _;

use custody::config::ROLES;
use custody::sink_table::{PUBLISHED, SINKS};
use custody::stage_table::{STAGES, StageOutput};
use schemas::topic::Topic;

const BEGIN: &str = "<!-- pipeline table: begin; written by tests/it/pipeline_table.rs -->\n";
const END: &str = "<!-- pipeline table: end -->";

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn topics(topics: impl IntoIterator<Item = Topic>) -> String {
    let names: Vec<String> = topics.into_iter().map(|t| code(t.short_name())).collect();
    names.join(", ")
}

fn output(output: &StageOutput) -> String {
    match output {
        StageOutput::Own(topic) => code(topic.short_name()),
        StageOutput::Slot(topic, slot) => format!("{} slot {slot}", code(topic.short_name())),
    }
}

fn table() -> String {
    let mut text =
        String::from("| role | stage or sink | consumer group | reads | writes | state |\n|---|---|---|---|---|---|\n");
    for role in &ROLES {
        for stage in STAGES.iter().filter(|s| s.role == role.role) {
            let writes: Vec<String> = stage.outputs.iter().map(output).collect();
            let _written = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                code(&role.role.command()),
                code(stage.name),
                code(stage.group),
                topics([stage.source]),
                writes.join(", "),
                topics(stage.state),
            );
        }
        for sink in SINKS.iter().filter(|s| s.role == role.role) {
            let groups: Vec<String> = PUBLISHED.map(|topic| code(&sink.sink.group(topic))).into();
            let _written = writeln!(
                text,
                "| {} | {} | {} | {} | | |",
                code(&role.role.command()),
                code(sink.name),
                groups.join(", "),
                topics(PUBLISHED),
            );
        }
    }
    text
}

#[test]
fn the_architecture_shows_the_pipeline_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md");
    let document = std::fs::read_to_string(path).expect("ARCHITECTURE.md");
    let (before, rest) = document.split_once(BEGIN).expect("where the table begins");
    let (held, after) = rest.split_once(END).expect("where the table ends");
    let wanted = table();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("ARCHITECTURE.md is written");
    } else {
        assert_eq!(held, wanted, "run: UPDATE=1 cargo test --test it pipeline_table");
    }
}
