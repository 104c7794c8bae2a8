//! `custody api-keys`: makes, lists, rotates and revokes the keys that the gateway accepts.
//!
//! Each change is written into the key file together with a note of itself; the note leaves it when the
//! log has the event that tells of the change. Where the log cannot be reached, a gateway that reads the
//! file, or the next command, brings the event there.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use ingest::gateway::auth::Role;
use ingest::gateway::auth::change::Change;
use ingest::gateway::auth::change_event;
use ingest::gateway::auth::credential::{self, Minted, SECRET_BYTES};
use ingest::gateway::auth::key_file::{self, edit};
use ingest::gateway::auth::table::{Act, ApiKey, KeyStatus, NewKey, Rotation};
use ingest::log::{Appender as _, Broker};
use schemas::record::OutRecord;
use schemas::time::TimestampMicros;
use serde_json::json;

use crate::clock;
use crate::config::{Config, ConfigArgs};
use crate::operate::connect::{OnLog, on_log};

/// How long a command waits for the log.
const TELL_TIMEOUT: Duration = Duration::from_secs(15);

/// Arguments of `custody api-keys`.
#[derive(Debug, Args)]
pub struct ApiKeysArgs {
    /// Where keys and log are.
    #[command(flatten)]
    pub at: KeysAt,
    /// What to do with the keys.
    #[command(subcommand)]
    pub command: ApiKeysCommand,
}

/// Where the key file and the log are.
#[derive(Debug, Args)]
pub struct KeysAt {
    /// Configuration file, which says where keys and log are; `custody.toml` if there is one.
    #[arg(long, env = "CUSTODY_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Data directory; overrides the configuration's.
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Key file; overrides `gateway.api_keys_file`; api-keys.json in the data directory if neither names one.
    #[arg(long, value_name = "FILE", global = true)]
    pub file: Option<PathBuf>,
    /// Log in which every change is recorded; overrides `log.url`: `local` or `kafka://HOST:PORT`.
    #[arg(long, value_name = "URL", global = true)]
    pub log: Option<String>,
    /// Prefix of every topic name on Kafka; overrides `log.namespace`.
    #[arg(long, value_name = "PREFIX", global = true)]
    pub kafka_namespace: Option<String>,
}

impl KeysAt {
    fn config(&self) -> anyhow::Result<Config> {
        let at = ConfigArgs { config: self.config.clone(), data_dir: self.data_dir.clone() };
        let mut config = at.load()?.config;
        config.log.url = self.log.clone().unwrap_or(config.log.url);
        config.log.namespace = self.kafka_namespace.clone().unwrap_or(config.log.namespace);
        anyhow::ensure!(
            config.log.place().is_some(),
            "--log {:?} is neither `local` nor `kafka://HOST:PORT`",
            config.log.url
        );
        Ok(config)
    }

    fn file(&self, config: &Config) -> PathBuf {
        let named = self.file.clone().or_else(|| config.gateway.api_keys_file.clone());
        named.unwrap_or_else(|| config.data_dir.join("api-keys.json"))
    }
}

/// What to do with the keys.
#[derive(Debug, Subcommand)]
pub enum ApiKeysCommand {
    /// Create a key and print it; it is never shown again.
    Create(CreateArgs),
    /// List the keys, without their secrets, which are not stored.
    List {
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Create a successor of a key and print it; the old one stays valid for a while.
    Rotate(RotateArgs),
    /// Revoke a key at once.
    Revoke(RevokeArgs),
}

/// Arguments of `custody api-keys create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Service account that holds the key, e.g. `support-agents`.
    #[arg(long)]
    pub name: String,
    /// What it may do: owner, admin and member may send; viewer and auditor may only read.
    #[arg(long, value_enum, default_value_t = RoleName::Member)]
    pub role: RoleName,
    /// The only tenant that it may act for.
    #[arg(long, required_unless_present = "all_tenants")]
    pub tenant: Option<String>,
    /// It may act for every tenant; owners only.
    #[arg(long, conflicts_with = "tenant")]
    pub all_tenants: bool,
    /// How long it is valid: 90d, 12h, 30m, 45s or never.
    #[arg(long, default_value = "90d", value_parser = parse_lifetime, value_name = "TIME")]
    pub expires_in: Lifetime,
    /// Who makes it, and why.
    #[command(flatten)]
    pub who: Who,
}

/// Arguments of `custody api-keys rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Id of the key: `cst_` and eight characters.
    pub key: String,
    /// How long the old key is still accepted: 24h, 30m, ...
    #[arg(long, default_value = "24h", value_parser = parse_lifetime, value_name = "TIME")]
    pub overlap: Lifetime,
    /// How long the new key is valid; by default as long as the old one was when it was made.
    #[arg(long, value_parser = parse_lifetime, value_name = "TIME")]
    pub expires_in: Option<Lifetime>,
    /// Who rotates it, and why.
    #[command(flatten)]
    pub who: Who,
}

