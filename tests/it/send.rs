//! `custody send` as a program, against a server that reads bodies with the gateway's own reader.
//!
//! What the client does with every kind of answer is tested in `ingest`.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use ingest::gateway::avro_batch;
use ingest::gateway::intake::Arrived;
use ingest::gateway::intake::IntakeContext;
use ingest::gateway::problem::{Code, Refusal};

#[derive(Debug, Default)]
struct Server {
    taken: Mutex<Vec<Arrived>>,
}

const KEY: &str = "cst_ab_secret";

/// Takes what comes with the key; refuses events of the agent `bad`.
async fn events(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> Response {
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != &format!("Bearer {KEY}")) {
        return problem(&Code::Unauthenticated.problem("no such key").into());
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).expect("gzip");
    let context = IntakeContext { tenant_id: Some("acme"), arrived_at: custody::clock::now() };
    let arrived = avro_batch::parse(&plain.into(), &context).expect("records of the client");
    let bad = arrived.iter().enumerate().filter(|(_, a)| a.event.h().agent_id == "bad");
    match Refusal::of(bad.map(|(index, _)| Code::Reserved.problem("not this agent").in_event(index))) {
        Some(refusal) => problem(&refusal),
        None => {
            server.taken.lock().expect("no panics").extend(arrived);
            StatusCode::ACCEPTED.into_response()
        }
    }
}

fn problem(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).expect("a status");
    (status, [(header::CONTENT_TYPE, "application/problem+json")], refusal.to_json()).into_response()
}

fn serve(server: &Arc<Server>) -> SocketAddr {
    let (send, receive) = std::sync::mpsc::channel();
    let server = server.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            send.send(listener.local_addr().expect("bound")).expect("the test waits");
            let app = Router::new().route("/v1/events", post(events)).with_state(server);
            axum::serve(listener, app).await.expect("serving");
        });
    });
    receive.recv().expect("a server")
}

/// Runs `custody send` on `input` with `key`.
fn send(address: SocketAddr, dir: &Path, key: &str, input: &str) -> Output {
    let key_file = dir.join("key");
    std::fs::write(&key_file, format!("{key}\n")).expect("key");
    let mut child = Command::new(env!("CARGO_BIN_EXE_custody"))
        .args(["send", "--json", "--tenant", "acme", "--endpoint", &format!("http://{address}")])
        .args(["--api-key-file".as_ref(), key_file.as_os_str()])
        .args(["--spool-dir".as_ref(), dir.join("spool").as_os_str()])
        .env_remove("CUSTODY_API_KEY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("custody");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn line(agent: &str, number: usize) -> String {
    let data = format!("{{\"tool_call_id\":\"t{number}\"}}");
    format!(
        "{{\"event_type\":\"tool.call.completed\",\"agent_id\":\"{agent}\",\"session_id\":\"s\",\"data\":{data}}}\n"
    )
}

fn check(output: &Output, code: i32, expected: &str) {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), stdout.trim()), (Some(code), expected), "{stderr}");
}

#[test]
fn what_is_sent_arrives_numbered_and_what_is_wrong_is_named() {
    let server = Arc::new(Server::default());
    let address = serve(&server);
    let dir = tempfile::tempdir().expect("directory");
    let good: String = (0..40).map(|number| line("a", number)).collect();

    let locked_out = send(address, dir.path(), "wrong", &good);
    check(&locked_out, 2, r#"{"acknowledged":0,"duplicates":0,"events":40,"refused":0,"waiting":41}"#);
    assert!(String::from_utf8_lossy(&locked_out.stderr).contains("unauthenticated"));

    // The spool still has them; the heartbeats are the client's own.
    let rest = send(address, dir.path(), KEY, &line("a", 40));
    check(&rest, 0, r#"{"acknowledged":43,"duplicates":0,"events":1,"refused":0,"waiting":0}"#);
    let taken = std::mem::take(&mut *server.taken.lock().expect("no panics"));
    let seqs: Vec<i64> = taken.iter().map(|a| a.event.h().seq).filter(|seq| *seq >= 0).collect();
    assert_eq!(seqs, (0..41).collect::<Vec<_>>(), "one session over two processes");

    let mixed = format!("{}{}not json\n\n{}{}", line("a", 50), line("bad", 51), line("a", 50), r#"{"event_type":"x"}"#);
    let refused = send(address, dir.path(), KEY, &mixed);
    check(&refused, 1, r#"{"acknowledged":2,"duplicates":1,"events":3,"refused":3,"waiting":0}"#);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    for part in ["line 3: refused: malformed_json", "line 6: refused: missing_field", "reserved: not this agent"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

#[test]
fn the_client_closes_an_epoch_with_the_key_that_completeness_reads() {
    assert_eq!(ingest::agent::client::CLOSED_EXT, processors::completeness::CLOSED_EXT);
}
