//! Where spans and records come from: resource and scope as the part of a header that they share.
//!
//! Resource attributes name the agent unless a span does, its version, instance and environment, and
//! all of them are kept in `ext` of every main event as `resource.*`.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use schemas::event::EventHeader;

use super::attributes::{Ext, short};
use super::{Context, MAPPING, value};

/// `ext` key of the mapping's version.
pub(super) const MAPPING_EXT: &str = "custody.mapping";

/// Resource attributes that fill header fields, preferred ones first.
#[rustfmt::skip]
pub const RESOURCE_ROWS: &[(&str, &str)] = &[
    ("gen_ai.agent.id", "h.agent_id"),
    ("gen_ai.agent.name", "h.agent_id"),
    ("service.name", "h.agent_id"),
    ("gen_ai.agent.version", "h.agent_version"),
    ("service.version", "h.agent_version"),
    ("service.instance.id", "h.agent_instance_id"),
    ("deployment.environment.name", "h.environment"),
    ("deployment.environment", "h.environment"),
    ("session.id", "h.session_id"),
];

/// Longer names of environments than ours.
const ENVIRONMENTS: [(&str, &str); 2] = [("production", "prod"), ("development", "dev")];

/// What a resource and scope say about all of their spans or records.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Tenant, agent, environment; without ids, time and session.
    pub(super) header: EventHeader,
    /// Attributes for `ext` of main events.
    pub(super) ext: BTreeMap<String, String>,
    /// The session that the resource names.
    pub(super) session: Option<String>,
    /// Name of the instrumentation.
    pub(super) scope_name: String,
    /// Its version.
    pub(super) scope_version: String,
}

impl Source {
    /// From a resource.
    pub(super) fn of(resource: Option<Resource>, context: &Context<'_>) -> Self {
        let resource = resource.unwrap_or_default();
        let find = |field: &str| {
            let names = RESOURCE_ROWS.iter().filter(|(_, path)| *path == field).map(|(name, _)| *name);
            // Lazily, in the order of the rows: the first attribute that is there and not empty wins.
            let mut found = names.filter_map(|name| named(&resource.attributes, name));
            found.next()
        };
        let environment = find("h.environment").unwrap_or_default();
        let known = ENVIRONMENTS.iter().find(|(long, _)| *long == environment).map(|(_, short)| (*short).to_owned());
        let mut header = EventHeader {
            tenant_id: context.tenant_id.to_owned(),
            // The SDKs' own name for a service that has none.
            agent_id: find("h.agent_id").map_or_else(|| "unknown_service".to_owned(), |name| short(&name)),
            agent_version: find("h.agent_version").map(|text| short(&text)).unwrap_or_default(),
            agent_instance_id: find("h.agent_instance_id").map(|text| short(&text)).unwrap_or_default(),
            source: "otlp".to_owned(),
            capture: "best_effort".to_owned(),
            ..EventHeader::default()
        };
        if !environment.is_empty() {
            header.environment = known.unwrap_or_else(|| short(&environment));
        }
        // A session on the resource holds for everything below it; a span's own session goes before it.
        let session = find("h.session_id");
        let mut ext = Ext::of(BTreeMap::from([(MAPPING_EXT.to_owned(), MAPPING.to_owned())]));
        if resource.dropped_attributes_count > 0 {
            ext.put("resource.dropped_attributes_count".to_owned(), resource.dropped_attributes_count.to_string());
        }
        // All of them are kept, the ones that fill a field as well: the field may be shortened or come from a
        // span.
        for pair in resource.attributes {
            ext.put(format!("resource.{}", pair.key), value::into_text(pair.value));
        }
        Self { header, ext: ext.into_map(), session, scope_name: String::new(), scope_version: String::new() }
    }

    /// The same with a scope.
    pub(super) fn with_scope(&self, scope: Option<InstrumentationScope>, schema_url: String) -> Self {
        // A copy per scope, so that no scope sees the attributes of another one.
        let mut source = self.clone();
        let mut ext = Ext::of(std::mem::take(&mut source.ext));
        let scope = scope.unwrap_or_default();
        let facts = [("scope.name", &scope.name), ("scope.version", &scope.version), ("otel.schema_url", &schema_url)];
        for (key, text) in facts.into_iter().filter(|(_, text)| !text.is_empty()) {
            ext.put(key.to_owned(), text.clone());
        }
        for pair in scope.attributes {
            ext.put(format!("scope.{}", pair.key), value::into_text(pair.value));
        }
        source.ext = ext.into_map();
        (source.scope_name, source.scope_version) = (scope.name, scope.version);
        source
    }
}

fn named(attributes: &[KeyValue], name: &str) -> Option<String> {
    let pair = attributes.iter().find(|pair| pair.key == name)?;
    Some(value::text(pair.value.as_ref())).filter(|text| !text.is_empty())
}
