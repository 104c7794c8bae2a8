//! `custody send`: events as JSON lines, through the client library, to a gateway.
//!
//! Lines are read by the gateway's own reader, so that what is wrong with one is said here with its
//! line number. Numbers are the client's: a line that brings its own is refused.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ingest::agent::client::{Client, ClientConfig, NotTaken, Stats};
use ingest::agent::spool::Fsync;
use ingest::gateway::body::{self, MediaType};
use ingest::gateway::intake::{Arrived, IntakeContext};
use schemas::id::{Sha256, Uuid};
use schemas::limits::EVENT_BYTES_MAX;
use schemas::secret::Secret;

use crate::clock;

/// Longest line that is read: JSON escapes take up to six bytes for one.
const LINE_BYTES_MAX: usize = 6 * EVENT_BYTES_MAX;
/// Event ids that are remembered, to tell a line that is repeated.
const IDS_MAX: usize = 100_000;
/// How often progress is looked at.
const LOOK_MS: u64 = 100;

/// Arguments of `custody send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Files to read; none or `-`: standard input.
    pub files: Vec<PathBuf>,
    /// Base URL of the gateway.
    #[arg(long, env = "CUSTODY_ENDPOINT", default_value = "http://127.0.0.1:4318", value_name = "URL")]
    pub endpoint: String,
    /// File with the API key; without it the key is read from CUSTODY_API_KEY, if that is set.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// PEM file with further certificates to trust.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Tenant of events that name none; it must be the tenant of the key.
    #[arg(long, env = "CUSTODY_TENANT", default_value = "default", value_name = "NAME")]
    pub tenant: String,
    /// Directory that keeps events until the log has them; the next call sends what remains in it.
    #[arg(long, default_value = "custody-spool", value_name = "DIR")]
    pub spool_dir: PathBuf,
    /// Bytes on disk at which reading pauses.
    #[arg(long, default_value_t = 256 << 20, value_name = "BYTES")]
    pub spool_bytes_max: u64,
    /// When events are flushed to the disk: `always`, `never`, or after so many milliseconds.
    #[arg(long, default_value = "50", value_parser = fsync, value_name = "POLICY")]
    pub fsync: Fsync,
    /// Most events of one request.
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub batch_events_max: usize,
    /// Most bytes of one request.
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES")]
    pub batch_bytes_max: usize,
    /// How long a batch that is not full waits for more, milliseconds.
    #[arg(long, default_value_t = 50, value_name = "MS")]
    pub linger_ms: u64,
    /// How long to wait for the gateway once everything is read, milliseconds.
    #[arg(long, default_value_t = 60_000, value_name = "MS")]
    pub drain_timeout_ms: u64,
    /// Print the summary as one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn fsync(text: &str) -> Result<Fsync, String> {
    match text {
        "always" => Ok(Fsync::Always),
        "never" => Ok(Fsync::Never),
        ms => ms.parse().map(Fsync::IntervalMs).map_err(|_| "expected always, never or milliseconds".to_owned()),
    }
}

/// What became of the lines.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
struct Summary {
    /// Events read.
    events: u64,
    /// Events that the log has, those of an earlier call and the client's own heartbeat included.
    acknowledged: u64,
    /// Lines that hold no valid event, and events that the gateway refused.
    refused: u64,
    /// Lines that repeat an event of this call: not sent.
    duplicates: u64,
    /// Events that wait in the spool for the next call.
    waiting: u64,
}

