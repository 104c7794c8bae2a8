//! What the bucket itself does against a later hand: versions, object lock, default retention.
//!
//! Custody sets no retention of its own. A retention that the writer chooses can be left out by a
//! writer that was taken over, and needs a permission that the writer is better without; the bucket's
//! default retention binds every writer. This module only asks, and says what it found.

use std::fmt;

use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};

use crate::error::{ErrorClass, SinkError};
use crate::parquet::store::config::{StoreConfig, endpoint};

/// How a store protects objects that are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// It does not tell: a directory, memory, a server without these questions, or no permission to ask.
    Unknown {
        /// Why it is not known.
        reason: String,
    },
    /// No object lock: whoever may delete, can.
    Unlocked {
        /// Whether an overwritten or deleted object is kept as an older version.
        is_versioned: bool,
    },
    /// Object lock without a default retention: nothing is retained until somebody asks for it.
    Lockable,
    /// Object lock with a default retention: every object is retained.
    Retained {
        /// `COMPLIANCE` (nobody can shorten it) or `GOVERNANCE` (a special permission can).
        mode: String,
        /// How long, as the bucket says it, e.g. `365 days`.
        period: String,
    },
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { reason } => write!(f, "protection unknown: {reason}"),
            Self::Unlocked { is_versioned: true } => write!(f, "versioned, no object lock"),
            Self::Unlocked { is_versioned: false } => write!(f, "no versions, no object lock"),
            Self::Lockable => write!(f, "object lock without default retention"),
            Self::Retained { mode, period } => write!(f, "object lock, {mode} for {period}"),
        }
    }
}

/// A bucket that can be asked about itself.
pub(super) struct Bucket {
    url: String,
    region: String,
    credentials: AwsCredentialProvider,
    client: HttpClient,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What the server said to a question.
enum Answer {
    Says(String),
    /// The question's subject does not exist: no object lock configuration.
    None,
    Refuses(String),
}

impl Bucket {
    pub(super) fn new(
        config: &StoreConfig,
        name: &str,
        credentials: AwsCredentialProvider,
        options: &ClientOptions,
    ) -> Result<Self, SinkError> {
        let client = ReqwestConnector::default()
            .connect(options)
            .map_err(|error| SinkError::new(ErrorClass::Config, "[store]", error))?;
        let url = match (endpoint(config)?, config.virtual_hosted) {
            (Some(endpoint), false) => format!("{endpoint}/{name}"),
            // As the library has it: the endpoint then names the bucket already.
            (Some(endpoint), true) => endpoint.to_owned(),
            (None, false) => format!("https://s3.{}.amazonaws.com/{name}", config.region),
            (None, true) => format!("https://{name}.s3.{}.amazonaws.com", config.region),
        };
        Ok(Self { url, region: config.region.clone(), credentials, client })
    }

    /// Asks for object lock, and without one for versions.
    ///
    /// # Errors
    /// [`ErrorClass::Retry`]: the server does not answer. A server that does not want to tell is
    /// [`Protection::Unknown`].
    pub(super) async fn protection(&self) -> Result<Protection, SinkError> {
        match self.ask("object-lock").await? {
            Answer::Says(xml) if value_of(&xml, "ObjectLockEnabled") == Some("Enabled") => Ok(retention(&xml)),
            Answer::Says(_) | Answer::None => match self.ask("versioning").await? {
                Answer::Says(xml) => {
                    Ok(Protection::Unlocked { is_versioned: value_of(&xml, "Status") == Some("Enabled") })
                }
                Answer::None => Ok(Protection::Unlocked { is_versioned: false }),
                Answer::Refuses(reason) => Ok(Protection::Unknown { reason }),
            },
            Answer::Refuses(reason) => Ok(Protection::Unknown { reason }),
        }
    }

    async fn ask(&self, what: &str) -> Result<Answer, SinkError> {
        let away =
            |error: &dyn fmt::Display| SinkError::new(ErrorClass::Retry, format!("get {}?{what}", self.url), error);
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = format!("{}?{what}", self.url).parse().map_err(|error| away(&error))?;
        let credential = self.credentials.get_credential().await.map_err(|error| away(&error))?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|error| away(&error))?;
        let response = self.client.execute(request).await.map_err(|error| away(&error))?;
        let (status, body) = (response.status(), response.into_body());
        let text = String::from_utf8_lossy(&body.bytes().await.map_err(|error| away(&error))?).into_owned();
        match status.as_u16() {
            200..=299 => Ok(Answer::Says(text)),
            404 if text.contains("ObjectLockConfigurationNotFound") => Ok(Answer::None),
            400..=499 | 501 => {
                let code = value_of(&text, "Code").unwrap_or("no code").to_owned();
                Ok(Answer::Refuses(format!("the server answers {what} with {} {code}", status.as_u16())))
            }
            _ => Err(away(&format!("status {status}"))),
        }
    }
}

fn retention(xml: &str) -> Protection {
    let period = |unit: &str, name: &str| {
        value_of(xml, name).filter(|count| *count != "0").map(|count| format!("{count} {unit}"))
    };
    match (value_of(xml, "Mode"), period("days", "Days").or_else(|| period("years", "Years"))) {
        (Some(mode), Some(period)) => Protection::Retained { mode: mode.to_owned(), period },
        _ => Protection::Lockable,
    }
}

/// Text of the first element of that name; enough for S3's flat answers, which hold no attributes there.
fn value_of<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(value, _)| value.trim())
}

/// The answer of a store that is no bucket.
pub(super) fn of_no_bucket() -> Protection {
    Protection::Unknown { reason: "the store is no bucket".to_owned() }
}

/// Whether `found` is enough where object lock is required.
///
/// # Errors
/// [`ErrorClass::Config`] with what to change.
pub(super) fn require(found: &Protection) -> Result<(), SinkError> {
    match found {
        Protection::Retained { .. } => Ok(()),
        _ => Err(SinkError::new(
            ErrorClass::Config,
            "[store] object_lock_required",
            format!(
                "{found}; make a bucket with object lock and a default retention (object lock is chosen when a bucket is made)"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_read_from_the_answer() {
        let check = |xml: &str, expected: &str| assert_eq!(retention(xml).to_string(), expected, "{xml}");
        let rule = |inner: &str| format!("<Rule><DefaultRetention>{inner}</DefaultRetention></Rule>");
        check(&rule("<Mode>COMPLIANCE</Mode><Days>365</Days>"), "object lock, COMPLIANCE for 365 days");
        check(&rule("<Mode>GOVERNANCE</Mode><Years>7</Years>"), "object lock, GOVERNANCE for 7 years");
        check(&rule("<Mode>GOVERNANCE</Mode><Days>0</Days><Years>7</Years>"), "object lock, GOVERNANCE for 7 years");
        check("<ObjectLockEnabled>Enabled</ObjectLockEnabled>", "object lock without default retention");
        check("", "object lock without default retention");
    }

    #[test]
    fn only_a_default_retention_satisfies_the_requirement() {
        let check = |found: Protection, is_enough: bool| assert_eq!(require(&found).is_ok(), is_enough, "{found}");
        check(of_no_bucket(), false);
        check(Protection::Unlocked { is_versioned: true }, false);
        check(Protection::Lockable, false);
        check(Protection::Retained { mode: "COMPLIANCE".to_owned(), period: "1 days".to_owned() }, true);
    }
}
