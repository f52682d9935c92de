//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

use lexopt::prelude::*;

use crate::form::Form;
use crate::run::Plan;

pub(crate) const USAGE: &str = "\
payments [--seconds N] [--clients N] [--form FORM]... [--database URL] [--no-crashes]
    Runs a payment service in its five forms (naive, lock, memory, layer,
    same-transaction), one after the other, with clients that repeat what is not
    answered; kills its parts at random moments, the database too; and prints the
    balance of the books.
    Exits with 1 unless the form same-transaction balances to zero difference.
    --seconds   load for each form [5]      --clients   at the same time [16]
    --database  a Postgres that is not killed, where schemas payments_… stay behind
                [a throw-away one that is killed, and deleted in the end]

What it does by itself, in parts:
payments tables --form FORM --database URL      prints the URL for the others
payments service --form FORM --listen ADDR --ledger ADDR --database URL
payments ledger --listen ADDR --database URL
payments relay --ledger ADDR --database URL
";

/// What to do.
#[derive(Debug)]
pub(crate) enum Task {
    Help,
    Run(Vec<Form>, Plan),
    Tables {
        form: Form,
        database: String,
    },
    Service {
        form: Form,
        listen: SocketAddr,
        ledger: SocketAddr,
        database: String,
    },
    Ledger {
        listen: SocketAddr,
        database: String,
    },
    Relay {
        ledger: SocketAddr,
        database: String,
    },
}

#[derive(Default)]
struct Given {
    part: Option<String>,
    forms: Vec<Form>,
    seconds: Option<u64>,
    clients: Option<usize>,
    database: Option<String>,
    listen: Option<SocketAddr>,
    ledger: Option<SocketAddr>,
    no_crashes: bool,
}

/// Reads it.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse() -> Result<Task, lexopt::Error> {
    let mut given = Given::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Task::Help),
            Long("form") => given.forms.push(parser.value()?.parse()?),
            Long("seconds") => given.seconds = Some(parser.value()?.parse()?),
            Long("clients") => given.clients = Some(parser.value()?.parse()?),
            Long("database") => given.database = Some(parser.value()?.string()?),
            Long("listen") => given.listen = Some(parser.value()?.parse()?),
            Long("ledger") => given.ledger = Some(parser.value()?.parse()?),
            Long("no-crashes") => given.no_crashes = true,
            Value(part) if given.part.is_none() => given.part = Some(part.string()?),
            other => return Err(other.unexpected()),
        }
    }
    given.task()
}

impl Given {
    fn task(self) -> Result<Task, lexopt::Error> {
        let Some(part) = &self.part else {
            let forms = if self.forms.is_empty() {
                Form::ALL.to_vec()
            } else {
                self.forms
            };
            let plan = Plan {
                load: Duration::from_secs(self.seconds.unwrap_or(5)),
                clients: self.clients.unwrap_or(16).max(1),
                crashes: !self.no_crashes,
                database: self.database,
            };
            return Ok(Task::Run(forms, plan));
        };
        let missing = |name: &str| format!("{part} needs {name}");
        let database = self.database.ok_or_else(|| missing("--database"))?;
        let listen = self.listen.ok_or_else(|| missing("--listen"));
        let ledger = self.ledger.ok_or_else(|| missing("--ledger"));
        let form = self.forms.first().copied().ok_or_else(|| missing("--form"));
        Ok(match part.as_str() {
            "tables" => Task::Tables {
                form: form?,
                database,
            },
            "service" => Task::Service {
                form: form?,
                listen: listen?,
                ledger: ledger?,
                database,
            },
            "ledger" => Task::Ledger {
                listen: listen?,
                database,
            },
            "relay" => Task::Relay {
                ledger: ledger?,
                database,
            },
            _ => return Err(format!("{part:?} is none of tables, service, ledger, relay").into()),
        })
    }
}
