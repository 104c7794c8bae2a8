//! Where a replay goes, and what is refused because it would harm the installation itself.
//!
//! Pure: arguments and what is known of the installation in, target or refusal out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use sinks::parquet::range::TimeRange;

use crate::config::LogUrl;

/// What the arguments ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Event times.
    pub range: TimeRange,
    /// Database.
    pub database: String,
    /// `--into-log`.
    pub into_log: Option<String>,
    /// `--kafka-namespace`.
    pub namespace: Option<String>,
}

/// What is the installation's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Databases that its loader fills, or that `replay` rebuilds by default.
    pub databases: BTreeSet<String>,
    /// Its log; `None` where the setting is no log.
    pub log: Option<LogUrl>,
    /// Put before its topics.
    pub namespace: String,
    /// Its data directories, resolved as `resolve` does.
    pub data_dirs: BTreeSet<PathBuf>,
}

/// Where a replay goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Into the request's database, dropped first.
    Database,
    /// Into the embedded log of that data directory.
    LocalLog(PathBuf),
    /// Into topics on Kafka.
    KafkaLog {
        /// Brokers.
        bootstrap: String,
        /// Put before every topic.
        namespace: String,
    },
}

/// Why a replay does not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing lies in the range.
    #[error("--from is not before --to: the range is half-open and would be empty")]
    EmptyRange,
    /// Rows outside the range would be gone.
    #[error(
        "a range would leave {0:?} with these rows only and drop all others: name a database of its own with --database"
    )]
    OwnDatabase(String),
    /// Neither form of a log.
    #[error(
        "--into-log must be kafka://HOST:PORT[,HOST:PORT] or local:DIR, the embedded log of another data directory"
    )]
    NoLog,
    /// The embedded log cannot be shared.
    #[error("--kafka-namespace is for topics on Kafka: leave it out, another directory is another log")]
    LocalNamespace,
    /// Topic names take letters, digits and `.`, `_`, `-`.
    #[error("--kafka-namespace may hold at most 100 letters, digits, '.', '_' and '-'")]
    BadNamespace,
    /// Production would process the past a second time.
    #[error(
        "this is the installation's own log, whose stages would take the past for news: name another --kafka-namespace or \
         another --into-log"
    )]
    OwnLog,
}

/// Decides where a replay goes. `resolve` makes a directory's path comparable.
///
/// # Errors
/// [`Refusal`]: nothing has been touched.
pub fn plan(request: &Request, own: &Own, resolve: impl Fn(PathBuf) -> PathBuf) -> Result<Target, Refusal> {
    let TimeRange { first, next } = request.range;
    if first.zip(next).is_some_and(|(first, next)| first >= next) {
        return Err(Refusal::EmptyRange);
    }
    if request.into_log.is_none() && request.namespace.is_none() {
        return match own.databases.contains(&request.database) && !request.range.is_all() {
            true => Err(Refusal::OwnDatabase(request.database.clone())),
            false => Ok(Target::Database),
        };
    }
    if let Some(dir) = request.into_log.as_deref().and_then(|url| url.strip_prefix("local:")) {
        return local(dir, request, own, resolve);
    }
    let bootstrap = match (&request.into_log, &own.log) {
        (Some(url), _) => url.strip_prefix("kafka://").filter(|hosts| !hosts.is_empty()).ok_or(Refusal::NoLog)?,
        (None, Some(LogUrl::Kafka(hosts))) => hosts,
        (None, _) => return Err(Refusal::NoLog),
    };
    let namespace = request.namespace.clone().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if namespace.len() > 100 || !namespace.chars().all(is_plain) {
        return Err(Refusal::BadNamespace);
    }
    // One broker in common is one cluster. What this cannot see, a topic that is not empty shows.
    let shares_broker =
        matches!(&own.log, Some(LogUrl::Kafka(hosts)) if hosts_of(hosts).any(|h| hosts_of(bootstrap).any(|o| o == h)));
    match shares_broker && namespace == own.namespace {
        true => Err(Refusal::OwnLog),
        false => Ok(Target::KafkaLog { bootstrap: bootstrap.to_owned(), namespace }),
    }
}

fn local(dir: &str, request: &Request, own: &Own, resolve: impl Fn(PathBuf) -> PathBuf) -> Result<Target, Refusal> {
    if dir.is_empty() {
        return Err(Refusal::NoLog);
    }
    if request.namespace.is_some() {
        return Err(Refusal::LocalNamespace);
    }
    let dir = PathBuf::from(dir);
    match own.data_dirs.contains(&resolve(dir.clone())) {
        true => Err(Refusal::OwnLog),
        false => Ok(Target::LocalLog(dir)),
    }
}

