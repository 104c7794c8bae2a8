//! The ledger of sessions and writers on its clean path, beside the naive ledger: a hash set of all
//! numbers seen, per session.
//!
//! The naive ledger answers one question of the stage's (which numbers are missing), forgets
//! nothing and cannot be restarted: how much the rest costs is what the ratio says. `stage` is the
//! fold alone; `stage-and-changelog` also takes the state's changes after every batch, as the
//! runner does.

mod common;

use std::collections::{HashMap, HashSet};

use common::cpu_time::{CpuTime, criterion};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use processors::completeness::{Completeness, CompletenessConfig, CompletenessState};
use processors::stage::{PartitionState as _, Processor as _, Sourced};
use schemas::codec::Derived;
use schemas::event::CleanEvent;
use schemas::id::Uuid;

const COUNT: usize = 20_000;

/// What a run left behind.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    findings: usize,
    spans: usize,
    changes: usize,
    change_bytes: usize,
}

fn fold(stage: &Completeness, records: &[Sourced<CleanEvent>], takes_changes: bool) -> Outcome {
    let (mut state, mut outcome) = (CompletenessState::default(), Outcome::default());
    for batch in records.chunks(common::BATCH) {
        let output = stage.process(&mut state, batch);
        outcome.findings += output.derived.iter().filter(|out| matches!(out.value, Derived::Event(_))).count();
        outcome.spans += output.derived.iter().filter(|out| matches!(out.value, Derived::WriterSpan(_))).count();
        if takes_changes {
            let changes = state.take_changes();
            outcome.changes += changes.len();
            outcome.change_bytes +=
                changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, |v| v.len())).sum::<usize>();
        }
    }
    outcome
}

/// Numbers missing and seen twice.
fn naive(records: &[Sourced<CleanEvent>]) -> (i64, usize) {
    let mut sessions: HashMap<(&str, Uuid), HashSet<i64>> = HashMap::new();
    let mut twice = 0;
    for record in records {
        let h = record.value.h();
        if h.seq >= 0 {
            let seen = sessions.entry((h.tenant_id.as_str(), h.session_id)).or_default();
            twice += usize::from(!seen.insert(h.seq));
        }
    }
    let gaps = sessions.values().map(|seen| seen.iter().max().map_or(0, |last| last + 1) - seen.len() as i64);
    (gaps.sum(), twice)
}

fn bench(c: &mut Criterion<CpuTime>) {
    let records = common::clean(&common::log(COUNT, 1_000));
    let stage = Completeness::new(CompletenessConfig::default());
    let outcome = fold(&stage, &records, true);
    assert_eq!(naive(&records), (0, 0), "the log is complete");
    assert_eq!(outcome.findings, 0, "a complete log has no findings");
    assert!(outcome.spans > 0 && outcome.changes > 0, "{outcome:?}");
    let holed: Vec<_> = records.iter().filter(|r| r.value.h().seq != 3).cloned().collect();
    assert!(naive(&holed).0 > 0 && fold(&stage, &holed, true).findings > 0, "both see what is missing");
    println!("{} records, {outcome:?}", records.len());

    let mut group = c.benchmark_group("completeness");
    group.throughput(Throughput::Elements(records.len() as u64)).sample_size(20);
    group.bench_function("stage/custody", |b| b.iter(|| fold(&stage, &records, false)));
    group.bench_function("stage/hash-set-of-all-seqs", |b| b.iter(|| naive(&records)));
    group.bench_function("stage-and-changelog/custody", |b| b.iter(|| fold(&stage, &records, true)));
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = bench
}
criterion_main!(benches);
