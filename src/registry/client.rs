//! Requests to a schema registry with Confluent's API (Confluent, Karapace, Apicurio, Redpanda).
//!
//! One request, one answer: it caches and repeats nothing. Files with secrets are read again for every
//! request, so that a rotated one takes effect.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, Url};
use schemas::secret::Secret;
use serde::Deserialize;
use serde_json::json;

use super::RegistryError;
use super::answer::{self, ANSWER_BYTES_MAX, Answer, Held};
use crate::config::RegistrySection;

/// Media type of the API's first version.
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Who asks.
#[derive(Debug, Clone)]
enum Credentials {
    Nobody,
    Basic { user: String, password: Secret, password_file: Option<PathBuf> },
    Bearer { token_file: PathBuf },
}

/// A pool of connections to a registry.
#[derive(Debug, Clone)]
pub struct RegistryClient {
    http: reqwest::Client,
    base: Url,
    credentials: Credentials,
}

/// One version of a subject.
#[derive(Debug, Deserialize)]
struct Version {
    id: u32,
}

#[derive(Debug, Deserialize)]
struct Registered {
    id: u32,
}

/// A file that is named; an empty path names none.
fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

fn secret_in(key: &str, path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{key}: cannot read {}: {e}", path.display()))?;
    Ok(Secret::new(text.trim_end()))
}

impl RegistryClient {
    /// Prepares a client; the process must have installed a TLS provider. `None` where no registry is
    /// configured.
    ///
    /// # Errors
    /// The URL is none, or `ca_file` holds no certificate: configuration.
    pub fn new(section: &RegistrySection) -> anyhow::Result<Option<Self>> {
        if section.url.is_empty() {
            return Ok(None);
        }
        let base = Url::parse(&section.url).map_err(|e| anyhow::anyhow!("schemas.registry.url is no URL: {e}"))?;
        let mut builder = reqwest::Client::builder()
            .timeout(Duration::from_millis(section.request_timeout_ms))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("custody/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = given(&section.ca_file) {
            for certificate in certificates(&path).map_err(|e| anyhow::anyhow!("schemas.registry.ca_file {e}"))? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let http = builder.build().map_err(|e| anyhow::anyhow!("schemas.registry: no TLS: {}", causes(&e)))?;
        let credentials = match (given(&section.token_file), section.user.is_empty()) {
            (Some(token_file), _) => Credentials::Bearer { token_file },
            (None, true) => Credentials::Nobody,
            (None, false) => Credentials::Basic {
                user: section.user.clone(),
                password: section.password.clone(),
                password_file: given(&section.password_file),
            },
        };
        Ok(Some(Self { http, base, credentials }))
    }

    /// The registry's address, without credentials.
    pub fn address(&self) -> &str {
        self.base.as_str()
    }

    /// What is held under an id.
    ///
    /// # Errors
    /// The registry is away, or something else answers in its place: ask again later.
    pub async fn schema(&self, id: u32) -> Result<Held, RegistryError> {
        let what = format!("schema {id} of the registry");
        let answer = self.ask(&what, &["schemas", "ids", &id.to_string()]).await?;
        answer::held(&what, &answer)
    }

    /// The types of schemas that it can hold: a question that every registry answers.
    ///
    /// # Errors
    /// As [`RegistryClient::schema`].
    pub async fn types(&self) -> Result<Vec<String>, RegistryError> {
        self.list("schema types of the registry", &["schemas", "types"]).await
    }

    /// The names of its subjects.
    ///
    /// # Errors
    /// As [`RegistryClient::schema`].
    pub async fn subjects(&self) -> Result<Vec<String>, RegistryError> {
        self.list("subjects of the registry", &["subjects"]).await
    }

    /// The versions of a subject.
    ///
    /// # Errors
    /// As [`RegistryClient::schema`].
    pub async fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError> {
        self.list(&format!("versions of the registry's subject {subject}"), &["subjects", subject, "versions"]).await
    }

    /// The id and the schema of a version; `None` for one too large to be read.
    ///
    /// # Errors
    /// As [`RegistryClient::schema`].
    pub async fn version(&self, subject: &str, version: u32) -> Result<Option<(u32, Held)>, RegistryError> {
        let what = format!("version {version} of the registry's subject {subject}");
        let answer = self.ask(&what, &["subjects", subject, "versions", &version.to_string()]).await?;
        let held = answer::held(&what, &answer)?;
        if !answer.is_whole {
            return Ok(None);
        }
        let Version { id } = answer::read(&what, &answer)?;
        Ok(Some((id, held)))
    }

    /// Registers a schema under a subject; its id, which is the old one where it was registered already.
    ///
    /// # Errors
    /// As [`RegistryClient::schema`], and a schema that is not compatible with an earlier version.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let what = format!("registration under the subject {subject}");
        let body = json!({ "schema": schema, "schemaType": "AVRO" });
        let answer = self.send(&what, Method::POST, &["subjects", subject, "versions"], Some(&body)).await?;
        answer::read::<Registered>(&what, &answer).map(|registered| registered.id)
    }

