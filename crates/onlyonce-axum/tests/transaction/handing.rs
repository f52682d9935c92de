//! Connections that go from one request straight to the next, where requests wait for them all the time.
//!
//! Everywhere here the pool has one connection, and the first request stands at a gate with it. The next one waits at
//! the pool; those after it are handed the connection, one after the other.

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Router, handler::Handler};
use http::StatusCode;
use onlyonce::Limits;
use onlyonce_axum::{IdempotentTx, Isolation, TransactionalLayer};
use onlyonce_test::event::{Counter, Gate, polled, within};
use onlyonce_test::fault::{Action, PgFault};
use sqlx::Connection;
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tower::ServiceExt;

use crate::fixture::*;

/// A site, and a service on one connection to it.
struct Busy {
    site: Site,
    fault: PgFault,
    app: Router,
    gate: Gate,
}

impl Busy {
    async fn with<H, T>(
        change: impl FnOnce(TransactionalLayer) -> TransactionalLayer,
        handler: H,
    ) -> Self
    where
        H: Handler<T, ()>,
        T: 'static,
    {
        let site = Site::fresh().await;
        let fault = PgFault::start(&site.database.url()).await;
        // Whatever the machine does meanwhile.
        let layer = TransactionalLayer::new(pool(fault.url(), 1));
        let layer = change(layer.with_handing_on(64, Duration::from_secs(60)));
        let gate = Gate::default();
        let opened = Arc::new(gate.clone());
        let slow = async move |mut tx: IdempotentTx| -> Result<Response, Failed> {
            paid(&mut tx).await?;
            opened.pass().await;
            Ok("slow".into_response())
        };
        let app = Router::new()
            .route("/slow", post(slow))
            .route("/", post(handler))
            .route("/pay", post(pays))
            .route("/refuses", post(async || StatusCode::INTERNAL_SERVER_ERROR))
            .layer(layer);
        Self {
            site,
            fault,
            app,
            gate,
        }
    }

    async fn fresh() -> Self {
        Self::with(|layer| layer, pays).await
    }

