//! `custody dlq`: shows dead letters, replays them once their cause is repaired, or closes them for good.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use ingest::log::Broker;
use processors::pii::{Pii, PiiConfig, TokenKeys};
use schemas::codec::{RegistryFacts, codec};
use schemas::text::RawText;
use serde_json::json;

use crate::clock;
use crate::config::{Config, ConfigArgs};
use crate::dlq::{Letter, LetterId, Letters, repair, scan};
use crate::operate::connect::{OnLog, on_log};
use crate::registry::{RegistryClient, SchemaRegistry};

/// Bytes of a letter that `show` prints; `--out` writes all of them.
const SHOWN_BYTES_MAX: usize = 1024;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// List letters: place, reason, source, time, size. Open ones only, unless --all.
    List {
        /// Closed letters too.
        #[arg(long)]
        all: bool,
        /// Only letters with this reason code, e.g. `unknown_schema`.
        #[arg(long, value_name = "CODE")]
        reason: Option<String>,
        /// One JSON object per line.
        #[arg(long)]
        json: bool,
        /// Where the log is.
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Show one letter: reason, source, headers and the original bytes, which may hold personal data.
    Show {
        /// Place of the letter, as `list` prints it.
        letter: LetterId,
        /// Write the original bytes to FILE, unchanged.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Where the log is.
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Append letters to their topic again, if the current configuration accepts them.
    ///
    /// Each is checked first: one that would be refused again is not appended, and the reason is printed. Exit
    /// status 1 if any was refused.
    Replay(ReplayLetters),
    /// Close letters that will not be replayed; their bytes remain in the topic.
    Discard {
        /// Places of the letters.
        #[arg(required = true)]
        letters: Vec<LetterId>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        because: String,
        /// Where the log is.
        #[command(flatten)]
        config: ConfigArgs,
    },
}

/// Which letters to replay.
#[derive(Debug, Args)]
pub struct ReplayLetters {
    /// Places of the letters.
    #[arg(required_unless_present_any = ["reason", "all"], conflicts_with_all = ["reason", "all"])]
    letters: Vec<LetterId>,
    /// Every open letter with this reason code.
    #[arg(long, value_name = "CODE", conflicts_with = "all")]
    reason: Option<String>,
    /// Every open letter.
    #[arg(long)]
    all: bool,
    /// Only print what would happen.
    #[arg(long)]
    dry_run: bool,
    /// Where the log is, and the configuration that letters are checked against.
    #[command(flatten)]
    config: ConfigArgs,
}

/// Carries the command out.
///
/// # Errors
/// The log cannot be opened or read, or there is no such letter.
pub fn run(command: &DlqCommand) -> anyhow::Result<ExitCode> {
    let args = match command {
        DlqCommand::List { config, .. } | DlqCommand::Show { config, .. } | DlqCommand::Discard { config, .. } => {
            config
        }
        DlqCommand::Replay(replay) => &replay.config,
    };
    let config = args.load()?.config;
    config.schemas.configure()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(on_log(&config, Work { command, config: &config }))
}

struct Work<'a> {
    command: &'a DlqCommand,
    config: &'a Config,
}

