//! Supervision: which failures bring a role back, and how roles come to their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use ingest::log::{self, LogError};
use schemas::testing::{PATIENCE, until_async};
use sinks::error::{ErrorClass, SinkError};
use sinks::retry::Backoff;

use super::health::Health;
use super::supervise::{Remedy, RoleSpec, Running, remedy};
use crate::runner::control::{Control, Identity};
use crate::runner::sink::RoleError;

fn of_log(class: log::ErrorClass) -> LogError {
    LogError::new(class, "commit", "x")
}

fn of_sink(class: ErrorClass) -> SinkError {
    SinkError::new(class, "put", "x")
}

#[test]
fn a_failure_is_answered_by_its_class_whatever_wraps_it() {
    let check = |error: anyhow::Error, expected: Remedy| {
        assert_eq!(remedy(&error), expected, "{error:#}");
        let wrapped = error.context("receiver ops stopped");
        assert_eq!(remedy(&wrapped), expected, "{wrapped:#}");
    };
    let classes = [
        (log::ErrorClass::Retry { after_ms: 1 }, Remedy::Again),
        (log::ErrorClass::AbortTxn, Remedy::Again),
        (log::ErrorClass::Fenced, Remedy::Rejoin),
        (log::ErrorClass::Fatal, Remedy::Person),
    ];
    for (class, expected) in classes {
        check(of_log(class).into(), expected);
        check(RoleError::from(of_log(class)).into(), expected);
    }
    let classes = [
        (ErrorClass::Retry, Remedy::Again),
        (ErrorClass::Restart, Remedy::Again),
        (ErrorClass::Data, Remedy::Person),
        (ErrorClass::Config, Remedy::Person),
    ];
    for (class, expected) in classes {
        check(of_sink(class).into(), expected);
        check(RoleError::from(of_sink(class)).into(), expected);
    }
    check(anyhow::anyhow!("anything else"), Remedy::Person);
}

/// A role that fails in one way so many times, then runs until it is told to stop.
fn failing(times: u32, error: impl Fn() -> anyhow::Error + Send + Sync + 'static) -> (RoleSpec, Arc<AtomicU32>) {
    let starts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&starts);
    let error = Arc::new(error);
    let start = move |control: Control| {
        let (started, error) = (counted.fetch_add(1, Ordering::SeqCst), Arc::clone(&error));
        async move {
            if started < times {
                return Err(error());
            }
            control.condition.set(crate::runner::control::Condition::Running);
            control.stop.raised().await;
            Ok(())
        }
        .boxed()
    };
    (RoleSpec { role: "load", label: "load x".to_owned(), ask: None, start: Box::new(start) }, starts)
}

fn running(spec: RoleSpec) -> (Running, Health) {
    let (mut running, health) = (Running::new(Backoff { initial_ms: 1, max_ms: 2 }), Health::default());
    let control = Control { identity: Identity::default(), ..Control::default() };
    health.started.raise();
    running.start(spec, &control, &health);
    (running, health)
}

#[tokio::test]
async fn a_role_comes_back_as_often_as_its_server_goes_away() {
    let (spec, starts) = failing(20, || of_sink(ErrorClass::Retry).into());
    let (mut running, health) = running(spec);
    until_async("ready", async || health.ready().0).await;
    assert_eq!(starts.load(Ordering::SeqCst), 21);
    running.stop().await.expect("drained");
    assert_eq!(running.unfinished(), Vec::<&str>::new());
}

#[tokio::test]
async fn a_role_that_is_pushed_out_comes_back_but_not_for_ever() {
    let (spec, starts) = failing(3, || of_log(log::ErrorClass::Fenced).into());
    let (mut running_on, health) = running(spec);
    until_async("ready", async || health.ready().0).await;
    assert_eq!(starts.load(Ordering::SeqCst), 4);
    running_on.stop().await.expect("drained");

    let (spec, starts) = failing(u32::MAX, || of_log(log::ErrorClass::Fenced).into());
    let (mut ended, _) = running(spec);
    let error = format!("{:#}", ended.ended().await.expect_err("gives up"));
    assert!(error.starts_with("role load x stopped"), "{error}");
    assert_eq!(starts.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn what_a_person_must_look_at_ends_at_once() {
    for class in [ErrorClass::Data, ErrorClass::Config] {
        let (spec, starts) = failing(u32::MAX, move || of_sink(class).into());
        let (mut running, _) = running(spec);
        assert!(running.ended().await.is_err());
        assert_eq!(starts.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn a_role_that_does_not_end_is_named() {
    let start = |_: Control| std::future::pending().boxed();
    let stuck = RoleSpec { role: "load", label: "load x".to_owned(), ask: None, start: Box::new(start) };
    let (rest, _) = running(stuck);
    let error = super::drain(Running::default(), rest, Duration::from_millis(10)).await.expect_err("not drained");
    assert!(error.to_string().contains("drain_timeout_ms = 10: load x"), "{error}");
}

#[tokio::test]
async fn intake_ends_before_anything_else_is_told_to() {
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let spec = |label: &'static str| {
        let order = Arc::clone(&order);
        let start = move |control: Control| {
            let order = Arc::clone(&order);
            async move {
                control.stop.raised().await;
                // Others have their turn: whoever was told too would be seen.
                tokio::task::yield_now().await;
                order.lock().expect("order").push(label);
                Ok(())
            }
            .boxed()
        };
        RoleSpec { role: "x", label: label.to_owned(), ask: None, start: Box::new(start) }
    };
    let ((rest, _), (intake, _)) = (running(spec("load")), running(spec("gateway")));
    super::drain(intake, rest, PATIENCE).await.expect("drained");
    assert_eq!(*order.lock().expect("order"), ["gateway", "load"]);
}
