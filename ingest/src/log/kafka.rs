//! The log on Apache Kafka through librdkafka, which nothing outside this file and its folder names.
//!
//! Intake is idempotent, steps are transactions whose offsets the group's generation fences
//! (KIP-447), consumers read committed records only. The broker keeps time in milliseconds, and takes
//! time 0 for "now". Retrying is the caller's: an error's class says whether to.

mod closing;
mod consumer;
mod context;
mod convert;
mod creation;
mod generation;
mod log;
mod membership;
mod noise;
mod oauth;
mod outside;
mod producer;
mod queue;
mod settings;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use schemas::record::{OutRecord, PartitionId, Record};
use schemas::topic::{Topic, partition_of};

use self::context::{Common, Context, hear, serve};
use self::creation::missing_topics;
use self::log::KafkaLog;
pub use self::membership::GroupProtocol;
pub use self::oauth::TokenFile;
use self::oauth::{Tokens, give};
use self::producer::KafkaAppender;
use super::in_process::name;
use super::{Broker, Committed, ErrorClass, LogError, Successor};

/// Longest wait for one answer of a broker.
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// The longest that the open transaction of a dead predecessor blocks readers of committed records.
const TRANSACTION_TIMEOUT_MS: &str = "15000";
/// Above the largest event with its headers.
const MESSAGE_BYTES_MAX: &str = "8388608";
/// Longest pause between two attempts to reach a broker.
const RECONNECT_MS_MAX: &str = "1000";
/// What librdkafka prefetches in addition to our own queue.
const PREFETCH_KBYTES: &str = "16384";

/// Where the brokers are and how to speak to them.
#[derive(Debug, Clone, Default)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated.
    pub bootstrap: String,
    /// Name of this process in the brokers' logs.
    pub client_id: String,
    /// librdkafka settings over ours: TLS, SASL, tuning.
    pub extra: BTreeMap<String, String>,
    /// Where the token of the mechanism OAUTHBEARER stands; read again whenever one is needed.
    pub oauth_token_file: Option<TokenFile>,
    /// How consumers take part in their groups.
    pub group_protocol: GroupProtocol,
    /// Topic settings over ours, for topics that [`Broker::create_topics`] makes; `replicas` is the
    /// replication factor (the brokers' default without it).
    pub topic: BTreeMap<String, String>,
    /// Put before every topic name, group id and transactional id, so that several installations
    /// can share brokers; usually empty.
    pub namespace: String,
    /// Generation of the topics, from 1 (0 counts as 1): the version in their names on the wire.
    pub generation: u32,
}

/// A broker cluster.
#[derive(Clone)]
pub struct KafkaBroker {
    inner: Arc<Inner>,
}

struct Inner {
    config: KafkaConfig,
    /// For metadata and true high watermarks: reads uncommitted, belongs to no group.
    meta: BaseConsumer<Context>,
    counts: Mutex<BTreeMap<Topic, u32>>,
    askers: outside::Askers,
}

impl fmt::Debug for KafkaBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBroker").field("bootstrap", &self.inner.config.bootstrap).finish_non_exhaustive()
    }
}

