//! Every bound of the system in one place, unit last. Nothing here is configurable.

/// Largest event value that is decoded; a larger one becomes a dead letter.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// Largest clean or derived value. A token is longer than most values that it stands for, so that a
/// clean event can be larger than its source; one that would pass this bound is a dead letter.
pub const DERIVED_BYTES_MAX: usize = 4 << 20;
/// Most records in one atomic step.
pub const STEP_RECORDS_MAX: usize = 5_000;
/// Most bytes of source values in one atomic step.
pub const STEP_BYTES_MAX: usize = 1 << 20;
/// Most records that one input may derive (law "bounded").
pub const OUTPUTS_PER_EVENT_MAX: usize = 64;
/// Most bytes of one state entry.
pub const STATE_ENTRY_BYTES_MAX: usize = 256 << 10;
/// Deepest JSON nesting that the scanner follows; deeper text is redacted whole.
pub const JSON_DEPTH_MAX: usize = 64;
/// Earliest believable event time: 2000-01-01T00:00Z, milliseconds.
pub const EVENT_TIME_MS_MIN: i64 = 946_684_800_000;
/// Most that an event's clock may run ahead of the broker's, milliseconds (one day).
pub const CLOCK_AHEAD_MS_MAX: i64 = 86_400_000;
/// Newest envelope layout that is understood.
pub const SPEC_VERSION_MAX: i32 = 1;
/// Longest id or name in an event header, bytes.
pub const ID_BYTES_MAX: usize = 256;
/// The tenant of what belongs to no customer: ticks, keys, schemas, segments, logs.
pub const SYSTEM_TENANT: &str = "_system";
