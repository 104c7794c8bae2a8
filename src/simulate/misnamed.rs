//! The store of a build that is broken on purpose: data objects are named by their *last* offset.
//!
//! The archive asks for keys by the first offset, as ever; underneath, an object stands at a place that
//! depends on where its writer happened to stop. Two writers that begin at one offset and end at
//! different ones then no longer collide. Auditor and roles see the store through the same names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use sinks::parquet::encode;

/// An object store that goes by last offsets.
#[derive(Debug, Default)]
pub(super) struct Misnamed {
    inner: Arc<InMemory>,
    /// Where objects stand: place to the name that they are known under.
    names: Mutex<BTreeMap<Path, Path>>,
    /// The place that was last written to, or found taken, under a name.
    places: Mutex<BTreeMap<Path, Path>>,
}

impl fmt::Display for Misnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Misnamed")
    }
}

/// The place of a data object by its last offset; `None` for any other object.
fn place_of(name: &Path, bytes: &Bytes) -> Option<Path> {
    // Read from the object itself, as a naming by last offset would.
    let metadata = name.as_ref().ends_with(".parquet").then(|| encode::metadata_of(bytes))?.ok()?;
    let publication = encode::publication_of(&metadata).ok()?;
    let (first, last) = (publication.offset_first, publication.offset_next - 1);
    Some(Path::from(name.as_ref().replace(&format!("-{first:020}."), &format!("-{last:020}."))))
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Misnamed {
    fn place(&self, name: &Path) -> Path {
        lock(&self.places).get(name).unwrap_or(name).clone()
    }
}

#[async_trait]
impl ObjectStore for Misnamed {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let bytes = Bytes::from(payload.clone());
        let place = place_of(location, &bytes).unwrap_or_else(|| location.clone());
        // Before the PUT and whatever it answers: a place that is taken is found under the name as well.
        lock(&self.places).insert(location.clone(), place.clone());
        lock(&self.names).insert(place.clone(), location.clone());
        self.inner.put_opts(&place, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(&self.place(location), options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // Only self-test objects are deleted, and those stand where they are called.
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let names = lock(&self.names).clone();
        let named = move |found: Result<ObjectMeta>| {
            found.map(|meta| match names.get(&meta.location) {
                Some(name) => ObjectMeta { location: name.clone(), ..meta },
                None => meta,
            })
        };
        self.inner.list(prefix).map(named).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
