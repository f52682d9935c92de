//! Measures a case. Its subjects take turns (A B A B …), so that whatever drifts on the machine meets all
//! of them. Each is set up anew for each number of connections, on an empty store.

use std::time::Duration;

use crate::Failure;
use crate::cases::{Beside, Case};
use crate::down;
use crate::held;
use crate::latency;
use crate::layer;
use crate::machine::Machine;
use crate::memory;
use crate::preload;
use crate::relay;
use crate::results::{Figure, Outcome, Sample, Series, count, signed};
use crate::servers::Servers;
use crate::stand::Stand;
use crate::subject::Subject;
use crate::sweep::{self, Swept};
use crate::two_commits::TwoCommits;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    /// The records in tables that are called full.
    pub(crate) records: u64,
    pub(crate) smoke: bool,
}

impl Effort {
    /// Rounds and seconds at a number of connections.
    fn at(self, case: &Case, connections: u32) -> (usize, u64) {
        if case.judged_at.contains(&connections) {
            (self.rounds, self.seconds)
        } else {
            (self.rounds.min(3), self.seconds.min(2))
        }
    }

    fn connections(self, case: &Case) -> &[u32] {
        if self.smoke && !case.connections.is_empty() {
            &[16]
        } else {
            case.connections
        }
    }
}

impl Case {
    /// Measures all of it.
    pub(crate) async fn run(
        &self,
        servers: &mut Servers,
        effort: Effort,
        machine: &Machine,
    ) -> Outcome {
        let mut outcome = Outcome {
            case: self.name.to_owned(),
            machine: machine.clone(),
            rounds: effort.rounds,
            seconds: effort.seconds,
            series: Vec::new(),
            figures: Vec::new(),
            swept: Vec::new(),
            failures: Vec::new(),
        };
        for &connections in effort.connections(self) {
            match self.take_turns(servers, effort, connections).await {
                Ok((series, figures, swept)) => {
                    outcome.series.extend(series);
                    outcome.figures.extend(figures);
                    outcome.swept.extend(swept);
                }
                // The rest is worth measuring all the same.
                Err(failure) => outcome.fail(&failure),
            }
        }
        let figures = match self.beside {
            Beside::Memory => memory::measure(servers, effort).await,
            Beside::Layer => layer::measure().await,
            Beside::Latency => latency::measure(servers, effort).await,
            Beside::SinkDown => down::measure(servers, effort).await,
            Beside::HeldSnapshot => held::measure(servers, effort).await,
            Beside::Relay => relay::measure(servers, effort).await,
            Beside::Nothing | Beside::TwoCommits | Beside::RecordSize | Beside::Sweep => {
                Ok(Vec::new())
            }
        };
        match figures {
            Ok(figures) => {
                figures.iter().for_each(report_figure);
                outcome.figures.extend(figures);
            }
            Err(failure) => outcome.fail(&failure),
        }
        outcome
    }

    async fn take_turns(
        &self,
        servers: &mut Servers,
        effort: Effort,
        connections: u32,
    ) -> Result<(Vec<Series>, Vec<Figure>, Vec<Swept>), Failure> {
        let (rounds, seconds) = effort.at(self, connections);
        let mut stands = Vec::new();
        for &subject in self.subjects {
            let mut stand = Stand::set_up(subject, servers, connections, effort.records).await?;
            stand.prime().await?;
            if !effort.smoke {
                stand.warm_up().await?;
            }
            stands.push((stand, Vec::new()));
        }
        let pgbench = match self.beside {
            Beside::TwoCommits => {
                Some(TwoCommits::set_up(&servers.postgres.url("postgres")).await?)
            }
            _ => None,
        };
        let mut latencies = Vec::new();
        let mut swept = Vec::new();
        for _ in 0..rounds {
            for (stand, samples) in &mut stands {
                // What the last one left in its sockets is not this one's to finish.
                tokio::time::sleep(Duration::from_millis(100)).await;
                let (sample, came) = stretch(stand, servers, seconds, effort).await?;
                samples.push(sample);
                swept.extend(came);
            }
            if let Some(pgbench) = &pgbench {
                servers.settle().await?;
                latencies.push(pgbench.p50(seconds).await?);
            }
        }
        let mut figures = Vec::new();
        if !latencies.is_empty() {
            figures.push(Figure::new(PGBENCH_P50, "µs", latencies));
        }
        if self.subjects.contains(&Subject::Preloaded) {
            let records = vec![count(effort.records)];
            figures.push(Figure::new(PRELOADED, "", records));
        }
        if self.beside == Beside::RecordSize {
            figures.extend(record_size(&stands, connections).await?);
        }
        let series = stands.into_iter().map(|(stand, samples)| Series {
            subject: stand.subject(),
            connections,
            samples,
        });
        let series: Vec<_> = series.collect();
        series.iter().for_each(report);
        figures.iter().for_each(report_figure);
        for &subject in self.subjects {
            report_swept(&swept, subject);
        }
        Ok((series, figures, swept))
    }
}

