//! The two operations that the archive needs from an object store: create-only PUT, and reading back.
//!
//! Nothing here overwrites or deletes an object of the archive (invariant I7). It does not wait for a
//! store that is away: an error says whether the caller may ask again. The S3 client repeats a request
//! a few times at once; a create-only PUT whose answer was lost is then refused by the object that it
//! made itself, which is [`Created::Exists`], and the caller tells by reading back.

pub mod config;
mod failure;
pub mod protection;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

pub use self::config::StoreConfig;
use crate::error::{ErrorClass, SinkError};
use crate::parquet::store::failure::{failed, is_absent};
use crate::parquet::store::protection::{Bucket, Protection};

/// Largest object, bytes. One object is one PUT, as a multipart upload has no create-only mode. S3
/// takes 5 GiB in one PUT, but an object is written and read in memory as a whole.
pub const OBJECT_BYTES_MAX: u64 = 1 << 30;

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
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Where the store is a bucket that can be asked about itself.
    bucket: Option<Arc<Bucket>>,
    object_lock_required: bool,
}

/// What to say of a store that refuses to create an object and then does not have it.
pub(super) fn refused_but_absent(key: &str) -> SinkError {
    let message = "the store refuses to create it and then says that it is not there: another process puts it just \
                   now, or the store kept a part of it when it was killed or its disk was full; if this lasts, remove \
                   what the store holds under this key";
    SinkError::new(ErrorClass::Retry, format!("put {key}"), message)
}

impl Store {
    /// Wraps an object store; its root is the archive's root.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { objects: store, bucket: None, object_lock_required: false }
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
    #[cfg(any(test, feature = "testing"))]
    pub fn object_store(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// Puts an object unless there is one.
    ///
    /// S3's 409 (another create-only PUT in flight) also surfaces as [`Created::Exists`]; reading
    /// the object back tells the two apart.
    ///
    /// # Errors
    /// [`ErrorClass::Retry`]: unknown outcome, ask again; [`ErrorClass::Config`]: not permitted, no such
    /// bucket, or more than [`OBJECT_BYTES_MAX`].
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, SinkError> {
        if bytes.len() as u64 > OBJECT_BYTES_MAX {
            let message = format!("{} bytes are more than one PUT takes: lower [archive] file_bytes_max", bytes.len());
            return Err(SinkError::new(ErrorClass::Config, format!("put {key}"), message));
        }
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(&Path::from(key), PutPayload::from_bytes(bytes), options).await {
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
        let found = match self.objects.get(&Path::from(key)).await {
            Ok(result) => result.bytes().await,
            Err(error) => Err(error),
        };
        match found {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("get", key, &error)),
        }
    }

    /// Some of an object's bytes; `None` if there is no such object.
    ///
    /// # Errors
    /// As [`Store::create`]; also where the object ends before the range begins.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>, SinkError> {
        match self.objects.get_range(&Path::from(key), range).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
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
            Some(after) => self.objects.list_with_offset(Some(&path), &Path::from(after)),
            None => self.objects.list(Some(&path)),
        };
        let mut objects: Vec<ObjectMeta> = stream.try_collect().await.map_err(|e| failed("list", prefix, &e))?;
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(objects)
    }

    /// Checks that the store refuses a second create-only PUT, and says how it protects what it holds.
    /// Some servers ignore the condition in silence; on such a store two writers would overwrite each
    /// other's evidence.
    ///
    /// `nonce` keeps concurrent self-tests apart.
    ///
    /// # Errors
    /// [`ErrorClass::Config`]: the second PUT succeeded, the first object cannot be read back, or object
    /// lock is required and there is none. [`ErrorClass::Retry`]: the store answered in a way that proves
    /// neither; as [`Store::create`].
    pub async fn self_test(&self, nonce: u64) -> Result<Protection, SinkError> {
        let key = format!("{SELF_TEST_PREFIX}/{nonce:016x}");
        let first = self.create(&key, Bytes::from_static(b"first")).await?;
        let second = self.create(&key, Bytes::from_static(b"second")).await?;
        let stored = self.get(&key).await?;
        // Best effort: a store with object lock refuses, and a left-over object harms nobody.
        let _removed = self.objects.delete(&Path::from(key.as_str())).await;
        if first == Created::Exists && (second == Created::New || stored.is_none()) {
            // A conflict that passes (S3's 409): nothing stood there, so nothing could be overwritten.
            let message = "a put was refused as if the object existed, which it did not; the test proves nothing";
            return Err(SinkError::new(ErrorClass::Retry, format!("self-test of {key}"), message));
        }
        let is_first_kept = first == Created::Exists || stored.as_deref() == Some(b"first");
        if second != Created::Exists || !is_first_kept {
            return Err(SinkError::new(
                ErrorClass::Config,
                format!("self-test of {key}"),
                "the object store overwrites objects in spite of If-None-Match; the archive needs conditional writes",
            ));
        }
        let found = match &self.bucket {
            Some(bucket) => bucket.protection().await?,
            None => protection::of_no_bucket(),
        };
        if self.object_lock_required {
            protection::require(&found)?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::parquet::testing::fixture::{Fault, Faulty};

    #[tokio::test]
    async fn a_conflict_that_passes_is_no_store_that_overwrites() {
        let check = async |script: &[Fault], expected: Result<(), ErrorClass>| {
            let store = Store::new(Faulty::scripted_from_start(Arc::new(InMemory::new()), script));
            let outcome = store.self_test(1).await.map(|_| ()).map_err(|error| error.class);
            assert_eq!(outcome, expected, "{script:?}");
        };
        check(&[Fault::Conflict], Err(ErrorClass::Retry)).await;
        check(&[Fault::Conflict, Fault::Conflict], Err(ErrorClass::Retry)).await;
        check(&[Fault::None, Fault::Conflict], Ok(())).await;
        check(&[Fault::LoseAnswer], Err(ErrorClass::Retry)).await;
        let deaf = Store::new(Faulty::ignoring_conditions(Arc::new(InMemory::new())));
        assert_eq!(deaf.self_test(1).await.map(|_| ()).map_err(|error| error.class), Err(ErrorClass::Config));
    }

    #[tokio::test]
    async fn an_object_that_no_put_takes_is_refused_before_it_is_sent() {
        let store = Store::new(Arc::new(InMemory::new()));
        // Zeroed pages that nobody touches: the test takes no memory.
        let bytes = Bytes::from(vec![0; OBJECT_BYTES_MAX as usize + 1]);
        let error = store.create("archive/x", bytes).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Config);
        assert!(error.message.contains("file_bytes_max"), "{error}");
    }
}
