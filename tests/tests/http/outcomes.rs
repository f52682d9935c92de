//! O: what an outcome does to its key.

use onlyonce_test::event::{Gate, within};
use onlyonce_test::upstream::{At, Break, Reply, refusing_addr};

use crate::support::*;

three_ways!(o1_o2_o3_o7_what_the_service_answered_is_kept);
async fn o1_o2_o3_o7_what_the_service_answered_is_kept(front: Front) {
    let site = Site::start(front).await;
    for status in [
        200, 201, 202, 203, 204, 206, 300, 302, 303, 307, 308, 400, 402, 404, 405, 406, 409, 410,
        412, 413, 415, 418, 422, 423, 431, 451, 500, 501, 507, 599,
    ] {
        site.legacy.script(
            Reply::new(status)
                .field("Location", "/a")
                .field("Retry-After", "1"),
        );
        let key = format!("k-{status}");
        let first = site.ask(post(&key)).await;
        assert_eq!(first.status, status);
        assert_eq!(first.fields.get("location"), Some("/a"), "O2: {status}");
        assert_eq!(site.effects_of(&key).await, 1);
        if status >= 500 {
            let left = front.leaves(End::Failed);
            site.retried(&key, Some(&first), left).await;
            continue;
        }
        let again = site.ask(post(&key)).await;
        replayed(&first, &again);
        assert_eq!(again.fields.get("location"), Some("/a"), "O2: {status}");
        assert_eq!(site.effects_of(&key).await, 1);
    }
}

three_ways!(o4_o5_o6_o8_what_was_refused_frees_the_key);
async fn o4_o5_o6_o8_what_was_refused_frees_the_key(front: Front) {
    let site = Site::start(front).await;
    for status in [401, 403, 407, 408, 421, 425, 426, 429, 503] {
        let refusal = Reply::new(status)
            .field("Retry-After", "7")
            .field("WWW-Authenticate", "Basic realm=\"x\"")
            .body("not now")
            .without_effect();
        site.legacy.script(refusal);
        let key = format!("k-{status}");
        let refused = site.ask(post(&key)).await;
        assert_eq!((refused.status, refused.text()), (status, "not now"));
        assert_eq!(
            refused.fields.get("retry-after"),
            Some("7"),
            "O6, O8: {status}"
        );
        let challenge = refused.fields.get("www-authenticate");
        assert_eq!(challenge, Some("Basic realm=\"x\""), "O5: {status}");
        // Also for another payload: nothing is left of it.
        let next = site.ask(post(&key).body("amount=7")).await;
        assert_eq!((next.status, next.is_replay()), (201, false), "{status}");
        replayed(&next, &site.ask(post(&key).body("amount=7")).await);
        assert_eq!(site.effects_of(&key).await, 1, "{status}");
    }
}

three_ways!(o8_o9_what_a_gateway_says_passes_and_leaves_it_unknown);
async fn o8_o9_what_a_gateway_says_passes_and_leaves_it_unknown(front: Front) {
    let site = Site::start(front).await;
    for status in [502, 503, 504] {
        site.legacy
            .script(Reply::new(status).field("X-Own", "1").body("bad gateway"));
        let key = format!("k-{status}");
        let first = site.ask(post(&key)).await;
        assert_eq!((first.status, first.text()), (status, "bad gateway"));
        assert_eq!(first.fields.get("x-own"), Some("1"));
        assert_eq!(site.effects_of(&key).await, 1);
        site.retried(&key, Some(&first), front.leaves(End::Gateway))
            .await;
    }
}

/// O10: provably not sent. Another proxy on the same file, whose service is there, executes it.
#[tokio::test]
async fn o10_what_was_never_sent_frees_the_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = format!("sqlite://{}", directory.path().join("o.db").display());
    let nowhere = format!("http://{}", refusing_addr().await);
    let lost = serve(&nowhere, &store, &[]).start().await;
    for _ in 0..2 {
        let members = problem(
            &ask(lost.addr(), post("k")).await,
            502,
            "upstream-unreachable",
        );
        assert_eq!(members["retryable"], true, "O10");
    }
    let legacy = charges().await;
    let proxy = serve(&legacy.url(), &store, &[]).start().await;
    let first = ask(proxy.addr(), post("k")).await;
    assert_eq!((first.status, first.is_replay()), (201, false));
    replayed(&first, &ask(lost.addr(), post("k")).await);
    assert_eq!(legacy.effects(), 1);
}

