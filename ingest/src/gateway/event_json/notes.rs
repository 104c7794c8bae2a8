//! What is collected about an event while it is read: where it is at fault, and members that have no
//! field.
//!
//! It reads no JSON except the texts of values that are kept; a problem never contains received content.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemas::limits::JSON_DEPTH_MAX;
use serde::de;
use serde_json::value::RawValue;

use super::text::{nesting, string};
use crate::gateway::intake::Problem;
use crate::gateway::problem::Code;

/// Most items of arrays in one request. An empty record is 3 bytes of JSON and about 100 of memory.
pub(super) const REQUEST_ITEMS_MAX: usize = 100_000;

/// Where in an event a value stands. Only names of our schemas are in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'p> {
    /// The event itself.
    Root,
    /// A field of a record.
    Field(&'p Path<'p>, &'static str),
    /// An item of an array.
    Item(&'p Path<'p>, usize),
}

impl Path<'_> {
    /// JSON pointer, RFC 6901.
    fn pointer(&self) -> String {
        match self {
            Path::Root => String::new(),
            Path::Field(parent, name) => format!("{}/{name}", parent.pointer()),
            Path::Item(parent, index) => format!("{}/{index}", parent.pointer()),
        }
    }

    /// Under which name an unknown member of this record is kept.
    fn unknown(&self, name: &str) -> String {
        match self {
            Path::Root => name.to_owned(),
            _ => format!("{}.{name}", self.pointer()[1..].replace('/', ".")),
        }
    }

    /// How many objects and arrays a value here stands in.
    fn depth(&self) -> usize {
        match self {
            Path::Root => 0,
            Path::Field(parent, _) | Path::Item(parent, _) => 1 + parent.depth(),
        }
    }
}

/// What is found out about an event on the side.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Members that no record has, and those of `ext`.
    pub(super) ext: BTreeMap<String, String>,
    /// The first thing that is wrong.
    pub(super) fault: Option<Problem>,
    /// Items of all arrays so far, of all events.
    pub(super) items: usize,
}

impl Notes {
    /// Remembers what is wrong; what was remembered first stays.
    pub(super) fn fail(&mut self, path: Path<'_>, problem: impl FnOnce() -> Problem) {
        // An error passes through every level of the deserializer on its way up, and each of them reports it;
        // only the innermost one knows the field.
        if self.fault.is_none() {
            let pointer = path.pointer();
            let problem = problem();
            self.fault = Some(if pointer.is_empty() { problem } else { problem.at(pointer) });
        }
    }

    /// [`Notes::fail`] as the error of a deserializer.
    pub(super) fn error<E: de::Error>(&mut self, path: Path<'_>, code: Code, detail: &str) -> E {
        self.fail(path, || code.problem(detail));
        E::custom("refused")
    }

    /// Keeps an unknown member of the record at `path`.
    pub(super) fn keep<E: de::Error>(&mut self, path: Path<'_>, name: &str, value: &RawValue) -> Result<(), E> {
        self.keep_as(path, path.unknown(name), value)
    }

    /// Keeps a value under `key`: a string as it is, any other as its JSON.
    pub(super) fn keep_as<E: de::Error>(&mut self, path: Path<'_>, key: String, value: &RawValue) -> Result<(), E> {
        let text = self.text(path, value)?;
        match self.ext.insert(key, text) {
            None => Ok(()),
            Some(_) => Err(self.error(path, Code::DuplicateField, "a member is there twice")),
        }
    }

    /// A string as it is, any other value as its JSON.
    pub(super) fn text<E: de::Error>(&mut self, path: Path<'_>, value: &RawValue) -> Result<String, E> {
        if !value.get().starts_with('"') {
            self.check_depth(path, value.get())?;
            return Ok(value.get().to_owned());
        }
        string(value).map(Cow::into_owned).ok_or_else(|| self.bad_string(path))
    }

    /// Half of a surrogate pair, which only reading the string shows.
    pub(super) fn bad_string<E: de::Error>(&mut self, path: Path<'_>) -> E {
        self.error(path, Code::MalformedJson, "a string has an escape that stands for no character")
    }

    /// Refuses JSON that nests deeper, counted from the event, than any stage reads.
    pub(super) fn check_depth<E: de::Error>(&mut self, path: Path<'_>, json: &str) -> Result<(), E> {
        // Counted from the event and not from the value: the stages look into what is nested in the whole
        // event.
        if path.depth() + 1 + nesting(json) > JSON_DEPTH_MAX {
            Err(self.error(path, Code::TooDeep, &format!("at most {JSON_DEPTH_MAX} objects and arrays deep")))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_pointer_and_names_what_is_unknown_in_it() {
        let data = Path::Field(&Path::Root, "data");
        let evidence = Path::Field(&data, "evidence");
        let first = Path::Item(&evidence, 1);
        assert_eq!(first.pointer(), "/data/evidence/1");
        assert_eq!(first.unknown("x"), "data.evidence.1.x");
        assert_eq!(Path::Root.unknown("x"), "x");
        assert_eq!(first.depth(), 3);
    }
}
