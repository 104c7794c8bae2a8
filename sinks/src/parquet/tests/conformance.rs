//! The conformance suite in memory and in a directory, and what no store has a part in.

use std::sync::Arc;

use object_store::memory::InMemory;

use crate::error::ErrorClass;
use crate::parquet::store::Store;
use crate::parquet::testing::fixture::*;

mod in_memory {
    use super::*;
    crate::store_conformance!(async || (Store::new(Arc::new(InMemory::new())), ()));
}

mod in_a_directory {
    use super::*;
    crate::store_conformance!(async || {
        let directory = tempfile::tempdir().unwrap();
        (Store::local(directory.path()).unwrap(), directory)
    });
}

#[tokio::test]
async fn an_undecodable_record_stops_the_partition() {
    let mut sink = open(&Store::new(Arc::new(InMemory::new()))).await;
    sink.position(CLEAN).await.unwrap();
    sink.assign(CLEAN, 0).unwrap();
    sink.push(&[event(0, 0, 10)]).unwrap();
    let error = sink.push(&[record(CLEAN, 1, 0, "garbage".into())]).unwrap_err();
    assert_eq!(error.class, ErrorClass::Data);
    assert!(error.what.contains("custody.clean.v1/3 offset 1"), "{error}");
    let error = sink.push(&[event(2, 0, 10)]).unwrap_err();
    assert_eq!(error.class, ErrorClass::Restart, "nothing is added behind the hole: {error}");
    assert_eq!(sink.flush().await, Ok(vec![]));
}
