//! `cargo xtask test`: the whole proof, in the order in which faults are cheap to find.

use std::ffi::OsString;

use tokio::process::Command;

use crate::Failure;
use crate::bench;
use crate::readme;
use crate::servers::Servers;
use crate::steps::{Steps, cargo};
use crate::tools;

/// One set of features for everything that is built, so that it is built once: the crash tests need a
/// binary with failpoints, and those of the relay all its sinks.
pub(crate) const FEATURES: &str = "--features=onlyonce-proxy/failpoints,onlyonce-proxy/amqp,onlyonce-proxy/kafka,onlyonce-proxy/nats";

pub(crate) async fn run(install: bool, filter: &[OsString]) -> Result<(), Failure> {
    let mut steps = Steps::new();
    steps
        .step("tools", tools::require(install, tools::Purpose::Test))
        .await?;
    if filter.is_empty() {
        lint(&mut steps).await?;
    }
    let servers = steps.step("servers", async { Servers::start() }).await?;
    let environment = servers.environment()?;
    let build = ["build", "--workspace", "--all-targets", FEATURES];
    steps.run("build", &mut cargo(build)).await?;
    steps
        .run(
            "tests",
            test_runner(&["--lib", "--bins", "--tests"])
                .args(filter)
                .envs(environment.clone()),
        )
        .await?;
    if filter.is_empty() {
        faults_with_other_caches(&mut steps, &servers).await?;
        let doctests = ["test", "--workspace", "--doc", FEATURES];
        steps
            .run("doctests", cargo(doctests).envs(environment))
            .await?;
        // Without an argument of its own criterion runs each benchmark once.
        let layer = ["test", "--workspace", "--bench=layer", FEATURES];
        steps
            .run("benchmarks of the layer, once", &mut cargo(layer))
            .await?;
        bench::smoke(&mut steps).await?;
        let docs = ["doc", "--workspace", "--no-deps", FEATURES];
        steps
            .run("docs", cargo(docs).env("RUSTDOCFLAGS", "-D warnings"))
            .await?;
        steps
            .step("commands of the README", readme::check())
            .await?;
    }
    Ok(())
}

/// The faults once more: above, records are kept in each proxy's memory, as they are by default.
async fn faults_with_other_caches(steps: &mut Steps, servers: &Servers) -> Result<(), Failure> {
    const MEMORY: (&str, &str) = ("ONLYONCE__CACHE__MEMORY_MAX", "0B");
    let redis = servers.redis_url();
    let redis = ("ONLYONCE__CACHE__URL", redis.as_str());
    for (name, settings) in [
        ("faults without caches", &[MEMORY][..]),
        ("faults with Redis only", &[MEMORY, redis]),
    ] {
        let mut faults = test_runner(&["--test", "faults"]);
        faults.envs(servers.environment()?);
        faults.envs(settings.iter().copied());
        steps.run(name, &mut faults).await?;
    }
    Ok(())
}

async fn lint(steps: &mut Steps) -> Result<(), Failure> {
    steps
        .run("format", &mut cargo(["fmt", "--all", "--check"]))
        .await?;
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        FEATURES,
        "--",
        "-D",
        "warnings",
    ];
    steps.run("clippy", &mut cargo(clippy)).await?;
    // As users build it; above, features of all members are unified.
    let check = ["check", "-p", "onlyonce-proxy", "--bins"];
    steps
        .run("the binary without failpoints", &mut cargo(check))
        .await?;
    if tools::find("cargo-deny").is_some() {
        let deny = [
            "deny",
            "--all-features",
            "check",
            "bans",
            "licenses",
            "sources",
        ];
        steps.run("dependencies", &mut cargo(deny)).await
    } else {
        steps.not_run("dependencies", "cargo-deny is not installed");
        Ok(())
    }
}

fn test_runner(targets: &[&str]) -> Command {
    let mut runner = if tools::find("cargo-nextest").is_some() {
        cargo(["nextest", "run", "--workspace", FEATURES])
    } else {
        println!("cargo-nextest is not installed: plain `cargo test` runs the same tests, slower");
        cargo(["test", "--workspace", FEATURES])
    };
    runner.args(targets);
    runner
}