/// One stretch of load, and how far the sweep came in it where there is one.
async fn stretch(
    stand: &mut Stand,
    servers: &mut Servers,
    seconds: u64,
    effort: Effort,
) -> Result<(Sample, Option<Swept>), Failure> {
    if stand.subject().is_swept() {
        let (sample, swept) = sweep::measure(stand, servers, seconds, effort.smoke).await?;
        return Ok((sample, Some(swept)));
    }
    Ok((stand.measure(servers, seconds).await?, None))
}

/// The name of how many records the full tables held.
pub(crate) const PRELOADED: &str = "records in the full tables at first";
/// The name of what pgbench says.
pub(crate) const PGBENCH_P50: &str = "pgbench, the same two commits, p50";

/// What a record with its response takes in Postgres, indexes included, after the load.
async fn record_size(
    stands: &[(Stand, Vec<Sample>)],
    connections: u32,
) -> Result<Option<Figure>, Failure> {
    let of_postgres = stands
        .iter()
        .find(|(stand, _)| stand.subject() == Subject::Postgres);
    let Some(database) = of_postgres.and_then(|(stand, _)| stand.database()) else {
        return Ok(None);
    };
    let (bytes, records) = preload::size(database).await?;
    let name = format!("table and index bytes for each record, {connections} connections");
    Ok(Some(Figure::new(
        &name,
        "B",
        vec![signed(bytes) / signed(records)],
    )))
}

/// A line for who watches: medians, and the spread of the throughput.
fn report(series: &Series) {
    let of = |value: &dyn Fn(&Sample) -> f64| series.spread(value).map_or(f64::NAN, |s| s.median);
    let Some(rate) = series.spread(Sample::rate) else {
        return;
    };
    print!(
        "{:>5} connections  {:<29} {:>7.0} /s ({:.0}–{:.0})  p50 {:>6.0} µs  p99 {:>6.0} µs  CPU µs/request:",
        series.connections,
        series.subject.label(),
        rate.median,
        rate.least,
        rate.most,
        of(&|sample| count(sample.p50_us)),
        of(&|sample| count(sample.p99_us)),
    );
    for process in series.processes() {
        print!(
            " {process} {:.1}",
            of(&|sample| sample.cpu_per_request(process))
        );
    }
    if series.subject.is_on_postgres() {
        let commits = of(&|sample| sample.commits_per_request().unwrap_or_default());
        let log = of(&|sample| sample.log_bytes_per_request().unwrap_or_default());
        print!("  commits/request {commits:.3}  log bytes/request {log:.0}");
    }
    println!();
}

fn report_swept(swept: &[Swept], subject: Subject) {
    let of = |value: &dyn Fn(&Swept) -> f64| Swept::spread(swept, subject, value);
    if let (Some(rate), Some(seconds)) = (of(&Swept::rate), of(&|swept| swept.seconds)) {
        println!(
            "{}: {:.0} records swept a second ({:.0}–{:.0}), for {:.1} s",
            subject.label(),
            rate.median,
            rate.least,
            rate.most,
            seconds.median
        );
    }
}

fn report_figure(figure: &Figure) {
    if let Some(spread) = figure.spread() {
        println!("{}: {:.1} {}", figure.name, spread.median, figure.unit);
    }
}
