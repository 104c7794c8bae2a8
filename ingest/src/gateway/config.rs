//! Section `[gateway]` of the configuration: addresses and limits.
//!
//! Every limit has a default that suits a small machine. It reads no file.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::BodyLimits;
use super::otlp::OtlpConfig;
use super::quota::QuotaConfig;

/// Section `[gateway]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Address for HTTP; port 0 takes a free one.
    pub http_listen: SocketAddr,
    /// Address for gRPC; both addresses serve both protocols.
    pub grpc_listen: SocketAddr,
    /// Certificate chain, PEM; with `tls_key_file`, both addresses speak TLS only.
    pub tls_cert_file: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    pub tls_key_file: Option<PathBuf>,
    /// API keys, as `custody api-keys` writes them. Without it everybody may send, and both addresses must
    /// be loopback addresses.
    pub api_keys_file: Option<PathBuf>,
    /// How often the key file is checked for changes, milliseconds: a revocation takes this long at most.
    pub api_keys_check_interval_ms: u64,
    /// Most key and denial counts of one minute that are kept apart. A count.
    pub access_entries_max: usize,
    /// Most bytes of a body, after decompression.
    pub body_bytes_max: usize,
    /// Most bytes that one compressed byte may become; the first MiB is free.
    pub gzip_ratio_max: usize,
    /// From the first to the last byte of a body, milliseconds.
    pub body_read_timeout_ms: u64,
    /// From the first to the last byte of a request's head, milliseconds; also how long an idle connection
    /// of HTTP/1 is kept.
    pub header_read_timeout_ms: u64,
    /// Most bytes of a request's head, at least 8 192.
    pub header_bytes_max: usize,
    /// Most header fields of a request.
    pub headers_max: usize,
    /// Most connections of both addresses together.
    pub connections_max: usize,
    /// How long a connection may be silent, milliseconds; more than the other timeouts.
    pub idle_timeout_ms: u64,
    /// Most body bytes of requests that wait for the log; above it requests are answered 429.
    pub queue_bytes_max: usize,
    /// Most requests that wait for the log; above it requests are answered 429.
    pub queue_requests_max: usize,
    /// How long a request waits for the log, milliseconds; then it is answered 503.
    pub request_timeout_ms: u64,
    /// Between two rounds of ticks, milliseconds.
    pub tick_interval_ms: u64,
    /// Most events that are remembered so that a repeat is not appended again; about 150 bytes each.
    pub idempotence_entries_max: u64,
    /// How long they are remembered, milliseconds.
    pub idempotence_ttl_ms: u64,
    /// Most sessions that are numbered in one epoch; about 100 bytes each.
    pub sessions_max: usize,
    /// How long a shutdown waits for what was accepted, milliseconds.
    pub drain_timeout_ms: u64,
    /// What tenants may send.
    pub quota: QuotaConfig,
    /// How spans and log records become events.
    pub otlp: OtlpConfig,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            // The ports that are registered for OTLP: an SDK without an endpoint sends to these. Loopback,
            // because without keys everybody who reaches them may send.
            http_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 4318)),
            grpc_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 4317)),
            tls_cert_file: None,
            tls_key_file: None,
            api_keys_file: None,
            api_keys_check_interval_ms: 2_000,
            access_entries_max: 10_000,
            body_bytes_max: 8 << 20,
            gzip_ratio_max: 200,
            body_read_timeout_ms: 20_000,
            header_read_timeout_ms: 15_000,
            header_bytes_max: 64 << 10,
            headers_max: 100,
            connections_max: 1_024,
            idle_timeout_ms: 75_000,
            queue_bytes_max: 32 << 20,
            queue_requests_max: 1_024,
            request_timeout_ms: 10_000,
            tick_interval_ms: 2_000,
            idempotence_entries_max: 300_000,
            idempotence_ttl_ms: 600_000,
            sessions_max: 100_000,
            drain_timeout_ms: 10_000,
            quota: QuotaConfig::default(),
            otlp: OtlpConfig::default(),
        }
    }
}

impl GatewayConfig {
    /// What is wrong with the values, each with its name and a remedy; empty where nothing is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |wrong: bool, problem: &str| {
            if wrong {
                problems.push(problem.to_owned());
            }
        };
        // hyper panics on a smaller buffer (`max_buf_size`).
        check(self.header_bytes_max < 8_192, "header_bytes_max is below 8192: raise it");
        check(self.body_bytes_max == 0, "body_bytes_max is 0: nothing could be sent");
        // A body that is larger than the whole budget would be answered 429 however often it is sent.
        check(self.body_bytes_max > self.queue_bytes_max, "queue_bytes_max is below body_bytes_max: raise it");
        check(self.gzip_ratio_max == 0, "gzip_ratio_max is 0: nothing could be sent compressed");
        check(self.connections_max == 0, "connections_max is 0: nobody could connect");
        check(self.queue_requests_max == 0, "queue_requests_max is 0: nothing could be sent");
        check(self.tick_interval_ms == 0, "tick_interval_ms is 0: set at least 1");
        check(self.sessions_max == 0, "sessions_max is 0: set at least 1");
        check(self.request_timeout_ms == 0, "request_timeout_ms is 0: set at least 1");
        // Nothing is read from a connection while its request waits for the log, so the idle timeout runs
        // during the other waits and would end them early.
        let longest_ms = self.request_timeout_ms.max(self.body_read_timeout_ms).max(self.header_read_timeout_ms);
        check(self.idle_timeout_ms <= longest_ms, "idle_timeout_ms is not above the other timeouts: raise it");
        // With only one of them it would serve plain text where the operator expects TLS.
        let lone = self.tls_cert_file.is_some() != self.tls_key_file.is_some();
        check(lone, "tls_cert_file and tls_key_file belong together: set both or none");
        problems
    }

    pub(super) fn body_limits(&self) -> BodyLimits {
        BodyLimits {
            bytes_max: self.body_bytes_max,
            ratio_max: self.gzip_ratio_max,
            read_timeout: Duration::from_millis(self.body_read_timeout_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_order_and_every_contradiction_is_named() {
        assert_eq!(GatewayConfig::default().problems(), Vec::<String>::new());
        type Change = fn(&mut GatewayConfig);
        let cases: [(&str, Change); 6] = [
            ("header_bytes_max", |c| c.header_bytes_max = 4_096),
            ("queue_bytes_max", |c| c.queue_bytes_max = 1),
            ("connections_max", |c| c.connections_max = 0),
            ("idle_timeout_ms", |c| c.idle_timeout_ms = c.request_timeout_ms),
            ("tls_cert_file", |c| c.tls_key_file = Some("key.pem".into())),
            ("sessions_max", |c| c.sessions_max = 0),
        ];
        for (name, change) in cases {
            let mut config = GatewayConfig::default();
            change(&mut config);
            let problems = config.problems();
            assert!(problems.len() == 1 && problems[0].starts_with(name), "{name}: {problems:?}");
        }
    }
}
