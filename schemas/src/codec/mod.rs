//! Bytes to events and back: Avro behind a single-object or a Confluent frame.
//!
//! Decoding is total: any bytes give an event or a reason. It performs no I/O: schemas that a
//! registry assigned ids to are handed in, at the start or beside the records that need them.

pub(crate) mod datum;
mod foreign;
mod frame;
mod header;
mod history;
mod layout;
mod published;
mod registered;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::event::{Alert, ControlTotal, Event, EventKind, Signal, Watermark, WriterSpan, read_record, with_record};
use crate::limits::DERIVED_BYTES_MAX;
use crate::reject::RejectReason;
use crate::text::{CleanText, Text};
use datum::{Datum, Fault, Input};
use foreign::Foreign;
use frame::Frame;
pub use header::{HeaderFault, HeaderFaultKind, check_header, is_system_type, validate_header};
pub use published::{NAMESPACE, PublishedSchema, published_schemas};
pub use registered::{Registered, RegistryFacts};

/// Why bytes are not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.code())]
pub struct DecodeError {
    /// Class.
    pub reason: RejectReason,
    /// One sentence, free of the record's content.
    pub detail: String,
}

/// A schema that records cannot be read with; nothing about a record is known yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schema {schema} cannot be used: {reason}")]
pub struct SchemaError {
    /// The schema's name, or the start of its text.
    pub schema: String,
    /// Why.
    pub reason: String,
}

/// A record that a processor derives from events.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Derived {
    /// An event: a clean event, a finding.
    Event(Event<CleanText>),
    /// Window measures.
    Signal(Signal),
    /// Producer sequence numbers.
    WriterSpan(WriterSpan),
    /// A partition's report that it is complete up to a time.
    Watermark(Watermark),
    /// An alert.
    Alert(Alert),
    /// A control total.
    ControlTotal(ControlTotal),
}

impl Derived {
    /// Name of the Avro record, without namespace.
    pub fn record_name(&self) -> &'static str {
        self.kind().record_name()
    }

    /// The record as JSON: ids and bytes hexadecimal, times in microseconds.
    pub fn to_json(&self) -> String {
        match self {
            Derived::Event(event) => with_record!(event, record => json(record)),
            Derived::Signal(record) => json(record),
            Derived::WriterSpan(record) => json(record),
            Derived::Watermark(record) => json(record),
            Derived::Alert(record) => json(record),
            Derived::ControlTotal(record) => json(record),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Derived::Event(event) => Kind::Event(event.kind()),
            Derived::Signal(_) => Kind::Derived(DerivedKind::Signal),
            Derived::WriterSpan(_) => Kind::Derived(DerivedKind::WriterSpan),
            Derived::Watermark(_) => Kind::Derived(DerivedKind::Watermark),
            Derived::Alert(_) => Kind::Derived(DerivedKind::Alert),
            Derived::ControlTotal(_) => Kind::Derived(DerivedKind::ControlTotal),
        }
    }
}

/// Keys are texts and writing to memory does not fail, so there is always a document.
fn json(record: &impl serde::Serialize) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

/// The records of [`Derived`] that are not events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum DerivedKind {
    Signal,
    WriterSpan,
    Watermark,
    Alert,
    ControlTotal,
}

impl DerivedKind {
    const ALL: [DerivedKind; 5] = [Self::Signal, Self::WriterSpan, Self::Watermark, Self::Alert, Self::ControlTotal];

    const fn record_name(self) -> &'static str {
        match self {
            Self::Signal => "Signal",
            Self::WriterSpan => "WriterSpan",
            Self::Watermark => "Watermark",
            Self::Alert => "Alert",
            Self::ControlTotal => "ControlTotal",
        }
    }
}

/// What a record becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The event of that record.
    Event(EventKind),
    /// The derived record.
    Derived(DerivedKind),
    /// [`Event::Extension`]: a record that is not in the catalogue.
    Unknown,
}

impl Kind {
    fn all() -> impl Iterator<Item = Kind> {
        EventKind::ALL.iter().copied().map(Kind::Event).chain(DerivedKind::ALL.map(Kind::Derived))
    }

    fn record_name(self) -> &'static str {
        match self {
            Kind::Event(kind) => kind.record_name(),
            Kind::Derived(kind) => kind.record_name(),
            Kind::Unknown => "a record of unknown type",
        }
    }

    fn of_record(name: &apache_avro::schema::Name) -> Option<Kind> {
        let ours = name.namespace() == Some(published::NAMESPACE);
        Kind::all().find(|kind| ours && kind.record_name() == name.name())
    }
}

/// How to read the records of one writer's schema.
#[derive(Debug, Clone)]
enum Writer {
    /// Our own schema: by position.
    Ours(Kind),
    /// Any other: by the schema.
    Foreign(Arc<Foreign>),
}

impl Writer {
    fn kind(&self) -> Kind {
        match self {
            Writer::Ours(kind) => *kind,
            Writer::Foreign(foreign) => foreign.kind,
        }
    }

    fn read<R: Datum>(&self, body: &[u8]) -> Result<R, Fault> {
        match self {
            Writer::Ours(_) => read_whole(body),
            Writer::Foreign(foreign) => foreign.read(body),
        }
    }

