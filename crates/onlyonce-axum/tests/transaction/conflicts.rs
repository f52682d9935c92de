//! Serialization failures and deadlocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use onlyonce_axum::conflict::{TryAgain, is_conflict};
use onlyonce_axum::{IdempotentTx, Isolation};
use onlyonce_test::event::{Gate, within};

use crate::fixture::*;

/// As [`Failed`], and says what may be tried again.
struct Reported(sqlx::Error);

impl From<sqlx::Error> for Reported {
    fn from(error: sqlx::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Reported {
    fn into_response(self) -> Response {
        let conflict = is_conflict(&self.0);
        let mut response = Failed::from(self.0).into_response();
        if conflict {
            response.extensions_mut().insert(TryAgain);
        }
        response
    }
}

/// An app that adds one to the payments' sum, serializable; all first tries meet at a gate once they have read.
fn adding(site: &Site, retries: u32, meet: usize) -> (Router, Gate, Arc<AtomicUsize>) {
    let layer = site
        .layer(8)
        .with_isolation(Isolation::Serializable)
        .with_conflict_retries(retries);
    let (gate, calls) = (Gate::default(), Arc::<AtomicUsize>::default());
    let (opened, counted) = (gate.clone(), Arc::clone(&calls));
    let add = async move |mut tx: IdempotentTx| -> Result<Response, Reported> {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        let sum = "select coalesce(sum(amount), 0)::bigint from payments";
        let sum: i64 = sqlx::query_scalar(sum).fetch_one(&mut *tx).await?;
        if call < meet {
            opened.pass().await;
        }
        pay(&mut tx, sum + 1).await?;
        Ok((StatusCode::CREATED, sum.to_string()).into_response())
    };
    (one_route(&layer, add), gate, calls)
}

async fn race(site: &Site, retries: u32) -> (Vec<Answer>, usize) {
    let (app, gate, calls) = adding(site, retries, 2);
    let requests = ["k-1", "k-2"].map(|key| {
        let app = app.clone();
        tokio::spawn(async move { post_to(&app, "/", key).await })
    });
    gate.reached(2).await;
    gate.open();
    let mut answers = Vec::new();
    for request in requests {
        answers.push(within("an answer", request).await.unwrap());
    }
    answers.sort_by_key(|answer| answer.status);
    (answers, calls.load(Ordering::SeqCst))
}

#[tokio::test]
async fn without_retries_the_client_is_told_and_its_retry_executes() {
    let site = Site::fresh().await;
    let (answers, calls) = race(&site, 0).await;
    assert_eq!(calls, 2);
    assert_eq!(answers[0].status, 201);
    assert!(matches!(answers[1].status, 500 | 503), "{answers:?}");
    assert_eq!(site.rows().await, (1, 1, 1));
    let (app, gate, _) = adding(&site, 0, 0);
    gate.open();
    let statuses = [
        post_to(&app, "/", "k-1").await,
        post_to(&app, "/", "k-2").await,
    ];
    assert_eq!(statuses.each_ref().map(|answer| answer.status), [201; 2]);
    assert_eq!(
        statuses.iter().filter(|answer| answer.is_replay()).count(),
        1
    );
    assert_eq!(site.rows().await, (2, 2, 2));
    site.nothing_is_open().await;
}

#[tokio::test]
async fn with_retries_the_loser_of_a_race_is_executed_again() {
    let site = Site::fresh().await;
    let (answers, calls) = race(&site, 3).await;
    assert_eq!((answers[0].status, answers[1].status), (201, 201));
    assert_eq!(calls, 3, "one of them twice");
    let mut sums = answers
        .iter()
        .map(|answer| answer.text())
        .collect::<Vec<_>>();
    sums.sort_unstable();
    assert_eq!(sums, ["0", "1"], "as if one came after the other");
    assert_eq!(site.rows().await, (2, 2, 2));
    site.nothing_is_open().await;
}

/// It says so each time, and is not believed for ever.
#[tokio::test]
async fn a_request_is_executed_again_so_often_and_no_more() {
    let site = Site::fresh().await;
    let calls = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&calls);
    let app = one_route(
        &site.layer(2).with_conflict_retries(3),
        async move |mut tx: IdempotentTx, body: String| -> Result<Response, Failed> {
            counted.fetch_add(1, Ordering::SeqCst);
            assert_eq!(body, "the body");
            pay(&mut tx, 1).await?;
            let mut response = (StatusCode::SERVICE_UNAVAILABLE, "again").into_response();
            response.extensions_mut().insert(TryAgain);
            Ok(response)
        },
    );
    let answer = ask(&app, request("/", Some("k"), "the body")).await;
    assert_eq!((answer.status, answer.text()), (503, "again"));
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    assert_eq!(site.rows().await, (0, 0, 0));
    site.nothing_is_open().await;
}
