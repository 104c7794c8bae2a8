//! The layout, and rows that come back byte for byte.

use clickhouse::Client;
use schemas::codec::Derived;
use schemas::event::{ControlTotal, EventKind};
use schemas::record::{Record, SourceRef};
use schemas::table::{Row, RowMeta, Table, insert_columns};
use schemas::testing;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use sinks::clickhouse::client::{ClickHouse, Insert};
use sinks::clickhouse::insert::ClickHouseSink;
use sinks::clickhouse::migrate::migrate;
use sinks::error::ErrorClass;

use super::{NINE, World, batch, config, engine, record, world};

#[tokio::test]
async fn a_migration_makes_the_layout_once_and_repairs_it() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(directory.path()).await;
    let (config, server) = (config(&engine), ClickHouse::new(&config(&engine)).unwrap());
    let error = ClickHouseSink::open(&config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Config, "{error}");

    let first = migrate(&server).await.unwrap();
    assert_eq!((&first.applied[..], first.columns_added), (&["tables", "functions", "views"][..], 0));
    let [("grants", reason)] = &first.skipped[..] else { panic!("{first:?}") };
    assert!(reason.contains("497"), "the embedded engine has no access management: {reason}");
    assert_eq!(migrate(&server).await.unwrap(), Default::default(), "nothing is left to do");

    // A database of an older build lacks a column; the changed text of the step makes it run again.
    server.execute("DROP VIEW custody.events_once").await.unwrap();
    server.execute("ALTER TABLE custody.events DROP COLUMN jurisdiction").await.unwrap();
    server.execute("TRUNCATE TABLE custody.schema_migrations").await.unwrap();
    assert_eq!(migrate(&server).await.unwrap().columns_added, 1);
    ClickHouseSink::open(&config).await.unwrap();

    server.execute("ALTER TABLE custody.events MODIFY SETTING non_replicated_deduplication_window = 0").await.unwrap();
    let error = ClickHouseSink::open(&config).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Config);
    assert!(error.message.contains("non_replicated_deduplication_window"), "{error}");
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn every_column_has_a_comment() {
    let world = world().await;
    let silent = world
        .query(
            "SELECT table, name FROM system.columns WHERE database = 'custody' AND comment = '' AND table IN \
                (SELECT name FROM system.tables WHERE database = 'custody' AND engine LIKE '%MergeTree')",
        )
        .await;
    assert_eq!(silent, Vec::<serde_json::Value>::new());
    let undocumented = world.query("SELECT name FROM system.tables WHERE database = 'custody' AND comment = ''").await;
    assert_eq!(undocumented, Vec::<serde_json::Value>::new());
    world.stop().await;
}

/// Records of every kind that a topic carries, four of each.
fn everything() -> Vec<(Table, Vec<Record>)> {
    let at = |offset: u64| NINE.plus_ms(offset as i64);
    let kinds = EventKind::ALL.iter().filter(|kind| **kind != EventKind::Tick);
    let events = kinds.cycle().take(4 * EventKind::ALL.len()).zip(0..);
    let clean = events
        .map(|(kind, offset)| record(Topic::Clean, offset, at(offset), &Derived::Event(testing::event(*kind, offset))));
    let findings = [EventKind::DetectionRaised, EventKind::DataClassified].into_iter().cycle().take(20).zip(0..);
    let findings = findings.map(|(kind, offset)| {
        record(Topic::Findings, offset, at(offset), &Derived::Event(testing::event(kind, offset)))
    });
    let derived = |table: Table| {
        let of_table = (0..120u64).map(testing::derived).filter(move |derived| match derived {
            Derived::Alert(_) => table == Table::Alerts,
            Derived::ControlTotal(_) => table == Table::ControlTotals,
            _ => false,
        });
        let topic = if table == Table::Alerts { Topic::Alerts } else { Topic::Findings };
        of_table.zip(100..).map(move |(value, offset)| record(topic, offset, at(offset), &value)).collect()
    };
    vec![
        (Table::Events, clean.collect()),
        (Table::Findings, findings.collect()),
        (Table::Alerts, derived(Table::Alerts)),
        (Table::ControlTotals, derived(Table::ControlTotals)),
    ]
}

