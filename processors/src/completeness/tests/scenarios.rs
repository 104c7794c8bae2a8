//! One deviation at a time, and exactly the findings it must lead to.

use schemas::event::*;
use schemas::id::{Sha256, Uuid};
use schemas::time::TimestampMicros;

use super::fleet::*;
use crate::completeness::CompletenessConfig;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

fn config() -> CompletenessConfig {
    let steps = ["session.started", "policy.decision", "tool.call.attempted"].map(str::to_owned).to_vec();
    CompletenessConfig { templates: [("refund".to_owned(), steps)].into(), ..Default::default() }
}

/// The events, then an hour of ticks, lead to exactly these kinds and counts, in this order.
#[track_caller]
fn check(events: Vec<Made>, expected: &[(&str, i64)]) -> Vec<DetectionRaised> {
    check_items(events.into_iter().map(Item::Event).collect(), expected)
}

#[track_caller]
fn check_items(mut items: Vec<Item>, expected: &[(&str, i64)]) -> Vec<DetectionRaised> {
    items.extend([Item::Tick(2 * MINUTE_MS), Item::Tick(HOUR_MS), Item::Tick(HOUR_MS)]);
    let found = findings(&run(&config(), &records(0, 1_000, &items)));
    let expected: Vec<_> = expected.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
    assert_eq!(kinds(&found), expected, "{found:#?}");
    for finding in &found {
        let h = &finding.h;
        assert!(!finding.reason.is_empty() && h.event_type == "detection.raised" && h.seq == -1, "{finding:?}");
        assert_eq!((h.tenant_id.as_str(), h.agent_id.as_str()), (TENANT, "agent"), "{finding:?}");
        assert_eq!(finding.detector, "custody/completeness");
    }
    found
}

/// A whole session of `n` events.
fn whole(n: usize) -> Vec<Made> {
    Writer::new("w").session(1, "", vec![model_call(); n - 2])
}

#[test]
fn a_whole_session_leads_to_nothing() {
    for n in [2, 3, 41, 3_000] {
        check(whole(n), &[]);
    }
}

#[test]
fn a_missing_event_is_a_gap_that_names_its_numbers() {
    let mut events = whole(41);
    events.drain(7..10);
    let found = check(events, &[("sequence_gap", 3)]);
    let id = session_id(1);
    assert_eq!(found[0].reason, format!("3 of 41 events of session {id} never arrived (seq 7-9)"));
    assert_eq!(found[0].attributes["missing"], "7-9");
    assert_eq!(found[0].h.session_id, id);
}

#[test]
fn gaps_of_one_session_are_one_finding() {
    let mut events = whole(10);
    events.remove(8);
    events.remove(2);
    events.remove(0);
    let found = check(events, &[("sequence_gap", 3)]);
    assert_eq!(found[0].attributes["missing"], "0, 2, 8");
}

#[test]
fn a_missing_end_is_unterminated_and_no_gap() {
    let mut events = whole(5);
    events.pop();
    check(events, &[("unterminated", 1)]);
    let mut events = whole(6);
    events.truncate(4);
    events.remove(1);
    check(events, &[("sequence_gap", 1), ("unterminated", 1)]);
}

#[test]
fn any_order_within_the_grace_leads_to_nothing() {
    let mut events = whole(12);
    events.reverse();
    check(events, &[]);
    let mut events = whole(12);
    events.swap(3, 9);
    events.swap(4, 5);
    check(events, &[]);
}

#[test]
fn a_gap_that_is_filled_after_its_report_is_taken_back() {
    let mut events = whole(9);
    let late: Vec<Made> = events.drain(3..5).collect();
    let mut items: Vec<Item> = events.into_iter().map(Item::Event).collect();
    items.push(Item::Tick(2 * MINUTE_MS));
    items.extend(late.into_iter().map(Item::Event));
    let found = check_items(items, &[("sequence_gap", 2), ("gap_filled", 2)]);
    assert_eq!(found[1].attributes["filled"], "3-4");
}

