//! What a claim and its settlement cost on SQLite: pairs a second, and the CPU time of each thread for a pair.
//!
//! Like the proxy's workers, two threads with a runtime each call one store. The throughput means little on a
//! machine that does something else; the CPU time means more, and says where a profile has to look.
//!
//! ```text
//! cargo run --release -p onlyonce-sqlx --features sqlite --example sqlite_pairs -- 256 200000
//! ```
//! The numbers: callers at the same time, and pairs in all.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce::store::{Claim, Claimed, OnUnknown, Settlement, Store};
use onlyonce::{CredentialHash, Fingerprint, RecordId, Token};
use onlyonce_sqlx::SqliteStore;
use tokio::time::Instant;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const WORKERS: usize = 2;
/// As large as a small answer with its fields.
const RESPONSE: &[u8] = &[b'a'; 300];
/// The unit of the times in `/proc`: a hundredth of a second.
const TICK_MICROS: u64 = 10_000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let mut numbers = std::env::args().skip(1);
    let callers = numbers
        .next()
        .map_or(Ok(256), |number| number.parse::<usize>())?;
    let pairs = numbers
        .next()
        .map_or(Ok(200_000), |number| number.parse::<u64>())?;
    let directory = tempfile::tempdir_in(".")?;
    let store = SqliteStore::open(directory.path().join("onlyonce.db"))?;
    let left = Arc::new(AtomicU64::new(pairs));
    let began = Instant::now();
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let (store, left) = (store.clone(), Arc::clone(&left));
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    work(&store, &left, callers / WORKERS).map(|()| spent_by_this_thread())
                })
        })
        .collect::<Result<_, _>>()?;
    let mut spent = BTreeMap::new();
    for worker in workers {
        let worker = worker.join().map_err(|_| "a worker panicked")??;
        *spent.entry("workers".to_owned()).or_insert(0) += worker;
    }
    let elapsed = began.elapsed();
    spent.extend(spent_by_threads()?);
    println!("{:.0} pairs/s", per(pairs, elapsed.as_secs_f64()));
    for (thread, micros) in spent {
        println!(
            "{thread}: {:.1} µs of CPU a pair",
            per(micros, per(pairs, 1.0))
        );
    }
    Ok(())
}

/// Claims and settles, so many at a time, until nothing is left to do.
fn work(store: &SqliteStore, left: &Arc<AtomicU64>, callers: usize) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let callers: Vec<_> = (0..callers)
            .map(|_| tokio::spawn(call(store.clone(), Arc::clone(left))))
            .collect();
        for caller in callers {
            caller.await??;
        }
        Ok(())
    })
}

async fn call(store: SqliteStore, left: Arc<AtomicU64>) -> Result<(), Failure> {
    let take = |left: u64| left.checked_sub(1);
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        .is_ok()
    {
        let token = Token::random();
        let claim = Claim {
            // As random as a token is.
            id: RecordId::from_bytes(*token.as_bytes()),
            token,
            fingerprint: Fingerprint::from_bytes([1; 32]),
            credential: CredentialHash::from_bytes([2; 32]),
            lease: Duration::from_secs(65),
            retention: Duration::from_secs(86_400),
            on_unknown: OnUnknown::Hold,
            asked_at: Instant::now(),
        };
        let Claimed::Acquired(epoch) = store.claim(&claim).await? else {
            return Err("a random id came twice".into());
        };
        let response = Settlement::Completed(RESPONSE.into());
        store.settle(&claim, epoch, &response).await?;
    }
    Ok(())
}

/// In microseconds, by name, of the threads that are not workers.
fn spent_by_threads() -> Result<BTreeMap<String, u64>, Failure> {
    let mut spent = BTreeMap::new();
    for thread in fs::read_dir("/proc/self/task")? {
        let stat = fs::read_to_string(thread?.path().join("stat"))?;
        if let Some((name, micros)) = spent_by(&stat) {
            *spent.entry(name.to_owned()).or_insert(0) += micros;
        }
    }
    Ok(spent)
}

fn spent_by_this_thread() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    spent_by(&stat).map_or(0, |(_, micros)| micros)
}

/// Name and CPU time out of a line of `/proc`.
fn spent_by(stat: &str) -> Option<(&str, u64)> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let ticks = |field: Option<&str>| field?.parse::<u64>().ok();
    let micros = (ticks(fields.next())? + ticks(fields.next())?) * TICK_MICROS;
    Some((name, micros))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn per(count: u64, of: f64) -> f64 {
    count as f64 / of
}
