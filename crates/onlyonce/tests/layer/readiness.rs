//! Readiness: permits are not held through an upload or a claim, and axum's routers work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::OriginalUri;
use axum::routing::post as route;
use http::Request;
use http_body_util::BodyExt;
use onlyonce::Policy;
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn under_a_concurrency_limit_of_one_many_requests_get_through() {
    let upstream = Upstream::receipts();
    let layer = layer(Policy::default());
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(ConcurrencyLimitLayer::new(1))
        .service(upstream.clone());
    let requests: Vec<_> = (0..20)
        .map(|n| {
            let mut service = service.clone();
            tokio::spawn(async move {
                let request = post(&format!("k{n}"), "{}");
                let answer = service.ready().await.unwrap().call(request).await.unwrap();
                // The service is kept, as a connection keeps it: it must hold no permit.
                (read(answer).await.0, service)
            })
        })
        .collect();
    for request in requests {
        assert_eq!(soon(request).await.unwrap().0, 201);
    }
    assert_eq!(upstream.effects(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_keeps_no_permit() {
    let upstream = Upstream::receipts();
    let service = ServiceBuilder::new()
        .layer(layer(Policy::default().require_key()))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(upstream.clone());
    let mut refused = service.clone();
    let request = Request::post("/")
        .body(http_body_util::Full::default())
        .unwrap();
    refused.ready().await.unwrap().call(request).await.unwrap();
    let mut other = service.clone();
    let ready = tokio::time::timeout(Duration::from_secs(1), other.ready()).await;
    assert!(
        ready.is_ok(),
        "the refused request's service holds the only permit"
    );
}

fn counted(effects: &Arc<AtomicUsize>) -> Router {
    let effects = Arc::clone(effects);
    let charge = move |body: String| async move {
        let n = effects.fetch_add(1, Ordering::SeqCst) + 1;
        format!("charged {body}, number {n}")
    };
    Router::new()
        .route("/charges", route(charge.clone()))
        .route("/refunds", route(charge))
}

async fn axum_answer(app: &Router, path: &str) -> (bool, String) {
    let request = Request::post(path)
        .header("idempotency-key", "k")
        .body(axum::body::Body::from("5"))
        .unwrap();
    let answer = app.clone().oneshot(request).await.unwrap();
    let replayed = answer.headers().contains_key("idempotent-replayed");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (replayed, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn it_is_a_layer_for_axum() {
    let effects = Arc::default();
    let app = counted(&effects).layer(layer(Policy::default()));
    assert_eq!(
        axum_answer(&app, "/charges").await,
        (false, "charged 5, number 1".into())
    );
    assert_eq!(
        axum_answer(&app, "/charges").await,
        (true, "charged 5, number 1".into())
    );
    assert_eq!(
        axum_answer(&app, "/refunds").await,
        (false, "charged 5, number 2".into()),
        "M3"
    );
}

#[tokio::test]
async fn nested_routes_are_told_apart_by_the_original_uri() {
    let effects = Arc::default();
    let policy = Policy::default().with_target(|parts| {
        let original = parts.extensions.get::<OriginalUri>()?;
        original.path_and_query().map(ToString::to_string)
    });
    let layer = layer(policy);
    let app = Router::new()
        .nest("/eu", counted(&effects).layer(layer.clone()))
        .nest("/us", counted(&effects).layer(layer));
    assert!(!axum_answer(&app, "/eu/charges").await.0);
    assert!(
        !axum_answer(&app, "/us/charges").await.0,
        "another prefix is another operation"
    );
    assert!(axum_answer(&app, "/eu/charges").await.0);
    assert_eq!(effects.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn one_service_takes_several_requests() {
    let upstream = Upstream::receipts();
    let mut service = layer(Policy::default()).layer(upstream.clone());
    for key in ["a", "b", "a"] {
        service
            .ready()
            .await
            .unwrap()
            .call(post(key, "{}"))
            .await
            .unwrap();
    }
    assert_eq!(upstream.effects(), 2);
}
