//! Counts what the log holds after a run: the truth that every other number is compared with.
//!
//! It reads topics from their start; it does not trust what stages say of themselves.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use ingest::log::{Broker, Log, LogEvent};
use schemas::codec::{Derived, codec};
use schemas::event::{Alert, Event, EventKind};
use schemas::id::Sha256;
use schemas::record::{Record, header, header_value};
use schemas::topic::Topic;
use sha2::Digest;

use crate::dlq;
use crate::sink_table::PUBLISHED;

/// Counts over the topics of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Census {
    /// Records of the events topic, ticks not counted.
    pub accepted: u64,
    /// Records of the clean topic, ticks not counted.
    pub clean: u64,
    /// Dead letters per reason.
    pub rejected: BTreeMap<String, u64>,
    /// Findings per kind, weighted one each.
    pub findings: BTreeMap<String, u64>,
    /// Sum of `count` per kind of finding.
    pub finding_counts: BTreeMap<String, i64>,
    /// `producer_seq` values that no record ever had, by the writers' ledger: holes reported less
    /// holes filled later.
    pub missing: i64,
    /// Newest record of each alert, by fingerprint.
    pub alerts: BTreeMap<String, Alert>,
    /// Events whose type is not in the catalogue.
    pub unknown_types: u64,
    /// SHA-256 over the findings topic: each partition's values in order.
    pub findings_sha256: Sha256,
}

/// Takes the census of a log whose writers are done.
///
/// # Errors
/// The log cannot be read, or a derived record cannot be decoded.
pub async fn take<B: Broker>(broker: &B) -> anyhow::Result<Census> {
    let mut census = Census::default();
    scan(broker, Topic::Events, |r| {
        census.accepted += u64::from(!is_tick(r));
        Ok(())
    })
    .await?;
    scan(broker, Topic::Clean, |r| {
        census.clean += u64::from(!is_tick(r));
        Ok(())
    })
    .await?;
    scan(broker, Topic::Dlq, |r| {
        if dlq::is_resolution(r) {
            return Ok(());
        }
        let reason =
            header_value(&r.headers, header::DLQ_REASON).map_or("unknown".into(), |v| String::from_utf8_lossy(v));
        *census.rejected.entry(reason.into_owned()).or_default() += 1;
        Ok(())
    })
    .await?;
    let mut digests: BTreeMap<u32, sha2::Sha256> = BTreeMap::new();
    scan(broker, Topic::Findings, |r| {
        let value = r.value.as_deref().unwrap_or_default();
        let digest = digests.entry(r.at.partition.partition).or_default();
        digest.update((value.len() as u64).to_be_bytes());
        digest.update(value);
        census.add_finding(&codec().decode_derived(r.value.as_deref())?);
        Ok(())
    })
    .await?;
    let all: Vec<u8> = digests.into_values().flat_map(|d| d.finalize().to_vec()).collect();
    census.findings_sha256 = Sha256::of(&all);
    scan(broker, Topic::Alerts, |r| {
        if let Derived::Alert(alert) = codec().decode_derived(r.value.as_deref())? {
            census.alerts.insert(alert.fingerprint.clone(), alert);
        }
        Ok(())
    })
    .await?;
    Ok(census)
}

/// Records of each published topic that become rows: ticks do not.
///
/// # Errors
/// The log cannot be read.
pub(crate) async fn published<B: Broker>(broker: &B) -> anyhow::Result<BTreeMap<Topic, u64>> {
    let mut counts = BTreeMap::new();
    for topic in PUBLISHED {
        let mut rows = 0;
        scan(broker, topic, |r| {
            rows += u64::from(!is_tick(r));
            Ok(())
        })
        .await?;
        counts.insert(topic, rows);
    }
    Ok(counts)
}

impl Census {
    fn add_finding(&mut self, record: &Derived) {
        let (kind, count) = match record {
            Derived::Event(Event::DetectionRaised(d)) => (d.kind.clone(), d.count),
            Derived::Event(other) => (other.h().event_type.clone(), 1),
            Derived::ControlTotal(_) => ("control_total".to_owned(), 1),
            _ => return,
        };
        if let Derived::Event(Event::DetectionRaised(d)) = record {
            let by_writer = d.detector.contains("writers");
            match d.kind.as_str() {
                "writer_gap" => self.missing += d.count,
                "gap_filled" if by_writer => self.missing -= d.count,
                "unknown_event_type" => self.unknown_types += 1,
                _ => {}
            }
        }
        *self.finding_counts.entry(kind.clone()).or_default() += count;
        *self.findings.entry(kind).or_default() += 1;
    }
}

/// Whether a record is a tick, by the schema fingerprint of its frame.
pub(crate) fn is_tick(record: &Record) -> bool {
    static FRAME: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let schemas = schemas::codec::published_schemas().iter();
        let tick = schemas.filter(|s| s.name == EventKind::Tick.record_name());
        tick.flat_map(|s| [&[0xc3, 0x01][..], &s.fingerprint].concat()).collect()
    });
    record.value.as_deref().is_some_and(|value| value.starts_with(&FRAME))
}

/// Reads a topic from its start to its end.
async fn scan<B: Broker>(
    broker: &B,
    topic: Topic,
    mut visit: impl FnMut(&Record) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // A group per topic: a static member that comes back with another subscription would be given its
    // old assignment.
    let mut log = broker.consumer(&format!("custody-census-{}", topic.name()), topic, "0").await?;
    let mut is_assigned = false;
    loop {
        match log.next().await? {
            LogEvent::Assigned(partitions) => {
                is_assigned = true;
                for (partition, _) in partitions {
                    log.seek(partition, 0).await?;
                }
            }
            LogEvent::Fetched { records, .. } => records.iter().try_for_each(&mut visit)?,
            LogEvent::Idle if is_assigned => break,
            LogEvent::Idle => {}
            LogEvent::Revoked(_) | LogEvent::Lost(_) => {
                anyhow::bail!("another census of this log is running: wait for it to end")
            }
        }
    }
    log.close().await?;
    Ok(())
}
