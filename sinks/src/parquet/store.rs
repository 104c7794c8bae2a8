//! The two operations that the archive needs from an object store: create-only PUT, and reading back.
//!
//! Nothing here overwrites or deletes an object of the archive (invariant I7). It does not retry: an
//! error says whether the caller may.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

use crate::error::{ErrorClass, SinkError};

/// Prefix of self-test objects; outside `archive/`, so that verification never meets them.
const SELF_TEST_PREFIX: &str = "custody-self-test";

/// What a create-only PUT found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is ours.
    New,
    /// There is an object already: ours, if an earlier answer was lost, or another's.
    Exists,
}

/// An object store that the archive writes to.
#[derive(Debug, Clone)]
pub struct Store(Arc<dyn ObjectStore>);

impl Store {
    /// Wraps an object store; its root is the archive's root.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self(store)
    }

    /// A directory, created if need be. Objects and their directories are fsynced before a PUT
    /// answers: an object that is there is whole, even after a power failure.
    ///
    /// # Errors
    /// [`ErrorClass::Config`]: the directory cannot be created or opened.
    pub fn local(directory: &std::path::Path) -> Result<Self, SinkError> {
        let failed = |error: &dyn std::fmt::Display| {
            SinkError::new(ErrorClass::Config, format!("open {}", directory.display()), error)
        };
        std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
        let store = LocalFileSystem::new_with_prefix(directory).map_err(|error| failed(&error))?;
        Ok(Self::new(Arc::new(store.with_fsync(true))))
    }

    /// The store itself, for tests that damage it.
    #[cfg(test)]
    pub(crate) fn object_store(&self) -> &dyn ObjectStore {
        self.0.as_ref()
    }

    /// Puts an object unless there is one.
    ///
    /// S3's 409 (another create-only PUT in flight) also surfaces as [`Created::Exists`]; reading
    /// the object back tells the two apart.
    ///
    /// # Errors
    /// [`ErrorClass::Retry`]: unknown outcome, ask again; [`ErrorClass::Config`]: not permitted.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, SinkError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.0.put_opts(&Path::from(key), PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(Created::New),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::Exists),
            Err(error) => Err(failed("put", key, &error)),
        }
    }

    /// The bytes of an object; `None` if there is none.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, SinkError> {
        let found = match self.0.get(&Path::from(key)).await {
            Ok(result) => result.bytes().await,
            Err(error) => Err(error),
        };
        match found {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("get", key, &error)),
        }
    }

    /// Objects under a prefix that sort behind `after`, sorted by key.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, SinkError> {
        let path = Path::from(prefix);
        let stream = match after {
            Some(after) => self.0.list_with_offset(Some(&path), &Path::from(after)),
            None => self.0.list(Some(&path)),
        };
        let mut objects: Vec<ObjectMeta> = stream.try_collect().await.map_err(|e| failed("list", prefix, &e))?;
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(objects)
    }

    /// Checks that the store refuses a second create-only PUT. Some emulators ignore the condition in
    /// silence; on such a store two writers would overwrite each other's evidence.
    ///
    /// `nonce` keeps concurrent self-tests apart.
    ///
    /// # Errors
    /// [`ErrorClass::Config`]: the second PUT succeeded, or the first object cannot be read back.
    pub async fn self_test(&self, nonce: u64) -> Result<(), SinkError> {
        let key = format!("{SELF_TEST_PREFIX}/{nonce:016x}");
        let first = self.create(&key, Bytes::from_static(b"first")).await?;
        let second = self.create(&key, Bytes::from_static(b"second")).await?;
        let stored = self.get(&key).await?;
        // Best effort: a store with object lock refuses, and a left-over object harms nobody.
        let _removed = self.0.delete(&Path::from(key.as_str())).await;
        let is_first_kept = first == Created::Exists || stored.as_deref() == Some(b"first");
        match (second, is_first_kept) {
            (Created::Exists, true) => Ok(()),
            _ => Err(SinkError::new(
                ErrorClass::Config,
                format!("self-test of {key}"),
                "the object store overwrites objects in spite of If-None-Match; the archive needs conditional writes",
            )),
        }
    }
}

/// Classifies a store's error: permissions and unsupported operations need a person, the rest time.
fn failed(operation: &str, key: &str, error: &Error) -> SinkError {
    let class = match error {
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => ErrorClass::Config,
        _ => ErrorClass::Retry,
    };
    SinkError::new(class, format!("{operation} {key}"), error)
}
