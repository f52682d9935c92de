//! The cases: which subjects are compared with each other, and how.
//!
//! The subjects of a case take turns (A B A B …), so that whatever drifts on the machine meets all of
//! them. Each is set up anew for each number of connections, on an empty store.

use std::time::Duration;

use crate::Failure;
use crate::machine::Machine;
use crate::results::{Outcome, Sample, Series, count};
use crate::servers::Servers;
use crate::stand::Stand;
use crate::subject::Subject::{self, *};

/// Subjects that are compared.
#[derive(Debug)]
pub(crate) struct Case {
    /// As the command line, files and links name it.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) subjects: &'static [Subject],
    pub(crate) connections: &'static [u32],
    /// Where an aim is judged: measured in full. Elsewhere fewer and shorter rounds draw the curve.
    pub(crate) judged_at: &'static [u32],
}

const ALL: &[u32] = &[1, 16, 64, 256, 1024];

/// All cases, in the order of the page.
pub(crate) const CASES: [Case; 3] = [
    Case {
        name: "pass-through",
        title: "Requests that are not guarded",
        subjects: &[Nginx, PassThrough],
        connections: ALL,
        judged_at: &[64],
    },
    Case {
        name: "fresh",
        title: "First executions: every request has a key of its own",
        subjects: &[PassThrough, Postgres, OneByOne, Sqlite, Memory],
        connections: ALL,
        judged_at: &[64, 256],
    },
    Case {
        name: "repeated",
        title: "Repetitions: answers that are replayed, and a storm of retries",
        subjects: &[Nginx, PassThrough, ReplayPostgres, Storm],
        connections: ALL,
        judged_at: &[64],
    },
];

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
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
        if self.smoke { &[16] } else { case.connections }
    }
}

impl Case {
    /// Measures all of it.
    pub(crate) async fn run(
        &self,
        servers: &mut Servers,
        effort: Effort,
        machine: &Machine,
    ) -> Result<Outcome, Failure> {
        let mut outcome = Outcome {
            case: self.name.to_owned(),
            machine: machine.clone(),
            rounds: effort.rounds,
            seconds: effort.seconds,
            series: Vec::new(),
            figures: Vec::new(),
            failures: Vec::new(),
        };
        for &connections in effort.connections(self) {
            match self.take_turns(servers, effort, connections).await {
                Ok(series) => outcome.series.extend(series),
                // The rest is worth measuring all the same.
                Err(failure) => {
                    println!("FAILED: {failure}");
                    outcome.failures.push(failure.to_string());
                }
            }
        }
        Ok(outcome)
    }

    async fn take_turns(
        &self,
        servers: &mut Servers,
        effort: Effort,
        connections: u32,
    ) -> Result<Vec<Series>, Failure> {
        let (rounds, seconds) = effort.at(self, connections);
        let mut stands = Vec::new();
        for &subject in self.subjects {
            let mut stand = Stand::set_up(subject, servers).await?;
            stand.prime().await?;
            stand.warm_up(connections).await?;
            stands.push((stand, Vec::new()));
        }
        for _ in 0..rounds {
            for (stand, samples) in &mut stands {
                // What the last one left in its sockets is not this one's to finish.
                tokio::time::sleep(Duration::from_millis(100)).await;
                samples.push(stand.measure(servers, connections, seconds).await?);
            }
        }
        let series = stands.into_iter().map(|(stand, samples)| Series {
            subject: stand.subject(),
            connections,
            samples,
        });
        let series: Vec<_> = series.collect();
        for series in &series {
            report(series);
        }
        Ok(series)
    }
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
