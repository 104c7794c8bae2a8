//! Records, stores with scripted faults, and a shell that drives the sink as the root does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use schemas::codec::{Derived, codec};
use schemas::event::{Alert, ControlTotal, Event, EventHeader, ModelCall, Tick};
use schemas::id::{Sha256, Uuid};
use schemas::record::{PartitionId, Position, Record, SourceRef};
use schemas::text::CleanText;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use crate::parquet::archive::{ArchiveConfig, ArchiveSink, Receipt};
use crate::parquet::store::Store;
use crate::roll::RollPolicy;

/// 2026-11-20T09:00:00Z, milliseconds.
pub const NINE: i64 = 1_795_165_200_000;
/// The partition of [`log`].
pub const CLEAN: PartitionId = PartitionId { topic: Topic::Clean, partition: 3 };

/// A clean record of about `bytes` bytes at `offset`, `at_ms` after [`NINE`].
pub fn event(offset: u64, at_ms: i64, bytes: usize) -> Record {
    let mut h = EventHeader::of_type("model.call");
    h.event_id = Uuid::derive(&[&offset.to_be_bytes()]);
    h.event_time = TimestampMicros::from_ms(NINE + at_ms);
    h.tenant_id = if offset.is_multiple_of(3) { "acme" } else { "globex" }.to_owned();
    h.agent_id = format!("agent-{}", offset % 5);
    h.session_id = Uuid::derive(&[b"session", &(offset / 7).to_be_bytes()]);
    h.ext = [("pad".to_owned(), "x".repeat(bytes))].into();
    let call = ModelCall { h, call_id: format!("call-{offset}"), latency_ms: 12, ..ModelCall::default() };
    record(CLEAN, offset, at_ms, codec().encode::<CleanText>(&Event::ModelCall(call)))
}

/// A tick at `offset`, `at_ms` after [`NINE`].
pub fn tick(offset: u64, at_ms: i64) -> Record {
    let at = TimestampMicros::from_ms(NINE + at_ms);
    let tick = Tick { h: EventHeader::of_type("tick"), at, ..Tick::default() };
    record(CLEAN, offset, at_ms, codec().encode::<CleanText>(&Event::Tick(tick)))
}

/// An alert at `offset`, `at_ms` after [`NINE`].
pub fn alert(offset: u64, at_ms: i64) -> Record {
    let alert = Alert { fingerprint: format!("f{offset}"), tenant_id: "acme".to_owned(), ..Alert::default() };
    let partition = PartitionId { topic: Topic::Alerts, partition: 0 };
    record(partition, offset, at_ms, codec().encode_derived(&Derived::Alert(alert)))
}

/// A control total at `offset`, `at_ms` after [`NINE`].
pub fn control_total(offset: u64, at_ms: i64) -> Record {
    let total =
        ControlTotal { hop: "clean".to_owned(), topic: "custody.clean.v1".to_owned(), ..ControlTotal::default() };
    let partition = PartitionId { topic: Topic::Findings, partition: 0 };
    record(partition, offset, at_ms, codec().encode_derived(&Derived::ControlTotal(total)))
}

/// A record with that value.
pub fn record(partition: PartitionId, offset: u64, at_ms: i64, value: Bytes) -> Record {
    let source = SourceRef { offset: offset + 1_000, sha256: Sha256::of(&offset.to_be_bytes()) };
    Record {
        at: Position { partition, offset },
        timestamp: TimestampMicros::from_ms(NINE + at_ms),
        key: None,
        value: Some(value),
        headers: if partition.topic == Topic::Clean { source.to_headers() } else { Vec::new() },
    }
}

/// Forty events, a tick after every tenth, one second apart; offset 13 is a transaction marker.
pub fn log() -> Vec<Record> {
    let offsets = (0..44u64).filter(|offset| *offset != 13);
    offsets
        .map(|offset| match offset % 11 {
            10 => tick(offset, 1_000 * offset as i64),
            _ => event(offset, 1_000 * offset as i64, 100),
        })
        .collect()
}

/// Objects of ten rows, so that [`log`] makes several.
pub fn config() -> ArchiveConfig {
    ArchiveConfig {
        roll: RollPolicy { rows_max: 10, ..RollPolicy::default() },
        build: "custody/test".to_owned(),
        ..ArchiveConfig::default()
    }
}

/// A sink on the store, with [`config`]. Its self-test has a key of its own, as after any real start: a
/// bucket with object lock keeps the key of an earlier one.
pub async fn open(store: &Store) -> ArchiveSink {
    static STARTS: AtomicU64 = AtomicU64::new(1);
    ArchiveSink::open(store.clone(), config(), STARTS.fetch_add(1, Ordering::Relaxed)).await.unwrap()
}

/// Opens a sink, reads `log` from its position, publishes: what one run of the shell does.
pub async fn run(store: &Store, log: &[Record], is_flushed: bool) -> Vec<Receipt> {
    let mut sink = open(store).await;
    let id = log[0].at.partition;
    let from = sink.position(id).await.unwrap().unwrap_or(0);
    sink.assign(id, from).unwrap();
    sink.push(log).unwrap();
    if is_flushed {
        sink.seal(id).unwrap();
    }
    let mut receipts = Vec::new();
    for (_, done, error) in sink.publish().await {
        assert_eq!(error, None);
        receipts.extend(done);
    }
    receipts
}

/// What happens to one PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It goes through.
    None,
    /// It never reaches the store.
    Refuse,
    /// It goes through but its answer is lost.
    LoseAnswer,
    /// It is refused as if the object existed, which it does not: S3's 409.
    Conflict,
}

/// A store whose PUTs follow a script, then go through; or that ignores conditions.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    script: Mutex<VecDeque<Fault>>,
    honours_create: bool,
    scripts_self_test: bool,
}

impl Faulty {
    /// Over `inner`; the self-test's PUTs always go through.
    pub fn scripted(inner: Arc<dyn ObjectStore>, script: &[Fault]) -> Arc<Self> {
        let script = Mutex::new(script.iter().copied().collect());
        Arc::new(Self { inner, script, honours_create: true, scripts_self_test: false })
    }

    /// As [`Faulty::scripted`], but the self-test's PUTs follow the script as well.
    pub fn scripted_from_start(inner: Arc<dyn ObjectStore>, script: &[Fault]) -> Arc<Self> {
        let script = Mutex::new(script.iter().copied().collect());
        Arc::new(Self { inner, script, honours_create: true, scripts_self_test: true })
    }

    /// Over `inner`, which never sees that a PUT was meant to be create-only.
    pub fn ignoring_conditions(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self { inner, script: Mutex::default(), honours_create: false, scripts_self_test: false })
    }

    /// Faults that have not happened yet.
    pub fn faults_left(&self) -> usize {
        self.script.lock().unwrap().len()
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faulty")
    }
}

fn outage() -> Error {
    Error::Generic { store: "Faulty", source: "scripted outage".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let is_self_test = location.as_ref().starts_with("custody-self-test");
        let is_scripted = self.scripts_self_test || !is_self_test;
        let fault = if is_scripted { self.script.lock().unwrap().pop_front() } else { None };
        if !self.honours_create {
            options.mode = PutMode::Overwrite;
        }
        match fault.unwrap_or(Fault::None) {
            Fault::Refuse => Err(outage()),
            Fault::Conflict => {
                Err(Error::AlreadyExists { path: location.to_string(), source: "scripted conflict".into() })
            }
            Fault::None => self.inner.put_opts(location, payload, options).await,
            Fault::LoseAnswer => {
                self.inner.put_opts(location, payload, options).await?;
                Err(outage())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
