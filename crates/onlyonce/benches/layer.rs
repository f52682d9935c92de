//! What the layer itself costs, without a network and with a store that never waits: a service that answers at
//! once, called bare, through the layer without a key, with a new key, and with one that is replayed; then the
//! same through an axum app.
//!
//! `cargo bench -p onlyonce`; *fresh* minus *bare* is what the layer adds to a request.

use std::convert::Infallible;
use std::hint::black_box;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use onlyonce::IdempotencyLayer;
use onlyonce::clock::SystemClock;
use onlyonce::store::MemoryStore;
use tokio::runtime::Runtime;
use tower::{Service, ServiceExt, service_fn};
use tower_layer::Layer;

type Response = http::Response<Body>;

const ANSWER: &str = r#"{"id":"ch_1","amount":500,"currency":"eur","status":"succeeded"}"#;

/// A store whose bounds no run reaches.
fn layer() -> IdempotencyLayer {
    IdempotencyLayer::new(MemoryStore::new(usize::MAX, usize::MAX, SystemClock))
}

fn request(key: Option<u64>) -> Request<Body> {
    let mut request = Request::post("/charges")
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(AUTHORIZATION, "Bearer 3q2-7w");
    if let Some(key) = key {
        request = request.header(
            "idempotency-key",
            format!("8e03978e-40d5-43dd-bc93-{key:012x}"),
        );
    }
    let body = Body::from(vec![b'x'; 300]);
    request.body(body).expect("every part is valid")
}

/// Times a request from the call to the end of the answer's body.
fn measure<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    runtime: &Runtime,
    service: &S,
    mut key: impl FnMut() -> Option<u64>,
) where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone,
{
    let call = async |request| {
        let Ok(response) = service.clone().oneshot(request).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        response.into_body().collect().await.expect("it is whole")
    };
    group.bench_function(name, |bencher| {
        bencher.to_async(runtime).iter_batched(
            || request(key()),
            async |request| black_box(call(request).await),
            BatchSize::SmallInput,
        );
    });
}

/// The same four ways for a service: `bare`, and `guarded` for one behind the layer.
fn compare<S, G>(criterion: &mut Criterion, name: &str, bare: &S, guarded: &G)
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone,
    G: Service<Request<Body>, Response = Response, Error = Infallible> + Clone,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let mut group = criterion.benchmark_group(name);
    let mut fresh = 0;
    measure(&mut group, "bare", &runtime, bare, || None);
    measure(&mut group, "pass-through", &runtime, guarded, || None);
    measure(&mut group, "fresh", &runtime, guarded, || {
        fresh += 1;
        Some(fresh)
    });
    measure(&mut group, "replay", &runtime, guarded, || Some(0));
    group.finish();
}

fn tower(criterion: &mut Criterion) {
    let bare = service_fn(async |request: Request<Body>| {
        black_box(request.into_body().collect().await).ok();
        let mut response = Response::new(Body::from(ANSWER));
        *response.status_mut() = StatusCode::CREATED;
        Ok::<_, Infallible>(response)
    });
    let guarded = layer()
        .layer(bare.map_request(|request: Request<_>| request.map(Body::new)))
        .map_response(|response: http::Response<_>| response.map(Body::new));
    compare(criterion, "tower", &bare, &guarded);
}

fn axum(criterion: &mut Criterion) {
    let app = Router::new().route(
        "/charges",
        post(async |body: Bytes| {
            black_box(body);
            (StatusCode::CREATED, ANSWER)
        }),
    );
    compare(criterion, "axum", &app, &app.clone().layer(layer()));
}

criterion_group!(benches, tower, axum);
criterion_main!(benches);
