//! The body of a request that carries stamped records as they are: [`MEDIA_TYPE`].
//!
//! Each record is its length (four bytes, big-endian, the length itself not counted) and that many
//! bytes: the value that the log is to hold, an Avro single object. JSON would not do, because an
//! event's `prev_hash` covers the stored bytes of the event before it. Framing only: it does not
//! look into records.

use bytes::{Buf as _, Bytes};

/// Media type of the body.
pub const MEDIA_TYPE: &str = "application/vnd.custody.avro";
/// Length of a record's length.
const LENGTH_BYTES: usize = 4;

/// What is wrong with a body: the record at the 0-based `index` extends past its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("record {index} is longer than what is left of the body")]
pub struct Truncated {
    /// Place of the record.
    pub index: usize,
}

/// Appends a record.
pub fn put(record: &[u8], body: &mut Vec<u8>) {
    // A record is far shorter than 4 GiB: the spool refuses more than 4 MiB.
    body.extend_from_slice(&(record.len() as u32).to_be_bytes());
    body.extend_from_slice(record);
}

/// Bytes that a record takes in a body.
pub fn len(record: &[u8]) -> usize {
    LENGTH_BYTES + record.len()
}

/// The records of a body, which share its memory.
#[derive(Debug, Clone)]
pub struct Records {
    rest: Bytes,
    index: usize,
}

impl Records {
    /// The records of `body`.
    pub fn new(body: Bytes) -> Self {
        Self { rest: body, index: 0 }
    }
}

impl Iterator for Records {
    type Item = Result<Bytes, Truncated>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let index = self.index;
        self.index += 1;
        let length = self.rest.first_chunk::<LENGTH_BYTES>().map(|length| u32::from_be_bytes(*length) as usize);
        match length {
            Some(length) if length <= self.rest.len() - LENGTH_BYTES => {
                self.rest.advance(LENGTH_BYTES);
                Some(Ok(self.rest.split_to(length)))
            }
            _ => {
                // The frames after a wrong length cannot be found: nothing after it is read.
                self.rest.clear();
                Some(Err(Truncated { index }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_put_is_read_and_a_cut_is_seen(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..10),
            cut in 1..4_usize,
        ) {
            let mut body = Vec::new();
            records.iter().for_each(|record| put(record, &mut body));
            prop_assert_eq!(body.len(), records.iter().map(|record| len(record)).sum::<usize>());
            let read: Result<Vec<Bytes>, _> = Records::new(body.clone().into()).collect();
            prop_assert_eq!(read.unwrap(), records.clone());
            if let Some(index) = records.len().checked_sub(1) {
                body.truncate(body.len() - cut);
                let read: Result<Vec<Bytes>, _> = Records::new(body.into()).collect();
                prop_assert_eq!(read, Err(Truncated { index }));
            }
        }
    }
}
