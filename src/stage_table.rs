//! The stages: the one table that services, demo, simulator, status, migration, commands and tests follow.
//!
//! A stage is one entry of [`STAGES`], one field of [`StageSettings`] and one arm of [`Stage::visit`]. What it
//! computes is in `processors`, how it is run is in `runner`; nothing here reads a record.

use processors::anomaly::{Features, FeaturesConfig, Score, ScoreConfig};
use processors::completeness::{Completeness, CompletenessConfig, Writers, WritersConfig};
use processors::pii::{Pii, PiiConfig, TokenKeys};
use processors::stage::{PartitionState, Processor, Rekey};
use schemas::topic::Topic;

use crate::config::{Config, Role};
use crate::runner::input::StageInput;

/// A stage; its number is its place in [`STAGES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Replaces personal data.
    Pii,
    /// Judges sessions.
    Completeness,
    /// Measures subjects per window.
    Features,
    /// Judges writers over all sessions.
    Writers,
    /// Scores windows.
    Score,
}

/// A topic that a stage writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageOutput {
    /// It is the only stage that does.
    Own(Topic),
    /// Others do too, each into partitions of its own: those of slot `n` are `n * source partitions` and the
    /// following. A slot is a stored format: a stage keeps its slot for good, and a new stage takes the next one.
    Slot(Topic, u32),
}

impl StageOutput {
    /// The topic.
    pub const fn topic(self) -> Topic {
        match self {
            StageOutput::Own(topic) | StageOutput::Slot(topic, _) => topic,
        }
    }
}

/// Where a stage stands in the pipeline.
#[derive(Debug)]
pub struct StageSpec {
    /// The stage.
    pub stage: Stage,
    /// Name in messages, probes, metrics and `custody status`.
    pub name: &'static str,
    /// The role of the process that runs it.
    pub role: Role,
    /// Consumer group; also names the stage in errors.
    pub group: &'static str,
    /// Topic that it reads.
    pub source: Topic,
    /// Topics that it writes to, dead letters not counted.
    pub outputs: &'static [StageOutput],
    /// Topic of its state; `None` for a stage that remembers nothing.
    pub state: Option<Topic>,
    /// How its state goes over to more partitions.
    pub rekey: Rekey,
}

const fn rekey_of<P: Processor>() -> Rekey {
    <P::State as PartitionState>::rekey
}

/// Every stage, upstream first.
pub const STAGES: [StageSpec; 5] = [
    StageSpec {
        stage: Stage::Pii,
        name: "pii",
        role: Role::Pii,
        group: "custody-pii",
        source: Topic::Events,
        outputs: &[StageOutput::Own(Topic::Clean), StageOutput::Slot(Topic::Findings, 0)],
        state: Some(Topic::StatePii),
        rekey: rekey_of::<Pii>(),
    },
    StageSpec {
        stage: Stage::Completeness,
        name: "completeness",
        role: Role::Completeness,
        group: "custody-completeness",
        source: Topic::Clean,
        outputs: &[StageOutput::Own(Topic::Writers), StageOutput::Slot(Topic::Findings, 1)],
        state: Some(Topic::StateCompleteness),
        rekey: rekey_of::<Completeness>(),
    },
    StageSpec {
        stage: Stage::Features,
        name: "features",
        role: Role::Anomaly,
        group: "custody-features",
        source: Topic::Clean,
        outputs: &[StageOutput::Own(Topic::Signals), StageOutput::Slot(Topic::Alerts, 1)],
        state: Some(Topic::StateFeatures),
        rekey: rekey_of::<Features>(),
    },
    StageSpec {
        stage: Stage::Writers,
        name: "writers",
        role: Role::Completeness,
        group: "custody-writers",
        source: Topic::Writers,
        outputs: &[StageOutput::Slot(Topic::Findings, 2)],
        state: Some(Topic::StateWriters),
        rekey: rekey_of::<Writers>(),
    },
    StageSpec {
        stage: Stage::Score,
        name: "score",
        role: Role::Anomaly,
        group: "custody-score",
        source: Topic::Signals,
        outputs: &[StageOutput::Slot(Topic::Alerts, 0)],
        state: Some(Topic::StateScore),
        rekey: rekey_of::<Score>(),
    },
];

