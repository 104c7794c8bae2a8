//! The process: kill -9 while it writes, stop, drop, a second process on the same directory, a parent that dies.

use std::io::BufRead as _;
use std::path::Path;
use std::process::{Command, Stdio};

use clickhouse::{Client, Compression, Row};
use custody::embedded::EmbeddedClickHouse;
use schemas::testing::until_async;
use serde::{Deserialize, Serialize};

use super::{client, count, fresh, is_running, options, start};

const ROWS_PER_BATCH: u64 = 500;

#[derive(Row, Serialize, Deserialize)]
struct Line {
    batch: u64,
    text: String,
}

async fn insert(client: &Client, batch: u64) -> Result<(), clickhouse::error::Error> {
    let mut insert = client.insert::<Line>("t").await?;
    for row in 0..ROWS_PER_BATCH {
        insert.write(&Line { batch, text: format!("row {row} {}", "x".repeat(200)) }).await?;
    }
    insert.end().await
}

/// Writes batches until one fails; how many were acknowledged.
async fn write_until_killed(client: Client) -> u64 {
    let mut acknowledged = 0;
    while insert(&client, acknowledged).await.is_ok() {
        acknowledged += 1;
    }
    acknowledged
}

async fn wait_for_batches(client: &Client, batches: u64) {
    until_async("written", async || count(client, "t").await >= batches * ROWS_PER_BATCH).await;
}

fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn after_kill_9_every_acknowledged_row_is_there_and_no_half_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..3 {
        let engine = start(dir.path()).await;
        let client = client(&engine, Compression::Lz4);
        let table = "CREATE TABLE IF NOT EXISTS t (batch UInt64, text String) ENGINE = MergeTree ORDER BY batch";
        client.query(table).execute().await.unwrap();
        assert_eq!(count(&client, "t").await % ROWS_PER_BATCH, 0);
        let writer = tokio::spawn(write_until_killed(client.clone()));
        wait_for_batches(&client, before + 20 + round).await;
        kill(engine.pid().unwrap(), "-9");
        let acknowledged = before + writer.await.unwrap();
        drop(engine);
        let engine = start(dir.path()).await;
        let rows = count(&super::client(&engine, Compression::Lz4), "t").await;
        // The batch in flight may have been committed without its answer; nothing else may differ.
        let written = rows / ROWS_PER_BATCH;
        assert_eq!(rows % ROWS_PER_BATCH, 0, "half a batch in round {round}");
        assert!(written == acknowledged || written == acknowledged + 1, "{written} for {acknowledged} acknowledged");
        before = written;
        engine.stop().await.unwrap();
    }
}

#[tokio::test]
async fn stop_finishes_what_runs_and_leaves_no_process() {
    let (dir, engine) = fresh().await;
    let pid = engine.pid().unwrap();
    let client = client(&engine, Compression::Lz4);
    client
        .query("CREATE TABLE t (batch UInt64, text String) ENGINE = MergeTree ORDER BY batch")
        .execute()
        .await
        .unwrap();
    insert(&client, 0).await.unwrap();
    let sleep = || {
        let client = client.clone();
        let sql = "SELECT sum(sleepEachRow(0.5)) FROM numbers(6) SETTINGS max_block_size = 1";
        tokio::spawn(async move { client.query(sql).fetch_one::<u64>().await })
    };
    let mut running = sleep();
    let started =
        "SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow(0%' AND query NOT LIKE '%processes%'";
    until_async("running", async || {
        // A machine may take longer to look than it sleeps.
        if running.is_finished() {
            running = sleep();
        }
        client.query(started).fetch_one::<u64>().await.unwrap() > 0
    })
    .await;
    engine.stop().await.unwrap();
    assert!(!is_running(pid));
    assert_eq!(running.await.unwrap().unwrap(), 0);
    let again = start(dir.path()).await;
    assert_eq!(count(&super::client(&again, Compression::Lz4), "t").await, ROWS_PER_BATCH);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn drop_leaves_no_process() {
    let (dir, engine) = fresh().await;
    let pid = engine.pid().unwrap();
    drop(engine);
    wait_until_gone(pid).await;
    start(dir.path()).await.stop().await.unwrap();
}

async fn wait_until_gone(pid: u32) {
    until_async("gone", async || !is_running(pid)).await;
}

#[tokio::test]
async fn a_data_directory_has_one_engine_at_a_time() {
    let (dir, engine) = fresh().await;
    let holder = engine.pid().unwrap();
    let error = EmbeddedClickHouse::start(&options(dir.path())).await.expect_err("must be refused");
    assert!(error.to_string().contains(&format!("is in use by process {holder}")), "{error}");
    engine.stop().await.unwrap();
    start(dir.path()).await.stop().await.unwrap();
}

/// Runs twice: as itself, and, with the variable set, as the parent that is killed.
#[tokio::test]
async fn the_engine_ends_when_its_parent_is_killed() {
    const PARENT_OF: &str = "CUSTODY_TEST_PARENT_OF";
    if let Some(data_dir) = std::env::var_os(PARENT_OF) {
        let engine = start(Path::new(&data_dir)).await;
        println!("\nengine {}", engine.pid().unwrap());
        return std::future::pending().await;
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "kill::the_engine_ends_when_its_parent_is_killed";
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(PARENT_OF, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(parent.stdout.take().unwrap()).lines();
    let pid = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("engine ")?.parse().ok()).unwrap();
    assert!(is_running(pid));
    kill(parent.id(), "-9");
    parent.wait().unwrap();
    wait_until_gone(pid).await;
    start(dir.path()).await.stop().await.unwrap();
}
