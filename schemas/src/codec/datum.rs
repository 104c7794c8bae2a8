//! Avro binary encoding of the generated types, by position: no schema is looked at while events flow.
//!
//! Used where the writer's schema is ours, which its fingerprint proves; any other schema goes
//! through `foreign.rs`. Serde is three to nine times slower here; a property test holds these bytes equal
//! to those of `apache-avro`.
//! It allocates no more than a small multiple of the bytes that are there, whatever they claim.

use std::collections::BTreeMap;

use crate::id::{Blob, Sha256, SpanId, TraceId, Uuid};
use crate::text::{Content, Text};
use crate::time::TimestampMicros;

/// What is wrong with a record's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They end before the record does, or go on after it.
    Truncated,
    /// A string is not UTF-8.
    InvalidUtf8,
    /// Raw content in a clean event or the other way round.
    WrongTopic(&'static str),
    /// Anything else.
    Malformed(&'static str),
}

/// Bytes yet to be read.
#[derive(Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Fault::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Fault::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A zigzag variable-length long: at most ten bytes, the tenth at most 1.
    #[inline]
    pub(crate) fn long(&mut self) -> Result<i64, Fault> {
        let mut value = 0u64;
        for (index, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                if index == 9 && *byte > 1 {
                    break;
                }
                self.0 = &self.0[index + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(if self.0.len() < 10 { Fault::Truncated } else { Fault::Malformed("an integer of more than 64 bits") })
    }

    /// Bytes behind their length; one that claims more than is left ends early.
    #[inline]
    pub(crate) fn prefixed(&mut self) -> Result<&'a [u8], Fault> {
        match usize::try_from(self.long()?) {
            Ok(len) => self.bytes(len),
            Err(_) => Err(Fault::Malformed("a negative length")),
        }
    }

    /// Items of an array or map: blocks of a count and that many items, ended by a count of 0. A
    /// negative count is followed by the block's size in bytes, which nothing here needs. Every item
    /// takes at least a byte, so a huge count runs into the end of the input.
    pub(crate) fn items(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                self.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                item(self)?;
            }
        }
    }
}

fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_prefixed(bytes: &[u8], out: &mut Vec<u8>) {
    put_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

fn put_items<T>(items: impl ExactSizeIterator<Item = T>, out: &mut Vec<u8>, mut put: impl FnMut(T, &mut Vec<u8>)) {
    if items.len() > 0 {
        put_long(items.len() as i64, out);
        items.for_each(|item| put(item, out));
    }
    out.push(0);
}

/// A value with an Avro binary form.
pub(crate) trait Datum: Sized {
    /// Appends the value.
    fn write(&self, out: &mut Vec<u8>);
    /// Reads a value.
    fn read(input: &mut Input<'_>) -> Result<Self, Fault>;
}

impl Datum for i64 {
    fn write(&self, out: &mut Vec<u8>) {
        put_long(*self, out);
    }
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        input.long()
    }
}

impl Datum for i32 {
    fn write(&self, out: &mut Vec<u8>) {
        put_long(i64::from(*self), out);
    }
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        i32::try_from(input.long()?).map_err(|_| Fault::Malformed("an integer of more than 32 bits"))
    }
}

impl Datum for TimestampMicros {
    fn write(&self, out: &mut Vec<u8>) {
        put_long(self.0, out);
    }
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        input.long().map(TimestampMicros)
    }
}

impl Datum for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        match input.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Fault::Malformed("a boolean that is neither 0 nor 1")),
        }
    }
}

impl Datum for f64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        input.array().map(f64::from_le_bytes)
    }
}

impl Datum for String {
    fn write(&self, out: &mut Vec<u8>) {
        put_prefixed(self.as_bytes(), out);
    }
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        std::str::from_utf8(input.prefixed()?).map(str::to_owned).map_err(|_| Fault::InvalidUtf8)
    }
}

impl Datum for Blob {
    fn write(&self, out: &mut Vec<u8>) {
        put_prefixed(&self.0, out);
    }
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        input.prefixed().map(|bytes| Blob(bytes.to_vec()))
    }
}

/// An Avro `fixed`: the bytes alone.
macro_rules! fixed {
    ($($name:ident),*) => {
        $(impl Datum for $name {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.0);
            }
            fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
                input.array().map($name)
            }
        })*
    };
}
fixed!(Uuid, Sha256, TraceId, SpanId);

/// The union `["null", T]`.
impl<T: Datum> Datum for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => {
                out.push(2);
                value.write(out);
            }
        }
    }
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        match input.long()? {
            0 => Ok(None),
            1 => T::read(input).map(Some),
            _ => Err(Fault::Malformed("a union branch that does not exist")),
        }
    }
}

impl<T: Datum> Datum for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        put_items(self.iter(), out, Datum::write);
    }
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        let mut items = Vec::new();
        input.items(|input| T::read(input).map(|item| items.push(item)))?;
        Ok(items)
    }
}

impl<T: Datum> Datum for BTreeMap<String, T> {
    fn write(&self, out: &mut Vec<u8>) {
        put_items(self.iter(), out, |(key, value), out| {
            key.write(out);
            value.write(out);
        });
    }
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        let mut entries = BTreeMap::new();
        input.items(|input| {
            let key = String::read(input)?;
            entries.insert(key, T::read(input)?);
            Ok(())
        })?;
        Ok(entries)
    }
}

impl<T: Text> Datum for Content<T> {
    fn write(&self, out: &mut Vec<u8>) {
        put_prefixed(self.text.as_wire().as_bytes(), out);
        self.redaction.write(out);
        self.media_type.write(out);
        self.raw_bytes.write(out);
        self.sealed.write(out);
    }
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        let text = String::read(input)?;
        let redaction = String::read(input)?;
        let text = T::from_wire(text, &redaction).map_err(Fault::WrongTopic)?;
        let (media_type, raw_bytes) = (String::read(input)?, i64::read(input)?);
        Ok(Self { text, redaction, media_type, raw_bytes, sealed: Option::read(input)? })
    }
}

/// Implements what goes field by field for a record, given its fields in the order of its schema:
/// [`Datum`] and, for tests, arbitrary values.
macro_rules! record {
    ($name:ident $(<$t:ident>)? { $($field:ident),* $(,)? }) => {
        impl $(<$t: $crate::text::Text>)? $crate::codec::datum::Datum for $name $(<$t>)? {
            fn write(&self, out: &mut Vec<u8>) {
                $(self.$field.write(out);)*
            }
            fn read(input: &mut $crate::codec::datum::Input<'_>) -> Result<Self, $crate::codec::datum::Fault> {
                Ok(Self { $($field: $crate::codec::datum::Datum::read(input)?,)* })
            }
        }

        #[cfg(any(test, feature = "testing"))]
        impl $(<$t: $crate::text::Text>)? $crate::testing::Sample for $name $(<$t>)? {
            fn sample(seed: &mut $crate::testing::Seed) -> Self {
                Self { $($field: $crate::testing::Sample::sample(seed),)* }
            }
        }
    };
}
pub(crate) use record;
