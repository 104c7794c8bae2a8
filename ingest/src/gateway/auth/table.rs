//! The API keys as data: their holders, their changes, and the decision on a presented key.
//!
//! Pure: time, randomness and the file's bytes are inputs. [`super::key_file`] handles the file itself.

use std::collections::BTreeMap;

use schemas::event::Principal;
use schemas::id::Sha256;
use schemas::limits::ID_BYTES_MAX;
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::change::{Change, ChangeKind};
use super::credential::{Minted, Presented};
use super::{DenialCode, Denied, Identity, Role, check_tenant_name};

/// Layout of the file that is written and understood.
const FORMAT_VERSION: u32 = 1;
/// Characters of an id.
const ID_CHARS: usize = 12;
/// Longest reason of a change.
const REASON_BYTES_MAX: usize = 1024;
/// Age after which a gateway appends the event of a change that the command which made it has not appended.
const PENDING_AGE_MS: i64 = 10_000;

/// One key. Its secret is not here: only the digest of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// `cst_` and eight characters: the visible start of the key.
    pub id: String,
    /// SHA-256 of the secret part. Not salted: the secret has 256 random bits, so that there is nothing
    /// to look up or to guess.
    pub sha256: Sha256,
    /// The service account that holds it; a rotated key keeps it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The only tenant it may act for; absent: every tenant (owners only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// When it was made, microseconds since 1970.
    pub created_at: TimestampMicros,
    /// Who made it.
    #[serde(default)]
    pub created_by: String,
    /// From when on it is refused, microseconds since 1970; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<TimestampMicros>,
    /// When it was revoked: it is refused whatever the clock says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<TimestampMicros>,
    /// The key that it was rotated to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
}

/// What a key is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    /// It is accepted.
    Active,
    /// It is accepted until its overlap with its successor ends.
    Replaced,
    /// It has expired.
    Expired,
    /// It was revoked.
    Revoked,
}

impl ApiKey {
    /// What the key is at `now`; it ends at the very microsecond of `expires_at`.
    pub fn status(&self, now: TimestampMicros) -> KeyStatus {
        match self {
            // Revocation first: it holds even if the clock is wrong.
            Self { revoked_at: Some(_), .. } => KeyStatus::Revoked,
            Self { expires_at: Some(at), .. } if *at <= now => KeyStatus::Expired,
            Self { replaced_by: Some(_), .. } => KeyStatus::Replaced,
            _ => KeyStatus::Active,
        }
    }

    fn identity(&self) -> Identity {
        let principal = Principal {
            r#type: "service_account".to_owned(),
            id: self.name.clone(),
            auth_method: "api_key".to_owned(),
            ..Principal::default()
        };
        Identity { key_id: self.id.clone(), tenant_id: self.tenant_id.clone(), role: self.role, principal }
    }

    fn denied(&self, code: DenialCode, detail: String) -> Denied {
        Denied { code, detail, key_id: Some(self.id.clone()), tenant_id: self.tenant_id.clone() }
    }
}

/// A key file that cannot be used, or a change that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is no key file.
    #[error("it is not a key file: {0}")]
    NotAKeyFile(String),
    /// Another layout.
    #[error(
        "it has format version {0}, and this version of custody knows {FORMAT_VERSION}: use the version that wrote it"
    )]
    Version(u32),
    /// Two entries with one id.
    #[error("key {0} is there twice: remove one")]
    Twice(String),
    /// An entry that cannot be.
    #[error("key {id}: {what}")]
    Invalid {
        /// The key.
        id: String,
        /// What is wrong, and the remedy.
        what: String,
    },
    /// No such key; the message repeats no more of it than an id, in case it is a whole key.
    #[error("there is no key {0}: `custody api-keys list` shows the ids")]
    Unknown(String),
    /// Who changes something, or why, is no plain text of bounded length.
    #[error("who does it must have 1 to 256 bytes, the reason at most 1024, and neither a control character")]
    Act,
    /// The key cannot be changed any more.
    #[error("key {id} is {status} already: make a new one with `custody api-keys create`")]
    Over {
        /// The key.
        id: String,
        /// What it is.
        status: &'static str,
    },
}

