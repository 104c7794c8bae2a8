//! Laws of the spool: the unacknowledged suffix survives, damage is counted, waiting is bounded.
//!
//! Files are cut and changed here as a crash would; killing a process is `tests/spool_kill.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::queue::Queue;
use super::reader::BatchMax;
use super::*;

const ALL: BatchMax = BatchMax { events: usize::MAX, bytes: 100 };

fn config(dir: &Path) -> SpoolConfig {
    SpoolConfig { dir: dir.to_owned(), bytes_max: 1 << 20, segment_bytes_max: 200 }
}

fn open(dir: &Path) -> (Spool, Opened) {
    Spool::open(config(dir), |_, _| {}).unwrap()
}

/// Everything that is not acknowledged, as the sender would read it.
fn pending(spool: &Spool) -> Vec<(u64, Vec<u8>)> {
    let mut reader = spool.reader(spool.acked());
    let mut all = Vec::new();
    while let Some(segment) = spool.segment_at(reader.next()) {
        let batch = reader.read(segment, spool.next(), ALL).unwrap();
        assert_eq!(batch.damage, []);
        all.extend(batch.records.iter().map(|(index, payload)| (*index, payload.to_vec())));
    }
    all
}

fn payload(index: u64) -> Vec<u8> {
    vec![index as u8; index as usize % 60]
}

#[derive(Debug, Clone)]
enum Op {
    Append(u8),
    Sync,
    Ack(prop::sample::Index),
    Trim,
    /// The machine dies: so much of what was not forced to the disk is left.
    Crash(prop::sample::Index),
    /// The process dies.
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (1..9_u8).prop_map(Op::Append),
        3 => Just(Op::Sync),
        4 => any::<prop::sample::Index>().prop_map(Op::Ack),
        2 => Just(Op::Trim),
        2 => any::<prop::sample::Index>().prop_map(Op::Crash),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..60)
}

/// Lengths of the segment files, oldest first.
fn lengths(dir: &Path) -> Vec<(std::path::PathBuf, u64)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .map(|path| (path.clone(), path.metadata().unwrap().len()))
        .collect();
    files.sort();
    files
}

