//! The hidden subcommand: `custody __clickhouse --library L --data D --listen 127.0.0.1:0`.
//!
//! Locks the data directory, loads the engine, prints `listening ADDRESS` as its first line, serves until SIGTERM or
//! the end of its standard input, finishes what runs, closes the engine, and leaves by `_exit`: with the library
//! loaded, running C++ destructors at exit crashed 3 times of 30.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::{Front, Limits, router};
use crate::embedded::chdb::Engine;
use crate::embedded::os;

/// First word of the line that says the server is ready.
pub(crate) const LISTENING: &str = "listening";
/// How long running statements may take to end after the signal; below the parent's patience.
const STOP_GRACE: Duration = Duration::from_secs(10);
const LOCK_FILE: &str = "custody.lock";
/// Longer than [`STOP_GRACE`].
const LOCK_PATIENCE: Duration = Duration::from_secs(12);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, Parser)]
struct Arguments {
    /// The engine's library.
    #[arg(long)]
    library: PathBuf,
    /// Its data directory; made if absent.
    #[arg(long)]
    data: PathBuf,
    /// Loopback address; port 0 takes a free one.
    #[arg(long)]
    listen: SocketAddr,
    /// ClickHouse configuration for server settings such as `max_server_memory_usage`.
    #[arg(long)]
    config_file: Option<PathBuf>,
}

/// Runs the engine until it is told to stop; `arguments` are those after the subcommand's name. Never returns after a
/// success: it leaves the process with status 0.
///
/// # Errors
/// Arguments, a data directory that another process holds, a library that cannot be loaded, a port that is taken. The
/// caller reports it and leaves without running destructors.
pub(crate) fn run_front(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let name = OsString::from("__clickhouse");
    let arguments = Arguments::try_parse_from(std::iter::once(name).chain(arguments))?;
    ensure!(arguments.listen.ip().is_loopback(), "{} is not a loopback address", arguments.listen);
    let data = create(&arguments.data)?;
    let lock = lock(&data, LOCK_PATIENCE)?;
    let engine = Engine::load(&arguments.library, &data, arguments.config_file.as_deref())
        .with_context(|| format!("cannot load {}", arguments.library.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(engine, &data, arguments.listen))?;
    drop(lock);
    os::exit_now(0)
}

/// The directory in its one spelling: the engine takes `d` and `d/` for two.
fn create(data: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(data).with_context(|| format!("cannot create data directory {}", data.display()))?;
    data.canonicalize().with_context(|| format!("cannot use data directory {}", data.display()))
}

/// One process per data directory. The lock ends with the process, however it ends; a holder that is on its way out,
/// because its parent was killed a moment ago, is given `patience`.
fn lock(data: &Path, patience: Duration) -> anyhow::Result<File> {
    let path = data.join(LOCK_FILE);
    let context = || format!("cannot lock {}", path.display());
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).with_context(context)?;
    let until = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_INTERVAL),
            Err(TryLockError::WouldBlock) => bail!(in_use(data, &mut file)),
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        }
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).with_context(context)?;
    Ok(file)
}

fn in_use(data: &Path, file: &mut File) -> String {
    let mut holder = String::new();
    let holder = match file.read_to_string(&mut holder) {
        Ok(_) => holder.trim(),
        Err(_) => "unknown",
    };
    let data = data.display();
    format!("data directory {data} is in use by process {holder}; stop that process or choose another directory")
}

async fn serve(engine: Arc<Engine>, data: &Path, listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let front = Front::open(Arc::clone(&engine), Limits::default())
        .with_context(|| format!("cannot open data directory {}", data.display()))?;
    let (stop_sender, stop) = oneshot::channel();
    let told = told_to_stop()?;
    eprintln!("ClickHouse engine {} on {}", engine.version(), data.display());
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{LISTENING} {}", listener.local_addr()?).and_then(|()| stdout.flush())?;
    let server = axum::serve(listener, router(Arc::clone(&front))).with_graceful_shutdown(async move {
        told.await;
        let _receiver_may_be_gone = stop_sender.send(());
    });
    let out_of_patience = async {
        let _sender_may_be_gone = stop.await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    // A statement whose client has gone may still run after the last connection is closed.
    let finished = async {
        server.await?;
        front.idle().await;
        anyhow::Ok(())
    };
    tokio::select! {
        ended = finished => ended?,
        () = out_of_patience => eprintln!("statements still run after {STOP_GRACE:?}; leaving them"),
    }
    Ok(())
}

/// Ends at SIGTERM, or when standard input ends: the parent holds its other end and is gone then.
fn told_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (sender, orphaned) = oneshot::channel();
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let _any_end_counts = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _receiver_may_be_gone = sender.send(());
    })?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = orphaned => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_held_once_and_freed_with_its_holder() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let held = lock(dir.path(), Duration::ZERO).expect("free");
        let message = lock(dir.path(), Duration::ZERO).expect_err("held").to_string();
        assert!(message.contains(&format!("in use by process {}", std::process::id())), "{message}");
        drop(held);
        lock(dir.path(), Duration::ZERO).expect("free again");
    }

    #[test]
    fn a_holder_on_its_way_out_is_waited_for() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let held = lock(dir.path(), Duration::ZERO).expect("free");
        let leaving = std::thread::spawn(move || drop(held));
        lock(dir.path(), schemas::testing::PATIENCE).expect("free once the holder is gone");
        leaving.join().expect("no panic");
    }

    #[test]
    fn only_loopback_is_served() {
        let arguments = ["--library", "l", "--data", "/nonexistent/d", "--listen", "0.0.0.0:0"].map(OsString::from);
        let message = run_front(arguments).expect_err("refused").to_string();
        assert!(message.contains("not a loopback address"), "{message}");
    }
}
