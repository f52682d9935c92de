//! The relay itself: what it delivers, and what becomes of it when things fail.

use std::collections::BTreeSet;
use std::time::Duration;

use onlyonce_outbox::standard_webhooks::{ID, SIGNATURE, Secret, TIMESTAMP, Verifier};
use onlyonce_test::event::{Gate, within};
use onlyonce_test::pgbouncer::PgBouncer;
use onlyonce_test::postgres::{Cluster, Database, find_bin_dirs};
use onlyonce_test::process::{Launch, Signal};
use onlyonce_test::upstream::{Legacy, Reply};
use serde_json::Value;

use crate::fixture::{Shop, commit, field, get, lines, number, payment, received, relay};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn each_committed_event_is_a_line_once_and_in_order() {
    let mut shop = Shop::new().await;
    let launch = shop.relay("stdout:").arg("--source").arg("/shop");
    let mut relay = launch.spawn();
    for number in 1..=3 {
        shop.commit(&[payment("a", number), payment("b", number)])
            .await;
    }
    let last = payment("a", 4);
    shop.commit(std::slice::from_ref(&last)).await;
    relay.logged(&last.event_id().to_string()).await;
    shop.status_is("all to be delivered", |sink| sink["undelivered"] == 0)
        .await;
    let numbers = |key: &str| -> Vec<Value> {
        let lines = lines(&relay);
        let of_key = lines.iter().filter(|line| line["subject"] == key);
        of_key.map(|line| line["data"].clone()).collect()
    };
    assert_eq!(numbers("a"), [1, 2, 3, 4]);
    assert_eq!(numbers("b"), [1, 2, 3]);
    assert!(lines(&relay).iter().all(|line| line["source"] == "/shop"));
    assert!(relay.terminate().await.success());

    // Another one goes on where this one was.
    let mut relay = launch.spawn();
    let next = payment("a", 5);
    shop.commit(std::slice::from_ref(&next)).await;
    relay.logged(&next.event_id().to_string()).await;
    assert!(relay.terminate().await.success());
    assert_eq!(lines(&relay).len(), 1);
}

#[tokio::test]
async fn a_webhook_that_fails_gets_the_same_signed_message_again() {
    let mut shop = Shop::new().await;
    let endpoint = Legacy::start().await;
    endpoint.script(Reply::new(500));
    let launch = shop
        .relay(&format!("{}/hooks?token=t0ken", endpoint.url()))
        .env("ONLYONCE__RELAY__SECRETS", SECRET)
        .env("ONLYONCE__RELAY__HEADERS", "Authorization: Bearer t0ken")
        .arg("--log-level")
        .arg("debug");
    let mut relay = launch.spawn();
    let event = payment("a", 7);
    shop.commit(std::slice::from_ref(&event)).await;
    within("a second try", endpoint.wait_for_requests(2)).await;
    shop.status_is("it to be delivered", |sink| {
        sink["undelivered"] == 0 && sink["retrying"] == 0
    })
    .await;
    assert!(relay.terminate().await.success());

    let secret: Secret = SECRET.parse().expect("a secret");
    let verifier = Verifier::new([secret]);
    let messages = endpoint.journal();
    assert_eq!(messages.len(), 2);
    for message in &messages {
        assert_eq!(field(message, ID), event.event_id().to_string());
        assert_eq!(
            field(message, "idempotency-key"),
            format!("\"{}\"", event.event_id())
        );
        assert_eq!(field(message, "authorization"), "Bearer t0ken");
        assert_eq!(message.target, "/hooks?token=t0ken");
        assert_eq!(number(message), 7);
        let sent: i64 = field(message, TIMESTAMP).parse().expect("seconds");
        let (id, time) = (field(message, ID), field(message, TIMESTAMP));
        let signed = field(message, SIGNATURE);
        verifier
            .verify_at(sent, &id, &time, &signed, &message.body)
            .expect("signed");
    }
    // Not even a talkative log says what keeps strangers out.
    let log = relay.log().join("\n");
    assert!(log.contains("sink=http://127.0.0.1:"), "{log}");
    assert!(!log.contains("t0ken") && !log.contains("whsec_"), "{log}");
}

