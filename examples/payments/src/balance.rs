//! The balance sheet: what clients asked for and were told, what was charged, and what the ledger knows.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use sqlx::{PgPool, Row};

use crate::clients::{Operation, Told};
use crate::form::Form;

/// What is in the database.
#[derive(Debug, Clone, Default)]
struct Books {
    /// The payments of each key.
    payments: HashMap<String, Vec<i64>>,
    /// How often the ledger has each payment.
    entries: HashMap<i64, u64>,
}

/// How a form's books stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Balance {
    form: Form,
    /// Operations, each with a key of its own.
    keys: u64,
    /// Keys whose client was told that it paid.
    acknowledged: u64,
    /// Those of which there is no such payment: it was lost.
    lost: u64,
    /// Keys whose client was told first one thing, and then another.
    contradicted: u64,
    /// Keys of which nobody could say whether they were charged.
    unknown: u64,
    /// Keys that were refused.
    refused: u64,
    charges: u64,
    /// Charges beyond the first of a key.
    charged_again: u64,
    entries: u64,
    /// Charges that the ledger does not know.
    missing: u64,
    /// Entries beyond the first of a charge, or for no charge.
    surplus: u64,
}

impl Books {
    async fn read(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let mut books = Self::default();
        let rows = sqlx::query("select id, key from payments order by id")
            .fetch_all(pool)
            .await?;
        for row in &rows {
            let ids = books.payments.entry(row.try_get("key")?).or_default();
            ids.push(row.try_get("id")?);
        }
        let entries: Vec<i64> = sqlx::query_scalar("select payment from ledger_entries")
            .fetch_all(pool)
            .await?;
        for payment in entries {
            *books.entries.entry(payment).or_default() += 1;
        }
        Ok(books)
    }

    fn has(&self, key: &str, payment: i64) -> bool {
        let ids = self.payments.get(key);
        ids.is_some_and(|ids| ids.contains(&payment))
    }
}

impl Operation {
    fn charged(&self) -> BTreeSet<i64> {
        let charged = self.told.iter().filter_map(|told| match told {
            Told::Charged(id) => Some(*id),
            Told::Unknown | Told::Refused(_) => None,
        });
        charged.collect()
    }

    fn is_refused(&self) -> bool {
        let mut told = self.told.iter();
        told.any(|told| matches!(told, Told::Refused(_)))
    }
}

impl Balance {
    /// Draws it up.
    ///
    /// # Errors
    /// Where the database fails.
    pub(crate) async fn draw_up(
        form: Form,
        pool: &PgPool,
        operations: &[Operation],
    ) -> Result<Self, sqlx::Error> {
        Ok(Self::of(form, &Books::read(pool).await?, operations))
    }

    fn of(form: Form, books: &Books, operations: &[Operation]) -> Self {
        let those = |is: &dyn Fn(&Operation) -> bool| {
            count(operations.iter().filter(|operation| is(operation)).count())
        };
        let charges: Vec<i64> = books.payments.values().flatten().copied().collect();
        let known = charges.iter().filter(|id| books.entries.contains_key(id));
        let (known, entries) = (count(known.count()), books.entries.values().sum());
        Self {
            form,
            keys: count(operations.len()),
            acknowledged: those(&|operation| !operation.charged().is_empty()),
            lost: those(&|operation| {
                let mut ids = operation.charged().into_iter();
                ids.any(|id| !books.has(&operation.key, id))
            }),
            contradicted: those(&|operation| {
                operation.charged().len() + usize::from(operation.is_refused()) > 1
            }),
            unknown: those(&|operation| operation.charged().is_empty() && !operation.is_refused()),
            refused: those(&Operation::is_refused),
            charges: count(charges.len()),
            charged_again: count(charges.len() - books.payments.len()),
            entries,
            missing: count(charges.len()) - known,
            surplus: entries - known,
        }
    }

    /// How many things are wrong.
    pub(crate) fn differences(&self) -> u64 {
        self.lost + self.contradicted + self.charged_again + self.missing + self.surplus
    }