/// What the caller does about a code that librdkafka gives no attributes with.
fn class_of(code: Code) -> ErrorClass {
    use Code as C;
    match code {
        C::Fenced | C::ProducerFenced | C::InvalidProducerEpoch | C::FencedInstanceId => ErrorClass::Fenced,
        // The group has rebalanced or is doing so. Whether the partition is still assigned to us is known from the
        // next event only, so the step is dropped and read again from the committed offset.
        C::IllegalGeneration
        | C::StaleMemberEpoch
        | C::FencedMemberEpoch
        | C::UnknownMemberId
        | C::RebalanceInProgress
        | C::AssignmentLost
        | C::PurgeQueue
        | C::PurgeInflight => ErrorClass::AbortTxn,
        // A partition is named only after its topic was found, so it exists: the metadata of a broker that has
        // just restarted, or of a cluster without a leader for it, lacks it for a moment.
        C::UnknownPartition
        | C::BrokerTransportFailure
        | C::DestroyBroker
        | C::AllBrokersDown
        | C::Resolve
        | C::OperationTimedOut
        | C::MessageTimedOut
        | C::TimedOutQueue
        | C::RequestTimedOut
        | C::WaitingForCoordinator
        | C::WaitCache
        | C::QueueFull
        | C::Retry
        | C::InProgress
        | C::PreviousInProgress
        | C::CoordinatorLoadInProgress
        | C::CoordinatorNotAvailable
        | C::NotCoordinator
        | C::LeaderNotAvailable
        | C::NotLeaderForPartition
        // A newly elected leader that has not heard from its followers yet (KIP-207).
        | C::OffsetNotAvailable
        | C::FencedLeaderEpoch
        | C::UnknownLeaderEpoch
        | C::EligibleLeadersNotAvailable
        | C::PreferredLeaderNotAvailable
        | C::ListenerNotFound
        | C::FetchSessionIdNotFound
        | C::InvalidFetchSessionEpoch
        | C::ThrottlingQuotaExceeded
        | C::ReplicaNotAvailable
        | C::BrokerNotAvailable
        | C::NetworkException
        | C::NotEnoughReplicas
        | C::NotEnoughReplicasAfterAppend
        | C::ConcurrentTransactions
        | C::UnstableOffsetCommit
        | C::KafkaStorageError
        | C::NotController => ErrorClass::Retry { after_ms: 500 },
        _ => ErrorClass::Fatal,
    }
}

/// Whether the brokers would refuse the same step again.
fn is_lasting(code: Code) -> bool {
    use Code as C;
    matches!(
        code,
        C::MessageSizeTooLarge
            | C::InvalidRecord
            | C::TopicAuthorizationFailed
            | C::GroupAuthorizationFailed
            | C::TransactionalIdAuthorizationFailed
    )
}

/// An error of librdkafka as a [`LogError`]. `client` knows the cause of a fatal error, and its context the last
/// refused login, which librdkafka reports only as a timeout.
fn failed<C: Common>(what: impl Into<String>, error: &KafkaError, client: &Client<C>) -> LogError {
    let fatal = client.fatal_error();
    let class = match (error, &fatal) {
        // A fatal error of the client is returned as the code `Fatal` by every later call; only this names the
        // cause.
        (_, Some((code, _))) => class_of(*code),
        (KafkaError::Transaction(e), _) if e.is_retriable() => ErrorClass::Retry { after_ms: 500 },
        (KafkaError::Transaction(e), _) => match class_of(e.code()) {
            // An unknown code on a transaction that can be aborted: dropping the step and reading it again is
            // right, unless the brokers would refuse the same step again and again.
            ErrorClass::Fatal if e.txn_requires_abort() && !is_lasting(e.code()) => ErrorClass::AbortTxn,
            class => class,
        },
        (error, _) => error.rdkafka_error_code().map_or(ErrorClass::Fatal, class_of),
    };
    let why = fatal.map_or_else(String::new, |(code, why)| format!(" ({code}: {why})"));
    let refusal = match class {
        // A refused login reaches the caller only as a timeout, and would be retried without anybody learning
        // why.
        ErrorClass::Retry { .. } => client.context().common().refusal().map(|why| format!("; {why}")),
        _ => None,
    };
    LogError::new(class, what, format!("{error}{why}{}", refusal.unwrap_or_default()))
}

/// Runs librdkafka calls that block on brokers outside the async worker threads.
async fn blocking<R: Send + 'static>(
    what: &'static str,
    act: impl FnOnce() -> Result<R, LogError> + Send + 'static,
) -> Result<R, LogError> {
    let joined = tokio::task::spawn_blocking(act).await;
    joined.unwrap_or_else(|e| Err(LogError::fatal(what, format!("its thread ended: {e}"))))
}