/// The other one goes on with what the dead one had; nothing is missing, and keys keep their order.
#[tokio::test]
async fn a_relay_that_is_killed_loses_nothing() {
    let mut shop = Shop::new().await;
    let endpoint = Legacy::start().await;
    let launch = shop
        .relay(&endpoint.url())
        .arg("--lease")
        .arg("3s")
        .env("ONLYONCE__RELAY__PUBLISH_TIMEOUT", "1s");
    let mut first = launch.spawn();
    let mut second = launch.spawn();
    shop.status_is("both to work", |sink| {
        let shards = sink["shards"].as_array().map_or(&[][..], Vec::as_slice);
        let owners: BTreeSet<_> = shards.iter().filter_map(|s| s["owner"].as_str()).collect();
        owners.len() == 2 && sink["shards_owned"] == 64
    })
    .await;

    let mut committed = BTreeSet::new();
    for number in 1..=60 {
        let events: Vec<_> = (0..10).map(|key| payment(key, number)).collect();
        shop.commit(&events).await;
        committed.extend(events.iter().map(|event| event.event_id().to_string()));
        if number == 20 {
            within("deliveries to begin", endpoint.wait_for_requests(50)).await;
            first.kill().await;
        }
    }
    within("all events", async {
        while !committed.is_subset(&received(&endpoint).0) {
            endpoint.wait_for_requests(endpoint.requests() + 1).await;
        }
    })
    .await;
    let (ids, keys) = received(&endpoint);
    assert_eq!(ids, committed);
    for (key, numbers) in keys {
        assert!(numbers.iter().copied().eq(1..=60), "key {key}: {numbers:?}");
    }
    assert!(second.terminate().await.success());
}

/// With a lease that nobody here would live to see the end of.
#[tokio::test]
async fn a_relay_that_is_told_to_stop_finishes_and_hands_over_at_once() {
    let mut shop = Shop::new().await;
    let endpoint = Legacy::start().await;
    let gate = Gate::default();
    endpoint.script(Reply::new(200).held_at(&gate));
    let launch = shop
        .relay(&endpoint.url())
        .arg("--lease")
        .arg("1h")
        .arg("--admin")
        .arg("127.0.0.1:0")
        .env("ONLYONCE__RELAY__PUBLISH_TIMEOUT", "1m");
    let mut first = launch.spawn();
    shop.commit(&[payment("a", 1)]).await;
    gate.reached(1).await;
    first.signal(Signal::TERM);
    first.logged("draining").await;
    let readiness = get(&first, "/readyz").await;
    let draining = r#"{"status":"not-ready","reason":"draining"}"#;
    assert_eq!((readiness.status, readiness.text()), (503, draining));
    gate.open();
    assert!(first.exited().await.success());
    first.logged("the shards are free").await;
    let status = shop.json(&["status"]).await;
    assert_eq!(status["sinks"][0]["shards_owned"], 0);

    let mut second = launch.spawn();
    shop.commit(&[payment("a", 2)]).await;
    within("the next event", endpoint.wait_for_requests(2)).await;
    assert!(second.terminate().await.success());
    let numbers: Vec<_> = endpoint.journal().iter().map(number).collect();
    assert_eq!(numbers, [1, 2], "what was under way was finished, once");
}

#[tokio::test]
async fn the_time_to_drain_ends_and_so_does_a_second_signal() {
    for (signals, code, said) in [
        (1, Some(0), "the time to drain is over"),
        (2, Some(1), "stopped at once by a second SIGTERM"),
    ] {
        let mut shop = Shop::new().await;
        let endpoint = Legacy::start().await;
        endpoint.answer_with(|_| Reply::never());
        let drain = if signals == 1 { "100ms" } else { "1h" };
        let launch = shop
            .relay(&endpoint.url())
            .arg("--lease")
            .arg("2m")
            .arg("--drain")
            .arg(drain)
            .env("ONLYONCE__RELAY__PUBLISH_TIMEOUT", "1m");
        let mut relay = launch.spawn();
        shop.commit(&[payment("a", signals)]).await;
        within("a delivery", endpoint.wait_for_requests(1)).await;
        relay.signal(Signal::TERM);
        relay.logged("draining").await;
        if signals == 2 {
            relay.signal(Signal::TERM);
        }
        assert_eq!(relay.exited().await.code(), code);
        relay.logged(said).await;
    }
}