/// Arguments of `custody api-keys revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Id of the key: `cst_` and eight characters.
    pub key: String,
    /// Who revokes it, and why.
    #[command(flatten)]
    pub who: Who,
}

/// Who does it, and why: part of the event.
#[derive(Debug, Args)]
pub struct Who {
    /// Who does this, a pseudonym where it is a person.
    #[arg(long, env = "USER", default_value = "operator", value_name = "ID", hide_env_values = true)]
    pub by: String,
    /// Why.
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub reason: String,
}

impl Who {
    fn act(&self, at: TimestampMicros) -> Act {
        Act { by: self.by.clone(), at, reason: self.reason.clone() }
    }
}

/// [`Role`] on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleName {
    /// Everything; may act for every tenant.
    Owner,
    /// Everything within a tenant.
    Admin,
    /// Sends and reads.
    Member,
    /// Reads.
    Viewer,
    /// Reads.
    Auditor,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Owner => Role::Owner,
            RoleName::Admin => Role::Admin,
            RoleName::Member => Role::Member,
            RoleName::Viewer => Role::Viewer,
            RoleName::Auditor => Role::Auditor,
        }
    }
}

/// A time span in milliseconds; `None`: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(pub Option<i64>);

impl Lifetime {
    fn end(self, now: TimestampMicros) -> Option<TimestampMicros> {
        self.0.map(|ms| now.plus_ms(ms))
    }
}

/// Reads `90d`, `12h`, `30m`, `45s` or `never`.
fn parse_lifetime(text: &str) -> Result<Lifetime, String> {
    if text == "never" {
        return Ok(Lifetime(None));
    }
    let units = [('d', 86_400_000), ('h', 3_600_000), ('m', 60_000), ('s', 1_000)];
    let unit = units.into_iter().find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, ms)));
    let ms = unit.and_then(|(digits, ms)| digits.parse::<u32>().ok().map(|n| i64::from(n) * ms));
    ms.map(|ms| Lifetime(Some(ms))).ok_or_else(|| "expected a number and d, h, m or s, or never".to_owned())
}

/// Carries `custody api-keys` out.
///
/// # Errors
/// The key file cannot be used or changed: the message names it and the remedy. A log that cannot be
/// reached is no error: the event is kept and told later.
pub fn run(args: &ApiKeysArgs) -> anyhow::Result<ExitCode> {
    let config = args.at.config()?;
    let file = args.at.file(&config);
    let change = match &args.command {
        ApiKeysCommand::List { json } => return list(&file, *json),
        ApiKeysCommand::Create(args) => created(&file, args)?,
        ApiKeysCommand::Rotate(args) => rotated(existing(&file)?, args)?,
        ApiKeysCommand::Revoke(args) => revoked(existing(&file)?, args)?,
    };
    if let Err(error) = tell(&file, &config, change) {
        eprintln!(
            "warning: the log has not been told of this yet ({error:#}); the change is in force, its event is kept in {} \
             and told by the gateway or by the next command that reaches the log",
            file.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn existing(file: &Path) -> anyhow::Result<&Path> {
    match file.exists() {
        true => Ok(file),
        false => bail!("there is no key file {}: name it with --file, or make a first key", file.display()),
    }
}

// In each of these the time is taken under the lock: changes of a file are in the order of their times.

fn created(file: &Path, args: &CreateArgs) -> anyhow::Result<Change> {
    std::fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))
        .with_context(|| format!("cannot make the folder of {}", file.display()))?;
    let minted = mint()?;
    let change = edit(file, |table| {
        let now = clock::now();
        let new = NewKey {
            name: args.name.clone(),
            role: args.role.into(),
            tenant_id: args.tenant.clone(),
            expires_at: args.expires_in.end(now),
        };
        table.create(&minted, new, &args.who.act(now))
    })?;
    let scope = args.tenant.as_deref().map_or_else(|| "every tenant".to_owned(), |tenant| format!("tenant {tenant}"));
    let role = Role::from(args.role);
    eprintln!("made {} ({role} of {scope}) in {}; keep the key, it is not shown again:", minted.id, file.display());
    print_key(&minted)?;
    Ok(change)
}

fn rotated(file: &Path, args: &RotateArgs) -> anyhow::Result<Change> {
    let Some(overlap_ms) = args.overlap.0 else { bail!("--overlap must end: give a time such as 24h") };
    let minted = mint()?;
    let change = edit(file, |table| {
        let now = clock::now();
        let expires_at = args.expires_in.and_then(|lifetime| lifetime.end(now));
        table.rotate(&args.key, &minted, &Rotation { overlap_ms, expires_at }, &args.who.act(now))
    })?;
    let seconds = overlap_ms / 1_000;
    eprintln!("{} takes the place of {}, which is accepted for {seconds} s more:", minted.id, args.key);
    print_key(&minted)?;
    Ok(change)
}

fn revoked(file: &Path, args: &RevokeArgs) -> anyhow::Result<Change> {
    let change = edit(file, |table| table.revoke(&args.key, &args.who.act(clock::now())))?;
    eprintln!("revoked {}: gateways refuse it as soon as they read {} again", args.key, file.display());
    Ok(change)
}

/// A key from the random generator that TLS uses.
fn mint() -> anyhow::Result<Minted> {
    let mut random = [0; SECRET_BYTES];
    let generator = rustls::crypto::ring::default_provider().secure_random;
    generator.fill(&mut random).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(credential::mint(random))
}

/// The key alone on standard output, so that `KEY=$(custody api-keys create ...)` holds it.
fn print_key(minted: &Minted) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{}", minted.secret.expose()).context("cannot print the key: revoke it")
}

