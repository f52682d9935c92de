//! F: the first request with a key.

use onlyonce_test::event::Gate;
use onlyonce_test::process::Launch;
use onlyonce_test::upstream::Reply;

use crate::support::*;

three_ways!(f1_f3_f4_f9_it_is_forwarded_once_and_answered_as_the_service_does);
async fn f1_f3_f4_f9_it_is_forwarded_once_and_answered_as_the_service_does(front: Front) {
    let site = Site::start(front).await;
    for (number, key) in [(1, "k-1"), (2, "\"quoted;  key\""), (3, "ab+/c==")] {
        let answer = site.ask(post(key)).await;
        assert_eq!(answer.status, 201, "F1");
        assert_eq!(answer.text(), format!("charge {number}"));
        assert_eq!(answer.fields.get("idempotent-replayed"), None, "F3");
        assert_eq!(answer.fields.get("idempotency-key"), None, "F4");
        assert_eq!(site.effects_of(key).await, 1, "F9: as it was written");
    }
    assert_eq!(site.legacy.requests(), 3, "F1");
}

three_ways!(f4_the_key_is_echoed_where_that_is_asked_for);
async fn f4_the_key_is_echoed_where_that_is_asked_for(front: Front) {
    let site = Site::with(front, &[("policy.echo-key", "true")]).await;
    for key in ["k-1", "\"quoted,  key\""] {
        for replayed in [false, true] {
            let answer = site.ask(post(key)).await;
            assert_eq!(answer.fields.get("idempotency-key"), Some(key), "F4");
            assert_eq!(answer.is_replay(), replayed);
        }
        let other = site.ask(post(key).body("other")).await;
        assert_eq!(other.fields.get("idempotency-key"), Some(key), "F4");
    }
    assert_eq!(site.effects().await, 2);
}

three_ways!(f1_f2_the_claim_is_stored_before_the_service_sees_the_request);
/// F2: while the service is at work, another process already finds the claim in the file.
async fn f1_f2_the_claim_is_stored_before_the_service_sees_the_request(front: Front) {
    let shop = Shop::lasting(front).await;
    let gate = Gate::default();
    shop.legacy.script(Reply::new(201).held_at(&gate));
    let guard = shop.open(&[]).await;
    let mut client = guard.connect().await;
    client.send(post("k")).await;
    gate.reached(1).await;

    let list = Launch::of(["records", "list", "--json", "--store", &shop.store()]);
    let listed = || async {
        let output = list.output().await;
        let records: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let states: Vec<_> = records.as_array().expect("a list").clone();
        states
            .iter()
            .map(|record| record["state"].clone())
            .collect::<Vec<_>>()
    };
    let claimed: &[&str] = if front.shows_claims() {
        &["in-flight"]
    } else {
        &[]
    };
    assert_eq!(listed().await, claimed);
    gate.open();
    assert_eq!(client.response().await.expect("a head").status, 201);
    assert_eq!(listed().await, ["completed"], "F5");
}

three_ways!(f5_the_record_is_settled_before_the_answer_ends);
/// Whoever has seen the last byte of the first answer gets the replay, never a 409.
async fn f5_the_record_is_settled_before_the_answer_ends(front: Front) {
    let shop = Shop::lasting(front).await;
    let guard = shop.open(&[]).await;
    for round in 0..30 {
        let reply = Reply::new(201);
        shop.legacy.script(match round % 3 {
            0 => reply.body("of known length"),
            1 => reply.chunked(["of unknown ", "length"], []),
            _ => reply, // none
        });
        let request = post(format!("k-{round}"));
        let first = guard.ask(&request).await;
        replayed(&first, &guard.ask(&request).await);
    }
    assert_eq!(shop.effects().await, 30);
}

three_ways!(f6_a_client_that_leaves_does_not_stop_the_work);
async fn f6_a_client_that_leaves_does_not_stop_the_work(front: Front) {
    let site = Site::start(front).await;
    let gate = Gate::default();
    site.legacy
        .script(Reply::new(201).body("done").held_at(&gate));
    let mut client = site.connect().await;
    client.send(post("k")).await;
    gate.reached(1).await;
    client.reset();
    gate.open();
    site.guard.recorded().await;
    let retry = site.ask(post("k")).await;
    assert!(retry.is_replay());
    assert_eq!((retry.status, retry.text()), (201, "done"));
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(f7_an_upload_that_breaks_off_is_never_forwarded);
async fn f7_an_upload_that_breaks_off_is_never_forwarded(front: Front) {
    let site = Site::start(front).await;
    let head = "POST /charges HTTP/1.1\r\nHost: s\r\nIdempotency-Key: k\r\n";
    for rest in [
        "Content-Length: 100\r\n\r\namount=100",
        "Transfer-Encoding: chunked\r\n\r\na\r\namount=100\r\n",
        "Transfer-Encoding: chunked\r\n\r\na\r\namount",
    ] {
        let mut client = site.connect().await;
        client.send(format!("{head}{rest}")).await;
        client.finish().await;
        let answer = client.response().await;
        if let Ok(answer) = answer {
            assert_eq!(answer.status, 400, "{answer:?}");
        }
        let mut client = site.connect().await;
        client.send(format!("{head}{rest}")).await;
        client.reset();
    }
    assert_eq!(site.legacy.requests(), 0);
    // Nothing was claimed: the key is as new, for any payload.
    let answer = site.ask(post("k").body("amount=7")).await;
    assert_eq!((answer.status, answer.is_replay()), (201, false));
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(f8_two_keys_are_two_operations_whatever_the_payload);
async fn f8_two_keys_are_two_operations_whatever_the_payload(front: Front) {
    let site = Site::start(front).await;
    let first = site.ask(post("a")).await;
    let second = site.ask(post("b")).await;
    assert_ne!(first.body, second.body);
    assert_eq!(site.effects().await, 2);
}

three_ways!(f10_who_loses_the_claim_never_forwards);
/// F10: the claim of another process is seen in the store.
async fn f10_who_loses_the_claim_never_forwards(front: Front) {
    let shop = Shop::lasting(front).await;
    let gate = Gate::default();
    shop.legacy
        .script(Reply::new(201).body("done").held_at(&gate));
    let one = shop.open(&[]).await;
    let other = shop.open(&[]).await;
    let mut client = one.connect().await;
    client.send(post("k")).await;
    gate.reached(1).await;
    let lost = other.ask(post("k")).await;
    problem(&lost, 409, "request-in-progress");
    gate.open();
    let first = client.response().await.expect("a head");
    replayed(&first, &other.ask(post("k")).await);
    assert_eq!(shop.legacy.requests(), 1);
    assert_eq!(shop.effects().await, 1);
}