#[test]
fn a_redelivery_is_a_duplicate_and_other_bytes_are_an_equivocation() {
    let mut events = whole(5);
    events.insert(4, events[2].clone());
    events.push(events[0].clone());
    check(events, &[("duplicate", 1), ("duplicate", 1)]);

    let mut events = whole(5);
    let other = Made { digest: Sha256::of(b"other"), ..events[2].clone() };
    events.insert(3, other);
    check(events, &[("equivocation", 1)]);

    let mut events = whole(5);
    let id = events[1].event.h().event_id;
    events[3].h().event_id = id;
    check(events, &[("equivocation", 1)]);
}

#[test]
fn two_events_with_one_number_are_a_fork() {
    let mut events = whole(5);
    let mut fork = events[2].clone();
    fork.h().event_id = Uuid([9; 16]);
    fork.digest = Sha256::of(b"fork");
    events.insert(4, fork);
    check(events, &[("forked", 1)]);
}

#[test]
fn a_session_that_starts_over_is_forked_at_every_number() {
    let mut events = whole(3);
    let mut again = Writer::new("x").session(1, "", vec![model_call()]);
    again.remove(2);
    events.splice(2..2, again);
    check(events, &[("forked", 1), ("forked", 1)]);
}

#[test]
fn a_repeat_of_a_forgotten_number_is_not_called_a_duplicate() {
    let mut events = whole(1_500);
    events.insert(1_400, events[3].clone());
    check(events, &[("seq_regressed", 1)]);
}

#[test]
fn a_wrong_digest_breaks_the_chain_in_whatever_order_it_arrives() {
    let broken = |at: usize| {
        let mut events = whole(6);
        events[at].h().prev_hash = Sha256::of(b"wrong");
        events
    };
    for at in [0, 1, 3] {
        check(broken(at), &[("chain_broken", 1)]);
        let mut events = broken(at);
        events.reverse();
        check(events, &[("chain_broken", 1)]);
    }
    // The end names the digest before it twice.
    check(broken(5), &[("chain_broken", 1), ("chain_broken", 1)]);
    let mut events = whole(6);
    events[2].digest = Sha256::of(b"changed on the way");
    check(events, &[("chain_broken", 1)]);
}

#[test]
fn a_gap_does_not_break_the_chain() {
    let mut events = whole(6);
    let last = events.remove(3);
    events.push(last);
    check(events, &[]);
}

#[test]
fn a_best_effort_bridge_that_knows_no_digests_breaks_no_chain() {
    let mut events = whole(4);
    for made in &mut events {
        made.h().capture = "best_effort".to_owned();
        made.h().prev_hash = Sha256::ZERO;
        if let Event::SessionEnded(ended) = &mut made.event {
            ended.final_hash = Sha256::ZERO;
        }
    }
    check(events, &[]);
}

#[test]
fn what_a_session_says_of_itself_is_compared() {
    let ended = |change: fn(&mut SessionEnded)| {
        let mut events = whole(5);
        if let Event::SessionEnded(ended) = &mut events[4].event {
            change(ended);
        }
        events
    };
    check(ended(|e| e.event_count = 7), &[("steps_mismatch", 2)]);
    check(ended(|e| e.counts_by_type = [("model.call".to_owned(), 5)].into()), &[("steps_mismatch", 1)]);
    check(ended(|e| e.final_hash = Sha256::of(b"wrong")), &[("chain_broken", 1)]);
    let mut events = whole(5);
    if let Event::SessionStarted(started) = &mut events[0].event {
        started.expected_steps = 12;
    }
    check(events, &[("steps_mismatch", 7)]);
}

#[test]
fn an_event_after_the_end_is_reported_in_whatever_order_it_arrives() {
    let mut writer = Writer::new("w");
    let mut events = writer.session(1, "", vec![model_call(); 2]);
    events.push(writer.chained(1, events.last(), model_call()));
    check(events.clone(), &[("after_end", 1)]);
    events.swap(3, 4);
    check(events, &[("after_end", 1)]);
}

