//! Rows against the records they come from, Arrow against rows, RowBinary against its definition.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::cell::Cell;
use super::*;
use crate::codec::codec;
use crate::event::{
    CleanEvent, ControlTotal, DataClassified, Event, EventHeader, EventKind, HealthProbe, ModelCall, PolicyDecision,
    read_record,
};
use crate::id::{Sha256, Uuid};
use crate::record::PartitionId;
use crate::testing::{self, BROKER_TIME};

fn meta(topic: Topic) -> RowMeta {
    RowMeta {
        at: Position { partition: PartitionId { topic, partition: 3 }, offset: 42 },
        broker_time: BROKER_TIME,
        source: SourceRef { offset: 41, sha256: Sha256([7; 32]) },
    }
}

fn event_row(event: &CleanEvent) -> EventRow {
    EventRow::from_event(event, &meta(Topic::Clean))
}

#[test]
fn cells_have_the_bytes_that_row_binary_defines() {
    fn check(cell: impl Cell, wanted: &[u8]) {
        let mut out = Vec::new();
        cell.write(&mut out);
        assert_eq!(out, wanted);
    }
    check(0x0102_0304u32, &[4, 3, 2, 1]);
    check(-2i64, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    check(1.5f64, &1.5f64.to_le_bytes());
    check(true, &[1]);
    check(TimestampMicros(258), &[2, 1, 0, 0, 0, 0, 0, 0]);
    check("né".to_owned(), &[3, b'n', 0xc3, 0xa9]);
    check("x".repeat(300), &[&[0xac, 0x02][..], &[b'x'; 300]].concat());
    check(Uuid(std::array::from_fn(|i| i as u8)), &[7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8]);
    check(Sha256([9; 32]), &[9; 32]);
    check(None::<i64>, &[1]);
    check(Some(1i64), &[0, 1, 0, 0, 0, 0, 0, 0, 0]);
    check(vec!["a".to_owned(), String::new()], &[2, 1, b'a', 0]);
    check(BTreeMap::from([("a".to_owned(), 1i64)]), &[1, 1, b'a', 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn columns_have_names_docs_and_one_raw_at_the_end() {
    for table in Table::ALL {
        let columns = table.columns();
        let names: BTreeSet<&str> = columns.iter().map(|column| column.name).collect();
        assert_eq!(names.len(), columns.len(), "{}", table.name());
        assert!(columns.iter().all(|column| column.doc.len() > 10), "{}", table.name());
        let archive_only: Vec<&str> =
            columns.iter().filter(|column| column.has(Flag::ArchiveOnly)).map(|column| column.name).collect();
        assert_eq!((archive_only, columns[columns.len() - 1].name), (vec!["raw"], "raw"));
        assert!(columns.iter().all(|column| !(column.nullable && column.has(Flag::Category))), "{}", table.name());
    }
}

#[test]
fn the_statement_comments_every_column() {
    for table in Table::ALL {
        let sql = ddl(table, "custody");
        let loaded = table.columns().len() - 1;
        assert_eq!(sql.matches(" COMMENT '").count(), loaded, "{sql}");
        assert_eq!(insert_columns(table).split(", ").count(), loaded);
        assert!(sql.starts_with(&format!("CREATE TABLE IF NOT EXISTS custody.{}\n", table.name())), "{sql}");
        assert!(sql.contains("src_topic, src_partition, src_offset)"), "{sql}");
    }
    let events = ddl(Table::Events, "custody");
    for wanted in [
        "tenant_id LowCardinality(String) COMMENT 'Customer whose data is processed'",
        "event_time DateTime64(6, 'UTC') COMMENT 'When it happened by the producer\\'s clock, UTC; no proof of time'",
        "parent_session_id Nullable(UUID) COMMENT",
        "event_sha256 FixedString(32) COMMENT",
        "ext Map(LowCardinality(String), String) COMMENT 'Attributes that map to no field' CODEC(ZSTD(3))",
        "INDEX event_id_bloom event_id TYPE bloom_filter(0.01) GRANULARITY 4",
    ] {
        assert!(events.contains(wanted), "{wanted} in {events}");
    }
    assert!(!events.contains("\n    raw "), "{events}");
}

#[test]
fn numbers_that_an_event_does_not_know_are_absent() {
    let call = ModelCall {
        provider: "acme".to_owned(),
        request_model: "asked".to_owned(),
        input_tokens: 12,
        ..Default::default()
    };
    let row = event_row(&Event::ModelCall(call));
    assert_eq!((row.model.as_str(), row.provider.as_str(), row.status.as_str()), ("asked", "acme", "ok"));
    assert_eq!((row.input_tokens, row.output_tokens, row.latency_ms), (Some(12), None, None));
    assert_eq!((row.ok, row.n, row.value), (None, None, None));
}

#[test]
fn columns_take_what_each_event_has() {
    let decision = PolicyDecision {
        subject_kind: "tool_call".to_owned(),
        subject_id: "call-1".to_owned(),
        effect: "DENY".to_owned(),
        ..Default::default()
    };
    let row = event_row(&Event::PolicyDecision(decision));
    assert_eq!((row.tool_call_id.as_str(), row.decision_effect.as_str()), ("call-1", "DENY"));
    let probe = HealthProbe { dependency: "db".to_owned(), ok: false, latency_ms: 3, ..Default::default() };
    let row = event_row(&Event::HealthProbe(probe));
    assert_eq!((row.server.as_str(), row.ok, row.latency_ms), ("db", Some(false), Some(3)));
}

#[test]
fn an_unknown_type_is_a_row_that_says_so() {
    let known = event_row(&testing::event(EventKind::ModelCall, 1));
    let unknown = event_row(&testing::event(EventKind::Extension, 1));
    assert_eq!((known.known_type, unknown.known_type), (true, false));
    assert_eq!(unknown.event_type, "acme.custom");
}

#[test]
fn scans_are_findings_with_their_sum() {
    let scan = DataClassified {
        h: EventHeader { causation_id: Some(Uuid([1; 16])), ..EventHeader::of_type("data.classified") },
        pii_types: [("EMAIL".to_owned(), 2), ("IBAN".to_owned(), 3)].into(),
        classifier: "pii".to_owned(),
        ..Default::default()
    };
    let row = FindingRow::from_event(&Event::DataClassified(scan), &meta(Topic::Findings));
    assert_eq!((row.kind.as_str(), row.count, row.target_event_id), ("data_classified", 5, Some(Uuid([1; 16]))));
}

#[test]
fn records_go_to_the_table_of_their_topic() {
    let event = |kind| Derived::Event(testing::event(kind, 1));
    let total = Derived::ControlTotal(ControlTotal { records: 9, ..Default::default() });
    let archived = |record: &Derived, topic| Row::archived(record, &meta(topic)).map(|row| row.table());
    let loaded = |record: &Derived, topic| Row::loaded(record, &meta(topic)).map(|row| row.table());
    let model_call = event(EventKind::ModelCall);
    assert_eq!(archived(&model_call, Topic::Clean), Some(Table::Events));
    assert_eq!(archived(&event(EventKind::Tick), Topic::Clean), None);
    assert_eq!(archived(&event(EventKind::DetectionRaised), Topic::Findings), Some(Table::Findings));
    assert_eq!(archived(&total, Topic::Findings), Some(Table::Findings));
    assert_eq!(loaded(&total, Topic::Findings), Some(Table::ControlTotals));
    assert_eq!(loaded(&model_call, Topic::Clean), Some(Table::Events));
    assert_eq!(archived(&Derived::Alert(Default::default()), Topic::Alerts), Some(Table::Alerts));
    assert_eq!(archived(&Derived::Alert(Default::default()), Topic::Clean), None);
    assert_eq!(archived(&model_call, Topic::Events), None);
}

/// The event again, from the header and the payload of its row.
fn from_payload(kind: EventKind, h: &EventHeader, payload: &str) -> CleanEvent {
    let Value::Object(mut fields) = serde_json::from_str(payload).unwrap() else { panic!("not an object") };
    assert_eq!(fields.insert("h".to_owned(), serde_json::to_value(h).unwrap()), None);
    macro_rules! read {
        ($name:ident) => {
            Event::$name(serde_json::from_value(Value::Object(fields)).unwrap())
        };
    }
    read_record!(kind, read)
}

proptest! {
    #[test]
    fn header_and_payload_say_everything(kind in prop::sample::select(EventKind::ALL), seed: u64) {
        let event: CleanEvent = testing::event(kind, seed);
        prop_assert_eq!(&from_payload(kind, event.h(), &event_row(&event).payload), &event);
    }

    #[test]
    fn a_row_follows_from_the_exact_bytes(kind in prop::sample::select(EventKind::ALL), seed: u64) {
        let event: CleanEvent = testing::event(kind, seed);
        let decoded: CleanEvent = codec().decode(Some(&codec().encode(&event))).unwrap();
        prop_assert_eq!(event_row(&decoded), event_row(&event));
    }
}

#[cfg(feature = "arrow")]
mod arrow {
    use super::super::arrow::{RecordBatchBuilder, arrow_schema, row_at};
    use super::*;

    fn rows_of(table: Table, seed: u64) -> Vec<Row> {
        let topic = match table {
            Table::Events => Topic::Clean,
            Table::Alerts => Topic::Alerts,
            Table::Findings | Table::ControlTotals => Topic::Findings,
        };
        let records = (seed % 1_000..seed % 1_000 + 200).map(testing::derived);
        let rows = records.filter_map(|record| match table {
            Table::ControlTotals => Row::loaded(&record, &meta(topic)),
            _ => Row::archived(&record, &meta(topic)),
        });
        rows.filter(|row| row.table() == table).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn rows_come_back_from_a_batch(seed: u64) {
            for table in Table::ALL {
                let rows = rows_of(table, seed);
                prop_assert!(rows.len() > 10, "{:?}", table);
                let mut builder = RecordBatchBuilder::new(table);
                for (index, row) in rows.iter().enumerate() {
                    builder.push(row, &[index as u8]).unwrap();
                }
                let batch = builder.finish().unwrap();
                prop_assert!(builder.is_empty());
                for (index, row) in rows.iter().enumerate() {
                    prop_assert_eq!(row_at(table, &batch, index), Some((row.clone(), &[index as u8][..])));
                }
                prop_assert_eq!(row_at(table, &batch, rows.len()), None);
            }
        }
    }

    #[test]
    fn a_row_of_another_table_is_refused() {
        let row = &rows_of(Table::Alerts, 0)[0];
        assert!(RecordBatchBuilder::new(Table::Events).push(row, b"").is_err());
    }

    #[test]
    fn every_field_has_its_own_id() {
        fn ids(field: &::arrow::datatypes::Field, out: &mut Vec<u32>) {
            use ::arrow::datatypes::DataType;
            match field.data_type() {
                DataType::Map(entries, _) => {
                    let DataType::Struct(fields) = entries.data_type() else { panic!("a map of {entries}") };
                    fields.iter().for_each(|field| ids(field, out));
                }
                DataType::List(element) => ids(element, out),
                _ => {}
            }
            out.push(field.metadata()["PARQUET:field_id"].parse().unwrap());
        }
        for table in Table::ALL {
            let mut all = Vec::new();
            arrow_schema(table).fields().iter().for_each(|field| ids(field, &mut all));
            let unique: BTreeSet<u32> = all.iter().copied().collect();
            assert_eq!(unique.len(), all.len(), "{}", table.name());
        }
    }
}
