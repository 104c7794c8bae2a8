//! What was published stays readable, for ever: schemas, bytes and columns of every stored version.
//!
//! `test-data/v<n>/` holds one state of the wire format: the schemas as published, one event per
//! record as bytes and as JSON, and the columns of every table. `UPDATE=1 cargo test -p schemas
//! --test compatibility` stores the current state as the next version when it differs from the
//! newest; stored files are never changed. It generates no Rust: `tests/generate.rs` does.

#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;
use schemas::codec::{Codec, Derived, PublishedSchema, codec, published_schemas};
use schemas::event::{Event, EventKind};
use schemas::table::Table;
use schemas::testing;
use serde_json::Value;

/// Seed of the stored events: any number, but the same for ever.
const SEED: u64 = 1;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn read_text(path: &Path) -> String {
    String::from_utf8(read(path)).expect("utf-8")
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("json")
}

/// The stored versions, oldest first.
fn versions() -> Vec<PathBuf> {
    let folder = |number: u32| root().join(format!("test-data/v{number}"));
    (1..).map(folder).take_while(|path| path.is_dir()).collect()
}

/// Files of a folder by their name without extension.
fn files(folder: &Path, extension: &str) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("entry").path());
    let wanted = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    wanted.map(|path| (path.file_stem().expect("name").to_string_lossy().into_owned(), path)).collect()
}

fn current(name: &str) -> &'static PublishedSchema {
    let found = published_schemas().iter().find(|schema| schema.name == name);
    found.unwrap_or_else(|| panic!("record {name} was published and is gone"))
}

/// One record of every type, always the same.
fn samples() -> BTreeMap<String, Derived> {
    let events = EventKind::ALL.iter().map(|kind| Derived::Event(testing::event(*kind, SEED)));
    // Seeds 1 to 5 give each derived record that is no event.
    let samples = events.chain((1..=5).map(testing::derived));
    samples.map(|record| (record.record_name().to_owned(), record)).collect()
}

fn columns_of(table: Table) -> String {
    let line = |(id, column): (usize, &schemas::table::Column)| {
        let optional = if column.nullable { " optional" } else { "" };
        format!("{id} {} {:?}{optional}\n", column.name, column.cell)
    };
    (1..).zip(table.columns()).map(line).collect()
}

fn store(folder: &Path) {
    let write = |path: PathBuf, bytes: &[u8]| {
        std::fs::create_dir_all(path.parent().expect("folder")).expect("create");
        std::fs::write(path, bytes).expect("write");
    };
    for schema in published_schemas() {
        write(folder.join(format!("schemas/{}.avsc", schema.name)), format!("{}\n", schema.json).as_bytes());
    }
    for (name, record) in samples() {
        write(folder.join(format!("{name}.bin")), &codec().encode_derived(&record));
        write(folder.join(format!("{name}.json")), format!("{}\n", record.to_json()).as_bytes());
    }
    for table in Table::ALL {
        write(folder.join(format!("columns/{}.txt", table.name())), columns_of(table).as_bytes());
    }
}

/// Whether a stored version is the current state of schemas and columns.
fn is_current(folder: &Path) -> bool {
    let schemas = published_schemas();
    let stored = files(&folder.join("schemas"), "avsc");
    stored.len() == schemas.len()
        && schemas
            .iter()
            .all(|schema| stored.get(&schema.name).is_some_and(|path| read_text(path).trim_end() == schema.json))
        && Table::ALL
            .iter()
            .all(|table| read_text(&folder.join(format!("columns/{}.txt", table.name()))) == columns_of(*table))
}

/// Every stored schema that is not the current one of its record any more, oldest first.
fn superseded() -> Vec<PathBuf> {
    let stored = versions().into_iter().flat_map(|version| files(&version.join("schemas"), "avsc"));
    let old = stored.filter(|(name, path)| read_text(path).trim_end() != current(name).json);
    old.map(|(_, path)| path).collect()
}

/// `src/codec/history.rs`: the superseded schemas, so that their records are read without a registry.
fn history() -> String {
    let mut out = String::from(
        "//! Schemas that records were written with before; their fingerprints are still in logs and archives.\n//!\n\
         //! Written by `tests/compatibility.rs`. It holds no logic.\n\n\
         /// Texts, oldest first.\npub(super) const SUPERSEDED: &[&str] = &[",
    );
    for path in superseded() {
        let path = path.strip_prefix(root()).expect("inside").display().to_string();
        out.push_str(&format!("\n    include_str!(\"../../{path}\"),"));
    }
    out.push_str(if superseded().is_empty() { "];\n" } else { "\n];\n" });
    out
}

