//! Rows by attribute name, fast: looked up for every attribute of every span.

use std::sync::OnceLock;

use super::table::{INDEXED, ROWS, Row};

/// A row and its place in the order of preference.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranked {
    /// The row.
    pub(super) row: Row,
    /// 0 is preferred most.
    pub(super) rank: u16,
}

/// The rows of an attribute, by preference.
pub(super) fn rows_of(attribute: &str) -> &'static [Ranked] {
    static SORTED: OnceLock<Vec<Ranked>> = OnceLock::new();
    // Sorted once: a linear search over more than 200 rows for each attribute would be the largest cost of the
    // mapping.
    let sorted = SORTED.get_or_init(|| {
        let mut rows: Vec<Ranked> = (0..).zip(ROWS).map(|(rank, row)| Ranked { row: *row, rank }).collect();
        rows.sort_by(|a, b| order(a.row.attribute, b.row.attribute));
        rows
    });
    let first = sorted.partition_point(|ranked| order(ranked.row.attribute, attribute).is_lt());
    let count = sorted[first..].iter().take_while(|ranked| ranked.row.attribute == attribute).count();
    &sorted[first..first + count]
}

/// By length first: most comparisons end there.
fn order(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// A row of [`INDEXED`] that `attribute` belongs to, its index, and where what follows it begins.
pub(super) fn indexed(attribute: &str) -> Option<(Row, u64, usize)> {
    let row = INDEXED.iter().find(|row| attribute.starts_with(row.attribute))?;
    let rest = &attribute[row.attribute.len()..];
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let index = rest[..digits].parse().ok()?;
    match rest.as_bytes().get(digits) {
        // `prefix.3` is the value itself, `prefix.3.rest` a member of it; `prefix.3x` is another attribute.
        None => Some((*row, index, attribute.len())),
        Some(b'.') => Some((*row, index, row.attribute.len() + digits + 1)),
        Some(_) => None,
    }
}
