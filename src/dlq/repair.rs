//! Replays dead letters: tries each against today's configuration, and only then appends it again.
//!
//! The letter's bytes are appended first and the letter closed after: a crash in between leaves the
//! letter open, and a second replay gives an event twice under one id, which every view counts once.

use ingest::log::{Appender, Broker, LogError};
use processors::pii::Pii;
use processors::stage::Processor;
use schemas::codec::RegistryFacts;
use schemas::event::RawEvent;
use schemas::record::{OutRecord, Position, Record};
use schemas::reject::Reject;
use schemas::time::TimestampMicros;

use super::{Letter, LetterId, Resolution, replay_record, resolution_record};
use crate::runner::input::StageInput;

/// What became of the letters that were to be replayed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Appended again (or would be, in a dry run).
    pub replayed: Vec<LetterId>,
    /// Left as they are, with the reason.
    pub refused: Vec<(LetterId, String)>,
}

/// The record that a letter would be appended as, if the stage `pii` takes it today, with what the schema
/// registry says of the ids that letters ask for.
///
/// # Errors
/// Why it would be refused again.
pub fn attempt(letter: &Letter, pii: &Pii, facts: &RegistryFacts, at: TimestampMicros) -> Result<OutRecord, String> {
    if let Some(how) = &letter.resolution {
        return Err(format!("it was {how} already"));
    }
    let replay = replay_record(letter, at)?;
    let source = letter.source.ok_or("its headers do not say where it came from")?;
    match rejects(&replay, source, pii, facts).into_iter().next() {
        None => Ok(replay),
        Some(reject) => Err(format!("it would be refused again: {}: {}", reject.reason.code(), reject.detail)),
    }
}

/// What the stage says of the record, which it is handed exactly as it will read it.
fn rejects(replay: &OutRecord, at: Position, pii: &Pii, facts: &RegistryFacts) -> Vec<Reject> {
    let record = Record {
        at,
        timestamp: replay.timestamp,
        key: replay.key.clone(),
        value: replay.value.clone(),
        headers: replay.headers.clone(),
    };
    match RawEvent::decode(&record, facts) {
        Err(reject) => vec![reject],
        Ok(input) => pii.process(&mut <Pii as Processor>::State::default(), &[input]).rejects,
    }
}

/// Replays letters one by one; in a dry run nothing is written.
///
/// # Errors
/// The log cannot be written to: letters that are not in the report are still open.
pub async fn replay<B: Broker>(
    broker: &B,
    letters: impl IntoIterator<Item = &Letter>,
    pii: &Pii,
    facts: &RegistryFacts,
    at: TimestampMicros,
    is_dry_run: bool,
) -> Result<Report, LogError> {
    let mut appender = broker.appender().await?;
    let mut report = Report::default();
    for letter in letters {
        match attempt(letter, pii, facts, at) {
            Err(why) => report.refused.push((letter.id, why)),
            Ok(record) => {
                if !is_dry_run {
                    appender.append(vec![record]).await?;
                    appender.append(vec![resolution_record(letter.id, Resolution::Replayed, "", at)]).await?;
                }
                report.replayed.push(letter.id);
            }
        }
    }
    Ok(report)
}

/// Closes letters for good, with the operator's reason.
///
/// # Errors
/// As [`replay`].
pub async fn discard<B: Broker>(
    broker: &B,
    letters: impl IntoIterator<Item = &Letter>,
    note: &str,
    at: TimestampMicros,
) -> Result<Vec<LetterId>, LogError> {
    let mut appender = broker.appender().await?;
    let mut closed = Vec::new();
    for letter in letters.into_iter().filter(|l| l.resolution.is_none()) {
        appender.append(vec![resolution_record(letter.id, Resolution::Discarded, note, at)]).await?;
        closed.push(letter.id);
    }
    Ok(closed)
}
