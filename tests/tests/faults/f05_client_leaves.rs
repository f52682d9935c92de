//! F5: the client goes away at each point of its request. What was begun is finished, nothing stays open in
//! the database, and the next request is answered rightly: with one connection for all of them.

use std::time::Duration;

use onlyonce_test::client::{Raw, post_bytes};
use onlyonce_test::event::Gate;
use onlyonce_test::fault::{Action, PgFault};
use onlyonce_test::postgres::Database;
use onlyonce_test::process::{Launch, Proxy};
use onlyonce_test::upstream::Reply;
use sqlx::{AssertSqlSafe, Row, raw_sql};

use crate::setup::{BODY, PATH, Setup, answer, assert_replays, retry_while_in_progress};

fn with_one_connection(launch: Launch) -> Launch {
    launch.env("ONLYONCE__STORE__CONNECTIONS", "1")
}

/// Sends a whole request and goes away once `point` is reached.
async fn leave_at(proxy: &Proxy, key: &str, point: impl Future<Output = ()>) {
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(post_bytes(PATH, key, BODY)).await;
    point.await;
    client.reset();
}

/// Waits until no connection of ours is idle in a transaction that was open when this was called. Others may be:
/// behind a pooler the proxy has its generation confirmed in a transaction, twice a second.
///
/// # Panics
/// After two seconds, which is long before the server would end a transaction that was left open.
async fn nothing_stays_open(database: &Database) {
    let mut admin = database.connect().await;
    let row = raw_sql("select clock_timestamp()::text").fetch_one(&mut admin);
    let called: String = row.await.expect("an answer").get(0);
    let ask = format!(
        "select count(*) from pg_stat_activity where application_name = 'onlyonce' \
         and datname = current_database() and state like 'idle in transaction%' \
         and xact_start <= '{called}'"
    );
    let none_is_left = async {
        loop {
            let row = raw_sql(AssertSqlSafe(ask.clone()))
                .fetch_one(&mut admin)
                .await;
            if row.expect("an answer").get::<i64, _>(0) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(2), none_is_left).await;
    assert!(ended.is_ok(), "a transaction was left open");
}

/// The request that a client left behind has been executed once, and its answer is there for a retry.
async fn assert_finished(setup: &Setup, proxy: &Proxy, key: &str) {
    let replay = retry_while_in_progress(proxy, key).await;
    assert_eq!((replay.status, replay.text()), (200, "done"), "{replay:?}");
    assert_replays(&answer(proxy, key).await, &replay);
    assert_eq!(setup.legacy.effects_of(key), 1);
    nothing_stays_open(setup.store.database()).await;
}

#[tokio::test]
async fn f5_the_client_leaves_while_it_sends() {
    let setup = Setup::postgres().await;
    let proxy = with_one_connection(setup.launch()).start().await;
    let request = post_bytes(PATH, "key", BODY);
    for sent in (0..request.len()).step_by(7).chain([request.len() - 1]) {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(&request[..sent]).await;
        client.reset();
    }
    let first = answer(&proxy, "key").await;
    assert_eq!(
        (first.status, first.is_replay()),
        (200, false),
        "none of them was a whole request"
    );
    assert_eq!((setup.legacy.effects(), setup.list().await.len()), (1, 1));
}

#[tokio::test]
async fn f5_the_client_leaves_while_its_key_is_claimed() {
    let setup = Setup::postgres().await;
    let fault = PgFault::start(&setup.store.url()).await;
    let proxy = with_one_connection(setup.launch_on(fault.url()))
        .start()
        .await;
    answer(&proxy, "warm").await;
    let gate = Gate::default();
    let claims = |sql: &str| sql.contains("insert into onlyonce_records");
    let held = fault.on_next(claims, Action::Hold(gate.clone()));
    leave_at(&proxy, "key", held.happened(1)).await;
    gate.open();
    setup.legacy.wait_for_effects(2).await;
    assert_finished(&setup, &proxy, "key").await;
}

#[tokio::test]
async fn f5_the_client_leaves_between_claim_and_forward() {
    let setup = Setup::postgres().await;
    let directory = tempfile::tempdir().expect("a directory");
    let go = directory.path().join("go");
    let pause = format!("before_forward=1*pause({})", go.display());
    let proxy = with_one_connection(setup.launch())
        .failpoints(&pause)
        .start()
        .await;
    leave_at(&proxy, "key", async {
        proxy.logged("failpoint before_forward").await;
    })
    .await;
    std::fs::write(&go, "").expect("written");
    setup.legacy.wait_for_effects(1).await;
    assert_finished(&setup, &proxy, "key").await;
}

#[tokio::test]
async fn f5_the_client_leaves_while_the_upstream_is_at_work() {
    let setup = Setup::postgres().await;
    let proxy = with_one_connection(setup.launch()).start().await;
    let gate = Gate::default();
    setup
        .legacy
        .script(Reply::new(200).body("done").held_at(&gate));
    leave_at(&proxy, "key", gate.reached(1)).await;
    gate.open();
    assert_finished(&setup, &proxy, "key").await;
}

#[tokio::test]
async fn f5_the_client_leaves_while_its_answer_is_recorded() {
    let setup = Setup::postgres().await;
    let fault = PgFault::start(&setup.store.url()).await;
    let proxy = with_one_connection(setup.launch_on(fault.url()))
        .start()
        .await;
    let gate = Gate::default();
    let settles = |sql: &str| sql.contains("set state = 2");
    let held = fault.on_next(settles, Action::Hold(gate.clone()));
    leave_at(&proxy, "key", held.happened(1)).await;
    gate.open();
    assert_finished(&setup, &proxy, "key").await;
}

/// Whatever the moment: a sweep over the whole duration of a request, through a pool of one connection.
#[tokio::test]
async fn f5_the_client_leaves_at_any_moment() {
    leaves_at_any_moment("").await;
}

/// Here each statement has a transaction of its own, which nobody may leave open.
#[tokio::test]
async fn f5_the_client_leaves_at_any_moment_in_pooler_mode() {
    leaves_at_any_moment("?pooler=transaction").await;
}

async fn leaves_at_any_moment(parameters: &str) {
    let setup = Setup::postgres().await;
    let launch = setup.launch_on(&format!("{}{parameters}", setup.store.url()));
    let proxy = with_one_connection(launch).start().await;
    let keys: Vec<_> = (0..120).map(|step| format!("key-{step}")).collect();
    for (step, key) in (0..).zip(&keys) {
        let moment = tokio::time::sleep(Duration::from_micros(250 * step));
        leave_at(&proxy, key, moment).await;
    }
    for key in &keys {
        // Some were left before they were read, and execute now.
        assert_finished(&setup, &proxy, key).await;
    }
    assert_eq!(setup.legacy.effects(), keys.len());
}
