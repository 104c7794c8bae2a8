//! Agent side: what a writer of events does before they reach the log.
//!
//! [`sequencer`] and [`tick`] are pure. With the feature `client`, [`spool`] keeps stamped events on
//! disk and [`client`] sends them to a gateway. It reads no clock: the time is handed in.

pub mod avro_body;
#[cfg(feature = "client")]
pub mod client;
pub mod sequencer;
#[cfg(feature = "client")]
pub mod spool;
pub mod tick;
