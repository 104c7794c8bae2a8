//! SIGTERM and SIGINT: the first drains, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit status of a process that a second signal ended: 128 + SIGINT, as shells have it.
const INTERRUPTED: i32 = 130;

/// Resolves at the first signal; from then on another one ends the process with status 130.
///
/// # Errors
/// Signals cannot be received.
pub(super) fn first() -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    Ok(async move {
        any(&mut signals).await;
        tokio::spawn(async move {
            any(&mut signals).await;
            eprintln!("ended at once; what was in hand is read again");
            std::process::exit(INTERRUPTED);
        });
    })
}

async fn any([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
