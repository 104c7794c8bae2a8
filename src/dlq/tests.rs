//! Letters, replays and resolutions, and that any record can be taken.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn letter_record(offset: u64, source_topic: &str) -> Record {
    let text = |name: &str, value: &str| (name.to_owned(), Bytes::copy_from_slice(value.as_bytes()));
    Record {
        at: Position { partition: PartitionId { topic: Topic::Dlq, partition: 3 }, offset },
        timestamp: TimestampMicros(7_000),
        key: Some(Bytes::from_static(b"t/s")),
        value: Some(Bytes::from_static(&[0, 0, 0, 0, 17, 255])),
        headers: vec![
            text("own", "kept"),
            text(header::DLQ_REASON, "unknown_schema"),
            text(header::DLQ_TOPIC, source_topic),
            text(header::DLQ_PARTITION, "3"),
            text(header::DLQ_OFFSET, "41"),
            text(header::DLQ_STAGE, "pii@1"),
            text(header::DLQ_MESSAGE, "no schema has registry id 17"),
        ],
    }
}

fn as_read(out: OutRecord, offset: u64) -> Record {
    let at = Position { partition: PartitionId { topic: out.topic, partition: out.partition.unwrap() }, offset };
    Record { at, timestamp: out.timestamp, key: out.key, value: out.value, headers: out.headers }
}

#[test]
fn a_letter_has_its_reason_its_source_and_its_bytes() {
    let mut letters = Letters::default();
    letters.push(&letter_record(5, "custody.events.v1"));
    let letter = letters.get(LetterId { partition: 3, offset: 5 }).unwrap();
    assert_eq!((letter.reason.as_str(), letter.stage.as_str()), ("unknown_schema", "pii@1"));
    assert_eq!(letter.message, "no schema has registry id 17");
    assert_eq!(letter.source.unwrap().offset, 41);
    assert_eq!(letter.value.as_deref(), Some(&[0, 0, 0, 0, 17, 255][..]));
    assert_eq!(letter.headers, [("own".to_owned(), Bytes::from_static(b"kept"))]);
    assert_eq!(letters.open_by_reason(), BTreeMap::from([("unknown_schema", 1)]));
}

#[test]
fn a_replay_is_the_original_record_and_closes_the_letter() {
    let mut letters = Letters::default();
    letters.push(&letter_record(5, "custody.events.v1"));
    let id = LetterId { partition: 3, offset: 5 };
    let replay = replay_record(letters.get(id).unwrap(), TimestampMicros(9_000)).unwrap();
    assert_eq!((replay.topic, replay.partition, replay.timestamp), (Topic::Events, Some(3), TimestampMicros(9_000)));
    assert_eq!((replay.key.as_deref(), replay.value.as_deref()), (Some(&b"t/s"[..]), Some(&[0, 0, 0, 0, 17, 255][..])));
    let names: Vec<&str> = replay.headers.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["own", REPLAYED_FROM]);
    let closed = as_read(resolution_record(id, Resolution::Replayed, "", TimestampMicros(9_000)), 6);
    assert!(is_resolution(&closed));
    letters.push(&closed);
    assert_eq!(letters.get(id).unwrap().resolution.as_deref(), Some("replayed"));
    assert_eq!((letters.iter().count(), letters.open_by_reason().len()), (1, 0));
}

#[test]
fn what_a_stage_wrote_is_not_replayed() {
    let mut letters = Letters::default();
    letters.push(&letter_record(5, "custody.clean.v1"));
    let refused = replay_record(letters.iter().next().unwrap(), TimestampMicros(0)).unwrap_err();
    assert!(refused.contains("custody.clean.v1"), "{refused}");
}

#[test]
fn ids_read_as_they_print() {
    assert_eq!("3/5".parse::<LetterId>(), Ok(LetterId { partition: 3, offset: 5 }));
    for wrong in ["", "3", "3/", "/5", "3/5/7", "-1/5", "a/b"] {
        assert!(wrong.parse::<LetterId>().is_err(), "{wrong}");
    }
}

proptest! {
    /// Whatever the headers say, a record is a letter or a resolution and its bytes are kept.
    #[test]
    fn any_record_is_taken(names in prop::collection::vec(".{0,40}", 0..6), value in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut record = letter_record(1, "nowhere");
        record.headers = names.into_iter().map(|n| (n, Bytes::from_static(b"\xff"))).collect();
        record.value = Some(Bytes::from(value.clone()));
        let mut letters = Letters::default();
        letters.push(&record);
        prop_assert_eq!(letters.iter().next().unwrap().value.as_deref(), Some(value.as_slice()));
    }
}
