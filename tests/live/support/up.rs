//! A running `custody up`, and requests to it over plain sockets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, ExitStatus, Stdio};

use super::{PATIENCE, custody};

/// A running `custody up`.
pub(crate) struct Up {
    child: Child,
    output: BufReader<ChildStdout>,
    pub(crate) intake: String,
    pub(crate) intake_grpc: String,
    pub(crate) clickhouse: String,
    telemetry: String,
}

/// The address after `http://` in a line, up to a character that none has.
fn address_in(line: &str) -> String {
    let rest = line.split("http://").nth(1).expect("an address");
    rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect()
}

impl Up {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    pub(crate) fn start_with(dir: &Path, environment: &[(&str, &str)]) -> Self {
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
        let line = line_with("intake");
        let intake = address_in(&line);
        // `intake  http://ADDRESS (…), ADDRESS (OTLP/gRPC)`
        let grpc = line.rsplit("), ").next().and_then(|rest| rest.split(' ').next());
        let intake_grpc = grpc.expect("an address for gRPC").to_owned();
        let clickhouse = address_in(&line_with("ClickHouse"));
        let telemetry = address_in(&line_with("metrics"));
        let up = Self { child, output, intake, intake_grpc, clickhouse, telemetry };
        up.until("ready", || up.get("/readyz").0 == 200);
        up
    }

    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        super::until(&mut (), what, |()| holds(), |()| String::new());
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        request(&self.telemetry, "GET", path, "")
    }

    pub(crate) fn send(&self, body: &str) -> (u16, String) {
        request(&self.intake, "POST", "/v1/events", body)
    }

    pub(crate) fn rows(&self, condition: &str) -> String {
        let sql = format!("SELECT count() FROM custody.events WHERE {condition}");
        request(&self.clickhouse, "POST", "/", &sql).1.trim().to_owned()
    }

    /// The sum of a series over its labels that contain `part`.
    pub(crate) fn metric(&self, name: &str, part: &str) -> f64 {
        let text = self.get("/metrics").1;
        let lines = text.lines().filter(|l| l.split(['{', ' ']).next() == Some(name) && l.contains(part));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("signalled");
    }

    pub(crate) fn ended(mut self) -> ExitStatus {
        let status = self.child.wait().expect("ended");
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("the rest of its output");
        status
    }
}

/// One request over a connection of its own; status and body.
pub(crate) fn request(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
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
