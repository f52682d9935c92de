//! A payment service, its ledger and its clients; killed at random moments; and the balance of their books.
//!
//! `cargo run -p payments` runs the service in three forms, one after the other: naive, behind the plain layer, and
//! with charge, recorded answer and event in the same transaction. Only the last one balances.
//!
//! The claim that it proves: neither a retry nor a lock nor a layer makes two systems agree when a process can die
//! between telling the one and telling the other. What is in one transaction agrees; what is told from there at least
//! once, and applied through an inbox, agrees too.

mod args;
mod balance;
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
    let done = match args::parse() {
        Ok(Task::Help) => {
            print!("{USAGE}");
            Ok(true)
        }
        Ok(Task::Run(forms, plan)) => balance(&forms, &plan).await,
        Ok(Task::Service {
            form,
            listen,
            ledger,
            database,
        }) => service::serve(form, listen, &database, ledger)
            .await
            .map(|()| true),
        Ok(Task::Ledger { listen, database }) => {
            ledger::serve(listen, &database).await.map(|()| true)
        }
        Ok(Task::Relay { ledger, database }) => relay::run(&database, ledger).await.map(|()| true),
        Err(error) => {
            eprintln!("payments: {error}\n\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("payments: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the forms and prints the sheet; whether the form that promises it balances.
async fn balance(forms: &[Form], plan: &Plan) -> Result<bool, Box<dyn Error>> {
    let mut balances = Vec::new();
    let mut kept = true;
    for &form in forms {
        let (balance, crashes) = run::run(form, plan).await?;
        println!(
            "{form}: {} crashes of its parts, {} of the database",
            crashes.parts, crashes.database
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
