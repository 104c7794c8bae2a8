//! Keys and TLS: who is admitted, what is logged about it, and that plain text is not answered.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use schemas::event::EventHeader;
use schemas::testing::until_async;
use tonic::Code;

use crate::gateway::auth::Role;
use crate::gateway::auth::credential::{Minted, mint};
use crate::gateway::auth::key_file::edit;
use crate::gateway::auth::table::{Act, NewKey};
use crate::gateway::testing::*;
use crate::gateway::{Gateway, GatewayConfig, GatewayError};

struct Keys {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Keys {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api-keys.json");
        Self { _folder: folder, path }
    }

    fn act() -> Act {
        // So long ago that the command that made it does not tell the log any more.
        Act { by: "ada".to_owned(), at: NOW.plus_ms(-3_600_000), reason: String::new() }
    }

    fn add(&self, n: u8, role: Role) -> Minted {
        let minted = mint([n; 32]);
        let new = NewKey { name: "fleet".to_owned(), role, tenant_id: Some("acme".to_owned()), expires_at: None };
        edit(&self.path, |table| table.create(&minted, new, &Self::act())).unwrap();
        minted
    }
}

fn bearer(minted: &Minted) -> String {
    format!("Bearer {}", minted.secret.expose())
}

#[tokio::test]
async fn keys_decide_who_may_send_and_the_log_records_it() {
    let keys = Keys::new();
    let (member, viewer, gone) = (keys.add(1, Role::Member), keys.add(2, Role::Viewer), keys.add(3, Role::Member));
    edit(&keys.path, |table| table.revoke(&gone.id, &Keys::act())).unwrap();
    let log = Gated::open().await;
    let gateway = Running::start(&log, |config| config.api_keys_file = Some(keys.path.clone())).await;
    let body = event(1, 1);
    let post = |key: Option<&Minted>| {
        let ask = Ask::post("/v1/events", "application/json", body.as_bytes());
        match key {
            Some(key) => ask.with("authorization", &bearer(key)),
            None => ask,
        }
    };
    let nobody = gateway.send(post(None)).await;
    assert_eq!(nobody.problem(), (401, "credential_missing".to_owned()));
    assert_eq!(nobody.header("www-authenticate"), Some("Bearer realm=\"custody\""));
    assert_eq!(gateway.send(post(Some(&viewer))).await.problem(), (403, "role_forbidden".to_owned()));
    assert_eq!(gateway.send(post(Some(&gone))).await.problem().0, 401);
    let elsewhere = post(Some(&member)).with("x-custody-tenant", "other");
    assert_eq!(gateway.send(elsewhere).await.problem(), (403, "tenant_forbidden".to_owned()));
    let other = body.replacen('{', "{\"tenant_id\":\"other\",", 1);
    let ask = Ask::post("/v1/events", "application/json", other.as_bytes()).with("x-api-key", member.secret.expose());
    assert_eq!(gateway.send(ask).await.problem(), (403, "wrong_tenant".to_owned()));
    assert_eq!(gateway.send(post(Some(&member))).await.status, 202);

    let mut client = TraceServiceClient::connect(format!("http://{}", gateway.grpc)).await.unwrap();
    let export = |key: Option<&Minted>| {
        let mut request = tonic::Request::new(ExportTraceServiceRequest::default());
        if let Some(key) = key {
            request.metadata_mut().insert("authorization", bearer(key).parse().unwrap());
        }
        request
    };
    assert_eq!(client.export(export(None)).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(client.export(export(Some(&viewer))).await.unwrap_err().code(), Code::PermissionDenied);
    client.export(export(Some(&member))).await.unwrap();
    drop(client);

    // Changes of keys are appended at the gateway's next check, counts at the latest when it ends.
    let is_of_keys = |h: &&EventHeader| ["access.granted", "access.revoked"].contains(&h.event_type.as_str());
    until_async("appended", async || log.headers().iter().filter(is_of_keys).count() >= 4).await;
    gateway.stop().await;
    let headers = log.headers();
    let count = |event_type: &str| headers.iter().filter(|h| h.event_type == event_type).count();
    assert_eq!(count("model.call"), 1);
    assert!(count("access.used") >= 1 && count("access.denied") >= 3, "{headers:#?}");
    assert!(count("access.granted") == 3 && count("access.revoked") == 1, "{headers:#?}");
    let sent = headers.iter().find(|h| h.event_type == "model.call").unwrap();
    assert_eq!(sent.tenant_id, "acme");
}

#[tokio::test]
async fn without_keys_only_this_machine_may_send() {
    let log = Gated::open().await;
    let config = GatewayConfig { http_listen: "0.0.0.0:0".parse().unwrap(), ..GatewayConfig::default() };
    let bound = Gateway::bind(config, "test", log, clock, &mut prometheus_client::registry::Registry::default()).await;
    assert!(matches!(bound, Err(GatewayError::KeysNeeded(_))), "{bound:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_and_nothing_else() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&cert_file, made.cert.pem()).unwrap();
    std::fs::write(&key_file, made.signing_key.serialize_pem()).unwrap();
    let log = Gated::open().await;
    let gateway = Running::start(&log, |config| {
        (config.tls_cert_file, config.tls_key_file) = (Some(cert_file.clone()), Some(key_file.clone()));
    })
    .await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let (address, ask) = (gateway.http, Ask::post("/v1/events", "application/json", event(1, 1).as_bytes()).bytes());
    let reply = tokio::task::spawn_blocking(move || {
        let connection = rustls::ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, std::net::TcpStream::connect(address).unwrap());
        stream.write_all(&ask).unwrap();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        Reply::parse(&bytes)
    });
    assert_eq!(reply.await.unwrap().status, 202);
    assert_eq!(exchange(address, &Ask::get("/livez").bytes()).await.status, 0);
    gateway.stop().await;

    std::fs::write(&key_file, "no key").unwrap();
    let free = "127.0.0.1:0".parse().unwrap();
    let (tls_cert_file, tls_key_file) = (Some(cert_file), Some(key_file));
    let config =
        GatewayConfig { http_listen: free, grpc_listen: free, tls_cert_file, tls_key_file, ..GatewayConfig::default() };
    let bound = Gateway::bind(config, "test", log, clock, &mut prometheus_client::registry::Registry::default()).await;
    assert!(matches!(bound, Err(GatewayError::Tls { .. })), "{bound:?}");
}
