//! `custody status`: how far every role is, what was published last, what is open.
//!
//! On Kafka the log, the archive's store and ClickHouse are asked; the embedded log belongs to `custody up` while it runs,
//! which is asked over HTTP then.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use ingest::log::Broker;
use sinks::clickhouse::client::ClickHouse;

use crate::clock;
use crate::config::{Config, ConfigArgs, LogUrl};
use crate::operate::connect::{self, OnLog, on_log};
use crate::operate::status::{Sources, Status, gather};

/// Arguments of `custody status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The installation.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print it as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Asks and prints.
///
/// # Errors
/// Nobody can be asked: the message says who was and what helps.
pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?.config;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let status = runtime.block_on(ask(&config))?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&status)?),
        false => println!("{}", status.to_text()),
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(config: &Config) -> anyhow::Result<Status> {
    let is_embedded = config.log.place() == Some(LogUrl::Local);
    if is_embedded && let Some(status) = ask_running(config).await? {
        return Ok(status);
    }
    let clickhouse = connect::clickhouse(config)?.map(|c| ClickHouse::new(&c)).transpose()?;
    let receivers = config.alert.receivers.keys().cloned().collect();
    on_log(config, Gather(Sources { clickhouse, store: connect::store(config), receivers })).await
}

/// The status of a running `custody up`; `None` if nobody answers.
async fn ask_running(config: &Config) -> anyhow::Result<Option<Status>> {
    let url = format!("http://{}/status", config.telemetry.listen);
    let response = match reqwest::get(&url).await {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Ok(None),
        Err(error) => return Err(error).context(format!("{url} does not answer")),
    };
    let bytes = response.error_for_status().with_context(|| format!("{url} refuses"))?.bytes().await?;
    Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{url} answers something else"))?))
}

struct Gather(Sources);

impl OnLog for Gather {
    type Output = Status;

    async fn run<B: Broker>(self, broker: B) -> anyhow::Result<Status> {
        Ok(gather(&broker, &self.0, clock::now()).await?)
    }
}
