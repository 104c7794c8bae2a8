//! `custody demo`: a fleet of agents through the whole chain, and a check of every number.
//!
//! It composes roles that production runs as they are; only the settings and the input are its own.

pub mod census;
pub mod intake;
pub mod leaks;
pub mod pipeline;
pub mod settings;
pub mod summary;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ingest::log::{Broker, local::LocalBroker};
use processors::anomaly::{Features, Score};
use processors::completeness::{Completeness, Writers};
use processors::pii::Pii;
use schemas::topic::Topic;
use sinks::parquet::store::Store;

use crate::archive_role::ArchiveRole;
use crate::fleet::stream::Stream;
use crate::fleet::{synth, trajectory};
use crate::roles::{self, DATA_TOPICS};
use crate::runner::control::Control;

/// Options of `custody demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// Recorded agent runs: files or folders of tau-bench, InterCode or chat-format JSON.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub trajectories: Vec<PathBuf>,
    /// Where log, archive and ClickHouse keep their data.
    #[arg(long, default_value = "custody-data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// `local` (embedded, in the data directory) or `kafka://HOST:PORT`.
    #[arg(long, default_value = "local", value_name = "URL")]
    pub log: String,
    /// URL of a ClickHouse server's HTTP interface; without it an engine is started.
    #[arg(long, env = "CUSTODY_CLICKHOUSE_URL", value_name = "URL")]
    pub clickhouse: Option<String>,
    /// Copies of the fleet, each under ids of its own.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub scale: u32,
    /// Seed of arrival times, latencies, faults and of the seeded fleet.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Leave ClickHouse running until interrupted.
    #[arg(long)]
    pub keep_running: bool,
    /// Print the summary as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the demo.
///
/// # Errors
/// A part could not be started or stopped working: the message names it and the remedy.
pub fn run(options: DemoOptions) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(6).enable_all().build()?;
    runtime.block_on(async {
        let broker = LocalBroker::open(options.data_dir.join("log"), None)?;
        run_on(broker, &options).await
    })
}

async fn run_on<B: Broker>(broker: B, options: &DemoOptions) -> anyhow::Result<ExitCode> {
    let begun = crate::clock::now();
    let runs = match options.trajectories.is_empty() {
        true => synth::fleet(options.seed),
        false => trajectory::read(&options.trajectories)?,
    };
    broker.create_topics(Topic::ALL, settings::PARTITIONS).await?;
    let mut stream = Stream::new(&runs, settings::stream(options.seed, options.scale as usize));
    let mut pipeline = pipeline::Pipeline::default();
    let seed = options.seed;
    pipeline.wave();
    pipeline.start("pii", |c| roles::stage(broker.clone(), roles::PII, Pii::new(settings::pii(seed)), c));
    pipeline.wave();
    pipeline.start("completeness", |c| {
        roles::stage(broker.clone(), roles::COMPLETENESS, Completeness::new(settings::completeness()), c)
    });
    pipeline
        .start("features", |c| roles::stage(broker.clone(), roles::FEATURES, Features::new(settings::features()), c));
    pipeline.wave();
    pipeline.start("writers", |c| roles::stage(broker.clone(), roles::WRITERS, Writers::new(settings::writers()), c));
    pipeline.start("score", |c| roles::stage(broker.clone(), roles::SCORE, Score::new(settings::score()), c));
    pipeline.wave();
    let store = Store::local(&options.data_dir.join("archive_root"))?;
    let archive = ArchiveRole::open(store.clone(), settings::archive()).await?;
    pipeline.start("archive", |c| roles::sink(broker.clone(), "custody-archive", Topic::Clean, archive, c));
    let present = intake::present(&broker, settings::PARTITIONS).await?;
    intake::run(&broker, &mut stream, present, &Control::default(), |_| {}).await?;
    eprintln!("intake done {}", (crate::clock::now().0 - begun.0) as f64 / 1e6);
    pipeline.finish().await?;
    eprintln!("pipeline done {}", (crate::clock::now().0 - begun.0) as f64 / 1e6);
    let census = census::take(&broker).await?;
    println!("{:#?}\n{:?}\n{:?}", stream.totals(), stream.faults(), {
        let mut c = census.clone();
        c.alerts.clear();
        c
    });
    for a in census.alerts.values() {
        println!("{} {} {} {} {}", a.alert_class, a.status, a.subject, a.metric, a.reason);
    }
    let _ = DATA_TOPICS;
    Ok(ExitCode::SUCCESS)
}