impl KafkaBroker {
    /// Connects in the background: an unreachable broker is reported by the first call.
    ///
    /// # Errors
    /// [`ErrorClass::Fatal`]: a setting that librdkafka does not know or refuses, or a token file without a
    /// token that is good now.
    pub fn new(config: KafkaConfig) -> Result<Self, LogError> {
        let tokens = Tokens::new(config.oauth_token_file.clone());
        if tokens.are_used() {
            // Checked at the start, where an operator is watching; later the same mistake would only be a
            // broker that does not answer.
            tokens.current().map_err(|e| LogError::fatal(format!("login to {}", config.bootstrap), e.to_string()))?;
        }
        // Its watermark is the true end. `restore` compares it with the last stable offset to learn whether a
        // transaction is still open.
        let settings = [("isolation.level", "read_uncommitted")];
        let meta = create(&config, &settings, Context::new(tokens))?;
        Ok(Self {
            inner: Arc::new(Inner { config, meta, counts: Mutex::default(), askers: outside::Askers::default() }),
        })
    }
}

/// A client with our settings, `settings` and the user's, in this order.
fn create<C: ClientContext, T: FromClientConfigAndContext<C>>(
    config: &KafkaConfig,
    settings: &[(&str, &str)],
    context: C,
) -> Result<T, LogError> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.bootstrap);
    client.set("client.id", &config.client_id);
    client.set("message.max.bytes", MESSAGE_BYTES_MAX);
    // librdkafka's default is 10 s: every stage would pause that long after the brokers are back.
    client.set("reconnect.backoff.max.ms", RECONNECT_MS_MAX);
    for (key, value) in settings {
        client.set(*key, *value);
    }
    if is_tls(&config.extra) {
        // The system's certificate authorities, wherever they are: the statically linked OpenSSL has no default
        // path that holds on every distribution.
        client.set("ssl.ca.location", "probe");
    }
    // After ours: the operator's settings win.
    for (key, value) in &config.extra {
        client.set(key, value);
    }
    let what = format!("client of {}", config.bootstrap);
    client
        .create_with_context(context)
        .map_err(|e| LogError::fatal(what, format!("{e}; check the librdkafka settings")))
}

/// Whether the brokers' certificates are checked, and against no authority that is named.
fn is_tls(extra: &BTreeMap<String, String>) -> bool {
    let protocol = extra.get("security.protocol").map(|p| p.to_ascii_lowercase());
    protocol.is_some_and(|p| p.ends_with("ssl"))
        && !extra.keys().any(|key| ["ssl.ca.location", "ssl.ca.pem"].contains(&key.as_str()))
}

impl Inner {
    /// The client for metadata, ready to be asked.
    fn meta(&self) -> &BaseConsumer<Context> {
        serve(&self.meta);
        &self.meta
    }

    /// The context of every client.
    fn context(&self) -> Context {
        self.meta.context().as_ref().clone()
    }

    /// An error of the client for metadata, which nothing else polls.
    fn meta_failed(&self, what: impl Into<String>, error: &KafkaError) -> LogError {
        hear(&self.meta);
        failed(what, error, self.meta.client())
    }

    fn topic(&self, topic: Topic) -> String {
        self.topic_of(topic, self.generation())
    }

    /// Partitions of a topic, asked of the brokers once; `None` if there is no such topic.
    fn count(&self, topic: Topic) -> Result<Option<u32>, LogError> {
        let known = self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(&topic).copied();
        match known {
            Some(count) => Ok(Some(count)),
            None => self.count_now(topic),
        }
    }

    /// Partitions of a topic as the brokers report them now. A count that is known already is not replaced, since
    /// keys were mapped to partitions with it; in a topic with slots, where no key chooses, it may be larger now.
    fn count_now(&self, topic: Topic) -> Result<Option<u32>, LogError> {
        let wire = self.topic(topic);
        let refused = |code: Code| LogError::new(class_of(code), format!("metadata of {wire}"), code.to_string());
        let count = self.seen(&wire)?.map_err(refused)?;
        if let Some(count) = count {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let known = counts.entry(topic).or_insert(count);
            if topic.has_slots() {
                *known = count.max(*known);
            }
        }
        Ok(count)
    }

