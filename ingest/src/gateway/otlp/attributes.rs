//! The attributes of one span or record, assigned to fields by the table; the rest goes to `ext`.
//!
//! Every attribute ends up either in the field that took it or in `ext`, and those that the table marks
//! as staying in both. Nothing is dropped.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use schemas::id::Sha256;
use schemas::limits::ID_BYTES_MAX;
use schemas::text::{Content, RawText};
use serde::ser::{Serialize, Serializer};

use super::field::Form;
use super::lookup::{Ranked, indexed, rows_of};
use super::table::{Dialect, Field, OtlpKind, Row};
use super::value::{self, Nullable};

/// The attribute that fills a field.
#[derive(Debug, Clone, Copy)]
struct Slot {
    at: u32,
    rank: u16,
    dialect: Dialect,
}

/// An attribute whose name has an index, waiting to be gathered.
#[derive(Debug)]
struct Indexed {
    field: Field,
    index: u64,
    at: u32,
    /// Where the rest of the name begins, after the index.
    rest: usize,
}

/// The attributes.
#[derive(Debug)]
pub(super) struct Attributes {
    pairs: Vec<KeyValue>,
    taken: Vec<bool>,
    slots: [Option<Slot>; Field::COUNT],
    indexed: Vec<Indexed>,
}

/// The map `ext` of an event on its way.
#[derive(Debug, Clone, Default)]
pub(super) struct Ext {
    map: BTreeMap<String, String>,
    /// Keys that occurred more than once, and how often: without it a request that repeats one key takes
    /// time in the square of its length.
    repeated: BTreeMap<String, u64>,
}

impl Ext {
    /// A map without repeated keys.
    pub(super) fn of(map: BTreeMap<String, String>) -> Self {
        Self { map, repeated: BTreeMap::new() }
    }

    /// Puts a value under a key that may be there: another value of the same key gets `#2`, `#3` ...
    pub(super) fn put(&mut self, key: String, value: String) {
        match self.map.get(&key) {
            None => _ = self.map.insert(key, value),
            Some(there) if *there == value => {}
            Some(_) => {
                // Counted per key: trying `#2`, `#3` and so on from the start for each repeat takes time in
                // the square of their number.
                let count = self.repeated.entry(key.clone()).or_insert(1);
                *count += 1;
                let mut name = format!("{key}#{count}");
                while self.map.contains_key(&name) {
                    *count += 1;
                    name = format!("{key}#{count}");
                }
                self.map.insert(name, value);
            }
        }
    }

    /// The map.
    pub(super) fn into_map(self) -> BTreeMap<String, String> {
        self.map
    }
}

impl Attributes {
    /// The attributes of a span or record, not assigned yet.
    pub(super) fn new(pairs: Vec<KeyValue>) -> Self {
        let taken = vec![false; pairs.len()];
        Self { pairs, taken, slots: [None; Field::COUNT], indexed: Vec::new() }
    }

    /// Adds attributes of a span event that speaks for its span.
    pub(super) fn extend(&mut self, pairs: Vec<KeyValue>) {
        self.pairs.extend(pairs);
        self.taken.resize(self.pairs.len(), false);
    }

