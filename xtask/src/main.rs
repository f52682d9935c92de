//! Everything that a newcomer or CI runs: `cargo xtask test | servers | bench | fuzz`.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

mod args;
mod bench;
mod fuzz;
mod python;
mod readme;
mod servers;
mod steps;
mod test;
mod tools;

use self::args::Task;

/// Why a task failed; said to the user as it is.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let task = match Task::from_env() {
        Ok(task) => task,
        Err(error) => {
            eprintln!("{error}\n\n{}", args::USAGE);
            return ExitCode::from(64);
        }
    };
    // Servers belong to the task's future: whichever arm is taken, dropping it ends them.
    tokio::select! {
        outcome = run(task) => match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("\n{failure}");
                ExitCode::FAILURE
            }
        },
        name = interruption() => {
            eprintln!("\n{name}: stopping");
            ExitCode::from(130)
        }
    }
}

async fn run(task: Task) -> Result<(), Failure> {
    match task {
        Task::Help => {
            println!("{}", args::USAGE);
            Ok(())
        }
        Task::Test { install, filter } => test::run(install, &filter).await,
        Task::Servers { install, seconds } => servers::serve(install, seconds).await,
        Task::Bench { install, args } => bench::run(install, &args).await,
        Task::Fuzz { seconds } => fuzz::run(seconds).await,
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn interruption() -> &'static str {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => "interrupted",
        _ = terminate => "terminated",
    }
}
