//! The five ways to write the service.

use std::fmt;
use std::str::FromStr;

/// How the payment service is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Charges, then tells the ledger. Nothing else.
    Naive,
    /// The same, and for each key one request at a time, over all instances.
    Lock,
    /// The same as the first, behind `onlyonce`'s plain layer with its records in the process's memory.
    Memory,
    /// The same, with the records in Postgres.
    Layer,
    /// Charge, record and event in one transaction; the ledger has an inbox.
    SameTransaction,
}

impl Form {
    /// From the worst to the best.
    pub(crate) const ALL: [Self; 5] = [
        Self::Naive,
        Self::Lock,
        Self::Memory,
        Self::Layer,
        Self::SameTransaction,
    ];

    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Lock => "lock",
            Self::Memory => "memory",
            Self::Layer => "layer",
            Self::SameTransaction => "same-transaction",
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Form {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|form| form.name() == name);
        found.ok_or_else(|| {
            format!("{name:?} is none of naive, lock, memory, layer, same-transaction")
        })
    }
}
