//! The whole gateway over real sockets: every answer, faults of the log, hostile requests, its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod faults;
mod hostile;
mod otlp;
mod secure;
