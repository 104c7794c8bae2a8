//! What an installation is like, by its seed: partitions, holes among offsets, how files and batches are
//! cut. What goes wrong in it is `chaos`'s business.

use processors::anomaly::ScoreConfig;
use sinks::clickhouse::insert::LoadConfig;
use sinks::parquet::archive::ArchiveConfig;
use sinks::roll::RollPolicy;

use crate::demo::settings;
use crate::stage_table::StageSettings;

/// Longest that rows wait by the clock where it cuts, in simulated time: a few rounds of intake.
const CLOCK_FLUSH_MS: i64 = 30;

/// The settings of one installation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) seed: u64,
    /// Partitions of the events topic.
    pub(super) partitions: u32,
    /// Whether transactions leave no holes among offsets: even seeds. Kafka leaves them.
    pub(super) is_dense: bool,
    /// How long rows of topics without ticks wait before the clock cuts a file, as in the services;
    /// `None` where log time alone cuts, so that equal logs give equal files.
    pub(super) clock_flush_ms: Option<i64>,
    /// How long a batch waits for ClickHouse.
    pub(super) load_flush_ms: i64,
    pub(super) archive_rows_max: u64,
    pub(super) archive_flush_ms: i64,
}

impl Setup {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            seed,
            // Few, so that re-keyed topics mix two or three sources and runs stay short.
            partitions: rng.u32(1..=3),
            is_dense: seed.is_multiple_of(2),
            clock_flush_ms: rng.bool().then_some(CLOCK_FLUSH_MS),
            // At once, by the clock, and only when full: the three ways in which a batch ends.
            load_flush_ms: [0, CLOCK_FLUSH_MS, i64::MAX][rng.usize(..3)],
            archive_rows_max: [100, 1_000_000][rng.usize(..2)],
            archive_flush_ms: [2_400_000, 3_600_000][rng.usize(..2)],
        }
    }

    /// Small files, cut by rows, by log time or at the end.
    pub(super) fn archive(&self) -> ArchiveConfig {
        let roll = RollPolicy {
            rows_max: self.archive_rows_max,
            flush_interval_ms: self.archive_flush_ms,
            ..RollPolicy::default()
        };
        ArchiveConfig { roll, build: "custody/simulation".to_owned(), ..ArchiveConfig::default() }
    }

    /// Every stage: settings as in the demo, but a score that is sensitive, so that a small fleet too gives alerts.
    pub(super) fn stages(&self) -> StageSettings {
        let score =
            ScoreConfig { silence_windows_min: 20, failures_min: 2.0, baseline_windows_min: 5, ..settings::score() };
        StageSettings { score, ..settings::stages(self.seed, self.partitions) }
    }

    /// Small batches.
    pub(super) fn load(&self) -> LoadConfig {
        LoadConfig { rows_max: 70, bytes_max: 1 << 20 }
    }
}
