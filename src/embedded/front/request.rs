//! What one HTTP request asks for, taken from its line and headers: statement, format, database, parameters, settings,
//! session. Pure; the body is read elsewhere.
//!
//! Names in the query string that are neither protocol nor `param_*` are settings, as in ClickHouse.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderMap, Method, Uri, header};
use percent_encoding::percent_decode_str;

use super::compress::Encoding;
use super::failure::{Code, Failure};

/// Protocol names that the front has no use for: they change nothing that a client could observe here, or ask for
/// progress that is not sent.
const WITHOUT_EFFECT: [&str; 11] = [
    "http_zlib_compression_level",
    "buffer_size",
    "quota_key",
    "stacktrace",
    "send_progress_in_http_headers",
    "http_headers_progress_interval_ms",
    "cancel_http_readonly_queries_on_client_close",
    "add_http_cors_header",
    "role",
    "client_protocol_version",
    "query_placeholder",
];
const SESSION_TIMEOUT_S: u64 = 60;
/// ClickHouse's `max_session_timeout`.
const SESSION_TIMEOUT_S_MAX: u64 = 3600;

/// A named session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// `session_id`.
    pub(crate) id: String,
    /// How long it is kept after its last statement.
    pub(crate) timeout: Duration,
    /// `session_check=1`: fail if it does not exist yet.
    pub(crate) must_exist: bool,
}

/// One request without its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// `query`: the statement or its beginning. Bytes, because ClickHouse's strings need not be UTF-8.
    pub(crate) query: Vec<u8>,
    /// Echoed in the answer.
    pub(crate) query_id: Option<String>,
    /// Current database.
    pub(crate) database: Option<String>,
    /// Format where the statement names none.
    pub(crate) default_format: Option<String>,
    /// `{name:Type}` parameters without the `param_`.
    pub(crate) params: Vec<(String, String)>,
    /// Settings of this statement.
    pub(crate) settings: BTreeMap<String, String>,
    /// Named session.
    pub(crate) session: Option<Session>,
    /// GET and HEAD may not write.
    pub(crate) readonly: bool,
    /// Body is in native blocks.
    pub(crate) decompress: bool,
    /// Answer in native blocks.
    pub(crate) compress: bool,
    /// Buffer the whole answer, so that a late error still gets its status.
    pub(crate) wait_end_of_query: bool,
    /// `Content-Encoding` of the body.
    pub(crate) content_encoding: Option<Encoding>,
    /// First encoding of `Accept-Encoding` that we know.
    pub(crate) accept_encoding: Option<Encoding>,
}

impl Request {
    /// Reads request line and headers.
    ///
    /// # Errors
    /// Code 36 for a malformed name or value, 516 for a user other than `default`, 48 for an unknown encoding or method.
    pub(crate) fn parse(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Self, Failure> {
        refuse_foreign(method, headers)?;
        let mut request = Self { readonly: method != Method::POST, ..Self::default() };
        request.read_headers(headers)?;
        let (mut session, mut compression) = (SessionArguments::default(), true);
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (text(decode(name))?, decode(value));
            match name.as_str() {
                "query" => request.query = value,
                "enable_http_compression" => compression = value != b"0",
                _ => request.argument(&name, text(value)?, &mut session)?,
            }
        }
        request.accept_encoding.take_if(|_| !compression);
        request.session = session.finish()?;
        Ok(request)
    }

