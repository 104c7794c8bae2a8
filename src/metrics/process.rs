//! What the process is: version, start, memory. Memory is read from `/proc`, so only on Linux.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use schemas::time::TimestampMicros;

use super::names::help;

/// Series about the process itself.
#[derive(Debug)]
pub struct ProcessCollector {
    started_at: TimestampMicros,
}

impl ProcessCollector {
    /// A process that started at that time.
    pub fn new(started_at: TimestampMicros) -> Self {
        Self { started_at }
    }
}

/// Resident memory in bytes; `None` where the system does not say.
fn resident_bytes() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, labels: &[(&str, &str)], value: f64| {
            let mut family = encoder.encode_descriptor(name, help(name), None, MetricType::Gauge)?;
            family.encode_family(&labels)?.encode_gauge(&value)
        };
        gauge("custody_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0)?;
        if let Some(bytes) = resident_bytes() {
            gauge("process_resident_memory_bytes", &[], bytes as f64)?;
        }
        gauge("process_start_time_seconds", &[], self.started_at.0 as f64 / 1e6)
    }
}
