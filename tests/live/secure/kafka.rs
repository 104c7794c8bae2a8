//! The log over SASL_SSL: by password, by token, and refused.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use custody::roles::create_topics;
use ingest::log::kafka::{KafkaBroker, KafkaConfig, TokenFile};
use ingest::log::{Appender as _, Broker as _, Log as _, LogEvent, Txn};
use schemas::record::{OutRecord, PartitionId};
use schemas::time::TimestampMicros;
use schemas::topic::Topic;

use super::servers::{Certificates, Server};
use super::{command, configured, doctor};

/// The user that `docker/kafka-local.sh --secure` makes.
const PASSWORD: &str = "custody-on-this-machine-only";
const EVENTS: PartitionId = PartitionId { topic: Topic::Events, partition: 0 };
const STATE: PartitionId = PartitionId { topic: Topic::StatePii, partition: 0 };
/// Life of a token that must be renewed while the log is in use: enough for a slow machine to begin.
const TOKEN_LIFE: Duration = Duration::from_secs(20);

/// librdkafka settings for the secured listener.
fn settings(certificates: &Certificates, mechanism: &[(&str, &str)]) -> Vec<(String, String)> {
    let ca = certificates.path("ca.pem").display().to_string();
    let common = [("security.protocol", "SASL_SSL"), ("ssl.ca.location", ca.as_str())];
    common.iter().chain(mechanism).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn scram(password: &str) -> [(&str, &str); 3] {
    [("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.username", "custody"), ("sasl.password", password)]
}

/// An unsigned token, as Kafka's validator for development takes it.
fn token(life: Duration) -> String {
    let now = custody::clock::now().ms() / 1_000;
    let end = now + i64::try_from(life.as_secs()).unwrap();
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let claims = format!(r#"{{"sub":"custody","iat":{now},"exp":{end}}}"#);
    format!("{}.{}.", part(r#"{"alg":"none"}"#.to_owned()), part(claims))
}

/// The `[log]` section for commands.
fn section(bootstrap: &str, settings: &[(String, String)], more: &str) -> String {
    let settings: Vec<String> = settings.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"\n")).collect();
    format!("[log]\nurl = \"kafka://{bootstrap}\"\npartitions = 1\n{more}[log.librdkafka]\n{}", settings.concat())
}

/// Topics, an append, a step in a transaction, and everything that is asked from outside.
async fn round_trip(config: KafkaConfig) {
    let broker = KafkaBroker::new(config).unwrap();
    create_topics(&broker, 1).await.unwrap();
    let record = |topic| OutRecord {
        topic,
        partition: Some(0),
        timestamp: TimestampMicros::from_ms(1),
        key: None,
        value: Some(Bytes::from("v")),
        headers: Vec::new(),
    };
    broker.appender().await.unwrap().append(vec![record(Topic::Events)]).await.unwrap();
    let mut log = broker.consumer("g", Topic::Events, "a").await.unwrap();
    let consumed = loop {
        if let LogEvent::Fetched { records, .. } = log.next().await.unwrap() {
            break records.len();
        }
    };
    assert_eq!(consumed, 1);
    let changes = vec![(Bytes::from("k"), Some(Bytes::from("v")))];
    let outputs = vec![record(Topic::Clean)];
    let step = Txn { source: EVENTS, consumed: 0..1, outputs, changes, state_topic: Some(STATE.topic) };
    log.commit(step).await.unwrap();
    assert_eq!(log.restore(STATE).await.unwrap(), [(Bytes::from("k"), Bytes::from("v"))]);
    log.close().await.unwrap();
    let committed = broker.committed("g", EVENTS).await.unwrap();
    assert_eq!(committed.map(|c| c.next), Some(1));
    assert_eq!(broker.read(EVENTS, 0).await.unwrap().0.len(), 1);
    assert_eq!(broker.topic_settings(Topic::Events).await.unwrap().unwrap()["replicas"], "1");
    assert_eq!(broker.broker_settings().await.unwrap().len(), 1);
}

/// The command ends by itself, not with success, and says what helps.
fn assert_refused(arguments: &[&str], config: &Path, remedy: &str) {
    let (code, said) = command(arguments, config);
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {said}");
    assert!(said.contains(remedy), "{remedy} is not in: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_takes_a_password_or_a_token_over_tls_and_says_why_it_is_refused() {
    let certificates = Certificates::make();
    let server = Server::start("kafka-local.sh", &certificates);
    // The plain listener, the controller, and the secured listener.
    let bootstrap = format!("127.0.0.1:{}", server.port + 2);
    let config = |namespace: &str, mechanism: &[(&str, &str)]| KafkaConfig {
        bootstrap: bootstrap.clone(),
        namespace: namespace.to_owned(),
        extra: settings(&certificates, mechanism).into_iter().collect(),
        ..KafkaConfig::default()
    };
    round_trip(config("password.", &scram(PASSWORD))).await;
    let file = |text: &str| configured(certificates.dir(), "custody.toml", text);
    let good = file(&section(&bootstrap, &settings(&certificates, &scram(PASSWORD)), "namespace = \"password.\"\n"));
    let said = doctor(&good);
    assert!(said.contains("ok    log:") && said.contains("ok    topics:"), "{said}");

    let wrong = file(&section(&bootstrap, &settings(&certificates, &scram("wrong")), ""));
    assert_refused(&["doctor"], &wrong, "sasl.password");
    let untrusting: Vec<_> =
        settings(&certificates, &scram(PASSWORD)).into_iter().filter(|(name, _)| name != "ssl.ca.location").collect();
    let untrusting = file(&section(&bootstrap, &untrusting, ""));
    assert_refused(&["topics", "create"], &untrusting, "ssl.ca.location");

    let bearer = [("sasl.mechanism", "OAUTHBEARER")];
    let token_file = configured(certificates.dir(), "token", &token(Duration::from_secs(3_600)));
    let from = TokenFile { path: token_file.clone(), clock: custody::clock::now };
    let by_token = KafkaConfig { oauth_token_file: Some(from), ..config("token.", &bearer) };
    round_trip(by_token.clone()).await;
    renewed(&KafkaConfig { namespace: "password.".to_owned(), ..by_token }, &token_file).await;
    let more = format!("namespace = \"token.\"\noauth_token_file = \"{}\"\n", token_file.display());
    let by_token = file(&section(&bootstrap, &settings(&certificates, &bearer), &more));
    let (code, said) = command(&["topics", "check"], &by_token);
    assert_eq!(code, Some(0), "{said}");
    std::fs::write(&token_file, token(Duration::ZERO)).unwrap();
    assert_refused(&["doctor"], &by_token, "its token has expired");
    std::fs::remove_file(&token_file).unwrap();
    assert_refused(&["topics", "check"], &by_token, "log.oauth_token_file");
}

/// A token that ends is replaced by the one that the file holds by then, and nobody notices: the brokers
/// close a connection whose token has ended.
async fn renewed(config: &KafkaConfig, token_file: &Path) {
    std::fs::write(token_file, token(TOKEN_LIFE)).unwrap();
    let end = Instant::now() + TOKEN_LIFE + Duration::from_secs(2);
    let broker = KafkaBroker::new(config.clone()).unwrap();
    broker.bounds(EVENTS).await.unwrap();
    std::fs::write(token_file, token(Duration::from_secs(3_600))).unwrap();
    while Instant::now() < end {
        broker.bounds(EVENTS).await.unwrap();
        broker.committed("g", EVENTS).await.unwrap();
    }
}
