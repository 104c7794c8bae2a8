//! `custody up` as a process: an event over HTTP is found in ClickHouse and in `/metrics`, a signal drains
//! it, and the same command goes on where it stopped.
//!
//! Real signals and the real ClickHouse engine; fails, never skips, where the engine cannot be had.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for something that must happen; a busy machine needs some of it for ClickHouse's start.
const PATIENCE: Duration = Duration::from_secs(120);

/// The binary under test.
fn custody() -> Command {
    Command::new(env!("CARGO_BIN_EXE_custody"))
}

/// A running `custody up`.
struct Up {
    child: Child,
    output: BufReader<ChildStdout>,
    intake: String,
    clickhouse: String,
    telemetry: String,
}

/// The address after `http://` in a line, up to a character that none has.
fn address_in(line: &str) -> String {
    let rest = line.split("http://").nth(1).expect("an address");
    rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect()
}

impl Up {
    fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    fn start_with(dir: &Path, environment: &[(&str, &str)]) -> Self {
        let mut command = custody();
        command.args(["up", "--data-dir"]).arg(dir).stdout(Stdio::piped()).stderr(Stdio::null());
        for (name, value) in [
            ("CUSTODY_GATEWAY__HTTP_LISTEN", "127.0.0.1:0"),
            ("CUSTODY_GATEWAY__GRPC_LISTEN", "127.0.0.1:0"),
            ("CUSTODY_TELEMETRY__LISTEN", "127.0.0.1:0"),
            ("CUSTODY_CLICKHOUSE__PORT", "0"),
        ] {
            command.env(name, value);
        }
        command.envs(environment.iter().copied());
        let mut child = command.current_dir(dir).spawn().expect("custody up");
        let mut output = BufReader::new(child.stdout.take().expect("standard output"));
        let mut line_with = |word: &str| {
            let mut line = String::new();
            while !line.trim_start().starts_with(word) {
                line.clear();
                assert!(output.read_line(&mut line).expect("a line") > 0, "custody up ended before it said {word}");
            }
            line
        };
        let intake = address_in(&line_with("intake"));
        let clickhouse = address_in(&line_with("ClickHouse"));
        let telemetry = address_in(&line_with("metrics"));
        let up = Self { child, output, intake, clickhouse, telemetry };
        up.until("ready", || up.get("/readyz").0 == 200);
        up
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "not {what} within {PATIENCE:?}");
            std::thread::yield_now();
        }
    }

    fn get(&self, path: &str) -> (u16, String) {
        request(&self.telemetry, "GET", path, "")
    }

    fn send(&self, body: &str) -> (u16, String) {
        request(&self.intake, "POST", "/v1/events", body)
    }

    fn rows(&self, condition: &str) -> String {
        let sql = format!("SELECT count() FROM custody.events WHERE {condition}");
        request(&self.clickhouse, "POST", "/", &sql).1.trim().to_owned()
    }

    /// The sum of a series over its labels that contain `part`.
    fn metric(&self, name: &str, part: &str) -> f64 {
        let text = self.get("/metrics").1;
        let lines = text.lines().filter(|l| l.split(['{', ' ']).next() == Some(name) && l.contains(part));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("signalled");
    }

    fn ended(mut self) -> ExitStatus {
        let status = self.child.wait().expect("ended");
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("the rest of its output");
        status
    }
}

/// One request over a connection of its own; status and body.
fn request(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => (status, unchunked(body)),
        false => (status, body.to_owned()),
    }
}

/// The data of a chunked body.
fn unchunked(body: &str) -> String {
    let (mut rest, mut data) = (body, String::new());
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
        if size == 0 {
            break;
        }
        data.push_str(&tail[..size]);
        rest = tail[size..].trim_start_matches("\r\n");
    }
    data
}

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
