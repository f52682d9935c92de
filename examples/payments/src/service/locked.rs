//! The naive service behind a lock: for each key one request at a time, over all instances. It is a good lock, which is
//! why it is worth looking at: Postgres holds it, it never expires under its holder, and it is gone as soon as its
//! holder is. (One that expires, as a key in Redis with a time to live, can also be lost by a holder that is only slow.)
//!
//! What goes wrong: the lock keeps two requests apart in space, and a retry comes after, in time. Whether the first one
//! was answered, its answer was lost, or its holder was killed right after the charge: the lock is free when the
//! retry arrives, and nothing says that this key was charged.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sqlx::PgPool;

use super::{Failed, key_of};

/// `locks` are connections apart from those that the work is done with.
pub(super) fn behind(app: Router, locks: PgPool) -> Router {
    app.layer(from_fn_with_state(locks, one_at_a_time))
}

async fn one_at_a_time(
    State(locks): State<PgPool>,
    request: Request,
    next: Next,
) -> Result<Response, Failed> {
    let mut lock = locks.begin().await?;
    let taken: bool =
        sqlx::query_scalar("select pg_try_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(key_of(request.headers()))
            .fetch_one(&mut *lock)
            .await?;
    if !taken {
        let busy = json!({ "code": "locked", "retryable": true });
        return Ok((StatusCode::CONFLICT, axum::Json(busy)).into_response());
    }
    let answer = next.run(request).await;
    // From here on the answer can be lost, and the lock does not know.
    lock.rollback().await?;
    Ok(answer)
}
