//! The intent protocol on the real engine: a crash between any two steps loses and doubles nothing.

use schemas::codec::Derived;
use schemas::event::EventKind;
use schemas::record::Record;
use schemas::testing;
use schemas::topic::Topic;
use sinks::clickhouse::insert::LoadBatch;
use sinks::clickhouse::intent::{LoadDecision, decide, encode_intent, parse_intent};
use sinks::publication::{Observed, Step, next_step};

use super::{NINE, World, record, world};

/// What the log keeps for the loader's group: position and metadata.
struct Group {
    next: u64,
    metadata: String,
}

/// Where a run dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    Never,
    AfterIntent,
    AfterInsert,
}

fn log() -> Vec<Record> {
    let event = |offset: u64| Derived::Event(testing::event(EventKind::ToolCallCompleted, offset));
    // Offsets 3, 10 and 17 are transaction markers.
    let offsets = (0..40u64).filter(|offset| offset % 7 != 3);
    offsets.map(|offset| record(Topic::Clean, offset, NINE.plus_ms(offset as i64), &event(offset))).collect()
}

/// One life of a loader: batches of `rows` records until the end of the log or the crash.
async fn live(world: &World, group: &mut Group, log: &[Record], rows: usize, crash: Crash) {
    let bounds = 0..log.last().unwrap().at.offset + 1;
    let mut repeat = match decide(Some((group.next, &group.metadata)), &bounds) {
        LoadDecision::Start { .. } => None,
        LoadDecision::Repeat(intent) => Some(intent),
        LoadDecision::Stop(stop) => panic!("{stop}"),
    };
    loop {
        let from: Vec<&Record> = log.iter().filter(|record| record.at.offset >= group.next).collect();
        let Some(first) = from.first() else { return };
        let mut batch = LoadBatch::open(first.at.partition, group.next, first);
        for record in &from {
            let is_whole = match &repeat {
                Some(intent) => record.at.offset >= intent.offset_next,
                None => batch.publication().rows == rows as u64,
            };
            if is_whole {
                break;
            }
            batch.push(record).unwrap();
        }
        repeat = None;
        loop {
            let seen = Observed::Table { committed_next: group.next, intent: parse_intent(&group.metadata).unwrap() };
            match next_step(&batch.publication(), &seen) {
                Step::CommitIntent(intent) => {
                    group.metadata = encode_intent(&intent);
                    if crash == Crash::AfterIntent {
                        return;
                    }
                }
                Step::InsertRows(intent) => {
                    world.sink.insert(&batch).await.unwrap();
                    if crash == Crash::AfterInsert {
                        return;
                    }
                    (group.next, group.metadata) = (intent.offset_next, String::new());
                }
                Step::Done => break,
                step => panic!("{step:?}"),
            }
        }
    }
}

/// Answers clickhouse-rs#212: how to repeat an insert whose outcome is unknown.
#[tokio::test]
async fn a_loader_that_dies_anywhere_loads_every_record_once() {
    let log = log();
    for crash in [Crash::AfterIntent, Crash::AfterInsert] {
        let world = world().await;
        let mut group = Group { next: 0, metadata: String::new() };
        // Every life has another batch size: only the intent makes a repeated batch the same.
        for rows in [9, 4, 13, 6] {
            live(&world, &mut group, &log, rows, crash).await;
        }
        live(&world, &mut group, &log, 5, Crash::Never).await;
        assert_eq!(world.count("events").await, log.len() as u64, "{crash:?}");
        let offsets = world.row("SELECT uniqExact(src_offset) AS n FROM custody.events").await;
        assert_eq!(offsets["n"], log.len(), "{crash:?}");
        assert_eq!((group.next, group.metadata.as_str()), (40, ""), "{crash:?}");
        world.stop().await;
    }
}
