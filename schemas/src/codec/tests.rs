//! What the codec promises, for every record: against `apache-avro` as the second implementation.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::event::{CleanEvent, EventHeader, ModelCall, RawEvent};
use crate::limits::EVENT_BYTES_MAX;
use crate::testing::{self, BROKER_TIME};
use crate::text::{Content, RawText};
use crate::time::TimestampMicros;

const FRAME_BYTES: usize = 10;

fn kinds() -> impl Strategy<Value = EventKind> {
    proptest::sample::select(EventKind::ALL)
}

fn schema_of(name: &str) -> &'static PublishedSchema {
    published_schemas().iter().find(|schema| schema.name == name).expect("published")
}

/// The record as `apache-avro` writes it.
fn avro_bytes(record: &impl serde::Serialize, name: &str) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(&schema_of(name).json).unwrap();
    let writer = GenericDatumWriter::builder(&schema).human_readable(false).build().unwrap();
    writer.write_ser_to_vec(record).unwrap()
}

/// The event that `apache-avro` reads, if it reads one and nothing is left over.
fn avro_event(kind: EventKind, mut body: &[u8]) -> Option<RawEvent> {
    let schema = apache_avro::Schema::parse_str(&schema_of(kind.record_name()).json).unwrap();
    let reader = GenericDatumReader::builder(&schema).human_readable(false).build().unwrap();
    macro_rules! read {
        ($name:ident) => {
            reader.read_deser(&mut body).ok().map(Event::$name)
        };
    }
    let event = read_record!(kind, read);
    if body.is_empty() { event } else { None }
}

fn reason_of<T>(result: Result<T, DecodeError>) -> Option<RejectReason> {
    result.err().map(|e| e.reason)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_event_comes_back_as_it_was(kind in kinds(), seed: u64) {
        let raw: RawEvent = testing::event(kind, seed);
        prop_assert_eq!(codec().decode::<RawText>(Some(&codec().encode(&raw))), Ok(raw));
        let clean: CleanEvent = testing::event(kind, seed);
        prop_assert_eq!(codec().decode::<CleanText>(Some(&codec().encode(&clean))), Ok(clean));
    }

    #[test]
    fn every_derived_record_comes_back_as_it_was(seed: u64) {
        let record = testing::derived(seed);
        prop_assert_eq!(codec().decode_derived(Some(&codec().encode_derived(&record))), Ok(record));
    }

    #[test]
    fn events_have_the_bytes_of_apache_avro(kind in kinds(), seed: u64) {
        let event: RawEvent = testing::event(kind, seed);
        let bytes = codec().encode(&event);
        let wanted = with_record!(&event, record => avro_bytes(record, kind.record_name()));
        prop_assert_eq!(&bytes[FRAME_BYTES..], &wanted[..]);
        prop_assert_eq!(avro_event(kind, &wanted), Some(event));
    }

    #[test]
    fn derived_records_have_the_bytes_of_apache_avro(seed: u64) {
        let record = testing::derived(seed);
        let bytes = codec().encode_derived(&record);
        let wanted = match &record {
            Derived::Event(_) => return Ok(()),
            Derived::Signal(record) => avro_bytes(record, "Signal"),
            Derived::WriterSpan(record) => avro_bytes(record, "WriterSpan"),
            Derived::Watermark(record) => avro_bytes(record, "Watermark"),
            Derived::Alert(record) => avro_bytes(record, "Alert"),
            Derived::ControlTotal(record) => avro_bytes(record, "ControlTotal"),
        };
        prop_assert_eq!(&bytes[FRAME_BYTES..], &wanted[..]);
    }

    #[test]
    fn damaged_bytes_are_read_as_apache_avro_reads_them(kind in kinds(), seed: u64, at: prop::sample::Index, byte: u8) {
        let mut bytes = codec().encode(&testing::event::<RawText>(kind, seed)).to_vec();
        let at = FRAME_BYTES + at.index(bytes.len() - FRAME_BYTES);
        bytes[at] = byte;
        let body = &bytes[FRAME_BYTES..];
        match (Writer::Ours(Kind::Event(kind)).read_event::<RawText>(kind, body), avro_event(kind, body)) {
            // By their text, for a number may be NaN now, which equals nothing.
            (Ok(ours), Some(theirs)) => prop_assert_eq!(format!("{ours:?}"), format!("{theirs:?}")),
            // It drops what does not fit 64 bits.
            (Err(_), None) | (Err(Fault::Malformed("an integer of more than 64 bits")), _) => {}
            (ours, theirs) => prop_assert!(false, "{ours:?} against {theirs:?}"),
        }
    }

    #[test]
    fn a_schema_that_differs_in_nothing_changes_nothing(kind in kinds(), seed: u64) {
        let event: RawEvent = testing::event(kind, seed);
        let foreign = Writer::Foreign(Arc::new(Foreign::parse(&schema_of(kind.record_name()).json).unwrap()));
        prop_assert_eq!(foreign.read_event(kind, &codec().encode(&event)[FRAME_BYTES..]), Ok(event));
    }

    #[test]
    fn no_prefix_of_an_event_is_an_event(kind in kinds(), seed: u64, len: prop::sample::Index) {
        let bytes = codec().encode(&testing::event::<RawText>(kind, seed));
        let cut = &bytes[..1 + len.index(bytes.len() - 1)];
        prop_assert_eq!(reason_of(codec().decode::<RawText>(Some(cut))), Some(RejectReason::Truncated));
    }

    #[test]
    fn valid_headers_pass(kind in kinds(), seed: u64) {
        prop_assert_eq!(validate_header(testing::event::<RawText>(kind, seed).h(), BROKER_TIME), Ok(()));
    }
}

