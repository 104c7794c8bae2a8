//! `[store]`: which object store, with whose credentials, and how long to wait for it.
//!
//! Opening a store sends nothing: whether it answers, and keeps its promises, is the self-test's to say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{Certificate, ClientOptions, RetryConfig};
use schemas::secret::Secret;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorClass, SinkError};
use crate::parquet::store::Store;
use crate::parquet::store::protection::Bucket;

/// Section `[store]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// `file:DIR` or `s3://BUCKET[/PREFIX]`. Empty: a directory that the caller chooses.
    pub url: String,
    /// Address of an S3 server other than AWS, e.g. `https://s3.example.com:9000`; empty for AWS.
    pub endpoint: String,
    /// Region of the bucket.
    pub region: String,
    /// Access key; empty: the AWS environment variables, then web identity, container and instance
    /// credentials, in that order.
    pub access_key_id: String,
    /// Secret of the access key.
    pub secret_access_key: Secret,
    /// File that holds the secret of the access key, in place of `secret_access_key`; white space
    /// around it is dropped. Read when the store is opened.
    pub secret_access_key_file: Option<PathBuf>,
    /// Whether the bucket is part of the host name (`BUCKET.HOST`) and not of the path.
    pub virtual_hosted: bool,
    /// Whether `endpoint` may be plain HTTP. Requests are signed, objects are not encrypted on the way.
    pub allow_http: bool,
    /// PEM file with certificate authorities to trust beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// Longest time to connect, milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest time of one request from the first byte sent to the last byte read, milliseconds. An
    /// object is one request: 256 MiB within the default take 2.3 MB/s.
    pub request_timeout_ms: u64,
    /// Times that a request is repeated at once, after a refusal that says so (5xx, 429) or a connection
    /// that broke before the answer. After these the caller repeats, without end.
    pub retries_max: u32,
    /// Whether to refuse a bucket without object lock and default retention.
    pub object_lock_required: bool,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            endpoint: String::new(),
            region: "us-east-1".to_owned(),
            access_key_id: String::new(),
            secret_access_key: Secret::default(),
            secret_access_key_file: None,
            virtual_hosted: false,
            allow_http: false,
            ca_file: None,
            connect_timeout_ms: 5_000,
            request_timeout_ms: 120_000,
            retries_max: 3,
            object_lock_required: false,
        }
    }
}

/// What a store's URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Directory(PathBuf),
    Bucket { name: String, prefix: String },
}

impl Store {
    /// Opens the configured store.
    ///
    /// A TLS library needs its process-wide provider before the first `s3://` store is opened.
    ///
    /// # Errors
    /// [`ErrorClass::Config`]: names the setting and the remedy.
    pub fn open(config: &StoreConfig) -> Result<Self, SinkError> {
        let store = match place(&config.url)? {
            Place::Directory(directory) => Self::local(&directory)?,
            Place::Bucket { name, prefix } => open_bucket(config, name, &prefix)?,
        };
        Ok(Self { object_lock_required: config.object_lock_required, ..store })
    }
}

fn refused(setting: &str, message: impl std::fmt::Display) -> SinkError {
    SinkError::new(ErrorClass::Config, format!("[store] {setting}"), message)
}

fn place(url: &str) -> Result<Place, SinkError> {
    if let Some(path) = url.strip_prefix("file:") {
        // file:DIR and file:///DIR; a host part would name another machine.
        let path = path.strip_prefix("//").unwrap_or(path);
        return match path {
            "" => Err(refused("url", "file: names no directory")),
            path => Ok(Place::Directory(PathBuf::from(path))),
        };
    }
    let Some(rest) = url.strip_prefix("s3://") else {
        return Err(refused("url", format!("{url:?} is neither file:DIR nor s3://BUCKET/PREFIX")));
    };
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.len() < 3 || !name.chars().all(is_plain) {
        let message = format!("{name:?} is no bucket name (3 or more of a-z, 0-9, - and .): use s3://BUCKET/PREFIX");
        return Err(refused("url", message));
    }
    let prefix = prefix.trim_matches('/');
    Key::parse(prefix).map_err(|error| refused("url", error))?;
    Ok(Place::Bucket { name: name.to_owned(), prefix: prefix.to_owned() })
}

