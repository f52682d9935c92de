//! An event that waits for longer than half of what its receivers remember: in the log, the numbers, the status.

use onlyonce_test::event::within;
use onlyonce_test::upstream::{Legacy, Reply};
use serde_json::Value;

use crate::fixture::{Shop, get, number, payment};

#[tokio::test]
async fn an_event_that_waits_for_too_long_is_told() {
    let mut shop = Shop::new().await;
    let endpoint = Legacy::start().await;
    endpoint.answer_with(|message| match number(message) {
        1 => Reply::new(400),
        _ => Reply::new(200),
    });
    let launch = shop
        .relay(&endpoint.url())
        .arg("--dedupe-window")
        .arg("6s")
        .arg("--lease")
        .arg("2s")
        .arg("--admin")
        .arg("127.0.0.1:0")
        .env("ONLYONCE__RELAY__PUBLISH_TIMEOUT", "1s")
        .env("ONLYONCE__RELAY__MAX_AGE", "1s");
    let mut relay = launch.spawn();
    // The second waits behind the first, which is dead.
    shop.commit(&[payment("a", 1), payment("a", 2)]).await;
    relay
        .logged("older than half of the receivers' dedupe window")
        .await;
    let status = shop.json(&["status"]).await;
    let sink = &status["sinks"][0];
    assert_eq!(
        (
            &sink["late"],
            &sink["dedupe_window_seconds"],
            &sink["parked_keys"]
        ),
        (&true.into(), &Value::from(6.0), &1.into())
    );
    let (_, text, _) = shop.outbox(&["status"]).await;
    assert!(
        text.contains("sink hooks: the oldest event has waited for") && text.contains("for 6s; "),
        "{text}"
    );
    let late = "onlyonce_outbox_late{sink=\"hooks\"} 1\n";
    // What was read of the database holds for a few seconds.
    within("the number", async {
        while !get(&relay, "/metrics").await.text().contains(late) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(relay.terminate().await.success());
}