/// Sends; exit status 0 if everything read is acknowledged, 1 if something was refused.
///
/// # Errors
/// The input cannot be read, or events are left in the spool: the message says why and where.
pub fn run(args: &SendArgs) -> anyhow::Result<ExitCode> {
    let client = Client::start(config(args)?)?;
    let refused_before = std::fs::metadata(client.refused_path()).map_or(0, |file| file.len());
    let mut sending = Sending {
        client: &client,
        tenant: &args.tenant,
        seen: Seen::default(),
        summary: Summary::default(),
        bar: progress_bar(),
    };
    let read = sending.files(&args.files);
    let (mut summary, bar) = (sending.summary, sending.bar);
    if read.is_ok() {
        drain(&client, Duration::from_millis(args.drain_timeout_ms), &bar);
    }
    let trouble = client.stats();
    let left = Duration::from_millis(if trouble.spooled_events == 0 { args.drain_timeout_ms } else { 0 });
    let stats = client.close(left).stats;
    bar.finish_and_clear();
    print_refused(&client.refused_path(), refused_before)?;
    summary.acknowledged = stats.acked;
    summary.refused += stats.refused;
    summary.waiting = stats.spooled_events;
    print(&summary, args.json);
    read?;
    anyhow::ensure!(
        summary.waiting == 0,
        "{} events wait in {}: {}; call again to send them",
        summary.waiting,
        args.spool_dir.display(),
        trouble.last_error.as_deref().unwrap_or("the gateway has not answered in time")
    );
    Ok(if summary.refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn config(args: &SendArgs) -> anyhow::Result<ClientConfig> {
    let api_key = match &args.api_key_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Secret::new(text.trim())
        }
        None => Secret::new(std::env::var("CUSTODY_API_KEY").unwrap_or_default()),
    };
    Ok(ClientConfig {
        api_key,
        ca_file: args.ca_file.clone(),
        tenant_id: args.tenant.clone(),
        agent_id: "custody-send".to_owned(),
        batch_events_max: args.batch_events_max,
        batch_bytes_max: args.batch_bytes_max,
        linger_ms: args.linger_ms,
        spool_bytes_max: args.spool_bytes_max,
        fsync: args.fsync,
        // Room is waited for before an event is handed over.
        block_ms_max: 0,
        ..ClientConfig::new(&args.endpoint, &args.spool_dir, clock::now)
    })
}

struct Sending<'a> {
    client: &'a Client,
    tenant: &'a str,
    seen: Seen,
    summary: Summary,
    bar: ProgressBar,
}

impl Sending<'_> {
    fn files(&mut self, files: &[PathBuf]) -> anyhow::Result<()> {
        if files.is_empty() {
            return self.lines("standard input", std::io::stdin().lock());
        }
        for path in files {
            let name = path.display().to_string();
            match name.as_str() {
                "-" => self.lines("standard input", std::io::stdin().lock())?,
                _ => {
                    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
                    self.lines(&name, BufReader::new(file))?;
                }
            }
        }
        Ok(())
    }

    fn lines(&mut self, name: &str, mut input: impl BufRead) -> anyhow::Result<()> {
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let length = read_line(&mut input, &mut line).with_context(|| format!("cannot read {name}"))?;
            if length == 0 {
                break;
            }
            if length > LINE_BYTES_MAX {
                self.refuse(name, number, &format!("{length} bytes, at most {LINE_BYTES_MAX} are read"));
            } else if !line.trim_ascii().is_empty() {
                self.line(name, number, &line)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, name: &str, number: u64, line: &[u8]) -> anyhow::Result<()> {
        let context = IntakeContext { tenant_id: Some(self.tenant), arrived_at: clock::now() };
        match body::parse(MediaType::Json, &[], line, &context) {
            Ok(events) => events.into_iter().try_for_each(|arrived| self.event(name, number, arrived)),
            Err(refusal) => {
                for problem in refusal.problems() {
                    let field = problem.field.as_deref().map(|field| format!(" at {field}")).unwrap_or_default();
                    self.refuse(name, number, &format!("{}{field}: {}", problem.code, problem.detail));
                }
                Ok(())
            }
        }
    }

    fn event(&mut self, name: &str, number: u64, arrived: Arrived) -> anyhow::Result<()> {
        self.summary.events += 1;
        if arrived.numbered {
            self.refuse(name, number, "it brings its own seq and producer numbers: leave them out");
            return Ok(());
        }
        if self.seen.is_repeated(arrived.event.h().event_id, arrived.content_sha256) {
            self.summary.duplicates += 1;
            return Ok(());
        }
        self.wait_for_room()?;
        match self.client.emit(arrived.event) {
            Ok(_) => Ok(()),
            Err(error @ (NotTaken::Full | NotTaken::Spool(_))) => Err(error).context(format!("{name}, line {number}")),
            Err(error) => {
                self.refuse(name, number, &error.to_string());
                Ok(())
            }
        }
    }

    fn wait_for_room(&self) -> anyhow::Result<()> {
        while !self.client.wait_for_room(Duration::from_millis(LOOK_MS)) {
            let stats = self.client.stats();
            show(&self.bar, &stats);
            if let (Some(error), true) = (&stats.last_error, stats.needs_help) {
                anyhow::bail!("{error}");
            }
        }
        Ok(())
    }

    fn refuse(&mut self, name: &str, number: u64, reason: &str) {
        self.summary.refused += 1;
        self.bar.suspend(|| eprintln!("{name}, line {number}: refused: {reason}"));
    }
}

