//! Events that gateways numbered: several of them, restarts, repeats, any order of happening.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::event::*;
use schemas::id::{Sha256, Uuid};

use super::fleet::*;
use crate::completeness::CompletenessConfig;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// A gateway: numbers what arrives, per session, and chains it.
struct Gateway {
    name: String,
    epoch: i64,
    producer_seq: i64,
    sessions: BTreeMap<u8, (i64, Sha256)>,
}

impl Gateway {
    fn new(name: &str, epoch: i64) -> Self {
        Self { name: name.to_owned(), epoch, producer_seq: 0, sessions: BTreeMap::new() }
    }

    /// The `id`-th event there is, with these contents, in a session; 0 is no session.
    fn number(&mut self, session: u8, id: u8, content: &str, event: CleanEvent) -> Made {
        let mut made = Writer::new(&self.name).write(event);
        let (seq, prev) = self.sessions.entry(session).or_default();
        let digest = Sha256::of(format!("{}/{}/{session}/{seq}/{id}/{content}", self.name, self.epoch).as_bytes());
        let h = made.event.h_mut();
        (h.event_id, h.session_id) = (Uuid([id; 16]), session_id(session));
        (h.seq, h.prev_hash) = if session == 0 { (-1, Sha256::ZERO) } else { (*seq, *prev) };
        (h.producer_epoch, h.producer_seq) = (self.epoch, self.producer_seq);
        h.capture = "best_effort".to_owned();
        h.ext.insert(CONTENT_SHA256_EXT.to_owned(), Sha256::of(content.as_bytes()).to_hex());
        made.digest = digest;
        (*seq, *prev) = (*seq + 1, digest);
        self.producer_seq += 1;
        made
    }

    fn call(&mut self, session: u8, id: u8) -> Made {
        self.number(session, id, &format!("content of {id}"), model_call())
    }
}

/// The events, then more than an hour of ticks, lead to exactly these kinds and counts, in this order.
#[track_caller]
fn check(events: Vec<Made>, expected: &[(&str, i64)]) -> Vec<DetectionRaised> {
    let mut items: Vec<Item> = events.into_iter().map(Item::Event).collect();
    items.extend([Item::Tick(2 * MINUTE_MS), Item::Tick(HOUR_MS), Item::Tick(HOUR_MS)]);
    let found = findings(&run(&CompletenessConfig::default(), &records(0, 1_000, &items)));
    let expected: Vec<_> = expected.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
    assert_eq!(kinds(&found), expected, "{found:#?}");
    found
}

#[test]
fn a_session_through_two_gateways_and_a_restart_leads_to_nothing() {
    let (mut a, mut b) = (Gateway::new("gateway/a", 1), Gateway::new("gateway/b", 1));
    let mut events = vec![a.call(1, 1), b.call(1, 2), a.call(1, 3), b.call(1, 4), b.call(2, 5)];
    let mut restarted = Gateway::new("gateway/a", 2);
    events.extend([restarted.call(1, 6), b.call(1, 7), restarted.call(1, 8)]);
    check(events, &[]);
}

#[test]
fn an_observed_session_needs_no_end_and_its_end_closes_nothing() {
    let mut gateway = Gateway::new("gateway/a", 1);
    let ended = SessionEnded { event_count: 40, final_hash: Sha256::of(b"the client's"), ..Default::default() };
    let events = vec![gateway.call(1, 1), gateway.number(1, 2, "end", Event::SessionEnded(ended)), gateway.call(1, 3)];
    check(events, &[]);
}

#[test]
fn the_same_event_through_another_gateway_is_a_duplicate_and_other_contents_are_an_equivocation() {
    let (mut a, mut b) = (Gateway::new("gateway/a", 1), Gateway::new("gateway/b", 1));
    check(vec![a.call(1, 1), a.call(1, 2), b.call(1, 1), a.call(1, 2)], &[("duplicate", 1), ("duplicate", 1)]);
    let mut a = Gateway::new("gateway/a", 1);
    let events = vec![a.call(1, 1), a.number(1, 1, "other", model_call()), a.number(1, 1, "other", model_call())];
    check(events, &[("equivocation", 1), ("duplicate", 1)]);
}

