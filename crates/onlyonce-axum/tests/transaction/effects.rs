//! What commits, and what does not.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use onlyonce_axum::IdempotentTx;
use onlyonce_test::event::Gate;
use onlyonce_test::fault::PgFault;
use onlyonce_test::postgres::Server;
use sqlx::Connection;

use crate::fixture::*;

#[tokio::test]
async fn payment_event_and_record_commit_once_and_the_retry_gets_the_same_answer() {
    for server in [Server::Default, Server::Newest] {
        let site = Site::on(server).await;
        let app = site.app();
        let first = charge_of(&app, "k", 100).await;
        assert_eq!(first.status, 201);
        let again = charge_of(&app, "k", 100).await;
        replayed(&first, &again);
        assert_eq!(again.headers["location"], "/charges/1");
        assert_eq!(site.rows().await, (1, 1, 1));
        // By another process as well.
        replayed(&first, &charge_of(&site.app(), "k", 100).await);
        assert_eq!(site.rows().await, (1, 1, 1));
        let all_in_one = "select count(distinct xmin::text) = 1 from ( \
             select xmin from payments union all select xmin from onlyonce_outbox_event \
             union all select xmin from onlyonce_records union all select xmin from onlyonce_responses) as rows";
        assert!(site.value::<bool>(all_in_one).await, "one transaction");
        site.nothing_is_open().await;
    }
}

/// The event names the record that it came from, for audits.
#[tokio::test]
async fn an_event_knows_its_record_and_key() {
    let site = Site::fresh().await;
    charge_of(&site.app(), "key-1", 100).await;
    let same = "select origin_key = 'key-1' and replace(onlyonce_records.id::text, '-', '') = origin_scope \
         from onlyonce_outbox_event, onlyonce_records";
    assert!(site.value::<bool>(same).await);
}

/// Begin, claim, the handler's own, response, events, commit: one statement each, and one commit.
#[tokio::test]
async fn a_request_has_one_commit_and_four_statements_of_ours() {
    let site = Site::fresh().await;
    let fault = PgFault::start(&site.database.url()).await;
    let app = app(&onlyonce_axum::TransactionalLayer::new(pool(
        fault.url(),
        1,
    )));
    // The first one looks after the tables, too.
    charge_of(&app, "warm", 1).await;
    charge_of(&app, "k", 1).await;
    let sent = fault.statements();
    let begun = sent
        .iter()
        .rposition(|sql| sql.starts_with("begin isolation"));
    let sent = &sent[begun.unwrap()..];
    let ours = |sql: &&String| !sql.is_empty() && !sql.contains("insert into payments");
    let ours: Vec<_> = sent
        .iter()
        .filter(ours)
        .map(|sql| sql.split(' ').next().unwrap())
        .collect();
    assert_eq!(
        ours,
        ["begin", "insert", "insert", "with", "COMMIT"],
        "{sent:#?}"
    );
}

#[tokio::test]
async fn what_is_rolled_back_leaves_nothing_and_executes_again() {
    let site = Site::fresh().await;
    let app = site.app();
    for status in [500, 501, 502, 503, 504, 599, 401, 403, 408, 425, 429] {
        let target = format!("/status/{status}");
        let key = format!("k-{status}");
        for _ in 0..2 {
            let answer = post_to(&app, &target, &key).await;
            assert_eq!(answer.status, status);
            assert!(answer.text().starts_with("payment "), "the handler's own");
            assert!(!answer.is_replay());
        }
        assert_eq!(site.rows().await, (0, 0, 0), "{status}");
        // Both tries executed: the sequence of a transaction that is rolled back goes on.
    }
    assert_eq!(
        site.value::<i64>("select last_value from payments_id_seq")
            .await,
        22
    );
    site.nothing_is_open().await;
}

/// As with a transaction of the handler's own: what it wrote before it refused is gone. Its refusal is not.
#[tokio::test]
async fn a_refusal_is_recorded_without_the_effects() {
    let site = Site::fresh().await;
    let app = site.app();
    for status in [400, 402, 404, 409, 422] {
        let target = format!("/status/{status}");
        let key = format!("k-{status}");
        let first = post_to(&app, &target, &key).await;
        assert_eq!(first.status, status);
        replayed(&first, &post_to(&app, &target, &key).await);
    }
    assert_eq!(site.rows().await, (0, 0, 5));
    site.nothing_is_open().await;
}

