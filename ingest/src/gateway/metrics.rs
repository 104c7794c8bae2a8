//! What the gateway counts: Prometheus names and labels, one handle per series.
//!
//! Labels never hold a tenant, a key or any other value that a client chooses: it could create series without
//! bound.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Labels of `custody_gateway_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `events`, `otlp_http` or `otlp_grpc`.
    pub protocol: &'static str,
    /// HTTP status, or that which the gRPC status stands for.
    pub status: u16,
}

/// Labels of `custody_gateway_events_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EventLabels {
    /// As in [`RequestLabels`].
    pub protocol: &'static str,
    /// `accepted`, `duplicate` or `refused`.
    pub outcome: &'static str,
}

/// Labels of `custody_gateway_refusals_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    /// Code of the problem.
    pub reason: &'static str,
}

/// Handles of the gateway's series; clones share them.
#[derive(Debug, Clone)]
pub struct GatewayMetrics {
    /// `custody_gateway_requests_total`: requests answered.
    pub requests: Family<RequestLabels, Counter>,
    /// `custody_gateway_events_total`: events, spans and log records by what became of them.
    pub events: Family<EventLabels, Counter>,
    /// `custody_gateway_refusals_total`: requests refused, by the code of the first problem.
    pub refusals: Family<RefusalLabels, Counter>,
    /// `custody_gateway_request_seconds`: from the head of a request to its answer.
    pub request_seconds: Histogram,
    /// `custody_gateway_queue_bytes`: body bytes of requests that are not answered yet.
    pub queue_bytes: Gauge,
    /// `custody_gateway_append_seconds`: from the first attempt at an append to its acknowledgement.
    pub append_seconds: Histogram,
    /// `custody_gateway_log_retries_total`: attempts at an append that failed.
    pub log_retries: Counter,
    /// `custody_gateway_connections_refused_total`: connections closed because too many were open.
    pub connections_refused: Counter,
}

impl Default for GatewayMetrics {
    fn default() -> Self {
        // 1 ms to 16 s: the target is 50 ms, the longest wait the request timeout.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        Self {
            requests: Family::default(),
            events: Family::default(),
            refusals: Family::default(),
            request_seconds: seconds(),
            queue_bytes: Gauge::default(),
            append_seconds: seconds(),
            log_retries: Counter::default(),
            connections_refused: Counter::default(),
        }
    }
}

impl GatewayMetrics {
    /// Registers every series; the caller owns the registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("custody_gateway");
        registry.register("requests", "Requests answered", self.requests.clone());
        registry.register("events", "Events, spans and log records by what became of them", self.events.clone());
        registry.register("refusals", "Requests refused, by the first problem's code", self.refusals.clone());
        let help = "From the head of a request to its answer";
        registry.register_with_unit("request", help, Unit::Seconds, self.request_seconds.clone());
        let help = "Body bytes of requests that are not answered yet";
        registry.register_with_unit("queue", help, Unit::Bytes, self.queue_bytes.clone());
        let help = "From the first attempt at an append to its acknowledgement";
        registry.register_with_unit("append", help, Unit::Seconds, self.append_seconds.clone());
        registry.register("log_retries", "Attempts at an append that failed", self.log_retries.clone());
        let help = "Connections closed because too many were open";
        registry.register("connections_refused", help, self.connections_refused.clone());
    }

    /// Counts events.
    pub(super) fn count(&self, protocol: &'static str, outcome: &'static str, events: u64) {
        if events > 0 {
            self.events.get_or_create(&EventLabels { protocol, outcome }).inc_by(events);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_series_have_the_names_that_dashboards_use() {
        let metrics = GatewayMetrics::default();
        metrics.count("events", "accepted", 3);
        metrics.requests.get_or_create(&RequestLabels { protocol: "events", status: 202 }).inc();
        metrics.refusals.get_or_create(&RefusalLabels { reason: "malformed_json" }).inc();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"custody_gateway_requests_total{protocol="events",status="202"} 1"#,
            r#"custody_gateway_events_total{protocol="events",outcome="accepted"} 3"#,
            r#"custody_gateway_refusals_total{reason="malformed_json"} 1"#,
            "custody_gateway_request_seconds_count 0",
            "custody_gateway_queue_bytes 0",
            "custody_gateway_append_seconds_count 0",
            "custody_gateway_log_retries_total 0",
            "custody_gateway_connections_refused_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