/// Reads a line; of one that is too long only so much is kept that this is seen. Returns its length.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    let most = LINE_BYTES_MAX as u64 + 1;
    let mut length = input.take(most).read_until(b'\n', line)?;
    while length > LINE_BYTES_MAX && line.last() != Some(&b'\n') {
        line.clear();
        let more = input.take(most).read_until(b'\n', line)?;
        if more == 0 {
            break;
        }
        length += more;
    }
    Ok(length)
}

/// The events of this call, as many as are remembered. An event without an id gets one from its
/// content, so that a line which is repeated is known as the gateway would know it.
#[derive(Debug, Default)]
struct Seen {
    digests: BTreeMap<Uuid, Sha256>,
    order: VecDeque<Uuid>,
}

impl Seen {
    fn is_repeated(&mut self, id: Uuid, digest: Sha256) -> bool {
        if let Some(before) = self.digests.get(&id) {
            // The same id over other content is for the gateway to see: both are kept.
            return *before == digest;
        }
        if self.order.len() == IDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.digests.remove(&oldest);
        }
        self.digests.insert(id, digest);
        self.order.push_back(id);
        false
    }
}

/// Waits until nothing is waiting, no longer than `most`, or until waiting is of no use.
fn drain(client: &Client, most: Duration, bar: &ProgressBar) {
    let begun = Instant::now();
    loop {
        let stats = client.stats();
        show(bar, &stats);
        if stats.spooled_events == 0 || stats.needs_help || begun.elapsed() >= most {
            return;
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} acknowledged {msg}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, stats: &Stats) {
    bar.set_position(stats.acked);
    let error = stats.last_error.as_deref().unwrap_or_default();
    bar.set_message(format!("{} waiting {error}", stats.spooled_events));
}

/// Says of each event that the gateway refused in this call why it did.
fn print_refused(path: &Path, from: u64) -> anyhow::Result<()> {
    let Ok(mut file) = File::open(path) else { return Ok(()) };
    file.seek(SeekFrom::Start(from)).with_context(|| format!("cannot read {}", path.display()))?;
    for line in BufReader::new(file).lines() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let text = |name: &str| line[name].as_str().unwrap_or("?").to_owned();
        eprintln!("{} {}: refused: {}: {}", text("event_type"), text("event_id"), text("code"), text("detail"));
    }
    Ok(())
}

fn print(summary: &Summary, json: bool) {
    if json {
        println!("{}", serde_json::json!(summary));
        return;
    }
    println!(
        "{} events read: {} acknowledged with the client's own, {} refused, {} repeated, {} waiting",
        summary.events, summary.acknowledged, summary.refused, summary.duplicates, summary.waiting
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_passed_over_whole() {
        let long = "x".repeat(3 * LINE_BYTES_MAX);
        let text = format!("a\n{long}\nb");
        let mut input = text.as_bytes();
        let mut lengths = Vec::new();
        loop {
            let mut line = Vec::new();
            match read_line(&mut input, &mut line).expect("memory") {
                0 => break,
                length => lengths.push(length),
            }
        }
        assert_eq!(lengths, [2, 3 * LINE_BYTES_MAX + 1, 1]);
    }

    #[test]
    fn a_repeated_event_is_known_and_another_under_its_id_is_not_one() {
        let mut seen = Seen::default();
        let (id, digest) = (Uuid([1; 16]), Sha256([1; 32]));
        assert!(!seen.is_repeated(id, digest));
        assert!(seen.is_repeated(id, digest));
        assert!(!seen.is_repeated(id, Sha256([2; 32])));
    }

    #[test]
    fn policies_are_words_or_milliseconds() {
        assert_eq!(fsync("always"), Ok(Fsync::Always));
        assert_eq!(fsync("never"), Ok(Fsync::Never));
        assert_eq!(fsync("20"), Ok(Fsync::IntervalMs(20)));
        assert!(fsync("sometimes").is_err());
    }
}
