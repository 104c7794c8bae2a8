//! The native JSON form of events: the header's fields at top level, the type's own under `data`.
//!
//! A batch is read in one pass. If it has a fault, it is read again event by event, so that the answer can list
//! the problems of each. The rules for an event are in [`super::validate`]; `docs/intake.md` describes the
//! form.

mod content;
mod notes;
#[cfg(test)]
mod tests;
mod text;
mod track;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use schemas::event::{Event, EventHeader, EventKind, Extension, RawEvent};
use schemas::text::RawText;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::intake::{Arrived, IntakeContext, Problem, REQUEST_EVENTS_MAX};
use super::problem::{Code, PROBLEMS_LISTED_MAX, Refusal};
use super::validate::{self, Draft, Numbers};
use notes::{Notes, Path};
use text::Key;
pub(super) use text::string;
use track::{Hook, NoHook, RecordDeserializer, Seed, Tracked, content_of};

type Json<'de> = serde_json::Deserializer<serde_json::de::SliceRead<'de>>;

/// Reads one event or an array of events.
pub(super) fn read(body: &[u8], context: &IntakeContext<'_>) -> Result<Vec<Arrived>, Refusal> {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => read_array(body, context),
        _ => Ok(vec![Reader::new(context).one(body)?]),
    }
}

/// Reads one event per line that is not blank.
pub(super) fn read_lines(body: &[u8], context: &IntakeContext<'_>) -> Result<Vec<Arrived>, Refusal> {
    let blank = |line: &&[u8]| line.iter().all(u8::is_ascii_whitespace);
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !blank(line));
    let mut reader = Reader::new(context);
    collect(lines.map(|line| reader.one(line)))
}

fn read_array(body: &[u8], context: &IntakeContext<'_>) -> Result<Vec<Arrived>, Refusal> {
    let mut reader = Reader::new(context);
    let mut de = Json::from_slice(body);
    match Batch(&mut reader).deserialize(&mut de).and_then(|events| de.end().map(|()| events)) {
        Ok(events) => Ok(events),
        Err(_) => {
            let mut reader = Reader::new(context);
            // Slower, and only for batches that are refused: the one-pass parser stops at the first fault and
            // cannot continue after it.
            collect(split_array(body)?.into_iter().map(|event| reader.one(event.get().as_bytes())))
        }
    }
}

/// The elements of an array, each as the text that it is.
pub(super) fn split_array(body: &[u8]) -> Result<Vec<&RawValue>, Refusal> {
    struct Elements<'a>(&'a mut usize);
    impl<'de> Visitor<'de> for Elements<'_> {
        type Value = Vec<&'de RawValue>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = access.next_element()? {
                elements.push(element);
                // Kept outside of the visitor, which serde drops with an error: the answer names the element
                // at fault by it.
                *self.0 = elements.len();
                if elements.len() > REQUEST_EVENTS_MAX {
                    return Err(de::Error::custom("too many"));
                }
            }
            Ok(elements)
        }
    }
    let mut count = 0;
    let mut de = Json::from_slice(body);
    let elements = de.deserialize_seq(Elements(&mut count)).and_then(|elements| de.end().map(|()| elements));
    elements.map_err(|error| match error.classify() {
        // First, because the visitor can report this only as an error of its own, which looks like a fault in
        // the data.
        _ if count > REQUEST_EVENTS_MAX => too_many_events().into(),
        Category::Data => Code::WrongType.problem("expected an array of events").into(),
        _ => syntax(&error).in_event(count).into(),
    })
}

/// All events, or what is wrong with the first ones that are wrong.
pub(super) fn collect(read: impl Iterator<Item = Result<Arrived, Problem>>) -> Result<Vec<Arrived>, Refusal> {
    let (mut events, mut problems) = (Vec::new(), Vec::new());
    for (index, event) in read.enumerate() {
        if index == REQUEST_EVENTS_MAX {
            return Err(too_many_events().into());
        }
        match event {
            Ok(event) if problems.is_empty() => events.push(event),
            // Nothing of the request will be appended: the rest is read only for its problems.
            Ok(_) => {}
            Err(problem) => problems.push(problem.in_event(index)),
        }
        if problems.len() == PROBLEMS_LISTED_MAX {
            break;
        }
    }
    Refusal::of(problems).map_or(Ok(events), Err)
}

