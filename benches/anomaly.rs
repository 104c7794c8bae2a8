//! Anomaly detection: `features` per event, `score` per signal, and one update of a gauge beside the
//! naive detector, a Gaussian over the last 256 values.
//!
//! Target: 150 ns per update of a series. The naive detector has one channel where the gauge has
//! three (level, short average, CUSUM) and calibrates nothing.

mod common;

use std::collections::VecDeque;

use common::cpu_time::{CpuTime, criterion};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use processors::anomaly::features::FeaturesState;
use processors::anomaly::score::ScoreState;
use processors::anomaly::stats::Gauge;
use processors::anomaly::{Features, FeaturesConfig, Score, ScoreConfig};
use processors::stage::{Outgoing, PartitionState as _, Processor as _, Sourced};
use schemas::codec::Derived;
use schemas::event::CleanEvent;
use schemas::record::{PartitionId, Position, SourceRef};
use schemas::topic::Topic;

const COUNT: usize = 20_000;
/// Sessions begin this far apart: 20 000 events then span hours of one-minute windows.
const SESSION_STEP_MS: i64 = 10_000;
const WINDOWS: usize = 10_000;
/// The value jumps eightfold here, in windows of both detectors.
const BURST: usize = 9_000;

fn features(stage: &Features, records: &[Sourced<CleanEvent>]) -> Vec<Outgoing> {
    let (mut state, mut signals) = (FeaturesState::default(), Vec::new());
    for batch in records.chunks(common::BATCH) {
        signals.extend(stage.process(&mut state, batch).derived);
        state.take_changes();
    }
    signals
}

/// Signals and watermarks as the records of one partition.
fn signal_log(outputs: Vec<Outgoing>) -> Vec<Sourced<Derived>> {
    let signals = outputs.into_iter().filter(|out| out.topic == Topic::Signals);
    let record = |(offset, out): (u64, Outgoing)| Sourced {
        at: Position { partition: PartitionId { topic: Topic::Signals, partition: 0 }, offset },
        broker_time: out.broker_time,
        source: SourceRef::default(),
        value: out.value,
    };
    (0..).zip(signals).map(record).collect()
}

fn score(stage: &Score, records: &[Sourced<Derived>]) -> (usize, usize) {
    let (mut state, mut alerts, mut rejects) = (ScoreState::default(), 0, 0);
    for batch in records.chunks(common::BATCH) {
        let output = stage.process(&mut state, batch);
        alerts += output.derived.len();
        rejects += output.rejects.len();
        state.take_changes();
    }
    (alerts, rejects)
}

fn bench_stages(c: &mut Criterion<CpuTime>) {
    let records = common::clean(&common::log(COUNT, SESSION_STEP_MS));
    let (stage, judge) = (Features::new(FeaturesConfig::default()), Score::new(ScoreConfig::default()));
    let outputs = features(&stage, &records);
    assert_eq!(outputs, features(&stage, &records), "the same log gives the same signals");
    let log = signal_log(outputs);
    let signals = log.iter().filter(|r| matches!(r.value, Derived::Signal(_))).count();
    let (alerts, rejects) = score(&judge, &log);
    assert!(signals > 1_000, "only {signals} signals");
    assert!(alerts > 0 && rejects == 0, "{alerts} alerts of a fleet with an outage, {rejects} rejects");
    println!("{} events, {signals} signals, {alerts} alert records", records.len());

    let mut group = c.benchmark_group("anomaly");
    group.throughput(Throughput::Elements(records.len() as u64)).sample_size(20);
    group.bench_function("features/custody", |b| b.iter(|| features(&stage, &records).len()));
    group.throughput(Throughput::Elements(signals as u64));
    group.bench_function("score/custody", |b| b.iter(|| score(&judge, &log)));
    group.finish();
}

/// Mean log cost of a window's one call: log-normal around 3 000, eight times that from [`BURST`] on.
fn levels() -> Vec<f64> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut normal = move || {
        let radius = (-2.0 * random.f64().max(f64::MIN_POSITIVE).ln()).sqrt();
        radius * (std::f64::consts::TAU * random.f64()).cos()
    };
    let cost = |index: usize, normal: f64| {
        let factor = if index < BURST { 1.0 } else { 8.0 };
        (3_000.0 * factor * (0.3 * normal).exp()).ln_1p()
    };
    (0..WINDOWS).map(|index| cost(index, normal())).collect()
}

/// Mean and variance of the last 256 values, computed anew for every value.
#[derive(Default)]
struct WindowedGaussian {
    values: VecDeque<f64>,
}

impl WindowedGaussian {
    const LENGTH: usize = 256;

    /// Standard deviations between the value and the window's mean.
    fn observe(&mut self, value: f64) -> f64 {
        let n = self.values.len().max(1) as f64;
        let mean = self.values.iter().sum::<f64>() / n;
        let variance = self.values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        if self.values.len() == Self::LENGTH {
            self.values.pop_front();
        }
        self.values.push_back(value);
        (value - mean) / variance.max(0.01).sqrt()
    }
}

/// The smallest tail probability over the windows that `counts`.
fn gauge(levels: &[f64], counts: impl Fn(usize) -> bool) -> f64 {
    let mut gauge = Gauge::default();
    let view = |(index, level): (usize, &f64)| {
        let view = gauge.observe(index as i64, 1.0, *level, level * level);
        if counts(index) { view.p } else { 1.0 }
    };
    levels.iter().enumerate().map(view).fold(1.0, f64::min)
}

/// The largest z over the windows that `counts`.
fn naive(levels: &[f64], counts: impl Fn(usize) -> bool) -> f64 {
    let mut gaussian = WindowedGaussian::default();
    let z = |(index, level): (usize, &f64)| {
        let z = gaussian.observe(*level);
        if counts(index) { z } else { 0.0 }
    };
    levels.iter().enumerate().map(z).fold(0.0, f64::max)
}

fn bench_gauge(c: &mut Criterion<CpuTime>) {
    let levels = levels();
    let (quiet, burst) = (|i: usize| (256..BURST).contains(&i), |i: usize| (BURST..BURST + 5).contains(&i));
    let (p, z) = (gauge(&levels, burst), naive(&levels, burst));
    assert!(p < 1e-4 && z > 4.5, "both see the burst: p {p}, z {z}");
    let (p, z) = (gauge(&levels, quiet), naive(&levels, quiet));
    assert!(p > 1e-6 && z < 4.5, "neither sees one before: p {p}, z {z}");

    let mut group = c.benchmark_group("anomaly");
    group.throughput(Throughput::Elements(WINDOWS as u64)).sample_size(30);
    group.bench_function("gauge-update/custody", |b| b.iter(|| gauge(&levels, |_| true)));
    group.bench_function("gauge-update/gaussian-of-256", |b| b.iter(|| naive(&levels, |_| true)));
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = bench_gauge, bench_stages
}
criterion_main!(benches);
