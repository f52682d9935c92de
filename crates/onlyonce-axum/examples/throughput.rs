//! What the layer costs: a handler that inserts one row, in a transaction of its own and under the layer, in rounds
//! that take turns, on a Postgres that is there for nothing else. No sockets: router and clients are in one process.
//!
//! `ONLYONCE_TEST_POSTGRES_URL=… cargo run --release -p onlyonce-axum --example throughput -- [clients] [seconds] [rounds]`

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use onlyonce_axum::{IdempotentTx, TransactionalLayer};
use onlyonce_test::postgres::Database;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::ServiceExt;

async fn pay(connection: &mut PgConnection, wish: &Value) -> Result<i64, sqlx::Error> {
    let pay = "insert into payments (amount, note) values ($1, $2) returning id";
    let pay = sqlx::query_scalar(pay)
        .bind(wish["amount"].as_i64().unwrap_or_default())
        .bind(wish["note"].as_str());
    pay.fetch_one(connection).await
}

type Answer = Result<(StatusCode, Json<Value>), StatusCode>;

fn receipt(id: i64) -> (StatusCode, Json<Value>) {
    let receipt = json!({ "id": id, "status": "succeeded", "currency": "eur" });
    (StatusCode::CREATED, Json(receipt))
}

fn broken(error: sqlx::Error) -> StatusCode {
    eprintln!("{error}");
    StatusCode::INTERNAL_SERVER_ERROR
}

async fn bare(State(pool): State<PgPool>, Json(wish): Json<Value>) -> Answer {
    let mut tx = pool.begin().await.map_err(broken)?;
    let id = pay(&mut tx, &wish).await.map_err(broken)?;
    tx.commit().await.map_err(broken)?;
    Ok(receipt(id))
}

async fn charge(mut tx: IdempotentTx, Json(wish): Json<Value>) -> Answer {
    pay(&mut tx, &wish).await.map(receipt).map_err(broken)
}

/// Requests a second, and the CPU time of this process for each, in microseconds.
async fn measure(app: &Router, clients: usize, seconds: u64, round: usize) -> (f64, f64) {
    let (begun, cpu) = (Instant::now(), cpu_time());
    let until = begun + Duration::from_secs(seconds);
    let mut working = JoinSet::new();
    for client in 0..clients {
        let app = app.clone();
        working.spawn(async move {
            let mut done = 0_u32;
            while Instant::now() < until {
                let body = format!("{{\"amount\":{done},\"note\":\"{:0>300}\"}}", "");
                let request = Request::post("/charges")
                    .header("content-type", "application/json")
                    .header("authorization", "Bearer 3q2-7w")
                    .header("idempotency-key", format!("{round}-{client}-{done}"))
                    .body(Body::from(body))
                    .expect("every part is valid");
                let Ok(answer) = app.clone().oneshot(request).await;
                assert_eq!(answer.status(), StatusCode::CREATED);
                answer
                    .into_body()
                    .collect()
                    .await
                    .expect("a body in memory");
                done += 1;
            }
            done
        });
    }
    let done: u32 = working.join_all().await.into_iter().sum();
    let cpu = cpu_time().saturating_sub(cpu).as_secs_f64() * 1e6 / f64::from(done);
    (f64::from(done) / begun.elapsed().as_secs_f64(), cpu)
}

/// User and system time of this process so far, in steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|text| text.parse().expect("a number"));
    let clients: usize = numbers.next().unwrap_or(16);
    let seconds = u64::try_from(numbers.next().unwrap_or(3)).expect("a number");
    let rounds = numbers.next().unwrap_or(3);
    let database = Database::fresh().await;
    let connections = u32::try_from(clients.min(32)).expect("a number");
    let pool = PgPoolOptions::new().max_connections(connections);
    let pool = pool
        .connect(&database.url())
        .await
        .expect("the server answers");
    let table = "create table payments (id bigint generated always as identity primary key, \
         amount bigint, note text)";
    sqlx::query(table)
        .execute(&pool)
        .await
        .expect("a new database");
    let layer = TransactionalLayer::new(pool.clone());
    layer.migrate().await.expect("a new database");
    let apps = [
        (
            "bare",
            Router::new().route("/charges", post(bare)).with_state(pool),
        ),
        (
            "layer",
            Router::new().route("/charges", post(charge)).layer(layer),
        ),
    ];
    for round in 0..=rounds {
        for (name, app) in &apps {
            let (rate, cpu) = measure(app, clients, seconds, round).await;
            let note = if round == 0 { "  (to warm up)" } else { "" };
            println!("{name:>6} {rate:8.0} requests/s {cpu:6.0} µs of this process{note}");
        }
    }
}
