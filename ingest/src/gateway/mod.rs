//! Intake over the network: requests in, acknowledged records out.
//!
//! Protocols turn bytes into [`intake::Arrived`] events, one writer numbers and appends them. It does
//! not look for personal data and does not judge what events say.

pub mod avro_batch;
pub mod body;
mod cloudevents;
mod event_json;
pub mod intake;
pub mod problem;
pub mod validate;
