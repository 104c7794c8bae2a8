//! Clean records to rows: pure, so that a verifier gets the same row from the same bytes.
//!
//! Raw events have no row: the type does not allow it (invariant I9).

use super::{AlertRow, ControlTotalRow, EventRow, FindingRow, RowMeta, payload};
use crate::event::{
    Alert, CleanEvent, ControlTotal, DataClassified, DetectionRaised, Event, EventHeader, ModelCall, PolicyDecision,
};
use crate::id::hex;
use crate::text::CleanText;

impl EventRow {
    /// The row of an event.
    pub fn from_event(event: &CleanEvent, meta: &RowMeta) -> Self {
        let mut row = Self::from_header(event.h(), meta);
        row.known_type = event.is_known_type();
        row.payload = payload::json(event);
        row.fill(event);
        row
    }

    fn from_header(h: &EventHeader, meta: &RowMeta) -> Self {
        Self {
            src_topic: meta.at.partition.topic.name().to_owned(),
            src_partition: meta.at.partition.partition,
            src_offset: meta.at.offset,
            event_offset: meta.source.offset,
            event_sha256: meta.source.sha256,
            broker_time: meta.broker_time,
            event_id: h.event_id,
            event_type: h.event_type.clone(),
            event_time: h.event_time,
            tenant_id: h.tenant_id.clone(),
            environment: h.environment.clone(),
            release_stage: h.release_stage.clone(),
            agent_id: h.agent_id.clone(),
            agent_version: h.agent_version.clone(),
            agent_instance_id: h.agent_instance_id.clone(),
            session_id: h.session_id,
            parent_session_id: h.parent_session_id,
            seq: h.seq,
            prev_hash: h.prev_hash,
            producer_id: h.producer_id.clone(),
            producer_epoch: h.producer_epoch,
            producer_seq: h.producer_seq,
            principal_type: h.principal.r#type.clone(),
            principal_id: h.principal.id.clone(),
            on_behalf_of: h.on_behalf_of.iter().map(|p| format!("{}/{}", p.r#type, p.id)).collect(),
            trace_id: h.trace_id.map(|id| id.to_hex()).unwrap_or_default(),
            span_id: h.span_id.map(|id| id.to_hex()).unwrap_or_default(),
            causation_id: h.causation_id,
            subject_refs: h.subject_refs.iter().map(|reference| hex(&reference.0)).collect(),
            data_class: h.data_class.clone(),
            jurisdiction: h.jurisdiction.clone(),
            source: h.source.clone(),
            capture: h.capture.clone(),
            ext: h.ext.clone(),
            ..Self::default()
        }
    }

    /// Fills the columns that only some events have.
    fn fill(&mut self, event: &CleanEvent) {
        match event {
            Event::ModelCall(e) => self.fill_model_call(e),
            Event::PolicyDecision(e) => self.fill_policy_decision(e),
            Event::ToolCallAttempted(e) => {
                (self.tool_name, self.tool_call_id) = (e.tool_name.clone(), e.tool_call_id.clone());
                self.server = e.server.clone();
            }
            Event::ToolCallCompleted(e) => {
                (self.tool_name, self.tool_call_id) = (e.tool_name.clone(), e.tool_call_id.clone());
                self.server = e.server.clone();
                (self.status, self.error_type) = (e.status.clone(), e.error_type.clone());
                self.latency_ms = known(e.latency_ms);
            }
            Event::ApprovalRequested(e) => self.tool_call_id = e.tool_call_id.clone(),
            Event::ApprovalDecided(e) => self.decision_effect = e.decision.clone(),
            Event::OutputProduced(e) => {
                self.status = e.status.clone();
                self.latency_ms = known(e.latency_ms);
            }
            Event::SessionEnded(e) => self.status = e.status.clone(),
            Event::RateLimit(e) => self.provider = e.provider.clone(),
            Event::Failover(e) => {
                self.server = e.dependency.clone();
                self.latency_ms = known(e.duration_ms);
            }
            Event::HealthProbe(e) => {
                (self.server, self.error_type) = (e.dependency.clone(), e.error_type.clone());
                (self.latency_ms, self.ok) = (known(e.latency_ms), Some(e.ok));
            }
            Event::BackupRestoreTest(e) => self.ok = Some(e.ok),
            Event::ValidationResult(e) => self.ok = Some(e.passed),
            Event::RetentionApplied(e) => self.policy_id = e.policy_id.clone(),
            Event::EvaluationResult(e) => {
                self.metric = e.metric.clone();
                (self.n, self.k, self.value) = (Some(e.n), Some(e.k), e.value);
            }
            Event::SampleDrawn(e) => self.n = known(e.n),
            Event::ClaimVerified(e) => (self.verdict, self.value) = (e.verdict.clone(), e.score),
            Event::HumanReview(e) => (self.verdict, self.value) = (e.verdict.clone(), e.score),
            _ => {}
        }
    }

    fn fill_model_call(&mut self, e: &ModelCall<CleanText>) {
        self.provider = e.provider.clone();
        self.model = match e.response_model.is_empty() {
            true => e.request_model.clone(),
            false => e.response_model.clone(),
        };
        self.operation = e.operation.clone();
        (self.status, self.error_type) = (e.status.clone(), e.error_type.clone());
        (self.latency_ms, self.ttft_ms) = (known(e.latency_ms), known(e.ttft_ms));
        (self.input_tokens, self.output_tokens) = (known(e.input_tokens), known(e.output_tokens));
        self.cost_micros = known(e.cost_micros);
    }

    fn fill_policy_decision(&mut self, e: &PolicyDecision) {
        (self.decision_effect, self.policy_id) = (e.effect.clone(), e.policy_id.clone());
        self.latency_ms = known(e.latency_ms);
        if e.subject_kind == "tool_call" {
            self.tool_call_id = e.subject_id.clone();
        }
    }
}

impl FindingRow {
    /// The row of a finding. An event of another type than the two that findings have keeps its header
    /// and its type as the kind: nothing in the topic is left out.
    pub fn from_event(event: &CleanEvent, meta: &RowMeta) -> Self {
        let mut row = Self::from_header(event.h(), meta);
        match event {
            Event::DetectionRaised(e) => row.fill_detection(e),
            Event::DataClassified(e) => row.fill_scan(e),
            other => row.kind = other.h().event_type.clone(),
        }
        row
    }

    /// The row of a control total: the findings topic holds both, and its archive leaves out nothing.
    pub fn from_control_total(total: &ControlTotal, meta: &RowMeta) -> Self {
        let facts = [
            ("hop", total.hop.clone()),
            ("topic", total.topic.clone()),
            ("partition", total.partition.to_string()),
            ("ticks", total.ticks.to_string()),
            ("rejected", total.rejected.to_string()),
            ("offset_first", total.offset_first.to_string()),
            ("offset_next", total.offset_next.to_string()),
            ("duplicates", total.duplicates.to_string()),
            ("closed", total.closed.to_string()),
        ];
        Self {
            event_type: "control.total".to_owned(),
            kind: "control_total".to_owned(),
            event_time: total.hour,
            count: total.records,
            attributes: facts.map(|(name, value)| (name.to_owned(), value)).into(),
            ..Self::at(meta)
        }
    }

    fn at(meta: &RowMeta) -> Self {
        Self {
            src_topic: meta.at.partition.topic.name().to_owned(),
            src_partition: meta.at.partition.partition,
            src_offset: meta.at.offset,
            broker_time: meta.broker_time,
            ..Self::default()
        }
    }

    fn from_header(h: &EventHeader, meta: &RowMeta) -> Self {
        Self {
            finding_id: h.event_id,
            event_type: h.event_type.clone(),
            event_time: h.event_time,
            tenant_id: h.tenant_id.clone(),
            environment: h.environment.clone(),
            agent_id: h.agent_id.clone(),
            session_id: h.session_id,
            causation_id: h.causation_id,
            count: 1,
            ..Self::at(meta)
        }
    }

    fn fill_detection(&mut self, e: &DetectionRaised) {
        self.kind = e.kind.clone();
        (self.detector, self.detector_version) = (e.detector.clone(), e.detector_version.clone());
        (self.severity, self.action) = (e.severity.clone(), e.action.clone());
        (self.score, self.count) = (e.score, e.count);
        self.reason = e.reason.clone();
        self.target_event_id = e.target_event_id;
        (self.disposition, self.incident_id) = (e.disposition.clone(), e.incident_id.clone());
        self.attributes = e.attributes.clone();
    }

    fn fill_scan(&mut self, e: &DataClassified) {
        self.kind = "data_classified".to_owned();
        (self.detector, self.detector_version) = (e.classifier.clone(), e.version.clone());
        (self.target, self.target_id) = (e.target.clone(), e.target_id.clone());
        (self.classes, self.pii_types) = (e.classes.clone(), e.pii_types.clone());
        self.count = e.pii_types.values().fold(0, |sum, count| sum.saturating_add(*count));
        self.not_in_input = Some(e.not_in_input);
        (self.fields_redacted, self.policy_id) = (e.fields_redacted.clone(), e.redaction_policy_id.clone());
        self.action = e.route.clone();
        self.target_event_id = e.h.causation_id;
    }
}

impl AlertRow {
    /// The row of an alert.
    pub fn from_alert(alert: &Alert, meta: &RowMeta) -> Self {
        let alert = alert.clone();
        Self {
            src_topic: meta.at.partition.topic.name().to_owned(),
            src_partition: meta.at.partition.partition,
            src_offset: meta.at.offset,
            broker_time: meta.broker_time,
            fingerprint: alert.fingerprint,
            status: alert.status,
            severity: alert.severity,
            alert_class: alert.alert_class,
            tenant_id: alert.tenant_id,
            subject_kind: alert.subject_kind,
            subject: alert.subject,
            environment: alert.environment,
            metric: alert.metric,
            observed: alert.observed,
            expected: alert.expected,
            p_value: alert.p_value,
            score: alert.score,
            starts_at: alert.starts_at,
            ends_at: alert.ends_at,
            updated_at: alert.updated_at,
            reason: alert.reason,
            detector: alert.detector,
            contributing: alert.contributing,
            count: alert.count,
            event_ids: alert.event_ids,
            labels: alert.labels,
        }
    }
}

impl ControlTotalRow {
    /// The row of a control total.
    pub fn from_control_total(total: &ControlTotal, meta: &RowMeta) -> Self {
        let total = total.clone();
        Self {
            src_topic: meta.at.partition.topic.name().to_owned(),
            src_partition: meta.at.partition.partition,
            src_offset: meta.at.offset,
            broker_time: meta.broker_time,
            hop: total.hop,
            topic: total.topic,
            partition: total.partition,
            hour: total.hour,
            records: total.records,
            ticks: total.ticks,
            rejected: total.rejected,
            offset_first: total.offset_first,
            offset_next: total.offset_next,
            duplicates: total.duplicates,
            counts_by_type: total.counts_by_type,
            closed: total.closed,
        }
    }
}

/// Events say -1 for an unknown number; a column leaves it out.
fn known(number: i64) -> Option<i64> {
    (number >= 0).then_some(number)
}