    /// Names and values as they arrived.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Option<&AnyValue>)> {
        self.pairs.iter().map(|pair| (pair.key.as_str(), pair.value.as_ref()))
    }

    /// A string attribute.
    pub(super) fn str(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).and_then(|(_, value)| value::as_str(value))
    }

    /// Decides which attribute fills which field of events of this kind. `vendor` is whose log record
    /// it is.
    pub(super) fn assign(&mut self, kind: OtlpKind, vendor: Option<Dialect>) {
        for (at, pair) in (0_u32..).zip(&self.pairs) {
            let rows = rows_of(&pair.key);
            // Vendors' attributes have plain names such as `model`, which mean that only in the vendor's own log records.
            let applies =
                |row: &Row| row.field.is_of(kind) && (!row.dialect.is_vendor() || Some(row.dialect) == vendor);
            for Ranked { row, rank } in rows.iter().filter(|ranked| applies(&ranked.row)).copied() {
                let slot = &mut self.slots[row.field as usize];
                // The rank decides, not the order of arrival: SDKs send attributes in any order, and the same
                // span must always give the same event.
                let better = slot.is_none_or(|slot| rank < slot.rank);
                // An attribute that does not fit leaves the field to the next one and stays in `ext`: a wrong
                // type must not cost the value.
                if better && value::fits(row.field.form(), pair.value.as_ref()) {
                    *slot = Some(Slot { at, rank, dialect: row.dialect });
                }
            }
            if rows.is_empty()
                && let Some((row, index, rest)) = indexed(&pair.key).filter(|(row, ..)| row.field.is_of(kind))
            {
                self.indexed.push(Indexed { field: row.field, index, at, rest });
            }
        }
    }

    /// The value that fills a field, without taking it.
    pub(super) fn peek(&self, field: Field) -> Option<&AnyValue> {
        let slot = self.slots[field as usize]?;
        self.pairs[slot.at as usize].value.as_ref()
    }

    /// Text that fills a field, without taking it.
    pub(super) fn peek_text(&self, field: Field) -> Option<String> {
        self.peek(field).map(|value| value::text(Some(value)))
    }

    /// Takes the value that fills a field. What stays is copied, and so are scalars of the old dialect:
    /// that they were translated must be visible.
    fn take(&mut self, field: Field) -> Option<AnyValue> {
        let slot = self.slots[field as usize]?;
        let at = slot.at as usize;
        let translated = slot.dialect == Dialect::GenAiOld && field.form() != Form::Content;
        // Copied and not moved, because `rest` puts what is left into `ext`.
        if field.stays() || translated {
            return self.pairs[at].value.clone();
        }
        self.taken[at] = true;
        self.pairs[at].value.take()
    }

    /// Takes text; empty where there is none.
    pub(super) fn text(&mut self, field: Field) -> String {
        value::into_text(self.take(field))
    }

    /// Takes a name for a header, where the stages limit the length: a longer one is cut, ends in its
    /// digest, and stays whole in `ext`.
    pub(super) fn name(&mut self, field: Field) -> Option<String> {
        let text = self.peek_text(field)?;
        // A long name is not taken, so that it stays whole in `ext`.
        Some(if text.len() > ID_BYTES_MAX { short(&text) } else { self.text(field) })
    }

    /// Takes a whole number; -1 where there is none.
    pub(super) fn count(&mut self, field: Field) -> i64 {
        self.int(field).unwrap_or(-1)
    }

    /// Takes a whole number.
    pub(super) fn int(&mut self, field: Field) -> Option<i64> {
        value::as_int(self.take(field).as_ref())
    }

    /// Takes a number.
    pub(super) fn number(&mut self, field: Field) -> Option<f64> {
        value::as_number(self.take(field).as_ref())
    }

    /// Takes a list.
    pub(super) fn list(&mut self, field: Field) -> Vec<String> {
        self.take(field).map(|value| value::into_list(Some(value))).unwrap_or_default()
    }

    /// Takes content: the attribute of the field, else its indexed attributes as a JSON array.
    pub(super) fn content(&mut self, field: Field) -> Option<Content<RawText>> {
        self.document(field).map(value::content)
    }

    /// The digest of content, which stays in `ext`.
    pub(super) fn digest(&mut self, field: Field) -> Option<Sha256> {
        match value::as_str(self.peek(field)).filter(|_| !self.gathers(field)) {
            Some(text) => Some(Sha256::of(text.as_bytes())),
            None => self.document(field).map(|text| Sha256::of(text.as_bytes())),
        }
    }

    /// Takes content as text.
    pub(super) fn document(&mut self, field: Field) -> Option<String> {
        if self.gathers(field) {
            self.gather(field)
        } else {
            self.take(field).map(|value| value::into_text(Some(value)))
        }
    }

    fn gathers(&self, field: Field) -> bool {
        let exact = self.slots[field as usize];
        exact.is_none_or(|slot| slot.dialect != Dialect::GenAi) && self.indexed.iter().any(|i| i.field == field)
    }

    fn gather(&mut self, field: Field) -> Option<String> {
        let mut items: BTreeMap<u64, Vec<(&str, Option<&Value>)>> = BTreeMap::new();
        for entry in self.indexed.iter().filter(|entry| entry.field == field) {
            let pair = &self.pairs[entry.at as usize];
            let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
            items.entry(entry.index).or_default().push((&pair.key[entry.rest..], value));
            // A name with an index is part of one document; what was gathered leaves `ext` together.
            self.taken[entry.at as usize] |= !field.stays();
        }
        // Keys are texts and writing to memory does not fail.
        (!items.is_empty()).then(|| serde_json::to_string(&Items(&items)).unwrap_or_default())
    }

    /// Values of indexed attributes that end in `name`, in order of their index.
    pub(super) fn gathered(&self, field: Field, name: &str) -> Vec<String> {
        let mut found: Vec<(u64, String)> = Vec::new();
        for entry in self.indexed.iter().filter(|entry| entry.field == field) {
            let pair = &self.pairs[entry.at as usize];
            if &pair.key[entry.rest..] == name {
                found.push((entry.index, value::text(pair.value.as_ref())));
            }
        }
        found.sort();
        found.into_iter().map(|(_, text)| text).collect()
    }

    /// Everything that no field took.
    pub(super) fn rest(self, ext: &mut Ext) {
        for (pair, _) in self.pairs.into_iter().zip(self.taken).filter(|(_, taken)| !taken) {
            ext.put(pair.key, value::into_text(pair.value));
        }
    }
}

/// A name that fits into a header: a long one is its head and its digest.
pub(super) fn short(text: &str) -> String {
    if text.len() <= ID_BYTES_MAX {
        return text.to_owned();
    }
    let digest = Sha256::of(text.as_bytes()).to_hex();
    // The digest keeps two long names apart that begin alike, and the head keeps them readable.
    let mut end = ID_BYTES_MAX - digest.len() - 1;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{digest}", &text[..end])
}

/// Indexed attributes as a JSON array: objects, or the values themselves where nothing follows the index.
struct Items<'a>(&'a BTreeMap<u64, Vec<(&'a str, Option<&'a Value>)>>);

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values().map(|item| Item(item)))
    }
}

struct Item<'a>(&'a [(&'a str, Option<&'a Value>)]);

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            [("", value)] => Nullable(*value).serialize(serializer),
            pairs => value::object(pairs.iter().copied(), serializer),
        }
    }
}
