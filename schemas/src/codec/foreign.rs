//! Records that another schema than ours wrote: an older or newer version of a record, or a record
//! that is not in the catalogue.
//!
//! Their bytes are brought into the layout of our own schema, which `datum` then reads: fields that
//! we do not have are left out, fields that the writer did not have get their defaults (Avro 1.12
//! specification, "Schema Resolution"). Types are never promoted and fields never reordered: such a
//! schema is refused when it is handed in. `apache-avro` 0.22 parses schemas for us but cannot do
//! this on its serde path: it has no resolution, and passing over a nested record or an enum fails.

use std::collections::BTreeMap;

use apache_avro::Schema;
use serde_json::Value;

use super::datum::{Datum, Fault, Input};
use super::layout::{Field, Layout, branch};
use super::{Kind, SchemaError, published, read_whole};
use crate::event::{EventHeader, EventKind, Extension};
use crate::text::Text;

/// A schema that is not ours, ready to read with.
#[derive(Debug)]
pub(super) struct Foreign {
    /// What its records become.
    pub(super) kind: Kind,
    /// How a record, or for [`Kind::Unknown`] its header, gets our layout.
    plan: Plan,
    /// Fields of a record of [`Kind::Unknown`] behind its header.
    fields: Vec<Field>,
}

impl Foreign {
    /// Parses a writer's schema.
    pub(super) fn parse(text: &str) -> Result<Self, SchemaError> {
        let refuse = |reason: String| SchemaError { schema: published::summary(text), reason };
        let schema = Schema::parse_str(text).map_err(|e| refuse(e.to_string()))?;
        let Schema::Record(record) = &schema else {
            return Err(refuse("it is not a record".to_owned()));
        };
        let layout = Layout::of(&schema).map_err(|reason| refuse(reason.to_owned()))?;
        match Kind::of_record(&record.name) {
            Some(kind) => Self::known(kind, &layout).map_err(refuse),
            None => Self::unknown(layout).map_err(refuse),
        }
    }

    fn known(kind: Kind, writer: &Layout) -> Result<Self, String> {
        let plan = Plan::between(writer, &our_layout(kind)?, kind.record_name())?;
        Ok(Self { kind, plan, fields: Vec::new() })
    }

    fn unknown(writer: Layout) -> Result<Self, String> {
        let (Layout::Record(mut fields), Layout::Record(ours)) =
            (writer, our_layout(Kind::Event(EventKind::Extension))?)
        else {
            return Err("it is not a record".to_owned());
        };
        if fields.first().is_none_or(|field| field.name != "h") {
            return Err("its first field is not h, an event header".to_owned());
        }
        let plan = Plan::between(&fields.remove(0).layout, &ours[0].layout, "h")?;
        Ok(Self { kind: Kind::Unknown, plan, fields })
    }

    /// Reads a record whole.
    pub(super) fn read<R: Datum>(&self, body: &[u8]) -> Result<R, Fault> {
        let mut input = Input(body);
        let record = self.transcoded(&mut input)?;
        if input.0.is_empty() { Ok(record) } else { Err(Fault::Truncated) }
    }

    /// Reads a record that is not in the catalogue: its header as it is, its fields as attributes.
    pub(super) fn read_unknown<T: Text>(&self, body: &[u8]) -> Result<Extension<T>, Fault> {
        // Nothing redacted it: where clean text is wanted it has no place.
        T::from_wire(String::new(), "").map_err(Fault::WrongTopic)?;
        let mut input = Input(body);
        let h: EventHeader = self.transcoded(&mut input)?;
        let mut attributes = BTreeMap::new();
        for field in &self.fields {
            match field.layout.json(&mut input)? {
                Value::Null => None,
                Value::String(text) => attributes.insert(field.name.clone(), text),
                value => attributes.insert(field.name.clone(), value.to_string()),
            };
        }
        if input.0.is_empty() { Ok(Extension { h, attributes, body: None }) } else { Err(Fault::Truncated) }
    }

    fn transcoded<R: Datum>(&self, input: &mut Input<'_>) -> Result<R, Fault> {
        let mut ours = Vec::with_capacity(input.0.len() + 64);
        self.plan.run(input, &mut ours)?;
        read_whole(&ours)
    }
}

