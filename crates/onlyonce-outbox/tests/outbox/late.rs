//! Events that wait for so long that receivers may forget what they had: a relay and the status tell.

use std::time::Duration;

use onlyonce_outbox::dead::{self, Filter};
use onlyonce_outbox::sinks::Memory;
use onlyonce_outbox::status::status;
use onlyonce_outbox::{Ack, RelayOptions, SinkError, append};
use onlyonce_test::event::within;
use sqlx::postgres::PgConnection;

use crate::fixture::{Postgres, run};
use crate::relay::{Running, commit, payment, quick};

const SECOND: Duration = Duration::from_secs(1);

/// Two seconds are half of the window.
fn forgetful() -> RelayOptions {
    quick().max_age(SECOND).receivers_remember(Some(4 * SECOND))
}

async fn until(relay: &Running, late: u64) {
    let told = async {
        while relay.monitor.stats().late != late {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(&format!("lateness to be {late}"), told).await;
}

async fn status_says(connection: &mut PgConnection, late: bool) {
    let says = async {
        while status(connection).await.unwrap().sinks[0].is_late() != late {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(&format!("the status to be late: {late}"), says).await;
}

/// No relay runs meanwhile, and the database knows the window all the same.
#[tokio::test]
async fn what_waited_for_a_relay_is_told_when_one_comes() {
    let postgres = Postgres::behind_pgbouncer().await;
    let sink = Memory::new("sink");
    let relay = Running::start(&postgres, &sink, forgetful());
    let mut connection = postgres.connect().await;
    commit(&mut connection, &[payment("a", 1)]).await;
    within("a first event", sink.reached(1)).await;
    until(&relay, 0).await;
    relay.stop().await;
    commit(&mut connection, &[payment("a", 2)]).await;
    assert!(!status(&mut connection).await.unwrap().sinks[0].is_late());
    status_says(&mut connection, true).await;
    let relay = Running::start(&postgres, &sink, forgetful());
    until(&relay, 1).await;
    within("the event", sink.reached(2)).await;
    until(&relay, 0).await;
    status_says(&mut connection, false).await;
    relay.stop().await;

    // For ever is long.
    let told = status(&mut connection).await.unwrap();
    assert_eq!(told.sinks[0].dedupe_window, Some(4 * SECOND));
    let relay = Running::start(&postgres, &sink, quick().receivers_remember(None));
    commit(&mut connection, &[payment("a", 3)]).await;
    within("a last event", sink.reached(3)).await;
    relay.stop().await;
    let told = status(&mut connection).await.unwrap();
    assert_eq!(told.sinks[0].dedupe_window, None);
}

/// What waits behind a dead letter ages; the dead one does not wait for anything.
#[tokio::test]
async fn what_waits_behind_the_dead_is_told() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    sink.judge(|envelope| match &*envelope.payload {
        b"1" => Err(SinkError::dead("malformed")),
        _ => Ok(Ack::default()),
    });
    let relay = Running::start(&postgres, &sink, forgetful());
    let mut connection = postgres.connect().await;
    commit(
        &mut connection,
        &[payment("a", 1), payment("a", 2), payment("b", 1)],
    )
    .await;
    until(&relay, 1).await;
    let told = status(&mut connection).await.unwrap();
    let of_sink = &told.sinks[0];
    assert!(of_sink.is_late() && of_sink.oldest_parked() > Some(2 * SECOND));
    assert_eq!((of_sink.parked_keys, of_sink.dead()), (2, 2));
    let a = Filter::sink("sink").key("a");
    assert_eq!(dead::discard(&mut connection, &a).await.unwrap(), 1);
    within("the one behind", sink.reached(1)).await;
    until(&relay, 0).await;
    status_says(&mut connection, false).await;
    relay.stop().await;
}

/// Its transaction was open when the cursor passed it.
#[tokio::test]
async fn what_committed_late_is_told() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    let relay = Running::start(&postgres, &sink, forgetful());
    let (mut open, mut connection) = (postgres.connect().await, postgres.connect().await);
    run(&mut open, "begin").await;
    append(&mut open, &[payment("a", 1), payment("c", 1)], None)
        .await
        .unwrap();
    let others: Vec<_> = (0..200).map(|key| payment(key, 1)).collect();
    commit(&mut connection, &others).await;
    within("the others", sink.reached(200)).await;
    relay.stop().await;
    run(&mut open, "commit").await;
    status_says(&mut connection, true).await;
    let relay = Running::start(&postgres, &sink, forgetful());
    until(&relay, 1).await;
    within("both", sink.reached(202)).await;
    until(&relay, 0).await;
    relay.stop().await;
}
