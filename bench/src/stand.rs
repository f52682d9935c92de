//! A subject that is set up to be measured, and one measured stretch.
//!
//! Every stretch is also a proof: the service behind must have executed as often as there were fresh
//! keys, and no oftener. A guard that does not guard is not worth a figure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use onlyonce_test::client::Raw;
use onlyonce_test::postgres::Database;
use onlyonce_test::process::{Launch, Proxy};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::Failure;
use crate::cpu;
use crate::load::{Counted, Load};
use crate::results::Sample;
use crate::servers::{Servers, Written};
use crate::subject::{Subject, Traffic};

/// As many connections are kept to the service behind as any case has clients; nginx does so too.
const IDLE_CONNECTIONS: &str = "1024";

/// So many clients execute what is replayed afterwards.
const PRIMING_CLIENTS: usize = 16;

/// A subject, ready for load. What it started ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Stand {
    subject: Subject,
    addr: SocketAddr,
    load: Load,
    /// Whose CPU time is counted, descendants included.
    processes: Vec<(&'static str, u32)>,
    // In this order: the proxy ends first.
    _proxy: Option<Proxy>,
    _database: Option<Database>,
    _directory: TempDir,
}

/// What is read before and after a stretch.
struct Counters {
    cpu: BTreeMap<&'static str, Duration>,
    executed: u64,
    written: Option<Written>,
}

impl Stand {
    /// Sets a subject up on a store of its own, which is empty.
    pub(crate) async fn set_up(subject: Subject, servers: &Servers) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        let mut processes = vec![("service", servers.service.id())];
        let database = if subject.is_on_postgres() {
            processes.push(("postgres", servers.postgres.id().ok_or("Postgres ended")?));
            Some(Database::fresh_at(&servers.postgres.url("postgres")).await)
        } else {
            None
        };
        let store = match (subject, &database) {
            (_, Some(database)) => database.url(),
            (Subject::Sqlite, _) => {
                format!(
                    "sqlite://{}",
                    directory.path().join("onlyonce.db").display()
                )
            }
            _ => "memory:".to_owned(),
        };
        let (addr, proxy) = if subject == Subject::Nginx {
            processes.push(("nginx", servers.front.id()));
            (servers.front.addr(), None)
        } else {
            let proxy = launch(subject, &store, servers).start().await;
            processes.push(("onlyonce", proxy.id().ok_or("onlyonce ended")?));
            (proxy.addr(), Some(proxy))
        };
        Ok(Self {
            subject,
            addr,
            load: Load::new(subject.traffic(), "/charges")?,
            processes,
            _proxy: proxy,
            _database: database,
            _directory: directory,
        })
    }

    pub(crate) fn subject(&self) -> Subject {
        self.subject
    }

    /// Executes what is replayed afterwards, where that is what is measured.
    pub(crate) async fn prime(&self) -> Result<(), Failure> {
        if self.subject.traffic() != Traffic::Replays {
            return Ok(());
        }
        let requests = self.load.requests_to_replay();
        let mut clients = JoinSet::new();
        for part in requests.chunks(requests.len().div_ceil(PRIMING_CLIENTS)) {
            clients.spawn(execute(self.addr, part.to_vec()));
        }
        while let Some(outcome) = clients.join_next().await {
            outcome??;
        }
        Ok(())
    }

    /// Load that is not measured: connections, caches and prepared statements are there afterwards.
    pub(crate) async fn warm_up(&mut self, connections: u32) -> Result<(), Failure> {
        self.load.run(self.addr, connections, 1).await.map(drop)
    }

    /// One measured stretch of load.
    pub(crate) async fn measure(
        &mut self,
        servers: &mut Servers,
        connections: u32,
        seconds: u64,
    ) -> Result<Sample, Failure> {
        if self.subject.is_on_postgres() {
            servers.settle().await?;
        }
        let before = self.counters(servers).await?;
        let counted = self.load.run(self.addr, connections, seconds).await?;
        let after = self.counters(servers).await?;
        // The second question was a request too.
        let executed = after.executed - before.executed - 1;
        check(self.subject.traffic(), &counted, executed, connections).map_err(|wrong| {
            format!(
                "{}, {connections} connections: {wrong}; {counted:?}, {executed} executed",
                self.subject.label()
            )
        })?;
        Ok(sample(&counted, executed, &before, &after))
    }

    async fn counters(&self, servers: &mut Servers) -> Result<Counters, Failure> {
        let mut cpu: BTreeMap<_, _> = BTreeMap::new();
        for &(name, id) in &self.processes {
            cpu.insert(name, cpu::of_tree(id)?);
        }
        cpu.insert("wrk", cpu::of_ended_children()?);
        let written = if self.subject.is_on_postgres() {
            Some(servers.written().await?)
        } else {
            None
        };
        Ok(Counters {
            cpu,
            executed: servers.service.requests()?,
            written,
        })
    }
}

