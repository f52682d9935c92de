//! What was measured, as it is kept: a JSON file for each case below `target/bench`, all of
//! them in `docs/benchmarks/results.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::machine::Machine;
use crate::subject::Subject;
use crate::sweep::Swept;

/// One measured stretch of load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Answers that came.
    pub(crate) requests: u64,
    /// In so long.
    pub(crate) seconds: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    /// What reached the service behind.
    pub(crate) executed: u64,
    /// Answers of 409.
    pub(crate) conflicts: u64,
    /// CPU time of each process, in microseconds, of all requests together.
    pub(crate) cpu_us: BTreeMap<String, f64>,
    /// Transactions that wrote something.
    pub(crate) commits: Option<i64>,
    /// Bytes of write-ahead log.
    pub(crate) log_bytes: Option<i64>,
}

/// The stretches of one subject at one number of connections, a round each.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) subject: Subject,
    pub(crate) connections: u32,
    pub(crate) samples: Vec<Sample>,
}

/// Something else that was measured, once or in rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) values: Vec<f64>,
}

/// What one case gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) case: String,
    pub(crate) machine: Machine,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) series: Vec<Series>,
    pub(crate) figures: Vec<Figure>,
    /// Absent where it was kept before there were any.
    #[serde(default)]
    pub(crate) swept: Vec<Swept>,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

/// The outcomes of all cases that were measured, by name.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Results(pub(crate) BTreeMap<String, Outcome>);

/// The middle and the ends of what the rounds gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Sample {
    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        count(self.requests) / self.seconds
    }

    /// A process's CPU time for each request, in microseconds.
    pub(crate) fn cpu_per_request(&self, process: &str) -> f64 {
        self.cpu_us.get(process).copied().unwrap_or_default() / count(self.requests)
    }

    pub(crate) fn commits_per_request(&self) -> Option<f64> {
        Some(signed(self.commits?) / count(self.requests))
    }

    pub(crate) fn log_bytes_per_request(&self) -> Option<f64> {
        Some(signed(self.log_bytes?) / count(self.requests))
    }
}

impl Series {
    pub(crate) fn spread(&self, of: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.samples.iter().map(of).collect())
    }

    /// The processes whose CPU time was taken.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &str> {
        let first = self.samples.first();
        first
            .into_iter()
            .flat_map(|sample| sample.cpu_us.keys().map(String::as_str))
    }
}

impl Figure {
    pub(crate) fn new(name: &str, unit: &str, values: Vec<f64>) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            values,
        }
    }

    pub(crate) fn spread(&self) -> Option<Spread> {
        Spread::of(self.values.clone())
    }
}

impl Outcome {
    /// Notes and says what could not be measured.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        println!("FAILED: {failure}");
        self.failures.push(failure.to_string());
    }

    pub(crate) fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    pub(crate) fn series(&self, subject: Subject, connections: u32) -> Option<&Series> {
        self.series
            .iter()
            .find(|series| series.subject == subject && series.connections == connections)
    }

    pub(crate) fn save(&self, directory: &Path) -> Result<(), Failure> {
        fs::create_dir_all(directory)?;
        let path = directory.join(format!("{}.json", self.case));
        Ok(fs::write(path, serde_json::to_string_pretty(self)? + "\n")?)
    }
}

impl Results {
    /// All outcomes that are kept in a directory.
    pub(crate) fn load(directory: &Path) -> Result<Self, Failure> {
        let mut results = Self::default();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let text = fs::read_to_string(&path)?;
                let outcome: Outcome = serde_json::from_str(&text)
                    .map_err(|error| format!("{}: {error}; delete it", path.display()))?;
                results.0.insert(outcome.case.clone(), outcome);
            }
        }
        Ok(results)
    }
}

impl Spread {
    /// `None` of no value.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[half - 1], values[half])
        } else {
            values[half]
        };
        Some(Self {
            median,
            least,
            most,
        })
    }
}

/// Exact up to 2⁵³, which nothing here reaches.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(crate) fn count(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(crate) fn signed(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_two() {
        let spread = Spread::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.median, spread.least, spread.most), (2.5, 1.0, 4.0));
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
