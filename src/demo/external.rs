//! The demo with its roles elsewhere: what they must be configured with, and how it knows that they are
//! done.
//!
//! It reads positions and counts from outside; it starts, stops and configures no running role.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::ProgressBar;
use ingest::log::Broker;
use schemas::id::Sha256;
use schemas::topic::Topic;
use serde::Serialize;
use sinks::clickhouse::client::ClickHouse;
use sinks::parquet::read;
use sinks::parquet::store::Store;

use super::{DemoOptions, census, counts, settings};
use crate::clock;
use crate::config::{Config, Role};
use crate::operate::status::{pipeline_readers, reader_status};
use crate::sink_table::SINKS;
use crate::stage_table::{self, STAGES};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Looks without progress after which nobody seems to be at work: two minutes, twice the time after
/// which an archive cuts a file of a quiet topic.
const LOOKS_IDLE_MAX: u32 = 240;

/// Writes `custody.toml` and `pii.key` for roles that are to give the numbers of this demo.
///
/// # Errors
/// The directory cannot be written to.
pub(super) fn write_config(options: &DemoOptions, dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let dir = dir.canonicalize().with_context(|| format!("cannot use {}", dir.display()))?;
    let key = dir.join("pii.key");
    let master = Sha256::of(format!("custody demo tokens {}", options.seed).as_bytes());
    std::fs::write(&key, master.0).with_context(|| format!("cannot write {}", key.display()))?;
    let file = dir.join("custody.toml");
    let text = toml_of(options, &key)?;
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("wrote {}; start the roles with it:", file.display());
    let mut roles: Vec<Role> = STAGES.iter().map(|s| s.role).chain(SINKS.iter().map(|s| s.role)).collect();
    roles.sort_unstable();
    roles.dedup();
    for role in roles {
        println!("  custody {} --config {}", role.command(), file.display());
    }
    Ok(())
}

fn toml_of(options: &DemoOptions, key: &Path) -> anyhow::Result<String> {
    let mut config =
        Config { completeness: settings::completeness(), writers: settings::writers(), ..Config::default() };
    config.anomaly.features = settings::features();
    config.anomaly.score = settings::score();
    #[derive(Serialize)]
    struct Sections<'a> {
        log: toml::Table,
        clickhouse: toml::Table,
        store: toml::Table,
        pii: toml::Table,
        telemetry: toml::Table,
        completeness: &'a processors::completeness::CompletenessConfig,
        writers: &'a processors::completeness::WritersConfig,
        anomaly: &'a crate::config::AnomalySection,
    }
    let store = [
        ("url", options.store.store.clone()),
        ("endpoint", options.store.store_endpoint.clone()),
        ("region", options.store.store_region.clone()),
    ];
    let mut store: toml::Table = store.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?.into()))).collect();
    if options.store.store_endpoint.as_ref().is_some_and(|e| e.starts_with("http://")) {
        store.insert("allow_http".to_owned(), true.into());
    }
    let text = |key: &str, value: String| toml::Table::from_iter([(key.to_owned(), value.into())]);
    let mut log = text("url", options.log.clone());
    log.insert("namespace".to_owned(), options.kafka_namespace.clone().into());
    log.insert("partitions".to_owned(), i64::from(settings::PARTITIONS).into());
    let sections = Sections {
        log,
        clickhouse: text("url", options.clickhouse.clone().unwrap_or_default()),
        store,
        pii: text("keys_file", key.display().to_string()),
        telemetry: text("listen", "127.0.0.1:0".to_owned()),
        completeness: &config.completeness,
        writers: &config.writers,
        anomaly: &config.anomaly,
    };
    Ok(toml::to_string(&sections)?)
}

/// Returns once every role has done what the log asks of it.
///
/// # Errors
/// Somebody cannot be asked, or nothing has moved for two minutes.
pub(super) async fn wait<B: Broker>(
    broker: &B,
    store: &Store,
    server: &ClickHouse,
    options: &DemoOptions,
) -> anyhow::Result<()> {
    let bar = if options.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    until_done(&bar, || stages_left(broker)).await?;
    // Stages are done: what is to be published is known, and changes no more.
    let rows = census::published(broker).await?;
    until_done(&bar, || sinks_left(&rows, store, server)).await?;
    bar.finish_and_clear();
    Ok(())
}

async fn until_done<F>(bar: &ProgressBar, mut look: impl FnMut() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Vec<String>>>,
{
    let (mut seen, mut idle) = (String::new(), 0);
    loop {
        let left = look().await?.join(", ");
        if left.is_empty() {
            return Ok(());
        }
        idle = if left == seen { idle + 1 } else { 0 };
        anyhow::ensure!(
            idle < LOOKS_IDLE_MAX,
            "nothing has moved for {} s; still to do: {left}. Are all roles running with the configuration of \
             --write-config?",
            LOOK_INTERVAL.as_millis() * u128::from(LOOKS_IDLE_MAX) / 1_000
        );
        bar.set_message(format!("waiting for {left}"));
        seen = left;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Stages with records to read, upstream first: the first wave that lags hides what comes after it.
async fn stages_left<B: Broker>(broker: &B) -> anyhow::Result<Vec<String>> {
    let readers = pipeline_readers();
    for wave in stage_table::waves() {
        let mut left = Vec::new();
        for reader in readers.iter().filter(|r| wave.iter().any(|spec| spec.group == r.group)) {
            let lag = reader_status(broker, reader, clock::now()).await?.lag_records;
            if lag > 0 {
                left.push(format!("{} {lag}", reader.role));
            }
        }
        if !left.is_empty() {
            return Ok(left);
        }
    }
    Ok(Vec::new())
}

/// Rows that are not yet in the archive or in ClickHouse.
async fn sinks_left(rows: &BTreeMap<Topic, u64>, store: &Store, server: &ClickHouse) -> anyhow::Result<Vec<String>> {
    let loaded = counts::of_database(server).await?;
    let mut left = Vec::new();
    for (topic, rows) in rows {
        let archived: u64 = read::manifests(store, &[*topic]).await?.iter().map(|m| m.publication.rows).sum();
        let in_tables = match topic {
            Topic::Findings => loaded.findings + loaded.control_totals,
            Topic::Alerts => loaded.alerts,
            _ => loaded.events,
        };
        for (role, done) in [("archive", archived), ("load", in_tables)] {
            if done < *rows {
                left.push(format!("{role} {} of {topic}", rows - done));
            }
        }
    }
    Ok(left)
}
