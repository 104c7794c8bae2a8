//! Handing events to the spool, per fsync policy, beside a plain buffered write of the same bytes.
//!
//! Wall time: a policy is about waiting for the disk. `always` waits for each append alone here, from
//! one thread; several threads share one wait. Target: 200 k events/s of about 1 KiB with `never`.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ingest::agent::sequencer::Sequencer;
use ingest::agent::spool::queue::{Queue, Syncer};
use ingest::agent::spool::reader::BatchMax;
use ingest::agent::spool::{Fsync, Spool, SpoolConfig};
use schemas::codec::codec;

const COUNT: usize = 5_000;
/// Waiting for the disk 5 000 times takes too long for a bench.
const COUNT_ALWAYS: usize = 100;
const BYTES_MAX: u64 = 1 << 30;

struct Opened {
    queue: Queue<usize>,
    syncer: Option<Syncer>,
    _dir: tempfile::TempDir,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.queue.close();
        self.syncer.take().into_iter().for_each(Syncer::join);
    }
}

/// Stamped events of about 1 KiB.
fn records() -> Vec<Bytes> {
    let mut sequencer = Sequencer::new("bench", common::START);
    let sized = common::events(24 * COUNT).into_iter();
    let sized = sized.filter(|event| common::ABOUT_A_KIB.contains(&codec().encode(event).len()));
    sized.take(COUNT).map(|mut event| sequencer.stamp(&mut event)).collect()
}

fn open(fsync: Fsync) -> Opened {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let spool = Spool::open(SpoolConfig::new(dir.path(), BYTES_MAX), |_, _| {}).expect("spool").0;
    let (queue, syncer) = Queue::start(spool, fsync, 0).expect("thread");
    Opened { queue, syncer: Some(syncer), _dir: dir }
}

fn append(queue: &Queue<usize>, records: &[Bytes]) {
    for record in records {
        let appended = queue.append_with(Duration::from_secs(60), |count| {
            *count += 1;
            Ok::<_, ()>(record.clone())
        });
        appended.expect("made").expect("taken");
    }
}

/// Everything that was appended, as it is read back.
fn read_back(queue: &Queue<usize>) -> Vec<Bytes> {
    let state = queue.lock();
    let mut reader = state.spool.reader(0);
    let mut all = Vec::new();
    while let Some(segment) = state.spool.segment_at(reader.next()) {
        let max = BatchMax { events: COUNT, bytes: 1 << 20 };
        let batch = reader.read(segment, state.spool.next(), max).expect("readable");
        all.extend(batch.records.into_iter().map(|(_, record)| record));
    }
    all
}

fn write_plain(dir: &Path, records: &[Bytes]) {
    let mut file = BufWriter::new(File::create(dir.join("plain")).expect("file"));
    for record in records {
        file.write_all(record).expect("written");
    }
    file.flush().expect("written");
}

fn bench(c: &mut Criterion) {
    let records = records();
    assert_eq!(records.len(), COUNT, "the fleet has enough events of that size");
    let opened = open(Fsync::Never);
    append(&opened.queue, &records);
    assert_eq!(read_back(&opened.queue), records, "what was appended is read");
    drop(opened);
    println!("{} events of {} bytes on average", COUNT, records.iter().map(Bytes::len).sum::<usize>() / COUNT);

    let mut group = c.benchmark_group("spool");
    group.sample_size(10);
    let policies = [
        ("never", Fsync::Never, COUNT),
        ("interval_50ms", Fsync::IntervalMs(50), COUNT),
        ("always", Fsync::Always, COUNT_ALWAYS),
    ];
    for (name, fsync, count) in policies {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("append/{name}"), |b| {
            b.iter_batched(
                || open(fsync),
                |opened| {
                    append(&opened.queue, &records[..count]);
                    opened
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("append/plain_bufwriter", |b| {
        b.iter_batched(
            || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory"),
            |dir| {
                write_plain(dir.path(), &records);
                dir
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
