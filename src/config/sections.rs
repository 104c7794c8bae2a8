//! The sections of the configuration that belong to this package, as plain data.
//!
//! Meaning, unit and default of every key stand in `default.toml`, which `config print --default`
//! shows; a test keeps it equal to these types. Nothing here reads a file or checks one key against
//! another.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ingest::log::kafka::GroupProtocol;
use processors::anomaly::{FeaturesConfig, ScoreConfig};
use processors::pii::{Policy, PolicySet};
use schemas::secret::Secret;
use serde::{Deserialize, Serialize};
use sinks::clickhouse::insert::LoadConfig;
use sinks::parquet::archive::ArchiveConfig;
use sinks::roll::RollPolicy;

use super::passthrough::Settings;

/// `[log]`: where the log is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// `local` or `kafka://HOST:PORT,…`.
    pub url: String,
    /// Put before every topic, group and transactional id.
    pub namespace: String,
    /// Partitions of the events topic.
    pub partitions: u32,
    /// Generation of the topics.
    pub generation: u32,
    /// Protocol of the consumer groups.
    pub group_protocol: GroupProtocol,
    /// librdkafka settings.
    pub librdkafka: Settings,
    /// librdkafka settings whose values stand in files.
    pub librdkafka_file: Settings,
    /// File with the token of the mechanism OAUTHBEARER; empty for none.
    pub oauth_token_file: PathBuf,
    /// Settings of topics that are made.
    pub topic: Settings,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            url: "local".to_owned(),
            namespace: String::new(),
            partitions: 4,
            generation: 1,
            group_protocol: GroupProtocol::default(),
            librdkafka: Settings::default(),
            librdkafka_file: Settings::default(),
            oauth_token_file: PathBuf::new(),
            topic: Settings::default(),
        }
    }
}

/// Where `log.url` points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogUrl {
    /// Embedded in this process.
    Local,
    /// Brokers, `host:port`, comma-separated.
    Kafka(String),
}

impl LogSection {
    /// Where the log is; `None` if `url` is neither form.
    pub fn place(&self) -> Option<LogUrl> {
        match self.url.strip_prefix("kafka://") {
            Some(hosts) if !hosts.is_empty() => Some(LogUrl::Kafka(hosts.to_owned())),
            None if self.url == "local" => Some(LogUrl::Local),
            _ => None,
        }
    }
}

/// `[clickhouse]`: where rows go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClickHouseSection {
    /// HTTP interface; empty for the embedded engine.
    pub url: String,
    /// Port of the embedded engine; 0 for a free one.
    pub port: u16,
    /// Database.
    pub database: String,
    /// User; empty for the server's default.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// File that holds the password; empty for none.
    pub password_file: PathBuf,
    /// Certificate authorities beside the system's, PEM; empty for none.
    pub ca_file: PathBuf,
    /// Longest time of a whole request.
    pub request_timeout_ms: u64,
}

impl Default for ClickHouseSection {
    fn default() -> Self {
        Self {
            url: String::new(),
            port: 8123,
            database: "custody".to_owned(),
            user: String::new(),
            password: Secret::default(),
            password_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            request_timeout_ms: 60_000,
        }
    }
}

/// What happens to events of a tenant without a policy of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OtherTenants {
    /// The default policy is theirs.
    #[default]
    Default,
    /// Their events become dead letters.
    Refuse,
}

/// `[pii]`: keys and policies.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PiiSection {
    /// File of the 32 bytes that tokens derive from; empty for `pii.key` in the data directory.
    pub keys_file: PathBuf,
    /// Tenants without a policy.
    pub tenants_without_policy: OtherTenants,
    /// The default policy.
    pub default: Policy,
    /// Policies by tenant id.
    pub tenants: BTreeMap<String, Policy>,
}

impl PiiSection {
    /// The policies as the stage takes them.
    pub fn policies(&self) -> PolicySet {
        let default = (self.tenants_without_policy == OtherTenants::Default).then(|| self.default.clone());
        PolicySet { default, tenants: self.tenants.clone() }
    }
}

/// `[anomaly]`: what is unusual.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnomalySection {
    /// Of the stage `features`.
    pub features: FeaturesConfig,
    /// Of the stage `score`; its windows are those of `features`.
    pub score: ScoreConfig,
}

impl AnomalySection {
    /// Settings of the stage `features`, for so many partitions of the clean topic.
    pub fn features(&self, source_partitions: u32) -> FeaturesConfig {
        FeaturesConfig { source_partitions, ..self.features.clone() }
    }

    /// Settings of the stage `score`.
    pub fn score(&self) -> ScoreConfig {
        ScoreConfig { window_ms: self.features.window_ms, ..self.score.clone() }
    }
}

/// `[archive]`: how files are cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArchiveSection {
    /// Log time that a row waits at most.
    pub flush_interval_ms: i64,
    /// Bytes of values of a file.
    pub file_bytes_max: u64,
    /// Rows of a file.
    pub rows_max: u64,
    /// Encoded bytes of a row group.
    pub row_group_bytes_max: usize,
}

impl Default for ArchiveSection {
    fn default() -> Self {
        let ArchiveConfig { roll, row_group_bytes_max, .. } = ArchiveConfig::default();
        Self {
            flush_interval_ms: roll.flush_interval_ms,
            file_bytes_max: roll.file_bytes_max,
            rows_max: roll.rows_max,
            row_group_bytes_max,
        }
    }
}

impl ArchiveSection {
    /// Settings of the sink.
    pub fn sink(&self) -> ArchiveConfig {
        let Self { flush_interval_ms, file_bytes_max, rows_max, row_group_bytes_max } = *self;
        let roll = RollPolicy { flush_interval_ms, file_bytes_max, rows_max };
        ArchiveConfig { roll, row_group_bytes_max, ..ArchiveConfig::default() }
    }
}

/// `[load]`: how rows are batched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadSection {
    /// Time that a row waits at most.
    pub flush_interval_ms: i64,
    /// Rows of an insert.
    pub rows_max: u64,
    /// Bytes of values of an insert.
    pub bytes_max: u64,
}

impl Default for LoadSection {
    fn default() -> Self {
        // Three topics of many partitions may be in hand at once: below the sink's own bounds.
        Self { flush_interval_ms: 500, rows_max: 50_000, bytes_max: 16 << 20 }
    }
}

impl LoadSection {
    /// Settings of the sink.
    pub fn sink(&self) -> LoadConfig {
        LoadConfig { rows_max: self.rows_max, bytes_max: self.bytes_max }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// `[telemetry]`: what the process tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySection {
    /// Address of probes and metrics.
    pub listen: String,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Filter of log lines.
    pub log_filter: String,
    /// OTLP/HTTP endpoint of our own traces; empty for none.
    pub otlp_endpoint: String,
    /// How often the ends of the partitions are asked for.
    pub lag_interval_ms: u64,
}

impl Default for TelemetrySection {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9464".to_owned(),
            log_format: LogFormat::Text,
            log_filter: "info,fjall=warn,lsm_tree=warn".to_owned(),
            otlp_endpoint: String::new(),
            lag_interval_ms: 5_000,
        }
    }
}

/// `[lifecycle]`: how the process ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LifecycleSection {
    /// From the signal to the end at most.
    pub drain_timeout_ms: u64,
}

impl Default for LifecycleSection {
    fn default() -> Self {
        Self { drain_timeout_ms: 25_000 }
    }
}
