//! Bytes in memory, counted over all requests against one limit.
//!
//! A limit for each body bounds nothing where clients are many: a thousand uploads of 8 MiB are 8 GiB. So
//! bodies also draw on a budget that all share; what does not fit is refused, or not kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A limit on bytes that all requests share.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Account>);

#[derive(Debug)]
struct Account {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Account {
            used: AtomicUsize::new(0),
            limit,
        }))
    }

    /// What there is for all together.
    pub(crate) fn limit(&self) -> usize {
        self.0.limit
    }

    /// A reservation of nothing, which can grow.
    pub(crate) fn reservation(&self) -> Reservation {
        Reservation {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

/// Bytes taken from a budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Budget,
    bytes: usize,
}

impl Reservation {
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more; false, and nothing taken, where the budget has no more to give.
    pub(crate) fn grow(&mut self, by: usize) -> bool {
        let account = &self.budget.0;
        let fits = |used: usize| used.checked_add(by).filter(|sum| *sum <= account.limit);
        let taken = account
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        if taken.is_ok() {
            self.bytes += by;
        }
        taken.is_ok()
    }

    /// Gives everything back early.
    pub(crate) fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_comes_back() {
        let budget = Budget::new(10);
        let mut first = budget.reservation();
        assert!(first.grow(6) && !first.grow(5) && first.grow(4));
        let mut second = budget.reservation();
        assert!(!second.grow(1) && !second.grow(usize::MAX));
        drop(first);
        assert!(second.grow(10));
        second.give_back();
        assert!(budget.reservation().grow(10));
    }
}
