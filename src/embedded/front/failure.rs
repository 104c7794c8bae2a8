//! A failed request in ClickHouse's words: `Code: N. DB::Exception: … (NAME)` and the HTTP status that belongs to it.
//!
//! The status table is that of ClickHouse's `exceptionCodeToHTTPStatus`; codes are those of its `ErrorCodes`.

use std::io;

use axum::http::StatusCode;

use crate::embedded::chdb::EngineError;

/// Exceptions that the front itself raises: ClickHouse's number and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    CannotReadAllData = 33,
    BadArguments = 36,
    TooLargeSizeCompressed = 39,
    ChecksumDoesntMatch = 40,
    NotImplemented = 48,
    SyntaxError = 62,
    UnknownCompressionMethod = 89,
    Readonly = 164,
    NetworkError = 210,
    QueryIsTooLarge = 229,
    CannotDecompress = 271,
    SessionNotFound = 372,
    SessionIsLocked = 373,
    InvalidSessionTimeout = 374,
    AccessDenied = 497,
    AuthenticationFailed = 516,
    UnknownException = 1002,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Self::CannotReadAllData => "CANNOT_READ_ALL_DATA",
            Self::BadArguments => "BAD_ARGUMENTS",
            Self::TooLargeSizeCompressed => "TOO_LARGE_SIZE_COMPRESSED",
            Self::ChecksumDoesntMatch => "CHECKSUM_DOESNT_MATCH",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::UnknownCompressionMethod => "UNKNOWN_COMPRESSION_METHOD",
            Self::Readonly => "READONLY",
            Self::NetworkError => "NETWORK_ERROR",
            Self::QueryIsTooLarge => "QUERY_IS_TOO_LARGE",
            Self::CannotDecompress => "CANNOT_DECOMPRESS",
            Self::SessionNotFound => "SESSION_NOT_FOUND",
            Self::SessionIsLocked => "SESSION_IS_LOCKED",
            Self::InvalidSessionTimeout => "INVALID_SESSION_TIMEOUT",
            Self::AccessDenied => "ACCESS_DENIED",
            Self::AuthenticationFailed => "AUTHENTICATION_FAILED",
            Self::UnknownException => "UNKNOWN_EXCEPTION",
        }
    }
}

/// Why a request failed; displays as the body of the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    /// ClickHouse's error number.
    pub(crate) code: u32,
    /// The whole message, `Code: N. DB::Exception: …`, without line end.
    pub(crate) text: String,
}

impl Failure {
    /// An exception of the front itself.
    pub(crate) fn new(code: Code, message: impl std::fmt::Display) -> Self {
        let (number, name) = (code as u32, code.name());
        Self { code: number, text: format!("Code: {number}. DB::Exception: {message}. ({name})") }
    }

    /// The HTTP status that ClickHouse gives this error.
    pub(crate) fn status(&self) -> StatusCode {
        match self.code {
            194 => StatusCode::UNAUTHORIZED,
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            6 | 8 | 15 | 25 | 26 | 27 | 36 | 37 | 38 | 41 | 44 | 53 | 62 | 72 | 117 | 123 | 167 | 168 | 223 | 321
            | 376 | 427 | 441 | 675 | 676 => StatusCode::BAD_REQUEST,
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => StatusCode::NOT_FOUND,
            229 => StatusCode::PAYLOAD_TOO_LARGE,
            48 => StatusCode::NOT_IMPLEMENTED,
            76 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            381 => StatusCode::LENGTH_REQUIRED,
            159 => StatusCode::REQUEST_TIMEOUT,
            779 => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Finds the failure that a reader of the body wrapped, else calls it undecodable.
    pub(crate) fn from_body(error: io::Error) -> Self {
        let message = error.to_string();
        let wrapped = error.into_inner().and_then(|inner| inner.downcast::<Self>().ok());
        wrapped.map_or_else(|| Self::new(Code::CannotDecompress, format!("request body: {message}")), |f| *f)
    }
}

impl From<EngineError> for Failure {
    fn from(EngineError(text): EngineError) -> Self {
        let number = text.strip_prefix("Code: ").and_then(|rest| rest.split('.').next());
        match number.and_then(|digits| digits.parse().ok()) {
            Some(code) => Self { code, text: text.trim_end().to_owned() },
            None => Self::new(Code::UnknownException, text.trim_end()),
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::other(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_message_keeps_its_code_and_gets_its_status() {
        let check = |text: &str, code, status| {
            let failure = Failure::from(EngineError(text.into()));
            assert_eq!((failure.code, failure.status().as_u16()), (code, status), "{text}");
            assert!(failure.text.starts_with(&format!("Code: {code}. DB::Exception: ")), "{}", failure.text);
        };
        check("Code: 62. DB::Exception: Syntax error (SYNTAX_ERROR)\n", 62, 400);
        check("Code: 60. DB::Exception: no table (UNKNOWN_TABLE)", 60, 404);
        check("Code: 241. DB::Exception: memory (MEMORY_LIMIT_EXCEEDED)", 241, 500);
        check("something else", 1002, 500);
        check("Code: many", 1002, 500);
    }

    #[test]
    fn a_failure_survives_the_way_through_a_reader() {
        let failure = Failure::new(Code::ChecksumDoesntMatch, "block 3");
        assert_eq!(Failure::from_body(failure.clone().into()), failure);
        assert_eq!(failure.text, "Code: 40. DB::Exception: block 3. (CHECKSUM_DOESNT_MATCH)");
        assert_eq!(Failure::from_body(io::Error::from(io::ErrorKind::InvalidData)).code, 271);
    }
}