#[test]
fn the_newest_stored_version_is_the_current_state() {
    let is_stored = || versions().last().is_some_and(|newest| is_current(newest));
    let path = root().join("src/codec/history.rs");
    if std::env::var_os("UPDATE").is_some() {
        if !is_stored() {
            store(&root().join(format!("test-data/v{}", versions().len() + 1)));
        }
        std::fs::write(&path, history()).expect("write");
    }
    let remedy = "UPDATE=1 cargo test -p schemas --test compatibility stores it as the next version";
    assert!(is_stored(), "schemas or columns differ from the newest stored version: {remedy}");
    assert_eq!(read_text(&path), history(), "src/codec/history.rs is stale: {remedy}");
}

#[test]
fn stored_bytes_are_read_by_todays_code() {
    for version in versions() {
        let stored = files(&version, "bin");
        assert!(stored.len() > 50, "{} holds {} records", version.display(), stored.len());
        for (name, path) in stored {
            let record = codec().decode_derived(Some(&read(&path)));
            let record = record.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(record.record_name(), name);
            let wanted = parse(&read_text(&path.with_extension("json")));
            assert_includes(&parse(&record.to_json()), &wanted, &name);
        }
    }
}

/// Today's JSON may have more fields than the stored one, never others.
fn assert_includes(found: &Value, wanted: &Value, path: &str) {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            for (key, wanted) in wanted {
                let found = found.get(key).unwrap_or_else(|| panic!("{path}.{key} is gone"));
                assert_includes(found, wanted, &format!("{path}.{key}"));
            }
        }
        (Value::Array(found), Value::Array(wanted)) if found.len() == wanted.len() => {
            found.iter().zip(wanted).for_each(|(found, wanted)| assert_includes(found, wanted, path));
        }
        (found, wanted) => assert_eq!(found, wanted, "{path}"),
    }
}

#[test]
fn records_of_the_current_version_are_written_as_stored() {
    let Some(newest) = versions().pop() else { panic!("no stored version") };
    for (name, path) in files(&newest, "bin") {
        let bytes = read(&path);
        let record = codec().decode_derived(Some(&bytes)).expect("readable");
        assert_eq!(codec().encode_derived(&record), bytes, "{name}");
    }
}

#[test]
fn superseded_schemas_are_known_by_their_fingerprints() {
    for path in superseded() {
        let text = read_text(&path);
        let alone = Codec::clone(codec()).with_schemas([text.as_str()]).map(|_| ());
        assert_eq!(alone, Ok(()), "{}", path.display());
    }
}

/// Answers vector#19546: schemas that change while records of the old one are still to be read.
#[test]
fn every_stored_schema_reads_and_is_read_by_the_current_one() {
    for version in versions() {
        for (name, path) in files(&version.join("schemas"), "avsc") {
            let (old, new) = (parse(&read_text(&path)), parse(&current(&name).json));
            compatible(&old, &new).unwrap_or_else(|reason| panic!("{}: {reason}", path.display()));
        }
    }
}

/// FULL compatibility as Avro defines it, and our rules on top.
fn compatible(old: &Value, new: &Value) -> Result<(), String> {
    let parsed = |schema: &Value| Schema::parse(schema).map_err(|e| e.to_string());
    let (old_schema, new_schema) = (parsed(old)?, parsed(new)?);
    SchemaCompatibility::mutual_read(&old_schema, &new_schema).map_err(|e| e.to_string())?;
    let new_types = named_types(new);
    for (name, old) in named_types(old) {
        let new = new_types.get(&name).ok_or(format!("type {name} is gone"))?;
        only_appended(&name, &old, new)?;
    }
    Ok(())
}

/// Named types of a self-contained schema, each with the types of its fields by name.
fn named_types(schema: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    collect(schema, &mut found);
    found
}

