//! The bytes before a record: which schema wrote it.
//!
//! Avro single-object encoding (`C3 01`, CRC-64-AVRO fingerprint, little-endian) or the Confluent
//! schema-registry frame (`00`, schema id, big-endian). It does not know the schemas.

use super::DecodeError;
use crate::reject::RejectReason;

const SINGLE_OBJECT: [u8; 2] = [0xC3, 0x01];
const REGISTRY: u8 = 0;

/// What a frame says about its writer's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// Fingerprint of the schema.
    Fingerprint([u8; 8]),
    /// Id in a schema registry.
    Registry(u32),
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Frame::Fingerprint(fingerprint) => f.write_str(&crate::id::hex(fingerprint)),
            Frame::Registry(id) => write!(f, "{id}"),
        }
    }
}

impl Frame {
    /// Writes the frame.
    pub(super) fn put(self, out: &mut Vec<u8>) {
        match self {
            Frame::Fingerprint(fingerprint) => {
                out.extend_from_slice(&SINGLE_OBJECT);
                out.extend_from_slice(&fingerprint);
            }
            Frame::Registry(id) => {
                out.push(REGISTRY);
                out.extend_from_slice(&id.to_be_bytes());
            }
        }
    }
}

/// Splits a value into its frame and its record.
pub(super) fn split(value: Option<&[u8]>, bytes_max: usize) -> Result<(Frame, &[u8]), DecodeError> {
    let value = match value {
        None | Some([]) => return Err(error(RejectReason::Empty, "the record has no value")),
        Some(value) if value.len() > bytes_max => {
            let detail = format!("{} bytes, at most {bytes_max} are read", value.len());
            return Err(DecodeError { reason: RejectReason::TooLarge, detail });
        }
        Some(value) => value,
    };
    let frame = match value {
        [0xC3, 0x01, rest @ ..] => {
            rest.split_first_chunk().map(|(fingerprint, body)| (Frame::Fingerprint(*fingerprint), body))
        }
        [0xC3] => None,
        [REGISTRY, rest @ ..] => {
            rest.split_first_chunk().map(|(id, body)| (Frame::Registry(u32::from_be_bytes(*id)), body))
        }
        _ => return Err(error(RejectReason::UnknownFrame, "neither an Avro single object nor a Confluent frame")),
    };
    frame.ok_or_else(|| error(RejectReason::Truncated, "the value ends inside its frame"))
}

fn error(reason: RejectReason, detail: &str) -> DecodeError {
    DecodeError { reason, detail: detail.to_owned() }
}
