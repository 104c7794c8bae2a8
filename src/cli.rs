//! The command line: what each command takes, and which module carries it out.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::demo::DemoOptions;

/// The chain of custody for AI-agent events: nothing lost, nothing twice, nothing changed unseen.
///
/// Logs go to standard error; set CUSTODY_LOG (e.g. `custody=debug`) for more of them.
/// Exit status: 0 done and everything holds, 1 a check failed, 2 it could not be carried out.
#[derive(Debug, Parser)]
#[command(name = "custody", version, propagate_version = true)]
pub struct Cli {
    /// More logs (-v info, -vv debug).
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Stream a fleet of agents through the whole chain, with planted faults, and check every number.
    ///
    /// Without --trajectories the fleet is seeded: a dozen kinds of agents whose behaviour follows
    /// figures of real runs. The data directory keeps everything; running the same command again
    /// continues a run that was cut short, and changes nothing in one that was complete.
    Demo(DemoOptions),
    /// Check an archive: manifest chain, file hashes, row digests, raw bytes against columns, counts.
    Verify(VerifyArgs),
    /// Rebuild ClickHouse from an archive, and nothing but the archive.
    Replay(ReplayArgs),
    /// Run SQL on the ClickHouse of a data directory and print the answer.
    Query(QueryArgs),
    /// Run the ClickHouse of a data directory until interrupted, for curl and other clients.
    Clickhouse(ClickhouseArgs),
    /// Dead letters: what was refused and why; replay what a repaired configuration takes.
    Dlq {
        /// What to do with them.
        #[command(subcommand)]
        command: commands::dlq::DlqCommand,
    },
    /// Make or check the topics of the log.
    Topics {
        /// What to do with them.
        #[command(subcommand)]
        command: commands::topics::TopicsCommand,
    },
    /// Check log, topics, store, ClickHouse, schemas and clocks; every failure comes with its remedy.
    Doctor(commands::doctor::DoctorArgs),
    /// Say how far every role is: lag, dead letters, newest sessions.
    Status(commands::status::StatusArgs),
    /// Run a whole installation in simulated time with seeded faults, and audit what comes out.
    Simulate(crate::simulate::SimulateArgs),
    /// The Avro schemas that the topics are written with.
    Schemas {
        /// What to do with them.
        #[command(subcommand)]
        command: SchemasCommand,
    },
}

/// Arguments of `custody verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A data directory of custody, or an archive's directory.
    pub dir: PathBuf,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Where ClickHouse is.
#[derive(Debug, Args)]
pub struct ClickHouseAt {
    /// Data directory of custody; its engine is started if no URL is given.
    #[arg(long, default_value = "custody-data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// URL of a ClickHouse server's HTTP interface.
    #[arg(long, env = "CUSTODY_CLICKHOUSE_URL", value_name = "URL")]
    pub clickhouse: Option<String>,
    /// Database.
    #[arg(long, default_value = "custody", value_name = "NAME")]
    pub database: String,
}

/// Arguments of `custody replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Where ClickHouse is.
    #[command(flatten)]
    pub at: ClickHouseAt,
    /// Print the counts as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `custody query`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The statement; add `FORMAT JSON` and the like for another format.
    pub sql: String,
    /// Where ClickHouse is.
    #[command(flatten)]
    pub at: ClickHouseAt,
}

/// Arguments of `custody clickhouse`.
#[derive(Debug, Args)]
pub struct ClickhouseArgs {
    /// Data directory of custody.
    #[arg(long, default_value = "custody-data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8123)]
    pub port: u16,
    /// Only start an engine on a scratch directory, say that it answers, and stop.
    #[arg(long)]
    pub check: bool,
}

/// What to do with the schemas.
#[derive(Debug, Subcommand)]
pub enum SchemasCommand {
    /// List them: record, event type, fingerprint.
    List,
    /// Write each, self-contained, to DIR as RECORD.avsc.
    Export {
        /// Directory; made if absent.
        dir: PathBuf,
    },
}

/// Carries a command out.
///
/// # Errors
/// It could not be carried out: the message names what failed and the remedy.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Demo(options) => crate::demo::run(options),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Replay(args) => commands::replay::run(&args),
        Command::Query(args) => commands::query::run(&args),
        Command::Clickhouse(args) => commands::clickhouse::run(&args),
        Command::Dlq { command } => commands::dlq::run(&command),
        Command::Topics { command } => commands::topics::run(&command),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Status(args) => commands::status::run(&args),
        Command::Simulate(args) => crate::simulate::run(&args),
        Command::Schemas { command } => commands::schemas::run(&command),
    }
}
