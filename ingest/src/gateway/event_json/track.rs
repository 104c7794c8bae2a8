//! A serde deserializer around another that tracks its path: it names the field at fault, keeps members
//! that a record does not have, and refuses an object that names a member twice.
//!
//! The events' own `Deserialize` decides what a field may hold. Messages say what was expected and never
//! what was received, because that is content.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use schemas::text::RawText;
use serde::de::value::CowStrDeserializer;
use serde::de::{
    self, Deserialize as _, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::content;
use super::notes::{Notes, Path, REQUEST_ITEMS_MAX};
use super::text::Key;
use crate::gateway::intake::Problem;
use crate::gateway::problem::Code;

/// What a field's own `Deserialize` says against a value, without the value.
#[derive(Debug)]
enum Fault {
    Type(String),
    Value(String),
    Other(String),
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Fault::Type(text) | Fault::Value(text) | Fault::Other(text)) = self;
        f.write_str(text)
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::Other(message.to_string())
    }
    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Fault::Type(expected.to_string())
    }
    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Fault::Value(expected.to_string())
    }
}

impl Fault {
    /// `hint` says what was expected, in the words of JSON; empty where the field itself does.
    fn problem(self, hint: &str) -> Problem {
        let or_hint = |own: String| if hint.is_empty() { own } else { hint.to_owned() };
        match self {
            Fault::Type(own) => Code::WrongType.problem(format!("expected {}", or_hint(own))),
            Fault::Value(own) => Code::InvalidValue.problem(format!("expected {}", or_hint(own))),
            Fault::Other(own) => Code::InvalidValue.problem(own),
        }
    }
}

/// What is wrong where a field has not said so itself.
fn expected(hint: &str) -> Problem {
    match hint {
        "" => Code::InvalidValue.problem("the field cannot take this value"),
        hint => Code::WrongType.problem(format!("expected {hint}")),
    }
}

/// A deserializer that knows where it is.
pub(super) struct Tracked<'c, 'p, D> {
    pub(super) de: D,
    pub(super) notes: &'c mut Notes,
    pub(super) path: Path<'p>,
}

/// Methods that pass a value on to a [`Watch`].
macro_rules! watched {
    ($($method:ident $hint:literal,)*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
                let Tracked { de, notes, path } = self;
                let watch = Watch { visitor, notes: &mut *notes, path, hint: $hint };
                de.$method(watch).inspect_err(|_| notes.fail(path, || expected($hint)))
            }
        )*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Tracked<'_, '_, D> {
    type Error = D::Error;

    watched! {
        // Only timestamps take more than one type.
        deserialize_any "a time: RFC 3339 with a zone, or whole microseconds since 1970",
        deserialize_bool "true or false",
        deserialize_i32 "a whole number of 32 bits",
        deserialize_i64 "a whole number of 64 bits",
        deserialize_f64 "a number",
        deserialize_str "text",
        deserialize_string "text",
        deserialize_option "",
        deserialize_seq "an array",
        deserialize_map "an object",
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        if name == content::RECORD {
            let Tracked { de, notes, path } = self;
            let members = content::members(<&'de RawValue>::deserialize(de)?, notes, path)?;
            return visitor.visit_map(Given { members, next: 0, notes, path, error: PhantomData });
        }
        RecordDeserializer { tracked: self, hook: &mut NoHook }.deserialize_struct(name, fields, visitor)
    }

    // No record has a field of these types.
    serde::forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 char bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct enum identifier ignored_any
    }
}

/// A visitor that reports what its field says against a value.
struct Watch<'c, 'p, V> {
    visitor: V,
    notes: &'c mut Notes,
    path: Path<'p>,
    hint: &'static str,
}

/// Methods that hand a scalar to the field.
macro_rules! scalars {
    ($($method:ident $type:ty,)*) => {
        $(
            #[inline]
            fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
                let Watch { visitor, notes, path, hint } = self;
                visitor.$method::<Fault>(value).map_err(|fault| {
                    notes.fail(path, || fault.problem(hint));
                    E::custom("refused")
                })
            }
        )*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Watch<'_, '_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    scalars! {
        visit_bool bool,
        visit_i64 i64,
        visit_u64 u64,
        visit_f64 f64,
        visit_str &str,
        visit_borrowed_str &'de str,
        visit_string String,
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        let Watch { visitor, notes, path, hint } = self;
        visitor.visit_unit::<Fault>().map_err(|fault| {
            notes.fail(path, || fault.problem(hint));
            E::custom("refused")
        })
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, de: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Tracked { de, notes: self.notes, path: self.path })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Items { access, notes: self.notes, path: self.path, index: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Entries { access, notes: self.notes, path: self.path, seen: BTreeSet::new() })
    }
}

