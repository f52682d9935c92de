//! What the Tower layer costs by itself: the criterion benchmarks of `crates/onlyonce`, and what they say.

use std::fs;
use std::process::Stdio;

use serde::Deserialize;
use tokio::process::Command;

use crate::results::Figure;
use crate::{Failure, root};

/// The groups and the functions in them, as the benchmarks name them.
const GROUPS: [&str; 2] = ["tower", "axum"];
const WAYS: [&str; 4] = ["bare", "pass-through", "fresh", "replay"];

/// What guarding adds to a fresh request, as the aim has it.
pub(crate) const ADDED: &str = "tower, fresh minus bare";

/// A part of criterion's `estimates.json`; in nanoseconds.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// Runs the benchmarks, and answers the medians with their confidence intervals, in µs.
pub(crate) async fn measure() -> Result<Vec<Figure>, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["bench", "--package=onlyonce", "--bench=layer", "--"])
        .args(["--warm-up-time=1", "--measurement-time=3", "--noplot"])
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await?;
    if !status.success() {
        return Err(format!("cargo bench ended with {status}").into());
    }
    let mut figures = Vec::new();
    for group in GROUPS {
        for way in WAYS {
            figures.push(read(group, way)?);
        }
    }
    let median = |name: &str| {
        let figure = figures.iter().find(|figure: &&Figure| figure.name == name);
        figure.and_then(Figure::spread).map(|spread| spread.median)
    };
    let added = median("tower, fresh").zip(median("tower, bare"));
    let added = added.map(|(fresh, bare)| fresh - bare);
    figures.push(Figure::new(ADDED, "µs", added.into_iter().collect()));
    Ok(figures)
}

fn read(group: &str, way: &str) -> Result<Figure, Failure> {
    let path = root().join(format!("target/criterion/{group}/{way}/new/estimates.json"));
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let Estimates { median } = serde_json::from_str(&text)?;
    let interval = median.confidence_interval;
    let nanoseconds = [
        interval.lower_bound,
        median.point_estimate,
        interval.upper_bound,
    ];
    let name = format!("{group}, {way}");
    Ok(Figure::new(
        &name,
        "µs",
        nanoseconds.map(|value| value / 1e3).into(),
    ))
}
