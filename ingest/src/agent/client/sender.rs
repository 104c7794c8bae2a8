//! The sender: one thread that reads the spool, posts batch after batch, and acknowledges.
//!
//! One request is in flight at a time, so that batches cannot overtake each other. `verdict` decides what an
//! answer means; only the gateway's answer removes a batch from the spool.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::refused::RefusedFile;
use super::verdict::{Answer, Refused, Verdict, backoff_ms, judge};
use super::{ClientConfig, ClientError, Phase, Shared, random_u64};
use crate::agent::avro_body;
use crate::agent::spool::SpoolError;
use crate::agent::spool::reader::{Batch, BatchMax, Reader};

/// Most bytes of an answer that are read: a problem lists at most 20 errors.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The HTTP client and the request's address.
#[derive(Debug)]
pub(super) struct Http {
    client: reqwest::Client,
    url: reqwest::Url,
    authorization: Option<reqwest::header::HeaderValue>,
}

/// Sets up what requests need.
pub(super) fn http_client(config: &ClientConfig) -> Result<Http, ClientError> {
    // An application that chose another provider keeps it.
    drop(rustls::crypto::ring::default_provider().install_default());
    let refuse = |what: &str, error: &dyn std::fmt::Display| ClientError::Config(format!("{what}: {error}"));
    let url = format!("{}/v1/events", config.endpoint.trim_end_matches('/'));
    let url = reqwest::Url::parse(&url).map_err(|e| refuse("endpoint", &e))?;
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("custody/", env!("CARGO_PKG_VERSION")))
        .timeout(Duration::from_millis(config.request_timeout_ms))
        // A redirect would send events and the API key to an address that is not configured.
        .redirect(reqwest::redirect::Policy::none());
    if let Some(path) = &config.ca_file {
        let pem = std::fs::read(path).map_err(|e| refuse(&format!("ca_file {}", path.display()), &e))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| refuse("ca_file", &e))?;
        for certificate in certificates {
            builder = builder.add_root_certificate(certificate);
        }
    }
    let client = builder.build().map_err(|e| refuse("http client", &e))?;
    let authorization = if config.api_key.is_empty() {
        None
    } else {
        let value = format!("Bearer {}", config.api_key.expose());
        let mut value = reqwest::header::HeaderValue::from_str(&value)
            .map_err(|_| ClientError::Config("api_key has characters that a header cannot have".to_owned()))?;
        // Keeps the key out of debug output.
        value.set_sensitive(true);
        Some(value)
    };
    Ok(Http { client, url, authorization })
}

/// Starts the thread.
pub(super) fn start(shared: Arc<Shared>, http: Http) -> std::io::Result<JoinHandle<()>> {
    // A runtime of its own on a thread of its own: an agent may have none, and its runtime must not be
    // blocked by a slow disk.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("custody-sender".to_owned()).spawn(move || {
        runtime.block_on(async {
            let sender = Sender::new(&shared, http);
            tokio::select! {
                () = sender.run() => {}
                () = heartbeats(&shared) => {}
            }
        });
        shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_through = true;
        shared.through.notify_all();
    })
}

/// Heartbeats, until the future is dropped. While the spool stays full only the first one is appended: heartbeats
/// may exceed the bound, and later ones would say the same.
async fn heartbeats(shared: &Shared) {
    let period = Duration::from_millis(shared.config.heartbeat_interval_ms);
    if period.is_zero() {
        return std::future::pending().await;
    }
    let mut due = interval_at(Instant::now() + period, period);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_beyond = false;
    loop {
        due.tick().await;
        let is_beyond = shared.queue.lock().spool.is_full();
        if !(was_beyond && is_beyond) {
            shared.beat(false);
        }
        was_beyond = is_beyond;
    }
}

/// A batch, or what is left to send of it.
struct Part {
    records: Vec<(u64, Bytes)>,
    /// When it is done, everything before this index may be acknowledged.
    next: u64,
}

/// A failure of this machine's disk: the caller retries.
type Outcome = Result<(), SpoolError>;

struct Sender<'a> {
    shared: &'a Shared,
    http: Http,
    reader: Reader,
    refused: RefusedFile,
    phase: watch::Receiver<Phase>,
    attempt: u32,
}

impl<'a> Sender<'a> {
    fn new(shared: &'a Shared, http: Http) -> Self {
        let reader = {
            let state = shared.queue.lock();
            // From the first record that is not acknowledged: what was sent before a crash and not
            // acknowledged is sent again, and the gateway recognises it.
            state.spool.reader(state.spool.acked())
        };
        let config = &shared.config;
        let refused = RefusedFile::new(&config.spool_dir, config.spool_bytes_max);
        Self { shared, http, reader, refused, phase: shared.stop.subscribe(), attempt: 0 }
    }

    fn is(&self, phase: Phase) -> bool {
        *self.phase.borrow() >= phase
    }

