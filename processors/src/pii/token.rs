//! Keyed tokens: the same value gives the same token within a tenant, and nobody without the key
//! can try values out.
//!
//! HMAC-SHA256 (RFC 2104, FIPS 198-1). Keys come in as data; it stores and rotates none.

use hmac::{Hmac, KeyInit, Mac};
use schemas::id::hex;
use sha2::Sha256;

use super::kind::Kind;

/// Hexadecimal digits of a token that stand in the text: 48 bits.
const SHOWN_BYTES: usize = 6;

type HmacSha256 = Hmac<Sha256>;

/// The master key that every tenant's keys derive from. `Debug` prints nothing of it.
#[derive(Clone)]
pub struct TokenKeys {
    master: [u8; 32],
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKeys")
    }
}

impl TokenKeys {
    /// Keys under `master`, 32 secret random bytes that the caller keeps apart from the data.
    pub fn new(master: [u8; 32]) -> Self {
        Self { master }
    }

    /// The keys of one tenant.
    pub fn tenant(&self, tenant_id: &str) -> TenantKeys {
        let derive = |purpose: &str| {
            // A purpose in each derivation: who learns the tokens' key cannot look sessions up.
            let digest = mac(&keyed(&self.master), &[purpose.as_bytes(), tenant_id.as_bytes()]);
            keyed(&digest)
        };
        TenantKeys { tokens: derive("custody token key v1"), session: derive("custody session key v1") }
    }
}

/// The keys of one tenant, with the key schedule done.
#[derive(Clone)]
pub struct TenantKeys {
    tokens: HmacSha256,
    session: HmacSha256,
}

impl std::fmt::Debug for TenantKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TenantKeys")
    }
}

impl TenantKeys {
    /// HMAC-SHA256(tenant key, type ‖ 0 ‖ canonical value).
    pub fn digest(&self, kind: Kind, value: &str) -> [u8; 32] {
        mac(&self.tokens, &[kind.name().as_bytes(), canonical(kind, value).as_bytes()])
    }

    /// The token that stands for `value`, e.g. `[EMAIL:3f9a1c2b40d1]`.
    pub fn token(&self, kind: Kind, value: &str) -> String {
        format!("[{}:{}]", kind.name(), hex(&self.digest(kind, value)[..SHOWN_BYTES]))
    }

    /// What a session remembers of a normalised value: 64 bits under a key of its own.
    pub(super) fn remembered(&self, value: &str) -> u64 {
        let digest = mac(&self.session, &[value.as_bytes()]);
        digest[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// HMAC under 32 bytes. RFC 2104 fills a key up with zeros to the block of 64 bytes.
fn keyed(key: &[u8; 32]) -> HmacSha256 {
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    HmacSha256::new(&block.into())
}

/// The MAC of `parts`, joined by a zero byte.
fn mac(key: &HmacSha256, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = key.clone();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            // A zero byte between the parts, which none has: `AB` + `C` is not `A` + `BC`.
            mac.update(&[0]);
        }
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// One spelling of a value, so that its spellings share a token: e-mail and names in lower case,
/// numbers without separators, dates as yyyymmdd, secrets as they are.
pub fn canonical(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Secret | Kind::UrlCredentials | Kind::Url | Kind::Unscanned => value.to_owned(),
        Kind::Phone => {
            let digits: String = value.chars().filter(char::is_ascii_digit).collect();
            // `+41` and `0041` are the same prefix.
            digits.strip_prefix("00").map(str::to_owned).unwrap_or(digits)
        }
        Kind::CreditCard | Kind::Iban | Kind::BankAccount | Kind::Ssn | Kind::Passport | Kind::DrivingLicence => {
            value.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect()
        }
        Kind::DateOfBirth => super::verify::date::canonical(value).unwrap_or_else(|| normalised(value)),
        _ => normalised(value),
    }
}

/// Lower case, with one space between words.
pub(super) fn normalised(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    // Over line breaks too: mail wraps names.
    for word in value.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.extend(word.chars().flat_map(char::to_lowercase));
    }
    out
}
