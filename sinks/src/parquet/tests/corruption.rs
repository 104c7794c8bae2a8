//! Every way to damage an archive, and what verification says about it.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::id::Sha256;
use schemas::table::Table;

use crate::manifest::Manifest;
use crate::parquet::archive::Receipt;
use crate::parquet::encode::{self, ObjectWriter};
use crate::parquet::inspect::Columns;
use crate::parquet::recover::Head;
use crate::parquet::rows::layout_of;
use crate::parquet::store::Store;
use crate::parquet::testing::fixture::*;
use crate::parquet::verify::{VerifyOptions, VerifyReport, verify};

/// An intact archive of four objects with several row groups each.
struct Archive {
    store: Store,
    receipts: Vec<Receipt>,
}

impl Archive {
    async fn new() -> Self {
        let store = Store::new(Arc::new(InMemory::new()));
        let receipts = run(&store, &log(), true).await;
        Self { store, receipts }
    }

    async fn read(&self, key: &str) -> Bytes {
        self.store.get(key).await.unwrap().unwrap()
    }

    async fn overwrite(&self, key: &str, bytes: impl Into<Bytes>) {
        let payload = PutPayload::from_bytes(bytes.into());
        self.store.object_store().put(&Path::from(key), payload).await.unwrap();
    }

    async fn remove(&self, key: &str) {
        self.store.object_store().delete(&Path::from(key)).await.unwrap();
    }

    /// The forger's way: replaces an object and makes its manifest, and all that follow, agree with it.
    async fn forge(&self, index: usize, bytes: Bytes) {
        let mut prev = None;
        for (i, receipt) in self.receipts.iter().enumerate() {
            let key = receipt.publication.manifest_key();
            let mut manifest = Manifest::from_bytes(&self.read(&key).await).unwrap();
            if i == index {
                manifest.object.bytes = bytes.len() as u64;
                manifest.object.sha256 = Sha256::of(&bytes);
                self.overwrite(&receipt.object.key, bytes.clone()).await;
            }
            manifest.prev_manifest_sha256 = prev.unwrap_or(Sha256::ZERO);
            prev = Some(manifest.sha256());
            self.overwrite(&key, manifest.to_bytes()).await;
        }
    }

    async fn verify(&self, options: &VerifyOptions) -> VerifyReport {
        verify(&self.store, options, |_| ()).await.unwrap()
    }

    /// Exactly the objects in `expected` fail, each for that reason.
    async fn check(&self, what: &str, expected: &[(&str, &str)]) {
        let report = self.verify(&VerifyOptions::default()).await;
        for (object, reason) in expected {
            let is_named = report.failures.iter().any(|f| f.object == *object && f.reason.contains(reason));
            assert!(is_named, "{what}: {object} should fail with {reason:?}, got {:#?}", report.failures);
        }
        let objects: std::collections::BTreeSet<_> = expected.iter().map(|(object, _)| *object).collect();
        let others: Vec<_> = report.failures.iter().filter(|f| !objects.contains(f.object.as_str())).collect();
        assert!(others.is_empty(), "{what}: nothing else is wrong, got {others:#?}");
    }
}

fn batches(bytes: &Bytes) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap().with_batch_size(3).build().unwrap();
    reader.map(|batch| batch.unwrap()).collect()
}

/// The object of these batches with the footer of another.
fn rewritten(original: &Bytes, batches: &[RecordBatch]) -> Bytes {
    let publication = encode::publication_of(&encode::metadata_of(original).unwrap()).unwrap();
    let layout = layout_of(Table::Events, 1);
    let mut writer = ObjectWriter::new(batches[0].schema(), &layout, "custody/test").unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish(&publication).unwrap()
}

#[tokio::test]
async fn any_flipped_byte_is_named_with_its_object() {
    let archive = Archive::new().await;
    let key = &archive.receipts[1].object.key;
    let original = archive.read(key).await;
    for at in (0..original.len()).step_by(original.len() / 60) {
        let mut bytes = original.to_vec();
        bytes[at] ^= 0x10;
        archive.overwrite(key, bytes).await;
        archive.check(&format!("byte {at} of {}", original.len()), &[(key, "its SHA-256 is")]).await;
    }
}

#[tokio::test]
async fn a_damaged_object_is_named_with_the_reason() {
    let archive = Archive::new().await;
    let key = &archive.receipts[1].object.key;
    let manifest_key = archive.receipts[1].publication.manifest_key();
    let original = archive.read(key).await;

    archive.remove(key).await;
    archive.check("removed", &[(key, "the object is missing")]).await;
    archive.overwrite(key, original.slice(..original.len() / 2)).await;
    archive.check("cut", &[(key, "its manifest says"), (key, "its footer cannot be read")]).await;
    archive.overwrite(key, Bytes::new()).await;
    archive.check("emptied", &[(key, "it has 0 bytes")]).await;
    archive.overwrite(key, archive.read(&archive.receipts[2].object.key).await).await;
    archive.check("replaced", &[(key, "its footer and its manifest differ in offset_first")]).await;
    archive.overwrite(key, original).await;
    archive.check("restored", &[]).await;

    let manifest = String::from_utf8(archive.read(&manifest_key).await.to_vec()).unwrap();
    archive.overwrite(&manifest_key, manifest.replace("\"rows\":10", "\"rows\":11")).await;
    let next = archive.receipts[2].publication.manifest_key();
    let expected = [(key.as_str(), "its rows and its manifest differ in rows"), (&next, "was removed or altered")];
    archive.check("edited manifest", &expected).await;
    archive.overwrite(&manifest_key, "{}").await;
    archive.check("unreadable manifest", &[(&manifest_key, "not a manifest"), (key, "no manifest names it")]).await;
}

