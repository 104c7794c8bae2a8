//! Where a partition's archive ends, from the store alone (invariant I8).
//!
//! A crash leaves at most one object without its manifest; the manifest is then written from the
//! object's footer. Anything else was not left by a crash, and stops the partition.

use bytes::Bytes;
use schemas::id::Sha256;
use schemas::object_key;
use schemas::record::PartitionId;
use schemas::time::TimestampMicros;

use crate::error::{ErrorClass, SinkError};
use crate::manifest::{FORMAT, Manifest, ObjectRef};
use crate::parquet::encode;
use crate::parquet::store::{Created, Store, refused_but_absent};
use crate::publication::Publication;

/// How far behind the last object's hour an object without manifest may stand: broker times of a
/// topic may step back, and the key of an object is that of its first record. Milliseconds (2 days).
const STEP_BACK_MS: i64 = 2 * 86_400_000;

/// The end of a partition's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Offset that the next publication starts at.
    pub offset_next: u64,
    /// Digest of the last manifest.
    pub manifest_sha256: Sha256,
}

/// The last manifest and its digest; `None`: there is none.
type Last = Option<(Manifest, Sha256)>;

/// Lists, reads the last manifest, finishes what a crash interrupted. `None`: nothing is published.
///
/// # Errors
/// [`ErrorClass::Data`]: the chain is not one that this writer leaves; verify before going on.
/// [`ErrorClass::Retry`]: another member publishes; ask again.
pub async fn recover(store: &Store, partition: PartitionId, build: &str) -> Result<Option<Head>, SinkError> {
    recover_behind(store, partition, last_manifest(store, partition).await?, build).await
}

/// As [`recover`], behind a manifest that was the last one a moment ago. What looks like damage is none if
/// the chain has grown since: a member that was frozen reads while its successor writes.
async fn recover_behind(
    store: &Store,
    partition: PartitionId,
    last: Last,
    build: &str,
) -> Result<Option<Head>, SinkError> {
    let finished = finish(store, partition, &last, build).await;
    let is_damage = matches!(&finished, Err(error) if error.class == ErrorClass::Data);
    if is_damage && last_manifest(store, partition).await? != last {
        let at = format!("recover {}/{}", partition.topic, partition.partition);
        return Err(SinkError::new(ErrorClass::Retry, at, "another member publishes to it"));
    }
    finished
}

/// Writes the manifest that a crash left out behind `last`.
async fn finish(store: &Store, partition: PartitionId, last: &Last, build: &str) -> Result<Option<Head>, SinkError> {
    let head = last
        .as_ref()
        .map(|(manifest, sha256)| Head { offset_next: manifest.publication.offset_next, manifest_sha256: *sha256 });
    let orphans = objects_behind(store, partition, last.as_ref().map(|(manifest, _)| manifest)).await?;
    match orphans.as_slice() {
        [] => Ok(head),
        [key] => roll_forward(store, key, partition, head, build).await.map(Some),
        [first, ..] => Err(SinkError::new(
            ErrorClass::Data,
            format!("recover {}/{}", partition.topic, partition.partition),
            format!(
                "{} objects without manifest from {first} on: manifests were removed; run custody verify",
                orphans.len()
            ),
        )),
    }
}

async fn last_manifest(store: &Store, partition: PartitionId) -> Result<Last, SinkError> {
    let listed = store.list(&object_key::manifest_prefix(partition), None).await?;
    let Some(last) = listed.last() else { return Ok(None) };
    let key = last.location.as_ref();
    let Some(bytes) = store.get(key).await? else {
        return Err(SinkError::new(ErrorClass::Retry, format!("get {key}"), "listed but not there"));
    };
    let manifest = Manifest::from_bytes(&bytes).map_err(|error| SinkError::new(ErrorClass::Data, key, error))?;
    let is_in_place = manifest.publication.manifest_key() == key && manifest.publication.partition_id() == partition;
    match is_in_place {
        true => Ok(Some((manifest, Sha256::of(&bytes)))),
        false => Err(SinkError::new(ErrorClass::Data, key, "this manifest belongs elsewhere; run custody verify")),
    }
}

/// Keys of the partition's data objects at or behind the chain's end, in offset order.
async fn objects_behind(
    store: &Store,
    partition: PartitionId,
    last: Option<&Manifest>,
) -> Result<Vec<String>, SinkError> {
    let topic = partition.topic.name();
    let from = last.map(|manifest| {
        let opened_at = TimestampMicros(manifest.publication.opened_at_us).plus_ms(-STEP_BACK_MS);
        object_key::data_key(partition, 0, opened_at)
    });
    let listed = store.list(&format!("archive/{topic}"), from.as_deref()).await?;
    let offset_next = last.map_or(0, |manifest| manifest.publication.offset_next);
    let mut found: Vec<(u64, String)> = listed
        .iter()
        .filter_map(|object| Some((offset_first_of(object.location.as_ref(), partition)?, object.location.to_string())))
        .filter(|(offset_first, _)| *offset_first >= offset_next)
        .collect();
    found.sort();
    Ok(found.into_iter().map(|(_, key)| key).collect())
}

