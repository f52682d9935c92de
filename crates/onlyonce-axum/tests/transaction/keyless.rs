//! Requests without a key: the same handlers, a plain transaction.

use onlyonce::Policy;

use crate::fixture::*;

#[tokio::test]
async fn a_request_without_a_key_commits_by_the_same_rule() {
    let site = Site::fresh().await;
    let app = site.app();
    for payments in 1..=2 {
        let answer = ask(&app, request("/charges", None, "{\"amount\":1}")).await;
        assert_eq!((answer.status, answer.is_replay()), (201, false));
        assert_eq!(site.rows().await, (payments, payments, 0));
    }
    for status in [402, 500] {
        let answer = ask(&app, request(&format!("/status/{status}"), None, "")).await;
        assert_eq!(answer.status, status);
        assert_eq!(site.rows().await, (2, 2, 0));
    }
    let answer = ask(&app, request("/without", None, "")).await;
    assert_eq!(answer.text(), "nothing to write");
    site.nothing_is_open().await;
}

#[tokio::test]
async fn other_methods_get_a_transaction_too() {
    let site = Site::fresh().await;
    let get = axum::routing::get(
        async |mut tx: onlyonce_axum::IdempotentTx| -> Result<_, Failed> {
            let count: i64 = sqlx::query_scalar("select count(*) from payments")
                .fetch_one(&mut *tx)
                .await?;
            Ok(count.to_string())
        },
    );
    let layer = site.layer(2);
    let app = axum::Router::new()
        .route("/", get)
        .merge(routes())
        .layer(layer);
    charge_of(&app, "k", 1).await;
    let get = http::Request::get("/")
        .body(axum::body::Body::empty())
        .unwrap();
    assert_eq!(ask(&app, get).await.text(), "1");
    site.nothing_is_open().await;
}

/// After a week without a relay and without a key, say.
#[tokio::test]
async fn events_get_their_days_where_no_request_has_a_key() {
    let site = Site::fresh().await;
    site.run(
        "do $$ declare day text; begin for day in select inhrelid::regclass::text from pg_inherits \
         where inhparent = 'onlyonce_outbox_event'::regclass loop execute 'drop table ' || day; end loop; end $$",
    )
    .await;
    let app = site.app();
    let charge = || request("/charges", None, "{\"amount\":1}");
    let answer = ask(&app, charge()).await;
    assert_eq!((answer.status, answer.code()), (503, "rolled-back".into()));
    site.eventually(
        "there are days again",
        "select count(*) = 8 from pg_inherits where inhparent = 'onlyonce_outbox_event'::regclass",
    )
    .await;
    assert_eq!(ask(&app, charge()).await.status, 201);
    assert_eq!(site.rows().await, (1, 1, 0));
}

#[tokio::test]
async fn a_key_can_be_required() {
    let site = Site::fresh().await;
    let app = app(&site.layer(2).with_policy(Policy::default().require_key()));
    let answer = ask(&app, request("/charges", None, "{\"amount\":1}")).await;
    assert_eq!(
        (answer.status, answer.code()),
        (400, "idempotency-key-missing".into())
    );
    assert_eq!(site.rows().await, (0, 0, 0));
}
