//! Which shard an event belongs to, and which lock orders its key.
//!
//! Both come from one hash of topic and key, computed here and not by the server: an event must find the
//! shard of its key again after any upgrade. Two keys with the same lock cost each other a moment, no more.

/// Into so many shards the events are divided, for ever: it is what relays share out among themselves.
pub const SHARDS: u16 = 64;

/// FNV-1a, finished by a multiplication that lets every bit of the text reach the low ones.
fn hash(parts: [&[u8]; 2]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for &byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// Where a key lives: what is ordered together is a topic's key, as in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: i16,
    /// The second half of the advisory lock's name; the first is the table.
    pub(crate) lock: i32,
}

impl Place {
    pub(crate) fn of_key(topic: &str, key: &str) -> Self {
        Self::of(hash([topic.as_bytes(), key.as_bytes()]))
    }

    /// An event without a key goes anywhere.
    pub(crate) fn of_event(id: uuid::Uuid) -> Self {
        Self::of(hash([id.as_bytes(), &[]]))
    }

    fn of(hash: u64) -> Self {
        let bytes = hash.to_be_bytes();
        let [a, b, c, d, .., last] = bytes;
        Self {
            shard: i16::from(last % 64),
            lock: i32::from_be_bytes([a, b, c, d]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These must never change: keys would change their shards, and events of before and after overtake
    /// each other.
    #[test]
    fn a_key_stays_where_it_was() {
        let place = Place::of_key("payments", "42");
        assert_eq!((place.shard, place.lock), (7, -873_560_709));
    }

    #[test]
    fn topic_and_key_are_kept_apart() {
        assert_ne!(Place::of_key("ab", "c"), Place::of_key("a", "bc"));
    }

    #[test]
    fn all_shards_are_used_about_equally() {
        let mut counts = [0_u32; SHARDS as usize];
        for key in 0..64_000 {
            let shard = Place::of_key("payments", &key.to_string()).shard;
            counts[usize::try_from(shard).unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1_200).contains(count)),
            "{counts:?}"
        );
    }
}
