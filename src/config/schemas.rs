//! Schemas that others write with: files, ids, and the registry that knows more ids.
//!
//! Files are read here and parsed by the codec; the registry is asked elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use schemas::codec::Codec;
use schemas::secret::Secret;
use serde::{Deserialize, Serialize};

/// `[schemas]`: Avro schemas of records that others write.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchemasSection {
    /// Files with schemas whose single-object frames are read too.
    pub files: Vec<PathBuf>,
    /// Files by the id that a Confluent registry gave the schema.
    pub registry_ids: BTreeMap<String, PathBuf>,
    /// Where other ids are asked for.
    pub registry: RegistrySection,
}

/// `[schemas.registry]`: a schema registry with Confluent's API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySection {
    /// Its address, path included; empty for none.
    pub url: String,
    /// User; empty for none.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// File that holds the password; empty for none.
    pub password_file: PathBuf,
    /// File that holds a bearer token; empty for none.
    pub token_file: PathBuf,
    /// Certificate authorities beside the system's, PEM; empty for none.
    pub ca_file: PathBuf,
    /// Longest time of a whole request.
    pub request_timeout_ms: u64,
}

impl Default for RegistrySection {
    fn default() -> Self {
        Self {
            url: String::new(),
            user: String::new(),
            password: Secret::default(),
            password_file: PathBuf::new(),
            token_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            request_timeout_ms: 5_000,
        }
    }
}

impl SchemasSection {
    /// How many schemas are named.
    pub fn len(&self) -> usize {
        self.files.len() + self.registry_ids.len()
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A codec that knows them.
    ///
    /// # Errors
    /// A file cannot be read, or what it holds is no schema that records can be read with.
    pub fn codec(&self) -> anyhow::Result<Codec> {
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file).with_context(|| format!("schemas: cannot read {}", file.display()))
        };
        let files: Vec<String> = self.files.iter().map(read).collect::<Result<_, _>>()?;
        let mut ids = BTreeMap::new();
        for (id, file) in &self.registry_ids {
            let id: u32 = id.parse().with_context(|| format!("schemas.registry_ids: {id:?} is not a registry id"))?;
            ids.insert(id, read(file)?);
        }
        Ok(Codec::standard().with_schemas(files.iter().map(String::as_str))?.with_registry_ids(ids)?)
    }

    /// Makes it the codec of this process; before anything is read.
    ///
    /// # Errors
    /// As [`SchemasSection::codec`].
    pub fn configure(&self) -> anyhow::Result<()> {
        if !self.is_empty() && schemas::codec::configure(self.codec()?).is_err() {
            anyhow::bail!("schemas are configured before anything is read");
        }
        Ok(())
    }
}
