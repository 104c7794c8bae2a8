//! Bytes of the embedded log: keys and values of its three keyspaces, version 1.
//!
//! Numbers in keys are big-endian, so that keys sort as numbers do; numbers in values are
//! little-endian or LEB128 varints. Every value starts with [`VERSION`]. Decoding is total: it gives
//! a value or says what is wrong. It performs no I/O.
//!
//! | keyspace | key | value after the version byte |
//! |---|---|---|
//! | records | topic id `u16`, partition `u32`, offset `u64` | flags `u8` (1 key, 2 value), time µs `i64`, then, each with a varint length before it: key; header count, then name and value of each; the record's value is the rest |
//! | state | topic id `u16`, partition `u32`, entry key | entry value |
//! | meta | `t` topic name | topic id `u16`, partitions `u32` |
//! | meta | `n` topic id `u16`, partition `u32` | next offset `u64` |
//! | meta | `o` group, 0, topic id `u16`, partition `u32` | next offset `u64`, metadata |
//! | meta | `c` number of the commit `u64` | nothing |

use bytes::{BufMut as _, Bytes};
use schemas::record::{OutRecord, Position, Record};
use schemas::time::TimestampMicros;

/// First byte of every value.
pub(super) const VERSION: u8 = 1;
const HAS_KEY: u8 = 1;
const HAS_VALUE: u8 = 2;

/// A partition as it stands in keys: topic id and number.
pub(super) type PartitionKey = [u8; 6];

pub(super) fn partition_key(topic_id: u16, partition: u32) -> PartitionKey {
    let (t, p) = (topic_id.to_be_bytes(), partition.to_be_bytes());
    [t[0], t[1], p[0], p[1], p[2], p[3]]
}