    async fn run(mut self) {
        while !self.is(Phase::Stop) {
            let batch = match self.batch().await {
                Ok(Some(batch)) => batch,
                Ok(None) => return,
                Err(error) => {
                    self.pause_after(&error).await;
                    continue;
                }
            };
            let damaged: u64 = batch.damage.iter().map(|damage| damage.missing).sum();
            if damaged > 0 {
                self.shared.queue.lock().writer.dropped += damaged;
                tracing::error!(missing = damaged, "the spool is damaged; the damaged bytes were kept aside");
            }
            self.deliver(batch).await;
        }
    }

    /// The next batch: a full one, or what has arrived when the linger time ends. `None`: the sender is to stop.
    async fn batch(&mut self) -> Result<Option<Batch>, SpoolError> {
        loop {
            let next = self.reader.next();
            if let Some((segment, limit)) = self.shared.queue.segment_at(next) {
                self.linger(next).await;
                if self.is(Phase::Stop) {
                    return Ok(None);
                }
                let config = &self.shared.config;
                let max = BatchMax { events: config.batch_events_max, bytes: config.batch_bytes_max };
                // Read again after the wait: more records may have become durable meanwhile.
                let (segment, limit) = self.shared.queue.segment_at(next).unwrap_or((segment, limit));
                let batch = self.reader.read(segment, limit, max)?;
                // Also if the batch has no records: damage moves the position too, and must be acknowledged.
                if batch.next > next {
                    return Ok(Some(batch));
                }
            } else {
                let is_all_read = self.shared.queue.lock().spool.next() <= next;
                if self.is(Phase::Stop) || (self.is(Phase::Drain) && is_all_read) {
                    return Ok(None);
                }
            }
            let next = self.reader.next();
            tokio::select! {
                () = self.shared.queue.readable(next) => {}
                _ = self.phase.changed() => {}
            }
        }
    }

    /// Waits until a batch that begins with `first` is full, for as long as it may, unless the client
    /// is closing.
    async fn linger(&mut self, first: u64) {
        let config = &self.shared.config;
        let last = first + config.batch_events_max as u64 - 1;
        let full_bytes = config.batch_bytes_max as u64;
        if self.is(Phase::Drain) || config.linger_ms == 0 {
            return;
        }
        let mut phase = self.phase.clone();
        let full = async {
            tokio::select! {
                () = self.shared.queue.readable_or_bytes(last, full_bytes) => {}
                _ = phase.changed() => {}
            }
        };
        // A timeout is no error: the batch is sent with the events that have arrived.
        drop(timeout(Duration::from_millis(config.linger_ms), full).await);
    }

    /// Sends a batch until every event in it is acknowledged or set aside, or the client stops.
    async fn deliver(&mut self, batch: Batch) {
        let mut parts = VecDeque::from([Part { records: batch.records, next: batch.next }]);
        while let Some(part) = parts.pop_front() {
            // All of its events were set aside: its place in the spool must still be acknowledged, or
            // the spool would never shrink.
            if part.records.is_empty() {
                self.acknowledge(part.next).await;
                continue;
            }
            let Some(verdict) = self.post(&part.records).await else { return };
            match self.apply(verdict, part).await {
                // In front of the later parts: events of a session must reach the log in their order.
                Some(left) => left.into_iter().rev().for_each(|part| parts.push_front(part)),
                None => return,
            }
        }
    }

    /// What is left to send of a part. `None`: the client stops.
    async fn apply(&mut self, verdict: Verdict, part: Part) -> Option<Vec<Part>> {
        match verdict {
            Verdict::Taken => {
                // A crash here sends the batch again: the log has it, the spool does not know.
                fail::fail_point!("send.acknowledged");
                self.attempt = 0;
                self.shared.counters.acked.fetch_add(part.records.len() as u64, Ordering::Relaxed);
                self.shared.set_trouble(None, false);
                self.acknowledge(part.next).await;
                Some(Vec::new())
            }
            Verdict::Again { retry_after_ms, reason, needs_help } => {
                self.again(retry_after_ms, reason, needs_help).await.then(|| vec![part])
            }
            Verdict::Refused(refused) => match self.set_aside(&refused, part) {
                Ok(left) => Some(vec![left]),
                Err((error, part)) => {
                    self.pause_after(&error).await;
                    (!self.is(Phase::Stop)).then(|| vec![part])
                }
            },
            Verdict::Split => Some(split(part)),
        }
    }

    fn set_aside(&mut self, refused: &[Refused], mut part: Part) -> Result<Part, (SpoolError, Part)> {
        let named = refused.iter().filter_map(|why| Some((why, &part.records.get(why.index)?.1)));
        // Written before the events leave the batch: a refused event must be in the file or in the spool, at
        // every moment.
        if let Err(error) = self.refused.add(named) {
            return Err((error, part));
        }
        let mut index = 0;
        part.records.retain(|_| {
            index += 1;
            !refused.iter().any(|why| why.index == index - 1)
        });
        self.shared.counters.refused.fetch_add(refused.len() as u64, Ordering::Relaxed);
        tracing::error!(
            count = refused.len(),
            code = refused[0].code,
            "the gateway refuses events; they are set aside"
        );
        self.attempt = 0;
        Ok(part)
    }

