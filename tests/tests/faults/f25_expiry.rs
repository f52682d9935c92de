//! F25: retention ends while clients retry and the sweep deletes. A key is either the old one or a new one at
//! each moment, and nobody is told of an error of ours.
//!
//! Retention is longer than two deadlines and the margin of a lease, so this takes its ten seconds.

use std::time::Duration;

use onlyonce_test::client::{self, Response};
use onlyonce_test::process::Proxy;
use sqlx::postgres::PgConnection;
use sqlx::raw_sql;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::load::number_charges;
use crate::setup::{BODY, PATH, Setup, Store, answer, code, on_each_store};

on_each_store!(f25_retention_ends_while_a_hundred_clients_retry);

const RETENTION: Duration = Duration::from_secs(10);
const KEYS: usize = 20;
const CLIENTS: usize = 100;

async fn f25_retention_ends_while_a_hundred_clients_retry(setup: Setup) {
    number_charges(&setup.legacy);
    let launch = setup
        .launch()
        .arg("--deadline")
        .arg("2s")
        .arg("--retention")
        .arg("10s");
    let launch = launch.env("ONLYONCE__STORE__SWEEP_INTERVAL", "100ms");
    let proxies = [launch.start().await, launch.start().await];
    let started = Instant::now();
    for number in 0..KEYS {
        assert_eq!(answer(&proxies[0], &key(number)).await.status, 201);
    }
    let claimed = Instant::now();
    let _reader = reader(&setup).await;

    // From a second before the first can expire to a second after the last has.
    tokio::time::sleep_until(started + RETENTION - Duration::from_secs(1)).await;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let addr = proxies[number % 2].addr();
        clients.spawn(retry_until(
            addr,
            key(number % KEYS),
            claimed + RETENTION + Duration::from_secs(1),
        ));
    }
    let answers: usize = clients.join_all().await.into_iter().sum();
    let over = started.elapsed();
    println!("{answers} answers");
    assert!(
        over < RETENTION * 2,
        "too slow to say what was to be seen: {over:?}"
    );
    for number in 0..KEYS {
        assert_eq!(
            setup.legacy.effects_of(&key(number)),
            2,
            "one in each of two retentions"
        );
    }
    assert_no_complaints(&proxies);
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// A transaction that reads responses and does not end: partitions cannot be dropped under it.
async fn reader(setup: &Setup) -> Option<PgConnection> {
    let Store::Postgres(database) = &setup.store else {
        return None;
    };
    let mut reader = database.connect().await;
    let read = raw_sql("begin; select count(*) from onlyonce_responses")
        .execute(&mut reader)
        .await;
    read.expect("it can be read");
    Some(reader)
}

async fn retry_until(addr: std::net::SocketAddr, key: String, end: Instant) -> usize {
    let mut answers = 0;
    while Instant::now() < end {
        let answer: Response = client::post(addr, PATH, &key, BODY)
            .await
            .expect("an answer");
        let known = answer.status == 201 || code(&answer) == "request-in-progress";
        assert!(known, "{key}: {answer:?}");
        answers += 1;
        // Clients pause; and so the machine's other tests get their turn.
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    answers
}

fn assert_no_complaints(proxies: &[Proxy]) {
    for proxy in proxies {
        let log = proxy.log();
        let bad = |line: &&String| line.contains("ERROR") || line.contains("panicked");
        assert_eq!(log.iter().find(bad), None);
    }
}