/// The settings of every stage.
#[derive(Debug, Clone)]
pub struct StageSettings {
    /// Of `pii`; `None` in a process that does not run it, which never reads the key.
    pub pii: Option<PiiConfig>,
    /// Of `completeness`.
    pub completeness: CompletenessConfig,
    /// Of `features`.
    pub features: FeaturesConfig,
    /// Of `writers`.
    pub writers: WritersConfig,
    /// Of `score`.
    pub score: ScoreConfig,
}

impl StageSettings {
    /// The settings of an installation, for so many partitions of the events topic.
    pub fn of(config: &Config, source_partitions: u32, keys: Option<TokenKeys>) -> Self {
        Self {
            pii: keys.map(|keys| PiiConfig { keys, policies: config.pii.policies() }),
            completeness: CompletenessConfig { source_partitions, ..config.completeness.clone() },
            features: config.anomaly.features(source_partitions),
            writers: config.writers.clone(),
            score: config.anomaly.score(),
        }
    }
}

/// A stage cannot be made from these settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stage {0} has no settings in this process")]
pub struct NotConfigured(&'static str);

/// What is to be done with a stage, whatever its types are.
pub trait StageVisitor {
    /// What comes out.
    type Output;

    /// Does it with a stage that was just made.
    fn visit<P>(self, spec: &'static StageSpec, processor: P) -> Self::Output
    where
        P: Processor + 'static,
        P::Input: StageInput;
}

impl Stage {
    /// Its entry.
    pub const fn spec(self) -> &'static StageSpec {
        &STAGES[self as usize]
    }

    /// Makes the stage and hands it to `visitor`.
    ///
    /// # Errors
    /// [`NotConfigured`]: the settings hold nothing for it.
    pub fn visit<V: StageVisitor>(self, settings: &StageSettings, visitor: V) -> Result<V::Output, NotConfigured> {
        let spec = self.spec();
        Ok(match self {
            Stage::Pii => {
                let config = settings.pii.clone().ok_or(NotConfigured(spec.name))?;
                visitor.visit(spec, Pii::new(config))
            }
            Stage::Completeness => visitor.visit(spec, Completeness::new(settings.completeness.clone())),
            Stage::Features => visitor.visit(spec, Features::new(settings.features.clone())),
            Stage::Writers => visitor.visit(spec, Writers::new(settings.writers.clone())),
            Stage::Score => visitor.visit(spec, Score::new(settings.score.clone())),
        })
    }
}

impl StageSpec {
    /// How many stages stand between the events topic and it: stages of one wave do not wait for each other.
    pub fn wave(&self) -> usize {
        let writes_source = |upstream: &&StageSpec| upstream.outputs.iter().any(|o| o.topic() == self.source);
        STAGES.iter().find(writes_source).map_or(0, |upstream| 1 + upstream.wave())
    }

    /// Its slot in a topic that several stages write to.
    pub fn slot_in(&self, topic: Topic) -> Option<u32> {
        self.outputs.iter().find_map(|output| match output {
            StageOutput::Slot(of, slot) if *of == topic => Some(*slot),
            _ => None,
        })
    }
}

/// The stages, wave by wave, upstream first.
pub fn waves() -> Vec<Vec<&'static StageSpec>> {
    let count = STAGES.iter().map(|s| s.wave() + 1).max().unwrap_or_default();
    (0..count).map(|wave| STAGES.iter().filter(|s| s.wave() == wave).collect()).collect()
}

/// Topics that stages write to, dead letters among them; each once.
pub fn written_topics() -> Vec<Topic> {
    let mut topics: Vec<Topic> = STAGES.iter().flat_map(|s| s.outputs).map(|o| o.topic()).collect();
    topics.push(Topic::Dlq);
    topics.sort_unstable();
    topics.dedup();
    topics
}

/// Partitions of a topic, if the events topic has `partitions`: as many for each slot, and one slot where only one
/// stage writes.
pub fn partitions_of(topic: Topic, partitions: u32) -> u32 {
    let slots = STAGES.iter().filter_map(|s| s.slot_in(topic)).map(|slot| slot + 1).max();
    partitions * slots.unwrap_or(1)
}