/// Puts the named types below `schema` into `found`; gives `schema` with names in their place.
fn collect(schema: &Value, found: &mut BTreeMap<String, Value>) -> Value {
    match schema {
        Value::Array(branches) => branches.iter().map(|branch| collect(branch, found)).collect(),
        Value::Object(object) => {
            let mut object = object.clone();
            for key in ["items", "values", "fields", "type"] {
                if let Some(value) = object.get_mut(key) {
                    *value = collect(value, found);
                }
            }
            match object
                .get("name")
                .and_then(Value::as_str)
                .filter(|_| object["type"] == "record" || object["type"] == "fixed")
            {
                Some(name) => {
                    let name = name.to_owned();
                    found.insert(name.clone(), Value::Object(object));
                    Value::String(name)
                }
                None => Value::Object(object),
            }
        }
        other => other.clone(),
    }
}

fn only_appended(name: &str, old: &Value, new: &Value) -> Result<(), String> {
    if (&old["type"], &old["size"]) != (&new["type"], &new["size"]) {
        return Err(format!("{name} has another type or size"));
    }
    let fields = |schema: &Value| schema["fields"].as_array().cloned().unwrap_or_default();
    let (old, new) = (fields(old), fields(new));
    for (index, old) in old.iter().enumerate() {
        let Some(new) = new.get(index) else { return Err(format!("{name}.{} is gone", old["name"])) };
        for part in ["name", "type", "default"] {
            if old.get(part) != new.get(part) {
                return Err(format!("{name}.{} has another {part}", old["name"]));
            }
        }
    }
    match new[old.len()..].iter().find(|field| field.get("default").is_none()) {
        Some(field) => Err(format!("{name}.{} is appended without a default", field["name"])),
        None => Ok(()),
    }
}

#[test]
fn every_record_and_field_has_a_doc() {
    for schema in published_schemas() {
        for (name, ty) in named_types(&parse(&schema.json)) {
            assert!(ty["doc"].as_str().is_some_and(|doc| doc.ends_with('.')), "{name}");
            for field in ty["fields"].as_array().into_iter().flatten() {
                assert!(field["doc"].as_str().is_some_and(|doc| doc.len() > 2), "{name}.{}", field["name"]);
            }
        }
    }
}

#[test]
fn columns_are_only_appended() {
    for version in versions() {
        for (name, path) in files(&version.join("columns"), "txt") {
            let table = Table::ALL.into_iter().find(|table| table.name() == name);
            let now = columns_of(table.unwrap_or_else(|| panic!("table {name} is gone")));
            // `raw` stays last, so its number moves; nothing else does.
            let stored = read_text(&path);
            let fixed: Vec<&str> = stored.lines().filter(|line| !line.ends_with(" raw Bytes")).collect();
            let kept: Vec<&str> = now.lines().take(fixed.len()).collect();
            assert_eq!(kept, fixed, "{}", path.display());
        }
    }
}

/// The checks above see each kind of change that breaks a reader.
#[test]
fn breaking_changes_are_seen() {
    let old = parse(&current("Tick").json);
    let check = |change: &dyn Fn(&mut Vec<Value>), wanted: &str| {
        let mut new = old.clone();
        let Value::Array(fields) = &mut new["fields"] else { panic!("no fields") };
        change(fields);
        let refused = compatible(&old, &new).err().unwrap_or_default();
        assert!(refused.contains(wanted), "{wanted}: {refused}");
    };
    let added = |default: bool| {
        let mut field = serde_json::json!({"name": "more", "type": "long", "doc": "More."});
        if default {
            field["default"] = 0.into();
        }
        field
    };
    check(&|fields| fields.push(added(true)), "");
    assert_eq!(compatible(&old, &old), Ok(()));
    check(&|fields| fields.push(added(false)), "more");
    check(&|fields| fields.insert(2, added(true)), "has another name");
    check(&|fields| drop(fields.remove(2)), "has another name");
    check(&|fields| fields.truncate(4), "is gone");
    check(&|fields| fields.swap(2, 3), "has another name");
    check(&|fields| fields[2]["name"] = "writer".into(), "writer");
    check(&|fields| fields[3]["type"] = "string".into(), "");
    check(&|fields| fields[3]["default"] = 7.into(), "has another default");
}

#[test]
fn stored_events_are_of_every_kind() {
    let Some(newest) = versions().pop() else { panic!("no stored version") };
    let stored = files(&newest, "bin");
    for kind in EventKind::ALL {
        let path = stored.get(kind.record_name()).unwrap_or_else(|| panic!("no {}", kind.record_name()));
        let Ok(Derived::Event(event)) = codec().decode_derived(Some(&read(path))) else { panic!("no event") };
        assert_eq!(Event::kind(&event), *kind);
    }
}
