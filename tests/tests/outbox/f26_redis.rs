//! F26 on a broker: the way to Redis loses acknowledgements, Redis is silent now and then, and relays are killed
//! while transactions commit late.

use std::collections::HashMap;
use std::time::Duration;

use onlyonce_test::detour::Detour;
use onlyonce_test::dice::{Dice, duration};
use onlyonce_test::event::within;
use onlyonce_test::redis::Server;
use redis::{AsyncConnectionConfig, Client, cmd};
use tokio::time::Instant;

use crate::book::{Book, Entry};
use crate::shop::Shop;
use crate::writers::{Habits, TOPIC, Writers};

const HABITS: Habits = Habits {
    pause: 10,
    favourite: None,
    late: 2,
};

#[tokio::test(flavor = "multi_thread")]
async fn f26_acknowledgements_of_a_broker_are_lost_under_load() {
    let mut dice = Dice::seeded();
    let shop = Shop::new().await;
    let redis = Server::start().expect("a Redis of our own");
    let detour = Detour::to(redis.addr()).await;
    let launch = shop
        .relay(&format!("redis://{}", detour.addr()))
        .arg("--lease")
        .arg("2s")
        .env("ONLYONCE__RELAY__PUBLISH_TIMEOUT", "1s")
        .env("ONLYONCE__RELAY__PAGE", "100");
    let mut relays = [launch.spawn(), launch.spawn()];
    let writers = Writers::start(&shop, &mut dice, 6, HABITS).await;
    let (end, mut kills, mut asked) = (Instant::now() + duration(5), 0, 0);
    while Instant::now() < end {
        dice.pause(200).await;
        match dice.below(10) {
            0 => {
                redis.freeze();
                dice.pause(1_200).await;
                redis.thaw();
            }
            1 | 2 => {
                let victim = usize::from(dice.percent(50));
                relays[victim].kill().await;
                relays[victim] = launch.spawn();
                kills += 1;
            }
            // One after the other: while several are due, a relay that connects anew does not get through.
            _ if detour.lost() == asked => {
                detour.lose();
                asked += 1;
            }
            _ => {}
        }
    }
    let committed = writers.stop().await;
    within("everything", async {
        while entries(&redis).await.known.len() < committed.len() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    shop.is_level().await;
    let book = entries(&redis).await;
    println!(
        "{} events, {} came again, {kills} kills, {} lost answers",
        committed.len(),
        book.repetitions(),
        detour.lost()
    );
    book.assert_complete(&committed);
    assert!(
        committed.len() > 100 && detour.lost() > 0,
        "too little happened"
    );
    // A lost answer is one of a batch, and a batch is no more than what is under way.
    assert!(book.most_often() <= kills + detour.lost() + 1);
    for relay in &mut relays {
        assert!(relay.terminate().await.success());
    }
    assert_eq!(entries(&redis).await.taken.len(), book.taken.len());
}

/// What is in the stream, in its order.
async fn entries(redis: &Server) -> Book {
    let client = Client::open(redis.url()).expect("a URL");
    // However long it takes on a machine that has much else to do.
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&patient);
    let mut connection = connection.await.expect("Redis is there");
    let mut range = cmd("XRANGE");
    range.arg(TOPIC).arg("-").arg("+");
    let found = range.query_async(&mut connection).await;
    let found: Vec<(String, HashMap<String, String>)> = found.expect("a stream");
    let mut book = Book::default();
    for (_, mut fields) in found {
        let mut field = |name| fields.remove(name).unwrap_or_default();
        book.enter(Entry {
            key: field("key"),
            number: field("payload").parse().expect("a number"),
            id: field("event_id"),
        });
    }
    book
}
