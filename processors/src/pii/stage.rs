//! The stage: one raw event in, one clean event or one reject out, and what was found.
//!
//! Everything in an event that may hold free text is a content field, an attribute map or `h.ext`;
//! these are scanned, the rest is free of personal data by construction.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use schemas::codec::{Derived, validate_header};
use schemas::event::{CleanEvent, DataClassified, DetectionRaised, Event, EventHeader, Principal, RawEvent};
use schemas::limits::{DERIVED_BYTES_MAX, EVENT_BYTES_MAX};
use schemas::reject::{Reject, RejectReason};
use schemas::text::{CleanText, Content, RawText};
use schemas::topic::{Topic, session_key};

use super::kind::{Grade, Kind, Span};
use super::policy::{Action, Policy, PolicySet};
use super::redact::{Redacted, redact, value_of};
use super::session::{Known, PiiState, forms};
use super::token::{TenantKeys, TokenKeys};
use super::work::Work;
use super::{ScanContext, injection, scan_within};
use crate::stage::{Outgoing, Output, Processor, ProcessorId, Route, Sourced};

const ID: ProcessorId = ProcessorId { name: "pii", version: 1 };

/// Keys and policies, as data.
#[derive(Debug, Clone)]
pub struct PiiConfig {
    /// The master key of all tokens.
    pub keys: TokenKeys,
    /// What happens to findings.
    pub policies: PolicySet,
}

/// The stage `pii`.
///
/// Reads `RawEvent`s; writes each as a clean event to [`Topic::Clean`], or rejects it: a header that
/// does not hold, or a tenant whose policy cannot be carried out. To [`Topic::Findings`] go at most
/// one `data.classified`, one `detection.raised` for secrets and one for prompt injection per event.
#[derive(Debug, Clone)]
pub struct Pii {
    config: PiiConfig,
}

impl Pii {
    /// The stage. Whether every policy can be carried out is asked per event; a process that wants
    /// to refuse to start calls [`PolicySet::validate`] first.
    pub fn new(config: PiiConfig) -> Self {
        Self { config }
    }
}

impl Processor for Pii {
    type Input = RawEvent;
    type State = PiiState;

    fn id(&self) -> ProcessorId {
        ID
    }

    fn process(&self, state: &mut PiiState, batch: &[Sourced<RawEvent>]) -> Output {
        let mut output = Output::default();
        // Deriving keys costs more than most events: once per tenant and batch.
        let mut keys: BTreeMap<&str, TenantKeys> = BTreeMap::new();
        for input in batch {
            let tenant = input.value.h().tenant_id.as_str();
            let tenant_keys = keys.entry(tenant).or_insert_with(|| self.config.keys.tenant(tenant));
            match clean(&self.config.policies, tenant_keys, state, input) {
                Ok(outgoing) => output.derived.extend(outgoing),
                Err((reason, detail)) => output.rejects.push(Reject { at: input.at, reason, detail }),
            }
        }
        output
    }
}

/// The clean event and the findings of one event.
fn clean(
    policies: &PolicySet,
    keys: &TenantKeys,
    state: &mut PiiState,
    input: &Sourced<RawEvent>,
) -> Result<Vec<Outgoing>, (RejectReason, String)> {
    let h = input.value.h();
    // First, since what follows relies on the header's ids and bounds.
    validate_header(h, input.broker_time)?;
    if let Event::Tick(tick) = &input.value {
        state.tick(input.broker_time);
        let mut tick = tick.clone();
        // No tenant, hence no policy: nothing that would need one may pass.
        tick.h.ext.clear();
        let key = Bytes::from(session_key("", tick.h.session_id));
        return Ok(vec![outgoing(input, Topic::Clean, &key, Event::Tick(tick))]);
    }
    // By tenant too: a session id that two tenants share must not let one find the other's names.
    let key = Bytes::from(session_key(&h.tenant_id, h.session_id));
    let policy = policies.for_tenant(&h.tenant_id).map_err(|e| (RejectReason::PolicyUnavailable, e.to_string()))?;
    let mut cleaner = Cleaner {
        policy,
        redaction: policy.id(),
        keys,
        state,
        key: &key,
        input,
        found: Found::default(),
        work: Work::new(),
    };
    // The batch is only lent, so that the event is copied.
    let event = cleaner.event(input.value.clone());
    let found = cleaner.found;
    // The rest of an event, its header included, is no larger than its source.
    if found.clean_bytes > DERIVED_BYTES_MAX - EVENT_BYTES_MAX {
        let detail = format!(
            "redacted content of {} bytes, at most {} are written",
            found.clean_bytes,
            DERIVED_BYTES_MAX - EVENT_BYTES_MAX
        );
        return Err((RejectReason::TooLarge, detail));
    }
    if matches!(input.value, Event::SessionEnded(_)) {
        state.end(&key, input.broker_time);
    }
    let mut out = vec![outgoing(input, Topic::Clean, &key, event)];
    out.extend(findings(input, policy, found).map(|event| outgoing(input, Topic::Findings, &key, event)));
    Ok(out)
}

