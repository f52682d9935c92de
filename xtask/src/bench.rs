//! `cargo xtask bench`: builds what is measured, as it is shipped, and runs the benchmarks (`bench/`).
//!
//! They are a program of their own and not part of xtask, which everybody compiles who runs anything.

use std::ffi::OsString;
use std::path::PathBuf;

use tokio::process::Command;

use crate::Failure;
use crate::steps::{Steps, cargo, root};
use crate::test::FEATURES;
use crate::tools::{self, Purpose};

/// For arguments that measure nothing, nothing is built.
const WITHOUT_BUILD: [&str; 3] = ["--help", "--list", "--render"];

pub(crate) async fn run(install: bool, args: &[OsString]) -> Result<(), Failure> {
    let mut steps = Steps::new();
    let needs = tools::require(install, Purpose::Bench);
    steps.step("tools", needs).await?;
    let has = |names: &[&str]| args.iter().any(|arg| names.iter().any(|name| arg == name));
    let measured = if has(&["--smoke"]) {
        let proxy = ["build", "--package=onlyonce-proxy", FEATURES];
        let service = ["build", "--package=onlyonce-bench-service"];
        steps
            .run("build what is measured", &mut cargo(proxy))
            .await?;
        steps.run("build the service", &mut cargo(service)).await?;
        "debug"
    } else {
        // Each by itself: together they would be built with the features of both.
        let proxy = ["build", "--profile=dist", "--package=onlyonce-proxy"];
        let service = [
            "build",
            "--profile=dist",
            "--package=onlyonce-bench-service",
        ];
        if !has(&WITHOUT_BUILD) {
            steps
                .run("build what is measured", &mut cargo(proxy))
                .await?;
            steps.run("build the service", &mut cargo(service)).await?;
        }
        "dist"
    };
    let build = ["build", "--package", "onlyonce-bench"];
    steps.run("build the benchmarks", &mut cargo(build)).await?;
    let mut bench = program()?;
    bench
        .arg("--program")
        .arg(target(measured, "onlyonce"))
        .args(args);
    benchmarks(&mut steps, "benchmarks", bench).await
}

/// A second of each case, with what was built for the tests.
pub(crate) async fn smoke(steps: &mut Steps) -> Result<(), Failure> {
    let mut bench = program()?;
    bench.arg("--smoke");
    benchmarks(steps, "benchmarks, a second each", bench).await
}

async fn benchmarks(steps: &mut Steps, name: &str, mut bench: Command) -> Result<(), Failure> {
    let run = async {
        // Not killed when this is dropped: it has servers to stop, and ends when this process does.
        let status = bench.status().await?;
        if status.success() {
            return Ok(());
        }
        Err(format!("the benchmarks ended with {status}").into())
    };
    steps.step(name, run).await
}

fn program() -> Result<Command, Failure> {
    let mut bench = Command::new(target("debug", "onlyonce-bench"));
    bench
        .current_dir(root())
        .env("PATH", std::env::join_paths(tools::path())?);
    Ok(bench)
}

fn target(profile: &str, name: &str) -> PathBuf {
    root().join("target").join(profile).join(name)
}
