//! Opens what the configuration names, for tools that look or repair: log, ClickHouse, store.
//!
//! It joins no group and starts no engine; roles open their own in `services`.

use ingest::log::kafka::KafkaBroker;
use ingest::log::local::LocalBroker;
use ingest::log::{Broker, LogError};
use sinks::clickhouse::client::ClickHouseConfig;

use crate::config::{Config, LogUrl};
use crate::services;

/// Work on a log, whichever it is.
pub trait OnLog {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<B: Broker>(self, broker: B) -> impl Future<Output = anyhow::Result<Self::Output>>;
}

/// Opens the configured log and works on it.
///
/// # Errors
/// The log cannot be opened (the embedded one is one process's at a time), or the work failed.
pub async fn on_log<T: OnLog>(config: &Config, work: T) -> anyhow::Result<T::Output> {
    match config.log.place() {
        Some(LogUrl::Kafka(hosts)) => work.run(KafkaBroker::new(services::kafka(config, hosts)?)?).await,
        Some(LogUrl::Local) => work.run(open_local(config)?).await,
        None => anyhow::bail!("log.url must be `local` or kafka://HOST:PORT[,HOST:PORT]"),
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
        url => services::clickhouse(config, url).map(Some),
    }
}