fn open_bucket(config: &StoreConfig, name: String, prefix: &str) -> Result<Store, SinkError> {
    let options = client_options(config)?;
    let builder = credentials(config)?
        .with_bucket_name(&name)
        .with_region(&config.region)
        .with_virtual_hosted_style_request(config.virtual_hosted)
        .with_client_options(options.clone())
        .with_allow_http(config.allow_http)
        .with_retry(RetryConfig {
            max_retries: config.retries_max as usize,
            retry_timeout: Duration::from_millis(config.request_timeout_ms),
            ..RetryConfig::default()
        })
        // One object is one commit: `If-None-Match: *` is what makes a PUT create-only.
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // A bucket with object lock takes no PUT without a checksum; it also shows damage on the way.
        .with_checksum_algorithm(Checksum::SHA256);
    let builder = match endpoint(config)? {
        Some(endpoint) => builder.with_endpoint(endpoint),
        None => builder,
    };
    let objects: Arc<AmazonS3> = Arc::new(builder.build().map_err(|error| refused("url", format!("{name}: {error}")))?);
    let bucket = Bucket::new(config, &name, Arc::clone(objects.credentials()), &options)?;
    let store = match prefix {
        "" => Store::new(objects),
        prefix => Store::new(Arc::new(PrefixStore::new(objects, prefix))),
    };
    Ok(Store { bucket: Some(Arc::new(bucket)), ..store })
}

/// A builder that knows the credentials. Those of the configuration and those of the environment are
/// never mixed: a session token of one does not fit the key of the other.
fn credentials(config: &StoreConfig) -> Result<AmazonS3Builder, SinkError> {
    let secret = match &config.secret_access_key_file {
        Some(_) if !config.secret_access_key.is_empty() => {
            return Err(refused("secret_access_key", "is given twice, here and as a file: keep one"));
        }
        Some(path) => read(path, "secret_access_key_file")?.trim().to_owned(),
        None => config.secret_access_key.expose().to_owned(),
    };
    match (config.access_key_id.is_empty(), secret.is_empty()) {
        (true, true) => Ok(AmazonS3Builder::from_env()),
        (false, false) => {
            Ok(AmazonS3Builder::new().with_access_key_id(&config.access_key_id).with_secret_access_key(secret))
        }
        (true, false) => Err(refused("access_key_id", "is empty but its secret is given: set both or neither")),
        (false, true) => Err(refused("secret_access_key", "is empty but access_key_id is given: set both or neither")),
    }
}

/// The server's address without a trailing slash; `None` for AWS.
pub(super) fn endpoint(config: &StoreConfig) -> Result<Option<&str>, SinkError> {
    let endpoint = config.endpoint.trim_end_matches('/');
    match endpoint.split_once("://") {
        _ if endpoint.is_empty() => Ok(None),
        Some(("https", _)) => Ok(Some(endpoint)),
        Some(("http", _)) if config.allow_http => Ok(Some(endpoint)),
        Some(("http", _)) => {
            Err(refused("endpoint", format!("{endpoint} is plain HTTP: use https, or set allow_http = true")))
        }
        _ => Err(refused("endpoint", format!("{endpoint:?} is no address: use https://HOST[:PORT]"))),
    }
}

