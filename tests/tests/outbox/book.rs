//! What was committed and what was taken, held against each other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// An event: of which key, and its number among those of the key that were committed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) number: u32,
    pub(crate) id: String,
}

/// A receiver's book, in the order in which things came.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) taken: Vec<Entry>,
    /// Each event once.
    pub(crate) known: HashSet<Entry>,
}

impl Book {
    pub(crate) fn enter(&mut self, entry: Entry) {
        self.known.insert(entry.clone());
        self.taken.push(entry);
    }

    /// How many came that had come before.
    pub(crate) fn repetitions(&self) -> usize {
        self.taken.len() - self.known.len()
    }

    /// Lost 0, phantom 0, and each key's first deliveries in the order of the commits.
    #[track_caller]
    pub(crate) fn assert_complete(&self, committed: &[Entry]) {
        let committed: BTreeSet<_> = committed.iter().collect();
        let known: BTreeSet<_> = self.known.iter().collect();
        let lost: Vec<_> = committed.difference(&known).collect();
        let phantoms: Vec<_> = known.difference(&committed).collect();
        assert!(
            lost.is_empty() && phantoms.is_empty(),
            "lost: {lost:?}; never committed: {phantoms:?}"
        );
        self.assert_in_order();
    }

    /// What has come so far is in order, with nothing left out.
    #[track_caller]
    pub(crate) fn assert_in_order(&self) {
        for (key, numbers) in self.first_deliveries() {
            let expected = (1..).take(numbers.len());
            assert!(
                expected.eq(numbers.iter().copied()),
                "key {key}: {numbers:?}"
            );
        }
    }

    /// The numbers of each key in the order of their first delivery.
    pub(crate) fn first_deliveries(&self) -> BTreeMap<&str, Vec<u32>> {
        let mut seen = HashSet::new();
        let mut keys = BTreeMap::<_, Vec<_>>::new();
        for entry in &self.taken {
            if seen.insert(&entry.id) {
                keys.entry(&*entry.key).or_default().push(entry.number);
            }
        }
        keys
    }

    /// How often the event came that came most often.
    pub(crate) fn most_often(&self) -> usize {
        let mut times = HashMap::<_, usize>::new();
        for entry in &self.taken {
            *times.entry(&entry.id).or_default() += 1;
        }
        times.into_values().max().unwrap_or_default()
    }
}
