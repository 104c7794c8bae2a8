//! Which output formats may be sent block by block as the engine makes them.
//!
//! The engine formats each block of a streamed SELECT as if it were the whole answer. Formats without frame join as
//! they are; two binary ones repeat a header, which is cut off here; all others are buffered.

const JOINED: [&str; 13] = [
    "TSV",
    "TabSeparated",
    "TSVRaw",
    "TabSeparatedRaw",
    "CSV",
    "JSONEachRow",
    "JSONLines",
    "NDJSON",
    "JSONCompactEachRow",
    "JSONStringsEachRow",
    "JSONCompactStringsEachRow",
    "RowBinary",
    "Native",
];

/// How blocks of a format join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joining {
    /// One after the other.
    AsIs,
    /// The first names this many texts per column, and so does every other block.
    HeaderTexts(u64),
}

/// How blocks of the format join, or `None` if the answer must be buffered.
pub(crate) fn joining(format: &str) -> Option<Joining> {
    match format {
        "RowBinaryWithNames" => Some(Joining::HeaderTexts(1)),
        "RowBinaryWithNamesAndTypes" => Some(Joining::HeaderTexts(2)),
        _ if JOINED.contains(&format) => Some(Joining::AsIs),
        _ => None,
    }
}

/// Cuts repeated headers off.
#[derive(Debug)]
pub(crate) struct Joiner {
    joining: Joining,
    header: Option<Vec<u8>>,
}

impl Joiner {
    /// For one answer.
    pub(crate) fn new(joining: Joining) -> Self {
        Self { joining, header: None }
    }

    /// The part of the block that belongs to the answer; `None` if its header is not that of the first block.
    pub(crate) fn part<'b>(&mut self, block: &'b [u8]) -> Option<&'b [u8]> {
        let Joining::HeaderTexts(per_column) = self.joining else { return Some(block) };
        match &self.header {
            Some(header) => block.strip_prefix(&header[..]),
            None => {
                self.header = Some(block.get(..header_bytes(block, per_column)?)?.to_vec());
                Some(block)
            }
        }
    }
}

/// LEB128 count of columns, then that many texts `per_column`, each a LEB128 length and bytes.
fn header_bytes(block: &[u8], per_column: u64) -> Option<usize> {
    let (columns, mut at) = varint(block)?;
    for _ in 0..columns.checked_mul(per_column)? {
        let (length, bytes) = varint(block.get(at..)?)?;
        at = at.checked_add(bytes)?.checked_add(usize::try_from(length).ok()?)?;
    }
    (at <= block.len()).then_some(at)
}

fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn formats_with_a_frame_are_buffered() {
        assert_eq!(joining("TSV"), Some(Joining::AsIs));
        assert_eq!(joining("RowBinaryWithNamesAndTypes"), Some(Joining::HeaderTexts(2)));
        for format in ["JSON", "JSONCompact", "TSVWithNames", "CSVWithNames", "Parquet", "Pretty", "XML", "Arrow", ""] {
            assert_eq!(joining(format), None, "{format}");
        }
    }

    #[test]
    fn only_the_first_header_is_kept() {
        let mut joiner = Joiner::new(Joining::HeaderTexts(2));
        assert_eq!(joiner.part(b"\x01\x01a\x05UInt8\x07"), Some(&b"\x01\x01a\x05UInt8\x07"[..]));
        assert_eq!(joiner.part(b"\x01\x01a\x05UInt8\x08\x09"), Some(&b"\x08\x09"[..]));
        assert_eq!(joiner.part(b"\x01\x01b\x05UInt8\x08"), None);
        assert_eq!(Joiner::new(Joining::AsIs).part(b"\x01\x01b"), Some(&b"\x01\x01b"[..]));
    }

    proptest! {
        #[test]
        fn arbitrary_blocks_never_panic(block in proptest::collection::vec(any::<u8>(), 0..60), texts in 1u64..3) {
            if let Some(bytes) = header_bytes(&block, texts) {
                prop_assert!(bytes <= block.len());
            }
        }
    }
}