fn hosts_of(bootstrap: &str) -> impl Iterator<Item = &str> {
    bootstrap.split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use schemas::time::TimestampMicros;

    use super::*;

    fn own() -> Own {
        Own {
            databases: ["custody".to_owned(), "prod".to_owned()].into(),
            log: Some(LogUrl::Kafka("a:9092,b:9092".to_owned())),
            namespace: "live.".to_owned(),
            data_dirs: ["/data".into()].into(),
        }
    }

    fn range(first: Option<i64>, next: Option<i64>) -> TimeRange {
        TimeRange { first: first.map(TimestampMicros), next: next.map(TimestampMicros) }
    }

    fn check(own: &Own, request: &Request, expected: Result<Target, Refusal>) {
        // A path with a dot names the same directory.
        let resolve = |dir: PathBuf| PathBuf::from(dir.to_string_lossy().replace("/.", ""));
        assert_eq!(plan(request, own, resolve), expected, "{request:?}");
    }

    #[test]
    fn a_range_never_replaces_the_installations_own_database() {
        let check = |range: TimeRange, database: &str, expected: Result<Target, Refusal>| {
            check(&own(), &Request { range, database: database.to_owned(), ..Request::default() }, expected);
        };
        let refused = |name: &str| Err(Refusal::OwnDatabase(name.to_owned()));
        check(range(None, None), "custody", Ok(Target::Database));
        check(range(None, None), "side", Ok(Target::Database));
        check(range(Some(1), None), "custody", refused("custody"));
        check(range(None, Some(1)), "prod", refused("prod"));
        check(range(Some(1), Some(2)), "side", Ok(Target::Database));
        check(range(Some(2), Some(2)), "side", Err(Refusal::EmptyRange));
        check(range(Some(2), Some(1)), "custody", Err(Refusal::EmptyRange));
    }

    #[test]
    fn a_log_that_is_the_installations_own_is_refused() {
        let request = |url: Option<&str>, namespace: Option<&str>| Request {
            into_log: url.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            ..Request::default()
        };
        let check_on = |own: &Own, url, namespace, expected| check(own, &request(url, namespace), expected);
        let kafka = |bootstrap: &str, namespace: &str| {
            Ok(Target::KafkaLog { bootstrap: bootstrap.to_owned(), namespace: namespace.to_owned() })
        };
        let on_kafka = own();
        let table = [
            (None, Some("past."), kafka("a:9092,b:9092", "past.")),
            (None, Some("live."), Err(Refusal::OwnLog)),
            (Some("kafka://b:9092"), Some("live."), Err(Refusal::OwnLog)),
            (Some("kafka://c:9092, b:9092"), Some("live."), Err(Refusal::OwnLog)),
            (Some("kafka://b:9092"), None, kafka("b:9092", "")),
            (Some("kafka://c:9092"), Some("live."), kafka("c:9092", "live.")),
            (Some("kafka://"), None, Err(Refusal::NoLog)),
            (Some("local"), None, Err(Refusal::NoLog)),
            (Some("local:"), None, Err(Refusal::NoLog)),
            (Some("a:9092"), None, Err(Refusal::NoLog)),
            (Some("local:/other"), None, Ok(Target::LocalLog("/other".into()))),
            (Some("local:/data"), None, Err(Refusal::OwnLog)),
            (Some("local:/data/."), None, Err(Refusal::OwnLog)),
            (Some("local:/other"), Some("past."), Err(Refusal::LocalNamespace)),
            (Some("kafka://c:9092"), Some("a/b"), Err(Refusal::BadNamespace)),
        ];
        for (url, namespace, expected) in table {
            check_on(&on_kafka, url, namespace, expected);
        }
        let embedded = Own { log: Some(LogUrl::Local), namespace: String::new(), ..own() };
        check_on(&embedded, None, Some("past."), Err(Refusal::NoLog));
        check_on(&embedded, Some("kafka://a:9092"), None, kafka("a:9092", ""));
    }

    #[test]
    fn a_refusal_names_the_remedy() {
        let refusals = [
            (Refusal::OwnDatabase("custody".to_owned()), "--database"),
            (Refusal::NoLog, "kafka://"),
            (Refusal::OwnLog, "--kafka-namespace"),
        ];
        refusals.iter().for_each(|(refusal, part)| assert!(refusal.to_string().contains(part), "{refusal}"));
    }
}
