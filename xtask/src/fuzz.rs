//! `cargo xtask fuzz`: every fuzz target for some seconds, with the stable compiler.
//!
//! Runs in `fuzz/`, whose own cargo configuration has the flags that libFuzzer needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Failure;
use crate::steps::{Steps, cargo, root};

pub(crate) async fn run(seconds: Duration) -> Result<(), Failure> {
    let fuzz = root().join("fuzz");
    let targets = targets(&fuzz)?;
    let mut steps = Steps::new();
    let mut build = cargo(["build", "--release", "--locked"]);
    steps.run("build", build.current_dir(&fuzz)).await?;
    for target in targets {
        // What a run has found is kept there for the next; the first directory gets it.
        let corpus = fuzz.join("corpus").join(&target);
        let artifacts = fuzz.join("artifacts").join(&target);
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let mut command = cargo([
            "run",
            "--quiet",
            "--release",
            "--locked",
            "--bin",
            &target,
            "--",
        ]);
        command
            .current_dir(&fuzz)
            .arg(format!("-max_total_time={}", seconds.as_secs()))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(["-timeout=5", "-rss_limit_mb=2048"])
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
