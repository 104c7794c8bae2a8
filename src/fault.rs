//! Fault points: places where the chaos suite ends a process as SIGKILL does, to see that nothing is lost
//! or doubled.
//!
//! The variable `CUSTODY_FAULT_POINT` names one, `name` or `name:N` for its N-th passage. Without the
//! feature `fault-points` the places are empty and the variable is not read. Faults of servers and networks
//! are made outside the process, in `tests/live/chaos`.

/// Every point, in the order in which an event passes them.
pub const FAULT_POINTS: [&str; 12] = [
    // The log has a request's events; its sender has not been told.
    "intake.appended",
    // The client has been told; its spool does not know.
    "send.acknowledged",
    // A transaction has begun and holds nothing.
    "stage.begun",
    // It holds the step's records.
    "stage.records_sent",
    // It holds the position too.
    "stage.offsets_sent",
    // It is committed; the stage does not know.
    "stage.committed",
    // An object of the archive is complete in memory.
    "archive.sealed",
    // The store has the object and no manifest of it.
    "archive.object_put",
    // The store has the manifest; the writer does not know.
    "archive.manifest_put",
    // The log has the intent of a batch; ClickHouse has no row of it.
    "load.intent_committed",
    // ClickHouse has the rows of one table of the batch.
    "load.table_inserted",
    // ClickHouse has the whole batch; the log says that it is intended.
    "load.inserted",
];

/// Arms the point that the environment names.
///
/// # Errors
/// There is no such point: the message lists them.
#[cfg(feature = "fault-points")]
pub fn arm() -> anyhow::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};

    let Ok(asked) = std::env::var("CUSTODY_FAULT_POINT") else { return Ok(()) };
    let (name, passage) = asked.split_once(':').unwrap_or((&asked, "1"));
    anyhow::ensure!(FAULT_POINTS.contains(&name), "CUSTODY_FAULT_POINT {name:?} is none of {FAULT_POINTS:?}");
    let passage: u64 = passage.parse().map_err(|_| anyhow::anyhow!("CUSTODY_FAULT_POINT {asked:?}: not name:N"))?;
    let passed = AtomicU64::new(0);
    fail::cfg_callback(name, move || {
        if passed.fetch_add(1, Ordering::Relaxed) + 1 == passage {
            // Nothing is flushed and nothing told, as when the machine goes.
            let _: Result<(), _> =
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    })
    .map_err(|error| anyhow::anyhow!("CUSTODY_FAULT_POINT {asked:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_point_is_passed_at_exactly_one_place() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources = ["src/load_role.rs", "sinks/src", "ingest/src"].map(|path| texts(&root.join(path))).concat();
        for point in FAULT_POINTS {
            let call = format!("fail_point!(\"{point}\")");
            assert_eq!(sources.matches(&call).count(), 1, "{call}");
        }
        assert_eq!(sources.matches("fail_point!(").count(), FAULT_POINTS.len());
    }

    fn texts(path: &Path) -> String {
        match std::fs::read_dir(path) {
            Ok(entries) => entries.map(|entry| texts(&entry.expect("an entry").path())).collect(),
            Err(_) => std::fs::read_to_string(path).expect("a file"),
        }
    }
}