    fn read_event<T: Text>(&self, kind: EventKind, body: &[u8]) -> Result<Event<T>, Fault> {
        macro_rules! read {
            ($name:ident) => {
                self.read(body).map(Event::$name)
            };
        }
        read_record!(kind, read)
    }

    fn read_derived(&self, kind: DerivedKind, body: &[u8]) -> Result<Derived, Fault> {
        match kind {
            DerivedKind::Signal => self.read(body).map(Derived::Signal),
            DerivedKind::WriterSpan => self.read(body).map(Derived::WriterSpan),
            DerivedKind::Watermark => self.read(body).map(Derived::Watermark),
            DerivedKind::Alert => self.read(body).map(Derived::Alert),
            DerivedKind::ControlTotal => self.read(body).map(Derived::ControlTotal),
        }
    }

    fn read_unknown<T: Text>(&self, body: &[u8]) -> Result<Event<T>, Fault> {
        match self {
            Writer::Ours(_) => Err(Fault::Malformed("it is of no type")),
            Writer::Foreign(foreign) => foreign.read_unknown::<T>(body).map(Event::Extension),
        }
    }
}

/// Encoder and decoder with every schema parsed once. A clone shares the schemas.
#[derive(Debug, Clone)]
pub struct Codec {
    fingerprints: BTreeMap<[u8; 8], Writer>,
    ids: BTreeMap<u32, Writer>,
    frames: BTreeMap<Kind, Frame>,
}

static CODEC: OnceLock<Codec> = OnceLock::new();

/// The codec of this process: for single-object frames of our own schemas, unless [`configure`] was
/// called before its first use.
pub fn codec() -> &'static Codec {
    CODEC.get_or_init(Codec::standard)
}

/// Makes `codec` the codec of this process. Call it once, before anything is read: a configured codec
/// is one that begins with [`Codec::standard`] and knows more schemas.
///
/// # Errors
/// The codec is in use already; nothing has changed.
pub fn configure(codec: Codec) -> Result<(), Codec> {
    CODEC.set(codec)
}

impl Codec {
    /// Reads and writes single-object frames of our own schemas, and reads their superseded versions.
    pub fn standard() -> Self {
        let codec = Self::new();
        // A test reads every superseded schema; one that could not be read would leave its records
        // unknown, which is a dead letter and no loss.
        codec.clone().with_schemas(history::SUPERSEDED.iter().copied()).unwrap_or(codec)
    }

    fn new() -> Self {
        let kinds = || Kind::all().zip(published_schemas());
        Self {
            fingerprints: kinds().map(|(kind, schema)| (schema.fingerprint, Writer::Ours(kind))).collect(),
            ids: BTreeMap::new(),
            frames: kinds().map(|(kind, schema)| (kind, Frame::Fingerprint(schema.fingerprint))).collect(),
        }
    }

