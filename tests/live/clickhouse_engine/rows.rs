//! Rows through the `clickhouse` crate: compressed or not, validated or not, parameters, tokens, streams.

use clickhouse::{Client, Compression, Row};
use serde::{Deserialize, Serialize};

use super::{client, count, fresh};

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Event {
    seq: u64,
    agent: String,
    score: f64,
    labels: Vec<(String, String)>,
}

const TABLE: &str = "CREATE TABLE t (seq UInt64, agent String, score Float64, labels Map(String, String)) \
                     ENGINE = MergeTree ORDER BY seq SETTINGS non_replicated_deduplication_window = 100";

fn event(seq: u64) -> Event {
    let text = format!("agent '{}'\n\n;\\", seq % 7);
    Event { seq, agent: text.clone(), score: seq as f64 / 3.0, labels: vec![("k".into(), text)] }
}

async fn insert(client: &Client, rows: impl Iterator<Item = u64>) -> Result<(), clickhouse::error::Error> {
    let mut insert = client.insert::<Event>("t").await?;
    for seq in rows {
        insert.write(&event(seq)).await?;
    }
    insert.end().await
}

#[tokio::test]
async fn rows_come_back_as_they_went_in() {
    let (_dir, engine) = fresh().await;
    let lz4 = client(&engine, Compression::Lz4);
    lz4.query(TABLE).execute().await.unwrap();
    let ways = [
        lz4.clone(),
        lz4.clone().with_validation(false),
        client(&engine, Compression::None),
        client(&engine, Compression::None).with_validation(false),
    ];
    for (way, client) in (0..).zip(&ways) {
        insert(client, way * 5000..(way + 1) * 5000).await.unwrap();
    }
    for client in &ways {
        let rows: Vec<Event> = client.query("SELECT ?fields FROM t ORDER BY seq").fetch_all().await.unwrap();
        assert_eq!(rows, (0..20_000).map(event).collect::<Vec<_>>());
    }
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn a_long_answer_is_streamed_whole_and_in_order() {
    let (_dir, engine) = fresh().await;
    for compression in [Compression::None, Compression::Lz4] {
        for validation in [true, false] {
            let client = client(&engine, compression).with_validation(validation);
            let mut cursor = client.query("SELECT number FROM numbers(1000000)").fetch::<u64>().unwrap();
            let mut next = 0;
            while let Some(number) = cursor.next().await.unwrap() {
                assert_eq!(number, next);
                next += 1;
            }
            assert_eq!(next, 1_000_000);
        }
    }
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn an_error_in_the_middle_of_an_answer_is_an_error() {
    let (_dir, engine) = fresh().await;
    let sql = "SELECT throwIf(number = 500000, 'in the middle') FROM numbers(1000000) SETTINGS max_threads = 1";
    for compression in [Compression::None, Compression::Lz4] {
        let outcome = client(&engine, compression).query(sql).fetch_all::<u8>().await;
        let message = outcome.expect_err("must fail").to_string();
        assert!(message.contains("Code: 395") && message.contains("in the middle"), "{message}");
    }
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn values_are_bound_on_either_side() {
    let (_dir, engine) = fresh().await;
    let client = client(&engine, Compression::Lz4);
    client.query(TABLE).execute().await.unwrap();
    insert(&client, 0..10).await.unwrap();
    let text = event(3).agent;
    let bound = client.query("SELECT count() FROM t WHERE agent = ? AND seq < ?").bind(&text).bind(9);
    assert_eq!(bound.fetch_one::<u64>().await.unwrap(), 1);
    let sql = "SELECT count() FROM t WHERE agent = {agent:String} AND seq < {limit:UInt64}";
    let param = client.query(sql).param("agent", "agent '3'\n\n;\\").param("limit", 9);
    assert_eq!(param.fetch_one::<u64>().await.unwrap(), 1);
    let values = "INSERT INTO t (seq, agent) VALUES ({seq:UInt64}, {agent:String})";
    client.query(values).param("seq", 77).param("agent", "by param; SELECT 1").execute().await.unwrap();
    client.query("INSERT INTO t (seq, agent) VALUES (?, ?)").bind(78).bind("a;\n\nb").execute().await.unwrap();
    let agents: Vec<String> =
        client.query("SELECT agent FROM t WHERE seq > 76 ORDER BY seq").fetch_all().await.unwrap();
    assert_eq!(agents, ["by param; SELECT 1", "a;\n\nb"]);
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn the_same_token_twice_is_written_once() {
    let (_dir, engine) = fresh().await;
    let client = client(&engine, Compression::Lz4);
    client.query(TABLE).execute().await.unwrap();
    let first = client.clone().with_setting("insert_deduplication_token", "t:custody.clean.v1:0:0-1999");
    let second = client.clone().with_setting("insert_deduplication_token", "t:custody.clean.v1:0:2000-3999");
    for client in [&first, &first, &second, &first] {
        insert(client, 0..2000).await.unwrap();
    }
    assert_eq!(count(&client, "t").await, 4000);
    // Since 26.x `insert_deduplicate` only counts where `deduplicate_insert` leaves the choice to it.
    let choice = first.with_setting("deduplicate_insert", "backward_compatible_choice");
    insert(&choice.with_setting("insert_deduplicate", "0").with_setting("async_insert", "0"), 0..2000).await.unwrap();
    assert_eq!(count(&client, "t").await, 6000);
    engine.stop().await.unwrap();
}

#[tokio::test]
async fn many_clients_work_at_once() {
    let (_dir, engine) = fresh().await;
    let client = client(&engine, Compression::Lz4);
    client.query(TABLE).execute().await.unwrap();
    let tasks: Vec<_> = (0..40u64)
        .map(|part| {
            let client = client.clone();
            tokio::spawn(async move {
                insert(&client, part * 100..(part + 1) * 100).await.unwrap();
                count(&client, "t").await
            })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap() >= 100);
    }
    assert_eq!(count(&client, "t").await, 4000);
    engine.stop().await.unwrap();
}
