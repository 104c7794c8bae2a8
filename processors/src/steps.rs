//! What a stage does for an event beyond a fixed amount: entries of its state that are walked. Counted in
//! tests, nothing at all otherwise.
//!
//! Every stage keeps bounded lists and looks through some of them. That is cheap as long as each is short;
//! a list that grows with the log and is walked for every event is quadratic, and shows here. The scanner
//! of `pii` counts by itself (`pii::work`), since its count is a bound in operation too.

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts a walk over so many entries.
#[inline(always)]
pub(crate) fn walked(_entries: usize) {
    #[cfg(test)]
    STEPS.with(|steps| steps.set(steps.get() + _entries as u64));
}

/// Entries that `act` walks.
#[cfg(test)]
fn steps_of<T>(act: impl FnOnce() -> T) -> u64 {
    let before = STEPS.with(std::cell::Cell::get);
    let _outcome = act();
    STEPS.with(std::cell::Cell::get) - before
}

#[cfg(test)]
mod tests;
