//! What the archive promises on every store: one check per claim, each on a store that nobody has used.
//!
//! A caller makes one test per check with [`store_conformance!`](crate::store_conformance).

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt as _};
use schemas::id::Sha256;
use schemas::record::PartitionId;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use super::fixture::*;
use crate::error::ErrorClass;
use crate::parquet::archive::{ArchiveSink, Receipt};
use crate::parquet::range::{TimeRange, touches};
use crate::parquet::read;
use crate::parquet::store::{Created, Store};
use crate::parquet::verify::{VerifyOptions, VerifyReport, verify};
use crate::roll::Seal;

async fn verified(store: &Store) -> VerifyReport {
    verify(store, &VerifyOptions { threads: 2, ..VerifyOptions::default() }, |_| ()).await.unwrap()
}

async fn contents(store: &Store) -> Vec<(String, Sha256)> {
    let mut contents = Vec::new();
    for object in store.list("archive", None).await.unwrap() {
        let bytes = store.get(object.location.as_ref()).await.unwrap().unwrap();
        contents.push((object.location.to_string(), Sha256::of(&bytes)));
    }
    contents
}

/// The primitive: a create-only PUT, reading back, an absent object.
pub async fn a_second_create_is_refused(store: Store) {
    store.self_test(7).await.unwrap();
    assert_eq!(store.list("custody-self-test", None).await.unwrap(), [], "it cleans up");
    assert_eq!(store.create("a/b", "1".into()).await.unwrap(), Created::New);
    assert_eq!(store.create("a/b", "2".into()).await.unwrap(), Created::Exists);
    assert_eq!(store.get("a/b").await.unwrap().unwrap(), "1");
    assert_eq!(store.get("a/c").await.unwrap(), None);
}

/// Objects cover the log without hole or overlap, and verification agrees.
pub async fn objects_tile_the_log_and_verify(store: Store) {
    let receipts = run(&store, &log(), true).await;
    let shape = |receipt: &Receipt| {
        let publication = &receipt.publication;
        (publication.offset_first, publication.offset_next, publication.rows, publication.ticks, receipt.seal)
    };
    let shapes: Vec<_> = receipts.iter().map(shape).collect();
    let expected = [
        (0, 10, 10, 0, Seal::Rows),
        (10, 23, 10, 2, Seal::Rows),
        (23, 34, 10, 1, Seal::Rows),
        (34, 44, 9, 1, Seal::Flush),
    ];
    assert_eq!(shapes, expected);
    let report = verified(&store).await;
    assert_eq!(report.failures, []);
    let [partition] = &report.partitions[..] else { panic!("{:?}", report.partitions) };
    assert_eq!((partition.offset_first, partition.head.offset_next), (0, 44));
    assert_eq!((partition.rows, partition.ticks, partition.manifests), (39, 4, 4));
    assert!(report.notes.iter().any(|note| note.contains("custody.clean.v1/3: unwitnessed")), "{:?}", report.notes);
}

/// Everything in memory forgotten, again and again: the store is the position (I8).
pub async fn a_restart_goes_on_where_the_store_ends(store: Store) {
    // Without a flush the last object is not complete: its records are read again.
    let (log, mut ends) = (log(), Vec::new());
    for end in [5, 12, 30, log.len()] {
        let receipts = run(&store, &log[..end], false).await;
        ends.extend(receipts.iter().map(|receipt| receipt.publication.offset_next));
    }
    assert_eq!(ends, [10, 23, 34], "as in one run, whatever the restarts");
    assert_eq!(verified(&store).await.failures, []);
    let mut sink = open(&store).await;
    assert_eq!(sink.position(CLEAN).await, Ok(Some(34)));
    let error = sink.assign(CLEAN, 36).unwrap_err();
    assert_eq!(error.class, ErrorClass::Data, "{error}");
}

/// A crash between the two PUTs is finished; more than that is not a crash.
pub async fn an_object_without_manifest_gets_it_at_the_next_start(store: Store) {
    let memory = Store::new(Arc::new(InMemory::new()));
    let receipts = run(&memory, &log(), true).await;
    let expected = contents(&memory).await;
    // Every PUT goes through but that of the last manifest: what a crash between the two leaves behind.
    let script: Vec<Fault> = (0..8).map(|i| if i == 7 { Fault::Refuse } else { Fault::None }).collect();
    let mut sink = open(&Store::new(Faulty::scripted(Arc::clone(store.object_store()), &script))).await;
    sink.position(CLEAN).await.unwrap();
    sink.assign(CLEAN, 0).unwrap();
    sink.push(&log()).unwrap();
    let [(_, done, Some(error))] = &sink.flush().await.unwrap()[..] else { panic!("interrupted") };
    assert_eq!((done.len(), error.class), (3, ErrorClass::Retry), "{error}");
    let report = verified(&store).await;
    assert!(report.notes.iter().any(|note| note.contains("unfinished")), "{:?}", report.notes);
    assert_eq!(open(&store).await.position(CLEAN).await, Ok(Some(44)));
    assert_eq!(contents(&store).await, expected, "the same manifest, byte for byte");
    // Two objects without manifest were not left by a crash.
    for receipt in &receipts[2..] {
        store.object_store().delete(&Path::from(receipt.publication.manifest_key())).await.unwrap();
    }
    let error = open(&store).await.position(CLEAN).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Data, "{error}");
    assert!(!verified(&store).await.is_intact());
}

