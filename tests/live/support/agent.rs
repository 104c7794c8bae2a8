//! Agents: `custody send` fed at an even rate.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::custody;

/// Events per second of one agent.
const RATE: u32 = 200;

/// A process that sends until it is told to stop or dies.
pub(crate) struct Agent {
    stop: Arc<AtomicBool>,
    feeding: JoinHandle<u64>,
    child: Child,
}

fn command(intake: &str, spool: &Path) -> Command {
    let mut command = custody();
    command.args(["send", "--json", "--drain-timeout-ms", "170000", "--endpoint"]).arg(format!("http://{intake}"));
    command.arg("--spool-dir").arg(spool);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Agent {
    /// `name` is the agent's and begins its sessions' names; `fault` is the point at which it dies.
    pub(crate) fn start(name: &str, intake: &str, spool: &Path, fault: Option<&str>) -> Self {
        Self::start_wide(name, intake, spool, fault, 1)
    }

    /// With so many sessions at a time, whose events take turns.
    pub(crate) fn start_wide(name: &str, intake: &str, spool: &Path, fault: Option<&str>, wide: u64) -> Self {
        let mut command = command(intake, spool);
        if let Some(point) = fault {
            command.env("CUSTODY_FAULT_POINT", point);
        }
        let mut child = command.spawn().expect("custody send");
        let mut input = child.stdin.take().expect("standard input");
        let stop = Arc::new(AtomicBool::new(false));
        let (told, name) = (Arc::clone(&stop), name.to_owned());
        let feeding = std::thread::spawn(move || {
            let (begun, mut sent) = (Instant::now(), 0_u64);
            while !told.load(Ordering::Relaxed) {
                let due = begun + Duration::from_secs(1) * u32::try_from(sent).expect("few") / RATE;
                std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
                let data = json!({ "call_id": format!("{name}-{sent}"), "provider": "openai", "input": format!("mail bob{sent}@example.com") });
                let session = format!("{name}-{}", sent / (40 * wide) * wide + sent % wide);
                let event =
                    json!({ "event_type": "model.call", "agent_id": name, "session_id": session, "data": data });
                if writeln!(input, "{event}").is_err() {
                    break;
                }
                sent += 1;
            }
            sent
        });
        Self { stop, feeding, child }
    }

    /// Whether it has died as SIGKILL ends a process.
    pub(crate) fn is_killed(&mut self) -> bool {
        self.child.try_wait().expect("a process").is_some_and(|status| status.signal() == Some(9))
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a process").is_some()
    }

    /// How many events it took before it ended by a failure of its disk, and what it said of that.
    pub(crate) fn refused(self) -> (u64, String) {
        self.stop.store(true, Ordering::Relaxed);
        let _sent = self.feeding.join().expect("fed");
        let output = self.child.wait_with_output().expect("custody send");
        assert_eq!(output.status.code(), Some(2));
        let read = summary(&output)["events"].as_u64().expect("a number");
        // The last one that it read was not taken.
        (read - 1, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// How many events it was given; all of them are acknowledged then.
    pub(crate) fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.feeding.join().expect("fed");
        let output = self.child.wait_with_output().expect("custody send");
        let summary = summary(&output);
        assert_eq!(
            (&summary["events"], &summary["refused"], &summary["waiting"]),
            (&json!(sent), &json!(0), &json!(0))
        );
        sent
    }

    /// Forgets a dead one.
    pub(crate) fn bury(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _sent = self.feeding.join();
        let _status = self.child.wait();
    }
}

/// Sends what a dead one left in its spool.
pub(crate) fn drain(intake: &str, spool: &Path) {
    let output = command(intake, spool).stdin(Stdio::null()).output().expect("custody send");
    let summary = summary(&output);
    assert_eq!((&summary["refused"], &summary["waiting"]), (&json!(0), &json!(0)));
}

fn summary(output: &std::process::Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("custody send: {e}: {errors}"))
}
