//! OAUTHBEARER: the token that a file holds, such as a projected service-account token.
//!
//! librdkafka asks for one when a client starts and at four fifths of its lifetime, and the file is read again
//! each time. The brokers check a token's signature; only the claims that librdkafka needs are read here: `exp`
//! and `sub` (RFC 7519). No message contains any part of a token.

use std::error::Error;
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::bindings::rd_kafka_oauthbearer_set_token;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::types::RDKafkaRespErr;
use schemas::time::TimestampMicros;
use serde::Deserialize;

/// A file with the token of the mechanism OAUTHBEARER.
#[derive(Debug, Clone)]
pub struct TokenFile {
    /// The file: a JSON Web Token that names `sub` and `exp`.
    pub path: PathBuf,
    /// What tells whether a token has ended.
    pub clock: fn() -> TimestampMicros,
}

/// Where tokens come from; shared by every client of a broker.
#[derive(Debug, Clone, Default)]
pub(super) struct Tokens(Option<Arc<TokenFile>>);

/// What is read of a token's payload.
#[derive(Deserialize)]
struct Claims {
    /// Subject.
    sub: Option<String>,
    /// Expiry, seconds since the epoch, perhaps with a fraction.
    exp: Option<f64>,
}

impl Tokens {
    pub(super) fn new(file: Option<TokenFile>) -> Self {
        Self(file.map(Arc::new))
    }

    /// The token that the file holds now.
    ///
    /// # Errors
    /// Why there is none, with file and remedy.
    pub(super) fn current(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let Some(TokenFile { path, clock }) = self.0.as_deref() else {
            return Err(
                "sasl.mechanism is OAUTHBEARER: name the file that holds the token in log.oauth_token_file".into()
            );
        };
        let refuse = |why: &dyn std::fmt::Display| format!("log.oauth_token_file {}: {why}", path.display());
        // Read each time: a projected token is replaced on disk long before it expires.
        let text = std::fs::read_to_string(path).map_err(|e| refuse(&format!("cannot read it: {e}")))?;
        Ok(token(text.trim(), clock().ms()).map_err(|why| refuse(&why))?)
    }

    /// Whether a token file is configured.
    pub(super) fn are_used(&self) -> bool {
        self.0.is_some()
    }
}

/// A JSON Web Token in its compact form, as librdkafka expects it.
fn token(text: &str, now_ms: i64) -> Result<OAuthToken, &'static str> {
    const FORM: &str = "it holds no JSON Web Token (three parts joined by dots): write one there";
    let mut parts = text.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(FORM);
    };
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).map_err(|_| FORM)?;
    let Claims { sub, exp } = serde_json::from_slice(&payload).map_err(|_| FORM)?;
    let principal_name = sub.ok_or("its token has no subject: have it issued with the claim sub")?;
    let exp = exp.ok_or("its token has no expiry: have it issued with the claim exp")?;
    let lifetime_ms = (exp * 1_000.0) as i64;
    // librdkafka would take it and the brokers refuse it, which shows only as a connection that fails.
    if lifetime_ms <= now_ms {
        return Err("its token has expired: have whatever writes the file renew it, or set this machine's clock");
    }
    Ok(OAuthToken { token: text.to_owned(), principal_name, lifetime_ms })
}

/// Sets a client's token directly, where nothing serves the queue on which librdkafka asks for one: `rdkafka` serves
/// none for admin clients, and inside a callback the calling thread cannot poll.
///
/// # Errors
/// As [`Tokens::current`], or what librdkafka has against the token.
#[allow(unsafe_code, reason = "rdkafka offers this call of librdkafka through events only")]
pub(super) fn give<C: ClientContext>(client: &Client<C>, tokens: &Tokens) -> Result<(), Box<dyn Error>> {
    let OAuthToken { token, principal_name, lifetime_ms } = tokens.current()?;
    let (token, principal) = (CString::new(token)?, CString::new(principal_name)?);
    let mut why = [0_u8; 512];
    // SAFETY: the client lives as long as its borrow; both strings end in NUL and are copied by librdkafka,
    // which writes at most the given length of `why`, NUL included; no extensions are passed.
    let code = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            token.as_ptr(),
            lifetime_ms,
            principal.as_ptr(),
            std::ptr::null_mut(),
            0,
            why.as_mut_ptr().cast(),
            why.len(),
        )
    };
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    let why = String::from_utf8_lossy(why.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    Err(format!("librdkafka refuses the token: {why}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(payload: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn a_token_tells_its_subject_and_its_end() {
        let check = |payload: &str, expected: Result<(&str, i64), &str>| {
            let found = token(&jwt(payload), 5_000);
            let found = found.as_ref().map(|t| (t.principal_name.as_str(), t.lifetime_ms)).map_err(|e| *e);
            match (found, expected) {
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{payload}: {found}"),
                (found, expected) => assert_eq!(found, expected, "{payload}"),
            }
        };
        check(r#"{"sub":"system:serviceaccount:a:b","exp":6,"aud":["k"]}"#, Ok(("system:serviceaccount:a:b", 6_000)));
        check(r#"{"sub":"a","exp":6.5}"#, Ok(("a", 6_500)));
        check(r#"{"sub":"a","exp":5}"#, Err("renew"));
        check(r#"{"sub":"a"}"#, Err("exp"));
        check(r#"{"exp":6}"#, Err("sub"));
        check(r#"{"sub":"a","exp":"6"}"#, Err("no JSON Web Token"));
        check("[]", Err("no JSON Web Token"));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let check = |text: &str| assert!(token(text, 0).is_err_and(|e| e.contains("no JSON Web Token")), "{text}");
        check("");
        check("hunter2");
        check("a.b");
        check("e30.###.");
        check("e30.e30.e30.e30");
    }

    #[test]
    fn an_unsigned_token_and_a_padded_one_are_tokens() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"sub":"a","exp":9}"#);
        for text in [format!("e30.{payload}."), format!("e30.{payload}==.")] {
            assert_eq!(token(&text, 0).unwrap().token, text);
        }
    }

    #[test]
    fn the_file_is_read_every_time_and_named_in_errors_without_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let tokens = Tokens::new(Some(TokenFile { path: path.clone(), clock: || TimestampMicros::from_ms(1) }));
        let absent = tokens.current().map(drop).unwrap_err().to_string();
        assert!(absent.contains("log.oauth_token_file") && absent.contains(path.to_str().unwrap()), "{absent}");
        std::fs::write(&path, "hunter2").unwrap();
        let wrong = tokens.current().map(drop).unwrap_err().to_string();
        assert!(wrong.contains(path.to_str().unwrap()) && !wrong.contains("hunter2"), "{wrong}");
        for subject in ["a", "b"] {
            std::fs::write(&path, jwt(&format!(r#"{{"sub":"{subject}","exp":1}}"#)) + "\n").unwrap();
            assert_eq!(tokens.current().unwrap().principal_name, subject);
        }
    }

    #[test]
    fn without_a_file_its_setting_is_named() {
        assert!(Tokens::default().current().map(drop).unwrap_err().to_string().contains("log.oauth_token_file"));
    }
}
