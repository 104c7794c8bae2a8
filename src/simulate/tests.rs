//! The simulator on itself: honest series pass, broken builds are caught, seeds repeat. Roles have tests of
//! their own.

use super::*;
use crate::simulate::chaos::{FaultKind, Operation, Planned};
use crate::stage_table::written_topics;

/// A PUT of the archive's self-test that S3 refuses for the moment (409), as if the object existed. It once stopped
/// the archive for good.
const CONFLICT_IN_SELF_TEST: Planned = Planned {
    role: "archive",
    operation: Operation::Put,
    at: "custody-self-test",
    after: 0,
    fault: FaultKind::Conflict,
};
/// An archive that is replaced in the middle of a PUT and wakes up once its successor has published more rows under
/// the same first offset.
const REPLACED_IN_PUT: Planned = Planned {
    role: "archive",
    operation: Operation::Put,
    at: "custody.findings.v1",
    after: 0,
    fault: FaultKind::Stalled,
};
/// A loader that dies between two inserts.
const DEAD_BEFORE_INSERT: Planned = Planned {
    role: "load",
    operation: Operation::Insert,
    at: "custody.clean.v1",
    after: 1,
    fault: FaultKind::CrashBefore,
};

fn honest(seed: u64, runs: u64) -> SimulateArgs {
    SimulateArgs { seed, runs, broken: None, json: false }
}

fn check_series(first: u64, runs: u64) -> Report {
    let report = series(&honest(first, runs), |_| ());
    assert_eq!(report.failed_seeds, Vec::<u64>::new(), "{:#?}", report.first_failures);
    report
}

#[test]
fn a_hundred_seeds_pass_the_audit_and_every_kind_of_fault_happens_in_them() {
    let report = check_series(1, report::COVERAGE_RUNS_MIN);
    assert_eq!(report.never_fired, Vec::<String>::new());
    assert!(report.is_good());
}

/// One partition and several objects and batches, the last of findings cut by the clock.
fn setup() -> Setup {
    let of_seed = Setup::of(1);
    Setup {
        partitions: 1,
        is_dense: true,
        clock_flush_ms: Some(30),
        load_flush_ms: 0,
        archive_rows_max: 100,
        ..of_seed
    }
}

/// What the auditor finds after these faults; all of them happened.
fn after(script: &[Planned], broken: Option<Broken>) -> Vec<String> {
    let chaos = Chaos::scripted(script);
    let world = World::new(setup(), chaos.clone(), broken);
    let wrong = audited(&world).unwrap_or_else(|error| vec![format!("{error:#}")]);
    assert_eq!(chaos.outstanding(), [], "{wrong:#?}");
    wrong
}

#[test]
fn faults_that_once_found_a_defect_are_survived() {
    // An archive writes the object of its self-test twice, and there are three archives.
    let conflicts = (0..6).map(|after| Planned { after, ..CONFLICT_IN_SELF_TEST });
    for fault in conflicts.chain([REPLACED_IN_PUT, DEAD_BEFORE_INSERT]) {
        assert_eq!(after(&[fault], None), Vec::<String>::new(), "{fault:?}");
    }
}

#[test]
fn a_broken_build_is_caught() {
    let check = |broken: Broken, script: &[Planned], expected: &str| {
        let wrong = after(script, Some(broken));
        assert!(wrong.iter().any(|line| line.contains(expected)), "{broken:?}: {wrong:#?}");
    };
    check(Broken::AcknowledgePastReject, &[], "was lost");
    check(Broken::TokenWithoutRange, &[], "not loaded");
    check(Broken::CommitBeforeWrite, &[DEAD_BEFORE_INSERT], "not loaded");
    check(Broken::LastOffsetInKey, &[REPLACED_IN_PUT], "another manifest");
}

#[test]
fn a_series_ends_at_the_seed_that_catches_a_broken_build_and_names_the_command_that_repeats_it() {
    // Every workload has records that are refused, so that every seed catches it.
    let broken = Broken::AcknowledgePastReject;
    let report = series(&SimulateArgs { broken: Some(broken), ..honest(1, 3) }, |_| ());
    assert!(!report.is_good() && report.failed_seeds == [1] && report.runs == 1, "{report:?}");
    let text = report.print(false).expect("text");
    assert!(text.contains("first failure: custody simulate --seed 1 --broken acknowledge-past-reject"), "{text}");
}

#[test]
fn a_seed_repeats_itself_byte_for_byte() {
    let run = |seed: u64| {
        let chaos = Chaos::new(seed, FAULTS_MAX);
        let world = World::new(Setup::of(seed), chaos.clone(), None);
        let workload = Workload::of(seed, world.setup.partitions);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            world.run(workload.records.clone()).await.expect("every role reaches its end");
            let topics = world.topics(&written_topics()).await.expect("topics");
            (topics, world.objects().await.expect("objects"), chaos.fired())
        })
    };
    for seed in [3, 4, 22] {
        let (first, second) = (run(seed), run(seed));
        assert!(first == second, "seed {seed}");
    }
}

#[test]
fn a_kind_of_fault_that_never_happened_fails_a_series_that_is_long_enough_to_tell() {
    let check = |runs: u64, missing: usize, expected: bool| {
        let mut report = Report::new(1, None);
        let all = Operation::ALL.iter().flat_map(|operation| operation.faults().iter().map(|f| (*operation, *f)));
        let fired: Fired = all.skip(missing).map(|kind| (kind, 1)).collect();
        (0..runs).for_each(|seed| report.add(seed, Vec::new(), &fired));
        assert_eq!(report.is_good(), expected, "{runs} runs, {missing} missing");
        assert_eq!(report.never_fired.len(), missing);
    };
    check(report::COVERAGE_RUNS_MIN, 0, true);
    check(report::COVERAGE_RUNS_MIN, 1, false);
    check(report::COVERAGE_RUNS_MIN - 1, 1, true);
}