/// The items of an array.
struct Items<'c, 'p, A> {
    access: A,
    notes: &'c mut Notes,
    path: Path<'p>,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, '_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let path = Path::Item(&self.path, self.index);
        let item = self.access.next_element_seed(Seed { seed, notes: &mut *self.notes, path })?;
        if item.is_some() {
            self.index += 1;
            // Counted over the whole request: 10 000 events with ten items each cost as much as one event with
            // 100 000.
            self.notes.items += 1;
        }
        if self.notes.items > REQUEST_ITEMS_MAX {
            let detail = format!("at most {REQUEST_ITEMS_MAX} items of arrays in one request: send smaller batches");
            Err(self.notes.error(self.path, Code::TooManyItems, &detail))
        } else {
            Ok(item)
        }
    }
}

/// The entries of a map. Their keys are the client's and stand in no pointer.
struct Entries<'c, 'p, 'de, A> {
    access: A,
    notes: &'c mut Notes,
    path: Path<'p>,
    seen: BTreeSet<Cow<'de, str>>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<'_, '_, 'de, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let Some(Key(key)) = self.access.next_key()? else { return Ok(None) };
        // serde would keep the last of two equal keys without a word.
        if !self.seen.insert(key.clone()) {
            return Err(self.notes.error(self.path, Code::DuplicateField, "a member is there twice"));
        }
        seed.deserialize(CowStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.access.next_value_seed(Seed { seed, notes: &mut *self.notes, path: self.path })
    }
}

/// Takes members of a record before the record itself sees them.
pub(super) trait Hook<'de> {
    /// Reads the value of the member `name`, or does not read it and returns `false`.
    fn take<A: MapAccess<'de>>(&mut self, name: &str, access: &mut A, notes: &mut Notes) -> Result<bool, A::Error>;
}

/// Takes nothing.
pub(super) struct NoHook;

impl<'de> Hook<'de> for NoHook {
    fn take<A: MapAccess<'de>>(&mut self, _: &str, _: &mut A, _: &mut Notes) -> Result<bool, A::Error> {
        Ok(false)
    }
}

/// A deserializer of one record, some of whose members a hook takes.
pub(super) struct RecordDeserializer<'h, 'c, 'p, D, H> {
    pub(super) tracked: Tracked<'c, 'p, D>,
    pub(super) hook: &'h mut H,
}

impl<'de, D: Deserializer<'de>, H: Hook<'de>> Deserializer<'de> for RecordDeserializer<'_, '_, '_, D, H> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, D::Error> {
        Err(D::Error::custom("only records are read here"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        // `fields` is needed here as well, because the derived visitor ignores unknown members and we keep
        // them.
        let Tracked { de, notes, path } = self.tracked;
        let record = RecordVisitor { visitor, fields, notes: &mut *notes, path, hook: self.hook };
        // Not `deserialize_struct`: that one takes an array for a record too.
        de.deserialize_map(record).inspect_err(|_| notes.fail(path, || expected("an object")))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct RecordVisitor<'h, 'c, 'p, V, H> {
    visitor: V,
    fields: &'static [&'static str],
    notes: &'c mut Notes,
    path: Path<'p>,
    hook: &'h mut H,
}

impl<'de, V: Visitor<'de>, H: Hook<'de>> Visitor<'de> for RecordVisitor<'_, '_, '_, V, H> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let RecordVisitor { visitor, fields, notes, path, hook } = self;
        visitor.visit_map(Fields { access, fields, notes, path, hook, seen: 0, next: 0 })
    }
}

/// The members of a record.
struct Fields<'h, 'c, 'p, A, H> {
    access: A,
    fields: &'static [&'static str],
    notes: &'c mut Notes,
    path: Path<'p>,
    hook: &'h mut H,
    /// Bit `i` for field `i`; no record has more than 64.
    seen: u64,
    /// The field after the last one: the next member, if the writer keeps the schema's order.
    next: usize,
}