#[test]
fn bytes_that_are_no_event_give_the_reason() {
    let good = codec().encode(&testing::event::<RawText>(EventKind::Tick, 1)).to_vec();
    let check = |value: Option<&[u8]>, reason: RejectReason| {
        assert_eq!(reason_of(codec().decode::<RawText>(value)), Some(reason));
    };
    check(None, RejectReason::Empty);
    check(Some(&[]), RejectReason::Empty);
    check(Some(&vec![0; EVENT_BYTES_MAX + 1]), RejectReason::TooLarge);
    check(Some(b"{\"event\":1}"), RejectReason::UnknownFrame);
    check(Some(&[0xC3]), RejectReason::Truncated);
    check(Some(&[0xC3, 0x02, 0, 0]), RejectReason::UnknownFrame);
    check(Some(&[0xC3, 0x01, 0, 0, 0, 0, 0, 0, 0]), RejectReason::Truncated);
    check(Some(&[0xC3, 0x01, 0, 0, 0, 0, 0, 0, 0, 0]), RejectReason::UnknownSchema);
    check(Some(&[0, 0, 0, 1]), RejectReason::Truncated);
    check(Some(&[0, 0, 0, 0, 1]), RejectReason::UnknownSchema);
    check(Some(&[&good[..], &[0]].concat()), RejectReason::Truncated);
}

/// A tick whose `writer_id` is these bytes.
fn tick_with_writer_id(writer_id: &[u8]) -> Vec<u8> {
    let tick = crate::event::Tick::default();
    let mut before = Vec::new();
    tick.h.write(&mut before);
    tick.at.write(&mut before);
    let whole = codec().encode(&RawEvent::Tick(tick));
    let (before, after) = whole.split_at(FRAME_BYTES + before.len());
    [before, writer_id, &after[1..]].concat()
}

