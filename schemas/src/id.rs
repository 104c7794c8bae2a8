//! Ids and digests as newtypes, so that no two of them can be mixed up.
//!
//! Derived ids are a pure function of their source position; nothing here draws a random id.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;

/// Defines a fixed-size byte newtype: hexadecimal in text formats, an Avro `fixed` in binary ones.
macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $size]);

        impl Default for $name {
            fn default() -> Self {
                Self([0; $size])
            }
        }

        impl $name {
            /// All bytes zero: "none".
            pub const ZERO: Self = Self([0; $size]);

            /// Whether all bytes are zero.
            pub fn is_zero(&self) -> bool {
                self.0.iter().all(|b| *b == 0)
            }

            /// Lower-case hexadecimal.
            pub fn to_hex(&self) -> String {
                hex(&self.0)
            }

            /// Reads hexadecimal, hyphens allowed; `None` for any other text or length.
            pub fn from_hex(text: &str) -> Option<Self> {
                // Without hyphens, so that an id reads the same in either spelling.
                let mut digits = text.bytes().filter(|b| *b != b'-');
                let mut out = [0; $size];
                for byte in &mut out {
                    *byte = nibble(digits.next()?)? << 4 | nibble(digits.next()?)?;
                }
                // Digits left over are a longer id, not this one.
                digits.next().is_none().then_some(Self(out))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} bytes", $size)
                    }
                    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<$name, E> {
                        <[u8; $size]>::try_from(bytes).map($name).map_err(|_| E::invalid_length(bytes.len(), &self))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::from_hex(text).ok_or_else(|| E::custom(format_args!("not {} bytes of hexadecimal", $size)))
                    }
                }
                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(Visitor)
                } else {
                    deserializer.deserialize_bytes(Visitor)
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

fixed_bytes!(/** RFC 9562 UUID, big-endian. */ Uuid, 16);
fixed_bytes!(/** SHA-256 digest. */ Sha256, 32);
fixed_bytes!(/** W3C trace id. */ TraceId, 16);
fixed_bytes!(/** W3C span id. */ SpanId, 8);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let h = self.to_hex();
        write!(f, "{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl Uuid {
    /// A UUIDv8 (RFC 9562 section 5.8) from the first 16 bytes of SHA-256 over `parts`, each
    /// prefixed by its length, so that no two lists of parts share a preimage.
    pub fn derive(parts: &[&[u8]]) -> Self {
        let mut hash = sha2::Sha256::new();
        for part in parts {
            // Without lengths ("ab", "c") and ("a", "bc") would be one id.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self::with_version(id, 8)
    }

    /// A UUIDv7 from a time and 74 bits that the caller draws.
    pub fn v7(unix_ms: u64, random: u128) -> Self {
        // 48 bits of milliseconds come first, so that ids sort by time (RFC 9562, section 5.7).
        let mut id = (random & ((1 << 80) - 1)).to_be_bytes();
        id[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        Self::with_version(id, 7)
    }

    fn with_version(mut id: [u8; 16], version: u8) -> Self {
        id[6] = (id[6] & 0x0f) | (version << 4);
        // Variant 10: the one of RFC 9562.
        id[8] = (id[8] & 0x3f) | 0x80;
        Self(id)
    }
}

/// Bytes: base-16 in text formats, Avro `bytes` in binary ones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Blob, E> {
                unhex(text).map(Blob).ok_or_else(|| E::custom("not bytes of hexadecimal"))
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Visitor)
        } else {
            serde_bytes::ByteBuf::deserialize(deserializer).map(|b| Blob(b.into_vec()))
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The bytes of hexadecimal `text`; `None` for any other text.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    // An odd digit at the end is a pair of one, which is refused.
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
        _ => None,
    };
    // The first pair that is none ends it: a text is hexadecimal as a whole or not at all.
    pairs.map(byte).collect()
}

/// The value of a hexadecimal digit. `u8::from_str_radix` would take a sign for one.
const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Lower-case hexadecimal of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    digits.map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_digits_only() {
        let check = |text: &str, expected: Option<[u8; 8]>| assert_eq!(SpanId::from_hex(text).map(|id| id.0), expected);
        check("00f067aa0ba902b7", Some([0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]));
        check("00F067AA-0BA902B7", Some([0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]));
        check("+0f067aa0ba902b7", None);
        check("00f067aa0ba902b", None);
        check("00f067aa0ba902b7a", None);
        check("00f067aa0ba902bg", None);
        check("", None);
        let blob = |text: &str| serde_json::from_str::<Blob>(&format!("{text:?}")).ok();
        assert_eq!(blob("0aFf"), Some(Blob(vec![0x0a, 0xff])));
        assert_eq!(blob(""), Some(Blob(vec![])));
        assert_eq!(blob("abc"), None);
        assert_eq!(blob("+a"), None);
    }
}
