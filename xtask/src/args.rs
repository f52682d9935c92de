//! The command line.

use std::ffi::OsString;
use std::time::Duration;

use lexopt::prelude::*;

pub(crate) const USAGE: &str = "\
cargo xtask test [--install] [-- ARGS]
    Format, clippy, build, all tests, doctests and docs, on throw-away servers.
    Says what is missing on this machine; --install installs it (apt-get, and a
    Python environment under target/). With ARGS, which go to the test runner,
    only the tests run.
cargo xtask servers [--install] [--for SECONDS]
    Starts the servers that tests need, prints `export` lines, and stays until
    Ctrl-C, for `cargo nextest run -p …` in another terminal.
cargo xtask bench [--install] [--smoke] [--only CASE,…]
    Measures, and writes docs/benchmarks.md. `cargo xtask bench --help` says more.
cargo xtask fuzz [--seconds 20]
    Runs each fuzz target for so long.";

/// What is asked for.
#[derive(Debug)]
pub(crate) enum Task {
    Help,
    Test {
        install: bool,
        filter: Vec<OsString>,
    },
    Servers {
        install: bool,
        seconds: Option<Duration>,
    },
    Bench {
        install: bool,
        args: Vec<OsString>,
    },
    Fuzz {
        seconds: Duration,
    },
}

/// The names of the tasks, for the check of the README.
pub(crate) const TASKS: [&str; 4] = ["test", "servers", "bench", "fuzz"];

impl Task {
    pub(crate) fn from_env() -> Result<Self, lexopt::Error> {
        Self::parse(lexopt::Parser::from_env())
    }

    fn parse(mut parser: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut task = None;
        let (mut install, mut seconds, mut filter) = (false, None, Vec::new());
        while let Some(arg) = parser.next()? {
            match arg {
                Long("help") | Short('h') => return Ok(Self::Help),
                Long("install") => install = true,
                Long("for") | Long("seconds") => {
                    seconds = Some(Duration::from_secs(parser.value()?.parse()?));
                }
                // The benchmarks read their own arguments.
                Value(name) if task.is_none() && name == "bench" => {
                    let mut args: Vec<_> = parser.raw_args()?.collect();
                    let all = args.len();
                    args.retain(|arg| arg != "--install");
                    let install = install || args.len() < all;
                    return Ok(Self::Bench { install, args });
                }
                Value(name) if task.is_none() => task = Some(name.string()?),
                // What stands after `--`.
                Value(value) if task.as_deref() == Some("test") => {
                    filter.push(value);
                    filter.extend(parser.raw_args()?);
                }
                _ => return Err(arg.unexpected()),
            }
        }
        match task.as_deref() {
            None => Ok(Self::Help),
            Some("test") => Ok(Self::Test { install, filter }),
            Some("servers") => Ok(Self::Servers { install, seconds }),
            Some("fuzz") => {
                let seconds = seconds.unwrap_or(Duration::from_secs(20));
                Ok(Self::Fuzz { seconds })
            }
            Some(other) => Err(format!("there is no task `{other}`").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Task, lexopt::Error> {
        Task::parse(lexopt::Parser::from_args(args))
    }

    #[test]
    fn what_follows_two_dashes_goes_to_the_test_runner() {
        let task = parse(&[
            "test",
            "--install",
            "--",
            "-p",
            "onlyonce-tests",
            "--no-capture",
        ]);
        let Ok(Task::Test {
            install: true,
            filter,
        }) = task
        else {
            panic!("{task:?}")
        };
        assert_eq!(filter, ["-p", "onlyonce-tests", "--no-capture"]);
    }

    #[test]
    fn the_benchmarks_get_all_but_install() {
        let task = parse(&["bench", "--only", "fresh", "--install", "--smoke"]);
        let Ok(Task::Bench {
            install: true,
            args,
        }) = task
        else {
            panic!("{task:?}")
        };
        assert_eq!(args, ["--only", "fresh", "--smoke"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for wrong in [&["run"][..], &["servers", "--bind", "x"], &["fuzz", "y"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        for task in TASKS {
            assert!(parse(&[task]).is_ok());
        }
    }
}
