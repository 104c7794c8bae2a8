//! The types that every part of Custody shares: events, ids, topics, keys, limits and their bytes.
//!
//! Pure: no async, no I/O, no clock, no randomness (invariant I1). It does not know how events
//! travel, what is found in them or where they are stored.

pub mod codec;
pub mod event;
pub mod id;
pub mod limits;
pub mod object_key;
pub mod record;
pub mod reject;
pub mod secret;
pub mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod time;
pub mod topic;