    /// Requests to these routes, the key being the route and its number, that wait behind the first one in this order.
    async fn line_up(&self, targets: &[&'static str]) -> Vec<JoinHandle<Answer>> {
        let slow = self.ask("/slow", "slow");
        self.gate.reached(1).await;
        let mut line = vec![slow];
        for (number, target) in targets.iter().enumerate() {
            line.push(self.ask(target, &format!("{target}-{number}")));
            // Nothing that the request waits for takes time before it waits for a connection.
            for _ in 0..50 {
                yield_now().await;
            }
        }
        line
    }

    fn ask(&self, target: &'static str, key: &str) -> JoinHandle<Answer> {
        let (app, key) = (self.app.clone(), key.to_owned());
        tokio::spawn(async move { post_to(&app, target, &key).await })
    }

    /// Opens the gate; the answers in the order of the line.
    async fn answers(&self, line: Vec<JoinHandle<Answer>>) -> Vec<Answer> {
        self.gate.open();
        let mut answers = Vec::new();
        for answer in line {
            answers.push(within("an answer", answer).await.unwrap());
        }
        answers
    }

    /// How many claims were sent on a connection that was handed on.
    fn handed(&self) -> usize {
        let sent = self.fault.statements();
        sent.iter().filter(|sql| is_take(sql)).count()
    }
}

fn is_take(sql: &str) -> bool {
    sql.contains("execute onlyonce_take")
}

fn is_respond(sql: &str) -> bool {
    sql.contains("execute onlyonce_respond")
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

/// Without an event, so that response and commit can go together.
async fn paid(tx: &mut IdempotentTx) -> Result<(), sqlx::Error> {
    let paid = sqlx::query("insert into payments (amount) values (1)");
    paid.persistent(false).execute(&mut **tx).await?;
    Ok(())
}

async fn pays(mut tx: IdempotentTx) -> Result<Response, Failed> {
    paid(&mut tx).await?;
    Ok((StatusCode::CREATED, "paid").into_response())
}

#[tokio::test]
async fn a_request_that_was_waited_for_takes_two_messages_of_ours() {
    let busy = Busy::fresh().await;
    let line = busy.line_up(&["/", "/", "/", "/"]).await;
    let answers = busy.answers(line).await;
    assert_eq!(statuses(&answers), [200, 201, 201, 201, 201]);
    let sent = busy.fault.statements();
    let last = sent.iter().rposition(|sql| is_respond(sql)).unwrap();
    let heads: Vec<_> = sent[last - 2..=last].iter().map(|sql| &sql[..20]).collect();
    assert_eq!(
        heads,
        [
            "rollback;begin isola",
            "insert into payments",
            "execute onlyonce_res"
        ],
        "{sent:#?}"
    );
    assert!(sent[last].ends_with(";commit and chain"));
    assert_eq!(
        busy.handed(),
        3,
        "all but the first, and the one that waited at the pool"
    );
    let all = "select count(*) = 5 and count(distinct xmin::text) = 5 from payments";
    assert!(busy.site.value::<bool>(all).await, "a transaction for each");
    let matching = "select count(*) = 5 from onlyonce_records r join onlyonce_responses a using (token, epoch, expires_at) \
         where a.day = (r.settled_at at time zone 'UTC')::date and r.xmin = a.xmin and r.settled_at > r.expires_at - interval '1 day 1 second'";
    assert!(busy.site.value::<bool>(matching).await);
    busy.site.nothing_is_open().await;
    for (number, first) in answers[1..].iter().enumerate() {
        replayed(
            first,
            &post_to(&busy.app, "/", &format!("/-{number}")).await,
        );
    }
}

/// Events are written between the response and the commit; what is large is sent as it is.
#[tokio::test]
async fn events_and_large_responses_are_handed_on_as_well() {
    let handler = async |mut tx: IdempotentTx| -> Result<Response, Failed> {
        pay(&mut tx, 1).await?;
        Ok("x".repeat(100_000).into_response())
    };
    let busy = Busy::with(|layer| layer, handler).await;
    let answers = busy.answers(busy.line_up(&["/"; 5]).await).await;
    assert_eq!(statuses(&answers), [200; 6]);
    assert_eq!(busy.handed(), 4);
    assert_eq!(busy.site.rows().await, (6, 5, 6));
    replayed(&answers[3], &post_to(&busy.app, "/", "/-2").await);
    busy.site.nothing_is_open().await;
}

/// The connection dies with the claim, before it arrives and after: nothing happened, and the others go on.
#[tokio::test]
async fn a_connection_that_dies_with_the_claim_leaves_nothing() {
    for action in [Action::CutBefore, Action::CutAfter] {
        let busy = Busy::fresh().await;
        let line = busy.line_up(&["/", "/", "/"]).await;
        let cut = busy.fault.on_next(is_take, action);
        let answers = busy.answers(line).await;
        cut.happened(1).await;
        assert_eq!(statuses(&answers), [200, 201, 503, 201]);
        assert_eq!(answers[2].code(), "store-unavailable");
        assert_eq!(busy.site.rows().await, (3, 0, 3));
        assert_eq!(post_to(&busy.app, "/", "/-1").await.status, 201);
        busy.site.nothing_is_open().await;
    }
}

/// F6: the message with response and commit never arrives, or its answer is lost.
#[tokio::test]
async fn a_commit_without_answer_is_found_out_about() {
    for (action, status) in [(Action::CutBefore, 503), (Action::CutAfter, 201)] {
        let busy = Busy::fresh().await;
        let line = busy.line_up(&["/", "/", "/"]).await;
        let cut = busy.fault.on_next(is_respond, action);
        let answers = busy.answers(line).await;
        cut.happened(1).await;
        assert_eq!(statuses(&answers), [200, 201, status, 201]);
        if status == 503 {
            assert_eq!(answers[2].code(), "rolled-back");
            assert_eq!(busy.site.rows().await, (3, 0, 3));
            assert_eq!(post_to(&busy.app, "/", "/-1").await.status, 201);
        } else {
            assert!(!answers[2].is_replay());
            replayed(&answers[2], &post_to(&busy.app, "/", "/-1").await);
        }
        assert_eq!(busy.site.rows().await, (4, 0, 4));
        busy.site.nothing_is_open().await;
    }
}

/// F7: it arrives late. Whoever asks meanwhile waits for it.
#[tokio::test]
async fn a_commit_that_arrives_late_is_not_taken_for_none() {
    let busy = Busy::fresh().await;
    let line = busy.line_up(&["/", "/", "/"]).await;
    let gate = Gate::default();
    let late = busy.fault.on_next(is_respond, Action::Late(gate.clone()));
    busy.gate.open();
    let meets = "select count(*) > 0 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    busy.site.eventually("the inquiry meets it", meets).await;
    gate.open();
    late.happened(1).await;
    assert_eq!(statuses(&busy.answers(line).await), [200, 201, 201, 201]);
    assert_eq!(busy.site.rows().await, (4, 0, 4));
    busy.site.nothing_is_open().await;
}

/// Who gives up while waiting is passed over.
#[tokio::test]
async fn whoever_has_given_up_is_passed_over() {
    let patience = |layer: TransactionalLayer| {
        let limits = Limits {
            claim_patience: Duration::from_secs(2),
            ..Default::default()
        };
        layer.with_limits(limits)
    };
    let busy = Busy::with(patience, pays).await;
    let mut line = busy.line_up(&["/", "/", "/"]).await;
    for late in line.drain(1..) {
        let late = within("an answer", late).await.unwrap();
        assert_eq!(
            (late.status, late.code()),
            (503, "store-unavailable".into())
        );
    }
    for number in 10..14 {
        line.push(busy.ask("/", &format!("/-{number}")));
        for _ in 0..50 {
            yield_now().await;
        }
    }
    assert_eq!(
        statuses(&busy.answers(line).await),
        [200, 201, 201, 201, 201]
    );
    assert_eq!(busy.handed(), 3);
    assert_eq!(busy.fault.connections(), 1, "no connection was lost");
    busy.site.nothing_is_open().await;
}

/// What becomes of a transaction ends no line.
#[tokio::test]
async fn refusals_panics_and_duplicates_in_a_line_hold_nobody_up() {
    let handler = async |mut tx: IdempotentTx| -> Result<Response, Failed> {
        paid(&mut tx).await?;
        panic!("the handler fell over");
    };
    let busy = Busy::with(|layer| layer, handler).await;
    assert_eq!(post_to(&busy.app, "/pay", "/pay-3").await.status, 201);
    let line = busy
        .line_up(&["/pay", "/", "/refuses", "/pay", "/", "/pay", "/pay"])
        .await;
    let answers = busy.answers(line).await;
    assert_eq!(statuses(&answers), [200, 201, 500, 500, 201, 500, 201, 201]);
    assert!(answers[4].is_replay());
    assert_eq!(busy.site.rows().await, (5, 0, 5));
    busy.site.nothing_is_open().await;
}

/// What is prepared on the server is the handlers' to destroy. It costs one request its answer at most, and it can be
/// sent again.
#[tokio::test]
async fn a_handler_that_deallocates_everything_breaks_no_other_request() {
    let handler = async |mut tx: IdempotentTx| -> Result<Response, Failed> {
        paid(&mut tx).await?;
        sqlx::raw_sql("deallocate all").execute(&mut *tx).await?;
        Ok((StatusCode::CREATED, "paid").into_response())
    };
    let busy = Busy::with(|layer| layer, handler).await;
    let answers = busy
        .answers(busy.line_up(&["/pay", "/pay", "/", "/pay", "/pay"]).await)
        .await;
    assert_eq!(statuses(&answers), [200, 201, 201, 503, 201, 201]);
    assert_eq!(
        (answers[3].code(), &answers[3].headers["x-should-retry"]),
        ("rolled-back".into(), &"true".parse().unwrap())
    );
    assert_eq!(busy.site.rows().await, (5, 0, 5));
    for number in 0..5 {
        let mut both = JoinSet::new();
        for target in ["/", "/pay", "/", "/pay", "/"] {
            let key = format!("{target}-again-{number}-{}", both.len());
            let app = busy.app.clone();
            both.spawn(async move { post_to(&app, target, &key).await.status });
        }
        assert_eq!(within("all answers", both.join_all()).await, [201; 5]);
    }
    assert_eq!(busy.site.rows().await, (30, 0, 30));
    busy.site.nothing_is_open().await;
}

/// As by way of the pool: what is set for the transaction ends with it, what is set for the session stays.
#[tokio::test]
async fn settings_of_a_transaction_are_not_handed_on() {
    let handler = async |mut tx: IdempotentTx| -> Result<Response, Failed> {
        let now = sqlx::query_scalar(
            "select concat_ws(' ', current_setting('lock_timeout'), \
             current_setting('onlyonce_test.session', true), current_setting('transaction_isolation'), \
             now() > (select max(at) from times))",
        );
        let now: String = now.fetch_one(&mut *tx).await?;
        let set = "set local lock_timeout = '7s'; set session onlyonce_test.session = 'kept'; \
             set local standard_conforming_strings = off; set local datestyle = 'SQL, DMY'; set local time zone 'Asia/Tokyo'; \
             insert into times values (clock_timestamp())";
        sqlx::raw_sql(set).execute(&mut *tx).await?;
        Ok(now.into_response())
    };
    let strict = |layer: TransactionalLayer| layer.with_isolation(Isolation::RepeatableRead);
    let busy = Busy::with(strict, handler).await;
    busy.site
        .run("create table times (at timestamptz); insert into times values ('epoch')")
        .await;
    let answers = busy.answers(busy.line_up(&["/"; 5]).await).await;
    // The second of the line waits at the pool and is the last.
    let texts: Vec<_> = answers[1..].iter().map(Answer::text).collect();
    let kept = "0 kept repeatable read t";
    assert_eq!(texts, [kept, "0 repeatable read t", kept, kept, kept]);
    assert_eq!(busy.handed(), 4);
    for (number, first) in answers[1..].iter().enumerate() {
        replayed(
            first,
            &post_to(&busy.app, "/", &format!("/-{number}")).await,
        );
    }
    busy.site.nothing_is_open().await;
}

/// What handlers do with a transaction that was handed on.
#[tokio::test]
async fn nested_leaked_and_ended_transactions_are_what_they_are() {
    for (does, status, payments) in [
        ("nests", 200, 5),
        ("leaks", 500, 3),
        ("commit", 500, 4),
        ("rollback", 500, 3),
        // What comes after the commit has no record, and must not be committed with somebody else's.
        (
            "commit; begin; insert into payments (amount) values (7)",
            500,
            4,
        ),
    ] {
        let handler = async move |mut tx: IdempotentTx| -> Result<Response, Failed> {
            paid(&mut tx).await?;
            match does {
                "nests" => nests(&mut tx).await?,
                "leaks" => {
                    let _leaked = std::mem::ManuallyDrop::new(tx.begin().await?);
                }
                _ => {
                    sqlx::raw_sql(does).execute(&mut *tx).await?;
                }
            }
            Ok("done".into_response())
        };
        let busy = Busy::with(|layer| layer, handler).await;
        let answers = busy
            .answers(busy.line_up(&["/pay", "/", "/pay"]).await)
            .await;
        assert_eq!(statuses(&answers), [200, 201, status, 201], "{does}");
        let code = match does {
            "nests" => "",
            "leaks" => "rolled-back",
            _ => "outcome-unknown",
        };
        assert_eq!(answers[2].code(), code, "{does}");
        assert_eq!(busy.site.count("payments").await, payments, "{does}");
        let again = post_to(&busy.app, "/", "/-1").await;
        match does {
            "nests" => replayed(&answers[2], &again),
            "leaks" | "rollback" => assert_eq!(again.status, 500, "{does}"),
            _ => assert_eq!(again.code(), "response-unavailable", "{does}"),
        }
        busy.site.nothing_is_open().await;
    }
}

/// One savepoint that is kept, and one that is not.
async fn nests(tx: &mut IdempotentTx) -> Result<(), sqlx::Error> {
    for keep in [true, false] {
        let mut nested = tx.begin().await?;
        let more = sqlx::query("insert into payments (amount) values (2)");
        more.execute(&mut *nested).await?;
        if keep {
            nested.commit().await?;
        } else {
            nested.rollback().await?;
        }
    }
    Ok(())
}

/// F5: clients that leave while they wait, while they are handed a connection, and later.
#[tokio::test]
async fn clients_that_leave_a_line_take_nothing_along() {
    for polls in 1..12 {
        let busy = Busy::fresh().await;
        let mut line = busy.line_up(&["/", "/"]).await;
        let leaving = polled(
            polls,
            busy.app.clone().oneshot(request("/", Some("leaves"), "{}")),
        );
        let opened = async {
            yield_now().await;
            busy.gate.open();
        };
        let (_, ()) = tokio::join!(leaving, opened);
        line.push(busy.ask("/", "last"));
        assert_eq!(statuses(&busy.answers(line).await), [200, 201, 201, 201]);
        let mut answer = post_to(&busy.app, "/", "leaves").await;
        while answer.status == 409 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            answer = post_to(&busy.app, "/", "leaves").await;
        }
        assert_eq!(answer.status, 201);
        assert_eq!(busy.site.rows().await, (5, 0, 5));
        assert_eq!(busy.fault.connections(), 1, "no connection was lost");
        busy.site.nothing_is_open().await;
    }
}

/// Whoever else uses the pool is served while requests wait without end: after two tenures of a connection at most.
#[tokio::test]
async fn a_line_without_end_leaves_connections_for_others() {
    let site = Site::fresh().await;
    let pool = pool(&site.database.url(), 1);
    let executed = Counter::default();
    let counting = executed.clone();
    let handler = async move |mut tx: IdempotentTx| -> Result<Response, Failed> {
        paid(&mut tx).await?;
        counting.add();
        Ok("paid".into_response())
    };
    let app = one_route(&TransactionalLayer::new(pool.clone()), handler);
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let app = app.clone();
        clients.spawn(async move {
            for number in 0.. {
                let answer = post_to(&app, "/", &format!("{client}-{number}")).await;
                assert_eq!(answer.status, 200);
            }
        });
    }
    for _ in 0..3 {
        executed.reach(executed.get() + 20, "executions").await;
        let before = executed.get();
        let connection = within("a connection", pool.acquire()).await.unwrap();
        let meanwhile = executed.get() - before;
        assert!(meanwhile <= 2 * 64, "{meanwhile} requests came first");
        drop(connection);
    }
    clients.shutdown().await;
    site.nothing_is_open().await;
}
