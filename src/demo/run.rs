//! One demo on one log: starts the roles, feeds them, ends them, and counts what came out.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use ingest::log::Broker;
use processors::pii::Policy;
use schemas::time::TimestampMicros;
use schemas::topic::Topic;
use sinks::clickhouse::client::ClickHouse;
use sinks::clickhouse::insert::ClickHouseSink;
use sinks::clickhouse::migrate::migrate;
use sinks::parquet::read;
use sinks::parquet::store::Store;

use super::census::{self, Census};
use super::counts;
use super::leaks::Values;
use super::pipeline::Pipeline;
use super::settings;
use super::summary::{AlertLine, Summary, rss_bytes_max};
use super::{DemoOptions, Input};
use super::{external, intake};
use crate::archive_role::ArchiveRole;
use crate::clock;
use crate::commands::{clickhouse::wait_for_interrupt, engine, verify};
use crate::embedded::EmbeddedClickHouse;
use crate::fleet::stream::Stream;
use crate::load_role::LoadRole;
use crate::roles;
use crate::runner::control::Control;
use crate::runner::sink::SinkRole;
use crate::sink_table::{PUBLISHED, Sink};
use crate::stage_table;

/// Database of the demo.
const DATABASE: &str = "custody";
/// Port that `--keep-running` serves ClickHouse on.
const CLICKHOUSE_PORT: u16 = 8123;

/// What the pipeline left behind.
struct Published {
    census: Census,
    counts: counts::Counts,
    archived_rows: u64,
    files: u64,
    verify: String,
    values: usize,
    leaked: usize,
}

/// Runs the demo on a log.
///
/// # Errors
/// A part could not be started, or stopped: the message names it and the remedy.
pub(crate) async fn run<B: Broker>(broker: B, input: &Input, options: &DemoOptions) -> anyhow::Result<ExitCode> {
    let begun = clock::now();
    let port = if options.keep_running { CLICKHOUSE_PORT } else { 0 };
    let clickhouse = engine::start(&options.data_dir, options.clickhouse.clone(), port).await?;
    // Whatever was committed stays, so that an interrupted run is continued by the next one.
    let outcome = tokio::select! {
        outcome = stream_all(&broker, input, options, &clickhouse, begun) => outcome,
        signal = wait_for_interrupt() => {
            signal.and_then(|()| Err(anyhow::anyhow!("interrupted: run the same command again to continue")))
        }
    };
    let code = match outcome {
        Ok(summary) => {
            print(&summary, options)?;
            if options.keep_running {
                eprintln!("ClickHouse answers at {}; press Ctrl-C to stop", clickhouse.url());
                wait_for_interrupt().await?;
            }
            ExitCode::from(u8::from(!summary.holds()))
        }
        Err(error) => {
            clickhouse.stop().await?;
            return Err(error);
        }
    };
    clickhouse.stop().await?;
    Ok(code)
}

async fn stream_all<B: Broker>(
    broker: &B,
    input: &Input,
    options: &DemoOptions,
    clickhouse: &EmbeddedClickHouse,
    begun: TimestampMicros,
) -> anyhow::Result<Summary> {
    let server = engine::connect(clickhouse, DATABASE)?;
    migrate(&server).await.context("cannot set up ClickHouse")?;
    roles::create_topics(broker, settings::PARTITIONS).await?;
    let present = intake::present(broker, settings::PARTITIONS).await?;
    input.refuse_foreign_log(&present, options)?;
    let store = options.store.open(&engine::archive_dir(&options.data_dir))?;
    let mut stream = Stream::new(&input.runs, settings::stream(options.seed, options.scale as usize));

    if options.external_roles {
        feed(broker, &mut stream, present, &Pipeline::default(), options).await?;
        external::wait(broker, &store, &server, options).await?;
    } else {
        let pipeline = start(broker, options.seed, &store, &engine::settings(clickhouse, DATABASE)).await?;
        feed(broker, &mut stream, present, &pipeline, options).await?;
        finish(pipeline, options).await?;
    }
    let seconds = (clock::now().0 - begun.0) as f64 / 1e6;
    let rss_bytes_max = rss_bytes_max();

    let published = inspect(broker, input, &stream, &store, &server, options).await?;
    let summary = summarise(input, options, &stream, published, clickhouse.url());
    Ok(Summary { seconds, events_per_second: summary.accepted as f64 / seconds, rss_bytes_max, ..summary })
}

/// Starts every role, upstream first.
async fn start<B: Broker>(
    broker: &B,
    seed: u64,
    store: &Store,
    clickhouse: &sinks::clickhouse::client::ClickHouseConfig,
) -> anyhow::Result<Pipeline> {
    let mut pipeline = Pipeline::default();
    let b = || broker.clone();
    let settings = settings::stages(seed, settings::PARTITIONS);
    for wave in stage_table::waves() {
        pipeline.wave();
        for spec in wave {
            pipeline.start(spec.name, |c| roles::stage(b(), spec.stage, &settings, None, c));
        }
    }
    pipeline.wave();
    for topic in PUBLISHED {
        let archive = ArchiveRole::open(store.clone(), settings::archive()).await?;
        let sink = Sink::Archive;
        pipeline.start(sink.spec().name, |c| publish(b(), sink, topic, archive, c));
        let rows = ClickHouseSink::open(clickhouse).await?;
        let load = LoadRole::new(rows, settings::load(), settings::LOAD_FLUSH_INTERVAL_MS);
        let sink = Sink::Load;
        pipeline.start(sink.spec().name, |c| publish(b(), sink, topic, load, c));
    }
    Ok(pipeline)
}