    /// Whether keys, charges, and ledger entries are the same number, one each, and everybody was told so.
    pub(crate) fn is_zero(&self) -> bool {
        let all = [self.acknowledged, self.charges, self.entries];
        all.iter().all(|number| *number == self.keys) && self.differences() == 0
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Balances side by side.
#[derive(Debug)]
pub(crate) struct Sheet<'a>(pub(crate) &'a [Balance]);

type Count = fn(&Balance) -> u64;
type Line = (&'static str, Count);

const LINES: [Line; 12] = [
    ("operations, each with its key", |b| b.keys),
    ("  told that they paid", |b| b.acknowledged),
    ("    and did not: lost", |b| b.lost),
    ("  told two different things", |b| b.contradicted),
    ("  of which nobody can say", |b| b.unknown),
    ("  refused", |b| b.refused),
    ("charges", |b| b.charges),
    ("  again for the same key", |b| b.charged_again),
    ("ledger entries", |b| b.entries),
    ("  charges that it does not know", |b| b.missing),
    ("  entries too many", |b| b.surplus),
    ("differences", Balance::differences),
];

impl fmt::Display for Sheet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |balance: &Balance| balance.form.name().len().max(6) + 3;
        write!(f, "{:33}", "")?;
        for balance in self.0 {
            write!(f, "{:>1$}", balance.form.name(), width(balance))?;
        }
        writeln!(f)?;
        for (name, number) in LINES {
            write!(f, "{name:33}")?;
            for balance in self.0 {
                write!(f, "{:>1$}", number(balance), width(balance))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three keys, each charged, entered and told once.
    fn right() -> (Books, Vec<Operation>) {
        let keys = ["a", "b", "c"].into_iter().zip(1..);
        let operations = keys.clone().map(|(key, id)| Operation {
            key: key.to_owned(),
            told: vec![Told::Charged(id)],
        });
        let books = Books {
            payments: keys
                .clone()
                .map(|(key, id)| (key.to_owned(), vec![id]))
                .collect(),
            entries: keys.map(|(_, id)| (id, 1)).collect(),
        };
        (books, operations.collect())
    }

    fn balance(change: impl FnOnce(&mut Books, &mut Vec<Operation>)) -> Balance {
        let (mut books, mut operations) = right();
        change(&mut books, &mut operations);
        Balance::of(Form::SameTransaction, &books, &operations)
    }

    #[test]
    fn books_that_agree_balance_to_zero() {
        assert!(balance(|_, _| {}).is_zero());
        let twice = balance(|_, operations| operations[0].told.push(Told::Charged(1)));
        assert!(twice.is_zero(), "the same thing twice is no other thing");
    }

    #[test]
    fn each_fault_is_a_difference_of_its_own() {
        type Change = fn(&mut Books, &mut Vec<Operation>);
        type Fault = (&'static str, Change, Count);
        let faults: [Fault; 6] = [
            (
                "charged again",
                |books, _| {
                    books.payments.get_mut("a").unwrap().push(4);
                    books.entries.insert(4, 1);
                },
                |b| b.charged_again,
            ),
            (
                "acknowledged and not there, nor in the ledger",
                |books, _| {
                    books.payments.remove("a");
                    books.entries.remove(&1);
                },
                |b| b.lost,
            ),
            (
                "told two things",
                |_, operations| {
                    operations[0]
                        .told
                        .push(Told::Refused(409.try_into().unwrap()))
                },
                |b| b.contradicted,
            ),
            (
                "not in the ledger",
                |books, _| books.entries.retain(|id, _| *id != 1),
                |b| b.missing,
            ),
            (
                "twice in the ledger",
                |books, _| books.entries.extend([(1, 2)]),
                |b| b.surplus,
            ),
            (
                "in the ledger, and no charge",
                |books, _| books.entries.extend([(7, 1)]),
                |b| b.surplus,
            ),
        ];
        for (name, change, counted) in faults {
            let wrong = balance(change);
            assert_eq!((counted(&wrong), wrong.differences()), (1, 1), "{name}");
            assert!(!wrong.is_zero(), "{name}");
        }
    }

    #[test]
    fn what_nobody_can_say_is_no_difference_and_no_balance() {
        let unsaid = balance(|_, operations| operations[0].told = vec![Told::Unknown]);
        assert_eq!((unsaid.unknown, unsaid.differences()), (1, 0));
        assert!(!unsaid.is_zero());
    }
}