/// Byte for byte, whatever the restarts (I6).
pub async fn the_same_log_gives_the_same_bytes(store: Store) {
    run(&store, &log(), true).await;
    let other = Store::new(Arc::new(InMemory::new()));
    for end in 1..=log().len() {
        run(&other, &log()[..end], end == log().len()).await;
    }
    assert_eq!(contents(&store).await, contents(&other).await);
}

/// Of two writers of one range, one wins and the other goes on behind it.
pub async fn another_writers_range_is_not_doubled(store: Store) {
    let log = log();
    let (mut slow, mut fast) = (open(&store).await, open(&store).await);
    for sink in [&mut slow, &mut fast] {
        assert_eq!(sink.position(CLEAN).await, Ok(None));
        sink.assign(CLEAN, 0).unwrap();
    }
    slow.push(&log[..15]).unwrap();
    fast.push(&log[..4]).unwrap();
    fast.seal(CLEAN).unwrap();
    let [(_, done, None)] = &fast.publish().await[..] else { panic!("published") };
    assert_eq!(done[0].publication.offset_next, 4);
    let [(_, done, Some(error))] = &slow.publish().await[..] else { panic!("refused") };
    assert_eq!((done.len(), error.class), (0, ErrorClass::Restart), "{error}");
    // What the shell does about `Restart`.
    assert_eq!(slow.position(CLEAN).await, Ok(Some(4)));
    slow.assign(CLEAN, 4).unwrap();
    slow.push(&log).unwrap();
    assert!(slow.flush().await.unwrap().iter().all(|(.., error)| error.is_none()));
    let report = verified(&store).await;
    assert_eq!((report.failures, report.partitions[0].rows), (vec![], 39));
}

/// Two writers that disagree about the rows: nothing is written over.
pub async fn other_rows_for_the_same_range_stop_the_partition(store: Store) {
    let mut log = log();
    let mut sink = open(&store).await;
    sink.position(CLEAN).await.unwrap();
    sink.assign(CLEAN, 0).unwrap();
    log[5] = event(5, 5_000, 101);
    sink.push(&log[..10]).unwrap();
    log[5] = event(5, 5_000, 100);
    run(&store, &log[..10], false).await;
    let [(_, _, Some(error))] = &sink.publish().await[..] else { panic!("stopped") };
    assert_eq!(error.class, ErrorClass::Data);
    assert!(error.message.contains("other rows for the same range"), "{error}");
}

/// Ticks alone make an object per hour.
pub async fn a_silent_hour_is_recorded_without_rows(store: Store) {
    let hour = 3_600_000;
    let log = [tick(0, 0), tick(1, 5_000), tick(2, hour), event(3, hour + 1, 10), tick(4, 2 * hour)];
    let receipts = run(&store, &log, true).await;
    let shapes: Vec<_> = receipts.iter().map(|r| (r.publication.offset_next, r.publication.rows, r.seal)).collect();
    assert_eq!(shapes, [(2, 0, Seal::Hour), (4, 1, Seal::Hour)], "ticks alone are not flushed");
    assert!(receipts[0].object.key.contains("/hour=09/") && receipts[1].object.key.contains("/hour=10/"));
    assert_eq!(verified(&store).await.failures, []);
}

/// Every archived topic, and no raw text (I9).
pub async fn findings_and_alerts_are_archived_by_the_same_code(store: Store) {
    let alerts = [alert(0, 0), alert(7, 1_000)];
    let totals = [control_total(0, 0), control_total(1, 1_000)];
    assert_eq!(run(&store, &alerts, true).await[0].publication.counts_by_type, [("alert".to_owned(), 2)].into());
    let counts = &run(&store, &totals, true).await[0].publication.counts_by_type;
    assert_eq!(counts, &[("control.total".to_owned(), 2)].into());
    let report = verified(&store).await;
    assert_eq!((report.failures, report.partitions.len()), (vec![], 2));
    let mut sink = open(&store).await;
    let raw = schemas::record::PartitionId { topic: Topic::Events, partition: 0 };
    sink.position(raw).await.unwrap();
    assert_eq!(sink.assign(raw, 0).unwrap_err().class, ErrorClass::Config, "raw text is not archived (I9)");
}

/// A server that overwrites in spite of the condition is refused at the start.
pub async fn a_store_that_ignores_conditions_is_refused(store: Store) {
    let careless = Store::new(Faulty::ignoring_conditions(Arc::clone(store.object_store())));
    let error = ArchiveSink::open(careless, config(), 1).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Config);
    assert!(error.message.contains("If-None-Match"), "{error}");
}