    /// Partitions of a topic by its name on the wire, or why the brokers do not say.
    fn seen(&self, wire: &str) -> Result<Result<Option<u32>, Code>, LogError> {
        let fetched = self.meta().fetch_metadata(Some(wire), ANSWER_WAIT);
        let fetched = fetched.map_err(|e| self.meta_failed(format!("metadata of {wire}"), &e))?;
        let found = fetched.topics().iter().find(|t| t.name() == wire);
        Ok(match found.map(|found| (found.error().map(Code::from), found.partitions().len() as u32)) {
            None | Some((None, 0) | (Some(Code::UnknownTopicOrPartition | Code::UnknownTopic), _)) => Ok(None),
            Some((None, count)) => Ok(Some(count)),
            Some((Some(code), _)) => Err(code),
        })
    }

    fn count_of(&self, topic: Topic) -> Result<u32, LogError> {
        let missing =
            || LogError::fatal(format!("topic {}", self.topic(topic)), "it does not exist; create the topics first");
        self.count(topic)?.ok_or_else(missing)
    }

    /// Refuses a partition that the topic does not have.
    fn held(&self, partition: PartitionId) -> Result<(), LogError> {
        let mut count = self.count_of(partition.topic)?;
        if partition.topic.has_slots() && !self.is_held(partition.partition, count) {
            // A slot may have been added after the topic was first asked about.
            self.count_now(partition.topic)?;
            count = self.count_of(partition.topic)?;
        }
        match count {
            // Elsewhere an unknown partition counts as a cluster in motion (`class_of`), and would be retried
            // without end.
            count if self.is_held(partition.partition, count) => Ok(()),
            count => Err(LogError::fatal(name(partition), format!("the topic has only {count} partitions"))),
        }
    }

    /// The partition of a record; refused before anything of its step is sent.
    fn place(&self, record: &OutRecord) -> Result<PartitionId, LogError> {
        // The count of the first look and not of now: partitions that an administrator adds would move keys,
        // and with them the order within sessions.
        let count = self.count_of(record.topic)?;
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => self.first() + partition_of(key, count),
            (None, None) => self.first(),
        };
        let id = PartitionId { topic: record.topic, partition };
        if !self.is_held(partition, count) {
            return Err(LogError::fatal(name(id), format!("the topic has only {count} partitions")));
        }
        if record.key.is_none() && record.topic.is_compacted() {
            return Err(LogError::fatal(name(id), "a record of a compacted topic needs a key"));
        }
        Ok(id)
    }

    /// Settings of a new topic.
    fn topic_settings(&self, topic: Topic) -> BTreeMap<&str, &str> {
        let policy = if topic.is_compacted() { "compact" } else { "delete" };
        let ours = [
            ("cleanup.policy", policy),
            // Evidence is not deleted by a default: the brokers' own is seven days. An operator may set less.
            ("retention.ms", "-1"),
            // The record's own time: with the brokers' time a replay would close other windows.
            ("message.timestamp.type", "CreateTime"),
            ("max.message.bytes", MESSAGE_BYTES_MAX),
        ];
        let mut settings = BTreeMap::from(ours);
        let theirs = self.config.topic.iter().filter(|(key, _)| *key != "replicas");
        // A retention that is meant for events must not make the stages' state expire: a stage would restore a
        // partial state and repeat numbers or miss gaps.
        let theirs = theirs.filter(|(key, _)| {
            !topic.is_compacted() || !matches!(key.as_str(), "cleanup.policy" | "retention.ms" | "retention.bytes")
        });
        settings.extend(theirs.map(|(key, value)| (key.as_str(), value.as_str())));
        settings
    }

    fn admin(&self) -> Result<AdminClient<Context>, LogError> {
        let context = self.context();
        let admin: AdminClient<Context> = create(&self.config, &[], context.clone())?;
        if context.tokens().are_used() {
            let refuse = |e: Box<dyn Error>| LogError::fatal("login of an admin client", e.to_string());
            give(admin.inner(), context.tokens()).map_err(refuse)?;
        }
        Ok(admin)
    }
}

impl Broker for KafkaBroker {
    type Log = KafkaLog;
    type Appender = KafkaAppender;

