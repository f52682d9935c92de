//! F5 and F6, deadlines, panics.

use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use onlyonce::Policy;
use onlyonce::body::RequestBody;
use onlyonce_axum::{IdempotentTx, TransactionalLayer};
use onlyonce_test::event::{Gate, polled, within};
use onlyonce_test::fault::{Action, PgFault};
use tower::ServiceExt;

use crate::fixture::*;

#[tokio::test]
async fn a_panic_leaves_nothing_and_the_retry_executes() {
    let site = Site::fresh().await;
    let app = app(&site.layer(1));
    for _ in 0..2 {
        let answer = post_to(&app, "/panics", "k").await;
        assert_eq!((answer.status, answer.code()), (500, "rolled-back".into()));
        assert_eq!(answer.headers["x-should-retry"], "true");
        assert_eq!(site.rows().await, (0, 0, 0));
    }
    assert_eq!(charge_of(&app, "other", 1).await.status, 201);
    site.nothing_is_open().await;
}

/// A client that leaves once its request is claimed: the work finishes, and the retry gets its answer.
#[tokio::test]
async fn the_work_of_a_client_that_left_is_finished() {
    let site = Site::fresh().await;
    let layer = site.layer(1);
    let (app, gate) = slow_app(&layer);
    let leaving = tokio::spawn({
        let app = app.clone();
        async move { post_to(&app, "/slow", "k").await }
    });
    gate.reached(1).await;
    leaving.abort();
    assert!(leaving.await.unwrap_err().is_cancelled());
    assert_eq!(site.rows().await, (0, 0, 0), "it is still at work");
    gate.open();
    assert!(layer.drain(Duration::from_secs(20)).await);
    assert_eq!(site.rows().await, (1, 1, 1));
    let again = post_to(&app, "/slow", "k").await;
    assert_eq!(
        (again.status, again.text(), again.is_replay()),
        (201, "payment 1", true)
    );
    site.nothing_is_open().await;
}

/// F5: a pool of one, and clients that leave at every point where they can, with a key and without.
#[tokio::test]
async fn clients_that_leave_at_every_await_leave_no_transaction() {
    let site = Site::fresh().await;
    let app = app(&site.layer(1));
    for number in 0..60 {
        let keyed = number % 2 == 0;
        let key = format!("k-{number}");
        let sent = request("/charges", keyed.then_some(key.as_str()), "{\"amount\":1}");
        let _ = polled(number / 2 % 15, app.clone().oneshot(sent)).await;
        site.nothing_is_open().await;
        if keyed {
            // Finished, never begun, or still at work; then it is done, once.
            let mut answer = charge_of(&app, &key, 1).await;
            while answer.status == 409 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                answer = charge_of(&app, &key, 1).await;
            }
            assert_eq!(answer.status, 201);
        }
    }
    assert_eq!(site.count("onlyonce_records").await, 30);
    let once = "select count(*) = count(distinct origin_key) from onlyonce_outbox_event where origin_key is not null";
    assert!(site.value::<bool>(once).await, "one effect for each key");
}

/// The handler is cut off before the core would have to call the outcome unknown.
#[tokio::test]
async fn at_the_deadline_the_transaction_is_rolled_back() {
    let site = Site::fresh().await;
    let policy = Policy::default().with_deadline(Duration::from_millis(500));
    let (app, gate) = slow_app(&site.layer(1).with_policy(policy));
    let answer = post_to(&app, "/slow", "k").await;
    assert_eq!((answer.status, answer.code()), (504, "rolled-back".into()));
    assert_eq!(answer.headers["x-should-retry"], "true");
    site.nothing_is_open().await;
    assert_eq!(site.rows().await, (0, 0, 0));
    gate.open();
    assert_eq!(post_to(&app, "/slow", "k").await.status, 201);
    assert_eq!(site.rows().await, (1, 1, 1));
}

/// As above, in the middle of a statement that the server goes on with.
#[tokio::test]
async fn at_the_deadline_a_statement_that_runs_is_no_obstacle() {
    let site = Site::fresh().await;
    let policy = Policy::default().with_deadline(Duration::from_millis(500));
    let app = one_route(
        &site.layer(1).with_policy(policy),
        async |mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            sqlx::query("select pg_sleep(2)").execute(&mut *tx).await?;
            Ok("done".into_response())
        },
    );
    let answer = post_to(&app, "/", "k").await;
    assert_eq!((answer.status, answer.code()), (504, "rolled-back".into()));
    // Its lock lasts as long as the server takes to notice.
    let again = post_to(&app, "/", "k").await;
    assert!(matches!(again.status, 409 | 503 | 504), "{again:?}");
    site.nothing_is_open().await;
    assert_eq!(site.rows().await, (0, 0, 0));
}

