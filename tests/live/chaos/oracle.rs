//! What must hold: the records of the log against the archive against the tables.
//!
//! The log is read from outside any group, the archive by its manifests, the tables by SQL.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ingest::log::kafka::{KafkaBroker, KafkaConfig};
use ingest::log::{Broker as _, ErrorClass, LogError};
use schemas::codec::{Derived, codec};
use schemas::event::RawEvent;
use schemas::record::{PartitionId, Record};
use schemas::topic::Topic;
use sinks::parquet::read;
use sinks::parquet::store::Store;
use sinks::parquet::store::config::StoreConfig;
use tokio::runtime::Runtime;

use crate::support::installation::Installation;
use crate::support::until;

/// Ids whose places a failure names.
const PLACES: usize = 20;
/// Partitions of the events topic, and so of the clean one.
const PARTITIONS: u32 = 2;

/// Ids of the log's records by agent, sorted; one that came twice is there twice.
pub(crate) type Records = BTreeMap<String, Vec<String>>;

/// Reads the log and the archive.
pub(crate) struct Oracle {
    runtime: Runtime,
    broker: KafkaBroker,
    store: Store,
    /// Next offset of the events topic by partition.
    raw_next: [u64; PARTITIONS as usize],
}

fn id(topic: Topic, partition: u32) -> PartitionId {
    PartitionId { topic, partition }
}

fn event_id(topic: Topic, record: &Record) -> String {
    let value = record.value.as_deref();
    if topic == Topic::Events {
        let event: RawEvent = codec().decode(value).expect("an event");
        return event.h().event_id.to_string();
    }
    match codec().decode_derived(value) {
        Ok(Derived::Event(event)) => event.h().event_id.to_string(),
        other => panic!("{:?} is no event: {other:?}", record.at),
    }
}

fn is_tick(record: &Record) -> bool {
    matches!(codec().decode_derived(record.value.as_deref()), Ok(Derived::Event(event)) if event.is_tick())
}

impl Oracle {
    pub(crate) fn new(installation: &Installation, s3: &str) -> Self {
        // Fails only if there is one already.
        let _present = rustls::crypto::ring::default_provider().install_default();
        let runtime = Runtime::new().expect("a runtime");
        let (broker, store) = runtime.block_on(async {
            let (bootstrap, namespace) = (installation.kafka.clone(), installation.namespace.clone());
            let broker = KafkaBroker::new(KafkaConfig { bootstrap, namespace, ..KafkaConfig::default() });
            let (url, endpoint) = (installation.bucket(), s3.to_owned());
            let store = Store::open(&StoreConfig { url, endpoint, allow_http: true, ..StoreConfig::default() });
            (broker.expect("a broker"), store.expect("a store"))
        });
        Self { runtime, broker, store, raw_next: [0; PARTITIONS as usize] }
    }

    /// Adds the records that came into the log since the last call; ticks are no records.
    pub(crate) fn read_raw(&mut self, found: &mut Records) {
        for partition in 0..PARTITIONS {
            loop {
                let (records, after) = self.read(id(Topic::Events, partition), self.raw_next[partition as usize]);
                self.raw_next[partition as usize] = after;
                if records.is_empty() {
                    break;
                }
                for record in records {
                    let event: RawEvent = codec().decode(record.value.as_deref()).expect("an event");
                    if !event.is_tick() {
                        let h = event.h();
                        found.entry(h.agent_id.clone()).or_default().push(h.event_id.to_string());
                    }
                }
            }
        }
        found.values_mut().for_each(|ids| ids.sort());
    }

    /// Records from `offset` on; a partition whose leader has just changed is asked again.
    fn read(&self, partition: PartitionId, offset: u64) -> (Vec<Record>, u64) {
        let mut answer = self.runtime.block_on(self.broker.read(partition, offset));
        until(
            &mut answer,
            "read",
            |answer| {
                let passes = matches!(answer, Err(error) if matches!(error.class, ErrorClass::Retry { .. }));
                if passes {
                    *answer = self.runtime.block_on(self.broker.read(partition, offset));
                }
                !passes
            },
            |answer| format!("{answer:?}"),
        );
        answer.expect("a log that can be read")
    }

    /// Ids of an agent's rows, sorted.
    pub(crate) fn loaded(&self, installation: &Installation, agent: &str) -> Vec<String> {
        let sql = format!("SELECT toString(event_id) FROM custody.events WHERE agent_id = '{agent}' ORDER BY 1");
        lines(&installation.value(&sql))
    }

