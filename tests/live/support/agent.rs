//! Agents: `custody send` fed at an even rate.
//!
//! How many events an agent has sent when something happens depends on the machine; which of its sessions are open
//! then must not, where a test counts them: those of [`Agent::start_holding`] last until the test releases them.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PATIENCE, custody};

/// Events per second of one agent.
const RATE: u32 = 200;
/// Events of a session that nobody holds.
const SESSION_EVENTS: u64 = 40;
/// `agent_instance_id` of the events of held sessions, so that a query finds them.
pub(crate) const HELD: &str = "held";

/// Which session each event belongs to.
#[derive(Debug, Clone, Copy)]
struct Sessions {
    /// So many at a time take turns, each until it has [`SESSION_EVENTS`].
    wide: u64,
    /// So many beside them take every other event between them until they are released.
    held: u64,
}

impl Sessions {
    /// The session of an event, and whether it is a held one.
    fn of(self, event: u64, released: bool) -> (String, bool) {
        let Self { wide, held } = self;
        if held > 0 && !released && event.is_multiple_of(2) {
            return (format!("held-{}", event / 2 % held), true);
        }
        ((event / (SESSION_EVENTS * wide) * wide + event % wide).to_string(), false)
    }
}

/// A process that sends until it is told to stop or dies.
pub(crate) struct Agent {
    stop: Arc<AtomicBool>,
    released: Arc<AtomicBool>,
    feeding: JoinHandle<u64>,
    child: Child,
}

fn command(intake: &str, spool: &Path) -> Command {
    let mut command = custody();
    command.args(["send", "--json", "--endpoint"]).arg(format!("http://{intake}"));
    command.arg("--drain-timeout-ms").arg(PATIENCE.as_millis().to_string()).arg("--spool-dir").arg(spool);
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
        Self::start_with(name, intake, spool, fault, Sessions { wide, held: 0 })
    }

    /// With so many sessions that last until [`Self::release`], beside others that come and go.
    pub(crate) fn start_holding(name: &str, intake: &str, spool: &Path, held: u64) -> Self {
        Self::start_with(name, intake, spool, None, Sessions { wide: held, held })
    }

    fn start_with(name: &str, intake: &str, spool: &Path, fault: Option<&str>, sessions: Sessions) -> Self {
        let mut command = command(intake, spool);
        if let Some(point) = fault {
            command.env("CUSTODY_FAULT_POINT", point);
        }
        let mut child = command.spawn().expect("custody send");
        let mut input = child.stdin.take().expect("standard input");
        let (stop, released) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stopping, releasing, name) = (Arc::clone(&stop), Arc::clone(&released), name.to_owned());
        let feeding = std::thread::spawn(move || {
            let (begun, mut sent) = (Instant::now(), 0_u64);
            while !stopping.load(Ordering::Relaxed) {
                let due = begun + Duration::from_secs(1) * u32::try_from(sent).expect("few") / RATE;
                std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
                let data = json!({ "call_id": format!("{name}-{sent}"), "provider": "openai", "input": format!("mail bob{sent}@example.com") });
                let (session, is_held) = sessions.of(sent, releasing.load(Ordering::Relaxed));
                let mut event = json!({
                    "event_type": "model.call", "agent_id": name, "session_id": format!("{name}-{session}"), "data": data,
                });
                if is_held {
                    event["agent_instance_id"] = json!(HELD);
                }
                if writeln!(input, "{event}").is_err() {
                    break;
                }
                sent += 1;
            }
            sent
        });
        Self { stop, released, feeding, child }
    }

    /// Held sessions have no more events from now on.
    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
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
