//! What every handler of the gateway shares, and the steps that all protocols have in common.
//!
//! The parsers, the quotas and the writer decide; this file asks them in one order for HTTP and gRPC and
//! counts what they say. It knows no protocol.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::http::HeaderMap;
use schemas::time::TimestampMicros;
use tokio::time::Instant;

use super::answer::Refused;
use super::auth::journal::Journal;
use super::auth::{Action, Authenticator, Caller, admit};
use super::intake::Arrived;
use super::limits::{BodyLimits, Budget, Share};
use super::metrics::{GatewayMetrics, RefusalLabels, RequestLabels};
use super::otlp::{OtlpConfig, TraceSessions};
use super::quota::Quotas;
use super::writer::{Receipt, WriterHandle};

/// Name of `POST /v1/events` in metrics.
pub(super) const EVENTS: &str = "events";
/// Name of OTLP/HTTP in metrics.
pub(super) const OTLP_HTTP: &str = "otlp_http";
/// Name of OTLP/gRPC in metrics.
pub(super) const OTLP_GRPC: &str = "otlp_grpc";
/// What every handler needs.
pub(super) struct App {
    pub(super) writer: WriterHandle,
    pub(super) authenticator: Arc<dyn Authenticator>,
    pub(super) journal: Journal,
    pub(super) quotas: Quotas,
    pub(super) budget: Budget,
    pub(super) metrics: GatewayMetrics,
    pub(super) clock: fn() -> TimestampMicros,
    pub(super) body: BodyLimits,
    pub(super) otlp: OtlpConfig,
    pub(super) sessions: TraceSessions,
    pub(super) request_timeout: std::time::Duration,
    pub(super) draining: AtomicBool,
}

/// The events of a request, to be submitted to the writer.
pub(super) struct Batch {
    /// Protocol, as in metrics.
    pub(super) protocol: &'static str,
    /// From whom.
    pub(super) caller: Caller,
    /// Events.
    pub(super) events: Vec<Arrived>,
    /// Bytes of the body.
    pub(super) bytes: usize,
    /// Share of the budget.
    pub(super) share: Share,
}

impl App {
    /// Authenticates and authorises the sender.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Caller, Refused> {
        let now = (self.clock)();
        Ok(admit(&*self.authenticator, headers, Action::Send, now)
            .inspect_err(|denied| self.journal.denied(denied, now))?)
    }

    /// Charges the quota and waits for the log.
    pub(super) async fn write(&self, batch: Batch) -> Result<Receipt, Refused> {
        let Batch { protocol, caller, events, bytes, share } = batch;
        let count = events.len() as u64;
        // The quota before the queue: a tenant above its quota must not take places from others.
        let outcome = match self.quotas.admit(&caller.tenant_id, count, bytes as u64) {
            Ok(()) => self.writer.submit(events, Some(share)).await.map_err(Refused::from),
            Err(over) => Err(Refused::from(over)),
        };
        match &outcome {
            Ok(receipt) => {
                self.metrics.count(protocol, "accepted", receipt.accepted);
                self.metrics.count(protocol, "duplicate", receipt.duplicates);
                // Repeats are counted as well: the journal records the use of a key, not the growth of the
                // log.
                self.journal.used(&caller, count, (self.clock)());
            }
            Err(_) => self.metrics.count(protocol, "refused", count),
        }
        outcome
    }

    /// Counts an answered request.
    pub(super) fn answered(&self, protocol: &'static str, begun: Instant, status: u16) {
        self.metrics.requests.get_or_create(&RequestLabels { protocol, status }).inc();
        self.metrics.request_seconds.observe(begun.elapsed().as_secs_f64());
    }

    /// Counts a refused request.
    pub(super) fn refused(&self, reason: &'static str) {
        self.metrics.refusals.get_or_create(&RefusalLabels { reason }).inc();
    }
}
