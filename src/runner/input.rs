//! From a log record to what a stage reads. Decoding is total: a bad record becomes a [`Reject`].

use processors::stage::Sourced;
use schemas::codec::{DecodeError, Derived, RegistryFacts, codec};
use schemas::event::{CleanEvent, RawEvent};
use schemas::id::Sha256;
use schemas::record::{Record, SourceRef};
use schemas::reject::{Reject, RejectReason};
use schemas::text::RawText;

/// What a stage can read.
pub trait StageInput: Sized + Send {
    /// Decodes one record, with what a registry says of the ids that its batch asks for.
    ///
    /// # Errors
    /// The record's bytes are at fault: it goes to the dead-letter topic.
    fn decode(record: &Record, facts: &RegistryFacts) -> Result<Sourced<Self>, Reject>;

    /// The registry id that must be known before the record can be judged. Only others' records have
    /// one: what stages write is of our own schemas.
    fn registry_id(_record: &Record) -> Option<u32> {
        None
    }
}

impl StageInput for RawEvent {
    fn decode(record: &Record, facts: &RegistryFacts) -> Result<Sourced<Self>, Reject> {
        let value = codec().decode_with(record.value.as_deref(), facts).map_err(|e| reject(record, e))?;
        let sha256 = Sha256::of(record.value.as_deref().unwrap_or_default());
        Ok(sourced(record, SourceRef { offset: record.at.offset, sha256 }, value))
    }

    fn registry_id(record: &Record) -> Option<u32> {
        codec().asks_for::<RawText>(record.value.as_deref())
    }
}

impl StageInput for CleanEvent {
    fn decode(record: &Record, _facts: &RegistryFacts) -> Result<Sourced<Self>, Reject> {
        let value = codec().decode(record.value.as_deref()).map_err(|e| reject(record, e))?;
        let source = SourceRef::from_headers(&record.headers).ok_or_else(|| Reject {
            at: record.at,
            reason: RejectReason::Malformed,
            detail: "the record does not say which source record it stems from".to_owned(),
        })?;
        Ok(sourced(record, source, value))
    }
}

impl StageInput for Derived {
    fn decode(record: &Record, _facts: &RegistryFacts) -> Result<Sourced<Self>, Reject> {
        let value = codec().decode_derived(record.value.as_deref()).map_err(|e| reject(record, e))?;
        Ok(sourced(record, SourceRef { offset: record.at.offset, sha256: Sha256::ZERO }, value))
    }
}

fn sourced<T>(record: &Record, source: SourceRef, value: T) -> Sourced<T> {
    Sourced { at: record.at, broker_time: record.timestamp, source, value }
}

fn reject(record: &Record, error: DecodeError) -> Reject {
    Reject { at: record.at, reason: error.reason, detail: error.detail }
}