#[tokio::test]
async fn a_forger_who_rewrites_the_chain_still_cannot_edit_a_row() {
    let archive = Archive::new().await;
    let key = archive.receipts[1].object.key.clone();
    let original = archive.read(&key).await;
    let rows = batches(&original);
    let check = async |what: &str, batches: &[RecordBatch], reason: &str| {
        archive.forge(1, rewritten(&original, batches)).await;
        archive.check(what, &[(&key, reason)]).await;
    };
    archive.forge(1, rewritten(&original, &rows)).await;
    archive.check("same rows, other layout", &[]).await;
    let swapped: Vec<_> = rows.iter().rev().cloned().collect();
    check("swapped row groups", &swapped, "stands where one of").await;
    check("removed rows", &rows[1..], "its rows and its manifest differ in rows").await;
    let doubled: Vec<_> = rows.iter().chain(&rows[..1]).cloned().collect();
    check("doubled rows", &doubled, "stands where one of").await;
    let edited: Vec<_> = rows.iter().map(|batch| with_column(batch, "agent_id", "agent-9")).collect();
    check("edited column", &edited, "column agent_id at offset 11 is not what raw says").await;
    let trusting = VerifyOptions { columns: Columns::Trust, ..VerifyOptions::default() };
    assert_eq!(archive.verify(&trusting).await.failures, [], "what trusting the columns cannot see");
    archive.overwrite(&key, original).await;
    let report = archive.verify(&trusting).await;
    assert!(report.failures.iter().any(|failure| failure.reason.contains("its SHA-256 is")), "{:?}", report.failures);
}

/// The batch with every value of a text column replaced.
fn with_column(batch: &RecordBatch, name: &str, value: &str) -> RecordBatch {
    let index = batch.schema().index_of(name).unwrap();
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns[index] = Arc::new(StringArray::from(vec![value; batch.num_rows()]));
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

#[tokio::test]
async fn a_broken_chain_is_named_with_the_place() {
    let archive = Archive::new().await;
    let [first, second, third, fourth] = &archive.receipts[..] else { panic!("four objects") };
    let key = |receipt: &Receipt| receipt.publication.manifest_key();

    let removed = archive.read(&key(second)).await;
    archive.remove(&key(second)).await;
    let expected = [
        (key(third), "offsets 10 to 23 (exclusive) are missing"),
        (key(third), "a manifest was removed or altered"),
        (second.object.key.clone(), "no manifest names it"),
    ];
    let expected: Vec<_> = expected.iter().map(|(object, reason)| (object.as_str(), *reason)).collect();
    archive.check("removed manifest", &expected).await;
    archive.remove(&second.object.key).await;
    archive.check("removed manifest and object", &expected[..2]).await;
    archive.overwrite(&key(second), removed).await;
    archive.check("removed object", &[(&second.object.key, "the object is missing")]).await;

    let archive = Archive::new().await;
    let (left, right) = (archive.read(&key(second)).await, archive.read(&key(third)).await);
    archive.overwrite(&key(second), right).await;
    archive.overwrite(&key(third), left).await;
    let (second_key, third_key) = (key(second), key(third));
    let fourth_key = key(fourth);
    let expected = [
        (second_key.as_str(), "it is the manifest of"),
        (&third_key, "it is the manifest of"),
        (&fourth_key, "removed or altered"),
    ];
    archive.check("swapped manifests", &expected).await;

    let archive = Archive::new().await;
    archive.remove(&key(first)).await;
    archive.remove(&first.object.key).await;
    archive.check("removed head", &[(&key(second), "earlier manifests were removed")]).await;
}

#[tokio::test]
async fn only_an_outside_position_shows_a_cut_tail() {
    let archive = Archive::new().await;
    let last = archive.receipts.last().unwrap();
    let head = Head { offset_next: last.publication.offset_next, manifest_sha256: last.manifest_sha256 };
    let witnessed = VerifyOptions { witnessed: [(CLEAN, head)].into(), threads: 1, ..VerifyOptions::default() };
    let report = archive.verify(&witnessed).await;
    assert_eq!((report.failures, report.notes, report.partitions[0].is_witnessed), (vec![], vec![], true));

    archive.remove(&last.publication.manifest_key()).await;
    archive.remove(&last.object.key).await;
    let report = archive.verify(&VerifyOptions::default()).await;
    assert_eq!(report.failures, [], "the archive alone cannot show it");
    assert!(report.notes[0].contains("unwitnessed"), "{:?}", report.notes);
    let report = archive.verify(&witnessed).await;
    assert!(report.failures[0].reason.contains("it was cut or rewritten"), "{:?}", report.failures);
}

#[tokio::test]
async fn an_unknown_object_is_reported() {
    let archive = Archive::new().await;
    for key in
        ["archive/notes.txt", "archive/custody.clean.v1/x.parquet", "archive/_manifest/custody.clean.v1/00003/x.json"]
    {
        archive.overwrite(key, "?").await;
        archive.check(key, &[(key, "unknown object under archive/")]).await;
        archive.remove(key).await;
    }
    let stray = archive.receipts[0].object.key.replace("-00003-", "-00004-");
    archive.overwrite(&stray, "?").await;
    archive.overwrite(&stray.replace("00000.parquet", "00001.parquet"), "?").await;
    let report = archive.verify(&VerifyOptions::default()).await;
    assert_eq!(report.failures.len(), 2, "{:?}", report.failures);
}
