//! What the scanner can find, how sure it is, and where.
//!
//! Names are stable: they appear in tokens, findings and policies. It decides nothing about them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A type of personal data or secret. The wire name is [`Kind::name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum Kind {
    /// E-mail address, RFC 5321 limits.
    Email,
    /// Telephone number, E.164 lengths.
    Phone,
    /// Payment card number, ISO/IEC 7812.
    CreditCard,
    /// International bank account number, ISO 13616.
    Iban,
    /// Any other account or routing number, by field name.
    BankAccount,
    /// US social security number, or a national or tax number by field name.
    Ssn,
    /// IPv4 or IPv6 address.
    Ip,
    /// IEEE 802 MAC address.
    Mac,
    /// Date of birth.
    DateOfBirth,
    /// A person's name.
    Person,
    /// Account name that names a person.
    Username,
    /// Street address or a part of one.
    Address,
    /// Postal code.
    Zip,
    /// Passport number.
    Passport,
    /// Driving licence number.
    DrivingLicence,
    /// API key, token, password or private key.
    Secret,
    /// User name and password inside a URL.
    UrlCredentials,
    /// A URL. Not personal data by itself: kept unless a policy names it.
    Url,
    /// Content that was not looked at to its end: nested too deeply, or dearer than a scan may be.
    Unscanned,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: &'static [Kind] = &[
        Kind::Email,
        Kind::Phone,
        Kind::CreditCard,
        Kind::Iban,
        Kind::BankAccount,
        Kind::Ssn,
        Kind::Ip,
        Kind::Mac,
        Kind::DateOfBirth,
        Kind::Person,
        Kind::Username,
        Kind::Address,
        Kind::Zip,
        Kind::Passport,
        Kind::DrivingLicence,
        Kind::Secret,
        Kind::UrlCredentials,
        Kind::Url,
        Kind::Unscanned,
    ];

    /// Stable name, as in `[EMAIL:…]`.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Email => "EMAIL",
            Kind::Phone => "PHONE",
            Kind::CreditCard => "CREDIT_CARD",
            Kind::Iban => "IBAN",
            Kind::BankAccount => "BANK_ACCOUNT",
            Kind::Ssn => "SSN",
            Kind::Ip => "IP",
            Kind::Mac => "MAC",
            Kind::DateOfBirth => "DATE_OF_BIRTH",
            Kind::Person => "PERSON",
            Kind::Username => "USERNAME",
            Kind::Address => "ADDRESS",
            Kind::Zip => "ZIP",
            Kind::Passport => "PASSPORT",
            Kind::DrivingLicence => "DRIVING_LICENCE",
            Kind::Secret => "SECRET",
            Kind::UrlCredentials => "URL_CREDENTIALS",
            Kind::Url => "URL",
            Kind::Unscanned => "UNSCANNED",
        }
    }

    /// Kind of that stable name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Kind of that number; the reverse of `as u8`.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Data class: `pii`, `pci` or `secret`; `None` for what is no personal data by itself.
    pub const fn class(self) -> Option<&'static str> {
        match self {
            Kind::CreditCard => Some("pci"),
            Kind::Secret | Kind::UrlCredentials => Some("secret"),
            Kind::Url => None,
            _ => Some("pii"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How sure the scanner is, so that a policy picks its point between precision and recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Shape alone.
    Possible,
    /// Shape and a cue, or a shape that little else has.
    Likely,
    /// Checksum, unmistakable shape, or field name.
    Certain,
}

/// A finding: bytes `start..end` of the scanned text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// After the last byte.
    pub end: usize,
    /// Type.
    pub kind: Kind,
    /// Certainty.
    pub grade: Grade,
    /// How many levels of JSON string the bytes stand in: unescaping so often gives the value.
    pub depth: u8,
    /// Whether the bytes are a JSON value without quotes: a replacement must bring its own.
    pub bare: bool,
}

impl Span {
    /// A span of plain text.
    pub(super) fn new(start: usize, end: usize, kind: Kind, grade: Grade) -> Self {
        Self { start, end, kind, grade, depth: 0, bare: false }
    }
}

/// Sorts spans and makes them disjoint: a URL loses to anything inside it; of two that overlap, the
/// longer one names the kind and both are covered, so that no end of either is left in the text.
pub(super) fn make_disjoint(spans: &mut Vec<Span>) {
    if spans.len() < 2 {
        return;
    }
    // The longer of two that begin together comes first, so that it absorbs the other.
    spans.sort_unstable_by_key(|s| (s.start, std::cmp::Reverse(s.end), s.kind));
    let mut kept: Vec<Span> = Vec::with_capacity(spans.len());
    // URLs may stand inside each other, as many as the text has room for, so that a look at the neighbours
    // of each is quadratic: where the last other span ended and where the next begins only moves forward.
    let (mut others_end, mut next_other) = (0, 0);
    for (index, span) in spans.iter().copied().enumerate() {
        if span.kind == Kind::Url {
            next_other = next_other.max(index + 1);
            next_other += spans[next_other..].iter().take_while(|other| other.kind == Kind::Url).count();
            if others_end > span.start || spans.get(next_other).is_some_and(|other| other.start < span.end) {
                continue;
            }
        } else {
            others_end = others_end.max(span.end);
        }
        match kept.last_mut() {
            Some(last) if span.start < last.end => absorb(last, span),
            _ => kept.push(span),
        }
    }
    *spans = kept;
}

fn absorb(last: &mut Span, span: Span) {
    // The longer one has seen more of the text: `user@example.com` against the name `user`.
    let longer = span.end - span.start > last.end - last.start;
    if longer {
        (last.kind, last.grade) = (span.kind, span.grade.max(last.grade));
    }
    // Both are covered even where only one is right: half a value in clear is a value in clear.
    last.end = last.end.max(span.end);
    last.bare |= span.bare;
}
