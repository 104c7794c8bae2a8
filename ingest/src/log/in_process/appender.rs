//! The intake producer of an in-process log. What a write means is the store's.

use std::fmt;

use schemas::record::{OutRecord, Position};

use super::{InProcessBroker, Placed, Store, Write};
use crate::log::{Appender, LogError};

/// An intake producer.
pub struct InProcessAppender<S> {
    pub(super) broker: InProcessBroker<S>,
}

impl<S> fmt::Debug for InProcessAppender<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessAppender").finish_non_exhaustive()
    }
}

impl<S: Store> Appender for InProcessAppender<S> {
    async fn append(&mut self, records: Vec<OutRecord>) -> Result<Vec<Position>, LogError> {
        let records: Result<Vec<Placed>, LogError> = records.into_iter().map(|r| self.broker.place(r)).collect();
        self.broker.write(Write { records: records?, ..Write::default() }).await
    }
}
