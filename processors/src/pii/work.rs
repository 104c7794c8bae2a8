//! Bytes looked at by a scan: counted where they are looked at, and bounded.
//!
//! Every loop over bytes of a text is charged; a look at a fixed few bytes is not, as each belongs to
//! an anchor that a loop has found. Scanners are linear by construction, which tests hold by this
//! count. The bound is what remains when one of them is not: a text that exceeds it is given up as
//! one finding. It measures no time, so that the same text has the same outcome everywhere.

use std::cell::Cell;
use std::ops::Deref;

/// Looks per byte of a text that a scan may take. Tests hold every text that is known to half of it, and
/// to seven eighths where a session has revealed names, each of which costs look-ups.
pub const STEPS_PER_BYTE_MAX: u64 = 256;

/// Looks that any text may take, however short: a name that a session knows is hashed, which costs
/// more than the bytes that it has.
const STEPS_MIN: u64 = 4096;

/// What is left of the looks that a text, or all texts of an event, may take.
#[derive(Debug)]
pub(super) struct Work {
    // Counted down: one subtraction per loop and one comparison with zero per anchor.
    left: Cell<u64>,
}

impl Work {
    /// The work of no text yet; [`Work::allow`] raises it.
    pub(super) fn new() -> Self {
        Self { left: Cell::new(STEPS_MIN) }
    }

    /// Work that only counts.
    pub(super) fn unbounded() -> Self {
        Self { left: Cell::new(u64::MAX) }
    }

    /// Allows what a text of so many bytes may take.
    pub(super) fn allow(&self, bytes: usize) {
        self.left.set(self.left.get().saturating_add(STEPS_PER_BYTE_MAX * bytes as u64));
    }

    /// Counts `steps` looks.
    pub(super) fn charge(&self, steps: usize) {
        self.left.set(self.left.get().saturating_sub(steps as u64));
    }

    /// Whether nothing is left.
    pub(super) fn is_spent(&self) -> bool {
        self.left.get() == 0
    }

    /// Takes all that is left: what follows is given up too.
    #[cfg(test)]
    pub(super) fn spend(&self) {
        self.left.set(0);
    }

    /// Looks so far, of work that only counts.
    pub(super) fn steps(&self) -> u64 {
        u64::MAX - self.left.get()
    }
}

/// A run of bytes of one class: all of `first..next`, and not the byte at `next`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Run {
    pub(super) first: usize,
    pub(super) next: usize,
    /// Where the run ends without the punctuation at its end.
    pub(super) trimmed: usize,
}

/// A run that was walked, for those who stand inside it later.
///
/// Without it, `a://a://…` is walked to its end from every colon: n²/8 looks, 10¹¹ for a megabyte.
#[derive(Debug, Default)]
pub(super) struct Walked(Cell<Run>);

/// A text under scan: its bytes, what looking at them has cost, and the runs that were walked.
#[derive(Debug)]
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    pub(super) work: &'a Work,
    pub(super) urls: Walked,
    pub(super) passwords: Walked,
    pub(super) values: Walked,
    pub(super) dotted: Walked,
    pub(super) names: Walked,
    /// Where the run of `values` has what makes a key of it.
    pub(super) marks: Cell<Marks>,
    /// The end line that the last private key was found to have.
    pub(super) key_end: Cell<Option<KeyEnd>>,
}

/// The end line of a private key that was found last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyEnd {
    /// Where it begins; `None` if there is none up to the end of the text.
    pub(super) line: Option<usize>,
    /// Behind it; `None` if it does not end.
    pub(super) next: Option<usize>,
}

/// Where a run of value bytes has the last of what makes a key, so that each of the values that end
/// with the run is judged without walking it: `key=key=key=…` holds one for every four bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Marks {
    pub(super) first: usize,
    pub(super) next: usize,
    /// Behind the last digit, small and capital letter; 0 where there is none.
    pub(super) digit: usize,
    pub(super) lower: usize,
    pub(super) upper: usize,
    /// Behind the fifth full stop or slash from the end.
    pub(super) named: usize,
}

impl Deref for Text<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8], work: &'a Work) -> Self {
        Self {
            bytes,
            work,
            urls: Walked::default(),
            passwords: Walked::default(),
            values: Walked::default(),
            dotted: Walked::default(),
            names: Walked::default(),
            marks: Cell::default(),
            key_end: Cell::default(),
        }
    }

    /// The run that `at` stands in, walked by `walk` to its end unless it is the one walked last.
    ///
    /// `walk` must end at the same place from anywhere inside the run. Punctuation of `trim` at its
    /// end is walked once too: a megabyte of full stops behind many URLs would be trimmed for each.
    pub(super) fn run(&self, walked: &Walked, at: usize, trim: &[u8], walk: impl FnOnce() -> usize) -> Run {
        let known = walked.0.get();
        if known.first <= at && at < known.next {
            return Run { trimmed: known.trimmed.max(at), ..known };
        }
        let next = walk();
        let cut = self.bytes[at..next].iter().rev().take_while(|b| trim.contains(b)).count();
        self.work.charge(cut);
        let run = Run { first: at, next, trimmed: next - cut };
        walked.0.set(run);
        run
    }
}

#[cfg(test)]
mod tests;
