//! `custody demo`: a fleet of agents through the whole chain, and a check of every number.
//!
//! It composes roles that production runs as they are; only the settings and the input are its own.

pub mod census;
pub mod counts;
mod external;
mod intake;
mod leaks;
mod pipeline;
mod run;
pub(crate) mod settings;
mod summary;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use ingest::log::kafka::{KafkaBroker, KafkaConfig};
use ingest::log::local::LocalBroker;
use schemas::id::Sha256;
use serde::{Deserialize, Serialize};

use crate::commands::store::StoreArgs;
use crate::fleet::{Run, synth, trajectory};

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
    /// Prefix of every topic and group name on Kafka; lets several demos share a broker.
    #[arg(long, default_value = "", value_name = "PREFIX", hide_default_value = true)]
    pub kafka_namespace: String,
    /// URL of a ClickHouse server's HTTP interface; without it an engine is started.
    #[arg(long, env = "CUSTODY_CLICKHOUSE_URL", value_name = "URL")]
    pub clickhouse: Option<String>,
    /// Copies of the fleet, each with its own ids.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub scale: u32,
    /// Seed of arrival times, latencies, faults and of the seeded fleet.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// The roles run elsewhere as services: write the log, wait until they are done, and check. Needs
    /// Kafka, and the ClickHouse and the store that the roles write to.
    #[arg(long, requires = "clickhouse")]
    pub external_roles: bool,
    /// Write the configuration that such roles need for this demo to DIR, and stop.
    #[arg(long, value_name = "DIR")]
    pub write_config: Option<PathBuf>,
    /// Where the archive of external roles is.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Leave ClickHouse running until interrupted.
    #[arg(long)]
    pub keep_running: bool,
    /// Print the summary as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// The runs of a demo.
#[derive(Debug)]
pub struct Input {
    name: String,
    runs: Vec<Run>,
    /// The data directory is new: nothing in the log can be its own.
    is_first: bool,
}

impl Input {
    /// Refuses a log that holds the records of another demo.
    fn refuse_foreign_log(&self, present: &BTreeMap<u32, u64>, options: &DemoOptions) -> anyhow::Result<()> {
        let records: u64 = present.values().sum();
        if self.is_first && records > 0 {
            // The marker was written a moment ago; without it a second try would count as a continuation.
            std::fs::remove_file(options.data_dir.join(MARKER))?;
            bail!(
                "{} already holds {records} records of another run in {}: name that run's --data-dir, or keep apart from it \
                 with --kafka-namespace PREFIX",
                options.log,
                schemas::topic::Topic::Events
            );
        }
        Ok(())
    }
}

/// Says in a data directory what it was made with.
const MARKER: &str = "demo.json";

/// What a data directory was made with: another input cannot continue it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    seed: u64,
    scale: u32,
    runs_sha256: String,
    log: String,
}

/// Runs the demo.
///
/// # Errors
/// A part could not be started or stopped working: the message names it and the remedy.
pub fn run(options: DemoOptions) -> anyhow::Result<ExitCode> {
    if let Some(dir) = &options.write_config {
        external::write_config(&options, dir)?;
        return Ok(ExitCode::SUCCESS);
    }
    if options.external_roles && options.log == "local" {
        bail!("--external-roles needs a log that other processes reach: --log kafka://HOST:PORT");
    }
    let mut input = read_input(&options)?;
    input.is_first = check_marker(&input, &options)?;
    // Roles block on disk and compute; more threads than cores lets the system share them fairly.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(8).enable_all().build()?;
    runtime.block_on(async {
        match options.log.strip_prefix("kafka://") {
            Some(bootstrap) => {
                let config = KafkaConfig {
                    bootstrap: bootstrap.to_owned(),
                    namespace: options.kafka_namespace.clone(),
                    ..KafkaConfig::default()
                };
                run::run(KafkaBroker::new(config)?, &input, &options).await
            }
            None if options.log == "local" => {
                run::run(LocalBroker::open(options.data_dir.join("log"), None)?, &input, &options).await
            }
            None => bail!("--log {:?} is neither `local` nor `kafka://HOST:PORT`", options.log),
        }
    })
}

fn read_input(options: &DemoOptions) -> anyhow::Result<Input> {
    match options.trajectories.as_slice() {
        [] => Ok(Input { name: "seeded fleet".to_owned(), runs: synth::fleet(options.seed), is_first: false }),
        paths => {
            let runs = trajectory::read(paths)?;
            let agents: std::collections::BTreeSet<&str> = runs.iter().map(|r| r.agent_id.as_str()).collect();
            Ok(Input {
                name: format!("{} recorded runs of {} agents", runs.len(), agents.len()),
                runs,
                is_first: false,
            })
        }
    }
}

/// Refuses to continue a data directory with another input, which would mix two runs in one log; true
/// if the directory is new.
fn check_marker(input: &Input, options: &DemoOptions) -> anyhow::Result<bool> {
    let marker = Marker {
        seed: options.seed,
        scale: options.scale,
        runs_sha256: Sha256::of(format!("{:?}", input.runs).as_bytes()).to_hex(),
        log: options.log.clone(),
    };
    std::fs::create_dir_all(&options.data_dir)
        .with_context(|| format!("cannot make {}", options.data_dir.display()))?;
    let file = options.data_dir.join(MARKER);
    match std::fs::read(&file) {
        Ok(bytes) => {
            let found: Marker =
                serde_json::from_slice(&bytes).with_context(|| format!("cannot read {}", file.display()))?;
            if found != marker {
                bail!(
                    "{} holds a demo of another input (seed {}, scale {}, log {}): choose another --data-dir, or remove it",
                    options.data_dir.display(),
                    found.seed,
                    found.scale,
                    found.log
                );
            }
            Ok(false)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::write(&file, serde_json::to_vec_pretty(&marker)?)
                .with_context(|| format!("cannot write {}", file.display()))?;
            Ok(true)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}
