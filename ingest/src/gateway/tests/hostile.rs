//! Requests that want to cost more than they may: bombs, floods, and those that never end.

use std::io::Write as _;

use schemas::testing::until_async;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gateway::testing::*;

async fn is_alive(gateway: &Running) {
    assert_eq!(gateway.post(&event(9, 9)).await.status, 202);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn bombs_of_gzip_and_of_nesting_are_refused() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    let bomb = gzip(&vec![b' '; 32 << 20]);
    let ask = Ask::post("/v1/events", "application/json", &bomb).with("content-encoding", "gzip");
    assert_eq!(gateway.send(ask).await.problem(), (413, "body_too_large".to_owned()));
    for path in ["/v1/traces", "/v1/logs"] {
        let ask = Ask::post(path, "application/x-protobuf", &bomb).with("content-encoding", "gzip");
        assert_eq!(gateway.send(ask).await.status, 413, "{path}");
    }
    let deep = format!("{{\"data\":{}", "[".repeat(100_000));
    assert_eq!(gateway.post(&deep).await.status, 400);
    let ask = Ask::post("/v1/traces", "application/json", deep.as_bytes());
    assert_eq!(gateway.send(ask).await.status, 400);
    is_alive(&gateway).await;
    gateway.stop().await;
}

#[tokio::test]
async fn floods_of_headers_are_refused() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let reply = exchange(gateway.http, format!("GET /livez HTTP/1.1\r\nhost: g\r\n{many}\r\n").as_bytes()).await;
    assert_eq!(reply.status, 431);
    let long = "y".repeat(100_000);
    let reply = exchange(gateway.http, format!("GET /livez HTTP/1.1\r\nhost: g\r\nx: {long}\r\n\r\n").as_bytes()).await;
    assert_eq!(reply.status, 431);
    let reply = exchange(gateway.http, b"\x16\x03\x01\x02\x00\x01\x00garbage\r\n\r\n").await;
    assert_eq!(reply.status, 400);
    is_alive(&gateway).await;
    gateway.stop().await;
}

#[tokio::test]
async fn heads_and_bodies_that_never_end_are_ended() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |config| {
        (config.header_read_timeout_ms, config.body_read_timeout_ms) = (50, 50);
    })
    .await;
    for head in ["", "P", "POST /v1/events HTTP/1.1\r\nhost: g\r\n"] {
        let reply = exchange(gateway.http, head.as_bytes()).await;
        assert!(reply.status == 0 || reply.status == 408, "{head}: {reply:?}");
    }
    let half = "POST /v1/events HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{";
    assert_eq!(exchange(gateway.http, half.as_bytes()).await.problem(), (408, "request_timeout".to_owned()));
    is_alive(&gateway).await;
    gateway.stop().await;
}

#[tokio::test]
async fn half_a_request_leaves_nothing() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |_| {}).await;
    let whole = Ask::post("/v1/events", "application/json", event(1, 1).as_bytes()).bytes();
    for cut in [10, whole.len() - 100, whole.len() - 1] {
        let mut stream = TcpStream::connect(gateway.http).await.unwrap();
        stream.write_all(&whole[..cut]).await.unwrap();
        stream.shutdown().await.unwrap();
        let reply = read_reply(&mut stream).await;
        assert!(reply.status == 0 || reply.status == 400, "{cut}: {reply:?}");
    }
    assert!(log.events().is_empty());
    is_alive(&gateway).await;
    gateway.stop().await;
}

#[tokio::test]
async fn connections_are_bounded_and_free_again() {
    let log = Gated::open().await;
    let gateway = Running::start(&log, |config| config.connections_max = 1).await;
    let mut first = TcpStream::connect(gateway.http).await.unwrap();
    first.write_all(b"GET /livez HTTP/1.1\r\nhost: g\r\n\r\n").await.unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).await.unwrap();
    assert_eq!(exchange(gateway.http, &Ask::get("/livez").bytes()).await.status, 0);
    assert!(gateway.metrics().contains("custody_gateway_connections_refused_total 1"));
    drop(first);
    until_async("free again", async || gateway.send(Ask::get("/livez")).await.status == 200).await;
    gateway.stop().await;
}
