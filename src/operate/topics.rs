//! Whether the topics are as the pipeline needs them.
//!
//! Pure: partitions and broker settings in, complaints out. It creates and changes nothing.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use ingest::log::{Broker, LogError};
use schemas::limits::DERIVED_BYTES_MAX;
use schemas::topic::Topic;

use crate::operate::status::ASKED_AT_A_TIME;
use crate::stage_table::{Count, count};

/// What is known of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Topic.
    pub topic: Topic,
    /// Partitions; `None` if there is no such topic.
    pub partitions: Option<u32>,
    /// The broker's settings by Kafka's names; empty where the log has none.
    pub settings: BTreeMap<String, String>,
}

/// How bad a complaint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, and somebody should know.
    Warning,
    /// Roles would not start, or data would be lost.
    Failure,
}

/// Something about topics that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The topics that it is true of.
    pub topics: Vec<Topic>,
    /// How bad.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What helps.
    pub remedy: String,
}

/// What is wrong with how many partitions a topic has, if the events topic is to have `partitions`.
pub fn miscounted(topic: Topic, found: u32, partitions: u32) -> Option<String> {
    match count(topic, found, partitions) {
        Count::Right => None,
        Count::LacksSlots { wanted } => Some(format!(
            "topic {topic} has {found} partitions and the stages of this version need {wanted}: `custody topics create` \
             adds them, also while the topic is in use"
        )),
        Count::Wrong { wanted } => Some(format!(
            "topic {topic} has {found} partitions and log.partitions = {partitions} asks for {wanted}: set what the topics \
             were made with; sessions keep their state in their partition, so that more partitions are a new generation \
             of the topics, which `custody topics migrate --partitions {partitions}` makes"
        )),
    }
}

/// Asks the log about every topic.
///
/// # Errors
/// The log cannot be reached.
pub async fn look<B: Broker>(broker: &B) -> Result<Vec<Seen>, LogError> {
    let look = |&topic: &Topic| async move {
        Ok(match broker.topic_settings(topic).await? {
            Some(settings) => Seen { topic, partitions: Some(broker.partitions(topic).await?), settings },
            None => Seen { topic, partitions: None, settings: BTreeMap::new() },
        })
    };
    let seen: Vec<_> = Topic::ALL.iter().map(look).collect();
    stream::iter(seen).buffered(ASKED_AT_A_TIME).try_collect().await
}

impl Complaint {
    /// The topics' names.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.topics.iter().map(|t| t.name()).collect();
        names.join(", ")
    }
}

/// What is wrong with the topics, if the events topic is to have `partitions`.
pub fn judge(seen: &[Seen], partitions: u32) -> Vec<Complaint> {
    let mut complaints: Vec<Complaint> = Vec::new();
    for topic in seen {
        let mut complain = |severity, what: String, remedy: String| match complaints
            .iter_mut()
            .find(|c| c.what == what && c.remedy == remedy)
        {
            Some(same) => same.topics.push(topic.topic),
            None => complaints.push(Complaint { topics: vec![topic.topic], severity, what, remedy }),
        };
        let Some(held) = topic.partitions else {
            complain(Severity::Failure, "it does not exist".to_owned(), "run custody topics create".to_owned());
            continue;
        };
        match count(topic.topic, held, partitions) {
            Count::Right => {}
            Count::LacksSlots { wanted } => complain(
                Severity::Failure,
                format!("it has {held} partitions, the stages of this version need {wanted}"),
                "run custody topics create, which adds them also while the topic is in use".to_owned(),
            ),
            Count::Wrong { wanted } => complain(
                Severity::Failure,
                format!("it has {held} partitions, the configuration asks for {wanted}"),
                "set log.partitions to what the events topic has; `custody topics migrate` makes more of them"
                    .to_owned(),
            ),
        }
        judge_settings(topic, &mut complain);
    }
    complaints
}