    /// Where the ids of an agent are that are not in the tables as often as in `ids`: for a failure's message.
    pub(crate) fn places(&self, installation: &Installation, agent: &str, ids: &[String]) -> String {
        let loaded = self.loaded(installation, agent);
        let times = |of: &[String], id: &String| of.iter().filter(|other| *other == id).count();
        let mut wrong: Vec<&String> =
            ids.iter().chain(&loaded).filter(|id| times(ids, id) != times(&loaded, id)).collect();
        wrong.sort();
        wrong.dedup();
        let (raw, clean) = (self.all(Topic::Events), self.all(Topic::Clean));
        let mut text = format!("{} records were read, {} rows are there\n", ids.len(), loaded.len());
        for id in wrong.into_iter().take(PLACES) {
            let at = |records: &[(String, String)]| -> Vec<String> {
                records.iter().filter(|(other, _)| other == id).map(|(_, at)| at.clone()).collect()
            };
            let rows = installation.value(&format!(
                "SELECT src_partition, src_offset, _part FROM custody.events WHERE event_id = '{id}' ORDER BY 1, 2"
            ));
            // Writing to memory does not fail.
            let _written = writeln!(text, "{id}: raw {:?}, clean {:?}, rows {:?}", at(&raw), at(&clean), lines(&rows));
        }
        text
    }

    /// Every event's id and place.
    fn all(&self, topic: Topic) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for partition in 0..PARTITIONS {
            let mut next = 0;
            loop {
                let (records, after) = self.read(id(topic, partition), next);
                next = after;
                if records.is_empty() {
                    break;
                }
                for record in records {
                    found.push((event_id(topic, &record), format!("{partition}:{}", record.at.offset)));
                }
            }
        }
        found
    }

    /// Whether nothing but ticks is left of the events to be published.
    pub(crate) fn is_archived(&self) -> bool {
        self.is_at_end("custody-archive", Topic::Clean, &self.ends(Topic::Clean), 0)
    }

    /// Whether nothing but ticks is left of the events to be loaded.
    pub(crate) fn is_loaded(&self) -> bool {
        self.is_at_end("custody-load", Topic::Clean, &self.ends(Topic::Clean), 0)
    }

    /// Where the partitions of a topic end now; a partition whose leader has just changed is asked again.
    pub(crate) fn ends(&self, topic: Topic) -> Vec<u64> {
        let mut answer = Ok(Vec::new());
        let is_told = |answer: &mut Result<Vec<u64>, LogError>| {
            *answer = self.runtime.block_on(async {
                let mut ends = Vec::new();
                for partition in 0..self.broker.partitions(topic).await? {
                    ends.push(self.broker.bounds(id(topic, partition)).await?.end);
                }
                Ok(ends)
            });
            answer.is_ok()
        };
        until(&mut answer, "told where a topic ends", is_told, |answer| format!("{answer:?}"));
        answer.unwrap_or_default()
    }

    /// Whether a group has committed everything before these ends but ticks and, at each, records that came
    /// within `open_ms`: a file of the archive is open until a later one cuts it.
    pub(crate) fn is_at_end(&self, group: &str, topic: Topic, ends: &[u64], open_ms: i64) -> bool {
        (0..).zip(ends).all(|(partition, end)| {
            let partition = id(topic, partition);
            self.runtime.block_on(async {
                // A coordinator that has just moved does not answer at once.
                let Ok(committed) = self.broker.committed(group, partition).await else { return false };
                let next = committed.map_or(0, |committed| committed.next);
                let Ok((records, _)) = self.broker.read(partition, next).await else { return false };
                let left = records.iter().take_while(|record| record.at.offset < *end);
                let mut left = left.filter(|record| !is_tick(record)).map(|record| record.timestamp.ms());
                let Some(first) = left.next() else { return true };
                left.last().unwrap_or(first) - first < open_ms
            })
        })
    }

    /// How rows of the archive and of the tables differ, by place and id; `None` if they do not. The gateway
    /// may write an event of its own at any time, which one of the two has first.
    pub(crate) fn difference(&self, installation: &Installation) -> Option<String> {
        let mut archived = self.runtime.block_on(async {
            let mut rows = Vec::new();
            for manifest in read::manifests(&self.store, &[Topic::Clean]).await.expect("manifests") {
                for row in read::rows(&self.store, &manifest).await.expect("an object") {
                    let (_, record) = row.expect("a row");
                    let Ok(Derived::Event(event)) = codec().decode_derived(record.value.as_deref()) else {
                        panic!("{:?} is no event", record.at)
                    };
                    rows.push(format!(
                        "{}\t{}\t{}",
                        record.at.partition.partition,
                        record.at.offset,
                        event.h().event_id
                    ));
                }
            }
            rows
        });
        archived.sort();
        let sql = "SELECT src_partition, src_offset, toString(event_id) FROM custody.events";
        let mut loaded = lines(&installation.value(sql));
        loaded.sort();
        let differs = archived.iter().zip(&loaded).find(|(a, l)| a != l);
        let doubled = installation.value("SELECT count() - uniqExact(finding_id) FROM custody.findings");
        assert_eq!(doubled, "0", "findings that are there twice");
        let (archived_len, loaded_len) = (archived.len(), loaded.len());
        (archived != loaded)
            .then(|| format!("{archived_len} archived, {loaded_len} loaded, first difference {differs:?}"))
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}
