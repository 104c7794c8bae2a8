//! The ClickHouse of a data directory, or the one at a URL: found, started and connected to.

use std::path::{Path, PathBuf};

use sinks::clickhouse::client::{ClickHouse, ClickHouseConfig};

use crate::embedded::{EmbeddedClickHouse, EmbeddedOptions};

/// Memory that an embedded engine may take, bytes.
const ENGINE_BYTES_MAX: u64 = 4 << 30;

/// Where the engine of a data directory keeps its files.
pub fn engine_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("clickhouse")
}

/// Where the archive of a data directory is.
pub fn archive_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// Starts the engine of a data directory on a port (0: a free one), or takes the server at `url`.
///
/// # Errors
/// No engine can be had: the message lists the remedies.
pub async fn start(data_dir: &Path, url: Option<String>, port: u16) -> anyhow::Result<EmbeddedClickHouse> {
    let options = EmbeddedOptions {
        url,
        data_dir: engine_dir(data_dir),
        port,
        memory_bytes_max: Some(ENGINE_BYTES_MAX),
        ..EmbeddedOptions::default()
    };
    Ok(EmbeddedClickHouse::start(&options).await?)
}

/// Settings for a database of a running engine.
pub fn settings(engine: &EmbeddedClickHouse, database: &str) -> ClickHouseConfig {
    let user = std::env::var("CUSTODY_CLICKHOUSE_USER").unwrap_or_default();
    let password = std::env::var("CUSTODY_CLICKHOUSE_PASSWORD").unwrap_or_default();
    ClickHouseConfig {
        url: engine.url().to_owned(),
        database: database.to_owned(),
        user,
        password,
        ..ClickHouseConfig::default()
    }
}

/// A client for a database of a running engine.
///
/// # Errors
/// The database's name is not an identifier.
pub fn connect(engine: &EmbeddedClickHouse, database: &str) -> anyhow::Result<ClickHouse> {
    Ok(ClickHouse::new(&settings(engine, database))?)
}
