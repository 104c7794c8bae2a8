//! The command line: what each command takes, and which module carries it out.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand};
use schemas::time::TimestampMicros;

use crate::commands::store::StoreArgs;
use crate::config::{ConfigArgs, Role};
use crate::demo::DemoOptions;
use crate::{commands, services, telemetry};

/// The chain of custody for AI-agent events: nothing lost, nothing duplicated, no change undetected.
///
/// Logs go to standard error; set CUSTODY_LOG (e.g. `custody=debug`) for more detail.
/// Exit status: 0 done and everything holds, 1 a check failed, 2 the command could not be carried out.
#[derive(Debug, Parser)]
#[command(name = "custody", version, propagate_version = true)]
pub struct Cli {
    /// Log more (-v info, -vv debug).
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run services.
    #[command(flatten)]
    Service(ServiceCommand),
    /// Show the configuration and the origin of each value, or check whether a role can run with it.
    Config {
        /// What to do with it.
        #[command(subcommand)]
        command: commands::config::ConfigCommand,
    },
    /// Stream a fleet of agents through the whole chain, with planted faults, and check every number.
    ///
    /// Without --trajectories the fleet is seeded: a dozen kinds of agents whose behaviour follows
    /// figures of real runs. The data directory keeps everything; running the same command again
    /// continues a run that was cut short, and changes nothing in one that was complete.
    Demo(DemoOptions),
    /// Check an archive: manifest chain, file hashes, row digests, raw bytes against columns, counts.
    Verify(VerifyArgs),
    /// Rebuild ClickHouse from an archive alone, or replay a range of the archive elsewhere.
    ///
    /// The database is dropped and filled again. --from and --to choose rows by event time (findings by the log
    /// time of their cause, alerts by that of their state), half-open: a row at --from is included, one at --to is not.
    /// Since all other rows would be lost, a range needs a database of its own: name it with --database.
    ///
    /// --into-log and --kafka-namespace append the clean events of the range to custody.clean.v1 of another log or
    /// namespace instead, so that stages can run over past events beside production: start them there with
    /// log.url and log.namespace set, or with `custody up --data-dir DIR`. Partition, order, time, key and bytes
    /// are unchanged, offsets are new, and ticks are made from the events' times. A second run would append
    /// everything a second time: a target that is not empty is refused. Events outside of the range
    /// are a gap there: control totals count them as rejected. Set a retention for those topics that the age of
    /// the events does not exceed ("retention.ms" = -1 in log.topic).
    Replay(ReplayArgs),
    /// Run SQL on the ClickHouse of a data directory and print the answer.
    Query(QueryArgs),
    /// Run the ClickHouse of a data directory until interrupted, for curl and other clients.
    Clickhouse(ClickhouseArgs),
    /// List dead letters with their reasons; replay those that a corrected configuration accepts.
    Dlq {
        /// What to do with them.
        #[command(subcommand)]
        command: commands::dlq::DlqCommand,
    },
    /// Create or check the topics of the log, or move to more partitions.
    Topics {
        /// What to do with them.
        #[command(subcommand)]
        command: commands::topics::TopicsCommand,
    },
    /// Check log, topics, store, ClickHouse, schemas and clocks; every failure is reported with its remedy.
    Doctor(commands::doctor::DoctorArgs),
    /// Show the lag of every role, the archive's newest objects, dead letters and the newest sessions.
    Status(commands::status::StatusArgs),
    /// Run whole installations in simulated time with seeded faults, and audit their output.
    ///
    /// A seed determines everything: the events of a small fleet, the personal data planted in them, which are
    /// withheld, duplicated or malformed, how files and batches are cut, and which operations of which
    /// role fail, crash, lose their answer or stall while a successor takes over. The stages,
    /// runners and sinks are those of the services; log, object store and ClickHouse are models in
    /// memory. Exit status 1 if the auditor found anything, or if a kind of fault never happened in
    /// 100 runs or more; a failing seed is printed with the command that repeats it.
    Simulate(crate::simulate::SimulateArgs),
    /// Send events, one JSON object per line, to a gateway until the log has all of them.
    Send(commands::send::SendArgs),
    /// List, export or register the Avro schemas of the topics.
    Schemas {
        /// What to do with them.
        #[command(subcommand)]
        command: SchemasCommand,
    },
    /// Create, list, rotate or revoke the API keys that the gateway accepts.
    ApiKeys(commands::api_keys::ApiKeysArgs),
    /// Print the completion script of a shell: `custody completion bash > /etc/bash_completion.d/custody`.
    Completion {
        /// Shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages to DIR: custody.1 and one for each command.
    Man {
        /// Directory; made if absent.
        dir: PathBuf,
    },
}

/// The services.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Run everything in this process: intake, processing, archive, ClickHouse, notifications.
    ///
    /// The log is embedded unless log.url names brokers, ClickHouse unless clickhouse.url names a server.
    /// SIGTERM and Ctrl-C drain it; the same command resumes where it stopped.
    Up(ConfigArgs),
    /// Run intake: events over HTTP (JSON, CloudEvents, OTLP) and gRPC (OTLP) into the log.
    Gateway(ConfigArgs),
    /// Run a part of the processing; instances of the same part share the partitions.
    Process {
        /// Which part.
        #[arg(value_parser = PossibleValuesParser::new(Role::process_names()).try_map(process_role))]
        role: Role,
        /// Where the configuration comes from.
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Run the archive: clean events, findings and alerts to Parquet.
    Archive(ConfigArgs),
    /// Run the loader: clean events, findings and alerts to ClickHouse.
    Load(ConfigArgs),
    /// Run notifications: alerts to Alertmanager, PagerDuty, CloudEvents webhooks and Slack.
    Alert(ConfigArgs),
}

fn process_role(name: String) -> Result<Role, String> {
    Role::of_process(&name).ok_or_else(|| format!("custody process does not run {name:?}"))
}

impl ServiceCommand {
    /// The role, and where its configuration comes from.
    fn role(&self) -> (Role, &ConfigArgs) {
        match self {
            ServiceCommand::Up(args) => (Role::Up, args),
            ServiceCommand::Gateway(args) => (Role::Gateway, args),
            ServiceCommand::Process { role, config } => (*role, config),
            ServiceCommand::Archive(args) => (Role::Archive, args),
            ServiceCommand::Load(args) => (Role::Load, args),
            ServiceCommand::Alert(args) => (Role::Alert, args),
        }
    }
}

/// Arguments of `custody verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A data directory of custody, or an archive's directory.
    #[arg(required_unless_present = "store")]
    pub dir: Option<PathBuf>,
    /// Where the archive is, if not in a directory.
    #[command(flatten)]
    pub store: StoreArgs,
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
    /// Where the archive is, if not in the data directory.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Only what happened at or after TIME: RFC 3339, e.g. 2026-01-31T09:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = rfc3339)]
    pub from: Option<TimestampMicros>,
    /// Only what happened before TIME.
    #[arg(long, value_name = "TIME", value_parser = rfc3339)]
    pub to: Option<TimestampMicros>,
    /// Append the clean events to this log: `kafka://HOST:PORT`, or `local:DIR`, the embedded log of another
    /// data directory; where only --kafka-namespace is given, the configured log.
    #[arg(long, value_name = "URL", conflicts_with = "database")]
    pub into_log: Option<String>,
    /// Prefix of every topic of the log that is appended to.
    #[arg(long, value_name = "PREFIX", conflicts_with = "database")]
    pub kafka_namespace: Option<String>,
    /// Configuration file, which names the installation's own database and log;
    /// `custody.toml` if there is one. Read for a range and for a log.
    #[arg(long, env = "CUSTODY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the counts as one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn rfc3339(text: &str) -> Result<TimestampMicros, String> {
    let wanted = "not a time of RFC 3339 with a zone, e.g. 2026-01-31T09:00:00Z";
    TimestampMicros::from_rfc3339(text).ok_or_else(|| wanted.to_owned())
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
    /// Only start an engine on a temporary directory, report that it answers, and stop.
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
    /// Register the schemas of events with the configured registry, each under its record's full name
    /// (RecordNameStrategy), and set which changes the subjects allow. Prints id and subject; registering
    /// again changes nothing.
    Register {
        /// Which changes the subjects allow; a log that is read for years needs a transitive level.
        #[arg(long, value_name = "LEVEL", default_value = "FULL_TRANSITIVE",
              value_parser = ["BACKWARD_TRANSITIVE", "FULL_TRANSITIVE"])]
        compatibility: String,
        /// Where the registry is.
        #[command(flatten)]
        config: ConfigArgs,
    },
}

/// Carries a command out.
///
/// # Errors
/// It could not be carried out: the message names what failed and the remedy.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "fault-points")]
    crate::fault::arm()?;
    // Services take the format of their logs from the configuration.
    match cli.command {
        Command::Service(_) => {}
        // Every fault of a simulation is a warning of some role; the auditor's word is what counts.
        Command::Simulate(_) => telemetry::init(cli.verbose, "off"),
        _ => telemetry::init(cli.verbose, "warn"),
    }
    match cli.command {
        Command::Service(service) => {
            let (role, args) = service.role();
            services::run(role, args, cli.verbose)
        }
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
        Command::Config { command } => commands::config::run(&command),
        Command::Send(args) => commands::send::run(&args),
        Command::Schemas { command } => commands::schemas::run(&command),
        Command::Completion { shell } => commands::manual::completion(shell),
        Command::Man { dir } => commands::manual::pages(&dir),
        Command::ApiKeys(args) => commands::api_keys::run(&args),
    }
}