/// How the partitions that a topic has compare with those that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// They are enough: as many as needed, or slots of stages that a newer version has.
    Right,
    /// Slots of stages that the topic was not made for are missing; they can be added while it is in use.
    LacksSlots {
        /// Partitions afterwards.
        wanted: u32,
    },
    /// It was made for another number of source partitions.
    Wrong {
        /// Partitions that it should have.
        wanted: u32,
    },
}

/// Judges the partitions of a topic, if the events topic has `partitions`.
pub fn count(topic: Topic, found: u32, partitions: u32) -> Count {
    let wanted = partitions_of(topic, partitions);
    // Slots lie one after the other, so that a whole number of them is right whichever stages they are for.
    let holds_whole_slots = topic.has_slots() && found > 0 && found.is_multiple_of(partitions.max(1));
    if found == wanted || holds_whole_slots && found > wanted {
        Count::Right
    } else if holds_whole_slots {
        Count::LacksSlots { wanted }
    } else {
        Count::Wrong { wanted }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_entry_stands_at_the_place_of_its_stage() {
        for (index, spec) in STAGES.iter().enumerate() {
            assert_eq!((spec.stage as usize, spec.stage.spec().name), (index, spec.name));
            assert_eq!(spec.group, format!("custody-{}", spec.name));
        }
    }

    #[test]
    fn slots_are_a_stored_format() {
        let slots: Vec<(&str, Topic, u32)> = STAGES
            .iter()
            .flat_map(|s| Topic::ALL.iter().filter_map(move |t| s.slot_in(*t).map(|slot| (s.name, *t, slot))))
            .collect();
        // What stands here never changes: records, archive files and positions are in these partitions.
        let pinned = [
            ("pii", Topic::Findings, 0),
            ("completeness", Topic::Findings, 1),
            ("features", Topic::Alerts, 1),
            ("writers", Topic::Findings, 2),
            ("score", Topic::Alerts, 0),
        ];
        assert_eq!(slots.iter().filter(|s| pinned.contains(s)).count(), pinned.len(), "{slots:?}");
        let distinct: BTreeSet<(Topic, u32)> = slots.iter().map(|(_, topic, slot)| (*topic, *slot)).collect();
        assert_eq!(distinct.len(), slots.len(), "two stages in one slot");
        for (topic, slot) in distinct {
            assert!(topic.has_slots(), "{topic}");
            assert!(slot == 0 || slots.iter().any(|(_, t, s)| (*t, *s + 1) == (topic, slot)), "{topic} lacks a slot");
        }
    }

    #[test]
    fn a_topic_without_slots_has_one_writer() {
        for topic in written_topics().into_iter().filter(|t| *t != Topic::Dlq) {
            let writers = STAGES.iter().filter(|s| s.outputs.iter().any(|o| o.topic() == topic)).count();
            assert!(writers == 1 || topic.has_slots(), "{topic} has {writers}");
        }
    }

    #[test]
    fn waves_follow_from_who_writes_what_is_read() {
        let names: Vec<Vec<&str>> = waves().iter().map(|wave| wave.iter().map(|s| s.name).collect()).collect();
        assert_eq!(names, [vec!["pii"], vec!["completeness", "features"], vec!["writers", "score"]]);
    }

    #[test]
    fn a_topic_may_have_slots_of_stages_that_are_not_known_here() {
        let check = |topic, found, expected| assert_eq!(count(topic, found, 4), expected, "{topic} {found}");
        check(Topic::Findings, 12, Count::Right);
        check(Topic::Findings, 16, Count::Right);
        check(Topic::Findings, 8, Count::LacksSlots { wanted: 12 });
        check(Topic::Findings, 10, Count::Wrong { wanted: 12 });
        check(Topic::Findings, 14, Count::Wrong { wanted: 12 });
        check(Topic::Findings, 0, Count::Wrong { wanted: 12 });
        check(Topic::Alerts, 8, Count::Right);
        check(Topic::Clean, 4, Count::Right);
        check(Topic::Clean, 8, Count::Wrong { wanted: 4 });
    }
}
