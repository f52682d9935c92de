//! The command line.

use std::path::PathBuf;

use lexopt::prelude::*;

pub(crate) const USAGE: &str = "\
cargo xtask bench [--install] [--only CASE,…] [--rounds 5] [--seconds 5]
    Measures, and writes docs/benchmarks.md with its plots. Takes about 28 minutes, during
    which the machine should do nothing else. Each case's figures are kept in target/bench,
    so that cases can be measured one by one. --records says how many `full-tables` begins
    with (20000000, which takes some minutes and 20 GB of disk).
cargo xtask bench --render
    Writes docs/benchmarks.md again from the figures in target/bench.
cargo xtask bench --smoke
    A second of each case, on the debug build; writes to target/bench-smoke. The figures
    mean nothing: it shows that the benchmarks run and that the guard guards.
cargo xtask bench --list
    The names of the cases.

Run directly, --program PATH is the `onlyonce` to measure, which has `onlyonce-bench-service`
beside it; by default the one beside this.";

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) task: Task,
    pub(crate) only: Vec<String>,
    pub(crate) rounds: Option<usize>,
    pub(crate) seconds: Option<u64>,
    pub(crate) records: Option<u64>,
    pub(crate) program: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Help,
    List,
    Measure,
    Smoke,
    Render,
}

impl Args {
    pub(crate) fn from_env() -> Result<Self, lexopt::Error> {
        Self::parse(lexopt::Parser::from_env())
    }

    fn parse(mut parser: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut args = Self {
            task: Task::Measure,
            only: Vec::new(),
            rounds: None,
            seconds: None,
            records: None,
            program: None,
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Long("help") | Short('h') => args.task = Task::Help,
                Long("list") => args.task = Task::List,
                Long("smoke") => args.task = Task::Smoke,
                Long("render") => args.task = Task::Render,
                Long("only") => {
                    let names = parser.value()?.string()?;
                    args.only.extend(names.split(',').map(str::to_owned));
                }
                Long("rounds") => args.rounds = Some(parser.value()?.parse()?),
                Long("seconds") => args.seconds = Some(parser.value()?.parse()?),
                Long("records") => args.records = Some(parser.value()?.parse()?),
                Long("program") => args.program = Some(parser.value()?.into()),
                _ => return Err(arg.unexpected()),
            }
        }
        if args.rounds == Some(0) || args.seconds == Some(0) {
            return Err("at least one round of one second".into());
        }
        Ok(args)
    }
}
