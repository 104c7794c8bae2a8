//! Alerts to people: Alertmanager, PagerDuty, CloudEvents webhooks, Slack.
//!
//! Everything but `http` and the reading of secrets is pure: an alert and a time in, a request out; an
//! answer in, what to do out. Reading the log, waiting and committing are the caller's business.

pub mod answer;
pub mod board;
pub mod config;
pub mod http;
pub mod labels;
pub mod payload;
pub mod receiver;
pub mod route;
#[cfg(test)]
mod tests;
pub mod text;

pub use config::AlertConfig;
