//! How far a shard has been read, and how far it is done.
//!
//! A number is not enough: transactions commit in another order than their events are numbered, and what is
//! above the last number is not all that is new. A position is a snapshot, "all that is visible in it is
//! done", and, in the middle of a batch, a second one and a number: of what is visible in the second and not in
//! the first, all up to this number.

use std::collections::VecDeque;
use std::sync::Arc;

/// A snapshot of the database, and a number below which little can be new after it.
///
/// A snapshot's upper end is the last transaction that had ended, so transactions above it may have been at
/// work for long. But not those above one of our own that had ended by then: they got their ids after it did,
/// and their numbers after their ids. So the floor is where the sequence was before a write of ours that was
/// committed before the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// In its text form.
    pub(super) text: Arc<str>,
    /// Transactions above the snapshot's upper end have numbers above this one.
    pub(super) floor: i64,
}

impl Snapshot {
    /// How many transactions were open. Its text is `xmin:xmax:xip,xip,…`.
    pub(super) fn transactions(&self) -> usize {
        let open = self.text.rsplit(':').next().unwrap_or_default();
        open.split(',').filter(|xid| !xid.is_empty()).count()
    }
}

/// A place in a shard's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) done: Snapshot,
    pub(super) open: Option<Snapshot>,
    pub(super) last: i64,
}

impl Position {
    /// After a whole batch.
    pub(super) fn after(open: Snapshot) -> Self {
        Self {
            done: open,
            open: None,
            last: 0,
        }
    }

    /// Inside a batch, after the event of this number.
    pub(super) fn within(&self, open: Snapshot, last: i64) -> Self {
        Self {
            done: self.done.clone(),
            open: Some(open),
            last,
        }
    }
}

/// How far a shard is: reading runs ahead, and what is done follows when the last event of a page is.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) read: Position,
    pub(super) done: Position,
    pages: VecDeque<Page>,
}

#[derive(Debug)]
struct Page {
    number: u64,
    after: Position,
    left: usize,
}

impl Progress {
    pub(super) fn at(position: Position) -> Self {
        Self {
            read: position.clone(),
            done: position,
            pages: VecDeque::new(),
        }
    }

    /// A page was read with so many of the shard's events. Whether that moved what is done.
    pub(super) fn page(&mut self, number: u64, after: Position, events: usize) {
        self.read = after.clone();
        if events == 0 && self.pages.is_empty() {
            self.done = after;
        } else {
            self.pages.push_back(Page {
                number,
                after,
                left: events,
            });
        }
    }

    /// One event of a page was delivered or parked.
    pub(super) fn finish(&mut self, number: u64) {
        if let Some(page) = self.pages.iter_mut().find(|page| page.number == number) {
            page.left = page.left.saturating_sub(1);
        }
        while let Some(page) = self.pages.front()
            && page.left == 0
        {
            self.done = page.after.clone();
            self.pages.pop_front();
        }
    }

    /// Whether all that was read is done.
    pub(super) fn is_level(&self) -> bool {
        self.pages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        Snapshot {
            text: text.into(),
            floor: 0,
        }
    }

    #[test]
    fn open_transactions_are_counted() {
        let count = |text| snapshot(text).transactions();
        assert_eq!(
            [count("3:3:"), count("3:9:3"), count("3:9:3,5,8")],
            [0, 1, 3]
        );
    }

    #[test]
    fn what_is_done_waits_for_the_oldest_page() {
        let start = Position::after(snapshot("3:3:"));
        let mut progress = Progress::at(start.clone());
        let one = start.within(snapshot("9:9:"), 5);
        let two = Position::after(snapshot("9:9:"));
        progress.page(1, one, 2);
        progress.page(2, two.clone(), 0);
        progress.finish(1);
        assert_eq!(progress.done, start);
        assert_eq!(progress.read, two);
        progress.finish(1);
        assert_eq!(progress.done, two);
        assert!(progress.is_level());
        let three = Position::after(snapshot("12:12:"));
        progress.page(3, three.clone(), 0);
        assert_eq!(progress.done, three);
    }
}