fn client_options(config: &StoreConfig) -> Result<ClientOptions, SinkError> {
    let mut options = ClientOptions::new()
        .with_allow_http(config.allow_http)
        .with_connect_timeout(Duration::from_millis(config.connect_timeout_ms))
        .with_timeout(Duration::from_millis(config.request_timeout_ms));
    if let Some(path) = &config.ca_file {
        let pem = read(path, "ca_file")?;
        let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| refused("ca_file", error))?;
        if certificates.is_empty() {
            return Err(refused("ca_file", format!("{} holds no PEM certificate", path.display())));
        }
        options = certificates.into_iter().fold(options, ClientOptions::with_root_certificate);
    }
    Ok(options)
}

fn read(path: &Path, setting: &str) -> Result<String, SinkError> {
    std::fs::read_to_string(path).map_err(|error| refused(setting, format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(change: impl FnOnce(&mut StoreConfig)) -> StoreConfig {
        let mut config = StoreConfig {
            url: "s3://evidence/a".to_owned(),
            access_key_id: "id".to_owned(),
            secret_access_key: Secret::new("hunter2"),
            ..StoreConfig::default()
        };
        change(&mut config);
        config
    }

    #[test]
    fn a_url_names_a_directory_or_a_bucket() {
        let directory = |path: &str| Ok(Place::Directory(PathBuf::from(path)));
        let bucket = |name: &str, prefix: &str| Ok(Place::Bucket { name: name.to_owned(), prefix: prefix.to_owned() });
        let check = |url: &str, expected: Result<Place, &str>| match (place(url), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{url}"),
            (Err(error), Err(part)) => {
                assert_eq!(error.class, ErrorClass::Config);
                assert!(error.to_string().contains(part), "{url}: {error}");
            }
            (found, expected) => panic!("{url}: {found:?} instead of {expected:?}"),
        };
        check("file:data/store", directory("data/store"));
        check("file:/data/store", directory("/data/store"));
        check("file:///data/store", directory("/data/store"));
        check("file:", Err("names no directory"));
        check("file://", Err("names no directory"));
        check("s3://evidence", bucket("evidence", ""));
        check("s3://evidence/", bucket("evidence", ""));
        check("s3://evidence/eu/prod/", bucket("evidence", "eu/prod"));
        check("s3://evidence/a//b", Err("[store] url"));
        check("s3://", Err("no bucket name"));
        check("s3://Evidence", Err("no bucket name"));
        check("s3://user@host/x", Err("no bucket name"));
        check("evidence", Err("neither"));
        check("", Err("neither"));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_setting_and_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let check = |config: StoreConfig, setting: &str, remedy: &str| {
            let error = Store::open(&config).unwrap_err();
            assert_eq!(error.class, ErrorClass::Config, "{error}");
            assert!(error.what.contains(setting) && error.message.contains(remedy), "{error}");
            assert!(!format!("{error} {config:?}").contains("hunter2"));
        };
        check(s3(|c| c.endpoint = "http://127.0.0.1:9000".to_owned()), "endpoint", "allow_http = true");
        check(s3(|c| c.endpoint = "127.0.0.1:9000".to_owned()), "endpoint", "https://HOST");
        check(s3(|c| c.access_key_id.clear()), "access_key_id", "both or neither");
        check(s3(|c| c.secret_access_key = Secret::default()), "secret_access_key", "both or neither");
        check(s3(|c| c.secret_access_key_file = file("s", "x")), "secret_access_key", "keep one");
        let absent = s3(|c| {
            c.secret_access_key = Secret::default();
            c.secret_access_key_file = Some(directory.path().join("absent"));
        });
        check(absent, "secret_access_key_file", "absent");
        check(s3(|c| c.ca_file = file("ca.pem", "not a certificate")), "ca_file", "no PEM certificate");
    }

    #[test]
    fn an_unknown_setting_is_refused_and_the_secret_is_not_written_out() {
        let error = serde_json::from_str::<StoreConfig>(r#"{"endpont": "x"}"#).unwrap_err();
        assert!(error.to_string().contains("endpont"), "{error}");
        let text = serde_json::to_string(&s3(|_| ())).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
    }
}
