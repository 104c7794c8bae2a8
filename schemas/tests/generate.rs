//! Writes `src/event/generated.rs` from `avro/`, and fails when the two differ.
//!
//! The `.avsc` files are the source of truth of the wire format; the Rust types follow from them.
//! Run `UPDATE=1 cargo test -p schemas --test generate` after a change. It does not decide what may
//! change: `tests/compatibility.rs` does.

#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(folder: &str) -> Vec<Value> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join("avro").join(folder))
        .expect("schema folder")
        .map(|e| e.expect("entry").path())
        .collect();
    files.sort();
    files.iter().map(|f| parse(f)).collect()
}

fn parse(file: &Path) -> Value {
    let text = std::fs::read_to_string(file).expect("schema file");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Which records hold a `Content` somewhere, and so are generic over the text type.
fn holds_content(schema: &Value) -> bool {
    schema["fields"].as_array().is_some_and(|fields| fields.iter().any(|f| is_content(&f["type"])))
}

fn is_content(ty: &Value) -> bool {
    ty.as_array().is_some_and(|branches| branches.iter().any(|b| b == "Content"))
}

fn rust_type(ty: &Value) -> String {
    match ty {
        Value::String(name) => match name.as_str() {
            "string" => "String".into(),
            "long" => "i64".into(),
            "int" => "i32".into(),
            "boolean" => "bool".into(),
            "double" => "f64".into(),
            "bytes" => "Blob".into(),
            "Content" => "Content<T>".into(),
            named => named.into(),
        },
        Value::Array(branches) => format!("Option<{}>", rust_type(&branches[1])),
        Value::Object(object) => match object["type"].as_str().expect("type name") {
            "array" => format!("Vec<{}>", rust_type(&object["items"])),
            "map" => format!("BTreeMap<String, {}>", rust_type(&object["values"])),
            "long" => "TimestampMicros".into(),
            other => panic!("no Rust type for {other}"),
        },
        other => panic!("no Rust type for {other}"),
    }
}

fn rust_default(field: &Value) -> String {
    match &field["default"] {
        Value::String(text) if !text.is_empty() => format!("{text:?}.to_owned()"),
        Value::Number(number) if number.as_i64() != Some(0) => number.to_string(),
        Value::Bool(true) => "true".into(),
        _ => "Default::default()".into(),
    }
}

fn field_name(field: &Value) -> String {
    match field["name"].as_str().expect("field name") {
        "type" => "r#type".into(),
        name => name.into(),
    }
}

fn render_struct(out: &mut String, schema: &Value) {
    let name = schema["name"].as_str().expect("record name");
    let fields = schema["fields"].as_array().expect("fields");
    let (declared, used) = match holds_content(schema) {
        true => ("<T: Text>", "<T>"),
        false => ("", ""),
    };
    let bound = if used.is_empty() { "" } else { "\n#[serde(bound = \"\")]" };
    let _ = writeln!(out, "\n/// {}", schema["doc"].as_str().expect("doc"));
    let value = |field: &Value| match (field["name"].as_str(), schema["event_type"].as_str()) {
        (Some("h"), Some(event_type)) => format!("EventHeader::of_type({event_type:?})"),
        _ => rust_default(field),
    };
    let derived = match fields.iter().all(|field| value(field) == "Default::default()") {
        true => "Default, ",
        false => "",
    };
    let _ = writeln!(out, "#[derive(Debug, Clone, PartialEq, {derived}Serialize, Deserialize)]{bound}");
    let _ = writeln!(out, "#[serde(default)]\npub struct {name}{declared} {{");
    for field in fields {
        let _ = writeln!(out, "    /// {}", field["doc"].as_str().expect("field doc"));
        let _ = writeln!(out, "    pub {}: {},", field_name(field), rust_type(&field["type"]));
    }
    out.push_str("}\n");
    if derived.is_empty() {
        let _ =
            writeln!(out, "\nimpl{declared} Default for {name}{used} {{\n    fn default() -> Self {{\n        Self {{");
        for field in fields {
            let _ = writeln!(out, "            {}: {},", field_name(field), value(field));
        }
        out.push_str("        }\n    }\n}\n");
    }
    let names: Vec<String> = fields.iter().map(field_name).collect();
    let _ = writeln!(out, "\nrecord!({name}{used} {{ {} }});", names.join(", "));
    if let Some((_, payload)) = names.split_first().filter(|(first, _)| *first == "h") {
        let _ = writeln!(out, "\npayload!({name}{used} {{ {} }});", payload.join(", "));
    }
}

fn render_clean_arm(out: &mut String, schema: &Value) {
    let name = schema["name"].as_str().expect("record name");
    if !holds_content(schema) {
        let _ = writeln!(out, "            Event::{name}(e) => Event::{name}(e),");
        return;
    }
    let _ = writeln!(out, "            Event::{name}(e) => Event::{name}({name} {{");
    for field in schema["fields"].as_array().expect("fields") {
        let (name, key) = (field_name(field), &field["name"]);
        let value = match is_content(&field["type"]) {
            true => format!("e.{name}.map(|c| f({key}, c))"),
            false => format!("e.{name}"),
        };
        let _ = writeln!(out, "                {name}: {value},");
    }
    let _ = writeln!(out, "            }}),");
}

fn render_event_enum(out: &mut String, events: &[Value]) {
    let names: Vec<(&str, &Value)> = events.iter().map(|e| (e["name"].as_str().expect("name"), e)).collect();
    out.push_str("\n/// An event: one variant per Avro record, each with the envelope `h`.\n");
    out.push_str(
        "#[derive(Debug, Clone, PartialEq)]\n#[allow(clippy::large_enum_variant)]\npub enum Event<T: Text> {\n",
    );
    for (name, event) in &names {
        let generic = if holds_content(event) { "<T>" } else { "" };
        let _ = writeln!(out, "    /// {}\n    {name}({name}{generic}),", event["doc"].as_str().expect("doc"));
    }
    out.push_str("}\n\nimpl<T: Text> Event<T> {\n    /// The envelope.\n    pub fn h(&self) -> &EventHeader {\n        match self {\n");
    for (name, _) in &names {
        let _ = writeln!(out, "            Event::{name}(e) => &e.h,");
    }
    out.push_str("        }\n    }\n\n    /// The envelope, to be changed.\n    pub fn h_mut(&mut self) -> &mut EventHeader {\n        match self {\n");
    for (name, _) in &names {
        let _ = writeln!(out, "            Event::{name}(e) => &mut e.h,");
    }
    out.push_str("        }\n    }\n\n    /// The Avro record that carries this event.\n    pub fn kind(&self) -> EventKind {\n        match self {\n");
    for (name, _) in &names {
        let _ = writeln!(out, "            Event::{name}(_) => EventKind::{name},");
    }
    out.push_str("        }\n    }\n}\n");
    render_clean(out, events);
    render_dispatch(out, &names);
    render_kind(out, &names);
}

fn render_clean(out: &mut String, events: &[Value]) {
    out.push_str(
        "\nimpl Event<RawText> {\n    /// Replaces every content field, named by its path, by what `f` makes of it.\n",
    );
    out.push_str("    pub fn clean(self, f: &mut impl FnMut(&'static str, Content<RawText>) -> Content<CleanText>) -> Event<CleanText> {\n        match self {\n");
    events.iter().for_each(|event| render_clean_arm(out, event));
    out.push_str("        }\n    }\n}\n");
}

fn render_dispatch(out: &mut String, names: &[(&str, &Value)]) {
    out.push_str("\n/// Calls `$body` with `$e` bound to the record inside the event, whatever its type.\n");
    out.push_str(
        "macro_rules! with_record {\n    ($event:expr, $e:ident => $body:expr) => {\n        match $event {\n",
    );
    for (name, _) in names {
        let _ = writeln!(out, "            $crate::event::Event::{name}($e) => $body,");
    }
    out.push_str("        }\n    };\n}\npub(crate) use with_record;\n");
    out.push_str("\n/// Calls `$read::<Record>` for the record type of `$kind` and wraps the answer in its variant.\n");
    out.push_str("macro_rules! read_record {\n    ($kind:expr, $read:ident) => {\n        match $kind {\n");
    for (name, _) in names {
        let _ = writeln!(out, "            $crate::event::EventKind::{name} => $read!({name}),");
    }
    out.push_str("        }\n    };\n}\npub(crate) use read_record;\n");
}

fn render_kind(out: &mut String, names: &[(&str, &Value)]) {
    out.push_str("\n/// The Avro records that carry events.\n#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]\npub enum EventKind {\n");
    for (name, event) in names {
        let _ = writeln!(out, "    /// {}\n    {name},", event["doc"].as_str().expect("doc"));
    }
    out.push_str("}\n\nimpl EventKind {\n    /// Every kind, in the order of the schema files.\n    pub const ALL: &'static [EventKind] = &[\n");
    for (name, _) in names {
        let _ = writeln!(out, "        EventKind::{name},");
    }
    out.push_str("    ];\n\n    /// The event type that this record was made for; `extension` carries any other.\n    pub const fn event_type(self) -> &'static str {\n        match self {\n");
    for (name, event) in names {
        let _ =
            writeln!(out, "            EventKind::{name} => {:?},", event["event_type"].as_str().expect("event_type"));
    }
    out.push_str("        }\n    }\n\n    /// What its events belong to.\n    pub const fn scope(self) -> Scope {\n        match self {\n");
    for (name, event) in names {
        let scope = match event["scope"].as_str() {
            Some("session") => "Session",
            Some("tenant") => "Tenant",
            Some("system") => "System",
            other => panic!("{name}: \"scope\" is session, tenant or system, not {other:?}"),
        };
        let _ = writeln!(out, "            EventKind::{name} => Scope::{scope},");
    }
    out.push_str("        }\n    }\n\n    /// The record's name in the `custody.v1` namespace.\n    pub const fn record_name(self) -> &'static str {\n        match self {\n");
    for (name, _) in names {
        let _ = writeln!(out, "            EventKind::{name} => {name:?},");
    }
    out.push_str("        }\n    }\n}\n");
}

fn render_sources(out: &mut String) {
    let mut files: BTreeMap<String, &str> = BTreeMap::new();
    for folder in ["common", "derived", "events"] {
        for entry in std::fs::read_dir(root().join("avro").join(folder)).expect("folder") {
            files.insert(entry.expect("entry").file_name().to_string_lossy().into_owned(), folder);
        }
    }
    out.push_str("\n/// Every schema file: name and text.\npub(crate) const SOURCES: &[(&str, &str)] = &[\n");
    for (file, folder) in files {
        let _ = writeln!(out, "    ({file:?}, include_str!(\"../../avro/{folder}/{file}\")),");
    }
    out.push_str("];\n");
}

fn render() -> String {
    let mut out = String::from(
        "//! The Rust types of the Avro records in `avro/`, so that no field is written twice.\n//!\n\
         //! Generated by `tests/generate.rs`; edit the `.avsc` files instead. It holds no logic.\n\n\
         use std::collections::BTreeMap;\n\nuse serde::{Deserialize, Serialize};\n\n\
         use crate::codec::datum::record;\nuse crate::event::{Content, Scope};\nuse crate::id::{Blob, Sha256, SpanId, TraceId, Uuid};\nuse crate::table::payload::payload;\nuse crate::text::kind::{CleanText, RawText, Text};\nuse crate::time::TimestampMicros;\n",
    );
    let by_hand = ["Uuid", "Sha256", "TraceId", "SpanId", "Content"];
    let events = read("events");
    for schema in read("common").iter().chain(&read("derived")).chain(&events) {
        if !by_hand.contains(&schema["name"].as_str().expect("name")) {
            render_struct(&mut out, schema);
        }
    }
    render_event_enum(&mut out, &events);
    render_sources(&mut out);
    out
}

fn formatted(source: &str) -> String {
    use std::io::Write;
    let mut child = std::process::Command::new("rustfmt")
        .args(["--edition", "2024", "--config", "max_width=120,use_small_heuristics=Max"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("rustfmt is part of the pinned toolchain");
    child.stdin.take().expect("stdin").write_all(source.as_bytes()).expect("write");
    String::from_utf8(child.wait_with_output().expect("rustfmt").stdout).expect("utf-8")
}

#[test]
fn generated_types_follow_the_schemas() {
    let path = root().join("src/event/generated.rs");
    let wanted = formatted(&render());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &wanted).expect("write");
    }
    let found = std::fs::read_to_string(&path).expect("generated.rs");
    assert!(found == wanted, "src/event/generated.rs is stale: UPDATE=1 cargo test -p schemas --test generate");
}