three_ways!(o12_u7_a_request_that_may_have_arrived_is_never_sent_again);
async fn o12_u7_a_request_that_may_have_arrived_is_never_sent_again(front: Front) {
    let site = Site::start(front).await;
    site.loses(post("lost")).await;
    assert_eq!(site.effects_of("lost").await, 1);
    site.retried("lost", None, front.leaves(End::NoAnswer))
        .await;
    if front != Front::Proxy {
        return;
    }
    // Points that only a connection has.
    for (number, (at, how)) in [
        (At::AfterRequest, Break::Finish),
        (At::InRequest(3), Break::Reset),
        (At::InRequest(3), Break::Finish),
        (At::AfterInterim, Break::Reset),
    ]
    .into_iter()
    .enumerate()
    {
        let before = site.legacy.requests();
        site.legacy
            .script(Reply::new(201).interim(100).breaks(at, how));
        let key = format!("k-{number}");
        unknown(&site.ask(post(&key)).await, 502);
        for body in ["amount=100", "other"] {
            unknown(&site.ask(post(&key).body(body)).await, 409);
        }
        assert_eq!(site.legacy.requests(), before + 1, "U7: {at:?} {how:?}");
        assert!(site.effects_of(&key).await <= 1);
    }
}

/// O13: the connection had served a request before, and broke as the next arrived.
#[tokio::test]
async fn o13_a_reused_connection_that_breaks_is_not_tried_again() {
    // Another worker would use a connection of its own.
    let site = Site::with(Front::Proxy, &[("listen.workers", "1")]).await;
    assert_eq!(site.ask(post("first")).await.status, 201);
    site.legacy
        .script(Reply::new(201).breaks(At::FirstByte, Break::Reset));
    unknown(&site.ask(post("k")).await, 502);
    assert_eq!((site.legacy.requests(), site.legacy.connections()), (2, 1));
    unknown(&site.ask(post("k")).await, 409);
    assert_eq!(site.legacy.requests(), 2);
}

three_ways!(o12_silence_is_unknown_after_the_deadline);
async fn o12_silence_is_unknown_after_the_deadline(front: Front) {
    let site = Site::with(front, &[("policy.deadline", "3s")]).await;
    site.legacy.script(Reply::never());
    let late = site.ask(post("k")).await;
    match front.leaves(End::NoAnswer) {
        Left::Nothing => {
            problem(&late, 504, "rolled-back");
        }
        Left::Answer | Left::Unknown => unknown(&late, 504),
    }
    assert_eq!(site.effects().await, 1);
    site.retried("k", None, front.leaves(End::NoAnswer)).await;
}

three_ways!(o12_reexecute_lets_a_retry_of_the_same_request_run);
async fn o12_reexecute_lets_a_retry_of_the_same_request_run(front: Front) {
    let site = Site::with(front, &[("policy.on-unknown", "reexecute")]).await;
    site.loses(post("k")).await;
    // Where nothing is left of the first, there is nothing to be the same as.
    if front.leaves(End::NoAnswer) != Left::Nothing {
        problem(
            &site.ask(post("k").body("other")).await,
            422,
            "idempotency-key-reused",
        );
    }
    let second = site.ask(post("k")).await;
    assert_eq!((second.status, second.is_replay()), (201, false));
    replayed(&second, &site.ask(post("k")).await);
    assert_eq!(site.legacy.requests(), 2);
}

three_ways!(o18_o21_reexecute_before_a_service_with_keys_of_its_own);
/// O18, U7: a service that honours the key itself may say 409 while the lost attempt still runs there. That
/// is no outcome, and the route has to say so.
async fn o18_o21_reexecute_before_a_service_with_keys_of_its_own(front: Front) {
    let settings = [
        ("policy.on-unknown", "reexecute"),
        ("policy.statuses-released", "409"),
    ];
    let site = Site::with(front, &settings).await;
    site.loses(post("k")).await;
    site.legacy
        .script(Reply::new(409).body("still running").without_effect());
    let busy = site.ask(post("k")).await;
    assert_eq!((busy.status, busy.text()), (409, "still running"));
    let own = Reply::new(201).body("its own replay").without_effect();
    site.legacy.script(own);
    let second = site.ask(post("k")).await;
    assert_eq!((second.status, second.text()), (201, "its own replay"));
    replayed(&second, &site.ask(post("k")).await);
    assert_eq!((site.legacy.requests(), site.effects().await), (3, 1));
}