    /// Acknowledges, and deletes segments that neither the gateway nor the sessions need any more.
    async fn acknowledge(&mut self, next: u64) {
        loop {
            let outcome = self.try_acknowledge(next);
            match outcome {
                Err(error) if !self.is(Phase::Stop) => self.pause_after(&error).await,
                _ => return,
            }
        }
    }

    fn try_acknowledge(&self, next: u64) -> Outcome {
        let is_trimmable = {
            let mut state = self.shared.queue.lock();
            state.spool.ack(next)?;
            state.spool.is_trimmable()
        };
        if is_trimmable {
            match self.shared.save() {
                // Segments are deleted only up to where the stored sessions have read: a session's numbers are
                // restored from the spool after that point.
                Ok(keep_from) => drop(self.shared.queue.trim(keep_from)?),
                Err(ClientError::Spool(error)) => return Err(error),
                Err(error) => tracing::error!(%error, "the spool cannot delete acknowledged segments"),
            }
        }
        Ok(())
    }

    async fn pause_after(&mut self, error: &SpoolError) {
        self.again(None, error.to_string(), true).await;
    }

    /// Counts a failure and waits. `false`: the client stops.
    async fn again(&mut self, retry_after_ms: Option<u64>, reason: String, needs_help: bool) -> bool {
        self.attempt = self.attempt.saturating_add(1);
        self.shared.counters.retries.fetch_add(1, Ordering::Relaxed);
        // One warning per outage; `Stats` has the last reason.
        if self.attempt == 1 {
            tracing::warn!(%reason, "events stay in the spool until the gateway accepts them");
        }
        self.shared.set_trouble(Some(reason), needs_help);
        let config = &self.shared.config;
        let bounds = (config.backoff_ms_min, config.backoff_ms_max);
        let wait = Duration::from_millis(backoff_ms(self.attempt, retry_after_ms, bounds, random_u64()));
        // A change of phase ends the wait: a client that is closing retries at once, because the process may not
        // live as long as the back-off.
        let before = *self.phase.borrow();
        let mut phase = self.phase.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = phase.wait_for(|phase| *phase > before) => {}
        }
        !self.is(Phase::Stop)
    }

    /// Posts a batch. `None`: the client stops, and the outcome of the request is unknown.
    async fn post(&mut self, records: &[(u64, Bytes)]) -> Option<Verdict> {
        self.shared.counters.requests.fetch_add(1, Ordering::Relaxed);
        let mut phase = self.phase.clone();
        tokio::select! {
            verdict = self.exchange(records) => Some(verdict),
            _ = phase.wait_for(|phase| *phase == Phase::Stop) => None,
        }
    }

    async fn exchange(&self, records: &[(u64, Bytes)]) -> Verdict {
        let config = &self.shared.config;
        let mut request = self.http.client.post(self.http.url.clone()).header(CONTENT_TYPE, avro_body::MEDIA_TYPE);
        if let Some(authorization) = &self.http.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let body = body(records);
        request = if config.gzip {
            request.header(CONTENT_ENCODING, "gzip").body(compressed(&body))
        } else {
            request.body(body)
        };
        let failed = |error: reqwest::Error| Verdict::Again {
            retry_after_ms: None,
            reason: cause(&error),
            needs_help: error.is_builder(),
        };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return failed(error),
        };
        let status = response.status().as_u16();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (content_type, retry_after) = (header(CONTENT_TYPE).unwrap_or_default(), header(RETRY_AFTER));
        let body = match status {
            // The body is not needed, and a connection that breaks while it is read must not send the batch
            // again.
            202 => Vec::new(),
            _ => match bounded_body(response).await {
                Ok(body) => body,
                Err(error) => return failed(error),
            },
        };
        let answer = Answer { status, content_type: &content_type, retry_after: retry_after.as_deref(), body: &body };
        judge(&answer, records.len(), (config.clock)())
    }
}

fn split(mut part: Part) -> Vec<Part> {
    // Halves, until the event at fault is alone: a gateway that refuses a batch as too large does not say
    // which event is.
    let second = part.records.split_off(part.records.len() / 2);
    let first_next = second.first().map_or(part.next, |(index, _)| *index);
    vec![Part { next: first_next, ..part }, Part { records: second, next: part.next }]
}

fn body(records: &[(u64, Bytes)]) -> Vec<u8> {
    let mut body = Vec::with_capacity(records.iter().map(|(_, record)| avro_body::len(record)).sum());
    records.iter().for_each(|(_, record)| avro_body::put(record, &mut body));
    body
}

fn compressed(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
    // Writing to memory does not fail.
    drop(encoder.write_all(body));
    encoder.finish().unwrap_or_default()
}

async fn bounded_body(mut response: reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - body.len())]);
        if body.len() == ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(body)
}

/// The error and its causes, without the URL, which the operator has configured and knows.
fn cause(error: &reqwest::Error) -> String {
    let mut text = "the gateway cannot be reached".to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
