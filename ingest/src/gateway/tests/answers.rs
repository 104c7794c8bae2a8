//! Every answer of HTTP, and that only what is acknowledged is in the log, once.

use schemas::event::CONTENT_SHA256_EXT;

use crate::gateway::testing::*;

#[tokio::test]
async fn what_is_acknowledged_is_in_the_log_numbered_and_repeats_are_known() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    let body = format!("[{},{},{}]", event(1, 1), event(1, 2), event(1, 1));
    let reply = gateway.post(&body).await;
    assert_eq!((reply.status, reply.header("content-type")), (202, Some("application/json")));
    assert_eq!(reply.json(), serde_json::json!({"accepted": 2, "duplicates": 1}));
    let reply = gateway.post(&body).await;
    assert_eq!(reply.json(), serde_json::json!({"accepted": 0, "duplicates": 3}));
    let other = event(1, 2).replace(":7", ":8");
    assert_eq!(gateway.post(&other).await.json(), serde_json::json!({"accepted": 1, "duplicates": 0}));
    let headers = log.headers();
    assert_eq!(headers.iter().map(|h| h.seq).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(headers.iter().map(|h| h.producer_seq).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(headers.iter().all(|h| h.producer_id == "gateway/test" && h.capture == "best_effort"), "{headers:?}");
    assert!(headers.iter().all(|h| h.tenant_id == "default" && h.ext.contains_key(CONTENT_SHA256_EXT)));
    let metrics = gateway.metrics();
    for line in [
        r#"custody_gateway_events_total{protocol="events",outcome="accepted"} 3"#,
        r#"custody_gateway_events_total{protocol="events",outcome="duplicate"} 4"#,
        r#"custody_gateway_requests_total{protocol="events",status="202"} 3"#,
        "custody_gateway_queue_bytes 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn every_body_form_is_taken() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    let lines = format!("{}\n{}\n", event(1, 1), event(1, 2));
    let cloud = r#"{"specversion":"1.0","id":"7","source":"/agents/a","type":"model.call","sessionid":"s","subject":"s","data":{"event_type":"model.call","agent_id":"a","session_id":"s","data":{}}}"#;
    let batch = format!("[{cloud}]").replace("\"7\"", "\"8\"");
    for (content_type, body) in [
        ("application/json", event(1, 9).as_str()),
        ("application/x-ndjson", &lines),
        ("application/cloudevents+json", cloud),
        ("application/cloudevents-batch+json", &batch),
    ] {
        let reply = gateway.send(Ask::post("/v1/events", content_type, body.as_bytes())).await;
        assert_eq!(reply.status, 202, "{content_type}: {reply:?} {}", String::from_utf8_lossy(&reply.body));
    }
    assert_eq!(log.events().len(), 5);
    gateway.stop().await;
}

#[tokio::test]
async fn every_refusal_is_a_problem_and_leaves_the_log_alone() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |config| {
        config.body_bytes_max = 10_000;
        config.quota.tenants.insert("small".to_owned(), quota(1, 1));
    })
    .await;
    let good = event(1, 1);
    let (good, bad) = (good.as_bytes(), event(1, 2).replace("model.call", "tick"));
    let post = |body| Ask::post("/v1/events", "application/json", body);
    let two = format!("[{},{}]", event(1, 3), event(1, 4));
    let numbered = event(1, 5).replacen(
        '{',
        r#"{"seq":0,"producer_id":"p","producer_epoch":1,"producer_seq":0,"ext":{"custody.content_sha256":"00"},"#,
        1,
    );
    let cases = [
        (Ask::get("/"), 404, "not_found"),
        (Ask::get("/v1/events"), 405, "method_not_allowed"),
        (post(good).method("PUT"), 405, "method_not_allowed"),
        (post(good).with("accept", "text/html, image/*;q=0.5"), 406, "not_acceptable"),
        (post(b"").without("content-length"), 411, "length_required"),
        (post(&[b' '; 10_001]), 413, "body_too_large"),
        (post(two.as_bytes()).with("x-custody-tenant", "small"), 413, "batch_beyond_quota"),
        (Ask::post("/v1/events", "text/csv", good), 415, "unsupported_media_type"),
        (post(good).with("content-encoding", "br"), 415, "unsupported_encoding"),
        (post(good).with("content-encoding", "gzip"), 400, "malformed_encoding"),
        (post(b"{"), 400, "malformed_json"),
        (post(b""), 400, "empty_body"),
        (post(bad.as_bytes()), 422, "reserved"),
        (post(numbered.as_bytes()), 422, "reserved"),
        (post(good).with("x-custody-tenant", "_system"), 403, "tenant_invalid"),
        (Ask::post("/v1/traces", "text/plain", b""), 415, "unsupported_media_type"),
    ];
    for (ask, status, code) in cases {
        assert_eq!(gateway.send(ask.clone()).await.problem(), (status, code.to_owned()), "{ask:?}");
    }
    assert_eq!(gateway.send(Ask::get("/v1/events")).await.header("allow"), Some("POST"));
    assert!(log.events().is_empty(), "{:?}", log.events());
    let refusals = |code: &str| format!(r#"custody_gateway_refusals_total{{reason="{code}"}} 1"#);
    let metrics = gateway.metrics();
    for code in ["malformed_json", "length_required", "not_acceptable", "unsupported_encoding"] {
        assert!(metrics.contains(&refusals(code)), "{code} is not in\n{metrics}");
    }
    gateway.stop().await;
}

fn quota(events_per_second: u32, events_burst: u32) -> crate::gateway::quota::TenantQuota {
    crate::gateway::quota::TenantQuota { events_per_second, events_burst, ..Default::default() }
}

#[tokio::test]
async fn a_tenant_beyond_its_quota_waits_and_the_others_do_not() {
    let log = Gated::open().await;
    // One event in about 49 days: the bucket does not fill again within a test.
    let gateway = Running::start(&log, |config| {
        let slow = crate::gateway::quota::TenantQuota { events_per_second: 1, events_burst: 2, ..Default::default() };
        config.quota.tenants.insert("busy".to_owned(), slow);
    })
    .await;
    let two = format!("[{},{}]", event(1, 1), event(1, 2));
    let busy = || Ask::post("/v1/events", "application/json", two.as_bytes()).with("x-custody-tenant", "busy");
    assert_eq!(gateway.send(busy()).await.status, 202);
    let mut reply = gateway.send(busy()).await;
    while reply.status == 202 {
        // The machine stood still for two seconds.
        reply = gateway.send(busy()).await;
    }
    assert_eq!(reply.problem(), (429, "quota_exceeded".to_owned()));
    assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(gateway.post(&two).await.status, 202);
    gateway.stop().await;
}

#[tokio::test]
async fn one_bad_event_refuses_the_whole_request_and_is_named() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    let body = format!("[{},{}]", event(1, 1), event(1, 2).replace("\"a\"", "7"));
    let reply = gateway.post(&body).await;
    let (status, json) = (reply.problem().0, reply.json());
    assert_eq!((status, &json["index"], &json["field"]), (422, &1.into(), &"/agent_id".into()), "{json}");
    assert!(log.events().is_empty());
    gateway.stop().await;
}

#[tokio::test]
async fn probes_follow_the_log() {
    let log = Gated::closed().await;
    let gateway = Running::start(&log, |_| {}).await;
    let status = async |path| gateway.send(Ask::get(path)).await.status;
    assert_eq!((status("/livez").await, status("/readyz").await, status("/startupz").await), (200, 503, 503));
    log.lift();
    assert_eq!(gateway.post(&event(1, 1)).await.status, 202);
    assert_eq!((status("/livez").await, status("/readyz").await, status("/startupz").await), (200, 200, 200));
    gateway.stop().await;
}