fn launch(subject: Subject, store: &str, servers: &Servers) -> Launch {
    let launch = Launch::serve(["--upstream", &servers.service.url(), "--store", store])
        .program(servers.program.clone())
        // As nginx, which writes no access log here.
        .env("ONLYONCE__LOG__LEVEL", "warn")
        .env("ONLYONCE__UPSTREAM__IDLE_CONNECTIONS_MAX", IDLE_CONNECTIONS);
    match subject {
        Subject::OneByOne => launch.env("ONLYONCE__STORE__GROUP_COMMIT", "false"),
        Subject::Memory => launch.env("ONLYONCE__STORE__RECORDS_MAX", "10000000"),
        _ => launch,
    }
}

/// Executes requests one after the other, and sees that the first of them is replayed.
async fn execute(addr: SocketAddr, requests: Vec<String>) -> Result<(), Failure> {
    let mut client = Raw::try_connect(addr).await?;
    for (number, request) in requests.iter().enumerate() {
        client.send(request).await;
        let first = client.response().await?;
        if first.status != 201 || first.is_replay() {
            return Err(format!("not executed: {first:?}").into());
        }
        if number == 0 {
            client.send(request).await;
            let second = client.response().await?;
            if !second.is_replay() || second.body != first.body {
                return Err(format!("not replayed: {second:?}").into());
            }
        }
    }
    Ok(())
}

/// Whether the answers were right, and the service behind executed what it should have.
fn check(
    traffic: Traffic,
    counted: &Counted,
    executed: u64,
    connections: u32,
) -> Result<(), &'static str> {
    // Requests that wrk does not wait for at its end may have been executed or not.
    let in_flight = u64::from(connections);
    let expected = match traffic {
        Traffic::Plain => counted.requests..=counted.requests + in_flight,
        Traffic::Fresh => counted.requests..=counted.fresh,
        Traffic::Replays => 0..=0,
        Traffic::Storm => counted.fresh.saturating_sub(in_flight)..=counted.fresh,
    };
    let right = match traffic {
        // What is in flight is answered with 409, as it should be.
        Traffic::Storm => counted.others == 0 && counted.accepted + counted.conflicts > 0,
        Traffic::Plain | Traffic::Fresh | Traffic::Replays => counted.refused == 0,
    };
    if counted.broken > 0 {
        return Err("connections failed or answers came too late");
    }
    if !right {
        return Err("answers with an unexpected status");
    }
    if !expected.contains(&executed) {
        return Err("executions and fresh keys differ");
    }
    if counted.requests == 0 {
        return Err("no answer came");
    }
    Ok(())
}

fn sample(counted: &Counted, executed: u64, before: &Counters, after: &Counters) -> Sample {
    let spent = |(name, spent): (&&'static str, &Duration)| {
        let spent = spent.saturating_sub(before.cpu.get(name).copied().unwrap_or_default());
        ((*name).to_owned(), spent.as_secs_f64() * 1e6)
    };
    let written = before.written.zip(after.written);
    Sample {
        requests: counted.requests,
        seconds: Duration::from_micros(counted.micros).as_secs_f64(),
        p50_us: counted.p50,
        p99_us: counted.p99,
        executed,
        conflicts: counted.conflicts,
        cpu_us: after.cpu.iter().map(spent).collect(),
        commits: written.map(|(before, after)| after.transactions - before.transactions),
        log_bytes: written.map(|(before, after)| after.log_bytes - before.log_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTED: Counted = Counted {
        requests: 100,
        micros: 1_000_000,
        p50: 10,
        p99: 20,
        fresh: 102,
        accepted: 0,
        conflicts: 0,
        others: 0,
        refused: 0,
        broken: 0,
    };

    #[test]
    fn a_guard_that_executes_too_often_or_too_seldom_is_found() {
        let fresh = |executed| check(Traffic::Fresh, &COUNTED, executed, 2);
        assert!(fresh(100).is_ok() && fresh(102).is_ok());
        assert!(fresh(99).is_err() && fresh(103).is_err());
    }

    #[test]
    fn replays_execute_nothing_and_a_storm_every_fresh_key() {
        assert!(check(Traffic::Replays, &COUNTED, 1, 2).is_err());
        assert!(check(Traffic::Replays, &COUNTED, 0, 2).is_ok());
        let storm = Counted {
            fresh: 10,
            accepted: 60,
            conflicts: 40,
            refused: 40,
            ..COUNTED
        };
        assert!(check(Traffic::Storm, &storm, 9, 2).is_ok());
        assert!(check(Traffic::Storm, &storm, 11, 2).is_err());
        let failing = Counted { others: 1, ..storm };
        assert!(check(Traffic::Storm, &failing, 9, 2).is_err());
    }

    #[test]
    fn answers_that_are_errors_are_found() {
        let refused = Counted {
            refused: 1,
            ..COUNTED
        };
        let broken = Counted {
            broken: 1,
            ..COUNTED
        };
        for counted in [refused, broken] {
            assert!(check(Traffic::Plain, &counted, 100, 2).is_err());
        }
    }
}