/// Wherever a PUT is refused or its answer is lost, and whether or not the process survives it.
pub async fn every_lost_or_refused_put_ends_in_the_same_archive(store: Store) {
    let part =
        |name: String| -> Arc<dyn ObjectStore> { Arc::new(PrefixStore::new(Arc::clone(store.object_store()), name)) };
    let expected = {
        let store = Store::new(part("expected".to_owned()));
        run(&store, &log(), true).await;
        contents(&store).await
    };
    for at in 0..8 {
        for fault in [Fault::Refuse, Fault::LoseAnswer] {
            for is_restarted in [false, true] {
                let script: Vec<Fault> = (0..=at).map(|i| if i == at { fault } else { Fault::None }).collect();
                let faulty = Faulty::scripted(part(format!("{at}-{fault:?}-{is_restarted}")), &script);
                let store = Store::new(faulty.clone());
                let mut sink = open(&store).await;
                sink.position(CLEAN).await.unwrap();
                sink.assign(CLEAN, 0).unwrap();
                sink.push(&log()).unwrap();
                let [(_, _, Some(error))] = &sink.flush().await.unwrap()[..] else { panic!("put {at} {fault:?}") };
                assert_eq!(error.class, ErrorClass::Retry);
                match is_restarted {
                    true => drop(run(&store, &log(), true).await),
                    false => assert!(sink.publish().await.iter().all(|(.., error)| error.is_none())),
                }
                assert_eq!(contents(&store).await, expected, "put {at} {fault:?} restarted {is_restarted}");
                assert_eq!(faulty.faults_left(), 0, "the fault fired");
            }
        }
    }
}

/// The newest manifest is found by listing alone, whatever offset the search begins at.
pub async fn the_newest_manifest_is_found_from_any_offset(store: Store) {
    for near in [0, 43, u64::MAX] {
        assert_eq!(read::newest(&store, CLEAN, near).await.unwrap(), None, "nothing is published");
    }
    run(&store, &log(), true).await;
    let all = read::manifests(&store, &[Topic::Clean]).await.unwrap();
    let last = all.last().unwrap();
    // Before the end, at it, far behind it, and as if the log had been made anew.
    for near in [0, 1, 44, 1 << 12, (1 << 12) + 10, (1 << 12) + 40, 1 << 40, u64::MAX] {
        let found = read::newest(&store, CLEAN, near).await.unwrap().unwrap();
        assert_eq!(found.key, last.publication.manifest_key(), "{near}");
        assert!(found.published_at > TimestampMicros::from_ms(NINE - 366 * 86_400_000));
        assert_eq!(read::manifest(&store, &found.key).await.unwrap(), *last);
    }
    let other = PartitionId { partition: CLEAN.partition + 1, ..CLEAN };
    assert_eq!(read::newest(&store, other, 44).await.unwrap(), None);
}

/// What lies outside a range of event time is told by an object's footer, exactly.
pub async fn objects_outside_a_range_are_told_by_their_footer(store: Store) {
    run(&store, &log(), true).await;
    let at = |ms: i64| TimestampMicros::from_ms(NINE + ms);
    let mut rows = 0;
    for manifest in &read::manifests(&store, &[Topic::Clean]).await.unwrap() {
        let mut times = Vec::new();
        for row in read::rows(&store, manifest).await.unwrap() {
            let (time, record) = row.unwrap();
            assert_eq!(time, at(1_000 * record.at.offset as i64), "one second lies between two records");
            times.push(time);
        }
        rows += times.len();
        let (first, last) = (times[0], times[times.len() - 1]);
        let just_after = |time: TimestampMicros| Some(TimestampMicros(time.0 + 1));
        for (range, expected) in [
            (TimeRange::default(), true),
            (TimeRange { first: Some(last), next: None }, true),
            (TimeRange { first: just_after(last), next: None }, false),
            (TimeRange { first: None, next: just_after(first) }, true),
            (TimeRange { first: None, next: Some(first) }, false),
        ] {
            assert_eq!(touches(&store, manifest, &range).await.unwrap(), expected, "{range:?} {first:?} {last:?}");
        }
    }
    assert_eq!(rows, 39);
}

/// One test per check. `$fresh` is an async closure or function without arguments that gives a store
/// that nobody has used and something to keep alive beside it (a directory), or `()`.
#[macro_export]
macro_rules! store_conformance {
    ($fresh:expr) => {
        $crate::store_conformance!(@each $fresh,
            a_second_create_is_refused, objects_tile_the_log_and_verify, a_restart_goes_on_where_the_store_ends,
            an_object_without_manifest_gets_it_at_the_next_start, the_same_log_gives_the_same_bytes,
            another_writers_range_is_not_doubled, other_rows_for_the_same_range_stop_the_partition,
            a_silent_hour_is_recorded_without_rows, findings_and_alerts_are_archived_by_the_same_code,
            a_store_that_ignores_conditions_is_refused, every_lost_or_refused_put_ends_in_the_same_archive,
            the_newest_manifest_is_found_from_any_offset, objects_outside_a_range_are_told_by_their_footer);
    };
    (@each $fresh:expr, $($check:ident),+) => {
        $(
            #[tokio::test]
            async fn $check() {
                let (store, _keep) = ($fresh)().await;
                $crate::parquet::testing::conformance::$check(store).await;
            }
        )+
    };
}