/// A database that is away is waited for, and so is one that comes and goes.
#[tokio::test]
async fn a_database_that_is_away_is_waited_for() {
    let bin = find_bin_dirs().pop().expect("a Postgres is installed");
    let mut cluster = Cluster::start(&bin).expect("a Postgres of our own");
    let url = cluster.url("postgres");
    let migrated = Launch::of(["migrate", "--outbox", "--store", &url])
        .output()
        .await;
    assert!(migrated.status.success(), "{migrated:?}");
    cluster.stop_fast().expect("stopped");

    let mut relay = relay(&url, "stdout:")
        .arg("--admin")
        .arg("127.0.0.1:0")
        .spawn();
    relay.logged("the relay's database failed").await;
    let away = get(&relay, "/readyz").await;
    assert_eq!(
        (away.status, away.text()),
        (503, r#"{"status":"not-ready","reason":"database"}"#)
    );
    assert_eq!(get(&relay, "/livez").await.status, 200);
    let numbers = get(&relay, "/metrics").await;
    assert!(numbers.text().contains("\nonlyonce_outbox_up 0\n"));

    cluster.start_again().expect("started");
    let readiness = async |status: u16| {
        within("readiness to change", async {
            while get(&relay, "/readyz").await.status != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    };
    readiness(200).await;
    // What was read of the database holds for a few seconds, also that it was away.
    let numbers = within("numbers", async {
        loop {
            let page = get(&relay, "/metrics").await.text().to_owned();
            if page.contains("\nonlyonce_outbox_up 1\n") {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    for number in [
        "onlyonce_relay_shards{sink=\"hooks\"} 64",
        "onlyonce_outbox_relays{sink=\"hooks\"} 1",
        "onlyonce_outbox_owned_shards{sink=\"hooks\"} 64",
        "onlyonce_outbox_undelivered{sink=\"hooks\"} 0",
    ] {
        assert!(numbers.contains(number), "{number}\n{numbers}");
    }

    cluster.stop_immediate().expect("stopped");
    readiness(503).await;
    assert!(relay.terminate().await.success());
    relay.logged("stopped while the database is away").await;
}

/// Relay, operators and migrations find the same outbox behind a pooler, said in the settings or in the URL.
#[tokio::test]
async fn a_pooler_in_transaction_mode_may_be_in_between() {
    let database = Database::fresh().await;
    let bouncer = PgBouncer::start(database.port(), 4).expect("a PgBouncer of our own");
    let url = database.url_at(bouncer.port());
    let pooled = |launch: Launch| launch.env("ONLYONCE__RELAY__POOLER", "true");
    let migrate = pooled(Launch::of(["migrate", "--outbox", "--database", &url]));
    let output = migrate.output().await;
    assert!(output.status.success(), "{output:?}");
    let mut relay = pooled(relay(&url, "stdout:")).spawn();
    let mut connection = database.connect().await;
    let event = payment("a", 1);
    commit(&mut connection, std::slice::from_ref(&event)).await;
    relay.logged(&event.event_id().to_string()).await;

    let said = format!("{url}?pooler=transaction");
    for args in [
        &["outbox", "status"][..],
        &["outbox", "dead", "list", "--sink", "hooks"],
        &["outbox", "dead", "redrive", "--sink", "hooks", "--all"],
        &[
            "outbox",
            "replay",
            "--sink",
            "hooks",
            "--from-sequence",
            "1",
        ],
    ] {
        let launch = args
            .iter()
            .fold(Launch::of([]), |launch, arg| launch.arg(arg));
        let output = launch.arg("--database").arg(&said).output().await;
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
    assert!(relay.terminate().await.success());
}

/// `onlyonce relay --sink stdout: | head -1` comes to an end.
#[tokio::test]
async fn a_reader_that_leaves_ends_it() {
    let mut shop = Shop::new().await;
    let launch = shop.relay("stdout:").under([
        "sh",
        "-c",
        "{ timeout 60 \"$0\" \"$@\"; echo \"ended with $?\" >&2; } | head -n 1",
    ]);
    let relay = launch.spawn();
    let first = payment("a", 1);
    shop.commit(std::slice::from_ref(&first)).await;
    relay.logged(&first.event_id().to_string()).await;
    for number in 2..=3 {
        shop.commit(&[payment("a", number)]).await;
    }
    relay.logged("nobody reads standard output any more").await;
    relay.logged("ended with 1").await;
    // What nobody read is still there, and so are the shards for another.
    let status = shop.json(&["status"]).await;
    let sink = &status["sinks"][0];
    assert_eq!(sink["shards_owned"], 0, "{status}");
    let there = ["undelivered", "retrying", "behind"].map(|state| sink[state].as_u64());
    assert!(there.iter().flatten().sum::<u64>() > 0, "{status}");
}

#[tokio::test]
async fn tables_that_are_missing_are_an_error_that_says_what_to_do() {
    let database = Database::fresh().await;
    let output = relay(&database.url(), "stdout:").output().await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("`onlyonce migrate --outbox`"), "{text}");
    assert!(
        !text.contains("partitions"),
        "nothing else comes first: {text}"
    );
    let output = Launch::of(["outbox", "status", "--database", &database.url()])
        .output()
        .await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("`onlyonce migrate --outbox`"), "{text}");
}
