//! A payment service, its ledger and its clients; killed at random moments; and the balance of their books.
//!
//! `cargo run -p payments` runs the service in five forms, one after the other: naive, behind a lock, behind the plain
//! layer with its records in memory and in Postgres, and with charge, recorded answer and event in the same transaction.
//! Only the last one balances.
//!
//! The claims that it proves: a lock does not help against a retry, for it is free again when the retry comes; memory
//! does not either, for it dies with its process and is not another's. A layer with durable records does. But it makes
//! no two systems agree when a process can die between telling the one and telling the other: what is in one transaction
//! agrees; what is told from there at least once, and applied through an inbox, agrees too.

mod args;
mod balance;
mod chance;
mod clients;
mod crashes;
mod database;
mod form;
mod http;
mod ledger;
mod part;
mod relay;
mod run;
mod service;

use std::error::Error;
use std::process::ExitCode;

use self::args::{Task, USAGE};
use self::balance::Sheet;
use self::form::Form;
use self::run::Plan;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| "error".into());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .init();
    let ended = match args::parse() {
        Ok(Task::Help) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(Task::Run(forms, plan)) => return exit(balance(&forms, &plan).await),
        Ok(Task::Tables { form, database }) => return exit(tables(form, &database).await),
        Ok(Task::Service {
            form,
            listen,
            ledger,
            database,
        }) => service::serve(form, listen, &database, ledger).await,
        Ok(Task::Ledger { listen, database }) => ledger::serve(listen, &database).await,
        Ok(Task::Relay { ledger, database }) => relay::run(&database, ledger).await,
        Err(error) => {
            eprintln!("payments: {error}\n\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    if let Err(error) = ended {
        // With the database away a part may end by itself, as it would in production, and is started again.
        tracing::warn!(error = &*error, "a part of the system ends");
    }
    ExitCode::FAILURE
}

fn exit(done: Result<bool, Box<dyn Error>>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("payments: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the tables of one form and prints where they are.
async fn tables(form: Form, url: &str) -> Result<bool, Box<dyn Error>> {
    let run = std::process::id().to_string();
    println!("{}", database::prepare(url, form, &run).await?);
    Ok(true)
}

/// Runs the forms and prints the sheet; whether the form that promises it balances.
async fn balance(forms: &[Form], plan: &Plan) -> Result<bool, Box<dyn Error>> {
    let mut throw_away = match plan.database {
        Some(_) => None,
        None => Some(database::throw_away()?),
    };
    let names: Vec<_> = forms.iter().map(|form| form.name()).collect();
    println!(
        "{} clients for {} s and until each has its answer, in the forms {}\n",
        plan.clients,
        plan.load.as_secs(),
        names.join(", ")
    );
    let mut balances = Vec::new();
    let mut kept = true;
    for &form in forms {
        let (balance, crashes) = run::run(form, plan, &mut throw_away).await?;
        println!(
            "{form}: killed {} services, {} relays, {} ledgers, {} databases; froze {}",
            crashes.services, crashes.relays, crashes.ledger, crashes.database, crashes.frozen
        );
        kept &= form != Form::SameTransaction || balance.is_zero();
        balances.push(balance);
    }
    println!("\n{}", Sheet(&balances));
    if !kept {
        eprintln!(
            "payments: the books of {} do not balance",
            Form::SameTransaction
        );
    }
    Ok(kept)
}