fn judge_settings(topic: &Seen, complain: &mut impl FnMut(Severity, String, String)) {
    let setting = |name: &str| topic.settings.get(name).map(String::as_str);
    let set = |name: &str, value: &str| {
        format!("kafka-configs --alter --entity-type topics --entity-name {} --add-config {name}={value}", topic.topic)
    };
    let is_compacted = setting("cleanup.policy").map(|policy| policy.split(',').any(|p| p.trim() == "compact"));
    match is_compacted {
        Some(true) if !topic.topic.is_compacted() => complain(
            Severity::Failure,
            "it is compacted: records with equal keys would be thrown away".to_owned(),
            set("cleanup.policy", "delete"),
        ),
        Some(false) if topic.topic.is_compacted() => complain(
            Severity::Failure,
            "it is not compacted: state would expire or grow for ever".to_owned(),
            set("cleanup.policy", "compact"),
        ),
        _ => {}
    }
    if setting("message.timestamp.type").is_some_and(|kind| kind != "CreateTime") {
        complain(
            Severity::Failure,
            "the broker replaces the time of records: a replay would not give the same files".to_owned(),
            set("message.timestamp.type", "CreateTime"),
        );
    }
    let bytes_max = setting("max.message.bytes").and_then(|bytes| bytes.parse::<usize>().ok());
    if bytes_max.is_some_and(|bytes| bytes < DERIVED_BYTES_MAX) {
        complain(
            Severity::Failure,
            format!(
                "it takes records of {} bytes at most, clean events may have {DERIVED_BYTES_MAX}",
                bytes_max.unwrap_or(0)
            ),
            set("max.message.bytes", &(2 * DERIVED_BYTES_MAX).to_string()),
        );
    }
    let number = |name: &str| setting(name).and_then(|text| text.parse::<u32>().ok());
    if let (Some(1), Some(_)) = (number("replicas"), number("min.insync.replicas")) {
        complain(
            Severity::Warning,
            "it has one replica: the loss of one disk loses what is not archived yet".to_owned(),
            "use three replicas and min.insync.replicas=2 in production (log.topic.replicas)".to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(topic: Topic, partitions: Option<u32>, settings: &[(&str, &str)]) -> Seen {
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Seen { topic, partitions, settings }
    }

    fn check(topic: &Seen, expected: &[(Severity, &str)]) {
        let complaints = judge(std::slice::from_ref(topic), 4);
        let found: Vec<(Severity, bool)> =
            complaints.iter().zip(expected).map(|(c, (_, part))| (c.severity, c.what.contains(part))).collect();
        let wanted: Vec<(Severity, bool)> = expected.iter().map(|(s, _)| (*s, true)).collect();
        assert_eq!((complaints.len(), found), (expected.len(), wanted), "{complaints:?}");
        assert!(complaints.iter().all(|c| !c.remedy.is_empty()));
    }

    #[test]
    fn what_would_lose_or_double_data_is_a_failure() {
        use Severity::{Failure, Warning};
        let good =
            [("cleanup.policy", "delete"), ("message.timestamp.type", "CreateTime"), ("max.message.bytes", "8388608")];
        check(&seen(Topic::Events, Some(4), &good), &[]);
        check(&seen(Topic::Events, Some(4), &[]), &[]);
        check(&seen(Topic::Findings, Some(12), &[]), &[]);
        check(&seen(Topic::Events, None, &[]), &[(Failure, "does not exist")]);
        check(&seen(Topic::Findings, Some(16), &[]), &[]);
        check(&seen(Topic::Findings, Some(4), &[]), &[(Failure, "of this version need 12")]);
        check(&seen(Topic::Findings, Some(6), &[]), &[(Failure, "asks for 12")]);
        check(&seen(Topic::Clean, Some(8), &[]), &[(Failure, "asks for 4")]);
        check(&seen(Topic::Clean, Some(4), &[("cleanup.policy", "compact,delete")]), &[(Failure, "is compacted")]);
        check(&seen(Topic::StatePii, Some(4), &[("cleanup.policy", "delete")]), &[(Failure, "not compacted")]);
        check(&seen(Topic::Clean, Some(4), &[("message.timestamp.type", "LogAppendTime")]), &[(Failure, "replaces")]);
        check(&seen(Topic::Clean, Some(4), &[("max.message.bytes", "1048588")]), &[(Failure, "1048588")]);
        check(
            &seen(Topic::Clean, Some(4), &[("replicas", "1"), ("min.insync.replicas", "1")]),
            &[(Warning, "one replica")],
        );
    }
}
