//! Runs steps one after the other, and shows at the end what was run and how long it took.

use std::path::PathBuf;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::Instant;

use crate::Failure;

/// The steps so far. The list is printed when this is dropped, on failure and interruption too.
#[derive(Debug)]
pub(crate) struct Steps {
    started: Instant,
    done: Vec<(String, Duration, &'static str)>,
    running: Option<(String, Instant)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            done: Vec::new(),
            running: None,
        }
    }

    /// Runs a program to its end; an error where it does not exit with 0.
    pub(crate) async fn run(&mut self, name: &str, command: &mut Command) -> Result<(), Failure> {
        self.step(name, async {
            let status = command.kill_on_drop(true).status().await;
            match status {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(format!("{} ended with {status}", show(command)).into()),
                Err(error) => Err(format!("{}: {error}", show(command)).into()),
            }
        })
        .await
    }

    /// Does one step of work.
    pub(crate) async fn step<T>(
        &mut self,
        name: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        println!("\n=== {name}");
        self.running = Some((name.to_owned(), Instant::now()));
        let outcome = work.await;
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        self.end(word);
        outcome.map_err(|failure| format!("step `{name}` failed: {failure}").into())
    }

    /// Notes what is not done, and why.
    pub(crate) fn not_run(&mut self, name: &str, why: &str) {
        println!("\n=== {name}: not run: {why}");
        self.done
            .push((format!("{name} ({why})"), Duration::ZERO, "not run"));
    }

    fn end(&mut self, word: &'static str) {
        if let Some((name, started)) = self.running.take() {
            self.done.push((name, started.elapsed(), word));
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.end("interrupted");
        println!("\n{:>8}  {:<11}  step", "seconds", "outcome");
        for (name, took, word) in &self.done {
            println!("{:>8.1}  {word:<11}  {name}", took.as_secs_f64());
        }
        println!("{:>8.1}  in all", self.started.elapsed().as_secs_f64());
    }
}

/// Cargo, at the workspace's root.
pub(crate) fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map_or(xtask.clone(), Into::into)
}

fn show(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
