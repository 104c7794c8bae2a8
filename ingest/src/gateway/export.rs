//! An OTLP export over either transport: a body to events, and the answer to it.
//!
//! It does not read bodies and does not know how an answer is framed; `router` and `grpc` do.

use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};

use super::answer::Refused;
use super::app::{App, Batch};
use super::auth::Caller;
use super::expansion;
use super::intake::Problem;
use super::limits::Share;
use super::otlp::{self, Encoding, Mapped};

/// The two signals of OTLP that hold events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Spans.
    Traces,
    /// Log records.
    Logs,
}

/// Transport, signal and encoding of an OTLP request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Export {
    pub(super) protocol: &'static str,
    pub(super) signal: Signal,
    pub(super) encoding: Encoding,
}

impl Export {
    /// Writes what a body holds; how many of its items were refused, and why.
    pub(super) async fn write(
        self,
        app: &App,
        body: &[u8],
        caller: Caller,
        share: Share,
    ) -> Result<(i64, String), Refused> {
        let Mapped { events, rejected, error_message, .. } = map(app, self.signal, self.encoding, body, &caller)?;
        // Counted before the write, which may fail: these items are refused whatever the log does.
        app.metrics.count(self.protocol, "refused", u64::try_from(rejected).unwrap_or(0));
        app.write(Batch { protocol: self.protocol, caller, events, bytes: body.len(), share }).await?;
        Ok((rejected, error_message))
    }
}

/// The events of an OTLP body.
fn map(app: &App, signal: Signal, encoding: Encoding, body: &[u8], caller: &Caller) -> Result<Mapped, Problem> {
    // Each check bounds what the next step may cost: bytes before they are decoded, attributes before they
    // are copied into every event.
    match encoding {
        Encoding::Protobuf => expansion::check_protobuf(body)?,
        Encoding::Json => expansion::check_json(body)?,
    }
    let arrived_at = (app.clock)();
    let context =
        otlp::Context { tenant_id: &caller.tenant_id, arrived_at, config: &app.otlp, sessions: &app.sessions };
    match signal {
        Signal::Traces => {
            let request = otlp::decode_traces(body, encoding)?;
            expansion::check_traces(&request)?;
            Ok(otlp::map_traces(request, &context))
        }
        Signal::Logs => {
            let request = otlp::decode_logs(body, encoding)?;
            expansion::check_logs(&request)?;
            Ok(otlp::map_logs(request, &context))
        }
    }
}

/// The answer to an export of spans of which `rejected` were refused.
pub(super) fn traces_response(rejected: i64, error_message: String) -> ExportTraceServiceResponse {
    let partial = (rejected > 0).then_some(ExportTracePartialSuccess { rejected_spans: rejected, error_message });
    ExportTraceServiceResponse { partial_success: partial }
}

/// The answer to an export of log records of which `rejected` were refused.
pub(super) fn logs_response(rejected: i64, error_message: String) -> ExportLogsServiceResponse {
    let partial = (rejected > 0).then_some(ExportLogsPartialSuccess { rejected_log_records: rejected, error_message });
    ExportLogsServiceResponse { partial_success: partial }
}
