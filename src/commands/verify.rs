//! `custody verify`: checks an archive without trusting anything but its bytes.

use std::path::Path;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sinks::parquet::store::Store;
use sinks::parquet::verify::{VerifyOptions, VerifyReport, verify};

use crate::cli::VerifyArgs;
use crate::commands::engine;

/// Verifies and prints; exit status 1 if anything is not as it was written.
///
/// # Errors
/// The directory holds no archive, or cannot be read.
pub fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let name = match (&args.dir, &args.store.store) {
        (Some(dir), _) => dir.display().to_string(),
        (None, url) => url.clone().unwrap_or_default(),
    };
    let report = runtime.block_on(async {
        match &args.dir {
            Some(dir) => check(dir, !args.json).await,
            None => check_store(&args.store.open(Path::new(""))?, &name, !args.json).await,
        }
    })?;
    match args.json {
        true => println!("{}", to_json(&report)),
        false => print(&report, &name),
    }
    Ok(if report.is_intact() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Verifies the archive of a data directory, or at a directory.
///
/// # Errors
/// As [`run`].
pub async fn check(dir: &Path, shows_progress: bool) -> anyhow::Result<VerifyReport> {
    let of_data_dir = engine::archive_dir(dir);
    let root = if of_data_dir.is_dir() { of_data_dir } else { dir.to_owned() };
    anyhow::ensure!(
        root.join("archive").is_dir(),
        "{} holds no archive: expected {}/archive; name the data directory of a run or the archive's parent",
        dir.display(),
        root.display()
    );
    check_archive(&Store::local(&root)?, shows_progress).await
}

/// Verifies the archive of a store; an empty one is a wrong address, and no intact archive.
async fn check_store(store: &Store, name: &str, shows_progress: bool) -> anyhow::Result<VerifyReport> {
    let report = check_archive(store, shows_progress).await?;
    let is_empty = report.partitions.is_empty() && report.failures.is_empty() && report.notes.is_empty();
    anyhow::ensure!(!is_empty, "{name} holds no archive: expected objects under archive/; correct --store");
    Ok(report)
}

/// Verifies the archive of an open store.
///
/// # Errors
/// As [`run`].
pub async fn check_archive(store: &Store, shows_progress: bool) -> anyhow::Result<VerifyReport> {
    let bar = if shows_progress { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} objects {bar:30} {msg}") {
        bar.set_style(style);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = VerifyOptions { threads, ..VerifyOptions::default() };
    let report = verify(store, &options, |progress| {
        bar.set_length(progress.objects_total);
        bar.set_position(progress.objects);
        bar.set_message(format!("{} MiB", progress.raw_bytes >> 20));
    })
    .await?;
    bar.finish_and_clear();
    Ok(report)
}

fn print(report: &VerifyReport, name: &str) {
    for partition in &report.partitions {
        println!(
            "{}/{}: {} objects, {} rows, offsets [{}, {})",
            partition.partition.topic,
            partition.partition.partition,
            partition.manifests,
            partition.rows,
            partition.offset_first,
            partition.head.offset_next
        );
    }
    report.notes.iter().for_each(|note| println!("note: {note}"));
    for failure in &report.failures {
        println!("FAIL {}: {}", failure.object, failure.reason);
    }
    match report.failures.len() {
        0 => println!("ok: {name} holds what was written, as far as its own chain can show"),
        count => println!("{count} failures in {name}"),
    }
}

fn to_json(report: &VerifyReport) -> serde_json::Value {
    let partitions: Vec<_> = report
        .partitions
        .iter()
        .map(|p| {
            json!({ "topic": p.partition.topic.name(), "partition": p.partition.partition, "objects": p.manifests,
                "rows": p.rows, "ticks": p.ticks, "offset_first": p.offset_first, "offset_next": p.head.offset_next,
                "head_manifest_sha256": p.head.manifest_sha256.to_hex(), "is_witnessed": p.is_witnessed })
        })
        .collect();
    let failures: Vec<_> = report.failures.iter().map(|f| json!({ "object": f.object, "reason": f.reason })).collect();
    json!({ "is_intact": report.is_intact(), "partitions": partitions, "failures": failures, "notes": report.notes,
        "objects": report.progress.objects, "bytes": report.progress.bytes, "raw_bytes": report.progress.raw_bytes })
}
