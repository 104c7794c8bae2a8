//! What an auditor reads first: one JSON manifest per archive object, chained by SHA-256.
//!
//! The bytes are canonical (keys sorted, no white space, integers only, one line feed at the end), so
//! that a manifest's own digest is stable and any language can recompute it. It holds no signature:
//! the evidence log signs its digest.

use schemas::id::Sha256;
use serde::{Deserialize, Serialize};

use crate::publication::Publication;

/// Layout version of a manifest.
pub const FORMAT: u32 = 1;

/// Where the data is and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    /// Size of the object, bytes.
    pub bytes: u64,
    /// Its key.
    pub key: String,
    /// SHA-256 of its bytes.
    pub sha256: Sha256,
}

/// A manifest. Fields stand in alphabetical order: the order of the canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The data object.
    pub object: ObjectRef,
    /// SHA-256 of the partition's previous manifest; zeros at the first.
    pub prev_manifest_sha256: Sha256,
    /// The range and its counts.
    pub publication: Publication,
    /// Build that wrote it, e.g. `custody/0.1.0`.
    pub writer: String,
}

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of that shape.
    #[error("not a manifest: {0}")]
    Malformed(String),
    /// A newer layout.
    #[error("manifest format {0} is newer than this build reads ({FORMAT}); use a newer custody")]
    NewerFormat(u32),
    /// The same content in other bytes: somebody edited or re-formatted it.
    #[error("manifest bytes are not canonical: it was edited or re-formatted")]
    NotCanonical,
}

/// Reads the layout version before anything else is known.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl Manifest {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1_024);
        // Maps have string keys and there are no floats: JSON serialisation into memory cannot fail.
        let written = serde_json::to_writer(&mut bytes, self);
        debug_assert!(written.is_ok());
        bytes.push(b'\n');
        bytes
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// The bytes are not a manifest of this or an older layout: for a sink a data error, for
    /// verification a finding.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        let malformed = |error: serde_json::Error| ManifestError::Malformed(error.to_string());
        let FormatOnly { format } = serde_json::from_slice(bytes).map_err(malformed)?;
        if format > FORMAT {
            return Err(ManifestError::NewerFormat(format));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        match manifest.to_bytes() == bytes {
            true => Ok(manifest),
            false => Err(ManifestError::NotCanonical),
        }
    }

    /// SHA-256 of the canonical bytes: what the next manifest of the partition names.
    pub fn sha256(&self) -> Sha256 {
        Sha256::of(&self.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::record::PartitionId;
    use schemas::time::TimestampMicros;
    use schemas::topic::Topic;

    use super::*;

    fn manifest() -> Manifest {
        let partition = PartitionId { topic: Topic::Clean, partition: 3 };
        let mut publication = Publication::open(partition, 100, TimestampMicros::from_ms(1_795_168_799_000));
        publication.offset_next = 103;
        publication.rows = 2;
        publication.ticks = 1;
        publication.counts_by_type = [("model.call".to_owned(), 2)].into();
        publication.counts_by_tenant = [("acme".to_owned(), 2)].into();
        publication.schemas = ["avro:0102030405060708".to_owned()].into();
        let object = ObjectRef { bytes: 42, key: publication.data_key(), sha256: Sha256([9; 32]) };
        let writer = "custody/0.1.0".to_owned();
        Manifest { format: FORMAT, object, prev_manifest_sha256: Sha256::ZERO, publication, writer }
    }

    #[test]
    fn the_canonical_bytes_never_change() {
        let digest = "f0c9f43ecfd8d079e7ceb5a0fffa98d7db80ef17e9345a7019ccf46b218337c2";
        let text = String::from_utf8(manifest().to_bytes()).unwrap();
        assert_eq!(manifest().sha256().to_hex(), digest, "{text}");
    }

    #[test]
    fn keys_are_sorted_at_every_level() {
        let text = String::from_utf8(manifest().to_bytes()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        fn sorted(value: &serde_json::Value) -> String {
            match value {
                serde_json::Value::Object(map) => {
                    let mut fields: Vec<_> = map.iter().map(|(k, v)| format!("{k:?}:{}", sorted(v))).collect();
                    fields.sort();
                    format!("{{{}}}", fields.join(","))
                }
                other => other.to_string(),
            }
        }
        assert_eq!(text, sorted(&value) + "\n");
    }

    #[test]
    fn other_bytes_are_refused() {
        let text = String::from_utf8(manifest().to_bytes()).unwrap();
        let check = |text: &str, expected: &str| {
            let error = Manifest::from_bytes(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&text.replace("\"rows\":2", "\"rows\": 2"), "not canonical");
        check(text.trim_end(), "not canonical");
        check(&text.replace("\"format\":1", "\"format\":2"), "format 2 is newer");
        check(&text.replace("\"rows\":2", "\"rows\":2,\"more\":1"), "unknown field");
        check(&text.replace("custody.clean.v1\"}", "nowhere\"}"), "unknown topic");
        check("{}", "missing field `format`");
        check("", "not a manifest");
        assert_eq!(Manifest::from_bytes(text.as_bytes()), Ok(manifest()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            tenants in prop::collection::btree_map(".*", any::<u64>(), 0..4), first: u64, time: i64, writer in ".*",
        ) {
            let mut manifest = manifest();
            manifest.publication.counts_by_tenant = tenants;
            manifest.publication.offset_first = first;
            manifest.publication.broker_time_min_us = Some(time);
            manifest.writer = writer;
            prop_assert_eq!(Manifest::from_bytes(&manifest.to_bytes()), Ok(manifest));
        }
    }
}