fn too_many_events() -> Problem {
    Code::TooManyEvents.problem(format!("at most {REQUEST_EVENTS_MAX} events in one request: send smaller batches"))
}

/// Where JSON breaks its grammar. The parser's own words hold nothing of the body.
fn syntax(error: &serde_json::Error) -> Problem {
    Code::MalformedJson.problem(error.to_string())
}

/// What was wrong with an event: with its grammar, or what the notes say.
fn problem(error: &serde_json::Error, notes: &mut Notes) -> Problem {
    let noted = notes.fault.take();
    match error.classify() {
        Category::Data => noted.unwrap_or_else(|| Code::InvalidValue.problem("the event is not one that can be read")),
        _ => syntax(error),
    }
}

/// Reads events one after the other.
pub(super) struct Reader<'a> {
    context: &'a IntakeContext<'a>,
    notes: Notes,
}

impl<'a> Reader<'a> {
    pub(super) fn new(context: &'a IntakeContext<'a>) -> Self {
        Self { context, notes: Notes::default() }
    }

    /// The event of that type that `data` makes. Its header says nothing but the type and, under
    /// `ext`, what the type has no field for.
    pub(super) fn of_data(&mut self, event_type: &str, data: Option<&RawValue>) -> Result<RawEvent, Problem> {
        self.notes.ext.clear();
        let read = data_of::<serde_json::Error>(event_type, data, &mut self.notes);
        let mut event = read.map_err(|error| problem(&error, &mut self.notes))?;
        event_type.clone_into(&mut event.h_mut().event_type);
        event.h_mut().ext = std::mem::take(&mut self.notes.ext);
        Ok(event)
    }

    /// The event that is all of `json`.
    fn one(&mut self, json: &[u8]) -> Result<Arrived, Problem> {
        let mut de = Json::from_slice(json);
        let draft = self.draft(&mut de).and_then(|draft| de.end().map(|()| draft));
        let draft = draft.map_err(|error| problem(&error, &mut self.notes))?;
        self.admit(draft)
    }

    fn draft<'de, D: Deserializer<'de>>(&mut self, de: D) -> Result<Draft, D::Error> {
        self.notes.ext.clear();
        let mut top = Top::default();
        let tracked = Tracked { de, notes: &mut self.notes, path: Path::Root };
        let h = EventHeader::deserialize(RecordDeserializer { tracked, hook: &mut top })?;
        // After the last member: type, data and session may come in any order.
        top.draft(h, &mut self.notes)
    }

    fn admit(&mut self, draft: Draft) -> Result<Arrived, Problem> {
        validate::admit(draft, self.context).map_err(|problem| match &problem.field {
            Some(field) => {
                let pointer = format!("/{field}");
                problem.at(pointer)
            }
            None => problem,
        })
    }
}

/// The events of an array in one pass; any error means that there is something to be listed.
struct Batch<'r, 'a>(&'r mut Reader<'a>);

