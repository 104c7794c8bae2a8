//! Arbitrary values of every field type from a seed.
//!
//! Values lean to the edges of their types: empty, extreme, quoted, not ASCII. They mean nothing.

use std::collections::BTreeMap;

use crate::id::{Blob, Sha256, SpanId, TraceId, Uuid};
use crate::text::{Content, Text};
use crate::time::TimestampMicros;

/// A stream of numbers: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014).
#[derive(Debug, Clone)]
pub struct Seed(u64);

impl Seed {
    /// The stream of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait)]
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where that is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// One of `choices`.
    pub fn choose<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// A type with arbitrary values.
pub(crate) trait Sample: Sized {
    /// The value that the next numbers stand for.
    fn sample(seed: &mut Seed) -> Self;
}

impl Sample for i64 {
    fn sample(seed: &mut Seed) -> Self {
        match seed.below(8) {
            0 => -1,
            1 => 0,
            2 => i64::MIN,
            3 => i64::MAX,
            4 => seed.next() as i64,
            _ => seed.below(10_000) as i64,
        }
    }
}

impl Sample for i32 {
    fn sample(seed: &mut Seed) -> Self {
        i64::sample(seed) as i32
    }
}

impl Sample for TimestampMicros {
    fn sample(seed: &mut Seed) -> Self {
        Self(super::BROKER_TIME.0 - seed.below(1 << 40) as i64)
    }
}

impl Sample for bool {
    fn sample(seed: &mut Seed) -> Self {
        seed.below(2) == 1
    }
}

/// Finite, so that equality holds, and with few digits, so that JSON readers agree on them.
impl Sample for f64 {
    fn sample(seed: &mut Seed) -> Self {
        match seed.below(4) {
            0 => 0.0,
            1 => f64::MAX,
            2 => -(seed.below(1 << 30) as f64) / 4.0,
            _ => seed.below(1 << 30) as f64 / 4.0,
        }
    }
}

impl Sample for String {
    fn sample(seed: &mut Seed) -> Self {
        const ODD: [&str; 6] = ["", "naïve café", "\"quoted\"\\", "line\nbreak\t\u{1}", "数据 🔒", "a/b c"];
        match seed.below(4) {
            0 => seed.choose(&ODD).to_owned(),
            _ => format!("v-{:x}", seed.below(1 << 20)),
        }
    }
}

impl Sample for Blob {
    fn sample(seed: &mut Seed) -> Self {
        let len = seed.below(80);
        Self((0..len).map(|_| seed.next() as u8).collect())
    }
}

/// An array of arbitrary bytes.
macro_rules! fixed {
    ($($name:ident),*) => {
        $(impl Sample for $name {
            fn sample(seed: &mut Seed) -> Self {
                Self(std::array::from_fn(|_| seed.next() as u8))
            }
        })*
    };
}
fixed!(Uuid, Sha256, TraceId, SpanId);

impl<T: Sample> Sample for Option<T> {
    fn sample(seed: &mut Seed) -> Self {
        bool::sample(seed).then(|| T::sample(seed))
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(seed: &mut Seed) -> Self {
        (0..seed.below(4)).map(|_| T::sample(seed)).collect()
    }
}

impl<T: Sample> Sample for BTreeMap<String, T> {
    fn sample(seed: &mut Seed) -> Self {
        (0..seed.below(4)).map(|_| (String::sample(seed), T::sample(seed))).collect()
    }
}

/// Text that `T` accepts: raw for raw, redacted for clean.
impl<T: Text> Sample for Content<T> {
    fn sample(seed: &mut Seed) -> Self {
        let text = String::sample(seed);
        let raw_bytes = text.len() as i64;
        let media_type = seed.choose(&["text/plain", "application/json"]).to_owned();
        let sealed = Option::sample(seed);
        let (text, redaction) = match T::from_wire(text.clone(), "") {
            Ok(text) => (text, String::new()),
            Err(_) => (T::from_wire(text, "default@1").unwrap_or_default(), "default@1".to_owned()),
        };
        Self { text, redaction, media_type, raw_bytes, sealed }
    }
}