fn our_layout(kind: Kind) -> Result<Layout, String> {
    let published = published::published_schemas().iter().find(|schema| schema.name == kind.record_name());
    let schema = Schema::parse_str(&published.ok_or("it is not in the catalogue")?.json).map_err(|e| e.to_string())?;
    Ok(Layout::of(&schema)?)
}

/// How to bring a value into our layout.
#[derive(Debug)]
enum Plan {
    /// It has it already.
    Copy(Layout),
    /// Field by field.
    Record(Vec<Step>),
    /// Item by item; map entries have a key.
    Items { keyed: bool, item: Box<Plan> },
    /// By the writer's branch: our branch.
    Union(Vec<(i64, Plan)>),
}

/// A step through a record.
#[derive(Debug)]
enum Step {
    /// A field that both have.
    Keep(Plan),
    /// A field that only the writer has.
    Drop(Layout),
    /// A field that only we have: its default.
    Default(Vec<u8>),
}

impl Plan {
    fn between(writer: &Layout, ours: &Layout, path: &str) -> Result<Self, String> {
        match (writer, ours) {
            (Layout::Record(theirs), Layout::Record(ours)) if theirs != ours => {
                record_steps(theirs, ours, path).map(Plan::Record)
            }
            (Layout::Array(theirs), Layout::Array(ours)) if theirs != ours => {
                Ok(Plan::Items { keyed: false, item: Box::new(Self::between(theirs, ours, path)?) })
            }
            (Layout::Map(theirs), Layout::Map(ours)) if theirs != ours => {
                Ok(Plan::Items { keyed: true, item: Box::new(Self::between(theirs, ours, path)?) })
            }
            (Layout::Union(theirs), Layout::Union(ours)) if theirs != ours => {
                let branches = theirs.iter().map(|branch| {
                    let plans = ours.iter().map(|ours| Self::between(branch, ours, path));
                    let found = (0..).zip(plans).find_map(|(index, plan)| Some((index, plan.ok()?)));
                    found.ok_or_else(|| retyped(path))
                });
                branches.collect::<Result<_, _>>().map(Plan::Union)
            }
            _ if writer == ours => Ok(Plan::Copy(writer.clone())),
            _ => Err(retyped(path)),
        }
    }

    fn run(&self, input: &mut Input<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Plan::Copy(layout) => {
                let before = input.0;
                layout.skip(input)?;
                out.extend_from_slice(&before[..before.len() - input.0.len()]);
                Ok(())
            }
            Plan::Record(steps) => steps.iter().try_for_each(|step| match step {
                Step::Keep(plan) => plan.run(input, out),
                Step::Drop(layout) => layout.skip(input),
                Step::Default(bytes) => {
                    out.extend_from_slice(bytes);
                    Ok(())
                }
            }),
            Plan::Items { keyed, item } => {
                // One item a block: the count of a block is known before its items are.
                input.items(|input| {
                    1i64.write(out);
                    if *keyed {
                        String::read(input)?.write(out);
                    }
                    item.run(input, out)
                })?;
                0i64.write(out);
                Ok(())
            }
            Plan::Union(branches) => {
                let (index, plan) = branch(branches, input)?;
                index.write(out);
                plan.run(input, out)
            }
        }
    }
}

fn retyped(path: &str) -> String {
    format!("{path} has another type than ours; append a field under a new name instead")
}

fn record_steps(theirs: &[Field], ours: &[Field], path: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut rest = theirs;
    for field in ours {
        let path = format!("{path}.{}", field.name);
        match rest.iter().position(|their| their.name == field.name) {
            Some(at) => {
                steps.extend(rest[..at].iter().map(|their| Step::Drop(their.layout.clone())));
                steps.push(Step::Keep(Plan::between(&rest[at].layout, &field.layout, &path)?));
                rest = &rest[at + 1..];
            }
            None if theirs.iter().any(|their| their.name == field.name) => {
                return Err(format!("{path} stands elsewhere than in ours"));
            }
            None => {
                let mut bytes = Vec::new();
                let written =
                    field.default.as_ref().and_then(|default| field.layout.write_default(default, &mut bytes));
                written.ok_or_else(|| format!("{path} is missing and has no default"))?;
                steps.push(Step::Default(bytes));
            }
        }
    }
    steps.extend(rest.iter().map(|their| Step::Drop(their.layout.clone())));
    Ok(steps)
}
