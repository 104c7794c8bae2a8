//! `custody replay`: rebuilds ClickHouse from the archive, and nothing but the archive; or replays a range
//! of event time into a database or a log beside the installation's own.
//!
//! A database is dropped and filled anew; until it is done, queries see what is loaded so far. A replay that
//! was cut short is run again. What is refused is decided in `replay::plan`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use ingest::log::Broker;
use ingest::log::kafka::KafkaBroker;
use ingest::log::local::LocalBroker;
use schemas::topic::Topic;
use serde_json::json;
use sinks::clickhouse::client::{ClickHouse, ClickHouseConfig};
use sinks::parquet::range::TimeRange;
use sinks::parquet::read;
use sinks::parquet::store::Store;

use crate::cli::ReplayArgs;
use crate::commands::engine;
use crate::config::{ClickHouseSection, Config, ConfigArgs};
use crate::demo::counts::{self, Counts};
use crate::operate::connect;
use crate::replay::database::IntoDatabase;
use crate::replay::plan::{Own, Request, Target, plan};
use crate::replay::{Tally, log, walk};
use crate::sink_table::PUBLISHED;

/// Replays and prints the counts.
///
/// # Errors
/// The target is refused, the archive cannot be read, or the target refuses: the message names the object.
pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let request = Request {
        range: TimeRange { first: args.from, next: args.to },
        database: args.at.database.clone(),
        into_log: args.into_log.clone(),
        namespace: args.kafka_namespace.clone(),
    };
    // The installation's whole database needs no configuration, nor anything else of the installation.
    let is_whole = request == Request { database: request.database.clone(), ..Request::default() };
    let config = match is_whole {
        true => Config::default(),
        false => ConfigArgs { config: args.config.clone(), data_dir: None }.load()?.config,
    };
    let target = plan(&request, &own(&config, args), resolved)?;
    config.schemas.configure()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = args.store.open(&engine::archive_dir(&args.at.data_dir))?;
        let work = Work { args, range: request.range, store };
        match target {
            Target::Database => work.fill_database().await,
            Target::LocalLog(dir) => work.append_to_log(LocalBroker::open(dir.join("log"), None)?, &config).await,
            Target::KafkaLog { bootstrap, namespace } => {
                let mut config = config;
                (config.log.url, config.log.namespace) = (format!("kafka://{bootstrap}"), namespace);
                let kafka = connect::kafka(&config)?.context("--into-log names no brokers")?;
                work.append_to_log(KafkaBroker::new(kafka)?, &config).await
            }
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn own(config: &Config, args: &ReplayArgs) -> Own {
    let databases = [config.clickhouse.database.clone(), ClickHouseSection::default().database];
    let data_dirs = [config.data_dir.clone(), args.at.data_dir.clone()];
    Own {
        databases: databases.into(),
        log: config.log.place(),
        namespace: config.log.namespace.clone(),
        data_dirs: data_dirs.into_iter().map(resolved).collect(),
    }
}

/// A path that equals that of the same directory.
fn resolved(path: PathBuf) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(&path)).unwrap_or(path)
}

struct Work<'a> {
    args: &'a ReplayArgs,
    range: TimeRange,
    store: Store,
}

impl Work<'_> {
    async fn fill_database(&self) -> anyhow::Result<()> {
        let at = &self.args.at;
        let started = engine::start(&at.data_dir, at.clickhouse.clone(), 0).await?;
        let outcome = self.fill(&engine::settings(&started, &at.database)).await;
        started.stop().await?;
        let (tally, counts) = outcome?;
        let Counts { events, findings, alerts, .. } = counts;
        match self.args.json {
            true => {
                let counts = json!({"clickhouse_rows": events, "findings_rows": findings, "alerts_rows": alerts});
                println!("{}", joined(counts, tally)?);
            }
            false => println!(
                "rebuilt {} from the archive: {events} events, {findings} findings, {alerts} alert records ({})",
                at.database,
                tally.to_text()
            ),
        }
        Ok(())
    }

    async fn fill(&self, config: &ClickHouseConfig) -> anyhow::Result<(Tally, Counts)> {
        let mut target = IntoDatabase::create(config).await?;
        let manifests = read::manifests(&self.store, &PUBLISHED).await?;
        let bar = self.bar(manifests.len());
        let tally = walk(&self.store, &manifests, &self.range, &mut target, || bar.inc(1)).await?;
        bar.finish_and_clear();
        Ok((tally, counts::of_database(&ClickHouse::new(config)?).await?))
    }

    async fn append_to_log<B: Broker>(&self, broker: B, config: &Config) -> anyhow::Result<()> {
        let manifests = read::manifests(&self.store, &[Topic::Clean]).await?;
        let mut target = log::open(&broker, config.log.partitions, &manifests).await?;
        let bar = self.bar(manifests.len());
        let tally = walk(&self.store, &manifests, &self.range, &mut target, || bar.inc(1)).await?;
        bar.finish_and_clear();
        let ticks = target.finish().await?;
        match self.args.json {
            true => println!("{}", joined(json!({"appended": tally.rows_kept, "ticks": ticks}), tally)?),
            false => println!(
                "appended {} clean events to {}, and {ticks} ticks ({})",
                tally.rows_kept,
                Topic::Clean,
                tally.to_text()
            ),
        }
        Ok(())
    }

    fn bar(&self, objects: usize) -> ProgressBar {
        let bar = if self.args.json { ProgressBar::hidden() } else { ProgressBar::new(objects as u64) };
        if let Ok(style) = ProgressStyle::with_template("replay {pos}/{len} objects {bar:30} {eta}") {
            bar.set_style(style);
        }
        bar
    }
}

/// Two objects as one.
fn joined(mut object: serde_json::Value, tally: Tally) -> anyhow::Result<serde_json::Value> {
    if let (Some(fields), serde_json::Value::Object(more)) = (object.as_object_mut(), serde_json::to_value(tally)?) {
        fields.extend(more);
    }
    Ok(object)
}
