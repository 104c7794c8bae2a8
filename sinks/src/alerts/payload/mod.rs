//! From alerts to the body of a request, one file per format. Pure: the same alert, id and time give the
//! same bytes; what a receiver takes for identity never depends on the time of sending.

pub mod alertmanager;
pub mod cloudevents;
pub mod pagerduty;
pub mod slack;

use schemas::event::Alert;
use schemas::id::Uuid;

/// An alert on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// The record.
    pub alert: &'a Alert,
    /// Id of the record, derived from its position in the log: the same whenever it is sent again.
    pub id: Uuid,
}
