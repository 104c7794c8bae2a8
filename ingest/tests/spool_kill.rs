//! Kills a process that fills and acknowledges a spool with SIGKILL and checks that exactly the
//! unacknowledged suffix of what it was promised is there.
//!
//! The binary is its own child: with a directory in [`CHILD`] it appends and acknowledges until it is killed and
//! prints what it was promised. It is no test of power cuts: the spool's property tests are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use ingest::agent::spool::queue::Queue;
use ingest::agent::spool::reader::BatchMax;
use ingest::agent::spool::{Fsync, Opened, Spool, SpoolConfig};

const CHILD: &str = "CUSTODY_SPOOL_KILL_DIR";
const POLICIES: [Fsync; 3] = [Fsync::Never, Fsync::IntervalMs(1), Fsync::Always];

fn main() {
    match std::env::var_os(CHILD) {
        Some(dir) => write_for_ever(Path::new(&dir)),
        None => POLICIES.into_iter().for_each(kill_and_check),
    }
}

fn open(dir: &Path) -> (Spool, Opened) {
    let config = SpoolConfig { dir: dir.to_owned(), bytes_max: 64 << 20, segment_bytes_max: 20_000 };
    Spool::open(config, |index, payload| assert_eq!(payload, record(index))).unwrap()
}

/// A record that says which one it is; 0 to 2 KB.
fn record(index: u64) -> Bytes {
    Bytes::from(format!("{index:0>width$}", width = 20 + (index as usize * 37) % 2_000))
}

/// Appends ten records and acknowledges seven, again and again; one line per promise.
fn write_for_ever(dir: &Path) {
    let fsync = POLICIES[dir.file_name().unwrap().to_str().unwrap().parse::<usize>().unwrap()];
    let spool = open(dir).0;
    let next = spool.next();
    let (queue, _syncer) = Queue::start(spool, fsync, next).unwrap();
    let mut out = std::io::stdout();
    loop {
        for _ in 0..10 {
            let make = |next: &mut u64| {
                *next += 1;
                Ok::<_, ()>(record(*next - 1))
            };
            let appended = queue.append_with(Duration::from_secs(3_600), make).unwrap().unwrap();
            assert_eq!(appended.is_durable, fsync == Fsync::Always);
            writeln!(out, "append {}", appended.index + 1).unwrap();
        }
        let acked = {
            let mut state = queue.lock();
            let acked = state.spool.acked() + 7;
            state.spool.ack(acked).unwrap();
            acked
        };
        queue.trim(u64::MAX).unwrap();
        writeln!(out, "ack {acked}").unwrap();
        out.flush().unwrap();
    }
}

fn kill_and_check(fsync: Fsync) {
    let parent = tempfile::tempdir().unwrap();
    let policy = POLICIES.iter().position(|policy| *policy == fsync).unwrap();
    let dir = parent.path().join(policy.to_string());
    let (mut appended, mut acked) = (0, 0);
    for lines in [7, 131, 22, 364, 45, 19, 90, 33, 204, 12] {
        let mut child =
            Command::new(std::env::current_exe().unwrap()).env(CHILD, &dir).stdout(Stdio::piped()).spawn().unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().take(lines) {
            let line = line.unwrap();
            let (kind, next) = line.split_once(' ').unwrap();
            match kind {
                "append" => appended = next.parse().unwrap(),
                _ => acked = next.parse().unwrap(),
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        check(&dir, appended, acked);
    }
    println!("{fsync:?}: 10 kills, {appended} records promised, {acked} acknowledged: the rest is there");
}

fn check(dir: &Path, appended: u64, acked: u64) {
    let (spool, opened) = open(dir);
    assert_eq!(opened.damage, [], "a killed process leaves no damage");
    assert!(spool.next() >= appended, "{appended} records were promised, {} are held", spool.next());
    assert!(spool.acked() >= acked, "{acked} were acknowledged, {} are", spool.acked());
    let mut reader = spool.reader(spool.acked());
    let mut expected = spool.acked();
    while let Some(segment) = spool.segment_at(reader.next()) {
        let batch = reader.read(segment, spool.next(), BatchMax { events: 100, bytes: 10_000 }).unwrap();
        for (index, payload) in batch.records {
            assert_eq!((index, payload), (expected, record(expected)));
            expected += 1;
        }
    }
    assert_eq!((expected, spool.pending_events()), (spool.next(), spool.next() - spool.acked()));
}
