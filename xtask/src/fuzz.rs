//! `cargo xtask fuzz`: every fuzz target for some seconds, with the stable compiler.
//!
//! cargo-fuzz adds flags and a nightly compiler, the latter for address sanitizing, which code without
//! `unsafe` needs least. The coverage that guides libFuzzer is a pass of LLVM that the stable compiler
//! runs too, so the targets are built here with the same flags less that one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::Failure;
use crate::steps::{Steps, cargo, root};

const FLAGS: &str = "--cfg fuzzing -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks \
    -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

pub(crate) async fn run(seconds: Duration) -> Result<(), Failure> {
    let fuzz = root().join("fuzz");
    let targets = targets(&fuzz)?;
    let host = host().await?;
    let mut steps = Steps::new();
    // With a target named, build scripts and macros are built without the flags.
    let build = [
        "build",
        "--release",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target",
        &host,
    ];
    steps
        .run("build", cargo(build).env("RUSTFLAGS", FLAGS))
        .await?;
    for target in targets {
        let (corpus, artifacts) = (fuzz.join("corpus").join(&target), fuzz.join("artifacts"));
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let program = fuzz
            .join("target")
            .join(&host)
            .join("release")
            .join(&target);
        let mut command = Command::new(program);
        command
            .arg(format!("-max_total_time={}", seconds.as_secs()))
            .arg(format!(
                "-artifact_prefix={}/{target}-",
                artifacts.display()
            ))
            .args(["-timeout=5", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .arg(corpus);
        steps.run(&target, &mut command).await?;
    }
    Ok(())
}

fn targets(fuzz: &Path) -> Result<Vec<String>, Failure> {
    let sources = fs::read_dir(fuzz.join("fuzz_targets"))
        .map_err(|error| format!("fuzz/fuzz_targets cannot be read: {error}"))?;
    let paths = sources.filter_map(Result::ok).map(|entry| entry.path());
    let sources = paths.filter(|path: &PathBuf| path.extension().is_some_and(|end| end == "rs"));
    let mut names: Vec<_> = sources
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

async fn host() -> Result<String, Failure> {
    let output = Command::new("rustc").arg("-vV").output().await?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("rustc does not name its host")?.to_owned())
}
