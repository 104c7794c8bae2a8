//! `custody doctor`: checks everything that roles depend on, and says what helps.

use std::process::ExitCode;

use clap::Args;
use ingest::log::Broker;
use sinks::parquet::store::Store;

use crate::clock;
use crate::config::{Config, ConfigArgs};
use crate::operate::connect::{self, OnLog, on_log};
use crate::operate::doctor::{Finding, Outcome, check_clickhouse, check_log, check_store, to_text};
use crate::registry::RegistryClient;

/// Arguments of `custody doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The configuration to check.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print the findings as one JSON array.
    #[arg(long)]
    pub json: bool,
}

/// Checks and prints; exit status 1 if anything failed.
///
/// # Errors
/// The configuration cannot be read; everything else is a finding.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?.config;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let findings = runtime.block_on(examine(&config));
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&findings)?),
        false => println!("{}", to_text(&findings)),
    }
    let is_bad = findings.iter().any(|f| f.outcome == Outcome::Failure);
    Ok(if is_bad { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![schemas(config)];
    findings.extend(registry(config).await);
    match on_log(config, LogCheck(config.log.partitions)).await {
        Ok(found) => findings.extend(found),
        Err(error) => {
            findings.push(Finding::wrong(
                Outcome::Failure,
                "log",
                format!("{error:#}"),
                "correct [log] in the configuration",
            ));
        }
    }
    findings.push(store(config).await);
    match connect::clickhouse(config) {
        Ok(Some(server)) => findings.extend(check_clickhouse(&server, clock::now).await),
        Ok(None) => findings.push(Finding::ok("clickhouse", "embedded; `custody up` starts and checks it")),
        Err(error) => findings.push(Finding::wrong(
            Outcome::Failure,
            "clickhouse",
            error,
            "correct [clickhouse] in the configuration",
        )),
    }
    findings
}

struct LogCheck(u32);

impl OnLog for LogCheck {
    type Output = Vec<Finding>;

    async fn run<B: Broker>(self, broker: B) -> anyhow::Result<Vec<Finding>> {
        Ok(check_log(&broker, self.0).await)
    }
}

fn schemas(config: &Config) -> Finding {
    match config.schemas.codec() {
        Ok(_) => Finding::ok("schemas", format!("{} of others are known", config.schemas.len())),
        Err(error) => Finding::wrong(
            Outcome::Failure,
            "schemas",
            format!("{error:#}"),
            "correct [schemas]: the file must hold the Avro schema that the registry has under that id",
        ),
    }
}

/// Whether the registry answers, if one is configured, and holds Avro schemas.
async fn registry(config: &Config) -> Option<Finding> {
    let wrong = |error: &dyn ToString, remedy: &str| {
        Some(Finding::wrong(Outcome::Failure, "schema registry", error.to_string(), remedy))
    };
    let client = match RegistryClient::new(&config.schemas.registry) {
        Ok(client) => client?,
        Err(error) => return wrong(&error, "correct [schemas.registry] in the configuration"),
    };
    match client.types().await {
        Ok(types) if types.iter().any(|t| t == "AVRO") => {
            Some(Finding::ok("schema registry", format!("{} answers and holds Avro schemas", client.address())))
        }
        Ok(types) => wrong(&format!("it holds {types:?} only"), "name a registry that holds AVRO schemas"),
        Err(error) => wrong(&error, "until it answers, records of schemas that are not known wait"),
    }
}

async fn store(config: &Config) -> Finding {
    let config = config.store();
    match Store::open(&config) {
        Ok(store) => check_store(&store, &config.url, clock::now()).await,
        Err(error) => Finding::wrong(Outcome::Failure, "store", error, "correct [store] in the configuration"),
    }
}
