//! Alerts to people: Alertmanager, PagerDuty, CloudEvents webhooks, Slack.
//!
//! Everything but `http` is pure: an alert and a time in, a request out; an answer in, what to do out.
//! Reading the log, waiting and committing are the caller's business.

pub mod config;
pub mod route;
