//! What official SDKs send and do: raw keys of their own shapes, lower-case names, forms, the same bytes for
//! every attempt, and a retry after a lost connection, a 409 or a 5xx.

use onlyonce_test::client::Response;
use onlyonce_test::event::{Gate, within};
use onlyonce_test::upstream::Reply;

use crate::support::*;

/// One attempt in the manner of Stripe's libraries.
const FORM: &str = "POST /v1/payment_intents HTTP/1.1\r\n\
    host: api.shop.example\r\n\
    authorization: Bearer sk_test_4eC39HqLyjWDarjtT1zdp7dc\r\n\
    accept: application/json\r\n\
    content-type: application/x-www-form-urlencoded\r\n\
    idempotency-key: stripe-node-retry-8e03978e-40d5-43e8-bc93-6894a57f9324\r\n\
    stripe-version: 2024-06-20\r\n\
    content-length: 47\r\n\
    connection: keep-alive\r\n\r\n\
    amount=2000&currency=eur&metadata[a%20b]=%C3%A4";

/// In the manner of the libraries that Stainless generates; the count changes with every attempt.
fn json(attempt: usize) -> String {
    let body = r#"{"amount":2000,"note":"ä"}"#;
    format!(
        "POST /v1/charges HTTP/1.1\r\nhost: api.shop.example\r\nx-api-key: test\r\n\
         content-type: application/json\r\nx-stainless-retry-count: {attempt}\r\n\
         idempotency-key: stainless-python-retry-3d1f0c34-7c0d-4e0f-a1f9-32b0f2b7a001\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Their rule for trying again, once there is an answer.
fn tries_again(answer: &Response) -> bool {
    match answer.fields.get("x-should-retry") {
        Some(word) => word == "true",
        None => answer.status == 409 || answer.status >= 500,
    }
}

three_ways!(a_client_that_lost_patience_gets_the_first_answer);
/// A client that gave up waiting comes back with the same bytes until it has an answer.
async fn a_client_that_lost_patience_gets_the_first_answer(front: Front) {
    let site = Site::start(front).await;
    for (number, attempt) in [|_| FORM.to_owned(), json].into_iter().enumerate() {
        let gate = Gate::default();
        let reply = Reply::new(200).body(format!("paid {number}"));
        site.legacy.script(reply.held_at(&gate));
        let mut client = site.connect().await;
        client.send(attempt(0)).await;
        gate.reached(1).await;
        drop(client); // its patience is over

        let busy = site.ask(attempt(1)).await;
        problem(&busy, 409, "request-in-progress");
        assert!(tries_again(&busy));
        gate.open();
        site.guard.recorded().await;
        let answer = within("an answer that is final", async {
            let mut tries = 2;
            loop {
                let answer = site.ask(attempt(tries)).await;
                if !tries_again(&answer) {
                    break answer;
                }
                tries += 1;
            }
        })
        .await;
        assert!(answer.is_replay());
        assert_eq!(
            (answer.status, answer.text()),
            (200, &*format!("paid {number}"))
        );
        assert_eq!(site.effects().await, number + 1);
    }
    let journal = site.legacy.journal();
    assert!(FORM.ends_with(std::str::from_utf8(&journal[0].body).expect("text")));
    assert_eq!(journal[0].body.len(), 47);
}

three_ways!(a_client_that_gives_up_on_409_is_held_instead);
/// `--wait`: for those who give up on 409 sooner than the service answers.
async fn a_client_that_gives_up_on_409_is_held_instead(front: Front) {
    let site = Site::with(front, &[("policy.wait", "30s")]).await;
    let gate = Gate::default();
    site.legacy
        .script(Reply::new(200).body("paid").held_at(&gate));
    let mut first = site.connect().await;
    first.send(FORM).await;
    gate.reached(1).await;
    drop(first);
    let mut retry = site.connect().await;
    retry.send(FORM).await;
    gate.open();
    let answer = retry.response().await.expect("a head");
    assert_eq!(
        (answer.status, answer.text(), answer.is_replay()),
        (200, "paid", true)
    );
    assert_eq!(site.effects().await, 1);
}

three_ways!(no_client_can_retry_itself_into_a_second_effect);
/// An outcome that nobody knows is final for them: `x-should-retry` says so to those who read it, and those
/// who do not get the same again, and no effect.
async fn no_client_can_retry_itself_into_a_second_effect(front: Front) {
    let site = Site::start(front).await;
    site.loses(json(0)).await;
    if front.leaves(End::NoAnswer) == Left::Nothing {
        // The first effect was undone, and this is the one.
        assert_eq!(site.ask(json(1)).await.status, 201);
    }
    let effects = site.effects().await;
    for attempt in 2..6 {
        let again = site.ask(json(attempt)).await;
        match front.leaves(End::NoAnswer) {
            Left::Nothing => assert!(again.is_replay()),
            Left::Answer | Left::Unknown => unknown(&again, 409),
        }
        assert!(!tries_again(&again));
    }
    assert_eq!(site.effects().await, effects);
}