    /// Sets which changes a subject allows.
    ///
    /// # Errors
    /// As [`RegistryClient::schema`].
    pub async fn set_compatibility(&self, subject: &str, level: &str) -> Result<(), RegistryError> {
        let what = format!("compatibility of the subject {subject}");
        let body = json!({ "compatibility": level });
        let answer = self.send(&what, Method::PUT, &["config", subject], Some(&body)).await?;
        answer::read::<serde_json::Value>(&what, &answer).map(drop)
    }

    async fn list<T: for<'a> Deserialize<'a>>(&self, what: &str, path: &[&str]) -> Result<Vec<T>, RegistryError> {
        answer::read(what, &self.ask(what, path).await?)
    }

    async fn ask(&self, what: &str, path: &[&str]) -> Result<Answer, RegistryError> {
        self.send(what, Method::GET, path, None).await
    }

    async fn send(
        &self,
        what: &str,
        method: Method,
        path: &[&str],
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, RegistryError> {
        let failed = |message: String| RegistryError { what: what.to_owned(), message };
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.http.request(method, url).header(ACCEPT, MEDIA_TYPE);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, MEDIA_TYPE).body(body.to_string());
        }
        let request = self.credentials.sign(request).map_err(failed)?;
        let response = request.send().await.map_err(|error| failed(unreached(&error)))?;
        received(response).await.map_err(|error| failed(unreached(&error)))
    }
}

impl Credentials {
    fn sign(&self, request: RequestBuilder) -> Result<RequestBuilder, String> {
        Ok(match self {
            Credentials::Nobody => request,
            Credentials::Basic { user, password, password_file } => {
                let file = password_file.as_ref().map(|path| secret_in("schemas.registry.password_file", path));
                let password = file.transpose()?.unwrap_or_else(|| password.clone());
                request.basic_auth(user, Some(password.expose()))
            }
            Credentials::Bearer { token_file } => {
                let token = secret_in("schemas.registry.token_file", token_file)?;
                let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
                let mut value = value.map_err(|_| {
                    format!("schemas.registry.token_file: {} holds no token of one line", token_file.display())
                })?;
                value.set_sensitive(true);
                request.header(reqwest::header::AUTHORIZATION, value)
            }
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, String> {
    let refuse = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let pem = std::fs::read(path).map_err(|e| refuse(&format!("cannot read it: {e}")))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| refuse(&e))?;
    if found.is_empty() { Err(refuse(&"it holds no PEM certificate")) } else { Ok(found) }
}

/// The answer, its body read no further than is of use.
async fn received(mut response: reqwest::Response) -> Result<Answer, reqwest::Error> {
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let is_json = essence.ends_with("+json") || essence.ends_with("/json");
    let (status, mut body, mut is_whole) = (response.status(), Vec::new(), true);
    while let Some(chunk) = response.chunk().await? {
        let room = ANSWER_BYTES_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            is_whole = false;
            break;
        }
    }
    Ok(Answer { status, is_json, body, is_whole })
}

/// Why there is no answer and what helps, without the address.
fn unreached(error: &reqwest::Error) -> String {
    let cause = causes(error);
    let (kind, remedy) = match error {
        _ if cause.contains("invalid peer certificate") => (
            "its certificate is not trusted",
            "name its authority in schemas.registry.ca_file, and schemas.registry.url by a name in its certificate",
        ),
        e if e.is_timeout() => {
            ("no answer in time", "start the registry, or raise schemas.registry.request_timeout_ms")
        }
        e if e.is_connect() => ("it cannot be reached", "start the registry, or correct schemas.registry.url"),
        _ => ("the answer was lost", "see the registry's log"),
    };
    format!("{kind}: {cause}; {remedy}")
}

/// The innermost cause of an error.
fn causes(error: &reqwest::Error) -> String {
    let first = std::error::Error::source(error);
    let last = std::iter::successors(first, |e| e.source()).last();
    last.map_or_else(|| "no cause given".to_owned(), ToString::to_string)
}
