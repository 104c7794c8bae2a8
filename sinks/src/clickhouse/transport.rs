//! Connections to ClickHouse: plain, or TLS with the system's certificate authorities and one's own.
//!
//! It knows no ClickHouse. The client crate's own TLS offers no further authority, so it is built here.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

use crate::error::{ErrorClass, SinkError};

/// As the client crate has it.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// How long a connection is kept for the next request: less than the 3 s after which ClickHouse closes it.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// What connects to `url`.
///
/// # Errors
/// [`ErrorClass::Config`]: `ca_file` cannot be read or holds no certificate, or there is no certificate
/// authority at all.
pub(super) fn connector(url: &str, ca_file: Option<&Path>) -> Result<HttpsConnector<HttpConnector>, SinkError> {
    let mut http = HttpConnector::new();
    http.set_keepalive(Some(TCP_KEEPALIVE));
    http.enforce_http(false);
    let authorities = ca_file.map_or_else(|| Ok(Vec::new()), authorities)?;
    let tls = tls(url.starts_with("https://"), authorities);
    let tls = tls.map_err(|error| refused(format!("{error}: install ca-certificates, or set clickhouse.ca_file")))?;
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http))
}

/// What helps against an error with this text; `None` if it is not about certificates.
pub(super) fn remedy(text: &str) -> Option<&'static str> {
    text.contains("invalid peer certificate")
        .then_some("name the server's certificate authority in clickhouse.ca_file, and clickhouse.url by a name that stands in its certificate")
}

fn refused(message: String) -> SinkError {
    SinkError::new(ErrorClass::Config, "connections to ClickHouse", message)
}

fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, SinkError> {
    let refuse = |why: &dyn std::fmt::Display| refused(format!("clickhouse.ca_file {}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|error| refuse(&format!("cannot read it: {error}")))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(refuse(&"it holds no PEM certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(refuse(&error)),
    }
}

/// The system's authorities are read only where they are needed.
fn tls(is_used: bool, authorities: Vec<CertificateDer<'static>>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    if !is_used {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    }
    let verifier = Arc::new(Verifier::new_with_extra_roots(authorities, provider)?);
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let refusal = || connector("https://localhost:1", Some(&path)).map(drop).unwrap_err();
        assert!(refusal().to_string().contains("cannot read it"));
        std::fs::write(&path, "no certificate").unwrap();
        assert_eq!(refusal().class, ErrorClass::Config);
        let text = refusal().to_string();
        assert!(text.contains("clickhouse.ca_file") && text.contains("ca.pem") && text.contains("no PEM"), "{text}");
    }

    #[test]
    fn only_a_certificate_s_error_has_its_remedy() {
        let check = |text, expected| assert_eq!(remedy(text).is_some(), expected, "{text}");
        check("network error: invalid peer certificate: UnknownIssuer", true);
        check("network error: connection refused", false);
    }
}