/// The refusal needs a transaction of its own, and others wait for the only connection.
#[tokio::test]
async fn a_refusal_is_recorded_though_others_wait_for_the_connection() {
    let site = Site::fresh().await;
    let (refusing, opened) = (Gate::default(), Gate::default());
    let (at, open) = (refusing.clone(), opened.clone());
    let app = one_route(
        &site.layer(1),
        async move |headers: http::HeaderMap, mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            if headers["idempotency-key"] == "other" {
                open.pass().await;
                return Ok(StatusCode::CREATED.into_response());
            }
            at.pass().await;
            Ok(StatusCode::PAYMENT_REQUIRED.into_response())
        },
    );
    let first = tokio::spawn({
        let app = app.clone();
        async move { post_to(&app, "/", "k").await }
    });
    refusing.reached(1).await;
    let other = tokio::spawn({
        let app = app.clone();
        async move { post_to(&app, "/", "other").await }
    });
    // On this one thread, until it can do nothing but wait for the connection.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    refusing.open();
    let first = first.await.unwrap();
    assert_eq!(first.status, 402);
    opened.open();
    assert_eq!(other.await.unwrap().status, 201);
    replayed(&first, &post_to(&app, "/", "k").await);
    assert_eq!(site.count("payments").await, 1);
    site.nothing_is_open().await;
}

#[tokio::test]
async fn which_statuses_commit_is_policy() {
    let site = Site::fresh().await;
    let layer = site
        .layer(2)
        .with_commit(|status| status != StatusCode::ACCEPTED);
    let app = app(&layer);
    for (status, payments) in [(402, 1), (500, 2), (202, 2), (201, 3)] {
        let target = format!("/status/{status}");
        let key = format!("k-{status}");
        let first = post_to(&app, &target, &key).await;
        replayed(&first, &post_to(&app, &target, &key).await);
        assert_eq!(site.count("payments").await, payments, "{status}");
    }
}

#[tokio::test]
async fn a_handler_that_takes_no_transaction_is_recorded() {
    let site = Site::fresh().await;
    let app = site.app();
    let first = post_to(&app, "/without", "k").await;
    assert_eq!(first.text(), "nothing to write");
    replayed(&first, &post_to(&app, "/without", "k").await);
    assert_eq!(site.rows().await, (0, 0, 1));
}

#[tokio::test]
async fn a_transaction_within_the_transaction_is_a_savepoint() {
    let site = Site::fresh().await;
    let app = one_route(
        &site.layer(2),
        async |mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            let mut inner = tx.begin().await?;
            sqlx::query("insert into payments (amount) values (2)")
                .execute(&mut *inner)
                .await?;
            inner.commit().await?;
            let mut inner = tx.begin().await?;
            sqlx::query("insert into payments (amount) values (3)")
                .execute(&mut *inner)
                .await?;
            drop(inner);
            // A failure that the savepoint undoes is no failure.
            let mut inner = tx.begin().await?;
            sqlx::query("select 1 / 0")
                .execute(&mut *inner)
                .await
                .unwrap_err();
            inner.rollback().await?;
            Ok("done".into_response())
        },
    );
    assert_eq!(post_to(&app, "/", "k").await.text(), "done");
    let paid: Vec<i64> = sqlx::query_scalar("select amount from payments order by amount")
        .fetch_all(&site.pool(1))
        .await
        .unwrap();
    assert_eq!(paid, [1, 2]);
    site.nothing_is_open().await;
}

/// A statement failed, and the handler says that all is well.
#[tokio::test]
async fn a_swallowed_failure_is_no_success() {
    let site = Site::fresh().await;
    let app = one_route(
        &site.layer(2),
        async |mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            let _ = sqlx::query("select 1 / 0").execute(&mut *tx).await;
            Ok("all is well".into_response())
        },
    );
    for key in [Some("k"), None] {
        let answer = ask(&app, request("/", key, "")).await;
        assert_eq!((answer.status, answer.code()), (503, "rolled-back".into()));
    }
    assert_eq!(site.rows().await, (0, 0, 0));
    site.nothing_is_open().await;
}

/// Not until the commit is it known that the transaction cannot be.
#[tokio::test]
async fn a_deferred_constraint_that_fails_at_the_commit_is_told() {
    let site = Site::fresh().await;
    site.run(
        "create table accounts (id bigint primary key); \
         alter table payments add foreign key (amount) references accounts deferrable initially deferred",
    )
    .await;
    let app = site.app();
    for _ in 0..2 {
        let answer = charge_of(&app, "k", 7).await;
        assert_eq!((answer.status, answer.code()), (503, "rolled-back".into()));
        assert_eq!(answer.headers["x-should-retry"], "true");
    }
    assert_eq!(site.rows().await, (0, 0, 0));
    site.run("insert into accounts values (7)").await;
    assert_eq!(charge_of(&app, "k", 7).await.status, 201);
    assert_eq!(site.rows().await, (1, 1, 1));
    site.nothing_is_open().await;
}

