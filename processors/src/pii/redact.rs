//! Findings out, tokens in. All other bytes stay as they are, and JSON stays JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::json;
use super::kind::{Kind, Span};
use super::policy::{Action, Policy};
use super::token::TenantKeys;

/// A content after redaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redacted {
    /// The text.
    pub text: String,
    /// Findings of a data class, per kind; those that the policy keeps are counted too.
    pub counts: BTreeMap<Kind, i64>,
    /// The strictest action taken; `None` where nothing was found.
    pub route: Option<Action>,
}

/// Replaces `spans` (as [`super::scan`] returned them for `text`) by what `policy` asks for.
pub fn redact(text: &str, spans: &[Span], policy: &Policy, keys: &TenantKeys) -> Redacted {
    let mut out = Redacted { text: String::with_capacity(text.len()), ..Redacted::default() };
    let mut next = 0;
    for span in spans {
        let action = policy.action(span.kind, span.grade);
        // URLs are found so that they can be dropped; they are nobody's data and count as no finding.
        if span.kind.class().is_some() {
            *out.counts.entry(span.kind).or_default() += 1;
            out.route = out.route.max(Some(action));
        }
        if action == Action::Keep {
            continue;
        }
        out.text.push_str(&text[next..span.start]);
        replace(&mut out.text, text, span, action, keys);
        next = span.end;
    }
    out.text.push_str(&text[next..]);
    out
}

fn replace(out: &mut String, text: &str, span: &Span, action: Action, keys: &TenantKeys) {
    let token = match action {
        Action::Drop | Action::Keep => {
            // Nothing in place of a bare value would leave `{"ssn":}`, which is no JSON.
            out.push_str(if span.bare { "null" } else { "" });
            return;
        }
        Action::Redact => format!("[{}]", span.kind),
        Action::Tokenise | Action::Seal => keys.token(span.kind, &value_of(text, span)),
    };
    // A quote inside a string inside a string has a backslash per level, each of which doubles.
    let quote = |out: &mut String| {
        if span.bare {
            // Level n of strings in strings writes a quote with 2ⁿ - 1 backslashes.
            out.extend(std::iter::repeat_n('\\', (1 << span.depth.min(16)) - 1));
            out.push('"');
        }
    };
    quote(out);
    out.push_str(&token);
    quote(out);
}

/// The value that a span stands for: its bytes without the escapes of the JSON strings around it.
pub fn value_of<'t>(text: &'t str, span: &Span) -> Cow<'t, str> {
    let mut value = Cow::Borrowed(&text[span.start..span.end]);
    for _ in 0..span.depth {
        // Most values have no escape: no copy is made of them.
        if !value.contains('\\') {
            break;
        }
        value = Cow::Owned(json::unescape(&value));
    }
    value
}
