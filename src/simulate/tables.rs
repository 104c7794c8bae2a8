//! The tables of the simulation: what ClickHouse does with inserts and their tokens, behind a gate.
//!
//! An insert is atomic; one under a token that its table has seen adds nothing and says so to nobody.
//! Whether a token is remembered for long enough is asked of the real server, in `tests/live`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use schemas::table::Table;
use sinks::clickhouse::insert::{BatchInsert, LoadBatch};
use sinks::error::{ErrorClass, SinkError};
use sinks::publication::Publication;

use super::Broken;
use super::chaos::{FaultKind, Gate, Operation};
use crate::load_role::RowSink;

/// An insert that took effect.
#[derive(Debug, Clone)]
pub(super) struct Inserted {
    pub(super) of: Publication,
    pub(super) insert: BatchInsert,
}

/// Everything that was inserted, by table and token; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables(Arc<Mutex<BTreeMap<(Table, String), Inserted>>>);

impl Tables {
    pub(super) fn all(&self) -> Vec<Inserted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn add(&self, of: &Publication, insert: BatchInsert) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (insert.table, insert.token.clone());
        // The first one stays, whatever the second holds: so does ClickHouse.
        held.entry(key).or_insert_with(|| Inserted { of: of.clone(), insert });
    }
}

/// The tables as one life of a role sees them.
#[derive(Debug)]
pub(super) struct SimSink {
    pub(super) tables: Tables,
    pub(super) gate: Gate,
    pub(super) broken: Option<Broken>,
    /// What a build that commits before it writes has not written yet.
    unwritten: Mutex<Vec<(Publication, BatchInsert)>>,
}

impl SimSink {
    pub(super) fn new(tables: Tables, gate: Gate, broken: Option<Broken>) -> Self {
        Self { tables, gate, broken, unwritten: Mutex::default() }
    }

    fn write_late(&self) {
        let late = std::mem::take(&mut *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner));
        late.into_iter().for_each(|(of, insert)| self.tables.add(&of, insert));
    }
}

impl Drop for SimSink {
    fn drop(&mut self) {
        // A role that ends cleanly writes what it owes; one that dies does not, which is the defect.
        if !self.gate.is_crashed() {
            self.write_late();
        }
    }
}

fn outage() -> SinkError {
    SinkError::new(ErrorClass::Retry, "insert", "simulated fault")
}

impl RowSink for SimSink {
    async fn insert(&self, batch: &LoadBatch) -> Result<BTreeMap<Table, u64>, SinkError> {
        let publication = batch.publication();
        let fault = self.gate.pass(Operation::Insert, publication.topic.name()).await;
        if fault == Some(FaultKind::Refused) {
            return Err(outage());
        }
        self.write_late();
        let mut rows = BTreeMap::new();
        for mut insert in batch.inserts() {
            if self.broken == Some(Broken::TokenWithoutRange) {
                insert.token = format!("{}:{}:{}", insert.table.name(), publication.topic, publication.partition);
            }
            // Counted as sent: ClickHouse answers the same for an insert that it leaves out as repeated.
            *rows.entry(insert.table).or_default() += insert.rows;
            match self.broken {
                Some(Broken::CommitBeforeWrite) => {
                    let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
                    unwritten.push((publication.clone(), insert));
                }
                _ => self.tables.add(&publication, insert),
            }
            // After the first table: the others of the batch are missing until it is tried again.
            if fault == Some(FaultKind::Partial) {
                return Err(outage());
            }
        }
        match fault {
            Some(FaultKind::CrashAfter) => self.gate.crash().await,
            Some(FaultKind::AnswerLost) => return Err(outage()),
            _ => {}
        }
        Ok(rows)
    }
}
