//! What goes wrong, and when: decided by a seed, so that each run of the demo meets the same accidents.

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives.
    Arrives,
    /// The work is done and the connection closed without an answer.
    Lost,
    /// It comes later than clients wait.
    Late,
}

/// How many in a hundred are lost and late.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Odds {
    /// Another seed, other accidents.
    pub(crate) seed: u64,
    /// Of a hundred answers, so many are lost.
    pub(crate) lost: u64,
    /// Of a hundred answers, so many are late.
    pub(crate) late: u64,
}

impl Odds {
    /// No accidents.
    pub(crate) const NONE: Self = Self {
        seed: 0,
        lost: 0,
        late: 0,
    };

    /// The fate of the `nth` answer about `order`.
    pub(crate) fn fate(&self, order: &str, nth: u32) -> Fate {
        let roll = scramble(self.seed, order, nth) % 100;
        if roll < self.lost {
            Fate::Lost
        } else if roll < self.lost + self.late {
            Fate::Late
        } else {
            Fate::Arrives
        }
    }
}

/// FNV-1a over the text, then the finishing steps of splitmix64: evenly spread, and nothing more.
fn scramble(seed: u64, text: &str, nth: u32) -> u64 {
    let bytes = text.bytes().chain(nth.to_le_bytes());
    let mut x = bytes.fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_meets_the_same_accidents_about_as_often_as_asked() {
        let odds = Odds {
            seed: 7,
            lost: 10,
            late: 5,
        };
        let fates = |odds: Odds| -> Vec<_> {
            (0..1000)
                .map(|n| odds.fate(&format!("order-{n:04}"), 1))
                .collect()
        };
        assert_eq!(fates(odds), fates(odds));
        assert_ne!(fates(odds), fates(Odds { seed: 8, ..odds }));
        let lost = fates(odds)
            .iter()
            .filter(|fate| **fate == Fate::Lost)
            .count();
        assert!((70..130).contains(&lost), "{lost}");
        assert!(fates(Odds::NONE).iter().all(|fate| *fate == Fate::Arrives));
    }
}
