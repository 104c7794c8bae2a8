//! What happens to a finding: per tenant, per kind, as data.
//!
//! A policy that cannot be carried out is refused, at start-up by [`PolicySet::validate`] and again
//! per event: such a tenant's events become dead letters, they never pass unredacted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kind::{Grade, Kind};

/// What replaces a finding. The order is that of severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing: it stays.
    Keep,
    /// A keyed token, the same for the same value: `[EMAIL:3f9a1c2b40d1]`.
    Tokenise,
    /// A token, with the original sealed under a destroyable key.
    Seal,
    /// The kind alone: `[EMAIL]`.
    Redact,
    /// Nothing is left.
    Drop,
}

impl Action {
    /// Name, as in a policy.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Keep => "keep",
            Action::Tokenise => "tokenise",
            Action::Seal => "seal",
            Action::Redact => "redact",
            Action::Drop => "drop",
        }
    }
}

/// The privacy policy of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Name; letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Version, from 1; raised with every change, since clean events name it.
    pub version: u32,
    /// Action for kinds that `actions` does not name, [`Kind::Url`] excepted: that is kept. What was not
    /// scanned is kept only where everything is.
    #[serde(default = "tokenise")]
    pub default_action: Action,
    /// Findings below this grade are kept.
    #[serde(default = "possible")]
    pub least_grade: Grade,
    /// Action per kind.
    #[serde(default)]
    pub actions: BTreeMap<Kind, Action>,
}

const fn tokenise() -> Action {
    Action::Tokenise
}

const fn possible() -> Grade {
    Grade::Possible
}

impl Default for Policy {
    fn default() -> Self {
        let (default_action, least_grade) = (tokenise(), possible());
        Self { name: "default".to_owned(), version: 1, default_action, least_grade, actions: BTreeMap::new() }
    }
}

impl Policy {
    /// The action for a finding.
    pub fn action(&self, kind: Kind, grade: Grade) -> Action {
        match self.actions.get(&kind) {
            // Before the kinds: a tenant that raised the bar did so for all of them.
            _ if grade < self.least_grade => Action::Keep,
            Some(action) => *action,
            None if kind == Kind::Url => Action::Keep,
            // Nobody knows what is in it: it may be anything that a policy which keeps the rest names.
            None if kind == Kind::Unscanned && self.default_action == Action::Keep => {
                self.actions.values().copied().max().unwrap_or(Action::Keep)
            }
            None => self.default_action,
        }
    }

    /// `name@version`, as clean content carries it.
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Whether the policy can be carried out.
    ///
    /// # Errors
    /// Why not; the configuration is at fault.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let named = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(named) || self.version == 0 {
            return Err(PolicyError::Name);
        }
        // Sealing without a key store would be losing the value while promising that it is kept.
        let mut actions = self.actions.values().chain([&self.default_action]);
        match actions.any(|action| *action == Action::Seal) {
            true => Err(PolicyError::SealWithoutKeyStore(self.id())),
            false => Ok(()),
        }
    }
}

/// Why a policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Name or version cannot stand in a clean event.
    #[error("a policy needs a name of 1 to 64 letters, digits, '-', '_' or '.' and a version of at least 1")]
    Name,
    /// Sealing needs keys that can be destroyed.
    #[error("policy {0} asks for seal, but there is no key store: use tokenise, redact or drop")]
    SealWithoutKeyStore(String),
    /// Neither the tenant nor the default has a policy.
    #[error("no policy for the tenant and no default: add one of them")]
    Missing,
}

/// The policies of all tenants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySet {
    /// For tenants that have none; without it, their events are refused.
    #[serde(default)]
    pub default: Option<Policy>,
    /// Per tenant id.
    #[serde(default)]
    pub tenants: BTreeMap<String, Policy>,
}

impl Default for PolicySet {
    fn default() -> Self {
        Self { default: Some(Policy::default()), tenants: BTreeMap::new() }
    }
}

impl PolicySet {
    /// Whether every policy can be carried out; for the start-up of a process.
    ///
    /// # Errors
    /// The first policy that cannot: refuse to start.
    pub fn validate(&self) -> Result<(), PolicyError> {
        self.default.iter().chain(self.tenants.values()).try_for_each(Policy::validate)
    }

    /// The policy of a tenant.
    ///
    /// # Errors
    /// There is none that can be carried out: refuse the event.
    pub fn for_tenant(&self, tenant_id: &str) -> Result<&Policy, PolicyError> {
        let policy = self.tenants.get(tenant_id).or(self.default.as_ref()).ok_or(PolicyError::Missing)?;
        // Asked again per event: a policy that came past start-up must not let events through unredacted.
        policy.validate()?;
        Ok(policy)
    }
}
