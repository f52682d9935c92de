//! Which answers are kept, which free the key, and which leave it unknown.

use std::time::Duration;

use http::header::{HeaderValue, RETRY_AFTER};
use http::{Request, StatusCode};
use http_body_util::Full;
use onlyonce::store::operator::{Filter, Operator};
use onlyonce::store::{MemoryStore, OnUnknown};
use onlyonce::{Evidence, IdempotencyLayer, Policy, StoredState};
use tower::Layer;

use crate::support::*;

/// Sends one key twice to an upstream that first answers `status`, then 201. Returns the effects and the
/// retry's status.
async fn retry_after(status: u16, retry_after: bool) -> (usize, u16) {
    let upstream = Upstream::new(move |n| async move {
        if n > 1 {
            return created(TestBody::whole("second"));
        }
        let status = StatusCode::from_u16(status).unwrap();
        let mut response = with_status(status, TestBody::whole("first"));
        if retry_after {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    });
    let service = guard(&upstream);
    let first = send(&service, post("k", "{}")).await;
    assert_eq!(
        read(first).await,
        (status, "first".into()),
        "the first answer passes through"
    );
    let retry = send(&service, post("k", "{}")).await;
    (upstream.effects(), retry.status().as_u16())
}

#[tokio::test]
async fn what_the_service_answered_is_kept() {
    for status in [200, 201, 202, 303, 400, 402, 404, 409, 410, 422, 451, 500] {
        assert_eq!(
            retry_after(status, false).await,
            (1, status),
            "O1, O2, O3, O7: {status}"
        );
    }
}

#[tokio::test]
async fn what_was_refused_frees_the_key() {
    for status in [401, 403, 407, 408, 421, 425, 426, 429] {
        assert_eq!(
            retry_after(status, false).await,
            (2, 201),
            "O4, O5, O6: {status}"
        );
    }
    assert_eq!(retry_after(503, true).await, (2, 201), "O8");
}

#[tokio::test]
async fn what_a_gateway_says_leaves_it_unknown() {
    for status in [502, 503, 504] {
        assert_eq!(retry_after(status, false).await, (1, 409), "O9: {status}");
    }
}

#[tokio::test]
async fn evidence_is_believed_before_the_status() {
    for (evidence, effects, retry) in [
        (Evidence::NotSent, 2, 201),
        (Evidence::Refused, 2, 201),
        (Evidence::Unknown, 1, 409),
    ] {
        let upstream = Upstream::new(move |n| async move {
            let mut response = created(TestBody::whole("x"));
            if n == 1 {
                response.extensions_mut().insert(evidence);
            }
            response
        });
        let service = guard(&upstream);
        read(send(&service, post("k", "{}")).await).await;
        let answer = send(&service, post("k", "{}")).await;
        assert_eq!(
            (upstream.effects(), answer.status().as_u16()),
            (effects, retry),
            "{evidence:?}"
        );
    }
}

#[tokio::test]
async fn an_upstream_may_say_that_it_did_not_execute() {
    let upstream = Upstream::new(|n| async move {
        let mut response = with_status(StatusCode::CONFLICT, TestBody::whole("busy"));
        if n == 1 {
            let value = HeaderValue::from_static("not-executed");
            response.headers_mut().insert("idempotency-outcome", value);
        }
        response
    });
    let service = guard(&upstream);
    let first = send(&service, post("k", "{}")).await;
    assert!(
        !first.headers().contains_key("idempotency-outcome"),
        "O19: stripped"
    );
    send(&service, post("k", "{}")).await;
    assert_eq!(upstream.effects(), 2);
}

#[tokio::test]
async fn a_panic_leaves_it_unknown_and_reaches_the_caller() {
    let upstream = Upstream::new(|_| async { panic!("the handler fell over") });
    let service = guard(&upstream);
    let first = tokio::spawn({
        let service = service.clone();
        async move { send(&service, post("k", "{}")).await }
    });
    assert!(soon(first).await.unwrap_err().is_panic());
    let retry = send(&service, post("k", "{}")).await;
    assert_eq!(code(retry).await, (409, "outcome-unknown".into()));
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn past_the_deadline_it_is_unknown_and_never_sent_again() {
    let upstream = Upstream::new(|_| std::future::pending());
    let service = guard(&upstream);
    let first =
        tokio::time::timeout(Duration::from_secs(61), send(&service, post("k", "{}"))).await;
    let first = first.expect("the deadline is 60 s");
    assert_eq!(first.headers().get("retry-after"), None, "G11");
    assert_eq!(code(first).await, (504, "outcome-unknown".into()), "O12");
    let retry = send(&service, post("k", "{}")).await;
    assert_eq!(code(retry).await, (409, "outcome-unknown".into()));
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn reexecute_lets_one_retry_of_the_same_request_run() {
    let upstream = Upstream::new(|n| async move {
        if n == 1 {
            std::future::pending::<()>().await;
        }
        created(TestBody::whole("second"))
    });
    let policy = Policy::default().with_on_unknown(OnUnknown::Reexecute);
    let service = layer(policy).layer(upstream.clone());
    send(&service, post("k", "{}")).await;
    let other = send(&service, post("k", "other")).await;
    assert_eq!(code(other).await, (422, "idempotency-key-reused".into()));
    assert_eq!(
        read(send(&service, post("k", "{}")).await).await,
        (201, "second".into())
    );
    assert!(is_replay(&send(&service, post("k", "{}")).await));
    assert_eq!(upstream.effects(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_there_for_the_operator_to_see() {
    let upstream = Upstream::new(|_| std::future::pending());
    let store = MemoryStore::default();
    let service = IdempotencyLayer::new(store.clone()).layer(upstream.clone());
    send(&service, post("k", "{}")).await;
    let filter = Filter {
        state: Some(StoredState::Unknown),
        limit: 10,
    };
    assert_eq!(store.list(&filter).await.unwrap().len(), 1);
}

#[tokio::test]
async fn keys_that_are_none_never_reach_the_service() {
    let upstream = Upstream::receipts();
    let service = guard(&upstream);
    for key in [
        "",
        "\"\"",
        "   ",
        "a,b",
        "\"a\", \"b\"",
        "\"unclosed",
        &"k".repeat(256),
    ] {
        let answer = send(&service, post(key, "{}")).await;
        assert_eq!(
            answer.headers()["content-type"],
            "application/problem+json",
            "G1"
        );
        assert_eq!(
            code(answer).await,
            (400, "idempotency-key-invalid".into()),
            "{key}"
        );
    }
    let mut twice = post("k", "{}");
    twice
        .headers_mut()
        .append("idempotency-key", HeaderValue::from_static("k"));
    assert_eq!(code(send(&service, twice).await).await.0, 400, "K5, K6");
    assert_eq!(upstream.effects(), 0);
}

#[tokio::test]
async fn a_missing_key_is_refused_only_where_it_is_required() {
    let keyless = || Request::post("/charges").body(Full::from("{}")).unwrap();
    let upstream = Upstream::receipts();
    let required = layer(Policy::default().require_key()).layer(upstream.clone());
    assert_eq!(
        code(send(&required, keyless()).await).await,
        (400, "idempotency-key-missing".into()),
        "R1"
    );
    assert_eq!(upstream.effects(), 0);
    let optional = guard(&upstream);
    for _ in 0..2 {
        assert!(!is_replay(&send(&optional, keyless()).await), "R3");
    }
    assert_eq!(upstream.effects(), 2);
}

#[tokio::test]
async fn other_methods_pass_by() {
    let upstream = Upstream::receipts();
    let service = layer(Policy::default().require_key()).layer(upstream.clone());
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "MKCOL"] {
        for _ in 0..2 {
            let mut request = post("k, not a key", "");
            *request.method_mut() = method.parse().unwrap();
            assert_eq!(send(&service, request).await.status(), 201, "X1, X3, X4");
        }
    }
    assert_eq!(upstream.effects(), 12);
}

#[tokio::test]
async fn what_the_service_recorded_itself_is_passed_on_and_not_settled() {
    let upstream = Upstream::new(async |_| {
        let mut response = created(TestBody::whole("receipt"));
        response
            .extensions_mut()
            .insert(onlyonce::evidence::Recorded);
        response
    });
    let store = FaultyStore::new();
    let service = IdempotencyLayer::new(store.clone()).layer(upstream.clone());
    let answer = send(&service, post("k", "{}")).await;
    assert_eq!(read(answer).await, (201, "receipt".into()));
    assert_eq!(store.calls(), 1, "the claim alone");
    assert_eq!(upstream.effects(), 1);
}
