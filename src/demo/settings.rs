//! What the demo sets for the stages: log time that spans hours in seconds, keys from the seed.
//!
//! Only values; production roles take theirs from configuration.

use processors::anomaly::{FeaturesConfig, ScoreConfig};
use processors::completeness::{CompletenessConfig, WritersConfig};
use processors::pii::{PiiConfig, PolicySet, TokenKeys};
use schemas::id::Sha256;
use schemas::time::TimestampMicros;
use sinks::clickhouse::insert::LoadConfig;
use sinks::parquet::archive::ArchiveConfig;
use sinks::roll::RollPolicy;

use crate::fleet::faults::LATE_MS;
use crate::fleet::stream::StreamConfig;
use crate::stage_table::StageSettings;

/// Partitions of every topic.
pub(crate) const PARTITIONS: u32 = 4;
/// Log time of the first session: Monday 2026-01-12 09:00 UTC.
const START: TimestampMicros = TimestampMicros::from_ms(1_768_208_400_000);
/// Sessions begin within three hours.
const SPAN_MS: i64 = 3 * 3_600_000;
/// A batch of rows waits at most so long for ClickHouse.
pub(crate) const LOAD_FLUSH_INTERVAL_MS: i64 = 1_000;
/// A writer sends a heartbeat so often.
const HEARTBEAT_MS: i64 = 300_000;
/// A missing number is reported after this long: the late batch (8 minutes) is late, not missing.
const GRACE_MS: i64 = LATE_MS + 7 * 60_000;

/// The stream of a demo.
pub(crate) fn stream(seed: u64, scale: usize) -> StreamConfig {
    StreamConfig {
        seed,
        scale,
        partitions: PARTITIONS,
        start: START,
        span_ms: SPAN_MS,
        tick_interval_ms: 30_000,
        heartbeat_interval_ms: HEARTBEAT_MS,
        trail_ms: 2 * 3_600_000,
    }
}

/// The stream of one copy of a fleet over so many partitions.
pub(crate) fn stream_of(seed: u64, partitions: u32) -> StreamConfig {
    StreamConfig { partitions, ..stream(seed, 1) }
}

/// Every stage over so many partitions.
pub(crate) fn stages(seed: u64, source_partitions: u32) -> StageSettings {
    StageSettings {
        pii: Some(pii(seed)),
        completeness: CompletenessConfig { source_partitions, ..completeness() },
        features: FeaturesConfig { source_partitions, ..features() },
        writers: writers(),
        score: score(),
    }
}

/// Stage `pii`: the default policy; keys from the seed, so that two runs give the same tokens.
fn pii(seed: u64) -> PiiConfig {
    let master = Sha256::of(format!("custody demo tokens {seed}").as_bytes());
    PiiConfig { keys: TokenKeys::new(master.0), policies: PolicySet::default() }
}

/// Stage `completeness`.
pub(crate) fn completeness() -> CompletenessConfig {
    CompletenessConfig {
        source_partitions: PARTITIONS,
        gap_grace_ms: GRACE_MS,
        session_timeout_ms: 2 * GRACE_MS,
        // Nothing arrives later than the late batch; a day of log time would be all of it.
        retention_ms: 2 * GRACE_MS,
        ..CompletenessConfig::default()
    }
}

/// Stage `writers`.
pub(crate) fn writers() -> WritersConfig {
    WritersConfig { writer_grace_ms: GRACE_MS, heartbeat_interval_ms: HEARTBEAT_MS, ..WritersConfig::default() }
}

/// Stage `features`.
pub(crate) fn features() -> FeaturesConfig {
    FeaturesConfig { source_partitions: PARTITIONS, ..FeaturesConfig::default() }
}

/// Stage `score`.
pub(crate) fn score() -> ScoreConfig {
    // The fleet stops on purpose two hours before the last tick; only a longer silence is news.
    ScoreConfig { silence_windows_min: 180, ..ScoreConfig::default() }
}

/// The archive: an hour of log time to a file, so that the demo's files are few and readable.
pub(crate) fn archive() -> ArchiveConfig {
    let roll = RollPolicy { flush_interval_ms: 3_600_000, file_bytes_max: 32 << 20, ..RollPolicy::default() };
    ArchiveConfig { roll, row_group_bytes_max: 4 << 20, ..ArchiveConfig::default() }
}

/// The loader: four partitions of three topics in hand at once stay within 512 MiB.
pub(crate) fn load() -> LoadConfig {
    LoadConfig { rows_max: 20_000, bytes_max: 8 << 20 }
}