three_ways!(o19_u7_guards_can_stand_one_behind_the_other);
/// O19, U7: "in progress" is no outcome either, and another onlyonce behind this one says so itself.
async fn o19_u7_guards_can_stand_one_behind_the_other(front: Front) {
    let inner = Site::start(front).await;
    let upstream = format!("http://{}", inner.guard.addr());
    let gate = Gate::default();
    let held = Reply::new(201).body("one charge").held_at(&gate);
    inner.legacy.script(held);
    let first_outer = serve(&upstream, "memory:", &[]).start().await;
    let second_outer = serve(&upstream, "memory:", &[]).start().await;
    let first_addr = first_outer.addr();
    let first = tokio::spawn(ask(first_addr, post("k")));
    inner.legacy.wait_for_effects(1).await;
    let early = ask(second_outer.addr(), post("k")).await;
    problem(&early, 409, "request-in-progress");
    assert_eq!(early.fields.get("idempotency-outcome"), None, "O19");
    gate.open();
    let first = within("the first answer", first)
        .await
        .expect("it is given");
    assert_eq!((first.status, first.text()), (201, "one charge"));
    let later = ask(second_outer.addr(), post("k")).await;
    assert_eq!((later.status, later.text()), (201, "one charge"));
    assert_eq!(inner.effects().await, 1);
}

three_ways!(o14_c_r7_a_truncated_answer_is_no_answer);
/// O14: the client sees a broken answer as broken, never as complete.
async fn o14_c_r7_a_truncated_answer_is_no_answer(front: Front) {
    let site = Site::start(front).await;
    for (number, reply) in [
        Reply::new(200)
            .body("0123456789")
            .breaks(At::InBody(4), Break::Finish),
        Reply::new(200)
            .body("0123456789")
            .breaks(At::InBody(4), Break::Reset),
        Reply::new(200).body_declared("01234", 10),
        Reply::new(200)
            .chunked(["0123", "4567"], [])
            .breaks(At::InBody(9), Break::Finish),
        Reply::new(200)
            .chunked(["0123", "4567"], [])
            .breaks(At::InBody(9), Break::Reset),
        Reply::new(200)
            .chunked(["0123"], [])
            .breaks(At::InBody(12), Break::Finish),
    ]
    .into_iter()
    .enumerate()
    {
        site.legacy.script(reply);
        let key = format!("k-{number}");
        let mut client = site.connect().await;
        client.send(post(&key)).await;
        if let Ok(answer) = client.response().await {
            assert!(!answer.is_whole(), "O14: {number}: {answer:?}");
        }
        assert_eq!(site.effects_of(&key).await, 1);
        site.retried(&key, None, front.leaves(End::Truncated)).await;
    }
}

/// An answer that ends with its connection cannot be told from a broken one where TCP ends it cleanly:
/// HTTP takes it for complete, and so do we.
#[tokio::test]
async fn o14_an_answer_up_to_the_end_of_the_connection_is_kept() {
    let site = Site::start(Front::Proxy).await;
    let raw = Reply::raw("HTTP/1.1 201 Created\r\nConnection: close\r\n\r\nto the end");
    site.legacy
        .script(raw.breaks(At::AfterResponse, Break::Finish));
    let first = site.ask(post("k")).await;
    assert_eq!((first.status, first.text()), (201, "to the end"));
    replayed(&first, &site.ask(post("k")).await);
    let raw = Reply::raw("HTTP/1.1 201 Created\r\n\r\nto the end");
    site.legacy
        .script(raw.breaks(At::AfterResponse, Break::Reset));
    let mut client = site.connect().await;
    client.send(post("reset")).await;
    if let Ok(answer) = client.response().await {
        assert!(!answer.is_whole(), "a reset is no end: {answer:?}");
    }
    unknown(&site.ask(post("reset")).await, 409);
    assert_eq!(site.legacy.requests(), 2);
}

three_ways!(o15_no_store_is_for_caches_and_we_are_none);
async fn o15_no_store_is_for_caches_and_we_are_none(front: Front) {
    let site = Site::start(front).await;
    site.legacy.script(
        Reply::new(201)
            .field("Cache-Control", "no-store, private")
            .body("x"),
    );
    let first = site.ask(post("k")).await;
    let again = site.ask(post("k")).await;
    replayed(&first, &again);
    assert_eq!(again.fields.get("cache-control"), Some("no-store, private"));
}

