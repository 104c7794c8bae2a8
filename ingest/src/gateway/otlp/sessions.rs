//! Which conversation a trace belongs to, remembered for spans that do not name it.
//!
//! By the conventions a conversation is named on model calls and agents, not on the tools between
//! them, and the spans of one trace arrive in several requests. The memory is bounded, of one
//! process, and best effort: a span that comes before the first that names its conversation is in the
//! session of its trace.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use schemas::id::TraceId;

/// Most traces that are remembered: about 13 MiB with names of 36 bytes, 45 MiB with the longest.
pub const TRACES_MAX: usize = 65_536;
/// Longest name that is remembered, bytes; a longer one counts for its own span only.
const NAME_BYTES_MAX: usize = 512;

/// Names of conversations by tenant and trace. Shared by all requests of a gateway.
#[derive(Debug, Default)]
pub struct TraceSessions {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    names: BTreeMap<(String, TraceId), String>,
    /// Oldest first.
    order: VecDeque<(String, TraceId)>,
}

impl TraceSessions {
    /// Remembers the conversations that a request named; the first name of a trace stays.
    pub(super) fn learn(&self, tenant: &str, names: &BTreeMap<TraceId, String>) {
        if names.is_empty() {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for (trace, name) in names.iter().filter(|(_, name)| name.len() <= NAME_BYTES_MAX) {
            let key = (tenant.to_owned(), *trace);
            // The first name stays: a session that changed its id in the middle would have two incomplete
            // halves.
            if inner.names.contains_key(&key) {
                continue;
            }
            // The oldest trace goes first: traces are short, and one that is this old has most likely ended.
            if inner.order.len() >= TRACES_MAX
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.names.remove(&oldest);
            }
            inner.names.insert(key.clone(), name.clone());
            inner.order.push_back(key);
        }
    }

    /// The names of those of `traces` that are known, added to `names`.
    pub(super) fn recall(&self, tenant: &str, traces: &[TraceId], names: &mut BTreeMap<TraceId, String>) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.names.is_empty() {
            return;
        }
        for trace in traces {
            if let Some(name) = inner.names.get(&(tenant.to_owned(), *trace)) {
                names.insert(*trace, name.clone());
            }
        }
    }
}
