//! Chaos on real servers: three Kafka brokers, an S3 server, ClickHouse's engine, and every role as a process.
//!
//! In each round every role is ended at a fault point while events flow, and something outside breaks too;
//! then everything acknowledged must be in the tables and in the archive, once. `chaos.sh` starts the servers
//! that this suite breaks, mounts the disks that it fills, and runs a short series or a long one.

#![allow(clippy::expect_used, reason = "a test fails where its set-up does")]

mod support;

#[path = "chaos/breaking.rs"]
mod breaking;
#[path = "chaos/disk.rs"]
mod disk;
#[path = "chaos/faults.rs"]
mod faults;
#[path = "chaos/oracle.rs"]
mod oracle;
#[path = "chaos/report.rs"]
mod report;
#[path = "chaos/world.rs"]
mod world;

use std::time::Instant;

use faults::{Outside, plan};
use report::{Report, Round};
use world::World;

/// Rounds of the short series: every fault point, and every fault from outside.
const ROUNDS_SHORT: u64 = 7;
/// Rounds between two comparisons of the whole archive with the tables.
const FULL_CHECK_ROUNDS: u64 = 10;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Answers vector#12084 and iceberg#17340: rows that are there twice after a restart or a takeover.
#[test]
fn nothing_is_lost_or_doubled_whatever_ends_or_breaks() {
    let seed = number("CUSTODY_CHAOS_SEED", 1);
    let faults_wanted = number("CUSTODY_CHAOS_RUNS", 0);
    let mut report = Report::open(std::env::var("CUSTODY_CHAOS_REPORT").ok());
    let kinds = Outside::named(std::env::var("CUSTODY_CHAOS_ONLY").ok());
    println!("chaos: seed {seed}, from round {}", report.next_round());
    let mut world = World::start();
    let kinds = if world.disks.is_some() {
        kinds
    } else {
        println!("\n!!! NOT RUN: full disks: no file system could be mounted for them\n");
        Outside::without_full_disks(kinds)
    };
    loop {
        let round = report.next_round();
        let is_done = if faults_wanted == 0 { round >= ROUNDS_SHORT } else { report.faults() >= faults_wanted };
        if is_done {
            break;
        }
        let begun = Instant::now();
        let plan = plan(seed, round, &kinds);
        println!("chaos: round {round}: {plan}");
        let events = world.run(round, &plan);
        if round % FULL_CHECK_ROUNDS == FULL_CHECK_ROUNDS - 1 {
            world.check_archive();
        }
        report.add(Round::new(seed, round, &plan, events, begun.elapsed()));
    }
    world.check_archive();
    world.end();
    report.assert_every_kind_fired(&kinds);
    println!("{}", report.summary());
}
