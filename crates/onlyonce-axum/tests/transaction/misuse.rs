//! Handlers that do what they should not.

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use onlyonce::Policy;
use onlyonce::policy::OnStoreFailure;
use onlyonce_axum::IdempotentTx;
use onlyonce_test::event::Gate;
use sqlx::Connection;

use crate::fixture::*;

/// The record was committed with the work, so nothing is executed twice; only the answer is lost.
#[tokio::test]
async fn a_handler_that_commits_by_itself_is_found_out_and_not_repeated() {
    let site = Site::fresh().await;
    let app = one_route(
        &site.layer(2),
        async |mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            sqlx::query("commit").execute(&mut *tx).await?;
            Ok("done".into_response())
        },
    );
    let answer = post_to(&app, "/", "k").await;
    assert_eq!(
        (answer.status, answer.code()),
        (500, "outcome-unknown".into())
    );
    assert_eq!(answer.headers["idempotency-outcome"], "unknown");
    let again = post_to(&app, "/", "k").await;
    assert_eq!(
        (again.status, again.code()),
        (409, "response-unavailable".into())
    );
    assert_eq!(site.count("payments").await, 1);
    site.nothing_is_open().await;
}

#[tokio::test]
async fn a_handler_that_rolls_back_by_itself_is_found_out() {
    let site = Site::fresh().await;
    let app = one_route(
        &site.layer(2),
        async |mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            sqlx::query("rollback").execute(&mut *tx).await?;
            Ok("done".into_response())
        },
    );
    let answer = post_to(&app, "/", "k").await;
    assert_eq!(
        (answer.status, answer.code()),
        (500, "outcome-unknown".into())
    );
    assert_eq!(site.rows().await, (0, 0, 0));
    site.nothing_is_open().await;
}

/// A task that outlives the handler keeps the transaction: it is rolled back, and the client is not deceived.
#[tokio::test]
async fn a_transaction_that_outlives_its_handler_does_not_commit() {
    let site = Site::fresh().await;
    let gate = Gate::default();
    let opened = gate.clone();
    let app = one_route(
        &site.layer(2),
        async move |mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            let opened = opened.clone();
            tokio::spawn(async move {
                opened.pass().await;
                pay(&mut tx, 2).await
            });
            Ok("done".into_response())
        },
    );
    for key in [Some("k"), None] {
        let answer = ask(&app, request("/", key, "")).await;
        assert_eq!((answer.status, answer.code()), (500, "rolled-back".into()));
        assert_eq!(answer.headers["x-should-retry"], "false");
    }
    gate.reached(2).await;
    gate.open();
    site.nothing_is_open().await;
    assert_eq!(site.rows().await, (0, 0, 0));
}

/// The guard of a nested transaction that never ran its drop.
#[tokio::test]
async fn a_leaked_savepoint_is_not_taken_for_the_transaction() {
    let site = Site::fresh().await;
    let app = one_route(
        &site.layer(2),
        async |mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            let _leaked = std::mem::ManuallyDrop::new(tx.begin().await?);
            Ok("done".into_response())
        },
    );
    let answer = post_to(&app, "/", "k").await;
    assert_eq!((answer.status, answer.code()), (500, "rolled-back".into()));
    assert_eq!(answer.headers["x-should-retry"], "false");
    assert_eq!(site.rows().await, (0, 0, 0));
    site.nothing_is_open().await;
}

#[tokio::test]
async fn extracting_twice_and_without_the_layer_is_refused() {
    let site = Site::fresh().await;
    let twice = async |_a: IdempotentTx, _b: IdempotentTx| "never";
    let app = one_route(&site.layer(2), twice);
    assert_eq!(post_to(&app, "/", "k").await.status, 500);
    let bare = routes();
    let answer = charge_of(&bare, "k", 1).await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.text(),
        "there is no TransactionalLayer around this route"
    );
    site.nothing_is_open().await;
}

/// An extractor may use it and give it back before the handler runs.
#[tokio::test]
async fn one_after_the_other_may_have_it() {
    struct Audited;
    impl<S: Sync> axum::extract::FromRequestParts<S> for Audited {
        type Rejection = Response;
        async fn from_request_parts(
            parts: &mut http::request::Parts,
            state: &S,
        ) -> Result<Self, Response> {
            let tx = IdempotentTx::from_request_parts(parts, state).await;
            let mut tx = tx.map_err(IntoResponse::into_response)?;
            pay(&mut tx, 1).await.unwrap();
            Ok(Self)
        }
    }
    let site = Site::fresh().await;
    let handler = async |_: Audited, mut tx: IdempotentTx| -> Result<Response, Failed> {
        pay(&mut tx, 2).await?;
        Ok("done".into_response())
    };
    let app = one_route(&site.layer(2), handler);
    assert_eq!(post_to(&app, "/", "k").await.text(), "done");
    assert_eq!(site.rows().await, (2, 2, 1));
}

fn commits_and_answers(site: &Site, status: u16) -> Router {
    let handler = async move |mut tx: IdempotentTx| -> Result<Response, Failed> {
        pay(&mut tx, 1).await?;
        sqlx::query("commit").execute(&mut *tx).await?;
        Ok(StatusCode::from_u16(status).unwrap().into_response())
    };
    one_route(&site.layer(2), handler)
}

/// What is committed is committed: a refusal on top of it would be believed, and another attempt made.
#[tokio::test]
async fn a_handler_that_commits_by_itself_and_then_refuses_is_found_out() {
    for status in [402, 500] {
        let site = Site::fresh().await;
        let app = commits_and_answers(&site, status);
        let answer = post_to(&app, "/", "k").await;
        assert_eq!(
            (answer.status, answer.code()),
            (500, "outcome-unknown".into())
        );
        let again = post_to(&app, "/", "k").await;
        assert_eq!(
            (again.status, again.code()),
            (409, "response-unavailable".into())
        );
        assert_eq!(site.count("payments").await, 1);
        site.nothing_is_open().await;
    }
}

#[tokio::test]
async fn a_keyless_handler_that_commits_by_itself_and_then_refuses_is_found_out() {
    for status in [402, 500] {
        let site = Site::fresh().await;
        let app = commits_and_answers(&site, status);
        let answer = ask(&app, request("/", None, "")).await;
        assert_eq!(
            (answer.status, answer.code()),
            (500, "outcome-unknown".into())
        );
        assert_eq!(site.count("payments").await, 1);
        site.nothing_is_open().await;
    }
}

/// Without a transaction each statement would commit by itself: events without the work that they tell of.
#[tokio::test]
async fn a_keyless_handler_that_rolls_back_by_itself_emits_nothing() {
    let site = Site::fresh().await;
    let app = one_route(
        &site.layer(2),
        async |mut tx: IdempotentTx| -> Result<Response, Failed> {
            pay(&mut tx, 1).await?;
            sqlx::query("rollback").execute(&mut *tx).await?;
            Ok("done".into_response())
        },
    );
    let answer = ask(&app, request("/", None, "")).await;
    assert_eq!(
        (answer.status, answer.code()),
        (500, "outcome-unknown".into())
    );
    assert_eq!(site.rows().await, (0, 0, 0));
    site.nothing_is_open().await;
}

#[tokio::test]
#[should_panic(expected = "there is nothing to forward to")]
async fn a_policy_that_forwards_without_a_claim_is_refused() {
    let site = Site::fresh().await;
    let policy = Policy::default().with_on_store_failure(OnStoreFailure::Forward);
    let _ = site.layer(2).with_policy(policy);
}
