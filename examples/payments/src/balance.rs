//! The balance sheet: what clients asked for, what was charged, and what the ledger knows.

use std::collections::HashMap;
use std::fmt;

use sqlx::{PgPool, Row};

use crate::clients::{Operation, Told};
use crate::form::Form;

/// How a form's books stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Balance {
    form: Form,
    /// Operations, each with a key of its own.
    keys: u64,
    charges: u64,
    /// Charges beyond the first of a key.
    charged_again: u64,
    /// Keys whose client was told that it paid, or another number than the payment's, without such a payment.
    told_wrong: u64,
    /// Keys of which nobody could say whether they were charged.
    unknown: u64,
    /// Keys that were refused.
    refused: u64,
    entries: u64,
    /// Charges that the ledger does not know.
    missing: u64,
    /// Entries beyond the first of a charge, or for no charge.
    surplus: u64,
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
        let rows = sqlx::query("select id, key from payments order by id")
            .fetch_all(pool)
            .await?;
        let mut payments: HashMap<String, Vec<i64>> = HashMap::new();
        for row in &rows {
            payments
                .entry(row.try_get("key")?)
                .or_default()
                .push(row.try_get("id")?);
        }
        let entries: Vec<i64> = sqlx::query_scalar("select payment from ledger_entries")
            .fetch_all(pool)
            .await?;
        let mut entered: HashMap<i64, u64> = HashMap::new();
        for payment in &entries {
            *entered.entry(*payment).or_default() += 1;
        }
        let ids: Vec<i64> = payments.values().flatten().copied().collect();
        let known = ids.iter().filter(|id| entered.contains_key(id)).count();
        let is_wrong = |operation: &&Operation| match operation.told {
            Told::Charged(id) => !payments
                .get(&operation.key)
                .is_some_and(|ids| ids.contains(&id)),
            Told::Unknown | Told::Refused(_) => false,
        };
        let told =
            |what: fn(&Told) -> bool| count(operations.iter().filter(|o| what(&o.told)).count());
        Ok(Self {
            form,
            keys: count(operations.len()),
            charges: count(ids.len()),
            charged_again: payments.values().map(|ids| count(ids.len() - 1)).sum(),
            told_wrong: count(operations.iter().filter(is_wrong).count()),
            unknown: told(|told| matches!(told, Told::Unknown)),
            refused: told(|told| matches!(told, Told::Refused(_))),
            entries: count(entries.len()),
            missing: count(ids.len() - known),
            surplus: count(entries.len() - known),
        })
    }

    /// How many things are wrong.
    pub(crate) fn differences(&self) -> u64 {
        self.charged_again + self.told_wrong + self.missing + self.surplus
    }

    /// Whether charges, ledger entries and keys are the same number, one each, and everybody was told so.
    pub(crate) fn is_zero(&self) -> bool {
        let same = self.keys == self.charges && self.charges == self.entries;
        same && self.differences() == 0 && self.unknown == 0 && self.refused == 0
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Balances side by side.
#[derive(Debug)]
pub(crate) struct Sheet<'a>(pub(crate) &'a [Balance]);

type Line = (&'static str, fn(&Balance) -> u64);

const LINES: [Line; 10] = [
    ("operations, each with its key", |b| b.keys),
    ("charges", |b| b.charges),
    ("  again for the same key", |b| b.charged_again),
    ("  of which a client was told wrong", |b| b.told_wrong),
    ("  of which nobody can say", |b| b.unknown),
    ("  refused", |b| b.refused),
    ("ledger entries", |b| b.entries),
    ("  charges that it does not know", |b| b.missing),
    ("  entries too many", |b| b.surplus),
    ("differences", Balance::differences),
];

impl fmt::Display for Sheet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:36}", "")?;
        for balance in self.0 {
            write!(f, "{:>18}", balance.form.name())?;
        }
        writeln!(f)?;
        for (name, number) in LINES {
            write!(f, "{name:36}")?;
            for balance in self.0 {
                write!(f, "{:>18}", number(balance))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
