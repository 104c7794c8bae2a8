//! A log that fails, hangs or loses answers; a queue that is full; the end of the gateway.

use schemas::testing::until_async;
use tokio::net::TcpStream;

use crate::gateway::GatewayError;
use crate::gateway::testing::*;
use crate::log::ErrorClass;
use crate::log::memory::Fault;

const RETRY: ErrorClass = ErrorClass::Retry { after_ms: 1 };

#[tokio::test]
async fn a_log_that_fails_for_a_while_loses_nothing_and_repeats_nothing_but_the_same_bytes() {
    for applied in [false, true] {
        let log = Gated::open().await;
        let gateway = Running::start(&log, |_| {}).await;
        assert_eq!(gateway.post(&event(1, 1)).await.status, 202);
        for _ in 0..3 {
            log.inner.inject(Fault::Append { applied, class: RETRY });
        }
        let reply = gateway.post(&format!("[{},{}]", event(1, 2), event(2, 3))).await;
        assert_eq!(reply.json(), serde_json::json!({"accepted": 2, "duplicates": 0}));
        assert_eq!(log.inner.faults().1, 0);
        let mut headers = log.headers();
        assert_eq!(headers.len(), if applied { 1 + 4 * 2 } else { 3 });
        headers.sort_by_key(|h| h.producer_seq);
        headers.dedup();
        assert_eq!(headers.iter().map(|h| h.producer_seq).collect::<Vec<_>>(), [0, 1, 2], "the same bytes again");
        assert!(gateway.metrics().contains("custody_gateway_log_retries_total 3"));
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_log_that_does_not_answer_is_503_and_the_same_events_again_are_no_new_ones() {
    let log = Gated::closed().await;
    let gateway = Running::start(&log, |config| config.request_timeout_ms = 50).await;
    let reply = gateway.post(&event(1, 1)).await;
    assert_eq!(reply.problem(), (503, "log_unavailable".to_owned()));
    assert_eq!(reply.header("retry-after"), Some("2"));
    log.lift();
    // Every request before it is in the log when one is acknowledged.
    let mut reply = gateway.post(&event(1, 1)).await;
    until_async("answered", async || {
        if reply.status == 503 {
            reply = gateway.post(&event(1, 1)).await;
        }
        reply.status != 503
    })
    .await;
    assert_eq!(reply.json(), serde_json::json!({"accepted": 0, "duplicates": 1}));
    assert_eq!(log.events().len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn when_too_much_waits_new_requests_are_429_and_those_that_wait_are_answered() {
    let log = Gated::closed().await;
    let gateway = Running::start(&log, |config| config.queue_requests_max = 1).await;
    log.has_come().await;
    // The writer is at the gate with a tick: one request fits into the queue.
    let (mut waiting, mut refused) = (Vec::new(), 0);
    for id in 1..4 {
        let ask = Ask::post("/v1/events", "application/json", event(1, id).as_bytes()).bytes();
        waiting.push(tokio::spawn(exchange(gateway.http, Box::leak(ask.into_boxed_slice()))));
    }
    until_async("refused", async || gateway.metrics().contains(r#"reason="overloaded"} 2"#)).await;
    log.lift();
    let mut accepted = 0;
    for reply in waiting {
        let reply = reply.await.unwrap();
        match reply.status {
            202 => accepted += 1,
            _ => {
                assert_eq!(reply.problem(), (429, "overloaded".to_owned()));
                assert_eq!(reply.header("retry-after"), Some("1"));
                refused += 1;
            }
        }
    }
    assert_eq!((accepted, refused, log.events().len()), (1, 2, 1));
    gateway.stop().await;
}

#[tokio::test]
async fn the_bytes_that_wait_are_bounded() {
    let log = Gated::closed().await;
    let gateway = Running::start(&log, |config| (config.body_bytes_max, config.queue_bytes_max) = (4_096, 4_096)).await;
    let body = format!("{}{}", event(1, 1), " ".repeat(3_000));
    let ask = Ask::post("/v1/events", "application/json", body.as_bytes()).bytes();
    let first = tokio::spawn(async move { exchange(gateway.http, &ask).await });
    let metrics = || gateway_metrics(&gateway.registry);
    until_async("queued", async || metrics().contains("custody_gateway_queue_bytes 4096")).await;
    let address = gateway.http;
    let body = format!("{}{}", event(1, 2), " ".repeat(3_000));
    let ask = Ask::post("/v1/events", "application/json", body.as_bytes());
    assert_eq!(exchange(address, &ask.bytes()).await.problem(), (429, "overloaded".to_owned()));
    log.lift();
    assert_eq!(first.await.unwrap().status, 202);
    gateway.stop().await;
}

fn gateway_metrics(registry: &prometheus_client::registry::Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

#[tokio::test]
async fn a_shutdown_answers_what_was_accepted_and_takes_nothing_more() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    assert_eq!(gateway.post(&event(1, 1)).await.status, 202);
    log.gate.forget_permits(1 << 20);
    while log.came.try_acquire().map(|permit| permit.forget()).is_ok() {}
    let ask = Ask::post("/v1/events", "application/json", event(1, 2).as_bytes()).bytes();
    let address = gateway.http;
    let waiting = tokio::spawn(async move { exchange(address, &ask).await });
    log.has_come().await;
    let ended = gateway.begin_stop();
    until_async("no longer listening", async || TcpStream::connect(address).await.is_err()).await;
    assert!(!ended.is_finished(), "it waits for the log");
    log.lift();
    let reply = waiting.await.unwrap();
    assert_eq!((reply.status, reply.json()["accepted"].as_u64()), (202, Some(1)));
    ended.await.unwrap().unwrap();
    let sessions = log.headers().iter().filter(|h| !h.session_id.is_zero()).count();
    assert_eq!(sessions, 2);
}

#[tokio::test]
async fn a_shutdown_ends_even_where_the_log_does_not_answer() {
    let log = Gated::closed().await;
    let gateway = Running::start(&log, |config| config.drain_timeout_ms = 50).await;
    let ask = Ask::post("/v1/events", "application/json", event(1, 1).as_bytes()).bytes();
    let address = gateway.http;
    let waiting = tokio::spawn(async move { exchange(address, &ask).await });
    log.has_come().await;
    gateway.begin_stop().await.unwrap().unwrap();
    assert_ne!(waiting.await.unwrap().status, 202);
}

#[tokio::test]
async fn a_log_that_can_never_take_the_events_ends_the_gateway_with_its_reason() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    assert_eq!(gateway.post(&event(1, 1)).await.status, 202);
    log.inner.inject(Fault::Append { applied: false, class: ErrorClass::Fatal });
    let reply = gateway.post(&event(1, 2)).await;
    assert_eq!(reply.problem(), (503, "log_unavailable".to_owned()));
    let ended = gateway.task.await.unwrap();
    assert!(matches!(&ended, Err(GatewayError::Log(error)) if error.class == ErrorClass::Fatal), "{ended:?}");
}