fn outgoing(input: &Sourced<RawEvent>, topic: Topic, key: &Bytes, event: CleanEvent) -> Outgoing {
    Outgoing {
        topic,
        route: Route::Same,
        key: key.to_vec(),
        source: (topic == Topic::Clean).then_some(input.source),
        broker_time: input.broker_time,
        value: Derived::Event(event),
    }
}

/// Which way a field's text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Input,
    Output,
    Reasoning,
    ToolArguments,
    ToolResult,
    Query,
    Other,
}

impl Target {
    fn of(field: &str) -> Self {
        match field {
            "input" => Target::Input,
            "output" | "content" => Target::Output,
            "reasoning" => Target::Reasoning,
            "arguments" => Target::ToolArguments,
            "result" => Target::ToolResult,
            "query" => Target::Query,
            _ => Target::Other,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Target::Input => "INPUT",
            Target::Output => "OUTPUT",
            Target::Reasoning => "REASONING",
            Target::ToolArguments => "TOOL_ARGUMENTS",
            Target::ToolResult => "TOOL_RESULT",
            Target::Query => "QUERY",
            Target::Other => "OTHER",
        }
    }

    /// Whether such text comes from outside the model.
    const fn is_input(self) -> bool {
        matches!(self, Target::Input | Target::ToolResult | Target::Query)
    }
}

/// What was found in one event.
#[derive(Default)]
struct Found {
    clean_bytes: usize,
    counts: BTreeMap<Kind, i64>,
    fields: BTreeSet<&'static str>,
    first: Option<(&'static str, Target)>,
    route: Option<Action>,
    /// Kinds in outputs that no input of the session had.
    not_in_input: bool,
    rules: BTreeSet<&'static str>,
    rule_field: Option<&'static str>,
    secret_field: Option<&'static str>,
}

struct Cleaner<'a> {
    policy: &'a Policy,
    redaction: String,
    keys: &'a TenantKeys,
    state: &'a mut PiiState,
    key: &'a Bytes,
    input: &'a Sourced<RawEvent>,
    found: Found,
    /// What is left of the looks that the event may take: every scan of a text adds to it by its length.
    work: Work,
}