/// Cuts the files to what they held at the last sync and `left` bytes of what came after.
fn cut(dir: &Path, synced: &[(std::path::PathBuf, u64)], left: prop::sample::Index) {
    let kept = |path: &Path| synced.iter().find(|(p, _)| p == path).map_or(0, |(_, len)| *len);
    let files = lengths(dir);
    let unsynced: u64 = files.iter().map(|(path, len)| len - kept(path)).sum();
    let mut left = left.index(unsynced as usize + 1) as u64;
    for (path, len) in files {
        let taken = left.min(len - kept(&path));
        left -= taken;
        if kept(&path) + taken == 0 {
            std::fs::remove_file(path).unwrap();
        } else {
            OpenOptions::new().write(true).open(&path).unwrap().set_len(kept(&path) + taken).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens, exactly the unacknowledged suffix of what was promised is there.
    #[test]
    fn the_unacknowledged_suffix_survives(ops in ops()) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path()).0;
        let mut synced = lengths(dir.path());
        for op in ops {
            match op {
                Op::Append(count) => for _ in 0..count {
                    let index = spool.next();
                    prop_assert_eq!(spool.append(&payload(index)).unwrap(), index);
                },
                Op::Sync => {
                    spool.sync().unwrap();
                    synced = lengths(dir.path());
                }
                Op::Ack(to) => {
                    let open = spool.next() - spool.acked();
                    spool.ack(spool.acked() + to.index(open as usize + 1) as u64).unwrap();
                }
                Op::Trim => {
                    spool.trim(u64::MAX).unwrap();
                }
                Op::Reopen | Op::Crash(_) => {
                    let (acked, next, durable) = (spool.acked(), spool.next(), spool.synced());
                    drop(spool);
                    if let Op::Crash(left) = op {
                        cut(dir.path(), &synced, left);
                    }
                    let opened;
                    (spool, opened) = open(dir.path());
                    prop_assert_eq!(&opened.damage, &[], "a torn tail is no damage");
                    prop_assert_eq!(spool.acked(), acked);
                    prop_assert!(spool.next() >= durable.max(acked) && spool.next() <= next);
                    if matches!(op, Op::Reopen) {
                        prop_assert_eq!((spool.next(), opened.torn_bytes), (next, 0));
                    }
                    synced = lengths(dir.path());
                }
            }
            let expected: Vec<_> = (spool.acked()..spool.next()).map(|index| (index, payload(index))).collect();
            prop_assert_eq!(spool.pending_events(), expected.len() as u64);
            prop_assert_eq!(spool.pending_bytes(), expected.iter().map(|(_, p)| frame_bytes(p) as u64).sum::<u64>());
            prop_assert_eq!(pending(&spool), expected);
        }
    }

    /// Damage anywhere in sealed segments: what is read is true, and what is not read is counted.
    #[test]
    fn damage_is_counted_and_kept_aside(
        count in 5..60_u64,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path()).0;
        for index in 0..count {
            spool.append(&payload(index)).unwrap();
        }
        spool.sync().unwrap();
        drop(spool);
        // A last segment of one record that is whole: everything before it is sealed.
        let mut spool = open(dir.path()).0;
        spool.append(b"last").unwrap();
        drop(spool);
        let files = lengths(dir.path());
        let sealed: u64 = files[..files.len() - 1].iter().map(|(_, len)| len).sum();
        for (at, mask) in damage {
            let mut at = at.index(sealed as usize);
            for (path, len) in &files {
                if at < *len as usize {
                    let mut bytes = std::fs::read(path).unwrap();
                    bytes[at] ^= mask;
                    std::fs::write(path, bytes).unwrap();
                    break;
                }
                at -= *len as usize;
            }
        }
        let mut visited = Vec::new();
        let (spool, opened) = Spool::open(config(dir.path()), |index, bytes| visited.push((index, bytes.to_vec()))).unwrap();
        let missing: u64 = opened.damage.iter().map(|d| d.missing).sum();
        prop_assert_eq!(opened.torn_bytes, 0);
        prop_assert_eq!(visited.len() as u64 + missing, count + 1);
        prop_assert_eq!(spool.pending_events(), visited.len() as u64);
        for (index, bytes) in &visited {
            let expected = if *index == count { b"last".to_vec() } else { payload(*index) };
            prop_assert_eq!(bytes, &expected);
        }
        for damage in &opened.damage {
            prop_assert_eq!(std::fs::read(&damage.kept).unwrap().len() as u64, damage.bytes);
        }
        drop(spool);
        let again = open(dir.path()).1;
        prop_assert_eq!(again.missing_new(), 0, "it is reported once");
        prop_assert_eq!(again.damage.len(), opened.damage.len());
    }
}

#[test]
fn a_segment_that_lost_its_head_and_its_only_record_is_two_damages() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(SpoolConfig { segment_bytes_max: 1, ..config(dir.path()) }, |_, _| {}).unwrap().0;
    (0..3).for_each(|index| drop(spool.append(&[index; 9])));
    drop(spool);
    let path = lengths(dir.path())[1].0.clone();
    std::fs::write(path, [0; 41]).unwrap();
    let opened = open(dir.path()).1;
    let kept: Vec<(u64, u64, bool)> = opened.damage.iter().map(|d| (d.bytes, d.missing, d.is_new)).collect();
    assert_eq!(kept, [(16, 0, true), (25, 0, true), (0, 1, true)]);
    assert_eq!(opened.missing_new(), 1, "the loss is counted, and once");
    assert_eq!(open(dir.path()).1.missing_new(), 0);
}

#[test]
fn damage_that_comes_later_is_kept_aside_by_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path()).0;
    for index in 0..8 {
        spool.append(&[index; 100]).unwrap();
    }
    let path = lengths(dir.path())[1].0.clone();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[frame::HEAD_BYTES + frame::FRAME_BYTES + 3] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut reader = spool.reader(0);
    let (mut read, mut missing) = (Vec::new(), 0);
    while let Some(segment) = spool.segment_at(reader.next()) {
        let batch = reader.read(segment, spool.next(), ALL).unwrap();
        read.extend(batch.records.iter().map(|(index, _)| *index));
        missing += batch.damage.iter().map(|damage| damage.missing).sum::<u64>();
    }
    assert_eq!((read, missing), (vec![0, 1, 3, 4, 5, 6, 7], 1));
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).0;
    let second = Spool::open(config(dir.path()), |_, _| {});
    assert!(matches!(second, Err(SpoolError::Locked(_))), "{second:?}");
    drop(first);
    open(dir.path());
}