#[tokio::test]
async fn rows_come_back_byte_for_byte_however_often_they_are_sent() {
    let world = world().await;
    let reader = Client::default().with_url(&world.config.url);
    for (table, records) in everything() {
        let mut expected = Vec::new();
        for record in &records {
            let derived = schemas::codec::codec().decode_derived(record.value.as_deref()).unwrap();
            let source = SourceRef::from_headers(&record.headers).unwrap_or_default();
            let meta = RowMeta { at: record.at, broker_time: record.timestamp, source };
            Row::loaded(&derived, &meta).expect("a row").write_row_binary(&mut expected);
        }
        let batch = batch(&records);
        for _ in 0..3 {
            world.sink.insert(&batch).await.unwrap();
        }
        let sql = format!("SELECT {} FROM custody.{} ORDER BY src_offset", insert_columns(table), table.name());
        let found = reader.query(&sql).fetch_bytes("RowBinary").unwrap().collect().await.unwrap();
        assert_eq!(found.len(), expected.len(), "{}", table.name());
        assert!(found == expected, "{}: other bytes", table.name());
        assert_eq!(world.count(table.name()).await, records.len() as u64);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_replay_in_other_batches_converges() {
    let world = world().await;
    let calls: Vec<Record> = (0..100u64)
        .map(|offset| {
            let event = testing::event(EventKind::ModelCall, offset);
            record(Topic::Clean, offset, NINE.plus_ms(offset as i64), &Derived::Event(event))
        })
        .collect();
    // Merges would remove the copies sooner or later by themselves.
    world.server.execute("SYSTEM STOP MERGES custody.events").await.unwrap();
    for size in [100, 33, 7] {
        for records in calls.chunks(size) {
            world.load(records).await;
        }
    }
    assert_eq!(world.count("events").await, 300, "other bounds are other tokens");
    assert_eq!(world.count("events FINAL").await, 100, "but the position is the sorting key's end");
    assert_eq!(world.count("events_once").await, 100);
    world.stop().await;
}

#[tokio::test]
async fn a_batch_over_the_end_of_a_month_is_two_inserts_and_still_idempotent() {
    let world = world().await;
    let month_end = TimestampMicros::from_ms(1_796_083_200_000);
    let totals: Vec<Record> = (0..10u64)
        .map(|offset| {
            let total = ControlTotal { records: offset as i64, ..ControlTotal::default() };
            let at = month_end.plus_ms(1_000 * (offset as i64 - 5));
            record(Topic::Findings, offset, at, &Derived::ControlTotal(total))
        })
        .collect();
    for _ in 0..2 {
        world.load(&totals).await;
    }
    assert_eq!(world.count("control_totals").await, 10);
    let months = world
        .query("SELECT toYYYYMM(broker_time) AS m, count() AS n FROM custody.control_totals GROUP BY m ORDER BY m")
        .await;
    let months: Vec<_> = months.iter().map(|row| (row["m"].as_u64(), row["n"].as_u64())).collect();
    assert_eq!(months, [(Some(202_611), Some(5)), (Some(202_612), Some(5))]);
    world.stop().await;
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let world = world().await;
    let class = async |world: &World, table: &str, columns: &str, body: &'static [u8]| {
        let body = [bytes::Bytes::from_static(body)];
        let insert = Insert { table, columns, token: "t", body: &body };
        world.server.insert(&insert).await.unwrap_err().class
    };
    assert_eq!(class(&world, "nowhere", "a", b"x").await, ErrorClass::Config);
    assert_eq!(class(&world, "control_totals", "nothing", b"x").await, ErrorClass::Config);
    assert_eq!(class(&world, "control_totals", "hop, topic", b"\x05ab").await, ErrorClass::Data);
    assert_eq!(world.count("control_totals").await, 0);
    let (config, server) = (world.config.clone(), world.server.clone());
    world.stop().await;
    assert_eq!(server.execute("SELECT 1").await.unwrap_err().class, ErrorClass::Retry, "an outage is no data fault");
    assert_eq!(ClickHouseSink::open(&config).await.unwrap_err().class, ErrorClass::Retry);
}