/// Every key, and the changes whose events the log has not acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyTable {
    keys: BTreeMap<String, ApiKey>,
    pending: Vec<Change>,
}

/// The file's layout.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileV1 {
    version: u32,
    keys: Vec<ApiKey>,
    #[serde(default)]
    pending: Vec<Change>,
}

/// What a new key is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Service account.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Tenant; `None`: every tenant.
    pub tenant_id: Option<String>,
    /// End of validity.
    pub expires_at: Option<TimestampMicros>,
}

/// How a key is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// How long the old key is still accepted, milliseconds.
    pub overlap_ms: i64,
    /// End of validity of the new key; `None`: as long after now as the old one's was after its making.
    pub expires_at: Option<TimestampMicros>,
}

/// Who changes something, when and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// Who.
    pub by: String,
    /// When.
    pub at: TimestampMicros,
    /// Why; may be empty.
    pub reason: String,
}

impl KeyTable {
    /// Reads a key file.
    ///
    /// # Errors
    /// It is not one, or contradicts itself. The message repeats no digest.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let not_one = |e: serde_json::Error| {
            KeyError::NotAKeyFile(format!("{} at line {}, column {}", kind_of(&e), e.line(), e.column()))
        };
        // Only the version first: a later layout has fields that `deny_unknown_fields` would report as
        // damage, and the remedy is another one.
        let Version { version } = serde_json::from_slice(bytes).map_err(not_one)?;
        if version != FORMAT_VERSION {
            return Err(KeyError::Version(version));
        }
        let file: FileV1 = serde_json::from_slice(bytes).map_err(not_one)?;
        let mut table = Self { keys: BTreeMap::new(), pending: file.pending };
        for key in file.keys {
            table.add(key)?;
        }
        // A file that was edited by hand may have lost the successor: its predecessor would then expire
        // without a key that replaces it.
        let replaced =
            table.keys.values().find(|k| k.replaced_by.as_ref().is_some_and(|id| !table.keys.contains_key(id)));
        if let Some(key) = replaced {
            return Err(invalid(&key.id, "replaced_by names a key that is not there"));
        }
        match table.pending.iter().find(|change| !table.keys.contains_key(&change.key_id)) {
            Some(_) => Err(KeyError::NotAKeyFile("a pending change is of a key that is not there".to_owned())),
            None => Ok(table),
        }
    }

    /// The file's bytes: keys in the order of their ids.
    pub fn to_json(&self) -> Vec<u8> {
        let file = FileV1 {
            version: FORMAT_VERSION,
            keys: self.keys.values().cloned().collect(),
            pending: self.pending.clone(),
        };
        // Strings and integers only: nothing in it can fail to be written.
        let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Every key, in the order of their ids.
    pub fn keys(&self) -> impl Iterator<Item = &ApiKey> {
        self.keys.values()
    }

    /// The key of that id.
    pub fn get(&self, id: &str) -> Option<&ApiKey> {
        self.keys.get(id)
    }

    /// Changes whose events the log has not acknowledged, oldest first.
    pub fn pending(&self) -> &[Change] {
        &self.pending
    }

    /// Those of them that are old enough that the command which made them must have failed: it could not reach
    /// the log, or was killed.
    pub fn overdue(&self, now: TimestampMicros) -> Vec<Change> {
        self.pending.iter().filter(|change| change.at.plus_ms(PENDING_AGE_MS) <= now).cloned().collect()
    }

    /// Forgets changes whose events are in the log; true if there were any of them.
    pub fn settle(&mut self, done: &[Change]) -> bool {
        let before = self.pending.len();
        self.pending.retain(|change| !done.contains(change));
        self.pending.len() < before
    }

    /// Who holds a presented key at `now`.
    ///
    /// A caller that does not hold a key's secret learns nothing about the key: a wrong secret for a known id gets the
    /// answer for an unknown one, after a comparison of the same length.
    ///
    /// # Errors
    /// [`DenialCode::CredentialUnknown`], [`DenialCode::CredentialRevoked`] or
    /// [`DenialCode::CredentialExpired`].
    pub fn decide(&self, presented: &Presented, now: TimestampMicros) -> Result<Identity, Denied> {
        let found = self.keys.get(presented.id());
        // Compared for an unknown id as well, so that the time of the answer does not tell which ids exist.
        let matches = presented.matches(found.map_or(&Sha256::ZERO, |key| &key.sha256));
        let key = found.filter(|_| matches).ok_or_else(|| {
            Denied::of_stranger(
                DenialCode::CredentialUnknown,
                "the API key is not known here: check which gateway it is for",
            )
        })?;
        let id = &key.id;
        match (key.status(now), &key.replaced_by) {
            (KeyStatus::Active | KeyStatus::Replaced, _) => Ok(key.identity()),
            (KeyStatus::Revoked, _) => {
                Err(key.denied(DenialCode::CredentialRevoked, format!("key {id} was revoked: ask for another one")))
            }
            (KeyStatus::Expired, Some(next)) => {
                Err(key.denied(DenialCode::CredentialExpired, format!("key {id} was replaced by {next}: use that one")))
            }
            (KeyStatus::Expired, None) => {
                Err(key.denied(DenialCode::CredentialExpired, format!("key {id} has expired: ask for another one")))
            }
        }
    }

    /// Adds a new key.
    ///
    /// # Errors
    /// It cannot be, or its id is taken (one in 2^32 per key there: mint another one).
    pub fn create(&mut self, minted: &Minted, new: NewKey, act: &Act) -> Result<Change, KeyError> {
        check_act(act)?;
        self.add(ApiKey {
            id: minted.id.clone(),
            sha256: minted.sha256,
            name: new.name,
            role: new.role,
            tenant_id: new.tenant_id,
            created_at: act.at,
            created_by: act.by.clone(),
            expires_at: new.expires_at,
            revoked_at: None,
            replaced_by: None,
        })?;
        Ok(self.note(ChangeKind::Created, &minted.id, None, act))
    }

    /// Makes `minted` the successor of a key, which stays valid for the overlap, but not longer than it
    /// would have been.
    ///
    /// # Errors
    /// There is no such key, or it is over or rotated already.
    pub fn rotate(&mut self, id: &str, minted: &Minted, how: &Rotation, act: &Act) -> Result<Change, KeyError> {
        check_act(act)?;
        let old = self.usable(id, act.at)?;
        if old.status(act.at) == KeyStatus::Replaced {
            return Err(KeyError::Over { id: id.to_owned(), status: "rotated" });
        }
        // The successor gets the lifetime that its predecessor was made with: rotating must not turn a key of
        // 90 days into one without an end.
        let lifetime = old.expires_at.map(|at| at.0.saturating_sub(old.created_at.0));
        let same_again = lifetime.map(|micros| TimestampMicros(act.at.0.saturating_add(micros)));
        let successor = ApiKey {
            id: minted.id.clone(),
            sha256: minted.sha256,
            created_at: act.at,
            created_by: act.by.clone(),
            expires_at: how.expires_at.or(same_again),
            ..old.clone()
        };
        let end = act.at.plus_ms(how.overlap_ms.max(0));
        self.add(successor)?;
        if let Some(old) = self.keys.get_mut(id) {
            // The earlier of both: an overlap must not prolong a key that would have expired before.
            old.expires_at = Some(old.expires_at.map_or(end, |at| at.min(end)));
            old.replaced_by = Some(minted.id.clone());
        }
        Ok(self.note(ChangeKind::Rotated, &minted.id, Some(id), act))
    }

    /// Revokes a key, effective at once.
    ///
    /// # Errors
    /// There is no such key, or it is revoked already. An expired one can be revoked.
    pub fn revoke(&mut self, id: &str, act: &Act) -> Result<Change, KeyError> {
        check_act(act)?;
        let key = self.keys.get_mut(id).ok_or_else(|| KeyError::Unknown(id.chars().take(ID_CHARS).collect()))?;
        if key.revoked_at.is_some() {
            return Err(KeyError::Over { id: id.to_owned(), status: "revoked" });
        }
        key.revoked_at = Some(act.at);
        Ok(self.note(ChangeKind::Revoked, id, None, act))
    }

    fn usable(&self, id: &str, now: TimestampMicros) -> Result<&ApiKey, KeyError> {
        let key = self.keys.get(id).ok_or_else(|| KeyError::Unknown(id.chars().take(ID_CHARS).collect()))?;
        let over = |status| Err(KeyError::Over { id: id.to_owned(), status });
        match key.status(now) {
            KeyStatus::Active | KeyStatus::Replaced => Ok(key),
            KeyStatus::Revoked => over("revoked"),
            KeyStatus::Expired => over("expired"),
        }
    }

    fn note(&mut self, kind: ChangeKind, key_id: &str, replaced_id: Option<&str>, act: &Act) -> Change {
        let change = Change {
            kind,
            key_id: key_id.to_owned(),
            replaced_id: replaced_id.map(str::to_owned),
            at: act.at,
            by: act.by.clone(),
            reason: act.reason.clone(),
        };
        // In the same write of the file as the change itself: whatever happens to the command, a gateway finds
        // the change and appends its event.
        self.pending.push(change.clone());
        change
    }

    fn add(&mut self, key: ApiKey) -> Result<(), KeyError> {
        check(&key)?;
        if self.keys.contains_key(&key.id) {
            Err(KeyError::Twice(key.id))
        } else {
            self.keys.insert(key.id.clone(), key);
            Ok(())
        }
    }
}

