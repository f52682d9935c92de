//! A subject that is set up to be measured, and one measured stretch.
//!
//! Every stretch is also a proof: the service behind must have executed as often as there were fresh
//! keys, and no oftener. A guard that does not guard is not worth a figure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use onlyonce_test::client::Raw;
use onlyonce_test::postgres::Database;
use tokio::task::JoinSet;

mod check;
mod way;

use self::check::check;
use self::way::Way;
use crate::Failure;
use crate::cpu;
use crate::load::{Counted, Load};
use crate::results::Sample;
use crate::servers::{Servers, Written};
use crate::subject::{Subject, Traffic};

/// So many clients execute what is replayed afterwards.
const PRIMING_CLIENTS: usize = 16;

/// A subject, ready for load. What it started ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Stand {
    subject: Subject,
    connections: u32,
    load: Load,
    way: Way,
    /// How often the service behind was asked what it has executed.
    asked: u64,
}

/// What is read before and after a stretch.
struct Counters {
    cpu: BTreeMap<&'static str, Duration>,
    executed: u64,
    written: Option<Written>,
}

impl Stand {
    /// Sets a subject up on a store of its own, which is empty, or holds so many records where that is
    /// what is measured.
    pub(crate) async fn set_up(
        subject: Subject,
        servers: &Servers,
        connections: u32,
        preloaded: u64,
    ) -> Result<Self, Failure> {
        let way = Way::to(subject, servers, preloaded).await?;
        Ok(Self {
            load: Load::new(subject.traffic(), subject.target(), connections)?,
            subject,
            connections,
            way,
            asked: 0,
        })
    }

    pub(crate) fn subject(&self) -> Subject {
        self.subject
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.way.addr
    }

    /// The process id of onlyonce, where that is in the way.
    pub(crate) fn onlyonce(&self) -> Option<u32> {
        let mut processes = self.way.processes.iter();
        processes.find_map(|(name, id)| (*name == "onlyonce").then_some(*id))
    }

    /// Its database, where it has one.
    pub(crate) fn database(&self) -> Option<&Database> {
        self.way.database.as_ref()
    }

    /// The file that its records are in, where they are in one.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.way.file.clone()
    }

    /// Executes what is replayed afterwards, where that is what is measured.
    pub(crate) async fn prime(&self) -> Result<(), Failure> {
        if self.subject.traffic() != Traffic::Replays {
            return Ok(());
        }
        let requests = self.load.requests_to_replay();
        let mut clients = JoinSet::new();
        for part in requests.chunks(requests.len().div_ceil(PRIMING_CLIENTS)) {
            clients.spawn(execute(self.way.addr, part.to_vec()));
        }
        while let Some(outcome) = clients.join_next().await {
            outcome??;
        }
        Ok(())
    }

    /// Load that is not measured: connections, caches and prepared statements are there afterwards.
    pub(crate) async fn warm_up(&mut self) -> Result<(), Failure> {
        self.load.run(self.way.addr, 1).await.map(drop)
    }

    /// One measured stretch of load.
    pub(crate) async fn measure(
        &mut self,
        servers: &mut Servers,
        seconds: u64,
    ) -> Result<Sample, Failure> {
        if self.subject.is_on_postgres() {
            servers.settle().await?;
        }
        let before = self.counters(servers).await?;
        let counted = self.load.run(self.way.addr, seconds).await?;
        let after = self.counters(servers).await?;
        let executed = after.executed - before.executed;
        check(self.subject.traffic(), &counted, executed, self.connections).map_err(|wrong| {
            format!(
                "{}, {} connections: {wrong}; {counted:?}, {executed} executed",
                self.subject.label(),
                self.connections
            )
        })?;
        Ok(sample(&counted, executed, &before, &after))
    }

    async fn counters(&mut self, servers: &mut Servers) -> Result<Counters, Failure> {
        let mut cpu: BTreeMap<_, _> = BTreeMap::new();
        for &(name, id) in &self.way.processes {
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
            executed: self.executed(servers).await?,
            written,
        })
    }

    /// What was executed until now.
    async fn executed(&mut self, servers: &Servers) -> Result<u64, Failure> {
        if let (true, Some(database)) = (self.subject.is_the_service(), self.database()) {
            let payments: i64 = sqlx::query_scalar("select count(*) from payments")
                .fetch_one(&mut database.connect().await)
                .await?;
            return Ok(payments.try_into()?);
        }
        // The question is a request too.
        self.asked += 1;
        Ok(servers.service.requests()? - self.asked)
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
