//! Events that a gateway refused, kept on the agent's side with the reason.
//!
//! One JSON object per line in `refused/refused.jsonl` of the spool's directory, with the exact record in
//! hexadecimal until the file has reached its bound, and without it after that. Nothing is deleted here.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use schemas::codec::codec;
use schemas::id::hex;
use schemas::text::RawText;
use serde::Serialize;

use super::verdict::Refused;
use crate::agent::spool::{SpoolError, segments};

/// A line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    event_id: String,
    event_type: String,
    session_id: String,
    seq: i64,
    producer_id: String,
    producer_epoch: i64,
    producer_seq: i64,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
}

/// Where the file is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("refused").join("refused.jsonl")
}

/// The file.
#[derive(Debug)]
pub(super) struct RefusedFile {
    path: PathBuf,
    bytes_max: u64,
}

impl RefusedFile {
    /// The file of a spool's directory.
    pub(super) fn new(dir: &Path, bytes_max: u64) -> Self {
        Self { path: path(dir), bytes_max }
    }

    /// Adds events, durably.
    pub(super) fn add<'a>(&self, refused: impl Iterator<Item = (&'a Refused, &'a Bytes)>) -> Result<(), SpoolError> {
        if let Some(dir) = self.path.parent() {
            segments::make_dir(dir)?;
        }
        // Opened for each batch, so that an operator may move the file away; it holds content, so that only
        // the owner can read it.
        let file = segments::private().create(true).append(true).open(&self.path);
        let mut file = file.map_err(SpoolError::io("open", &self.path))?;
        let mut length = file.metadata().map_err(SpoolError::io("look at", &self.path))?.len();
        for (why, record) in refused {
            let mut line = line(why, record, length < self.bytes_max);
            line.push(b'\n');
            length += line.len() as u64;
            file.write_all(&line).map_err(SpoolError::io("append to", &self.path))?;
        }
        // Before the event leaves the spool, which would otherwise have held the only durable copy.
        file.sync_data().map_err(SpoolError::io("force to disk", &self.path))
    }
}

fn line(why: &Refused, record: &Bytes, with_record: bool) -> Vec<u8> {
    let h = codec().decode::<RawText>(Some(record)).map(|event| event.h().clone()).unwrap_or_default();
    let line = Line {
        event_id: h.event_id.to_string(),
        event_type: h.event_type,
        session_id: h.session_id.to_string(),
        seq: h.seq,
        producer_id: h.producer_id,
        producer_epoch: h.producer_epoch,
        producer_seq: h.producer_seq,
        code: &why.code,
        detail: &why.detail,
        field: why.field.as_deref(),
        record: with_record.then(|| hex(record)),
    };
    // Texts and numbers always have a JSON form.
    serde_json::to_vec(&line).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use schemas::testing::typical;

    use super::*;

    #[test]
    fn records_are_kept_up_to_the_bound_and_reasons_always() {
        let dir = tempfile::tempdir().unwrap();
        let file = RefusedFile::new(dir.path(), 1);
        let record = codec().encode(&typical(0));
        let why = Refused { index: 0, code: "reserved".to_owned(), detail: "no".to_owned(), field: None };
        file.add([(&why, &record), (&why, &record)].into_iter()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("refused/refused.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["record"], hex(&record));
        assert_eq!(
            (&lines[1]["code"], &lines[1]["detail"], lines[1].get("record")),
            (&"reserved".into(), &"no".into(), None)
        );
        assert_eq!(lines[0]["event_id"], typical(0).h().event_id.to_string());
    }
}
