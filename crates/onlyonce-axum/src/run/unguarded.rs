//! A request without a key: a transaction is begun when the handler asks for one, and ends by the same rule.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use onlyonce::BoxError;
use sqlx::raw_sql;
use tower_service::Service;

use super::{Answer, Route, roll_back};
use crate::answer::Failed;
use crate::body::{Held, HeldBody};
use crate::ending::{Schedule, commit, is_without_transaction};
use crate::slot::{Left, Slot};
use crate::work::Work;

impl Route {
    pub(super) async fn unguarded<S, B, R>(
        &self,
        mut service: S,
        mut request: Request<B>,
    ) -> Result<Answer<R>, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let slot = Slot::unbegun(Arc::clone(&self.settings));
        request.extensions_mut().insert(slot.clone());
        let response = match service.call(request).await {
            Ok(response) => response,
            Err(error) => {
                roll_back(slot.close()).await;
                return Err(error);
            }
        };
        if slot.is_unbegun() {
            return Ok(response.map(HeldBody::passed));
        }
        // Its events need their days as well, where no request has a key.
        self.store.look_after();
        let (parts, body) = response.into_parts();
        let held = Held::read(body, self.policy.response_bytes_max()).await;
        let commits = (self.commits)(parts.status) && !held.is_broken();
        let ended = match slot.close() {
            Left::Used(work) if commits => {
                let schedule = Schedule::unlimited();
                commit(&self.settings, work, &Bytes::new(), schedule).await
            }
            Left::Missing if commits => {
                tracing::error!("the handler answered, and something still holds its transaction");
                Err(Failed::Misused)
            }
            Left::Used(work) => undo(work).await,
            left => {
                roll_back(left).await;
                Ok(())
            }
        };
        Ok(match ended {
            Ok(()) => Response::from_parts(parts, HeldBody::from(held)),
            Err(failed) => failed.unguarded(&self.policy),
        })
    }
}

/// Rolls back what the handler did, and finds out whether there is anything left to roll back: who has committed by
/// itself and then refuses must not have its refusal believed.
async fn undo(mut work: Box<Work>) -> Result<(), Failed> {
    // It is allowed in a transaction only; in one that has failed it says so instead.
    let probe = raw_sql("savepoint onlyonce_probe");
    let probed = probe.execute(work.open.connection()).await;
    if probed.is_err_and(|error| is_without_transaction(&error)) {
        tracing::error!(
            "the handler ended the request's transaction itself, and answers that it failed: what it wrote may be committed"
        );
        return Err(Failed::Ended);
    }
    work.open.roll_back().await;
    Ok(())
}
