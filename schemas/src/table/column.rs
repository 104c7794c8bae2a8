//! A column: its name, its meaning and its type, independent of any store.

/// Something about a column that a store may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// Few distinct values: `LowCardinality` in ClickHouse, a dictionary in Parquet.
    Category,
    /// Looked up by value: a Bloom filter in both.
    Lookup,
    /// Minimum and maximum mean nothing: no statistics in Parquet.
    Opaque,
    /// Large text: a stronger codec in ClickHouse.
    Large,
    /// In the archive only.
    ArchiveOnly,
}

/// The type of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellType {
    /// Truth value.
    Bool,
    /// Partition number or other small count. Signed in Arrow: Iceberg has no unsigned types.
    UInt32,
    /// Offset. Signed in Arrow.
    UInt64,
    /// Signed 32-bit integer.
    Int32,
    /// Signed 64-bit integer.
    Int64,
    /// IEEE 754 double.
    Float64,
    /// Microseconds since the epoch, UTC.
    Time,
    /// UTF-8 text.
    Text,
    /// RFC 9562 UUID, big-endian.
    Uuid,
    /// SHA-256, 32 bytes.
    Sha256,
    /// Bytes.
    Bytes,
    /// Texts.
    TextList,
    /// UUIDs.
    UuidList,
    /// Text to text.
    TextMap,
    /// Text to signed 64-bit count.
    CountMap,
}

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: &'static str,
    /// Meaning, with unit.
    pub doc: &'static str,
    /// Type.
    pub cell: CellType,
    /// Whether it may be absent.
    pub nullable: bool,
    /// What stores may use.
    pub flags: &'static [Flag],
}

impl Column {
    /// The archive's last column: what the log holds, byte for byte.
    pub(crate) const RAW: Column = Column {
        name: "raw",
        doc: "Exact value bytes of the log record; every other column follows from them and the position",
        cell: CellType::Bytes,
        nullable: false,
        flags: &[Flag::ArchiveOnly, Flag::Opaque],
    };

    /// Whether it has the flag.
    pub fn has(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }
}
