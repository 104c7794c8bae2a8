//! Which event has a sequence number: distinguishes a redelivery, a fork and an equivocation.
//!
//! It remembers the last [`PAGES_MAX`] pages of [`PAGE_SLOTS`] numbers; what is older is forgotten,
//! and the caller says so instead of guessing.

use schemas::id::{Sha256, Uuid};

use crate::steps::walked;

/// Numbers per page; a page is one state entry of at most 1.6 KiB.
pub(super) const PAGE_SLOTS: i64 = 64;
/// Most pages of one session: identities of the newest 1 024 numbers.
pub(super) const PAGES_MAX: usize = 16;

/// Bytes of one slot in a state entry: offset in the page, id, digest.
const SLOT_BYTES: usize = 1 + 8 + 16;

/// The part of an event id and of a digest that is kept: a chance collision needs 2^64 events of
/// one session, and a made one can only swap "forked" for "equivocation".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    id: u64,
    digest: u128,
}

impl Identity {
    /// Of an event with that id and exact bytes.
    pub(super) fn of(id: Uuid, digest: &Sha256) -> Self {
        let [.., a, b, c, d, e, f, g, h] = id.0;
        let mut half = [0; 16];
        // The last eight bytes of the id: in a version 7 UUID the first ones are the time, which neighbours share.
        half.copy_from_slice(&digest.0[..16]);
        Self { id: u64::from_be_bytes([a, b, c, d, e, f, g, h]), digest: u128::from_be_bytes(half) }
    }
}

/// What is known about a number that came again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Same id, same bytes.
    Duplicate,
    /// Same id, other bytes.
    Equivocation,
    /// Another id.
    Forked,
    /// No longer known.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Page {
    number: i64,
    offsets: Vec<u8>,
    ids: Vec<u64>,
    digests: Vec<u128>,
}

/// Identities of the newest numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// By ascending number.
    pages: Vec<Page>,
    /// Numbers of changed pages, in order of change; may repeat.
    changed: Vec<i64>,
}

impl Seen {
    /// What the event at `seq` is, which was seen before.
    pub(super) fn repeat(&self, seq: i64, identity: Identity) -> Repeat {
        let Some(first) = self.find(seq) else { return Repeat::Unknown };
        match (first.id == identity.id, first.digest == identity.digest) {
            (true, true) => Repeat::Duplicate,
            (true, false) => Repeat::Equivocation,
            // Another id at the same number is a fork whatever its bytes: the writer used the number twice.
            (false, _) => Repeat::Forked,
        }
    }

    /// What the event is, if its id is known at any number: [`Repeat::Duplicate`] or
    /// [`Repeat::Equivocation`].
    pub(super) fn known(&self, identity: Identity) -> Option<Repeat> {
        let mut found = None;
        // All pages, because the id may come at any number: at most 1 024 comparisons, and only for a number that is
        // new.
        for page in &self.pages {
            walked(page.ids.len());
            for (slot, _) in page.ids.iter().enumerate().filter(|(_, id)| **id == identity.id) {
                if page.digests[slot] == identity.digest {
                    return Some(Repeat::Duplicate);
                }
                found = Some(Repeat::Equivocation);
            }
        }
        found
    }

    /// Whether an event with that id is known, at any number.
    pub(super) fn has_id(&self, identity: Identity) -> bool {
        self.pages.iter().any(|page| {
            walked(page.ids.len());
            page.ids.contains(&identity.id)
        })
    }

    fn find(&self, seq: i64) -> Option<Identity> {
        let (number, offset) = place(seq);
        let page = &self.pages[self.pages.binary_search_by_key(&number, |page| page.number).ok()?];
        let slot = memchr::memchr(offset, &page.offsets)?;
        Some(Identity { id: page.ids[slot], digest: page.digests[slot] })
    }

    /// Remembers the event at `seq`; forgets the lowest page where there are too many.
    pub(super) fn insert(&mut self, seq: i64, identity: Identity) {
        let (number, offset) = place(seq);
        let index = match self.pages.last() {
            // Events mostly arrive in order, so that the last page is looked at before a search.
            Some(last) if last.number == number => self.pages.len() - 1,
            _ => self.pages.binary_search_by_key(&number, |page| page.number).unwrap_or_else(|index| {
                self.pages.insert(index, Page { number, ..Page::default() });
                index
            }),
        };
        let page = &mut self.pages[index];
        page.offsets.push(offset);
        page.ids.push(identity.id);
        page.digests.push(identity.digest);
        // Spares a push per event while one page fills; `take_changes` removes repeats in any case.
        if self.changed.last() != Some(&number) {
            self.changed.push(number);
        }
        if self.pages.len() > PAGES_MAX {
            // Its number goes among the changes, so that its entry is deleted from the changelog.
            let forgotten = self.pages.remove(0);
            self.changed.push(forgotten.number);
        }
    }

    /// Numbers of pages that changed since the last call, with their bytes; `None` is forgotten.
    pub(super) fn take_changes(&mut self) -> Vec<(i64, Option<Vec<u8>>)> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        changed.into_iter().map(|number| (number, self.bytes(number))).collect()
    }

    fn bytes(&self, number: i64) -> Option<Vec<u8>> {
        let page = &self.pages[self.pages.binary_search_by_key(&number, |page| page.number).ok()?];
        let mut bytes = Vec::with_capacity(page.offsets.len() * SLOT_BYTES);
        for ((offset, id), digest) in page.offsets.iter().zip(&page.ids).zip(&page.digests) {
            bytes.push(*offset);
            bytes.extend(id.to_be_bytes());
            bytes.extend(digest.to_be_bytes());
        }
        Some(bytes)
    }

    /// Whether nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Page numbers, for deleting all of them.
    pub(super) fn numbers(&self) -> impl Iterator<Item = i64> {
        self.pages.iter().map(|page| page.number).chain(self.changed.iter().copied())
    }

    /// Loads one page; `None` where the bytes are none.
    pub(super) fn load(&mut self, number: i64, bytes: &[u8]) -> Option<()> {
        let mut page = Page { number, ..Page::default() };
        for slot in bytes.chunks(SLOT_BYTES) {
            let (offset, rest) = slot.split_first()?;
            let (id, digest) = rest.split_at_checked(8)?;
            page.offsets.push(*offset);
            page.ids.push(u64::from_be_bytes(id.try_into().ok()?));
            page.digests.push(u128::from_be_bytes(digest.try_into().ok()?));
        }
        match self.pages.binary_search_by_key(&number, |page| page.number) {
            Ok(index) => self.pages[index] = page,
            Err(index) => self.pages.insert(index, page),
        }
        Some(())
    }
}

/// Page number and offset in the page.
fn place(seq: i64) -> (i64, u8) {
    (seq.div_euclid(PAGE_SLOTS), seq.rem_euclid(PAGE_SLOTS) as u8)
}