#[tokio::test]
async fn drain_that_gives_up_rolls_back() {
    let site = Site::fresh().await;
    let layer = site.layer(1);
    let (app, gate) = slow_app(&layer);
    let first = tokio::spawn({
        let app = app.clone();
        async move { post_to(&app, "/slow", "k").await }
    });
    gate.reached(1).await;
    assert!(!layer.drain(Duration::from_millis(50)).await);
    let first = within("an answer", first).await.unwrap();
    assert_eq!(first.status, 502);
    site.nothing_is_open().await;
    assert_eq!(site.rows().await, (0, 0, 0));
}

/// The driver's own. What looks after the tables in the background commits with a statement of ours.
fn is_commit(sql: &str) -> bool {
    sql == "COMMIT"
}

/// F6: the commit happened, and its answer is lost. The client gets its answer all the same.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_committed() {
    let site = Site::fresh().await;
    site.hold_sweeps().await;
    let fault = PgFault::start(&site.database.url()).await;
    let app = app(&TransactionalLayer::new(pool(fault.url(), 2)));
    for expired in [false, true] {
        if expired {
            // A row that is taken over is met by its lock, a new one by its uniqueness.
            site.run("update onlyonce_records set expires_at = now() - interval '1 second'")
                .await;
        }
        let cut = fault.on_next(is_commit, Action::CutAfter);
        let first = charge_of(&app, "k", 1).await;
        cut.happened(1).await;
        assert_eq!((first.status, first.is_replay()), (201, false));
        replayed(&first, &charge_of(&app, "k", 1).await);
    }
    assert_eq!(site.rows().await, (2, 2, 1));
    site.nothing_is_open().await;
}

/// The commit never arrived: nothing happened, and the client hears that.
#[tokio::test]
async fn a_commit_that_was_lost_on_its_way_is_found_rolled_back() {
    let site = Site::fresh().await;
    let fault = PgFault::start(&site.database.url()).await;
    let app = app(&TransactionalLayer::new(pool(fault.url(), 2)));
    let cut = fault.on_next(is_commit, Action::CutBefore);
    let first = charge_of(&app, "k", 1).await;
    cut.happened(1).await;
    assert_eq!((first.status, first.code()), (503, "rolled-back".into()));
    assert_eq!(site.rows().await, (0, 0, 0));
    assert_eq!(charge_of(&app, "k", 1).await.status, 201);
    assert_eq!(site.rows().await, (1, 1, 1));
    site.nothing_is_open().await;
}

/// F7 in small: the commit arrives late. Whoever asks meanwhile waits for it, and does not take "not there" for "never".
#[tokio::test]
async fn a_commit_that_arrives_late_is_waited_for() {
    let site = Site::fresh().await;
    let fault = PgFault::start(&site.database.url()).await;
    let app = app(&TransactionalLayer::new(pool(fault.url(), 2)));
    let gate = Gate::default();
    let late = fault.on_next(is_commit, Action::Late(gate.clone()));
    let first = tokio::spawn({
        let app = app.clone();
        async move { charge_of(&app, "k", 1).await }
    });
    site.eventually(
        "the inquiry meets the transaction in doubt",
        "select count(*) = 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
    )
    .await;
    gate.open();
    late.happened(1).await;
    let first = within("the answer", first).await.unwrap();
    assert_eq!((first.status, first.is_replay()), (201, false));
    replayed(&first, &charge_of(&app, "k", 1).await);
    assert_eq!(site.rows().await, (1, 1, 1));
}

/// It cannot be found out in time: the client is told that its key makes a retry safe, and it is.
#[tokio::test]
async fn a_commit_of_unknown_fate_is_safe_to_retry() {
    let site = Site::fresh().await;
    let fault = PgFault::start(&site.database.url()).await;
    let policy = Policy::default().with_deadline(Duration::from_secs(2));
    let app = app(&TransactionalLayer::new(pool(fault.url(), 2)).with_policy(policy));
    let gate = Gate::default();
    let late = fault.on_next(is_commit, Action::Late(gate.clone()));
    let first = charge_of(&app, "k", 1).await;
    assert_eq!(
        (first.status, first.code()),
        (503, "request-in-progress".into())
    );
    assert_eq!(first.headers["x-should-retry"], "true");
    // It may have been executed.
    assert!(!first.headers.contains_key("idempotency-outcome"));
    let retry = charge_of(&app, "k", 1).await;
    assert_eq!(
        (retry.status, retry.code()),
        (409, "request-in-progress".into())
    );
    gate.open();
    late.happened(1).await;
    site.nothing_is_open().await;
    let retry = charge_of(&app, "k", 1).await;
    assert_eq!((retry.status, retry.is_replay()), (201, true));
    assert_eq!(site.rows().await, (1, 1, 1));
}

