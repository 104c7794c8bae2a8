//! What the brokers say about their settings: topics' and their own.
//!
//! For checks only; nothing here changes a setting.

use std::collections::BTreeMap;

use rdkafka::admin::{AdminOptions, ResourceSpecifier};
use rdkafka::consumer::Consumer as _;
use schemas::topic::Topic;

use super::{ANSWER_WAIT, Inner, class_of, failed};
use crate::log::LogError;

/// The settings of a topic, `replicas` among them; `None` if there is none of this name.
pub(super) async fn of_topic(inner: &Inner, topic: Topic) -> Result<Option<BTreeMap<String, String>>, LogError> {
    // Checked first: brokers describe a topic that does not exist as if it had every default.
    if inner.count(topic)?.is_none() {
        return Ok(None);
    }
    let wire = inner.topic(topic);
    let what = || format!("settings of topic {wire}");
    let mut settings = described(inner, ResourceSpecifier::Topic(&wire), &what).await?;
    let metadata = inner.meta().fetch_metadata(Some(&wire), ANSWER_WAIT);
    let metadata = metadata.map_err(|e| inner.meta_failed(what(), &e))?;
    let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
    if let Some(replicas) = partitions.map(|p| p.replicas().len()).min() {
        // The smallest count of any partition: that one decides what a lost broker costs.
        settings.insert("replicas".to_owned(), replicas.to_string());
    }
    Ok(Some(settings))
}

/// The settings of every broker that is up.
pub(super) async fn of_brokers(inner: &Inner) -> Result<Vec<BTreeMap<String, String>>, LogError> {
    let metadata = inner.meta().fetch_metadata(None, ANSWER_WAIT);
    let metadata = metadata.map_err(|e| inner.meta_failed("metadata of the brokers", &e))?;
    let ids: Vec<i32> = metadata.brokers().iter().map(|broker| broker.id()).collect();
    let mut all = Vec::with_capacity(ids.len());
    // One request per broker: a broker describes only itself.
    for id in ids {
        let what = || format!("settings of broker {id}");
        all.push(described(inner, ResourceSpecifier::Broker(id), &what).await?);
    }
    Ok(all)
}

async fn described(
    inner: &Inner,
    resource: ResourceSpecifier<'_>,
    what: &impl Fn() -> String,
) -> Result<BTreeMap<String, String>, LogError> {
    let admin = inner.admin()?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_WAIT));
    let answer = admin.describe_configs(&[resource], &options).await;
    let answer = answer.map_err(|e| failed(what(), &e, admin.inner()))?;
    let missing = || LogError::fatal(what(), "the brokers left it out");
    match answer.into_iter().next().ok_or_else(missing)? {
        Ok(found) => Ok(found.entries.into_iter().map(|e| (e.name, e.value.unwrap_or_default())).collect()),
        Err(code) => Err(LogError::new(class_of(code), what(), code.to_string())),
    }
}
