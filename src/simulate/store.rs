//! The object store of the simulation, behind a gate.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::chaos::{FaultKind, Gate, Operation};

/// The store as one life of a role sees it.
#[derive(Debug)]
pub(super) struct SimStore {
    pub(super) inner: Arc<dyn ObjectStore>,
    pub(super) gate: Gate,
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

fn outage() -> Error {
    Error::Generic { store: "SimStore", source: "simulated fault".into() }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.gate.pass(Operation::Put, location.as_ref()).await;
        match fault {
            Some(FaultKind::Refused) => return Err(outage()),
            Some(FaultKind::Conflict) => {
                // Without effect: the object is not there, which the caller must find out by asking.
                let source = "simulated conflict".into();
                return Err(Error::AlreadyExists { path: location.to_string(), source });
            }
            _ => {}
        }
        // The fault below comes after the effect.
        let done = self.inner.put_opts(location, payload, options).await;
        match fault {
            Some(FaultKind::CrashAfter) => self.gate.crash().await,
            Some(FaultKind::AnswerLost) => return Err(outage()),
            _ => {}
        }
        done
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.gate.pass(Operation::Get, location.as_ref()).await {
            None => self.inner.get_opts(location, options).await,
            Some(_) => Err(outage()),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (gate, listing) = (self.gate.clone(), self.inner.list(prefix));
        let at = prefix.map(Path::to_string).unwrap_or_default();
        let first = futures::stream::once(async move { gate.pass(Operation::Get, &at).await.map(|_| Err(outage())) });
        first.filter_map(|fault| async move { fault }).chain(listing).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
