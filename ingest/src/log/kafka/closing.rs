//! Closing a topic for good, and writing the state of a later generation: what `custody topics migrate` needs.
//!
//! A closed topic accepts no record of any size (`max.message.bytes` = 0): the brokers themselves refuse every
//! writer, including a process that was suspended during the migration. Its records stay readable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::admin::{AdminOptions, AlterConfig, ConfigSource, ResourceSpecifier};
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemas::record::{OutRecord, PartitionId};
use schemas::topic::Topic;

use super::log::restore;
use super::outside::client;
use super::producer::{KafkaAppender, TOO_LARGE};
use super::{ANSWER_WAIT, Inner, KafkaBroker, KafkaConfig, blocking, class_of, failed, name};
use crate::log::{ErrorClass, LogError, Successor};

/// Largest record that a topic takes, bytes.
const SIZE: &str = "max.message.bytes";
/// How long the brokers may take to close a partition once they have said that they will.
const CLOSE_WAIT: Duration = Duration::from_secs(60);

/// Commits the first position of a group that has no members.
pub(super) fn commit_first(inner: &Inner, group: &str, partition: PartitionId, next: u64) -> Result<(), LogError> {
    let consumer = client(inner, group)?;
    let what = || format!("first position of group {group} in {}", name(partition));
    let refuse = |e: KafkaError| failed(what(), &e, consumer.client());
    let (wire, number) = (inner.topic(partition.topic), partition.index() as i32);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&wire, number, Offset::Offset(next as i64)).map_err(refuse)?;
    consumer.commit(&list, CommitMode::Sync).map_err(refuse)
}

impl KafkaBroker {
    /// The same brokers, for another generation of the topics.
    ///
    /// # Errors
    /// As [`KafkaBroker::new`].
    pub fn of_generation(&self, generation: u32) -> Result<Self, LogError> {
        Self::new(KafkaConfig { generation, ..self.inner.config.clone() })
    }

    /// Generation of its topics.
    pub fn generation(&self) -> u32 {
        self.inner.generation()
    }

    /// A topic's name on the wire.
    pub fn wire_name(&self, topic: Topic) -> String {
        self.inner.topic(topic)
    }

