//! What the process tells of itself: log lines on standard error, traces to an OTLP endpoint.
//!
//! No event content is ever logged or traced: lines and spans name places, counts and times.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::runtime::Tokio;
use opentelemetry_sdk::trace::SdkTracerProvider;
use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, Role, TelemetrySection};

/// Longest wait for the collector at the end of the process.
const CLOSE_WAIT: Duration = Duration::from_secs(3);
/// Variable that a filter of log lines stands in.
const FILTER_VARIABLE: &str = "CUSTODY_LOG";
/// Crates whose spans are exported; those of libraries may carry what requests carry.
const OWN_CRATES: [&str; 3] = ["custody", "ingest", "sinks"];

/// The filter of log lines: `CUSTODY_LOG`, else `-v` (info) or `-vv` (debug), else `default`.
fn filter(verbose: u8, default: &str) -> EnvFilter {
    let default = match verbose {
        0 => default,
        1 => "info",
        _ => "debug",
    };
    EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default))
}

/// Sets up logging of a command: from level `default` on, or what `CUSTODY_LOG` and `-v` ask for.
pub fn init(verbose: u8, default: &str) {
    let is_terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter(verbose, default));
    lines.with_writer(std::io::stderr).with_ansi(is_terminal).init();
}

/// The export of traces; close it before the process ends.
#[derive(Debug)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Sends what is left, for a bounded time.
    pub async fn close(self) {
        let Some(provider) = self.0 else { return };
        // It blocks until its task on this runtime has sent: not on one of the runtime's own threads.
        let closed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(CLOSE_WAIT));
        match tokio::time::timeout(CLOSE_WAIT, closed).await {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!("some traces were not sent"),
        }
    }
}

/// Sets up logging and tracing of a service; call it inside the runtime.
///
/// # Errors
/// The endpoint cannot be used.
pub fn init_service(section: &TelemetrySection, role: Role, instance: &str, verbose: u8) -> anyhow::Result<Traces> {
    let provider = match section.otlp_endpoint.as_str() {
        "" => None,
        endpoint => Some(exporter(endpoint, role, instance)?),
    };
    let traces = provider.as_ref().map(|provider| {
        let is_own = |target: &str| OWN_CRATES.contains(&target.split("::").next().unwrap_or_default());
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("custody"))
            .with_location(false)
            .with_threads(false)
            .with_filter(filter_fn(move |meta| meta.is_span() && is_own(meta.target())))
    });
    let is_terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal);
    let lines = match section.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let lines = lines.with_filter(filter(verbose, &section.log_filter));
    tracing_subscriber::registry().with(lines).with(traces).try_init().context("logging is set up already")?;
    Ok(Traces(provider))
}

/// Spans in batches to `endpoint`, OTLP/HTTP with protobuf. A collector that is away loses traces, never
/// events.
fn exporter(endpoint: &str, role: Role, instance: &str) -> anyhow::Result<SdkTracerProvider> {
    let endpoint = match endpoint.trim_end_matches('/') {
        whole if whole.ends_with("/v1/traces") => whole.to_owned(),
        base => format!("{base}/v1/traces"),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&endpoint)
        .build()
        .with_context(|| format!("telemetry.otlp_endpoint {endpoint} cannot be used"))?;
    let resource = Resource::builder()
        .with_service_name("custody")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance.to_owned()),
            KeyValue::new("custody.role", role.name()),
        ])
        .build();
    let processor = BatchSpanProcessor::builder(exporter, Tokio).build();
    Ok(SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource).build())
}
