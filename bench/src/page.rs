//! `docs/benchmarks.md`, its plots and its raw figures, written from the results.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Failure;
use crate::aims::{AIMS, Bound};
use crate::cases::{CASES, Case};
use crate::plot::{Bar, Curve, Scale, bars, curves};
use crate::results::{Outcome, Results, Sample, Series, Spread, count};
use crate::subject::Subject;
use crate::sweep::Swept;

/// Written by hand, about what missed its aim.
const NOTES: &str = "notes.md";

/// What has its place beside the page.
const PLOTS: &str = "benchmarks";

/// How it was measured.
const METHOD: &str = include_str!("page/method.md");

/// Writes everything below `docs`, or a directory that stands for it.
pub(crate) fn write(results: &Results, docs: &Path) -> Result<(), Failure> {
    let plots = docs.join(PLOTS);
    fs::create_dir_all(&plots)?;
    let mut page = String::from("# Benchmarks\n\n");
    page += "Made by `cargo xtask bench`; do not edit. The raw figures are in [results.json](benchmarks/results.json).\n\n";
    page += METHOD;
    machine(&mut page, results)?;
    aims(&mut page, results)?;
    if let Ok(notes) = fs::read_to_string(plots.join(NOTES)) {
        writeln!(page, "\n{}", notes.trim_end())?;
    }
    for case in &CASES {
        if let Some(outcome) = results.0.get(case.name) {
            section(&mut page, case, outcome)?;
            draw(case, outcome, &plots)?;
        }
    }
    fs::write(docs.join("benchmarks.md"), page)?;
    let raw = serde_json::to_string(results)? + "\n";
    Ok(fs::write(plots.join("results.json"), raw)?)
}

fn machine(page: &mut String, results: &Results) -> Result<(), Failure> {
    let mut machines: Vec<_> = results.0.values().map(|outcome| &outcome.machine).collect();
    machines.dedup();
    writeln!(page, "\n## Machine\n")?;
    for machine in machines {
        let cases = results.0.values();
        let cases = cases.filter(|outcome| outcome.machine == *machine);
        let names: Vec<_> = cases.map(|outcome| outcome.case.as_str()).collect();
        writeln!(
            page,
            "- {} cores, {}, {}; {}\n- {}\n- onlyonce at {}, profile dist ({})",
            machine.cores,
            machine.processor,
            machine.memory,
            machine.kernel,
            machine.programs.join("; "),
            machine.commit,
            names.join(", ")
        )?;
    }
    Ok(())
}

fn aims(page: &mut String, results: &Results) -> Result<(), Failure> {
    writeln!(
        page,
        "\n## Aims\n\n| | aim | measured | |\n|---|---|---|---|"
    )?;
    for aim in &AIMS {
        let bound = match aim.bound {
            Bound::AtLeast(bound) => format!("at least {bound}"),
            Bound::AtMost(bound) => format!("at most {bound}"),
        };
        let (measured, met) = match aim.measured(results) {
            None => ("not measured".to_owned(), ""),
            Some(spread) => {
                let met = if aim.is_met(spread) { "✓" } else { "missed" };
                (with_spread(spread, significant), met)
            }
        };
        writeln!(page, "| {} | {bound} | {measured} | {met} |", aim.text)?;
    }
    Ok(())
}

fn section(page: &mut String, case: &Case, outcome: &Outcome) -> Result<(), Failure> {
    writeln!(page, "\n## {}\n", case.title)?;
    writeln!(
        page,
        "`cargo xtask bench --only {}`; {}.\n",
        case.name,
        rounds(case, outcome)
    )?;
    if !outcome.series.is_empty() {
        for plot in plots(outcome) {
            writeln!(page, "![{plot}]({PLOTS}/{}-{plot}.svg)", case.name)?;
        }
        table(page, outcome, "requests a second", |series| {
            cell(series, Sample::rate, |rate| format!("{rate:.0}"))
        })?;
        table(page, outcome, "p50 / p99 in ms", |series| {
            let p50 = series.spread(|sample| count(sample.p50_us) / 1e3)?;
            let p99 = series.spread(|sample| count(sample.p99_us) / 1e3)?;
            Some(format!(
                "{} / {}",
                significant(p50.median),
                significant(p99.median)
            ))
        })?;
        if outcome
            .series
            .iter()
            .any(|series| series.subject.is_on_postgres())
        {
            table(
                page,
                outcome,
                "commits / bytes of log for each request",
                |series| {
                    let commits =
                        series.spread(|sample| sample.commits_per_request().unwrap_or(f64::NAN))?;
                    let log = series
                        .spread(|sample| sample.log_bytes_per_request().unwrap_or(f64::NAN))?;
                    (!commits.median.is_nan())
                        .then(|| format!("{} / {:.0}", significant(commits.median), log.median))
                },
            )?;
        }
    }
    swept(page, outcome)?;
    figures(page, outcome)?;
    for failure in &outcome.failures {
        writeln!(page, "\n**Failed:** {failure}")?;
    }
    Ok(())
}

fn rounds(case: &Case, outcome: &Outcome) -> String {
    let (rounds, seconds) = (outcome.rounds, outcome.seconds);
    if case.judged_at.is_empty() && !case.connections.is_empty() {
        let (rounds, seconds) = (rounds.min(3), seconds.min(2));
        return format!("{rounds} rounds of {seconds} s");
    }
    format!("{rounds} rounds of {seconds} s where an aim is judged")
}

