//! `custody simulate`: a whole installation in one thread and simulated time, with seeded faults, and an
//! auditor that holds what came out against what went in.
//!
//! Every run is made twice from one seed: once without faults, once with. Both must pass the audit, and
//! both must have published the same bytes (invariant I6). What it does not simulate is the servers
//! themselves; `tests/live` asks the real ones.

mod audit;
pub mod chaos;
mod log;
mod store;
mod tables;
mod world;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use self::audit::Outcome;
use self::chaos::{Chaos, Fired, Operation};
use self::world::World;
use crate::fleet::stream::{Stream, StreamConfig};
use crate::fleet::synth;

/// Faults of a run, at most.
const FAULTS_MAX: u32 = 16;
/// Agents' sessions of a run.
const SESSIONS: usize = 14;

/// A build that is broken on purpose: the auditor must catch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Broken {
    /// The loader commits the position before its rows are written.
    CommitBeforeWrite,
    /// The deduplication token names the partition and not the range.
    TokenWithoutRange,
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
    /// Break the build on purpose, to see that the auditor catches it.
    #[arg(long, value_name = "HOW")]
    pub broken: Option<Broken>,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What the runs came to.
#[derive(Debug, Default, Serialize)]
struct Report {
    first_seed: u64,
    runs: u64,
    failed_seeds: Vec<u64>,
    first_failures: Vec<String>,
    /// `operation/fault` and how often it happened.
    fired: std::collections::BTreeMap<String, u64>,
    /// Faults that never happened; with enough runs that is a failure.
    never_fired: Vec<String>,
}

/// Runs the seeds and prints the report; exit status 1 if a run failed, or if a kind of fault never
/// happened in 200 runs or more.
///
/// # Errors
/// The runtime cannot be made.
pub fn run(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let bar = if args.json || args.runs == 1 { ProgressBar::hidden() } else { ProgressBar::new(args.runs) };
    if let Ok(style) = ProgressStyle::with_template("seed {msg} {pos}/{len} {bar:30} {elapsed} {eta}") {
        bar.set_style(style);
    }
    let mut report = Report { first_seed: args.seed, runs: args.runs, ..Report::default() };
    let mut fired = Fired::new();
    for seed in args.seed..args.seed + args.runs {
        bar.set_message(seed.to_string());
        let (wrong, happened) = one(seed, args.broken).with_context(|| format!("seed {seed}"))?;
        happened.into_iter().for_each(|(kind, count)| *fired.entry(kind).or_default() += count);
        if !wrong.is_empty() {
            report.failed_seeds.push(seed);
            if report.first_failures.is_empty() {
                report.first_failures = wrong.into_iter().take(20).collect();
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let all = Operation::ALL.iter().flat_map(|operation| operation.faults().iter().map(|fault| (*operation, *fault)));
    for kind in all {
        let name = format!("{:?}/{:?}", kind.0, kind.1);
        match fired.get(&kind) {
            Some(count) => drop(report.fired.insert(name, *count)),
            None => report.never_fired.push(name),
        }
    }
    print(&report, args)?;
    let is_incomplete = args.runs >= 200 && !report.never_fired.is_empty();
    let is_bad = !report.failed_seeds.is_empty() || is_incomplete;
    Ok(if is_bad { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn print(report: &Report, args: &SimulateArgs) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    println!("{} runs from seed {}: {} failed", report.runs, report.first_seed, report.failed_seeds.len());
    for (kind, count) in &report.fired {
        println!("  {kind:<28} {count}");
    }
    if !report.never_fired.is_empty() {
        println!("never happened: {}", report.never_fired.join(", "));
    }
    if let Some(seed) = report.failed_seeds.first() {
        println!("first failure: custody simulate --seed {seed}");
        report.first_failures.iter().for_each(|line| println!("  {line}"));
    }
    Ok(())
}

/// One seed: what is wrong, and which faults happened.
fn one(seed: u64, broken: Option<Broken>) -> anyhow::Result<(Vec<String>, Fired)> {
    let (mut wrong, calm, _) = pass(seed, 0, None)?;
    wrong.iter_mut().for_each(|line| line.insert_str(0, "without faults: "));
    let (found, rough, fired) = match pass(seed, FAULTS_MAX, broken) {
        Ok(passed) => passed,
        Err(error) => {
            wrong.push(format!("{error:#}"));
            return Ok((wrong, Fired::new()));
        }
    };
    wrong.extend(found);
    differences(&calm, &rough, &mut wrong);
    Ok((wrong, fired))
}

/// Faults must not show in anything that was published.
fn differences(calm: &Outcome, rough: &Outcome, wrong: &mut Vec<String>) {
    for (partition, values) in &calm.topics {
        if rough.topics.get(partition) != Some(values) {
            wrong.push(format!("{partition:?} holds other records than without faults"));
        }
    }
    let keys = |outcome: &Outcome| outcome.objects.keys().cloned().collect::<Vec<_>>();
    if keys(calm) != keys(rough) {
        wrong.push("the archive has other objects than without faults".to_owned());
    }
    let changed = calm.objects.iter().filter(|(key, bytes)| rough.objects.get(*key).is_some_and(|b| b != *bytes));
    wrong.extend(changed.map(|(key, _)| format!("{key} has other bytes than without faults")));
}

/// Runs an installation to its end and audits it.
fn pass(seed: u64, faults_max: u32, broken: Option<Broken>) -> anyhow::Result<(Vec<String>, Outcome, Fired)> {
    let partitions = 1 + (seed % 3) as u32;
    let mut runs = synth::fleet(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    rng.shuffle(&mut runs);
    runs.truncate(SESSIONS);
    let config = StreamConfig { span_ms: 3_600_000, ..crate::demo::settings::stream_of(seed, partitions) };
    let mut stream = Stream::new(&runs, config);
    let input: Vec<_> = stream.by_ref().collect();
    let secrets: Vec<String> = stream.planted().iter().map(|planted| planted.value.clone()).collect();
    let chaos = Chaos::new(seed, faults_max);
    let world = World::new(seed, partitions, chaos.clone(), broken);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        world.run(input).await?;
        let (wrong, outcome) = audit::examine(&world, &stream.totals(), &secrets).await?;
        Ok((wrong, outcome, chaos.fired()))
    })
}
