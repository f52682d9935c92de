//! An axum app under one of the layers, over TCP: what a service written with them is, with the same script and the
//! same counts as the one behind the proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http_body_util::BodyExt;
use onlyonce::IdempotencyLayer;
use onlyonce_axum::{IdempotentTx, TransactionalLayer};
use onlyonce_proxy::config::{Config, Sources};
use onlyonce_proxy::store::ChosenStore;
use onlyonce_test::event::PATIENCE;
use onlyonce_test::http1::Fields;
use onlyonce_test::upstream::{Died, Legacy, Received, Reply};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::front::Front;

/// A process, as far as there can be another one in this: a runtime of its own, which can be ended at any moment.
pub(crate) struct App {
    addr: SocketAddr,
    layer: Layer,
    /// `None` once it was killed.
    runtime: Option<Runtime>,
}

#[derive(Clone)]
enum Layer {
    Plain(IdempotencyLayer),
    Transactional(Box<TransactionalLayer>),
}

/// What a handler works with.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) legacy: Arc<Legacy>,
    /// The keys of the effects that have to be in the database: of those whose answer commits.
    pub(crate) due: Arc<Mutex<Vec<Option<String>>>>,
}

impl Service {
    pub(crate) fn due(&self) -> MutexGuard<'_, Vec<Option<String>>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Starts one, with settings as the proxy reads them.
    pub(crate) async fn start(
        front: Front,
        service: Service,
        store: &str,
        settings: impl Iterator<Item = (String, String)>,
    ) -> Self {
        let mut sources = Sources::default();
        sources.flag("--upstream", "upstream.url", service.legacy.url());
        sources.flag("--store", "store.url", store);
        sources.variables(settings);
        let config = Config::load(sources).expect("the settings are right");
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build();
        let runtime = runtime.expect("threads can be had");
        let started = runtime.spawn(serve(front, service, config, store.to_owned()));
        let (addr, layer) = started.await.expect("it starts");
        Self {
            addr,
            layer,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends it between two steps of whatever it does: nothing is said to anybody, sockets are closed.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Waits until every claimed request is over, its client there or not.
    pub(crate) async fn drained(&self) -> bool {
        match &self.layer {
            Layer::Plain(layer) => layer.drain(PATIENCE).await,
            Layer::Transactional(layer) => layer.drain(PATIENCE).await,
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(
    front: Front,
    service: Service,
    config: Config,
    store: String,
) -> (SocketAddr, Layer) {
    let (limits, policy) = (
        config.limits.guard(),
        config.policy.guard(&config.upstream.name),
    );
    // Any method, any target.
    let (app, layer) = if front == Front::SameTransaction {
        let options: PgConnectOptions = store.parse().expect("a URL");
        let pool = PgPoolOptions::new()
            .max_connections(10)
            // A database that is away is so for good.
            .acquire_timeout(Duration::from_secs(3))
            .connect_lazy_with(options);
        let layer = TransactionalLayer::new(pool)
            .with_limits(limits)
            .with_policy(policy);
        let app = Router::new().fallback(in_transaction).layer(layer.clone());
        (app, Layer::Transactional(Box::new(layer)))
    } else {
        let store = ChosenStore::open(&config.store).expect("the store can be opened");
        let layer = IdempotencyLayer::with_limits(store, limits).with_policy(policy);
        let app = Router::new().fallback(plain).layer(layer.clone());
        (app, Layer::Plain(layer))
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a free loopback port is needed");
    let addr = listener
        .local_addr()
        .expect("a bound listener has an address");
    let app = app.with_state(service);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (addr, layer)
}

async fn plain(State(service): State<Service>, request: Request) -> Response {
    match received(request).await {
        Ok(received) => respond(service.legacy.call(received)).await,
        Err(answer) => answer,
    }
}

/// The effect is a row beside what the service counts, in the request's transaction.
async fn in_transaction(
    State(service): State<Service>,
    mut tx: IdempotentTx,
    request: Request,
) -> Response {
    let received = match received(request).await {
        Ok(received) => received,
        Err(answer) => return answer,
    };
    let key = received.key().map(str::to_owned);
    let reply = service.legacy.call(received);
    let effect = reply.has_effect();
    if effect {
        let inserted = sqlx::query("insert into effects (key) values ($1)")
            .bind(&key)
            .execute(&mut *tx)
            .await;
        inserted.expect("the database is there");
    }
    let response = respond(reply).await;
    if !effect || response.status().as_u16() >= 400 {
        return response;
    }
    service.due().push(key.clone());
    // Where the body breaks off, the answer does not commit.
    let withdraw = move |_: &_| {
        let mut due = service.due();
        let own = due.iter().position(|other| *other == key);
        due.swap_remove(own.expect("it is there"));
    };
    response.map(|body| Body::new(body.inspect_err(withdraw)))
}

async fn respond(reply: Reply) -> Response {
    match reply.respond().await {
        Ok(response) => response.map(Body::new),
        Err(Died) => panic!("the handler died, as it was told to"),
    }
}

/// The request, read to its end; the answer to one that breaks off.
async fn received(request: Request) -> Result<Received, Response> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Err(StatusCode::BAD_REQUEST.into_response());
    };
    let fields = Fields::from(&parts.headers);
    let trailers = body.trailers().map(Fields::from).unwrap_or_default();
    Ok(Received {
        connection: 0,
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        head: format!("{fields:?}").into(),
        fields,
        body: body.to_bytes(),
        trailers,
    })
}