#[test]
fn a_template_asks_for_its_steps_in_order() {
    let decision = || Event::PolicyDecision(PolicyDecision::default());
    let attempt = || Event::ToolCallAttempted(ToolCallAttempted::default());
    let session = |events| Writer::new("w").session(1, "refund", events);
    check(session(vec![decision(), model_call(), attempt()]), &[]);
    check(session(vec![attempt(), decision()]), &[("required_step_missing", 1)]);
    check(session(vec![model_call()]), &[("required_step_missing", 2)]);
    let mut reordered = session(vec![decision(), attempt()]);
    reordered.reverse();
    check(reordered, &[]);
    let mut gap = session(vec![decision(), attempt()]);
    gap.remove(1);
    let found = check(gap, &[("sequence_gap", 1), ("required_step_missing", 2)]);
    assert_eq!(found[1].attributes["session_is_whole"], "false");
}

fn attempt(digest: u8) -> CleanEvent {
    Event::ToolCallAttempted(ToolCallAttempted {
        tool_call_id: "t".to_owned(),
        side_effect_class: "money".to_owned(),
        action_digest: Some(Sha256([digest; 32])),
        ..Default::default()
    })
}

fn decide(effect: &str) -> CleanEvent {
    Event::PolicyDecision(PolicyDecision {
        decision_id: "d".to_owned(),
        subject_kind: "tool_call".to_owned(),
        subject_id: "t".to_owned(),
        effect: effect.to_owned(),
        enforcement_mode: "enforce".to_owned(),
        ..Default::default()
    })
}

fn ask() -> CleanEvent {
    let mut asked = ApprovalRequested {
        approval_id: "a".to_owned(),
        tool_call_id: "t".to_owned(),
        action_digest: Some(Sha256([1; 32])),
        context_digest: Some(Sha256([5; 32])),
        expires_at: Some(TimestampMicros::from_ms(START_MS + MINUTE_MS)),
        ..Default::default()
    };
    asked.h.principal.id = "agent-owner".to_owned();
    Event::ApprovalRequested(asked)
}

fn answer(change: fn(&mut ApprovalDecided<schemas::text::CleanText>)) -> CleanEvent {
    let mut decided = ApprovalDecided {
        approval_id: "a".to_owned(),
        decision: "approve".to_owned(),
        context_digest_seen: Some(Sha256([5; 32])),
        decided_at: Some(TimestampMicros::from_ms(START_MS)),
        approver: Principal { id: "boss".to_owned(), auth_method: "oidc".to_owned(), ..Default::default() },
        ..Default::default()
    };
    change(&mut decided);
    Event::ApprovalDecided(decided)
}

fn complete(change: fn(&mut ToolCallCompleted<schemas::text::CleanText>)) -> CleanEvent {
    let mut completed =
        ToolCallCompleted { tool_call_id: "t".to_owned(), status: "ok".to_owned(), ..Default::default() };
    change(&mut completed);
    Event::ToolCallCompleted(completed)
}

