//! The configuration: defaults, a TOML file, environment variables and the command line, in this order.
//!
//! A key that nobody knows is an error that names its place and the nearest known key; a value that
//! is a secret prints as asterisks. What a setting does is not decided here: `services` hands each
//! section to the part that it belongs to.

mod keys;
mod load;
mod passthrough;
mod print;
mod role;
mod schemas;
mod sections;
mod validate;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use ingest::gateway::GatewayConfig;
use processors::completeness::{CompletenessConfig, WritersConfig};
use serde::{Deserialize, Serialize};
use sinks::alerts::config::AlertConfig;
use sinks::parquet::store::StoreConfig;

pub use self::load::{ConfigArgs, ConfigError, Loaded};
pub use self::passthrough::{Settings, is_secret};
pub use self::role::{ROLES, Role, RoleInfo};
pub use self::schemas::{RegistrySection, SchemasSection};
pub use self::sections::{
    AnomalySection, ArchiveSection, ClickHouseSection, LifecycleSection, LoadSection, LogFormat, LogSection, LogUrl,
    OtherTenants, PiiSection, TelemetrySection,
};

/// Every key with its default and what it means.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// All settings of a process. Sections of other crates keep their own types.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where everything local lives.
    pub data_dir: PathBuf,
    /// Name of this instance; empty for the host's name.
    pub instance: String,
    /// The log.
    pub log: LogSection,
    /// Schemas of records that others write.
    pub schemas: SchemasSection,
    /// The object store.
    pub store: StoreConfig,
    /// ClickHouse.
    pub clickhouse: ClickHouseSection,
    /// Intake.
    pub gateway: GatewayConfig,
    /// Stage `pii`.
    pub pii: PiiSection,
    /// Stage `completeness`.
    pub completeness: CompletenessConfig,
    /// Stage `writers`.
    pub writers: WritersConfig,
    /// Stages `features` and `score`.
    pub anomaly: AnomalySection,
    /// The archive.
    pub archive: ArchiveSection,
    /// The loader.
    pub load: LoadSection,
    /// Notifications.
    pub alert: AlertConfig,
    /// Probes, metrics, logs, traces.
    pub telemetry: TelemetrySection,
    /// Start and end.
    pub lifecycle: LifecycleSection,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("custody-data"),
            instance: String::new(),
            log: LogSection::default(),
            schemas: SchemasSection::default(),
            store: StoreConfig::default(),
            clickhouse: ClickHouseSection::default(),
            gateway: GatewayConfig::default(),
            pii: PiiSection::default(),
            completeness: CompletenessConfig::default(),
            writers: WritersConfig::default(),
            anomaly: AnomalySection::default(),
            archive: ArchiveSection::default(),
            load: LoadSection::default(),
            alert: AlertConfig::default(),
            telemetry: TelemetrySection::default(),
            lifecycle: LifecycleSection::default(),
        }
    }
}

impl Config {
    /// Name of this instance: the configured one, else the host's.
    pub fn instance(&self) -> String {
        match self.instance.is_empty() {
            false => self.instance.clone(),
            true => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }

    /// The object store: the configured one, else a directory in the data directory.
    pub fn store(&self) -> StoreConfig {
        let url = match self.store.url.is_empty() {
            false => self.store.url.clone(),
            true => format!("file:{}", self.data_dir.join("store").display()),
        };
        StoreConfig { url, ..self.store.clone() }
    }

    /// File of the key that tokens derive from.
    pub fn pii_keys_file(&self) -> PathBuf {
        match self.pii.keys_file.as_os_str().is_empty() {
            false => self.pii.keys_file.clone(),
            true => self.data_dir.join("pii.key"),
        }
    }
}
