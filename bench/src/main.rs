//! The benchmarks behind `docs/benchmarks.md`. `cargo xtask bench` builds what is measured and runs this.
//!
//! A [case](cases) compares [subjects](subject). Each is [set up](stand) on [servers] of this run's own,
//! put under [load], and measured in rounds that take turns. [Results](results) are kept as JSON, from
//! which the [page] with its [plots](plot) is written; the [aims] say what was to be reached.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{Resource, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

mod aims;
mod args;
mod cases;
mod cpu;
mod down;
mod held;
mod latency;
mod layer;
mod load;
mod machine;
mod memory;
mod nginx;
mod page;
mod peer;
mod plot;
mod preload;
mod relay;
mod results;
mod servers;
mod stand;
mod subject;
mod svg;
mod sweep;
mod turns;
mod two_commits;

use self::args::{Args, Task};
use self::cases::{CASES, Case};
use self::machine::Machine;
use self::results::Results;
use self::servers::Servers;
use self::turns::Effort;

/// Why it did not work; said to the user as it is.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::from_env() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}\n\n{}", args::USAGE);
            return ExitCode::from(64);
        }
    };
    // Servers belong to the run's future: whichever arm is taken, dropping it ends them.
    tokio::select! {
        outcome = run(&args) => match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("\n{failure}");
                ExitCode::FAILURE
            }
        },
        () = interruption() => ExitCode::from(130),
    }
}

async fn run(args: &Args) -> Result<(), Failure> {
    let smoke = args.task == Task::Smoke;
    let (figures, docs) = if smoke {
        (
            root().join("target/bench-smoke"),
            root().join("target/bench-smoke/docs"),
        )
    } else {
        (root().join("target/bench"), root().join("docs"))
    };
    match args.task {
        Task::Help => println!("{}", args::USAGE),
        Task::List => CASES.iter().for_each(|case| println!("{}", case.name)),
        Task::Render => page::write(&Results::load(&figures)?, &docs)?,
        Task::Measure | Task::Smoke => {
            let default = if smoke { 1 } else { 5 };
            let effort = Effort {
                rounds: args.rounds.unwrap_or(default),
                seconds: args.seconds.unwrap_or(if smoke { 1 } else { 5 }),
                records: args
                    .records
                    .unwrap_or(if smoke { 10_000 } else { 20_000_000 }),
                smoke,
            };
            let failed = measure(args, effort, &figures).await?;
            page::write(&Results::load(&figures)?, &docs)?;
            println!("\n{} is written", docs.join("benchmarks.md").display());
            if !failed.is_empty() {
                return Err(format!("failed: {}", failed.join(", ")).into());
            }
        }
    }
    Ok(())
}

/// Measures, and answers the cases that failed.
async fn measure(
    args: &Args,
    effort: Effort,
    figures: &Path,
) -> Result<Vec<&'static str>, Failure> {
    let cases = chosen(args)?;
    prepare_process()?;
    let machine = Machine::look(&root());
    let mut servers = Servers::start(program(args)?).await?;
    let mut failed = Vec::new();
    for case in cases {
        println!("\n{}: {}", case.name, case.title);
        let outcome = case.run(&mut servers, effort, &machine).await;
        outcome.save(figures)?;
        if !outcome.failures.is_empty() {
            failed.push(case.name);
        }
    }
    Ok(failed)
}

fn chosen(args: &Args) -> Result<Vec<&'static Case>, Failure> {
    let unknown = |name: &&String| CASES.iter().all(|case| case.name != **name);
    if let Some(name) = args.only.iter().find(unknown) {
        return Err(format!("there is no case `{name}`; --list names them").into());
    }
    let chosen = |case: &&Case| {
        if args.only.is_empty() {
            case.smoke || args.task != Task::Smoke
        } else {
            args.only.iter().any(|name| name == case.name)
        }
    };
    Ok(CASES.iter().filter(chosen).collect())
}

/// What the programs started from here inherit, and what becomes of them.
fn prepare_process() -> Result<(), Failure> {
    // `cargo xtask` started us and may be killed; servers that it knows nothing of must not stay.
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    Ok(setrlimit(Resource::Nofile, files)?)
}

/// The `onlyonce` that is measured.
fn program(args: &Args) -> Result<PathBuf, Failure> {
    if let Some(program) = &args.program {
        return Ok(program.canonicalize()?);
    }
    let beside = std::env::current_exe()?.with_file_name("onlyonce");
    if beside.is_file() {
        return Ok(beside);
    }
    Err(format!("there is no {}: use `cargo xtask bench`", beside.display()).into())
}

/// The root of the workspace.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

/// Waits for Ctrl-C or SIGTERM.
async fn interruption() {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => eprintln!("\ninterrupted: stopping"),
        _ = terminate => eprintln!("\nterminated: stopping"),
    }
}