/// A connection that dies at any other statement of ours: nothing happened, and the pool goes on.
#[tokio::test]
async fn a_connection_that_dies_before_the_commit_leaves_nothing() {
    let site = Site::fresh().await;
    let fault = PgFault::start(&site.database.url()).await;
    let app = app(&TransactionalLayer::new(pool(fault.url(), 2)));
    charge_of(&app, "warm", 1).await;
    let statements = [
        "begin isolation",
        "insert into onlyonce_records",
        "insert into payments",
        "insert into onlyonce_responses",
        "insert into onlyonce_outbox_event",
    ];
    for statement in statements {
        for action in [Action::CutBefore, Action::CutAfter] {
            // Not of what looks after the tables in the background.
            let is_ours = move |sql: &str| sql.contains(statement) && !sql.contains("set local");
            let cut = fault.on_next(is_ours, action);
            let answer = charge_of(&app, "k", 1).await;
            cut.happened(1).await;
            assert!(
                matches!(answer.status, 500 | 503),
                "{statement}: {answer:?}"
            );
            assert_eq!(site.rows().await, (1, 1, 1), "{statement}");
        }
    }
    assert_eq!(charge_of(&app, "k", 1).await.status, 201);
    assert_eq!(site.rows().await, (2, 2, 2));
    site.nothing_is_open().await;
}

/// F12: packets are lost while the claim is under way, so that `begin` is cut short; and then everything heals.
#[tokio::test]
async fn a_begin_that_was_cut_short_leaves_nothing_in_the_pool() {
    let site = Site::fresh().await;
    let fault = PgFault::start(&site.database.url()).await;
    let limits = onlyonce::Limits {
        claim_patience: Duration::from_millis(300),
        ..Default::default()
    };
    let pool = pool(fault.url(), 1);
    let app = app(&TransactionalLayer::new(pool.clone()).with_limits(limits));
    charge_of(&app, "warm", 1).await;
    let pid = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&pool);
    let pid: i32 = pid.await.unwrap();
    let gate = Gate::default();
    let held = fault.on_next(
        |sql| sql == "begin isolation level read committed",
        Action::Hold(gate.clone()),
    );
    let answer = charge_of(&app, "k", 1).await;
    held.happened(1).await;
    assert_eq!(
        (answer.status, answer.code()),
        (503, "store-unavailable".into())
    );
    gate.open();
    let closed = format!("select not exists (select from pg_stat_activity where pid = {pid})");
    site.eventually("the connection is closed", &closed).await;
    // sqlx #4393: this one would work in the transaction that was begun above.
    assert_eq!(charge_of(&app, "k", 1).await.status, 201);
    assert_eq!(site.rows().await, (2, 2, 2));
    site.nothing_is_open().await;
}

/// A service that is ready once, and whose clones never are.
struct ReadyOnce(bool);

impl Clone for ReadyOnce {
    fn clone(&self) -> Self {
        Self(false)
    }
}

impl tower::Service<http::Request<RequestBody<Body>>> for ReadyOnce {
    type Response = http::Response<Body>;
    type Error = onlyonce::BoxError;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(if self.0 {
            Ok(())
        } else {
            Err("not ready".into())
        })
    }

    fn call(&mut self, _: http::Request<RequestBody<Body>>) -> Self::Future {
        unreachable!("it was not ready")
    }
}

/// Claimed, and never called: the transaction that was put aside is rolled back.
#[tokio::test]
async fn a_service_that_is_not_ready_after_the_claim_leaves_nothing_open() {
    let site = Site::fresh().await;
    let layer = site.layer(1);
    for _ in 0..2 {
        let service = tower::Layer::layer(&layer, ReadyOnce(true));
        let answer = service.oneshot(request("/", Some("k"), "")).await;
        assert_eq!(answer.err().unwrap().to_string(), "not ready");
        site.nothing_is_open().await;
    }
    assert_eq!(site.rows().await, (0, 0, 0));
    assert_eq!(charge_of(&app(&layer), "k", 1).await.status, 201);
}