impl<'de, A: MapAccess<'de>, H: Hook<'de>> Fields<'_, '_, '_, A, H> {
    /// The field called `name`. The envelope `h` of an event is not a field of its data.
    fn find(&self, name: &str) -> Option<usize> {
        // Writers that keep the schema's order hit here, and no name is searched for: 28 comparisons per
        // member are the cost otherwise.
        if self.fields.get(self.next) == Some(&name) && name != "h" {
            return Some(self.next);
        }
        self.fields.iter().position(|field| *field == name).filter(|_| name != "h")
    }
}

impl<'de, A: MapAccess<'de>, H: Hook<'de>> MapAccess<'de> for Fields<'_, '_, '_, A, H> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        loop {
            let Some(Key(name)) = self.access.next_key()? else { return Ok(None) };
            let found = self.find(&name);
            if let Some(index) = found {
                if self.seen & (1 << index) != 0 {
                    let path = Path::Field(&self.path, self.fields[index]);
                    return Err(self.notes.error(path, Code::DuplicateField, "a member is there twice"));
                }
                self.seen |= 1 << index;
                self.next = index + 1;
            }
            if self.hook.take(&name, &mut self.access, self.notes)? {
                continue;
            }
            match found {
                // serde's derived field identifiers accept the index as well as the name, which saves comparing the
                // names a second time.
                Some(index) => return seed.deserialize((index as u64).into_deserializer()).map(Some),
                None => {
                    // Kept and not refused: an event from a newer client must not be lost for a field that
                    // this version does not know.
                    let value = self.access.next_value()?;
                    self.notes.keep(self.path, &name, value)?;
                }
            }
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let path = match self.next.checked_sub(1).and_then(|last| self.fields.get(last)) {
            Some(name) => Path::Field(&self.path, name),
            None => self.path,
        };
        self.access.next_value_seed(Seed { seed, notes: &mut *self.notes, path })
    }
}

/// The content that a JSON value stands for, where no record reads it; `None` for `null`.
pub(super) fn content_of<E: de::Error>(
    value: &RawValue,
    notes: &mut Notes,
    path: Path<'_>,
) -> Result<Option<schemas::text::Content<RawText>>, E> {
    let mut de = serde_json::Deserializer::from_slice(value.get().as_bytes());
    let read = Option::deserialize(Tracked { de: &mut de, notes: &mut *notes, path });
    read.map_err(|_| notes.error(path, Code::InvalidValue, "the field cannot take this value"))
}

/// A seed whose value knows where it is.
pub(super) struct Seed<'c, 'p, S> {
    pub(super) seed: S,
    pub(super) notes: &'c mut Notes,
    pub(super) path: Path<'p>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, '_, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<S::Value, D::Error> {
        let Seed { seed, notes, path } = self;
        seed.deserialize(Tracked { de, notes: &mut *notes, path }).inspect_err(|_| notes.fail(path, || expected("")))
    }
}

/// Hands the members to the record's visitor, each by the index of its field.
struct Given<'de, 'c, 'p, E> {
    members: content::Members<'de>,
    next: usize,
    notes: &'c mut Notes,
    path: Path<'p>,
    error: PhantomData<E>,
}

impl<'de, E: de::Error> MapAccess<'de> for Given<'de, '_, '_, E> {
    type Error = E;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, E> {
        // `sealed` is the last field and the only one that may be absent.
        if self.next == content::FIELDS.len() - usize::from(self.members.sealed.is_none()) {
            return Ok(None);
        }
        self.next += 1;
        seed.deserialize((self.next as u64 - 1).into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, E> {
        let text = |text: &mut Cow<'de, str>| CowStrDeserializer::new(std::mem::take(text));
        match (self.next, self.members.sealed) {
            (1, _) => seed.deserialize(text(&mut self.members.text)),
            (2, _) => seed.deserialize(text(&mut self.members.redaction)),
            (3, _) => seed.deserialize(text(&mut self.members.media_type)),
            (5, Some(value)) => {
                let mut de = serde_json::Deserializer::from_slice(value.get().as_bytes());
                let path = Path::Field(&self.path, content::FIELDS[4]);
                Seed { seed, notes: &mut *self.notes, path }.deserialize(&mut de).map_err(|_| E::custom("refused"))
            }
            _ => seed.deserialize(self.members.raw_bytes.into_deserializer()),
        }
    }
}