/// Subjects down, connections across. A subject without any cell has no line.
fn table(
    page: &mut String,
    outcome: &Outcome,
    what: &str,
    cell: impl Fn(&Series) -> Option<String>,
) -> Result<(), Failure> {
    let connections = connections(outcome);
    let heads: Vec<_> = connections.iter().map(ToString::to_string).collect();
    writeln!(page, "\n| {what} | {} |", heads.join(" | "))?;
    writeln!(page, "|---|{}", "---|".repeat(heads.len()))?;
    for subject in subjects(outcome) {
        let cells: Vec<_> = connections
            .iter()
            .map(|&connections| cell(outcome.series(subject, connections)?))
            .collect();
        if cells.iter().any(Option::is_some) {
            let cells: Vec<_> = cells.into_iter().map(Option::unwrap_or_default).collect();
            writeln!(page, "| {} | {} |", subject.label(), cells.join(" | "))?;
        }
    }
    Ok(())
}

/// How far the sweep came, where that was measured.
fn swept(page: &mut String, outcome: &Outcome) -> Result<(), Failure> {
    if outcome.swept.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "\n| records a second | inserted | swept meanwhile | swept / inserted (aim: at least 2) |\n|---|---|---|---|"
    )?;
    for subject in subjects(outcome) {
        let of = |of: &dyn Fn(&Swept) -> f64| Swept::spread(&outcome.swept, subject, of);
        let inserted = of(&|swept| swept.inserted_rate);
        let ratio = of(&|swept| swept.rate() / swept.inserted_rate);
        if let (Some(inserted), Some(rate), Some(ratio)) = (inserted, of(&Swept::rate), ratio) {
            let whole = |rate: f64| format!("{rate:.0}");
            writeln!(
                page,
                "| {} | {} | {} | {} |",
                subject.label(),
                with_spread(inserted, whole),
                with_spread(rate, whole),
                with_spread(ratio, significant)
            )?;
        }
    }
    Ok(())
}

fn figures(page: &mut String, outcome: &Outcome) -> Result<(), Failure> {
    if outcome.figures.is_empty() {
        return Ok(());
    }
    writeln!(page, "\n| | | |\n|---|---|---|")?;
    for figure in &outcome.figures {
        if let Some(spread) = figure.spread() {
            let value = with_spread(spread, significant);
            writeln!(page, "| {} | {value} | {} |", figure.name, figure.unit)?;
        }
    }
    Ok(())
}

/// Which plots a case has: one number of connections makes no curve.
fn plots(outcome: &Outcome) -> &'static [&'static str] {
    match connections(outcome).len() {
        0 => &[],
        1 => &["cpu"],
        _ => &["throughput", "p99", "cpu"],
    }
}

fn draw(case: &Case, outcome: &Outcome, directory: &Path) -> Result<(), Failure> {
    for &plot in plots(outcome) {
        let drawn = match plot {
            "throughput" => {
                let rates = all_curves(outcome, Sample::rate);
                curves(case.title, "requests a second", Scale::Linear, &rates)
            }
            "p99" => {
                let p99 = all_curves(outcome, |sample| count(sample.p99_us) / 1e3);
                curves(case.title, "p99 in ms", Scale::Logarithmic, &p99)
            }
            _ => cpu_bars(case, outcome),
        };
        fs::write(directory.join(format!("{}-{plot}.svg", case.name)), drawn)?;
    }
    Ok(())
}

fn cpu_bars(case: &Case, outcome: &Outcome) -> String {
    let connections = connections(outcome);
    // Where it is judged, if that was measured.
    let judged = case.judged_at.iter().rev();
    let judged = judged.copied().find(|at| connections.contains(at));
    let at = judged.or(connections.last().copied()).unwrap_or_default();
    let unit = format!("CPU time of each process in µs a request, {at} connections");
    bars(case.title, &unit, &all_bars(outcome, at))
}

fn all_curves(outcome: &Outcome, of: impl Fn(&Sample) -> f64 + Copy) -> Vec<Curve> {
    let curve = |subject: Subject| {
        let series = outcome
            .series
            .iter()
            .filter(|series| series.subject == subject);
        Curve {
            label: subject.label().to_owned(),
            points: series
                .filter_map(|series| Some((series.connections, series.spread(of)?)))
                .collect(),
        }
    };
    subjects(outcome).into_iter().map(curve).collect()
}

fn all_bars(outcome: &Outcome, connections: u32) -> Vec<Bar> {
    let at = outcome
        .series
        .iter()
        .filter(|series| series.connections == connections);
    at.map(|series| Bar {
        label: series.subject.label().to_owned(),
        parts: series
            .processes()
            .filter_map(|process| {
                let spread = series.spread(|sample| sample.cpu_per_request(process))?;
                Some((process.to_owned(), spread.median))
            })
            .collect(),
    })
    .collect()
}

/// In the order in which they were measured.
fn subjects(outcome: &Outcome) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for series in &outcome.series {
        if !subjects.contains(&series.subject) {
            subjects.push(series.subject);
        }
    }
    subjects
}

fn connections(outcome: &Outcome) -> Vec<u32> {
    let mut connections: Vec<_> = outcome.series.iter().map(|s| s.connections).collect();
    connections.sort_unstable();
    connections.dedup();
    connections
}

fn cell(
    series: &Series,
    of: impl Fn(&Sample) -> f64,
    show: impl Fn(f64) -> String,
) -> Option<String> {
    series.spread(of).map(|spread| with_spread(spread, show))
}

fn with_spread(spread: Spread, show: impl Fn(f64) -> String) -> String {
    let (median, least, most) = (show(spread.median), show(spread.least), show(spread.most));
    if least == most {
        median
    } else {
        format!("{median} ({least}–{most})")
    }
}

/// Three significant digits, and all of those before the point.
fn significant(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_no_more_digits_than_they_deserve() {
        assert_eq!(
            [1234.5, 12.345, 1.2345, 0.01234].map(significant),
            ["1234", "12.3", "1.23", "0.012"]
        );
    }
}