three_ways!(o19_the_word_counts_where_connection_names_it);
/// O19: the word is for the next hop alone, so a service does right to name it in `Connection`.
async fn o19_the_word_counts_where_connection_names_it(front: Front) {
    let site = Site::start(front).await;
    let reply = Reply::new(429)
        .field("Connection", "Idempotency-Outcome")
        .field("Idempotency-Outcome", "executed")
        .body("first");
    site.legacy.script(reply);
    let first = site.ask(post("k")).await;
    assert_eq!(first.fields.get("idempotency-outcome"), None);
    replayed(&first, &site.ask(post("k")).await);
    assert_eq!(site.effects_of("k").await, 1);
}

three_ways!(o19_the_service_may_say_whether_it_executed);
async fn o19_the_service_may_say_whether_it_executed(front: Front) {
    let site = Site::start(front).await;
    for (number, (status, word, kept)) in [
        (500, "not-executed", false),
        (201, "Not-Executed", false),
        (429, "executed", true),
        (502, "executed", true),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = Reply::new(status)
            .field("Idempotency-Outcome", word)
            .body("first");
        site.legacy
            .script(if kept { reply } else { reply.without_effect() });
        let key = format!("k-{number}");
        let first = site.ask(post(&key)).await;
        assert_eq!((first.status, first.text()), (status, "first"));
        if status == 502 && front.leaves(End::Failed) == Left::Nothing {
            // Executed, and undone all the same.
            site.retried(&key, None, Left::Nothing).await;
            continue;
        }
        let again = site.ask(post(&key)).await;
        for answer in [&first, &again] {
            assert_eq!(
                answer.fields.get("idempotency-outcome"),
                None,
                "O19: not passed on"
            );
        }
        if kept {
            replayed(&first, &again);
        } else {
            assert_eq!((again.status, again.is_replay()), (201, false));
        }
        assert_eq!(site.effects_of(&key).await, 1);
    }
}

#[tokio::test]
async fn o20_interim_responses_are_no_outcome() {
    let site = Site::start(Front::Proxy).await;
    site.legacy.script(
        Reply::new(201)
            .interim(102)
            .interim(103)
            .interim(103)
            .body("made"),
    );
    let first = site.ask(post("k")).await;
    assert_eq!((first.status, first.text()), (201, "made"));
    let again = site.ask(post("k")).await;
    replayed(&first, &again);
    assert!(again.interim.is_empty());
}

three_ways!(o21_what_is_kept_can_be_set);
async fn o21_what_is_kept_can_be_set(front: Front) {
    let settings = [
        ("policy.statuses-kept", "429"),
        ("policy.statuses-released", "404, 502"),
        ("policy.statuses-unknown", "500"),
    ];
    let site = Site::with(front, &settings).await;
    // An end that is declared to be unknown, or that a gateway's is by default.
    let unknown = match front.leaves(End::Gateway) {
        Left::Nothing => 201,
        Left::Answer | Left::Unknown => 409,
    };
    for (status, second) in [(429, 429), (404, 201), (502, 201), (500, unknown)] {
        let key = format!("k-{status}");
        site.legacy.script(Reply::new(status));
        assert_eq!(site.ask(post(&key)).await.status, status);
        assert_eq!(site.ask(post(&key)).await.status, second, "{status}");
    }
    let site = Site::with(front, &[("policy.record", "success-only")]).await;
    for (status, second) in [
        (204, 204),
        (303, 303),
        (400, 201),
        (500, 201),
        (502, unknown),
    ] {
        let key = format!("k-{status}");
        site.legacy.script(Reply::new(status));
        assert_eq!(site.ask(post(&key)).await.status, status);
        assert_eq!(
            site.ask(post(&key)).await.status,
            second,
            "success only: {status}"
        );
    }
}

three_ways!(o17_without_a_store_nothing_is_forwarded);
/// O17: a store that is away. What it does while settling is in the fault tests.
async fn o17_without_a_store_nothing_is_forwarded(front: Front) {
    let shop = Shop::without_a_store(front).await;
    let guard = shop.open(&[]).await;
    let answer = guard.ask(post("k")).await;
    let members = problem(&answer, 503, "store-unavailable");
    assert_eq!(members["retryable"], true);
    let retry_after = answer.fields.get("retry-after").unwrap_or_default();
    assert!(
        retry_after.parse::<u32>().is_ok_and(|seconds| seconds >= 1),
        "{retry_after:?}"
    );
    assert_eq!(shop.legacy.requests(), 0);
    let plain = guard.ask(unkeyed("POST", "/charges").body("x")).await;
    if front == Front::SameTransaction {
        // It is the handler that needs the database, for its own work.
        problem(&plain, 503, "store-unavailable");
    } else {
        assert_eq!(plain.status, 201, "what is not guarded needs no store");
    }
}