    /// Live entries of a state partition, asked from outside any group.
    ///
    /// # Errors
    /// As [`crate::log::Log::restore`].
    pub async fn state(&self, partition: PartitionId) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        let inner = Arc::clone(&self.inner);
        blocking("restore", move || restore(&inner, partition, &AtomicBool::new(false))).await
    }

    /// Deletes a topic with everything in it; one that does not exist is none.
    ///
    /// # Errors
    /// The brokers do not answer, or refuse.
    pub async fn delete_topic(&self, topic: Topic) -> Result<(), LogError> {
        let wire = self.inner.topic(topic);
        let what = || format!("deletion of topic {wire}");
        let admin = self.inner.admin()?;
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_WAIT)).request_timeout(Some(ANSWER_WAIT));
        let answer = admin.delete_topics(&[&wire], &options).await;
        let answer = answer.map_err(|e| failed(what(), &e, admin.inner()))?;
        match answer.into_iter().find_map(Result::err) {
            // A migration that was interrupted after the deletion runs this again.
            None | Some((_, Code::UnknownTopicOrPartition | Code::UnknownTopic)) => Ok(()),
            Some((_, code)) => Err(LogError::new(class_of(code), what(), code.to_string())),
        }
    }

    /// Whether the topic takes no records any more.
    ///
    /// # Errors
    /// The brokers do not answer, or there is no such topic.
    pub async fn is_closed(&self, topic: Topic) -> Result<bool, LogError> {
        Ok(own_settings(&self.inner, topic).await?.get(SIZE).is_some_and(|size| size == "0"))
    }

    /// Closes a topic, or opens it again. Its other settings stay.
    ///
    /// # Errors
    /// The brokers do not answer, or refuse (`ALTER_CONFIGS` on the topic).
    pub async fn set_closed(&self, topic: Topic, closed: bool) -> Result<(), LogError> {
        let mut settings = own_settings(&self.inner, topic).await?;
        let open = self.inner.topic_settings(topic).get(SIZE).map(|size| (*size).to_owned()).unwrap_or_default();
        settings.insert(SIZE.to_owned(), if closed { "0".to_owned() } else { open });
        let wire = self.inner.topic(topic);
        let what = || format!("settings of topic {wire}");
        // All own settings, not only the changed one: AlterConfigs replaces the whole set, and a setting that is
        // left out returns to the brokers' default.
        let change = AlterConfig::new(ResourceSpecifier::Topic(&wire));
        let change = settings.iter().fold(change, |change, (key, value)| change.set(key, value));
        let admin = self.inner.admin()?;
        let options = AdminOptions::new().request_timeout(Some(ANSWER_WAIT));
        let answer = admin.alter_configs([&change], &options).await;
        let answer = answer.map_err(|e| failed(what(), &e, admin.inner()))?;
        let refused = answer.into_iter().find_map(Result::err);
        refused.map_or(Ok(()), |(_, code)| Err(LogError::new(class_of(code), what(), code.to_string())))
    }

    /// Writes probes to a partition until the brokers refuse one: only then does its leader enforce the setting. A
    /// probe that is accepted must be harmless.
    ///
    /// # Errors
    /// The partition still takes records after a minute, or the brokers fail otherwise.
    pub async fn until_refused(
        &self,
        partition: PartitionId,
        mut probe: impl FnMut() -> OutRecord,
    ) -> Result<(), LogError> {
        let begun = Instant::now();
        while begun.elapsed() < CLOSE_WAIT {
            // One producer per probe: a producer whose message was refused is never used again.
            let appender = KafkaAppender::open(Arc::clone(&self.inner))?;
            match appender.deliver(vec![probe()]).await? {
                Err(error) if error.rdkafka_error_code() == Some(TOO_LARGE) => return Ok(()),
                Err(error) => return Err(failed(name(partition), &error, self.inner.admin()?.inner())),
                Ok(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        let message = "it still takes records though it was closed; check the topic's max.message.bytes";
        Err(LogError::new(ErrorClass::Fatal, name(partition), message))
    }
}

/// What there is of the next generation.
pub(super) fn successor(inner: &Inner) -> Result<Successor, LogError> {
    let of = |topic| {
        let wire = inner.topic_of(topic, inner.generation() + 1);
        match inner.seen(&wire)? {
            // A principal whose ACLs cover only this generation's names cannot see the next one. That is no error:
            // the closed topic stops its writes anyway.
            Err(Code::TopicAuthorizationFailed) => Ok(None),
            Ok(count) => Ok(count),
            Err(code) => Err(LogError::new(class_of(code), format!("metadata of {wire}"), code.to_string())),
        }
    };
    Ok(Successor {
        announced: of(Successor::FIRST)?,
        is_open: of(Topic::Events)?.is_some(),
        is_complete: of(Successor::LAST)?.is_some(),
    })
}

/// What was set for the topic itself.
async fn own_settings(inner: &Inner, topic: Topic) -> Result<BTreeMap<String, String>, LogError> {
    let wire = inner.topic(topic);
    let what = || format!("settings of topic {wire}");
    let admin = inner.admin()?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_WAIT));
    let answer = admin.describe_configs(&[ResourceSpecifier::Topic(&wire)], &options).await;
    let answer = answer.map_err(|e| failed(what(), &e, admin.inner()))?;
    let found = answer.into_iter().next().ok_or_else(|| LogError::fatal(what(), "the brokers left it out"))?;
    let found = found.map_err(|code| LogError::new(class_of(code), what(), code.to_string()))?;
    // Defaults are not written back: they would stop following the brokers'.
    let own = found.entries.into_iter().filter(|e| e.source == ConfigSource::DynamicTopic);
    Ok(own.filter_map(|e| Some((e.name, e.value?))).collect())
}