impl<'de> DeserializeSeed<'de> for Batch<'_, '_> {
    type Value = Vec<Arrived>;

    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<Vec<Arrived>, D::Error> {
        de.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Batch<'_, '_> {
    type Value = Vec<Arrived>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Vec<Arrived>, A::Error> {
        struct One<'r, 'a>(&'r mut Reader<'a>);
        impl<'de> DeserializeSeed<'de> for One<'_, '_> {
            type Value = Arrived;
            fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<Arrived, D::Error> {
                let draft = self.0.draft(de)?;
                self.0.admit(draft).map_err(|_| de::Error::custom("refused"))
            }
        }
        let mut events = Vec::new();
        while let Some(event) = access.next_element_seed(One(self.0))? {
            events.push(event);
            if events.len() > REQUEST_EVENTS_MAX {
                return Err(de::Error::custom("too many"));
            }
        }
        Ok(events)
    }
}

/// The members of an event that are not, or not as they come, fields of its header.
#[derive(Default)]
struct Top<'de> {
    event_type: Option<String>,
    session: Option<String>,
    parent_session: Option<String>,
    numbers: Numbers,
    data: Data<'de>,
}

/// The member `data`. One lives on the stack per event: boxing the large variant would cost an allocation
/// each.
#[derive(Default)]
#[allow(clippy::large_enum_variant)]
enum Data<'de> {
    #[default]
    Absent,
    /// It was read before the event type was known.
    Waiting(&'de RawValue),
    Read(RawEvent),
}

const DATA: Path<'static> = Path::Field(&Path::Root, "data");

impl<'de> Hook<'de> for Top<'de> {
    fn take<A: MapAccess<'de>>(&mut self, name: &str, access: &mut A, notes: &mut Notes) -> Result<bool, A::Error> {
        match name {
            "event_type" => self.event_type = Some(field(access, notes, "event_type")?),
            "session_id" => self.session = field(access, notes, "session_id")?,
            "parent_session_id" => self.parent_session = field(access, notes, "parent_session_id")?,
            "ext" => access.next_value_seed(Ext(notes))?,
            "data" => self.read_data(access, notes)?,
            _ => {
                // Whether a number was brought cannot be seen from its value: a `seq` of 0 is also what an
                // absent one is read as.
                self.numbers.note(name);
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn field<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    access: &mut A,
    notes: &mut Notes,
    name: &'static str,
) -> Result<T, A::Error> {
    access.next_value_seed(Seed { seed: std::marker::PhantomData, notes, path: Path::Field(&Path::Root, name) })
}

impl<'de> Top<'de> {
    fn read_data<A: MapAccess<'de>>(&mut self, access: &mut A, notes: &mut Notes) -> Result<(), A::Error> {
        if !matches!(self.data, Data::Absent) {
            // Parsers differ in which of two equal members counts: a filter in front of the gateway could have
            // seen the other one.
            return Err(notes.error(DATA, Code::DuplicateField, "a member is there twice"));
        }
        self.data = match self.event_type.as_deref().map(EventKind::of_event_type) {
            Some(Some(kind)) => Data::Read(access.next_value_seed(OfKind(kind, notes))?),
            // The members of a JSON object have no order. Without the type the fields are not known, so the
            // text is kept and read when the type has come.
            _ => Data::Waiting(access.next_value()?),
        };
        Ok(())
    }

    /// The event, when its last member is read.
    fn draft<E: de::Error>(self, h: EventHeader, notes: &mut Notes) -> Result<Draft, E> {
        let Some(event_type) = self.event_type else {
            let path = Path::Field(&Path::Root, "event_type");
            return Err(notes.error(path, Code::MissingField, "event_type is missing"));
        };
        let mut event = match self.data {
            Data::Read(event) => event,
            Data::Waiting(value) => data_of(&event_type, Some(value), notes)?,
            Data::Absent => data_of(&event_type, None, notes)?,
        };
        *event.h_mut() = EventHeader { event_type, ext: std::mem::take(&mut notes.ext), ..h };
        let Top { session, parent_session, numbers, .. } = self;
        Ok(Draft { event, session, parent_session, numbers, source: "native" })
    }
}

/// The event that `data` makes with a header that is still to come.
fn data_of<E: de::Error>(event_type: &str, data: Option<&RawValue>, notes: &mut Notes) -> Result<RawEvent, E> {
    match EventKind::of_event_type(event_type) {
        Some(kind) => {
            let json = data.map_or("{}", RawValue::get);
            // A missing `data` is an empty object, so that a type without mandatory fields may leave it out
            // and any other one names the field that is missing.
            let read = OfKind(kind, &mut *notes).deserialize(&mut Json::from_slice(json.as_bytes()));
            read.map_err(|error| match error.classify() {
                Category::Data => E::custom("refused"),
                _ => notes.error(DATA, Code::MalformedJson, "it is not JSON"),
            })
        }
        None => extension(data, notes).map(Event::Extension),
    }
}

/// The fields of a type of the catalogue, or `null` for none of them.
struct OfKind<'c>(EventKind, &'c mut Notes);

