//! The one file that sends: a request out, an [`Answer`] back.
//!
//! It follows no redirection, reads no answer's body and never shows an address, which may be a
//! credential. It does not retry.

use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue, RETRY_AFTER};
use schemas::time::TimestampMicros;

use super::answer::{Answer, answer_of};
use super::receiver::Post;
use crate::error::{ErrorClass, SinkError};

/// A pool of connections.
#[derive(Debug, Clone)]
pub struct Sender {
    client: reqwest::Client,
}

impl Sender {
    /// Prepares a client; the process must have installed a TLS provider.
    ///
    /// # Errors
    /// [`ErrorClass::Config`]: TLS cannot be set up.
    pub fn new(request_timeout_ms: u64) -> Result<Self, SinkError> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_millis(request_timeout_ms))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("custody/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| SinkError::new(ErrorClass::Config, "alert http client", error))?;
        Ok(Self { client })
    }

    /// Sends once. `now` is the time of sending, which dates in `Retry-After` are held against.
    ///
    /// # Errors
    /// [`ErrorClass::Config`]: a configured value cannot stand in a header.
    pub async fn send(&self, post: &Post, now: TimestampMicros) -> Result<Answer, SinkError> {
        let mut request = self.client.post(post.url.expose()).body(post.body.clone());
        for (name, value) in &post.headers {
            let mut value = HeaderValue::from_str(value.expose())
                .map_err(|error| SinkError::new(ErrorClass::Config, format!("alert header {name}"), error))?;
            value.set_sensitive(*name == "authorization");
            request = request.header(HeaderName::from_static(name), value);
        }
        Ok(match request.send().await {
            Ok(response) => {
                let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
                answer_of(response.status().as_u16(), retry_after, now)
            }
            Err(error) => Answer::Again { after_ms: None, why: reason(error) },
        })
    }
}

/// Why there is no answer, in words without the address.
fn reason(error: reqwest::Error) -> String {
    let kind = match &error {
        e if e.is_timeout() => "no answer in time",
        e if e.is_connect() => "it cannot be reached",
        _ => "the answer was lost",
    };
    let error = error.without_url();
    let cause = std::iter::successors(std::error::Error::source(&error), |e| e.source()).last();
    cause.map_or_else(|| kind.to_owned(), |cause| format!("{kind}: {cause}"))
}
