//! Authentication and authorisation: sender, tenant and role, decided before a byte of a body is read.
//!
//! [`admit`] is the whole decision for one request, a function of its arguments; it does not read a clock,
//! limit rates (see [`super::quota`]) or look at events. Nothing here stores or prints a secret, or puts one
//! into an error.

use std::fmt;
use std::net::SocketAddr;

use axum::http::HeaderMap;
use schemas::event::Principal;
use schemas::limits::ID_BYTES_MAX;
use schemas::time::TimestampMicros;
use serde::{Deserialize, Serialize};

use super::intake::Problem;

pub mod change;
pub mod change_event;
pub mod credential;
pub mod journal;
pub mod key_file;
pub mod table;

/// Header that names the tenant, where an identity is not bound to one.
pub const TENANT_HEADER: &str = "x-custody-tenant";
/// Tenant of requests that name none and whose identity is not bound to one.
pub const DEFAULT_TENANT: &str = "default";
/// The operator's own tenant: denials that belong to no tenant, and keys for all tenants.
pub const OPERATOR_TENANT: &str = "custody";

/// What a key may be used for: the sum of its holder's rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything; the only role that need not be bound to a tenant.
    Owner,
    /// Everything within a tenant.
    Admin,
    /// Sends events and reads.
    Member,
    /// Reads.
    Viewer,
    /// Reads, and nothing that could change what is read.
    Auditor,
}

/// What a role may allow. The gateway requires [`Action::Send`]; the others are recorded with every grant, so that
/// the log shows what a key allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Bring events into the log.
    Send,
    /// Read what the log holds.
    Read,
    /// Change keys and settings.
    Manage,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Send, Self::Read, Self::Manage];

    /// The action's name in events and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Read => "read",
            Self::Manage => "manage",
        }
    }
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Owner, Self::Admin, Self::Member, Self::Viewer, Self::Auditor];

    /// The role's name in files, events and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether the role is allowed to do that.
    pub const fn may(self, action: Action) -> bool {
        match (self, action) {
            (Self::Owner | Self::Admin, _) | (_, Action::Read) => true,
            (Self::Member, Action::Send) => true,
            (Self::Member, Action::Manage) | (Self::Viewer | Self::Auditor, Action::Send | Action::Manage) => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who a request comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The key's id, `cst_` and eight characters; `open` without keys.
    pub key_id: String,
    /// The only tenant that it may act for; `None`: every tenant.
    pub tenant_id: Option<String>,
    /// What it may do.
    pub role: Role,
    /// The principal in events that it causes.
    pub principal: Principal,
}

impl Identity {
    /// The tenant that this identity acts for, if a request asks for `requested`.
    ///
    /// # Errors
    /// [`DenialCode::TenantForbidden`]: bound to another one; [`DenialCode::TenantInvalid`]: that cannot
    /// be a tenant's name.
    pub fn tenant(&self, requested: Option<&str>) -> Result<String, Denied> {
        match (&self.tenant_id, requested) {
            (Some(own), None) => Ok(own.clone()),
            (Some(own), Some(requested)) if own == requested => Ok(own.clone()),
            // Naming the bound tenant tells the caller nothing new: it has proved to hold the key.
            (Some(own), Some(_)) => {
                let detail =
                    format!("key {} is bound to tenant {own}: send without another tenant's name", self.key_id);
                Err(self.denied(DenialCode::TenantForbidden, detail))
            }
            (None, None) => Ok(DEFAULT_TENANT.to_owned()),
            (None, Some(requested)) => match check_tenant_name(requested) {
                Ok(()) => Ok(requested.to_owned()),
                Err(why) => Err(self.denied(DenialCode::TenantInvalid, format!("the tenant's name {why}"))),
            },
        }
    }

    /// Whether the identity's role allows an action.
    ///
    /// # Errors
    /// [`DenialCode::RoleForbidden`].
    pub fn require(&self, action: Action) -> Result<(), Denied> {
        if self.role.may(action) {
            return Ok(());
        }
        let may: Vec<&str> = Role::ALL.into_iter().filter(|role| role.may(action)).map(Role::name).collect();
        let detail = format!(
            "key {} has the role {}, which may not {}: use a key of role {}",
            self.key_id,
            self.role,
            action.name(),
            may.join(", ")
        );
        Err(self.denied(DenialCode::RoleForbidden, detail))
    }

    fn denied(&self, code: DenialCode, detail: String) -> Denied {
        Denied { code, detail, key_id: Some(self.key_id.clone()), tenant_id: self.tenant_id.clone() }
    }
}

/// Whether `name` can be a tenant's: the rules of an event's header, and no leading `_`, which is kept
/// for the system itself.
///
/// # Errors
/// What is wrong with it, to be put after "the tenant's name".
pub fn check_tenant_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("is empty"),
        _ if name.len() > ID_BYTES_MAX => Err("is longer than 256 bytes"),
        // The slash separates tenant and session in the key of a record.
        _ if name.contains(|c: char| c == '/' || c.is_control()) => Err("has a slash or a control character"),
        _ if name.starts_with('_') => Err("starts with an underscore, which is reserved"),
        _ => Ok(()),
    }
}