/// First offset in a data key of that partition; `None` for any other key.
pub(crate) fn offset_first_of(key: &str, partition: PartitionId) -> Option<u64> {
    let name = key.rsplit('/').next()?.strip_suffix(".parquet")?;
    let rest = name.strip_prefix(partition.topic.name())?.strip_prefix('-')?;
    let (number, offset_first) = rest.split_once('-')?;
    let is_ours = number.parse() == Ok(partition.partition);
    is_ours.then(|| offset_first.parse().ok()).flatten()
}

/// Writes the manifest of an object that stands at the chain's end without one.
///
/// # Errors
/// [`ErrorClass::Data`]: the object is torn, altered or does not continue the chain.
pub async fn roll_forward(
    store: &Store,
    key: &str,
    partition: PartitionId,
    head: Option<Head>,
    build: &str,
) -> Result<Head, SinkError> {
    let Some(bytes) = store.get(key).await? else {
        return Err(SinkError::new(ErrorClass::Retry, format!("get {key}"), "listed but not there"));
    };
    let (publication, object) = read_object(key, &bytes)?;
    let is_next = head.is_none_or(|head| head.offset_next == publication.offset_first);
    if !is_next || publication.partition_id() != partition {
        let message = "the object does not continue its partition's manifest chain; run custody verify";
        return Err(SinkError::new(ErrorClass::Data, key, message));
    }
    put_manifest(store, publication, object, head, build).await
}

/// Publication and reference of a stored object; its footer must name the place where it stands.
///
/// # Errors
/// [`ErrorClass::Data`]: not one of our objects, or not whole.
pub fn read_object(key: &str, bytes: &Bytes) -> Result<(Publication, ObjectRef), SinkError> {
    let read = encode::metadata_of(bytes).and_then(|metadata| encode::publication_of(&metadata));
    let publication = read.map_err(|error| SinkError::new(ErrorClass::Data, key, error))?;
    if publication.data_key() != key {
        let message = format!("its footer belongs to {}; run custody verify", publication.data_key());
        return Err(SinkError::new(ErrorClass::Data, key, message));
    }
    let object = ObjectRef { bytes: bytes.len() as u64, key: key.to_owned(), sha256: Sha256::of(bytes) };
    Ok((publication, object))
}

/// Puts a manifest behind `head`, create-only; an equal one that is there already is success.
///
/// # Errors
/// [`ErrorClass::Data`]: another manifest stands there.
pub async fn put_manifest(
    store: &Store,
    publication: Publication,
    object: ObjectRef,
    head: Option<Head>,
    build: &str,
) -> Result<Head, SinkError> {
    let prev_manifest_sha256 = head.map_or(Sha256::ZERO, |head| head.manifest_sha256);
    let (key, offset_next) = (publication.manifest_key(), publication.offset_next);
    let manifest = Manifest { format: FORMAT, object, prev_manifest_sha256, publication, writer: build.to_owned() };
    let bytes = Bytes::from(manifest.to_bytes());
    if store.create(&key, bytes.clone()).await? == Created::New {
        return Ok(Head { offset_next, manifest_sha256: Sha256::of(&bytes) });
    }
    let Some(stored) = store.get(&key).await? else {
        return Err(refused_but_absent(&key));
    };
    let theirs = Manifest::from_bytes(&stored).map_err(|error| SinkError::new(ErrorClass::Data, &key, error))?;
    // Another build may have written it; everything else must be equal.
    match (Manifest { writer: manifest.writer.clone(), ..theirs }) == manifest {
        true => Ok(Head { offset_next, manifest_sha256: Sha256::of(&stored) }),
        false => Err(SinkError::new(ErrorClass::Data, &key, "another manifest stands there; run custody verify")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::parquet::testing::fixture::{CLEAN, log, run};

    #[tokio::test]
    async fn a_chain_that_grows_while_it_is_read_is_not_damaged() {
        let store = Store::new(Arc::new(InMemory::new()));
        let stale = last_manifest(&store, CLEAN).await.expect("listed");
        assert!(run(&store, &log(), true).await.len() > 1, "the other member has published several objects");
        let found = recover_behind(&store, CLEAN, stale, "custody/test").await.expect_err("a stale view");
        assert_eq!(found.class, ErrorClass::Retry, "{found}");
        let head = recover(&store, CLEAN, "custody/test").await.expect("recovered").expect("a head");
        assert_eq!(head.offset_next, 44);
    }
}
