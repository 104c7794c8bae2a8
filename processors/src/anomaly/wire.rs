//! Compact binary form of state entries: fields in declaration order, little-endian, strings and
//! lists behind a 32-bit length, a version byte in front.
//!
//! It exists because text would round floats and triple the size. It is no interchange format:
//! only the stage that wrote an entry reads it. A changed layout gets a new version byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use schemas::event::{Alert, Signal};
use schemas::id::Uuid;
use schemas::time::TimestampMicros;

/// Layout version of all entries of this module.
const VERSION: u8 = 1;

/// A value with a binary form.
pub(super) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn get(bytes: &mut &[u8]) -> Option<Self>;
}

/// A whole entry.
pub(super) fn encode<T: Wire>(value: &T) -> Bytes {
    let mut out = vec![VERSION];
    value.put(&mut out);
    Bytes::from(out)
}

/// The value of a whole entry; `None` for another version, too few or too many bytes.
pub(super) fn decode<T: Wire>(entry: &[u8]) -> Option<T> {
    // Another version is refused, not guessed: the runner stops the partition (I10).
    let mut rest = entry.strip_prefix(&[VERSION])?;
    let value = T::get(&mut rest)?;
    // Bytes left over are another layout with the same beginning.
    rest.is_empty().then_some(value)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(len)?;
    *bytes = tail;
    Some(head)
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                // Bit for bit, so that a restored float is the one that was kept (law "restart does not matter").
                out.extend(self.to_le_bytes());
            }
            fn get(bytes: &mut &[u8]) -> Option<Self> {
                take(bytes, size_of::<$type>()).and_then(|b| b.try_into().ok()).map(<$type>::from_le_bytes)
            }
        }
    )*};
}
numbers!(u8, u32, i32, i64, f64);

/// Implements [`Wire`] field by field.
macro_rules! wire_fields {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::anomaly::wire::Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::anomaly::wire::Wire::put(&self.$field, out);)*
            }
            fn get(bytes: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: $crate::anomaly::wire::Wire::get(bytes)?),* })
            }
        }
    };
}
pub(super) use wire_fields;

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        match u8::get(bytes)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Wire for TimestampMicros {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        i64::get(bytes).map(Self)
    }
}

impl Wire for Uuid {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.0);
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        take(bytes, 16).and_then(|b| b.try_into().ok()).map(Self)
    }
}

fn put_len(len: usize, out: &mut Vec<u8>) {
    // Entries are bounded by 256 KiB, so that no length comes near the bound.
    u32::try_from(len).unwrap_or(u32::MAX).put(out);
}

fn get_len(bytes: &mut &[u8]) -> Option<usize> {
    u32::get(bytes).map(|len| len as usize)
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        out.extend(self.as_bytes());
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        // A length beyond the entry is refused by `take` before anything is copied.
        let len = get_len(bytes)?;
        String::from_utf8(take(bytes, len)?.to_vec()).ok()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        if bool::get(bytes)? { T::get(bytes).map(Some) } else { Some(None) }
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        // No capacity from the length: a damaged one would ask for 4 G items before the first is read.
        (0..get_len(bytes)?).map(|_| T::get(bytes)).collect()
    }
}

impl<T: Wire + Copy + Default, const N: usize> Wire for [T; N] {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|item| item.put(out));
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        let mut items = [T::default(); N];
        for item in &mut items {
            *item = T::get(bytes)?;
        }
        Some(items)
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        // In key order, so that equal maps are equal bytes (I6).
        self.iter().for_each(|(key, value)| {
            key.put(out);
            value.put(out);
        });
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        (0..get_len(bytes)?).map(|_| Some((K::get(bytes)?, V::get(bytes)?))).collect()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::get(bytes)?, B::get(bytes)?))
    }
}

wire_fields!(Signal {
    tenant_id,
    subject_kind,
    subject,
    environment,
    window_first,
    window_next,
    source_partition,
    ordinal,
    values,
    counts,
    event_ids,
});

wire_fields!(Alert {
    fingerprint,
    status,
    severity,
    alert_class,
    tenant_id,
    subject_kind,
    subject,
    environment,
    metric,
    observed,
    expected,
    p_value,
    score,
    starts_at,
    ends_at,
    updated_at,
    reason,
    detector,
    contributing,
    count,
    event_ids,
    labels,
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back_to_the_bit(
            values in proptest::collection::btree_map(".{0,8}", -1e300..1e300_f64, 0..6),
            ordinal in any::<i64>(),
            id in any::<[u8; 16]>(),
        ) {
            let signal = Signal { values, ordinal, event_ids: vec![Uuid(id)], ..Signal::default() };
            prop_assert_eq!(decode::<Signal>(&encode(&signal)), Some(signal));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Signal>(&bytes);
            let _ = decode::<Vec<Option<(String, bool)>>>(&bytes);
        }

        #[test]
        fn a_cut_entry_is_refused(cut in 1_usize..40) {
            let entry = encode(&Alert { reason: "x".repeat(40), ..Alert::default() });
            prop_assert_eq!(decode::<Alert>(&entry[..entry.len() - cut]), None);
        }
    }
}
