//! The archive: immutable Parquet objects with a manifest chain, in any object store.
//!
//! The store is the offset store: one object is one commit, by one create-only PUT, and a restart
//! derives its position from what is there (invariants I7, I8).

pub mod archive;
pub mod encode;
pub mod inspect;
pub mod range;
pub mod read;
pub mod recover;
pub mod rows;
pub mod store;
pub mod verify;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod tests;
