//! What an object store's error means for the caller.
//!
//! The library names the status of a refusal by the variant of its error, and S3's own code only in
//! the text; both are read here and nowhere else. What is not known is repeated: an outage must never
//! be taken for a wrong configuration.

use std::error::Error as _;

use object_store::Error;

use crate::error::{ErrorClass, SinkError};

/// Texts of refusals that time does not cure, with what to change.
const REMEDIES: &[(&str, &str)] = &[
    ("RequestTimeTooSkewed", "set this machine's clock"),
    ("InvalidAccessKeyId", "correct [store] access_key_id"),
    ("SignatureDoesNotMatch", "correct [store] secret_access_key"),
    ("AuthorizationHeaderMalformed", "set [store] region to the bucket's region"),
    ("IllegalLocationConstraint", "set [store] region to the bucket's region"),
    ("redirect without LOCATION", "set [store] region to the bucket's region, or endpoint to its server"),
    ("NoSuchBucket", "create the bucket, or correct [store] url"),
    ("InvalidBucketName", "correct [store] url"),
    ("<Code>InvalidRequest<", "the server does not take this kind of request"),
    ("EntityTooLarge", "lower [archive] file_bytes_max"),
    ("invalid peer certificate", "name the server's certificate authority in [store] ca_file"),
];

/// The remedy for a refusal by permission alone.
const PERMISSIONS: &str = "grant these credentials s3:ListBucket, s3:GetObject and s3:PutObject on the bucket";

/// Classifies an error of `operation` on `key`.
pub(super) fn failed(operation: &str, key: &str, error: &Error) -> SinkError {
    let (class, remedy) = judge(error);
    let text = chain(error);
    let message = match remedy {
        Some(remedy) => format!("{remedy}: {text}"),
        None => text,
    };
    SinkError::new(class, format!("{operation} {key}"), message)
}

/// Whether a `get` may take this for "there is no such object": not if the bucket is missing.
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) && !chain(error).contains("NoSuchBucket")
}

/// Class and remedy.
fn judge(error: &Error) -> (ErrorClass, Option<&'static str>) {
    let text = chain(error);
    if let Some((_, remedy)) = REMEDIES.iter().find(|(part, _)| text.contains(part)) {
        return (ErrorClass::Config, Some(remedy));
    }
    match error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => (ErrorClass::Config, Some(PERMISSIONS)),
        // `get` asks `is_absent` first; for the other operations it is the bucket that is missing.
        Error::NotFound { .. } => (ErrorClass::Config, Some("create the bucket, or correct [store] url and endpoint")),
        Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => (ErrorClass::Config, None),
        _ => (ErrorClass::Retry, None),
    }
}

/// The error and its causes, each once: the library's own text leaves out why a connection failed.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_and_configuration_stop_and_everything_else_is_repeated() {
        let generic = |text: &str| Error::Generic { store: "S3", source: text.to_owned().into() };
        let path = || "a".to_owned();
        let check = |error: Error, class: ErrorClass, remedy: &str| {
            let found = failed("put", "a", &error);
            assert_eq!(found.class, class, "{found}");
            assert!(found.message.contains(remedy), "{found}");
        };
        let denied = |text: &str| Error::PermissionDenied { path: path(), source: text.to_owned().into() };
        check(denied("AccessDenied"), ErrorClass::Config, "s3:PutObject");
        check(denied("<Code>RequestTimeTooSkewed</Code>"), ErrorClass::Config, "clock");
        check(denied("<Code>SignatureDoesNotMatch</Code>"), ErrorClass::Config, "secret_access_key");
        check(Error::Unauthenticated { path: path(), source: "".into() }, ErrorClass::Config, "credentials");
        check(Error::NotFound { path: path(), source: "".into() }, ErrorClass::Config, "create the bucket");
        check(generic("redirect without LOCATION"), ErrorClass::Config, "region");
        check(generic("400: <Code>AuthorizationHeaderMalformed</Code>"), ErrorClass::Config, "region");
        check(generic("invalid peer certificate: UnknownIssuer"), ErrorClass::Config, "ca_file");
        check(generic("400: <Code>RequestTimeout</Code>"), ErrorClass::Retry, "RequestTimeout");
        check(generic("503: <Code>SlowDown</Code>"), ErrorClass::Retry, "SlowDown");
        check(generic("operation timed out"), ErrorClass::Retry, "timed out");
        check(generic("connection refused"), ErrorClass::Retry, "refused");
    }

    #[test]
    fn a_missing_bucket_is_not_an_absent_object() {
        let missing = |text: &str| Error::NotFound { path: "a".to_owned(), source: text.to_owned().into() };
        assert!(is_absent(&missing("<Code>NoSuchKey</Code>")));
        assert!(!is_absent(&missing("<Code>NoSuchBucket</Code>")));
        assert!(!is_absent(&Error::Generic { store: "S3", source: "x".into() }));
    }
}