#[test]
fn hostile_texts_give_the_reason() {
    let check = |writer_id: &[u8], reason: Option<RejectReason>| {
        let decoded = codec().decode::<RawText>(Some(&tick_with_writer_id(writer_id)));
        assert_eq!(reason_of(decoded), reason, "{writer_id:?}");
    };
    check(&[0], None);
    check(&[4, b'o', b'k'], None);
    check(&[4, 0xff, 0xfe], Some(RejectReason::InvalidUtf8));
    check(&[1], Some(RejectReason::Malformed));
    check(&[0xfe, 0xff, 0xff, 0xff, 0x0f], Some(RejectReason::Truncated));
    check(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Some(RejectReason::Truncated));
    check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Some(RejectReason::Malformed));
    check(&[0xff; 11], Some(RejectReason::Malformed));
}

#[test]
fn hostile_collections_end_with_the_input() {
    let check = |body: &[u8], wanted: Result<Vec<String>, Fault>| {
        assert_eq!(Vec::<String>::read(&mut Input(body)), wanted, "{body:?}");
    };
    let (min, max) = ([0xff; 9], [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    check(&[0], Ok(vec![]));
    check(&[3, 2, 0, 0, 0], Ok(vec![String::new(), String::new()]));
    check(&[2, 0, 2, 0, 0], Ok(vec![String::new(), String::new()]));
    check(&max, Err(Fault::Truncated));
    check(&[&max[..], &[0; 100]].concat(), Err(Fault::Truncated));
    check(&[&min[..], &[1, 0], &[0; 100]].concat(), Err(Fault::Truncated));
}

#[test]
fn raw_and_clean_events_do_not_mix() {
    let raw = Event::ModelCall(ModelCall { input: Some(Content::plain("hello")), ..Default::default() });
    let clean = raw.clone().clean(&mut |_, content| Content {
        text: CleanText::redacted(content.text.expose().to_owned()),
        redaction: "default@1".to_owned(),
        media_type: content.media_type,
        raw_bytes: content.raw_bytes,
        sealed: None,
    });
    let (raw, clean) = (codec().encode(&raw), codec().encode(&clean));
    assert_eq!(reason_of(codec().decode::<CleanText>(Some(&raw))), Some(RejectReason::WrongTopic));
    assert_eq!(reason_of(codec().decode::<RawText>(Some(&clean))), Some(RejectReason::WrongTopic));
    assert_eq!(reason_of(codec().decode_derived(Some(&raw))), Some(RejectReason::WrongTopic));
    let watermark = codec().encode_derived(&Derived::Watermark(Watermark::default()));
    assert_eq!(reason_of(codec().decode::<CleanText>(Some(&watermark))), Some(RejectReason::WrongTopic));
}

/// `ModelCall` as another version of the schema: the header's and the record's fields changed.
fn other_version(change: impl Fn(&mut Vec<Value>, &mut Vec<Value>)) -> String {
    let mut schema: Value = serde_json::from_str(&schema_of("ModelCall").json).unwrap();
    let mut header: Vec<Value> = schema["fields"][0]["type"]["fields"].as_array().unwrap().clone();
    let mut fields: Vec<Value> = schema["fields"].as_array().unwrap().clone();
    change(&mut header, &mut fields);
    fields[0]["type"]["fields"] = header.into();
    schema["fields"] = fields.into();
    schema.to_string()
}

/// Bytes of a default `ModelCall` whose header and record end otherwise than ours, framed for id 7.
fn other_bytes(header_cut: usize, header_tail: &[u8], cut: usize, tail: &[u8]) -> Vec<u8> {
    let call = ModelCall::<RawText>::default();
    let (mut header, mut whole) = (Vec::new(), Vec::new());
    call.h.write(&mut header);
    call.write(&mut whole);
    let rest = &whole[header.len()..whole.len() - cut];
    [&[0, 0, 0, 0, 7], &header[..header.len() - header_cut], header_tail, rest, tail].concat()
}

fn with_id_7(schema: String) -> Codec {
    codec().clone().with_registry_ids(BTreeMap::from([(7, schema)])).unwrap()
}

#[test]
fn an_older_writer_leaves_defaults() {
    let older = with_id_7(other_version(|header, fields| {
        // The default of the last field is a single byte in both records.
        header.truncate(header.len() - 1);
        fields.truncate(fields.len() - 1);
    }));
    let decoded = older.decode::<RawText>(Some(&other_bytes(1, &[], 1, &[])));
    assert_eq!(decoded, Ok(Event::ModelCall(ModelCall::default())));
}

#[test]
fn fields_of_a_newer_writer_are_passed_over() {
    let newer = with_id_7(other_version(|header, fields| {
        header.push(json!({"name": "x_zone", "type": ["null", "string"], "default": null}));
        header
            .push(json!({"name": "x_labels", "type": {"type": "map", "values": {"type": "array", "items": "double"}}}));
        fields.push(json!({"name": "x_cache", "type": {"type": "record", "name": "Cache", "fields": [
            {"name": "hit", "type": "boolean"}, {"name": "key", "type": "Sha256"}, {"name": "who", "type": "Principal"}]}}));
        fields.push(json!({"name": "sky", "type": {"type": "enum", "name": "Sky", "symbols": ["CLEAR", "RAIN"]}}));
    }));
    let mut labels = vec![2, 2, b'a', 2];
    labels.extend_from_slice(&1.5f64.to_le_bytes());
    labels.extend_from_slice(&[0, 0]);
    let header_tail = [&[2, 4, b'e', b'u'], &labels[..]].concat();
    let tail = [&[1], &[9; 32][..], &[0; 4], &[2]].concat();
    let bytes = other_bytes(0, &header_tail, 0, &tail);
    assert_eq!(newer.decode::<RawText>(Some(&bytes)), Ok(Event::ModelCall(ModelCall::default())));
    for len in 5..bytes.len() {
        assert_eq!(reason_of(newer.decode::<RawText>(Some(&bytes[..len]))), Some(RejectReason::Truncated));
    }
    let mut trailing = bytes.clone();
    trailing.push(0);
    assert_eq!(reason_of(newer.decode::<RawText>(Some(&trailing))), Some(RejectReason::Truncated));
}

#[test]
fn a_record_outside_the_catalogue_keeps_its_header_and_fields() {
    let schema = json!({"type": "record", "name": "Weather", "namespace": "acme", "fields": [
        {"name": "h", "type": serde_json::from_str::<Value>(&schema_of("Tick").json).unwrap()["fields"][0]["type"]},
        {"name": "city", "type": "string"},
        {"name": "celsius", "type": "double"},
        {"name": "sky", "type": {"type": "enum", "name": "Sky", "symbols": ["CLEAR", "RAIN"]}},
        {"name": "hours", "type": {"type": "array", "items": "int"}},
        {"name": "note", "type": ["null", "string"]},
        {"name": "station", "type": ["null", {"type": "map", "values": "bytes"}]},
    ]});
    let h = EventHeader { tenant_id: "acme".to_owned(), ..EventHeader::of_type("acme.weather") };
    let mut bytes = vec![0, 0, 0, 0, 7];
    h.write(&mut bytes);
    "Oslo".to_owned().write(&mut bytes);
    21.5.write(&mut bytes);
    bytes.extend_from_slice(&[2, 4, 2, 4, 0, 0, 2, 2, 2, b'k', 4, 0xab, 0xcd, 0]);
    let reader = with_id_7(schema.to_string());
    let Ok(Event::Extension(event)) = reader.decode::<RawText>(Some(&bytes)) else { panic!("not an extension") };
    assert_eq!(event.h, h);
    let wanted =
        [("celsius", "21.5"), ("city", "Oslo"), ("hours", "[1,2]"), ("sky", "RAIN"), ("station", r#"{"k":"abcd"}"#)];
    assert_eq!(event.attributes, wanted.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    assert_eq!(reason_of(reader.decode::<CleanText>(Some(&bytes))), Some(RejectReason::WrongTopic));
}

#[test]
fn schemas_that_no_record_can_be_read_with_are_refused() {
    let header = &serde_json::from_str::<Value>(&schema_of("Tick").json).unwrap()["fields"][0]["type"];
    let check = |fields: Value, wanted: Option<&str>| {
        let mut all = vec![json!({"name": "h", "type": header})];
        all.extend(fields.as_array().unwrap().iter().cloned());
        let text = json!({"type": "record", "name": "Other", "namespace": "acme", "fields": all}).to_string();
        let refused = codec().clone().with_registry_ids(BTreeMap::from([(7, text)])).err().map(|e| e.reason);
        assert_eq!(refused.as_deref(), wanted);
    };
    check(json!([]), None);
    check(
        json!([{"name": "a", "type": {"type": "array", "items": "null"}}]),
        Some("it has an array whose items take no bytes"),
    );
    check(json!([{"name": "next", "type": ["null", "Other"]}]), Some("it nests too deep or without end"));
    let text = json!({"type": "record", "name": "Other", "fields": [{"name": "a", "type": "int"}]}).to_string();
    let refused = Foreign::parse(&text).err().map(|e| e.to_string());
    assert_eq!(refused.as_deref(), Some("schema Other cannot be used: its first field is not h, an event header"));
    let refused = |change: &dyn Fn(&mut Vec<Value>)| {
        Foreign::parse(&other_version(|_, fields| change(fields))).err().map(|e| e.reason).unwrap_or_default()
    };
    assert_eq!(refused(&|fields| fields.swap(1, 2)), "ModelCall.provider stands elsewhere than in ours");
    assert_eq!(refused(&|fields| drop(fields.remove(1))), "ModelCall.call_id is missing and has no default");
    let retyped = "ModelCall.call_id has another type than ours; append a field under a new name instead";
    assert_eq!(refused(&|fields| fields[1]["type"] = "long".into()), retyped);
    assert!(codec().clone().with_registry_ids(BTreeMap::from([(7, "{".to_owned())])).is_err());
}

#[test]
fn registry_frames_are_written_and_read() {
    let ids = BTreeMap::from([("ModelCall".to_owned(), 41)]);
    let writer = codec().clone().emitting_registry_ids(&ids);
    let event: RawEvent = testing::event(EventKind::ModelCall, 3);
    let bytes = writer.encode(&event);
    assert_eq!(bytes[..5], [0, 0, 0, 0, 41]);
    assert_eq!(writer.decode::<RawText>(Some(&bytes)), Ok(event.clone()));
    let reader =
        codec().clone().with_registry_ids(BTreeMap::from([(41, schema_of("ModelCall").json.clone())])).unwrap();
    assert!(matches!(reader.ids[&41], Writer::Ours(_)));
    assert_eq!(reader.decode::<RawText>(Some(&bytes)), Ok(event));
    assert_eq!(writer.encode(&testing::event::<RawText>(EventKind::Tick, 3))[..2], [0xC3, 0x01]);
}

#[test]
fn what_a_registry_says_decides_about_its_ids_alone() {
    let event: RawEvent = testing::event(EventKind::ModelCall, 3);
    let framed = |id: u8| [&[0, 0, 0, 0, id], &codec().encode(&event)[FRAME_BYTES..]].concat();
    let facts = RegistryFacts::from([
        (1, codec().registered(&schema_of("ModelCall").json)),
        (2, codec().registered("{\"type\":\"int\"}")),
        (3, Registered::Absent),
    ]);
    let check = |id: u8, expected: Result<RawEvent, (RejectReason, &str)>| {
        let decoded = codec().decode_with::<RawText>(Some(&framed(id)), &facts);
        let expected = expected.map_err(|(reason, detail)| DecodeError { reason, detail: detail.to_owned() });
        assert_eq!(decoded, expected, "{id}");
    };
    check(1, Ok(event.clone()));
    let unusable = "registry id 2: schema {\"type\":\"int\"} cannot be used: it is not a record";
    check(2, Err((RejectReason::UnusableSchema, unusable)));
    check(3, Err((RejectReason::UnknownSchema, "the registry has no schema with id 3")));
    check(4, Err((RejectReason::UnknownSchema, "no schema has registry id 4")));
}

#[test]
fn only_a_registry_frame_of_an_unknown_id_asks() {
    let known = codec().clone().with_registry_ids(BTreeMap::from([(7, schema_of("Tick").json.clone())])).unwrap();
    let check = |value: Option<&[u8]>, expected: Option<u32>| {
        assert_eq!(known.asks_for::<RawText>(value), expected, "{value:?}");
    };
    check(None, None);
    check(Some(b"{}"), None);
    check(Some(&[0, 0, 0, 7]), None);
    check(Some(&[0, 0, 0, 0, 7, 1]), None);
    check(Some(&[0, 0, 0, 1, 7]), Some(263));
    check(Some(&codec().encode(&testing::event::<RawText>(EventKind::Tick, 1))), None);
    assert_eq!(known.asks_for::<RawText>(Some(&vec![0; EVENT_BYTES_MAX + 1])), None, "it is refused for its size");
}

#[test]
fn single_object_frames_of_other_versions_are_read() {
    let older = other_version(|_, fields| drop(fields.pop()));
    let fingerprint = published::fingerprint_of_text(&older).unwrap();
    let mut bytes = [0xC3, 0x01].to_vec();
    bytes.extend_from_slice(&fingerprint);
    bytes.extend_from_slice(&other_bytes(0, &[], 1, &[])[5..]);
    let reader = codec().clone().with_schemas([older.as_str()]).unwrap();
    assert_eq!(reader.decode::<RawText>(Some(&bytes)), Ok(Event::ModelCall(ModelCall::default())));
    assert_eq!(reason_of(codec().decode::<RawText>(Some(&bytes))), Some(RejectReason::UnknownSchema));
}

#[test]
fn headers_are_refused_for_a_reason_that_names_the_field() {
    let good = testing::event::<RawText>(EventKind::ModelCall, 5).h().clone();
    let check = |change: &dyn Fn(&mut EventHeader), reason: RejectReason, detail: &str| {
        let mut h = good.clone();
        change(&mut h);
        assert_eq!(validate_header(&h, BROKER_TIME), Err((reason, detail.to_owned())));
    };
    let invalid = RejectReason::InvalidHeader;
    let long = || "x".repeat(257);
    check(&|h| h.tenant_id.clear(), invalid, "tenant_id is empty");
    check(&|h| h.agent_id.clear(), invalid, "agent_id is empty");
    check(&|h| h.event_type.clear(), invalid, "event_type is empty");
    check(&|h| h.event_id = Default::default(), invalid, "event_id is empty");
    check(&|h| h.tenant_id = "a/b".into(), invalid, "tenant_id has a slash or a control character");
    check(&|h| h.tenant_id = "a\u{7f}".into(), invalid, "tenant_id has a slash or a control character");
    check(
        &|h| h.tenant_id = "_system".into(),
        invalid,
        "tenant_id _system is reserved for events of the system itself",
    );
    check(&|h| h.producer_id = long(), invalid, "producer_id is longer than 256 bytes");
    check(&|h| h.principal.id = long(), invalid, "principal has a field longer than 256 bytes");
    check(&|h| h.spec_version = 0, invalid, "spec_version 0 is not in 1..=1");
    check(&|h| h.spec_version = 2, invalid, "spec_version 2 is not in 1..=1");
    check(&|h| h.seq = -2, invalid, "seq is below -1");
    check(&|h| h.producer_seq = -2, invalid, "producer_seq is below -1");
    let implausible = RejectReason::ImplausibleTime;
    check(&|h| h.event_time = TimestampMicros(0), implausible, "event_time is before 2000");
    let ahead = BROKER_TIME.plus_ms(86_400_001);
    check(&|h| h.event_time = ahead, implausible, "event_time is more than a day ahead of the broker");
    let tick = EventHeader { tenant_id: "_system".into(), event_time: BROKER_TIME, ..EventHeader::of_type("tick") };
    assert_eq!(validate_header(&tick, BROKER_TIME), Ok(()));
}