impl<'de> DeserializeSeed<'de> for OfKind<'_> {
    type Value = RawEvent;

    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<RawEvent, D::Error> {
        de.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for OfKind<'_> {
    type Value = RawEvent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_some<D: Deserializer<'de>>(self, de: D) -> Result<RawEvent, D::Error> {
        let tracked = Tracked { de, notes: self.1, path: DATA };
        RawEvent::deserialize_as(self.0, RecordDeserializer { tracked, hook: &mut NoHook })
    }

    fn visit_none<E: de::Error>(self) -> Result<RawEvent, E> {
        self.visit_some(&mut Json::from_slice(b"{}")).map_err(E::custom)
    }
}

/// The data of a type that is not in the catalogue: `attributes` and `body` are what an extension
/// has, other members are attributes; what is no object is the body.
fn extension<E: de::Error>(data: Option<&RawValue>, notes: &mut Notes) -> Result<Extension<RawText>, E> {
    let mut made = Extension::default();
    let Some(data) = data else { return Ok(made) };
    // A type that is not in the catalogue may have any data. What is no object has no members to keep as
    // attributes.
    if !data.get().starts_with('{') {
        made.body = content_of(data, notes, DATA)?;
        return Ok(made);
    }
    for (name, value) in members(data, notes, DATA)? {
        match &*name {
            "body" => made.body = content_of(value, notes, Path::Field(&DATA, "body"))?,
            "attributes" if value.get().starts_with('{') => {
                let path = Path::Field(&DATA, "attributes");
                for (name, value) in members(value, notes, path)? {
                    attribute(&mut made, &name, value, notes, path)?;
                }
            }
            _ => attribute(&mut made, &name, value, notes, DATA)?,
        }
    }
    Ok(made)
}

fn attribute<E: de::Error>(
    made: &mut Extension<RawText>,
    name: &str,
    value: &RawValue,
    notes: &mut Notes,
    path: Path<'_>,
) -> Result<(), E> {
    let text = notes.text(path, value)?;
    match made.attributes.insert(name.to_owned(), text) {
        None => Ok(()),
        Some(_) => Err(notes.error(path, Code::DuplicateField, "a member is there twice")),
    }
}

fn members<'de, E: de::Error>(
    value: &'de RawValue,
    notes: &mut Notes,
    path: Path<'_>,
) -> Result<Vec<(Cow<'de, str>, &'de RawValue)>, E> {
    object(value.get().as_bytes()).map_err(|problem| {
        notes.fail(path, || problem);
        E::custom("refused")
    })
}

/// The members of the object that is all of `json`, in their order, each name once.
pub(super) fn object(json: &[u8]) -> Result<Vec<(Cow<'_, str>, &RawValue)>, Problem> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(Key(name)) = access.next_key()? {
                members.push((name, access.next_value()?));
            }
            Ok(members)
        }
    }
    let mut de = Json::from_slice(json);
    let read = de.deserialize_map(Members).and_then(|members| de.end().map(|()| members));
    let members = read.map_err(|error| match error.classify() {
        Category::Data => Code::WrongType.problem("expected an object"),
        _ => syntax(&error),
    })?;
    let mut seen = BTreeSet::new();
    if members.iter().all(|(name, _)| seen.insert(name)) {
        Ok(members)
    } else {
        Err(Code::DuplicateField.problem("a member is there twice"))
    }
}

/// The member `ext`: what it holds is kept, strings as they are and other values as their JSON.
struct Ext<'c>(&'c mut Notes);

impl<'de> DeserializeSeed<'de> for Ext<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<(), D::Error> {
        let path = Path::Field(&Path::Root, "ext");
        de.deserialize_map(Ext(&mut *self.0))
            .inspect_err(|_| self.0.fail(path, || Code::WrongType.problem("expected an object")))
    }
}

impl<'de> Visitor<'de> for Ext<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let path = Path::Field(&Path::Root, "ext");
        while let Some(Key(name)) = access.next_key()? {
            let value = access.next_value()?;
            self.0.keep_as(path, name.into_owned(), value)?;
        }
        Ok(())
    }
}
