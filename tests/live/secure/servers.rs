//! Certificates of our own, and the servers of `docker/` that use them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::support::installation::{free_ports, run};

/// A folder with a certificate authority (`ca.pem`) and a server's certificate for 127.0.0.1, in the
/// forms that the servers take: `cert.pem` and `key.pem`, both together in `server.pem`.
pub(crate) struct Certificates(tempfile::TempDir);

impl Certificates {
    pub(crate) fn make() -> Self {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "authority of a test");
        let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let (cert, key) = (server.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem());
        let made = Self(tempfile::tempdir().unwrap());
        for (name, text) in [
            ("ca.pem", &authority_pem),
            ("cert.pem", &cert),
            ("key.pem", &key),
            ("server.pem", &format!("{key}{cert}")),
        ] {
            std::fs::write(made.path(name), text).unwrap();
        }
        made
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A server that a script of `docker/` runs, with its data; it ends with the test.
pub(crate) struct Server {
    script: PathBuf,
    /// The first of its ports.
    pub(crate) port: u16,
    data: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(script: &str, certificates: &Certificates) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(script);
        let server = Self { script, port: free_ports(), data: tempfile::tempdir().unwrap() };
        let (code, text) = run(server.command("start").arg("--secure").arg(certificates.dir()));
        assert_eq!(code, Some(0), "{text}");
        server
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.script);
        command.args([verb, "--port", &self.port.to_string(), "--data"]).arg(self.data.path().join("data"));
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that never started has nothing to stop.
        let _status = self.command("stop").output();
    }
}

/// TLS in front of a server on this machine; its address. It ends with the test's runtime.
pub(crate) async fn front(certificates: &Certificates, server: &str) -> SocketAddr {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificates.path("cert.pem")).unwrap().collect();
    let key = PrivateKeyDer::from_pem_file(certificates.path("key.pem")).unwrap();
    let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain.unwrap(), key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, server) = (listener.local_addr().unwrap(), server.to_owned());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(carry(acceptor.clone(), client, server.clone()));
        }
    });
    address
}

/// Carries one connection; a client that does not trust us ends it.
async fn carry(acceptor: TlsAcceptor, client: TcpStream, server: String) -> std::io::Result<()> {
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(server).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