impl Cleaner<'_> {
    fn event(&mut self, event: RawEvent) -> CleanEvent {
        let mut event = event.clean(&mut |field, content| self.content(field, content));
        self.map("h.ext", &mut event.h_mut().ext);
        match &mut event {
            Event::Extension(e) => self.map("attributes", &mut e.attributes),
            Event::DetectionRaised(e) => self.map("attributes", &mut e.attributes),
            _ => {}
        }
        event
    }

    fn content(&mut self, field: &'static str, content: Content<RawText>) -> Content<CleanText> {
        let raw = content.text.expose();
        let redacted = self.text(field, raw, &content.media_type);
        self.found.clean_bytes += redacted.text.len();
        let raw_bytes = i64::try_from(raw.len()).unwrap_or(i64::MAX);
        // A media type is the sender's text and is written as it is: a long one could hold anything.
        let media_type = if content.media_type.len() <= 64 { content.media_type } else { "text/plain".to_owned() };
        Content {
            text: CleanText::redacted(redacted.text),
            redaction: self.redaction.clone(),
            media_type,
            raw_bytes,
            sealed: content.sealed,
        }
    }

    /// Redacts names and values of a map. A value is scanned as a field of its name.
    fn map(&mut self, field: &'static str, map: &mut BTreeMap<String, String>) {
        if map.is_empty() {
            return;
        }
        let entries = std::mem::take(map).into_iter().map(|(name, value)| {
            // As a document of one member, a value is judged by its name as any field is.
            let document = serde_json::json!({ name.as_str(): value.as_str() }).to_string();
            let clean = self.text(field, &document, "application/json").text;
            let parsed: Option<BTreeMap<String, String>> = serde_json::from_str(&clean).ok();
            // An entry that was given up as a whole is one token, which takes the place of its name.
            let given_up = || (serde_json::from_str(&clean).unwrap_or_default(), String::new());
            parsed.and_then(|map| map.into_iter().next()).unwrap_or_else(given_up)
        });
        *map = entries.collect();
    }

    fn text(&mut self, field: &'static str, raw: &str, media_type: &str) -> Redacted {
        let target = Target::of(field);
        let mut spans = self.scan(raw, media_type);
        if self.learn(raw, &spans, target) {
            // What this text reveals in one place it may repeat in another.
            spans = self.scan(raw, media_type);
        }
        let redacted = redact(raw, &spans, self.policy, self.keys);
        self.note(field, target, raw, &redacted);
        redacted
    }

    fn scan(&self, raw: &str, media_type: &str) -> Vec<Span> {
        // Per scan: what an event reveals is new at most 512 times in a session, and then it is scanned again.
        self.work.allow(raw.len());
        let known = self.state.session(self.key).and_then(|session| Known::new(self.keys, session));
        scan_within(raw, media_type, &ScanContext { known }, &self.work)
    }

    /// Remembers what the spans reveal; whether any of it is new.
    fn learn(&mut self, raw: &str, spans: &[Span], target: Target) -> bool {
        let mut values = Vec::new();
        for span in spans.iter().filter(|span| span.grade >= Grade::Likely) {
            forms(span.kind, &value_of(raw, span), |form, kind| {
                // How many words the longest has says how far a later text is looked up.
                let words = form.split(' ').count().min(usize::from(u8::MAX)) as u8;
                values.push((self.keys.remembered(form), kind, words));
            });
        }
        let kinds = || spans.iter().filter(|span| span.kind.class().is_some());
        // One bit per kind: 19 of 64 are taken.
        let inputs = if target.is_input() { kinds().fold(0, |bits, span| bits | 1 << span.kind as u8) } else { 0 };
        self.state.remember(self.key, self.input.broker_time, &values, inputs)
    }

    fn note(&mut self, field: &'static str, target: Target, raw: &str, redacted: &Redacted) {
        let found = &mut self.found;
        for (kind, count) in &redacted.counts {
            *found.counts.entry(*kind).or_default() += count;
        }
        if !redacted.counts.is_empty() {
            found.first.get_or_insert((field, target));
            found.fields.insert(field);
            found.route = found.route.max(redacted.route);
        }
        if redacted.counts.keys().any(|kind| kind.class() == Some("secret")) {
            found.secret_field.get_or_insert(field);
        }
        if target == Target::Output {
            let inputs = self.state.session(self.key).map_or(0, |session| session.inputs);
            // What the model says and nobody told it may come from another session or from training.
            found.not_in_input |= redacted.counts.keys().any(|kind| inputs & 1 << *kind as u8 == 0);
        }
        let rules = injection::rules(raw, &Work::unbounded());
        if !rules.is_empty() {
            found.rule_field.get_or_insert(field);
            found.rules.extend(rules);
        }
    }
}