/// Why a request was denied: stable names for metrics, events and problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DenialCode {
    /// No credential.
    CredentialMissing,
    /// A credential that is no key: another scheme, another form, or a mistyped character.
    CredentialMalformed,
    /// The form of a key, but none of ours.
    CredentialUnknown,
    /// A key that was revoked.
    CredentialRevoked,
    /// A key that has expired, or whose overlap with its successor has ended.
    CredentialExpired,
    /// The role does not allow it.
    RoleForbidden,
    /// The key is bound to another tenant.
    TenantForbidden,
    /// The tenant asked for cannot exist.
    TenantInvalid,
}

impl DenialCode {
    /// Every code.
    pub const ALL: [Self; 8] = [
        Self::CredentialMissing,
        Self::CredentialMalformed,
        Self::CredentialUnknown,
        Self::CredentialRevoked,
        Self::CredentialExpired,
        Self::RoleForbidden,
        Self::TenantForbidden,
        Self::TenantInvalid,
    ];

    /// The code's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CredentialMissing => "credential_missing",
            Self::CredentialMalformed => "credential_malformed",
            Self::CredentialUnknown => "credential_unknown",
            Self::CredentialRevoked => "credential_revoked",
            Self::CredentialExpired => "credential_expired",
            Self::RoleForbidden => "role_forbidden",
            Self::TenantForbidden => "tenant_forbidden",
            Self::TenantInvalid => "tenant_invalid",
        }
    }

    /// HTTP status: 401 where another credential could help, 403 where this one is known and not enough.
    pub const fn status(self) -> u16 {
        match self {
            Self::CredentialMissing
            | Self::CredentialMalformed
            | Self::CredentialUnknown
            | Self::CredentialRevoked
            | Self::CredentialExpired => 401,
            Self::RoleForbidden | Self::TenantForbidden | Self::TenantInvalid => 403,
        }
    }

    const fn title(self) -> &'static str {
        match self.status() {
            401 => "the request is not authenticated",
            _ => "the key does not allow this request",
        }
    }
}

/// A denied request. Nothing in it repeats the credential, or a tenant name that the caller chose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Denied {
    /// Why.
    pub code: DenialCode,
    /// One sentence with the remedy.
    pub detail: String,
    /// The key, where the caller proved to hold it.
    pub key_id: Option<String>,
    /// That key's tenant.
    pub tenant_id: Option<String>,
}

