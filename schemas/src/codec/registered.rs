//! What a schema registry says of an id, as a fact that decoding is handed beside a batch.
//!
//! A registry never gives an id to another schema, so a fact is a constant and the same log prefix
//! decodes the same (invariant I6). It asks no registry.

use std::collections::BTreeMap;

use super::{DecodeError, Writer};
use crate::reject::RejectReason;

/// What a registry holds under an id.
#[derive(Debug, Clone)]
pub enum Registered {
    /// A schema that records are read with.
    Readable(Readable),
    /// A schema that records cannot be read with, and why.
    Unusable(String),
    /// Nothing: the registry has said so.
    Absent,
}

/// How records of a schema are read; made by [`Codec::registered`](super::Codec::registered).
#[derive(Debug, Clone)]
pub struct Readable(Writer);

/// What is known of the ids that a batch needs.
pub type RegistryFacts = BTreeMap<u32, Registered>;

/// No registry was asked.
pub(super) static NOTHING: RegistryFacts = RegistryFacts::new();

impl Registered {
    pub(super) fn readable(writer: Writer) -> Self {
        Self::Readable(Readable(writer))
    }
}

/// How to read records of an id; `None` if nobody has asked for it.
pub(super) fn writer(facts: &RegistryFacts, id: u32) -> Result<Option<&Writer>, DecodeError> {
    match facts.get(&id) {
        None => Ok(None),
        Some(Registered::Readable(Readable(writer))) => Ok(Some(writer)),
        Some(Registered::Absent) => Err(DecodeError {
            reason: RejectReason::UnknownSchema,
            detail: format!("the registry has no schema with id {id}"),
        }),
        Some(Registered::Unusable(why)) => {
            Err(DecodeError { reason: RejectReason::UnusableSchema, detail: format!("registry id {id}: {why}") })
        }
    }
}
