//! The archive's side of the columns: Arrow schema, rows to record batches and back.
//!
//! Types are those that Parquet and Iceberg share: signed integers, UTC timestamps in microseconds.
//! Every field, nested ones included, carries its Parquet field id, so that a table format can take
//! the files over. It knows no Parquet writer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayBuilder, ArrayRef, AsArray as _, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, Float64Builder,
    Int32Builder, Int64Builder, ListBuilder, MapBuilder, MapFieldNames, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{
    DataType, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;

use super::{AlertRow, CellType, Column, ControlTotalRow, EventRow, FindingRow, Row, Table};
use crate::id::{Sha256, Uuid};
use crate::time::TimestampMicros;

/// Metadata key of a Parquet field id, as in `parquet::arrow::PARQUET_FIELD_ID_META_KEY`.
const FIELD_ID: &str = "PARQUET:field_id";
/// Ids of nested fields start here: column `i` has `NESTED_FIRST + 2 * i` and the one after it.
const NESTED_FIRST: usize = 1_000;
/// Rows that builders make room for at the start.
const CAPACITY: usize = 1_024;

/// The archive's schema of a table.
pub fn arrow_schema(table: Table) -> SchemaRef {
    let fields = (1..).zip(table.columns()).map(|(id, column)| column.arrow_field(id));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

impl Column {
    /// Its Arrow field under that field id.
    fn arrow_field(&self, id: usize) -> Field {
        with_id(Field::new(self.name, data_type(self.cell, id), self.nullable), id)
    }
}

fn with_id(field: Field, id: usize) -> Field {
    field.with_metadata(HashMap::from([(FIELD_ID.to_owned(), id.to_string())]))
}

fn data_type(cell: CellType, id: usize) -> DataType {
    match cell {
        CellType::Bool => DataType::Boolean,
        CellType::UInt32 | CellType::Int32 => DataType::Int32,
        CellType::UInt64 | CellType::Int64 => DataType::Int64,
        CellType::Float64 => DataType::Float64,
        CellType::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        CellType::Text => DataType::Utf8,
        CellType::Uuid => DataType::FixedSizeBinary(16),
        CellType::Sha256 => DataType::FixedSizeBinary(32),
        CellType::Bytes => DataType::Binary,
        CellType::TextList => DataType::List(element(CellType::Text, id)),
        CellType::UuidList => DataType::List(element(CellType::Uuid, id)),
        CellType::TextMap => map_type(CellType::Text, id),
        CellType::CountMap => map_type(CellType::Int64, id),
    }
}

fn nested(name: &str, cell: CellType, id: usize) -> Arc<Field> {
    Arc::new(with_id(Field::new(name, data_type(cell, id), false), id))
}

fn element(cell: CellType, id: usize) -> Arc<Field> {
    nested("element", cell, NESTED_FIRST + 2 * id)
}

fn map_fields(value: CellType, id: usize) -> [Arc<Field>; 2] {
    let first = NESTED_FIRST + 2 * id;
    [nested("key", CellType::Text, first), nested("value", value, first + 1)]
}

fn map_type(value: CellType, id: usize) -> DataType {
    let entries = DataType::Struct(map_fields(value, id).into_iter().collect());
    DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
}

/// A cell type that Arrow can hold. `id` is the column's field id.
pub(super) trait ArrowCell: Sized {
    /// Its builder.
    type Builder: ArrayBuilder;
    /// An empty builder.
    fn builder(id: usize) -> Self::Builder;
    /// Appends a cell.
    fn append(&self, builder: &mut Self::Builder);
    /// Appends an absent cell.
    fn append_none(builder: &mut Self::Builder);
    /// The cell of a row; `None` where the column has another type or the cell is absent.
    fn get(column: &dyn Array, row: usize) -> Option<Self>;
}

/// Cells whose builder takes them as `$value`.
macro_rules! arrow_cell {
    ($ty:ty, $builder:ty, $new:expr, |$cell:ident| $value:expr, |$column:ident, $row:ident| $get:expr) => {
        impl ArrowCell for $ty {
            type Builder = $builder;
            fn builder(_id: usize) -> Self::Builder {
                $new
            }
            fn append(&self, builder: &mut Self::Builder) {
                let $cell = self;
                builder.append_value($value);
            }
            fn append_none(builder: &mut Self::Builder) {
                builder.append_null();
            }
            fn get($column: &dyn Array, $row: usize) -> Option<Self> {
                if $column.is_null($row) {
                    return None;
                }
                $get
            }
        }
    };
}
arrow_cell!(bool, BooleanBuilder, BooleanBuilder::with_capacity(CAPACITY), |cell| *cell, |column, row| column
    .as_boolean_opt()
    .map(|a| a.value(row)));
arrow_cell!(i32, Int32Builder, Int32Builder::with_capacity(CAPACITY), |cell| *cell, |column, row| column
    .as_primitive_opt::<Int32Type>()
    .map(|a| a.value(row)));
// Partition numbers and offsets of a log are below 2^31 and 2^63: Kafka's are signed.
arrow_cell!(u32, Int32Builder, Int32Builder::with_capacity(CAPACITY), |cell| *cell as i32, |column, row| column
    .as_primitive_opt::<Int32Type>()
    .map(|a| a.value(row) as u32));
arrow_cell!(i64, Int64Builder, Int64Builder::with_capacity(CAPACITY), |cell| *cell, |column, row| column
    .as_primitive_opt::<Int64Type>()
    .map(|a| a.value(row)));
arrow_cell!(u64, Int64Builder, Int64Builder::with_capacity(CAPACITY), |cell| *cell as i64, |column, row| column
    .as_primitive_opt::<Int64Type>()
    .map(|a| a.value(row) as u64));
arrow_cell!(f64, Float64Builder, Float64Builder::with_capacity(CAPACITY), |cell| *cell, |column, row| column
    .as_primitive_opt::<Float64Type>()
    .map(|a| a.value(row)));
arrow_cell!(
    TimestampMicros,
    TimestampMicrosecondBuilder,
    TimestampMicrosecondBuilder::with_capacity(CAPACITY).with_timezone("UTC"),
    |cell| cell.0,
    |column, row| column.as_primitive_opt::<TimestampMicrosecondType>().map(|a| TimestampMicros(a.value(row)))
);
arrow_cell!(String, StringBuilder, StringBuilder::with_capacity(CAPACITY, CAPACITY), |cell| cell, |column, row| column
    .as_string_opt::<i32>()
    .map(|a| a.value(row).to_owned()));

/// Fixed bytes. Their builder fails on another length alone, which the types rule out.
macro_rules! fixed_cell {
    ($ty:ident, $size:literal) => {
        impl ArrowCell for $ty {
            type Builder = FixedSizeBinaryBuilder;
            fn builder(_id: usize) -> Self::Builder {
                FixedSizeBinaryBuilder::with_capacity(CAPACITY, $size)
            }
            #[allow(clippy::expect_used)]
            fn append(&self, builder: &mut Self::Builder) {
                builder.append_value(self.0).expect("I6: a digest or id has the length of its column");
            }
            fn append_none(builder: &mut Self::Builder) {
                builder.append_null();
            }
            fn get(column: &dyn Array, row: usize) -> Option<Self> {
                let array = column.as_fixed_size_binary_opt().filter(|array| array.is_valid(row))?;
                array.value(row).try_into().ok().map($ty)
            }
        }
    };
}
fixed_cell!(Uuid, 16);
fixed_cell!(Sha256, 32);

impl<T: ArrowCell> ArrowCell for Option<T> {
    type Builder = T::Builder;
    fn builder(id: usize) -> Self::Builder {
        T::builder(id)
    }
    fn append(&self, builder: &mut Self::Builder) {
        match self {
            Some(cell) => cell.append(builder),
            None => T::append_none(builder),
        }
    }
    fn append_none(builder: &mut Self::Builder) {
        T::append_none(builder);
    }
    fn get(column: &dyn Array, row: usize) -> Option<Self> {
        match column.is_null(row) {
            true => Some(None),
            false => T::get(column, row).map(Some),
        }
    }
}

/// Lists of `$item`.
macro_rules! list_cell {
    ($item:ty, $cell:ident) => {
        impl ArrowCell for Vec<$item> {
            type Builder = ListBuilder<<$item as ArrowCell>::Builder>;
            fn builder(id: usize) -> Self::Builder {
                ListBuilder::new(<$item>::builder(id)).with_field(element(CellType::$cell, id))
            }
            fn append(&self, builder: &mut Self::Builder) {
                self.iter().for_each(|item| item.append(builder.values()));
                builder.append(true);
            }
            fn append_none(builder: &mut Self::Builder) {
                builder.append(false);
            }
            fn get(column: &dyn Array, row: usize) -> Option<Self> {
                let items = column.as_list_opt::<i32>()?.value(row);
                (0..items.len()).map(|item| <$item>::get(&items, item)).collect()
            }
        }
    };
}
list_cell!(String, Text);
list_cell!(Uuid, Uuid);

/// Maps from text to `$value`.
macro_rules! map_cell {
    ($value:ty, $cell:ident) => {
        impl ArrowCell for BTreeMap<String, $value> {
            type Builder = MapBuilder<StringBuilder, <$value as ArrowCell>::Builder>;
            fn builder(id: usize) -> Self::Builder {
                let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
                let [key, value] = map_fields(CellType::$cell, id);
                MapBuilder::new(Some(names), String::builder(id), <$value>::builder(id))
                    .with_keys_field(key)
                    .with_values_field(value)
            }
            #[allow(clippy::expect_used)]
            fn append(&self, builder: &mut Self::Builder) {
                for (key, value) in self {
                    key.append(builder.keys());
                    value.append(builder.values());
                }
                builder.append(true).expect("I6: every key has a value");
            }
            #[allow(clippy::expect_used)]
            fn append_none(builder: &mut Self::Builder) {
                builder.append(false).expect("I6: every key has a value");
            }
            fn get(column: &dyn Array, row: usize) -> Option<Self> {
                let entries = column.as_map_opt()?.value(row);
                let cells = |row| Some((String::get(entries.column(0), row)?, <$value>::get(entries.column(1), row)?));
                (0..entries.len()).map(cells).collect()
            }
        }
    };
}
map_cell!(String, Text);
map_cell!(i64, Int64);

/// Builders of all cells of a row type.
pub(super) trait ArrowRow: Sized {
    /// One builder per field.
    type Builders: std::fmt::Debug;
    /// Empty builders.
    fn builders() -> Self::Builders;
    /// Appends a row.
    fn append(&self, builders: &mut Self::Builders);
    /// The gathered columns, in order; leaves the builders empty.
    fn finish(builders: &mut Self::Builders) -> Vec<ArrayRef>;
    /// A row of columns in order.
    fn get(columns: &[ArrayRef], row: usize) -> Option<Self>;
}

/// Implements [`ArrowRow`] field by field.
macro_rules! arrow_row {
    ($name:ident { $($field:ident: $ty:ty),* }) => {
        const _: () = {
            use $crate::table::arrow::{ArrowCell, ArrowRow};

            /// One builder per field.
            #[derive(Debug)]
            pub(super) struct Builders {
                $($field: <$ty as ArrowCell>::Builder,)*
            }

            impl ArrowRow for $name {
                type Builders = Builders;
                fn builders() -> Builders {
                    let mut ids = 1..;
                    Builders { $($field: <$ty>::builder(ids.next().unwrap_or_default()),)* }
                }
                fn append(&self, builders: &mut Builders) {
                    $(ArrowCell::append(&self.$field, &mut builders.$field);)*
                }
                fn finish(builders: &mut Builders) -> Vec<::arrow::array::ArrayRef> {
                    use ::arrow::array::ArrayBuilder;
                    vec![$(ArrayBuilder::finish(&mut builders.$field)),*]
                }
                fn get(columns: &[::arrow::array::ArrayRef], row: usize) -> Option<Self> {
                    let mut columns = columns.iter();
                    Some(Self { $($field: <$ty as ArrowCell>::get(columns.next()?, row)?,)* })
                }
            }
        };
    };
}
pub(super) use arrow_row;

#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
enum Builders {
    Events(<EventRow as ArrowRow>::Builders),
    Findings(<FindingRow as ArrowRow>::Builders),
    Alerts(<AlertRow as ArrowRow>::Builders),
    ControlTotals(<ControlTotalRow as ArrowRow>::Builders),
}

/// Gathers rows of one table, and the exact bytes that they follow from, into record batches.
#[derive(Debug)]
pub struct RecordBatchBuilder {
    schema: SchemaRef,
    builders: Builders,
    raw: BinaryBuilder,
}

impl RecordBatchBuilder {
    /// No rows.
    pub fn new(table: Table) -> Self {
        let builders = match table {
            Table::Events => Builders::Events(EventRow::builders()),
            Table::Findings => Builders::Findings(FindingRow::builders()),
            Table::Alerts => Builders::Alerts(AlertRow::builders()),
            Table::ControlTotals => Builders::ControlTotals(ControlTotalRow::builders()),
        };
        Self { schema: arrow_schema(table), builders, raw: BinaryBuilder::new() }
    }

    /// Columns.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Rows gathered.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a row and the exact value bytes that it follows from.
    ///
    /// # Errors
    /// The row is of another table: a defect.
    pub fn push(&mut self, row: &Row, raw: &[u8]) -> Result<(), ArrowError> {
        match (&mut self.builders, row) {
            (Builders::Events(builders), Row::Event(row)) => row.append(builders),
            (Builders::Findings(builders), Row::Finding(row)) => row.append(builders),
            (Builders::Alerts(builders), Row::Alert(row)) => row.append(builders),
            (Builders::ControlTotals(builders), Row::ControlTotal(row)) => row.append(builders),
            (_, row) => {
                let message = format!("a row of {} among those of another table", row.table().name());
                return Err(ArrowError::InvalidArgumentError(message));
            }
        }
        self.raw.append_value(raw);
        Ok(())
    }

    /// The rows gathered; starts anew.
    ///
    /// # Errors
    /// The columns do not make a batch: a defect.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let mut columns = match &mut self.builders {
            Builders::Events(builders) => EventRow::finish(builders),
            Builders::Findings(builders) => FindingRow::finish(builders),
            Builders::Alerts(builders) => AlertRow::finish(builders),
            Builders::ControlTotals(builders) => ControlTotalRow::finish(builders),
        };
        columns.push(Arc::new(self.raw.finish()));
        RecordBatch::try_new(self.schema.clone(), columns)
    }
}

/// Row number `index` of a batch and its exact value bytes; `None` where the batch does not have the
/// table's columns.
pub fn row_at(table: Table, batch: &RecordBatch, index: usize) -> Option<(Row, &[u8])> {
    if index >= batch.num_rows() {
        return None;
    }
    let (raw, columns) = batch.columns().split_last()?;
    let row = match table {
        Table::Events => Row::Event(EventRow::get(columns, index)?),
        Table::Findings => Row::Finding(FindingRow::get(columns, index)?),
        Table::Alerts => Row::Alert(AlertRow::get(columns, index)?),
        Table::ControlTotals => Row::ControlTotal(ControlTotalRow::get(columns, index)?),
    };
    Some((row, raw.as_binary_opt::<i32>()?.value(index)))
}
