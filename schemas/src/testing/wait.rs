//! Waiting for what must happen, in the tests of every crate.
//!
//! A test waits for a condition and never for a time: what it sees then follows from its input and not from the
//! machine. The one bound is [`PATIENCE`], beyond which a test that would hang fails instead. It is no property of
//! what is tested, and no test has one of its own.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Longest wait for something that must happen: ten times what the slowest wait of all suites takes on two busy
/// cores, which is the drain of a migration (65 s).
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Waits until something holds and gives other threads their turn; panics after [`PATIENCE`].
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not {what} within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// As [`until`], and gives other tasks their turn. It needs no clock of a runtime, which a test may have stopped.
pub async fn until_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "not {what} within {PATIENCE:?}");
        others_turn().await;
    }
}

async fn others_turn() {
    let mut had_it = false;
    poll_fn(|context| {
        if had_it {
            return Poll::Ready(());
        }
        had_it = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
