//! The form of an API key: made from 32 random bytes, read from headers, distinguished from a typing error.
//!
//! `cst_<8 hexadecimal>_<43 base64url>`: the long part is the secret (256 bits), the short one names the key
//! in lists and logs and is a checksum of the secret, so that a mistyped key is recognised without a look-up.
//! It generates no randomness and stores no key.

use std::fmt;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemas::id::{Sha256, hex};
use schemas::secret::Secret;
use subtle::ConstantTimeEq as _;

use super::{DenialCode, Denied};

/// Header that holds a key as it is; `Authorization: Bearer` is the other place.
pub const API_KEY_HEADER: &str = "x-api-key";
/// Bytes of randomness in a key.
pub const SECRET_BYTES: usize = 32;

/// Put before the secret in the checksum, so that the visible part is no prefix of the stored digest.
const CHECKSUM_DOMAIN: &[u8] = b"custody api key id\0";
const CHECKSUM_BYTES: usize = 4;
const TEXT_BYTES: usize = 43;
const ID_BYTES: usize = "cst_".len() + 2 * CHECKSUM_BYTES;

/// A key that was presented: its id, and the digest of its secret. It has no `==`: [`Presented::matches`]
/// is the only comparison.
#[derive(Clone)]
pub struct Presented {
    id: String,
    digest: Sha256,
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Presented {
    /// Reads a key.
    ///
    /// # Errors
    /// [`DenialCode::CredentialMalformed`]: no key, or one with a wrong character.
    pub fn read(text: &str) -> Result<Self, Denied> {
        let malformed = |detail: &str| Denied::of_stranger(DenialCode::CredentialMalformed, detail);
        let parts = text.split_at_checked(ID_BYTES).and_then(|(id, rest)| Some((id, rest.strip_prefix('_')?)));
        let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let is_text = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        match parts {
            Some((id, secret))
                if id.strip_prefix("cst_").is_some_and(|digits| digits.bytes().all(is_digit))
                    && secret.len() == TEXT_BYTES
                    && secret.bytes().all(is_text) =>
            {
                // The checksum is not secret and checked before the look-up: a typing error is answered as
                // such, and needs no comparison with stored digests.
                if id_of(secret) == id {
                    Ok(Self { id: id.to_owned(), digest: digest_of(secret) })
                } else {
                    Err(malformed("the API key has a wrong character: its two parts do not belong together"))
                }
            }
            _ => Err(malformed("the credential is not an API key: expected cst_, 8 characters, _ and 43 characters")),
        }
    }

    /// The id that it names.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether its secret has the stored digest, in a time that does not depend on where they differ.
    pub fn matches(&self, stored: &Sha256) -> bool {
        self.digest.0.ct_eq(&stored.0).into()
    }
}

/// A new key: the only moment at which its secret is known.
#[derive(Debug, Clone)]
pub struct Minted {
    /// `cst_` and eight characters.
    pub id: String,
    /// What is stored of the secret.
    pub sha256: Sha256,
    /// The whole key, to be shown once.
    pub secret: Secret,
}

/// Makes a key from fresh random bytes.
pub fn mint(random: [u8; SECRET_BYTES]) -> Minted {
    let secret = URL_SAFE_NO_PAD.encode(random);
    let id = id_of(&secret);
    Minted { sha256: digest_of(&secret), secret: Secret::new(format!("{id}_{secret}")), id }
}

fn id_of(secret: &str) -> String {
    let digest = Sha256::of(&[CHECKSUM_DOMAIN, secret.as_bytes()].concat());
    format!("cst_{}", hex(&digest.0[..CHECKSUM_BYTES]))
}

fn digest_of(secret: &str) -> Sha256 {
    Sha256::of(secret.as_bytes())
}

/// The credential of a request: `Authorization: Bearer KEY` or `X-Api-Key: KEY`.
///
/// # Errors
/// [`DenialCode::CredentialMalformed`]: another scheme, an unreadable value, or two that differ.
pub fn of_headers(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let malformed = |detail: &str| Denied::of_stranger(DenialCode::CredentialMalformed, detail);
    let mut found: Option<&str> = None;
    for name in [header::AUTHORIZATION.as_str(), API_KEY_HEADER] {
        for value in headers.get_all(name) {
            let text = value.to_str().map_err(|_| malformed("the credential's header is not visible ASCII"))?;
            let text = if name == API_KEY_HEADER {
                text
            } else {
                bearer(text).ok_or_else(|| {
                    malformed("the Authorization header is not of the scheme Bearer: send `Authorization: Bearer KEY`")
                })?
            };
            match found {
                // Which of two different keys is meant cannot be known; deciding for one would act with rights
                // that the caller may not have intended.
                Some(other) if other != text.trim() => {
                    return Err(malformed("the request has two credentials: send one"));
                }
                _ => found = Some(text.trim()),
            }
        }
    }
    Ok(found)
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110 section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

#[cfg(test)]
mod tests;
