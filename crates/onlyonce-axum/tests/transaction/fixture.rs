//! A payment service on a database of the test's own, and what is in that database.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use onlyonce_axum::{IdempotentTx, TransactionalLayer};
use onlyonce_outbox::Event;
use onlyonce_test::event::{Gate, within};
use onlyonce_test::postgres::ask::{eventually, run, value};
use onlyonce_test::postgres::{Database, Server};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use tokio::sync::Mutex;
use tower::ServiceExt;

/// A database with all tables. Processes are apps with pools of their own.
pub struct Site {
    pub database: Database,
    pub admin: Mutex<PgConnection>,
}

impl Site {
    pub async fn fresh() -> Self {
        Self::on(Server::Default).await
    }

    pub async fn on(server: Server) -> Self {
        let database = Database::fresh_on(server).await;
        let mut admin = database.connect().await;
        run(&mut admin, "create table payments (id bigint generated always as identity primary key, amount bigint)").await;
        let site = Self {
            admin: Mutex::new(admin),
            database,
        };
        site.layer(2).migrate().await.unwrap();
        site
    }

    /// A pool of so many connections. What it opens late is not worth a test's patience.
    pub fn pool(&self, connections: u32) -> PgPool {
        pool(&self.database.url(), connections)
    }

    pub fn layer(&self, connections: u32) -> TransactionalLayer {
        TransactionalLayer::new(self.pool(connections))
    }

    /// A process of its own.
    pub fn app(&self) -> Router {
        app(&self.layer(5))
    }

    pub async fn run(&self, statements: &str) {
        run(&mut *self.admin.lock().await, statements).await;
    }

    /// Keeps expired records from being swept, from now on.
    pub async fn hold_sweeps(&self) {
        self.run("select pg_advisory_lock(6032170923155741027)")
            .await;
    }

    pub async fn count(&self, from: &str) -> i64 {
        self.value(&format!("select count(*) from {from}")).await
    }

    pub async fn value<T>(&self, query: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        value(&mut *self.admin.lock().await, query).await
    }

    /// How many payments, events and records there are.
    pub async fn rows(&self) -> (i64, i64, i64) {
        (
            self.count("payments").await,
            self.count("onlyonce_outbox_event").await,
            self.count("onlyonce_records").await,
        )
    }

    pub async fn eventually(&self, what: &str, query: &str) {
        eventually(&mut *self.admin.lock().await, what, query).await;
    }

    /// F5: whoever is idle is not in a transaction, and nobody holds a lock.
    pub async fn nothing_is_open(&self) {
        self.eventually(
            "no transaction is open",
            "select count(*) = 0 from pg_stat_activity where datname = current_database() \
             and pid <> pg_backend_pid() and state <> 'idle'",
        )
        .await;
    }
}

pub fn pool(url: &str, connections: u32) -> PgPool {
    let options: PgConnectOptions = url.parse().unwrap();
    PgPoolOptions::new()
        .max_connections(connections)
        // A pooler takes no such parameter.
        .connect_lazy_with(options.extra_float_digits(None))
}

/// What fails is a 500, as in most services.
pub struct Failed(sqlx::Error);

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.0.to_string()).into_response()
    }
}

/// Pays, and says so.
pub async fn pay(tx: &mut IdempotentTx, amount: i64) -> Result<i64, sqlx::Error> {
    let paid = sqlx::query_scalar("insert into payments (amount) values ($1) returning id")
        .bind(amount)
        .persistent(false)
        .fetch_one(&mut **tx)
        .await;
    let id: i64 = paid?;
    tx.emit(
        Event::new("payments", id)
            .kind("charged")
            .json(&amount)
            .unwrap(),
    );
    Ok(id)
}

async fn charge(mut tx: IdempotentTx, Json(wish): Json<Value>) -> Result<Response, Failed> {
    let amount = wish["amount"].as_i64().unwrap_or_default();
    let id = pay(&mut tx, amount).await?;
    let receipt = (
        StatusCode::CREATED,
        [("location", format!("/charges/{id}"))],
        Json(json!({ "id": id })),
    );
    Ok(receipt.into_response())
}

/// Pays, and then answers with this status.
async fn with_status(Path(status): Path<u16>, mut tx: IdempotentTx) -> Result<Response, Failed> {
    let id = pay(&mut tx, 1).await?;
    let status = StatusCode::from_u16(status).unwrap();
    Ok((status, format!("payment {id}")).into_response())
}

async fn panics(mut tx: IdempotentTx) -> Result<Response, Failed> {
    pay(&mut tx, 1).await?;
    panic!("the handler fell over");
}

/// The service's routes, without the layer.
pub fn routes() -> Router {
    Router::new()
        .route("/charges", post(charge))
        .route("/status/{status}", post(with_status))
        .route("/panics", post(panics))
        .route(
            "/without",
            post(async || (StatusCode::CREATED, "nothing to write")),
        )
}

pub fn app(layer: &TransactionalLayer) -> Router {
    routes().layer(layer.clone())
}

/// An app with one more route, `/slow`, that pays and then waits at a gate.
pub fn slow_app(layer: &TransactionalLayer) -> (Router, Gate) {
    let gate = Gate::default();
    let opened = Arc::new(gate.clone());
    let slow = async move |mut tx: IdempotentTx| -> Result<Response, Failed> {
        let id = pay(&mut tx, 1).await?;
        opened.pass().await;
        Ok((StatusCode::CREATED, format!("payment {id}")).into_response())
    };
    let router = routes().route("/slow", post(slow)).layer(layer.clone());
    (router, gate)
}

/// An app with the one route `/`.
pub fn one_route<H, T>(layer: &TransactionalLayer, handler: H) -> Router
where
    H: axum::handler::Handler<T, ()>,
    T: 'static,
{
    Router::new().route("/", post(handler)).layer(layer.clone())
}

pub fn request(target: &str, key: Option<&str>, body: &str) -> Request<Body> {
    let mut request = Request::post(target).header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn is_replay(&self) -> bool {
        self.headers.contains_key("idempotent-replayed")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The problem's code, where it is one.
    pub fn code(&self) -> String {
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }
}

pub async fn ask(app: &Router, request: Request<Body>) -> Answer {
    let answer = within("an answer", app.clone().oneshot(request))
        .await
        .unwrap();
    let (parts, body) = answer.into_parts();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

/// A charge of this amount under this key.
pub async fn charge_of(app: &Router, key: &str, amount: i64) -> Answer {
    ask(
        app,
        request(
            "/charges",
            Some(key),
            &json!({ "amount": amount }).to_string(),
        ),
    )
    .await
}

pub async fn post_to(app: &Router, target: &str, key: &str) -> Answer {
    ask(app, request(target, Some(key), "{}")).await
}

/// Checks that `again` is `first`, from the record.
#[track_caller]
pub fn replayed(first: &Answer, again: &Answer) {
    assert!(again.is_replay(), "{again:?}");
    assert!(!first.is_replay(), "{first:?}");
    assert_eq!(again.status, first.status);
    assert_eq!(again.body, first.body);
    for (name, value) in &first.headers {
        assert_eq!(again.headers.get(name), Some(value), "{name}");
    }
}
