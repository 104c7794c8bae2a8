//! `custody simulate`: a whole installation in one thread and simulated time, with seeded faults, and an
//! auditor that holds what came out against what went in.
//!
//! Real are the stages, their runners, the archive and the loader: the code that the services run.
//! Models are the log, the object store and ClickHouse, each behind a gate that carries faults out.
//!
//! What is promised, and therefore checked for every seed:
//!
//! 1. *Nothing lost, nothing doubled.* What the log acknowledged is there, and has one answer: a clean
//!    record under the same id and made from these bytes, or a dead letter with the bytes untouched.
//!    Archive and tables hold the rows of the log, each once, and nothing else.
//! 2. *Order per source partition.* What a stage writes to a partition because of one source partition,
//!    a lane, stands in the order of the source. How lanes interleave in re-keyed topics (`signals`,
//!    `writers`) is not promised; what is made from them must not show it.
//! 3. *Faults do not show.* Every lane holds the records (key, value, time, headers, in order) that the
//!    pure stages make of the same input without log, runner, batches or faults. One thing is exempt:
//!    ids of completeness findings name offsets of the clean topic, and where transactions take offsets
//!    (odd seeds, as on Kafka) two runs need not agree on those.
//! 4. *Equal log, equal outputs.* There the stages are also run again over the log as it stands, holes
//!    and all, and every byte must agree, ids included. The archive is made again of the same log and
//!    must have the same objects, except where the clock cuts files too (half of the seeds): there rows
//!    are compared.
//! 5. *Found is what was planted.* Each writer's withheld events are reported missing, doubled ones as
//!    duplicates, malformed ones as dead letters, and no others; planted personal data is nowhere.
//! 6. *It gets there.* Faults are bounded in number, and after them every role reaches its end.
//!
//! Not simulated: the servers themselves (`tests/live` asks the real ones), intake before the log has
//! acknowledged, alert receivers, and threads: a role is interrupted at its operations and nowhere else.

mod audit;
pub mod chaos;
mod fold;
mod lanes;
mod log;
mod misnamed;
mod published;
pub mod report;
mod setup;
mod store;
mod tables;
mod workload;
mod world;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use self::chaos::{Chaos, Fired};
use self::report::Report;
use self::setup::Setup;
use self::workload::Workload;
use self::world::World;

/// Faults of a run, at most.
const FAULTS_MAX: u32 = 24;
/// Runs between two lines of progress where standard error is no terminal.
const RUNS_PER_LINE: u64 = 500;

/// A build that is broken on purpose: the auditor must catch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Broken {
    /// The loader commits the position before its rows are written.
    CommitBeforeWrite,
    /// The deduplication token names the partition and not the range.
    TokenWithoutRange,
    /// Archived objects are named by their last offset and not by their first.
    LastOffsetInKey,
    /// The offset moves past a record that was refused, without a dead letter.
    AcknowledgePastReject,
}

/// Arguments of `custody simulate`.
#[derive(Debug, Clone, Args)]
pub struct SimulateArgs {
    /// First seed.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Runs, each with the next seed.
    #[arg(long, default_value_t = 1, value_name = "M")]
    pub runs: u64,
    /// Break the protocols on purpose, to see that the auditor detects it: ends at the first seed that does,
    /// with exit status 1.
    #[arg(long, value_name = "HOW")]
    pub broken: Option<Broken>,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the seeds and prints the report; exit status 1 if the auditor found anything, or if a kind of
/// fault never happened in [`report::COVERAGE_RUNS_MIN`] runs or more.
///
/// # Errors
/// The report cannot be written.
pub fn run(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let bar = ProgressBar::new(args.runs);
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} seeds {bar:30} {elapsed} {eta} {msg}") {
        bar.set_style(style);
    }
    let report = series(args, |report| {
        bar.set_position(report.runs);
        if bar.is_hidden() && report.runs % RUNS_PER_LINE == 0 {
            eprintln!("{} of {} seeds, {} failed", report.runs, args.runs, report.failed_seeds.len());
        }
        // At once and not at the end: a series of hours shows its first failure when it happens.
        if report.failed_seeds.last() == Some(&report.last_seed()) {
            bar.set_message(format!("{} failed", report.failed_seeds.len()));
            bar.suspend(|| eprintln!("seed {} failed: {}", report.last_seed(), report.command(report.last_seed())));
        }
    });
    bar.finish_and_clear();
    print!("{}", report.print(args.json)?);
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Runs the seeds; `progress` is called after each. A broken build ends at the first seed that catches it.
pub fn series(args: &SimulateArgs, mut progress: impl FnMut(&Report)) -> Report {
    let begun = std::time::Instant::now();
    let mut report = Report::new(args.seed, args.broken);
    for seed in args.seed..args.seed.saturating_add(args.runs) {
        let (wrong, fired) = one(seed, args.broken);
        report.add(seed, wrong, &fired);
        report.seconds = begun.elapsed().as_secs_f64();
        progress(&report);
        // A broken build has shown what it was for; more seeds would show the same.
        if args.broken.is_some() && !report.failed_seeds.is_empty() {
            break;
        }
    }
    report
}

/// Runs the installation of a seed to its end and audits it: what is wrong, and which faults happened.
fn one(seed: u64, broken: Option<Broken>) -> (Vec<String>, Fired) {
    let chaos = Chaos::new(seed, FAULTS_MAX);
    let world = World::new(Setup::of(seed), chaos.clone(), broken);
    // A run that could not be finished is a failure of its seed like any other.
    let wrong = audited(&world).unwrap_or_else(|error| vec![format!("{error:#}")]);
    (wrong, chaos.fired())
}

fn audited(world: &World) -> anyhow::Result<Vec<String>> {
    let workload = Workload::of(world.setup.seed, world.setup.partitions);
    // One thread and a paused clock: the order of tasks is then a function of the seed.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let acknowledged = world.run(workload.records.clone()).await?;
        audit::examine(world, &workload, &acknowledged).await
    })
}
