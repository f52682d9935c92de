//! What was to be reached, and whether it was.

use crate::down;
use crate::layer;
use crate::relay;
use crate::results::{Results, Sample, Spread, count};
use crate::subject::Subject;

/// A figure that was set beforehand.
#[derive(Debug)]
pub(crate) struct Aim {
    pub(crate) text: &'static str,
    pub(crate) bound: Bound,
    measure: Measure,
}

/// Which side of it is good.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// What is held against it.
#[derive(Debug)]
enum Measure {
    /// Throughput of one subject by that of another in the same round.
    Ratio(&'static str, Subject, Subject, u32),
    /// Transactions that write, for each request.
    Commits(&'static str, Subject, u32),
    /// What guarding adds to a single client's p50, by what pgbench needs for the same commits.
    Added(&'static str),
    /// Throughput in tables that held at least so many records, by that in empty ones.
    Full(f64),
    /// A figure as it is.
    Named(&'static str, &'static str),
}

use self::Bound::{AtLeast, AtMost};
use self::Measure::{Added, Commits, Full, Named, Ratio};
use crate::subject::Subject::*;
use crate::turns::{PGBENCH_P50, PRELOADED};

/// The aims, as issues 3 and 4 set them.
pub(crate) const AIMS: [Aim; 15] = [
    Aim {
        text: "pass-through / nginx, 64 connections",
        bound: AtLeast(1.0),
        measure: Ratio("pass-through", PassThrough, Nginx, 64),
    },
    Aim {
        text: "guarded on Postgres / the same with batching off, 64 connections",
        bound: AtLeast(4.0),
        measure: Ratio("fresh", Postgres, OneByOne, 64),
    },
    Aim {
        text: "guarded on Postgres / the same with batching off, 256 connections",
        bound: AtLeast(6.0),
        measure: Ratio("fresh", Postgres, OneByOne, 256),
    },
    Aim {
        text: "guarded on Postgres / own pass-through, 256 connections",
        bound: AtLeast(0.45),
        measure: Ratio("fresh", Postgres, PassThrough, 256),
    },
    Aim {
        text: "guarded on SQLite / guarded on Postgres, 256 connections",
        bound: AtLeast(1.2),
        measure: Ratio("fresh", Sqlite, Postgres, 256),
    },
    Aim {
        text: "replays from process cache / nginx pass-through, 64 connections",
        bound: AtLeast(1.3),
        measure: Ratio("repeated", ReplayProcess, Nginx, 64),
    },
    Aim {
        text: "replays through Redis / own pass-through, 64 connections",
        bound: AtLeast(0.7),
        measure: Ratio("repeated", ReplayRedis, PassThrough, 64),
    },
    Aim {
        text: "p50 at 1 connection, guarded minus pass-through / pgbench, the same two commits",
        bound: AtMost(1.3),
        measure: Added("one-client"),
    },
    Aim {
        text: "guarded on Postgres / idempotent-proxy-server on Redis (always), 256 connections",
        bound: AtLeast(4.0),
        measure: Ratio("peer", Postgres, Peer, 256),
    },
    Aim {
        text: "commits for each guarded request, 256 connections",
        bound: AtMost(0.1),
        measure: Commits("fresh", Postgres, 256),
    },
    Aim {
        text: "throughput with 20 million records / with none, 256 connections",
        bound: AtLeast(0.85),
        measure: Full(20e6),
    },
    Aim {
        text: "layer alone on the memory store: µs added to a fresh request",
        bound: AtMost(5.0),
        measure: Named("layer", layer::ADDED),
    },
    Aim {
        text: "a handler's transaction with the layer / without, 64 connections",
        bound: AtLeast(0.85),
        measure: Ratio("same-transaction", SameTransaction, BareTransaction, 64),
    },
    Aim {
        text: "events a second from the outbox to Redis Streams",
        bound: AtLeast(20_000.0),
        measure: Named("relay", relay::RATE),
    },
    Aim {
        text: "deliveries for each arrival while the backlog of a sink that was away drains",
        bound: AtLeast(2.0),
        measure: Named("sink-down", down::RATIO),
    },
];

impl Aim {
    /// What was measured; `None` where it was not.
    pub(crate) fn measured(&self, results: &Results) -> Option<Spread> {
        Spread::of(match self.measure {
            Ratio(case, over, under, connections) => {
                ratio(results, case, over, under, connections)?
            }
            Full(records) => {
                let held = &results.0.get("full-tables")?.figure(PRELOADED)?.values;
                if held.iter().any(|held| *held < records) {
                    return None;
                }
                ratio(results, "full-tables", Preloaded, Postgres, 256)?
            }
            Named(case, name) => results.0.get(case)?.figure(name)?.values.clone(),
            Added(case) => {
                let guarded = rounds(results, case, Postgres, 1)?;
                let plain = rounds(results, case, PassThrough, 1)?;
                let alone = &results.0.get(case)?.figure(PGBENCH_P50)?.values;
                let p50 = |sample: &Sample| count(sample.p50_us);
                let pairs = guarded.iter().zip(plain).zip(alone);
                pairs
                    .map(|((guarded, plain), alone)| (p50(guarded) - p50(plain)) / alone)
                    .collect()
            }
            Commits(case, subject, connections) => {
                let rounds = rounds(results, case, subject, connections)?;
                rounds
                    .iter()
                    .filter_map(Sample::commits_per_request)
                    .collect()
            }
        })
    }

    /// Whether the median is on the good side.
    pub(crate) fn is_met(&self, measured: Spread) -> bool {
        match self.bound {
            AtLeast(bound) => measured.median >= bound,
            AtMost(bound) => measured.median <= bound,
        }
    }
}

/// Throughput of one subject by that of another, round by round.
fn ratio(
    results: &Results,
    case: &str,
    over: Subject,
    under: Subject,
    connections: u32,
) -> Option<Vec<f64>> {
    let over = rounds(results, case, over, connections)?;
    let under = rounds(results, case, under, connections)?;
    let pairs = over.iter().zip(under);
    Some(
        pairs
            .map(|(over, under)| over.rate() / under.rate())
            .collect(),
    )
}

fn rounds<'a>(
    results: &'a Results,
    case: &str,
    subject: Subject,
    connections: u32,
) -> Option<&'a [Sample]> {
    let series = results.0.get(case)?.series(subject, connections)?;
    Some(&series.samples)
}
