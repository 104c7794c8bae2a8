//! What stands between the client and the real server: a wire that loses answers, and TLS.
//!
//! Both pass everything else through as it is; signatures stay valid, as the client signs the proxy's
//! own address and the server is told that address.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum_server::tls_rustls::RustlsConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A wire that loses one answer.
#[derive(Debug)]
pub(crate) struct Lossy {
    address: SocketAddr,
    wire: Arc<Wire>,
}

#[derive(Debug)]
struct Wire {
    upstream: String,
    /// PUTs that pass before the one whose answer is lost; negative: none is lost.
    passing: AtomicI64,
    lost: AtomicUsize,
}

/// Starts a wire to `http://host:port`.
pub(crate) async fn lossy(upstream: &str) -> Lossy {
    let upstream = upstream.trim_start_matches("http://").to_owned();
    let wire = Arc::new(Wire { upstream, passing: AtomicI64::new(-1), lost: AtomicUsize::new(0) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shared = Arc::clone(&wire);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(carry(client, Arc::clone(&shared)));
        }
    });
    Lossy { address, wire }
}

impl Lossy {
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The answer of the PUT after `passing` more is lost, once.
    pub(crate) fn lose_the_answer_of_put(&self, passing: usize) {
        self.wire.passing.store(i64::try_from(passing).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn answers_lost(&self) -> usize {
        self.wire.lost.load(Ordering::SeqCst)
    }
}

/// Carries one connection. A client sends its next request after the answer to the one before, so the
/// first bytes after an answer are a request's first.
async fn carry(mut client: TcpStream, wire: Arc<Wire>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(&wire.upstream).await?;
    let (mut from_client, mut from_server) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let (mut is_answered, mut is_doomed) = (true, false);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let bytes = &from_client[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                if std::mem::take(&mut is_answered) && bytes.starts_with(b"PUT ") {
                    is_doomed = wire.passing.fetch_sub(1, Ordering::SeqCst) == 0;
                }
                server.write_all(bytes).await?;
            }
            read = server.read(&mut from_server) => {
                let bytes = &from_server[..read?];
                if is_doomed && !bytes.is_empty() {
                    wire.lost.fetch_add(1, Ordering::SeqCst);
                }
                if is_doomed || bytes.is_empty() {
                    return Ok(());
                }
                is_answered = true;
                client.write_all(bytes).await?;
            }
        }
    }
}

/// TLS in front of the server, with a certificate authority of its own.
#[derive(Debug)]
pub(crate) struct Tls {
    address: SocketAddr,
    directory: tempfile::TempDir,
}

/// Starts TLS in front of `http://host:port`.
pub(crate) async fn tls(upstream: &str) -> Tls {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let server_key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let server = server.signed_by(&server_key, &issuer).unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ca.pem"), authority_pem).unwrap();
    let config =
        RustlsConfig::from_pem(server.pem().into_bytes(), server_key.serialize_pem().into_bytes()).await.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(pass).with_state((upstream.to_owned(), reqwest::Client::new()));
    let server = axum_server::from_tcp_rustls(listener, config).unwrap();
    tokio::spawn(server.serve(app.into_make_service()));
    Tls { address, directory }
}

impl Tls {
    pub(crate) fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }
}

async fn pass(State((upstream, client)): State<(String, reqwest::Client)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 30).await.unwrap();
    let url = format!("{upstream}{}", parts.uri.path_and_query().unwrap());
    let sent = client.request(parts.method, url).headers(parts.headers).body(body).send().await;
    let Ok(answer) = sent else {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        return response;
    };
    let mut response = Response::new(Body::empty());
    (*response.status_mut(), *response.headers_mut()) = (answer.status(), answer.headers().clone());
    *response.body_mut() = Body::from(answer.bytes().await.unwrap());
    response
}