    /// Adds the fields of a form.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub(crate) fn add_fields(&mut self, fields: Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
        for (name, value) in fields {
            match name.as_str() {
                "query" => self.query.extend(value),
                _ => self.argument(&name, text(value)?, &mut SessionArguments::default())?,
            }
        }
        Ok(())
    }

    fn argument(&mut self, name: &str, value: String, session: &mut SessionArguments) -> Result<(), Failure> {
        match name {
            "query_id" => self.query_id = Some(value).filter(|id| !id.is_empty()),
            "database" => self.database = Some(value).filter(|name| !name.is_empty()),
            "default_format" => self.default_format = Some(value).filter(|name| !name.is_empty()),
            "decompress" => self.decompress = value == "1",
            "compress" => self.compress = value == "1",
            "wait_end_of_query" => self.wait_end_of_query = value == "1",
            "user" => only_default_user(&value)?,
            "password" => no_password(&value)?,
            "session_id" => session.id = Some(value).filter(|id| !id.is_empty()),
            "session_timeout" => session.timeout = Some(value),
            "session_check" => session.must_exist = value == "1",
            name if WITHOUT_EFFECT.contains(&name) => {}
            other => match other.strip_prefix("param_") {
                Some(param) => self.params.push((param.to_owned(), value)),
                None => {
                    self.settings.insert(setting_name(name)?, value);
                }
            },
        }
        Ok(())
    }

    fn read_headers(&mut self, headers: &HeaderMap) -> Result<(), Failure> {
        let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.database = value("x-clickhouse-database");
        self.default_format = value("x-clickhouse-format");
        only_default_user(&value("x-clickhouse-user").unwrap_or_default())?;
        no_password(&value("x-clickhouse-key").unwrap_or_default())?;
        // Base64 of `default:`, the only credentials there are.
        if value("authorization").is_some_and(|credentials| credentials != "Basic ZGVmYXVsdDo=") {
            return Err(no_users());
        }
        self.content_encoding = match value(header::CONTENT_ENCODING.as_str()).as_deref() {
            None | Some("" | "identity") => None,
            Some(name) => Some(Encoding::parse(name).ok_or_else(|| {
                Failure::new(
                    Code::NotImplemented,
                    format!("unknown Content-Encoding {name}; use gzip, deflate, zstd or lz4"),
                )
            })?),
        };
        self.accept_encoding = value(header::ACCEPT_ENCODING.as_str()).and_then(|list| Encoding::accepted(&list));
        Ok(())
    }
}

/// The front serves programs on this machine; a browser's page that finds the port is not one.
fn refuse_foreign(method: &Method, headers: &HeaderMap) -> Result<(), Failure> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Failure::new(Code::AccessDenied, "the embedded engine does not answer web pages"));
    }
    match *method {
        Method::GET | Method::HEAD | Method::POST => Ok(()),
        _ => Err(Failure::new(Code::NotImplemented, format!("method {method} is not supported; use POST or GET"))),
    }
}

fn only_default_user(user: &str) -> Result<(), Failure> {
    if user.is_empty() || user == "default" { Ok(()) } else { Err(no_users()) }
}

fn no_password(password: &str) -> Result<(), Failure> {
    if password.is_empty() { Ok(()) } else { Err(no_users()) }
}

fn no_users() -> Failure {
    let message =
        "the embedded engine has one user, `default`, without password; run a ClickHouse server for users and roles";
    Failure::new(Code::AuthenticationFailed, message)
}

/// Setting names go into a `SET` statement unquoted.
fn setting_name(name: &str) -> Result<String, Failure> {
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if starts && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(name.to_owned());
    }
    Err(Failure::new(Code::BadArguments, format!("{name:?} is not the name of a setting")))
}

#[derive(Default)]
struct SessionArguments {
    id: Option<String>,
    timeout: Option<String>,
    must_exist: bool,
}

impl SessionArguments {
    fn finish(self) -> Result<Option<Session>, Failure> {
        let seconds = match self.timeout.map(|text| text.parse::<u64>()) {
            None => SESSION_TIMEOUT_S,
            Some(Ok(seconds)) if seconds <= SESSION_TIMEOUT_S_MAX => seconds,
            Some(_) => {
                let message = format!("session_timeout must be 0 to {SESSION_TIMEOUT_S_MAX} seconds");
                return Err(Failure::new(Code::InvalidSessionTimeout, message));
            }
        };
        let must_exist = self.must_exist;
        Ok(self.id.map(|id| Session { id, timeout: Duration::from_secs(seconds), must_exist }))
    }
}

/// Percent and plus decoding of `application/x-www-form-urlencoded`.
fn decode(text: &str) -> Vec<u8> {
    percent_decode_str(&text.replace('+', " ")).collect()
}

fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Failure::new(Code::BadArguments, format!("{shown:?} is not UTF-8"))
    })
}

#[cfg(test)]
#[path = "request/tests.rs"]
mod tests;
