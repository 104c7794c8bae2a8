//! Fetches `libchdb.so` once, with the npm client, into the cache directory.
//!
//! A lock file lets one process fetch while others wait and then find it. Everything happens in a temporary directory
//! beside the target; one rename publishes it, so a file under the final name is always whole and verified. Whatever
//! an earlier fetch left behind is removed by the next one that holds the lock.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};

use super::error::EmbeddedError;
use super::locate::library_path;
use super::package::Package;

const TEMPORARY: &str = "fetch-";
const LIBRARY_IN_PACKAGE: &str = "package/libchdb.so";
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
const REASON_LINES: usize = 8;

/// Path of the library, fetched first if it is not there. Blocks for as long as the download takes; shows progress on
/// standard error.
///
/// # Errors
/// [`EmbeddedError::Fetch`], [`EmbeddedError::Checksum`] or [`EmbeddedError::Io`]; nothing is left behind.
pub(crate) fn fetch(package: &Package, npm: &Path, cache_dir: &Path) -> Result<PathBuf, EmbeddedError> {
    let target = library_path(cache_dir);
    fs::create_dir_all(cache_dir).map_err(EmbeddedError::io("create cache directory", cache_dir))?;
    let lock_path = cache_dir.join("fetch.lock");
    let lock = File::create(&lock_path).map_err(EmbeddedError::io("create", &lock_path))?;
    if lock.try_lock().is_err() {
        tracing::info!(lock = %lock_path.display(), "waiting for another process that fetches ClickHouse's engine");
        lock.lock().map_err(EmbeddedError::io("lock", &lock_path))?;
    }
    if target.is_file() {
        return Ok(target);
    }
    remove_leftovers(cache_dir)?;
    let work = cache_dir.join(format!("{TEMPORARY}{}", std::process::id()));
    fs::create_dir(&work).map_err(EmbeddedError::io("create", &work))?;
    let fetched = download(package, npm, &work)
        .and_then(|packed| unpack(package, &packed, &work))
        .and_then(|library| verify(package, &library).map(|()| library))
        .and_then(|library| publish(&library, &target));
    let cleaned = fs::remove_dir_all(&work).map_err(EmbeddedError::io("remove", &work));
    fetched.and(cleaned).map(|()| target)
}

/// Only called under the lock: nobody else is at work here.
fn remove_leftovers(cache_dir: &Path) -> Result<(), EmbeddedError> {
    let entries = fs::read_dir(cache_dir).map_err(EmbeddedError::io("read", cache_dir))?;
    for entry in entries.flatten() {
        let left = entry.file_name().to_string_lossy().starts_with(TEMPORARY) && entry.path().is_dir();
        if left {
            fs::remove_dir_all(entry.path()).map_err(EmbeddedError::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// The packed file. npm gets a cache of its own, because there the file is seen growing.
fn download(package: &Package, npm: &Path, work: &Path) -> Result<PathBuf, EmbeddedError> {
    let mut command = Command::new(npm);
    let arguments = ["pack", "--silent", "--loglevel=error", "--no-update-notifier"];
    command
        .args(arguments)
        .arg(package.spec())
        .arg("--pack-destination")
        .arg(work)
        .arg("--cache")
        .arg(work.join("npm"));
    command.current_dir(work);
    let what = format!("fetching ClickHouse's engine, {}", package.spec());
    run(package, command, work, &what, package.packed_bytes)?;
    let entries = fs::read_dir(work).map_err(EmbeddedError::io("read", work))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    let packed = paths.find(|path| path.extension().is_some_and(|extension| extension == "tgz"));
    packed.ok_or_else(|| failed(package, "`npm pack` ended well but left no .tgz file"))
}

fn unpack(package: &Package, packed: &Path, work: &Path) -> Result<PathBuf, EmbeddedError> {
    let out = work.join("unpacked");
    fs::create_dir(&out).map_err(EmbeddedError::io("create", &out))?;
    let mut command = Command::new("tar");
    command.arg("-xzf").arg(packed).arg("-C").arg(&out).arg(LIBRARY_IN_PACKAGE);
    run(package, command, &out, "unpacking libchdb.so", package.library_bytes)?;
    Ok(out.join(LIBRARY_IN_PACKAGE))
}

/// Runs a tool with a progress bar that follows the largest file under `watched`.
fn run(package: &Package, mut command: Command, watched: &Path, what: &str, bytes: u64) -> Result<(), EmbeddedError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let log_path = watched.join("stderr.log");
    let log = File::create(&log_path).map_err(EmbeddedError::io("create", &log_path))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn().map_err(|e| failed(package, &format!("cannot start {program}: {e}")))?;
    tracing::info!(bytes, "{what}");
    let bar = progress_bar(what, bytes);
    let status = loop {
        match child.try_wait().map_err(|e| failed(package, &format!("{program}: {e}")))? {
            Some(status) => break status,
            None => std::thread::sleep(PROGRESS_INTERVAL),
        }
        bar.set_position(largest_file_bytes(watched).min(bytes));
    };
    bar.finish_and_clear();
    if status.success() {
        return Ok(());
    }
    let said = fs::read(&log_path).map(|text| last_lines(&String::from_utf8_lossy(&text))).unwrap_or_default();
    Err(failed(package, &format!("`{program}` ended with {status}: {said}")))
}

fn progress_bar(what: &str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes).with_message(what.to_owned());
    let style = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(PROGRESS_INTERVAL);
    bar
}

/// 0 where nothing can be read; files come and go while npm works.
fn largest_file_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => largest_file_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.max().unwrap_or(0)
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(REASON_LINES)..].join(" | ")
}

fn failed(package: &Package, reason: &str) -> EmbeddedError {
    EmbeddedError::Fetch { package: package.spec(), reason: reason.to_owned() }
}

fn verify(package: &Package, library: &Path) -> Result<(), EmbeddedError> {
    let found = sha256(library).map_err(EmbeddedError::io("read", library))?;
    match package.library_sha256 {
        Some(expected) if expected != found => {
            Err(EmbeddedError::Checksum { package: package.spec(), expected: expected.to_owned(), found })
        }
        Some(_) => Ok(()),
        None => {
            tracing::warn!(
                package = package.spec(),
                sha256 = found,
                "no checksum of libchdb.so is pinned for this platform"
            );
            Ok(())
        }
    }
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&buffer[..count]);
    }
}

/// Makes it durable before it is visible, so that a crash cannot leave a short file under the final name.
fn publish(library: &Path, target: &Path) -> Result<(), EmbeddedError> {
    File::open(library).and_then(|file| file.sync_all()).map_err(EmbeddedError::io("sync", library))?;
    let dir = target.parent().unwrap_or(target);
    fs::create_dir_all(dir).map_err(EmbeddedError::io("create", dir))?;
    fs::rename(library, target).map_err(EmbeddedError::io("rename into place", target))
}

#[cfg(test)]
#[path = "fetch/tests.rs"]
mod tests;
