//! The sinks and what they publish: the one table that services, demo, simulator, status and tests follow.
//!
//! A sink is one entry of [`SINKS`] and one arm where roles are opened (`services::roles`); a published topic is
//! one entry of [`PUBLISHED`]. How a sink decides is in `sinks`, how it is run is in `runner`.

use std::borrow::Cow;

use schemas::topic::Topic;

use crate::config::Role;

/// A sink; its number is its place in [`SINKS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sink {
    /// Parquet in an object store.
    Archive,
    /// Rows in ClickHouse.
    Load,
}

/// Where a sink stands in the pipeline.
#[derive(Debug)]
pub struct SinkSpec {
    /// The sink.
    pub sink: Sink,
    /// Name in messages, probes, metrics and `custody status`.
    pub name: &'static str,
    /// The role of the process that runs it.
    pub role: Role,
    /// Consumer group on the clean topic; those on other topics have the topic's short name behind it.
    pub group: &'static str,
}

/// Every sink.
pub const SINKS: [SinkSpec; 2] = [
    SinkSpec { sink: Sink::Archive, name: "archive", role: Role::Archive, group: "custody-archive" },
    SinkSpec { sink: Sink::Load, name: "load", role: Role::Load, group: "custody-load" },
];

/// Topics whose records are published, by every sink.
pub const PUBLISHED: [Topic; 3] = [Topic::Clean, Topic::Findings, Topic::Alerts];

impl Sink {
    /// Its entry.
    pub const fn spec(self) -> &'static SinkSpec {
        &SINKS[self as usize]
    }

    /// Its consumer group on a published topic.
    pub fn group(self, topic: Topic) -> Cow<'static, str> {
        let group = self.spec().group;
        if topic == Topic::Clean {
            // The first topic that was published; installations have its positions under this name.
            Cow::Borrowed(group)
        } else {
            Cow::Owned(format!("{group}-{}", topic.short_name()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_a_stored_format() {
        let groups: Vec<String> =
            SINKS.iter().flat_map(|s| PUBLISHED.map(|topic| s.sink.group(topic).into_owned())).collect();
        // Positions are committed under these names.
        let pinned = [
            "custody-archive",
            "custody-archive-findings",
            "custody-archive-alerts",
            "custody-load",
            "custody-load-findings",
            "custody-load-alerts",
        ];
        assert!(pinned.iter().all(|group| groups.iter().any(|g| g == group)), "{groups:?}");
        assert!(SINKS.iter().enumerate().all(|(index, spec)| spec.sink as usize == index));
    }
}
