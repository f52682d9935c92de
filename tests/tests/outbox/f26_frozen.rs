//! F26: the owner of the shards is frozen in the middle of its work, another takes over, and the owner thaws.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use onlyonce_test::event::{Counter, Gate};
use onlyonce_test::postgres::ask::value;
use onlyonce_test::process::Launch;

use crate::endpoint::{Endpoint, RELAY, Verdict};
use crate::shop::Shop;
use crate::writers::commit;

const KEYS: u64 = 40;

fn relay(shop: &Shop, endpoint: &Endpoint, name: &str) -> Launch {
    shop.relay(&endpoint.url())
        .arg("--lease")
        .arg("2s")
        .env("ONLYONCE__RELAY__PUBLISH_TIMEOUT", "1s")
        .env("ONLYONCE__RELAY__HEADERS", &format!("{RELAY}: {name}"))
}

fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|key| key.to_string())
}

/// It wants to write down that events failed, which another has delivered long since.
#[tokio::test]
async fn f26_what_a_frozen_relay_would_park_is_not_parked() {
    frozen_while_the_answer_is_on_its_way(500).await;
}

/// It wants to move cursors, which another has moved on.
#[tokio::test]
async fn f26_what_a_frozen_relay_would_settle_is_not_settled() {
    frozen_while_the_answer_is_on_its_way(200).await;
}

async fn frozen_while_the_answer_is_on_its_way(status: u16) {
    let shop = Shop::new().await;
    let endpoint = Endpoint::start().await;
    let (answered, late) = (Gate::default(), Counter::default());
    let (held, sent_late, thawed) = (
        answered.clone(),
        late.clone(),
        Arc::new(AtomicBool::new(false)),
    );
    let is_thawed = Arc::clone(&thawed);
    endpoint.judge(move |message| {
        let of_owner = message.relay == "owner";
        if of_owner && is_thawed.load(Ordering::Relaxed) && message.entry.number < 6 {
            sent_late.add();
        }
        if of_owner && message.entry.number == 2 {
            return Verdict::Hold(held.clone(), status);
        }
        Verdict::Take
    });
    let mut owner = relay(&shop, &endpoint, "owner").spawn();
    shop.is_shared_by(1).await;
    let mut connection = shop.connect().await;
    let mut all = commit(&mut connection, keys()).await;
    endpoint.has("the first events", &all).await;
    all.extend(commit(&mut connection, keys()).await);
    answered.reached(all.len() / 2).await;
    owner.freeze();
    owner.frozen().await;

    let mut other = relay(&shop, &endpoint, "other").spawn();
    for _ in 3..=5 {
        all.extend(commit(&mut connection, keys()).await);
    }
    endpoint
        .has("the other one to deliver everything", &all)
        .await;
    shop.is_level().await;
    answered.open();
    thawed.store(true, Ordering::Relaxed);
    owner.thaw();
    owner.logged("shards were lost; starting over").await;
    shop.is_shared_by(2).await;
    // Its last words about what it had in its hands were said before that.
    let parked = "select count(*) from onlyonce_outbox_parked";
    assert_eq!(value::<i64>(&mut connection, parked).await, 0);
    shop.is_level().await;
    all.extend(commit(&mut connection, keys()).await);
    endpoint.has("the next events", &all).await;
    shop.is_level().await;
    assert_eq!(late.get(), 0, "it sent what another had sent");
    endpoint.book().assert_complete(&all);
    for relay in [&mut owner, &mut other] {
        assert!(relay.terminate().await.success());
    }
}