pub(super) fn record_key(partition: PartitionKey, offset: u64) -> [u8; 14] {
    let mut key = [0; 14];
    key[..6].copy_from_slice(&partition);
    key[6..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The offset in a record's key.
pub(super) fn offset_of(key: &[u8]) -> Result<u64, String> {
    let offset = key.get(6..).and_then(|b| <[u8; 8]>::try_from(b).ok());
    offset.map(u64::from_be_bytes).ok_or_else(|| format!("record key of {} bytes", key.len()))
}

pub(super) fn state_key(partition: PartitionKey, key: &[u8]) -> Vec<u8> {
    [partition.as_slice(), key].concat()
}

pub(super) fn topic_key(name: &str) -> Vec<u8> {
    [b"t", name.as_bytes()].concat()
}

pub(super) fn next_key(partition: PartitionKey) -> Vec<u8> {
    [b"n", partition.as_slice()].concat()
}

pub(super) fn offset_key(group: &str, partition: PartitionKey) -> Vec<u8> {
    [b"o", group.as_bytes(), &[0], partition.as_slice()].concat()
}

pub(super) fn commit_key(number: u64) -> [u8; 9] {
    let mut key = [b'c'; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number in a commit's key.
pub(super) fn commit_of(key: &[u8]) -> Result<u64, String> {
    let number = key.get(1..).and_then(|b| <[u8; 8]>::try_from(b).ok());
    number.map(u64::from_be_bytes).ok_or_else(|| format!("commit key of {} bytes", key.len()))
}

/// A version byte and `parts`.
pub(super) fn value(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![VERSION];
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

fn put_varint(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// A record's value in the keyspace `records`.
pub(super) fn encode(record: &OutRecord, timestamp: TimestampMicros) -> Vec<u8> {
    let value = record.value.as_deref().unwrap_or_default();
    let key = record.key.as_deref().unwrap_or_default();
    let headers: usize = record.headers.iter().map(|(n, v)| n.len() + v.len() + 10).sum();
    let mut out = Vec::with_capacity(20 + key.len() + headers + value.len());
    // An absent value (a tombstone) and an empty one have the same bytes; the flags keep them apart.
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(VERSION);
    out.push(flag(record.key.is_some(), HAS_KEY) | flag(record.value.is_some(), HAS_VALUE));
    out.put_i64_le(timestamp.0);
    put_bytes(&mut out, key);
    put_varint(&mut out, record.headers.len());
    for (name, value) in &record.headers {
        put_bytes(&mut out, name.as_bytes());
        put_bytes(&mut out, value);
    }
    // Last and without a length: the rest of the value is the record's, and is read without a copy.
    out.extend_from_slice(value);
    out
}

/// Reads a value front to back without copying.
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    /// Behind a version byte that this program knows.
    pub(super) fn open(bytes: Bytes) -> Result<Self, String> {
        let mut reader = Self(bytes);
        match reader.u8()? {
            VERSION => Ok(reader),
            // A later version may have moved anything: guessing would read wrong records as right ones.
            other => Err(format!("layout version {other}; this program reads version {VERSION}")),
        }
    }

    fn take(&mut self, count: usize) -> Result<Bytes, String> {
        if count > self.0.len() {
            return Err(format!("{count} bytes wanted, {} left", self.0.len()));
        }
        Ok(self.0.split_to(count))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        <[u8; N]>::try_from(bytes.as_ref()).map_err(|e| e.to_string())
    }

    fn u8(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|b| b[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn varint(&mut self) -> Result<usize, String> {
        let mut number = 0_u64;
        // Five bytes hold 35 bits: more than any length here, and a damaged varint cannot make the loop long.
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return usize::try_from(number).map_err(|e| e.to_string());
            }
        }
        Err("a length of more than five bytes".to_owned())
    }

    fn bytes(&mut self) -> Result<Bytes, String> {
        let count = self.varint()?;
        self.take(count)
    }
}

/// The record that `value` holds.
pub(super) fn decode(at: Position, value: Bytes) -> Result<Record, String> {
    let mut reader = Reader::open(value)?;
    let flags = reader.u8()?;
    let timestamp = TimestampMicros(reader.array().map(i64::from_le_bytes)?);
    let key = reader.bytes()?;
    let count = reader.varint()?;
    // A torn count must not reserve memory: each header takes two bytes at least.
    let mut headers = Vec::with_capacity(count.min(reader.0.len() / 2));
    for _ in 0..count {
        let name = String::from_utf8(reader.bytes()?.to_vec()).map_err(|e| e.to_string())?;
        headers.push((name, reader.bytes()?));
    }
    let value = reader.0;
    let has = |flag: u8, bytes: Bytes| match (flags & flag != 0, bytes.is_empty()) {
        (true, _) => Ok(Some(bytes)),
        (false, true) => Ok(None),
        (false, false) => Err(format!("flags {flags} deny {} bytes", bytes.len())),
    };
    if flags & !(HAS_KEY | HAS_VALUE) != 0 {
        return Err(format!("unknown flags {flags}"));
    }
    Ok(Record { at, timestamp, key: has(HAS_KEY, key)?, value: has(HAS_VALUE, value)?, headers })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use schemas::record::PartitionId;
    use schemas::topic::Topic;

    use super::*;

    const AT: Position = Position { partition: PartitionId { topic: Topic::Events, partition: 3 }, offset: 9 };

    fn sample(key: Option<&'static str>, value: Option<usize>, headers: usize) -> OutRecord {
        OutRecord {
            topic: Topic::Events,
            partition: None,
            timestamp: TimestampMicros(-1),
            key: key.map(|k| Bytes::from_static(k.as_bytes())),
            value: value.map(|n| Bytes::from(vec![7; n])),
            headers: (0..headers).map(|i| (format!("h{i}"), Bytes::from(vec![0; i]))).collect(),
        }
    }

    fn check(record: &OutRecord) {
        let got = decode(AT, encode(record, record.timestamp).into()).unwrap();
        assert_eq!((got.at, got.timestamp), (AT, record.timestamp));
        assert_eq!(
            (got.key, got.value, got.headers),
            (record.key.clone(), record.value.clone(), record.headers.clone())
        );
    }

    #[test]
    fn every_record_round_trips() {
        for key in [None, Some(""), Some("k")] {
            for value in [None, Some(0), Some(1), Some(300_000)] {
                for headers in [0, 1, 200] {
                    check(&sample(key, value, headers));
                }
            }
        }
    }

    #[test]
    fn the_layout_of_version_1_is_frozen() {
        let record =
            OutRecord { headers: vec![("h".to_owned(), Bytes::from_static(b"x"))], ..sample(Some("k"), Some(2), 0) };
        let bytes = [1, 3, 255, 255, 255, 255, 255, 255, 255, 255, 1, b'k', 1, 1, b'h', 1, b'x', 7, 7];
        assert_eq!(encode(&record, record.timestamp), bytes);
        assert_eq!(record_key(partition_key(2, 3), 9), [0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9]);
    }

    #[test]
    fn a_torn_or_foreign_value_is_an_error_and_never_a_panic() {
        let whole = encode(&sample(Some("key"), None, 3), TimestampMicros(5));
        for cut in 0..whole.len() {
            assert!(decode(AT, Bytes::copy_from_slice(&whole[..cut])).is_err(), "cut at {cut}");
        }
        for (index, byte) in [(0, 2), (1, 4), (1, 0), (10, 200)] {
            let mut torn = whole.clone();
            torn[index] = byte;
            assert!(decode(AT, torn.into()).is_err(), "byte {index} = {byte}");
        }
    }
}
