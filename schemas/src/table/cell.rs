//! Rust types as cells: their column type and their bytes in ClickHouse's `RowBinary`.
//!
//! Source of the layout: ClickHouse documentation, "RowBinary format".

use std::collections::BTreeMap;

use super::CellType;
use crate::id::{Sha256, Uuid};
use crate::time::TimestampMicros;

/// A type that can stand in a row.
pub(crate) trait Cell: Sized {
    /// Column type.
    const TYPE: CellType;
    /// Whether it may be absent.
    const NULLABLE: bool = false;
    /// Appends the cell as `RowBinary`.
    fn write(&self, out: &mut Vec<u8>);
}

/// Numbers: little-endian.
macro_rules! number {
    ($($number:ty => $cell:ident),*) => {
        $(impl Cell for $number {
            const TYPE: CellType = CellType::$cell;
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        })*
    };
}
number!(u32 => UInt32, u64 => UInt64, i32 => Int32, i64 => Int64, f64 => Float64);

impl Cell for bool {
    const TYPE: CellType = CellType::Bool;
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

/// `DateTime64(6)`.
impl Cell for TimestampMicros {
    const TYPE: CellType = CellType::Time;
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }
}

/// Two little-endian 64-bit halves, the high one first.
impl Cell for Uuid {
    const TYPE: CellType = CellType::Uuid;
    fn write(&self, out: &mut Vec<u8>) {
        let (high, low) = self.0.split_at(8);
        out.extend(high.iter().rev());
        out.extend(low.iter().rev());
    }
}

/// `FixedString(32)`: the bytes alone.
impl Cell for Sha256 {
    const TYPE: CellType = CellType::Sha256;
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

impl Cell for String {
    const TYPE: CellType = CellType::Text;
    fn write(&self, out: &mut Vec<u8>) {
        write_len(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }
}

/// A byte 1 for absent, else a byte 0 and the value.
impl<T: Cell> Cell for Option<T> {
    const TYPE: CellType = T::TYPE;
    const NULLABLE: bool = true;
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_none()));
        if let Some(value) = self {
            value.write(out);
        }
    }
}

impl Cell for Vec<String> {
    const TYPE: CellType = CellType::TextList;
    fn write(&self, out: &mut Vec<u8>) {
        write_list(self, out);
    }
}

impl Cell for Vec<Uuid> {
    const TYPE: CellType = CellType::UuidList;
    fn write(&self, out: &mut Vec<u8>) {
        write_list(self, out);
    }
}

impl Cell for BTreeMap<String, String> {
    const TYPE: CellType = CellType::TextMap;
    fn write(&self, out: &mut Vec<u8>) {
        write_map(self, out);
    }
}

impl Cell for BTreeMap<String, i64> {
    const TYPE: CellType = CellType::CountMap;
    fn write(&self, out: &mut Vec<u8>) {
        write_map(self, out);
    }
}

fn write_list<T: Cell>(items: &[T], out: &mut Vec<u8>) {
    write_len(items.len(), out);
    items.iter().for_each(|item| item.write(out));
}

fn write_map<T: Cell>(entries: &BTreeMap<String, T>, out: &mut Vec<u8>) {
    write_len(entries.len(), out);
    for (key, value) in entries {
        key.write(out);
        value.write(out);
    }
}

/// Unsigned LEB128.
fn write_len(len: usize, out: &mut Vec<u8>) {
    let mut rest = len;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