/// The findings of one event, as events.
fn findings(input: &Sourced<RawEvent>, policy: &Policy, found: Found) -> impl Iterator<Item = CleanEvent> {
    let classified =
        found.first.map(|(field, target)| Event::DataClassified(classified(input, policy, &found, field, target)));
    // A secret is no risk to privacy but one to act on: it has left its owner, redacted or not.
    let secrets = found.counts.iter().filter(|(kind, _)| kind.class() == Some("secret")).map(|(_, n)| n).sum();
    let secret = found.secret_field.map(|field| {
        let reason = format!("{secrets} secrets in {field}: revoke them, since they have left their owner");
        let attributes = [("field", field)];
        Event::DetectionRaised(detection(
            input,
            Detection {
                ordinal: 1,
                kind: "secret",
                severity: "error",
                count: secrets,
                reason,
                attributes: &attributes,
            },
        ))
    });
    let injection = found.rule_field.map(|field| {
        let rules = found.rules.iter().copied().collect::<Vec<_>>().join(",");
        let reason = format!("text in {field} gives the agent orders ({rules})");
        let (attributes, count) = ([("field", field), ("rules", rules.as_str())], found.rules.len() as i64);
        Event::DetectionRaised(detection(
            input,
            Detection {
                ordinal: 2,
                kind: "prompt_injection",
                severity: "warning",
                count,
                reason,
                attributes: &attributes,
            },
        ))
    });
    [classified, secret, injection].into_iter().flatten()
}

fn classified(
    input: &Sourced<RawEvent>,
    policy: &Policy,
    found: &Found,
    field: &str,
    target: Target,
) -> DataClassified {
    let classes: BTreeSet<&str> = found.counts.keys().filter_map(|kind| kind.class()).collect();
    // `fields_redacted` is a promise: it lists nothing where the policy keeps what was found.
    let keeps = found.route.is_none_or(|route| route == Action::Keep);
    let redacted = found.fields.iter().filter(|_| !keeps).map(|field| (*field).to_owned());
    DataClassified {
        h: header(input, "data.classified", 0),
        target: target.name().to_owned(),
        target_id: field.to_owned(),
        classifier: ID.name.to_owned(),
        version: ID.version.to_string(),
        classes: classes.into_iter().map(str::to_owned).collect(),
        pii_types: found.counts.iter().map(|(kind, count)| (kind.name().to_owned(), *count)).collect(),
        not_in_input: found.not_in_input,
        redaction_policy_id: policy.id(),
        fields_redacted: redacted.collect(),
        route: found.route.unwrap_or(Action::Keep).name().to_owned(),
    }
}

struct Detection<'a> {
    ordinal: u32,
    kind: &'a str,
    severity: &'a str,
    count: i64,
    reason: String,
    attributes: &'a [(&'a str, &'a str)],
}

fn detection(input: &Sourced<RawEvent>, found: Detection<'_>) -> DetectionRaised {
    let h = header(input, "detection.raised", found.ordinal);
    DetectionRaised {
        detection_id: h.event_id.to_string(),
        kind: found.kind.to_owned(),
        detector: ID.name.to_owned(),
        detector_version: ID.version.to_string(),
        ruleset: ID.to_string(),
        severity: found.severity.to_owned(),
        target_event_id: Some(input.value.h().event_id),
        disposition: "open".to_owned(),
        count: found.count,
        reason: found.reason,
        attributes: found.attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        h,
        ..DetectionRaised::default()
    }
}

/// The header of a derived event.
fn header(input: &Sourced<RawEvent>, event_type: &str, ordinal: u32) -> EventHeader {
    let cause = input.value.h();
    EventHeader {
        // From the position, not drawn: a replay makes the same ids.
        event_id: input.at.derived_id(&ID.to_string(), ordinal),
        event_time: input.broker_time,
        tenant_id: cause.tenant_id.clone(),
        environment: cause.environment.clone(),
        release_stage: cause.release_stage.clone(),
        agent_id: cause.agent_id.clone(),
        agent_version: cause.agent_version.clone(),
        agent_instance_id: cause.agent_instance_id.clone(),
        session_id: cause.session_id,
        seq: -1,
        producer_id: format!("custody/{ID}"),
        producer_seq: -1,
        principal: Principal {
            r#type: "system".to_owned(),
            id: format!("custody/{}", ID.name),
            ..Principal::default()
        },
        causation_id: Some(cause.event_id),
        source: "derived".to_owned(),
        capture: "derived".to_owned(),
        ..EventHeader::of_type(event_type)
    }
}