#[test]
fn a_full_spool_takes_nothing_until_segments_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = SpoolConfig { bytes_max: 1_000, ..config(dir.path()) };
    let mut spool = Spool::open(config.clone(), |_, _| {}).unwrap().0;
    let mut taken = 0;
    while spool.append(&[7; 84]).is_ok() {
        taken += 1;
    }
    assert!(spool.disk_bytes() <= 1_000 + 100 + frame::HEAD_BYTES as u64, "{} bytes", spool.disk_bytes());
    assert!(matches!(spool.append(b""), Err(SpoolError::Full)));
    assert_eq!(spool.append_beyond(b"a report").unwrap(), taken);
    spool.ack(2).unwrap();
    assert_eq!(spool.trim(0).unwrap(), 0, "what is to be kept is kept");
    assert_eq!(spool.trim(u64::MAX).unwrap(), 1);
    spool.append(b"room").unwrap();
    spool.ack(u64::MAX).unwrap();
    drop(spool);
    let mut spool = Spool::open(config, |_, _| {}).unwrap().0;
    assert!(spool.trim(u64::MAX).unwrap() > 0);
    assert_eq!((spool.disk_bytes(), spool.append(b"next").unwrap()), (0, taken + 2));
}

#[test]
fn a_payload_longer_than_a_frame_is_refused_and_long_ones_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = SpoolConfig::new(dir.path(), 64 << 20);
    let mut spool = Spool::open(config, |_, _| {}).unwrap().0;
    let too_long = vec![0; frame::PAYLOAD_BYTES_MAX + 1];
    assert!(matches!(spool.append(&too_long), Err(SpoolError::TooLarge(_))));
    spool.append(&too_long[1..]).unwrap();
    spool.append(b"short").unwrap();
    let lengths: Vec<usize> = pending(&spool).iter().map(|(_, payload)| payload.len()).collect();
    assert_eq!(lengths, [frame::PAYLOAD_BYTES_MAX, 5]);
}

fn queue(dir: &Path, fsync: Fsync, bytes_max: u64) -> (Queue<u64>, queue::Syncer) {
    let config = SpoolConfig { bytes_max, ..config(dir) };
    Queue::start(Spool::open(config, |_, _| {}).unwrap().0, fsync, 0).unwrap()
}

fn count(called: &mut u64) -> Result<Bytes, ()> {
    *called += 1;
    Ok(Bytes::from(vec![0; 84]))
}

#[test]
fn a_full_queue_lets_go_after_the_bound_and_has_used_the_number() {
    let dir = tempfile::tempdir().unwrap();
    let (queue, syncer) = queue(dir.path(), Fsync::Never, 500);
    let mut outcomes = Vec::new();
    for _ in 0..10 {
        outcomes.push(queue.append_with(Duration::from_millis(1), count).unwrap());
    }
    assert!(outcomes[..4].iter().all(Result::is_ok));
    assert!(outcomes[5..].iter().all(|outcome| matches!(outcome, Err(SpoolError::Full))), "nobody acknowledges");
    assert_eq!(queue.lock().writer, 10);
    queue.close();
    syncer.join();
}

#[test]
fn a_waiting_append_goes_on_when_space_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let (queue, syncer) = queue(dir.path(), Fsync::Never, 500);
    while queue.append_with(Duration::ZERO, count).unwrap().is_ok() {}
    let waiting = queue.clone();
    // Far longer than any test run: only the space can end the wait.
    let waiter = std::thread::spawn(move || waiting.append_with(Duration::from_secs(3_600), count).unwrap());
    queue.lock().spool.ack(u64::MAX).unwrap();
    queue.trim(u64::MAX).unwrap();
    assert!(waiter.join().unwrap().is_ok());
    queue.close();
    syncer.join();
}

#[test]
fn the_policy_decides_what_is_durable_and_what_may_be_read() {
    let minute = Duration::from_secs(60);
    let check = |fsync: Fsync, block: Duration, expected: (bool, u64)| {
        let dir = tempfile::tempdir().unwrap();
        let (queue, syncer) = queue(dir.path(), fsync, 1 << 20);
        let appended = queue.append_with(block, count).unwrap().unwrap();
        let limit = queue.segment_at(0).map_or(0, |(_, limit)| limit);
        assert_eq!((appended.is_durable, limit), expected, "{fsync:?}");
        queue.close();
        syncer.join();
        let state = queue.lock();
        assert_eq!(state.spool.synced(), if fsync == Fsync::Never { 0 } else { 1 }, "{fsync:?}");
    };
    check(Fsync::Always, minute, (true, 1));
    check(Fsync::IntervalMs(3_600_000), minute, (false, 0));
    check(Fsync::Never, minute, (false, 1));
}
