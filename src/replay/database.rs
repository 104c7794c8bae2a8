//! Replayed records as rows of a ClickHouse database, by the loader's own batches.

use schemas::record::Record;
use sinks::clickhouse::client::{ClickHouse, ClickHouseConfig};
use sinks::clickhouse::insert::{ClickHouseSink, LoadBatch, LoadConfig};
use sinks::clickhouse::migrate::migrate;

use super::Taker;

/// Fills a database.
#[derive(Debug)]
pub struct IntoDatabase {
    sink: ClickHouseSink,
    config: LoadConfig,
    batch: Option<LoadBatch>,
}

impl IntoDatabase {
    /// Drops the database, if there is one, and makes it anew.
    ///
    /// # Errors
    /// ClickHouse refuses or is away.
    pub async fn create(config: &ClickHouseConfig) -> anyhow::Result<Self> {
        let server = ClickHouse::new(config)?;
        server.execute(&format!("DROP DATABASE IF EXISTS {} SYNC", config.database)).await?;
        migrate(&server).await?;
        Ok(Self { sink: ClickHouseSink::open(config).await?, config: LoadConfig::default(), batch: None })
    }
}

impl Taker for IntoDatabase {
    async fn take(&mut self, record: Record) -> anyhow::Result<()> {
        let open = || LoadBatch::open(record.at.partition, record.at.offset, &record);
        let batch = self.batch.get_or_insert_with(open);
        batch.push(&record)?;
        match batch.is_full(&self.config) {
            true => self.end_object().await,
            false => Ok(()),
        }
    }

    async fn end_object(&mut self) -> anyhow::Result<()> {
        if let Some(batch) = self.batch.take() {
            self.sink.insert(&batch).await?;
        }
        Ok(())
    }
}
