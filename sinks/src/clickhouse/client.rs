//! ClickHouse over HTTP: the one file that names its client crate (invariant I3).
//!
//! Three operations: run a statement, read rows as JSON, insert one batch of RowBinary bytes. It
//! never uses the crate's `Inserter`, which loses its rows on an error. It does not retry: an error
//! says whether the caller may, and the caller keeps the batch until it is acknowledged.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clickhouse::error::Error;
use clickhouse::{Client, Compression};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

use super::transport;
use crate::error::{ErrorClass, SinkError};

/// Where ClickHouse is and how long an answer may take.
#[derive(Clone, PartialEq, Eq)]
pub struct ClickHouseConfig {
    /// `http://host:port` or `https://host:port`.
    pub url: String,
    /// Database; letters, digits and `_`.
    pub database: String,
    /// User; empty for the server's default.
    pub user: String,
    /// Password.
    pub password: String,
    /// Certificate authorities beside the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Longest time of a whole request, from the first byte sent to the last byte read, milliseconds.
    pub request_timeout_ms: u64,
}

impl Default for ClickHouseConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8123".to_owned(),
            database: "custody".to_owned(),
            user: String::new(),
            password: String::new(),
            ca_file: None,
            request_timeout_ms: 60_000,
        }
    }
}

impl std::fmt::Debug for ClickHouseConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { url, database, user, ca_file, request_timeout_ms, .. } = self;
        f.debug_struct("ClickHouseConfig")
            .field("url", url)
            .field("database", database)
            .field("user", user)
            .field("ca_file", ca_file)
            .field("request_timeout_ms", request_timeout_ms)
            .finish_non_exhaustive()
    }
}

/// A connection pool to one database.
#[derive(Clone)]
pub struct ClickHouse {
    client: Client,
    database: String,
    request_timeout: Duration,
}

impl std::fmt::Debug for ClickHouse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClickHouse").field("database", &self.database).finish_non_exhaustive()
    }
}

impl ClickHouse {
    /// Prepares the client; connects at the first request.
    ///
    /// # Errors
    /// [`ErrorClass::Config`]: the database name is not a plain identifier, or `ca_file` cannot be used.
    pub fn new(config: &ClickHouseConfig) -> Result<Self, SinkError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if config.database.is_empty() || !config.database.chars().all(is_plain) {
            let message = "the database name may hold letters, digits and _ only";
            return Err(SinkError::new(ErrorClass::Config, format!("database {:?}", config.database), message));
        }
        let connector = transport::connector(&config.url, config.ca_file.as_deref())?;
        let http =
            HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(transport::IDLE_TIMEOUT).build(connector);
        let mut client = Client::with_http_client(http).with_url(&config.url).with_compression(Compression::Lz4);
        if !config.user.is_empty() {
            client = client.with_user(&config.user).with_password(&config.password);
        }
        let request_timeout = Duration::from_millis(config.request_timeout_ms);
        Ok(Self { client, database: config.database.clone(), request_timeout })
    }

    /// The database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Runs a statement outside any database: names in it are qualified.
    ///
    /// # Errors
    /// Classified by [`class_of`].
    pub async fn execute(&self, sql: &str) -> Result<(), SinkError> {
        self.bounded(sql, self.client.query_raw(sql).execute()).await
    }

    /// Rows of a query, each read from a JSON object; 64-bit integers arrive as numbers.
    ///
    /// # Errors
    /// As [`ClickHouse::execute`]; [`ErrorClass::Data`] if a row has another shape.
    pub async fn rows<T: DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>, SinkError> {
        let query = self.client.query_raw(sql).with_setting("output_format_json_quote_64bit_integers", "0");
        let read = async { query.fetch_bytes("JSONEachRow")?.collect().await };
        let bytes: Bytes = self.bounded(sql, read).await?;
        let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line))
            .collect::<Result<_, _>>()
            .map_err(|error| SinkError::new(ErrorClass::Data, summary(sql), error))
    }

    /// The answer to one statement as the server formats it; `default_format` where the statement
    /// names none. Names in it may leave the database out.
    ///
    /// # Errors
    /// As [`ClickHouse::execute`].
    pub async fn text(&self, sql: &str, default_format: &str) -> Result<Bytes, SinkError> {
        let (statement, format) = split_format(sql).unwrap_or((sql, default_format));
        let query = self.client.clone().with_database(&self.database).query_raw(statement);
        let read = async { query.fetch_bytes(format)?.collect().await };
        self.bounded(sql, read).await
    }

    /// Inserts one batch of RowBinary rows. Inserting it again under the same token, within the
    /// table's deduplication window, adds nothing.
    ///
    /// # Errors
    /// As [`ClickHouse::execute`]. After [`ErrorClass::Retry`] the outcome is unknown: repeat the
    /// same bytes under the same token.
    pub async fn insert(&self, insert: &Insert<'_>) -> Result<(), SinkError> {
        let Insert { table, columns, token, body } = *insert;
        let sql = format!("INSERT INTO {}.{table} ({columns}) FORMAT RowBinary", self.database);
        let mut request = self
            .client
            .insert_formatted_with(sql)
            .with_setting("insert_deduplication_token", token)
            .with_setting("insert_deduplicate", "1")
            .with_setting("async_insert", "0")
            .with_setting("wait_end_of_query", "1");
        let send = async {
            for chunk in body {
                request.send(chunk.clone()).await?;
            }
            request.end().await
        };
        self.bounded(&format!("insert {token}"), send).await
    }

    /// Bounds the *whole* request: per-read timeouts let a server that trickles hold a loader for ever.
    async fn bounded<T>(
        &self,
        what: &str,
        request: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T, SinkError> {
        match tokio::time::timeout(self.request_timeout, request).await {
            Ok(outcome) => outcome.map_err(|error| classified(what, &error)),
            Err(_) => {
                let message = format!("no answer within {} ms", self.request_timeout.as_millis());
                Err(SinkError::new(ErrorClass::Retry, summary(what), message))
            }
        }
    }
}

