//! `custody up` as a process: an event over HTTP is found in ClickHouse and in `/metrics`, a signal drains
//! it, and the same command goes on where it stopped.
//!
//! Real signals and the real ClickHouse engine; fails, never skips, where the engine cannot be had.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use support::custody;
use support::up::{Up, request};

fn event(session: &str, number: u32) -> String {
    format!(
        "{{\"event_type\":\"model.call\",\"agent_id\":\"support\",\"session_id\":\"{session}\",\
         \"data\":{{\"call_id\":\"{session}-{number}\",\"input\":\"mail bob@example.com\"}}}}"
    )
}

#[test]
fn an_event_is_found_a_signal_drains_and_the_next_start_goes_on() {
    let dir = tempfile::tempdir().expect("directory");
    let agent = "agent_id = 'support'";
    for round in 1..=2_u32 {
        let up = Up::start(dir.path());
        if round == 2 {
            // What the first process had accepted is there once, and its key was not made anew.
            up.until("loaded", || up.rows(agent) == "10");
        }
        for number in 0..10 {
            let (status, answer) = up.send(&event(&format!("s{round}"), number));
            assert_eq!(status, 202, "{answer}");
        }
        if round == 1 {
            up.until("loaded", || up.rows(agent) == "10");
            assert_eq!(up.rows(&format!("{agent} AND toString(payload) LIKE '%bob@example.com%'")), "0");
            assert_eq!(up.metric("custody_gateway_events_total", "outcome=\"accepted\""), 10.0);
            assert_eq!(up.metric("custody_load_rows_total", "table=\"events\""), 10.0);
            assert!(up.metric("custody_records_total", "role=\"pii\"") >= 10.0);
            assert_eq!(up.metric("custody_retries_total", ""), 0.0);
        }
        // In the second round at once after the answers: what is accepted is drained or read again.
        up.signal(rustix::process::Signal::TERM);
        assert_eq!(up.ended().code(), Some(0));
    }
    let up = Up::start(dir.path());
    up.until("loaded", || up.rows(agent) == "20");
    let tokens =
        "SELECT uniq(extract(toString(payload), 'EMAIL:[0-9a-f]+')) FROM custody.events WHERE agent_id = 'support'";
    assert_eq!(request(&up.clickhouse, "POST", "/", tokens).1.trim(), "1", "one key, one token");
    up.signal(rustix::process::Signal::INT);
    assert_eq!(up.ended().code(), Some(0));
}

/// Takes OTLP requests until it is dropped; the bodies of those to the path of traces.
fn collector() -> (String, std::sync::Arc<std::sync::Mutex<Vec<u8>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    let bodies = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let taken = std::sync::Arc::clone(&bodies);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
            let (mut head, mut line) = (String::new(), String::new());
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                head.push_str(&line.to_ascii_lowercase());
                line.clear();
            }
            let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
            let mut body = vec![0; length.unwrap_or_default()];
            reader.read_exact(&mut body).expect("a body");
            if head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf") {
                taken.lock().expect("bodies").extend(body);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").expect("answered");
        }
    });
    (endpoint, bodies)
}

#[test]
fn our_own_traces_reach_a_collector_without_content() {
    let dir = tempfile::tempdir().expect("directory");
    let (endpoint, bodies) = collector();
    let up = Up::start_with(dir.path(), &[("CUSTODY_TELEMETRY__OTLP_ENDPOINT", &endpoint)]);
    assert_eq!(up.send(&event("traced", 1)).0, 202);
    up.until("loaded", || up.rows("agent_id = 'support'") == "1");
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.ended().code(), Some(0));
    let bodies = bodies.lock().expect("bodies");
    let text = String::from_utf8_lossy(&bodies);
    for expected in ["service.name", "custody.role", "step", "insert", "custody.clean.v1"] {
        assert!(text.contains(expected), "no {expected:?} among {} bytes of traces", bodies.len());
    }
    assert!(!text.contains("bob@example.com"));
}

#[test]
fn a_configuration_that_does_not_hold_starts_nothing() {
    let dir = tempfile::tempdir().expect("directory");
    let check = |arguments: &[&str], name: &str, value: &str, expected: &str| {
        let output = custody().args(arguments).env(name, value).current_dir(dir.path()).output().expect("custody");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(expected), "{errors}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("directory").count(), 0, "something was started");
    };
    check(&["up"], "CUSTODY_LOG__ULR", "local", "unknown key log.ulr; the nearest known one is log.url");
    check(&["up"], "CUSTODY_LOAD__ROWS_MAX", "0", "load.rows_max");
    check(&["load"], "CUSTODY_LOG__URL", "kafka://127.0.0.1:1", "clickhouse.url is empty");
    check(&["process", "pii"], "CUSTODY_PII__KEYS_FILE", "k", "log.url is `local`");
    check(&["gateway"], "CUSTODY_TELEMETRY__LISTEN", "x", "telemetry.listen");
}