#[test]
fn a_tool_call_is_attempted_decided_and_approved_before_it_completes() {
    let done = || complete(|_| {});
    let yes = || answer(|_| {});
    let cases: Vec<(Vec<CleanEvent>, &[&str])> = vec![
        (vec![attempt(1), decide("ALLOW"), done()], &[]),
        (vec![decide("ALLOW"), attempt(1), done()], &[]),
        (vec![attempt(1), decide("ALLOW"), complete(|c| c.decision_id = "d".to_owned())], &[]),
        (vec![attempt(1), decide("REQUIRE_APPROVAL"), ask(), yes(), done()], &[]),
        (vec![attempt(1), complete(|c| c.status = "denied".to_owned())], &[]),
        (vec![attempt(1), decide("DENY"), complete(|c| c.status = "denied".to_owned())], &[]),
        (vec![decide("ALLOW"), done()], &["completion_without_attempt"]),
        (vec![done(), attempt(1)], &["completion_without_attempt"]),
        (vec![attempt(1), done()], &["completion_without_decision"]),
        (vec![attempt(1), decide("DENY"), done()], &["completion_without_decision"]),
        (vec![attempt(1), decide("REQUIRE_APPROVAL"), ask(), done()], &["completion_without_decision"]),
        (
            vec![attempt(1), decide("REQUIRE_APPROVAL"), ask(), answer(|a| a.decision = "deny".to_owned()), done()],
            &["completion_without_decision"],
        ),
        (
            vec![attempt(1), decide("ALLOW"), complete(|c| c.decision_id = "another".to_owned())],
            &["completion_without_decision"],
        ),
        (vec![attempt(1), done(), decide("ALLOW")], &["completion_without_decision", "decision_after_completion"]),
        (
            vec![attempt(1), ask(), answer(|a| a.decided_at = Some(TimestampMicros::from_ms(START_MS + HOUR_MS)))],
            &["approval_expired"],
        ),
        (vec![attempt(2), ask(), yes()], &["approval_digest_mismatch"]),
        (vec![attempt(1), ask(), yes(), attempt(2)], &["approval_digest_mismatch"]),
        (
            vec![attempt(1), ask(), answer(|a| a.context_digest_seen = Some(Sha256::ZERO))],
            &["approval_digest_mismatch"],
        ),
        (vec![attempt(1), ask(), answer(|a| a.approver.auth_method.clear())], &["approver_unauthenticated"]),
        (vec![attempt(1), ask(), answer(|a| a.approver.id = "agent-owner".to_owned())], &["approver_is_requester"]),
        (vec![attempt(1), decide("ALLOW"), ask(), answer(edit), done()], &["approval_digest_mismatch"]),
        (vec![attempt(1), decide("ALLOW"), ask(), answer(edit), attempt(3), decide("ALLOW"), done()], &[]),
    ];
    for (events, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|kind| (*kind, 1)).collect();
        let session = Writer::new("w").session(1, "", events);
        check(session.clone(), &expected);
        let mut reversed = session;
        reversed.reverse();
        check(reversed, &expected);
    }
}

fn edit(decided: &mut ApprovalDecided<schemas::text::CleanText>) {
    decided.decision = "edit".to_owned();
    decided.edited_action_digest = Some(Sha256([3; 32]));
}

#[test]
fn what_is_absent_because_of_a_gap_says_so() {
    let mut events = Writer::new("w").session(1, "", vec![attempt(1), decide("ALLOW"), complete(|_| {})]);
    events.remove(1);
    let found = check(events, &[("sequence_gap", 1), ("completion_without_attempt", 1)]);
    assert!(found[1].reason.ends_with("may be among the missing events)"), "{}", found[1].reason);
}

#[test]
fn late_events_of_a_session_are_one_finding_per_tick() {
    let mut events = whole(6);
    for made in &mut events[2..5] {
        made.h().event_time = TimestampMicros::from_ms(START_MS - HOUR_MS);
    }
    // The clock also ran backwards within the session.
    check(events, &[("clock_implausible", 1), ("late", 3)]);
}

#[test]
fn an_implausible_clock_is_reported_once_per_session() {
    let mut events = whole(6);
    for made in &mut events[2..] {
        made.h().event_time = TimestampMicros::from_ms(START_MS + HOUR_MS);
    }
    check(events, &[("clock_implausible", 1)]);
}

#[test]
fn unknown_types_are_counted_and_accepted() {
    let extension =
        |event_type: &str| Event::Extension(Extension { h: EventHeader::of_type(event_type), ..Default::default() });
    let found = check(
        Writer::new("w").session(
            1,
            "",
            vec![extension("acme.custom"), extension("eve@example.org"), extension("access.used")],
        ),
        &[("unknown_event_type", 2)],
    );
    assert_eq!(found[0].attributes["types"], "(not shown), acme.custom");
}

#[test]
fn a_heartbeat_keeps_a_session_open_and_claims_its_tail() {
    let mut writer = Writer::new("w");
    let mut events = writer.session(1, "", vec![model_call(); 3]);
    events.truncate(3);
    let mut beat = |last_seq| {
        let open_sessions = vec![OpenSession { id: session_id(1), last_seq }];
        let mut heartbeat = Heartbeat { open_sessions, last_producer_seq: -1, ..Default::default() };
        heartbeat.h.seq = -1;
        Item::Event(writer.write(Event::Heartbeat(heartbeat)))
    };
    let mut items: Vec<Item> = events.into_iter().map(Item::Event).collect();
    items.extend([Item::Tick(20 * MINUTE_MS), beat(2), Item::Tick(20 * MINUTE_MS), beat(2)]);
    check_items(items.clone(), &[("unterminated", 1)]);
    items.extend([Item::Tick(20 * MINUTE_MS), beat(4)]);
    let found = check_items(items, &[("sequence_gap", 2), ("unterminated", 1)]);
    assert_eq!(found[0].attributes["missing"], "3-4");
}