fn check(key: &ApiKey) -> Result<(), KeyError> {
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if !key.id.strip_prefix("cst_").is_some_and(|digits| digits.len() == 8 && digits.bytes().all(is_digit)) {
        // It may be a whole key, pasted into the wrong place: the message must not repeat it.
        return Err(KeyError::NotAKeyFile("an id is not cst_ and 8 hexadecimal digits".to_owned()));
    }
    let name = &key.name;
    if name.is_empty() || name.len() > ID_BYTES_MAX || name.contains(char::is_control) {
        return Err(invalid(&key.id, "the name must have 1 to 256 bytes and no control characters"));
    }
    match (&key.tenant_id, key.role) {
        (Some(tenant), _) => {
            check_tenant_name(tenant).map_err(|why| invalid(&key.id, &format!("the tenant's name {why}")))
        }
        (None, Role::Owner) => Ok(()),
        (None, role) => Err(invalid(
            &key.id,
            &format!("the role {role} must be bound to a tenant: name one, or make it an owner's"),
        )),
    }
}

fn check_act(act: &Act) -> Result<(), KeyError> {
    let is_plain = |text: &str, bytes_max| text.len() <= bytes_max && !text.contains(char::is_control);
    if !act.by.is_empty() && is_plain(&act.by, ID_BYTES_MAX) && is_plain(&act.reason, REASON_BYTES_MAX) {
        Ok(())
    } else {
        Err(KeyError::Act)
    }
}

fn invalid(id: &str, what: &str) -> KeyError {
    KeyError::Invalid { id: id.to_owned(), what: what.to_owned() }
}

/// What is wrong with a JSON text, without the text: an error of serde may quote the value.
fn kind_of(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Data => "a field is missing, unknown or of another type",
        serde_json::error::Category::Eof => "the text ends early",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "the text is not JSON",
    }
}

#[cfg(test)]
mod tests;