/// An event that no sink could deliver: the work that it tells of does not happen either.
#[tokio::test]
async fn an_event_that_cannot_be_published_rolls_back() {
    let site = Site::fresh().await;
    let app = one_route(
        &site.layer(2),
        async |mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            tx.emit(onlyonce_outbox::Event::new("", 1));
            Ok("done".into_response())
        },
    );
    let answer = post_to(&app, "/", "k").await;
    assert_eq!((answer.status, answer.code()), (500, "rolled-back".into()));
    assert_eq!(answer.headers["x-should-retry"], "false");
    assert_eq!(site.rows().await, (0, 0, 0));
}

/// Delivered in full, recorded without its body.
#[tokio::test]
async fn a_response_that_is_too_large_to_keep_is_delivered_once() {
    let site = Site::fresh().await;
    let policy = onlyonce::Policy::default().with_response_bytes_max(1_000);
    let layer = site.layer(2).with_policy(policy);
    let app = one_route(
        &layer,
        async |mut tx: IdempotentTx, _: Request| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            Ok("x".repeat(100_000).into_response())
        },
    );
    let first = post_to(&app, "/", "k").await;
    assert_eq!((first.status, first.body.len()), (200, 100_000));
    let again = post_to(&app, "/", "k").await;
    assert_eq!(
        (again.status, again.code()),
        (409, "response-unavailable".into())
    );
    assert_eq!(site.rows().await, (1, 1, 1));
}

#[tokio::test]
async fn missing_tables_are_named() {
    let site = Site::fresh().await;
    site.run("drop table onlyonce_records").await;
    let answer = charge_of(&site.app(), "k", 1).await;
    assert_eq!(
        (answer.status, answer.code()),
        (503, "store-unavailable".into())
    );
    assert_eq!(site.count("payments").await, 0);
    site.nothing_is_open().await;
}

/// The handler has returned, and its body still works with the transaction.
#[tokio::test]
async fn a_body_that_is_made_with_the_transaction_is_part_of_it() {
    let site = Site::fresh().await;
    let app = one_route(
        &site.layer(1),
        async |mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            let piece = futures_util::stream::once(async move {
                let id = pay(&mut tx, 2).await?;
                Ok::<_, sqlx::Error>(format!("payment {id}"))
            });
            Ok(axum::body::Body::from_stream(piece).into_response())
        },
    );
    for (key, rows) in [(Some("k"), (2, 2, 1)), (None, (4, 4, 1))] {
        let answer = ask(&app, request("/", key, "")).await;
        assert!(answer.text().starts_with("payment "));
        assert_eq!(site.rows().await, rows);
    }
    assert!(ask(&app, request("/", Some("k"), "")).await.is_replay());
    site.nothing_is_open().await;
}

/// A body that breaks off is delivered broken, and nothing remains of what was done for it.
#[tokio::test]
async fn a_body_that_breaks_off_commits_nothing() {
    let site = Site::fresh().await;
    let app = one_route(
        &site.layer(1),
        async |mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            let pieces = [Ok("half of "), Err(std::io::Error::other("it"))];
            let pieces = futures_util::stream::iter(pieces);
            Ok(axum::body::Body::from_stream(pieces).into_response())
        },
    );
    for key in [Some("k"), Some("k"), None] {
        let answer = tower::ServiceExt::oneshot(app.clone(), request("/", key, "")).await;
        let body = http_body_util::BodyExt::collect(answer.unwrap().into_body()).await;
        assert!(body.is_err());
        assert_eq!(site.rows().await, (0, 0, 0));
    }
    site.nothing_is_open().await;
}

/// Whether or not a relay runs: payments must not stop because nobody publishes what is told of them.
#[tokio::test]
async fn the_days_of_events_are_made_without_a_relay() {
    let site = Site::fresh().await;
    site.run(
        "do $$ declare name text; begin \
         for name in select inhrelid::regclass::text from pg_inherits \
         where inhparent = 'onlyonce_outbox_event'::regclass loop \
         execute 'drop table ' || name; end loop; end $$",
    )
    .await;
    let app = site.app();
    assert_eq!(charge_of(&app, "k", 100).await.status, 503);
    let made =
        "select count(*) >= 8 from pg_inherits where inhparent = 'onlyonce_outbox_event'::regclass";
    site.eventually("the days are made", made).await;
    assert_eq!(charge_of(&app, "k", 100).await.status, 201);
    assert_eq!(site.rows().await, (1, 1, 1));
}
