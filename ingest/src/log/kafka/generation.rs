//! Names and partition numbers of one generation of the topics.
//!
//! Outside of this folder partitions have numbers that no other generation uses; the brokers' own begin at 0.

use schemas::record::first_partition;
use schemas::topic::Topic;

use super::Inner;

impl Inner {
    /// Generation of the topics, from 1.
    pub(super) fn generation(&self) -> u32 {
        self.config.generation.max(1)
    }

    /// A topic's name on the wire in a generation.
    pub(super) fn topic_of(&self, topic: Topic, generation: u32) -> String {
        format!("{}{}", self.config.namespace, topic.name_of(generation))
    }

    /// A group's id on the wire: positions of one generation mean nothing to another.
    pub(super) fn group(&self, group: &str) -> String {
        match self.generation() {
            // Without a suffix: installations from before there were generations have their positions under
            // this name.
            1 => format!("{}{group}", self.config.namespace),
            generation => format!("{}{group}.v{generation}", self.config.namespace),
        }
    }

    /// Number of the first partition.
    pub(super) fn first(&self) -> u32 {
        first_partition(self.generation())
    }

    /// Whether a topic of `count` partitions has one of that number.
    pub(super) fn is_held(&self, number: u32, count: u32) -> bool {
        (self.first()..self.first() + count).contains(&number)
    }
}
