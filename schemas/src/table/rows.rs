//! The rows: each column once, with its meaning, its type and what stores may use.
//!
//! Columns are only ever appended; their numbers are Parquet field ids. Where a column does not
//! apply, a number is absent and a text is empty.

use std::collections::BTreeMap;

use super::cell::Cell;
use super::{Column, Flag};
use crate::id::{Sha256, Uuid};
use crate::time::TimestampMicros;

/// Declares a row: the struct, its columns and its `RowBinary` form.
macro_rules! row {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty $([$($flag:ident),*])? = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct $name {
            $(#[doc = $text] pub $field: $ty,)*
        }

        impl $name {
            /// Its columns, `raw` last.
            pub const COLUMNS: &'static [Column] = &[
                $(Column {
                    name: stringify!($field),
                    doc: $text,
                    cell: <$ty as Cell>::TYPE,
                    nullable: <$ty as Cell>::NULLABLE,
                    flags: &[$($(Flag::$flag),*)?],
                },)*
                Column::RAW,
            ];

            /// Appends the row in ClickHouse's `RowBinary`.
            pub fn write_row_binary(&self, out: &mut Vec<u8>) {
                $(self.$field.write(out);)*
            }
        }

        #[cfg(feature = "arrow")]
        super::arrow::arrow_row!($name { $($field: $ty),* });
    };
}

row! {
    /// One event of the clean topic.
    EventRow {
        src_topic: String [Category] = "Topic that holds the record",
        src_partition: u32 = "Partition of the topic",
        src_offset: u64 = "Offset in the partition; transactional topics have legal gaps",
        event_offset: u64 = "Offset of the raw event in the same partition of custody.events.v1",
        event_sha256: Sha256 [Opaque] = "SHA-256 of the raw event's exact value bytes",
        broker_time: TimestampMicros = "Broker's time of the raw event, UTC",
        event_id: Uuid [Lookup] = "Id that the producer chose; the same id twice is a duplicate",
        event_type: String [Category] = "Dotted event type, e.g. tool.call.completed",
        known_type: bool = "Whether the event type is in the catalogue",
        event_time: TimestampMicros = "When it happened by the producer's clock, UTC; no proof of time",
        tenant_id: String [Category] = "Customer whose data is processed",
        environment: String [Category] = "prod, staging, dev",
        release_stage: String [Category] = "ga, beta, internal",
        agent_id: String [Category] = "Logical agent",
        agent_version: String [Category] = "Version of agent code and configuration",
        agent_instance_id: String [Category] = "Running instance",
        session_id: Uuid [Lookup] = "Run that the event belongs to",
        parent_session_id: Option<Uuid> = "Run that spawned this one",
        seq: i64 = "0-based position in the session, gap-free; -1 derived by a processor",
        prev_hash: Sha256 [Opaque] = "SHA-256 of the previous raw event of the session; zeros at seq 0",
        producer_id: String [Category] = "Writer that sent it",
        producer_epoch: i64 = "Start time of the writer, microseconds since 1970 UTC",
        producer_seq: i64 = "0-based position among all events of the writer's epoch, gap-free; -1 derived",
        principal_type: String [Category] = "user, service_account, org, schedule, system",
        principal_id: String [Lookup] = "On whose authority the agent acts; pseudonymous",
        on_behalf_of: Vec<String> = "Delegation chain as type/id, nearest first",
        trace_id: String [Lookup] = "W3C trace id, hexadecimal; empty without one",
        span_id: String [Opaque] = "W3C span id, hexadecimal; empty without one",
        causation_id: Option<Uuid> = "Event that caused this one",
        subject_refs: Vec<String> = "Keyed digests of the data subjects concerned, hexadecimal",
        data_class: String [Category] = "Highest class of data in the event",
        jurisdiction: String [Category] = "Jurisdiction of the subject, ISO 3166",
        source: String [Category] = "native, otlp, adapter, backfill, derived",
        capture: String [Category] = "guaranteed, best_effort, derived",
        provider: String [Category] = "Model provider, gen_ai.provider.name",
        model: String [Category] = "Model that answered, else the one that was asked for",
        operation: String [Category] = "gen_ai.operation.name",
        tool_name: String [Category] = "gen_ai.tool.name",
        tool_call_id: String [Lookup] = "Tool call; joins attempt, decision, approval and completion",
        server: String [Category] = "Host, MCP server or dependency that was called or probed",
        status: String [Category] = "ok, error, timeout, denied, cancelled; for outputs delivered, withheld and so on",
        error_type: String [Category] = "error.type, e.g. http_503",
        latency_ms: Option<i64> = "Duration of a call, probe, decision or failover, milliseconds",
        ttft_ms: Option<i64> = "Time to the first token, milliseconds",
        input_tokens: Option<i64> = "gen_ai.usage.input_tokens, tokens",
        output_tokens: Option<i64> = "gen_ai.usage.output_tokens, tokens",
        cost_micros: Option<i64> = "Cost, millionths of a US dollar",
        decision_effect: String [Category] = "Policy: ALLOW, DENY, REQUIRE_APPROVAL, REDACT, SIMULATE; approval: approve, deny, edit",
        policy_id: String [Category] = "Policy that was evaluated or applied",
        metric: String [Category] = "Metric of an evaluation, e.g. task_success",
        n: Option<i64> = "Trials of an evaluation, size of a sample",
        k: Option<i64> = "Successes of an evaluation",
        value: Option<f64> = "Value of an evaluation's metric, score of a verdict",
        verdict: String [Category] = "Claims: supported, contradicted, unsupported, unverifiable; reviews: correct, incorrect, partial, unclear",
        ok: Option<bool> = "Whether a probe answered, a restore or a validation passed",
        ext: BTreeMap<String, String> [Large] = "Attributes that map to no field",
        payload: String [Large, Opaque] = "The redacted event without its header, JSON",
    }
}

