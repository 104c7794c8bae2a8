//! The writer alone, in a time that stands still unless somebody waits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use schemas::codec::codec;
use schemas::event::{Event, EventHeader, ModelCall, RawEvent, Tick};
use schemas::id::Sha256;
use schemas::record::PartitionId;
use schemas::text::Content;
use tokio::task::JoinHandle;

use super::*;
use crate::gateway::testing::{Gated, NOW, clock};
use crate::log::memory::Fault;

fn config() -> WriterConfig {
    WriterConfig {
        instance: "w".to_owned(),
        queue_requests_max: 4,
        request_timeout_ms: 10_000,
        tick_interval_ms: 2_000,
        idempotence_entries_max: 100,
        idempotence_ttl_ms: 600_000,
        sessions_max: 100,
    }
}

fn call(session: u8, id: u8) -> Arrived {
    let h = EventHeader {
        event_id: Uuid([id; 16]),
        session_id: Uuid([session; 16]),
        tenant_id: "t".to_owned(),
        capture: "best_effort".to_owned(),
        ..EventHeader::of_type("model.call")
    };
    let event = Event::ModelCall(ModelCall { h, ..ModelCall::default() });
    Arrived { event, numbered: false, content_sha256: Sha256([id; 32]), raw: None }
}

type Running = (WriterHandle, watch::Sender<bool>, JoinHandle<Result<(), LogError>>);

fn start(log: &Gated, config: WriterConfig) -> Running {
    let (writer, handle) = GatewayWriter::new(config, log.clone(), clock, GatewayMetrics::default());
    let (close, closed) = watch::channel(false);
    (handle, close, tokio::spawn(writer.run(closed)))
}

fn ticks(log: &Gated, partition: u32) -> Vec<Tick> {
    let records = log.inner.records(PartitionId { topic: Topic::Events, partition });
    let ticks = records.iter().filter_map(|record| match codec().decode(record.value.as_deref()).unwrap() {
        RawEvent::Tick(tick) => Some(tick),
        _ => None,
    });
    ticks.collect()
}

#[tokio::test(start_paused = true)]
async fn ticks_come_at_once_and_then_at_their_interval_and_count_what_was_acknowledged() {
    let log = Gated::open().await;
    let (handle, close, task) = start(&log, config());
    handle.submit(vec![call(1, 1), call(1, 2), call(1, 1)], None).await.unwrap();
    let for_ever = std::future::pending::<()>();
    tokio::time::timeout(Duration::from_millis(5_000), for_ever).await.unwrap_err();
    close.send(true).unwrap();
    task.await.unwrap().unwrap();
    let counts: Vec<Vec<i64>> = (0..2).map(|p| ticks(&log, p).iter().map(|t| t.records_acked).collect()).collect();
    let of_session = counts.iter().find(|counts| counts.last() == Some(&2)).expect("a partition with the session");
    assert_eq!(of_session, &[0, 2, 2]);
    assert!(counts.iter().any(|counts| counts == &[0, 0, 0]), "{counts:?}");
    assert!(ticks(&log, 0).iter().all(|tick| tick.at == NOW && tick.writer_id == "gateway/w"));
}

