//! Keeps roles running and brings them to their end.
//!
//! A role is started again only where its error says that this helps; any other failure ends the
//! process with the role's name. It knows nothing of what roles do.

use std::time::Duration;

use futures::future::BoxFuture;
use ingest::log::{self, LogError};
use sinks::error::{ErrorClass, SinkError};
use sinks::retry::Backoff;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::health::Health;
use crate::runner::control::{Condition, Control, Identity};
use crate::runner::sink::RoleError;

/// A role that ran so long is healthy: its next failure is a first one again.
const HEALTHY: Duration = Duration::from_secs(60);
/// Times in a row that a role comes back after another member took its place. Two processes of the
/// same instance name would push each other out for ever.
const FENCED_MAX: u32 = 5;

/// Starts a role from nothing; called again after a failure that passes.
pub type Start = Box<dyn Fn(Control) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// Tells how a role is doing.
pub type Ask = Box<dyn Fn() -> Condition + Send + Sync>;

/// A role that can be started.
pub struct RoleSpec {
    /// Role, as in metrics.
    pub role: &'static str,
    /// The role and what it works on, as messages and probes name it.
    pub label: String,
    /// For a role that takes requests: how it is doing. It stops first, and readiness is its own.
    pub ask: Option<Ask>,
    /// How to start it.
    pub start: Start,
}

impl std::fmt::Debug for RoleSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoleSpec").field("label", &self.label).finish_non_exhaustive()
    }
}

/// What a failure asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Wait and try again, for ever.
    Again,
    /// Another member took over: come back, but not for ever.
    Rejoin,
    /// A person must look.
    Person,
}

/// The remedy for a failure, by the class of the error that caused it.
pub(super) fn remedy(error: &anyhow::Error) -> Remedy {
    let of_log = |error: &LogError| match error.class {
        log::ErrorClass::Retry { .. } | log::ErrorClass::AbortTxn => Remedy::Again,
        log::ErrorClass::Fenced => Remedy::Rejoin,
        log::ErrorClass::Fatal => Remedy::Person,
    };
    let of_sink = |error: &SinkError| match error.class {
        ErrorClass::Retry | ErrorClass::Restart => Remedy::Again,
        ErrorClass::Data | ErrorClass::Config => Remedy::Person,
    };
    if let Some(error) = error.downcast_ref::<LogError>() {
        return of_log(error);
    }
    if let Some(error) = error.downcast_ref::<SinkError>() {
        return of_sink(error);
    }
    match error.downcast_ref::<RoleError>() {
        Some(RoleError::Log(error)) => of_log(error),
        Some(RoleError::Sink(error)) => of_sink(error),
        None => Remedy::Person,
    }
}

/// Runs a role, again and again where that helps, until it is told to stop.
async fn keep(spec: RoleSpec, control: Control, backoff: Backoff) -> anyhow::Result<()> {
    let seed = crate::clock::now().0.unsigned_abs();
    let mut delays = backoff.delays(seed);
    let mut fenced = 0;
    loop {
        let begun = Instant::now();
        let outcome = (spec.start)(control.clone()).await;
        let is_stopping = control.stop.is_raised();
        let error = match outcome {
            Ok(()) if is_stopping => return Ok(()),
            Ok(()) => anyhow::anyhow!("it ended without being told to"),
            Err(error) => error,
        };
        if begun.elapsed() >= HEALTHY {
            (delays, fenced) = (backoff.delays(seed), 0);
        }
        let remedy = remedy(&error);
        fenced += u32::from(remedy == Remedy::Rejoin);
        if remedy == Remedy::Person || fenced > FENCED_MAX {
            return Err(error);
        }
        if is_stopping {
            tracing::warn!(role = spec.label, "stopped after {error:#}; the next start goes on from there");
            return Ok(());
        }
        control.condition.set(Condition::Retrying);
        control.metrics.restarted(spec.role);
        tracing::warn!(role = spec.label, "starts again after {error:#}");
        control.stop.wait(delays.next().unwrap_or_default()).await;
        if control.stop.is_raised() {
            return Ok(());
        }
    }
}

/// Roles that are running.
#[derive(Debug, Default)]
pub(super) struct Running {
    tasks: JoinSet<(String, anyhow::Result<()>)>,
    controls: Vec<(String, Control)>,
    backoff: Backoff,
}

impl Running {
    /// No roles yet; those that fail wait by `backoff`.
    #[cfg(test)]
    pub(super) fn new(backoff: Backoff) -> Self {
        Self { backoff, ..Self::default() }
    }

    /// Starts a role.
    pub(super) fn start(&mut self, mut spec: RoleSpec, control: &Control, health: &Health) {
        let identity = Identity { role: spec.role, ..control.identity.clone() };
        let control = Control { identity, metrics: control.metrics.clone(), ..Control::default() };
        match spec.ask.take() {
            Some(ask) => health.watch(&spec.label, true, ask),
            None => {
                let condition = control.condition.clone();
                health.watch(&spec.label, false, Box::new(move || condition.get()));
            }
        }
        self.controls.push((spec.label.clone(), control.clone()));
        let backoff = self.backoff;
        self.tasks.spawn(async move {
            let (label, condition) = (spec.label.clone(), control.condition.clone());
            let outcome = keep(spec, control, backoff).await;
            condition.set(Condition::Stopped);
            (label, outcome)
        });
    }

    /// Waits for the first role that ends, and says how; for ever if there is none.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        match self.tasks.join_next().await {
            Some(joined) => named(joined),
            None => std::future::pending().await,
        }
    }

    /// Tells every role to stop and waits for them all.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        self.controls.iter().for_each(|(_, control)| control.stop.raise());
        let mut outcome = Ok(());
        while let Some(joined) = self.tasks.join_next().await {
            outcome = outcome.and(named(joined));
        }
        outcome
    }

    /// Roles that have not ended.
    pub(super) fn unfinished(&self) -> Vec<&str> {
        let is_running = |(_, control): &&(String, Control)| control.condition.get() != Condition::Stopped;
        self.controls.iter().filter(is_running).map(|(label, _)| label.as_str()).collect()
    }
}

/// A role's end with its name.
fn named(joined: Result<(String, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Result<()> {
    match joined {
        Ok((label, outcome)) => outcome.map_err(|error| error.context(format!("role {label} stopped"))),
        Err(error) => Err(anyhow::Error::from(error).context("a role panicked")),
    }
}
