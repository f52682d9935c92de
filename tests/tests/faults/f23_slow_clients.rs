//! F23: clients that send slowly or do not read. They hold no claim, no connection to the database, and
//! nobody up.

use onlyonce_test::client::{Raw, post_bytes};
use onlyonce_test::event::within;
use onlyonce_test::upstream::Reply;
use sqlx::{Row, raw_sql};

use crate::setup::{BODY, PATH, Setup, answer, assert_replays};

/// Connections of ours to the database that are doing anything at all, or hold something open.
async fn busy(setup: &Setup) -> i64 {
    let database = setup.store.database();
    let ask = "select count(*) from pg_stat_activity where application_name = 'onlyonce' \
        and datname = current_database() and state <> 'idle'";
    let row = raw_sql(ask).fetch_one(&mut database.connect().await).await;
    row.expect("an answer").get(0)
}

#[tokio::test]
async fn f23_nothing_is_claimed_before_the_body_is_complete() {
    let setup = Setup::postgres().await;
    let proxy = setup
        .launch()
        .env("ONLYONCE__STORE__CONNECTIONS", "1")
        .start()
        .await;
    let request = post_bytes(PATH, "slow", BODY);
    let mut clients = Vec::new();
    for sent in [10, 60, request.len() - BODY.len(), request.len() - 1] {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(&request[..sent]).await;
        clients.push((client, sent));
    }
    // Those have been waiting for longer than this one takes from its start to its end.
    assert_eq!(answer(&proxy, "quick").await.status, 200);
    assert_eq!((setup.list().await.len(), busy(&setup).await), (1, 0));

    let mut statuses = Vec::new();
    for (client, sent) in &mut clients {
        client.send(&request[*sent..]).await;
        let answer = client.response().await.expect("an answer");
        statuses.push((answer.status, answer.is_replay()));
    }
    assert_eq!(
        statuses,
        [(200, false), (200, true), (200, true), (200, true)]
    );
    assert_eq!(setup.legacy.effects(), 2);
}

#[tokio::test]
async fn f23_a_client_that_does_not_read_holds_nobody_up() {
    let setup = Setup::postgres().await;
    let proxy = setup
        .launch()
        .env("ONLYONCE__STORE__CONNECTIONS", "1")
        .start()
        .await;
    let body: Vec<u8> = (0..=255).cycle().take(6 << 20).collect();
    setup.legacy.script(Reply::new(201).body(body.clone()));

    let mut first = Raw::connect(proxy.addr()).await;
    first.send(post_bytes(PATH, "large", BODY)).await;
    within("the record, though its client reads nothing", async {
        while !setup
            .list()
            .await
            .iter()
            .any(|(_, state)| state == "completed")
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    let mut replays = Vec::new();
    for _ in 0..3 {
        let mut replay = Raw::connect(proxy.addr()).await;
        replay.send(post_bytes(PATH, "large", BODY)).await;
        assert!(replay.head().await.expect("a head").is_replay());
        replays.push(replay);
    }
    // Four clients with 6 MiB each under way, and one connection to the database for all.
    assert_eq!(busy(&setup).await, 0);
    assert_eq!(answer(&proxy, "other").await.status, 200);

    let first = first.response().await.expect("an answer");
    assert!(first.is_whole() && first.body == body, "the bytes differ");
    for mut replay in replays {
        let bytes = replay.bytes(body.len()).await.expect("all of it");
        assert!(bytes == body, "the bytes differ");
    }
    assert_replays(&answer(&proxy, "large").await, &first);
    assert_eq!(setup.legacy.effects(), 2);
}
