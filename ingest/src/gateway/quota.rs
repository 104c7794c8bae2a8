//! How much each tenant may send: events per second and bytes per second, each with a burst.
//!
//! One tenant's flood must not become another's 429. Time comes from a clock that the caller chooses.
//! It does not queue, and it does not know how full the gateway is: the writer applies back-pressure.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use serde::{Deserialize, Serialize};

use super::intake::Problem;

/// What one tenant may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantQuota {
    /// Events per second in the long run; 0: no limit on events.
    pub events_per_second: u32,
    /// Most events at once, and so the largest batch; at least 1 where events are limited.
    pub events_burst: u32,
    /// Bytes of request bodies, after decompression, per second in the long run; 0: no limit on bytes.
    pub bytes_per_second: u64,
    /// Most bytes at once, and so the largest body; at least 1 where bytes are limited.
    pub bytes_burst: u64,
}

impl Default for TenantQuota {
    fn default() -> Self {
        Self { events_per_second: 20_000, events_burst: 100_000, bytes_per_second: 64 << 20, bytes_burst: 128 << 20 }
    }
}

/// What tenants may send: section `gateway.quota` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaConfig {
    /// What every tenant may send that is not named in `tenants`.
    pub default: TenantQuota,
    /// Other quotas, by tenant.
    pub tenants: BTreeMap<String, TenantQuota>,
    /// Most tenants that are tracked at one time, those in `tenants` not counted; if more are active at once, the
    /// rest share one default quota.
    pub tenants_max: usize,
}

impl Default for QuotaConfig {
    fn default() -> Self {
        Self { default: TenantQuota::default(), tenants: BTreeMap::new(), tenants_max: 10_000 }
    }
}

/// A quota that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quota of {of}: {what} is {value}: {remedy}")]
pub struct QuotaConfigError {
    /// `default`, or the tenant.
    pub of: String,
    /// The setting.
    pub what: &'static str,
    /// Its value.
    pub value: u64,
    /// What to set instead.
    pub remedy: &'static str,
}

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Number of events.
    Events,
    /// Bytes of request bodies.
    Bytes,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Events => "events",
            Self::Bytes => "bytes",
        })
    }
}

/// A request above its tenant's quota. Nothing of it was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverQuota {
    /// The same request is admitted after `wait`, if no other request of the tenant is.
    #[error(
        "the tenant's quota of {per_second} {measure} per second is used up: send again in {} ms",
        wait.as_nanos().div_ceil(1_000_000)
    )]
    Later {
        /// Which quota.
        measure: Measure,
        /// Its rate.
        per_second: u64,
        /// How long, exact.
        wait: Duration,
    },
    /// The request alone is more than a burst: it is never admitted as it is.
    #[error("the request has {asked} {measure}, and the tenant may send at most {burst} at once: send smaller batches")]
    TooLarge {
        /// Which quota.
        measure: Measure,
        /// What the request has.
        asked: u64,
        /// What is admitted at most.
        burst: u64,
    },
}

impl OverQuota {
    /// HTTP status: 429 where waiting helps, 413 where it does not, so that a client that retries on 429
    /// does not retry without end what can never pass.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Later { .. } => 429,
            Self::TooLarge { .. } => 413,
        }
    }

    /// Value of `Retry-After`: whole seconds, rounded up, at least 1; `None` where waiting is of no use.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Later { wait, .. } => Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).map(|s| s.max(1)),
            Self::TooLarge { .. } => None,
        }
    }

    /// Stable name for metrics and problems.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Later { .. } => "quota_exceeded",
            Self::TooLarge { .. } => "batch_beyond_quota",
        }
    }
}

impl From<OverQuota> for Problem {
    fn from(over: OverQuota) -> Self {
        let title = match over {
            OverQuota::Later { .. } => "the tenant's quota is used up",
            OverQuota::TooLarge { .. } => "the batch is larger than the tenant's quota allows at once",
        };
        Self { status: over.status(), code: over.code(), title, detail: over.to_string(), field: None, index: None }
    }
}

/// The quotas of all tenants. Shared by every handler.
pub struct Quotas<C: Clock = DefaultClock> {
    clock: C,
    default: TenantQuota,
    tenants_max: usize,
    buckets: Mutex<Buckets<C>>,
}

