//! The embedded ClickHouse for real: fetched if it must be, started, used by the `clickhouse` crate and by curl, killed
//! and opened again. Fails where the engine cannot be had; the message names the remedies.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "clickhouse_engine/http.rs"]
mod http;
#[path = "clickhouse_engine/kill.rs"]
mod kill;
#[path = "clickhouse_engine/rows.rs"]
mod rows;
#[path = "clickhouse_engine/source.rs"]
mod source;

use std::path::{Path, PathBuf};

use clickhouse::{Client, Compression};
use custody::embedded::{ClickHouseSource, EmbeddedClickHouse, EmbeddedOptions, Facts, cache_dir, choose};
use tempfile::TempDir;

fn options(data_dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions {
        data_dir: data_dir.to_owned(),
        executable: Some(PathBuf::from(env!("CARGO_BIN_EXE_custody"))),
        ..EmbeddedOptions::default()
    }
}

/// The library, whatever else is on the PATH: it is the library's front that is tested here.
async fn start(data_dir: &Path) -> EmbeddedClickHouse {
    let cache_dir = cache_dir().expect("cache directory");
    let facts = Facts { server: None, ..Facts::gather(None, &cache_dir, data_dir) };
    let source = choose(&facts).expect("an engine");
    assert!(!matches!(source, ClickHouseSource::Url(_) | ClickHouseSource::Server(_)));
    EmbeddedClickHouse::start_source(source, &cache_dir, &options(data_dir)).await.expect("the engine starts")
}

async fn fresh() -> (TempDir, EmbeddedClickHouse) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = start(dir.path()).await;
    (dir, engine)
}

fn client(engine: &EmbeddedClickHouse, compression: Compression) -> Client {
    Client::default().with_url(engine.url()).with_compression(compression)
}

async fn count(client: &Client, table: &str) -> u64 {
    client.query(&format!("SELECT count() FROM {table}")).fetch_one().await.expect("count")
}

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