#[tokio::test(start_paused = true)]
async fn requests_keep_their_order() {
    let log = Gated::closed().await;
    let (handle, close, task) = start(&log, config());
    let waiting: Vec<_> = (1..4)
        .map(|id| {
            let handle = handle.clone();
            async move { handle.submit(vec![call(1, id), call(1, id + 100)], None).await }
        })
        .collect();
    let (outcomes, ()) = tokio::join!(futures::future::join_all(waiting), async { log.lift() });
    assert_eq!(outcomes, vec![Ok(Receipt { accepted: 2, duplicates: 0 }); 3]);
    let numbers: Vec<(i64, u8)> = log.headers().iter().map(|h| (h.seq, h.event_id.0[0])).collect();
    assert_eq!(numbers, [(0, 1), (1, 101), (2, 2), (3, 102), (4, 3), (5, 103)]);
    close.send(true).unwrap();
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_its_time_and_what_it_brought_is_not_taken_twice() {
    let log = Gated::closed().await;
    let (handle, _close, _task) = start(&log, config());
    let begun = Instant::now();
    let refused = handle.submit(vec![call(1, 1)], None).await.unwrap_err();
    assert_eq!((refused.status, refused.code, begun.elapsed()), (503, "log_unavailable", Duration::from_secs(10)));
    assert!(!handle.health().has_started());
    log.lift();
    let again = handle.submit(vec![call(1, 1)], None).await.unwrap();
    assert_eq!(again, Receipt { accepted: 0, duplicates: 1 });
    assert_eq!(log.events().len(), 1);
    assert!(handle.health().acknowledges(NOW, 1));
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_failures_and_appends_that_hang() {
    let log = Gated::open().await;
    let (handle, _close, _task) = start(&log, config());
    handle.submit(vec![call(1, 1)], None).await.unwrap();
    assert!(handle.health().acknowledges(NOW, 1_000));
    log.gate.forget_permits(1 << 20);
    let hanging = handle.submit(vec![call(1, 2)], None);
    tokio::pin!(hanging);
    tokio::time::timeout(Duration::from_millis(1), &mut hanging).await.unwrap_err();
    assert!(handle.health().acknowledges(NOW.plus_ms(1_000), 1_000));
    assert!(!handle.health().acknowledges(NOW.plus_ms(1_001), 1_000));
    for _ in 0..2 {
        log.inner.inject(Fault::Append { applied: false, class: ErrorClass::Retry { after_ms: 100 } });
    }
    log.gate.add_permits(1);
    tokio::time::timeout(Duration::from_millis(1), &mut hanging).await.unwrap_err();
    assert!(!handle.health().acknowledges(NOW, 1_000), "an append failed");
    log.lift();
    hanging.await.unwrap();
    assert!(handle.health().acknowledges(NOW, 1_000));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_large_is_refused_with_its_place_and_may_come_again_shorter() {
    let log = Gated::open().await;
    let (handle, close, task) = start(&log, config());
    handle.submit(vec![call(1, 1)], None).await.unwrap();
    let mut large = call(1, 3);
    if let Event::ModelCall(call) = &mut large.event {
        call.input = Some(Content::plain("x".repeat(EVENT_BYTES_MAX)));
    }
    let refused = handle.submit(vec![call(1, 1), call(1, 2), large], None).await.unwrap_err();
    assert_eq!((refused.status, refused.code, refused.index), (413, "event_too_large", Some(2)));
    let receipt = handle.submit(vec![call(1, 1), call(1, 2), call(1, 3)], None).await.unwrap();
    assert_eq!(receipt, Receipt { accepted: 2, duplicates: 1 });
    assert_eq!(log.headers().iter().map(|h| h.seq).collect::<Vec<_>>(), [0, 1, 2]);
    close.send(true).unwrap();
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_writes_what_waits_and_refuses_what_comes() {
    let log = Gated::closed().await;
    let (handle, close, task) = start(&log, config());
    let waiting = handle.submit(vec![call(1, 1)], None);
    let (outcome, ()) = tokio::join!(biased(waiting), async {
        log.has_come().await;
        close.send(true).unwrap();
        log.lift();
    });
    assert_eq!(outcome, Ok(Receipt { accepted: 1, duplicates: 0 }));
    task.await.unwrap().unwrap();
    assert_eq!(handle.submit(vec![call(1, 2)], None).await.unwrap_err().code, "draining");
    assert_eq!(log.events().len(), 1);
}

/// Polled first by `join!`, so that it is queued before the others run.
async fn biased<T>(waiting: impl Future<Output = T>) -> T {
    waiting.await
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_can_give_is_asked_for_again_and_a_fatal_one_ends_the_writer() {
    let log = Gated::open().await;
    let (handle, _close, task) = start(&log, config());
    handle.submit(vec![call(1, 1)], None).await.unwrap();
    log.inner.inject(Fault::Append { applied: false, class: ErrorClass::AbortTxn });
    handle.submit(vec![call(1, 2)], None).await.unwrap();
    log.inner.inject(Fault::Append { applied: false, class: ErrorClass::Fatal });
    assert_eq!(handle.submit(vec![call(1, 3)], None).await.unwrap_err().code, "log_unavailable");
    assert_eq!(task.await.unwrap().unwrap_err().class, ErrorClass::Fatal);
    assert_eq!(log.events().len(), 2);
}