struct Buckets<C: Clock> {
    /// Tenants with a quota of their own: as many as are configured.
    own: BTreeMap<String, TenantBuckets<C>>,
    /// Tenants with the default quota: at most `tenants_max`.
    usual: BTreeMap<String, TenantBuckets<C>>,
    /// All further tenants.
    rest: TenantBuckets<C>,
}

impl<C: Clock> fmt::Debug for Quotas<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quotas").field("default", &self.default).finish_non_exhaustive()
    }
}

impl Quotas {
    /// Quotas by the machine's monotonic clock.
    ///
    /// # Errors
    /// A quota cannot be kept.
    pub fn new(config: &QuotaConfig) -> Result<Self, QuotaConfigError> {
        Self::with_clock(config, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Quotas<C> {
    /// Quotas by any clock.
    ///
    /// # Errors
    /// A quota cannot be kept.
    pub fn with_clock(config: &QuotaConfig, clock: C) -> Result<Self, QuotaConfigError> {
        let rest = TenantBuckets::new("default", &config.default, &clock)?;
        let own = config
            .tenants
            .iter()
            .map(|(tenant, quota)| TenantBuckets::new(tenant, quota, &clock).map(|buckets| (tenant.clone(), buckets)));
        let own = own.collect::<Result<_, _>>()?;
        let buckets = Mutex::new(Buckets { own, usual: BTreeMap::new(), rest });
        Ok(Self { clock, default: config.default, tenants_max: config.tenants_max, buckets })
    }

    /// Charges a request to its tenant: all of it, or nothing.
    ///
    /// # Errors
    /// The tenant is above its quota.
    pub fn admit(&self, tenant: &str, events: u64, bytes: u64) -> Result<(), OverQuota> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        // Under one lock: events and bytes are charged together or not at all.
        self.of(&mut buckets, tenant).charge(events, bytes, self.clock.now())
    }

    /// Tenants that are tracked now, those with a configured quota not counted.
    pub fn tracked(&self) -> usize {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).usual.len()
    }

    fn of<'a>(&self, buckets: &'a mut Buckets<C>, tenant: &str) -> &'a mut TenantBuckets<C> {
        let Buckets { own, usual, rest } = buckets;
        if let Some(found) = own.get_mut(tenant) {
            return found;
        }
        if !usual.contains_key(tenant) {
            if usual.len() >= self.tenants_max {
                // Dropping a tenant whose buckets are full changes nothing: its next request gets full buckets again.
                let now = self.clock.now();
                usual.retain(|_, buckets| !buckets.is_full(now));
            }
            match TenantBuckets::new("default", &self.default, &self.clock) {
                Ok(fresh) if usual.len() < self.tenants_max => {
                    usual.insert(tenant.to_owned(), fresh);
                }
                // Fail closed: further tenants share one default quota. Admitting them without one would let
                // anybody who can choose tenant names send without a limit.
                _ => return rest,
            }
        }
        usual.get_mut(tenant).unwrap_or(rest)
    }
}

/// The buckets of one tenant; `None`: no limit.
struct TenantBuckets<C: Clock> {
    events: Option<Bucket<C>>,
    bytes: Option<Bucket<C>>,
    last: C::Instant,
}

/// Bytes that one cell of the byte bucket stands for. A cell takes a whole number of nanoseconds in
/// `governor`: 64 MiB/s by the byte would be 14 ns instead of 14.9 (6 % off), by the KiB it is 15 258
/// instead of 15 258.8 (0.005 %).
const BYTES_PER_CELL: u64 = 1024;