#[test]
fn a_heartbeat_alone_shows_a_session_that_never_arrived() {
    let open_sessions = vec![OpenSession { id: session_id(1), last_seq: 4 }];
    let mut heartbeat = Heartbeat { open_sessions, last_producer_seq: -1, ..Default::default() };
    heartbeat.h.seq = -1;
    let beat = Writer::new("w").write(Event::Heartbeat(heartbeat));
    check(vec![beat], &[("sequence_gap", 5), ("unterminated", 1)]);
}

#[test]
fn events_outside_of_sessions_are_told_apart_by_their_writers_number() {
    let mut writer = Writer::new("w");
    let mut declared = |id: &str| {
        let mut event = InventoryDeclared { object_id: id.to_owned(), ..Default::default() };
        event.h.seq = -1;
        writer.write(Event::InventoryDeclared(event))
    };
    let (a, b) = (declared("a"), declared("b"));
    check(vec![a.clone(), b.clone()], &[]);
    check(vec![a.clone(), b.clone(), a.clone()], &[("duplicate", 1)]);
    let other = Made { digest: Sha256::of(b"other"), ..a.clone() };
    check(vec![a.clone(), b.clone(), other], &[("equivocation", 1)]);
    let mut fork = b;
    fork.h().producer_seq = 0;
    check(vec![a, fork], &[("forked", 1)]);
}

#[test]
fn a_session_that_is_over_is_forgotten_and_its_late_duplicate_opens_none() {
    let mut items: Vec<Item> = whole(5).into_iter().map(Item::Event).collect();
    items.push(Item::Tick(25 * HOUR_MS));
    items.push(Item::Tick(HOUR_MS));
    let mut duplicate = whole(5).remove(2);
    duplicate.h().event_time = TimestampMicros::from_ms(START_MS + 3_000);
    items.push(Item::Event(duplicate));
    let found = check_items(items, &[("late", 1)]);
    assert_eq!(found[0].h.session_id, session_id(1));
}

#[test]
fn one_tenant_cannot_touch_another_tenants_session() {
    let mut events = whole(4);
    let mut others = whole(4);
    for made in &mut others {
        made.h().tenant_id = "other".to_owned();
    }
    events.extend(others);
    check(events, &[]);
}

#[test]
fn too_many_holes_are_reported_at_once_and_nothing_is_counted_twice() {
    let events: Vec<Made> = whole(1_201).into_iter().step_by(2).collect();
    let mut items: Vec<Item> = events.into_iter().map(Item::Event).collect();
    items.extend([Item::Tick(2 * MINUTE_MS), Item::Tick(HOUR_MS)]);
    let found = findings(&run(&config(), &records(0, 10, &items)));
    assert!(found.iter().all(|finding| finding.kind == "sequence_gap"), "{found:?}");
    assert_eq!(found.iter().map(|finding| finding.count).sum::<i64>(), 600);
}

#[test]
fn more_sessions_than_may_be_remembered_are_reported_and_forgotten() {
    let config = CompletenessConfig { sessions_max: 2, ..config() };
    let mut writer = Writer::new("w");
    let mut items = Vec::new();
    for id in 1..=4 {
        let mut session = writer.session(id, "", vec![model_call()]);
        session.truncate(if id == 2 { 3 } else { 2 });
        items.extend(session.into_iter().map(Item::Event));
    }
    items.push(Item::Tick(1_000));
    let found = findings(&run(&config, &records(0, 10, &items)));
    // Session 2 is over and goes first, without a word; session 1 was silent longest.
    assert_eq!(kinds(&found), [("unterminated".to_owned(), 1)]);
    assert_eq!(found[0].h.session_id, session_id(1));
}
