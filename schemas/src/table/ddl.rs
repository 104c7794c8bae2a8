//! ClickHouse's side of the columns: types and `CREATE TABLE`.
//!
//! Rows that are inserted twice converge, because the sorting key ends in the position in the log;
//! two events with one id have two positions and both stay. It sends nothing.

use std::fmt::Write as _;

use super::{CellType, Column, Flag, Table};

/// `CREATE TABLE IF NOT EXISTS database.table`, with a comment on every column.
///
/// The deduplication window is what an insert token is remembered over: 100 000 blocks.
pub fn ddl(table: Table, database: &str) -> String {
    let mut out = format!("CREATE TABLE IF NOT EXISTS {database}.{}\n(\n", table.name());
    let columns: Vec<&Column> = loaded(table).collect();
    let lines = columns.iter().map(|column| column_line(column));
    let indices = columns.iter().filter(|column| column.has(Flag::Lookup)).map(|column| index_line(column));
    out.push_str(&lines.chain(indices).collect::<Vec<_>>().join(",\n"));
    let (key, order) = sorting_key(table);
    let _ = write!(
        out,
        "\n)\nENGINE = ReplacingMergeTree\nPARTITION BY toYYYYMM(broker_time)\nPRIMARY KEY ({key})\n\
         ORDER BY ({order})\nSETTINGS non_replicated_deduplication_window = 100000\nCOMMENT {}",
        quoted(table.doc())
    );
    out
}

/// The columns of an insert, comma-separated, in the order of `RowBinary`.
pub fn insert_columns(table: Table) -> String {
    loaded(table).map(|column| column.name).collect::<Vec<_>>().join(", ")
}

fn loaded(table: Table) -> impl Iterator<Item = &'static Column> {
    table.columns().iter().filter(|column| !column.has(Flag::ArchiveOnly))
}

/// Prefix that is kept in memory, and the whole key.
fn sorting_key(table: Table) -> (&'static str, &'static str) {
    match table {
        Table::Events => {
            ("tenant_id, agent_id, event_time", "tenant_id, agent_id, event_time, src_topic, src_partition, src_offset")
        }
        Table::Findings => {
            ("tenant_id, agent_id, event_time", "tenant_id, agent_id, event_time, src_topic, src_partition, src_offset")
        }
        Table::Alerts => {
            ("tenant_id, subject, updated_at", "tenant_id, subject, updated_at, src_topic, src_partition, src_offset")
        }
        Table::ControlTotals => {
            ("topic, partition, hour", "topic, partition, hour, src_topic, src_partition, src_offset")
        }
    }
}

fn column_line(column: &Column) -> String {
    let codec = match (column.cell, column.has(Flag::Large)) {
        (_, true) => " CODEC(ZSTD(3))",
        (CellType::Time | CellType::UInt64, _) if !column.nullable => " CODEC(Delta, ZSTD(1))",
        _ => "",
    };
    format!("    {} {} COMMENT {}{codec}", column.name, column.clickhouse_type(), quoted(column.doc))
}

fn index_line(column: &Column) -> String {
    let name = column.name;
    format!("    INDEX {name}_bloom {name} TYPE bloom_filter(0.01) GRANULARITY 4")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

impl Column {
    /// Its type in ClickHouse.
    pub fn clickhouse_type(&self) -> String {
        let plain = match self.cell {
            CellType::Bool => "Bool",
            CellType::UInt32 => "UInt32",
            CellType::UInt64 => "UInt64",
            CellType::Int32 => "Int32",
            CellType::Int64 => "Int64",
            CellType::Float64 => "Float64",
            CellType::Time => "DateTime64(6, 'UTC')",
            CellType::Text | CellType::Bytes => "String",
            CellType::Uuid => "UUID",
            CellType::Sha256 => "FixedString(32)",
            CellType::TextList => "Array(String)",
            CellType::UuidList => "Array(UUID)",
            CellType::TextMap => "Map(LowCardinality(String), String)",
            CellType::CountMap => "Map(LowCardinality(String), Int64)",
        };
        match (self.nullable, self.has(Flag::Category)) {
            (true, _) => format!("Nullable({plain})"),
            (false, true) => format!("LowCardinality({plain})"),
            (false, false) => plain.to_owned(),
        }
    }
}