#[test]
fn a_batch_that_was_appended_twice_is_duplicates_and_uses_no_number_twice() {
    let mut gateway = Gateway::new("gateway/a", 1);
    let batch = [gateway.call(1, 1), gateway.call(1, 2)];
    let events = [batch.to_vec(), batch.to_vec(), vec![gateway.call(1, 3)]].concat();
    let items: Vec<Item> = events.into_iter().map(Item::Event).chain([Item::Tick(MINUTE_MS)]).collect();
    let derived = run(&CompletenessConfig::default(), &records(0, 1_000, &items));
    let duplicates = vec![("duplicate".to_owned(), 1); 2];
    assert_eq!(kinds(&findings(&derived)), duplicates);
    let spans = derived.iter().find_map(|outgoing| match &outgoing.value {
        schemas::codec::Derived::WriterSpan(span) => Some(span.spans.clone()),
        _ => None,
    });
    assert_eq!(spans, Some(vec![SeqSpan { first: 0, next: 3 }]));
}

#[test]
fn a_number_that_never_came_is_a_gap_of_its_gateway() {
    let (mut a, mut b) = (Gateway::new("gateway/a", 1), Gateway::new("gateway/b", 1));
    let mut events: Vec<Made> = (1..6).map(|id| a.call(1, id)).collect();
    events.extend((6..9).map(|id| b.call(1, id)));
    events.drain(2..4);
    let found = check(events, &[("sequence_gap", 2)]);
    assert_eq!(found[0].attributes["producer_id"], "gateway/a");
    assert_eq!(found[0].attributes["missing"], "2-3");
}

#[test]
fn a_changed_event_breaks_its_gateways_chain() {
    let mut gateway = Gateway::new("gateway/a", 1);
    let mut events: Vec<Made> = (1..4).map(|id| gateway.call(1, id)).collect();
    events[1].digest = Sha256::of(b"changed on the way");
    check(events, &[("chain_broken", 1)]);
}

#[test]
fn another_event_with_a_number_of_the_same_epoch_is_a_fork() {
    let (mut one, mut two) = (Gateway::new("gateway/a", 1), Gateway::new("gateway/a", 1));
    check(vec![one.call(1, 1), two.call(1, 2)], &[("forked", 1)]);
}

#[test]
fn a_session_met_in_the_middle_misses_nothing_before() {
    let mut gateway = Gateway::new("gateway/a", 1);
    let events: Vec<Made> = (1..9).map(|id| gateway.call(1, id)).collect();
    check(events[4..].to_vec(), &[]);
}

#[test]
fn more_gateways_than_are_remembered_are_reported_and_forgotten() {
    let mut gateways: Vec<Gateway> = (0..9).map(|n| Gateway::new(&format!("gateway/{n}"), 1)).collect();
    let mut events: Vec<Made> = (0..3).map(|id| gateways[0].call(1, id)).collect();
    events.remove(1);
    events.extend((1..9).map(|n| gateways[usize::from(n)].call(1, 10 + n)));
    check(events, &[("sequence_gap", 1)]);
}

#[test]
fn a_heartbeat_that_a_gateway_numbered_claims_no_numbers() {
    let mut gateway = Gateway::new("gateway/a", 1);
    let open_sessions = vec![OpenSession { id: session_id(1), last_seq: 99 }];
    let heartbeat = Heartbeat { last_producer_seq: 99, open_sessions, ..Default::default() };
    check(vec![gateway.call(1, 1), gateway.number(0, 2, "beat", Event::Heartbeat(heartbeat))], &[]);
}

#[test]
fn outside_of_sessions_a_repeat_is_a_duplicate_by_its_contents() {
    let mut gateway = Gateway::new("gateway/a", 1);
    check(vec![gateway.call(0, 1), gateway.call(0, 1)], &[("duplicate", 1)]);
    let mut gateway = Gateway::new("gateway/a", 1);
    check(vec![gateway.call(0, 1), gateway.number(0, 1, "other", model_call())], &[("equivocation", 1)]);
}

proptest! {
    /// Any weave of gateways, restarts and repeats: every repeat is a duplicate, and nothing else is found.
    #[test]
    fn only_repeats_are_found(steps in prop::collection::vec((0..3_usize, 1..4_u8, 1..20_u8, 0..20_u8), 0..60)) {
        let mut gateways: Vec<Gateway> = (0..3).map(|n| Gateway::new(&format!("gateway/{n}"), 1)).collect();
        let mut seen = std::collections::BTreeSet::new();
        let (mut events, mut duplicates) = (Vec::new(), 0);
        for (gateway, session, id, restart) in steps {
            if restart == 0 {
                let Gateway { name, epoch, .. } = &gateways[gateway];
                gateways[gateway] = Gateway::new(name, epoch + 1);
            }
            let id = session * 20 + id;
            duplicates += usize::from(!seen.insert(id));
            events.push(gateways[gateway].call(session, id));
        }
        check(events, &vec![("duplicate", 1); duplicates]);
    }
}