/// One batch on its way.
#[derive(Debug, Clone, Copy)]
pub struct Insert<'a> {
    /// Table.
    pub table: &'a str,
    /// Columns, comma-separated, in the order of the bytes.
    pub columns: &'a str,
    /// Deduplication token: names table and exact range.
    pub token: &'a str,
    /// RowBinary rows, in chunks of about a megabyte.
    pub body: &'a [Bytes],
}

/// A statement that ends in `FORMAT x`, as what comes before it and `x`.
fn split_format(sql: &str) -> Option<(&str, &str)> {
    let sql = sql.trim().trim_end_matches(';').trim_end();
    let (head, format) = sql.rsplit_once(char::is_whitespace)?;
    let head = head.trim_end();
    let keyword = head.get(head.len().checked_sub(6)?..)?;
    let is_format = keyword.eq_ignore_ascii_case("FORMAT") && format.chars().all(|c| c.is_ascii_alphanumeric());
    is_format.then(|| (head[..head.len() - 6].trim_end(), format))
}

fn classified(what: &str, error: &Error) -> SinkError {
    let message = chain(error);
    if let Some(remedy) = transport::remedy(&message) {
        return SinkError::new(ErrorClass::Config, summary(what), format!("{remedy}: {message}"));
    }
    let class = match error {
        Error::BadResponse(text) => class_of(text),
        Error::Network(_) | Error::TimedOut => ErrorClass::Retry,
        Error::InvalidParams(_) | Error::Unsupported(_) => ErrorClass::Config,
        Error::Decompression(_) | Error::NotEnoughData | Error::Other(_) => ErrorClass::Retry,
        _ => ErrorClass::Data,
    };
    SinkError::new(class, summary(what), message)
}

/// An error with everything that caused it: what TLS has against a server is told below the client's own.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let further = error.to_string();
        if !text.contains(&further) {
            text.push_str(": ");
            text.push_str(&further);
        }
        cause = error.source();
    }
    text
}

/// First line of a statement, short enough for a log line.
fn summary(sql: &str) -> String {
    sql.lines().next().unwrap_or_default().chars().take(120).collect()
}

/// What to do about ClickHouse's answer `Code: N. DB::Exception: …`.
///
/// | class | codes |
/// |---|---|
/// | `Config` | 16, 36, 47, 48, 60, 81, 115, 192–194, 291, 478, 497, 516: names, settings, rights |
/// | `Data` | 6, 26–27, 32–33, 38, 41, 53, 70, 117, 131, 349: what we sent does not fit the table |
/// | `Retry` | everything else, and answers without a code (a proxy's): the batch is safe with us |
pub fn class_of(response: &str) -> ErrorClass {
    let code = response.split("Code: ").nth(1).and_then(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    });
    match code {
        Some(16 | 36 | 47 | 48 | 60 | 81 | 115 | 192..=194 | 291 | 478 | 497 | 516) => ErrorClass::Config,
        Some(6 | 26 | 27 | 32 | 33 | 38 | 41 | 53 | 70 | 117 | 131 | 349) => ErrorClass::Data,
        _ => ErrorClass::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_to_do() {
        let check = |response: &str, expected| assert_eq!(class_of(response), expected, "{response}");
        check("Code: 60. DB::Exception: Table custody.events does not exist. (UNKNOWN_TABLE)", ErrorClass::Config);
        check("Code: 516. DB::Exception: default: Authentication failed", ErrorClass::Config);
        check("Code: 497. DB::Exception: loader: Not enough privileges", ErrorClass::Config);
        check("Code: 33. DB::Exception: Cannot read all data", ErrorClass::Data);
        check("Code: 252. DB::Exception: Too many parts (300)", ErrorClass::Retry);
        check("Code: 241. DB::Exception: Memory limit (total) exceeded", ErrorClass::Retry);
        check("Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space", ErrorClass::Retry);
        check("Code: 242. DB::Exception: Table is in readonly mode", ErrorClass::Retry);
        check("<html>502 Bad Gateway</html>", ErrorClass::Retry);
        check("Code: ", ErrorClass::Retry);
        check("", ErrorClass::Retry);
    }

    #[test]
    fn a_statement_may_name_its_format() {
        let check = |sql, expected| assert_eq!(split_format(sql), expected, "{sql}");
        check("SELECT 1 FORMAT JSON", Some(("SELECT 1", "JSON")));
        check(" SELECT 1\nformat  CSV ;\n", Some(("SELECT 1", "CSV")));
        check("SELECT 1", None);
        check("SELECT 'a FORMAT b'", None);
        check("SELECT é", None);
        check("", None);
    }

    #[test]
    fn a_database_name_is_a_plain_identifier() {
        let check = |database: &str, is_valid: bool| {
            let config = ClickHouseConfig { database: database.to_owned(), ..ClickHouseConfig::default() };
            assert_eq!(ClickHouse::new(&config).is_ok(), is_valid, "{database:?}");
        };
        check("custody_2", true);
        check("", false);
        check("a b", false);
        check("a;drop", false);
        check("a`", false);
    }

    #[test]
    fn a_password_is_not_printed() {
        let config = ClickHouseConfig { password: "hunter2".to_owned(), ..ClickHouseConfig::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
