//! What an operator sees, and what a decision does.

use onlyonce_test::event::within;
use onlyonce_test::process::Proxy;
use onlyonce_test::upstream::{Legacy, Reply};
use serde_json::Value;

use crate::fixture::{Shop, number, payment, received};

/// Number 1 of keys `a` and `b` is dead, 2 and 3 wait behind it.
async fn dead_letters(shop: &mut Shop, endpoint: &Legacy) -> Proxy {
    endpoint.answer_with(|message| match number(message) {
        1 => Reply::new(400).body("malformed"),
        _ => Reply::new(200),
    });
    let relay = shop.relay(&endpoint.url()).spawn();
    for number in 1..=3 {
        shop.commit(&[payment("a", number), payment("b", number)])
            .await;
    }
    shop.status_is("all to be parked", |sink| {
        sink["dead"] == 2 && sink["behind"] == 4
    })
    .await;
    relay
}

fn ids(letters: &Value) -> Vec<String> {
    let letters = letters.as_array().expect("a list").iter();
    letters
        .map(|letter| letter["event_id"].as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn the_state_and_the_dead_are_shown() {
    let mut shop = Shop::new().await;
    let (code, out, err) = shop.outbox(&["status"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(
        out.starts_with("no sinks: no relay has ever run here\n"),
        "{out}"
    );
    let endpoint = Legacy::start().await;
    let mut relay = dead_letters(&mut shop, &endpoint).await;

    let status = shop
        .status_is("cursors to move", |sink| sink["undelivered"] == 0)
        .await;
    let sink = &status["sinks"][0];
    assert_eq!(
        [&sink["name"], &sink["relays"], &sink["shards_owned"]],
        [&"hooks".into(), &1.into(), &Value::from(64)]
    );
    assert_eq!(sink["shards"].as_array().map(Vec::len), Some(64));
    assert!(status["days"][0]["table"].is_string(), "{status}");
    let (_, table, _) = shop.outbox(&["status"]).await;
    let row = table.lines().nth(1).expect("a row").split_whitespace();
    let mut row: Vec<_> = row.collect();
    // The oldest of those behind the dead, a moment ago.
    assert!(row.remove(2).ends_with('s'), "{table}");
    assert_eq!(row, ["hooks", "0", "0", "4", "2", "1", "64", "of", "64"]);
    assert!(table.contains("open transactions: "), "{table}");

    let dead = shop.json(&["dead", "list", "--sink", "hooks"]).await;
    assert_eq!(ids(&dead).len(), 2);
    assert_eq!(
        [&dead[0]["key"], &dead[0]["state"], &dead[0]["attempts"]],
        [&Value::from("a"), &"dead".into(), &1.into()]
    );
    let failed = dead[0]["first_failed_at"].as_str().expect("a time");
    assert!(failed.parse::<jiff::Timestamp>().is_ok(), "{failed}");
    assert!(
        dead[0]["last_error"]
            .as_str()
            .is_some_and(|error| error.contains("400"))
    );
    let list = async |more: &[&str]| {
        let args = [&["dead", "list", "--sink", "hooks"][..], more].concat();
        ids(&shop.json(&args).await).len()
    };
    assert_eq!(list(&["--all"]).await, 6);
    assert_eq!(list(&["--key", "b", "--all"]).await, 3);
    assert_eq!(list(&["--topic", "payments", "--limit", "1"]).await, 1);
    assert_eq!(list(&["--topic", "other"]).await, 0);
    let (code, table, _) = shop.outbox(&["dead", "list", "--sink", "hooks"]).await;
    assert_eq!((code, table.lines().count()), (0, 3), "{table}");

    // No payload unless asked for.
    let id = ids(&dead)[0].clone();
    let show = ["dead", "show", "--sink", "hooks", &id];
    let shown = shop.json(&show).await;
    assert_eq!(
        (&shown["event_id"], &shown["payload"]),
        (&id.clone().into(), &Value::Null)
    );
    let shown = shop.json(&[&show[..], &["--payload"]].concat()).await;
    assert_eq!(shown["payload"], "1");
    let (_, text, _) = shop.outbox(&show).await;
    assert!(
        text.contains("payload   1 bytes (--payload shows them)"),
        "{text}"
    );
    assert!(relay.terminate().await.success());
}

#[tokio::test]
async fn the_dead_are_redriven_and_discarded() {
    let mut shop = Shop::new().await;
    let endpoint = Legacy::start().await;
    let mut relay = dead_letters(&mut shop, &endpoint).await;
    endpoint.answer_with(|_| Reply::new(200));

    // One by its id, and one that is not there.
    let dead = shop
        .json(&["dead", "list", "--sink", "hooks", "--key", "a"])
        .await;
    let id = ids(&dead)[0].clone();
    let (code, out, err) = shop
        .outbox(&["dead", "redrive", "--sink", "hooks", &id, NOBODY])
        .await;
    assert_eq!(code, 1, "one of them was not there");
    assert!(
        out.contains("1 dead letter of sink hooks redriven"),
        "{out}"
    );
    assert!(
        err.contains(&format!("{NOBODY}: sink hooks has no such dead letter")),
        "{err}"
    );
    within("key a's events", endpoint.wait_for_requests(2 + 3)).await;
    assert_eq!(received(&endpoint).1["a"], [1, 2, 3]);

    // Nothing is thrown away by saying nothing.
    let (code, out, err) = shop.outbox(&["dead", "discard", "--sink", "hooks"]).await;
    assert_eq!((code, out.as_str()), (64, ""), "{err}");
    assert!(err.contains("--all"), "{err}");
    let discarded = shop
        .json(&[
            "dead", "discard", "--sink", "hooks", "--topic", "payments", "--key", "b",
        ])
        .await;
    assert_eq!(
        [&discarded["decision"], &discarded["events"]],
        [&Value::from("discarded"), &1.into()]
    );
    within("key b's others", endpoint.wait_for_requests(2 + 3 + 2)).await;
    let tries: Vec<_> = endpoint
        .journal()
        .iter()
        .filter(|message| message.fields.get("ce-subject") == Some("b"))
        .map(number)
        .collect();
    assert_eq!(tries, [1, 2, 3], "1 was refused, and never came again");
    let none = shop
        .json(&["dead", "redrive", "--sink", "hooks", "--all"])
        .await;
    assert_eq!(none["events"], 0);
    assert!(relay.terminate().await.success());
}

#[tokio::test]
async fn what_a_sink_lost_comes_again() {
    let mut shop = Shop::new().await;
    let endpoint = Legacy::start().await;
    let launch = shop
        .relay(&endpoint.url())
        .arg("--lease")
        .arg("2s")
        .env("ONLYONCE__RELAY__PUBLISH_TIMEOUT", "1s");
    let mut relay = launch.spawn();
    for number in 1..=3 {
        shop.commit(&[payment("a", number)]).await;
    }
    within("deliveries", endpoint.wait_for_requests(3)).await;
    shop.status_is("cursors to move", |sink| sink["undelivered"] == 0)
        .await;
    let second: i64 = endpoint.journal()[1]
        .fields
        .get("outbox-seq")
        .and_then(|number| number.parse().ok())
        .expect("a number");

    let replay = ["replay", "--sink", "hooks"];
    let from = second.to_string();
    let replayed = shop
        .json(&[&replay[..], &["--from-sequence", &from]].concat())
        .await;
    assert_eq!(
        (&replayed["first_sequence"], &replayed["events"]),
        (&second.into(), &2.into())
    );
    within("two again", endpoint.wait_for_requests(5)).await;
    shop.status_is("cursors to move", |sink| sink["undelivered"] == 0)
        .await;
    let (code, out, err) = shop
        .outbox(&[&replay[..], &["--from-time", "2020-01-01T00:00:00Z"]].concat())
        .await;
    assert_eq!(code, 0, "{err}");
    assert!(
        out.starts_with("3 events will come again to sink hooks, from number"),
        "{out}"
    );
    within("all again", endpoint.wait_for_requests(8)).await;
    let (code, out, _) = shop
        .outbox(&[&replay[..], &["--from-time", "2999-01-01T00:00:00Z"]].concat())
        .await;
    assert_eq!(code, 0);
    assert!(out.starts_with("nothing is there from then on"), "{out}");
    let numbers: Vec<_> = endpoint.journal().iter().map(number).collect();
    assert_eq!(numbers, [1, 2, 3, 2, 3, 1, 2, 3]);
    assert!(relay.terminate().await.success());
}

#[tokio::test]
async fn mistakes_change_nothing() {
    let mut shop = Shop::new().await;
    let endpoint = Legacy::start().await;
    let mut relay = dead_letters(&mut shop, &endpoint).await;
    // One word is one argument; `N` is an event that nobody has.
    for (line, code, message) in [
        (
            "dead list --sink hoks",
            1,
            "there is no sink hoks; there are: hooks",
        ),
        ("dead discard --sink hoks --all", 1, "there is no sink hoks"),
        (
            "replay --sink hoks --from-sequence 1",
            1,
            "there are: hooks",
        ),
        ("dead show --sink hooks N", 1, "no such event parked"),
        ("dead list", 64, "which sink? Name it with --sink NAME"),
        ("dead list --sink hooks --limit 0", 64, "--limit"),
        ("dead show --sink hooks not-an-id", 64, "not-an-id"),
        ("dead redrive --sink hooks", 64, "--all"),
        (
            "dead discard --sink hooks --all --key a",
            64,
            "cannot be used with",
        ),
        (
            "dead discard --sink hooks N --all",
            64,
            "cannot be used with",
        ),
        ("replay --sink hooks", 64, "--from-time"),
        (
            "replay --sink hooks --from-time yesterday",
            64,
            "expected a time such as",
        ),
        (
            "replay --sink hooks --from-sequence 0",
            64,
            "--from-sequence",
        ),
        (BOTH, 64, "cannot be used with"),
    ] {
        let nobody = line.replace(" N", &format!(" {NOBODY}"));
        let args: Vec<_> = nobody.split(' ').collect();
        let (found, out, err) = shop.outbox(&args).await;
        assert_eq!((found, out.as_str()), (code, ""), "{line} {err}");
        assert!(err.contains(message), "{line} {err}");
    }
    let unchanged = |sink: &Value| sink["dead"] == 2 && sink["behind"] == 4;
    shop.status_is("nothing to change", unchanged).await;
    assert!(relay.terminate().await.success());
}

const BOTH: &str = "replay --sink hooks --from-sequence 1 --from-time 2020-01-01T00:00:00Z";

/// An event that nobody has.
const NOBODY: &str = "0190163d-8694-739b-aea5-966c26f8ad91";