impl<C: Clock + Clone> TenantBuckets<C> {
    fn new(of: &str, quota: &TenantQuota, clock: &C) -> Result<Self, QuotaConfigError> {
        let error = |what, value, remedy| QuotaConfigError { of: of.to_owned(), what, value, remedy };
        let events = match (NonZeroU32::new(quota.events_per_second), NonZeroU32::new(quota.events_burst)) {
            (None, _) => None,
            (Some(_), None) => return Err(error("events_burst", 0, "nothing would ever be admitted; set at least 1")),
            (Some(rate), Some(burst)) => {
                Some(Bucket::new(Measure::Events, 1, u64::from(rate.get()), rate, burst, clock))
            }
        };
        let cells = |what, bytes: u64| {
            let cells = u32::try_from(bytes.div_ceil(BYTES_PER_CELL));
            cells.map_err(|_| error(what, bytes, "set at most 4 TiB, or a rate of 0 for no limit"))
        };
        let rate = NonZeroU32::new(cells("bytes_per_second", quota.bytes_per_second)?);
        let burst = NonZeroU32::new(cells("bytes_burst", quota.bytes_burst)?);
        let bytes = match (rate, burst) {
            (None, _) => None,
            (Some(_), None) => return Err(error("bytes_burst", 0, "nothing would ever be admitted; set at least 1")),
            (Some(rate), Some(burst)) => {
                Some(Bucket::new(Measure::Bytes, BYTES_PER_CELL, quota.bytes_per_second, rate, burst, clock))
            }
        };
        Ok(Self { events, bytes, last: clock.now() })
    }
}

impl<C: Clock> TenantBuckets<C> {
    fn charge(&mut self, events: u64, bytes: u64, now: C::Instant) -> Result<(), OverQuota> {
        self.last = now;
        let before = self.events.as_ref().map(Bucket::level);
        if let Some(bucket) = &self.events {
            bucket.charge(events)?;
        }
        let charged = self.bytes.as_ref().map_or(Ok(()), |bucket| bucket.charge(bytes));
        if let (Err(_), Some(bucket), Some(before)) = (charged, &self.events, before) {
            // The events were charged before the bytes were refused. A refused request must cost nothing, or a
            // client that retries would use up its quota with refusals.
            bucket.restore(before);
        }
        charged
    }

    /// Whether both buckets have refilled since they were last asked, like new ones.
    fn is_full(&self, now: C::Instant) -> bool {
        let idle: Duration = now.duration_since(self.last).into();
        let refill = |bucket: &Bucket<C>| bucket.refill;
        self.events.iter().chain(&self.bytes).map(refill).all(|refill| idle >= refill)
    }
}

/// One bucket: `governor`'s generic cell rate algorithm, with a level that can be put back.
struct Bucket<C: Clock> {
    measure: Measure,
    unit: u64,
    per_second: u64,
    burst: NonZeroU32,
    refill: Duration,
    level: Level,
    limiter: RateLimiter<NotKeyed, Level, C, NoOpMiddleware<C::Instant>>,
    clock: C,
}

impl<C: Clock + Clone> Bucket<C> {
    fn new(measure: Measure, unit: u64, per_second: u64, rate: NonZeroU32, burst: NonZeroU32, clock: &C) -> Self {
        let quota = Quota::per_second(rate).allow_burst(burst);
        let level = Level::default();
        let limiter = RateLimiter::new(quota, level.clone(), clock.clone());
        let refill = quota.burst_size_replenished_in();
        Self { measure, unit, per_second, burst, refill, level, limiter, clock: clock.clone() }
    }
}

impl<C: Clock> Bucket<C> {
    fn charge(&self, asked: u64) -> Result<(), OverQuota> {
        let Self { measure, unit, per_second, .. } = *self;
        let burst = u64::from(self.burst.get()) * unit;
        let too_large = OverQuota::TooLarge { measure, asked, burst };
        let cells = u32::try_from(asked.div_ceil(unit)).map_err(|_| too_large)?;
        let Some(cells) = NonZeroU32::new(cells) else { return Ok(()) };
        match self.limiter.check_n(cells) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(self.clock.now());
                Err(OverQuota::Later { measure, per_second, wait })
            }
            // `check_n` fails if the request is larger than the burst: no wait would make it fit.
            Err(_) => Err(too_large),
        }
    }

    fn level(&self) -> u64 {
        self.level.0.load(Ordering::Relaxed)
    }

    fn restore(&self, level: u64) {
        self.level.0.store(level, Ordering::Relaxed);
    }
}

/// State of a bucket: `governor`'s theoretical arrival time in nanoseconds, 0 before the first charge.
/// Only ever used under the lock of [`Quotas`]; atomic because the limiter wants a shared reference.
#[derive(Debug, Clone, Default)]
struct Level(Arc<AtomicU64>);

impl StateStore for Level {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let level = self.0.load(Ordering::Relaxed);
        let (outcome, next) = f((level > 0).then(|| Nanos::from(level)))?;
        self.0.store(next.as_u64(), Ordering::Relaxed);
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests;