async fn publish<B: Broker, S: SinkRole>(
    broker: B,
    sink: Sink,
    topic: Topic,
    role: S,
    control: Control,
) -> anyhow::Result<()> {
    roles::sink(broker, &sink.group(topic), topic, role, control).await
}

async fn feed<B: Broker>(
    broker: &B,
    stream: &mut Stream<'_>,
    present: BTreeMap<u32, u64>,
    pipeline: &Pipeline,
    options: &DemoOptions,
) -> anyhow::Result<()> {
    let bar = if options.json { ProgressBar::hidden() } else { ProgressBar::new(stream.progress().1) };
    if let Ok(style) = ProgressStyle::with_template("sessions {pos}/{len} {bar:30} {elapsed} {msg}") {
        bar.set_style(style);
    }
    let control = Control::default();
    intake::run(broker, stream, present, &control, |stream| {
        if pipeline.has_failed() {
            control.stop.raise();
        }
        bar.set_position(stream.progress().0);
        bar.set_message(format!("{} events in the log", stream.totals().delivered));
    })
    .await
    .or_else(|error| if pipeline.has_failed() { Ok(()) } else { Err(error) })?;
    bar.finish_and_clear();
    Ok(())
}

/// Ends the pipeline, showing how far each role is.
async fn finish(pipeline: Pipeline, options: &DemoOptions) -> anyhow::Result<()> {
    let bar = if options.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    let controls = pipeline.controls();
    let show = async {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(200));
        loop {
            every.tick().await;
            let parts: Vec<String> = controls.iter().map(|(name, c)| format!("{name} {}", c.records.get())).collect();
            bar.set_message(parts.join("  "));
        }
    };
    let outcome = tokio::select! {
        outcome = pipeline.finish() => outcome,
        () = show => Ok(()),
    };
    bar.finish_and_clear();
    outcome
}

/// Counts what is in the log, the archive and ClickHouse, and looks for leaked values.
async fn inspect<B: Broker>(
    broker: &B,
    input: &Input,
    stream: &Stream<'_>,
    store: &Store,
    server: &ClickHouse,
    options: &DemoOptions,
) -> anyhow::Result<Published> {
    let report = verify::check_archive(store, !options.json).await?;
    let manifests = read::manifests(store, &[Topic::Clean]).await?;
    let mut values = Values::default();
    input.runs.iter().for_each(|run| values.collect(run, &Policy::default()));
    stream.planted().iter().for_each(|planted| values.add(&planted.value));
    let searcher = values.searcher()?;
    let mut leaked = searcher.search_archive(store).await?;
    leaked.extend(counts::leaked(server, &values, &searcher).await?);
    for value in leaked.iter().take(3) {
        tracing::error!(bytes = value.len(), "a personal value of the input stands in the output");
    }
    Ok(Published {
        census: census::take(broker).await?,
        counts: counts::of_database(server).await?,
        archived_rows: manifests.iter().map(|m| m.publication.rows).sum(),
        files: report.progress.objects,
        verify: if report.is_intact() { "ok".to_owned() } else { format!("{} failures", report.failures.len()) },
        values: values.len(),
        leaked: leaked.len(),
    })
}

fn summarise(
    input: &Input,
    options: &DemoOptions,
    stream: &Stream<'_>,
    published: Published,
    clickhouse: &str,
) -> Summary {
    let totals = stream.totals();
    let Published { census, counts, archived_rows, files, verify, values, leaked } = published;
    let count = |kind: &str| census.findings.get(kind).copied().unwrap_or_default();
    Summary {
        input: input.name.clone(),
        seed: options.seed,
        scale: options.scale,
        sessions: totals.sessions,
        emitted: totals.emitted,
        withheld: totals.withheld,
        duplicated: totals.duplicated,
        late: totals.late,
        malformed: totals.malformed,
        accepted: census.accepted,
        clean: census.clean,
        rejected: census.rejected.values().sum(),
        unknown_types: census.unknown_types,
        archived_rows,
        clickhouse_rows: counts.events,
        findings_rows: counts.findings,
        alerts_rows: counts.alerts,
        missing_reported: census.missing.max(0).unsigned_abs(),
        duplicates_reported: count("duplicate"),
        alerts: census.alerts.values().map(AlertLine::from).collect(),
        rejected_by_reason: census.rejected,
        findings: census.findings,
        pii_values_checked: values as u64,
        pii_values_found: leaked as u64,
        files,
        verify,
        findings_sha256: census.findings_sha256.to_hex(),
        seconds: 0.0,
        events_per_second: 0.0,
        rss_bytes_max: 0,
        data_dir: options.data_dir.display().to_string(),
        log: options.log.clone(),
        clickhouse: clickhouse.to_owned(),
    }
}

fn print(summary: &Summary, options: &DemoOptions) -> anyhow::Result<()> {
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(summary)?),
        false => println!("{}", summary.to_text()),
    }
    Ok(())
}
