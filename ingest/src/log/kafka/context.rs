//! The callbacks of librdkafka that are the same for all clients: log lines, errors, tokens.
//!
//! It remembers why brokers refuse us, because the calls that wait for them only time out. It decides nothing.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

use super::noise::{error_line, log_line};
use super::oauth::Tokens;

/// An older refusal no longer explains an error; librdkafka repeats a refusal every 30 s.
const REFUSAL_AGE_MAX: Duration = Duration::from_secs(60);
/// By then an event that librdkafka has raised is on the client's queue.
const HEAR_WAIT: Duration = Duration::from_millis(20);

/// A client's context, by itself or within another.
#[derive(Debug, Clone, Default)]
pub(super) struct Context {
    tokens: Tokens,
    /// The last refusal and its remedy, of any client of the broker: all have the same credentials.
    refusal: Arc<Mutex<Option<(Instant, String)>>>,
}

/// A context that has the common one within.
pub(super) trait Common: ClientContext {
    fn common(&self) -> &Context;
}

impl Context {
    pub(super) fn new(tokens: Tokens) -> Self {
        Self { tokens, refusal: Arc::default() }
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Why the brokers refuse us, if they have lately.
    pub(super) fn refusal(&self) -> Option<String> {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.as_ref().filter(|(at, _)| at.elapsed() < REFUSAL_AGE_MAX).map(|(_, why)| why.clone())
    }
}

/// What helps against an error that time does not cure.
fn remedy(code: Code) -> Option<&'static str> {
    match code {
        Code::Authentication => Some(
            "the brokers or librdkafka refuse our login: correct log.librdkafka (sasl.mechanism, sasl.username, \
             sasl.password) or log.oauth_token_file",
        ),
        Code::SSL => Some(
            "TLS with the brokers fails: name their certificate authority in log.librdkafka \"ssl.ca.location\", and \
             log.url by a name that stands in their certificates",
        ),
        _ => None,
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        error_line(&error, reason);
        // Only what time does not cure: a broker that is down would overwrite the reason that an operator
        // needs.
        if let Some(remedy) = error.rdkafka_error_code().and_then(remedy) {
            let refusal = Some((Instant::now(), format!("{remedy} ({reason})")));
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.tokens.current()
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    /// Nothing to do: `commit_transaction` fails if a message was not delivered.
    fn delivery(&self, _: &DeliveryResult<'_>, _: ()) {}
}

impl Common for Context {
    fn common(&self) -> &Context {
        self
    }
}

/// Lets a context hand everything to the common one in its field `common`.
macro_rules! share_context {
    ($context:ty) => {
        impl rdkafka::client::ClientContext for $context {
            const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

            fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
                self.common.log(level, facility, message);
            }

            fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
                self.common.error(error, reason);
            }

            fn generate_oauth_token(
                &self,
                config: Option<&str>,
            ) -> Result<rdkafka::client::OAuthToken, Box<dyn std::error::Error>> {
                self.common.generate_oauth_token(config)
            }
        }

        impl $crate::log::kafka::context::Common for $context {
            fn common(&self) -> &$crate::log::kafka::context::Context {
                &self.common
            }
        }
    };
}
pub(super) use share_context;

/// Polls a client that nothing else polls, once, before a request: if it waits for a token, the refresh event is
/// first in its queue. The client must not read a topic, because a record would be dropped here.
pub(super) fn serve<C: ConsumerContext>(client: &BaseConsumer<C>) {
    drop(client.poll(Duration::ZERO));
}

/// Handles every event that is queued for such a client, so that the cause of a failed call is known.
pub(super) fn hear<C: ConsumerContext>(client: &BaseConsumer<C>) {
    while client.poll(HEAR_WAIT).is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_with_its_remedy_by_every_client() {
        let context = Context::default();
        let other = context.clone();
        other.error(KafkaError::Global(Code::AllBrokersDown), "down");
        assert_eq!(context.refusal(), None);
        other.error(KafkaError::Global(Code::Authentication), "bad password");
        assert!(context.refusal().is_some_and(|r| r.contains("sasl.password") && r.contains("(bad password)")));
        other.error(KafkaError::Global(Code::SSL), "unknown issuer");
        assert!(context.refusal().is_some_and(|r| r.contains("ssl.ca.location") && r.contains("(unknown issuer)")));
    }
}
