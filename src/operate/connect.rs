//! Opens what the configuration names, for tools that look or repair: log, ClickHouse, store.
//!
//! It joins no group and starts no engine; roles open their own in `services`.

use std::path::{Path, PathBuf};

use ingest::log::kafka::{KafkaBroker, KafkaConfig, TokenFile};
use ingest::log::local::LocalBroker;
use ingest::log::{Broker, LogError};
use sinks::clickhouse::client::ClickHouseConfig;
use sinks::parquet::store::Store;

use crate::clock;
use crate::config::{Config, LogUrl};

/// Work on a log, whichever it is.
pub trait OnLog {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<B: Broker>(self, broker: B) -> impl Future<Output = anyhow::Result<Self::Output>>;
}

/// The configured log as Kafka's client wants it; `None` for the embedded one.
///
/// # Errors
/// A setting's file cannot be read.
pub fn kafka(config: &Config) -> anyhow::Result<Option<KafkaConfig>> {
    let Some(LogUrl::Kafka(bootstrap)) = config.log.place() else { return Ok(None) };
    let mut extra = config.log.librdkafka.0.clone();
    for (name, file) in &config.log.librdkafka_file.0 {
        let value = std::fs::read_to_string(file)
            .map_err(|error| anyhow::anyhow!("log.librdkafka_file {name}: cannot read {file}: {error}"))?;
        extra.insert(name.clone(), value.trim_end().to_owned());
    }
    Ok(Some(KafkaConfig {
        bootstrap,
        client_id: format!("custody-{}", config.instance()),
        extra,
        oauth_token_file: given(&config.log.oauth_token_file).map(|path| TokenFile { path, clock: clock::now }),
        group_protocol: config.log.group_protocol,
        topic: config.log.topic.0.clone(),
        namespace: config.log.namespace.clone(),
        generation: config.log.generation,
    }))
}

/// A file that is named; an empty path names none.
fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

/// Opens the configured log and works on it.
///
/// # Errors
/// The log cannot be opened (the embedded one is one process's at a time), or the work failed.
pub async fn on_log<T: OnLog>(config: &Config, work: T) -> anyhow::Result<T::Output> {
    match kafka(config)? {
        Some(kafka) => work.run(KafkaBroker::new(kafka)?).await,
        None => work.run(open_local(config)?).await,
    }
}

fn open_local(config: &Config) -> anyhow::Result<LocalBroker> {
    let dir = config.data_dir.join("log");
    if !dir.exists() {
        anyhow::bail!(
            "there is no log in {}: name the data directory with --data-dir, or the brokers in log.url",
            config.data_dir.display()
        );
    }
    Ok(LocalBroker::open(dir, None).map_err(|error| LogError {
        message: format!("{} (custody up has it open while it runs)", error.message),
        ..error
    })?)
}

/// The configured ClickHouse; `None` for the embedded engine, which only `custody up` starts.
///
/// # Errors
/// The password's file cannot be read.
pub fn clickhouse(config: &Config) -> anyhow::Result<Option<ClickHouseConfig>> {
    match config.clickhouse.url.as_str() {
        "" => Ok(None),
        url => clickhouse_at(config, url).map(Some),
    }
}

/// The configured store, to look into; a directory that is not there is not made.
///
/// # Errors
/// Why it cannot be asked, for a report.
pub fn store(config: &Config) -> Result<Store, String> {
    let config = config.store();
    if let Some(path) = config.url.strip_prefix("file:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !Path::new(path).exists() {
            return Err(format!(
                "there is no archive in {path}; nothing was archived, or [store] url names another place"
            ));
        }
    }
    Store::open(&config).map_err(|error| error.to_string())
}

/// ClickHouse at `url`, by the configured name and password.
///
/// # Errors
/// The password's file cannot be read.
pub fn clickhouse_at(config: &Config, url: &str) -> anyhow::Result<ClickHouseConfig> {
    let section = &config.clickhouse;
    let password = match section.password_file.as_os_str().is_empty() {
        true => section.password.expose().to_owned(),
        false => {
            let file = &section.password_file;
            let text = std::fs::read_to_string(file).map_err(|error| {
                anyhow::anyhow!("clickhouse.password_file: cannot read {}: {error}", file.display())
            })?;
            text.trim_end().to_owned()
        }
    };
    Ok(ClickHouseConfig {
        url: url.to_owned(),
        database: section.database.clone(),
        user: section.user.clone(),
        password,
        ca_file: given(&section.ca_file),
        request_timeout_ms: section.request_timeout_ms,
    })
}