    /// Reads single-object frames of these schemas too: earlier or later versions of ours, and records
    /// that are not in the catalogue, which become an [`Event::Extension`].
    ///
    /// # Errors
    /// A schema that cannot be read with: configuration, stop.
    pub fn with_schemas<'a>(mut self, schemas: impl IntoIterator<Item = &'a str>) -> Result<Self, SchemaError> {
        for text in schemas {
            let (fingerprint, writer) = self.writer(text)?;
            self.fingerprints.insert(fingerprint, writer);
        }
        Ok(self)
    }

    /// Reads Confluent frames with these ids too, each with the schema that the registry holds for it.
    ///
    /// # Errors
    /// A schema that cannot be read with: records with its id are to be held back until it can.
    pub fn with_registry_ids(mut self, ids: BTreeMap<u32, String>) -> Result<Self, SchemaError> {
        for (id, text) in ids {
            let writer = self.writer(&text)?.1;
            self.ids.insert(id, writer);
        }
        Ok(self)
    }

    /// Writes Confluent frames for these records (names without namespace), single-object frames for
    /// all others. The registry must hold our schema ([`published_schemas`]) under that id.
    pub fn emitting_registry_ids(mut self, ids: &BTreeMap<String, u32>) -> Self {
        for kind in Kind::all() {
            if let Some(id) = ids.get(kind.record_name()) {
                self.frames.insert(kind, Frame::Registry(*id));
                self.ids.entry(*id).or_insert(Writer::Ours(kind));
            }
        }
        self
    }

    fn writer(&self, text: &str) -> Result<([u8; 8], Writer), SchemaError> {
        let fingerprint = published::fingerprint_of_text(text)?;
        match self.fingerprints.get(&fingerprint) {
            Some(known) => Ok((fingerprint, known.clone())),
            None => Ok((fingerprint, Writer::Foreign(Arc::new(Foreign::parse(text)?)))),
        }
    }

    /// Frame and bytes of an event.
    pub fn encode<T: Text>(&self, event: &Event<T>) -> Bytes {
        with_record!(event, record => self.frame_and_bytes(Kind::Event(event.kind()), record))
    }

    /// Frame and bytes of a derived record.
    pub fn encode_derived(&self, record: &Derived) -> Bytes {
        let kind = record.kind();
        match record {
            Derived::Event(event) => self.encode(event),
            Derived::Signal(record) => self.frame_and_bytes(kind, record),
            Derived::WriterSpan(record) => self.frame_and_bytes(kind, record),
            Derived::Watermark(record) => self.frame_and_bytes(kind, record),
            Derived::Alert(record) => self.frame_and_bytes(kind, record),
            Derived::ControlTotal(record) => self.frame_and_bytes(kind, record),
        }
    }

    fn frame_and_bytes(&self, kind: Kind, record: &impl Datum) -> Bytes {
        // Most events are smaller than this; what is left over is given back.
        let mut out = Vec::with_capacity(1_024);
        if let Some(frame) = self.frames.get(&kind) {
            frame.put(&mut out);
        }
        record.write(&mut out);
        Bytes::from(out.into_boxed_slice())
    }

    /// The event in a record's value.
    ///
    /// # Errors
    /// The reason for the dead-letter topic; the bytes are at fault, not the system.
    pub fn decode<T: Text>(&self, value: Option<&[u8]>) -> Result<Event<T>, DecodeError> {
        self.decode_with(value, &registered::NOTHING)
    }

    /// As [`Codec::decode`], with what a registry says of ids that this codec does not know
    /// ([`Codec::asks_for`]).
    ///
    /// # Errors
    /// As [`Codec::decode`].
    pub fn decode_with<T: Text>(&self, value: Option<&[u8]>, facts: &RegistryFacts) -> Result<Event<T>, DecodeError> {
        let (writer, body) = self.open(value, T::VALUE_BYTES_MAX, facts)?;
        let read = match writer.kind() {
            Kind::Event(kind) => writer.read_event(kind, body),
            Kind::Unknown => writer.read_unknown(body),
            Kind::Derived(_) => Err(Fault::WrongTopic("it is a derived record and not an event")),
        };
        read.map_err(|fault| error(writer.kind(), fault))
    }

    /// The derived record in a record's value (events decode as [`Derived::Event`]).
    ///
    /// # Errors
    /// As [`Codec::decode`].
    pub fn decode_derived(&self, value: Option<&[u8]>) -> Result<Derived, DecodeError> {
        let (writer, body) = self.open(value, DERIVED_BYTES_MAX, &registered::NOTHING)?;
        let read = match writer.kind() {
            Kind::Event(kind) => writer.read_event(kind, body).map(Derived::Event),
            Kind::Unknown => writer.read_unknown(body).map(Derived::Event),
            Kind::Derived(kind) => writer.read_derived(kind, body),
        };
        read.map_err(|fault| error(writer.kind(), fault))
    }

    /// The registry id whose schema must be known before a value can be judged; `None` where this codec
    /// can judge it alone.
    pub fn asks_for<T: Text>(&self, value: Option<&[u8]>) -> Option<u32> {
        match frame::split(value, T::VALUE_BYTES_MAX) {
            Ok((Frame::Registry(id), _)) => (!self.ids.contains_key(&id)).then_some(id),
            _ => None,
        }
    }

    /// What a schema that a registry holds is to this codec; the same text gives the same fact for ever.
    pub fn registered(&self, text: &str) -> Registered {
        match self.writer(text) {
            Ok((_, writer)) => Registered::readable(writer),
            Err(error) => Registered::Unusable(error.to_string()),
        }
    }

    fn open<'a, 'w>(
        &'w self,
        value: Option<&'a [u8]>,
        bytes_max: usize,
        facts: &'w RegistryFacts,
    ) -> Result<(&'w Writer, &'a [u8]), DecodeError> {
        let (frame, body) = frame::split(value, bytes_max)?;
        let writer = match &frame {
            Frame::Fingerprint(fingerprint) => self.fingerprints.get(fingerprint).ok_or(("fingerprint", frame)),
            Frame::Registry(id) => match self.ids.get(id) {
                Some(writer) => Ok(writer),
                None => registered::writer(facts, *id)?.ok_or(("registry id", frame)),
            },
        };
        let unknown = |(what, frame)| DecodeError {
            reason: RejectReason::UnknownSchema,
            detail: format!("no schema has {what} {frame}"),
        };
        Ok((writer.map_err(unknown)?, body))
    }
}

/// The record that `body` is, with nothing behind it.
fn read_whole<R: Datum>(body: &[u8]) -> Result<R, Fault> {
    let mut input = Input(body);
    let record = R::read(&mut input)?;
    if input.0.is_empty() { Ok(record) } else { Err(Fault::Truncated) }
}

fn error(kind: Kind, fault: Fault) -> DecodeError {
    let (reason, detail) = match fault {
        Fault::Truncated => (RejectReason::Truncated, "it ends before the value does or after it"),
        Fault::InvalidUtf8 => (RejectReason::InvalidUtf8, "a string is not UTF-8"),
        Fault::WrongTopic(detail) => (RejectReason::WrongTopic, detail),
        Fault::Malformed(detail) => (RejectReason::Malformed, detail),
    };
    DecodeError { reason, detail: format!("{}: {detail}", kind.record_name()) }
}
