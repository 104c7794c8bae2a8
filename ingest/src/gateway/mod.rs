//! Intake over the network: requests in, acknowledged records out.
//!
//! Protocols turn bytes into [`intake::Arrived`] events, one writer numbers and appends them. It does
//! not look for personal data and does not judge what events say.

mod answer;
mod grpc;
mod router;
pub mod auth;
pub mod body;
pub mod intake;
pub mod limits;
pub mod metrics;
pub mod numbering;
pub mod otlp;
pub mod problem;
pub mod quota;
pub mod writer;
