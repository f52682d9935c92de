//! What the legacy service did, counted where it is done.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All charges, by order. The truth that the demo's table is made from.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<String, Vec<u64>>>);

/// The sums of a [`Ledger`]. Money is in cents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub(crate) struct Totals {
    /// Orders charged at least once.
    pub(crate) orders: u64,
    /// Charges made.
    pub(crate) charges: u64,
    /// Charges beyond the first of each order.
    pub(crate) duplicates: u64,
    /// What those cost the customers.
    pub(crate) charged_twice: u64,
}

impl Ledger {
    /// Takes the money. Returns how often this order has been charged now.
    pub(crate) fn charge(&self, order: &str, amount: u64) -> usize {
        let mut orders = self.orders();
        let charges = orders.entry(order.to_owned()).or_default();
        charges.push(amount);
        charges.len()
    }

    /// How often an order was charged.
    pub(crate) fn charges_of(&self, order: &str) -> usize {
        self.orders().get(order).map_or(0, Vec::len)
    }

    /// The sums over all orders.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for charges in self.orders().values() {
            totals.orders += 1;
            for (index, amount) in charges.iter().enumerate() {
                totals.charges += 1;
                if index > 0 {
                    totals.duplicates += 1;
                    totals.charged_twice += amount;
                }
            }
        }
        totals
    }

    fn orders(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_charge_of_an_order_is_no_duplicate() {
        let ledger = Ledger::default();
        assert_eq!(ledger.charge("a", 100), 1);
        assert_eq!(ledger.charge("b", 200), 1);
        assert_eq!(ledger.charge("a", 100), 2);
        assert_eq!(ledger.charges_of("a"), 2);
        let totals = Totals {
            orders: 2,
            charges: 3,
            duplicates: 1,
            charged_twice: 100,
        };
        assert_eq!(ledger.totals(), totals);
    }
}
