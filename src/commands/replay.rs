//! `custody replay`: rebuilds ClickHouse from the archive, and nothing but the archive.
//!
//! The database is dropped and filled anew; until it is done, queries see what is loaded so far. A
//! replay that was cut short is run again.

use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use schemas::topic::Topic;
use serde_json::json;
use sinks::clickhouse::client::{ClickHouse, ClickHouseConfig};
use sinks::clickhouse::insert::{ClickHouseSink, LoadBatch, LoadConfig};
use sinks::clickhouse::migrate::migrate;
use sinks::parquet::read;
use sinks::parquet::store::Store;

use crate::cli::ReplayArgs;
use crate::commands::engine;
use crate::demo::counts::{self, Counts};

/// Topics whose archive fills tables.
const TOPICS: [Topic; 3] = [Topic::Clean, Topic::Findings, Topic::Alerts];

/// Replays and prints the counts.
///
/// # Errors
/// The archive cannot be read, or ClickHouse refuses: the message names the object.
pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let started = engine::start(&args.at.data_dir, args.at.clickhouse.clone(), 0).await?;
        let outcome = rebuild(&engine::settings(&started, &args.at.database), args).await;
        started.stop().await?;
        let counts = outcome?;
        match args.json {
            true => println!(
                "{}",
                json!({ "clickhouse_rows": counts.events, "findings_rows": counts.findings, "alerts_rows": counts.alerts })
            ),
            false => println!(
                "rebuilt {} from the archive: {} events, {} findings, {} alert records",
                args.at.database, counts.events, counts.findings, counts.alerts
            ),
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn rebuild(config: &ClickHouseConfig, args: &ReplayArgs) -> anyhow::Result<Counts> {
    let server = ClickHouse::new(config)?;
    server.execute(&format!("DROP DATABASE IF EXISTS {} SYNC", config.database)).await?;
    migrate(&server).await?;
    let sink = ClickHouseSink::open(config).await?;
    let store = args.store.open(&engine::archive_dir(&args.at.data_dir))?;
    let manifests = read::manifests(&store, &TOPICS).await?;
    let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new(manifests.len() as u64) };
    if let Ok(style) = ProgressStyle::with_template("replay {pos}/{len} objects {bar:30} {eta}") {
        bar.set_style(style);
    }
    for manifest in &manifests {
        load(&sink, &store, manifest).await?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    counts::of_database(&server).await
}

/// Inserts one archive object.
async fn load(sink: &ClickHouseSink, store: &Store, manifest: &sinks::manifest::Manifest) -> anyhow::Result<()> {
    let config = LoadConfig::default();
    let partition = manifest.publication.partition_id();
    let mut batch: Option<LoadBatch> = None;
    for record in read::records(store, manifest).await? {
        let record = record?;
        let open = batch.get_or_insert_with(|| LoadBatch::open(partition, record.at.offset, &record));
        open.push(&record)?;
        if open.is_full(&config) {
            sink.insert(open).await?;
            batch = None;
        }
    }
    if let Some(rest) = batch {
        sink.insert(&rest).await?;
    }
    Ok(())
}
