//! Creating topics that do not exist, and adding partitions to one that does. An existing topic keeps its settings.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode as Code;
use schemas::topic::Topic;

use super::{ANSWER_WAIT, Inner, KafkaBroker, class_of, failed};
use crate::log::{Broker as _, ErrorClass, LogError};

impl Inner {
    fn replicas(&self) -> Result<i32, LogError> {
        // -1 is the brokers' default.replication.factor.
        let text = self.config.topic.get("replicas").map_or("-1", String::as_str);
        text.parse().map_err(|_| LogError::fatal("topic setting replicas", format!("{text:?} is not a number")))
    }

    /// Creates topics; one that another process has created in the meantime is no error.
    pub(super) async fn create_missing(&self, topics: &[Topic], partitions: u32) -> Result<(), LogError> {
        let admin = self.admin()?;
        let replicas = self.replicas()?;
        let names: Vec<(String, BTreeMap<&str, &str>)> =
            topics.iter().map(|t| (self.topic(*t), self.topic_settings(*t))).collect();
        let new: Vec<NewTopic<'_>> = names
            .iter()
            .map(|(name, settings)| {
                let topic = NewTopic::new(name, partitions as i32, TopicReplication::Fixed(replicas));
                settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_WAIT)).request_timeout(Some(ANSWER_WAIT));
        let made = admin.create_topics(&new, &options).await;
        for made in made.map_err(|e| failed("creation of topics", &e, admin.inner()))? {
            match made {
                // Several processes start at once and create the same topics.
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    return Err(LogError::new(class_of(code), format!("creation of topic {topic}"), code.to_string()));
                }
            }
        }
        Ok(())
    }
}

impl KafkaBroker {
    /// Raises the partitions of a topic to `partitions`, and waits until a client sees them.
    pub(super) async fn grow(&self, topic: Topic, partitions: u32) -> Result<(), LogError> {
        let held = self.partitions_now(topic).await?;
        let missing = || LogError::fatal(format!("topic {}", self.inner.topic(topic)), "it does not exist");
        if held.ok_or_else(missing)? >= partitions {
            return Ok(());
        }
        self.add_partitions(topic, partitions).await?;
        // Added is not yet known to every broker: wait until a client sees them.
        for _ in 0..100 {
            if self.partitions_now(topic).await? >= Some(partitions) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let what = format!("more partitions of topic {}", self.inner.topic(topic));
        Err(LogError::new(ErrorClass::Retry { after_ms: 1_000 }, what, "the brokers do not show them yet"))
    }

    /// Gives a topic more partitions, as an administrator's tools do. For
    /// [`Broker::grow_topic`](crate::log::Broker::grow_topic); of a topic whose partitions are chosen by key it would
    /// send keys elsewhere.
    ///
    /// # Errors
    /// The brokers do not answer, or refuse (`ALTER` on the topic).
    pub async fn add_partitions(&self, topic: Topic, count: u32) -> Result<(), LogError> {
        let wire = self.inner.topic(topic);
        let what = || format!("more partitions of topic {wire}");
        let admin = self.inner.admin()?;
        let more = [NewPartitions::new(&wire, count as usize)];
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_WAIT)).request_timeout(Some(ANSWER_WAIT));
        let answer = admin.create_partitions(&more, &options).await;
        match answer.map_err(|e| failed(what(), &e, admin.inner()))?.into_iter().find_map(Result::err) {
            None => Ok(()),
            // Somebody else, who wants as many, was first.
            Some((_, Code::InvalidPartitions)) if self.partitions_now(topic).await? >= Some(count) => Ok(()),
            Some((_, code)) => Err(LogError::new(class_of(code), what(), code.to_string())),
        }
    }
}

/// Whether every topic is there; a wrong partition count is an error.
pub(super) fn missing_topics(inner: &Inner, topics: &[Topic], partitions: u32) -> Result<Vec<Topic>, LogError> {
    let mut missing = Vec::new();
    for &topic in topics {
        match inner.count(topic)? {
            None => missing.push(topic),
            Some(held) if held == partitions => {}
            // Never changed from here: another count maps keys to other partitions, and the order within
            // sessions and the archive's files would change.
            Some(held) => {
                let message = format!(
                    "it has {held} partitions and log.partitions asks for {partitions}: set back log.partitions, and \
                     run `custody topics migrate` for more partitions"
                );
                return Err(LogError::fatal(format!("topic {}", inner.topic(topic)), message));
            }
        }
    }
    Ok(missing)
}