row! {
    /// One record of the findings topic.
    FindingRow {
        src_topic: String [Category] = "Topic that holds the record",
        src_partition: u32 = "Partition of the topic",
        src_offset: u64 = "Offset in the partition; transactional topics have legal gaps",
        broker_time: TimestampMicros = "Broker's time of the event that led to it, UTC",
        finding_id: Uuid [Lookup] = "Id derived from what led to it: finding it again is the same finding",
        event_type: String [Category] = "detection.raised, data.classified; control.total for a control total",
        event_time: TimestampMicros = "Log time of the cause, UTC; start of the hour for a control total",
        tenant_id: String [Category] = "Customer concerned",
        environment: String [Category] = "prod, staging, dev",
        agent_id: String [Category] = "Agent concerned",
        session_id: Uuid [Lookup] = "Session concerned; zeros where there is none",
        kind: String [Category] = "What was found, e.g. sequence_gap, prompt_injection; data_classified for a scan",
        detector: String [Category] = "What found it",
        detector_version: String [Category] = "Its version",
        severity: String [Category] = "info, warning, error, critical; empty for scans and totals",
        score: Option<f64> = "Score, where there is one",
        count: i64 = "How many things it stands for, e.g. missing events, values of personal data",
        action: String [Category] = "allow, warn, block, ask; for scans keep, redact, tokenise, seal, drop",
        reason: String = "One sentence that says why",
        causation_id: Option<Uuid> = "Event that led to it",
        target_event_id: Option<Uuid> [Lookup] = "Event that it is about",
        target: String [Category] = "What was scanned: INPUT, OUTPUT, TOOL_ARGUMENTS and so on",
        target_id: String = "Field path that was scanned",
        classes: Vec<String> = "Classes of data found: pii, phi, pci, secret",
        pii_types: BTreeMap<String, i64> = "Values found per type, e.g. EMAIL",
        not_in_input: Option<bool> = "Whether an output holds types that no input held",
        fields_redacted: Vec<String> = "Field paths that were redacted",
        policy_id: String [Category] = "Redaction policy, name@version",
        disposition: String [Category] = "open, true_positive, false_positive",
        incident_id: String [Lookup] = "Incident that it belongs to",
        attributes: BTreeMap<String, String> = "Facts behind it",
    }
}

row! {
    /// One state of an alert.
    AlertRow {
        src_topic: String [Category] = "Topic that holds the record",
        src_partition: u32 = "Partition of the topic",
        src_offset: u64 = "Offset in the partition; transactional topics have legal gaps",
        broker_time: TimestampMicros = "Log time of the record, UTC",
        fingerprint: String [Lookup] = "What the alert is about; the same over repetitions",
        status: String [Category] = "firing, resolved",
        severity: String [Category] = "info, warning, error, critical",
        alert_class: String [Category] = "outage, cost_burst, error_rate, latency, tool_mix and so on",
        tenant_id: String [Category] = "Customer concerned",
        subject_kind: String [Category] = "agent, dependency, cohort",
        subject: String [Category] = "What it is about",
        environment: String [Category] = "prod, staging, dev",
        metric: String [Category] = "Metric that moved",
        observed: Option<f64> = "Observed value, in the metric's unit",
        expected: Option<f64> = "Expected value, in the metric's unit",
        p_value: Option<f64> = "Tail probability under the baseline",
        score: Option<f64> = "Evidence; 1 at the threshold",
        starts_at: TimestampMicros = "First window or event that showed it, UTC",
        ends_at: Option<TimestampMicros> = "End, once resolved, UTC",
        updated_at: TimestampMicros = "Log time of this state, UTC",
        reason: String = "One sentence that says why",
        detector: String [Category] = "Detector, name@version",
        contributing: Vec<String> = "Further metrics that moved, most telling first",
        count: i64 = "Windows or events that fired so far",
        event_ids: Vec<Uuid> = "Sample events",
        labels: BTreeMap<String, String> = "Labels for grouping and routing",
    }
}

row! {
    /// One control total.
    ControlTotalRow {
        src_topic: String [Category] = "Topic that holds the record",
        src_partition: u32 = "Partition of the topic",
        src_offset: u64 = "Offset in the partition; transactional topics have legal gaps",
        broker_time: TimestampMicros = "Log time of the record, UTC",
        hop: String [Category] = "intake, clean, archive, load",
        topic: String [Category] = "Topic counted",
        partition: i32 = "Partition counted",
        hour: TimestampMicros = "Start of the hour, broker time, UTC",
        records: i64 = "Records, ticks not counted",
        ticks: i64 = "Tick records",
        rejected: i64 = "Source records that are not in this hop",
        offset_first: i64 = "First source offset covered",
        offset_next: i64 = "Offset after the last one covered",
        duplicates: i64 = "Records whose event_id was seen before",
        counts_by_type: BTreeMap<String, i64> = "Records per event_type",
        closed: bool = "Whether the hour is over and the counts are final",
    }
}