fn list(file: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let table = key_file::load(existing(file)?)?;
    let now = clock::now();
    let mut keys: Vec<&ApiKey> = table.keys().collect();
    keys.sort_by_key(|key| (key.created_at, &key.id));
    let mut out = std::io::stdout().lock();
    if as_json {
        let rows: Vec<serde_json::Value> = keys.iter().map(|key| row(key, now)).collect();
        writeln!(out, "{:#}", serde_json::Value::from(rows))?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{:12} {:8} {:8} {:20} {:20} {:17} EXPIRES", "ID", "STATUS", "ROLE", "TENANT", "NAME", "CREATED")?;
    for key in keys {
        let (status, role) = (status_name(key.status(now)), key.role.name());
        let tenant = key.tenant_id.as_deref().unwrap_or("(every tenant)");
        let (created, expires) = (utc(key.created_at), key.expires_at.map_or_else(|| "never".to_owned(), utc));
        writeln!(out, "{:12} {status:8} {role:8} {tenant:20} {:20} {created:17} {expires}", key.id, key.name)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(key: &ApiKey, now: TimestampMicros) -> serde_json::Value {
    json!({
        "id": key.id, "status": key.status(now), "role": key.role, "tenant_id": key.tenant_id, "name": key.name,
        "created_at": utc(key.created_at), "created_by": key.created_by, "expires_at": key.expires_at.map(utc),
        "revoked_at": key.revoked_at.map(utc), "replaced_by": key.replaced_by,
    })
}

const fn status_name(status: KeyStatus) -> &'static str {
    match status {
        KeyStatus::Active => "active",
        KeyStatus::Replaced => "replaced",
        KeyStatus::Expired => "expired",
        KeyStatus::Revoked => "revoked",
    }
}

/// RFC 3339 in UTC, to the minute: `2026-01-31T09:05Z`.
fn utc(at: TimestampMicros) -> String {
    let (year, month, day, hour) = at.utc_hour();
    let minute = at.0.rem_euclid(3_600_000_000) / 60_000_000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}Z")
}

/// Brings the event of a change to the log, and those of earlier ones that nobody brought there.
fn tell(file: &Path, config: &Config, change: Change) -> anyhow::Result<()> {
    let table = key_file::load(file)?;
    let now = clock::now();
    let mut changes = table.overdue(now);
    changes.push(change);
    let records = change_event::records(&changes, &table, now);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let told = runtime.block_on(async { tokio::time::timeout(TELL_TIMEOUT, on_log(config, Append(records))).await });
    // A producer whose broker is away tries for minutes; nobody waits for it.
    runtime.shutdown_background();
    told.with_context(|| format!("no answer within {} s", TELL_TIMEOUT.as_secs()))??;
    edit(file, |table| {
        table.settle(&changes);
        Ok(())
    })?;
    Ok(())
}

/// Records for the log.
struct Append(Vec<OutRecord>);

impl OnLog for Append {
    type Output = ();

    async fn run<B: Broker>(self, broker: B) -> anyhow::Result<()> {
        broker.appender().await?.append(self.0).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_a_unit() {
        let check = |text: &str, expected: Result<Option<i64>, ()>| {
            assert_eq!(parse_lifetime(text).map(|lifetime| lifetime.0).map_err(|_| ()), expected, "{text}");
        };
        check("90d", Ok(Some(7_776_000_000)));
        check("12h", Ok(Some(43_200_000)));
        check("30m", Ok(Some(1_800_000)));
        check("0s", Ok(Some(0)));
        check("never", Ok(None));
        check("4294967295d", Ok(Some(371_085_174_288_000_000)));
        for wrong in ["", "90", "d", "-1d", "1w", "1.5h", "99999999999s", "1é"] {
            check(wrong, Err(()));
        }
    }

    #[test]
    fn times_are_printed_in_utc() {
        assert_eq!(utc(TimestampMicros(1_769_850_359_999_999)), "2026-01-31T09:05Z");
    }
}