    async fn create_topics(&self, topics: &[Topic], partitions: u32) -> Result<(), LogError> {
        let wanted = topics.to_vec();
        let look = |inner: Arc<Inner>, wanted: Vec<Topic>| {
            blocking("look-up of topics", move || missing_topics(&inner, &wanted, partitions))
        };
        let missing = look(Arc::clone(&self.inner), wanted).await?;
        if missing.is_empty() {
            return Ok(());
        }
        self.inner.create_missing(&missing, partitions).await?;
        // The controller has created them, but other brokers learn of it later: a producer that asks one of
        // those gets `UnknownTopicOrPartition`, so wait until they show up.
        for _ in 0..100 {
            if look(Arc::clone(&self.inner), missing.clone()).await?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(LogError::new(
            ErrorClass::Retry { after_ms: 1_000 },
            "creation of topics",
            "the brokers do not show them yet",
        ))
    }

    async fn grow_topic(&self, topic: Topic, partitions: u32) -> Result<(), LogError> {
        self.grow(topic, partitions).await
    }

    async fn commit_first(&self, group: &str, partition: PartitionId, next: u64) -> Result<(), LogError> {
        let (inner, group) = (Arc::clone(&self.inner), group.to_owned());
        blocking("commit", move || closing::commit_first(&inner, &group, partition, next)).await
    }

    async fn partitions(&self, topic: Topic) -> Result<u32, LogError> {
        let inner = Arc::clone(&self.inner);
        blocking("metadata of a topic", move || inner.count_of(topic)).await
    }

    async fn partitions_now(&self, topic: Topic) -> Result<Option<u32>, LogError> {
        let inner = Arc::clone(&self.inner);
        blocking("metadata of a topic", move || inner.count_now(topic)).await
    }

    fn first_partition(&self) -> u32 {
        self.inner.first()
    }

    async fn successor(&self) -> Result<Successor, LogError> {
        let inner = Arc::clone(&self.inner);
        blocking("metadata of topics", move || closing::successor(&inner)).await
    }

    async fn consumer(&self, group: &str, topic: Topic, instance: &str) -> Result<Self::Log, LogError> {
        if topic.is_compacted() {
            return Err(LogError::fatal(format!("topic {topic}"), "it is compacted; read it with restore"));
        }
        let (inner, group, instance) = (Arc::clone(&self.inner), group.to_owned(), instance.to_owned());
        blocking("start of a consumer", move || KafkaLog::open(inner, &group, topic, &instance)).await
    }

    async fn topic_settings(&self, topic: Topic) -> Result<Option<BTreeMap<String, String>>, LogError> {
        settings::of_topic(&self.inner, topic).await
    }

    async fn broker_settings(&self) -> Result<Vec<BTreeMap<String, String>>, LogError> {
        settings::of_brokers(&self.inner).await
    }

    async fn bounds(&self, partition: PartitionId) -> Result<Range<u64>, LogError> {
        let inner = Arc::clone(&self.inner);
        blocking("bounds", move || outside::bounds(&inner, partition)).await
    }

    async fn committed(&self, group: &str, partition: PartitionId) -> Result<Option<Committed>, LogError> {
        let (inner, group) = (Arc::clone(&self.inner), group.to_owned());
        blocking("committed offset", move || outside::committed(&inner, &group, partition)).await
    }

    async fn read(&self, partition: PartitionId, offset: u64) -> Result<(Vec<Record>, u64), LogError> {
        let inner = Arc::clone(&self.inner);
        blocking("read", move || outside::read(&inner, partition, offset)).await
    }

    async fn appender(&self) -> Result<Self::Appender, LogError> {
        KafkaAppender::open(Arc::clone(&self.inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cluster_in_motion_answers_passes_and_what_is_missing_does_not() {
        let check = |code: Code, passes: bool| {
            assert_eq!(matches!(class_of(code), ErrorClass::Retry { .. }), passes, "{code:?}");
        };
        check(Code::UnknownPartition, true);
        check(Code::LeaderNotAvailable, true);
        check(Code::OffsetNotAvailable, true);
        check(Code::UnknownLeaderEpoch, true);
        check(Code::DestroyBroker, true);
        check(Code::UnknownTopic, false);
        check(Code::TopicAuthorizationFailed, false);
    }
}
