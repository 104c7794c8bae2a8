//! Settings of other programs that are passed through by name, such as librdkafka's.
//!
//! A dotted name may be written as one quoted key or as nested tables, and from the environment with
//! `_` for every dot. Numbers and booleans become text. It does not know which names exist.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names with their values. Values of names that speak of a secret print as asterisks.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Settings(pub BTreeMap<String, String>);

/// Whether the value of a setting must not be shown.
pub fn is_secret(name: &str) -> bool {
    ["password", "secret", ".pem", "token", "sasl.oauthbearer.config", "sasl.jaas"].iter().any(|w| name.contains(w))
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

impl Settings {
    /// Names with what may be shown of their values.
    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), if is_secret(name) { "********" } else { value.as_str() }))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Node {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Table(BTreeMap<String, Node>),
}

fn flatten(prefix: &str, nodes: BTreeMap<String, Node>, settings: &mut BTreeMap<String, String>) {
    for (name, node) in nodes {
        let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        let text = match node {
            Node::Bool(value) => value.to_string(),
            Node::Integer(value) => value.to_string(),
            Node::Float(value) => value.to_string(),
            Node::Text(value) => value,
            Node::Table(nodes) => {
                flatten(&name, nodes, settings);
                continue;
            }
        };
        settings.insert(name, text);
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let nodes = BTreeMap::deserialize(deserializer)
            .map_err(|_| D::Error::custom("expected names with text, numbers or booleans"))?;
        let mut settings = BTreeMap::new();
        flatten("", nodes, &mut settings);
        Ok(Self(settings))
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.shown() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
