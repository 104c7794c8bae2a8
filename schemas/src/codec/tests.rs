//! What the codec promises, for every record.

use super::*;
use crate::event::{EventHeader, RawEvent};
use crate::text::RawText;

fn default_of(kind: EventKind) -> RawEvent {
    macro_rules! make {
        ($name:ident) => {
            Event::$name(Default::default())
        };
    }
    read_record!(kind, make)
}

#[test]
fn every_kind_comes_back_as_it_was() {
    for kind in EventKind::ALL {
        let event = default_of(*kind);
        assert_eq!(codec().decode::<RawText>(Some(&codec().encode(&event))), Ok(event));
    }
}

#[test]
fn bytes_that_are_no_event_give_the_reason() {
    let good = codec().encode(&default_of(EventKind::ModelCall)).to_vec();
    let check = |value: Option<&[u8]>, reason: RejectReason| {
        assert_eq!(codec().decode::<RawText>(value).map_err(|e| e.reason), Err(reason));
    };
    check(None, RejectReason::Empty);
    check(Some(&[]), RejectReason::Empty);
    check(Some(&vec![0; crate::limits::EVENT_BYTES_MAX + 1]), RejectReason::TooLarge);
    check(Some(b"{\"event\":1}"), RejectReason::UnknownFrame);
    check(Some(&[0xC3]), RejectReason::Truncated);
    check(Some(&[0xC3, 0x02, 0, 0]), RejectReason::UnknownFrame);
    check(Some(&[0xC3, 0x01, 0, 0, 0, 0, 0, 0, 0]), RejectReason::Truncated);
    check(Some(&[0xC3, 0x01, 0, 0, 0, 0, 0, 0, 0, 0]), RejectReason::UnknownSchema);
    check(Some(&[0, 0, 0, 1]), RejectReason::Truncated);
    check(Some(&[0, 0, 0, 0, 1]), RejectReason::UnknownSchema);
    for len in 10..good.len() {
        check(Some(&good[..len]), RejectReason::Truncated);
    }
    check(Some(&[&good[..], &[0]].concat()), RejectReason::Truncated);
}

#[test]
fn a_header_without_an_agent_is_refused() {
    let h = EventHeader { tenant_id: "acme".to_owned(), ..EventHeader::of_type("model.call") };
    let refused = validate_header(&h, crate::time::TimestampMicros::from_ms(1_700_000_000_000));
    assert_eq!(refused, Err((RejectReason::InvalidHeader, "agent_id is empty".to_owned())));
}
