//! The command line: what each command takes, and how it ends.
//!
//! Exit codes: 0 done; 1 it could not be done, and the message says why; 64 the command line or the
//! settings are wrong, and nothing was started (`EX_USAGE` of sysexits).

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use onlyonce::BoxError;
use tokio::runtime::{Builder, Runtime};

mod check;
mod demo;
mod migrate;
mod outbox;
mod records;
mod relay;
mod serve;
mod settings;

use crate::app::AppError;
use crate::config::Faults;
use crate::records::Outcome;
use crate::relay::RelayError;
use crate::store::OpenError;
use crate::telemetry::causes;

/// Makes retried HTTP requests safe: each Idempotency-Key reaches the service behind once, and retries
/// get the recorded answer.
#[derive(Debug, Parser)]
#[command(name = "onlyonce", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Guard a service: listen, and forward each key once.
    Serve(serve::Serve),
    /// Show the difference: a legacy payment service with and without the proxy in front.
    Demo(demo::Demo),
    /// Run the legacy payment service of the demo alone.
    DemoService(demo::DemoService),
    /// Find every fault in the settings and show what is in force; start nothing.
    Check(check::Check),
    /// Create or update the tables of a store, or of an outbox.
    Migrate(migrate::Migrate),
    /// Look at records, and decide those whose outcome nobody knows.
    Records(records::Records),
    /// Publish the events of an outbox. Any number of relays may run, also for the same sink.
    Relay(relay::Relay),
    /// Look at an outbox, and decide what becomes of its dead letters.
    Outbox(outbox::Outbox),
}

/// Why a command was not carried out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The settings or the command line are wrong. Exit code 64.
    Usage(String),
    /// It was tried and did not work. Exit code 1.
    Failed(BoxError),
}

impl Failure {
    fn failed(error: impl Into<BoxError>) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self::Usage(faults.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Memory => Self::Usage(error.to_string()),
            error => Self::Failed(error.into()),
        }
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<RelayError> for Failure {
    fn from(error: RelayError) -> Self {
        match error {
            RelayError::Settings(message) => Self::Usage(message),
            error => Self::Failed(error.into()),
        }
    }
}

/// Runs the program: reads the command line, carries the command out, and says how it went.
pub fn main() -> ExitCode {
    let result = match Cli::try_parse() {
        Ok(cli) => cli.command.run(),
        Err(error) => {
            let _ = error.print(); // help and version too; to nobody, if nobody reads
            return if error.use_stderr() {
                USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            complain(&message);
            USAGE.into()
        }
        Err(Failure::Failed(error)) => {
            complain(&causes(&*error));
            ExitCode::FAILURE
        }
    }
}

/// `EX_USAGE` of sysexits.
const USAGE: u8 = 64;

impl Command {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Serve(serve) => serve.run(),
            Self::Demo(demo) => demo.run(),
            Self::DemoService(service) => service.run(),
            Self::Check(check) => check.run(),
            Self::Migrate(migrate) => migrate.run(),
            Self::Records(records) => records.run(),
            Self::Relay(relay) => relay.run(),
            Self::Outbox(outbox) => outbox.run(),
        }
    }
}

fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)
}

/// Prints what a command was asked for. A reader that has left is no failure of ours.
fn print(text: &str) {
    let mut stdout = io::stdout();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

/// Prints what a command found or did; what it refused is an error.
fn say(outcome: &Outcome) -> Result<(), Failure> {
    print(&outcome.printed);
    if outcome.refusals.is_empty() {
        Ok(())
    } else {
        Err(Failure::Failed(outcome.refusals.join("\n").into()))
    }
}

fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "onlyonce: {message}");
}