impl Denied {
    /// A denial of an unknown caller.
    pub fn of_stranger(code: DenialCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), key_id: None, tenant_id: None }
    }

    /// HTTP status, 401 or 403.
    pub const fn status(&self) -> u16 {
        self.code.status()
    }

    /// Value of `WWW-Authenticate`, which RFC 9110 section 15.5.2 asks for in every 401; the `error` of
    /// RFC 6750 section 3.1 only where a credential was sent.
    pub const fn challenge(&self) -> Option<&'static str> {
        match self.code {
            DenialCode::CredentialMissing => Some("Bearer realm=\"custody\""),
            _ if self.status() == 401 => Some("Bearer realm=\"custody\", error=\"invalid_token\""),
            _ => None,
        }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        Self {
            status: denied.status(),
            code: denied.code.name(),
            title: denied.code.title(),
            detail: denied.detail,
            field: None,
            index: None,
        }
    }
}

/// Identifies the holder of a credential.
pub trait Authenticator: Send + Sync {
    /// The identity behind a credential. Cheap enough for every request: it does not block, except to read a file that
    /// has changed.
    ///
    /// # Errors
    /// No valid credential: codes `credential_*`.
    fn authenticate(&self, secret: Option<&str>, now: TimestampMicros) -> Result<Identity, Denied>;
}

/// An admitted request.
#[derive(Debug, Clone, PartialEq)]
pub struct Caller {
    /// Who.
    pub identity: Identity,
    /// For which tenant.
    pub tenant_id: String,
}

/// Decides on a request by its headers (gRPC metadata: `metadata.as_ref()`).
///
/// # Errors
/// What the answer is to be.
pub fn admit(
    authenticator: &dyn Authenticator,
    headers: &HeaderMap,
    action: Action,
    now: TimestampMicros,
) -> Result<Caller, Denied> {
    // Before the tenant header is looked at: a caller without a valid key gets the same answer whatever
    // tenant it names.
    let identity = authenticator.authenticate(credential::of_headers(headers)?, now)?;
    identity.require(action)?;
    let requested = match headers.get(TENANT_HEADER).map(|value| value.to_str()) {
        None => None,
        Some(Ok(name)) => Some(name),
        Some(Err(_)) => {
            let detail = format!("the header {TENANT_HEADER} is not visible ASCII");
            return Err(identity.denied(DenialCode::TenantInvalid, detail));
        }
    };
    let tenant_id = identity.tenant(requested)?;
    Ok(Caller { identity, tenant_id })
}

/// Accepts every caller as owner of every tenant: for a gateway that only its own machine can reach.
#[derive(Debug, Clone)]
pub struct Open(());

/// Keys are needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "listening on {listen}, which other machines can reach, needs API keys: make one with \
     `custody api-keys create` and name the file in the configuration, or listen on 127.0.0.1"
)]
pub struct KeysNeeded {
    /// The address.
    pub listen: SocketAddr,
}

impl Open {
    /// Accepts every caller, if every listening address is a loopback address.
    ///
    /// # Errors
    /// One is not.
    pub fn on(listen: &[SocketAddr]) -> Result<Self, KeysNeeded> {
        // `to_canonical`, because an IPv4 loopback address that is mapped to IPv6 (`::ffff:127.0.0.1`) is not
        // a loopback address by itself.
        match listen.iter().find(|address| !address.ip().to_canonical().is_loopback()) {
            Some(address) => Err(KeysNeeded { listen: *address }),
            None => {
                tracing::warn!(
                    "no API keys configured: every process of this machine may send, as tenant {DEFAULT_TENANT} or as \
                     the one named in {TENANT_HEADER}"
                );
                Ok(Self(()))
            }
        }
    }
}

impl Authenticator for Open {
    fn authenticate(&self, _: Option<&str>, _: TimestampMicros) -> Result<Identity, Denied> {
        let principal = Principal { r#type: "system".to_owned(), id: "loopback".to_owned(), ..Principal::default() };
        Ok(Identity { key_id: "open".to_owned(), tenant_id: None, role: Role::Owner, principal })
    }
}

#[cfg(test)]
mod tests;
