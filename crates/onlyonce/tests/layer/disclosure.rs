//! What is a duplicate, and who may see the answer, are two decisions.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use onlyonce::VerifiedPrincipal;

use crate::support::*;

/// A token of `subject`, of which nobody has checked the signature.
fn jwt(subject: &str, signature: &str) -> String {
    let part = |json: String| URL_SAFE_NO_PAD.encode(json);
    let header = part(r#"{"alg":"HS256"}"#.into());
    let claims = part(format!(
        r#"{{"iss":"https://id.example","sub":"{subject}"}}"#
    ));
    format!("Bearer {header}.{claims}.{signature}")
}

#[tokio::test]
async fn a_refreshed_token_of_the_same_subject_never_executes_again() {
    let upstream = Upstream::receipts();
    let service = guard(&upstream);
    let request = |token: &str| with_header(post("k", "{}"), "authorization", token);
    read(send(&service, request(&jwt("alice", "one"))).await).await;

    let refreshed = send(&service, request(&jwt("alice", "two"))).await;
    assert_eq!(code(refreshed).await, (409, "replay-withheld".into()));
    assert!(is_replay(
        &send(&service, request(&jwt("alice", "one"))).await
    ));
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn a_forged_token_never_sees_the_answer_nor_learns_of_the_request() {
    let upstream = Upstream::receipts();
    let service = guard(&upstream);
    let request = |token: &str, body| with_header(post("k", body), "authorization", token);
    read(
        send(
            &service,
            request(&jwt("alice", "genuine"), "{\"secret\":1}"),
        )
        .await,
    )
    .await;

    for body in ["{\"secret\":1}", "{\"secret\":2}"] {
        let forged = send(&service, request(&jwt("alice", "forged"), body)).await;
        let (status, text) = read(forged).await;
        assert_eq!(status, 409);
        assert!(
            text.contains("replay-withheld") && !text.contains("receipt"),
            "{text}"
        );
    }
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn a_verified_principal_sees_its_answer_under_a_new_token() {
    let upstream = Upstream::receipts();
    let service = guard(&upstream);
    let request = |token: &str| {
        let mut request = with_header(post("k", "{}"), "authorization", token);
        request
            .extensions_mut()
            .insert(VerifiedPrincipal("alice".into()));
        request
    };
    read(send(&service, request("Bearer one")).await).await;
    assert!(is_replay(&send(&service, request("Bearer two")).await));
    // An unverified claim of the same name is another principal altogether.
    let unverified = send(
        &service,
        with_header(post("k", "{}"), "authorization", "Bearer two"),
    )
    .await;
    assert!(!is_replay(&unverified));
    assert_eq!(upstream.effects(), 2);
}

#[tokio::test]
async fn two_principals_with_one_key_are_two_effects() {
    let upstream = Upstream::receipts();
    let service = guard(&upstream);
    for principal in ["key-of-a", "key-of-b"] {
        let request = with_header(post("k", "{}"), "x-api-key", principal);
        assert!(!is_replay(&send(&service, request).await), "S1");
    }
    assert_eq!(upstream.effects(), 2);
}
