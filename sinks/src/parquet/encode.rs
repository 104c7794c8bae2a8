//! Record batches to the bytes of one Parquet object, and its provenance back out of the footer.
//!
//! The same rows in the same batches give the same bytes (invariant I6). It knows no column by
//! meaning: the caller says which ones repeat and which ones are looked up.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde_json::Value;

use crate::publication::Publication;

/// Prefix of our keys in the footer.
const FOOTER_PREFIX: &str = "custody.";
/// Footer key of the build that wrote the object.
const FOOTER_WRITER: &str = "custody.writer";

/// How columns are stored.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// Columns whose values repeat: dictionary-encoded. A dictionary over ids or payloads costs time
    /// and space (measured: 388 k against 410 k events/s, 41.6 against 40.5 MB).
    pub dictionary: Vec<String>,
    /// Columns that are looked up by value: with a Bloom filter.
    pub bloom: Vec<String>,
    /// Columns of which minimum and maximum mean nothing: no statistics.
    pub opaque: Vec<String>,
    /// Encoded size after which a row group ends, bytes: what a reader holds at a time.
    pub row_group_bytes_max: usize,
}

/// Writes one object in memory.
#[derive(Debug)]
pub struct ObjectWriter {
    writer: ArrowWriter<Vec<u8>>,
    build: String,
}

impl ObjectWriter {
    /// An object of that schema; `build` names the writer, e.g. `custody/0.1.0`.
    ///
    /// # Errors
    /// The schema has a type that Parquet lacks: a defect.
    pub fn new(schema: SchemaRef, layout: &Layout, build: &str) -> Result<Self> {
        let mut properties = WriterProperties::builder()
            .set_created_by(build.to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_max_row_group_bytes(Some(layout.row_group_bytes_max.max(1)));
        let path = |name: &String| ColumnPath::from(name.as_str());
        for name in &layout.dictionary {
            properties = properties.set_column_dictionary_enabled(path(name), true);
        }
        for name in &layout.bloom {
            let values_max = bloom_values_max(layout.row_group_bytes_max);
            properties = properties.set_column_bloom_filter_max_ndv(path(name), values_max);
        }
        for name in &layout.opaque {
            properties = properties.set_column_statistics_enabled(path(name), EnabledStatistics::None);
        }
        let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties.build()))?;
        Ok(Self { writer, build: build.to_owned() })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// The batch has another schema: a defect.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch)
    }

    /// Memory held, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.writer.memory_size() + self.writer.bytes_written()
    }

    /// The object's bytes, with the publication in its footer.
    ///
    /// # Errors
    /// As [`ObjectWriter::write`].
    pub fn finish(mut self, publication: &Publication) -> Result<Bytes> {
        for (key, value) in footer_of(publication) {
            self.writer.append_key_value_metadata(KeyValue::new(key, value));
        }
        self.writer.append_key_value_metadata(KeyValue::new(FOOTER_WRITER.to_owned(), self.build));
        Ok(Bytes::from(self.writer.into_inner()?))
    }
}

/// Distinct values that a row group's Bloom filter is made for: one per 128 encoded bytes, as small
/// events have. The library's default of a million makes filters that no cache holds (measured: 1.5 µs
/// of 9 an event).
fn bloom_values_max(row_group_bytes_max: usize) -> u64 {
    (row_group_bytes_max as u64 / 128).clamp(1_024, 1 << 20)
}

/// One footer entry per field: `custody.offset_first` = `100`; texts bare, the rest as JSON.
fn footer_of(publication: &Publication) -> Vec<(String, String)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(publication) else { return Vec::new() };
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    fields.into_iter().map(|(name, value)| (format!("{FOOTER_PREFIX}{name}"), text(value))).collect()
}

/// The publication in an object's footer.
///
/// # Errors
/// The footer does not hold one: the object is not ours, or it was altered.
pub fn publication_of(metadata: &ParquetMetaData) -> Result<Publication> {
    let entries = metadata.file_metadata().key_value_metadata().map(Vec::as_slice).unwrap_or_default();
    let ours = entries.iter().filter(|entry| entry.key != FOOTER_WRITER).filter_map(|entry| {
        let name = entry.key.strip_prefix(FOOTER_PREFIX)?;
        let text = entry.value.clone().unwrap_or_default();
        let value = match name {
            "topic" | "row_digest" => Value::String(text),
            _ => serde_json::from_str(&text).unwrap_or(Value::Null),
        };
        Some((name.to_owned(), value))
    });
    serde_json::from_value(Value::Object(ours.collect()))
        .map_err(|error| ParquetError::General(format!("the footer holds no publication: {error}")))
}

/// Reads the footer of an object that is in memory.
///
/// # Errors
/// The bytes are not a Parquet object: torn or altered.
pub fn metadata_of(bytes: &Bytes) -> Result<ParquetMetaData> {
    ParquetMetaDataReader::new().parse_and_finish(bytes)
}
