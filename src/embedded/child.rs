//! The engine's process: how it is started, when it is ready, and how it ends.
//!
//! It ends with its parent, however that ends: our own front watches its standard input, and on Linux the kernel sends
//! SIGTERM. That signal follows the *thread* that spawned, so one thread that lives as long as the process spawns all.

use std::collections::VecDeque;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;

use super::error::EmbeddedError;
use super::front::run::LISTENING;
use super::os;

/// A first start of a server on a slow disk; the library needs 0.02 to 0.5 s.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Longer than the front's own grace for running statements, and than a server's.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const PING_INTERVAL: Duration = Duration::from_millis(50);
const LINES_KEPT: usize = 20;

/// A running engine. Dropping it kills the process at once, which loses no acknowledged row; [`Running::stop`] is the
/// orderly way.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Its end tells the front to stop.
    stdin: Option<ChildStdin>,
    engine: PathBuf,
    pub(crate) address: SocketAddr,
}

/// How the process says that it is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ready {
    /// Its first line names the address.
    Line,
    /// `/ping` answers on this address.
    Ping(SocketAddr),
}

impl Running {
    /// Starts the command and waits until it is ready.
    ///
    /// # Errors
    /// [`EmbeddedError::Start`] with the last lines of its standard error.
    pub(crate) async fn start(mut command: Command, ready: Ready) -> Result<Self, EmbeddedError> {
        let engine = PathBuf::from(command.as_std().get_program());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // A group of its own: Ctrl-C goes to the parent, which stops the engine after its own last insert.
        command.process_group(0);
        os::die_with_parent(command.as_std_mut());
        let failed = |reason: String| EmbeddedError::Start { engine: engine.clone(), reason };
        let mut child = spawn(command).await.map_err(|e| failed(e.to_string()))?;
        let last_lines = LastLines::follow(child.stderr.take());
        let stdin = child.stdin.take();
        let outcome = tokio::time::timeout(START_PATIENCE, wait_ready(&mut child, ready)).await;
        match outcome.unwrap_or_else(|_| Err(format!("not ready after {START_PATIENCE:?}"))) {
            Ok(address) => Ok(Self { child, stdin, engine, address }),
            Err(reason) => {
                let _already_gone = child.start_kill();
                let _already_gone = child.wait().await;
                Err(failed(format!("{reason}; last lines: {}", last_lines.join().await)))
            }
        }
    }

    /// The process's id, or `None` once it has ended.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Lets running statements finish, then waits for the process to end; kills it after 20 s.
    ///
    /// # Errors
    /// [`EmbeddedError::Start`] if the process did not end by itself with status 0.
    pub(crate) async fn stop(mut self) -> Result<(), EmbeddedError> {
        if let Some(pid) = self.child.id() {
            os::terminate(pid);
        }
        drop(self.stdin.take());
        let reason = match tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(ended) => ended_by(ended),
            Err(_) => {
                let _already_gone = self.child.start_kill();
                let _already_gone = self.child.wait().await;
                format!("did not stop within {STOP_PATIENCE:?} and was killed")
            }
        };
        Err(EmbeddedError::Stop { engine: self.engine.clone(), reason })
    }
}

fn ended_by(ended: std::io::Result<ExitStatus>) -> String {
    ended.map_or_else(|error| error.to_string(), |status| format!("the process ended with {status}"))
}

async fn wait_ready(child: &mut Child, ready: Ready) -> Result<SocketAddr, String> {
    match ready {
        Ready::Line => {
            let stdout = child.stdout.take().ok_or("standard output is closed")?;
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).await.map_err(|e| e.to_string())?;
            match listening_address(&line) {
                Some(address) => Ok(address),
                None => Err(ended_by(child.wait().await)),
            }
        }
        Ready::Ping(address) => {
            // Nobody reads it; a full pipe would stop the server.
            drop(child.stdout.take());
            tokio::select! {
                ended = child.wait() => Err(ended_by(ended)),
                () = answer_to_ping(address) => Ok(address),
            }
        }
    }
}

fn listening_address(line: &str) -> Option<SocketAddr> {
    line.trim().strip_prefix(LISTENING)?.trim().parse().ok()
}

async fn answer_to_ping(address: SocketAddr) {
    let mut interval = tokio::time::interval(PING_INTERVAL);
    loop {
        interval.tick().await;
        if ping(address).await.is_ok_and(|answer| answer.ends_with(b"Ok.\n")) {
            return;
        }
    }
}

async fn ping(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Keeps the last lines of a child's standard error and passes each on to the log.
#[derive(Debug, Default)]
struct LastLines {
    lines: Arc<Mutex<VecDeque<String>>>,
    ended: Option<oneshot::Receiver<()>>,
}

impl LastLines {
    /// A thread, not a task: a runtime that is busy must not stop the engine by a full pipe.
    fn follow(stderr: Option<tokio::process::ChildStderr>) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let Some(stderr) = stderr.and_then(|stderr| stderr.into_owned_fd().ok()) else { return Self::default() };
        let (sender, ended) = oneshot::channel();
        let kept = Arc::clone(&lines);
        let follow = move || {
            let reader = std::io::BufReader::new(std::fs::File::from(stderr));
            for line in reader.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                tracing::info!(target: "clickhouse", "{line}");
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > LINES_KEPT {
                    kept.pop_front();
                }
            }
            let _receiver_may_be_gone = sender.send(());
        };
        let spawned = std::thread::Builder::new().name("clickhouse stderr".into()).spawn(follow);
        Self { lines, ended: spawned.is_ok().then_some(ended) }
    }

    async fn join(self) -> String {
        if let Some(ended) = self.ended {
            let _sender_may_be_gone = ended.await;
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }
}

/// One command to spawn, and who waits for it.
struct Order {
    command: Command,
    runtime: tokio::runtime::Handle,
    reply: oneshot::Sender<std::io::Result<Child>>,
}

/// Spawns on the one thread that lives as long as the process.
async fn spawn(command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for mut order in orders {
                let _runtime = order.runtime.enter();
                let _orderer_may_be_gone = order.reply.send(order.command.spawn());
            }
        });
        sender
    });
    let gone = || std::io::Error::other("the spawning thread is gone");
    let (reply, answer) = oneshot::channel();
    let order = Order { command, runtime: tokio::runtime::Handle::current(), reply };
    spawner.send(order).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

#[cfg(test)]
#[path = "child/tests.rs"]
mod tests;