impl OnLog for Work<'_> {
    type Output = ExitCode;

    async fn run<B: Broker>(self, broker: B) -> anyhow::Result<ExitCode> {
        let letters = scan::letters(&broker).await?;
        match self.command {
            DlqCommand::List { all, reason, json, .. } => list(&letters, *all, reason.as_deref(), *json),
            DlqCommand::Show { letter, out, .. } => show(find(&letters, *letter)?, out.as_deref()),
            DlqCommand::Replay(which) => replay(&broker, &letters, which, self.config).await,
            DlqCommand::Discard { letters: which, because, .. } => {
                let chosen: Vec<&Letter> = which.iter().map(|id| find(&letters, *id)).collect::<Result<_, _>>()?;
                let closed = repair::discard(&broker, chosen, because, clock::now()).await?;
                println!("discarded {} of {}; the others were closed already", closed.len(), which.len());
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn find(letters: &Letters, id: LetterId) -> anyhow::Result<&Letter> {
    letters.get(id).with_context(|| format!("there is no letter at {id}; `custody dlq list --all` lists all"))
}

fn source(letter: &Letter) -> String {
    letter
        .source
        .map_or("unknown".to_owned(), |at| format!("{}/{}/{}", at.partition.topic, at.partition.partition, at.offset))
}

fn list(letters: &Letters, all: bool, reason: Option<&str>, as_json: bool) -> anyhow::Result<ExitCode> {
    let chosen = letters.iter().filter(|l| all || l.resolution.is_none());
    let chosen: Vec<&Letter> = chosen.filter(|l| reason.is_none_or(|r| r == l.reason)).collect();
    let mut out = std::io::stdout().lock();
    if !as_json && !chosen.is_empty() {
        writeln!(out, "{:<10} {:<20} {:<34} {:>8}  {:<10} message", "letter", "reason", "source", "bytes", "state")?;
    }
    for letter in &chosen {
        let bytes = letter.value.as_ref().map_or(0, bytes::Bytes::len);
        let state = letter.resolution.as_deref().unwrap_or("open");
        match as_json {
            true => writeln!(
                out,
                "{}",
                json!({"letter": letter.id.to_string(), "reason": letter.reason, "source": source(letter),
                       "stage": letter.stage, "message": letter.message, "time_ms": letter.timestamp.ms(),
                       "bytes": bytes, "state": state})
            )?,
            false => writeln!(
                out,
                "{:<10} {:<20} {:<34} {bytes:>8}  {state:<10} {}",
                letter.id.to_string(),
                letter.reason,
                source(letter),
                letter.message
            )?,
        }
    }
    if !as_json {
        let open: BTreeMap<&str, u64> = letters.open_by_reason();
        let parts: Vec<String> = open.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        writeln!(out, "open: {}", if parts.is_empty() { "none".to_owned() } else { parts.join(", ") })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(letter: &Letter, file: Option<&std::path::Path>) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let value = letter.value.as_deref().unwrap_or_default();
    writeln!(out, "letter   {}", letter.id)?;
    writeln!(out, "reason   {}: {}", letter.reason, letter.message)?;
    writeln!(out, "stage    {}", letter.stage)?;
    writeln!(out, "source   {}", source(letter))?;
    writeln!(out, "state    {}", letter.resolution.as_deref().unwrap_or("open"))?;
    writeln!(out, "key      {}", letter.key.as_deref().map_or("none".into(), String::from_utf8_lossy))?;
    for (name, value) in &letter.headers {
        writeln!(out, "header   {name}: {}", String::from_utf8_lossy(value))?;
    }
    writeln!(out, "bytes    {}", value.len())?;
    if let Some(file) = file {
        std::fs::write(file, value).with_context(|| format!("cannot write {}", file.display()))?;
        writeln!(out, "written to {}", file.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    let shown = &value[..value.len().min(SHOWN_BYTES_MAX)];
    write!(out, "{}", hex_dump(shown))?;
    if shown.len() < value.len() {
        writeln!(out, "... {} more bytes; --out FILE writes all", value.len() - shown.len())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Sixteen bytes to a line: offset, hexadecimal, printable characters.
fn hex_dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (row, chunk) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = chunk.iter().map(|b| format!("{b:02x}")).collect();
        let shown: String =
            chunk.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { *b as char } else { '.' }).collect();
        text.push_str(&format!("{:08x}  {:<47}  {shown}\n", row * 16, hex.join(" ")));
    }
    text
}

async fn replay<B: Broker>(
    broker: &B,
    letters: &Letters,
    which: &ReplayLetters,
    config: &Config,
) -> anyhow::Result<ExitCode> {
    let chosen: Vec<&Letter> = match which.letters.as_slice() {
        [] => letters
            .iter()
            .filter(|l| l.resolution.is_none() && which.reason.as_ref().is_none_or(|r| *r == l.reason))
            .collect(),
        ids => ids.iter().map(|id| find(letters, *id)).collect::<Result<_, _>>()?,
    };
    // Only whether the stage refuses is asked here; the tokens of this attempt go nowhere.
    let keys = TokenKeys::new([0; 32]);
    let pii = Pii::new(PiiConfig { keys, policies: config.pii.policies() });
    let facts = asked_for(&chosen, config).await?;
    let report = repair::replay(broker, chosen, &pii, &facts, clock::now(), which.dry_run).await?;
    let verb = if which.dry_run { "would be replayed" } else { "replayed" };
    for id in &report.replayed {
        println!("{id} {verb}");
    }
    for (id, why) in &report.refused {
        println!("{id} left as it is: {why}");
    }
    println!("{} {verb}, {} left as they are", report.replayed.len(), report.refused.len());
    Ok(if report.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// What the schema registry says of the ids that letters ask for.
async fn asked_for(letters: &[&Letter], config: &Config) -> anyhow::Result<RegistryFacts> {
    let ids = letters.iter().filter_map(|letter| codec().asks_for::<RawText>(letter.value.as_deref())).collect();
    match RegistryClient::new(&config.schemas.registry)? {
        Some(client) => SchemaRegistry::new(client).look_up(&ids).await.context("nothing was replayed"),
        None => Ok(RegistryFacts::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::hex_dump;

    #[test]
    fn a_dump_has_offset_bytes_and_text() {
        let dump = hex_dump(b"\x00\x01custody\xff 0123456789");
        let lines: Vec<&str> = dump.lines().collect();
        assert_eq!(lines[0], "00000000  00 01 63 75 73 74 6f 64 79 ff 20 30 31 32 33 34  ..custody. 01234");
        assert_eq!(lines[1], format!("00000010  {:<47}  56789", "35 36 37 38 39"));
    }
}
