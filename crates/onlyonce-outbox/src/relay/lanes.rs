//! The events in memory, in a lane for each key: one of a lane is under way at a time.

use std::collections::{HashMap, VecDeque};

use super::lease::Lease;
use crate::envelope::Envelope;

/// An event in memory.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) envelope: Envelope,
    pub(super) lease: Lease,
    pub(super) origin: Origin,
}

/// Where an event was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// In a page of new events.
    Page(u64),
    /// Among the parked ones, where it still is.
    Parked,
}

/// A topic and a key in it.
pub(super) type Key = (String, String);

/// All lanes. The first of each is ready or under way; the others wait.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    ready: VecDeque<Item>,
    waiting: HashMap<Key, VecDeque<Item>>,
    /// The numbers of parked events in memory, under way or not, and their shards.
    parked: HashMap<i64, i16>,
    count: usize,
}

impl Lanes {
    /// Takes an event in.
    pub(super) fn push(&mut self, item: Item) {
        self.count += 1;
        if item.origin == Origin::Parked {
            self.parked.insert(item.envelope.sequence, item.lease.shard);
        }
        let Some(key) = key(&item.envelope) else {
            self.ready.push_back(item);
            return;
        };
        match self.waiting.get_mut(&key) {
            Some(lane) => lane.push_back(item),
            None => {
                self.waiting.insert(key, VecDeque::new());
                self.ready.push_back(item);
            }
        }
    }

    /// Up to so many events, each the first of its lane.
    pub(super) fn take(&mut self, most: usize) -> Vec<Item> {
        let many = most.min(self.ready.len());
        self.ready.drain(..many).collect()
    }

    /// Puts events that were taken back, at the end: others get their turn.
    pub(super) fn put_back(&mut self, items: Vec<Item>) {
        self.ready.extend(items);
    }

    /// The first of a lane is done with; the next one is ready.
    pub(super) fn finish(&mut self, envelope: &Envelope) {
        self.count = self.count.saturating_sub(1);
        self.parked.remove(&envelope.sequence);
        let Some(key) = key(envelope) else {
            return;
        };
        let next = self.waiting.get_mut(&key).and_then(VecDeque::pop_front);
        match next {
            Some(next) => self.ready.push_back(next),
            None => drop(self.waiting.remove(&key)),
        }
    }

    /// The first of a lane has to wait for long, and with it all others, which leave.
    pub(super) fn close(&mut self, envelope: &Envelope) -> VecDeque<Item> {
        let lane = key(envelope).and_then(|key| self.waiting.remove(&key));
        let lane = lane.unwrap_or_default();
        self.count = self.count.saturating_sub(1 + lane.len());
        self.parked.remove(&envelope.sequence);
        for item in &lane {
            self.parked.remove(&item.envelope.sequence);
        }
        lane
    }

    /// Whether another event of its key is in memory.
    pub(super) fn has_more(&self, envelope: &Envelope) -> bool {
        key(envelope).is_some_and(|key| self.waiting.contains_key(&key))
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The numbers of the parked events in memory.
    pub(super) fn parked(&self) -> Vec<i64> {
        self.parked.keys().copied().collect()
    }

    /// Whether a parked event of a shard is in memory.
    pub(super) fn has_parked(&self, shard: i16) -> bool {
        self.parked.values().any(|of| *of == shard)
    }

    /// How many events are in memory, under way or not.
    pub(super) fn len(&self) -> usize {
        self.count
    }
}

pub(super) fn key(envelope: &Envelope) -> Option<Key> {
    let key = envelope.key.clone()?;
    Some((envelope.topic.clone(), key))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::event::Event;

    fn item(event: Event, number: i64) -> Item {
        Item {
            envelope: Envelope::of(&event, number, SystemTime::UNIX_EPOCH),
            lease: Lease { shard: 0, epoch: 1 },
            origin: Origin::Page(1),
        }
    }

    fn numbers(items: &[Item]) -> Vec<i64> {
        items.iter().map(|item| item.envelope.sequence).collect()
    }

    #[test]
    fn one_of_a_key_is_under_way_at_a_time() {
        let mut lanes = Lanes::default();
        for number in 1..=3 {
            lanes.push(item(Event::new("t", "a"), number));
        }
        lanes.push(item(Event::new("t", "b"), 4));
        lanes.push(item(Event::unordered("t"), 5));
        lanes.push(item(Event::unordered("t"), 6));
        let taken = lanes.take(10);
        assert_eq!(numbers(&taken), [1, 4, 5, 6]);
        assert!(lanes.take(10).is_empty());
        for done in &taken {
            lanes.finish(&done.envelope);
        }
        let taken = lanes.take(10);
        assert_eq!(numbers(&taken), [2]);
        assert_eq!(lanes.len(), 2);
        assert!(lanes.has_more(&taken[0].envelope));
        let behind = lanes.close(&taken[0].envelope);
        assert_eq!(numbers(&Vec::from(behind)), [3]);
        assert_eq!(lanes.len(), 0);
        lanes.push(item(Event::new("t", "a"), 7));
        assert_eq!(numbers(&lanes.take(1)), [7]);
    }

    #[test]
    fn what_was_put_back_lets_others_go_first() {
        let mut lanes = Lanes::default();
        for number in 1..=3 {
            lanes.push(item(Event::new("t", number), number));
        }
        let first = lanes.take(1);
        lanes.put_back(first);
        assert_eq!(numbers(&lanes.take(3)), [2, 3, 1]);
        assert_eq!(lanes.len(), 3);
    }
}
